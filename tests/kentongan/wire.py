"""A TCP wire between a client and a node that breaks, and answers itself, as proxies do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Wire:
    """Passes bytes on both ways.

    Attributes:
        requests: what came of each connection; each has one.
        instead: answers that are given by the wire itself, one a connection, oldest first.
        cut_after: for each connection in turn, how many bytes of the node's answers pass before it breaks.
        most: bodies that are longer get a 413, as of a proxy with a limit.
    """

    port: int
    url: str = ""
    requests: list[bytearray] = field(default_factory=list)
    instead: deque[bytes] = field(default_factory=deque)
    cut_after: deque[int] = field(default_factory=deque)
    most: int = 1 << 62
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Wire]:
        wire = cls(urlsplit(url).port or 0)
        server = await asyncio.start_server(wire._serve, "127.0.0.1", 0)
        wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield wire
        finally:
            server.close()
            for task in wire._tasks:
                task.cancel()
            await asyncio.gather(*wire._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection that stands."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = bytearray()
        self.requests.append(seen)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.strip().split(b"\r\n")[1:])
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
        seen += head + body
        answer = self.instead.popleft() if self.instead else b""
        if not answer and len(body) > self.most:
            answer = b"HTTP/1.1 413 Too Large\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>"
        if answer:
            writer.write(answer)
            await writer.drain()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        left = self.cut_after.popleft() if self.cut_after else 1 << 62

        # One request a connection, so that the next one is looked at too.
        back.write(seen.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        try:
            while left > 0 and (chunk := await there.read(min(65536, left))):
                left -= len(chunk)
                writer.write(chunk)
                await writer.drain()
        finally:
            back.transport.abort()
