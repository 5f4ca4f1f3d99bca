"""Who is in the region, from the founding record on: each record is held to those before it, and to who may sign it.

Guarantees: `fold` gives the one region that a chain of records leads to, or raises. A record counts only at its place
(number, previous, region, a time that does not go back), only with the authority that its act needs, and only if the
region that it leads to holds together (`protocol/enact.py`). A record from the future is refused: it would keep
everything that follows it from being earlier. Pure: the time is an argument.

Authority is judged by what was in force before the record, at the record's own time:

  * enough different trustees, the threshold: everything;
  * one trustee: what only takes trust away, suspending a member and ending or revoking its keys;
  * a member's own valid key: adding keys of its own, ending or revoking them, another key for its connection, while
    it is active.

A trustee counts once. A signature by a key that is not a trustee's, or not valid at that time, counts nothing; one that
does not verify refuses the record. All trustees sign the founding; who becomes a trustee later signs that record too.

A closed record is signed by the broker, whose word changes nothing: the record in its opening is held to all of this by
those who see it. Without the opening it is passed over, unless its tag says that whoever looks is owed the opening
(RECORD_KEPT_BACK): a broker that shows some and keeps it from others is found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import msgspec

from protocol import limits
from protocol.enact import Sight, State, check_consistent, enact, must_be_closed, subject_of
from protocol.errors import ProtocolError
from protocol.governance import (
    Closed,
    Found,
    Keys,
    Record,
    SetTrustees,
    Signed,
    Suspend,
    Trustee,
    open_record,
    tag_of,
)
from protocol.keys import KeyRecord, VerifyKey
from protocol.reasons import Reason
from protocol.registry import Member, Region
from protocol.sealing import SealingKeyRecord
from protocol.statements import BROKER

AnyKey = KeyRecord | SealingKeyRecord
_change: Final = msgspec.structs.replace


def fold(records: Iterable[bytes], genesis: str, now: datetime, sight: Sight | None = None) -> State:
    """The region that a chain leads to.

    Args:
        records: from the founding record on.
        genesis: the digest of the founding record that is trusted.
        now: the time; records may be `CLOCK_SKEW` ahead of it.
        sight: whose records these are; None if the openings of all closed ones are there.

    Raises:
        ProtocolError: the first record that does not hold, at `$[number]`.
    """
    state: State | None = None
    for number, data in enumerate(records):
        try:
            signed = open_record(data)
            state = found(signed, now, genesis, sight) if state is None else apply(state, signed, now)
        except ProtocolError as exc:
            raise ProtocolError(exc.reason, f"$[{number}]{exc.path[1:]}", exc.detail) from exc
    if state is None:
        raise ProtocolError(Reason.EMPTY, "$", "a region begins with its founding record")
    return state


def found(signed: Signed, now: datetime, genesis: str | None = None, sight: Sight | None = None) -> State:
    """The region that a founding record begins.

    Args:
        now: the time.
        genesis: the digest that it must have; None only where it is made.
        sight: whose eyes see what follows; None if nothing is kept from them.

    Raises:
        ProtocolError: it does not hold.
    """
    record = signed.record
    if genesis is not None and signed.digest != genesis:
        raise ProtocolError(Reason.REGION_NOT_GOVERNED, "$", "another founding record than the one that is trusted")
    if not isinstance(record.act, Found) or record.number != 0 or record.previous:
        raise ProtocolError(Reason.RECORD_OUT_OF_ORDER, "$.number", "a chain begins with a founding record, number 0")
    _check_time(record, now)
    act = record.act
    region = Region(region=record.region, serial=1, broker_keys=act.broker_keys, quorum=act.quorum)
    state = State(region, tuple(act.trustees), act.threshold, signed.head, record.at, sight=sight)
    check_consistent(state)
    _check_consent(act.trustees, _signatures(signed, act.trustees, None))
    return state


def apply(state: State, signed: Signed, now: datetime) -> State:
    """The region after one more record.

    Raises:
        ProtocolError: the record does not follow, is not signed by who may decide it, or does not hold together.
    """
    record = signed.record
    _check_place(state, record)
    _check_time(record, now)
    if isinstance(record.act, Closed):
        return _apply_closed(state, signed, record.act)
    if must_be_closed(state, record.act):
        raise ProtocolError(Reason.INVALID_VALUE, "$.act", "it names what only some see, so that the broker closes it")
    return _decided(state, signed, signed)


def weigh(state: State, signed: Signed, now: datetime) -> State:
    """The region after a record that nobody has closed yet, though perhaps it must be: as `apply`, for its authors.

    Raises:
        ProtocolError: as `apply`.
    """
    _check_place(state, signed.record)
    _check_time(signed.record, now)
    subject = subject_of(state, signed.record.act)
    return _decided(state if subject is None else _with_key(state, subject, ""), signed, signed)


def _with_key(state: State, subject: str, key: str) -> State:
    return replace(state, secrets={**state.secrets, subject: key})


def _decided(state: State, signed: Signed, carried: Signed) -> State:
    """The state after a record that is at its place.

    Args:
        signed: what the trustees have decided.
        carried: what stands in the chain: the same, or the closed record around it.
    """
    record = signed.record
    after = replace(enact(state, record), head=carried.head, at=carried.record.at)
    after = replace(after, region=_change(after.region, serial=record.number + 1))
    # Last, so that a proposal which no signatures could make a record is known before anybody signs it.
    _check_authority(state, signed)
    if isinstance(record.act, SetTrustees):
        # A trustee is its key: who comes with another one shows that it has it.
        known = {(one.id, one.key.kid) for one in state.trustees}
        fresh = [one for one in record.act.trustees if (one.id, one.key.kid) not in known]
        _check_consent(fresh, _signatures(signed, fresh, None))
    return after


def _apply_closed(state: State, signed: Signed, act: Closed) -> State:
    _check_carrier(state, signed)
    inner, opening, number = signed.inner, signed.opening, signed.record.number
    if inner is None or opening is None:
        if state.sight is None or any(tag_of(key, number) == act.tag for key in state.secrets.values()):
            raise ProtocolError(Reason.RECORD_KEPT_BACK, "$.opening", "it is about what this member sees: ask again")
        region = _change(state.region, serial=number + 1)
        return replace(state, region=region, head=signed.head, at=signed.record.at)
    _check_place(state, inner.record)
    if inner.record.at > signed.record.at:
        raise ProtocolError(Reason.RECORD_OUT_OF_ORDER, "$.at", "closed before it was made")
    subject = subject_of(state, inner.record.act)
    if subject is None:
        raise ProtocolError(Reason.INVALID_VALUE, "$.act", "nothing is closed that everybody must see")
    if tag_of(opening.key, number) != act.tag or state.secrets.get(subject, opening.key) != opening.key:
        raise ProtocolError(Reason.INVALID_VALUE, "$.act.tag", "others who see this could not tell that it is theirs")
    return _decided(_with_key(state, subject, opening.key), inner, signed)


def _check_carrier(state: State, signed: Signed) -> None:
    """ProtocolError unless the broker signed it: whoever wrote a closed record can be named."""
    keys = {one.kid: VerifyKey.from_record(BROKER, one) for one in state.region.broker_keys}
    for parts in signed.signatures:
        key = keys.get(parts.kid)
        if key is not None and key.record.alg == parts.alg:
            key.verify(parts.signature, parts.signed)
            key.check_window(signed.record.at)
            return
    raise ProtocolError(Reason.TOO_FEW_SIGNATURES, "$.signatures", "a closed record is signed by the broker")


# --- place and authority ----------------------------------------------------------------------------------------


def _check_place(state: State, record: Record) -> None:
    what = None
    if record.region != state.region.region:
        what = "region", "a record of another region"
    elif record.number != state.head.number + 1:
        what = "number", f"the next record is number {state.head.number + 1}"
    elif record.previous != state.head.digest:
        what = "previous", "it follows another record than the newest one"
    elif record.at < state.at:
        what = "at", "dated before the record that it follows"
    if what is not None:
        raise ProtocolError(Reason.RECORD_OUT_OF_ORDER, f"$.{what[0]}", what[1])


def _check_time(record: Record, now: datetime) -> None:
    if record.at > now + limits.CLOCK_SKEW:
        raise ProtocolError(Reason.TIME_IN_FUTURE, "$.at", "dated in the future: check the clocks")


@dataclass(slots=True)
class _Signatures:
    trustees: set[str] = field(default_factory=set)
    """Ids of the trustees that signed."""
    by_member: bool = False
    """Whether the member that it is about signed."""
    why: Reason = Reason.TOO_FEW_SIGNATURES
    """What is wrong with those that count nothing."""


def _signatures(signed: Signed, trustees: Iterable[Trustee], member: Member | None) -> _Signatures:
    """Who signed. ProtocolError if a signature by a known key is false."""
    keys = {one.key.kid: VerifyKey.from_record(one.id, one.key) for one in trustees}
    own = {record.kid: VerifyKey.from_record(member.id, record) for record in member.keys} if member else {}
    found = _Signatures()
    for parts in signed.signatures:
        key = keys.get(parts.kid) or own.get(parts.kid)
        if key is None:
            found.why = Reason.NOT_A_TRUSTEE
            continue
        if key.record.alg != parts.alg:
            raise ProtocolError(Reason.ALGORITHM_NOT_ALLOWED, "$.signatures", "the key is of another algorithm")
        key.verify(parts.signature, parts.signed)
        try:
            key.check_window(signed.record.at)
        except ProtocolError as exc:
            found.why = exc.reason
            continue
        if parts.kid in keys:
            found.trustees.add(key.owner)
        else:
            found.by_member = True
    return found


def _check_authority(state: State, signed: Signed) -> None:
    act = signed.record.act
    member = state.member(act.member) if isinstance(act, Keys) else None
    found = _signatures(signed, state.trustees, member)
    if not _is_enough(state, signed.record, member, found):
        detail = f"{len(found.trustees)} of the {state.threshold} trustees that this needs have signed"
        raise ProtocolError(found.why, "$.signatures", detail)


def _is_enough(state: State, record: Record, member: Member | None, found: _Signatures) -> bool:
    if len(found.trustees) >= state.threshold:
        return True
    if isinstance(record.act, Suspend):
        return bool(found.trustees)
    if member is None or not isinstance(record.act, Keys):
        return False
    pairs: tuple[tuple[Sequence[AnyKey], Sequence[AnyKey]], ...] = (
        (member.keys, record.act.keys),
        (member.sealing_keys, record.act.sealing_keys),
    )
    if not all(_only_less(old, new) for old, new in pairs):
        return False
    grown = record.act.transport is not None or any(len(new) > len(old) for old, new in pairs)
    if found.trustees and not grown:
        return True
    if found.by_member and member.status != "active":
        found.why = Reason.MEMBER_SUSPENDED
        return False
    return found.by_member


def _only_less(old: Sequence[AnyKey], new: Sequence[AnyKey]) -> bool:
    """Whether every key that was there is still there, and is trusted for no longer than it was."""
    there = {record.kid: record for record in new}
    return len(there) == len(new) and all(
        record.kid in there and _no_longer(record, there[record.kid]) for record in old
    )


def _no_longer(old: AnyKey, new: AnyKey) -> bool:
    ends = min(old.not_after, new.not_after)
    revoked = [at for at in (old.revoked_at, new.revoked_at) if at is not None]
    least = _change(old, not_after=ends, revoked_at=min(revoked, default=None))
    return new == least


def _check_consent(trustees: Iterable[Trustee], found: _Signatures) -> None:
    missing = [one.id for one in trustees if one.id not in found.trustees]
    if missing:
        detail = f"who becomes a trustee signs too: {', '.join(missing)}"
        raise ProtocolError(Reason.TOO_FEW_SIGNATURES, "$.signatures", detail)
