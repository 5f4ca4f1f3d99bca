"""The report profile: what is valid, what is refused, and how each field is released."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given

from protocol import limits, parts, registry, report, rules, statements
from protocol import taxonomy as tx
from protocol.parse import convert, decode
from protocol.reasons import Reason
from protocol.report import (
    ALL_UNITS,
    COARSE_UNITS,
    HEADER_UNIT,
    INDICATOR_PARTS,
    UNIT_BIT,
    UNIT_NAMES,
    UNITS,
    Body,
    CoarseBody,
    Contact,
    Filing,
    Header,
    Indicator,
    Report,
    json_encode,
    part_of,
    refang,
    unit_of,
)
from tests.protocol.make import bodies, filings, headers, quick, refused

PINNED_UNITS = [
    "report",
    "title",
    "description",
    "status",
    "determination",
    "confidence",
    "times",
    "detection_methods",
    "impacts",
    "services",
    "entity_counts",
    "victim",
    "geo",
    "attack",
    "actor",
    "malware",
    "indicators.address",
    "indicators.domain",
    "indicators.file",
    "indicators.account",
    "indicators.other",
    "vulnerabilities",
    "third_party",
    "root_cause",
    "ransomware",
    "ddos",
    "ot",
    "ai_enabled",
    "actions",
    "assistance_requested",
    "contacts",
    "financial_loss",
    "attachments",
    "related",
    "references",
    "source",
    "attachments.content",
]
"""Ledgers and policies hold these bits. Only ever append to this list."""

LEAST: Mapping[str, Any] = {"marking": {"tlp": "AMBER"}, "rsit": [{"class": "fraud", "type": "phishing"}]}

filing_decoder = msgspec.json.Decoder(Filing)
header_decoder = msgspec.json.Decoder(Header)


def file(**given: Any) -> Filing:
    """Post a filing as JSON."""
    return decode(filing_decoder, msgspec.json.encode({**LEAST, **given}))


def test_every_body_field_has_a_unit() -> None:
    """No body field can be forgotten by the policies: each declares how it is released."""
    assert list(UNITS) == list(Body.__struct_fields__)
    covered = {name.partition(".")[0] for name in UNIT_NAMES} - {HEADER_UNIT}
    assert covered == set(Body.__struct_fields__)


def test_unit_bits_never_move() -> None:
    """The bit of a unit is written in ledgers: the table only grows at its end."""
    assert list(UNIT_NAMES[: len(PINNED_UNITS)]) == PINNED_UNITS
    assert [UNIT_BIT[name] for name in PINNED_UNITS] == list(range(len(PINNED_UNITS)))
    assert (1 << len(UNIT_NAMES)) - 1 == ALL_UNITS


def test_units_that_have_a_coarse_value() -> None:
    """Exactly these units can travel coarse."""
    coarse = {name for name, bit in UNIT_BIT.items() if COARSE_UNITS >> bit & 1}
    narrative = {"title", "description"}
    assert coarse == narrative | {"times", "entity_counts", "victim", "geo", "indicators.address", "contacts"}
    assert {f"{name}_coarse" for name in coarse if not unit_of(name).each} == set(CoarseBody.__struct_fields__)


@pytest.mark.parametrize("kind", get_args(tx.IndicatorType))
def test_every_indicator_type_belongs_to_a_unit(kind: str) -> None:
    """Each type of indicator is released with one of the parts that a policy can name."""
    assert part_of("indicators", {"type": kind}) in {f"indicators.{part}" for part in INDICATOR_PARTS}


@pytest.mark.parametrize("element", [{}, {"type": "new-kind"}, {"type": 5}, {"type": ["md5"]}])
def test_unknown_indicator_types_belong_to_no_unit(element: dict[str, Any]) -> None:
    """What this version cannot place has no bit, so that nothing can grant it."""
    assert part_of("indicators", element) not in UNIT_BIT


@pytest.mark.parametrize(("class_", "type_"), [(c, t) for c, types in tx.RSIT.items() for t in sorted(types)])
def test_rsit_pairs_are_accepted(class_: str, type_: str) -> None:
    """Every class and type of the reference taxonomy is accepted together."""
    assert file(rsit=[{"class": class_, "type": type_}]).rsit[0].type == type_


def test_rsit_classes_have_types() -> None:
    """The closed list of classes and the table of types name the same classes."""
    assert set(get_args(tx.RsitClass)) == set(tx.RSIT)


def test_rsit_type_of_another_class_is_refused() -> None:
    """A type is only valid under its own class."""
    with refused(Reason.UNKNOWN_RSIT_TYPE, "$.rsit[1]"):
        file(rsit=[{"class": "fraud"}, {"class": "fraud", "type": "ddos"}])


@pytest.mark.parametrize("recipients", [None, []])
def test_red_needs_recipients(recipients: list[str] | None) -> None:
    """TLP:RED without named recipients is refused where it is filed."""
    marking: dict[str, Any] = {"tlp": "RED"} | ({} if recipients is None else {"recipients": recipients})
    with refused(Reason.RECIPIENTS_REQUIRED, "$.marking"):
        file(marking=marking)
    assert file(marking={"tlp": "RED", "recipients": ["sg"]}).marking.recipients == ["sg"]


@pytest.mark.parametrize("value", ["2026-01-01T00:00:00", "2026-01-01", "2026-02-30T00:00:00Z", "yesterday"])
def test_times_need_a_zone(value: str) -> None:
    """A time without a zone, or that is none, is refused with its path."""
    with refused(Reason.INVALID_VALUE, "$.body.times.detected.value"):
        file(body={"times": {"detected": {"value": value}}})


@pytest.mark.parametrize(
    ("given_", "path"),
    [
        ({"extra": 1}, "$.extra"),
        ({"marking": {"tlp": "RED", "recipients": ["sg"], "colour": "red"}}, "$.marking.colour"),
        ({"body": {"weather": "fine"}}, "$.body.weather"),
        (
            {"body": {"indicators": [{"type": "other", "value": "x"}, {"type": "other", "value": "x", "y": 1}]}},
            "$.body.indicators[1].y",
        ),
        ({"body": {"victim_coarse": {}}}, "$.body.victim_coarse"),
        ({"origin": {"jurisdiction": "id", "member": "id-cert"}}, "$.origin"),
    ],
)
def test_unknown_fields_are_refused(given_: dict[str, Any], path: str) -> None:
    """A field that the profile does not have is refused with its path; nobody files a coarse value or an origin."""
    with refused(Reason.UNKNOWN_FIELD, path):
        file(**given_)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("ipv4-addr", "203.0.113.256"),
        ("ipv4-addr", "2001:db8::1"),
        ("ipv4-addr", "evil.example"),
        ("ipv4-addr", "203.0.113.0/24"),
        ("ipv6-addr", "203.0.113.1"),
        ("ipv6-addr", "fe80::1%victim-host"),
        ("ipv6-net", "fe80::%victim-host/64"),
        ("ipv4-net", "203.0.113.0/33"),
        ("ipv6-net", "2001:db8::/129"),
        ("md5", "0" * 31),
        ("sha1", "g" * 40),
        ("sha256", "0" * 63 + "\n"),
        ("sha256", "0" * 64 + "\u0660"),
        ("sha512", "0" * 64),
        ("x509-sha256", "xyz"),
    ],
)
def test_indicator_values_are_of_their_type(kind: str, value: str) -> None:
    """A value that is not of its type is refused: it could not be made coarse, and would slip out as what it is not."""
    with refused(Reason.INVALID_VALUE, "$.body.indicators[0]"):
        file(body={"indicators": [{"type": kind, "value": value}]})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("ipv4-addr", "203[.]0[.]113[.]9"),
        ("ipv6-addr", "2001[:]db8::1"),
        ("ipv4-net", "203.0.113.9/24"),
        ("sha256", "A" * 64),
        ("other", "anything \u0000 at all"),
    ],
)
def test_indicator_values_may_be_defanged(kind: str, value: str) -> None:
    """Defanged addresses are addresses, and the value stays as it was filed."""
    found = file(body={"indicators": [{"type": kind, "value": value}]}).body.indicators
    assert found == [Indicator(type=kind, value=value)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("defanged", "plain"),
    [
        ("hxxps://evil[.]example/a", "https://evil.example/a"),
        ("HXXP://evil(dot)example", "http://evil.example"),
        ("who[at]evil[dot]example", "who@evil.example"),
        (" 2001[:]db8::1 ", "2001:db8::1"),
        ("a(b).c", "a(b).c"),
    ],
)
def test_refang(defanged: str, plain: str) -> None:
    """The usual ways of making an indicator unclickable are undone, nothing else is."""
    assert refang(defanged) == plain


@pytest.mark.parametrize(
    "element",
    [
        {"type": "ipv4-addr", "value": "203.0.113.9"},
        {"type": "ipv4-net", "value": "203.0.113.9/32"},
        {"type": "ipv4-net", "value": "203.0.113.9/24"},
        {"type": "ipv4-net", "value": "203.0.113.0/24", "context": "the ministry's mail server"},
        {"type": "ipv4-net", "value": "203.0.113.0/24", "first_seen": "2026-01-01T00:00:00Z"},
        {"type": "ipv6-net", "value": "2001:db8::/64"},
        {"type": "domain-name", "value": "evil.example"},
    ],
)
def test_a_coarse_indicator_says_little(element: dict[str, Any]) -> None:
    """What calls itself coarse is released as coarse, so an exact value may not call itself that."""
    with refused(Reason.INVALID_VALUE, "$.body.indicators[0]"):
        file(body={"indicators": [{**element, "level": "coarse"}]})


@pytest.mark.parametrize("beside", ["name", "email", "phone", "hours"])
def test_a_coarse_contact_says_little(beside: str) -> None:
    """A contact that calls itself coarse has its role and nothing else."""
    with refused(Reason.INVALID_VALUE, "$.body.contacts[0]"):
        file(body={"contacts": [{"role": "CISO", "level": "coarse", beside: "someone"}]})
    with pytest.raises(ValueError, match="coarse contact"):
        Contact(role="CISO", level="coarse", name="someone")


@pytest.mark.parametrize(
    "given_",
    [
        {"marking": {"tlp": "AMBER", "recipients": ["sg\n"]}},
        {"body": {"attack": [{"technique": "T1486\n"}]}},
        {"body": {"attachments": [{"sha256": "a" * 64 + "\n", "size": 1, "media_type": "x/y"}]}},
        {"body": {"vulnerabilities": [{"id": "CVE-2026-0001\n"}]}},
        {"body": {"financial_loss": {"category": "monetary", "currency": "IDR\n"}}},
    ],
)
def test_a_newline_never_passes_a_pattern(given_: dict[str, Any]) -> None:
    """Identifiers end where they end: no line break at the end of one slips into a log or a file."""
    with refused(Reason.INVALID_VALUE):
        file(**given_)


def _patterns(hint: Any) -> Iterator[str]:
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.pattern:
            yield meta.pattern
    for part in [getattr(hint, "__origin__", None), *get_args(hint)]:
        if part is not None and part is not hint:
            yield from _patterns(part)


def test_no_pattern_lets_a_newline_through() -> None:
    """Every pattern that the wire's structs use refuses a line break at the end."""
    patterns = {
        pattern
        for module in (parts, report, rules, registry, statements)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        for hint in get_type_hints(kind, include_extras=True).values()
        for pattern in _patterns(hint)
    }
    assert len(patterns) > 8
    assert [pattern for pattern in patterns if not pattern.endswith(r"$(?!\n)")] == []


