"""The broker's signing key, and a new one: made here, named by the trustees, and used once the region lists it.

    keys/signing-next.pem    the new key, until it takes the place of signing.pem
    keys/signing-next.json   or where it is, if it is in a token
    keys/signing-moved.json  which URI has taken the place of which since the settings were written; nothing secret
    keys/broker.json         public records of the present key, and of the one before it

Guarantees: the old key signs until the trustees' record is in the chain, and stays valid for a while after that, so
that what is on its way still counts; a kill at any moment leaves one key in place and the rest to be done again. No
key is deleted. Refuses a second renewal while one is open (ConfigError).
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from broker.config import Config
from broker.governing import load_chain
from broker.ownkey import CURRENT, MOVED, NEXT, RECORDS, Held, load_key, moved_places, place, present_kid
from broker.proposals import Outcome, decide, read_document
from protocol.errors import ConfigError
from protocol.governance import SetBrokerKeys
from protocol.hsm import HsmKey
from protocol.keys import KeyRecord, Signer, SigningKey
from protocol.registry import Region

NEXT_PLACE: Final = "signing-next.json"
KEY_LIFE: Final = timedelta(days=730)
AHEAD: Final = timedelta(hours=1)
"""A clock that runs a little behind at a node must not make the key invalid there."""


class CurrentKey:
    """The broker's signing key of the moment. `use` on the ledger's thread; elsewhere sign with `now`."""

    def __init__(self, key: Held) -> None:
        self.now = key

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

    def use(self, key: Held) -> None:
        """Sign with this key from now on."""
        old, self.now = self.now, key
        old.close()

    def close(self) -> None:
        """Let a token's session go."""
        self.now.close()


class _Next(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new key in a token that waits for the trustees."""

    old: str
    """Key id of the one whose place it takes."""
    place: str
    """URI of that; empty for `signing.pem`."""
    kid: str
    uri: str


def ask(config: Config, now: datetime, overlap_days: int, token_key: HsmKey | None = None) -> tuple[KeyRecord, Outcome]:
    """Make a new key, and have the trustees name it; a running broker signs with it within a second of their record.

    The present one is not needed: it may be lost.

    Args:
        overlap_days: how long the present key stays valid beside it, from now on.
        token_key: the new key, if it is in a token.

    Raises:
        ConfigError: a renewal is open, the region does not list the present key, or that one is in a token and the new
            one is not.
    """
    for name in (NEXT, NEXT_PLACE):
        if (config.keys / name).exists():
            raise ConfigError(
                f"{config.keys / name}: a renewal is open; let the trustees sign it (`kentongan broker record`), or "
                "remove the file and its proposal"
            )
    now = now.replace(microsecond=0)
    region = load_chain(config.region, now).state.region
    here = place(config)
    if here is not None and token_key is None:
        raise ConfigError(
            "the signing key is in a token: name the new one, another object label, with "
            "`kentongan broker rotate DIR --signing 'pkcs11:…'`"
        )
    present = present_kid(config)
    if token_key is not None and token_key.kid == present:
        raise ConfigError(f"{present} is the key in use: name another object label")
    if all(record.kid != present for record in region.broker_keys):
        raise ConfigError(f"the region does not list the present key {present} of the broker")

    def ended(record: KeyRecord) -> KeyRecord:
        end = min(record.not_after, now + timedelta(days=overlap_days))
        return msgspec.structs.replace(record, not_after=end) if record.kid == present else record

    key = token_key or SigningKey.generate()
    fresh = key.record(now - AHEAD, now + KEY_LIFE)
    waits = config.keys / (NEXT if isinstance(key, SigningKey) else NEXT_PLACE)
    if isinstance(key, SigningKey):
        key.save(waits)
    else:
        _write(waits, _Next(old=present, place=here or "", kid=key.kid, uri=key.uri))
    try:
        return fresh, decide(config, SetBrokerKeys(broker_keys=[*map(ended, region.broker_keys), fresh]))
    except ConfigError:
        waits.unlink()
        raise


def current_key(config: Config, region: Region, held: Held | None = None) -> Held:
    """The key to sign with in this region: the new one takes its place as soon as the region lists it.

    Several processes may do this at the same time.

    Args:
        held: the key of before. Given back if it is still the one, and in a token.

    Raises:
        ConfigError: no key is there, or its token is not (`AwayError`).
    """
    with suppress(FileNotFoundError):
        if (config.keys / NEXT).exists():
            _promote(config.keys, region, SigningKey.load(config.keys / NEXT))
        if (config.keys / NEXT_PLACE).exists():
            _move(config.keys, region, read_document(config.keys / NEXT_PLACE, _Next))
    if held is not None and held.uri is not None and held.uri == place(config):
        return held
    return load_key(config)


def _promote(keys: Path, region: Region, fresh: SigningKey) -> None:
    old = SigningKey.load(keys / CURRENT).kid if (keys / CURRENT).exists() else ""
    if not _list(keys, region, old, fresh.kid):
        return
    if old and old != fresh.kid:
        kept = keys / f"signing-{old}.pem"
        if not kept.exists():
            kept.hardlink_to(keys / CURRENT)
    (keys / NEXT).replace(keys / CURRENT)


def _move(keys: Path, region: Region, following: _Next) -> None:
    if not _list(keys, region, following.old, following.kid):
        return
    moved = {**moved_places(keys), following.place: following.uri}
    # Nothing leads on from where the key is now.
    moved.pop(following.uri, None)
    _write(keys / MOVED, moved)
    (keys / NEXT_PLACE).unlink()


def _list(keys: Path, region: Region, old: str, fresh: str) -> bool:
    """Note the public records, if the region has that of the new key. First: a key not among them is refused."""
    if all(record.kid != fresh for record in region.broker_keys):
        return False
    _write(keys / RECORDS, [record for record in region.broker_keys if record.kid in (old, fresh)])
    return True


def _write(path: Path, document: Any) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(document)))
    draft.replace(path)


def sign_with(signer: CurrentKey | Signer) -> Signer:
    """The key of the moment itself: for threads on which another one may come while something is signed."""
    return signer.now if isinstance(signer, CurrentKey) else signer
