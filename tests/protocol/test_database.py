"""Sessions on a real PostgreSQL server: what they are set to, what is refused, and what errors come to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, insert, select, text
from sqlalchemy.exc import DBAPIError

from broker import store as broker_store
from broker import tables
from broker.reading import open_reader
from node.store import Store as NodeStore
from protocol import database
from protocol.database import Sole, connect, family, mended
from protocol.errors import ConfigError, Transient
from tests.postgresql import LOCKED, Server

SECRET = "not-to-be-shown"


_bases: dict[Server, str] = {}


@pytest.fixture
def url(server: Server) -> str:
    """A database for what leaves nothing behind."""
    if server not in _bases:
        _bases[server] = server.create()
    return _bases[server]


@pytest.fixture
def fresh(server: Server) -> str:
    """A database of the test's own."""
    return server.create()


@pytest.fixture
def lock(request: pytest.FixtureRequest) -> str:
    """The name of a lock that no other test holds."""
    return str(request.node.name)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that gives up at once."""
    monkeypatch.setattr(database, "PATIENCE", 0.0)


def setting(engine: Any, name: str) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text(f"SHOW {name}")))


# --- sessions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "used"), [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply",) * 2]
)
def test_a_commit_waits_for_the_disk_whatever_the_server_says(
    server: Server, fresh: str, given: str, used: str
) -> None:
    """In each session, also one that came later."""
    name = fresh.rpartition("/")[2].partition("?")[0]
    server.tell(f'ALTER DATABASE "{name}" SET synchronous_commit = {given}')
    plain = create_engine(fresh)
    assert setting(plain, "synchronous_commit") == given
    plain.dispose()
    engine = connect(fresh)
    assert setting(engine, "synchronous_commit") == used
    engine.dispose()
    assert setting(engine, "synchronous_commit") == used


def test_nothing_lasts_for_ever(url: str) -> None:
    """A writer's statements, waits for locks and idle transactions end; a reader takes its time, and never writes."""
    writer, reader = connect(url), connect(url, reader=True)
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        assert setting(writer, name) not in ("0", ""), name
    assert setting(reader, "statement_timeout") == "0"
    with pytest.raises(DBAPIError, match="read-only"), reader.begin() as connection:
        connection.execute(text("CREATE TABLE x (y int)"))


def test_a_text_with_a_nul_ends_nothing(url: str) -> None:
    """A peer chooses the names of unknown fields, and these stand in a path."""
    engine = connect(url)
    table = Table("words", MetaData(), Column("id", Integer, primary_key=True), Column("word", String(20)))
    with engine.begin() as connection:
        table.drop(connection, checkfirst=True)
        table.create(connection)
        connection.execute(insert(table), [{"id": 1, "word": "a\0b"}, {"id": 2, "word": "plain"}])
        assert connection.execute(select(table.c.word).order_by(table.c.id)).scalars().all() == ["a\ufffdb", "plain"]
        assert connection.scalar(select(table.c.id).where(table.c.word == "\0")) is None


# --- what the operator must change ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        f"postgresql://user:{SECRET}@host/base",
        f"postgresql+asyncpg://user:{SECRET}@host/base",
        f"mysql://user:{SECRET}@host/base",
        f"postgresql+psycopg://user:{SECRET}@host:port/base",
        f"postgresql+psycopg://user:{SECRET}/more@host:1:2/base",
        SECRET,
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(wrong: str) -> None:
    """By everybody who takes one."""
    for take in (connect, broker_store.open_engine, open_reader, NodeStore):
        with pytest.raises(ConfigError, match=r"postgresql\+psycopg://USER@HOST/DATABASE") as caught:
            take(wrong)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None, "nor in what it comes from"


