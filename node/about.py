"""What an event's report says of itself, for filters and for SIEMs. Pure, but for the reading of the rows.

Guarantees: what is not known is treated as the strictest: a marking as RED, a severity as the highest. Never fails on
an event or report that is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from node.outputs import Chosen
from node.store import Event, Reads
from protocol.taxonomy import Tlp

STRICTNESS: Final = {name: number for number, name in enumerate(get_args(Tlp))}
"""TLP from the most open to the strictest."""


class _Marking(Struct):
    tlp: str = "RED"


class _Severity(Struct):
    score: int | None = None


class _Rsit(Struct, rename={"class_": "class"}):
    class_: str = ""
    type: str = ""


class _Body(Struct):
    title: str = ""
    description: str = ""


class _Said(Struct):
    marking: _Marking = msgspec.field(default_factory=_Marking)
    severity: _Severity | None = None
    rsit: list[_Rsit] = []
    body: _Body | None = None


_said: Final = msgspec.json.Decoder(_Said)
_facts: Final = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class About:
    """An event, and what is known of the report that it is about."""

    event: Event
    facts: dict[str, Any]
    report: bool = False
    """Whether it is about a report at all."""
    tlp: str = "RED"
    severity: int | None = None
    rsit: str = ""
    origin: str = ""
    title: str = ""
    description: str = ""


def about(reads: Reads, events: Sequence[Event], member: str) -> list[About]:
    """What is known of the reports of these events.

    Args:
        member: the origin of own reports.
    """
    facts = [_facts.decode(event.data) for event in events]
    ids = {str(found["report_id"]) for found in facts if "report_id" in found}
    rows = reads.told_of(ids)
    return [_one(event, found, rows, member) for event, found in zip(events, facts, strict=True)]


def _one(event: Event, facts: dict[str, Any], rows: dict[tuple[str, int], tuple[str, bytes]], member: str) -> About:
    is_report = event.kind.startswith("report.")
    row = rows.get((str(facts.get("report_id")), int(facts.get("revision") or 0)))
    origin = str(facts.get("origin") or "")
    if row is None:
        return About(event, facts, is_report, origin=origin)
    origin = origin or row[0] or member
    try:
        said = _said.decode(row[1])
    except msgspec.DecodeError:
        # Erased: withdrawn, or expired.
        return About(event, facts, is_report, origin=origin)
    first = said.rsit[0] if said.rsit else _Rsit()
    return About(
        event,
        facts,
        is_report,
        tlp=said.marking.tlp,
        severity=said.severity.score if said.severity else None,
        rsit="/".join(part for part in (first.class_, first.type) if part),
        origin=origin,
        title=said.body.title if said.body else "",
        description=said.body.description if said.body else "",
    )


def strictness(tlp: str) -> int:
    """How strict a marking is; one that is not known is the strictest."""
    return STRICTNESS.get(tlp, len(STRICTNESS) - 1)


def chosen(known: About, choice: Chosen) -> bool:
    """Whether an event of a chosen kind goes out, by the marking and severity of its report."""
    if not known.report:
        return True
    score = 100 if known.severity is None else known.severity
    return strictness(known.tlp) <= strictness(choice.tlp) and score >= choice.severity
