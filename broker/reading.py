"""Reading the ledger as a whole, beside a running broker: for `check` and `audit`. All of its SQL only reads.

Guarantees: a snapshot shows one state, however long it is read; every walk goes by a unique column page by page, never
by an offset, so that memory stays flat; the database is opened so that nothing can be written. Refuses a ledger that is
not there, of another schema, or damaged (ConfigError).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, LargeBinary, String, Table, create_engine, func, make_url, select, tuple_
from sqlalchemy.exc import DatabaseError, DBAPIError

from broker.migrations import SCHEMA
from broker.store import Store, chunks
from broker.tables import confirmations, metadata, reports
from protocol import database
from protocol.errors import ConfigError
from protocol.migrating import number_of


def open_reader(url: str) -> Engine:
    """Connect to a ledger that is there, to read it beside a running broker. ConfigError if it is not there."""
    if not database.is_postgresql(url):
        path = Path(make_url(url).database or "")
        if not path.is_file():
            raise ConfigError(f"there is no ledger at {path}: nothing was decided yet, or it is another directory")
        url = f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true"
    try:
        engine = database.connect(url, reader=True) if database.is_postgresql(url) else create_engine(url)
        with engine.connect() as connection:
            SCHEMA.hold(number_of(connection, metadata))
    except DBAPIError as exc:
        raise ConfigError(f"the ledger cannot be read: {database.said(exc)}") from exc
    return engine


@contextmanager
def snapshot(ledger: Store) -> Iterator[Connection]:
    """A connection that sees one state of the ledger, however long it reads and whatever is written beside it.

    Raises:
        ConfigError: the database is damaged so that it cannot be read.
        Transient: it cannot be read now.
    """
    try:
        with ledger.reading() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection
    except DatabaseError as exc:
        raise ConfigError(f"the ledger is damaged: {database.said(exc)}; restore it from a backup") from exc


def pages(
    connection: Connection, table: Table, key: str = "id", most: int = 500, columns: Sequence[str] = (), **equal: Any
) -> Iterator[list[Any]]:
    """All rows of a table in the order of a unique column, page by page: flat in memory.

    Args:
        columns: those wanted, the key among them; all if none are named.
    """
    chosen = [table.c[name] for name in columns] or list(table.c)
    query = select(*chosen).where(*(table.c[name] == value for name, value in equal.items()))
    query = query.order_by(table.c[key]).limit(most)
    rows = list(connection.execute(query))
    while rows:
        yield rows
        rows = list(connection.execute(query.where(table.c[key] > getattr(rows[-1], key)))) if len(rows) == most else []


def rows_where(
    connection: Connection, table: Table, column: str, values: Iterable[Any], columns: Sequence[str] = ()
) -> list[Any]:
    """Rows of which a column is one of the values."""
    chosen = [table.c[name] for name in columns] or list(table.c)
    return [
        row for chunk in chunks(values) for row in connection.execute(select(*chosen).where(table.c[column].in_(chunk)))
    ]


def of_several(connection: Connection, column: str) -> list[bytes]:
    """Values of an id column of `reports` that stand with more than one origin."""
    chosen = reports.c[column]
    query = select(chosen).group_by(chosen).having(func.min(reports.c.origin) != func.max(reports.c.origin))
    return [row[0] for row in connection.execute(query)]


def strays(connection: Connection, table: Table, column: str, of: Table, named: str) -> list[Any]:
    """Values of a column that no row of another table is named by, each once."""
    there = select(of.c[named]).where(of.c[named] == table.c[column]).exists()
    query = select(table.c[column]).where(table.c[column].is_not(None), ~there).distinct().order_by(table.c[column])
    return [row[0] for row in connection.execute(query)]


def damage(connection: Connection, most: int = 20) -> list[str]:
    """What the database says of its own pages and indexes; empty if all is well, or if it is not SQLite."""
    if connection.dialect.name != "sqlite":
        return []
    found = [str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA integrity_check({most})")]
    return [] if found == ["ok"] else found


def mistyped(connection: Connection) -> list[str]:
    """Columns in which SQLite holds a value of another type than was ever written there."""
    if connection.dialect.name != "sqlite":
        return []
    return [
        f"{table.name}.{column.name} holds {kind}"
        for table in metadata.sorted_tables
        for column in table.columns
        for (kind,) in connection.execute(select(func.typeof(column)).distinct())
        if kind != "null" and kind != _kept_as(column.type)
    ]


def _kept_as(kind: Any) -> str:
    """What SQLite calls a value of a column of this type."""
    if isinstance(kind, LargeBinary):
        return "blob"
    return "text" if isinstance(kind, String) else "integer"


def count(connection: Connection, table: Table, **equal: Any) -> int:
    """How many rows."""
    query = select(func.count()).select_from(table).where(*(table.c[name] == value for name, value in equal.items()))
    return int(connection.scalar(query) or 0)


def overdue(connection: Connection, before: int) -> int:
    """How many reports have expired before that time and still have their content."""
    query = select(func.count()).where(reports.c.erased_at.is_(None), reports.c.expires_at < before)
    return int(connection.scalar(query) or 0)


# --- who got what -----------------------------------------------------------------------------------------------

_DECIDED: Final = (
    reports.c.seq,
    reports.c.digest,
    reports.c.submission,
    reports.c.origin,
    reports.c.report_id,
    reports.c.revision,
    reports.c.phase,
    reports.c.received_at,
    reports.c.grants,
)
_PLACE: Final = tuple_(reports.c.received_at, reports.c.seq)


def decided(
    connection: Connection,
    *,
    since: int | None = None,
    until: int | None = None,
    origin: str | None = None,
    report_id: bytes | None = None,
    revision: int | None = None,
    most: int = 5000,
) -> Iterator[list[Any]]:
    """Accepted reports in the order in which they were decided, page by page, by an index on time or id.

    Args:
        since, until: milliseconds; received from then on, and before then.
    """
    query = select(*_DECIDED).order_by(reports.c.received_at, reports.c.seq).limit(most)
    if since is not None:
        query = query.where(reports.c.received_at >= since)
    if until is not None:
        query = query.where(reports.c.received_at < until)
    for column, wanted in (
        (reports.c.origin, origin),
        (reports.c.report_id, report_id),
        (reports.c.revision, revision),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    rows = list(connection.execute(query))
    while rows:
        yield rows
        last = rows[-1]
        after = query.where(tuple_(last.received_at, last.seq) < _PLACE)
        rows = list(connection.execute(after)) if len(rows) == most else []


def users_words(connection: Connection, origin: str, since: int, most: int = 500) -> Iterator[Any]:
    """Confirmations of an origin's reports that name no delivery: what people said, from that time on."""
    words = confirmations.c.origin == origin, confirmations.c.delivery.is_(None), confirmations.c.at >= since
    query = select(confirmations).where(*words).order_by(confirmations.c.id).limit(most)
    last = 0
    while rows := list(connection.execute(query.where(confirmations.c.id > last))):
        yield from rows
        last = rows[-1].id
