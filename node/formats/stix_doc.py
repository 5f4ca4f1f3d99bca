"""A STIX document as objects by id, and which of them belong to which incident.

Guarantees: of several versions of an object the newest is read; the older ones are listed, and count for the marking.
With one incident in the document, all of it is about that. With several, an object belongs to those that it is linked
with: by a relationship with the incident, or by references that lead from the incident to it. Refuses documents without
an incident, a report or a grouping: indicators alone do not say what happened to whom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from protocol import limits
from protocol.errors import ProtocolError
from protocol.reasons import Reason

_CONTAINERS: Final = ("report", "grouping")


class Found(NamedTuple):
    """An object of the document, by its place in it."""

    at: str
    value: Mapping[str, Any]


class Document:
    """The objects of a bundle, or of a TAXII envelope.

    Raises:
        ProtocolError: WRONG_TYPE, EMPTY, TOO_MANY or MISSING_FIELD, for the document as a whole.
    """

    def __init__(self, document: Any) -> None:
        objects = document.get("objects") if isinstance(document, dict) else None
        if not isinstance(objects, list) or document.get("type", "bundle") != "bundle":
            raise ProtocolError(Reason.WRONG_TYPE, "$", "a STIX document is a bundle: an object with a list `objects`")
        if not objects:
            raise ProtocolError(Reason.EMPTY, "$.objects", "the bundle holds no objects")
        self.by_id: dict[str, Found] = {}
        self.definitions: dict[str, list[Mapping[str, Any]]] = {}
        """Several of one id that disagree count all: none loosens another."""
        self.superseded: list[Found] = []
        self.nameless: dict[str, Any] = {}
        """What is not an object of STIX at all."""
        for index, value in enumerate(objects):
            self._sort(Found(f"$.objects[{index}]", value))
        self.roots = self._roots()
        if not self.roots:
            raise ProtocolError(
                Reason.MISSING_FIELD, "$.objects", "it holds no incident, report or grouping that says what happened"
            )
        if len(self.roots) > limits.REPORTS_PER_POST:
            raise ProtocolError(Reason.TOO_MANY, "$.objects", f"at most {limits.REPORTS_PER_POST} incidents at once")

    def _sort(self, found: Found) -> None:
        value = found.value
        if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in ("type", "id")):
            self.nameless[found.at] = value
            return
        name = value["id"]
        held = self.by_id.get(name)
        if held is not None and _version(held.value) > _version(value):
            held, found = found, held
        if held is not None:
            self.superseded.append(held)
        self.by_id[name] = found
        if value["type"] == "marking-definition":
            self.definitions.setdefault(name, []).append(value)

    def _roots(self) -> list[Found]:
        for kinds in (("incident",), _CONTAINERS):
            if roots := [found for found in self.by_id.values() if found.value["type"] in kinds]:
                return roots
        return []

    def members(self) -> list[dict[str, Found]]:
        """For each root, what belongs to it by id, itself left out; without marking definitions."""
        roots = {found.value["id"] for found in self.roots}
        others = {
            name: found
            for name, found in self.by_id.items()
            if name not in roots and found.value["type"] not in ("marking-definition", "extension-definition")
        }
        if len(self.roots) == 1:
            return [others]
        touching: dict[str, list[str]] = {}
        for name, found in others.items():
            if found.value["type"] in ("relationship", "note", "opinion", "sighting"):
                for ref in set(_refs(found.value)) & roots:
                    touching.setdefault(ref, []).append(name)
        return [self._reached(root, touching.get(root.value["id"], []), others) for root in self.roots]

    def _reached(self, root: Found, touching: list[str], others: Mapping[str, Found]) -> dict[str, Found]:
        waiting = [*_refs(root.value), *touching]
        reached: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in others and name not in reached:
                reached.add(name)
                waiting += _refs(others[name].value)
        return {name: found for name, found in others.items() if name in reached}


def _version(value: Mapping[str, Any]) -> str:
    modified = value.get("modified")
    # With or without a fraction: `...00Z` is older than `...00.5Z`, though not as text.
    return modified.rstrip("Z").ljust(40, "\0") if isinstance(modified, str) else ""


def _refs(value: Mapping[str, Any]) -> Iterator[str]:
    """Ids that an object names in properties `..._ref` and `..._refs`, at any depth, but for who made and marked it."""
    waiting: list[Any] = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, list):
            waiting += inner
        elif isinstance(inner, dict):
            for name, found in inner.items():
                if name in ("created_by_ref", "object_marking_refs", "granular_markings"):
                    continue
                if name.endswith("_ref") and isinstance(found, str):
                    yield found
                elif name.endswith("_refs") and isinstance(found, list):
                    yield from (ref for ref in found if isinstance(ref, str))
                else:
                    waiting.append(found)
