"""Who got what, when, under which rule: answered from the ledger, each answer checked against the log.

Guarantees: what an answer says of grants and rules is what the signed receipt says, and the receipt is proven to be in
the tree under the newest checkpoint, whose signature holds; where it is not, or where another row contradicts it, the
answer says so. Reads one snapshot in the order of decision, page by page, whatever the size of the ledger. Holds ids,
rules, times and states, never report content.

Refuses: a ledger that cannot be read (ConfigError).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET

from broker import logstore, reading, tables
from broker.checkdeliveries import reports_confirmed, said_in
from broker.checkreports import deliveries_by_report, open_receipt, unpacked
from broker.logstore import TileCache
from broker.route import unpack_entries
from broker.store import Connection, Store
from protocol.errors import ProtocolError
from protocol.faults import from_milliseconds
from protocol.merkle import prove_inclusion, verify_inclusion
from protocol.notes import open_checkpoint
from protocol.policy import Withheld
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.report import UNIT_NAMES
from protocol.statements import Decision, Receipt, ReleasedBy, Stopped

Log = Literal["proven", "not-sequenced", "MISMATCH"]
_RECEIPT: Final = ("id", "digest", "member", "received_at", "entry", "receipt", "refusal")
SKEW_MS: Final = 300_000
"""How far the broker's clock may have been put back between a report and a word about it."""
_RANK: Final = {"queued": 0, "sent": 0, "read": 2, "acting": 2, "closed": 2, "expired": 3}
"""A word that says more counts more, in whatever order words came; all others have rank 1."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; all that is given must hold.

    Args:
        since, until: by when the broker decided: from then on, and before then.
        member: who received it, or was granted it; with `denied`, `rule` or `report`, also what it was not granted.
        rule: (document, rule) that released or withheld something.
        denied: only where something was withheld.
    """

    report: UUID | None = None
    revision: int | None = None
    member: str | None = None
    origin: str | None = None
    rule: tuple[str, str] | None = None
    denied: bool = False
    since: datetime | None = None
    until: datetime | None = None

    @property
    def everybody(self) -> bool:
        """Whether those that were granted nothing are asked for too."""
        return self.denied or self.rule is not None or self.report is not None or self.member is None


class Event(msgspec.Struct, frozen=True):
    """A state and when it began; `statement` names the signed word that says so."""

    state: str
    at: datetime
    statement: str = ""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of a report and one member."""

    report_id: str
    revision: int
    phase: str
    digest: str
    origin: str
    decided_at: datetime
    member: str
    granted: bool
    exact: list[str] = []
    coarse: list[str] = []
    released_by: list[ReleasedBy] = []
    withheld: list[Withheld] = []
    delivery: int | None = None
    state: str = ""
    events: list[Event] = []
    leaf: int = 0
    log: Log = "MISMATCH"
    fault: str = ""
    """Why the log does not show it."""


def _units(mask: int) -> list[str]:
    return [name for bit, name in enumerate(UNIT_NAMES) if mask >> bit & 1]


# --- the log ----------------------------------------------------------------------------------------------------


class _Tree:
    """The tree under the newest checkpoint, if its signature holds."""

    def __init__(self, connection: Connection, registry: Registry) -> None:
        self._connection = connection
        self._cache = TileCache()
        self.size, self.root, self.fault = 0, b"", ""
        newest = logstore.newest(connection)
        if newest is None:
            return
        try:
            note = bytes(newest.note).decode("utf-8")
            opened = open_checkpoint(note, registry.log_keys(), [], from_milliseconds(newest.at))
        except (ProtocolError, UnicodeDecodeError, TypeError) as exc:
            reason = exc.reason.value if isinstance(exc, ProtocolError) else Reason.MALFORMED_NOTE.value
            self.fault = f"the newest checkpoint does not hold: {reason}"
            return
        self.size, self.root = opened.checkpoint.size, opened.checkpoint.root
        if opened.checkpoint.origin != registry.origin:
            self.fault = "the newest checkpoint is of another log"

    def find(self, leaf: int, entry: bytes) -> tuple[Log, str]:
        """Whether the entry is at that leaf."""
        if self.fault:
            return "MISMATCH", self.fault
        if leaf >= self.size:
            return "not-sequenced", ""

        def read(level: int, number: int) -> bytes:
            return self._cache.node(self._connection, level, number)

        try:
            verify_inclusion(entry, leaf, self.size, prove_inclusion(leaf, self.size, read), self.root)
        except ProtocolError as exc:
            return "MISMATCH", exc.detail
        except AssertionError:
            return "MISMATCH", "the log's tiles are not complete"
        return "proven", ""


# --- answering --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Told:
    """What the ledger holds of a page's deliveries."""

    sent: dict[tuple[int, str], list[tuple[int, int, int]]] = field(default_factory=dict)
    deliveries: dict[int, Any] = field(default_factory=dict)
    left: dict[int, set[int]] = field(default_factory=dict)
    words: dict[tuple[str, str], list[Event]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Proven:
    """A submission's receipt, and whether it is in the log."""

    receipt: Receipt | None
    leaf: int
    log: Log
    fault: str


def audit(store: Store, registry: Registry, question: Question) -> Iterator[Line]:
    """The answers, in the order of decision, and for each report in the order of the receipt.

    Args:
        registry: the region as it is now, for keys.

    Raises:
        ConfigError: the ledger cannot be read on.
    """
    with reading.snapshot(store) as connection:
        tree = _Tree(connection, registry)
        pages = reading.decided(
            connection,
            since=_milliseconds(question.since),
            until=_milliseconds(question.until),
            origin=question.origin,
            report_id=question.report.bytes if question.report else None,
            revision=question.revision,
        )
        for page in pages:
            rows = page if question.everybody else [row for row in page if _granted(row, question.member)]
            if rows:
                yield from _answer(connection, rows, registry, tree, question)


def _milliseconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)


