"""The signed envelope: what verifies, what is released, and that nothing else ever does."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwcrypto.jwk import JWK
from sd_jwt.verifier import SDJWTVerifier

from protocol import limits
from protocol.coarse import coarse_body, coarse_elements
from protocol.envelope import (
    TYP,
    Envelope,
    RefusedReport,
    SignedReport,
    disclosure_digest,
    jws_digest,
    leave,
    parse_envelope,
    present,
    release,
)
from protocol.errors import ProtocolError
from protocol.issuing import issue
from protocol.jws import sign_jws
from protocol.keys import KeyRing, b64, unb64
from protocol.reasons import Reason
from protocol.report import ALL_UNITS, COARSE_UNITS, UNIT_BIT, UNIT_NAMES, Body, CoarseBody, Report
from tests.protocol.make import (
    DAY,
    FULL,
    NOW,
    RING,
    Rand,
    body_from,
    disclose,
    forge,
    forge_report,
    header,
    key_of,
    opened,
    quick,
    refused,
    report,
    reports,
    ring,
    signed,
    texts_of,
    whole,
)

TICK = timedelta(microseconds=1)
masks = st.integers(0, ALL_UNITS)


def bit(*names: str) -> int:
    """The mask of these units."""
    return sum(1 << UNIT_BIT[name] for name in names)


def only(envelope: Envelope) -> SignedReport:
    """The one report of an envelope, which must be sound."""
    (found,) = envelope.reports
    assert isinstance(found, SignedReport), found
    return found


def restricted(envelope: Envelope, exact: int, coarse: int) -> str:
    """A copy with what a grant lets through of every report."""
    return present(envelope.jws, [release(r, exact, coarse) for r in envelope.reports if isinstance(r, SignedReport)])


def independent(text: str) -> Any:
    """The claims as another implementation verifies and reads them."""
    jwk = JWK(kty="OKP", crv="Ed25519", x=b64(key_of("id-cert").public))
    return SDJWTVerifier(text, lambda _issuer, _header: jwk).get_verified_payload()


def claims(envelope: Envelope) -> list[Any]:
    """The claims of the reports as this implementation reads them."""
    return [
        json.loads(msgspec.json.encode({**msgspec.to_builtins(item.header), **item.body}))
        for item in envelope.reports
        if isinstance(item, SignedReport)
    ]


def decoded(texts: Iterable[str]) -> list[list[Any]]:
    """Disclosures in clear."""
    return [json.loads(unb64(text)) for text in texts]


def parts(text: str) -> tuple[str, list[str]]:
    """The JWS and the disclosures of an envelope."""
    jws, *disclosures, end = text.split("~")
    assert end == ""
    return jws, disclosures


def with_header(text: str, change: Callable[[dict[str, Any]], dict[str, Any]], *, owner: str = "id-cert") -> str:
    """An envelope under another JOSE header, signed again by the same key."""
    jws, disclosures = parts(text)
    first, payload, _ = jws.split(".")
    head = b64(json.dumps(change(json.loads(unb64(first)))).encode())
    signature = key_of(owner).sign(f"{head}.{payload}".encode())
    return "~".join([f"{head}.{payload}.{b64(signature)}", *disclosures, ""])


# --- other implementations --------------------------------------------------------------------------------------


def test_disclosure_digest_vector() -> None:
    """The digest is the one of RFC 9901: over the base64url text as it stands, spaces inside its JSON included."""
    text = "WyJfMjZiYzRMVC1hYzZxMktJNmNCVzVlcyIsICJmYW1pbHlfbmFtZSIsICJNw7ZiaXVzIl0"
    assert json.loads(unb64(text)) == ["_26bc4LT-ac6q2KI6cBW5es", "family_name", "M\u00f6bius"]
    assert disclosure_digest(text) == "X9yH0Ajrdm1Oij4tWso9UzzKJvPoDxwmuEcO3XAdRC0"


def test_another_implementation_reads_the_same() -> None:
    """The library `sd-jwt` verifies a whole envelope and reads the same claims."""
    text = whole(signed(report(1, body_from(FULL)), report(2), report(3)))
    found = independent(text)
    assert (found["iss"], found["iat"]) == ("id-cert", int(NOW.timestamp()))
    assert found["reports"] == claims(opened(text))
    assert len(found["reports"]) == 3


@quick(40)
@given(st.lists(reports(), min_size=1, max_size=3), masks, masks)
def test_another_implementation_reads_restricted_copies(given_: list[Report], exact: int, coarse: int) -> None:
    """Any restricted copy of any reports verifies with `sd-jwt` and reads the same there."""
    envelope = signed(*given_)
    for text in (whole(envelope), restricted(envelope, exact, coarse)):
        again = opened(text)
        assert independent(text)["reports"] == claims(again)
        assert len(claims(again)) == len(given_)


@quick(40)
@given(reports())
def test_opening_gives_what_issuing_gave(given_: Report) -> None:
    """The signer's own view of its report is the one that a reader gets: header, body, digest and pieces."""
    made = only(signed(given_))
    read = only(opened(whole(signed(given_))))
    assert (read.digest, read.header, read.units()) == (made.digest, made.header, made.units())
    assert set(texts_of(read)) == set(texts_of(made))
    assert json.loads(msgspec.json.encode(made.body)) == read.body


