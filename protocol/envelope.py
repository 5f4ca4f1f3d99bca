"""The signed envelope: an SD-JWT (RFC 9901) over 1..N reports, from which less can be released but nothing changed.

    <JWS over digests> ~ <header disclosure> ~ <body disclosure> ~ … ~

The JWS payload lists one digest a report, padded with decoys to a power of two. A header disclosure is that array
element: the report's header with `_sd`, the digests of its body. A body disclosure is one field; a list field holds the
digests of its elements, which are disclosures of their own. Dropping disclosures is all that restricting ever does.

Guarantees of `open_envelope`: the issuer's key signed the bytes; every disclosure is referenced by them exactly once;
each report's header and body are valid, or that report alone is refused with a reason. Refuses: other algorithms or
token types, unknown JOSE headers, keys outside their window, a clock ahead of ours, unreferenced, duplicate or
malformed disclosures, anything over its limit. It raises `ProtocolError` and nothing else.

Verification plan, numbers repeated in the code (RFC 9901 section 7.1):
 1 size and shape   2 key from `kid`, its algorithm   3 signature   4 issuer, window, clock   5 digests of disclosures
 6 headers by digest   7 body by digest   8 nothing left over   9 the profile's types
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from protocol import limits
from protocol.errors import ProtocolError
from protocol.jws import JwsParts, split_jws, verify_parts
from protocol.keys import KeyLookup, VerifyKey, b64, b64_same, unb64
from protocol.parse import convert, decode, refusal
from protocol.reasons import Reason
from protocol.report import (
    COARSE_SUFFIX,
    UNIT_BIT,
    UNITS,
    Body,
    CoarseBody,
    Header,
    part_of,
)

TYP: Final = "kentongan-report+sd-jwt"
Rand = Callable[[int], bytes]


class Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signed claims of an envelope."""

    iss: str
    iat: int
    sd_alg: str = msgspec.field(name="_sd_alg")
    reports: list[dict[str, str]]


_payload_decoder: Final = msgspec.json.Decoder(Payload)
_any_decoder: Final = msgspec.json.Decoder(list[Any])


class Disclosure(msgspec.Struct, frozen=True, gc=False):
    """One releasable piece of a body: its text, the bit of its unit (-1: unknown, never released) and its level."""

    text: str
    bit: int
    coarse: bool
    container: int
    """Index of the list it is an element of, -1 for a field of its own."""


@dataclass(frozen=True, slots=True)
class SignedReport:
    """A report in signed form, as far as it is disclosed here."""

    digest: str
    header_text: str
    header: Header
    containers: tuple[str, ...]
    disclosures: tuple[Disclosure, ...]
    body: dict[str, Any]
    """What this version knows of what is disclosed; it satisfies `Body` and `CoarseBody`."""
    undisclosed: int
    """How many of its signed parts this copy does not hold."""
    exact: int = field(init=False)
    """Bit mask of the units that are here in exact form."""
    coarse: int = field(init=False)
    """Bit mask of the units that are here in coarse form."""

    def __post_init__(self) -> None:
        exact = coarse = 0
        for item in self.disclosures:
            if item.bit >= 0:
                if item.coarse:
                    coarse |= 1 << item.bit
                else:
                    exact |= 1 << item.bit
        object.__setattr__(self, "exact", exact)
        object.__setattr__(self, "coarse", coarse)

    def units(self) -> tuple[int, int]:
        """Bit masks of the units present: exact, coarse."""
        return self.exact, self.coarse


@dataclass(frozen=True, slots=True)
class RefusedReport:
    """A report whose envelope is sound but whose own content is not."""

    digest: str
    error: ProtocolError


@dataclass(frozen=True, slots=True)
class Envelope:
    """A verified envelope."""

    jws: str
    issuer: str
    kid: str
    issued_at: datetime
    digest: str
    """SHA-256 over the JWS: names the submission, whatever of it is disclosed."""
    reports: tuple[SignedReport | RefusedReport, ...]


def jws_digest(jws: str) -> str:
    """The name of a submission: base64url of SHA-256 over its JWS."""
    return b64(hashlib.sha256(jws.encode("ascii")).digest())


