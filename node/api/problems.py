"""Refusals as RFC 9457 problem documents. Details say what to do; a fault of the node itself says nothing at all."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from node.answers import status_of
from protocol.errors import ProtocolError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = "5"


def problem(error: ProtocolError, instance: str = "") -> web.Response:
    """The answer to a refused request."""
    status = status_of(error.reason)
    document: dict[str, Any] = {
        "type": f"urn:kentongan:reason:{error.reason.value}",
        "title": error.reason.value.replace("-", " "),
        "status": status,
        "detail": error.detail,
        "reason": error.reason.value,
        "path": error.path,
    }
    if instance:
        document["instance"] = instance
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="kentongan"'
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = RETRY_AFTER
    return _respond(status, document, headers)


def unavailable(detail: str) -> web.Response:
    """A passing fault: the client keeps what it has and sends it again."""
    document = {"type": "about:blank", "title": "not available for now", "status": 503, "detail": detail}
    return _respond(503, document, {"Retry-After": RETRY_AFTER})


def bug() -> web.Response:
    """A fault of the node, which ends after this answer."""
    return _respond(500, {"type": "about:blank", "title": "internal error", "status": 500}, {})


def _respond(status: int, document: dict[str, Any], headers: dict[str, str]) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type=MEDIA_TYPE, headers=headers)
