"""The intake collection: what TAXII clients post is filed once, and its status says what became of each object."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from taxii2client.v21 import Server

from node.config import Taxii as Settings
from protocol.process import Token
from protocol.statements import Refusal
from protocol.subjects import Kind
from tests.node.conftest import Running, running
from tests.node.taxiing import MEDIA, ROOT
from tests.node.world import CANARY, TOKEN, Broker, Clock, MemoryBus, make_config, receipts

OBJECTS = f"{ROOT}collections/intake/objects/"
GREEN = "marking-definition--bab4a63c-aed9-4cf5-a766-dfca5abac2bb"
OTHER = "another horse"
TIMES = {"created": "2026-05-04T07:00:00.000Z", "modified": "2026-05-04T07:30:00.000Z"}


def stix(kind: str, **given: Any) -> dict[str, Any]:
    return {"type": kind, "spec_version": "2.1", "id": f"{kind}--{uuid4()}", **TIMES, **given}


def incident(name: str = "Phishing", **given: Any) -> dict[str, Any]:
    return stix("incident", name=name, labels=["rsit:fraud=phishing"], **{"object_marking_refs": [GREEN], **given})


def link(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return stix("relationship", relationship_type="related-to", source_ref=a["id"], target_ref=b["id"])


@pytest.fixture
async def bus() -> MemoryBus:
    return MemoryBus()


def config_of(directory: Path, **changes: Any) -> Any:
    tokens = [
        Token(name=name, sha256=hashlib.sha256(text.encode()).hexdigest())
        for name, text in (("soc", TOKEN), ("other", OTHER))
    ]
    settings = {"taxii": Settings(enabled=True, intake=True), "tokens": tuple(tokens), **changes}
    return replace(make_config(directory), **settings)


async def post(node: Running, *objects: Any, status: int = 202, **options: Any) -> Any:
    body = json.dumps({"objects": list(objects)}).encode()
    headers = {"Content-Type": MEDIA, **options}
    async with node.http.post(OBJECTS, data=body, headers=headers) as response:
        assert (response.status, response.headers["Content-Type"]) == (status, MEDIA), await response.text()
        return await response.json(content_type=None)


async def test_a_client_posts_and_follows_its_status(
    tmp_path: Path, clock: Clock, broker: Broker, bus: MemoryBus
) -> None:
    """With taxii2-client: pending until the broker's receipt is here, then a success; the report is filed once."""
    made = incident()
    bundle = {"objects": [made]}

    def add(url: str) -> Any:
        server = Server(f"{url}/taxii2/", user="soc", password=TOKEN)
        intake = next(one for one in server.default.collections if one.alias == "intake")
        assert (intake.can_read, intake.can_write) == (False, True)
        first = intake.add_objects(bundle, wait_for_completion=False)
        again = intake.add_objects(bundle, wait_for_completion=False)
        assert first.id != again.id
        return first

    async with running(config_of(tmp_path), clock, bus) as node:
        status = await asyncio.to_thread(add, node.node.url)
        assert (status.status, status.pending_count, status.total_count) == ("pending", 1, 1)
        assert status.pendings[0]["id"] == made["id"]
        assert status.pendings[0]["version"] == TIMES["modified"]
        await bus.until(lambda: bus.of(Kind.SUBMISSION))
        bus.inbox.append(receipts(broker.receipt(bus.of(Kind.SUBMISSION)[0])))
        await bus.until(lambda: not bus.inbox and not bus.unacked)
        await asyncio.to_thread(status.refresh)
        assert (status.status, status.success_count, status.failure_count) == ("complete", 1, 0)
        reports = (await node.get("/v1/reports"))["reports"]
        assert len(reports) == 1
        assert status.successes[0]["message"] == f"report {reports[0]['report_id']} is accepted"