@quick(40)
@given(reports())
def test_what_is_read_is_what_was_signed(given_: Report) -> None:
    """A whole envelope opens to the report that was signed, coarse values beside it."""
    found = only(opened(whole(signed(given_))))
    assert found.header == given_.header
    exact = {name: value for name, value in found.body.items() if name in Body.__struct_fields__}
    own = json.loads(msgspec.json.encode(given_.body))
    for name, elements in msgspec.to_builtins(coarse_elements(given_.body)).items():
        own[name] = [*own[name], *elements]
    assert exact == own
    wide = {name: value for name, value in found.body.items() if name in CoarseBody.__struct_fields__}
    assert wide == json.loads(msgspec.json.encode(coarse_body(given_.body)))
    assert found.undisclosed == 0


# --- releasing less ---------------------------------------------------------------------------------------------

ENVELOPE = signed()
WHOLE = whole(ENVELOPE)
ONE = only(opened(WHOLE))


@quick(150)
@given(masks, masks)
def test_a_restricted_copy_holds_the_granted_units_only(exact: int, coarse: int) -> None:
    """A restricted copy verifies, and what it discloses is what the masks grant: no more, no less."""
    found = only(opened(restricted(ENVELOPE, exact, coarse)))
    held_exact, held_coarse = ONE.units()
    assert found.units() == (exact & held_exact, coarse & ~exact & held_coarse & COARSE_UNITS)
    assert found.header == ONE.header
    assert found.digest == ONE.digest


@quick(150)
@given(masks, masks)
def test_nothing_ungranted_is_in_a_restricted_copy(exact: int, coarse: int) -> None:
    """Decoded to the last disclosure, a restricted copy holds no trace of a withheld unit: no text, no field name."""
    jws, texts = parts(restricted(ENVELOPE, exact, coarse))
    clear = decoded([jws.split(".")[1], *texts])
    everything = json.dumps(clear, ensure_ascii=False)
    names = {values[1] for values in clear if isinstance(values, list) and len(values) == 3}
    for name in UNIT_NAMES[1:]:
        field = name.partition(".")[0]
        if exact >> UNIT_BIT[name] & 1:
            assert field in names
            continue
        assert not re.search(rf"canary-{re.escape(name)}(?!\.content)", everything)
        if field not in ("indicators", "contacts", "attachments"):
            assert field not in names
        if not coarse >> UNIT_BIT[name] & 1:
            assert f"{field}_coarse" not in names
    if not exact & bit("indicators.address"):
        assert "203.0.113.77" not in everything
        assert ("203.0.113.0/24" in everything) == bool(coarse & bit("indicators.address"))
    if not exact & bit("entity_counts"):
        assert "4711" not in everything
    if not exact & bit("times"):
        assert "04:05:06" not in everything
    withheld = set(texts_of(ONE)) - set(texts)
    assert not any(text in "~".join([jws, *texts]) for text in withheld)


def test_nothing_granted_is_the_header_alone() -> None:
    """With empty masks only the header travels, and it verifies."""
    _, texts = parts(restricted(ENVELOPE, 0, 0))
    assert texts == [ONE.header_text]
    assert only(opened(restricted(ENVELOPE, 0, 0))).body == {}


def test_coarse_travels_only_where_exact_does_not() -> None:
    """With both granted the exact value travels alone; with coarse granted alone, the coarse one does."""
    both = only(opened(restricted(ENVELOPE, ALL_UNITS, COARSE_UNITS)))
    assert both.units() == (ONE.units()[0], 0)
    assert not set(both.body) & set(CoarseBody.__struct_fields__)
    coarse = only(opened(restricted(ENVELOPE, 0, COARSE_UNITS)))
    assert coarse.units() == (0, COARSE_UNITS)
    assert coarse.body == {
        "title_coarse": "Word from [e-mail]",
        "description_coarse": "[e-mail] asks for help.",
        "times_coarse": {"detected": {"value": "2026-02-03T00:00:00Z", "fidelity": "day"}},
        "entity_counts_coarse": {"people": "1000-9999"},
        "victim_coarse": {"sector": "finance.banking"},
        "geo_coarse": {"country": "id"},
        "indicators": [{"type": "ipv4-net", "value": "203.0.113.0/24", "level": "coarse"}],
        "contacts": [{"role": "duty officer", "level": "coarse"}],
    }


