"""NATS keys (nkeys) and claims (JWT version 2), as pure functions: randomness and time are arguments.

Guarantees that the same arguments give the same bytes. Refuses keys of the wrong kind with a `ConfigError` whose text
never holds a seed. These keys open connections; they sign no report.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import nkeys

from protocol.errors import ConfigError

SEED_ENTROPY: Final = 32
"""Random bytes that one seed needs."""


class Role(Enum):
    """What a key stands for; the value is the prefix byte of its public form, the name's first letter shows in it."""

    OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
    ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
    USER = nkeys.PREFIX_BYTE_USER


_JWT_BEGIN: Final = "-----BEGIN NATS USER JWT-----"
_JWT_END: Final = "------END NATS USER JWT------"
_SEED_BEGIN: Final = "-----BEGIN USER NKEY SEED-----"
_SEED_END: Final = "------END USER NKEY SEED------"


def create_seed(role: Role, entropy: bytes) -> str:
    """Make the seed (the private key, "S...") of a key from `SEED_ENTROPY` random bytes."""
    if len(entropy) != SEED_ENTROPY:
        raise ValueError(f"a seed takes {SEED_ENTROPY} random bytes")
    return bytes(nkeys.encode_seed(entropy, role.value)).decode("ascii")


def public_of(seed: str, role: Role) -> str:
    """Return the public key of a seed; raise `ConfigError` if it is not the seed of such a key."""
    public = bytes(_pair(seed).public_key).decode("ascii")
    if not is_public(public, role):
        raise ConfigError(f"this NATS key is not of the kind '{role.name.lower()}'")
    return public


def is_public(text: str, role: Role) -> bool:
    """Tell whether `text` is a public key of this kind, checksum included."""
    if len(text) != 56 or not text.isascii():
        return False
    try:
        raw = base64.b32decode(text)
    except binascii.Error:
        return False
    checksum: bytes = nkeys.crc16(bytearray(raw[:-2])).to_bytes(2, "little")
    return raw[0] == role.value and raw[-2:] == checksum


def raw_seed(seed: str) -> bytes:
    """The 32 bytes of an Ed25519 private key that a seed is made of; raise `ConfigError` if it is none."""
    _pair(seed)
    # Two bytes of prefix before it, two of checksum behind it.
    return base64.b32decode(seed.strip() + "=" * (-len(seed.strip()) % 8))[2:34]


def raw_public(public: str) -> bytes:
    """The 32 bytes of a public key."""
    return base64.b32decode(public)[1:33]


def sign_claims(issuer_seed: str, subject: str, name: str, nats: Mapping[str, Any], now: int) -> str:
    """Sign a claim about the public key `subject`.

    Args:
        issuer_seed: the operator's seed for accounts, the account's seed for users.
        name: shown in the server's monitoring.
        nats: the `nats` object of the claim, with `type` and `version`.
        now: seconds since 1970; the server compares revocations with it.
    """
    pair = _pair(issuer_seed)
    claims: dict[str, Any] = {
        "iat": now,
        "iss": bytes(pair.public_key).decode("ascii"),
        "name": name,
        "nats": dict(nats),
        "sub": subject,
    }
    claims["jti"] = base64.b32encode(hashlib.sha256(_json(claims)).digest()).rstrip(b"=").decode("ascii")
    head = _base64(_json({"typ": "JWT", "alg": "ed25519-nkey"}))
    signed = f"{head}.{_base64(_json(claims))}"
    return f"{signed}.{_base64(bytes(pair.sign(signed.encode('ascii'))))}"


def sign_nonce(seed: str, nonce: str) -> bytes:
    """Answer a server's challenge at connecting; base64, as the CONNECT line wants it."""
    return base64.b64encode(bytes(_pair(seed).sign(nonce.encode())))


def subject_of(jwt: str) -> str:
    """Return the public key that a claim is about. Does not verify: the NATS server does."""
    return str(_claims(jwt)["sub"])


def times_of(jwt: str) -> tuple[int | None, int | None]:
    """When a claim was issued, and when it ends, in seconds since 1970; None if it does not say. Does not verify."""
    claims = _claims(jwt)
    begins, ends = claims.get("iat"), claims.get("exp")
    return (begins if isinstance(begins, int) else None, ends if isinstance(ends, int) and ends else None)


def grants_of(jwt: str) -> Any:
    """What a claim says, whenever it was signed. Does not verify."""
    return _claims(jwt).get("nats")


def issuer_of(jwt: str) -> str:
    """The public key of the seed that signed a claim. Does not verify."""
    return str(_claims(jwt).get("iss", ""))


def _claims(jwt: str) -> dict[str, Any]:
    try:
        body = jwt.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError) as exc:
        raise ConfigError("this is not a NATS claim (JWT)") from exc
    if not isinstance(claims, dict) or "sub" not in claims:
        raise ConfigError("this is not a NATS claim (JWT)")
    return claims


def expiry_of(jwt: str) -> float | None:
    """When a claim ends, in seconds since 1970; None if it does not. Does not verify: the NATS server does."""
    try:
        body = jwt.split(".")[1]
        end = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))).get("exp")
    except (IndexError, AttributeError, ValueError) as exc:
        raise ConfigError("this is not a NATS claim (JWT)") from exc
    return float(end) if isinstance(end, int | float) and end else None


def format_creds(user_jwt: str, seed: str) -> str:
    """Write the text of a credentials file; it holds a private key, so store it with mode 0400 or 0600."""
    return f"{_JWT_BEGIN}\n{user_jwt}\n{_JWT_END}\n\n{_SEED_BEGIN}\n{seed}\n{_SEED_END}\n"


def parse_creds(text: str) -> tuple[str, str]:
    """Return claim and seed from the text of a credentials file; raise `ConfigError` if it is none."""
    lines = [line.strip() for line in text.splitlines()]
    try:
        jwt, seed = lines[lines.index(_JWT_BEGIN) + 1], lines[lines.index(_SEED_BEGIN) + 1]
    except (ValueError, IndexError):
        raise ConfigError("this is not a NATS credentials file") from None
    if subject_of(jwt) != public_of(seed, Role.USER):
        raise ConfigError("claim and seed in this NATS credentials file belong to different keys")
    return jwt, seed


def _pair(seed: str) -> Any:
    try:
        return nkeys.from_seed(bytearray(seed.strip().encode("ascii")))
    except (nkeys.NkeysError, ValueError) as exc:
        raise ConfigError("this is not a NATS seed") from exc


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
