"""The SQL of who may ask, what waits for a person, and what sources said: tokens, the review queue, markings.

Part of `store.py`. Guarantees: each query goes by an index, and shows what the caller may read and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, insert, select

from node.tables import inbox, own_reports, review, sources, tokens

_MOST: Final = 500
"""Values in one IN list: below what any database takes."""

_REFUSED: Final = and_(review.c.state == "refused", review.c.filing != b"")


def any_of(column: Any, values: Collection[Any]) -> Iterator[Any]:
    """Conditions that together say `column in values`."""
    listed = list(values)
    for start in range(0, len(listed), _MOST):
        yield column.in_(listed[start : start + _MOST])


def rows_by(rows: Iterable[Row[Any]], column: str) -> dict[Any, Row[Any]]:
    """Rows by the value of a column that tells them apart."""
    return {getattr(row, column): row for row in rows}


class DoorRows:
    """Queries; on a connection that shows one state of the database."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def tokens(self) -> list[Row[Any]]:
        """Every token that was ever made, by name."""
        return list(self._db.execute(select(tokens).order_by(tokens.c.name)))

    def token(self, name: str) -> Row[Any] | None:
        """A token by its name."""
        return self._db.execute(select(tokens).where(tokens.c.name == name)).one_or_none()

    def held_as(self, client: str, hashes: Collection[str]) -> dict[str, int]:
        """Numbers in the review queue of what a client filed, by the hash of the filing."""
        query = select(review.c.item_hash, review.c.id).where(review.c.client == client)
        return {row[0]: row[1] for c in any_of(review.c.item_hash, hashes) for row in self._db.execute(query.where(c))}

    def review_row(self, number: int) -> Row[Any] | None:
        """A filing in the review queue."""
        return self._db.execute(select(review).where(review.c.id == number)).one_or_none()

    def review_page(
        self, after: int, limit: int, *, state: str, tlps: Collection[str], client: str | None = None
    ) -> list[Row[Any]]:
        """Filings in a state, without their content, in the order in which they came.

        Args:
            tlps: only those that are marked so.
            client: only those of this one.
        """
        query = select(*(column for column in review.c if column is not review.c.filing))
        query = query.where(review.c.state == state, review.c.id > after, review.c.tlp.in_(tlps))
        if client is not None:
            query = query.where(review.c.client == client)
        return list(self._db.execute(query.order_by(review.c.id).limit(limit)))

    def held(self) -> int:
        """How many filings wait for a person."""
        query = select(func.count()).select_from(review).where(review.c.state == "held")
        return int(self._db.execute(query).scalar_one())

    def refused_filings(self, before: int, most: int) -> list[Row[Any]]:
        """Filings that were refused before that time and have their content yet, the first ones first."""
        query = select(review.c.id, review.c.tlp, review.c.client).where(_REFUSED, review.c.decided_at < before)
        return list(self._db.execute(query.order_by(review.c.id).limit(most)))

    def refused_with_content(self) -> int:
        """How many refused filings have their content yet."""
        return int(self._db.execute(select(func.count()).select_from(review).where(_REFUSED)).scalar_one())

    def said(self, report_ids: Collection[str]) -> list[Row[Any]]:
        """What each client has posted last of these reports from their sources."""
        query = select(sources)
        return [row for c in any_of(sources.c.report_id, report_ids) for row in self._db.execute(query.where(c))]

    def filed_since(self, client: str, at: int) -> int:
        """How many reports a client has filed since a time, those that were held among them."""
        filed = select(func.count()).where(own_reports.c.client == client, own_reports.c.filed_at >= at)
        # What was released stands among the reports as well.
        held = select(func.count()).where(review.c.client == client, review.c.held_at >= at)
        held = held.where(review.c.state != "released")
        return sum(int(self._db.execute(query).scalar_one()) for query in (filed, held))

    def markings(self, column: str, values: Collection[str]) -> dict[str, set[str]]:
        """By `digest` or `report_id`, how the reports are marked: own ones and others', all revisions."""
        found: dict[str, set[str]] = {}
        for table in (own_reports, inbox):
            query = select(table.c[column], table.c.tlp)
            for condition in any_of(table.c[column], values):
                for name, tlp in self._db.execute(query.where(condition)):
                    found.setdefault(name, set()).add(tlp)
        return found


class DoorWrites(DoorRows):
    """Changes; within a transaction."""

    def hear(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Remember what clients posted last of what they have from other tools; each report and client once."""
        if rows:
            ours = (sources.c.report_id == bindparam("_report"), sources.c.client == bindparam("_client"))
            names = [{"_report": row["report_id"], "_client": row["client"]} for row in rows]
            self._db.execute(delete(sources).where(*ours), names)
            self._db.execute(insert(sources), list(rows))
