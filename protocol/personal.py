"""Personal data in free text: found, and replaced by fixed tokens, so that the rest of a text can travel.

Guarantees of `mask`: it raises on no text; masking twice is masking once; the result is no longer than the limit; what
overlaps is replaced once, as a whole. When in doubt it replaces. It finds what has a form (mail addresses, telephone,
card and identity numbers, network addresses) and the names that it is given: a name that nobody stated as a name stays,
and so does whatever else tells a reader who it is about. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from socket import AF_INET6, inet_pton
from typing import Final
from unicodedata import normalize

from msgspec import UNSET

from protocol.numbers import LEAST_DIGITS, is_amount, numbers
from protocol.parts import TEXT_LENGTH
from protocol.report import Body

Span = tuple[int, int, str]

MAIL: Final = "[e-mail]"
PHONE: Final = "[phone]"
ADDRESS: Final = "[address]"
CARD: Final = "[card]"
NUMBER: Final = "[number]"
ORGANISATION: Final = "[organisation]"
PERSON: Final = "[person]"
HELD_BACK: Final = "[text]"
"""Stands for a piece of the text that is not there at all: what came after it would have been too long."""

TOKENS: Final = (MAIL, PHONE, ADDRESS, CARD, NUMBER, ORGANISATION, PERSON, HELD_BACK)
_TOKEN: Final = re.compile("(" + "|".join(map(re.escape, TOKENS)) + ")")

# Letters of scripts that put spaces between words; others, such as Japanese and Thai, stand beside a name or number.
_WORD: Final = r"0-9A-Za-z_\u00aa-\u0dff\u1e00-\u1fff"
_DOT: Final = r"(?:\.|\s?[\[({]\s?(?:\.|dot)\s?[\])}]\s?)"
_COLON: Final = r"(?::|\[:\])"
_AT: Final = re.compile(r"[@＠]|\s?[\[({]\s?(?:[@＠]|at)\s?[\])}]\s?", re.IGNORECASE)
_AT_IN_BRACKETS: Final = re.compile(r"[\[({]\s?at\s?[\])}]", re.IGNORECASE)


# --- mail addresses, and addresses with a password ----------------------------------------------------------------

_LATIN: Final = r"A-Za-z0-9\u00c0-\u024f\u1e00-\u1eff"
# Latin first: beside Japanese text, which knows no spaces, any letters would take the sentence along.
_LOCALS: Final = tuple(
    re.compile(rf"(?:[{letters}._%+~#-]|\[\.\]|\[dot\])+\Z", re.IGNORECASE) for letters in (_LATIN, r"\w")
)
_DOMAINS: Final = tuple(
    re.compile(
        rf"\d{{1,3}}(?:{_DOT}\d{{1,3}}){{3}}(?![{_WORD}.-])"
        rf"|[{letters}-]{{1,63}}+(?:{_DOT}[{letters}-]{{1,63}}+)*{_DOT}(?!\d+\b)[{letters}-]{{2,63}}",
        re.IGNORECASE,
    )
    for letters in (_LATIN, r"\w")
)
_LONGEST_LOCAL: Final = 64
_LOGIN: Final = re.compile(rf"(?:[a-z][a-z0-9+.-]{{1,20}})?(?:{_COLON}//|\[://\])[^\s/@＠]{{1,200}}\Z", re.IGNORECASE)
_UP_TO_SPACE: Final = re.compile(r"""[^\s"'<>、。」）]*""")


def _mails(text: str) -> Iterator[Span]:
    """Every `user@host.example`, defanged or not, and every URL whose user and password stand before an `@`."""
    for at in _AT.finditer(text):
        before = text[max(0, at.start() - 256) : at.start()]
        login = _LOGIN.search(before) if "//" in before else None
        if login is not None:
            rest = _UP_TO_SPACE.match(text, at.end())
            yield at.start() - len(login[0]), rest.end() if rest else at.end(), ADDRESS
            continue
        before = before[-_LONGEST_LOCAL:]
        local = next((found for kind in _LOCALS if (found := kind.search(before))), None)
        domain = next((found for kind in _DOMAINS if (found := kind.match(text, at.end()))), None)
        if local is not None and domain is not None:
            yield at.start() - len(local[0]), domain.end(), MAIL


