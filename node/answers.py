"""What a client is told about a POST: the body of the answer.

Pure. An answer to accepted reports only says what was true at the commit, so that a repetition gets the same bytes;
what became of them since stands under the address that it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from node.identity import Known
from node.intake import Place
from protocol.door import status_of
from protocol.errors import ProtocolError
from protocol.reasons import Reason


@dataclass(frozen=True, slots=True)
class Accepted:
    """An item that is on disk."""

    known: Known
    replayed: bool


@dataclass(frozen=True, slots=True)
class Held:
    """An item that is on disk, and waits for a person."""

    number: int
    replayed: bool


Result = Accepted | Held | ProtocolError


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to a POST, ready to be sent."""

    status: int
    body: bytes
    replayed: bool
    results: tuple[Result, ...] = field(default=(), compare=False)
    """Empty if it is the stored answer of an earlier request."""


def state_of(result: Accepted | Held) -> str:
    """What a report that was taken is from now on."""
    return "held" if isinstance(result, Held) else "kept" if result.known.kept else "queued"


def _shown(result: Accepted | Held) -> dict[str, Any]:
    if isinstance(result, Held):
        return {"review": result.number, "state": state_of(result), "status": f"/v1/review/{result.number}"}
    known = result.known
    return {
        "report_id": known.report_id,
        "incident_id": known.incident_id,
        "revision": known.revision,
        "digest": known.digest,
        "state": state_of(result),
        "status": f"/v1/reports/{known.report_id}",
    }


def _over_quota(result: Result) -> bool:
    return isinstance(result, ProtocolError) and result.reason is Reason.QUOTA_EXCEEDED


def answer_one(result: Accepted | Held) -> Answer:
    """The answer to a single report that was taken."""
    return Answer(202, msgspec.json.encode(_shown(result)), result.replayed, (result,))


def answer_many(results: Sequence[Result], places: Sequence[Place] = ()) -> Answer:
    """The answer to an array: each item in order; 202 if any was taken, 429 if the quota took none of them.

    Args:
        places: of each item, if it was read from a document of another format.
    """
    rows: list[dict[str, Any]] = []
    accepted = 0
    for index, result in enumerate(results):
        if not isinstance(result, ProtocolError):
            accepted += 1
            shown = _shown(result)
            rows.append({"index": index, **shown, "status": 202, "location": shown["status"]})
        else:
            rows.append(
                {
                    "index": index,
                    "status": status_of(result.reason),
                    "reason": result.reason.value,
                    "path": result.path,
                    "detail": result.detail,
                }
            )
    for row, place in zip(rows, places, strict=False):
        row["source"] = {"at": place.at, "source_id": place.source_id, "unmapped": place.unmapped}
    body = {"accepted": accepted, "refused": len(results) - accepted, "results": rows}
    replayed = accepted > 0 and all(result.replayed for result in results if not isinstance(result, ProtocolError))
    status = 202 if accepted else 429 if any(_over_quota(result) for result in results) else 422
    return Answer(status, msgspec.json.encode(body), replayed, tuple(results))
