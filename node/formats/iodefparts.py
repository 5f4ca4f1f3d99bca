"""The classes of an IODEF incident, each filed where a report has a place for it. Pure; used by `iodef`.

Guarantees: what has a stricter restriction of its own than the incident, or one that cannot be told, is passed over.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from node.formats import iodefwords as words
from node.formats.meaning import SCORES, confidence_of, cve_of, hostile, relate, rsit_of, stated, strictness, tlp_of
from node.formats.taking import Draft, Spot, valid
from protocol.errors import ProtocolError
from protocol.parts import Action, AssistanceRequest, Attack, Contact, Impact, Reference, Rsit, Vulnerability
from protocol.reasons import Reason
from protocol.report import Body


def ml(spot: Spot) -> Spot:
    """The text of a multilingual string: the string itself, or the value of an object."""
    return spot.get("value") if isinstance(spot.value, dict) else spot


def first(spot: Spot) -> Spot:
    """The first of several texts."""
    return ml((spot.each() or [spot])[0])


def restriction_of(spot: Spot) -> str | None:
    """The TLP label that a restriction means; None if there is none of its own. ProtocolError if it cannot be told."""
    place = spot.get("restriction")
    if place.value in (None, "default"):
        return None
    word = spot.get("ext-restriction").word() if place.value == "ext-value" else None
    label = words.LABELS.get(place.word() or "") or (tlp_of(word) if word else None)
    if label is None:
        raise ProtocolError(Reason.UNKNOWN_VALUE, place.at, "a restriction that has no TLP label")
    return label


@dataclass(slots=True)
class Reader:
    """Files the classes of one incident.

    Attributes:
        tlp: how the incident is marked: what is stricter is passed over.
        own: whether the document was written by a node like this one.
    """

    draft: Draft
    tlp: str
    own: bool
    kinds: list[str] = field(default_factory=list)
    """Impacts and parts of systems, from which an incident is classified that names no category."""

    def shown(self, spot: Spot, *names: str) -> list[Spot]:
        """The elements of a class that may be filed."""
        return [part for part in spot.get(*names).each() if self._may(part)]

    def _may(self, spot: Spot) -> bool:
        try:
            label = restriction_of(spot)
        except ProtocolError:
            return False
        if label == self.tlp:
            spot.get("restriction").take()
            spot.get("ext-restriction").take()
        return label is None or strictness(label) <= strictness(self.tlp)

    def related(self, spot: Spot) -> None:
        """Other identifiers, incidents, campaigns, and who is said to be behind it."""
        for other in self.shown(spot, "AlternativeID"):
            for number in self.shown(other, "IncidentID"):
                self._number(number, "same-incident")
        for activity in self.shown(spot, "RelatedActivity"):
            said = ml(activity.get("Description", 0))
            for number in self.shown(activity, "IncidentID"):
                if self._number(number, said.word() or ""):
                    said.take()
                else:
                    self._number(number, "other")
            for campaign in self.shown(activity, "Campaign"):
                relate(self.draft, campaign.get("CampaignID").each(), "same-campaign")
            for actor in self.shown(activity, "ThreatActor"):
                self._actor(actor, activity.get("Confidence"))

    def _number(self, spot: Spot, kind: str) -> bool:
        parts = [spot.get("name"), spot.get("id")]
        ref = "/".join(part.value for part in parts if isinstance(part.value, str) and part.value)
        before = len(self.draft.body.get("related", []))
        relate(self.draft, [Spot(ref)], kind)
        filed = len(self.draft.body.get("related", [])) > before
        if filed:
            for part in parts:
                part.take()
        return filed

    def _actor(self, spot: Spot, confidence: Spot) -> None:
        names = spot.get("ThreatActorID").each()
        known = [name.value for name in names]
        more: dict[str, Any] = {"aliases": known[1:]} if known[1:] else {}
        word, number = words.CONFIDENCES.get(confidence.get("rating").word() or "", (None, None))
        if word:
            more["confidence"] = word
        if known and self.draft.put("actor", {"name": known[0], **more}):
            spot.get("ThreatActorID").take()
            if confidence.get("value").value == number:
                confidence.take()

    def discoveries(self, spot: Spot) -> None:
        """How it was found."""
        methods = list(self.draft.body.get("detection_methods", []))
        for discovery in self.shown(spot, "Discovery"):
            source, more = discovery.get("source"), discovery.get("ext-source")
            word, exact = words.DISCOVERIES.get(source.word() or "", (more.word() or "", True))
            if word not in methods and valid(Body, {"detection_methods": [*methods, word]}):
                methods.append(word)
            if word in methods and exact:
                source.take()
                more.take()
        if methods:
            self.draft.body["detection_methods"] = methods

    def assessments(self, spot: Spot) -> None:
        """Category, impact, severity, confidence, cause, and how many are affected."""
        impacts = []
        for part in self.shown(spot, "Assessment"):
            for category in part.get("IncidentCategory").each():
                text = ml(category)
                said = rsit_of(text.word() or "") or words.category_of(text.word() or "")
                if said and self.draft.add("rsit", said, Rsit):
                    text.take()
            for impact in part.get("Impact").each():
                impacts += [impact.get(name) for name in ("SystemImpact", "BusinessImpact") if impact.get(name).value]
                self._money(impact.get("MonetaryImpact"))
            for counter in part.get("Counter").each():
                self._count(counter)
            self._cause(part.get("Cause"))
            self._confidence(part.get("Confidence"))
        self._severity(impacts)
        for impact in impacts:
            self._impact(impact)

    def _severity(self, impacts: list[Spot]) -> None:
        found = [
            (SCORES[word], place)
            for impact in impacts
            if (word := words.SEVERITIES.get((place := impact.get("severity")).word() or ""))
        ]
        for score, place in sorted(found, key=lambda pair: -pair[0]):
            if self.draft.severity(score):
                place.take()

    def _impact(self, spot: Spot) -> None:
        kind, more, text = spot.get("type"), spot.get("ext-type"), first(spot.get("Description"))
        word = kind.word() or ""
        self.kinds.append(word)
        detail = text.word()
        extra = {"detail": detail} if detail else {}
        category = words.IMPACTS.get(word) or (more.word() if word == "ext-value" else None)
        if category and self.draft.add("impacts", {"category": category, **extra}, Impact):
            text.take()
            if word == "ext-value":
                kind.take()
                more.take()
        elif word == "unknown":
            kind.take()

    def _money(self, spot: Spot) -> None:
        amount, currency = spot.get("value").number(), spot.get("currency")
        if amount is None or amount != amount // 1:
            return
        said = {
            "category": "monetary",
            "amount": int(amount),
            **({"currency": currency.value} if currency.value else {}),
        }
        if self.draft.put("financial_loss", said):
            spot.get("value").take()
            currency.take()

    def _count(self, spot: Spot) -> None:
        count, unit, more = spot.get("value").number(), spot.get("unit"), spot.get("ext-unit")
        kind = words.UNITS.get(unit.word() or "") or more.word()
        if spot.get("type").value != "count" or kind not in words.ENTITIES or count is None or count != count // 1:
            return
        counts: Mapping[str, int] = self.draft.body.get("entity_counts", {})
        said = {**counts, kind: int(count)}
        if counts.get(kind, int(count)) == int(count) and valid(Body, {"entity_counts": said}):
            self.draft.body["entity_counts"] = said
            for name in ("value", "unit", "ext-unit", "type"):
                spot.get(name).take()

    def _cause(self, spot: Spot) -> None:
        causes = [ml(cause) for cause in spot.each()]
        more = {"detail": causes[1].value} if len(causes) > 1 else {}
        if causes and self.draft.put("root_cause", {"category": causes[0].value, **more}):
            for cause in causes[:2]:
                cause.take()

    def _confidence(self, spot: Spot) -> None:
        rating, value = spot.get("rating").word() or "", spot.get("value")
        number = value.number()
        if rating == "numeric" and number is not None and 0 <= number <= 100:
            self.draft.put("confidence", confidence_of(number / 100))
            return
        word, usual = words.CONFIDENCES.get(rating, (None, None))
        if self.draft.put("confidence", word):
            spot.get("rating").take()
            if number == usual:
                value.take()

    def methods(self, spot: Spot) -> None:
        """Techniques, vulnerabilities and references."""
        for method in self.shown(spot, "Method"):
            for pattern in method.get("AttackPattern").each():
                self._technique(pattern)
            for weakness in method.get("Vulnerability").each():
                number = weakness.get("ContentID")
                if self.draft.add("vulnerabilities", {"id": number.value}, Vulnerability):
                    number.take()
                    self._form(weakness, "cve")
            for reference in method.get("Reference").each():
                self._reference(reference)

    def _form(self, spot: Spot, spec: str) -> None:
        if spot.get("SpecID").value == "private" and spot.get("ext-SpecID").value == spec:
            spot.get("SpecID").take()
            spot.get("ext-SpecID").take()

    def _technique(self, spot: Spot) -> None:
        number, spec = spot.get("ContentID"), spot.get("ext-SpecID").word() or ""
        technique = number.word() or ""
        matrix = spec.removeprefix(words.ATTACK) if spec.startswith(words.ATTACK) else None
        matrix = matrix or ("ics" if technique.startswith("T0") else "enterprise")
        if self.draft.add("attack", {"technique": technique, "matrix": matrix}, Attack):
            number.take()
            self._form(spot, spec)

    def _reference(self, spot: Spot) -> None:
        name, url, text = spot.get("ReferenceName", "ID"), spot.get("URL", 0), first(spot.get("Description"))
        if number := cve_of(name.word() or ""):
            if self.draft.add("vulnerabilities", {"id": number}, Vulnerability):
                name.take()
            return
        title = text.word() or url.word() or name.word()
        said = {"title": title, **({"url": url.value} if url.value else {})}
        if self.draft.add("references", said, Reference):
            for place in (text, url) if title != name.value else (name, url):
                place.take()

    def contacts(self, spot: Spot) -> None:
        """Whom to call; the victim is the victim, and who made a document of ours stands in its block."""
        people = self.shown(spot, "Contact")
        if self.own and people and people[0].get("role").value == "creator":
            people.pop(0).take()
        for person in people:
            self._contact(person)

    def _contact(self, spot: Spot) -> None:
        role, more, name = spot.get("role"), spot.get("ext-role"), first(spot.get("ContactName"))
        if role.value == "victim":
            if self.draft.put("victim", {"name": name.value}):
                for place in (name, role):
                    place.take()
                if spot.get("type").value == "organization":
                    spot.get("type").take()
            return
        mail, phone = spot.get("Email", 0, "EmailTo"), spot.get("Telephone", 0, "TelephoneNumber")
        known = {"name": name, "email": mail, "phone": phone}
        said = {key: place.value for key, place in known.items() if place.value is not None}
        word = role.word() if role.word() in words.ROLES else more.word()
        if self.draft.add("contacts", {"role": word, **said}, Contact):
            for place in (role, more, *known.values()):
                place.take()
            if spot.get("type").value == ("person" if "name" in said else "organization"):
                spot.get("type").take()

    def events(self, spot: Spot) -> None:
        """Systems of the attacker, and what is asked for; events within events too."""
        for event in self.shown(spot, "EventData"):
            for system in self.shown(event, "System"):
                self._system(system)
            for wish in self.shown(event, "Expectation"):
                self._wish(wish)
            self.methods(event)
            self.events(event)

    def _system(self, spot: Spot) -> None:
        roles = [role.get("category").word() or "" for role in spot.get("NodeRole").each()]
        category = spot.get("category")
        if spot.get("spoofed").value == "yes":
            return
        if category.value not in ("source", "infrastructure") and not words.ATTACKERS.intersection(roles):
            return
        self.kinds += roles
        for address in spot.get("Node", "Address").each():
            self._address(address, explicit=False)
        for domain in spot.get("Node", "DomainData").each():
            hostile(self.draft, domain.get("Name"), ("domain-name",))

    def _address(self, spot: Spot, *, explicit: bool, **more: str | None) -> bool:
        """File an address by the category that it has; `explicit` ones are indicators because they are said to be."""
        kinds = words.OBSERVABLES.get(spot.get("category").word() or "")
        before = len(spot.book.taken)
        if kinds and explicit:
            stated(self.draft, spot.get("value"), kinds, **more)
        elif kinds:
            hostile(self.draft, spot.get("value"), () if kinds[0].startswith("ip") else kinds)
        filed = len(spot.book.taken) > before
        if filed:
            spot.get("category").take()
        return filed

    def _wish(self, spot: Spot) -> None:
        action, more, text = spot.get("action"), spot.get("ext-action"), first(spot.get("Description"))
        word = action.word() or "other"
        if word == "nothing":
            return
        kind = more.word() if word == "ext-value" else words.ACTIONS.get(word, "other")
        detail = {"detail": text.value} if text.value is not None else {}
        if self.draft.add("assistance_requested", {"kind": kind, **detail}, AssistanceRequest):
            text.take()
            if word in ("ext-value", "other"):
                action.take()
                more.take()

    def indicators(self, spot: Spot) -> None:
        """Indicators that are one observable; expressions of several mean more than their parts, and stay here."""
        for indicator in self.shown(spot, "Indicator"):
            if not self._may(indicator.get("Observable")):
                continue
            text = first(indicator.get("Description"))
            begun, ended = indicator.get("StartTime"), indicator.get("EndTime")
            more = {"context": text.word(), "first_seen": begun.word(), "last_seen": ended.word()}
            if self._observable(indicator.get("Observable"), more):
                for place in (text, begun, ended):
                    place.take()
                if self.own:
                    indicator.get("IndicatorID").take()

    def _observable(self, spot: Spot, more: Mapping[str, str | None]) -> bool:
        filed = self._bulk(spot.get("BulkObservable"), more)
        if spot.get("Address").value:
            filed = self._address(spot.get("Address"), explicit=True, **more) or filed
        places: list[tuple[Spot, tuple[str, ...]]] = [
            (spot.get("DomainData", "Name"), ("domain-name",)),
            (spot.get("EmailData", "EmailFrom"), ("email-addr",)),
        ]
        keys = spot.get("WindowsRegistryKeysModified", "Key").each()
        places.extend((key.get("KeyName"), ("registry-key",)) for key in keys)
        for file in spot.get("FileData", "File").each():
            places.append((file.get("FileName"), ("file-name",)))
            for digest in file.get("HashData", "Hash").each():
                filed = self._digest(digest.get("DigestValue"), more) or filed
        for place, kinds in places:
            filed = stated(self.draft, place, kinds, **more) or filed
        return filed

    def _bulk(self, spot: Spot, more: Mapping[str, str | None]) -> bool:
        kind, own_kind, values = spot.get("type"), spot.get("ext-type"), spot.get("BulkObservableList")
        word = own_kind.word() or "" if kind.value == "ext-value" else kind.word() or ""
        kinds = (word,) if kind.value == "ext-value" and word in words.INDICATORS else words.OBSERVABLES.get(word)
        kinds = ("domain-name",) if word == "fqdn" else kinds
        lines = [line for value in values.each() for line in (value.word() or "").split("\n") if line.strip()]
        if kinds is None or not lines:
            return False
        filed = [stated(self.draft, Spot(line), kinds, **more) for line in lines]
        if all(filed):
            for place in (kind, own_kind, values):
                place.take()
        return any(filed)

    def _digest(self, spot: Spot, more: Mapping[str, str | None]) -> bool:
        """A digest in base64, as RFC 8727 has bytes, or in the hexadecimal digits that many write."""
        text = spot.word() or ""
        kinds = words.OBSERVABLES["file-hash"]
        sizes = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
        if len(text) not in sizes or not stated(self.draft, spot, (sizes[len(text)], *kinds), **more):
            try:
                digits = base64.b64decode(text, validate=True).hex()
            except (binascii.Error, ValueError):
                return False
            if len(digits) not in sizes or not stated(self.draft, Spot(digits), (sizes[len(digits)],), **more):
                return False
            spot.take()
        return True

    def history(self, spot: Spot) -> None:
        """What was done."""
        for item in self.shown(spot, "History", "HistoryItem"):
            action, text, time = item.get("action"), first(item.get("Description")), item.get("DateTime")
            at = {"at": time.value} if time.value is not None else {}
            if self.draft.add("actions", {"what": text.word() or action.word(), **at}, Action):
                for place in (text, time):
                    place.take()
                if text.word() is None or action.value == "other":
                    action.take()

    def undetermined(self) -> None:
        """Classify by impact and by the parts of systems what names no category."""
        if "rsit" in self.draft.header:
            return
        for kind, name in (words.MEANINGS[word] for word in self.kinds if word in words.MEANINGS):
            self.draft.add("rsit", {"class": kind, **({"type": name} if name else {})}, Rsit)
