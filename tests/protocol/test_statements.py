"""Statements: each of its own kind, signed by whom it names, for whom it names."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from protocol import limits
from protocol.envelope import TYP as ENVELOPE_TYP
from protocol.errors import ProtocolError
from protocol.jws import sign_jws
from protocol.policy import Withheld
from protocol.reasons import Reason
from protocol.registry import TYP as REGION_TYP
from protocol.statements import (
    BROKER,
    Confirmation,
    Decision,
    Delivery,
    DeliveryItem,
    Link,
    LinkedReport,
    Links,
    Noted,
    Opening,
    Receipt,
    Refusal,
    ReportReceipt,
    encode_delivery,
    encode_items,
    items_digest,
    open_delivery,
    open_statement,
    sign_statement,
    statement_digest,
)
from tests.protocol.make import DAY, NOW, RING, key_of, quick, refused, ring, signed, whole

DIGEST = "A" * 43
OTHER = "B" * 43
SECOND = timedelta(seconds=1)

RECEIPT = Receipt(
    iss=BROKER,
    aud="id-cert",
    received_at=NOW,
    submission=DIGEST,
    leaf=3,
    seed="A" * 22,
    decisions=[
        Decision(
            granted=True,
            exact=1,
            withheld=[Withheld(unit="victim", gate="export", document="id/1", reason="default-deny")],
        ),
        Decision(granted=False),
    ],
    reports=[
        ReportReceipt(digest=DIGEST, outcome="accepted", report_id="x", revision=1, to={"sg-cert": 0, "my-cert": 1}),
        ReportReceipt(digest=OTHER, outcome="rejected", refusal=Refusal(reason="empty", path="$.a", detail="b")),
        ReportReceipt(digest=OTHER, outcome="duplicate", duplicate_of=DIGEST),
    ],
)
ITEMS = encode_items([DeliveryItem(sd_jwt=whole(signed()), received_at=NOW)])
OPENING = Opening(leaf=3, receipt=DIGEST, salt=OTHER, slot=0, path=[], reports=[(DIGEST, 1, 0)])
DELIVERY = Delivery(
    iss=BROKER, aud="sg-cert", id=7, sent_at=NOW, items=items_digest(ITEMS), reports=1, grants=[OPENING]
)
CONFIRMATION = Confirmation(iss="sg-cert", aud="id-cert", at=NOW, state="read", reports=[DIGEST], delivery=7)
NOTED = Noted(iss=BROKER, aud="sg-cert", at=NOW, confirmations=[DIGEST], refused={OTHER: Refusal(reason="empty")})
LINKS = Links(
    iss=BROKER,
    aud="sg-cert",
    at=NOW,
    links=[
        Link(
            a=LinkedReport(digest=DIGEST, report_id="x", origin="id"),
            b=LinkedReport(digest=OTHER, report_id="y", origin="my"),
            strength="strong",
            on={"sha256": 2},
        )
    ],
)
ALL: list[Any] = [RECEIPT, DELIVERY, CONFIRMATION, NOTED, LINKS]
KINDS = [type(item) for item in ALL]


def sign(statement: Any, owner: str | None = None) -> str:
    """Sign as the statement's own issuer, or as somebody else."""
    return sign_statement(statement, key_of(owner or statement.iss))


@pytest.mark.parametrize("statement", ALL, ids=lambda item: type(item).__name__)
def test_each_kind_round_trips(statement: Any) -> None:
    """A statement that its issuer signed opens to itself."""
    assert open_statement(sign(statement), type(statement), RING.find, NOW) == statement


@pytest.mark.parametrize("statement", ALL, ids=lambda item: type(item).__name__)
def test_signing_is_deterministic(statement: Any) -> None:
    """The same statement gives the same bytes, in whatever order its tables were filled: a receipt can be repeated."""
    again = msgspec.json.decode(msgspec.json.encode(statement), type=type(statement))
    if isinstance(again, Receipt):
        first = msgspec.structs.replace(again.reports[0], to=dict(reversed(again.reports[0].to.items())))
        again = msgspec.structs.replace(again, reports=[first, *again.reports[1:]])
    assert sign(again) == sign(statement)
    assert statement_digest(sign(again)) == statement_digest(sign(statement))


@pytest.mark.parametrize("statement", ALL, ids=lambda item: type(item).__name__)
@pytest.mark.parametrize("kind", KINDS, ids=lambda item: item.__name__)
def test_one_kind_never_passes_for_another(statement: Any, kind: Any) -> None:
    """A token opens as the kind that it was signed as, and as no other."""
    if type(statement) is kind:
        assert open_statement(sign(statement), kind, RING.find, NOW) == statement
    else:
        with refused(Reason.MALFORMED_ENVELOPE, "$.protected.typ"):
            open_statement(sign(statement), kind, RING.find, NOW)


