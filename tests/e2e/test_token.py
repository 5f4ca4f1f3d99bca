"""Several broker processes on one ledger, with one signing key in one token."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import aiohttp
import msgspec

from broker.accounts import Accounts
from broker.natsd import EmbeddedNats
from broker.ownkey import present_kid
from deploy.demo.client import Door
from deploy.demo.processes import Tree, free_port
from protocol import subjects
from protocol.bus import NatsBus
from protocol.jws import split_jws
from protocol.statements import Receipt
from protocol.subjects import Kind
from tests.broker.test_token import settle
from tests.e2e.brokers import broker_toml
from tests.e2e.conftest import eventually
from tests.postgresql import Server
from tests.softhsm import Token

NAMES = ("broker0", "broker1")


async def test_processes_share_a_token(token: Token, server: Server, tmp_path: Path) -> None:
    """Each has its own login; both sign, each submission once."""
    place = await asyncio.to_thread(settle, tmp_path, token.uri("shared"))
    accounts = Accounts.load(place.home / "keys" / "nats")
    creds = place.home / "shared.creds"
    creds.write_text(accounts.broker_creds(int(time.time())), "ascii")
    creds.chmod(0o600)
    server_of_bus = EmbeddedNats(place.home / "bus", 0, accounts, ["id-cert"])
    tree, ledger = Tree(tmp_path / "logs"), server.create()
    async with aiohttp.ClientSession() as session:
        try:
            await server_of_bus.start()
            external = f'[nats]\nmode = "external"\nurl = "{server_of_bus.url}"\ncreds = "shared.creds"\n'
            doors = []
            for number, name in enumerate(NAMES):
                port = free_port()
                await tree.start(name, "broker", "run", str(broker_toml(place.home, number, port, ledger, external)))
                doors.append(Door(session, f"http://127.0.0.1:{port}", place.secret))

            async def ready() -> bool:
                return all([await door.ready() for door in doors])

            await eventually(ready, "the brokers are ready")
            stream = subjects.inbox_stream("id-cert")
            bus = await NatsBus.connect(
                server_of_bus.url, creds=place.creds, name="node", stream=stream, consumer=subjects.NODE_CONSUMER
            )
            receipts: list[str] = []

            async def both() -> bool:
                for _ in range(10):
                    text = f"nonsense {time.monotonic_ns()}"
                    await bus.publish(subjects.INTAKE, Kind.SUBMISSION, text.encode())
                while len(receipts) % 10 or not receipts:
                    for message in await bus.pull(10, 5.0):
                        receipts.extend(msgspec.json.decode(message.data) if message.kind == Kind.RECEIPTS else [])
                        await bus.ack([message])
                return all('"broker.decided"' in tree.kept[name].log.read_text() for name in NAMES)

            await eventually(both, "both have decided")
            await bus.close()
        finally:
            await tree.stop()
            await server_of_bus.stop()
    assert {split_jws(one, Receipt.typ).kid for one in receipts} == {present_kid(place.config)}
    decided = [
        json.loads(line)["submission"]
        for name in NAMES
        for line in tree.kept[name].log.read_text().splitlines()
        if '"broker.decided"' in line
    ]
    assert len(decided) == len(set(decided)) == len(receipts)
