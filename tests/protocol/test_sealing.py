"""Sealed reports: who can open a box, who cannot, and that no box ever passes for another."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from protocol import limits
from protocol.envelope import SignedReport, disclosure_digest, present, release
from protocol.errors import ConfigError, ProtocolError
from protocol.issuing import issue
from protocol.keys import b64, unb64
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.registry import open_region
from protocol.report import ALL_UNITS, HEADER_UNIT, UNIT_BIT, Filing, Header, Origin, Report
from protocol.sealing import (
    MLKEM768_X25519,
    X25519,
    Algorithm,
    SealedBox,
    SealedKey,
    Sealer,
    SealingKey,
    SealingKeyRecord,
    SealTo,
    check_box,
    check_record,
    choose_key,
    open_sealed,
    parse_box,
    seal,
    sealing_thumbprint,
    trim,
)
from protocol.statements import BROKER
from tests.governing import sign_region
from tests.protocol.make import (
    DAY,
    FULL,
    NOW,
    Rand,
    body_from,
    disclose,
    forge,
    key_of,
    member,
    opened,
    quick,
    refused,
    region,
    registry,
    report,
    ring,
    texts_of,
    uuid,
)

ALGORITHMS: Sequence[Algorithm] = (MLKEM768_X25519, X25519)
EACH = pytest.mark.parametrize("alg", ALGORITHMS)
ONLY_HEADER = 1 << UNIT_BIT[HEADER_UNIT]


def sealing_key(owner: str, alg: Algorithm = MLKEM768_X25519) -> SealingKey:
    """The fixed sealing key of an owner."""
    return SealingKey(alg, hashlib.sha256(f"kentongan test sealing key of {owner}".encode()).digest())


SG, MY, PH = sealing_key("sg-cert"), sealing_key("my-cert", X25519), sealing_key("ph-cert")


def record(key: SealingKey, **given: Any) -> SealingKeyRecord:
    """A key as the registry lists it: valid for three months."""
    return msgspec.structs.replace(key.record(NOW - DAY, NOW + 90 * DAY), **given)


def everything(key: SealingKey) -> SealTo:
    """A recipient of all exact values."""
    return SealTo(record(key), ALL_UNITS, 0)


class Case:
    """A sealed report as its recipients and the broker hold it: the envelope shows the header only."""

    def __init__(self, to: Mapping[str, SealTo], made: Report | None = None, *, seed: str = "salt") -> None:
        made = made or report(body=body_from(FULL))
        sealer = Sealer({(made.header.report_id, made.header.revision): to}, Rand(f"seal {seed}"))
        self.origin = issue([made], "id-cert", key_of("id-cert"), NOW, Rand(seed), sealer)
        whole = self.origin.reports[0]
        assert isinstance(whole, SignedReport)
        self.whole = whole
        self.jws = self.origin.jws
        self.shown = only(present(self.jws, [[whole.header_text]]))
        ((self.digest, self.data),) = sealer.boxes.items()
        self.box = parse_box(self.data)

    def texts(self, own: str, *keys: SealingKey, data: bytes | None = None) -> list[str]:
        """What a member gets out of the box."""
        return open_sealed(self.data if data is None else data, self.shown, own, keys)

    def read(self, own: str, *keys: SealingKey) -> SignedReport:
        """The report as a member reads it, with every text proven by the origin's signature."""
        return only(present(self.jws, [[self.shown.header_text, *self.texts(own, *keys)]]))


def only(text: str) -> SignedReport:
    """The one report of an envelope."""
    (found,) = opened(text).reports
    assert isinstance(found, SignedReport), found
    return found


MIXED = Case({"sg-cert": everything(SG), "my-cert": everything(MY), "ph-cert": SealTo(record(PH), 0, ALL_UNITS)})
"""Both algorithms, two sets: the first two read exact values, the third one coarse values."""


def replaced(box: SealedBox, **given: Any) -> bytes:
    """The bytes of a box with other fields."""
    return msgspec.structs.replace(box, **given).encode()


# --- opening ----------------------------------------------------------------------------------------------------


@EACH
def test_what_is_sealed_opens(alg: Algorithm) -> None:
    """The recipient reads every exact value, proven by the origin's signature, and the envelope alone shows none."""
    key = sealing_key("sg-cert", alg)
    case = Case({"sg-cert": everything(key)})
    assert case.shown.units() == (0, 0)
    found = case.read("sg-cert", key)
    assert found.digest == case.whole.digest
    assert found.units() == (case.whole.exact, 0)
    assert found.body["title"] == FULL["title"]
    assert case.texts("sg-cert", key) == release(case.whole, ALL_UNITS, 0)[1:]


def test_recipients_of_both_kinds_open_one_box() -> None:
    """Post-quantum and classical keys stand side by side; members with the same set share one ciphertext."""
    assert len(MIXED.box.bodies) == 2
    by_member = {key.member: key for key in MIXED.box.keys}
    assert by_member["sg-cert"].body == by_member["my-cert"].body != by_member["ph-cert"].body
    assert MIXED.read("sg-cert", SG).body == MIXED.read("my-cert", MY).body
    assert MIXED.read("ph-cert", PH).units() == (0, MIXED.whole.coarse)


