"""Publicly documented incidents as filings: facts in `incidents.json`, our reading of them in the tables below.

Guarantees: a filing says what the published facts say, validates as the report profile, and keeps every source. The
victim is named only in units that policies withhold as `@victim`, `@narrative` or `@location`, never in the title, and
free text outside those repeats no time of day or count that a coarser unit stands in for. Indicator values are kept as
published, even where one imitates a name. `campaign_id` is the ground truth that linking is measured against: nothing
here reads it, so no filing can give the answer away.
Refuses: facts with unknown fields, an incident without a reading, TLP:RED without recipients.

Two things are not facts and say so: the duty contacts, and the addresses in `ILLUSTRATIVE_ADDRESSES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from protocol import taxonomy as tx
from protocol.report import Filing

Kind = Literal["ransomware", "outage", "data-leak", "phishing-fraud", "system-compromise", "ddos"]


# --- the facts, as published ------------------------------------------------------------------------------------


class _Fact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published fact; None is "not published", never "no"."""


class Source(_Fact, frozen=True, kw_only=True):
    title: str
    url: str


class Demand(_Fact, frozen=True, kw_only=True):
    amount: int | None
    currency: str | None
    as_published: str
    paid: bool | None


class Loss(_Fact, frozen=True, kw_only=True):
    amount: int
    currency: str
    as_published: str


class Affected(_Fact, frozen=True, kw_only=True):
    people: int | None
    records: int | None
    organisations: int | None
    systems: int | None
    note: str | None


class PublishedIndicator(_Fact, frozen=True, kw_only=True):
    type: str
    value: str
    scope: Literal["incident", "campaign"]
    context: str
    source_url: str


class Incident(_Fact, frozen=True, kw_only=True):
    """One incident as its public sources describe it; dates are ISO 8601, cut to the precision that is known."""

    id: str
    country: str
    victim: str
    sector: str
    additional_sectors: list[str]
    kind: Kind
    summary: str
    occurred_date: str
    occurred_precision: Literal["year", "month", "day"]
    occurred_end_date: str | None
    detected_date: str | None
    disclosed_date: str | None
    type: str
    additional_types: list[str]
    malware: list[str]
    actors: list[str]
    attribution: str | None
    cves: list[str]
    ransom_demanded: Demand | None
    financial_loss: Loss | None
    affected: Affected
    service_impact: str | None
    cross_border_effect: str | None
    cross_border_countries: list[str]
    campaign_id: str | None
    indicators: list[PublishedIndicator]
    confidence: Literal["medium", "high"]
    sources: list[Source]
    notes: str | None


def load() -> list[Incident]:
    """All incidents, in the order of the file; raises `msgspec.ValidationError` if a fact has the wrong shape."""
    data = resources.files("deploy.demo").joinpath("incidents.json").read_bytes()
    return msgspec.json.decode(data, type=list[Incident])


# --- our reading of the facts -----------------------------------------------------------------------------------


class Reading(Struct, frozen=True):
    """What takes a person to read: a title, the names that give the victim away, whether a service suffered."""

    title: str
    names: tuple[str, ...] = ()
    disrupted: bool = False


_FAULTY: Final = "after a faulty security software update"

