"""TAXII 2.1 over HTTP: a real client against a real node, the letter of the specification, and who may see what."""

from __future__ import annotations

import asyncio
import base64
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from requests.auth import AuthBase
from taxii2client.v21 import Server, as_pages

from node.core import NodeCore
from protocol.parts import Marking
from protocol.policy import HEADER
from protocol.report import Body
from tests.node.conftest import running
from tests.node.taxiing import ALL, MEDIA, ROOT, limited, served, taxii_node, until_shown
from tests.node.test_filing import file
from tests.node.world import CANARY, TOKEN, Broker, Clock, MemoryBus, filing, foreign, make_config, released

AMBER = Marking(tlp="AMBER")
RED = Marking(tlp="RED", recipients=["id"])


class Bearer(AuthBase):
    """The other way to say who one is."""

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {TOKEN}"
        return request


# --- a real client ----------------------------------------------------------------------------------------------


async def test_taxii2_client_reads_all_of_a_node(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """Discovery, collections, pages, times, manifest, filters, one object, its versions; with Basic and with Bearer."""
    bus = MemoryBus()
    report_id = uuid4()
    bus.inbox.append(broker.delivery(released(foreign(count=12)), released(foreign(report_id=report_id))))

    def read(url: str) -> tuple[str, str]:
        server = Server(f"{url}/taxii2/", user="soc", password=TOKEN)
        assert server.title == "CERT of Testland"
        (root,) = server.api_roots
        assert server.default is root
        assert root.versions == [MEDIA]
        collections = {one.alias: one for one in root.collections}
        assert {"all", "tlp-green", "rsit-fraud", "sector-finance"} <= set(collections)
        assert all(one.can_read and not one.can_write for one in collections.values())
        every = collections["all"]
        pages = list(as_pages(every.get_objects, per_request=20))
        objects = [item for page in pages for item in page["objects"]]
        assert [len(page["objects"]) for page in pages[:-1]] == [20] * (len(pages) - 1)
        assert len({item["id"] for item in objects}) == len(objects)
        entries = [entry for page in as_pages(every.get_manifest, per_request=33) for entry in page["objects"]]
        assert [entry["id"] for entry in entries] == [item["id"] for item in objects]
        assert all(
            entry["version"] == item.get("modified", item["created"])
            for entry, item in zip(entries, objects, strict=True)
        )
        middle = entries[30]["date_added"]
        later = every.get_objects(added_after=middle)["objects"]
        assert [item["id"] for item in later] == [entry["id"] for entry in entries[31:]]
        incidents = every.get_objects(type="incident")["objects"]
        assert len(incidents) == 13
        some = every.get_objects(id=[incidents[2]["id"], incidents[5]["id"]])["objects"]
        assert [item["id"] for item in some] == [incidents[2]["id"], incidents[5]["id"]]
        assert every.get_objects(spec_version="2.0") == {"more": False}
        assert every.get_object(incidents[3]["id"])["objects"] == [incidents[3]]
        bearer = Server(f"{url}/taxii2/", auth=Bearer()).api_roots[0].collections[0]
        assert bearer.get_objects(type="incident")["objects"] == incidents
        wrong = Server(f"{url}/taxii2/", user="another", password=TOKEN)
        with pytest.raises(requests.HTTPError, match="401"):
            wrong.refresh()
        return incidents[-1]["id"], collections["all"].id

    def read_versions(url: str, name: str) -> Any:
        every = next(one for one in Server(f"{url}/taxii2/", user="soc", password=TOKEN).default.collections)
        versions = every.object_versions(name)["versions"]
        newest, oldest = every.get_object(name)["objects"], every.get_object(name, version="first")["objects"]
        assert [item["modified"] for item in (*oldest, *newest)] == versions
        assert every.get_object(name, version="all")["objects"] == [*oldest, *newest]
        assert every.get_object(name, version=versions[0])["objects"] == oldest
        return versions

    async with taxii_node(tmp_path, clock, bus, title="CERT of Testland") as node:
        await until_shown(node, 13)
        name, _ = await asyncio.to_thread(read, node.node.url)
        clock.pass_(minutes=5)
        revision = foreign(report_id=report_id, revision=2, issued_at=clock.now)
        bus.inbox.append(broker.delivery(released(revision)))
        await until_shown(node, 14)
        assert len(await asyncio.to_thread(read_versions, node.node.url, name)) == 2


async def test_without_being_enabled_nothing_is_there(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """And nothing is written."""
    bus = MemoryBus()
    bus.inbox.append(broker.delivery(released(foreign())))
    async with running(make_config(tmp_path), clock, bus) as node:
        await bus.until(lambda: not bus.inbox and not bus.unacked)
        async with node.http.get("/taxii2/") as response:
            assert response.status == 404
    async with taxii_node(tmp_path, clock) as node:
        await until_shown(node, 1)


# --- the letter of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (MEDIA, 200),
        ("application/taxii+json", 200),
        ('application/taxii+json; version="2.1"', 200),
        ("application/xml, APPLICATION/TAXII+JSON ;version=2.1;q=0.5", 200),
        ("*/*", 200),
        ("application/taxii+json;version=2.0", 406),
        ("application/vnd.oasis.taxii+json; version=2.0", 406),
        ("application/json", 406),
        ("application/taxii+json;version=2.1;q=0", 406),
        ("application/taxii+json;version=2.1;q=much", 406),
        ("text/html", 406),
    ],
)
async def test_what_a_client_accepts(core: NodeCore, clock: Clock, accept: str, status: int) -> None:
    """TAXII 2.1, with or without its version, or anything; nothing else, and the answer says why."""
    async with served(core, clock) as place:
        for path in ("/taxii2/", ROOT, f"{ROOT}collections/", ALL, f"{ALL}objects/", f"{ALL}manifest/"):
            document, _ = await place.ask(path, status, headers={"Accept": accept})
            if status == 406:
                assert document["error_code"] == "not-acceptable"