masks = st.integers(0, ALL_UNITS)


@quick(25)
@given(masks, masks, masks, masks)
def test_each_recipient_gets_its_own_set(exact: int, coarse: int, other: int, wider: int) -> None:
    """What opens is what `release` lets through for that member, whatever the others get."""
    to = {
        "sg-cert": SealTo(record(SG), exact, coarse),
        "my-cert": SealTo(record(MY), other, wider),
        "ph-cert": SealTo(record(PH), exact, coarse),
    }
    case = Case(to)
    assert case.texts("sg-cert", SG) == case.texts("ph-cert", PH) == release(case.whole, exact, coarse)[1:]
    assert case.texts("my-cert", MY) == release(case.whole, other, wider)[1:]
    case.read("my-cert", MY)


def test_nothing_granted_is_sealed_like_anything_else() -> None:
    """A recipient of the header alone has an entry that opens to nothing: the box does not tell it apart."""
    case = Case({"sg-cert": everything(SG), "my-cert": SealTo(record(MY), ONLY_HEADER, 0)})
    assert case.texts("my-cert", MY) == []
    assert case.read("my-cert", MY).digest == case.whole.digest


def test_an_old_key_opens_what_was_sealed_to_it() -> None:
    """After a rotation the new key is chosen; the old one, kept, opens the old boxes; without it they stay shut."""
    new = sealing_key("sg-cert, next year")
    records = [record(SG, revoked_at=NOW + DAY), record(new, not_before=NOW + DAY)]
    assert choose_key("sg-cert", records, NOW + 2 * DAY).kid == new.kid
    assert MIXED.read("sg-cert", new, SG).body["title"] == FULL["title"]
    with refused(Reason.UNKNOWN_KEY, "$.keys.kid"):
        MIXED.texts("sg-cert", new)


def test_two_boxes_of_one_report_have_nothing_in_common() -> None:
    """Content keys and encapsulations are fresh, whatever else is the same."""
    again = seal(MIXED.whole, {"sg-cert": everything(SG)}, Rand("other"))
    once = seal(MIXED.whole, {"sg-cert": everything(SG)}, Rand("one"))
    assert once.bodies != again.bodies
    assert once.keys[0].enc != again.keys[0].enc


def test_reports_are_sealed_one_by_one() -> None:
    """One envelope carries a sealed report and an ordinary one; without recipients nothing is sealed."""
    sealer = Sealer({(uuid(1), 1): {"sg-cert": everything(SG)}}, Rand("box"))
    envelope = issue([report(1), report(2), report(1, revision=2)], "id-cert", key_of("id-cert"), NOW, Rand(), sealer)
    first, second, third = (item for item in envelope.reports if isinstance(item, SignedReport))
    assert set(sealer.boxes) == {first.header.sealed}
    assert second.header.sealed is third.header.sealed is UNSET
    plain = issue([report(2)], "id-cert", key_of("id-cert"), NOW, Rand())
    assert b"sealed" not in unb64(texts_of(plain.reports[0])[0])


def test_a_filer_does_not_name_boxes() -> None:
    """`sealed` is the node's to say."""
    with refused(Reason.UNKNOWN_FIELD, "$.sealed"):
        decode(msgspec.json.Decoder(Filing), b'{"sealed":"' + b"A" * 43 + b'"}')


# --- reading without a key --------------------------------------------------------------------------------------


def test_the_box_shows_nothing() -> None:
    """No value, no disclosure and no salt stands in what the broker holds."""
    held = MIXED.data + present(MIXED.jws, [[MIXED.shown.header_text]]).encode()
    bodies = b"".join(unb64(body) for body in MIXED.box.bodies)
    for text in texts_of(MIXED.whole)[1:]:
        raw = unb64(text)
        assert text.encode() not in held
        assert raw not in held + bodies
        assert text.encode() not in bodies
    assert b"canary" not in held + bodies
    assert b64(b"canary").encode()[:7] not in held


@quick(60)
@given(st.integers(0, 200_000))
def test_sizes_fall_into_classes(size: int) -> None:
    """What is sealed has one of few sizes, never less than its text, and never much more."""
    draft = MIXED.whole
    text = msgspec.structs.replace(draft.disclosures[0], text="x" * size)
    one = SignedReport("", "", draft.header, (), (text,), {}, 0)
    (body,) = seal(one, {"sg-cert": everything(SG)}, Rand()).bodies
    padded = len(unb64(body)) - 16
    assert padded > size
    assert padded <= max(1_024, 2 * (size + 1))
    assert padded in {1 << n for n in range(10, 17)} | {n << 16 for n in range(1, 5)}


@pytest.mark.parametrize(("count", "leaves"), [(1, 1), (2, 2), (3, 4), (5, 8), (64, 64)])
def test_leaves_do_not_count_recipients(count: int, leaves: int) -> None:
    """Leaves are padded with decoys and sorted; entries and ciphertexts are sorted too."""
    draft = SignedReport("", "", MIXED.whole.header, (), (), {}, 0)
    box = seal(draft, {f"m{number}": everything(MY) for number in range(count)}, Rand())
    assert len(box.leaves) == leaves
    assert box.leaves == sorted(set(box.leaves))
    assert box.members() == sorted(box.members())


