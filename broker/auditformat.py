"""How an audit's answers are written: a table for people, CSV for spreadsheets, JSON for programs. Pure, line by line.

Guarantees: CSV follows RFC 4180, with a header line and column names that stay; a cell that a spreadsheet would take
for a formula begins with an apostrophe. JSON is an object a line (`Line` in `broker/audit.py`). No format needs to know
how many answers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from broker.audit import Line
from protocol import sheets
from protocol.policy import Withheld
from protocol.statements import ReleasedBy

COLUMNS: Final = (
    "decided_at",
    "report_id",
    "revision",
    "phase",
    "origin",
    "member",
    "granted",
    "exact",
    "coarse",
    "released_by",
    "withheld",
    "delivery",
    "state",
    "state_at",
    "events",
    "confirmation",
    "leaf",
    "log",
    "fault",
    "digest",
)
_CLOSING: Final = ("received", "refused")


def _time(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _by(item: ReleasedBy) -> str:
    return f"{item.gate} {item.document}/{item.rule}"


def _why(item: Withheld) -> str:
    rule = f"/{item.rule}" if item.rule else ""
    instead = " (coarse instead)" if item.coarse else ""
    return f"{item.unit}: {item.gate} {item.document}{rule} {item.reason}{instead}"


def _confirmation(line: Line) -> str:
    """The digest of the statement that took the report off its delivery."""
    return next((event.statement for event in line.events if event.state in _CLOSING), "")


def cells(line: Line) -> dict[str, str]:
    """An answer as text, by column."""
    newest = next((event for event in reversed(line.events) if event.state == line.state), None)
    return {
        "decided_at": _time(line.decided_at),
        "report_id": line.report_id,
        "revision": str(line.revision),
        "phase": line.phase,
        "origin": line.origin,
        "member": line.member,
        "granted": "yes" if line.granted else "no",
        "exact": " ".join(line.exact),
        "coarse": " ".join(line.coarse),
        "released_by": "; ".join(map(_by, line.released_by)),
        "withheld": "; ".join(map(_why, line.withheld)),
        "delivery": "" if line.delivery is None else str(line.delivery),
        "state": line.state,
        "state_at": _time(newest.at) if newest else "",
        "events": "; ".join(f"{event.state} {_time(event.at)}" for event in line.events),
        "confirmation": _confirmation(line),
        "leaf": str(line.leaf),
        "log": line.log,
        "fault": line.fault,
        "digest": line.digest,
    }


def as_csv(lines: Iterable[Line]) -> Iterator[str]:
    """RFC 4180, the header first; with line ends."""
    return sheets.as_csv(COLUMNS, map(cells, lines))


def as_table(lines: Iterable[Line]) -> Iterator[str]:
    """For people: a line an answer, and indented below it what was released and withheld, and what became of it."""
    for line in lines:
        found = cells(line)
        granted = "granted" if line.granted else "denied"
        yield (
            f"{found['decided_at']}  {line.report_id} rev {line.revision}  {line.origin} -> {line.member}"
            f"  {granted}  {line.state}  leaf {line.leaf} {line.log}\n"
        )
        for name in ("exact", "coarse", "released_by", "withheld", "events", "delivery", "confirmation", "fault"):
            if found[name]:
                yield f"    {name}: {found[name]}\n"


FORMATS: Final[dict[str, Callable[[Iterable[Line]], Iterator[str]]]] = {
    "table": as_table,
    "csv": as_csv,
    "json": sheets.as_json,
}
