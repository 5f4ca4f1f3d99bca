"""Who is in the region, from the founding record on: each record is held to those before it, and to who may sign it.

Guarantees: `fold` gives the one region that a chain of records leads to, or raises. A record counts only at its place
(number, previous, region, a time that does not go back), only with the authority that its act needs, and only if the
region that it leads to holds together (`Registry`). A record from the future is refused: it would keep everything that
follows it from being earlier. Pure: the time is an argument.

Authority is judged by what was in force before the record, at the record's own time:

  * enough different trustees, the threshold: everything;
  * one trustee: what only takes trust away, suspending a member and ending or revoking its keys;
  * a member's own valid key: adding keys of its own, ending or revoking them, another key for its connection, while
    it is active.

A trustee counts once. A signature by a key that is not a trustee's, or not valid at that time, counts nothing; one that
does not verify refuses the record. All trustees sign the founding; who becomes a trustee later signs that record too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import msgspec

from protocol import limits
from protocol.errors import ConfigError, ProtocolError
from protocol.governance import (
    Admit,
    Agree,
    Coordinate,
    Describe,
    Dissolve,
    Expel,
    FormGroup,
    Found,
    Keys,
    Record,
    Resume,
    Roles,
    SetBrokerKeys,
    SetQuorum,
    SetTrustees,
    Signed,
    Suspend,
    Terminate,
    Trustee,
    open_record,
)
from protocol.keys import KeyRecord, VerifyKey
from protocol.lookalike import skeleton
from protocol.reasons import Reason
from protocol.registry import Agreement, Group, Head, Member, Region, Registry
from protocol.sealing import SealingKeyRecord

AnyKey = KeyRecord | SealingKeyRecord
_change: Final = msgspec.structs.replace


@dataclass(frozen=True, slots=True)
class State:
    """What a chain has led to."""

    region: Region
    trustees: tuple[Trustee, ...]
    threshold: int
    head: Head
    at: datetime
    """Of the newest record."""
    retired: Mapping[str, Mapping[str, datetime]] = field(default_factory=dict)
    """By member, the keys that opened its connection before the present one, and when each ceases to."""
    former: Mapping[str, str] = field(default_factory=dict)
    """Names of those that were expelled, by id: nobody may pass for them either."""

    def member(self, member_id: str) -> Member:
        """The member, or ProtocolError(UNKNOWN_MEMBER)."""
        for member in self.region.members:
            if member.id == member_id:
                return member
        raise ProtocolError(Reason.UNKNOWN_MEMBER, "$.act.member", f"{member_id} is no member of this region")


def fold(records: Iterable[bytes], genesis: str, now: datetime) -> State:
    """The region that a chain leads to.

    Args:
        records: from the founding record on.
        genesis: the digest of the founding record that is trusted.
        now: the time; records may be `CLOCK_SKEW` ahead of it.

    Raises:
        ProtocolError: the first record that does not hold, at `$[number]`.
    """
    state: State | None = None
    for number, data in enumerate(records):
        try:
            signed = open_record(data)
            state = found(signed, now, genesis) if state is None else apply(state, signed, now)
        except ProtocolError as exc:
            raise ProtocolError(exc.reason, f"$[{number}]{exc.path[1:]}", exc.detail) from exc
    if state is None:
        raise ProtocolError(Reason.EMPTY, "$", "a region begins with its founding record")
    return state


def found(signed: Signed, now: datetime, genesis: str | None = None) -> State:
    """The region that a founding record begins.

    Args:
        now: the time.
        genesis: the digest that it must have; None only where it is made.

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
    state = State(region, tuple(act.trustees), act.threshold, signed.head, record.at)
    _check_consistent(state)
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
    after = replace(_enact(state, record), head=signed.head, at=record.at)
    after = replace(after, region=_change(after.region, serial=record.number + 1))
    _check_consistent(after)
    # Last, so that a proposal which no signatures could make a record is known before anybody signs it.
    _check_authority(state, signed)
    if isinstance(record.act, SetTrustees):
        # A trustee is its key: who comes with another one shows that it has it.
        known = {(one.id, one.key.kid) for one in state.trustees}
        fresh = [one for one in record.act.trustees if (one.id, one.key.kid) not in known]
        _check_consent(fresh, _signatures(signed, fresh, None))
    return after


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


# --- acts -------------------------------------------------------------------------------------------------------


def _wrong(path: str, detail: str) -> ProtocolError:
    return ProtocolError(Reason.INVALID_VALUE, f"$.act{path}", detail)


def _enact(state: State, record: Record) -> State:
    """The state after an act that is authorised."""
    act = record.act
    match act:
        case Found():
            raise ProtocolError(Reason.RECORD_OUT_OF_ORDER, "$.act", "a region is founded once")
        case Admit():
            return _admit(state, act)
        case SetTrustees():
            return replace(state, trustees=tuple(act.trustees), threshold=act.threshold)
        case SetBrokerKeys():
            return replace(state, region=_change(state.region, broker_keys=act.broker_keys))
        case SetQuorum():
            return replace(state, region=_change(state.region, quorum=act.quorum))
        case FormGroup() | Dissolve():
            return replace(state, region=_change(state.region, groups=_groups(state.region.groups, act)))
        case Agree() | Terminate():
            agreements = _agreements(state.region.agreements, act, record.at)
            return replace(state, region=_change(state.region, agreements=agreements))
        case Coordinate():
            return replace(state, region=_change(state.region, members=_hand_over(state, act)))
        case Expel():
            gone = state.member(act.member)
            members = [member for member in state.region.members if member is not gone]
            former = {**state.former, gone.id: gone.name}
            return replace(state, region=_change(state.region, members=members), former=former)
        case _:
            before = state.member(act.member)
            after = _changed(state, before, act)
            members = [after if member is before else member for member in state.region.members]
            retired = _retired(state, before, record) if isinstance(act, Keys) else state.retired
            return replace(state, region=_change(state.region, members=members), retired=retired)


