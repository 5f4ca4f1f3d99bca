"""Which report and revision a filing is: a new one, the next revision of one, or one that is there already.

Guarantees "twice is once": equal content under the same identity, or without an identity, is a `Replay`, never a second
report. Of a report that a client has from another tool, what the tool says counts: what it said last is a repetition,
whatever people have filed since; what it said before that is a change back, and the next revision. Refuses to overwrite
a revision, to leave a gap, to go behind what a source has said already, and to take ids that other members' reports
use. Pure: what is known already is in the `Shelf`.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from msgspec import UNSET

from node.intake import Draft
from protocol.access import ANYBODY, Client, allows
from protocol.errors import ProtocolError
from protocol.reasons import Reason


@dataclass(slots=True)
class Known:
    """A revision of an own report, on disk or earlier in the same batch."""

    report_id: str
    revision: int
    incident_id: str
    content_hash: str
    kept: bool = False
    tlp: str = ""
    client: str = ""
    """Who filed it; set for a new one."""
    digest: str = ""
    """Empty until it is signed."""
    error: ProtocolError | None = None
    """Set if it turned out that it cannot be signed."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a client posted last of a report that it has from another tool."""

    content_hash: str
    stated_at: int | None = None
    """The newest time that the source has stated."""


@dataclass(slots=True)
class Shelf:
    """What is known about the ids and contents that a batch names."""

    by_report: dict[str, list[Known]] = field(default_factory=dict)
    """Revisions in order."""
    by_content: dict[str, list[Known]] = field(default_factory=dict)
    said: dict[str, dict[str, Said]] = field(default_factory=dict)
    """By report and client."""
    foreign_reports: Set[str] = frozenset()
    foreign_incidents: Set[str] = frozenset()

    def add(self, known: Known) -> None:
        """Remember one more revision."""
        self.by_report.setdefault(known.report_id, []).append(known)
        self.by_content.setdefault(known.content_hash, []).append(known)

    def outdated(self, draft: Draft) -> bool:
        """Whether its source has stated a later time before."""
        said = self.said.get(str(draft.filing.report_id), {}).values()
        newest = max((item.stated_at for item in said if item.stated_at is not None), default=None)
        return draft.stated_at is not None and newest is not None and draft.stated_at < newest

    def hear(self, draft: Draft, client: Client) -> Said | None:
        """Take in what a source says; None if that is nothing new."""
        if draft.update is None or self.outdated(draft):
            return None
        by_client = self.said.setdefault(str(draft.filing.report_id), {})
        earlier = by_client.get(client.name)
        at = draft.stated_at if draft.stated_at is not None or earlier is None else earlier.stated_at
        heard = Said(draft.content_hash, at)
        if heard == earlier:
            return None
        by_client[client.name] = heard
        return heard

    def forget(self, known: Known) -> None:
        """Take back a revision that could not be signed."""
        self.by_report[known.report_id].remove(known)
        self.by_content[known.content_hash].remove(known)


@dataclass(frozen=True, slots=True)
class Fresh:
    """A revision to be made; None stands for an id to be drawn."""

    report_id: str | None
    revision: int
    incident_id: str | None
    previous: Known | None
    left: bool = False
    """Whether any earlier revision was sent to anybody."""


def decide(draft: Draft, shelf: Shelf, client: Client = ANYBODY, *, last: bool = True) -> Known | Fresh:
    """Find out what a filing is: `Known` if it is there already.

    Args:
        client: who files; a report that it must not read, it must not change either, nor learn of.
        last: nothing of the same report follows in the same POST; else the source does not stay at this.

    Raises:
        ProtocolError: it contradicts what is there; the detail says what to send instead.
    """
    filing = draft.filing
    incident = None if filing.incident_id is UNSET else str(filing.incident_id)
    if filing.report_id is UNSET:
        for known in shelf.by_content.get(draft.content_hash, ()):
            if incident in (None, known.incident_id) and filing.revision in (UNSET, known.revision):
                return known
        report_id, revisions = None, []
    else:
        report_id = str(filing.report_id)
        revisions = shelf.by_report.get(report_id, [])
        if not revisions and report_id in shelf.foreign_reports:
            raise ProtocolError(Reason.REPORT_ID_TAKEN, "$.report_id", "another member's report has this id")
        if not all(allows(client, known.tlp) for known in revisions):
            raise ProtocolError(Reason.REPORT_ID_TAKEN, "$.report_id", "another report has this id")
    same = _same(draft, revisions)
    if same is not None and not (last and same is not revisions[-1] and _changes_back(draft, shelf, client)):
        _check_incident(incident, same)
        return same
    previous = revisions[-1] if revisions else None
    revision = _next_revision(draft, previous, shelf)
    if previous is None and filing.phase == "withdrawn":
        raise ProtocolError(Reason.UNKNOWN_REPORT, "$.report_id", "only a report that was filed can be withdrawn")
    if previous is not None:
        _check_incident(incident, previous)
        incident = previous.incident_id
    elif incident is not None and incident in shelf.foreign_incidents:
        raise ProtocolError(Reason.INCIDENT_ID_TAKEN, "$.incident_id", "another member's incident has this id")
    return Fresh(report_id, revision, incident, previous, any(not known.kept for known in revisions))


def _same(draft: Draft, revisions: list[Known]) -> Known | None:
    """The revision that this filing repeats."""
    stated = draft.filing.revision
    hashes = {draft.content_hash, *([draft.update.content_hash] if draft.update is not None else [])}
    # The newest first: a source may have come back to what it said once.
    for known in reversed(revisions):
        if stated is UNSET:
            if known.content_hash in hashes:
                return known
        elif known.revision == stated:
            if known.content_hash == draft.content_hash:
                return known
            raise ProtocolError(
                Reason.REVISION_CONFLICT,
                "$.revision",
                f"revision {stated} exists with other content: the next one is {revisions[-1].revision + 1}",
            )
    return None


def _changes_back(draft: Draft, shelf: Shelf, client: Client) -> bool:
    """Whether a source says again what it said before what it said last."""
    said = shelf.said.get(str(draft.filing.report_id), {}).get(client.name)
    return said is not None and said.content_hash != draft.content_hash and not shelf.outdated(draft)


def _next_revision(draft: Draft, previous: Known | None, shelf: Shelf) -> int:
    expected = previous.revision + 1 if previous else 1
    stated = draft.filing.revision
    if stated is UNSET:
        if previous is not None and draft.update is None:
            raise ProtocolError(
                Reason.REVISION_CONFLICT,
                "$.revision",
                f"this report exists with other content: to update it, send revision {expected}",
            )
        if previous is not None and shelf.outdated(draft):
            raise ProtocolError(Reason.OUTDATED, "$", "its source has said something newer already, by its own times")
    elif stated != expected:
        raise ProtocolError(Reason.REVISION_GAP, "$.revision", f"the next revision of this report is {expected}")
    return expected


def _check_incident(incident: str | None, known: Known) -> None:
    if incident not in (None, known.incident_id):
        raise ProtocolError(
            Reason.REVISION_CONFLICT, "$.incident_id", "all revisions of a report are of the same incident"
        )