def test_a_header_has_the_schema() -> None:
    """A header of another schema version is refused."""
    plain = {**LEAST, "schema": "kentongan-report/2"}
    with refused(Reason.UNKNOWN_VALUE, "$.schema"):
        convert(plain, Header)


@quick(150)
@given(filings())
def test_filings_round_trip(filing: Filing) -> None:
    """Any valid filing is the same after encoding and decoding."""
    assert decode(filing_decoder, json_encode(filing)) == filing


@quick(100)
@given(headers())
def test_headers_round_trip(header: Header) -> None:
    """Any valid header is the same after encoding and decoding, and encodes to the same bytes again."""
    data = json_encode(header)
    assert decode(header_decoder, data) == header
    assert json_encode(decode(header_decoder, data)) == data


@quick(150)
@given(bodies())
def test_bodies_round_trip(body: Body) -> None:
    """Any valid body is the same after going through plain values, as signing does."""
    assert convert(msgspec.to_builtins(body), Body) == body


def test_reports_are_frozen() -> None:
    """A report cannot be changed after it was checked."""
    filing = file()
    with pytest.raises(AttributeError):
        filing.phase = "final"  # type: ignore[misc]
    assert Report.__struct_config__.frozen


def attached(content: bytes, /, **given: Any) -> dict[str, Any]:
    """An attachment as JSON."""
    fields = {"sha256": sha256(content).hexdigest(), "size": len(content), "media_type": "message/rfc822"}
    return {**fields, "content": b64encode(content).decode(), **given}


