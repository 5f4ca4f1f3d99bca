"""A report, as far as it may be shown, as objects of STIX 2.1 with the Incident Core Extension.

Guarantees: the same input gives the same objects in the same order. An object has the same id at every revision of its
report, the same `created`, and the revision's time as `modified`. Nothing stands in the objects that is not disclosed;
what was withheld is named in a note and in this project's property extension, which also carries what STIX has no word
for. Where the standard requires a property that is not disclosed, its stand-in is listed there as one. A withdrawn
report is its revoked incident.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid5

from node.formats import stix_words as words
from node.formats.foreign import Shown
from node.formats.stix_marks import written as markings_of
from node.formats.stix_pattern import Value, pattern_of, values_of
from node.formats.stix_words import timestamp
from protocol.report import json_encode

_HEADER_REST: Final = ("purpose", "sectors", "cross_border", "handling", "obligation", "exercise", "made_by")
_BODY_REST: Final = (
    "services",
    "third_party",
    "root_cause",
    "ransomware",
    "ddos",
    "ot",
    "ai_enabled",
    "assistance_requested",
    "attachments",
    "related",
)
_COARSE_REST: Final = ("victim_coarse", "entity_counts_coarse")
_UNDATED: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UUID7: Final = 7
_COUNTRY: Final = 2


def objects_of(shown: Shown) -> list[dict[str, Any]]:
    """The STIX objects of one revision of a report: origin, markings, incident, and what belongs to it."""
    return _Writing(shown).objects()


def created_of(report_id: str, issued_at: str) -> str:
    """The `created` of all objects of a report, which must be that of its first revision at every later one.

    A node names a report by the time of its first filing (UUIDv7). Who files a report under an id of another kind gets
    a fixed date: it says nothing, but the same in every revision, and that is what matters to who holds an earlier one.
    """
    name = UUID(report_id)
    if name.version != _UUID7:
        return timestamp(_UNDATED)
    born = (name.int >> 80) / 1000
    known = born <= datetime.fromisoformat(issued_at).timestamp()
    return timestamp(datetime.fromtimestamp(born, UTC) if known else _UNDATED)


def _ours(**given: Any) -> dict[str, Any]:
    """This project's property extension with what is given; nothing if nothing is."""
    kept = {name: value for name, value in given.items() if value not in (None, [], {})}
    return {words.OURS: {"extension_type": "property-extension", **kept}} if kept else {}


def _new(extension: str) -> dict[str, Any]:
    return {extension: {"extension_type": "new-sdo"}}


