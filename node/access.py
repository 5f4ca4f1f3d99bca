"""Who may enter the node's HTTP door: `node.toml`'s tokens and those of the database, held in memory.

Guarantees: no request reads the database. What the writer changes counts before it is answered: a revoked or expired
token is refused from then on, also where a connection is open (`Client.alive`). The last use of a token is written now
and then, not with each request. `node.toml`'s tokens have every scope: by them the others are made.

`check`, and what it gives out, belong to the event loop; everything that writes belongs to the writer's thread. What
both use is replaced as a whole, never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from node import tables
from node.loops import State, Writer
from node.store import Store, Tx, instant, microseconds
from node.tokens import Terms, Wanted, client_of, create, revoke, rotate, terms_of, token_line
from protocol.access import DAY, MINUTE, Client, Quota, hash_of
from protocol.door import bearer_of, unknown_token
from protocol.envelope import Rand
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.process import Token
from protocol.reasons import Reason
from protocol.tls import Certificate

log = structlog.get_logger()

T = TypeVar("T")
FILE: Final = "node.toml"
WRITE_EVERY: Final = 60.0
"""Seconds between two looks at who used a token."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One way in: a client, until when, and by which certificate."""

    client: Client
    until: datetime | None = None
    certificate: str = ""

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


class Access:
    """All tokens of a node.

    Args:
        tokens: those of its settings.
        store: has the others.
        now: the clock.
        rand: returns that many random bytes.

    Raises:
        ConfigError: a token of the settings has the name of another one.
    """

    def __init__(
        self, tokens: Iterable[Token], store: Store, now: Callable[[], datetime], rand: Rand = lambda _: b""
    ) -> None:
        self._file = tuple(tokens)
        self._store = store
        self._now = now
        self._rand = rand
        self._entries: dict[bytes, _Entry] = {}
        self._certified: tuple[bytes, ...] = ()
        self._quotas: dict[str, Quota] = {}
        self._used: dict[str, int] = {}
        self._fresh: dict[str, int] = {}
        self.on_change: Callable[[], None] = lambda: None
        """Called, on the thread that changes, when tokens have changed."""
        with store.read() as reads:
            rows = reads.tokens()
            self._check_names(rows)
            for row in rows:
                self._used[row.name] = row.used_at or 0
                self._begin_quota(row.name, terms_of(row), reads.filed_since)
        self._take(rows)

    def _check_names(self, rows: Sequence[Any]) -> None:
        both = sorted({token.name for token in self._file} & {row.name for row in rows})
        if both:
            raise ConfigError(f"{FILE}: a token named {both[0]} was made by `token create`: rename the [[token]]")

    def _begin_quota(self, name: str, terms: Terms, filed_since: Callable[[str, int], int]) -> None:
        """What was filed before a restart counts."""
        if not terms.per_minute and not terms.per_day:
            return
        quota = self._quota(name, terms)
        at = int(self._now().timestamp())
        minute, day = (filed_since(name, (at - at % window) * 1_000_000) for window in (MINUTE, DAY))
        quota.begin(minute, day)

    def _quota(self, name: str, terms: Terms) -> Quota:
        if name not in self._quotas:
            self._quotas[name] = Quota(terms.per_minute or None, terms.per_day or None, self._now)
        return self._quotas[name]

    def _take(self, rows: Sequence[Any]) -> None:
        """Let these tokens count, and no others but the settings' own."""
        entries: dict[bytes, _Entry] = {}
        self._tlps = {row.name: terms_of(row).tlp for row in rows}
        for token in self._file:
            self._add(entries, bytes.fromhex(token.sha256), _Entry(Client(token.name), None, token.certificate))
        for row in rows:
            if row.revoked_at is not None:
                continue
            terms = terms_of(row)
            end = terms.expires_at or None
            client = client_of(row.name, terms, self._quota(row.name, terms))
            self._add(entries, bytes(row.sha256), _Entry(client, end, terms.certificate))
            if row.old_sha256 is not None:
                old = instant(row.old_until)
                self._add(entries, bytes(row.old_sha256), _Entry(client, min(old, end) if end else old))
        self._certified = tuple(key for key, entry in entries.items() if entry.certificate)
        self._entries = entries

    def _add(self, entries: dict[bytes, _Entry], key: bytes, entry: _Entry) -> None:
        entries[key] = replace(entry, client=replace(entry.client, alive=partial(self._holds, key)))

    def _holds(self, key: bytes) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.holds(self._now())

    # --- at the door

    def check(self, authorization: str | None, certificate: Certificate | None = None) -> Client:
        """See `protocol.door.Bearers`. Why a look-up by hash tells nothing stands in `protocol/access.py`."""
        now = self._now()
        entries = self._entries
        if not authorization and certificate is not None:
            found = [entries[key] for key in self._certified if certificate.is_named(entries[key].certificate)]
            entry = found[0] if found else None
            if entry is None:
                raise ProtocolError(Reason.TOKEN_MISSING, "$", "no token names this certificate: send one")
        else:
            entry = entries.get(hash_of(bearer_of(authorization)))
        if entry is None or not entry.holds(now):
            raise unknown_token()
        self._fresh[entry.client.name] = microseconds(now)
        return entry.client

    # --- changes, on the writer's thread

    def create(self, wanted: Wanted, by: str) -> str:
        """Make a token; returns its text. ProtocolError as `tokens.create` says."""
        taken = {token.name for token in self._file}
        return self._change(lambda tx: create(tx, wanted, by=by, taken=taken, now=self._now(), rand=self._rand))

    def rotate(self, name: str, overlap: timedelta, by: str) -> str:
        """Give a token a new secret; returns it. ProtocolError as `tokens.rotate` says."""
        return self._change(lambda tx: rotate(tx, name, overlap, by=by, now=self._now(), rand=self._rand))

    def revoke(self, name: str, by: str) -> bool:
        """Let a token count no more. ProtocolError as `tokens.revoke` says."""
        return self._change(lambda tx: revoke(tx, name, by=by, now=self._now()))

    def _change(self, work: Callable[[Tx], T]) -> T:
        with self._store.write() as tx:
            done = work(tx)
            rows = tx.tokens()
        # Read within the transaction: after it, nothing can fail that would leave an old token in force.
        self._take(rows)
        self.on_change()
        return done

    def write_uses(self) -> None:
        """Store when tokens were last used, as far as that is not stored yet.

        Raises:
            Transient: the disk is full; nothing is forgotten.
        """
        fresh = dict(self._fresh)
        own = {token.name for token in self._file}
        rows = [
            {"name": name, "used_at": at} for name, at in fresh.items() if name not in own and self._newer(name, at)
        ]
        if rows:
            with self._store.write() as tx:
                tx.set(tables.tokens, "name", rows)
        self._used.update(fresh)

    def _newer(self, name: str, at: int) -> bool:
        return at > self._used.get(name, 0)

    # --- for those who ask what there is

    def lines(self) -> list[dict[str, Any]]:
        """Every token; its last use also if that is not stored yet."""
        with self._store.read() as reads:
            rows = reads.tokens()
        now = self._now()
        own = [
            {"name": token.name, "state": "valid", "from": FILE, "scopes": sorted(Client().scopes)}
            for token in self._file
        ]
        return own + [token_line(row, now, self._fresh.get(row.name) or row.used_at) for row in rows]

    def filer(self, name: str) -> Client:
        """As whom what a client once filed goes on when a person has released it: its name and marking, and no wait."""
        return Client(name, tlp=self._tlps.get(name, "RED"))


async def write_uses(access: Access, writer: Writer, state: State, every: float = WRITE_EVERY) -> None:
    """Store now and then, and at the stop, when tokens were last used."""
    bell = state.bell()
    while True:
        await bell.wait(every)
        stopping = state.stopping
        try:
            await writer.run(access.write_uses)
        except Transient as exc:
            log.warning("node.uses_not_written", detail=str(exc)[:200])
        if stopping:
            return
