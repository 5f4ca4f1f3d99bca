"""The log: every receipt has its leaf, what was shown is never contradicted, and a quorum decides what is published."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import inspect, text

from broker import log as log_module
from broker import logstore, store, tables
from broker.log import KEEP, PATIENCE, ROUND, Log
from broker.members import RegionState
from broker.store import Connection, Store
from protocol import limits
from protocol.errors import ConfigError, Transient
from protocol.grants import commit
from protocol.keys import SigningKey, unb64
from protocol.logrpc import ConsistencyRequest, NextAnswer, NextRequest, ProveRequest
from protocol.merkle import EMPTY_ROOT, leaf_hash, root_of, tree_root, verify_consistency, verify_inclusion
from protocol.notes import (
    OpenedCheckpoint,
    cosign,
    open_checkpoint,
    parse_checkpoint,
    parse_note,
)
from protocol.policy import PolicyBook
from protocol.reasons import Reason
from protocol.registry import Member
from protocol.statements import BROKER
from protocol.tiles import TilePath, TileReader, leaf_hashes, split_bundle, tiles_of
from tests import databases
from tests.broker.make import Hub
from tests.broker.test_ingest import report
from tests.protocol import make
from tests.protocol.make import NOW, refused

pytestmark = pytest.mark.usefixtures("each_database")

NAMES = ("id-cert", "sg-cert", "my-cert", "ph-cert")
SECOND = timedelta(seconds=1)


def entry(number: int) -> bytes:
    """The entry of submission `number`."""
    return hashlib.sha256(b"entry %d" % number).digest()


def entries(size: int) -> list[bytes]:
    """Those of the first submissions."""
    return [entry(number) for number in range(1, size + 1)]


class Killed(BaseException):
    """The process is gone."""


class Place:
    """A log on a real ledger, whose submissions the test enters itself."""

    def __init__(self, directory: Path, **region: Any) -> None:
        self.url = databases.url_of(directory / "ledger.db")
        self.store: Store | None = None
        self.now = NOW
        self.key = make.key_of(BROKER)
        self.change(**region)
        self.filled = 0
        self.start()

    def change(self, *members: Member, **region: Any) -> None:
        """Another region."""
        self.state = RegionState(make.registry(*members, **region), PolicyBook([]))

    def start(self) -> None:
        """The process begins; if there was one before, that was killed."""
        if self.store is not None:
            self.store.close()
        self.store = Store(store.open_engine(self.url))
        self.log = Log(self.store, self.key, lambda: self.state)
        self.log.load(self.now)

    def fill(self, count: int) -> None:
        """So many submissions more are committed."""
        numbers = range(self.filled + 1, self.filled + count + 1)
        rows = [
            {
                "id": number,
                "digest": f"{number:043}",
                "member": "id-cert",
                "received_at": store.milliseconds(self.now),
                "entry": entry(number),
                "message": b"",
                "receipt": b"",
            }
            for number in numbers
        ]
        with self.store.writing() as connection:
            store.add(connection, tables.submissions, rows)
        self.filled += count

    def grow(self, count: int = 1, seconds: float = PATIENCE) -> bool:
        """Submissions, time, and a turn of the log."""
        self.fill(count)
        self.now += timedelta(seconds=seconds)
        return self.log.sequence(self.now)

    def opened(self, note: str) -> OpenedCheckpoint:
        """A note as a node reads it."""
        registry = self.state.registry
        return open_checkpoint(note, registry.log_keys(), registry.witness_keys(), self.now)

    def newest(self) -> OpenedCheckpoint:
        return self.opened(self.log.next(NextRequest(size=0)).checkpoint)

    def published(self) -> OpenedCheckpoint:
        assert self.log.published
        return self.opened(self.log.published.note)

    def cosign(self, *names: str, size: int | None = None, at: datetime | None = None) -> list[bool]:
        """These members cosign the newest checkpoint, or another one."""
        with self.store.reading() as connection:
            row = logstore.checkpoint(connection, self.log.size if size is None else size)
        assert row is not None
        note = parse_note(row.note.decode())
        return [self.log.cosign(name, line(name, note.text, at or self.now), row.size, self.now) for name in names]

    def rows(self, table: str) -> list[Any]:
        with self.store.reading() as connection:
            return list(connection.execute(getattr(tables, table).select()))


def line(name: str, body: str, at: datetime, key: SigningKey | None = None) -> str:
    """A member's cosignature."""
    signer = key or make.key_of(name)
    return cosign(body, name, signer, signer.public, at).encode()


