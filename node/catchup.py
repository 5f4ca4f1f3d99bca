"""What the inbox may have lost and nobody sends again: confirmations, links, stopped deliveries; asked for by number.

Guarantees: the node asks whenever the link comes up and every minute, from the last number that it has committed, so
that a confirmation or a link lost with the bus, or with a killed broker, still arrives. A notice that is here already
changes nothing. Refuses an answer that is not what was asked for; what is in it is verified like any other message.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import structlog
from msgspec import Struct

from node.core import NodeCore
from node.loops import PAUSE, REGION_EVERY, REQUEST_TIMEOUT, Refresher, State, Writer
from node.metrics import Metrics
from protocol import subjects
from protocol.errors import ProtocolError, Transient
from protocol.parse import decode

log = structlog.get_logger()
METHOD: Final = "missed"


class Notice(Struct, frozen=True, forbid_unknown_fields=True):
    """One statement that the broker signed or forwards."""

    kind: Literal["confirmed", "links", "stopped", "delivered"]
    jws: str


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """Notices in order, and the number to ask with next time."""

    next: int
    notices: list[Notice]


@dataclass(frozen=True, slots=True)
class _Again:
    """A notice in the form of the bus message that it was."""

    kind: str
    data: bytes


_answer: Final = msgspec.json.Decoder(Answer)


def read_answer(data: bytes, after: int) -> tuple[list[_Again], int]:
    """The notices of an answer as messages, and the next number.

    Raises:
        ProtocolError: not an answer, or one that would go backwards.
    """
    answer = decode(_answer, data)
    confirmed = [notice.jws for notice in answer.notices if notice.kind == "confirmed"]
    messages = [
        _Again(subjects.Kind.LINKS, notice.jws.encode("utf-8", "replace"))
        for notice in answer.notices
        if notice.kind == "links"
    ]
    said = [notice.jws for notice in answer.notices if notice.kind in ("stopped", "delivered")]
    if said:
        messages.append(_Again(subjects.Kind.RECEIPTS, msgspec.json.encode(said)))
    if confirmed:
        messages.append(_Again(subjects.Kind.CONFIRMED, msgspec.json.encode(confirmed)))
    return messages, max(after, answer.next)


class Catchup:
    """Asks the broker for notices, and has them taken in like messages."""

    def __init__(self, core: NodeCore, writer: Writer, state: State, metrics: Metrics, refresh: Refresher) -> None:
        self._core = core
        self._refresh = refresh
        self._writer = writer
        self._state = state
        self._metrics = metrics

    async def once(self) -> int:
        """Ask until nothing is missing; how many notices there were.

        Raises:
            Transient: no answer.
        """
        link = self._state.link
        if link is None or not link.connected:
            raise Transient("not connected to the bus")
        taken = 0
        while True:
            after = await self._writer.run(self._core.notices_taken)
            question = msgspec.json.encode({"after": after})
            data = await link.request(subjects.rpc(METHOD), question, REQUEST_TIMEOUT)
            messages, following = read_answer(data, after)
            if following == after:
                return taken
            opened = await asyncio.to_thread(self._core.open, messages)
            if opened.again:
                # Of a member that this node has not heard of yet: not to be called false before the region is known.
                await self._refresh.once()
                opened = await asyncio.to_thread(self._core.open, messages, region_is_fresh=True)
            work = await self._writer.run(self._core.take_notices, opened, following)
            self._metrics.count(work.counts)
            taken += len(messages)

    async def run(self) -> None:
        """Ask until the stop."""
        bell = self._state.bell()
        self._state.on_link(bell)
        while not self._state.stopping:
            wait = REGION_EVERY
            try:
                await self.once()
            except Transient:
                wait = PAUSE * 2
            except ProtocolError as exc:
                log.error("node.notices_refused", reason=exc.reason.value)
            await bell.wait(wait)
