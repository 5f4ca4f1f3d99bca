"""MISP's core format, there and back: PyMISP loads what is written; misp-stix is an oracle for both formats."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.demo import incidents as demo
from node.formats import fidelity, misp, stix
from node.formats.foreign import Defaults, Foreign, Shown
from protocol.errors import ProtocolError
from protocol.parts import refang
from protocol.reasons import Reason
from protocol.report import Filing, Report
from tests.node.foreign import AMBER, NOTHING, anything, full, held_to, one, plain, refusal, shown, strings
from tests.protocol.make import NOW, body_from, quick, refused, report, reports

pymisp = pytest.importorskip("pymisp")


def event(**given: Any) -> dict[str, Any]:
    return {"Event": {"uuid": "11111111-1111-4111-8111-111111111111", "info": "Outage", **given}}


def tags(*names: str) -> list[dict[str, Any]]:
    return [{"name": name} for name in names]


def attribute(kind: str, value: str, **given: Any) -> dict[str, Any]:
    return {"type": kind, "value": value, "to_ids": True, **given}


GREEN = tags("tlp:green")


def tool_spelling(indicators: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """What is left of indicators whose values are spelled as tools match them."""
    kept: list[dict[str, Any]] = []
    for item in indicators or []:
        plain = item["value"] if item["type"] in _VERBATIM else refang(item["value"])
        if {**item, "value": plain} not in kept:
            kept.append({**item, "value": plain})
    return kept or None


_VERBATIM = ("other", "mutex", "registry-key", "file-name", "user-account", "user-agent", "wallet")


# --- out -------------------------------------------------------------------------------------------------------------


@quick(150)
@given(reports())
def test_a_report_comes_back_as_its_table_says(filed: Report) -> None:
    """Every field of header and body, and nothing of it is invented."""
    data = misp.write([shown(filed)])
    held_to(fidelity.MISP, filed, one(misp.read, data), {"indicators": tool_spelling})
    assert misp.write([shown(filed)]) == data


@quick(25)
@given(reports())
def test_pymisp_loads_what_is_written(filed: Report) -> None:
    """Attributes, objects, tags and all."""
    made = misp.event_of(shown(filed))
    loaded = through_pymisp(msgspec.json.encode({"Event": made}))
    assert (len(loaded.attributes), len(loaded.objects), len(loaded.tags)) == (
        len(made["Attribute"]),
        len(made["Object"]),
        len(made["Tag"]),
    )


def through_pymisp(data: bytes) -> Any:
    loaded = pymisp.MISPEvent()
    loaded.from_json(data.decode())
    return loaded


def filing_of(data: bytes) -> Filing:
    return msgspec.convert(one(misp.read, data).filing, Filing)


def test_the_public_incidents_come_back() -> None:
    """Real incidents, as their CERTs would file them."""
    for incident in demo.load():
        filing = msgspec.convert(demo.filing(incident), Filing)
        filed = report(body=filing.body, marking=filing.marking, rsit=filing.rsit)
        data = misp.write([shown(filed)])
        held_to(fidelity.MISP, filed, one(misp.read, data), {"indicators": tool_spelling})
        again = b'{"Event":%s}' % through_pymisp(data).to_json().encode()
        assert plain(filing_of(again)) == plain(filing_of(data)), "PyMISP writes what it has read"


@pytest.mark.parametrize(
    ("marking", "distribution"),
    [
        ({"tlp": "CLEAR"}, "3"),
        ({"tlp": "GREEN"}, "1"),
        ({"tlp": "AMBER"}, "0"),
        ({"tlp": "AMBER+STRICT"}, "0"),
        ({"tlp": "RED", "recipients": ["sg"]}, "0"),
        ({"tlp": "CLEAR", "recipients": ["sg"]}, "0"),
        ({"tlp": "GREEN", "sharing_group": {"id": "00000000-0000-4000-8000-0000000000aa", "name": "Straits"}}, "0"),
    ],
)
def test_misp_may_share_no_further_than_the_marking(marking: dict[str, Any], distribution: str) -> None:
    """Nor publish at all by itself; attributes inherit."""
    item = full()
    made = misp.event_of(Shown({**item.header, "marking": marking}, item.body, [], 0, NOW, own=True))
    assert made["distribution"] == distribution
    assert made["published"] is False
    assert {inner["distribution"] for inner in made["Attribute"]} == {"5"}
    assert {"name": f"tlp:{marking['tlp'].lower()}"} in made["Tag"]


def test_what_is_withheld_is_absent_and_said_so() -> None:
    """And what stands in for it is not read as the thing."""
    body = {
        "title_coarse": "Word from [email]",
        "victim_coarse": {"sector": "finance.banking"},
        "indicators": [{"type": "ipv4-net", "value": "203.0.113.0/24", "level": "coarse"}],
    }
    item = full(body=body, withheld=["victim", "indicators.address"], undisclosed=7)
    made = misp.event_of(item)
    assert {'kentongan:withheld="victim"', 'kentongan:withheld="indicators.address"'} <= {
        tag["name"] for tag in made["Tag"]
    }
    assert "target-org" not in {inner["type"] for inner in made["Attribute"]}
    assert [inner["to_ids"] for inner in made["Attribute"]] == [False], "a whole network would raise false alarms"
    found = one(misp.read, misp.write([item]))
    assert found.filing["body"] == {}
    assert "203.0.113.0/24" in strings(found.unmapped)
    assert any("finance.banking" in text for text in strings(found.unmapped))


def test_a_later_revision_is_the_same_event() -> None:
    """Newer, and empty once it is withdrawn."""
    item = full()
    head = {**item.header, "revision": 2, "issued_at": "2026-03-02T08:00:00Z", "phase": "withdrawn"}
    old, new = misp.event_of(item), misp.event_of(Shown(head, item.body, [], 0, NOW, own=True))
    assert old["uuid"] == new["uuid"]
    assert int(old["timestamp"]) < int(new["timestamp"])
    assert not [text for text in strings(new) if "canary" in text]
    assert one(misp.read, {"Event": new}).filing["phase"] == "withdrawn"


# --- in --------------------------------------------------------------------------------------------------------------


def test_an_event_as_misp_exports_it() -> None:
    """Tags, galaxies, attributes, objects and the report, each in its place."""
    data = event(
        date="2026-01-30",
        threat_level_id="1",
        analysis="2",
        timestamp="1769900000",
        published=True,
        distribution="4",
        SharingGroup={"uuid": "22222222-2222-4222-8222-222222222222", "name": "Banks"},
        Orgc={"name": "CIRCL", "uuid": "55f6ea5e-2c60-40e5-964f-47a8950d210f"},
        Tag=tags(
            "tlp:amber",
            "PAP:GREEN",
            'rsit:malicious-code="infected-system"',
            'misp-galaxy:mitre-attack-pattern="Data Encrypted for Impact - T1486"',
            'misp-galaxy:ransomware="LockBit"',
            'misp-galaxy:threat-actor="APT 99"',
            'dhs-ciip-sectors:DHS-critical-sectors="healthcare-public"',
            'workflow:state="complete"',
        ),
        Galaxy=[
            {
                "type": "mitre-ics-techniques",
                "GalaxyCluster": [{"type": "mitre-ics-techniques", "value": "Denial of Control - T0813"}],
            }
        ],
        Attribute=[
            attribute("ip-dst", "203.0.113.7", comment="C2", first_seen="2026-01-30T01:00:00+00:00"),
            attribute("ip-src", "203.0.113.0/24"),
            attribute("email-src", "a@b.example", to_ids=False),
            attribute("filename|sha256", f"locker.exe|{'b' * 64}"),
            attribute("domain|ip", "a.example|192.0.2.1"),
            attribute("vulnerability", "CVE-2026-0001", to_ids=False),
            attribute("link", "https://cert.example/x", to_ids=False, comment="Advisory"),
            attribute("target-org", "Ministry of Tides", to_ids=False),
            attribute("btc", "1BoatSLRHtKNngkdXEeobR76b53LETtpyT"),
            attribute("yara", "rule x {}"),
            attribute("domain", "gone.example", deleted=True, Tag=tags("tlp:amber+strict")),
        ],
        Object=[
            {"name": "file", "meta-category": "file", "Attribute": [attribute("md5", "0" * 32, object_relation="md5")]},
        ],
        EventReport=[{"name": "Timeline", "content": "# It began on a printer."}],
    )
    found = one(misp.read, data)
    assert found.source_id == data["Event"]["uuid"]
    assert found.filing == {
        "marking": {"tlp": "AMBER+STRICT", "pap": "GREEN"},
        "rsit": [{"class": "malicious-code", "type": "infected-system"}],
        "severity": {"score": 70},
        "sectors": [{"code": "health"}],
        "body": {
            "title": "Outage",
            "description": "# It began on a printer.",
            "status": "closed",
            "attack": [{"technique": "T1486", "matrix": "enterprise"}, {"technique": "T0813", "matrix": "ics"}],
            "malware": ["LockBit"],
            "actor": {"name": "APT 99"},
            "indicators": [
                {
                    "type": "ipv4-addr",
                    "value": "203.0.113.7",
                    "context": "C2",
                    "first_seen": "2026-01-30T01:00:00+00:00",
                },
                {"type": "ipv4-net", "value": "203.0.113.0/24"},
                {"type": "email-addr", "value": "a@b.example"},
                {"type": "sha256", "value": "b" * 64},
                {"type": "domain-name", "value": "a.example"},
                {"type": "ipv4-addr", "value": "192.0.2.1"},
                {"type": "wallet", "value": "1BoatSLRHtKNngkdXEeobR76b53LETtpyT"},
                {"type": "md5", "value": "0" * 32},
            ],
            "vulnerabilities": [{"id": "CVE-2026-0001"}],
            "references": [{"title": "Advisory", "url": "https://cert.example/x"}],
            "victim": {"name": "Ministry of Tides"},
        },
    }
    lost, at = found.unmapped, "$.Event"
    assert lost[f"{at}.distribution"] == "4", "a sharing group of MISP is no marking of ours"
    assert lost[f"{at}.SharingGroup"] == data["Event"]["SharingGroup"]
    assert lost[f"{at}.date"] == "2026-01-30"
    assert lost[f"{at}.threat_level_id"] == "1", "less precise than a score"
    assert lost[f"{at}.published"] is True
    assert lost[f"{at}.Tag[7]"] == {"name": 'workflow:state="complete"'}
    assert lost[f"{at}.Tag[6]"], "the nearest sector, but not the same list"
    assert lost[f"{at}.Attribute[1].type"] == "ip-src"
    assert lost[f"{at}.Attribute[2].to_ids"] is False
    assert lost[f"{at}.Attribute[3].value"] == f"locker.exe|{'b' * 64}"
    assert lost[f"{at}.Attribute[9]"] == data["Event"]["Attribute"][9]
    assert lost[f"{at}.Attribute[10]"] == data["Event"]["Attribute"][10], "deleted: listed, not read"
    assert lost[f"{at}.Object[0].name"] == "file"
    assert lost[f"{at}.EventReport[0].name"] == "Timeline"


@pytest.mark.parametrize(
    ("names", "tlp"),
    [
        (["tlp:white"], "CLEAR"),
        (["tlp:green", "tlp:amber"], "AMBER"),
        (["TLP:AMBER+STRICT", "tlp:clear"], "AMBER+STRICT"),
        (["tlp:amber_strict"], "AMBER+STRICT"),
    ],
)
def test_of_several_tlp_tags_the_strictest_holds(names: list[str], tlp: str) -> None:
    """In whichever order."""
    for listed in (names, names[::-1]):
        assert one(misp.read, event(Tag=tags(*listed))).filing["marking"]["tlp"] == tlp


def test_a_distribution_is_no_marking() -> None:
    """Without a tag the poster's word holds, or the event is refused."""
    data = event(distribution="0")
    error = refusal(misp.read, data)
    assert (error.reason, error.path) == (Reason.MISSING_FIELD, "$.Event.Tag")
    assert one(misp.read, data, AMBER).filing["marking"] == {"tlp": "AMBER"}
    assert refusal(misp.read, event(Tag=tags("tlp:unclear"))).reason is Reason.MISSING_FIELD


