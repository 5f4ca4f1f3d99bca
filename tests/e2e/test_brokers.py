"""Several broker processes on one ledger: killed at any moment, and their database server restarted beneath them."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from broker import logstore, tables
from broker.reading import open_reader
from broker.store import Store
from deploy import cli
from protocol.merkle import root_of
from protocol.notes import parse_checkpoint, parse_note
from tests.e2e.brokers import NODES, Brokers, several
from tests.e2e.conftest import eventually
from tests.e2e.test_chaos import filing
from tests.postgresql import Server

ALL = {name: set(NODES) - {name} for name in NODES}


async def post(region: Brokers, member: str, numbers: range, accepted: dict[str, str]) -> None:
    """Post reports one after the other; a door that says 503 is asked again, as a client does."""
    for number in numbers:
        while True:
            answer = await region.doors[member].call("POST", "/v1/reports", filing(member, number))
            if answer.status != 503:
                break
            await asyncio.sleep(0.05)
        assert answer.status == 202, answer.body
        accepted[answer.body["report_id"]] = member
        await asyncio.sleep(0.02)


async def arrived(region: Brokers, accepted: dict[str, str]) -> bool:
    """Every inbox holds what it was granted."""
    for name in NODES:
        expected = {report for report, origin in accepted.items() if name in ALL[origin]}
        if {item["report_id"] for item in await region.inbox(name)} != expected:
            return False
    return True


async def witnessed(region: Brokers) -> bool:
    """Nothing waits for a receipt or a proof, at any node."""
    for name in NODES:
        log = await region.doors[name].get("/v1/log")
        backlog = await region.doors[name].get("/v1/backlog")
        if log["leaves"]["waiting"] or backlog["submissions"]:
            return False
    return True


async def load(region: Brokers, numbers: range, *beside: Callable[[], Any]) -> None:
    """Reports from every node with other things beside it; then every promise is looked at."""
    accepted = region.accepted
    async with asyncio.TaskGroup() as group:
        for member in NODES:
            group.create_task(post(region, member, numbers, accepted))
        for thing in beside:
            group.create_task(thing())
    assert len(accepted) == numbers.stop * len(NODES)
    await eventually(lambda: arrived(region, accepted), "all reports in all granted inboxes", 150)
    for name in NODES:
        found = [item["report_id"] for item in await region.inbox(name)]
        assert len(found) == len(set(found)), f"{name} holds a report twice"
    await eventually(lambda: witnessed(region), "all of it is proven", 150)
    for name in NODES:
        alarms = await region.doors[name].get("/v1/alarms")
        assert not alarms["alarms"], f"{name} rings: {alarms}"


def examine(region: Brokers, directory: Path) -> None:
    """The commands of an operator find nothing, leaves have no gap, and checkpoints are of one tree."""
    for name in ("broker", *NODES):
        place = directory / "broker" / "broker0.toml" if name == "broker" else directory / name
        said = io.StringIO()
        with redirect_stdout(said):
            code = cli.main(["broker" if name == "broker" else "node", "check", str(place)], log=False)
        assert code == 0, f"{name}: {said.getvalue()}"
    store = Store(open_reader(region.ledger))
    with store.reading() as connection:
        entries = logstore.entries_after(connection, 0, 1_000_000)
        rows = connection.execute(tables.checkpoints.select().order_by(tables.checkpoints.c.size)).all()
    store.close()
    assert rows[-1].size == len(entries)
    for row in rows:
        checkpoint = parse_checkpoint(parse_note(bytes(row.note).decode()).text)
        assert checkpoint.root == root_of(entries[: row.size]), f"the checkpoint of {row.size} is of another tree"


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("brokers", "embedded", "seed"), [(2, True, 1), (4, False, 2)])
async def test_kill_9_of_any_broker_at_any_moment_loses_nothing(
    tmp_path: Path, server: Server, brokers: int, embedded: bool, seed: int
) -> None:
    """Of two with the NATS server of one of them, and of four beside one; the one that sequences among them."""
    rng = random.Random(seed)
    async with several(tmp_path, server, brokers, embedded=embedded) as region:

        async def killer() -> None:
            for turn in range(6):
                await asyncio.sleep(rng.uniform(0.2, 1.0))
                leader = region.leader()
                region.kill(leader if turn % 3 == 0 and leader else rng.choice(region.names))

        await load(region, range(60), killer)
        decided = [name for name in region.names if '"broker.decided"' in region.said(name)]
        assert len(decided) > 1, f"only {decided} took part"
        assert "process.bug" not in "".join(map(region.said, (*region.names, *NODES)))
        await asyncio.to_thread(examine, region, tmp_path)


@pytest.mark.timeout(300)
async def test_another_takes_over_when_the_one_that_sequences_is_gone(tmp_path: Path, server: Server) -> None:
    """Killed, or cut off from the database: the log goes on, as one log."""
    async with several(tmp_path, server, 2, embedded=False) as region:
        await load(region, range(3))
        first, held = region.leader(), region.holder()
        assert first is not None
        region.tree.kept[first].arguments = ["--help"]
        region.kill(first)
        await load(region, range(3, 6))
        assert region.leader() != first
        assert region.holder() not in (None, held)
        held = region.holder()
        server.tell(f"SELECT pg_terminate_backend({held})")
        await load(region, range(6, 9))
        assert region.holder() not in (None, held)
        await asyncio.to_thread(examine, region, tmp_path)


@pytest.mark.timeout(400)
async def test_a_database_server_that_crashes_under_load_loses_nothing(tmp_path: Path, server: Server) -> None:
    """Brokers and nodes have their stores on it; all of them go on by themselves when it is back."""
    if not server.own:
        pytest.skip("the server of this run is not the tests' own: it is not crashed")
    async with several(tmp_path, server, 2, embedded=False, nodes=True) as region:

        async def crash() -> None:
            for _ in range(3):
                await asyncio.sleep(0.7)
                await asyncio.to_thread(server.restart)

        await load(region, range(60), crash)
        ended = {name: kept.restarts for name, kept in region.tree.kept.items() if kept.restarts}
        assert not ended, f"these had to be started again: {ended}"
        await asyncio.to_thread(examine, region, tmp_path)