def hashes(path: list[str]) -> list[bytes]:
    return [unb64(item) for item in path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- sequencing -------------------------------------------------------------------------------------------------


def test_submission_n_is_leaf_n_minus_one(place: Place) -> None:
    """In the order of their numbers, whatever the steps: the root says so, and so does each proof."""
    for count in (1, 1, 5, 250, 300, 700):
        assert place.grow(count)
        checkpoint = place.newest().checkpoint
        assert checkpoint.origin == "kentongan/test"
        assert (checkpoint.size, checkpoint.root) == (place.filled, root_of(entries(place.filled)))
    size, root = place.filled, place.newest().checkpoint.root
    for first in range(0, size, limits.PROOFS_PER_REQUEST):
        leaves = list(range(first, min(size, first + limits.PROOFS_PER_REQUEST)))
        for leaf, path in zip(leaves, place.log.prove(ProveRequest(size=size, leaves=leaves)).paths, strict=True):
            verify_inclusion(entry(leaf + 1), leaf, size, hashes(path), root)


def test_a_receipt_names_its_leaf(tmp_path: Path) -> None:
    """What the receipt commits to is in the log where it says, refused submissions among them."""
    hub = Hub(tmp_path)
    receipts = [hub.submit(report(number), seed=str(number)) for number in (1, 2)]
    _, work = hub.submit_text("nonsense")
    receipts += [hub.submit(report(3), seed="3")]
    key = make.key_of(BROKER)
    log = Log(hub.store, key, lambda: hub.state)
    log.load(NOW)
    assert log.size == 4
    checkpoint = parse_checkpoint(parse_note(log.next(NextRequest(size=0)).checkpoint).text)
    found = [(receipt, sent.outgoing[0].data) for receipt, sent in receipts] + [
        (hub.receipts(work, "id-cert")[0], work.outgoing[0].data)
    ]
    assert sorted(receipt.leaf for receipt, _ in found) == [0, 1, 2, 3]
    for receipt, data in found:
        (jws,) = msgspec.json.decode(data)
        (path,) = log.prove(ProveRequest(size=4, leaves=[receipt.leaf])).paths
        verify_inclusion(commit(receipt, jws).entry, receipt.leaf, 4, hashes(path), checkpoint.root)


def test_steps_are_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heap of submissions becomes several checkpoints, which do not wait for a quorum."""
    monkeypatch.setattr(log_module, "STEP", 10)
    place.fill(25)
    sizes = []
    while place.log.sequence(place.now):
        sizes.append(place.log.size)
        place.now += timedelta(seconds=ROUND)
    assert sizes == [10, 20, 25]
    place.fill(25)
    place.start()
    assert place.log.size == 50, "at the start everything is taken, or a witness would be ahead of its log"


def test_a_gap_is_a_bug(place: Place) -> None:
    """A leaf at another index than its receipt's would be a lie."""
    place.filled = 1
    with pytest.raises(AssertionError):
        place.grow()
    assert place.log.size == 0


def test_rounds(place: Place) -> None:
    """The next checkpoint waits for the quorum of the last, but not for ever, and never comes at once."""
    assert not place.log.sequence(place.now), "there is nothing"
    assert place.grow(seconds=0)
    assert not place.grow(seconds=ROUND / 2)
    assert not place.grow(seconds=ROUND), "no quorum, not patient enough"
    place.cosign(*NAMES[:3])
    assert place.log.sequence(place.now)
    assert not place.grow(seconds=PATIENCE - 0.1)
    assert place.grow(seconds=0.2)
    place.cosign(*NAMES[:3])
    assert not place.grow(seconds=ROUND / 2)
    assert place.grow(seconds=ROUND)
    place.cosign(*NAMES)
    place.now += 60 * SECOND
    assert not place.log.sequence(place.now), "no new entries, no new checkpoint"


def test_a_clock_that_is_put_back_does_not_stop_the_log(place: Place) -> None:
    """Else there would be no checkpoint for as long as it was wrong."""
    place.now += timedelta(hours=5)
    assert place.grow()
    place.now -= timedelta(hours=5)
    assert place.grow(seconds=1)


# --- crashes ----------------------------------------------------------------------------------------------------


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, place: Place, point: str) -> Iterator[None]:
    """Within, the process dies at this point of a step."""

    def die(*_: Any) -> Any:
        raise Killed

    doors = {name: getattr(place.store, name) for name in ("writing", "leading")}

    def uncommitted(name: str) -> Any:
        @contextmanager
        def door() -> Iterator[Connection]:
            with doors[name]() as connection:
                yield connection
                raise Killed

        return door

    def committed(name: str) -> Any:
        @contextmanager
        def door() -> Iterator[Connection]:
            with doors[name]() as connection:
                yield connection
            raise Killed

        return door

    with monkeypatch.context() as patch:
        if point == "before commit":
            for name in doors:
                patch.setattr(place.store, name, uncommitted(name))
        elif point == "after commit":
            for name in doors:
                patch.setattr(place.store, name, committed(name))
        elif point == "signing":
            patch.setattr(log_module, "sign_checkpoint", die)
        elif point == "reading":
            patch.setattr(place.log, "_entries", die)
        else:
            patch.setattr(logstore, point, die)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize(
    "point", ["reading", "put_tiles", "signing", "add_checkpoint", "before commit", "after commit"]
)
def test_a_kill_at_any_point_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, point: str, restart: bool
) -> None:
    """Nothing of an unfinished step was shown; what goes on from there comes to the same roots."""
    if point == "after commit" and not restart:
        pytest.skip("a commit that worked and raised ends the process")
    shown: dict[int, bytes] = {}
    for count in (3, 250, 10, 600):
        place.fill(count)
        place.now += timedelta(seconds=PATIENCE)
        before = place.log.size
        with dying(monkeypatch, place, point):
            place.log.sequence(place.now)
        assert place.log.size == before, "not shown before it is committed"
        if restart:
            place.store.close()
            place.start()
        else:
            place.log.sequence(place.now)
        checkpoint = place.newest().checkpoint
        assert (checkpoint.size, checkpoint.root) == (place.filled, root_of(entries(place.filled)))
        for old, root in shown.items():
            path = place.log.consistency(ConsistencyRequest(old=old, new=checkpoint.size)).path
            verify_consistency(old, root, checkpoint.size, checkpoint.root, hashes(path))
        shown[checkpoint.size] = checkpoint.root