def _granted(row: Any, member: str | None) -> bool:
    grants = unpacked(row.grants)
    # A row that cannot be read must not hide a report: its receipt decides.
    return grants is None or member in grants


def _answer(
    connection: Connection, rows: Sequence[Any], registry: Registry, tree: _Tree, question: Question
) -> Iterator[Line]:
    numbers = {row.submission for row in rows}
    proven: dict[int, _Proven] = {}
    for kept in reading.rows_where(connection, tables.submissions, "id", numbers, _RECEIPT):
        receipt, found = open_receipt(kept, registry)
        if receipt is None or found:
            proven[kept.id] = _Proven(receipt, kept.id - 1, "MISMATCH", found[0].detail)
        else:
            proven[kept.id] = _Proven(receipt, receipt.leaf, *tree.find(receipt.leaf, bytes(kept.entry)))
    chosen = [
        (row, member, decision)
        for row in rows
        for member, decision in _decisions(row, proven.get(row.submission)).items()
        if _asked(member, decision, question)
    ]
    told = _told(connection, [row for row, _, _ in chosen], {member for _, member, _ in chosen})
    for row, member, decision in chosen:
        yield _line(row, member, decision, proven.get(row.submission), told)


def _decisions(row: Any, proven: _Proven | None) -> Mapping[str, Decision | None]:
    """Each member's decision; None for one that only the ledger knows of."""
    receipt = proven.receipt if proven else None
    decisions: dict[str, Decision | None] = {}
    for said in receipt.reports if receipt else ():
        if said.digest == row.digest and said.outcome == "accepted":
            for member, index in said.to.items():
                decisions[member] = receipt.decisions[index] if receipt else None
    for member in unpacked(row.grants) or ():
        if decisions.get(member) is None or not decisions[member].granted:  # type: ignore[union-attr]
            decisions[member] = None
    return decisions


def _asked(member: str, decision: Decision | None, question: Question) -> bool:
    if question.member is not None and member != question.member:
        return False
    if decision is None:
        return True
    if question.member is not None and not question.everybody and not decision.granted:
        return False
    if question.denied and not decision.withheld:
        return False
    if question.rule is not None:
        rules = {(item.document, item.rule) for item in decision.by}
        rules |= {(item.document, item.rule) for item in decision.withheld if item.rule is not UNSET}
        return question.rule in rules
    return True


def _line(row: Any, member: str, decision: Decision | None, proven: _Proven | None, told: _Told) -> Line:
    log, fault = (proven.log, proven.fault) if proven else ("MISMATCH", "there is no such submission")
    if decision is None:
        decision, log, fault = Decision(granted=True), "MISMATCH", "the ledger grants what the receipt does not"
    delivery, state, events = _state(row, member, decision, told)
    sent = told.sent.get((row.seq, member))
    if not fault:
        fault = _contradiction(row, member, decision, sent)
        log = "MISMATCH" if fault else log
    return Line(
        report_id=str(UUID(bytes=bytes(row.report_id))),
        revision=row.revision,
        phase=row.phase,
        digest=row.digest,
        origin=row.origin,
        decided_at=from_milliseconds(row.received_at),
        member=member,
        granted=decision.granted,
        exact=_units(decision.exact),
        # A coarse value travels only where the exact one does not.
        coarse=_units(decision.coarse & ~decision.exact),
        released_by=decision.by,
        withheld=decision.withheld,
        delivery=delivery,
        state=state,
        events=events,
        leaf=proven.leaf if proven else 0,
        log=log,
        fault=fault,
    )


