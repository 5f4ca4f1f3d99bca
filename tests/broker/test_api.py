"""The broker's HTTP door over a loopback port: the real API on a real ledger, without a bus."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from broker import api
from broker.config import Config, Http, LogDoor
from broker.keywatch import KeyWatch
from broker.log import Log
from broker.metrics import Metrics
from protocol.errors import ConfigError, Transient
from protocol.logrpc import NextRequest
from protocol.merkle import tree_root
from protocol.notes import cosign, open_checkpoint, parse_note
from protocol.process import Bugs, Token
from protocol.statements import BROKER
from protocol.tiles import TileReader, leaf_hashes, split_bundle
from tests.broker.make import Hub
from tests.broker.test_ingest import report
from tests.protocol import make

SECRET = "a coordinator's token"
OPEN = ("/healthz", "/readyz", "/metrics")


class Door:
    """What the API asks of a broker, and a client with the coordinator's token."""

    def __init__(self, hub: Hub, stack: AsyncExitStack) -> None:
        self.hub = hub
        self._stack = stack
        self.config = Config(
            data=hub.directory,
            keys=hub.directory,
            region=hub.directory,
            http=Http(port=0),
            token=[Token(name="coordinator", sha256=hashlib.sha256(SECRET.encode()).hexdigest())],
        )
        self.bus: Any = SimpleNamespace(connected=True)
        self.key = SimpleNamespace(away="")
        self.bugs = Bugs()
        self.metrics = Metrics()
        self.feed = hub.feed
        key = make.key_of(BROKER)
        self.log = Log(hub.store, key, lambda: hub.state)
        self.keys = KeyWatch(lambda: hub.state, lambda: key.kid, lambda: datetime.now(UTC))
        self.changed = asyncio.Event()
        self.fault: Exception | None = None
        self.http: aiohttp.ClientSession

    @property
    def state(self) -> Any:
        return self.hub.state

    def numbers(self) -> dict[str, Any]:
        return {"reports": len(self.hub.rows("reports"))}

    async def read(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.fault:
            raise self.fault
        return await asyncio.to_thread(function, *args)

    async def open(self) -> None:
        served = api.Api(self)  # type: ignore[arg-type]
        await served.start(self._stack)
        headers = {"Authorization": f"Bearer {SECRET}"}
        self.http = await self._stack.enter_async_context(aiohttp.ClientSession(served.url, headers=headers))

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
        async with self.http.request(method, path, headers=headers) as response:
            return response.status, await response.json(content_type=None), response.headers

    async def submit(self, number: int) -> None:
        """A report is decided, and listeners are told as the broker tells them."""
        self.hub.submit(report(number), seed=str(number))
        self.changed, waiting = asyncio.Event(), self.changed
        waiting.set()

    async def listen(self, most: int, query: str = "", **headers: str) -> list[tuple[int, str]]:
        """Ids and kinds of so many events, as a listener that then goes away."""
        seen: list[tuple[int, str]] = []
        number = kind = ""
        async with self.http.get("/v1/feed" + query, headers=headers) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            async for line in response.content:
                name, _, value = line.decode().strip().partition(": ")
                if name == "id":
                    number = value
                elif name == "event":
                    kind = value
                elif name == "data":
                    assert msgspec.json.decode(value)
                    seen.append((int(number), kind))
                    if len(seen) == most:
                        break
        return seen


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with AsyncExitStack() as stack:
        opened = Door(Hub(tmp_path), stack)
        await opened.open()
        yield opened


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "token-missing"),
        ("Bearer wrong", "token-invalid"),
        ("Bearer", "token-invalid"),
        (f"Basic {SECRET}", "token-invalid"),
    ],
)
async def test_no_token_no_access(door: Door, authorization: str, reason: str) -> None:
    """401 for every address but the operators'; unknown addresses tell nothing."""
    for path in ("/v1/status", "/v1/feed", "/nonsense"):
        status, problem, headers = await door.get(path, Authorization=authorization)
        assert (status, problem["reason"]) == (401, reason)
        assert headers["WWW-Authenticate"].startswith("Bearer")
        assert headers["Content-Type"].startswith("application/problem+json")
    for path in OPEN:
        async with door.http.get(path, headers={"Authorization": authorization}) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nonsense", 404, "unknown-path"),
        ("GET", "/v1/reports", 404, "unknown-path"),
        ("POST", "/v1/feed", 405, "wrong-method"),
        ("DELETE", "/v1/status", 405, "wrong-method"),
        ("POST", "/healthz", 405, "wrong-method"),
        ("GET", "/v1/feed?after=-1", 422, "out-of-range"),
        ("GET", "/v1/feed?after=1e3", 422, "out-of-range"),
        ("GET", "/v1/feed?after=", 422, "out-of-range"),
        ("GET", "/v1/feed?after=99", 422, "out-of-range"),
        ("GET", f"/v1/feed?after={'9' * 30}", 422, "out-of-range"),
    ],
)
async def test_wrong_addresses(door: Door, method: str, path: str, status: int, reason: str) -> None:
    """Problem documents as well; a place beyond the newest event is none to wait at."""
    found, problem, _ = await door.get(path, method)
    assert (found, problem["status"], problem["reason"]) == (status, status, reason)
    assert problem["type"] == f"urn:kentongan:reason:{reason}"


