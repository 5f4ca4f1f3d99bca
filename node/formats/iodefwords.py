"""The vocabularies of IODEF (RFC 7970, RFC 8727) beside those of a report. Pure; tables only.

Where a table has pairs, the second part tells whether the word of the report says all that IODEF's says.
"""

from __future__ import annotations

from typing import Final, get_args

from protocol.taxonomy import RSIT, EntityKind, IndicatorType

LABELS: Final = {
    "public": "CLEAR",
    "white": "CLEAR",
    "partner": "GREEN",
    "green": "GREEN",
    "amber": "AMBER",
    "need-to-know": "AMBER+STRICT",
    "private": "RED",
    "red": "RED",
}
"""Restrictions as TLP. `need-to-know` is within the organisation, which is what AMBER+STRICT says today."""

PURPOSES: Final = ("reporting", "mitigation", "watch", "traceback")
EXERCISE: Final = "exercise"

STATUSES: Final = {
    "new": ("new", True),
    "in-progress": ("open", True),
    "resolved": ("closed", True),
    "forwarded": ("open", False),
}

DISCOVERIES: Final = {
    "external-notification": ("external-notification", True),
    "internal-notification": ("user-reporting", True),
    "investigation": ("human-review", True),
    "actor": ("message-from-attacker", True),
    "third-party-monitoring": ("external-notification", False),
    "leo": ("external-notification", False),
    "partner": ("external-notification", False),
    "audit": ("human-review", False),
    **dict.fromkeys(
        (
            *("nidps", "hips", "siem", "av", "os-log", "application-log", "device-log", "network-flow"),
            "passive-dns",
        ),
        ("automated-tool", False),
    ),
}

IMPACTS: Final = {
    **dict.fromkeys(("takeover-account", "takeover-service", "takeover-system"), "integrity"),
    **dict.fromkeys(("cps-manipulation", "cps-damage", "asset-damage", "asset-manipulation"), "physical"),
    **dict.fromkeys(
        ("availability-data", "availability-account", "availability-service", "availability-system"), "availability"
    ),
    **dict.fromkeys(("damaged-system", "damaged-data"), "integrity"),
    **dict.fromkeys(
        ("breach-proprietary", "breach-privacy", "breach-credential", "breach-configuration"), "confidentiality"
    ),
    **dict.fromkeys(("integrity-data", "integrity-configuration", "integrity-hardware"), "integrity"),
    **dict.fromkeys(("monitoring-traffic", "monitoring-host"), "confidentiality"),
    "traffic-redirection": "integrity",
    "loss-of-integrity": "integrity",
    "loss-of-service": "availability",
    "theft-financial": "monetary",
    "theft-service": "monetary",
    "extortion": "monetary",
    "degraded-reputation": "external",
    "legal": "external",
}
"""Types of impact, all finer than the category that they become."""

MEANINGS: Final[dict[str, tuple[str, str | None]]] = {
    "c2-server": ("malicious-code", "c2-server"),
    "malware-distribution": ("malicious-code", "malware-distribution"),
    "phishing-site": ("fraud", "phishing"),
    "spear-phishing-site": ("fraud", "phishing"),
    "takeover-account": ("intrusions", None),
    "takeover-service": ("intrusions", "application-compromise"),
    "takeover-system": ("intrusions", "system-compromise"),
    **dict.fromkeys(
        ("availability-data", "availability-account", "availability-service", "availability-system", "loss-of-service"),
        ("availability", None),
    ),
    **dict.fromkeys(
        ("breach-proprietary", "breach-privacy", "breach-credential", "breach-configuration"),
        ("information-content-security", None),
    ),
    "integrity-data": ("information-content-security", "unauthorised-information-modification"),
    "monitoring-traffic": ("information-gathering", "sniffing"),
    "theft-financial": ("fraud", None),
    "theft-service": ("fraud", "unauthorised-use-of-resources"),
}
"""What an incident is that names no type of RSIT, by the parts that systems play in it and by its impact."""

ATTACKERS: Final = frozenset(
    {
        *("c2-server", "malware-distribution", "drop-server", "phishing-site", "spear-phishing-site"),
        *("recruiting-site", "fraudulent-site"),
    }
)
"""The parts that an attacker's systems play, whatever side of the event they are on."""

SEVERITIES: Final = {"none": "none", "low": "low", "medium": "moderate", "high": "high"}
CONFIDENCES: Final = {"low": ("low", 15), "medium": ("moderate", 50), "high": ("high", 85)}
"""Ratings: the word of a report, and the number that IODEF wants beside a rating."""

UNITS: Final = {"host": "systems", "site": "sites", "organization": "organisations"}
ENTITIES: Final[tuple[str, ...]] = get_args(EntityKind)

ACTIONS: Final = {
    **dict.fromkeys(("contact-source-site", "contact-target-site", "contact-sender"), "point-of-contact"),
    "investigate": "forensics",
}
"""What is expected of the reader, all finer or otherwise than the assistance that it becomes; the rest is `other`."""

ROLES: Final = frozenset(
    {
        *("creator", "reporter", "admin", "tech", "provider", "user", "billing", "legal", "irt", "abuse", "cc"),
        *("cc-irt", "leo", "vendor", "vendor-support", "victim-notified"),
    }
)
"""Roles of contacts, but for the victim, who is none."""

OBSERVABLES: Final[dict[str, tuple[str, ...]]] = {
    "asn": ("asn",),
    "e-mail": ("email-addr",),
    "ipv4-addr": ("ipv4-addr",),
    "ipv4-net": ("ipv4-net",),
    "ipv6-addr": ("ipv6-addr",),
    "ipv6-net": ("ipv6-net",),
    "site-uri": ("url",),
    "domain-name": ("domain-name",),
    "windows-reg-key": ("registry-key",),
    "http-user-agent": ("user-agent",),
    "mutex": ("mutex",),
    "user-name": ("user-account",),
    "file-path": ("file-name",),
    "file-hash": ("sha256", "md5", "sha1", "sha512"),
}
"""Types of observables and addresses, and the indicator types that each may be."""

INDICATORS: Final = frozenset(get_args(IndicatorType))

ATTACK: Final = "mitre-attack-"

_NAMES: Final = {
    **{kind: (kind, None) for kind in RSIT},
    **{name: (kind, name) for kind, names in RSIT.items() for name in names if kind not in ("other", "test")},
}


def category_of(word: str) -> dict[str, str] | None:
    """A category that is called as RSIT calls it, without the form of a tag."""
    kind, name = _NAMES.get(word.strip().lower().replace(" ", "-"), (None, None))
    if kind is None:
        return None
    return {"class": kind, **({"type": name} if name else {})}