def test_a_red_event_needs_named_recipients() -> None:
    """They are the poster's to name."""
    assert refusal(misp.read, event(Tag=tags("tlp:red")), AMBER).reason is Reason.RECIPIENTS_REQUIRED
    named = Defaults({"tlp": "GREEN", "recipients": ["sg"]})
    assert one(misp.read, event(Tag=tags("tlp:red")), named).filing["marking"] == {"tlp": "RED", "recipients": ["sg"]}


def test_one_event_several_and_the_answer_to_a_search() -> None:
    """The paths are those of the source; one that is refused takes no other with it."""
    plain, marked = event()["Event"], event(Tag=GREEN)
    for data, paths in (
        (marked, ["$.Event"]),
        (marked["Event"], ["$"]),
        ([marked, marked], ["$[0].Event", "$[1].Event"]),
        ({"response": [marked, {"Event": plain}]}, ["$.response[0].Event", "$.response[1].Event"]),
        ({"response": marked}, ["$.response.Event"]),
    ):
        found = misp.read(msgspec.json.encode(data), NOTHING)
        places = [item.at if isinstance(item, Foreign) else item.path.removesuffix(".Tag") for item in found]
        assert places == paths


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", Reason.NOT_JSON),
        (b"[]", Reason.EMPTY),
        (b"3", Reason.WRONG_TYPE),
        (b'{"Event":[]}', Reason.WRONG_TYPE),
        (b'{"response":[3]}', Reason.WRONG_TYPE),
        (b'{"a":' * 50_000, Reason.TOO_LARGE),
    ],
)
def test_what_holds_no_events_is_refused(data: bytes, reason: Reason) -> None:
    """As a whole."""
    with refused(reason):
        misp.read(data, AMBER)


