"""The report profile: what an incident report may say, and how each part may be released.

Guarantees: a `Report` that exists is valid (closed vocabularies, bounded sizes, times with zones, RSIT types of
their class). Every body field declares its *disclosure unit* beside its type: the data class that policies select
(`@personal`, `@victim` …) and, for lists, that each element is released on its own. Refuses: unknown fields, anything
over its limit, naive times.

The header is what the broker routes by. It is disclosed to every recipient of the report as a whole, so it holds no
victim data. The body is released unit by unit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol import limits
from protocol import taxonomy as tx

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
]
"""What a unit can reveal; a policy selects all units of a class with `@class`."""

SCHEMA: Final = "kentongan-report/1"


class Unit(Struct, frozen=True):
    """How one body field is released: its data class, whether elements stand alone, whether there is a coarse value."""

    data: DataClass
    each: bool = False
    coarse: bool = False


def _unit(data: DataClass, *, each: bool = False, coarse: bool = False) -> Meta:
    return Meta(extra={"unit": Unit(data, each, coarse)})


Jurisdiction = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{1,30}$")]
Line = Annotated[str, Meta(min_length=1, max_length=300)]
Text = Annotated[str, Meta(min_length=1, max_length=32_768)]
Note = Annotated[str, Meta(min_length=1, max_length=2_000)]
Instant = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=10**12)]
Technique = Annotated[str, Meta(pattern=r"^T[0-9]{4}(\.[0-9]{3})?$")]


class _Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that travels: frozen, keyword-only, unknown fields refused, absent fields absent."""


# --- header -----------------------------------------------------------------------------------------------------


class Origin(_Wire, frozen=True, kw_only=True):
    jurisdiction: Jurisdiction
    member: Jurisdiction


class MadeBy(_Wire, frozen=True, kw_only=True):
    """Whether a person or a machine wrote the report; a machine names itself."""

    kind: tx.ToolKind = "person"
    tool: Line | UnsetType = UNSET
    version: Line | UnsetType = UNSET
    model: Line | UnsetType = UNSET


class SharingGroup(_Wire, frozen=True, kw_only=True):
    id: UUID
    name: Line


class Marking(_Wire, frozen=True, kw_only=True):
    """TLP 2.0 and PAP, and the closer circle if there is one: named recipients (jurisdictions) or a sharing group."""

    tlp: tx.Tlp
    pap: tx.Pap | UnsetType = UNSET
    recipients: Annotated[list[Jurisdiction], Meta(max_length=limits.RECIPIENTS)] | UnsetType = UNSET
    sharing_group: SharingGroup | UnsetType = UNSET
    attribution: Literal["may", "must", "must-not"] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.tlp == "RED" and not self.recipients:
            raise ValueError("recipients-required: TLP:RED is for named recipients; list them in marking.recipients")


class Handling(_Wire, frozen=True, kw_only=True):
    regulation: Annotated[list[Line], Meta(max_length=16)] | UnsetType = UNSET
    residency: Annotated[list[Jurisdiction], Meta(max_length=limits.RECIPIENTS)] | UnsetType = UNSET
    expires_at: Instant | UnsetType = UNSET


class Severity(_Wire, frozen=True, kw_only=True):
    score: Annotated[int, Meta(ge=0, le=100)]
    method: tx.SeverityMethod = "stix-criticality"


class SectorRef(_Wire, frozen=True, kw_only=True):
    """A unified sector code, and the national code that it was filed under if there is one."""

    code: tx.Sector
    scheme: Line | UnsetType = UNSET
    national_code: Line | UnsetType = UNSET


class Rsit(_Wire, frozen=True, kw_only=True, rename={"class_": "class"}):
    class_: tx.RsitClass
    type: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.type is not UNSET and self.type not in tx.RSIT[self.class_]:
            known = ", ".join(sorted(tx.RSIT[self.class_]))
            raise ValueError(f"unknown-rsit-type: class {self.class_} has the types {known}")


