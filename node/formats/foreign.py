"""The one shape that all formats are read into, and the one that all are written from.

Pure. A reader raises `ProtocolError` if the document as a whole is not of its format, and answers for each incident in
it, in order, with a `Foreign` or with a `ProtocolError` whose path is that of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from protocol.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class Foreign:
    """One incident of a foreign document.

    Attributes:
        at: JSON path of the incident in the document.
        source_id: how the source names it, the same at every export; empty if it does not.
        filing: a `protocol.report.Filing` as JSON values, not validated yet; never has ids or a revision.
        unmapped: path in the document -> value, of all that has no place in the filing, or less precision there.
        raw: the incident as it was sent, where that is one piece of the document; else what stands at its path.
        stated: when this version of the incident was made, as the source says it; anything, unread.
    """

    at: str
    source_id: str
    filing: dict[str, Any]
    unmapped: dict[str, Any] = field(default_factory=dict)
    raw: bytes = b""
    stated: Any = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What whoever posts says once about all that a document leaves open.

    Attributes:
        marking: a `Marking` as JSON values, used where the source has none; None: such an item is refused.
    """

    marking: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """One revision of a report as far as this node may show it.

    Attributes:
        header, body: as JSON values; the body may have coarse stand-ins (`victim_coarse`; elements `level: coarse`).
        withheld: names of the disclosure units that were withheld, wholly or but for a coarse stand-in.
        undisclosed: how many disclosures more the origin signed.
        at: when it was filed here, or received.
        own: whether it is this member's.
        dropped: indicators of earlier revisions that this one has taken back.
    """

    header: Mapping[str, Any]
    body: Mapping[str, Any]
    withheld: Sequence[str]
    undisclosed: int
    at: datetime
    own: bool
    dropped: Sequence[Mapping[str, Any]] = ()


Read = Callable[[bytes, Defaults], Sequence[Foreign | ProtocolError]]
Write = Callable[[Sequence[Shown]], bytes]
