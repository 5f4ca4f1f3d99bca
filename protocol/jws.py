"""Compact JWS (RFC 7515), as small as this protocol needs it: one algorithm list, one header shape, no options.

Guarantees: the protected header holds exactly `alg`, `kid` and `typ`; the type is the one asked for, so that a token of
one kind never passes for another; the algorithm is the key's own. Refuses everything else, `crit`, `jwk`, `x5u` and
`alg: none` included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from protocol.errors import ProtocolError
from protocol.keys import ALGORITHMS, KeyLookup, Signer, VerifyKey, b64, unb64
from protocol.parse import decode
from protocol.reasons import Reason


class _Protected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    alg: str
    kid: str
    typ: str


_protected_decoder: Final = msgspec.json.Decoder(_Protected)
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class JwsParts:
    """A JWS taken apart; nothing of it is verified."""

    alg: str
    kid: str
    payload: bytes
    signed: bytes
    signature: bytes


def sign_jws(typ: str, payload: bytes, signer: Signer) -> str:
    """Sign exactly these payload bytes."""
    header = b64(_encode(_Protected(alg=signer.alg, kid=signer.kid, typ=typ)))
    signed = f"{header}.{b64(payload)}"
    return f"{signed}.{b64(signer.sign(signed.encode('ascii')))}"


def split_jws(jws: str, typ: str) -> JwsParts:
    """Take a JWS of the given type apart, or raise `ProtocolError`."""
    parts = jws.split(".")
    if len(parts) != 3:
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS has three parts")
    try:
        header, payload, signature = (unb64(part) for part in parts)
    except ValueError as exc:
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a part of the JWS is not base64url") from exc
    protected = decode(_protected_decoder, header, "$.protected")
    if protected.typ != typ:
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$.protected.typ", f"expected a token of type {typ}")
    if protected.alg not in ALGORITHMS:
        raise ProtocolError(Reason.ALGORITHM_NOT_ALLOWED, "$.protected.alg", "this algorithm is not allowed")
    signed = f"{parts[0]}.{parts[1]}".encode("ascii")
    return JwsParts(protected.alg, protected.kid, payload, signed, signature)


def verify_parts(parts: JwsParts, find_key: KeyLookup) -> VerifyKey:
    """The key that signed; ProtocolError if it is unknown, of another algorithm, or did not sign these bytes."""
    key = find_key(parts.kid)
    if key.record.alg != parts.alg:
        raise ProtocolError(Reason.ALGORITHM_NOT_ALLOWED, "$.protected.alg", "the key is of another algorithm")
    key.verify(parts.signature, parts.signed)
    return key
