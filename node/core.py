"""The node without its edges: what it does with filings, messages and words of its users, one transaction each.

Guarantees: what a method returns is on disk; a method that raises changed nothing. Not for two threads at once, except
`open`, which is pure. Knows no HTTP, no bus and no event loop: a simulator drives it as well as `loops`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from msgspec import UNSET

from node import tables
from node.alarms import clear_alarm, raise_alarm
from node.config import Escalation
from node.escalation import Told, next_due, nothing_owed, tell_overdue
from node.filing import Reply, Round
from node.governed import sort_out
from node.granting import granted_too_much
from node.intake import Posting
from node.opening import Bench, Message, Opened, open_messages
from node.outbox import Outbox, Outgoing, in_messages
from node.receive import Clerk, TakenIn, write_confirmation
from node.signing import Desk
from node.store import Reads, Store, Tx, instant, microseconds
from node.trust import Trust
from protocol import limits
from protocol.access import TLPS
from protocol.envelope import Rand
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.governance import sign_record
from protocol.keys import Signer
from protocol.policy import Policy, PolicyBook
from protocol.published import check_next, open_published, policy_in, publish
from protocol.reasons import Reason
from protocol.report import Header
from protocol.sealing import SealingKey
from protocol.statements import Confirmation, Receipt, ReportReceipt

IDEMPOTENCY_KEPT: Final = timedelta(days=30)
"""After this, equal content is still recognised by itself; only the key is forgotten."""
Word = Literal["read", "acting", "closed"]
_NOTICES: Final = "notices"
_POLICIES: Final = "policies"
_KEY_MISSING: Final = frozenset({Reason.UNKNOWN_KEY.value, Reason.UNKNOWN_MEMBER.value})


@dataclass(frozen=True, slots=True)
class Said:
    """A word about another member's report that is on disk."""

    report_id: str
    revision: int
    digest: str
    state: str
    at: datetime
    replayed: bool


