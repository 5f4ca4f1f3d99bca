"""What the passing of time asks for: hiding what expired, telling what is unread, reminding of open alarms.

Guarantees: each loop looks when something is due, when messages arrive, and at least once a minute, so that a clock
that was set is noticed. A passing fault is waited out, and nothing is forgotten: what was due still is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog

from node.config import Escalation
from node.core import NodeCore
from node.loops import PAUSE, State, Writer
from node.metrics import Metrics
from protocol.errors import Transient

log = structlog.get_logger()
LONGEST: Final = 60.0
REMIND_EVERY: Final = 600.0


async def expire(core: NodeCore, writer: Writer, state: State, now: Callable[[], datetime]) -> None:
    """Hide others' reports when they expire, and take what was erased out of the log of the database too."""
    bell = state.bell()
    state.on_arrival(bell)
    while not state.stopping:
        wait = PAUSE
        try:
            await hide(core, writer, state)
            if not core.store.unscrubbed or await writer.run(core.store.scrub):
                wait = _until(await asyncio.to_thread(core.next_expiry), now)
        except Transient as exc:
            log.warning("node.not_expired", detail=str(exc))
        await bell.wait(wait)


async def hide(core: NodeCore, writer: Writer, state: State) -> None:
    """Hide all that has expired by now.

    Raises:
        Transient: the disk is full, or the database is away.
    """
    while hidden := await writer.run(core.expire):
        state.said.ring()
        log.info("node.expired", reports=hidden)


async def escalate(
    core: NodeCore, writer: Writer, state: State, metrics: Metrics, limits: Escalation, now: Callable[[], datetime]
) -> None:
    """Tell of reports that nobody has read in time."""
    bell = state.bell()
    state.on_arrival(bell)
    while not state.stopping:
        try:
            while (told := await writer.run(core.escalate, limits)).looked_at:
                for (side, severity), number in told.counts.items():
                    metrics.escalations.labels(side, severity).inc(number)
                    log.warning("node.unread", side=side, severity=severity, number=number)
            wait = _until(await asyncio.to_thread(core.next_escalation, limits), now)
        except Transient as exc:
            log.warning("node.not_escalated", detail=str(exc))
            wait = PAUSE
        await bell.wait(wait)


async def remind(core: NodeCore, state: State, every: float = REMIND_EVERY) -> None:
    """Say at the start and now and then that alarms are open, until a person has cleared them."""
    bell = state.bell()
    while not state.stopping:
        try:
            reasons = await asyncio.to_thread(core.open_alarms)
        except Transient:
            await bell.wait(min(every, PAUSE))
            continue
        if reasons:
            log.warning("node.alarm_open", number=sum(reasons.values()), reasons=reasons)
        await bell.wait(every)


def _until(time: datetime | None, now: Callable[[], datetime]) -> float:
    return LONGEST if time is None else min(LONGEST, max(0.0, (time - now()).total_seconds()))
