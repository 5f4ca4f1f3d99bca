"""A region of real processes for the benchmarks, made with the operators' own commands."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

import broker.setup
from deploy import cli
from deploy.demo.processes import free_port

OPEN_POLICY: Final = """\
jurisdiction = "{name}"
version = 1
effective_from = 2026-01-01T00:00:00Z
[[export]]
id = "all"
effect = "allow"
because = "benchmark"
to = ["*"]
disclose = ["*"]
level = {{ "indicators.address" = "coarse" }}
[[export]]
id = "none-to-the-next"
effect = "deny"
because = "benchmark"
to = ["{next}"]
disclose = ["@personal"]
[[import]]
id = "take"
effect = "allow"
because = "benchmark"
from = ["*"]
disclose = ["*"]
[[import]]
id = "not"
effect = "deny"
because = "benchmark"
from = ["*"]
disclose = ["{hidden}"]
"""
_HIDDEN: Final = ("victim", "contacts", "title", "geo", "times")


@dataclass
class Place:
    """Directories, ports and tokens."""

    directory: Path
    members: Sequence[str]
    ports: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    brokers: list[str] = field(default_factory=lambda: ["broker"])

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def make(self) -> None:
        """init, admit, join."""
        self.ports = {name: free_port() for name in ("broker", "nats", *self.members)}
        home = self.directory / "broker"
        self.tokens["broker"], _ = broker.setup.init(
            home, "benchmark", http_port=self.ports["broker"], nats_port=self.ports["nats"]
        )
        for number, name in enumerate(self.members):
            node = self.directory / name
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                cli.main(["node", "init", str(node), "--member", name, "--port", str(self.ports[name])], log=False)
            self.tokens[name] = next(line.rsplit(" ", 1)[1] for line in out.getvalue().splitlines() if "token" in line)
            following = self.members[(number + 1) % len(self.members)]
            text = OPEN_POLICY.format(name=name, next=following, hidden=_HIDDEN[number % len(_HIDDEN)])
            (node / "policy.toml").write_text(text)
        for name in self.members:
            node = self.directory / name
            invitation = self.directory / f"{name}.json"
            broker.setup.admit(home, node / "member.json", [node / "policy.toml"], invitation)
            with contextlib.redirect_stdout(io.StringIO()):
                cli.main(["node", "join", str(node), str(invitation)], log=False)

    def share(self, ledger: str, brokers: int) -> None:
        """Have the ledger in a database, and so many brokers on it; the first has the bus."""
        home = self.directory / "broker"
        text = (home / "broker.toml").read_text()
        head, _, bus = text.partition("[nats]")
        head = f'ledger = "{ledger}"\n{head}'
        (home / "broker.toml").write_text(f"{head}[nats]{bus}")
        external = f'[nats]\nmode = "external"\nurl = "nats://127.0.0.1:{self.ports["nats"]}"\n'
        for number in range(2, brokers + 1):
            name = f"broker{number}"
            self.ports[name] = free_port()
            self.brokers.append(name)
            other = head.replace('data = "data" ', f'data = "data{number}" ')
            other = other.replace(f"port = {self.ports['broker']}\n", f"port = {self.ports[name]}\n")
            (home / f"{name}.toml").write_text(f'{other}{external}creds = "data/nats/broker.creds"\n')

    async def start(self, name: str, core: int | None = None) -> None:
        """Start the broker or a node, on one core if asked, and wait until it is ready."""
        kind = "broker" if name in self.brokers else "node"
        place = self.directory / name if name not in self.brokers[1:] else self.directory / "broker" / f"{name}.toml"
        log = (self.directory / f"{name}.log").open("ab")
        self.processes[name] = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "deploy.cli",
            kind,
            "run",
            str(place),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        async with aiohttp.ClientSession() as session:
            end = time.monotonic() + 60
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(self.url(name) + "/readyz") as answer:
                        if answer.status == 200:
                            break
                if time.monotonic() > end:
                    raise RuntimeError(f"{name} does not come up: see {self.directory / name}.log")
                await asyncio.sleep(0.05)
        if core is not None:
            pin(self.processes[name].pid, core)

    async def stop(self) -> None:
        """End all processes."""
        for process in reversed(self.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 15)
        self.processes.clear()


def pin(pid: int, core: int) -> None:
    """Keep a process with all its threads, but not its children, on one core."""
    if not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2:
        return
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {core})


def memory_mb(pid: int) -> float:
    """Resident memory of a process, in megabytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
