"""Asking a node with tokens of several kinds."""

from __future__ import annotations

import json as js
from typing import Any

from tests.node.conftest import Running


async def ask(node: Running, token: str, method: str, path: str, json: Any = None, **headers: str) -> Any:
    """Status, body (JSON, or text) and headers of one request; of a stream, its beginning."""
    given = {"Authorization": f"Bearer {token}", **{name.replace("_", "-"): text for name, text in headers.items()}}
    async with node.http.request(method, path, json=json, headers=given) as response:
        if response.content_type == "text/event-stream":
            return response.status, "", response.headers
        text = await response.text()
        return response.status, js.loads(text) if "json" in response.content_type else text, response.headers


async def make(node: Running, name: str, *scopes: str, **terms: Any) -> str:
    """A new token, by the node's first one."""
    async with node.http.post("/v1/tokens", json={"name": name, "scopes": list(scopes), **terms}) as response:
        assert response.status == 201, await response.text()
        made = await response.json()
    assert made["name"] == name
    return str(made["token"])
