"""Bundles of STIX 2.1 read into filings: the incident itself; what belongs to it is read in `stix_related`.

Guarantees: a filing is valid against the report profile. It is marked with the strictest marking of anything that
belongs to the incident; a marking that the document does not explain is not taken for none. Every value is in the
filing or listed with its path, but for what only holds the document together: types, versions and ids, and of objects
other than the incident also who made them when. Refuses an incident that has no marking, unless the poster gave one,
and never guesses: a stand-in of this project's own writer is not read as a statement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args
from uuid import uuid5

from node.formats import stix_words as words
from node.formats.foreign import Defaults, Foreign
from node.formats.leftover import Draft, Piece, decoded, marked, strictest
from node.formats.stix_context import Context, confident
from node.formats.stix_course import read_course
from node.formats.stix_doc import Document, Found
from node.formats.stix_marks import Marks, names_marking
from node.formats.stix_means import read_means
from node.formats.stix_people import read_people
from node.formats.stix_seen import read_seen
from protocol import taxonomy as tx
from protocol.errors import ProtocolError
from protocol.reasons import Reason

_RSIT: Final = re.compile(r"rsit:([a-z-]+)(?:=\"?([a-z0-9-]+)\"?)?", re.IGNORECASE)
_ENTITY_OF: Final[Mapping[str, str]] = {word: kind for kind, word in words.ENTITY.items()}
_DETECTION_OF: Final[Mapping[str, str]] = {word: kind for kind, word in words.DETECTION.items()}
_RSITS: Final = 16
_LISTS: Final = ("services", "ai_enabled", "assistance_requested", "attachments", "related")
_METHODS: Final = get_args(tx.SeverityMethod)
_SECTORS: Final = get_args(tx.Sector)
_OUR_HEADER: Final = ("purpose", "sectors", "cross_border", "handling", "obligation", "exercise", "made_by")
_OUR_MARKING: Final = ("recipients", "sharing_group", "attribution")


def read(data: bytes, defaults: Defaults) -> Sequence[Foreign | ProtocolError]:
    """Each incident of a bundle; of a bundle without one, each report or grouping.

    Raises:
        ProtocolError: the document is not a bundle, or says nothing of any incident.
    """
    document = Document(decoded(data))
    found: list[Foreign | ProtocolError] = []
    members = document.members()
    read_ones = {name for reached in members for name in reached}
    for index, (root, reached) in enumerate(zip(document.roots, members, strict=True)):
        stray = {} if index else _stray(document, read_ones)
        try:
            found.append(_Reading(document, root, reached, defaults).foreign(stray))
        except ProtocolError as exc:
            found.append(exc)
    return found


def _stray(document: Document, read_ones: set[str]) -> dict[str, Any]:
    """What belongs to no incident; it is listed with the first."""
    roots = {root.value["id"] for root in document.roots}
    lost = {
        found.at: found.value
        for name, found in document.by_id.items()
        if name not in read_ones and name not in roots and found.value["type"] != "marking-definition"
    }
    return document.nameless | lost


class _Reading:
    """One incident with what belongs to it. Use once."""

    def __init__(self, document: Document, root: Found, reached: Mapping[str, Found], defaults: Defaults) -> None:
        self._document = document
        self._root = Piece(root.at, root.value)
        self._reached = reached
        self._defaults = defaults
        self._draft = Draft()
        self._stand_ins: set[str] = set()
        self._header: dict[str, Any] = {}
        self._marking: dict[str, Any] = {}

    def foreign(self, stray: Mapping[str, Any]) -> Foreign:
        """The filing, and what has no place in it."""
        root, draft = self._root, self._draft
        older = {
            found.at: found.value
            for found in self._document.superseded
            if found.value["id"] in self._reached or found.value["id"] == root.value["id"]
        }
        marking = self._marks([root.value, *(found.value for found in self._reached.values()), *older.values()])
        root.touched = True
        root.drop("type", "id", "spec_version", "object_marking_refs")
        extensions = root.inside("extensions")
        core = extensions.inside(words.INCIDENT_CORE) if extensions else None
        self._ours(extensions.inside(words.OURS) if extensions else None)
        self._texts()
        self._labels(core)
        related = Context(draft, root, self._reached, core, self._withheld_note())
        if core:
            core.drop("extension_type")
            core.touched = True
            self._core(core)
        for read_kind in (read_course, read_means, read_seen, read_people):
            read_kind(related)
        if root.take("revoked", bool):
            draft.header["phase"] = "withdrawn"
        draft.say("rsit", [{"class": "other", "type": "undetermined"}])
        draft.header["marking"] = self._marked(marking)
        left = root.left() | related.left() | older | dict(stray)
        stated = root.value.get("modified")
        return Foreign(root.at, root.value["id"], draft.filing(root.at), left, stated=stated)

    # --- marking ------------------------------------------------------------------------------------------------

    def _marks(self, things: Sequence[Mapping[str, Any]]) -> Marks:
        marks = Marks(self._document.definitions)
        for thing in things:
            marks.of(thing)
        for ref in sorted(marks.statements):
            self._root.back(f"object_marking_refs[{ref}]", list(self._document.definitions[ref]))
        for ref in sorted(marks.unknown):
            self._root.back(f"object_marking_refs[{ref}]", ref)
        return marks

    def _marked(self, marks: Marks) -> dict[str, Any]:
        at, default = f"{self._root.at}.object_marking_refs", self._defaults.marking
        if marks.unknown:
            if default is None or default.get("tlp") not in words.TLP_RANK:
                raise ProtocolError(
                    Reason.MISSING_FIELD,
                    at,
                    "a marking is not defined in the document, and none was given for such items",
                )
            # What nobody explains may be strict: the poster's word is the least that holds then.
            marks.tlp.add(default["tlp"])
        tlp, pap = strictest(marks.tlp, words.TLP_RANK), strictest(marks.pap, words.PAP_RANK)
        return marked(tlp, pap, self._marking, default, at)

    # --- the incident's own properties --------------------------------------------------------------------------

    def _ours(self, ours: Piece | None) -> None:
        """This project's extension: what STIX has no word for, and what only stands in for something undisclosed."""
        if ours is None:
            return
        ours.drop("extension_type")
        ours.touched = True
        self._stand_ins = {name for _, name in ours.words("stand_ins")}
        if header := ours.inside("header"):
            header.touched = True
            for name in _OUR_HEADER:
                if name in header.value and self._draft.say(name, header.value[name]):
                    header.drop(name)
            self._our_marking(header.inside("marking"))
        if body := ours.inside("body"):
            body.touched = True
            for name, value in body.value.items():
                if not isinstance(value, list):
                    read = self._draft.put(name, value)
                else:
                    read = name in _LISTS and not [item for item in value if not self._draft.add(name, item)]
                if read:
                    body.drop(name)

    def _our_marking(self, marking: Piece | None) -> None:
        """Named recipients, sharing group and attribution, which markings only have in words."""
        if marking is None:
            return
        marking.touched = True
        said = {name: marking.value[name] for name in _OUR_MARKING if name in marking.value}
        if Draft().say("marking", {"tlp": "CLEAR", **said}):
            self._marking = said
            marking.drop(*said)

    def _texts(self) -> None:
        root, draft = self._root, self._draft
        for name, field in (("name", "title"), ("description", "description")):
            if name not in self._stand_ins:
                draft.text(root, name, field)
        confident(root, lambda band: draft.put("confidence", band))
        for item in root.pieces("external_references"):
            title = item.peek("source_name", str) or item.peek("url", str) or ""
            url = item.peek("url", str)
            if draft.add("references", {"title": title} | ({"url": url} if url else {})):
                item.touched = True
                item.drop("source_name", "url")
                if item.peek("description", str) == title:
                    item.drop("description")

    def _labels(self, core: Piece | None) -> None:
        """Labels as this project writes them, and the incident types for what they leave open."""
        rsit: list[dict[str, str]] = []
        sectors: list[dict[str, str]] = []
        for index, label in self._root.words("labels"):
            prefix, _, rest = label.partition(":")
            taken = False
            if match := _RSIT.fullmatch(label):
                class_, type_ = match[1].lower(), (match[2] or "").lower()
                item = {"class": class_} | ({"type": type_} if type_ else {})
                taken = class_ in tx.RSIT and (not type_ or type_ in tx.RSIT[class_]) and len(rsit) < _RSITS
                rsit += [item] if taken and item not in rsit else []
            elif prefix == "phase":
                taken = rest == self._draft.header.get("phase") or self._draft.say("phase", rest)
            elif prefix == "sector":
                filed = self._draft.header.get("sectors")
                taken = rest in _SECTORS if filed is None else any(item["code"] == rest for item in filed)
                sectors += [{"code": rest}] if taken and {"code": rest} not in sectors else []
            elif prefix == "exercise":
                drill = self._draft.header.get("exercise")
                taken = drill["exercise_id"] == rest if drill else self._draft.say("exercise", {"exercise_id": rest})
            elif names_marking(label):
                taken = True
            if not taken:
                self._root.back(f"labels[{index}]", label)
        if sectors:
            self._draft.say("sectors", sectors)
        self._types(rsit, core)
        if rsit:
            self._draft.say("rsit", rsit)

    def _types(self, rsit: list[dict[str, str]], core: Piece | None) -> None:
        """The extension's types: those that the RSIT labels already say are the same thing in other words."""
        implied = {words.INCIDENT_TYPES.get((item["class"], item.get("type", ""))) for item in rsit}
        labelled = bool(rsit)
        for index, word in core.words("incident_types") if core else []:
            if word in implied:
                continue
            pair = words.RSIT_OF.get(word)
            if pair and not labelled and len(rsit) < _RSITS:
                item = {"class": pair[0], "type": pair[1]}
                rsit += [item] if item not in rsit else []
            if core and (pair is None or labelled or words.INCIDENT_TYPES.get(pair) != word):
                core.back(f"incident_types[{index}]", word)

    def _core(self, core: Piece) -> None:
        draft = self._draft
        for name, field in (("determination", "determination"), ("investigation_status", "status")):
            if name not in self._stand_ins and draft.put(field, core.peek(name, str)):
                core.take(name, str)
        self._severity(core)
        for index, word in core.words("detection_methods"):
            if not draft.add("detection_methods", _DETECTION_OF.get(word, word)):
                core.back(f"detection_methods[{index}]", word)
        if counts := core.inside("impacted_entity_counts"):
            counts.touched = True
            for word, kind in _ENTITY_OF.items():
                if counts.peek(word, int) is not None and draft.merge("entity_counts", {kind: counts.value[word]}):
                    counts.take(word, int)

    def _severity(self, core: Piece) -> None:
        score = core.peek("criticality", int)
        method = "stix-criticality"
        for item in core.pieces("scores"):
            name, value = item.peek("name", str), item.value.get("value")
            if (
                name in _METHODS
                and value == score
                and not isinstance(value, bool)
                and not item.peek("description", str)
            ):
                method = name or method
                item.drop("name", "value")
                item.touched = True
        if score is not None and self._draft.say("severity", {"score": score, "method": method}):
            core.take("criticality", int)

    def _withheld_note(self) -> str:
        """The id of the note in which this project's writer says what is not disclosed; it is no statement."""
        extensions = self._root.value.get("extensions")
        ours = extensions.get(words.OURS) if isinstance(extensions, dict) else None
        report = ours.get("report_id") if isinstance(ours, dict) else None
        return f"note--{uuid5(words.NAMESPACE, f'{report}/note/withheld')}" if isinstance(report, str) else ""
