"""TAXII by what a token may do: scopes, markings, and filings that wait for a person."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import aiohttp

from protocol.parts import Marking
from tests.node.asking import make
from tests.node.conftest import Running, running
from tests.node.taxiing import ALL, MEDIA, ROOT, until_shown
from tests.node.test_taxii_intake import OBJECTS, config_of, incident
from tests.node.world import Broker, Clock, MemoryBus, foreign, released


async def ask(node: Running, name: str, token: str, path: str, **options: Any) -> tuple[int, Any]:
    """With a token, by Basic."""
    header = {"Authorization": "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode(), "Content-Type": MEDIA}
    async with node.http.request(options.pop("method", "GET"), path, headers=header, **options) as response:
        assert response.headers["Content-Type"] == MEDIA
        return response.status, await response.json(content_type=None)


def aliases(document: Any) -> set[str]:
    return {one["alias"] for one in document.get("collections", [])}


async def test_a_token_sees_what_it_may(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """Reading up to its marking, writing if it may submit; a token without either has nothing here."""
    bus = MemoryBus()
    bus.inbox.append(broker.delivery(released(foreign()), released(foreign(marking=Marking(tlp="AMBER")))))
    async with running(config_of(tmp_path), clock, bus) as node:
        await until_shown(node, 2)
        green = await make(node, "green", "read", tlp="GREEN")
        status, document = await ask(node, "green", green, f"{ROOT}collections/")
        assert (status, "intake" in aliases(document), "tlp-amber" in aliases(document)) == (200, False, False)
        _, page = await ask(node, "green", green, f"{ALL}objects/?match[type]=incident&match[version]=all")
        assert len(page["objects"]) == 1
        assert (await ask(node, "green", green, f"{ROOT}collections/tlp-amber/objects/"))[0] == 404
        status, document = await ask(node, "green", green, OBJECTS, method="POST", data=b"{}")
        assert (status, document["error_code"]) == (403, "scope-missing")
        poster = await make(node, "poster", "submit")
        _, document = await ask(node, "poster", poster, f"{ROOT}collections/")
        assert aliases(document) == {"intake"}
        assert (await ask(node, "poster", poster, f"{ALL}objects/"))[0] == 404
        admin = await make(node, "admin", "admin")
        assert (await ask(node, "admin", admin, "/taxii2/"))[0] == 403
        assert (await ask(node, "poster", green, "/taxii2/"))[0] == 401


async def test_what_is_held_is_pending(tmp_path: Path, clock: Clock) -> None:
    """Until a person decides; then as the report goes, or a failure."""
    async with running(config_of(tmp_path), clock, MemoryBus()) as node:
        tool = await make(node, "tool", "submit", require_release=True)
        reviewer = await make(node, "reviewer", "read", "release")
        body = json.dumps({"objects": [incident("One"), incident("Two")]}).encode()
        status, document = await ask(node, "tool", tool, OBJECTS, method="POST", data=body)
        assert (status, document["status"], document["pending_count"]) == (202, "pending", 2)
        assert document["pendings"][0]["message"] == "review 1 waits for a person"
        place = f"{ROOT}status/{document['id']}/"
        headers = {"Authorization": f"Bearer {reviewer}"}
        async with aiohttp.ClientSession(node.node.url, headers=headers) as http:
            for number, way, said in ((1, "release", {}), (2, "refuse", {"why": "not ours"})):
                async with http.post(f"/v1/review/{number}/{way}", json=said) as response:
                    assert response.status < 300, await response.text()
        _, document = await ask(node, "tool", tool, place)
        assert (document["pending_count"], document["failure_count"]) == (1, 1)
        assert document["pendings"][0]["message"].endswith("waits for the broker's receipt")
        assert document["failures"][0]["message"].endswith("review 2 was refused")
