"""Whom a node believes: the broker by its pinned key, the members by the region document that the broker signed.

Guarantees: a region document is taken only if a key signed it that was pinned or that an earlier document named, and
only if it is newer than the one held; statements count only if their own issuer signed them, for this member, with a
key that was valid. Refuses the rest with a reason. Pure: files and requests are others' work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from protocol import limits
from protocol.errors import ConfigError, ProtocolError
from protocol.jws import split_jws
from protocol.keys import KeyLookup, KeyRecord, KeyRing, VerifyKey, unb64
from protocol.parse import decode
from protocol.policy import Policy, PolicyBook
from protocol.reasons import Reason
from protocol.registry import Registry, open_region
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
        now: for judging keys.

    Raises:
        ConfigError: the invitation's own document does not hold.
    """

    def __init__(self, pinned: Sequence[KeyRecord], document: str, now: Callable[[], datetime]) -> None:
        self._pinned = KeyRing(VerifyKey.from_record(BROKER, record) for record in pinned)
        self._pinned_records = {record.kid: record for record in pinned}
        self._now = now
        try:
            self.registry, self.issued_at = self._open(document, self._pinned)
        except ProtocolError as exc:
            raise ConfigError(
                f"the invitation's region document does not hold ({exc.reason.value}): ask the broker's operator for a "
                "new invitation"
            ) from exc
        self.broker_keys = self._ring(self.registry)

    def _open(self, document: str, ring: KeyRing) -> tuple[Registry, datetime]:
        if not document.isascii():
            raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII")
        return open_region(document, ring, self._now())

    def _ring(self, registry: Registry) -> KeyRing:
        # The document's word on a key counts over the pinned record: it may say that the key was revoked since.
        records = {**self._pinned_records, **{record.kid: record for record in registry.region.broker_keys}}
        return KeyRing(VerifyKey.from_record(BROKER, record) for record in records.values())

    def update(self, document: bytes) -> bool:
        """Take a region document if it is newer than the one held; tells whether anything in it is new.

        Raises:
            ProtocolError: it is not the broker's.
        """
        try:
            text = document.decode("ascii")
        except UnicodeDecodeError as exc:
            raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII") from exc
        registry, issued_at = self._open(text, self.broker_keys)
        if issued_at <= self.issued_at:
            return False
        self.issued_at = issued_at
        if registry.region == self.registry.region:
            return False
        self.broker_keys = self._ring(registry)
        self.registry = registry
        return True


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