def test_a_full_disk_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same object goes on when there is room."""
    place.grow(300)

    def full(*_: Any) -> None:
        raise Transient("ledger: full")

    with monkeypatch.context() as patch:
        patch.setattr(logstore, "add_checkpoint", full)
        with pytest.raises(Transient):
            place.grow(300)
    assert place.log.size == 300
    assert place.grow(1)
    assert place.newest().checkpoint.root == root_of(entries(601))


def test_a_kill_while_cosigning_loses_at_most_the_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The witness sends it again."""
    place.grow(5)
    place.cosign(*NAMES[:2])
    for point in ("before commit", "after commit"):
        with dying(monkeypatch, place, point):
            place.cosign(NAMES[2])
        assert place.log.published is None, "not shown before it is committed"
    place.start()
    assert place.published().witnesses.keys() == set(NAMES[:3])


@pytest.mark.parametrize("published", [True, False])
def test_lost_tables_are_made_again(place: Place, published: bool) -> None:
    """The tree follows from the submissions; so nobody sees a fork."""
    place.grow(700)
    before = place.newest().checkpoint
    if published:
        place.cosign(*NAMES)
    with place.store.writing() as connection:
        for table in (tables.log_tiles, tables.checkpoints, tables.cosignatures):
            connection.execute(table.delete())
    place.start()
    assert place.newest().checkpoint == before
    assert place.log.published is None
    assert place.log.next(NextRequest(size=700)) == NextAnswer()


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM log_tiles WHERE level = 0 AND number = 2",
        "DELETE FROM checkpoints",
        "UPDATE checkpoints SET size = size - 1",
        "UPDATE checkpoints SET root = :zeros",
        "UPDATE log_tiles SET data = substr(data, 1, 32) WHERE level = 0 AND number = 2",
        "UPDATE log_tiles SET data = :zeros WHERE level = 1",
    ],
)
def test_a_damaged_log_is_not_continued(place: Place, damage: str) -> None:
    """The operator is told what to do."""
    place.grow(700)
    with place.store.writing() as connection:
        connection.execute(text(damage), {"zeros": bytes(64 if "tiles" in damage else 32)} if ":" in damage else {})
    with pytest.raises(ConfigError, match="log_tiles, checkpoints and cosignatures"):
        place.start()


