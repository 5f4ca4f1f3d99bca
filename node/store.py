"""What a node holds on disk; with `due.py`, `doorrows.py`, `taxiistore.py` and `pushed.py`, all of the node's SQL.

Guarantees: `write` is one transaction, on disk when it returns (SQLite WAL, synchronous=FULL; or PostgreSQL by URL) or
not there at all; events get gapless-by-order numbers and are announced only after the commit, in their order. Refuses:
a database of another schema (see `migrations/`), or of a node that runs (ConfigError). A full or busy disk, and a
database server that is away, are `Transient`: nothing was committed, try again. What was erased is overwritten in a
file, and after `scrub` it is not in the write-ahead log either.

One thread of one process writes, so row numbers come from counters in memory; reads may run beside it. On PostgreSQL
all writing goes through the one session that holds the node's lock. A commit whose answer is lost with the session may
have happened: before anything else is written the numbers are read again, and `term` tells others to read again too.
Times are microseconds since 1970. The tables stand in `tables.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    or_,
    select,
)

from node.doorrows import DoorWrites
from node.due import Due, Over
from node.lookup import inserting, rows_where, updating
from node.migrations import SCHEMA
from node.pushed import Pushed
from node.tables import (
    alarms,
    checkpoints,
    confirmations_out,
    confirmed,
    events,
    governance,
    idempotency,
    inbox,
    leaves,
    links,
    meta,
    own_reports,
    policies,
    posts,
    refused,
    review,
    statements,
    submissions,
    taxii_objects,
)
from node.taxiistore import TaxiiReads, TaxiiWrites
from protocol import database
from protocol.access import TLPS
from protocol.errors import Transient
from protocol.migrating import prepare

_LONG_WAIT: Final = 5_000
_SHORT_WAIT: Final = 100
"""Milliseconds."""
_CONTENT: Final = frozenset({"filing", "disclosures", "held_back"})

_MOST_MISSED: Final = 100_000
"""Above what one transaction appends to the feed."""

_NUMBERED: Final = (
    (submissions, "id"),
    (own_reports, "seq"),
    (inbox, "seq"),
    (confirmations_out, "id"),
    (events, "seq"),
    (alarms, "id"),
    (review, "id"),
)


def microseconds(time: datetime) -> int:
    """A time as the tables hold it."""
    return int(time.timestamp() * 1_000_000)


def instant(value: int) -> datetime:
    """A time out of a table."""
    return datetime.fromtimestamp(value / 1_000_000, UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the feed. `data` is JSON with ids, states and reasons, never report content."""

    seq: int
    kind: str
    data: bytes
    at: int


