"""A member's new keys: made here, signed by the member itself, and used once the region shows them.

    keys/signing-next.pem   the new signing key, until it takes the place of signing.pem
    keys/sealing-KID.json   a new sealing key; all of them open what was sealed to them
    keys/nats-next.seed     a new key for the connection, until it takes the place of nats.seed
    keys/renewal.json       what is wanted; nothing secret. Gone when it is done

Guarantees: the old key signs until the region lists the new one, and stays valid for a while after that, so that what
is on its way still counts; the connection with a new key stands before the one with the old key ends; a kill at any
moment leaves one key in place and the rest to be done again. No key is deleted but that of the connection, which opens
nothing any more: the old signing key stays beside the new one. Refuses a second renewal while one is open
(ConfigError).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from node import config as files
from node.buskeys import LOOK as FOLLOW
from node.buskeys import BusKeys
from node.config import Config
from node.core import NodeCore
from node.loops import PAUSE, REQUEST_TIMEOUT, Refresher, State, Writer
from node.witness import Witness
from protocol import natsauth, subjects
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.governance import Keys, Record, draft
from protocol.hsm import HsmKey
from protocol.keys import KeyRecord, KnownSigner, SigningKey, read_secret, write_secret
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.registry import Member, TransportKey
from protocol.report import Instant
from protocol.sealing import SealingKey, SealingKeyRecord

log = structlog.get_logger()
OFFER: Final = "governance.offer"
NEXT: Final = "signing-next.pem"
WISH: Final = "renewal.json"
KEY_LIFE: Final = timedelta(days=365)
AHEAD: Final = timedelta(hours=1)
"""A clock that runs a little ahead here must not make the key invalid there."""
LOOK: Final = 1.0
"""Seconds between looks for a renewal that was asked for."""
AGAIN: Final = 30.0
"""Seconds after a refusal."""


class Wish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a renewal shall bring about."""

    old: str
    """Key id of the signing key at the time of the wish."""
    new: KeyRecord | None = None
    sealing: SealingKeyRecord | None = None
    overlap_days: int = 7
    """For how long the old signing key stays valid beside the new one."""
    transport: TransportKey | None = None
    """The new key for the connection."""
    transport_seconds: int = 7 * 86_400
    """For how long the one before it still opens a connection."""
    revoke: str | None = None
    since: Instant | None = None


_wish: Final = msgspec.json.Decoder(Wish)


def read_wish(keys: Path) -> Wish | None:
    """The renewal that is open. ConfigError if its file is no such."""
    path = keys / WISH
    try:
        return decode(_wish, path.read_bytes())
    except FileNotFoundError:
        return None
    except ProtocolError as exc:
        raise ConfigError(f"{path}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc


def ask(
    keys: Path,
    now: datetime,
    *,
    signing: bool = True,
    present: KnownSigner | None = None,
    token_key: HsmKey | None = None,
    sealing: bool = False,
    transport: bool = False,
    overlap_days: int = 7,
    transport_overlap: timedelta | None = None,
    algorithm: str | None = None,
    revoke: str | None = None,
    since: datetime | None = None,
) -> Wish:
    """Make new keys, and note what is wanted of them; the node does the rest, now or at its next start.

    Args:
        signing, sealing, transport: which keys are made.
        present: the signing key, if it is not the one in the file.
        token_key: the new signing key, if it is in a token; the node uses it after its settings name it.
        algorithm: of the new signing key; by default that of the present one.
        transport_overlap: how long the old key still opens connections, if not for the overlap of the others.
        revoke: a key that counts no more from `since` on.

    Raises:
        ConfigError: a renewal is open.
    """
    if read_wish(keys) is not None:
        raise ConfigError(f"{keys / WISH}: a renewal is open; let the node finish it, or remove the file")
    complete(keys)
    present = present or SigningKey.load(keys / files.SIGNING_KEY)
    start, end = now.replace(microsecond=0) - AHEAD, now.replace(microsecond=0) + KEY_LIFE
    new = sealed = None
    if token_key is not None:
        new = token_key.record(start, end)
    elif signing:
        key = SigningKey.generate(algorithm or present.alg)
        key.save(keys / NEXT)
        new = key.record(start, end)
    if sealing:
        seal = SealingKey.generate()
        seal.save(keys / f"sealing-{seal.kid}.json")
        sealed = seal.record(start, end)
    public = None
    if transport:
        seed = natsauth.create_seed(natsauth.Role.USER, secrets.token_bytes(natsauth.SEED_ENTROPY))
        public = natsauth.public_of(seed, natsauth.Role.USER)
        write_secret(keys / files.NATS_NEXT, seed.encode("ascii"))
    stays = timedelta(days=overlap_days) if transport_overlap is None else transport_overlap
    wish = Wish(
        old=present.kid,
        new=new,
        sealing=sealed,
        overlap_days=overlap_days,
        transport=public,
        transport_seconds=int(stays.total_seconds()),
        revoke=revoke,
        since=since,
    )
    fresh = keys / f"{WISH}.new"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(wish)))
    fresh.replace(keys / WISH)
    return wish


