"""Signing keys: one table of algorithms, one loader, one place that touches `cryptography`.

Guarantees: the key decides the algorithm, never a message's header; a key is only used inside its validity window and
before its revocation; a private key file is created exclusively with mode 0400 and is never overwritten; one that its
group or others can read is refused. Refuses: every algorithm that is not in `ALGORITHMS`.

A key id is the first 22 characters of the key's RFC 7638 thumbprint (132 bits): derived, so it cannot be claimed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from msgspec import Meta, Struct

from protocol.errors import ConfigError, ProtocolError
from protocol.reasons import Reason

ED25519: Final = "Ed25519"
ML_DSA_65: Final = "ML-DSA-65"
ALGORITHMS: Final = frozenset({ED25519, ML_DSA_65})
"""JOSE names (RFC 9864, RFC 9964). A key of any other algorithm is refused wherever it turns up."""
_Private = Ed25519PrivateKey | MLDSA65PrivateKey
_Public = Ed25519PublicKey | MLDSA65PublicKey
_LARGEST_PUBLIC: Final = 2603
"""Characters of a public key: 1,952 bytes of ML-DSA-65."""


_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_+/=", b"+/\0\0\0")
_PADDING: Final = (b"", b"===", b"==", b"=")
_LAST: Final[tuple[frozenset[int] | None, ...]] = (
    None,
    frozenset(),
    frozenset(b"AQgw"),
    frozenset(b"AEIMQUYcgkosw048"),
)
"""By length modulo four, what a canonical spelling can end with: the bits that carry nothing must be zero."""


def b64(data: bytes) -> str:
    """base64url without padding, as JOSE writes it."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def b64_same(items: Sequence[bytes]) -> list[str]:
    """`b64` of each, for items of one size: all of them in one piece."""
    size = len(items[0]) if items else 0
    # Zero bytes up to a multiple of three become characters of their own behind the last one of each item.
    fill = bytes(-size % 3)
    text = b2a_base64(fill.join((*items, b"")), newline=False).translate(_TO_URL).decode("ascii")
    width, step = (size * 8 + 5) // 6, (size + len(fill)) // 3 * 4
    return [text[at : at + width] for at in range(0, len(items) * step, step or 1)]


def unb64(text: str | bytes) -> bytes:
    """Decode base64url without padding; ValueError for anything else, non-canonical spellings included."""
    raw = text.encode("ascii") if isinstance(text, str) else text
    rest = len(raw) & 3
    data = a2b_base64(raw.translate(_FROM_URL) + _PADDING[rest], strict_mode=True)
    last = _LAST[rest]
    if last is not None and raw[-1] not in last:
        raise ValueError("not canonical base64url")
    return data


class KeyRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A public key as the registry lists it; `kid` must be the thumbprint of `public`."""

    kid: str
    alg: str
    public: Annotated[str, Meta(min_length=43, max_length=_LARGEST_PUBLIC)]
    not_before: Annotated[datetime, Meta(tz=True)]
    not_after: Annotated[datetime, Meta(tz=True)]
    revoked_at: Annotated[datetime, Meta(tz=True)] | None = None


class Signer(Protocol):
    """The one signing function; a hardware token fits behind it."""

    @property
    def kid(self) -> str: ...
    @property
    def alg(self) -> str: ...
    def sign(self, data: bytes) -> bytes: ...


class KnownSigner(Signer, Protocol):
    """One that also says which public key it has."""

    @property
    def public(self) -> bytes: ...


def thumbprint(public: bytes, alg: str = ED25519) -> str:
    """The key id of a raw public key (RFC 7638 members in order, SHA-256, shortened)."""
    jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{b64(public)}"}}'
    if alg == ML_DSA_65:
        jwk = f'{{"alg":"ML-DSA-65","kty":"AKP","pub":"{b64(public)}"}}'
    return b64(hashlib.sha256(jwk.encode("ascii")).digest())[:22]


class SigningKey:
    """A private key in memory, of one of the algorithms."""

    def __init__(self, private: _Private) -> None:
        self._private = private
        self.alg = ED25519 if isinstance(private, Ed25519PrivateKey) else ML_DSA_65
        self.public = private.public_key().public_bytes_raw()
        self.kid = thumbprint(self.public, self.alg)

    @classmethod
    def generate(cls, alg: str = ED25519, rand: Callable[[int], bytes] = secrets.token_bytes) -> SigningKey:
        """A new key. Its id begins with no hyphen, so that it can be an argument of a command."""
        while (key := cls.from_seed(rand(32), alg)).kid.startswith("-"):
            pass
        return key

    @classmethod
    def from_seed(cls, seed: bytes, alg: str = ED25519) -> SigningKey:
        """A key from 32 random bytes. ConfigError if the algorithm is none of the table."""
        if alg not in ALGORITHMS:
            raise ConfigError(f"{alg[:40]!r} is no algorithm here: {', '.join(sorted(ALGORITHMS))}")
        if alg == ED25519:
            return cls(Ed25519PrivateKey.from_private_bytes(seed))
        return cls(MLDSA65PrivateKey.from_seed_bytes(seed))

    def sign(self, data: bytes) -> bytes:
        """The signature over exactly these bytes: 64 bytes of Ed25519, 3,309 of ML-DSA-65."""
        return self._private.sign(data)

    def record(self, not_before: datetime, not_after: datetime) -> KeyRecord:
        """The public entry for the registry."""
        return KeyRecord(
            kid=self.kid, alg=self.alg, public=b64(self.public), not_before=not_before, not_after=not_after
        )

    def save(self, path: Path) -> None:
        """Write the key as PKCS #8 PEM: exclusive create, mode 0400. ConfigError if the file exists."""
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_secret(path, pem)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key file. ConfigError if it is absent, readable by others, or of no algorithm of the table."""
        try:
            private = load_pem_private_key(read_secret(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: encrypted with a password
            raise ConfigError(f"{path} is not a plain PKCS #8 PEM key: make one with `kentongan node init`") from exc
        if not isinstance(private, Ed25519PrivateKey | MLDSA65PrivateKey):
            raise ConfigError(f"{path} is not an Ed25519 or ML-DSA-65 key; no other algorithm is allowed")
        return cls(private)


def write_secret(path: Path, data: bytes) -> None:
    """Create a file that only its owner can read and nobody writes; never overwrites. ConfigError if it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    except FileExistsError as exc:
        raise ConfigError(f"{path} exists and is never overwritten: move it away first") from exc
    with os.fdopen(fd, "wb") as file:
        os.fchmod(file.fileno(), 0o400)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_secret(path: Path, data: bytes) -> None:
    """Put a secret in place of the one that is there: a reader finds the old one or the new one, whole."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    write_secret(draft, data)
    draft.replace(path)


def read_secret(path: Path) -> bytes:
    """Read a file that must be closed to group and others. ConfigError otherwise."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise ConfigError(f"{path} is open to others (mode {stat.S_IMODE(mode):04o}): chmod 0400 {path}")
            return file.read()
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} is missing") from exc
    except PermissionError as exc:
        raise ConfigError(f"{path} cannot be read by this user") from exc


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A member's public key, ready to verify."""

    owner: str
    record: KeyRecord
    _public: _Public

    @classmethod
    def from_record(cls, owner: str, record: KeyRecord) -> VerifyKey:
        """ConfigError if the record's algorithm, key or id do not hold together."""
        if record.alg not in ALGORITHMS:
            raise ConfigError(f"key {record.kid} of {owner}: algorithm {record.alg} is not allowed")
        try:
            raw = unb64(record.public)
            kind = Ed25519PublicKey if record.alg == ED25519 else MLDSA65PublicKey
            public = kind.from_public_bytes(raw)
        except ValueError as exc:
            raise ConfigError(f"key {record.kid} of {owner} is not an {record.alg} public key") from exc
        if (name := thumbprint(raw, record.alg)) != record.kid:
            raise ConfigError(f"key {record.kid} of {owner}: the id is not the key's thumbprint {name}")
        if record.not_after <= record.not_before:
            raise ConfigError(f"key {record.kid} of {owner} ends before it begins")
        return cls(owner, record, public)

    def check_window(self, at: datetime) -> None:
        """ProtocolError if the key is not valid at that time."""
        if self.record.revoked_at is not None and at >= self.record.revoked_at:
            raise ProtocolError(Reason.KEY_REVOKED, "$.kid", f"key {self.record.kid} was revoked")
        if not self.record.not_before <= at < self.record.not_after:
            raise ProtocolError(Reason.KEY_NOT_VALID, "$.kid", f"key {self.record.kid} is not valid at that time")

    def verify(self, signature: bytes, data: bytes) -> None:
        """ProtocolError unless this key signed exactly these bytes."""
        try:
            self._public.verify(signature, data)
        except InvalidSignature as exc:
            raise ProtocolError(Reason.SIGNATURE_INVALID, "$", "the signature does not match the bytes") from exc


KeyLookup = Callable[[str], VerifyKey]
"""Finds a key by id; raises ProtocolError(UNKNOWN_KEY) if there is none."""


class KeyRing:
    """Public keys by id; two owners can never share one."""

    def __init__(self, keys: Iterable[VerifyKey]) -> None:
        found: dict[str, VerifyKey] = {}
        for key in keys:
            if key.record.kid in found:
                raise ConfigError(f"key {key.record.kid} is listed twice ({found[key.record.kid].owner}, {key.owner})")
            found[key.record.kid] = key
        self._keys: Mapping[str, VerifyKey] = found

    def has(self, kid: str) -> bool:
        """Whether there is a key with this id."""
        return kid in self._keys

    def find(self, kid: str) -> VerifyKey:
        """The key with this id, or ProtocolError(UNKNOWN_KEY)."""
        key = self._keys.get(kid)
        if key is None:
            raise ProtocolError(Reason.UNKNOWN_KEY, "$.kid", "no member has a key with this id")
        return key
