"""PostgreSQL beneath the ledger and beneath a node's store: sessions, what errors mean, and being alone.

Guarantees: every session waits for the disk when it commits, whatever the server's default is; no statement, no wait
for a lock and no idle transaction lasts for ever, so that a process that hangs does not hold up the others; a store is
not upgraded while a session of a process that uses it lives; texts are bounded by who takes them and not by the
columns, as in SQLite, and one that PostgreSQL cannot hold (it has a NUL) is stored with U+FFFD in its place: a peer's
words end nothing; no error shows a password.

Refuses, as ConfigError: another driver, a server before `OLDEST`, one that does not write to disk (`fsync = off`), one
whose text is not UTF-8, and what its operator must change (names, passwords, rights).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, String, Table, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import NullPool

from protocol.errors import ConfigError, Transient

OLDEST: Final = 14
PATIENCE: Final = 15.0
"""Seconds for which a start waits for a server that is starting too, or for the end of a predecessor's session."""
_AGAIN: Final = 0.2
_IDLE: Final = 30
"""Seconds after which the server ends the session of a holder of a lock that has stopped; see `Sole`."""
_ALIVE: Final = 5.0
_PASSING: Final = ("08", "40", "53", "57", "58030", "55P03", "25006", "25P03")
"""SQLSTATEs, or classes of them: lost, lost a race, full, shutting down, a disk error, a lock, a standby, too slow."""
_SQLITE: Final = ("SQLITE_FULL", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR")
_OPERATORS: Final = ("28", "3D", "3F", "42501")
_FINAL: Final = ("authentication failed", "does not exist", "no pg_hba.conf entry", "failed to resolve", "no password")
"""A connection that fails has no SQLSTATE, only words; with others, a start waits before it gives up."""
_ORDERS: Final = {
    "statement_timeout": "60s",
    "lock_timeout": "15s",
    "idle_in_transaction_session_timeout": "30s",
    "default_transaction_isolation": "read committed",
}
_READERS: Final = {
    "statement_timeout": "0",
    "lock_timeout": "15s",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "on",
}
_UPGRADES: Final = {"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0"}


_NUMBER: Final = "hashtextextended('kentongan/' || current_schema() || '/used as {}', 0)"
"""The number of the lock on a store that is in use; the database is the lock's own."""


@compiles(String, "postgresql")
def _of_any_length(_type: Any, _compiler: Any, **_options: Any) -> str:
    """The lengths in the tables say what to expect; SQLite does not look at them either."""
    return "VARCHAR"


def is_postgresql(url: str) -> bool:
    """Whether a store's URL is one of PostgreSQL; SQLite is the other database."""
    return not url.startswith("sqlite:")


def connect(url: str, *, reader: bool = False, use: str = "", **options: Any) -> Engine:
    """Connect, and see that the server is as it must be.

    Args:
        url: `postgresql+psycopg://…`; what it leaves out, libpq takes from its environment and password file.
        reader: never writes, and may take its time.
        use: as what a process uses the store: while one of these sessions lives, `upgrading` is refused.
        options: of SQLAlchemy's `create_engine`.

    Raises:
        ConfigError: the operator must change something.
    """
    return _connect(url, _READERS if reader else _ORDERS, use, **options)


def _connect(url: str, settings: dict[str, str], use: str = "", **options: Any) -> Engine:
    engine = _engine(url, **options)
    event.listen(engine, "connect", lambda connection, _record: _set_up(connection, settings, use))
    end = time.monotonic() + PATIENCE
    while True:
        try:
            engine.connect().close()
        except DBAPIError as exc:
            why = said(exc)
            if any(word in why for word in _FINAL) or time.monotonic() > end:
                raise ConfigError(f"the database cannot be used: {why}") from exc
            time.sleep(_AGAIN)
        else:
            return engine


def _engine(url: str, **options: Any) -> Engine:
    shape = "a database's URL is postgresql+psycopg://USER@HOST/DATABASE, special characters in it as %XX"
    try:
        target = make_url(url)
    except (ArgumentError, ValueError):
        # Not chained: the text of a URL that cannot be read holds its password.
        raise ConfigError(shape) from None
    if target.drivername != "postgresql+psycopg":
        raise ConfigError(f"{shape}; {target.drivername[:40]!r} is none")
    try:
        return create_engine(target, hide_parameters=True, pool_pre_ping=True, **options)
    except (ImportError, NoSuchModuleError) as exc:
        raise ConfigError("PostgreSQL needs a library: pip install 'kentongan[postgresql]'") from exc


def _set_up(connection: Any, settings: dict[str, str], use: str = "") -> None:
    """Give a new session its settings, in one round trip, and look at the server's."""
    from psycopg.types.string import StrDumper  # noqa: PLC0415 - an optional dependency

    class WithoutNul(StrDumper):
        """Text as PostgreSQL can hold it: an error here would end the process, again and again."""

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)

    connection.adapters.register_dumper(str, WithoutNul)
    # `remote_apply` is the one setting that waits for more than `on` does.
    commit = "CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END"
    ordered = "".join(f", set_config('{name}', '{value}', false)" for name, value in settings.items())
    used = f"pg_try_advisory_lock_shared({_NUMBER.format(use)})" if use else "true"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('fsync'), "
            f"current_setting('server_encoding'), {used}, set_config('synchronous_commit', {commit}, false){ordered}"
        )
        version, fsync, encoding, usable, *_ = cursor.fetchone()
    connection.commit()
    if version < OLDEST:
        raise ConfigError(f"the database server is PostgreSQL {version}: it must be {OLDEST} or newer")
    if fsync != "on":
        raise ConfigError("the database server has fsync = off: what it commits is not on disk; set it to on")
    if encoding != "UTF8":
        raise ConfigError(f"the database's encoding is {encoding}: make it with ENCODING 'UTF8'")
    if not usable:
        raise Transient("database: it is being upgraded")


