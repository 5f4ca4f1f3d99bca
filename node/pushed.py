"""Queries about what goes out to webhooks and syslog: positions, and what events' reports say. Part of `store.py`.

Guarantees: none of them reads the content of a report but its filing or its view, and each goes by an index.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from node.tables import events, inbox, outputs, own_reports

_MOST: Final = 500


class Pushed:
    """Queries; on a connection that shows one state of the database."""

    _db: Connection

    def outputs(self) -> list[Row[Any]]:
        """Every webhook and syslog receiver that there was, by name."""
        return list(self._db.execute(select(outputs).order_by(outputs.c.name)))

    def output(self, name: str) -> Row[Any] | None:
        """How far an output has come."""
        return self._db.execute(select(outputs).where(outputs.c.name == name)).one_or_none()

    def _event_time(self, seq: int) -> Any:
        """`seq` and `at` of the first event from a number on."""
        query = select(events.c.seq, events.c.at).where(events.c.seq >= seq).order_by(events.c.seq).limit(1)
        return self._db.execute(query).one_or_none()

    def event_since(self, at: int, last: int) -> int:
        """The number of the first event of that time or later, one after the last if there is none.

        Found by halving, since events are in the order of their times as long as nobody sets the clock back.
        """
        low, high = 1, last + 1
        while low < high:
            middle = (low + high) // 2
            row = self._event_time(middle)
            if row is None or row.at >= at:
                high = middle
            else:
                low = row.seq + 1
        return low

    def told_of(self, report_ids: Collection[str]) -> dict[tuple[str, int], tuple[str, bytes]]:
        """Origin (empty: this member) and filing or view of reports, by id and revision."""
        found: dict[tuple[str, int], tuple[str, bytes]] = {}
        ids = list(report_ids)
        for start in range(0, len(ids), _MOST):
            part = ids[start : start + _MOST]
            own = select(own_reports.c.report_id, own_reports.c.revision, own_reports.c.filing)
            for row in self._db.execute(own.where(own_reports.c.report_id.in_(part))):
                found[row[0], row[1]] = ("", row[2])
            others = select(inbox.c.report_id, inbox.c.revision, inbox.c.origin, inbox.c.view)
            for other in self._db.execute(others.where(inbox.c.report_id.in_(part))):
                found[other[0], other[1]] = (other[2], other[3])
        return found
