"""A real region for the end-to-end tests: real processes, real sockets, the real NATS server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy import cli
from deploy.demo.client import Door
from deploy.demo.processes import Tree
from deploy.demo.region import Place, make, start
from deploy.demo.scenario import MEMBERS

DEADLINE = 90.0


@dataclass
class Running:
    """A running region."""

    place: Place
    tree: Tree
    doors: dict[str, Door]
    session: aiohttp.ClientSession

    def pid(self, name: str) -> int:
        process = self.tree.kept[name].process
        assert process is not None
        return process.pid

    def nats_pid(self) -> int:
        return int((self.place.directory / "broker" / "data" / "nats" / "nats.pid").read_text())

    async def inbox(self, name: str) -> list[dict[str, Any]]:
        return await self.doors[name].inbox()


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, deadline: float = DEADLINE) -> None:
    """Return when the condition holds; fail when it does not in time."""
    end = asyncio.get_running_loop().time() + deadline
    while not await condition():
        assert asyncio.get_running_loop().time() < end, f"in vain: {what}"
        await asyncio.sleep(0.1)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Running]:
    """The demonstration's region, without its story."""
    tree = Tree(directory / "logs")
    async with aiohttp.ClientSession() as session:
        try:
            place = await asyncio.to_thread(make, directory, 0)
            doors = await start(place, tree, session)
            yield Running(place, tree, doors, session)
        finally:
            await tree.stop()


def examine(directory: Path) -> None:
    """Hold the ledger, its log and every node's store to what was signed, with the commands that an operator uses."""
    found: dict[str, str] = {}
    for name in ("broker", *MEMBERS):
        said = io.StringIO()
        with redirect_stdout(said):
            code = cli.main(["broker" if name == "broker" else "node", "check", str(directory / name)], log=False)
        if code:
            found[name] = said.getvalue()
    assert not found, found


@pytest.fixture
async def region(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    """A region of five nodes and a broker, whose stores hold together at the end unless the test falsifies them."""
    async with running(tmp_path) as found:
        yield found
    if request.node.get_closest_marker("falsifies") is None:
        await asyncio.to_thread(examine, tmp_path)
