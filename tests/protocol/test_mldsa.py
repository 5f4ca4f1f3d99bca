"""ML-DSA-65 beside Ed25519: the key decides the algorithm, sizes stay within the limits, and notes stay Ed25519."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from protocol import limits
from protocol.errors import ConfigError
from protocol.governance import Found, Record, Trustee, draft, open_record, sign_record
from protocol.jws import sign_jws, split_jws, verify_parts
from protocol.keys import ED25519, ML_DSA_65, KeyRing, SigningKey, VerifyKey, b64, unb64
from protocol.notes import log_keys, witness_keys
from protocol.reasons import Reason
from protocol.registry import Registry
from tests.protocol.make import DAY, NOW, key_of, member, refused, region

KEY = SigningKey.from_seed(hashlib.sha256(b"ml-dsa").digest(), ML_DSA_65)
WINDOW = (NOW - DAY, NOW + DAY)


def test_sizes_and_thumbprint() -> None:
    """As FIPS 204 and RFC 9964 have them."""
    assert len(KEY.public) == 1952
    assert len(KEY.sign(b"x")) == 3309
    jwk = {"alg": "ML-DSA-65", "kty": "AKP", "pub": b64(KEY.public)}
    text = json.dumps(jwk, sort_keys=True, separators=(",", ":"))
    assert KEY.kid == b64(hashlib.sha256(text.encode()).digest())[:22]


def test_a_key_file_is_read_back(tmp_path: Path) -> None:
    """The file says of which algorithm the key is."""
    KEY.save(tmp_path / "signing.pem")
    again = SigningKey.load(tmp_path / "signing.pem")
    assert (again.alg, again.kid) == (ML_DSA_65, KEY.kid)
    with pytest.raises(ConfigError, match="no algorithm here"):
        SigningKey.generate("ML-DSA-44")


@pytest.mark.parametrize(("signer", "other"), [(KEY, key_of("id-cert")), (key_of("id-cert"), KEY)])
def test_the_key_decides_the_algorithm(signer: SigningKey, other: SigningKey) -> None:
    """A header that names another one of the table is refused, whoever signed it."""
    ring = KeyRing([VerifyKey.from_record("id-cert", signer.record(*WINDOW))])
    jws = sign_jws("x+jwt", b"{}", signer)
    assert verify_parts(split_jws(jws, "x+jwt"), ring.find).owner == "id-cert"
    head, payload, signature = jws.split(".")
    forged = json.dumps({**json.loads(unb64(head)), "alg": other.alg}, separators=(",", ":")).encode()
    with refused(Reason.ALGORITHM_NOT_ALLOWED, "$.protected.alg"):
        verify_parts(split_jws(f"{b64(forged)}.{payload}.{signature}", "x+jwt"), ring.find)
    key = VerifyKey.from_record("id-cert", signer.record(*WINDOW))
    for wrong in (other.sign(b"{}"), signer.sign(b"{ }"), signer.sign(b"{}")[:-1], b""):
        with refused(Reason.SIGNATURE_INVALID):
            key.verify(wrong, b"{}")


def test_a_record_of_the_wrong_algorithm_is_no_key() -> None:
    """The public key must be one of the algorithm that the record names."""
    wrong = KEY.record(*WINDOW)
    for alg in (ED25519, "ML-DSA-87"):
        with pytest.raises(ConfigError):
            VerifyKey.from_record("id-cert", msgspec.structs.replace(wrong, alg=alg))


def test_notes_stay_ed25519() -> None:
    """A member with such a key cosigns nothing, and counts for no quorum; the broker can have none."""
    record = KEY.record(*WINDOW)
    assert log_keys("x", "broker", [record]) == witness_keys("id-cert", [record]) == []
    old = key_of("id-cert").record(NOW - 2 * DAY, NOW + DAY)
    others = [member(name) for name in ("my", "sg")]
    both = Registry(region(members=[member("id", keys=[old]), *others]))
    assert (len(both.witnesses()), both.quorum) == (3, 2)
    changed = Registry(region(members=[member("id", keys=[old, record]), *others]))
    assert [one.jurisdiction for one in changed.witnesses()] == ["my", "sg"]
    assert len(changed.witness_keys()) == 3, "what it cosigned before still counts"
    with pytest.raises(ConfigError, match="Ed25519 only"):
        Registry(region(broker_keys=[record]))


def test_the_largest_founding_fits() -> None:
    """As many trustees as there may be, each with such a key and its signature."""
    keys = [SigningKey.from_seed(bytes([number]) * 32, ML_DSA_65) for number in range(limits.TRUSTEES)]
    trustees = [
        Trustee(id=f"trustee-{number}", name="x" * 100, key=key.record(*WINDOW)) for number, key in enumerate(keys)
    ]
    act = Found(trustees=trustees, threshold=32, broker_keys=[key_of("broker").record(*WINDOW)])
    data = draft(Record(region="x", number=0, previous="", at=NOW, act=act))
    for key in keys:
        data = sign_record(data, key)
    assert len(open_record(data).signatures) == limits.TRUSTEES
    assert len(data) < limits.GOVERNANCE_RECORD
