"""What waits for the broker's word, and when it is sent (again). Pure: no I/O, time is an argument.

Guarantees: what was added is due at once, and again after each attempt until it is settled, at most every 2 s after a
failure and at most every 10 s after the bus stored it (its receipt is then on its way, and a busy broker is not helped
by repetitions); both double to 60 s. Nothing of this is on disk: the tables say what waits, and after a restart all of
it is due at once. Takes some 300 bytes for each thing that waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from protocol import limits
from protocol.envelope import Rand

FAILED_WAIT: Final = timedelta(seconds=2)
STORED_WAIT: Final = timedelta(seconds=10)
MOST_WAIT: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Waiting:
    """One thing that waits."""

    since: datetime
    weight: int
    attempts: int = 0
    in_hand: bool = False
    failed: bool = False
    due: datetime | None = None
    published: datetime | None = None
    """When the bus first stored it."""


class Outbox:
    """The schedule of all that waits.

    Args:
        rand: jitter is drawn from it, so that a region's nodes do not all send again in the same instant.
    """

    def __init__(self, rand: Rand) -> None:
        self._rand = rand
        self._waiting: dict[int, Waiting] = {}
        self._heap: list[tuple[datetime, int]] = []
        self.weight = 0
        self.newest = 0
        """The highest number that was ever added."""
        self.on_published: Callable[[float], None] = _ignore
        """Hears after how many seconds something was first stored by the bus."""
        self.on_settled: Callable[[Waiting], None] = _ignore
        """Hears of what waits no more."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, number: int, since: datetime, now: datetime, weight: int = 1) -> None:
        """Something new waits, or something known is to be sent again at once."""
        self._drop(number)
        self.newest = max(self.newest, number)
        self._waiting[number] = Waiting(since, weight, due=now)
        self.weight += weight
        heapq.heappush(self._heap, (now, number))

    def clear(self) -> None:
        """Nothing waits."""
        self._waiting.clear()
        self._heap.clear()
        self.weight = 0

    def take(self, now: datetime, most: int) -> list[int]:
        """Up to `most` numbers that are due; each is in the caller's hand until `tried`."""
        taken: list[int] = []
        while self._heap and self._heap[0][0] <= now and len(taken) < most:
            due, number = heapq.heappop(self._heap)
            found = self._waiting.get(number)
            if found is not None and not found.in_hand and found.due == due:
                self._waiting[number] = replace(found, in_hand=True)
                taken.append(number)
        return taken

    def tried(self, numbers: Iterable[int], now: datetime, *, stored: bool) -> None:
        """An attempt ended; what is not settled by now is due again later."""
        for number in numbers:
            found = self._waiting.get(number)
            if found is None or not found.in_hand:
                continue
            wait = min(MOST_WAIT, (STORED_WAIT if stored else FAILED_WAIT) * 2 ** min(found.attempts, 6))
            due = now + wait * (0.75 + self._rand(1)[0] / 512)
            published = found.published or (now if stored else None)
            self._waiting[number] = replace(
                found, attempts=found.attempts + 1, in_hand=False, failed=not stored, due=due, published=published
            )
            if published is not found.published:
                self.on_published((now - found.since).total_seconds())
            heapq.heappush(self._heap, (due, number))

    def hurry(self, now: datetime) -> None:
        """The link is back: what failed is due at once."""
        for number, found in self._waiting.items():
            if found.failed and not found.in_hand and found.due is not None and found.due > now:
                self._waiting[number] = replace(found, due=now)
                heapq.heappush(self._heap, (now, number))

    def settle(self, numbers: Iterable[int]) -> None:
        """The broker's word is here: these wait no more."""
        for number in numbers:
            found = self._drop(number)
            if found is not None:
                self.on_settled(found)

    def _drop(self, number: int) -> Waiting | None:
        found = self._waiting.pop(number, None)
        if found is not None:
            self.weight -= found.weight
        return found

    def __contains__(self, number: int) -> bool:
        return number in self._waiting

    def on_its_way(self) -> set[int]:
        """What the bus stored at the last attempt, and nobody has answered yet."""
        return {number for number, found in self._waiting.items() if found.attempts and not found.failed}

    def next_due(self) -> datetime | None:
        """When something is due next."""
        while self._heap:
            due, number = self._heap[0]
            found = self._waiting.get(number)
            if found is not None and not found.in_hand and found.due == due:
                return due
            heapq.heappop(self._heap)
        return None

    def oldest(self) -> datetime | None:
        """Since when the longest-waiting thing waits: things are added in the order of their age."""
        return next((found.since for found in self._waiting.values()), None)


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for the broker, and the numbers of what is in it."""

    numbers: tuple[int, ...]
    data: bytes
    digest: str = ""
    """Of a submission, by which the broker knows it too."""


def in_messages(rows: Sequence[Any]) -> list[Outgoing]:
    """Confirmations (`id`, `jws`), as many in a message as it takes."""
    messages: list[Outgoing] = []
    part: list[tuple[int, str]] = []
    size = 0
    for row in rows:
        if part and (len(part) >= limits.CONFIRMATIONS_PER_MESSAGE or size + len(row.jws) > limits.SUBMISSION):
            messages.append(_bundle(part))
            part, size = [], 0
        part.append((row.id, row.jws))
        size += len(row.jws) + 3
    return [*messages, _bundle(part)] if part else messages


def _bundle(part: Sequence[tuple[int, str]]) -> Outgoing:
    return Outgoing(tuple(number for number, _ in part), msgspec.json.encode([jws for _, jws in part]))