def test_coarse_travels_where_the_origin_kept_the_exact_value() -> None:
    """A copy that came without the exact value still releases the coarse one, even to whom the exact were granted."""
    sent = opened(restricted(ENVELOPE, ALL_UNITS & ~bit("victim"), COARSE_UNITS))
    found = only(opened(restricted(sent, ALL_UNITS, COARSE_UNITS)))
    assert found.body["victim_coarse"] == {"sector": "finance.banking"}
    assert "victim" not in found.body


@quick(100)
@given(masks, masks)
def test_what_leaves_an_origin_holds_both_levels(exact: int, coarse: int) -> None:
    """An origin lets out what the masks allow, coarse beside exact, and nothing else: the broker picks later."""
    texts = leave(ONE, exact, coarse)
    found = only(opened(present(ENVELOPE.jws, [texts])))
    held_exact, held_coarse = ONE.units()
    assert found.units() == (exact & held_exact, coarse & held_coarse)
    assert set(release(ONE, exact, coarse)) <= set(texts)


@quick(40)
@given(masks, masks, masks, masks)
def test_restricting_twice_is_restricting_to_both(first: int, wide: int, second: int, wider: int) -> None:
    """A copy of a copy holds no more than either grant, and still verifies with the origin's signature."""
    once = opened(restricted(ENVELOPE, first, wide))
    twice = only(opened(restricted(once, second, wider)))
    assert twice.units()[0] == first & second & ONE.units()[0]
    assert set(texts_of(twice)) <= set(texts_of(only(once)))


@pytest.mark.parametrize("item", range(len(ONE.disclosures)))
def test_a_single_piece_verifies_alone(item: int) -> None:
    """Any one field or list element verifies with nothing but the header and its list beside it."""
    piece = ONE.disclosures[item]
    texts = [ONE.header_text, piece.text]
    if piece.container >= 0:
        texts.append(ONE.containers[piece.container])
    found = only(opened(present(ENVELOPE.jws, [texts])))
    assert [d.text for d in found.disclosures] == [piece.text]
    value = decoded([piece.text])[0][-1]
    assert list(found.body.values()) == [[value] if piece.container >= 0 else value]


@quick(30)
@given(st.lists(st.booleans(), min_size=5, max_size=5).filter(any), st.randoms(use_true_random=False))
def test_any_subset_of_reports_verifies(chosen: list[bool], random: Any) -> None:
    """Any of the reports under one signature verify without the others, in any order of disclosures."""
    envelope = signed(*(report(n) for n in range(1, 6)))
    kept = [item for item, keep in zip(envelope.reports, chosen, strict=True) if keep]
    texts = [text for item in kept for text in texts_of(item)]
    random.shuffle(texts)
    found = opened(present(envelope.jws, [texts]))
    assert {item.digest for item in found.reports} == {item.digest for item in kept}
    assert found.digest == envelope.digest == jws_digest(envelope.jws)


def test_an_unknown_field_stays_signed_and_is_never_released() -> None:
    """A field of a later version verifies and has no unit: no mask releases it, and this version does not read it."""
    extra = disclose("hologram", {"canary": "canary"})
    odd = [disclose(name, {}) for name in ("services_coarse", "indicators_coarse", "_coarse", "times_coarse_coarse")]
    top, texts = forge_report({"title": "known"}, extra, *odd)
    envelope = opened(forge([top], texts))
    found = only(envelope)
    assert [d.bit for d in found.disclosures] == [UNIT_BIT["title"], -1, -1, -1, -1, -1]
    assert found.body == {"title": "known"}
    assert release(found, -1, -1) == leave(found, -1, -1) == [top, texts[1]]
    assert found.units() == (bit("title"), 0)


def test_an_unknown_field_may_be_as_deep_as_it_likes() -> None:
    """What is not read cannot hurt whoever encodes the body again."""
    deep = b64(b'["salt","hologram",' + b"[" * 900 + b"]" * 900 + b"]")
    top, texts = forge_report({"title": "known"}, deep)
    assert msgspec.json.encode(only(opened(forge([top], texts))).body) == b'{"title":"known"}'


# --- tampering --------------------------------------------------------------------------------------------------


def test_a_changed_disclosure_never_verifies() -> None:
    """Another value under the same name and salt is not signed."""
    jws, texts = parts(WHOLE)
    for at, text in enumerate(texts):
        values = decoded([text])[0]
        changed = b64(json.dumps([values[0], *values[1:-1], "changed"]).encode())
        with refused(Reason.DISCLOSURE_UNREFERENCED):
            opened("~".join([jws, *texts[:at], changed, *texts[at + 1 :], ""]))


def test_a_disclosure_encoded_again_never_verifies() -> None:
    """The same JSON in another spelling is another disclosure."""
    jws, texts = parts(WHOLE)
    spaced = b64(json.dumps(decoded([texts[-1]])[0], indent=1).encode())
    with refused(Reason.DISCLOSURE_UNREFERENCED):
        opened("~".join([jws, *texts[:-1], spaced, ""]))


