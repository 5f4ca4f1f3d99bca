"""Reading a node's store as a whole, beside a running node: for `check`. All of its SQL only reads.

Guarantees: a snapshot shows one state, however long it is read; every walk goes by a unique column page by page, so
that memory stays flat; `open_reader` opens the database so that nothing can be written. Refuses one that is not there,
of another schema, or damaged (ConfigError).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import LargeBinary, Row, String, Table, func, make_url, select
from sqlalchemy.exc import DatabaseError

from node.migrations import SCHEMA
from node.store import Reads, Store
from node.tables import metadata
from protocol import database
from protocol.errors import ConfigError, Transient


def open_reader(directory: Path, url: str | None = None) -> Store:
    """The store of a node that may be running. ConfigError if it is not there, or is another program's."""
    place = make_url(url).render_as_string() if url else str(directory / "node.db")
    if url is None:
        if not (directory / "node.db").is_file():
            raise ConfigError(f"there is no database at {place}: the node never ran, or it is another directory")
        url = f"sqlite:///file:{quote(place)}?mode=ro&uri=true"
    store = Store(url, readonly=True)
    with snapshot(store) as reads:
        SCHEMA.hold(reads.position("schema"))
    return store


@contextmanager
def snapshot(store: Store) -> Iterator[Looking]:
    """Queries that all see one state of the store.

    Raises:
        ConfigError: the database is damaged so that it cannot be read.
        Transient: it is away.
    """
    try:
        with store.engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield Looking(connection)
    except DatabaseError as exc:
        if isinstance(known := database.family(exc), Transient):
            raise known from exc
        raise ConfigError(f"the store cannot be read: {database.said(exc)}; restore it from a backup") from exc


class Looking(Reads):
    """Queries over whole tables."""

    def pages(
        self, table: Table, key: str, most: int = 200, columns: Sequence[str] = (), **equal: Any
    ) -> Iterator[list[Row[Any]]]:
        """All rows of a table in the order of a unique column, page by page: flat in memory."""
        chosen = [table.c[name] for name in columns] or list(table.c)
        query = select(*chosen).where(*(table.c[name] == value for name, value in equal.items()))
        query = query.order_by(table.c[key]).limit(most)
        rows = list(self._db.execute(query))
        while rows:
            yield rows
            last = getattr(rows[-1], key)
            rows = list(self._db.execute(query.where(table.c[key] > last))) if len(rows) == most else []

    def rows_where(self, table: Table, column: str, values: Collection[Any]) -> list[Row[Any]]:
        """Rows of any table of which a column is one of the values."""
        return self._by(table, column, values)

    def strays(self, table: Table, column: str, of: Table, named: str, **equal: Any) -> list[Any]:
        """Values of a column that no row of another table is named by, each once."""
        there = select(of.c[named]).where(of.c[named] == table.c[column]).exists()
        query = select(table.c[column]).where(*(table.c[name] == value for name, value in equal.items()), ~there)
        return [row[0] for row in self._db.execute(query.distinct().order_by(table.c[column]))]

    def count(self, table: Table, **equal: Any) -> int:
        """How many rows."""
        query = select(func.count()).select_from(table)
        return int(self._db.execute(query.where(*(table.c[n] == v for n, v in equal.items()))).scalar_one())

    def damage(self) -> list[str]:
        """What SQLite says of its own pages and indexes; empty if all is well, or if it is not SQLite."""
        if self._db.dialect.name != "sqlite":
            return []
        found = [str(row[0]) for row in self._db.exec_driver_sql("PRAGMA integrity_check(20)")]
        return [] if found == ["ok"] else found

    def mistyped(self) -> list[str]:
        """Columns in which SQLite holds a value of another type than was ever written there."""
        if self._db.dialect.name != "sqlite":
            return []
        return [
            f"{table.name}.{column.name} holds {kind}"
            for table in metadata.sorted_tables
            for column in table.columns
            for (kind,) in self._db.execute(select(func.typeof(column)).distinct())
            if kind != "null" and kind != _kept_as(column.type)
        ]


def _kept_as(kind: Any) -> str:
    """What SQLite calls a value of a column of this type."""
    if isinstance(kind, LargeBinary):
        return "blob"
    return "text" if isinstance(kind, String) else "integer"
