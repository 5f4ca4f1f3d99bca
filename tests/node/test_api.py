"""The HTTP interface: statuses, problem documents, and what a 202 means."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from node.feed import IN_MEMORY
from protocol import limits
from protocol.envelope import SignedReport
from protocol.subjects import Kind
from tests.node.conftest import Running, Start
from tests.node.test_filing import BAD, NARROW
from tests.node.test_words import word_of
from tests.node.world import Broker, Clock, MemoryBus, Msg, confirmed, filing, foreign, new_id, receipts, released


async def raw(node: Running, data: Any, content_type: str = "application/json", **headers: str) -> tuple[int, Any]:
    async with node.http.post("/v1/reports", data=data, headers={"Content-Type": content_type, **headers}) as response:
        assert (
            response.status == 202
            or response.content_type == "application/problem+json"
            or "results" in (await response.text())
        )
        return response.status, await response.json(content_type=None)


async def test_202_means_on_disk(node: Running, tmp_path: Path) -> None:
    """When the answer arrives, another process sees the row."""
    status, answer, _ = await node.post(filing())
    with sqlite3.connect(tmp_path / "data" / "node.db") as other:
        rows = other.execute("select digest, state from own_reports").fetchall()
        assert other.execute("pragma journal_mode").fetchone() == ("wal",)
    assert status == 202
    assert rows == [(answer["digest"], "queued")]


async def test_twice_is_once_over_http(node: Running) -> None:
    """Same body, same key, and with another key: the same answer, said to be a replay; one submission."""
    first = await node.post(filing(), headers={"Idempotency-Key": "k"})
    for key in ({"Idempotency-Key": "k"}, {"Idempotency-Key": "other"}, {}):
        status, answer, headers = await node.post(filing(), headers=key)
        assert (status, answer, headers["Idempotent-Replayed"]) == (202, first[1], "true")
    status, problem, _ = await node.post(filing("B"), headers={"Idempotency-Key": "k"})
    assert (status, problem["reason"]) == (422, "idempotency-key-reused")
    assert "Idempotent-Replayed" not in first[2]
    await node.bus.until(lambda: len(node.bus.of(Kind.SUBMISSION)) == 1)


async def test_the_same_post_many_times_at_once(node: Running) -> None:
    """However the requests fall into batches."""
    answers = await asyncio.gather(*(node.post(filing()) for _ in range(40)))
    assert len({answer["digest"] for _, answer, _ in answers}) == 1
    assert sum("Idempotent-Replayed" not in headers for _, _, headers in answers) == 1


@pytest.mark.parametrize(("document", "reason", "path"), BAD)
async def test_bad_reports_are_problem_documents(node: Running, document: Any, reason: Any, path: str) -> None:
    """RFC 9457, with the reason code and the path."""
    status, problem, headers = await node.post(document)
    assert status == 422
    assert headers["Content-Type"].startswith("application/problem+json")
    assert (problem["type"], problem["path"]) == (f"urn:kentongan:reason:{reason.value}", path)
    assert (problem["reason"], problem["status"]) == (reason.value, 422)
    assert problem["title"]


@pytest.mark.parametrize(
    ("data", "content_type", "status", "reason"),
    [
        (b"{", "application/json", 400, "not-json"),
        (b"", "application/json", 400, "empty"),
        (b"[]", "application/json", 400, "empty"),
        (b"[1", "application/json", 400, "not-json"),
        (b"\xff", "application/json", 400, "not-json"),
        (b'"text"', "application/json", 422, "wrong-type"),
        (b"{}", "text/html", 415, "unsupported-media-type"),
        (b"x" * (10 << 20), "application/json", 413, "too-large"),
        (b"[" + b"{}," * 2_500 + b"{}]", "application/json", 413, "too-many"),
    ],
)
async def test_bad_requests(node: Running, data: bytes, content_type: str, status: int, reason: str) -> None:
    """The request as a whole is refused; the connection stays usable for the next one."""
    found, problem = await raw(node, data, content_type)
    assert (found, problem["reason"]) == (status, reason)
    assert (await node.post(filing()))[0] == 202


async def test_a_body_without_length_is_cut_off_at_its_limit(node: Running) -> None:
    """Chunked, and compressed: what counts is what comes out."""

    async def chunks() -> Any:
        for _ in range(12):
            yield b" " * (1 << 20)

    assert (await raw(node, chunks()))[0] == 413
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < limits.HTTP_BODY
    assert (await raw(node, bomb, **{"Content-Encoding": "gzip"}))[0] == 413
    assert (await raw(node, b"not gzip", **{"Content-Encoding": "gzip"}))[0] == 400


async def test_compressed_reports_are_taken(node: Running) -> None:
    """As HTTP has it."""
    status, _ = await raw(node, gzip.compress(json.dumps(filing()).encode()), **{"Content-Encoding": "gzip"})
    assert status == 202


async def test_an_array_is_answered_item_by_item(node: Running) -> None:
    """97 accepted, 3 named."""
    documents = [filing(f"Report {index}") for index in range(100)]
    documents[3] = {"marking": {}}
    documents[40]["nonsense"] = 1
    documents[41]["report_id"], documents[41]["revision"] = new_id(), 7
    status, answer, _ = await node.post(documents)
    assert (status, answer["accepted"], answer["refused"]) == (202, 97, 3)
    bad = [
        (row["index"], row["status"], row["reason"], row["path"]) for row in answer["results"] if row["status"] != 202
    ]
    assert bad == [
        (3, 422, "missing-field", "$[3].marking.tlp"),
        (40, 422, "unknown-field", "$[40].nonsense"),
        (41, 409, "revision-gap", "$[41].revision"),
    ]
    again = await node.post(documents)
    assert again[1] == answer


async def test_ndjson_and_all_refused(node: Running) -> None:
    """Lines are items; 422 if nothing was accepted."""
    lines = b"\n".join([json.dumps(filing()).encode(), b"{nonsense", b"", json.dumps(filing("B")).encode()])
    status, answer = await raw(node, lines, "application/x-ndjson")
    assert (status, [row["status"] for row in answer["results"]]) == (202, [202, 400, 202])
    status, answer = await raw(node, b"{}\n{}", "application/x-ndjson")
    assert (status, answer["accepted"]) == (422, 0)


async def test_a_revision_with_other_content_is_a_conflict(node: Running) -> None:
    """409, and the detail says which revision to send."""
    _, first, _ = await node.post(filing())
    status, problem, _ = await node.post(filing("B", report_id=first["report_id"]))
    assert (status, problem["reason"], problem["path"]) == (409, "revision-conflict", "$.revision")
    assert "revision 2" in problem["detail"]


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "token-missing"),
        ("Bearer wrong", "token-invalid"),
        ("Basic x", "token-invalid"),
        ("Bearer", "token-invalid"),
    ],
)
async def test_no_token_no_access(node: Running, authorization: str, reason: str) -> None:
    """401 with WWW-Authenticate, for every address but the operators'; unknown addresses tell nothing."""
    async with aiohttp.ClientSession(
        node.node.url, headers={"Authorization": authorization} if authorization else {}
    ) as http:
        for path in ("/v1/reports", "/v1/inbox", "/v1/feed", "/v1/backlog", "/nonsense"):
            async with http.get(path) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert (await response.json(content_type=None))["reason"] == reason
        for path in ("/healthz", "/readyz", "/metrics"):
            async with http.get(path) as response:
                assert response.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nonsense", 404, "unknown-path"),
        ("DELETE", "/v1/reports", 405, "wrong-method"),
        ("GET", "/v1/reports/00000000-0000-4000-8000-000000000001", 404, "unknown-report"),
        ("GET", "/v1/reports/nonsense", 404, "unknown-report"),
        ("GET", "/v1/inbox/00000000-0000-4000-8000-000000000001", 404, "unknown-report"),
        ("GET", "/v1/inbox?after=-1", 422, "out-of-range"),
        ("GET", "/v1/reports?limit=501", 422, "out-of-range"),
        ("GET", "/v1/feed?after=1e3", 422, "out-of-range"),
    ],
)
async def test_wrong_addresses(node: Running, method: str, path: str, status: int, reason: str) -> None:
    """Problem documents as well."""
    async with node.http.request(method, path) as response:
        assert (response.status, (await response.json(content_type=None))["reason"]) == (status, reason)


