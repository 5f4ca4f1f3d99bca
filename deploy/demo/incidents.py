"""Publicly documented incidents as filings: facts in `incidents.json`, our reading of them in `readings.py`.

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

from deploy.demo.readings import (
    ATTRIBUTIONS,
    CITIES,
    CLAIMED,
    CLOCK,
    DETERMINATIONS,
    NOT_PAID,
    PROCESSES,
    PRODUCTS,
    READINGS,
    REQUEST_FLOODS,
    SECTORS,
    SECTORS_OF,
    SITES,
    STOLEN,
    SUPPLIERS,
)
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
    if incident.id in CLAIMED:
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
    if DETERMINATIONS.get(incident.id) == "failed-attempt":
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
    first = SECTORS_OF.get(incident.id, (SECTORS[incident.sector],))
    return list(dict.fromkeys([*first, *(SECTORS[name] for name in incident.additional_sectors)]))


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
    clock = CLOCK.get(incident.id, {})
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
        sites=SITES.get(incident.id),
    )


def _techniques(incident: Incident) -> list[str]:
    """Only what the kind itself says. Extortion without known encryption is filed as another type and gets none."""
    if incident.kind == "ransomware" and incident.type == "malicious-code/infected-system":
        return ["T1486"]
    if incident.kind == "ddos":
        return ["T1499" if incident.id in REQUEST_FLOODS else "T1498"]
    return []


def _actor(incident: Incident) -> dict[str, str] | None:
    if not incident.actors:
        return None
    name, _, remark = incident.actors[0].partition(" (")
    said = incident.attribution or ""
    believed = next((level for start, level in ATTRIBUTIONS if said.startswith(start)), "moderate")
    return {"name": name, "confidence": "low" if remark.startswith("claimed") else believed}


def _indicators(incident: Incident) -> Iterator[dict[str, str]]:
    for found in incident.indicators:
        context = _discreet(incident, found.context) or "published indicator"
        kind = "domain-name" if found.type == "domain" else found.type
        yield {"type": kind, "value": found.value, "context": f"{context}; scope: {found.scope}"}
    if address := ILLUSTRATIVE_ADDRESSES.get(incident.id):
        yield {"type": "ipv4-addr", "value": address, "context": ILLUSTRATIVE_CONTEXT}


def _vulnerabilities(incident: Incident) -> list[dict[str, Any]]:
    return [_present(id=cve, product=PRODUCTS.get(cve), exploited=True) for cve in incident.cves]


def _supplier(incident: Incident) -> dict[str, str] | None:
    text = incident.victim + incident.summary
    return next(({"name": name, "role": role} for name, role in SUPPLIERS if name in text), None)


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
        paid=False if incident.id in NOT_PAID else demand.paid if demand else None,
        data_exfiltrated=True if incident.id in STOLEN else None,
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
    process = PROCESSES.get(incident.id)
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
        determination=DETERMINATIONS.get(incident.id, "confirmed"),
        confidence=_confidence(incident),
        times=_times(incident),
        impacts=list(_impacts(incident)),
        entity_counts=_counts(incident),
        victim={"name": incident.victim, "sector": primary},
        geo=_present(country=incident.country, city=CITIES.get(incident.id)),
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
