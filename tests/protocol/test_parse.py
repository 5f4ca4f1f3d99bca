"""Bytes in, valid structs or a reason code with a path out, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.parse import convert, decode
from protocol.reasons import Reason
from protocol.report import Filing, Header, json_encode
from tests.protocol.make import filings, header, quick, refused

filing_decoder = msgspec.json.Decoder(Filing)
LEAST: dict[str, Any] = {"marking": {"tlp": "AMBER"}, "rsit": [{"class": "fraud"}]}
HUGE = 10**30


def _body(**fields: Any) -> dict[str, Any]:
    return {**LEAST, "body": fields}


BAD = [
    (b"", Reason.NOT_JSON, "$"),
    (b"\xff\xfe", Reason.NOT_JSON, "$"),
    (b'{"marking":', Reason.NOT_JSON, "$"),
    (b"{'marking':1}", Reason.NOT_JSON, "$"),
    (b"nonsense", Reason.NOT_JSON, "$"),
    (b'{"phase":"\\ud800"}', Reason.NOT_JSON, "$"),
    (b'{"phase":"\x00"}', Reason.NOT_JSON, "$"),
    ("\ud800", Reason.NOT_JSON, "$"),
    (b"[" * 50_000, Reason.WRONG_TYPE, "$"),
    (b'{"a":' * 50_000, Reason.UNKNOWN_FIELD, "$.a"),
    (b"null", Reason.WRONG_TYPE, "$"),
    (b"[]", Reason.WRONG_TYPE, "$"),
    ({}, Reason.MISSING_FIELD, "$.marking"),
    ({"marking": {}}, Reason.MISSING_FIELD, "$.marking.tlp"),
    ({**LEAST, "rsit": [{}]}, Reason.MISSING_FIELD, "$.rsit[0].class"),
    (_body(indicators=[{"type": "md5"}]), Reason.MISSING_FIELD, "$.body.indicators[0].value"),
    ({**LEAST, "what": 1}, Reason.UNKNOWN_FIELD, "$.what"),
    (_body(victim={"name": "x", "age": 3}), Reason.UNKNOWN_FIELD, "$.body.victim.age"),
    ({**LEAST, "marking": {"tlp": "PINK"}}, Reason.UNKNOWN_VALUE, "$.marking.tlp"),
    ({**LEAST, "marking": {"tlp": "amber"}}, Reason.UNKNOWN_VALUE, "$.marking.tlp"),
    ({**LEAST, "sectors": [{"code": "energy"}, {"code": "magic"}]}, Reason.UNKNOWN_VALUE, "$.sectors[1].code"),
    (_body(entity_counts={"cats": 1}), Reason.UNKNOWN_VALUE, "$.body.entity_counts"),
    ({**LEAST, "marking": {"tlp": 5}}, Reason.WRONG_TYPE, "$.marking.tlp"),
    ({**LEAST, "rsit": {}}, Reason.WRONG_TYPE, "$.rsit"),
    ({**LEAST, "revision": 1.5}, Reason.WRONG_TYPE, "$.revision"),
    ({**LEAST, "revision": "1"}, Reason.WRONG_TYPE, "$.revision"),
    ({**LEAST, "revision": True}, Reason.WRONG_TYPE, "$.revision"),
    ({**LEAST, "body": None}, Reason.WRONG_TYPE, "$.body"),
    (_body(title=None), Reason.WRONG_TYPE, "$.body.title"),
    (_body(times={"ended": {"value": 1_700_000_000}}), Reason.WRONG_TYPE, "$.body.times.ended.value"),
    ({**LEAST, "revision": 0}, Reason.OUT_OF_RANGE, "$.revision"),
    ({**LEAST, "revision": HUGE}, Reason.OUT_OF_RANGE, "$.revision"),
    ({**LEAST, "severity": {"score": 101}}, Reason.OUT_OF_RANGE, "$.severity.score"),
    ({**LEAST, "severity": {"score": -1}}, Reason.OUT_OF_RANGE, "$.severity.score"),
    ({**LEAST, "rsit": []}, Reason.OUT_OF_RANGE, "$.rsit"),
    ({**LEAST, "rsit": [{"class": "fraud"}] * 17}, Reason.OUT_OF_RANGE, "$.rsit"),
    (_body(title=""), Reason.OUT_OF_RANGE, "$.body.title"),
    (_body(title="x" * 301), Reason.OUT_OF_RANGE, "$.body.title"),
    (_body(description="x" * 32_769), Reason.OUT_OF_RANGE, "$.body.description"),
    (_body(entity_counts={}), Reason.OUT_OF_RANGE, "$.body.entity_counts"),
    (_body(entity_counts={"people": -1}), Reason.OUT_OF_RANGE, "$.body.entity_counts[...]"),
    (_body(geo={"country": "id", "latitude": 90.5}), Reason.OUT_OF_RANGE, "$.body.geo.latitude"),
    (_body(indicators=[{"type": "other", "value": "x"}] * 501), Reason.OUT_OF_RANGE, "$.body.indicators"),
    (b'{"body":{"geo":{"country":"id","latitude":1e999}}}', Reason.OUT_OF_RANGE, "$.body.geo.latitude"),
    ({**LEAST, "report_id": "1234"}, Reason.INVALID_VALUE, "$.report_id"),
    (_body(geo={"country": "ID"}), Reason.INVALID_VALUE, "$.body.geo.country"),
    (_body(attack=[{"technique": "t1486"}]), Reason.INVALID_VALUE, "$.body.attack[0].technique"),
    (_body(times={"ended": {"value": "2026-01-01T25:00:00Z"}}), Reason.INVALID_VALUE, "$.body.times.ended.value"),
    (_body(times={"ended": {"value": "2026-01-01T00:00:00"}}), Reason.INVALID_VALUE, "$.body.times.ended.value"),
    (_body(indicators=[{"type": "sha1", "value": "x"}]), Reason.INVALID_VALUE, "$.body.indicators[0]"),
    ({**LEAST, "rsit": [{"class": "fraud", "type": "spam"}]}, Reason.UNKNOWN_RSIT_TYPE, "$.rsit[0]"),
    ({**LEAST, "marking": {"tlp": "RED"}}, Reason.RECIPIENTS_REQUIRED, "$.marking"),
]


@pytest.mark.parametrize(("given_", "reason", "path"), BAD, ids=[f"{i}-{row[1].value}" for i, row in enumerate(BAD)])
def test_bad_input_gets_its_reason_and_path(given_: Any, reason: Reason, path: str) -> None:
    """Each kind of fault has its code, and the path of the field at fault."""
    with refused(reason, path):
        decode(filing_decoder, given_ if isinstance(given_, (bytes, str)) else msgspec.json.encode(given_))


def test_deep_nesting_is_refused() -> None:
    """A document nested deeper than the stack is refused like any other, not a crash."""
    anything: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
    for data in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 5_000 + b"]" * 5_000):
        with refused(Reason.TOO_LARGE, "$"):
            decode(anything, data)


def test_paths_start_where_the_document_stands() -> None:
    """The path of a document inside a larger one is put in front."""
    with refused(Reason.MISSING_FIELD, "$[7].marking.tlp"):
        decode(filing_decoder, b'{"marking":{}}', "$[7]")
    with refused(Reason.UNKNOWN_FIELD, "$.reports[0].no"):
        convert({"no": 1}, Filing, "$.reports[0]")


def test_refusals_do_not_repeat_content() -> None:
    """A refusal names fields and limits; the value at fault stands nowhere in it, and what it repeats is bounded."""
    for fields in ({"status": "canary"}, {"indicators": [{"type": "md5", "value": "canary"}]}, {"geo": "canary"}):
        with pytest.raises(ProtocolError) as caught:
            decode(filing_decoder, msgspec.json.encode(_body(**fields)))
        assert "canary" not in str(caught.value)
    with pytest.raises(ProtocolError) as caught:
        decode(filing_decoder, msgspec.json.encode(_body(**{"n" * 100_000: 1})))
    assert len(str(caught.value)) < 600


def test_decoded_values_convert_with_the_same_codes() -> None:
    """Plain values are judged like bytes."""
    plain = {**msgspec.to_builtins(header()), "revision": 0}
    with refused(Reason.OUT_OF_RANGE, "$.revision"):
        convert(plain, Header)


@quick(300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    """Any bytes give a struct or a ProtocolError."""
    try:
        assert isinstance(decode(filing_decoder, data), Filing)
    except ProtocolError as exc:
        assert exc.path.startswith("$")  # noqa: PT017 - both outcomes are right


@quick(200)
@given(st.text(st.characters(exclude_categories=[]), max_size=50))
def test_arbitrary_text(text: str) -> None:
    """Any text, lone surrogates included, gives a struct or a ProtocolError."""
    try:
        assert isinstance(decode(filing_decoder, text), Filing)
    except ProtocolError as exc:
        assert exc.path.startswith("$")  # noqa: PT017 - both outcomes are right


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@quick(150)
@given(filings(), st.lists(st.sampled_from(Filing.__struct_fields__), min_size=1, max_size=2), JSON)
def test_any_json_in_any_field(filing: Filing, names: list[str], value: Any) -> None:
    """Valid filings with any JSON in place of a field give a struct or a ProtocolError, from bytes and from values."""
    plain = msgspec.json.decode(json_encode(filing)) | dict.fromkeys(names, value)
    outcomes: list[Filing | Reason] = []
    for read in (lambda: decode(filing_decoder, msgspec.json.encode(plain)), lambda: convert(plain, Filing)):
        try:
            outcomes.append(read())
        except ProtocolError as exc:
            outcomes.append(exc.reason)
    assert type(outcomes[0]) is type(outcomes[1])