def test_types_are_distinct() -> None:
    """Every kind of token has a type of its own."""
    types = [ENVELOPE_TYP, REGION_TYP, *(kind.typ for kind in KINDS)]
    assert len(set(types)) == len(types)
    assert all(name.startswith("kentongan-") for name in types)


@pytest.mark.parametrize("kind", KINDS, ids=lambda item: item.__name__)
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b'{"iss":"broker"}', b"\xff"])
def test_a_kind_holds_its_own_fields(kind: Any, body: bytes) -> None:
    """Signed bytes that are no statement of that kind are refused."""
    with pytest.raises(ProtocolError):
        open_statement(sign_jws(kind.typ, body, key_of(BROKER)), kind, RING.find, NOW)


@pytest.mark.parametrize("statement", ALL, ids=lambda item: type(item).__name__)
def test_unknown_fields_are_refused(statement: Any) -> None:
    """A field that the kind does not have is refused, though it is signed."""
    body = msgspec.json.encode({**msgspec.to_builtins(statement), "extra": 1})
    with refused(Reason.UNKNOWN_FIELD, "$.extra"):
        open_statement(sign_jws(statement.typ, body, key_of(statement.iss)), type(statement), RING.find, NOW)


@pytest.mark.parametrize("statement", ALL, ids=lambda item: type(item).__name__)
def test_the_issuer_is_the_signer(statement: Any) -> None:
    """Nobody signs in the name of another: no member as the broker, no member as another member."""
    with refused(Reason.WRONG_MEMBER, "$.iss"):
        open_statement(sign(statement, "my-cert"), type(statement), RING.find, NOW)


@pytest.mark.parametrize("statement", [RECEIPT, DELIVERY, NOTED, LINKS], ids=lambda item: type(item).__name__)
def test_a_member_never_speaks_as_the_broker(statement: Any) -> None:
    """What only the broker can say is refused from a member, even in the member's own name."""
    own = msgspec.structs.replace(statement, iss="my-cert")
    with refused(Reason.WRONG_MEMBER, "$.iss"):
        open_statement(sign(own), type(statement), RING.find, NOW)


def test_the_broker_never_confirms() -> None:
    """A confirmation is a member's word; the broker cannot give it."""
    with refused(Reason.WRONG_MEMBER, "$.iss"):
        open_statement(sign(msgspec.structs.replace(CONFIRMATION, iss=BROKER)), Confirmation, RING.find, NOW)


@pytest.mark.parametrize("statement", ALL, ids=lambda item: type(item).__name__)
def test_keys_are_judged_at_the_given_time(statement: Any) -> None:
    """A key outside its window, revoked or unknown signs nothing."""
    jws, kind = sign(statement), type(statement)
    owners = (statement.iss,)
    with refused(Reason.KEY_NOT_VALID):
        open_statement(jws, kind, ring(*owners, not_before=NOW + SECOND, not_after=NOW + DAY).find, NOW)
    with refused(Reason.KEY_REVOKED):
        open_statement(jws, kind, ring(*owners, revoked_at=NOW).find, NOW)
    with refused(Reason.UNKNOWN_KEY):
        open_statement(jws, kind, ring("ph-cert").find, NOW)


@pytest.mark.parametrize("statement", ALL, ids=lambda item: type(item).__name__)
def test_a_clock_ahead_is_refused(statement: Any) -> None:
    """A statement from further ahead than the allowed skew is refused; from exactly as far it is not."""
    edge = NOW + limits.CLOCK_SKEW
    clock = type(statement).clock
    at_edge = msgspec.structs.replace(statement, **{clock: edge})
    assert open_statement(sign(at_edge), type(statement), RING.find, NOW) == at_edge
    ahead = msgspec.structs.replace(statement, **{clock: edge + SECOND})
    with refused(Reason.TIME_IN_FUTURE, f"$.{clock}"):
        open_statement(sign(ahead), type(statement), RING.find, NOW)