def complete(keys: Path) -> None:
    """Put the new key in place if a kill left none there."""
    if not (keys / files.SIGNING_KEY).exists() and (keys / NEXT).exists():
        (keys / NEXT).rename(keys / files.SIGNING_KEY)


def load_signer(config: Config) -> SigningKey | HsmKey:
    """The key with which a node signs, from its file or in its token. ConfigError if it cannot be used."""
    if config.signing is None:
        complete(config.keys)
        return SigningKey.load(config.keys / files.SIGNING_KEY)
    if (config.keys / NEXT).exists():
        raise ConfigError(f"{config.keys / NEXT}: a renewal is open; let the node finish it before `signing` is set")
    return HsmKey.open(config.signing)


def wanted(wish: Wish, member: Member, at: datetime) -> Keys | None:
    """The record that the wish needs; None if the region is as it wants. Pure.

    Args:
        member: as the trustees' records have it.
        at: the record's time.
    """
    held: list[KeyRecord | SealingKeyRecord] = [*member.keys, *member.sealing_keys]
    there = {record.kid for record in held}
    made: list[KeyRecord | SealingKeyRecord | None] = [wish.new, wish.sealing]
    fresh = [record for record in made if record is not None and record.kid not in there]
    revoked = {record.kid for record in held if record.revoked_at is not None}
    connects = wish.transport is None or wish.transport == member.transport
    if not fresh and connects and (wish.revoke is None or wish.revoke in revoked):
        return None

    def changed(record: KeyRecord | SealingKeyRecord) -> KeyRecord | SealingKeyRecord:
        if record.kid == wish.revoke:
            return msgspec.structs.replace(record, revoked_at=wish.since)
        if record.kid == wish.old and wish.new is not None:
            end = min(record.not_after, at + timedelta(days=wish.overlap_days))
            return msgspec.structs.replace(record, not_after=end)
        return record

    keys = [changed(record) for record in member.keys]
    sealing = [changed(record) for record in member.sealing_keys]
    return Keys(
        member=member.id,
        keys=[one for one in (*keys, *fresh) if isinstance(one, KeyRecord)],
        sealing_keys=[one for one in (*sealing, *fresh) if isinstance(one, SealingKeyRecord)],
        transport=None if connects else wish.transport,
        transport_until=None if connects else at + timedelta(seconds=wish.transport_seconds),
    )


