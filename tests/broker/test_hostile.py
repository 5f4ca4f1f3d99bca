"""What a member may write into fields that the ledger keeps: it ends no process, on no database."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from protocol.keys import b64
from protocol.reasons import Reason
from protocol.statements import Refusal
from protocol.subjects import Kind
from tests.broker.make import Hub
from tests.broker.test_ingest import report
from tests.protocol import make

pytestmark = pytest.mark.usefixtures("each_database")


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


@pytest.mark.parametrize("kind", ["\0", "x" * 300, "\U0001f941\0" * 20], ids=["nul", "long", "both"])
def test_the_kind_of_a_message(hub: Hub, kind: str) -> None:
    """A header of the bus, as long as it likes."""
    hub.take("id-cert", kind, b"\0")
    (row,) = hub.rows("quarantine")
    assert row.reason == Reason.UNKNOWN_VALUE.value


@pytest.mark.parametrize("name", ["\0", "a\0b", "x" * 2_000, "\U0001f941" * 600], ids=["nul", "within", "long", "wide"])
def test_the_name_of_an_unknown_field(hub: Hub, name: str) -> None:
    """It stands in the path of the refusal, which the receipt, the ledger and the quarantine repeat."""
    head = b64(msgspec.json.encode({"alg": "Ed25519", "typ": "kentongan-report+sd-jwt", "kid": "k", name: 1}))
    receipt, _ = hub.submit_text(f"{head}.e30.{'A' * 86}~")
    assert receipt.refusal is not None
    hub.take("id-cert", Kind.CONFIRMATIONS, msgspec.json.encode({name: 1}))
    assert len(hub.rows("quarantine")) == 2


@pytest.mark.parametrize("reason", ["\0", "x" * 65, "", "No Code"])
def test_the_reason_of_a_confirmation(hub: Hub, reason: str) -> None:
    """It is a code, or it is not taken."""
    receipt, _ = hub.submit(report(1))
    digests = [item.digest for item in receipt.reports]
    noted = hub.confirm("sg-cert", "id-cert", digests, "refused", refusal=Refusal(reason=reason))
    assert not noted.confirmations
    assert len(noted.refused) == 1
    assert not hub.rows("confirmations")


def test_a_fingerprint_is_plain(hub: Hub) -> None:
    """It is looked up, so it must be the same in the ledger as in the header."""
    text = make.whole(make.signed(report(1, fingerprint="f" * 16 + "\0"), issuer="id-cert", seed="s", at=hub.now))
    receipt, _ = hub.submit_text(text)
    assert receipt.refusal is not None or receipt.reports[0].refusal is not None
    assert not hub.rows("reports")
