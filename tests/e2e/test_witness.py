"""The log over the real bus: what is filed at one node and read at another is proven at both, witnessed by all."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.keys import unb64
from protocol.logproof import parse_proof
from tests.e2e.conftest import Running, eventually
from tests.e2e.test_chaos import filing


@pytest.mark.timeout(200)
async def test_both_sides_hold_a_proof_of_the_same_entry(region: Running) -> None:
    """Within seconds: the receipt and the grant are one leaf, under a checkpoint that most nodes have cosigned."""
    answer = await region.doors["sg"].call("POST", "/v1/reports", filing("sg", 1))
    assert answer.status == 202, answer.body
    report_id = answer.body["report_id"]
    proofs: dict[str, dict[str, Any]] = {}
    paths = {"sg": f"/v1/reports/{report_id}", "jp": f"/v1/inbox/{report_id}"}

    async def proven() -> bool:
        for name, path in paths.items():
            found = await region.doors[name].call("GET", path)
            if found.status == 200:
                proofs[name] = found.body["revisions"][0]["proof"]
        return [proof["state"] for proof in proofs.values()] == ["proven", "proven"]

    await eventually(proven, "both have their proof")
    assert proofs["sg"]["entry"] == proofs["jp"]["entry"]
    assert proofs["sg"]["leaf"] == proofs["jp"]["leaf"]
    quorum = (await region.doors["sg"].get("/v1/log"))["published"]["quorum"]
    for name, path in paths.items():
        assert len(proofs[name]["witnesses"]) >= quorum
        door = region.doors[name]
        headers = {"Authorization": f"Bearer {door.token}"}
        async with region.session.get(f"{door.url}{path}/proof", headers=headers) as response:
            assert response.status == 200
            parse_proof(await response.text()).verify(unb64(proofs[name]["entry"]))
        view = await region.doors[name].get("/v1/log")
        assert view["leaves"] == {"waiting": 0, "missing": 0}
        assert view["alarms"] == {}
