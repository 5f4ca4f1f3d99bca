"""Pages of TAXII: whatever arrives meanwhile, however a client polls, it skips nothing and repeats nothing."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from node import tables
from node.core import NodeCore
from protocol.parts import Marking
from protocol.report import Body
from tests.node.taxiing import ALL, Served, served
from tests.node.world import START, Clock, foreign, make_core

Seen = tuple[str, str]


def name_of(item: dict[str, Any]) -> Seen:
    return item["id"], item.get("modified") or item.get("created") or ""


@dataclass
class Client:
    """One way of reading a collection, with all that it got."""

    filters: dict[str, str]
    cursor: str = ""
    added_after: str = ""
    got: list[Seen] = field(default_factory=list)

    async def poll(self, place: Served, limit: int) -> bool:
        """One request; whether there is more."""
        query = {**self.filters, "limit": str(limit)}
        query |= {"next": self.cursor} if self.cursor else {}
        query |= {"added_after": self.added_after} if self.added_after else {}
        page, headers = await place.ask(f"{ALL}objects/", params=query)
        found = page.get("objects", [])
        self.got += map(name_of, found)
        self.after(page, headers, bool(found))
        return bool(page["more"])

    def after(self, page: dict[str, Any], headers: Any, some: bool) -> None:
        """As `as_pages` of taxii2-client, and later again with the time of the last object."""
        self.cursor = page["next"] if page["more"] else ""
        if some and not page["more"]:
            self.added_after = headers["X-TAXII-Date-Added-Last"]


class OpenCti(Client):
    """Sends cursor and time together, and keeps times in milliseconds, rounded down."""

    def after(self, page: dict[str, Any], headers: Any, some: bool) -> None:
        self.cursor = page["next"] if page["more"] else ""
        if some and not page["more"]:
            self.added_after = headers["X-TAXII-Date-Added-Last"][:-4] + "Z"


class OnlyTimes(Client):
    """Knows no cursor."""

    def after(self, _page: dict[str, Any], headers: Any, some: bool) -> None:
        if some:
            self.added_after = headers["X-TAXII-Date-Added-Last"][:-4] + "Z"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 6)),
        st.tuples(st.just("revise"), st.integers(0, 30)),
        st.tuples(st.just("withdraw"), st.integers(0, 30)),
        st.tuples(st.just("clock"), st.integers(-5_000, 5_000)),
        st.tuples(st.just("poll"), st.integers(1, 9)),
    ),
    min_size=4,
    max_size=14,
)


class Walk:
    """A collection that changes while clients read it."""

    def __init__(self, place: Served, clock: Clock) -> None:
        self.place, self.clock = place, clock
        self.reports: dict[Any, int] = {}
        self.clients = [
            kind(filters)
            for kind in (Client, OpenCti, OnlyTimes)
            for filters in ({}, {"match[version]": "all"}, {"match[type]": "incident,indicator"})
        ]

    async def step(self, what: str, number: int) -> None:
        if what == "arrive":
            envelope = foreign(count=number, marking=Marking(tlp="AMBER" if number % 2 else "GREEN"))
            self.place.arrive(envelope)
            self.reports |= {report.header.report_id: 1 for report in envelope.reports}  # type: ignore[union-attr]
        elif what in ("revise", "withdraw") and self.reports:
            report_id = list(self.reports)[number % len(self.reports)]
            self.reports[report_id] += 1
            when = START + timedelta(minutes=self.reports[report_id])
            self.clock.now = max(self.clock.now, when)
            ends: dict[str, Any] = {"phase": "withdrawn", "body": Body()} if what == "withdraw" else {}
            revision = {"report_id": report_id, "revision": self.reports[report_id], "issued_at": when}
            self.place.arrive(foreign(**revision, **ends))
            if what == "withdraw":
                del self.reports[report_id]
        elif what == "clock":
            self.clock.now = max(START, self.clock.now + timedelta(milliseconds=number))
        elif what == "poll":
            for client in self.clients:
                await client.poll(self.place, number)

    async def end(self) -> None:
        for client in self.clients:
            while await client.poll(self.place, 7):
                pass
            assert not await client.poll(self.place, 7)
            repeated = [name for name, times in Counter(client.got).items() if times > 1]
            assert repeated == []
            query = "&".join(f"{name}={value}" for name, value in client.filters.items())
            there = set(map(name_of, await self.place.objects(query)))
            assert there <= set(client.got)


@settings(max_examples=12, deadline=None)
@given(steps=STEPS)
def test_nothing_is_skipped_or_repeated(steps: list[tuple[str, int]]) -> None:
    """Bulks, revisions, withdrawals, clocks that go back; three ways of polling, with and without filters."""

    async def run(directory: Path) -> None:
        clock = Clock()
        core = make_core(directory, clock)
        try:
            async with served(core, clock) as place:
                walk = Walk(place, clock)
                for step in steps:
                    await walk.step(*step)
                await walk.end()
        finally:
            core.store.close()

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(run(Path(name)))


async def test_exact_multiples_have_no_more(core: NodeCore, clock: Clock) -> None:
    """The last page says so, also if it is full."""
    async with served(core, clock) as place:
        place.some(4)
        everything = await place.objects()
        page, headers = await place.ask(f"{ALL}objects/?limit={len(everything)}")
        assert (page["more"], page.get("next"), len(page["objects"])) == (False, None, len(everything))
        half = len(everything) // 2
        page, _ = await place.ask(f"{ALL}objects/?limit={half}")
        assert page["more"]
        rest, last = await place.ask(f"{ALL}objects/?limit={len(everything) - half}&next={page['next']}")
        assert (rest["more"], [*page["objects"], *rest["objects"]]) == (False, everything)
        assert last["X-TAXII-Date-Added-Last"] == headers["X-TAXII-Date-Added-Last"]
        nothing, bare = await place.ask(f"{ALL}objects/?added_after={last['X-TAXII-Date-Added-Last']}")
        assert nothing == {"more": False}
        assert "X-TAXII-Date-Added-Last" not in bare


async def test_every_object_has_a_time_of_its_own(core: NodeCore, clock: Clock) -> None:
    """Also a bulk within one moment, and after the clock went back; the headers are those of the manifest."""
    async with served(core, clock) as place:
        place.some(20)
        clock.now = START - timedelta(hours=1)
        place.some(3)
        entries, headers = await place.ask(f"{ALL}manifest/?limit=1000")
        times = [entry["date_added"] for entry in entries["objects"]]
        assert times == sorted(set(times))
        assert all(len(time) == len("2026-05-04T08:00:00.000000Z") and time.endswith("000Z") for time in times)
        first, last = headers["X-TAXII-Date-Added-First"], headers["X-TAXII-Date-Added-Last"]
        assert (first, last) == (times[0], times[-1])


async def test_times_go_on_after_the_newest_were_taken_away(core: NodeCore, clock: Clock) -> None:
    """A client that has seen them would wait for ever for smaller ones, or see others under their numbers."""
    async with served(core, clock) as place:
        place.some()
        report_id = uuid4()
        place.arrive(foreign(report_id=report_id))
        _, seen = await place.ask(f"{ALL}objects/")
        place.arrive(foreign(report_id=report_id, revision=2, phase="withdrawn", body=Body()))
        clock.now = START - timedelta(minutes=4)
        core.store.close()
        again = make_core(Path(core.store.engine.url.database or "").parent, clock)
    async with served(again, clock) as place:
        place.some()
        page, _ = await place.ask(f"{ALL}objects/?added_after={seen['X-TAXII-Date-Added-Last']}")
        kinds = Counter(item["type"] for item in page["objects"])
        assert kinds["incident"] == 2
        again.store.close()


async def test_a_page_has_a_limit_in_bytes_too(core: NodeCore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large objects make shorter pages, never an empty one."""
    monkeypatch.setattr("node.api.taxii.PAGE_BYTES", 4_000)
    async with served(core, clock) as place:
        place.arrive(foreign(count=5, body=Body(title="Large", description="x" * 3_000)))
        page, _ = await place.ask(f"{ALL}objects/")
        assert page["more"]
        assert page["objects"]
        incidents = [item for item in await place.objects() if item["type"] == "incident"]
        assert len(incidents) == 5


