"""Routes and what surrounds every request: access, problem documents, counting.

Guarantees: every refusal is a problem document, unknown paths and methods included; a bug is answered with 500 and no
word more, and then ends the process. Refuses requests without a token, but for the three addresses of the operator's
tools.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from node.api.access import CLIENT, Tokens
from node.api.inbox import Inbox, Listening
from node.api.policy import Explaining
from node.api.problems import bug, problem, unavailable
from node.api.reports import JSON, Reports
from node.core import NodeCore
from node.loops import State, Writer
from node.metrics import Metrics
from node.views import iso
from protocol import limits
from protocol.errors import ProtocolError, Transient
from protocol.reasons import Reason

_OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})


class Operations:
    """Handlers for operators and their tools."""

    def __init__(
        self, core: NodeCore, writer: Writer, state: State, metrics: Metrics, now: Callable[[], datetime]
    ) -> None:
        self._core = core
        self._writer = writer
        self._state = state
        self._metrics = metrics
        self._now = now

    async def health(self, _request: web.Request) -> web.Response:
        """The process serves."""
        return _json({"status": "ok"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Reports are accepted as long as this answers at all; `ready` says whether they also travel."""
        registry = self._core.trust.registry
        member = registry.members.get(self._core.member)
        document = {
            "ready": self._state.connected,
            "link": "up" if self._state.connected else self._state.link_state,
            "region": {"name": registry.region.region, "serial": registry.region.serial},
            "region_issued_at": iso(self._core.trust.issued_at),
            "member": member.status if member else "unknown",
            "policy": self._state.policy_fault or "ok",
            "backlog": self._core.outbox.weight,
        }
        return _json(document, 200 if self._state.connected else 503)

    async def backlog(self, _request: web.Request) -> web.Response:
        """What waits for the broker's word."""
        # The schedule belongs to the writer's thread.
        return _json(await self._writer.run(self._backlog))

    def _backlog(self) -> dict[str, Any]:
        outbox, words = self._core.outbox, self._core.words
        oldest = outbox.oldest()
        return {
            "submissions": len(outbox),
            "reports": outbox.weight,
            "oldest_seconds": (self._now() - oldest).total_seconds() if oldest else None,
            "confirmations": len(words),
        }

    async def metrics(self, _request: web.Request) -> web.Response:
        """For Prometheus."""
        text = await self._writer.run(self._metrics.render)
        return web.Response(body=text, content_type="text/plain", charset="utf-8")


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type=JSON)


def _check_path(request: web.Request) -> None:
    error = request.match_info.http_exception
    if isinstance(error, web.HTTPMethodNotAllowed):
        raise ProtocolError(Reason.WRONG_METHOD, "$", f"use {', '.join(sorted(error.allowed_methods))}")
    if error is not None:
        raise ProtocolError(Reason.UNKNOWN_PATH, "$", "there is nothing at this address")


def make_app(
    *,
    tokens: Tokens,
    reports: Reports,
    inbox: Inbox,
    listening: Listening,
    explaining: Explaining,
    operations: Operations,
    metrics: Metrics,
    on_bug: Callable[[BaseException], None],
) -> web.Application:
    """Put the application together.

    Args:
        on_bug: hears of what no handler expected; ends the process.
    """

    async def answer(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            if request.path not in _OPEN:
                request[CLIENT] = tokens.check(request.headers.get("Authorization"))
            _check_path(request)
            return await handler(request)
        except ProtocolError as exc:
            return problem(exc, request.path)
        except Transient as exc:
            return unavailable(str(exc))
        except ConnectionError:
            raise
        except Exception as exc:  # noqa: BLE001 - answered without a word of it, and raised where the process ends
            on_bug(exc)
            return bug()

    @web.middleware
    async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await answer(request, handler)
        metrics.requests.labels(str(response.status)).inc()
        return response

    app = web.Application(middlewares=[surround], client_max_size=limits.HTTP_BODY)
    app.add_routes(
        [
            web.post("/v1/reports", reports.post),
            web.get("/v1/reports", reports.list),
            web.get("/v1/reports/{report_id}", reports.get),
            web.get("/v1/inbox", inbox.list),
            web.get("/v1/inbox/{report_id}", inbox.get),
            web.post("/v1/inbox/{report_id}/confirm", inbox.confirm),
            web.get("/v1/feed", listening.listen),
            web.post("/v1/policy/explain", explaining.explain),
            web.get("/v1/backlog", operations.backlog),
            web.get("/healthz", operations.health),
            web.get("/readyz", operations.ready),
            web.get("/metrics", operations.metrics),
        ]
    )
    return app
