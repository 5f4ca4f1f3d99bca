"""What a format has no place for, carried beside what it has: the block `kentongan` of an exported document.

Pure. Guarantees: what is read back from a document that was written here is what was written, field by field, as far as
it was shown; and a document says which units are withheld from it. A writer first writes what its format has a place
for, reads that back, and puts each field that came back otherwise into the block, whole. A field in the block wins
over what the format says; null in the block says that the report does not say it. What is coarse stands in its place,
and is named as such. A report that was withdrawn is its identity and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from node.formats.foreign import Defaults, Shown
from node.formats.meaning import marked, tlp_at
from node.formats.taking import Draft, Spot, valid
from protocol.parse import convert
from protocol.parts import Marking
from protocol.report import COARSE_SUFFIX, Body, Filing

NAME: Final = "kentongan"
SAID: Final = tuple(
    name for name in Filing.__struct_fields__ if name not in ("report_id", "incident_id", "revision", "body")
)
"""The fields of a header that a filer states."""

SOURCE: Final = "source"
"""Never written, and never read from a block: it says what this member's own tools sent, and of which document."""

_IDENTITY: Final = ("report_id", "incident_id", "revision", "origin", "issued_at", "phase")
_LEAST: Final = {"marking": {"tlp": "CLEAR"}, "rsit": [{"class": "other"}]}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

encode: Final = msgspec.json.Encoder(order="deterministic").encode


def is_withdrawn(shown: Shown) -> bool:
    """Whether the report was withdrawn: then its body is nobody's to show, whatever is still here."""
    return shown.header.get("phase") == "withdrawn"


def as_filing(shown: Shown) -> dict[str, Any]:
    """What is shown of a report as a filing; a coarse value stands where it fits, in the place of the exact one."""
    header = {name: shown.header[name] for name in SAID if name in shown.header}
    body: dict[str, Any] = {}
    for name, value in shown.body.items():
        plain = name.removesuffix(COARSE_SUFFIX)
        if plain == SOURCE:
            continue
        if plain != name and (plain in shown.body or not valid(Body, {plain: value})):
            continue
        body[plain] = [_unlevelled(element) for element in value] if isinstance(value, list) else value
    return {**header, "body": body} if body else header


def _unlevelled(element: Any) -> Any:
    return {name: value for name, value in element.items() if name != "level"} if isinstance(element, dict) else element


def coarse_fields(shown: Shown) -> list[str]:
    """The body fields of which something coarse is shown."""
    found = {name.removesuffix(COARSE_SUFFIX) for name in shown.body if name.endswith(COARSE_SUFFIX)}
    for name, value in shown.body.items():
        if isinstance(value, list) and any(isinstance(part, dict) and part.get("level") == "coarse" for part in value):
            found.add(name)
    return sorted(found)


def statement(shown: Shown) -> dict[str, Any]:
    """The block, before anything that the format has no place for: which report this is, and what of it is not here."""
    said: dict[str, Any] = {
        "report": {name: shown.header[name] for name in _IDENTITY if name in shown.header},
    }
    if is_withdrawn(shown):
        return {**said, "withdrawn": True}
    stand_ins = {
        name: value
        for name, value in shown.body.items()
        if name.endswith(COARSE_SUFFIX) and not valid(Body, {name.removesuffix(COARSE_SUFFIX): value})
    }
    more = {
        "withheld": sorted(shown.withheld),
        "undisclosed": shown.undisclosed,
        "coarse": coarse_fields(shown),
        "stand_ins": stand_ins,
    }
    return {**said, **{name: value for name, value in more.items() if value}}


def in_words(shown: Shown) -> str:
    """The same in a sentence."""
    if is_withdrawn(shown):
        return "This report was withdrawn by its origin."
    parts = []
    if shown.withheld:
        parts.append(f"withheld: {', '.join(sorted(shown.withheld))}")
    if shown.undisclosed:
        parts.append(f"not disclosed to this node: {shown.undisclosed} parts")
    if coarse := coarse_fields(shown):
        parts.append(f"coarse: {', '.join(coarse)}")
    return f"Not all of the report: {'; '.join(parts)}." if parts else "All of the report."


def with_rest(block: Mapping[str, Any], filing: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """The block with every field of a filing that came back otherwise, or came back although it is not there."""
    said, got = canonical(filing), canonical(again)
    body = _differing(said.pop("body", {}), got.pop("body", {}))
    header = _differing(said, got)
    if set(said["marking"]) != {"tlp"}:
        header["marking"] = said["marking"]
    return {**block, **({"header": header} if header else {}), **({"body": body} if body else {})}


def _differing(said: Mapping[str, Any], got: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in {**said, **got} if said.get(name) != got.get(name)]
    return {name: said.get(name) for name in names}


def canonical(filing: Mapping[str, Any]) -> dict[str, Any]:
    """A filing in the one spelling that it has: times, and fields that say no more than their absence."""
    said: dict[str, Any] = msgspec.to_builtins(convert(filing, Filing))
    return said


def marking_of(block: Spot, labels: list[str | None], defaults: Defaults, spot: Spot) -> dict[str, Any]:
    """The marking of an item: the strictest of its labels and that of its block, whose named recipients hold."""
    place = block.get("header", "marking")
    if place.value is None:
        return marked(labels, defaults, spot)
    convert(place.value, Marking, place.at)
    more = {name: value for name, value in place.value.items() if name != "tlp"}
    marking = marked([*labels, tlp_at(place.get("tlp"))], defaults, spot, more)
    place.take()
    return marking


def restore(block: Spot, draft: Draft) -> None:
    """Let what stands in a block win over what was read beside it; what is not valid stays untaken."""
    if block.get("withdrawn").value is True:
        draft.header["phase"] = "withdrawn"
        block.get("withdrawn").take()
    for name, place in block.get("header").fields():
        if name == "marking" or name not in SAID or (place.value is None and name == "rsit"):
            continue
        _settle(draft.header, name, place, Filing, {**_LEAST, name: place.value})
    for name, place in block.get("body").fields():
        if name == SOURCE:
            continue
        _settle(draft.body, name, place, Body, {name: place.value})


def _settle(holder: dict[str, Any], name: str, place: Spot, kind: Any, whole: Mapping[str, Any]) -> None:
    if place.value is None:
        holder.pop(name, None)
    elif valid(kind, whole):
        holder[name] = place.take()


def milliseconds(text: str) -> int:
    """A time as milliseconds since 1970."""
    return (convert(text, datetime) - _EPOCH) // timedelta(milliseconds=1)


def from_milliseconds(value: Any) -> str | None:
    """Milliseconds since 1970 as a time; None if it is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    try:
        return (_EPOCH + timedelta(milliseconds=value)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return None