def test_a_file_travels_within_its_report() -> None:
    """Up to its limit, with the hash and size that it has; with its content it is another unit than without."""
    for content in (b"", b"Subject: hello\r\n", b"x" * limits.ATTACHMENT):
        whole = attached(content)
        assert msgspec.to_builtins(file(body={"attachments": [whole]}).body)["attachments"] == [whole]
    assert part_of("attachments", attached(b"")) == "attachments.content"
    assert part_of("attachments", {"sha256": "a" * 64}) == "attachments"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (attached(b"a", size=2), Reason.INVALID_VALUE),
        (attached(b"a", sha256="a" * 64), Reason.INVALID_VALUE),
        (attached(b"a", content="YQ"), Reason.INVALID_VALUE),
        (attached(b"a", content="YQ==\n"), Reason.INVALID_VALUE),
        (attached(b"a", content="\u00e9"), Reason.INVALID_VALUE),
        (attached(b"a", media_type="text"), Reason.INVALID_VALUE),
        (attached(b"a", media_type="text/html\n"), Reason.INVALID_VALUE),
        (attached(b"a", media_type="unheard/of"), Reason.INVALID_VALUE),
        (attached(b"x" * (limits.ATTACHMENT + 1)), Reason.TOO_LARGE),
        (attached(b"x" * (limits.ATTACHMENT + 9)), Reason.OUT_OF_RANGE),
    ],
)
def test_a_file_that_is_not_what_it_says(wrong: dict[str, Any], reason: Reason) -> None:
    """Is refused."""
    with refused(reason):
        file(body={"attachments": [wrong]})


SOURCE: Mapping[str, Any] = {"format": "stix", "media_type": "application/stix+json;version=2.1"}


@pytest.mark.parametrize(
    ("unmapped", "reason"),
    [
        ({"$.a": "{"}, Reason.INVALID_VALUE),
        ({"$.a": ""}, Reason.OUT_OF_RANGE),
        ({"": "1"}, Reason.OUT_OF_RANGE),
        ({"$.a": f'"{"x" * limits.UNMAPPED}"'}, Reason.TOO_LARGE),
        ({f"$.{n}": f'"{"x" * 1_000}"' for n in range(70)}, Reason.TOO_LARGE),
        ({"$.a": f'"{chr(233) * 40_000}"'}, Reason.TOO_LARGE),
    ],
)
def test_a_source_that_is_too_much(unmapped: dict[str, str], reason: Reason) -> None:
    """Values are JSON, and all of them together have a limit in bytes."""
    kept = {**SOURCE, "sha256": "b" * 64, "size": 1, "unmapped": {"$.x": '{"a":[1]}'}}
    assert msgspec.to_builtins(file(body={"source": kept}).body)["source"] == kept
    with refused(reason):
        file(body={"source": {**kept, "unmapped": unmapped}})