def test_a_region_of_another_name_has_another_log(place: Place) -> None:
    """Its checkpoints would be of another origin: refused, at the start and while running."""
    place.grow(5)
    place.change(region="other name")
    with pytest.raises(ConfigError, match="put the name back"):
        place.log.check(place.state.registry)
    with pytest.raises(ConfigError, match="kentongan/other-name"):
        place.start()


def test_a_new_broker_key_signs_the_newest_checkpoint_again(place: Place) -> None:
    """Else a quiet log would end with the key that signed last."""
    place.grow(5)
    place.cosign(*NAMES)
    old = place.key.record(NOW - make.DAY, NOW + make.DAY)
    place.key = make.key_of("the broker's second key")
    place.change(broker_keys=[place.key.record(NOW, NOW + 900 * make.DAY), old])
    place.now += 2 * make.DAY
    place.start()
    for note in (
        place.log.next(NextRequest(size=0)).checkpoint,
        place.log.published.note if place.log.published else "",
    ):
        registry = place.state.registry
        opened = open_checkpoint(note, registry.log_keys()[:1], registry.witness_keys(), place.now)
        assert opened.checkpoint.root == root_of(entries(5))
    assert place.published().witnesses.keys() == set(NAMES)


def test_a_ledger_from_before_the_log_is_refused(place: Place) -> None:
    """Its submissions have no entries."""
    with place.store.writing() as connection:
        connection.execute(text("UPDATE meta SET value = '1' WHERE name = 'schema'"))
        for table in ("log_tiles", "checkpoints", "cosignatures"):
            connection.execute(text(f"DROP TABLE {table}"))
    with pytest.raises(ConfigError, match="start a new region"):
        store.open_engine(place.url)
    assert not inspect(place.store.engine).has_table("log_tiles"), "and is left as it was"


# --- witnesses --------------------------------------------------------------------------------------------------


def test_a_quorum_publishes(place: Place) -> None:
    """More than half of four, then the note holds all of them, and those that come later."""
    place.grow(5)
    assert place.cosign(*NAMES[:2]) == [False, False]
    assert place.log.published is None
    with refused(Reason.UNKNOWN_PATH):
        place.log.tile("checkpoint")
    place.now += 2 * SECOND
    assert place.cosign(NAMES[2]) == [True]
    assert place.published().checkpoint == place.newest().checkpoint
    assert place.published().witnesses.keys() == set(NAMES[:3])
    assert place.log.published
    assert (place.log.published.witnesses, place.log.published.seconds) == (3, 2.0)
    assert place.cosign(NAMES[3]) == [False]
    assert place.published().witnesses.keys() == set(NAMES)
    assert place.log.tile("checkpoint").decode() == place.log.published.note
    place.start()
    assert place.published().witnesses.keys() == set(NAMES), "the same after a restart"


def test_twice_is_once(place: Place) -> None:
    """A witness does not become two by cosigning again."""
    place.grow(5)
    place.cosign(NAMES[0])
    place.now += SECOND
    assert place.cosign(*NAMES[:1] * 5) == [False] * 5
    (row,) = place.rows("cosignatures")
    assert row.line.decode() == line("id-cert", parse_note(place.newest().note.encode()).text, place.now - SECOND)
    assert place.log.published is None


