"""`/v1/reports`: filing, and what became of what was filed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from aiohttp import web

from node.core import NodeCore
from node.intake import Posting, read_body
from node.loops import Committer
from node.metrics import Metrics
from node.views import own_line, own_report, page, proof_text
from protocol import limits
from protocol.door import CLIENT, JSON, number_of
from protocol.errors import ProtocolError
from protocol.keys import b64
from protocol.reasons import Reason
from protocol.tracing import OFF, Trace, Tracing, read

NDJSON: Final = "application/x-ndjson"
_OFF_LOOP: Final = 64 << 10
"""Bytes from which a body is judged on another thread, so that it does not hold up the others."""
_LONGEST_KEY: Final = 255


class Reports:
    """Handlers."""

    def __init__(
        self,
        core: NodeCore,
        committer: Committer,
        metrics: Metrics,
        now: Callable[[], datetime],
        tracing: Tracing = OFF,
    ) -> None:
        self._tracing = tracing
        self._core = core
        self._committer = committer
        self._metrics = metrics
        self._now = now

    async def post(self, request: web.Request) -> web.Response:
        """File one report, an array, or NDJSON. 202 means: on disk."""
        with self._metrics.commit_seconds.time():
            if not self._tracing.on:
                return await self._post(request)
            # What a client says of its own trace is a pair of numbers; it does not decide whether it is kept.
            span = self._tracing.start("node.post", parent=read(request.headers.get("traceparent")))
            try:
                response = await self._post(request, span.trace)
            except ProtocolError as exc:
                span.end(reason=exc.reason.value)
                raise
            except BaseException:
                span.end(reason=Reason.NOT_READY.value)
                raise
            span.end(status=response.status)
            return response

    async def _post(self, request: web.Request, trace: Trace | None = None) -> web.Response:
        if request.content_type not in (JSON, NDJSON):
            raise ProtocolError(Reason.UNSUPPORTED_MEDIA, "$", f"send {JSON} or {NDJSON}")
        key = request.headers.get("Idempotency-Key", "")
        if len(key) > _LONGEST_KEY:
            raise ProtocolError(Reason.OUT_OF_RANGE, "$", f"an Idempotency-Key has at most {_LONGEST_KEY} characters")
        self._core.check_backlog()
        body = await read_limited(request)
        jurisdictions = self._core.trust.registry.jurisdictions
        ndjson = request.content_type == NDJSON

        def judge() -> Posting:
            items, many = read_body(body, ndjson=ndjson, jurisdictions=jurisdictions, now=self._now())
            body_hash = b64(hashlib.sha256(body).digest()) if key else ""
            return Posting(items, many, request[CLIENT], key, body_hash, trace)

        posting = await asyncio.to_thread(judge) if len(body) > _OFF_LOOP else judge()
        reply = await self._committer.submit(posting)
        if isinstance(reply, ProtocolError):
            raise reply
        headers = {"Idempotent-Replayed": "true"} if reply.replayed else None
        return web.Response(body=reply.body, status=reply.status, content_type=JSON, headers=headers)

    async def get(self, request: web.Request) -> web.Response:
        """All about one report of this member."""
        report_id = report_id_of(request)

        def read() -> bytes | None:
            with self._core.store.read() as reads:
                found = own_report(reads, report_id, self._now())
            return msgspec.json.encode(found) if found else None

        body = await asyncio.to_thread(read)
        if body is None:
            raise ProtocolError(Reason.UNKNOWN_REPORT, "$", "no report with this id was filed here")
        return web.Response(body=body, content_type=JSON)

    async def proof(self, request: web.Request) -> web.Response:
        """The proof that what became of a report is in the broker's log."""
        return await proof_of(self._core, request, own=True)

    async def list(self, request: web.Request) -> web.Response:
        """This member's reports, revision by revision, in the order of filing."""
        after, limit = cursor_of(request)

        def read() -> bytes:
            with self._core.store.read() as reads:
                return msgspec.json.encode(page(map(own_line, reads.own_page(after, limit)), "reports", after))

        return web.Response(body=await asyncio.to_thread(read), content_type=JSON)


async def proof_of(core: NodeCore, request: web.Request, *, own: bool) -> web.Response:
    """A tlog-proof as text; ProtocolError if there is no such report, or no proof of it yet."""
    report_id = report_id_of(request)
    revision = number_of(request.query["revision"], "revision", 100_000) if "revision" in request.query else None

    def read() -> str:
        with core.store.read() as reads:
            return proof_text(reads, report_id, revision, own=own)

    text = await asyncio.to_thread(read)
    return web.Response(text=text, content_type="text/plain", charset="utf-8")


async def read_limited(request: web.Request) -> bytes:
    """The body; ProtocolError as soon as it is over its limit, without holding more than that."""
    too_large = ProtocolError(Reason.TOO_LARGE, "$", f"a request has at most {limits.HTTP_BODY} bytes: send several")
    if (request.content_length or 0) > limits.HTTP_BODY:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > limits.HTTP_BODY:
                raise too_large
    except (web.RequestPayloadError, web.PayloadAccessError) as exc:
        raise ProtocolError(Reason.NOT_JSON, "$", "the body cannot be read: check Content-Encoding and length") from exc
    return bytes(body)


def report_id_of(request: web.Request) -> str:
    """The id in the address, in its usual spelling."""
    try:
        return str(UUID(request.match_info["report_id"]))
    except ValueError as exc:
        raise ProtocolError(Reason.UNKNOWN_REPORT, "$", "a report id is a UUID") from exc


def cursor_of(request: web.Request) -> tuple[int, int]:
    """`after` and `limit`."""
    after = number_of(request.query.get("after", "0"), "after", 2**62)
    return after, max(1, number_of(request.query.get("limit", "100"), "limit", 500))
