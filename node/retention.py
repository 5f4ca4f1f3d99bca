"""How long refused filings of the review queue keep their content.

Guarantees: nothing that still waits, or was released, is touched; of a refused one the fact stays, with who refused it,
when and why, so that who filed it can read that at any time and the same filing again is the same entry. Each erasure
is an event of the feed, counted and logged. A passing fault is waited out.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from node.loops import PAUSE, State, Writer
from node.metrics import Metrics
from node.review import erase_refused
from node.store import Store, microseconds
from protocol.errors import Transient

log = structlog.get_logger()
EVERY: Final = 3_600.0
AT_ONCE: Final = 200
"""Filings in one transaction."""


def erase(store: Store, now: datetime, days: int) -> int:
    """Erase the content of some filings that were refused so many days ago; how many. Call again until it is none.

    Raises:
        Transient: the disk is full, or the database is away.
    """
    with store.write() as tx:
        return erase_refused(tx, microseconds(now - timedelta(days=days)), microseconds(now), AT_ONCE)


async def forget_refused(
    store: Store, writer: Writer, state: State, metrics: Metrics, days: int, now: Callable[[], datetime]
) -> None:
    """Look at the start and now and then."""
    bell = state.bell()
    while not state.stopping:
        wait = EVERY
        try:
            while erased := await writer.run(erase, store, now(), days):
                metrics.review_erased.inc(erased)
                log.info("node.review_erased", filings=erased)
        except Transient as exc:
            log.warning("node.not_tidied", detail=str(exc)[:200])
            wait = PAUSE
        await bell.wait(wait)
