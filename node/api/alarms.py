"""`/v1/alarms`: what should never happen and did, until a person clears it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from node.alarms import LONGEST_NAME
from node.api.reports import cursor_of, read_limited
from node.core import NodeCore
from node.loops import Writer
from node.store import Reads
from node.views import iso
from protocol.door import CLIENT, JSON, answer, number_of
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.reasons import Reason

_LAST: Final = 2**62


class Cleared(Struct, frozen=True, forbid_unknown_fields=True):
    """Who has dealt with an alarm."""

    by: Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]


_cleared: Final = msgspec.json.Decoder(Cleared)


class Alarms:
    """Handlers."""

    def __init__(self, core: NodeCore, writer: Writer) -> None:
        self._core = core
        self._writer = writer

    async def list(self, request: web.Request) -> web.Response:
        """Open alarms in the order in which they opened; with `cleared=1` all that there were."""
        if request[CLIENT].limited:
            raise ProtocolError(Reason.TLP_NOT_ALLOWED, "$", "alarms name reports of every marking: ask with TLP:RED")
        after, limit = cursor_of(request)
        cleared = bool(number_of(request.query.get("cleared", "0"), "cleared", 1))

        def read() -> bytes:
            with self._core.store.read() as reads:
                return msgspec.json.encode(alarm_page(reads, after, limit, cleared=cleared))

        return web.Response(body=await asyncio.to_thread(read), content_type=JSON)

    async def clear(self, request: web.Request) -> web.Response:
        """Note that a person has dealt with an alarm."""
        number = number_of(request.match_info["id"], "id", _LAST)
        word = decode(_cleared, await read_limited(request))
        fresh = await self._writer.run(self._core.clear_alarm, number, word.by)
        with self._core.store.read() as reads:
            row = reads.alarm(number)
        return answer(alarm_line(row), headers=None if fresh else {"Idempotent-Replayed": "true"})


def alarm_line(row: Any) -> dict[str, Any]:
    """One alarm as clients read it."""
    return {
        "id": row.id,
        "about": row.about,
        "reason": row.kind,
        "first_at": iso(row.first_at),
        "last_at": iso(row.last_at),
        "count": row.times,
        "facts": msgspec.Raw(row.facts),
        **({"cleared_at": iso(row.cleared_at), "cleared_by": row.cleared_by} if row.cleared_at is not None else {}),
    }


def alarm_page(reads: Reads, after: int, limit: int, *, cleared: bool) -> dict[str, Any]:
    """A page of alarms; `open` counts all that are open, `next` is the cursor that the following page begins after.

    Args:
        cleared: also those that were cleared.
    """
    lines = [alarm_line(row) for row in reads.alarms_page(after, limit, cleared=cleared)]
    return {
        "alarms": lines,
        "open": sum(reads.open_alarms().values()),
        "next": lines[-1]["id"] if lines else after,
    }
