"""Migrations: on real rows of an earlier program, on both databases, killed in the middle, and beside others."""

from __future__ import annotations

import dataclasses
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

import broker.store
import node.store
from protocol import database, migrating
from protocol.errors import ConfigError, Transient
from protocol.migrating import Done, Place, copy_of, look, prepare, upgrade
from protocol.process import alone
from tests.postgresql import Server
from tests.stores import FILES, OLDEST, SCHEMAS, put
from tests.stores.schema import STEPS, contents, described, longer, take_back

if TYPE_CHECKING:
    from alembic.operations import Operations

KINDS = ("broker", "node")
both = pytest.mark.parametrize("kind", KINDS)
each = pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
either = pytest.mark.parametrize(
    ("kind", "dialect"), [("broker", "sqlite"), ("node", "sqlite"), ("node", "postgresql")]
)


Old = Callable[..., Place]


@pytest.fixture
def old(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> Old:
    """Makes a store of the oldest schema with real rows, or of the made-up one before it."""

    def make(kind: str, *, back: bool = True) -> Place:
        data = tmp_path / kind / "data"
        file = data / FILES[kind]
        data.mkdir(parents=True)
        url = f"sqlite:///{file}" if dialect == "sqlite" else request.getfixturevalue("server").create()
        put(kind, file if dialect == "sqlite" else url)
        if back:
            with connected(url) as engine, engine.begin() as connection:
                take_back(kind, connection)
        return Place(url, data, str(tmp_path / kind))

    return make


@contextmanager
def connected(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def rows(url: str) -> dict[str, list[Any]]:
    with connected(url) as engine, engine.connect() as connection:
        return contents(connection)


def tables(url: str) -> dict[str, Any]:
    with connected(url) as engine:
        return described(engine)


# --- the result -------------------------------------------------------------------------------------------------


@both
@each
def test_migrations_lead_to_the_tables(kind: str, old: Old, dialect: str, tmp_path: Path, request: Any) -> None:
    """A store of the oldest program becomes what a new one is. If this fails, `tables.py` has no migration yet."""
    place, schema = old(kind, back=False), SCHEMAS[kind]
    upgrade(place, schema)
    fresh = f"sqlite:///{tmp_path / 'new.db'}" if dialect == "sqlite" else request.getfixturevalue("server").create()
    with connected(fresh) as engine, engine.begin() as connection:
        prepare(connection, schema)
    made = tables(fresh)
    assert tables(place.url) == made
    assert set(schema.metadata.tables) == {name for name in made if not name.startswith("(")}
    assert look(place, schema) == look(dataclasses.replace(place, url=fresh), schema) == schema.number


@either
def test_every_row_comes_along(kind: str, old: Old) -> None:
    """Whatever is replaced by a copy of itself; references hold; and a second time there is nothing to do."""
    place, schema = old(kind, back=False), longer(kind)
    before = rows(place.url)
    with connected(place.url) as engine, engine.begin() as connection:
        take_back(kind, connection)
        lost = {"node": "refused", "broker": "exceptions"}[kind]
    done = upgrade(place, schema)
    copy = copy_of(place.file, OLDEST - 1) if place.file else None
    assert done == Done(OLDEST - 1, schema.number, copy)
    assert rows(place.url) == before | {lost: []} if schema.number == OLDEST else set(rows(place.url)) >= set(before)
    assert upgrade(place, schema) is None
    assert upgrade(place, SCHEMAS[kind]) is None, "for the program without the made-up step it is one of its own"


@both
@on_sqlite
def test_the_copy_is_the_store_as_it_was(kind: str, old: Old) -> None:
    """With its number, its owner's alone; an earlier one of that number makes room for it, and it can be left out."""
    place = old(kind)
    was = rows(place.url)
    assert place.file is not None
    copy = copy_of(place.file, OLDEST - 1)
    copy.write_bytes(b"of an upgrade that failed")
    upgrade(place, longer(kind))
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert list(place.data.glob("*.schema-*")) == [copy]
    again = dataclasses.replace(place, url=f"sqlite:///{copy}")
    assert rows(again.url) == was
    assert look(again, longer(kind)) == OLDEST - 1
    done = upgrade(again, longer(kind), copy=False)
    assert done is not None
    assert done.copy is None
    assert not list(place.data.glob("*.schema-*.schema-*"))


# --- what goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "where", "dialect"),
    [("node", "between", "sqlite"), ("broker", "after", "sqlite"), ("broker", "after", "postgresql")],
)
def test_a_killed_upgrade_leaves_the_store_as_it_was(kind: str, where: str, old: Old) -> None:
    """kill -9 after the tables have changed, and just before the commit; and the next one does all of it."""
    place = old(kind)
    was, had = rows(place.url), tables(place.url)
    command = [sys.executable, "-m", "tests.stores.killed", kind, place.url, str(place.data), where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.kill()
    assert process.returncode == -9
    assert (rows(place.url), tables(place.url)) == (was, had)
    assert look(place, longer(kind)) == OLDEST - 1
    assert upgrade(place, longer(kind)) is not None
    assert look(place, longer(kind)) == longer(kind).number


@either
def test_a_step_that_fails_leaves_the_store_as_it_was(kind: str, old: Old) -> None:
    """All steps are one transaction."""
    place = old(kind)
    was, had = rows(place.url), tables(place.url)

    def fail(op: Operations) -> None:
        STEPS[kind](op)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        upgrade(place, longer(kind, step=fail))
    assert (rows(place.url), tables(place.url)) == (was, had)


@on_sqlite
def test_references_must_hold(old: Old) -> None:
    """SQLite does not look while tables are replaced, so it is asked before the commit. PostgreSQL always looks."""
    place = old("node")

    def lose(op: Operations) -> None:
        STEPS["node"](op)
        op.execute("DELETE FROM submissions WHERE id = 1")

    was = rows(place.url)
    with pytest.raises(ConfigError, match="own_reports refer to what is not there"):
        upgrade(place, longer("node", step=lose))
    assert rows(place.url) == was


@on_sqlite
def test_what_is_sorted_lies_beside_the_store(old: Old) -> None:
    """In a container /tmp is small."""
    place, found = old("node"), []

    def ask(op: Operations) -> None:
        STEPS["node"](op)
        found.append(op.get_bind().exec_driver_sql("PRAGMA temp_store_directory").scalar())

    upgrade(place, longer("node", step=ask))
    assert found == [str(place.data)]


@on_sqlite
def test_without_room_for_a_copy_nothing_happens(old: Old) -> None:
    """And nothing of it stays."""
    place = old("broker")
    assert place.file is not None
    copy = copy_of(place.file, OLDEST - 1)
    copy.mkdir()
    with pytest.raises(ConfigError, match="cannot be copied"):
        upgrade(place, longer("broker"))
    assert look(place, longer("broker")) == OLDEST - 1
    assert list(place.data.glob("*.schema-*")) == [copy]


@either
def test_what_leads_nowhere_is_refused(kind: str, old: Old) -> None:
    """A newer store, one from before every migration, and a number that is none: in words, and untouched."""
    place = old(kind, back=False)
    was = rows(place.url)
    words = {"99": "newer program", "1": "early program.*make a new|early program.*start a new", "x": "that is none"}
    use = {"broker": broker.store.open_engine, "node": node.store.Store}[kind]
    for number, word in words.items():
        with connected(place.url) as engine, engine.begin() as connection:
            connection.execute(text("UPDATE meta SET value = :n WHERE name = 'schema'"), {"n": number})
        for attempt in (lambda: upgrade(place, SCHEMAS[kind]), lambda: use(place.url)):
            with pytest.raises(ConfigError, match=word):
                attempt()
    assert rows(place.url) == was


@both
def test_a_new_store_is_made_as_a_whole(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first start that ends in the middle leaves nothing."""
    schema, file = SCHEMAS[kind], tmp_path / FILES[kind]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(migrating, "insert", stop)
        with pytest.raises(KeyboardInterrupt):
            {"broker": broker.store.open_engine, "node": node.store.Store}[kind](f"sqlite:///{file}")
    with connected(f"sqlite:///{file}") as engine:
        assert inspect(engine).get_table_names() == []
    assert look(Place(f"sqlite:///{file}", tmp_path, ""), schema) is None


# --- beside others ----------------------------------------------------------------------------------------------


@each
def test_a_store_in_use_is_refused(old: Old, dialect: str) -> None:
    """While a process runs on it; who only reads does not matter."""
    place = old("broker", back=False)
    schema = longer("broker")
    with connected(place.url) as engine, engine.begin() as connection:
        take_back("broker", connection)
    if dialect == "sqlite":
        with alone(place.data), pytest.raises(ConfigError, match="another process"):
            upgrade(place, schema)
    else:
        used = database.connect(place.url, use="broker")
        with pytest.raises(ConfigError, match=r"a broker uses .*: stop it first"):
            upgrade(place, schema)
        used.dispose()
    assert look(place, schema) == OLDEST - 1
    assert upgrade(place, schema) is not None


def fenced(server: Server, kind: str) -> tuple[Place, str]:
    """A store of this program on PostgreSQL, and the same one for a program that has one step more."""
    url = server.create()
    put(kind, url)
    upgrade(Place(url, Path(), "DIR"), SCHEMAS[kind])
    return Place(url, Path(), "DIR"), url


def raised(server: Server, place: Place, kind: str) -> None:
    """Cut off whoever uses a store, as a broken network does, and upgrade it before they are back."""
    server.tell(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        database=place.url,
    )
    schema = SCHEMAS[kind]
    more = (*schema.migrations, migrating.Migration("later", lambda _: None))
    assert upgrade(place, dataclasses.replace(schema, migrations=more)) is not None


def test_an_old_broker_writes_nothing_into_a_newer_ledger(server: Server) -> None:
    """Though it was away from the database while that was upgraded: it ends, and says why."""
    place, url = fenced(server, "broker")
    ledger = broker.store.Store(broker.store.open_engine(url))
    with ledger.writing():
        pass
    assert ledger.lead()
    raised(server, place, "broker")

    def write() -> None:
        with ledger.writing():
            pass

    def lead() -> None:
        ledger.lead()
        with ledger.leading():
            pass

    for attempt in (write, lead):
        with pytest.raises(ConfigError, match="newer program"):
            until_connected(attempt)
    ledger.close()


def test_an_old_node_writes_nothing_into_a_newer_store(server: Server) -> None:
    """As above."""
    place, url = fenced(server, "node")
    store = node.store.Store(url)
    raised(server, place, "node")

    def write() -> None:
        with store.write() as tx:
            tx.event("x", {}, 0)

    with pytest.raises(ConfigError, match="newer program"):
        until_connected(write)
    store.close()


def until_connected(attempt: Callable[[], None]) -> None:
    """Once more, after a connection that was lost."""
    for _ in range(3):
        try:
            attempt()
        except Transient:
            continue
        return


def test_two_that_upgrade_take_turns(server: Server) -> None:
    """Brokers that are started together: one does it, and the other finds it done."""
    url = server.create()
    put("broker", url)
    with connected(url) as engine, engine.begin() as connection:
        take_back("broker", connection)
    place = Place(url, Path(), "DIR")
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: upgrade(place, longer("broker")), range(3)))
    assert sorted(done is None for done in found) == [False, True, True]


def test_who_holds_a_table_is_not_waited_for_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a `pg_dump`; the store is as it was, and the next attempt may do."""
    monkeypatch.setattr(migrating, "_LOCK_TIMEOUT", "200ms")
    url = server.create()
    put("broker", url)
    with connected(url) as engine:
        with engine.begin() as connection:
            take_back("broker", connection)
        with engine.begin() as reader:
            reader.execute(text("SELECT count(*) FROM reports"))
            with pytest.raises(Transient, match="lock timeout"):
                upgrade(Place(url, Path(), "DIR"), longer("broker"))
        assert upgrade(Place(url, Path(), "DIR"), longer("broker")) is not None
