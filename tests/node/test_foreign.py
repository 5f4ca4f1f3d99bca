"""Other formats over HTTP: read into reports, known again, and shown."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from node.formats.registry import FORMATS
from protocol import limits
from protocol.keys import unb64
from protocol.subjects import Kind
from tests.node.conftest import Running
from tests.node.mixed import MAKERS
from tests.node.world import CANARY, Broker, filing, foreign, receipts, released

EVENT = {
    "classification.type": "phishing",
    "source.url": "https://bad.example/",
    "time.source": "2026-05-04T06:00:00+00:00",
    "extra.analyst": "someone@cert.example",
    "event_hash": "one",
}


async def send(
    node: Running, body: Any, query: str, media: str = "application/json", **headers: str
) -> tuple[Any, ...]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"Content-Type": media, **headers}
    async with node.http.post(f"/v1/reports{query}", data=data, headers=head) as response:
        return response.status, await response.json(content_type=None), response.headers


async def fetched(node: Running, path: str) -> tuple[int, bytes, Any]:
    async with node.http.get(path) as response:
        return response.status, await response.read(), response.headers


async def test_a_foreign_event_becomes_a_report(node: Running) -> None:
    """With the marking that whoever posts states, by a machine, and all that has no place in `source`."""
    status, answer, _ = await send(node, EVENT, "?format=intelmq&tlp=amber")
    row = answer["results"][0]
    assert (status, answer["accepted"]) == (202, 1)
    assert row["source"] == {"at": "$", "source_id": "one", "unmapped": ["$.extra.analyst"]}
    report = (await node.get(row["location"]))["revisions"][0]["report"]
    assert report["marking"] == {"tlp": "AMBER"}
    assert report["made_by"] == {"kind": "machine", "tool": "intelmq"}
    assert report["rsit"] == [{"class": "fraud", "type": "phishing"}]
    assert report["body"]["source"]["unmapped"] == {"$.extra.analyst": '"someone@cert.example"'}
    assert report["body"]["indicators"] == [{"type": "url", "value": "https://bad.example/", "context": "source"}]


async def test_what_has_no_place_does_not_leave_by_a_star(node: Running) -> None:
    """The policy of these tests allows `*` to everybody: what goes to the broker is without what the tool wrote."""
    await send(node, EVENT, "?format=intelmq&tlp=GREEN")
    await node.bus.until(lambda: len(node.bus.of(Kind.SUBMISSION)) == 1)
    parts = node.bus.sent[0].data.decode().split("~")
    sent = b"".join(unb64(part) for part in parts[1:] if part)
    assert b"bad.example" in sent
    assert b"someone@cert.example" not in sent


async def test_no_marking_no_report(node: Running) -> None:
    """Refused item by item, with what to do; never marked by a guess."""
    status, answer, _ = await send(node, [EVENT, {**EVENT, "tlp": "GREEN", "event_hash": "2"}], "?format=intelmq")
    assert (status, answer["accepted"], answer["refused"]) == (202, 1, 1)
    refused = answer["results"][0]
    assert (refused["reason"], refused["path"]) == ("missing-field", "$[0]")
    assert "?tlp=" in refused["detail"]
    status, problem, _ = await send(node, EVENT, "?format=intelmq&tlp=RED")
    assert (status, problem["reason"]) == (422, "recipients-required")
    status, _, _ = await send(node, EVENT, "?format=intelmq&tlp=AMBER%2BSTRICT&recipients=sg,my")
    assert status == 202


async def test_the_same_source_is_the_same_report(node: Running) -> None:
    """Again: nothing new. Changed: the next revision, by itself. The changed one again: nothing new."""
    first = await send(node, EVENT, "?format=intelmq&tlp=GREEN")
    again = await send(node, EVENT, "?format=intelmq&tlp=GREEN")
    assert again[1] == first[1]
    assert again[2]["Idempotent-Replayed"] == "true"
    changed = {**EVENT, "event_description.text": "It grew."}
    for _ in range(2):
        _, answer, _ = await send(node, changed, "?format=intelmq&tlp=GREEN")
        row = answer["results"][0]
        assert (row["report_id"], row["revision"]) == (first[1]["results"][0]["report_id"], 2)
        assert row["incident_id"] == first[1]["results"][0]["incident_id"]
    revisions = (await node.get(row["location"]))["revisions"]
    assert [one["report"].get("phase", "initial") for one in revisions] == ["initial", "intermediate"]


async def test_where_a_row_stands_is_not_what_it_says(node: Running) -> None:
    """A table that grew at its top files the new row alone, unmapped columns or not."""
    head, old, new = b"source_id,tlp,title,queue\r\n", b"a,GREEN,Old,7\r\n", b"b,GREEN,New,7\r\n"
    _, first, _ = await send(node, head + old, "", "text/csv")
    _, second, _ = await send(node, head + new + old, "", "text/csv")
    assert second["results"][1]["digest"] == first["results"][0]["digest"]
    assert second["results"][1]["source"]["unmapped"] == ["$[1].queue"]
    assert len((await node.get("/v1/reports"))["reports"]) == 2


async def test_too_much_without_a_place_is_refused(node: Running) -> None:
    """The item is refused, not cut; the others are taken."""
    much = {**EVENT, "raw": "x" * (limits.UNMAPPED + 1), "event_hash": "much"}
    _, answer, _ = await send(node, [much, EVENT], "?format=intelmq&tlp=GREEN")
    assert [row["status"] for row in answer["results"]] == [413, 202]
    assert answer["results"][0]["path"] == "$[0]"


HOSTILE = {
    "too long": ("k" * 501, "out-of-range"),
    "over the limit": ("k" * (limits.UNMAPPED + 1), "out-of-range"),
    "strange": ('a.b[0]"`\n\0\u2028$', ""),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("which", HOSTILE)
async def test_names_of_keys_are_anything(node: Running, which: str) -> None:
    """In every JSON format: such an item is refused by itself, with where it stands and why, or kept as it is."""
    key, reason = HOSTILE[which]
    for kind in ("stix", "misp", "intelmq", "ocsf", "idmef", "idea", "iodef"):
        made = MAKERS[kind]([1, 2], broken=False)
        lines = [json.loads(line) for line in made.body.splitlines()]
        listed = lines if len(lines) > 1 else lines[0]
        inner = listed.get("objects") or listed["Incident"] if isinstance(listed, dict) else listed
        holder = inner[0].get("Event", inner[0])
        holder[key] = "hostile"
        body = (
            b"\n".join(json.dumps(line).encode() for line in lines) if len(lines) > 1 else json.dumps(listed).encode()
        )
        status, answer, _ = await send(node, body, made.query, made.content_type)
        assert status == 202, (kind, answer)
        first, second = answer["results"]
        assert second["status"] == 202, (kind, second)
        if reason:
            assert (first["status"], first["reason"]) == (422, reason), (kind, first)
            assert first["path"].startswith("$")
            assert "500 characters" in first["detail"]
        else:
            report = (await node.get(first["location"]))["revisions"][0]["report"]
            assert '"hostile"' in report["body"]["source"]["unmapped"].values(), kind


async def test_idempotency_keys_hold_for_documents_too(node: Running) -> None:
    """Same key, same document: same answer. The same bytes with another marking are another request."""
    key = {"Idempotency-Key": "k"}
    first = await send(node, EVENT, "?format=intelmq&tlp=GREEN", **key)
    assert (await send(node, EVENT, "?format=intelmq&tlp=GREEN", **key))[1] == first[1]
    status, problem, _ = await send(node, EVENT, "?format=intelmq&tlp=CLEAR", **key)
    assert (status, problem["reason"]) == (422, "idempotency-key-reused")


async def test_unknown_formats(node: Running) -> None:
    """415, with those that there are."""
    for path, media in (("?format=nonsense", "application/json"), ("", "application/pdf")):
        status, problem, _ = await send(node, EVENT, path, media)
        assert (status, problem["reason"]) == (415, "unsupported-media-type")
        assert "intelmq" in problem["detail"]
    for path in ("/v1/inbox?format=nonsense", "/v1/inbox?format=intelmq"):
        assert (await fetched(node, path))[0] == 415
    assert (await fetched(node, "/v1/reports/00000000-0000-4000-8000-000000000001?format=csv"))[0] == 404


async def test_a_thousand_documents_of_all_kinds(node: Running) -> None:
    """Every twentieth broken, some sent twice: what was accepted, replayed and refused is what was sent."""
    sent = accepted = replayed = refused = 0
    seen: set[str] = set()
    assert set(MAKERS) == {"profile", *FORMATS}
    kinds, batch = list(MAKERS), 5
    for start in range(0, 1_000, batch):
        kind = kinds[start // batch % len(kinds)]
        numbers = list(range(start, start + batch))
        broken = start // batch % 20 == 7
        made = MAKERS[kind](numbers, broken)
        for _ in range(2 if start // batch % 11 == 3 else 1):
            _, answer, _ = await send(node, made.body, made.query, made.content_type)
            assert [row["index"] for row in answer["results"]] == list(range(made.incidents))
            sent += made.incidents
            for row in answer["results"]:
                if row["status"] == 202:
                    replayed += row["digest"] in seen
                    accepted += row["digest"] not in seen
                    seen.add(row["digest"])
                else:
                    assert row["reason"]
                    assert row["path"].startswith("$")
                    refused += 1
            assert answer["accepted"] + answer["refused"] == made.incidents
    assert accepted + replayed + refused == sent
    assert (accepted, refused >= 50, replayed > 0) == (len(seen), True, True)
    assert sum(1 for _ in seen) == len({row["digest"] for row in await _all(node)})


async def _all(node: Running) -> list[Any]:
    rows: list[Any] = []
    while page := (await node.get(f"/v1/reports?after={rows[-1]['seq'] if rows else 0}&limit=500"))["reports"]:
        rows += page
    return rows


async def test_shown_as_a_table(node: Running, broker: Broker) -> None:
    """The inbox and own reports, without what was withheld, and with a cursor."""
    _, answer, _ = await node.post(filing("=HYPERLINK(1)"))
    status, body, headers = await fetched(node, f"{answer['status']}?format=csv")
    assert (status, headers["Content-Type"]) == (200, "text/csv")
    row = next(csv.DictReader(io.StringIO(body.decode("utf-8-sig"))))
    assert (row["title"], row["report_id"], row["tlp"]) == ("'=HYPERLINK(1)", answer["report_id"], "GREEN")
    envelope = foreign(count=2)
    node.bus.inbox.append(broker.delivery(released(envelope, exact=0b11, coarse=0)))
    await node.bus.until(lambda: len(node.bus.of(Kind.CONFIRMATIONS)) == 1)
    status, body, headers = await fetched(node, "/v1/inbox?format=csv&limit=1")
    first = list(csv.DictReader(io.StringIO(body.decode("utf-8-sig"))))
    assert len(first) == 1
    assert (first[0]["victim"], first[0]["origin"]) == ("", "my-cert")
    assert int(first[0]["undisclosed"]) > 0
    assert CANARY not in body.decode()
    following = headers["Link"].partition("<")[2].partition(">")[0]
    second = list(csv.DictReader(io.StringIO((await fetched(node, following))[1].decode("utf-8-sig"))))
    assert {first[0]["report_id"], second[0]["report_id"]} == {
        str(item.header.report_id) for item in envelope.reports if hasattr(item, "header")
    }
    one = await fetched(node, f"/v1/inbox/{first[0]['report_id']}?format=csv")
    assert list(csv.DictReader(io.StringIO(one[1].decode("utf-8-sig")))) == first


async def test_what_became_of_a_post(node: Running, broker: Broker) -> None:
    """Pending until the broker answered, and the same address for the same POST; refused items count as failed."""
    rows: list[Any] = [filing("A"), {"marking": {}}, filing("B")]
    _, answer, headers = await node.post(rows)
    path = headers["Location"]
    found = await node.get(path)
    assert (found["status"], found["total"], found["pending"], found["failure"]) == ("pending", 3, 2, 1)
    assert (found["items"][1]["reason"], found["items"][1]["path"]) == ("missing-field", "$[1].marking.tlp")
    assert [row.get("digest") for row in found["items"]] == [row.get("digest") for row in answer["results"]]
    assert (await node.post(rows))[2]["Location"] == path
    await node.bus.until(lambda: node.bus.sent)
    node.bus.inbox.append(receipts(broker.receipt(node.bus.sent[0].data)))
    await node.bus.until(lambda: not node.bus.inbox and not node.bus.unacked)
    found = await node.get(path)
    assert (found["status"], found["pending"], found["success"], found["failure"]) == ("complete", 0, 2, 1)
    assert "Location" not in (await node.post(filing("A")))[2]
    assert (await fetched(node, "/v1/submissions/nonsense"))[0] == 404
