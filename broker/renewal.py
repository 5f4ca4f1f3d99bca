"""The broker's new signing key: made here, named by the trustees, and used once the region lists it.

    keys/signing-next.pem   the new key, until it takes the place of signing.pem
    keys/broker.json        public records of the present key, and of the one before it

Guarantees: the old key signs until the trustees' record is in the chain, and stays valid for a while after that, so
that what is on its way still counts; a kill at any moment leaves one key in place and the rest to be done again. No
key is deleted. Refuses a second renewal while one is open (ConfigError).
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from broker.config import Config
from broker.governing import load_chain
from broker.proposals import Outcome, decide
from protocol.errors import ConfigError
from protocol.governance import SetBrokerKeys
from protocol.keys import KeyRecord, Signer, SigningKey
from protocol.registry import Region

CURRENT: Final = "signing.pem"
NEXT: Final = "signing-next.pem"
RECORDS: Final = "broker.json"
KEY_LIFE: Final = timedelta(days=730)
AHEAD: Final = timedelta(hours=1)
"""A clock that runs a little behind at a node must not make the key invalid there."""


class CurrentKey:
    """The broker's signing key of the moment. `use` on the ledger's thread; elsewhere sign with `now`."""

    def __init__(self, signer: SigningKey) -> None:
        self.now = signer

    @property
    def kid(self) -> str:
        """Of the key of the moment."""
        return self.now.kid

    @property
    def alg(self) -> str:
        """Of the key of the moment."""
        return self.now.alg

    @property
    def public(self) -> bytes:
        """Of the key of the moment."""
        return self.now.public

    def sign(self, data: bytes) -> bytes:
        """With the key of the moment."""
        return self.now.sign(data)

    def use(self, signer: SigningKey) -> None:
        """Sign with this key from now on."""
        self.now = signer


def ask(config: Config, now: datetime, overlap_days: int) -> tuple[KeyRecord, Outcome]:
    """Make a new key, and have the trustees name it; a running broker signs with it within a second of their record.

    Args:
        overlap_days: how long the present key stays valid beside it, from now on.

    Raises:
        ConfigError: a renewal is open, or the region does not list the present key.
    """
    if (config.keys / NEXT).exists():
        raise ConfigError(
            f"{config.keys / NEXT}: a renewal is open; let the trustees sign it (`kentongan broker record`), or remove "
            "the file and its proposal"
        )
    now = now.replace(microsecond=0)
    region = load_chain(config.region, now).state.region
    present = SigningKey.load(config.keys / CURRENT).kid
    if all(record.kid != present for record in region.broker_keys):
        raise ConfigError(f"the region does not list the present key {present} of the broker")

    def ended(record: KeyRecord) -> KeyRecord:
        end = min(record.not_after, now + timedelta(days=overlap_days))
        return msgspec.structs.replace(record, not_after=end) if record.kid == present else record

    key = SigningKey.generate()
    fresh = key.record(now - AHEAD, now + KEY_LIFE)
    key.save(config.keys / NEXT)
    try:
        return fresh, decide(config, SetBrokerKeys(broker_keys=[*map(ended, region.broker_keys), fresh]))
    except ConfigError:
        (config.keys / NEXT).unlink()
        raise


def current_key(config: Config, region: Region) -> SigningKey:
    """The key to sign with in this region: the new one takes its place as soon as the region lists it.

    Several processes may do this at the same time.

    Raises:
        ConfigError: no key is there.
    """
    following = config.keys / NEXT
    if following.exists():
        with suppress(FileNotFoundError):
            _promote(config.keys, region, SigningKey.load(following))
    return SigningKey.load(config.keys / CURRENT)


def _promote(keys: Path, region: Region, fresh: SigningKey) -> None:
    if all(record.kid != fresh.kid for record in region.broker_keys):
        return
    old = SigningKey.load(keys / CURRENT).kid if (keys / CURRENT).exists() else ""
    listed = [record for record in region.broker_keys if record.kid in (old, fresh.kid)]
    # The records first: a key that is not among them is refused at a start.
    draft = keys / f"{RECORDS}.new"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(listed)))
    draft.replace(keys / RECORDS)
    if old and old != fresh.kid:
        kept = keys / f"signing-{old}.pem"
        if not kept.exists():
            kept.hardlink_to(keys / CURRENT)
    (keys / NEXT).replace(keys / CURRENT)


def sign_with(signer: CurrentKey | Signer) -> Signer:
    """The key of the moment itself: for threads on which another one may come while something is signed."""
    return signer.now if isinstance(signer, CurrentKey) else signer
