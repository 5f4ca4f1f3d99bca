"""What nodes and brokers promise each other, each a signed JWS of its own type: one kind never passes for another.

    Receipt       broker -> origin       what became of each report of a submission, per recipient, with the rules
    Delivery      broker -> recipient    "these bytes are what I release to you", over the hash of the items
    Confirmation  recipient -> origin    received, refused, read, acting, closed; the broker records and forwards it
    Noted         broker -> recipient    the broker holds these confirmations
    Links         broker -> member       reports that speak of the same thing, both of which the member may read
    Delivered     broker -> origin       reports that lie in a member's inbox, not fetched yet
    Claim         broker -> member       with what its node connects to the bus
    Stopped       broker -> origin       reports that are not delivered to a member any more, and by which rule
    Audited       broker -> auditor      "to this question I gave this answer", over the hashes of both

Guarantees: `open_statement` returns a valid struct that the right key signed while it was valid, or raises
`ProtocolError`. Refuses: unknown fields, other types, other algorithms, a clock ahead of ours.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol import limits
from protocol.errors import ProtocolError
from protocol.jws import sign_jws, split_jws, verify_parts
from protocol.keys import KeyLookup, Signer, b64
from protocol.parse import decode
from protocol.policy import Gate, Withheld
from protocol.reasons import Reason
from protocol.report import Digest, Instant, Jurisdiction

BROKER: Final = "broker"
"""The owner of the broker's keys; no member can have this id."""


class _Statement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    typ: ClassVar[str] = ""
    clock: ClassVar[str] = "at"
    """The field that says when it was signed."""
    from_broker: ClassVar[bool] = True


class Refusal(_Statement, frozen=True, kw_only=True):
    """Why something was refused: the code, the field, one sentence."""

    reason: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}$(?!\n)")]
    path: str = "$"
    detail: str = ""


class ReleasedBy(_Statement, frozen=True, kw_only=True):
    """A rule that let something of a report through."""

    gate: Gate
    document: str
    rule: str


Mask = Annotated[int, Meta(ge=0, lt=2**62)]


class Decision(_Statement, frozen=True, kw_only=True):
    """The outcome for one recipient. `withheld` explains every unit that it does not get, or gets coarser."""

    granted: bool
    exact: Mask = 0
    """The units of the report that it gets, the header's bit included."""
    coarse: Mask = 0
    by: list[ReleasedBy] = []
    """The rules that released what it gets."""
    withheld: list[Withheld] = []


Outcome = Literal["accepted", "duplicate", "rejected"]


class ReportReceipt(_Statement, frozen=True, kw_only=True):
    """What became of one report. `to` gives for each member the index of its decision in the receipt's table."""

    digest: Digest
    outcome: Outcome
    report_id: str | UnsetType = UNSET
    revision: int | UnsetType = UNSET
    refusal: Refusal | UnsetType = UNSET
    duplicate_of: Digest | UnsetType = UNSET
    to: dict[str, int] = {}


class Receipt(_Statement, frozen=True, kw_only=True):
    """The broker's answer to one submission: the same bytes however often it is sent."""

    typ: ClassVar[str] = "kentongan-receipt+jwt"
    clock: ClassVar[str] = "received_at"
    iss: str
    aud: Jurisdiction
    received_at: Instant
    submission: Digest
    """Digest of the submission's JWS; of the whole message if no JWS could be found in it."""
    leaf: Annotated[int, Meta(ge=0, lt=2**62)]
    """Where the receipt's entry is, or will be, in the log."""
    seed: Annotated[str, Meta(min_length=22, max_length=22)]
    """Secret of this receipt: makes its entry unguessable, see `protocol/grants.py`."""
    refusal: Refusal | UnsetType = UNSET
    """Set when the submission as a whole was refused."""
    decisions: list[Decision] = []
    reports: list[ReportReceipt] = []


class DeliveryItem(_Statement, frozen=True, kw_only=True):
    """Some reports of one submission as released to one recipient."""

    sd_jwt: str
    received_at: Instant
    """When the broker first received it: the time at which the origin's key is judged."""
    boxes: list[str] = []
    """For sealed reports, the part of each box that this recipient needs."""


