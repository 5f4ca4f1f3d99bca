"""How long keys last: one list of all keys of a member, a broker or a trustee, and which of them end soon.

Guarantees: a key that is in use and has run out is never shown as anything but that; only keys in use are warned of, so
that one which ends by design (the old one after a renewal) rings nothing. Pure: the time is an argument. Holds public
parts only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.keys import KeyRecord
from protocol.sealing import SealingKeyRecord

WARN_DAYS: Final = (3, 14, 42)
"""Days before its end at which a key is warned of, once each."""
_WITHIN: Final = re.compile(r"([0-9]{1,4})d")


@dataclass(frozen=True, slots=True)
class Life:
    """One key, as an operator wants to know it."""

    kind: str
    """signing, sealing, transport, certificate, authority, trustee, fingerprint, operator, account, user."""
    kid: str
    use: str
    alg: str
    state: str
    """current, next, overlap, revoked, expired."""
    in_use: bool
    not_before: datetime | None = None
    not_after: datetime | None = None
    """None: it does not end by itself."""
    owner: str = ""

    def left(self, now: datetime) -> timedelta | None:
        """Until it ends; less than nothing if it has."""
        return None if self.not_after is None else self.not_after - now


def state_of(
    not_before: datetime | None,
    not_after: datetime | None,
    revoked_at: datetime | None,
    *,
    in_use: bool,
    now: datetime,
) -> str:
    """The word for where a key stands."""
    if revoked_at is not None and revoked_at <= now:
        return "revoked"
    if not_after is not None and not_after <= now:
        return "expired"
    if in_use:
        return "current"
    return "next" if not_before is not None and not_before > now else "overlap"


def lives_of(
    kind: str,
    use: str,
    records: Sequence[KeyRecord | SealingKeyRecord],
    now: datetime,
    *,
    current: str | None = None,
    owner: str = "",
) -> list[Life]:
    """The keys of one kind that the region lists.

    Args:
        current: the id of the one in use; without it the one that is used if any is: of those that are valid, and
            of all if none is, the one that began last.
    """
    if current is None and records:
        valid = [one for one in records if _valid(one, now)] or records
        current = max(valid, key=lambda one: (one.not_before, one.not_after, one.kid)).kid

    def life(one: KeyRecord | SealingKeyRecord) -> Life:
        in_use = one.kid == current
        ends = min(one.not_after, one.revoked_at or one.not_after)
        state = state_of(one.not_before, one.not_after, one.revoked_at, in_use=in_use, now=now)
        return Life(kind, one.kid, use, one.alg, state, in_use, one.not_before, ends, owner)

    return [life(one) for one in records]


def _valid(one: KeyRecord | SealingKeyRecord, now: datetime) -> bool:
    return one.not_before <= now < min(one.not_after, one.revoked_at or one.not_after)


def ending(lives: Iterable[Life], now: datetime, within: timedelta) -> list[Life]:
    """Those in use that end within a time, or have ended; the first to end first."""
    found = [(one.not_after, one) for one in lives if one.in_use and one.not_after is not None]
    return [one for end, one in sorted(found, key=lambda pair: pair[0]) if end - now <= within]


def stage(left: timedelta) -> int | None:
    """The warning that is due when so much time is left: one of `WARN_DAYS`, or None if it is early yet."""
    return next((days for days in WARN_DAYS if left <= timedelta(days=days)), None)


def parse_within(text: str) -> timedelta:
    """`30d`. ConfigError if it is something else."""
    found = _WITHIN.fullmatch(text)
    if found is None:
        raise ConfigError(f"--within takes days, such as 30d, not {text[:20]!r}")
    return timedelta(days=int(found[1]))


def as_document(life: Life, now: datetime) -> dict[str, Any]:
    """One key for `--json` and status pages."""
    left = life.left(now)
    return {
        "kind": life.kind,
        "owner": life.owner or None,
        "kid": life.kid,
        "use": life.use,
        "alg": life.alg,
        "state": life.state,
        "in_use": life.in_use,
        "not_before": _time(life.not_before),
        "not_after": _time(life.not_after),
        "days_left": None if left is None else left.days,
    }


def table(lives: Sequence[Life], now: datetime) -> list[str]:
    """A line for each key, in columns."""
    head = ["kind", "key", "algorithm", "from", "until", "state", "days left", "use"]
    rows = [head, *(_row(one, now) for one in lives)]
    if any(one.owner for one in lives):
        rows = [[owner, *row] for owner, row in zip(["whose", *(one.owner or "-" for one in lives)], rows, strict=True)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(one: Life, now: datetime) -> list[str]:
    left = one.left(now)
    days = "-" if left is None else str(left.days)
    return [one.kind, one.kid, one.alg, _day(one.not_before), _day(one.not_after), one.state, days, one.use]


def _day(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d}"


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")