@pytest.mark.parametrize(
    ("change", "reason", "path"),
    [
        ({"reports": []}, Reason.OUT_OF_RANGE, "$.reports"),
        ({"reports": [DIGEST] * (limits.REPORTS_PER_CONFIRMATION + 1)}, Reason.OUT_OF_RANGE, "$.reports"),
        ({"reports": [DIGEST + "\n"]}, Reason.INVALID_VALUE, "$.reports[0]"),
        ({"reports": ["A" * 42]}, Reason.INVALID_VALUE, "$.reports[0]"),
        ({"state": "seen"}, Reason.UNKNOWN_VALUE, "$.state"),
        ({"delivery": -1}, Reason.OUT_OF_RANGE, "$.delivery"),
        ({"delivery": 2**63}, Reason.OUT_OF_RANGE, "$.delivery"),
        ({"delivery": 10**40}, Reason.OUT_OF_RANGE, "$.delivery"),
    ],
)
def test_a_confirmation_is_bounded(change: dict[str, Any], reason: Reason, path: str) -> None:
    """A member cannot confirm what no store could hold."""
    body = msgspec.json.encode(
        {**msgspec.to_builtins(CONFIRMATION), **{k: v for k, v in change.items() if v != 10**40}}
    )
    if change.get("delivery") == 10**40:
        body = body.replace(b'"delivery":7', b'"delivery":1' + b"0" * 40)
    with refused(reason, path):
        open_statement(sign_jws(Confirmation.typ, body, key_of("sg-cert")), Confirmation, RING.find, NOW)


CONFIRMED = sign(CONFIRMATION)


@quick(300)
@given(st.integers(0, len(CONFIRMED) - 1), st.characters(max_codepoint=0x2FF))
def test_a_changed_character_never_verifies(at: int, character: str) -> None:
    """Any change of any one character is refused as a ProtocolError, and as nothing else."""
    if CONFIRMED[at] != character:
        with pytest.raises(ProtocolError):
            open_statement(CONFIRMED[:at] + character + CONFIRMED[at + 1 :], Confirmation, RING.find, NOW)


# --- deliveries -------------------------------------------------------------------------------------------------

MESSAGE = encode_delivery(sign(DELIVERY), ITEMS)


def test_a_delivery_opens() -> None:
    """The recipient gets the statement and the items that the broker released to it."""
    statement, items = open_delivery(MESSAGE, "sg-cert", RING.find, NOW)
    assert statement == DELIVERY
    assert items == [DeliveryItem(sd_jwt=whole(signed()), received_at=NOW)]


def test_a_delivery_for_another_member() -> None:
    """What was released to one member is refused by every other."""
    with refused(Reason.WRONG_AUDIENCE, "$.aud"):
        open_delivery(MESSAGE, "my-cert", RING.find, NOW)


@pytest.mark.parametrize("items", [b"", b"[]", ITEMS + b" ", ITEMS[:-1], ITEMS.replace(b"~", b"", 1)])
def test_the_items_are_the_released_ones(items: bytes) -> None:
    """Items that were changed, cut or dropped on the way are refused."""
    with refused(Reason.CONTENT_CHANGED, "$.items"):
        open_delivery(encode_delivery(sign(DELIVERY), items), "sg-cert", RING.find, NOW)


def test_only_the_broker_delivers() -> None:
    """A member that signs a delivery, under either name, is refused."""
    forged = sign(msgspec.structs.replace(DELIVERY, iss="my-cert"))
    for jws in (forged, sign(DELIVERY, "my-cert")):
        with refused(Reason.WRONG_MEMBER, "$.iss"):
            open_delivery(encode_delivery(jws, ITEMS), "sg-cert", RING.find, NOW)


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\n[]", b"a.b.c\n[]", "\u00e9".encode() + b"\n[]", ITEMS])
def test_malformed_deliveries(data: bytes) -> None:
    """What does not begin with a statement is refused."""
    with refused(Reason.MALFORMED_ENVELOPE):
        open_delivery(data, "sg-cert", RING.find, NOW)


def test_items_that_are_none() -> None:
    """Items are judged after their hash: bytes that the broker released but that are no items are refused."""
    for items in (b"{}", b'[{"sd_jwt":1}]', b"[", b'[{"sd_jwt":"x","received_at":"2026-01-01T00:00:00"}]'):
        own = msgspec.structs.replace(DELIVERY, items=items_digest(items))
        with pytest.raises(ProtocolError) as caught:
            open_delivery(encode_delivery(sign(own), items), "sg-cert", RING.find, NOW)
        assert caught.value.reason in (Reason.WRONG_TYPE, Reason.NOT_JSON, Reason.INVALID_VALUE)


@quick(300)
@given(st.integers(0, len(MESSAGE) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_delivers(at: int, flip: int) -> None:
    """Any change of any one byte of a delivery is refused as a ProtocolError."""
    data = bytearray(MESSAGE)
    data[at] ^= flip
    with pytest.raises(ProtocolError):
        open_delivery(bytes(data), "sg-cert", RING.find, NOW)


def test_absent_fields_are_absent() -> None:
    """What is not said is not in the bytes: a receipt of an accepted report has no refusal."""
    plain = msgspec.json.decode(msgspec.json.encode(RECEIPT))
    assert "refusal" not in plain
    assert "refusal" not in plain["reports"][0]
    assert RECEIPT.refusal is UNSET
