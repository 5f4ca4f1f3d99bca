"""The guides for connecting tools: their lines are run as they stand, against a running node."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from protocol.report import Filing
from tests.node.conftest import Running
from tests.node.world import TOKEN, Broker, foreign, released

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDES = ROOT / "docs" / "connect"


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (GUIDES / name).read_text("utf-8"), re.DOTALL | re.MULTILINE)


async def run(node: Running, place: Path, *command: str, stdin: str = "", **environment: str) -> str:
    """Run something that must end well, as a user of the guide would."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=place,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "KENTONGAN_URL": node.node.url,
            "KENTONGAN_TOKEN": TOKEN,
            **environment,
        },
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode == 0, err.decode() + out.decode()
    return out.decode() + err.decode()


async def receive(node: Running, broker: Broker) -> None:
    node.bus.inbox.append(broker.delivery(released(foreign())))
    await node.bus.until(lambda: not node.bus.inbox and not node.bus.unacked)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
async def test_curl(node: Running, broker: Broker, tmp_path: Path) -> None:
    """Every line that is curl's; those of `kentongan` are parsed by the test of all documents."""
    await receive(node, broker)
    lines = [
        block
        for block in blocks("curl.md", "sh")
        if "KENTONGAN_URL=http" not in block and "kentongan report" not in block
    ]
    out = await run(node, tmp_path, "bash", "-euo", "pipefail", "-c", "\n".join(lines))
    own = (await node.get("/v1/reports"))["reports"]
    assert len(own) == 2
    assert own[0]["report_id"] in out
    assert "1\t422\tunknown-value\t$[1].marking.tlp" in out
    assert "recipients-required\n$.marking" in out
    assert "report.received" in out
    assert (await node.get("/v1/inbox"))["reports"][0]["state"] == "read"
    assert oct((tmp_path / "kentongan.curl").stat().st_mode)[-3:] == "600"


async def test_python(node: Running, broker: Broker, tmp_path: Path) -> None:
    """Each block is a whole program."""
    await receive(node, broker)
    for number, block in enumerate(blocks("python.md", "python")):
        (tmp_path / f"{number}.py").write_text(block)
    out = await run(node, tmp_path, sys.executable, "0.py")
    assert "422 recipients-required $.marking" in out
    assert "2 out-of-range at $.severity.score" in out
    assert (await node.get("/v1/inbox"))["reports"][0]["state"] == "read"
    await run(node, tmp_path, sys.executable, "1.py")
    last = int(
        (await run(node, tmp_path, sys.executable, "2.py", EVENTS="2"), (tmp_path / "last-event").read_text())[1]
    )
    assert last == 2
    assert len((await node.get("/v1/reports"))["reports"]) == 3


async def test_intelmq(node: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bridge files the event that the guide shows, as IntelMQ's bot posts it, and once however often it comes."""
    monkeypatch.setenv("KENTONGAN_URL", node.node.url)
    monkeypatch.setenv("KENTONGAN_TOKEN", TOKEN)
    program: dict[str, Any] = {"__name__": "bridge"}
    exec(blocks("intelmq.md", "python")[0], program)  # noqa: S102 - the guide's own lines are what is tested
    event = json.loads(blocks("intelmq.md", "json")[0])
    async with TestClient(TestServer(program["make"]())) as bot:
        for said, status in ((event, 202), (event, 202), ({**event, "tlp": "RED"}, 422)):
            async with bot.post("/event", json=said) as response:
                assert response.status == status, await response.text()
    [own] = (await node.get("/v1/reports"))["reports"]
    report = (await node.get(f"/v1/reports/{own['report_id']}"))["revisions"][0]["report"]
    assert report["rsit"] == [{"class": "malicious-code", "type": "c2-server"}]
    assert [one["type"] for one in report["body"]["indicators"]] == ["ipv4-addr", "domain-name"]


async def test_splunk(node: Running, tmp_path: Path) -> None:
    """An alert with two rows, run twice: two reports."""
    (tmp_path / "alert.py").write_text(blocks("splunk.md", "python")[0])
    results = tmp_path / "results.csv.gz"
    results.write_bytes(gzip.compress(b"title,src_ip,domain\nBrute force,203.0.113.9,\nBeacon,,c2.example\n"))
    payload = {"sid": "s-1", "search_name": "Alert", "results_file": str(results), "configuration": {"tlp": "GREEN"}}
    for _ in range(2):
        await run(node, tmp_path, sys.executable, "alert.py", "--execute", stdin=json.dumps(payload))
    assert len((await node.get("/v1/reports"))["reports"]) == 2


@pytest.mark.parametrize("name", ["curl.md", "sentinel.md"])
def test_reports_in_the_guides_are_reports(name: str) -> None:
    """What stands there as JSON to be posted is a filing."""
    found = [
        *blocks(name, "json"),
        *re.findall(r"<<'END'\n(\{.*?)\nEND", (GUIDES / name).read_text("utf-8"), re.DOTALL),
    ]
    assert found
    for one in found:
        assert msgspec.json.decode(one, type=Filing).body.title
