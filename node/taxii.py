"""What TAXII 2.1 clients see: collections, objects and their versions, times and filters. Pure.

Guarantees: only what the import policy let in is turned into objects, nothing of a drill and nothing of a report that
has ended; a filter is understood or refused, never ignored; a cursor is the place of an object and not a count, so that
what arrives meanwhile moves nothing. Refuses filters, times and limits that are not of TAXII's form (ProtocolError).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args
from uuid import UUID, uuid5

import msgspec

from node.formats.foreign import Shown
from protocol.errors import ProtocolError
from protocol.reasons import Reason
from protocol.report import part_of
from protocol.taxonomy import RSIT, Sector, Tlp

STEP: Final = 1_000
"""Microseconds from one `added_at` to the next. Some clients keep times in milliseconds only: what they would round
down to must not lie before the object that they have seen last."""
TLPS: Final[tuple[str, ...]] = get_args(Tlp)
"""From what everybody may read to what hardly anybody may."""
STIX: Final = "application/stix+json;version=2.1"
DEFAULT_LIMIT: Final = 1_000
MOST: Final = 1_000
"""Objects on a page."""
MOST_VALUES: Final = 100
"""Values in one filter."""
LAST_NUMBER: Final = 2**62
_SPACE: Final = UUID("5b1c0b5e-2f0c-5a0e-9d0c-6b656e746f6e")
"""Collections have the same ids at every node."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_COMMON: Final = frozenset({"marking-definition", "extension-definition"})
ObjectsOf = Callable[[Shown], Sequence[Mapping[str, Any]]]
"""Writes a report as STIX objects."""


# --- times ------------------------------------------------------------------------------------------------------


def stamp_of(at: int) -> str:
    """A time in microseconds since 1970 as TAXII writes it: RFC 3339 in UTC with six digits."""
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def version_of(at: int) -> str:
    """The same as STIX writes it: with three digits if that is exact, so that it is the object's `modified`."""
    text = stamp_of(at)
    return text if at % 1_000 else f"{text[:-4]}Z"


def micros_of(text: str, path: str) -> int:
    """A time as microseconds since 1970. ProtocolError if it is none.

    A `+` that the client did not escape arrives as a space.
    """
    try:
        found = msgspec.convert(text.strip().replace(" ", "+"), datetime)
        found.utctimetuple()
    except (msgspec.ValidationError, ValueError, OverflowError) as exc:
        raise ProtocolError(Reason.INVALID_VALUE, path, "a time is written as 2026-05-04T08:00:00.000000Z") from exc
    if found.tzinfo is None:
        raise ProtocolError(Reason.INVALID_VALUE, path, "a time has an offset: write Z for UTC")
    return (found - _EPOCH) // timedelta(microseconds=1)