_WORDS = [
    "tlp:red",
    "rsit:fraud",
    "ip-dst",
    "filename|md5",
    "a|b",
    "1.2.3.4",
    "md5",
    "kentongan-report",
    "1",
    "stand_ins",
    "[]",
]
_KEYS = [
    *(
        "Event",
        "response",
        "info",
        "Tag",
        "name",
        "Attribute",
        "Object",
        "type",
        "value",
        "comment",
        "Galaxy",
        "EventReport",
    ),
    *(
        "GalaxyCluster",
        "content",
        "deleted",
        "to_ids",
        "first_seen",
        "object_relation",
        "threat_level_id",
        "analysis",
        "uuid",
    ),
]


@quick(100)
@given(anything(_WORDS, _KEYS), st.dictionaries(st.sampled_from(_KEYS), anything(_WORDS, _KEYS)))
def test_no_document_breaks_the_reader(document: Any, inner: dict[str, Any]) -> None:
    """Whatever stands where it should not: a valid filing, or a refusal."""
    for data in (document, event(**inner), [event(**inner), document]):
        try:
            found = misp.read(json.dumps(data).encode(), AMBER)
        except ProtocolError:
            continue
        for item in found:
            if isinstance(item, Foreign):
                msgspec.convert(item.filing, Filing)
                msgspec.json.encode(item.unmapped)


