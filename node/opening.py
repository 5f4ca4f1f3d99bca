"""Bus messages, verified and judged, before anything is stored.

Guarantees: every message becomes pieces that its signers really signed, for this member; a piece that does not hold
becomes a `Bad` or a `Turned` with the reason, and never takes others with it. What this jurisdiction's import policy
does not let in is dropped here and explained. Pure: keys, policy and the clock's reading are in the `Bench`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET, Struct

from node.granting import check_granted
from node.trust import open_for, type_of
from protocol import limits
from protocol.envelope import (
    RefusedReport,
    SignedReport,
    disclosure_digest,
    open_envelope,
    parse_envelope,
    present,
    release,
)
from protocol.errors import ProtocolError
from protocol.grants import open_grant
from protocol.keys import KeyRing, unb64
from protocol.parse import decode
from protocol.policy import HEADER, GateResult, Outcome, PolicyBook, Withheld, explain, facts_of, import_gate
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.sealing import SealingKey, open_sealed, parse_box
from protocol.statements import (
    Confirmation,
    Delivered,
    Delivery,
    DeliveryItem,
    Links,
    Noted,
    Opening,
    Receipt,
    Refusal,
    Stopped,
    open_delivery,
)
from protocol.subjects import Kind


class Message(Protocol):
    """A bus message, as far as its content goes."""

    @property
    def kind(self) -> str: ...
    @property
    def data(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Bench:
    """All that judging needs, at one moment."""

    member: str
    jurisdiction: str
    registry: Registry
    broker_keys: KeyRing
    book: PolicyBook
    now: datetime
    sealing_keys: Sequence[SealingKey] = ()


@dataclass(frozen=True, slots=True)
class Letter:
    """A verified statement."""

    jws: str
    statement: Receipt | Noted | Confirmation | Links | Stopped | Delivered


@dataclass(frozen=True, slots=True)
class Arrival:
    """Another member's report, as far as it may be held here."""

    digest: str
    origin: str
    jurisdiction: str
    report_id: str
    revision: int
    incident_id: str
    phase: str
    tlp: str
    severity: int | None
    expires_at: datetime | None
    received_at: datetime
    """When the broker received it."""
    presentation: str
    view: bytes
    undisclosed: int
    withheld: tuple[Withheld, ...]


@dataclass(frozen=True, slots=True)
class Turned:
    """Another member's report that is not taken, and why."""

    digest: str
    origin: str
    refusal: Refusal
    report_id: str | None = None
    revision: int | None = None
    alarm: bool = True
    """False for what policy keeps out: nobody did anything wrong."""


@dataclass(frozen=True, slots=True)
class Bad:
    """Something that does not hold and says nothing that could be answered."""

    kind: str
    size: int
    error: ProtocolError


@dataclass(frozen=True, slots=True)
class Parcel:
    """A verified delivery."""

    jws: str
    delivery: Delivery
    contents: tuple[Arrival | Turned | Bad, ...]
    leaves: tuple[tuple[int, bytes], ...]
    """What must be in the log: (leaf, entry), one a submission."""


Piece = Letter | Parcel | Bad


@dataclass(slots=True)
class Opened:
    """What a batch of messages holds."""

    pieces: list[Piece] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    """Indices of messages that name a key which this node does not know (yet)."""


_HEADER_ALONE: Final = Outcome(HEADER, 0, (GateResult("marking", "report", HEADER, 0, (), (), Reason.WITHDRAWN),))
_texts: Final = msgspec.json.Decoder(list[str])
_KEY_MISSING: Final = (Reason.UNKNOWN_KEY, Reason.UNKNOWN_MEMBER)


def open_messages(messages: Sequence[Message], bench: Bench, *, region_is_fresh: bool) -> Opened:
    """Verify a batch.

    Args:
        region_is_fresh: the region document was fetched for these messages: an unknown key is now refused for good.
    """
    opened = Opened()
    for index, message in enumerate(messages):
        try:
            opened.pieces.extend(_open(message, bench, patient=not region_is_fresh))
        except ProtocolError as exc:
            if exc.reason in _KEY_MISSING and not region_is_fresh:
                opened.again.append(index)
                continue
            opened.pieces.append(Bad(message.kind[:32], len(message.data), exc))
    return opened