async def test_a_wrong_last_event_id_is_refused(door: Door) -> None:
    """Like `after`."""
    status, problem, _ = await door.get("/v1/feed", **{"Last-Event-ID": "x"})
    assert (status, problem["reason"], problem["path"]) == (422, "out-of-range", "$.after")


async def test_status_and_readiness(door: Door) -> None:
    """What an operator looks at, with and without the bus."""
    await door.submit(1)
    status, found, _ = await door.get("/v1/status")
    assert (status, found["reports"], found["bus"], found["serial"]) == (200, 1, True, 1)
    assert found["members"] == len(door.hub.members)
    assert (await door.get("/readyz"))[:2] == (200, {"ready": True, "bus": True, "signing": True})
    door.key.away = "cannot sign: the token is not there"
    assert (await door.get("/readyz"))[:2] == (503, {"ready": False, "bus": True, "signing": False})
    assert (await door.get("/v1/status"))[1]["cannot_sign"] == door.key.away
    door.bus, door.key.away = None, ""
    assert (await door.get("/readyz"))[:2] == (503, {"ready": False, "bus": False, "signing": True})
    assert (await door.get("/healthz"))[:2] == (200, {"status": "ok"})
    async with door.http.get("/metrics") as response:
        assert "kentongan_broker_bus_up" in await response.text()


async def test_a_busy_ledger_is_503(door: Door) -> None:
    """With Retry-After, and without a word of why."""
    door.fault = Transient("the ledger at /somewhere is locked")
    for path in ("/v1/status", "/v1/feed"):
        status, problem, headers = await door.get(path)
        assert (status, problem["reason"]) == (503, "not-ready")
        assert int(headers["Retry-After"]) > 0
        assert "somewhere" not in str(problem)


async def test_a_bug_in_a_handler_is_500_and_the_end(door: Door) -> None:
    """No word of it in the answer; the task group that watches ends the process."""
    door.fault = KeyError("CANARY")
    status, problem, _ = await door.get("/v1/status")
    assert status == 500
    assert "CANARY" not in str(problem)
    with pytest.raises(KeyError):
        await asyncio.wait_for(door.bugs.watch(), 5)


async def test_the_feed_goes_on_where_a_listener_was(door: Door) -> None:
    """Nothing skipped, nothing repeated, by either way of saying it; without one it begins with what comes next."""
    for number in (1, 2, 3):
        await door.submit(number)
    everything = await door.listen(3, "?after=0")
    assert [kind for _, kind in everything] == ["report"] * 3
    second = str(everything[1][0])
    assert await door.listen(1, f"?after={second}") == everything[2:]
    assert await door.listen(1, "?after=0", **{"Last-Event-ID": second}) == everything[2:]
    waiting = asyncio.create_task(door.listen(1))
    await asyncio.sleep(0.2)
    await door.submit(4)
    (new,) = await asyncio.wait_for(waiting, 10)
    assert new[0] > everything[2][0]


