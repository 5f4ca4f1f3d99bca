"""An auditor's node in a real region: over the real bus, through HTTP and the command, with members' evidence."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import broker.setup
from deploy import cli
from deploy.demo.processes import free_port
from deploy.demo.region import Place, make, start
from tests.e2e.conftest import Running, eventually
from tests.e2e.test_liar import LyingTree

FILING = {
    "marking": {"tlp": "GREEN"},
    "rsit": [{"class": "malicious-code", "type": "infected-system"}],
    "severity": {"score": 50},
    "sectors": [{"code": "finance"}],
    "body": {"title": "Canary", "description": "What happened."},
}


def command(*arguments: str) -> tuple[int, str, str]:
    """Run a command as an operator would; its exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(list(arguments), log=False)
    return code, out.getvalue(), err.getvalue()


def add_auditor(place: Place) -> None:
    """Indonesia's ministry, with a node of its own that the trustees admit as an auditor."""
    node, home = place.directory / "id-audit", place.directory / "broker"
    place.ports["id-audit"] = free_port()
    said = command(
        "node", "init", str(node), "--member", "id-audit", "--name", "Ministry", "--role", "auditor",
        "--port", str(place.ports["id-audit"]),
    )[1]  # fmt: skip
    place.tokens["id-audit"] = next(line.rsplit(" ", 1)[1] for line in said.splitlines() if "token" in line)
    invitation = place.directory / "id-audit-invitation.json"
    broker.setup.admit(home, node / "member.json", [], invitation)
    assert command("node", "join", str(node), str(invitation))[0] == 0


@pytest.fixture
async def region(tmp_path: Path) -> AsyncIterator[Running]:
    tree = LyingTree(tmp_path / "logs")
    async with aiohttp.ClientSession() as session:
        try:
            place = await asyncio.to_thread(make, tmp_path, 0, ("id", "jp"))
            await asyncio.to_thread(add_auditor, place)
            doors = await start(place, tree, session)
            yield Running(place, tree, doors, session)
        finally:
            await tree.stop()


@pytest.mark.timeout(200)
async def test_an_auditor_asks_who_got_what(region: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees what its jurisdiction sent and received, verified; nobody else may ask, and nothing of it is content."""
    ids = {}
    for name in ("id", "jp"):
        answer = await region.doors[name].call("POST", "/v1/reports", FILING)
        assert answer.status == 202
        ids[name] = answer.body["report_id"]

    async def lines() -> list[dict[str, Any]]:
        page = await region.doors["id-audit"].get("/v1/audit")
        assert page["faults"] == []
        return list(page["lines"])

    async def all_is_there() -> bool:
        found = [line for line in await lines() if line.get("member") in ("id", "jp")]
        return len(found) == 2 and all(line["log"] == "proven" and line["state"] == "received" for line in found)

    await eventually(all_is_there, "two reports are confirmed and proven")
    found = {line["direction"]: line for line in await lines() if line.get("member") in ("id", "jp")}
    assert {way: (line["report_id"], line["member"]) for way, line in found.items()} == {
        "sent": (ids["id"], "jp"),
        "received": (ids["jp"], "id"),
    }
    assert "Canary" not in json.dumps(await lines())
    refused = await region.doors["jp"].call("GET", "/v1/audit")
    assert (refused.status, refused.body["reason"]) == (403, "not-allowed")
    # The ministry has a policy file as every node has, and sets no policy with it.
    ready = await region.doors["id-audit"].get("/readyz")
    assert (ready["ready"], ready["policy"]) == (True, "ok")

    monkeypatch.setenv("KENTONGAN_TOKEN", region.place.tokens["id-audit"])
    node = str(region.place.directory / "id-audit")

    async def audit(*arguments: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(command, "node", "audit", node, *arguments)

    code, out, err = await audit("--format", "csv", "--recipient", "jp")
    assert code == 0, err
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["report_id"], row["member"], row["log"], row["faults"]) == (ids["id"], "jp", "proven", "")
    assert re.search(r"^1 lines of id, id-audit: 2 of the \d+ entries", err)
    code, out, err = await audit("--report", ids["id"], "--from", "2026-01-01T00:00:00Z")
    assert code == 0
    assert f"{ids['id']} rev 1  id -> jp  granted  received" in out
    await held(region, audit, ids)


async def held(region: Running, audit: Any, ids: dict[str, str]) -> None:
    """The CERT's evidence beside it: all of it is shown; and what a broker signed can be kept."""
    files = [region.place.directory / f"{name}.evidence.json" for name in ids]
    for name, file in zip(ids, files, strict=True):
        arguments: Sequence[str] = ("evidence", str(region.place.directory / "id"), ids[name], "--out", str(file))
        assert (await asyncio.to_thread(command, *arguments))[0] == 0
    kept = region.place.directory / "kept.ndjson"
    code, out, err = await audit("--format", "json", "--held", *map(str, files), "--keep", str(kept))
    assert (code, "All that is shown holds." in err) == (0, True), err
    assert {json.loads(line)["report_id"] for line in out.splitlines()} == set(ids.values())
    assert [json.loads(line)["answer"].count("\n") for line in kept.read_text().splitlines()] == [1, 1, 1]
    trust = str(region.place.directory / "id-audit-invitation.json")
    code, out, _ = await asyncio.to_thread(command, "verify", str(kept), "--trust", trust)
    assert (code, "those that concern id, id-audit are" in out) == (0, True)
    # And a broker that leaves something out, or changes it, is caught by the command.
    lie = region.place.directory / "broker" / "lie"
    for what, reason in (("hide", "left-out"), ("mute", "left-out"), ("line", "proof-invalid")):
        lie.write_text(what)
        code, out, err = await audit("--held", *map(str, files))
        assert code == 1, what
        assert reason in out + err
    lie.unlink()
    assert (await audit("--held", *map(str, files)))[0] == 0
