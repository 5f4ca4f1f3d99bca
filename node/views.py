"""Rows as the JSON that clients read. Pure; the addresses and field names here are the node's HTTP contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from node.store import Reads, instant
from protocol.jws import split_jws
from protocol.policy import Withheld
from protocol.statements import Link, Receipt, Refusal, ReportReceipt

_receipt: Final = msgspec.json.Decoder(Receipt)
_outcome: Final = msgspec.json.Decoder(ReportReceipt)
_refusal: Final = msgspec.json.Decoder(Refusal)
_withheld: Final = msgspec.json.Decoder(list[Withheld])
_link: Final = msgspec.json.Decoder(Link)


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


def own_report(reads: Reads, report_id: str) -> dict[str, Any] | None:
    """All revisions of an own report: what was filed, what became of it, who has it, who does not and why."""
    rows = reads.own_by("report_id", [report_id])
    if not rows:
        return None
    envelopes = {row.id: row for row in reads.submissions_by("id", {row.submission for row in rows})}
    words: dict[str, dict[str, list[Any]]] = {}
    for word in reads.confirmed_by([row.digest for row in rows]):
        words.setdefault(word.report, {}).setdefault(word.member, []).append(word)
    revisions = [
        {
            **own_line(row),
            "submission": envelopes[row.submission].digest,
            "report": msgspec.Raw(row.filing),
            "held_back": msgspec.Raw(row.held_back or b"[]"),
            "recipients": _recipients(row, envelopes[row.submission].receipt, words.get(row.digest, {})),
        }
        for row in sorted(rows, key=lambda row: row.revision)
    ]
    return {
        "report_id": report_id,
        "incident_id": rows[0].incident_id,
        "state": revisions[-1]["state"],
        "revisions": revisions,
        "links": links_of(reads, report_id),
    }


def _recipients(row: Any, receipt_jws: str | None, words: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    shown: dict[str, dict[str, Any]] = {}
    if row.outcome is not None and receipt_jws is not None:
        decisions = _receipt.decode(split_jws(receipt_jws, Receipt.typ).payload).decisions
        for member, index in _outcome.decode(row.outcome).to.items():
            if 0 <= index < len(decisions):
                shown[member] = {
                    "granted": decisions[index].granted,
                    "withheld": msgspec.to_builtins(decisions[index].withheld),
                }
    for member, found in words.items():
        shown.setdefault(member, {})["confirmations"] = [
            {
                "state": word.state,
                "at": iso(word.at),
                **({"refusal": msgspec.to_builtins(_refusal.decode(word.refusal))} if word.refusal else {}),
            }
            for word in sorted(found, key=lambda word: (word.at, word.state))
        ]
    return shown


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
        "withdrawn": row.withdrawn or not row.presentation,
        "undisclosed": row.undisclosed,
        "withheld": msgspec.to_builtins(_withheld.decode(row.withheld)),
        "report": msgspec.Raw(row.view),
    }


def inbox_report(reads: Reads, report_id: str) -> dict[str, Any] | None:
    """All revisions of another member's report, with the origin's signed bytes."""
    rows = reads.inbox_by("report_id", [report_id])
    refused = reads.refused_by("report_id", [report_id])
    if not rows and not refused:
        return None
    return {
        "report_id": report_id,
        "revisions": [
            {**inbox_line(row), "sd_jwt": row.presentation} for row in sorted(rows, key=lambda row: row.revision)
        ],
        "refused": [refused_line(row) for row in refused],
        "links": links_of(reads, report_id),
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


def links_of(reads: Reads, report_id: str) -> list[dict[str, Any]]:
    """What other reports speak of the same thing, seen from one of the two."""
    shown = []
    for row in reads.links_of(report_id):
        link = _link.decode(row.link)
        other = link.b if row.a_report == report_id else link.a
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


def page(lines: Iterable[dict[str, Any]], name: str, after: int) -> dict[str, Any]:
    """A page of lines with `seq`; `next` is the cursor that the following page begins after."""
    listed = list(lines)
    return {name: listed, "next": listed[-1]["seq"] if listed else after}
