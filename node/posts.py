"""What became of one POST of several reports: counted item by item, for whoever posts and asks later.

Guarantees: the same answer has the same address, so that a repetition names the same one; an item that was refused at
the door is named with its reason, and nothing of its content is kept. Pure but for the reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from node.answers import Accepted, Held, Result
from node.store import Reads
from node.views import iso
from protocol.access import ANYBODY, Client
from protocol.keys import b64

_items: Final = msgspec.json.Decoder(list[Any])
_REVIEWED: Final = {"held": "pending", "released": "success"}
"""Of an entry of the review queue; what became of its report since stands under that report's address."""
_SUCCESS: Final = frozenset({"accepted", "duplicate", "kept"})
"""States in which nothing is left to be done; `duplicate` and `kept` are told apart in the items."""


def post_id(client: str, answer: bytes) -> str:
    """The name of a POST, by who asked and what the answer was."""
    return b64(hashlib.sha256(client.encode() + b"\0" + answer).digest())[:22]


def post_row(client: str, answer: bytes, results: Sequence[Result], at: int) -> dict[str, Any]:
    """What is kept of it: digests and reasons."""
    items = [_item(result) for result in results]
    return {"id": post_id(client, answer), "client": client, "at": at, "items": msgspec.json.encode(items)}


def _item(result: Result) -> str | int | dict[str, Any]:
    """A digest; the number of an entry of the review queue; or why it was refused."""
    if isinstance(result, Accepted):
        return result.known.digest
    if isinstance(result, Held):
        return result.number
    return {"reason": result.reason.value, "path": result.path, "detail": result.detail}


def post_view(reads: Reads, name: str, client: Client = ANYBODY) -> dict[str, Any] | None:
    """How far each item is; None if no POST of this client has this name, or it is over thirty days old."""
    rows = [row for row in reads.posts([name]) if client is ANYBODY or client.name == row.client]
    if not rows:
        return None
    items = _items.decode(rows[0].items)
    states = {row.digest: row for row in reads.own_states([item for item in items if isinstance(item, str)])}
    shown: list[dict[str, Any]] = []
    counts = {"pending": 0, "success": 0, "failure": 0}
    for index, item in enumerate(items):
        if isinstance(item, str):
            row = states[item]
            ids = {"report_id": row.report_id, "revision": row.revision, "digest": item}
            kind = "success" if row.state in _SUCCESS else "pending" if row.state == "queued" else "failure"
            shown.append({"index": index, "outcome": kind, "state": row.state, **ids})
        elif isinstance(item, int):
            entry = reads.review_row(item)
            kind = _REVIEWED.get(entry.state, "failure") if entry else "failure"
            shown.append({"index": index, "outcome": kind, "state": entry.state if entry else "gone", "review": item})
        else:
            kind = "failure"
            shown.append({"index": index, "outcome": kind, "state": "refused", **item})
        counts[kind] += 1
    return {
        "id": name,
        "posted_at": iso(rows[0].at),
        "status": "pending" if counts["pending"] else "complete",
        "total": len(items),
        **counts,
        "items": shown,
    }
