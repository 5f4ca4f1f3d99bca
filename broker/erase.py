"""What a withdrawal or an expiry takes out of the ledger: the content, never the fact.

Guarantees: of an erased revision only the signed header stays, so that its receipt, its place in the log and who was
granted it can still be proven; its other disclosures, its box and its identifiers are gone from the rows. The other
reports of the same submission are untouched, byte for byte. Erasing again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import delete, select, update

from broker import store
from broker.store import Connection
from broker.tables import deliveries, identifiers, reports, submissions
from protocol.envelope import disclosure_digest, header_in, present
from protocol.keys import unb64
from protocol.sealing import parse_box
from protocol.submission import join_submission, split_submission

AT_ONCE: Final = 200
"""Expired reports in one transaction."""


def _named(value: Any) -> Iterator[str]:
    """The digests that a disclosed value names, at any depth (RFC 9901, sections 4.2.4.1 and 4.2.4.2)."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "_sd" and isinstance(item, list):
                yield from (digest for digest in item if isinstance(digest, str))
            elif name == "..." and isinstance(item, str):
                yield item
            else:
                yield from _named(item)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item)


def _below(text: str, texts: Mapping[str, str]) -> set[str]:
    """The disclosures that a disclosure leads to."""
    found: set[str] = set()
    todo = [text]
    while todo:
        for digest in _named(msgspec.json.decode(unb64(todo.pop()))[-1]):
            below = texts.get(digest)
            if below is not None and below not in found:
                found.add(below)
                todo.append(below)
    return found


def without_content(message: bytes, digests: Iterable[str]) -> bytes:
    """A submission without the content of some of its reports; their headers stay.

    Args:
        message: a submission that was accepted.
        digests: of the reports to empty.
    """
    sd_jwt, boxes = split_submission(message)
    jws, *disclosures = sd_jwt.decode("ascii").split("~")
    texts = {disclosure_digest(text): text for text in disclosures if text}
    gone: set[str] = set()
    sealed: set[str] = set()
    for digest in digests:
        header = texts.get(digest)
        if header is not None:
            gone |= _below(header, texts)
            sealed.add(header_in(header).sealed or "")
    kept = [box for box in boxes if parse_box(box).digest() not in sealed]
    return join_submission(present(jws, [[text for text in disclosures if text and text not in gone]]), kept)


@dataclass(slots=True)
class Erased:
    """What was erased."""

    reports: int = 0
    take_back: set[str] = field(default_factory=set)
    """Members in whose inboxes one of them may still lie."""

    def add(self, other: Erased) -> None:
        """Count another's too."""
        self.reports += other.reports
        self.take_back |= other.take_back


def erase(connection: Connection, rows: Sequence[Any], now: datetime) -> Erased:
    """Empty reports.

    Args:
        rows: of the table `reports`, not erased before.
    """
    if not rows:
        return Erased()
    by_submission: dict[int, list[str]] = {}
    for row in rows:
        by_submission.setdefault(row.submission, []).append(row.digest)
    for number, message in _submission_messages(connection, by_submission).items():
        _set_message(connection, number, without_content(message, by_submission[number]))
    _mark_erased(connection, [row.seq for row in rows], store.milliseconds(now))
    return Erased(len(rows), _waiting_for(connection, {row.received_at for row in rows}))


def erase_withdrawn(connection: Connection, ends: Mapping[bytes, int], now: datetime) -> Erased:
    """Empty all earlier revisions of reports that were withdrawn.

    Args:
        ends: report id to the revision that withdraws it.
    """
    rows = [
        row for row in _erasable(connection, ends) if row.phase != "withdrawn" and row.revision < ends[row.report_id]
    ]
    return erase(connection, rows, now)


def erase_expired(connection: Connection, now: datetime) -> Erased:
    """Empty what has expired, at most `AT_ONCE` reports: call again if it was as many."""
    return erase(connection, _expired(connection, store.milliseconds(now), AT_ONCE), now)


def any_expired(connection: Connection, now: datetime) -> bool:
    """Whether `erase_expired` would find anything."""
    return bool(_expired(connection, store.milliseconds(now), 1))


# --- rows -------------------------------------------------------------------------------------------------------


def _submission_messages(connection: Connection, numbers: Iterable[int]) -> dict[int, bytes]:
    """Submissions as they are kept, by number."""
    found: dict[int, bytes] = {}
    for chunk in store.chunks(numbers):
        query = select(submissions.c.id, submissions.c.message).where(submissions.c.id.in_(chunk))
        found.update({row.id: row.message for row in connection.execute(query)})
    return found


def _set_message(connection: Connection, number: int, message: bytes) -> None:
    """Replace a submission by what is left of it."""
    connection.execute(update(submissions).where(submissions.c.id == number).values(message=message))


_ROW = (
    reports.c.seq,
    reports.c.digest,
    reports.c.submission,
    reports.c.report_id,
    reports.c.revision,
    reports.c.phase,
    reports.c.received_at,
)


def _erasable(connection: Connection, report_ids: Iterable[bytes]) -> list[Any]:
    """All revisions of these reports that still have their content."""
    found: list[Any] = []
    for chunk in store.chunks(report_ids):
        query = select(*_ROW).where(reports.c.report_id.in_(chunk), reports.c.erased_at.is_(None))
        found.extend(connection.execute(query))
    return found


def _expired(connection: Connection, now: int, most: int) -> list[Any]:
    """Reports that have expired and still have their content."""
    query = select(*_ROW).where(reports.c.erased_at.is_(None), reports.c.expires_at <= now).limit(most)
    return list(connection.execute(query))


def _mark_erased(connection: Connection, seqs: Sequence[int], at: int) -> None:
    """These reports have no content any more, and no identifiers that others could be linked by."""
    for chunk in store.chunks(seqs):
        connection.execute(update(reports).where(reports.c.seq.in_(chunk)).values(erased_at=at))
        connection.execute(delete(identifiers).where(identifiers.c.seq.in_(chunk)))


def _waiting_for(connection: Connection, created_at: Iterable[int]) -> set[str]:
    """Members that have not confirmed a delivery which was made at one of these times."""
    found: set[str] = set()
    for chunk in store.chunks(created_at):
        query = select(deliveries.c.member).where(
            deliveries.c.created_at.in_(chunk), deliveries.c.state.in_(("pending", "sent"))
        )
        found.update(row.member for row in connection.execute(query.distinct()))
    return found
