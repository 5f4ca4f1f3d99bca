"""The conformance vectors: made again byte by byte, and each one does what its name says."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec
import pytest
from dilithium_py.ml_dsa import ML_DSA_65 as OTHER

from protocol.envelope import RefusedReport, SignedReport, open_envelope, present, release
from protocol.errors import ProtocolError
from protocol.jws import split_jws, verify_parts
from protocol.keys import ML_DSA_65, KeyRecord, KeyRing, SigningKey, VerifyKey, b64, unb64
from protocol.reasons import Reason
from protocol.report import UNIT_NAMES
from protocol.statements import Confirmation, Receipt, open_delivery, open_statement
from tests.vectors.make_vectors import FILE, encoded
from tests.vectors.mldsa import JWS_PAYLOAD, JWS_TYPE, OWNER

VECTORS: dict[str, Any] = json.loads(FILE.read_bytes())
LATTICE: dict[str, Any] = VECTORS["ml_dsa_65"]
AT = datetime.fromisoformat(VECTORS["at"])
KEYS = KeyRing(
    VerifyKey.from_record(key["owner"], msgspec.convert({k: v for k, v in key.items() if k != "owner"}, KeyRecord))
    for key in VECTORS["keys"]
)


def named(kind: str, where: dict[str, Any] = VECTORS) -> list[Any]:
    """The vectors of a kind, each under its name."""
    return [pytest.param(item, id=item["name"]) for item in where[kind]]


def test_the_vectors_are_made_again_byte_by_byte() -> None:
    """The file follows from fixed keys, dates and randomness: a change of the format cannot go unnoticed."""
    assert FILE.read_bytes() == encoded()


@pytest.mark.parametrize(("where", "count"), [(VECTORS, 2), (LATTICE, 1)])
def test_the_envelope(where: dict[str, Any], count: int) -> None:
    """The whole envelope verifies and reads as the file says."""
    given = where["envelope"]
    found = open_envelope(given["sd_jwt"], KEYS.find, AT)
    assert found.digest == given["digest"]
    read = [
        {"digest": r.digest, "header": json.loads(msgspec.json.encode(r.header)), "body": r.body}
        for r in found.reports
        if isinstance(r, SignedReport)
    ]
    assert read == given["reports"]
    assert len(read) == count


@pytest.mark.parametrize("vector", named("restricted"))
def test_restricted_copies(vector: dict[str, Any]) -> None:
    """Restricting the whole envelope by the masks gives exactly this copy, and it verifies."""
    found = open_envelope(VECTORS["envelope"]["sd_jwt"], KEYS.find, AT)
    parts = [release(r, vector["exact"], vector["coarse"]) for r in found.reports if isinstance(r, SignedReport)]
    assert present(found.jws, parts) == vector["sd_jwt"]
    copy = open_envelope(vector["sd_jwt"], KEYS.find, AT)
    assert [r.digest for r in copy.reports] == [r["digest"] for r in VECTORS["envelope"]["reports"]]
    for item in copy.reports:
        assert isinstance(item, SignedReport)
        assert item.units()[0] & ~vector["exact"] == 0
        assert item.units()[1] & ~vector["coarse"] == 0


@pytest.mark.parametrize("vector", named("bad_envelopes") + named("bad_envelopes", LATTICE))
def test_bad_envelopes(vector: dict[str, Any]) -> None:
    """Each bad envelope is refused as a whole with exactly its reason."""
    with pytest.raises(ProtocolError) as caught:
        open_envelope(vector["sd_jwt"], KEYS.find, AT)
    assert caught.value.reason is Reason(vector["reason"])


@pytest.mark.parametrize("vector", named("bad_reports"))
def test_bad_reports(vector: dict[str, Any]) -> None:
    """Each bad report is refused alone, with exactly its reason and path."""
    (found,) = open_envelope(vector["sd_jwt"], KEYS.find, AT).reports
    assert isinstance(found, RefusedReport)
    assert (found.error.reason, found.error.path) == (Reason(vector["reason"]), vector["path"])


def test_statements() -> None:
    """Receipt, delivery and confirmation verify and speak of the envelope."""
    digests = [r["digest"] for r in VECTORS["envelope"]["reports"]]
    receipt = open_statement(VECTORS["receipt"], Receipt, KEYS.find, AT)
    assert receipt.submission == VECTORS["envelope"]["digest"]
    assert [item.digest for item in receipt.reports] == digests
    delivery, items = open_delivery(VECTORS["delivery"].encode("ascii"), "sg-cert", KEYS.find, AT)
    assert delivery.reports == len(digests)
    assert [item.sd_jwt for item in items] == [r["sd_jwt"] for r in VECTORS["restricted"] if r["name"] == "coarse-only"]
    confirmation = open_statement(VECTORS["confirmation"], Confirmation, KEYS.find, AT)
    assert (confirmation.reports, confirmation.delivery) == (digests, delivery.id)


def test_the_table_of_units() -> None:
    """The bits of the units are those of the file, in its order; newer versions may only have more."""
    assert [unit["name"] for unit in VECTORS["units"]] == list(UNIT_NAMES)
    assert [unit["bit"] for unit in VECTORS["units"]] == list(range(len(UNIT_NAMES)))


def test_what_another_implementation_signed_with_ml_dsa_65() -> None:
    """A JWS of any bytes, a confirmation, and the key itself: one seed is one key, one key one id."""
    key = SigningKey.from_seed(unb64(LATTICE["seed"]), ML_DSA_65)
    (listed,) = [one for one in VECTORS["keys"] if one["owner"] == OWNER]
    assert (listed["alg"], listed["public"], listed["kid"]) == (ML_DSA_65, b64(key.public), LATTICE["kid"])
    assert key.kid == LATTICE["kid"]
    parts = split_jws(LATTICE["jws"], JWS_TYPE)
    assert verify_parts(parts, KEYS.find).owner == OWNER
    assert (parts.payload, len(parts.signature)) == (JWS_PAYLOAD, 3309)
    confirmation = open_statement(LATTICE["confirmation"], Confirmation, KEYS.find, AT)
    assert confirmation.reports == [one["digest"] for one in LATTICE["envelope"]["reports"]]
    # And the other way round.
    data = b"any bytes"
    assert OTHER.verify(key.public, data, key.sign(data))
    assert not OTHER.verify(key.public, data + b".", key.sign(data))
