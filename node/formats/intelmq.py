"""IntelMQ events: one JSON object of dotted keys, a list of them, or NDJSON.

Guarantees: keys of the IntelMQ data format that the profile has a place for go there; every other key is unmapped.
An event is known again by its `event_hash`, if it has one. Refuses what is not an object with a classification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from node.formats.foreign import Defaults, Foreign
from protocol import taxonomy
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.reasons import Reason

_any: Final = msgspec.json.Decoder(Any)
_CLASS_OF: Final = {type_: class_ for class_, types in taxonomy.RSIT.items() for type_ in types}
_TIMES: Final = {"time.source": "occurred", "time.observation": "detected"}
_HASHES: Final = {f"malware.hash.{kind}": kind for kind in ("md5", "sha1", "sha256")}
_SIDES: Final = {
    "ip": "",
    "network": "-net",
    "fqdn": "domain-name",
    "reverse_dns": "hostname",
    "url": "url",
    "asn": "asn",
    "account": "user-account",
}
MAPPED: Final[Mapping[str, str]] = {
    "classification.taxonomy": "rsit.class",
    "classification.type": "rsit.type",
    "tlp": "marking.tlp",
    **{key: f"body.times.{name}" for key, name in _TIMES.items()},
    "event_description.text": "body.description",
    "malware.name": "body.malware",
    **dict.fromkeys(_HASHES, "body.indicators"),
    **{f"{side}.{key}": "body.indicators" for side in ("source", "destination") for key in _SIDES},
    "event_hash": "names the event",
}
"""The keys that are read, and where they go."""


def read(data: bytes, defaults: Defaults) -> Sequence[Foreign | ProtocolError]:
    """Each event an incident."""
    document = decode(_any, data)
    many = isinstance(document, list)
    events: list[Any] = document if isinstance(document, list) else [document]
    return [_event(event, f"$[{n}]" if many else "$", defaults) for n, event in enumerate(events)]


def _event(event: Any, at: str, defaults: Defaults) -> Foreign | ProtocolError:
    if not isinstance(event, dict):
        return ProtocolError(Reason.WRONG_TYPE, at, "an event is an object")
    left = {key: value for key, value in event.items() if value not in ("", None)}
    if not any(key.startswith("classification.") for key in left):
        return ProtocolError(Reason.MISSING_FIELD, f"{at}.classification.type", "an event says what it is")
    for key in MAPPED.keys() & left.keys():
        if not isinstance(left[key], str) and not key.endswith(".asn"):
            return ProtocolError(Reason.WRONG_TYPE, f"{at}.{key}", "this is text")
    filing: dict[str, Any] = {"rsit": [_rsit(left)]}
    if "tlp" in left:
        filing["marking"] = _marking(left.pop("tlp"), defaults)
    named = left.pop("event_hash", "")
    filing["body"] = _body(left)
    return Foreign(at, named, filing, {f"{at}.{key}": value for key, value in left.items()})


def _body(left: dict[str, Any]) -> dict[str, Any]:
    """Takes what it has a place for out of `left`."""
    body: dict[str, Any] = {}
    times = {name: {"value": left.pop(key).replace(" ", "T")} for key, name in _TIMES.items() if key in left}
    if times:
        body["times"] = times
    if "event_description.text" in left:
        body["description"] = left.pop("event_description.text")
    if "malware.name" in left:
        body["malware"] = [left.pop("malware.name")]
    indicators = [{"type": kind, "value": left.pop(key)} for key, kind in _HASHES.items() if key in left]
    for side in ("source", "destination"):
        for name, kind in _SIDES.items():
            if (key := f"{side}.{name}") in left:
                value = str(left.pop(key))
                family = "ipv6" if ":" in value else "ipv4"
                type_ = {"ip": f"{family}-addr", "network": f"{family}-net"}.get(name, kind)
                indicators.append({"type": type_, "value": value, "context": side})
    if indicators:
        body["indicators"] = indicators
    return body


def _rsit(left: dict[str, Any]) -> dict[str, str]:
    """Class and type go together; a pair that RSIT does not have stays unmapped, and counts as undetermined."""
    class_, type_ = left.get("classification.taxonomy"), left.get("classification.type")
    if type_ is None and class_ in taxonomy.RSIT:
        del left["classification.taxonomy"]
        return {"class": class_}
    if type_ in _CLASS_OF and class_ in (None, _CLASS_OF[type_]):
        left.pop("classification.taxonomy", None)
        del left["classification.type"]
        return {"class": _CLASS_OF[type_], "type": type_}
    return {"class": "other", "type": "undetermined"}


def _marking(tlp: str, defaults: Defaults) -> dict[str, Any]:
    name = tlp.upper().removeprefix("TLP:")
    marking: dict[str, Any] = {"tlp": "CLEAR" if name == "WHITE" else name}
    if defaults.marking and "recipients" in defaults.marking:
        marking["recipients"] = defaults.marking["recipients"]
    return marking
