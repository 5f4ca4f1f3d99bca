"""A small HTTP client for the demonstration: what any tool of a SOC would do, with a bearer token and JSON."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its status, its JSON, and how many seconds it took."""

    status: int
    body: dict[str, Any]
    replayed: bool
    seconds: float


class Door:
    """The HTTP door of one node or broker. Survives restarts: asks again until it is answered."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self._session = session

    async def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """One request, repeated while nobody answers (a process that was killed is back in a moment)."""
        data = msgspec.json.encode(body) if body is not None else None
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **(headers or {})}
        while True:
            started = time.perf_counter()
            try:
                async with self._session.request(method, self.url + path, data=data, headers=sent) as response:
                    raw = await response.read()
                    return Answer(
                        response.status,
                        msgspec.json.decode(raw) if raw else {},
                        "Idempotent-Replayed" in response.headers,
                        time.perf_counter() - started,
                    )
            except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
                await asyncio.sleep(0.1)

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON at a path."""
        return (await self.call("GET", path)).body

    async def ready(self) -> bool:
        """Whether it says that it is ready."""
        try:
            async with self._session.get(self.url + "/readyz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def inbox(self) -> list[dict[str, Any]]:
        """Everything that it received, page by page."""
        found: list[dict[str, Any]] = []
        after = 0
        while True:
            page = await self.get(f"/v1/inbox?after={after}&limit=200")
            if not page.get("reports"):
                return found
            found += page["reports"]
            after = page["next"]
