"""What expires is hidden: in time, without a link, after a downtime, to the last byte; and its origin hears of it."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from msgspec import UNSET

from node import timers
from node.core import NodeCore
from node.views import inbox_report, own_report
from protocol import statements as st
from protocol.parts import Handling
from protocol.report import Body
from tests.federation import Federation
from tests.federation import filing as sim_filing
from tests.node.conftest import running
from tests.node.looking import alarms, events, inbox, said, shown
from tests.node.test_filing import file
from tests.node.test_words import word_of
from tests.node.world import (
    CANARY,
    START,
    Broker,
    Clock,
    MemoryBus,
    confirmed,
    filing,
    foreign,
    make_config,
    receipts,
    released,
)

SOON = START + timedelta(hours=1)


def ends(at: datetime | None = SOON) -> dict[str, Any]:
    return {"handling": Handling(expires_at=at)} if at else {}


def bytes_on_disk(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.glob("node.db*")))


def expire(core: NodeCore) -> int:
    total = 0
    while hidden := core.expire():
        total += hidden
    return total


def revisions(core: NodeCore, report_id: Any) -> list[tuple[bool, bool, bool]]:
    """Per revision: whether its content is here, whether it is shown as expired, as withdrawn."""
    with core.store.read() as reads:
        found = inbox_report(reads, str(report_id))
    assert found is not None
    lines = json.loads(msgspec.json.encode(found))["revisions"]
    return [(line["report"] is not None and line["sd_jwt"] != "", line["expired"], line["withdrawn"]) for line in lines]


@pytest.mark.usefixtures("each_database")
@pytest.mark.usefixtures("each_database")
def test_what_expires_is_hidden_and_confirmed_once(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Not a moment before; the fact stays, each origin gets a signed word, a later look changes nothing."""
    lasting, mine, theirs = foreign(), foreign(count=2, **ends()), foreign("sg-cert", **ends())
    core.receive([broker.delivery(*(released(envelope) for envelope in (lasting, mine, theirs)))])
    assert core.next_expiry() == SOON
    clock.now = SOON - timedelta(microseconds=1)
    assert expire(core) == 0
    assert all(row.presentation for row in inbox(core))
    clock.now = SOON
    assert expire(core) == 3
    assert [bool(row.presentation) for row in inbox(core)] == [True, False, False, False]
    words = [word for word in said(core) if word.state == "expired"]
    assert {(word.aud, len(word.reports), word.delivery, word.at) for word in words} == {
        ("my-cert", 2, UNSET, SOON),
        ("sg-cert", 1, UNSET, SOON),
    }
    assert [event["origin"] for event in events(core, "report.expired")].count("my-cert") == 2
    clock.pass_(days=1)
    assert (expire(core), core.next_expiry()) == (0, None)
    assert len(core.words) == 4