READINGS: Final[dict[str, Reading]] = {
    "id-pdns-brain-cipher-2024": Reading(
        "Ransomware at a government data centre",
        ("PDNS", "Temporary National Data Centre", "Surabaya", "Ministry of Communication"),
        True,
    ),
    "id-bsi-lockbit-2023": Reading("Ransomware at a large bank, with days of outage", ("BSI", "Bank Syariah"), True),
    "id-wannacry-2017": Reading("Ransomware worm at a hospital", ("Dharmais",), True),
    "jp-wannacry-2017": Reading("Ransomware worm at manufacturers and other sites", ("Hitachi", "Nissan"), True),
    "sg-wannacry-2017": Reading(
        "Ransomware worm on digital signage", ("MediaOnline", "Tiong Bahru", "White Sands"), True
    ),
    "th-wannacry-2017": Reading("Ransomware worm on some 200 computers"),
    "vn-wannacry-2017": Reading("Ransomware worm on a provincial server and other computers", ("Thai Nguyen",)),
    "my-wannacry-2017": Reading("Ransomware worm at an academic institution"),
    "sg-crowdstrike-outage-2024": Reading(f"Airport check-in outage {_FAULTY}", ("Changi", "AirAsia", "Scoot"), True),
    "my-crowdstrike-outage-2024": Reading(
        f"Airline and railway ticketing outage {_FAULTY}", ("AirAsia", "KTM", "KLIA"), True
    ),
    "ph-crowdstrike-outage-2024": Reading(f"Flight cancellations {_FAULTY}", ("Cebu Pacific", "AirAsia"), True),
    "jp-crowdstrike-outage-2024": Reading(
        f"Airline, railway and retail outage {_FAULTY}",
        ("Jetstar", "Japan Airlines", "JR West", "McDonald's", "Universal Studios"),
        True,
    ),
    "th-crowdstrike-outage-2024": Reading(
        f"Airport check-in outage {_FAULTY}", ("Airports of Thailand", "Don Mueang"), True
    ),
    "id-crowdstrike-outage-2024": Reading(f"Airline check-in outage {_FAULTY}", ("AirAsia",), True),
    "kh-crowdstrike-outage-2024": Reading(f"Airline check-in outage {_FAULTY}", ("AirAsia",), True),
    "my-prudential-moveit-2023": Reading(
        "Customer data taken from insurers through a file-transfer flaw", ("Prudential",)
    ),
    "sg-sita-krisflyer-2021": Reading(
        "Frequent-flyer data exposed at an airline IT supplier", ("Singapore Airlines", "KrisFlyer", "PPS", "SITA")
    ),
    "jp-sita-ana-jal-2021": Reading(
        "Mileage members' data exposed at an airline IT supplier",
        ("All Nippon", "ANA", "Japan Airlines", "JAL", "SITA"),
    ),
    "my-sita-malaysia-airlines-2021": Reading(
        "Passenger data touched by a breach at an airline IT supplier", ("Malaysia Airlines", "SITA")
    ),
    "ph-rcbc-swift-2016": Reading(
        "Stolen interbank transfers laundered through bank accounts",
        ("Rizal", "RCBC", "Jupiter Street", "Bangladesh Bank"),
    ),
    "vn-tpbank-swift-2015": Reading("Forged interbank payment order stopped by a bank", ("Tien Phong", "TPBank")),
    "sg-bec-timor-leste-2024": Reading("Business e-mail fraud against a commodity firm"),
    "tl-bec-singapore-2024": Reading("Proceeds of a business e-mail fraud frozen in a bank account"),
    "mm-luminousmoth-2021": Reading("Espionage against some 100 targets, government bodies among them"),
    "ph-luminousmoth-2021": Reading("Espionage against some 1,400 targets, government bodies among them"),
    "jp-jal-ddos-2024": Reading("Denial of service against an airline's network", ("Japan Airlines", "JAL"), True),
    "jp-banks-ddos-2024": Reading("Denial of service against online banking", ("MUFG", "Mizuho", "Resona"), True),
    "jp-docomo-ddos-2025": Reading(
        "Denial of service against a mobile operator's web services",
        ("NTT", "Docomo", "goo", "Lemino", "d-payment"),
        True,
    ),
    "jp-nagoya-port-lockbit-2023": Reading("Ransomware at a container port", ("Nagoya", "Toyota"), True),
    "jp-kadokawa-blacksuit-2024": Reading(
        "Ransomware at a publishing and video company", ("KADOKAWA", "Dwango", "Niconico"), True
    ),
    "jp-asahi-qilin-2025": Reading("Ransomware at a beverage manufacturer", ("Asahi",), True),
    "jp-kddi-outage-2022": Reading("Mobile network outage after a maintenance error", ("KDDI",), True),
    "my-mahb-2025": Reading(
        "Attack with a ransom demand at an airport operator",
        ("Malaysia Airports", "MAHB", "Kuala Lumpur International", "KLIA"),
        True,
    ),
    "my-prasarana-ransomhub-2024": Reading(
        "Data theft claimed at a public transport operator", ("Prasarana", "LRT", "MRT", "RapidKL")
    ),
    "ph-philhealth-medusa-2023": Reading(
        "Ransomware at a public health insurer", ("PhilHealth", "Philippine Health Insurance"), True
    ),
    "ph-media-ddos-2021": Reading("Denial of service against news sites", ("ABS-CBN", "Rappler", "Vera Files"), True),
    "sg-singhealth-2018": Reading(
        "Patient data copied from a public healthcare group", ("SingHealth", "Singapore Health Services", "IHiS")
    ),
    "sg-unc3886-telcos-2025": Reading("Espionage in mobile operators' networks", ("Singtel", "StarHub", "M1", "SIMBA")),
    "sg-synapxe-ddos-2023": Reading("Denial of service against a public healthcare network", ("Synapxe",), True),
    "sg-ocbc-phishing-2021": Reading("Text-message phishing of bank customers", ("OCBC",)),
    "th-9near-2023": Reading("Threat to publish citizens' personal data", ("Mor Prom", "Ministry of Public Health")),
    "th-pea-2020": Reading("Ransomware at an electricity distributor", ("PEA", "Provincial Electricity"), True),
    "vn-vndirect-2024": Reading("Ransomware at a securities broker", ("VNDIRECT",), True),
    "vn-pvoil-2024": Reading("Ransomware at a fuel retailer", ("PVOIL", "PetroVietnam"), True),
    "vn-cic-2025": Reading("Intrusion into a credit bureau", ("CIC", "Credit Information Center", "State Bank")),
    "vn-airports-2016": Reading(
        "Screens taken over and data leaked in air transport", ("Noi Bai", "Tan Son Nhat", "Vietnam Airlines"), True
    ),
    "kh-nec-tempperiscope-2018": Reading(
        "Espionage against election and government bodies", ("National Election Committee", "Senate", "ministries")
    ),
    "bn-brunei-post-phishing-2021": Reading(
        "Text-message phishing in the name of a postal service", ("Brunei Post", "Brunei Postal")
    ),
}

