"""Names that this node gives: report and incident ids (RFC 9562 UUIDv7), content hashes, fingerprints.

Pure: time, randomness and keys are arguments. The same content has the same hash and fingerprint, whatever its ids.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from msgspec import UNSET

from protocol.envelope import Rand
from protocol.keys import b64
from protocol.report import Filing, json_encode

_FINGERPRINT_LENGTH: Final = 22


_POOL: Final = 4_096


class Pool:
    """Random bytes drawn many at a time, each given out once. A system call for a few costs more than their use,
    and lets another thread go first. For one thread.
    """

    def __init__(self, rand: Rand) -> None:
        self._rand = rand
        self._drawn = b""
        self._at = 0

    def __call__(self, size: int) -> bytes:
        if self._at + size > len(self._drawn):
            self._drawn, self._at = self._rand(max(size, _POOL)), 0
        self._at += size
        return self._drawn[self._at - size : self._at]


def uuid7(now: datetime, rand: Rand) -> UUID:
    """A UUID whose first 48 bits are the time in milliseconds, so that ids sort by age (RFC 9562 section 5.7)."""
    milliseconds = int(now.timestamp() * 1000) & (1 << 48) - 1
    value = milliseconds << 80 | int.from_bytes(rand(10), "big")
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0b11 << 62) | 0b10 << 62
    return UUID(int=value)


def content_of(filing: Filing) -> bytes:
    """A filing as deterministic JSON, without its identity: equal for equal content."""
    return json_encode(msgspec.structs.replace(filing, report_id=UNSET, incident_id=UNSET, revision=UNSET))


def content_hash(content: bytes) -> str:
    """The name of a content within this node."""
    return b64(hashlib.sha256(content).digest())


def fingerprint(key: bytes, filing: Filing, content: bytes) -> str:
    """What the broker tells repetitions by: keyed, so that nobody can guess content from it; the phase does not count.

    Args:
        key: this node's own; it never leaves the node.
        content: `content_of(filing)`.
    """
    if filing.phase != "initial":
        content = content_of(msgspec.structs.replace(filing, phase="initial"))
    return b64(hmac.digest(key, content, "sha256"))[:_FINGERPRINT_LENGTH]