def test_a_trimmed_box_says_nothing_about_others() -> None:
    """Each recipient gets its entry and its ciphertext under the digest that the origin signed."""
    for own, key in (("sg-cert", SG), ("my-cert", MY), ("ph-cert", PH)):
        part = trim(MIXED.box, [own])
        data = part.encode()
        assert part.members() == [own]
        assert len(part.bodies) == 1
        assert part.digest() == MIXED.digest == MIXED.shown.header.sealed
        assert parse_box(data) == part
        assert MIXED.texts(own, key, data=data) == MIXED.texts(own, key)
        for other in {"sg-cert", "my-cert", "ph-cert"} - {own}:
            assert other.encode() not in data
    assert trim(MIXED.box, MIXED.box.members()) == MIXED.box
    with refused(Reason.NOT_SEALED_TO_ME, "$.keys"):
        trim(MIXED.box, ["vn-cert"])


@pytest.mark.parametrize(("alg", "least", "most"), [(MLKEM768_X25519, 1_700, 1_800), (X25519, 250, 350)])
def test_what_a_recipient_adds(alg: Algorithm, least: int, most: int) -> None:
    """The bytes that one more recipient of the same set adds, its leaf included."""
    sizes = []
    for count in (8, 16):
        to = {f"member-{number:02}": everything(sealing_key(str(number), alg)) for number in range(count)}
        sizes.append(len(Case(to).data))
    assert least < (sizes[1] - sizes[0]) / 8 < most


# --- keys without a box, boxes without a key ---------------------------------------------------------------------


def test_nobody_else_opens_it() -> None:
    """A member that is not in the box is told so; one in the box does not open with another's key."""
    with refused(Reason.NOT_SEALED_TO_ME, "$.keys"):
        MIXED.texts("vn-cert", SG, MY, PH)
    with refused(Reason.UNKNOWN_KEY):
        MIXED.texts("sg-cert", MY, PH)
    stranger = sealing_key("vn-cert")
    stranger.kid = SG.kid
    with refused(Reason.SEAL_BROKEN, "$.keys.enc"):
        MIXED.texts("sg-cert", stranger)


def test_an_entry_is_bound_to_its_member() -> None:
    """The origin itself cannot pass one member's entry off as another's: HPKE's info names the recipient."""
    (entry,) = [key for key in MIXED.box.keys if key.member == "sg-cert"]
    renamed = msgspec.structs.replace(entry, member="vn-cert")
    with refused(Reason.SEAL_BROKEN, "$.keys.enc"):
        resigned(MIXED.box, keys=[renamed]).texts("vn-cert", SG)
    resigned(MIXED.box, keys=[entry]).texts("sg-cert", SG)


@dataclass(frozen=True)
class Resigned:
    """The mixed case's report with another box that its origin signed: leaves, digest and header fit."""

    box: SealedBox

    def texts(self, own: str, key: SealingKey) -> list[str]:
        """What a member gets out of the box."""
        return open_sealed(self.box.encode(), shown_with(sealed=self.box.digest()), own, [key])


def resigned(box: SealedBox, **given: Any) -> Resigned:
    """A changed box with the leaves of its entries, and the ciphertexts that they name."""
    changed = msgspec.structs.replace(box, **given)
    wanted = {key.body for key in changed.keys}
    leaves = sorted(leaf(key) for key in changed.keys)
    bodies = [body for body in changed.bodies if disclosure_digest(body) in wanted]
    return Resigned(msgspec.structs.replace(changed, leaves=leaves, bodies=bodies))


def shown_with(**given: Any) -> SignedReport:
    """The mixed case's report as its origin would show it with other header fields; the body's digests stay."""
    header = msgspec.structs.replace(MIXED.whole.header, **given)
    return SignedReport("", "", header, (), (), {}, 0)


def lengths(*fields: str) -> bytes:
    """Fields with their lengths, as the protocol document has it."""
    return b"".join(len(item.encode()).to_bytes(4, "big") + item.encode() for item in ("kentongan-sealed/1", *fields))


def leaf(key: SealedKey) -> str:
    """The leaf of an entry."""
    return b64(hashlib.sha256(lengths("leaf", key.member, key.kid, key.body, key.enc)).digest())


# --- tampering --------------------------------------------------------------------------------------------------


@quick(300)
@given(st.data())
def test_a_changed_byte_is_always_noticed(data: st.DataObject) -> None:
    """Any byte of a box, changed to any other value: refused, with a reason and no other exception."""
    at = data.draw(st.integers(0, len(MIXED.data) - 1))
    raw = bytearray(MIXED.data)
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolError):
        MIXED.texts("sg-cert", SG, data=bytes(raw))


@quick(150)
@given(st.data())
def test_bytes_cut_or_added_are_always_noticed(data: st.DataObject) -> None:
    """A slice taken out, or bytes put in anywhere, white space included."""
    start = data.draw(st.integers(0, len(MIXED.data)))
    end = data.draw(st.integers(start, len(MIXED.data)))
    added = data.draw(st.sampled_from([b"", b" ", b"\n", b"\0", b"A", b'"', b"\xff", b"{}"]))
    raw = MIXED.data[:start] + added + MIXED.data[end:]
    if raw != MIXED.data:
        with pytest.raises(ProtocolError):
            MIXED.texts("my-cert", MY, data=raw)


