"""Closed vocabularies: what is not listed here is refused at the door and never matches a policy condition.

Sources: RSIT 1003 (ENISA reference taxonomy), TLP 2.0 and PAP (FIRST, MISP), the STIX 2.1 incident core extension for
determination, detection, fidelity and impact, NIS2 for root causes, MITRE ATT&CK for matrix names. The sector codes are
this project's union of the national critical-sector lists; a dot separates a sector from its part.
"""

from __future__ import annotations

from typing import Final, Literal

Tlp = Literal["CLEAR", "GREEN", "AMBER", "AMBER+STRICT", "RED"]
Pap = Literal["CLEAR", "GREEN", "AMBER", "RED"]
Phase = Literal["initial", "intermediate", "final", "withdrawn"]
Purpose = Literal["reporting", "mitigation", "watch", "traceback"]

RSIT: Final[dict[str, frozenset[str]]] = {
    "abusive-content": frozenset({"spam", "harmful-speech", "violence"}),
    "malicious-code": frozenset({"infected-system", "c2-server", "malware-distribution", "malware-configuration"}),
    "information-gathering": frozenset({"scanner", "sniffing", "social-engineering"}),
    "intrusion-attempts": frozenset({"ids-alert", "brute-force", "exploit"}),
    "intrusions": frozenset(
        {
            "privileged-account-compromise",
            "unprivileged-account-compromise",
            "application-compromise",
            "system-compromise",
            "burglary",
        }
    ),
    "availability": frozenset({"dos", "ddos", "misconfiguration", "sabotage", "outage"}),
    "information-content-security": frozenset(
        {"unauthorised-information-access", "unauthorised-information-modification", "data-loss", "data-leak"}
    ),
    "fraud": frozenset({"unauthorised-use-of-resources", "copyright", "masquerade", "phishing"}),
    "vulnerable": frozenset(
        {
            "weak-crypto",
            "ddos-amplifier",
            "potentially-unwanted-accessible",
            "information-disclosure",
            "vulnerable-system",
        }
    ),
    "other": frozenset({"other", "undetermined"}),
    "test": frozenset({"test"}),
}

RsitClass = Literal[
    "abusive-content",
    "malicious-code",
    "information-gathering",
    "intrusion-attempts",
    "intrusions",
    "availability",
    "information-content-security",
    "fraud",
    "vulnerable",
    "other",
    "test",
]

Sector = Literal[
    "energy",
    "energy.electricity",
    "energy.gas",
    "energy.oil",
    "water",
    "water.supply",
    "water.waste",
    "transport",
    "transport.air",
    "transport.airport",
    "transport.rail",
    "transport.land",
    "transport.maritime",
    "transport.port",
    "logistics",
    "finance",
    "finance.banking",
    "finance.payment",
    "health",
    "ict",
    "ict.telecom",
    "ict.digital",
    "media",
    "government",
    "defence",
    "emergency",
    "food-agri",
    "chemical",
    "manufacturing",
    "science-tech",
    "education",
    "trade",
    "other",
]

Status = Literal["new", "open", "closed"]
Determination = Literal["blocked", "confirmed", "failed-attempt", "false-positive", "suspected"]
Confidence = Literal["low", "moderate", "high"]
Fidelity = Literal["year", "month", "day", "hour", "minute", "second"]
DetectionMethod = Literal[
    "automated-tool",
    "commercial-solution",
    "external-notification",
    "human-review",
    "message-from-attacker",
    "proprietary-solution",
    "system-outage",
    "user-reporting",
]
SeverityMethod = Literal["stix-criticality", "nciss", "nis2", "national", "expert"]
RootCause = Literal["system-failures", "natural-phenomena", "human-errors", "malicious-actions", "third-party-failures"]
ImpactCategory = Literal[
    "availability", "confidentiality", "integrity", "external", "monetary", "physical", "traceability"
]
AttackMatrix = Literal["enterprise", "ics", "mobile"]
EntityKind = Literal["people", "records", "organisations", "systems", "customers", "sites"]

AddressType = Literal["ipv4-addr", "ipv6-addr"]
IndicatorType = Literal[
    "ipv4-addr",
    "ipv6-addr",
    "ipv4-net",
    "ipv6-net",
    "asn",
    "domain-name",
    "hostname",
    "url",
    "email-addr",
    "md5",
    "sha1",
    "sha256",
    "sha512",
    "ssdeep",
    "file-name",
    "mutex",
    "registry-key",
    "user-account",
    "user-agent",
    "x509-sha256",
    "wallet",
    "other",
]
RansomwareVector = Literal[
    "phishing", "remote-access", "exploited-vulnerability", "supply-chain", "stolen-credentials", "insider", "unknown"
]
DdosTechnique = Literal["T1498", "T1498.001", "T1498.002", "T1499", "T1499.001", "T1499.002", "T1499.003", "T1499.004"]
SafetyImpact = Literal["none", "potential", "near-miss", "injury", "fatality", "unknown"]
PhysicalImpact = Literal["damaged-functional", "damaged-nonfunctional", "destruction", "none", "unknown"]
IcsAsset = Literal[
    "ics-actuator",
    "ics-engineering-workstation",
    "ics-historian",
    "ics-hmi",
    "ics-plc",
    "ics-safety-system",
    "ics-sensor",
    "ics-other",
]
AiMeans = Literal[
    "deepfake-video",
    "deepfake-voice",
    "deepfake-image",
    "generated-spear-phishing",
    "generated-malware",
    "automated-vulnerability-discovery",
    "automated-reconnaissance",
    "prompt-injection",
    "model-poisoning",
    "synthetic-identity",
    "other",
]
Assistance = Literal[
    "sinkholing",
    "takedown",
    "victim-notification",
    "malware-analysis",
    "forensics",
    "log-search",
    "point-of-contact",
    "advisory-coordination",
    "other",
]
RelatedKind = Literal["same-incident", "same-campaign", "derived-from", "caused-by", "led-to", "other"]
ToolKind = Literal["person", "machine"]


def sector_within(code: str, parent: str) -> bool:
    """True if the sector `code` is `parent` or a part of it: `energy.gas` is within `energy`."""
    return code == parent or code.startswith(parent + ".")
