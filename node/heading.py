"""The few header fields that decide when a report ends and how soon it must be read, out of a filing or a view.

Guarantees: never fails on a report that was once taken; what cannot be read counts as not stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct


class _Handling(Struct):
    expires_at: datetime | None = None


class _Severity(Struct):
    score: int | None = None


class _Header(Struct):
    phase: str = "initial"
    severity: _Severity | None = None
    handling: _Handling | None = None


_header: Final = msgspec.json.Decoder(_Header)


@dataclass(frozen=True, slots=True)
class Heading:
    """What a report's header says about time and urgency."""

    phase: str = "initial"
    score: int | None = None
    expires_at: datetime | None = None


def heading_of(data: bytes) -> Heading:
    """The heading of a filing or a view, as JSON."""
    try:
        header = _header.decode(data)
    except msgspec.DecodeError:
        return Heading()
    score = header.severity.score if header.severity else None
    return Heading(header.phase, score, header.handling.expires_at if header.handling else None)
