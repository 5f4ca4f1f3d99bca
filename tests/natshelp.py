"""A region's bus in a temporary directory, for tests: the real server, the real accounts, real connections.

    async with region(tmp_path, ["pl", "de"]) as bus:
        broker, pl = await bus.broker(), await bus.member("pl")

Everything that was opened through it is closed at the end. Nothing here waits for luck: see `eventually`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from broker import topology
from broker.accounts import Accounts
from broker.natsd import EmbeddedNats
from protocol import natsauth, subjects
from protocol.bus import NatsBus

DEADLINE = 30.0
"""Seconds; generous, as tests check that things happen and not how fast."""


async def eventually(condition: Callable[[], Awaitable[bool] | bool], deadline: float = DEADLINE) -> None:
    """Return as soon as `condition` holds; fail when it does not within `deadline` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while True:
        outcome = condition()
        if outcome if isinstance(outcome, bool) else await outcome:
            return
        assert loop.time() < end, "the condition did not come true in time"
        await asyncio.sleep(0.01)


class Region:
    """A running embedded server with its keys, and the ways to connect to it."""

    def __init__(self, directory: Path, members: Iterable[str]) -> None:
        self.directory = directory
        self.members = list(members)
        keys = directory / "keys"
        self.accounts = Accounts.load(keys) if keys.exists() else Accounts.create(keys)
        self.events: list[str] = []
        self.server = EmbeddedNats(directory / "nats", 0, self.accounts, self.members, on_event=self.events.append)
        self._buses: list[NatsBus] = []

    async def broker(self, on_state: Callable[[str], None] | None = None) -> NatsBus:
        """Connect as the broker and bring about the streams."""
        creds = self.write("broker.creds", self.accounts.broker_creds(int(time.time())))
        bus = await self.connect(creds, "broker", subjects.INTAKE_STREAM, subjects.BROKER_CONSUMER, on_state)
        await topology.reconcile(bus.nc, self.members)
        return bus

    async def member(self, member: str, on_state: Callable[[str], None] | None = None) -> NatsBus:
        """Connect as a member's node."""
        creds = self.member_creds(member)
        return await self.connect(creds, member, subjects.inbox_stream(member), subjects.NODE_CONSUMER, on_state)

    async def connect(
        self,
        creds: Path,
        name: str,
        stream: str,
        consumer: str,
        on_state: Callable[[str], None] | None = None,
        publish_timeout: float = 5.0,
    ) -> NatsBus:
        """Connect with any credentials to any consumer, as a member who tries its luck would."""
        bus = await NatsBus.connect(
            self.server.url,
            creds=creds,
            name=name,
            stream=stream,
            consumer=consumer,
            on_state=on_state,
            publish_timeout=publish_timeout,
        )
        self._buses.append(bus)
        return bus

    def member_creds(self, member: str) -> Path:
        """Make a node's connection key, have it admitted, and write the credentials file."""
        path = self.directory / f"{member}.creds"
        if not path.exists():
            seed = natsauth.create_seed(natsauth.Role.USER, os.urandom(natsauth.SEED_ENTROPY))
            public = natsauth.public_of(seed, natsauth.Role.USER)
            jwt = self.accounts.issue_user(member, public, int(time.time()))
            self.write(path.name, natsauth.format_creds(jwt, seed))
        return path

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text, encoding="ascii")
        path.chmod(0o600)
        return path

    async def close(self) -> None:
        for bus in reversed(self._buses):
            await bus.close()
        await self.server.stop()


@asynccontextmanager
async def region(directory: Path, members: Iterable[str], *, supervised: bool = True) -> AsyncIterator[Region]:
    """Run a region's bus; with `supervised`, a server that dies is restarted."""
    running = Region(directory, members)
    await running.server.start()
    watching = asyncio.create_task(running.server.supervise()) if supervised else None
    try:
        yield running
    finally:
        if watching is not None:
            watching.cancel()
        await running.close()
