"""IODEF in JSON (RFC 8727), read into filings. The writer is `iodefout`.

Pure. Guarantees: the restriction of an incident marks its report, TLP 1 names as what they are called today; a part of
it with a stricter restriction of its own is not filed, and stays here as unmapped. Indicators are indicators; of the
systems in its events those are that are a source or infrastructure of the attacker or play an attacker's part, and are
not spoofed. Other systems stay here: they are the victim's. Refuses: other formats and versions, a restriction that
cannot be told, `red` and `private` without a default marking that says for whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from node.formats import iodefwords as words
from node.formats.block import NAME, marking_of, restore
from node.formats.foreign import Defaults, Foreign
from node.formats.iodefparts import Reader, ml, restriction_of
from node.formats.meaning import at_times, drill
from node.formats.taking import Draft, Spot, attempt, embedded, items
from protocol.errors import ProtocolError
from protocol.reasons import Reason


def read(data: bytes, defaults: Defaults) -> Sequence[Foreign | ProtocolError]:
    """Read all incidents of a document, or of an array of them. ProtocolError if a lone document is no IODEF."""
    spots, many = items(data)
    if not many:
        return _document(spots[0], defaults)
    found: list[Foreign | ProtocolError] = []
    for spot in spots:
        try:
            found.extend(_document(spot, defaults))
        except ProtocolError as exc:
            found.append(exc)
    return found


def _document(spot: Spot, defaults: Defaults) -> list[Foreign | ProtocolError]:
    version, incidents = spot.get("version"), spot.get("Incident")
    if not isinstance(version.value, str) or not version.value.startswith("2"):
        reason = Reason.MISSING_FIELD if version.value is None else Reason.UNKNOWN_VALUE
        raise ProtocolError(reason, version.at, "an IODEF document in JSON says `2.0` here")
    if not isinstance(incidents.value, list) or not incidents.value:
        reason = Reason.MISSING_FIELD if incidents.value is None else Reason.EMPTY
        raise ProtocolError(reason, incidents.at, "the document holds no incident")
    version.take()
    around: dict[str, Any] = {}
    for name, place in spot.fields():
        if name != "Incident":
            around.update(place.left())
    found = [attempt(lambda one: incident(one, defaults), each) for each in incidents.each()]
    return [replace(one, unmapped={**around, **one.unmapped}) if isinstance(one, Foreign) else one for one in found]


def incident(spot: Spot, defaults: Defaults) -> Foreign:
    """Read one incident, or raise ProtocolError."""
    block = _block(spot)
    label = restriction_of(spot)
    draft = Draft()
    draft.header["marking"] = marking_of(block, [label], defaults, spot)
    for name in ("restriction", "ext-restriction") if label else ():
        spot.get(name).take()
    own = isinstance(block.value, dict)
    reader = Reader(draft, draft.header["marking"]["tlp"], own=own)
    _stage(draft, spot)
    _story(draft, spot)
    reader.related(spot)
    reader.discoveries(spot)
    reader.assessments(spot)
    reader.methods(spot)
    reader.contacts(spot)
    reader.events(spot)
    reader.indicators(spot)
    reader.history(spot)
    reader.undetermined()
    if own:
        for name in ("GenerationTime", "ReportTime"):
            spot.get(name).take()
    restore(block, draft)
    source_id = _source_id(spot.get("IncidentID"))
    stated = spot.get("GenerationTime").value
    return Foreign(spot.at, source_id, draft.filing(), {**spot.left(), **block.left()}, stated=stated)


def _source_id(spot: Spot) -> str:
    """A number is one of the team that gave it: the name of both."""
    parts = (spot.get("name"), spot.get("id"), spot.get("instance"))
    return "/".join(text for part in parts if (text := part.text(500)))


def _block(spot: Spot) -> Spot:
    """The block of a document of ours, as a place of its own; it is taken from the text that it stands in."""
    for data in spot.get("AdditionalData").each():
        value = data.get("value")
        if data.get("name").value == NAME and isinstance(value.value, str):
            found = embedded(value.value)
            if isinstance(found, dict):
                data.take()
                return replace(value, value=found)
    return replace(spot, value=None)


def _stage(draft: Draft, spot: Spot) -> None:
    purpose, more = spot.get("purpose"), spot.get("ext-purpose")
    if purpose.value in words.PURPOSES:
        draft.header["purpose"] = purpose.take()
    elif purpose.value == "ext-value" and (more.word() or "").lower() == words.EXERCISE:
        drill(draft)
        purpose.take()
        more.take()
    status = spot.get("status")
    word, exact = words.STATUSES.get(status.word() or "", ("", False))
    if draft.put("status", word or None) and exact:
        status.take()


def _story(draft: Draft, spot: Spot) -> None:
    texts = [ml(text) for text in spot.get("Description").each()]
    first = texts[0].value if texts else None
    if isinstance(first, str) and len(first) <= 300:
        draft.put("title", texts.pop(0).text())
    for text in texts[:1]:
        draft.put("description", text.text(32_768))
    at_times(
        draft,
        {
            "occurred": spot.get("StartTime"),
            "detected": spot.get("DetectTime"),
            "recovered": spot.get("RecoveryTime"),
            "ended": spot.get("EndTime"),
        },
    )
