"""Walks a node's whole store and holds every row to what was signed: `kentongan node check`.

Guarantees: reads one snapshot, page by page, beside a running node, and changes nothing; every finding names its row;
what cannot be checked is counted and said, not passed over. Refuses, as ConfigError, a database that cannot be read.

Which columns nobody's signature protects, so that a change of them is not found, stands in `docs/operate.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from node import tables
from node.checkgovernance import GOVERNANCE, check_governance
from node.checkinbox import check_inbox, check_words
from node.checkown import Progress, Scene, check_own, said_in, verified
from node.checktaxii import check_taxii
from node.reading import Looking, snapshot
from node.store import Store
from node.trust import Trust
from protocol.errors import ConfigError, ProtocolError
from protocol.faults import (
    BEHIND,
    DIFFERS,
    MISSING,
    NOT_CHECKABLE,
    ORPHAN,
    UNREADABLE,
    WRONG_STATE,
    Finding,
    differences,
    from_microseconds,
    refused,
)
from protocol.governance import entry_of
from protocol.grants import commit, open_grant
from protocol.keys import b64
from protocol.logproof import parse_proof
from protocol.notes import NoteKey, open_checkpoint, witness_keys
from protocol.policy import PolicyBook
from protocol.published import open_published
from protocol.reasons import Reason
from protocol.statements import Confirmation, Delivered, Delivery, Links, Receipt, Stopped, statement_digest

_KINDS: Final[Mapping[str, type[Any]]] = {
    "delivery": Delivery,
    "confirmation": Confirmation,
    "links": Links,
    "stopped": Stopped,
    "delivered": Delivered,
}
_NOTE: Final = "checkpoint"
"""The one kind of evidence that is no statement: a note of the log's."""
_STALE: Final = 120_000_000
"""Microseconds for which a node may still judge by the region of before: it looks every minute."""
_encode: Final = msgspec.json.encode


def _quiet(_what: str, _rows: int) -> None:
    pass


def check_node(
    store: Store, member: str, trust: Trust, now: datetime, progress: Progress = _quiet
) -> Iterator[Finding]:
    """Everything that does not hold in a node's store, and notes about what could not be checked.

    Args:
        store: what the node holds.
        member: whose node it is.
        trust: the region as the node knows it.
        now: the time.
        progress: hears how far it is.

    Raises:
        ConfigError: the region does not know this member.
    """
    own = trust.registry.members.get(member)
    if own is None:
        raise ConfigError(f"the region document that is here does not list {member}: let the node connect once")
    with snapshot(store) as reads:
        for line in reads.damage():
            yield Finding("store", "", UNREADABLE, line[:200])
        mistyped = [Finding("store", "", UNREADABLE, line) for line in reads.mistyped()]
        if mistyped:
            # Somebody wrote there who is not this program: no row of it can be relied on to be read.
            yield from mistyped
            return
        policies = list(_policies(reads, trust, now))
        yield from (finding for _, found in policies for finding in found)
        book = PolicyBook(policy for policy, _ in policies if policy and policy.jurisdiction == own.jurisdiction)
        scene = Scene(member, own.jurisdiction, trust.registry, trust.broker_keys.find, book)
        yield from check_own(reads, scene, progress)
        yield from check_inbox(reads, scene, progress)
        yield from check_words(reads, scene, progress)
        yield from check_taxii(reads)
        yield from _statements(reads, scene, progress)
        yield from check_governance(reads, trust, now)
        yield from _log(reads, scene, now)
        yield from _links(reads)
        yield from _events(reads)
        for why, count in sorted(scene.skipped.items()):
            yield Finding("store", "", NOT_CHECKABLE, f"{count} {why}", note=True)


def _policies(reads: Looking, trust: Trust, now: datetime) -> Iterator[tuple[Any, list[Finding]]]:
    """Each policy that is here, if its signature holds, with what does not."""
    for row in reads.policies():
        name = f"{row.jurisdiction}/{row.version}"
        try:
            policy = open_published(row.jws, trust.registry, now).policy
        except ProtocolError as exc:
            # A revoked key is the region's own decision: what it signed later counts no more, and may stay here.
            finding = refused("policies", name, exc)
            yield None, [msgspec.structs.replace(finding, note=exc.reason is Reason.KEY_REVOKED)]
            continue
        pairs = [("jurisdiction", row.jurisdiction, policy.jurisdiction), ("version", row.version, policy.version)]
        yield policy, differences("policies", name, pairs)


# --- evidence ---------------------------------------------------------------------------------------------------


def _statements(reads: Looking, scene: Scene, progress: Progress) -> Iterator[Finding]:
    done = 0
    for page in reads.pages(tables.statements, "digest", 100):
        for row in page:
            if row.kind == _NOTE:
                named = b64(hashlib.sha256(row.jws.encode("utf-8")).digest())
                yield from differences("statements", row.digest, [("digest", row.digest, named)])
                continue
            kind = _KINDS.get(row.kind)
            if kind is None:
                yield Finding("statements", row.digest, UNREADABLE, "an unknown kind")
                continue
            keys = scene.registry.keys.find if kind is Confirmation else scene.broker
            try:
                verified(row.jws, kind, keys, scene.member, row.at)
            except ProtocolError as exc:
                yield refused("statements", row.digest, exc)
                continue
            yield from differences("statements", row.digest, [("digest", row.digest, statement_digest(row.jws))])
        done += len(page)
        progress("statements", done)


# --- the log ----------------------------------------------------------------------------------------------------


