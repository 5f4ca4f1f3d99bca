"""Vectors that others have published, in a small number: our verification, and our sealing, agree with theirs."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from protocol.errors import ConfigError, ProtocolError
from protocol.keys import ML_DSA_65, KeyRecord, SigningKey, VerifyKey, b64, thumbprint
from protocol.sealing import MLKEM768_X25519, SealingKey
from tests.protocol.make import DAY, NOW
from tests.protocol.test_sealing import decapsulate, key_schedule

PLACE = Path(__file__).parent.parent / "vectors"
SIGNED: dict[str, Any] = json.loads((PLACE / "mldsa65.json").read_bytes())
SEALED: dict[str, Any] = json.loads((PLACE / "hpke.json").read_bytes())


def verifies(public: bytes, signature: bytes, data: bytes) -> bool:
    """As for a member's key: public keys that are none are refused before."""
    record = KeyRecord(
        kid=thumbprint(public, ML_DSA_65), alg=ML_DSA_65, public=b64(public), not_before=NOW - DAY, not_after=NOW + DAY
    )
    try:
        VerifyKey.from_record("x", record).verify(signature, data)
    except (ConfigError, ProtocolError):
        return False
    return True


@pytest.mark.parametrize(
    "vector",
    [pytest.param(one, id=f"{kind}-{one['id']}") for kind in ("wycheproof", "acvp_verify") for one in SIGNED[kind]],
)
def test_ml_dsa_65_verification(vector: dict[str, Any]) -> None:
    """Wycheproof's and NIST's word; what was signed under another context than the empty one is refused here."""
    public, signature, message = (
        b64decode(text) for text in (SIGNED["keys"][vector["key"]], vector["signature"], vector["message"])
    )
    assert verifies(public, signature, message) is (vector["valid"] and not vector.get("context"))


def test_ml_dsa_65_keys() -> None:
    """NIST's: a seed gives the public key."""
    for one in SIGNED["acvp_keygen"]:
        assert SigningKey.from_seed(b64decode(one["seed"]), ML_DSA_65).public == b64decode(one["public"])


def test_hpke_with_mlkem768_x25519() -> None:
    """The other implementation that opens our boxes (`test_sealing.py`) opens the published one."""
    given = {name: bytes.fromhex(text) for name, text in SEALED.items() if isinstance(text, str) and name != "source"}
    assert SealingKey(MLKEM768_X25519, given["skRm"]).public == given["pkRm"]
    shared = decapsulate(given["skRm"], given["enc"])
    assert shared == given["shared_secret"]
    key, nonce = key_schedule(0x647A, shared, given["info"], aead=3)
    assert (key, nonce) == (given["key"], given["base_nonce"])
    first = {name: bytes.fromhex(text) for name, text in SEALED["encryption"].items()}
    assert ChaCha20Poly1305(key).decrypt(nonce, first["ct"], first["aad"]) == first["pt"]