class Reads(Due, TaxiiReads, Pushed):
    """Queries; on a connection that shows one state of the database."""

    def _by(self, table: Table, column: str, values: Collection[Any]) -> list[Row[Any]]:
        return rows_where(self._db, table.c, table.c[column], values, table.primary_key)

    def _some(self, table: Table, chosen: Iterable[str], column: str, values: Collection[Any]) -> list[Row[Any]]:
        return rows_where(self._db, [table.c[name] for name in chosen], table.c[column], values)

    def identities(self, column: str, values: Collection[Any]) -> list[Row[Any]]:
        """Own revisions by any indexed column, without their content, in the order of filing."""
        chosen = ("digest", "report_id", "revision", "incident_id", "content_hash", "kept", "submission", "tlp")
        columns = [own_reports.c[name] for name in chosen]
        return rows_where(self._db, columns, own_reports.c[column], values, [own_reports.c.seq])

    def foreign(self, column: str, values: Collection[str]) -> set[str]:
        """Which of these `report_id`s or `incident_id`s stand in the inbox."""
        return {row[0] for row in self._some(inbox, [column], column, values)}

    def answer(self, client: str, key: str) -> Row[Any] | None:
        """The answer that an idempotency key got."""
        query = select(idempotency).where(idempotency.c.client == client, idempotency.c.key == key)
        return self._db.execute(query).one_or_none()

    def waiting(self, table: Table) -> list[Row[Any]]:
        """What still waits for the broker's word, oldest first: id, created_at and, for submissions, reports."""
        size = [table.c.reports] if table is submissions else []
        query = select(table.c.id, table.c.created_at, *size).where(table.c.waiting).order_by(table.c.id)
        return list(self._db.execute(query))

    def submissions_by(self, column: str, values: Collection[Any]) -> list[Row[Any]]:
        """Submissions by `id` or `digest`."""
        return self._by(submissions, column, values)

    def submission_heads(self, digests: Collection[str]) -> list[Row[Any]]:
        """Submissions without their messages."""
        return self._some(submissions, ("id", "digest", "created_at", "waiting", "receipt"), "digest", digests)

    def confirmations_by(self, column: str, values: Collection[Any]) -> list[Row[Any]]:
        """Own confirmations by `id` or `digest`."""
        return self._by(confirmations_out, column, values)

    def own_by(self, column: str, values: Collection[Any]) -> list[Row[Any]]:
        """Own revisions with their content, by any indexed column."""
        return self._by(own_reports, column, values)

    def reports_sent(self, numbers: Collection[int]) -> list[Row[Any]]:
        """The own revisions in these submissions, with their disclosures, in no order."""
        chosen = ("submission", "digest", "report_id", "revision", "kept", "disclosures")
        return self._some(own_reports, chosen, "submission", numbers)

    def leaves_by(self, column: str, values: Collection[Any]) -> list[Row[Any]]:
        """What must be in the log, by `leaf` or by `name`."""
        return self._by(leaves, column, values)

    def waiting_leaves(self, start: int, end: int, limit: int, *, state: str = "waiting") -> list[int]:
        """Leaves in a state, from `start` up to before `end`, in order."""
        query = select(leaves.c.leaf).where(leaves.c.state == state, leaves.c.leaf >= start, leaves.c.leaf < end)
        return [row[0] for row in self._db.execute(query.order_by(leaves.c.leaf).limit(limit))]

    def oldest_leaf(self, start: int, end: int) -> Row[Any] | None:
        """Of the leaves that wait, from `start` up to before `end`, the one that does so for the longest."""
        query = select(leaves).where(leaves.c.state == "waiting", leaves.c.leaf >= start, leaves.c.leaf < end)
        return self._db.execute(query.order_by(leaves.c.at, leaves.c.leaf).limit(1)).one_or_none()

    def unproven(self) -> dict[str, int]:
        """How many leaves are waiting, and how many missing."""
        query = select(leaves.c.state, func.count()).where(leaves.c.state.in_(("waiting", "missing")))
        found = {str(row[0]): int(row[1]) for row in self._db.execute(query.group_by(leaves.c.state))}
        return {"waiting": 0, "missing": 0, **found}

    def checkpoint(self, size: int) -> Row[Any] | None:
        """The verified checkpoint of that size."""
        return self._db.execute(select(checkpoints).where(checkpoints.c.size == size)).one_or_none()

    def newest_checkpoint(self, *, published: bool = False) -> Row[Any] | None:
        """The largest verified checkpoint, or the largest that a quorum has cosigned."""
        query = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
        if published:
            query = query.where(checkpoints.c.published.is_not(None))
        return self._db.execute(query).one_or_none()

    def submission_names(self, numbers: Collection[int]) -> dict[int, str]:
        """The digests of submissions by their numbers."""
        return {row.id: row.digest for row in self._some(submissions, ("id", "digest"), "id", numbers)}

    def statements_by(self, digests: Collection[str]) -> list[Row[Any]]:
        """Statements of others, as they signed them."""
        return self._by(statements, "digest", digests)

    def count_statements(self, kind: str) -> int:
        """How many statements of a kind are here."""
        query = select(func.count()).select_from(statements).where(statements.c.kind == kind)
        return int(self._db.execute(query).scalar_one())

    def own_page(
        self, after: int, limit: int, tlps: Collection[str] = TLPS, client: str | None = None
    ) -> list[Row[Any]]:
        """Own revisions with these markings, of all clients or one, in the order of filing, without their content."""
        chosen = [column for column in own_reports.c if column.name not in _CONTENT]
        query = select(*chosen).where(own_reports.c.seq > after, own_reports.c.tlp.in_(tlps))
        query = query if client is None else query.where(own_reports.c.client == client)
        return list(self._db.execute(query.order_by(own_reports.c.seq).limit(limit)))

    def confirmed_by(self, reports: Collection[str]) -> list[Row[Any]]:
        """Confirmations of own reports, by the reports' digests."""
        return self._by(confirmed, "report", reports)

    def inbox_by(self, column: str, values: Collection[Any]) -> list[Row[Any]]:
        """Others' reports by any indexed column."""
        return self._by(inbox, column, values)

    def inbox_page(self, after: int, limit: int, tlps: Collection[str] = TLPS) -> list[Row[Any]]:
        """Others' reports with these markings in the order of arrival."""
        query = select(inbox).where(inbox.c.seq > after, inbox.c.tlp.in_(tlps)).order_by(inbox.c.seq).limit(limit)
        return list(self._db.execute(query))

    def refused_by(self, column: str, values: Collection[Any]) -> list[Row[Any]]:
        """What this node did not take."""
        return self._by(refused, column, values)

    def links_of(self, report_id: str) -> list[Row[Any]]:
        """Links of a report to others."""
        query = select(links).where(or_(links.c.a_report == report_id, links.c.b_report == report_id))
        return list(self._db.execute(query.order_by(links.c.at, links.c.a, links.c.b)))

    def known_statements(self, digests: Collection[str]) -> set[str]:
        """Which of these statements are here."""
        return {row[0] for row in self._some(statements, ["digest"], "digest", digests)}

    def policies(self) -> list[Row[Any]]:
        """Every signed policy that is here, in the order of their versions."""
        return list(self._db.execute(select(policies).order_by(policies.c.jurisdiction, policies.c.version)))

    def governance(self) -> list[Row[Any]]:
        """The governance records, in order."""
        return list(self._db.execute(select(governance).order_by(governance.c.number)))

    def numbers(self) -> dict[str, int]:
        """The highest number of each numbered table."""
        return _numbers(self._db)

    def position(self, name: str) -> int:
        """A number kept by name, 0 if there is none yet."""
        found = self._db.execute(select(meta.c.value).where(meta.c.name == name)).scalar()
        return int(found) if found is not None else 0

    def events_after(self, seq: int, limit: int) -> list[Event]:
        """The feed from a place on."""
        query = select(events).where(events.c.seq > seq).order_by(events.c.seq).limit(limit)
        return [Event(*row) for row in self._db.execute(query)]

    def events_of(self, kinds: Collection[str], seq: int, limit: int) -> list[Event]:
        """The events of some kinds from a place on."""
        query = select(events).where(events.c.seq > seq, events.c.kind.in_(list(kinds)))
        return [Event(*row) for row in self._db.execute(query.order_by(events.c.seq).limit(limit))]


