"""Reports to try policies on: filings, what a node's API exports, or the demonstration's incidents.

A file holds one JSON document, a JSON array, or one document a line. Each is a filing; or an own report as the node's
API shows it, whose revisions are taken; or a report with its header, of which the origin and the time are taken too.
Refuses, as ConfigError with the place and the path of the fault: everything that is no valid filing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigError, ProtocolError
from protocol.parse import convert
from protocol.report import UNITS, Filing

_FILED: Final = frozenset(Filing.__struct_fields__)


@dataclass(frozen=True, slots=True)
class Filed:
    """A report to try, its origin, and when it was filed or happened, as far as it says."""

    name: str
    origin: str
    filing: Filing
    at: datetime | None = None


def _instant(value: Any, place: str) -> datetime | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError as exc:
        raise ConfigError(f"{place}: {value!r:.40} is no time") from exc
    if found.tzinfo is None:
        raise ConfigError(f"{place}: {value!r:.40} has no time zone")
    return found


def _happened(filing: Filing) -> datetime | None:
    times = filing.body.times or None
    points = (times.detected, times.occurred) if times else ()
    return next((point.value for point in points if point), None)


def filing_of(value: Any, place: str) -> Filing:
    """A valid filing. ConfigError with the place and the path of the fault."""
    try:
        return convert(value, Filing)
    except ProtocolError as exc:
        raise ConfigError(f"{place}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc


def _one(value: Any, place: str, origin: str | None) -> Iterator[Filed]:
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: a report is a JSON object")
    if isinstance(value.get("revisions"), list):
        for number, revision in enumerate(value["revisions"], 1):
            yield from _one(revision, f"{place} revision {number}", origin)
        return
    at = _instant(value.get("filed_at", value.get("issued_at")), place)
    if "report" in value:
        value = value["report"]
        if not isinstance(value, dict):
            raise ConfigError(f"{place}: `report` is a JSON object")
    if "schema" in value:
        # A report with its header. What is known of its body may hold coarse stand-ins, which no filing has.
        own = value.get("origin")
        origin = own.get("jurisdiction", origin) if isinstance(own, dict) else origin
        body = value.get("body")
        body = {name: part for name, part in body.items() if name in UNITS} if isinstance(body, dict) else {}
        value = {name: part for name, part in value.items() if name in _FILED} | {"body": body}
    if origin is None:
        raise ConfigError(f"{place}: a filing does not say whose it is: give --origin")
    filing = filing_of(value, place)
    yield Filed(place, origin, filing, at or _happened(filing))


def parse(text: str, name: str, origin: str | None) -> list[Filed]:
    """The reports in a text: JSON, a JSON array, or a document a line."""
    try:
        document = json.loads(text)
    except ValueError:
        return [report for line in _lines(text, name) for report in _one(*line, origin)]
    if isinstance(document, list):
        return [report for n, value in enumerate(document) for report in _one(value, f"{name}[{n}]", origin)]
    return list(_one(document, name, origin))


def _lines(text: str, name: str) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line), f"{name}:{number}"
            except ValueError as exc:
                raise ConfigError(f"{name}:{number}: neither JSON nor one JSON document a line") from exc


def read(paths: Iterable[Path], origin: str | None) -> list[Filed]:
    """The reports in files. ConfigError names the file and what is wrong with it."""
    found: list[Filed] = []
    for path in paths:
        try:
            found += parse(path.read_text("utf-8"), path.name, origin)
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: cannot be read as text") from exc
    return found


def demo() -> list[Filed]:
    """The demonstration's filings: real, publicly documented incidents."""
    from deploy.demo import scenario  # noqa: PLC0415 - only when it is asked for

    built = scenario.build()
    found = []
    for post in (*built.first, *built.revisions):
        filing = filing_of(post.filing, post.incident)
        found.append(Filed(post.incident, post.member, filing, _happened(filing)))
    return found


def since(reports: Iterable[Filed], days: float | None, now: datetime) -> list[Filed]:
    """Those of the last days; one that does not say when it was is kept."""
    if days is None:
        return list(reports)
    start = now - timedelta(days=days)
    return [report for report in reports if report.at is None or report.at >= start]
