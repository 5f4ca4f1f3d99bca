"""Reports written as one IODEF document in JSON (RFC 8727).

Pure and deterministic: the same reports give the same bytes. Guarantees: the document is valid by the schema of RFC
8727; nothing that is not shown is in it, and the extension `kentongan` of each incident says what is withheld, in units
and in words; what IODEF has no place for is carried there, so that reading the document back gives what was shown. No
value is chosen that says more than the report does: where IODEF's vocabulary is finer, the report's own word stands
beside `ext-value`. A withdrawn report is an incident that says so, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from node.formats import iodefwords as words
from node.formats.block import NAME, as_filing, encode, in_words, is_withdrawn, statement, with_rest
from node.formats.foreign import Defaults, Shown
from node.formats.iodef import incident
from node.formats.meaning import band_of, rsit_tag
from node.formats.taking import Spot

_RESTRICTIONS: Final = {"CLEAR": "white", "GREEN": "green", "AMBER": "amber", "RED": "red"}
_STATUSES: Final = {"new": "new", "open": "in-progress", "closed": "resolved"}
_SOURCES: Final = {word: source for source, (word, exact) in words.DISCOVERIES.items() if exact}
_TYPES: Final = {kind: name for name, kinds in words.OBSERVABLES.items() for kind in kinds}
_SEVERITIES: Final = {"low": "low", "moderate": "medium", "high": "high", "extreme": "high"}
_RATINGS: Final = {word: {"rating": rating, "value": value} for rating, (word, value) in words.CONFIDENCES.items()}
_UNITS: Final = {kind: unit for unit, kind in words.UNITS.items()}
_TIMES: Final = {"occurred": "StartTime", "detected": "DetectTime", "recovered": "RecoveryTime", "ended": "EndTime"}


def write(shown: Sequence[Shown]) -> bytes:
    """The reports as the incidents of one document, in their order."""
    return encode({"version": "2.0", "lang": "en", "Incident": [_incident(report) for report in shown]})


def _incident(shown: Shown) -> dict[str, Any]:
    said = _frame(shown)
    block = statement(shown)
    if is_withdrawn(shown):
        return {**said, "status": "ext-value", "ext-status": "withdrawn", "AdditionalData": _extension(shown, block)}
    filing = as_filing(shown)
    body: Mapping[str, Any] = filing.get("body", {})
    said.update(_story(filing, body), **_about(filing, body))
    said["Contact"] += [_contact(person) for person in body.get("contacts", [])]
    if "victim" in body:
        said["Contact"].append({"role": "victim", "type": "organization", "ContactName": [body["victim"]["name"]]})
    if body.get("indicators"):
        member = shown.header["origin"]["member"]
        said["Indicator"] = [_indicator(one, f"i{n}", member) for n, one in enumerate(body["indicators"], 1)]
    said["AdditionalData"] = _extension(shown, block)
    again = incident(Spot(said), Defaults(marking=filing["marking"])).filing
    said["AdditionalData"] = _extension(shown, with_rest(block, filing, again))
    return said


def _extension(shown: Shown, block: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": NAME, "dtype": "json", "value": encode(block).decode(), "meaning": in_words(shown)}]


def _frame(shown: Shown) -> dict[str, Any]:
    """What every incident has: which report this is, whose, and how it may be handled."""
    header = shown.header
    tlp = header["marking"]["tlp"]
    known = _RESTRICTIONS.get(tlp)
    return {
        "purpose": "reporting",
        **({"restriction": known} if known else {"restriction": "ext-value", "ext-restriction": tlp.lower()}),
        "IncidentID": {"id": str(header["incident_id"]), "name": header["origin"]["member"]},
        "GenerationTime": header["issued_at"],
        "ReportTime": shown.at.isoformat(),
        "Contact": [{"role": "creator", "type": "organization", "ContactName": [header["origin"]["member"]]}],
    }


def _story(filing: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if "exercise" in filing:
        said.update({"purpose": "ext-value", "ext-purpose": words.EXERCISE})
    elif "purpose" in filing:
        said["purpose"] = filing["purpose"]
    if "status" in body:
        said["status"] = _STATUSES[body["status"]]
    texts = [body[name] for name in ("title", "description") if name in body]
    if texts:
        said["Description"] = texts
    for name, place in _TIMES.items():
        if name in body.get("times", {}):
            said[place] = body["times"][name]["value"]
    return said


def _about(filing: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    wishes = [_wish(wish) for wish in body.get("assistance_requested", [])]
    done = [
        {"action": "other", "DateTime": action["at"], "Description": [action["what"]]}
        for action in body.get("actions", [])
        if "at" in action
    ]
    said = {
        "Assessment": [_assessment(filing, body)],
        "Discovery": [_discovery(method) for method in body.get("detection_methods", [])],
        "Method": _method(body),
        "RelatedActivity": _related(body),
        "EventData": [{"Expectation": wishes}] if wishes else [],
        "History": {"HistoryItem": done} if done else {},
    }
    return {name: value for name, value in said.items() if value}


def _discovery(method: str) -> dict[str, str]:
    return {"source": _SOURCES[method]} if method in _SOURCES else {"source": "ext-value", "ext-source": method}


def _wish(said: Mapping[str, Any]) -> dict[str, Any]:
    detail = {"Description": [said["detail"]]} if "detail" in said else {}
    return {"action": "ext-value", "ext-action": said["kind"], **detail}


def _assessment(filing: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"IncidentCategory": [rsit_tag(kind) for kind in filing["rsit"]]}
    impacts: list[dict[str, Any]] = []
    for impact in body.get("impacts", []):
        detail = {"Description": [impact["detail"]]} if "detail" in impact else {}
        impacts.append({"SystemImpact": {"type": "ext-value", "ext-type": impact["category"], **detail}})
    if not impacts:
        impacts.append({"SystemImpact": {"type": "unknown"}})
    severity = _SEVERITIES.get(band_of(filing["severity"]["score"])) if "severity" in filing else None
    if severity:
        impacts[0]["SystemImpact"]["severity"] = severity
    loss = body.get("financial_loss", {})
    if loss.get("amount"):
        currency = {"currency": loss["currency"]} if "currency" in loss else {}
        impacts.append({"MonetaryImpact": {"value": loss["amount"], **currency}})
    said["Impact"] = impacts
    if body.get("entity_counts"):
        said["Counter"] = [_counter(kind, count) for kind, count in sorted(body["entity_counts"].items())]
    if "root_cause" in body:
        said["Cause"] = [body["root_cause"][name] for name in ("category", "detail") if name in body["root_cause"]]
    if "confidence" in body:
        said["Confidence"] = _RATINGS[body["confidence"]]
    return said


def _counter(kind: str, count: int) -> dict[str, Any]:
    unit = {"unit": _UNITS[kind]} if kind in _UNITS else {"unit": "ext-value", "ext-unit": kind}
    return {"value": count, "type": "count", **unit}


def _method(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    spec = {"SpecID": "private"}
    said = {
        "AttackPattern": [
            {
                **spec,
                "ext-SpecID": words.ATTACK + attack.get("matrix", "enterprise"),
                "ContentID": attack["technique"],
            }
            for attack in body.get("attack", [])
        ],
        "Vulnerability": [
            {**spec, "ext-SpecID": "cve", "ContentID": one["id"]} for one in body.get("vulnerabilities", [])
        ],
        "Reference": [
            {"Description": [one["title"]], **({"URL": [one["url"]]} if "url" in one else {})}
            for one in body.get("references", [])
        ],
    }
    method = {name: parts for name, parts in said.items() if parts}
    return [method] if method else []


def _related(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    activities: list[dict[str, Any]] = [
        {"IncidentID": [{"id": other["ref"], "name": ""}], "Description": [other["kind"]]}
        for other in body.get("related", [])
    ]
    if actor := body.get("actor"):
        confidence = {"Confidence": _RATINGS[actor["confidence"]]} if "confidence" in actor else {}
        names = [actor["name"], *actor.get("aliases", [])]
        activities.append({"ThreatActor": [{"ThreatActorID": names}], **confidence})
    return activities


def _contact(said: Mapping[str, Any]) -> dict[str, Any]:
    known = said["role"] in words.ROLES
    role = {"role": said["role"]} if known else {"role": "ext-value", "ext-role": said["role"]}
    person: dict[str, Any] = {**role, "type": "person" if "name" in said else "organization"}
    if "name" in said:
        person["ContactName"] = [said["name"]]
    if "email" in said:
        person["Email"] = [{"EmailTo": said["email"]}]
    if "phone" in said:
        person["Telephone"] = [{"TelephoneNumber": said["phone"]}]
    return person


def _indicator(said: Mapping[str, Any], number: str, member: str) -> dict[str, Any]:
    kind = _TYPES.get(said["type"])
    form = {"type": kind} if kind else {"type": "ext-value", "ext-type": said["type"]}
    indicator: dict[str, Any] = {
        "IndicatorID": {"id": number, "name": member, "version": "1"},
        "Observable": {"BulkObservable": {**form, "BulkObservableList": said["value"]}},
    }
    if "context" in said:
        indicator["Description"] = [said["context"]]
    for name, place in (("first_seen", "StartTime"), ("last_seen", "EndTime")):
        if name in said:
            indicator[place] = said[name]
    return indicator
