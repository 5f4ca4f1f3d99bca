"""Coarser values of what can identify somebody, computed by the origin and signed beside the exact ones.

Guarantees: a coarse value never says more than its exact one, and is the same for the same input. Policy picks which
of the two travels; nobody but the origin ever computes one, so every recipient reads a value that the origin signed.
That of a text is the text without personal data (`personal`); it is signed where nothing was found, too.
"""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

from msgspec import UNSET, UnsetType

from protocol.parts import LINE_LENGTH
from protocol.personal import mask, names_in
from protocol.report import (
    Body,
    CoarseBody,
    Contact,
    Geo,
    GeoCoarse,
    Indicator,
    TimePoint,
    Times,
    Victim,
    VictimCoarse,
    refang,
)
from protocol.taxonomy import EntityKind

_WIDER: Final = {"ipv4-net": 16, "ipv6-net": 32}


def indicator(exact: Indicator) -> Indicator | None:
    """An address as its /24 or /48, a network as its /16 or /32; None if there is nothing coarser to say."""
    try:
        if exact.type == "ipv4-addr":
            address = inet_pton(AF_INET, refang(exact.value))
            return Indicator(type="ipv4-net", value=inet_ntop(AF_INET, address[:3] + b"\0") + "/24", level="coarse")
        if exact.type == "ipv6-addr":
            address = inet_pton(AF_INET6, refang(exact.value))
            return Indicator(
                type="ipv6-net", value=inet_ntop(AF_INET6, address[:6] + bytes(10)) + "/48", level="coarse"
            )
        if exact.type in _WIDER:
            given = ip_network(refang(exact.value), strict=False)
            network = given.supernet(new_prefix=min(given.prefixlen, _WIDER[exact.type]))
            return Indicator(type=exact.type, value=str(network), level="coarse")
    except (OSError, ValueError):
        return None
    return None


def contact(exact: Contact) -> Contact:
    """Whom to ask for, without saying who that is."""
    return Contact(role=exact.role, level="coarse")


def _day(point: TimePoint | UnsetType) -> TimePoint | UnsetType:
    if point is UNSET:
        return point
    # Whatever the stated fidelity, the value may hold the second.
    value: datetime = point.value.replace(hour=0, minute=0, second=0, microsecond=0)
    return TimePoint(value=value, fidelity=point.fidelity if point.fidelity in ("year", "month") else "day")


def times(exact: Times) -> Times:
    """The same times to the day, in the time zone in which they were filed."""
    return Times(
        occurred=_day(exact.occurred),
        detected=_day(exact.detected),
        classified=_day(exact.classified),
        contained=_day(exact.contained),
        recovered=_day(exact.recovered),
        ended=_day(exact.ended),
    )


_BANDS: Final = ((0, "0"), (9, "1-9"), (99, "10-99"), (999, "100-999"), (9_999, "1000-9999"), (99_999, "10000-99999"))


def band(count: int) -> str:
    """A count as its power of ten: `100-999`, and everything from 100,000 as `100000+`."""
    for top, name in _BANDS:
        if count <= top:
            return name
    return "100000+"


def counts(exact: dict[EntityKind, int]) -> dict[EntityKind, str]:
    """Counts as bands."""
    return {kind: band(count) for kind, count in exact.items()}


def victim(exact: Victim) -> VictimCoarse:
    """The victim's sector."""
    return VictimCoarse(sector=exact.sector)


def geo(exact: Geo) -> GeoCoarse:
    """The country."""
    return GeoCoarse(country=exact.country)


def coarse_body(body: Body) -> CoarseBody:
    """The coarse stand-ins of all top-level fields that have one."""
    names = names_in(body) if body.title is not UNSET or body.description is not UNSET else {}
    return CoarseBody(
        title_coarse=mask(body.title, names, LINE_LENGTH) if body.title is not UNSET else UNSET,
        description_coarse=mask(body.description, names) if body.description is not UNSET else UNSET,
        times_coarse=times(body.times) if body.times is not UNSET else UNSET,
        entity_counts_coarse=counts(body.entity_counts) if body.entity_counts is not UNSET else UNSET,
        victim_coarse=victim(body.victim) if body.victim is not UNSET else UNSET,
        geo_coarse=geo(body.geo) if body.geo is not UNSET else UNSET,
    )


def coarse_elements(body: Body) -> dict[str, list[Indicator] | list[Contact]]:
    """The coarse stand-ins of list elements, by list."""
    found: dict[str, list[Indicator] | list[Contact]] = {}
    if body.indicators is not UNSET:
        seen: dict[str, Indicator] = {}
        for exact in body.indicators:
            wide = indicator(exact)
            if wide is not None:
                seen.setdefault(wide.value, wide)
        found["indicators"] = list(seen.values())
    if body.contacts is not UNSET:
        found["contacts"] = list({c.role: contact(c) for c in body.contacts}.values())
    return found
