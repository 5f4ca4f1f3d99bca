"""`/openapi.json` and `/docs`: the HTTP interface for programs and for people, made once, the same for everybody."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from node.api.addresses import IN_PATH, OPERATIONS
from node.api.openapi import document
from node.api.page import POLICY, render
from protocol.door import JSON

OPEN: Final = frozenset({"/openapi.json", "/docs"})
"""Paths that need no token: they say what the program is, and nothing of this node."""
_HEADERS: Final = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}


class Documentation:
    """Handlers."""

    def __init__(self) -> None:
        made = document(OPERATIONS, IN_PATH)
        self._json = msgspec.json.encode(made)
        self._page = render(made).encode()

    async def openapi(self, _request: web.Request) -> web.Response:
        """For programs."""
        return web.Response(body=self._json, content_type=JSON, headers=_HEADERS)

    async def page(self, _request: web.Request) -> web.Response:
        """For people."""
        headers = {**_HEADERS, "Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        return web.Response(body=self._page, content_type="text/html", charset="utf-8", headers=headers)
