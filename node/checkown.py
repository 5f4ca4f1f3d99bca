"""Holds what this member filed to its own signature, the broker's receipts and others' words. Rows in, findings out.

Guarantees: every disclosure that is kept as evidence is one that the envelope signed, and what was sent is a part of
it; a report's state is what its receipt says; every word about a report stands in a statement that is here. Raises
nothing for what a row holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from node import tables
from node.ids import content_hash
from node.reading import Looking
from node.store import microseconds
from protocol.envelope import SignedReport, jws_digest, open_envelope, present
from protocol.errors import ProtocolError
from protocol.faults import (
    DIFFERS,
    MISSING,
    ORPHAN,
    UNREADABLE,
    WRONG_STATE,
    Finding,
    differences,
    from_microseconds,
    refused,
)
from protocol.grants import commit
from protocol.jws import split_jws
from protocol.keys import KeyLookup
from protocol.policy import PolicyBook
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.report import Filing
from protocol.statements import (
    Confirmation,
    Delivered,
    Delivery,
    Links,
    Receipt,
    Refusal,
    ReportReceipt,
    Stopped,
    open_statement,
)
from protocol.submission import split_submission

Said = Receipt | Delivery | Confirmation | Links | Stopped | Delivered
Progress = Callable[[str, int], None]
_encode: Final = msgspec.json.encode
_filing: Final = msgspec.json.Decoder(Filing)


@dataclass(frozen=True, slots=True)
class Scene:
    """What does not change from row to row."""

    member: str
    jurisdiction: str
    registry: Registry
    broker: KeyLookup
    book: PolicyBook
    """The own jurisdiction's policy, every version that is here."""
    skipped: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    """What one walk counts for another to compare with."""

    def changed_since(self, at: int) -> bool:
        """Whether the region may have been another at that time: a serial is the time of its last change."""
        return self.registry.region.serial > at * 1_000


def verified(jws: str, kind: type[Any], find_key: KeyLookup, own: str, at: int | None = None) -> Any:
    """A statement to this member.

    Args:
        at: when it arrived, if that is known: a key that had run out by then is judged by the statement's own time, as
            on arrival; else the statement's own time counts.

    Raises:
        ProtocolError: it does not hold.
    """
    said = said_in(jws, kind)
    signed = getattr(said, kind.clock, None)
    when = from_microseconds(at) if at is not None else signed or from_microseconds(0)
    try:
        statement = open_statement(jws, kind, find_key, when)
    except ProtocolError as exc:
        if exc.reason is not Reason.KEY_NOT_VALID or signed is None or signed > when:
            raise
        statement = open_statement(jws, kind, find_key, signed)
    if statement.aud != own:
        raise ProtocolError(Reason.WRONG_AUDIENCE, "$.aud", "this statement is for another member")
    return statement


def said_in(jws: str, kind: type[Any]) -> Any:
    """What a statement says; nothing is verified. None if it cannot be read."""
    try:
        return msgspec.json.decode(split_jws(jws, kind.typ).payload, type=kind)
    except (ProtocolError, msgspec.DecodeError, UnicodeError):
        return None


# --- submissions ------------------------------------------------------------------------------------------------


def check_own(reads: Looking, scene: Scene, progress: Progress) -> Iterator[Finding]:
    """Everything that this member filed."""
    done = 0
    for page in reads.pages(tables.submissions, "id", 16):
        reports: dict[int, list[Any]] = {}
        for report in reads.rows_where(tables.own_reports, "submission", [row.id for row in page]):
            reports.setdefault(report.submission, []).append(report)
        for row in page:
            yield from _check_submission(reads, row, reports.get(row.id, []), scene)
        done += len(page)
        progress("submissions", done)
    for number in reads.strays(tables.own_reports, "submission", tables.submissions, "id"):
        yield Finding("own_reports", str(number), ORPHAN, "there is no such submission")
    yield from _check_revisions(reads)
    yield from _check_confirmed(reads)


