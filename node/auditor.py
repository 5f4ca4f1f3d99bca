"""An auditor's questions: asked of the broker over the bus, judged by `auditing.py`, a page at a time.

Guarantees: nothing of an answer is shown whose signature, question or range does not hold; proofs are asked for in the
tree of the newest checkpoint that this node has witnessed and a quorum has cosigned, never in one that the broker
names. Reads the store, writes nothing, and keeps nothing between two pages.

Refuses what the broker refuses, with its reason; `Transient` while the broker does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import UNSET

from node.auditing import Bench, Fault, Findings, Line, Page, check_range, fault, judge, left_out
from node.core import NodeCore
from node.loops import Link, State
from node.store import Reads
from protocol import auditing, logrpc, subjects
from protocol.auditing import Case, CasesAnswer, CasesRequest, Exchange, Spans, WordsRequest, encode, open_answer
from protocol.errors import ProtocolError, Transient
from protocol.governance import open_record
from protocol.logrpc import ProveAnswer, ProveRequest
from protocol.notes import Note, parse_note
from protocol.parse import decode
from protocol.reasons import Reason

PATIENCE: Final = 20.0
"""Seconds: the broker makes one such answer at a time."""
ROUNDS: Final = 1_000
"""Answers with words for one page; an honest broker needs a few."""
_OWN: Final = frozenset({"receipt", "delivery"})
_HELD: Final = 20_000
_prove: Final = msgspec.json.Decoder(ProveAnswer)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the broker, and what of the answer is wanted.

    Args:
        recipient: a member or jurisdiction.
        evidence: show questions and answers as they travelled too.
    """

    request: CasesRequest
    recipient: str = ""
    evidence: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    """What this node knows by itself."""

    spans: Spans
    note: Note | None
    size: int
    verified: int


@dataclass(slots=True)
class _Talk:
    """Questions and answers of one page."""

    link: Link
    exchanged: list[Exchange] = field(default_factory=list)


