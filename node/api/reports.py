"""`/v1/reports`: filing, and what became of what was filed."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from aiohttp import web

from node.core import NodeCore
from node.foreign import Reading, defaults_of, read_foreign
from node.formats.foreign import Defaults, Shown
from node.formats.registry import NDJSON, Format, format_in, format_out, writer
from node.intake import Posting, read_body
from node.loops import Committer
from node.metrics import Metrics
from node.posts import post_id, post_view
from node.showing import own_shown
from node.store import Reads
from node.views import own_line, own_report, page, proof_text
from protocol import limits
from protocol.access import readable
from protocol.door import CLIENT, JSON, number_of, problem, unknown_token
from protocol.errors import ProtocolError
from protocol.keys import b64
from protocol.parts import MEDIA_TYPE
from protocol.reasons import Reason
from protocol.tracing import OFF, Trace, Tracing, read

_OFF_LOOP: Final = 64 << 10
"""Bytes from which a body is judged on another thread, so that it does not hold up the others."""
LONGEST_KEY: Final = 255


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
        format_ = format_in(request.query.get("format", ""), request.content_type)
        defaults = defaults_of(request.query) if format_ else Defaults()
        key = request.headers.get("Idempotency-Key", "")
        if len(key) > LONGEST_KEY:
            raise ProtocolError(Reason.OUT_OF_RANGE, "$", f"an Idempotency-Key has at most {LONGEST_KEY} characters")
        self._core.check_backlog()
        body = await read_limited(request)
        jurisdictions = self._core.trust.registry.jurisdictions
        ndjson = request.content_type == NDJSON
        client = request[CLIENT]

        def judge() -> Posting:
            # Another format, or other words about all of it, make another request of the same bytes.
            how = "" if format_ is None else f"{format_.name} {sorted(defaults.marking or ())} {request.query_string}\n"
            body_hash = b64(hashlib.sha256(how.encode() + body).digest()) if key else ""
            if format_ is None:
                items, many = read_body(body, ndjson=ndjson, jurisdictions=jurisdictions, now=self._now())
                return Posting(items, many, client, key, body_hash, trace=trace)
            reading = Reading(format_, media_type_of(request), self._core.member, defaults, jurisdictions, self._now())
            read, places = read_foreign(body, reading, ndjson=ndjson)
            return Posting(read, True, client, key, body_hash, places, trace=trace)

        posting = await asyncio.to_thread(judge) if len(body) > _OFF_LOOP else judge()
        if not client.alive():
            # Revoked while it sent its body.
            raise unknown_token()
        reply = await self._committer.submit(posting)
        headers = client.quota.headers() if client.quota else {}
        if isinstance(reply, ProtocolError):
            return problem(reply.reason, reply.detail, reply.path, instance=request.path, more=headers)
        if reply.replayed:
            headers["Idempotent-Replayed"] = "true"
        if posting.many and reply.status == 202:
            headers["Location"] = f"/v1/submissions/{post_id(client.name, reply.body)}"
        return web.Response(body=reply.body, status=reply.status, content_type=JSON, headers=headers)

    async def submission(self, request: web.Request) -> web.Response:
        """What became of the items of a POST so far."""

        def read() -> bytes | None:
            with self._core.store.read() as reads:
                found = post_view(reads, request.match_info["id"], request[CLIENT])
            return msgspec.json.encode(found) if found else None

        body = await asyncio.to_thread(read)
        if body is None:
            raise ProtocolError(Reason.UNKNOWN_PATH, "$", "no POST of the last thirty days has this name")
        return web.Response(body=body, content_type=JSON)

    async def get(self, request: web.Request) -> web.Response:
        """All about one report of this member; with `?format=`, its newest revision in that format."""
        report_id = report_id_of(request)
        if format_ := format_out(request.query.get("format", "")):
            return await shown_as(self._core, format_, lambda reads: own_shown(reads, report_id, request[CLIENT]))

        def read() -> bytes | None:
            with self._core.store.read() as reads:
                found = own_report(reads, report_id, self._now(), request[CLIENT])
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
        client = request[CLIENT]
        only = None if "read" in client.scopes else client.name

        def read() -> bytes:
            with self._core.store.read() as reads:
                rows = reads.own_page(after, limit, readable(client), only)
                return msgspec.json.encode(page(map(own_line, rows), "reports", after))

        return web.Response(body=await asyncio.to_thread(read), content_type=JSON)


async def proof_of(core: NodeCore, request: web.Request, *, own: bool) -> web.Response:
    """A tlog-proof as text; ProtocolError if there is no such report, or no proof of it yet."""
    report_id = report_id_of(request)
    revision = number_of(request.query["revision"], "revision", 100_000) if "revision" in request.query else None

    def read() -> str:
        with core.store.read() as reads:
            return proof_text(reads, report_id, revision, own=own, client=request[CLIENT])

    text = await asyncio.to_thread(read)
    return web.Response(text=text, content_type="text/plain", charset="utf-8")


async def shown_as(
    core: NodeCore, format_: Format, find: Callable[[Reads], Sequence[Shown]], headers: Mapping[str, str] | None = None
) -> web.Response:
    """Reports in another format; ProtocolError if there are none."""

    def read() -> bytes | None:
        with core.store.read() as reads:
            found = find(reads)
        write = writer(format_.name)
        return write(found) if write is not None and (found or headers is not None) else None

    body = await asyncio.to_thread(read)
    if body is None:
        raise ProtocolError(Reason.UNKNOWN_REPORT, "$", "no report with this id is here")
    return web.Response(body=body, content_type=format_.media_types[0], headers=headers)


def media_type_of(request: web.Request) -> str:
    """The content type as the profile writes it."""
    stated = request.headers.get("Content-Type", "").replace(" ", "").lower()
    return stated if re.match(MEDIA_TYPE, stated) else "application/octet-stream"


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