async def test_each_object_has_its_outcome(tmp_path: Path, clock: Clock, bus: MemoryBus) -> None:
    """A bad incident takes no good one with it; what belongs to an incident shares its fate; no word of content."""
    good, bad = incident("Good"), incident(f"Bad {CANARY}", object_marking_refs=[])
    tool, tool_link = stix("tool", name="x"), None
    malware = stix("malware", name="y", is_family=False)
    tool_link = link(good, tool)
    stray = stix("campaign", name="z")
    objects = [good, bad, tool, malware, tool_link, link(bad, malware), stray]
    async with running(config_of(tmp_path), clock, bus) as node:
        status = await post(node, *objects)
        assert (status["total_count"], status["pending_count"], status["failure_count"]) == (7, 3, 4)
        assert {line["id"] for line in status["pendings"]} == {good["id"], tool["id"], tool_link["id"]}
        by_id = {line["id"]: line["message"] for line in status["failures"]}
        assert "object_marking_refs" in by_id[bad["id"]] or "marking" in by_id[bad["id"]]
        assert by_id[stray["id"]].startswith("empty:")
        assert CANARY not in json.dumps(status)
        assert len((await node.get("/v1/reports"))["reports"]) == 1


async def test_what_the_broker_rejects_is_a_failure(
    tmp_path: Path, clock: Clock, broker: Broker, bus: MemoryBus
) -> None:
    """With the reason of its receipt."""
    async with running(config_of(tmp_path), clock, bus) as node:
        status = await post(node, incident())
        await bus.until(lambda: bus.of(Kind.SUBMISSION))
        refusal = Refusal(reason="member-suspended", detail="x")
        bus.inbox.append(receipts(broker.receipt(bus.of(Kind.SUBMISSION)[0], reports=[], refusal=refusal)))
        await bus.until(lambda: not bus.inbox and not bus.unacked)
        status = await node.get(f"{ROOT}status/{status['id']}/")
        assert (status["status"], status["failure_count"]) == ("complete", 1)
        assert status["failures"][0]["message"].startswith("member-suspended")


async def test_a_status_is_for_who_posted(tmp_path: Path, clock: Clock, bus: MemoryBus) -> None:
    """Another token finds nothing, as for a number that never was; it survives a restart."""
    async with running(config_of(tmp_path), clock, bus) as node:
        status = await post(node, incident())
    async with running(config_of(tmp_path), clock, bus) as node:
        assert await node.get(f"{ROOT}status/{status['id']}/") == status
        other = {"Authorization": f"Bearer {OTHER}"}
        answers = []
        for number in (status["id"], str(uuid4()), "x"):
            async with node.http.get(f"{ROOT}status/{number}/", headers=other) as response:
                answers.append((response.status, await response.text()))
        assert len(set(answers)) == 1
        assert answers[0][0] == 404


async def test_what_is_refused_as_a_whole(tmp_path: Path, clock: Clock, bus: MemoryBus) -> None:
    """Another media type, no envelope, no object, too much; and collections that are for reading."""
    async with running(config_of(tmp_path), clock, bus) as node:
        for kind in ("application/json", "application/taxii+json;version=2.0", "application/stix+json;version=2.1"):
            document = await post(node, incident(), status=415, **{"Content-Type": kind})
            assert document["error_code"] == "unsupported-media-type"
        await post(node, incident(), status=406, Accept="application/json")
        await post(node, status=422)
        for body, status in ((b"nonsense", 400), (b"[]", 422), (b"{}", 422), (b'{"objects": [1]}', 422)):
            async with node.http.post(OBJECTS, data=body, headers={"Content-Type": MEDIA}) as response:
                assert response.status == status, await response.text()
        async with node.http.get(OBJECTS) as response:
            assert response.status == 403
            assert (await response.json(content_type=None))["error_code"] == "not-allowed"
        headers = {"Content-Type": MEDIA}
        async with node.http.post(f"{ROOT}collections/all/objects/", data=b"{}", headers=headers) as response:
            assert response.status == 403
        async with node.http.post(f"{ROOT}collections/nothing/objects/", data=b"{}", headers=headers) as response:
            assert response.status == 404
        assert (await node.get("/v1/reports"))["reports"] == []


async def test_without_an_intake_nothing_can_be_posted(tmp_path: Path, clock: Clock, bus: MemoryBus) -> None:
    """There is no such collection, and no status."""
    config = config_of(tmp_path, taxii=Settings(enabled=True))
    async with running(config, clock, bus) as node:
        async with node.http.post(OBJECTS, data=b"{}", headers={"Content-Type": MEDIA}) as response:
            assert response.status == 405
        async with node.http.get(f"{ROOT}collections/intake/") as response:
            assert response.status == 404
