"""The whole process: offline, restarts, stops, faults, and what is in its logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog

from node.api.inbox import Inbox
from node.app import Node
from node.store import Store
from protocol.errors import ConfigError, Transient
from protocol.process import report_bug
from protocol.subjects import Kind
from tests.governing import invitation
from tests.node.conftest import Running, Start, running
from tests.node.test_filing import NARROW
from tests.node.world import (
    CANARY,
    MEMBERS,
    START,
    TOKEN,
    Broker,
    Clock,
    MemoryBus,
    Msg,
    filing,
    foreign,
    key_of,
    make_config,
    receipts,
    record_of,
    region,
    released,
    seeded,
)


def offline() -> MemoryBus:
    bus = MemoryBus()
    bus.up = False
    return bus


async def test_what_was_accepted_offline_is_sent_after_a_restart(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """The same bytes, whichever process sends them, until the receipt; then no more."""
    async with running(make_config(tmp_path), clock, offline()) as node:
        _, answer, _ = await node.post(filing())
    with sqlite3.connect(tmp_path / "data" / "node.db") as database:
        stored = database.execute("select message from submissions").fetchall()
    bus = MemoryBus()
    async with running(make_config(tmp_path), clock, bus) as node:
        await bus.until(lambda: bus.sent)
        assert [(message.data,) for message in bus.sent] == stored
        bus.inbox.append(receipts(broker.receipt(bus.sent[0].data)))
        await bus.until(lambda: not bus.inbox and not bus.unacked)
        assert (await node.get(answer["status"]))["state"] == "accepted"
    again = MemoryBus()
    async with running(make_config(tmp_path), clock, again):
        await asyncio.sleep(0.2)
        assert again.sent == []


async def test_a_publish_that_was_stored_though_it_failed_is_sent_again(start: Start, clock: Clock) -> None:
    """The sender cannot know; the broker takes twice as once."""
    bus = MemoryBus()
    bus.lose = 1
    node = await start(bus)
    await node.post(filing())
    await bus.until(lambda: len(bus.sent) == 1)
    await asyncio.sleep(0.2)
    clock.pass_(seconds=3)
    await bus.until(lambda: len(bus.sent) == 2)
    assert bus.sent[0].data == bus.sent[1].data


async def test_a_link_that_comes_back_is_used(start: Start, clock: Clock) -> None:
    """Without a restart."""
    bus = offline()
    node = await start(bus)
    await node.post(filing())
    await asyncio.sleep(0.1)
    assert bus.sent == []
    bus.up = True
    await bus.until(lambda: bus.sent)


async def test_dialling_never_gives_up(tmp_path: Path, clock: Clock) -> None:
    """Neither when nobody answers nor when the credentials are refused; reports are accepted meanwhile."""
    bus, attempts = MemoryBus(), 0

    async def dial(_on_state: Any) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise (Transient("nobody"), ConfigError("refused"))[attempts - 1]
        return bus

    node = Node(
        make_config(tmp_path), now=clock, rand=lambda size: b"\0" * size if size == 1 else os.urandom(size), dial=dial
    )
    task = asyncio.create_task(node.run())
    await node.started.wait()
    async with (
        aiohttp.ClientSession(node.url, headers={"Authorization": f"Bearer {TOKEN}"}) as http,
        http.post("/v1/reports", json=filing()) as response,
    ):
        assert response.status == 202
        await bus.until(lambda: bus.sent)
    node.stop()
    await task
    assert attempts == 3
    assert bus.closed


async def test_a_stop_finishes_what_was_taken(tmp_path: Path, clock: Clock) -> None:
    """Every request in flight gets its answer, and every 202 is on disk."""
    async with running(make_config(tmp_path), clock, offline()) as node:
        posts = [asyncio.create_task(node.post(filing(str(index)))) for index in range(60)]
        await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
        await node.stop()
        answers = await asyncio.gather(*posts, return_exceptions=True)
    taken = {answer[1]["digest"] for answer in answers if isinstance(answer, tuple) and answer[0] == 202}
    with sqlite3.connect(tmp_path / "data" / "node.db") as database:
        rows = {row[0] for row in database.execute("select digest from own_reports")}
    assert taken
    assert taken <= rows


async def test_listeners_do_not_hold_up_a_stop(node: Running) -> None:
    """They are let go first."""
    async with node.http.get("/v1/feed") as response:
        await response.content.readline()
        began = time.monotonic()
        await node.stop()
        assert time.monotonic() - began < 3


async def test_messages_are_acknowledged_after_the_commit_only(
    start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: nothing is acknowledged, and all of it is taken when there is room again."""
    full = True
    write = Store.write

    @contextlib.contextmanager
    def writing(self: Store) -> Any:
        with write(self) as tx:
            yield tx
            if full:
                raise Transient("the disk takes no more for now")

    node = await start()
    monkeypatch.setattr(Store, "write", writing)
    node.bus.inbox.append(broker.delivery(released(foreign())))
    status, _, headers = await node.post(filing())
    assert status == 503
    assert "Retry-After" in headers
    await node.bus.until(lambda: node.bus.unacked)
    await asyncio.sleep(0.1)
    assert node.bus.unacked
    full = False
    node.bus.redeliver()
    await node.bus.until(lambda: not node.bus.unacked and not node.bus.inbox)
    assert len((await node.get("/v1/inbox"))["reports"]) == 1
    assert (await node.post(filing()))[0] == 202


