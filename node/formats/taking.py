"""Reading a foreign JSON document so that nothing of it is dropped in silence.

Pure. A `Spot` is a place in the document; what a reader *takes* from it is noted by its path, and `left` lists all that
nobody took, as the `unmapped` of a `Foreign`. A value of which only a part or a coarser form went into the filing is
used, but not taken. A `Draft` holds the filing that a reader builds: whatever it holds is valid on its own, so that
what a foreign document gets wrong ends up unmapped, with its path, and never as a fault of the filing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from node.formats.foreign import Foreign
from protocol import limits
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.parts import Indicator, Instant, Severity
from protocol.reasons import Reason
from protocol.report import Body

DEPTH: Final = 64
"""How deep a document may be nested: none of the formats comes near it, and walking it needs no more than that."""

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_FINER: Final = re.compile(r"\.[0-9]{6}[0-9]*[1-9]")
_json: Final = msgspec.json.Decoder()

Path = tuple[str | int, ...]


def rendered(path: Path) -> str:
    """A path as text: `$[0].Source[1].IP4`, names that are not plain words in brackets."""
    parts = (
        f"[{step}]" if isinstance(step, int) else f".{step}" if _PLAIN.fullmatch(step) else f"[{_quoted(step)}]"
        for step in path
    )
    return "$" + "".join(parts)


def _quoted(name: str) -> str:
    return msgspec.json.encode(name).decode()


@dataclass(slots=True)
class _Book:
    """What was taken, and every place on the way to it."""

    taken: set[Path] = field(default_factory=set)
    touched: set[Path] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a document; `value` is None where the document has nothing."""

    value: Any
    path: Path = ()
    book: _Book = field(default_factory=_Book, compare=False)

    @property
    def at(self) -> str:
        """The path as text."""
        return rendered(self.path)

    def get(self, *names: str | int) -> Spot:
        """The place below, also where there is nothing."""
        value, path = self.value, self.path
        for name in names:
            path = (*path, name)
            if isinstance(name, int):
                value = value[name] if isinstance(value, list) and name < len(value) else None
            else:
                value = value.get(name) if isinstance(value, dict) else None
        return Spot(value, path, self.book)

    def each(self) -> list[Spot]:
        """The elements of a list; a single value counts as a list of one, nothing as an empty one."""
        if isinstance(self.value, list):
            return [Spot(value, (*self.path, index), self.book) for index, value in enumerate(self.value)]
        return [] if self.value is None else [self]

    def fields(self) -> list[tuple[str, Spot]]:
        """The names and places of an object."""
        if not isinstance(self.value, dict):
            return []
        return [(name, Spot(value, (*self.path, name), self.book)) for name, value in self.value.items()]

    def take(self) -> Any:
        """Note that the value, with all that is below it, is in the filing as it is; returns it."""
        self.book.taken.add(self.path)
        self.book.touched.update(self.path[:length] for length in range(len(self.path) + 1))
        return self.value

    def text(self, limit: int = 300) -> str | None:
        """A text that says something, cut to a length; taken if it is whole."""
        if not isinstance(self.value, str) or not self.value.strip():
            return None
        if len(self.value) <= limit:
            self.take()
        return self.value[:limit]

    def word(self) -> str | None:
        """A text that is used to look something up; not taken."""
        return self.value if isinstance(self.value, str) else None

    def number(self) -> float | None:
        """A number; not taken."""
        return self.value if isinstance(self.value, int | float) and not isinstance(self.value, bool) else None

    def time(self) -> str | None:
        """A time with a zone, as text; taken if nothing of it is finer than what a report keeps."""
        text = self.word()
        if text is None or not valid(Instant, text):
            return None
        if not _FINER.search(text):
            self.take()
        return text

    def left(self) -> dict[str, Any]:
        """What nobody took, by path; a branch of which nothing was taken is listed whole. Empty values say nothing."""
        found: dict[str, Any] = {}
        places = [self]
        while places:
            place = places.pop()
            if place.value in (None, {}, []) or place.path in place.book.taken:
                continue
            below = [below for _, below in place.fields()] if isinstance(place.value, dict) else []
            if isinstance(place.value, list):
                below = place.each()
            if below and place.path in place.book.touched:
                places.extend(reversed(below))
            else:
                found[place.at] = place.value
        return found