class Renewal:
    """Brings about what `ask` noted.

    Args:
        keys: the directory with the keys.
        now: the clock.
    """

    def __init__(
        self,
        keys: Path,
        core: NodeCore,
        witness: Witness,
        writer: Writer,
        state: State,
        refresh: Refresher,
        now: Callable[[], datetime],
        bus_keys: BusKeys,
    ) -> None:
        self._bus_keys = bus_keys
        self._keys = keys
        self._core = core
        self._witness = witness
        self._writer = writer
        self._state = state
        self._refresh = refresh
        self._now = now

    async def run(self) -> None:
        """Until the stop."""
        bell = self._state.bell()
        self._state.on_link(bell)
        asked = 0
        while not self._state.stopping:
            wait, asked = LOOK, asked + 1
            try:
                if self._state.connected and read_wish(self._keys) is not None:
                    wait = PAUSE / 2 if await self.once() else LOOK
                elif self._state.connected and asked * LOOK >= FOLLOW:
                    asked = 0
                    await self._follow()
            except Transient:
                wait = PAUSE * 2
            except (ProtocolError, ConfigError) as exc:
                reason = exc.reason.value if isinstance(exc, ProtocolError) else str(exc)
                log.error("node.keys_refused", reason=reason)
                wait = AGAIN
            await bell.wait(wait)

    async def _follow(self) -> None:
        try:
            await self._bus_keys.follow()
        except ProtocolError as exc:
            if exc.reason is not Reason.UNKNOWN_KEY:
                raise
            # The broker signs with a new key: the region lists it, and the next question finds it.
            await self._refresh.once()

    async def once(self) -> bool:
        """One step; tells whether there is another one to be done soon.

        Raises:
            ProtocolError: the broker refuses.
            ConfigError: a file is missing or wrong.
            Transient: no answer.
        """
        wish = read_wish(self._keys)
        if wish is None:
            return False
        if wish.sealing is not None:
            await self._writer.run(self._core.use_sealing_keys, self._sealing_keys())
        await self._refresh.once()
        trust = self._core.trust
        state, member = trust.state, trust.state.member(self._core.member)
        at = max(self._now(), state.at)
        act = wanted(wish, member, at)
        if act is None:
            if wish.transport is not None:
                await self._connect(wish.transport)
            await self._writer.run(self._switch, wish)
            log.info("node.keys_renewed", kid=self._core.kid, revoked=wish.revoke)
            return False
        number, previous = state.head.number + 1, state.head.digest
        record = Record(region=state.region.region, number=number, previous=previous, at=at, act=act)
        link = self._state.link
        if link is None:
            raise Transient("not connected to the bus")
        data = await self._writer.run(self._core.sign_record, draft(record))
        try:
            await link.request(subjects.rpc(OFFER), data, REQUEST_TIMEOUT)
        except ProtocolError as exc:
            # Another record came first: the next attempt follows that one.
            if exc.reason is not Reason.RECORD_OUT_OF_ORDER:
                raise
        else:
            log.info("node.keys_offered", record=number)
        return True

    async def _connect(self, public: str) -> None:
        """Connect with the new key, while the old one still does; keep the old credentials if that fails.

        Raises:
            ProtocolError, ConfigError: the broker, or the bus, refuses the new key.
            Transient: not now.
        """
        fresh = self._keys / files.NATS_NEXT
        if not fresh.exists():
            return
        claim = await self._bus_keys.claim_for(public)
        await self._bus_keys.take(claim, read_secret(fresh).decode("ascii").strip())
        fresh.replace(self._keys / files.NATS_SEED)
        log.info("node.connection_renewed", key=public)

    def _sealing_keys(self) -> list[SealingKey]:
        return [SealingKey.load(path) for path in sorted(self._keys.glob(files.SEALING_KEYS))]

    def _switch(self, wish: Wish) -> None:
        """Sign with the new key from now on. On the writer's thread, so that nothing is signed meanwhile."""
        if wish.new is not None and (self._keys / NEXT).exists():
            current = self._keys / files.SIGNING_KEY
            if current.exists():
                current.rename(self._keys / f"signing-{wish.old}.pem")
            (self._keys / NEXT).rename(current)
            signer = SigningKey.load(current)
            self._core.use_key(signer)
            self._witness.use_key(signer, signer.public)
        (self._keys / WISH).unlink()
