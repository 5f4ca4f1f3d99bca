"""The client: what it sends again, what it never sends twice, what it skips never."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from kentongan import results
from kentongan.client import Client, Event, Never, Outcome, Problem, Unreachable
from kentongan.events import Reader
from node.api.addresses import IN_PATH, OPERATIONS
from node.api.openapi import document
from protocol.envelope import SignedReport
from protocol.statements import Refusal as _Refusal
from protocol.subjects import Kind
from tests.node.asking import make
from tests.node.conftest import Running, Start
from tests.node.test_words import word_of
from tests.node.world import TOKEN, Broker, MemoryBus, confirmed, filing, foreign, receipts, released


def unavailable(after: str) -> bytes:
    return f"HTTP/1.1 503 Later\r\nRetry-After: {after}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def keys(wire: Any) -> list[bytes]:
    return [found[1] for request in wire.requests for found in re.finditer(rb"(?i)idempotency-key: (\S+)", request)]


async def test_one_report(client: Client, node: Running) -> None:
    """Accepted is on disk; refused is a `Problem` with reason and path; equal content is the same report."""
    outcome = await client.post(filing())
    assert (outcome.accepted, outcome.state, outcome.location) == (True, "queued", f"/v1/reports/{outcome.report_id}")
    assert (await client.post(json.dumps(filing()).encode())).digest == outcome.digest
    with pytest.raises(Problem) as caught:
        await client.post({"marking": {"tlp": "RED"}, "rsit": [{"class": "fraud"}]})
    assert (caught.value.status, caught.value.reason, caught.value.path) == (422, "recipients-required", "$.marking")
    assert (await client.status(outcome.report_id)).newest.digest == outcome.digest


async def test_many_reports_in_parts(client: Client, node: Running) -> None:
    """One outcome each, in order, whatever is wrong with the others, and however they are written."""

    async def reports() -> AsyncIterator[Any]:
        for index in range(250):
            yield filing(f"Report {index}") if index % 100 != 7 else {"marking": {}}
        yield json.dumps(filing("Pretty"), indent=2).encode()
        yield b"\n"
        yield b'{\n"broken'
        yield b"{broken"
        yield filing("Last")

    found = await client.post_many(reports(), chunk=40)
    assert [one.index for one in found] == list(range(255))
    refused = {one.index: (one.status, one.reason, one.path) for one in found if not one.accepted}
    assert refused == {
        **dict.fromkeys((7, 107, 207), (422, "missing-field", "$.marking.tlp")),
        **dict.fromkeys((251, 252, 253), (400, "not-json", "$")),
    }
    own = [line async for line in client.reports(page=37)]
    assert [line.digest for line in own] == [one.digest for one in found if one.accepted]
    assert (await client.status(found[250].report_id)).newest.report["body"]["title"] == "Pretty"


async def test_all_refused_is_no_problem(client: Client) -> None:
    """422 with a result for each."""
    assert [one.status for one in await client.post_many([{}, {}])] == [422, 422]


async def test_a_lost_answer_is_asked_for_with_the_same_key(wired: Any, node: Running) -> None:
    """The node took it and nobody heard: the second request gets the first one's answer, and there is one report."""
    wire, client = await wired()
    wire.cut_after.extend([1, 40])
    found = await client.post_many([filing("A"), filing("B")])
    assert [one.accepted for one in found] == [True, True]
    assert len(keys(wire)) == 3
    assert len(set(keys(wire))) == 1
    assert len((await node.get("/v1/reports"))["reports"]) == 2


async def test_requests_have_keys_of_their_own(wired: Any) -> None:
    """Each part another one; a caller's own key is sent as it is."""
    wire, client = await wired()
    await client.post_many([filing(str(index)) for index in range(6)], chunk=2)
    await client.post(filing("mine"), key="ticket-17")
    found = keys(wire)
    assert len(set(found)) == 4
    assert found[-1] == b"ticket-17"


async def test_it_waits_as_long_as_the_node_asks(wired: Any) -> None:
    """Not a second less, though its own waits are shorter."""
    wire, client = await wired()
    wire.instead.append(unavailable("1"))
    started = time.monotonic()
    assert (await client.post(filing())).accepted
    assert time.monotonic() - started >= 1
    wire.instead.append(unavailable("3600"))
    with pytest.raises(Problem) as caught:
        await client.post(filing())
    assert (caught.value.status, caught.value.retry_after) == (503, 3600)


async def test_a_full_backlog_is_told_when_patience_ends(start: Start) -> None:
    """The node's own reason, not a vague one."""
    bus = MemoryBus()
    bus.up = False
    node = await start(bus, backlog=1)
    async with Client(node.node.url, TOKEN, patience=0) as client:
        await client.post(filing())
        with pytest.raises(Problem) as caught:
            await client.post(filing("B"))
    assert caught.value.reason == "backlog-full"


