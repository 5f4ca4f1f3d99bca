"""The ledger's storage: with `broker/logstore.py` what the broker says in SQL.

Guarantees: one transaction a batch, on disk before it returns (SQLite WAL, synchronous=FULL; or PostgreSQL by URL); one
writing transaction at a time, among all processes of a ledger, so that what it reads stays true until it is committed,
and numbers have no gaps; one process at a time that sequences the log. Refuses: a database of another schema, also one
that was upgraded while the process ran (ConfigError; see `migrations/`). A full or locked disk, and a connection or
race that was lost, become `Transient`: try again.

For each table, what it is and what it means if it is lost, stands in `docs/architecture.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from sqlalchemy import Connection as Connection  # noqa: PLC0414 - the one type that callers name
from sqlalchemy import (
    Engine,
    Table,
    and_,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, OperationalError

from broker.migrations import SCHEMA
from broker.tables import (
    confirmations,
    deliveries,
    governance,
    identifiers,
    links,
    metadata,
    policies,
    reports,
    submissions,
)
from protocol import database
from protocol.errors import ConfigError, Transient
from protocol.migrating import number_of, prepare

Row = dict[str, Any]


def milliseconds(at: datetime) -> int:
    """A time as the ledger keeps it."""
    return int(at.timestamp() * 1000)


def open_engine(url: str) -> Engine:
    """Connect by URL: `sqlite:///path` or `postgresql+psycopg://…`. ConfigError if it cannot be opened."""
    with ExitStack() as undo:
        try:
            if database.is_postgresql(url):
                engine = database.connect(url, use=SCHEMA.kind)
                undo.callback(engine.dispose)
                with database.making(engine):
                    _make_tables(engine)
            else:
                engine = create_engine(url)
                undo.callback(engine.dispose)
                event.listen(engine, "connect", _sqlite_pragmas)
                _make_tables(engine)
        except DBAPIError as exc:
            raise ConfigError(f"the ledger cannot be opened: {database.said(exc)}") from exc
        undo.pop_all()
    return engine


def _make_tables(engine: Engine) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            # The driver would commit each table alone, and one that was killed would leave half a ledger.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        prepare(connection, SCHEMA)


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    pragmas = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "cache_size=-16384", "secure_delete=ON")
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Store:
    """Reads and writes of the ledger. Writes happen inside `writing()` or `leading()`, on one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shared = engine.dialect.name != "sqlite"
        """Whether other processes may write to the ledger too."""
        self._sole: database.Sole | None = None

    def close(self) -> None:
        """Release the connections."""
        if self._sole is not None:
            self._sole.leave()
        self.engine.dispose()

    def wipe(self) -> None:
        """After something was erased: let go of the write-ahead log, which still holds it; of dead rows on PostgreSQL.

        Raises:
            Transient: a reader is in the way; ask again.
        """
        if self.shared:
            database.vacuum(self.engine, submissions, identifiers)
            return
        with self.reading() as connection:
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
        if busy:
            raise Transient("ledger: busy")

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: committed and on disk when the block ends, or not at all; no other one is open meanwhile.

        Raises:
            Transient: the disk is full, locked or gone; nothing was committed. If the connection was lost during the
                commit it may have been: whoever tries again looks first, as with a message that comes again.
        """
        with self._mended(), self.engine.begin() as connection:
            self._alone(connection)
            yield connection

    @contextmanager
    def leading(self) -> Iterator[Connection]:
        """As `writing`, for the process that `lead` has made the one that sequences.

        Raises:
            Transient: as above, or it is not that process any more.
        """
        if self._sole is None:
            with self.writing() as connection:
                yield connection
            return
        with self._mended(), self._sole.begin() as connection:
            self._alone(connection)
            yield connection

    def lead(self) -> int:
        """Be the one process that sequences the log, if no other one is.

        Returns:
            The number of the term: when it changes, others may have sequenced meanwhile. 0: another process does it.

        Raises:
            Transient: the database is away.
        """
        if not self.shared:
            return 1
        with self._mended():
            if self._sole is None:
                self._sole = database.Sole(self.engine, "log", yields=True)
            return self._sole.take()

    @property
    def leads(self) -> bool:
        """Whether this process sequenced when it last asked."""
        return not self.shared or (self._sole is not None and self._sole.held)

    def _alone(self, connection: Connection) -> None:
        """Until the transaction ends, none of another process begins. With SQLite there is no other process."""
        if self.shared:
            database.one_at_a_time(connection, self._lock)
            # Another program may have upgraded the ledger while this one had no session.
            SCHEMA.hold(number_of(connection, metadata))

    @cached_property
    def _lock(self) -> int:
        return database.lock_number(self.engine, "ledger")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reading."""
        with self._mended(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def _mended(self) -> Iterator[None]:
        if self.shared:
            with database.mended():
                yield
            return
        try:
            yield
        except OperationalError as exc:
            raise Transient(f"ledger: {type(exc.orig).__name__}") from exc


def chunks(values: Iterable[Any], size: int = 900) -> Iterator[list[Any]]:
    """SQLite takes 32,766 parameters and PostgreSQL plans long lists badly: ask in pieces."""
    items = list(values)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def add(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows."""
    if rows:
        connection.execute(insert(table), rows)


def add_numbered(connection: Connection, table: Table, rows: Sequence[Row], number: str) -> list[int]:
    """Insert rows and return their numbers, in order.

    Numbers are taken from the table's maximum inside the transaction: one writer at a time, see `Store.writing`.
    """
    if not rows:
        return []
    column = table.c[number]
    last = connection.scalar(select(func.max(column))) or 0
    numbers = list(range(last + 1, last + 1 + len(rows)))
    connection.execute(insert(table), [{number: n, **row} for n, row in zip(numbers, rows, strict=True)])
    return numbers


def _among(column: Any) -> Any:
    """`column IN (…)` with the values bound when it runs: the statement is built once, however long the list."""
    return column.in_(bindparam("values", expanding=True))


_RECEIPTS: Final = select(submissions.c.digest, submissions.c.receipt).where(_among(submissions.c.digest))


def governance_after(connection: Connection, number: int, most: int) -> list[Any]:
    """Governance records after a number, in order."""
    query = select(governance).where(governance.c.number > number).order_by(governance.c.number).limit(most)
    return list(connection.execute(query))


def receipts_of(connection: Connection, digests: Iterable[str]) -> dict[str, bytes]:
    """Stored receipts by submission digest."""
    found: dict[str, bytes] = {}
    for chunk in chunks(digests):
        found.update({row.digest: row.receipt for row in connection.execute(_RECEIPTS, {"values": chunk})})
    return found


_KNOWN = (
    reports.c.seq,
    reports.c.digest,
    reports.c.origin,
    reports.c.report_id,
    reports.c.revision,
    reports.c.incident_id,
    reports.c.fingerprint,
    reports.c.phase,
    reports.c.rsit,
    reports.c.happened_at,
    reports.c.grants,
)


_REPORTS: Final = {
    name: select(*_KNOWN).where(_among(reports.c[name]))
    for name in ("report_id", "incident_id", "fingerprint", "digest", "seq")
}
_HITS: Final = select(identifiers.c.key, identifiers.c.seq).where(_among(identifiers.c.key))


def reports_where(connection: Connection, column: str, values: Iterable[Any]) -> list[Any]:
    """Report rows whose `column` is one of the values."""
    found: list[Any] = []
    for chunk in chunks(values):
        found.extend(connection.execute(_REPORTS[column], {"values": chunk}))
    return found


def identifier_hits(connection: Connection, keys: Iterable[int]) -> list[tuple[int, int]]:
    """(key, seq) of the reports that hold one of these identifiers."""
    found: list[tuple[int, int]] = []
    for chunk in chunks(keys):
        found.extend((row.key, row.seq) for row in connection.execute(_HITS, {"values": chunk}))
    return found


def linked_pairs(connection: Connection, incidents: Iterable[bytes]) -> set[tuple[bytes, bytes]]:
    """Pairs of incidents that are linked already and have one of these on either side."""
    pairs: set[tuple[bytes, bytes]] = set()
    for chunk in chunks(incidents):
        query = select(links.c.incident_a, links.c.incident_b).where(
            or_(links.c.incident_a.in_(chunk), links.c.incident_b.in_(chunk))
        )
        pairs.update((row.incident_a, row.incident_b) for row in connection.execute(query))
    return pairs


def messages_of(connection: Connection, seqs: Iterable[int]) -> list[Any]:
    """(seq, digest, origin, received_at, submission id, message) for reports, to build deliveries again."""
    found: list[Any] = []
    for chunk in chunks(seqs):
        query = (
            select(
                reports.c.seq,
                reports.c.digest,
                reports.c.origin,
                reports.c.erased_at,
                submissions.c.id.label("submission"),
                submissions.c.received_at,
                submissions.c.receipt,
                submissions.c.message,
            )
            .join(submissions, submissions.c.id == reports.c.submission)
            .where(reports.c.seq.in_(chunk))
            .order_by(reports.c.seq)
        )
        found.extend(connection.execute(query))
    return found


def due_deliveries(connection: Connection, now: int, most: int) -> list[Any]:
    """Deliveries that are neither confirmed nor cancelled and whose next attempt has come."""
    query = (
        select(deliveries)
        .where(and_(deliveries.c.state.in_(("pending", "sent")), deliveries.c.next_attempt_at <= now))
        .order_by(deliveries.c.next_attempt_at, deliveries.c.id)
        .limit(most)
    )
    return list(connection.execute(query))


def untold_deliveries(connection: Connection, sent_before: int, most: int) -> list[Any]:
    """Deliveries that have been in their recipients' inboxes since before that time, not confirmed, and nobody was
    told."""
    query = (
        select(deliveries)
        .where(and_(deliveries.c.told.is_(False), deliveries.c.state == "sent", deliveries.c.sent_at <= sent_before))
        .order_by(deliveries.c.sent_at, deliveries.c.id)
        .limit(most)
    )
    return list(connection.execute(query))


def hurry(connection: Connection, members: Iterable[str], now: int) -> None:
    """Make everything undelivered to these members due now: their inbox was lost, or they are back."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.member.in_(list(members)), deliveries.c.state.in_(("pending", "sent")))
        .values(next_attempt_at=now)
    )


def backlog(connection: Connection) -> dict[str, tuple[int, int]]:
    """Per member: how many deliveries are not confirmed, and since when (milliseconds) the oldest waits."""
    query = (
        select(deliveries.c.member, func.count(), func.min(deliveries.c.created_at))
        .where(deliveries.c.state.in_(("pending", "sent")))
        .group_by(deliveries.c.member)
    )
    return {member: (count, oldest) for member, count, oldest in connection.execute(query)}


def after(connection: Connection, table: Table, last: int, most: int, **equal: Any) -> list[Any]:
    """Rows of a numbered table after a number, in order: a keyset cursor, never an offset."""
    query = select(table).where(table.c.id > last).order_by(table.c.id).limit(most)
    for name, value in equal.items():
        query = query.where(table.c[name] == value)
    return list(connection.execute(query))


def last_number(connection: Connection, table: Table) -> int:
    """The highest number in a numbered table, 0 if it is empty."""
    return int(connection.scalar(select(func.max(table.c.id))) or 0)


def newest_policy_at(connection: Connection) -> int:
    """When the policy that was published last was taken, in milliseconds; 0 if there is none."""
    query = select(policies.c.at).order_by(policies.c.id.desc()).limit(1)
    return int(connection.scalar(query) or 0)


def count(connection: Connection, table: Table, **equal: Any) -> int:
    """How many rows."""
    query = select(func.count()).select_from(table)
    for name, value in equal.items():
        query = query.where(table.c[name] == value)
    return int(connection.scalar(query) or 0)


def set_delivery(connection: Connection, number: int, **values: Any) -> None:
    """Change a delivery."""
    connection.execute(update(deliveries).where(deliveries.c.id == number).values(**values))


def deliveries_by_id(connection: Connection, numbers: Iterable[int]) -> dict[int, Any]:
    """Deliveries by number."""
    found: dict[int, Any] = {}
    for chunk in chunks(numbers):
        found.update({row.id: row for row in connection.execute(select(deliveries).where(deliveries.c.id.in_(chunk)))})
    return found


def known_confirmations(connection: Connection, digests: Iterable[str]) -> set[str]:
    """Which of these confirmations are recorded already."""
    found: set[str] = set()
    for chunk in chunks(digests):
        query = select(confirmations.c.digest).where(confirmations.c.digest.in_(chunk))
        found.update(row.digest for row in connection.execute(query))
    return found
