"""Which report and revision a filing is: a new one, the next revision of one, or one that is there already.

Guarantees "twice is once": equal content under the same identity, or without an identity, is a `Replay`, never a second
report. Refuses to overwrite a revision, to leave a gap, and to take ids that other members' reports use. Pure: what is
known already is in the `Shelf`.
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


@dataclass(slots=True)
class Shelf:
    """What is known about the ids and contents that a batch names."""

    by_report: dict[str, list[Known]] = field(default_factory=dict)
    """Revisions in order."""
    by_content: dict[str, list[Known]] = field(default_factory=dict)
    foreign_reports: Set[str] = frozenset()
    foreign_incidents: Set[str] = frozenset()

    def add(self, known: Known) -> None:
        """Remember one more revision."""
        self.by_report.setdefault(known.report_id, []).append(known)
        self.by_content.setdefault(known.content_hash, []).append(known)

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


def decide(draft: Draft, shelf: Shelf, client: Client = ANYBODY) -> Known | Fresh:
    """Find out what a filing is: `Known` if it is there already.

    Args:
        client: who files; a report that it must not read, it must not change either, nor learn of.

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
    if same is not None:
        _check_incident(incident, same)
        return same
    previous = revisions[-1] if revisions else None
    revision = _next_revision(draft, previous)
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
    for known in revisions:
        if stated is UNSET:
            if known.content_hash == draft.content_hash:
                return known
        elif known.revision == stated:
            if known.content_hash == draft.content_hash:
                return known
            raise ProtocolError(
                Reason.REVISION_CONFLICT,
                "$.revision",
                f"revision {stated} exists with other content: the next one is {revisions[-1].revision + 1}",
            )
    return _same(draft.update, revisions) if draft.update is not None else None


def _next_revision(draft: Draft, previous: Known | None) -> int:
    expected = previous.revision + 1 if previous else 1
    stated = draft.filing.revision
    if stated is UNSET:
        if previous is not None and draft.update is None:
            raise ProtocolError(
                Reason.REVISION_CONFLICT,
                "$.revision",
                f"this report exists with other content: to update it, send revision {expected}",
            )
    elif stated != expected:
        raise ProtocolError(Reason.REVISION_GAP, "$.revision", f"the next revision of this report is {expected}")
    return expected


def _check_incident(incident: str | None, known: Known) -> None:
    if incident not in (None, known.incident_id):
        raise ProtocolError(
            Reason.REVISION_CONFLICT, "$.incident_id", "all revisions of a report are of the same incident"
        )
