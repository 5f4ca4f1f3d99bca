"""Holds what others reported, and what this member said about it, to the signatures behind it. Rows in, findings out.

Guarantees: what is held verifies under its origin's key, was granted by the entry that stands in the log, is within
its own marking and within the import policy of its arrival, and was confirmed in a signature that is here; what was
withdrawn is gone. Raises nothing for what a row holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from node import tables
from node.checkown import Progress, Scene, said_in
from node.granting import check_granted
from node.reading import Looking
from node.store import microseconds
from protocol import limits
from protocol.envelope import SignedReport, open_envelope
from protocol.errors import ProtocolError
from protocol.facts import expiry_of
from protocol.faults import (
    DIFFERS,
    MISSING,
    ORPHAN,
    TWICE,
    UNREADABLE,
    WRONG_STATE,
    Finding,
    differences,
    from_microseconds,
    refused,
)
from protocol.grants import open_grant
from protocol.policy import HEADER, PolicyBook, Recipient, Withheld, evaluate, facts_of, import_gate
from protocol.reasons import Reason
from protocol.report import Header
from protocol.statements import Confirmation, Delivery, Opening, open_statement, statement_digest

_encode: Final = msgspec.json.encode
_withheld: Final = msgspec.json.Decoder(list[Withheld])
_NOBODY: Final = PolicyBook(())
_GROUPS: Final = frozenset({Reason.NOT_IN_GROUP, Reason.UNKNOWN_GROUP})


@dataclass(slots=True)
class _Around:
    """What belongs to a page of the inbox, or of what was refused."""

    deliveries: dict[str, Delivery] = field(default_factory=dict)
    confirmations: dict[str, Confirmation] = field(default_factory=dict)
    revisions: dict[str, list[Any]] = field(default_factory=dict)
    leaves: dict[int, bytes] = field(default_factory=dict)


def _around(reads: Looking, page: Sequence[Any]) -> _Around:
    around = _Around()
    for row in reads.statements_by({row.statement for row in page}):
        said = said_in(row.jws, Delivery) if row.kind == "delivery" else None
        if said is not None:
            around.deliveries[row.digest] = said
    for row in reads.confirmations_by("digest", {row.confirmation for row in page}):
        said = said_in(row.jws, Confirmation)
        if said is not None:
            around.confirmations[row.digest] = said
    for row in reads.inbox_by("report_id", {row.report_id for row in page if row.report_id}):
        around.revisions.setdefault(row.report_id, []).append(row)
    named = {opening.leaf for said in around.deliveries.values() for opening in said.grants}
    around.leaves = {row.leaf: bytes(row.entry) for row in reads.leaves_by("leaf", named)}
    return around


# --- the inbox --------------------------------------------------------------------------------------------------


def check_inbox(reads: Looking, scene: Scene, progress: Progress) -> Iterator[Finding]:
    """Everything that is held of others, and everything that was not taken."""
    done = 0
    for page in reads.pages(tables.inbox, "seq", 100):
        around = _around(reads, page)
        for row in page:
            scene.counts["expired"] += row.expired_at is not None
            yield from _check_held(row, around, scene)
            yield from _check_confirmed("inbox", row.seq, row, "received", around)
        done += len(page)
        progress("inbox", done)
    for page in reads.pages(tables.refused, "digest", 100):
        around = _around(reads, page)
        for row in page:
            yield from _check_confirmed("refused", row.digest, row, "refused", around)


def _check_confirmed(what: str, name: object, row: Any, state: str, around: _Around) -> Iterator[Finding]:
    """It came by a delivery, and its origin was told what became of it."""
    delivery = around.deliveries.get(row.statement)
    if delivery is None:
        yield Finding(what, str(name), MISSING, "the statement of its delivery")
    elif delivery.id != row.delivery:
        yield Finding(what, str(name), DIFFERS, "delivery is not that of its statement")
    said = around.confirmations.get(row.confirmation)
    if said is None:
        yield Finding(what, str(name), MISSING, "the own confirmation")
        return
    pairs: list[tuple[str, object, object]] = [
        ("digest", row.digest in said.reports, True),
        ("confirmation", said.state, state),
        ("origin", row.origin, said.aud),
        ("delivery", row.delivery, said.delivery or None),
    ]
    if state == "refused":
        pairs.append(("refusal", bytes(row.refusal), _encode(said.refusal) if said.refusal else None))
    yield from differences(what, name, pairs)


def _check_held(row: Any, around: _Around, scene: Scene) -> Iterator[Finding]:
    ended = any(other.withdrawn and other.revision > row.revision for other in around.revisions.get(row.report_id, ()))
    if not row.presentation:
        if bytes(row.view) != b"null" or bytes(row.withheld) != b"[]":
            yield Finding("inbox", str(row.seq), WRONG_STATE, "erased, and content is still here")
        if not ended and row.expired_at is None:
            yield Finding("inbox", str(row.seq), WRONG_STATE, "erased, though neither withdrawn nor expired")
        return
    if row.expired_at is not None:
        yield Finding("inbox", str(row.seq), WRONG_STATE, "expired, and its content is still here")
    if ended:
        yield Finding("inbox", str(row.seq), WRONG_STATE, "withdrawn, and its content is still here")
    at = from_microseconds(row.broker_received_at)
    try:
        envelope = open_envelope(row.presentation, scene.registry.keys.find, at)
    except ProtocolError as exc:
        yield refused("inbox", row.seq, exc)
        return
    (report, *others) = envelope.reports
    if others or not isinstance(report, SignedReport):
        yield Finding("inbox", str(row.seq), TWICE if others else UNREADABLE, "presentation")
        return
    yield from _check_columns(row, report, envelope.issuer, scene)
    yield from _check_granted(row, report, around, scene)
    yield from _check_marking(row, report.header, scene)
    yield from _check_import(row, report, scene)


def _check_columns(row: Any, report: SignedReport, issuer: str, scene: Scene) -> Iterator[Finding]:
    header = report.header
    member = scene.registry.members.get(issuer)
    view = {**msgspec.to_builtins(header), "body": report.body}
    expires = expiry_of(header)
    yield from differences(
        "inbox",
        row.seq,
        [
            ("digest", row.digest, report.digest),
            ("report_id", row.report_id, str(header.report_id)),
            ("revision", row.revision, header.revision),
            ("incident_id", row.incident_id, str(header.incident_id)),
            ("origin", row.origin, issuer),
            ("tlp", row.tlp, header.marking.tlp),
            ("jurisdiction", row.jurisdiction, header.origin.jurisdiction),
            ("origin", member.jurisdiction if member else "", header.origin.jurisdiction),
            ("withdrawn", row.withdrawn, header.phase == "withdrawn"),
            ("expires_at", row.expires_at, microseconds(expires) if expires else None),
            ("view", _decoded(row.view), msgspec.json.decode(_encode(view))),
            # How many elements a list had that was cut off as a whole, nobody signed: it may be more, never less.
            ("undisclosed", row.undisclosed >= report.undisclosed, True),
            ("undisclosed", row.undisclosed == 0, report.undisclosed == 0),
        ],
    )
    try:
        _withheld.decode(row.withheld)
    except (msgspec.DecodeError, UnicodeDecodeError):
        yield Finding("inbox", str(row.seq), UNREADABLE, "withheld")


def _decoded(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _opening(digest: str, delivery: Delivery | None) -> Opening | None:
    for opening in delivery.grants if delivery else ():
        if any(granted[0] == digest for granted in opening.reports):
            return opening
    return None


def _check_granted(row: Any, report: SignedReport, around: _Around, scene: Scene) -> Iterator[Finding]:
    """What is held was granted by an entry of the log, and that entry is remembered."""
    delivery = around.deliveries.get(row.statement)
    if delivery is None:
        return
    opening = _opening(row.digest, delivery)
    if opening is None:
        yield Finding("inbox", str(row.seq), Reason.NOT_GRANTED.value, "its delivery grants nothing of it")
        return
    try:
        if report.header.sealed:
            # What is in the box, the origin granted; the ledger grants the header.
            granted = {digest: exact for digest, exact, _ in opening.reports}
            if not granted[row.digest] & HEADER:
                raise ProtocolError(Reason.NOT_GRANTED, "$.grants", "not even the header was granted")
        else:
            check_granted(report, opening)
        entry = open_grant(opening, scene.member)
    except ProtocolError as exc:
        yield refused("inbox", row.seq, exc)
        return
    leaf = around.leaves.get(opening.leaf)
    if leaf is None:
        yield Finding("leaves", str(opening.leaf), MISSING, f"the delivery of inbox {row.seq} names it")
    elif leaf != entry:
        yield Finding("leaves", str(opening.leaf), DIFFERS, f"entry is not that of the delivery of inbox {row.seq}")


def _check_marking(row: Any, header: Header, scene: Scene) -> Iterator[Finding]:
    """This jurisdiction may have it by the report's own marking."""
    if header.phase == "withdrawn":
        return
    at = from_microseconds(row.broker_received_at)
    gate = evaluate(facts_of(header), Recipient(scene.jurisdiction), _NOBODY, at, scene.registry.circles).gates[0]
    if gate.exact & HEADER:
        return
    if gate.reason in _GROUPS and scene.changed_since(row.broker_received_at):
        scene.skipped["reports within sharing groups, since the region changed later"] += 1
        return
    yield Finding("inbox", str(row.seq), Reason.GRANTED_TOO_MUCH.value, f"marking: {gate.reason.value}")


