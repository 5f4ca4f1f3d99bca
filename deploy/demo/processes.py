"""A process tree that is kept up: what dies unexpectedly is started again, everything ends with us.

Guarantees: a process killed with -9 is back within a second or two, with the same directory and ports; nothing outlives
`stop`. Each process writes its log lines to a file of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

STOP_SECONDS: Final = 10.0


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Kept:
    """One process of the tree."""

    name: str
    arguments: Sequence[str]
    log: Path
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, it is not started again."""


@dataclass(slots=True)
class Tree:
    """Processes, each watched by a task."""

    logs: Path
    kept: dict[str, Kept] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False

    async def start(self, name: str, *arguments: str) -> None:
        """Start `kentongan ARGUMENTS` and keep it running."""
        self.logs.mkdir(parents=True, exist_ok=True)
        kept = Kept(name, arguments, self.logs / f"{name}.log")
        kept.up.set()
        self.kept[name] = kept
        await self._spawn(kept)
        self._tasks.append(asyncio.create_task(self._keep(kept)))

    def program(self, _kept: Kept) -> str:
        """The module that is run."""
        return "deploy.cli"

    async def _spawn(self, kept: Kept) -> None:
        with kept.log.open("ab") as log:
            kept.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self.program(kept),
                *kept.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C goes to us alone; we end the others in order.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    async def _keep(self, kept: Kept) -> None:
        wait = 0.2
        while True:
            if kept.process is not None:
                await kept.process.wait()
            await kept.up.wait()
            if self._stopping:
                return
            kept.restarts += 1
            await asyncio.sleep(wait)
            wait = min(wait * 2, 5.0)
            await self._spawn(kept)

    async def kill(self, name: str) -> None:
        """End a process at once, and leave it down until `revive`."""
        kept = self.kept[name]
        kept.up.clear()
        self._signal(kept, signal.SIGKILL)
        if kept.process is not None:
            await kept.process.wait()

    def revive(self, name: str) -> None:
        """Let a process that was killed come back."""
        self.kept[name].up.set()

    def failed(self) -> str | None:
        """The name of a process that cannot stay up."""
        return next((kept.name for kept in self.kept.values() if kept.restarts > 8), None)

    async def stop(self) -> None:
        """End everything: the last started first, by force after ten seconds."""
        self._stopping = True
        for kept in self.kept.values():
            kept.up.set()
        for kept in reversed(self.kept.values()):
            self._signal(kept, signal.SIGTERM)
        for kept in reversed(self.kept.values()):
            if kept.process is None:
                continue
            try:
                await asyncio.wait_for(kept.process.wait(), STOP_SECONDS)
            except TimeoutError:
                self._signal(kept, signal.SIGKILL)
                await kept.process.wait()
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _signal(self, kept: Kept, number: signal.Signals) -> None:
        if kept.process is not None and kept.process.returncode is None:
            with suppress(ProcessLookupError):
                kept.process.send_signal(number)