class Auditor:
    """Asks for a node.

    Args:
        core: who it is, what it holds and whom it believes.
        state: has the link.
    """

    def __init__(self, core: NodeCore, state: State) -> None:
        self._core = core
        self._state = state

    async def page(self, asked: Asked, now: datetime) -> Page:
        """One page of answers.

        Raises:
            ProtocolError: the broker refuses.
            Transient: it does not answer.
        """
        link = self._state.link
        if link is None or not link.connected:
            raise Transient("the broker cannot be asked: the link is down")
        talk = _Talk(link)
        request = asked.request
        try:
            question, data = await self._ask(talk, auditing.CASES, request)
        except ProtocolError as exc:
            if exc.reason is not Reason.NOT_ALLOWED:
                raise
            detail = "this member is no auditor: the trustees give that role"
            raise ProtocolError(exc.reason, "$", detail) from exc
        known = await asyncio.to_thread(self._known)
        try:
            found = self._open(question, data, now)
            answer = decode(auditing.cases_answer, found)
            check_range(request, answer)
        except ProtocolError as exc:
            return _nothing(request.first, known, fault(exc), talk if asked.evidence else None)
        faults = await asyncio.to_thread(self._left_out, request, answer, known)
        paths = await self._paths(link, answer.cases, known)
        words, unheard = await self._words(talk, answer.cases, now)
        bench = Bench(self._core.trust, known.spans, now, known.note, known.size, paths)
        findings = await asyncio.to_thread(judge, answer.cases, words, bench)
        return self._page(asked, answer, findings, [*faults, *unheard], known, talk)

    async def _ask(self, talk: _Talk, method: str, request: CasesRequest | WordsRequest) -> tuple[bytes, bytes]:
        question = encode(request)
        data = await talk.link.request(subjects.rpc(method), question, PATIENCE)
        talk.exchanged.append(Exchange(question=question.decode("utf-8"), answer=data.decode("utf-8", "replace")))
        return question, data

    def _open(self, question: bytes, data: bytes, now: datetime) -> bytes:
        core = self._core
        return open_answer(data, question, core.member, core.trust.registry.keys.find, now)[1]

    # --- what is known here -------------------------------------------------------------------------------------

    def _known(self) -> _Known:
        with self._core.store.read() as reads:
            records = [(open_record(row.record.encode("ascii")).deed, row.leaf) for row in reads.governance()]
            published, last = reads.newest_checkpoint(published=True), reads.newest_checkpoint()
        return _Known(
            spans=Spans(records, self._core.jurisdiction),
            note=parse_note(published.published) if published else None,
            size=published.size if published else 0,
            verified=last.size if last else 0,
        )

    def _left_out(self, request: CasesRequest, answer: CasesAnswer, known: _Known) -> list[Fault]:
        held: Mapping[int, str] = {}
        if request.report is UNSET:
            with self._core.store.read() as reads:
                held = _held(reads, answer.first, answer.end)
        return left_out(answer, known.spans, known.verified, held)

    # --- what else is asked -------------------------------------------------------------------------------------

    async def _paths(self, link: Link, cases: Sequence[Case], known: _Known) -> Mapping[int, Sequence[str]]:
        """The log's proofs in the tree that this node has witnessed; what it does not give is a fault of each line."""
        leaves = [case.leaf for case in cases if case.leaf < known.size]
        if not leaves:
            return {}
        data = logrpc.encode(ProveRequest(size=known.size, leaves=leaves))
        try:
            paths = decode(_prove, await link.request(subjects.rpc(logrpc.PROVE), data, PATIENCE)).paths
        except ProtocolError:
            return {}
        return dict(zip(leaves, paths, strict=True)) if len(paths) == len(leaves) else {}

    async def _words(self, talk: _Talk, cases: Sequence[Case], now: datetime) -> tuple[list[str], list[Fault]]:
        leaves = [case.leaf for case in cases]
        words: list[str] = []
        faults: list[Fault] = []
        kinds: tuple[Literal["confirmations", "stopped"], ...] = ("confirmations", "stopped")
        for kind in kinds if leaves else ():
            try:
                words += await self._words_of(talk, WordsRequest(kind=kind, leaves=leaves), now)
            except ProtocolError as exc:
                faults.append(fault(exc, f"no {kind} are shown: {exc.detail}"))
        return words, faults

    async def _words_of(self, talk: _Talk, request: WordsRequest, now: datetime) -> list[str]:
        words: list[str] = []
        for _ in range(ROUNDS):
            question, data = await self._ask(talk, auditing.WORDS, request)
            answer = decode(auditing.words_answer, self._open(question, data, now))
            words += answer.words
            if not answer.next:
                return words
            if answer.next <= request.after:
                raise ProtocolError(Reason.OUT_OF_RANGE, "$.next", "the answers go round in a circle")
            request = msgspec.structs.replace(request, after=answer.next)
        raise ProtocolError(Reason.TOO_MANY, "$.words", f"there is no end to them after {ROUNDS} answers")

    # --- showing ------------------------------------------------------------------------------------------------

    def _page(
        self,
        asked: Asked,
        answer: CasesAnswer,
        findings: Findings,
        faults: Sequence[Fault],
        known: _Known,
        talk: _Talk,
    ) -> Page:
        members = self._core.trust.registry.members
        request = asked.request

        def wanted(line: Line) -> bool:
            if request.since is not UNSET and line.decided_at < request.since:
                return False
            if request.until is not UNSET and line.decided_at >= request.until:
                return False
            if request.report is not UNSET and line.report_id is not UNSET and line.report_id != str(request.report):
                return False
            if line.member is UNSET:
                # What cannot be read must not hide what it may be about.
                return not asked.recipient or bool(line.faults)
            to = members.get(line.member)
            return not asked.recipient or asked.recipient in (line.member, to.jurisdiction if to else "")

        return Page(
            lines=[line for line in findings.lines if wanted(line)],
            faults=[*faults, *findings.faults],
            members=list(answer.members),
            first=answer.first,
            end=answer.end,
            cases=len(answer.cases),
            size=answer.size,
            witnessed=known.size,
            unseen=answer.unseen,
            more=answer.more,
            next=answer.end,
            evidence=talk.exchanged if asked.evidence else UNSET,
        )


def _held(reads: Reads, first: int, end: int) -> dict[int, str]:
    """Leaves of which this node was given a receipt or a grant."""
    leaves = [
        leaf
        for state in ("waiting", "proven", "missing")
        for leaf in reads.waiting_leaves(first, end, _HELD, state=state)
    ]
    return {row.leaf: row.about for row in reads.leaves_by("leaf", leaves) if row.about in _OWN}


def _nothing(first: int, known: _Known, why: Fault, talk: _Talk | None) -> Page:
    """Nothing of an answer that does not hold."""
    return Page(
        lines=[],
        faults=[why],
        members=known.spans.members,
        first=first,
        end=first,
        cases=0,
        size=known.verified,
        witnessed=known.size,
        unseen=[],
        more=False,
        next=first,
        evidence=talk.exchanged if talk else UNSET,
    )
