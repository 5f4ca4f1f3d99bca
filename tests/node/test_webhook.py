"""Events go out signed, in order, at least once: past failures, redirects, restarts and long downtimes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from node import tables
from node.config import load_config
from node.core import NodeCore
from node.course import Course
from node.feed import Feed
from node.loops import Writer
from node.metrics import Metrics
from node.outputs import Hook
from node.store import Store, microseconds
from node.webhook import Target, Webhook, pause_after, read_webhook_secrets
from protocol.errors import ConfigError, Transient
from protocol.keys import write_secret
from tests.node.conftest import running
from tests.node.test_alarms import NONSENSE, metric, scrape
from tests.node.world import START, Clock, MemoryBus, make_config

KEY = bytes(range(32))
SECRET = b"whsec_" + base64.b64encode(KEY)
KINDS = ("alarm", "report.unread")
OLDEST = "kentongan_node_webhook_oldest_seconds"


@dataclass
class Receiver:
    """A server that answers as told, and notes what it got."""

    answer: Callable[[int], Any] = lambda _: 204
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    elsewhere: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = self.answer(len(self.got))
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=status or 500, headers={"Location": "/elsewhere"} if status == 307 else None)

    async def other(self, _request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()

    def ids(self) -> list[int]:
        return [int(headers["webhook-id"]) for headers, _ in self.got]

    async def until(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.got) < number:
                await asyncio.sleep(0.002)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.add_routes([web.post("/hook", made.handle), web.route("*", "/elsewhere", made.other)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@asynccontextmanager
async def sending(core: NodeCore, receiver: Receiver, **choice: Any) -> AsyncIterator[Metrics]:
    """The loop by itself, on the store as it is: a process from its start to its end."""
    writer = Writer()
    feed = Feed(core.store, asyncio.get_running_loop())
    core.store.on_events = feed.announce
    metrics = Metrics(outbox=core.outbox, words=core.words, link=lambda: True, now=core._now)
    settings = Hook(**{"url": receiver.url, "kinds": KINDS, **choice})
    target = Target(settings, (KEY,), first_pause=0.001)
    course = Course(settings.name, settings, core.member, store=core.store, writer=writer, feed=feed, now=core._now)
    hook = Webhook(target, course, metrics, lambda count: b"\0" * count)
    task = asyncio.create_task(hook.run())
    try:
        async with asyncio.timeout(10):
            while not position(core):
                await asyncio.sleep(0.002)
        metrics.hook, metrics.writer = hook, writer  # type: ignore[attr-defined] - for tests that move it
        yield metrics
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()
        writer.close()


def position(core: NodeCore) -> int:
    with core.store.read() as reads:
        row = reads.output("webhook")
        return 0 if row is None else row.next


async def until_position(core: NodeCore, number: int) -> None:
    async with asyncio.timeout(10):
        while position(core) != number:
            await asyncio.sleep(0.002)


def happen(core: NodeCore, *kinds: str) -> None:
    """Events, as a transaction writes them."""
    with core.store.write() as tx:
        for number, kind in enumerate(kinds):
            tx.event(kind, {"number": number}, microseconds(core._now()))


async def test_a_request_follows_the_specification(core: NodeCore, clock: Clock, receiver: Receiver) -> None:
    """Checked as any receiver would: HMAC-SHA256 over id, time and body, with the key from the secret."""
    async with sending(core, receiver):
        happen(core, "report.filed", "alarm")
        await receiver.until(1)
    ((headers, body),) = receiver.got
    assert headers["Content-Type"] == "application/json"
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("2", str(int(START.timestamp())))
    assert json.loads(body) == {"type": "alarm", "timestamp": "2026-05-04T08:00:00Z", "data": {"number": 1}}
    signed = b"%s.%s.%s" % (headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body)
    expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize("fault", [500, 404, 307, 0])
async def test_what_fails_is_sent_again_in_order(core: NodeCore, clock: Clock, receiver: Receiver, fault: int) -> None:
    """The same id and body, signed for its own time; those behind it wait; redirects lead nowhere."""
    receiver.answer = lambda number: fault if number <= 3 else 204
    with capture_logs() as logs:
        async with sending(core, receiver) as metrics:
            happen(core, "alarm", "report.unread")
            await receiver.until(2)
            clock.pass_(hours=1)
            await receiver.until(5)
            await until_position(core, 3)
            counted = (
                metrics.webhooks.labels("webhook", "failed")._value.get(),
                metrics.webhooks.labels("webhook", "delivered")._value.get(),
            )
    assert receiver.ids() == [1, 1, 1, 1, 2]
    assert len({body for _, body in receiver.got}) == 2
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.got}) == 2
    assert counted == (3, 2)
    assert receiver.elsewhere == 0
    assert len([entry for entry in logs if entry["event"] == "node.webhook_failed"]) == 3
    assert receiver.url not in str(logs)


async def test_a_restart_neither_skips_nor_floods(core: NodeCore, clock: Clock, receiver: Receiver) -> None:
    """It goes on with the first that was not taken; what was before the first start is not sent at all."""
    happen(core, *["alarm"] * 5)
    async with sending(core, receiver):
        happen(core, "alarm", "report.state", "report.unread")
        await receiver.until(2)
        await until_position(core, 9)
    happen(core, "alarm")
    receiver.answer = lambda _: 503
    async with sending(core, receiver):
        happen(core, "alarm")
        await receiver.until(4)
    receiver.answer = lambda _: 200
    before = len(receiver.got)
    async with sending(core, receiver):
        await receiver.until(before + 2)
        await until_position(core, 11)
    assert receiver.ids()[:2] == [6, 8]
    assert set(receiver.ids()[2:before]) == {9}
    assert list(dict.fromkeys(receiver.ids()[before:])) == [9, 10]


async def test_the_first_event_ever_is_not_skipped(core: NodeCore, receiver: Receiver) -> None:
    """A node that starts with an empty feed and cannot send."""
    receiver.answer = lambda _: 500
    async with sending(core, receiver):
        happen(core, "alarm")
        await receiver.until(2)
    receiver.answer = lambda _: 200
    before = len(receiver.got)
    async with sending(core, receiver):
        await receiver.until(before + 1)
    assert set(receiver.ids()) == {1}


async def test_a_database_that_is_older_than_the_position(core: NodeCore, receiver: Receiver) -> None:
    """A restored copy: it goes on with what comes next."""
    async with sending(core, receiver):
        happen(core, "alarm")
        await until_position(core, 2)
    with core.store.write() as tx:
        tx.set(tables.outputs, "name", [{"name": "webhook", "next": 900}])
    async with sending(core, receiver):
        await until_position(core, 2)
        happen(core, "alarm")
        await receiver.until(2)
    assert receiver.ids() == [1, 2]


async def test_other_events_are_passed_over_once(core: NodeCore, receiver: Receiver) -> None:
    """After many of them the position is saved, so that the next start does not look through them again."""
    async with sending(core, receiver):
        happen(core, *["report.state"] * 2_500)
        await until_position(core, 2_501)
        happen(core, "alarm")
        await receiver.until(1)
    assert receiver.ids() == [2_501]


async def test_a_full_disk_is_waited_out(core: NodeCore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event that was taken is not sent again for it, also after a restart."""
    write, faults = Store.write, 1

    def writing(self: Store) -> Any:
        nonlocal faults
        if faults and receiver.got:
            faults -= 1
            raise Transient("full")
        return write(self)

    async with sending(core, receiver):
        happen(core, "alarm")
        monkeypatch.setattr(Store, "write", writing)
        await until_position(core, 2)
        assert not faults
    async with sending(core, receiver):
        happen(core, "alarm")
        await receiver.until(2)
    assert receiver.ids() == [1, 2]


