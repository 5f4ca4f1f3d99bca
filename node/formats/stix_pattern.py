"""Indicator patterns of STIX 2.1: one comparison written from an indicator, the common shapes read back.

Guarantees: what is read means the same as the pattern. Alternatives (`OR`, `IN`) become several indicators; several
hashes of one file stand for that file each. Everything else, such as `AND`, `LIKE` and qualifiers, is not read at all:
half of a conjunction would mean more than its author said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from protocol.parts import refang

_PATHS: Final[Mapping[str, str]] = {
    "ipv4-addr": "ipv4-addr:value",
    "ipv6-addr": "ipv6-addr:value",
    "ipv4-net": "ipv4-addr:value",
    "ipv6-net": "ipv6-addr:value",
    "asn": "autonomous-system:number",
    "domain-name": "domain-name:value",
    "hostname": "domain-name:value",
    "url": "url:value",
    "email-addr": "email-addr:value",
    "md5": "file:hashes.MD5",
    "sha1": "file:hashes.'SHA-1'",
    "sha256": "file:hashes.'SHA-256'",
    "sha512": "file:hashes.'SHA-512'",
    "ssdeep": "file:hashes.SSDEEP",
    "file-name": "file:name",
    "mutex": "mutex:name",
    "registry-key": "windows-registry-key:key",
    "user-account": "user-account:account_login",
    "user-agent": "network-traffic:extensions.'http-request-ext'.request_header.'User-Agent'",
    "x509-sha256": "x509-certificate:hashes.'SHA-256'",
    "wallet": "cryptocurrency-wallet:value",
    "other": "x-kentongan:value",
}
"""Where a pattern holds the value of each type of indicator. The last two are not objects of the standard: OpenCTI's
for wallets, and this project's for what has no type."""

_TYPES: Final[Mapping[str, str]] = {
    **{
        path.replace("'", ""): kind for kind, path in _PATHS.items() if kind not in ("ipv4-net", "ipv6-net", "hostname")
    },
    "email-message:from_ref.value": "email-addr",
    "email-message:sender_ref.value": "email-addr",
    "network-traffic:dst_ref.value": "ipv4-addr",
    "network-traffic:src_ref.value": "ipv4-addr",
    "user-account:user_id": "user-account",
    "x509-certificate:hashes.SHA256": "x509-sha256",
    "file:hashes.SHA1": "sha1",
    "file:hashes.SHA256": "sha256",
    "file:hashes.SHA512": "sha512",
    "file:hashes.ssdeep": "ssdeep",
}

_HASHES: Final = ("md5", "sha1", "sha256", "sha512", "ssdeep")
_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*')|(?P<number>-?\d+)|(?P<mark>[\[\](),]|!?=|<>)"
    r"|(?P<path>[a-z0-9-]+:[A-Za-z0-9_-]+(?:\.(?:'(?:[^'\\]|\\.)*'|[A-Za-z0-9_-]+))*)|(?P<word>[A-Za-z]+))",
    re.DOTALL,
)
_LONGEST: Final = 64 << 10
"""Characters of a pattern that is looked at."""


class Value(NamedTuple):
    """An indicator's type and value."""

    type: str
    value: str


_VERBATIM: Final = frozenset({"other", "mutex", "registry-key", "file-name", "user-account", "user-agent", "wallet"})
"""Brackets may belong to these, and nobody clicks on them."""


def spelled(kind: str, value: str) -> str:
    """An indicator's value as tools match it: `evil[.]example` as `evil.example`."""
    return value if kind in _VERBATIM else refang(value)


def pattern_of(kind: str, value: str) -> str:
    """The pattern for an indicator; its value is written as tools match it (`evil[.]example` as `evil.example`)."""
    plain = spelled(kind, value)
    path, operator = _PATHS[kind], "="
    if kind in ("ipv4-net", "ipv6-net"):
        operator = "ISSUBSET"
    elif kind == "asn":
        if number := re.fullmatch(r"(?:AS)?([0-9]{1,10})", plain, re.IGNORECASE):
            return f"[{path} = {int(number[1])}]"
        path = "autonomous-system:name"
    escaped = plain.replace("\\", "\\\\").replace("'", "\\'")
    return f"[{path} {operator} '{escaped}']"


