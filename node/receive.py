"""Step 8 of a report's life: what the broker sent, committed, and the word about it that goes back.

Guarantees: within the caller's transaction, everything that holds is stored once however often it comes, what a
delivery brought is confirmed or refused to its origin by a signed statement stored beside it, and what does not hold
is an `alarm` in the feed. Nothing that a peer sends raises. No I/O but the transaction; time and key are arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET

from node import tables
from node.alarms import raise_alarm
from node.doorrows import rows_by
from node.escalation import DONE, expect_readers, expect_reading, nothing_owed
from node.expiry import EXPIRED, content_of, hide_expired, hide_withdrawn, last_expired
from node.opening import Arrival, Bad, Parcel, Piece, Turned
from node.store import Tx, microseconds
from protocol import limits
from protocol.envelope import header_in
from protocol.governance import Signed, entry_of
from protocol.grants import commit
from protocol.keys import Signer
from protocol.reasons import Reason
from protocol.report import Header
from protocol.statements import (
    Confirmation,
    Delivered,
    Delivery,
    Links,
    Noted,
    Receipt,
    Refusal,
    ReportReceipt,
    Stopped,
    sign_statement,
    statement_digest,
)

_encode: Final = msgspec.json.encode
_STOPPED: Final = "stopped"
_DELIVERED: Final = "delivered"


@dataclass(slots=True)
class TakenIn:
    """What a batch came to, for the schedule, the metrics and the log."""

    settled: list[int] = field(default_factory=list)
    """Submissions whose receipt is here."""
    seconds: list[float] = field(default_factory=list)
    """From commit to receipt, one a submission."""
    noted: list[int] = field(default_factory=list)
    """Own confirmations that the broker holds."""
    to_send: list[int] = field(default_factory=list)
    """Own confirmations to be sent now."""
    steps: list[tuple[str, float]] = field(default_factory=list)
    """Seconds by the broker's clock and this one: from its decision to its receipt, or to the report, here."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(what, reason) of reports and statements."""


TooMuch = Callable[[Header, ReportReceipt, Receipt], Sequence[str]]
"""The members that were granted more of an own report than may be, see `granting.granted_too_much`."""