async def test_a_day_of_failures_is_told_and_nothing_is_dropped(
    core: NodeCore, clock: Clock, receiver: Receiver
) -> None:
    """By the age of the event, so that restarts do not hide it: a metric and a log line; it still goes out."""
    receiver.answer = lambda _: 500
    with capture_logs() as logs:
        async with sending(core, receiver):
            happen(core, "alarm")
            await receiver.until(1)
        assert "node.webhook_failing" not in {entry["event"] for entry in logs}
        clock.pass_(hours=25)
        async with sending(core, receiver) as metrics:
            await receiver.until(len(receiver.got) + 2)
            (line,) = [text for text in metrics.render().decode().splitlines() if text.startswith(OLDEST)]
            assert float(line.split()[1]) == timedelta(hours=25).total_seconds()
            receiver.answer = lambda _: 200
            await until_position(core, 2)
            (line,) = [text for text in metrics.render().decode().splitlines() if text.startswith(OLDEST)]
            assert float(line.split()[1]) == 0
    failing = [entry for entry in logs if entry["event"] == "node.webhook_failing"]
    assert {(entry["log_level"], entry["id"], entry["fault"], entry["hours"]) for entry in failing} == {
        ("error", 1, "status 500", 25)
    }


def test_pauses_grow_to_an_hour() -> None:
    """5 s, doubled each time."""
    pauses = [pause_after(attempts, 128) for attempts in (1, 2, 3, 10, 11, 5_000)]
    assert pauses == [5, 10, 20, 2_560, 3_600, 3_600]
    assert {round(pause_after(1, jitter), 2) for jitter in (0, 128, 255)} == {3.75, 5.0, 6.24}