@quick(100)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists, max_leaves=5).map(msgspec.json.encode))
def test_anything_else_is_no_box(raw: bytes) -> None:
    """Whatever is not a box is refused with a reason."""
    with pytest.raises(ProtocolError):
        parse_box(raw)


def _key(box: SealedBox, name: str) -> SealedKey:
    return next(key for key in box.keys if key.member == name)


def _with_key(name: str, **given: Any) -> Callable[[SealedBox], bytes]:
    def change(box: SealedBox) -> bytes:
        return replaced(
            box, keys=[msgspec.structs.replace(key, **given) if key.member == name else key for key in box.keys]
        )

    return change


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (_with_key("sg-cert", enc=_key(MIXED.box, "ph-cert").enc), "$.keys"),
        (_with_key("sg-cert", kid=PH.kid), "$.keys"),
        (_with_key("sg-cert", member="vn-cert"), "$.keys"),
        (_with_key("sg-cert", body=_key(MIXED.box, "ph-cert").body), "$.keys"),
        (lambda box: replaced(box, keys=[box.keys[0], *box.keys]), "$.keys"),
        (lambda box: replaced(box, bodies=box.bodies[:1]), "$.bodies"),
        (lambda box: replaced(box, bodies=[*box.bodies, "AAAA"]), "$.bodies"),
        (lambda box: replaced(box, bodies=[*box.bodies, "\N{SNOWMAN}"]), "$.bodies"),
        (lambda box: replaced(box, bodies=[*box.bodies, box.bodies[0]]), "$.bodies"),
        (lambda box: replaced(box, leaves=box.leaves[::-1]), "$.sealed"),
        (lambda box: replaced(box, leaves=[*box.leaves, "A" * 43]), "$.sealed"),
        (lambda box: replaced(box, leaves=[leaf(key) for key in box.keys]), "$.sealed"),
        (lambda box: box.encode() + b"\n", "$"),
        (lambda box: box.encode().replace(b'"leaves"', b'"le\\u0061ves"'), "$"),
    ],
)
def test_a_box_in_other_pieces_is_refused(change: Callable[[SealedBox], bytes], path: str) -> None:
    """Entries, ciphertexts and leaves hold together, and hold to the header, in one spelling."""
    with refused(Reason.SEAL_BROKEN, path):
        MIXED.texts("my-cert", MY, data=change(MIXED.box))


def test_a_recipient_cannot_add_a_recipient() -> None:
    """One who knows the content key seals it on, leaf and all: the header does not name that box."""
    extra = seal(MIXED.whole, {"vn-cert": everything(sealing_key("vn-cert"))}, Rand("extra"))
    data = replaced(
        MIXED.box,
        leaves=sorted([*MIXED.box.leaves, *extra.leaves]),
        keys=[*MIXED.box.keys, *extra.keys],
        bodies=[*MIXED.box.bodies, *extra.bodies],
    )
    parse_box(data)
    with refused(Reason.SEAL_BROKEN, "$.sealed"):
        MIXED.texts("sg-cert", SG, data=data)


# --- boxes of other reports -------------------------------------------------------------------------------------


def test_a_box_of_another_report_is_refused() -> None:
    """The header names its own box, not that of the next report of the same origin."""
    other = Case({"sg-cert": everything(SG)}, report(2, body=body_from(FULL)), seed="second")
    with refused(Reason.SEAL_BROKEN, "$.sealed"):
        open_sealed(other.data, MIXED.shown, "sg-cert", [SG])
    with refused(Reason.SEAL_BROKEN, "$.sealed"):
        check_box(other.box, MIXED.shown.header, records_of, NOW)


def test_a_header_that_names_no_box_has_none() -> None:
    """A box beside an ordinary report is refused."""
    with refused(Reason.SEAL_BROKEN, "$.sealed"):
        open_sealed(MIXED.data, shown_with(sealed=UNSET), "sg-cert", [SG])
    with refused(Reason.SEAL_BROKEN, "$.sealed"):
        open_sealed(MIXED.data, shown_with(sealed="A" * 43), "sg-cert", [SG])


def stolen(owner: str, **given: Any) -> SignedReport:
    """A verified report whose owner copied another's header, the digests of its body and of its box included."""
    _, element = msgspec.json.decode(unb64(MIXED.shown.header_text))
    element.update(msgspec.to_builtins(given))
    top = disclose(element)
    found = only(forge([top], [top], owner=owner))
    assert found.header.sealed == MIXED.digest
    return found


