"""Holds deliveries, confirmations, notices and the feed to each other and to what was granted.

Guarantees: nothing is owed or was sent that was not granted; a report that is off its delivery was confirmed by its
recipient, or stopped, and that in a signature; every confirmation is its member's own, about reports that it was
granted, and was passed on. Memory is flat: what needs another table's word is collected in bounded heaps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from broker import reading, tables
from broker.checkreports import Masks, unpacked
from broker.confirm import CLOSING
from broker.route import Entry, unpack_entries
from broker.store import Connection
from protocol.errors import ProtocolError
from protocol.faults import (
    DIFFERS,
    MISSING,
    ORPHAN,
    TWICE,
    UNREADABLE,
    WRONG_STATE,
    Finding,
    differences,
    from_milliseconds,
    refused,
)
from protocol.jws import split_jws
from protocol.parse import decode
from protocol.policy import HEADER
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.statements import Confirmation, Delivered, Link, Links, State, Stopped, open_statement, statement_digest

_HEAP: Final = 20_000
"""Reports whose stopping is looked up together."""
_SKEW_MS: Final = 300_000
"""How far a clock may have been put back between two times of one row."""
_NOT_GRANTED: Final = Reason.NOT_GRANTED.value
_REPORT: Final = ("seq", "digest", "origin", "received_at", "grants")
_confirmation: Final = msgspec.json.Decoder(Confirmation)
_link: Final = msgspec.json.Decoder(Link)
_grant: Final = msgspec.msgpack.Decoder(tuple[int, int])
_OPEN: Final = ("pending", "sent")
Progress = Callable[[str, int], None]


class _Told(msgspec.Struct, frozen=True):
    """What a row of the feed says of a confirmation."""

    member: str
    state: State
    reports: list[str]


_told: Final = msgspec.json.Decoder(_Told)


def _entries(data: bytes) -> list[Entry] | None:
    try:
        return unpack_entries(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def reports_confirmed(row: Any) -> list[str]:
    """The reports that a confirmation's row is about; nothing is verified. Empty if it cannot be read."""
    try:
        return decode(_confirmation, split_jws(bytes(row.jws).decode("ascii"), Confirmation.typ).payload).reports
    except (UnicodeDecodeError, ProtocolError):
        return []


# --- deliveries -------------------------------------------------------------------------------------------------


def check_deliveries(connection: Connection, progress: Progress) -> Iterator[Finding]:
    """Everything about what is owed."""
    heap: list[tuple[int, str, str]] = []
    done = 0
    for page in reading.pages(connection, tables.deliveries, most=200):
        opened = {row.id: (_entries(row.items), _entries(row.open)) for row in page}
        seqs = {entry[0] for items, _ in opened.values() for entry in items or ()}
        rows = {row.seq: row for row in reading.rows_where(connection, tables.reports, "seq", seqs, _REPORT)}
        confirmed: dict[int, set[str]] = {}
        for row in reading.rows_where(connection, tables.confirmations, "delivery", opened):
            if row.state in CLOSING:
                confirmed.setdefault(row.delivery, set()).update(reports_confirmed(row))
        for row in page:
            items, left = opened[row.id]
            if items is None or left is None:
                yield Finding("deliveries", str(row.id), UNREADABLE, "items" if items is None else "open")
                continue
            yield from _check_items(row, items, rows)
            yield from _check_state(row, items, left)
            still = {entry[0] for entry in left} if row.state != "cancelled" else set()
            for seq, _, _ in items:
                report = rows.get(seq)
                if report and seq not in still and report.digest not in confirmed.get(row.id, ()):
                    heap.append((row.id, report.digest, row.member))
        if len(heap) >= _HEAP:
            yield from _not_stopped(connection, heap)
            heap = []
        done += len(page)
        progress("deliveries", done)
    yield from _not_stopped(connection, heap)


