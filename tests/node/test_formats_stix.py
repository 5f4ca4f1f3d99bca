"""STIX 2.1, there and back: its own tools read what is written, and of what is read nothing is lost from sight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.demo import incidents as demo
from node.formats import fidelity, stix
from node.formats import stix_words as words
from node.formats.foreign import Defaults, Foreign, Shown
from node.formats.stix_pattern import Value, pattern_of, values_of
from protocol.errors import ProtocolError
from protocol.reasons import Reason
from protocol.report import Body, Filing, Report
from protocol.taxonomy import IndicatorType
from tests.node.foreign import AMBER, NOTHING, anything, every_field, full, held_to, one, refusal, shown, strings
from tests.protocol.make import NOW, body_from, quick, refused, report, reports

stix2 = pytest.importorskip("stix2")

CREATED = "2026-02-01T00:00:00.000Z"
CORE = words.INCIDENT_CORE
SAID = {"created": CREATED, "modified": CREATED, "spec_version": "2.1"}


def thing(kind: str, number: int = 1, **given: Any) -> dict[str, Any]:
    """An object with what every object has."""
    return {"type": kind, "id": f"{kind}--{UUID(int=number | 4 << 76 | 8 << 60)}", **SAID, **given}


def bundle(*objects: dict[str, Any]) -> dict[str, Any]:
    return {"type": "bundle", "id": "bundle--00000000-0000-4000-8000-000000000000", "objects": list(objects)}


def link(source: dict[str, Any], kind: str, target: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return thing("relationship", number, relationship_type=kind, source_ref=source["id"], target_ref=target["id"])


def by_type(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in objects if item["type"] == kind]


INCIDENT = thing("incident", name="Outage of a ministry")


# --- out -------------------------------------------------------------------------------------------------------------


@quick(150)
@given(reports())
def test_a_report_comes_back_as_its_table_says(filed: Report) -> None:
    """Every field of header and body, and nothing of it is invented."""
    data = stix.write([shown(filed)])
    held_to(fidelity.STIX, filed, one(stix.read, data), {})
    assert stix.write([shown(filed)]) == data


def test_the_table_knows_every_field() -> None:
    """A new field of the profile must be given a place."""
    assert set(fidelity.STIX) == set(fidelity.MISP) == every_field()


def test_the_guide_has_the_tables() -> None:
    """As they are in the code."""
    guide = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    assert fidelity.table(fidelity.STIX) in guide
    assert fidelity.table(fidelity.MISP) in guide
    assert words.OURS in guide


@quick(25)
@given(reports())
def test_the_standards_own_library_parses_what_is_written(filed: Report) -> None:
    """Strictly: no custom content but in extensions; patterns included."""
    for item in stix.objects_of(shown(filed)):
        stix2.parse(item, allow_custom=False)


def test_the_public_incidents_come_back() -> None:
    """Real incidents, as their CERTs would file them."""
    for incident in demo.load():
        filing = msgspec.convert(demo.filing(incident), Filing)
        filed = report(body=filing.body, marking=filing.marking, rsit=filing.rsit)
        held_to(fidelity.STIX, filed, one(stix.read, stix.write([shown(filed)])), {})


def test_a_later_revision_is_a_newer_version_of_the_same_objects() -> None:
    """Same ids and `created`, newer `modified`; whoever holds the first revision replaces it."""
    name = "0195a0f0-0000-7000-8000-000000000001"
    first, second = full(), full()
    first = Shown({**first.header, "report_id": name}, first.body, [], 0, NOW, own=True)
    head = {**second.header, "report_id": name, "revision": 2, "issued_at": "2026-03-02T08:00:00Z"}
    second = Shown(head, second.body, [], 0, NOW, own=True)
    old, new = ({item["id"]: item for item in stix.objects_of(revision)} for revision in (first, second))
    assert set(old) == set(new)
    for key, item in old.items():
        assert item["created"] == new[key]["created"]
        if item["type"] not in ("identity", "marking-definition") or item.get("created_by_ref"):
            assert item["modified"] < new[key]["modified"], item["type"]
    (incident,) = by_type(list(old.values()), "incident")
    assert incident["created"].startswith("2025-03-16"), "the time in the report's id"


def test_a_withdrawn_report_is_its_revoked_incident_and_nothing_else() -> None:
    """Nothing that was disclosed before is said again."""
    before = full()
    after = Shown({**before.header, "phase": "withdrawn", "revision": 2}, before.body, [], 0, NOW, own=False)
    objects = stix.objects_of(after)
    (incident,) = by_type(objects, "incident")
    assert incident["revoked"] is True
    assert incident["id"] == by_type(stix.objects_of(before), "incident")[0]["id"]
    assert {item["type"] for item in objects} == {"incident", "identity", "marking-definition"}
    assert not [text for text in strings(objects) if "canary" in text]
    assert one(stix.read, stix.write([after])).filing["phase"] == "withdrawn"


def test_what_is_withheld_is_absent_and_said_so() -> None:
    """No identity stands in for a victim, and what stands in for something else is never read as the thing."""
    body = {
        "title_coarse": "Word from [email]",
        "victim_coarse": {"sector": "finance.banking"},
        "times_coarse": {"detected": {"value": "2026-02-03T00:00:00Z", "fidelity": "day"}},
        "entity_counts_coarse": {"people": "1000-9999"},
        "geo_coarse": {"country": "id"},
        "indicators": [{"type": "ipv4-net", "value": "203.0.113.0/24", "level": "coarse"}],
        "contacts": [{"role": "duty officer", "level": "coarse"}],
    }
    names = ["victim", "indicators.address", "title"]
    item = full(body=body, withheld=names, undisclosed=7)
    objects = stix.objects_of(item)
    (incident,) = by_type(objects, "incident")
    assert incident["extensions"][words.OURS]["withheld"] == names
    (note,) = by_type(objects, "note")
    assert all(name in note["content"] for name in names)
    assert "7 parts" in note["content"]
    assert not [link for link in by_type(objects, "relationship") if link["relationship_type"] == "targets"]
    found = one(stix.read, stix.write([item]))
    assert found.filing["body"] == {}, "stand-ins are listed, not filed"
    assert "1000-9999" in strings(found.unmapped)
    assert "203.0.113.0/24" in strings(found.unmapped)


def test_marking_objects_are_the_official_ones() -> None:
    """TLP 2.0 and PAP by their ids, the objects in the bundle; the closer circle in words."""
    marking = {"tlp": "RED", "pap": "AMBER", "recipients": ["sg", "my"]}
    item = full()
    objects = stix.objects_of(Shown({**item.header, "marking": marking}, item.body, [], 0, NOW, own=True))
    marks = {mark["id"]: mark for mark in by_type(objects, "marking-definition")}
    assert "marking-definition--e828b379-4e03-4974-9ac4-e53a884c97c1" in marks
    assert "marking-definition--60f8932b-e51e-4458-b265-a2e8be9a80ab" in marks
    assert "sg, my" in str(marks)
    for made in objects:
        if made["type"] != "marking-definition" and "created_by_ref" in made:
            assert set(made["object_marking_refs"]) == set(marks)


def test_several_reports_stand_in_one_bundle() -> None:
    """Objects that they share stand in it once, and each is read with its own."""
    one_, two = report(1, body=body_from({"title": "a", "malware": ["x"]})), report(2, body=body_from({"title": "b"}))
    data = stix.write([shown(one_), shown(two)])
    objects = json.loads(data)["objects"]
    assert len({item["id"] for item in objects}) == len(objects)
    first, second = stix.read(data, NOTHING)
    assert isinstance(first, Foreign)
    assert isinstance(second, Foreign)
    assert (first.filing["body"], second.filing["body"]) == ({"title": "a", "malware": ["x"]}, {"title": "b"})


# --- patterns --------------------------------------------------------------------------------------------------------


@quick(300)
@given(st.sampled_from(get_args(IndicatorType)), st.text("ab'\\\\[]()=, OR:.\n", min_size=1, max_size=20))
def test_no_value_breaks_out_of_its_pattern(kind: str, value: str) -> None:
    """Whatever quotation marks and brackets it has: it is one comparison, with that value."""
    values = values_of(pattern_of(kind, value))
    assert values is None or len(values) == 1
    if kind in ("other", "mutex", "file-name"):
        assert values == [Value(kind, value)]


@pytest.mark.parametrize(
    ("pattern", "values"),
    [
        ("[ipv4-addr:value = '203.0.113.7']", [("ipv4-addr", "203.0.113.7")]),
        ("[ipv4-addr:value = '203.0.113.0/24']", [("ipv4-net", "203.0.113.0/24")]),
        ("[ipv4-addr:value ISSUBSET '203.0.113.0/24']", [("ipv4-net", "203.0.113.0/24")]),
        ("[ipv4-addr:value = '203.0.113.7/32']", [("ipv4-addr", "203.0.113.7")]),
        ("[network-traffic:dst_ref.value = '2001:db8::1']", [("ipv6-addr", "2001:db8::1")]),
        (
            "[domain-name:value='a.example' OR domain-name:value = 'b.example']",
            [("domain-name", x + ".example") for x in "ab"],
        ),
        (
            "[url:value = 'http://a.example/'] OR [url:value = 'http://b.example/']",
            [("url", f"http://{x}.example/") for x in "ab"],
        ),
        ("[ipv4-addr:value IN ('192.0.2.1', '192.0.2.2')]", [("ipv4-addr", "192.0.2.1"), ("ipv4-addr", "192.0.2.2")]),
        ("[file:hashes.'SHA-256' = 'b' AND file:hashes.MD5 = 'c']", [("sha256", "b"), ("md5", "c")]),
        ("[file:hashes.SHA256 = 'b']", [("sha256", "b")]),
        (r"[file:name = 'it\'s\\here.exe']", [("file-name", "it's\\here.exe")]),
        ("[email-message:from_ref.value = 'a@b.example']", [("email-addr", "a@b.example")]),
        ("[autonomous-system:number = 64500]", [("asn", "AS64500")]),
        ("[file:name = 'a' AND file:size = 4]", None),
        ("[file:hashes.MD5 = 'c' AND file:name = 'a']", None),
        ("[domain-name:value = 'a' OR file:size = 4]", None),
        ("[domain-name:value LIKE 'a%']", None),
        ("[domain-name:value != 'a']", None),
        ("[domain-name:value = 'a'] AND [domain-name:value = 'b']", None),
        ("[domain-name:value = 'a'] REPEATS 5 TIMES", None),
        ("[domain-name:value = 'a'] FOLLOWEDBY [url:value = 'b']", None),
        ("[domain-name:value = 'a'] OR", None),
        ("[domain-name:value = 'a'", None),
        ("[]", None),
        ("", None),
    ],
)
def test_patterns(pattern: str, values: list[tuple[str, str]] | None) -> None:
    """Lists of values are read; of anything that asks for more than that, nothing is."""
    assert values_of(pattern) == (values and [Value(*value) for value in values])


# --- in --------------------------------------------------------------------------------------------------------------


def test_a_bundle_as_tools_write_it() -> None:
    """The core extension and everything around an incident, each in its place."""
    campaign = thing("campaign", name="Autumn")
    actor = thing("intrusion-set", name="APT 99", aliases=["Ninety"], confidence=80)
    victim = thing("identity", 1, name="Ministry of Tides", identity_class="organization", sectors=["government"])
    desk = thing("identity", 2, name="Duty desk", roles=["duty officer"], contact_information="desk@cert.example")
    bad = thing(
        "indicator", 1, name="C2", pattern="[ipv4-addr:value = '203.0.113.7']", pattern_type="stix", valid_from=CREATED
    )
    rule = thing("indicator", 2, name="YARA", pattern="rule x {}", pattern_type="yara", valid_from=CREATED)
    technique = thing(
        "attack-pattern",
        name="Data Encrypted for Impact",
        external_references=[{"source_name": "mitre-attack", "external_id": "T1486"}],
        kill_chain_phases=[{"kill_chain_name": "mitre-attack", "phase_name": "impact"}],
    )
    cve = thing(
        "vulnerability",
        name="CVE-2026-0001",
        external_references=[{"source_name": "cve", "external_id": "CVE-2026-0001"}],
    )
    place = thing("location", country="ID", city="Jakarta")
    event = thing("event", status="occurred", start_time="2026-01-30T00:00:00Z", start_time_fidelity="day")
    task = thing("task", 1, task_types=["detected"], outcome="successful", start_time="2026-01-31T04:00:00Z")
    done = thing("task", 2, name="Pulled the plug", outcome="successful", start_time="2026-01-31T05:00:00Z")
    ransom = thing(
        "impact",
        impact_category="monetary",
        extensions={
            "monetary-ext": {"variety": "ransom-demand", "currency": "usd", "min_amount": 0, "max_amount": 5000}
        },
    )
    advice = thing("course-of-action", name="Do not pay")
    file = thing("file", hashes={"SHA-256": "b" * 64}, name="locker.exe")
    seen = thing(
        "observed-data",
        first_observed="2026-01-30T01:00:00Z",
        last_observed="2026-01-30T02:00:00Z",
        number_observed=1,
        object_refs=[file["id"]],
    )
    note = thing("note", content="It began on a printer.", object_refs=[INCIDENT["id"]])
    incident = {
        **INCIDENT,
        "labels": ["weather:rain"],
        "object_marking_refs": [words.TLP_IDS["GREEN"]],
        "extensions": {
            CORE: {
                "extension_type": "property-extension",
                "determination": "confirmed",
                "investigation_status": "open",
                "criticality": 70,
                "incident_types": ["ransomware"],
                "detection_methods": ["propriety-solution"],
                "impacted_entity_counts": {"individual": 100, "computers-server": 3},
                "recoverability": "regular",
                "events": [{"event_ref": event["id"]}],
                "tasks": [{"task_ref": task["id"]}, {"task_ref": done["id"]}],
                "impact_refs": [ransom["id"]],
            }
        },
    }
    linked = [
        link(incident, "attributed-to", actor, 1),
        link(incident, "targets", victim, 2),
        link(desk, "contact-for", incident, 3),
        link(campaign, "associated-with", incident, 4),
        link(bad, "detected", incident, 5),
        link(incident, "located-at", place, 6),
    ]
    around = [
        campaign,
        actor,
        victim,
        desk,
        bad,
        rule,
        technique,
        cve,
        place,
        event,
        task,
        done,
        ransom,
        advice,
        file,
        seen,
        note,
    ]
    found = one(stix.read, bundle(incident, *around, *linked))
    assert found.source_id == incident["id"]
    assert found.filing == {
        "marking": {"tlp": "GREEN"},
        "rsit": [{"class": "malicious-code", "type": "infected-system"}],
        "severity": {"score": 70, "method": "stix-criticality"},
        "body": {
            "title": "Outage of a ministry",
            "description": "It began on a printer.",
            "determination": "confirmed",
            "status": "open",
            "detection_methods": ["proprietary-solution"],
            "entity_counts": {"people": 100},
            "times": {
                "occurred": {"value": "2026-01-30T00:00:00Z", "fidelity": "day"},
                "detected": {"value": "2026-01-31T04:00:00Z"},
            },
            "actions": [{"what": "Pulled the plug", "at": "2026-01-31T05:00:00Z", "outcome": "successful"}],
            "impacts": [{"category": "monetary", "amount": 5000, "currency": "USD"}],
            "ransomware": {"demand_amount": 5000, "demand_currency": "USD"},
            "attack": [{"technique": "T1486", "matrix": "enterprise", "tactic": "TA0040"}],
            "actor": {"name": "APT 99", "aliases": ["Ninety"], "confidence": "high"},
            "vulnerabilities": [{"id": "CVE-2026-0001"}],
            "indicators": [
                {"type": "ipv4-addr", "value": "203.0.113.7", "context": "C2"},
                *(
                    {
                        "type": kind,
                        "value": value,
                        "first_seen": "2026-01-30T01:00:00Z",
                        "last_seen": "2026-01-30T02:00:00Z",
                    }
                    for kind, value in (("sha256", "b" * 64), ("file-name", "locker.exe"))
                ),
            ],
            "victim": {"name": "Ministry of Tides", "sector": "government"},
            "contacts": [{"role": "duty officer", "name": "Duty desk", "email": "desk@cert.example"}],
            "geo": {"city": "Jakarta", "country": "id"},
            "related": [{"kind": "same-campaign", "ref": "Autumn"}],
        },
    }
    lost = found.unmapped
    objects = json.loads(json.dumps(bundle(incident, *around, *linked)))["objects"]
    place_of = {item["id"]: f"$.objects[{index}]" for index, item in enumerate(objects)}
    assert lost[place_of[rule["id"]]] == rule
    assert lost[place_of[advice["id"]]] == advice
    assert lost[f"{place_of[technique['id']]}.name"] == "Data Encrypted for Impact"
    assert lost[f"{place_of[actor['id']]}.confidence"] == 80, "less precise as a band"
    assert lost[f"{place_of[seen['id']]}.number_observed"] == 1
    assert lost["$.objects[0].labels[0]"] == "weather:rain"
    assert lost[f"$.objects[0].extensions.{CORE}.recoverability"] == "regular"
    assert lost[f"$.objects[0].extensions.{CORE}.impacted_entity_counts.computers-server"] == 3
    assert lost[f"$.objects[0].extensions.{CORE}.incident_types[0]"] == "ransomware", "RSIT has no word for it"
    assert f"{place_of[ransom['id']]}.extensions" in lost


MARKS = {
    "tlp-2-id": [words.TLP_IDS["AMBER"]],
    "tlp-1-id": ["marking-definition--f88d31f6-486f-44da-b317-01333bde0b82"],
    "tlp-1-object": [thing("marking-definition", 7, definition_type="tlp", definition={"tlp": "amber"})],
    "statement": [thing("marking-definition", 8, definition_type="statement", definition={"statement": "TLP:AMBER"})],
    "tlp-2-object": [
        thing(
            "marking-definition",
            9,
            name="x",
            extensions={words.TLP_2: {"tlp_2_0": "amber", "extension_type": "property-extension"}},
        )
    ],
}


@pytest.mark.parametrize("marks", MARKS.values(), ids=MARKS)
def test_a_marking_in_each_of_its_forms(marks: list[Any]) -> None:
    """By official id, by what the object says, by a statement."""
    refs = [mark if isinstance(mark, str) else mark["id"] for mark in marks]
    objects = [mark for mark in marks if isinstance(mark, dict)]
    found = one(stix.read, bundle({**INCIDENT, "object_marking_refs": refs}, *objects), Defaults({"tlp": "GREEN"}))
    assert found.filing["marking"]["tlp"] == "AMBER"


@pytest.mark.parametrize(
    "stricter",
    [
        {"object_marking_refs": [words.TLP_IDS["AMBER+STRICT"]]},
        {"granular_markings": [{"marking_ref": words.TLP_IDS["AMBER+STRICT"], "selectors": ["name"]}]},
        {"labels": ["tlp:amber+strict"]},
    ],
    ids=["object", "granular", "label"],
)
def test_the_strictest_marking_of_anything_read_holds(stricter: dict[str, Any]) -> None:
    """A report says all at once: it is marked as the strictest part of it."""
    incident = {**INCIDENT, "object_marking_refs": [words.TLP_IDS["CLEAR"]]}
    found = one(stix.read, bundle(incident, thing("malware", name="Locker", is_family=True, **stricter)))
    assert found.filing["marking"]["tlp"] == "AMBER+STRICT"
    older = {**incident, "modified": "2026-01-01T00:00:00.000Z", **stricter}
    assert one(stix.read, bundle(incident, older)).filing["marking"]["tlp"] == "AMBER+STRICT"


def test_no_definition_loosens_an_official_marking() -> None:
    """Who writes `clear` under the id of RED does not get CLEAR."""
    red = words.TLP_IDS["RED"]
    spoof = {
        **MARKS["tlp-2-object"][0],
        "id": red,
        "name": "TLP:CLEAR",
        "extensions": {words.TLP_2: {"tlp_2_0": "clear"}},
    }
    data = bundle({**INCIDENT, "object_marking_refs": [red]}, spoof)
    error = refusal(stix.read, data)
    assert (error.reason, error.path) == (Reason.RECIPIENTS_REQUIRED, "$.objects[0].object_marking_refs")
    named = Defaults({"tlp": "GREEN", "recipients": ["sg"]})
    assert one(stix.read, data, named).filing["marking"] == {"tlp": "RED", "recipients": ["sg"]}


def test_without_a_marking_the_posters_word_holds_or_it_is_refused() -> None:
    """Nothing is taken for CLEAR."""
    assert refusal(stix.read, bundle(INCIDENT)).reason is Reason.MISSING_FIELD
    assert one(stix.read, bundle(INCIDENT), AMBER).filing["marking"] == {"tlp": "AMBER"}


def test_a_marking_that_nobody_explains_is_not_taken_for_none() -> None:
    """The poster's word is the least that holds then, and without one the incident is refused."""
    secret = thing("marking-definition", 5)["id"]
    data = bundle({**INCIDENT, "object_marking_refs": [words.TLP_IDS["CLEAR"], secret]})
    assert refusal(stix.read, data).reason is Reason.MISSING_FIELD
    found = one(stix.read, data, AMBER)
    assert found.filing["marking"]["tlp"] == "AMBER"
    assert secret in strings(found.unmapped)


