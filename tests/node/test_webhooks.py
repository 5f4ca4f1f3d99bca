"""Several webhooks: told apart, disabled, enabled, replayed, filtered; checked with the specification's own library."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError
from structlog.testing import capture_logs

from node import cli, tables
from node.config import load_config
from node.core import NodeCore
from node.course import Course
from node.feed import Feed
from node.loops import Writer
from node.outputs import Hook
from node.store import microseconds
from node.webhook import asked_for, read_webhook_secrets, sign
from protocol.errors import ConfigError
from protocol.keys import write_secret
from tests.node.conftest import Running, running
from tests.node.test_alarms import NONSENSE, metric, scrape
from tests.node.test_webhook import KEY, SECRET, Receiver, happen, position, sending, until_position
from tests.node.world import START, TOKEN, Broker, Clock, MemoryBus, filing, foreign, make_config, released

OTHER = bytes(range(100, 132))
OLD = b"whsec_" + base64.b64encode(OTHER)


@pytest.fixture
async def receive() -> AsyncIterator[Callable[..., Any]]:
    """Makes receivers."""
    async with AsyncExitStack() as stack:

        async def make(headers: dict[str, str] | None = None) -> Receiver:
            made = Receiver()

            async def handle(request: web.Request) -> web.Response:
                answer = await made.handle(request)
                answer.headers.update(headers or {})
                return answer

            app = web.Application()
            app.add_routes([web.post("/hook/secret-path", handle)])
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook/secret-path"
            return made

        yield make


def configured(tmp_path: Path, *hooks: Hook) -> Any:
    config = make_config(tmp_path)
    secret = config.keys / "webhook.secret"
    if not secret.exists():
        write_secret(secret, OLD + b"\n" + SECRET + b"\n")
    return replace(config, webhooks=tuple(msgspec_replace(hook, secret_file=secret) for hook in hooks))


def msgspec_replace(hook: Hook, **changes: Any) -> Hook:
    return Hook(**{**{name: getattr(hook, name) for name in hook.__struct_fields__}, **changes})


async def of(node: Running, name: str) -> Any:
    listed = (await node.get("/v1/webhooks"))["webhooks"]
    return next(item for item in listed if item["name"] == name)


async def call(node: Running, path: str, body: Any = None) -> tuple[int, Any]:
    async with node.http.post(path, json=body) as response:
        return response.status, await response.json(content_type=None)


async def on_writer(metrics: Any, work: Callable[..., Any], *args: Any) -> None:
    """On the one thread that writes, as in a node."""
    await metrics.writer.run(work, *args)


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not await true():
            await asyncio.sleep(0.005)


def test_signatures_are_those_of_the_library() -> None:
    """With the present secret and with the one before it; not with another, and not for another body."""
    now = datetime.now(UTC)
    headers = {"webhook-id": "7", "webhook-timestamp": str(int(now.timestamp()))}
    body = b'{"type":"alarm"}'
    headers["webhook-signature"] = sign((KEY, OTHER), "7", int(now.timestamp()), body)
    for secret in (SECRET, OLD):
        assert Verifier(secret.decode()).verify(body, headers) == {"type": "alarm"}
    with pytest.raises(WebhookVerificationError):
        Verifier(secret.decode()).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(base64.b64encode(b"x" * 32).decode()).verify(body, headers)


def test_a_secret_file_holds_several_while_it_is_changed(tmp_path: Path) -> None:
    """One a line; one that is wrong is refused with the others."""
    write_secret(tmp_path / "two", SECRET + b"\n" + OLD + b"\n")
    assert read_webhook_secrets(tmp_path / "two") == (KEY, OTHER)
    write_secret(tmp_path / "wrong", SECRET + b"\nwhsec_c2hvcnQ=\n")
    with pytest.raises(ConfigError, match="wrong must hold"):
        read_webhook_secrets(tmp_path / "wrong")


def test_several_in_the_configuration(tmp_path: Path) -> None:
    """Each with a name of its own, which it also has among syslog receivers."""
    head = 'member = "id-cert"\njurisdiction = "id"\nname = "x"\n'
    file = tmp_path / "node.toml"
    two = '[[webhook]]\nname = "a"\nurl = "https://a.example"\n[[webhook]]\nname = "b"\nurl = "https://b.example"\n'
    file.write_text(head + two + 'secret_file = "keys/b"\n')
    hooks = load_config(file).webhooks
    assert [(hook.name, hook.secret_file) for hook in hooks] == [
        ("a", tmp_path / "keys" / "webhook.secret"),
        ("b", tmp_path / "keys" / "b"),
    ]
    for more in (
        '[[webhook]]\nname = "a"\nurl = "https://c.example"\n',
        '[[syslog]]\nname = "b"\naddress = "tcp://x:1"\n',
    ):
        file.write_text(head + two + more)
        with pytest.raises(ConfigError, match="same name"):
            load_config(file)
    file.write_text(head + '[[webhook]]\nurl = "https://a.example"\nname = "A B"\n')
    with pytest.raises(ConfigError, match=r"\[\[webhook\]\] kinds"):
        load_config(file)


async def test_one_dead_endpoint_holds_up_no_other(tmp_path: Path, clock: Clock, receive: Callable[..., Any]) -> None:
    """Its own events wait; the alarm about it, once it is gone, goes out through the other one."""
    dead, alive = await receive(), await receive()
    dead.answer = lambda _: 410 if len(dead.got) > 1 else 500
    config = configured(tmp_path, Hook(name="dead", url=dead.url), Hook(name="alive", url=alive.url))
    bus = MemoryBus()
    with capture_logs() as logs:
        async with running(config, clock, bus) as node:
            bus.inbox.append(NONSENSE)
            await alive.until(1)

            async def failing() -> bool:
                return bool((await of(node, "dead"))["state"] == "failing")

            await until(failing)
            node_hook = await of(node, "dead")
            assert node_hook["to"] == dead.url.removesuffix("/hook/secret-path")
            status, answer = await call(node, "/v1/webhooks/dead/enable")
            assert (status, answer["state"]) == (200, "failing"), "what is not disabled stays what it is"
            # The pause is long: a replay from where it stands tries at once.
            assert (await call(node, "/v1/webhooks/dead/replay", {"from": node_hook["next"]}))[0] == 200

            async def disabled() -> bool:
                return bool((await of(node, "dead"))["state"] == "disabled")

            await until(disabled)
            await alive.until(3)
            assert metric(await scrape(node), "kentongan_node_webhook_disabled") == [
                'kentongan_node_webhook_disabled{webhook="dead"} 1.0',
                'kentongan_node_webhook_disabled{webhook="alive"} 0.0',
            ]
            open_alarms = (await node.get("/v1/alarms"))["alarms"]
            assert [(a["about"], a["reason"], a["facts"].get("webhook")) for a in open_alarms][1:] == [
                ("webhook", "endpoint-gone", "dead")
            ]
    kinds = [json.loads(body)["type"] for _, body in alive.got]
    assert kinds == ["alarm", "webhook.disabled", "alarm"]
    assert "secret-path" not in str(logs)
    assert SECRET.decode() not in str(logs)
    for headers, body in alive.got:
        # The library looks at its own clock; these were signed by the clock of the test.
        timestamp = int(headers["webhook-timestamp"])
        assert headers["webhook-signature"] == sign((OTHER, KEY), headers["webhook-id"], timestamp, body)


async def test_it_stays_disabled_until_somebody_enables_it(
    tmp_path: Path, clock: Clock, receive: Callable[..., Any]
) -> None:
    """Through restarts; then it goes on with what it missed. By HTTP, and by the command beside or without a node."""
    receiver = await receive()
    receiver.answer = lambda _: 410
    config = configured(tmp_path, Hook(name="soc", url=receiver.url, kinds=("alarm",)))
    bus = MemoryBus()
    async with running(config, clock, bus) as node:
        bus.inbox.append(NONSENSE)

        async def disabled() -> bool:
            return bool((await of(node, "soc"))["state"] == "disabled")

        await until(disabled)
    receiver.answer = lambda _: 204
    bus = MemoryBus()
    async with running(config, clock, bus) as node:
        assert (await of(node, "soc"))["state"] == "disabled"
        bus.inbox.append(NONSENSE)

        async def two() -> bool:
            return bool((await node.get("/v1/alarms"))["alarms"][0]["count"] == 2)

        await until(two)
        status, tested = await call(node, "/v1/webhooks/soc/test")
        assert (status, tested["delivered"], tested["status"]) == (200, True, 204)
        assert json.loads(receiver.got[-1][1])["type"] == "webhook.test"
        assert len(receiver.got) == 2
        status, answer = await call(node, "/v1/webhooks/soc/enable")
        assert (status, answer["state"], answer["disabled_at"]) == (200, "delivering", None)
        await receiver.until(5)
        assert [h["webhook-id"] for h, _ in receiver.got][::2] == ["1", "1", receiver.got[4][0]["webhook-id"]]
        assert len({h["webhook-id"] for h, _ in receiver.got[2:]}) == 3, "the first, the one about it, and the second"
        assert (await call(node, "/v1/webhooks/other/enable"))[0] == 404


async def test_days_of_failures_disable_it(core: NodeCore, clock: Clock, receive: Callable[..., Any]) -> None:
    """Counted from the first of them, on disk; one success begins anew."""
    receiver = await receive()
    receiver.answer = lambda _: 500
    async with sending(core, receiver) as metrics:
        await on_writer(metrics, happen, core, "alarm")
        await receiver.until(1)
    clock.pass_(days=4.9)
    async with sending(core, receiver) as metrics:
        await receiver.until(len(receiver.got) + 2)
    receiver.answer = lambda _: 200
    async with sending(core, receiver) as metrics:
        await until_position(core, 2)
    receiver.answer = lambda _: 500
    clock.pass_(days=1)
    async with sending(core, receiver) as metrics:
        await on_writer(metrics, happen, core, "alarm")
        await receiver.until(len(receiver.got) + 2)
    clock.pass_(days=5)
    with capture_logs() as logs:
        async with sending(core, receiver) as metrics:
            hook = metrics.hook  # type: ignore[attr-defined]

            async def disabled() -> bool:
                return bool(hook.course.standing.state == "disabled")

            await until(disabled)
            before = len(receiver.got)
            receiver.answer = lambda _: 200
            assert await hook.course.enable()
            assert not await hook.course.enable()
            await receiver.until(before + 1)
            assert receiver.ids()[before] == 2
    (line,) = [entry for entry in logs if entry["event"] == "node.webhook_disabled"]
    assert (line["reason"], line["log_level"]) == ("endpoint-failing", "error")
    with core.store.read() as reads:
        kinds = [event.kind for event in reads.events_after(0, 100)]
        assert reads.open_alarms() == {"endpoint-failing": 1}
    assert kinds == ["alarm", "alarm", "webhook.disabled", "alarm", "webhook.enabled"]


async def test_replay_from_a_number_or_a_time(core: NodeCore, clock: Clock, receive: Callable[..., Any]) -> None:
    """Under the same ids; what comes meanwhile comes after it; not from where there is no event."""
    receiver = await receive()
    async with sending(core, receiver) as metrics:
        course = metrics.hook.course  # type: ignore[attr-defined]
        for _ in range(3):
            await on_writer(metrics, happen, core, "alarm", "report.state")
            clock.pass_(hours=1)
        await receiver.until(3)
        await until_position(core, 6)
        assert await course.replay(3) == 4
        await receiver.until(5)
        assert await course.replay(START + timedelta(minutes=61)) == 2
        await receiver.until(6)
        assert await course.replay(START + timedelta(days=9)) == 0
        await on_writer(metrics, happen, core, "alarm")
        await receiver.until(7)
    assert receiver.ids() == [1, 3, 5, 3, 5, 5, 7]
    with core.store.read() as reads:
        assert [reads.event_since(microseconds(START + timedelta(hours=h)), 7) for h in (-1, 0, 1, 2, 3, 4)] == [
            1,
            1,
            3,
            5,
            7,
            8,
        ]


async def test_a_replay_counts_more_than_what_is_under_way(core: NodeCore, receive: Callable[..., Any]) -> None:
    """Who hears back from an old request does not move the position on again."""
    receiver = await receive()
    async with sending(core, receiver) as metrics:
        course = metrics.hook.course  # type: ignore[attr-defined]
        await on_writer(metrics, happen, core, "alarm", "alarm")
        await receiver.until(2)
        await until_position(core, 3)
        moving: list[asyncio.Task[Any]] = []

        def in_between(_: int) -> int:
            if not moving:
                moving.append(asyncio.get_running_loop().create_task(course.replay(1)))
            return 204

        receiver.answer = in_between
        await on_writer(metrics, happen, core, "alarm")
        await receiver.until(6)
        await until_position(core, 4)
    assert receiver.ids()[:3] == [1, 2, 3]
    assert receiver.ids()[-3:] == [1, 2, 3]


async def test_what_is_saved_after_a_replay_under_its_old_term_is_not_saved(core: NodeCore) -> None:
    """The sender hears of a replay only when its loop goes on; on the writer's thread it has happened before."""
    writer = Writer()
    hook = Hook(url="https://a.example")
    course = Course(
        hook.name,
        hook,
        core.member,
        store=core.store,
        writer=writer,
        feed=Feed(core.store, asyncio.get_running_loop()),
        now=core._now,
    )
    await course.begin()
    await writer.run(happen, core, "alarm", "alarm", "alarm")
    term = course.term
    moving = asyncio.create_task(course.replay(1))
    await asyncio.sleep(0)
    assert course.term == term, "it is under way"
    await course.delivered(3, term)
    assert await moving == 3
    assert position(core) == course.standing.next == 1
    assert not await course.delivered(3, term)
    assert position(core) == course.standing.next == 1
    writer.close()


