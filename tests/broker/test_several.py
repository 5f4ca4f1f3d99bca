"""Several broker processes on one ledger, each played by its own objects and connections; on a real PostgreSQL."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from broker import log as log_module
from broker import members, policies, store, tables
from broker.ingest import Incoming, Ingest
from broker.log import PATIENCE, ROUND, Log
from broker.store import Store
from protocol.errors import Transient
from protocol.logrpc import ConsistencyRequest, NextRequest, ProveRequest
from protocol.merkle import root_of
from protocol.published import publish
from protocol.reasons import Reason
from protocol.report import Origin
from protocol.statements import BROKER, Receipt, open_statement
from protocol.subjects import Kind
from tests import databases
from tests.broker.make import Hub
from tests.broker.test_ingest import report
from tests.broker.test_log import NAMES, Place, entries, line
from tests.federation import open_policy
from tests.protocol import make
from tests.protocol.make import NOW, refused

pytestmark = pytest.mark.usefixtures("on_postgresql")


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[tuple[Hub, Hub]]:
    first = Hub(tmp_path)
    second = Hub(tmp_path)
    second.core = Ingest(second.store, make.key_of(BROKER), lambda: second.state, random.Random(2).randbytes)
    yield first, second
    first.examine()
    first.store.close()
    second.store.close()


def submission(number: int, member: str = "id-cert") -> Incoming:
    """One that no other test process sends."""
    signed = make.signed(report(number), issuer=member, seed=f"{member}{number}", at=NOW)
    return Incoming(member, Kind.SUBMISSION, make.whole(signed).encode())


def receipts(work: Any, hub: Hub, member: str = "id-cert") -> list[str]:
    found = [item for item in work.outgoing if item.kind == Kind.RECEIPTS and item.member == member]
    return [jws for item in found for jws in msgspec.json.decode(item.data)]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What calls return that begin together, each on a thread of its own."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# --- deciding ---------------------------------------------------------------------------------------------------


def test_numbers_have_no_gaps_whoever_commits(hubs: tuple[Hub, Hub]) -> None:
    """Batches of two processes in each other's way: each receipt's leaf is its own, and none is left out."""

    def process(hub: Hub, numbers: range) -> list[str]:
        found: list[str] = []
        for number in numbers:
            found += receipts(hub.core.process([submission(number), submission(number + 500)], NOW), hub)
        return found

    given = at_once(lambda: process(hubs[0], range(1, 25)), lambda: process(hubs[1], range(101, 125)))
    leaves = sorted(open_statement(jws, Receipt, hubs[0].keys.find, NOW).leaf for signed in given for jws in signed)
    assert leaves == list(range(96))
    for table, key in (("submissions", "id"), ("reports", "seq"), ("deliveries", "id"), ("feed", "id")):
        numbers = sorted(getattr(row, key) for row in hubs[0].rows(table))
        assert numbers == list(range(1, len(numbers) + 1)), table


def test_the_same_submission_at_two_processes_is_decided_once(hubs: tuple[Hub, Hub]) -> None:
    """The bus delivered it again, to another: both send the one receipt."""
    for number in range(10):
        item = submission(number)
        works = at_once(*(lambda hub=hub, item=item: hub.core.process([item], NOW) for hub in hubs))
        assert receipts(works[0], hubs[0]) == receipts(works[1], hubs[1])
        assert sorted(work.replays for work in works) == [0, 1]
    assert len(hubs[0].rows("submissions")) == 10


def test_a_report_id_is_taken_once(hubs: tuple[Hub, Hub]) -> None:
    """Two members claim it at two processes in the same moment: one of them has it."""
    for number in range(5):
        mine, theirs = report(number), report(number, origin=Origin(jurisdiction="sg", member="sg-cert"))
        texts = [
            make.whole(make.signed(item, issuer=member, seed=f"{member}{number}", at=NOW))
            for item, member in ((mine, "id-cert"), (theirs, "sg-cert"))
        ]
        calls = zip(hubs, ("id-cert", "sg-cert"), texts, strict=True)
        works = at_once(*(lambda h=hub, m=member, t=text: h.take(m, Kind.SUBMISSION, t) for hub, member, text in calls))
        outcomes = sorted(outcome for work in works for outcome, _ in work.counts)
        assert outcomes == ["accepted", "rejected"]


def test_a_decision_knows_the_policies_of_all_processes(hubs: tuple[Hub, Hub]) -> None:
    """What another process took in counts at once, though this one has not looked for it yet."""
    first, second = hubs

    def current(connection: store.Connection) -> members.RegionState:
        if store.last_number(connection, tables.policies) != second.state.published:
            found = policies.published_policies(second.store, second.state.registry, second.now)
            files = list(second.policies.values())
            second.state = members.with_published(second.state.registry, files, found)
        return second.state

    second.core = Ingest(
        second.store, make.key_of(BROKER), lambda: second.state, random.Random(2).randbytes, current=current
    )
    _, before = second.submit(report(1), seed="before")
    assert "sg-cert" in second.delivered(before)
    closed = open_policy("id", version=2, effective_from=NOW, export=[])
    later = NOW + timedelta(seconds=3)
    jws = publish(closed, "id-cert", make.key_of("id-cert"), later)
    assert policies.take(first.store, "id-cert", jws.encode(), first.state.registry, later)
    receipt, after = second.submit(report(2), seed="after")
    assert second.delivered(after) == {}
    assert receipt.received_at >= later, "not before the policy by which it was decided"


def test_a_policy_is_published_once(hubs: tuple[Hub, Hub]) -> None:
    """Two versions of one number at two processes: one is refused."""
    versions = [open_policy("id", effective_from=NOW, description=said) for said in ("one", "two")]
    texts = [publish(policy, "id-cert", make.key_of("id-cert"), NOW).encode() for policy in versions]

    def take(hub: Hub, data: bytes) -> str:
        try:
            policies.take(hub.store, "id-cert", data, hub.state.registry, NOW)
        except Exception as exc:  # noqa: BLE001 - told by its kind below
            return str(getattr(exc, "reason", exc))
        return "taken"

    said = at_once(*(lambda hub=hub, data=data: take(hub, data) for hub, data in zip(hubs, texts, strict=True)))
    assert sorted(said) == sorted(["taken", str(Reason.REVISION_CONFLICT)])


# --- deliveries -------------------------------------------------------------------------------------------------


def test_a_delivery_that_is_due_is_sent_by_one_process(hubs: tuple[Hub, Hub]) -> None:
    """All of them look every second; each delivery falls to one of them."""
    for number in range(12):
        hubs[0].submit(report(number), seed=str(number))
    later = NOW + timedelta(minutes=1)
    found = at_once(*(lambda hub=hub: hub.redelivery.due(later, ()) for hub in hubs))
    sent = [item.delivery for due in found for item in due.outgoing if item.delivery is not None]
    assert len(sent) == len(set(sent)) == len(hubs[0].rows("deliveries"))
    assert not any(due.outgoing for due in at_once(*(lambda hub=hub: hub.redelivery.due(later, ()) for hub in hubs)))


def test_a_confirmation_is_not_undone_by_the_process_that_sent(hubs: tuple[Hub, Hub]) -> None:
    """Noting that something was sent, at one process, and its confirmation, at another, in the same moment."""
    for number in range(8):
        receipt, _ = hubs[0].submit(report(number), seed=str(number))
        (row,) = [row for row in hubs[0].rows("deliveries") if row.member == "sg-cert" and row.state == "pending"]
        digests = [item.digest for item in receipt.reports]
        at_once(
            lambda row=row: hubs[0].redelivery.sent([row.id], NOW),
            lambda row=row, digests=digests: hubs[1].confirm("sg-cert", "id-cert", digests, delivery=row.id),
        )
        (row,) = [after for after in hubs[0].rows("deliveries") if after.id == row.id]
        assert row.state == "confirmed"


# --- the log ----------------------------------------------------------------------------------------------------


class Follower:
    """Another process's log on the ledger of a place."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.store = Store(store.open_engine(place.url))
        self.log = Log(self.store, place.key, lambda: place.state)
        self.log.load(place.now)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def follower(place: Place) -> Iterator[Follower]:
    made = Follower(place)
    yield made
    made.store.close()


