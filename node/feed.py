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

from node.store import Event, Store
from protocol.door import frame

IN_MEMORY: Final = 4_096
_PAGE: Final = 500


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


def _frame(event: Event) -> bytes:
    return frame(event.seq, event.kind, event.data)