ReportGrant = tuple[Digest, Mask, Mask]
"""(digest of a report, units granted exact, units granted coarse)"""


class Opening(_Statement, frozen=True, kw_only=True):
    """Shows a recipient which grants of a submission's reports stand in the log; see `protocol/grants.py`."""

    leaf: Annotated[int, Meta(ge=0, lt=2**62)]
    receipt: Digest
    salt: Digest
    slot: Annotated[int, Meta(ge=0, lt=2**16)]
    path: Annotated[list[Digest], Meta(max_length=16)]
    reports: Annotated[list[ReportGrant], Meta(min_length=1, max_length=limits.REPORTS_PER_SUBMISSION)]


class Delivery(_Statement, frozen=True, kw_only=True):
    """The broker's statement that goes before the items of a delivery message."""

    typ: ClassVar[str] = "kentongan-delivery+jwt"
    clock: ClassVar[str] = "sent_at"
    iss: str
    aud: Jurisdiction
    id: int
    sent_at: Instant
    items: Digest
    """SHA-256 over the bytes of the items."""
    reports: int
    grants: Annotated[list[Opening], Meta(max_length=512)]
    """One an item, in their order: what of its submission was granted to this recipient."""


State = Literal["received", "refused", "read", "acting", "closed", "expired"]


class Confirmation(_Statement, frozen=True, kw_only=True):
    """A recipient's word to one origin about some of its reports."""

    typ: ClassVar[str] = "kentongan-confirmation+jwt"
    from_broker: ClassVar[bool] = False
    iss: Jurisdiction
    aud: Jurisdiction
    at: Instant
    state: State
    reports: Annotated[list[Digest], Meta(min_length=1, max_length=limits.REPORTS_PER_CONFIRMATION)]
    delivery: Annotated[int, Meta(ge=0, lt=2**62)] | UnsetType = UNSET
    refusal: Refusal | UnsetType = UNSET


class Noted(_Statement, frozen=True, kw_only=True):
    """The broker holds these confirmations: the recipient may forget about sending them."""

    typ: ClassVar[str] = "kentongan-noted+jwt"
    iss: str
    aud: Jurisdiction
    at: Instant
    confirmations: list[Digest]
    refused: dict[Digest, Refusal] = {}


class LinkedReport(_Statement, frozen=True, kw_only=True):
    digest: Digest
    report_id: str
    origin: Jurisdiction


class Link(_Statement, frozen=True, kw_only=True):
    """Two reports of different origins with identifiers in common. A suggestion: nothing is merged."""

    a: LinkedReport
    b: LinkedReport
    strength: Literal["strong", "weak"]
    on: dict[str, int]
    """How many identifiers of each kind match; the values are in the reports that the reader already has."""


class Links(_Statement, frozen=True, kw_only=True):
    typ: ClassVar[str] = "kentongan-links+jwt"
    iss: str
    aud: Jurisdiction
    at: Instant
    links: list[Link]


class Stopped(_Statement, frozen=True, kw_only=True):
    """What was granted when it was decided and is not delivered any more: policy changed, or a member left."""

    typ: ClassVar[str] = "kentongan-stopped+jwt"
    from_broker: ClassVar[bool] = True
    iss: str
    aud: Jurisdiction
    at: Instant
    member: Jurisdiction
    reports: list[Digest]
    refusal: Refusal


class Delivered(_Statement, frozen=True, kw_only=True):
    """These reports lie in a recipient's inbox, and its node has not fetched them yet."""

    typ: ClassVar[str] = "kentongan-delivered+jwt"
    iss: str
    aud: Jurisdiction
    at: Instant
    member: Jurisdiction
    reports: list[Digest]


class Claim(_Statement, frozen=True, kw_only=True):
    """With what a member's node connects to the bus: its key's admission, and whom to believe there."""

    typ: ClassVar[str] = "kentongan-claim+jwt"
    iss: str
    aud: Jurisdiction
    at: Instant
    user_jwt: str
    certificate: str | None = None
    """For the same key, PEM, where the bus asks for one."""
    ca: str | None = None
    """The authorities of the bus, PEM."""