def _log(reads: Looking, scene: Scene, now: datetime) -> Iterator[Finding]:
    """What must be in the log, and the proofs that it is."""
    witnesses = [key for item in scene.registry.region.members for key in witness_keys(item.id, item.keys)]
    waiting = 0
    for page in reads.pages(tables.leaves, "leaf", 100):
        names = {row.name for row in page}
        receipts = {row.digest: row.receipt for row in reads.submission_heads(names)}
        deliveries = {row.digest: row.jws for row in reads.statements_by(names)}
        records = {row.digest: row.leaf for row in reads.governance()}
        for row in page:
            waiting += row.state == "waiting"
            if row.about == GOVERNANCE:
                entries = [entry_of(row.name)] if records.get(row.name) == row.leaf else []
            else:
                entries = _entries(row, receipts, deliveries, scene.member)
            if not entries:
                yield Finding("leaves", str(row.leaf), ORPHAN, f"no {row.about} {row.name} names it")
            elif bytes(row.entry) not in entries:
                yield Finding("leaves", str(row.leaf), DIFFERS, f"entry is not that of its {row.about}")
            yield from _check_proof(row, scene, witnesses)
    if waiting:
        yield Finding("leaves", "", BEHIND, f"{waiting} are not proven yet", note=True)
    for page in reads.pages(tables.checkpoints, "size", 100):
        for row in page:
            yield from _check_checkpoint(row, scene, witnesses, now)


def _entries(row: Any, receipts: Mapping[str, str | None], deliveries: Mapping[str, str], member: str) -> list[bytes]:
    """The entries that what a leaf is about puts there."""
    try:
        if row.about == "receipt":
            jws = receipts.get(row.name)
            receipt = said_in(jws, Receipt) if jws else None
            return [commit(receipt, jws).entry] if receipt and jws and receipt.leaf == row.leaf else []
        said = said_in(deliveries[row.name], Delivery) if row.name in deliveries else None
        return [open_grant(opening, member) for opening in said.grants if opening.leaf == row.leaf] if said else []
    except ProtocolError:
        return []


def _check_proof(row: Any, scene: Scene, witnesses: Sequence[NoteKey]) -> Iterator[Finding]:
    """A leaf that is proven has a proof, under a checkpoint that a quorum has cosigned."""
    if (row.proof is not None) != (row.state == "proven") or row.state not in ("waiting", "proven", "missing"):
        yield Finding("leaves", str(row.leaf), WRONG_STATE, "its state is not that of its proof")
    if row.proof is None:
        return
    try:
        proof = parse_proof(row.proof)
        if proof.index != row.leaf:
            raise ProtocolError(Reason.PROOF_INVALID, "$.index", "the proof is of another leaf")
        proof.verify(bytes(row.entry))
        at = from_microseconds(row.proven_at if row.proven_at is not None else row.at)
        opened = open_checkpoint(proof.note.encode(), scene.registry.log_keys(), witnesses, at)
    except ProtocolError as exc:
        yield refused("leaves", row.leaf, exc, "proof")
        return
    if opened.checkpoint.origin != scene.registry.origin:
        yield Finding("leaves", str(row.leaf), DIFFERS, "proof is of another log")
    if len(opened.witnesses) < scene.registry.quorum:
        if scene.changed_since((row.proven_at or row.at) - _STALE):
            scene.skipped["quorums of proofs, since the region changed later or just before"] += 1
        else:
            yield Finding("leaves", str(row.leaf), Reason.NOT_WITNESSED.value, "proof without a quorum")


def _check_checkpoint(row: Any, scene: Scene, witnesses: Sequence[NoteKey], now: datetime) -> Iterator[Finding]:
    """The tree that this node has seen is one that the log signed."""
    for name in ("note", "published"):
        text = getattr(row, name)
        if text is None:
            continue
        try:
            # The log's key may have run out since; a note names no time of its own.
            seen = open_checkpoint(text, scene.registry.log_keys(), witnesses, min(from_microseconds(row.at), now))
        except ProtocolError as exc:
            yield refused("checkpoints", row.size, exc, name)
            continue
        tree = (seen.checkpoint.origin, seen.checkpoint.size, seen.checkpoint.root)
        if tree != (scene.registry.origin, row.size, bytes(row.root)):
            yield Finding("checkpoints", str(row.size), DIFFERS, f"{name} is of another tree")


# --- links and events -------------------------------------------------------------------------------------------


def _links(reads: Looking) -> Iterator[Finding]:
    for page in reads.pages(tables.statements, "digest", 100, kind="links"):
        said = {row.digest: said_in(row.jws, Links) for row in page}
        for row in reads.rows_where(tables.links, "statement", list(said)):
            statement = said[row.statement]
            known = {_encode(link): link for link in statement.links} if statement else {}
            link = known.get(bytes(row.link))
            if link is None:
                yield Finding("links", f"{row.a} {row.b}", DIFFERS, "link is not what the broker signed")
                continue
            pairs = [
                ("a", row.a, link.a.digest),
                ("b", row.b, link.b.digest),
                ("a_report", row.a_report, link.a.report_id[:36]),
                ("b_report", row.b_report, link.b.report_id[:36]),
            ]
            yield from differences("links", f"{row.a} {row.b}", pairs)
    for digest in reads.strays(tables.links, "statement", tables.statements, "digest"):
        yield Finding("links", str(digest), MISSING, "the broker's statement")


def _events(reads: Looking) -> Iterator[Finding]:
    for page in reads.pages(tables.events, "seq", 1000):
        for row in page:
            try:
                known = isinstance(msgspec.json.decode(row.data), dict)
            except (msgspec.DecodeError, UnicodeDecodeError):
                known = False
            if not known:
                yield Finding("events", str(row.seq), UNREADABLE, "data")
