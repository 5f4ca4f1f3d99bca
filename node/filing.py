"""Steps 1 and 2 of a report's life, for a batch of POSTs: told apart, signed, and written down.

Guarantees: "twice is once" also within the batch: equal items collapse, the second is a replay of the first; the same
idempotency key gets the same answer. All of it is written through the caller's transaction, and no answer exists before
that commits. Refuses item by item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from node import tables
from node.answers import Accepted, Answer, Held, Result, answer_many, answer_one
from node.identity import Fresh, Known, Said, Shelf, decide
from node.intake import Draft, Item, Posting
from node.posts import post_row
from node.review import Holding, over_quota
from node.signing import ENVELOPE_CONTENT, Desk, Sealed, Sheet
from node.store import Reads, Tx, microseconds
from protocol import limits
from protocol.access import Client
from protocol.errors import ProtocolError
from protocol.policy import PolicyBook
from protocol.reasons import Reason
from protocol.registry import Registry

Reply = Answer | ProtocolError


@dataclass(frozen=True, slots=True)
class Filed:
    """What a batch came to: replies in order, and the submissions to be sent as (number, reports)."""

    replies: list[Reply]
    to_send: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Placed:
    """An item that is on the shelf; its digest is known once all is signed."""

    known: Known
    replayed: bool


class Round:
    """One batch. Use once.

    Args:
        tx: the transaction.
        desk: writes headers and signs.
        book, registry: policy and region for the whole batch.
        now: the time of all of it.
    """

    def __init__(self, tx: Tx, desk: Desk, book: PolicyBook, registry: Registry, now: datetime) -> None:
        self._tx = tx
        self._desk = desk
        self._book = book
        self._registry = registry
        self._now = now
        self._at = microseconds(now)
        self._shelf = Shelf()
        self._holding = Holding(tx, self._at)
        self._pending: list[Sheet] = []
        self._size = 0
        self._sealed: list[Sealed] = []
        self._heard: dict[tuple[str, str], tuple[Said, Known]] = {}

    def file(self, postings: Sequence[Posting]) -> Filed:
        """Take in the batch."""
        self._holding.stock(postings)
        self._shelf = stock(self._tx, [item for posting in postings for item in posting.items])
        placed: list[list[_Placed | Held | ProtocolError] | Reply | int] = []
        by_key: dict[tuple[str, str], int] = {}
        for index, posting in enumerate(postings):
            earlier = self._earlier(posting, postings, by_key) if posting.key else self._undecided(posting)
            placed.append(self._place_all(posting) if earlier is None else earlier)
            if posting.key and earlier is None:
                by_key[posting.client.name, posting.key] = index
        self._sign()
        replies: list[Reply] = []
        for posting, found in zip(postings, placed, strict=True):
            if isinstance(found, int):
                replies.append(_again(replies[found]))
            elif isinstance(found, list):
                replies.append(_reply(posting, found))
            else:
                replies.append(found)
        self._holding.write(postings, replies)
        to_send = self._write()
        self._remember(postings, by_key, replies)
        return Filed(replies, to_send)

    def _earlier(
        self, posting: Posting, postings: Sequence[Posting], by_key: dict[tuple[str, str], int]
    ) -> Reply | int | None:
        """What this idempotency key got before: on disk, or by the index of the posting in this batch."""
        index = by_key.get((posting.client.name, posting.key))
        row = self._tx.answer(posting.client.name, posting.key) if index is None else None
        if index is None and row is None:
            return None
        body_hash = row.body_hash if row else postings[index or 0].body_hash
        if body_hash != posting.body_hash:
            return ProtocolError(
                Reason.IDEMPOTENCY_KEY_REUSED, "$", "this idempotency key was used for another body: draw a new key"
            )
        return Answer(row.status, row.response, replayed=True) if row else index

    def undone(self) -> None:
        """Nothing of the batch was committed."""
        self._holding.give_back()

    def _undecided(self, posting: Posting) -> ProtocolError | None:
        """Why a release comes too late."""
        return self._holding.decided(posting.release.number) if posting.release else None

    def _place_all(self, posting: Posting) -> list[_Placed | Held | ProtocolError]:
        names = [_source_of(item) for item in posting.items]
        last = {name: index for index, name in enumerate(names)}
        return [
            self._place(item, posting.client, last=not name or last[name] == index)
            for index, (item, name) in enumerate(zip(posting.items, names, strict=True))
        ]

    def _place(self, item: Item, client: Client, *, last: bool) -> _Placed | Held | ProtocolError:
        if not isinstance(item, Draft):
            return item
        if client.held:
            return self._holding.hold(item, client, self._reopened(item, client, last=last))
        try:
            found = decide(item, self._shelf, client, last=last)
            if isinstance(found, Fresh) and found.previous is not None and not found.previous.digest:
                # The header names the previous revision's digest, which exists once that is signed.
                self._sign()
                found = decide(item, self._shelf, client, last=last)
        except ProtocolError as exc:
            return exc
        if isinstance(found, Known):
            self._hear(item, client, found)
            return _Placed(found, replayed=True)
        said = item
        if item.update is not None and found.previous is not None:
            item = item.update
        if not self._holding.spend(client):
            return over_quota()
        full = len(self._pending) >= limits.REPORTS_PER_SUBMISSION or self._size + len(item.content) > ENVELOPE_CONTENT
        if self._pending and full:
            self._sign()
        try:
            sheet = self._desk.write(item, found, self._book, self._registry, self._now)
        except ProtocolError as exc:
            self._holding.unspend(client)
            return exc
        sheet.known.client = client.name
        self._shelf.add(sheet.known)
        self._pending.append(sheet)
        self._size += len(item.content)
        self._hear(said, client, sheet.known)
        return _Placed(sheet.known, replayed=False)

    def _hear(self, item: Draft, client: Client, known: Known) -> None:
        """Remember what a source said last."""
        if (heard := self._shelf.hear(item, client)) is not None:
            self._heard[known.report_id, client.name] = heard, known

    def _reopened(self, item: Draft, client: Client, *, last: bool) -> str:
        """Of which revision this is a change back to what was released once: its digest; else nothing."""
        if item.update is None:
            return ""
        try:
            found = decide(item, self._shelf, client, last=last)
        except ProtocolError:
            return ""
        return found.previous.digest if isinstance(found, Fresh) and found.previous is not None else ""

    def _sign(self) -> None:
        if not self._pending:
            return
        self._sealed += self._desk.seal(self._pending, self._now)
        for sheet in self._pending:
            if sheet.known.error is not None:
                self._shelf.forget(sheet.known)
        self._pending, self._size = [], 0

    def _write(self) -> list[tuple[int, int]]:
        envelopes: list[dict[str, Any]] = []
        reports: list[dict[str, Any]] = []
        to_send: list[tuple[int, int]] = []
        for sealed in self._sealed:
            number = self._tx.number(tables.submissions)
            leaving = sealed.leaving
            row = {"id": number, "digest": sealed.digest, "message": sealed.message, "reports": leaving}
            envelopes.append({**row, "created_at": self._at, "waiting": leaving > 0})
            if leaving:
                to_send.append((number, leaving))
            reports += [self._row(sheet, number) for sheet in sealed.sheets]
        self._tx.add(tables.submissions, envelopes)
        self._tx.add(tables.own_reports, reports)
        self._tx.hear(
            [
                {
                    "report_id": report_id,
                    "client": client,
                    "content_hash": said.content_hash,
                    "stated_at": said.stated_at,
                }
                for (report_id, client), (said, known) in self._heard.items()
                if known.error is None
            ]
        )
        return to_send

    def _row(self, sheet: Sheet, submission: int) -> dict[str, Any]:
        known, signed = sheet.known, sheet.signed
        if signed is None:
            raise AssertionError("a sealed report without its signed form")
        ids = {"report_id": known.report_id, "revision": known.revision, "incident_id": known.incident_id}
        state = "kept" if known.kept else "queued"
        filing = sheet.draft.filing
        facts = {"digest": known.digest, "phase": filing.phase, "tlp": filing.marking.tlp, "state": state}
        self._tx.event("report.filed", {**ids, **facts}, self._at)
        return {
            **ids,
            "seq": self._tx.number(tables.own_reports),
            "digest": known.digest,
            "submission": submission,
            "content_hash": known.content_hash,
            "filed_at": self._at,
            "state": state,
            "kept": known.kept,
            "tlp": known.tlp,
            "client": known.client,
            "filing": sheet.draft.content,
            "held_back": sheet.held_back,
            "disclosures": "~".join(
                (signed.header_text, *signed.containers, *(item.text for item in signed.disclosures))
            ),
        }

    def _remember(
        self, postings: Sequence[Posting], by_key: dict[tuple[str, str], int], replies: Sequence[Reply]
    ) -> None:
        """Only what was accepted: a refused request may be put right and sent again under its key."""
        rows = []
        for (client, key), index in by_key.items():
            reply = replies[index]
            if isinstance(reply, Answer) and reply.status == 202:
                row = {"client": client, "key": key, "body_hash": postings[index].body_hash, "at": self._at}
                rows.append({**row, "status": reply.status, "response": reply.body})
        self._tx.add(tables.idempotency, rows)
        made: dict[str, dict[str, Any]] = {}
        for posting, reply in zip(postings, replies, strict=True):
            if posting.many and isinstance(reply, Answer) and reply.status == 202 and reply.results:
                made_of = post_row(posting.client.name, reply.body, reply.results, self._at)
                made.setdefault(made_of["id"], made_of)
        there = {row.id for row in self._tx.posts(list(made))}
        self._tx.add(tables.posts, [row for name, row in made.items() if name not in there])


def stock(reads: Reads, items: Sequence[Item]) -> Shelf:
    """All that is known about the ids and contents that these items name."""
    filings = [(item.filing, item.content_hash) for item in items if isinstance(item, Draft)]
    report_ids = {str(filing.report_id) for filing, _ in filings if filing.report_id}
    contents = {content for filing, content in filings if not filing.report_id}
    incidents = {str(filing.incident_id) for filing, _ in filings if filing.incident_id}
    shelf = Shelf(
        foreign_reports=reads.foreign("report_id", report_ids),
        foreign_incidents=reads.foreign("incident_id", incidents),
    )
    named = {name for item in items if (name := _source_of(item))}
    for row in reads.said(named):
        shelf.said.setdefault(row.report_id, {})[row.client] = Said(row.content_hash, row.stated_at)
    for row in reads.identities("report_id", report_ids):
        shelf.by_report.setdefault(row.report_id, []).append(_known(row))
    for row in reads.identities("content_hash", contents):
        shelf.by_content.setdefault(row.content_hash, []).append(_known(row))
    return shelf


def _source_of(item: Item) -> str:
    """The id that follows from a source's own name; nothing if it is not from a source."""
    return str(item.filing.report_id) if isinstance(item, Draft) and item.update is not None else ""