class NodeCore:
    """One node.

    Args:
        member, jurisdiction: who it is.
        store: what it holds.
        signer: its signing key.
        fingerprint_key: secret of its own, see `ids.fingerprint`.
        trust: the region as it knows it.
        book: its jurisdiction's policy; may be replaced while it runs.
        now: the clock, aware UTC.
        rand: returns that many random bytes.
        backlog: reports that may wait for the broker before new ones are refused.
        sealing_keys: all private keys to which something may have been sealed, old ones included.
    """

    def __init__(
        self,
        *,
        member: str,
        jurisdiction: str,
        store: Store,
        signer: Signer,
        fingerprint_key: bytes,
        trust: Trust,
        book: PolicyBook,
        now: Callable[[], datetime],
        rand: Rand,
        backlog: int = 200_000,
        sealing_keys: Sequence[SealingKey] = (),
    ) -> None:
        self._sealing_keys = tuple(sealing_keys)
        self.member = member
        self.jurisdiction = jurisdiction
        self.store = store
        self.trust = trust
        self.book = book
        self.region_book = book
        self._signer = signer
        self._now = now
        self._backlog = backlog
        self._desk = Desk(
            member=member, jurisdiction=jurisdiction, signer=signer, fingerprint_key=fingerprint_key, rand=rand
        )
        self.outbox = Outbox(rand)
        self.words = Outbox(rand)
        self._term = 0
        self._recover()

    def _recover(self) -> None:
        """After a start, and after the database was away, everything that waits there is due at once."""
        if (term := self.store.take_up()) == self._term:
            return
        now = self._now()
        self.outbox.clear()
        self.words.clear()
        with self.store.read() as reads:
            for row in reads.waiting(tables.submissions):
                self.outbox.add(row.id, instant(row.created_at), now, row.reports)
            for row in reads.waiting(tables.confirmations_out):
                self.words.add(row.id, instant(row.created_at), now)
        self._term = term

    # --- policies

    def adopt(self, policy: Policy, name: str, approve: Callable[[], None] = lambda: None) -> None:
        """Make a policy the own jurisdiction's next version, signed; versions before it stay in force until its date.

        Args:
            approve: is asked before a new version is signed; raises ConfigError if it must not be.

        Raises:
            ConfigError: it is another jurisdiction's, its version was signed with other rules, or it is not approved.
        """
        if policy.jurisdiction != self.jurisdiction:
            raise ConfigError(f"{name}: the policy is of {policy.jurisdiction}, this node is of {self.jurisdiction}")
        with self.store.write() as tx:
            own = {row.version: row.jws for row in tx.policies() if row.jurisdiction == self.jurisdiction}
            known = [policy_in(jws) for jws in own.values()]
            if policy.version not in own:
                try:
                    check_next(policy, list(own), self._now())
                except ProtocolError as exc:
                    raise ConfigError(f"{name}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc
                approve()
                jws = publish(policy, self.member, self._signer, self._now())
                row = {"jurisdiction": self.jurisdiction, "version": policy.version, "published": False, "jws": jws}
                tx.add(tables.policies, [row])
                known.append(policy)
            elif policy_in(own[policy.version]) != policy:
                raise ConfigError(f"{name}: version {policy.version} was signed with other rules: raise the version")
        self.book = PolicyBook(known)
        self.refresh_region_book()

    def unpublished(self, *, newest_again: bool) -> list[tuple[int, str]]:
        """The own policy's versions that the broker does not have yet, lowest first.

        Args:
            newest_again: the newest one too, in case the broker has lost its ledger since.
        """
        with self.store.read() as reads:
            own = [row for row in reads.policies() if row.jurisdiction == self.jurisdiction]
        last = max((row.version for row in own), default=0)
        return [(row.version, row.jws) for row in own if not row.published or (newest_again and row.version == last)]

    def policy_is_published(self, version: int) -> None:
        """The broker has it."""
        with self.store.write() as tx:
            found = next(
                row for row in tx.policies() if (row.jurisdiction, row.version) == (self.jurisdiction, version)
            )
            row = {"jurisdiction": found.jurisdiction, "version": found.version, "published": True, "jws": found.jws}
            tx.put(tables.policies, row)

    def policies_taken(self) -> int:
        """The number of the last published policy that is on disk."""
        with self.store.read() as reads:
            return reads.position(_POLICIES)

    def take_policies(self, texts: Sequence[str], number: int) -> list[str]:
        """Take other jurisdictions' published policies; the reasons of those that do not hold."""
        refused: list[str] = []
        with self.store.write() as tx:
            for jws in texts:
                try:
                    policy = open_published(jws, self.trust.registry, self._now()).policy
                except ProtocolError as exc:
                    refused.append(exc.reason.value)
                    continue
                if policy.jurisdiction != self.jurisdiction:
                    row = {"jurisdiction": policy.jurisdiction, "version": policy.version}
                    tx.put(tables.policies, {**row, "published": True, "jws": jws})
            if not _KEY_MISSING.intersection(refused):
                # Else the region document here may be older than the policy: look at it again.
                tx.put(tables.meta, {"name": _POLICIES, "value": str(number)})
        self.refresh_region_book()
        return refused

    def refresh_region_book(self) -> None:
        """All jurisdictions' policies as far as they are known here: for explaining, not for deciding."""
        with self.store.read() as reads:
            self.region_book = PolicyBook(policy_in(row.jws) for row in reads.policies())

    # --- filing

    def check_backlog(self) -> None:
        """ProtocolError(BACKLOG_FULL) while too much waits for the broker."""
        if self.outbox.weight >= self._backlog:
            raise ProtocolError(
                Reason.BACKLOG_FULL, "$", f"{self.outbox.weight} reports wait to be sent: try again when the link is up"
            )

    def file(self, postings: Sequence[Posting]) -> list[Reply]:
        """Take in what clients posted: the answers are true when this returns, in one transaction for all of them.

        Raises:
            Transient: the disk is full; nothing was taken.
        """
        now = self._now()
        turn: Round | None = None
        try:
            with self.store.write() as tx:
                turn = Round(tx, self._desk, self.book, self.trust.registry, now)
                filed = turn.file(postings)
        except Transient:
            if turn is not None:
                turn.undone()
            raise
        for number, reports in filed.to_send:
            self.outbox.add(number, now, now, reports)
        return filed.replies

    # --- the own keys

    @property
    def kid(self) -> str:
        """The id of the key with which this node signs."""
        return self._signer.kid

    def use_key(self, signer: Signer) -> None:
        """Sign with this key from now on."""
        self._signer = signer
        self._desk.use_key(signer)

    def use_sealing_keys(self, keys: Sequence[SealingKey]) -> None:
        """Open with these keys from now on, what was sealed to earlier ones among them."""
        self._sealing_keys = tuple(keys)

    def sign_record(self, data: bytes) -> bytes:
        """A governance record with this member's signature."""
        return sign_record(data, self._signer)

    # --- the region

    def governed_to(self) -> int:
        """The number of the last governance record that is on disk with its leaf; -1 if there is none."""
        with self.store.read() as reads:
            rows = reads.governance()
        return rows[-1].number if rows else -1

    def take_region(self, document: bytes, listed: Sequence[tuple[str, int]]) -> bool:
        """Take a region document, and the governance records that it rests on; tells whether anything in it is new.

        Args:
            listed: the records after the last one that is on disk, or all, and the leaf that the broker says each has.

        Raises:
            ProtocolError: it does not hold. What the trustees have not signed is an alarm that lasts.
            Transient: the disk is full: ask again.
        """
        with self.store.read() as reads:
            held = [row.record for row in reads.governance()]
        try:
            listing = sort_out(listed, held)
            changed = self.trust.update(document, listing.texts)
        except ProtocolError as exc:
            if exc.reason is Reason.REGION_NOT_GOVERNED:
                self._refuse_region(exc)
            raise
        followed = listing.fresh[: len(self.trust.digests) - len(held)]
        if followed or listing.shown:
            with self.store.write() as tx:
                self._clerk(tx, self._now()).records(followed, listing.shown)
        return changed

    def _refuse_region(self, exc: ProtocolError) -> None:
        with self.store.write() as tx:
            facts = {"record": self.trust.state.head.number, "path": exc.path, "detail": exc.detail}
            raise_alarm(tx, "region", exc.reason.value, microseconds(self._now()), **facts)

    # --- sending

    def outgoing(self, most: int) -> list[Outgoing]:
        """Submissions that are due, the bytes the same at each attempt. Say `tried` for each.

        Raises:
            Transient: the database is away.
        """
        self._recover()
        numbers = self.outbox.take(self._now(), most)
        rows = self._in_hand(self.outbox, numbers, lambda reads: reads.submissions_by("id", numbers))
        return [Outgoing((row.id,), row.message, row.digest) for row in rows]

    def _in_hand(self, box: Outbox, numbers: Sequence[int], read: Callable[[Reads], list[Any]]) -> list[Any]:
        """What was taken from an outbox, or it is given back."""
        if not numbers:
            return []
        try:
            with self.store.read() as reads:
                return read(reads)
        except Transient:
            box.tried(numbers, self._now(), stored=False)
            raise

    def tried(self, stored: Sequence[int], failed: Sequence[int]) -> None:
        """What became of the attempts."""
        self.outbox.tried(stored, self._now(), stored=True)
        self.outbox.tried(failed, self._now(), stored=False)

    def outgoing_words(self, most: int) -> list[Outgoing]:
        """Confirmations that are due, in up to `most` messages.

        Raises:
            Transient: the database is away.
        """
        self._recover()
        numbers = self.words.take(self._now(), most * limits.CONFIRMATIONS_PER_MESSAGE)
        rows = self._in_hand(self.words, numbers, lambda reads: reads.confirmations_by("id", numbers))
        return in_messages(rows)

    def tried_words(self, stored: Sequence[int], failed: Sequence[int]) -> None:
        """What became of the attempts."""
        self.words.tried(stored, self._now(), stored=True)
        self.words.tried(failed, self._now(), stored=False)

    def link_is_up(self) -> None:
        """The bus is there (again): send at once what failed."""
        self.outbox.hurry(self._now())
        self.words.hurry(self._now())

    # --- receiving

    def open(self, messages: Sequence[Message], *, region_is_fresh: bool = False) -> Opened:
        """Verify bus messages; see `open_messages`. Pure: may run on any thread."""
        trust = self.trust
        region = (trust.registry, trust.broker_keys)
        bench = Bench(self.member, self.jurisdiction, *region, self.book, self._now(), self._sealing_keys)
        return open_messages(messages, bench, region_is_fresh=region_is_fresh)

    def _clerk(self, tx: Tx, now: datetime) -> Clerk:
        registry, book = self.trust.registry, self.book

        def too_much(header: Header, said: ReportReceipt, receipt: Receipt) -> list[str]:
            return granted_too_much(header, said, receipt, registry, book)

        return Clerk(tx, self.member, self._signer, now, too_much)

    def take_in(self, opened: Opened) -> TakenIn:
        """Commit what was verified: the messages may be acknowledged when this returns.

        Raises:
            Transient: the disk is full; nothing was taken.
        """
        now = self._now()
        with self.store.write() as tx:
            taken = self._clerk(tx, now).take(opened.pieces)
        self.outbox.settle(taken.settled)
        self.words.settle(taken.noted)
        for number in taken.to_send:
            self.words.add(number, now, now)
        return taken

    def notices_taken(self) -> int:
        """The number of the last of the broker's notices that is on disk."""
        with self.store.read() as reads:
            return reads.position(_NOTICES)

    def take_notices(self, opened: Opened, number: int) -> TakenIn:
        """Commit notices together with the number of the last one.

        Raises:
            Transient: the disk is full; nothing was taken.
        """
        now = self._now()
        with self.store.write() as tx:
            taken = self._clerk(tx, now).take(opened.pieces)
            tx.put(tables.meta, {"name": _NOTICES, "value": str(number)})
        return taken

    def receive(self, messages: Sequence[Message]) -> TakenIn:
        """Verify and commit in one go, an unknown key refused: for callers without loops of their own."""
        return self.take_in(self.open(messages, region_is_fresh=True))

    # --- the users' own words

    def confirm(self, report_id: str, state: Word, revision: int | None = None, tlps: Collection[str] = TLPS) -> Said:
        """Tell a report's origin that somebody here read it, acts on it, or has closed it. Saying it twice is once.

        Args:
            tlps: how a report must be marked.

        Raises:
            ProtocolError: UNKNOWN_REPORT.
        """
        now = self._now()
        number: int | None = None
        with self.store.write() as tx:
            found = tx.inbox_by("report_id", [report_id])
            rows = [row for row in found if row.tlp in tlps and revision in (None, row.revision)]
            if not rows:
                raise ProtocolError(Reason.UNKNOWN_REPORT, "$", "no such report, or revision of it, was received")
            row = max(rows, key=lambda found: found.revision)
            if row.state == state:
                return Said(row.report_id, row.revision, row.digest, state, instant(row.state_at), replayed=True)
            # Words have an order, also where the clock stood still or was set back: the same word at the same time
            # would be the same statement, and that is stored once.
            at = max(microseconds(now), row.state_at + (row.state != "received"))
            confirmation = Confirmation(
                iss=self.member, aud=row.origin, at=instant(at), state=state, reports=[row.digest], delivery=UNSET
            )
            number, _ = write_confirmation(tx, confirmation, self._signer, at)
            tx.set(tables.inbox, "digest", [{"digest": row.digest, "state": state, "state_at": at}])
            nothing_owed(tx, [(row.digest, row.origin)])
            event = {"report_id": row.report_id, "revision": row.revision, "digest": row.digest, "state": state}
            tx.event("report.state", event, at)
        self.words.add(number, now, now)
        return Said(row.report_id, row.revision, row.digest, state, instant(at), replayed=False)

    # --- the passing of time, and of alarms

    def expire(self) -> int:
        """Hide what has expired of others' reports, and confirm it to their origins; call again until it is 0.

        Raises:
            Transient: the disk is full; nothing was hidden.
        """
        now = self._now()
        with self.store.write() as tx:
            taken = self._clerk(tx, now).expire()
        for number in taken.to_send:
            self.words.add(number, now, now)
        return taken.counts.total()

    def next_expiry(self) -> datetime | None:
        """When the next of others' reports expires."""
        with self.store.read() as reads:
            at = reads.next_expiry()
        return None if at is None else instant(at)

    def escalate(self, limits: Escalation) -> Told:
        """Tell of reports that nobody reads, here or at their recipients; call again until nothing is looked at.

        Raises:
            Transient: the disk is full; nothing was told.
        """
        with self.store.write() as tx:
            return tell_overdue(tx, limits, microseconds(self._now()))

    def next_escalation(self, limits: Escalation) -> datetime | None:
        """When the next report becomes overdue."""
        with self.store.read() as reads:
            at = next_due(reads, limits)
        return None if at is None else instant(at)

    def overdue(self) -> dict[tuple[str, str], int]:
        """How many readings are overdue, by side and severity."""
        with self.store.read() as reads:
            return reads.overdue(microseconds(self._now()))

    def oldest_unproven(self) -> int | None:
        """Since when the oldest thing waits that the log does not prove yet."""
        with self.store.read() as reads:
            row = reads.oldest_leaf(0, 2**62)
        return None if row is None else int(row.at)

    def open_alarms(self) -> dict[str, int]:
        """How many alarms are open, by reason."""
        with self.store.read() as reads:
            return reads.open_alarms()

    def clear_alarm(self, number: int, by: str) -> bool:
        """Note that a person has dealt with an alarm; False if it was cleared before.

        Raises:
            ProtocolError: UNKNOWN_PATH.
        """
        with self.store.write() as tx:
            return clear_alarm(tx, number, by, microseconds(self._now()))

    def tidy(self) -> None:
        """Drop what is only kept for a while."""
        with self.store.write() as tx:
            tx.forget_answers(microseconds(self._now() - IDEMPOTENCY_KEPT))
            tx.forget_status(microseconds(self._now() - IDEMPOTENCY_KEPT))