def test_one_sequences_and_all_answer(place: Place, follower: Follower) -> None:
    """What the one has signed the other shows, and proves, without having made it."""
    for count in (5, 300):
        assert place.grow(count)
        assert not follower.log.sequence(place.now), "it does not sequence"
        assert follower.log.look()
        assert not follower.log.look(), "there is no more"
        size = place.log.size
        assert follower.log.next(NextRequest(size=0)) == place.log.next(NextRequest(size=0))
        for leaf in (0, size - 1):
            request = ProveRequest(size=size, leaves=[leaf])
            assert follower.log.prove(request) == place.log.prove(request)


def test_who_has_seen_more_is_not_told_that_there_is_less(place: Place, follower: Follower) -> None:
    """A node that got a checkpoint from one process asks another at once: that looks before it answers.

    Else the node would read that the log has shrunk, which is a fork.
    """
    place.grow(5)
    assert follower.log.next(NextRequest(size=5)) == place.log.next(NextRequest(size=5))
    place.grow(300)
    assert follower.log.consistency(ConsistencyRequest(old=5, new=305)) == place.log.consistency(
        ConsistencyRequest(old=5, new=305)
    )
    place.grow(300)
    assert follower.log.prove(ProveRequest(size=605, leaves=[604])) == place.log.prove(
        ProveRequest(size=605, leaves=[604])
    )
    place.grow(300)
    assert follower.log.tile("tile/0/003.p/137") == place.log.tile("tile/0/003.p/137")
    with refused(Reason.OUT_OF_RANGE):
        follower.log.next(NextRequest(size=906))