async def test_a_full_backlog_is_503(start: Start) -> None:
    """With Retry-After; nothing is taken."""
    bus = MemoryBus()
    bus.up = False
    node = await start(bus, backlog=1)
    assert (await node.post(filing()))[0] == 202
    status, problem, headers = await node.post(filing("B"))
    assert (status, problem["reason"]) == (503, "backlog-full")
    assert int(headers["Retry-After"]) > 0
    backlog = await node.get("/v1/backlog")
    assert (backlog["submissions"], backlog["reports"]) == (1, 1)
    assert len((await node.get("/v1/reports"))["reports"]) == 1


async def test_what_became_of_a_report(node: Running, broker: Broker) -> None:
    """From queued to read by a recipient, with the reasons for what was withheld."""
    _, answer, _ = await node.post(filing())
    assert (await node.get(answer["status"]))["state"] == "queued"
    await node.bus.until(lambda: node.bus.sent)
    node.bus.inbox.append(receipts(broker.receipt(node.bus.sent[0].data)))
    node.bus.inbox.append(confirmed(word_of(broker, answer["digest"], "read")))
    await node.bus.until(lambda: not node.bus.inbox and not node.bus.unacked)
    report = await node.get(answer["status"])
    revision = report["revisions"][0]
    assert report["state"] == "accepted"
    assert revision["report"]["body"]["title"] == "Phishing"
    assert revision["recipients"]["sg-cert"]["withheld"][0]["reason"] == "denied-by-rule"
    assert revision["recipients"]["my-cert"]["confirmations"][0]["state"] == "read"
    assert (await node.get("/v1/backlog"))["submissions"] == 0


