"""What the node answers, as types: the source of the schemas in `/openapi.json`.

The handlers build their answers from rows (`node/views.py`, `node/answers.py`); a test holds every answer of a real
node to these types, so that none has a field that is not declared here, or lacks one. Clients are told that fields may
be added: only the tests refuse what is not here.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from node.core import Word
from protocol import taxonomy as tx
from protocol.dryrun import Answer
from protocol.policy import Withheld
from protocol.report import (
    Body,
    Digest,
    Filing,
    GeoCoarse,
    Header,
    Instant,
    Jurisdiction,
    Line,
    Text,
    Times,
    VictimCoarse,
)
from protocol.statements import Refusal, ReleasedBy
from protocol.wording import Sentences

ReportId = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Revision = Annotated[int, Meta(ge=1, le=100_000)]
Number = Annotated[int, Meta(ge=0)]
OwnState = Literal["queued", "kept", "accepted", "duplicate", "rejected"]
ReceivedState = Literal["received", "read", "acting", "closed"]
RecipientState = Literal[
    "queued", "denied", "delivered", "stopped", "refused", "received", "read", "acting", "closed", "expired"
]


class Shown(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is answered."""


class Problem(Shown, frozen=True, kw_only=True):
    """A refusal (RFC 9457): `reason` is for programs and never changes its meaning, `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    reason: str
    path: str
    """JSON path of the fault in what was sent, `$` for the whole of it."""
    instance: str | UnsetType = UNSET


# --- filing -----------------------------------------------------------------------------------------------------


class Filed(Shown, frozen=True, kw_only=True):
    """One report that is signed and on disk."""

    report_id: ReportId
    incident_id: ReportId
    revision: Revision
    digest: Digest
    state: Literal["queued", "kept"]
    """`kept`: the own policy lets nobody have it."""
    status: str
    """Address under which stands what became of it."""


class HeldFiling(Shown, frozen=True, kw_only=True):
    """One report that is on disk and waits for a person; nothing of it is signed or sent."""

    review: Number
    """Its number in the review queue."""
    state: Literal["held"]
    status: str
    """Address under which stands what was decided."""


class Place(Shown, frozen=True, kw_only=True):
    """Where an item stands in a document of another format."""

    at: str
    source_id: str
    """Its own id there; empty if it has none."""
    unmapped: list[str]
    """Paths of what the report has no field for; it travels in the report's `source`."""


class FiledItem(Shown, frozen=True, kw_only=True):
    """An item of several that is signed and on disk."""

    index: Number
    report_id: ReportId
    incident_id: ReportId
    revision: Revision
    digest: Digest
    state: Literal["queued", "kept"]
    status: Literal[202]
    location: str
    source: Place | UnsetType = UNSET


class HeldItem(Shown, frozen=True, kw_only=True):
    """An item of several that is on disk and waits for a person."""

    index: Number
    review: Number
    state: Literal["held"]
    status: Literal[202]
    location: str
    source: Place | UnsetType = UNSET


class RefusedItem(Shown, frozen=True, kw_only=True):
    """An item of several that was refused; the others are not touched by it."""

    index: Number
    status: Annotated[int, Meta(ge=400, le=499)]
    reason: str
    path: str
    detail: str
    source: Place | UnsetType = UNSET


_EITHER: Final[dict[str, Any]] = {
    "items": {
        "oneOf": [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in (FiledItem, HeldItem, RefusedItem)]
    }
}


class FiledMany(Shown, frozen=True, kw_only=True):
    """One result an item, in order."""

    accepted: Number
    refused: Number
    results: Annotated[list[Any], Meta(extra_json_schema=_EITHER)]


class SubmissionItem(Shown, frozen=True, kw_only=True):
    """How far one item of a POST is."""

    index: Number
    outcome: Literal["pending", "success", "failure"]
    state: OwnState | Literal["held", "released", "refused", "gone"]
    """Of the report; or of its entry in the review queue; or `refused`, with the reason."""
    report_id: ReportId | UnsetType = UNSET
    revision: Revision | UnsetType = UNSET
    digest: Digest | UnsetType = UNSET
    review: Number | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    path: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class SubmissionView(Shown, frozen=True, kw_only=True):
    """What became of a POST of several reports so far."""

    id: str
    posted_at: Instant
    status: Literal["pending", "complete"]
    total: Number
    pending: Number
    success: Number
    failure: Number
    items: list[SubmissionItem]


# --- own reports ------------------------------------------------------------------------------------------------


class OwnLine(Shown, frozen=True, kw_only=True):
    """One own revision in a list."""

    seq: Number
    report_id: ReportId
    revision: Revision
    incident_id: ReportId
    digest: Digest
    filed_at: Instant
    state: OwnState
    refusal: Refusal | UnsetType = UNSET
    duplicate_of: Digest | UnsetType = UNSET


class OwnPage(Shown, frozen=True, kw_only=True):
    reports: list[OwnLine]
    next: Number
    """Ask for the following page with `after` of this number."""


class Proof(Shown, frozen=True, kw_only=True):
    """Where the receipt stands in the broker's log, and which members witnessed it."""

    state: Literal["waiting", "proven", "missing"]
    leaf: Number | UnsetType = UNSET
    entry: str | UnsetType = UNSET
    size: Number | UnsetType = UNSET
    witnesses: list[str] | UnsetType = UNSET
    at: Instant | UnsetType = UNSET


class Confirmed(Shown, frozen=True, kw_only=True):
    state: str
    at: Instant
    refusal: Refusal | UnsetType = UNSET


