"""Step 7 of a report's life, as long as it takes: deliveries are sent again until their recipient confirms.

Guarantees: what is sent again is built again from the ledger and asked of today's policy again, so that a tightened
policy, an expiry or a suspended member also stops what is queued; nothing is ever sent that was not granted when it was
decided. A delivery that nothing is left of is cancelled, and the origin is told by which rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from broker import store, tables
from broker.decide import narrow
from broker.erase import Erased, any_expired, erase_expired
from broker.members import RegionState
from broker.outgoing import Outgoing, delivery_message, pack_statements
from broker.route import Entry, Granted, Routed, granted_report, pack_entries, plan, unpack_entries
from broker.store import Connection
from broker.verify import as_refusal
from protocol import limits
from protocol.envelope import SignedReport, open_envelope
from protocol.errors import ProtocolError
from protocol.facts import expiry_of
from protocol.grants import commit
from protocol.jws import split_jws
from protocol.keys import Signer
from protocol.policy import HEADER, Outcome, explain, facts_of
from protocol.reasons import Reason
from protocol.registry import Member
from protocol.statements import BROKER, Delivered, Receipt, Refusal, Stopped, sign_statement
from protocol.subjects import Kind
from protocol.submission import box_of, read_boxes, split_submission

_receipt: Final = msgspec.json.Decoder(Receipt)
RETRY_MOST_MS: Final = 15 * 60_000
DELIVERED_AFTER_MS: Final = 5_000
"""A delivery that is not confirmed by then is reported to its origins as delivered; the others just as received."""
ASLEEP_MS: Final = 60_000
"""How long to leave a recipient alone that has not even fetched what waits in its inbox."""


def backoff_ms(first_ms: int, attempts: int) -> int:
    """Milliseconds until the next attempt: doubles, up to a quarter of an hour."""
    return min(first_ms << min(attempts, 20), RETRY_MOST_MS)


@dataclass(frozen=True, slots=True)
class Stop:
    """A report that is no longer delivered to a member, and why."""

    member: str
    origin: str
    digest: str
    refusal: Refusal


@dataclass(slots=True)
class Due:
    """What to send again now, and what was stopped."""

    outgoing: list[Outgoing] = field(default_factory=list)
    stopped: list[Stop] = field(default_factory=list)
    erased: Erased = field(default_factory=Erased)
    """What has expired."""


def _why(outcome: Outcome) -> Refusal:
    """The gate that is shut now, and its rule, in the words of a receipt."""
    by = explain(outcome, 0, 0)[0]
    rule = f", rule {by.rule}" if by.rule else ""
    return Refusal(reason=by.reason, path="$", detail=f"{by.gate} policy {by.document}{rule}")


class Redelivery:
    """Builds due deliveries again. One thread at a time, the ledger's.

    Args:
        first_retry_ms: after how long a delivery that was sent and not confirmed is sent again.
        current: gives the region by which to decide in a transaction, with all that the ledger holds.
    """

    def __init__(
        self,
        ledger_store: store.Store,
        signer: Signer,
        state: Callable[[], RegionState],
        first_retry_ms: int,
        current: Callable[[Connection], RegionState] | None = None,
    ) -> None:
        self._current = current or (lambda _: state())
        self._store = ledger_store
        self._signer = signer
        self._first = first_retry_ms

    def due(self, now: datetime, asleep: Collection[str], most: int = 64) -> Due:
        """Deliveries whose time has come. Of several processes one gets each: its next time is set as it is taken.

        Args:
            asleep: members whose inbox still holds messages that they have not fetched: more copies help nobody.

        Raises:
            Transient: the ledger cannot be used now.
        """
        at = store.milliseconds(now)
        found = Due()
        if self._store.shared and not self._anything(now):
            return found
        with self._store.writing() as connection:
            state = self._current(connection)
            found.erased = erase_expired(connection, now)
            for row in store.due_deliveries(connection, at, most):
                member = state.registry.members.get(row.member)
                if member is None:
                    self._cancel_all(connection, row, at, found)
                elif member.status != "active" or (row.member in asleep and row.attempts):
                    store.set_delivery(connection, row.id, next_attempt_at=at + ASLEEP_MS)
                else:
                    self._again(connection, row, member, state, now, found)
            self._tell_origins(connection, found, now)
            self._tell_delivered(connection, found, now)
        return found

    def _anything(self, now: datetime) -> bool:
        """Whether there is anything to do: if not, the other processes' transactions are not held up every second."""
        at = store.milliseconds(now)
        with self._store.reading() as connection:
            return bool(
                store.due_deliveries(connection, at, 1)
                or store.untold_deliveries(connection, at - DELIVERED_AFTER_MS, 1)
                or any_expired(connection, now)
            )

    def _tell_origins(self, connection: Connection, found: Due, now: datetime) -> None:
        """No silence: whose report is stopped reads by which rule, signed, now or when its node asks."""
        groups: dict[tuple[str, str, str, str], list[Stop]] = {}
        for item in found.stopped:
            key = (item.origin, item.member, item.refusal.reason, item.refusal.detail)
            groups.setdefault(key, []).append(item)
        rows: list[store.Row] = []
        for (origin, member, _, _), items in groups.items():
            statement = Stopped(
                iss=BROKER,
                aud=origin,
                at=now,
                member=member,
                reports=[item.digest for item in items],
                refusal=items[0].refusal,
            )
            jws = sign_statement(statement, self._signer)
            rows.append({"member": origin, "kind": "stopped", "jws": jws.encode("ascii")})
            found.outgoing += pack_statements(origin, Kind.RECEIPTS, [jws])
        store.add_numbered(connection, tables.notices, rows, "id")

    def _tell_delivered(self, connection: Connection, found: Due, now: datetime) -> None:
        """Whose report lies in an inbox and is not fetched reads so: the recipient's node, not the region, is away."""
        rows = store.untold_deliveries(connection, store.milliseconds(now) - DELIVERED_AFTER_MS, 64)
        reports: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            seqs = [entry[0] for entry in unpack_entries(row.open)]
            for report in store.reports_where(connection, "seq", seqs):
                reports.setdefault((report.origin, row.member), []).append(report.digest)
            store.set_delivery(connection, row.id, told=True)
        notices: list[store.Row] = []
        for (origin, member), digests in reports.items():
            for start in range(0, len(digests), limits.REPORTS_PER_CONFIRMATION):
                part = digests[start : start + limits.REPORTS_PER_CONFIRMATION]
                jws = sign_statement(
                    Delivered(iss=BROKER, aud=origin, at=now, member=member, reports=part), self._signer
                )
                notices.append({"member": origin, "kind": "delivered", "jws": jws.encode("ascii")})
                found.outgoing += pack_statements(origin, Kind.RECEIPTS, [jws])
        store.add_numbered(connection, tables.notices, notices, "id")

    def sent(self, numbers: Sequence[int], now: datetime) -> None:
        """Record that these deliveries are in their recipients' inboxes."""
        at = store.milliseconds(now)
        with self._store.writing() as connection:
            for row in store.deliveries_by_id(connection, numbers).values():
                if row.state in ("pending", "sent"):
                    attempts = row.attempts + 1
                    store.set_delivery(
                        connection,
                        row.id,
                        state="sent",
                        sent_at=row.sent_at or at,
                        attempts=attempts,
                        next_attempt_at=at + backoff_ms(self._first, attempts - 1),
                    )

    def hurry(self, members: Iterable[str], now: datetime) -> None:
        """Send everything open to these members again at once: what their inboxes held is lost, or they are back."""
        with self._store.writing() as connection:
            store.hurry(connection, members, store.milliseconds(now))

    def _again(
        self, connection: Connection, row: Any, member: Member, state: RegionState, now: datetime, found: Due
    ) -> None:
        at = store.milliseconds(now)
        granted = {entry[0]: entry for entry in unpack_entries(row.open)}
        routed, kept = self._rebuild(connection, granted, member, state, now, found)
        if len(kept) < len(granted):
            store.set_delivery(connection, row.id, open=pack_entries(kept))
        if not kept:
            store.set_delivery(connection, row.id, state="cancelled", closed_at=at)
            return
        planned = plan(routed, [member.id])
        # What once fitted one message still does: restricting only ever makes it smaller.
        found.outgoing.append(delivery_message(row.id, planned[0], self._signer, now))
        store.set_delivery(connection, row.id, next_attempt_at=at + backoff_ms(self._first, row.attempts))

    def _rebuild(
        self,
        connection: Connection,
        granted: dict[int, Entry],
        member: Member,
        state: RegionState,
        now: datetime,
        found: Due,
    ) -> tuple[list[Routed], list[Entry]]:
        """Open the submissions again, and keep of the grants what today's policy still grants."""
        by_submission: dict[int, list[Any]] = {}
        for message in store.messages_of(connection, granted):
            by_submission.setdefault(message.submission, []).append(message)
        routed: list[Routed] = []
        kept: list[Entry] = []
        for rows in by_submission.values():
            received_at = datetime.fromtimestamp(rows[0].received_at / 1000, now.tzinfo)
            jws = rows[0].receipt.decode("ascii")
            try:
                sd_jwt, parts = split_submission(rows[0].message)
                envelope = open_envelope(sd_jwt, state.registry.keys.find, received_at)
                boxes = read_boxes(parts)
            except ProtocolError as exc:
                found.stopped += [Stop(member.id, row.origin, row.digest, as_refusal(exc)) for row in rows]
                continue
            reports = {report.digest: report for report in envelope.reports if isinstance(report, SignedReport)}
            chosen: list[Granted] = []
            for row in rows:
                report = reports[row.digest]
                masks = granted[row.seq][1:]
                if row.erased_at is not None:
                    ends = expiry_of(report.header)
                    reason = Reason.EXPIRED if ends is not None and ends <= now else Reason.WITHDRAWN
                    found.stopped.append(Stop(member.id, row.origin, row.digest, Refusal(reason=reason.value)))
                    continue
                if report.header.phase != "withdrawn":
                    outcome = state.ask(facts_of(report.header), member, now)
                    masks = narrow(masks, outcome)
                    if not masks[0] & HEADER:
                        found.stopped.append(Stop(member.id, row.origin, row.digest, _why(outcome)))
                        continue
                chosen.append(granted_report(row.seq, report, {member.id: masks}, box_of(report, boxes)))
                kept.append((row.seq, *masks))
            if chosen:
                commitment = commit(_receipt.decode(split_jws(jws, Receipt.typ).payload), jws)
                routed.append(Routed(envelope.jws, received_at, chosen, commitment))
        return routed, kept

    def _cancel_all(self, connection: Connection, row: Any, at: int, found: Due) -> None:
        """The recipient is no member any more."""
        refusal = Refusal(reason=Reason.UNKNOWN_MEMBER.value, detail="no such member in this region any more")
        for message in store.messages_of(connection, [entry[0] for entry in unpack_entries(row.open)]):
            found.stopped.append(Stop(row.member, message.origin, message.digest, refusal))
        store.set_delivery(connection, row.id, state="cancelled", closed_at=at)
