"""From filings to signed envelopes: headers, "what may never leave never leaves", one signature for many reports.

Guarantees: the message that goes out holds only what the own jurisdiction's export policy lets somebody have; a report
whose header nobody may have stays here, though it is signed; a message is below its limit. Pure but for the signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from msgspec import UNSET

from node.identity import Fresh, Known
from node.ids import fingerprint, uuid7
from node.intake import Draft
from protocol import limits
from protocol.envelope import Rand, SignedReport, leave, present
from protocol.errors import ProtocolError
from protocol.issuing import issue
from protocol.keys import Signer
from protocol.policy import (
    HEADER,
    Facts,
    GateResult,
    Outcome,
    PolicyBook,
    ask_side,
    explain,
    facts_of,
    leaving_gate,
)
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.report import SCHEMA, Filing, Header, Origin, Report
from protocol.sealing import Sealer, SealTo, choose_key
from protocol.submission import join_submission

_IDENTITY: Final = frozenset({"report_id", "incident_id", "revision", "body"})
_SAID: Final = tuple(name for name in Filing.__struct_fields__ if name not in _IDENTITY)
"""What a filing says that goes into the header as it is."""
ENVELOPE_CONTENT: Final = limits.REPORT
"""Bytes of content, as JSON, that are put into one envelope on a guess; signed, they are two to four times as many."""
_REMEMBERED: Final = 4_096


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may leave of reports with the same facts, and the gate that says why not more."""

    gate: GateResult
    reasons: dict[tuple[int, int], bytes | None] = field(default_factory=dict)
    """By the units that a report has."""

    def explain(self, units: tuple[int, int]) -> bytes | None:
        """Why something of a report with these units stays here."""
        if units not in self.reasons:
            outcome = Outcome(self.gate.exact, self.gate.coarse, (self.gate,))
            withheld = explain(outcome, *units)
            self.reasons[units] = msgspec.json.encode(withheld) if withheld else None
        return self.reasons[units]


_WITHDRAWAL: Final = GateResult("marking", "report", HEADER, 0, (), (), Reason.WITHDRAWN)
"""A withdrawal reaches everyone who has the report, whatever today's policy says: its header alone, nothing else."""


@dataclass(slots=True)
class Sheet:
    """A report on its way to being signed."""

    known: Known
    draft: Draft
    report: Report
    allowance: Allowance
    seal_to: Mapping[str, SealTo] | None = None
    """For a report that is sealed: to whom, and what of it; None for one that the broker may read."""
    signed: SignedReport | None = None
    held_back: bytes | None = None
    """As JSON, why some of it leaves for nobody; None if all of it does."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A signed envelope: its name, what of it may be sent, and the reports in it."""

    digest: str
    message: bytes
    sheets: tuple[Sheet, ...]

    @property
    def leaving(self) -> int:
        """How many of the reports are sent; with none, the envelope stays here."""
        return sum(not sheet.known.kept for sheet in self.sheets)


@dataclass(slots=True)
class _Memory:
    """Answers of the policy while neither policies nor region nor any date in them change."""

    book: PolicyBook
    registry: Registry
    until: datetime | None
    since: datetime
    allowances: dict[Facts, Allowance] = field(default_factory=dict)


