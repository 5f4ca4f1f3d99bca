"""Routes, the operator's pages, and the counting of requests.

Guarantees: every request goes through the door's guard (`protocol/door.py`), which lets in and refuses; every address
has the scope that it needs in `scopes.py`; every answer is counted by its status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from node.api import docs
from node.api.alarms import Alarms
from node.api.audit import Auditing
from node.api.inbox import Inbox, Listening
from node.api.policy import Explaining
from node.api.reports import Reports
from node.api.review import Review
from node.api.scopes import needed, undeclared
from node.api.taxii import Taxii, in_its_form, is_below
from node.api.tokens import TokensApi
from node.api.webhooks import Webhooks
from node.core import NodeCore
from node.directory import directory
from node.loops import State, Writer
from node.metrics import Metrics
from node.review import held
from node.views import iso, log_view
from protocol import limits
from protocol.door import OPEN, RETRY_AFTER, Bearers, answer, guard


class Operations:
    """Handlers for operators and their tools."""

    def __init__(
        self,
        core: NodeCore,
        writer: Writer,
        state: State,
        metrics: Metrics,
        now: Callable[[], datetime],
        key_ends: Callable[[], Mapping[str, datetime]] = dict,
    ) -> None:
        self._core = core
        self._writer = writer
        self._state = state
        self._metrics = metrics
        self._now = now
        self._key_ends = key_ends

    async def health(self, _request: web.Request) -> web.Response:
        """The process serves."""
        return answer({"status": "ok"})

    async def ready(self, _request: web.Request) -> web.Response:
        """Reports are accepted as long as this answers at all; `ready` says whether they also travel.

        Not before the region was looked at since the start: what a report may show to members of whom this node has
        not heard yet would stay at home for good.
        """
        ready = self._state.connected and self._state.region_at is not None
        registry = self._core.trust.registry
        alarms = await asyncio.to_thread(self._core.open_alarms)
        member = registry.members.get(self._core.member)
        document = {
            "ready": ready,
            "link": "up" if self._state.connected else self._state.link_state,
            "region": {"name": registry.region.region, "serial": registry.region.serial},
            "region_issued_at": iso(self._core.trust.issued_at),
            "member": member.status if member else "unknown",
            "policy": self._state.policy_fault or "ok",
            "backlog": self._core.outbox.weight,
            "alarms_open": sum(alarms.values()),
            "keys_end": {kind: iso(at) for kind, at in (await asyncio.to_thread(self._key_ends)).items()},
        }
        return answer(document, 200) if ready else answer(document, 503, {"Retry-After": RETRY_AFTER})

    async def backlog(self, _request: web.Request) -> web.Response:
        """What waits for the broker's word."""
        # The schedule belongs to the writer's thread.
        return answer(await self._writer.run(self._backlog))

    def _backlog(self) -> dict[str, Any]:
        outbox, words = self._core.outbox, self._core.words
        oldest = outbox.oldest()
        return {
            "submissions": len(outbox),
            "reports": outbox.weight,
            "oldest_seconds": (self._now() - oldest).total_seconds() if oldest else None,
            "confirmations": len(words),
            "held": held(self._core.store),
        }

    async def log(self, _request: web.Request) -> web.Response:
        """The broker's log as this node, its witness, knows it."""
        return answer(await asyncio.to_thread(self._log))

    def _log(self) -> dict[str, Any]:
        with self._core.store.read() as reads:
            return log_view(reads, self._core.trust.registry)

    async def directory(self, _request: web.Request) -> web.Response:
        """Who is in the region, as far as this member may know it."""
        return answer(directory(self._core.trust.registry, self._core.jurisdiction, self._now()))

    async def metrics(self, _request: web.Request) -> web.Response:
        """For Prometheus."""
        text = await self._writer.run(self._metrics.render)
        return web.Response(body=text, content_type="text/plain", charset="utf-8")


def make_app(
    *,
    access: Bearers,
    reports: Reports,
    inbox: Inbox,
    listening: Listening,
    explaining: Explaining,
    alarms: Alarms,
    audit: Auditing,
    review: Review,
    tokens: TokensApi,
    webhooks: Webhooks,
    operations: Operations,
    metrics: Metrics,
    on_bug: Callable[[BaseException], None],
    taxii: Taxii | None = None,
) -> web.Application:
    """Put the application together.

    Args:
        taxii: what is under `/taxii2/`, if anything is.
        on_bug: hears of what no handler expected; ends the process.
    """

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        metrics.requests.labels(str(response.status)).inc()
        return response

    is_open = (OPEN | docs.OPEN).__contains__
    guarded = guard(access, on_bug=on_bug, is_open=is_open, needs=needed, takes_basic=is_below)
    app = web.Application(middlewares=[count, in_its_form, guarded], client_max_size=limits.HTTP_BODY)
    app.add_routes(taxii.routes() if taxii else [])
    documentation = docs.Documentation()
    app.add_routes(
        [
            web.post("/v1/reports", reports.post),
            web.get("/v1/reports", reports.list),
            web.get("/v1/reports/{report_id}", reports.get),
            web.get("/v1/reports/{report_id}/proof", reports.proof),
            web.get("/v1/submissions/{id}", reports.submission),
            web.get("/v1/inbox", inbox.list),
            web.get("/v1/inbox/{report_id}", inbox.get),
            web.get("/v1/inbox/{report_id}/proof", inbox.proof),
            web.post("/v1/inbox/{report_id}/confirm", inbox.confirm),
            web.get("/v1/feed", listening.listen),
            web.post("/v1/policy/explain", explaining.explain),
            web.get("/v1/alarms", alarms.list),
            web.post("/v1/alarms/{id}/clear", alarms.clear),
            web.get("/v1/audit", audit.list),
            web.get("/v1/review", review.list),
            web.get("/v1/review/{id}", review.get),
            web.post("/v1/review/{id}/release", review.release),
            web.post("/v1/review/{id}/refuse", review.refuse),
            web.get("/v1/tokens", tokens.list),
            web.post("/v1/tokens", tokens.create),
            web.post("/v1/tokens/{name}/rotate", tokens.rotate),
            web.post("/v1/tokens/{name}/revoke", tokens.revoke),
            web.get("/v1/webhooks", webhooks.list),
            web.post("/v1/webhooks/{name}/enable", webhooks.enable),
            web.post("/v1/webhooks/{name}/replay", webhooks.replay),
            web.post("/v1/webhooks/{name}/test", webhooks.test),
            web.get("/v1/backlog", operations.backlog),
            web.get("/v1/log", operations.log),
            web.get("/v1/directory", operations.directory),
            web.get("/healthz", operations.health),
            web.get("/readyz", operations.ready),
            web.get("/metrics", operations.metrics),
            web.get("/openapi.json", documentation.openapi),
            web.get("/docs", documentation.page),
        ]
    )
    if missing := undeclared(app):
        raise AssertionError(f"addresses without a scope in node/api/scopes.py: {sorted(missing)}")
    return app
