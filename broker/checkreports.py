"""Holds a stored submission to its receipt, its envelope and the policies of its time. Pure: rows in, findings out.

Guarantees: whatever stands in the row of a submission, of its reports, exceptions, identifiers and deliveries is
compared with what the origin and the broker signed; a grant that goes beyond the report's marking, or beyond the
published policies of that time, is found. Refuses nothing and raises nothing for what a row holds.

What is not kept cannot be checked and is counted: who was in a sharing group or party to an agreement before the
region's files last changed, policies that were only ever files, and members that are no longer in the region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import msgspec

from broker.dedup import happened_at, identifiers_of
from broker.ledger import unpack_grants
from broker.policies import PublishedPolicies, merge
from broker.route import unpack_entries
from broker.store import milliseconds
from protocol.envelope import Envelope, RefusedReport, SignedReport, open_envelope
from protocol.errors import ProtocolError
from protocol.facts import expiry_of
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
from protocol.grants import commit
from protocol.policy import HEADER, Policy, PolicyBook, Recipient, evaluate, facts_of
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.report import Header
from protocol.sealing import SealedBox
from protocol.statements import Decision, Receipt, ReportReceipt, open_statement
from protocol.submission import read_boxes, split_submission

LAG_MS: Final = 60_000
"""A published policy is in the ledger before the broker asks it: for so long, the answer may still be the old one's."""
_TOO_MUCH: Final = Reason.GRANTED_TOO_MUCH.value
_GROUPS: Final = frozenset({Reason.NOT_IN_GROUP, Reason.UNKNOWN_GROUP})

Masks = tuple[int, int]