@pytest.mark.parametrize(
    ("query", "reason", "path"),
    [
        ("limit=0", "out-of-range", "$.limit"),
        ("limit=-1", "out-of-range", "$.limit"),
        ("limit=ten", "out-of-range", "$.limit"),
        ("limit=1.5", "out-of-range", "$.limit"),
        ("next=nonsense", "invalid-value", "$.next"),
        ("next=AAAAAAAAAAB", "invalid-value", "$.next"),
        ("added_after=yesterday", "invalid-value", "$.added_after"),
        ("added_after=2026-05-04T08:00:00", "invalid-value", "$.added_after"),
        ("added_after=9999-12-31T23:59:59-23:59", "invalid-value", "$.added_after"),
        ("match[version]=newest", "invalid-value", "$.match[version]"),
        ("match[type]=", "invalid-value", "$.match[type]"),
        ("match[name]=x", "unknown-field", "$.match[name]"),
        ("match[id]=" + ",".join(["x"] * 101), "too-many", "$.match[id]"),
        ("limit=99999999", None, ""),
        ("something=else", None, ""),
        ("added_after=2026-05-04T08:00:00%2B00:00", None, ""),
        ("added_after=2026-05-04T08:00:00+00:00", None, ""),
        ("match[type]=incident&match[type]=indicator", None, ""),
    ],
)
async def test_what_a_client_asks_for(core: NodeCore, clock: Clock, query: str, reason: str | None, path: str) -> None:
    """A filter is understood or refused with 400 in TAXII's form, never ignored."""
    async with served(core, clock) as place:
        document, _ = await place.ask(f"{ALL}objects/?{query}", 400 if reason else 200)
        if reason:
            assert set(document) == {"title", "description", "error_code", "http_status", "details"}
            assert (document["error_code"], document["http_status"]) == (reason, "400")
            assert document["details"] == {"reason": reason, "path": path}


