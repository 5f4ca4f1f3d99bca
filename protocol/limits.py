"""A cap on everything that a peer controls, with the reason beside it. Sizes: bytes, unless the name says otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

HTTP_BODY: Final = 8 << 20
"""One POST: some 2,000 reports of ordinary size; more belongs in several requests."""

REPORT: Final = 192 << 10
"""One report as JSON: with signature overhead it still fits one bus message."""

REPORTS_PER_POST: Final = 2_000
REPORTS_PER_SUBMISSION: Final = 64
"""Under one signature: the payload with its 64 digests stays small enough to travel with a single report."""

SUBMISSION: Final = 1_000_000
"""One signed envelope on the bus; below the bus's own limit of 2 MiB with room for what the broker adds."""

BUS_MESSAGE: Final = 2 << 20

POLICY: Final = 256 << 10
"""A published sharing policy: some thousand rules."""

DISCLOSURES_PER_REPORT: Final = 1_024
DISCLOSURE: Final = 128 << 10
LIST_ELEMENTS: Final = 500
ATTACHMENT: Final = 64 << 10
"""One file within a report: in base64, and base64 again as a disclosure, it stays below that limit."""

UNMAPPED: Final = 64 << 10
"""What a foreign document said beyond the profile: paths and values of one item."""

IDENTIFIERS_PER_REPORT: Final = 32
"""Identifiers that take part in linking: a report with thousands of indicators may not fill everybody's index."""

IDENTIFIER_IN_REPORTS: Final = 200
"""An identifier that stands in more reports than this (a public resolver, a popular host) links nothing any more."""

RECIPIENTS: Final = 64
KEYS_PER_MEMBER: Final = 16
CONFIRMATIONS_PER_MESSAGE: Final = 256
REPORTS_PER_CONFIRMATION: Final = 2_048

SEALED_BOX: Final = 900_000
"""What is sealed of one report, for all recipients: with the report's header it still fits one submission."""

SEALING_KEYS_PER_MEMBER: Final = 8
"""A post-quantum key is 1.6 KB in the registry, which every member holds; old ones need not stay listed."""

SEALING_MARGIN: Final = timedelta(days=7)
"""A key that ends sooner is not sealed to: a report may wait in an outbox for a week while the link is down."""

SEALING_MARGIN_ON_ARRIVAL: Final = timedelta(days=1)
"""The same at the broker: shorter, so that a report that had to wait is not refused for what was right when sealed."""

NOTE: Final = 32 << 10
"""A checkpoint with its cosignatures: some 200 of Ed25519."""

NOTE_SIGNATURES: Final = 128
"""The specification asks for 16; a region may have 64 members, some of them in the middle of a rotation."""

PROOFS_PER_REQUEST: Final = 256
"""Inclusion proofs in one answer: with 40 hashes each it stays below a message."""

GOVERNANCE_RECORD: Final = 512 << 10
"""A governance record with its signatures: a founding with all trustees that there may be, of ML-DSA-65 with 2.6 KB of
key and 4.4 KB of signature each."""

CLOSED_RECORD: Final = 768 << 10
"""A closed governance record with its opening, which holds a record in base64url."""

SEEN_BY: Final = 256
"""Members that see a hidden one, by its record."""

TRUSTEES: Final = 32
TRUSTEE_SIGNATURES: Final = 64
"""Signatures of one record: those that count for nothing may be among them."""

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far ahead of ours a peer's clock may be."""

WEAK_LINK_WINDOW: Final = timedelta(days=30)
"""File names and vulnerabilities recur for years: they only link reports of incidents this close in time."""