async def test_it_is_left_alone_for_as_long_as_it_asks(core: NodeCore, receive: Callable[..., Any]) -> None:
    """`Retry-After` counts more than the pauses of this side."""
    receiver = await receive({"Retry-After": "3600"})
    receiver.answer = lambda _: 429
    async with sending(core, receiver) as metrics:
        course = metrics.hook.course  # type: ignore[attr-defined]
        await on_writer(metrics, happen, core, "alarm")
        await receiver.until(1)

        async def waits() -> bool:
            return course.standing.failing_since is not None

        await until(waits)
        # The pauses of this side are milliseconds here: many would have passed.
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert len(receiver.got) == 1
        receiver.answer = lambda _: 200
        await course.replay(1)
        await receiver.until(2)


def test_retry_after_in_both_forms() -> None:
    """Seconds or a date, at most a day; nonsense is nothing."""
    now = datetime(2026, 5, 4, 8, 0, tzinfo=UTC)
    assert asked_for("120", now) == 120
    assert asked_for("Mon, 04 May 2026 08:01:00 GMT", now) == 60
    assert asked_for("Mon, 04 May 2026 07:00:00 GMT", now) == 0
    assert asked_for("999999999", now) == 86_400
    assert [asked_for(text, now) for text in (None, "", "soon", "-5", "1e9", "9" * 50)] == [0] * 6


