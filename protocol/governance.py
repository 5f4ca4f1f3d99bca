"""What the region's trustees sign: one record for each change of who is in the region, each naming the one before it.

A record is a JWS in the general JSON serialisation (RFC 7515 section 7.2.1): one payload, a signature for each signer.
It is named by the SHA-256 of its payload, so that one more signature does not make another record of it.

What not every member may see is *closed*: the broker puts the record that the trustees signed into an opening, and into
the chain a record that names nothing but two digests. Whoever may see it gets the opening beside it; for everybody else
the chain is as whole as before.

Guarantees: `open_record` returns what the bytes say, every signature taken apart and none of them believed; whether a
record counts is decided in `protocol/chain.py`. Refuses unknown fields and acts, headers of another type or algorithm,
unprotected headers, an opening that is not the one that its record commits to, and what is over its limits.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
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
from protocol.report import Digest, Instant, Line
from protocol.rules import AgreementId
from protocol.sealing import SealingKeyRecord

TYP: Final = "kentongan-governance+jws"
_ENTRY: Final = b"kentongan-governance/v1\n"
_BODY: Final = b"kentongan-governance-opening/v1\n"
_TAG: Final = b"kentongan-governance-tag/v1\n"
Quorum = Annotated[int, Meta(ge=1)] | None
Threshold = Annotated[int, Meta(ge=1, le=limits.TRUSTEES)]
BrokerKeyList = Annotated[list[KeyRecord], Meta(min_length=1, max_length=limits.KEYS_PER_MEMBER)]
Resembles = Annotated[list[MemberId], Meta(max_length=64)]
SeenBy = Annotated[list[MemberId], Meta(max_length=limits.SEEN_BY)] | None


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
    seen_by: SeenBy = None
    """Of a hidden member, the members that see it; None, with one that is not hidden: everybody."""


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


class Show(_Doc, frozen=True, kw_only=True, tag_field="act", tag="show"):
    """Who sees a hidden member as it shall be: never fewer than before. Without a list everybody does, for good."""

    member: MemberId
    seen_by: SeenBy = None


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


class Closed(_Doc, frozen=True, kw_only=True, tag_field="act", tag="closed"):
    """Another record, which only some see. The broker signs this one; who decided signed that one."""

    tag: Digest
    """By this, who sees what the record is about knows that it is owed the opening; nobody else can tell."""
    body: Digest
    """Of the opening."""


Act = (
    Found
    | Admit
    | Suspend
    | Resume
    | Expel
    | Keys
    | Roles
    | Coordinate
    | Show
    | Describe
    | FormGroup
    | Dissolve
    | Agree
    | Terminate
    | SetTrustees
    | SetBrokerKeys
    | SetQuorum
    | Closed
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


class _General(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    payload: str
    signatures: Annotated[list[_Signature], Meta(max_length=limits.TRUSTEE_SIGNATURES)]
    opening: str = ""
    """Only beside a closed record, and only for those who see it: base64url of an `Opening`."""


class Opening(Struct, frozen=True, forbid_unknown_fields=True):
    """What a closed record closes."""

    salt: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$(?!\n)")]
    key: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$(?!\n)")]
    """Shared by all who see what the record is about, for the tags of the closed records about it."""
    record: str
    """As the trustees signed it."""


_general: Final = msgspec.json.Decoder(_General)
_record: Final = msgspec.json.Decoder(Record)
_opening: Final = msgspec.json.Decoder(Opening)
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Signed:
    """A record as it came. Nothing of it is verified."""

    record: Record
    payload: bytes
    signatures: tuple[JwsParts, ...]
    opening: Opening | None = None
    """Of a closed record that is shown."""
    inner: Signed | None = None
    """The record in the opening."""

    @property
    def deed(self) -> Act:
        """What it does, as far as it is shown."""
        return self.inner.record.act if self.inner is not None else self.record.act

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


def _write(payload: bytes, signatures: Iterable[_Signature], opening: str = "") -> bytes:
    return msgspec.json.format(msgspec.json.encode(_General(b64(payload), list(signatures), opening))) + b"\n"


def _read(data: bytes) -> tuple[_General, bytes]:
    if len(data) > limits.CLOSED_RECORD:
        raise ProtocolError(Reason.TOO_LARGE, "$", "a governance record is smaller than this")
    general = decode(_general, data)
    try:
        return general, unb64(general.payload)
    except ValueError as exc:
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$.payload", "not base64url") from exc


def open_record(data: bytes) -> Signed:
    """Read a record, and the one that it closes if that is shown.

    Raises:
        ProtocolError: it is none; CONTENT_CHANGED, the opening is another than the one that it names.
    """
    general, payload = _read(data)
    compact = (f"{one.protected}.{general.payload}.{one.signature}" for one in general.signatures)
    parts = tuple(split_jws(jws, TYP) for jws in compact)
    record = decode(_record, payload)
    if not general.opening:
        if len(data) > limits.GOVERNANCE_RECORD:
            raise ProtocolError(Reason.TOO_LARGE, "$", "a governance record is smaller than this")
        return Signed(record, payload, parts)
    if not isinstance(record.act, Closed):
        raise ProtocolError(Reason.INVALID_VALUE, "$.opening", "only a closed record has an opening")
    opening, inner = _open(general.opening, record.act.body)
    return Signed(record, payload, parts, opening, inner)


def _open(text: str, body: str) -> tuple[Opening, Signed]:
    try:
        raw = unb64(text)
    except ValueError as exc:
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$.opening", "not base64url") from exc
    if body_of(raw) != body:
        raise ProtocolError(Reason.CONTENT_CHANGED, "$.opening", "not the opening that the record names")
    opening = decode(_opening, raw)
    inner = open_record(opening.record.encode("ascii", "replace"))
    if isinstance(inner.record.act, Closed):
        raise ProtocolError(Reason.INVALID_VALUE, "$.opening", "a closed record closes one that is not")
    return opening, inner


def body_of(opening: bytes) -> str:
    """By what a closed record names its opening."""
    return b64(hashlib.sha256(_BODY + opening).digest())


def tag_of(key: str, number: int) -> str:
    """The tag of a closed record at this place, for those who have the key of what it is about.

    Raises:
        ValueError: the key is none.
    """
    return b64(hmac.digest(unb64(key), _TAG + b"%d" % number, "sha256"))


def close_record(data: bytes, key: str, salt: str, at: datetime, carrier: Signer) -> bytes:
    """The closed record that takes this one's place in the chain, with its opening.

    Args:
        data: a record that has its signatures.
        key: of what it is about.
        salt: base64url of 32 random bytes, never used before.
        at: when; not before the record's own time.
        carrier: the broker's key.

    Raises:
        ProtocolError: it is no record.
    """
    record = open_record(data).record
    opening = msgspec.json.encode(Opening(salt, key, data.decode("ascii")))
    act = Closed(tag=tag_of(key, record.number), body=body_of(opening))
    payload = _encode(msgspec.structs.replace(record, at=at, act=act))
    protected, _, signature = sign_jws(TYP, payload, carrier).split(".")
    return _write(payload, [_Signature(protected, signature)], b64(opening))


def without_opening(data: bytes) -> bytes:
    """The record as those get it who may not see what it closes.

    Raises:
        ProtocolError: it is no record.
    """
    general, payload = _read(data)
    return _write(payload, general.signatures) if general.opening else data


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
    return _write(payload, [*general.signatures, _Signature(protected, signature)], general.opening)


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
