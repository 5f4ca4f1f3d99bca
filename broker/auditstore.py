"""What an auditor's questions read from the ledger, in SQL that SQLite and PostgreSQL both speak; all of it only reads.

Guarantees: every query goes by an index or a primary key and is bounded by the caller. Guarantees nothing else: whose
rows somebody may see, `broker/auditing.py` says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, func, select

from broker.tables import confirmations, notices, reports, submissions

_HEAD: Final = (submissions.c.id, submissions.c.member, submissions.c.received_at)


def count(connection: Connection) -> int:
    """How many leaves there are, or will be: submissions are numbered without gaps."""
    return int(connection.scalar(select(func.max(submissions.c.id))) or 0)


def heads(connection: Connection, first: int, end: int) -> list[Any]:
    """Number, member and time of the submissions of the leaves from `first` to before `end`."""
    query = select(*_HEAD).where(submissions.c.id > first, submissions.c.id <= end).order_by(submissions.c.id)
    return list(connection.execute(query))


def received_at(connection: Connection, leaf: int) -> int:
    """When the submission of a leaf that there is was received, in milliseconds."""
    return int(connection.scalar(select(submissions.c.received_at).where(submissions.c.id == leaf + 1)) or 0)


def leaves_of(connection: Connection, report_id: bytes, first: int, most: int) -> list[int]:
    """Leaves from `first` on with accepted revisions of a report, in order."""
    query = select(reports.c.submission).where(reports.c.report_id == report_id, reports.c.submission > first)
    return [int(row[0]) - 1 for row in connection.execute(query.distinct().order_by(reports.c.submission).limit(most))]


def said_about_deliveries(connection: Connection, deliveries: Collection[int], after: int, most: int) -> list[Any]:
    """Confirmations that name one of these deliveries."""
    return _after(connection, select(confirmations).where(confirmations.c.delivery.in_(deliveries)), after, most)


def said_to(connection: Connection, origins: Collection[str], after: int, most: int) -> list[Any]:
    """Confirmations of these origins' reports that name no delivery: what people said."""
    query = select(confirmations).where(confirmations.c.origin.in_(origins), confirmations.c.delivery.is_(None))
    return _after(connection, query, after, most)


def _after(connection: Connection, query: Select[Any], after: int, most: int) -> list[Any]:
    return list(connection.execute(query.where(confirmations.c.id > after).order_by(confirmations.c.id).limit(most)))


def stopped_for(connection: Connection, origins: Collection[str], after: int, most: int) -> Sequence[Any]:
    """Notices to these origins that something is not delivered any more."""
    query = select(notices).where(notices.c.kind == "stopped", notices.c.member.in_(origins), notices.c.id > after)
    return list(connection.execute(query.order_by(notices.c.id).limit(most)))