class CrossBorder(_Wire, frozen=True, kw_only=True):
    suspected: bool
    jurisdictions: Annotated[list[Jurisdiction], Meta(max_length=limits.RECIPIENTS)] | UnsetType = UNSET


class Obligation(_Wire, frozen=True, kw_only=True):
    regime_id: Line
    clock_start_event: Line | UnsetType = UNSET
    clock_started_at: Instant | UnsetType = UNSET
    due_at: Instant | UnsetType = UNSET


class Exercise(_Wire, frozen=True, kw_only=True):
    """Marks drill traffic. Live nodes and brokers refuse it: drills run on subjects, keys and logs of their own."""

    exercise_id: Line
    inject_id: Line | UnsetType = UNSET
    controller: Line | UnsetType = UNSET


# --- body -------------------------------------------------------------------------------------------------------


class TimePoint(_Wire, frozen=True, kw_only=True):
    value: Instant
    fidelity: tx.Fidelity = "second"


class Times(_Wire, frozen=True, kw_only=True):
    occurred: TimePoint | UnsetType = UNSET
    detected: TimePoint | UnsetType = UNSET
    classified: TimePoint | UnsetType = UNSET
    contained: TimePoint | UnsetType = UNSET
    recovered: TimePoint | UnsetType = UNSET
    ended: TimePoint | UnsetType = UNSET


class Impact(_Wire, frozen=True, kw_only=True):
    category: tx.ImpactCategory
    detail: Note | UnsetType = UNSET
    percent: Annotated[int, Meta(ge=0, le=100)] | UnsetType = UNSET
    amount: Count | UnsetType = UNSET
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")] | UnsetType = UNSET


class Victim(_Wire, frozen=True, kw_only=True):
    name: Line
    sector: tx.Sector | UnsetType = UNSET
    website: Line | UnsetType = UNSET


class VictimCoarse(_Wire, frozen=True, kw_only=True):
    """The victim seen from afar: its sector, or nothing but that there is one."""

    sector: tx.Sector | UnsetType = UNSET


class Geo(_Wire, frozen=True, kw_only=True):
    country: Jurisdiction
    region: Line | UnsetType = UNSET
    city: Line | UnsetType = UNSET
    latitude: Annotated[float, Meta(ge=-90, le=90)] | UnsetType = UNSET
    longitude: Annotated[float, Meta(ge=-180, le=180)] | UnsetType = UNSET


class GeoCoarse(_Wire, frozen=True, kw_only=True):
    country: Jurisdiction


class Attack(_Wire, frozen=True, kw_only=True):
    """An ATT&CK technique in its own matrix: an ICS technique is never read with the Enterprise matrix."""

    technique: Technique
    matrix: tx.AttackMatrix = "enterprise"
    tactic: Annotated[str, Meta(pattern=r"^TA[0-9]{4}$")] | UnsetType = UNSET
    attack_version: Line | UnsetType = UNSET


class Actor(_Wire, frozen=True, kw_only=True):
    name: Line
    aliases: Annotated[list[Line], Meta(max_length=32)] | UnsetType = UNSET
    confidence: tx.Confidence | UnsetType = UNSET


class Indicator(_Wire, frozen=True, kw_only=True):
    """One observable value. `level: coarse` marks a signed coarser value that stands in for an exact one."""

    type: tx.IndicatorType
    value: Annotated[str, Meta(min_length=1, max_length=2_048)]
    context: Note | UnsetType = UNSET
    first_seen: Instant | UnsetType = UNSET
    last_seen: Instant | UnsetType = UNSET
    level: Literal["coarse"] | UnsetType = UNSET

    def __post_init__(self) -> None:
        check = _INDICATOR_CHECKS.get(self.type)
        if check is not None and not check(refang(self.value)):
            raise ValueError(f"invalid-value: the value is not of the type {self.type}")


class Vulnerability(_Wire, frozen=True, kw_only=True):
    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{2,63}$")]
    product: Line | UnsetType = UNSET
    exploited: bool | UnsetType = UNSET


