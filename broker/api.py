"""The broker's HTTP door: the coordinator's feed, health, status and metrics. Nothing is ever posted here.

Guarantees: everything but health and metrics needs a bearer token, compared in constant time; errors are RFC 9457
problem documents with a reason code. The feed is server-sent events with `Last-Event-ID`: nothing skipped, nothing
repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from aiohttp import web

from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.reasons import Reason

if TYPE_CHECKING:
    from broker.app import Broker

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEARTBEAT: Final = 15.0
FEED_PAGE: Final = 100
_OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_STATUS: Final = {
    Reason.TOKEN_MISSING: 401,
    Reason.TOKEN_INVALID: 401,
    Reason.UNKNOWN_PATH: 404,
    Reason.WRONG_METHOD: 405,
    Reason.NOT_READY: 503,
    Reason.INTERNAL: 500,
}


def problem(reason: Reason, detail: str, path: str = "$") -> web.Response:
    """An RFC 9457 problem document."""
    status = _STATUS.get(reason, 422)
    body = {
        "type": f"urn:kentongan:reason:{reason.value}",
        "title": reason.value.replace("-", " "),
        "status": status,
        "detail": detail,
        "reason": reason.value,
        "path": path,
    }
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/problem+json", headers=headers
    )


def _answer(data: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(data), content_type="application/json")


class Api:
    """The HTTP side of a broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._hashes = [bytes.fromhex(token.sha256) for token in broker.config.token]
        self.url = ""
        self._app = web.Application(middlewares=[self._guard])
        self._app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/v1/status", self._status),
                web.get("/v1/feed", self._feed),
            ]
        )

    async def start(self, stack: AsyncExitStack) -> None:
        """Listen; closed with the stack."""
        runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        http = self._broker.config.http
        site = web.TCPSite(runner, http.host, http.port)
        try:
            await site.start()
        except OSError as exc:
            raise ConfigError(f"cannot listen on {http.host}:{http.port} ([http] in broker.toml): {exc}") from exc
        port = runner.addresses[0][1]
        self.url = f"http://{http.host}:{port}"

    def _allowed(self, request: web.Request) -> Reason | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return Reason.TOKEN_MISSING
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(given, known) for known in self._hashes]
        return None if any(matches) else Reason.TOKEN_INVALID

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path not in _OPEN and (reason := self._allowed(request)) is not None:
                return problem(reason, "send Authorization: Bearer with a token of this broker")
            return await handler(request)
        except web.HTTPNotFound:
            return problem(Reason.UNKNOWN_PATH, "no such path")
        except web.HTTPMethodNotAllowed:
            return problem(Reason.WRONG_METHOD, "this path does not take this method")
        except ProtocolError as exc:
            return problem(exc.reason, exc.detail, exc.path)
        except Transient as exc:
            log.warning("broker.waiting", why=str(exc))
            return problem(Reason.NOT_READY, "try again in a few seconds")

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return _answer({"status": "ok"})

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        bus = self._broker.bus
        up = bus is not None and bus.connected
        return _answer({"ready": up, "bus": up}, 200 if up else 503)

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._broker.metrics.render(), content_type="text/plain")

    async def _status(self, _: web.Request) -> web.StreamResponse:
        numbers = await self._broker.read(self._broker.numbers)
        region = self._broker.state.registry.region
        bus = self._broker.bus
        return _answer(
            {
                "region": region.region,
                "serial": region.serial,
                "members": len(region.members),
                "bus": bus is not None and bus.connected,
                **numbers,
            }
        )

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        last = _start(request)
        if last is None:
            last = await self._broker.read(self._broker.feed.last)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        await response.write(b": kentongan\n\n")
        try:
            while True:
                changed = self._broker.changed
                entries, reached = await self._broker.read(self._broker.feed.after, last, FEED_PAGE)
                for entry in entries:
                    await response.write(
                        b"id: %d\nevent: %s\ndata: %s\n\n" % (entry.id, entry.kind.encode(), entry.data)
                    )
                if reached > last:
                    last = reached
                    continue
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await changed.wait()
                except TimeoutError:
                    await response.write(b": still here\n\n")
        except ConnectionError:
            return response


def _start(request: web.Request) -> int | None:
    """Where a listener continues: after the event that it saw last, or None to begin with what comes next."""
    given = request.headers.get("Last-Event-ID") or request.query.get("after")
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18:
        raise ProtocolError(Reason.INVALID_VALUE, "$.after", "a feed position is a number")
    return int(given)
