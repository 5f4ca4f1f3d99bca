"""The TAXII collections and what an origin takes back: dropped objects are revoked, for all who have read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import stix2

from node import projection
from node.checktaxii import check_taxii
from node.core import NodeCore
from node.formats import stix_words as words
from node.formats.stix import objects_of
from node.projection import catch_up
from node.reading import snapshot
from node.retracting import retracted, revoked
from node.tables import taxii_objects
from node.taxii import brought
from protocol.parts import Marking
from protocol.report import UNIT_BIT, Body
from tests.node.foreign import full
from tests.node.looking import inbox
from tests.node.taxiing import Served, limited, served
from tests.node.test_expiry import SOON, ends, expire
from tests.node.test_taxii_ends import objects_in, withdrawal
from tests.node.world import START, Clock, foreign, released

X, Y, Z = ({"type": "ipv4-addr", "value": value} for value in ("203.0.113.1", "203.0.113.2", "198.51.100.3"))
DOMAIN = {"type": "domain-name", "value": "bad.example"}
EXACT = sum(1 << bit for bit in UNIT_BIT.values())


class Source:
    """One report of another member, revision by revision."""

    def __init__(self, place: Served) -> None:
        self.place, self.report_id = place, uuid4()

    def revise(
        self, revision: int, *indicators: dict[str, Any], exact: int = -1, coarse: int = 0, **changes: Any
    ) -> None:
        """A revision arrives, with these indicators, and is shown."""
        said = changes.pop("body", {})
        body = {"title": "Botnet", "malware": ["emotet"], "indicators": list(indicators), **said}
        made = foreign(
            report_id=self.report_id,
            revision=revision,
            issued_at=START + timedelta(minutes=revision),
            body=quick(body),
            **changes,
        )
        core = self.place.core
        core.receive([self.place.broker.delivery(released(made, exact, coarse))])
        catch_up(core.store, objects_of, core._now)


def quick(body: dict[str, Any]) -> Body:
    return msgspec.convert({name: value for name, value in body.items() if value != []}, Body)


async def indicators(place: Served, collection: str = "all") -> dict[str, bool]:
    """By pattern, whether it is revoked; each must be what STIX 2.1 calls one."""
    found = await place.objects("match[type]=indicator", collection)
    for item in found:
        stix2.parse(item, allow_custom=True, version="2.1")
    names = [item["name"] for item in found]
    assert len(set(names)) == len(names) or "Withdrawn" in names
    return {item["name"]: item.get("revoked", False) for item in found}


def sound(core: NodeCore) -> None:
    with snapshot(core.store) as reads:
        assert list(check_taxii(reads)) == []


def standing(core: NodeCore) -> set[tuple[str, int, bytes]]:
    return {(row.object_id, row.version, bytes(row.object)) for row in objects_in(core)}


@pytest.mark.usefixtures("each_database")
async def test_what_a_revision_drops_is_revoked(core: NodeCore, clock: Clock) -> None:
    """The same object, later, with its relationship; the others are not; whoever asks what is new is told."""
    async with served(core, clock) as place:
        source = Source(place)
        source.revise(1, X, Y)
        (before,) = [item for item in await place.objects("match[type]=indicator") if item["name"] == X["value"]]
        _, seen = await place.ask("/taxii2/reports/collections/all/objects/")
        source.revise(2, Y, Z)
        assert await indicators(place) == {X["value"]: True, Y["value"]: False, Z["value"]: False}
        news, _ = await place.ask(
            f"/taxii2/reports/collections/all/objects/?added_after={seen['X-TAXII-Date-Added-Last']}"
        )
        (now,) = [item for item in news["objects"] if item["id"] == before["id"]]
        assert now["modified"] > before["modified"]
        changed = {"modified", "revoked", "valid_until"}
        assert {k: v for k, v in now.items() if k not in changed} == {
            k: v for k, v in before.items() if k not in changed
        }
        assert now["valid_until"] == now["modified"]
        links = [item for item in await place.objects("match[type]=relationship") if item["target_ref"] == now["id"]]
        assert [item["revoked"] for item in links] == [True]
        assert not any(item.get("revoked") for item in await place.objects("match[type]=malware"))
        sound(core)
        # The address is back, then gone again.
        source.revise(3, X, Y)
        assert await indicators(place) == {X["value"]: False, Y["value"]: False, Z["value"]: True}
        source.revise(4, Y)
        source.revise(5, Y)
        assert await indicators(place) == {X["value"]: True, Y["value"]: False, Z["value"]: True}
        sound(core)
        with snapshot(core.store) as reads:
            assert reads.count(taxii_objects, ended=True, type="indicator") == 2, "said once"


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1), (3, 2, 1)])
async def test_revisions_may_arrive_in_any_order(core: NodeCore, clock: Clock, order: Sequence[int]) -> None:
    """What the newest says counts; and so it is when the collections are made again."""
    said = {1: (X, Y), 2: (X, Z), 3: (Z,)}
    async with served(core, clock) as place:
        source = Source(place)
        for revision in order:
            source.revise(revision, *said[revision])
        assert await indicators(place) == {X["value"]: True, Y["value"]: True, Z["value"]: False}
        sound(core)


async def test_made_again_the_same_is_revoked(core: NodeCore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the revisions come in different transactions."""
    async with served(core, clock) as place:
        source = Source(place)
        source.revise(1, X, Y)
        source.revise(2, Y)
        before = standing(core)
        monkeypatch.setattr(projection, "SHAPE", projection.SHAPE + 1)
        monkeypatch.setattr(projection, "AT_ONCE", 1)
        catch_up(core.store, objects_of, clock)
        assert standing(core) == before


