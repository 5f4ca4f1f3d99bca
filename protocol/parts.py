"""The pieces that a report's header and body are made of: scalar types, small structs, checks of indicator values.

Guarantees of a struct that was decoded: closed vocabularies, bounded sizes, times with zones, RSIT types of their
class, addresses that are addresses. Refuses: unknown fields, naive times, coarse elements that say more than they may.
"""

from __future__ import annotations

import hashlib
import re
from binascii import Error, a2b_base64
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import AF_INET, AF_INET6, AddressFamily, inet_pton
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol import limits
from protocol import taxonomy as tx

# `$` also matches before a newline at the end; `(?!\n)` takes that back, in Python as in a JSON schema.
Jurisdiction = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{1,30}$(?!\n)")]
LINE_LENGTH: Final = 300
TEXT_LENGTH: Final = 32_768
Line = Annotated[str, Meta(min_length=1, max_length=LINE_LENGTH)]
Text = Annotated[str, Meta(min_length=1, max_length=TEXT_LENGTH)]
Note = Annotated[str, Meta(min_length=1, max_length=2_000)]
Instant = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=10**12)]
Technique = Annotated[str, Meta(pattern=r"^T[0-9]{4}(\.[0-9]{3})?$(?!\n)")]


class Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that travels: frozen, keyword-only, unknown fields refused, absent fields absent."""


# --- header -----------------------------------------------------------------------------------------------------


class Origin(Wire, frozen=True, kw_only=True):
    jurisdiction: Jurisdiction
    member: Jurisdiction


class MadeBy(Wire, frozen=True, kw_only=True):
    """Whether a person or a machine wrote the report; a machine names itself."""

    kind: tx.ToolKind = "person"
    tool: Line | UnsetType = UNSET
    version: Line | UnsetType = UNSET
    model: Line | UnsetType = UNSET


class SharingGroup(Wire, frozen=True, kw_only=True):
    id: UUID
    name: Line


class Marking(Wire, frozen=True, kw_only=True):
    """TLP 2.0 and PAP, and the closer circle if there is one: named recipients (jurisdictions) or a sharing group."""

    tlp: tx.Tlp
    pap: tx.Pap | UnsetType = UNSET
    recipients: Annotated[list[Jurisdiction], Meta(max_length=limits.RECIPIENTS)] | UnsetType = UNSET
    sharing_group: SharingGroup | UnsetType = UNSET
    attribution: Literal["may", "must", "must-not"] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.tlp == "RED" and not self.recipients:
            raise ValueError("recipients-required: TLP:RED is for named recipients; list them in marking.recipients")


class Handling(Wire, frozen=True, kw_only=True):
    regulation: Annotated[list[Line], Meta(max_length=16)] | UnsetType = UNSET
    residency: Annotated[list[Jurisdiction], Meta(max_length=limits.RECIPIENTS)] | UnsetType = UNSET
    expires_at: Instant | UnsetType = UNSET


class Severity(Wire, frozen=True, kw_only=True):
    score: Annotated[int, Meta(ge=0, le=100)]
    method: tx.SeverityMethod = "stix-criticality"


class SectorRef(Wire, frozen=True, kw_only=True):
    """A unified sector code, and the national code that it was filed under if there is one."""

    code: tx.Sector
    scheme: Line | UnsetType = UNSET
    national_code: Line | UnsetType = UNSET


class Rsit(Wire, frozen=True, kw_only=True, rename={"class_": "class"}):
    class_: tx.RsitClass
    type: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.type is not UNSET and self.type not in tx.RSIT[self.class_]:
            known = ", ".join(sorted(tx.RSIT[self.class_]))
            raise ValueError(f"unknown-rsit-type: class {self.class_} has the types {known}")


class CrossBorder(Wire, frozen=True, kw_only=True):
    suspected: bool
    jurisdictions: Annotated[list[Jurisdiction], Meta(max_length=limits.RECIPIENTS)] | UnsetType = UNSET


class Obligation(Wire, frozen=True, kw_only=True):
    regime_id: Line
    clock_start_event: Line | UnsetType = UNSET
    clock_started_at: Instant | UnsetType = UNSET
    due_at: Instant | UnsetType = UNSET


class Exercise(Wire, frozen=True, kw_only=True):
    """Marks drill traffic. Live nodes and brokers refuse it: drills run on subjects, keys and logs of their own."""

    exercise_id: Line
    inject_id: Line | UnsetType = UNSET
    controller: Line | UnsetType = UNSET


# --- body -------------------------------------------------------------------------------------------------------


class TimePoint(Wire, frozen=True, kw_only=True):
    value: Instant
    fidelity: tx.Fidelity = "second"


class Times(Wire, frozen=True, kw_only=True):
    occurred: TimePoint | UnsetType = UNSET
    detected: TimePoint | UnsetType = UNSET
    classified: TimePoint | UnsetType = UNSET
    contained: TimePoint | UnsetType = UNSET
    recovered: TimePoint | UnsetType = UNSET
    ended: TimePoint | UnsetType = UNSET


class Impact(Wire, frozen=True, kw_only=True):
    category: tx.ImpactCategory
    detail: Note | UnsetType = UNSET
    percent: Annotated[int, Meta(ge=0, le=100)] | UnsetType = UNSET
    amount: Count | UnsetType = UNSET
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")] | UnsetType = UNSET


class Victim(Wire, frozen=True, kw_only=True):
    name: Line
    sector: tx.Sector | UnsetType = UNSET
    website: Line | UnsetType = UNSET


class VictimCoarse(Wire, frozen=True, kw_only=True):
    """The victim seen from afar: its sector, or nothing but that there is one."""

    sector: tx.Sector | UnsetType = UNSET


class Geo(Wire, frozen=True, kw_only=True):
    country: Jurisdiction
    region: Line | UnsetType = UNSET
    city: Line | UnsetType = UNSET
    latitude: Annotated[float, Meta(ge=-90, le=90)] | UnsetType = UNSET
    longitude: Annotated[float, Meta(ge=-180, le=180)] | UnsetType = UNSET


class GeoCoarse(Wire, frozen=True, kw_only=True):
    country: Jurisdiction


class Attack(Wire, frozen=True, kw_only=True):
    """An ATT&CK technique in its own matrix: an ICS technique is never read with the Enterprise matrix."""

    technique: Technique
    matrix: tx.AttackMatrix = "enterprise"
    tactic: Annotated[str, Meta(pattern=r"^TA[0-9]{4}$(?!\n)")] | UnsetType = UNSET
    attack_version: Line | UnsetType = UNSET


class Actor(Wire, frozen=True, kw_only=True):
    name: Line
    aliases: Annotated[list[Line], Meta(max_length=32)] | UnsetType = UNSET
    confidence: tx.Confidence | UnsetType = UNSET


class Indicator(Wire, frozen=True, kw_only=True):
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
        if self.level == "coarse" and not self._says_little():
            raise ValueError("invalid-value: a coarse indicator is a network of /24 or /48 at most, alone")

    def _says_little(self) -> bool:
        narrowest = COARSE_PREFIX.get(self.type)
        if narrowest is None or (self.context, self.first_seen, self.last_seen) != (UNSET, UNSET, UNSET):
            return False
        return _spelled_as_network(self.value, narrowest)


class Vulnerability(Wire, frozen=True, kw_only=True):
    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{2,63}$(?!\n)")]
    product: Line | UnsetType = UNSET
    exploited: bool | UnsetType = UNSET


class ThirdParty(Wire, frozen=True, kw_only=True):
    name: Line
    role: Line | UnsetType = UNSET


class RootCauseNote(Wire, frozen=True, kw_only=True):
    category: tx.RootCause
    detail: Note | UnsetType = UNSET


class Ransomware(Wire, frozen=True, kw_only=True):
    family: Line | UnsetType = UNSET
    vector: tx.RansomwareVector | UnsetType = UNSET
    extension: Line | UnsetType = UNSET
    note_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")] | UnsetType = UNSET
    demand_amount: Count | UnsetType = UNSET
    demand_currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")] | UnsetType = UNSET
    paid: bool | UnsetType = UNSET
    data_exfiltrated: bool | UnsetType = UNSET


class Ddos(Wire, frozen=True, kw_only=True):
    techniques: Annotated[list[tx.DdosTechnique], Meta(max_length=8)] | UnsetType = UNSET
    peak_gbps: Annotated[float, Meta(ge=0, le=1e6)] | UnsetType = UNSET
    peak_mpps: Annotated[float, Meta(ge=0, le=1e6)] | UnsetType = UNSET
    duration_minutes: Count | UnsetType = UNSET
    botnet: Line | UnsetType = UNSET


class OperationalTechnology(Wire, frozen=True, kw_only=True):
    """What happened to a physical process; techniques are of ATT&CK for ICS only."""

    process_affected: Note
    safety_impact: tx.SafetyImpact
    physical_impact: tx.PhysicalImpact | UnsetType = UNSET
    assets: Annotated[list[tx.IcsAsset], Meta(max_length=8)] | UnsetType = UNSET
    ics_techniques: Annotated[list[Technique], Meta(max_length=64)] | UnsetType = UNSET


class AiEnabled(Wire, frozen=True, kw_only=True):
    """Use of generative or automated means by the attacker, or against an AI system."""

    means: tx.AiMeans
    detail: Note | UnsetType = UNSET
    confidence: tx.Confidence | UnsetType = UNSET


class Action(Wire, frozen=True, kw_only=True):
    what: Note
    at: Instant | UnsetType = UNSET
    outcome: Note | UnsetType = UNSET


class AssistanceRequest(Wire, frozen=True, kw_only=True):
    kind: tx.Assistance
    detail: Note | UnsetType = UNSET
    jurisdictions: Annotated[list[Jurisdiction], Meta(max_length=limits.RECIPIENTS)] | UnsetType = UNSET


class Contact(Wire, frozen=True, kw_only=True):
    """A person or desk to call. The coarse value keeps the role and drops the person."""

    role: Line
    name: Line | UnsetType = UNSET
    email: Line | UnsetType = UNSET
    phone: Line | UnsetType = UNSET
    hours: Line | UnsetType = UNSET
    level: Literal["coarse"] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.level == "coarse" and (self.name, self.email, self.phone, self.hours) != (UNSET,) * 4:
            raise ValueError("invalid-value: a coarse contact has its role and nothing else")


Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
MEDIA_TYPE: Final = (
    r"^(application|audio|font|image|message|model|multipart|text|video)/[a-z0-9][a-z0-9.+-]{0,100}"
    r"(;[a-z]{1,20}=[a-z0-9.-]{1,40})?$(?!\n)"
)
MediaType = Annotated[str, Meta(pattern=MEDIA_TYPE)]
"""A type of the registry's top-level types, in lower case, with one parameter at most: `text/plain;charset=utf-8`."""