async def test_only_what_a_filter_lets_through(core: NodeCore, broker: Broker, receive: Callable[..., Any]) -> None:
    """By marking and severity of the report; what is about none goes out, and what is not known counts as RED."""
    receiver = await receive()
    kinds = ("report.received", "report.filed", "alarm")
    async with sending(core, receiver, kinds=kinds, tlp="GREEN", severity=30) as metrics:
        for tlp, score in (("GREEN", 40), ("AMBER", 90), ("CLEAR", 10), ("CLEAR", None), ("GREEN", 30)):
            severity = None if score is None else {"score": score}
            changes = {"marking": {"tlp": tlp}, **({"severity": severity} if severity else {})}
            said = filing(f"{tlp} {score}", **changes)
            if severity is None:
                del said["severity"]
            await on_writer(metrics, _file, core, said)
        await on_writer(metrics, happen, core, "alarm")
        await receiver.until(4)
        await until_position(core, 7)
        delivery = broker.delivery(released(foreign()))
        await on_writer(metrics, core.receive, [delivery])
        await receiver.until(5)
        await on_writer(metrics, _erase, core)
        await on_writer(metrics, happen, core, "alarm")
        await receiver.until(6)
    told = [json.loads(body) for _, body in receiver.got]
    assert [item["data"].get("tlp", item["type"]) for item in told][:4] == ["GREEN", "CLEAR", "GREEN", "alarm"]
    assert [item["type"] for item in told][4:] == ["report.received", "alarm"], "what is erased counts as RED"


