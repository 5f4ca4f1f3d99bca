"""The words of STIX 2.1, of the Incident Core Extension and of the TLP 2.0 and PAP extensions, beside the profile's.

Tables only: every crosswalk that reader and writer share stands here once, so that one cannot know a word that the
other does not. Sources: STIX 2.1 (OASIS standard), Incident Core Extension 2.1 (draft of 20 February 2024), the marking
extensions of the OASIS common objects, MITRE ATT&CK.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, get_args
from uuid import UUID, uuid5

from protocol.taxonomy import Sector

NAMESPACE: Final = uuid5(UUID(int=0), "kentongan-stix/1")
"""Of every id that this project gives to a STIX object: a change breaks the versions that clients hold."""

INCIDENT_CORE: Final = "extension-definition--ef765651-680c-498d-9894-99799f2fa126"
EVENT: Final = "extension-definition--4ca6de00-5b0d-45ef-a1dc-ea7279ea910e"
IMPACT: Final = "extension-definition--7cc33dd6-f6a1-489b-98ea-522d351d71b9"
TASK: Final = "extension-definition--2074a052-8be4-4932-849e-f5e7798e0030"
TLP_2: Final = "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d"
PAP: Final = "extension-definition--f8d78575-edfd-406e-8e84-6162a8450f5b"
OURS: Final = f"extension-definition--{uuid5(NAMESPACE, 'extension')}"
"""A property extension of this project: what a report says and STIX has no word for."""

MARKINGS_CREATED: Final = "2022-10-01T00:00:00.000Z"

TLP_IDS: Final[Mapping[str, str]] = {
    "CLEAR": "marking-definition--94868c89-83c2-464b-929b-a1a8aa3c8487",
    "GREEN": "marking-definition--bab4a63c-aed9-4cf5-a766-dfca5abac2bb",
    "AMBER": "marking-definition--55d920b0-5e8b-4f79-9ee9-91f868d9b421",
    "AMBER+STRICT": "marking-definition--939a9414-2ddd-4d32-a0cd-375ea402b003",
    "RED": "marking-definition--e828b379-4e03-4974-9ac4-e53a884c97c1",
}
TLP_1_IDS: Final[Mapping[str, str]] = {
    "marking-definition--613f2e26-407d-48c7-9eca-b8e91df99dc9": "CLEAR",
    "marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da": "GREEN",
    "marking-definition--f88d31f6-486f-44da-b317-01333bde0b82": "AMBER",
    "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed": "RED",
}
"""STIX 2.1 predefines these; they need not travel."""

PAP_IDS: Final[Mapping[str, str]] = {
    "CLEAR": "marking-definition--ad15a0cd-55b6-4588-a14c-a66105329b92",
    "GREEN": "marking-definition--c43594d1-4b11-4c59-93ab-1c9b14d53ce9",
    "AMBER": "marking-definition--60f8932b-e51e-4458-b265-a2e8be9a80ab",
    "RED": "marking-definition--740d36e5-7714-4c30-961a-3ae632ceee0e",
}
PAP_WHITE_ID: Final = "marking-definition--a3bea94c-b469-41dc-9cfe-d6e7daba7730"

TLP_RANK: Final[Mapping[str, int]] = {"CLEAR": 0, "GREEN": 1, "AMBER": 2, "AMBER+STRICT": 3, "RED": 4}
PAP_RANK: Final[Mapping[str, int]] = {"CLEAR": 0, "GREEN": 1, "AMBER": 2, "RED": 3}

CONFIDENCE: Final[Mapping[str, int]] = {"low": 15, "moderate": 50, "high": 85}
"""The middle of each band of the scale "low, medium, high" of STIX 2.1, appendix A."""

DETECTION: Final[Mapping[str, str]] = {"proprietary-solution": "propriety-solution"}
"""The extension's own spelling; all other words are the same."""

ENTITY: Final[Mapping[str, str]] = {
    "people": "individual",
    "organisations": "organization",
    "systems": "system",
    "customers": "customer",
    "records": "record",
    "sites": "site",
}
"""`record` and `site` are not in the extension's open vocabulary, which has no word for either."""

