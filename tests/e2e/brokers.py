"""A region whose broker is several processes on one ledger in PostgreSQL, with real nodes and a real NATS server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from broker.accounts import Accounts
from broker.natsd import EmbeddedNats
from deploy.demo.client import Door
from deploy.demo.processes import Tree, free_port
from deploy.demo.region import Place, make
from tests.e2e.conftest import DEADLINE, Running, eventually
from tests.postgresql import Server

NODES = ("id", "jp", "sg")


@dataclass
class Brokers(Running):
    """A running region with several brokers."""

    server: Server
    ledger: str
    names: Sequence[str]
    accepted: dict[str, str] = field(default_factory=dict)
    """Report ids to those who posted them."""

    def kill(self, name: str) -> None:
        """End a process without a word; it is started again."""
        with suppress(ProcessLookupError):
            os.kill(self.pid(name), signal.SIGKILL)

    def said(self, name: str) -> str:
        """All log lines of a process."""
        return self.tree.kept[name].log.read_text()

    def leader(self) -> str | None:
        """The process that sequences the log, if it is a new one: as the last of them to say so."""
        told: list[tuple[str, str]] = []
        for name in self.names:
            lines = [json.loads(line) for line in self.said(name).splitlines() if '"log.leading"' in line]
            told += [(line["timestamp"], name) for line in lines if line["leading"]]
        return max(told)[1] if told else None

    def holder(self) -> int | None:
        """The database session that holds the lock for sequencing."""
        rows = self.server.tell(
            "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "
            "AND application_name = 'kentongan log' AND datname = current_database()",
            database=self.ledger,
        )
        return int(str(rows[0][0])) if rows else None


def broker_toml(home: Path, number: int, port: int, ledger: str, nats: str) -> Path:
    """The settings of one more broker: data and door of its own, all else shared."""
    text = (home / "broker.toml").read_text("utf-8")
    head, _, _ = text.partition("[nats]")
    head = head.replace('data = "data" ', f'ledger = "{ledger}"\ndata = "data{number}" ')
    lines = [line if not line.startswith("port = ") else f"port = {port}" for line in head.splitlines()]
    path = home / f"broker{number}.toml"
    path.write_text("\n".join([*lines, "[delivery]", "first_retry_seconds = 2.0", nats]), "utf-8")
    return path


@asynccontextmanager
async def several(
    directory: Path, server: Server, brokers: int, *, embedded: bool, nodes: bool = False
) -> AsyncIterator[Brokers]:
    """Run a region.

    Args:
        brokers: how many processes.
        embedded: whether the first of them has the NATS server; else it is one beside them.
        nodes: whether the nodes' stores are on the server too.
    """
    place = await asyncio.to_thread(make, directory, 0, NODES)
    home = directory / "broker"
    ledger = server.create()
    tree = Tree(directory / "logs")
    accounts = Accounts.load(home / "keys" / "nats")
    creds = home / "shared.creds"
    creds.write_text(accounts.broker_creds(int(time.time())), "ascii")
    creds.chmod(0o600)
    url = f"nats://127.0.0.1:{place.ports['nats']}"
    external = f'[nats]\nmode = "external"\nurl = "{url}"\ncreds = "shared.creds"\n'
    own = f'[nats]\nmode = "embedded"\nport = {place.ports["nats"]}\n'
    bus = EmbeddedNats(home / "bus", place.ports["nats"], accounts, NODES)
    doors: dict[str, Door] = {}
    names = [f"broker{number}" for number in range(brokers)]
    if nodes:
        for name in NODES:
            path = directory / name / "node.toml"
            path.write_text(f'store = "{server.create()}"\n' + path.read_text("utf-8"), "utf-8")
    async with aiohttp.ClientSession() as session:
        try:
            if not embedded:
                await bus.start()
            for number, name in enumerate(names):
                port = place.ports["broker"] if number == 0 else free_port()
                nats = own if embedded and number == 0 else external
                path = broker_toml(home, number, port, ledger, nats)
                await tree.start(name, "broker", "run", str(path))
                doors[name] = Door(session, f"http://127.0.0.1:{port}", place.tokens["broker"])
            await eventually(lambda: _ready(doors), "the brokers are ready", DEADLINE)
            # Not before: the invitations are of a region without those that were admitted after, and its quorum.
            for name in NODES:
                await tree.start(name, "node", "run", str(directory / name))
                doors[name] = Door(session, place.url(name), place.tokens[name])
            running = Brokers(place, tree, doors, session, server, ledger, names)
            await eventually(lambda: _ready(doors), "all are ready", DEADLINE)
            yield running
        finally:
            await tree.stop()
            await bus.stop()


async def _ready(doors: dict[str, Door]) -> bool:
    return all([await door.ready() for door in doors.values()])


__all__ = ["NODES", "Brokers", "Place", "several"]
