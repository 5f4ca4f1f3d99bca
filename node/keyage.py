"""How long this node's keys last, for the metrics.

Guarantees: what the region does not list, or has no end, is not shown; never fails, so that a scrape does not.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from node.core import NodeCore
from protocol.errors import ConfigError
from protocol.keys import read_secret
from protocol.natsauth import expiry_of, parse_creds


def key_seconds(core: NodeCore, creds: Path, now: Callable[[], datetime]) -> dict[tuple[str], float]:
    """Seconds until each key ends, by its use; below zero if it has ended."""
    at = now()
    found: dict[tuple[str], float] = {}
    member = core.trust.registry.members.get(core.member)
    if member is not None:
        signing = [record for record in member.keys if record.kid == core.kid]
        for use, records in (("signing", signing), ("sealing", member.sealing_keys)):
            ends = [min(r.not_after, r.revoked_at) if r.revoked_at else r.not_after for r in records]
            if ends:
                found[use,] = (max(ends) - at).total_seconds()
    transport = _transport(creds)
    if transport is not None:
        found["transport",] = transport - at.timestamp()
    return found


def _transport(creds: Path) -> float | None:
    """When the credentials for the bus end, in seconds since 1970; None if they do not, or are not there."""
    try:
        jwt, _ = parse_creds(read_secret(creds).decode("ascii"))
        return expiry_of(jwt)
    except (ConfigError, UnicodeDecodeError):
        return None
