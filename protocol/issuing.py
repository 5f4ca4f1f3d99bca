"""Issuing: an origin signs 1..N reports with one signature (RFC 9901 section 4; the format stands in `envelope`).

Guarantees: every body field, every list element and every coarse value is a disclosure of its own with a salt of 128
random bits; digests are sorted, and the list of reports is padded with decoys to a power of two, so that neither order
nor number says anything. Pure: time and randomness are arguments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
    disclosure_digest,
    jws_digest,
)
from protocol.errors import ProtocolError
from protocol.jws import sign_jws
from protocol.keys import Signer, b64
from protocol.reasons import Reason
from protocol.report import COARSE_SUFFIX, UNIT_BIT, UNITS, Header, Report, part_of

_encode: Final = msgspec.json.Encoder().encode
Seal = Callable[[SignedReport], str | UnsetType]
"""Seals the body of a report whose header is not signed yet, and returns what the header shall name: see `sealing`."""


class _Salts:
    """Salts of 128 bits, drawn in one go: one system call a report instead of one a disclosure."""

    def __init__(self, rand: Rand) -> None:
        self._rand = rand
        self._pool = b""
        self._at = 0

    def next(self) -> str:
        if self._at + 16 > len(self._pool):
            self._pool = self._rand(16 * 64)
            self._at = 0
        self._at += 16
        return b64(self._pool[self._at - 16 : self._at])


@dataclass(slots=True)
class _Builder:
    salts: _Salts
    containers: list[str] = field(default_factory=list)
    disclosures: list[Disclosure] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    shown: dict[str, Any] = field(default_factory=dict)

    def single(self, name: str, value: Any, bit: int, *, coarse: bool) -> None:
        text = b64(_encode([self.salts.next(), name, value]))
        self.disclosures.append(Disclosure(text, bit, coarse, -1))
        self.digests.append(disclosure_digest(text))
        self.shown[name] = value

    def each(self, name: str, elements: Sequence[dict[str, Any]]) -> None:
        container = len(self.containers)
        digests: list[dict[str, str]] = []
        for element in elements:
            text = b64(_encode([self.salts.next(), element]))
            bit = UNIT_BIT[part_of(name, element)]
            self.disclosures.append(Disclosure(text, bit, element.get("level") == "coarse", container))
            digests.append({"...": disclosure_digest(text)})
        text = b64(_encode([self.salts.next(), name, digests]))
        self.containers.append(text)
        self.digests.append(disclosure_digest(text))
        self.shown[name] = list(elements)

    def signed(self, header: Header, text: str) -> SignedReport:
        return SignedReport(
            digest=disclosure_digest(text),
            header_text=text,
            header=header,
            containers=tuple(self.containers),
            disclosures=tuple(self.disclosures),
            body=self.shown,
            undisclosed=0,
        )


def _build(report: Report, salts: _Salts, seal: Seal | None) -> SignedReport:
    builder = _Builder(salts)
    body: dict[str, Any] = msgspec.to_builtins(report.body)
    wide = coarse_elements(report.body)
    for name, value in body.items():
        if UNITS[name].each:
            builder.each(name, [*value, *msgspec.to_builtins(wide.get(name, []))])
        else:
            builder.single(name, value, UNIT_BIT[name], coarse=False)
    for name, value in msgspec.to_builtins(coarse_body(report.body)).items():
        builder.single(name, value, UNIT_BIT[name.removesuffix(COARSE_SUFFIX)], coarse=True)
    header = report.header
    if seal is not None:
        header = msgspec.structs.replace(header, sealed=seal(builder.signed(header, "")))
    element = {**msgspec.to_builtins(header), "_sd": sorted(builder.digests)}
    return builder.signed(header, b64(_encode([salts.next(), element])))


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
    salts = _Salts(rand)
    signed = tuple(_build(report, salts, seal) for report in reports)
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
