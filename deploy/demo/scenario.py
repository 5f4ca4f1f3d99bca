"""What the demonstration files: real, publicly documented incidents of five countries, and what can happen to a report.

The facts come from `incidents.json` with their sources. Markings are chosen for the demonstration. `campaign_id`, the
ground truth for linking, is only used at the end, to judge the links that the broker found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from deploy.demo.incidents import Incident, filing, load
from protocol.taxonomy import Tlp

MEMBERS: Final = ("id", "jp", "my", "sg", "vn")
NAMES: Final = {
    "id": "BSSN, Indonesia",
    "jp": "JPCERT/CC, Japan",
    "my": "NACSA, Malaysia",
    "sg": "SingCERT, Singapore",
    "vn": "VNCERT/CC, Viet Nam",
}
COORDINATOR: Final = "asean-rcert"

_TLP_BY_KIND: Final[dict[str, Tlp]] = {
    "outage": "GREEN",
    "ddos": "GREEN",
    "phishing-fraud": "GREEN",
    "ransomware": "AMBER",
    "data-leak": "AMBER",
    "system-compromise": "AMBER",
}
_TLP: Final[dict[str, Tlp]] = {"vn-tpbank-swift-2015": "AMBER+STRICT", "sg-unc3886-telcos-2025": "RED"}
_RECIPIENTS: Final = {"sg-unc3886-telcos-2025": ("jp",)}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Post:
    """One report to file at one member's node."""

    member: str
    incident: str
    filing: Json
    label: str = ""
    revises: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that is filed, in order."""

    first: list[Post] = field(default_factory=list)
    revisions: list[Post] = field(default_factory=list)


def _without(report: Json, *names: str) -> Json:
    return {**report, "body": {name: value for name, value in report["body"].items() if name not in names}}


def _with(report: Json, phase: str, **body: Any) -> Json:
    return {**report, "phase": phase, "body": {**report["body"], **body}}


def _base(incident: Incident) -> Json:
    tlp = _TLP.get(incident.id, _TLP_BY_KIND[incident.kind])
    return filing(incident, tlp=tlp, recipients=_RECIPIENTS.get(incident.id, ()))


def _pdns(report: Json) -> Iterator[tuple[str, Json]]:
    """Grows: an outage first, then malware and demand, then the number of institutions."""
    first = _without(report, "actor", "malware", "ransomware", "entity_counts", "references")
    yield "initial: immigration is down", _with(first, "initial", status="open")
    second = _without(report, "entity_counts")
    yield "intermediate: ransomware and demand known", _with(second, "intermediate", status="open")
    yield "final: 210 institutions affected", _with(report, "final", status="closed")


def _kddi(report: Json) -> Iterator[tuple[str, Json]]:
    """Is corrected: the first estimate of people affected was too high."""
    counts = {"people": 39_150_000}
    yield "initial: first estimate", _with(report, "initial", status="open", entity_counts=counts)
    counts = {"people": 30_910_000}
    yield "final: corrected downwards", _with(report, "final", status="closed", entity_counts=counts)


def _mahb(report: Json) -> Iterator[tuple[str, Json]]:
    first = _without(report, "ransomware", "references")
    yield "initial: displays and check-in down", _with(first, "initial", status="open")
    yield "intermediate: demand refused", _with(report, "intermediate", status="open")


_REVISED: Final = {"id-pdns-brain-cipher-2024": _pdns, "jp-kddi-outage-2022": _kddi, "my-mahb-2025": _mahb}


def build() -> Scenario:
    """The scenario, from the facts."""
    scenario = Scenario()
    for incident in load():
        if incident.country not in MEMBERS:
            continue
        base = _base(incident)
        steps = list(_REVISED[incident.id](base)) if incident.id in _REVISED else [("", base)]
        for number, (label, report) in enumerate(steps):
            post = Post(incident.country, incident.id, report, label, revises=number > 0)
            (scenario.revisions if number else scenario.first).append(post)
    return scenario


def not_filed() -> list[str]:
    """Incidents of countries that have no node here."""
    return [incident.id for incident in load() if incident.country not in MEMBERS]


def campaigns() -> dict[str, str]:
    """Ground truth: incident to campaign."""
    return {incident.id: incident.campaign_id for incident in load() if incident.campaign_id}


def malformed(report: Json) -> Json:
    """A report with an RSIT type that does not exist."""
    return {**report, "rsit": [{"class": "malicious-code", "type": "ransomware"}]}