def _open(message: Message, bench: Bench, *, patient: bool) -> list[Piece]:
    if message.kind == Kind.DELIVERY:
        return [_open_parcel(message.data, bench, patient=patient)]
    if message.kind == Kind.LINKS:
        try:
            texts = [message.data.decode("ascii")]
        except UnicodeDecodeError as exc:
            raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII") from exc
    elif message.kind in (Kind.RECEIPTS, Kind.CONFIRMED):
        texts = decode(_texts, message.data)
    else:
        raise ProtocolError(Reason.UNKNOWN_VALUE, "$.kind", "this program knows no such kind of message")
    pieces: list[Piece] = []
    for text in texts:
        try:
            pieces.append(_open_letter(text, message.kind, bench))
        except ProtocolError as exc:
            if patient and exc.reason in _KEY_MISSING:
                raise
            pieces.append(Bad(message.kind, len(text), exc))
    return pieces


def _open_letter(jws: str, kind: str, bench: Bench) -> Letter:
    """Which kind of statement may come as which kind of message, and whose keys count for it."""
    broker = bench.broker_keys.find
    if kind == Kind.LINKS:
        return Letter(jws, open_for(bench.member, jws, Links, broker, bench.now))
    if kind == Kind.RECEIPTS:
        claimed = type_of(jws)
        if claimed == Noted.typ:
            return Letter(jws, open_for(bench.member, jws, Noted, broker, bench.now))
        if claimed == Delivered.typ:
            return Letter(jws, open_for(bench.member, jws, Delivered, broker, bench.now))
        if claimed == Stopped.typ:
            return Letter(jws, open_for(bench.member, jws, Stopped, broker, bench.now))
        return Letter(jws, open_for(bench.member, jws, Receipt, broker, bench.now))
    confirmation = open_for(bench.member, jws, Confirmation, bench.registry.keys.find, bench.now)
    bench.registry.member(confirmation.iss)
    return Letter(jws, confirmation)


# --- deliveries -------------------------------------------------------------------------------------------------


def _open_parcel(data: bytes, bench: Bench, *, patient: bool) -> Parcel:
    delivery, items = open_delivery(data, bench.member, bench.broker_keys.find, bench.now)
    contents: list[Arrival | Turned | Bad] = []
    leaves: list[tuple[int, bytes]] = []
    for item, opening in zip(items, delivery.grants, strict=True):
        try:
            entry = open_grant(opening, bench.member)
            contents.extend(_open_item(item, opening, bench))
            leaves.append((opening.leaf, entry))
        except ProtocolError as exc:
            if patient and exc.reason in _KEY_MISSING:
                raise
            contents.extend(_name_unopened(item, exc, bench.registry))
    return Parcel(data.partition(b"\n")[0].decode("ascii"), delivery, tuple(contents), tuple(leaves))


def _open_item(item: DeliveryItem, opening: Opening, bench: Bench) -> list[Arrival | Turned]:
    if item.received_at > bench.now + limits.CLOCK_SKEW:
        raise ProtocolError(Reason.TIME_IN_FUTURE, "$.received_at", "received in the future: check the clocks")
    envelope = open_envelope(item.sd_jwt, bench.registry.keys.find, item.received_at)
    origin = bench.registry.member(envelope.issuer)
    if origin.id == bench.member:
        raise ProtocolError(Reason.OWN_REPORT, "$.iss", "this member's own report came back as another's")
    boxes = {parse_box(text.encode("utf-8")).digest(): text.encode("utf-8") for text in item.boxes}
    found: list[Arrival | Turned] = []
    for report in envelope.reports:
        if isinstance(report, RefusedReport):
            found.append(Turned(report.digest, origin.id, _as_refusal(report.error)))
            continue
        try:
            check_granted(report, opening)
            opened = _unsealed(report, envelope.jws, boxes, item.received_at, bench)
        except ProtocolError as exc:
            ids = (str(report.header.report_id), report.header.revision)
            found.append(Turned(report.digest, origin.id, _as_refusal(exc), *ids))
            continue
        found.append(_judge(opened, origin.id, origin.jurisdiction, envelope.jws, item.received_at, bench))
    return found


