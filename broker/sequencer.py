"""The log's loop, and the members' requests about it.

Guarantees: what is committed is sequenced as soon as the log's rules let it, by one of the ledger's processes; who
waits for something new hears of it once it is committed, by another process at its next round; at most
`WAITING_PER_MEMBER` answers to a member are held back, and its further requests are answered with what there is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
import structlog

from broker.log import ROUND, Log
from broker.metrics import Metrics
from protocol import logrpc
from protocol.errors import ProtocolError, Transient
from protocol.logrpc import ConsistencyRequest, CosignRequest, NextAnswer, NextRequest, ProveRequest, TileRequest
from protocol.parse import decode
from protocol.reasons import Reason

log = structlog.get_logger()

METHODS: Final = frozenset({logrpc.NEXT, logrpc.COSIGN, logrpc.PROVE, logrpc.CONSISTENCY, logrpc.TILE})
WAITING_PER_MEMBER: Final = 2
SHOW_EVERY: Final = 1.0
PRUNE_EVERY: Final = 60.0

_next: Final = msgspec.json.Decoder(NextRequest)
_cosign: Final = msgspec.json.Decoder(CosignRequest)
_prove: Final = msgspec.json.Decoder(ProveRequest)
_consistency: Final = msgspec.json.Decoder(ConsistencyRequest)
_tile: Final = msgspec.json.Decoder(TileRequest)


class Runner(Protocol):
    """Runs a function on the reader threads, or on the ledger's writer thread."""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]: ...


def holds(subject: str) -> bool:
    """Whether the answer to a request may be held back for long."""
    return subject.endswith(f".{logrpc.NEXT}")


class Sequencer:
    """Drives a log.

    Args:
        core: the log; loaded before `run`.
        read: runs on a reader thread.
        write: runs on the writer thread.
        clock: the time.
    """

    def __init__(
        self,
        core: Log,
        *,
        read: Runner,
        write: Runner,
        clock: Callable[[], datetime],
        metrics: Metrics,
    ) -> None:
        self._log = core
        self._read = read
        self._write = write
        self._clock = clock
        self._metrics = metrics
        self._due = asyncio.Event()
        self._changed = asyncio.Event()
        self._waiting: Counter[str] = Counter()

    def wake(self) -> None:
        """Something was committed."""
        self._due.set()

    async def region_changed(self) -> None:
        """Ask again which cosignatures count. Transient if the ledger cannot be used now."""
        if await self._write(self._log.refresh, self._clock()):
            self._tell_published()

    async def run(self) -> None:
        """Sequence what is committed, until cancelled."""
        loop = asyncio.get_running_loop()
        show_at = prune_at = loop.time()
        leading = False
        while True:
            self._due.clear()
            try:
                seen = await self._read(self._log.look)
                made = await self._write(self._log.sequence, self._clock())
                if made:
                    log.info("log.checkpoint", size=self._log.size)
                if made or seen:
                    self._tell_change()
                if leading != (leading := self._log.leading):
                    log.info("log.leading", leading=leading)
                if loop.time() >= show_at:
                    show_at = loop.time() + SHOW_EVERY
                    await self._show()
                if loop.time() >= prune_at:
                    prune_at = loop.time() + PRUNE_EVERY
                    await self._write(self._log.prune, self._clock())
            except Transient as exc:
                log.warning("broker.waiting", why=str(exc))
            try:
                async with asyncio.timeout(ROUND):
                    await self._due.wait()
            except TimeoutError:
                pass

    async def _show(self) -> None:
        published = self._log.published
        self._metrics.log_size.set(self._log.size)
        self._metrics.log_published_size.set(published.size if published else 0)
        self._metrics.log_lag.set(await self._read(self._log.lag, self._clock()))

    def _tell_change(self) -> None:
        self._changed, waiting = asyncio.Event(), self._changed
        waiting.set()

    def _tell_published(self) -> None:
        published = self._log.published
        if published is not None:
            self._metrics.log_quorum_seconds.observe(published.seconds)
            log.info(
                "log.published",
                size=published.size,
                witnesses=published.witnesses,
                ms=round(published.seconds * 1000),
            )
        self._tell_change()
        self.wake()

    # --- requests -----------------------------------------------------------------------------------------------

    async def answer(self, member: str, method: str, data: bytes) -> bytes:
        """Answer a member's request of one of `METHODS`.

        Raises:
            ProtocolError: refused.
            Transient: the ledger cannot be used now.
        """
        if method == logrpc.NEXT:
            return logrpc.encode(await self._next(member, decode(_next, data)))
        if method == logrpc.COSIGN:
            return await self._cosign(member, decode(_cosign, data))
        if method == logrpc.PROVE:
            return logrpc.encode(await self._read(self._log.prove, decode(_prove, data)))
        if method == logrpc.CONSISTENCY:
            return logrpc.encode(await self._read(self._log.consistency, decode(_consistency, data)))
        if method == logrpc.TILE:
            found: bytes = await self._read(self._log.tile, decode(_tile, data).path)
            return found
        raise ProtocolError(Reason.UNKNOWN_PATH, "$", "no such method")

    async def _next(self, member: str, request: NextRequest) -> NextAnswer:
        loop = asyncio.get_running_loop()
        end = loop.time() + request.wait
        while True:
            changed = self._changed
            answer: NextAnswer = await self._read(self._log.next, request)
            if answer.checkpoint or answer.published or self._waiting[member] >= WAITING_PER_MEMBER:
                return answer
            self._waiting[member] += 1
            try:
                async with asyncio.timeout_at(end):
                    await changed.wait()
            except TimeoutError:
                return answer
            finally:
                self._waiting[member] -= 1

    async def _cosign(self, member: str, request: CosignRequest) -> bytes:
        try:
            published = await self._write(self._log.cosign, member, request.line, request.size, self._clock())
        except ProtocolError as exc:
            self._metrics.log_refused.labels(exc.reason.value).inc()
            log.warning("log.cosignature_refused", member=member, size=request.size, reason=exc.reason.value)
            raise
        self._metrics.log_cosignatures.labels(member).inc()
        self._metrics.log_cosigned.labels(member).set(request.size)
        if published:
            self._tell_published()
        return b"{}"