async def test_the_inbox_pages_without_gaps(node: Running, broker: Broker) -> None:
    """By cursor."""
    node.bus.inbox.extend(broker.delivery(released(foreign(count=3))) for _ in range(3))
    await node.bus.until(lambda: len(node.bus.of(Kind.CONFIRMATIONS)) > 0 and not node.bus.unacked)
    seen, after = [], 0
    while page := (await node.get(f"/v1/inbox?after={after}&limit=4"))["reports"]:
        seen += [row["digest"] for row in page]
        after = page[-1]["seq"]
    assert len(seen) == len(set(seen)) == 9
    assert (await node.get(f"/v1/inbox?after={after}"))["next"] == after


async def test_reading_and_confirming(node: Running, broker: Broker) -> None:
    """The origin hears of it; wrong words are refused."""
    envelope = foreign()
    node.bus.inbox.append(broker.delivery(released(envelope)))
    await node.bus.until(lambda: len(node.bus.of(Kind.CONFIRMATIONS)) == 1)
    report = envelope.reports[0]
    assert isinstance(report, SignedReport)
    path = f"/v1/inbox/{report.header.report_id}"
    found = await node.get(path)
    assert sorted(found["revisions"][0]["sd_jwt"].split("~")) == sorted(released(envelope).split("~"))
    assert found["revisions"][0]["report"]["body"]["victim"] == report.body["victim"]
    for body, status in (({"state": "read"}, 200), ({"state": "read"}, 200), ({"state": "eaten"}, 422), ([], 422)):
        async with node.http.post(f"{path}/confirm", json=body) as response:
            assert response.status == status
    await node.bus.until(lambda: len(node.bus.of(Kind.CONFIRMATIONS)) == 2)
    assert (await node.get(path))["revisions"][0]["state"] == "read"


