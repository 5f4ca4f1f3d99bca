"""This node as a witness of the broker's log: what it checks, what it signs, what it calls out.

Guarantees: a checkpoint is verified, then on disk, and only then cosigned, so that no crash makes this node sign what
it would later contradict; its verified state only ever moves along a consistency proof; a leaf is proven only in the
tree of a checkpoint that a quorum of the region's witnesses has cosigned, and with the entry that this node computed
itself. What the log signed and cannot reconcile is kept as evidence, is an alarm that lasts, and is never cosigned; the
node goes on from its last good checkpoint. What does not verify at all proves nothing about the log: it is refused, and
waiting for something better has its own alarm (`lookout.py`).

A node that sees the log for the first time starts from size 0, with which every tree is consistent: what was there
before it came, the witnesses before it vouch for.

No I/O but the store; knows no bus and no event loop. A driver asks `question` and `wanted` for what to ask the broker,
and hands the answers to `take`, one at a time for each of the two. All on the writer's thread.

Follows RFC 6962 and RFC 9162 (trees and proofs), c2sp.org/tlog-witness and tlog-cosignature (what a witness signs).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from node import tables
from node.alarms import raise_alarm
from node.lookout import ABOUT, Lookout, lose
from node.store import Store, Tx, microseconds
from node.trust import Trust
from protocol import limits
from protocol.errors import ProtocolError
from protocol.keys import Signer, b64, unb64
from protocol.logproof import Proof
from protocol.logrpc import (
    ConsistencyAnswer,
    ConsistencyRequest,
    CosignRequest,
    NextAnswer,
    NextRequest,
    ProveAnswer,
    ProveRequest,
)
from protocol.merkle import EMPTY_ROOT, verify_consistency
from protocol.notes import Checkpoint, Note, NoteKey, cosign, cosigns, open_checkpoint, parse_checkpoint, parse_note
from protocol.reasons import Reason
from protocol.registry import Registry

Question = NextRequest | ConsistencyRequest | CosignRequest | ProveRequest
Answer = NextAnswer | ConsistencyAnswer | ProveAnswer | None

KEPT: Final = 10_000
"""Verified checkpoints on disk: the newest of them commits to all that were before."""
EVIDENCE: Final = 256
"""Notes kept as evidence: two prove a fork, and a broker that makes a new one each time must not fill the disk."""
MISSING_EVERY: Final = timedelta(minutes=10)
"""Between two looks for leaves that were missing."""
COSIGN_AGAIN: Final = timedelta(seconds=60)
"""After the broker refused a cosignature."""
_MISSING_AT_ONCE: Final = 1_000


# --- pure decisions ---------------------------------------------------------------------------------------------


def check_growth(old: int, old_root: bytes, new: Checkpoint, path: Sequence[str]) -> None:
    """Check that a checkpoint continues a tree.

    Raises:
        ProtocolError: LOG_FORKED, it is smaller, has another root at the same size, or nothing proves that it does.
    """
    try:
        verify_consistency(old, old_root, new.size, new.root, [unb64(item) for item in path])
    except (ProtocolError, ValueError) as exc:
        raise ProtocolError(Reason.LOG_FORKED, "$.checkpoint", "not a continuation of what was verified") from exc


def open_signed(note: str, registry: Registry, now: datetime) -> Checkpoint:
    """The checkpoint in a note that the region's log signed, whoever else did.

    Raises:
        ProtocolError: the log did not sign it.
    """
    return open_checkpoint(note, registry.log_keys(), (), now).checkpoint


def open_published(note: str, registry: Registry, now: datetime) -> Note:
    """The note with those signatures alone that were verified.

    Raises:
        ProtocolError: NOT_WITNESSED, fewer witnesses of this region than its quorum have cosigned it; or a signature
            in it is false.
    """
    keys: list[NoteKey] = [*registry.log_keys(), *registry.witness_keys()]
    opened = open_checkpoint(note, registry.log_keys(), registry.witness_keys(), now)
    if len(opened.witnesses) < registry.quorum:
        detail = f"{len(opened.witnesses)} of {registry.quorum} witnesses"
        raise ProtocolError(Reason.NOT_WITNESSED, "$.published", detail)
    known = {(key.name, key.id) for key in keys}
    return Note(opened.note.text, tuple(line for line in opened.note.lines if (line.name, line.key_id) in known))


def witnesses_of(note: Note) -> list[str]:
    """The witnesses in a note that `open_published` returned, each once."""
    origin = parse_checkpoint(note.text).origin
    return sorted({line.name for line in note.lines} - {origin})


def prove(leaf: int, entry: bytes, path: Sequence[str], note: Note) -> str | None:
    """The tlog-proof of an entry under a published note; None if the path does not lead there."""
    try:
        proof = Proof(leaf, tuple(unb64(item) for item in path), note)
        proof.verify(entry)
    except (ProtocolError, ValueError):
        return None
    return proof.encode()


# --- the witness ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Step:
    """What an answer came to: for metrics, logs and pace."""

    refused: list[str] = field(default_factory=list)
    """Reasons."""
    alarms: list[str] = field(default_factory=list)
    """Reasons of alarms that were raised."""
    cosigned: int | None = None
    """The size of a checkpoint whose cosignature the broker has taken."""
    published: bool = False
    """A larger checkpoint has its quorum: leaves may be proven."""
    size: int = 0
    """Of the tree in which leaves were proven."""
    seconds: list[float] = field(default_factory=list)
    """From receipt or delivery to proof, one a leaf."""

    @property
    def rest(self) -> bool:
        """Whether asking again at once would get the same answer."""
        return bool(self.refused)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the witness stands."""

    verified: int
    published: int
    waiting: int
    missing: int


