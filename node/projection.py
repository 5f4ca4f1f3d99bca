"""Fills the TAXII collections: follows the inbox by its numbers, and writes each report there as STIX objects.

Guarantees: how far it has come is committed with the objects, so that a restart skips none and repeats none; what ended
meanwhile is not written; a passing fault is waited out. Collections that another version of this program has made
are made again. What ends later is taken away where it ends, see `expiry.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

import structlog

from node.core import NodeCore
from node.loops import PAUSE, State, Writer
from node.store import Store, microseconds
from node.taxii import Brought, ObjectsOf, brought
from protocol.errors import Transient

log = structlog.get_logger()
SHAPE: Final = 1
"""To be raised when reports become other objects than before."""
AT_ONCE: Final = 64
"""Reports in one transaction: filing and receiving do not wait longer than for this."""
_IDLE: Final = 60.0


def step(store: Store, objects_of: ObjectsOf) -> tuple[int, list[Brought], int]:
    """Read what comes next; the last number that was looked at, what is to be written, and how many were looked at."""
    with store.read() as reads:
        rows = reads.taxii_unread(AT_ONCE)
    found = [made for row in rows if (made := brought(row, objects_of)) is not None]
    return (rows[-1].seq if rows else 0), found, len(rows)


def write(store: Store, found: list[Brought], upto: int, at: int) -> int:
    """Commit it; how many objects it was."""
    with store.write() as tx:
        return tx.taxii_add(found, upto, at)


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
        upto, found, looked = step(store, objects_of)
        if not looked:
            return total
        total += write(store, found, upto, microseconds(now()))


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
            upto, found, looked = await asyncio.to_thread(step, core.store, objects_of)
            if looked:
                objects = await writer.run(write, core.store, found, upto, microseconds(now()))
                log.info("node.taxii", reports=len(found), objects=objects)
                continue
        except Transient as exc:
            log.warning("node.taxii_waits", detail=str(exc)[:200])
            await bell.wait(PAUSE)
            continue
        await bell.wait(_IDLE)