def test_a_full_disk_is_transient(tmp_path: Path) -> None:
    """SQLite's own word for it, not a bug that ends the process."""
    store = Store.open(tmp_path)
    with store.read() as reads:
        reads._db.exec_driver_sql("select 1")

    def fill() -> None:
        with store.write() as tx:
            tx._db.exec_driver_sql("pragma max_page_count = 1")
            for index in range(2_000):
                tx.event("x", {"index": index, "text": "x" * 4_000}, 0)

    with pytest.raises(Transient):
        fill()
    assert store.last_event == 0
    store.close()


@pytest.mark.parametrize("schema", ["1", "99"])
def test_another_schema_is_refused(tmp_path: Path, schema: str) -> None:
    """And nothing in the database is touched."""
    Store.open(tmp_path).close()
    with sqlite3.connect(tmp_path / "node.db") as database:
        database.execute("update meta set value = ?", [schema])
    with pytest.raises(ConfigError, match=f"schema {schema}"):
        Store.open(tmp_path)


async def test_two_processes_do_not_share_data(tmp_path: Path, clock: Clock, node: Running) -> None:
    """Row numbers come from memory."""
    with pytest.raises(ExceptionGroup) as caught:
        raise ExceptionGroup("", [await _failure(Node(make_config(tmp_path), now=clock, rand=seeded("x")))])
    assert isinstance(caught.value.exceptions[0], ConfigError)


async def _failure(node: Node) -> Exception:
    try:
        await node.run()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the test looks at it
        return exc
    raise AssertionError("it runs")


async def test_an_unknown_member_is_looked_up(start: Start, broker: Broker, clock: Clock) -> None:
    """The region document is fetched, cached, and the delivery read."""
    node = await start()
    members = (
        *MEMBERS,
        msgspec.structs.replace(MEMBERS[0], id="th-cert", jurisdiction="th", keys=[record_of("th-cert")]),
    )
    clock.pass_(seconds=1)
    node.bus.show(region(2, members), clock())
    node.bus.inbox.append(broker.delivery(released(foreign("th-cert", jurisdiction="th"))))
    await node.bus.until(lambda: node.bus.of(Kind.CONFIRMATIONS))
    assert (await node.get("/v1/inbox"))["reports"][0]["origin"]["member"] == "th-cert"
    assert (await node.get("/readyz"))["region"]["serial"] == 2
    assert (await node.post(filing(marking={"tlp": "AMBER", "recipients": ["th"]})))[0] == 202