# --- network addresses --------------------------------------------------------------------------------------------

# A digit first, what stands before it after that: patterns that begin with a digit are searched several times as fast.
_IPV4: Final = re.compile(
    rf"\d(?<![{_WORD}]\d)(?<!\d\.\d)\d{{0,2}}(?:{_DOT}\d{{1,3}}){{3}}(?![{_WORD}])(?!\.\d)", re.IGNORECASE
)
_IPV6: Final = re.compile(
    rf"(?<![{_WORD}:])(?:[0-9a-f]{{0,4}}{_COLON}){{2,7}}(?:\d{{1,3}}(?:{_DOT}\d{{1,3}}){{3}}|[0-9a-f]{{1,4}})?(?![{_WORD}:])",
    re.IGNORECASE,
)
_VERSION: Final = re.compile(
    r"(?:\bv|\bver(?:sion|si|\.)?|\bbuild|\brelease|phiên bản|バージョン|版本)[\s.:]*\Z", re.IGNORECASE
)


def _is_ipv6(value: str) -> bool:
    """It has a digit, so that `Abc::Def` in a program stays what it is."""
    plain = re.sub(r"[\s\[\](){}]", "", value).lower().replace("dot", ".")
    if not any(char.isdecimal() for char in plain):
        return False
    try:
        inet_pton(AF_INET6, plain)
    except (OSError, ValueError):
        return False
    return True


def _addresses(text: str) -> Iterator[Span]:
    for found in _IPV4.finditer(text):
        fits = all(int(part) < 256 for part in re.findall(r"\d+", found[0])) and not is_amount(text, *found.span())
        if fits and not _VERSION.search(text[max(0, found.start() - 16) : found.start()]):
            yield *found.span(), ADDRESS
    if "::" in text or "[:]" in text or text.count(":") > 6:
        yield from ((*found.span(), ADDRESS) for found in _IPV6.finditer(text) if _is_ipv6(found[0]))


def _numbers(text: str) -> Iterator[Span]:
    return ((start, end, {"phone": PHONE, "card": CARD}.get(kind, NUMBER)) for start, end, kind in numbers(text))


# --- names ----------------------------------------------------------------------------------------------------------

_LETTERS: Final = re.compile(r"[^\W_]+")
_ABBREVIATION: Final = 3
"""Up to this many letters, a name is looked for as it is written: the firm IT is not the word "it"."""


@lru_cache(maxsize=1_024)
def _name_pattern(name: str) -> re.Pattern[str]:
    words = [_DOT.join(map(re.escape, word.split("."))) for word in name.split()]
    before = rf"(?<![{_WORD}])" if re.match(rf"[{_WORD}]", name) else ""
    after = rf"(?![{_WORD}])" if re.search(rf"[{_WORD}]\Z", name) else ""
    return re.compile(before + r"\s+".join(words) + after, 0 if _short(name) else re.IGNORECASE)


def _short(name: str) -> bool:
    return len(name) <= _ABBREVIATION and name.isascii()