def vacuum(engine: Engine, *tables: Table) -> None:
    """Take the remains of changed and deleted rows out of tables, for as long as it takes.

    Raises:
        Transient: not now.
    """
    with mended(), engine.connect() as connection:
        outside = connection.execution_options(isolation_level="AUTOCOMMIT")
        outside.exec_driver_sql("SET statement_timeout = 0")
        try:
            outside.exec_driver_sql(f"VACUUM {', '.join(table.name for table in tables)}")
        finally:
            # Not given back to the pool: its sessions have a limit.
            outside.invalidate()


# --- errors -----------------------------------------------------------------------------------------------------


def copy_sqlite(source: Path, target: Path) -> None:
    """Write one consistent state of a database file to another file, whoever writes to the first one meanwhile.

    Raises:
        ConfigError: it is no database, or cannot be written.
    """
    options = {"isolation_level": "AUTOCOMMIT", "poolclass": NullPool}
    try:
        with create_engine(f"sqlite:///{source}", **options).connect() as connection:
            connection.execute(text("VACUUM INTO :target"), {"target": str(target)})
        with create_engine(f"sqlite:///{target}", **options).connect() as connection:
            # As those are that a process has made: readers cannot change it.
            connection.execute(text("PRAGMA journal_mode = WAL"))
    except DBAPIError as exc:
        raise ConfigError(f"{source} cannot be copied: {said(exc)}") from exc


def said(exc: DBAPIError) -> str:
    """What the server or the driver says of an error, without details: these can hold what is in a row."""
    primary = getattr(getattr(exc.orig, "diag", None), "message_primary", None)
    return str(primary or exc.orig).strip().splitlines()[0][:300]


def family(exc: DBAPIError) -> ConfigError | Transient | None:
    """To which of the families of `protocol/errors.py` an error of a database belongs; None: it is a bug."""
    if type(exc.orig).__module__ == "sqlite3":
        full = getattr(exc.orig, "sqlite_errorname", "").startswith(_SQLITE)
        return Transient("the disk takes no more for now") if full else None
    state = getattr(exc.orig, "sqlstate", None)
    lost = exc.connection_invalidated or (state is None and type(exc.orig).__name__ == "OperationalError")
    if lost or (state or "").startswith(_PASSING):
        return Transient(f"database: {said(exc)}")
    if (state or "").startswith(_OPERATORS):
        return ConfigError(f"the database cannot be used: {said(exc)}")
    return None


@contextmanager
def mended() -> Iterator[None]:
    """Raise errors of the database as what they are.

    Raises:
        Transient: nothing was committed, except perhaps when the connection was lost during the commit itself.
        ConfigError: the operator must change something.
    """
    try:
        yield
    except DBAPIError as exc:
        known = family(exc)
        if known is None:
            raise
        raise known from exc


# --- being alone ------------------------------------------------------------------------------------------------


def lock_number(engine: Engine, name: str) -> int:
    """The number of an advisory lock: of this name, in this schema (the database is the lock's own)."""
    with engine.connect() as connection:
        schema = connection.scalar(select(func.current_schema()))
    return int.from_bytes(sha256(f"kentongan/{schema}/{name}".encode()).digest()[:8], "big", signed=True)


