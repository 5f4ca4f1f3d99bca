"""What a client posted in another format, read and judged item by item: as `intake`, with the paths of the source.

Guarantees: all of the source is in the report, or in its `source`, or the item is refused; nothing is marked but by the
source or by whoever posts. What a source names, always the same way, is one report of this member: again it is the same
report, with other content the next revision, unless the source says that it is older than what it said before. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid5

import msgspec

from node.formats.foreign import Defaults, Foreign
from node.formats.registry import Format, reader
from node.intake import Item, Place, read_item, split_body, updating
from protocol import limits
from protocol.errors import ProtocolError
from protocol.parse import convert
from protocol.parts import Marking
from protocol.reasons import Reason

_NAMES: Final = UUID("6f0f2a52-6d2c-5b0e-9c8e-3f5b2a7c1d40")
"""The namespace of ids that follow from a source's own (RFC 9562, version 5)."""
_LONGEST_PATH: Final = 500
"""Characters of a path that a report's `source` has room for."""
_MILLISECONDS: Final = 100_000_000_000
"""From here on a number is one of milliseconds: as seconds it would be the year 5138."""
_STEP: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a document is to be read.

    Attributes:
        member: whose reports they become.
        media_type: as it was sent.
    """

    format: Format
    media_type: str
    member: str
    defaults: Defaults
    jurisdictions: Set[str]
    now: datetime


def read_foreign(body: bytes, reading: Reading, *, ndjson: bool) -> tuple[tuple[Item, ...], tuple[Place, ...]]:
    """The items of a body, and the place of each in it. ProtocolError if it is refused as a whole."""
    found: list[tuple[Foreign | ProtocolError, bytes]] = []
    read = reader(reading.format.name)
    if ndjson or (reading.format.lines and body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"")):
        parts, _ = split_body(body, ndjson=ndjson)
        for index, part in enumerate(parts):
            try:
                found += [(_under(item, f"$[{index}]"), part) for item in read(part, reading.defaults)]
            except ProtocolError as exc:
                found.append((_under(exc, f"$[{index}]"), part))
    else:
        found = [(item, body) for item in read(body, reading.defaults)]
    if not found:
        raise ProtocolError(Reason.EMPTY, "$", "the document holds no incident")
    if len(found) > limits.REPORTS_PER_POST:
        raise ProtocolError(Reason.TOO_MANY, "$", f"a request holds at most {limits.REPORTS_PER_POST} reports")
    items: list[Item] = []
    places: list[Place] = []
    for item, document in found:
        if isinstance(item, ProtocolError):
            items.append(item)
            places.append(Place(item.path))
        else:
            items.append(_judge(item, document, reading))
            places.append(Place(item.at, item.source_id, tuple(item.unmapped)))
    return tuple(items), tuple(places)


def _under(item: Foreign | ProtocolError, at: str) -> Any:
    """The same with its paths seen from the whole body."""
    if isinstance(item, ProtocolError):
        return ProtocolError(item.reason, at + item.path[1:], item.detail)
    return replace(item, at=at + item.at[1:], unmapped={at + path[1:]: value for path, value in item.unmapped.items()})


def _judge(item: Foreign, document: bytes, reading: Reading) -> Item:
    filing = dict(item.filing)
    if not filing.get("marking"):
        if reading.defaults.marking is None:
            return ProtocolError(
                Reason.MISSING_FIELD, item.at, "the source says no TLP: post it with ?tlp= (and ?recipients= for RED)"
            )
        filing["marking"] = dict(reading.defaults.marking)
    filing.setdefault("made_by", {"kind": "machine", "tool": reading.format.name})
    if item.source_id:
        name = f"{reading.member}\0{reading.format.name}\0{item.source_id}"
        filing["report_id"] = str(uuid5(_NAMES, name))
        filing["incident_id"] = str(uuid5(_NAMES, f"{name}\0incident"))
    if item.unmapped:
        unmapped = _relative(item)
        if any(len(path) > _LONGEST_PATH for path in unmapped):
            return ProtocolError(
                Reason.OUT_OF_RANGE,
                item.at,
                f"what has no place in the profile stands at a path of over {_LONGEST_PATH} characters",
            )
        try:
            texts = {
                path: msgspec.json.encode(value, order="deterministic").decode() for path, value in unmapped.items()
            }
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            return ProtocolError(
                Reason.INVALID_VALUE, item.at, f"a value cannot be written as JSON: {type(exc).__name__}"
            )
        raw = item.raw or _piece(document, item.at, item)
        filing["body"] = {
            **filing.get("body", {}),
            "source": {
                "format": reading.format.name,
                "media_type": reading.media_type,
                "sha256": hashlib.sha256(raw).hexdigest(),
                "size": len(raw),
                "unmapped": texts,
            },
        }
    return _drafted(filing, item, reading)


def _relative(item: Foreign) -> dict[str, Any]:
    """Paths from the incident on where they are below it: where it stands in a list is not what it says."""
    return {
        "$" + path[len(item.at) :]
        if item.at != "$" and path.startswith((f"{item.at}.", f"{item.at}["))
        else path: value
        for path, value in item.unmapped.items()
    }


def _piece(document: bytes, at: str, item: Foreign) -> bytes:
    """The item as it was sent: the whole document, or what stands at its path, as JSON without spaces."""
    if at == "$":
        return document
    try:
        value = msgspec.json.decode(document)
        for name, index in _STEP.findall(at):
            value = value[int(index)] if index else value[name]
        return msgspec.json.encode(value)
    except (msgspec.DecodeError, LookupError, TypeError, RecursionError):
        return msgspec.json.encode([item.filing, item.unmapped], order="deterministic")


def _drafted(filing: Mapping[str, Any], item: Foreign, reading: Reading) -> Item:
    try:
        data = msgspec.json.encode(filing)
    except (TypeError, ValueError, RecursionError) as exc:
        return ProtocolError(Reason.INVALID_VALUE, item.at, f"a value cannot be written as JSON: {type(exc).__name__}")
    found = read_item(data, at="$", jurisdictions=reading.jurisdictions, now=reading.now)
    if isinstance(found, ProtocolError):
        return ProtocolError(found.reason, item.at, f"{found.detail} (read as {found.path} of the report)")
    return replace(updating(found), stated_at=_stated_at(item.stated, reading.now)) if item.source_id else found


def _stated_at(value: Any, now: datetime) -> int | None:
    """A time as its source has it: RFC 3339, or a number of seconds or milliseconds since 1970.

    None for what is no time, has no zone, or is ahead of the clock: it would shut out all that comes after it.
    """
    try:
        if isinstance(value, str) and not value.isdecimal():
            found = datetime.fromisoformat(value)
        else:
            number = int(value)
            found = datetime.fromtimestamp(number / 1_000 if number >= _MILLISECONDS else number, UTC)
        if found.tzinfo is None or found > now + limits.CLOCK_SKEW:
            return None
        return int(found.timestamp() * 1_000_000)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def defaults_of(query: Mapping[str, str]) -> Defaults:
    """What `?tlp=`, `?pap=` and `?recipients=` say of all that a source leaves open; ProtocolError if no marking."""
    if not query.get("tlp"):
        if query.get("recipients") or query.get("pap"):
            raise ProtocolError(Reason.MISSING_FIELD, "$.tlp", "recipients and pap go with ?tlp=")
        return Defaults()
    # A plus in an address is a space, unless it is written %2B.
    marking: dict[str, Any] = {"tlp": query["tlp"].upper().replace(" ", "+")}
    if query.get("pap"):
        marking["pap"] = query["pap"].upper()
    if query.get("recipients"):
        marking["recipients"] = query["recipients"].split(",")
    convert(marking, Marking, "$.tlp")
    return Defaults(marking)
