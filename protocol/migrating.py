"""What a store is, and how one of an earlier program becomes one of this program: the same for node and broker.

A store says in its table `meta`, under `schema`, by one number what its tables are. That number alone counts; Alembic
brings the operations, for SQLite too, and keeps no table of its own. A migration leads from one number to the next, and
a new store is made from the tables as they are now: a test holds both ways to the same result.

Guarantees: all migrations that a store needs, and its new number, are one transaction, on disk when it returns; a
process that is killed at any moment leaves the store as it was, or as it is to be. On SQLite there is a whole copy of
the store before, beside it, and no reference leads nowhere afterwards; on PostgreSQL no process uses the store
meanwhile, and two that upgrade take turns. Refuses (ConfigError): a store that is newer than the program, or older than
every migration; one that a process uses; one whose references do not hold.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, insert, inspect, make_url, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from protocol import database
from protocol.errors import ConfigError
from protocol.process import alone

if TYPE_CHECKING:
    from alembic.operations import Operations

_LOCK_TIMEOUT: Final = "15s"
"""For which a migration waits for somebody who reads a table, on PostgreSQL."""
_BUSY: Final = 10_000
"""Milliseconds; on SQLite."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: `run` changes tables and rows, and is not changed any more once a store has gone through it."""

    about: str
    """What changes, in a few words for the operator."""
    run: Callable[[Operations], None]


@dataclass(frozen=True, slots=True)
class Schema:
    """What a program takes a store to be."""

    kind: str
    """`node` or `broker`, as in the commands."""
    metadata: MetaData
    baseline: int
    """The number from which the first migration leads on."""
    migrations: tuple[Migration, ...]
    before: str
    """What to do with a store from before the baseline."""

    @property
    def number(self) -> int:
        """Of a store of this program."""
        return self.baseline + len(self.migrations)

    def needed(self, found: int) -> tuple[Migration, ...]:
        """The migrations that a store of this number lacks, in order.

        Raises:
            ConfigError: there is no way from it to here.
        """
        if found > self.number:
            raise ConfigError(
                f"the store has schema {found}, of a newer program; this one knows {self.number}: install the newer one"
            )
        if found < self.baseline:
            raise ConfigError(f"the store has schema {found}, of an early program: {self.before}")
        return self.migrations[found - self.baseline :]

    def hold(self, found: int | None, place: str = "DIR") -> None:
        """See that a store is of this program.

        Args:
            found: its number; None if it has none.
            place: the directory, for the command that upgrades it.

        Raises:
            ConfigError: it is not; with what to type.
        """
        if found is None:
            raise ConfigError("the database is not of this program: it has no schema number")
        if self.needed(found):
            raise ConfigError(
                f"the store has schema {found}, of an earlier program; this one needs {self.number}: "
                f"type `kentongan {self.kind} upgrade {place}`"
            )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is, and whose."""

    url: str
    data: Path
    """The data directory of its process, which has a lock."""
    directory: str
    """As the operator names it."""

    @property
    def file(self) -> Path | None:
        """The file of a store on SQLite."""
        return None if database.is_postgresql(self.url) else Path(make_url(self.url).database or "")

    @property
    def shown(self) -> str:
        """For messages; without a password."""
        return str(self.file) if self.file else make_url(self.url).render_as_string()


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a store."""

    before: int
    after: int
    copy: Path | None
    """As it was before; None if none was made."""


def number_of(connection: Connection, metadata: MetaData) -> int | None:
    """The number of a store whose table `meta` is there; None if it says none."""
    meta = metadata.tables["meta"]
    found = connection.scalar(select(meta.c.value).where(meta.c.name == "schema"))
    if found is not None and not str(found).isdecimal():
        raise ConfigError(f"the store's schema number is {str(found)[:20]!r}: that is none")
    return None if found is None else int(found)


def prepare(connection: Connection, schema: Schema) -> None:
    """Make the tables of an empty database, or see that they are of this program; within one transaction.

    Raises:
        ConfigError: see `Schema.hold`.
    """
    meta = schema.metadata.tables["meta"]
    if inspect(connection).has_table("meta"):
        schema.hold(number_of(connection, schema.metadata))
        return
    schema.metadata.create_all(connection)
    connection.execute(insert(meta), {"name": "schema", "value": str(schema.number)})


def look(place: Place, schema: Schema) -> int | None:
    """The number of a store, read beside whatever uses it; None if there is no store yet.

    Raises:
        ConfigError: it cannot be read.
        Transient: the database is away.
    """
    if place.file is None:
        engine = database.connect(place.url, reader=True, poolclass=NullPool)
    elif not place.file.is_file():
        return None
    else:
        engine = create_engine(f"sqlite:///file:{quote(str(place.file))}?mode=ro&uri=true", poolclass=NullPool)
    try:
        with database.mended(), engine.connect() as connection:
            return number_of(connection, schema.metadata) if inspect(connection).has_table("meta") else None
    except DBAPIError as exc:
        raise ConfigError(f"{place.shown} cannot be read: {database.said(exc)}") from exc
    finally:
        engine.dispose()