_SECTORS: Final[dict[str, tx.Sector]] = {
    "government": "government",
    "finance": "finance.banking",
    "health": "health",
    "manufacturing": "manufacturing",
    "retail": "trade",
    "trade": "trade",
    "multiple": "other",
    "education": "education",
    "aviation": "transport.air",
    "rail": "transport.rail",
    "maritime": "transport.maritime",
    "land-transport": "transport.land",
    "postal": "logistics",
    "media": "media",
    "telecom": "ict.telecom",
    "energy": "energy",
}

# Where the victim is not what its sector's usual code says: airports, a port, an insurer, a broker, a credit bureau.
_SECTORS_OF: Final[dict[str, tuple[tx.Sector, ...]]] = {
    "sg-crowdstrike-outage-2024": ("transport.airport", "transport.air"),
    "th-crowdstrike-outage-2024": ("transport.airport",),
    "my-mahb-2025": ("transport.airport",),
    "vn-airports-2016": ("transport.airport", "transport.air"),
    "jp-nagoya-port-lockbit-2023": ("transport.port",),
    "my-prudential-moveit-2023": ("finance",),
    "vn-vndirect-2024": ("finance",),
    "vn-cic-2025": ("finance",),
    "th-pea-2020": ("energy.electricity",),
    "vn-pvoil-2024": ("energy.oil",),
}

_CITIES: Final = {
    "id-pdns-brain-cipher-2024": "Surabaya",
    "id-wannacry-2017": "Jakarta",
    "jp-nagoya-port-lockbit-2023": "Nagoya",
    "ph-rcbc-swift-2016": "Manila",
    "th-wannacry-2017": "Bangkok",
}

