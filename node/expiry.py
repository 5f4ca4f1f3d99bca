"""When a report ends: what was withdrawn or has expired is hidden here, and who still holds an own report that ended.

Guarantees: every revision whose time is over, or that its origin took back, is emptied with those that it replaced;
that there was one stays. An expired one is named once, for the confirmation that its origin gets. What arrives after
its end is stored without content. No I/O but the transaction; time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from node import tables
from node.heading import heading_of
from node.opening import Arrival
from node.store import Tx, microseconds

NO_CONTENT: Final[dict[str, Any]] = {"presentation": "", "view": b"null", "withheld": b"[]", "expires_at": None}
"""What is left of a report that was withdrawn or has expired; there is nothing left to expire."""
AT_ONCE: Final = 2_000
"""Reports that fall due in one transaction."""
EXPIRED: Final = "expired"
_HAD: Final = frozenset({"received", "read", "acting", "closed"})
"""A recipient that said one of these has the report, or had it."""


def hide_expired(tx: Tx, at: int, most: int = AT_ONCE) -> dict[str, list[str]]:
    """Empty others' reports that have expired; their digests, by origin.

    A later revision that expires takes the earlier ones with it, as a withdrawal does.

    Args:
        at: microseconds since 1970.
        most: that fall due in this transaction; call again until nothing comes back.
    """
    ends: dict[str, int] = {}
    for row in tx.expired(at, most):
        ends[row.report_id] = max(row.revision, ends.get(row.report_id, 0))
    found = [
        row
        for row in tx.inbox_heads("report_id", ends)
        if row.revision <= ends[row.report_id] and (row.held or row.expires_at is not None)
    ]
    tx.set(tables.inbox, "digest", [{"digest": row.digest, **NO_CONTENT, "expired_at": at} for row in found])
    tx.drop(tables.escalations, "digest", [row.digest for row in found])
    tx.erased |= any(row.held for row in found)
    tx.take_down([row.digest for row in found], at)
    by_origin: dict[str, list[str]] = {}
    for row in sorted(found, key=lambda row: (row.report_id, row.revision)):
        by_origin.setdefault(row.origin, []).append(row.digest)
        ids = {"report_id": row.report_id, "revision": row.revision, "digest": row.digest}
        tx.event("report.expired", {**ids, "origin": row.origin}, at)
    return by_origin


def last_expired(tx: Tx, fresh: Sequence[Arrival], now: datetime) -> dict[str, int]:
    """Per report that has expired, here or on its way here, the last revision that did."""
    heads = tx.inbox_heads("report_id", {item.report_id for item in fresh})
    over = [(row.report_id, row.revision) for row in heads if row.expired_at is not None]
    over += [(item.report_id, item.revision) for item in fresh if item.expires_at and item.expires_at <= now]
    last: dict[str, int] = {}
    for report_id, revision in over:
        last[report_id] = max(revision, last.get(report_id, 0))
    return last


def hide_withdrawn(tx: Tx, fresh: Sequence[Arrival], at: int) -> dict[str, int]:
    """Empty what its origin takes back; per withdrawn report, the revision that withdrew it.

    The fact that there was a report stays, its content does not; what of it arrives late is not stored either.
    """
    here = tx.inbox_by("report_id", {item.report_id for item in fresh})
    ended = {row.report_id: row.revision for row in here if row.withdrawn}
    for item in fresh:
        if item.phase == "withdrawn":
            ended[item.report_id] = max(item.revision, ended.get(item.report_id, 0))
    erased = [row for row in here if row.presentation and row.revision < ended.get(row.report_id, 0)]
    tx.set(tables.inbox, "digest", [{"digest": row.digest, **NO_CONTENT} for row in erased])
    tx.erased |= bool(erased)
    tx.take_down([row.digest for row in erased], at)
    for row in erased:
        ids = {"report_id": row.report_id, "revision": row.revision, "digest": row.digest}
        tx.event("report.withdrawn", {**ids, "origin": row.origin}, at)
    return ended


def content_of(item: Arrival, ended: dict[str, int], expired: dict[str, int], at: int) -> dict[str, Any]:
    """What of a report is stored: nothing of a revision that was withdrawn, or expired, before it arrived."""
    withdraws = item.phase == "withdrawn"
    if item.revision < ended.get(item.report_id, 0):
        return {**NO_CONTENT, "withdrawn": withdraws}
    if item.revision <= expired.get(item.report_id, 0):
        return {**NO_CONTENT, "expires_at": at, "withdrawn": withdraws}
    held = {"presentation": item.presentation, "view": item.view, "withheld": msgspec.json.encode(item.withheld)}
    expires_at = microseconds(item.expires_at) if item.expires_at else None
    return {**held, "expires_at": expires_at, "withdrawn": withdraws}


def still_held_by(
    row: Any, revisions: Sequence[Any], said: Mapping[str, Mapping[str, Iterable[Any]]], now: datetime
) -> list[str] | None:
    """The members that have an own revision and have not said that they hid it; None if nothing bids them to.

    Args:
        row: the revision.
        revisions: all revisions of the report, `row` among them.
        said: by digest and member, what the member confirmed.
    """
    headings = [(other, heading_of(other.filing)) for other in revisions if other.revision >= row.revision]
    withdrawals = [other for other, heading in headings if heading.phase == "withdrawn" and other is not row]
    expired = any(heading.expires_at is not None and heading.expires_at <= now for _, heading in headings)
    if not withdrawals and not expired:
        return None

    def states(digest: str, member: str) -> set[str]:
        return {word.state for word in said.get(digest, {}).get(member, ())}

    return sorted(
        member
        for member in said.get(row.digest, {})
        if states(row.digest, member) & _HAD
        and EXPIRED not in states(row.digest, member)
        and not any(states(other.digest, member) & _HAD for other in withdrawals)
    )
