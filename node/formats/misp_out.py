"""A report, as far as it may be shown, as an event of MISP's core format.

Guarantees: the same input gives the same bytes; an event has the same uuid at every revision of its report, and the
revision's time as timestamp. Its distribution is never wider than its TLP allows (`misp_words.DISTRIBUTION`), and none
at all if it is for named recipients or a sharing group. It is not published: that is for a person to do. What was
withheld is named in tags and in this project's object, which also carries what MISP has no word for. MISP has no
withdrawal: a withdrawn report is its event with nothing in it but a tag that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid5

from node.formats import misp_words as words
from node.formats.foreign import Shown
from node.formats.stix_pattern import spelled
from protocol.report import json_encode

_HEADER: Final = ("severity", "purpose", "cross_border", "handling", "obligation", "exercise", "made_by")
_BODY: Final = (
    "determination",
    "times",
    "detection_methods",
    "impacts",
    "services",
    "entity_counts",
    "geo",
    "third_party",
    "root_cause",
    "ransomware",
    "ddos",
    "ot",
    "ai_enabled",
    "actions",
    "assistance_requested",
    "contacts",
    "financial_loss",
    "attachments",
    "related",
)
"""Fields that MISP has no word for."""
_COARSE: Final = ("times_coarse", "entity_counts_coarse", "victim_coarse", "geo_coarse")
_FIELDS: Final = 2


def write(shown: Sequence[Shown]) -> bytes:
    """All reports as MISP answers a search: `{"response": [{"Event": ...}, ...]}`; a single one as `{"Event": ...}`."""
    events = [{"Event": event_of(item)} for item in shown]
    return json_encode(events[0] if len(events) == 1 else {"response": events})


def event_of(shown: Shown) -> dict[str, Any]:
    """One revision of a report as the content of an `Event`."""
    return _Event(shown).event()


class _Event:
    """The event of one report, as it grows. Use once."""

    def __init__(self, shown: Shown) -> None:
        self._shown, self._header, self._body = shown, shown.header, shown.body
        self._report = str(shown.header["report_id"])
        issued = datetime.fromisoformat(shown.header["issued_at"]).astimezone(UTC)
        self._timestamp, self._date = str(int(issued.timestamp())), issued.date().isoformat()
        self._tags: list[str] = []
        self._attributes: list[dict[str, Any]] = []
        self._rest: dict[str, Any] = {}
        self._stand_ins: list[str] = []

    def event(self) -> dict[str, Any]:
        """All of it."""
        header, member = self._header, self._header["origin"]["member"]
        self._marking()
        withdrawn = header.get("phase") == "withdrawn"
        if not withdrawn:
            self._header_tags()
            self._means()
            self._indicators()
            self._rest |= {field: self._body[field] for field in (*_BODY, *_COARSE) if field in self._body}
        info = "Withdrawn report" if withdrawn else self._text("title")
        if withdrawn or info is None:
            self._stand_ins.append("info")
        if "status" not in self._body:
            self._stand_ins.append("analysis")
        description = None if withdrawn else self._text("description")
        self._tags += [words.tag("kentongan", "withheld", name) for name in self._shown.withheld]
        return {
            "uuid": self._uuid("event"),
            "info": info or f"Report {self._report}",
            "date": self._date,
            "timestamp": self._timestamp,
            "published": False,
            "analysis": words.ANALYSIS["closed" if withdrawn else self._body.get("status", "new")],
            "threat_level_id": self._level(withdrawn=withdrawn),
            "distribution": self._distribution(),
            "Orgc": {"name": member, "uuid": str(uuid5(words.NAMESPACE, f"member/{member}"))},
            "Tag": [{"name": name} for name in dict.fromkeys(self._tags)],
            "Attribute": self._attributes,
            "Object": [self._object()],
            "EventReport": [self._described(description)] if description else [],
        }

    def _uuid(self, what: str) -> str:
        return str(uuid5(words.NAMESPACE, f"{self._report}/{what}"))

    def _text(self, field: str) -> str | None:
        if field in self._body:
            return str(self._body[field])
        if f"{field}_coarse" not in self._body:
            return None
        self._stand_ins.append("info" if field == "title" else "EventReport")
        return str(self._body[f"{field}_coarse"])

    def _level(self, *, withdrawn: bool) -> str:
        severity = None if withdrawn else self._header.get("severity")
        return next(level for floor, level in words.FLOORS if (severity or {"score": 0})["score"] >= floor)

    # --- tags -----------------------------------------------------------------------------------------------------

    def _marking(self) -> None:
        marking = self._header["marking"]
        self._tags.append(f"tlp:{marking['tlp'].lower()}")
        if "pap" in marking:
            self._tags.append(f"PAP:{marking['pap']}")
        closer = {field: value for field, value in marking.items() if field not in ("tlp", "pap")}
        if closer:
            self._rest["marking"] = closer
        self._tags.append(words.tag("kentongan", "phase", self._header.get("phase", "initial")))

    def _distribution(self) -> str:
        marking = self._header["marking"]
        if marking.get("recipients") or marking.get("sharing_group"):
            return "0"
        return words.DISTRIBUTION[marking["tlp"]]

    def _header_tags(self) -> None:
        header = self._header
        self._tags += [words.tag("rsit", item["class"], item.get("type")) for item in header["rsit"]]
        sectors = header.get("sectors", [])
        self._tags += [words.tag("kentongan", "sector", item["code"]) for item in sectors]
        if any(set(item) != {"code"} for item in sectors):
            self._rest["sectors"] = sectors
        if "exercise" in header:
            self._tags.append("kentongan:exercise")
        if "confidence" in self._body:
            self._tags.append(f'{words.CONFIDENCE_TAG}="{self._body["confidence"]}"')
        self._rest |= {field: header[field] for field in _HEADER if field in header}

    def _means(self) -> None:
        """Techniques, actor and malware as galaxies' tags, vulnerabilities, links and the victim as attributes."""
        body = self._body
        for item in body.get("attack", ()):
            galaxy = words.GALAXIES[item.get("matrix", "enterprise")]
            self._tags.append(words.tag("misp-galaxy", galaxy, item["technique"]))
        if actor := body.get("actor"):
            self._tags.append(words.tag("misp-galaxy", "threat-actor", actor["name"]))
        self._tags += [words.tag("misp-galaxy", "malpedia", name) for name in body.get("malware", ())]
        for item in body.get("vulnerabilities", ()):
            self._add("vulnerability", "External analysis", item["id"], item)
        for item in body.get("references", ()):
            if "url" in item:
                self._add("link", "External analysis", item["url"], item, comment=item["title"])
        if victim := body.get("victim"):
            self._add("target-org", "Targeting data", victim["name"], victim)
        simple = {
            "attack": all(set(item) <= {"technique", "matrix"} for item in body.get("attack", ())),
            "actor": set(body.get("actor", ())) <= {"name"},
            "malware": True,
            "vulnerabilities": all(set(item) == {"id"} for item in body.get("vulnerabilities", ())),
            "references": all(len(item) == _FIELDS for item in body.get("references", ())),
            "victim": set(body.get("victim", ())) <= {"name"},
        }
        # A quotation mark ends a tag's value for many readers.
        quoted = [*body.get("malware", ()), body.get("actor", {}).get("name", "")]
        simple["malware"] = simple["actor"] = simple["actor"] and not any('"' in name for name in quoted)
        self._rest |= {field: body[field] for field in simple if field in body and not simple[field]}

    # --- attributes, the object, the text -------------------------------------------------------------------------

    def _add(self, kind: str, category: str, value: str, content: Any, **given: Any) -> None:
        self._attributes.append(
            {
                "uuid": self._uuid(f"attribute/{kind}/{json_encode(content).decode()}"),
                "type": kind,
                "category": category,
                "value": value,
                "to_ids": False,
                "distribution": "5",
                "timestamp": self._timestamp,
                **given,
            }
        )

    def _indicators(self) -> None:
        for item in self._body.get("indicators", ()):
            kind = item["type"]
            type_, category = words.ATTRIBUTES[kind]
            tags = [words.tag("kentongan", "type", kind)] if type_ == "other" else []
            tags += [words.tag("kentongan", "level", "coarse")] if "level" in item else []
            given = {field: item[field] for field in ("first_seen", "last_seen") if field in item}
            if "context" in item:
                given["comment"] = item["context"]
            if tags:
                given["Tag"] = [{"name": name} for name in tags]
            given["to_ids"] = "level" not in item
            self._add(type_, category, spelled(kind, item["value"]), item, **given)
        for item in self._shown.dropped:
            type_, category = words.ATTRIBUTES[item["type"]]
            self._add(type_, category, spelled(item["type"], item["value"]), item, deleted=True)

    def _object(self) -> dict[str, Any]:
        header, shown = self._header, self._shown
        said: Mapping[str, Any] = {
            "report_id": self._report,
            "incident_id": str(header["incident_id"]),
            "revision": header["revision"],
            "origin": header["origin"],
            **self._rest,
            **({"withheld": shown.withheld} if shown.withheld else {}),
            **({"undisclosed": shown.undisclosed} if shown.undisclosed else {}),
            **({"stand_ins": sorted(self._stand_ins)} if self._stand_ins else {}),
        }
        return {
            "name": words.OBJECT,
            "meta-category": "misc",
            "description": "What the report says and MISP has no word for, as JSON; what was withheld from it",
            "template_uuid": words.TEMPLATE,
            "template_version": "1",
            "uuid": self._uuid("object"),
            "timestamp": self._timestamp,
            "distribution": "5",
            "Attribute": [
                {
                    "uuid": self._uuid(f"object/{field}"),
                    "object_relation": field,
                    "type": "text",
                    "category": "Other",
                    "value": json_encode(value).decode(),
                    "to_ids": False,
                    "disable_correlation": True,
                    "distribution": "5",
                    "timestamp": self._timestamp,
                }
                for field, value in said.items()
            ],
        }

    def _described(self, text: str) -> dict[str, Any]:
        return {
            "uuid": self._uuid("description"),
            "name": "Description",
            "content": text,
            "distribution": "5",
            "timestamp": self._timestamp,
        }
