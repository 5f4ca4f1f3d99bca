"""The keys of the region and how long they last: what `kentongan broker keys` lists, and warnings weeks ahead.

Guarantees: each key in use that ends is told of in the log at 42, 14 and 3 days, once each a process, and stands in the
status page and the metrics from 42 days on. Public parts only.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from broker.members import RegionState
from protocol.enact import State
from protocol.keylife import WARN_DAYS, Life, as_document, ending, lives_of, stage
from protocol.statements import BROKER

log = structlog.get_logger()
SIGNING_USE: Final = "signs receipts, deliveries, checkpoints and the region"
MEMBER_USE: Final = "signs its reports and cosignatures"
SEALING_USE: Final = "opens reports sealed to it"
TRUSTEE_USE: Final = "decides who is in the region"


def region_lives(state: State, signing: str, now: datetime) -> list[Life]:
    """Every key of a region.

    Args:
        state: what the governance records lead to.
        signing: the id of the broker's signing key in use.
    """
    found = lives_of("signing", SIGNING_USE, state.region.broker_keys, now, current=signing, owner=BROKER)
    for member in state.region.members:
        found += lives_of("signing", MEMBER_USE, member.keys, now, owner=member.id)
        found += lives_of("sealing", SEALING_USE, member.sealing_keys, now, owner=member.id)
    for trustee in state.trustees:
        found += lives_of("trustee", TRUSTEE_USE, [trustee.key], now, owner=trustee.id)
    return found


def _none(_: datetime) -> list[Life]:
    return []


class KeyWatch:
    """Looks at the keys of a running broker now and then. Any thread.

    Args:
        state: gives the region as it is now.
        signing: gives the id of the broker's signing key in use.
        now: the clock.
        others: gives keys that the records do not list, at a time.
    """

    def __init__(
        self,
        state: Callable[[], RegionState],
        signing: Callable[[], str],
        now: Callable[[], datetime],
        others: Callable[[datetime], list[Life]] = _none,
    ) -> None:
        self._state = state
        self._signing = signing
        self._now = now
        self._others = others
        self._told: dict[tuple[str, str], int] = {}

    def lives(self) -> list[Life]:
        """All keys as they are now."""
        chain, now = self._state().chain, self._now()
        listed = region_lives(chain.state, self._signing(), now) if chain is not None else []
        return [*listed, *self._others(now)]

    def soon(self) -> list[dict[str, Any]]:
        """What ends within six weeks, for the status page."""
        now = self._now()
        return [as_document(one, now) for one in ending(self.lives(), now, timedelta(days=max(WARN_DAYS)))]

    def warn(self) -> int:
        """Log what is due; how many keys that were."""
        now, told = self._now(), 0
        for one in ending(self.lives(), now, timedelta(days=max(WARN_DAYS))):
            left = one.left(now) or timedelta(0)
            days = stage(left)
            if days is None or days >= self._told.get((one.owner, one.kid), days + 1):
                continue
            self._told[one.owner, one.kid] = days
            log.warning("broker.key_expires", member=one.owner, kind=one.kind, kid=one.kid, days=left.days)
            told += 1
        return told
