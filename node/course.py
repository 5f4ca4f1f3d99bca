"""How far an output (a webhook, a syslog receiver) has come in the feed; on disk.

Guarantees: an output that is made today begins with the next event; a position is moved by one hand at a time, so that
whoever sends an event and hears meanwhile that it is to be sent again does not move it back. Passing faults of the
database are waited out. What disables an output is an event, an alarm and a row that stays, until somebody enables it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from node import tables
from node.about import About, about, chosen
from node.alarms import raise_alarm
from node.feed import Feed
from node.loops import PAUSE, Wake, Writer
from node.outputs import DEFAULT_NAME, Chosen
from node.store import Reads, Store, Tx, microseconds
from protocol.errors import ProtocolError, Transient
from protocol.reasons import Reason

T = TypeVar("T")
IDLE: Final = 60.0
AT_ONCE: Final = 100
SAVE_EVERY: Final = 1_000
"""Events that do not go out after which the position is saved, so that a start need not look through them again."""
_LONGEST_FAULT: Final = 64


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an output stands."""

    name: str
    next: int
    """The number of the next event to be looked at."""
    failing_since: int | None = None
    fault: str = ""
    disabled_at: int | None = None
    delivered_at: int | None = None

    @property
    def state(self) -> str:
        """One word for it."""
        if self.disabled_at is not None:
            return "disabled"
        return "failing" if self.failing_since is not None else "delivering"


# --- within a transaction ---------------------------------------------------------------------------------------


def standing_of(row: Any) -> Standing:
    """Out of a row."""
    return Standing(**{name: getattr(row, name) for name in Standing.__slots__})


def standing_in(reads: Reads, name: str) -> Standing | None:
    """Where an output stands on disk."""
    row = reads.output(name)
    return None if row is None else standing_of(row)


def begin(tx: Tx, name: str) -> Standing:
    """Where an output goes on; a new one, and one in a database that is older than its position, with what comes."""
    following = tx.last[tables.events.name] + 1
    found = standing_in(tx, name)
    if found is None:
        # Where the single webhook of older stores stood.
        before = tx.position(DEFAULT_NAME) if name == DEFAULT_NAME else 0
        found = Standing(name, before if 0 < before <= following else following)
    elif found.next > following:
        found = _with(found, next=following)
    return _put(tx, found)


def enable(tx: Tx, name: str, at: int) -> bool:
    """Let a disabled output go on where it was; False if it was not disabled.

    Raises:
        ProtocolError: UNKNOWN_PATH.
    """
    found = _known(tx, name)
    if found.disabled_at is None:
        return False
    _put(tx, _with(found, disabled_at=None, failing_since=None, fault=""))
    tx.event("webhook.enabled", {"webhook": name}, at)
    return True


def replay(tx: Tx, name: str, start: int) -> int:
    """Have an output go on with this event, again or earlier than it would; returns how many events that is.

    Raises:
        ProtocolError: UNKNOWN_PATH, or OUT_OF_RANGE.
    """
    found, last = _known(tx, name), tx.last[tables.events.name]
    if not 1 <= start <= last + 1:
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.from", f"the events here have the numbers 1 to {last}")
    _put(tx, _with(found, next=start))
    return last + 1 - start


def start_of(reads: Reads, start: int | datetime, last: int) -> int:
    """The number of the event that a replay begins with."""
    return start if isinstance(start, int) else reads.event_since(microseconds(start), last)


def _known(reads: Reads, name: str) -> Standing:
    found = standing_in(reads, name)
    if found is None:
        raise ProtocolError(Reason.UNKNOWN_PATH, "$", "there is no webhook of this name")
    return found


def _with(standing: Standing, **changes: Any) -> Standing:
    return Standing(**{**{name: getattr(standing, name) for name in Standing.__slots__}, **changes})


def _put(tx: Tx, standing: Standing) -> Standing:
    tx.put(tables.outputs, {name: getattr(standing, name) for name in Standing.__slots__})
    return standing


# --- for the loop that sends ------------------------------------------------------------------------------------


