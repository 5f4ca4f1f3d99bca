"""A broker that lies is caught by the nodes: real processes, real keys, one lie a test (`tests/e2e/liar.py`)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy.demo.processes import Kept, Tree
from deploy.demo.region import make, start
from tests.e2e.conftest import Running, eventually

MEMBERS = ("id", "jp", "sg")


class LyingTree(Tree):
    """The region's processes, with a broker that can lie."""

    def program(self, kept: Kept) -> str:
        return "tests.e2e.liar" if kept.name == "broker" else super().program(kept)


class Lying(Running):
    """A running region whose broker lies when told to."""

    def lie(self, lie: str) -> None:
        (self.place.directory / "broker" / "lie").write_text(lie)

    async def alarms(self, name: str) -> set[str]:
        """The reasons of a node's open alarms."""
        answer = await self.doors[name].get("/v1/alarms")
        return {item["reason"] for item in answer["alarms"]}

    async def post(self, name: str, title: str, **changes: Any) -> str:
        """File a report; its id."""
        answer = await self.doors[name].call("POST", "/v1/reports", filing(title) | changes)
        assert answer.status == 202, answer.body
        return str(answer.body["report_id"])

    async def proven(self, name: str, report: str) -> bool:
        """Whether an own report's receipt is proven to be in the log."""
        shown = await self.doors[name].get(f"/v1/reports/{report}")
        return bool((shown["revisions"][0]["proof"] or {}).get("state") == "proven")

    async def post_proven(self, name: str, title: str) -> str:
        """File a report, and wait for its proof; its id."""
        report = await self.post(name, title)

        async def is_proven() -> bool:
            return await self.proven(name, report)

        await eventually(is_proven, f"{title} is proven")
        return report

    async def until_alarm(self, name: str, reason: str) -> None:
        async def rings() -> bool:
            return reason in await self.alarms(name)

        await eventually(rings, f"{name} finds {reason}")


def filing(title: str) -> dict[str, Any]:
    return {
        "marking": {"tlp": "GREEN"},
        "rsit": [{"class": "malicious-code", "type": "infected-system"}],
        "severity": {"score": 50},
        "sectors": [{"code": "finance"}],
        "body": {
            "title": title,
            "description": "What happened.",
            "malware": ["x"],
            "victim": {"name": "A bank", "sector": "finance.banking"},
            "services": ["payments"],
            "geo": {"country": "id", "city": "Bandung"},
        },
    }


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Lying]:
    """Three nodes and the broker, honest so far: one report is everywhere, and proven."""
    tree = LyingTree(tmp_path / "logs")
    async with aiohttp.ClientSession() as session:
        try:
            place = await asyncio.to_thread(make, tmp_path, 0, MEMBERS)
            for name in MEMBERS:
                file = tmp_path / name / "node.toml"
                text, count = re.subn(
                    r"^(\w+)_minutes = .*$", r"\1_minutes = 0.1", file.read_text(), flags=re.MULTILINE
                )
                assert count >= 3
                file.write_text(text)
            doors = await start(place, tree, session)
            found = Lying(place, tree, doors, session)
            await found.post_proven("id", "The first")
            for name in MEMBERS:
                assert await found.alarms(name) == set(), name
            yield found
        finally:
            await tree.stop()


@pytest.mark.timeout(200)
async def test_a_dropped_report_is_missed(region: Lying) -> None:
    """No receipt while the broker answers everything else: its origin rings."""
    region.lie("drop")
    await region.post("id", "Dropped")
    await region.until_alarm("id", "receipt-overdue")


@pytest.mark.timeout(200)
async def test_a_report_that_is_not_passed_on_is_seen_by_its_origin(region: Lying) -> None:
    """Receipted, logged, granted, and never sent: the recipient's own word is what is missing."""
    region.lie("withhold")
    report = await region.post("id", "Withheld")

    async def other_has_it() -> bool:
        return any(item["report_id"] == report for item in await region.inbox("sg"))

    await eventually(other_has_it, "the other one gets it")
    said: dict[str, Any] = {}

    async def other_has_said_so() -> bool:
        shown = await region.doors["id"].get(f"/v1/reports/{report}")
        said.update(shown["revisions"][0]["recipients"])
        return bool(said.get("sg", {}).get("state") == "received")

    await eventually(other_has_said_so, "the other one's word is here")
    assert said["jp"]["granted"] is True
    assert said["jp"]["state"] == "queued"


