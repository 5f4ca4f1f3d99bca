"""The feed: whatever happens while a listener is away, and wherever the line breaks, it gets every event once."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from node import feed as feeds
from node.api.inbox import Listening
from node.core import NodeCore
from node.feed import Feed
from protocol import door
from protocol.process import Token
from tests.node.world import TOKEN, Clock, make_core

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("happen"), st.integers(1, 40)),
        st.tuples(st.just("listen"), st.integers(1, 60)),
        st.tuples(st.just("break"), st.integers(0, 400)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    min_size=3,
    max_size=14,
)


class Listener:
    """Reads frames, remembers the last whole one, and comes back with its number as browsers do."""

    def __init__(self) -> None:
        self.got: list[int] = []

    async def listen(self, url: str, most: int, cut: int | None = None) -> None:
        """Read up to so many events, or break the line after so many bytes."""
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            headers = {"Authorization": f"Bearer {TOKEN}", "Last-Event-ID": str(self.got[-1] if self.got else 0)}
            async with http.get(f"{url}/v1/feed", headers=headers) as response:
                assert response.status == 200
                data, wanted = b"", len(self.got) + most
                async for chunk in response.content.iter_any():
                    data += chunk
                    whole = data[:cut] if cut is not None else data
                    *frames, rest = whole.split(b"\n\n")
                    for frame in frames:
                        self._take(frame)
                    if (cut is not None and len(data) >= cut) or len(self.got) >= wanted:
                        return
                    data, cut = rest, None if cut is None else cut - len(whole) + len(rest)

    def _take(self, frame: bytes) -> None:
        # The first frame says where the stream stands, and is no event.
        lines = frame.splitlines()
        if any(line.startswith(b"data:") for line in lines):
            self.got += [int(line[4:]) for line in lines if line.startswith(b"id: ")]


@asynccontextmanager
async def serving(core: NodeCore) -> AsyncIterator[str]:
    """The feed behind a door of its own."""
    feed = Feed(core.store, asyncio.get_running_loop())
    core.store.on_events = feed.announce
    tokens = door.Tokens([Token(name="soc", sha256=hashlib.sha256(TOKEN.encode()).hexdigest())])
    bugs: list[BaseException] = []
    app = web.Application(middlewares=[door.guard(tokens, on_bug=bugs.append)])
    app.add_routes([web.get("/v1/feed", Listening(feed).listen)])
    runner = await door.listen(app, "127.0.0.1", 0, shutdown=0.1)
    try:
        yield door.url_of(runner, "127.0.0.1")
    finally:
        feed.close()
        await runner.cleanup()
        assert bugs == []


def happen(core: NodeCore, count: int) -> None:
    with core.store.write() as tx:
        for number in range(count):
            tx.event("report.state", {"number": number}, 0)


@settings(max_examples=10, deadline=None)
@given(steps=STEPS)
def test_every_event_once(steps: list[tuple[str, int]]) -> None:
    """Random arrivals, broken lines in the middle of a frame, restarts; from memory and from disk."""

    async def run(directory: Path) -> None:
        core = make_core(directory, Clock())
        listener = Listener()
        left = list(steps)
        while left:
            async with serving(core) as url:
                while left:
                    what, number = left.pop(0)
                    if what == "happen":
                        await asyncio.to_thread(happen, core, number)
                    elif what == "restart":
                        break
                    elif core.store.last_event > (listener.got[-1] if listener.got else 0):
                        missing = core.store.last_event - (listener.got[-1] if listener.got else 0)
                        await listener.listen(url, min(number, missing), number if what == "break" else None)
            core.store.close()
            core = make_core(directory, Clock())
        async with serving(core) as url:
            while core.store.last_event > (listener.got[-1] if listener.got else 0):
                await listener.listen(url, core.store.last_event - (listener.got[-1] if listener.got else 0))
        last = core.store.last_event
        core.store.close()
        assert listener.got == list(range(1, last + 1))

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
        # So that a listener that was away is served from disk, from memory, and from both in one go.
        patch.setattr(feeds, "IN_MEMORY", 16)
        patch.setattr(feeds, "_PAGE", 7)
        asyncio.run(run(Path(name)))


async def test_listeners_of_a_running_feed_get_the_same(core: NodeCore) -> None:
    """Many of them, each breaking off at will, while events happen."""
    async with serving(core) as url:
        listeners = [Listener() for _ in range(8)]

        async def follow(listener: Listener, index: int) -> None:
            while len(listener.got) < 300:
                await listener.listen(url, 300 - len(listener.got), 200 + 137 * index)

        tasks = [asyncio.create_task(follow(listener, index)) for index, listener in enumerate(listeners)]
        for _ in range(30):
            await asyncio.to_thread(happen, core, 10)
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        for listener in listeners:
            assert listener.got[:300] == list(range(1, 301))