def one_at_a_time(connection: Connection, number: int) -> None:
    """Wait until no other transaction holds this lock, and hold it until the end of the transaction."""
    connection.execute(select(func.pg_advisory_xact_lock(number)))


@contextmanager
def making(engine: Engine) -> Iterator[None]:
    """Be the only one that makes tables, in any number of transactions."""
    number = lock_number(engine, "tables")
    with engine.connect() as session:
        session.execute(select(func.pg_advisory_lock(number)))
        session.commit()
        try:
            yield
        finally:
            _end(session)


@contextmanager
def upgrading(url: str) -> Iterator[Engine]:
    """Have a store to change its tables, for as long as it takes, after whoever does the same now.

    Yields:
        an engine for it. `unused` says whether nobody else has the store.

    Raises:
        ConfigError: the operator must change something.
        Transient: the database is away.
    """
    engine = _connect(url, _UPGRADES)
    try:
        with mended(), making(engine):
            yield engine
    finally:
        engine.dispose()


def unused(connection: Connection, use: str) -> bool:
    """Whether no process uses the store; then none begins to until the end of the transaction."""
    return bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({_NUMBER.format(use)})").scalar())


class Sole:
    """A session that holds a lock for as long as it lives: who writes through it writes alone. One thread at a time.

    When the session is lost, so is the lock. It can be taken again once the server has ended the old session, and with
    it a commit whose answer was lost: whoever takes it reads what happened, and nothing happens after that.

    Args:
        engine: where.
        name: of the lock.
        yields: let another have it after `_IDLE` seconds in which `take` was not called: a stopped process.
    """

    def __init__(self, engine: Engine, name: str, *, yields: bool = False) -> None:
        self._engine = engine
        self._number = lock_number(engine, name)
        self._name = f"kentongan {name}"
        self._idle = f"{_IDLE}s" if yields else "0"
        self._session: Connection | None = None
        self._seen = 0.0
        self._term = 0

    @property
    def held(self) -> bool:
        """Whether the lock was held when the session was last used."""
        return self._session is not None

    def take(self) -> int:
        """Take the lock, or see that it is still held.

        Returns:
            The number of the term, another one whenever the lock was taken anew; 0 if somebody else holds it.

        Raises:
            Transient: the database is away.
        """
        with mended():
            if self._session is not None and time.monotonic() - self._seen > _ALIVE:
                self._see()
            if self._session is None:
                self._begin()
        return self._term if self._session is not None else 0

    def wait(self, otherwise: str) -> None:
        """Take the lock, after the end of a predecessor's session if need be.

        Raises:
            ConfigError: somebody else holds it and does not let go; in these words.
            Transient: the database is away.
        """
        end = time.monotonic() + PATIENCE
        while not self.take():
            if time.monotonic() > end:
                raise ConfigError(otherwise)
            time.sleep(_AGAIN)

    def _begin(self) -> None:
        session = self._engine.connect()
        try:
            taken = session.scalar(select(func.pg_try_advisory_lock(self._number)))
            # The settings would stay with a session that goes back to the pool.
            for name, value in (
                (("idle_session_timeout", self._idle), ("application_name", self._name)) if taken else ()
            ):
                session.execute(select(func.set_config(name, value, False)))
            session.commit()
        except BaseException:
            _end(session)
            raise
        if not taken:
            session.close()
            return
        self._session, self._seen, self._term = session, time.monotonic(), self._term + 1

    def _see(self) -> None:
        session = self._session
        try:
            if session is not None:
                session.execute(select(1))
                session.commit()
        except DBAPIError:
            self.leave()
        self._seen = time.monotonic()

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction of the holder.

        Raises:
            Transient: the lock is not held (any more), or the database is away; it must be taken again.
        """
        session = self._session
        if session is None:
            raise Transient("database: the lock is not held")
        self._seen = time.monotonic()
        try:
            with session.begin():
                yield session
        except BaseException:
            if session.invalidated or session.closed:
                self.leave()
            raise

    def leave(self) -> None:
        """Let go of the lock. May be called again."""
        session, self._session = self._session, None
        if session is not None:
            _end(session)


def _end(session: Connection) -> None:
    """Close the session itself, not only give it back to the pool, and with it the lock."""
    with suppress(SQLAlchemyError):
        session.invalidate()
    with suppress(SQLAlchemyError):
        session.close()
