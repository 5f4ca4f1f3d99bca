"""Reports that nobody reads: which are overdue, here and at the members to which an own report went.

Guarantees: a report is told once per side and recipient, however often the node restarts; only its newest revision
is, and only while its reading is still owed: reading, refusing, withdrawing and expiring end it. What a look costs
depends on what is due, not on what is unread. `late_members` decides and is pure; the rest is one transaction each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from node import tables
from node.config import Escalation
from node.opening import Arrival
from node.store import Reads, Tx, microseconds
from protocol.report import Header

Severity = Literal["critical", "high", "medium", "low"]
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
_FROM: Final[tuple[tuple[int, Severity], ...]] = ((90, "critical"), (70, "high"), (40, "medium"))
"""Lowest score (0 to 100) of each; the bands of CVSS, times ten."""
RECIPIENT: Final = "recipient"
ORIGIN: Final = "origin"
DONE: Final = frozenset({"read", "acting", "closed", "refused", "stopped", "expired"})
"""After these words of, or about, a recipient nobody waits for it any more."""
_COMING: Final = ("received", "delivered")
AT_ONCE: Final = 500
"""Reports of a severity in one transaction, so that the writer is free for others in between."""
_encode: Final = msgspec.json.encode
_names: Final = msgspec.json.Decoder(list[str])


def severity_of(score: int | None) -> Severity:
    """The severity that a score stands for; medium if there is none."""
    if score is None:
        return "medium"
    return next((severity for least, severity in _FROM if score >= least), "low")


def limit_of(limits: Escalation, severity: Severity) -> int:
    """Microseconds in which a report of a severity must be read."""
    minutes: int = getattr(limits, severity)
    return timedelta(minutes=minutes) // timedelta(microseconds=1)


def late_members(waiting: Iterable[str], words: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Who has still not read a report, and how far it is known to have come with each: received, delivered, queued.

    Args:
        waiting: who was to read it.
        words: (member, state) of all that recipients, or the broker about them, said of it.
    """
    said: dict[str, set[str]] = {}
    for member, state in words:
        said.setdefault(member, set()).add(state)
    return {
        member: next((state for state in _COMING if state in said.get(member, ())), "queued")
        for member in waiting
        if not said.get(member, set()) & DONE
    }


# --- whose reading is owed --------------------------------------------------------------------------------------


def expect_reading(tx: Tx, fresh: Sequence[Arrival], at: int) -> None:
    """Somebody here is to read what has arrived; earlier revisions need no longer be read."""
    heads = tx.inbox_heads("report_id", {item.report_id for item in fresh})
    newest: dict[str, int] = {}
    for row in heads:
        newest[row.report_id] = max(row.revision, newest.get(row.report_id, 0))
    tx.supersede(newest)
    held = {row.digest for row in heads if row.held}
    tx.add(
        tables.escalations,
        [
            _row(RECIPIENT, item, severity_of(item.severity), [item.origin], at)
            for item in fresh
            if item.digest in held and item.revision == newest[item.report_id] and item.phase != "withdrawn"
        ],
    )


class Owed(NamedTuple):
    """An own report that the region has accepted, and the members that are to read it."""

    report: Any
    """Its `digest`, `report_id` and `revision`."""
    header: Header
    members: Sequence[str]


def expect_readers(tx: Tx, accepted: Sequence[Owed], at: int) -> None:
    """The members that were granted own reports are to read them; the states of the reports are set already."""
    newest = tx.newest_accepted({report.report_id for report, _, _ in accepted})
    tx.supersede(newest)
    rows: list[dict[str, Any]] = []
    for report, header, members in accepted:
        if not members or report.revision < newest[report.report_id] or header.phase == "withdrawn":
            continue
        expires_at = header.handling.expires_at if header.handling else None
        score = header.severity.score if header.severity else None
        until = microseconds(expires_at) if expires_at else None
        rows.append(_row(ORIGIN, report, severity_of(score), list(members), at, until))
    tx.add(tables.escalations, rows)


def _row(
    side: str, report: Any, severity: Severity, waiting: list[str], at: int, until: int | None = None
) -> dict[str, Any]:
    ids = {"digest": report.digest, "report_id": report.report_id, "revision": report.revision}
    owed = {"waiting": _encode(waiting), "members": len(waiting)}
    return {**ids, "side": side, "severity": severity, "since": at, "until": until, "told_at": None, **owed}


def nothing_owed(tx: Tx, said: Iterable[tuple[str, str]]) -> None:
    """These (digest, member) have read a report, or need not any more."""
    done: dict[str, set[str]] = {}
    for digest, member in said:
        done.setdefault(digest, set()).add(member)
    fewer: list[dict[str, Any]] = []
    none: list[str] = []
    for row in tx.escalations_by(done):
        waiting = _names.decode(row.waiting)
        left = [member for member in waiting if member not in done[row.digest]]
        if not left:
            none.append(row.digest)
        elif len(left) < len(waiting):
            fewer.append({"digest": row.digest, "waiting": _encode(left), "members": len(left)})
    tx.drop(tables.escalations, "digest", none)
    tx.set(tables.escalations, "digest", fewer)


# --- what is overdue --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Told:
    """What one look came to."""

    looked_at: int = 0
    """Reports that had fallen due; look again until there are none."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Escalations by (side, severity)."""


def tell_overdue(tx: Tx, limits: Escalation, at: int) -> Told:
    """Write an event for each reading that is overdue since the last look.

    Args:
        limits: minutes by severity; without `enabled`, what falls due passes in silence.
        at: microseconds since 1970.
    """
    told = Told()
    late: list[dict[str, Any]] = []
    never: list[str] = []
    for severity in SEVERITIES:
        rows = tx.unread_since(severity, at - limit_of(limits, severity), AT_ONCE)
        words = _words(tx, [row.digest for row in rows if row.side == ORIGIN])
        told.looked_at += len(rows)
        for row in rows:
            over = row.until is not None and row.until <= at
            found = {} if over else late_members(_names.decode(row.waiting), words.get(row.digest, ()))
            if not found or not limits.enabled:
                never.append(row.digest)
                continue
            _tell(tx, row, found, at)
            told.counts[row.side, severity] += len(found)
            owed = {"waiting": _encode(list(found)), "members": len(found)}
            late.append({"digest": row.digest, "told_at": at, **owed})
    tx.set(tables.escalations, "digest", late)
    tx.drop(tables.escalations, "digest", never)
    return told


def _words(tx: Tx, digests: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    words: dict[str, list[tuple[str, str]]] = {}
    for row in tx.confirmed_by(digests):
        words.setdefault(row.report, []).append((row.member, row.state))
    return words


def _tell(tx: Tx, row: Any, late: dict[str, str], at: int) -> None:
    ids = {"report_id": row.report_id, "revision": row.revision, "digest": row.digest}
    how_long = {"severity": row.severity, "minutes": (at - row.since) // 60_000_000}
    for member, state in late.items():
        if row.side == RECIPIENT:
            tx.event("report.unread", {**ids, "origin": member, **how_long}, at)
        else:
            tx.event("report.unconfirmed", {**ids, "member": member, "state": state, **how_long}, at)


def next_due(reads: Reads, limits: Escalation) -> int | None:
    """When the next reading becomes overdue, in microseconds since 1970."""
    oldest = [(reads.oldest_unread(severity), limit_of(limits, severity)) for severity in SEVERITIES]
    return min((since + limit for since, limit in oldest if since is not None), default=None)
