"""OCSF findings: Detection Finding (2004) and Incident Finding (2005) read into filings. The writer is `ocsfout`.

Pure. Guarantees: what OCSF does not call hostile is no indicator. Observables point anywhere in an event, at the
victim's machines and users too, so only those count that lie in threat intelligence (`osint`) or malware, or that have
the reputation of being suspicious; evidences, resources, devices and users stay here. The strictest TLP label of an
event marks it. A finding with the verdict Test becomes a drill. Refuses: other classes, a deleted finding (withdraw the
report), a label that is none, an event without one if there is no default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from node.formats.block import NAME, from_milliseconds, marking_of, milliseconds, restore
from node.formats.foreign import Defaults, Foreign
from node.formats.meaning import (
    Meaning,
    band_of,
    drill,
    hostile,
    inside,
    made_by,
    relate,
    rsit_of,
    stated,
    tlp_at,
)
from node.formats.taking import Draft, Spot, read_each
from protocol.errors import ProtocolError
from protocol.parts import Attack, Line, Rsit, Vulnerability
from protocol.reasons import Reason
from protocol.taxonomy import RSIT

DETECTION: Final = 2004
INCIDENT: Final = 2005

SEVERITIES: Final = {"1": 5, "2": 15, "3": 40, "4": 70, "5": 95, "6": 100}
SEVERITY_NAMES: Final = {
    "0": "Unknown",
    "1": "Informational",
    "2": "Low",
    "3": "Medium",
    "4": "High",
    "5": "Critical",
    "6": "Fatal",
}
LEVELS: Final = {"0": "Unknown", "1": "Low", "2": "Medium", "3": "High", "4": "Critical"}
CONFIDENCES: Final = {"1": "low", "2": "moderate", "3": "high"}
VERDICTS: Final = {"1": "false-positive", "2": "confirmed", "4": "suspected"}
VERDICT_NAMES: Final = {"1": "False Positive", "2": "True Positive", "4": "Suspicious", "6": "Test"}
PHASES: Final = {"1": "initial", "2": "intermediate", "3": "final"}
ACTIVITY_NAMES: Final = {"1": "Create", "2": "Update", "3": "Close"}

STATUSES: Final[dict[int, dict[str, tuple[str, bool]]]] = {
    INCIDENT: {
        "1": ("new", True),
        "2": ("open", True),
        "3": ("open", False),
        "4": ("closed", False),
        "5": ("closed", True),
    },
    DETECTION: {
        "1": ("new", True),
        "2": ("open", True),
        "3": ("closed", False),
        "4": ("closed", True),
        "5": ("closed", False),
    },
}
"""Statuses by class, and whether the word says all that the source says."""

STATUS_NAMES: Final = {"0": "Unknown", "1": "New", "2": "In Progress", "5": "Closed"}

TECHNIQUES: Final[dict[str, Meaning]] = {
    "T1046": ("information-gathering", "scanner", True),
    "T1595": ("information-gathering", "scanner", True),
    "T1040": ("information-gathering", "sniffing", True),
    "T1566": ("fraud", "phishing", True),
    "T1110": ("intrusion-attempts", "brute-force", True),
    "T1190": ("intrusion-attempts", "ids-alert", True),
    "T1498": ("availability", "ddos", True),
    "T1499": ("availability", "dos", True),
    "T1485": ("availability", "sabotage", True),
    "T1486": ("malicious-code", "infected-system", True),
    "T1567": ("information-content-security", "data-leak", True),
    "T1041": ("information-content-security", "data-leak", True),
}
"""What a finding is that names no type of RSIT, by its techniques (a part counts as its technique)."""

OSINT: Final[dict[str, tuple[str, ...]]] = {
    "2": ("domain-name",),
    "3": ("hostname",),
    "4": ("sha256", "md5", "sha1", "sha512"),
    "5": ("url",),
    "6": ("user-agent",),
    "7": ("x509-sha256",),
    "9": ("email-addr",),
    "11": ("file-name",),
    "12": ("registry-key",),
}
"""Types of threat intelligence, and the indicator types that each may be; 1 is an address or a network."""

OBSERVABLES: Final[dict[str, tuple[str, ...]]] = {
    "1": ("hostname",),
    "2": (),
    "4": ("user-account",),
    "5": ("email-addr",),
    "6": ("url",),
    "7": ("file-name",),
    "8": ("sha256", "md5", "sha1", "sha512"),
    "12": (),
    "16": ("user-agent",),
}
SUSPICIOUS: Final = range(7, 11)
"""Reputation scores from "Suspicious/Risky" to "Malicious"."""


def read(data: bytes, defaults: Defaults) -> Sequence[Foreign | ProtocolError]:
    """Read a finding or an array of them. ProtocolError if the document is neither, or a lone finding is refused."""
    return read_each(data, lambda spot: finding(spot, defaults))


def finding(spot: Spot, defaults: Defaults) -> Foreign:
    """Read one finding, or raise ProtocolError."""
    kind = _class_of(spot)
    block = spot.get("unmapped", NAME)
    infos = (spot.get("finding_info") if kind == DETECTION else spot.get("finding_info_list")).each()
    own = isinstance(block.value, dict)
    draft = Draft()
    draft.header["marking"] = marking_of(block, _labels(spot), defaults, spot)
    _stage(draft, spot, kind)
    _severity(draft, spot)
    _judgement(draft, spot)
    _story(draft, spot, infos)
    _times(draft, spot, infos, own=own)
    for info in (spot, *infos):
        for attack in info.get("attacks").each():
            _attack(draft, attack)
    _rsit(draft, spot, infos)
    _malware(draft, spot)
    _intelligence(draft, spot)
    _observables(draft, spot)
    for ticket in spot.get("tickets").each():
        relate(draft, [ticket.get("uid")], "other")
    _makers(draft, spot, own=own)
    restore(block, draft)
    stated = spot.get("metadata", "modified_time").value
    return Foreign(spot.at, _source_id(spot, infos, own=own), draft.filing(), spot.left(), stated=stated)


def _key(spot: Spot) -> str:
    """The number of an enumeration as a key; nothing else is one."""
    return str(spot.value) if isinstance(spot.value, int) and not isinstance(spot.value, bool) else ""


def _enum(spot: Spot, name: str, names: Mapping[str, str]) -> tuple[str, Spot]:
    """The key of an enumeration by its number, or else by its caption; the caption is taken if it is the number's."""
    number, caption = spot.get(f"{name}_id"), spot.get(name)
    key, word = _key(number), (caption.word() or "").lower()
    if not key and number.value is None and word:
        key = next((key for key, name in names.items() if name.lower() == word), "")
        return key, caption
    if word and names.get(key, "").lower() == word:
        caption.take()
    return key, number


