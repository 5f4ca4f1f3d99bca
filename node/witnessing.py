"""The loops of the witness: one watches the log's checkpoints, one has leaves proven.

Guarantees: every new checkpoint is looked at as soon as the broker shows it, every published one lets what waits be
proven at once; what the broker refuses or contradicts is asked again after a rest, for as long as the process lives.
Logs hold sizes, counts and reasons. A broker that is silent about the log alone is told from one that is down: it is
then asked for the region document, which every broker answers. Nothing is taken for witnessed before the region was
looked at since the start, since an old one may ask for fewer witnesses; but a broker that does not answer what the
region is does not put a witness to sleep: after a while it goes by the region that it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any, Final, TypeGuard

import msgspec
import structlog

from node.loops import PAUSE, Link, Refresher, State, Writer
from node.metrics import Metrics
from node.witness import Answer, Question, Step, Witness
from protocol import logrpc, subjects
from protocol.errors import ProtocolError, Transient
from protocol.logrpc import (
    ConsistencyAnswer,
    ConsistencyRequest,
    CosignRequest,
    NextAnswer,
    NextRequest,
    ProveAnswer,
    ProveRequest,
)
from protocol.parse import decode
from protocol.reasons import Reason

log = structlog.get_logger()
ANSWER_WITHIN: Final = logrpc.LONGEST_WAIT + 4.0
"""Seconds: above the time for which an answer may be held back."""
REST: Final = 5.0
"""Seconds after a refusal."""
SOON: Final = 0.25
"""Seconds until a question without an answer is asked again, at first: a broker that starts is not away for long."""
UNANSWERED: Final = 30.0
"""Seconds on the link after which a witness no longer waits for the region."""
PROVE_EVERY: Final = 10.0
"""Seconds between looks for leaves to be proven, when neither a message nor a checkpoint asks for it."""

METHODS: Final[dict[type[Question], str]] = {
    NextRequest: logrpc.NEXT,
    ConsistencyRequest: logrpc.CONSISTENCY,
    CosignRequest: logrpc.COSIGN,
    ProveRequest: logrpc.PROVE,
}
_decoders: Final[dict[type[Question], msgspec.json.Decoder[Any]]] = {
    NextRequest: msgspec.json.Decoder(NextAnswer),
    ConsistencyRequest: msgspec.json.Decoder(ConsistencyAnswer),
    ProveRequest: msgspec.json.Decoder(ProveAnswer),
}


def read_answer(question: Question, data: bytes) -> Answer:
    """The answer to a question. ProtocolError if it is none."""
    decoder = _decoders.get(type(question))
    if decoder is None:
        return None
    answer: Answer = decode(decoder, data)
    return answer


class Witnessing:
    """Drives a witness.

    Args:
        refresh: asks the broker something else.
    """

    def __init__(self, witness: Witness, writer: Writer, state: State, metrics: Metrics, refresh: Refresher) -> None:
        self._witness = witness
        self._writer = writer
        self._state = state
        self._metrics = metrics
        self._refresh = refresh
        self._linked_at: float | None = None
        self._stop = state.bell()
        self._resting = state.bell()
        self._published = state.bell()
        state.on_link(self._published)
        state.on_arrival(self._published)

    def _ready(self, link: Link | None) -> TypeGuard[Link]:
        """Whether the broker can be asked, about a region that this node knows."""
        if link is None or not link.connected:
            self._linked_at = None
            return False
        if self._linked_at is None:
            self._linked_at = monotonic()
        return self._state.region_asked or monotonic() - self._linked_at >= UNANSWERED

    async def watch(self) -> None:
        """Witness checkpoints until the stop."""
        bell = self._state.bell()
        self._state.on_link(bell)
        wait = SOON
        while not self._state.stopping:
            link = self._state.link
            if not self._ready(link):
                await self._writer.run(self._witness.lookout.silent)
                await bell.wait(PAUSE)
                continue
            try:
                question = await self._writer.run(self._witness.question, logrpc.LONGEST_WAIT)
                step = await self._ask(link, question)
                self._tell(step, await self._writer.run(self._witness.lookout.look))
                await self._show()
                wait = SOON
                if step.rest:
                    await bell.wait(REST)
            except Transient:
                await self._ask_something_else()
                await bell.wait(wait)
                wait = min(wait * 2, REST)

    async def prove(self) -> None:
        """Have leaves proven until the stop."""
        wait = SOON
        while not self._state.stopping:
            link = self._state.link
            if not self._ready(link):
                await self._published.wait(PAUSE)
                continue
            try:
                question = await self._writer.run(self._witness.wanted)
                if question is None:
                    await self._published.wait(PROVE_EVERY)
                    continue
                step = await self._ask(link, question)
                self._tell(step, [])
                await self._show()
                wait = SOON
                if step.rest:
                    await self._resting.wait(REST)
            except Transient:
                await self._resting.wait(wait)
                wait = min(wait * 2, REST)

    async def _ask(self, link: Link, question: Question) -> Step:
        """Ask, and commit what the answer comes to. Transient: no answer, or it could not be committed."""
        subject = subjects.rpc(METHODS[type(question)])
        try:
            data = await self._until_stop(link.request(subject, logrpc.encode(question), ANSWER_WITHIN))
        except ProtocolError as exc:
            return await self._writer.run(self._witness.refused, question, exc.reason)
        try:
            answer = read_answer(question, data)
        except ProtocolError:
            # Not the decoder's own reason: the broker has not said that something is out of its range.
            return await self._writer.run(self._witness.refused, question, Reason.MALFORMED_PROOF)
        return await self._writer.run(self._witness.take, question, answer)

    async def _until_stop(self, request: Coroutine[Any, Any, bytes]) -> bytes:
        """The request's answer; Transient at the stop, which does not wait for answers that are held back."""
        if self._state.stopping:
            request.close()
            raise Transient("the node is going down")
        asking, stopping = asyncio.ensure_future(request), asyncio.ensure_future(self._stop.wait(None))
        try:
            await asyncio.wait({asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise Transient("the node is going down")
            return asking.result()
        finally:
            asking.cancel()
            stopping.cancel()

    async def _ask_something_else(self) -> None:
        """Whether the broker answers at all, when it does not answer about the log."""
        try:
            if not self._state.stopping:
                await self._refresh.once()
                await self._writer.run(self._witness.lookout.answered)
                self._tell(Step(), await self._writer.run(self._witness.lookout.look))
        except Transient:
            await self._writer.run(self._witness.lookout.silent)

    async def _show(self) -> None:
        self._metrics.stands(await self._writer.run(self._witness.standing))

    def _tell(self, step: Step, overdue: list[str]) -> None:
        metrics = self._metrics
        for reason in step.refused:
            metrics.log_refused.labels(reason).inc()
            log.warning("node.log_refused", reason=reason)
        for reason in (*step.alarms, *overdue):
            metrics.handled.labels("alarm", reason).inc()
            log.error("node.log_alarm", reason=reason)
        if step.cosigned is not None:
            metrics.cosigned.inc()
            log.info("node.log_cosigned", size=step.cosigned)
        if step.seconds:
            for seconds in step.seconds:
                metrics.proof_seconds.observe(seconds)
            log.info("node.log_proven", leaves=len(step.seconds), size=step.size)
        if step.published:
            self._published.ring()
