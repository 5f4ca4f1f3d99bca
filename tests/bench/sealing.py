"""Sealing and opening, in this process on one core, beside what HPKE itself takes for a content key."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite

from protocol.envelope import SignedReport, open_envelope
from protocol.keys import KeyRing, SigningKey, VerifyKey
from protocol.report import ALL_UNITS
from protocol.sealing import (
    MLKEM768_X25519,
    X25519,
    Algorithm,
    SealedBox,
    SealingKey,
    SealTo,
    check_box,
    open_sealed,
    parse_box,
    seal,
    trim,
)
from tests.bench.limits import per_second
from tests.bench.load import submissions, window

SECONDS = 0.5
RECIPIENTS = (1, 10)


def _raw(alg: Algorithm) -> tuple[str, str]:
    """HPKE on 32 bytes, nothing else."""
    curve = X25519PrivateKey.generate()
    private = curve if alg == X25519 else MLKEM768X25519PrivateKey(MLKEM768PrivateKey.generate(), curve)
    public = private.public_key()
    suite = Suite(getattr(KEM, alg), KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    content_key, info = os.urandom(32), os.urandom(200)
    enc = suite.encrypt(content_key, public, info)
    seals = per_second(lambda: suite.encrypt(content_key, public, info), SECONDS)
    opens = per_second(lambda: suite.decrypt(enc, private, info), SECONDS)
    return f"HPKE alone, {alg}, 32 bytes: encrypt, decrypt", f"{seals:,.0f}/s, {opens:,.0f}/s"


def _draft() -> SignedReport:
    """A report of the other benchmarks: 1.5 KB as JSON, 26 disclosures."""
    key = SigningKey.from_seed(os.urandom(32))
    ring = KeyRing([VerifyKey.from_record("m0", key.record(*window()))])
    (message,) = submissions("m0", key, 1, 1)
    (found,) = open_envelope(message, ring.find, datetime.now(UTC)).reports
    assert isinstance(found, SignedReport)
    return found


def _sealed(alg: Algorithm, count: int) -> list[tuple[str, str]]:
    draft = _draft()
    keys = {f"m{number}": SealingKey.generate(alg) for number in range(1, count + 1)}
    to = {name: SealTo(key.record(*window()), ALL_UNITS, 0) for name, key in keys.items()}
    box = seal(draft, to, os.urandom)
    data, part = box.encode(), trim(box, ["m1"]).encode()
    header = msgspec.structs.replace(draft.header, sealed=box.digest())
    report = SignedReport(draft.digest, draft.header_text, header, (), (), {}, 0)
    records = {name: [item.key] for name, item in to.items()}
    now = datetime.now(UTC)
    own = [keys["m1"]]
    name = f"{alg}, {count} recipient{'s' if count > 1 else ''}"

    def carry() -> list[SealedBox]:
        found = parse_box(data)
        check_box(found, header, records.__getitem__, now)
        return [trim(found, [member]) for member in found.members()]

    return [
        (f"{name}: reports sealed", f"{per_second(lambda: seal(draft, to, os.urandom), SECONDS):,.0f}/s"),
        (f"{name}: parts opened", f"{per_second(lambda: open_sealed(part, report, 'm1', own), SECONDS):,.0f}/s"),
        (f"{name}: boxes checked and trimmed for each", f"{per_second(carry, SECONDS):,.0f}/s"),
        (f"{name}: bytes of the box; of one recipient's part", f"{len(data):,}; {len(part):,}"),
    ]


def measure() -> list[tuple[str, str]]:
    """The figures as (name, figure)."""
    found: list[tuple[str, str]] = []
    for alg in (MLKEM768_X25519, X25519):
        found.append(_raw(alg))
        for count in RECIPIENTS:
            found += _sealed(alg, count)
    return found


if __name__ == "__main__":
    for name, figure in measure():
        print(f"  {name:<74} {figure}")
