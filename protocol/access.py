"""Who asks at an HTTP door, and what of it they may have: scopes, limits, quotas, and the text of a token.

Guarantees: a `Client` says once and for all what its token may do; deny by default, a marking that is not known is
above every limit. A token is 256 random bits behind a prefix that scanners for leaked secrets can look for, and ends
with a checksum: who mistypes it is told so, and nothing is looked up. Pure: time and randomness are arguments.

Only the SHA-256 of a token is ever stored. A plain, fast hash is enough, for there is nothing to guess in 256 random
bits; and a look-up by that hash need not take constant time: who can choose a token cannot choose its hash, so that
what the time of a comparison tells of a stored hash leads to no token that has it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, get_args

from protocol.envelope import Rand
from protocol.errors import ProtocolError
from protocol.keys import b64
from protocol.parts import MadeBy
from protocol.reasons import Reason
from protocol.taxonomy import Tlp

Scope = Literal["submit", "read", "confirm", "release", "audit", "admin"]
SCOPES: Final[frozenset[Scope]] = frozenset(get_args(Scope))
TLPS: Final[tuple[Tlp, ...]] = get_args(Tlp)
"""Markings, from that which everybody may read to that which hardly anybody may."""
PREFIX: Final = "kg_"
ENTROPY: Final = 32
_SECRET: Final = 43
_CHECKSUM: Final = 6
MINUTE: Final = 60
DAY: Final = 86_400


# --- the text of a token ----------------------------------------------------------------------------------------


def new_token(rand: Rand) -> str:
    """A fresh token: `kg_`, 43 characters of randomness, 6 of checksum."""
    secret = PREFIX + b64(rand(ENTROPY))
    return secret + _checksum(secret)


def is_mistyped(token: str) -> bool:
    """Whether this was meant to be one of our tokens and cannot be one: nothing has to be looked up to know."""
    if not token.startswith(PREFIX):
        return False
    secret, checksum = token[: len(PREFIX) + _SECRET], token[len(PREFIX) + _SECRET :]
    return checksum != _checksum(secret)


def _checksum(secret: str) -> str:
    return b64(zlib.crc32(secret.encode("utf-8", "surrogateescape")).to_bytes(4, "big"))


def hash_of(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


# --- quotas -----------------------------------------------------------------------------------------------------


class Quota:
    """How many reports a token may still file, between full minutes and between midnights (UTC).

    A window that begins by the clock forgets nothing that matters and costs one number. May be asked on any thread;
    taken from on one.

    Args:
        minute, day: the most in each; None if there is no such limit.
        now: the clock.
    """

    def __init__(self, minute: int | None, day: int | None, now: Callable[[], datetime]) -> None:
        self._now = now
        self._windows = [
            (name, seconds, most)
            for name, seconds, most in (("minute", MINUTE, minute), ("day", DAY, day))
            if most is not None
        ]
        self._used = {name: (0, 0) for name, _, _ in self._windows}
        """By window: which one it was, counted from 1970, and how many were taken in it."""

    def take(self) -> bool:
        """Take one; False if none is left."""
        at = self._now().timestamp()
        left = self._left(at)
        if any(rest <= 0 for _, rest, _ in left):
            return False
        self._add(at, 1)
        return True

    def give_back(self, number: int) -> None:
        """Nothing came of so many."""
        self._add(self._now().timestamp(), -number)

    def begin(self, minute: int, day: int) -> None:
        """So many were taken in the present windows before this process began."""
        at, used = self._now().timestamp(), {"minute": minute, "day": day}
        for name, seconds, _ in self._windows:
            self._used[name] = (int(at // seconds), used[name])

    def _add(self, at: float, number: int) -> None:
        for name, seconds, _ in self._windows:
            window, (last, used) = int(at // seconds), self._used[name]
            self._used[name] = (window, max(0, number + (used if last == window else 0)))

    def _left(self, at: float) -> list[tuple[str, int, int]]:
        found = []
        for name, seconds, most in self._windows:
            window, (last, used) = int(at // seconds), self._used[name]
            rest = most - (used if last == window else 0)
            found.append((name, max(0, rest), max(1, int((window + 1) * seconds - at + 0.999))))
        return found

    def headers(self) -> dict[str, str]:
        """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers); `Retry-After` if none is left."""
        if not self._windows:
            return {}
        left = self._left(self._now().timestamp())
        shown = {
            "RateLimit-Policy": ", ".join(f'"{name}";q={most};w={seconds}' for name, seconds, most in self._windows),
            "RateLimit": ", ".join(f'"{name}";r={rest};t={wait}' for name, rest, wait in left),
        }
        waits = [wait for _, rest, wait in left if rest <= 0]
        return {**shown, "Retry-After": str(max(waits))} if waits else shown


# --- clients ----------------------------------------------------------------------------------------------------


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, and what they may do. Without arguments: everything.

    Attributes:
        name: of the token; never given to another one.
        scopes: what it may do at all.
        tlp: the highest marking that it may file and read.
        sectors, purposes: which it may claim in what it files; None for all. A sector includes its parts.
        made_by: what stands in every report that it files, whatever the filing says.
        held: whether what it files waits until a person releases it.
        quota: how much it may file.
        alive: whether the token still holds; to be asked again by whoever keeps a connection open.
    """

    name: str = ""
    scopes: frozenset[str] = SCOPES
    tlp: str = "RED"
    sectors: frozenset[str] | None = None
    purposes: frozenset[str] | None = None
    made_by: MadeBy | None = None
    held: bool = False
    quota: Quota | None = field(default=None, compare=False)
    alive: Callable[[], bool] = field(default=_always, compare=False)

    @property
    def limited(self) -> bool:
        """Whether there is anything that it must not read."""
        return self.tlp != TLPS[-1]


ANYBODY: Final = Client()
"""A client without limits: for callers inside the process."""


def allows(client: Client, tlp: str) -> bool:
    """Whether a client may read, and file, what is marked so. What is no marking is refused."""
    return tlp in TLPS and client.tlp in TLPS and TLPS.index(tlp) <= TLPS.index(client.tlp)


def readable(client: Client) -> tuple[str, ...]:
    """Every marking that a client may read."""
    return tuple(tlp for tlp in TLPS if allows(client, tlp))


def claims(client: Client, sector: str) -> bool:
    """Whether a client may claim a sector: one of its own, or a part of one."""
    if client.sectors is None:
        return True
    return sector in client.sectors or sector.partition(".")[0] in client.sectors


def demand(client: Client, scopes: Iterable[str]) -> None:
    """ProtocolError(SCOPE_MISSING) unless a client has one of these scopes."""
    needed = sorted(scopes)
    if not client.scopes.intersection(needed):
        raise ProtocolError(Reason.SCOPE_MISSING, "$", f"this needs a token with the scope {' or '.join(needed)}")
