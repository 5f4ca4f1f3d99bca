"""The door that nodes and brokers share, over real connections: who enters, refusals, faults, event streams."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from protocol import door
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.process import Token
from protocol.reasons import Reason
from protocol.tls import server_context
from tests.certificates import Authority

HOST = "127.0.0.1"
SECRET = "correct horse battery staple"


def token(name: str, text: str) -> Token:
    return Token(name=name, sha256=hashlib.sha256(text.encode()).hexdigest())


TOKENS = door.Tokens([token("soc", SECRET), token("feed", "another"), token("umlaut", "Öl")])


class Served:
    """A door in this process, what it heard of, and a client without a token."""

    def __init__(self) -> None:
        self.url = ""
        self.http: aiohttp.ClientSession
        self.bugs: list[BaseException] = []
        self.waits: list[Transient] = []

    async def get(self, path: str, text: str = SECRET, method: str = "GET") -> tuple[int, Any, Any]:
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        async with self.http.request(method, path, headers=headers) as response:
            return response.status, await response.json(content_type=None), response.headers


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[Served]:
    """One handler at /v1/thing and /healthz."""
    place = Served()
    app = web.Application(middlewares=[door.guard(TOKENS, on_bug=place.bugs.append, on_wait=place.waits.append)])
    app.add_routes([web.get("/v1/thing", handler), web.get("/healthz", handler)])
    runner = await door.listen(app, HOST, 0, shutdown=0.1)
    place.url = door.url_of(runner, HOST)
    try:
        async with aiohttp.ClientSession(place.url) as place.http:
            yield place
    finally:
        await runner.cleanup()


async def who(request: web.Request) -> web.StreamResponse:
    return door.answer({"client": request[door.CLIENT].name if door.CLIENT in request else None})


def raising(exc: Exception) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        raise exc

    return handler


# --- tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (f"Bearer {SECRET}", "soc"),
        (f"bearer {SECRET} ", "soc"),
        ("BEARER another", "feed"),
        ("Bearer Öl", "umlaut"),
    ],
)
def test_a_token_is_known_by_its_hash(given: str, name: str) -> None:
    """Whichever it is, and however the scheme is written."""
    assert TOKENS.check(given).name == name


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, Reason.TOKEN_MISSING),
        ("", Reason.TOKEN_MISSING),
        ("Bearer", Reason.TOKEN_INVALID),
        ("Bearer  ", Reason.TOKEN_INVALID),
        (f"Basic {SECRET}", Reason.TOKEN_INVALID),
        (SECRET, Reason.TOKEN_INVALID),
        (f"Bearer {SECRET[:-1]}", Reason.TOKEN_INVALID),
        (f"Bearer {hashlib.sha256(SECRET.encode()).hexdigest()}", Reason.TOKEN_INVALID),
        ("Bearer \udcff", Reason.TOKEN_INVALID),
        (f"Bearer {'x' * 513}", Reason.TOKEN_INVALID),
    ],
)
def test_what_is_no_token_is_refused(given: str | None, reason: Reason) -> None:
    """Its hash is not a token either."""
    with pytest.raises(ProtocolError) as caught:
        TOKENS.check(given)
    assert caught.value.reason is reason
    assert SECRET not in str(caught.value)


def test_every_token_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time taken tells neither whether nor which one matched."""
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counting(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return compare(given, known)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for text in (SECRET, "another", "nonsense"):
        compared.clear()
        try:
            TOKENS.check(f"Bearer {text}")
        except ProtocolError:
            assert text == "nonsense"
        assert len(compared) == 3


# --- the guard --------------------------------------------------------------------------------------------------


async def test_who_has_a_token_gets_in() -> None:
    """The handler learns whose it is; open paths need none."""
    async with served(who) as place:
        assert (await place.get("/v1/thing", "another"))[:2] == (200, {"client": "feed"})
        assert (await place.get("/healthz", ""))[:2] == (200, {"client": None})


@pytest.mark.parametrize(("text", "reason"), [("", "token-missing"), ("wrong", "token-invalid")])
@pytest.mark.parametrize("path", ["/v1/thing", "/nonsense", "/v1/thing/", "/healthz/x", "/healthz/"])
async def test_without_a_token_all_addresses_look_alike(path: str, text: str, reason: str) -> None:
    """401 and how to do better, whether there is something or not."""
    async with served(who) as place:
        for method in ("GET", "POST"):
            status, problem, headers = await place.get(path, text, method)
            assert (status, problem["status"], problem["reason"]) == (401, 401, reason)
            assert headers["WWW-Authenticate"].startswith("Bearer")
            assert headers["Content-Type"].startswith("application/problem+json")


async def test_unknown_addresses_and_methods_are_problem_documents() -> None:
    """The open paths' wrong methods included."""
    async with served(who) as place:
        status, problem, _ = await place.get("/nonsense")
        assert (status, problem["reason"], problem["instance"]) == (404, "unknown-path", "/nonsense")
        for path in ("/v1/thing", "/healthz"):
            status, problem, _ = await place.get(path, method="DELETE")
            assert (status, problem["reason"]) == (405, "wrong-method")
            assert "GET" in problem["detail"]


async def test_a_refusal_has_reason_and_path() -> None:
    """RFC 9457, with two members more."""
    async with served(raising(ProtocolError(Reason.TOO_LARGE, "$.body", "at most 3"))) as place:
        status, problem, _ = await place.get("/v1/thing")
        assert status == 413
        assert problem == {
            "type": "urn:kentongan:reason:too-large",
            "title": "too large",
            "status": 413,
            "detail": "at most 3",
            "reason": "too-large",
            "path": "$.body",
            "instance": "/v1/thing",
        }
        assert place.bugs == place.waits == []


async def test_a_passing_fault_says_when_to_come_back() -> None:
    """And not what it is."""
    async with served(raising(Transient("the ledger at /somewhere is locked"))) as place:
        status, problem, headers = await place.get("/v1/thing")
        assert (status, problem["reason"]) == (503, "not-ready")
        assert int(headers["Retry-After"]) > 0
        assert "somewhere" not in str(problem)
        assert len(place.waits) == 1


@pytest.mark.parametrize("exc", [KeyError("CANARY"), web.HTTPFound("/CANARY"), TimeoutError("CANARY")])
async def test_a_bug_is_told_to_the_process_alone(exc: Exception) -> None:
    """500 without a word of it."""
    async with served(raising(exc)) as place:
        status, problem, headers = await place.get("/v1/thing")
        assert status == 500
        assert problem == {"type": "about:blank", "title": "internal error", "status": 500}
        assert "CANARY" not in str(headers)
        assert place.bugs == [exc]


def test_every_reason_has_a_status() -> None:
    """A refusal is never a success, nor a fault of ours."""
    assert {door.status_of(reason) for reason in Reason} == {400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 429, 503}
    assert all(door.problem(reason, "").status == door.status_of(reason) for reason in Reason)


# --- listening --------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken_is_the_operators_matter() -> None:
    """The text names the address; nothing is left open."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*\[http\]"):
            await door.listen(web.Application(), HOST, port)


async def test_an_address_of_nobody_is_the_operators_matter() -> None:
    """As well."""
    with pytest.raises(ConfigError, match="cannot listen"):
        await door.listen(web.Application(), "host.invalid", 0)


async def test_the_address_is_one_to_connect_to() -> None:
    """Brackets around version 6."""
    runner = await door.listen(web.Application(), HOST, 0)
    port = runner.addresses[0][1]
    assert door.url_of(runner, HOST) == f"http://127.0.0.1:{port}"
    assert door.url_of(runner, "::1") == f"http://[::1]:{port}"
    await runner.cleanup()


# --- event streams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "header", "found"),
    [
        ("", None, 7),
        ("?after=3", None, 3),
        ("?after=0", None, 0),
        ("?after=7", None, 7),
        ("", "5", 5),
        ("?after=3", "5", 5),
        ("?after=8", None, "out-of-range"),
        ("?after=", None, "out-of-range"),
        ("?after=-1", None, "out-of-range"),
        ("?after=1e3", None, "out-of-range"),
        ("?after=%D9%A3", None, "out-of-range"),
        ("?after=²", None, "out-of-range"),
        ("?after=" + "9" * 30, None, "out-of-range"),
        ("", "x", "out-of-range"),
    ],
)
async def test_where_a_listener_goes_on(query: str, header: str | None, found: int | str) -> None:
    """The header before the address; from now on without either; never beyond the newest event."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return door.answer(door.position(request, 7))

    async with served(handler) as place:
        headers = {"Authorization": f"Bearer {SECRET}"} | ({"Last-Event-ID": header} if header else {})
        async with place.http.get("/v1/thing" + query, headers=headers) as response:
            document = await response.json(content_type=None)
        if isinstance(found, int):
            assert (response.status, document) == (200, found)
        else:
            assert (response.status, document["reason"], document["path"]) == (422, found, "$.after")


class Source:
    """Frames, and whether their reader has let go of them."""

    def __init__(self, *frames: bytes, fault: Exception | None = None, forever: bytes = b"") -> None:
        self._frames, self._fault, self._forever = frames, fault, forever
        self.closed = asyncio.Event()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        try:
            for item in self._frames:
                yield item
            if self._fault:
                raise self._fault
            while self._forever:
                yield self._forever
                await asyncio.sleep(0)
        finally:
            self.closed.set()

    async def handler(self, request: web.Request) -> web.StreamResponse:
        return await door.stream(request, self.frames())


async def read_stream(place: Served) -> bytes:
    async with place.http.get("/v1/thing", headers={"Authorization": f"Bearer {SECRET}"}) as response:
        assert response.content_type == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        return await response.read()


async def test_a_stream_is_its_frames() -> None:
    """In order, to the end."""
    source = Source(door.frame(1, "report", b'{"a":1}'), door.STILL_HERE, door.frame(2, "link", b"{}"))
    async with served(source.handler) as place:
        _, first, still, second, rest = (await read_stream(place)).split(b"\n\n")
    assert first == b'id: 1\nevent: report\ndata: {"a":1}'
    assert still.startswith(b":")
    assert (second, rest) == (b"id: 2\nevent: link\ndata: {}", b"")
    assert source.closed.is_set()


async def test_a_passing_fault_ends_a_stream_that_has_begun() -> None:
    """Nothing is mixed into it: the listener comes back."""
    source = Source(door.frame(1, "report", b"{}"), fault=Transient("locked"))
    async with served(source.handler) as place:
        assert (await read_stream(place)).endswith(b"id: 1\nevent: report\ndata: {}\n\n")
        assert place.bugs == []


async def test_a_listener_that_goes_is_let_go() -> None:
    """And is nobody's fault."""
    source = Source(forever=door.STILL_HERE)
    async with served(source.handler) as place:
        async with place.http.get("/v1/thing", headers={"Authorization": f"Bearer {SECRET}"}) as response:
            await response.content.readline()
        await asyncio.wait_for(source.closed.wait(), 10)
        assert place.bugs == place.waits == []


async def test_a_listener_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in its way does not pile up here."""
    monkeypatch.setattr(door, "SLOWEST", 0.2)
    source = Source(forever=b": " + b"x" * 65_536 + b"\n\n")
    async with served(source.handler) as place:
        reader, writer = await asyncio.open_connection(HOST, int(place.url.rpartition(":")[2]), limit=1)
        writer.write(f"GET /v1/thing HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n\r\n".encode())
        await asyncio.wait_for(source.closed.wait(), 10)
        # Cut off, not brought to an end: what is left of it lacks the last, empty chunk.
        assert not (await asyncio.wait_for(reader.read(), 10)).endswith(b"0\r\n\r\n")
        writer.close()
        assert place.bugs == []


async def test_a_certificate_stands_for_a_token_of_the_settings(tmp_path: Path) -> None:
    """As at the broker: by HTTPS, with the certificate that a `[[token]]` names."""
    site = Authority(tmp_path, "site")
    cert, key, _ = site.issue("broker", server=True)
    mine, mine_key, fingerprint = site.issue("coordinator")
    named = msgspec.structs.replace(token("hub", "x"), certificate=fingerprint)
    app = web.Application(middlewares=[door.guard(door.Tokens([named]), on_bug=print)])
    app.add_routes([web.get("/v1/thing", who)])
    runner = await door.listen(app, HOST, 0, tls=server_context(cert, key, site.file))
    try:
        url = door.url_of(runner, HOST) + "/v1/thing"
        assert url.startswith("https://")
        context = ssl.create_default_context(cafile=str(site.file))
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector) as http, http.get(url) as response:
            assert response.status == 401
        context.load_cert_chain(mine, mine_key)
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector) as http, http.get(url) as response:
            assert await response.json() == {"client": "hub"}
    finally:
        await runner.cleanup()
