"""A node as the node's own tests have it, and a wire to it that can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from kentongan.client import Client
from tests.kentongan.wire import Wire
from tests.node.conftest import Running, broker, clock, node, start
from tests.node.world import TOKEN

__all__ = ["broker", "clock", "node", "start"]


@pytest.fixture
async def client(node: Running) -> AsyncIterator[Client]:
    async with Client(node.node.url, TOKEN, patience=10, first_wait=0.02) as made:
        yield made


@pytest.fixture
async def wired(node: Running) -> AsyncIterator[Callable[..., object]]:
    """Makes a wire to the node and a client at its end."""
    async with AsyncExitStack() as stack:

        async def make(**options: float) -> tuple[Wire, Client]:
            wire = await stack.enter_async_context(Wire.to(node.node.url))
            options = {"patience": 10, "first_wait": 0.02, **options}
            return wire, await stack.enter_async_context(Client(wire.url, TOKEN, **options))

        yield make
