"""Events that go out as they happen: signed HTTP requests after the Standard Webhooks specification.

Guarantees: every event of the chosen kinds is delivered at least once and in order to each webhook, under its own
number, which is the same at each attempt; how far each has come stands on disk: a restart skips none and repeats at
most one. What is not taken is tried again, ever more rarely, and holds up those behind it at this webhook and at no
other. An address that says 410, or has failed for days, is disabled, loudly, until somebody enables it; nothing is
dropped by that. Redirects are not followed, and neither the address nor the secret is logged. May be cancelled at any
time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog

from node.about import About
from node.course import Course
from node.metrics import Metrics
from node.outputs import Hook
from node.store import Event
from node.views import iso
from protocol.errors import ConfigError
from protocol.keys import read_secret
from protocol.reasons import Reason

log = structlog.get_logger()
TIMEOUT: Final = 10.0
FIRST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 3_600.0
LONGEST_ASKED: Final = 86_400.0
"""Seconds of `Retry-After` beyond which a receiver is asked again all the same."""
FAILING: Final = 86_400.0
"""An event that waits for longer than this is more than a passing fault."""
TEST: Final = "webhook.test"
_PREFIX: Final = "whsec_"
_SHORTEST, _LONGEST = 24, 64
_MOST_SECRETS: Final = 4
_SECONDS: Final = re.compile(r"[0-9]{1,9}")


def read_webhook_secrets(path: Path) -> tuple[bytes, ...]:
    """The keys in a secret file, one a line: `whsec_` and base64 of 24 to 64 bytes. ConfigError otherwise.

    Several lines are for the time in which a receiver changes from one secret to the next: each of them signs.
    """
    keys: list[bytes] = []
    for line in read_secret(path).decode("ascii", "replace").split():
        try:
            key = base64.b64decode(line.removeprefix(_PREFIX), validate=True) if line.isascii() else b""
        except binascii.Error:
            key = b""
        keys.append(key if line.startswith(_PREFIX) else b"")
    if not 1 <= len(keys) <= _MOST_SECRETS or not all(_SHORTEST <= len(key) <= _LONGEST for key in keys):
        raise ConfigError(
            f"{path} must hold {_PREFIX} and {_SHORTEST} to {_LONGEST} random bytes in base64, on one line; while the "
            "secret is changed, the old one on another"
        )
    return tuple(keys)


def sign(keys: Sequence[bytes], number: str, timestamp: int, body: bytes) -> str:
    """The signature header of a request: one signature a key, the receiver looks for one that it knows."""
    signed = f"{number}.{timestamp}.".encode() + body
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return " ".join("v1," + base64.b64encode(digest).decode("ascii") for digest in digests)


def body_of(event: Event) -> bytes:
    """What is sent of an event: the same bytes at each attempt."""
    return msgspec.json.encode({"type": event.kind, "timestamp": iso(event.at), "data": msgspec.Raw(event.data)})


def pause_after(attempts: int, jitter: int, first: float = FIRST_PAUSE) -> float:
    """Seconds to wait after so many attempts in a row that failed.

    Args:
        jitter: a random byte, so that what failed together is not tried again together.
    """
    return min(first * 2.0 ** min(attempts - 1, 20), LONGEST_PAUSE) * (0.75 + jitter / 512)


def asked_for(header: str | None, now: datetime) -> float:
    """Seconds for which a receiver asks not to be tried again; 0 if it does not, or not in a way that counts."""
    if not header:
        return 0.0
    if _SECONDS.fullmatch(header.strip()):
        return min(float(header), LONGEST_ASKED)
    try:
        time = parsedate_to_datetime(header)
    except (ValueError, TypeError):
        return 0.0
    seconds = (time.replace(tzinfo=time.tzinfo or UTC) - now).total_seconds()
    return max(0.0, min(seconds, LONGEST_ASKED))


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and with which keys."""

    hook: Hook
    keys: tuple[bytes, ...]
    first_pause: float = FIRST_PAUSE

    @property
    def where(self) -> str:
        """The address without what may be secret in it."""
        parts = urlsplit(self.hook.url)
        return f"{parts.scheme}://{parts.hostname or ''}" + (f":{parts.port}" if parts.port else "")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one request; without a fault it was taken."""

    fault: str = ""
    status: int | None = None
    wait: float = 0.0
    """Seconds for which the receiver asks not to be tried again."""


class Webhook:
    """Sends events to one address.

    Args:
        target: where to.
        course: how far it has come.
        rand: returns that many random bytes.
    """

    def __init__(self, target: Target, course: Course, metrics: Metrics, rand: Callable[[int], bytes]) -> None:
        self.target = target
        self.course = course
        self._counted = metrics.webhooks
        self._rand = rand
        self._tests = 0
        self._http: aiohttp.ClientSession | None = None
        metrics.webhook_oldest.labels(course.name).set_function(course.age)
        disabled = metrics.webhook_disabled.labels(course.name)
        disabled.set_function(lambda: float(course.standing.disabled_at is not None))

    async def run(self) -> None:
        """Send until it is cancelled."""
        async with _session() as http:
            self._http = http
            await self.course.begin()
            while True:
                term = self.course.term
                for known in await self.course.take():
                    if not await self._deliver(http, known, term):
                        break

    async def _deliver(self, http: aiohttp.ClientSession, known: About, term: int) -> bool:
        """Send one event until it is taken; False if the webhook is disabled, or somebody has set its position."""
        event, course = known.event, self.course
        body = body_of(event)
        course.waits_since = event.at
        attempts = 0
        while term == course.term:
            found = await self._attempt(http, str(event.seq), body)
            attempts += 1
            self._counted.labels(course.name, "failed" if found.fault else "delivered").inc()
            if not found.fault:
                log.info("node.webhook", webhook=course.name, id=event.seq, kind=event.kind, attempts=attempts)
                return await course.delivered(event.seq, term)
            failing = await course.failed(found.fault)
            why = self._gives_up(found, failing)
            if why is not None:
                await course.disable(why, found.fault)
                log.error("node.webhook_disabled", webhook=course.name, reason=why.value, fault=found.fault)
                return False
            said = {"webhook": course.name, "id": event.seq, "fault": found.fault}
            if course.age() > FAILING:
                log.error("node.webhook_failing", hours=round(course.age() / 3_600), **said)
            else:
                log.warning("node.webhook_failed", **said)
            pause = pause_after(attempts, self._rand(1)[0], self.target.first_pause)
            await course.moved.wait(max(pause, found.wait))
        return False

    def _gives_up(self, found: Attempt, failing: float) -> Reason | None:
        if found.status == HTTPStatus.GONE:
            return Reason.ENDPOINT_GONE
        if failing >= self.target.hook.disable_after_days * 86_400:
            return Reason.ENDPOINT_FAILING
        return None

    async def test(self) -> Mapping[str, Any]:
        """Send a request that is about nothing, once, also while the webhook is disabled; tells what came of it."""
        self._tests += 1
        at = iso(self.course.now())
        number = f"test-{int(self.course.now().timestamp())}-{self._tests}"
        body = msgspec.json.encode({"type": TEST, "timestamp": at, "data": {"webhook": self.course.name}})
        began = monotonic()
        if self._http is None:
            found = Attempt("not started")
        else:
            found = await self._attempt(self._http, number, body)
        log.info("node.webhook_tested", webhook=self.course.name, fault=found.fault)
        shown = {"delivered": not found.fault, "id": number, "status": found.status, "fault": found.fault}
        return {**shown, "ms": round((monotonic() - began) * 1_000, 1)}

    async def _attempt(self, http: aiohttp.ClientSession, number: str, body: bytes) -> Attempt:
        """One request."""
        timestamp = int(self.course.now().timestamp())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "kentongan",
            "webhook-id": number,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self.target.keys, number, timestamp, body),
        }
        try:
            async with http.post(self.target.hook.url, data=body, headers=headers, allow_redirects=False) as response:
                if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                    return Attempt(status=response.status)
                wait = asked_for(response.headers.get("Retry-After"), self.course.now())
                return Attempt(f"status {response.status}", response.status, wait)
        except (aiohttp.ClientError, OSError) as exc:
            return Attempt(type(exc).__name__)


def _session() -> aiohttp.ClientSession:
    # No proxy from the environment, no cookies: a request goes where the operator's file says.
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    return aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
