"""Personal data in free text: what is found, what is left alone, and that masking is safe on any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.coarse import coarse_body
from protocol.parts import LINE_LENGTH, TEXT_LENGTH
from protocol.personal import HELD_BACK, ORGANISATION, PERSON, TOKENS, mask, names_in
from protocol.report import Body, Contact, ThirdParty, Victim
from tests.protocol.make import quick

NAMES = {
    "Bank Syariah Indonesia": ORGANISATION,
    "BSI": ORGANISATION,
    "東京病院": ORGANISATION,
    "Bệnh viện Chợ Rẫy": ORGANISATION,
    "klinik.example": ORGANISATION,
    "Ann Example": PERSON,
}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        # English
        ("Call 6123 4567, hp: 91234567 or +65 6123 4567.", "Call [phone], hp: [phone] or [phone]."),
        ("Toll-free 1800 255 0000", "Toll-free [phone]"),
        ("MY 03-2181 8000 and 012-345 6789", "MY [phone] and [phone]"),
        ("PH 0917 123 4567, (02) 8888 1234", "PH [phone], [phone]"),
        ("Ann Example (ann.lee@x.co.sg) of BSI", "[person] ([e-mail]) of [organisation]"),
        # Indonesian
        ("Hubungi 0812-3456-7890 atau (021) 5551234", "Hubungi [phone] atau [phone]"),
        ("Telp. +62 21 5550 1234; WA 6281234567890", "Telp. [phone]; WA [phone]"),
        ("Pada tahun 2024. 0812-3456-7890, di 2024 0812-3456-7890", "Pada tahun 2024. [phone], di 2024 [phone]"),
        ("bank syariah\n  INDONESIA diserang", "[organisation] diserang"),
        # Japanese: no spaces between words, full-width digits
        ("連絡先は03-1234-5678、tanaka@example.jpまで。", "連絡先は[phone]、[e-mail]まで。"),
        ("携帯０９０－１２３４－５６７８です", "携帯[phone]です"),
        ("東京病院は停止した", "[organisation]は停止した"),
        # Vietnamese and Thai
        ("Gọi 0912 345 678 hoặc +84 24 3822 1234", "Gọi [phone] hoặc [phone]"),
        ("Tại bệnh viện Chợ Rẫy, 30 máy", "Tại [organisation], 30 máy"),
        ("โทร 081 234 5678", "โทร [phone]"),
        # mail, defanged or not
        ("from ann[at]clinic[.]example", "from [e-mail]"),
        ("from ann (at) clinic (dot) example!", "from [e-mail]!"),
        ("root@203.0.113.9 and 用户@例子.公司", "[e-mail] and [e-mail]"),
        # addresses
        ("203.0.113.9, 203[.]0[.]113[.]77:443", "[address], [address]:443"),
        ("2001:db8::1, 2001[:]db8[:]:1, ::ffff:203.0.113.9", "[address], [address], [address]"),
        ("https://user:pw@host.example/a?b and hxxps://u:p[@]host[.]example/x.", "[address] and [address]"),
        ("see klinik[.]example and WWW.KLINIK.EXAMPLE", "see [organisation] and WWW.[organisation]"),
        # cards and numbers
        ("4111 1111 1111 1111, 5500000000000004, 3782 822463 10005", "[card], [card], [card]"),
        ("NIK 3174051205900001, MyKad 900101-14-5678", "NIK [number], MyKad [number]"),
        ("NRIC S1234567D, Thai 1-2345-67890-12-3, 1234 5678 9012", "NRIC [number], Thai [number], [number]"),
        ("DE89 3704 0044 0532 0130 00 PLEASE, GB29NWBK60161331926819", "[number] PLEASE, [number]"),
    ],
)
def test_what_is_found(text: str, masked: str) -> None:
    """Each kind, in the languages of the region, as people write them; what stands around it stays."""
    assert mask(text, NAMES) == masked
    assert mask(masked, NAMES) == masked


@pytest.mark.parametrize(
    "text",
    [
        "CVE-2024-12345678, CVE-2023-34362, MS17-010, KB5034441, T1059.001, RFC 9901",
        "2024-06-20 00:54, 20/06/2024, 20.06.2024, 2024-06-20T00:54:00+07:00, 20240620005400",
        "2024-01-01 2024-06-20, in 2022 2023 2024",
        "US$8 million, 39,150,000, USD 39150000000, Rp 131.000.000.000, Rp131000000000, 1 000 000 000 000",
        "version 10.0.19041.1288, v2.1.0.4, 15.2.986.5, OpenSSL 3.0.13, OID 1.3.6.1.4.1.311.21",
        "d41d8cd98f00b204e9800998ecf8427e D41D8CD98F00B204E9800998ECF8427E",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "550e8400-e29b-41d4-a716-446655440000 00000000-0000-4000-8000-0000000000aa",
        "1000-9999, 10000-99999, 2023-2024, 3000-4000 hosts, ports 443 8080 3389",
        "std::string Abc::Def 12:30:45 lodash@4.17.21 @handle 00:1a:2b:3c:4d:5e",
        "65000000 records, 91234567 people, 1,234 of 5,678, 40 Gbps, AS4134, pi 3.14159265358979",
        "bsi, a syariah bank, Annexample; [1], (2), [sic]",
        "",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    """Identifiers, dates, versions, hashes and amounts are what a defender reads a report for."""
    assert mask(text, NAMES) == text


def test_names_that_a_report_states() -> None:
    """Victim with its parts and website, third party and contacts; never the actor's."""
    body = Body(
        victim=Victim(name="Contoh Clinics 2 (KCB), Bandung, and its customers", website="https://www.contoh.example/"),
        third_party=ThirdParty(name="Vendor Ltd"),
        contacts=[Contact(role="CISO", name="Ann Example"), Contact(role="desk")],
    )
    found = names_in(body)
    assert found.pop("Ann Example") == PERSON
    assert set(found.values()) == {ORGANISATION}
    whole = "Contoh Clinics 2 (KCB), Bandung, and its customers"
    assert set(found) == {whole, "Contoh Clinics", "Bandung", "KCB", "contoh.example", "Vendor Ltd"}
    assert names_in(Body(title="x")) == {}