class Desk:
    """Writes headers and signs, for one member.

    Args:
        member, jurisdiction: the origin of all reports.
        signer: the member's signing key.
        fingerprint_key: see `ids.fingerprint`.
        rand: returns that many random bytes.
    """

    def __init__(self, *, member: str, jurisdiction: str, signer: Signer, fingerprint_key: bytes, rand: Rand) -> None:
        self._origin = Origin(jurisdiction=jurisdiction, member=member)
        self._signer = signer
        self._fingerprint_key = fingerprint_key
        self._rand = rand
        self._memory: _Memory | None = None

    def use_key(self, signer: Signer) -> None:
        """Sign with this key from now on."""
        self._signer = signer

    def write(self, draft: Draft, fresh: Fresh, book: PolicyBook, registry: Registry, now: datetime) -> Sheet:
        """Give a filing its header, and find out what of it may leave, and to whom it must be sealed.

        Raises:
            ProtocolError: a recipient of a report that must be sealed has no key to seal it to.
        """
        filing = draft.filing
        report_id = fresh.report_id or str(uuid7(now, self._rand))
        incident_id = fresh.incident_id or str(uuid7(now, self._rand))
        header = Header(
            schema=SCHEMA,
            report_id=UUID(report_id),
            incident_id=UUID(incident_id),
            revision=fresh.revision,
            origin=self._origin,
            issued_at=now,
            fingerprint=fingerprint(self._fingerprint_key, filing, draft.content),
            supersedes=fresh.previous.digest if fresh.previous else UNSET,
            **{name: getattr(filing, name) for name in _SAID},
        )
        if filing.phase == "withdrawn":
            answer, kept = Allowance(_WITHDRAWAL), not fresh.left
        else:
            answer = self._ask(facts_of(header), book, registry, now)
            kept = not answer.gate.exact & HEADER
        known = Known(report_id, fresh.revision, incident_id, draft.content_hash, kept, header.marking.tlp)
        sheet = Sheet(known, draft, Report(header=header, body=filing.body), answer)
        if header.marking.tlp == "RED" and filing.phase != "withdrawn" and not kept:
            sheet.seal_to = self._seal_to(facts_of(header), book, registry, now)
            # Nobody to seal it to: then nobody may have it now, the broker least of all.
            known.kept = not sheet.seal_to
        return sheet

    def _seal_to(self, facts: Facts, book: PolicyBook, registry: Registry, now: datetime) -> dict[str, SealTo]:
        """TLP:RED is for the named recipients' eyes only: what the own export policy grants each of them, sealed."""
        policy = book.at(facts.origin, now)
        if isinstance(policy, Reason):
            return {}
        named = list(facts.recipients or ())
        to: dict[str, SealTo] = {}
        for member in registry.recipients():
            reads = member.status == "active" and "recipient" in member.roles and member.id != self._origin.member
            if not reads or member.jurisdiction not in named or not registry.sees(member.id, self._origin.member):
                continue
            agreements = registry.circles.between(facts.origin, member.jurisdiction, now)
            answer = ask_side(policy.export, member.jurisdiction, facts, agreements)
            if answer.exact & HEADER:
                try:
                    key = choose_key(member.id, member.sealing_keys, now)
                except ProtocolError as exc:
                    at = f"$.marking.recipients[{named.index(member.jurisdiction)}]"
                    raise ProtocolError(exc.reason, at, exc.detail) from exc
                to[member.id] = SealTo(key, answer.exact, answer.coarse)
        return to

    def seal(self, sheets: Sequence[Sheet], now: datetime) -> list[Sealed]:
        """Sign reports in as few envelopes as their sizes allow.

        A report that is too large even alone gets `known.error` and is in no envelope.
        """
        sealer = Sealer(
            {
                (sheet.report.header.report_id, sheet.report.header.revision): sheet.seal_to
                for sheet in sheets
                if sheet.seal_to
            },
            self._rand,
        )
        envelope = issue([sheet.report for sheet in sheets], self._origin.member, self._signer, now, self._rand, sealer)
        parts: list[list[str]] = []
        boxes: list[bytes] = []
        for sheet, signed in zip(sheets, envelope.reports, strict=True):
            if not isinstance(signed, SignedReport):
                raise AssertionError("issue() refuses no report")  # noqa: TRY004 - a bug, not a bad value
            sheet.signed = signed
            sheet.known.digest = signed.digest
            sheet.held_back = sheet.allowance.explain(signed.units())
            if signed.header.sealed:
                parts.append([signed.header_text])
                boxes.append(sealer.boxes[signed.header.sealed])
            elif not sheet.known.kept:
                parts.append(leave(signed, sheet.allowance.gate.exact, sheet.allowance.gate.coarse))
        message = join_submission(present(envelope.jws, parts), boxes)
        if len(message) <= limits.SUBMISSION:
            return [Sealed(envelope.digest, message, tuple(sheets))]
        if len(sheets) > 1:
            half = len(sheets) // 2
            return self.seal(sheets[:half], now) + self.seal(sheets[half:], now)
        sheets[0].known.error = ProtocolError(
            Reason.TOO_LARGE, "$", f"signed, this report is over {limits.SUBMISSION} bytes: split it"
        )
        return []

    def _ask(self, facts: Facts, book: PolicyBook, registry: Registry, now: datetime) -> Allowance:
        memory = self._memory
        if (
            memory is None
            or memory.book is not book
            or memory.registry is not registry
            or now < memory.since
            or (memory.until is not None and now >= memory.until)
            or len(memory.allowances) >= _REMEMBERED
        ):
            changes = [time for time in (book.next_change(now), registry.circles.next_change(now)) if time is not None]
            memory = self._memory = _Memory(book, registry, min(changes, default=None), now)
        answer = memory.allowances.get(facts)
        if answer is None:
            others = sorted(
                {member.jurisdiction for member in registry.recipients() if member.id != self._origin.member}
            )
            gate = leaving_gate(facts, others, book, now, registry.circles)
            answer = memory.allowances[facts] = Allowance(gate)
        return answer
