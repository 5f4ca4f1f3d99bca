"""Key files, key ids, windows, and rings in which no key has two owners."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError, ProtocolError
from protocol.keys import (
    KeyRecord,
    KeyRing,
    SigningKey,
    VerifyKey,
    b64,
    b64_same,
    read_secret,
    thumbprint,
    unb64,
    write_secret,
)
from protocol.reasons import Reason
from tests.protocol.make import DAY, NOW, key_of, quick, refused

KEY = key_of("id-cert")
TICK = timedelta(microseconds=1)


def record(**given: object) -> KeyRecord:
    """The registry's entry for the fixed key."""
    return msgspec.structs.replace(KEY.record(NOW, NOW + DAY), **given)


def test_thumbprint_vector() -> None:
    """The key id is the beginning of the RFC 7638 thumbprint: the example key of RFC 8037 appendix A.3."""
    public = unb64("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
    assert thumbprint(public) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"[:22]


def test_signature_vector() -> None:
    """Signing is plain Ed25519: the first test of RFC 8032 section 7.1."""
    key = SigningKey.from_seed(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"
        "24655141438e7a100b"
    )


def test_a_key_file_is_closed(tmp_path: Path) -> None:
    """A key file is made with mode 0400 whatever the umask, and reads back as the same key."""
    path = tmp_path / "new" / "signing.pem"
    old = os.umask(0)
    try:
        KEY.save(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o400
    assert SigningKey.load(path).kid == KEY.kid


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    """A second key under the same name is refused, and the first one is untouched."""
    path = tmp_path / "signing.pem"
    KEY.save(path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        key_of("sg-cert").save(path)
    assert path.read_bytes() == before


def test_a_key_is_not_written_through_a_link(tmp_path: Path) -> None:
    """A link that waits under the name does not carry the key elsewhere."""
    (tmp_path / "signing.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="never overwritten"):
        KEY.save(tmp_path / "signing.pem")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o640, 0o644, 0o420, 0o410])
def test_an_open_key_file_is_refused(tmp_path: Path, mode: int) -> None:
    """A key file that group or others can touch in any way is not used."""
    path = tmp_path / "signing.pem"
    KEY.save(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}"):
        SigningKey.load(path)


def test_a_missing_secret_is_a_config_error(tmp_path: Path) -> None:
    """The operator is told which file is missing."""
    with pytest.raises(ConfigError, match="nowhere is missing"):
        read_secret(tmp_path / "nowhere")


def _pem(
    make: Callable[[], Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey],
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return make().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a plain PKCS #8"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a plain PKCS #8"),
        (_pem(Ed25519PrivateKey.generate, BestAvailableEncryption(b"secret")), "not a plain PKCS #8"),
        (_pem(lambda: ec.generate_private_key(ec.SECP256R1())), "not an Ed25519 or ML-DSA-65 key"),
        (_pem(lambda: rsa.generate_private_key(65537, 2048)), "not an Ed25519 or ML-DSA-65 key"),
    ],
    ids=["empty", "garbage", "encrypted", "p-256", "rsa"],
)
def test_other_key_files_are_refused(tmp_path: Path, data: bytes, says: str) -> None:
    """What is no plain key of the table is refused with a sentence for the operator."""
    write_secret(tmp_path / "signing.pem", data)
    with pytest.raises(ConfigError, match=says):
        SigningKey.load(tmp_path / "signing.pem")


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (NOW - TICK, Reason.KEY_NOT_VALID),
        (NOW, None),
        (NOW + DAY - TICK, None),
        (NOW + DAY, Reason.KEY_NOT_VALID),
    ],
)
def test_window(at: datetime, reason: Reason | None) -> None:
    """A key is valid from its first instant up to, and without, its last."""
    key = VerifyKey.from_record("id-cert", record())
    if reason is None:
        key.check_window(at)
    else:
        with refused(reason, "$.kid"):
            key.check_window(at)
    assert (key.record.not_before <= at < key.record.not_after) == (reason is None)