@pytest.mark.parametrize("extra", [disclose("title", "added"), disclose({"type": "other", "value": "x"}), "AAAA", ""])
def test_an_added_disclosure_never_verifies(extra: str) -> None:
    """A disclosure that nothing signed refers to refuses the whole envelope."""
    with refused(Reason.DISCLOSURE_UNREFERENCED):
        opened(WHOLE + extra + "~")


def test_a_repeated_disclosure_never_verifies() -> None:
    """Each disclosure may be there once."""
    jws, texts = parts(WHOLE)
    for text in texts:
        with refused(Reason.DISCLOSURE_DUPLICATE):
            opened("~".join([jws, *texts, text, ""]))


def test_a_disclosure_without_its_parent_never_verifies() -> None:
    """A field without its header, or an element without its list, is not referred to by anything disclosed."""
    jws, texts = parts(whole(signed(report(1, body_from(FULL)), report(2))))
    element = next(d for d in ONE.disclosures if d.container >= 0)
    with refused(Reason.DISCLOSURE_UNREFERENCED):
        opened(present(ENVELOPE.jws, [[ONE.header_text, element.text]]))
    headers = [text for text in texts if isinstance(decoded([text])[0][1], dict) and "_sd" in decoded([text])[0][1]]
    assert len(headers) == 2
    for top in headers:
        with refused(Reason.DISCLOSURE_UNREFERENCED):
            opened("~".join([jws, *(text for text in texts if text != top), ""]))


def test_disclosures_never_pass_to_another_report() -> None:
    """A field of one report verifies neither under another header of its envelope nor in another envelope."""
    two = signed(report(1), report(2))
    first, second = (texts_of(item) for item in two.reports)
    other = texts_of(signed(report(3), seed="other").reports[0])
    for mixed in ([first[0], *second[1:]], [first[0], *other[1:]], other):
        with refused(Reason.DISCLOSURE_UNREFERENCED):
            opened(present(two.jws, [mixed]))


def test_a_signature_never_passes_to_another_payload() -> None:
    """The signature of one envelope does not hold for the payload of another."""
    other = signed(report(9), seed="other")
    head, payload, _ = other.jws.split(".")
    mixed = ".".join([head, payload, ENVELOPE.jws.split(".")[2]])
    with refused(Reason.SIGNATURE_INVALID):
        opened(present(mixed, [texts_of(other.reports[0])]))


SMALL = whole(signed(report(1, Body(title="small", services=["one"]))))


@quick(400)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_verifies(at: int, flip: int) -> None:
    """Any change of any one byte is refused as a ProtocolError, and as nothing else."""
    data = bytearray(SMALL.encode())
    data[at] ^= flip
    with pytest.raises(ProtocolError):
        opened(bytes(data))  # type: ignore[arg-type]


@quick(200)
@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: f"{text}~") | st.text("Aa0.~-_", max_size=60))
def test_arbitrary_input_is_refused(data: Any) -> None:
    """No bytes and no text do anything but raise ProtocolError."""
    with pytest.raises(ProtocolError):
        opened(data)


def _with(made: tuple[str, list[str]], element: str) -> tuple[str, list[str]]:
    return made[0], [*made[1], element]


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["_sd", "...", "type", "level", "schema"]), inner),
    max_leaves=6,
)


@quick(100)
@given(st.integers(0, 3), JSON)
def test_arbitrary_signed_content_is_refused(where: int, value: Any) -> None:
    """Even a member who signs nonsense, at any depth, gets a ProtocolError or its report refused."""
    text = b64(msgspec.json.encode(value))
    element = disclose(value)
    field = disclose("title", value)
    many = disclose("indicators", [{"...": disclosure_digest(element)}])
    for top, texts in (
        (text, [text]),
        (element, [element]),
        forge_report({}, field),
        _with(forge_report({}, many), element),
        forge_report({}, disclose("indicators", value)),
        forge_report({}, text),
        forge_report({}, **{["origin", "rsit", "_sd", "..."][where]: value}),
    ):
        try:
            found = opened(forge([top], texts))
        except ProtocolError:
            continue
        assert len(found.reports) == 1


