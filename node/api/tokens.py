"""`/v1/tokens`: who may ask here. A token's text is in the answer that makes it, and nowhere else."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated, Any, Final

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta, Struct

from node.access import Access
from node.api.reports import read_limited
from node.loops import Writer
from node.tokens import LONGEST_OVERLAP, Wanted
from protocol.door import CLIENT, answer
from protocol.parse import decode

log = structlog.get_logger()

DEFAULT_OVERLAP: Final = 60
"""Minutes for which the secret before a rotation still holds."""
_MOST: Final = int(LONGEST_OVERLAP.total_seconds()) // 60
_SECRET: Final = {"Cache-Control": "no-store"}


class Rotation(Struct, frozen=True, forbid_unknown_fields=True):
    """How a token is to be rotated."""

    overlap_minutes: Annotated[int, Meta(ge=0, le=_MOST)] = DEFAULT_OVERLAP


_wanted: Final = msgspec.json.Decoder(Wanted)
_rotate: Final = msgspec.json.Decoder(Rotation)


class TokensApi:
    """Handlers."""

    def __init__(self, access: Access, writer: Writer) -> None:
        self._access = access
        self._writer = writer

    async def list(self, _request: web.Request) -> web.Response:
        """Every token with its terms, state and last use."""
        return answer({"tokens": await asyncio.to_thread(self._access.lines)})

    async def create(self, request: web.Request) -> web.Response:
        """Make a token."""
        wanted = decode(_wanted, await read_limited(request))
        text = await self._writer.run(self._access.create, wanted, request[CLIENT].name)
        _tell(request, wanted.name, "created")
        return answer({"name": wanted.name, "token": text}, 201, _SECRET)

    async def rotate(self, request: web.Request) -> web.Response:
        """Give a token a new secret; the one before it holds for a while."""
        name, body = request.match_info["name"], await read_limited(request)
        overlap = decode(_rotate, body or b"{}").overlap_minutes
        text = await self._writer.run(self._access.rotate, name, timedelta(minutes=overlap), request[CLIENT].name)
        _tell(request, name, "rotated")
        return answer({"name": name, "token": text, "overlap_minutes": overlap}, headers=_SECRET)

    async def revoke(self, request: web.Request) -> web.Response:
        """Let a token count no more."""
        name = request.match_info["name"]
        fresh = await self._writer.run(self._access.revoke, name, request[CLIENT].name)
        if fresh:
            _tell(request, name, "revoked")
        document: dict[str, Any] = {"name": name, "state": "revoked"}
        return answer(document, headers=None if fresh else {"Idempotent-Replayed": "true"})


def _tell(request: web.Request, name: str, change: str) -> None:
    log.info("node.token", name=name, change=change, by=request[CLIENT].name)
