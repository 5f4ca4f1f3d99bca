"""What a policy can ask about: a report's header, and the circles that its origin and recipient are in.

Guarantees: facts hold nothing of a report's body, so that an answer can never give away what was withheld. Whether an
agreement is in force is decided at the time of the decision: from its end on it opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from msgspec import UNSET

from protocol.report import Header


@dataclass(frozen=True, slots=True)
class Facts:
    """What a policy can ask about a report: its header, nothing of its body."""

    origin: str
    tlp: str
    pap: str | None
    recipients: tuple[str, ...] | None
    sharing_group: str | None
    residency: tuple[str, ...] | None
    expires_at: datetime | None
    rsit: tuple[tuple[str, str | None], ...]
    sectors: tuple[str, ...]
    severity: int | None
    phase: str
    purpose: str
    made_by: str
    exercise: bool


def expiry_of(header: Header) -> datetime | None:
    """When nobody but its origin may hold the report's content any more; None if never. A withdrawal never ends."""
    if not header.handling or header.phase == "withdrawn":
        return None
    return header.handling.expires_at or None


def facts_of(header: Header) -> Facts:
    """The facts of a report."""
    marking = header.marking
    handling = header.handling or None
    return Facts(
        origin=header.origin.jurisdiction,
        tlp=marking.tlp,
        pap=marking.pap or None,
        recipients=tuple(marking.recipients) if marking.recipients is not UNSET else None,
        sharing_group=str(marking.sharing_group.id) if marking.sharing_group else None,
        residency=tuple(handling.residency) if handling and handling.residency is not UNSET else None,
        expires_at=expiry_of(header),
        rsit=tuple((item.class_, item.type or None) for item in header.rsit),
        sectors=tuple(item.code for item in header.sectors or ()),
        severity=header.severity.score if header.severity else None,
        phase=header.phase,
        purpose=header.purpose,
        made_by=header.made_by.kind if header.made_by else "person",
        exercise=header.exercise is not UNSET,
    )


@dataclass(frozen=True, slots=True)
class Recipient:
    """A member as a policy sees it."""

    jurisdiction: str
    active: bool = True
    receives: bool = True
    shown: bool = True
    """Whether it sees the report's origin, which may be hidden from it."""


@dataclass(frozen=True, slots=True)
class Pact:
    """An agreement between jurisdictions: its parties, and from when until when it holds."""

    parties: frozenset[str]
    begins: datetime
    ends: datetime | None = None

    def binds(self, one: str, other: str, now: datetime) -> bool:
        """Whether both are parties and it is in force."""
        if one not in self.parties or other not in self.parties:
            return False
        return self.begins <= now and (self.ends is None or now < self.ends)


@dataclass(frozen=True, slots=True)
class Circles:
    """The circles of jurisdictions that a region knows, by id: sharing groups and agreements."""

    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    agreements: Mapping[str, Pact] = field(default_factory=dict)

    def between(self, origin: str, recipient: str, now: datetime) -> frozenset[str]:
        """The agreements in force between two jurisdictions."""
        return frozenset(name for name, pact in self.agreements.items() if pact.binds(origin, recipient, now))

    def next_change(self, now: datetime) -> datetime | None:
        """When an answer of `between` changes next by the passing of time alone."""

        def times() -> Iterator[datetime]:
            for pact in self.agreements.values():
                yield pact.begins
                if pact.ends is not None:
                    yield pact.ends

        return min((time for time in times() if time > now), default=None)


NO_CIRCLES: Final = Circles()
