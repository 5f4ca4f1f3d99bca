"""Rows as the JSON that clients read. Pure; the addresses and field names here are the node's HTTP contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from node.expiry import still_held_by
from node.store import Reads, instant
from node.witness import witnesses_of
from protocol.access import ANYBODY, Client, allows
from protocol.errors import ProtocolError
from protocol.jws import split_jws
from protocol.keys import b64
from protocol.logproof import parse_proof
from protocol.notes import parse_checkpoint, parse_note
from protocol.policy import Withheld
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.statements import Delivery, Link, Receipt, Refusal, ReportReceipt

_receipt: Final = msgspec.json.Decoder(Receipt)
_outcome: Final = msgspec.json.Decoder(ReportReceipt)
_refusal: Final = msgspec.json.Decoder(Refusal)
_withheld: Final = msgspec.json.Decoder(list[Withheld])
_link: Final = msgspec.json.Decoder(Link)
_delivery: Final = msgspec.json.Decoder(Delivery)
_FURTHEST: Final = ("delivered", "stopped", "refused", "received", "read", "acting", "closed", "expired")
"""What a recipient's state can be once something is known of it; a later one counts more than an earlier one."""
_ABOUT_THE_LOG: Final = frozenset(
    reason.value
    for reason in (
        Reason.LOG_FORKED,
        Reason.LEAF_MISSING,
        Reason.LOG_STALLED,
        Reason.NOT_WITNESSED,
        Reason.RECEIPT_OVERDUE,
        Reason.GRANTED_TOO_MUCH,
        Reason.NOT_GRANTED,
    )
)
"""Alarms that say that the broker does not keep its word."""


def iso(value: int | datetime) -> str:
    """A time as RFC 3339 in UTC."""
    time = instant(value) if isinstance(value, int) else value
    return time.isoformat().replace("+00:00", "Z")


def own_line(row: Any) -> dict[str, Any]:
    """One own revision in a list."""
    return {
        "seq": row.seq,
        "report_id": row.report_id,
        "revision": row.revision,
        "incident_id": row.incident_id,
        "digest": row.digest,
        "filed_at": iso(row.filed_at),
        "state": row.state,
        **_outcome_of(row),
    }


def _outcome_of(row: Any) -> dict[str, Any]:
    if row.outcome is None:
        return {}
    outcome = _outcome.decode(row.outcome)
    shown: dict[str, Any] = {}
    if outcome.refusal:
        shown["refusal"] = msgspec.to_builtins(outcome.refusal)
    if outcome.duplicate_of:
        shown["duplicate_of"] = outcome.duplicate_of
    return shown


def may_see(client: Client, row: Any, *, own: bool) -> bool:
    """Whether a client may read a revision: by its marking, and without the scope `read` only what it filed itself."""
    return allows(client, row.tlp) and ("read" in client.scopes or (own and row.client == client.name))


def own_report(reads: Reads, report_id: str, now: datetime, client: Client = ANYBODY) -> dict[str, Any] | None:
    """All revisions of an own report: what was filed, what became of it, who has it, who does not and why.

    Args:
        now: by which a report has expired or not.
        client: who asks; sees what it may.
    """
    every = reads.own_by("report_id", [report_id])
    rows = [row for row in every if may_see(client, row, own=True)]
    if not rows:
        return None
    envelopes = {row.id: row for row in reads.submissions_by("id", {row.submission for row in rows})}
    leaves = {row.name: row for row in reads.leaves_by("name", {row.digest for row in envelopes.values()})}
    words: dict[str, dict[str, list[Any]]] = {}
    for word in reads.confirmed_by([row.digest for row in every]):
        words.setdefault(word.report, {}).setdefault(word.member, []).append(word)
    held = {row.digest: still_held_by(row, every, words, now) for row in rows}
    revisions = [
        {
            **own_line(row),
            "submission": envelopes[row.submission].digest,
            "report": msgspec.Raw(row.filing),
            "held_back": msgspec.Raw(row.held_back or b"[]"),
            "proof": None if row.kept else _proof(leaves.get(envelopes[row.submission].digest)),
            "recipients": _recipients(row, envelopes[row.submission].receipt, words.get(row.digest, {})),
            **({} if held[row.digest] is None else {"still_held_by": held[row.digest]}),
        }
        for row in sorted(rows, key=lambda row: row.revision)
    ]
    return {
        "report_id": report_id,
        "incident_id": rows[0].incident_id,
        "state": revisions[-1]["state"],
        "revisions": revisions,
        "links": links_of(reads, report_id, client),
    }


