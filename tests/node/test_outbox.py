"""The schedule of what waits."""

from __future__ import annotations

from datetime import timedelta

from node.core import NodeCore
from node.outbox import MOST_WAIT, Outbox
from tests.node.test_filing import file
from tests.node.world import START, Broker, Clock, filing, receipts, seeded


def box() -> Outbox:
    made = Outbox(seeded("outbox"))
    made.add(1, START, START, weight=3)
    return made


def test_what_is_new_is_due_at_once_and_only_once() -> None:
    """Until somebody says how the attempt ended."""
    made = box()
    assert made.take(START, 9) == [1]
    assert made.take(START + timedelta(hours=1), 9) == []


def test_waits_double_to_their_limit() -> None:
    """2 s after a failure, at most a minute, with jitter of a quarter."""
    made, now, waits = box(), START, []
    for _ in range(9):
        assert made.take(now, 1) == [1]
        made.tried([1], now, stored=False)
        due = made.next_due()
        assert due is not None
        waits.append((due - now).total_seconds())
        now = due
    assert 1.5 <= waits[0] <= 2.5
    assert all(wait <= MOST_WAIT.total_seconds() * 1.25 for wait in waits)
    assert waits[-1] >= MOST_WAIT.total_seconds() * 0.75


def test_what_is_settled_is_never_due_again() -> None:
    """Also if its receipt comes while it is being sent."""
    made = box()
    made.take(START, 1)
    made.settle([1])
    made.tried([1], START, stored=True)
    assert (len(made), made.weight, made.next_due(), made.oldest()) == (0, 0, None, None)


def test_a_new_link_hurries_what_failed_only() -> None:
    """What the bus stored has a receipt on its way."""
    made = box()
    made.add(2, START, START)
    assert made.take(START, 9) == [1, 2]
    made.tried([1], START, stored=False)
    made.tried([2], START, stored=True)
    made.hurry(START)
    assert made.take(START, 9) == [1]


def test_each_attempt_sends_the_same_bytes_until_the_receipt(core: NodeCore, clock: Clock, broker: Broker) -> None:
    """And never again after it."""
    file(core, filing())
    first = core.outgoing(9)
    core.tried([number for message in first for number in message.numbers], [])
    assert core.outgoing(9) == []
    clock.pass_(seconds=13)
    again = core.outgoing(9)
    assert again == first
    core.tried(list(again[0].numbers), [])
    core.receive([receipts(broker.receipt(first[0].data))])
    clock.pass_(hours=1)
    assert core.outgoing(9) == []
