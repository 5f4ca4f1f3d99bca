"""The report profile: what an incident report may say, and how each part may be released.

Guarantees: a `Report` that exists is valid (closed vocabularies, bounded sizes, times with zones, RSIT types of
their class). Every body field declares its *disclosure unit* beside its type: the data class that policies select
(`@personal`, `@victim` …) and, for lists, that each element is released on its own. Refuses: unknown fields, anything
over its limit, naive times.

The header is what the broker routes by. It is disclosed to every recipient of the report as a whole, so it holds no
victim data. The body is released unit by unit. The pieces that both are made of are in `parts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol import limits
from protocol import taxonomy as tx
from protocol.parts import (
    Action,
    Actor,
    AiEnabled,
    AssistanceRequest,
    Attachment,
    Attack,
    Contact,
    Count,
    CrossBorder,
    Ddos,
    Exercise,
    Geo,
    GeoCoarse,
    Handling,
    Impact,
    Indicator,
    Instant,
    Jurisdiction,
    Line,
    MadeBy,
    Marking,
    Note,
    Obligation,
    OperationalTechnology,
    Origin,
    Ransomware,
    Reference,
    Related,
    RootCauseNote,
    Rsit,
    SectorRef,
    Severity,
    SharingGroup,
    Source,
    Technique,
    Text,
    ThirdParty,
    TimePoint,
    Times,
    Victim,
    VictimCoarse,
    Vulnerability,
    Wire,
    refang,
)

__all__ = [
    "ALL_UNITS",
    "COARSE_SUFFIX",
    "COARSE_UNITS",
    "HEADER_UNIT",
    "INDICATOR_PARTS",
    "NAMED_ONLY",
    "SCHEMA",
    "UNITS",
    "UNIT_BIT",
    "UNIT_NAMES",
    "Action",
    "Actor",
    "AiEnabled",
    "AssistanceRequest",
    "Attachment",
    "Attack",
    "Body",
    "CoarseBody",
    "Contact",
    "Count",
    "CrossBorder",
    "DataClass",
    "Ddos",
    "Digest",
    "Exercise",
    "Filing",
    "Geo",
    "GeoCoarse",
    "Handling",
    "Header",
    "Impact",
    "Indicator",
    "Instant",
    "Jurisdiction",
    "Line",
    "MadeBy",
    "Marking",
    "Note",
    "Obligation",
    "OperationalTechnology",
    "Origin",
    "Ransomware",
    "Reference",
    "Related",
    "Report",
    "RootCauseNote",
    "Rsit",
    "SectorRef",
    "Severity",
    "SharingGroup",
    "Source",
    "Technique",
    "Text",
    "ThirdParty",
    "TimePoint",
    "Times",
    "Unit",
    "Victim",
    "VictimCoarse",
    "Vulnerability",
    "json_encode",
    "part_of",
    "refang",
    "unit_of",
]

DataClass = Literal[
    "narrative",
    "assessment",
    "technical",
    "attribution",
    "victim",
    "location",
    "personal",
    "financial",
    "operational",
    "source",
]
"""What a unit can reveal; a policy selects all units of a class with `@class`.

