"""Stores of earlier programs, as they were really left behind, to be upgraded by this one.

`broker-3.sql` and `node-3.sql` are the ledger of a small region and the store of one of its nodes, `id`: written by the
program of schema 3 on SQLite and dumped. The files `….postgresql.sql` are the tables which that program makes on
PostgreSQL. `make.py` has made them; they are never made again, since programs of their schema are no more. A later
schema gets files of its own, if a migration is worth a test on rows that the former ones do not have.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, MetaData, create_engine, insert

from broker.migrations import SCHEMA as BROKER
from node.migrations import SCHEMA as NODE
from protocol.migrating import Schema

HERE = Path(__file__).parent
OLDEST = 3
SEED = 3
MEMBERS = ("id", "jp")
COORDINATOR = "asean-rcert"
RESUMED = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
"""When the region goes on: after everything that is in the stores."""
FILES = {"broker": "ledger.db", "node": "node.db"}
SCHEMAS: dict[str, Schema] = {"broker": BROKER, "node": NODE}


def put_sqlite(kind: str, file: Path) -> None:
    """Write the old store of that kind to a file, with its write-ahead log set as a process sets it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as database:
        database.executescript((HERE / f"{kind}-{OLDEST}.sql").read_text("utf-8"))
        database.execute("PRAGMA journal_mode = WAL")


def put_postgresql(kind: str, url: str) -> None:
    """Make the old tables in an empty database, and put the rows of the old store into them."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection, closing(sqlite3.connect(":memory:")) as source:
            connection.exec_driver_sql((HERE / f"{kind}-{OLDEST}.postgresql.sql").read_text("utf-8"))
            source.executescript((HERE / f"{kind}-{OLDEST}.sql").read_text("utf-8"))
            source.row_factory = sqlite3.Row
            made = MetaData()
            made.reflect(connection)
            for table in made.sorted_tables:
                # A name may hold anything but a quote.
                rows = [dict(row) for row in source.execute(f'SELECT * FROM "{table.name}"')]  # noqa: S608
                yes_or_no = [column.name for column in table.columns if isinstance(column.type, Boolean)]
                values = [{**row, **{name: bool(row[name]) for name in yes_or_no}} for row in rows]
                if values:
                    connection.execute(insert(table), values)
    finally:
        engine.dispose()


def put(kind: str, place: Any) -> None:
    """Put the old store where it belongs: into a file, or, by URL, into a database."""
    if isinstance(place, Path):
        put_sqlite(kind, place)
    else:
        put_postgresql(kind, place)