def _unsealed(
    report: SignedReport, jws: str, boxes: Mapping[str, bytes], received_at: datetime, bench: Bench
) -> SignedReport:
    """A sealed report with what was sealed to this member, proven by the origin's signature like any other."""
    if not report.header.sealed:
        return report
    box = boxes.get(report.header.sealed)
    if box is None:
        raise ProtocolError(Reason.SEAL_BROKEN, "$.sealed", "the box that the signed header names is not here")
    texts = open_sealed(box, report, bench.member, bench.sealing_keys)
    shown = present(jws, [[report.header_text, *texts]])
    (opened,) = open_envelope(shown, bench.registry.keys.find, received_at).reports
    if isinstance(opened, RefusedReport):
        raise opened.error
    return opened


def _judge(
    report: SignedReport, origin: str, jurisdiction: str, jws: str, received_at: datetime, bench: Bench
) -> Arrival | Turned:
    header = report.header

    def turned(refusal: Refusal, *, alarm: bool = True) -> Turned:
        return Turned(report.digest, origin, refusal, str(header.report_id), header.revision, alarm)

    if header.origin.jurisdiction != jurisdiction:
        # Else a member could pass for a jurisdiction from which this one takes more.
        return turned(_refusal(Reason.WRONG_MEMBER, "$.origin.jurisdiction", "not the jurisdiction of its signer"))
    if header.exercise is not UNSET:
        return turned(_refusal(Reason.EXERCISE_MIXED, "$.exercise", "this is a live node"))
    facts = facts_of(header)
    if header.phase == "withdrawn":
        # Refusing to hear that a report is withdrawn would only keep what its origin takes back.
        outcome = _HEADER_ALONE
    else:
        circles = bench.registry.circles
        outcome = import_gate(facts, bench.jurisdiction, bench.book, bench.now, circles)
    units = report.units()
    withheld = tuple(explain(outcome, *units))
    if not outcome.granted:
        by = withheld[0]
        rule = f", rule {by.rule}" if by.rule else ""
        return turned(Refusal(reason=by.reason, detail=f"import policy {by.document}{rule}"), alarm=False)
    texts = release(report, outcome.exact, outcome.coarse)
    dropped = 1 + len(report.containers) + len(report.disclosures) - len(texts)
    body = _shown(report, set(texts)) if dropped else report.body
    return Arrival(
        digest=report.digest,
        origin=origin,
        jurisdiction=jurisdiction,
        report_id=str(header.report_id),
        revision=header.revision,
        incident_id=str(header.incident_id),
        phase=header.phase,
        tlp=header.marking.tlp,
        severity=facts.severity,
        expires_at=facts.expires_at,
        received_at=received_at,
        presentation=present(jws, [texts]),
        view=msgspec.json.encode({**msgspec.to_builtins(header), "body": body}),
        undisclosed=report.undisclosed + dropped,
        withheld=withheld,
    )


def _shown(report: SignedReport, kept: set[str]) -> dict[str, Any]:
    """The body as far as these disclosures show it."""
    body: dict[str, Any] = {}
    for item in report.disclosures:
        if item.text not in kept:
            continue
        values = msgspec.json.decode(unb64(item.text))
        if item.container < 0:
            body[values[1]] = values[2]
        else:
            name = msgspec.json.decode(unb64(report.containers[item.container]))[1]
            body.setdefault(name, []).append(values[1])
    return body


# --- saying no --------------------------------------------------------------------------------------------------


def _refusal(reason: Reason, path: str, detail: str) -> Refusal:
    return Refusal(reason=reason.value, path=path, detail=detail)


def _as_refusal(error: ProtocolError) -> Refusal:
    return Refusal(reason=error.reason.value, path=error.path, detail=error.detail)


class _Names(Struct):
    iss: str
    reports: list[dict[str, str]]


_names: Final = msgspec.json.Decoder(_Names)


def _name_unopened(item: DeliveryItem, error: ProtocolError, registry: Registry) -> Sequence[Turned | Bad]:
    """Name the reports of an envelope that does not hold, so that the refusal can say what it refuses.

    Nothing of it is believed: whom it names as its issuer only gets to read the refusal.
    """
    bad = [Bad(Kind.DELIVERY, len(item.sd_jwt), error)]
    try:
        parsed = parse_envelope(item.sd_jwt)
        names = decode(_names, parsed.parts.payload)
    except ProtocolError:
        return bad
    signed = {reference.get("...") for reference in names.reports}
    digests = [digest for digest in map(disclosure_digest, parsed.texts) if digest in signed]
    if not digests or names.iss not in registry.members:
        return bad
    return [Turned(digest, names.iss, _as_refusal(error)) for digest in digests]