def upgrade(place: Place, schema: Schema, *, copy: bool = True) -> Done | None:
    """Take a store through the migrations that it lacks.

    Args:
        copy: whether a store on SQLite is copied first, to a file beside it. On PostgreSQL the server's own tools do.

    Returns:
        what became of it; None if there is no store yet, or nothing to do.

    Raises:
        ConfigError: see above; the store is as it was.
        Transient: the disk is full, a table is in use, or the database is away; the store is as it was.
    """
    found = look(place, schema)
    if found is None or not schema.needed(found):
        return None
    if place.file is None:
        return _upgrade_postgresql(place, schema)
    with alone(place.data):
        # Once more: another command may have been quicker.
        found = look(place, schema)
        if found is None or not schema.needed(found):
            return None
        copied = _copy(place.file, found) if copy else None
        # Each connection of this engine is closed after its use, and the last one takes the write-ahead log with it.
        with database.mended(), _sqlite(place.file).begin() as connection:
            _migrate(connection, schema, found)
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
            if broken is not None:
                raise ConfigError(f"{place.shown}: rows of {broken[0]} refer to what is not there; restore a backup")
    return Done(found, schema.number, copied)


def _upgrade_postgresql(place: Place, schema: Schema) -> Done | None:
    with database.upgrading(place.url) as engine, database.mended(), engine.begin() as connection:
        found = number_of(connection, schema.metadata)
        if found is None or not schema.needed(found):
            return None
        if not database.unused(connection, schema.kind):
            raise ConfigError(f"a {schema.kind} uses {place.shown}: stop it first, and all others that do")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        _migrate(connection, schema, found)
    return Done(found, schema.number, None)


def _migrate(connection: Connection, schema: Schema, found: int) -> None:
    # Only here: it takes a while to load, and is needed once in the life of a program.
    from alembic.operations import Operations  # noqa: PLC0415
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415

    meta = schema.metadata.tables["meta"]
    context = MigrationContext.configure(connection)
    for step in schema.needed(found):
        step.run(Operations(context))
    connection.execute(update(meta).where(meta.c.name == "schema").values(value=str(schema.number)))


def _sqlite(file: Path) -> Engine:
    """One connection, without the driver's own transactions: it would commit before every change of a table."""
    engine = create_engine(f"sqlite:///{file}", hide_parameters=True, poolclass=NullPool)

    def set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        # Tables are replaced by copies of themselves, and what refers to them must not notice: checked at the end.
        settings = ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=OFF")
        for pragma in (*settings, f"busy_timeout={_BUSY}"):
            connection.execute(f"PRAGMA {pragma}")
        # What is sorted for an index may be large, and is content: beside the store is room for it, in /tmp maybe not.
        beside = str(file.resolve().parent).replace("'", "''")
        connection.execute(f"PRAGMA temp_store_directory='{beside}'")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def copy_of(file: Path, found: int) -> Path:
    """Where a store of that number is copied to before it is upgraded."""
    return file.with_name(f"{file.name}.schema-{found}")


def _copy(file: Path, found: int) -> Path:
    """Copy a store to a file beside it, in place of an earlier copy of that number; on disk when it returns."""
    copy = copy_of(file, found)
    fresh = copy.with_name(f"{copy.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        database.copy_sqlite(file, fresh)
        _sync(fresh)
        fresh.rename(copy)
        _sync(copy.parent)
    except OSError as exc:
        raise ConfigError(f"the store cannot be copied to {copy}: {exc.strerror or exc}") from exc
    finally:
        fresh.unlink(missing_ok=True)
    return copy


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- commands ---------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both `upgrade` commands take."""
    parser.add_argument("--check", action="store_true", help="only say what would be done; the exit code is 1 if so")
    parser.add_argument("--without-copy", action="store_true", help="do not copy the store first: you have a backup")


def run(place: Place, schema: Schema, say: Callable[[str], None], *, check: bool, copy: bool) -> int:
    """The command: say what is to be done, and unless `check`, do it; returns the exit code.

    Raises:
        ConfigError: see `upgrade`.
        Transient: see `upgrade`.
    """
    found = look(place, schema)
    if found is None:
        say(f"{place.shown}: there is no store yet; the first start makes it")
        return 0
    steps = schema.needed(found)
    if not steps:
        say(f"{place.shown}: schema {found}, as this program needs it")
        return 0
    say(f"{place.shown}: schema {found}; this program needs {schema.number}")
    for number, step in enumerate(steps, found + 1):
        say(f"  {number}: {step.about}")
    if check:
        say(f"Stop it, and type `kentongan {schema.kind} upgrade {place.directory}`")
        return 1
    done = upgrade(place, schema, copy=copy)
    say(f"{place.shown}: done")
    if done is not None and done.copy is not None:
        say(
            f"{done.copy} is the store as it was; what is erased from now on stays in it, so delete it when all is well"
        )
    return 0


def before_start(place: Place, schema: Schema, *, allowed: bool) -> Done | None:
    """See that a process may start on a store, or make it so.

    Args:
        allowed: whether the store may be upgraded; otherwise an older one is refused.

    Raises:
        ConfigError: see `Schema.hold` and `upgrade`.
        Transient: see `upgrade`.
    """
    if allowed:
        return upgrade(place, schema)
    found = look(place, schema)
    if found is not None:
        schema.hold(found, place.directory)
    return None