def _retired(state: State, member: Member, record: Record) -> Mapping[str, Mapping[str, datetime]]:
    """Which keys of connections have had their time after a change of keys."""
    act = record.act
    if not isinstance(act, Keys) or act.transport is None or member.transport is None:
        return state.retired
    before = state.retired.get(member.id, {})
    if act.transport in before or act.transport == member.transport:
        raise _wrong(".transport", "the key of a connection is replaced by one that was never used")
    own = {**before, member.transport: act.transport_until or record.at}
    return {**state.retired, member.id: own}


def _hand_over(state: State, act: Coordinate) -> list[Member]:
    """Who coordinated and nothing else observes from then on: it keeps its place, and has nothing to read."""
    following = state.member(act.member)
    if "coordinator" in following.roles:
        raise _wrong(".member", f"{following.id} coordinates already")
    members: list[Member] = []
    for member in state.region.members:
        roles = [role for role in member.roles if role != "coordinator"]
        if member is following:
            members.append(_change(member, roles=[*roles, "coordinator"]))
        elif len(roles) < len(member.roles):
            members.append(_change(member, roles=roles or ["observer"]))
        else:
            members.append(member)
    return members


def _admit(state: State, act: Admit) -> State:
    member = act.member
    if any(one.id == member.id for one in state.region.members):
        raise ProtocolError(Reason.MEMBER_EXISTS, "$.act.member.id", f"{member.id} is a member already")
    if member.status != "active":
        raise _wrong(".member.status", "a member begins as an active one")
    _check_looks(state, member.id, (member.id, member.name), act.resembles)
    former = {name: called for name, called in state.former.items() if name != member.id}
    members = sorted([*state.region.members, member], key=lambda one: one.id)
    return replace(state, region=_change(state.region, members=members), former=former)


def _check_looks(state: State, own: str, names: Iterable[str], resembles: Iterable[str]) -> None:
    """ProtocolError if one of the names could be taken for another member's, and the record does not say so."""
    looks = {skeleton(name) for name in names}
    others = {member.id: member.name for member in state.region.members if member.id != own} | dict(state.former)
    for other, called in sorted(others.items()):
        if looks & {skeleton(other), skeleton(called)} and other not in resembles:
            detail = f"it can be taken for {other} ({called}); if that is meant, list {other} in `resembles`"
            raise ProtocolError(Reason.LOOKS_LIKE_ANOTHER, "$.act", detail)


def _changed(state: State, member: Member, act: Suspend | Resume | Keys | Roles | Describe) -> Member:
    match act:
        case Suspend():
            after = _change(member, status="suspended")
        case Resume():
            after = _change(member, status="active")
        case Keys():
            transport = act.transport or member.transport
            after = _change(member, keys=act.keys, sealing_keys=act.sealing_keys, transport=transport)
        case Roles():
            after = _change(member, roles=act.roles)
        case Describe():
            _check_looks(state, member.id, (act.name,), act.resembles)
            told = {"contacts": act.contacts, "languages": act.languages, "capabilities": act.capabilities}
            after = _change(member, name=act.name, **told)
    if after == member:
        raise _wrong("", f"{member.id} is so already")
    return after


def _groups(groups: Sequence[Group], act: FormGroup | Dissolve) -> list[Group]:
    if isinstance(act, FormGroup):
        others = [group for group in groups if group.id != act.group.id]
        return [*others, act.group]
    kept = [group for group in groups if str(group.id) != act.group]
    if len(kept) == len(groups):
        raise _wrong(".group", "there is no such sharing group")
    return kept


def _agreements(agreements: Sequence[Agreement], act: Agree | Terminate, at: datetime) -> list[Agreement]:
    if isinstance(act, Agree):
        return [*agreements, act.agreement]
    if act.until < at:
        raise _wrong(".until", "an agreement cannot end before this is said")
    if all(one.id != act.agreement for one in agreements):
        raise _wrong(".agreement", "there is no such agreement")
    return [_change(one, effective_until=act.until) if one.id == act.agreement else one for one in agreements]


def _check_consistent(state: State) -> None:
    """ProtocolError unless members, keys, groups and agreements, trustees and threshold fit each other."""
    ids = [one.id for one in state.trustees]
    try:
        registry = Registry(state.region)
        keys = [VerifyKey.from_record(one.id, one.key).record.kid for one in state.trustees]
    except ConfigError as exc:
        raise _wrong("", str(exc)) from exc
    if len(set(ids)) != len(ids):
        raise _wrong(".trustees", "a trustee is listed twice")
    if len(set(keys)) != len(keys) or any(registry.keys.has(kid) for kid in keys):
        raise _wrong(".trustees", "a trustee has a key of its own, which nobody else has")
    if sum("coordinator" in member.roles for member in state.region.members) > 1:
        raise _wrong("", "a region has one coordinator: hand that over with a record of the kind `coordinate`")
    if state.threshold > len(ids):
        raise _wrong(".threshold", f"there are {len(ids)} trustees")
