"""The words of MISP's core format and taxonomies, beside the profile's. Tables only; reader and writer share them.

Sources: MISP core format (draft -20), the taxonomies tlp v10, PAP v3, rsit v1003, estimative-language, exercise, and
the galaxies of techniques, actors and malware. Where MISP has no word, tags of the namespace `kentongan` and one object
of that name say it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from uuid import UUID, uuid5

NAMESPACE: Final = uuid5(UUID(int=0), "kentongan-misp/1")
"""Of every uuid that this project gives: a change breaks the events that others hold."""

OBJECT: Final = "kentongan-report"
TEMPLATE: Final = str(uuid5(NAMESPACE, "template"))

DISTRIBUTION: Final[Mapping[str, str]] = {"CLEAR": "3", "GREEN": "1", "AMBER": "0", "AMBER+STRICT": "0", "RED": "0"}
"""How far MISP may pass an event on by itself: CLEAR to all communities, GREEN within this community, all others not at
all: AMBER allows clients, of which MISP knows nothing. Whoever may share more widely does so by hand."""

LEVELS: Final[Mapping[str, int]] = {"1": 70, "2": 40, "3": 15}
"""Threat level -> score: high, moderate and low of the STIX criticality scale. 4 is undefined."""
FLOORS: Final = ((65, "1"), (35, "2"), (1, "3"), (0, "4"))

ANALYSIS: Final[Mapping[str, str]] = {"new": "0", "open": "1", "closed": "2"}

CONFIDENCE_TAG: Final = "estimative-language:confidence-in-analytic-judgment"

ATTRIBUTES: Final[Mapping[str, tuple[str, str]]] = {
    "ipv4-addr": ("ip-dst", "Network activity"),
    "ipv6-addr": ("ip-dst", "Network activity"),
    "ipv4-net": ("ip-dst", "Network activity"),
    "ipv6-net": ("ip-dst", "Network activity"),
    "asn": ("AS", "Network activity"),
    "domain-name": ("domain", "Network activity"),
    "hostname": ("hostname", "Network activity"),
    "url": ("url", "Network activity"),
    "email-addr": ("email", "Network activity"),
    "user-agent": ("user-agent", "Network activity"),
    "x509-sha256": ("x509-fingerprint-sha256", "Network activity"),
    "md5": ("md5", "Payload delivery"),
    "sha1": ("sha1", "Payload delivery"),
    "sha256": ("sha256", "Payload delivery"),
    "sha512": ("sha512", "Payload delivery"),
    "ssdeep": ("ssdeep", "Payload delivery"),
    "file-name": ("filename", "Payload delivery"),
    "mutex": ("mutex", "Artifacts dropped"),
    "registry-key": ("regkey", "Persistence mechanism"),
    "user-account": ("other", "Other"),
    "wallet": ("other", "Other"),
    "other": ("other", "Other"),
}
"""Indicator type -> attribute type and category. MISP's `other` is told apart by a tag `kentongan:type`."""

INDICATORS: Final[Mapping[str, str]] = {
    "ip-src": "address",
    "ip-dst": "address",
    "AS": "asn",
    "domain": "domain-name",
    "hostname": "hostname",
    "url": "url",
    "email": "email-addr",
    "email-src": "email-addr",
    "email-dst": "email-addr",
    "user-agent": "user-agent",
    "x509-fingerprint-sha256": "x509-sha256",
    "md5": "md5",
    "sha1": "sha1",
    "sha256": "sha256",
    "sha512": "sha512",
    "ssdeep": "ssdeep",
    "filename": "file-name",
    "mutex": "mutex",
    "regkey": "registry-key",
    "btc": "wallet",
    "xmr": "wallet",
    "dash": "wallet",
}
EXACT: Final = frozenset({"email", "ip-dst", *(kind for kind, _ in ATTRIBUTES.values())})
"""Attribute types that say no more than the indicator type that they are read as; of others the type is listed."""

COMPOSITES: Final[Mapping[str, tuple[str, str]]] = {
    "domain|ip": ("domain-name", "address"),
    "hostname|port": ("hostname", ""),
    "ip-src|port": ("address", ""),
    "ip-dst|port": ("address", ""),
    "filename|md5": ("", "md5"),
    "filename|sha1": ("", "sha1"),
    "filename|sha256": ("", "sha256"),
    "filename|sha512": ("", "sha512"),
    "filename|ssdeep": ("", "ssdeep"),
    "malware-sample": ("", "md5"),
    "regkey|value": ("registry-key", ""),
}
"""What is read of values in two parts; the whole is listed, for their belonging together has no place."""

MATRICES: Final[Mapping[str, str]] = {
    "mitre-attack-pattern": "enterprise",
    "mitre-enterprise-attack-attack-pattern": "enterprise",
    "mitre-mobile-attack-attack-pattern": "mobile",
    "mitre-ics-techniques": "ics",
}
GALAXIES: Final[Mapping[str, str]] = {
    "enterprise": "mitre-attack-pattern",
    "ics": "mitre-ics-techniques",
    "mobile": "mitre-mobile-attack-attack-pattern",
}
ACTORS: Final = frozenset({"threat-actor", "mitre-intrusion-set", "microsoft-activity-group"})
MALWARE: Final = frozenset(
    {"malpedia", "ransomware", "mitre-malware", "banker", "stealer", "rat", "botnet", "backdoor", "cryptominers"}
)

SECTOR_TAGS: Final = ("dhs-ciip-sectors:", "eu-nis-sector-and-subsectors:", "misp-galaxy:sector=", "nis2:")
SECTORS: Final[Mapping[str, str]] = {
    "energy": "energy",
    "electricity": "energy.electricity",
    "gas": "energy.gas",
    "oil": "energy.oil",
    "water": "water",
    "drinking-water": "water.supply",
    "waste-water": "water.waste",
    "transport": "transport",
    "transportation": "transport",
    "air": "transport.air",
    "rail": "transport.rail",
    "financial-services": "finance",
    "finance": "finance",
    "banking": "finance.banking",
    "bank": "finance.banking",
    "healthcare-public": "health",
    "health": "health",
    "telecoms": "ict.telecom",
    "communications": "ict.telecom",
    "it": "ict.digital",
    "digital-infrastructure": "ict.digital",
    "government-facilities": "government",
    "government, administration": "government",
    "public-administration": "government",
    "defense": "defence",
    "dib": "defence",
    "emergency-services": "emergency",
    "food": "food-agri",
    "food-agriculture": "food-agri",
    "chemical": "chemical",
    "manufacturing": "manufacturing",
    "critical-manufacturing": "manufacturing",
    "education": "education",
    "research": "science-tech",
}

TAG: Final = re.compile(r"(?P<space>[^:=]+):(?P<name>[^=]+?)(?:=\"?(?P<value>.*?)\"?)?", re.DOTALL)


def tag(space: str, name: str, value: str | None = None) -> str:
    """A machine tag."""
    return f"{space}:{name}" if value is None else f'{space}:{name}="{value}"'
