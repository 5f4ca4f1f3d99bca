"""What the words and values of foreign formats mean in a report: markings, RSIT, severity, confidence, indicators.

Pure. Readers decide by these functions what is an indicator. The rule of all of them: an address, name or account is
filed as one only if the document says that it is the attacker's (a source, an indicator). What belongs to a target has
no place in a report but in its victim; it stays at the node that read it, as unmapped. So do addresses of private
networks. A marking that cannot be understood may be the strictest one, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address, ip_network, summarize_address_range
from typing import Any, Final

from node.formats.foreign import Defaults
from node.formats.taking import Draft, Spot, valid
from protocol.errors import ProtocolError
from protocol.parse import convert
from protocol.parts import Indicator, Instant, MadeBy, Marking, Reference, Related, Rsit, Vulnerability, refang
from protocol.reasons import Reason

_NETWORKS_OF_A_RANGE: Final = 16

UNNAMED: Final = "unnamed"
"""The exercise of what is merely said to be a test."""

# --- markings ---------------------------------------------------------------------------------------------------

_RANKS: Final = {"CLEAR": 0, "GREEN": 1, "AMBER": 2, "AMBER+STRICT": 3, "RED": 4}
_LABELS: Final = {**{name: name for name in _RANKS}, "WHITE": "CLEAR", "AMBER STRICT": "AMBER+STRICT"}


def tlp_of(text: str) -> str | None:
    """A TLP label however it is spelt, `white` as CLEAR; None if it is none."""
    plain = text.strip().upper().removeprefix("TLP:").strip().strip('"')
    return _LABELS.get(re.sub(r"[_ -]+", " ", plain)) or _LABELS.get(plain)


def strictness(tlp: str) -> int:
    """Labels in order: the stricter, the higher."""
    return _RANKS[tlp]


def tlp_at(spot: Spot) -> str | None:
    """The label that stands at a place, if any does; one that cannot be understood may be the strictest: refused."""
    if spot.value in (None, ""):
        return None
    label = tlp_of(spot.value) if isinstance(spot.value, str) else None
    if label is None:
        raise ProtocolError(Reason.UNKNOWN_VALUE, spot.at, f"not a TLP label; {', '.join(_RANKS)} are")
    spot.take()
    return label


def marked(
    said: Iterable[str | None], defaults: Defaults, spot: Spot, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The marking of an item: the strictest of the labels it has, or else the default one.

    What the default says besides its label (named recipients, sharing group, PAP) holds unless the item says otherwise
    with `more`. `ProtocolError` if there is neither, or if the label is RED and nobody says for whom.
    """
    labels = [label for label in said if label]
    marking = {**(defaults.marking or {}), **(more or {})}
    if labels:
        marking["tlp"] = max(labels, key=strictness)
    if "tlp" not in marking:
        raise ProtocolError(
            Reason.MISSING_FIELD, f"{spot.at}.marking", "the item has no TLP marking, and no default was given for such"
        )
    if marking["tlp"] == "RED" and not marking.get("recipients"):
        raise ProtocolError(
            Reason.RECIPIENTS_REQUIRED, spot.at, "the item is TLP:RED: give a default marking with its recipients"
        )
    convert(marking, Marking, f"{spot.at}.marking")
    return marking


# --- what values mean -------------------------------------------------------------------------------------------

_TAG: Final = re.compile(r'rsit:(?P<class>[a-z-]+)(?:="(?P<type>[a-z0-9-]+)")?', re.IGNORECASE)


def rsit_of(text: str) -> dict[str, str] | None:
    """The RSIT class and type of a machine tag, `rsit:malicious-code="c2-server"`; None if it is none."""
    found = _TAG.fullmatch(text.strip())
    said = {name: value.lower() for name, value in found.groupdict().items() if value} if found else {}
    return said if said and valid(Rsit, said) else None


def rsit_tag(said: Mapping[str, str]) -> str:
    """The machine tag of an RSIT class and type."""
    return f'rsit:{said["class"]}="{said["type"]}"' if "type" in said else f"rsit:{said['class']}"


Meaning = tuple[str, str | None, bool]
"""Class and type of RSIT, and whether they say all that the foreign word says."""


def classify(draft: Draft, spot: Spot, meanings: Mapping[str, Meaning]) -> str:
    """File a foreign category as RSIT by a table of lower-case words; returns the class. Taken if nothing is lost."""
    word = (spot.word() or "").strip().lower()
    kind, name, exact = meanings.get(word) or meanings.get(word.partition(".")[0]) or ("other", "undetermined", False)
    exact = exact and word in meanings
    if draft.add("rsit", {"class": kind, "type": name} if name else {"class": kind}, Rsit) and exact:
        spot.take()
    return kind


BANDS: Final = ((90, "extreme"), (50, "high"), (30, "moderate"), (1, "low"), (0, "none"))
"""The STIX criticality scale: from which score on it is called what."""

SCORES: Final = {"none": 5, "low": 15, "moderate": 40, "high": 70, "extreme": 95}
"""The score that stands for a word. Nothing is known about a finding that is merely said to be informational."""


def band_of(score: int) -> str:
    """What a severity score is called."""
    return next(name for least, name in BANDS if score >= least)


def confidence_of(fraction: float) -> str:
    """A number from 0 to 1 as one of three words."""
    return "low" if fraction < 0.3 else "moderate" if fraction < 0.7 else "high"


_HASHES: Final = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_DOMAIN: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]", re.IGNORECASE)