async def test_the_region_survives_a_restart_offline(tmp_path: Path, clock: Clock) -> None:
    """From the cached document; an older one, or a broken one, does not replace the newer."""
    bus = MemoryBus()
    clock.pass_(seconds=1)
    bus.show(region(2), clock())
    cache = tmp_path / "data" / "region.jwt"
    async with running(make_config(tmp_path), clock, bus):
        await bus.until(cache.exists)
    async with running(make_config(tmp_path), clock, offline()) as node, node.http.get("/readyz") as response:
        assert response.status == 503
        assert (await response.json())["region"]["serial"] == 2
    cache.write_bytes(b"nonsense")
    async with running(make_config(tmp_path), clock, MemoryBus()) as node:
        assert (await node.get("/readyz"))["region"]["serial"] == 1


async def test_a_node_is_not_ready_before_it_has_seen_the_region(start: Start) -> None:
    """What it filed before might stay at home: it does not know yet who is there to get it."""
    bus = MemoryBus()
    document, bus.region_document = bus.region_document, b""
    node = await start(bus)
    await bus.until(lambda: bus.requests > 1)
    async with node.http.get("/readyz") as response:
        assert response.status == 503
        assert (await response.json())["link"] == "up"
    bus.region_document = document
    async with asyncio.timeout(10):
        while True:
            async with node.http.get("/readyz") as response:
                if response.status == 200:
                    break
            await asyncio.sleep(0.05)


async def test_without_a_region_nothing_is_acknowledged(start: Start, broker: Broker) -> None:
    """A report of an unknown member waits on the bus while the region cannot be asked."""
    node = await start()
    node.bus.region_document = b""
    node.bus.inbox.append(broker.delivery(released(foreign("th-cert", jurisdiction="th"))))
    await node.bus.until(lambda: node.bus.requests > 1 and not node.bus.inbox)
    await asyncio.sleep(0.1)
    assert len(node.bus.unacked) == 1


async def test_a_broken_policy_stays_out_and_says_so(start: Start, tmp_path: Path) -> None:
    """The old one is in force until the new one is readable."""
    node = await start()
    policy = tmp_path / "policy.toml"
    policy.write_text("nonsense")
    async with asyncio.timeout(5):
        while (await node.get("/readyz"))["policy"] == "ok":
            await asyncio.sleep(0.05)
    assert (await node.post(filing()))[1]["state"] == "queued"
    narrow = NARROW.replace("{j}", "id").replace('"my"', '"th"').replace('"sg"', '"th"')
    policy.write_text(narrow)
    async with asyncio.timeout(5):
        while "raise the version" not in (await node.get("/readyz"))["policy"]:
            await asyncio.sleep(0.05)
    later = f"effective_from = {START.isoformat()}"
    lines = [later if line.startswith("effective_from") else line for line in narrow.splitlines()]
    policy.write_text("\n".join(lines).replace("version = 1", "version = 2"))
    async with asyncio.timeout(5):
        while (await node.get("/readyz"))["policy"] != "ok":
            await asyncio.sleep(0.05)
    assert (await node.post(filing("B")))[1]["state"] == "kept"


