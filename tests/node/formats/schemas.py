"""Schemas of what is written, closed: the Incident Finding of OCSF 1.5 and the classes of RFC 8727 that are used.

Attributes and enumerations are those of the standards' own schemas; what the writers do not use is left out, so that a
name which a writer misspells is refused here.
"""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "integer"}


def a(required: str = "", **properties: Any) -> dict[str, Any]:
    """A closed object."""
    names = {name.replace("_h_", "-"): schema for name, schema in properties.items()}
    return {"type": "object", "properties": names, "required": required.split(), "additionalProperties": False}


def some(schema: dict[str, Any]) -> dict[str, Any]:
    """A list of at least one."""
    return {"type": "array", "items": schema, "minItems": 1}


def one_of(words: str) -> dict[str, Any]:
    """An enumeration."""
    return {"enum": words.split()}


_UID = a("uid", uid=TEXT)
OCSF = a(
    "activity_id category_uid class_uid finding_info_list metadata severity_id status_id time type_uid assignee_group",
    activity_id={"enum": [1, 2, 3]},
    activity_name=one_of("Create Update Close"),
    assignee_group=a("name", name=TEXT),
    attacks=some(a("technique", technique=_UID, sub_technique=_UID, tactic=_UID, version=TEXT)),
    category_name={"const": "Findings"},
    category_uid={"const": 2},
    class_name={"const": "Incident Finding"},
    class_uid={"const": 2005},
    confidence=one_of("Low Medium High"),
    confidence_id={"enum": [1, 2, 3]},
    desc=TEXT,
    end_time=NUMBER,
    finding_info_list=some(a("uid", uid=TEXT, title=TEXT, types=some(TEXT), first_seen_time=NUMBER)),
    impact=one_of("Unknown Low Medium High Critical"),
    impact_id={"enum": [0, 1, 2, 3, 4]},
    impact_score={"type": "integer", "minimum": 0, "maximum": 100},
    message=TEXT,
    metadata=a(
        "product version",
        labels=some(TEXT),
        logged_time=NUMBER,
        product=a("name vendor_name", name=TEXT, vendor_name=TEXT),
        profiles={"type": "array", "items": one_of("incident osint")},
        uid=TEXT,
        version=TEXT,
    ),
    observables=some(a("type_id", name=TEXT, type=TEXT, type_id=NUMBER, value=TEXT)),
    osint=some(
        a(
            "type_id value",
            comment=TEXT,
            tlp={"enum": ["CLEAR", "GREEN", "AMBER", "AMBER STRICT", "RED"]},
            type=TEXT,
            type_id={"enum": [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 99]},
            value=TEXT,
        )
    ),
    severity=one_of("Unknown Informational Low Medium High Critical"),
    severity_id={"enum": [0, 1, 2, 3, 4, 5]},
    start_time=NUMBER,
    status={"enum": ["Unknown", "New", "In Progress", "Closed", "Withdrawn"]},
    status_id={"enum": [0, 1, 2, 5, 99]},
    tickets=some(_UID),
    time=NUMBER,
    type_uid={"enum": [200501, 200502, 200503]},
    unmapped={"type": "object"},
    verdict=TEXT,
    verdict_id={"enum": [1, 2, 4, 6, 99]},
)

_RESTRICTION = one_of("white green amber red ext-value")
_TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:\d\d)$"}
_NUMBERS = a("id name", id=TEXT, name=TEXT)
_CONFIDENCE = a("value rating", value={"type": "number"}, rating=one_of("low medium high"))
_INFO = a("SpecID", SpecID=one_of("private"), ext_h_SpecID=TEXT, ContentID=TEXT)
_ROLES = (
    "creator reporter admin tech provider user billing legal irt abuse cc cc-irt leo vendor vendor-support victim "
    "victim-notified ext-value"
)
_OBSERVABLES = (
    "asn e-mail ipv4-addr ipv4-net ipv6-addr ipv6-net site-uri domain-name windows-reg-key file-hash http-user-agent "
    "mutex file-path user-name ext-value"
)
_CONTACT = a(
    "role type",
    role=one_of(_ROLES),
    ext_h_role=TEXT,
    type=one_of("person organization"),
    ContactName=some(TEXT),
    Email=some(a("EmailTo", EmailTo=TEXT)),
    Telephone=some(a("TelephoneNumber", TelephoneNumber=TEXT)),
)
_IMPACT = a(
    "",
    SystemImpact=a(
        "type",
        type=one_of("unknown ext-value"),
        ext_h_type=TEXT,
        severity=one_of("low medium high"),
        Description=some(TEXT),
    ),
    MonetaryImpact=a("value", value={"type": "number", "exclusiveMinimum": 0}, currency=TEXT),
)
_ASSESSMENT = a(
    "Impact",
    IncidentCategory=some(TEXT),
    Impact=some(_IMPACT),
    Counter=some(
        a(
            "value type unit",
            value={"type": "number"},
            type=one_of("count"),
            unit=one_of("host site organization ext-value"),
            ext_h_unit=TEXT,
        )
    ),
    Cause=some(TEXT),
    Confidence=_CONFIDENCE,
)
_INDICATOR = a(
    "IndicatorID Observable",
    IndicatorID=a("id name version", id={**TEXT, "pattern": "^[a-zA-Z_][a-zA-Z0-9_.-]*$"}, name=TEXT, version=TEXT),
    Description=some(TEXT),
    StartTime=_TIME,
    EndTime=_TIME,
    Observable=a(
        "BulkObservable",
        BulkObservable=a("BulkObservableList", type=one_of(_OBSERVABLES), ext_h_type=TEXT, BulkObservableList=TEXT),
    ),
)
_INCIDENT = a(
    "purpose IncidentID GenerationTime Contact",
    purpose=one_of("traceback mitigation reporting watch ext-value"),
    ext_h_purpose=TEXT,
    status=one_of("new in-progress resolved ext-value"),
    ext_h_status=TEXT,
    restriction=_RESTRICTION,
    ext_h_restriction=TEXT,
    IncidentID=_NUMBERS,
    RelatedActivity=some(
        a(
            "",
            IncidentID=some(_NUMBERS),
            ThreatActor=some(a("", ThreatActorID=some(TEXT))),
            Confidence=_CONFIDENCE,
            Description=some(TEXT),
        )
    ),
    DetectTime=_TIME,
    StartTime=_TIME,
    EndTime=_TIME,
    RecoveryTime=_TIME,
    ReportTime=_TIME,
    GenerationTime=_TIME,
    Description=some(TEXT),
    Discovery=some(
        a(
            "",
            source=one_of("external-notification internal-notification investigation actor ext-value"),
            ext_h_source=TEXT,
        )
    ),
    Assessment=some(_ASSESSMENT),
    Method=some(
        a(
            "",
            AttackPattern=some(_INFO),
            Vulnerability=some(_INFO),
            Reference=some(a("", URL=some(TEXT), Description=some(TEXT))),
        )
    ),
    Contact=some(_CONTACT),
    EventData=some(
        a("", Expectation=some(a("", action=one_of("ext-value"), ext_h_action=TEXT, Description=some(TEXT))))
    ),
    Indicator=some(_INDICATOR),
    History=a(
        "HistoryItem",
        HistoryItem=some(a("DateTime action", action=one_of("other"), DateTime=_TIME, Description=some(TEXT))),
    ),
    AdditionalData=some(a("value dtype", value=TEXT, name=TEXT, dtype=one_of("json"), meaning=TEXT)),
)
IODEF = a("version Incident", version={"const": "2.0"}, lang={"const": "en"}, Incident=some(_INCIDENT))