`source` is what nobody can tell: files, and what another tool wrote beyond the profile. It may hold what any other
class is about, so that no other class, nor `*`, releases it.
"""

SCHEMA: Final = "kentongan-report/1"


class Unit(Struct, frozen=True):
    """How one body field is released: its data class, whether elements stand alone, whether there is a coarse value."""

    data: DataClass
    each: bool = False
    coarse: bool = False


def _unit(data: DataClass, *, each: bool = False, coarse: bool = False) -> Meta:
    return Meta(extra={"unit": Unit(data, each, coarse)})


_few = Meta(max_length=64)
_many = Meta(max_length=limits.LIST_ELEMENTS)


class Body(Wire, frozen=True, kw_only=True):
    """What is released unit by unit. The annotation of each field is the only place that says how."""

    title: Annotated[Line | UnsetType, _unit("narrative", coarse=True)] = UNSET
    description: Annotated[Text | UnsetType, _unit("narrative", coarse=True)] = UNSET
    status: Annotated[tx.Status | UnsetType, _unit("assessment")] = UNSET
    determination: Annotated[tx.Determination | UnsetType, _unit("assessment")] = UNSET
    confidence: Annotated[tx.Confidence | UnsetType, _unit("assessment")] = UNSET
    times: Annotated[Times | UnsetType, _unit("assessment", coarse=True)] = UNSET
    detection_methods: Annotated[Annotated[list[tx.DetectionMethod], _few] | UnsetType, _unit("assessment")] = UNSET
    impacts: Annotated[Annotated[list[Impact], _few] | UnsetType, _unit("assessment", each=True)] = UNSET
    services: Annotated[Annotated[list[Line], _few] | UnsetType, _unit("victim")] = UNSET
    entity_counts: Annotated[
        Annotated[dict[tx.EntityKind, Count], Meta(min_length=1)] | UnsetType, _unit("assessment", coarse=True)
    ] = UNSET
    victim: Annotated[Victim | UnsetType, _unit("victim", coarse=True)] = UNSET
    geo: Annotated[Geo | UnsetType, _unit("location", coarse=True)] = UNSET
    attack: Annotated[Annotated[list[Attack], _many] | UnsetType, _unit("technical", each=True)] = UNSET
    actor: Annotated[Actor | UnsetType, _unit("attribution")] = UNSET
    malware: Annotated[Annotated[list[Line], _few] | UnsetType, _unit("technical")] = UNSET
    indicators: Annotated[Annotated[list[Indicator], _many] | UnsetType, _unit("technical", each=True, coarse=True)] = (
        UNSET
    )
    vulnerabilities: Annotated[Annotated[list[Vulnerability], _many] | UnsetType, _unit("technical", each=True)] = UNSET
    third_party: Annotated[ThirdParty | UnsetType, _unit("victim")] = UNSET
    root_cause: Annotated[RootCauseNote | UnsetType, _unit("assessment")] = UNSET
    ransomware: Annotated[Ransomware | UnsetType, _unit("technical")] = UNSET
    ddos: Annotated[Ddos | UnsetType, _unit("technical")] = UNSET
    ot: Annotated[OperationalTechnology | UnsetType, _unit("operational")] = UNSET
    ai_enabled: Annotated[Annotated[list[AiEnabled], _few] | UnsetType, _unit("technical")] = UNSET
    actions: Annotated[Annotated[list[Action], _many] | UnsetType, _unit("operational", each=True)] = UNSET
    assistance_requested: Annotated[
        Annotated[list[AssistanceRequest], _few] | UnsetType, _unit("operational", each=True)
    ] = UNSET
    contacts: Annotated[Annotated[list[Contact], _few] | UnsetType, _unit("personal", each=True, coarse=True)] = UNSET
    financial_loss: Annotated[Impact | UnsetType, _unit("financial")] = UNSET
    attachments: Annotated[Annotated[list[Attachment], _few] | UnsetType, _unit("technical", each=True)] = UNSET
    related: Annotated[Annotated[list[Related], _few] | UnsetType, _unit("operational", each=True)] = UNSET
    references: Annotated[Annotated[list[Reference], _few] | UnsetType, _unit("narrative")] = UNSET
    source: Annotated[Source | UnsetType, _unit("source")] = UNSET


class CoarseBody(Wire, frozen=True, kw_only=True):
    """The coarse stand-ins of top-level fields; coarse list elements stand in their list, marked `level: coarse`."""

    title_coarse: Line | UnsetType = UNSET
    description_coarse: Text | UnsetType = UNSET
    times_coarse: Times | UnsetType = UNSET
    entity_counts_coarse: dict[tx.EntityKind, Line] | UnsetType = UNSET
    victim_coarse: VictimCoarse | UnsetType = UNSET
    geo_coarse: GeoCoarse | UnsetType = UNSET


class _Said(Wire, frozen=True, kw_only=True):
    """The header fields that a filer may state."""

    marking: Marking
    rsit: Annotated[list[Rsit], Meta(min_length=1, max_length=16)]
    severity: Severity | UnsetType = UNSET
    sectors: Annotated[list[SectorRef], Meta(max_length=16)] | UnsetType = UNSET
    phase: tx.Phase = "initial"
    purpose: tx.Purpose = "reporting"
    cross_border: CrossBorder | UnsetType = UNSET
    handling: Handling | UnsetType = UNSET
    obligation: Obligation | UnsetType = UNSET
    exercise: Exercise | UnsetType = UNSET
    made_by: MadeBy | UnsetType = UNSET


class Filing(_Said, frozen=True, kw_only=True):
    """A report as a person or tool posts it; what is left out of the identity the node fills in."""

    report_id: UUID | UnsetType = UNSET
    incident_id: UUID | UnsetType = UNSET
    revision: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType = UNSET
    body: Body = Body()


Digest = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$(?!\n)")]


class Header(_Said, frozen=True, kw_only=True):
    """What is signed as the header: a filing's statements, with identity, origin and time set by the origin's node."""

    schema: Literal["kentongan-report/1"]
    report_id: UUID
    incident_id: UUID
    revision: Annotated[int, Meta(ge=1, le=100_000)]
    origin: Origin
    issued_at: Instant
    fingerprint: Annotated[str, Meta(pattern=r"^[!-~]{16,64}$(?!\n)")]
    supersedes: Digest | UnsetType = UNSET
    sealed: Digest | UnsetType = UNSET
    """The box (`sealing`) that holds this report's body; set by the origin's node, never by a filer."""


class Report(Struct, frozen=True, kw_only=True):
    """A header and the body it covers, as the origin's node signs it."""

    header: Header
    body: Body