@pytest.mark.timeout(200)
async def test_reordered_leaves_are_found(region: Lying) -> None:
    """Each receipt says at which leaf it stands: whoever was moved sees it."""
    region.lie("reorder")
    await asyncio.gather(region.post("id", "One"), region.post("sg", "Two"))
    await region.until_alarm("id", "leaf-missing")
    await region.until_alarm("sg", "leaf-missing")


@pytest.mark.timeout(200)
async def test_a_leaf_that_is_not_what_was_promised_is_found(region: Lying) -> None:
    """By the origin, and by the recipients of what it is about."""
    region.lie("leaf")
    await region.post("id", "One")
    for name in MEMBERS:
        await region.until_alarm(name, "leaf-missing")


@pytest.mark.timeout(200)
async def test_a_log_that_stands_still_is_found(region: Lying) -> None:
    """Receipts are given out, and no checkpoint ever covers them."""
    region.lie("stall")
    await region.post("id", "One")
    await region.until_alarm("id", "log-stalled")


@pytest.mark.timeout(200)
async def test_a_fork_for_one_member_is_found(region: Lying) -> None:
    """It continues all that the member has seen; and does not agree with what the others have cosigned."""
    region.lie("fork")
    # What the victim is asking at this moment is still answered with the truth: the fork begins after it.
    for title in ("One", "Two"):
        await region.post_proven("id", title)
    await region.until_alarm("jp", "log-forked")
    for name in ("id", "sg"):
        assert "log-forked" not in await region.alarms(name)


@pytest.mark.timeout(200)
async def test_a_member_that_is_kept_on_a_fork_alone_is_warned(region: Lying) -> None:
    """Nothing that contradicts it is ever shown; but no other witness cosigns it either."""
    region.lie("split")
    for title in ("One", "Two"):
        await region.post_proven("id", title)
    await region.until_alarm("jp", "not-witnessed")


@pytest.mark.timeout(200)
async def test_a_changed_receipt_is_found(region: Lying) -> None:
    """What the origin is told is not what stands in the log."""
    region.lie("receipt")
    await region.post("id", "One")
    await region.until_alarm("id", "leaf-missing")


@pytest.mark.timeout(200)
async def test_a_field_too_much_is_not_taken(region: Lying) -> None:
    """More was delivered than the log says was granted: refused, with an alarm, and the origin reads why."""
    region.lie("field")
    report = await region.post("id", "One")
    await region.until_alarm("jp", "not-granted")
    assert all(item["report_id"] != report for item in await region.inbox("jp"))

    async def told() -> bool:
        shown = await region.doors["id"].get(f"/v1/reports/{report}")
        return bool(shown["revisions"][0]["recipients"].get("jp", {}).get("state") == "refused")

    await eventually(told, "the origin reads the refusal")


@pytest.mark.timeout(200)
async def test_a_grant_too_much_is_found_by_the_origin(region: Lying) -> None:
    """The log agrees with the delivery; the origin's own policy does not agree with the log."""
    region.lie("grant")
    await region.post("id", "One")
    await region.until_alarm("id", "granted-too-much")


@pytest.mark.timeout(200)
async def test_a_forged_withdrawal_takes_nothing_back(region: Lying) -> None:
    """Only its origin's signature ends a report."""
    region.lie("withdrawal")
    report = await region.post("id", "One")
    await region.until_alarm("jp", "signature-invalid")
    (held,) = [item for item in await region.inbox("jp") if item["report_id"] == report]
    assert held["withdrawn"] is False
    assert held["report"]["body"]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("lie", ["ghost", "swap", "forged"])
async def test_a_member_or_a_key_that_the_trustees_did_not_sign_is_not_taken(region: Lying, lie: str) -> None:
    """A member, a sealing key, or a whole record of the broker's own: refused, with an alarm; what was, stays."""
    region.lie(lie)
    os.kill(region.pid("sg"), signal.SIGKILL)
    await region.until_alarm("sg", "region-not-governed")
    ghostly = filing("For a ghost") | {"marking": {"tlp": "AMBER", "recipients": ["gh"]}}
    refused = await region.doors["sg"].call("POST", "/v1/reports", ghostly)
    assert (refused.status, refused.body["reason"]) == (422, "unknown-recipient")
    secret = filing("Sealed") | {"marking": {"tlp": "RED", "recipients": ["jp"]}}
    answer = await region.doors["sg"].call("POST", "/v1/reports", secret)
    assert answer.status == 202, answer.body

    async def opened() -> bool:
        return any(
            item["report_id"] == answer.body["report_id"] and item["report"] is not None
            for item in await region.inbox("jp")
        )

    await eventually(opened, "the recipient opens what was sealed to its own key")
