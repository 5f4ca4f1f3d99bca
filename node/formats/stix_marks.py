"""Markings in STIX: written as the official TLP 2.0 and PAP objects, read in every form that is in use.

Guarantees: what is read is never looser than the strictest marking that anything read carries. A marking that is not
understood is no marking: it is listed, and does not loosen the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid5

from node.formats import stix_words as words
from protocol.report import json_encode


def written(marking: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The marking objects of a report: TLP, PAP if there is one, and in words who the named recipients are."""
    tlp = marking["tlp"]
    marks = [_extended(words.TLP_IDS[tlp], f"TLP:{tlp}", words.TLP_2, "tlp_2_0", tlp.lower())]
    if pap := marking.get("pap"):
        marks.append(_extended(words.PAP_IDS[pap], f"PAP:{pap}", words.PAP, "pap", pap.lower()))
    said = []
    if recipients := marking.get("recipients"):
        said.append(f"For these recipients only: {', '.join(recipients)}.")
    if group := marking.get("sharing_group"):
        said.append(f"For this sharing group only: {group['name']} ({group['id']}).")
    if attribution := marking.get("attribution"):
        said.append(f"The source {attribution.replace('-', ' ')} be named.")
    if said:
        statement = " ".join(said)
        marks.append(
            {
                "type": "marking-definition",
                "spec_version": "2.1",
                "id": _statement_id(statement),
                "created": words.MARKINGS_CREATED,
                "definition_type": "statement",
                "definition": {"statement": statement},
            }
        )
    return marks


def _extended(name: str, title: str, extension: str, field: str, value: str) -> dict[str, Any]:
    return {
        "type": "marking-definition",
        "spec_version": "2.1",
        "id": name,
        "created": words.MARKINGS_CREATED,
        "name": title,
        "extensions": {extension: {"extension_type": "property-extension", field: value}},
    }


class Marks:
    """The strictest marking of all that was read, so far. Use once a report.

    Args:
        definitions: the marking definitions of the document, by id.
    """

    def __init__(self, definitions: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self._definitions = definitions
        self.tlp: set[str] = set()
        self.pap: set[str] = set()
        self.statements: set[str] = set()
        """Ids of markings that are neither."""
        self.unknown: set[str] = set()
        """Ids that nothing in the document explains: they may be strict."""

    def of(self, thing: Mapping[str, Any]) -> None:
        """Count what an object is marked with, as a whole or in parts, in whichever way."""
        refs = thing.get("object_marking_refs")
        for ref in refs if isinstance(refs, list) else [refs] if isinstance(refs, str) else []:
            self._count(ref)
        granular = thing.get("granular_markings")
        for item in granular if isinstance(granular, list) else []:
            if isinstance(item, dict) and "marking_ref" in item:
                self._count(item["marking_ref"])
        labels = thing.get("labels")
        for label in labels if isinstance(labels, list) else []:
            if isinstance(label, str):
                self._said(label)

    def _count(self, ref: Any) -> None:
        if not isinstance(ref, str):
            self.unknown.add("")
            return
        known = _KNOWN.get(ref)
        if known is not None:
            kind, word = known
            (self.tlp if kind == "TLP" else self.pap).add(word)
        definitions = self._definitions.get(ref, ())
        said = [self._said(text) for definition in definitions for text in _texts(definition)]
        if not known and not definitions:
            self.unknown.add(ref)
        elif any(_says_more(definition, said=bool(known or any(said))) for definition in definitions):
            self.statements.add(ref)

    def _said(self, text: str) -> bool:
        """Count the TLP and PAP that a text names."""
        found = named_in(text)
        for kind, word in found:
            (self.tlp if kind == "TLP" else self.pap).add(word)
        return bool(found)


def named_in(text: str) -> list[tuple[str, str]]:
    """The TLP and PAP markings that a text names, in whichever spelling, as (`TLP` or `PAP`, word)."""
    found = []
    for kind, word in _NAMED.findall(text[:_LONGEST]):
        said = re.sub(r"\s", "", word.upper()).replace("WHITE", "CLEAR").replace("_", "+")
        found.append((kind.upper(), said if kind.upper() == "TLP" else said.partition("+")[0]))
    return found


def _says_more(definition: Mapping[str, Any], *, said: bool) -> bool:
    """Whether it says anything but a TLP or PAP; what this project's writer says, its extension says too."""
    inner = definition.get("definition")
    text = inner.get("statement") if isinstance(inner, dict) else None
    if not isinstance(text, str):
        return not said
    return definition.get("id") != _statement_id(text) and not _NAMED.fullmatch(text.strip())


def _statement_id(text: str) -> str:
    return f"marking-definition--{uuid5(words.NAMESPACE, f'statement/{json_encode(text).decode()}')}"


def names_marking(text: str) -> bool:
    """Whether a label is a TLP or PAP marking, in whichever spelling."""
    return _NAMED.fullmatch(text.strip()) is not None


def _texts(definition: Mapping[str, Any]) -> list[str]:
    """What a marking definition says, each as `TLP:...` or `PAP:...`, or in its own words."""
    found = [definition.get("name")]
    inner = definition.get("definition")
    if isinstance(inner, dict):
        found += [f"TLP:{inner['tlp']}" if isinstance(inner.get("tlp"), str) else None, inner.get("statement")]
    extensions = definition.get("extensions")
    if isinstance(extensions, dict):
        for extension, kind, field in ((words.TLP_2, "TLP", "tlp_2_0"), (words.PAP, "PAP", "pap")):
            said = extensions.get(extension)
            if isinstance(said, dict) and isinstance(said.get(field), str):
                found.append(f"{kind}:{said[field]}")
    return [text for text in found if isinstance(text, str)]


_NAMED: Final = re.compile(
    r"\b(TLP|PAP)(?:[:_-]|\s*=\s*\"?|\s+)\s*(AMBER\s*[+_]\s*STRICT|RED|AMBER|GREEN|CLEAR|WHITE)\b", re.IGNORECASE
)
_LONGEST: Final = 2_000
_KNOWN: Final[Mapping[str, tuple[str, str]]] = {
    **{ref: ("TLP", word) for ref, word in words.TLP_1_IDS.items()},
    **{ref: ("TLP", word) for word, ref in words.TLP_IDS.items()},
    **{ref: ("PAP", word) for word, ref in words.PAP_IDS.items()},
    words.PAP_WHITE_ID: ("PAP", "CLEAR"),
}
"""Their ids are fixed by the standards: they mean the same whatever a document says about them."""
