"""Taking a foreign document apart so that nothing of it is lost from sight: what nobody takes is what is left over.

Pure. A `Piece` is one JSON object of the source. A reader takes properties out of it; whatever it does not take stays,
and ends in the list of what is unmapped, with its path. Taking asks for a type: a property of another type stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from protocol.errors import ProtocolError
from protocol.parse import refusal
from protocol.parts import LINE_LENGTH
from protocol.reasons import Reason
from protocol.report import Body, Filing, json_encode

T = TypeVar("T")

_TEXT_LENGTH: Final = 32_768
_ENVELOPE: Final[Mapping[str, Any]] = {
    "marking": {"tlp": "CLEAR"},
    "rsit": [{"class": "other"}],
}


class Piece:
    """One JSON object of a document, and what has not been taken out of it yet."""

    def __init__(self, at: str, value: Mapping[str, Any]) -> None:
        self.at = at
        self.value = value
        self._left = dict(value)
        self._inside: list[Piece] = []
        self._notes: dict[str, Any] = {}
        self.touched = False

    def peek(self, name: str, kind: type[T]) -> T | None:
        """The property if it is of this type; it stays."""
        found = self._left.get(name)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is int):
            return None
        return found

    def take(self, name: str, kind: type[T]) -> T | None:
        """The property if it is of this type; it is not left over any more."""
        found = self.peek(name, kind)
        if found is not None:
            del self._left[name]
            self.touched = True
        return found

    def drop(self, *names: str) -> None:
        """Properties that say nothing of their own."""
        for name in names:
            self._left.pop(name, None)

    def back(self, name: str, value: Any) -> None:
        """What turned out to have no place, or to have lost something on its way: it is listed."""
        self._notes[f"{self.at}.{name}"] = value

    def inside(self, name: str) -> Piece | None:
        """A nested object as a piece of its own; what is left of it is left of this."""
        found = self.take(name, dict)
        if found is None:
            return None
        piece = Piece(f"{self.at}.{name}", found)
        self._inside.append(piece)
        return piece

    def items(self, name: str) -> list[Any]:
        """A list, taken as a whole; an empty one if there is none."""
        return self.take(name, list) or []

    def words(self, name: str) -> list[tuple[int, str]]:
        """The texts of a list with their places; everything else in it is left over."""
        found = []
        for index, item in enumerate(self.items(name)):
            if isinstance(item, str):
                found.append((index, item))
            else:
                self._notes[f"{self.at}.{name}[{index}]"] = item
        return found

    def pieces(self, name: str) -> list[Piece]:
        """The objects of a list as pieces; everything else in it is left over."""
        found = []
        for index, item in enumerate(self.items(name)):
            if isinstance(item, dict):
                found.append(Piece(f"{self.at}.{name}[{index}]", item))
            else:
                self._notes[f"{self.at}.{name}[{index}]"] = item
        self._inside += found
        return found

    def left(self) -> dict[str, Any]:
        """Path and value of all that nobody took, and that is not empty; the whole if nobody took anything."""
        if not self.touched and self._left:
            return {self.at: self.value}
        kept = {name: value for name, value in self._left.items() if value not in (None, "", [], {})}
        found = {f"{self.at}.{name}": value for name, value in kept.items()} | self._notes
        for piece in self._inside:
            found |= piece.left()
        return found


class Draft:
    """A filing as it grows: each value is held to the report profile when it is put in."""

    def __init__(self) -> None:
        self.header: dict[str, Any] = {}
        self.body: dict[str, Any] = {}
        self._known: set[tuple[str, bytes]] = set()

    def say(self, field: str, value: Any) -> bool:
        """Put a header field in, unless it is there already or not valid; tells whether."""
        if field in self.header or not _fits({**_ENVELOPE, field: value}, Filing):
            return False
        self.header[field] = value
        return True

    def put(self, field: str, value: Any) -> bool:
        """The same for a field of the body."""
        if field in self.body or not _fits({field: value}, Body):
            return False
        self.body[field] = value
        return True

    def merge(self, field: str, value: Mapping[str, Any]) -> bool:
        """Put properties into a body field that is an object; false if one is there already, or is not valid."""
        merged = {**self.body.get(field, {}), **value}
        if set(value) & set(self.body.get(field, {})) or not _fits({field: merged}, Body):
            return False
        self.body[field] = merged
        return True

    def add(self, field: str, element: Any) -> bool:
        """Append to a list of the body, unless that is full or the element not valid; what is in it is there once."""
        key = (field, json_encode(element))
        if key in self._known:
            return True
        listed = self.body.get(field, [])
        if len(listed) >= _LENGTHS[field] or not _fits({field: [element]}, Body):
            return False
        listed.append(element)
        self.body[field] = listed
        self._known.add(key)
        return True

    def text(self, piece: Piece, name: str, field: str) -> None:
        """Take a text of any length; what is too long is cut, and listed as a whole."""
        limit = _TEXT_LENGTH if field == "description" else LINE_LENGTH
        found = piece.peek(name, str)
        if not found or not self.put(field, found[:limit]):
            return
        piece.take(name, str)
        if len(found) > limit:
            piece.back(name, found)

    def filing(self, at: str) -> dict[str, Any]:
        """The whole.

        Raises:
            ProtocolError: it is not a valid filing after all, because its parts do not go together.
        """
        filing = {**self.header, "body": self.body}
        try:
            msgspec.convert(filing, Filing)
        except msgspec.ValidationError as exc:
            raise refusal(exc, at) from exc
        return filing


def _fits(value: Any, kind: type[Any]) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, OverflowError):
        return False
    return True


def _lengths() -> dict[str, int]:
    schema = msgspec.json.schema(Body)["$defs"]["Body"]["properties"]
    found = {}
    for name, spec in schema.items():
        for option in [spec, *spec.get("anyOf", ())]:
            if "maxItems" in option:
                found[name] = option["maxItems"]
    return found


_LENGTHS: Final[Mapping[str, int]] = _lengths()


def decoded(data: bytes) -> Any:
    """The JSON of a document.

    Raises:
        ProtocolError: NOT_JSON, or TOO_LARGE if it is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise refusal(exc) from exc


def strictest(found: Iterable[str], rank: Mapping[str, int]) -> str | None:
    """The strictest of these words; None if there is none."""
    return max(found, key=lambda word: rank[word], default=None)


def marked(
    tlp: str | None, pap: str | None, more: Mapping[str, Any], default: Mapping[str, Any] | None, at: str
) -> dict[str, Any]:
    """The marking of a filing: the source's own; the poster's word fills in what that leaves open.

    Args:
        more: named recipients, sharing group and attribution, as far as the source has them.

    Raises:
        ProtocolError: MISSING_FIELD if neither says a TLP; RECIPIENTS_REQUIRED for a RED without named recipients.
    """
    said = {**(default or {}), **more}
    if tlp is None and default is None:
        raise ProtocolError(Reason.MISSING_FIELD, at, "it has no TLP marking, and none was given for such items")
    if tlp is not None:
        said["tlp"] = tlp
    if pap is not None:
        said["pap"] = pap
    if said.get("tlp") == "RED" and not said.get("recipients"):
        raise ProtocolError(Reason.RECIPIENTS_REQUIRED, at, "TLP:RED is for named recipients: say who they are")
    return said


def moment(text: str) -> str | None:
    """A time of the source if it is one with a zone; None if not."""
    try:
        time = datetime.fromisoformat(text)
        return None if time.tzinfo is None or not time.astimezone(UTC) else text
    except (ValueError, OverflowError):
        return None
