"""The TAXII collections and time: what ends is gone at once and revoked, a restart loses nothing, all is made again."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import stix2

from node import projection
from node.core import NodeCore
from node.formats.stix import objects_of
from node.projection import catch_up, step, write
from node.store import microseconds
from node.taxii import Listed, brought
from protocol.parts import Marking
from protocol.report import Body
from tests.node.looking import inbox
from tests.node.taxiing import ALL, Served, limited, served, taxii_node, until_shown
from tests.node.test_expiry import SOON, bytes_on_disk, ends, expire
from tests.node.world import CANARY, Broker, Clock, MemoryBus, foreign, make_core, released

INCIDENTS = "match[type]=incident"


def withdrawal(report_id: Any, revision: int = 2, **changes: Any) -> Any:
    return foreign(report_id=report_id, revision=revision, phase="withdrawn", body=Body(), **changes)


def objects_in(core: NodeCore) -> list[Any]:
    """Everything in the collections, every version."""
    with core.store.read() as reads:
        return reads.taxii_page(Listed("all", 4), 100_000)


async def end(place: Served, clock: Clock, way: str, report_id: Any) -> None:
    if way == "withdrawal":
        clock.pass_(minutes=10)
        place.arrive(withdrawal(report_id, issued_at=clock.now))
    else:
        clock.now = SOON
        assert expire(place.core) == 1


# --- what ends --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_database")
@pytest.mark.parametrize("way", ["withdrawal", "expiry"])
async def test_what_ends_is_revoked(tmp_path: Path, way: str) -> None:
    """Each object: a newer version under the same id, with nothing of what it said, wherever the report stood."""
    clock = Clock()
    core = make_core(tmp_path, clock)
    async with served(core, clock) as place:
        report_id = uuid4()
        place.arrive(foreign(report_id=report_id, **ends()), foreign())
        before = await place.objects()
        gone = [item for item in await place.objects(INCIDENTS) if item["extensions"]]
        was = next(item for item in gone if str(report_id) in str(item["extensions"]))
        _, seen = await place.ask(f"{ALL}objects/")
        await end(place, clock, way, report_id)
        for collection in ("all", "tlp-green", "rsit-fraud", "sector-finance"):
            (now,) = [item for item in await place.objects(INCIDENTS, collection) if item["id"] == was["id"]]
            assert now["revoked"] is True
            assert now["modified"] > was["modified"]
            kept = {"type", "spec_version", "id", "created_by_ref", "created", "object_marking_refs"}
            assert set(now) == kept | {"name", "modified", "revoked"}
            assert {name: now[name] for name in kept} == {name: was[name] for name in kept}
        after = await place.objects("match[version]=all")
        assert {item["id"] for item in before} == {item["id"] for item in after}
        ended = {item["id"]: item for item in after if item.get("revoked")}
        assert {"incident", "indicator", "relationship"} <= {item["type"] for item in ended.values()}
        for item in before:
            if item["id"] in ended:
                newer = stix2.parse(ended[item["id"]], allow_custom=True, version="2.1")
                assert newer["modified"] > stix2.parse(item, allow_custom=True, version="2.1")["modified"]
        versions, _ = await place.ask(f"{ALL}objects/{was['id']}/versions/")
        assert versions["versions"] == [now["modified"]]
        news, _ = await place.ask(f"{ALL}objects/?added_after={seen['X-TAXII-Date-Added-Last']}")
        assert {item["id"] for item in news["objects"]} == set(ended)
    core.store.close()


@pytest.mark.parametrize("way", ["withdrawal", "expiry"])
async def test_no_byte_of_it_is_left_in_the_collections(core: NodeCore, clock: Clock, tmp_path: Path, way: str) -> None:
    """In the same transaction, and soon not in the files either."""
    async with served(core, clock) as place:
        report_id = uuid4()
        place.arrive(foreign(report_id=report_id, **ends()))
        said = [row.object for row in objects_in(core) if b"report_id" in row.object or b"pattern" in row.object]
        # What comes before is of the report and not its content: ids and when it was made.
        rows = [row[row.index(b'"modified"') :] for row in said]
        core.store.scrub()
        assert any(b"203.0.113.7" in row for row in rows)
        assert all(row[:100] in bytes_on_disk(tmp_path) for row in rows)
        if way == "withdrawal":
            core.receive([place.broker.delivery(released(withdrawal(report_id)))])
        else:
            clock.now = SOON
            assert expire(core) == 1
        left = b"".join(row.object for row in objects_in(core))
        assert CANARY.encode() not in left
        assert core.store.unscrubbed
        assert core.store.scrub()
        after = bytes_on_disk(tmp_path)
        assert CANARY.encode() not in after
        assert not any(row[:100] in after for row in rows)
        assert b"203.0.113.7" not in after


async def test_who_saw_it_learns_of_its_end_though_the_withdrawal_is_marked_otherwise(
    core: NodeCore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end stands where the report stood."""
    async with served(core, clock) as place:
        report_id = uuid4()
        place.arrive(foreign(report_id=report_id))
        red = Marking(tlp="RED", recipients=["id"])
        place.arrive(withdrawal(report_id, marking=red))
        limited(monkeypatch, "GREEN")
        (left,) = await place.objects(INCIDENTS)
        assert left["revoked"]


