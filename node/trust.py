"""Whom a node believes: the region's trustees from the founding record that it pins, and through them everybody else.

Guarantees: a region document is taken only if a broker's key signed it that the trustees have named, only if it is
newer than the one held, and only if its members, keys, groups, agreements and quorum are those that the trustees'
records lead to, up to the record that it names; what was followed once is never exchanged for something else.
Of what is closed, it follows what is shown to it, and notices what it is owed and not shown.
Statements count only if their own issuer signed them, for this member, with a key that was valid. Refuses the rest with
a reason. Pure: files and requests are others' work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from protocol import limits
from protocol.chain import apply, found
from protocol.enact import Sight, State
from protocol.errors import ConfigError, ProtocolError
from protocol.governance import open_record
from protocol.invitation import Invitation
from protocol.jws import split_jws
from protocol.keys import KeyLookup, KeyRecord, KeyRing, VerifyKey, unb64
from protocol.parse import decode
from protocol.policy import Policy, PolicyBook
from protocol.reasons import Reason
from protocol.registry import Head, OpenedRegion, Region, Registry, head_of, jurisdiction_of, open_region, shown
from protocol.statements import (
    BROKER,
    Confirmation,
    Delivered,
    Links,
    Noted,
    Receipt,
    Stopped,
    open_statement,
)

S = TypeVar("S", Receipt, Noted, Links, Confirmation, Stopped, Delivered)


class _Typed(Struct):
    typ: str


class _Dated(Struct):
    at: datetime | None = None
    received_at: datetime | None = None


_typed: Final = msgspec.json.Decoder(_Typed)
_dated: Final = msgspec.json.Decoder(_Dated)


class Trust:
    """The region as this node knows it at the moment. Replaced as a whole: readers on other threads see old or new.

    Args:
        pinned: the broker's keys from the invitation.
        document: the region document that the invitation brought.
        genesis: the digest of the region's founding record.
        records: the governance records that the invitation brought, from that one on.
        now: for judging keys and times.
        member: whose node this is; None if the records hide nothing.

    Raises:
        ConfigError: the invitation's own document does not hold.
    """

    def __init__(
        self,
        pinned: Sequence[KeyRecord],
        document: str,
        now: Callable[[], datetime],
        *,
        genesis: str,
        records: Sequence[str],
        member: str | None = None,
    ) -> None:
        self._pinned_records = {record.kid: record for record in pinned}
        self._now = now
        self.genesis = genesis
        self.digests: tuple[str, ...] = ()
        """Of all records up to the one that the region document names."""
        self._records: tuple[str, ...] = ()
        try:
            self._sight = sight_in(document, member)
            state, held = self._follow(None, (), head_in(document), records)
            self._hold(state, self._open(document, state))
            self._keep(held)
        except ProtocolError as exc:
            raise ConfigError(
                f"the invitation's region document does not hold ({exc.reason.value}): ask the broker's operator for a "
                "new invitation"
            ) from exc

    @classmethod
    def invited(cls, invitation: Invitation, now: Callable[[], datetime]) -> Trust:
        """What an invitation gives. ConfigError if it does not hold."""
        return cls(
            invitation.broker_keys,
            invitation.region,
            now,
            genesis=invitation.genesis,
            records=invitation.governance,
            member=invitation.member,
        )

    @property
    def sight(self) -> Sight | None:
        """Whose eyes see this region."""
        return self._sight

    def _keep(self, records: Sequence[str]) -> None:
        self._records = tuple(records)
        self.digests = tuple(open_record(text.encode("ascii")).digest for text in records)

    def _hold(self, state: State, opened: OpenedRegion) -> None:
        self.state = state
        self.issued_at = opened.issued_at
        self.broker_keys = self._ring(state)
        self.registry = Registry(opened.registry.region, state.seen_by)

    def _open(self, document: str, state: State) -> OpenedRegion:
        """A region document, if the broker signed it and the trustees agree with what it says."""
        opened = open_region(document, self._ring(state), self._now())
        told, governed = _sorted(opened.registry.region), _sorted(shown(state.region))
        if told != governed:
            differs = [name for name in told.__struct_fields__ if getattr(told, name) != getattr(governed, name)]
            detail = f"not what the trustees have signed: {', '.join(differs)}"
            raise ProtocolError(Reason.REGION_NOT_GOVERNED, "$.region", detail)
        return opened

    def _ring(self, state: State) -> KeyRing:
        # The trustees' word on a key counts over the pinned record: it may say that the key was revoked since.
        records = {**self._pinned_records, **{record.kid: record for record in state.region.broker_keys}}
        return KeyRing(VerifyKey.from_record(BROKER, record) for record in records.values())

    def _follow(
        self, state: State | None, held: Sequence[str], head: Head, records: Sequence[str]
    ) -> tuple[State, list[str]]:
        """The region after the records up to a head, and all of them.

        Args:
            state: what the held ones lead to, None if there are none.
            held: the records that are held.
            records: in order; they may begin with those that are held, which are passed over, and go beyond the head.
        """
        followed = list(held)
        for text in records:
            try:
                signed = open_record(text.encode("ascii", "replace"))
                number = signed.record.number
                if number < len(followed):
                    continue
                if number > head.number:
                    break
                now = self._now()
                begun = state
                state = apply(begun, signed, now) if begun else found(signed, now, self.genesis, self._sight)
            except ProtocolError as exc:
                raise _ungoverned(f"record {len(followed)} does not hold: {exc.detail}", exc.reason) from exc
            followed.append(text)
        if state is None or state.head != head:
            raise _ungoverned(f"it names record {head.number}, which is not here")
        return state, followed

    def _shown_more(self, records: Sequence[str]) -> list[str]:
        """The held records, with the openings that are here only now. Empty if there are no such."""
        more = list(self._records)
        for text in records:
            try:
                signed = open_record(text.encode("ascii", "replace"))
            except ProtocolError:
                break
            number = signed.record.number
            if signed.inner is None or number >= len(more) or signed.digest != self.digests[number]:
                continue
            if open_record(more[number].encode("ascii")).inner is None:
                more[number] = text
        return [] if more == list(self._records) else more

    def update(self, document: bytes, records: Sequence[str] = ()) -> bool:
        """Take a region document if it is newer than the one held; tells whether anything in it is new.

        Args:
            records: the governance records after the held one, or more: those that are held already may now come with
                their openings, after this member was shown another one.

        Raises:
            ProtocolError: it is not the broker's; REGION_NOT_GOVERNED, it is not what the trustees have signed.
        """
        try:
            text = document.decode("ascii")
        except UnicodeDecodeError as exc:
            raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII") from exc
        head = head_in(text)
        back = head.number < self.state.head.number
        if back:
            issued_at = open_region(text, self.broker_keys, self._now()).issued_at
            if issued_at <= self.issued_at:
                return False
            raise _ungoverned(f"it goes back to record {head.number} from {self.state.head.number}")
        more = self._shown_more(records)
        if more:
            state, followed = self._follow(None, (), head, [*more, *records])
        else:
            state, followed = self._follow(self.state, self._records, head, records)
        opened = self._open(text, state)
        if opened.issued_at <= self.issued_at:
            return False
        changed = opened.registry.region != self.registry.region
        self._keep(followed)
        if not changed:
            self.state, self.issued_at = state, opened.issued_at
            return False
        self._hold(state, opened)
        return True


def sight_in(document: str, member: str | None) -> Sight | None:
    """Who looks, as the region document has it; nothing is verified. None if nobody is named.

    Raises:
        ProtocolError: it is no region document.
    """
    if member is None:
        return None
    if not document.isascii():
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII")
    return Sight(member, jurisdiction_of(document, member))


def head_in(document: str) -> Head:
    """The governance record that a region document names. ProtocolError if it is none."""
    if not document.isascii():
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII")
    return head_of(document)


def _ungoverned(detail: str, why: Reason | None = None) -> ProtocolError:
    """The refusal that is an alarm; the reason behind it, if a record is at fault, stands in its path."""
    return ProtocolError(Reason.REGION_NOT_GOVERNED, f"$.head.{why.value}" if why else "$.head", detail)


def _sorted(region: Region) -> Region:
    """A region without what the trustees do not sign: the order of its lists, and the broker's own serial."""
    return msgspec.structs.replace(
        region,
        serial=1,
        broker_keys=sorted(region.broker_keys, key=lambda record: record.kid),
        members=sorted(region.members, key=lambda member: member.id),
        groups=sorted(region.groups, key=lambda group: str(group.id)),
        agreements=sorted(region.agreements, key=lambda agreement: agreement.id),
    )


