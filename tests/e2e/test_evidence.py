"""Evidence of a real region, exported beside running nodes, examined where no node and no broker is."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Running, eventually
from tests.e2e.test_chaos import filing
from tests.protocol.independent import check_bundle

ROOT = Path(__file__).resolve().parents[2]


async def kentongan(place: Path, *arguments: str) -> tuple[int, str]:
    """Run a command as an operator would: exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deploy.cli",
        *arguments,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def _is_proven(region: Running, name: str, path: str) -> bool:
    answer = await region.doors[name].call("GET", path)
    if answer.status != 200:
        return False
    proof: dict[str, Any] | None = answer.body["revisions"][-1].get("proof")
    return proof is not None and proof.get("state") == "proven"


@pytest.mark.timeout(200)
async def test_evidence_of_both_sides_holds_without_any_region(region: Running, tmp_path: Path) -> None:
    """Filed at one node, read at another; a third party examines both bundles with the invitation it was given."""
    red: dict[str, Any] = {**filing("sg", 2), "marking": {"tlp": "RED", "recipients": ["jp"]}}
    reports = []
    for document in (filing("sg", 1), red):
        answer = await region.doors["sg"].call("POST", "/v1/reports", document)
        assert answer.status == 202, answer.body
        reports.append(str(answer.body["report_id"]))
    for report in reports:
        await eventually(lambda at=f"/v1/reports/{report}": _is_proven(region, "sg", at), "the origin's proof")
        await eventually(lambda at=f"/v1/inbox/{report}": _is_proven(region, "jp", at), "the recipient's proof")
        said = await region.doors["jp"].call("POST", f"/v1/inbox/{report}/confirm", {"state": "read"})
        assert said.status == 200, said.body

        async def read(report: str = report) -> bool:
            status = await region.doors["sg"].get(f"/v1/reports/{report}")
            words = status["revisions"][0]["recipients"].get("jp", {}).get("confirmations", [])
            return "read" in {word["state"] for word in words}

        await eventually(read, "the origin knows that it was read")
    court = tmp_path / "court"
    court.mkdir()
    for name in ("sg", "jp"):
        for number, report in enumerate(reports):
            code, text = await kentongan(
                court, "evidence", str(region.place.directory / name), report, "--out", f"{name}-{number}.evidence.json"
            )
            assert code == 0, text
    invitation = region.place.directory / "id-invitation.json"
    (court / "trust.json").write_bytes(invitation.read_bytes())
    await region.tree.stop()
    broker = json.loads(invitation.read_bytes())["broker_keys"][0]["public"]
    for name in ("sg", "jp"):
        for number in range(len(reports)):
            file = f"{name}-{number}.evidence.json"
            code, text = await kentongan(court, "verify", file, "--trust", "trust.json")
            assert code == 0, text
            assert "NOT" not in text
            assert "confirmed “read”" in text
            data = (court / file).read_bytes()
            assert check_bundle(data, broker)[0]["title"] == f"sg {number + 1}"
            (court / "forged.json").write_bytes(data.replace(b'"revision": 1', b'"revision": 2', 1))
            code, text = await kentongan(court, "verify", "forged.json", "--trust", "trust.json")
            assert code == 1, text
