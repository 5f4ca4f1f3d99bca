"""Queries about what is due, and the end of it: expiries, unread reports, open alarms. Part of `store.py`.

Guarantees: each looks at what is due or open and at nothing else, by an index.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Row, Table, bindparam, delete, func, or_, select

from node.doorrows import DoorRows, any_of
from node.lookup import rows_where
from node.tables import alarms, escalations, inbox, own_reports, posts


class Due(DoorRows):
    """Queries; on a connection that shows one state of the database."""

    def expired(self, at: int, limit: int) -> list[Row[Any]]:
        """`report_id` and `revision` of others' reports that are to be hidden by then, the longest overdue first."""
        query = select(inbox.c.report_id, inbox.c.revision).where(inbox.c.expires_at <= at)
        return list(self._db.execute(query.order_by(inbox.c.expires_at).limit(limit)))

    def next_expiry(self) -> int | None:
        """When the next of others' reports is to be hidden."""
        return self._db.execute(select(func.min(inbox.c.expires_at))).scalar()

    def inbox_heads(self, column: str, values: Collection[Any]) -> list[Row[Any]]:
        """Others' reports without their content, in no order; `held` says whether it is here."""
        chosen = ("digest", "report_id", "revision", "origin", "expires_at", "expired_at")
        columns: list[Any] = [inbox.c[name] for name in chosen]
        query = select(*columns, (inbox.c.presentation != "").label("held"))
        found: list[Row[Any]] = []
        for condition in any_of(inbox.c[column], values):
            found += self._db.execute(query.where(condition))
        return found

    def newest_accepted(self, report_ids: Collection[str]) -> dict[str, int]:
        """Of own reports, the newest revision that the region has accepted."""
        chosen = [own_reports.c[name] for name in ("report_id", "revision", "state")]
        newest: dict[str, int] = {}
        for row in rows_where(self._db, chosen, own_reports.c.report_id, report_ids):
            if row.state == "accepted":
                newest[row.report_id] = max(row.revision, newest.get(row.report_id, 0))
        return newest

    def own_states(self, digests: Collection[str]) -> list[Row[Any]]:
        """Own revisions by digest, without their content: `digest`, `report_id`, `revision`, `state`."""
        chosen = [own_reports.c[name] for name in ("digest", "report_id", "revision", "state")]
        return rows_where(self._db, chosen, own_reports.c.digest, digests)

    def posts(self, names: Collection[str]) -> list[Row[Any]]:
        """What POSTs of several reports came to."""
        return rows_where(self._db, posts.c, posts.c.id, names)

    def open_alarm(self, key: str) -> Row[Any] | None:
        """The open alarm with this key."""
        query = select(alarms).where(alarms.c.key == key, alarms.c.cleared_at.is_(None))
        return self._db.execute(query).one_or_none()

    def alarm(self, number: int) -> Row[Any] | None:
        """An alarm by its number."""
        return self._db.execute(select(alarms).where(alarms.c.id == number)).one_or_none()

    def alarms_page(self, after: int, limit: int, *, cleared: bool) -> list[Row[Any]]:
        """Alarms in the order in which they opened; those that were cleared too if `cleared`."""
        query = select(alarms).where(alarms.c.id > after).order_by(alarms.c.id).limit(limit)
        return list(self._db.execute(query if cleared else query.where(alarms.c.cleared_at.is_(None))))

    def open_alarms(self) -> dict[str, int]:
        """How many alarms are open, by reason."""
        query = select(alarms.c.kind, func.count()).where(alarms.c.cleared_at.is_(None)).group_by(alarms.c.kind)
        return {row[0]: row[1] for row in self._db.execute(query)}

    def unread_since(self, severity: str, before: int, limit: int) -> list[Row[Any]]:
        """Unread reports of a severity since that time or longer that were not escalated yet, oldest first."""
        query = select(escalations).where(escalations.c.told_at.is_(None), escalations.c.severity == severity)
        query = query.where(escalations.c.since <= before).order_by(escalations.c.since).limit(limit)
        return list(self._db.execute(query))

    def oldest_unread(self, severity: str) -> int | None:
        """Since when the oldest unread report of a severity that was not escalated yet is unread."""
        query = select(func.min(escalations.c.since))
        query = query.where(escalations.c.told_at.is_(None), escalations.c.severity == severity)
        return self._db.execute(query).scalar()

    def overdue(self, at: int) -> dict[tuple[str, str], int]:
        """How many readings are overdue, by side and severity."""
        side, severity, until = escalations.c.side, escalations.c.severity, escalations.c.until
        query = select(side, severity, func.sum(escalations.c.members)).where(escalations.c.told_at.is_not(None))
        query = query.where(or_(until.is_(None), until > at)).group_by(side, severity)
        return {(row[0], row[1]): int(row[2]) for row in self._db.execute(query)}

    def escalations_by(self, digests: Collection[str]) -> list[Row[Any]]:
        """Who is waited for, by the reports' digests."""
        return rows_where(self._db, escalations.c, escalations.c.digest, digests)


class Over(Due):
    """What is over, taken away; within a transaction."""

    def drop(self, table: Table, column: str, values: Collection[Any]) -> None:
        """Delete the rows with these values."""
        for condition in any_of(table.c[column], values):
            self._db.execute(delete(table).where(condition))

    def supersede(self, newest: Mapping[str, int]) -> None:
        """Wait for nobody any more on account of revisions before these; `newest` has a revision by report id."""
        later = [{"_report_id": name, "_revision": last} for name, last in newest.items() if last > 1]
        if later:
            older = escalations.c.revision < bindparam("_revision")
            query = delete(escalations).where(escalations.c.report_id == bindparam("_report_id"), older)
            self._db.execute(query, later)
