"""The node's own keys and how long they last: what `kentongan node keys` lists, and warnings weeks ahead.

Guarantees: each key in use that ends is warned of at 42, 14 and 3 days, once each, through restarts: an alarm
`key-expires` that stays until a person clears it. Reads public parts only, except of the connection's credentials, of
which nothing but the claim is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from node import config as files
from node import tables
from node.alarms import raise_alarm
from node.core import NodeCore
from node.loops import PAUSE, State, Writer
from node.store import microseconds
from protocol import natsauth
from protocol.certs import read_certificate
from protocol.errors import ConfigError, Transient
from protocol.keylife import Life, ending, lives_of, stage, state_of
from protocol.keys import read_secret
from protocol.reasons import Reason
from protocol.registry import Member

log = structlog.get_logger()
LOOK: Final = 3600.0
"""Seconds between looks at the keys."""
SIGNING_USE: Final = "signs reports, confirmations and cosignatures"
SEALING_USE: Final = "opens reports sealed to this member"
TRANSPORT_USE: Final = "opens the connection to the bus"
CERTIFICATE_USE: Final = "shown to the bus, in TLS"
FINGERPRINT_USE: Final = "hashes content, so that the broker knows it again"


def own_lives(member: Member | None, signing: str, keys: Path, now: datetime) -> list[Life]:
    """Every key of a node.

    Args:
        member: as the region lists it; None if it does not.
        signing: the id of the signing key in use.
        keys: the directory with the keys.
    """
    found = []
    if member is not None:
        found += lives_of("signing", SIGNING_USE, member.keys, now, current=signing)
        found += lives_of("sealing", SEALING_USE, member.sealing_keys, now)
    return [*found, *transport_lives(keys, now), *_fingerprint(keys)]


def transport_lives(keys: Path, now: datetime) -> list[Life]:
    """The key that opens the connection. None while the node has not joined."""
    try:
        jwt, _ = natsauth.parse_creds(read_secret(keys / files.NATS_CREDS).decode("ascii", "replace"))
        start, end = natsauth.times_of(jwt)
    except ConfigError:
        return []
    begins, ends = _moment(start), _moment(end)
    state = state_of(begins, ends, None, in_use=True, now=now)
    found = [Life("transport", natsauth.subject_of(jwt), TRANSPORT_USE, "nkey", state, True, begins, ends)]

    path = keys / files.NATS_CERTIFICATE
    if path.exists():
        shown = read_certificate(read_secret(path), str(path))
        state = state_of(shown.not_before, shown.not_after, None, in_use=True, now=now)
        span = (shown.not_before, shown.not_after)
        found.append(Life("certificate", shown.serial, CERTIFICATE_USE, shown.alg, state, True, *span))
    return found


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _fingerprint(keys: Path) -> list[Life]:
    if not (keys / files.FINGERPRINT_KEY).exists():
        return []
    return [Life("fingerprint", "-", FINGERPRINT_USE, "HMAC-SHA-256", "current", True)]


class KeyWatch:
    """Looks at the keys of a running node now and then.

    Args:
        keys: the directory with the keys.
        now: the clock.
    """

    def __init__(self, keys: Path, core: NodeCore, writer: Writer, state: State, now: Callable[[], datetime]) -> None:
        self._keys = keys
        self._core = core
        self._writer = writer
        self._state = state
        self._now = now

    def lives(self) -> list[Life]:
        """All keys as they are now."""
        member = self._core.trust.registry.members.get(self._core.member)
        return own_lives(member, self._core.kid, self._keys, self._now())

    def ends(self) -> dict[str, datetime]:
        """When the key in use of each kind ends, of those that do."""
        return {one.kind: one.not_after for one in self.lives() if one.in_use and one.not_after is not None}

    async def run(self) -> None:
        """Until the stop: warn of what ends soon."""
        bell = self._state.bell()
        self._state.on_link(bell)
        while not self._state.stopping:
            try:
                await self._writer.run(self.warn)
            except Transient:
                await bell.wait(PAUSE)
                continue
            await bell.wait(LOOK)

    def warn(self) -> list[str]:
        """Raise what alarms are due; the kinds of keys that they are about. On the writer's thread.

        Raises:
            Transient: the disk is full; nothing is noted.
        """
        now, told = self._now(), []
        soon = ending(self.lives(), now, timedelta(days=366))
        with self._core.store.read() as reads:
            due = []
            for life in soon:
                days = stage(life.left(now) or timedelta(0))
                name = f"key-expires {life.kind} {life.kid}"
                before = reads.position(name)
                if days is not None and not 0 < before <= days:
                    due.append((life, name, days))
        if not due:
            return []
        with self._core.store.write() as tx:
            for life, name, days in due:
                end = life.not_after or now
                facts = {"kid": life.kid, "not_after": end.isoformat(timespec="seconds"), "days": (end - now).days}
                raise_alarm(tx, life.kind, Reason.KEY_EXPIRES.value, microseconds(now), **facts)
                tx.put(tables.meta, {"name": name, "value": str(days)})
                told.append(life.kind)
                log.warning("node.key_expires", kind=life.kind, kid=life.kid, days=facts["days"])
        return told