# --- JOSE header, keys, clock -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason", "path"),
    [
        ({"alg": "none"}, Reason.ALGORITHM_NOT_ALLOWED, "$.protected.alg"),
        ({"alg": "None"}, Reason.ALGORITHM_NOT_ALLOWED, "$.protected.alg"),
        ({"alg": "EdDSA"}, Reason.ALGORITHM_NOT_ALLOWED, "$.protected.alg"),
        ({"alg": "HS256"}, Reason.ALGORITHM_NOT_ALLOWED, "$.protected.alg"),
        ({"alg": "ES256"}, Reason.ALGORITHM_NOT_ALLOWED, "$.protected.alg"),
        ({"alg": 5}, Reason.WRONG_TYPE, "$.protected.alg"),
        ({"crit": ["exp"]}, Reason.UNKNOWN_FIELD, "$.protected.crit"),
        ({"jwk": {"kty": "OKP"}}, Reason.UNKNOWN_FIELD, "$.protected.jwk"),
        ({"jku": "https://evil.example"}, Reason.UNKNOWN_FIELD, "$.protected.jku"),
        ({"x5c": []}, Reason.UNKNOWN_FIELD, "$.protected.x5c"),
        ({"b64": False}, Reason.UNKNOWN_FIELD, "$.protected.b64"),
        ({"typ": "kentongan-receipt+jwt"}, Reason.MALFORMED_ENVELOPE, "$.protected.typ"),
        ({"typ": TYP.upper()}, Reason.MALFORMED_ENVELOPE, "$.protected.typ"),
        ({"kid": "A" * 22}, Reason.UNKNOWN_KEY, "$.kid"),
        ({"kid": ""}, Reason.UNKNOWN_KEY, "$.kid"),
    ],
)
def test_jose_headers(change: dict[str, Any], reason: Reason, path: str) -> None:
    """The header holds the three fields with the values that this protocol knows, or the envelope is refused."""
    with refused(reason, path):
        opened(with_header(WHOLE, lambda head: head | change))


@pytest.mark.parametrize("missing", ["alg", "kid", "typ"])
def test_jose_headers_are_complete(missing: str) -> None:
    """None of the three header fields may be left out."""
    with refused(Reason.MISSING_FIELD, f"$.protected.{missing}"):
        opened(with_header(WHOLE, lambda head: {name: value for name, value in head.items() if name != missing}))


@pytest.mark.parametrize("signature", ["", "AAAA", b64(bytes(64)), b64(bytes(65))])
def test_a_wrong_signature(signature: str) -> None:
    """A signature of any length that the key did not make is refused."""
    head, payload, _ = ENVELOPE.jws.split(".")
    with refused(Reason.SIGNATURE_INVALID):
        opened(present(f"{head}.{payload}.{signature}", [texts_of(ENVELOPE.reports[0])]))


def test_the_key_of_another_member() -> None:
    """A member cannot sign in the name of another: not under its own key id, nor under the other's."""
    top, texts = forge_report({"title": "x"})
    with refused(Reason.WRONG_MEMBER, "$.iss"):
        opened(forge([top], texts, owner="sg-cert", iss="id-cert"))
    with refused(Reason.SIGNATURE_INVALID):
        opened(with_header(WHOLE, lambda head: head, owner="sg-cert"))


def test_the_origin_is_the_signer() -> None:
    """A report whose origin is not its signer is refused, though its signer's envelope is sound."""
    (found,) = opened(whole(signed(issuer="sg-cert"))).reports
    assert isinstance(found, RefusedReport)
    assert (found.error.reason, found.error.path) == (Reason.WRONG_MEMBER, "$.origin.member")


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (NOW - TICK, Reason.KEY_NOT_VALID),
        (NOW, None),
        (NOW + DAY - TICK, None),
        (NOW + DAY, Reason.KEY_NOT_VALID),
    ],
)
def test_the_key_window(at: datetime, reason: Reason | None) -> None:
    """An envelope is judged by the key's window at the time when it was received, edges included."""
    keys = ring("id-cert", not_before=NOW, not_after=NOW + DAY)
    if reason is None:
        assert opened(WHOLE, at, keys).kid == key_of("id-cert").kid
    else:
        with refused(reason):
            opened(WHOLE, at, keys)


def test_a_revoked_key() -> None:
    """From the instant of its revocation a key signs nothing any more; what was received before still verifies."""
    keys = ring("id-cert", revoked_at=NOW)
    with refused(Reason.KEY_REVOKED):
        opened(WHOLE, NOW, keys)
    assert only(opened(WHOLE, NOW - TICK, keys)).digest == ONE.digest


def test_an_unknown_key() -> None:
    """A signature by a key that no member has is refused."""
    with refused(Reason.UNKNOWN_KEY):
        opened(WHOLE, NOW, KeyRing([]))


def test_the_clock() -> None:
    """A signature from further ahead than the allowed skew is refused; from exactly as far it is not."""
    edge = NOW + limits.CLOCK_SKEW
    assert opened(whole(signed(at=edge))).issued_at == edge
    with refused(Reason.TIME_IN_FUTURE, "$.iat"):
        opened(whole(signed(at=edge + timedelta(seconds=1))))


@pytest.mark.parametrize("iat", [10**17, -(10**17), 10**30, -(10**30)])
def test_an_impossible_time(iat: int) -> None:
    """A time that no calendar has is refused."""
    top, texts = forge_report({})
    with refused(Reason.OUT_OF_RANGE, "$.iat"):
        opened(forge([top], texts, iat=iat))


