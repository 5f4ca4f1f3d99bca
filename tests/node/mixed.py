"""Documents of other formats as tools send them, sound and broken, for tests; a format is added to `MAKERS`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Made(NamedTuple):
    """A POST: how many incidents it holds."""

    query: str
    content_type: str
    body: bytes
    incidents: int


def intelmq(numbers: Sequence[int], broken: bool) -> Made:
    """Events as NDJSON."""
    events: list[dict[str, Any]] = [
        {
            "classification.taxonomy": "malicious-code",
            "classification.type": "c2-server",
            "source.ip": f"203.0.113.{number % 250}",
            "time.source": "2026-05-04T06:00:00+00:00",
            "feed.name": "A feed",
            "event_hash": f"event-{number}",
            **({"source.ip": "no address"} if broken else {}),
        }
        for number in numbers
    ]
    body = b"\n".join(json.dumps(event).encode() for event in events)
    return Made("?format=intelmq&tlp=GREEN", "application/x-ndjson", body, len(events))


def table(numbers: Sequence[int], broken: bool) -> Made:
    """Rows."""
    tlp = "PURPLE" if broken else "AMBER"
    rows = [f'row-{number},{tlp},"Phishing, again",fraud/phishing,url=https://{number}.example/' for number in numbers]
    body = "\r\n".join(["source_id,tlp,title,rsit,indicators", *rows, ""]).encode()
    return Made("", "text/csv", body, len(rows))


def profile(numbers: Sequence[int], broken: bool) -> Made:
    """The project's own, as an array."""
    filings = [
        {
            "marking": {"tlp": "GREEN"},
            "rsit": [{"class": "fraud"}],
            "body": {"title": f"Report {number}", **({"nonsense": 1} if broken else {})},
        }
        for number in numbers
    ]
    return Made("", "application/json", json.dumps(filings).encode(), len(filings))


MAKERS: Mapping[str, Callable[[Sequence[int], bool], Made]] = {"profile": profile, "csv": table, "intelmq": intelmq}
