"""A report ends, by withdrawal or by its own time, while a recipient is away: with real processes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.conftest import Running, eventually

CANARY = "CANARY-7c41"
AWAY = "jp"


def filing(title: str, **changes: Any) -> dict[str, Any]:
    """A report that goes to everybody."""
    return {
        "marking": {"tlp": "GREEN"},
        "rsit": [{"class": "malicious-code", "type": "infected-system"}],
        "severity": {"score": 50},
        "sectors": [{"code": "finance"}],
        "body": {"title": f"{title} {CANARY}", "malware": [f"{title}-{CANARY}"]},
    } | changes


def soon(seconds: float) -> dict[str, Any]:
    """Handling that ends a report in a moment."""
    return {"handling": {"expires_at": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}}


async def _file(region: Running, document: dict[str, Any]) -> str:
    answer = await region.doors["id"].call("POST", "/v1/reports", document)
    assert answer.status == 202, answer.body
    return str(answer.body["report_id"])


async def _withdraw(region: Running, report: str) -> None:
    document = filing("The end") | {"report_id": report, "revision": 2, "phase": "withdrawn"}
    document["body"] = {"title": "Withdrawn"}
    await _file(region, document)


async def _state(region: Running, report: str, member: str, revision: int = 0) -> str:
    shown = await region.doors["id"].get(f"/v1/reports/{report}")
    return str(shown["revisions"][revision]["recipients"].get(member, {}).get("state"))


async def _held_by(region: Running, report: str) -> list[str]:
    shown = await region.doors["id"].get(f"/v1/reports/{report}")
    return sorted({name for revision in shown["revisions"] for name in revision.get("still_held_by", [])})


def _canary_in(region: Running, name: str, title: str) -> bool:
    files = (region.place.directory / name / "data").glob("node.db*")
    return any(f"{title}-{CANARY}".encode() in file.read_bytes() for file in files)


async def _is(region: Running, report: str, member: str, *states: str, revision: int = 0) -> None:
    async def so() -> bool:
        return await _state(region, report, member, revision) in states

    await eventually(so, f"{member} is {states} for {report}")


@pytest.mark.timeout(200)
async def test_it_ends_while_a_recipient_that_has_it_is_away(region: Running) -> None:
    """It erases both when it is back, and says so; until then the origin reads who still holds what."""
    withdrawn = await _file(region, filing("withdrawn"))
    expiring = await _file(region, filing("expiring") | soon(12))
    for report in (withdrawn, expiring):
        await _is(region, report, AWAY, "received")
    await region.tree.kill(AWAY)
    assert _canary_in(region, AWAY, "withdrawn"), "the canaries sing"
    assert _canary_in(region, AWAY, "expiring")
    await _withdraw(region, withdrawn)

    async def only_the_one_who_is_away_holds_them() -> bool:
        return await _held_by(region, withdrawn) == [AWAY] == await _held_by(region, expiring)

    await eventually(only_the_one_who_is_away_holds_them, "all others have erased both")
    region.tree.revive(AWAY)

    async def nobody_holds_them() -> bool:
        return await _held_by(region, withdrawn) == [] == await _held_by(region, expiring)

    await eventually(nobody_holds_them, "the one who was away has erased both, and said so")
    shown = {item["report_id"]: item for item in await region.inbox(AWAY) if item["revision"] == 1}
    assert shown[withdrawn]["withdrawn"] is True
    assert shown[expiring]["expired"] is True
    assert CANARY not in str(shown)

    async def no_byte_is_left() -> bool:
        return not _canary_in(region, AWAY, "withdrawn") and not _canary_in(region, AWAY, "expiring")

    await eventually(no_byte_is_left, "no byte of it is left in its files")


@pytest.mark.timeout(200)
async def test_it_ends_while_a_recipient_that_never_had_it_is_away(region: Running) -> None:
    """It gets the withdrawal alone, and of what expired nothing; the origin reads what became of both."""
    await region.tree.kill(AWAY)
    withdrawn = await _file(region, filing("withdrawn"))
    expiring = await _file(region, filing("expiring") | soon(8))
    for report in (withdrawn, expiring):
        await _is(region, report, AWAY, "delivered", "stopped", "expired")
    await _withdraw(region, withdrawn)
    for report, states in ((withdrawn, ("stopped",)), (expiring, ("stopped", "expired"))):
        await _is(region, report, AWAY, *states)
    region.tree.revive(AWAY)
    await _is(region, withdrawn, AWAY, "received", revision=1)
    shown = [(item["report_id"], item["revision"]) for item in await region.inbox(AWAY)]
    assert shown == [(withdrawn, 2)]
    assert not _canary_in(region, AWAY, "withdrawn")
    assert not _canary_in(region, AWAY, "expiring")
