"""What a later revision of a report takes back of what an earlier one said, as revoked STIX objects. Pure.

Guarantees: an object that the newest revision does not have any more is revoked under its own id, as a newer version of
itself; also if it arrives late. Not revoked is what was only worded anew (the same pattern, the same name), since tools
know things by that, and what may have been withheld here rather than taken back. What takes the place of objects whose
report has ended says nothing of what they said, and matches nothing.

Whether something was withheld is told by unit, as policies release it: a unit of which the newest revision shows
anything exact was released to us whole, and one that came coarse was not. Of one of which it shows nothing, nobody says
so; it counts as taken back unless our own import policy withholds it, or more is undisclosed here than of the earlier
revision: of the list of indicators, or if there is none of the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from node.formats import stix_words as words
from node.formats.stix_pattern import pattern_of, values_of
from node.taxii import STEP, Brought, Placed, Seen, micros_of, version_of
from protocol import coarse
from protocol.envelope import disclosure_digest
from protocol.keys import unb64
from protocol.report import Indicator, part_of

_UNITS: Final[Mapping[str, frozenset[str]]] = {
    "attack-pattern": frozenset({"attack"}),
    "threat-actor": frozenset({"actor"}),
    "malware": frozenset({"malware"}),
    "vulnerability": frozenset({"vulnerabilities"}),
    "identity": frozenset({"victim", "contacts"}),
    "location": frozenset({"geo"}),
    "event": frozenset({"times"}),
    "task": frozenset({"times", "actions"}),
    "impact": frozenset({"impacts", "financial_loss"}),
}
"""The units that an object of a type may come from."""
_KEPT: Final = ("type", "spec_version", "id", "created_by_ref", "created", "object_marking_refs")
_NEVER: Final = "[x-kentongan-report:phase = 'withdrawn']"
"""A pattern is required: this one matches nothing that anybody observes."""
_STAND_INS: Final[Mapping[str, Mapping[str, Any]]] = {
    "indicator": {"pattern": _NEVER, "pattern_type": "stix", "pattern_version": "2.1"},
    "malware": {"is_family": True},
    "location": {"region": "withdrawn"},
    "event": {"status": "undetermined"},
    "task": {"outcome": "unknown"},
    "impact": {"impact_category": "unknown"},
    "note": {"content": "Withdrawn"},
}
_ENDS: Final = ("relationship_type", "source_ref", "target_ref", "object_refs")
_NEW: Final = {"extension_type": "new-sdo"}
_ELEMENT: Final = 2
"""Values of a disclosure that is an element of a list; a field has three."""
_NAMELESS: Final = frozenset({"relationship", "note", "event", "task", "impact"})


def retracted(revisions: Sequence[Brought]) -> list[Placed]:
    """What the newest of a report's revisions that are here has taken back.

    Args:
        revisions: all of one report that are here and may be shown, in any order.
    """
    by_revision = sorted(revisions, key=lambda one: one.revision)
    *earlier, newest = by_revision
    here = {placed.object_id for placed in newest.own}
    named = {_named(item) for item in _items(newest.own)} - {None}
    at = max((placed.version for placed in newest.own), default=0)
    last: dict[str, tuple[dict[str, Any], Placed, Brought]] = {}
    for revision in earlier:
        for placed, item in zip(revision.own, _items(revision.own), strict=True):
            if placed.object_id not in here and placed.type != "incident" and _named(item) not in named:
                last[placed.object_id] = item, placed, revision
    gone = {name for name, (item, _, revision) in last.items() if _is_taken_back(item, revision, newest)}
    # A relationship goes with what it leads to or from.
    gone |= {
        name
        for name, (item, _, _) in last.items()
        if item["type"] == "relationship" and {item["source_ref"], item["target_ref"]} & gone
    }
    return [_over(placed, item, max(placed.version + STEP, at)) for n, (item, placed, _) in last.items() if n in gone]


def _items(placed: Iterable[Placed]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(one.object) for one in placed]


def _named(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """What tools know a thing by, beside its id."""
    return None if item["type"] in _NAMELESS else (item["type"], item.get("pattern") or item.get("name", ""))


def _is_taken_back(item: Mapping[str, Any], revision: Brought, newest: Brought) -> bool:
    if item["type"] == "note":
        return True
    if item["type"] == "relationship":
        return False
    return _is_dropped(_units_of(item), revision.seen, newest.seen)


def _is_dropped(units: frozenset[str], before: Seen, now: Seen) -> bool:
    """Whether something of these units, which was there before, is not withheld now but gone."""
    if units & now.shows or not now.presentation:
        return True
    if units & now.withheld or {f"{unit}:coarse" for unit in units} & now.shows:
        return False
    then, still = _hidden(before.presentation), _hidden(now.presentation)
    if still.indicators is not None and all(unit.startswith("indicators.") for unit in units):
        return still.indicators <= (then.indicators or 0)
    return still.fields <= then.fields


def dropped_indicators(
    earlier: Sequence[tuple[Seen, Sequence[Mapping[str, Any]]]], newest: tuple[Seen, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Indicators that a report's newest revision has taken back, each as it was worded last.

    Args:
        earlier: of each earlier revision, in order, how much of it is known, and its indicators.
        newest: the same of the newest.
    """
    seen, here = newest
    patterns = {pattern_of(item["type"], item["value"]) for item in here}
    found: dict[str, dict[str, Any]] = {}
    for before, listed in earlier:
        for item in listed:
            name = pattern_of(item["type"], item["value"])
            if name not in patterns and _is_dropped(frozenset({part_of("indicators", item)}), before, seen):
                found[name] = dict(item)
    return list(found.values())