def _check_revisions(reads: Looking) -> Iterator[Finding]:
    """Revisions of a report are numbered from one on, and are of one incident."""
    for page in reads.pages(tables.own_reports, "seq", 2000, ("seq", "report_id", "revision")):
        revisions: dict[str, list[Any]] = {}
        for row in reads.identities("report_id", {row.report_id for row in page if row.revision > 1}):
            revisions.setdefault(row.report_id, []).append(row)
        for report_id, rows in sorted(revisions.items()):
            highest = max(row.revision for row in rows)
            if highest != len(rows):
                yield Finding("own_reports", report_id, MISSING, f"there is a revision {highest} and not all before it")
            if len({row.incident_id for row in rows}) > 1:
                yield Finding("own_reports", report_id, DIFFERS, "its revisions are of more than one incident")


def _check_submission(reads: Looking, row: Any, reports: Sequence[Any], scene: Scene) -> Iterator[Finding]:
    try:
        jws, *texts = split_submission(row.message)[0].decode("ascii").split("~")
    except (UnicodeDecodeError, ProtocolError):
        yield Finding("submissions", str(row.id), UNREADABLE, "message")
        return
    yield from differences("submissions", row.id, [("digest", row.digest, jws_digest(jws))])
    signed: dict[str, SignedReport] = {}
    for report in reports:
        yield from _open(row, report, jws, scene, signed)
    yield from _check_sent(row, reports, {text for text in texts if text})
    receipt: Receipt | None = None
    if row.receipt is not None:
        try:
            receipt = verified(row.receipt, Receipt, scene.broker, scene.member)
        except ProtocolError as exc:
            yield refused("submissions", row.id, exc, "receipt")
            return
    if row.waiting != (receipt is None and row.reports > 0):
        yield Finding("submissions", str(row.id), WRONG_STATE, "it waits, or does not, against its receipt")
    if receipt is not None:
        yield from differences("submissions", row.id, [("receipt", receipt.submission, row.digest)])
        yield from _check_leaf(reads, row, receipt)
    said = {item.digest: item for item in receipt.reports} if receipt else {}
    for report in reports:
        yield from _check_state(report, receipt, said)


def _open(row: Any, report: Any, jws: str, scene: Scene, signed: dict[str, SignedReport]) -> Iterator[Finding]:
    """The report as its evidence shows it."""
    try:
        shown = present(jws, [report.disclosures.split("~")])
        found = open_envelope(shown, scene.registry.keys.find, from_microseconds(row.created_at)).reports
    except ProtocolError as exc:
        yield refused("own_reports", report.seq, exc)
        return
    (opened, *others) = found
    if not isinstance(opened, SignedReport) or others:
        yield Finding("own_reports", str(report.seq), UNREADABLE, "disclosures")
        return
    signed[opened.digest] = opened
    header = opened.header
    pairs: list[tuple[str, object, object]] = [
        ("digest", report.digest, opened.digest),
        ("report_id", report.report_id, str(header.report_id)),
        ("revision", report.revision, header.revision),
        ("incident_id", report.incident_id, str(header.incident_id)),
        ("tlp", report.tlp, header.marking.tlp),
        ("filed_at", report.filed_at, microseconds(header.issued_at)),
        ("content_hash", report.content_hash, content_hash(report.filing)),
        ("undisclosed", opened.undisclosed, 0),
    ]
    yield from differences("own_reports", report.seq, pairs)
    try:
        _filing.decode(report.filing)
    except (msgspec.DecodeError, UnicodeDecodeError):
        yield Finding("own_reports", str(report.seq), UNREADABLE, "filing")


