"""`/v1/review`: filings that wait for a person, and the person's word about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from node import review
from node.access import Access
from node.api.reports import cursor_of, read_limited
from node.core import NodeCore
from node.intake import Posting, Release, read_item, updating
from node.loops import Committer, Writer
from node.store import microseconds
from protocol.access import Client, readable
from protocol.door import CLIENT, JSON, answer, number_of
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.reasons import Reason

_LAST: Final = 2**62
_REPLAYED: Final = {"Idempotent-Replayed": "true"}


class TurnedAway(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a filing is refused."""

    why: Annotated[str, Meta(min_length=1, max_length=review.LONGEST_REASON)]


_refusal: Final = msgspec.json.Decoder(TurnedAway)


class Review:
    """Handlers."""

    def __init__(
        self, core: NodeCore, writer: Writer, committer: Committer, access: Access, now: Callable[[], datetime]
    ) -> None:
        self._core = core
        self._writer = writer
        self._committer = committer
        self._access = access
        self._now = now

    async def list(self, request: web.Request) -> web.Response:
        """What waits, or in another `state`, in the order in which it came; a filer sees its own."""
        after, limit = cursor_of(request)
        state = request.query.get("state", review.HELD)
        if state not in review.STATES:
            raise ProtocolError(Reason.UNKNOWN_VALUE, "$.state", f"state is one of {', '.join(sorted(review.STATES))}")
        client = request[CLIENT]
        only = None if "release" in client.scopes else client.name

        def read() -> bytes:
            with self._core.store.read() as reads:
                rows = reads.review_page(after, limit, state=state, tlps=readable(client), client=only)
            lines = [review.entry_line(row) for row in rows]
            return msgspec.json.encode({"review": lines, "next": lines[-1]["review"] if lines else after})

        return web.Response(body=await asyncio.to_thread(read), content_type=JSON)

    async def get(self, request: web.Request) -> web.Response:
        """One filing, and what became of it."""
        number, client = _number(request), request[CLIENT]

        def read() -> bytes:
            with self._core.store.read() as reads:
                return msgspec.json.encode(review.entry_line(review.entry(reads, number, client)))

        return web.Response(body=await asyncio.to_thread(read), content_type=JSON)

    async def release(self, request: web.Request) -> web.Response:
        """File it: from now on it is a report like any other."""
        number, client = _number(request), request[CLIENT]
        row = await asyncio.to_thread(self._look, number, client)
        if row.state == review.HELD:
            await self._file(row, client)
            return answer(await asyncio.to_thread(self._shown, number, client))
        if row.state == review.RELEASED:
            return answer(await asyncio.to_thread(self._shown, number, client), headers=_REPLAYED)
        raise ProtocolError(Reason.ALREADY_DECIDED, "$", "it was refused: its origin has to file it again")

    def _look(self, number: int, client: Client) -> Any:
        with self._core.store.read() as reads:
            return review.to_decide(reads, number, client)

    async def _file(self, row: Any, client: Client) -> None:
        """Judged as it is today: since it was held its time may have run out, or a recipient have left."""
        jurisdictions = self._core.trust.registry.jurisdictions
        item = read_item(bytes(row.filing), at="$", jurisdictions=jurisdictions, now=self._now())
        if isinstance(item, ProtocolError):
            raise item
        if row.updates:
            item = replace(updating(item), stated_at=row.stated_at)
        self._core.check_backlog()
        filer = self._access.filer(row.client)
        reply = await self._committer.submit(Posting((item,), False, filer, release=Release(row.id, client.name)))
        if isinstance(reply, ProtocolError):
            raise reply

    def _shown(self, number: int, client: Client) -> dict[str, Any]:
        with self._core.store.read() as reads:
            return review.entry_line(review.entry(reads, number, client))

    async def refuse(self, request: web.Request) -> web.Response:
        """Turn it away for good, and say why."""
        number, client = _number(request), request[CLIENT]
        why = decode(_refusal, await read_limited(request)).why
        fresh = await self._writer.run(self._refuse, number, client, why)
        shown = await asyncio.to_thread(self._shown, number, client)
        return answer(shown, headers=None if fresh else _REPLAYED)

    def _refuse(self, number: int, client: Client, why: str) -> bool:
        with self._core.store.write() as tx:
            return review.refuse(tx, number, client, why, microseconds(self._now()))


def _number(request: web.Request) -> int:
    return number_of(request.match_info["id"], "id", _LAST)