def _erase(core: NodeCore) -> None:
    """A report that was withdrawn, and an event about it."""
    with core.store.write() as tx:
        (row,) = tx.inbox_page(0, 1)
        tx.set(tables.inbox, "digest", [{"digest": row.digest, "view": b"null"}])
        ids = {"report_id": row.report_id, "revision": 1}
        tx.event("report.received", ids, microseconds(core._now()))


def _file(core: NodeCore, document: dict[str, Any]) -> None:
    from node.intake import Posting, read_item  # noqa: PLC0415

    known = core.trust.registry.jurisdictions
    item = read_item(json.dumps(document).encode(), at="$", jurisdictions=known, now=core._now())
    core.file([Posting(items=(item,), many=False)])


async def test_the_position_of_the_single_webhook_of_before(core: NodeCore, receive: Callable[..., Any]) -> None:
    """It is taken over, so that an upgrade skips nothing and repeats nothing."""
    receiver = await receive()
    happen(core, "alarm", "alarm", "alarm")
    with core.store.write() as tx:
        tx.put(tables.meta, {"name": "webhook", "value": "2"})
    async with sending(core, receiver):
        await receiver.until(2)
        await until_position(core, 4)
    assert receiver.ids() == [2, 3]


async def test_the_command(tmp_path: Path, clock: Clock, receive: Callable[..., Any]) -> None:
    """Lists, enables and replays, with and without a running node; tests with one."""
    receiver = await receive()
    place = tmp_path / "made"
    assert await asyncio.to_thread(cli.main, ["node", "init", str(place), "--member", "id-cert"]) == 0
    file = place / "node.toml"
    hook = f'\n[[webhook]]\nname = "soc"\nurl = "{receiver.url}"\nsecret_file = "{place}/keys/hook"\n'
    file.write_text(file.read_text() + hook)
    write_secret(place / "keys" / "hook", SECRET)
    config = replace(make_config(tmp_path), data=place / "data", webhooks=load_config(file).webhooks, store=None)

    async def run(*words: str, token: str = TOKEN) -> tuple[int, str]:
        said = StringIO()

        def command() -> int:
            with redirect_stdout(said):
                return cli.main(["node", "webhooks", str(place), *words, "--token", token])

        return await asyncio.to_thread(command), said.getvalue()

    bus = MemoryBus()
    async with running(config, clock, bus) as node:
        receiver.answer = lambda _: 410
        bus.inbox.append(NONSENSE)

        async def disabled() -> bool:
            return bool((await of(node, "soc"))["state"] == "disabled")

        await until(disabled)
        assert (await run("--test", "soc"))[0] == 1
        receiver.answer = lambda _: 200
        assert (await run("--test", "soc"))[0] == 0
        assert (await run("--enable", "soc", token="wrong"))[0] == 2
        assert (await run("--enable", "nobody"))[0] == 2
        assert "soc: webhook, disabled; next event 1, " in (await run())[1]
        before = len(receiver.got)
        assert (await run("--enable", "soc"))[0] == 0
        await receiver.until(before + 3)
        assert (await run("--replay", "soc"))[0] == 2
        assert (await run("--replay", "soc", "--from", "yesterday"))[0] == 2
        assert (await run("--replay", "soc", "--from", "9999"))[0] == 2
        assert (await run("--replay", "soc", "--from", START.isoformat()))[0] == 0
        await receiver.until(before + 6)
    assert "soc: webhook, delivering; next event" in (await run())[1]
    before = len(receiver.got)
    assert (await run("--replay", "soc", "--from", "1"))[0] == 0
    assert "next event 1, " in (await run())[1]
    async with running(config, clock, MemoryBus()):
        await receiver.until(before + 3)