def _recipients(row: Any, receipt_jws: str | None, words: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    shown: dict[str, dict[str, Any]] = {}
    if row.outcome is not None and receipt_jws is not None:
        decisions = _receipt.decode(split_jws(receipt_jws, Receipt.typ).payload).decisions
        for member, index in _outcome.decode(row.outcome).to.items():
            if 0 <= index < len(decisions):
                decision = decisions[index]
                shown[member] = {
                    "state": "queued" if decision.granted else "denied",
                    "granted": decision.granted,
                    **({"by": msgspec.to_builtins(decision.by)} if decision.granted else {}),
                    "withheld": msgspec.to_builtins(decision.withheld),
                }
    for member, found in words.items():
        line = shown.setdefault(member, {})
        line["state"] = _word_of(max(found, key=lambda word: _FURTHEST.index(word.state)))
        line["confirmations"] = [
            {
                "state": word.state,
                "at": iso(word.at),
                **({"refusal": msgspec.to_builtins(_refusal.decode(word.refusal))} if word.refusal else {}),
            }
            for word in sorted(found, key=lambda word: (word.at, word.state))
        ]
    return shown


def _word_of(word: Any) -> str:
    """One word for what is known: the broker stops for its reasons, of which the end of a report's life is one."""
    if word.state == "stopped" and word.refusal and _refusal.decode(word.refusal).reason == Reason.EXPIRED.value:
        return "expired"
    return str(word.state)


# --- proofs -----------------------------------------------------------------------------------------------------


def _proof(row: Any | None) -> dict[str, Any]:
    """How far a leaf is proven; without a row, the broker has not said yet which leaf it is."""
    if row is None:
        return {"state": "waiting"}
    shown = {"state": row.state, "leaf": row.leaf, "entry": b64(row.entry)}
    if row.proof is None:
        return shown
    note = parse_proof(row.proof).note
    size = parse_checkpoint(note.text).size
    return {**shown, "size": size, "witnesses": witnesses_of(note), "at": iso(row.proven_at)}


def _inbox_leaves(reads: Reads, rows: Sequence[Any]) -> dict[str, Any]:
    """Per report of others, the row of the leaf in which its grant is promised.

    The delivery says so. The leaf bears the name of the first delivery that named it, which may be another one.
    """
    numbers: dict[str, int] = {}
    for statement in reads.statements_by({row.statement for row in rows}):
        for opening in _delivery.decode(split_jws(statement.jws, Delivery.typ).payload).grants:
            numbers |= {digest: opening.leaf for digest, _, _ in opening.reports}
    leaves = {row.leaf: row for row in reads.leaves_by("leaf", set(numbers.values()))}
    return {row.digest: leaves.get(numbers[row.digest]) for row in rows if row.digest in numbers}


def proof_text(reads: Reads, report_id: str, revision: int | None, *, own: bool, client: Client = ANYBODY) -> str:
    """The tlog-proof of a revision, the newest if none is named.

    Args:
        own: whether it is a report of this member, or of another.
        client: who asks.

    Raises:
        ProtocolError: UNKNOWN_REPORT; NOT_WITNESSED while it waits; LEAF_MISSING, the log does not hold it.
    """
    rows = [
        row
        for row in (reads.own_by if own else reads.inbox_by)("report_id", [report_id])
        if revision in (None, row.revision) and may_see(client, row, own=own)
    ]
    if not rows:
        raise ProtocolError(Reason.UNKNOWN_REPORT, "$", "no such report, or revision of it")
    row = max(rows, key=lambda found: found.revision)
    if own:
        names = reads.submission_names([row.submission])
        leaf = next(iter(reads.leaves_by("name", list(names.values()))), None)
    else:
        leaf = _inbox_leaves(reads, [row]).get(row.digest)
    if leaf is not None and leaf.proof is not None:
        return str(leaf.proof)
    if leaf is not None and leaf.state == "missing":
        raise ProtocolError(Reason.LEAF_MISSING, "$", "the log does not prove what the broker signed: see the alarms")
    raise ProtocolError(Reason.NOT_WITNESSED, "$", "no checkpoint with a quorum of witnesses covers it yet")


def log_view(reads: Reads, registry: Registry) -> dict[str, Any]:
    """The broker's log as this node knows it."""
    last, published = reads.newest_checkpoint(), reads.newest_checkpoint(published=True)
    witnesses = witnesses_of(parse_note(published.published)) if published else []
    known = {"size": published.size, "at": iso(published.published_at)} if published else {"size": 0}
    return {
        "origin": registry.origin,
        "verified": {"size": last.size, "at": iso(last.at)} if last else {"size": 0},
        "published": {**known, "witnesses": witnesses, "quorum": registry.quorum},
        "lag": (last.size if last else 0) - (published.size if published else 0),
        "leaves": reads.unproven(),
        "alarms": {reason: count for reason, count in reads.open_alarms().items() if reason in _ABOUT_THE_LOG},
    }


# --- others' reports --------------------------------------------------------------------------------------------


def inbox_line(row: Any) -> dict[str, Any]:
    """One of others' reports, as far as it is disclosed here."""
    return {
        "seq": row.seq,
        "digest": row.digest,
        "report_id": row.report_id,
        "revision": row.revision,
        "incident_id": row.incident_id,
        "origin": {"member": row.origin, "jurisdiction": row.jurisdiction},
        "received_at": iso(row.received_at),
        "broker_received_at": iso(row.broker_received_at),
        "state": row.state,
        "state_at": iso(row.state_at),
        "withdrawn": row.withdrawn or (not row.presentation and row.expired_at is None),
        "expired": row.expired_at is not None,
        "undisclosed": row.undisclosed,
        "withheld": msgspec.to_builtins(_withheld.decode(row.withheld)),
        "report": msgspec.Raw(row.view),
    }


def inbox_report(reads: Reads, report_id: str, client: Client = ANYBODY) -> dict[str, Any] | None:
    """All revisions of another member's report that a client may read, with the origin's signed bytes."""
    rows = [row for row in reads.inbox_by("report_id", [report_id]) if may_see(client, row, own=False)]
    # How a report is marked that was not taken is not known here.
    refused = [] if client.limited else reads.refused_by("report_id", [report_id])
    if not rows and not refused:
        return None
    leaves = _inbox_leaves(reads, rows)
    return {
        "report_id": report_id,
        "revisions": [
            {**inbox_line(row), "proof": _proof(leaves.get(row.digest)), "sd_jwt": row.presentation}
            for row in sorted(rows, key=lambda row: row.revision)
        ],
        "refused": [refused_line(row) for row in refused],
        "links": links_of(reads, report_id, client),
    }


def refused_line(row: Any) -> dict[str, Any]:
    """Something that this node did not take."""
    return {
        "digest": row.digest,
        "revision": row.revision,
        "origin": row.origin,
        "at": iso(row.at),
        "refusal": msgspec.to_builtins(_refusal.decode(row.refusal)),
    }


def links_of(reads: Reads, report_id: str, client: Client = ANYBODY) -> list[dict[str, Any]]:
    """What other reports speak of the same thing, seen from one of the two; for who may read others', or not all."""
    if "read" not in client.scopes:
        return []
    shown = []
    rows = reads.links_of(report_id)
    named = {name for row in rows for name in (row.a_report, row.b_report)} if client.limited else set()
    marked = reads.markings("report_id", named)
    for row in rows:
        link = _link.decode(row.link)
        other = link.b if row.a_report == report_id else link.a
        if client.limited and not marks_allow(client, marked.get(other.report_id[:36])):
            continue
        shown.append(
            {
                "report_id": other.report_id,
                "digest": other.digest,
                "origin": other.origin,
                "strength": link.strength,
                "on": link.on,
                "at": iso(row.at),
            }
        )
    return shown


def marks_allow(client: Client, marked: Iterable[str] | None) -> bool:
    """Whether a client may hear of a report, by the markings of its revisions; not of one that is not here."""
    return bool(marked) and all(allows(client, tlp) for tlp in marked or ())


def page(lines: Iterable[dict[str, Any]], name: str, after: int) -> dict[str, Any]:
    """A page of lines with `seq`; `next` is the cursor that the following page begins after."""
    listed = list(lines)
    return {name: listed, "next": listed[-1]["seq"] if listed else after}