# --- collections ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection.

    Attributes:
        alias: its name in addresses, and the topic under which objects are listed.
        tlp: the marking that a client must be allowed to read to learn of it at all.
    """

    alias: str
    title: str
    description: str
    tlp: str = TLPS[0]
    intake: bool = False

    @property
    def id(self) -> str:
        """The same at every node."""
        return str(uuid5(_SPACE, self.alias))

    def document(self, *, can_read: bool, can_write: bool) -> dict[str, Any]:
        """As TAXII shows it."""
        return {
            "id": self.id,
            "title": self.title,
            "description": self.description,
            "alias": self.alias,
            "can_read": can_read,
            "can_write": can_write,
            "media_types": [STIX],
        }


ALL: Final = "all"
INTAKE: Final = Collection("intake", "Intake", "Incidents to be filed as reports of this member", intake=True)
_SECTORS: Final = sorted({sector.partition(".")[0] for sector in get_args(Sector)})


def _tlp_topic(tlp: str) -> str:
    return f"tlp-{tlp.lower().replace('+', '-')}"


COLLECTIONS: Final[tuple[Collection, ...]] = (
    Collection(ALL, "All reports", "All that other members have disclosed to this node and you may read"),
    *(
        Collection(_tlp_topic(tlp), f"TLP:{tlp}", f"Reports that their origins have marked TLP:{tlp}", tlp)
        for tlp in TLPS
    ),
    *(
        Collection(f"rsit-{name}", f"RSIT {name}", f"Reports of the RSIT class {name}")
        for name in RSIT
        if name != "test"
    ),
    *(Collection(f"sector-{name}", f"Sector {name}", f"Reports about the sector {name}") for name in _SECTORS),
)


def topics_of(header: Mapping[str, Any]) -> tuple[str, ...]:
    """The collections in which a report stands."""
    classes = {f"rsit-{item['class']}" for item in header.get("rsit", ())}
    sectors = {f"sector-{item['code'].partition('.')[0]}" for item in header.get("sectors", ())}
    return (ALL, _tlp_topic(header["marking"]["tlp"]), *sorted(classes | sectors))


# --- what a report brings ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placed:
    """One object in the collections."""

    object_id: str
    type: str
    version: int
    spec_version: str
    object: bytes
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """How much of a revision is known here.

    Attributes:
        shows: units of which there is something exact; of which something coarse, with `:coarse`.
        withheld: units that the own import policy withholds.
        presentation: as it was disclosed to this node; empty if nothing can have been withheld: it is our own.
    """

    shows: frozenset[str] = frozenset()
    withheld: frozenset[str] = frozenset()
    presentation: str = ""


@dataclass(frozen=True, slots=True)
class Brought:
    """What one report brings: its own objects, and those that it has in common with others, such as who reported."""

    source: int
    digest: str
    tlp: int
    topics: Sequence[str]
    own: Sequence[Placed]
    common: Sequence[Placed] = field(default_factory=tuple)
    report_id: str = ""
    revision: int = 0
    seen: Seen = field(default_factory=Seen)


_units: Final = msgspec.json.Decoder(list[dict[str, Any]])


def brought(row: Any, objects_of: ObjectsOf) -> Brought | None:
    """What a row of the inbox brings; None if nothing of it may be shown: it has ended, ends another one, or drills."""
    if not row.presentation or row.withdrawn:
        return None
    header: dict[str, Any] = msgspec.json.decode(row.view)
    body = header.pop("body", None) or {}
    tlp = header["marking"]["tlp"]
    if "exercise" in header or tlp not in TLPS:
        return None
    withheld = sorted({item["unit"] for item in _units.decode(row.withheld)})
    at = _EPOCH + timedelta(microseconds=row.received_at)
    found = objects_of(Shown(header, body, withheld, row.undisclosed, at, own=False))
    reporters = {item.get("created_by_ref") for item in found if item["type"] == "incident"}
    own: list[Placed] = []
    common: list[Placed] = []
    for item in found:
        shared = item["type"] in _COMMON or (item["type"] == "identity" and item["id"] in reporters)
        (common if shared else own).append(_placed(item))
    return Brought(
        source=row.seq,
        digest=row.digest,
        tlp=TLPS.index(tlp),
        topics=topics_of(header),
        own=own,
        common=common,
        report_id=row.report_id,
        revision=row.revision,
        seen=Seen(shows_of(body), frozenset(withheld), row.presentation),
    )


def shows_of(body: Mapping[str, Any]) -> frozenset[str]:
    """Units of which a body has something, exact or coarse."""
    found: set[str] = set()
    for name, value in body.items():
        parts = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
        found |= {part_of(name, item) + (":coarse" if item.get("level") == "coarse" else "") for item in parts}
        if not parts:
            found.add(name.replace("_coarse", ":coarse"))
    return frozenset(found)


def _placed(item: Mapping[str, Any]) -> Placed:
    """An object without a time of its own says the same under its id for ever: it has one version."""
    said = item.get("modified") or item.get("created")
    version = micros_of(said, "$.modified") if said else 0
    return Placed(item["id"], item["type"], version, item.get("spec_version", "2.1"), msgspec.json.encode(item))


# --- what a client asks for -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listed:
    """Which objects a client wants.

    Attributes:
        topic: of the collection.
        tlp: the highest marking that it may read.
        after: only objects that were added after this time.
        ids, types, spec_versions: only these; all if empty.
        first, last, versions: the oldest or newest version of each object, or these; every version if all are off.
    """

    topic: str
    tlp: int
    after: int = 0
    ids: Sequence[str] = ()
    types: Sequence[str] = ()
    spec_versions: Sequence[str] = ()
    first: bool = False
    last: bool = False
    versions: Sequence[int] = ()


_FILTERS: Final = frozenset({"id", "type", "version", "spec_version"})


def listed(query: Mapping[str, str], topic: str, tlp: int, *, matches: frozenset[str] = _FILTERS) -> Listed:
    """What the parameters of an address ask for.

    Args:
        matches: the filters that this address knows.

    Raises:
        ProtocolError: a filter, time or cursor that is not one.
    """
    chosen: dict[str, list[str]] = {}
    for name, text in query.items():
        if name.startswith("match["):
            chosen.setdefault(_match_of(name, matches), []).extend(_values(text, name))
    versions = chosen.get("version", ["last"])
    times = [micros_of(text, "$.match[version]") for text in versions if text not in ("all", "first", "last")]
    every = "all" in versions
    after = micros_of(query["added_after"], "$.added_after") if query.get("added_after") else 0
    return Listed(
        topic=topic,
        tlp=tlp,
        after=max(after, place_of(query["next"]) if query.get("next") else 0),
        ids=chosen.get("id", ()),
        types=chosen.get("type", ()),
        spec_versions=chosen.get("spec_version", ()),
        first="first" in versions and not every,
        last="last" in versions and not every,
        versions=[] if every else times,
    )


def _match_of(name: str, matches: frozenset[str]) -> str:
    field_name = name.removeprefix("match[").removesuffix("]")
    if name != f"match[{field_name}]" or field_name not in matches:
        known = ", ".join(f"match[{field_name}]" for field_name in sorted(matches))
        raise ProtocolError(Reason.UNKNOWN_FIELD, f"$.{name[:40]}", f"the filters here are {known}")
    return field_name


def _values(text: str, name: str) -> list[str]:
    values = [value for value in (part.strip() for part in text.split(",")) if value]
    if not values:
        raise ProtocolError(Reason.INVALID_VALUE, f"$.{name}", "a filter has at least one value")
    if len(values) > MOST_VALUES:
        raise ProtocolError(Reason.TOO_MANY, f"$.{name}", f"a filter has at most {MOST_VALUES} values")
    return values


def limit_of(query: Mapping[str, str]) -> int:
    """How many objects a page may have. ProtocolError unless it is a number from 1; too high a one is lowered."""
    text = query.get("limit", "")
    if not text:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text)):
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.limit", f"limit is a number from 1 (at most {MOST} count)")
    return min(int(text), MOST)


def cursor_to(place: int) -> str:
    """Where the next page begins: after this object."""
    return base64.urlsafe_b64encode(place.to_bytes(8, "big")).decode("ascii").rstrip("=")


def place_of(cursor: str) -> int:
    """The object after which a page begins. ProtocolError if it is no cursor of ours."""
    try:
        data = base64.b64decode(cursor + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    place = int.from_bytes(data, "big")
    if len(data) != 8 or place > LAST_NUMBER or cursor_to(place) != cursor:
        raise ProtocolError(Reason.INVALID_VALUE, "$.next", "next is what the page before it said")
    return place