# Clock times stand in the text of the facts, in local time; the facts' date fields only hold days.
_CLOCK: Final[dict[str, dict[str, tuple[str, tx.Fidelity]]]] = {
    "id-pdns-brain-cipher-2024": {"occurred": ("2024-06-20T00:54:00+07:00", "hour")},  # published as "about"
    "id-crowdstrike-outage-2024": {"recovered": ("2024-07-20T14:00:00+08:00", "hour")},
    "sg-crowdstrike-outage-2024": {"recovered": ("2024-07-20T19:00:00+08:00", "hour")},
    "jp-jal-ddos-2024": {
        "occurred": ("2024-12-26T07:24:00+09:00", "minute"),
        "contained": ("2024-12-26T08:56:00+09:00", "minute"),
    },
    "jp-docomo-ddos-2025": {
        "occurred": ("2025-01-02T05:27:00+09:00", "minute"),
        "ended": ("2025-01-02T16:10:00+09:00", "minute"),
    },
    "sg-synapxe-ddos-2023": {
        "occurred": ("2023-11-01T09:20:00+08:00", "minute"),
        "recovered": ("2023-11-01T16:30:00+08:00", "minute"),
    },
    "vn-vndirect-2024": {"detected": ("2024-03-24T10:00:00+07:00", "hour")},
    "vn-pvoil-2024": {"occurred": ("2024-04-02T00:00:00+07:00", "hour")},
}

# Physical processes that stopped or slowed. No source says anything about safety, so none is claimed either way.
_PROCESSES: Final = {
    "jp-nagoya-port-lockbit-2023": "Loading and unloading of containers by trailer suspended",
    "jp-asahi-qilin-2025": "Production stopped at six breweries; ordering and shipping halted",
    "jp-jal-ddos-2024": "Baggage systems disrupted and flights delayed",
    "my-mahb-2025": "Flight displays, check-in counters and baggage reported down; disputed by the operator",
    "vn-airports-2016": "Flight screens and loudspeakers taken over; passengers checked in by hand",
}

# A supplier that the facts name as the way in or the cause; the mark is looked for in victim and summary.
_SUPPLIERS: Final = (("CrowdStrike", "security software supplier"), ("SITA", "airline IT supplier"))

_SITES: Final = {"jp-nagoya-port-lockbit-2023": 5, "vn-pvoil-2024": 760}  # terminals, filling stations
_STOLEN: Final = frozenset({"jp-kadokawa-blacksuit-2024", "ph-philhealth-medusa-2023"})  # stated, not only claimed
_CLAIMED: Final = frozenset({"id-bsi-lockbit-2023", "th-9near-2023", "vn-cic-2025"})  # counts are the actor's own
_NOT_PAID: Final = frozenset({"jp-asahi-qilin-2025", "th-wannacry-2017"})  # said in the text, not in `paid`
_REQUEST_FLOODS: Final = frozenset({"ph-media-ddos-2021"})  # measured in requests: the endpoint, not the network
_DETERMINATIONS: Final[dict[str, tx.Determination]] = {
    "vn-tpbank-swift-2015": "failed-attempt",
    "id-bsi-lockbit-2023": "suspected",
    "th-9near-2023": "suspected",
}
_PRODUCTS: Final = {"CVE-2023-34362": "MOVEit Transfer"}

# How an attribution begins decides how far it is believed; whatever is not listed is "moderate".
_ATTRIBUTIONS: Final[tuple[tuple[str, tx.Confidence], ...]] = (
    ("Claimed by the actor", "low"),
    ("Messages named", "low"),
    ("Named by", "high"),
    ("Group named by", "high"),
    ("US Department of Justice charged", "high"),
    ("Campaign claimed by Cl0p and attributed by", "high"),
)


# --- NOT FACTS: for the demonstration only ----------------------------------------------------------------------

ILLUSTRATIVE_CONTEXT: Final = "illustrative address from a documentation range, not part of the public facts"

# RFC 5737 ranges, so that exact addresses can be shown beside their /24. The Japanese and the Singaporean worm report
# share an address; the Indonesian one only shares the network. There are three such ranges: the same /24 elsewhere
# in this table means nothing.
ILLUSTRATIVE_ADDRESSES: Final = {
    "jp-wannacry-2017": "192.0.2.77",
    "sg-wannacry-2017": "192.0.2.77",
    "id-wannacry-2017": "192.0.2.130",
    "jp-nagoya-port-lockbit-2023": "198.51.100.23",
    "vn-vndirect-2024": "198.51.100.201",
    "id-pdns-brain-cipher-2024": "203.0.113.45",
    "my-mahb-2025": "203.0.113.112",
}