def test_the_newest_version_is_read_and_a_revoked_one_is_withdrawn() -> None:
    """The older one is listed."""
    newer = {**INCIDENT, "modified": "2026-02-01T00:00:00.500Z", "name": "Second", "revoked": True}
    for objects in ([INCIDENT, newer], [newer, INCIDENT]):
        found = one(stix.read, bundle(*objects), AMBER)
        assert (found.filing["body"]["title"], found.filing["phase"]) == ("Second", "withdrawn")
        assert INCIDENT in found.unmapped.values()


def test_several_incidents_have_what_is_linked_with_them() -> None:
    """A malware of one is not that of the other; what belongs to neither is listed with the first."""
    other = thing("incident", 2, name="Other")
    first, second, stray = (thing("malware", n, name=f"m{n}", is_family=True) for n in (1, 2, 3))
    data = bundle(
        INCIDENT, other, first, second, stray, link(INCIDENT, "uses", first, 1), link(other, "uses", second, 2)
    )
    one_, two = stix.read(msgspec.json.encode(data), AMBER)
    assert isinstance(one_, Foreign)
    assert isinstance(two, Foreign)
    assert one_.filing["body"]["malware"] == ["m1"]
    assert two.filing["body"]["malware"] == ["m2"]
    assert one_.unmapped["$.objects[4]"] == stray


