"""Step 6 of a report's life, the commit point: a whole batch of decisions, receipts and pending deliveries in one
transaction.

Guarantees: before the transaction nothing was promised to anybody, after it everything that was decided is on disk and
is sent until it is confirmed. A submission that comes again finds its receipt here, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from broker import store, tables
from broker.decide import Accepted, Decision, Known, KnownReport, NotAccepted, as_side
from broker.dedup import FoundLink, Identifier, Side, find_links, kinds, side_of, visible_to
from broker.route import Entry, pack_entries
from broker.store import Connection
from broker.verify import Refused, Verified
from protocol.envelope import SignedReport
from protocol.facts import expiry_of
from protocol.grants import Commitment
from protocol.statements import Link, LinkedReport

_grants_decoder: Final = msgspec.msgpack.Decoder(dict[str, tuple[int, int]])
_pack: Final = msgspec.msgpack.Encoder().encode


def unpack_grants(data: bytes) -> dict[str, tuple[int, int]]:
    """Grants from the ledger: masks per member."""
    return _grants_decoder.decode(data)


@dataclass(frozen=True, slots=True)
class DecidedSubmission:
    """A verified submission with its decisions and the signed receipt."""

    verified: Verified
    decisions: Sequence[Decision]
    receipt: str
    commitment: Commitment


@dataclass(frozen=True, slots=True)
class RefusedSubmission:
    """A submission refused as a whole, with the key under which a repetition finds its signed receipt."""

    refused: Refused
    key: str
    receipt: str
    commitment: Commitment


@dataclass(slots=True)
class Committed:
    """What a commit made: sequence numbers of the accepted reports, in order, and the links found."""

    seqs: dict[str, int] = field(default_factory=dict)
    links: list[FoundLink] = field(default_factory=list)


def recall(connection: Connection, verified: Sequence[Verified]) -> Known:
    """What the ledger knows that matters for deciding these submissions."""
    headers = [
        (item.member, report.digest, report.header)
        for item in verified
        for report in item.envelope.reports
        if isinstance(report, SignedReport)
    ]
    rows: dict[int, Any] = {}
    for column, values in (
        ("report_id", {header.report_id.bytes for _, _, header in headers}),
        ("incident_id", {header.incident_id.bytes for _, _, header in headers}),
        ("fingerprint", {header.fingerprint for _, _, header in headers}),
        ("digest", {digest for _, digest, _ in headers}),
    ):
        rows.update({row.seq: row for row in store.reports_where(connection, column, values)})
    known = Known()
    for _, row in sorted(rows.items()):
        known.learn(
            KnownReport(
                row.digest,
                row.origin,
                row.report_id,
                row.revision,
                row.incident_id,
                row.phase,
                unpack_grants(row.grants),
            ),
            row.fingerprint,
        )
    return known


def _exception_row(now: int, member: str, submission: str, decision: NotAccepted) -> store.Row:
    header = decision.header
    return {
        "at": now,
        "member": member,
        "submission": submission,
        "digest": decision.digest,
        "report_id": str(header.report_id) if header else None,
        "revision": header.revision if header else None,
        "outcome": decision.outcome,
        "reason": decision.refusal.reason,
        "path": decision.refusal.path[:500],
    }


def _packed(grants: Mapping[str, tuple[int, int]], memory: dict[int, bytes]) -> bytes:
    """Reports with the same facts share their grants: packed once a batch."""
    found = memory.get(id(grants))
    if found is None:
        found = memory[id(grants)] = _pack(dict(grants))
    return found


def _report_row(accepted: Accepted, submission: int, now: int, memory: dict[int, bytes]) -> store.Row:
    header = accepted.report.header
    return {
        "digest": accepted.report.digest,
        "submission": submission,
        "origin": accepted.member,
        "report_id": header.report_id.bytes,
        "revision": header.revision,
        "incident_id": header.incident_id.bytes,
        "fingerprint": header.fingerprint,
        "phase": header.phase,
        "rsit": header.rsit[0].class_,
        "happened_at": store.milliseconds(accepted.happened_at),
        "received_at": now,
        "expires_at": store.milliseconds(expires) if (expires := expiry_of(header)) else None,
        "erased_at": None,
        "grants": _packed(accepted.grants, memory),
    }


def record(
    connection: Connection,
    decided: Sequence[DecidedSubmission],
    refused: Sequence[RefusedSubmission],
    now: datetime,
) -> Committed:
    """Write submissions, reports, exceptions, identifiers and links.

    The receipts say at which leaf of the log they are: decided ones come first, then refused ones.
    """
    at = store.milliseconds(now)
    rows: list[store.Row] = [
        {
            "digest": item.verified.digest,
            "member": item.verified.member,
            "received_at": at,
            "entry": item.commitment.entry,
            "message": item.verified.message,
            "receipt": item.receipt.encode("ascii"),
            "refusal": None,
        }
        for item in decided
    ]
    rows += [
        {
            "digest": item.key,
            "member": item.refused.member,
            "received_at": at,
            "entry": item.commitment.entry,
            "message": b"",
            "receipt": item.receipt.encode("ascii"),
            "refusal": item.refused.refusal.reason,
        }
        for item in refused
    ]
    numbers = store.add_numbered(connection, tables.submissions, rows, "id")
    promised = [item.commitment.leaf for item in decided] + [item.commitment.leaf for item in refused]
    if [number - 1 for number in numbers] != promised:
        raise AssertionError("a receipt that names another leaf than its own")
    accepted: list[tuple[Accepted, int]] = []
    exceptions: list[store.Row] = []
    for item, number in zip(decided, numbers, strict=False):
        for decision in item.decisions:
            if isinstance(decision, Accepted):
                accepted.append((decision, number))
            else:
                exceptions.append(_exception_row(at, item.verified.member, item.verified.digest, decision))
    memory: dict[int, bytes] = {}
    rows = [_report_row(item, number, at, memory) for item, number in accepted]
    seqs = store.add_numbered(connection, tables.reports, rows, "seq")
    store.add(connection, tables.exceptions, exceptions)
    committed = Committed({item.report.digest: seq for (item, _), seq in zip(accepted, seqs, strict=True)})
    _link(connection, [item for item, _ in accepted], committed, at)
    return committed


def _link(connection: Connection, accepted: Sequence[Accepted], committed: Committed, at: int) -> None:
    """Find links, then enter the new identifiers."""
    wanted = {identifier.key for item in accepted for identifier in item.identifiers}
    if not wanted:
        return
    hits = _known_holders(connection, wanted)
    already = store.linked_pairs(connection, {item.report.header.incident_id.bytes for item in accepted})
    rows: list[store.Row] = []
    for item in accepted:
        side = as_side(item, committed.seqs[item.report.digest])
        committed.links.extend(find_links(side, item.identifiers, hits, already))
        for identifier in item.identifiers:
            hits.setdefault(identifier.key, []).append(side)
            rows.append({"key": identifier.key, "seq": side.seq})
    store.add(connection, tables.identifiers, rows)
    store.add(
        connection,
        tables.links,
        [
            {
                "at": at,
                "a": link.a.seq,
                "b": link.b.seq,
                "incident_a": min(link.a.incident, link.b.incident),
                "incident_b": max(link.a.incident, link.b.incident),
                "strength": link.strength,
            }
            for link in committed.links
        ],
    )


def _known_holders(connection: Connection, wanted: Iterable[int]) -> dict[int, list[Side]]:
    pairs = store.identifier_hits(connection, wanted)
    rows = {row.seq: row for row in store.reports_where(connection, "seq", {seq for _, seq in pairs})}
    holders: dict[int, list[Side]] = {}
    for key, seq in pairs:
        row = rows[seq]
        holders.setdefault(key, []).append(side_of(row, unpack_grants(row.grants), str(UUID(bytes=row.report_id))))
    return holders


def record_deliveries(
    connection: Connection, planned: Sequence[tuple[str, Sequence[Entry]]], now: datetime, retry_ms: int
) -> list[int]:
    """Pending deliveries, as (member, entries), due again after that long; returns their numbers."""
    at = store.milliseconds(now)
    rows = [
        {
            "member": member,
            "created_at": at,
            "state": "pending",
            "attempts": 0,
            "next_attempt_at": at + retry_ms,
            "told": False,
            "items": (packed := pack_entries(entries)),
            "open": packed,
        }
        for member, entries in planned
    ]
    return store.add_numbered(connection, tables.deliveries, rows, "id")


def links_for(member: str, found: Sequence[FoundLink]) -> list[Link]:
    """The links that a member may know of, with only what it may know of them."""
    shown = []
    for link in found:
        visible = visible_to(member, link)
        if visible:
            shown.append(_as_link(link, visible))
    return shown


def _as_link(link: FoundLink, visible: Sequence[Identifier]) -> Link:
    strong = any(item.strength == "strong" for item in visible)
    return Link(
        a=LinkedReport(digest=link.a.digest, report_id=link.a.report_id, origin=link.a.origin),
        b=LinkedReport(digest=link.b.digest, report_id=link.b.report_id, origin=link.b.origin),
        strength="strong" if strong else "weak",
        on=kinds(visible),
    )


def feed_rows(
    coordinator: str, accepted: Iterable[tuple[Accepted, int]], links: Sequence[Link], now: datetime
) -> list[store.Row]:
    """What the coordinator may see of this batch, and nothing about the rest: not even that it exists."""
    at = store.milliseconds(now)
    rows: list[store.Row] = [
        {"kind": "report", "at": at, "member": coordinator, "report": seq, "data": _pack(grant)}
        for item, seq in accepted
        if (grant := item.grants.get(coordinator)) is not None
    ]
    rows += [
        {"kind": "link", "at": at, "member": coordinator, "report": None, "data": msgspec.json.encode(link)}
        for link in links
    ]
    return rows


def grants_by_digest(connection: Connection, digests: Iterable[str]) -> Mapping[str, Any]:
    """Report rows by digest."""
    return {row.digest: row for row in store.reports_where(connection, "digest", digests)}