class RecipientView(Shown, frozen=True, kw_only=True):
    """What one member got, by which rules, what it did not get and why, and what it confirmed."""

    state: RecipientState
    granted: bool | UnsetType = UNSET
    by: list[ReleasedBy] | UnsetType = UNSET
    withheld: list[Withheld] | UnsetType = UNSET
    confirmations: list[Confirmed] | UnsetType = UNSET


class LinkView(Shown, frozen=True, kw_only=True):
    """A report of another member that speaks of the same thing."""

    report_id: ReportId
    digest: Digest
    origin: Jurisdiction
    strength: Literal["strong", "weak"]
    on: dict[str, Number]
    at: Instant


class OwnRevision(Shown, frozen=True, kw_only=True):
    seq: Number
    report_id: ReportId
    revision: Revision
    incident_id: ReportId
    digest: Digest
    filed_at: Instant
    state: OwnState
    refusal: Refusal | UnsetType = UNSET
    duplicate_of: Digest | UnsetType = UNSET
    submission: Digest
    report: Filing
    held_back: list[Withheld]
    """What never left this node, or left only in its coarser form."""
    proof: Proof | None
    recipients: dict[str, RecipientView]
    still_held_by: list[str] | UnsetType = UNSET


class OwnReport(Shown, frozen=True, kw_only=True):
    report_id: ReportId
    incident_id: ReportId
    state: OwnState
    revisions: list[OwnRevision]
    links: list[LinkView]


# --- others' reports --------------------------------------------------------------------------------------------


class ReceivedBody(Body, frozen=True, kw_only=True):
    """What was disclosed here; a field ending in `_coarse` (those of `CoarseBody`) stands in for a withheld one."""

    title_coarse: Line | UnsetType = UNSET
    description_coarse: Text | UnsetType = UNSET
    times_coarse: Times | UnsetType = UNSET
    entity_counts_coarse: dict[tx.EntityKind, Line] | UnsetType = UNSET
    victim_coarse: VictimCoarse | UnsetType = UNSET
    geo_coarse: GeoCoarse | UnsetType = UNSET


class ReceivedReport(Header, frozen=True, kw_only=True):
    body: ReceivedBody


class OriginView(Shown, frozen=True, kw_only=True):
    member: Jurisdiction
    jurisdiction: Jurisdiction


class InboxLine(Shown, frozen=True, kw_only=True):
    """One revision of another member's report, as far as it is disclosed here."""

    seq: Number
    digest: Digest
    report_id: ReportId
    revision: Revision
    incident_id: ReportId
    origin: OriginView
    received_at: Instant
    broker_received_at: Instant
    state: ReceivedState
    state_at: Instant
    withdrawn: bool
    expired: bool
    undisclosed: Number
    """How many of its signed parts are not here."""
    withheld: list[Withheld]
    report: ReceivedReport | None
    """null once it was withdrawn or has expired."""


class InboxPage(Shown, frozen=True, kw_only=True):
    reports: list[InboxLine]
    next: Number


class InboxRevision(InboxLine, frozen=True, kw_only=True):
    proof: Proof
    sd_jwt: str
    """The origin's signed bytes; empty once they were erased."""


class RefusedView(Shown, frozen=True, kw_only=True):
    """Something that this node did not take."""

    digest: Digest
    revision: Revision | None
    origin: str
    at: Instant
    refusal: Refusal


class InboxReport(Shown, frozen=True, kw_only=True):
    report_id: ReportId
    revisions: list[InboxRevision]
    refused: list[RefusedView]
    links: list[LinkView]


class Said(Shown, frozen=True, kw_only=True):
    """The own word, as the origin will read it."""

    report_id: ReportId
    revision: Revision
    digest: Digest
    state: Word
    at: Instant


# --- policy -----------------------------------------------------------------------------------------------------


class Explained(Answer, frozen=True, kw_only=True):
    says: Sentences


class Explanation(Shown, frozen=True, kw_only=True):
    """Who would get what, by which rules, in units and in sentences."""

    origin: Jurisdiction
    language: str
    at: Instant
    recipients: list[Explained]


# --- operating --------------------------------------------------------------------------------------------------


class AlarmView(Shown, frozen=True, kw_only=True):
    id: Number
    about: str
    reason: str
    first_at: Instant
    last_at: Instant
    count: Number
    facts: dict[str, Any]
    cleared_at: Instant | UnsetType = UNSET
    cleared_by: str | UnsetType = UNSET


class AlarmPage(Shown, frozen=True, kw_only=True):
    alarms: list[AlarmView]
    open: Number
    next: Number


class BacklogView(Shown, frozen=True, kw_only=True):
    """What waits for the broker's word."""

    submissions: Number
    reports: Number
    oldest_seconds: float | None
    confirmations: Number
    held: Number
    """Reports that wait for a person."""


class Standing(Shown, frozen=True, kw_only=True):
    size: Number
    at: Instant | UnsetType = UNSET


class Published(Shown, frozen=True, kw_only=True):
    size: Number
    at: Instant | UnsetType = UNSET
    witnesses: list[str]
    quorum: Number


class LogView(Shown, frozen=True, kw_only=True):
    """The broker's log as this node, its witness, knows it."""

    origin: str
    verified: Standing
    published: Published
    lag: int
    leaves: dict[str, Number]
    alarms: dict[str, Number]


class Health(Shown, frozen=True, kw_only=True):
    status: Literal["ok"]


class RegionView(Shown, frozen=True, kw_only=True):
    name: str
    serial: Number


class Ready(Shown, frozen=True, kw_only=True):
    ready: bool
    link: str
    region: RegionView
    region_issued_at: Instant
    member: str
    policy: str
    backlog: Number
    alarms_open: Number
    keys_end: dict[str, Instant]
    """When the keys that end do so, by what they are for."""