async def test_a_proxy_with_a_smaller_limit(wired: Any, node: Running) -> None:
    """Parts are halved until they pass; what never passes is told of alone."""
    wire, client = await wired()
    wire.most = 4_000
    found = await client.post_many([filing(str(index)) for index in range(20)] + [filing("x" * 250, note="y" * 5_000)])
    assert [one.index for one in found] == list(range(21))
    assert [one.accepted for one in found] == [True] * 20 + [False]
    assert (found[20].status, found[20].reason) == (413, "too-large")
    assert len(set(keys(wire))) == len(keys(wire)), "another body needs another key"


async def test_nobody_there() -> None:
    """After its patience, in words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}", "x", patience=0.1, first_wait=0.02) as client:
        with pytest.raises(Unreachable, match="does not answer"):
            await client.status("00000000-0000-4000-8000-000000000001")


async def test_what_is_no_node(wired: Any) -> None:
    """A redirect is not followed; a page of something else is said to be one. Neither is tried again."""
    wire, client = await wired()
    for answer in (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 404 No\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>",
    ):
        wire.instead.append(answer)
        before = len(wire.requests)
        with pytest.raises(Problem) as caught:
            await client.post(filing())
        assert caught.value.reason == ""
        assert len(wire.requests) == before + 1


async def test_wrong_token(node: Running) -> None:
    """At once, for the feed too."""
    async with Client(node.node.url, "wrong") as client:
        with pytest.raises(Problem, match="token-invalid"):
            await client.post(filing())
        with pytest.raises(Problem, match="token-invalid"):
            await anext(client.feed())


@pytest.mark.parametrize("url", ["", "127.0.0.1:8440", "ftp://x", "http://"])
def test_wrong_urls(url: str) -> None:
    """Said before anything is sent."""
    with pytest.raises(ValueError, match="URL"):
        Client(url, "x")


# --- the feed ---------------------------------------------------------------------------------------------------


async def test_the_feed_goes_on_where_it_was(wired: Any, node: Running) -> None:
    """Cut anywhere, also within an event: every event once, in order."""
    wire, client = await wired()
    wire.cut_after.extend((700, 1_555))
    total = 60

    async def work() -> None:
        for index in range(total):
            await node.post(filing(str(index)))

    working = asyncio.create_task(work())
    seen: list[int] = []
    async with asyncio.timeout(20):
        async for event in client.feed(after=0):
            assert event.kind == "report.filed"
            seen.append(event.id)
            if len(seen) == total:
                break
    await working
    assert seen == list(range(1, total + 1))
    assert not wire.cut_after


async def test_what_happens_before_the_first_event_is_not_skipped(wired: Any, node: Running) -> None:
    """It began with what is next; the connection broke before anything was; what then happened is that."""
    await node.post(filing("before"))
    wire, client = await wired(first_wait=0.2)
    feed = client.feed()
    waiting = asyncio.ensure_future(anext(feed))
    async with asyncio.timeout(5):
        while not wire.requests or b"feed" not in wire.requests[0]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    wire.cut()
    _, own, _ = await node.post(filing("while nobody listened"))
    event = await asyncio.wait_for(waiting, 5)
    assert event.data["report_id"] == own["report_id"]
    await feed.aclose()  # type: ignore[attr-defined]


async def test_a_place_of_another_node(client: Client) -> None:
    """Refused, not waited for."""
    with pytest.raises(Problem, match="out-of-range"):
        await anext(client.feed(after=10_000))


def test_events_however_they_are_cut() -> None:
    """Each byte alone; comments, ids alone, line ends of both kinds, data on two lines."""
    text = (
        b'id: 7\nretry: 1000\n\n: hello\n\nid: 8\r\nevent: a\r\ndata: {"x":1}\r\n\r\nid: 9\ndata: {"y":\ndata: 2}\n\n'
    )
    reader = Reader()
    found = [event for byte in text for event in reader.take(bytes([byte]))]
    assert found == [Event(id=8, kind="a", data={"x": 1}), Event(id=9, kind="message", data={"y": 2})]
    assert (reader.position, reader.wait) == (9, 1.0)
    assert list(Reader().take(text)) == found
    assert list(reader.take(b'id: 10\nevent: a\ndata: {"cut')) == []
    assert reader.position == 9, "the event that was cut off was not seen"


# --- waiting ----------------------------------------------------------------------------------------------------


async def until_sent(node: Running, count: int = 1) -> bytes:
    await node.bus.until(lambda: len(node.bus.of(Kind.SUBMISSION)) >= count)
    return node.bus.of(Kind.SUBMISSION)[count - 1]


async def test_waiting_for_a_recipient(client: Client, node: Running, broker: Broker) -> None:
    """Accepted, received, read: each as soon as it is known, also if it was before one asked."""
    own = await client.post(filing())
    waiting = {word: asyncio.create_task(client.wait_for(own.report_id, word)) for word in ("accepted", "read")}  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        await client.wait_for(own.report_id, "accepted", timeout=0.05)
    node.bus.inbox.append(receipts(broker.receipt(await until_sent(node))))
    assert (await asyncio.wait_for(waiting["accepted"], 5)).state == "accepted"
    for by in ("my-cert", "sg-cert"):
        node.bus.inbox.append(confirmed(word_of(broker, own.digest, "received", by)))
    status = await client.wait_for(own.report_id, "received", timeout=5)
    assert status.newest.recipients["my-cert"].state == "received"
    assert not waiting["read"].done()
    for by in ("my-cert", "sg-cert"):
        node.bus.inbox.append(confirmed(word_of(broker, own.digest, "acting", by)))
    await asyncio.wait_for(waiting["read"], 5)
    assert (await client.wait_for(own.report_id, "read", members=["my-cert"])).report_id == own.report_id


async def test_waiting_for_what_will_not_come(client: Client, node: Running, broker: Broker) -> None:
    """Refused by the recipient, or never granted: said at once, with the status that says why."""
    own = await client.post(filing())
    node.bus.inbox.append(receipts(broker.receipt(await until_sent(node))))
    await client.wait_for(own.report_id, "accepted", timeout=5)
    with pytest.raises(Never, match="th-cert denied"):
        await client.wait_for(own.report_id, "received", members=["th-cert"])
    refusal = {"reason": "denied-by-rule"}
    word = word_of(broker, own.digest, "refused", refusal=msgspec.convert(refusal, type=_Refusal))
    node.bus.inbox.append(confirmed(word))
    with pytest.raises(Never, match="my-cert refused") as caught:
        await client.wait_for(own.report_id, "read", timeout=5)
    assert caught.value.status.newest.recipients["my-cert"].confirmations[0].refusal is not None


# --- reading ----------------------------------------------------------------------------------------------------


async def test_reading_and_confirming(client: Client, node: Running, broker: Broker) -> None:
    """The inbox page by page; the own word, once."""
    envelope = foreign(count=5)
    node.bus.inbox.append(broker.delivery(released(envelope)))
    await node.bus.until(lambda: not node.bus.inbox and not node.bus.unacked)
    lines = [line async for line in client.inbox(page=2)]
    assert {line.digest for line in lines} == {one.digest for one in envelope.reports if isinstance(one, SignedReport)}
    assert [line.digest async for line in client.inbox(after=lines[2].seq)] == [line.digest for line in lines[3:]]
    assert (lines[0].report or {})["body"]["title"].startswith("Report ")
    said = await client.confirm(lines[0].report_id, "read")
    assert said == await client.confirm(lines[0].report_id, "read", revision=1)
    with pytest.raises(Problem, match="unknown-value"):
        await client.confirm(lines[0].report_id, "eaten")


async def test_explaining(client: Client) -> None:
    """In sentences, and nothing is filed."""
    found = await client.explain(filing(), lang="ja")
    assert {one.jurisdiction for one in found.recipients} == {"my", "sg"}
    assert found.recipients[0].says.headline
    assert [line async for line in client.reports()] == []


# --- the contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("Status", "OwnReport"),
        ("Revision", "OwnRevision"),
        ("Recipient", "RecipientView"),
        ("Proof", "Proof"),
        ("Refusal", "Refusal"),
        ("Confirmed", "Confirmed"),
        ("Own", "OwnLine"),
        ("OwnPage", "OwnPage"),
        ("Received", "InboxLine"),
        ("ReceivedPage", "InboxPage"),
        ("Origin", "OriginView"),
        ("Said", "Said"),
        ("Explanation", "Explanation"),
        ("Explained", "Explained"),
        ("Sentences", "Sentences"),
    ],
)
def test_the_client_reads_what_is_described(mine: str, theirs: str) -> None:
    """Every field that it knows is in the node's document, and one that it needs is always there."""
    schema = document(OPERATIONS, IN_PATH)["components"]["schemas"][theirs]
    for field in msgspec.structs.fields(getattr(results, mine)):
        assert field.encode_name in schema["properties"], field.name
        if field.required:
            assert field.encode_name in schema["required"], field.name


def test_outcomes_are_described() -> None:
    """Those of accepted and of refused items."""
    schemas = document(OPERATIONS, IN_PATH)["components"]["schemas"]
    items = ("FiledItem", "HeldItem", "RefusedItem")
    assert set(Outcome.__struct_fields__) == {name for kind in items for name in schemas[kind]["properties"]}
    assert set(results.Source.__struct_fields__) == set(schemas["Place"]["properties"])


async def test_what_is_held_is_told(node: Running) -> None:
    """A token whose reports wait gets the number in the review queue, alone and in a list."""
    async with Client(node.node.url, await make(node, "bot", "submit", require_release=True)) as client:
        alone = await client.post(filing())
        assert (alone.accepted, alone.state, alone.review, alone.report_id) == (True, "held", 1, "")
        assert [one.review for one in await client.post_many([filing(), filing("B")])] == [1, 2]
