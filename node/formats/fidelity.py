"""What becomes of each field of a report in STIX and in MISP, and how much of it comes back.

The tests hold writers and readers to these tables, and the tables of `docs/formats.md` to them. `exact`: written and
read again, it is equal. `less`: it comes back less precise, in the way that is said. `no`: the format has no place
for it. A stand-in (coarse value) is written for whoever reads it, and never read back as if it were the exact one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Grade = Literal["exact", "less", "no"]


class Fate(NamedTuple):
    """What becomes of a field: how exactly it comes back, and where it stands meanwhile."""

    grade: Grade
    where: str


_IDENTITY: Final = Fate("no", "named for reference; whoever files the document gives it an identity of its own")
_ORIGINS: Final = Fate("no", "not written: it means something in the signed report only")

STIX: Final[Mapping[str, Fate]] = {
    "marking": Fate(
        "exact", "`object_marking_refs`: TLP 2.0 and PAP objects; the rest as a statement and in our extension"
    ),
    "rsit": Fate("exact", 'labels `rsit:class="type"`; nearest words in `incident_types`'),
    "severity": Fate("exact", "`criticality`, method in `scores`"),
    "sectors": Fate("exact", "labels `sector:`, national codes in our extension"),
    "phase": Fate("exact", "label `phase:`; `withdrawn` is `revoked`"),
    "purpose": Fate("exact", "our extension"),
    "cross_border": Fate("exact", "our extension"),
    "handling": Fate("exact", "our extension"),
    "obligation": Fate("exact", "our extension"),
    "exercise": Fate("exact", "label `exercise:` and our extension"),
    "made_by": Fate("exact", "our extension"),
    "report_id": _IDENTITY,
    "incident_id": _IDENTITY,
    "revision": _IDENTITY,
    "origin": _IDENTITY,
    "issued_at": Fate("no", "`modified` of all objects"),
    "schema": _ORIGINS,
    "fingerprint": _ORIGINS,
    "supersedes": _ORIGINS,
    "sealed": _ORIGINS,
    "title": Fate("exact", "`name`"),
    "description": Fate("exact", "`description`"),
    "status": Fate("exact", "core extension `investigation_status`"),
    "determination": Fate("exact", "core extension `determination`"),
    "confidence": Fate("exact", "`confidence`: 15, 50 or 85"),
    "times": Fate(
        "exact",
        "an `event` from `occurred` to `ended`; `task` objects `detected`, `declared`, `containment`, `recovery`",
    ),
    "detection_methods": Fate("exact", "core extension `detection_methods`"),
    "impacts": Fate("exact", "`impact` objects; availability and money in their own extensions, other numbers in ours"),
    "services": Fate("exact", "our extension"),
    "entity_counts": Fate("exact", "core extension `impacted_entity_counts`"),
    "victim": Fate("exact", "`identity`, which the incident `targets`"),
    "geo": Fate("exact", "`location`, `located-at`"),
    "attack": Fate("exact", "`attack-pattern` with its ATT&CK number and kill chain phase, `uses`"),
    "actor": Fate("exact", "`threat-actor`, `attributed-to`"),
    "malware": Fate("exact", "`malware`, `uses`"),
    "indicators": Fate("exact", "`indicator` with a pattern, `related-to`; spelling and times seen in our extension"),
    "vulnerabilities": Fate("exact", "`vulnerability`, `related-to`; product and exploitation in our extension"),
    "third_party": Fate("exact", "our extension"),
    "root_cause": Fate("exact", "our extension"),
    "ransomware": Fate("exact", "our extension"),
    "ddos": Fate("exact", "our extension"),
    "ot": Fate("exact", "our extension"),
    "ai_enabled": Fate("exact", "our extension"),
    "actions": Fate("exact", "`task` objects"),
    "assistance_requested": Fate("exact", "our extension"),
    "contacts": Fate("exact", "`identity`, `contact-for`"),
    "financial_loss": Fate("exact", "`impact` with the label `financial-loss`"),
    "attachments": Fate("exact", "our extension"),
    "related": Fate("exact", "our extension"),
    "references": Fate("exact", "`external_references`"),
}
"""Header and body fields in STIX 2.1."""

_OBJECT: Final = Fate("exact", "our object")

MISP: Final[Mapping[str, Fate]] = {
    "marking": Fate("exact", "tags `tlp:` and `PAP:`; named recipients, sharing group and attribution in our object"),
    "rsit": Fate("exact", "tags `rsit:`"),
    "severity": Fate("exact", "`threat_level_id` (65 and more: 1, 35: 2, 1: 3), the score in our object"),
    "sectors": Fate("exact", "tags `kentongan:sector`, national codes in our object"),
    "phase": Fate("exact", "tag `kentongan:phase`"),
    "purpose": _OBJECT,
    "cross_border": _OBJECT,
    "handling": _OBJECT,
    "obligation": _OBJECT,
    "exercise": Fate("exact", "tag `kentongan:exercise`, our object"),
    "made_by": _OBJECT,
    "report_id": _IDENTITY,
    "incident_id": _IDENTITY,
    "revision": _IDENTITY,
    "origin": Fate("no", "`Orgc`; whoever files the document is its origin"),
    "issued_at": Fate("no", "`timestamp` and `date`"),
    "schema": _ORIGINS,
    "fingerprint": _ORIGINS,
    "supersedes": _ORIGINS,
    "sealed": _ORIGINS,
    "title": Fate("exact", "`info`"),
    "description": Fate("exact", "`EventReport`"),
    "status": Fate("exact", "`analysis`"),
    "determination": _OBJECT,
    "confidence": Fate("exact", "tag `estimative-language:confidence-in-analytic-judgment`"),
    "times": _OBJECT,
    "detection_methods": _OBJECT,
    "impacts": _OBJECT,
    "services": _OBJECT,
    "entity_counts": _OBJECT,
    "victim": Fate("exact", "attribute `target-org`, sector and website in our object"),
    "geo": _OBJECT,
    "attack": Fate("exact", "galaxy tags with the technique's number, tactic and version in our object"),
    "actor": Fate("exact", "galaxy tag `threat-actor`, aliases and confidence in our object"),
    "malware": Fate("exact", "galaxy tags `malpedia`"),
    "indicators": Fate(
        "less", "attributes; a value is spelled as tools match it (`evil.example`, not `evil[.]example`)"
    ),
    "vulnerabilities": Fate("exact", "attribute `vulnerability`, product and exploitation in our object"),
    "third_party": _OBJECT,
    "root_cause": _OBJECT,
    "ransomware": _OBJECT,
    "ddos": _OBJECT,
    "ot": _OBJECT,
    "ai_enabled": _OBJECT,
    "actions": _OBJECT,
    "assistance_requested": _OBJECT,
    "contacts": _OBJECT,
    "financial_loss": _OBJECT,
    "attachments": _OBJECT,
    "related": _OBJECT,
    "references": Fate("exact", "attribute `link` with the title as comment; without an address in our object"),
}
"""Header and body fields in MISP's core format."""


def table(fates: Mapping[str, Fate]) -> str:
    """A table in Markdown, as `docs/formats.md` has it."""
    lines = [f"| `{field}` | {fate.grade} | {fate.where} |" for field, fate in fates.items()]
    return "\n".join(["| field | comes back | where |", "|---|---|---|", *lines])