def _check_sent(row: Any, reports: Sequence[Any], sent: set[str]) -> Iterator[Finding]:
    """What was sent is a part of what is kept, and nothing of a report that stays here."""
    for report in reports:
        texts = set(report.disclosures.split("~"))
        if report.kept == bool(texts & sent):
            detail = "kept here, and was sent" if report.kept else "sent, and the message lacks it"
            yield Finding("own_reports", str(report.seq), WRONG_STATE, detail)
        sent = sent - texts
    if sent:
        yield Finding("own_reports", str(row.id), MISSING, f"{len(sent)} disclosures that submission {row.id} holds")
    leaving = sum(not report.kept for report in reports)
    if leaving != row.reports:
        yield Finding("submissions", str(row.id), DIFFERS, f"reports: {leaving} of its reports leave")


def _check_leaf(reads: Looking, row: Any, receipt: Receipt) -> Iterator[Finding]:
    """Its place in the log is remembered."""
    try:
        entry = commit(receipt, row.receipt).entry
    except ProtocolError as exc:
        yield refused("submissions", row.id, exc, "receipt")
        return
    (leaf,) = reads.leaves_by("leaf", [receipt.leaf]) or (None,)
    if leaf is None:
        yield Finding("leaves", str(receipt.leaf), MISSING, f"the receipt of submission {row.id} names it")
    elif bytes(leaf.entry) != entry:
        yield Finding("leaves", str(receipt.leaf), DIFFERS, f"entry is not that of submission {row.id}'s receipt")


def _check_state(report: Any, receipt: Receipt | None, said: dict[str, ReportReceipt]) -> Iterator[Finding]:
    state, outcome = ("kept", None) if report.kept else ("queued", None)
    if not report.kept and receipt is not None:
        item = said.get(report.digest)
        if item is None:
            refusal = receipt.refusal or Refusal(
                reason=Reason.UNKNOWN_REPORT.value, detail="the broker's receipt does not name this report"
            )
            item = ReportReceipt(digest=report.digest, outcome="rejected", refusal=refusal)
        state, outcome = item.outcome, _encode(item)
    there = None if report.outcome is None else bytes(report.outcome)
    yield from differences("own_reports", report.seq, [("state", report.state, state), ("outcome", there, outcome)])


# --- others' words ----------------------------------------------------------------------------------------------


def _check_confirmed(reads: Looking) -> Iterator[Finding]:
    """Every word about an own report stands in a statement that is here."""
    for page in reads.pages(tables.own_reports, "seq", 500, ("seq", "digest")):
        rows = reads.confirmed_by([row.digest for row in page])
        statements = {row.digest: row for row in reads.statements_by({row.statement for row in rows})}
        for row in rows:
            name = f"{row.report} {row.member} {row.state}"
            statement = statements.get(row.statement)
            if statement is None:
                yield Finding("confirmed", name, MISSING, "its statement")
                continue
            yield from differences("confirmed", name, _confirmed(row, statement))
    for digest in reads.strays(tables.confirmed, "report", tables.own_reports, "digest"):
        yield Finding("confirmed", str(digest), ORPHAN, "there is no such own report")
    for kind in ("confirmation", "stopped", "delivered"):
        for digest in reads.strays(tables.statements, "digest", tables.confirmed, "statement", kind=kind):
            yield Finding("statements", str(digest), ORPHAN, f"a {kind} that no own report has")


def _confirmed(row: Any, statement: Any) -> list[tuple[str, object, object]]:
    """The columns of a word, and what its statement says."""
    kinds: dict[str, type[Any]] = {"confirmation": Confirmation, "stopped": Stopped, "delivered": Delivered}
    said = said_in(statement.jws, kinds.get(statement.kind, Confirmation))
    if said is None:
        return [("statement", statement.kind, "a word about a report")]
    own = isinstance(said, Confirmation)
    refusal = getattr(said, "refusal", None) or None
    return [
        ("report", row.report in said.reports, True),
        ("member", row.member, said.iss if own else said.member),
        ("state", row.state, said.state if own else statement.kind),
        ("at", row.at, microseconds(said.at)),
        ("refusal", None if row.refusal is None else bytes(row.refusal), _encode(refusal) if refusal else None),
    ]
