"""Step 5 of a report's life: what becomes of each report of a batch. Pure: values in, decisions out.

Rules, in order; the first that applies decides:

 1 the envelope says so already (a report that is malformed alone)
 2 drill traffic, a wrong origin, a clock ahead of ours, named recipients that do not exist, a broken seal: rejected
 3 the same signed report again, in whatever envelope: duplicate
 4 the report id or the incident id belongs to another member: rejected (nobody takes over another's report)
 5 the same id and revision with other content: rejected (revision conflict)
 6 the same content under a new id, from the same member: duplicate of the first (a revision or a withdrawal of what
   is known never is: it may well say the same as another one's)
 7 accepted, and the sharing policy is asked for every recipient

A withdrawal goes to everyone who was granted any earlier revision, header only, and to nobody else. An earlier revision
that comes after its withdrawal is recorded, and goes to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from broker.dedup import Identifier, Side, happened_at, identifiers_of
from broker.members import Answers, answers_of
from broker.verify import Verified, as_refusal
from protocol import limits
from protocol.envelope import RefusedReport, SignedReport
from protocol.errors import ProtocolError
from protocol.policy import HEADER, Facts, GateResult, Outcome, facts_of
from protocol.reasons import Reason
from protocol.registry import Member, Registry
from protocol.report import COARSE_UNITS, Header
from protocol.sealing import SealedBox, check_box
from protocol.statements import Refusal
from protocol.submission import box_of


@dataclass(frozen=True, slots=True)
class KnownReport:
    """A report that the ledger, or an earlier place in this batch, holds."""

    digest: str
    origin: str
    report_id: bytes
    revision: int
    incident: bytes
    phase: str
    grants: Mapping[str, Sequence[int]]


@dataclass(slots=True)
class Known:
    """What deciding needs to know of the past; grows as the batch is decided."""

    digests: set[str] = field(default_factory=set)
    by_id: dict[bytes, list[KnownReport]] = field(default_factory=dict)
    incidents: dict[bytes, str] = field(default_factory=dict)
    fingerprints: dict[tuple[str, str], KnownReport] = field(default_factory=dict)

    def ended(self, header: Header) -> int:
        """The highest revision that withdraws a report; 0 if none does."""
        withdrawn = (item.revision for item in self.by_id.get(header.report_id.bytes, ()) if item.phase == "withdrawn")
        return max(withdrawn, default=0)

    def learn(self, report: KnownReport, fingerprint: str) -> None:
        """Remember a report."""
        self.digests.add(report.digest)
        self.by_id.setdefault(report.report_id, []).append(report)
        self.incidents.setdefault(report.incident, report.origin)
        self.fingerprints.setdefault((report.origin, fingerprint), report)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A report that goes into the ledger, with the answer of the policy for every other member."""

    report: SignedReport
    member: str
    outcomes: Mapping[str, Outcome]
    identifiers: Sequence[Identifier]
    happened_at: datetime
    grants: Mapping[str, tuple[int, int]]
    """Masks (exact, coarse) per member that gets the report."""
    box: SealedBox | None = None
    """What of a sealed report its recipients get, unreadable here."""


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """A report that is a duplicate or refused, and why."""

    digest: str
    outcome: str
    refusal: Refusal
    header: Header | None = None
    duplicate_of: str | None = None


Decision = Accepted | NotAccepted
Ask = Callable[[Facts, str], Answers]
"""Asks the sharing policy about all recipients of a member's report."""


def _check(header: Header, member: Member, registry: Registry, now: datetime) -> None:
    """Rule 2."""
    if header.exercise:
        raise ProtocolError(Reason.EXERCISE_MIXED, "$.exercise", "drill traffic has subjects and keys of its own")
    if header.marking.tlp == "RED" and header.phase != "withdrawn" and not header.sealed:
        raise ProtocolError(Reason.NOT_SEALED, "$.sealed", "TLP:RED is sealed to its recipients, not sent in clear")
    if header.origin.jurisdiction != member.jurisdiction:
        raise ProtocolError(Reason.WRONG_MEMBER, "$.origin.jurisdiction", "not the jurisdiction of this member")
    if header.issued_at > now + limits.CLOCK_SKEW:
        raise ProtocolError(Reason.TIME_IN_FUTURE, "$.issued_at", "issued in the future: check the clock")
    for index, jurisdiction in enumerate(header.marking.recipients or ()):
        if jurisdiction not in registry.jurisdictions:
            raise ProtocolError(
                Reason.UNKNOWN_RECIPIENT, f"$.marking.recipients[{index}]", "no member has this jurisdiction"
            )


def _check_identity(header: Header, member: str, known: Known) -> None:
    """Rules 4 and 5."""
    for earlier in known.by_id.get(header.report_id.bytes, ()):
        if earlier.origin != member:
            raise ProtocolError(Reason.REPORT_ID_TAKEN, "$.report_id", "this id is another member's")
        if earlier.revision == header.revision:
            raise ProtocolError(
                Reason.REVISION_CONFLICT, "$.revision", f"revision {header.revision} exists with other content"
            )
    if known.incidents.get(header.incident_id.bytes, member) != member:
        raise ProtocolError(Reason.INCIDENT_ID_TAKEN, "$.incident_id", "this id is another member's")


