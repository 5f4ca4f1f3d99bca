"""Steps 4 to 7 of a report's life for one batch of bus messages: verify, decide, commit, and say what to send.

Guarantees: everything that is sent was committed first; the caller acknowledges the messages after `process` returns,
so a crash anywhere only means that they come again, and a repetition is answered with the stored receipt. One message
that cannot be understood goes to quarantine and never holds up the others. What is decided is decided by the policies
that the ledger holds at that moment, whichever process took them in. No I/O but the ledger; time is an argument.

A ledger that several processes write to is not kept waiting for signatures to be verified: that is done before.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

import msgspec

from broker import ledger, store, tables
from broker.confirm import Confirmed, record_confirmations
from broker.decide import Accepted, Decision, decide
from broker.dedup import FoundLink
from broker.erase import Erased, erase_withdrawn
from broker.members import Answers, RegionState
from broker.outgoing import Outgoing, Place, build_receipt, delivery_message, pack_statements
from broker.route import Routed, granted_report, plan
from broker.store import Connection
from broker.verify import Refused, Verified, as_refusal, name_of, verify_submission
from protocol import limits
from protocol.envelope import Rand
from protocol.errors import ProtocolError
from protocol.grants import SEED, commit
from protocol.keys import Signer, b64
from protocol.parse import decode
from protocol.policy import Facts
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.statements import (
    BROKER,
    Links,
    Receipt,
    sign_statement,
)
from protocol.subjects import Kind
from protocol.tracing import Tick, tick


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came: from which member's subject, of which kind."""

    member: str
    kind: str
    data: bytes


