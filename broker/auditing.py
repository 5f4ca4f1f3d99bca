"""Answers an auditor's node over the bus: who got what of its own jurisdiction's traffic, with all that proves it.

Guarantees: only an active member that the trustees made an auditor is answered, and only about submissions of members
of its own jurisdiction, as of that leaf (`protocol/auditing.py` `Spans`), and about grants of such members. Of the
first it gets what their origin got: the receipt with everybody's grants, and the confirmations. Of the second it gets
those grants and confirmations alone: nothing tells it who else had the report. What names a member that is hidden from
it is left out, and its leaf said to be. Never any content. Every answer covers
a range of the log, or names where to go on, and is signed over the question. One answer is made at a time, each reads
a bounded number of rows, and no member keeps more than `WAITING` questions waiting: further ones get no answer.

Refuses: everybody else (NOT_ALLOWED, MEMBER_SUSPENDED), and to speak of leaves that are not the auditor's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET

from broker import auditstore, reading, store, tables
from broker.audit import SKEW_MS
from broker.checkdeliveries import reports_confirmed, said_in
from broker.checkreports import deliveries_by_report, unpacked
from broker.members import RegionState
from broker.renewal import sign_with
from broker.store import Connection, Store, milliseconds
from protocol.auditing import (
    CASES,
    ROLE,
    WORDS,
    Case,
    CasesAnswer,
    CasesRequest,
    Granted,
    Handed,
    Named,
    Spans,
    WordsAnswer,
    WordsRequest,
    cases_request,
    encode,
    sign_answer,
    words_request,
)
from protocol.errors import ProtocolError, Transient
from protocol.faults import from_milliseconds
from protocol.governance import Act, Admit, open_record
from protocol.grants import Commitment, commit
from protocol.jws import split_jws
from protocol.keys import Signer
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.statements import Receipt, Stopped

METHODS: Final = frozenset({CASES, WORDS})
WAITING: Final = 4
"""Questions of one member, so that nobody else waits for an auditor in a hurry."""
CHUNK: Final = 64
"""Leaves that are looked at together."""
LOOKED_AT: Final = 1_024
"""Leaves of one answer, the auditor's or not."""
ANSWER: Final = 512 << 10
"""Bytes after which an answer takes no more: with the largest receipt it is still one message."""
ROWS: Final = 2_000
"""Words of one answer that are looked at."""
_RECEIPT: Final = ("id", "receipt")
_REPORT: Final = ("seq", "digest", "submission", "origin", "report_id", "revision", "phase", "received_at", "grants")
_receipt: Final = msgspec.json.Decoder(Receipt)
_RECORDS: Final = 1 << 31


def holds(subject: str) -> bool:
    """Whether a request waits for others of its kind, and so must not count among those that are served at once."""
    return subject.endswith((f".{CASES}", f".{WORDS}"))