def unpacked(data: bytes) -> dict[str, Masks] | None:
    """Grants out of a row; None if they do not decode."""
    try:
        return unpack_grants(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


# --- the policies of a time -------------------------------------------------------------------------------------


class Books:
    """Which policies the broker may have asked at a time.

    Args:
        published: (taken at, in milliseconds; the policy, or None if its signature does not hold now; its
            jurisdiction), in the order in which they were taken.
        files: policies that are valid for jurisdictions which had not published.
    """

    def __init__(self, published: Sequence[tuple[int, Policy | None, str]], files: PolicyBook | None) -> None:
        self._published = published
        self._files = files.policies if files else ()
        self._book = lru_cache(64)(self._make)

    def _make(self, count: int) -> tuple[PolicyBook, frozenset[str]]:
        """The book after so many were taken, and whose policies stand in it for certain."""
        taken = self._published[:count]
        unknown = {name for _, policy, name in taken if policy is None}
        found = [policy for _, policy, _ in taken if policy is not None]
        names = frozenset(name for _, _, name in taken)
        policies = merge(self._files, PublishedPolicies(found, names))
        return PolicyBook(policies), frozenset(policy.jurisdiction for policy in policies) - unknown

    def at(self, time: int, *jurisdictions: str) -> list[PolicyBook]:
        """The books that may have been in force; none if these jurisdictions' policies of that time are not known."""
        counts = [sum(at <= limit for at, _, _ in self._published) for limit in (time - LAG_MS, time)]
        books = [self._book(count) for count in range(counts[0], counts[1] + 1)]
        return [book for book, known in books if known.issuperset(jurisdictions)]


# --- one submission ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """What does not change from row to row."""

    registry: Registry
    books: Books
    skipped: Counter[str] = field(default_factory=Counter)
    """What could not be checked, by why not."""

    def changed_since(self, at: int) -> bool:
        """Whether the region's files may have been others at that time: a serial is the time of their last change."""
        return self.registry.region.serial > at * 1_000_000


@dataclass(slots=True)
class Around:
    """What the ledger holds about a page of submissions."""

    reports: dict[str, Any] = field(default_factory=dict)
    """By digest."""
    of_submission: dict[int, list[Any]] = field(default_factory=dict)
    exceptions: dict[str, list[Any]] = field(default_factory=dict)
    """By the submission's digest."""
    earlier: dict[bytes, list[Any]] = field(default_factory=dict)
    """All revisions, by report id."""
    sent: dict[tuple[int, str], list[tuple[int, int, int]]] = field(default_factory=dict)
    """(delivery, exact, coarse) by report and member."""
    identifiers: dict[int, set[int]] = field(default_factory=dict)
    """Keys by report."""


def deliveries_by_report(rows: Iterable[Any]) -> dict[tuple[int, str], list[tuple[int, int, int]]]:
    """(delivery, exact, coarse) by report and member; what does not decode is left out."""
    found: dict[tuple[int, str], list[tuple[int, int, int]]] = {}
    for row in rows:
        try:
            entries = unpack_entries(row.items)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        for seq, exact, coarse in entries:
            found.setdefault((seq, row.member), []).append((row.id, exact, coarse))
    return found


def open_receipt(row: Any, registry: Registry) -> tuple[Receipt | None, list[Finding]]:
    """The receipt of a submission's row, and what does not hold between the two.

    Args:
        row: id, digest, member, received_at, entry, receipt, refusal.
    """
    try:
        jws = bytes(row.receipt).decode("ascii")
        receipt = open_statement(jws, Receipt, registry.keys.find, from_milliseconds(row.received_at))
        entry = commit(receipt, jws).entry
    except UnicodeDecodeError:
        return None, [Finding("submissions", str(row.id), UNREADABLE, "the receipt is not ASCII")]
    except ProtocolError as exc:
        return None, [refused("submissions", row.id, exc, "receipt")]
    reason = receipt.refusal.reason if receipt.refusal else None
    pairs: list[tuple[str, object, object]] = [
        ("member", row.member, receipt.aud),
        ("received_at", row.received_at, milliseconds(receipt.received_at)),
        ("id", row.id - 1, receipt.leaf),
        ("entry", bytes(row.entry), entry),
        ("refusal", row.refusal, reason),
    ]
    if reason is None:
        pairs.append(("digest", row.digest, receipt.submission))
    return receipt, differences("submissions", row.id, pairs)


def check_submission(row: Any, around: Around, scene: Scene) -> Iterator[Finding]:
    """Everything about one submission.

    Args:
        row: of the table `submissions`.
        around: what else the ledger holds about it.
    """
    receipt, found = open_receipt(row, scene.registry)
    yield from found
    if receipt is None:
        return
    if row.refusal is not None:
        if row.message:
            yield Finding("submissions", str(row.id), WRONG_STATE, "refused, and its message is kept")
        named: set[str] = set()
        boxes: dict[str, SealedBox] = {}
    else:
        try:
            sd_jwt, parts = split_submission(row.message)
            envelope = open_envelope(sd_jwt, scene.registry.keys.find, from_milliseconds(row.received_at))
            boxes = read_boxes(parts)
        except ProtocolError as exc:
            yield refused("submissions", row.id, exc, "message")
            return
        yield from _check_envelope(row, receipt, envelope, boxes)
        signed = {report.digest: report for report in envelope.reports}
        named = {said.digest for said in receipt.reports if said.outcome == "accepted"}
        for said in receipt.reports:
            report = signed.get(said.digest)
            if report is not None:
                yield from _check_report(row, receipt, said, report, boxes, around, scene)
    for other in around.of_submission.get(row.id, ()):
        if other.digest not in named:
            yield Finding("reports", str(other.seq), ORPHAN, f"submission {row.id} holds no such accepted report")
    yield from _check_exceptions(row, receipt, around)


def _check_envelope(
    row: Any, receipt: Receipt, envelope: Envelope, boxes: Mapping[str, SealedBox]
) -> Iterator[Finding]:
    yield from differences(
        "submissions",
        row.id,
        [
            ("member", row.member, envelope.issuer),
            ("digest", row.digest, envelope.digest),
            ("receipt", [said.digest for said in receipt.reports], [report.digest for report in envelope.reports]),
        ],
    )
    headers = {report.header.sealed for report in envelope.reports if isinstance(report, SignedReport)}
    if not headers.issuperset(boxes):
        yield Finding("submissions", str(row.id), ORPHAN, "a box that no signed header names")


def _check_exceptions(row: Any, receipt: Receipt, around: Around) -> Iterator[Finding]:
    there = list(around.exceptions.get(row.digest, ()))
    for said in receipt.reports:
        if said.outcome == "accepted":
            continue
        same = [item for item in there if item.digest == said.digest]
        if not same:
            yield Finding("exceptions", said.digest, MISSING, f"submission {row.id} has it as {said.outcome}")
            continue
        there = [item for item in there if item not in same]
        if len(same) > 1:
            yield Finding("exceptions", str(same[-1].id), TWICE, f"submission {row.id} names it once")
        refusal = said.refusal or None
        yield from differences(
            "exceptions",
            same[0].id,
            [
                ("at", same[0].at, row.received_at),
                ("member", same[0].member, row.member),
                ("outcome", same[0].outcome, said.outcome),
                ("reason", same[0].reason, refusal.reason if refusal else None),
                ("path", same[0].path, refusal.path[:500] if refusal else None),
                ("report_id", same[0].report_id, said.report_id or None),
                ("revision", same[0].revision, said.revision or None),
            ],
        )
        if said.duplicate_of and said.duplicate_of not in around.reports:
            yield Finding("exceptions", str(same[0].id), MISSING, "the report that it repeats")
    for item in there:
        yield Finding("exceptions", str(item.id), ORPHAN, f"submission {row.id} has no such refused report")


# --- one report -------------------------------------------------------------------------------------------------


def _check_report(
    row: Any,
    receipt: Receipt,
    said: ReportReceipt,
    report: SignedReport | RefusedReport,
    boxes: Mapping[str, SealedBox],
    around: Around,
    scene: Scene,
) -> Iterator[Finding]:
    if said.outcome != "accepted":
        return
    if isinstance(report, RefusedReport):
        yield refused("submissions", row.id, report.error, "an accepted report:")
        return
    there = around.reports.get(said.digest)
    if there is None:
        yield Finding("reports", said.digest, MISSING, f"submission {row.id} was told that it is accepted")
        return
    header = report.header
    yield from differences(
        "submissions",
        row.id,
        [
            ("receipt", said.report_id, str(header.report_id)),
            ("receipt", said.revision, header.revision),
        ],
    )
    yield from _check_columns(row, there, report)
    decisions = {name: receipt.decisions[index] for name, index in said.to.items()}
    granted = {name: decision for name, decision in decisions.items() if decision.granted}
    yield from _check_masks(there, report, granted)
    if header.phase == "withdrawn":
        yield from _check_withdrawal(there, decisions, around)
    else:
        yield from _check_grants(there, header, granted, scene)
        yield from _check_box(there, header, granted, boxes)
    yield from _check_erased(there, report, boxes, around)
    yield from _check_sent(there, granted, around, scene)
    keys = set() if there.erased_at is not None else {item.key for item in identifiers_of(report)}
    if keys != around.identifiers.get(there.seq, set()):
        yield Finding("identifiers", str(there.seq), DIFFERS, "not those of the report")


def _check_columns(row: Any, there: Any, report: SignedReport) -> list[Finding]:
    header = report.header
    expires = expiry_of(header)
    pairs: list[tuple[str, object, object]] = [
        ("submission", there.submission, row.id),
        ("origin", there.origin, row.member),
        ("report_id", bytes(there.report_id), header.report_id.bytes),
        ("revision", there.revision, header.revision),
        ("incident_id", bytes(there.incident_id), header.incident_id.bytes),
        ("fingerprint", there.fingerprint, header.fingerprint),
        ("phase", there.phase, header.phase),
        ("rsit", there.rsit, header.rsit[0].class_),
        ("received_at", there.received_at, row.received_at),
        ("expires_at", there.expires_at, milliseconds(expires) if expires else None),
    ]
    if there.erased_at is None:
        pairs.append(("happened_at", there.happened_at, milliseconds(happened_at(report))))
    return differences("reports", there.seq, pairs)


def _check_masks(there: Any, report: SignedReport, granted: Mapping[str, Decision]) -> Iterator[Finding]:
    """The grants of the row are those of the receipt, as far as the report has the units."""
    grants = unpacked(there.grants)
    if grants is None:
        yield Finding("reports", str(there.seq), UNREADABLE, "grants")
        return
    exact, coarse = report.units()
    held = (exact | HEADER, coarse)
    told = {name: (decision.exact, decision.coarse) for name, decision in granted.items()}
    if there.erased_at is None:
        same = {name: (mask[0] & held[0], mask[1] & held[1]) for name, mask in grants.items()} == told
    else:
        # Which units it had is not known any more: what was told must be among what was granted.
        same = grants.keys() == told.keys() and not any(
            told[name][0] & ~mask[0] or told[name][1] & ~mask[1] for name, mask in grants.items()
        )
    if not same:
        yield Finding("reports", str(there.seq), DIFFERS, "grants are not those of the receipt")


def _check_withdrawal(there: Any, decisions: Mapping[str, Decision], around: Around) -> Iterator[Finding]:
    """It goes to everyone who was granted an earlier revision, header only, and to nobody else."""
    had: set[str] = set()
    for earlier in around.earlier.get(bytes(there.report_id), ()):
        if earlier.seq < there.seq:
            had.update(unpacked(earlier.grants) or ())
    for name, decision in decisions.items():
        if not decision.granted and name in had:
            yield Finding("reports", str(there.seq), MISSING, f"the withdrawal does not reach {name}, which has it")
        elif decision.granted and (name not in had or (decision.exact, decision.coarse) != (HEADER, 0)):
            yield Finding("reports", str(there.seq), _TOO_MUCH, f"of a withdrawal, to {name}")


def _check_grants(there: Any, header: Header, granted: Mapping[str, Decision], scene: Scene) -> Iterator[Finding]:
    """No grant goes beyond the marking, nor beyond the policies of that time."""
    facts = facts_of(header)
    registry = scene.registry
    at = from_milliseconds(there.received_at)
    for name, decision in granted.items():
        member = registry.members.get(name)
        if name == there.origin:
            yield Finding("reports", str(there.seq), Reason.OWN_REPORT.value, "granted to its own origin")
            continue
        if member is None:
            scene.skipped["grants to members that are no longer in the region"] += 1
            continue
        if not registry.meet(there.origin, name) and not scene.changed_since(there.received_at):
            yield Finding("reports", str(there.seq), _TOO_MUCH, f"to {name}, which does not meet {there.origin}")
            continue
        books = scene.books.at(there.received_at, facts.origin, member.jurisdiction)
        # Whether it was active then is not kept; that suspended members get nothing is for the receipt to say.
        recipient = Recipient(member.jurisdiction)
        outcomes = [evaluate(facts, recipient, book, at, registry.circles) for book in books or [_NOBODY]]
        marking = outcomes[0].gates[0]
        if not marking.exact & HEADER:
            if marking.reason in _GROUPS and scene.changed_since(there.received_at):
                scene.skipped["grants within sharing groups, since the region's files changed later"] += 1
            else:
                yield Finding("reports", str(there.seq), _TOO_MUCH, f"to {name}: {marking.reason.value}")
        elif not books:
            scene.skipped["grants under policies that are not in the ledger"] += 1
        elif all(decision.exact & ~found.exact or decision.coarse & ~found.coarse for found in outcomes):
            if registry.circles.agreements and scene.changed_since(there.received_at):
                scene.skipped["grants by policies that may ask for agreements, since the region's files changed"] += 1
            else:
                yield Finding("reports", str(there.seq), _TOO_MUCH, f"to {name}: beyond the published policies")


_NOBODY: Final = PolicyBook(())


def _check_box(
    there: Any, header: Header, granted: Mapping[str, Decision], boxes: Mapping[str, SealedBox]
) -> Iterator[Finding]:
    """A sealed report goes to those to whom it is sealed; the ledger grants them the header, the box the rest."""
    if not header.sealed:
        return
    if any((decision.exact, decision.coarse) != (HEADER, 0) for decision in granted.values()):
        yield Finding("reports", str(there.seq), _TOO_MUCH, "of a sealed report, more than its header")
    box = boxes.get(header.sealed)
    if there.erased_at is not None:
        return
    if box is None:
        yield Finding("reports", str(there.seq), Reason.SEAL_BROKEN.value, "its box is not there")
    elif not set(box.members()).issuperset(granted):
        yield Finding("reports", str(there.seq), _TOO_MUCH, "to members to whom it is not sealed")


def _check_erased(
    there: Any, report: SignedReport, boxes: Mapping[str, SealedBox], around: Around
) -> Iterator[Finding]:
    """Content is gone if, and only if, the report was withdrawn or has expired."""
    withdrawn = there.phase != "withdrawn" and any(
        other.phase == "withdrawn" and other.revision > there.revision
        for other in around.earlier.get(bytes(there.report_id), ())
    )
    if there.erased_at is None:
        if withdrawn:
            yield Finding("reports", str(there.seq), WRONG_STATE, "withdrawn, and its content is still here")
        return
    if report.disclosures or report.containers or report.header.sealed in boxes:
        yield Finding("reports", str(there.seq), WRONG_STATE, "erased, and its content is still here")
    expired = there.expires_at is not None and there.expires_at <= there.erased_at
    if not withdrawn and not expired:
        yield Finding("reports", str(there.seq), WRONG_STATE, "erased, though neither withdrawn nor expired")


def _check_sent(there: Any, granted: Mapping[str, Decision], around: Around, scene: Scene) -> Iterator[Finding]:
    """Whoever was granted a report and has a node has it in one delivery, as it was granted."""
    for name, decision in granted.items():
        sent = around.sent.get((there.seq, name), [])
        member = scene.registry.members.get(name)
        if not sent:
            if member is not None and "recipient" in member.roles and "coordinator" not in member.roles:
                yield Finding("deliveries", str(there.seq), MISSING, f"report {there.seq} was granted to {name}")
            continue
        if len(sent) > 1:
            yield Finding("deliveries", str(sent[1][0]), TWICE, f"report {there.seq} is in {sent[0][0]} too")
        if sent[0][1:] != (decision.exact, decision.coarse):
            yield Finding("deliveries", str(sent[0][0]), DIFFERS, f"items: report {there.seq} as it was not granted")
