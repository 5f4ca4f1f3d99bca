"""The broker's HTTP door: the coordinator's feed, the log, health, status and metrics. Nothing is ever posted here.

Guarantees: everything but health and metrics needs a bearer token, and so does the log unless `[log] public` opens it;
every refusal has a reason code: see `protocol/door.py`. The log's addresses follow C2SP tlog-tiles v0.1.0. The feed is
server-sent events with `Last-Event-ID`: nothing skipped, nothing repeated. A bug in a handler ends the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import structlog
from aiohttp import web

from protocol.door import (
    HEARTBEAT,
    OPEN,
    RETRY_AFTER,
    STILL_HERE,
    Tokens,
    answer,
    frame,
    guard,
    listen,
    position,
    stream,
    url_of,
)
from protocol.errors import Transient
from protocol.tls import server_context

if TYPE_CHECKING:
    from broker.app import Broker

log = structlog.get_logger()

FEED_PAGE: Final = 100
SHUTDOWN: Final = 1.0
"""Seconds that listeners keep a stopping broker: they never end by themselves."""
LOG: Final = "/log/"
"""Prefix of the log's addresses."""
_YEAR: Final = 365 * 86_400


class Api:
    """The HTTP side of a broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.url = ""
        tokens = Tokens(broker.config.token)
        public = broker.config.log.public
        self._log_caching = f"{'public' if public else 'private'}, max-age={_YEAR}, immutable"

        def is_open(path: str) -> bool:
            return path in OPEN or (public and path.startswith(LOG))

        guarded = guard(tokens, on_bug=broker.bugs.hear, on_wait=_log_wait, is_open=is_open)
        self._app = web.Application(middlewares=[guarded])
        self._app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._metrics),
                web.get("/v1/status", self._status),
                web.get("/v1/feed", self._feed),
                web.get("/log/checkpoint", self._checkpoint),
                web.get("/log/tile/{tile:.+}", self._tile),
            ]
        )

    async def start(self, stack: AsyncExitStack) -> None:
        """Listen; closed with the stack."""
        http = self._broker.config.http
        tls = server_context(http.tls_cert, http.tls_key, http.client_ca)
        runner = await listen(self._app, http.host, http.port, shutdown=SHUTDOWN, tls=tls)
        stack.push_async_callback(runner.cleanup)
        self.url = url_of(runner, http.host)

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return answer({"status": "ok"})

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        bus = self._broker.bus
        up = {"bus": bus is not None and bus.connected, "signing": not self._broker.key.away}
        ready = all(up.values())
        return answer({"ready": ready, **up}, 200 if ready else 503, None if ready else {"Retry-After": RETRY_AFTER})

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._broker.metrics.render(), content_type="text/plain")

    async def _status(self, _: web.Request) -> web.StreamResponse:
        numbers = await self._broker.read(self._broker.numbers)
        region = self._broker.state.registry.region
        bus = self._broker.bus
        return answer(
            {
                "region": region.region,
                "serial": region.serial,
                "members": len(region.members),
                "bus": bus is not None and bus.connected,
                "cannot_sign": self._broker.key.away or None,
                "keys_ending": self._broker.keys.soon(),
                **numbers,
            }
        )

    async def _checkpoint(self, _: web.Request) -> web.StreamResponse:
        note = await self._broker.read(self._broker.log.tile, "checkpoint")
        headers = {"Cache-Control": "no-cache"}
        return web.Response(body=note, content_type="text/plain", charset="utf-8", headers=headers)

    async def _tile(self, request: web.Request) -> web.StreamResponse:
        data = await self._broker.read(self._broker.log.tile, f"tile/{request.match_info['tile']}")
        # A partial tile is another resource than the full one, and does not change either.
        headers = {"Cache-Control": self._log_caching}
        return web.Response(body=data, content_type="application/octet-stream", headers=headers)

    async def _feed(self, request: web.Request) -> web.StreamResponse:
        last = await self._broker.read(self._broker.feed.last)
        return await stream(request, self._frames(position(request, last)))

    async def _frames(self, last: int) -> AsyncGenerator[bytes, None]:
        while True:
            changed = self._broker.changed
            entries, reached = await self._broker.read(self._broker.feed.after, last, FEED_PAGE)
            if entries:
                yield b"".join(frame(entry.id, entry.kind, entry.data) for entry in entries)
            if reached > last:
                last = reached
                continue
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await changed.wait()
            except TimeoutError:
                yield STILL_HERE


def _log_wait(exc: Transient) -> None:
    log.warning("broker.waiting", why=str(exc))