def _contact(country: str) -> dict[str, str]:
    """A made-up desk on a reserved domain: policies show personal data being withheld, and we use nobody's."""
    cert = f"{country}-cert"
    return {
        "role": "duty officer",
        "name": f"Duty officer, {cert}",
        "email": f"duty@{cert}.example",
        "hours": "24x7",
    }


# --- severity ---------------------------------------------------------------------------------------------------

_BASE: Final[dict[Kind, int]] = {
    "ransomware": 45,
    "system-compromise": 45,
    "data-leak": 40,
    "ddos": 30,
    "outage": 30,
    "phishing-fraud": 25,
}
_ESSENTIAL: Final = ("energy", "water", "transport", "finance", "health", "ict.telecom", "government", "emergency")
_FAILED: Final = 20

# Points for the largest scale that the facts support: (from, points), highest first.
_PEOPLE: Final = ((10_000_000, 20), (1_000_000, 10), (100_000, 5))
_ORGANISATIONS: Final = ((100, 10), (10, 5))
_SYSTEMS: Final = ((1_000, 5),)
_MONEY: Final = ((10_000_000, 10), (1_000_000, 5))


def _points(value: int | None, steps: Iterable[tuple[int, int]]) -> int:
    return next((points for least, points in steps if (value or 0) >= least), 0)


def _scale(incident: Incident) -> int:
    if incident.id in _CLAIMED:
        return 0
    affected, loss = incident.affected, incident.financial_loss
    return max(
        _points(affected.people, _PEOPLE),
        _points(affected.records, _PEOPLE),
        _points(affected.organisations, _ORGANISATIONS),
        _points(affected.systems, _SYSTEMS),
        _points(loss.amount if loss else None, _MONEY),
    )


def severity(incident: Incident) -> int:
    """0 to 100 by a fixed rule: the kind's base, points for the largest known scale, 25 for an essential service hit.

    Base: see `_BASE`. Scale: people or records from 100 thousand, 1 million, 10 million give 5, 10, 20; organisations
    from 10, 100 give 5, 10; systems from 1,000 give 5; a loss from 1 million, 10 million (any currency) gives 5, 10;
    only the highest counts, and counts that only the actor claims give none. An attempt that failed is 20, whatever
    it aimed at.
    """
    if _DETERMINATIONS.get(incident.id) == "failed-attempt":
        return _FAILED
    essential = any(tx.sector_within(code, top) for code in sectors(incident) for top in _ESSENTIAL)
    hit = essential and READINGS[incident.id].disrupted
    return _BASE[incident.kind] + _scale(incident) + (25 if hit else 0)


# --- facts to fields --------------------------------------------------------------------------------------------


def names_victim(incident: Incident, text: str) -> bool:
    """True if the text holds a name by which the victim is known."""
    names = READINGS[incident.id].names
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for name in names)


def sectors(incident: Incident) -> list[tx.Sector]:
    """Unified sector codes, the victim's own first, each once."""
    first = _SECTORS_OF.get(incident.id, (_SECTORS[incident.sector],))
    return list(dict.fromkeys([*first, *(_SECTORS[name] for name in incident.additional_sectors)]))


def _present(**fields: Any) -> dict[str, Any]:
    """Only what is known: an absent fact is an absent field. Zero and False are facts."""
    return {name: value for name, value in fields.items() if value is not None and value not in ("", [], {})}


_CLOCK_TIME: Final = re.compile(r"\b\d{1,2}:\d{2}\b")


def _discreet(incident: Incident, text: str | None) -> str | None:
    """The text, unless it names the victim or a time of day: it would travel where those are withheld or coarse."""
    if text is None or names_victim(incident, text) or _CLOCK_TIME.search(text):
        return None
    return text


def _rsit(incident: Incident) -> list[dict[str, str]]:
    pairs = (name.split("/", 1) for name in dict.fromkeys([incident.type, *incident.additional_types]))
    return [{"class": class_, "type": type_} for class_, type_ in pairs]


def _point(date: str | None) -> dict[str, str] | None:
    """A date cut to year, month or day as midnight UTC on the first day of that period."""
    if date is None:
        return None
    parts = [int(part) for part in date.split("-")]
    year, month, day = (*parts, 1, 1)[:3]
    fidelity = ("year", "month", "day")[len(parts) - 1]
    return {"value": datetime(year, month, day, tzinfo=UTC).isoformat(), "fidelity": fidelity}