# --- shape ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims_", "reason", "path"),
    [
        ({"iat": "1"}, Reason.WRONG_TYPE, "$.iat"),
        ({"iat": 1.5}, Reason.WRONG_TYPE, "$.iat"),
        ({"_sd_alg": "sha-512"}, Reason.ALGORITHM_NOT_ALLOWED, "$._sd_alg"),
        ({"_sd_alg": "SHA-256"}, Reason.ALGORITHM_NOT_ALLOWED, "$._sd_alg"),
        ({"_sd": []}, Reason.UNKNOWN_FIELD, "$._sd"),
        ({"cnf": {}}, Reason.UNKNOWN_FIELD, "$.cnf"),
        ({"reports": []}, Reason.TOO_MANY, "$.reports"),
        ({"reports": "x"}, Reason.WRONG_TYPE, "$.reports"),
        ({"reports": [{}]}, Reason.DISCLOSURE_MALFORMED, "$"),
        ({"reports": [{"..": "x"}]}, Reason.DISCLOSURE_MALFORMED, "$"),
        ({"reports": [{"...": "x", "y": "z"}]}, Reason.DISCLOSURE_MALFORMED, "$"),
    ],
)
def test_payloads(claims_: dict[str, Any], reason: Reason, path: str) -> None:
    """The payload holds what this protocol knows, or the envelope is refused."""
    top, texts = forge_report({})
    with refused(reason, path):
        opened(forge([top], texts, **claims_))


def test_too_many_reports() -> None:
    """An envelope of 64 reports is the largest; 65 are neither signed nor opened, and none is none."""
    assert len(opened(whole(signed(*(report(n) for n in range(64))))).reports) == 64
    for count in (0, 65):
        with refused(Reason.TOO_MANY):
            issue([report(n) for n in range(count)], "id-cert", key_of("id-cert"), NOW, Rand())
    with refused(Reason.TOO_MANY):
        opened(forge([disclose(n) for n in range(65)], []))


def test_a_digest_is_named_once() -> None:
    """The same digest twice, anywhere in the envelope, is refused, even if it is not disclosed."""
    top, texts = forge_report({"title": "x"})
    with refused(Reason.DISCLOSURE_DUPLICATE):
        opened(forge([top, top], texts))
    hidden = disclosure_digest(disclose("status", "open"))
    field = disclosure_digest(texts[1])
    for digests in ([field, field], [field, hidden, hidden]):
        twice = disclose({**msgspec.to_builtins(header()), "_sd": digests})
        with refused(Reason.DISCLOSURE_DUPLICATE):
            opened(forge([twice], [twice, texts[1]]))
    element = disclose({"type": "other", "value": "x"})
    ref = {"...": disclosure_digest(element)}
    for lists in ([disclose("indicators", [ref, ref])], [disclose("indicators", [ref]), disclose("contacts", [ref])]):
        top, more = forge_report({}, *lists)
        with refused(Reason.DISCLOSURE_DUPLICATE):
            opened(forge([top], [*more, element]))


@pytest.mark.parametrize("name", ["_sd", "..."])
def test_reserved_names(name: str) -> None:
    """No field can have a name that SD-JWT keeps for itself."""
    top, texts = forge_report({name: ["x"]})
    with refused(Reason.DISCLOSURE_MALFORMED):
        opened(forge([top], texts))


@pytest.mark.parametrize("name", ["marking", "report_id", "origin", "schema"])
def test_a_body_field_never_shadows_the_header(name: str) -> None:
    """A disclosure under the name of a header field is refused: no reader may see another marking than the broker."""
    top, texts = forge_report({name: {"tlp": "CLEAR"}})
    with refused(Reason.DISCLOSURE_DUPLICATE, f"$.body.{name}"):
        opened(forge([top], texts))


@pytest.mark.parametrize("name", ["title", "hologram", "victim_coarse", "indicators"])
def test_a_field_is_there_once(name: str) -> None:
    """Two values under one name are refused, known or not."""
    value: Any = [] if name == "indicators" else {}
    again = b64(msgspec.json.encode(["another-salt", name, value]))
    top, texts = forge_report({name: value}, again)
    with refused(Reason.DISCLOSURE_DUPLICATE, f"$.body.{name}"):
        opened(forge([top], texts))


@pytest.mark.parametrize(
    "values",
    [
        ["s"],
        ["s", "title"],
        ["s", "title", "x", "y"],
        ["s", 5, "x"],
        [5, "title", "x"],
        [None, "title", "x"],
        [],
        {},
        "x",
    ],
)
def test_malformed_fields(values: Any) -> None:
    """A field is exactly [salt, name, value]."""
    text = b64(msgspec.json.encode(values))
    top, texts = forge_report({}, text)
    with refused(Reason.DISCLOSURE_MALFORMED):
        opened(forge([top], texts))