class _Writing:
    """The objects of one report, as they come. Use once."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._header, self._body = shown.header, shown.body
        self._report = str(shown.header["report_id"])
        self._times = {
            "created": created_of(self._report, shown.header["issued_at"]),
            "modified": timestamp(shown.header["issued_at"]),
        }
        self._marks = markings_of(shown.header["marking"])
        self._origin = _origin(shown.header["origin"]["member"])
        self._incident = self._name("incident", "")
        self._again: dict[str, int] = {}
        self._found: list[dict[str, Any]] = []
        self._links: list[dict[str, Any]] = []
        self._stand_ins: list[str] = []
        self._rest: dict[str, Any] = {}
        self._coarse: dict[str, Any] = {}

    def objects(self) -> list[dict[str, Any]]:
        """All of them, in an order that is the same for the same report."""
        if self._header.get("phase") == "withdrawn":
            self._stand_ins.append("name")
            more = self._ours({"marking": self._closer()})
            name = "Withdrawn report"
            withdrawn = self._object("incident", self._incident, name=name, revoked=True, extensions=more)
            return [self._origin, *self._marks, withdrawn]
        core = self._core()
        self._times_of_it(core)
        self._impacts(core)
        self._actions(core)
        self._means()
        self._indicators()
        self._who_and_where()
        incident = self._describe(core)
        return [self._origin, *self._marks, incident, *self._found, *self._links, *self._note()]

    # --- what all objects have ----------------------------------------------------------------------------------

    def _name(self, kind: str, content: str) -> str:
        return f"{kind}--{uuid5(words.NAMESPACE, f'{self._report}/{kind}/{content}')}"

    def _object(self, kind: str, name: str, /, **given: Any) -> dict[str, Any]:
        return {
            "type": kind,
            "spec_version": "2.1",
            "id": name,
            "created_by_ref": self._origin["id"],
            **self._times,
            **{field: value for field, value in given.items() if value not in (None, [], {})},
            "object_marking_refs": [mark["id"] for mark in self._marks],
        }

    def _add(self, kind: str, content: Any, link: str = "", /, *, back: bool = False, **given: Any) -> str:
        """Add an object, and a relationship with the incident if it is named; answers with the object's id.

        Args:
            content: what the object is about; equal contents are told apart by their order.
            back: the relationship leads from the object to the incident.
        """
        key = f"{kind}/{json_encode(content).decode()}"
        again = self._again[key] = self._again.get(key, -1) + 1
        name = self._name(kind, f"{key}/{again}" if again else key)
        self._found.append(self._object(kind, name, **given))
        if link:
            source, target = (name, self._incident) if back else (self._incident, name)
            relation = self._name("relationship", f"{source}/{link}/{target}")
            ends = {"relationship_type": link, "source_ref": source, "target_ref": target}
            self._links.append(self._object("relationship", relation, **ends))
        return name

    # --- the incident -------------------------------------------------------------------------------------------

    def _describe(self, core: dict[str, Any]) -> dict[str, Any]:
        body, header = self._body, self._header
        name = self._exact_or_coarse("title", "name")
        if name is None:
            name = f"Report {self._report}"
            self._stand_ins.append("name")
        description = self._exact_or_coarse("description", "description")
        said = self._ours(
            {field: header[field] for field in _HEADER_REST if field in header} | {"marking": self._closer()},
            body={field: body[field] for field in _BODY_REST if field in body} | self._rest,
            coarse={field: body[field] for field in _COARSE_REST if field in body} | self._coarse,
        )
        return self._object(
            "incident",
            self._incident,
            name=name,
            description=description,
            labels=_labels(header),
            confidence=words.CONFIDENCE.get(body.get("confidence", "")),
            external_references=[
                {"source_name": item["title"]}
                | ({"url": item["url"]} if "url" in item else {"description": item["title"]})
                for item in body.get("references", ())
            ],
            extensions={words.INCIDENT_CORE: core, **said},
        )

    def _ours(self, rest: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """What this project's extension says of the incident."""
        header, shown = self._header, self._shown
        return _ours(
            report_id=self._report,
            incident_id=str(header["incident_id"]),
            revision=header["revision"],
            origin=dict(header["origin"]),
            header={field: value for field, value in rest.items() if field != "marking" or value},
            **more,
            stand_ins=sorted(self._stand_ins),
            withheld=list(shown.withheld),
            undisclosed=shown.undisclosed or None,
        )

    def _closer(self) -> dict[str, Any]:
        """What a marking says beyond TLP and PAP, and STIX has in words only."""
        return {field: value for field, value in self._header["marking"].items() if field not in ("tlp", "pap")}

    def _exact_or_coarse(self, field: str, name: str) -> str | None:
        if field in self._body:
            return str(self._body[field])
        if f"{field}_coarse" not in self._body:
            return None
        self._stand_ins.append(name)
        return str(self._body[f"{field}_coarse"])

    def _core(self) -> dict[str, Any]:
        """The Incident Core Extension; it requires two properties that may not be disclosed."""
        body, header = self._body, self._header
        core: dict[str, Any] = {"extension_type": "property-extension"}
        for field, name, stand_in in (
            ("determination", "determination", "suspected"),
            ("status", "investigation_status", "unknown"),
        ):
            core[name] = body.get(field, stand_in)
            if field not in body:
                self._stand_ins.append(name)
        if severity := header.get("severity"):
            core["criticality"] = severity["score"]
            core["scores"] = [{"name": severity.get("method", "stix-criticality"), "value": severity["score"]}]
        if methods := body.get("detection_methods"):
            core["detection_methods"] = [words.DETECTION.get(method, method) for method in methods]
        if counts := body.get("entity_counts"):
            core["impacted_entity_counts"] = {words.ENTITY[kind]: count for kind, count in counts.items()}
        types = [words.INCIDENT_TYPES.get((item["class"], item.get("type", ""))) for item in header["rsit"]]
        if named := list(dict.fromkeys(kind for kind in types if kind)):
            core["incident_types"] = named
        return core

    def _times_of_it(self, core: dict[str, Any]) -> None:
        """An event from `occurred` to `ended`; a task for each point that the extension has a type of task for."""
        times = self._body.get("times")
        label = None
        if times is None:
            times, label = self._body.get("times_coarse", {}), "stand-in"
            if times:
                self._stand_ins.append("times")
        labels = [label] if label else None
        span: dict[str, Any] = {}
        for point, side in (("occurred", "start_time"), ("ended", "end_time")):
            if point in times and timestamp(times[point]["value"]) >= span.get("start_time", ""):
                span[side] = timestamp(times[point]["value"])
                span[f"{side}_fidelity"] = times[point].get("fidelity", "second")
            elif point in times and not label:
                self._rest["times"] = {point: times[point]}
        if span:
            status = "occurred" if "end_time" in span else "undetermined"
            name = self._add("event", "times", labels=labels, status=status, **span, extensions=_new(words.EVENT))
            core["events"] = [{"event_ref": name}]
        for point, kind in words.TASKS.items():
            if point in times:
                side, fidelity = words.SIDE[point], times[point].get("fidelity", "second")
                value = {side: timestamp(times[point]["value"]), f"{side}_fidelity": fidelity}
                extensions = _new(words.TASK)
                task = {"task_types": [kind], "outcome": "successful", **value, "extensions": extensions}
                core.setdefault("tasks", []).append({"task_ref": self._add("task", kind, labels=labels, **task)})

    def _impacts(self, core: dict[str, Any]) -> None:
        listed: list[tuple[Any, list[str] | None]] = [(item, None) for item in self._body.get("impacts", ())]
        if "financial_loss" in self._body:
            listed.append((self._body["financial_loss"], ["financial-loss"]))
        refs = [self._impact(item, labels) for item, labels in listed]
        if refs:
            core["impact_refs"] = refs

    def _impact(self, item: Mapping[str, Any], labels: list[str] | None) -> str:
        """An impact. Its details have an extension in the standard where that asks for nothing that we do not know."""
        rest = {field: item[field] for field in ("percent", "amount", "currency") if field in item}
        extensions = _new(words.IMPACT)
        category = item["category"]
        if category == "availability" and "percent" in rest:
            extensions["availability-ext"] = {"availability_impact": rest.pop("percent")}
        elif category == "monetary" and rest.get("amount") and "currency" in rest:
            amount, currency = rest.pop("amount"), rest.pop("currency")
            details = {"variety": "uncategorized", "currency": currency, "min_amount": amount, "max_amount": amount}
            extensions["monetary-ext"] = details
        given = {"impact_category": category, "description": item.get("detail"), "labels": labels}
        return self._add("impact", [item, labels], **given, extensions=extensions | _ours(**rest))

    def _actions(self, core: dict[str, Any]) -> None:
        for item in self._body.get("actions", ()):
            name = self._add(
                "task",
                item,
                description=item["what"],
                outcome="unknown",
                start_time=timestamp(item["at"]) if "at" in item else None,
                extensions=_new(words.TASK) | _ours(outcome=item.get("outcome")),
            )
            core.setdefault("tasks", []).append({"task_ref": name})

    # --- what belongs to it -------------------------------------------------------------------------------------

    def _means(self) -> None:
        """How it was done, and by whom."""
        body = self._body
        for item in body.get("attack", ()):
            matrix, tactic = item.get("matrix", "enterprise"), item.get("tactic")
            chain, technique = words.KILL_CHAIN[matrix], item["technique"]
            phase = words.TACTICS[matrix].get(tactic or "")
            url = f"https://attack.mitre.org/techniques/{technique.replace('.', '/')}"
            self._add(
                "attack-pattern",
                item,
                "uses",
                name=technique,
                external_references=[{"source_name": chain, "external_id": technique, "url": url}],
                kill_chain_phases=[{"kill_chain_name": chain, "phase_name": phase}] if phase else None,
                extensions=_ours(tactic=None if phase else tactic, attack_version=item.get("attack_version")),
            )
        if actor := body.get("actor"):
            confidence = words.CONFIDENCE.get(actor.get("confidence", ""))
            given = {"name": actor["name"], "aliases": actor.get("aliases"), "confidence": confidence}
            self._add("threat-actor", actor, "attributed-to", **given)
        for name in body.get("malware", ()):
            self._add("malware", name, "uses", name=name, is_family=True)
        for item in body.get("vulnerabilities", ()):
            name = item["id"]
            cve = [{"source_name": "cve", "external_id": name}] if name.upper().startswith("CVE-") else None
            more = _ours(product=item.get("product"), exploited=item.get("exploited"))
            self._add("vulnerability", item, "related-to", name=name, external_references=cve, extensions=more)

    def _indicators(self) -> None:
        listed: list[tuple[Mapping[str, Any], dict[str, Any]]] = [(one, {}) for one in self._body.get("indicators", ())]
        listed += [(one, {"revoked": True, "valid_until": self._until(one)}) for one in self._shown.dropped]
        for item, over in listed:
            kind, value = item["type"], item["value"]
            pattern = pattern_of(kind, value)
            more = {field: item[field] for field in ("first_seen", "last_seen", "level") if field in item}
            if values_of(pattern) != [Value(kind, value)]:
                more["as_filed"] = {"type": kind, "value": value}
            self._add(
                "indicator",
                item,
                "" if over else "related-to",
                name=value,
                description=item.get("context"),
                **over,
                pattern=pattern,
                pattern_type="stix",
                pattern_version="2.1",
                valid_from=timestamp(item["first_seen"]) if "first_seen" in item else self._times["modified"],
                extensions=_ours(**more),
            )

    def _until(self, item: Mapping[str, Any]) -> str | None:
        """For tools that look at how long an indicator holds; not before it begins to."""
        begun = timestamp(item["first_seen"]) if "first_seen" in item else self._times["modified"]
        return self._times["modified"] if begun < self._times["modified"] else None

    def _who_and_where(self) -> None:
        body = self._body
        if victim := body.get("victim"):
            sector = victim.get("sector", "")
            near = words.near_sector(sector)
            self._add(
                "identity",
                ["victim", victim],
                "targets",
                name=victim["name"],
                identity_class="organization",
                sectors=list(dict.fromkeys(word for word in (near, sector) if word)),
                extensions=_ours(website=victim.get("website")),
            )
        self._place()
        for item in body.get("contacts", ()):
            more = {
                field: item[field] for field in ("role", "name", "email", "phone", "hours", "level") if field in item
            }
            self._add(
                "identity",
                ["contact", item],
                "contact-for",
                back=True,
                name=item.get("name", item["role"]),
                identity_class="unspecified",
                roles=[item["role"]],
                contact_information=", ".join(item[field] for field in ("email", "phone", "hours") if field in item),
                extensions=_ours(contact=more),
            )

    def _place(self) -> None:
        coarse = "geo" not in self._body
        geo = self._body.get("geo_coarse" if coarse else "geo")
        if not geo:
            return
        country = geo["country"]
        if len(country) != _COUNTRY or not country.isalpha():
            # A body such as a regional CERT is a jurisdiction here, and no country to STIX.
            self._rest |= {} if coarse else {"geo": geo}
            self._coarse |= {"geo_coarse": geo} if coarse else {}
            return
        whole = "latitude" in geo and "longitude" in geo
        point = {field: geo[field] for field in ("latitude", "longitude") if field in geo}
        if coarse:
            self._stand_ins.append("geo")
        self._add(
            "location",
            geo,
            "located-at",
            name=", ".join([*(geo[field] for field in ("city", "region") if field in geo), country.upper()]),
            labels=["stand-in"] if coarse else None,
            administrative_area=geo.get("region"),
            city=geo.get("city"),
            country=country.upper(),
            **(point if whole else {}),
            extensions=_ours(**({} if whole else point)),
        )

    def _note(self) -> list[dict[str, Any]]:
        """In words what was withheld, for whoever does not read extensions."""
        shown = self._shown
        said = []
        if shown.withheld:
            said.append(
                f"Withheld by the sharing policy, wholly or but for a coarser value: {', '.join(shown.withheld)}."
            )
        if shown.undisclosed:
            said.append(f"The origin signed {shown.undisclosed} parts more than were disclosed here.")
        if self._stand_ins:
            said.append(f"These properties only stand in for what is not disclosed: {', '.join(self._stand_ins)}.")
        if not said:
            return []
        given = {"abstract": "What is not disclosed", "content": " ".join(said), "object_refs": [self._incident]}
        return [self._object("note", self._name("note", "withheld"), **given)]


def _origin(member: str) -> dict[str, Any]:
    return {
        "type": "identity",
        "spec_version": "2.1",
        "id": f"identity--{uuid5(words.NAMESPACE, f'member/{member}')}",
        "created": words.MARKINGS_CREATED,
        "modified": words.MARKINGS_CREATED,
        "name": member,
        "identity_class": "organization",
    }


def _labels(header: Mapping[str, Any]) -> list[str]:
    """RSIT as in the machine tags of MISP, the phase, the sectors, and whether it is a drill."""
    rsit = [f"rsit:{item['class']}" + (f'="{item["type"]}"' if "type" in item else "") for item in header["rsit"]]
    sectors = [f"sector:{item['code']}" for item in header.get("sectors", ())]
    drill = [f"exercise:{header['exercise']['exercise_id']}"] if "exercise" in header else []
    return [*rsit, f"phase:{header.get('phase', 'initial')}", *sectors, *drill]