@pytest.mark.parametrize(
    "text",
    [b"", b"hunter2-hunter2", base64.b64encode(KEY), b"whsec_", b"whsec_####", b"whsec_" + base64.b64encode(b"short")],
)
def test_a_secret_must_be_one(tmp_path: Path, text: bytes) -> None:
    """The prefix, base64, 24 to 64 bytes; the fault does not repeat it."""
    write_secret(tmp_path / "good", SECRET + b"\n")
    assert read_webhook_secrets(tmp_path / "good") == (KEY,)
    write_secret(tmp_path / "bad", text)
    with pytest.raises(ConfigError) as caught:
        read_webhook_secrets(tmp_path / "bad")
    assert len(text) < 8 or text.decode() not in str(caught.value)
    (tmp_path / "good").chmod(0o440)
    with pytest.raises(ConfigError, match="chmod"):
        read_webhook_secrets(tmp_path / "good")


def test_where_to_comes_from_the_configuration(tmp_path: Path) -> None:
    """Nowhere by default."""
    head = 'member = "id-cert"\njurisdiction = "id"\nname = "x"\n'
    file = tmp_path / "node.toml"
    file.write_text(head)
    assert load_config(file).webhooks == ()
    file.write_text(head + '[webhook]\nurl = "https://siem.example/x"\nkinds = ["alarm"]\n')
    (hook,) = load_config(file).webhooks
    assert (hook.url, hook.kinds) == ("https://siem.example/x", ("alarm",))
    assert hook.secret_file == tmp_path / "keys" / "webhook.secret"
    for wrong in ('url = "ftp://x"', 'url = "https://"', "kinds = []", 'kinds = ["Alarm"]', 'secret = "x"'):
        file.write_text(head + f"[webhook]\n{wrong}\n")
        with pytest.raises(ConfigError):
            load_config(file)


async def test_a_running_node_sends(tmp_path: Path, clock: Clock, receiver: Receiver) -> None:
    """With a secret file in place, and not without one; a stop does not wait for a receiver that fails."""
    config = make_config(tmp_path)
    secret = config.keys / "webhook.secret"
    config = replace(config, webhooks=(Hook(url=receiver.url, secret_file=secret),))
    with pytest.raises(ConfigError, match=r"webhook\.secret is missing"):
        async with running(config, clock, MemoryBus()):
            pass
    write_secret(secret, SECRET)
    receiver.answer = lambda _: 500
    bus = MemoryBus()
    async with running(config, clock, bus) as node:
        bus.inbox.append(NONSENSE)
        async with asyncio.timeout(10):
            while not (counted := metric(await scrape(node), "kentongan_node_webhooks_total")):
                await asyncio.sleep(0.01)
        assert counted == ['kentongan_node_webhooks_total{outcome="failed",webhook="webhook"} 1.0']
        await node.stop()
    receiver.answer = lambda _: 200
    async with running(config, clock, MemoryBus()):
        await receiver.until(2)
    assert receiver.ids() == [1, 1]
    assert json.loads(receiver.got[1][1])["data"]["reason"] == "not-json"