class Course:
    """The position of one output, for the loop that sends to it and for who moves it meanwhile.

    Args:
        choice: which events go out.
        member: the origin of own reports.
    """

    def __init__(
        self,
        name: str,
        choice: Chosen,
        member: str,
        *,
        store: Store,
        writer: Writer,
        feed: Feed,
        now: Callable[[], datetime],
    ) -> None:
        self.name = name
        self.now = now
        self.standing = Standing(name, 0)
        self.moved = Wake()
        """Rings when somebody enables the output, or sets its position."""
        self.term = 0
        """Changes with each of these, together with the standing."""
        self._moves = 0
        """The same on the writer's thread, where it changes first: what was to be saved under an old term is not."""
        self.waits_since: int | None = None
        """Since when the event that cannot be sent waits."""
        self._choice = choice
        self._member = member
        self._store = store
        self._writer = writer
        self._feed = feed
        self._unsaved = 0

    def age(self) -> float:
        """Seconds for which the event that cannot be sent has been waiting."""
        return 0.0 if self.waits_since is None else (microseconds(self.now()) - self.waits_since) / 1_000_000

    def behind(self) -> int:
        """Events that were not looked at yet."""
        return max(0, self._store.last_event + 1 - self.standing.next)

    async def begin(self) -> None:
        """Take up where the output was."""
        self.standing = await self._write(lambda tx: begin(tx, self.name))

    async def take(self) -> list[About]:
        """The next events that go out, or none after a while; they may also come again.

        Waits while the output is disabled.
        """
        if self.standing.disabled_at is not None:
            await self.moved.wait(None)
            return []
        seen, term = self.standing.next - 1, self.term
        last = self._store.last_event
        read = await self._patiently(self._after, seen)
        if term != self.term:
            return []
        events, looked_to = read
        if not events:
            passed = looked_to if looked_to > seen else last
            await self._pass(max(seen, passed), term)
            if self._store.last_event == last and looked_to == seen:
                await self._wait(last)
        return events

    async def _wait(self, last: int) -> None:
        """For the next event, or until the position is set."""
        waiting = [asyncio.ensure_future(self._feed.wait(last, IDLE)), asyncio.ensure_future(self.moved.wait(IDLE))]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _pass(self, seq: int, term: int) -> None:
        """Events up to this one do not go out."""
        if seq + 1 <= self.standing.next or term != self.term:
            return
        self._unsaved += seq + 1 - self.standing.next
        self.standing = _with(self.standing, next=seq + 1)
        if self._unsaved >= SAVE_EVERY:
            await self._save(term)

    def _after(self, seq: int) -> tuple[list[About], int]:
        """Events after a number that go out, and how far was looked."""
        with self._store.read() as reads:
            found = reads.events_of(self._choice.kinds, seq, AT_ONCE)
            known = about(reads, found, self._member)
        return [one for one in known if chosen(one, self._choice)], found[-1].seq if found else seq

    async def delivered(self, seq: int, term: int) -> bool:
        """This event was taken: on disk when it returns. False if somebody has set the position meanwhile."""
        if term != self.term:
            return False
        at = microseconds(self.now())
        self.waits_since = None
        self.standing = _with(self.standing, next=seq + 1, failing_since=None, fault="", delivered_at=at)
        await self._save(term)
        return term == self.term

    async def failed(self, fault: str) -> float:
        """The event was not taken; returns the seconds since this began to happen."""
        at = microseconds(self.now())
        if self.standing.failing_since is None:
            self.standing = _with(self.standing, failing_since=at, fault=fault[:_LONGEST_FAULT])
            await self._save(self.term)
        return (at - (self.standing.failing_since or at)) / 1_000_000

    async def disable(self, reason: Reason, fault: str) -> None:
        """Send nothing more until somebody enables it: an event, an alarm, and a row that stays."""
        at = microseconds(self.now())

        def write(tx: Tx) -> Standing:
            standing = _put(tx, _with(self.standing, disabled_at=at, fault=fault[:_LONGEST_FAULT]))
            tx.event("webhook.disabled", {"webhook": self.name, "reason": reason.value}, at)
            raise_alarm(tx, "webhook", reason.value, at, webhook=self.name, fault=fault[:_LONGEST_FAULT])
            return standing

        self.standing = await self._write(write)

    async def enable(self) -> bool:
        """Let it go on; False if it was not disabled."""
        return await self._move(lambda tx: enable(tx, self.name, microseconds(self.now())))

    async def replay(self, start: int | datetime) -> int:
        """Go on with an event of that number or time; how many events that is. ProtocolError if there is none."""
        return await self._move(lambda tx: replay(tx, self.name, start_of(tx, start, self._store.last_event)))

    async def _move(self, change: Callable[[Tx], T]) -> T:
        def write() -> tuple[T, Standing, int]:
            with self._store.write() as tx:
                # What was passed over and not saved yet counts as looked at.
                current = standing_in(tx, self.name)
                if current is not None and current.next < self.standing.next:
                    _put(tx, _with(current, next=self.standing.next))
                result = change(tx)
                found = _known(tx, self.name)
            self._moves += 1
            return result, found, self._moves

        result, self.standing, self.term = await self._writer.run(write)
        self.waits_since = None
        self._unsaved = 0
        self.moved.ring()
        return result

    async def _save(self, term: int) -> None:
        standing = self.standing

        def write(tx: Tx) -> None:
            if term == self._moves:
                _put(tx, standing)

        self._unsaved = 0
        await self._write(write)

    async def _write(self, change: Callable[[Tx], T]) -> T:
        def write() -> T:
            with self._store.write() as tx:
                return change(tx)

        while True:
            try:
                return await self._writer.run(write)
            except Transient:
                await asyncio.sleep(PAUSE)

    async def _patiently(self, read: Callable[[int], T], seq: int) -> T:
        """Read, however long the database is away."""
        while True:
            try:
                return await asyncio.to_thread(read, seq)
            except Transient:
                await asyncio.sleep(PAUSE)
