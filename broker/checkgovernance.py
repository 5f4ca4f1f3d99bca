"""Holds the ledger's governance records to their signatures, to each other, and to their leaves in the log.

Guarantees: the records are followed from the founding one with the code that nodes use; each has one row among the
submissions, with its bytes and its entry, and no such row is without a record. Raises nothing for what a row holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from broker import reading, tables
from broker.governing import submission_name
from broker.store import Connection
from protocol.chain import apply, found
from protocol.enact import State
from protocol.errors import ProtocolError
from protocol.faults import BEHIND, MISSING, ORPHAN, Finding, differences, gaps, refused
from protocol.governance import entry_of, open_record
from protocol.statements import BROKER


@dataclass(slots=True)
class Governance:
    """The records that the ledger holds."""

    by_leaf: dict[int, Any] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    """Leaves whose row among the submissions was met."""


def check_chain(
    connection: Connection, files: Sequence[str], now: datetime, governance: Governance
) -> Iterator[Finding]:
    """Follow the records.

    Args:
        files: the digests of the records in the region's directory, in order; none if they are not known.
        governance: is filled.
    """
    state: State | None = None
    whole = True
    rows = [row for page in reading.pages(connection, tables.governance, "number", 64) for row in page]
    yield from gaps((row.number for row in rows), "governance", -1)
    for row in rows:
        governance.by_leaf[row.leaf] = row
        try:
            signed = open_record(bytes(row.record))
            pairs = [("digest", row.digest, signed.digest), ("number", row.number, signed.record.number)]
            yield from differences("governance", row.number, pairs)
            if whole:
                state = found(signed, now) if state is None else apply(state, signed, now)
        except ProtocolError as exc:
            # Nothing can be said of what follows from a record that does not hold.
            whole = False
            yield refused("governance", row.number, exc)
    for row, digest in zip(rows, files, strict=False):
        yield from differences("governance", row.number, [("digest", row.digest, digest)])
    if files and len(rows) > len(files):
        yield Finding("governance", str(len(files)), MISSING, "the file of a record that the ledger holds")
    elif len(rows) < len(files):
        yield Finding(
            "governance", str(len(rows)), BEHIND, f"{len(files) - len(rows)} records in files only", note=True
        )


def check_leaf(row: Any, governance: Governance) -> Iterator[Finding]:
    """A row of the submissions that is the broker's own: a record's leaf."""
    known = governance.by_leaf.get(row.id - 1)
    if known is None:
        yield Finding("submissions", str(row.id), ORPHAN, "no governance record has this leaf")
        return
    governance.seen.add(row.id - 1)
    pairs: list[tuple[str, object, object]] = [
        ("digest", row.digest, submission_name(known.number)),
        ("message", bytes(row.message), bytes(known.record)),
        ("receipt", bytes(row.receipt), b""),
        ("refusal", row.refusal, None),
        ("entry", bytes(row.entry), _entry(known)),
    ]
    yield from differences("submissions", row.id, pairs)


def _entry(row: Any) -> bytes:
    try:
        return entry_of(row.digest)
    except ValueError:
        return b""


def check_leaves(governance: Governance) -> Iterator[Finding]:
    """After all submissions: every record had its row."""
    left: Mapping[int, Any] = {leaf: row for leaf, row in governance.by_leaf.items() if leaf not in governance.seen}
    for leaf, row in sorted(left.items()):
        yield Finding("governance", str(row.number), MISSING, f"the submission {leaf + 1} that is its leaf")


def is_record(row: Any) -> bool:
    """Whether a row of the submissions is the broker's own."""
    return bool(row.member == BROKER)
