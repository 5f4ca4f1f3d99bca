"""How an audit's lines are written: a table for people, CSV for spreadsheets, JSON for programs. Pure, line by line.

Guarantees: CSV follows RFC 4180, with a header line and column names that stay, and no cell that a spreadsheet would
execute; JSON is an object a line. What does not hold stands on its line, in every format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from node.auditing import Event, Line
from protocol import sheets
from protocol.policy import Withheld

COLUMNS: Final = (
    "decided_at",
    "direction",
    "report_id",
    "revision",
    "phase",
    "origin",
    "member",
    "outcome",
    "granted",
    "exact",
    "coarse",
    "released_by",
    "withheld",
    "delivery",
    "state",
    "state_at",
    "events",
    "leaf",
    "log",
    "faults",
    "told",
    "digest",
    "receipt",
)


def _time(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event(event: Event) -> str:
    why = f" ({event.reason})" if event.reason else ""
    by = "" if event.statement else " [told]"
    return f"{event.state} {_time(event.at)}{why}{by}"


def _why(item: Withheld) -> str:
    rule = f"/{item.rule}" if item.rule else ""
    instead = " (coarse instead)" if item.coarse else ""
    return f"{item.unit}: {item.gate} {item.document}{rule} {item.reason}{instead}"


def cells(line: Line) -> dict[str, str]:
    """A line as text, by column."""
    newest = next((event for event in reversed(line.events) if event.state == line.state), None)
    outcome = f"{line.outcome} ({line.reason})" if line.reason else line.outcome
    return {
        "decided_at": _time(line.decided_at),
        "direction": line.direction,
        "report_id": line.report_id or "",
        "revision": str(line.revision or ""),
        "phase": line.phase or "",
        "origin": line.origin,
        "member": line.member or "",
        "outcome": outcome,
        "granted": "yes" if line.granted else "no",
        "exact": " ".join(line.exact),
        "coarse": " ".join(line.coarse),
        "released_by": "; ".join(f"{item.gate} {item.document}/{item.rule}" for item in line.released_by),
        "withheld": "; ".join(map(_why, line.withheld)),
        "delivery": str(line.delivery or ""),
        "state": line.state,
        "state_at": _time(newest.at) if newest else "",
        "events": "; ".join(map(_event, line.events)),
        "leaf": str(line.leaf),
        "log": line.log,
        "faults": "; ".join(f"{fault.reason} at {fault.path}: {fault.detail}" for fault in line.faults),
        "told": " ".join(line.told),
        "digest": line.digest or "",
        "receipt": line.receipt,
    }


def as_csv(lines: Iterable[Line]) -> Iterator[str]:
    """RFC 4180, the header first; with line ends."""
    return sheets.as_csv(COLUMNS, map(cells, lines))


def as_table(lines: Iterable[Line]) -> Iterator[str]:
    """For people: a line an answer, and indented below it what was released and withheld, and what became of it."""
    for line in lines:
        found = cells(line)
        to = f" -> {line.member}" if line.member else ""
        named = f"{line.report_id} rev {line.revision}" if line.report_id else "a submission"
        granted = ("granted" if line.granted else "denied") if line.member else found["outcome"]
        holds = "DOES NOT HOLD" if line.faults else line.log
        yield f"{found['decided_at']}  {named}  {line.origin}{to}  {granted}  {line.state}  leaf {line.leaf} {holds}\n"
        for name in ("exact", "coarse", "released_by", "withheld", "events", "faults", "told"):
            if found[name]:
                yield f"    {name}: {found[name]}\n"


FORMATS: Final[dict[str, Callable[[Iterable[Line]], Iterator[str]]]] = {
    "table": as_table,
    "csv": as_csv,
    "json": sheets.as_json,
}
