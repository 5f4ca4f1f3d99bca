"""The demonstration's filings: valid, sourced, silent about campaigns, victims named only where policy can hide it."""

from __future__ import annotations

import json
import re
from collections import Counter
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest

from deploy.demo import incidents as demo
from deploy.demo import readings
from protocol.report import UNITS, Filing

ALL = demo.load()
BY_ID = {incident.id: incident for incident in ALL}
DOCUMENTATION = [ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]

# Words that begin with a capital both in a title and in its victim's text without pointing at anyone.
GENERIC = frozenset({"Airport", "Passenger"})

each = pytest.mark.parametrize("incident", ALL, ids=lambda incident: incident.id)


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in [key, *strings(inner)]]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []


def capitalised(text: str) -> set[str]:
    return set(re.findall(r"\b(?:[A-Z][\w'-]+)", text)) - GENERIC


def test_the_set_is_whole() -> None:
    assert len(BY_ID) == len(ALL) == 48
    assert set(readings.READINGS) == set(BY_ID)
    assert {"id", "jp", "my", "sg", "vn"} <= {incident.country for incident in ALL}
    assert all(incident.sources for incident in ALL)


def test_every_table_speaks_of_incidents_that_exist() -> None:
    tables = (
        readings.SECTORS_OF,
        readings.CITIES,
        readings.CLOCK,
        readings.PROCESSES,
        readings.SITES,
        readings.STOLEN,
        readings.CLAIMED,
        readings.NOT_PAID,
        readings.REQUEST_FLOODS,
        readings.DETERMINATIONS,
        demo.ILLUSTRATIVE_ADDRESSES,
    )
    assert {key for table in tables for key in table} <= set(BY_ID)


@each
def test_a_filing_is_a_valid_report_and_plain_json(incident: demo.Incident) -> None:
    plain = demo.filing(incident)
    typed = msgspec.json.decode(json.dumps(plain).encode(), type=Filing)
    assert msgspec.convert(plain, Filing) == typed
    assert msgspec.to_builtins(typed) == plain
    assert typed.marking.tlp == "AMBER"
    assert plain == demo.filing(incident)


@each
def test_no_filing_gives_the_campaign_away(incident: demo.Incident) -> None:
    campaigns = {other.campaign_id for other in ALL if other.campaign_id}
    text = json.dumps(demo.filing(incident), ensure_ascii=False).lower()
    assert not [campaign for campaign in campaigns if campaign in text]
    assert "campaign_id" not in text
    # Not only absent: without effect.
    assert demo.filing(msgspec.structs.replace(incident, campaign_id="else-1999")) == demo.filing(incident)


@each
def test_the_title_does_not_name_the_victim(incident: demo.Incident) -> None:
    title = demo.filing(incident)["body"]["title"]
    assert not demo.names_victim(incident, title)
    assert not capitalised(title) & capitalised(incident.victim)


@each
def test_the_victim_is_named_only_where_policy_can_withhold_it(incident: demo.Incident) -> None:
    filing = demo.filing(incident)
    body = filing.pop("body")
    for indicator in body.get("indicators", []):
        indicator.pop("value")  # kept as published, and a phishing domain imitates a name
    open_units = {name: value for name, value in body.items() if UNITS[name].data not in ("victim", "narrative")}
    open_units.pop("geo")  # a location, withheld as such
    texts = strings([filing, open_units])
    assert not [text for text in texts if demo.names_victim(incident, text)]


@each
def test_free_text_does_not_defeat_coarse_times_and_counts(incident: demo.Incident) -> None:
    body = demo.filing(incident)["body"]
    details = [impact.get("detail", "") for impact in body.get("impacts", [])]
    assert not [text for text in details if re.search(r"\d:\d\d", text)]
    assert incident.affected.note is None or incident.affected.note not in details


def test_names_are_names_that_the_facts_use() -> None:
    for incident in ALL:
        facts = msgspec.json.encode(incident).decode()
        missing = [name for name in readings.READINGS[incident.id].names if name.lower() not in facts.lower()]
        assert not missing, incident.id


@each
def test_sources_and_indicators_are_kept(incident: demo.Incident) -> None:
    body = demo.filing(incident)["body"]
    kept = {(reference["title"], reference["url"]) for reference in body["references"]}
    assert {(source.title, source.url) for source in incident.sources} <= kept
    assert {found.source_url for found in incident.indicators} <= {url for _, url in kept}
    values = [found["value"] for found in body.get("indicators", [])]
    assert [found.value for found in incident.indicators] == values[: len(incident.indicators)]


def test_made_up_addresses_are_documentation_addresses_and_say_so() -> None:
    found = [
        (incident.id, indicator)
        for incident in ALL
        for indicator in demo.filing(incident)["body"].get("indicators", [])
        if indicator["type"] == "ipv4-addr"
    ]
    assert {name: indicator["value"] for name, indicator in found} == demo.ILLUSTRATIVE_ADDRESSES
    assert all(indicator["context"] == demo.ILLUSTRATIVE_CONTEXT for _, indicator in found)
    assert all(any(ip_address(indicator["value"]) in net for net in DOCUMENTATION) for _, indicator in found)
    assert demo.ILLUSTRATIVE_ADDRESSES["jp-wannacry-2017"] == demo.ILLUSTRATIVE_ADDRESSES["sg-wannacry-2017"]