async def test_filters_mean_what_the_specification_says(core: NodeCore, clock: Clock) -> None:
    """Values of one filter widen, filters narrow; the newest version unless others are asked for."""
    async with served(core, clock) as place:
        report_id = uuid4()
        place.arrive(foreign(report_id=report_id))
        clock.pass_(minutes=1)
        place.arrive(foreign(report_id=report_id, revision=2, issued_at=clock.now))
        clock.pass_(minutes=1)
        place.arrive(foreign(report_id=report_id, revision=3, issued_at=clock.now))

        async def revisions(query: str) -> list[str]:
            found = await place.objects(f"match[type]=incident&{query}")
            return [item["modified"][14:16] for item in found]

        assert await revisions("") == ["02"]
        assert await revisions("match[version]=last") == ["02"]
        assert await revisions("match[version]=first") == ["00"]
        assert await revisions("match[version]=first,last") == ["00", "02"]
        assert await revisions("match[version]=all") == ["00", "01", "02"]
        assert await revisions("match[version]=2026-05-04T08:01:00Z") == ["01"]
        assert await revisions("match[version]=2026-05-04T08:01:00.000000Z,first") == ["00", "01"]
        assert await revisions("match[version]=2026-05-04T08:09:00Z") == []
        assert await revisions("match[spec_version]=2.1") == ["02"]
        assert await revisions("match[spec_version]=2.0,2.1") == ["02"]
        assert await revisions("match[id]=incident--x") == []
        kinds = {item["type"] for item in await place.objects("match[type]=incident,identity")}
        assert kinds == {"incident", "identity"}


async def test_what_is_not_there(core: NodeCore, clock: Clock) -> None:
    """404 for addresses, collections and objects; 405 for what cannot be done; all in TAXII's form."""
    async with served(core, clock) as place:
        place.some()
        (incident,) = await place.objects("match[type]=incident")
        for path in (
            f"{ROOT}nothing/",
            f"{ROOT}collections/nothing/",
            f"{ROOT}collections/{uuid4()}/objects/",
            f"{ROOT}collections/intake/",
            f"{ROOT}status/{uuid4()}/",
            f"{ALL}objects/incident--{uuid4()}/",
            f"{ALL}objects/incident--{uuid4()}/versions/",
            f"{ROOT}collections/tlp-red/objects/{incident['id']}/",
        ):
            document, _ = await place.ask(path, 404)
            assert document["error_code"] == "unknown-path"
        for method in ("POST", "DELETE"):
            await place.ask(f"{ALL}objects/{incident['id']}/", 405, method)
        page, _ = await place.ask(f"{ALL}objects/{incident['id']}/?match[version]=2020-01-01T00:00:00Z")
        assert page == {"more": False}


async def test_addresses_without_the_last_slash(core: NodeCore, clock: Clock) -> None:
    """Clients forget it; and a collection may be named by its id or its alias."""
    async with served(core, clock) as place:
        place.some()
        listed, _ = await place.ask(f"{ROOT}collections")
        assert (await place.ask("/taxii2"))[0]["default"] == ROOT
        number = listed["collections"][0]["id"]
        by_id, _ = await place.ask(f"{ROOT}collections/{number}/objects")
        by_alias, _ = await place.ask(f"{ALL}objects/")
        assert by_id == by_alias
        assert by_id["objects"]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("soc:" + TOKEN, 200),
        ("other:" + TOKEN, 401),
        (":" + TOKEN, 401),
        ("soc:wrong", 401),
        ("soc", 401),
        ("soc:", 401),
        ("söc:" + TOKEN, 401),
    ],
)
async def test_basic_is_name_and_token(core: NodeCore, clock: Clock, given: str, status: int) -> None:
    """A token under its own name only; the refusal says which schemes there are."""
    async with served(core, clock) as place:
        header = "Basic " + base64.b64encode(given.encode()).decode()
        document, headers = await place.ask("/taxii2/", status, headers={"Authorization": header})
        if status == 401:
            assert document["error_code"] == "token-invalid"
            assert headers["WWW-Authenticate"].startswith("Basic ")