async def test_metrics_and_readiness(node: Running) -> None:
    """What an operator looks at."""
    await node.post(filing())
    await node.post(filing(nonsense=1))
    async with node.http.get("/metrics") as response:
        text = await response.text()
    assert 'kentongan_node_filed_total{outcome="queued",reason=""} 1.0' in text
    assert 'kentongan_node_filed_total{outcome="refused",reason="unknown-field"} 1.0' in text
    assert "kentongan_node_outbox_reports 1.0" in text
    assert "kentongan_node_link_up 1.0" in text
    assert 'kentongan_node_http_requests_total{status="202"} 1.0' in text
    ready = await node.get("/readyz")
    assert (ready["link"], ready["region"]["serial"], ready["member"], ready["policy"]) == ("up", 1, "active", "ok")


async def test_kept_reports_say_so(start: Start) -> None:
    """202, state kept, and nothing on the bus."""
    node = await start(policy=NARROW.replace('"my"', '"th"').replace('"sg"', '"th"'))
    _, answer, _ = await node.post(filing())
    assert answer["state"] == "kept"
    await asyncio.sleep(0.1)
    assert node.bus.sent == []


# --- the feed ----------------------------------------------------------------------------------------------------


async def listen(node: Running, after: int, most: int) -> list[tuple[int, str]]:
    """Read up to `most` events, as a listener that then goes away."""
    seen: list[tuple[int, str]] = []
    seq, kind = 0, ""
    async with node.http.get("/v1/feed", headers={"Last-Event-ID": str(after)}) as response:
        assert response.content_type == "text/event-stream"
        async for line in response.content:
            name, _, value = line.decode().strip().partition(": ")
            if name == "id":
                seq = int(value)
            elif name == "event":
                kind = value
            elif name == "data":
                assert json.loads(value)
                seen.append((seq, kind))
                if len(seen) >= most:
                    break
    return seen


async def test_a_feed_with_breaks_has_no_gaps_and_no_repeats(node: Running, broker: Broker) -> None:
    """Whatever the listener read last, the next connection goes on after it."""
    total = 300

    async def work() -> None:
        for index in range(total // 3):
            await node.post([filing(f"{index}/{part}") for part in range(3)])

    working = asyncio.create_task(work())
    seen: list[tuple[int, str]] = []
    for step in range(1, 1_000):
        seen += await asyncio.wait_for(
            listen(node, seen[-1][0] if seen else 0, min(step % 13 + 1, total - len(seen))), 20
        )
        if len(seen) == total:
            break
    await working
    assert [seq for seq, _ in seen] == list(range(1, total + 1))
    assert {kind for _, kind in seen} == {"report.filed"}


async def test_a_listener_from_before_memory_reads_from_disk(node: Running) -> None:
    """More events than are held in memory, from the first on."""
    count = IN_MEMORY + 500
    for start_at in range(0, count, 1_000):
        await node.post([filing("x", report_id=new_id()) for _ in range(start_at, min(start_at + 1_000, count))])
    seen = await asyncio.wait_for(listen(node, 0, count), 60)
    assert [seq for seq, _ in seen] == list(range(1, count + 1))


async def test_many_listeners_get_the_same(node: Running) -> None:
    """Live ones."""
    listeners = [asyncio.create_task(listen(node, 0, 5)) for _ in range(20)]
    await asyncio.sleep(0.05)
    for index in range(5):
        await node.post(filing(str(index)))
    assert {tuple(seen) for seen in await asyncio.gather(*listeners)} == {
        tuple((seq, "report.filed") for seq in range(1, 6))
    }


async def test_a_place_beyond_the_end_is_refused(node: Running, clock: Clock) -> None:
    """A listener of another database must not wait for ever."""
    async with node.http.get("/v1/feed?after=99") as response:
        assert response.status == 422


async def test_alarms_are_in_the_feed(node: Running) -> None:
    """No silence."""
    node.bus.inbox.append(Msg(Kind.DELIVERY, b"nonsense"))
    assert await asyncio.wait_for(listen(node, 0, 1), 5) == [(1, "alarm")]