def _contradiction(row: Any, member: str, decision: Decision, sent: Sequence[tuple[int, int, int]] | None) -> str:
    """What the ledger did against the receipt."""
    if sent and not decision.granted:
        return "it was delivered, and the receipt denies it"
    if sent and any(exact & ~decision.exact or coarse & ~decision.coarse for _, exact, coarse in sent):
        return "more was delivered than the receipt grants"
    grants = unpacked(row.grants)
    if grants is None or (member in grants) != decision.granted:
        return "the ledger grants something else than the receipt"
    return ""


# --- what became of it ------------------------------------------------------------------------------------------


def _told(connection: Connection, rows: Sequence[Any], members: Collection[str]) -> _Told:
    told = _Told()
    made = reading.rows_where(connection, tables.deliveries, "created_at", {row.received_at for row in rows})
    told.deliveries = {row.id: row for row in made if row.member in members}
    told.sent = deliveries_by_report(told.deliveries.values())
    for row in told.deliveries.values():
        try:
            told.left[row.id] = {entry[0] for entry in unpack_entries(row.open)}
        except (msgspec.DecodeError, UnicodeDecodeError):
            told.left[row.id] = set()
    digests = {row.digest for row in rows}
    for row in reading.rows_where(connection, tables.confirmations, "delivery", list(told.deliveries)):
        _note(told, row, digests)
    since: dict[str, int] = {}
    for row in rows:
        since[row.origin] = min(row.received_at, since.get(row.origin, row.received_at))
    for origin, start in since.items():
        for row in reading.users_words(connection, origin, start - SKEW_MS):
            if row.member in members:
                _note(told, row, digests)
    _note_stopped(connection, told, rows, since)
    return told


def _note(told: _Told, row: Any, digests: Collection[str]) -> None:
    for digest in reports_confirmed(row):
        if digest in digests:
            event = Event(row.state, from_milliseconds(row.at), row.digest)
            told.words.setdefault((digest, row.member), []).append(event)


def _note_stopped(connection: Connection, told: _Told, rows: Sequence[Any], origins: Collection[str]) -> None:
    """Why a report is off its delivery though nobody confirmed it."""
    unexplained = set(_unexplained(rows, told))
    if not unexplained:
        return
    for origin in sorted(origins):
        for page in reading.pages(connection, tables.notices, kind="stopped", member=origin):
            for row in page:
                stopped = said_in(row, Stopped)
                for digest in stopped.reports if stopped else ():
                    if stopped and (digest, stopped.member) in unexplained:
                        reason = stopped.refusal.reason
                        state = {Reason.EXPIRED.value: "expired", Reason.UNKNOWN_MEMBER.value: "cancelled"}
                        event = Event(state.get(reason, "stopped"), stopped.at, reason)
                        told.words.setdefault((digest, stopped.member), []).append(event)


def _unexplained(rows: Sequence[Any], told: _Told) -> Iterator[tuple[str, str]]:
    """(report, member) of what is off its delivery, and no word of the member says why."""
    digests = {row.seq: row.digest for row in rows}
    for (seq, member), found in told.sent.items():
        digest = digests.get(seq)
        if digest is not None and (digest, member) not in told.words:
            delivery = told.deliveries[found[0][0]]
            if delivery.state == "cancelled" or seq not in told.left[delivery.id]:
                yield digest, member


def _state(row: Any, member: str, decision: Decision, told: _Told) -> tuple[int | None, str, list[Event]]:
    """Delivery number, the newest state, and all of them with their times."""
    words = sorted(told.words.get((row.digest, member), ()), key=lambda event: event.at)
    found = told.sent.get((row.seq, member))
    if not decision.granted and not found:
        return None, "denied", []
    if not found:
        # A coordinator without a node reads the feed.
        return None, "shown", words
    delivery = told.deliveries[found[0][0]]
    events = [Event("queued", from_milliseconds(delivery.created_at))]
    if delivery.sent_at is not None:
        events.append(Event("sent", from_milliseconds(delivery.sent_at)))
    events += words
    newest = max(events, key=lambda event: (_RANK.get(event.state, 1), event.at))
    return delivery.id, newest.state, events
