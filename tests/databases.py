"""On which database the stores of a test are: SQLite files, or databases of a real PostgreSQL server.

A test names the file that a store would be; under PostgreSQL each such name stands for a database of its own, the same
one whenever the test opens it again, as a process does that was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError

import broker.migrations
import broker.store
import broker.tables
import node.migrations
import node.store
import node.tables
from tests.postgresql import Server

_server: Server | None = None
_made: dict[Path, str] = {}
_empty: dict[str, list[str]] = {"ledger.db": [], "node.db": []}
_MAKE: dict[str, Callable[[str], None]] = {
    "ledger.db": lambda url: broker.store.open_engine(url).dispose(),
    "node.db": lambda url: node.store.Store(url).close(),
}
_TABLES = {"ledger.db": broker.tables.metadata, "node.db": node.tables.metadata}


def use(server: Server | None) -> None:
    """From now on stores are on this server, or else in files."""
    global _server  # noqa: PLW0603 - what the fixture sets for the running test
    for file, url in _made.items():
        if _emptied(url, file.name):
            _empty[file.name].append(url)
    _server = server
    _made.clear()


def put(file: Path, url: str) -> None:
    """Let a database that a test has made stand for this file."""
    _made[file] = url


def url_of(file: Path) -> str:
    """The URL of the store that would be this file."""
    if _server is None:
        return f"sqlite:///{file}"
    if file not in _made:
        _made[file] = _empty[file.name].pop() if _empty[file.name] else _fresh(_server, file.name)
    return _made[file]


def _fresh(server: Server, kind: str) -> str:
    """A database with all tables: most tests want them, and deleting a few rows is faster than making files."""
    url = server.create()
    _MAKE[kind](url)
    return url


def _emptied(url: str, kind: str) -> bool:
    """Take everything out of a database that a test has used; False if the test has changed more than rows."""
    engine: Engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(_OTHERS))
            for table in reversed(_TABLES[kind].sorted_tables):
                rows = table.delete()
                connection.execute(rows.where(table.c.name != "schema") if table.name == "meta" else rows)
            return connection.execute(text("SELECT value FROM meta")).scalars().all() == [_SCHEMA[kind]]
    except DBAPIError:
        return False
    finally:
        engine.dispose()


_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_SCHEMA = {"ledger.db": str(broker.migrations.SCHEMA.number), "node.db": str(node.migrations.SCHEMA.number)}


def node_url(directory: Path) -> str | None:
    """What `store` in `node.toml` says for a node with this data directory; nothing for SQLite."""
    return None if _server is None else url_of(directory / "node.db")


@contextmanager
def broken_commit(engine: Engine, *, committed: bool) -> Iterator[None]:
    """Within, the answer to a commit is lost with the connection; what was asked for was done, or not."""

    def lose(connection: Connection) -> None:
        session = connection.connection.dbapi_connection
        assert session is not None
        if committed:
            session.commit()
        session.close()

    event.listen(engine, "commit", lose)
    try:
        yield
    finally:
        event.remove(engine, "commit", lose)