def _check_items(row: Any, items: Sequence[Entry], rows: dict[int, Any]) -> Iterator[Finding]:
    if not items:
        yield Finding("deliveries", str(row.id), WRONG_STATE, "it holds nothing")
    for seq, exact, coarse in items:
        report = rows.get(seq)
        if report is None:
            yield Finding("deliveries", str(row.id), ORPHAN, f"there is no report {seq}")
            continue
        grants = unpacked(report.grants)
        if grants is None:
            continue
        granted: Masks = grants.get(row.member, (0, 0))
        if not granted[0] & exact & HEADER or exact & ~granted[0] or coarse & ~granted[1]:
            yield Finding("deliveries", str(row.id), _NOT_GRANTED, f"report {seq} to {row.member}")
        if report.received_at != row.created_at:
            yield Finding("deliveries", str(row.id), DIFFERS, f"created_at is not when report {seq} was decided")


def _check_state(row: Any, items: Sequence[Entry], left: Sequence[Entry]) -> Iterator[Finding]:
    whole = {entry[0]: entry for entry in items}
    for seq, exact, coarse in left:
        found = whole.get(seq)
        if found is None or exact & ~found[1] or coarse & ~found[2]:
            yield Finding("deliveries", str(row.id), WRONG_STATE, f"more of report {seq} is open than there is")
    for name, wrong in (
        ("an unknown state", row.state not in (*_OPEN, "confirmed", "cancelled")),
        ("pending, and was sent", row.state == "pending" and (row.attempts != 0 or row.sent_at is not None)),
        ("sent, and never was", row.state == "sent" and (row.attempts < 1 or row.sent_at is None)),
        ("open, and nothing is left of it", row.state in _OPEN and not left),
        ("open, and has an end", row.state in _OPEN and row.closed_at is not None),
        ("ended, and has no end", row.state not in _OPEN and row.closed_at is None),
        ("confirmed, and something is left of it", row.state == "confirmed" and bool(left)),
        ("sent before it was made", row.sent_at is not None and row.sent_at < row.created_at - _SKEW_MS),
        ("ended before it was made", row.closed_at is not None and row.closed_at < row.created_at - _SKEW_MS),
        ("told, and never sent", row.told and row.sent_at is None),
    ):
        if wrong:
            yield Finding("deliveries", str(row.id), WRONG_STATE, name)


def _not_stopped(connection: Connection, heap: Sequence[tuple[int, str, str]]) -> Iterator[Finding]:
    """Of reports that are off their delivery and not confirmed, those of which no signed word says why."""
    if not heap:
        return
    missing = {(digest, member): number for number, digest, member in heap}
    for page in reading.pages(connection, tables.notices, most=200, kind="stopped"):
        for row in page:
            stopped = said_in(row, Stopped)
            if stopped is not None:
                for digest in stopped.reports:
                    missing.pop((digest, stopped.member), None)
        if not missing:
            return
    for (_, member), number in sorted(missing.items(), key=lambda item: item[1]):
        detail = f"neither {member}'s confirmation nor the word that it was stopped"
        yield Finding("deliveries", str(number), MISSING, detail)


# --- confirmations ----------------------------------------------------------------------------------------------


def _of_reports(connection: Connection, digests: Sequence[str] | set[str]) -> dict[str, Any]:
    return {row.digest: row for row in reading.rows_where(connection, tables.reports, "digest", digests, _REPORT)}


def check_confirmations(connection: Connection, registry: Registry, progress: Progress) -> Iterator[Finding]:
    """Everything about recipients' words."""
    done = 0
    for page in reading.pages(connection, tables.confirmations, most=200):
        reports = _of_reports(connection, {digest for row in page for digest in reports_confirmed(row)})
        numbers = {row.delivery for row in page if row.delivery is not None}
        owed = {row.id: row for row in reading.rows_where(connection, tables.deliveries, "id", numbers)}
        for row in page:
            try:
                jws = bytes(row.jws).decode("ascii")
                said = open_statement(jws, Confirmation, registry.keys.find, from_milliseconds(row.at))
            except UnicodeDecodeError:
                yield Finding("confirmations", str(row.id), UNREADABLE, "the statement is not ASCII")
                continue
            except ProtocolError as exc:
                yield refused("confirmations", row.id, exc)
                continue
            pairs: list[tuple[str, object, object]] = [
                ("digest", row.digest, statement_digest(jws)),
                ("member", row.member, said.iss),
                ("origin", row.origin, said.aud),
                ("state", row.state, said.state),
                ("delivery", row.delivery, said.delivery or None),
                ("reason", row.reason, said.refusal.reason if said.refusal else None),
                ("count", row.count, len(said.reports)),
            ]
            yield from differences("confirmations", row.id, pairs)
            yield from _check_granted("confirmations", row.id, said.iss, said.aud, said.reports, reports)
            delivery = owed.get(row.delivery)
            if row.delivery is not None and (delivery is None or delivery.member != row.member):
                yield Finding("confirmations", str(row.id), ORPHAN, f"no delivery {row.delivery} to {row.member}")
        done += len(page)
        progress("confirmations", done)