def values_of(pattern: str) -> list[Value] | None:
    """The values that a pattern asks for, any of which matches; None if it cannot be said as such a list."""
    tokens = _tokens(pattern)
    if tokens is None:
        return None
    found: list[Value] = []
    place = 0
    while place < len(tokens):
        try:
            end = tokens.index("]", place)
        except ValueError:
            return None
        values = _observation(tokens[place + 1 : end]) if tokens[place] == "[" else None
        if not values or (end + 1 < len(tokens) and (tokens[end + 1] != "OR" or end + 2 >= len(tokens))):
            return None
        found += values
        place = end + 2
    return list(dict.fromkeys(found)) or None


def _tokens(pattern: str) -> list[str] | None:
    if len(pattern) > _LONGEST:
        return None
    tokens: list[str] = []
    place, end = 0, len(pattern.rstrip())
    while place < end:
        match = _TOKEN.match(pattern, place)
        if match is None:
            return None
        tokens.append(match.group().strip() if match["text"] is None else match["text"])
        place = match.end()
    return tokens


def _observation(tokens: list[str]) -> list[Value] | None:
    """What stands between two brackets: comparisons joined by one kind of word."""
    found: list[list[Value]] = []
    joints: set[str] = set()
    place = 0
    while True:
        taken, read = _comparison(tokens[place:])
        if read is None:
            return None
        found.append(read)
        place += taken
        if place >= len(tokens):
            break
        joints.add(tokens[place])
        place += 1
    if joints <= {"OR"}:
        return [value for values in found for value in values]
    if joints == {"AND"} and all(len(values) == 1 and values[0].type in _HASHES for values in found):
        return [values[0] for values in found]
    return None


def _comparison(tokens: list[str]) -> tuple[int, list[Value] | None]:
    """One comparison at the beginning of the tokens: how many they are, and its values."""
    if len(tokens) < 3:
        return 0, None
    path, operator = tokens[0].replace("'", ""), tokens[1]
    if operator == "IN":
        if tokens[2] != "(" or ")" not in tokens:
            return 0, None
        end = tokens.index(")")
        literals, commas = tokens[3:end:2], tokens[4:end:2]
        if not literals or any(comma != "," for comma in commas) or len(literals) != len(commas) + 1:
            return 0, None
        values = [_value(path, "=", literal) for literal in literals]
        return end + 1, None if None in values else [value for value in values if value]
    value = _value(path, operator, tokens[2])
    return 3, None if value is None else [value]


def _value(path: str, operator: str, literal: str) -> Value | None:
    kind = _TYPES.get(path, "asn" if path == "autonomous-system:name" else None)
    if kind is None or operator not in ("=", "ISSUBSET"):
        return None
    if kind == "asn" and literal.isdigit():
        return Value("asn", f"AS{literal}")
    if not literal.startswith("'"):
        return None
    text = re.sub(r"\\(.)", r"\1", literal[1:-1], flags=re.DOTALL)
    if path.startswith(("ipv4-addr:", "ipv6-addr:", "network-traffic:")) and kind.endswith("-addr"):
        return Value(*address(text)) if kind != "email-addr" else Value(kind, text)
    return None if operator == "ISSUBSET" or not text else Value(kind, text)


def address(text: str) -> tuple[str, str]:
    """The type of an IP address or network as STIX holds both, in one property."""
    family = "ipv6" if ":" in text else "ipv4"
    net, slash, bits = text.partition("/")
    whole = "128" if family == "ipv6" else "32"
    if slash and bits == whole:
        return f"{family}-addr", net
    return f"{family}-{'net' if slash else 'addr'}", text
