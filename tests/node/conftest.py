"""Fixtures: a clock, a core without edges, and a whole node over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from node.app import Node
from node.config import Config
from node.core import NodeCore
from tests.node.world import TOKEN, Broker, Clock, MemoryBus, make_config, make_core, seeded


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A command that sets up logging does so for its own test only."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> Broker:
    return Broker(clock)


@pytest.fixture
def core(tmp_path: Path, clock: Clock) -> Iterator[NodeCore]:
    made = make_core(tmp_path, clock)
    yield made
    made.store.close()


class Running:
    """A node in this process, with a client that has its token."""

    def __init__(self, node: Node, bus: MemoryBus, http: aiohttp.ClientSession, task: asyncio.Task[None]) -> None:
        self.node, self.bus, self.http, self.task = node, bus, http, task

    async def post(self, document: Any, **options: Any) -> tuple[int, Any, Any]:
        async with self.http.post("/v1/reports", json=document, **options) as response:
            return response.status, await response.json(content_type=None), response.headers

    async def get(self, path: str) -> Any:
        async with self.http.get(path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def stop(self) -> None:
        self.node.stop()
        await asyncio.wait_for(self.task, 10)


Start = Callable[..., Any]


@asynccontextmanager
async def running(config: Config, clock: Clock, bus: MemoryBus) -> AsyncIterator[Running]:
    async def dial(on_state: Callable[[str], None]) -> Any:
        on_state("connected")
        return bus

    node = Node(config, now=clock, rand=seeded("edge"), dial=dial)
    task = asyncio.create_task(node.run())
    started = asyncio.create_task(node.started.wait())
    await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        started.cancel()
        await task
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(node.url, headers=headers) as http:
        try:
            if bus.up and bus.region_document:
                await _until_ready(http)
            yield Running(node, bus, http, task)
        finally:
            node.stop()
            if not task.done():
                await asyncio.wait_for(task, 10)


async def _until_ready(http: aiohttp.ClientSession) -> None:
    """Wait until the node has seen the region."""
    async with asyncio.timeout(10):
        while True:
            async with http.get("/readyz") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.005)


@pytest.fixture
async def start(tmp_path: Path, clock: Clock) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(bus: MemoryBus | None = None, **options: Any) -> Running:
            config = make_config(tmp_path, **options)
            return await stack.enter_async_context(running(config, clock, bus or MemoryBus()))

        yield begin


@pytest.fixture
async def node(start: Start) -> Running:
    running_node: Running = await start()
    return running_node