def type_of(jws: str) -> str | None:
    """The type that a compact JWS claims; None if it is no JWS."""
    try:
        return decode(_typed, unb64(jws.partition(".")[0])).typ
    except (ProtocolError, ValueError):
        return None


def open_for(own: str, jws: str, kind: type[S], find_key: KeyLookup, now: datetime) -> S:
    """Verify a statement to this member.

    A statement can reach a node long after it was signed, or be repeated byte for byte, when its key has run out since:
    then the key is judged by the statement's own time, if that is not ahead of ours. A revoked key is another
    fault, and stays one.

    Raises:
        ProtocolError: not of that kind, not signed by its issuer, or not for this member.
    """
    try:
        statement = open_statement(jws, kind, find_key, now)
    except ProtocolError as exc:
        if exc.reason is not Reason.KEY_NOT_VALID:
            raise
        dated = decode(_dated, split_jws(jws, kind.typ).payload)
        at = dated.at or dated.received_at
        if at is None or at.tzinfo is None or at > now:
            raise
        statement = open_statement(jws, kind, find_key, at)
    if statement.aud != own:
        raise ProtocolError(Reason.WRONG_AUDIENCE, "$.aud", "this statement is for another member")
    time = statement.received_at if isinstance(statement, Receipt) else statement.at
    if time > now + limits.CLOCK_SKEW:
        raise ProtocolError(Reason.TIME_IN_FUTURE, "$.at", "signed in the future: check the clocks")
    return statement


def book_of(policy: Policy, jurisdiction: str, name: str) -> PolicyBook:
    """The book of a node: its own jurisdiction's policy. ConfigError if the policy is another jurisdiction's."""
    if policy.jurisdiction != jurisdiction:
        raise ConfigError(f"{name}: the policy is of {policy.jurisdiction}, this node is of {jurisdiction}")
    return PolicyBook([policy])