def _class_of(spot: Spot) -> int:
    number = spot.get("class_uid")
    kind: Any = number.value
    if kind is None and isinstance(spot.get("type_uid").value, int):
        kind = spot.get("type_uid").value // 100
    if kind not in (DETECTION, INCIDENT) or isinstance(kind, bool):
        reason = Reason.MISSING_FIELD if kind is None else Reason.UNKNOWN_VALUE
        raise ProtocolError(reason, number.at, "2004 (Detection Finding) and 2005 (Incident Finding) can be filed")
    number.take()
    said = int(kind)
    form: dict[str, Any] = {
        "category_uid": 2,
        "category_name": "Findings",
        "class_name": "Incident Finding" if said == INCIDENT else "Detection Finding",
        "type_uid": said * 100 + spot.get("activity_id").value if _key(spot.get("activity_id")) else None,
    }
    for name, value in form.items():
        if spot.get(name).value == value:
            spot.get(name).take()
    return said


def _labels(spot: Spot) -> list[str | None]:
    labels = [tlp_at(place.get("tlp")) for place in (spot, *spot.get("osint").each())]
    words = spot.get("metadata", "labels").each()
    labels.extend(tlp_at(label) for label in words if (label.word() or "").lower().startswith("tlp:"))
    for tag in spot.get("metadata", "tags").each():
        if (tag.get("name").word() or "").lower() == "tlp":
            labels.append(tlp_at(tag.get("value")))
            tag.take()
    return labels


