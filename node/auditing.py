"""What a broker's answer to an auditor is worth: each line of it held to signatures, to the log, and to the records.

Guarantees: pure; what does not hold is a fault with its reason code on the line that it concerns, or on the page if it
concerns none, and never an exception. A line without a fault says only what follows from signatures of the broker and
of the recipients, and stands in the log under a checkpoint that this node has witnessed and a quorum has cosigned; what
rests on the broker's word alone is named in `told`. That nothing is left out is checked as far as it can be: the
members that were looked for, the leaves that there are, and the receipts and grants that this node holds itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from node.trust import Trust, type_of
from node.witness import prove
from protocol import limits
from protocol.auditing import Case, CasesAnswer, CasesRequest, Exchange, Granted, Spans
from protocol.errors import ProtocolError
from protocol.grants import commit, open_grant
from protocol.jws import split_jws
from protocol.notes import Note
from protocol.parse import decode
from protocol.policy import Withheld, names_of
from protocol.reasons import Reason
from protocol.report import Instant
from protocol.statements import (
    Confirmation,
    Decision,
    Receipt,
    ReleasedBy,
    ReportReceipt,
    Stopped,
    open_statement,
    statement_digest,
)

Log = Literal["proven", "waiting", "false"]
_RANK: Final = {"queued": -1, "sent": 0, "read": 2, "acting": 2, "closed": 2, "expired": 3}
"""A word that says more counts more, in whatever order words came; all others have rank 1."""
_MILLISECOND: Final = timedelta(milliseconds=1)
W = TypeVar("W", Confirmation, Stopped)


class _Shown(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Fault(_Shown, frozen=True, kw_only=True):
    """What does not hold."""

    reason: str
    path: str
    detail: str


class Event(_Shown, frozen=True, kw_only=True, omit_defaults=True):
    """A state and when it began. `statement` names the signed word that says so; without one the broker says it."""

    state: str
    at: Instant
    statement: str = ""
    reason: str = ""


class Line(_Shown, frozen=True, kw_only=True):
    """One revision of a report and one member; or what was submitted and given to nobody, then without a member."""

    leaf: int
    direction: Literal["sent", "received"]
    decided_at: Instant
    origin: str
    outcome: Literal["accepted", "duplicate", "rejected"] = "accepted"
    reason: str | UnsetType = UNSET
    """Why it was rejected."""
    report_id: str | UnsetType = UNSET
    revision: int | UnsetType = UNSET
    phase: str | UnsetType = UNSET
    digest: str | UnsetType = UNSET
    member: str | UnsetType = UNSET
    granted: bool = False
    exact: list[str] = []
    coarse: list[str] = []
    released_by: list[ReleasedBy] = []
    withheld: list[Withheld] = []
    delivery: int | UnsetType = UNSET
    state: str = ""
    events: list[Event] = []
    receipt: str
    """Digest of the receipt that the log's entry commits to."""
    log: Log
    faults: list[Fault] = []
    told: list[str] = []
    """What of this the broker says and nobody has signed."""


class Page(_Shown, frozen=True, kw_only=True):
    """What of the leaves from `first` to before `end` concerns the auditor's jurisdiction."""

    lines: list[Line]
    faults: list[Fault]
    """What does not hold of the answer as a whole: then nothing, or less, can be said."""
    members: list[str]
    """Whose traffic it is."""
    first: int
    end: int
    cases: int
    """Leaves of this range that concern them; of whom the others are, the log does not show."""
    size: int
    """Leaves that there are, or will be with the next checkpoint, as the broker says."""
    witnessed: int
    """Leaves under the newest checkpoint that this node has witnessed."""
    unseen: list[int]
    """Leaves of this range that name a hidden member which the auditor does not see; nothing of them is shown."""
    more: bool
    next: int
    """The leaf at which the following page begins."""
    evidence: list[Exchange] | UnsetType = UNSET


@dataclass(slots=True)
class Findings:
    """What became of a page."""

    lines: list[Line] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bench:
    """What the judge knows on its own account.

    Args:
        find: the region's keys.
        note: the newest checkpoint with a quorum, as this node has witnessed it; None if there is none yet.
        size: leaves under it.
        paths: the log's proofs for it, by leaf.
    """

    trust: Trust
    spans: Spans
    now: datetime
    note: Note | None
    size: int
    paths: Mapping[int, Sequence[str]]