@pytest.mark.parametrize(
    "raw", ["", "\u00e9", "AA==", "AB", "W10=", "W 10", "W10.", "!!!!", b64(b"\xff"), b64(b"[1"), b64(b"null")]
)
def test_disclosures_that_are_not_base64url_of_json(raw: str) -> None:
    """A disclosure that is referred to but is no canonical base64url of a JSON array is refused."""
    digest = b64(hashlib.sha256(raw.encode()).digest())
    top = disclose({**msgspec.to_builtins(header()), "_sd": [digest]})
    with pytest.raises(ProtocolError) as caught:
        opened(forge([top], [top, raw]))
    expected = Reason.DISCLOSURE_MALFORMED if raw.isascii() else Reason.MALFORMED_ENVELOPE
    assert caught.value.reason is expected


@pytest.mark.parametrize("element", [["s"], ["s", 5], ["s", {}, {}], [5, {}]])
def test_malformed_elements(element: list[Any]) -> None:
    """A list element is exactly [salt, object]; a list holds references and nothing else."""
    text = b64(msgspec.json.encode(element))
    top, texts = forge_report({}, disclose("indicators", [{"...": disclosure_digest(text)}]))
    with refused(Reason.DISCLOSURE_MALFORMED):
        opened(forge([top], [*texts, text]))


@pytest.mark.parametrize(
    "value", [{}, "x", [{"type": "other", "value": "x"}], ["x"], [{"...": 5}], [{"...": "a"}] * 1001, [{}]]
)
def test_malformed_lists(value: Any) -> None:
    """A list of elements in clear, or of anything but references, is refused: its elements would have no unit."""
    top, texts = forge_report({"indicators": value})
    with refused(Reason.DISCLOSURE_MALFORMED):
        opened(forge([top], texts))


@pytest.mark.parametrize("digests", [5, "x", {}, [5], [None], ["a"] * 1025, [["a"]]])
def test_malformed_digest_lists(digests: Any) -> None:
    """`_sd` is a bounded list of strings."""
    top = disclose({**msgspec.to_builtins(header()), "_sd": digests})
    with refused(Reason.DISCLOSURE_MALFORMED):
        opened(forge([top], [top]))


def test_nesting() -> None:
    """Nesting that would exhaust the stack is refused, wherever it stands."""
    deep = b"[" * 50_000 + b"]" * 50_000
    text = b64(b'["salt","title",' + deep + b"]")
    top, texts = forge_report({}, text)
    with refused(Reason.DISCLOSURE_MALFORMED):
        opened(forge([top], texts))
    for payload in (b'{"iss":' + deep + b"}", deep):
        with pytest.raises(ProtocolError):
            opened(sign_jws(TYP, payload, key_of("id-cert")) + "~")


@pytest.mark.parametrize("levels", range(880, 1000, 4))
def test_nesting_near_the_limit_of_the_stack(levels: int) -> None:
    """Just below the limit of the stack, too, nothing but ProtocolError comes out."""
    element = b64(b'["salt",{"type":' + b"[" * levels + b"]" * levels + b"}]")
    top, texts = forge_report({}, disclose("indicators", [{"...": disclosure_digest(element)}]))
    try:
        (found,) = opened(forge([top], [*texts, element])).reports
    except ProtocolError:
        return
    assert isinstance(found, RefusedReport)


def test_sizes() -> None:
    """Envelopes and disclosures over their limits are refused before they are read."""
    with refused(Reason.TOO_LARGE):
        opened("A" * (limits.SUBMISSION + 1))
    text = disclose("title", "x" * (limits.DISCLOSURE * 2))
    top, texts = forge_report({}, text)
    with refused(Reason.TOO_LARGE):
        opened(forge([top], texts))


@pytest.mark.parametrize(
    "text",
    ["", "~", "a.b~", "a.b.c.d~", WHOLE.removesuffix("~"), WHOLE + "kb.jwt.x", WHOLE.replace(".", "~", 1), "\u00e9~"],
)
def test_malformed_envelopes(text: str) -> None:
    """What is not a JWS, disclosures and a closing tilde is refused; a key binding is not part of this protocol."""
    with refused(Reason.MALFORMED_ENVELOPE):
        opened(text)


def test_a_loose_spelling_of_the_jws() -> None:
    """Padding or loose bits in a part of the JWS are refused: an envelope has one spelling, and one digest."""
    head, payload, signature = ENVELOPE.jws.split(".")
    for jws in (
        f"{head}.{payload}.{signature}==",
        f"{head}=.{payload}.{signature}",
        f"{head}.{payload}.{signature[:-1]}",
    ):
        with refused(Reason.MALFORMED_ENVELOPE):
            opened(jws + "~")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(signature[-1])
    loose = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last | 1]
    with refused(Reason.MALFORMED_ENVELOPE):
        opened(f"{head}.{payload}.{signature[:-1]}{loose}~")


def test_no_report_disclosed() -> None:
    """An envelope without any report says nothing and is refused."""
    with refused(Reason.EMPTY, "$.reports"):
        opened(ENVELOPE.jws + "~")