# --- misp-stix as an oracle ------------------------------------------------------------------------------------------

SEEN = {
    "title": "Locker in a ministry",
    "indicators": [
        {"type": "ipv4-addr", "value": "203.0.113.7"},
        {"type": "domain-name", "value": "a.example"},
        {"type": "url", "value": "http://a.example/x"},
        {"type": "sha256", "value": "b" * 64},
    ],
    "vulnerabilities": [{"id": "CVE-2026-0001"}],
    "malware": ["Locker"],
}
"""What both formats have a word for."""


def test_misp_stix_reads_our_stix_as_it_is_meant() -> None:
    """The indicators arrive in MISP with their types, and the TLP as a tag."""
    converter = pytest.importorskip("misp_stix_converter")
    stix2 = pytest.importorskip("stix2")
    data = stix.write([shown(report(body=body_from(SEEN)))])
    parser = converter.ExternalSTIX2toMISPParser()
    parser.load_stix_bundle(stix2.parse(data.decode(), allow_custom=True))
    parser.parse_stix_bundle()
    made = json.loads(parser.misp_event.to_json())
    text = json.dumps(made)
    for item in SEEN["indicators"]:
        assert item["value"] in text, item
    assert "CVE-2026-0001" in text
    assert "tlp:amber" in text


def test_we_read_the_stix_that_misp_stix_writes() -> None:
    """An event that goes out through it arrives as the same report as the event itself."""
    converter = pytest.importorskip("misp_stix_converter")
    made = {**misp.event_of(shown(report(body=body_from(SEEN)))), "Object": []}
    parser = converter.MISPtoSTIX21Parser()
    parser.parse_misp_event({"Event": made})
    data = parser.bundle.serialize().encode()
    ours, theirs = one(misp.read, {"Event": made}).filing, one(stix.read, data).filing
    assert theirs["marking"] == ours["marking"]
    assert theirs["body"]["title"] == ours["body"]["title"]

    def values(filing: dict[str, Any]) -> set[tuple[str, str]]:
        return {(item["type"], item["value"]) for item in filing["body"]["indicators"]}

    assert values(theirs) == values(ours)
    assert theirs["body"]["vulnerabilities"] == ours["body"]["vulnerabilities"]