def fault(exc: ProtocolError, detail: str = "") -> Fault:
    """An error as a fault."""
    return Fault(reason=exc.reason.value, path=exc.path, detail=detail or exc.detail)


def _said(reason: Reason, path: str, detail: str) -> Fault:
    return Fault(reason=reason.value, path=path, detail=detail)


# --- the answer as a whole --------------------------------------------------------------------------------------


def check_range(request: CasesRequest, answer: CasesAnswer) -> None:
    """Whether an answer is one to the question.

    Raises:
        ProtocolError: it is none, and nothing in it can be used.
    """
    leaves, asked = [case.leaf for case in answer.cases], request.first
    if answer.first < asked or (request.since is UNSET and answer.first != asked):
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.first", f"leaf {asked} was asked for, it begins at {answer.first}")
    if request.until is UNSET and not answer.more and answer.end != answer.size:
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.end", "the answer ends before the log does")
    if answer.end < answer.first or answer.end > answer.size or (answer.more and answer.end == answer.first):
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.end", "the answer's range does not lead on")
    if leaves != sorted(set(leaves)) or any(not answer.first <= leaf < answer.end for leaf in leaves):
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.cases", "a leaf is named twice, or is out of the answer's range")


def left_out(answer: CasesAnswer, spans: Spans, verified: int, held: Mapping[int, str]) -> list[Fault]:
    """What the answer should have and has not.

    Args:
        verified: leaves of the log as this node has verified it.
        held: entries' leaves in the answer's range whose receipt or grant this node has itself, and what it is.
    """
    found: list[Fault] = []
    if missed := sorted(set(spans.members) - set(answer.members)):
        found.append(_said(Reason.LEFT_OUT, "$.members", f"not looked for: {', '.join(missed)}"))
    if answer.size < verified:
        detail = f"the log has {verified} leaves, the answer knows of {answer.size}"
        found.append(_said(Reason.LEFT_OUT, "$.size", detail))
    for leaf in sorted(held.keys() - {case.leaf for case in answer.cases} - set(answer.unseen)):
        detail = f"leaf {leaf}: this node holds the {held[leaf]}"
        found.append(_said(Reason.LEFT_OUT, "$.cases", detail))
    return found


# --- words ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Words:
    """What was said, by report and recipient."""

    events: dict[tuple[str, str], list[Event]] = field(default_factory=dict)
    faults: dict[tuple[str, str], list[Fault]] = field(default_factory=dict)
    to: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """The origins that recipients confirmed to, in their own signatures."""
    about: dict[str, set[str]] = field(default_factory=dict)
    """By report, all that said something of it."""


def _read(words: Iterable[str], bench: Bench, findings: Findings) -> _Words:
    found = _Words()
    for jws in words:
        try:
            said = _decode(jws, Stopped) if type_of(jws) == Stopped.typ else _decode(jws, Confirmation)
            _hear(found, jws, said, bench)
        except ProtocolError as exc:
            findings.faults.append(fault(exc, f"a word that is none: {exc.detail}"))
    return found


def _hear(found: _Words, jws: str, said: Confirmation | Stopped, bench: Bench) -> None:
    kind = type(said)
    member = said.iss if isinstance(said, Confirmation) else said.member
    names = [(digest, member) for digest in said.reports]
    try:
        if said.at > bench.now + limits.CLOCK_SKEW:
            raise ProtocolError(Reason.TIME_IN_FUTURE, "$.at", "signed in the future: check the clocks")
        open_statement(jws, kind, bench.trust.registry.keys.find, said.at)
    except ProtocolError as exc:
        for name in names:
            found.faults.setdefault(name, []).append(fault(exc, f"a word of {said.iss} does not hold: {exc.detail}"))
        return
    refusal = said.refusal
    event = Event(
        state=said.state if isinstance(said, Confirmation) else "stopped",
        at=said.at,
        statement=statement_digest(jws),
        reason=refusal.reason if refusal else "",
    )
    for name in names:
        found.events.setdefault(name, []).append(event)
        if isinstance(said, Confirmation):
            found.to.setdefault(name, set()).add(said.aud)
            found.about.setdefault(name[0], set()).add(member)


_kinds: Final[Mapping[type[Any], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Confirmation, Stopped)
}


def _decode(jws: str, kind: type[W]) -> W:
    found: W = decode(_kinds[kind], split_jws(jws, kind.typ).payload)
    return found


