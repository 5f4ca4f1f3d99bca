"""Messages to members' inboxes, out of a bounded queue, by several hands at once.

Guarantees: what the bus did not take is counted and dropped here: the origin asks again for its receipt, and a delivery
that is not confirmed falls due again. A message is in a trace of its own (`protocol/tracing.py`), whatever led to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import structlog

from broker.metrics import Metrics
from broker.outgoing import Outgoing
from protocol import subjects
from protocol.errors import ProtocolError, Transient
from protocol.tracing import Trace, Tracing
from protocol.transport import Bus

log = structlog.get_logger()
HANDS: Final = 16
QUEUE: Final = 64


class Sending:
    """The queue and what empties it.

    Args:
        bus: the connection of the moment.
    """

    def __init__(self, bus: Callable[[], Bus], metrics: Metrics, tracing: Tracing) -> None:
        self._bus = bus
        self._metrics = metrics
        self._tracing = tracing
        self._queue: asyncio.Queue[tuple[Outgoing, Trace | None, float]] = asyncio.Queue(QUEUE)
        self._sent: list[int] = []

    async def put(self, outgoing: Outgoing, cause: Trace | None = None) -> None:
        """Have a message sent; waits while too many are in hand.

        Args:
            cause: the trace that led to it, for the own collector only.
        """
        await self._queue.put((outgoing, cause, monotonic()))

    def take_sent(self) -> list[int]:
        """The deliveries that are in their inboxes since the last call."""
        sent, self._sent = self._sent, []
        return sent

    def give_back(self, sent: Sequence[int]) -> None:
        """They were not noted: next time."""
        self._sent += sent

    async def run(self) -> None:
        """Send, until cancelled; may run several times at once."""
        while True:
            outgoing, cause, since = await self._queue.get()
            if await self._send(outgoing, cause):
                self._metrics.sends.labels(outgoing.kind.value).inc()
                self._metrics.send_seconds.observe(monotonic() - since)
                if outgoing.delivery is not None:
                    self._sent.append(outgoing.delivery)
                    known: dict[str, Any] = {"member": outgoing.member, "delivery": outgoing.delivery}
                    log.info("broker.delivered", reports=outgoing.reports, bytes=len(outgoing.data), **known)

    async def _send(self, outgoing: Outgoing, cause: Trace | None) -> bool:
        bus, subject = self._bus(), subjects.inbox(outgoing.member)
        try:
            if not self._tracing.on:
                await bus.publish(subject, outgoing.kind, outgoing.data)
                return True
            known: dict[str, Any] = {"member": outgoing.member, "kind": outgoing.kind.value}
            span = self._tracing.start("broker.deliver", links=[cause], reports=outgoing.reports, **known)
            try:
                await bus.publish(subject, outgoing.kind, outgoing.data, trace=span.header)
            finally:
                span.end()
        except Transient:
            self._metrics.send_failures.inc()
            return False
        except ProtocolError as exc:
            log.error("broker.unsendable", member=outgoing.member, kind=outgoing.kind, reason=exc.reason.value)
            return False
        return True