def _check_import(row: Any, report: SignedReport, scene: Scene) -> Iterator[Finding]:
    """Nothing is held that the import policy of its arrival kept out."""
    if report.header.phase == "withdrawn":
        return
    latest = from_microseconds(row.received_at) + limits.CLOCK_SKEW
    known = sorted(
        (item for item in scene.book.policies if item.effective_from <= latest),
        key=lambda item: (item.effective_from, item.version),
    )
    if not known:
        scene.skipped["reports taken in under an import policy that is not here"] += 1
        return
    facts, at = facts_of(report.header), from_microseconds(row.received_at)
    circles = scene.registry.circles
    outcomes = [
        import_gate(facts, scene.jurisdiction, PolicyBook([policy]), max(at, policy.effective_from), circles)
        for policy in known[-2:]
    ]
    exact, coarse = report.units()
    if all((exact | HEADER) & ~outcome.exact or coarse & ~outcome.coarse for outcome in outcomes):
        if scene.registry.circles.agreements and scene.changed_since(row.received_at):
            scene.skipped["reports taken in by rules that may ask for agreements, since the region changed"] += 1
            return
        detail = "more is held than the import policy of its arrival lets in"
        yield Finding("inbox", str(row.seq), Reason.GRANTED_TOO_MUCH.value, detail)