def test_an_older_checkpoint_can_still_get_its_quorum(place: Place) -> None:
    """If the witnesses were slow and it was followed meanwhile; but never after a larger one has it."""
    for _ in range(3):
        place.grow(5)
    assert place.cosign(*NAMES[:3], size=5) == [False, False, True]
    assert place.published().checkpoint.size == 5
    assert place.cosign(*NAMES[:2], size=10) == [False, False]
    assert place.cosign(*NAMES[:3], size=15) == [False, False, True]
    assert place.published().checkpoint.size == 15
    assert place.cosign(NAMES[2], size=10) == place.cosign(NAMES[3], size=5) == [False]
    assert place.published().checkpoint.size == 15
    assert place.published().witnesses.keys() == set(NAMES[:3])
    place.start()
    assert place.published().checkpoint.size == 15


def test_cosignatures_that_are_refused(place: Place) -> None:
    """Each for its reason; none of them is kept."""
    suspended = make.member("ph", status="suspended")
    place.change(*(make.member(name) for name in ("id", "sg", "my")), suspended)
    place.grow(5)
    with place.store.reading() as connection:
        row = logstore.checkpoint(connection, 5)
    assert row
    body = parse_note(row.note.decode()).text
    good = line("id-cert", body, place.now)

    def given(reason: Reason, member: str, text: str, size: int = 5) -> None:
        with refused(reason):
            place.log.cosign(member, text, size, place.now)

    given(Reason.WRONG_MEMBER, "sg-cert", good)
    given(Reason.UNKNOWN_MEMBER, "xx-cert", line("xx-cert", body, place.now))
    given(Reason.MEMBER_SUSPENDED, "ph-cert", line("ph-cert", body, place.now))
    given(Reason.UNKNOWN_KEY, "id-cert", line("id-cert", body, place.now, make.key_of("sg-cert")))
    given(Reason.OUT_OF_RANGE, "id-cert", good, 4)
    given(Reason.OUT_OF_RANGE, "id-cert", good, 6)
    given(Reason.TIME_IN_FUTURE, "id-cert", line("id-cert", body, place.now + limits.CLOCK_SKEW + SECOND))
    given(Reason.KEY_NOT_VALID, "id-cert", line("id-cert", body, NOW - 2 * make.DAY))
    given(Reason.SIGNATURE_INVALID, "id-cert", line("id-cert", body.replace("\n5\n", "\n6\n"), place.now))
    given(Reason.MALFORMED_NOTE, "id-cert", good.removeprefix("\u2014 "))
    given(Reason.MALFORMED_NOTE, "id-cert", good + good)
    assert not place.rows("cosignatures")
    place.log.cosign("id-cert", good, 5, place.now)


def test_who_is_no_member_any_more_counts_no_more(place: Place) -> None:
    """Nor does its line stand in the published note, which a node would otherwise refuse or ignore."""
    place.grow(5)
    place.cosign(*NAMES)
    place.change(*(make.member(name) for name in ("id", "sg", "my")), make.member("ph", status="suspended"))
    assert not place.log.refresh(place.now)
    assert place.published().witnesses.keys() == set(NAMES[:3])
    record = msgspec.structs.replace(make.key_of("my-cert").record(NOW - make.DAY, NOW + make.DAY), revoked_at=NOW)
    place.change(*(make.member(name) for name in ("id", "sg", "ph")), make.member("my", keys=[record]))
    place.log.refresh(place.now)
    assert place.published().witnesses.keys() == {"id-cert", "sg-cert", "ph-cert"}


def test_a_smaller_region_needs_a_smaller_quorum(place: Place) -> None:
    """What two of four could not do, two of three can, as soon as the region is that."""
    place.grow(5)
    place.grow(5)
    place.cosign(*NAMES[:2], size=5)
    place.change(*(make.member(name) for name in ("id", "sg", "my")))
    assert place.log.refresh(place.now)
    assert place.published().checkpoint.size == 5
    assert not place.log.refresh(place.now)


def test_a_member_with_a_new_key_cosigns_anew(place: Place) -> None:
    """The line of its old key does not count, and does not stand in the way."""
    place.grow(5)
    place.cosign(*NAMES[:3])
    fresh = make.key_of("the second key of id-cert")
    records = [fresh.record(NOW - make.DAY, NOW + make.DAY)]
    place.change(make.member("id", keys=records), *(make.member(name) for name in ("sg", "my", "ph")))
    place.log.refresh(place.now)
    assert place.published().witnesses.keys() == {"sg-cert", "my-cert"}
    body = parse_note(place.log.next(NextRequest(size=0)).checkpoint).text
    place.log.cosign("id-cert", line("id-cert", body, place.now, fresh), 5, place.now)
    assert place.published().witnesses["id-cert"].kid == fresh.kid


