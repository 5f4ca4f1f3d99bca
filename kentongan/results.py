"""What a node answers, as types. Fields that a later node adds are ignored; what is left out has its default."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct


class Problem(Exception):  # noqa: N818 - the name that RFC 9457 has for it
    """The node refused a request.

    Attributes:
        status: the HTTP status.
        reason: the reason code, which never changes its meaning; empty if something else than a node answered.
        path: JSON path of the fault in what was sent, `$` for the whole of it.
        detail: one sentence for a person.
        retry_after: seconds after which to try again; None if that was not said.
    """

    def __init__(
        self, status: int, reason: str = "", path: str = "$", detail: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(f"{status} {reason or 'no reason code'} at {path}: {detail}")
        self.status = status
        self.reason = reason
        self.path = path
        self.detail = detail
        self.retry_after = retry_after


class Unreachable(Exception):  # noqa: N818 - a condition, not a fault of the caller
    """Nobody answered for as long as the client is patient. What was posted may have been taken: post it again."""


class Never(Exception):  # noqa: N818 - says what will not come
    """What was waited for will not happen any more: refused, denied, kept, stopped or expired.

    Attributes:
        status: the report's status, which says why.
    """

    def __init__(self, text: str, status: Status) -> None:
        super().__init__(text)
        self.status = status


class _Shown(Struct, frozen=True, kw_only=True):
    pass


class Source(_Shown, frozen=True, kw_only=True):
    at: str = "$"
    source_id: str = ""
    unmapped: list[str] = []
    """Paths of what the report has no field for."""


class Outcome(_Shown, frozen=True, kw_only=True):
    """What became of one report that was posted; `index` counts from 0 in the order of posting."""

    index: int = 0
    status: int = 202
    report_id: str = ""
    incident_id: str = ""
    revision: int = 0
    digest: str = ""
    state: str = ""
    """`queued`, or `kept` if the own policy lets nobody have it, or `held` until a person releases it."""
    review: int = 0
    """Of a held one, which has no ids yet, its number in the review queue."""
    location: str = ""
    reason: str = ""
    path: str = ""
    """Of the fault, within this report."""
    detail: str = ""
    source: Source | None = None
    """Where it stands in a document of another format."""

    @property
    def accepted(self) -> bool:
        """Whether it is on disk: signed, or held until a person releases it."""
        return self.status == 202


class Refusal(_Shown, frozen=True, kw_only=True):
    reason: str
    path: str = "$"
    detail: str = ""


class Confirmed(_Shown, frozen=True, kw_only=True):
    state: str
    at: datetime
    refusal: Refusal | None = None


class Recipient(_Shown, frozen=True, kw_only=True):
    """What one member got, and what it said."""

    state: str
    granted: bool | None = None
    by: list[dict[str, Any]] = []
    withheld: list[dict[str, Any]] = []
    confirmations: list[Confirmed] = []


class Proof(_Shown, frozen=True, kw_only=True):
    """Where it stands in the broker's witnessed log."""

    state: str
    leaf: int | None = None
    size: int | None = None
    witnesses: list[str] = []
    at: datetime | None = None


class Revision(_Shown, frozen=True, kw_only=True):
    revision: int
    digest: str
    state: str
    filed_at: datetime
    report: dict[str, Any]
    recipients: dict[str, Recipient] = {}
    held_back: list[dict[str, Any]] = []
    proof: Proof | None = None
    refusal: Refusal | None = None
    still_held_by: list[str] = []


class Status(_Shown, frozen=True, kw_only=True):
    """All about an own report; the newest revision is the last."""

    report_id: str
    incident_id: str
    state: str
    revisions: list[Revision]
    links: list[dict[str, Any]] = []

    @property
    def newest(self) -> Revision:
        """The newest revision."""
        return self.revisions[-1]


class Own(_Shown, frozen=True, kw_only=True):
    """One own revision in the list of all."""

    seq: int
    report_id: str
    revision: int
    incident_id: str
    digest: str
    filed_at: datetime
    state: str
    refusal: Refusal | None = None


class OwnPage(_Shown, frozen=True, kw_only=True):
    reports: list[Own]
    next: int


class Origin(_Shown, frozen=True, kw_only=True):
    member: str
    jurisdiction: str


class Received(_Shown, frozen=True, kw_only=True):
    """One revision of another member's report; `report` is None once it was withdrawn or has expired."""

    seq: int
    digest: str
    report_id: str
    revision: int
    incident_id: str
    origin: Origin
    received_at: datetime
    state: str
    withdrawn: bool = False
    expired: bool = False
    undisclosed: int = 0
    withheld: list[dict[str, Any]] = []
    report: dict[str, Any] | None = None


class ReceivedPage(_Shown, frozen=True, kw_only=True):
    reports: list[Received]
    next: int


class Said(_Shown, frozen=True, kw_only=True):
    """The own word about another member's report."""

    report_id: str
    revision: int
    digest: str
    state: str
    at: datetime


class Sentences(_Shown, frozen=True, kw_only=True):
    headline: str
    lines: list[str]


class Explained(_Shown, frozen=True, kw_only=True):
    """What one recipient would get."""

    jurisdiction: str
    granted: bool
    says: Sentences
    exact: list[str] = []
    coarse: list[str] = []
    allowed_by: list[dict[str, Any]] = []
    withheld: list[dict[str, Any]] = []


class Explanation(_Shown, frozen=True, kw_only=True):
    origin: str
    language: str
    at: datetime
    recipients: list[Explained]


class Event(_Shown, frozen=True, kw_only=True):
    """Something that happened. `id` is where to go on after it; `data` has ids, states and reasons, never content."""

    id: int
    kind: str
    data: dict[str, Any]