async def test_basic_is_for_taxii_only(tmp_path: Path, clock: Clock) -> None:
    """Browsers send it again by themselves: it opens nothing that changes anything."""
    async with taxii_node(tmp_path, clock) as node:
        header = {"Authorization": "Basic " + base64.b64encode(f"soc:{TOKEN}".encode()).decode()}
        async with node.http.get("/v1/inbox", headers=header) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
        for broken in ("Basic ***", "Basic", "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()):
            async with node.http.get("/taxii2/", headers={"Authorization": broken}) as response:
                assert response.status == 401
        async with node.http.get("/taxii2/", headers={"Authorization": ""}) as response:
            assert (response.status, response.headers["Content-Type"]) == (401, MEDIA)
            assert (await response.json(content_type=None))["error_code"] == "token-missing"


# --- who may see what -------------------------------------------------------------------------------------------


async def test_a_report_stands_by_its_marking_class_and_sector(core: NodeCore, clock: Clock) -> None:
    """And nowhere else."""
    async with served(core, clock) as place:
        place.some(marking=RED)
        place.some(marking=AMBER)
        found = {}
        listed, _ = await place.ask(f"{ROOT}collections/")
        for one in listed["collections"]:
            objects = await place.objects("match[type]=incident", one["alias"])
            if objects:
                found[one["alias"]] = len(objects)
        assert found == {"all": 2, "tlp-red": 1, "tlp-amber": 1, "rsit-fraud": 2, "sector-finance": 2}


@pytest.mark.parametrize("tlp", ["CLEAR", "GREEN", "AMBER", "AMBER+STRICT", "RED", "nonsense"])
async def test_a_token_sees_nothing_above_its_marking(
    core: NodeCore, clock: Clock, monkeypatch: pytest.MonkeyPatch, tlp: str
) -> None:
    """Neither collections nor objects, by no address; and what it may not see looks like what is not there."""
    order = ["CLEAR", "GREEN", "AMBER", "AMBER+STRICT", "RED"]
    async with served(core, clock) as place:
        for marking in order:
            place.some(marking=Marking(tlp=marking, recipients=["id"]))  # type: ignore[arg-type]
        by_tlp = {
            marking: (await place.objects("match[type]=incident", f"tlp-{marking.lower().replace('+', '-')}"))[0]["id"]
            for marking in order
        }
        limited(monkeypatch, tlp)
        may = order[: order.index(tlp) + 1] if tlp in order else []
        listed, _ = await place.ask(f"{ROOT}collections/")
        aliases = [one["alias"] for one in listed.get("collections", [])]
        assert [name for name in aliases if name.startswith("tlp-")] == [
            f"tlp-{marking.lower().replace('+', '-')}" for marking in may
        ]
        if not may:
            assert listed == {}
            await place.ask(f"{ALL}objects/", 404)
            return
        for collection in ("all", "rsit-fraud", "sector-finance"):
            objects = await place.objects("match[version]=all", collection)
            assert [item["id"] for item in objects if item["type"] == "incident"] == [by_tlp[name] for name in may]
            assert {entry["id"] for entry in objects}.isdisjoint({by_tlp[name] for name in order if name not in may})
        never, _ = await place.ask(f"{ROOT}collections/nothing/objects/", 404)
        for marking in order:
            if marking not in may:
                hidden, _ = await place.ask(f"{ROOT}collections/tlp-{marking.lower()}/objects/", 404)
                assert hidden == never
                one, _ = await place.ask(f"{ALL}objects/{by_tlp[marking]}/", 404)
                other, _ = await place.ask(f"{ALL}objects/incident--{uuid4()}/", 404)
                assert one == other
                assert (await place.ask(f"{ALL}objects/?match[id]={by_tlp[marking]}"))[0] == {"more": False}


async def test_a_tightened_revision_leaves_the_one_before_it(
    core: NodeCore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that may not read the second revision is shown the first, and is not told that there is a second."""
    async with served(core, clock) as place:
        report_id = uuid4()
        place.arrive(foreign(report_id=report_id))
        clock.pass_(minutes=1)
        place.arrive(foreign(report_id=report_id, revision=2, issued_at=clock.now, marking=AMBER))
        assert [item["modified"][14:16] for item in await place.objects("match[type]=incident")] == ["01"]
        limited(monkeypatch, "GREEN")
        (seen,) = await place.objects("match[type]=incident")
        assert seen["modified"][14:16] == "00"
        versions, _ = await place.ask(f"{ALL}objects/{seen['id']}/versions/")
        assert versions["versions"] == [seen["modified"]]


async def test_only_what_was_disclosed_is_shown(core: NodeCore, clock: Clock, broker: Broker) -> None:
    """What the import policy, or another one, withheld is in no object; own reports are not there either."""
    async with served(core, clock) as place:
        file(core, filing("Own"))
        core.receive([broker.delivery(released(foreign(), exact=HEADER, coarse=0))])
        place.arrive(foreign("sg-cert", body=Body(title="Other")))
        text = str(await place.objects("match[version]=all"))
        assert "Other" in text
        assert not re.search(r"Report 0(?![0-9a-f])", text), "the title; an incident without one is named by its id"
        assert not [word for word in (CANARY, "203.0.113.7", "a.example", "Own", "Contoh") if word in text]
