"""The broker's signing key in a token: not asked while it does not answer, and looked for until it does.

Guarantees: what cannot be signed is not decided. A batch of the intake whose signature fails is not committed and not
acknowledged; no further one is pulled until the token answers, and then it is decided; the log, deliveries and the
region wait likewise. Why is said in the log once, in `GET /v1/status`, and as `signing` in `GET /readyz`. One looks for
the token, once a second: what else would sign hears at once that it cannot. A process that finds no token when it
starts waits for it.

Refuses, when it starts: a wrong PIN, which ends the process with exit code 2, since a few tries lock a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import structlog
from prometheus_client import Gauge

from broker.config import Config
from broker.renewal import CurrentKey, current_key
from protocol.errors import ConfigError, Transient
from protocol.hsm import AwayError
from protocol.keys import KeyRecord
from protocol.registry import Region

log = structlog.get_logger()
T = TypeVar("T")
LOOK: Final = 1.0
"""Seconds between looks for a token that is away."""
IDLE: Final = 5
"""After so many looks without a signature one is asked for, so that it is noticed that a token is gone."""


class Runner(Protocol):
    """Runs a function on another thread."""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]: ...


class KeyKeeper:
    """Sees to the signing key of a running broker.

    Args:
        current: the key of the moment.
        read: runs on a reader thread.
        write: runs on the ledger's thread, on which the key changes.
        up: shows whether the broker can sign.
    """

    def __init__(self, config: Config, current: CurrentKey, read: Runner, write: Runner, up: Gauge) -> None:
        self._config = config
        self._current = current
        self._read = read
        self._write = write
        self._up = up
        self._looked = asyncio.Event()
        """Set, and replaced, after each look."""
        up.set(1)

    @property
    def away(self) -> str:
        """Why nothing can be signed; empty if it can be."""
        return self._current.now.away

    async def ready(self) -> None:
        """Return when signatures can be had, as far as is known."""
        while self.away:
            await self._looked.wait()

    async def signing(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what needs signatures when they can be had; again, if the token goes away meanwhile.

        Raises:
            Transient: it could not be done for another reason.
        """
        while True:
            await self.ready()
            try:
                return await work()
            except Transient:
                if not self.away:
                    raise

    async def take_up(self, region: Region) -> list[KeyRecord]:
        """Sign with the new key, if the region lists it by now: nodes are shown it from here on.

        Returns:
            its record; empty if the key of the moment stays.
        """
        try:
            fresh = await self._read(current_key, self._config, region, self._current.now)
        except ConfigError as exc:
            # Not tried again by itself: the present key counts for a while yet, and a PIN is not to be guessed at.
            log.error("broker.key_not_taken", why=str(exc))
            return []
        if fresh.kid == self._current.kid:
            return []
        await self._write(self._current.use, fresh)
        log.info("broker.key_renewed", kid=fresh.kid)
        return [one for one in region.broker_keys if one.kid == fresh.kid]

    async def run(self) -> None:
        """Until cancelled: look for the token while it is away, and now and then while nothing is signed."""
        told, looks = "", 0
        while True:
            await asyncio.sleep(LOOK)
            key = self._current.now
            looks = 0 if key.used() else looks + 1
            if key.away or looks >= IDLE:
                looks = 0
                await self._read(key.look)
            if key.away != told and key.away:
                log.error("broker.cannot_sign", why=key.away)
            elif key.away != told:
                log.info("broker.signs_again", kid=key.kid)
            told = key.away
            self._up.set(0 if told else 1)
            self._looked, waiting = asyncio.Event(), self._looked
            waiting.set()


async def patiently(load: Callable[[], T]) -> T:
    """What needs the token, once it is there. ConfigError if anything else is wrong."""
    told = ""
    while True:
        try:
            return await asyncio.to_thread(load)
        except AwayError as exc:
            if str(exc) != told:
                told = str(exc)
                log.error("broker.cannot_sign", why=told)
        await asyncio.sleep(LOOK)
