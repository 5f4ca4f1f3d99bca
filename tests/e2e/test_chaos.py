"""kill -9 at any moment, a bus that loses its store, a demonstration from start to end: with real processes."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from broker.setup import set_status
from deploy.demo.scenario import MEMBERS
from tests.e2e.conftest import Running, eventually

GRANTED = {"id": {"jp", "my", "sg", "vn"}, "jp": {"id", "my", "sg", "vn"}, "sg": {"jp", "my", "id", "vn"}}
"""By the example policies, everything that is TLP:GREEN from these reaches all of these."""


def filing(member: str, number: int) -> dict[str, Any]:
    """A small report."""
    return {
        "marking": {"tlp": "GREEN"},
        "rsit": [{"class": "malicious-code", "type": "infected-system"}],
        "severity": {"score": 50},
        "sectors": [{"code": "finance"}],
        "body": {"title": f"{member} {number}", "description": "CANARY-DESCRIPTION", "malware": ["x"]},
    }


async def _post_all(region: Running, member: str, numbers: range, accepted: dict[str, str]) -> None:
    for number in numbers:
        answer = await region.doors[member].call("POST", "/v1/reports", filing(member, number))
        assert answer.status == 202, answer.body
        accepted[answer.body["report_id"]] = member
        await asyncio.sleep(0.02)


async def _killer(region: Running, rng: random.Random, times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(rng.uniform(0.2, 1.2))
        victim = rng.choice([*MEMBERS, "broker", "broker", "nats", "nats"])
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(region.nats_pid() if victim == "nats" else region.pid(victim), signal.SIGKILL)


async def _arrived(region: Running, accepted: dict[str, str]) -> bool:
    for name in MEMBERS:
        expected = {report for report, origin in accepted.items() if name in GRANTED[origin]}
        if {item["report_id"] for item in await region.inbox(name)} != expected:
            return False
    return True


async def _check_once(region: Running, accepted: dict[str, str]) -> None:
    """Exactly once in each granted inbox, and known to the origin as received."""
    for name in MEMBERS:
        found = [item["report_id"] for item in await region.inbox(name)]
        assert len(found) == len(set(found)), f"{name} holds a report twice"
        assert set(found) == {report for report, origin in accepted.items() if name in GRANTED[origin]}


async def _origin_knows(region: Running, accepted: dict[str, str]) -> bool:
    for report, origin in accepted.items():
        status = await region.doors[origin].get(f"/v1/reports/{report}")
        recipients = status["revisions"][-1]["recipients"]
        for name in GRANTED[origin]:
            if not recipients.get(name, {}).get("confirmations"):
                return False
    return True


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
async def test_kill_9_at_any_moment_loses_nothing(region: Running, seed: int) -> None:
    """Nodes, broker and nats-server are killed while reports flow: every accepted report arrives once, everywhere."""
    rng = random.Random(seed)
    accepted: dict[str, str] = {}
    async with asyncio.TaskGroup() as group:
        for member in GRANTED:
            group.create_task(_post_all(region, member, range(60), accepted))
        group.create_task(_killer(region, rng, 10))
    assert len(accepted) == 60 * len(GRANTED)
    await eventually(lambda: _arrived(region, accepted), "all reports in all granted inboxes", 150)
    await _check_once(region, accepted)
    await eventually(lambda: _origin_knows(region, accepted), "origins know who has their reports", 150)


@pytest.mark.timeout(300)
async def test_deleting_the_bus_store_while_all_is_running_loses_nothing(region: Running) -> None:
    """The NATS store directory is deleted twice while reports flow: nothing accepted is lost."""
    accepted: dict[str, str] = {}
    store = region.place.directory / "broker" / "data" / "nats" / "jetstream"

    async def vandal() -> None:
        for _ in range(2):
            await asyncio.sleep(0.7)
            shutil.rmtree(store, ignore_errors=True)

    async with asyncio.TaskGroup() as group:
        for member in GRANTED:
            group.create_task(_post_all(region, member, range(60), accepted))
        group.create_task(vandal())
    await eventually(lambda: _arrived(region, accepted), "all reports in all granted inboxes", 150)
    await _check_once(region, accepted)


@pytest.mark.timeout(200)
async def test_a_node_accepts_while_the_broker_is_away(region: Running) -> None:
    """202 needs no link: what is posted while the broker is stopped arrives when it is back."""
    accepted: dict[str, str] = {}
    os.kill(region.pid("broker"), signal.SIGSTOP)
    try:
        await _post_all(region, "id", range(5), accepted)
        backlog = await region.doors["id"].get("/v1/backlog")
        assert backlog["reports"] >= 1, "the backlog is visible"
    finally:
        os.kill(region.pid("broker"), signal.SIGCONT)
    await eventually(lambda: _arrived(region, accepted), "what was posted meanwhile arrives")
    await _check_once(region, accepted)


@pytest.mark.timeout(200)
async def test_content_is_in_no_log_and_no_metric(region: Running) -> None:
    """A canary in a withheld field: in no log line, no metric and no status of broker or nodes."""
    accepted: dict[str, str] = {}
    await _post_all(region, "jp", range(3), accepted)
    await eventually(lambda: _arrived(region, accepted), "arrival")
    for log in (region.place.directory / "logs").iterdir():
        assert "CANARY" not in log.read_text(), log.name
    for name, door in region.doors.items():
        async with region.session.get(door.url + "/metrics") as answer:
            assert "CANARY" not in await answer.text(), name
    for name in MEMBERS:
        if name != "jp":
            assert "CANARY" not in str(await region.inbox(name)), "japan's policy withholds descriptions"
    ledger = (region.place.directory / "broker" / "data").glob("ledger.db*")
    assert all(b"CANARY" not in file.read_bytes() for file in ledger), "what never leaves is not at the broker"


@pytest.mark.timeout(200)
async def test_suspending_a_member_cuts_it_off_and_resuming_delivers(region: Running) -> None:
    """A suspended member's link is cut and nothing reaches it; when it is resumed, it gets what policy grants."""
    home = region.place.directory / "broker"
    await asyncio.to_thread(set_status, home, "vn", "suspended")

    async def cut() -> bool:
        return not (await region.doors["vn"].call("GET", "/readyz")).body["ready"]

    await eventually(cut, "the link of the suspended member is cut")
    accepted: dict[str, str] = {}
    await _post_all(region, "id", range(2), accepted)

    async def others_have_it() -> bool:
        return {item["report_id"] for item in await region.inbox("jp")} == set(accepted)

    await eventually(others_have_it, "the others get it")
    assert await region.inbox("vn") == []
    # The recipients may have their deliveries before the origin has its receipt.
    whys: list[tuple[str, str]] = []

    async def told() -> bool:
        status = await region.doors["id"].get(f"/v1/reports/{next(iter(accepted))}")
        said = status["revisions"][0]["recipients"].get("vn")
        whys[:] = [(item["gate"], item["reason"]) for item in said["withheld"]] if said else []
        return bool(whys)

    await eventually(told, "the origin has its receipt")
    assert whys[0] == ("region", "member-suspended"), "the origin is told why"
    await asyncio.to_thread(set_status, home, "vn", "active")

    async def back() -> bool:
        return bool((await region.doors["vn"].call("GET", "/readyz")).body["ready"])

    await eventually(back, "the resumed member is connected again")
    await _post_all(region, "id", range(2, 3), accepted)

    async def gets_the_new_one() -> bool:
        return len(await region.inbox("vn")) == 1

    await eventually(gets_the_new_one, "it receives again")


@pytest.mark.timeout(300)
async def test_the_demonstration_ends_well(tmp_path: Path) -> None:
    """`kentongan demo` ends with exit code 0, everything confirmed, and writes demo.json."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deploy.cli",
        "demo",
        "--data",
        str(tmp_path / "demo"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "160"},
    )
    out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    assert (tmp_path / "demo" / "demo.json").exists()
    for expected in ("no-foreign-persons", "signature-invalid", "duplicate-content", "wannacry-2017", "not named"):
        assert expected in text
    assert "CANARY" not in text
