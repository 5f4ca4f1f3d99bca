"""What a client posted, taken apart and judged item by item, before anything is stored.

Guarantees: every item is either a `Draft` (valid against the profile, known recipients, no times ahead of the clock,
not expired, within its size) or a `ProtocolError` with the path of the field; one bad item never takes others with it.
Refuses drill traffic: drills run on nodes of their own. Pure: the clock's reading and the region are arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from node import admission
from node.ids import content_hash, content_of
from protocol import limits
from protocol.access import ANYBODY, Client
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.report import Filing
from protocol.tracing import Trace

_filing: Final = msgspec.json.Decoder(Filing)
_items: Final = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Draft:
    """One acceptable filing."""

    filing: Filing
    content: bytes
    content_hash: str
    update: Draft | None = None
    """What it is filed as if its report is there already, with other content; None: then it is a conflict."""
    stated_at: int | None = None
    """When this version was made, as its source says; in microseconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an item stands in a document of another format, and what of it has no place in the profile."""

    at: str
    source_id: str = ""
    unmapped: tuple[str, ...] = ()


Item = Draft | ProtocolError


@dataclass(frozen=True, slots=True)
class Release:
    """A person's word that a filing of the review queue may go on."""

    number: int
    by: str


@dataclass(frozen=True, slots=True)
class Posting:
    """One POST: its items in order, and who asked under which idempotency key.

    Holds only what its client may file, marked as that client's, by construction.
    """

    items: tuple[Item, ...]
    many: bool
    """An array or NDJSON, answered with a list; else a single object."""
    client: Client = ANYBODY
    key: str = ""
    body_hash: str = ""
    places: tuple[Place, ...] = ()
    """Of each item, if they were read from a document of another format."""
    release: Release | None = None
    """Its only item was held until now."""
    trace: Trace | None = None
    """Of the request, if traces are on."""

    def __post_init__(self) -> None:
        items = tuple(
            _admit(item, self.client, f"$[{index}]" if self.many else "$") for index, item in enumerate(self.items)
        )
        object.__setattr__(self, "items", items)


def _admit(item: Item, client: Client, at: str) -> Item:
    if not isinstance(item, Draft):
        return item
    try:
        admission.check(item.filing, client, at)
    except ProtocolError as exc:
        return exc
    filing = admission.mark(item.filing, client)
    if filing is item.filing:
        return item
    content = content_of(filing)
    if len(content) > limits.REPORT:
        return ProtocolError(Reason.TOO_LARGE, at, f"a report has at most {limits.REPORT} bytes as JSON")
    marked = Draft(filing, content, content_hash(content), stated_at=item.stated_at)
    return marked if item.update is None else updating(marked)


def updating(draft: Draft) -> Draft:
    """The same, to be filed as the next revision if its report is there already with other content."""
    later = draft.filing
    if later.phase == "initial":
        later = msgspec.structs.replace(later, phase="intermediate")
    content = content_of(later)
    return replace(draft, update=Draft(later, content, content_hash(content)))


def split_body(body: bytes, *, ndjson: bool) -> tuple[list[bytes], bool]:
    """Cut a body into the JSON of its items; tells whether it was a list.

    Raises:
        ProtocolError: NOT_JSON, EMPTY or TOO_MANY, for the body as a whole.
    """
    if ndjson:
        parts, many = [line for line in body.split(b"\n") if line.strip()], True
    elif body.lstrip(b" \t\r\n")[:1] == b"[":
        parts, many = [bytes(raw) for raw in decode(_items, body)], True
    else:
        parts, many = [body] if body.strip() else [], False
    if not parts:
        raise ProtocolError(Reason.EMPTY, "$", "the request holds no report")
    if len(parts) > limits.REPORTS_PER_POST:
        raise ProtocolError(Reason.TOO_MANY, "$", f"a request holds at most {limits.REPORTS_PER_POST} reports")
    return parts, many


def read_body(body: bytes, *, ndjson: bool, jurisdictions: Set[str], now: datetime) -> tuple[tuple[Item, ...], bool]:
    """Take a body apart and judge its items; `ProtocolError` if the body as a whole is refused."""
    parts, many = split_body(body, ndjson=ndjson)
    items = (
        read_item(part, at=f"$[{index}]" if many else "$", jurisdictions=jurisdictions, now=now)
        for index, part in enumerate(parts)
    )
    return tuple(items), many


def read_item(data: bytes, *, at: str, jurisdictions: Set[str], now: datetime) -> Item:
    """Judge one item; its paths begin with `at`."""
    try:
        filing = decode(_filing, data, at)
        content = content_of(filing)
        _check(filing, content, jurisdictions, now)
    except ProtocolError as exc:
        if exc.path.startswith("$") and not exc.path.startswith(at):
            return ProtocolError(exc.reason, at + exc.path[1:], exc.detail)
        return exc
    return Draft(filing, content, content_hash(content))


def _check(filing: Filing, content: bytes, jurisdictions: Set[str], now: datetime) -> None:
    if len(content) > limits.REPORT:
        raise ProtocolError(Reason.TOO_LARGE, "$", f"a report has at most {limits.REPORT} bytes as JSON")
    if filing.exercise is not UNSET:
        raise ProtocolError(Reason.EXERCISE_MIXED, "$.exercise", "this is a live node: file drills at a drill node")
    if filing.marking.recipients:
        _check_known(filing.marking.recipients, "$.marking.recipients", jurisdictions)
    if filing.handling is not UNSET:
        if filing.handling.residency:
            _check_known(filing.handling.residency, "$.handling.residency", jurisdictions)
        if filing.handling.expires_at and filing.handling.expires_at <= now:
            raise ProtocolError(Reason.EXPIRED, "$.handling.expires_at", "the report has expired already")
    latest = now + limits.CLOCK_SKEW
    for path, time in _times(filing):
        if time and time > latest:
            raise ProtocolError(Reason.TIME_IN_FUTURE, path, "this time is ahead of the node's clock")


def _check_known(named: list[str], path: str, jurisdictions: Set[str]) -> None:
    for index, name in enumerate(named):
        if name not in jurisdictions:
            known = ", ".join(sorted(jurisdictions))
            raise ProtocolError(Reason.UNKNOWN_RECIPIENT, f"{path}[{index}]", f"the region has {known}")


def _times(filing: Filing) -> Iterator[tuple[str, datetime | UnsetType]]:
    """Every time that says when something happened, with its path."""
    body = filing.body
    if body.times:
        for name in body.times.__struct_fields__:
            point = getattr(body.times, name)
            if point is not UNSET:
                yield f"$.body.times.{name}.value", point.value
    for index, indicator in enumerate(body.indicators or ()):
        yield f"$.body.indicators[{index}].first_seen", indicator.first_seen
        yield f"$.body.indicators[{index}].last_seen", indicator.last_seen
    for index, action in enumerate(body.actions or ()):
        yield f"$.body.actions[{index}].at", action.at
