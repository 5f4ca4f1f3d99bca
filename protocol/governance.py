"""What the region's trustees sign: one record for each change of who is in the region, each naming the one before it.

A record is a JWS in the general JSON serialisation (RFC 7515 section 7.2.1): one payload, a signature for each signer.
It is named by the SHA-256 of its payload, so that one more signature does not make another record of it.

Guarantees: `open_record` returns what the bytes say, every signature taken apart and none of them believed; whether a
record counts is decided in `protocol/chain.py`. Refuses unknown fields and acts, headers of another type or algorithm,
unprotected headers, and what is over its limits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from protocol import limits
from protocol.errors import ProtocolError
from protocol.jws import JwsParts, sign_jws, split_jws
from protocol.keys import KeyRecord, Signer, b64, unb64
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.registry import Agreement, Capability, Group, Head, Language, Member, MemberId, Role, TransportKey
from protocol.report import Instant, Line
from protocol.rules import AgreementId
from protocol.sealing import SealingKeyRecord

TYP: Final = "kentongan-governance+jws"
_ENTRY: Final = b"kentongan-governance/v1\n"
Quorum = Annotated[int, Meta(ge=1)] | None
Threshold = Annotated[int, Meta(ge=1, le=limits.TRUSTEES)]
BrokerKeyList = Annotated[list[KeyRecord], Meta(min_length=1, max_length=limits.KEYS_PER_MEMBER)]
Resembles = Annotated[list[MemberId], Meta(max_length=64)]


class _Doc(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Trustee(_Doc, frozen=True, kw_only=True):
    """A person or an office that decides with others who is in the region. Has one key."""

    id: MemberId
    name: Line
    key: KeyRecord


TrusteeList = Annotated[list[Trustee], Meta(min_length=1, max_length=limits.TRUSTEES)]


# --- acts -------------------------------------------------------------------------------------------------------


class Found(_Doc, frozen=True, kw_only=True, tag_field="act", tag="found"):
    """The first record: the region begins. Every trustee signs it."""

    trustees: TrusteeList
    threshold: Threshold
    broker_keys: BrokerKeyList
    quorum: Quorum = None


class Admit(_Doc, frozen=True, kw_only=True, tag_field="act", tag="admit"):
    """A new member."""

    member: Member
    resembles: Resembles = []
    """Members, present or former, that its id or name may look like: the trustees know and mean it."""


class Suspend(_Doc, frozen=True, kw_only=True, tag_field="act", tag="suspend"):
    """A member is cut off until it is resumed."""

    member: MemberId


class Resume(_Doc, frozen=True, kw_only=True, tag_field="act", tag="resume"):
    """A suspended member is let back in."""

    member: MemberId


class Expel(_Doc, frozen=True, kw_only=True, tag_field="act", tag="expel"):
    """A member leaves for good."""

    member: MemberId


class Keys(_Doc, frozen=True, kw_only=True, tag_field="act", tag="keys"):
    """A member's keys as they shall be; revoked ones stay listed with their `revoked_at`."""

    member: MemberId
    keys: Annotated[list[KeyRecord], Meta(max_length=limits.KEYS_PER_MEMBER)]
    sealing_keys: Annotated[list[SealingKeyRecord], Meta(max_length=limits.SEALING_KEYS_PER_MEMBER)] = []
    transport: TransportKey | None = None
    """The key that opens its connection, if it becomes another one."""
    transport_until: Instant | None = None
    """Until when the one before it still does; without a time, not any more."""


class Roles(_Doc, frozen=True, kw_only=True, tag_field="act", tag="roles"):
    """A member's roles as they shall be."""

    member: MemberId
    roles: list[Role]


class Coordinate(_Doc, frozen=True, kw_only=True, tag_field="act", tag="coordinate"):
    """A member coordinates the region from now on; whoever did until now does no longer."""

    member: MemberId


class Describe(_Doc, frozen=True, kw_only=True, tag_field="act", tag="describe"):
    """What a member says of itself, as it shall be."""

    member: MemberId
    name: Line
    contacts: Annotated[list[Line], Meta(max_length=16)] = []
    languages: Annotated[list[Language], Meta(max_length=16)] = []
    capabilities: Annotated[list[Capability], Meta(max_length=32)] = []
    resembles: Resembles = []


class FormGroup(_Doc, frozen=True, kw_only=True, tag_field="act", tag="group"):
    """A sharing group, a new one or in place of the one with its id."""

    group: Group


class Dissolve(_Doc, frozen=True, kw_only=True, tag_field="act", tag="dissolve"):
    """A sharing group ends."""

    group: str


class Agree(_Doc, frozen=True, kw_only=True, tag_field="act", tag="agree"):
    """A new agreement between jurisdictions."""

    agreement: Agreement