async def test_who_read_it_is_told_and_learns_no_more(
    core: NodeCore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of an indicator stands where it stood, though the revision that dropped it is marked more strictly."""
    async with served(core, clock) as place:
        source = Source(place)
        source.revise(1, X, Y, marking=Marking(tlp="GREEN"))
        source.revise(2, Y, Z, marking=Marking(tlp="AMBER"))
        source.revise(3, Y, marking=Marking(tlp="AMBER"))
        assert await indicators(place, "tlp-amber") == {Y["value"]: False, Z["value"]: True}
        limited(monkeypatch, "GREEN")
        for collection in ("all", "tlp-green", "rsit-fraud"):
            assert await indicators(place, collection) == {X["value"]: True, Y["value"]: False}
        place.arrive(withdrawal(source.report_id, 4))
        assert len(await place.objects("match[type]=indicator")) == 2, "what never stood here does not end here"


async def test_what_is_worded_anew_is_not_taken_back(core: NodeCore, clock: Clock) -> None:
    """Tools know it by its pattern or name; when it is dropped, every wording of it is revoked."""
    async with served(core, clock) as place:
        source = Source(place)
        source.revise(1, X, Y)
        source.revise(2, {**X, "context": "seen again"}, Y, body={"malware": ["emotet", "qakbot"]})
        found = await place.objects("match[type]=indicator")
        assert [item.get("revoked", False) for item in found if item["name"] == X["value"]] == [False, False]
        source.revise(3, Y, body={"malware": ["qakbot"]})
        found = await place.objects("match[type]=indicator")
        assert [item.get("revoked", False) for item in found if item["name"] == X["value"]] == [True, True]
        malware = await place.objects("match[type]=malware")
        assert {item["name"]: item.get("revoked", False) for item in malware} == {"emotet": True, "qakbot": False}


@pytest.mark.parametrize(
    ("exact", "coarse"),
    [
        pytest.param(EXACT & ~(1 << UNIT_BIT["indicators.address"]), 0, id="withheld"),
        pytest.param(EXACT & ~(1 << UNIT_BIT["indicators.address"]), -1, id="coarse"),
    ],
)
async def test_what_is_withheld_is_not_taken_back(core: NodeCore, clock: Clock, exact: int, coarse: int) -> None:
    """Addresses are withheld of a later revision: nobody said that they are wrong. Of a domain that is told."""
    async with served(core, clock) as place:
        source = Source(place)
        source.revise(1, X, Z, DOMAIN, coarse=coarse)
        source.revise(2, X, {"type": "url", "value": "https://bad.example"}, exact=exact, coarse=coarse)
        assert (await indicators(place))[X["value"]] is False
        source.revise(3, X, Y, exact=exact, coarse=coarse)
        found = await indicators(place)
        assert found[X["value"]] is False
        source.revise(4, X, {"type": "url", "value": "https://bad.example/x"}, exact=exact, coarse=coarse)
        found = await indicators(place)
        assert (found[X["value"]], found[DOMAIN["value"]]) == (False, True)


async def test_the_last_of_its_kind_is_taken_back(core: NodeCore, clock: Clock) -> None:
    """Nothing of the unit is left to tell by; no more is undisclosed than before, though more of others is."""
    mail = {"type": "email-addr", "value": "a@bad.example"}
    hidden = EXACT & ~(1 << UNIT_BIT["indicators.account"])
    async with served(core, clock) as place:
        source = Source(place)
        source.revise(1, X, Y, DOMAIN, mail, exact=hidden)
        source.revise(2, DOMAIN, mail, exact=hidden)
        assert await indicators(place) == {X["value"]: True, Y["value"]: True, DOMAIN["value"]: False}
        source.revise(3)
        assert await indicators(place) == {X["value"]: True, Y["value"]: True, DOMAIN["value"]: True}
    # The own import policy says by name what it withholds.
    first, second, _ = (made for row in inbox(core) if (made := brought(row, objects_of)))
    assert [item.type for item in retracted([first, second])] == ["indicator"] * 2 + ["relationship"] * 2
    here = replace(second.seen, withheld=frozenset({"indicators.address"}), shows=frozenset())
    assert retracted([first, replace(second, seen=here)]) == []


@pytest.mark.parametrize("way", ["withdrawal", "expiry"])
async def test_what_was_taken_back_ends_with_its_report(core: NodeCore, clock: Clock, way: str) -> None:
    """What is left of it says nothing, and matches nothing; it stays revoked."""
    async with served(core, clock) as place:
        source = Source(place)
        source.revise(1, X, Y, **ends())
        source.revise(2, Y, **ends())
        old = {item["id"]: item for item in await place.objects("match[type]=indicator")}
        if way == "withdrawal":
            place.arrive(withdrawal(source.report_id, 3))
        else:
            clock.now = SOON
            assert expire(core) == 2
        found = await place.objects("match[type]=indicator&match[version]=all")
        assert {item["id"] for item in found} == set(old)
        for item in found:
            assert (item["revoked"], item["name"]) == (True, "Withdrawn")
            assert item["pattern"] == "[x-kentongan-report:phase = 'withdrawn']"
            assert item["modified"] > old[item["id"]]["modified"]
            stix2.parse(item, allow_custom=True, version="2.1")
        assert b"203.0.113" not in b"".join(bytes(row.object) for row in objects_in(core))
        sound(core)


async def test_a_revision_that_goes_takes_its_own_with_it(core: NodeCore, clock: Clock) -> None:
    """The one that dropped something expires: what it dropped stays revoked, what only it had is."""
    async with served(core, clock) as place:
        source = Source(place)
        source.revise(1, X, Y)
        source.revise(2, Y, Z, **ends())
        clock.now = SOON
        assert expire(core) >= 1
        found = await place.objects("match[type]=indicator")
        assert {item["name"]: item.get("revoked", False) for item in found}.get(Y["value"]) in (None, False)
        assert not [item for item in found if item["name"] == Z["value"]]
        sound(core)


def test_what_is_left_of_an_object_says_nothing_of_it() -> None:
    """Each type: what STIX 2.1 requires, and of the content nothing but ids."""
    found = objects_of(full(withheld=["victim"]))
    kinds = {item["type"] for item in found} - {"marking-definition"}
    assert {"incident", "indicator", "malware", "location", "task", "impact", "note", "threat-actor"} <= kinds
    for item in found:
        if item["type"] == "marking-definition":
            continue
        left = json.loads(revoked(json.dumps(item).encode(), 2**50))
        assert stix2.parse(left, allow_custom=True, version="2.1")["revoked"] is True
        same = {name for name, value in left.items() if item.get(name) == value}
        allowed = {"type", "spec_version", "id", "created_by_ref", "created", "object_marking_refs", "extensions"}
        allowed |= {"relationship_type", "source_ref", "target_ref", "object_refs"}
        stand_ins = {"pattern_type", "pattern_version", "is_family", "status", "outcome", "impact_category"}
        assert same <= allowed | stand_ins, item["type"]
        assert words.OURS not in left.get("extensions", {})
        assert words.INCIDENT_CORE not in left.get("extensions", {})
