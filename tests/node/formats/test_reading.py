"""OCSF, IODEF, IDMEFv2 and IDEA in: what is filed, what stays here, what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.formats import idea, idmef, iodef, ocsf
from node.formats.foreign import Defaults, Foreign, Read
from protocol.errors import ProtocolError
from protocol.parse import convert
from protocol.reasons import Reason
from protocol.report import Filing
from tests.node.formats import samples
from tests.protocol.make import quick, refused

AMBER = Defaults({"tlp": "AMBER"})
FORMATS: dict[str, tuple[Read, dict[str, Any]]] = {
    "OCSF": (ocsf.read, samples.OCSF),
    "IODEF": (iodef.read, samples.IODEF),
    "IDMEFv2": (idmef.read, samples.IDMEF),
    "IDEA": (idea.read, samples.IDEA),
}


def read_one(read: Read, document: Any, defaults: Defaults = AMBER) -> Foreign:
    """The one incident of a document; its filing is valid."""
    (found,) = read(json.dumps(document).encode(), defaults)
    if isinstance(found, ProtocolError):
        raise found
    convert(found.filing, Filing)
    return found


def values(found: Foreign) -> set[tuple[str, str]]:
    """The indicators that were filed."""
    return {(one["type"], one["value"]) for one in found.filing.get("body", {}).get("indicators", [])}


def leaves(value: Any, path: str = "$") -> Iterator[tuple[str, Any]]:
    """Every scalar of a document with its path."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from leaves(below, f"{path}.{name}")
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from leaves(below, f"{path}[{index}]")
    elif value is not None:
        yield path, value


def test_idea() -> None:
    """A source is an indicator, unless spoofed or inside; targets, logs and sensors stay here."""
    found = read_one(idea.read, samples.IDEA)
    assert found.source_id == "4390fc3f-c753-4a3e-bc83-1b44f24baf75"
    assert found.filing["marking"] == {"tlp": "AMBER"}
    assert found.filing["rsit"] == [{"class": "fraud", "type": "phishing"}]
    assert found.filing["made_by"] == {"kind": "machine", "tool": "Kippo"}
    assert values(found) == {
        ("ipv4-net", "198.51.100.2/31"),
        ("ipv4-net", "198.51.100.4/31"),
        ("ipv4-net", "203.0.113.0/25"),
        ("ipv6-net", "2001:db8:0:0:0:ff00:42:0/112"),
        ("hostname", "bad.example.com"),
        ("url", "http://example.com/cgi-bin/killemall"),
        ("email-addr", "sender@bad.example"),
        ("asn", "64500"),
        ("sha1", "0c" * 20),
        ("file-name", "killemall"),
    }
    assert found.unmapped["$.Source[0].IP4[2]"] == "192.168.7.7"
    assert found.unmapped["$.Node[0].Name"] == "org.example.kippo_honey"
    assert found.unmapped["$.Target"] == samples.IDEA["Target"]


def test_idea_vulnerable_and_hostile_targets() -> None:
    """The source of a vulnerability is the victim; a target that is a controller is the attacker's."""
    alert = {"Format": "IDEA0", "ID": "1", "DetectTime": "2014-02-21T16:01:32Z"}
    found = read_one(idea.read, {**alert, "Category": ["Vulnerable.Open"], "Source": [{"IP4": ["203.0.113.7"]}]})
    assert values(found) == set()
    assert found.unmapped["$.Source"] == [{"IP4": ["203.0.113.7"]}]
    found = read_one(
        idea.read,
        {**alert, "Category": ["Intrusion.Botnet"], "Target": [{"Type": ["CC"], "IP4": ["203.0.113.7"]}]},
    )
    assert values(found) == {("ipv4-addr", "203.0.113.7")}
    found = read_one(idea.read, {**alert, "Category": ["Malware.Ransomware"]})
    assert found.filing["body"]["attack"] == [{"technique": "T1486"}]