def _check_granted(
    what: str, number: int, member: str, origin: str, digests: Sequence[str], reports: dict[str, Any]
) -> Iterator[Finding]:
    """The reports are there, of this origin, and were granted to this member."""
    for digest in digests:
        report = reports.get(digest)
        if report is None or report.origin != origin:
            yield Finding(what, str(number), ORPHAN, f"{origin} has no report {digest}")
        elif member not in (unpacked(report.grants) or {member}):
            yield Finding(what, str(number), _NOT_GRANTED, f"report {digest} was not granted to {member}")


# --- notices ----------------------------------------------------------------------------------------------------

_Notice = Links | Stopped | Delivered
_KINDS: Final[dict[str, type[Links] | type[Stopped] | type[Delivered]]] = {
    "links": Links,
    "stopped": Stopped,
    "delivered": Delivered,
}


class _Dated(msgspec.Struct):
    at: datetime


_dated: Final = msgspec.json.Decoder(_Dated)


def said_in(row: Any, kind: type[Stopped]) -> Stopped | None:
    """What a notice says; nothing is verified. None if it cannot be read."""
    try:
        return msgspec.json.decode(split_jws(bytes(row.jws).decode("ascii"), kind.typ).payload, type=kind)
    except (UnicodeDecodeError, ProtocolError, msgspec.DecodeError):
        return None


def _open_notice(row: Any, kind: type[_Notice], registry: Registry) -> _Notice:
    """A notice of the broker's, its key judged by the time that it names. ProtocolError if it does not hold."""
    jws = bytes(row.jws).decode("ascii")
    at = decode(_dated, split_jws(jws, kind.typ).payload).at
    if at.tzinfo is None:
        raise ProtocolError(Reason.INVALID_VALUE, "$.at", "a time without a zone")
    return open_statement(jws, kind, registry.keys.find, at)


def check_notices(connection: Connection, registry: Registry, progress: Progress) -> Iterator[Finding]:
    """Everything that members can ask for by number."""
    done = passed_on = 0
    for page in reading.pages(connection, tables.notices, most=200):
        names = {row.id: _name(row) for row in page if row.kind == "confirmed"}
        found = reading.rows_where(
            connection, tables.confirmations, "digest", set(names.values()) - {""}, ("digest", "origin")
        )
        origins = {row.digest: row.origin for row in found}
        for row in page:
            if row.kind == "confirmed":
                if origins.get(names[row.id]) == row.member:
                    passed_on += 1
                else:
                    yield Finding("notices", str(row.id), ORPHAN, f"{row.member} has no such confirmation")
            elif row.kind in _KINDS:
                yield from _check_notice(connection, row, registry)
            else:
                yield Finding("notices", str(row.id), UNREADABLE, "an unknown kind")
        done += len(page)
        progress("notices", done)
    rest = reading.count(connection, tables.confirmations) - passed_on
    if rest:
        reason, detail = (MISSING, "were not") if rest > 0 else (TWICE, "were twice")
        yield Finding("notices", "", reason, f"{abs(rest)} confirmations {detail} passed on to their origins")


def _name(row: Any) -> str:
    try:
        return statement_digest(bytes(row.jws).decode("ascii"))
    except UnicodeDecodeError:
        return ""


def _check_notice(connection: Connection, row: Any, registry: Registry) -> Iterator[Finding]:
    try:
        said = _open_notice(row, _KINDS[row.kind], registry)
    except UnicodeDecodeError:
        yield Finding("notices", str(row.id), UNREADABLE, "the statement is not ASCII")
        return
    except ProtocolError as exc:
        yield refused("notices", row.id, exc)
        return
    if said.aud != row.member:
        yield Finding("notices", str(row.id), DIFFERS, "it is for another member")
    if isinstance(said, Links):
        for link in said.links:
            yield from _check_link(connection, "notices", row.id, link)
    else:
        reports = _of_reports(connection, said.reports)
        yield from _check_granted("notices", row.id, said.member, said.aud, said.reports, reports)