@pytest.mark.usefixtures("hasty")
def test_what_is_not_there_is_said(server: Server) -> None:
    """A database, a role, a server, a host: one line, with the server's own words and without the password."""
    here = server.url.set(password=SECRET)
    for wrong, word in (
        (here.set(database="nobody-made-this"), "does not exist"),
        (here.set(username="nobody"), "does not exist"),
        (here.set(host="127.0.0.1", port=1, query={}), "refused"),
        (here.set(host="no.such.host.invalid", query={}), "resolve"),
    ):
        if word == "does not exist" and not server.own:
            continue
        with pytest.raises(ConfigError, match=word) as caught:
            connect(wrong.render_as_string(hide_password=False))
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_wrong_password_is_not_waited_for(server: Server, url: str) -> None:
    """It will not become right by itself."""
    if not server.own:
        pytest.skip("needs a role with a password, on the tests' own server")
    server.tell(f"DROP ROLE IF EXISTS {LOCKED}", f"CREATE ROLE {LOCKED} LOGIN PASSWORD 'right'")
    began = time.monotonic()
    target = database.make_url(url).set(username=LOCKED, password=SECRET)
    with pytest.raises(ConfigError, match="authentication failed") as caught:
        connect(target.render_as_string(hide_password=False))
    assert time.monotonic() - began < database.PATIENCE
    assert SECRET not in str(caught.value)


def test_a_role_without_rights_is_told(server: Server, fresh: str) -> None:
    """It may connect and must make tables."""
    server.tell("DROP ROLE IF EXISTS kentongan_guest", "CREATE ROLE kentongan_guest LOGIN")
    server.tell("REVOKE CREATE ON SCHEMA public FROM PUBLIC", database=fresh)
    guest = database.make_url(fresh).set(username="kentongan_guest").render_as_string()
    for take in (broker_store.open_engine, NodeStore):
        with pytest.raises(ConfigError, match="permission denied"):
            take(guest)


def test_another_encoding_is_refused(server: Server) -> None:
    """It could not hold what people write."""
    with pytest.raises(ConfigError, match="ENCODING 'UTF8'"):
        connect(server.create(ENCODING="LATIN1", LOCALE="C"))


@pytest.mark.parametrize(
    ("row", "word"), [((13, "on", "UTF8", True), "PostgreSQL 13"), ((15, "off", "UTF8", True), "fsync = off")]
)
def test_a_server_that_will_not_do_is_refused(row: tuple[Any, ...], word: str) -> None:
    """Too old; or one whose commits are not on disk, which no session can mend."""

    class Session:
        adapters = type("Adapters", (), {"register_dumper": lambda *_: None})()

        def cursor(self) -> Session:
            return self

        def __enter__(self) -> Session:
            return self

        def __exit__(self, *_: object) -> None: ...

        def execute(self, _: str) -> None: ...

        def fetchone(self) -> tuple[Any, ...]:
            return row

        def commit(self) -> None: ...

    with pytest.raises(ConfigError, match=word):
        database._set_up(Session(), {})


# --- what passes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("40001", Transient),
        ("40P01", Transient),
        ("55P03", Transient),
        ("57P01", Transient),
        ("57014", Transient),
        ("53100", Transient),
        ("53300", Transient),
        ("08006", Transient),
        ("25006", Transient),
        ("42501", ConfigError),
        ("23505", None),
        ("42601", None),
        ("22021", None),
    ],
)
def test_the_family_of_an_error(url: str, state: str, kind: type | None) -> None:
    """Serialisation, deadlock, a lock, shutting down, too slow, full, lost, a standby; rights; and bugs."""
    engine = connect(url)
    words = f"DO $$ BEGIN RAISE EXCEPTION 'words' USING ERRCODE = '{state}', DETAIL = '{SECRET}'; END $$"
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        connection.execute(text(words))
    found = family(caught.value)
    assert type(found) is (kind or type(None))
    assert SECRET not in str(found), "details hold what is in rows"