# --- own words --------------------------------------------------------------------------------------------------


def check_words(reads: Looking, scene: Scene, progress: Progress) -> Iterator[Finding]:
    """Everything that this member signed about others' reports. After `check_inbox`."""
    done = 0
    backed: Counter[str] = Counter()
    for page in reads.pages(tables.confirmations_out, "id", 100):
        words: dict[int, Confirmation] = {}
        for row in page:
            said, found = _open_word(row, scene)
            yield from found
            if said is not None:
                words[row.id] = said
        yield from _check_named(reads, words, backed)
        done += len(page)
        progress("confirmations_out", done)
    # Each held report has the state, and the time of it, that a signed word of this member gave it.
    for name, number in (("state", reads.count(tables.inbox)), ("expired", scene.counts["expired"])):
        if backed[name] < number:
            yield Finding("inbox", "", MISSING, f"{name}: of {number - backed[name]}, the own word that says so")


def _open_word(row: Any, scene: Scene) -> tuple[Confirmation | None, list[Finding]]:
    try:
        said = open_statement(row.jws, Confirmation, scene.registry.keys.find, from_microseconds(row.created_at))
    except ProtocolError as exc:
        return None, [refused("confirmations_out", row.id, exc)]
    pairs: list[tuple[str, object, object]] = [
        ("digest", row.digest, statement_digest(row.jws)),
        ("created_at", row.created_at, microseconds(said.at)),
        ("issuer", said.iss, scene.member),
    ]
    found = differences("confirmations_out", row.id, pairs)
    if row.noted_at is None and (not row.waiting or row.refusal is not None):
        found.append(Finding("confirmations_out", str(row.id), WRONG_STATE, "noted, and there is no time of it"))
    return said, found


def _check_named(reads: Looking, words: Mapping[int, Confirmation], backed: Counter[str]) -> Iterator[Finding]:
    """The reports of own words are here; counts those whose state they say."""
    named = {digest for said in words.values() for digest in said.reports}
    held = {row.digest: row for row in reads.inbox_by("digest", named)}
    turned = {row.digest for row in reads.refused_by("digest", named)}
    for number, said in words.items():
        at = microseconds(said.at)
        for digest in said.reports:
            here = held.get(digest)
            if here is None:
                if digest not in turned:
                    yield Finding("confirmations_out", str(number), ORPHAN, f"there is no report {digest}")
                continue
            backed["state"] += (said.state, at) == (here.state, here.state_at)
            backed["expired"] += (said.state, at) == ("expired", here.expired_at)