async def test_objects_that_reports_have_in_common_stand_once(core: NodeCore, clock: Clock) -> None:
    """Who reported, and the markings: in each collection, and not only where a token may not look."""
    async with served(core, clock) as place:
        place.some(3, marking=Marking(tlp="AMBER"))
        place.some(3)
        for collection in ("all", "tlp-green", "tlp-amber", "rsit-fraud", "sector-finance"):
            found = Counter(item["id"] for item in await place.objects(collection=collection))
            assert set(found.values()) == {1}
            assert sum(name.startswith("identity--") for name in found) >= 1
            assert sum(name.startswith("marking-definition--") for name in found) >= 1
        rows = common_rows(core)
        place.some(5)
        assert common_rows(core) == rows


def common_rows(core: NodeCore) -> int:
    query = select(func.count()).select_from(tables.taxii_objects).where(tables.taxii_objects.c.source < 0)
    with core.store.engine.connect() as connection:
        return int(connection.execute(query).scalar_one())


async def test_of_two_revisions_of_one_moment_the_later_one_shows(core: NodeCore, clock: Clock) -> None:
    """A bulk import may hold both; they have the same version."""
    async with served(core, clock) as place:
        report_id = uuid4()
        place.arrive(foreign(report_id=report_id, body=Body(title="Old")))
        place.arrive(foreign(report_id=report_id, revision=2, body=Body(title="New")))
        for version in ("last", "first", "all"):
            found = await place.objects(f"match[type]=incident&match[version]={version}")
            assert [item["name"] for item in found] == ["New"]


@pytest.mark.usefixtures("each_database")
def test_pages_on_each_database(tmp_path: Path) -> None:
    """The same on PostgreSQL."""
    clock = Clock()
    core = make_core(tmp_path, clock)

    async def run() -> None:
        async with served(core, clock) as place:
            walk = Walk(place, clock)
            for step in (("arrive", 3), ("poll", 4), ("revise", 1), ("withdraw", 0), ("arrive", 2), ("poll", 3)):
                await walk.step(*step)
            await walk.end()

    try:
        asyncio.run(run())
    finally:
        core.store.close()