class Clerk:
    """Writes down one batch.

    Args:
        tx: the transaction.
        member: who this node is.
        signer: signs the confirmations.
        now: the time of all of it.
        too_much: holds receipts to the own policy.
    """

    def __init__(self, tx: Tx, member: str, signer: Signer, now: datetime, too_much: TooMuch) -> None:
        self._too_much = too_much
        self._tx = tx
        self._member = member
        self._signer = signer
        self._now = now
        self._at = microseconds(now)
        self.taken = TakenIn()

    def take(self, pieces: Iterable[Piece]) -> TakenIn:
        """Write down everything."""
        letters: dict[type[object], dict[str, Any]] = {}
        for piece in pieces:
            if isinstance(piece, Parcel):
                self._parcel(piece)
            elif isinstance(piece, Bad):
                self._bad(piece)
            else:
                letters.setdefault(type(piece.statement), {})[piece.jws] = piece.statement
        self._receipts(letters.get(Receipt, {}))
        self._noted(letters.get(Noted, {}))
        self._confirmed(letters.get(Confirmation, {}))
        self._links(letters.get(Links, {}))
        self._stopped(letters.get(Stopped, {}))
        self._delivered(letters.get(Delivered, {}))
        return self.taken

    def _alarm(self, about: str, reason: str, **facts: Any) -> None:
        self.taken.counts["alarm", reason] += 1
        raise_alarm(self._tx, about, reason, self._at, **facts)

    def _bad(self, bad: Bad) -> None:
        error = bad.error
        self._alarm(bad.kind, error.reason.value, path=error.path, detail=error.detail, size=bad.size)

    def _keep(self, kind: str, jws: str) -> str:
        """Store a statement of somebody else's as evidence; returns its name."""
        digest = statement_digest(jws)
        if not self._tx.known_statements([digest]):
            self._tx.add(tables.statements, [{"digest": digest, "kind": kind, "jws": jws, "at": self._at}])
        return digest

    # --- the broker's answers to what this member sent

    def _receipts(self, letters: dict[str, Receipt]) -> None:
        known = rows_by(self._tx.submission_heads({item.submission for item in letters.values()}), "digest")
        seen: dict[str, str] = {}
        for jws, receipt in letters.items():
            row = known.get(receipt.submission)
            held = seen.get(receipt.submission) or (row.receipt if row else None)
            if row is None:
                # Somebody used this member's transport credentials, or the database is older than the last send.
                refused = receipt.refusal.reason if receipt.refusal else None
                self._alarm("receipt", Reason.UNKNOWN_SUBMISSION.value, submission=receipt.submission, refused=refused)
            elif held is None:
                seen[receipt.submission] = jws
                self._receipt(row, jws, receipt)
                expect_readers(self._tx, row.id, receipt, self._at)
            elif held != jws:
                self._alarm("receipt", Reason.CONTENT_CHANGED.value, submission=receipt.submission)

    def _receipt(self, row: Any, jws: str, receipt: Receipt) -> None:
        said = {item.digest: item for item in receipt.reports}
        updates: list[dict[str, Any]] = []
        for report in self._tx.identities("submission", [row.id]):
            if report.kept:
                continue
            item = said.pop(report.digest, None)
            if item is None:
                refusal = receipt.refusal or Refusal(
                    reason=Reason.UNKNOWN_REPORT.value, detail="the broker's receipt does not name this report"
                )
                item = ReportReceipt(digest=report.digest, outcome="rejected", refusal=refusal)
            reason = item.refusal.reason if item.refusal else ""
            updates.append({"digest": report.digest, "state": item.outcome, "outcome": _encode(item)})
            self.taken.counts[item.outcome, reason] += 1
            event = {"report_id": report.report_id, "revision": report.revision, "digest": report.digest}
            self._tx.event("report.receipt", {**event, "outcome": item.outcome, "reason": reason or None}, self._at)
        self._hold_to_policy(row.id, receipt)
        self._expect(receipt.leaf, commit(receipt, jws).entry, "receipt", row.digest)
        if said:
            self._alarm("receipt", Reason.UNKNOWN_REPORT.value, submission=row.digest, reports=len(said))
        self._tx.set(tables.own_reports, "digest", updates)
        self._tx.set(tables.submissions, "id", [{"id": row.id, "waiting": False, "receipt": jws}])
        self.taken.settled.append(row.id)
        self.taken.seconds.append((self._at - row.created_at) / 1_000_000)
        self.taken.steps.append(("receipt", (self._now - receipt.received_at).total_seconds()))

    def _hold_to_policy(self, submission: int, receipt: Receipt) -> None:
        """No grant of an own report goes beyond its marking and the own policy, or the broker is at fault."""
        texts = self._tx.disclosures_of(submission)
        for item in receipt.reports:
            text = texts.get(item.digest)
            if text is None or item.outcome != "accepted":
                continue
            header = header_in(text.partition("~")[0])
            for member in self._too_much(header, item, receipt):
                ids = {"report_id": str(header.report_id), "revision": header.revision, "digest": item.digest}
                self._alarm("receipt", Reason.GRANTED_TOO_MUCH.value, member=member, **ids)

    def _expect(self, leaf: int, entry: bytes, about: str, name: str) -> None:
        """Remember what the broker said is in its log, for the witness to look for."""
        (known,) = self._tx.leaves_by("leaf", [leaf]) or (None,)
        if known is None:
            row = {"leaf": leaf, "entry": entry, "about": about, "name": name, "state": "waiting", "at": self._at}
            self._tx.add(tables.leaves, [row])
        elif known.entry != entry:
            self._alarm("log", Reason.LOG_FORKED.value, leaf=leaf, name=name, other=known.name)

    def records(self, listed: Iterable[tuple[Signed, str, int]], shown: Iterable[tuple[int, str]] = ()) -> TakenIn:
        """Governance records that hold, each with the leaf that the broker says it has; earlier ones shown only now."""
        self._tx.set(tables.governance, "number", [{"number": number, "record": text} for number, text in shown])
        for signed, text, leaf in listed:
            row = {"number": signed.record.number, "digest": signed.digest, "record": text, "leaf": leaf}
            self._tx.add(tables.governance, [row])
            self._expect(leaf, entry_of(signed.digest), "governance", signed.digest)
        return self.taken

    def _noted(self, letters: dict[str, Noted]) -> None:
        refusals: dict[str, Refusal] = {}
        named: set[str] = set()
        for noted in letters.values():
            refusals |= noted.refused
            named |= {*noted.confirmations, *noted.refused}
        updates: list[dict[str, Any]] = []
        for row in self._tx.confirmations_by("digest", named):
            refusal = refusals.get(row.digest)
            self.taken.noted.append(row.id)
            if not row.waiting:
                continue
            packed = _encode(refusal) if refusal else None
            updates.append({"id": row.id, "waiting": False, "noted_at": self._at, "refusal": packed})
            if refusal is not None:
                self._alarm("confirmation", refusal.reason, confirmation=row.digest, detail=refusal.detail)
        self._tx.set(tables.confirmations_out, "id", updates)

    # --- what others say about this member's reports

    def _confirmed(self, letters: dict[str, Confirmation]) -> None:
        named = {digest for item in letters.values() for digest in item.reports}
        own = rows_by(self._tx.identities("digest", named), "digest")
        known = {(row.report, row.member, row.state) for row in self._tx.confirmed_by(list(own))}
        for jws, item in letters.items():
            rows: list[dict[str, Any]] = []
            for digest in item.reports:
                report = own.get(digest)
                if report is None or (digest, item.iss, item.state) in known:
                    continue
                known.add((digest, item.iss, item.state))
                refusal = _encode(item.refusal) if item.refusal else None
                row = {"report": digest, "member": item.iss, "state": item.state, "at": microseconds(item.at)}
                rows.append({**row, "refusal": refusal, "statement": statement_digest(jws)})
                self.taken.counts["confirmed", item.state] += 1
                event = {"report_id": report.report_id, "revision": report.revision, "digest": digest}
                reason = item.refusal.reason if item.refusal else None
                said = {"by": item.iss, "state": item.state, "reason": reason}
                self._tx.event("report.confirmed", {**event, **said}, self._at)
            if rows:
                self._keep("confirmation", jws)
                self._tx.add(tables.confirmed, rows)
            if item.state in DONE:
                nothing_owed(self._tx, [(row["report"], item.iss) for row in rows])

    def _stopped(self, letters: dict[str, Stopped]) -> None:
        """Kept beside the recipients' own words: the broker's, that one of them will not get it."""
        named = {digest for item in letters.values() for digest in item.reports}
        own = rows_by(self._tx.identities("digest", named), "digest")
        known = {(row.report, row.member) for row in self._tx.confirmed_by(list(own)) if row.state == _STOPPED}
        for jws, item in letters.items():
            fresh = [digest for digest in item.reports if digest in own and (digest, item.member) not in known]
            known.update((digest, item.member) for digest in fresh)
            if not fresh:
                continue
            statement = self._keep("stopped", jws)
            said = {"member": item.member, "state": _STOPPED, "at": microseconds(item.at)}
            rest = {"refusal": _encode(item.refusal), "statement": statement}
            self._tx.add(tables.confirmed, [{"report": digest, **said, **rest} for digest in fresh])
            nothing_owed(self._tx, [(digest, item.member) for digest in fresh])
            self.taken.counts["stopped", item.refusal.reason] += len(fresh)
            for digest in fresh:
                ids = {"report_id": own[digest].report_id, "revision": own[digest].revision, "digest": digest}
                event = {**ids, "member": item.member, "reason": item.refusal.reason, "detail": item.refusal.detail}
                self._tx.event("report.stopped", event, self._at)

    def _delivered(self, letters: dict[str, Delivered]) -> None:
        """The broker's word that a report lies in a recipient's inbox; what the recipient says itself counts more."""
        named = {digest for item in letters.values() for digest in item.reports}
        own = rows_by(self._tx.identities("digest", named), "digest")
        known = {(row.report, row.member) for row in self._tx.confirmed_by(list(own))}
        for jws, item in letters.items():
            fresh = [digest for digest in item.reports if digest in own and (digest, item.member) not in known]
            known.update((digest, item.member) for digest in fresh)
            if not fresh:
                continue
            said = {"member": item.member, "state": _DELIVERED, "at": microseconds(item.at), "refusal": None}
            row = {**said, "statement": self._keep("delivered", jws)}
            self._tx.add(tables.confirmed, [{"report": digest, **row} for digest in fresh])
            self.taken.counts["delivered", ""] += len(fresh)
            for digest in fresh:
                ids = {"report_id": own[digest].report_id, "revision": own[digest].revision, "digest": digest}
                self._tx.event("report.delivered", {**ids, "member": item.member}, self._at)

    def _links(self, letters: dict[str, Links]) -> None:
        for jws, item in letters.items():
            if self._tx.known_statements([statement_digest(jws)]):
                continue
            statement = self._keep("links", jws)
            for link in item.links:
                pair = {"a": link.a.digest, "b": link.b.digest}
                ids = {"a_report": link.a.report_id[:36], "b_report": link.b.report_id[:36]}
                row = {**pair, **ids, "link": _encode(link), "statement": statement, "at": self._at}
                self._tx.put(tables.links, row)
                self.taken.counts["linked", link.strength] += 1
                self._tx.event("report.linked", {**ids, "strength": link.strength}, self._at)

    # --- what others report

    def _parcel(self, parcel: Parcel) -> None:
        statement = self._keep("delivery", parcel.jws)
        delivery = parcel.delivery
        digests = {item.digest for item in parcel.contents if not isinstance(item, Bad)}
        held = rows_by(self._tx.inbox_by("digest", digests), "digest")
        turned_before = rows_by(self._tx.refused_by("digest", digests), "digest")
        fresh: list[Arrival] = []
        turned: list[Turned] = []
        repeated: list[Any] = []
        for item in self._check_ids(parcel.contents, held):
            if isinstance(item, Bad):
                self._bad(item)
            elif isinstance(item, Arrival):
                row = held.get(item.digest)
                if row is None:
                    fresh.append(item)
                else:
                    repeated.append(row)
            else:
                row = turned_before.get(item.digest)
                if row is None or row.delivery != delivery.id or row.refusal != _encode(item.refusal):
                    turned.append(item)
                else:
                    repeated.append(row)
        for leaf, entry in parcel.leaves:
            self._expect(leaf, entry, "delivery", statement)
        self._store(fresh, delivery, statement)
        self._turn_away(turned, delivery, statement)
        self._repeat(repeated, delivery, statement)

    def _check_ids(
        self, contents: Sequence[Arrival | Turned | Bad], held: dict[str, Any]
    ) -> list[Arrival | Turned | Bad]:
        """Turn away what takes the identity of a report that is here already."""
        arrivals = [item for item in contents if isinstance(item, Arrival) and item.digest not in held]
        ids = {item.report_id for item in arrivals}
        own = {row.report_id for row in self._tx.identities("report_id", ids)}
        here = self._tx.inbox_by("report_id", ids)
        taken = {(row.report_id, row.revision): row.digest for row in here}
        owners = {row.report_id: row.origin for row in here}
        checked: list[Arrival | Turned | Bad] = []
        for item in contents:
            if not isinstance(item, Arrival) or item.digest in held:
                checked.append(item)
                continue
            owner = self._member if item.report_id in own else owners.setdefault(item.report_id, item.origin)
            first = taken.setdefault((item.report_id, item.revision), item.digest)
            if owner != item.origin:
                reason, path, detail = Reason.REPORT_ID_TAKEN, "$.report_id", "another member's report has this id"
            elif first != item.digest:
                reason, path, detail = (
                    Reason.REVISION_CONFLICT,
                    "$.revision",
                    "this revision is here with other content",
                )
            else:
                checked.append(item)
                continue
            refusal = Refusal(reason=reason.value, path=path, detail=detail)
            checked.append(Turned(item.digest, item.origin, refusal, item.report_id, item.revision))
        return checked

    def _store(self, fresh: Sequence[Arrival], delivery: Delivery, statement: str) -> None:
        unique = {item.digest: item for item in fresh}
        by_origin: dict[str, list[Arrival]] = {}
        for item in unique.values():
            by_origin.setdefault(item.origin, []).append(item)
        ended = hide_withdrawn(self._tx, list(unique.values()), self._at)
        expired = last_expired(self._tx, list(unique.values()), self._now)
        for origin, items in by_origin.items():
            names = self._sign(origin, [item.digest for item in items], "received", delivery.id)
            rows: list[dict[str, Any]] = []
            for item in items:
                seq = self._tx.number(tables.inbox)
                rows.append(
                    {
                        "seq": seq,
                        "digest": item.digest,
                        "report_id": item.report_id,
                        "revision": item.revision,
                        "incident_id": item.incident_id,
                        "origin": origin,
                        "jurisdiction": item.jurisdiction,
                        "tlp": item.tlp,
                        "received_at": self._at,
                        "broker_received_at": microseconds(item.received_at),
                        **content_of(item, ended, expired, self._at),
                        "undisclosed": item.undisclosed,
                        "delivery": delivery.id,
                        "statement": statement,
                        "confirmation": names[item.digest],
                        "state": "received",
                        "state_at": self._at,
                    }
                )
                ids = {"report_id": item.report_id, "revision": item.revision, "incident_id": item.incident_id}
                facts = {"digest": item.digest, "origin": origin, "phase": item.phase, "tlp": item.tlp, "inbox": seq}
                self._tx.event("report.received", {**ids, **facts}, self._at)
            self._tx.add(tables.inbox, rows)
        self.taken.counts["received", ""] += len(unique)
        self.taken.steps += [("report", (self._now - item.received_at).total_seconds()) for item in unique.values()]
        if expired:
            self.expire()
        expect_reading(self._tx, list(unique.values()), self._at)

    def expire(self) -> TakenIn:
        """Hide what has expired of others' reports, and say so to their origins."""
        for origin, digests in hide_expired(self._tx, self._at).items():
            self._sign(origin, digests, EXPIRED, None)
            self.taken.counts[EXPIRED, ""] += len(digests)
        return self.taken

    def _turn_away(self, turned: Sequence[Turned], delivery: Delivery, statement: str) -> None:
        groups: dict[tuple[str, bytes], list[Turned]] = {}
        for item in {item.digest: item for item in turned}.values():
            groups.setdefault((item.origin, _encode(item.refusal)), []).append(item)
        for (origin, packed), items in groups.items():
            refusal = items[0].refusal
            names = self._sign(origin, [item.digest for item in items], "refused", delivery.id, refusal)
            for item in items:
                self._tx.put(
                    tables.refused,
                    {
                        "digest": item.digest,
                        "origin": origin,
                        "report_id": item.report_id,
                        "revision": item.revision,
                        "refusal": packed,
                        "delivery": delivery.id,
                        "statement": statement,
                        "confirmation": names[item.digest],
                        "at": self._at,
                    },
                )
                self.taken.counts["refused", refusal.reason] += 1
                facts = {"digest": item.digest, "report_id": item.report_id, "revision": item.revision}
                self._tx.event("report.refused", {**facts, "origin": origin, "reason": refusal.reason}, self._at)
                if item.alarm:
                    self._alarm("delivery", refusal.reason, origin=origin, path=refusal.path, detail=refusal.detail)

    def _repeat(self, rows: Sequence[Any], delivery: Delivery, statement: str) -> None:
        """Confirm again what came again: the same bytes, or for another delivery a new statement."""
        again = {row.confirmation for row in rows if row.delivery == delivery.id}
        sent = [row.id for row in self._tx.confirmations_by("digest", again)]
        self._tx.set(tables.confirmations_out, "id", [{"id": number, "waiting": True} for number in sent])
        self.taken.to_send += sent
        self.taken.counts["repeated", ""] += len(rows)
        others: dict[tuple[str, bytes | None], list[str]] = {}
        for row in rows:
            if row.delivery != delivery.id:
                others.setdefault((row.origin, getattr(row, "refusal", None)), []).append(row.digest)
        for (origin, packed), digests in others.items():
            if packed is not None:
                raise AssertionError("a refusal for another delivery is signed as a new one")
            names = self._sign(origin, digests, "received", delivery.id)
            came = {"delivery": delivery.id, "statement": statement}
            updates = [{"digest": d, **came, "confirmation": names[d]} for d in digests]
            self._tx.set(tables.inbox, "digest", updates)

    def _sign(
        self, origin: str, digests: Sequence[str], state: Any, delivery: int | None, refusal: Refusal | None = None
    ) -> dict[str, str]:
        """Sign and store confirmations; returns for each report the name of the one that covers it."""
        names: dict[str, str] = {}
        for start in range(0, len(digests), limits.REPORTS_PER_CONFIRMATION):
            part = list(digests[start : start + limits.REPORTS_PER_CONFIRMATION])
            number, name = write_confirmation(
                self._tx,
                Confirmation(
                    iss=self._member,
                    aud=origin,
                    at=self._now,
                    state=state,
                    reports=part,
                    delivery=UNSET if delivery is None else delivery,
                    refusal=refusal or UNSET,
                ),
                self._signer,
                self._at,
            )
            self.taken.to_send.append(number)
            names |= dict.fromkeys(part, name)
        return names


def write_confirmation(tx: Tx, confirmation: Confirmation, signer: Signer, at: int) -> tuple[int, str]:
    """Sign and store one confirmation; returns its number and its name."""
    jws = sign_statement(confirmation, signer)
    number, name = tx.number(tables.confirmations_out), statement_digest(jws)
    tx.add(tables.confirmations_out, [{"id": number, "digest": name, "jws": jws, "created_at": at, "waiting": True}])
    return number, name
