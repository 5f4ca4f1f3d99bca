"""Other formats by what a token may do: what it is shown, whose posts it may ask for, and what waits for a person."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.parts import Marking
from protocol.subjects import Kind
from tests.node.asking import ask, make
from tests.node.conftest import Running, running
from tests.node.test_taxii_intake import config_of, incident, post
from tests.node.world import Broker, Clock, MemoryBus, filing, foreign, released

EVENT = {
    "classification.type": "phishing",
    "source.url": "https://bad.example/",
    "extra.analyst": "someone@cert.example",
    "event_hash": "one",
    "tlp": "GREEN",
}
POST = "/v1/reports?format=intelmq"


async def text(node: Running, token: str, path: str) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"}
    async with node.http.get(path, headers=headers) as response:
        return response.status, await response.text()


@pytest.mark.parametrize("name", ["csv", "stix", "misp", "ocsf", "iodef"])
async def test_a_limited_token_is_shown_no_more_in_another_format(node: Running, broker: Broker, name: str) -> None:
    """GREEN: nothing above it in the list, nor by its address; whoever may read all of it is shown it."""
    green = await make(node, "green", "read", tlp="GREEN")
    every = await make(node, "every", "read")
    envelopes = [foreign(), foreign(marking=Marking(tlp="AMBER"))]
    node.bus.inbox.append(broker.delivery(*(released(envelope) for envelope in envelopes)))
    await node.bus.until(lambda: len(node.bus.of(Kind.CONFIRMATIONS)) == 1)
    low, high = (str(envelope.reports[0].header.report_id) for envelope in envelopes)  # type: ignore[union-attr]
    _, listed = await text(node, every, f"/v1/inbox?format={name}")
    assert (low in listed, high in listed) == (True, True)
    status, listed = await text(node, green, f"/v1/inbox?format={name}")
    assert (status, low in listed, high in listed) == (200, True, False)
    own = [(await node.post(filing("Own", marking={"tlp": tlp})))[1]["report_id"] for tlp in ("GREEN", "AMBER")]
    for shown, hidden, place in ((low, high, "inbox"), (*own, "reports")):
        assert (await text(node, green, f"/v1/{place}/{shown}?format={name}"))[0] == 200
        assert (await text(node, every, f"/v1/{place}/{hidden}?format={name}"))[0] == 200
        status, body = await text(node, green, f"/v1/{place}/{hidden}?format={name}")
        assert (status, json.loads(body)["reason"]) == (404, "unknown-report")


async def test_what_became_of_a_post_is_for_who_posted(node: Running) -> None:
    """Not for another token, whatever it may do, nor for one that posted the very same."""
    one, two = await make(node, "one", "submit", "read"), await make(node, "two", "submit", "read", "admin")
    places = []
    for token in (one, two):
        status, _, headers = await ask(node, token, "POST", POST, [EVENT, {**EVENT, "event_hash": "two"}])
        assert status == 202
        places.append(headers["Location"])
    assert places[0] != places[1]
    assert (await ask(node, one, "GET", places[0]))[1]["total"] == 2
    for token, place in ((two, places[0]), (one, places[1])):
        status, body, _ = await ask(node, token, "GET", place)
        assert (status, body["reason"]) == (404, "unknown-path")


async def test_a_held_document_is_released_as_the_next_revision(node: Running) -> None:
    """Its source was released once with other content: the later one, released, is revision 2 of that report."""
    token = await make(node, "tool", "submit", require_release=True)
    person = await make(node, "person", "release", "read")
    became: list[Any] = []
    for number, said in enumerate(("It began.", "It grew."), 1):
        _, answer, headers = await ask(node, token, "POST", POST, {**EVENT, "event_description.text": said})
        (row,) = answer["results"]
        assert (row["state"], row["review"]) == ("held", number)
        assert (await ask(node, token, "GET", headers["Location"]))[1]["status"] == "pending"
        status, entry, _ = await ask(node, person, "POST", f"/v1/review/{number}/release")
        assert (status, entry["state"]) == (200, "released"), entry
        became.append((entry["report_id"], entry["revision"]))
        assert (await ask(node, token, "GET", headers["Location"]))[1]["success"] == 1
    assert became == [(became[0][0], 1), (became[0][0], 2)]
    revisions = (await node.get(f"/v1/reports/{became[0][0]}"))["revisions"]
    assert [one["report"].get("phase", "initial") for one in revisions] == ["initial", "intermediate"]
    assert [one["report"]["body"]["description"] for one in revisions] == ["It began.", "It grew."]
    assert "$.extra.analyst" in revisions[1]["report"]["body"]["source"]["unmapped"]


async def test_taxii_knows_an_incident_again(tmp_path: Path, clock: Clock) -> None:
    """The same STIX incident with other content is revision 2, by TAXII or POST; the rest is in `source`."""
    made = incident("First", x_ticket=7)
    async with running(config_of(tmp_path), clock, MemoryBus()) as node:
        for _ in range(2):
            await post(node, made)
        await post(node, {**made, "name": "Second", "x_ticket": 8})
        (first, second) = (await node.get("/v1/reports"))["reports"]
        assert (first["report_id"], first["revision"], second["revision"]) == (second["report_id"], 1, 2)
        revisions = (await node.get(f"/v1/reports/{first['report_id']}"))["revisions"]
        sources = [one["report"]["body"]["source"] for one in revisions]
        assert [source["format"] for source in sources] == ["stix", "stix"]
        assert [source["unmapped"]["$.x_ticket"] for source in sources] == ["7", "8"]
        bundle = {"type": "bundle", "id": "bundle--11111111-1111-4111-8111-111111111111", "objects": [made]}
        third = {**bundle, "objects": [{**made, "name": "Third"}]}
        async with node.http.post("/v1/reports?format=stix", json=third) as response:
            (row,) = (await response.json())["results"]
        assert (row["report_id"], row["revision"]) == (first["report_id"], 3)