def test_another_goes_on_with_the_same_tree(place: Place, follower: Follower) -> None:
    """The one is gone: the next takes the log up where it was committed, also if its memory is old."""
    place.grow(5)
    place.grow(700)
    place.store.close()
    place.store = Store(store.open_engine(place.url))
    place.fill(300)
    place.now += timedelta(seconds=PATIENCE)
    assert follower.log.sequence(place.now)
    assert follower.log.leading
    checkpoint = place.opened(follower.log.next(NextRequest(size=0)).checkpoint).checkpoint
    assert (checkpoint.size, checkpoint.root) == (1005, root_of(entries(1005)))


def test_who_lost_its_session_does_not_sequence_beside_the_next(place: Place, follower: Follower) -> None:
    """Its connection was cut, it does not know, and another has taken over: it signs nothing."""
    place.grow(5)
    cut(place.store, "kentongan log")
    place.fill(5)
    place.now += timedelta(seconds=PATIENCE)
    assert follower.log.sequence(place.now)
    place.fill(5)
    place.now += timedelta(seconds=PATIENCE)
    with pytest.raises(Transient):
        place.log.sequence(place.now)
    assert not place.log.sequence(place.now), "from now on it follows"
    assert follower.log.sequence(place.now)
    assert follower.log.size == 15
    place.log.look()
    assert place.log.next(NextRequest(size=0)) == follower.log.next(NextRequest(size=0))


@pytest.mark.parametrize("committed", [False, True])
def test_a_step_whose_answer_was_lost_is_looked_up(place: Place, committed: bool) -> None:
    """The connection broke during the commit: the ledger says whether it happened, and the log goes on from there."""
    place.grow(5)
    place.fill(300)
    place.now += timedelta(seconds=PATIENCE)
    with databases.broken_commit(place.store.engine, committed=committed), pytest.raises(Transient):
        place.log.sequence(place.now)
    place.now += timedelta(seconds=PATIENCE)
    assert place.log.sequence(place.now) is not committed
    assert place.newest().checkpoint.root == root_of(entries(305))
    assert place.grow(300)
    assert place.newest().checkpoint.root == root_of(entries(605))


def test_witnesses_at_two_processes_make_one_quorum(place: Place, follower: Follower) -> None:
    """Lines that come in the same moment at different processes are counted together."""
    for _ in range(10):
        place.grow(3)
        with place.store.reading() as connection:
            row = log_module.logstore.checkpoint(connection, place.log.size)
        assert row is not None
        note = log_module.parse_note(row.note.decode())

        def give(log: Log, name: str, text: str = note.text, size: int = row.size) -> bool:
            return log.cosign(name, line(name, text, place.now), size, place.now)

        give(place.log, NAMES[0])
        said = at_once(partial(give, place.log, NAMES[1]), partial(give, follower.log, NAMES[2]))
        assert sorted(said) == [False, True], "one of the two reaches it"
        place.log.look()
        follower.log.look()
        assert place.log.published == follower.log.published
        assert place.published().checkpoint.size == place.log.size
        assert place.published().witnesses.keys() == set(NAMES[:3])


def test_the_one_that_sequences_hears_of_a_quorum_at_another(place: Place, follower: Follower) -> None:
    """Else it would wait for it before the next checkpoint."""
    place.grow(5)
    follower.log.look()
    with place.store.reading() as connection:
        row = log_module.logstore.checkpoint(connection, 5)
    assert row is not None
    note = log_module.parse_note(row.note.decode())
    for name in NAMES[:3]:
        follower.log.cosign(name, line(name, note.text, place.now), 5, place.now)
    assert place.log.look()
    assert place.grow(seconds=ROUND)


def cut(there: Store, name: str) -> None:
    """End the database sessions of this name, as a broken network does."""
    with there.writing() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = :name AND datname = current_database()"
            ),
            {"name": name},
        )


def test_an_empty_ledger_is_made_by_one_of_them(server: Any) -> None:
    """Processes that start together find each other's tables."""
    url = server.create()
    engines = at_once(*(lambda: store.open_engine(url) for _ in range(4)))
    for engine in engines:
        engine.dispose()
