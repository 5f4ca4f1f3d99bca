"""A jurisdiction changes its sharing policy while the region runs: signed, for everybody, from now on."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Running, eventually
from tests.e2e.test_chaos import filing


def _next_version(path: Path, version: int, deny: str, starts: datetime | None = None) -> None:
    """Write a policy file with one more deny rule."""
    at = (starts or datetime.now(UTC)).isoformat()
    text = path.read_text("utf-8").replace(f"version = {version - 1}\n", f"version = {version}\n")
    lines = [f"effective_from = {at}" if line.startswith("effective_from") else line for line in text.splitlines()]
    path.write_text("\n".join([*lines, deny]) + "\n", "utf-8")


NOTHING_TO_JP = '\n[[export]]\nid = "nothing-to-jp"\neffect = "deny"\nbecause = "A test."\nto = ["jp"]\n'


async def _published(region: Running, member: str, version: int) -> bool:
    log = (region.place.directory / "logs" / f"{member}.log").read_text()
    return f'"version": {version}' in log and "node.policy_published" in log.rsplit(f'"version": {version}', 1)[1][:200]


@pytest.mark.timeout(200)
async def test_a_changed_policy_applies_from_now_on_and_stops_what_is_queued(region: Running) -> None:
    """What waits for an offline node is taken back when its origin tightens the policy; the origin reads why."""
    path = region.place.directory / "id" / "policy.toml"
    os.kill(region.pid("jp"), signal.SIGSTOP)
    try:
        queued = await region.doors["id"].call("POST", "/v1/reports", filing("id", 1))
        report = queued.body["report_id"]

        async def granted() -> bool:
            status = await region.doors["id"].get(f"/v1/reports/{report}")
            return bool(status["revisions"][0]["recipients"].get("jp", {}).get("granted"))

        await eventually(granted, "the report is decided, and granted to Japan")
        _next_version(path, 2, NOTHING_TO_JP)

        async def stopped() -> bool:
            status = await region.doors["id"].get(f"/v1/reports/{report}")
            said = status["revisions"][0]["recipients"]["jp"].get("confirmations", [])
            return any(item["state"] == "stopped" and "nothing-to-jp" in str(item) for item in said)

        await eventually(stopped, "the origin reads that it was stopped, by which rule")
    finally:
        os.kill(region.pid("jp"), signal.SIGCONT)
    after = await region.doors["id"].call("POST", "/v1/reports", filing("id", 2))

    async def my_has_both() -> bool:
        return {item["report_id"] for item in await region.inbox("my")} >= {report, after.body["report_id"]}

    await eventually(my_has_both, "others still get both")
    other = await region.doors["sg"].call("POST", "/v1/reports", filing("sg", 3))

    async def jp_is_awake() -> bool:
        return other.body["report_id"] in {item["report_id"] for item in await region.inbox("jp")}

    await eventually(jp_is_awake, "Japan receives what is still granted to it")
    assert {item["origin"]["member"] for item in await region.inbox("jp")} == {"sg"}
    status = await region.doors["id"].get(f"/v1/reports/{after.body['report_id']}")
    (withheld,) = status["revisions"][0]["recipients"]["jp"]["withheld"]
    assert (withheld["document"], withheld["rule"]) == ("id/2", "nothing-to-jp")


@pytest.mark.timeout(200)
async def test_a_policy_for_later_leaves_the_present_one_in_force(region: Running) -> None:
    """A version with a future date changes nothing before it; one for the past is refused and says so."""
    path = region.place.directory / "sg" / "policy.toml"
    _next_version(path, 2, NOTHING_TO_JP, datetime.now(UTC) + timedelta(days=30))
    log = region.place.directory / "logs" / "broker.log"

    async def at_the_broker() -> bool:
        return '"jurisdiction": "sg", "version": 2' in await asyncio.to_thread(log.read_text)

    await eventually(at_the_broker, "the broker has version 2")
    answer = await region.doors["sg"].call("POST", "/v1/reports", filing("sg", 1))

    async def jp_has_it() -> bool:
        return answer.body["report_id"] in {item["report_id"] for item in await region.inbox("jp")}

    await eventually(jp_has_it, "version 1 is still in force")
    _next_version(path, 3, "", datetime.now(UTC) - timedelta(days=1))

    async def refused() -> bool:
        ready = await region.doors["sg"].call("GET", "/readyz")
        return "effective-in-the-past" in str(ready.body["policy"])

    await eventually(refused, "the operator is told that a change cannot apply to the past")


@pytest.mark.timeout(200)
async def test_somebody_new_can_read_why_japan_gets_it_and_viet_nam_does_not(region: Running) -> None:
    """Asked before anything is filed, in two languages; the answer is what then happens."""
    report = {**filing("my", 1), "marking": {"tlp": "AMBER"}}

    async def explain(language: str) -> dict[str, Any]:
        answer = await region.doors["my"].call("POST", f"/v1/policy/explain?lang={language}", report)
        assert answer.status == 200, answer.body
        return {item["jurisdiction"]: item for item in answer.body["recipients"]}

    async def policies_are_known() -> bool:
        found = await explain("en")
        return all(found[name]["granted"] for name in ("id", "jp", "sg"))

    await eventually(policies_are_known, "every country's policy is published")
    found = await explain("en")
    assert "amber-japan-technical" in str(found["jp"]["says"])
    assert "Japan analyses malware for the region." in str(found["jp"]["says"])
    assert not found["vn"]["granted"]
    assert "Viet Nam" in found["vn"]["says"]["headline"]
    assert "description" in {item["unit"] for item in found["jp"]["withheld"]}
    assert "CANARY" not in str(found), "an explanation holds nothing of the report"
    japanese = await explain("ja")
    assert japanese["vn"]["says"]["headline"] != found["vn"]["says"]["headline"]
    assert await region.doors["my"].get("/v1/reports") == {"reports": [], "next": 0}, "nothing was filed"
    wrong = await region.doors["my"].call("POST", "/v1/policy/explain?lang=xx", report)
    assert (wrong.status, wrong.body["reason"]) == (422, "unknown-value")

    filed = await region.doors["my"].call("POST", "/v1/reports", report)

    async def decided() -> dict[str, Any]:
        status = await region.doors["my"].get(f"/v1/reports/{filed.body['report_id']}")
        recipients: dict[str, Any] = status["revisions"][0]["recipients"]
        return recipients

    async def is_decided() -> bool:
        return bool(await decided())

    await eventually(is_decided, "the broker has decided")
    told = await decided()
    for name in ("id", "jp", "sg", "vn"):
        assert told[name]["granted"] == found[name]["granted"], name


@pytest.mark.timeout(200)
async def test_a_policy_whose_examples_fail_is_not_published(region: Running) -> None:
    """Its author said what must come out; until it does, the old version stays in force, and the operator is told."""
    path = region.place.directory / "my" / "policy.toml"
    example = """
[[example]]
name = "Japan gets what is green"
report = { marking = { tlp = "GREEN" }, rsit = [{ class = "fraud" }], body = { title = "x" } }
expect = [{ to = "jp", granted = true }]
"""
    path.with_name("policy.examples.toml").write_text(example, "utf-8")
    _next_version(path, 2, NOTHING_TO_JP)

    async def refused() -> bool:
        ready = await region.doors["my"].call("GET", "/readyz")
        return "not published" in str(ready.body["policy"]) and "Japan gets what is green" in str(ready.body["policy"])

    await eventually(refused, "the operator reads which example failed")
    answer = await region.doors["my"].call("POST", "/v1/reports", filing("my", 1))

    async def jp_has_it() -> bool:
        return answer.body["report_id"] in {item["report_id"] for item in await region.inbox("jp")}

    await eventually(jp_has_it, "version 1 is still in force")
