"""Numbers that belong to somebody: telephones, payment cards, identity numbers, accounts.

Guarantees of `numbers`: the spans overlap only where two kinds claim the same text; dates, times, versions, amounts,
counts with thousands separators, UUIDs and what is part of a longer word (hashes, CVE ids) are left alone.

Telephone numbers are what the library says is one, in international form or in that of a region below. It is slow and
loads slowly: it is asked about runs of digits that could be one, and only so often; then such a run counts as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, Literal

Kind = Literal["phone", "card", "number"]

REGIONS: Final = ("ID", "JP", "MY", "SG", "VN", "TH", "PH")

_WORD: Final = r"0-9A-Za-z_\u00aa-\u0dff\u1e00-\u1fff"
_DASHES: Final = r"\-\u2010-\u2015\u30fc\uff0d"
_SEPARATOR: Final = rf"(?:[ \u00a0\u3000.{_DASHES}]|[ \u00a0]?[(（]|[)）][ \u00a0{_DASHES}]?|[ ][{_DASHES}][ ])"
LEAST_DIGITS: Final = 7
"""No text with fewer digits holds such a number."""

# A digit, `+` or `(` first, what stands before it after that: such patterns are searched several times as fast.
_RUN: Final = re.compile(
    rf"[+＋(（\d](?<![{_WORD}].)(?<![{_WORD}][-,].)(?<!\d\..)(?:(?<=\d)|(?<=[(（])\d|(?<=[+＋])[(（]?\d)"
    rf"(?:{_SEPARATOR}?\d)*+(?![{_WORD}])(?!-[A-Za-z])"
)

# --- what is no such number -----------------------------------------------------------------------------------------

_YEAR: Final = r"(?:19|20)\d\d"
_DATE: Final = re.compile(
    r"\d(?<!\d\d)(?<!\d-\d)(?:(?:(?<=1)9|(?<=2)0)\d\d([-/.])\d{1,2}\1\d{1,2}"
    rf"|\d?([-/.])\d{{1,2}}\2{_YEAR})"
    r"(?:[ T]\d{1,2}:\d\d(?::\d\d)?)?(?!\d)(?!-\d)"
)
_STAMP: Final = re.compile(rf"{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?")
_QUAD: Final = re.compile(r"\d(?<![\d.]\d)\d{0,2}(?:\.\d{1,3}){3}(?![\d.])")
_UUID: Final = re.compile(r"\d{8}-\d{4}-\d{4}-\d{4}-\d{12}")
_THOUSANDS: Final = re.compile(r"[1-9]\d{0,2}(?:([ \u00a0.])\d{3})(?:\1\d{3})*")
_CURRENCY_BEFORE: Final = re.compile(
    r"(?:[$€£¥¥₫฿₱]|(?<![A-Za-z])(?:USD|EUR|IDR|Rp\.?|JPY|MYR|RM|SGD|VND|THB|PHP))[ \u00a0]?\Z", re.IGNORECASE
)
_UNIT_AFTER: Final = re.compile(
    r"[ \u00a0]?(?:[€₫฿₱%]|円|ドル|万|億|件|人|(?:USD|EUR|IDR|JPY|MYR|SGD|VND|THB|PHP"
    r"|rupiah|yen|baht|pesos?|đồng|dong|ringgit|dollars?|[kmgt]?bytes?|[kmgt]b|records?|people|users?|accounts?|orang|juta|miliar|triệu|tỷ)(?![A-Za-z]))",
    re.IGNORECASE,
)


def is_amount(text: str, start: int, end: int) -> bool:
    """Whether a currency or a unit stands beside a number."""
    return bool(_CURRENCY_BEFORE.search(text[max(0, start - 6) : start]) or _UNIT_AFTER.match(text, end))


def _is_quantity(text: str, start: int, end: int) -> bool:
    return _THOUSANDS.fullmatch(text, start, end) is not None or is_amount(text, start, end)


# --- telephones -------------------------------------------------------------------------------------------------------

_CALL: Final = re.compile(
    r"(?:(?<![A-Za-z])(?:tel|telp|telepon|telephone|phone|mobile|hp|h/p|wa|whatsapp|sms|fax|faks|call|hotline|hubungi"
    r"|đt|sđt|điện thoại|gọi|di động)|電話|携帯|連絡先|โทร)[\s.:：)]*\Z",
    re.IGNORECASE,
)
# Numbers that have no trunk prefix, so that only their groups tell them from counts and ranges.
_SINGAPORE: Final = re.compile(rf"[3689]\d{{3}}[ {_DASHES}]\d{{4}}")
_RANGE: Final = re.compile(rf"\d\d00[ {_DASHES}]\d\d(?:00|99)")
_SERVICE: Final = re.compile(rf"1[3589]00(?:[ {_DASHES}]\d{{2,4}}){{2,3}}")
_QUESTIONS: Final = 100


@lru_cache(maxsize=4_096)
def _is_phone(digits: str, region: str | None, sure: bool) -> bool:
    import phonenumbers  # noqa: PLC0415 - 0.15 s that a process which signs nothing never needs

    try:
        number = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number) or (sure and phonenumbers.is_possible_number(number))


class _Phones:
    """Asks the library about the runs of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = _QUESTIONS

    def is_one(self, start: int, end: int) -> bool:
        run = self._text[start:end]
        digits = _digits(run)
        if not LEAST_DIGITS <= len(digits) <= 15:
            return False
        called = bool(_CALL.search(self._text[max(0, start - 20) : start]))
        if run.lstrip("(（")[0] in "+＋":
            return self._ask("+" + digits, called or len(digits) >= 9, None)
        if not called and _is_quantity(self._text, start, end):
            return False
        if digits.startswith("00"):
            return self._ask("+" + digits[2:], False, None)
        if digits[0] == "0":
            # 0.12.345.6789 is a version; a trunk prefix never stands alone.
            return run.lstrip("(（")[1:2].isdecimal() and self._ask(digits, called, *REGIONS)
        if called and self._ask(digits, False, *REGIONS):
            return True
        if _SINGAPORE.fullmatch(run) and not _RANGE.fullmatch(run):
            return self._ask(digits, False, "SG")
        if _SERVICE.fullmatch(run):
            return self._ask(digits, False, *REGIONS)
        # Written without the plus, as in links of messengers.
        return 11 <= len(digits) <= 13 and len(run) == len(digits) and self._ask("+" + digits, False, None)

    def _ask(self, digits: str, sure: bool, *regions: str | None) -> bool:
        self._left -= 1
        return self._left < 0 or any(_is_phone(digits, region, sure) for region in regions)