def disclosure_digest(text: str) -> str:
    """The digest of one disclosure: over the base64url text itself (RFC 9901 section 4.2.3)."""
    return b64(hashlib.sha256(text.encode("ascii")).digest())


def disclosure_digests(texts: Iterable[str]) -> list[str]:
    """`disclosure_digest` of each."""
    return b64_same([hashlib.sha256(text.encode("ascii")).digest() for text in texts])


# --- restricting ------------------------------------------------------------------------------------------------


def _chosen(report: SignedReport, exact: int, coarse: int) -> list[str]:
    chosen = [report.header_text]
    opened: set[int] = set()
    for item in report.disclosures:
        if item.bit < 0 or not (coarse if item.coarse else exact) >> item.bit & 1:
            continue
        if item.container >= 0 and item.container not in opened:
            opened.add(item.container)
            chosen.append(report.containers[item.container])
        chosen.append(item.text)
    return chosen


def release(report: SignedReport, exact: int, coarse: int) -> list[str]:
    """The disclosures of a report that a grant lets through.

    Args:
        exact, coarse: bit masks over `UNIT_NAMES`. A coarse value travels only where the exact one, if
            this copy holds it, does not. Units without a bit never travel.
    """
    return _chosen(report, exact, coarse & ~(exact & report.exact))


def leave(report: SignedReport, exact: int, coarse: int) -> list[str]:
    """The disclosures that the masks allow, coarse values beside exact ones: for an origin whose broker picks later."""
    return _chosen(report, exact, coarse)


def present(jws: str, parts: Iterable[Iterable[str]]) -> str:
    """An SD-JWT in compact form from a JWS and the released disclosures of some of its reports."""
    return "~".join([jws, *(text for part in parts for text in part), ""])


# --- verifying --------------------------------------------------------------------------------------------------


def _split(text: str | bytes) -> tuple[str, list[str]]:
    """Step 1: an SD-JWT without key binding ends in `~`."""
    if len(text) > limits.SUBMISSION:
        raise ProtocolError(Reason.TOO_LARGE, "$", f"an envelope has at most {limits.SUBMISSION} bytes")
    try:
        plain = text.decode("ascii") if isinstance(text, bytes) else text
        plain.encode("ascii")
    except UnicodeError as exc:
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "an SD-JWT is ASCII") from exc
    jws, *disclosures = plain.split("~")
    if not disclosures or disclosures.pop() != "":
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "an SD-JWT without key binding ends in ~")
    return jws, disclosures


class _Pool:
    """Steps 5 to 8: disclosures by digest, each to be taken exactly once, each digest to be named exactly once."""

    def __init__(self, texts: list[str]) -> None:
        self._texts: dict[str, str] = {}
        self._named: set[str] = set()
        self._texts.update(zip(disclosure_digests(texts), texts, strict=True))
        if len(self._texts) < len(texts):
            raise ProtocolError(Reason.DISCLOSURE_DUPLICATE, "$", "a disclosure is there twice")

    def take(self, digest: object) -> tuple[str, list[Any]] | None:
        """The disclosure behind a digest, decoded; None if it is withheld here."""
        if not isinstance(digest, str):
            raise ProtocolError(Reason.DISCLOSURE_MALFORMED, "$", "a digest is a string")
        if digest in self._named:
            raise ProtocolError(Reason.DISCLOSURE_DUPLICATE, "$", "a digest is named twice")
        self._named.add(digest)
        text = self._texts.pop(digest, None)
        if text is None:
            return None
        if len(text) > limits.DISCLOSURE * 2:
            raise ProtocolError(Reason.TOO_LARGE, "$", "a disclosure is over its limit")
        try:
            values = _any_decoder.decode(unb64(text))
        except (ValueError, msgspec.DecodeError, RecursionError) as exc:
            raise ProtocolError(Reason.DISCLOSURE_MALFORMED, "$", "a disclosure is not base64url of JSON") from exc
        if not values or not isinstance(values[0], str):
            raise ProtocolError(Reason.DISCLOSURE_MALFORMED, "$", "a disclosure begins with its salt")
        return text, values

    def check_empty(self) -> None:
        if self._texts:
            raise ProtocolError(Reason.DISCLOSURE_UNREFERENCED, "$", f"{len(self._texts)} disclosures are not signed")