@pytest.mark.parametrize(
    ("owner", "given"),
    [
        ("sg-cert", {"origin": Origin(jurisdiction="sg", member="sg-cert")}),
        ("id-cert", {"report_id": uuid(77)}),
        ("id-cert", {"revision": 2}),
    ],
    ids=["another member's report", "another report", "another revision"],
)
def test_a_copied_box_stays_shut(owner: str, given: dict[str, Any]) -> None:
    """A report that is soundly signed, and names a box that was sealed for another one, opens nothing.

    Without this, a member could publish a TLP:RED text as its own under TLP:CLEAR, without being able to read it.
    """
    assert open_sealed(MIXED.data, stolen("id-cert"), "sg-cert", [SG]) == MIXED.texts("sg-cert", SG)
    with refused(Reason.SEAL_BROKEN, "$.keys.enc"):
        open_sealed(MIXED.data, stolen(owner, **given), "sg-cert", [SG])


# --- what a malicious origin puts in a box ----------------------------------------------------------------------


def boxed(plain: bytes, content_key: bytes = b"k" * 32, header: Header = MIXED.whole.header) -> Resigned:
    """A box with any plaintext, soundly sealed to Singapore by the origin of the mixed case."""
    identity = (header.origin.member, str(header.report_id), str(header.revision))
    body = b64(AESGCM(content_key).encrypt(bytes(12), plain, lengths("body", *identity)))
    digest = disclosure_digest(body)
    info = lengths("key", *identity, "sg-cert", SG.kid, digest)
    enc = seal_to_mlkem(SG.public, content_key, info)
    entry = SealedKey(member="sg-cert", kid=SG.kid, body=digest, enc=b64(enc))
    return resigned(MIXED.box, keys=[entry], bodies=[body])


def test_what_was_not_signed_never_verifies() -> None:
    """A disclosure that the origin boxes but did not sign, its own or one of another report, fails the envelope."""
    other = Case({"sg-cert": everything(SG)}, report(2), seed="second")
    for text in (disclose("title", "never signed"), disclose({"type": "mutex", "value": "x"}), other.whole.header_text):
        case = boxed((text + "~").encode().ljust(1024, b"\0"))
        texts = case.texts("sg-cert", SG)
        assert texts == [text]
        with refused(Reason.DISCLOSURE_UNREFERENCED):
            opened(present(MIXED.jws, [[MIXED.shown.header_text, *texts]]))


def test_the_documented_layout_opens() -> None:
    """A box made from the protocol document's words, with none of this code, opens."""
    texts = release(MIXED.whole, ALL_UNITS, 0)[1:]
    content = "".join(text + "~" for text in texts).encode()
    assert 4096 < len(content) < 8192
    assert boxed(content.ljust(8192, b"\0")).texts("sg-cert", SG) == texts


@pytest.mark.parametrize(
    ("plain", "content_key"),
    [
        (b"QUJD".ljust(1024, b"\0"), b"k" * 32),
        (b"QUJD~", b"k" * 32),
        (b"QUJD~".ljust(2048, b"\0"), b"k" * 32),
        (b"QUJD~\0QUJD~".ljust(1023, b"\0"), b"k" * 32),
        (b"\xff~".ljust(1024, b"\0"), b"k" * 32),
        (b"QUJD~".ljust(1024, b"\0"), b"k" * 16),
        (b"", b"k" * 32),
    ],
    ids=["no end", "not padded", "padded too far", "padded too little", "not ascii", "a short key", "empty"],
)
def test_a_badly_made_box_is_refused(plain: bytes, content_key: bytes) -> None:
    """A sound seal around what no sealer makes."""
    with refused(Reason.SEAL_BROKEN, "$.keys.enc"):
        boxed(plain, content_key).texts("sg-cert", SG)


@pytest.mark.parametrize("enc", ["", "A", "AAAA", "A" * 1558, b64(bytes(80)), b64(bytes(1120)), "~"])
def test_a_badly_made_sealed_key_is_refused(enc: str) -> None:
    """Whatever stands in `enc`, the library's exceptions stay inside."""
    for own, key in (("sg-cert", SG), ("my-cert", MY)):
        entry = msgspec.structs.replace(_key(MIXED.box, own), enc=enc)
        with refused(Reason.SEAL_BROKEN, "$.keys.enc"):
            resigned(MIXED.box, keys=[entry]).texts(own, key)


# --- another implementation: RFC 9180 Base mode and X-Wing, from their texts ----------------------------------------


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(suite: bytes, secret: bytes, label: bytes, info: bytes, size: int) -> bytes:
    text = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    out, block, count = b"", b"", 1
    while len(out) < size:
        block = hmac.digest(secret, block + text + bytes([count]), "sha256")
        out, count = out + block, count + 1
    return out[:size]


def key_schedule(kem: int, shared: bytes, info: bytes, aead: int = 2) -> tuple[bytes, bytes]:
    """Key and nonce. RFC 9180 section 5.1, mode Base, KDF HKDF-SHA256 (1), AEAD AES-256-GCM (2) if not another."""
    suite = b"HPKE" + kem.to_bytes(2, "big") + b"\0\1" + aead.to_bytes(2, "big")
    context = b"\0" + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
    secret = _extract(suite, shared, b"secret", b"")
    return _expand(suite, secret, b"key", context, 32), _expand(suite, secret, b"base_nonce", context, 12)