class Terminate(_Doc, frozen=True, kw_only=True, tag_field="act", tag="terminate"):
    """An agreement ends at a time, which is never before the record's own."""

    agreement: AgreementId
    until: Instant


class SetTrustees(_Doc, frozen=True, kw_only=True, tag_field="act", tag="trustees"):
    """The trustees as they shall be. The present ones decide; who is new signs too."""

    trustees: TrusteeList
    threshold: Threshold


class SetBrokerKeys(_Doc, frozen=True, kw_only=True, tag_field="act", tag="broker-keys"):
    """The broker's keys as they shall be."""

    broker_keys: BrokerKeyList


class SetQuorum(_Doc, frozen=True, kw_only=True, tag_field="act", tag="quorum"):
    """How many witnesses must cosign a checkpoint; without it, more than half."""

    quorum: Quorum = None


Act = (
    Found
    | Admit
    | Suspend
    | Resume
    | Expel
    | Keys
    | Roles
    | Coordinate
    | Describe
    | FormGroup
    | Dissolve
    | Agree
    | Terminate
    | SetTrustees
    | SetBrokerKeys
    | SetQuorum
)


class Record(_Doc, frozen=True, kw_only=True):
    """The payload: one act, and its place in the chain."""

    region: Line
    number: Annotated[int, Meta(ge=0, lt=2**31)]
    previous: Annotated[str, Meta(pattern=r"^([A-Za-z0-9_-]{43})?$(?!\n)")]
    """Digest of the previous record's payload; empty for the first."""
    at: Instant
    act: Act


# --- bytes ------------------------------------------------------------------------------------------------------


class _Signature(Struct, frozen=True, forbid_unknown_fields=True):
    protected: str
    signature: str


class _General(Struct, frozen=True, forbid_unknown_fields=True):
    payload: str
    signatures: Annotated[list[_Signature], Meta(max_length=limits.TRUSTEE_SIGNATURES)]


_general: Final = msgspec.json.Decoder(_General)
_record: Final = msgspec.json.Decoder(Record)
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Signed:
    """A record as it came. Nothing of it is verified."""

    record: Record
    payload: bytes
    signatures: tuple[JwsParts, ...]

    @property
    def digest(self) -> str:
        """The record's name, whoever signed it."""
        return digest_of(self.payload)

    @property
    def head(self) -> Head:
        """Number and name."""
        return Head(number=self.record.number, digest=self.digest)


def digest_of(payload: bytes) -> str:
    """The name of a record: base64url of SHA-256 over its payload."""
    return b64(hashlib.sha256(payload).digest())


def entry_of(digest: str) -> bytes:
    """What stands in the broker's log for the record with that name.

    Raises:
        ValueError: it is no digest.
    """
    return hashlib.sha256(_ENTRY + unb64(digest)).digest()


def draft(record: Record) -> bytes:
    """A record that nobody has signed yet."""
    return _write(_encode(record), [])


def _write(payload: bytes, signatures: Iterable[_Signature]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_General(b64(payload), list(signatures)))) + b"\n"


def _read(data: bytes) -> tuple[_General, bytes]:
    if len(data) > limits.GOVERNANCE_RECORD:
        raise ProtocolError(Reason.TOO_LARGE, "$", "a governance record is smaller than this")
    general = decode(_general, data)
    try:
        return general, unb64(general.payload)
    except ValueError as exc:
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$.payload", "not base64url") from exc


def open_record(data: bytes) -> Signed:
    """Read a record.

    Raises:
        ProtocolError: it is none.
    """
    general, payload = _read(data)
    compact = (f"{one.protected}.{general.payload}.{one.signature}" for one in general.signatures)
    parts = tuple(split_jws(jws, TYP) for jws in compact)
    return Signed(decode(_record, payload), payload, parts)


def sign_record(data: bytes, signer: Signer) -> bytes:
    """Add a signature to a record. A key that has signed already adds nothing.

    Raises:
        ProtocolError: it is no record.
    """
    signed = open_record(data)
    if any(parts.kid == signer.kid for parts in signed.signatures):
        return data
    general, payload = _read(data)
    protected, _, signature = sign_jws(TYP, payload, signer).split(".")
    return _write(payload, [*general.signatures, _Signature(protected, signature)])


def merge_records(copies: Iterable[bytes]) -> bytes:
    """One record with the signatures of all copies, each once.

    Raises:
        ProtocolError: they are not copies of the same record.
    """
    found: dict[tuple[str, str], _Signature] = {}
    payloads: set[bytes] = set()
    for data in copies:
        open_record(data)
        general, payload = _read(data)
        payloads.add(payload)
        found.update({(one.protected, one.signature): one for one in general.signatures})
    if len(payloads) != 1:
        raise ProtocolError(Reason.CONTENT_CHANGED, "$.payload", "not copies of one record")
    return _write(payloads.pop(), found.values())