@dataclass(slots=True)
class _Opened:
    """One report with its digests resolved and its content not yet judged."""

    digest: str
    text: str
    element: dict[str, Any]
    containers: list[str] = field(default_factory=list)
    disclosures: list[Disclosure] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    body: dict[str, Any] = field(default_factory=dict)
    undisclosed: int = 0


def _reference(item: object) -> object:
    if not isinstance(item, dict) or len(item) != 1 or "..." not in item:
        raise ProtocolError(Reason.DISCLOSURE_MALFORMED, "$", "a list of disclosures holds {'...': digest}")
    return item["..."]


def _open_list(name: str, value: Any, opened: _Opened, pool: _Pool) -> list[Any]:
    if not isinstance(value, list) or len(value) > 2 * limits.LIST_ELEMENTS:
        raise ProtocolError(Reason.DISCLOSURE_MALFORMED, f"$.body.{name}", "this field is a list of disclosures")
    container = len(opened.containers) - 1
    elements: list[Any] = []
    for item in value:
        found = pool.take(_reference(item))
        if found is None:
            opened.undisclosed += 1
            continue
        text, values = found
        if len(values) != 2 or not isinstance(values[1], dict):
            raise ProtocolError(Reason.DISCLOSURE_MALFORMED, f"$.body.{name}", "an element is [salt, object]")
        bit = UNIT_BIT.get(part_of(name, values[1]), -1)
        opened.disclosures.append(Disclosure(text, bit, values[1].get("level") == "coarse", container))
        elements.append(values[1])
    return elements


def _open_field(digest: object, opened: _Opened, pool: _Pool) -> None:
    """Step 7."""
    found = pool.take(digest)
    if found is None:
        opened.undisclosed += 1
        return
    text, values = found
    if len(values) != 3 or not isinstance(values[1], str) or values[1] in ("_sd", "..."):
        raise ProtocolError(Reason.DISCLOSURE_MALFORMED, "$.body", "a field is [salt, name, value]")
    name, value = values[1], values[2]
    if name in opened.names or name in opened.element:
        raise ProtocolError(Reason.DISCLOSURE_DUPLICATE, f"$.body.{name[:64]}", "a field is there twice")
    opened.names.add(name)
    plain = name.removesuffix(COARSE_SUFFIX)
    unit = UNITS.get(plain)
    if unit is not None and unit.each and plain == name:
        opened.containers.append(text)
        opened.body[name] = _open_list(name, value, opened, pool)
        return
    coarse = plain != name
    known = unit is not None and not unit.each and (unit.coarse or not coarse)
    opened.disclosures.append(Disclosure(text, UNIT_BIT[plain] if known else -1, coarse, -1))
    if known:
        opened.body[name] = value


def _open_report(digest: str, text: str, values: list[Any], pool: _Pool) -> _Opened:
    """Steps 6 and 7."""
    if len(values) != 2 or not isinstance(values[1], dict):
        raise ProtocolError(Reason.DISCLOSURE_MALFORMED, "$.reports", "a report is [salt, object]")
    element = values[1]
    digests = element.pop("_sd", [])
    if not isinstance(digests, list) or len(digests) > limits.DISCLOSURES_PER_REPORT:
        raise ProtocolError(Reason.DISCLOSURE_MALFORMED, "$.reports", "_sd is a bounded list of digests")
    opened = _Opened(digest, text, element)
    for body_digest in digests:
        _open_field(body_digest, opened, pool)
    return opened


_COARSE_NAMES: Final = frozenset(CoarseBody.__struct_fields__)


def _judge(opened: _Opened, issuer: str) -> SignedReport:
    """Step 9. Fields that this version does not know stay signed, and are never released."""
    header = convert(opened.element, Header)
    if header.origin.member != issuer:
        raise ProtocolError(Reason.WRONG_MEMBER, "$.origin.member", "the report's origin is not its signer")
    convert({name: value for name, value in opened.body.items() if name in UNITS}, Body, "$.body")
    if not _COARSE_NAMES.isdisjoint(opened.body):
        convert({name: value for name, value in opened.body.items() if name in _COARSE_NAMES}, CoarseBody, "$.body")
    return SignedReport(
        digest=opened.digest,
        header_text=opened.text,
        header=header,
        containers=tuple(opened.containers),
        disclosures=tuple(opened.disclosures),
        body=opened.body,
        undisclosed=opened.undisclosed,
    )


