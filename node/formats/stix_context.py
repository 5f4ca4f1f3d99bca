"""What the readers of STIX objects share: the objects that belong to one incident, and how they hang together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from node.formats import stix_words as words
from node.formats.leftover import Draft, Piece
from node.formats.stix_doc import Found

BOOKKEEPING: Final = ("type", "id", "spec_version", "created", "modified", "created_by_ref", "object_marking_refs")
_ENDS: Final = ("relationship_type", "source_ref", "target_ref")
_LINKS: Final[Mapping[str, tuple[str, ...]]] = {
    "attack-pattern": ("uses", "related-to"),
    "malware": ("uses", "related-to"),
    "threat-actor": ("attributed-to", "related-to"),
    "intrusion-set": ("attributed-to", "related-to"),
    "vulnerability": ("related-to", "exploits", "targets"),
    "indicator": ("related-to", "detected", "indicates"),
    "location": ("located-at", "related-to"),
    "identity": ("targets", "impacts", "contact-for"),
    "campaign": ("associated-with", "related-to", "attributed-to"),
}
"""Relationships between an incident and each kind that say no more than that the filing holds it in that place."""
_BANDS: Final = ((0, ""), (29, "low"), (69, "moderate"), (100, "high"))


class Context:
    """One incident with what belongs to it, and the draft that it is read into.

    Args:
        core: the Incident Core Extension of the incident, if it has one.
        own_note: the id of the note in which this project's writer says what is not disclosed.
    """

    def __init__(
        self, draft: Draft, root: Piece, reached: Mapping[str, Found], core: Piece | None, own_note: str
    ) -> None:
        self.draft = draft
        self.core = core
        self.name = str(root.value["id"])
        self.own_note = own_note
        self.pieces = {name: Piece(found.at, found.value) for name, found in reached.items()}
        self.links: dict[str, list[tuple[Piece, str, bool]]] = {}
        """By the id of the other end: relationship, its type, and whether it leads from the incident."""
        self.targets: dict[str, bool] = {}
        """What is targeted, and whether by the incident itself."""
        self.seen: dict[str, dict[str, str]] = {}
        """When observables were seen."""
        for piece in self.kind("relationship"):
            self._link(piece)

    def _link(self, piece: Piece) -> None:
        kind, source, target = (piece.peek(name, str) for name in _ENDS)
        if source is None or target is None or kind is None:
            return
        if self.name in (source, target):
            other = target if source == self.name else source
            self.links.setdefault(other, []).append((piece, kind, source == self.name))
        if kind in ("targets", "impacts"):
            self.targets[target] = self.targets.get(target, False) or source == self.name

    def kind(self, *kinds: str) -> Iterator[Piece]:
        """The objects of these types, in the order of the document."""
        return (piece for piece in self.pieces.values() if piece.value["type"] in kinds)

    def left(self) -> dict[str, Any]:
        """Path and value of all that has no place."""
        found: dict[str, Any] = {}
        for piece in self.pieces.values():
            found |= piece.left()
        return found

    def read(self, piece: Piece, *names: str) -> Piece:
        """Note that an object has been read: drop what holds it together, these properties, and the links to it."""
        piece.touched = True
        piece.drop(*BOOKKEEPING, *names)
        for link, kind, _ in self.links.get(piece.value["id"], ()):
            if kind in _LINKS.get(piece.value["type"], ()):
                self.read_link(link)
        return piece

    def read_link(self, link: Piece) -> None:
        """The same for a relationship."""
        link.touched = True
        link.drop(*BOOKKEEPING, *_ENDS)

    def settle(self, piece: Piece, *used: str) -> None:
        """Drop the extensions of an object that has been read, if nothing of them is left.

        Args:
            used: extensions and properties of this project's one that have been read.
        """
        for name, extension in (piece.peek("extensions", dict) or {}).items():
            inner = set(extension) if isinstance(extension, dict) else {""}
            read = inner <= {"extension_type"} or name in used or (name == words.OURS and inner <= {*used, *_TYPE})
            if not read:
                return
        piece.drop("extensions")


_TYPE: Final = ("extension_type",)


def extension_of(piece: Piece, name: str = words.OURS) -> dict[str, Any]:
    """An extension of an object, this project's if no other is named; empty if it has none. It stays."""
    found = (piece.peek("extensions", dict) or {}).get(name)
    return found if isinstance(found, dict) else {}


def some_of(found: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of these properties that are there."""
    return {name: found[name] for name in names if name in found}


def stands_in(piece: Piece) -> bool:
    """Whether this project's writer marked it as less than the origin signed."""
    return piece.value.get("labels") == ["stand-in"]


def confident(piece: Piece, put: Callable[[str], bool]) -> None:
    """Read a confidence of 0 to 100 as its band; any number but the middle of the band has lost precision."""
    value = piece.peek("confidence", int)
    band = "" if value is None else next((name for top, name in _BANDS if 0 <= value <= top), "")
    if band and put(band):
        piece.take("confidence", int)
        if words.CONFIDENCE[band] != value:
            piece.back("confidence", value)
