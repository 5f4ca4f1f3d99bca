"""Documents of other formats as tools send them, sound and broken, for tests; a format is added to `MAKERS`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from node.formats.registry import FORMATS
from tests.node.formats import samples


class Made(NamedTuple):
    """A POST: how many incidents it holds."""

    query: str
    content_type: str
    body: bytes
    incidents: int


Maker = Callable[[Sequence[int], bool], Made]

TLP_RED_MARK = "marking-definition--e828b379-4e03-4974-9ac4-e53a884c97c1"
_BROKEN: Mapping[str, dict[str, Any]] = {
    "ocsf": {"tlp": "RED"},
    "idmef": {"CreateTime": "2040-01-01T00:00:00+00:00"},
    "idea": {"TLP": "RED"},
}


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


def _json(name: str, documents: Any, incidents: int, tlp: str = "GREEN") -> Made:
    """Under the format's own content type."""
    return Made(f"?tlp={tlp}", FORMATS[name].media_types[0], json.dumps(documents).encode(), incidents)


def _uuid(number: int) -> str:
    return f"{number:08x}-1111-4111-8111-111111111111"


def stix(numbers: Sequence[int], broken: bool) -> Made:
    """One bundle, an incident each; broken: RED, which needs recipients."""
    incidents = [
        {
            "type": "incident",
            "spec_version": "2.1",
            "id": f"incident--{_uuid(number)}",
            "created": "2026-05-04T06:00:00.000Z",
            "modified": "2026-05-04T06:00:00.000Z",
            "name": f"Incident {number}",
            "labels": ["rsit:fraud=phishing"],
            "x_queue": number,
            **({"object_marking_refs": [TLP_RED_MARK]} if broken else {}),
        }
        for number in numbers
    ]
    bundle = {"type": "bundle", "id": f"bundle--{_uuid(numbers[0])}", "objects": incidents}
    return _json("stix", bundle, len(incidents))


def misp(numbers: Sequence[int], broken: bool) -> Made:
    """A list of events; broken: RED."""
    tags = [{"name": "tlp:red"}] if broken else []
    events = [
        {"Event": {"uuid": _uuid(number), "info": f"Event {number}", "Tag": tags, "x_queue": number}}
        for number in numbers
    ]
    return _json("misp", events, len(events))


def _samples(name: str, sample: Mapping[str, Any], change: Callable[[int], dict[str, Any]]) -> Maker:
    """A list of one sample, named anew each time; broken: as `_BROKEN` says."""

    def make(numbers: Sequence[int], broken: bool) -> Made:
        documents = [{**sample, **change(number), **(_BROKEN[name] if broken else {})} for number in numbers]
        return _json(name, documents, len(documents))

    return make


def iodef(numbers: Sequence[int], broken: bool) -> Made:
    """One document with an incident each; broken: RED."""
    (sample,) = samples.IODEF["Incident"]
    incidents = [
        {
            **sample,
            "IncidentID": {"id": str(number), "name": "csirt.example.com"},
            **({"restriction": "red"} if broken else {}),
        }
        for number in numbers
    ]
    return _json("iodef", {**samples.IODEF, "Incident": incidents}, len(incidents))


MAKERS: Mapping[str, Maker] = {
    "profile": profile,
    "csv": table,
    "intelmq": intelmq,
    "stix": stix,
    "misp": misp,
    "ocsf": _samples(
        "ocsf", samples.OCSF, lambda n: {"finding_info": {**samples.OCSF["finding_info"], "uid": f"f-{n}"}}
    ),
    "idmef": _samples("idmef", samples.IDMEF, lambda n: {"ID": _uuid(n)}),
    "idea": _samples("idea", samples.IDEA, lambda n: {"ID": _uuid(n)}),
    "iodef": iodef,
}
"""By format."""