def header_in(text: str) -> Header:
    """The header that a report's own disclosure holds.

    Args:
        text: the disclosure, from an envelope that was opened before.

    Raises:
        ProtocolError: it is none.
    """
    try:
        values = msgspec.json.decode(unb64(text))
    except (ValueError, msgspec.DecodeError) as exc:
        raise ProtocolError(Reason.DISCLOSURE_MALFORMED, "$.reports", "not a disclosure") from exc
    if not isinstance(values, list) or len(values) != 2 or not isinstance(values[1], dict):
        raise ProtocolError(Reason.DISCLOSURE_MALFORMED, "$.reports", "a report is [salt, object]")
    values[1].pop("_sd", None)
    return convert(values[1], Header)


@dataclass(frozen=True, slots=True)
class ParsedEnvelope:
    """Step 1 done: the parts, and the key that the header asks for. Nothing is verified yet."""

    parts: JwsParts
    jws: str
    texts: list[str]


def parse_envelope(text: str | bytes) -> ParsedEnvelope:
    """Take an envelope apart without believing any of it."""
    jws, texts = _split(text)
    return ParsedEnvelope(split_jws(jws, TYP), jws, texts)


def open_envelope(text: str | bytes, find_key: KeyLookup, at: datetime) -> Envelope:
    """Verify an envelope, or what is left of one after restricting.

    Args:
        text: the SD-JWT in compact form.
        find_key: finds the public key for a key id.
        at: when the broker first received it; keys are judged by their state at that time.

    Raises:
        ProtocolError: the envelope as a whole is refused. A report that is at fault alone becomes a `RefusedReport`.
    """
    parsed = parse_envelope(text)
    key = verify_parts(parsed.parts, find_key)  # 2, 3
    payload = decode(_payload_decoder, parsed.parts.payload)
    issued_at = _check_claims(payload, key, at)  # 4
    pool = _Pool(parsed.texts)  # 5
    opened: list[_Opened] = []
    for item in payload.reports:
        digest = _reference(item)
        found = pool.take(digest)
        if found is not None:
            opened.append(_open_report(str(digest), *found, pool))
    pool.check_empty()  # 8
    if not opened:
        raise ProtocolError(Reason.EMPTY, "$.reports", "no report is disclosed")
    reports = tuple(_judge_alone(report, payload.iss) for report in opened)
    return Envelope(parsed.jws, payload.iss, key.record.kid, issued_at, jws_digest(parsed.jws), reports)


def _check_claims(payload: Payload, key: VerifyKey, at: datetime) -> datetime:
    """Step 4; returns the time of signing."""
    if payload.iss != key.owner:
        raise ProtocolError(Reason.WRONG_MEMBER, "$.iss", "the key does not belong to the issuer")
    if payload.sd_alg != "sha-256":
        raise ProtocolError(Reason.ALGORITHM_NOT_ALLOWED, "$._sd_alg", "only sha-256 is allowed")
    key.check_window(at)
    issued_at = _instant(payload.iat)
    if issued_at > at + limits.CLOCK_SKEW:
        raise ProtocolError(Reason.TIME_IN_FUTURE, "$.iat", "signed in the future: check the clock")
    if not 1 <= len(payload.reports) <= limits.REPORTS_PER_SUBMISSION:
        raise ProtocolError(Reason.TOO_MANY, "$.reports", f"1 to {limits.REPORTS_PER_SUBMISSION} reports an envelope")
    return issued_at


def _judge_alone(opened: _Opened, issuer: str) -> SignedReport | RefusedReport:
    """A report that is at fault does not take the others of its envelope with it."""
    try:
        return _judge(opened, issuer)
    except ProtocolError as exc:
        return RefusedReport(opened.digest, exc)
    except RecursionError as exc:
        return RefusedReport(opened.digest, refusal(exc))


def _instant(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.iat", "not a time") from exc