@pytest.mark.parametrize(("quorum", "needed"), [(1, 1), (2, 2), (4, 4), (None, 3)])
def test_the_region_says_how_many(tmp_path: Path, quorum: int | None, needed: int) -> None:
    """`quorum` in region.toml, or more than half."""
    place = Place(tmp_path, quorum=quorum)
    place.grow(5)
    assert place.cosign(*NAMES[:needed]) == [False] * (needed - 1) + [True]


def test_without_witnesses_nothing_is_published(tmp_path: Path) -> None:
    """Nobody but the broker has seen it."""
    place = Place(tmp_path)
    place.change(Member(id="coordinator", jurisdiction="sg", name="c", roles=["coordinator"]))
    assert place.state.registry.quorum == 1
    place.grow(5)
    assert not place.log.refresh(place.now)
    assert place.log.published is None
    assert place.log.numbers() == {"size": 5, "published": 0, "cosigned_by": 0, "witnesses": 0, "quorum": 1}


# --- questions --------------------------------------------------------------------------------------------------


def test_a_witness_follows_the_log(place: Place) -> None:
    """From any size to the newest, with the proof that nothing before was changed."""
    assert place.log.next(NextRequest(size=0)) == NextAnswer()
    roots = {0: EMPTY_ROOT}
    for count in (1, 2, 3, 250, 1, 255, 300):
        place.grow(count)
        checkpoint = place.newest().checkpoint
        roots[checkpoint.size] = checkpoint.root
        for size, root in roots.items():
            answer = place.log.next(NextRequest(size=size))
            if size == checkpoint.size:
                assert answer == NextAnswer()
                continue
            found = place.opened(answer.checkpoint).checkpoint
            verify_consistency(size, root, found.size, found.root, hashes(answer.consistency))


def test_the_published_note_is_told_once(place: Place) -> None:
    """To who knows an older one; beside the next checkpoint to witness."""
    place.grow(5)
    place.cosign(*NAMES)
    assert place.log.published
    note = place.log.published.note
    assert place.log.next(NextRequest(size=5)) == NextAnswer(published=note)
    assert place.log.next(NextRequest(size=5, published=5)) == NextAnswer()
    place.grow(1)
    answer = place.log.next(NextRequest(size=5, published=4))
    assert (place.opened(answer.checkpoint).checkpoint.size, answer.published) == (6, note)


def test_a_witness_ahead_of_its_log_is_told(place: Place) -> None:
    """A ledger that was put back: the node raises the alarm."""
    place.grow(5)
    for request in (NextRequest(size=6), NextRequest(size=5, published=6)):
        with refused(Reason.OUT_OF_RANGE):
            place.log.next(request)