async def test_a_bug_in_a_handler_is_500_and_the_end(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No word of it in the answer; the process ends with it."""

    async def bug(*_: Any) -> Any:
        raise KeyError(CANARY)

    monkeypatch.setattr(Inbox, "list", bug)
    node = Node(make_config(tmp_path), now=clock, rand=seeded("x"), dial=None)
    task = asyncio.create_task(node.run())
    await node.started.wait()
    async with (
        aiohttp.ClientSession(node.url, headers={"Authorization": f"Bearer {TOKEN}"}) as http,
        http.get("/v1/inbox") as response,
    ):
        assert response.status == 500
        assert CANARY not in await response.text()
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(task, 15)
    assert caught.group_contains(KeyError)


async def test_a_bug_in_a_loop_is_the_end(tmp_path: Path, clock: Clock) -> None:
    """Nobody waits for a loop that is dead."""
    bus = MemoryBus()

    async def broken(most: int, wait: float) -> list[Any]:
        raise ZeroDivisionError

    bus.pull = broken  # type: ignore[method-assign]

    async def dial(_: Any) -> Any:
        return bus

    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(Node(make_config(tmp_path), now=clock, rand=seeded("x"), dial=dial).run(), 10)
    assert caught.group_contains(ZeroDivisionError)
    assert bus.closed


async def test_content_is_never_logged(
    start: Start, broker: Broker, clock: Clock, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Filing, refusing, receiving, alarms, a bug's report: ids, reasons, sizes."""
    structlog.reset_defaults()
    node = await start()
    await node.post(filing(CANARY))
    await node.post([filing(CANARY), {CANARY: 1}, filing(CANARY, severity={"score": CANARY})])
    await node.post(filing(marking={"tlp": "RED", "recipients": [CANARY]}))
    node.bus.inbox.append(broker.delivery(released(foreign()), f"{CANARY}~"))
    node.bus.inbox.append(Msg(CANARY, CANARY.encode()))
    node.bus.inbox.append(Msg(Kind.RECEIPTS, json.dumps([CANARY]).encode()))
    await node.bus.until(lambda: not node.bus.inbox and not node.bus.unacked)
    try:
        raise ValueError(CANARY)
    except ValueError as exc:
        report_bug(exc)
    await node.stop()
    out, err = capfd.readouterr()
    assert "node.committed" in out + err
    assert "process.bug" in out + err
    assert CANARY not in out + err + caplog.text


def test_the_process_runs_offline_and_stops_on_sigterm(tmp_path: Path) -> None:
    """As an operator does it: init, join, run, a post, SIGTERM; JSON lines on stderr, exit code 0."""
    place, cli = tmp_path / "node", [sys.executable, "-m", "node.cli", "node"]
    init = subprocess.run(
        [*cli, "init", place, "--member", "id-cert", "--port", "0"], capture_output=True, text=True, check=True
    )
    token = next(line for line in init.stdout.splitlines() if "token" in line).split()[-1]
    invitation = tmp_path / "invitation.json"
    invitation.write_bytes(_invitation(place))
    subprocess.run([*cli, "join", place, invitation], check=True, capture_output=True)
    process = subprocess.Popen([*cli, "run", place], stderr=subprocess.PIPE, text=True)
    try:
        url = _wait_for(place / "data" / "node.url").strip()
        status = asyncio.run(_post(url, token))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    lines = [json.loads(line) for line in err.splitlines()]
    assert status == 202
    assert process.returncode == 0, err
    assert [line["event"] for line in lines if line["event"] in ("node.started", "node.stopped")] == [
        "node.started",
        "node.stopped",
    ]


def _invitation(place: Path) -> bytes:
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - real time is of this test only

    from protocol import natsauth  # noqa: PLC0415
    from protocol.registry import Member  # noqa: PLC0415

    now = datetime.now(UTC)
    record = key_of("broker").record(now - timedelta(days=1), now + timedelta(days=1))
    member = msgspec.json.decode((place / "member.json").read_bytes(), type=Member)
    place = region(1, [member, MEMBERS[1]], broker_keys=[record])
    account = natsauth.create_seed(natsauth.Role.ACCOUNT, b"a" * 32)
    jwt = natsauth.sign_claims(
        account, str(member.transport), "id-cert", {"type": "user", "version": 2}, int(START.timestamp())
    )
    return msgspec.json.encode(
        invitation("id-cert", place, key_of("broker"), now, url="nats://127.0.0.1:9", user_jwt=jwt)
    )


def _wait_for(path: Path) -> str:
    for _ in range(200):
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} does not appear")


async def _post(url: str, token: str) -> int:
    document = filing(body={"title": "x"})
    async with (
        aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {token}"}) as http,
        http.post("/v1/reports", json=document) as response,
    ):
        return response.status