class Witness:
    """One node's witness.

    Args:
        member: who it is.
        store: where its checkpoints, leaves and alarms are.
        trust: the region as the node knows it.
        signer: the member's signing key.
        public: its raw public key.
        lookout: hears of every answer.
        now: the clock.
    """

    def __init__(
        self,
        *,
        member: str,
        store: Store,
        trust: Trust,
        signer: Signer,
        public: bytes,
        lookout: Lookout,
        now: Callable[[], datetime],
    ) -> None:
        self._member = member
        self._store = store
        self._trust = trust
        self._signer = signer
        self._public = public
        self._now = now
        self.lookout = lookout
        self._pending: str | None = None
        """A published note that waits for a consistency proof."""
        self._held_off: tuple[int, datetime] | None = None
        """The size of a checkpoint whose cosignature the broker refused, and until when it is not tried again."""
        self._most = limits.PROOFS_PER_REQUEST
        self._missing: deque[int] = deque()
        self._missing_at: datetime | None = None

    def use_key(self, signer: Signer, public: bytes) -> None:
        """Cosign with this key from now on."""
        self._signer, self._public = signer, public

    # --- asking

    def question(self, wait: float = 0.0) -> CosignRequest | ConsistencyRequest | NextRequest:
        """What to ask the broker next about checkpoints.

        A cosignature is made here, from what is on disk: what was not committed cannot be signed.

        Args:
            wait: seconds for which the answer may be held back if there is nothing new.
        """
        now = self._now()
        with self._store.read() as reads:
            last, published = reads.newest_checkpoint(), reads.newest_checkpoint(published=True)
        if last is not None and last.cosigned_at is None and not self._is_held_off(last.size, now):
            line = cosign(parse_note(last.note).text, self._member, self._signer, self._public, now)
            return CosignRequest(size=last.size, line=line.encode().removesuffix("\n"))
        size = last.size if last else 0
        if self._pending is not None:
            other = parse_checkpoint(parse_note(self._pending).text).size
            return ConsistencyRequest(old=min(size, other), new=max(size, other))
        return NextRequest(size=size, published=published.size if published else 0, wait=wait)

    def _is_held_off(self, size: int, now: datetime) -> bool:
        own = self._trust.registry.members.get(self._member)
        if not cosigns(self._signer) or (own is not None and own.hidden):
            return True
        return self._held_off is not None and self._held_off[0] == size and now < self._held_off[1]

    def wanted(self) -> ProveRequest | None:
        """Leaves to be proven in the newest published tree, if there are any."""
        now = self._now()
        with self._store.read() as reads:
            published = reads.newest_checkpoint(published=True)
            if published is None:
                return None
            found = reads.waiting_leaves(0, published.size, self._most)
            if not found and (self._missing_at is None or self._missing_at <= now):
                self._missing_at = now + MISSING_EVERY
                self._missing.extend(reads.waiting_leaves(0, published.size, _MISSING_AT_ONCE, state="missing"))
        if not found and self._missing:
            found = [self._missing.popleft()]
        return ProveRequest(size=published.size, leaves=found) if found else None

    # --- hearing

    def take(self, question: Question, answer: Answer) -> Step:
        """Judge an answer and commit what follows from it. An answer to a question that is out of date is ignored.

        Raises:
            Transient: the disk is full; nothing was taken.
        """
        self.lookout.answered()
        step = Step()
        match question, answer:
            case NextRequest(), NextAnswer():
                if answer.checkpoint:
                    self._grow(question, answer, step)
                if answer.published:
                    self._publish(answer.published, step)
            case ConsistencyRequest(), ConsistencyAnswer():
                self._settle_pending(question, answer.path, step)
            case ProveRequest(), ProveAnswer():
                self._prove(question, answer.paths, step)
            case CosignRequest(), None:
                at = microseconds(self._now())
                with self._store.write() as tx:
                    tx.set(tables.checkpoints, "size", [{"size": question.size, "cosigned_at": at}])
                step.cosigned = question.size
            case _:
                raise AssertionError("an answer to another question")
        return step

    def refused(self, question: Question, reason: Reason) -> Step:
        """The broker refused to answer, or its answer was none (then `reason` is never OUT_OF_RANGE).

        Raises:
            Transient: the disk is full; nothing was taken.
        """
        self.lookout.answered()
        step = Step()
        denied = reason is Reason.OUT_OF_RANGE
        match question:
            case NextRequest() if denied and max(question.size, question.published) > 0:
                # It has signed a tree of that size, and says now that there is none.
                self._fork(None, step)
            case ConsistencyRequest() if denied:
                self._fork(self._pending, step)
            case ProveRequest() if denied:
                self._deny(question, step)
                return step
            case CosignRequest():
                self._held_off = (question.size, self._now() + COSIGN_AGAIN)
                step.refused.append(reason.value)
            case _:
                step.refused.append(reason.value)
        if isinstance(question, ConsistencyRequest):
            self._pending = None
        return step

    # --- checkpoints

    def _grow(self, question: NextRequest, answer: NextAnswer, step: Step) -> None:
        """A checkpoint to witness."""
        try:
            checkpoint = open_signed(answer.checkpoint, self._trust.registry, self._now())
        except ProtocolError as exc:
            step.refused.append(exc.reason.value)
            return
        with self._store.write() as tx:
            last = tx.newest_checkpoint()
            size, root = (last.size, last.root) if last else (0, EMPTY_ROOT)
            if size != question.size:
                return
            try:
                check_growth(size, root, checkpoint, answer.consistency)
            except ProtocolError:
                self._keep_fork(tx, answer.checkpoint, checkpoint.size, step)
            else:
                if checkpoint.size > size:
                    self._add(tx, checkpoint, answer.checkpoint)

    def _add(self, tx: Tx, checkpoint: Checkpoint, note: str) -> None:
        at = microseconds(self._now())
        tx.add(tables.checkpoints, [{"size": checkpoint.size, "root": checkpoint.root, "note": note, "at": at}])
        published = tx.newest_checkpoint(published=True)
        tx.forget_checkpoints(KEPT, published.size if published else 0)

    def _publish(self, note: str, step: Step) -> None:
        """A note that is said to have its quorum: first whether it is of the log that this node knows."""
        try:
            checkpoint = open_signed(note, self._trust.registry, self._now())
        except ProtocolError as exc:
            step.refused.append(exc.reason.value)
            return
        with self._store.read() as reads:
            last, same = reads.newest_checkpoint(), reads.checkpoint(checkpoint.size)
            known = reads.newest_checkpoint(published=True)
        if same is not None and same.root != checkpoint.root:
            self._fork(note, step)
        elif checkpoint.size <= (known.size if known else 0):
            step.refused.append(Reason.OUT_OF_RANGE.value)
        elif same is not None or last is None:
            self._accept(note, checkpoint, step)
        else:
            self._pending = note

    def _settle_pending(self, question: ConsistencyRequest, path: Sequence[str], step: Step) -> None:
        note, self._pending = self._pending, None
        if note is None:
            return
        checkpoint = parse_checkpoint(parse_note(note).text)
        with self._store.read() as reads:
            last = reads.newest_checkpoint()
        if last is None or {last.size, checkpoint.size} != {question.old, question.new}:
            return
        own = Checkpoint(checkpoint.origin, last.size, last.root)
        old, new = (own, checkpoint) if checkpoint.size > last.size else (checkpoint, own)
        try:
            check_growth(old.size, old.root, new, path)
        except ProtocolError:
            self._fork(note, step)
        else:
            self._accept(note, checkpoint, step)

    def _accept(self, note: str, checkpoint: Checkpoint, step: Step) -> None:
        """It is of this log: what is new in it becomes a checkpoint to witness, and with a quorum it is published."""
        try:
            published = open_published(note, self._trust.registry, self._now())
        except ProtocolError as exc:
            published = None
            step.refused.append(exc.reason.value)
        with self._store.write() as tx:
            last = tx.newest_checkpoint()
            larger = last is None or checkpoint.size > last.size
            if tx.checkpoint(checkpoint.size) is None and (larger or published is not None):
                self._add(tx, checkpoint, note)
            if published is not None:
                at = microseconds(self._now())
                row = {"size": checkpoint.size, "published": published.encode(), "published_at": at}
                tx.set(tables.checkpoints, "size", [row])
        step.published = published is not None

    def _fork(self, note: str | None, step: Step) -> None:
        size = parse_checkpoint(parse_note(note).text).size if note else None
        with self._store.write() as tx:
            self._keep_fork(tx, note, size, step)

    def _keep_fork(self, tx: Tx, note: str | None, size: int | None, step: Step) -> None:
        """The log contradicts what it has signed: keep both notes, tell people, and stay where this node is.

        The same fork is shown again and again: it rings once, and again only if somebody ended the alarm.
        """
        last = tx.newest_checkpoint()
        reason, at = Reason.LOG_FORKED.value, microseconds(self._now())
        notes = {
            b64(hashlib.sha256(text.encode("utf-8")).digest()): text
            for text in (note, last.note if last else None)
            if text
        }
        fresh = set(notes) - tx.known_statements(notes)
        room = max(0, EVIDENCE - tx.count_statements("checkpoint"))
        kept = [{"digest": name, "kind": "checkpoint", "jws": notes[name], "at": at} for name in sorted(fresh)[:room]]
        tx.add(tables.statements, kept)
        if kept or reason not in tx.open_alarms():
            here = [name for name in notes if name not in fresh or name in {row["digest"] for row in kept}]
            facts = {"size": size, "verified": last.size if last else 0, "evidence": here}
            raise_alarm(tx, ABOUT, reason, at, **facts)
            step.alarms.append(reason)
        step.refused.append(reason)

    # --- leaves

    def _prove(self, question: ProveRequest, paths: Sequence[Sequence[str]], step: Step) -> None:
        if len(paths) != len(question.leaves):
            self._deny(question, step)
            return
        self._most = min(limits.PROOFS_PER_REQUEST, self._most * 2)
        at = microseconds(self._now())
        with self._store.write() as tx:
            published = tx.checkpoint(question.size)
            if published is None or published.published is None:
                return
            note = parse_note(published.published)
            rows = {row.leaf: row for row in tx.leaves_by("leaf", question.leaves) if row.state != "proven"}
            proven: list[dict[str, Any]] = []
            lost: list[int] = []
            for leaf, path in zip(question.leaves, paths, strict=True):
                if leaf not in rows:
                    continue
                proof = prove(leaf, rows[leaf].entry, path, note)
                if proof is None:
                    lost.append(leaf)
                else:
                    proven.append({"leaf": leaf, "state": "proven", "proof": proof, "proven_at": at})
            tx.set(tables.leaves, "leaf", proven)
            step.alarms += lose(tx, lost, question.size, at)
            found = [rows[row["leaf"]] for row in proven]
            self._tell_proven(tx, [row for row in found if row.about == "receipt"], note, at)
        step.size = question.size
        step.seconds += [(at - row.at) / 1_000_000 for row in found]

    def _tell_proven(self, tx: Tx, rows: Sequence[Any], note: Note, at: int) -> None:
        names = {head.digest: head.id for head in tx.submission_heads([row.name for row in rows])}
        reports: dict[int, list[str]] = {}
        for report in tx.identities("submission", list(names.values())):
            reports.setdefault(report.submission, []).append(report.report_id)
        tree = {"size": parse_checkpoint(note.text).size, "witnesses": witnesses_of(note)}
        for row in rows:
            ids = {"submission": row.name, "reports": reports.get(names.get(row.name, 0), []), "leaf": row.leaf}
            tx.event("report.proven", {**ids, **tree}, at)

    def _deny(self, question: ProveRequest, step: Step) -> None:
        """The log refuses to prove what it has signed: find out which leaf it is by asking for fewer."""
        if len(question.leaves) > 1:
            self._most = len(question.leaves) // 2
            return
        with self._store.write() as tx:
            step.alarms += lose(tx, question.leaves, question.size, microseconds(self._now()))

    def standing(self) -> Standing:
        """Where it stands."""
        with self._store.read() as reads:
            last, published = reads.newest_checkpoint(), reads.newest_checkpoint(published=True)
            counts = reads.unproven()
        return Standing(
            last.size if last else 0, published.size if published else 0, counts["waiting"], counts["missing"]
        )