def test_a_report_or_grouping_stands_in_for_a_missing_incident() -> None:
    """It is read as one report of what it holds; indicators alone say nothing of any incident."""
    bad = thing("indicator", pattern="[domain-name:value = 'a.example']", pattern_type="stix", valid_from=CREATED)
    for kind in ("report", "grouping"):
        found = one(stix.read, bundle(thing(kind, name="Wave", object_refs=[bad["id"]]), bad), AMBER)
        assert found.filing["body"]["title"] == "Wave"
        assert found.filing["body"]["indicators"] == [{"type": "domain-name", "value": "a.example"}]
    with refused(Reason.MISSING_FIELD, "$.objects"):
        stix.read(msgspec.json.encode(bundle(bad)), AMBER)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", Reason.NOT_JSON),
        (b"[]", Reason.WRONG_TYPE),
        (b'{"type":"incident"}', Reason.WRONG_TYPE),
        (b'{"type":"bundle","objects":[]}', Reason.EMPTY),
        (b"[" * 100_000, Reason.TOO_LARGE),
    ],
)
def test_what_is_no_bundle_is_refused(data: bytes, reason: Reason) -> None:
    """As a whole."""
    with refused(reason):
        stix.read(data, AMBER)


def test_a_huge_bundle_is_read_as_far_as_a_report_holds_it() -> None:
    """What is beyond the limit is listed; nothing takes more than its share of time."""
    many = [
        thing("indicator", n, pattern=f"[domain-name:value = 'x{n}.example']", pattern_type="stix")
        for n in range(5_000)
    ]
    text = "x" * 400
    found = one(stix.read, bundle({**INCIDENT, "name": text}, *many), AMBER)
    assert len(found.filing["body"]["indicators"]) == 500
    assert found.filing["body"]["title"] == "x" * 300
    assert found.unmapped["$.objects[0].name"] == text
    assert len([item for item in found.unmapped.values() if isinstance(item, dict)]) == 4_500


