"""Reading a durable pull consumer: open requests for messages, what has arrived, and the server's word about both.

Guarantees:
  * `take` hands over what has arrived at once, and holds no more than the caller asked for, in flight and buffered.
  * a request that the server neither answers nor ends counts as lost after its time, and another one replaces it.
  * no subscription outlives its request, whether it was answered, refused, lost, or broken off with the connection.

Refuses to take a member's header for the server's word, and raises `Transient` with that word while the consumer cannot
be read. Neither connects nor acknowledges: that is for `protocol/bus.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from protocol import subjects
from protocol.dialing import SEND_ERRORS, status_of
from protocol.errors import Transient
from protocol.transport import Message

EXPIRES: Final = 2.0
"""Seconds that the server keeps a request for messages open."""
GRACE: Final = 0.5
"""Seconds after which an expired request that the server did not answer counts as lost."""
RETRY: Final = 0.25
"""Seconds between requests for messages while the server refuses them."""


@dataclass(slots=True)
class _Request:
    """An open request for messages, with the subscription that hears its answers."""

    left: int
    """Messages that may still come."""
    lost_at: float
    """When an unanswered request counts as lost."""
    sub: Subscription | None = None


class Puller:
    """The reading side of a bus; survives its connections.

    Args:
        stream, consumer: the durable consumer that is read.
        inbox: subjects below this one are the puller's own; nobody else may know them.
        client: the connection of the moment, None while there is none.
        check: raises what must end the reading for good.
    """

    def __init__(
        self,
        stream: str,
        consumer: str,
        inbox: str,
        *,
        client: Callable[[], Client | None],
        check: Callable[[], None],
    ) -> None:
        self._next_subject = subjects.next_message(stream, consumer)
        self._source = f"{stream}/{consumer}"
        self._inbox = inbox
        self._client = client
        self._check = check
        self._count = itertools.count(1)
        self._buffer: deque[Message] = deque()
        self._requests: dict[str, _Request] = {}
        self._ended: list[Subscription] = []
        self._retry_at = 0.0
        self._trouble = ""
        self._sleeper: asyncio.Future[None] | None = None

    @property
    def buffered(self) -> int:
        """Messages that arrived and wait for the next `take`."""
        return len(self._buffer)

    async def take(self, most: int, wait: float) -> list[Message]:
        """See `Bus.pull`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while not self._buffer:
            self._check()
            if self._trouble:
                trouble, self._trouble = self._trouble, ""
                raise Transient(trouble)
            now = loop.time()
            if now >= deadline:
                if self._client() is None:
                    raise Transient("not connected to the bus")
                return []
            await self._request_more(most)
            if not self._buffer and not self._trouble:
                again = (
                    self._retry_at
                    if self._retry_at > now
                    else min((request.lost_at for request in self._requests.values()), default=deadline)
                )
                await self._sleep_until(min(deadline, max(again, now + 0.001)))
        batch = [self._buffer.popleft() for _ in range(min(most, len(self._buffer)))]
        # The next messages travel while the caller works on these.
        await self._request_more(most)
        return batch

    def wake(self) -> None:
        """Have a waiting `take` look again: the connection is back, or there is something to raise."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def drop_requests(self) -> None:
        """The connection is gone, and what was asked on it gets no answer any more. What has arrived stays."""
        for token in list(self._requests):
            self._end(token)
        self._retry_at = 0.0
        self.wake()

    async def _request_more(self, most: int) -> None:
        now = asyncio.get_running_loop().time()
        for token in [token for token, request in self._requests.items() if request.lost_at <= now]:
            self._end(token)
        await self._forget_ended()
        outstanding = sum(request.left for request in self._requests.values())
        batch = most - outstanding - len(self._buffer)
        nc = self._client()
        # Half of what may be open at once: few requests under load, and the server never runs dry.
        if nc is None or now < self._retry_at or batch <= 0 or outstanding > most // 2:
            return
        token = str(next(self._count))
        request = self._requests[token] = _Request(batch, now + EXPIRES + GRACE)

        async def on_pulled(msg: Msg) -> None:
            self._on_pulled(token, request, msg)

        reply = f"{self._inbox}.{token}"
        body = b'{"batch":%d,"expires":%d}' % (batch, int(EXPIRES * 1e9))
        with suppress(*SEND_ERRORS):
            # One subscription a request: between accounts, the server remembers where to send answers for as long as
            # somebody listens there, and would pile up one entry a request under a standing subscription.
            request.sub = await nc.subscribe(reply, cb=on_pulled)
            if token not in self._requests:
                # The connection broke in between and took the request along.
                self._ended.append(request.sub)
                return
            await nc.publish(self._next_subject, body, reply=reply)

    def _on_pulled(self, token: str, request: _Request, msg: Msg) -> None:
        # A stored message always carries where to acknowledge it. A member could put a status among its headers, but it
        # cannot take that away: so this, and not the header, tells the server's word from a member's.
        if msg.reply:
            headers = msg.headers or {}
            kind, trace = headers.get(subjects.KIND_HEADER, ""), headers.get(subjects.TRACE_HEADER, "")
            self._buffer.append(Message(msg.subject, kind, msg.data, msg.reply, trace))
            request.left -= 1
            if request.left <= 0:
                self._end(token)
        else:
            self._on_status(token, msg)
        self.wake()

    def _on_status(self, token: str, msg: Msg) -> None:
        status, text = status_of(msg), (msg.headers or {}).get("Description", "")
        if status == "100":
            return
        self._end(token)
        if status in ("404", "408") or (status == "409" and text.lower().startswith(("batch", "message size"))):
            return
        self._retry_at = asyncio.get_running_loop().time() + RETRY
        self._trouble = f"cannot read {self._source}: {text or 'it does not exist at present'}"

    def _end(self, token: str) -> None:
        request = self._requests.pop(token, None)
        if request is not None and request.sub is not None:
            self._ended.append(request.sub)

    async def _forget_ended(self) -> None:
        # Not done where a request ends: that is inside the subscription's own task, which unsubscribing cancels.
        while self._ended:
            with suppress(*SEND_ERRORS, nats.errors.BadSubscriptionError):
                await self._ended.pop().unsubscribe()

    async def _sleep_until(self, when: float) -> None:
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = loop.call_at(when, self.wake)
        try:
            await self._sleeper
        finally:
            timer.cancel()
            self._sleeper = None
