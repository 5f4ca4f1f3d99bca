"""Follows a node's own copy of the region's records from the founding one that it pins. Rows in, findings out.

Guarantees: every record that is here is followed again with the signatures that it needs, and each has its leaf among
those that the witness looks for. Raises nothing for what a row holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from node.reading import Looking
from node.trust import Trust
from protocol.chain import apply, found
from protocol.enact import State
from protocol.errors import ProtocolError
from protocol.faults import MISSING, Finding, differences, gaps, refused
from protocol.governance import open_record

GOVERNANCE: Final = "governance"
"""What the leaf of a record is about."""


def check_governance(reads: Looking, trust: Trust, now: datetime) -> Iterator[Finding]:
    """Everything about the records."""
    state: State | None = None
    whole = True
    rows = reads.governance()
    yield from gaps((row.number for row in rows), GOVERNANCE, -1)
    for row in rows:
        try:
            signed = open_record(row.record.encode("ascii", "replace"))
            pairs: list[tuple[str, object, object]] = [
                ("digest", row.digest, signed.digest),
                ("number", row.number, signed.record.number),
            ]
            if row.number < len(trust.digests):
                pairs.append(("digest", row.digest, trust.digests[row.number]))
            yield from differences(GOVERNANCE, row.number, pairs)
            if whole:
                state = found(signed, now, trust.genesis, trust.sight) if state is None else apply(state, signed, now)
        except ProtocolError as exc:
            # Nothing can be said of what follows from a record that does not hold.
            whole = False
            yield refused(GOVERNANCE, row.number, exc)
        if not any(leaf.name == row.digest for leaf in reads.leaves_by("leaf", [row.leaf])):
            yield Finding(GOVERNANCE, str(row.number), MISSING, f"leaf {row.leaf} among those to be proven")
