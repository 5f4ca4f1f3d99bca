"""A node whose database server goes away: what was promised, what is sent, and what is remembered."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from node.intake import Posting, read_item
from node.store import Event
from protocol.errors import Transient
from tests import databases
from tests.node.world import Broker, Clock, filing, make_core, receipts

pytestmark = pytest.mark.usefixtures("on_postgresql")


def posting(title: str, clock: Clock) -> Posting:
    item = read_item(msgspec.json.encode(filing(title)), at="$", jurisdictions={"id", "my", "sg"}, now=clock())
    return Posting(items=(item,), many=False)


@pytest.mark.parametrize("committed", [False, True])
def test_a_commit_whose_answer_was_lost(tmp_path: Path, clock: Clock, broker: Broker, committed: bool) -> None:
    """The client was told to try again. Either nothing is here; or the report is, is sent, and stays the same one."""
    core = make_core(tmp_path, clock)
    announced: list[Event] = []
    core.store.on_events = announced.extend
    core.file([posting("first", clock)])
    with databases.broken_commit(core.store.engine, committed=committed), pytest.raises(Transient):
        core.file([posting("second", clock)])
    sent = core.outgoing(8)
    assert len(sent) == 1 + committed, "what is on disk is sent, though nobody was told that it is"
    (again,) = core.file([posting("second", clock)])
    core.file([posting("third", clock)])
    sent += core.outgoing(8)
    assert len({number for outgoing in sent for number in outgoing.numbers}) == 3
    with core.store.read() as reads:
        rows = reads.own_page(0, 10)
        events = reads.events_after(0, 100)
    assert len(rows) == 3
    assert {row.digest for row in rows} >= {msgspec.json.decode(again.body)["digest"]}  # type: ignore[union-attr]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.seq for event in announced] == [event.seq for event in events], "listeners miss none"
    core.receive([receipts(*(broker.receipt(outgoing.data) for outgoing in sent))])
    assert len(core.outbox) == 0
    core.store.close()


def test_what_was_in_hand_is_not_forgotten(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database goes away between taking a submission from the schedule and reading it: it is due again."""
    core = make_core(tmp_path, clock)
    core.file([posting("first", clock)])
    with monkeypatch.context() as patch:
        patch.setattr(core.store, "read", away)
        with pytest.raises(Transient):
            core.outgoing(8)
    clock.pass_(minutes=2)
    assert len(core.outgoing(8)) == 1
    core.store.close()


def away() -> None:
    raise Transient("database: away")


def test_a_lost_session_is_made_good_at_the_next_write(tmp_path: Path, clock: Clock) -> None:
    """One attempt fails, and is repeated by whoever made it; the numbers go on."""
    core = make_core(tmp_path, clock)
    core.file([posting("first", clock)])
    with core.store.read() as reads:
        reads._db.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'kentongan node' AND datname = current_database()"
            )
        )
    with pytest.raises(Transient):
        core.file([posting("second", clock)])
    core.file([posting("second", clock)])
    with core.store.read() as reads:
        assert [row.seq for row in reads.own_page(0, 10)] == [1, 2]
    core.store.close()