@pytest.mark.parametrize(
    ("read", "document"),
    [
        (idea.read, {"Format": "IDEA0", "Category": ["Fraud.Phishing", "Test"]}),
        (idmef.read, {"Version": "2.D.V08", "Category": ["Other.Test"]}),
        (ocsf.read, {"class_uid": 2005, "verdict_id": 6}),
        (iodef.read, {"version": "2.0", "Incident": [{"purpose": "ext-value", "ext-purpose": "exercise"}]}),
    ],
)
def test_a_test_is_a_drill(read: Read, document: Any) -> None:
    """What a source calls a test is drill traffic, which live nodes refuse."""
    assert read_one(read, document).filing["exercise"] == {"exercise_id": "unnamed"}


def test_idmef() -> None:
    """The organisation watched over is the victim; of a target its service and country are filed, no address."""
    found = read_one(idmef.read, samples.IDMEF)
    body = found.filing["body"]
    assert body["victim"] == {"name": "ACME", "sector": "energy.electricity"}
    assert body["services"] == ["website"]
    assert body["geo"] == {"country": "fr", "latitude": 48.8584, "longitude": 2.2945}
    assert found.filing["severity"] == {"score": 40}
    assert values(found) == {
        ("ipv4-addr", "203.0.113.9"),
        ("hostname", "bad.example"),
        ("email-addr", "bad@bad.example"),
        ("user-account", "eve"),
    }
    assert "192.0.2." not in json.dumps(found.filing)
    assert "acme.com" not in json.dumps(found.filing)
    insider = read_one(idmef.read, {**samples.IDMEF, "Category": ["Insider.Malicious"]})
    assert values(insider) == set()


def test_idmef_examples() -> None:
    """Listings of the draft: a physical intrusion, an outage, a forecast, whose time has not come."""
    told = {"Version": "2.D.V07", "ID": "1", "CreateTime": "2021-05-10T16:52:13.075994+00:00"}
    burglary = read_one(idmef.read, {**told, "Type": "Physical", "Category": ["Access.Forced"], "Priority": "Low"})
    assert burglary.filing["rsit"] == [{"class": "intrusions", "type": "burglary"}]
    outage = read_one(idmef.read, {**told, "Type": "Availability", "Category": ["Availability.Outage"]})
    assert outage.filing["rsit"] == [{"class": "availability", "type": "outage"}]
    snow = {**told, "Cause": "Hazard", "StartTime": "2021-05-12T10:00:00+02:00", "Category": ["Meteo.Snow"]}
    forecast = read_one(idmef.read, snow)
    assert forecast.filing["body"]["times"] == {"detected": {"value": told["CreateTime"]}}
    assert forecast.unmapped["$.StartTime"] == snow["StartTime"]
    assert forecast.filing["body"]["root_cause"] == {"category": "natural-phenomena"}


def test_ocsf() -> None:
    """Only what OCSF calls hostile is an indicator; devices, evidences and resources stay here."""
    found = read_one(ocsf.read, samples.OCSF)
    assert found.source_id == "finding-1"
    assert found.filing["marking"] == {"tlp": "AMBER"}, "the strictest label of the event"
    assert values(found) == {
        ("ipv4-addr", "203.0.113.66"),
        ("url", "http://x.example/"),
        ("file-name", "invoice.exe"),
        ("sha256", "ab" * 32),
    }
    assert "198.51.100.20" not in json.dumps(found.filing)
    assert "victim" not in json.dumps(found.filing)
    assert found.filing["severity"] == {"score": 70}
    assert found.filing["body"]["attack"][0]["technique"] == "T1071.001"
    assert found.filing["made_by"] == {"kind": "machine", "tool": "Acme Sight", "version": "7"}


def test_ocsf_refusals() -> None:
    """Other classes and deleted findings are refused."""
    with refused(Reason.UNKNOWN_VALUE, "$.class_uid"):
        ocsf.read(b'{"class_uid": 1001}', AMBER)
    with refused(Reason.UNKNOWN_VALUE, "$.status_id"):
        ocsf.read(b'{"class_uid": 2004, "status_id": 6}', AMBER)


