"""What `check` finds in a store: one form for nodes and brokers.

Guarantees: a finding names a row and a fault by ids, reasons, sizes and times, never by report content. A *note* is no
fault: it says what could not be checked, or what is not there yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from protocol.errors import ProtocolError

DIFFERS: Final = "differs"
"""A column says something else than what was signed."""
MISSING: Final = "missing"
"""Something that must be there is not."""
ORPHAN: Final = "orphan"
"""A row belongs to nothing that is there."""
GAP: Final = "gap"
"""A number was left out."""
TWICE: Final = "twice"
"""Something is there more often than once."""
UNREADABLE: Final = "unreadable"
"""A column does not decode, or the database itself is damaged."""
WRONG_STATE: Final = "wrong-state"
"""State, times and numbers do not fit each other."""
NOT_CHECKABLE: Final = "not-checkable"
"""A note: what would be needed to check it is not kept."""
BEHIND: Final = "behind"
"""A note: it is not there yet."""
REASONS: Final = (DIFFERS, MISSING, ORPHAN, GAP, TWICE, UNREADABLE, WRONG_STATE, NOT_CHECKABLE, BEHIND)
"""Those that stand in findings only; the others are reason codes of the protocol."""
_NEVER: Final = datetime(9000, 1, 1, tzinfo=UTC)


class Finding(msgspec.Struct, frozen=True):
    """One fault, or one note.

    Args:
        what: the table, or the part of the log.
        id: of the row.
        reason: one of the above, or a reason code of the protocol.
        detail: a sentence for a person.
    """

    what: str
    id: str
    reason: str
    detail: str = ""
    note: bool = False

    def line(self) -> str:
        """For people: what, id, reason, detail."""
        kind = "note:" if self.note else ""
        return " ".join(part for part in (kind, self.what, self.id, self.reason, self.detail) if part)


def refused(what: str, row: object, error: ProtocolError, part: str = "") -> Finding:
    """A finding out of a refusal: its reason, and where in the row."""
    detail = f"{error.path}: {error.detail}" if error.detail else error.path
    return Finding(what, str(row), error.reason.value, f"{part} {detail}" if part else detail)


def differences(what: str, row: object, pairs: Iterable[tuple[str, object, object]]) -> list[Finding]:
    """One finding for each (column, value there, value signed) whose values are not equal."""
    return [
        Finding(what, str(row), DIFFERS, f"{column} is not what was signed")
        for column, there, signed in pairs
        if there != signed
    ]


def gaps(numbers: Iterable[int], what: str, last: int = 0) -> Iterator[Finding]:
    """A finding for each place where consecutive numbers are not."""
    for number in numbers:
        if number != last + 1:
            yield Finding(what, str(last + 1), GAP, f"the next one is {number}")
        last = number


def time_from(value: int, unit: int) -> datetime:
    """A time out of a table. For what is no time, one at which no key is valid: a damaged row must not end the check.

    Args:
        unit: how many of it are a second.
    """
    try:
        return min(datetime.fromtimestamp(value / unit, UTC), _NEVER)
    except (ValueError, OverflowError, OSError, TypeError):
        return _NEVER


def from_milliseconds(value: int) -> datetime:
    """A time of the ledger."""
    return time_from(value, 1_000)


def from_microseconds(value: int) -> datetime:
    """A time of a node's store."""
    return time_from(value, 1_000_000)


def tell(findings: Iterable[Finding], say: Callable[[str], object], *, as_json: bool) -> int:
    """Hand on each finding as it is found, one a line; the exit code: 1 if one of them is a fault.

    Args:
        say: takes a line.
        as_json: as an object with the fields of `Finding` in place of words.
    """
    faults = 0
    for finding in findings:
        faults += not finding.note
        say(msgspec.json.encode(finding).decode("utf-8") if as_json else finding.line())
    return 1 if faults else 0