def test_a_session_that_is_lost_passes(server: Server, url: str) -> None:
    """The next one is a new one."""
    engine = connect(url)

    def cut() -> None:
        with mended(), engine.begin() as connection:
            pid = connection.scalar(text("SELECT pg_backend_pid()"))
            server.tell(f"SELECT pg_terminate_backend({pid})")
            connection.execute(text("SELECT 1"))

    with pytest.raises(Transient):
        cut()
    with mended(), engine.begin() as connection:
        assert connection.scalar(text("SELECT 1")) == 1


@pytest.mark.usefixtures("hasty")
def test_a_server_that_is_down_passes_while_running(server: Server, fresh: str) -> None:
    """And stores go on by themselves when it is back."""
    if not server.own:
        pytest.skip("the server of this run is not the tests' own: it is not stopped")
    ledger = broker_store.Store(broker_store.open_engine(fresh))
    node = NodeStore(server.create())

    def append() -> None:
        with node.write() as tx:
            tx.event("x", {}, 0)

    def read() -> None:
        with node.read() as reads:
            reads.numbers()

    def number() -> None:
        with ledger.writing() as connection:
            broker_store.last_number(connection, tables.feed)

    def count() -> None:
        with ledger.reading() as connection:
            broker_store.count(connection, tables.feed)

    uses: list[Callable[[], object]] = [append, read, number, count, ledger.lead]
    server.control("stop", "-m", "immediate")
    try:
        for use in uses:
            with pytest.raises(Transient):
                use()
    finally:
        server.control("start")
    for use in uses:
        use()
    assert node.last_event == 1
    assert ledger.leads


# --- being alone ------------------------------------------------------------------------------------------------


def test_one_holds_a_lock(url: str, lock: str) -> None:
    """Until it leaves; then it is the next one's."""
    first, second = Sole(connect(url), lock), Sole(connect(url), lock)
    assert first.take() == 1
    assert first.take() == 1
    assert second.take() == 0
    assert Sole(connect(url), f"{lock}, another").take() == 1
    first.leave()
    assert second.take() == 1
    with pytest.raises(Transient), first.begin():
        pass
    assert first.take() == 0


def test_the_lock_goes_with_the_session(server: Server, url: str, lock: str) -> None:
    """Who lost it without knowing writes nothing."""
    first, second = Sole(connect(url), lock), Sole(connect(url), lock)
    assert first.take() == 1
    with first.begin() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    server.tell(f"SELECT pg_terminate_backend({pid})")
    assert second.take() == 1
    with pytest.raises(Transient), mended(), first.begin() as session:
        session.execute(text("CREATE TABLE never (x int)"))
    assert first.take() == 0
    second.leave()
    assert first.take() == 2, "a new term"


def test_a_holder_that_has_stopped_is_not_waited_for(url: str, lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends its session; one that is alive says so in time."""
    monkeypatch.setattr(database, "_IDLE", 1)
    monkeypatch.setattr(database, "_ALIVE", 0.2)
    stopped, alive = Sole(connect(url), lock, yields=True), Sole(connect(url), f"{lock}, another", yields=True)
    next_one = Sole(connect(url), lock, yields=True)
    assert stopped.take() == alive.take() == 1
    end = time.monotonic() + 30
    while not next_one.take():
        assert alive.take() == 1
        assert time.monotonic() < end
        time.sleep(0.05)
    assert stopped.take() == 0


@pytest.mark.usefixtures("hasty")
def test_a_node_has_its_database_to_itself(fresh: str, tmp_path: Path) -> None:
    """A second process is refused, from whichever directory; afterwards it is let in."""
    first = NodeStore.open(tmp_path / "a", fresh)
    with pytest.raises(ConfigError, match="another node uses the database") as caught:
        NodeStore.open(tmp_path / "b", database.make_url(fresh).set(password=SECRET).render_as_string(False))
    assert SECRET not in str(caught.value)
    first.close()
    NodeStore.open(tmp_path / "b", fresh).close()