class Tx(Reads, Over, TaxiiWrites, DoorWrites):
    """Writes within one transaction."""

    def __init__(self, connection: Connection, last: dict[str, int]) -> None:
        super().__init__(connection)
        self.last = last
        self.events: list[Event] = []
        self.erased = False
        """To be set by whoever empties what must not come back, see `Store.scrub`."""

    def number(self, table: Table) -> int:
        """The next row number of a table."""
        self.last[table.name] += 1
        return self.last[table.name]

    def add(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows."""
        if rows:
            self._db.execute(inserting(table), list(rows))

    def set(self, table: Table, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Update rows found by `key`; every row names the same columns."""
        if rows:
            query = updating(table, key, tuple(name for name in rows[0] if name != key))
            self._db.execute(query, [{f"_{name}": value for name, value in row.items()} for row in rows])

    def put(self, table: Table, row: Mapping[str, Any]) -> None:
        """Insert a row, in place of the one with its primary key if there is one."""
        key = [column == row[column.name] for column in table.primary_key]
        self._db.execute(delete(table).where(*key))
        self._db.execute(insert(table), [dict(row)])

    def event(self, kind: str, data: Mapping[str, Any], at: int) -> None:
        """Append to the feed."""
        self.events.append(Event(self.number(events), kind, msgspec.json.encode(data), at))

    def forget_answers(self, before: int) -> None:
        """Drop idempotency keys, and what POSTs came to, of before that time."""
        self._db.execute(delete(idempotency).where(idempotency.c.at < before))
        self._db.execute(delete(posts).where(posts.c.at < before))

    def forget_checkpoints(self, keep: int, but: int) -> None:
        """Drop all checkpoints but the newest `keep` and the one of size `but`."""
        last = select(checkpoints.c.size).order_by(checkpoints.c.size.desc()).offset(keep).limit(1).scalar_subquery()
        self._db.execute(delete(checkpoints).where(checkpoints.c.size <= last, checkpoints.c.size != but))

    def flush(self) -> None:
        """Write what was collected."""
        self.add(events, [{"seq": e.seq, "kind": e.kind, "data": e.data, "at": e.at} for e in self.events])


class Store:
    """The database of one node. Made with a URL so that another database can take its place."""

    def __init__(self, url: str, *, readonly: bool = False) -> None:
        # Parameters hold report content, and errors end up in logs.
        sizes = {"pool_size": 4, "max_overflow": 4}
        self._sole: database.Sole | None = None
        if database.is_postgresql(url):
            self._engine = database.connect(url, reader=readonly, use="" if readonly else SCHEMA.kind, **sizes)
        else:
            self._engine = create_engine(url, hide_parameters=True, **sizes)
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self.on_events: Callable[[Sequence[Event]], None] = _ignore
        """Called on the writing thread after each commit that made events."""
        self.unscrubbed = True
        """Whether something was erased since `scrub`; a process that was killed may have left that open."""
        self._last: dict[str, int] = {}
        self.term = 1
        """Changes when the database was away: what was remembered of it may be old."""
        if readonly:
            return
        try:
            self._begin(shared=database.is_postgresql(url))
        except BaseException:
            self.close()
            raise

    def _begin(self, *, shared: bool) -> None:
        if not shared:
            self._make_tables()
            return
        with database.mended(), database.making(self._engine):
            self._sole = database.Sole(self._engine, "node")
            self._sole.wait(f"another node uses the database {self._engine.url.render_as_string()}: stop it first")
            self._make_tables()

    def _make_tables(self) -> None:
        with self._engine.begin() as connection:
            prepare(connection, SCHEMA)
            self._last = _numbers(connection)

    @classmethod
    def open(cls, directory: Path, url: str | None = None) -> Store:
        """The store in a data directory, which is made if need be, or at a URL. ConfigError if it cannot be used."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(url or f"sqlite:///{directory / 'node.db'}")

    def take_up(self) -> int:
        """Have the database, and know what is in it; returns the `term`.

        Raises:
            Transient: it is away.
            ConfigError: it was upgraded while it was away.
        """
        if self._sole is None:
            return self.term
        term = self._sole.take()
        if not term:
            raise Transient("database: another node uses it")
        if term != self.term:
            with self.read() as reads:
                SCHEMA.hold(reads.position("schema"))
                before, self._last = self.last_event, reads.numbers()
                found = reads.events_after(before, _MOST_MISSED)
            self.term = term
            if found:
                self.on_events(found)
        return term

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """One transaction, committed on leaving unless an exception leaves first.

        Raises:
            Transient: the disk is full or busy, or the database is away; nothing was committed, or see above.
        """
        self.take_up()
        begin = self._engine.begin if self._sole is None else self._sole.begin
        with database.mended(), begin() as connection:
            tx = Tx(connection, dict(self._last))
            yield tx
            tx.flush()
        self._last = tx.last
        self.unscrubbed |= tx.erased
        if tx.events:
            self.on_events(tx.events)

    @contextmanager
    def read(self) -> Iterator[Reads]:
        """Queries that see one state of the database.

        Raises:
            Transient: it is away.
        """
        with database.mended(), self._engine.connect() as connection:
            if self._engine.dialect.name != "sqlite":
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield Reads(connection)

    def scrub(self) -> bool:
        """Take what was erased out of the write-ahead log; False if a reader is in the way: call again.

        Of PostgreSQL's tables, so that its place is used again.

        Raises:
            Transient: the database is away.
        """
        if self._engine.dialect.name != "sqlite":
            database.vacuum(self._engine, inbox, submissions, taxii_objects)
            self.unscrubbed = False
            return True
        # Not through a transaction, in which there is no checkpoint; and the writer must not wait long for readers.
        with closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={_SHORT_WAIT}")
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                (busy, *_) = cursor.fetchone() or (1,)
                self.unscrubbed = bool(busy)
            except self._engine.dialect.loaded_dbapi.OperationalError:
                self.unscrubbed = True
            finally:
                cursor.execute(f"PRAGMA busy_timeout={_LONG_WAIT}")
        return not self.unscrubbed

    @property
    def engine(self) -> Engine:
        """The database, for `reading`."""
        return self._engine

    @property
    def last_event(self) -> int:
        """The number of the newest event."""
        return self._last[events.name]

    def close(self) -> None:
        """Close all connections. May be called again."""
        if self._sole is not None:
            self._sole.leave()
        self._engine.dispose()


def _ignore(found: Sequence[Event]) -> None:
    pass


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling begins late and only for writes; `_begin_sqlite` does it instead.
    connection.isolation_level = None
    settings = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
    for pragma in (*settings, f"busy_timeout={_LONG_WAIT}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _numbers(connection: Connection) -> dict[str, int]:
    """The highest number of each table whose numbers are counted in memory."""
    return {
        table.name: int(connection.execute(select(func.max(table.c[key]))).scalar() or 0) for table, key in _NUMBERED
    }