async def test_a_silent_feed_says_that_it_lives(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that proxies keep it, and listeners notice when it is gone."""
    monkeypatch.setattr(api, "HEARTBEAT", 0.05)
    async with door.http.get("/v1/feed") as response:
        lines = [await response.content.readline() for _ in range(5)]
    assert b": still here\n" in lines


async def test_a_port_that_is_taken_is_the_operators_matter(door: Door, tmp_path: Path) -> None:
    """Said with the address."""
    async with AsyncExitStack() as stack:
        other = Door(door.hub, stack)
        port = door.http._base_url.port if door.http._base_url else 0
        other.config = msgspec.structs.replace(other.config, http=Http(port=int(port or 0)))
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            await other.open()


async def raw(door: Door, path: str, **headers: str) -> tuple[int, bytes, Any]:
    async with door.http.get(path, headers=headers) as response:
        return response.status, await response.read(), response.headers


async def test_the_log_over_http(door: Door) -> None:
    """As tlog-tiles says: a stranger's tool reads checkpoint, tiles and entries, and comes to the signed root."""
    door.log.load(make.NOW)
    assert (await door.get("/log/checkpoint"))[0] == 404
    for number in range(5):
        await door.submit(number)
    door.log.load(make.NOW)
    note = parse_note(door.log.next(NextRequest(size=0)).checkpoint)
    for name in ("id-cert", "sg-cert", "my-cert"):
        key = make.key_of(name)
        door.log.cosign(name, cosign(note.text, name, key, key.public, make.NOW).encode(), 5, make.NOW)
    status, body, headers = await raw(door, "/log/checkpoint")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "text/plain; charset=utf-8", "no-cache")
    registry = door.hub.state.registry
    opened = open_checkpoint(body.decode(), registry.log_keys(), registry.witness_keys(), make.NOW)
    assert (opened.checkpoint.size, len(opened.witnesses)) == (5, 3)
    status, tile, headers = await raw(door, "/log/tile/0/000.p/5")
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    assert headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert tree_root(5, TileReader(5, lambda _: tile)) == opened.checkpoint.root
    status, bundle, headers = await raw(door, "/log/tile/entries/000.p/5")
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    assert leaf_hashes(b"".join(split_bundle(bundle, 5))) == tile
    for path in ("/log/tile/0/000", "/log/tile/0/000.p/6", "/log/tile/0/000.p/05", "/log/tile/x", "/log/nothing"):
        status, problem, headers = await door.get(path)
        assert (status, problem["reason"], "immutable" in str(headers)) == (404, "unknown-path", False)


@pytest.mark.parametrize("public", [False, True])
async def test_the_log_is_open_only_if_the_operator_says_so(tmp_path: Path, public: bool) -> None:
    """And then nothing else is."""
    async with AsyncExitStack() as stack:
        door = Door(Hub(tmp_path), stack)
        door.config = msgspec.structs.replace(door.config, log=LogDoor(public=public))
        await door.open()
        await door.submit(1)
        door.log.load(make.NOW)
        anybody = {"Authorization": ""}
        status, _, headers = await raw(door, "/log/tile/entries/000.p/1", **anybody)
        assert status == (200 if public else 401)
        assert not public or headers["Cache-Control"].startswith("public,")
        assert (await raw(door, "/log/checkpoint", **anybody))[0] == (404 if public else 401)
        for path in ("/v1/status", "/v1/feed", "/log", "/logs/checkpoint", "/v1/log/checkpoint"):
            assert (await raw(door, path, **anybody))[0] == 401
        for path in ("/log/%2e%2e/v1/status", "/log/tile/%2e%2e/%2e%2e/v1/status"):
            async with door.http.get(URL(path, encoded=True), headers=anybody) as response:
                assert response.status == (404 if public else 401)