@lru_cache(maxsize=1_024)
def _forms(name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The spellings of a name in Unicode, each with its words, the longest first; none if it has no two letters."""
    spellings = {name.strip()} if name.isascii() else {normalize(form, name.strip()) for form in ("NFC", "NFD")}
    forms = [(form, sorted(map(str.casefold, _LETTERS.findall(form)), key=len, reverse=True)) for form in spellings]
    return tuple((form, tuple(words)) for form, words in forms if sum(map(len, words)) > 1)


def _named(text: str, names: Mapping[str, str]) -> Iterator[Span]:
    folded = text.casefold()
    spaced: str | None = None
    for name, token in names.items():
        for form, words in _forms(name):
            # Nearly always the words alone tell that the text does not hold a name: no pattern is needed, and making
            # one costs as much as signing ten reports.
            if not all(word in folded for word in words):
                continue
            if "." not in form:
                spaced = spaced if spaced is not None else " ".join(folded.split())
                if " ".join(form.casefold().split()) not in spaced:
                    continue
            yield from ((*found.span(), token) for found in _name_pattern(form).finditer(text))


_PARTS: Final = re.compile(r"[(),;:、（）]|\s(?:and|&|dan|và)\s")
_LEAST_PART: Final = 4
_BY_CAPITALS: Final = re.compile(r"(?=\w{3})\w*[A-Z]\w*[A-Z]\w*")


@lru_cache(maxsize=1_024)
def _parts(name: str) -> tuple[str, ...]:
    """A victim's name, what parentheses, commas and "and" part in it, and words of several capitals: `SingHealth`.

    A part without a capital, in a script that has them, describes and does not name: `and its customers`. A number at
    the end of a part is no part of it.
    """
    parts = [re.sub(r"\s+\d+\Z", "", part.strip()) for part in _PARTS.split(name)]
    names = [part for part in parts if len(part) >= _LEAST_PART and (part != part.lower() or not part.isascii())]
    return (name, *names, *_BY_CAPITALS.findall(name))


def names_in(body: Body) -> dict[str, str]:
    """The names that a report states as such, and what stands for them: victim, third party, contacts.

    Of the victim also the parts of its name, see `_parts`, and its website.
    """
    found: dict[str, str] = {}
    if body.victim is not UNSET:
        found.update(dict.fromkeys(_parts(body.victim.name), ORGANISATION))
        if body.victim.website:
            found[re.sub(r"^(?:\w+://)?(?:www\.)?|/+\Z", "", body.victim.website)] = ORGANISATION
    if body.third_party is not UNSET:
        found[body.third_party.name] = ORGANISATION
    if body.contacts is not UNSET:
        found.update((contact.name, PERSON) for contact in body.contacts if contact.name)
    return found


# --- masking --------------------------------------------------------------------------------------------------------

_DIGIT: Final = re.compile(r"\d")
_ROUNDS: Final = 16
"""Replacing may bare something beside it. A text that is not at rest by then was made to be so, and is held back."""


def _found(text: str, names: Mapping[str, str]) -> list[Span]:
    found: list[Span] = []
    brackets = "[" in text or "(" in text or "{" in text
    if "@" in text or "＠" in text or (brackets and _AT_IN_BRACKETS.search(text)):
        found += _mails(text)
    digits = sum(map(text.count, "0123456789")) if text.isascii() else len(_DIGIT.findall(text))
    if digits:
        found += _addresses(text)
    if digits >= LEAST_DIGITS:
        found += _numbers(text)
    if names:
        found += _named(text, names)
    return found


def _replace(text: str, found: list[Span]) -> str:
    """Each group of overlapping spans becomes the token of the one that begins first, the longest of those."""
    if not found:
        return text
    pieces: list[str] = []
    done = 0
    for start, end, token in sorted(found, key=lambda span: (span[0], -span[1])):
        if start >= done:
            pieces += [text[done:start], token]
        done = max(done, end)
    return "".join([*pieces, text[done:]])


def _fitted(text: str, limit: int) -> str:
    """Whole pieces from the start, cut at a token: a cut in the middle could bare what was no number before."""
    if len(text) <= limit:
        return text
    kept = ""
    for piece in _TOKEN.split(text):
        if len(kept) + len(piece) + len(HELD_BACK) > limit:
            break
        kept += piece
    return kept + HELD_BACK


def mask(text: str, names: Mapping[str, str], limit: int = TEXT_LENGTH) -> str:
    """The text with personal data replaced by tokens.

    Args:
        names: what else to replace, by the token that stands for it: see `names_in`.
        limit: how long the result may be; the text itself is no longer.
    """
    for _ in range(_ROUNDS):
        if "[" in text:
            # A token is no text: nothing is looked for in it or across it.
            pieces = _TOKEN.split(text)
            masked = "".join(piece if piece in TOKENS else _replace(piece, _found(piece, names)) for piece in pieces)
        else:
            masked = _replace(text, _found(text, names))
        if masked == text:
            return _fitted(text, limit)
        text = masked
    return HELD_BACK