def _known(row: Any) -> Known:
    known = (row.report_id, row.revision, row.incident_id, row.content_hash, row.kept)
    return Known(*known, tlp=row.tlp, digest=row.digest)


def _reply(posting: Posting, placed: Sequence[_Placed | Held | ProtocolError]) -> Reply:
    if posting.places:
        found = [_result(item, place.at) for item, place in zip(placed, posting.places, strict=True)]
        return answer_many(found, posting.places)
    results = [_result(item, f"$[{index}]" if posting.many else "$") for index, item in enumerate(placed)]
    if posting.many:
        return answer_many(results)
    result = results[0]
    return result if isinstance(result, ProtocolError) else answer_one(result)


def _result(item: _Placed | Held | ProtocolError, at: str) -> Result:
    if isinstance(item, Held):
        return item
    error = item if isinstance(item, ProtocolError) else item.known.error
    if error is None and isinstance(item, _Placed):
        return Accepted(item.known, item.replayed)
    if error is None:
        raise AssertionError("neither placed nor refused")
    if error.path.startswith(at):
        return error
    return ProtocolError(error.reason, at + error.path[1:], error.detail)


def _again(reply: Reply) -> Reply:
    return Answer(reply.status, reply.body, replayed=True) if isinstance(reply, Answer) else reply