@pytest.mark.parametrize(("after", "ok"), [(-TICK, True), (timedelta(0), False), (TICK, False), (2 * DAY, False)])
def test_revocation(after: timedelta, ok: bool) -> None:
    """A key is dead from the very instant of its revocation, and what came before stays valid."""
    revoked_at = NOW + DAY / 2
    key = VerifyKey.from_record("id-cert", record(revoked_at=revoked_at))
    if ok:
        assert key.check_window(revoked_at + after) is None  # type: ignore[func-returns-value]
    else:
        with refused(Reason.KEY_REVOKED, "$.kid"):
            key.check_window(revoked_at + after)


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"kid": key_of("sg-cert").kid}, "not the key's thumbprint"),
        ({"kid": ""}, "not the key's thumbprint"),
        ({"alg": "none"}, "not allowed"),
        ({"alg": "EdDSA"}, "not allowed"),
        ({"alg": "ES256"}, "not allowed"),
        ({"public": "A" * 42 + "B"}, "not an Ed25519 public key"),
        ({"public": b64(b"x" * 31)}, "not an Ed25519 public key"),
        ({"public": "\u00e9" * 43}, "not an Ed25519 public key"),
        ({"not_after": NOW}, "ends before it begins"),
    ],
)
def test_inconsistent_records_are_refused(given_: dict[str, object], says: str) -> None:
    """A record whose id, algorithm, key and window do not hold together never becomes a key."""
    with pytest.raises(ConfigError, match=says):
        VerifyKey.from_record("id-cert", record(**given_))


def test_two_owners_never_share_a_key() -> None:
    """A key that is listed twice is refused, for two owners and for one."""
    for other in ("sg-cert", "id-cert"):
        with pytest.raises(ConfigError, match="listed twice"):
            KeyRing([VerifyKey.from_record("id-cert", record()), VerifyKey.from_record(other, record())])


def test_unknown_keys() -> None:
    """A ring knows the keys that it was made of and no others."""
    keys = KeyRing([VerifyKey.from_record("id-cert", record())])
    assert keys.find(KEY.kid).owner == "id-cert"
    with refused(Reason.UNKNOWN_KEY, "$.kid"):
        keys.find(key_of("sg-cert").kid)


@quick(60)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_only_the_signature_verifies(signature: bytes, data: bytes) -> None:
    """No other bytes verify, of any length."""
    key = VerifyKey.from_record("id-cert", record())
    key.verify(KEY.sign(data), data)
    with refused(Reason.SIGNATURE_INVALID):
        key.verify(signature, data)
    with refused(Reason.SIGNATURE_INVALID):
        key.verify(KEY.sign(data), data + b"\0")


@quick(100)
@given(st.integers(min_value=1, max_value=40).flatmap(lambda size: st.lists(st.binary(min_size=size, max_size=size))))
def test_base64url_of_many_is_that_of_each(items: list[bytes]) -> None:
    """In one piece."""
    assert b64_same(items) == [b64(item) for item in items]


@quick(100)
@given(st.binary(max_size=50))
def test_base64url_round_trip(data: bytes) -> None:
    """Encoded bytes decode to themselves, from text and from bytes."""
    assert unb64(b64(data)) == data == unb64(b64(data).encode())


@pytest.mark.parametrize(
    "text", ["A", "AB", "AAA=", "AA==", "A+AA", "A/AA", "AA AA", "AAAA\n", "\u00e9AAA", "AAAAB", "="]
)
def test_other_spellings_are_refused(text: str) -> None:
    """One spelling for each value: padding, other alphabets, spaces and loose bits are refused."""
    with pytest.raises(ValueError, match=r".+"):
        unb64(text)


@quick(200)
@given(st.text(max_size=12))
def test_base64url_is_canonical(text: str) -> None:
    """What decodes at all is the one spelling of its bytes."""
    try:
        data = unb64(text)
    except ValueError:
        return
    assert b64(data) == text


def test_errors_carry_no_content() -> None:
    """A protocol error says code and path; the detail is one more sentence."""
    assert str(ProtocolError(Reason.EMPTY)) == "empty at $"
    assert str(ProtocolError(Reason.EMPTY, "$.a", "nothing there")) == "empty at $.a: nothing there"
