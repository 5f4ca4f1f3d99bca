"""Reports written as OCSF Incident Findings (2005), with the profiles `incident` and `osint`.

Pure and deterministic: the same reports give the same bytes, an array of events. Guarantees: nothing that is not shown
is in an event, and `unmapped.kentongan` says what is withheld, in units and in words; required attributes of the class
and of its objects are there. What OCSF has no place for is carried in that block, so that reading an event back gives
what was shown. A withdrawn report is an event that says so, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from node.formats.block import (
    NAME,
    as_filing,
    encode,
    in_words,
    is_withdrawn,
    milliseconds,
    statement,
    with_rest,
)
from node.formats.foreign import Defaults, Shown
from node.formats.meaning import rsit_tag
from node.formats.ocsf import (
    ACTIVITY_NAMES,
    CONFIDENCES,
    INCIDENT,
    LEVELS,
    OSINT,
    PHASES,
    SEVERITY_NAMES,
    STATUS_NAMES,
    VERDICT_NAMES,
    VERDICTS,
    finding,
    impact_id,
    severity_id,
)
from node.formats.taking import Spot

VERSION: Final = "1.5.0"
"""The OCSF version whose Incident Finding is written."""

_STATUS_IDS: Final = {"new": 1, "open": 2, "closed": 5}
_CONFIDENCE_IDS: Final = {word: int(key) for key, word in CONFIDENCES.items()}
_VERDICT_IDS: Final = {word: int(key) for key, word in VERDICTS.items()}
_ACTIVITY_IDS: Final = {**{word: int(key) for key, word in PHASES.items()}, "withdrawn": 3}
_OSINT_IDS: Final = {
    **dict.fromkeys(("ipv4-addr", "ipv6-addr", "ipv4-net", "ipv6-net"), 1),
    **{kind: int(key) for key, kinds in OSINT.items() for kind in kinds},
}
_OSINT_NAMES: Final = {
    1: "IP Address",
    2: "Domain",
    3: "Hostname",
    4: "Hash",
    5: "URL",
    6: "User Agent",
    7: "Digital Certificate",
    9: "Email Address",
    11: "File",
    12: "Registry Key",
}
_OBSERVABLE_IDS: Final = {
    **dict.fromkeys(("ipv4-addr", "ipv6-addr"), 2),
    **dict.fromkeys(("ipv4-net", "ipv6-net"), 12),
    **dict.fromkeys(("domain-name", "hostname"), 1),
    **dict.fromkeys(("md5", "sha1", "sha256", "sha512"), 8),
    "email-addr": 5,
    "file-name": 7,
    "url": 6,
    "user-account": 4,
    "user-agent": 16,
}


def write(shown: Sequence[Shown]) -> bytes:
    """The reports as an array of events, in their order."""
    return encode([_event(report) for report in shown])


def _event(shown: Shown) -> dict[str, Any]:
    event = _frame(shown)
    block = statement(shown)
    event["unmapped"] = {NAME: {**block, "note": in_words(shown)}}
    if is_withdrawn(shown):
        return {**event, "status_id": 99, "status": "Withdrawn"}
    filing = as_filing(shown)
    _said(event, filing)
    again = finding(Spot(event), Defaults(marking=filing["marking"])).filing
    event["unmapped"] = {NAME: {**with_rest(block, filing, again), "note": in_words(shown)}}
    return event


def _frame(shown: Shown) -> dict[str, Any]:
    """What every event has: which report this is, whose, and how it may be handled."""
    header = shown.header
    activity = _ACTIVITY_IDS[header.get("phase", "initial")]
    member = header["origin"]["member"]
    return {
        "activity_id": activity,
        "activity_name": ACTIVITY_NAMES[str(activity)],
        "assignee_group": {"name": member},
        "category_name": "Findings",
        "category_uid": 2,
        "class_name": "Incident Finding",
        "class_uid": INCIDENT,
        "finding_info_list": [{"uid": str(header["incident_id"])}],
        "metadata": {
            "labels": [f"tlp:{header['marking']['tlp']}"],
            "logged_time": milliseconds(shown.at.isoformat()),
            "product": {"name": "Kentongan", "vendor_name": member},
            "profiles": ["incident", "osint"] if shown.body and not is_withdrawn(shown) else ["incident"],
            "uid": f"{header['report_id']}/{header['revision']}",
            "version": VERSION,
        },
        "severity_id": 0,
        "severity": SEVERITY_NAMES["0"],
        "status_id": 0,
        "status": STATUS_NAMES["0"],
        "time": milliseconds(header["issued_at"]),
        "type_uid": INCIDENT * 100 + activity,
    }


def _said(event: dict[str, Any], filing: Mapping[str, Any]) -> None:
    body: Mapping[str, Any] = filing.get("body", {})
    info = event["finding_info_list"][0]
    info["types"] = [rsit_tag(said) for said in filing["rsit"]]
    if title := body.get("title"):
        info["title"] = event["message"] = title
    if description := body.get("description"):
        event["desc"] = description
    _judgement(event, filing, body)
    times = body.get("times", {})
    for name, holder, place in (
        ("occurred", event, "start_time"),
        ("detected", info, "first_seen_time"),
        ("ended", event, "end_time"),
    ):
        if name in times:
            holder[place] = milliseconds(times[name]["value"])
    lists = {
        "attacks": [_attack(said) for said in body.get("attack", [])],
        "tickets": [{"uid": said["ref"]} for said in body.get("related", [])],
        **_intelligence(body, filing["marking"]["tlp"]),
    }
    event.update({name: elements for name, elements in lists.items() if elements})
    if "osint" not in event:
        event["metadata"]["profiles"] = ["incident"]


def _judgement(event: dict[str, Any], filing: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    if "severity" in filing:
        score = filing["severity"]["score"]
        severity, impact = severity_id(score), impact_id(score)
        event.update(severity_id=int(severity), severity=SEVERITY_NAMES[severity])
        event.update(impact_id=int(impact), impact=LEVELS[impact], impact_score=score)
    if "status" in body:
        status = _STATUS_IDS[body["status"]]
        event.update(status_id=status, status=STATUS_NAMES[str(status)])
    if "confidence" in body:
        confidence = _CONFIDENCE_IDS[body["confidence"]]
        event.update(confidence_id=confidence, confidence=LEVELS[str(confidence)])
    verdict = _VERDICT_IDS.get(body.get("determination", ""), 99)
    if "exercise" in filing:
        event.update(verdict_id=6, verdict=VERDICT_NAMES["6"])
        event["metadata"]["labels"].append(f"exercise:{filing['exercise']['exercise_id']}")
    elif "determination" in body:
        event.update(verdict_id=verdict, verdict=VERDICT_NAMES.get(str(verdict), body["determination"]))


def _attack(said: Mapping[str, Any]) -> dict[str, Any]:
    whole, dot, _ = said["technique"].partition(".")
    attack: dict[str, Any] = {"technique": {"uid": whole}}
    if dot:
        attack["sub_technique"] = {"uid": said["technique"]}
    if "tactic" in said:
        attack["tactic"] = {"uid": said["tactic"]}
    if "attack_version" in said:
        attack["version"] = said["attack_version"]
    return attack


def _intelligence(body: Mapping[str, Any], tlp: str) -> dict[str, list[dict[str, Any]]]:
    """Indicators and vulnerabilities as threat intelligence, and the observables that point at them."""
    entries: list[dict[str, Any]] = []
    observables: list[dict[str, Any]] = []
    label = tlp.replace("+", " ")
    for said in body.get("indicators", []):
        kind = _OSINT_IDS.get(said["type"], 99)
        entry = {"tlp": label, "type_id": kind, "type": _OSINT_NAMES.get(kind, said["type"]), "value": said["value"]}
        if "context" in said:
            entry["comment"] = said["context"]
        observable = {
            "name": f"osint[{len(entries)}].value",
            "type_id": _OBSERVABLE_IDS.get(said["type"], 99),
            "value": said["value"],
        }
        if observable["type_id"] == 99:
            observable["type"] = said["type"]
        entries.append(entry)
        observables.append(observable)
    entries.extend(
        {"tlp": label, "type_id": 10, "type": "Vulnerability", "value": said["id"]}
        for said in body.get("vulnerabilities", [])
    )
    return {"osint": entries, "observables": observables}
