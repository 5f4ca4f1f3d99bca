"""The part of `protocol-1.json` that is signed with ML-DSA-65: made by another implementation, pure Python and slow.

Signing is deterministic there (FIPS 204, rnd = 0), so that two runs give the same bytes; a signer is free to hedge it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from dilithium_py.ml_dsa import HASH_ML_DSA_65_WITH_SHA512
from dilithium_py.ml_dsa import ML_DSA_65 as OTHER

from protocol.envelope import SignedReport, open_envelope
from protocol.issuing import issue
from protocol.jws import sign_jws
from protocol.keys import ED25519, ML_DSA_65, KeyRecord, KeyRing, SigningKey, VerifyKey, b64, unb64
from protocol.report import Origin
from protocol.statements import Confirmation, sign_statement
from tests.protocol.make import DAY, NOW, Rand, body_from, key_of, report, whole

OWNER = "ph-cert"
SEED = hashlib.sha256(f"kentongan test key of {OWNER}, ML-DSA-65".encode()).digest()
PUBLIC, _PRIVATE = OTHER.key_derive(SEED)
JWS_TYPE = "example+jwt"
JWS_PAYLOAD = b"The drum is heard from village to village."
"""Any bytes: what is signed is the JWS's text, under the empty context."""


def _pure(data: bytes) -> bytes:
    return bytes(OTHER.sign(_PRIVATE, data, deterministic=True))


def _with_context(data: bytes) -> bytes:
    return bytes(OTHER.sign(_PRIVATE, data, ctx=b"kentongan", deterministic=True))


def _hashed(data: bytes) -> bytes:
    return bytes(HASH_ML_DSA_65_WITH_SHA512.sign(_PRIVATE, data, deterministic=True))


class OtherSigner:
    """The member's key, in the other implementation."""

    alg = ML_DSA_65
    kid = SigningKey.from_seed(SEED, ML_DSA_65).kid

    def __init__(self, way: Callable[[bytes], bytes] = _pure) -> None:
        self._way = way

    def sign(self, data: bytes) -> bytes:
        return self._way(data)


def record() -> KeyRecord:
    """The key as the registry lists it."""
    return KeyRecord(kid=OtherSigner.kid, alg=ML_DSA_65, public=b64(PUBLIC), not_before=NOW - DAY, not_after=NOW + DAY)


def _again(text: str, alg: str, kid: str, sign: Callable[[bytes], bytes]) -> str:
    """An envelope under another header and signature."""
    jws, _, rest = text.partition("~")
    head, payload, _ = jws.split(".")
    fields = {**msgspec.json.decode(unb64(head)), "alg": alg, "kid": kid}
    head = b64(msgspec.json.encode(fields))
    return f"{head}.{payload}.{b64(sign(f'{head}.{payload}'.encode()))}~{rest}"


def make() -> dict[str, Any]:
    """The vectors."""
    signer = OtherSigner()
    given = report(1, body_from({"title": "Signed for later"}), origin=Origin(jurisdiction="ph", member=OWNER))
    envelope = issue([given], OWNER, signer, NOW, Rand("ml-dsa"))
    text = whole(envelope)
    keys = KeyRing([VerifyKey.from_record(OWNER, record())])
    (found,) = open_envelope(text, keys.find, NOW).reports
    assert isinstance(found, SignedReport)
    own = key_of("id-cert")
    head, payload, signature = envelope.jws.split(".")
    rest = text.partition("~")[2]
    bent = bytearray(unb64(signature))
    bent[-1] ^= 1
    bad = {
        "alg-of-another-key": ("algorithm-not-allowed", _again(text, ED25519, signer.kid, lambda _: unb64(signature))),
        "ml-dsa-65-under-an-ed25519-key": ("algorithm-not-allowed", _again(text, ML_DSA_65, own.kid, own.sign)),
        "ml-dsa-44": ("algorithm-not-allowed", _again(text, "ML-DSA-44", signer.kid, lambda _: unb64(signature))),
        "signed-with-a-context": ("signature-invalid", _again(text, ML_DSA_65, signer.kid, _with_context)),
        "pre-hashed": ("signature-invalid", _again(text, ML_DSA_65, signer.kid, _hashed)),
        "last-hint-changed": ("signature-invalid", f"{head}.{payload}.{b64(bytes(bent))}~{rest}"),
        "signature-short": ("signature-invalid", f"{head}.{payload}.{b64(unb64(signature)[:-1])}~{rest}"),
    }
    confirmation = Confirmation(iss=OWNER, aud="id-cert", at=NOW, state="read", reports=[found.digest])
    return {
        "seed": b64(SEED),
        "kid": signer.kid,
        "jws": sign_jws(JWS_TYPE, JWS_PAYLOAD, signer),
        "envelope": {
            "sd_jwt": text,
            "digest": envelope.digest,
            "reports": [
                {"digest": found.digest, "header": msgspec.to_builtins(found.header), "body": found.body},
            ],
        },
        "confirmation": sign_statement(confirmation, signer),
        "bad_envelopes": [{"name": name, "reason": reason, "sd_jwt": one} for name, (reason, one) in bad.items()],
    }