def _cipher(kem: int, shared: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    key, nonce = key_schedule(kem, shared, info)
    return AESGCM(key), nonce


def _xwing(lattice: bytes, curve: bytes, sent: bytes, public: bytes) -> bytes:
    return hashlib.sha3_256(lattice + curve + sent + public + b"\\.//^\\").digest()


def decapsulate(seed: bytes, enc: bytes) -> bytes:
    """X-Wing's shared secret, from the seed of the private key."""
    expanded = hashlib.shake_256(seed).digest(96)
    own = X25519PrivateKey.from_private_bytes(expanded[64:])
    lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(enc[:1088])
    sent, theirs = enc[1088:], own.public_key().public_bytes_raw()
    return _xwing(lattice, own.exchange(X25519PublicKey.from_public_bytes(sent)), sent, theirs)


def seal_to_mlkem(public: bytes, content: bytes, info: bytes) -> bytes:
    """Seal to an X-Wing key."""
    lattice, sent = MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
    own = X25519PrivateKey.generate()
    ours, theirs = own.public_key().public_bytes_raw(), public[1184:]
    shared = _xwing(lattice, own.exchange(X25519PublicKey.from_public_bytes(theirs)), ours, theirs)
    cipher, nonce = _cipher(0x647A, shared, info)
    return sent + ours + cipher.encrypt(nonce, content, None)


def open_from(alg: Algorithm, seed: bytes, enc: bytes, info: bytes) -> bytes:
    """Open with a key of either kind, from its seed."""
    if alg == X25519:
        own = X25519PrivateKey.from_private_bytes(seed)
        sent, theirs = enc[:32], own.public_key().public_bytes_raw()
        suite = b"KEM\0\x20"
        secret = _extract(suite, b"", b"eae_prk", own.exchange(X25519PublicKey.from_public_bytes(sent)))
        cipher, nonce = _cipher(0x20, _expand(suite, secret, b"shared_secret", sent + theirs, 32), info)
        return cipher.decrypt(nonce, enc[32:], None)
    cipher, nonce = _cipher(0x647A, decapsulate(seed, enc[:1120]), info)
    return cipher.decrypt(nonce, enc[1120:], None)


@EACH
def test_another_implementation_opens_it(alg: Algorithm) -> None:
    """RFC 9180 and X-Wing by hand, from the seed and the documented bytes alone, give the same texts."""
    seed = hashlib.sha256(b"a seed").digest()
    case = Case({"sg-cert": everything(SealingKey(alg, seed))})
    (entry,), (body,) = case.box.keys, case.box.bodies
    identity = ("id-cert", str(uuid(1)), "1")
    info = lengths("key", *identity, "sg-cert", entry.kid, disclosure_digest(body))
    content_key = open_from(alg, seed, unb64(entry.enc), info)
    plain = AESGCM(content_key).decrypt(bytes(12), unb64(body), lengths("body", *identity))
    assert plain.rstrip(b"\0").decode().split("~")[:-1] == release(case.whole, ALL_UNITS, 0)[1:]
    assert case.digest == b64(hashlib.sha256(lengths("leaves", leaf(entry))).digest())


def test_xwing_vector() -> None:
    """A seed gives the public key of the first test vector of draft-connolly-cfrg-xwing-kem."""
    seed = bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26")
    public = SealingKey(MLKEM768_X25519, seed).public
    assert len(public) == 1216
    assert public[:32].hex() == "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5"
    assert public[-32:].hex() == "859edb06eff389b27dce59844570216223593d4ba32d9abac8cd049040ef6534"


# --- choosing keys ----------------------------------------------------------------------------------------------

NEXT = sealing_key("sg-cert, next")
CLASSIC = sealing_key("sg-cert, classic", X25519)
WEEK = limits.SEALING_MARGIN
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record(SG)], SG.kid),
        ([record(CLASSIC)], CLASSIC.kid),
        ([record(CLASSIC, not_before=NOW), record(SG)], SG.kid),
        ([record(SG), record(NEXT, not_before=NOW)], NEXT.kid),
        ([record(NEXT, not_before=NOW), record(SG)], NEXT.kid),
        ([record(SG), record(NEXT, not_before=NOW + TICK)], SG.kid),
        ([record(SG), record(NEXT, not_before=NOW, not_after=NOW + WEEK)], SG.kid),
        ([record(SG), record(NEXT, not_before=NOW, revoked_at=NOW)], SG.kid),
        ([record(SG), record(NEXT, not_before=NOW, revoked_at=NOW + DAY)], SG.kid),
        ([record(SG, not_after=NOW + WEEK + TICK)], SG.kid),
        ([record(SG, not_after=NOW), record(CLASSIC)], CLASSIC.kid),
        ([], Reason.NO_SEALING_KEY),
        ([record(SG, not_after=NOW)], Reason.NO_SEALING_KEY),
        ([record(SG, not_before=NOW + TICK)], Reason.NO_SEALING_KEY),
        ([record(SG, revoked_at=NOW)], Reason.NO_SEALING_KEY),
        ([record(SG, not_after=NOW + WEEK)], Reason.SEALING_KEY_EXPIRING),
        ([record(SG, revoked_at=NOW + WEEK)], Reason.SEALING_KEY_EXPIRING),
        ([record(SG, not_after=NOW + WEEK), record(CLASSIC)], Reason.SEALING_KEY_EXPIRING),
    ],
)
def test_the_key_to_seal_to(records: list[SealingKeyRecord], expected: str | Reason) -> None:
    """The newest valid post-quantum key, a classical one only where there is none; never one that is about to end."""
    if isinstance(expected, Reason):
        with refused(expected):
            choose_key("sg-cert", records, NOW)
    else:
        assert choose_key("sg-cert", records, NOW).kid == expected