async def test_every_revision_ends(core: NodeCore, clock: Clock) -> None:
    """One revoked incident is left of three revisions; a later revision takes its place again."""
    async with served(core, clock) as place:
        report_id = uuid4()
        for revision in (1, 2, 3):
            clock.pass_(minutes=1)
            place.arrive(foreign(report_id=report_id, revision=revision, issued_at=clock.now, **ends()))
        clock.now = SOON
        assert expire(core) == 3
        (left,) = await place.objects(f"{INCIDENTS}&match[version]=all")
        assert left["revoked"]
        clock.pass_(minutes=1)
        place.arrive(foreign(report_id=report_id, revision=4, issued_at=clock.now))
        (again,) = await place.objects(f"{INCIDENTS}&match[version]=all")
        assert "revoked" not in again


async def test_a_revision_that_outlives_another_is_not_revoked(core: NodeCore, clock: Clock) -> None:
    """The report goes on."""
    async with served(core, clock) as place:
        report_id = uuid4()
        place.arrive(foreign(report_id=report_id, **ends()))
        clock.pass_(minutes=1)
        place.arrive(foreign(report_id=report_id, revision=2, issued_at=clock.now))
        clock.now = SOON
        assert expire(core) == 1
        (left,) = await place.objects(f"{INCIDENTS}&match[version]=all")
        assert ("revoked" in left, left["modified"][14:16]) == (False, "01")


async def test_what_ended_before_it_was_shown_never_is(core: NodeCore, clock: Clock, broker: Broker) -> None:
    """Also if it ends between being read and being written."""
    async with served(core, clock) as place:
        first, second = uuid4(), uuid4()
        place.arrive(foreign(report_id=first), shown=False)
        place.arrive(withdrawal(first))
        assert await place.objects(INCIDENTS) == []
        place.arrive(foreign(report_id=second), shown=False)
        read = step(core.store, objects_of)
        assert read.found
        place.arrive(withdrawal(second), shown=False)
        assert write(core.store, read, microseconds(clock.now)) == 0
        catch_up(core.store, objects_of, clock)
        assert await place.objects("match[version]=all") == []


def test_a_drill_never_shows(core: NodeCore, broker: Broker) -> None:
    """A live node takes none in; if one were there, it would not be shown."""
    core.receive([broker.delivery(released(foreign()))])
    (row,) = inbox(core)
    assert brought(row, objects_of) is not None
    drill = {**json.loads(row.view), "exercise": {"exercise_id": "ACID 2026"}}
    assert brought(SimpleNamespace(**{**row._mapping, "view": json.dumps(drill).encode()}), objects_of) is None


def killed(core: NodeCore, clock: Clock) -> None:
    """A process that ends before it commits: it is as if it had not begun."""
    read = step(core.store, objects_of)
    with core.store.write() as tx:
        tx.taxii_add(read.found, read.upto, microseconds(clock.now))
        raise ZeroDivisionError


# --- restarts ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_database")
def test_a_restart_in_the_middle_loses_nothing_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each transaction, and within one."""
    monkeypatch.setattr(projection, "AT_ONCE", 2)
    clock = Clock()
    broker = Broker(clock)
    core = make_core(tmp_path, clock)
    core.receive([broker.delivery(released(foreign(count=7)))])
    projection.begin(core.store)
    for _ in range(3):
        write(core.store, step(core.store, objects_of), microseconds(clock.now))
        with pytest.raises(ZeroDivisionError):
            killed(core, clock)
        core.store.close()
        core = make_core(tmp_path, clock)
    catch_up(core.store, objects_of, clock)
    names = [(row.object_id, row.version) for row in objects_in(core)]
    assert len(names) == len(set(names))
    assert sum(name.startswith("incident") for name, _ in names) == 7
    core.store.close()


def test_made_again_from_scratch_it_is_the_same(
    core: NodeCore, clock: Clock, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another version of the program: same ids and versions, later times; and what has ended stays known."""
    gone = uuid4()
    core.receive([broker.delivery(released(foreign(count=4)), released(foreign(report_id=gone)))])
    catch_up(core.store, objects_of, clock)
    core.receive([broker.delivery(released(withdrawal(gone)))])
    catch_up(core.store, objects_of, clock)
    before = objects_in(core)
    monkeypatch.setattr(projection, "SHAPE", projection.SHAPE + 1)
    catch_up(core.store, objects_of, clock)
    after = objects_in(core)
    assert {(row.object_id, row.version) for row in after} == {(row.object_id, row.version) for row in before}
    assert {row.object for row in after} == {row.object for row in before}
    fresh = [row.added_at for row in after if b"revoked" not in row.object]
    assert min(fresh) > max(row.added_at for row in before)
    assert catch_up(core.store, objects_of, clock) == 0


async def test_a_node_shows_what_arrives_and_takes_away_what_ends(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """The loops of a whole node: arrivals wake it, a restart goes on, an expiry during a downtime is there at once."""
    bus = MemoryBus()
    bus.inbox.append(broker.delivery(released(foreign(count=2)), released(foreign(**ends()))))
    async with taxii_node(tmp_path, clock, bus) as node:
        await until_shown(node, 3)
        bus.inbox.append(broker.delivery(released(foreign())))
        await until_shown(node, 4)
    clock.now = SOON + timedelta(days=1)
    offline = MemoryBus()
    offline.up = False
    async with taxii_node(tmp_path, clock, offline) as node:
        page = await node.get(f"{ALL}objects/?{INCIDENTS}&match[version]=all")
        assert [item.get("revoked", False) for item in page["objects"]] == [False, False, False, True]
        assert CANARY not in str(page["objects"][3])