class Auditing:
    """The service.

    Args:
        ledger: what was decided.
        signer: the broker's signing key.
        state: the region as it is now.
        read: runs a reading function off the event loop.
        clock: the time.
    """

    def __init__(
        self,
        ledger: Store,
        signer: Signer,
        state: Callable[[], RegionState],
        read: Callable[..., Awaitable[Any]],
        clock: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._signer = signer
        self._state = state
        self._read = read
        self._clock = clock
        self._one = asyncio.Lock()
        self._waiting: Counter[str] = Counter()

    async def answer(self, member: str, method: str, data: bytes) -> bytes:
        """Answer a member's request of one of `METHODS`.

        Raises:
            ProtocolError: refused.
            Transient: the ledger cannot be used now, or too many of this member's questions wait.
        """
        if self._waiting[member] >= WAITING:
            raise Transient(f"{member} asks too much at once")
        self._waiting[member] += 1
        try:
            async with self._one:
                answer: bytes = await self._read(self.find, member, method, data)
                return answer
        finally:
            self._waiting[member] -= 1

    def find(self, member: str, method: str, data: bytes) -> bytes:
        """The same, on the caller's thread."""
        state = self._state()
        entitled(state.registry, member)
        with reading.snapshot(self._ledger) as connection:
            view = _View(connection, *spans_of(connection, state, member))
            if method == CASES:
                answer = encode(view.cases(decode(cases_request, data)))
            else:
                answer = encode(view.words(decode(words_request, data)))
        return sign_answer(data, answer, member, sign_with(self._signer), self._clock())


def entitled(registry: Registry, member_id: str) -> str:
    """The jurisdiction whose traffic a member may audit.

    Raises:
        ProtocolError: none.
    """
    member = registry.member(member_id)
    if member.status != "active":
        raise ProtocolError(Reason.MEMBER_SUSPENDED, "$", "this member is suspended")
    if ROLE not in member.roles:
        raise ProtocolError(Reason.NOT_ALLOWED, "$", "this member is no auditor")
    return member.jurisdiction


def spans_of(connection: Connection, state: RegionState, member: str) -> tuple[Spans, frozenset[str]]:
    """Who was of an auditor's jurisdiction, by the records as it sees them; and the members that it does not see."""
    asking, chain = state.registry.member(member), state.chain
    acts: list[tuple[Act, int]] = []
    unseen: set[str] = set()
    for row in store.governance_after(connection, -1, _RECORDS):
        signed = open_record(bytes(row.record))
        seers = chain.seers[row.number] if chain is not None and row.number < len(chain.seers) else None
        shown = signed.inner is None or (seers is not None and seers.include(asking))
        acts.append((signed.deed if shown else signed.record.act, row.leaf))
        if not shown and isinstance(signed.deed, Admit):
            unseen.add(signed.deed.member.id)
    return Spans(acts, asking.jurisdiction), frozenset(unseen)


@dataclass(slots=True)
class _Chunk:
    """What the ledger holds of some leaves that concern the auditor."""

    heads: list[Any] = field(default_factory=list)
    reports: dict[int, list[Any]] = field(default_factory=dict)
    """By submission, those of which the auditor may know."""
    own: dict[int, Sequence[str]] = field(default_factory=dict)
    """By submission of somebody else's, the auditor's members that were granted some of it."""
    handed: dict[tuple[int, str], list[tuple[int, int, int]]] = field(default_factory=dict)
    deliveries: dict[int, Any] = field(default_factory=dict)


class _View:
    """The ledger as one auditor may see it."""

    def __init__(self, connection: Connection, spans: Spans, unseen: frozenset[str]) -> None:
        self._db = connection
        self._spans = spans
        self._unseen = unseen
        self._closed: list[int] = []
        """Leaves that name somebody unseen."""

    # --- cases --------------------------------------------------------------------------------------------------

    def cases(self, request: CasesRequest) -> CasesAnswer:
        size = auditstore.count(self._db)
        if request.first > size:
            raise ProtocolError(Reason.OUT_OF_RANGE, "$.first", f"there are {size} leaves")
        if request.report is not UNSET:
            return self._of_report(request, size)
        first, last = request.first, size
        if request.since is not UNSET:
            first = max(first, self._seek(milliseconds(request.since) - SKEW_MS, size))
        if request.until is not UNSET:
            last = max(first, self._seek(milliseconds(request.until) + SKEW_MS, size))
        cases: list[Case] = []
        room, end = ANSWER, first
        while end < last and end - first < LOOKED_AT:
            chunk = self._chunk(auditstore.heads(self._db, end, min(end + CHUNK, last)))
            for case in self._cases(chunk):
                if cases and (len(cases) == request.most or room < _size(case)):
                    return self._answer(first, case.leaf, size, cases, more=True)
                room -= _size(case)
                cases.append(case)
            end = min(end + CHUNK, last)
        return self._answer(first, end, size, cases, more=end < last)

    def _of_report(self, request: CasesRequest, size: int) -> CasesAnswer:
        assert request.report is not UNSET  # noqa: S101 - for the type checker
        most = min(request.most, CHUNK)
        leaves = auditstore.leaves_of(self._db, request.report.bytes, request.first, most + 1)
        more = len(leaves) > most
        heads = [head for leaf in leaves[:most] for head in auditstore.heads(self._db, leaf, leaf + 1)]
        end = leaves[most] if more else size
        cases: list[Case] = []
        room = ANSWER
        for case in self._cases(self._chunk(heads)):
            if cases and room < _size(case):
                return self._answer(request.first, case.leaf, size, cases, more=True)
            room -= _size(case)
            cases.append(case)
        return self._answer(request.first, end, size, cases, more=more)

    def _answer(self, first: int, end: int, size: int, cases: list[Case], *, more: bool) -> CasesAnswer:
        closed = [leaf for leaf in self._closed if leaf < end]
        return CasesAnswer(
            members=self._spans.members, first=first, end=end, size=size, more=more, cases=cases, unseen=closed
        )

    def _seek(self, at: int, size: int) -> int:
        """The first leaf that was received at a time or later, clocks that were put back left aside."""
        low, high = 0, size
        while low < high:
            middle = (low + high) // 2
            if auditstore.received_at(self._db, middle) < at:
                low = middle + 1
            else:
                high = middle
        return low

    def _chunk(self, heads: Sequence[Any]) -> _Chunk:
        """What of these submissions concerns the auditor."""
        chunk = _Chunk()
        sent = {head.id for head in heads if self._spans.holds(head.member, head.id - 1)}
        for row in reading.rows_where(self._db, tables.reports, "submission", [head.id for head in heads], _REPORT):
            if row.submission not in sent:
                own = self._spans.among(unpacked(row.grants) or (), row.submission - 1)
                if not own:
                    continue
                known = chunk.own.get(row.submission, ())
                chunk.own[row.submission] = sorted({*known, *own})
            chunk.reports.setdefault(row.submission, []).append(row)
        chunk.heads = self._shown([head for head in heads if head.id in sent or head.id in chunk.own], chunk)
        times = {head.received_at for head in chunk.heads if head.id in chunk.reports}
        for row in reading.rows_where(self._db, tables.deliveries, "created_at", times):
            chunk.deliveries[row.id] = row
        chunk.handed = deliveries_by_report(chunk.deliveries.values())
        return chunk

    def _shown(self, heads: list[Any], chunk: _Chunk) -> list[Any]:
        """Those of these submissions that name nobody whom the auditor does not see; the others' leaves are noted."""
        if not self._unseen:
            return heads
        numbers = [head.id for head in heads if head.id not in chunk.own]
        naming = {head.id for head in heads if head.member in self._unseen}
        for row in reading.rows_where(self._db, tables.submissions, "id", numbers, _RECEIPT):
            receipt = decode(_receipt, split_jws(bytes(row.receipt).decode("ascii"), Receipt.typ).payload)
            if any(not self._unseen.isdisjoint(report.to) for report in receipt.reports):
                naming.add(row.id)
        for number in sorted(naming):
            self._closed.append(number - 1)
            chunk.reports.pop(number, None)
        return [head for head in heads if head.id not in naming]

    def _cases(self, chunk: _Chunk) -> Iterable[Case]:
        numbers = [head.id for head in chunk.heads]
        receipts = {
            row.id: bytes(row.receipt).decode("ascii")
            for row in reading.rows_where(self._db, tables.submissions, "id", numbers, _RECEIPT)
        }
        for head in chunk.heads:
            rows = chunk.reports.get(head.id, ())
            own = chunk.own.get(head.id)
            jws = receipts[head.id]
            yield Case(
                leaf=head.id - 1,
                origin=head.member,
                received_at=from_milliseconds(head.received_at),
                receipt=jws if own is None else UNSET,
                granted=[] if own is None else _granted(jws, own),
                named=[_named(row) for row in rows],
                handed=list(_handed(chunk, rows, own)),
            )

    # --- words --------------------------------------------------------------------------------------------------

    def words(self, request: WordsRequest) -> WordsAnswer:
        heads = [head for leaf in sorted(set(request.leaves)) for head in auditstore.heads(self._db, leaf, leaf + 1)]
        chunk = self._chunk(heads)
        if len(chunk.heads) < len(set(request.leaves)):
            raise ProtocolError(Reason.NOT_ALLOWED, "$.leaves", "a leaf that is not of this auditor's jurisdiction")
        # Of whom may be told what of which report: everybody's word where the origin is the auditor's.
        about = {
            row.digest: (row.origin, chunk.own.get(number)) for number, rows in chunk.reports.items() for row in rows
        }
        if request.kind == "stopped":
            return self._stopped(about, request.after)
        rows = auditstore.said_about_deliveries(self._db, _deliveries(chunk), request.after, ROWS)
        rows += auditstore.said_to(self._db, {origin for origin, _ in about.values()}, request.after, ROWS)
        return _page(
            sorted(rows, key=lambda row: row.id),
            lambda row: any(
                digest in about and row.origin == about[digest][0] and _may(row.member, about[digest][1])
                for digest in reports_confirmed(row)
            ),
        )

    def _stopped(self, about: Mapping[str, tuple[str, Sequence[str] | None]], after: int) -> WordsAnswer:
        """The broker tells it to the origin; so it is told to the origin's auditor alone."""
        origins = {origin for origin, own in about.values() if own is None}
        rows = auditstore.stopped_for(self._db, origins, after, ROWS)

        def concerned(row: Any) -> bool:
            said = said_in(row, Stopped)
            return said is not None and any(
                digest in about and about[digest][1] is None and about[digest][0] == row.member
                for digest in said.reports
            )

        return _page(rows, concerned)


def _page(rows: Sequence[Any], concerned: Callable[[Any], bool]) -> WordsAnswer:
    """What of these rows may be told, as much as goes into one answer."""
    rows, more = rows[:ROWS], len(rows) >= ROWS
    words: list[str] = []
    room, last = ANSWER, 0
    for row in rows:
        if concerned(row):
            if words and room < len(row.jws):
                return WordsAnswer(words=words, next=last)
            room -= len(row.jws)
            words.append(bytes(row.jws).decode("ascii"))
        last = row.id
    return WordsAnswer(words=words, next=last if more else 0)


def _deliveries(chunk: _Chunk) -> set[int]:
    """Of all deliveries that were made at those times, the ones with reports of which the auditor may know."""
    numbers = {row.seq: number for number, rows in chunk.reports.items() for row in rows}
    return {
        delivery
        for (seq, member), found in chunk.handed.items()
        if seq in numbers and _may(member, chunk.own.get(numbers[seq]))
        for delivery, _, _ in found
    }


def _may(member: str, own: Sequence[str] | None) -> bool:
    return own is None or member in own


def _granted(jws: str, own: Sequence[str]) -> list[Granted]:
    """The openings of these members' own slots: they show nothing of the others'."""
    receipt = decode(_receipt, split_jws(jws, Receipt.typ).payload)
    committed: Commitment = commit(receipt, jws)
    return [Granted(member=member, opening=committed.opening(member)) for member in own]


def _named(row: Any) -> Named:
    return Named(
        digest=row.digest,
        report_id=str(UUID(bytes=bytes(row.report_id))),
        revision=row.revision,
        phase=row.phase,
    )


def _handed(chunk: _Chunk, rows: Sequence[Any], own: Sequence[str] | None) -> Iterable[Handed]:
    by_delivery: dict[int, list[str]] = {}
    digests = {row.seq: row.digest for row in rows}
    for (seq, member), found in chunk.handed.items():
        if seq in digests and _may(member, own):
            for number, _, _ in found:
                by_delivery.setdefault(number, []).append(digests[seq])
    for number, reports in sorted(by_delivery.items()):
        row = chunk.deliveries[number]
        yield Handed(
            delivery=number,
            member=row.member,
            queued_at=from_milliseconds(row.created_at),
            sent_at=UNSET if row.sent_at is None else from_milliseconds(row.sent_at),
            reports=reports,
        )


def _size(case: Case) -> int:
    return len(encode(case))
