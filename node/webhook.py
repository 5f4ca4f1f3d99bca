"""Events that go out as they happen: signed HTTP requests after the Standard Webhooks specification.

Guarantees: every event of the chosen kinds is delivered at least once and in order, each under its own number, which
is the same at each attempt; how far it has come stands on disk, so that a restart skips none and repeats at most one.
What is not taken is tried again for as long as it takes, and holds up those behind it. Redirects are not followed, and
neither the address nor the secret is logged. May be cancelled at any time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import structlog

from node import tables
from node.config import Hook
from node.feed import Feed
from node.loops import PAUSE, Writer
from node.metrics import Metrics
from node.store import Event, Store, instant
from node.views import iso
from protocol.errors import ConfigError, Transient
from protocol.keys import read_secret

log = structlog.get_logger()
T = TypeVar("T")
TIMEOUT: Final = 10.0
FIRST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 3_600.0
FAILING: Final = timedelta(hours=24)
"""An event that waits for longer than this is more than a passing fault."""
POSITION: Final = "webhook"
"""Under this name stands the number of the next event to be sent."""
_PREFIX: Final = b"whsec_"
_SHORTEST, _LONGEST = 24, 64
_AT_ONCE: Final = 100
_IDLE: Final = 60.0
_SAVE_EVERY: Final = 1_000
"""Events of other kinds after which the position is saved, so that a start need not look through them again."""


def read_webhook_secret(path: Path) -> bytes:
    """The key in a secret file: `whsec_` and base64 of 24 to 64 bytes. ConfigError otherwise."""
    text = read_secret(path).strip()
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(_PREFIX) or not _SHORTEST <= len(key) <= _LONGEST:
        raise ConfigError(f"{path} must hold whsec_ and {_SHORTEST} to {_LONGEST} random bytes in base64, on one line")
    return key


def sign(key: bytes, number: str, timestamp: int, body: bytes) -> str:
    """The signature header of a request."""
    signed = f"{number}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode("ascii")


def body_of(event: Event) -> bytes:
    """What is sent of an event: the same bytes at each attempt."""
    return msgspec.json.encode({"type": event.kind, "timestamp": iso(event.at), "data": msgspec.Raw(event.data)})


def pause_after(attempts: int, first: float = FIRST_PAUSE) -> float:
    """Seconds to wait after so many attempts in a row that failed."""
    return min(first * 2.0 ** min(attempts - 1, 20), LONGEST_PAUSE)


@dataclass(slots=True)
class Target:
    """Where to, and with which key."""

    hook: Hook
    key: bytes
    first_pause: float = FIRST_PAUSE


class Webhook:
    """Sends events to one address.

    Args:
        target: where to.
        store, writer: hold the events, and how far this has come.
        feed: tells of new events.
        now: the clock.
    """

    def __init__(
        self,
        target: Target,
        *,
        store: Store,
        writer: Writer,
        feed: Feed,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._target = target
        self._store = store
        self._writer = writer
        self._feed = feed
        self._metrics = metrics
        self._now = now
        self._waits_since: datetime | None = None
        metrics.webhook_oldest.set_function(self._age)

    def _age(self) -> float:
        return (self._now() - self._waits_since).total_seconds() if self._waits_since else 0.0

    async def run(self) -> None:
        """Send until it is cancelled."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
            saved = seen = await self._begin()
            while True:
                last = self._store.last_event
                events = await self._patiently(self._after, seen)
                for event in events:
                    await self._deliver(http, event)
                    saved = seen = event.seq
                    await self._save(seen)
                if events:
                    continue
                seen = max(seen, last)
                if seen - saved >= _SAVE_EVERY:
                    saved = seen
                    await self._save(seen)
                await self._feed.wait(seen, _IDLE)

    async def _begin(self) -> int:
        """The last event that was dealt with. The first time, and in a database older than the position, the newest."""
        following = await self._patiently(self._position)
        last = self._store.last_event
        if 0 < following <= last + 1:
            return following - 1
        await self._save(last)
        return last

    async def _patiently(self, read: Callable[..., T], *args: Any) -> T:
        """Read, however long the database is away."""
        while True:
            try:
                return await asyncio.to_thread(read, *args)
            except Transient:
                await asyncio.sleep(PAUSE)

    def _position(self) -> int:
        with self._store.read() as reads:
            return reads.position(POSITION)

    def _after(self, seq: int) -> list[Event]:
        with self._store.read() as reads:
            return reads.events_of(self._target.hook.kinds, seq, _AT_ONCE)

    async def _save(self, seq: int) -> None:
        def save() -> None:
            with self._store.write() as tx:
                tx.put(tables.meta, {"name": POSITION, "value": str(seq + 1)})

        while True:
            try:
                return await self._writer.run(save)
            except Transient:
                await asyncio.sleep(PAUSE)

    async def _deliver(self, http: aiohttp.ClientSession, event: Event) -> None:
        """Send one event until it is taken."""
        body = body_of(event)
        self._waits_since = instant(event.at)
        attempts = 1
        while fault := await self._attempt(http, event.seq, body):
            self._metrics.webhooks.labels("failed").inc()
            failing = self._age() > FAILING.total_seconds()
            if failing:
                log.error("node.webhook_failing", id=event.seq, fault=fault, hours=round(self._age() / 3_600))
            else:
                log.warning("node.webhook_failed", id=event.seq, fault=fault)
            await asyncio.sleep(pause_after(attempts, self._target.first_pause))
            attempts += 1
        self._waits_since = None
        self._metrics.webhooks.labels("delivered").inc()
        log.info("node.webhook", id=event.seq, kind=event.kind, attempts=attempts)

    async def _attempt(self, http: aiohttp.ClientSession, seq: int, body: bytes) -> str:
        """One request; what was wrong, or nothing."""
        number, timestamp = str(seq), int(self._now().timestamp())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "kentongan",
            "webhook-id": number,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._target.key, number, timestamp, body),
        }
        try:
            async with http.post(self._target.hook.url, data=body, headers=headers, allow_redirects=False) as response:
                return "" if 200 <= response.status < 300 else f"status {response.status}"
        except (aiohttp.ClientError, OSError) as exc:
            return type(exc).__name__