def test_proofs_are_of_trees_that_were_signed(place: Place) -> None:
    """Of any size up to the newest checkpoint, and of none beyond, even if the entries are there."""
    place.grow(300)
    place.fill(10)
    for size in (1, 2, 255, 256, 257, 299, 300):
        root = root_of(entries(size))
        for leaf in (0, size // 2, size - 1):
            (path,) = place.log.prove(ProveRequest(size=size, leaves=[leaf])).paths
            verify_inclusion(entry(leaf + 1), leaf, size, hashes(path), root)
    for request in (ProveRequest(size=301, leaves=[0]), ProveRequest(size=300, leaves=[0, 300])):
        with refused(Reason.OUT_OF_RANGE):
            place.log.prove(request)
    for old, new in ((0, 301), (300, 299), (301, 301)):
        with refused(Reason.OUT_OF_RANGE):
            place.log.consistency(ConsistencyRequest(old=old, new=new))


def test_a_partial_tile_that_grew_is_read_again(place: Place) -> None:
    """Proofs of the small tree and of the large one from the same cache."""
    sizes = []
    for _ in range(30):
        place.grow(29)
        sizes.append(place.log.size)
        size = sizes[-1]
        for old in sizes:
            (path,) = place.log.prove(ProveRequest(size=old, leaves=[old - 1])).paths
            verify_inclusion(entry(old), old - 1, old, hashes(path), root_of(entries(old)))
        path = place.log.consistency(ConsistencyRequest(old=sizes[0], new=size)).path
        verify_consistency(sizes[0], root_of(entries(sizes[0])), size, root_of(entries(size)), hashes(path))


def test_a_small_cache_is_enough(place: Place) -> None:
    """What was thrown out is read again."""
    place.grow(2000)
    cache = logstore.TileCache(most=2)
    with place.store.reading() as connection:
        for leaf in range(0, 2000, 99):
            assert cache.node(connection, 0, leaf) == leaf_hash(entry(leaf + 1))
        assert tree_root(2000, lambda *node: cache.node(connection, *node)) == root_of(entries(2000))
        with pytest.raises(AssertionError):
            cache.node(connection, 0, 2000)
    assert len(cache._tiles) == 2


def test_the_tree_can_be_read_from_tiles_alone(place: Place) -> None:
    """As a stranger's tool does: tiles of a checkpoint, hashed up, and the entries beside them."""
    place.grow(700)
    place.grow(70)
    for size in (770, 700, 512, 3):
        reader = TileReader(size, lambda path: place.log.tile(path.encode()))
        assert tree_root(size, reader) == root_of(entries(size))
        for path in tiles_of(size):
            if path.level == 0:
                bundle = place.log.tile(TilePath(None, path.number, path.width).encode())
                found = split_bundle(bundle, path.width)
                assert found == entries(size)[path.number * 256 : path.number * 256 + path.width]
                assert leaf_hashes(b"".join(found)) == place.log.tile(path.encode())


@pytest.mark.parametrize(
    "path",
    ["tile/0/001", "tile/0/000.p/201", "tile/1/000", "tile/1/000.p/1", "tile/entries/001.p/1", "tile/0/x001/000", "x"],
)
def test_tiles_that_are_not_there(place: Place, path: str) -> None:
    """Nothing is made up, and nothing is padded."""
    place.grow(200)
    with refused(Reason.UNKNOWN_PATH):
        place.log.tile(path)


def test_lag_is_the_age_of_what_is_not_published(place: Place) -> None:
    """0 if everything is."""
    assert place.log.lag(place.now) == 0
    place.grow(3, seconds=10)
    assert place.log.lag(place.now) == 10
    place.cosign(*NAMES)
    assert place.log.lag(place.now + 60 * SECOND) == 0
    place.fill(1)
    assert place.log.lag(place.now + 7 * SECOND) == 7
    assert place.log.numbers() == {"size": 3, "published": 3, "cosigned_by": 4, "witnesses": 4, "quorum": 3}


def test_old_checkpoints_are_forgotten(place: Place) -> None:
    """But the newest, the newest published and those of a day; and what goes takes its cosignatures along."""
    member_keys = {"not_before": NOW - make.DAY, "not_after": NOW + 90 * make.DAY}
    names = ("id", "sg", "my", "ph")
    place.change(
        *(make.member(name, keys=[make.key_of(f"{name}-cert").record(**member_keys)]) for name in names),
        broker_keys=[place.key.record(**member_keys)],
    )
    for _ in range(3):
        place.grow(5)
        place.cosign(*NAMES[:3])
    place.grow(5)
    place.cosign(NAMES[0])
    assert place.log.prune(place.now) == 0
    assert place.log.prune(place.now + KEEP) == 1 + 1
    assert [row.size for row in place.rows("checkpoints")] == [15, 20]
    assert {row.size for row in place.rows("cosignatures")} == {15, 20}
    with refused(Reason.OUT_OF_RANGE):
        place.log.cosign("id-cert", line("id-cert", "x\n", place.now), 5, place.now)
    place.start()
    assert place.published().checkpoint.size == 15
    verify_consistency(
        7,
        root_of(entries(7)),
        20,
        root_of(entries(20)),
        hashes(place.log.consistency(ConsistencyRequest(old=7, new=20)).path),
    )
