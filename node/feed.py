"""The feed of events, for any number of listeners at once.

Guarantees: a listener that says where it is gets every later event once and in order, from memory or from disk; the
bytes of a frame are made once for all. Belongs to one event loop; `announce` alone may be called from another thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

import msgspec
from msgspec import Struct

from node.store import Event, Reads, Store
from node.views import marks_allow
from protocol.access import Client
from protocol.door import frame

IN_MEMORY: Final = 4_096
_PAGE: Final = 500
_ABOUT_REPORTS: Final = ("report.", "review.")
"""Kinds of events that say which reports they are about."""


class _About(Struct):
    """What an event says of which reports it is about."""

    tlp: str | None = None
    digest: str | None = None
    report_id: str | None = None
    a_report: str | None = None
    b_report: str | None = None
    reports: list[str] = []

    def named(self) -> list[str]:
        """The reports' ids."""
        return [name for name in (self.report_id, self.a_report, self.b_report, *self.reports) if name]


_about: Final = msgspec.json.Decoder(_About)


class Feed:
    """The newest events in memory, the others in the store.

    Args:
        store: must not commit events before `announce` is its `on_events`.
        loop: of all listeners.
    """

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        self._frames: deque[bytes] = deque(maxlen=IN_MEMORY)
        self._last = store.last_event
        self._changed = asyncio.Event()
        self.closed = False

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return self._last

    def announce(self, events: Sequence[Event]) -> None:
        """Take events that were just committed. They come in order: one thread commits."""
        self._loop.call_soon_threadsafe(self._append, events)

    def _append(self, events: Sequence[Event]) -> None:
        self._frames.extend(_frame(event) for event in events)
        self._last = events[-1].seq
        self._wake()

    def close(self) -> None:
        """Let all listeners go."""
        self.closed = True
        self._wake()

    def wake(self) -> None:
        """Have all listeners look whether they may still listen. From any thread."""
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def after(self, seq: int) -> tuple[bytes, int]:
        """Some of the frames after an event, and the number of the last of them; nothing if there are none yet."""
        missing = self._last - seq
        if missing <= 0:
            return b"", seq
        if missing <= len(self._frames):
            start = len(self._frames) - missing
            chosen = list(islice(self._frames, start, start + _PAGE))
            return b"".join(chosen), seq + len(chosen)
        events = await asyncio.to_thread(self._page, seq)
        return b"".join(map(_frame, events)), events[-1].seq if events else seq

    async def seen_by(self, client: Client, seq: int) -> tuple[bytes, int]:
        """As `after`, of what a client may hear of that must not read everything."""
        if self._last <= seq:
            return b"", seq
        return await asyncio.to_thread(self._seen_page, client, seq)

    def _seen_page(self, client: Client, seq: int) -> tuple[bytes, int]:
        with self._store.read() as reads:
            events = reads.events_after(seq, _PAGE)
            shown = seen(reads, events, client)
        return b"".join(map(_frame, shown)), events[-1].seq if events else seq

    def _page(self, seq: int) -> list[Event]:
        with self._store.read() as reads:
            return reads.events_after(seq, _PAGE)

    async def wait(self, seq: int, seconds: float) -> bool:
        """Wait for an event after `seq`; tells whether there is one."""
        changed = self._changed
        if self._last > seq or self.closed:
            return True
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return False
        return True


def seen(reads: Reads, events: Sequence[Event], client: Client) -> list[Event]:
    """The events of which a client may hear: those that name reports, all of which it may read."""
    said = [(event, _about.decode(event.data)) for event in events if event.kind.startswith(_ABOUT_REPORTS)]
    digests = reads.markings("digest", {about.digest for _, about in said if about.digest})
    named = reads.markings("report_id", {name for _, about in said if not about.digest for name in about.named()})
    shown = []
    for event, about in said:
        marks = [digests.get(about.digest)] if about.digest else [named.get(name) for name in about.named()]
        if about.tlp is not None:
            marks.append({about.tlp})
        if marks and all(marks_allow(client, found) for found in marks):
            shown.append(event)
    return shown


def _frame(event: Event) -> bytes:
    return frame(event.seq, event.kind, event.data)
