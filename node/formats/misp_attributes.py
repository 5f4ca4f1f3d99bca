"""Attributes of MISP, each read for what the report profile has a place for.

Guarantees: an attribute is read into the filing, or listed as a whole; of one that is read, each property that has no
place is listed, and the type where it says more than the profile's (`email-src` is read as an address).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, get_args

from node.formats import misp_words as words
from node.formats.leftover import Draft, Piece, moment
from node.formats.stix_pattern import address
from protocol.report import Body
from protocol.taxonomy import IndicatorType

LISTS: Final = frozenset(
    {
        *("detection_methods", "impacts", "services", "attack", "malware", "vulnerabilities", "ai_enabled", "actions"),
        *("assistance_requested", "contacts", "attachments", "related", "references"),
    }
)
assert set(Body.__struct_fields__) >= LISTS  # noqa: S101 - a name that is no field would never be read
_BOOKKEEPING: Final = (
    *("uuid", "id", "event_id", "object_id", "timestamp", "category", "distribution", "sharing_group_id", "deleted"),
    *("disable_correlation", "object_relation", "to_ids"),
)
_PARTS: Final = 2


def read_attribute(draft: Draft, piece: Piece, filed: str) -> None:
    """Read an attribute.

    Args:
        filed: the indicator type that this project's writer tagged it with, or nothing.
    """
    kind, value = piece.peek("type", str) or "", piece.peek("value", str)
    if not value:
        return
    if filed in get_args(IndicatorType) and kind == "other":
        _indicator(draft, piece, filed, value, whole=True)
    elif kind in words.INDICATORS:
        _indicator(draft, piece, words.INDICATORS[kind], value, whole=kind in words.EXACT)
    elif kind in words.COMPOSITES:
        parts = value.split("|")
        for type_, part in zip(words.COMPOSITES[kind], parts, strict=False) if len(parts) == _PARTS else ():
            if type_ and part:
                _indicator(draft, piece, type_, part, whole=False)
    elif kind in _OTHERS and _OTHERS[kind](draft, piece, value):
        _read(piece, "type", "value")


def _read(piece: Piece, *names: str) -> None:
    """Note that an attribute has been read. That it is not for detection, or not for all, is listed."""
    piece.touched = True
    own = {"to_ids": False} if piece.value.get("to_ids") is False and "to_ids" not in names else {}
    if piece.value.get("distribution") not in (None, "5", 5):
        own["distribution"] = piece.value["distribution"]
    piece.drop(*_BOOKKEEPING, *names)
    for name, value in own.items():
        piece.back(name, value)


def _indicator(draft: Draft, piece: Piece, kind: str, value: str, *, whole: bool) -> None:
    """Read an indicator.

    Args:
        whole: its type and value are the attribute's; else they are listed, too.
    """
    if kind == "address":
        kind, value = address(value)
    comment = piece.peek("comment", str)
    seen = {name: time for name in ("first_seen", "last_seen") if (time := _instant(piece.value.get(name)))}
    found = {"type": kind, "value": value, **({"context": comment} if comment else {}), **seen}
    if not draft.add("indicators", found):
        return
    _read(piece, *seen, *(["type", "value"] if whole else []))
    piece.drop("comment")
    if not whole:
        piece.back("type", piece.value["type"])
        piece.back("value", piece.value["value"])


def _instant(value: Any) -> str | None:
    """ISO 8601, or microseconds since 1970 as some versions write it."""
    if isinstance(value, str) and value.isdigit():
        try:
            return datetime.fromtimestamp(int(value) / 1_000_000, UTC).isoformat()
        except (ValueError, OverflowError, OSError):
            return None
    return moment(value) if isinstance(value, str) else None


def one_of(draft: Draft, field: str, element: dict[str, Any], key: str) -> bool:
    """Add an element, unless one is there that says the same and more."""
    if any(held.get(key) == element[key] for held in draft.body.get(field, ())):
        return True
    return draft.add(field, element)


def _vulnerability(draft: Draft, piece: Piece, value: str) -> bool:
    piece.drop("to_ids")
    return one_of(draft, "vulnerabilities", {"id": value}, "id")


def _link(draft: Draft, piece: Piece, value: str) -> bool:
    comment = piece.peek("comment", str)
    read = one_of(draft, "references", {"title": comment or value[:300], "url": value}, "url")
    if read:
        piece.drop("comment")
    return read


def _victim(draft: Draft, _: Piece, value: str) -> bool:
    held = draft.body.get("victim")
    return draft.put("victim", {"name": value}) if held is None else bool(held["name"] == value)


def _actor(draft: Draft, _: Piece, value: str) -> bool:
    held = draft.body.get("actor")
    return draft.put("actor", {"name": value}) if held is None else bool(held["name"] == value)


def _campaign(draft: Draft, _: Piece, value: str) -> bool:
    return draft.add("related", {"kind": "same-campaign", "ref": value})


_OTHERS: Final[dict[str, Callable[[Draft, Piece, str], bool]]] = {
    "vulnerability": _vulnerability,
    "link": _link,
    "target-org": _victim,
    "threat-actor": _actor,
    "campaign-name": _campaign,
}