SECTORS: Final[Mapping[str, str]] = {
    "energy": "energy",
    "water": "water",
    "transport": "transportation",
    "finance": "financial-services",
    "health": "healthcare",
    "ict": "technology",
    "ict.telecom": "telecommunications",
    "media": "communications",
    "government": "government-national",
    "defence": "defense",
    "emergency": "emergency-services",
    "food-agri": "agriculture",
    "chemical": "chemical",
    "manufacturing": "manufacturing",
    "education": "education",
    "trade": "retail",
    "energy.electricity": "utilities",
}
"""The word of the industry sector vocabulary that comes closest; the exact code stands beside it."""

SECTORS_IN: Final[Mapping[str, str]] = {
    "energy": "energy",
    "water": "water",
    "transportation": "transport",
    "financial-services": "finance",
    "healthcare": "health",
    "technology": "ict",
    "telecommunications": "ict.telecom",
    "government": "government",
    "government-national": "government",
    "government-regional": "government",
    "government-local": "government",
    "government-public-services": "government",
    "defense": "defence",
    "defence": "defence",
    "emergency-services": "emergency",
    "agriculture": "food-agri",
    "chemical": "chemical",
    "manufacturing": "manufacturing",
    "education": "education",
    "retail": "trade",
}

TACTICS: Final[Mapping[str, Mapping[str, str]]] = {
    "enterprise": {
        "TA0043": "reconnaissance",
        "TA0042": "resource-development",
        "TA0001": "initial-access",
        "TA0002": "execution",
        "TA0003": "persistence",
        "TA0004": "privilege-escalation",
        "TA0005": "defense-evasion",
        "TA0006": "credential-access",
        "TA0007": "discovery",
        "TA0008": "lateral-movement",
        "TA0009": "collection",
        "TA0011": "command-and-control",
        "TA0010": "exfiltration",
        "TA0040": "impact",
    },
    "ics": {
        "TA0108": "initial-access",
        "TA0104": "execution",
        "TA0110": "persistence",
        "TA0111": "privilege-escalation",
        "TA0103": "evasion",
        "TA0102": "discovery",
        "TA0109": "lateral-movement",
        "TA0100": "collection",
        "TA0101": "command-and-control",
        "TA0107": "inhibit-response-function",
        "TA0106": "impair-process-control",
        "TA0105": "impact",
    },
    "mobile": {
        "TA0027": "initial-access",
        "TA0041": "execution",
        "TA0028": "persistence",
        "TA0029": "privilege-escalation",
        "TA0030": "defense-evasion",
        "TA0031": "credential-access",
        "TA0032": "discovery",
        "TA0033": "lateral-movement",
        "TA0035": "collection",
        "TA0037": "command-and-control",
        "TA0036": "exfiltration",
        "TA0034": "impact",
    },
}
KILL_CHAIN: Final[Mapping[str, str]] = {
    "enterprise": "mitre-attack",
    "ics": "mitre-ics-attack",
    "mobile": "mitre-mobile-attack",
}
"""Also the `source_name` of the technique's external reference."""

INCIDENT_TYPES: Final[Mapping[tuple[str, str], str]] = {
    ("abusive-content", "spam"): "spam",
    ("malicious-code", "infected-system"): "infected-by-known-malware",
    ("malicious-code", "c2-server"): "c&c-server-hosting",
    ("malicious-code", "malware-distribution"): "hosting-malware-webpage",
    ("information-gathering", "scanner"): "network-scanning",
    ("information-gathering", "sniffing"): "wiretapping",
    ("intrusion-attempts", "ids-alert"): "exploit-attempt",
    ("intrusion-attempts", "brute-force"): "brute-force-attempt",
    ("intrusions", "system-compromise"): "compromised-system",
    ("intrusions", "application-compromise"): "exploit",
    ("intrusions", "burglary"): "equipment-theft",
    ("availability", "dos"): "denial-of-service",
    ("availability", "ddos"): "packet-flood",
    ("availability", "sabotage"): "disruption-data-transmission",
    ("information-content-security", "unauthorised-information-access"): "unauthorized-access-information",
    ("information-content-security", "unauthorised-information-modification"): "modification-information",
    ("information-content-security", "data-loss"): "deletion-information",
    ("information-content-security", "data-leak"): "data-exfiltration",
    ("fraud", "unauthorised-use-of-resources"): "illegitimate-use-resources",
    ("fraud", "copyright"): "copyrighted-content",
    ("fraud", "masquerade"): "illegitimate-use-name",
    ("fraud", "phishing"): "hosting-phishing-sites",
    ("other", "undetermined"): "undetermined",
}
"""RSIT type -> the nearest word of `event-type-ov`; for readers that do not know RSIT, which travels as labels."""