# --- cards, identity numbers, accounts --------------------------------------------------------------------------------

_NRIC: Final = re.compile(rf"[STFGM](?<![{_WORD}].)\d{{7}}[A-Z](?![{_WORD}])", re.IGNORECASE)
_IBAN: Final = re.compile(
    rf"[A-Z](?<![{_WORD}].)[A-Z]\d\d(?: ?[A-Z0-9]{{4}}){{2,7}}+(?: ?[A-Z0-9]{{1,3}})?(?![{_WORD}])"
)
_HEX_DIGEST: Final = re.compile(r"[0-9A-F]{32}")
_ISSUER: Final = re.compile(r"4|5[0-8]|2[2-7]|3[04-9]|6")
_CARD_GROUPS: Final = ([4, 4, 4, 4], [4, 6, 5], [4, 6, 4], [4, 4, 4, 4, 3])


_SPACE: Final = re.compile(r"[ \u00a0\u3000]")
_GROUP: Final = re.compile(r"[^ \u00a0\u3000]+")


def _digits(run: str) -> str:
    """The digits of a run, whatever their script."""
    return "".join(str(int(char)) for char in run if char.isdecimal())


def _luhn(digits: str) -> bool:
    values = [int(digit) for digit in reversed(digits)]
    return sum(values[::2] + [sum(divmod(2 * value, 10)) for value in values[1::2]]) % 10 == 0


def _iban_length(run: str) -> int:
    """How much of a run is an account number: words in capitals may follow it."""
    ends = [match.start() for match in re.finditer(" ", run)] + [len(run)]
    for end in reversed(ends):
        plain = run[:end].replace(" ", "")
        if len(plain) < 15 or _HEX_DIGEST.fullmatch(plain):
            continue
        if int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1:
            return end
    return 0


def _long(run: str, digits: str) -> Kind | None:
    """What a run of 12 digits and more is. Dots are those of versions and amounts; spaces may part numbers in a row."""
    separators = set(re.findall(_SEPARATOR, run))
    if len(digits) < 12 or "." in run or len(separators) > 1 or _STAMP.fullmatch(digits) or _UUID.fullmatch(run):
        return None
    groups = re.findall(r"\d+", run)
    sizes = [len(group) for group in groups]
    plain = len(sizes) == 1 or sizes in _CARD_GROUPS
    if plain and 13 <= len(digits) <= 19 and _ISSUER.match(digits) and _luhn(digits):
        return "card"
    fours = {*sizes[:-1]} == {4} and not all(re.fullmatch(_YEAR, group) for group in groups)
    return "number" if len(sizes) == 1 or fours or separators.isdisjoint(" \u00a0\u3000") else None


def _blank(found: re.Match[str]) -> str:
    return "|" * len(found[0])


def _of_run(start: int, end: int, phones: _Phones, text: str) -> Iterator[tuple[int, int, Kind]]:
    run = text[start:end]
    digits = _digits(run)
    if len(digits) < LEAST_DIGITS:
        return
    kind = _long(run, digits)
    if kind == "card":
        yield start, end, kind
    elif phones.is_one(start, end):
        yield start, end, "phone"
    elif kind is not None and not _is_quantity(text, start, end):
        yield start, end, kind
    elif _SPACE.search(run):
        yield from _within(start, end, phones, text)


def _within(start: int, end: int, phones: _Phones, text: str) -> Iterator[tuple[int, int, Kind]]:
    """Numbers in a row, each of its own kind: `in 2024 0812-3456-7890`."""
    groups = [found.span() for found in _GROUP.finditer(text, start, end)]
    at = 0
    while at < len(groups):
        first, size = groups[at][0], 1
        if text[first] in "+＋(（0０":
            tries = (n for n in range(min(6, len(groups) - at), 1, -1) if phones.is_one(first, groups[at + n - 1][1]))
            size = next(tries, 1)
        if size > 1:
            yield first, groups[at + size - 1][1], "phone"
        else:
            yield from _of_run(*groups[at], phones, text)
        at += size


def numbers(text: str) -> Iterator[tuple[int, int, Kind]]:
    """Where such numbers stand in a text, and what they are."""
    for found in _NRIC.finditer(text):
        yield *found.span(), "number"
    for found in _IBAN.finditer(text):
        if length := _iban_length(found[0]):
            yield found.start(), found.start() + length, "number"
    quiet = _QUAD.sub(_blank, _DATE.sub(_blank, text))
    phones = _Phones(quiet)
    for found in _RUN.finditer(quiet):
        yield from _of_run(*found.span(), phones, quiet)
