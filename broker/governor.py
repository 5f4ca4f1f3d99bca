"""What a running broker does about governance: follows the records, and hands out the region that they lead to.

Guarantees: the region document names a record only once that record has its leaf in the log; records that this process
has followed are never replaced by others while it runs. Threads: `record` on the ledger's one writer thread, the rest
on any.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from broker import governing
from broker.governing import Chain
from broker.members import RegionState
from broker.renewal import sign_with
from broker.store import Store
from protocol.errors import ConfigError
from protocol.keys import Signer
from protocol.registry import Registry, sign_region

log = structlog.get_logger()


def _chain(state: RegionState) -> Chain:
    if state.chain is None:
        raise AssertionError("a running broker's region without records")
    return state.chain


class Governor:
    """Governance in one broker.

    Args:
        ledger: where records become rows, and leaves of the log.
        directory: where their files are.
        signer: the broker's signing key.
        clock: the time.
    """

    def __init__(self, ledger: Store, directory: Path, signer: Signer, clock: Callable[[], datetime]) -> None:
        self._ledger = ledger
        self._directory = directory
        self._signer = signer
        self._clock = clock
        self._recorded: tuple[Registry, Chain] | None = None

    def check(self, state: RegionState) -> None:
        """ConfigError if the records are not those that were followed before, with more after them."""
        if self._recorded is None:
            return
        known = self._recorded[1].digests
        if _chain(state).digests[: len(known)] != known:
            raise ConfigError("the governance records are not those that this broker has followed: put those back")

    def record(self, state: RegionState) -> None:
        """Bring the ledger up to the region's records; from then on nodes are shown this region.

        Raises:
            ConfigError: the ledger holds other records.
            Transient: nothing was committed; try again.
        """
        chain = _chain(state)
        fresh = governing.record_chain(self._ledger, chain, self._clock())
        self._recorded = (state.registry, chain)
        if fresh:
            log.info("broker.governance", records=len(fresh), head=chain.state.head.number)

    def _now_recorded(self) -> tuple[Registry, Chain]:
        if self._recorded is None:
            raise AssertionError("asked for a region that is not recorded yet")
        return self._recorded

    def document(self, member: str) -> bytes:
        """The region document as this member may see it, signed now. ProtocolError if it is no member any more."""
        registry, chain = self._now_recorded()
        region = registry.view(member).region
        return sign_region(region, chain.state.head, sign_with(self._signer), self._clock()).encode("ascii")

    def listed(self, member: str, data: bytes) -> bytes:
        """See `governing.listed`."""
        return governing.listed(self._ledger, data, self._now_recorded()[1], member)

    def offered(self, member: str, data: bytes, *, mints: bool) -> bytes:
        """See `governing.offered`. The members loop follows within a second."""
        return governing.offered(self._directory, member, data, self._clock(), self._carrier, mints=mints)

    def _carrier(self) -> Signer:
        return sign_with(self._signer)