@each
def test_contacts_are_on_reserved_domains(incident: demo.Incident) -> None:
    for contact in demo.filing(incident)["body"]["contacts"]:
        assert contact["email"].endswith(".example")


@each
def test_times_are_no_finer_than_what_was_published(incident: demo.Incident) -> None:
    times = demo.filing(incident)["body"]["times"]
    clock = readings.CLOCK.get(incident.id, {})
    assert "occurred" in times
    for name, point in times.items():
        if name not in clock:
            assert point["value"].endswith("T00:00:00Z")
            assert point["fidelity"] in ("year", "month", "day")
    if "occurred" not in clock:
        assert times["occurred"]["fidelity"] == incident.occurred_precision
        assert times["occurred"]["value"].startswith(incident.occurred_date)
    for name, (value, _) in clock.items():
        dates = (incident.occurred_date, incident.occurred_end_date, incident.detected_date)
        assert any(value.startswith(date) for date in dates if date), name


@each
def test_clock_times_stand_in_the_facts(incident: demo.Incident) -> None:
    text = " ".join(part for part in (incident.summary, incident.service_impact, incident.notes) if part)
    for value, _ in readings.CLOCK.get(incident.id, {}).values():
        assert value[11:16] in text or (value[11:16] == "00:00" and "midnight" in text)


def test_cities_stand_in_the_facts() -> None:
    for name, city in readings.CITIES.items():
        assert city in BY_ID[name].victim + BY_ID[name].summary


@each
def test_a_block_comes_with_its_kind_only(incident: demo.Incident) -> None:
    body = demo.filing(incident)["body"]
    assert ("ransomware" in body) == (incident.kind == "ransomware")
    assert ("ddos" in body) == (incident.kind == "ddos")
    assert "ai_enabled" not in body  # no source speaks of it


def test_facts_land_in_their_fields() -> None:
    ransom = demo.filing(BY_ID["id-pdns-brain-cipher-2024"])
    assert ransom["body"]["ransomware"] == {
        "family": "Brain Cipher",
        "vector": "unknown",
        "demand_amount": 8_000_000,
        "demand_currency": "USD",
        "paid": False,
    }
    assert ransom["body"]["attack"] == [{"technique": "T1486"}]
    assert ransom["body"]["entity_counts"] == {"organisations": 210}
    outage = demo.filing(BY_ID["sg-crowdstrike-outage-2024"])
    assert outage["body"]["root_cause"]["category"] == "third-party-failures"
    assert outage["sectors"][0] == {"code": "transport.airport"}
    flood = demo.filing(BY_ID["jp-docomo-ddos-2025"])
    assert flood["body"]["ddos"]["duration_minutes"] == 643
    port = demo.filing(BY_ID["jp-nagoya-port-lockbit-2023"])
    assert port["sectors"] == [{"code": "transport.port"}]
    assert port["body"]["ot"]["safety_impact"] == "unknown"


def test_remarks_on_an_actor_become_low_confidence() -> None:
    assert demo.filing(BY_ID["vn-airports-2016"])["body"]["actor"] == {"name": "1937CN", "confidence": "low"}
    assert demo.filing(BY_ID["ph-media-ddos-2021"])["body"]["actor"] == {"name": "Pinoy Vendetta", "confidence": "low"}
    assert demo.filing(BY_ID["sg-unc3886-telcos-2025"])["body"]["actor"]["confidence"] == "high"


def test_extortion_without_encryption_claims_no_encryption() -> None:
    assert "attack" not in demo.filing(BY_ID["my-prasarana-ransomhub-2024"])["body"]


def test_a_loss_of_nothing_is_a_fact_and_unknown_is_not() -> None:
    assert demo.filing(BY_ID["vn-tpbank-swift-2015"])["body"]["financial_loss"]["amount"] == 0
    assert "financial_loss" not in demo.filing(BY_ID["vn-vndirect-2024"])["body"]


def test_severity_follows_its_rule() -> None:
    assert demo.severity(BY_ID["id-pdns-brain-cipher-2024"]) == 45 + 10 + 25
    assert demo.severity(BY_ID["id-bsi-lockbit-2023"]) == 45 + 25, "15 million people is the actor's own figure"
    assert demo.severity(BY_ID["jp-kddi-outage-2022"]) == 30 + 20 + 25
    assert demo.severity(BY_ID["sg-singhealth-2018"]) == 40 + 10
    assert demo.severity(BY_ID["vn-tpbank-swift-2015"]) == 20
    spread = Counter(demo.severity(incident) // 25 for incident in ALL)
    assert set(spread) >= {1, 2, 3}
    assert all(0 <= demo.severity(incident) <= 100 for incident in ALL)


def test_red_needs_recipients() -> None:
    incident = BY_ID["sg-unc3886-telcos-2025"]
    with pytest.raises(msgspec.ValidationError, match="recipients-required"):
        demo.filing(incident, tlp="RED")
    assert demo.filing(incident, tlp="RED", recipients=["jp"])["marking"] == {"tlp": "RED", "recipients": ["jp"]}


def test_a_final_report_is_closed() -> None:
    incident = BY_ID["vn-pvoil-2024"]
    assert demo.filing(incident, phase="final")["phase"] == "final"
    assert demo.filing(incident, phase="final")["body"]["status"] == "closed"
    assert demo.filing(incident)["body"]["status"] == "open"