def _times(incident: Incident) -> dict[str, Any]:
    known = _present(
        occurred=_point(incident.occurred_date),
        detected=_point(incident.detected_date),
        ended=_point(incident.occurred_end_date),
    )
    clock = _CLOCK.get(incident.id, {})
    return known | {name: {"value": value, "fidelity": fidelity} for name, (value, fidelity) in clock.items()}


def _affected(incident: Incident) -> str:
    counts = "; ".join(f"{count:,} {kind}" for kind, count in _counts(incident).items())
    return " ".join(part for part in (f"Affected: {counts}." if counts else None, incident.affected.note) if part)


def _description(incident: Incident) -> str:
    demand = incident.ransom_demanded
    parts = [incident.summary, incident.service_impact, _affected(incident), incident.cross_border_effect]
    if demand:
        parts.append(f"Demand as published: {demand.as_published}.")
    if incident.disclosed_date:
        parts.append(f"Publicly disclosed: {incident.disclosed_date}.")
    return "\n\n".join(part for part in parts if part)


def _impacts(incident: Incident) -> Iterator[dict[str, Any]]:
    if READINGS[incident.id].disrupted:
        yield _present(category="availability", detail=_discreet(incident, incident.service_impact))
    types = {incident.type, *incident.additional_types}
    if types & {
        "information-content-security/data-leak",
        "information-content-security/unauthorised-information-access",
    }:
        yield {"category": "confidentiality"}  # the note beside the counts would defeat their coarse bands
    if "information-content-security/unauthorised-information-modification" in types:
        yield {"category": "integrity"}


def _counts(incident: Incident) -> dict[str, Any]:
    affected = incident.affected
    return _present(
        people=affected.people,
        records=affected.records,
        organisations=affected.organisations,
        systems=affected.systems,
        sites=_SITES.get(incident.id),
    )


def _techniques(incident: Incident) -> list[str]:
    """Only what the kind itself says. Extortion without known encryption is filed as another type and gets none."""
    if incident.kind == "ransomware" and incident.type == "malicious-code/infected-system":
        return ["T1486"]
    if incident.kind == "ddos":
        return ["T1499" if incident.id in _REQUEST_FLOODS else "T1498"]
    return []


def _actor(incident: Incident) -> dict[str, str] | None:
    if not incident.actors:
        return None
    name, _, remark = incident.actors[0].partition(" (")
    said = incident.attribution or ""
    believed = next((level for start, level in _ATTRIBUTIONS if said.startswith(start)), "moderate")
    return {"name": name, "confidence": "low" if remark.startswith("claimed") else believed}


def _indicators(incident: Incident) -> Iterator[dict[str, str]]:
    for found in incident.indicators:
        context = _discreet(incident, found.context) or "published indicator"
        kind = "domain-name" if found.type == "domain" else found.type
        yield {"type": kind, "value": found.value, "context": f"{context}; scope: {found.scope}"}
    if address := ILLUSTRATIVE_ADDRESSES.get(incident.id):
        yield {"type": "ipv4-addr", "value": address, "context": ILLUSTRATIVE_CONTEXT}


def _vulnerabilities(incident: Incident) -> list[dict[str, Any]]:
    return [_present(id=cve, product=_PRODUCTS.get(cve), exploited=True) for cve in incident.cves]


def _supplier(incident: Incident) -> dict[str, str] | None:
    text = incident.victim + incident.summary
    return next(({"name": name, "role": role} for name, role in _SUPPLIERS if name in text), None)


def _root_cause(incident: Incident) -> dict[str, Any]:
    if _supplier(incident):
        category = "third-party-failures"
    else:
        category = "human-errors" if incident.kind == "outage" else "malicious-actions"
    # Elsewhere the attribution is about actors, and that is a unit of its own.
    return _present(category=category, detail=incident.attribution if incident.kind == "outage" else None)


def _ransomware(incident: Incident) -> dict[str, Any] | None:
    if incident.kind != "ransomware":
        return None
    demand = incident.ransom_demanded
    return _present(
        family=next(iter(incident.malware), None),
        vector="exploited-vulnerability" if incident.cves else "unknown",
        demand_amount=demand.amount if demand else None,
        demand_currency=demand.currency if demand else None,
        paid=False if incident.id in _NOT_PAID else demand.paid if demand else None,
        data_exfiltrated=True if incident.id in _STOLEN else None,
    )


