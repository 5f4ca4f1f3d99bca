"""The key with which the broker signs: where it is, and how it is held.

    keys/signing.pem         the key, unless the settings name one in a token (`signing`)
    keys/signing-moved.json  which URI has taken the place of which since the settings were written; nothing secret
    keys/broker.json         public records of the present key, which is the last, and of the one before it

Guarantees: a token that did not answer is asked again by one only, who looks for it. How another key takes its place is
in `broker/renewal.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar

import msgspec

from broker.config import Config
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.hsm import HsmKey
from protocol.keys import KeyRecord, SigningKey
from protocol.parse import decode

CURRENT: Final = "signing.pem"
NEXT: Final = "signing-next.pem"
MOVED: Final = "signing-moved.json"
RECORDS: Final = "broker.json"
_records: Final = msgspec.json.Decoder(list[KeyRecord])
_places: Final = msgspec.json.Decoder(dict[str, str])
T = TypeVar("T")


class Held:
    """A key in use. One in a token that did not answer is not asked again until `look` has found it. Any thread.

    Args:
        key: the key.
    """

    def __init__(self, key: SigningKey | HsmKey) -> None:
        self._key = key
        self._used = False
        self.uri = key.uri if isinstance(key, HsmKey) else None
        self.kid, self.alg, self.public = key.kid, key.alg, key.public
        self.away = ""
        """Why it does not sign."""

    def sign(self, data: bytes) -> bytes:
        """The signature over exactly these bytes. Transient while the token does not answer."""
        if self.away:
            raise Transient(self.away)
        try:
            signature = self._key.sign(data)
        except Transient as exc:
            self.away = str(exc)
            raise
        self._used = True
        return signature

    def look(self) -> None:
        """Ask the token, and note what comes of it."""
        if isinstance(self._key, HsmKey):
            try:
                self._key.probe()
            except Transient as exc:
                self.away = str(exc)
            else:
                self.away = ""

    def used(self) -> bool:
        """Whether it has signed since this was last asked."""
        used, self._used = self._used, False
        return used

    def close(self) -> None:
        """Let a token's session go."""
        if isinstance(self._key, HsmKey):
            self._key.close()


def place(config: Config) -> str | None:
    """URI of the signing key: that of the settings, or of what has taken its place since; None if it is in a file."""
    moved = moved_places(config.keys)
    here = config.signing or ""
    for _ in moved:
        here = moved.get(here, here)
    return here or None


def moved_places(keys: Path) -> dict[str, str]:
    """By URI, what has taken its place; the file's place is empty."""
    return _read(keys / MOVED, _places) if (keys / MOVED).exists() else {}


def _read(path: Path, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decode(decoder, path.read_bytes())
    except ProtocolError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def load_records(config: Config) -> list[KeyRecord]:
    """The public records of the broker's keys, without touching a private one. ConfigError if they are not there."""
    path = config.keys / RECORDS
    try:
        return _read(path, _records)
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} is missing: it lists the broker's public keys") from exc


def present_kid(config: Config) -> str:
    """The id of the key in use, from its public record: that key may be lost. ConfigError if there is no record."""
    records = load_records(config)
    if not records:
        raise ConfigError(f"{config.keys / RECORDS} lists no key")
    return records[-1].kid


def load_key(config: Config) -> Held:
    """The key in use; `close` it. ConfigError if it is not there, or cannot be used."""
    here = place(config)
    if here is None:
        return Held(SigningKey.load(config.keys / CURRENT))
    if (config.keys / NEXT).exists():
        raise ConfigError(f"{config.keys / NEXT}: a renewal is open; let it end before `signing` is set")
    return Held(HsmKey.open(here))
