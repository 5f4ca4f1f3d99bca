"""What every part of taking in has in hand: the transaction, the time of all of it, and what it came to so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from node import tables
from node.alarms import raise_alarm
from node.doorrows import rows_by
from node.store import Tx, microseconds
from protocol.reasons import Reason


@dataclass(slots=True)
class TakenIn:
    """What a batch came to, for the schedule, the metrics and the log."""

    settled: list[int] = field(default_factory=list)
    """Submissions whose receipt is here."""
    seconds: list[float] = field(default_factory=list)
    """From commit to receipt, one a submission."""
    noted: list[int] = field(default_factory=list)
    """Own confirmations that the broker holds."""
    to_send: list[int] = field(default_factory=list)
    """Own confirmations to be sent now."""
    steps: list[tuple[str, float]] = field(default_factory=list)
    """Seconds by the broker's clock and this one: from its decision to its receipt, or to the report, here."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(what, reason) of reports and statements."""


class Promise(NamedTuple):
    """What the broker said is in its log: the leaf, its entry, and the statement that says so."""

    leaf: int
    entry: bytes
    about: str
    name: str


class Turn:
    """One batch.

    Args:
        tx: the transaction.
        now: the time of all of it.
    """

    def __init__(self, tx: Tx, now: datetime) -> None:
        self.tx = tx
        self.now = now
        self.at = microseconds(now)
        self.taken = TakenIn()

    def alarm(self, about: str, reason: str, **facts: Any) -> None:
        """Raise an alarm."""
        self.taken.counts["alarm", reason] += 1
        raise_alarm(self.tx, about, reason, self.at, **facts)

    def expect(self, promises: Collection[Promise]) -> None:
        """Remember what the broker said is in its log, for the witness to look for."""
        known: dict[int, Any] = rows_by(self.tx.leaves_by("leaf", {promise.leaf for promise in promises}), "leaf")
        fresh: dict[int, Promise] = {}
        for promise in promises:
            held = known.get(promise.leaf) or fresh.setdefault(promise.leaf, promise)
            if held.entry != promise.entry:
                facts = {"leaf": promise.leaf, "name": promise.name, "other": held.name}
                self.alarm("log", Reason.LOG_FORKED.value, **facts)
        rows = [{**promise._asdict(), "state": "waiting", "at": self.at} for promise in fresh.values()]
        self.tx.add(tables.leaves, rows)
