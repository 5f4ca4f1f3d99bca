"""Holds the TAXII collections to the inbox that they are made from. Rows in, findings out.

Guarantees: what stands there of a report is what the report says, under its own marking and nowhere else; nothing is
left of one that has ended but the word that it has, and what was taken back says more than that only while an earlier
revision that says so is here. Collections that another version of this program made are not looked at: they are made
again at the next start. What belongs to no report is not looked at either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from node import tables
from node.formats.stix import objects_of
from node.projection import SHAPE
from node.reading import Looking
from node.retracting import revoked
from node.taxii import brought
from node.taxiistore import POSITION
from protocol.errors import ProtocolError
from protocol.faults import DIFFERS, MISSING, ORPHAN, WRONG_STATE, Finding

_OBJECTS, _LISTED = "taxii_objects", "taxii_listed"


def check_taxii(reads: Looking) -> Iterator[Finding]:
    """Everything that does not hold in the collections."""
    if reads.taxii_shape() != SHAPE:
        return
    upto = reads.position(POSITION)
    for page in reads.pages(tables.inbox, "seq", 100):
        sources = [row.seq for row in page if row.seq <= upto]
        objects: dict[int, list[Any]] = {}
        for one in reads.rows_where(tables.taxii_objects, "source", sources):
            objects.setdefault(one.source, []).append(one)
        places: dict[int, set[tuple[str, int]]] = {}
        for place in reads.rows_where(tables.taxii_listed, "source", sources):
            places.setdefault(place.source, set()).add((place.topic, place.tlp))
        for row in page:
            if row.seq <= upto:
                yield from _check(row, objects.get(row.seq, []), places.get(row.seq, set()))
    yield from _check_ends(reads)
    for stray in reads.strays(tables.taxii_objects, "source", tables.inbox, "seq"):
        if stray >= 0:
            yield Finding(_OBJECTS, str(stray), ORPHAN, "there is no such report in the inbox")


def _check_ends(reads: Looking) -> Iterator[Finding]:
    """What was revoked says what it said only while an earlier revision that says so is here."""
    for page in reads.pages(tables.taxii_objects, "added_at", 200, ended=True):
        names = {one.object_id for one in page}
        held = reads.rows_where(tables.taxii_objects, "object_id", names)
        alive = {one.object_id for one in held if not one.ended}
        for one in page:
            if one.object_id not in alive and revoked(bytes(one.object), one.version) != bytes(one.object):
                yield Finding(_OBJECTS, str(one.added_at), WRONG_STATE, "it has ended, and what it said is still here")


def _check(row: Any, there: list[Any], places: set[tuple[str, int]]) -> Iterator[Finding]:
    """One report of the inbox."""
    try:
        made = brought(row, objects_of)
    except (msgspec.DecodeError, ProtocolError, KeyError, TypeError, ValueError):
        return  # The row itself does not hold, which the check of the inbox says.
    if made is None:
        for one in there:
            if not one.ended:
                yield Finding(_OBJECTS, str(one.added_at), WRONG_STATE, "its report has ended, or may not be shown")
        return
    expected = {(placed.object_id, placed.version): placed.object for placed in made.own}
    for one in there:
        if expected.pop((one.object_id, one.version), None) != bytes(one.object):
            yield Finding(_OBJECTS, str(one.added_at), DIFFERS, "it is not what its report says")
    for object_id, _ in expected:
        yield Finding(_OBJECTS, str(row.seq), MISSING, object_id)
    if places != {(topic, made.tlp) for topic in made.topics}:
        yield Finding(_LISTED, str(row.seq), DIFFERS, "it stands in other collections, or under another marking")