class _Hidden(NamedTuple):
    """How much of a report is signed and not disclosed here."""

    fields: int
    """A list counts as one, if nothing of it is disclosed."""
    indicators: int | None
    """Of their list, but for those of which the exact or the coarse value is here; None if the list is not."""


def _hidden(presentation: str) -> _Hidden:
    _, header, *texts = presentation.split("~")[:-1]
    fields, indicators = len(_opened(header)[1].get("_sd", ())), None
    elements: dict[str, dict[str, Any]] = {}
    listed: list[dict[str, str]] | None = None
    for text in texts:
        values = _opened(text)
        if len(values) == _ELEMENT:
            elements[disclosure_digest(text)] = values[1]
            continue
        fields -= 1
        if values[1] == "indicators":
            listed = values[2]
    if listed is not None:
        shown = [elements[one["..."]] for one in listed if one["..."] in elements]
        indicators = len(listed) - len(shown) - _twins(shown)
    return _Hidden(fields, indicators)


def _opened(text: str) -> list[Any]:
    found: list[Any] = msgspec.json.decode(unb64(text))
    return found


def _twins(shown: Sequence[dict[str, Any]]) -> int:
    """How many more the origin has signed of these: each exact one coarse, once for several, or the other way round."""
    exact = [msgspec.convert(one, Indicator) for one in shown if one.get("level") != "coarse"]
    wider = {found.value for one in exact if (found := coarse.indicator(one)) is not None}
    return len(shown) - len(exact) + len(wider)


def _units_of(item: Mapping[str, Any]) -> frozenset[str]:
    if item["type"] != "indicator":
        return _UNITS.get(item["type"], frozenset())
    filed = item.get("extensions", {}).get(words.OURS, {}).get("as_filed")
    kinds = [filed["type"]] if filed else [value.type for value in values_of(item["pattern"]) or ()]
    return frozenset(part_of("indicators", {"type": kind}) for kind in kinds)


def _over(placed: Placed, item: dict[str, Any], version: int) -> Placed:
    over = {**item, "modified": version_of(version), "revoked": True, **_until(item, version)}
    data = msgspec.json.encode(over)
    return Placed(placed.object_id, placed.type, version, placed.spec_version, data, ended=True)


def _until(item: Mapping[str, Any], version: int) -> dict[str, str]:
    """For tools that look at how long an indicator holds and not at whether it is revoked."""
    if item["type"] != "indicator" or micros_of(item["valid_from"], "$.valid_from") >= version:
        return {}
    return {"valid_until": version_of(version)}


def revoked(data: bytes, version: int) -> bytes:
    """What takes the place of an object whose report has ended: that it is revoked, and nothing of what it said."""
    item: dict[str, Any] = msgspec.json.decode(data)
    kind = item["type"]
    kept: dict[str, Any] = {name: item[name] for name in (*_KEPT, *_ENDS) if name in item}
    if kind not in _NAMELESS:
        kept["name"] = "Withdrawn"
    kept |= _STAND_INS.get(kind, {})
    if kind == "indicator":
        kept["valid_from"] = item["created"]
        kept |= _until(kept, version)
    if new := {name: value for name, value in item.get("extensions", {}).items() if value == _NEW}:
        kept["extensions"] = new
    return msgspec.json.encode({**kept, "modified": version_of(version), "revoked": True})
