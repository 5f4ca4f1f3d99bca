"""`/v1/inbox`: what others reported, and the own word about it. `/v1/feed`: all that happens, as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from node.api.reports import cursor_of, proof_of, read_limited, report_id_of, shown_as
from node.core import NodeCore, Word
from node.feed import Feed
from node.formats.foreign import Shown
from node.formats.registry import format_out
from node.loops import State, Writer
from node.showing import earlier_of, inbox_shown
from node.store import Reads
from node.views import inbox_line, inbox_report, iso, may_see, page
from protocol.access import Client, readable
from protocol.door import CLIENT, HEARTBEAT, JSON, STILL_HERE, answer, position, stream
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.reasons import Reason


class Spoken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The own word about a report."""

    state: Word
    revision: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType = UNSET


_word: Final = msgspec.json.Decoder(Spoken)


class Inbox:
    """Handlers."""

    def __init__(self, core: NodeCore, writer: Writer, state: State) -> None:
        self._core = core
        self._writer = writer
        self._state = state

    async def list(self, request: web.Request) -> web.Response:
        """Others' reports in the order of arrival; with `?format=`, in that format."""
        after, limit = cursor_of(request)
        client = request[CLIENT]
        if format_ := format_out(request.query.get("format", "")):
            headers: dict[str, str] = {}

            def find(reads: Reads) -> list[Shown]:
                rows = reads.inbox_page(after, limit, readable(client))
                following = rows[-1].seq if rows else after
                headers["Link"] = f'</v1/inbox?format={format_.name}&after={following}&limit={limit}>; rel="next"'
                later = {row.report_id for row in rows if row.revision > 1}
                others = [row for row in reads.inbox_by("report_id", later) if may_see(client, row, own=False)]
                return [shown for row in rows if (shown := inbox_shown(row, earlier_of(row, others)))]

            return await shown_as(self._core, format_, find, headers)

        def read() -> bytes:
            with self._core.store.read() as reads:
                rows = reads.inbox_page(after, limit, readable(client))
                return msgspec.json.encode(page(map(inbox_line, rows), "reports", after))

        return web.Response(body=await asyncio.to_thread(read), content_type=JSON)

    async def get(self, request: web.Request) -> web.Response:
        """All about one report of another member; with `?format=`, its newest revision in that format."""
        report_id = report_id_of(request)
        if format_ := format_out(request.query.get("format", "")):

            def newest(reads: Reads) -> list[Shown]:
                every = reads.inbox_by("report_id", [report_id])
                allowed = [row for row in every if may_see(request[CLIENT], row, own=False)]
                rows = sorted(allowed, key=lambda row: row.revision)
                if not (found := [shown for row in rows[-1:] if (shown := inbox_shown(row, rows[:-1]))]) and rows:
                    raise ProtocolError(Reason.EXPIRED, "$", "its content is erased here")
                return found

            return await shown_as(self._core, format_, newest)

        def read() -> bytes | None:
            with self._core.store.read() as reads:
                found = inbox_report(reads, report_id, request[CLIENT])
            return msgspec.json.encode(found) if found else None

        body = await asyncio.to_thread(read)
        if body is None:
            raise ProtocolError(Reason.UNKNOWN_REPORT, "$", "no report with this id was received")
        return web.Response(body=body, content_type=JSON)

    async def proof(self, request: web.Request) -> web.Response:
        """The proof that what was delivered is what the broker's log says was granted."""
        return await proof_of(self._core, request, own=False)

    async def confirm(self, request: web.Request) -> web.Response:
        """Tell a report's origin: read, acting, closed."""
        report_id = report_id_of(request)
        word = decode(_word, await read_limited(request))
        tlps = readable(request[CLIENT])
        said = await self._writer.run(self._core.confirm, report_id, word.state, word.revision or None, tlps)
        self._state.said.ring()
        document = {
            "report_id": said.report_id,
            "revision": said.revision,
            "digest": said.digest,
            "state": said.state,
            "at": iso(said.at),
        }
        headers = {"Idempotent-Replayed": "true"} if said.replayed else None
        return answer(document, headers=headers)


class Listening:
    """The SSE handler."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def listen(self, request: web.Request) -> web.StreamResponse:
        """Every event after the one that the listener names; without one, those from now on."""
        return await stream(request, self._frames(position(request, self._feed.last), request[CLIENT]))

    async def _frames(self, seq: int, client: Client) -> AsyncGenerator[bytes, None]:
        # An id without an event is where to go on, should the connection break before the first event.
        yield b"id: %d\n\n" % seq
        while not self._feed.closed:
            before = seq
            frames, seq = await (self._feed.seen_by(client, seq) if client.limited else self._feed.after(seq))
            if seq == before and not await self._feed.wait(seq, HEARTBEAT):
                frames = STILL_HERE
            if not client.alive():
                # Asked last of all: nothing is shown to a token that was revoked meanwhile.
                return
            if frames:
                yield frames