@pytest.mark.usefixtures("each_database")
@pytest.mark.usefixtures("each_database")
def test_a_redelivery_of_what_expired_stays_hidden(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """It is confirmed as received again, and nothing of it comes back."""
    message = broker.delivery(released(foreign(**ends())))
    core.receive([message])
    clock.now = SOON
    expire(core)
    core.receive([message])
    (row,) = inbox(core)
    assert row.presentation == ""
    assert expire(core) == 0


def test_what_arrives_after_its_expiry_is_stored_without_content(
    core: NodeCore, broker: Broker, clock: Clock, tmp_path: Path
) -> None:
    """Received and expired, in one transaction: its content is never in the file."""
    clock.now = SOON
    core.receive([broker.delivery(released(foreign(**ends())))])
    (row,) = inbox(core)
    assert (row.presentation, row.view, row.expires_at) == ("", b"null", None)
    assert [word.state for word in said(core)] == ["received", "expired"]
    assert len(events(core, "report.received")) == len(events(core, "report.expired")) == 1
    assert CANARY.encode() not in bytes_on_disk(tmp_path)


def test_a_revision_that_expires_takes_the_earlier_ones_with_it(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """As a withdrawal does, also if an earlier one arrives late; a later revision outlives it."""
    report_id = uuid4()
    third = foreign(report_id=report_id, revision=3, **ends())
    core.receive(
        [
            broker.delivery(released(foreign(report_id=report_id, revision=1))),
            broker.delivery(released(third)),
            broker.delivery(released(foreign(report_id=report_id, revision=4))),
        ]
    )
    clock.now = SOON
    assert expire(core) == 2
    core.receive([broker.delivery(released(foreign(report_id=report_id, revision=2)))])
    hidden = (False, True, False)
    assert revisions(core, report_id) == [hidden, hidden, hidden, (True, False, False)]
    assert [len(word.reports) for word in said(core) if word.state == "expired"] == [2, 1]


def test_an_arrival_that_has_expired_takes_the_earlier_ones_with_it(
    core: NodeCore, broker: Broker, clock: Clock
) -> None:
    """A revision that was long on its way."""
    report_id = uuid4()
    core.receive([broker.delivery(released(foreign(report_id=report_id)))])
    clock.now = SOON
    core.receive([broker.delivery(released(foreign(report_id=report_id, revision=2, **ends())))])
    assert revisions(core, report_id) == [(False, True, False)] * 2


def test_what_was_withdrawn_does_not_expire_as_well(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Its origin has the confirmation of the withdrawal."""
    report_id = uuid4()
    core.receive([broker.delivery(released(foreign(report_id=report_id, **ends())))])
    core.receive([broker.delivery(released(foreign(report_id=report_id, revision=2, phase="withdrawn", body=Body())))])
    clock.now = SOON
    assert expire(core) == 0
    assert revisions(core, report_id)[0] == (False, False, True)


@pytest.mark.parametrize("way", ["expiry", "withdrawal"])
def test_no_byte_of_it_is_left_in_the_files(
    core: NodeCore, broker: Broker, clock: Clock, tmp_path: Path, way: str
) -> None:
    """Neither in the database nor in its write-ahead log; a small report and one that fills pages of its own."""
    report_id = uuid4()
    large = Body(title="Large", description=f"{CANARY} " * 2_000)
    core.receive([broker.delivery(released(foreign(report_id=report_id, **ends())))])
    core.receive([broker.delivery(released(foreign(report_id=uuid4(), body=large, **ends())))])
    core.receive([broker.delivery(released(foreign(report_id=report_id, revision=2, body=large, **ends())))])
    core.store.scrub()
    rows = inbox(core)
    # In pieces: a long text lies on several pages.
    pieces = [row.presentation[at : at + 30].encode() for row in rows for at in range(1_000, len(row.presentation), 99)]
    before = bytes_on_disk(tmp_path)
    assert CANARY.encode() in before
    assert sum(piece in before for piece in pieces) > 0.9 * len(pieces)
    if way == "expiry":
        clock.now = SOON
        assert expire(core) == 3
    else:
        for index, row in enumerate((rows[2], rows[1])):
            ended = foreign(report_id=row.report_id, revision=3 + index, phase="withdrawn", body=Body())
            core.receive([broker.delivery(released(ended))])
    assert core.store.unscrubbed
    assert core.store.scrub()
    after = bytes_on_disk(tmp_path)
    assert CANARY.encode() not in after
    assert not any(piece in after for piece in pieces)


def test_scrubbing_waits_for_readers_and_not_for_long(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """A reader in the way is no fault: the next look scrubs."""
    core.receive([broker.delivery(released(foreign(**ends())))])
    core.store.scrub()
    with core.store.read() as reads:
        reads.next_expiry()
        clock.now = SOON
        expire(core)
        assert not core.store.scrub()
        assert core.store.unscrubbed
    assert core.store.scrub()
    assert not core.store.unscrubbed


async def test_what_expires_during_a_downtime_is_hidden_before_the_door_opens(
    tmp_path: Path, clock: Clock, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node was down for the whole time and has no link when it returns; later its word is sent."""
    bus = MemoryBus()
    bus.inbox.append(broker.delivery(released(foreign(**ends()))))
    async with running(make_config(tmp_path), clock, bus) as node:
        await bus.until(lambda: not bus.inbox and not bus.unacked)
        assert CANARY in json.dumps((await node.get("/v1/inbox"))["reports"])
    clock.pass_(days=30)
    offline = MemoryBus()
    offline.up = False

    async def never(*_: Any) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(timers, "expire", never)
        async with running(make_config(tmp_path), clock, offline) as node:
            (report,) = (await node.get("/v1/inbox"))["reports"]
            assert (report["report"], report["expired"], report["withdrawn"]) == (None, True, False)
    again = MemoryBus()
    again.up = False
    async with running(make_config(tmp_path), clock, again):
        await again.until(lambda: CANARY.encode() not in bytes_on_disk(tmp_path / "data"))
        again.up = True
        await again.until(lambda: len(again.sent) == 1)
        states = [word.split(".")[1] for word in json.loads(again.sent[0].data)]
        assert len(states) == 2


@pytest.mark.usefixtures("each_database")
@pytest.mark.usefixtures("each_database")
async def test_a_running_node_hides_in_time_without_a_link(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """The loop looks when something is due; the files are clean soon after."""
    bus = MemoryBus()
    bus.inbox.append(broker.delivery(released(foreign(**ends(START + timedelta(milliseconds=300))))))
    async with running(make_config(tmp_path), clock, bus) as node:
        await bus.until(lambda: not bus.inbox and not bus.unacked)
        bus.up = False
        clock.now = SOON
        async with asyncio.timeout(10):
            while (await node.get("/v1/inbox"))["reports"][0]["report"] is not None:
                await asyncio.sleep(0.01)
        await bus.until(lambda: CANARY.encode() not in bytes_on_disk(tmp_path / "data"))


async def test_an_arrival_wakes_the_loop(
    tmp_path: Path, clock: Clock, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new report may expire before the time for which the loop has lain down."""
    looked, bus = [], MemoryBus()
    look = NodeCore.next_expiry

    def looking(self: NodeCore) -> datetime | None:
        looked.append(look(self))
        return looked[-1]

    monkeypatch.setattr(NodeCore, "next_expiry", looking)
    soon = START + timedelta(milliseconds=300)
    async with running(make_config(tmp_path), clock, bus) as node:
        await bus.until(lambda: looked)
        bus.inbox.append(broker.delivery(released(foreign(**ends(soon)))))
        await bus.until(lambda: soon in looked)
        clock.now = SOON
        async with asyncio.timeout(10):
            while (await node.get("/v1/inbox"))["reports"][0]["report"] is not None:
                await asyncio.sleep(0.01)


# --- at the origin -----------------------------------------------------------------------------------------------


def still(core: NodeCore, report_id: str) -> list[Any]:
    return [revision.get("still_held_by") for revision in shown(core, report_id)["revisions"]]


@pytest.mark.usefixtures("each_database")
@pytest.mark.usefixtures("each_database")
def test_the_origin_sees_who_still_holds_what_expired(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Of those who received it; its own record stays; nothing is said before that time."""
    answer = file(core, filing(handling={"expires_at": SOON.isoformat()}))
    core.receive([receipts(broker.receipt(core.outgoing(1)[0].data))])
    core.receive([confirmed(word_of(broker, answer["digest"]), word_of(broker, answer["digest"], "read"))])
    core.receive([confirmed(word_of(broker, answer["digest"], "refused", "sg-cert"))])
    assert still(core, answer["report_id"]) == [None]
    clock.now = SOON
    assert expire(core) == 0
    assert still(core, answer["report_id"]) == [["my-cert"]]
    core.receive([confirmed(word_of(broker, answer["digest"], "expired"))])
    assert still(core, answer["report_id"]) == [[]]
    report = shown(core, answer["report_id"])["revisions"][0]
    assert report["report"]["body"]["title"] == "Phishing"
    assert [word["state"] for word in report["recipients"]["my-cert"]["confirmations"]] == [
        "read",
        "received",
        "expired",
    ]
    assert alarms(core) == []


def test_the_origin_sees_who_still_holds_what_was_withdrawn(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Until the recipient has received the withdrawal; the withdrawal itself holds nothing."""
    answer = file(core, filing())
    withdrawal = file(core, filing(report_id=answer["report_id"], revision=2, phase="withdrawn", body={}))
    for outgoing in core.outgoing(9):
        core.receive([receipts(broker.receipt(outgoing.data))])
    for member in ("my-cert", "sg-cert"):
        core.receive([confirmed(word_of(broker, answer["digest"], by=member))])
    assert still(core, answer["report_id"]) == [["my-cert", "sg-cert"], None]
    core.receive([confirmed(word_of(broker, withdrawal["digest"], by="sg-cert"))])
    assert still(core, answer["report_id"]) == [["my-cert"], None]


def test_the_word_goes_through_a_real_broker(tmp_path: Path) -> None:
    """The broker records it, passes it on, and the origin's status says so."""
    region = Federation(tmp_path, ["id", "my", "sg"])
    (answer,) = region.post("id", sim_filing(1, handling={"expires_at": "2026-03-02T08:00:00Z"}))
    region.settle()
    region.clock.now = datetime.fromisoformat("2026-03-02T08:00:00+00:00")
    origin = region.nodes["id"]

    def holders() -> Any:
        with origin.store.read() as reads:
            found = own_report(reads, answer["report_id"], region.clock())
        assert found is not None
        return found["revisions"][0]["still_held_by"]

    assert holders() == ["my", "sg"]
    expire(region.nodes["my"])
    region.settle()
    assert holders() == ["sg"]
    expire(region.nodes["sg"])
    region.settle()
    assert holders() == []
    assert all(row.presentation == "" for name in ("my", "sg") for row in region.inbox(name))


def test_expired_is_a_state_that_members_may_sign() -> None:
    """Others are refused."""
    assert msgspec.convert("expired", st.State) == "expired"
