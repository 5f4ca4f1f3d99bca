"""TLP:RED over the real bus: the ledger, the bus store and everybody but the recipient hold nothing readable of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import Running, eventually
from tests.e2e.test_chaos import filing


@pytest.mark.timeout(200)
async def test_a_red_report_is_readable_at_its_recipient_only(region: Running) -> None:
    """Posted at one node, read at the other; nowhere else on disk, in no log, in no feed."""
    red: dict[str, Any] = {**filing("sg", 1), "marking": {"tlp": "RED", "recipients": ["jp"]}}
    red["body"] = {**red["body"], "title": "CANARY-TITLE", "description": "CANARY-TEXT"}
    answer = await region.doors["sg"].call("POST", "/v1/reports", red)
    assert answer.status == 202, answer.body

    async def read() -> bool:
        return any("CANARY-TEXT" in str(item["report"]) for item in await region.inbox("jp"))

    await eventually(read, "the recipient reads it")
    for name in ("id", "my", "vn"):
        assert await region.inbox(name) == []
    places = [
        region.place.directory / "broker",
        *(region.place.directory / name for name in ("id", "my", "vn")),
        region.place.directory / "logs",
    ]
    for place in places:
        for file in place.rglob("*"):
            if file.is_file():
                assert b"CANARY" not in file.read_bytes(), file
    recipients: dict[str, Any] = {}

    async def decided() -> bool:
        status = await region.doors["sg"].get(f"/v1/reports/{answer.body['report_id']}")
        recipients.update(status["revisions"][0]["recipients"])
        return "my" in recipients

    await eventually(decided, "the origin has the receipt")
    assert recipients["jp"]["granted"]
    assert recipients["my"]["withheld"][0]["reason"] == "not-a-named-recipient"