COARSE_SUFFIX: Final = "_coarse"


def _units() -> dict[str, Unit]:
    found: dict[str, Unit] = {}
    for name, hint in get_type_hints(Body, include_extras=True).items():
        for meta in getattr(hint, "__metadata__", ()):
            if meta.extra and "unit" in meta.extra:
                found[name] = meta.extra["unit"]
    missing = set(Body.__struct_fields__) - set(found)
    if missing:
        raise TypeError(f"body fields without a disclosure unit: {sorted(missing)}")
    return found


UNITS: Final[Mapping[str, Unit]] = _units()
"""Every body field with its disclosure unit, read from the annotations above."""

_INDICATOR_PART: Final[dict[str, str]] = {
    **dict.fromkeys(("ipv4-addr", "ipv6-addr", "ipv4-net", "ipv6-net", "asn"), "address"),
    **dict.fromkeys(("domain-name", "hostname", "url"), "domain"),
    **dict.fromkeys(("md5", "sha1", "sha256", "sha512", "ssdeep", "file-name", "x509-sha256"), "file"),
    **dict.fromkeys(("email-addr", "user-account"), "account"),
    **dict.fromkeys(("mutex", "registry-key", "user-agent", "wallet", "other"), "other"),
}
assert set(_INDICATOR_PART) == set(get_args(tx.IndicatorType))  # noqa: S101 - a gap here must stop the import

INDICATOR_PARTS: Final = ("address", "domain", "file", "account", "other")


def part_of(field: str, element: Mapping[str, Any]) -> str:
    """The unit name of a list element: indicators are told apart by what they can reveal, attachments by whether the
    file itself is there, other lists are not."""
    if field == "indicators":
        kind = element.get("type")
        part = _INDICATOR_PART.get(kind) if isinstance(kind, str) else None
        return f"indicators.{part}" if part else "indicators.unknown"
    if field == "attachments" and "content" in element:
        return _CONTENT
    return field


_CONTENT: Final = "attachments.content"
HEADER_UNIT: Final = "report"
"""The header as a unit of its own: without it nothing of a report is released."""

UNIT_NAMES: Final[tuple[str, ...]] = (
    HEADER_UNIT,
    *(
        name
        for field in UNITS
        for name in ([f"indicators.{part}" for part in INDICATOR_PARTS] if field == "indicators" else [field])
    ),
    _CONTENT,
)
"""All units that a policy can name, in the order of their bits. Ledgers hold these bits: only ever append."""

UNIT_BIT: Final[Mapping[str, int]] = {name: bit for bit, name in enumerate(UNIT_NAMES)}
ALL_UNITS: Final = (1 << len(UNIT_NAMES)) - 1


def unit_of(name: str) -> Unit:
    """The declaration behind a unit name; the header counts as operational."""
    if name == _CONTENT:
        return Unit("source", each=True)
    return Unit("operational") if name == HEADER_UNIT else UNITS[name.partition(".")[0]]


NAMED_ONLY: Final = sum(1 << bit for name, bit in UNIT_BIT.items() if unit_of(name).data == "source")
"""The units that an allow rule releases only if it names them, or their class: `*` does not."""


COARSE_UNITS: Final = sum(
    1 << bit
    for name, bit in UNIT_BIT.items()
    if name in ("indicators.address",) or (not name.startswith("indicators.") and unit_of(name).coarse)
)
"""The units that have a coarse value; for all others, only the exact value can travel."""


json_encode: Final = msgspec.json.Encoder(order="deterministic").encode