def kind_of(value: str) -> str:
    """The indicator type that a value shows by its form; `other` if it shows none."""
    plain = refang(value)
    if kind := network_kind(plain):
        return kind
    if re.fullmatch(r"[0-9a-fA-F]+", plain) and len(plain) in _HASHES:
        return _HASHES[len(plain)]
    if re.match(r"[a-z][a-z0-9+.-]*://", plain, re.IGNORECASE):
        return "url"
    host = plain.rpartition("@")[2]
    if _DOMAIN.fullmatch(host):
        return "email-addr" if host != plain else "domain-name"
    return "other"


def network_kind(value: str) -> str | None:
    """The indicator type of an address or a network; None if it is neither."""
    version = "ipv6" if ":" in value else "ipv4"
    for kind in (f"{version}-addr", f"{version}-net"):
        if (kind.endswith("addr") or "/" in value) and valid(Indicator, {"type": kind, "value": value}):
            return kind
    return None


_INSIDE: Final = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "::1/128", "fc00::/7", "fe80::/10"),
    )
)


def inside(value: str) -> bool:
    """Whether an address or network is one of a private network: it says something about the victim, nobody else."""
    try:
        network = ip_network(refang(value), strict=False)
    except ValueError:
        return False
    return any(network.version == other.version and network.overlaps(other) for other in _INSIDE)


def addresses(value: str) -> list[str]:
    """An address, network or range as addresses and networks that say exactly the same; empty if there are too many."""
    first, dash, last = value.partition("-")
    if not dash:
        return [value.strip()]
    try:
        ends: Any = ip_address(first.strip()), ip_address(last.strip())
        networks = [str(network) for network in summarize_address_range(*ends)]
    except (TypeError, ValueError):
        return []
    return [re.sub(r"/(32|128)$", "", text) for text in networks] if len(networks) <= _NETWORKS_OF_A_RANGE else []


def hostile(draft: Draft, spot: Spot, kinds: Sequence[str] = (), context: str | None = None) -> None:
    """File a value that the document calls the attacker's. Not filed: what lies in a private network, or does not fit.

    Args:
        kinds: the indicator types that it may be; the first is taken if its form shows none of them. None given: the
            value is an address, a network or a range.
    """
    value = str(spot.value) if isinstance(spot.value, int) and not isinstance(spot.value, bool) else spot.word()
    if value is None or not value.strip() or inside(value):
        return
    if kinds:
        shown = kind_of(value)
        said: list[tuple[str, str | None]] = [(value, shown if shown in kinds else kinds[0])]
    else:
        said = [(part, network_kind(part)) for part in addresses(value)]
    if not said or any(kind is None or inside(part) for part, kind in said):
        return
    filed = [draft.indicator(part, kind, context=context) for part, kind in said if kind]
    if all(filed):
        spot.take()


def stated(draft: Draft, spot: Spot, kinds: Sequence[str] = (), **more: str | None) -> bool:
    """File a value that is an indicator because the document says so, in a private network too; `kinds` as above."""
    value = str(spot.value) if isinstance(spot.value, int) and not isinstance(spot.value, bool) else spot.word() or ""
    if not value.strip():
        return False
    shown = kind_of(value) if kinds else network_kind(value)
    kind = shown if not kinds or shown in kinds else kinds[0]
    if kind is None or not draft.indicator(value, kind, **more):
        return False
    spot.take()
    return True


def cve_of(text: str) -> str | None:
    """The vulnerability that a reference such as `cve:CVE-2013-2266` names."""
    found = re.fullmatch(r"(?:urn:)?(?:cve:)?(CVE-[0-9]{4}-[0-9]{4,19})", text.strip(), re.IGNORECASE)
    return found[1].upper() if found else None


def refer(draft: Draft, spot: Spot) -> None:
    """File a reference: a vulnerability, a URL, or what else it is called."""
    text = (spot.word() or "").strip()
    if vulnerability := cve_of(text):
        fits = draft.add("vulnerabilities", {"id": vulnerability}, Vulnerability)
    else:
        url = {"url": text} if re.match(r"https?://", text, re.IGNORECASE) else {}
        fits = draft.add("references", {"title": text, **url}, Reference)
    if fits:
        spot.take()


def relate(draft: Draft, spots: Iterable[Spot], kind: str, *, exact: bool = True) -> None:
    """File identifiers of other reports or tickets."""
    for spot in spots:
        if draft.add("related", {"kind": kind, "ref": spot.word()}, Related) and exact:
            spot.take()


def at_times(draft: Draft, places: Mapping[str, Spot]) -> None:
    """File times by the names that a report has for them."""
    times = {name: {"value": text} for name, spot in places.items() if (text := spot.time())}
    if times:
        draft.body["times"] = times


def later(one: Spot, other: Spot) -> bool:
    """Whether a time is after another; not, if either is none."""
    if not valid(Instant, one.value) or not valid(Instant, other.value):
        return False
    return convert(one.value, datetime) > convert(other.value, datetime)


def drill(draft: Draft, name: str = UNNAMED) -> None:
    """Mark what the document calls a test as drill traffic, which live nodes refuse."""
    draft.header.setdefault("exercise", {"exercise_id": name})


def made_by(draft: Draft, tool: str, version: str | None = None) -> bool:
    """Name the machine that wrote the document; False if the name does not fit."""
    said = {"kind": "machine", "tool": tool, **({"version": version} if version else {})}
    if not tool.strip() or not valid(MadeBy, said):
        return False
    draft.header["made_by"] = said
    return True
