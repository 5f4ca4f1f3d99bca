"""Walks the whole ledger and holds every row to what was signed: `kentongan broker check`.

Guarantees: reads one snapshot, page by page, beside a running broker, and changes nothing; every finding names its row;
what cannot be checked is counted and said, not passed over. Refuses, as ConfigError, a database that cannot be read.

Which columns nobody's signature protects, so that a change of them is not found, stands in `docs/operate.md`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from broker import reading, tables
from broker.checkdeliveries import check_confirmations, check_deliveries, check_feed, check_notices
from broker.checkgovernance import Governance, check_chain, check_leaf, check_leaves, is_record
from broker.checklog import check_log
from broker.checkreports import Around, Books, Scene, check_submission, deliveries_by_report, open_receipt
from broker.store import Connection, Store, milliseconds
from protocol.errors import ProtocolError
from protocol.faults import (
    BEHIND,
    DIFFERS,
    NOT_CHECKABLE,
    ORPHAN,
    TWICE,
    UNREADABLE,
    Finding,
    differences,
    gaps,
    refused,
)
from protocol.keys import b64
from protocol.policy import Policy, PolicyBook
from protocol.published import open_published
from protocol.reasons import Reason
from protocol.registry import Registry

Progress = Callable[[str, int], None]
"""Hears (which table, how many rows are done)."""
_PAGE: Final = 32
"""Submissions at a time: each can have a megabyte."""
_NUMBERED: Final = (
    (tables.reports, "seq"),
    (tables.deliveries, "id"),
    (tables.confirmations, "id"),
    (tables.notices, "id"),
    (tables.policies, "id"),
    (tables.feed, "id"),
    (tables.quarantine, "id"),
)
_ERASE_MS: Final = 3_600_000
"""How long after its expiry a report may still have its content, before it is worth a note."""
_START: Final = 16 << 10


def _quiet(_what: str, _rows: int) -> None:
    pass


def check_ledger(
    store: Store,
    registry: Registry,
    book: PolicyBook | None,
    now: datetime,
    progress: Progress = _quiet,
    records: Sequence[str] = (),
) -> Iterator[Finding]:
    """Everything that does not hold in a ledger, and notes about what could not be checked.

    Args:
        store: the ledger.
        registry: the region as it is now.
        book: policies that were in force for jurisdictions that have not published; None if that is not known.
        now: the time.
        progress: hears how far it is.
        records: the digests of the governance records in the region's directory, in order, if they are known.

    Raises:
        ConfigError: the database is damaged so that it cannot be read on.
        Transient: it cannot be read now.
    """
    with reading.snapshot(store) as connection:
        for line in reading.damage(connection):
            yield Finding("ledger", "", UNREADABLE, line[:200])
        mistyped = [Finding("ledger", "", UNREADABLE, line) for line in reading.mistyped(connection)]
        if mistyped:
            # Somebody wrote there who is not this program: no row of it can be relied on to be read.
            yield from mistyped
            return
        published = list(_policies(connection, registry, now))
        for item in published:
            yield from item[1]
        scene = Scene(registry, Books([item[0] for item in published], book))
        governance = Governance()
        yield from check_chain(connection, records, now, governance)
        yield from _numbers(connection)
        yield from _submissions(connection, scene, governance, progress)
        yield from check_leaves(governance)
        yield from _between(connection)
        yield from _links(connection)
        yield from check_deliveries(connection, progress)
        yield from check_confirmations(connection, registry, progress)
        yield from check_notices(connection, registry, progress)
        yield from check_feed(connection, registry)
        yield from _quarantine(connection)
        yield from check_log(connection, scene)
        overdue = reading.overdue(connection, milliseconds(now) - _ERASE_MS)
        if overdue:
            yield Finding("reports", "", BEHIND, f"{overdue} expired reports still have their content", note=True)
        for why, count in sorted(scene.skipped.items()):
            yield Finding("reports", "", NOT_CHECKABLE, f"{count} {why}", note=True)


# --- policies ---------------------------------------------------------------------------------------------------


def _policies(
    connection: Connection, registry: Registry, now: datetime
) -> Iterator[tuple[tuple[int, Policy | None, str], list[Finding]]]:
    """(taken at, policy if it holds, jurisdiction) of each published one, with what does not hold."""
    highest: dict[str, int] = {}
    for page in reading.pages(connection, tables.policies):
        for row in page:
            found: list[Finding] = []
            policy: Policy | None = None
            try:
                published = open_published(bytes(row.jws).decode("ascii"), registry, now)
                policy = published.policy
                pairs = [
                    ("jurisdiction", row.jurisdiction, policy.jurisdiction),
                    ("version", row.version, policy.version),
                    ("member", row.member, published.iss),
                ]
                found += differences("policies", row.id, pairs)
            except UnicodeDecodeError:
                found.append(Finding("policies", str(row.id), UNREADABLE, "the document is not ASCII"))
            except ProtocolError as exc:
                # A revoked key is the region's own decision: what it signed later counts no more, and may stay here.
                finding = refused("policies", row.id, exc)
                note = exc.reason is Reason.KEY_REVOKED
                found.append(msgspec.structs.replace(finding, note=note))
            if row.version <= highest.get(row.jurisdiction, 0):
                found.append(Finding("policies", str(row.id), TWICE, "a later one has no higher version"))
            highest[row.jurisdiction] = max(row.version, highest.get(row.jurisdiction, 0))
            yield (row.at, policy, row.jurisdiction), found


# --- submissions and what belongs to them -----------------------------------------------------------------------


def _numbers(connection: Connection) -> Iterator[Finding]:
    for table, key in _NUMBERED:
        rows = (row for page in reading.pages(connection, table, key, 5000, (key,)) for row in page)
        yield from gaps((row[0] for row in rows), table.name)


def _submissions(connection: Connection, scene: Scene, governance: Governance, progress: Progress) -> Iterator[Finding]:
    last = done = 0
    for page in reading.pages(connection, tables.submissions, "id", _PAGE):
        yield from gaps((row.id for row in page), "submissions", last)
        last = page[-1].id
        around = _around(connection, page, scene.registry)
        for row in page:
            yield from check_leaf(row, governance) if is_record(row) else check_submission(row, around, scene)
        done += len(page)
        progress("submissions", done)


def _around(connection: Connection, page: Sequence[Any], registry: Registry) -> Around:
    """What the ledger holds about a page of submissions, in a handful of queries."""
    around = Around()
    named: set[str] = set()
    for row in page:
        receipt, _ = open_receipt(row, registry)
        for said in receipt.reports if receipt else ():
            named.add(said.digest)
            if said.duplicate_of:
                named.add(said.duplicate_of)
    own = reading.rows_where(connection, tables.reports, "submission", [row.id for row in page])
    for row in own:
        around.of_submission.setdefault(row.submission, []).append(row)
    rows = reading.rows_where(connection, tables.reports, "digest", named)
    around.reports = {row.digest: row for row in rows}
    for row in reading.rows_where(connection, tables.exceptions, "submission", {row.digest for row in page}):
        around.exceptions.setdefault(row.submission, []).append(row)
    ids = {bytes(row.report_id) for row in rows}
    for row in reading.rows_where(connection, tables.reports, "report_id", ids):
        around.earlier.setdefault(bytes(row.report_id), []).append(row)
    times = {row.received_at for row in rows} | {row.received_at for row in page}
    around.sent = deliveries_by_report(reading.rows_where(connection, tables.deliveries, "created_at", times))
    for row in reading.rows_where(connection, tables.identifiers, "seq", {row.seq for row in rows}):
        around.identifiers.setdefault(row.seq, set()).add(row.key)
    return around


def _between(connection: Connection) -> Iterator[Finding]:
    """What no single row shows."""
    for column in ("report_id", "incident_id"):
        for value in reading.of_several(connection, column):
            yield Finding("reports", bytes(value).hex(), TWICE, f"one {column}, more than one origin")
    for number in reading.strays(connection, tables.reports, "submission", tables.submissions, "id"):
        yield Finding("reports", str(number), ORPHAN, "there is no such submission")
    for number in reading.strays(connection, tables.identifiers, "seq", tables.reports, "seq"):
        yield Finding("identifiers", str(number), ORPHAN, "there is no such report")
    for digest in reading.strays(connection, tables.exceptions, "submission", tables.submissions, "digest"):
        yield Finding("exceptions", str(digest), ORPHAN, "there is no such submission")


def _links(connection: Connection) -> Iterator[Finding]:
    for page in reading.pages(connection, tables.links):
        numbers = {row.a for row in page} | {row.b for row in page}
        rows = {row.seq: row for row in reading.rows_where(connection, tables.reports, "seq", numbers)}
        for row in page:
            a, b = rows.get(row.a), rows.get(row.b)
            if a is None or b is None:
                yield Finding("links", str(row.id), ORPHAN, "one of its reports is not there")
                continue
            if a.origin == b.origin:
                yield Finding("links", str(row.id), DIFFERS, "both reports are of one origin")
            incidents = sorted((bytes(a.incident_id), bytes(b.incident_id)))
            pairs = [
                ("incidents", [bytes(row.incident_a), bytes(row.incident_b)], incidents),
                ("at", row.at, a.received_at),
                ("strength", row.strength in ("strong", "weak"), True),
            ]
            yield from differences("links", row.id, pairs)


def _quarantine(connection: Connection) -> Iterator[Finding]:
    for page in reading.pages(connection, tables.quarantine, most=100):
        kept = reading.rows_where(
            connection, tables.submissions, "digest", {row.sha256 for row in page}, ("digest", "member", "refusal")
        )
        answers = {row.digest: row for row in kept}
        for row in page:
            if len(row.start) != min(row.size, _START):
                yield Finding("quarantine", str(row.id), DIFFERS, "start is not as long as it says")
            elif row.size <= _START and b64(hashlib.sha256(row.start).digest()) != row.sha256:
                yield Finding("quarantine", str(row.id), DIFFERS, "start is not what it is named by")
            elif row.kind == "submission":
                answer = answers.get(row.sha256)
                if answer is None:
                    yield Finding("quarantine", str(row.id), ORPHAN, "its origin got no receipt")
                else:
                    pairs = [("member", row.member, answer.member), ("reason", row.reason, answer.refusal)]
                    yield from differences("quarantine", row.id, pairs)