def test_both_texts_of_a_report_have_a_coarse_value() -> None:
    """Masked by the names of the whole report; the same text where there is nothing to mask."""
    wide = coarse_body(
        Body(
            title="Attack on Klinik Contoh", description="By mail to ann@x.example", victim=Victim(name="Klinik Contoh")
        )
    )
    assert (wide.title_coarse, wide.description_coarse) == ("Attack on [organisation]", "By mail to [e-mail]")
    assert coarse_body(Body(title="Ransomware")).title_coarse == "Ransomware"


def test_masking_keeps_to_the_limit() -> None:
    """A text that tokens would make too long ends where its rest is held back."""
    text = "a@b.ce " * 42
    masked = mask(text, {}, LINE_LENGTH)
    assert len(text) <= LINE_LENGTH
    assert LINE_LENGTH - 16 < len(masked) <= LINE_LENGTH
    assert masked.endswith(HELD_BACK)
    assert mask(masked, {}, LINE_LENGTH) == masked


def test_overlaps_are_masked_once() -> None:
    """A name within an address goes with it; a token is no text in which anything is looked for."""
    names = {"clinic": ORGANISATION, "phone": PERSON, "mail": PERSON}
    assert mask("ann@clinic.example", names) == "[e-mail]"
    assert mask("my phone: +62 812-3456-7890", names) == "my [person]: [phone]"
    assert mask("[phone] [e-mail]", names) == "[phone] [e-mail]"


MAILS = st.from_regex(
    r"[a-z]{1,8}(\.[a-z]{1,8})?(@|\[at\]| \(at\) )[a-z]{2,9}(\.|\[\.\])(com|co\.id|example)", fullmatch=True
)
PHONES = st.sampled_from(
    [
        *("0812-3456-7890", "+62 812 3456 7890", "03-1234-5678", "090 1234 5678", "+65 9123 4567", "012-345 6789"),
        *("0912345678", "+84912345678", "081 234 5678", "+63 917 123 4567", "(021) 555-1234", "+1 (212) 555-0123"),
    ]
)
CARDS = st.sampled_from(["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"])
PLANTED = st.one_of(MAILS, PHONES, CARDS, st.sampled_from(sorted(NAMES)), st.just("203.0.113.9"), st.just("S1234567D"))
PROSE = st.text("ab zTU.,;:!?\n\"'あ病ế", max_size=12).map(lambda text: text + " ")
LOOSE = st.text("0123456789 +-().,:;@[]{}/atdoe-milphnrsSDE\n\u00a0０ー＠病é", max_size=60)


@quick(300)
@given(st.lists(st.tuples(PROSE, PLANTED), min_size=1, max_size=6))
def test_nothing_planted_stays(pieces: list[tuple[str, str]]) -> None:
    """Whatever stands around it, none of what was planted is in the result, and masking again changes nothing."""
    masked = mask("; ".join(before + planted for before, planted in pieces), NAMES)
    assert [planted for _, planted in pieces if planted in masked] == []
    assert mask(masked, NAMES) == masked


@quick(300)
@given(
    st.lists(st.one_of(LOOSE, st.text(max_size=30), PLANTED, st.sampled_from(TOKENS)), max_size=8),
    st.dictionaries(st.one_of(st.text(max_size=8), LOOSE), st.just(PERSON), max_size=3),
    st.sampled_from([LINE_LENGTH, TEXT_LENGTH]),
)
def test_masking_is_safe_on_any_text(pieces: list[str], names: dict[str, str], limit: int) -> None:
    """It never raises, never goes over the limit, and is the same twice."""
    text = "".join(pieces)[:limit]
    masked = mask(text, names, limit)
    assert len(masked) <= limit
    assert bool(masked) == bool(text)
    assert mask(masked, names, limit) == masked


@pytest.mark.parametrize(
    "unit", ["a@", "@", "01 ", "1", "1.", "a1:", "a[.]", "//u@", "1 (", "DE89 3704 ", "::", "0812 "]
)
def test_no_text_takes_long(unit: str) -> None:
    """A text of full length in the form that costs most: seconds would hold up everybody's reports."""
    text = (unit * TEXT_LENGTH)[:TEXT_LENGTH]
    assert len(mask(text, NAMES)) <= TEXT_LENGTH