class ThirdParty(_Wire, frozen=True, kw_only=True):
    name: Line
    role: Line | UnsetType = UNSET


class RootCauseNote(_Wire, frozen=True, kw_only=True):
    category: tx.RootCause
    detail: Note | UnsetType = UNSET


class Ransomware(_Wire, frozen=True, kw_only=True):
    family: Line | UnsetType = UNSET
    vector: tx.RansomwareVector | UnsetType = UNSET
    extension: Line | UnsetType = UNSET
    note_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | UnsetType = UNSET
    demand_amount: Count | UnsetType = UNSET
    demand_currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")] | UnsetType = UNSET
    paid: bool | UnsetType = UNSET
    data_exfiltrated: bool | UnsetType = UNSET


class Ddos(_Wire, frozen=True, kw_only=True):
    techniques: Annotated[list[tx.DdosTechnique], Meta(max_length=8)] | UnsetType = UNSET
    peak_gbps: Annotated[float, Meta(ge=0, le=1e6)] | UnsetType = UNSET
    peak_mpps: Annotated[float, Meta(ge=0, le=1e6)] | UnsetType = UNSET
    duration_minutes: Count | UnsetType = UNSET
    botnet: Line | UnsetType = UNSET


class OperationalTechnology(_Wire, frozen=True, kw_only=True):
    """What happened to a physical process; techniques are of ATT&CK for ICS only."""

    process_affected: Note
    safety_impact: tx.SafetyImpact
    physical_impact: tx.PhysicalImpact | UnsetType = UNSET
    assets: Annotated[list[tx.IcsAsset], Meta(max_length=8)] | UnsetType = UNSET
    ics_techniques: Annotated[list[Technique], Meta(max_length=64)] | UnsetType = UNSET


class AiEnabled(_Wire, frozen=True, kw_only=True):
    """Use of generative or automated means by the attacker, or against an AI system."""

    means: tx.AiMeans
    detail: Note | UnsetType = UNSET
    confidence: tx.Confidence | UnsetType = UNSET


class Action(_Wire, frozen=True, kw_only=True):
    what: Note
    at: Instant | UnsetType = UNSET
    outcome: Note | UnsetType = UNSET


class AssistanceRequest(_Wire, frozen=True, kw_only=True):
    kind: tx.Assistance
    detail: Note | UnsetType = UNSET
    jurisdictions: Annotated[list[Jurisdiction], Meta(max_length=limits.RECIPIENTS)] | UnsetType = UNSET


class Contact(_Wire, frozen=True, kw_only=True):
    """A person or desk to call. The coarse value keeps the role and drops the person."""

    role: Line
    name: Line | UnsetType = UNSET
    email: Line | UnsetType = UNSET
    phone: Line | UnsetType = UNSET
    hours: Line | UnsetType = UNSET
    level: Literal["coarse"] | UnsetType = UNSET


class Attachment(_Wire, frozen=True, kw_only=True):
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    size: Count
    media_type: Line
    name: Line | UnsetType = UNSET


class Related(_Wire, frozen=True, kw_only=True):
    """Another report, incident or ticket; `ref` is its identifier where it lives."""

    kind: tx.RelatedKind
    ref: Line


class Reference(_Wire, frozen=True, kw_only=True):
    title: Line
    url: Annotated[str, Meta(min_length=1, max_length=2_048)] | UnsetType = UNSET


def _parses(kind: Callable[[str], object]) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        try:
            kind(value)
        except ValueError:
            return False
        return True

    return check


def _hex(digits: int) -> Callable[[str], bool]:
    pattern = re.compile(rf"[0-9a-fA-F]{{{digits}}}")
    return lambda value: pattern.fullmatch(value) is not None


