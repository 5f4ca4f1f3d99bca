"""Identifiers in reports, and which reports speak of the same incident because of them. Pure.

Guarantees: a link is a suggestion between two reports of different CERTs, with the kinds and numbers of identifiers
that match; nothing is merged. Only exact values that the broker was given are compared, in a normal form (refanged,
lower case). Refuses: private and documentation addresses, identifiers in too many reports, and weak identifiers
(file names, vulnerabilities) of different RSIT classes or far apart in time.

A member is told of a link only if it may read the matching identifiers in both reports: else the link itself would say
what a report holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, Literal

from protocol import limits
from protocol.envelope import SignedReport
from protocol.report import ALL_UNITS, UNIT_BIT, part_of, refang

Strength = Literal["strong", "weak"]

_STRONG: Final = frozenset(
    {
        "ipv4-addr",
        "ipv6-addr",
        "domain-name",
        "hostname",
        "url",
        "email-addr",
        "md5",
        "sha1",
        "sha256",
        "sha512",
        "x509-sha256",
        "wallet",
        "mutex",
    }
)
_WEAK: Final = frozenset({"file-name"})
_CVE: Final = "vulnerability"


@dataclass(frozen=True, slots=True)
class Identifier:
    """One comparable value: `key` is the first 64 bits of SHA-256 over kind and normal form."""

    key: int
    kind: str
    strength: Strength
    bit: int
    """The disclosure unit that one must be able to read to know it."""


def _key(kind: str, value: str) -> int:
    raw = hashlib.sha256(f"{kind}\0{value}".encode()).digest()[:8]
    return int.from_bytes(raw, "big", signed=True)


@lru_cache(maxsize=16_384)
def _normal(kind: str, value: str) -> str | None:
    plain = refang(value)
    if kind in ("ipv4-addr", "ipv6-addr"):
        try:
            address = ip_address(plain)
        except ValueError:
            return None
        return None if not address.is_global else str(address)
    if kind == "url":
        return plain
    return plain.lower().rstrip(".")


def identifiers_of(report: SignedReport) -> list[Identifier]:
    """The identifiers of a report, at most `limits.IDENTIFIERS_PER_REPORT`, each once."""
    found: dict[int, Identifier] = {}
    for element in report.body.get("indicators", ()):
        kind = str(element.get("type"))
        if element.get("level") == "coarse" or (kind not in _STRONG and kind not in _WEAK):
            continue
        value = _normal(kind, str(element["value"]))
        if value:
            name = "domain-name" if kind == "hostname" else kind
            key = _key(name, value)
            strength: Strength = "strong" if kind in _STRONG else "weak"
            found.setdefault(key, Identifier(key, name, strength, UNIT_BIT[part_of("indicators", element)]))
    for element in report.body.get("vulnerabilities", ()):
        key = _key(_CVE, str(element["id"]).upper())
        found.setdefault(key, Identifier(key, _CVE, "weak", UNIT_BIT["vulnerabilities"]))
    return list(found.values())[: limits.IDENTIFIERS_PER_REPORT]


def happened_at(report: SignedReport) -> datetime:
    """When the incident happened as far as the report says, else when it was reported."""
    times = report.body.get("times") or report.body.get("times_coarse") or {}
    for name in ("occurred", "detected", "classified"):
        point = times.get(name)
        if point:
            return datetime.fromisoformat(point["value"]).astimezone(UTC)
    return report.header.issued_at


@dataclass(frozen=True, slots=True)
class Side:
    """One report as linking sees it."""

    seq: int
    digest: str
    report_id: str
    origin: str
    incident: bytes
    rsit: str
    happened_ms: int
    grants: Mapping[str, Sequence[int]]
    """Per member: (exact mask, coarse mask)."""


@dataclass(frozen=True, slots=True)
class FoundLink:
    """Two reports of different origins that share identifiers."""

    a: Side
    b: Side
    strength: Strength
    matched: tuple[Identifier, ...]


def find_links(
    new: Side, identifiers: Sequence[Identifier], hits: Mapping[int, Sequence[Side]], already: set[tuple[bytes, bytes]]
) -> list[FoundLink]:
    """Links between a new report and those that hold the same identifiers.

    Args:
        hits: by identifier key, the other reports that hold it.
        already: pairs of incidents that are linked; this function adds the new ones.
    """
    by_incident: dict[bytes, tuple[Side, list[Identifier]]] = {}
    for item in identifiers:
        holders = hits.get(item.key, ())
        if len(holders) > limits.IDENTIFIER_IN_REPORTS:
            continue
        for other in holders:
            if other.origin == new.origin or other.incident == new.incident:
                continue
            if item.strength == "weak" and not _close(new, other):
                continue
            side, matched = by_incident.setdefault(other.incident, (other, []))
            if item not in matched:
                matched.append(item)
            if other.seq > side.seq:
                by_incident[other.incident] = (other, matched)
    found = []
    for incident, (other, matched) in by_incident.items():
        pair = (min(incident, new.incident), max(incident, new.incident))
        if pair in already:
            continue
        already.add(pair)
        strength: Strength = "strong" if any(item.strength == "strong" for item in matched) else "weak"
        found.append(FoundLink(new, other, strength, tuple(matched)))
    return found


def _close(a: Side, b: Side) -> bool:
    window = limits.WEAK_LINK_WINDOW.total_seconds() * 1000
    return a.rsit == b.rsit and abs(a.happened_ms - b.happened_ms) <= window


def visible_to(member: str, link: FoundLink) -> tuple[Identifier, ...]:
    """The matching identifiers that a member may read in both reports; empty: it must not learn of the link."""
    return tuple(
        item for item in link.matched if _reads(member, link.a) >> item.bit & _reads(member, link.b) >> item.bit & 1
    )


def _reads(member: str, side: Side) -> int:
    if member == side.origin:
        return ALL_UNITS
    grant = side.grants.get(member)
    return grant[0] if grant else 0


def kinds(identifiers: Iterable[Identifier]) -> dict[str, int]:
    """How many of each kind."""
    counted: dict[str, int] = {}
    for item in identifiers:
        counted[item.kind] = counted.get(item.kind, 0) + 1
    return counted


def side_of(row: Any, grants: Mapping[str, Sequence[int]], report_id: str) -> Side:
    """A stored report as linking sees it."""
    return Side(row.seq, row.digest, report_id, row.origin, row.incident_id, row.rsit, row.happened_at, grants)
