"""Reports in other formats: an indicator that a later revision drops is taken back there too."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import stix2

from protocol.report import UNIT_BIT
from tests.node.conftest import Running
from tests.node.test_foreign import fetched
from tests.node.test_taxii_retract import DOMAIN, EXACT, X, Y, quick
from tests.node.world import Broker, filing, foreign, released


def revision(report_id: Any, number: int, *indicators: dict[str, Any], exact: int = -1) -> str:
    body = quick({"title": "Botnet", "indicators": list(indicators)})
    return released(foreign(report_id=report_id, revision=number, body=body), exact, 0)


async def attributes(node: Running, path: str) -> dict[str, bool]:
    """By value, whether MISP is to delete it."""
    status, body, _ = await fetched(node, f"{path}?format=misp")
    assert status == 200
    event = json.loads(body)["Event"]
    assert len({one["uuid"] for one in event["Attribute"]}) == len(event["Attribute"])
    return {one["value"]: one.get("deleted", False) for one in event["Attribute"]}


async def test_of_others_reports(node: Running, broker: Broker) -> None:
    """In a document of one report, and in a list of them; not what may only be withheld."""
    first, second = uuid4(), uuid4()
    hidden = EXACT & ~(1 << UNIT_BIT["indicators.address"])
    node.bus.inbox.append(broker.delivery(revision(first, 1, X, Y), revision(second, 1, X, DOMAIN)))
    await node.bus.until(lambda: not node.bus.inbox and not node.bus.unacked)
    before = json.loads((await fetched(node, f"/v1/inbox/{first}?format=misp"))[1])["Event"]["Attribute"]
    node.bus.inbox.append(broker.delivery(revision(first, 2, Y), revision(second, 2, X, DOMAIN, exact=hidden)))
    await node.bus.until(lambda: not node.bus.inbox and not node.bus.unacked)
    assert await attributes(node, f"/v1/inbox/{first}") == {X["value"]: True, Y["value"]: False}
    assert await attributes(node, f"/v1/inbox/{second}") == {DOMAIN["value"]: False}
    (_, body, _) = await fetched(node, "/v1/inbox?format=misp&after=2")
    events = [item["Event"] for item in json.loads(body)["response"]]
    assert [[one.get("deleted", False) for one in event["Attribute"]] for event in events] == [[False, True], [False]]
    (was,) = [one["uuid"] for one in before if one["value"] == X["value"]]
    (now,) = [one for one in events[0]["Attribute"] if one["value"] == X["value"]]
    assert (now["uuid"], now["to_ids"], now["timestamp"]) == (was, False, events[0]["timestamp"])

    (_, body, _) = await fetched(node, f"/v1/inbox/{first}?format=stix")
    found = {item.name: item for item in stix2.parse(body.decode(), allow_custom=True).objects if "pattern" in item}
    assert {name: item.revoked for name, item in found.items()} == {X["value"]: True, Y["value"]: False}


async def test_of_own_reports(node: Running) -> None:
    """What was filed here is known whole; of a withdrawn one nothing is told."""
    said = filing()["body"] | {"indicators": [X, DOMAIN]}
    _, first, _ = await node.post(filing(body=said))
    ids = {"report_id": first["report_id"], "phase": "intermediate"}
    await node.post(filing(body=said | {"indicators": [DOMAIN]}, revision=2, **ids))
    shown = await attributes(node, f"/v1/reports/{first['report_id']}")
    assert (shown[X["value"]], shown[DOMAIN["value"]]) == (True, False)
    await node.post(filing(body={}, revision=3, **ids | {"phase": "withdrawn"}))
    assert await attributes(node, f"/v1/reports/{first['report_id']}") == {}