class Audited(_Statement, frozen=True, kw_only=True):
    """The broker's word on an answer to an auditor: whatever it leaves out, it has signed that it is not there."""

    typ: ClassVar[str] = "kentongan-audited+jwt"
    iss: str
    aud: Jurisdiction
    at: Instant
    question: Digest
    answer: Digest


S = TypeVar("S", bound=_Statement)
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decoders: Final[dict[type[_Statement], msgspec.json.Decoder[_Statement]]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (Receipt, Delivery, Confirmation, Noted, Links, Stopped, Delivered, Claim, Audited)
}
_items_decoder: Final = msgspec.json.Decoder(list[DeliveryItem])


def statement_digest(jws: str) -> str:
    """The name of a signed statement: base64url of SHA-256 over its compact form."""
    return b64(hashlib.sha256(jws.encode("ascii")).digest())


def sign_statement(statement: _Statement, signer: Signer) -> str:
    """Sign a statement as a compact JWS of its type."""
    return sign_jws(statement.typ, _encode(statement), signer)


def open_statement(jws: str, kind: type[S], find_key: KeyLookup, at: datetime) -> S:
    """Verify a statement of one kind.

    Args:
        find_key: finds keys by id; the key's owner must be the statement's issuer.
        at: the time at which the key must be valid.

    Raises:
        ProtocolError: not of that kind, not signed by its issuer, not the issuer's to say, or not valid at that time.
    """
    if not jws.isascii():
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII")
    parts = split_jws(jws, kind.typ)
    key = verify_parts(parts, find_key)
    key.check_window(at)
    statement = decode(_decoders[kind], parts.payload)
    if not isinstance(statement, kind):
        raise AssertionError("decoder table out of step")  # noqa: TRY004 - a bug, not a bad value
    if getattr(statement, "iss", None) != key.owner:
        raise ProtocolError(Reason.WRONG_MEMBER, "$.iss", "the key does not belong to the issuer")
    if kind.from_broker != (key.owner == BROKER):
        raise ProtocolError(Reason.WRONG_MEMBER, "$.iss", "this kind of statement is not this signer's to make")
    if getattr(statement, kind.clock) > at + limits.CLOCK_SKEW:
        raise ProtocolError(Reason.TIME_IN_FUTURE, f"$.{kind.clock}", "signed in the future: check the clock")
    return statement


# --- the delivery message: statement, newline, items -------------------------------------------------------------


def encode_items(items: list[DeliveryItem]) -> bytes:
    """The bytes that a delivery statement speaks of."""
    return _encode(items)


def items_digest(data: bytes) -> str:
    """SHA-256 over the items, as the statement holds it."""
    return b64(hashlib.sha256(data).digest())


def encode_delivery(statement_jws: str, items: bytes) -> bytes:
    """One delivery message."""
    return statement_jws.encode("ascii") + b"\n" + items


def open_delivery(data: bytes, own: str, find_key: KeyLookup, at: datetime) -> tuple[Delivery, list[DeliveryItem]]:
    """Verify that the broker released exactly these bytes to this member.

    Raises:
        ProtocolError: signature, audience or hash do not hold.
    """
    head, _, items = data.partition(b"\n")
    try:
        jws = head.decode("ascii")
    except UnicodeDecodeError as exc:
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a delivery begins with its statement") from exc
    statement = open_statement(jws, Delivery, find_key, at)
    if statement.aud != own:
        raise ProtocolError(Reason.WRONG_AUDIENCE, "$.aud", "this delivery is for another member")
    if items_digest(items) != statement.items:
        raise ProtocolError(Reason.CONTENT_CHANGED, "$.items", "the items are not what the broker released")
    opened = decode(_items_decoder, items)
    if len(opened) != len(statement.grants):
        raise ProtocolError(Reason.NOT_GRANTED, "$.grants", "an item without the grant that it rests on")
    return statement, opened