# --- cases ------------------------------------------------------------------------------------------------------


def judge(cases: Iterable[Case], words: Iterable[str], bench: Bench) -> Findings:
    """Every line of these cases, with what does not hold of it.

    Args:
        words: confirmations and the broker's word on what it stopped, for all of these cases.
    """
    findings = Findings()
    heard = _read(words, bench, findings)
    for case in cases:
        trial = _Trial(case, heard, bench)
        if case.receipt is not UNSET:
            trial.sent(case.receipt)
        else:
            trial.received()
        findings.lines += trial.lines
    return findings


class _Trial:
    """Judges one case."""

    def __init__(self, case: Case, heard: _Words, bench: Bench) -> None:
        self._case = case
        self._heard = heard
        self._bench = bench
        self._names = {named.digest: named for named in case.named}
        self.lines: list[Line] = []

    # --- what this jurisdiction sent ----------------------------------------------------------------------------

    def sent(self, jws: str) -> None:
        """Judge by the receipt: it says everything, for everybody."""
        case = self._case
        digest = statement_digest(jws) if jws.isascii() else ""
        try:
            receipt = open_statement(jws, Receipt, self._bench.trust.registry.keys.find, case.received_at)
            entry = commit(receipt, jws).entry
        except (ProtocolError, ValueError) as exc:
            error = exc if isinstance(exc, ProtocolError) else ProtocolError(Reason.INVALID_VALUE, "$.to", "no member")
            self._line("sent", digest, "false", [fault(error, f"the receipt does not hold: {error.detail}")])
            return
        log, faults = self._in_log(entry)
        faults += self._fitting(receipt)
        if receipt.refusal:
            self._line("sent", digest, log, faults, outcome="rejected", reason=receipt.refusal.reason)
        for report in receipt.reports:
            self._report(receipt, report, digest, log, faults)

    def _fitting(self, receipt: Receipt) -> list[Fault]:
        """What of the case is not as the receipt says."""
        case = self._case
        found: list[Fault] = []
        if receipt.leaf != case.leaf:
            found.append(_said(Reason.PROOF_INVALID, "$.leaf", f"the receipt promises leaf {receipt.leaf}"))
        # The broker's ledger counts milliseconds.
        if not case.received_at <= receipt.received_at < case.received_at + _MILLISECOND:
            found.append(_said(Reason.CONTENT_CHANGED, "$.received_at", "the receipt has another time"))
        if receipt.aud != case.origin or not self._bench.spans.holds(receipt.aud, case.leaf):
            found.append(_said(Reason.WRONG_AUDIENCE, "$.origin", f"the receipt is for {receipt.aud}"))
        return found

    def _report(self, receipt: Receipt, report: ReportReceipt, digest: str, log: Log, faults: list[Fault]) -> None:
        named = self._names.get(report.digest)
        given: dict[str, Any] = {
            "outcome": report.outcome,
            "reason": report.refusal.reason if report.refusal else UNSET,
            "digest": report.digest,
            "report_id": report.report_id,
            "revision": report.revision,
        }
        if named is not None:
            given |= {"phase": named.phase, "told": ["phase"]}
            if (report.report_id, report.revision) != (named.report_id, named.revision):
                faults = [*faults, _said(Reason.CONTENT_CHANGED, "$.named", "the receipt has another id or revision")]
        strangers = self._strangers(report)
        if strangers:
            detail = f"handed to, or confirmed by, whom the receipt does not name: {', '.join(strangers)}"
            faults = [*faults, _said(Reason.NOT_GRANTED, "$.handed", detail)]
        for member, index in report.to.items():
            self._recipient("sent", digest, log, faults, member, receipt.decisions[index], given)
        if not report.to:
            self._line("sent", digest, log, faults, **given)

    def _strangers(self, report: ReportReceipt) -> list[str]:
        handed = {one.member for one in self._case.handed if report.digest in one.reports}
        return sorted((handed | self._heard.about.get(report.digest, set())) - report.to.keys())

    # --- what this jurisdiction received ------------------------------------------------------------------------

    def received(self) -> None:
        """Judge by the openings of the own members' slots: nothing else of the receipt is to be seen."""
        if not self._case.granted:
            self._line("received", "", "false", [_said(Reason.MISSING_FIELD, "$.granted", "it shows no grant")])
        for granted in self._case.granted:
            self._opened(granted)

    def _opened(self, granted: Granted) -> None:
        case, opening, member = self._case, granted.opening, granted.member
        try:
            log, faults = self._in_log(open_grant(opening, member))
        except ProtocolError as exc:
            self._line("received", opening.receipt, "false", [fault(exc)], member=member)
            return
        if opening.leaf != case.leaf:
            faults.append(_said(Reason.PROOF_INVALID, "$.leaf", f"the grant is of leaf {opening.leaf}"))
        if not self._bench.spans.holds(member, case.leaf):
            faults.append(_said(Reason.WRONG_AUDIENCE, "$.granted", f"{member} is of another jurisdiction"))
        for digest, exact, coarse in opening.reports:
            named = self._names.get(digest)
            given: dict[str, Any] = {"digest": digest, "told": ["decided_at"]}
            own = list(faults)
            if named is None:
                own.append(_said(Reason.UNKNOWN_REPORT, "$.named", "which report it is is not said"))
            else:
                given |= {"report_id": named.report_id, "revision": named.revision, "phase": named.phase}
                given["told"] += ["report_id", "revision", "phase"]
            if not self._heard.to.get((digest, member)):
                given["told"].append("origin")
            decision = Decision(granted=True, exact=exact, coarse=coarse)
            self._recipient("received", opening.receipt, log, own, member, decision, given)

    # --- both ---------------------------------------------------------------------------------------------------

    def _in_log(self, entry: bytes) -> tuple[Log, list[Fault]]:
        """Whether the entry is at the case's leaf in the tree that this node has witnessed."""
        bench, leaf = self._bench, self._case.leaf
        if bench.note is None or leaf >= bench.size:
            return "waiting", []
        path = bench.paths.get(leaf)
        if path is None:
            return "false", [_said(Reason.LEAF_MISSING, "$.leaf", f"the log does not prove leaf {leaf}")]
        if prove(leaf, entry, path, bench.note) is None:
            return "false", [_said(Reason.PROOF_INVALID, "$.leaf", f"the log has another entry at leaf {leaf}")]
        return "proven", []

    def _recipient(
        self,
        direction: Literal["sent", "received"],
        receipt: str,
        log: Log,
        faults: Sequence[Fault],
        member: str,
        decision: Decision,
        given: Mapping[str, Any],
    ) -> None:
        """One report and one member: what was granted, and what became of it."""
        name = (given["digest"], member)
        own = [*faults, *self._heard.faults.get(name, ())]
        words = sorted(self._heard.events.get(name, ()), key=lambda event: event.at)
        handed = [one for one in self._case.handed if one.member == member and name[0] in one.reports]
        if others := self._heard.to.get(name, set()) - {self._case.origin}:
            own.append(_said(Reason.WRONG_AUDIENCE, "$.words", f"{member} confirmed it to {', '.join(sorted(others))}"))
        if not decision.granted and (handed or words):
            own.append(_said(Reason.NOT_GRANTED, "$.handed", "handed over or confirmed, and the receipt denies it"))
        events: list[Event] = []
        for one in handed:
            events.append(Event(state="queued", at=one.queued_at))
            events += [Event(state="sent", at=one.sent_at)] if one.sent_at is not UNSET else []
        events += words
        # A coordinator without a node reads the feed.
        resting = "shown" if decision.granted else "denied"
        newest = max(events, key=lambda event: (_RANK.get(event.state, 1), event.at), default=None)
        told = [*given.get("told", ()), *(["delivery"] if handed else [])]
        self._line(
            direction,
            receipt,
            log,
            own,
            **{**given, "told": told},
            member=member,
            granted=decision.granted,
            exact=names_of(decision.exact),
            # A coarse value travels only where the exact one does not.
            coarse=names_of(decision.coarse & ~decision.exact),
            released_by=decision.by,
            withheld=decision.withheld,
            delivery=handed[0].delivery if handed else UNSET,
            state=newest.state if newest else resting,
            events=events,
        )

    def _line(
        self, direction: Literal["sent", "received"], receipt: str, log: Log, faults: Sequence[Fault], **given: Any
    ) -> None:
        case = self._case
        line = Line(
            leaf=case.leaf,
            direction=direction,
            decided_at=case.received_at,
            origin=case.origin,
            receipt=receipt,
            log=log,
            faults=list(faults),
            **given,
        )
        self.lines.append(line)
