"""Fills the TAXII collections: follows the inbox by its numbers, and writes each report there as STIX objects.

Guarantees: how far it has come is committed with the objects, so that a restart skips none and repeats none; what ended
meanwhile is not written; a passing fault is waited out. Collections that another version of this program has made
are made again. What ends later is taken away where it ends, see `expiry.py`; what a later revision takes back is
revoked together with what that brings, see `retracting.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from node.core import NodeCore
from node.loops import PAUSE, State, Writer
from node.retracting import retracted
from node.store import Store, microseconds
from node.taxii import Brought, ObjectsOf, Placed, brought
from protocol.errors import Transient

log = structlog.get_logger()
SHAPE: Final = 2
"""To be raised when reports become other objects than before."""
AT_ONCE: Final = 64
"""Reports in one transaction: filing and receiving do not wait longer than for this."""
_IDLE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """What comes next: up to where the inbox was read, what of it is to be written, and what is taken back by it."""

    upto: int = 0
    found: Sequence[Brought] = ()
    over: Sequence[Placed] = ()
    looked: int = 0


def step(store: Store, objects_of: ObjectsOf) -> Step:
    """Read what comes next."""
    with store.read() as reads:
        rows = reads.taxii_unread(AT_ONCE)
        if not rows:
            return Step()
        upto = rows[-1].seq
        others = reads.taxii_others({row.report_id for row in rows}, {row.seq for row in rows}, upto)
    found = [made for row in rows if (made := brought(row, objects_of)) is not None]
    by_report: dict[str, list[Brought]] = {}
    for one in (*found, *(made for row in others if (made := brought(row, objects_of)) is not None)):
        by_report.setdefault(one.report_id, []).append(one)
    over = [placed for revisions in by_report.values() if len(revisions) > 1 for placed in retracted(revisions)]
    return Step(upto, found, over, len(rows))


def write(store: Store, read: Step, at: int) -> int:
    """Commit it; how many objects it was."""
    with store.write() as tx:
        return tx.taxii_add(read.found, read.upto, at, read.over)


def begin(store: Store) -> None:
    """Make the collections again if another version of this program has made them."""
    with store.read() as reads:
        fits = reads.taxii_shape() == SHAPE
    if not fits:
        with store.write() as tx:
            tx.taxii_begin(SHAPE)


def catch_up(store: Store, objects_of: ObjectsOf, now: Callable[[], datetime]) -> int:
    """All of it in one go, for callers without loops; how many objects were written."""
    begin(store)
    total = 0
    while True:
        read = step(store, objects_of)
        if not read.looked:
            return total
        total += write(store, read, microseconds(now()))


async def follow(
    core: NodeCore, writer: Writer, state: State, objects_of: ObjectsOf, now: Callable[[], datetime]
) -> None:
    """Follow the inbox until the stop."""
    bell = state.bell()
    state.on_arrival(bell)
    begun = False
    while not state.stopping:
        try:
            if not begun:
                await writer.run(begin, core.store)
                begun = True
            read = await asyncio.to_thread(step, core.store, objects_of)
            if read.looked:
                objects = await writer.run(write, core.store, read, microseconds(now()))
                log.info("node.taxii", reports=len(read.found), objects=objects)
                continue
        except Transient as exc:
            log.warning("node.taxii_waits", detail=str(exc)[:200])
            await bell.wait(PAUSE)
            continue
        await bell.wait(_IDLE)