def test_iodef() -> None:
    """Indicators and sources are filed, targets not, nor what is more restricted than the incident."""
    found = read_one(iodef.read, samples.IODEF)
    assert found.at == "$.Incident[0]"
    assert found.source_id == "csirt.example.com/897923"
    assert found.filing["marking"] == {"tlp": "GREEN"}
    assert values(found) == {("ipv4-addr", "203.0.113.118"), ("domain-name", "kj290023j09r34.example.com")}
    assert "Secret Person" not in json.dumps(found.filing)
    assert "Secret Person" in json.dumps(found.unmapped)
    assert found.filing["body"]["victim"] == {"name": "Victim Ltd"}
    assert found.filing["body"]["financial_loss"] == {"category": "monetary", "amount": 10_000_000, "currency": "JPY"}


def test_iodef_minimal_example() -> None:
    """The minimal example of RFC 8727 is `private`: it is filed only if a default says for whom."""
    document = {
        "version": "2.0",
        "lang": "en",
        "Incident": [
            {
                "purpose": "reporting",
                "restriction": "private",
                "IncidentID": {"id": "492382", "name": "csirt.example.com"},
                "GenerationTime": "2015-07-18T09:00:00-05:00",
                "Contact": [
                    {"type": "organization", "role": "creator", "Email": [{"EmailTo": "contact@csirt.example.com"}]}
                ],
            }
        ],
    }
    with refused(Reason.RECIPIENTS_REQUIRED, "$.Incident[0]"):
        read_one(iodef.read, document)
    found = read_one(iodef.read, document, Defaults({"tlp": "GREEN", "recipients": ["sg"]}))
    assert found.filing["marking"] == {"tlp": "RED", "recipients": ["sg"]}
    assert found.filing["body"]["contacts"] == [{"role": "creator", "email": "contact@csirt.example.com"}]


@pytest.mark.parametrize(
    ("restriction", "tlp"),
    [
        *(("white", "CLEAR"), ("public", "CLEAR"), ("green", "GREEN"), ("partner", "GREEN"), ("amber", "AMBER")),
        *(("need-to-know", "AMBER+STRICT"), ("red", "RED"), ("private", "RED"), ("default", "GREEN"), (None, "GREEN")),
    ],
)
def test_iodef_restrictions(restriction: str | None, tlp: str) -> None:
    """Restrictions as TLP; the default of the pair that talks is the default marking."""
    document = {"version": "2.0", "Incident": [{"purpose": "reporting", "restriction": restriction}]}
    found = read_one(iodef.read, document, Defaults({"tlp": "GREEN", "recipients": ["sg"]}))
    assert found.filing["marking"]["tlp"] == tlp
    assert found.filing["marking"]["recipients"] == ["sg"]


def test_markings() -> None:
    """Without a marking or a default an item is refused; so is a label that is none, and RED for nobody."""
    alert = {"Format": "IDEA0", "ID": "1"}
    with refused(Reason.MISSING_FIELD, "$.marking"):
        read_one(idea.read, alert, Defaults())
    with refused(Reason.UNKNOWN_VALUE, "$.TLP"):
        read_one(idea.read, {**alert, "TLP": "CHARTREUSE"})
    with refused(Reason.UNKNOWN_VALUE, "$.TLP"):
        read_one(idea.read, {**alert, "TLP": ["RED"]})
    with refused(Reason.RECIPIENTS_REQUIRED):
        read_one(idea.read, {**alert, "TLP": "RED"})
    named = Defaults({"tlp": "GREEN", "recipients": ["sg"]})
    assert read_one(idea.read, {**alert, "TLP": "RED"}, named).filing["marking"]["tlp"] == "RED"
    strict = read_one(idea.read, {**alert, "TLP": "amber strict"}, Defaults())
    assert strict.filing["marking"] == {"tlp": "AMBER+STRICT"}
    assert read_one(idea.read, {**alert, "TLP": "white"}, Defaults()).filing["marking"] == {"tlp": "CLEAR"}


