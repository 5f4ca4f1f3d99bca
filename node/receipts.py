"""The broker's receipts for what this member sent, written down. Part of `receive.py`.

Guarantees: a receipt is stored once, with what it says of each report; a second one that says something else is an
alarm, and so is a grant beyond a report's marking and the own policy. What a look at the store costs is shared by all
receipts of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from node import tables
from node.doorrows import rows_by
from node.escalation import Owed, expect_readers
from node.turn import Promise, Turn
from protocol.envelope import header_in
from protocol.grants import commit
from protocol.reasons import Reason
from protocol.report import Header
from protocol.statements import Receipt, Refusal, ReportReceipt

_encode: Final = msgspec.json.Encoder().encode

TooMuch = Callable[[Header, ReportReceipt, Receipt], Sequence[str]]
"""The members that were granted more of an own report than may be, see `granting.granted_too_much`."""


def take_receipts(turn: Turn, letters: Mapping[str, Receipt], too_much: TooMuch) -> None:
    """Write down receipts, by their texts.

    Args:
        too_much: holds receipts to the own policy.
    """
    fresh = _fresh(turn, letters)
    reports: dict[int, list[Any]] = {}
    for report in turn.tx.reports_sent([row.id for row, _, _ in fresh]):
        reports.setdefault(report.submission, []).append(report)
    updates: list[dict[str, Any]] = []
    accepted: list[Owed] = []
    for row, _, receipt in fresh:
        changed, taken = _reports(turn, row, receipt, reports.get(row.id, ()), too_much)
        updates += changed
        accepted += taken
        turn.taken.settled.append(row.id)
        turn.taken.seconds.append((turn.at - row.created_at) / 1_000_000)
        turn.taken.steps.append(("receipt", (turn.now - receipt.received_at).total_seconds()))
    turn.expect([Promise(r.leaf, commit(r, jws).entry, "receipt", row.digest) for row, jws, r in fresh])
    turn.tx.set(tables.own_reports, "digest", updates)
    settled = [{"id": row.id, "waiting": False, "receipt": jws} for row, jws, _ in fresh]
    turn.tx.set(tables.submissions, "id", settled)
    expect_readers(turn.tx, accepted, turn.at)


def _fresh(turn: Turn, letters: Mapping[str, Receipt]) -> list[tuple[Any, str, Receipt]]:
    """The receipts that are new, each with the submission that it is about."""
    known = rows_by(turn.tx.submission_heads({item.submission for item in letters.values()}), "digest")
    seen: dict[str, str] = {}
    fresh: list[tuple[Any, str, Receipt]] = []
    for jws, receipt in letters.items():
        row = known.get(receipt.submission)
        held = seen.get(receipt.submission) or (row.receipt if row else None)
        if row is None:
            # Somebody used this member's transport credentials, or the database is older than the last send.
            refused = receipt.refusal.reason if receipt.refusal else None
            turn.alarm("receipt", Reason.UNKNOWN_SUBMISSION.value, submission=receipt.submission, refused=refused)
        elif held is None:
            seen[receipt.submission] = jws
            fresh.append((row, jws, receipt))
        elif held != jws:
            turn.alarm("receipt", Reason.CONTENT_CHANGED.value, submission=receipt.submission)
    return fresh


def _reports(
    turn: Turn, row: Any, receipt: Receipt, reports: Sequence[Any], too_much: TooMuch
) -> tuple[list[dict[str, Any]], list[Owed]]:
    """What a receipt says of each report: the changes of their rows, and who is to read those that were accepted."""
    headers = _hold_to_policy(turn, receipt, reports, too_much)
    said = {item.digest: item for item in receipt.reports}
    updates: list[dict[str, Any]] = []
    accepted: list[Owed] = []
    for report in reports:
        if report.kept:
            continue
        item = said.pop(report.digest, None)
        if item is None:
            refusal = receipt.refusal or Refusal(
                reason=Reason.UNKNOWN_REPORT.value, detail="the broker's receipt does not name this report"
            )
            item = ReportReceipt(digest=report.digest, outcome="rejected", refusal=refusal)
        reason = item.refusal.reason if item.refusal else ""
        updates.append({"digest": report.digest, "state": item.outcome, "outcome": _encode(item)})
        turn.taken.counts[item.outcome, reason] += 1
        event = {"report_id": report.report_id, "revision": report.revision, "digest": report.digest}
        turn.tx.event("report.receipt", {**event, "outcome": item.outcome, "reason": reason or None}, turn.at)
        if item.outcome == "accepted":
            granted = [member for member, index in item.to.items() if receipt.decisions[index].granted]
            accepted.append(Owed(report, headers[report.digest], sorted(granted)))
    if said:
        turn.alarm("receipt", Reason.UNKNOWN_REPORT.value, submission=row.digest, reports=len(said))
    return updates, accepted


def _hold_to_policy(turn: Turn, receipt: Receipt, reports: Sequence[Any], too_much: TooMuch) -> dict[str, Header]:
    """No grant of an own report goes beyond its marking and the own policy, or the broker is at fault.

    Returns:
        the headers of the reports that were accepted, by their digests.
    """
    texts = {report.digest: report.disclosures for report in reports}
    headers: dict[str, Header] = {}
    for item in receipt.reports:
        text = texts.get(item.digest)
        if text is None or item.outcome != "accepted":
            continue
        header = headers[item.digest] = header_in(text.partition("~")[0])
        for member in too_much(header, item, receipt):
            ids = {"report_id": str(header.report_id), "revision": header.revision, "digest": item.digest}
            turn.alarm("receipt", Reason.GRANTED_TOO_MUCH.value, member=member, **ids)
    return headers