def _stage(draft: Draft, spot: Spot, kind: int) -> None:
    activity, place = _enum(spot, "activity", ACTIVITY_NAMES)
    if phase := PHASES.get(activity):
        draft.header["phase"] = phase
        place.take()
        if spot.get("activity_name").value == ACTIVITY_NAMES[activity]:
            spot.get("activity_name").take()
    status, place = _enum(spot, "status", STATUS_NAMES)
    if kind == DETECTION and status == "6":
        raise ProtocolError(Reason.UNKNOWN_VALUE, place.at, "the finding was deleted: withdraw the report of it")
    if status in STATUSES[kind]:
        word, exact = STATUSES[kind][status]
        draft.put("status", word)
        if exact:
            place.take()
    elif status == "0":
        place.take()


def _severity(draft: Draft, spot: Spot) -> None:
    score = spot.get("impact_score")
    if _key(score) and draft.severity(score.value):
        score.take()
    severity, place = _enum(spot, "severity", SEVERITY_NAMES)
    if severity in SEVERITIES and draft.severity(SEVERITIES[severity]):
        place.take()
    exact = draft.header.get("severity", {}).get("score")
    if severity == "0" or (exact is not None and severity == severity_id(exact)):
        place.take()
    impact, place = _enum(spot, "impact", LEVELS)
    if impact == "0" or (exact is not None and impact == impact_id(exact)):
        place.take()


def severity_id(score: int) -> str:
    """The OCSF severity of a score, by the STIX criticality scale."""
    return {"none": "1", "low": "2", "moderate": "3", "high": "4", "extreme": "5"}[band_of(score)]


def impact_id(score: int) -> str:
    """The OCSF impact of a score."""
    return {"none": "0", "low": "1", "moderate": "2", "high": "3", "extreme": "4"}[band_of(score)]


def _judgement(draft: Draft, spot: Spot) -> None:
    confidence, place = _enum(spot, "confidence", LEVELS)
    if draft.put("confidence", CONFIDENCES.get(confidence)):
        place.take()
    verdict, place = _enum(spot, "verdict", VERDICT_NAMES)
    if draft.put("determination", VERDICTS.get(verdict)):
        place.take()
    elif verdict == "99" and draft.put("determination", (spot.get("verdict").word() or "").lower()):
        place.take()
        spot.get("verdict").take()
    elif verdict == "6":
        labels = [label for label in spot.get("metadata", "labels").each() if isinstance(label.value, str)]
        named = [label for label in labels if label.value.startswith("exercise:") and len(label.value) <= 300]
        drill(draft, *[label.take().removeprefix("exercise:") or "unnamed" for label in named[:1]])
        place.take()


def _story(draft: Draft, spot: Spot, infos: Sequence[Spot]) -> None:
    titles = [*(info.get("title") for info in infos[:1]), spot.get("message")]
    texts = [spot.get("desc"), *(info.get("desc") for info in infos[:1])]
    for name, places, limit in (("title", titles, 300), ("description", texts, 32_768)):
        for place in places:
            if name not in draft.body:
                draft.put(name, place.text(limit))
            elif place.value == draft.body[name]:
                place.take()


def _moment(spot: Spot, name: str) -> str | None:
    """A time, as text if there is one (`start_time_dt`), or else as milliseconds."""
    text, number = spot.get(f"{name}_dt").time(), spot.get(name)
    counted = from_milliseconds(number.value)
    if counted and (text is None or milliseconds(text) == number.value):
        number.take()
    return text or counted


def _times(draft: Draft, spot: Spot, infos: Sequence[Spot], *, own: bool) -> None:
    detected = None
    for place, name in (*((info, name) for info in infos[:1] for name in ("first_seen_time", "created_time")),):
        detected = detected or _moment(place, name)
    # In a document of ours the time is that of the revision, which stands in its block.
    if own:
        spot.get("time").take()
    said = {
        "occurred": _moment(spot, "start_time"),
        "detected": detected or (None if own else _moment(spot, "time")),
        "ended": _moment(spot, "end_time"),
    }
    times = {name: {"value": value} for name, value in said.items() if value}
    if times:
        draft.put("times", times)


def _attack(draft: Draft, spot: Spot) -> None:
    whole, part, tactic = (spot.get(name, "uid") for name in ("technique", "sub_technique", "tactic"))
    technique = part.word() or whole.word()
    if not technique:
        return
    said = {
        "technique": technique,
        # Techniques of the ICS matrix are numbered from T0800 on; those of the others cannot be told apart.
        "matrix": "ics" if technique.startswith("T0") else "enterprise",
        "tactic": tactic.word(),
        "attack_version": spot.get("version").word(),
    }
    if draft.add("attack", {name: value for name, value in said.items() if value}, Attack):
        for place in (part, tactic, spot.get("version")):
            place.take()
        if technique.startswith(whole.word() or ""):
            whole.take()