class Attachment(Wire, frozen=True, kw_only=True):
    """A file: named by its hash, and with `content` (base64) in the report itself, or left where it is."""

    sha256: Sha256
    size: Count
    media_type: MediaType
    name: Line | UnsetType = UNSET
    content: Annotated[str, Meta(max_length=-(-limits.ATTACHMENT // 3) * 4)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.content is UNSET:
            return
        try:
            content = a2b_base64(self.content, strict_mode=True)
        except (Error, ValueError) as exc:
            raise ValueError("invalid-value: the content is not base64 with its padding, on one line") from exc
        if len(content) > limits.ATTACHMENT:
            raise ValueError(f"too-large: an attachment has at most {limits.ATTACHMENT} bytes")
        if len(content) != self.size or hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError("invalid-value: size and sha256 are not those of the content")


class Source(Wire, frozen=True, kw_only=True):
    """The document of another format that a report was read from, and what of it has no place in the profile.

    `unmapped` maps a path in that document to the value there, as JSON text. A reader does not trust it: nobody but the
    tool that wrote it knows what it says, and it may be about persons.
    """

    format: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9]{0,15}$(?!\n)")]
    media_type: MediaType
    sha256: Sha256
    size: Count
    unmapped: dict[
        Annotated[str, Meta(min_length=1, max_length=500)],
        Annotated[str, Meta(min_length=1)],
    ] = {}

    def __post_init__(self) -> None:
        size = sum(len(path.encode()) + len(value.encode()) for path, value in self.unmapped.items())
        if size > limits.UNMAPPED:
            raise ValueError(f"too-large: what has no place in the profile is over {limits.UNMAPPED} bytes")
        for value in self.unmapped.values():
            try:
                msgspec.json.decode(value)
            except (msgspec.DecodeError, RecursionError) as exc:
                raise ValueError("invalid-value: an unmapped value is not JSON") from exc


class Related(Wire, frozen=True, kw_only=True):
    """Another report, incident or ticket; `ref` is its identifier where it lives."""

    kind: tx.RelatedKind
    ref: Line


class Reference(Wire, frozen=True, kw_only=True):
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


def _is_address(family: AddressFamily) -> Callable[[str], bool]:
    """The system's parser: no leading zeros, no zones, and ten times as fast as one in Python."""

    def check(value: str) -> bool:
        try:
            inet_pton(family, value)
        except (OSError, ValueError):
            return False
        return True

    return check


@lru_cache(maxsize=4_096)
def _ipv4_network(value: str) -> IPv4Network:
    return IPv4Network(value, strict=False)


@lru_cache(maxsize=4_096)
def _ipv6_network(value: str) -> IPv6Network:
    return IPv6Network(value, strict=False)


def _unscoped(kind: Callable[[str], object]) -> Callable[[str], bool]:
    """IPv6 without a zone: a zone means something on one machine only, and is free text that masking would carry on."""
    parses = _parses(kind)
    return lambda value: "%" not in value and parses(value)


def _hex(digits: int) -> Callable[[str], bool]:
    pattern = re.compile(rf"[0-9a-fA-F]{{{digits}}}")
    return lambda value: pattern.fullmatch(value) is not None


@lru_cache(maxsize=4_096)
def _spelled_as_network(value: str, narrowest: int) -> bool:
    """No host bits, the one spelling that a network has, and no narrower than that."""
    network = ip_network(value, strict=False)
    return network.prefixlen <= narrowest and str(network) == value


COARSE_PREFIX: Final[Mapping[str, int]] = {"ipv4-net": 24, "ipv6-net": 48}
"""The narrowest network that counts as coarse."""

_INDICATOR_CHECKS: Final[Mapping[str, Callable[[str], bool]]] = {
    "ipv4-addr": _is_address(AF_INET),
    "ipv6-addr": _is_address(AF_INET6),
    "ipv4-net": _parses(_ipv4_network),
    "ipv6-net": _unscoped(_ipv6_network),
    "md5": _hex(32),
    "sha1": _hex(40),
    "sha256": _hex(64),
    "sha512": _hex(128),
    "x509-sha256": _hex(64),
}
"""An address filed as an address can be made coarse; one that is not an address must not slip through as one."""


_DEFANG: Final = re.compile(r"\[(\.|:|dot|at)\]|\((\.|dot|at)\)", re.IGNORECASE)


def refang(value: str) -> str:
    """Undo the usual ways of making an indicator unclickable: `hxxp://evil[.]example` becomes `http://evil.example`."""

    value = value.strip()
    if "[" not in value and "(" not in value and value[:4].lower() != "hxxp":
        return value

    def plain(match: re.Match[str]) -> str:
        token = (match.group(1) or match.group(2)).lower()
        return {"dot": ".", "at": "@"}.get(token, token)

    value = _DEFANG.sub(plain, value)
    return re.sub(r"^hxxp", "http", value, flags=re.IGNORECASE)