def _check_link(connection: Connection, what: str, number: int, link: Link) -> Iterator[Finding]:
    """A link that somebody was told of stands in the table of links, and names its reports rightly."""
    columns = ("digest", "incident_id", "report_id", "origin")
    named = {link.a.digest: link.a, link.b.digest: link.b}
    rows = reading.rows_where(connection, tables.reports, "digest", named, columns)
    if len(rows) < 2:
        yield Finding(what, str(number), ORPHAN, "a link to a report that is not there")
        return
    for row in rows:
        said = named[row.digest]
        pairs = [
            ("report_id", str(UUID(bytes=bytes(row.report_id))), said.report_id),
            ("origin", row.origin, said.origin),
        ]
        yield from differences(what, number, pairs)
    first, second = sorted(bytes(row.incident_id) for row in rows)
    there = reading.rows_where(connection, tables.links, "incident_a", [first], ("incident_a", "incident_b"))
    if all(bytes(row.incident_b) != second for row in there):
        yield Finding("links", "", MISSING, f"a link that {what} {number} tells of")


# --- the coordinator's feed -------------------------------------------------------------------------------------


def check_feed(connection: Connection, registry: Registry) -> Iterator[Finding]:
    """A coordinator is shown what it was granted, and nothing else; all of it, if it never was anything else."""
    shown: Counter[str] = Counter()
    for page in reading.pages(connection, tables.feed):
        numbers = {row.report for row in page if row.report is not None}
        rows = {row.seq: row for row in reading.rows_where(connection, tables.reports, "seq", numbers, _REPORT)}
        for row in page:
            if row.kind == "report":
                found = _check_shown(row, rows.get(row.report))
                shown[row.member] += not found
                yield from found
            elif row.kind == "link":
                link = _decoded(_link, row.data)
                if link is None:
                    yield Finding("feed", str(row.id), UNREADABLE, "data")
                else:
                    yield from _check_link(connection, "feed", row.id, link)
            elif row.kind == "confirmation":
                yield from _check_told(connection, row)
            else:
                yield Finding("feed", str(row.id), UNREADABLE, "an unknown kind")
    coordinator = registry.coordinator()
    if coordinator is not None and coordinator.roles == ["coordinator"]:
        granted = _granted_to(connection, coordinator.id)
        if granted > shown[coordinator.id]:
            detail = f"{granted - shown[coordinator.id]} reports that the coordinator was granted"
            yield Finding("feed", "", MISSING, detail)


def _decoded(decoder: Any, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _check_shown(row: Any, report: Any) -> list[Finding]:
    grant = _decoded(_grant, row.data)
    if grant is None:
        return [Finding("feed", str(row.id), UNREADABLE, "data")]
    if report is None:
        return [Finding("feed", str(row.id), ORPHAN, f"there is no report {row.report}")]
    if grant != (unpacked(report.grants) or {}).get(row.member):
        return [Finding("feed", str(row.id), _NOT_GRANTED, f"report {row.report}, to {row.member}")]
    return differences("feed", row.id, [("at", row.at, report.received_at)])


def _check_told(connection: Connection, row: Any) -> Iterator[Finding]:
    told = _decoded(_told, row.data)
    if told is None:
        yield Finding("feed", str(row.id), UNREADABLE, "data")
        return
    reports = _of_reports(connection, told.reports)
    for digest in told.reports:
        if digest not in reports or told.member not in (unpacked(reports[digest].grants) or {told.member}):
            yield Finding("feed", str(row.id), ORPHAN, f"{told.member} could not confirm report {digest}")


def _granted_to(connection: Connection, member: str) -> int:
    """How many reports a member was granted."""
    return sum(
        member in (unpacked(row.grants) or ())
        for page in reading.pages(connection, tables.reports, "seq", 5000, ("seq", "grants"))
        for row in page
    )