def valid(kind: Any, value: Any) -> bool:
    """Whether a JSON value is of a type of the report profile."""
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, OverflowError):
        return False
    return True


_LIMITS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("attack", "indicators", "vulnerabilities", "actions"), limits.LIST_ELEMENTS),
    "rsit": 16,
    "sectors": 16,
}
_ELEMENTS: Final = 64


@dataclass(slots=True)
class Draft:
    """A filing in the making; what is in it is valid."""

    header: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, value: Any) -> bool:
        """Set a field of the body; False, and nothing done, if the value does not fit or something else is there."""
        if value is None or self.body.get(name, value) != value or not valid(Body, {name: value}):
            return False
        self.body[name] = value
        return True

    def add(self, name: str, element: Any, kind: Any) -> bool:
        """Add an element to a list, once; False, and nothing done, if it does not fit."""
        holder = self.header if name in ("rsit", "sectors") else self.body
        elements: list[Any] = holder.get(name, [])
        if element in elements:
            return True
        if len(elements) >= _LIMITS.get(name, _ELEMENTS) or not valid(kind, element):
            return False
        holder[name] = [*elements, element]
        return True

    def severity(self, score: int) -> bool:
        """Set the severity; False if there is another one."""
        said = {"score": score}
        if self.header.get("severity", said) != said or not valid(Severity, said):
            return False
        self.header["severity"] = said
        return True

    def indicator(self, value: str, kind: str, **more: Any) -> bool:
        """Add an indicator; False if it does not fit."""
        said = {name: extra for name, extra in more.items() if extra is not None}
        return self.add("indicators", {"type": kind, "value": value, **said}, Indicator)

    def filing(self) -> dict[str, Any]:
        """The filing; what has no type of RSIT yet is undetermined."""
        said = dict(self.header)
        said.setdefault("rsit", [{"class": "other", "type": "undetermined"}])
        return {**said, "body": self.body} if self.body else said


# --- documents --------------------------------------------------------------------------------------------------


def document(data: bytes) -> Any:
    """The document as JSON values. `ProtocolError` if it is not JSON, or nested beyond reason."""
    value = decode(_json, data)
    level = [value]
    for _ in range(DEPTH):
        level = [
            below
            for place in level
            if isinstance(place, dict | list)
            for below in (place.values() if isinstance(place, dict) else place)
            if isinstance(below, dict | list)
        ]
        if not level:
            return value
    raise ProtocolError(Reason.TOO_LARGE, "$", f"nested more than {DEPTH} levels deep")


def embedded(text: str) -> Any:
    """JSON that stands as text in a document; None if it is not JSON."""
    try:
        return document(text.encode())
    except ProtocolError:
        return None


def items(data: bytes) -> tuple[list[Spot], bool]:
    """The objects of a document, and whether it is an array of them; `ProtocolError` if it is neither."""
    value = document(data)
    if isinstance(value, dict):
        return [Spot(value)], False
    if not isinstance(value, list):
        raise ProtocolError(Reason.WRONG_TYPE, "$", "an object, or an array of objects")
    if not value:
        raise ProtocolError(Reason.EMPTY, "$", "the document holds nothing")
    # A book for each: what is taken of one is nothing to the others.
    return [Spot(element, (index,)) for index, element in enumerate(value)], True


def read_each(data: bytes, one: Callable[[Spot], Foreign]) -> Sequence[Foreign | ProtocolError]:
    """Read a document of one object or an array; a lone object that is refused is the document being refused."""
    spots, many = items(data)
    if not many:
        return [one(spots[0])]
    return [attempt(one, spot) for spot in spots]


def attempt(one: Callable[[Spot], Foreign], spot: Spot) -> Foreign | ProtocolError:
    """Read one object, or answer why not."""
    try:
        if not isinstance(spot.value, dict):
            raise ProtocolError(Reason.WRONG_TYPE, spot.at, "an object")
        return one(spot)
    except ProtocolError as exc:
        return exc