_INDICATOR_CHECKS: Final[Mapping[str, Callable[[str], bool]]] = {
    "ipv4-addr": _parses(IPv4Address),
    "ipv6-addr": _parses(IPv6Address),
    "ipv4-net": _parses(lambda value: IPv4Network(value, strict=False)),
    "ipv6-net": _parses(lambda value: IPv6Network(value, strict=False)),
    "md5": _hex(32),
    "sha1": _hex(40),
    "sha256": _hex(64),
    "sha512": _hex(128),
    "x509-sha256": _hex(64),
}
"""An address filed as an address can be made coarse; one that is not an address must not slip through as one."""

_few = Meta(max_length=64)
_many = Meta(max_length=limits.LIST_ELEMENTS)


class Body(_Wire, frozen=True, kw_only=True):
    """What is released unit by unit. The annotation of each field is the only place that says how."""

    title: Annotated[Line | UnsetType, _unit("narrative")] = UNSET
    description: Annotated[Text | UnsetType, _unit("narrative")] = UNSET
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


class CoarseBody(_Wire, frozen=True, kw_only=True):
    """The coarse stand-ins of top-level fields; coarse list elements stand in their list, marked `level: coarse`."""

    times_coarse: Times | UnsetType = UNSET
    entity_counts_coarse: dict[tx.EntityKind, Line] | UnsetType = UNSET
    victim_coarse: VictimCoarse | UnsetType = UNSET
    geo_coarse: GeoCoarse | UnsetType = UNSET


class _Said(_Wire, frozen=True, kw_only=True):
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


Digest = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$")]


class Header(_Said, frozen=True, kw_only=True):
    """What is signed as the header: a filing's statements, with identity, origin and time set by the origin's node."""

    schema: Literal["kentongan-report/1"]
    report_id: UUID
    incident_id: UUID
    revision: Annotated[int, Meta(ge=1, le=100_000)]
    origin: Origin
    issued_at: Instant
    fingerprint: Annotated[str, Meta(min_length=16, max_length=64)]
    supersedes: Digest | UnsetType = UNSET


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
    """The unit name of a list element: `indicators` are told apart by what they can reveal, other lists are not."""
    if field == "indicators":
        part = _INDICATOR_PART.get(str(element.get("type")))
        return f"indicators.{part}" if part else "indicators.unknown"
    return field


HEADER_UNIT: Final = "report"
"""The header as a unit of its own: without it nothing of a report is released."""

UNIT_NAMES: Final[tuple[str, ...]] = (
    HEADER_UNIT,
    *(
        name
        for field in UNITS
        for name in ([f"indicators.{part}" for part in INDICATOR_PARTS] if field == "indicators" else [field])
    ),
)
"""All units that a policy can name, in the order of their bits. Ledgers hold these bits: only ever append."""

UNIT_BIT: Final[Mapping[str, int]] = {name: bit for bit, name in enumerate(UNIT_NAMES)}
ALL_UNITS: Final = (1 << len(UNIT_NAMES)) - 1


def unit_of(name: str) -> Unit:
    """The declaration behind a unit name; the header counts as operational."""
    return Unit("operational") if name == HEADER_UNIT else UNITS[name.partition(".")[0]]


COARSE_UNITS: Final = sum(
    1 << bit
    for name, bit in UNIT_BIT.items()
    if name in ("indicators.address",) or (not name.startswith("indicators.") and unit_of(name).coarse)
)
"""The units that have a coarse value; for all others, only the exact value can travel."""


_DEFANG: Final = re.compile(r"\[(\.|:|dot|at)\]|\((\.|dot|at)\)", re.IGNORECASE)


def refang(value: str) -> str:
    """Undo the usual ways of making an indicator unclickable: `hxxp://evil[.]example` becomes `http://evil.example`."""

    def plain(match: re.Match[str]) -> str:
        token = (match.group(1) or match.group(2)).lower()
        return {"dot": ".", "at": "@"}.get(token, token)

    value = _DEFANG.sub(plain, value.strip())
    return re.sub(r"^hxxp", "http", value, flags=re.IGNORECASE)


json_encode: Final = msgspec.json.Encoder(order="deterministic").encode
