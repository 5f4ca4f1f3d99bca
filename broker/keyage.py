"""How long keys last: the broker's own, and the newest of each member. Pure.

Guarantees: a member appears once for each use of a key that it has; a revoked key lasts no longer than its revocation.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from protocol.keys import KeyRecord
from protocol.registry import Registry

OWN = "broker"


def key_seconds(
    registry: Registry, records: Iterable[KeyRecord], kid: str, now: datetime
) -> dict[tuple[str, str], float]:
    """Seconds until the last key ends, by member and use; below zero if it has ended.

    Args:
        records, kid: the broker's own, and the one that it signs with.
    """
    found = {(OWN, "signing"): last(((r for r in records if r.kid == kid)), now)}
    for name, member in registry.members.items():
        if member.status == "active":
            found[name, "signing"] = last(member.keys, now)
            found[name, "sealing"] = last(member.sealing_keys, now)
    return {key: seconds for key, seconds in found.items() if seconds is not None}


def last(records: Iterable[Any], now: datetime) -> float | None:
    """Seconds until the last of some keys ends; None without any."""
    ends = [min(r.not_after, r.revoked_at) if r.revoked_at else r.not_after for r in records]
    return (max(ends) - now).total_seconds() if ends else None
