"""What is done many at a time is done as if it were one by one."""

from __future__ import annotations

import asyncio

from node.core import NodeCore
from node.ids import Pool
from node.loops import PACE, State, Wake
from protocol.statements import Refusal, ReportReceipt
from tests.node.looking import alarms, events
from tests.node.test_filing import file
from tests.node.world import Broker, filing, receipts, seeded


def test_randomness_is_given_out_once() -> None:
    """In the order in which it was drawn, however much is asked for."""
    pool, drawn = Pool(seeded("pool")), seeded("pool")(5 * 4_096)
    at = 0
    for size in (0, 1, 4_000, 16, 4_080, 5, 5_000):
        found = pool(size)
        assert len(found) == size
        if size:
            place = drawn.index(found)
            assert place >= at
            at = place + size


def test_more_receipts_than_one_question_takes(core: NodeCore, broker: Broker) -> None:
    """Each is found, and settles its own submission."""
    texts = []
    for number in range(11):
        file(core, *(filing(f"{number}-{index}") for index in range(50)))
    while found := core.outgoing(50):
        texts += [broker.receipt(item.data) for item in found]
    taken = core.receive([receipts(*texts)])
    assert taken.counts == {("accepted", ""): 550}
    assert len(core.outbox) == 0
    with core.store.read() as reads:
        assert {row.state for row in reads.own_page(0, 600)} == {"accepted"}
        digests = [row.digest for row in reads.own_page(0, 600)]
        assert len(reads.own_states(digests)) == 550


def test_two_receipts_for_one_submission_in_one_message(core: NodeCore, broker: Broker) -> None:
    """The first one counts, the other one is an alarm."""
    file(core, filing())
    message = core.outgoing(1)[0].data
    core.receive([receipts(broker.receipt(message), broker.receipt(message))])
    assert alarms(core) == ["content-changed"]
    assert len(events(core, "report.receipt")) == 1


def test_what_stays_at_home_is_not_rejected_with_its_envelope(core: NodeCore, broker: Broker) -> None:
    """A receipt says nothing of it, and changes nothing."""
    file(core, filing("For my"), filing("For nobody", marking={"tlp": "AMBER", "recipients": ["id"]}))
    message = core.outgoing(1)[0].data
    assert len(broker.open(message).reports) == 1
    core.receive([receipts(broker.receipt(message))])
    with core.store.read() as reads:
        assert sorted(row.state for row in reads.own_page(0, 9)) == ["accepted", "kept"]
    assert alarms(core) == []


def test_a_rejected_revision_keeps_nobody_from_reading_the_one_before(core: NodeCore, broker: Broker) -> None:
    """Though its receipt came first."""
    report_id = file(core, filing())["report_id"]
    (first,) = core.outgoing(1)
    file(core, {**filing("Later"), "report_id": report_id, "revision": 2, "phase": "intermediate"})
    (second,) = core.outgoing(1)
    (late,) = broker.open(second.data).reports
    refusal = Refusal(reason="revision-gap")
    said = [ReportReceipt(digest=late.digest, outcome="rejected", refusal=refusal)]
    core.receive([receipts(broker.receipt(second.data, reports=said))])
    core.receive([receipts(broker.receipt(first.data))])
    with core.store.read() as reads:
        (owed,) = reads.escalations_by([report.digest for report in broker.open(first.data).reports])
    assert owed.revision == 1


class Counting(Wake):
    """A bell that knows how often it rang."""

    rung = 0

    def ring(self) -> None:
        self.rung += 1
        super().ring()


async def test_arrivals_in_one_moment_are_told_together() -> None:
    """The first at once, the others soon, and none without a word."""
    state, bell = State(), Counting()
    state.on_arrival(bell)
    for _ in range(4):
        state.ring_arrival()
    assert bell.rung == 1
    async with asyncio.timeout(5):
        while bell.rung < 2:
            await bell.wait(0.1)
    # Later, when nothing was told for a while, at once again.
    await asyncio.sleep(2 * PACE)
    assert bell.rung == 2
    state.ring_arrival()
    assert bell.rung == 3