def test_parsing_believes_nothing() -> None:
    """Taking an envelope apart names the key that it asks for, before anything is verified."""
    parsed = parse_envelope(WHOLE)
    assert parsed.parts.kid == key_of("id-cert").kid
    assert parsed.jws == ENVELOPE.jws
    assert parsed.texts == parts(WHOLE)[1]


# --- one bad report among others --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "given_", "reason", "path"),
    [
        ({"title": ""}, {}, Reason.OUT_OF_RANGE, "$.body.title"),
        ({"status": "melting"}, {}, Reason.UNKNOWN_VALUE, "$.body.status"),
        ({"victim_coarse": {"name": "canary"}}, {}, Reason.UNKNOWN_FIELD, "$.body.victim_coarse.name"),
        ({"entity_counts_coarse": {"people": 5}}, {}, Reason.WRONG_TYPE, "$.body.entity_counts_coarse[...]"),
        ({}, {"revision": 0}, Reason.OUT_OF_RANGE, "$.revision"),
        ({}, {"schema": "kentongan-report/9"}, Reason.UNKNOWN_VALUE, "$.schema"),
        ({}, {"extra": 1}, Reason.UNKNOWN_FIELD, "$.extra"),
        ({}, {"marking": {"tlp": "RED"}}, Reason.RECIPIENTS_REQUIRED, "$.marking"),
        ({}, {"marking": None}, Reason.MISSING_FIELD, "$.marking"),
    ],
)
def test_one_bad_report_is_refused_alone(
    fields: dict[str, Any], given_: dict[str, Any], reason: Reason, path: str
) -> None:
    """Of three reports the one at fault is refused, with its own reason; the others are taken."""
    made = [
        forge_report({"malware": ["first"]}),
        forge_report(fields, **given_),
        forge_report({"malware": ["last"]}, revision=2),
    ]
    bad = disclosure_digest(made[1][0])
    found = opened(forge([top for top, _ in made], [text for _, texts in made for text in texts]))
    assert [isinstance(item, SignedReport) for item in found.reports] == [True, False, True]
    refusal = found.reports[1]
    assert isinstance(refusal, RefusedReport)
    assert (refusal.digest, refusal.error.reason, refusal.error.path) == (bad, reason, path)


def test_an_element_that_is_at_fault_refuses_its_report() -> None:
    """A list element is judged like a field: a coarse element that says too much never passes."""
    element = disclose({"type": "ipv4-addr", "value": "203.0.113.77", "level": "coarse"})
    top, texts = forge_report({}, disclose("indicators", [{"...": disclosure_digest(element)}]))
    (found,) = opened(forge([top], [*texts, element])).reports
    assert isinstance(found, RefusedReport)
    assert (found.error.reason, found.error.path) == (Reason.INVALID_VALUE, "$.body.indicators[0]")


# --- what an envelope does not show -----------------------------------------------------------------------------


def _listed(envelope: Envelope) -> list[str]:
    payload = json.loads(unb64(envelope.jws.split(".")[1]))
    return [item["..."] for item in payload["reports"]]


@pytest.mark.parametrize(("count", "padded"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (9, 16), (33, 64), (64, 64)])
def test_decoys_pad_to_a_power_of_two(count: int, padded: int) -> None:
    """The number of listed digests is the next power of two, the digests are sorted, and none is there twice."""
    listed = _listed(signed(*(report(n) for n in range(count))))
    assert len(listed) == padded
    assert listed == sorted(set(listed))


def test_the_number_of_reports_does_not_show() -> None:
    """From 5 to 8 reports, a recipient of one of them sees the same amount of the same kind of data."""
    sizes = set()
    for count in (5, 6, 7, 8):
        envelope = signed(*(report(n) for n in range(1, count + 1)))
        text = present(envelope.jws, [texts_of(envelope.reports[0])])
        sizes.add(len(text))
        assert {len(digest) for digest in _listed(envelope)} == {43}
        assert len(opened(text).reports) == 1
    assert len(sizes) == 1


def test_salts_never_repeat() -> None:
    """Every disclosure of an envelope has a salt of its own, 128 bits long."""
    envelope = signed(*(report(n, body_from(FULL)) for n in range(20)))
    salts = [values[0] for values in decoded(text for item in envelope.reports for text in texts_of(item))]
    assert len(salts) == len(set(salts)) > 64
    assert {len(unb64(salt)) for salt in salts} == {16}


def test_the_order_of_fields_does_not_show() -> None:
    """The digests of a body are sorted: their order says nothing about the fields behind them."""
    digests = decoded([ONE.header_text])[0][1]["_sd"]
    assert digests == sorted(digests)
    assert len(digests) == len(set(digests))


def test_signing_is_a_function_of_its_arguments() -> None:
    """The same reports, key, time and randomness give the same bytes; other randomness gives other digests."""
    assert whole(signed()) == WHOLE
    assert signed(seed="other").reports[0].digest != ONE.digest
    assert RING.find(ENVELOPE.kid).owner == ENVELOPE.issuer == "id-cert"