def _withdrawal(outcome: Outcome, had_it: bool) -> Outcome:
    """Whoever holds a revision learns of its end, whatever today's policy says; nobody else does."""
    if had_it:
        return Outcome(HEADER, 0, (GateResult("marking", "report", HEADER, 0, (), (), Reason.WITHDRAWN),))
    if not outcome.granted:
        return outcome
    shut = GateResult("marking", "report", 0, 0, (), (), Reason.NEVER_RECEIVED)
    return Outcome(0, 0, (shut,))


def _sealed(answers: Answers, box: SealedBox) -> Answers:
    """A sealed report can only go to those to whom it is sealed; the masks are in the box, out of our reach."""
    readers = set(box.members())
    shut = GateResult("marking", "report", 0, 0, (), (), Reason.NOT_SEALED_TO_ME)

    def narrowed(name: str, outcome: Outcome) -> Outcome:
        if not outcome.granted:
            return outcome
        return Outcome(HEADER, 0, outcome.gates) if name in readers else Outcome(0, 0, (shut,))

    return answers_of({name: narrowed(name, outcome) for name, outcome in answers.outcomes.items()})


def _ask_all(report: SignedReport, member: str, known: Known, ask: Ask, box: SealedBox | None) -> Answers:
    """Rule 7."""
    answers = ask(facts_of(report.header), member)
    if box is not None:
        answers = _sealed(answers, box)
    if known.ended(report.header) > report.header.revision:
        shut = Outcome(0, 0, (GateResult("marking", "report", 0, 0, (), (), Reason.WITHDRAWN),))
        return answers_of(dict.fromkeys(answers.outcomes, shut))
    if report.header.phase == "withdrawn":
        earlier = known.by_id.get(report.header.report_id.bytes, ())
        had = {name for item in earlier for name in item.grants}
        return answers_of({name: _withdrawal(outcome, name in had) for name, outcome in answers.outcomes.items()})
    return answers


def decide_report(
    report: SignedReport | RefusedReport,
    member: Member,
    registry: Registry,
    known: Known,
    ask: Ask,
    now: datetime,
    boxes: Mapping[str, SealedBox],
) -> Decision:
    """Decide one report, and remember it in `known` if it is accepted."""
    if isinstance(report, RefusedReport):
        return NotAccepted(report.digest, "rejected", as_refusal(report.error))
    header = report.header
    try:
        _check(header, member, registry, now)
        box = box_of(report, boxes)
        if box is not None:
            check_box(box, header, lambda name: registry.member(name).sealing_keys, now)
        if report.digest in known.digests:
            refusal = Refusal(reason=Reason.DUPLICATE_CONTENT.value, detail="this very report is in the ledger")
            return NotAccepted(report.digest, "duplicate", refusal, header, report.digest)
        _check_identity(header, member.id, known)
    except ProtocolError as exc:
        return NotAccepted(report.digest, "rejected", as_refusal(exc), header)
    twin = known.fingerprints.get((member.id, header.fingerprint))
    fresh = header.report_id.bytes not in known.by_id and header.phase != "withdrawn"
    if twin is not None and fresh:
        refusal = Refusal(reason=Reason.DUPLICATE_CONTENT.value, path="$.body", detail="same content under a new id")
        return NotAccepted(report.digest, "duplicate", refusal, header, twin.digest)
    answers = _ask_all(report, member.id, known, ask, box)
    accepted = Accepted(
        report, member.id, answers.outcomes, identifiers_of(report), happened_at(report), answers.grants, box
    )
    known.learn(
        KnownReport(
            report.digest,
            member.id,
            header.report_id.bytes,
            header.revision,
            header.incident_id.bytes,
            header.phase,
            accepted.grants,
        ),
        header.fingerprint,
    )
    return accepted


def decide(submission: Verified, registry: Registry, known: Known, ask: Ask, now: datetime) -> list[Decision]:
    """Decide all reports of a verified submission, in the order of its envelope: in the region that its member sees."""
    member = registry.member(submission.member)
    registry = registry.view(member.id)
    return [
        decide_report(report, member, registry, known, ask, now, submission.boxes)
        for report in submission.envelope.reports
    ]


def as_side(accepted: Accepted, seq: int) -> Side:
    """An accepted report as linking sees it."""
    header = accepted.report.header
    return Side(
        seq,
        accepted.report.digest,
        str(header.report_id),
        accepted.member,
        header.incident_id.bytes,
        header.rsit[0].class_,
        int(accepted.happened_at.timestamp() * 1000),
        accepted.grants,
    )


def narrow(stored: Sequence[int], outcome: Outcome) -> tuple[int, int]:
    """What a queued delivery may still hold: never more than was granted, never more than policy grants now.

    Returns:
        masks exact, coarse; without the header bit, nothing may be delivered any more.
    """
    exact, coarse = stored[0] & outcome.exact, stored[1] & outcome.coarse & COARSE_UNITS
    return (exact, coarse) if exact & HEADER else (0, 0)