def test_the_refusal_says_when_the_key_ends() -> None:
    """An origin can tell the recipient what to do, and by when."""
    with pytest.raises(ProtocolError, match=r"sg-cert must publish a new sealing key.* ends at 2026-03-04T08:00:00"):
        choose_key("sg-cert", [record(SG, revoked_at=NOW + 3 * DAY), record(NEXT, not_after=NOW + DAY)], NOW)


# --- what the broker checks -------------------------------------------------------------------------------------

RECORDS = {"sg-cert": [record(NEXT), record(SG)], "my-cert": [record(MY)], "ph-cert": [record(PH)]}


def records_of(name: str) -> Sequence[SealingKeyRecord]:
    """The registry's answer."""
    if name not in RECORDS:
        raise ProtocolError(Reason.UNKNOWN_MEMBER)
    return RECORDS[name]


def test_the_broker_checks_what_it_cannot_read() -> None:
    """The header's own box, sealed to keys that its members have, passes; so does a part of it."""
    check_box(MIXED.box, MIXED.shown.header, records_of, NOW)
    check_box(trim(MIXED.box, ["my-cert"]), MIXED.shown.header, records_of, NOW)


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], Reason.UNKNOWN_KEY),
        ([record(NEXT)], Reason.UNKNOWN_KEY),
        ([record(PH)], Reason.UNKNOWN_KEY),
        ([record(SG, revoked_at=NOW)], Reason.KEY_REVOKED),
        ([record(SG, not_after=NOW)], Reason.KEY_NOT_VALID),
        ([record(SG, not_before=NOW + TICK)], Reason.KEY_NOT_VALID),
        ([record(SG, not_after=NOW + DAY)], Reason.SEALING_KEY_EXPIRING),
        ([record(SG, revoked_at=NOW + DAY)], Reason.SEALING_KEY_EXPIRING),
        ([record(SG, not_after=NOW + DAY + TICK)], None),
        ([record(SG, revoked_at=NOW + WEEK)], None),
    ],
)
def test_the_broker_refuses_keys(records: list[SealingKeyRecord], reason: Reason | None) -> None:
    """A report sealed to a key that is not the member's, is over, or is about to end is refused with that reason."""
    known = {**RECORDS, "sg-cert": records}
    if reason is None:
        check_box(MIXED.box, MIXED.shown.header, known.__getitem__, NOW)
    else:
        with refused(reason, "$.keys[2].kid"):
            check_box(MIXED.box, MIXED.shown.header, known.__getitem__, NOW)


def test_the_broker_refuses_strangers() -> None:
    """A box for somebody who is no member is refused as the registry says it."""
    case = Case({"vn-cert": everything(SG)})
    with refused(Reason.UNKNOWN_MEMBER):
        check_box(case.box, case.shown.header, records_of, NOW)


# --- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, limits.RECIPIENTS + 1])
def test_the_number_of_recipients_is_bounded(count: int) -> None:
    """Nobody, or too many."""
    with refused(Reason.TOO_MANY):
        seal(MIXED.whole, {f"m{number}": everything(MY) for number in range(count)}, Rand())


def test_a_box_is_bounded() -> None:
    """A body that no box holds is refused when it is sealed, and a box over the limit unread."""
    to = {"my-cert": everything(MY)}

    def draft(size: int) -> SignedReport:
        item = msgspec.structs.replace(MIXED.whole.disclosures[0], text="x" * size)
        return SignedReport("", "", MIXED.whole.header, (), (item,), {}, 0)

    parse_box(seal(draft(650_000), to, Rand()).encode())
    with refused(Reason.TOO_LARGE):
        seal(draft(700_000), to, Rand())
    with refused(Reason.TOO_LARGE):
        parse_box(b" " * (limits.SEALED_BOX + 1))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"kentongan-sealed/1", b"kentongan-sealed/2", Reason.UNKNOWN_VALUE),
        (b'{"schema"', b'{"more":1,"schema"', Reason.UNKNOWN_FIELD),
        (b'{"member"', b'{"alg":"none","member"', Reason.UNKNOWN_FIELD),
        (b'"my-cert"', b'"MY"', Reason.INVALID_VALUE),
        (b'"keys":[', b'"keys":[],"old":[', Reason.OUT_OF_RANGE),
        (b'"leaves":[', b'"leaves":["' + b'","'.join([b"A" * 43] * 64) + b'",', Reason.OUT_OF_RANGE),
        (b'"enc":"', b'"enc":"' + b"A" * 500, Reason.OUT_OF_RANGE),
    ],
)
def test_the_shape_of_a_box(old: bytes, new: bytes, reason: Reason) -> None:
    """Unknown fields, other schemas and anything over a limit are refused."""
    with refused(reason):
        parse_box(MIXED.data.replace(old, new))


