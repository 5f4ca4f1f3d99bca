"""What does not come: checkpoints, cosignatures, proofs and receipts that are overdue while the broker answers.

Guarantees: only time in which the broker answered counts, so that a link that was down accuses nobody; each thing is an
alarm once, on disk before it is forgotten here. The time counts from the start of the process: a restart makes an alarm
later, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from node import tables
from node.alarms import raise_alarm
from node.config import Log as Settings
from node.outbox import Outbox
from node.store import Store, Tx, microseconds
from protocol.reasons import Reason

ABOUT: Final = "log"
LOOK_EVERY: Final = timedelta(seconds=15)
LONGEST_GAP: Final = timedelta(seconds=30)
"""Between two answers of a broker that is there: above the longest wait of a request."""
ALARMS_AT_ONCE: Final = 64
"""Overdue receipts that one look calls out, oldest first: the next look finds the others."""
_EVERYTHING: Final = 1 << 62


class Patience:
    """Tells once when the same thing has waited for too long. Pure.

    Args:
        limit: for how long it may wait.
    """

    def __init__(self, limit: timedelta) -> None:
        self._limit = limit
        self.what: int | None = None
        self._since = timedelta()
        self._told = False

    def ends(self, what: int | None, clock: timedelta) -> bool:
        """Whether it has ended for what waits at this moment (None: nothing does), until `told`."""
        if what != self.what:
            self.what, self._since, self._told = what, clock, False
        return what is not None and not self._told and clock - self._since >= self._limit

    def told(self) -> None:
        """It is on disk: say no more of it."""
        self._told = True


def lose(tx: Tx, lost: Collection[int], size: int, at: int) -> list[str]:
    """Mark leaves as missing that the signed tree of that size does not hold as it should; an alarm once a leaf.

    Returns:
        the reasons of the alarms.
    """
    rows = [row for row in tx.leaves_by("leaf", lost) if row.state == "waiting"]
    tx.set(tables.leaves, "leaf", [{"leaf": row.leaf, "state": "missing"} for row in rows])
    for row in rows:
        facts = {"leaf": row.leaf, "size": size, "what": row.about, "name": row.name}
        raise_alarm(tx, ABOUT, Reason.LEAF_MISSING.value, at, **facts)
    return [Reason.LEAF_MISSING.value] * len(rows)


class Lookout:
    """Counts the time in which the broker answered, and finds what should have come in it.

    Args:
        store: where leaves and checkpoints are.
        outbox: what waits for a receipt.
        settings: after how much time it is an alarm.
        now: the clock.
    """

    def __init__(self, store: Store, outbox: Outbox, settings: Settings, now: Callable[[], datetime]) -> None:
        self._store = store
        self._outbox = outbox
        self._now = now
        self._heard: datetime | None = None
        self._connected = timedelta()
        self._look_at = timedelta()
        self._stalled = Patience(timedelta(minutes=settings.stalled_minutes))
        self._unproven = Patience(timedelta(minutes=settings.stalled_minutes))
        self._unwitnessed = Patience(timedelta(minutes=settings.unwitnessed_minutes))
        self._receipt = timedelta(minutes=settings.receipt_minutes)
        self._sent: dict[int, timedelta] = {}
        self._overdue: set[int] = set()

    def answered(self) -> None:
        """The broker answered something."""
        now = self._now()
        if self._heard is not None and timedelta() < now - self._heard <= LONGEST_GAP:
            self._connected += now - self._heard
        self._heard = now

    def silent(self) -> None:
        """The broker did not answer, or the link is down."""
        self._heard = None

    def look(self) -> list[str]:
        """See what is overdue; does so every `LOOK_EVERY` of time in which the broker answered.

        Returns:
            the reasons of the alarms.

        Raises:
            Transient: the disk is full; it is found again.
        """
        clock = self._connected
        if clock < self._look_at:
            return []
        with self._store.read() as reads:
            last, known = reads.newest_checkpoint(), reads.newest_checkpoint(published=True)
            verified, published = last.size if last else 0, known.size if known else 0
            oldest = (
                (self._stalled, reads.oldest_leaf(verified, _EVERYTHING)),
                (self._unwitnessed, reads.oldest_leaf(published, verified)),
                (self._unproven, reads.oldest_leaf(0, published)),
            )
        ended = [patience for patience, leaf in oldest if patience.ends(leaf.leaf if leaf else None, clock)]
        late = self._late(clock)
        found = self._call_out(ended, late, verified, published) if ended or late else []
        for patience in ended:
            patience.told()
        self._overdue.update(late)
        self._look_at = clock + LOOK_EVERY
        return found

    def _call_out(self, ended: Collection[Patience], late: Collection[int], verified: int, published: int) -> list[str]:
        at = microseconds(self._now())
        found: list[str] = []
        with self._store.write() as tx:
            for patience, reason in (
                (self._stalled, Reason.LOG_STALLED),
                (self._unwitnessed, Reason.NOT_WITNESSED),
            ):
                if patience in ended:
                    facts = {"leaf": patience.what, "verified": verified, "published": published}
                    raise_alarm(tx, ABOUT, reason.value, at, **facts)
                    found.append(reason.value)
            if self._unproven in ended and self._unproven.what is not None:
                found += lose(tx, [self._unproven.what], published, at)
            for name in tx.submission_names(late).values():
                raise_alarm(tx, "receipt", Reason.RECEIPT_OVERDUE.value, at, submission=name)
                found.append(Reason.RECEIPT_OVERDUE.value)
        return found

    def _late(self, clock: timedelta) -> list[int]:
        """Submissions that the bus has, and whose receipt is overdue for the first time."""
        self._sent = {number: since for number, since in self._sent.items() if number in self._outbox}
        self._overdue &= self._sent.keys()
        for number in self._outbox.on_its_way():
            self._sent.setdefault(number, clock)
        late = (
            number
            for number, since in sorted(self._sent.items())
            if clock - since >= self._receipt and number not in self._overdue
        )
        return list(islice(late, ALARMS_AT_ONCE))
