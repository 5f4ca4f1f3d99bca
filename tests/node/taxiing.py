"""TAXII over real HTTP: a door over a core without a bus, and whole nodes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from node.api import taxii as door_of_taxii
from node.api.scopes import needed
from node.api.taxii import Taxii, in_its_form, is_below
from node.config import Taxii as Settings
from node.core import NodeCore
from node.formats.stix import objects_of
from node.projection import catch_up
from protocol import door
from protocol.process import Token
from tests.node.conftest import Running, running
from tests.node.world import TOKEN, Broker, Clock, MemoryBus, foreign, make_config, released

MEDIA = "application/taxii+json;version=2.1"
ROOT = "/taxii2/reports/"
ALL = f"{ROOT}collections/all/"


@dataclass
class Served:
    """A core behind a door, and a client."""

    core: NodeCore
    broker: Broker
    http: aiohttp.ClientSession
    url: str
    bugs: list[BaseException] = field(default_factory=list)

    def arrive(self, *envelopes: Any, shown: bool = True) -> None:
        """Reports come in, and into the collections."""
        self.core.receive([self.broker.delivery(*(released(envelope) for envelope in envelopes))])
        if shown:
            catch_up(self.core.store, objects_of, self.core._now)

    def some(self, count: int = 1, **changes: Any) -> None:
        self.arrive(foreign(count=count, **changes))

    async def ask(self, path: str, status: int = 200, method: str = "GET", **options: Any) -> tuple[Any, Any]:
        async with self.http.request(method, path, **options) as response:
            assert response.status == status, await response.text()
            assert response.headers["Content-Type"] == MEDIA
            return await response.json(content_type=None), response.headers

    async def objects(self, query: str = "", collection: str = "all") -> list[dict[str, Any]]:
        """All objects of a collection."""
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page, _ = await self.ask(f"{ROOT}collections/{collection}/objects/?{query}{cursor}")
            found += page.get("objects", [])
            if not page["more"]:
                return found
            cursor = f"&next={page['next']}"


@asynccontextmanager
async def served(core: NodeCore, clock: Clock) -> AsyncIterator[Served]:
    tokens = door.Tokens([Token(name="soc", sha256=hashlib.sha256(TOKEN.encode()).hexdigest())])
    bugs: list[BaseException] = []
    guard = door.guard(tokens, on_bug=bugs.append, takes_basic=is_below, needs=needed)
    app = web.Application(middlewares=[in_its_form, guard])
    app.add_routes(Taxii(Settings(enabled=True), core).routes())
    runner = await door.listen(app, "127.0.0.1", 0, shutdown=0.1)
    url = door.url_of(runner, "127.0.0.1")
    try:
        async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            yield Served(core, Broker(clock), http, url, bugs)
        assert bugs == []
    finally:
        await runner.cleanup()


@asynccontextmanager
async def taxii_node(
    directory: Path, clock: Clock, bus: MemoryBus | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """A whole node with TAXII."""
    config = replace(make_config(directory), taxii=Settings(enabled=True, **settings))
    async with running(config, clock, bus or MemoryBus()) as node:
        yield node


async def until_shown(node: Running, incidents: int, seconds: float = 10.0) -> None:
    """Wait until so many incidents are in the collection of everything."""
    async with asyncio.timeout(seconds):
        while True:
            page = await node.get(f"{ALL}manifest/?match[type]=incident&match[version]=all")
            if len(page.get("objects", [])) >= incidents:
                return
            await asyncio.sleep(0.005)


def limited(monkeypatch: pytest.MonkeyPatch, tlp: str) -> None:
    """From now on every token may read up to this marking only."""
    as_told: Callable[[web.Request], str] = lambda _: tlp  # noqa: E731
    monkeypatch.setattr(door_of_taxii, "highest", as_told)