# --- key files --------------------------------------------------------------------------------------------------


@EACH
def test_a_sealing_key_file(tmp_path: Path, alg: Algorithm) -> None:
    """Mode 0400, reads back as the same key, never overwritten, refused when open to others."""
    path = tmp_path / "keys" / "sealing.json"
    key = SealingKey.generate(alg)
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o400
    found = SealingKey.load(path)
    assert (found.kid, found.alg, found.public) == (key.kid, alg, key.public)
    assert Case({"sg-cert": everything(key)}).read("sg-cert", found).body["title"] == FULL["title"]
    with pytest.raises(ConfigError, match="never overwritten"):
        SealingKey.generate(alg).save(path)
    path.chmod(0o440)
    with pytest.raises(ConfigError, match="mode 0440"):
        SealingKey.load(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[" * 5_000,
        b'{"type":"kentongan-sealing-key","alg":"X448","seed":"' + b"A" * 43 + b'"}',
        b'{"type":"kentongan-sealing-key","alg":"X25519","seed":"' + b"A" * 42 + b'"}',
        b'{"type":"kentongan-sealing-key","alg":"X25519","seed":"' + b"-" * 43 + b'"}',
        b'{"type":"kentongan-signing-key","alg":"X25519","seed":"' + b"A" * 43 + b'"}',
    ],
)
def test_other_files_are_no_sealing_keys(tmp_path: Path, data: bytes) -> None:
    """The operator is told which file it is, and nothing of what stands in it."""
    path = tmp_path / "sealing.json"
    path.write_bytes(data)
    path.chmod(0o400)
    with pytest.raises(ConfigError, match=r"sealing\.json is not a sealing key") as caught:
        SealingKey.load(path)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_key_is_made_of_its_own_randomness() -> None:
    """Keys differ, post-quantum unless asked otherwise; a seed of another size is a bug."""
    assert SealingKey.generate().kid != SealingKey.generate().kid
    assert SealingKey.generate().alg == MLKEM768_X25519
    assert SealingKey.generate(X25519, Rand()).kid == SealingKey(X25519, Rand()(32)).kid
    with pytest.raises(ValueError, match="32 bytes"):
        SealingKey(X25519, bytes(31))


# --- registry ---------------------------------------------------------------------------------------------------


def test_the_membership_carries_sealing_keys() -> None:
    """The broker hands them to the nodes, signed like everything else of the region."""
    shown = region(member("id"), member("sg", sealing_keys=[record(SG), record(CLASSIC)]))
    found = open_region(sign_region(shown, key_of(BROKER), NOW), ring(BROKER), NOW).registry
    assert found.member("sg-cert").sealing_keys == [record(SG), record(CLASSIC)]
    assert found.member("id-cert").sealing_keys == []
    assert b"sealing_keys" not in msgspec.json.encode(region(member("id")))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (record(SG, kid=PH.kid), "thumbprint"),
        (record(SG, public=b64(PH.public)), "thumbprint"),
        (record(MY, alg=MLKEM768_X25519), "not a usable MLKEM768_X25519 public key"),
        (record(SG, alg=X25519), "not a usable X25519 public key"),
        (record(SG, alg="ML-KEM-512"), "algorithm ML-KEM-512 is not allowed"),
        (record(SG, public="~"), "not a usable"),
        (record(MY, public=""), "not a usable"),
        (record(SG, public=b64(b"\xff" * 1184 + SG.public[1184:])), "not a usable"),
        (record(SG, public=b64(SG.public[:1184] + bytes(32))), "not a usable"),
        (record(MY, public=b64(bytes(32)), kid=sealing_thumbprint(X25519, bytes(32))), "not a usable"),
        (record(SG, not_after=NOW - DAY), "ends before it begins"),
    ],
)
def test_a_wrong_record_is_refused(wrong: SealingKeyRecord, says: str) -> None:
    """A key that is not what it says, or whose shared secret everybody knows, makes the region invalid."""
    with pytest.raises(ConfigError, match=says):
        check_record("sg-cert", wrong)
    with pytest.raises(ConfigError, match=says):
        registry(member("sg", sealing_keys=[wrong]))


def test_no_sealing_key_has_two_owners() -> None:
    """What is sealed to one member could be opened by the other."""
    with pytest.raises(ConfigError, match=f"sealing key {SG.kid} is listed twice"):
        registry(member("sg", sealing_keys=[record(SG)]), member("id", sealing_keys=[record(SG)]))
    with pytest.raises(ConfigError, match="listed twice"):
        registry(member("sg", sealing_keys=[record(SG), record(SG)]))


def test_a_key_id_binds_the_algorithm() -> None:
    """The same bytes under another algorithm are another key."""
    assert sealing_thumbprint(X25519, MY.public) != sealing_thumbprint(MLKEM768_X25519, MY.public)
    jwk = f'{{"alg":"X25519","kty":"AKP","pub":"{b64(MY.public)}"}}'
    assert MY.kid == b64(hashlib.sha256(jwk.encode()).digest())[:22]