@pytest.mark.parametrize("name", FORMATS)
def test_items_are_judged_alone(name: str) -> None:
    """An array with one bad item: its neighbours are read, and it has the path of its place."""
    read, document = FORMATS[name]
    found = read(json.dumps([document, {"nothing": "here"}, document]).encode(), AMBER)
    assert [isinstance(one, ProtocolError) for one in found] == [False, True, False]
    assert isinstance(found[1], ProtocolError)
    assert found[1].path.startswith("$[1]")
    assert isinstance(found[2], Foreign)
    assert found[2].at.startswith("$[2]")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{", b"\xff", b'"IDEA0"', b"{}", b"[" * 100 + b"]" * 100])
def test_other_documents(name: str, data: bytes) -> None:
    """What is not of the format is refused as a whole."""
    with pytest.raises(ProtocolError):
        FORMATS[name][0](data, AMBER)


# Places whose words a report has words of its own for, and those that say only which format it is.
WORDS = {
    "class_uid",
    "category_uid",
    "type_uid",
    "version",
    "Format",
    "Version",
    "activity_id",
    "activity_name",
    "severity_id",
    "severity",
    "confidence_id",
    "verdict_id",
    "status_id",
    "impact_id",
    "status",
    "type_id",
    "type",
    "action",
    "unit",
    "rating",
    "value",
    "role",
    "category",
    "SpecID",
    "Cause",
    "Status",
    "IncidentCategory",
    "Type",
    "restriction",
    "GeoLocation",
}


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_dropped_in_silence(name: str) -> None:
    """Each value of a document is in the filing, or unmapped, or a word that a report has its own for."""
    read, document = FORMATS[name]
    found = read_one(read, document)
    filed = json.dumps(found.filing)
    for path, value in leaves(document):
        if any(path.startswith(kept) for kept in found.unmapped) or found.source_id.find(str(value)) >= 0:
            continue
        last = path.rpartition(".")[2].partition("[")[0]
        if last in WORDS or str(value) in filed or json.dumps(value) in filed:
            continue
        assert isinstance(value, int) or last in ("Category", "IP4", "Hash", "Ref", "tlp", "TLP", "types"), path


JUNK = st.sampled_from(
    [None, True, 0, -1, 10**30, 1.5, "", " ", "x" * 400, "2026-01-01T00:00:00Z", "\x00", [], {}, [[]], [None], {"a": 1}]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a document."""
    if path:
        yield path
    for name, below in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(below, (*path, name))


@pytest.mark.parametrize("name", FORMATS)
@quick(120)
@given(data=st.data())
def test_any_damage_is_judged(name: str, data: st.DataObject) -> None:
    """With junk in any three places a document gives valid filings or refusals, never another error."""
    read, document = FORMATS[name]
    damaged = copy.deepcopy(document)
    for _ in range(3):
        path = data.draw(st.sampled_from(list(places(damaged)) or [("x",)]))
        holder = damaged
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = data.draw(JUNK)
    try:
        found = read(json.dumps([damaged]).encode(), AMBER)
    except ProtocolError:
        return
    for one in found:
        if isinstance(one, Foreign):
            convert(one.filing, Filing)


@quick(60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
        max_leaves=10,
    )
)
def test_arbitrary_json(document: Any) -> None:
    """Any JSON is judged by each of the readers."""
    for read, _ in FORMATS.values():
        try:
            found = read(json.dumps(document).encode(), AMBER)
        except ProtocolError:
            continue
        assert all(isinstance(one, ProtocolError) for one in found)


def test_what_is_cut_stays_listed() -> None:
    """A text that is longer than its field is filed cut and listed whole; so are elements over a list's limit."""
    alert = {"Format": "IDEA0", "ID": "1", "Description": "x" * 301}
    found = read_one(idea.read, alert)
    assert found.filing["body"]["title"] == "x" * 300
    assert found.unmapped["$.Description"] == "x" * 301
    many = [f"203.0.{number // 250}.{number % 250 + 1}" for number in range(502)]
    found = read_one(idea.read, {"Format": "IDEA0", "ID": "1", "Source": [{"IP4": many}]})
    assert len(found.filing["body"]["indicators"]) == 500
    assert found.unmapped == {"$.Source[0].IP4[500]": many[500], "$.Source[0].IP4[501]": many[501]}


def test_a_target_is_no_indicator() -> None:
    """The address of a target stays here, whatever else its type says, and is in no part of the filing."""
    target = {"Type": ["Malware"], "IP4": ["203.0.113.7"], "Hostname": ["pc-7.victim.example"]}
    found = read_one(idea.read, {"Format": "IDEA0", "ID": "1", "Target": [target]})
    assert "203.0.113.7" not in json.dumps(found.filing)
    assert found.unmapped == {"$.Target": [target]}