RSIT_OF: Final[Mapping[str, tuple[str, str]]] = {
    **{word: pair for pair, word in INCIDENT_TYPES.items()},
    "ransomware": ("malicious-code", "infected-system"),
    "known-malware": ("malicious-code", "infected-system"),
    "worm-spreading": ("malicious-code", "infected-system"),
    "dissemination-malware-email": ("malicious-code", "malware-distribution"),
    "dissemination-phishing-emails": ("fraud", "phishing"),
    "aggregation-information-phishing-schemes": ("fraud", "phishing"),
    "email-flooding": ("availability", "dos"),
    "exploit-framework-exhausting-resources": ("availability", "ddos"),
    "exploit-tool-exhausting-resources": ("availability", "dos"),
    "destruction": ("availability", "sabotage"),
    "vandalism": ("availability", "sabotage"),
    "scan-probe": ("information-gathering", "scanner"),
    "system-probe": ("information-gathering", "scanner"),
    "dictionary-attack-attempt": ("intrusion-attempts", "brute-force"),
    "password-cracking-attempt": ("intrusion-attempts", "brute-force"),
    "sql-injection-attempt": ("intrusion-attempts", "ids-alert"),
    "xss-attempt": ("intrusion-attempts", "ids-alert"),
    "file-inclusion-attempt": ("intrusion-attempts", "ids-alert"),
    "sql-injection": ("intrusions", "application-compromise"),
    "xss": ("intrusions", "application-compromise"),
    "file-inclusion": ("intrusions", "application-compromise"),
    "control-system-bypass": ("intrusions", "system-compromise"),
    "unauthorized-access-system": ("intrusions", "system-compromise"),
    "dns-server-compromise": ("intrusions", "system-compromise"),
    "equipment-loss": ("information-content-security", "data-loss"),
    "unauthorized-release": ("information-content-security", "data-leak"),
    "content-forbidden-by-law": ("abusive-content", "harmful-speech"),
}

TASKS: Final[Mapping[str, str]] = {
    "detected": "detected",
    "classified": "declared",
    "contained": "containment",
    "recovered": "recovery",
}
"""Points of `times` that the extension has as tasks of a type; `occurred` and `ended` are those of an event."""

SIDE: Final[Mapping[str, str]] = {
    "detected": "start_time",
    "classified": "start_time",
    "contained": "end_time",
    "recovered": "end_time",
}
"""Containment and recovery are reached when their task ends."""

CODES: Final = frozenset(get_args(Sector))


def near_sector(code: str) -> str | None:
    """The standard's word that comes closest to a sector code, or to the sector that it is a part of."""
    return SECTORS.get(code) or SECTORS.get(code.partition(".")[0])


def timestamp(value: datetime | str) -> str:
    """A time as STIX writes it: in UTC, to the millisecond at least."""
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    try:
        time = time.astimezone(UTC)
    except OverflowError:  # the first or last day of the calendar, in another zone
        time = time.replace(tzinfo=UTC)
    return time.isoformat(timespec="microseconds" if time.microsecond % 1000 else "milliseconds")[:-6] + "Z"


def utc(value: Any) -> str | None:
    """The same for what may be no time at all."""
    try:
        return timestamp(value)
    except (TypeError, ValueError, AttributeError):
        return None