_WORDS = [
    *("incident--1", "identity--1", "indicator--1", "relationship", "incident", "identity", "indicator", "targets"),
    *("[ipv4-addr:value = '1.2.3.4']", "stix", CREATED, "rsit:fraud", words.TLP_IDS["RED"], "T1486", "mitre-attack"),
]
_KEYS = [
    *(
        "type",
        "id",
        "objects",
        "name",
        "extensions",
        CORE,
        words.OURS,
        "pattern",
        "labels",
        "object_refs",
        "hashes",
        "header",
    ),
    *("external_references", "source_ref", "target_ref", "relationship_type", "object_marking_refs", "body", "marking"),
    *(
        "kill_chain_phases",
        "definition",
        "created",
        "modified",
        "scores",
        "events",
        "impact_refs",
        "task_types",
        "sectors",
    ),
    *("granular_markings", "as_filed", "value", "confidence", "start_time", "roles", "aliases", "contact", "stand_ins"),
]
_KINDS = (
    *(
        "incident",
        "relationship",
        "indicator",
        "identity",
        "event",
        "task",
        "impact",
        "attack-pattern",
        "malware",
        "note",
    ),
    *(
        "vulnerability",
        "threat-actor",
        "location",
        "file",
        "observed-data",
        "ipv4-addr",
        "marking-definition",
        "campaign",
    ),
)


@quick(60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(_KINDS), st.integers(1, 3), st.dictionaries(st.sampled_from(_KEYS), anything(_WORDS, _KEYS))
        )
    )
)
def test_no_document_breaks_the_reader(things: list[tuple[str, int, dict[str, Any]]]) -> None:
    """Whatever stands where it should not: a valid filing, or a refusal."""
    objects = [{"type": kind, **given_, "id": f"{kind}--{number}"} for kind, number, given_ in things]
    for document in (bundle(*objects), bundle({"type": "incident", "id": "incident--1"}, *objects)):
        try:
            found = stix.read(json.dumps(document).encode(), AMBER)
        except ProtocolError:
            continue
        for item in found:
            if isinstance(item, Foreign):
                msgspec.convert(item.filing, Filing)
                msgspec.json.encode(item.unmapped)


def test_a_body_of_nothing_is_a_report_too() -> None:
    """All withheld: what is left is the header."""
    item = full(body={}, withheld=[*Body.__struct_fields__], undisclosed=40)
    for made in stix.objects_of(item):
        stix2.parse(made, allow_custom=False)