def _rsit(draft: Draft, spot: Spot, infos: Sequence[Spot]) -> None:
    words = [word for info in infos for word in info.get("types").each()]
    for place in (*words, *spot.get("metadata", "labels").each()):
        said = rsit_of(place.word() or "")
        if said and draft.add("rsit", said, Rsit):
            place.take()
    if "rsit" in draft.header:
        return
    for attack in draft.body.get("attack", []):
        kind, name, _ = TECHNIQUES.get(attack["technique"].partition(".")[0], ("other", None, False))
        if name in RSIT[kind]:
            draft.add("rsit", {"class": kind, "type": name}, Rsit)
    if "rsit" not in draft.header and spot.get("malware").each():
        draft.add("rsit", {"class": "malicious-code"}, Rsit)


def _malware(draft: Draft, spot: Spot) -> None:
    for found in spot.get("malware").each():
        name = found.get("name")
        if draft.add("malware", name.value, Line):
            name.take()
        for file in found.get("files").each():
            hostile(draft, file.get("name"), ("file-name",))
            for digest in file.get("hashes").each():
                stated(draft, digest.get("value"), OSINT["4"])
    for found in spot.get("vulnerabilities").each():
        number = found.get("cve", "uid")
        if draft.add("vulnerabilities", {"id": number.value}, Vulnerability):
            number.take()


def _intelligence(draft: Draft, spot: Spot) -> None:
    for entry in spot.get("osint").each():
        key, value, comment = _key(entry.get("type_id")), entry.get("value"), entry.get("comment")
        word = (entry.get("type").word() or "").lower()
        if key == "10":
            if draft.add("vulnerabilities", {"id": value.value}, Vulnerability):
                for place in (value, entry.get("type_id"), entry.get("type")):
                    place.take()
            continue
        kinds = () if key == "1" else (word,) if key == "99" else OSINT.get(key)
        if kinds is not None and stated(draft, value, kinds, context=comment.text(2_000)):
            entry.get("type_id").take()
            entry.get("type").take()


def _observables(draft: Draft, spot: Spot) -> None:
    for entry in spot.get("observables").each():
        root = (entry.get("name").word() or "").partition(".")[0].partition("[")[0]
        value = entry.get("value")
        if root in ("osint", "malware") and _known(draft, value.value):
            entry.take()
            continue
        kinds = OBSERVABLES.get(_key(entry.get("type_id")))
        score = entry.get("reputation", "score_id").value
        suspect = isinstance(score, int) and score in SUSPICIOUS
        if kinds is None or not (suspect or root in ("osint", "malware")) or inside(value.word() or ""):
            continue
        if stated(draft, value, kinds):
            entry.get("type_id").take()


def _known(draft: Draft, value: Any) -> bool:
    filed = [said["value"] for said in draft.body.get("indicators", [])]
    return value in filed or value in [said["id"] for said in draft.body.get("vulnerabilities", [])]


def _makers(draft: Draft, spot: Spot, *, own: bool) -> None:
    product = spot.get("metadata", "product")
    if own:
        for place in (product, spot.get("assignee_group"), spot.get("metadata", "logged_time")):
            place.take()
        for part in ("profiles", "version", "uid"):
            spot.get("metadata", part).take()
        return
    name, maker, version = (product.get(part) for part in ("name", "vendor_name", "version"))
    tool = " ".join(part.value for part in (maker, name) if isinstance(part.value, str) and part.value.strip())
    if made_by(draft, tool, version.word()):
        for place in (name, maker, version):
            if isinstance(place.value, str):
                place.take()


def _source_id(spot: Spot, infos: Sequence[Spot], *, own: bool) -> str:
    """How the source names the incident at every export: its correlation id, its address, or the uid of the finding.

    The uid of an event names one message about an incident, so it is the last resort.
    """
    places = [info.get("uid") for info in infos[:1]]
    if not own and len(infos) != 1:
        places = [spot.get("metadata", "correlation_uid"), spot.get("src_url"), *places]
    for place in (*places, spot.get("metadata", "uid")):
        if name := place.text(1_000):
            return name
    return ""
