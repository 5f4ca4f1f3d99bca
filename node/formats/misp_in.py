"""Events of MISP's core format read into filings.

Guarantees: a filing is valid against the report profile. Its marking comes from `tlp` and `PAP` tags alone, the
strictest of the event and of everything in it; a distribution is no marking. Every value is in the filing or listed
with its path, but for categories, uuids and times of attributes. What is deleted is listed, not read. Refuses an event
without a TLP tag, unless the poster gave one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from node.formats import misp_words as words
from node.formats.foreign import Defaults, Foreign
from node.formats.leftover import Draft, Piece, decoded, marked, strictest
from node.formats.misp_attributes import LISTS, one_of, read_attribute
from node.formats.stix_marks import named_in
from node.formats.stix_words import PAP_RANK, TLP_RANK
from protocol import limits
from protocol import taxonomy as tx
from protocol.errors import ProtocolError
from protocol.reasons import Reason

_HEADER: Final = ("severity", "purpose", "cross_border", "handling", "obligation", "exercise", "made_by", "sectors")
_MARKING: Final = ("recipients", "sharing_group", "attribution")
_RSITS: Final = 16
_TECHNIQUE: Final = re.compile(r"(?:^|.* - )(T[0-9]{4}(?:\.[0-9]{3})?)", re.DOTALL)
_STATUS_OF: Final = {number: status for status, number in words.ANALYSIS.items()}
_SECTORS: Final = get_args(tx.Sector)


def read(data: bytes, defaults: Defaults) -> Sequence[Foreign | ProtocolError]:
    """Each event of a document: one event, a list of events, or the answer to a search.

    Raises:
        ProtocolError: the document holds no events.
    """
    found: list[Foreign | ProtocolError] = []
    for at, value in _events(decoded(data)):
        try:
            found.append(_Reading(Piece(at, value), defaults).foreign())
        except ProtocolError as exc:
            found.append(exc)
    return found


def _events(document: Any) -> list[tuple[str, dict[str, Any]]]:
    at, listed = "$", document
    if isinstance(document, dict) and isinstance(document.get("response"), list | dict):
        at, listed = "$.response", document["response"]
    single = not isinstance(listed, list)
    found = []
    for index, item in enumerate([listed] if single else listed):
        place = at if single else f"{at}[{index}]"
        if isinstance(item, dict) and isinstance(item.get("Event"), dict):
            found.append((f"{place}.Event", item["Event"]))
        elif isinstance(item, dict) and isinstance(item.get("info"), str):
            found.append((place, item))
        else:
            raise ProtocolError(Reason.WRONG_TYPE, place, 'an event is an object `{"Event": {"info": ...}}`')
    if not found:
        raise ProtocolError(Reason.EMPTY, at, "the document holds no events")
    if len(found) > limits.REPORTS_PER_POST:
        raise ProtocolError(Reason.TOO_MANY, at, f"at most {limits.REPORTS_PER_POST} events at once")
    return found


class _Reading:
    """One event. Use once."""

    def __init__(self, event: Piece, defaults: Defaults) -> None:
        self._event, self._defaults = event, defaults
        self._draft = Draft()
        self._rsit: list[dict[str, str]] = []
        self._sectors: list[dict[str, str]] = []
        self._ours: dict[str, Any] = {}

    def foreign(self) -> Foreign:
        """The filing, and what has no place in it."""
        event, draft = self._event, self._draft
        event.touched = True
        source = event.take("uuid", str) or ""
        objects = [piece for piece in event.pieces("Object") if not _deleted(piece)]
        own = next((piece for piece in objects if piece.peek("name", str) == words.OBJECT), None)
        if own:
            self._own(own)
        stand_ins = self._ours.get("stand_ins") if isinstance(self._ours.get("stand_ins"), list) else []
        if "info" not in (stand_ins or []):
            draft.text(event, "info", "title")
        if "analysis" not in (stand_ins or []) and draft.put(
            "status", _STATUS_OF.get(_text(event.value.get("analysis")))
        ):
            event.drop("analysis")
        self._tags(event)
        self._galaxies(event)
        attributes = event.pieces("Attribute")
        for piece in objects:
            if piece is not own:
                attributes += piece.pieces("Attribute")
        for piece in attributes:
            self._attribute(piece)
        if "EventReport" not in (stand_ins or []):
            self._reports()
        self._level()
        if self._sectors:
            draft.say("sectors", self._sectors)
        draft.say("rsit", self._rsit or [{"class": "other", "type": "undetermined"}])
        marks = [mark for name in _tag_names(event.value) for mark in named_in(name)]
        tlp = strictest((word for kind, word in marks if kind == "TLP"), TLP_RANK)
        pap = strictest((word for kind, word in marks if kind == "PAP"), PAP_RANK)
        closer = self._closer()
        draft.header["marking"] = marked(tlp, pap, closer, self._defaults.marking, f"{event.at}.Tag")
        if event.peek("published", bool) is False:
            event.drop("published")
        stated = event.value.get("timestamp")
        return Foreign(event.at, source, draft.filing(event.at), event.left(), stated=stated)

    # --- this project's own object --------------------------------------------------------------------------------

    def _own(self, own: Piece) -> None:
        """What MISP has no word for. Whatever of it is not valid is listed like anything else."""
        own.touched = True
        own.drop(
            "name",
            "meta-category",
            "description",
            "template_uuid",
            "template_version",
            "uuid",
            "timestamp",
            "distribution",
        )
        for piece in own.pieces("Attribute"):
            field, text = piece.peek("object_relation", str) or "", piece.peek("value", str)
            try:
                value = msgspec.json.decode(text or "")
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                continue
            self._ours[field] = value
            if field in ("marking", "stand_ins") or (field in _HEADER and self._draft.say(field, value)):
                read = True
            elif field in LISTS and isinstance(value, list):
                read = not [item for item in value if not self._draft.add(field, item)]
            else:
                read = self._draft.put(field, value)
            if read:
                piece.drop(*piece.value)

    def _closer(self) -> dict[str, Any]:
        said = self._ours.get("marking")
        closer = {name: said[name] for name in _MARKING if name in said} if isinstance(said, dict) else {}
        return closer if Draft().say("marking", {"tlp": "CLEAR", **closer}) else {}

    # --- tags -----------------------------------------------------------------------------------------------------

    def _tags(self, piece: Piece) -> dict[str, str]:
        """Read the tags of the event or of an attribute; answers with this project's own of an attribute."""
        own: dict[str, str] = {}
        for tag in piece.pieces("Tag"):
            name = tag.peek("name", str)
            if name is None or _deleted(tag):
                continue
            match = words.TAG.fullmatch(name)
            space, word, value = match.group("space", "name", "value") if match else ("", "", "")
            if space == "kentongan" and word in ("type", "level"):
                own[word] = value or ""
                read = True
            else:
                read = bool(named_in(name)) or self._tag(space, word, value or "")
            if read:
                tag.touched = True
                tag.drop(
                    "name", "colour", "id", "exportable", "local", "numerical_value", "is_galaxy", "relationship_type"
                )
        return own

    def _tag(self, space: str, word: str, value: str) -> bool:
        draft = self._draft
        if space == "rsit":
            item = {"class": word} | ({"type": value} if value else {})
            known = word in tx.RSIT and (not value or value in tx.RSIT[word])
            if known and item not in self._rsit and len(self._rsit) < _RSITS:
                self._rsit.append(item)
            return known and item in self._rsit
        if space == "misp-galaxy" and word != "sector":
            return self._cluster(word, value)
        if space == "kentongan":
            return self._own_tag(word, value)
        if f"{space}:{word}" == words.CONFIDENCE_TAG:
            return draft.body.get("confidence") == value or draft.put("confidence", value)
        if space == "exercise":
            drill = value or word
            held = draft.header.get("exercise")
            return draft.say("exercise", {"exercise_id": drill}) if held is None else held.get("exercise_id") == drill
        if space == "nis2" and word.endswith("root-cause"):
            return draft.put("root_cause", {"category": value})
        if f"{space}:{word}=".startswith(words.SECTOR_TAGS):
            # Ours is only the nearest: the tag is listed as well.
            self._sector(words.SECTORS.get(value.lower(), ""))
        return False

    def _own_tag(self, word: str, value: str) -> bool:
        if word == "phase":
            return self._draft.header.get("phase") == value or self._draft.say("phase", value)
        if word == "sector":
            filed = self._draft.header.get("sectors")
            return any(item["code"] == value for item in filed) if filed else self._sector(value)
        if word == "exercise":
            return "exercise" in self._draft.header
        return False

    def _sector(self, code: str) -> bool:
        if code in _SECTORS and {"code": code} not in self._sectors:
            self._sectors.append({"code": code})
        return code in _SECTORS

    def _galaxies(self, event: Piece) -> None:
        """Clusters that are attached as objects; most exports have each as a tag, too."""
        for galaxy in event.pieces("Galaxy"):
            kind = galaxy.peek("type", str) or ""
            for cluster in galaxy.pieces("GalaxyCluster"):
                value = cluster.peek("value", str)
                if value and self._cluster(cluster.peek("type", str) or kind, value):
                    cluster.touched = True
                    cluster.drop("value", "type", "tag_name", "uuid", "id")
            galaxy.touched = True
            galaxy.drop("type", "uuid", "id", "name")

    def _cluster(self, kind: str, value: str) -> bool:
        draft = self._draft
        if kind in words.MATRICES:
            match = _TECHNIQUE.fullmatch(value)
            matrix = words.MATRICES[kind]
            return match is not None and one_of(draft, "attack", {"technique": match[1], "matrix": matrix}, "technique")
        if kind in words.ACTORS:
            held = draft.body.get("actor")
            return draft.put("actor", {"name": value}) if held is None else held["name"] == value
        if kind in words.MALWARE:
            return draft.add("malware", value)
        return False

    # --- the rest of the event ------------------------------------------------------------------------------------

    def _attribute(self, piece: Piece) -> None:
        if _deleted(piece):
            return
        own = self._tags(piece)
        if own.get("level") != "coarse":
            read_attribute(self._draft, piece, own.get("type", ""))

    def _reports(self) -> None:
        """The text of the first event report, which is the only free text of an event."""
        for report in self._event.pieces("EventReport"):
            if not _deleted(report) and "description" not in self._draft.body:
                self._draft.text(report, "content", "description")
                if "description" in self._draft.body:
                    report.touched = True
                    report.drop("uuid", "timestamp", "distribution", "id", "event_id", "deleted", "sharing_group_id")
                    if report.peek("name", str) == "Description":
                        report.drop("name")

    def _level(self) -> None:
        """The threat level, where nothing says more; a level is a range, so that it is listed as well."""
        level = _text(self._event.value.get("threat_level_id"))
        held = self._draft.header.get("severity")
        if held is None and level in words.LEVELS:
            self._draft.say("severity", {"score": words.LEVELS[level]})
        elif level == next(level for floor, level in words.FLOORS if (held or {"score": 0})["score"] >= floor):
            self._event.drop("threat_level_id")


def _tag_names(event: Mapping[str, Any]) -> Iterator[str]:
    """The tags of an event and of everything in it, deleted or not: the filing is marked no looser than any of it."""
    waiting: list[Any] = [event]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, list):
            waiting += inner
        elif isinstance(inner, dict):
            tags = inner.get("Tag")
            for tag in tags if isinstance(tags, list) else []:
                if isinstance(tag, dict) and isinstance(tag.get("name"), str):
                    yield tag["name"]
            waiting += inner.values()


def _deleted(piece: Piece) -> bool:
    return piece.value.get("deleted") in (True, 1, "1", "true")


def _text(value: Any) -> str:
    """MISP writes most numbers as text, and some versions do not."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
