"""Events to a syslog receiver: RFC 5424 over TCP or TLS with the octet counting of RFC 6587, or over UDP.

Guarantees over TCP and TLS: at least once and in order, as far as syslog can: it has no answer by which a receiver
says what it has. An event counts as sent when the receiver's machine has taken it; what was sent in the last seconds
before a connection broke is sent again on the next one, and the position on disk survives a restart. Over UDP: best
effort, once. Addresses come from the operator's file. Never logs what it sends. May be cancelled at any time.
"""

from __future__ import annotations

import asyncio
import fcntl
import ssl
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from node.about import About
from node.cef import syslog
from node.course import Course
from node.metrics import Metrics
from node.outputs import Syslog
from node.webhook import pause_after
from protocol.errors import ConfigError

log = structlog.get_logger()
CONNECT: Final = 10.0
TAKEN: Final = 30.0
"""Seconds in which a receiver must take what is in its way."""
DOUBT: Final = 5.0
"""What was sent within so many seconds of the end of a connection may not have been read: it is sent again."""
LONGEST_PAUSE: Final = 60.0
UDP_MOST: Final = 8_192
"""Bytes of a datagram; a longer message is cut, as RFC 5426 allows."""
_POLL: Final = 0.002
_SLOWEST_POLL: Final = 0.1


def context_of(settings: Syslog) -> ssl.SSLContext | None:
    """How to check a receiver's certificate, which is always done. ConfigError if a file is missing or wrong."""
    if not settings.address.startswith("tls://"):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file)
    except OSError as exc:
        raise ConfigError(f"[[syslog]] {settings.name}: ca_file or cert_file cannot be used: {exc.strerror}") from exc
    return context


class SyslogOutput:
    """Sends events to one receiver.

    Args:
        course: how far it has come.
        member: this node's; the host of the messages.
        rand: returns that many random bytes.
        first_pause: seconds after the first fault.
    """

    def __init__(
        self,
        settings: Syslog,
        course: Course,
        metrics: Metrics,
        member: str,
        rand: Callable[[int], bytes],
        first_pause: float = 1.0,
    ) -> None:
        self._settings = settings
        self._tls = context_of(settings)
        self._course = course
        self._counted = metrics.syslogs
        self._member = member
        self._rand = rand
        self._first_pause = first_pause
        self._recent: deque[tuple[float, int]] = deque()
        """When what was sent last, on the present connection."""
        metrics.syslog_oldest.labels(settings.name).set_function(course.age)

    async def run(self) -> None:
        """Send until it is cancelled."""
        await self._course.begin()
        send = self._over_udp if self._settings.address.startswith("udp://") else self._over_tcp
        faults = 0
        while True:
            before = self._course.standing.delivered_at
            try:
                await send()
            except OSError as exc:
                # Whatever was taken in between: the receiver was there.
                faults = 1 if self._course.standing.delivered_at != before else faults + 1
                await self._broke(exc)
            pause = min(pause_after(faults, self._rand(1)[0], self._first_pause), LONGEST_PAUSE)
            await self._course.moved.wait(pause)

    async def _broke(self, exc: OSError) -> None:
        """A connection could not be made, or ended: step back to what it may have swallowed."""
        self._counted.labels(self._settings.name, "failed").inc()
        log.warning("node.syslog_failed", syslog=self._settings.name, fault=type(exc).__name__)
        await self._course.failed(type(exc).__name__)
        since = monotonic() - DOUBT
        doubtful = [seq for at, seq in self._recent if at >= since]
        self._recent.clear()
        if doubtful and doubtful[0] < self._course.standing.next:
            await self._course.replay(doubtful[0])

    def _place(self) -> tuple[str, int]:
        parts = urlsplit(self._settings.address)
        return parts.hostname or "", parts.port or 0

    async def _over_udp(self) -> None:
        host, port = self._place()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(host, port))
        try:
            while True:
                term = self._course.term
                for known in await self._course.take():
                    transport.sendto(self._message(known)[:UDP_MOST])
                    self._counted.labels(self._settings.name, "sent").inc()
                    if not await self._course.delivered(known.event.seq, term):
                        break
        finally:
            transport.close()

    async def _over_tcp(self) -> None:
        host, port = self._place()
        async with asyncio.timeout(CONNECT):
            reader, writer = await asyncio.open_connection(host, port, ssl=self._tls)
        watching = asyncio.ensure_future(_until_closed(reader))
        log.info("node.syslog_connected", syslog=self._settings.name)
        try:
            while True:
                await self._some(writer, watching)
        finally:
            watching.cancel()
            writer.close()

    async def _some(self, writer: asyncio.StreamWriter, watching: asyncio.Future[None]) -> None:
        """What there is to send now, and until it is taken; or wait for that."""
        term = self._course.term
        taking = asyncio.ensure_future(self._course.take())
        try:
            both: list[asyncio.Future[Any]] = [taking, watching]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                raise ConnectionResetError
            batch = await taking
        finally:
            taking.cancel()
        if not batch:
            return
        self._course.waits_since = batch[0].event.at
        for known in batch:
            message = self._message(known)
            writer.write(b"%d %s" % (len(message), message))
            self._recent.append((monotonic(), known.event.seq))
        async with asyncio.timeout(TAKEN):
            await writer.drain()
            await _taken(writer)
        # One transaction for all of them: what breaks before it is sent again.
        self._counted.labels(self._settings.name, "sent").inc(len(batch))
        await self._course.delivered(batch[-1].event.seq, term)
        since = monotonic() - DOUBT
        while self._recent and self._recent[0][0] < since:
            self._recent.popleft()

    def _message(self, known: About) -> bytes:
        return syslog(known, self._settings, self._member)


async def _until_closed(reader: asyncio.StreamReader) -> None:
    """Until the receiver ends the connection; whatever it says is thrown away."""
    with suppress(OSError):
        while await reader.read(4_096):
            pass


async def _taken(writer: asyncio.StreamWriter) -> None:
    """Until the receiver's machine has acknowledged all that was written."""
    socket = writer.get_extra_info("socket")
    pause = _POLL
    while writer.transport.get_write_buffer_size() or _unacknowledged(socket.fileno()):
        if writer.transport.is_closing():
            raise ConnectionResetError
        await asyncio.sleep(pause)
        pause = min(pause * 2, _SLOWEST_POLL)


def _unacknowledged(number: int) -> int:
    """Bytes in the socket that the other side has not acknowledged; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    if number < 0:
        raise ConnectionResetError
    return int(struct.unpack("i", fcntl.ioctl(number, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