@dataclass(slots=True)
class Work:
    """What a batch came to."""

    outgoing: list[Outgoing] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Reports by (outcome, reason)."""
    replays: int = 0
    links: int = 0
    answers: Confirmed = field(default_factory=Confirmed)
    log: list[dict[str, Any]] = field(default_factory=list)
    """One entry a decided submission: ids, outcomes, sizes."""
    reports: list[dict[str, Any]] = field(default_factory=list)
    """One entry a decided report: ids, outcome, reason."""
    erased: Erased = field(default_factory=Erased)
    """What was withdrawn."""
    marks: list[tuple[str, int]] = field(default_factory=list)
    """When a step ended, in nanoseconds; the first is when the batch began."""


BATCH_BYTES: Final = 1_500_000
"""Messages are decided in transactions of about this size: some 300 reports, and a bounded wait for everybody else."""


PULL: Final = 128
PULL_BYTES: Final = 2 * BATCH_BYTES
"""What is in hand is not with another process, and comes again if it is not acknowledged in time."""


class Sized(Protocol):
    """A message of the bus."""

    @property
    def data(self) -> bytes: ...


M = TypeVar("M", bound=Sized)


def in_batches(messages: Sequence[M]) -> list[list[M]]:
    """Cut what was pulled into transactions of a bounded size."""
    batches: list[list[M]] = []
    size = BATCH_BYTES
    for message in messages:
        if size + len(message.data) > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(message)
        size += len(message.data)
    return batches


def how_many(messages: Sequence[Sized]) -> int:
    """How many messages to pull next, if they are as large as these."""
    size = sum(len(message.data) for message in messages) // max(1, len(messages))
    return min(PULL, max(1, PULL_BYTES // max(1, size)))


@dataclass(slots=True)
class _Early:
    """What was verified before the transaction: it counts if it was by the same registry, for the same time."""

    at: datetime
    registry: Registry | None = None
    results: dict[int, Verified | Refused] = field(default_factory=dict)
    """By the identity of the message, which the caller holds."""


_confirmation_decoder: Final = msgspec.json.Decoder(list[str])
_QUARANTINE_BYTES: Final = 16 << 10


class Ingest:
    """Processes batches. One thread at a time.

    Args:
        ledger_store: the ledger.
        signer: the broker's signing key.
        state: gives the region as it is now.
        rand: returns that many random bytes.
        tick: nanoseconds, for the times of the steps.
        retry_ms: after how long a delivery that could not be sent is tried again.
        current: gives the region by which to decide in a transaction, with all that the ledger holds.
    """

    def __init__(
        self,
        ledger_store: store.Store,
        signer: Signer,
        state: Callable[[], RegionState],
        rand: Rand,
        retry_ms: int = 10_000,
        current: Callable[[Connection], RegionState] | None = None,
        tick: Tick = tick,
    ) -> None:
        self._tick = tick
        self._current = current or (lambda _: state())
        self._rand = rand
        self._retry_ms = retry_ms
        self._store = ledger_store
        self._signer = signer
        self._state = state

    def process(self, messages: Sequence[Incoming], now: datetime) -> Work:
        """Verify, decide and commit a batch.

        Raises:
            Transient: nothing was committed; keep the messages and try again.
        """
        work = Work()
        work.marks.append(("began", self._tick()))
        submissions = [item for item in messages if item.kind == Kind.SUBMISSION]
        early = self._verify_early(submissions, now) if self._store.shared else _Early(now)
        with self._store.writing() as connection:
            state = self._current(connection)
            if self._store.shared:
                # What is decided by a policy is decided after it was taken, by whichever clock.
                taken = store.newest_policy_at(connection)
                now = max(now, datetime.fromtimestamp(taken / 1000, now.tzinfo))
            if (early.registry, early.at) != (state.registry, now):
                early = _Early(now)
            self._submissions(connection, submissions, state, now, work, early)
            confirmed = [item for item in messages if item.kind == Kind.CONFIRMATIONS]
            self._confirmations(connection, confirmed, state, now, work)
            for item in messages:
                if item.kind not in (Kind.SUBMISSION, Kind.CONFIRMATIONS):
                    error = ProtocolError(Reason.UNKNOWN_VALUE, "$.kind", "unknown kind of message")
                    self._quarantine(connection, item, error, now)
        work.marks.append(("commit", self._tick()))
        return work

    def _verify_early(self, messages: Sequence[Incoming], now: datetime) -> _Early:
        """Verify, before the transaction, what the ledger has not answered yet."""
        registry = self._state().registry
        early = _Early(now, registry)
        with self._store.reading() as connection:
            fresh = self._without_replays(connection, messages, {}, Work())
        for item in fresh:
            early.results[id(item)] = verify_submission(item.member, item.data, registry, now)
        return early

    def set_aside(self, item: Incoming, error: ProtocolError, now: datetime) -> None:
        """Put a message in quarantine that could not be processed at all; a submission is refused for good.

        Without an answer its origin would send it again, and again.
        """
        with self._store.writing() as connection:
            if item.kind != Kind.SUBMISSION:
                self._quarantine(connection, item, error, now)
                return
            refused = Refused(item.member, item.data, name_of(item.data), as_refusal(error))
            self._quarantine(connection, item, error, now)
            place = next(self._places(connection))
            ledger.record(connection, [], [self._answer_refused(refused, item, place, now)], now)

    # --- submissions ------------------------------------------------------------------------------------------

    def _submissions(
        self,
        connection: Connection,
        messages: Sequence[Incoming],
        state: RegionState,
        now: datetime,
        work: Work,
        early: _Early,
    ) -> None:
        receipts: dict[str, list[str]] = {}
        fresh = self._without_replays(connection, messages, receipts, work)
        verified: list[Verified] = []
        unfit: list[tuple[Refused, Incoming]] = []
        for item in fresh:
            result = early.results.get(id(item)) or verify_submission(item.member, item.data, state.registry, now)
            if isinstance(result, Verified):
                verified.append(result)
            else:
                unfit.append((result, item))
                self._note_refused(connection, result, item, now, work)
        work.marks.append(("verify", self._tick()))
        known = ledger.recall(connection, verified)

        def ask(facts: Facts, origin: str) -> Answers:
            return state.ask_all(facts, origin, now)

        places = self._places(connection)
        decided: list[ledger.DecidedSubmission] = []
        for submission in verified:
            decisions = decide(submission, state.registry, known, ask, now)
            receipt = build_receipt(submission, decisions, state, next(places), now)
            jws = sign_statement(receipt, self._signer)
            decided.append(ledger.DecidedSubmission(submission, decisions, jws, commit(receipt, jws)))
            self._note(submission, decisions, work)
        work.marks.append(("decide", self._tick()))
        refused = [self._answer_refused(refusal, item, next(places), now) for refusal, item in unfit]
        committed = ledger.record(connection, decided, refused, now)
        for answered in decided:
            receipts.setdefault(answered.verified.member, []).append(answered.receipt)
        for turned in refused:
            receipts.setdefault(turned.refused.member, []).append(turned.receipt)
        for member, signed in receipts.items():
            if member in state.registry.members:
                work.outgoing += pack_statements(member, Kind.RECEIPTS, signed)
        self._deliver(connection, decided, committed, state, now, work)
        ends = {
            header.report_id.bytes: end
            for item in decided
            for decision in item.decisions
            if isinstance(decision, Accepted) and (end := known.ended(header := decision.report.header))
        }
        if ends:
            work.erased.add(erase_withdrawn(connection, ends, now))

    def _without_replays(
        self, connection: Connection, messages: Sequence[Incoming], receipts: dict[str, list[str]], work: Work
    ) -> list[Incoming]:
        """Twice is once: what the ledger has answered gets the same answer, and what is here twice is taken once."""
        keys = [(name_of(item.data), b64(hashlib.sha256(item.data).digest())) for item in messages]
        stored = store.receipts_of(connection, {key for pair in keys for key in pair})
        fresh: list[Incoming] = []
        seen: set[str] = set()
        for item, pair in zip(messages, keys, strict=True):
            answer = stored.get(pair[0]) or stored.get(pair[1])
            if answer is not None:
                work.replays += 1
                receipts.setdefault(item.member, []).append(answer.decode("ascii"))
            elif pair[1] not in seen and pair[0] not in seen:
                seen.update(pair)
                fresh.append(item)
        return fresh

    def _places(self, connection: Connection) -> Iterator[Place]:
        """The leaves that the receipts of this transaction get, in order."""
        leaf = store.last_number(connection, tables.submissions)
        while True:
            yield Place(leaf, b64(self._rand(SEED)))
            leaf += 1

    def _answer_refused(
        self, refused: Refused, item: Incoming, place: Place, now: datetime
    ) -> ledger.RefusedSubmission:
        """Kept under the whole message's hash: a mutilated copy must not answer for the real submission."""
        receipt = Receipt(
            iss=BROKER,
            aud=refused.member,
            received_at=now,
            submission=refused.digest,
            leaf=place.leaf,
            seed=place.seed,
            refusal=refused.refusal,
        )
        jws = sign_statement(receipt, self._signer)
        key = b64(hashlib.sha256(item.data).digest())
        return ledger.RefusedSubmission(refused, key, jws, commit(receipt, jws))

    def _note_refused(
        self, connection: Connection, refused: Refused, item: Incoming, now: datetime, work: Work
    ) -> None:
        work.counts["rejected", refused.refusal.reason] += 1
        work.log.append(
            {
                "member": refused.member,
                "submission": refused.digest,
                "outcome": "rejected",
                "reason": refused.refusal.reason,
                "path": refused.refusal.path,
                "bytes": len(item.data),
            }
        )
        error = ProtocolError(Reason(refused.refusal.reason), refused.refusal.path)
        self._quarantine(connection, item, error, now)

    def _note(self, submission: Verified, decisions: Sequence[Decision], work: Work) -> None:
        outcomes: Counter[str] = Counter()
        for decision in decisions:
            if isinstance(decision, Accepted):
                work.counts["accepted", ""] += 1
                outcomes["accepted"] += 1
                told = {"digest": decision.report.digest, "outcome": "accepted"}
            else:
                work.counts[decision.outcome, decision.refusal.reason] += 1
                outcomes[decision.refusal.reason] += 1
                told = {"digest": decision.digest, "outcome": decision.outcome, "reason": decision.refusal.reason}
            header = decision.report.header if isinstance(decision, Accepted) else decision.header
            ids: dict[str, Any] = {"report_id": header.report_id, "revision": header.revision} if header else {}
            work.reports.append({"member": submission.member, "submission": submission.digest, **ids, **told})
        work.log.append(
            {
                "member": submission.member,
                "submission": submission.digest,
                "outcome": "decided",
                "reports": dict(outcomes),
                "bytes": len(submission.message),
            }
        )

    def _deliver(
        self,
        connection: Connection,
        decided: Sequence[ledger.DecidedSubmission],
        committed: ledger.Committed,
        state: RegionState,
        now: datetime,
        work: Work,
    ) -> None:
        routed = [
            Routed(
                item.verified.envelope.jws,
                now,
                [
                    granted_report(
                        committed.seqs[decision.report.digest], decision.report, decision.grants, decision.box
                    )
                    for decision in item.decisions
                    if isinstance(decision, Accepted)
                ],
                item.commitment,
            )
            for item in decided
        ]
        nodes = [member.id for member in state.registry.recipients() if "recipient" in member.roles]
        planned = plan(routed, nodes)
        numbers = ledger.record_deliveries(
            connection, [(item.member, item.entries) for item in planned], now, self._retry_ms
        )
        work.outgoing += [
            delivery_message(number, item, self._signer, now) for number, item in zip(numbers, planned, strict=True)
        ]
        work.links = len(committed.links)
        self._tell_links(connection, committed.links, state, now, work)
        coordinator = state.registry.coordinator()
        if coordinator is not None:
            accepted = [
                (decision, committed.seqs[decision.report.digest])
                for item in decided
                for decision in item.decisions
                if isinstance(decision, Accepted)
            ]
            shown = ledger.links_for(coordinator.id, committed.links)
            store.add_numbered(connection, tables.feed, ledger.feed_rows(coordinator.id, accepted, shown, now), "id")

    def _tell_links(
        self, connection: Connection, found: Sequence[FoundLink], state: RegionState, now: datetime, work: Work
    ) -> None:
        rows: list[store.Row] = []
        for member, entry in state.registry.members.items() if found else ():
            links = ledger.links_for(member, found) if entry.keys and entry.status == "active" else []
            if links:
                jws = sign_statement(Links(iss=BROKER, aud=member, at=now, links=links), self._signer)
                rows.append({"member": member, "kind": "links", "jws": jws.encode("ascii")})
                work.outgoing.append(Outgoing(member, Kind.LINKS, jws.encode("ascii")))
        store.add_numbered(connection, tables.notices, rows, "id")

    # --- confirmations ----------------------------------------------------------------------------------------

    def _confirmations(
        self, connection: Connection, messages: Sequence[Incoming], state: RegionState, now: datetime, work: Work
    ) -> None:
        received: list[tuple[str, str]] = []
        for item in messages:
            try:
                tokens = decode(_confirmation_decoder, item.data)
                if len(tokens) > limits.CONFIRMATIONS_PER_MESSAGE:
                    raise ProtocolError(Reason.TOO_MANY, "$", "too many confirmations in one message")
            except ProtocolError as exc:
                self._quarantine(connection, item, exc, now)
                continue
            received += [(item.member, jws) for jws in tokens]
        if not received:
            return
        answers = record_confirmations(connection, received, state.registry, now)
        work.answers = answers
        for member, noted in answers.noted.items():
            if member in state.registry.members:
                work.outgoing += pack_statements(member, Kind.RECEIPTS, [sign_statement(noted, self._signer)])
        rows = [
            {"member": origin, "kind": "confirmed", "jws": jws.encode("ascii")}
            for origin, signed in answers.forwarded.items()
            for jws in signed
        ]
        store.add_numbered(connection, tables.notices, rows, "id")
        for origin, signed in answers.forwarded.items():
            work.outgoing += pack_statements(origin, Kind.CONFIRMED, signed)
        self._show_confirmations(connection, answers, state, now)

    def _show_confirmations(
        self, connection: Connection, answers: Confirmed, state: RegionState, now: datetime
    ) -> None:
        """The coordinator follows acknowledgements of the reports that it was granted, and of no others."""
        coordinator = state.registry.coordinator()
        if coordinator is None:
            return
        rows: list[store.Row] = []
        for confirmation, reports in answers.shown:
            seen = [row.digest for row in reports if coordinator.id in ledger.unpack_grants(row.grants)]
            if seen and state.registry.sees(coordinator.id, confirmation.iss):
                data = {"member": confirmation.iss, "state": confirmation.state, "reports": seen}
                rows.append(
                    {
                        "kind": "confirmation",
                        "at": store.milliseconds(now),
                        "member": coordinator.id,
                        "report": None,
                        "data": msgspec.json.encode(data),
                    }
                )
        store.add_numbered(connection, tables.feed, rows, "id")

    def _quarantine(self, connection: Connection, item: Incoming, error: ProtocolError, now: datetime) -> None:
        store.add_numbered(
            connection,
            tables.quarantine,
            [
                {
                    "at": store.milliseconds(now),
                    "member": item.member,
                    "kind": item.kind[:24],
                    "reason": error.reason.value,
                    "path": error.path[:500],
                    "size": len(item.data),
                    "sha256": b64(hashlib.sha256(item.data).digest()),
                    "start": item.data[:_QUARANTINE_BYTES],
                }
            ],
            "id",
        )
