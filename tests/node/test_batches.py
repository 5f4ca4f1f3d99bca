"""What is done many at a time is done as if it were one by one."""

from __future__ import annotations

import asyncio

from node.core import NodeCore
from node.ids import Pool
from node.loops import State, Wake
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
    state.ring_arrival()
    async with asyncio.timeout(5):
        while bell.rung < 3:
            await bell.wait(0.1)