def _minutes(times: dict[str, Any]) -> int | None:
    """How long it lasted, only where both ends are known to the minute."""
    ends = [times.get(name, {}) for name in ("occurred", "ended")]
    if any(end.get("fidelity") != "minute" for end in ends):
        return None
    start, stop = (datetime.fromisoformat(end["value"]) for end in ends)
    return int((stop - start).total_seconds()) // 60


def _ddos(incident: Incident) -> dict[str, Any] | None:
    if incident.kind != "ddos":
        return None
    return _present(
        techniques=_techniques(incident),
        duration_minutes=_minutes(_times(incident)),
        botnet=next(iter(incident.malware), None),
    )


def _process(incident: Incident) -> dict[str, str] | None:
    process = _PROCESSES.get(incident.id)
    return {"process_affected": process, "safety_impact": "unknown"} if process else None


def _loss(incident: Incident) -> dict[str, Any] | None:
    loss = incident.financial_loss
    if loss is None:
        return None
    detail = _discreet(incident, loss.as_published)
    return _present(category="monetary", detail=detail, amount=loss.amount, currency=loss.currency)


def _references(incident: Incident) -> list[dict[str, str]]:
    titles = {source.url: source.title for source in incident.sources}
    for found in incident.indicators:
        titles.setdefault(found.source_url, "Where the indicators were published")
    return [{"title": title, "url": url} for url, title in titles.items()]


def _cross_border(incident: Incident) -> dict[str, Any] | None:
    effect, countries = incident.cross_border_effect, incident.cross_border_countries
    if effect is None and not countries:
        return None
    ruled_out = not countries and "not affected" in (effect or "")
    return _present(suspected=not ruled_out, jurisdictions=countries)


def _confidence(incident: Incident) -> tx.Confidence:
    return "high" if incident.confidence == "high" else "moderate"


def _body(incident: Incident, phase: tx.Phase) -> dict[str, Any]:
    primary = sectors(incident)[0]
    return _present(
        title=READINGS[incident.id].title,
        description=_description(incident),
        status="closed" if phase == "final" else "open",
        determination=_DETERMINATIONS.get(incident.id, "confirmed"),
        confidence=_confidence(incident),
        times=_times(incident),
        impacts=list(_impacts(incident)),
        entity_counts=_counts(incident),
        victim={"name": incident.victim, "sector": primary},
        geo=_present(country=incident.country, city=_CITIES.get(incident.id)),
        attack=[{"technique": technique} for technique in _techniques(incident)],
        actor=_actor(incident),
        malware=incident.malware,
        indicators=list(_indicators(incident)),
        vulnerabilities=_vulnerabilities(incident),
        third_party=_supplier(incident),
        root_cause=_root_cause(incident),
        ransomware=_ransomware(incident),
        ddos=_ddos(incident),
        ot=_process(incident),
        contacts=[_contact(incident.country)],
        financial_loss=_loss(incident),
        references=_references(incident),
    )


def filing(
    incident: Incident, *, tlp: tx.Tlp = "AMBER", recipients: Sequence[str] = (), phase: tx.Phase = "initial"
) -> dict[str, Any]:
    """The incident as its CERT would post it: plain JSON values that decode as `Filing`.

    Deterministic, and without identity: `report_id`, `incident_id` and `revision` are the caller's or the node's.
    Raises `msgspec.ValidationError` if the report profile refuses it, such as TLP:RED without recipients, and
    `KeyError` for an incident that nobody has read for its title and names.
    """
    stated = _present(
        marking=_present(tlp=tlp, recipients=list(recipients)),
        rsit=_rsit(incident),
        severity={"score": severity(incident), "method": "expert"},
        sectors=[{"code": code} for code in sectors(incident)],
        phase=phase,
        cross_border=_cross_border(incident),
        body=_body(incident, phase),
    )
    plain: dict[str, Any] = msgspec.to_builtins(msgspec.convert(stated, Filing))
    return plain
