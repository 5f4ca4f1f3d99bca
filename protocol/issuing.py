"""Issuing: an origin signs 1..N reports with one signature (RFC 9901 section 4; the format stands in `envelope`).

Guarantees: every body field, every list element and every coarse value is a disclosure of its own with a salt of 128
random bits; digests are sorted, and the list of reports is padded with decoys to a power of two, so that neither order
nor number says anything. Pure: time and randomness are arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import UnsetType

from protocol import limits
from protocol.coarse import coarse_body, coarse_elements
from protocol.envelope import (
    TYP,
    Disclosure,
    Envelope,
    Payload,
    Rand,
    SignedReport,
    disclosure_digests,
    jws_digest,
)
from protocol.errors import ProtocolError
from protocol.jws import sign_jws
from protocol.keys import Signer, b64, b64_same
from protocol.reasons import Reason
from protocol.report import COARSE_SUFFIX, UNIT_BIT, UNITS, Header, Report, part_of

_encode: Final = msgspec.json.Encoder().encode
_POOL: Final = 64
"""Salts in one draw."""
Seal = Callable[[SignedReport], str | UnsetType]
"""Seals the body of a report whose header is not signed yet, and returns what the header shall name: see `sealing`."""


def _salts(rand: Rand) -> Iterator[str]:
    """Salts of 128 bits, drawn many at a time: one system call for two reports or so."""
    while True:
        pool = rand(16 * _POOL)
        yield from b64_same([pool[at : at + 16] for at in range(0, len(pool), 16)])


@dataclass(slots=True)
class _Layout:
    """What becomes of one report: where its parts stand among those of all reports of the envelope."""

    report: Report
    first: int
    marks: list[tuple[int, bool, int]] = field(default_factory=list)
    """Of each disclosure: the bit of its unit, whether it is coarse, the index of the list that it is in or -1."""
    lists: list[tuple[str, str, int, int]] = field(default_factory=list)
    """Of each list: its salt, its name, and where its elements are."""
    salt: str = ""
    """Of the header."""
    shown: dict[str, Any] = field(default_factory=dict)


def _lay_out(report: Report, salts: Iterator[str], parts: list[bytes]) -> _Layout:
    """Append the disclosures of fields and list elements, as JSON."""
    layout = _Layout(report, len(parts))
    marks = layout.marks
    body: dict[str, Any] = msgspec.to_builtins(report.body)
    wide = coarse_elements(report.body)
    for name, value in body.items():
        if not UNITS[name].each:
            parts.append(_encode((next(salts), name, value)))
            marks.append((UNIT_BIT[name], False, -1))
            layout.shown[name] = value
            continue
        elements = [*value, *msgspec.to_builtins(wide.get(name, []))]
        for element in elements:
            parts.append(_encode((next(salts), element)))
            marks.append((UNIT_BIT[part_of(name, element)], element.get("level") == "coarse", len(layout.lists)))
        layout.lists.append((next(salts), name, len(parts) - len(elements), len(parts)))
        layout.shown[name] = elements
    for name, value in msgspec.to_builtins(coarse_body(report.body)).items():
        parts.append(_encode((next(salts), name, value)))
        marks.append((UNIT_BIT[name.removesuffix(COARSE_SUFFIX)], True, -1))
        layout.shown[name] = value
    layout.salt = next(salts)
    return layout


def _build(reports: Sequence[Report], rand: Rand, seal: Seal | None) -> list[SignedReport]:
    """All reports side by side, level by level: fields and elements, then lists, then headers. What is hashed together
    costs less than piece by piece.
    """
    salts = _salts(rand)
    parts: list[bytes] = []
    layouts = [_lay_out(report, salts, parts) for report in reports]
    texts = [b64(part) for part in parts]
    digests = disclosure_digests(texts)
    lists = [
        _encode((salt, name, [{"...": digest} for digest in digests[start:end]]))
        for layout in layouts
        for salt, name, start, end in layout.lists
    ]
    containers = [b64(part) for part in lists]
    list_digests = disclosure_digests(containers)
    opened: list[Callable[[Header, str, str], SignedReport]] = []
    headers: list[Header] = []
    elements: list[bytes] = []
    done = 0
    for layout in layouts:
        first, marks, until = layout.first, layout.marks, done + len(layout.lists)
        show = partial(_signed, layout, texts[first : first + len(marks)], containers[done:until])
        header = layout.report.header
        if seal is not None:
            header = msgspec.structs.replace(header, sealed=seal(show(header, "", "")))
        alone = [digests[first + place] for place, (_, _, container) in enumerate(marks) if container < 0]
        named = sorted([*alone, *list_digests[done:until]])
        elements.append(_encode((layout.salt, {**msgspec.to_builtins(header), "_sd": named})))
        headers.append(header)
        opened.append(show)
        done = until
    names = [b64(part) for part in elements]
    together = zip(opened, headers, names, disclosure_digests(names), strict=True)
    return [show(header, text, digest) for show, header, text, digest in together]


def _signed(
    layout: _Layout, texts: list[str], containers: list[str], header: Header, name: str, digest: str
) -> SignedReport:
    marked = zip(texts, layout.marks, strict=True)
    return SignedReport(
        digest=digest,
        header_text=name,
        header=header,
        containers=tuple(containers),
        disclosures=tuple([Disclosure(text, bit, coarse, container) for text, (bit, coarse, container) in marked]),
        body=layout.shown,
        undisclosed=0,
    )


def issue(
    reports: Sequence[Report], issuer: str, signer: Signer, now: datetime, rand: Rand, seal: Seal | None = None
) -> Envelope:
    """Sign 1..64 reports of one member with one signature.

    Args:
        reports: the reports; each header's origin must be the issuer.
        issuer: the member id, `iss` of the JWS.
        rand: returns that many random bytes; salts and decoys come from it.
        seal: is asked about each report when its body is built; what it returns goes into the header as `sealed`.

    Raises:
        ProtocolError: too many reports, or what `seal` raises.
    """
    if not 1 <= len(reports) <= limits.REPORTS_PER_SUBMISSION:
        raise ProtocolError(Reason.TOO_MANY, "$", f"an envelope holds 1 to {limits.REPORTS_PER_SUBMISSION} reports")
    signed = tuple(_build(reports, rand, seal))
    padded = 1 << (len(signed) - 1).bit_length()
    decoys = [b64(hashlib.sha256(rand(32)).digest()) for _ in range(padded - len(signed))]
    payload = Payload(
        iss=issuer,
        iat=int(now.timestamp()),
        sd_alg="sha-256",
        reports=[{"...": digest} for digest in sorted([*(s.digest for s in signed), *decoys])],
    )
    jws = sign_jws(TYP, _encode(payload), signer)
    return Envelope(jws, issuer, signer.kid, now, jws_digest(jws), signed)
