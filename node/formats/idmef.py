"""IDMEFv2 (draft-lehmann-idmefv2, versions 2.D.V04 to 2.D.V08 and later), read into filings.

Pure. Guarantees: what a message calls a source is filed as an indicator, unless it lies in a private network or the
category says that it is an insider. What it calls a target stays here, but for the services (victim) and, of the first
target that has a UN/LOCODE, the country and position (location). Names and addresses of analyzers and sensors stay
here. A message of a test category becomes a drill. The categories of both vocabularies are known: that of RSIT up to
V06, and the wider one since. Refuses: other formats, a message without a default marking (the format has none).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from node.formats.foreign import Defaults, Foreign
from node.formats.meaning import (
    SCORES,
    Meaning,
    at_times,
    classify,
    confidence_of,
    drill,
    hostile,
    later,
    made_by,
    marked,
    refer,
    relate,
)
from node.formats.taking import Draft, Spot, read_each
from protocol.errors import ProtocolError
from protocol.parts import Attack, Line, SectorRef
from protocol.reasons import Reason

CATEGORIES: Final[dict[str, Meaning]] = {
    # up to V06: RSIT by other names
    "abusive": ("abusive-content", None, True),
    "abusive.spam": ("abusive-content", "spam", True),
    "abusive.harassment": ("abusive-content", "harmful-speech", True),
    "abusive.illicit": ("abusive-content", "violence", True),
    "malicious.system": ("malicious-code", "infected-system", True),
    "malicious.botnet": ("malicious-code", "c2-server", True),
    "malicious.distribution": ("malicious-code", "malware-distribution", True),
    "malicious.configuration": ("malicious-code", "malware-configuration", True),
    "recon.scanning": ("information-gathering", "scanner", True),
    "recon.sniffing": ("information-gathering", "sniffing", True),
    "recon.socialengineering": ("information-gathering", "social-engineering", True),
    "attempt.exploit": ("intrusion-attempts", "ids-alert", True),
    "attempt.login": ("intrusion-attempts", "brute-force", True),
    "attempt.newsignature": ("intrusion-attempts", "exploit", True),
    "intrusion.admincompromise": ("intrusions", "privileged-account-compromise", True),
    "intrusion.usercompromise": ("intrusions", "unprivileged-account-compromise", True),
    "intrusion.appcompromise": ("intrusions", "application-compromise", True),
    "intrusion.syscompromise": ("intrusions", "system-compromise", True),
    "intrusion.burglary": ("intrusions", "burglary", True),
    "availability.dos": ("availability", "dos", True),
    "availability.ddos": ("availability", "ddos", True),
    "availability.misconf": ("availability", "misconfiguration", True),
    "availability.theft": ("availability", "sabotage", False),
    "availability.sabotage": ("availability", "sabotage", True),
    "availability.outage": ("availability", "outage", True),
    "availability.failure": ("availability", "outage", False),
    "information.unauthorizedaccess": ("information-content-security", "unauthorised-information-access", True),
    "information.unauthorizedmodification": (
        "information-content-security",
        "unauthorised-information-modification",
        True,
    ),
    "information.dataloss": ("information-content-security", "data-loss", True),
    "information.dataleak": ("information-content-security", "data-leak", True),
    "fraud.unauthorizedusage": ("fraud", "unauthorised-use-of-resources", True),
    "fraud.copyright": ("fraud", "copyright", True),
    "fraud.masquerade": ("fraud", "masquerade", True),
    "fraud.phishing": ("fraud", "phishing", True),
    "vulnerable.crypto": ("vulnerable", "weak-crypto", True),
    "vulnerable.ddos": ("vulnerable", "ddos-amplifier", True),
    "vulnerable.surface": ("vulnerable", "potentially-unwanted-accessible", True),
    "vulnerable.disclosure": ("vulnerable", "information-disclosure", True),
    "vulnerable.system": ("vulnerable", "vulnerable-system", True),
    "other.uncategorised": ("other", "other", True),
    "other.undetermined": ("other", "undetermined", True),
    "test.test": ("test", "test", True),
    # since V07: wider than RSIT
    "abuse": ("abusive-content", None, False),
    "abuse.harassment": ("abusive-content", "harmful-speech", True),
    "access": ("intrusions", None, False),
    "access.compromise": ("intrusions", "system-compromise", True),
    "access.escalation": ("intrusions", "privileged-account-compromise", True),
    "access.forced": ("intrusion-attempts", "brute-force", False),
    "access.unauthorized": ("information-content-security", "unauthorised-information-access", False),
    "availability.misconfiguration": ("availability", "misconfiguration", True),
    "availability": ("availability", None, False),
    "fraud": ("fraud", None, False),
    "fraud.usage": ("fraud", "unauthorised-use-of-resources", True),
    "insider": ("intrusions", None, False),
    "malware": ("malicious-code", "infected-system", False),
    "malware.ransomware": ("malicious-code", "infected-system", True),
    "recon": ("information-gathering", None, False),
    "recon.network": ("information-gathering", "scanner", True),
    "recon.netword": ("information-gathering", "scanner", True),
    "sabotage": ("availability", "sabotage", False),
    "sabotage.disruption": ("availability", "sabotage", True),
    "sabotage.data": ("information-content-security", "unauthorised-information-modification", False),
    "socialeng": ("information-gathering", "social-engineering", False),
    "socialeng.phishing": ("fraud", "phishing", True),
    "socialeng.spear phishing": ("fraud", "phishing", False),
    "socialeng.smishing": ("fraud", "phishing", False),
    "socialeng.vishing": ("fraud", "phishing", False),
    "theft": ("information-content-security", "data-leak", False),
    "theft.data": ("information-content-security", "data-leak", True),
    "other": ("other", "other", False),
    "other.test": ("test", "test", True),
    # what is no cyber incident has one place in RSIT
    **dict.fromkeys(
        (
            *("biological", "climat", "climatological", "extraterrestrial", "geophysical", "hydro", "hydrological"),
            *("meteo", "meteorological", "national", "operational", "safety", "supplychain"),
        ),
        ("other", "other", False),
    ),
}
"""IDMEFv2 categories in lower case; what is not listed counts as what stands before its dot, with loss."""

SECTORS: Final = {
    "administration": "government",
    "banking": "finance.banking",
    "chemical": "chemical",
    "defense": "defence",
    "digital": "ict.digital",
    "digital.telecomnetworks": "ict.telecom",
    "digital.satellitecommunications": "ict.telecom",
    "digital.underseacables": "ict.telecom",
    "education": "education",
    "emergency": "emergency",
    "energy": "energy",
    "energy.electricity": "energy.electricity",
    "energy.gas": "energy.gas",
    "energy.oil": "energy.oil",
    "finance": "finance",
    "finance.paymentsystems": "finance.payment",
    "food": "food-agri",
    "health": "health",
    "logistics": "logistics",
    "manufacturing": "manufacturing",
    "manufacturing.chemical": "chemical",
    "media": "media",
    "nuclear": "energy",
    "postal": "logistics",
    "research": "science-tech",
    "transport": "transport",
    "transport.aviation": "transport.air",
    "transport.maritime": "transport.maritime",
    "transport.publictransport": "transport.land",
    "transport.rail": "transport.rail",
    "transport.road": "transport.land",
    "water": "water",
    "water.drinkingwater": "water.supply",
    "water.wastewater": "water.waste",
}
"""Sectors in lower case; what is not listed counts as what stands before its dot, or as `other`. The source's own name
stays beside it."""

PRIORITIES: Final = {"info": "none", "low": "low", "medium": "moderate", "high": "high"}
CAUSES: Final = {
    "malicious": "malicious-actions",
    "error": "human-errors",
    "malfunction": "system-failures",
    "hazard": "natural-phenomena",
}
_STATUSES: Final = {"open": ("status", "open"), "closed": ("status", "closed"), "falsepositive": ("determination",)}


def read(data: bytes, defaults: Defaults) -> Sequence[Foreign | ProtocolError]:
    """Read a message or an array of them. ProtocolError if the document is neither, or a lone message is refused."""
    return read_each(data, lambda spot: _message(spot, defaults))


def _message(spot: Spot, defaults: Defaults) -> Foreign:
    mark = spot.get("Version")
    if not isinstance(mark.value, str) or not mark.value.startswith("2."):
        reason = Reason.MISSING_FIELD if mark.value is None else Reason.UNKNOWN_VALUE
        raise ProtocolError(reason, mark.at, "an IDMEFv2 message says its version here, such as `2.D.V08`")
    mark.take()
    draft = Draft()
    draft.header["marking"] = marked([], defaults, spot)
    insider = _categories(draft, spot)
    _story(draft, spot)
    _judgement(draft, spot)
    _victim(draft, spot)
    for source in spot.get("Source").each():
        if not insider:
            _source(draft, source)
    for target in spot.get("Target").each():
        _target(draft, target)
    model = spot.get("Analyzer", "Model")
    if made_by(draft, model.word() or ""):
        model.take()
    if spot.get("Analyzer").value:
        draft.put("detection_methods", ["automated-tool"])
    source_id = spot.get("ID").text(1_000) or ""
    return Foreign(spot.at, source_id, draft.filing(), spot.left())


def _categories(draft: Draft, spot: Spot) -> bool:
    """File the categories; True if one says that the source is an insider."""
    physical = "physical" in [(kind.word() or "").lower() for kind in spot.get("Type").each()]
    forced: Meaning = ("intrusions", "burglary", False)
    meanings = {**CATEGORIES, "access.forced": forced} if physical else CATEGORIES
    insider = False
    for category in spot.get("Category").each():
        word = (category.word() or "").lower()
        classify(draft, category, meanings)
        insider = insider or word.startswith("insider.")
        if word == "malware.ransomware":
            draft.add("attack", {"technique": "T1486"}, Attack)
        if word in ("other.test", "test.test"):
            drill(draft)
    return insider


def _story(draft: Draft, spot: Spot) -> None:
    draft.put("title", spot.get("Description").text())
    draft.put("description", spot.get("Note").text(32_768))
    begun, made = spot.get("StartTime"), spot.get("CreateTime")
    # A forecast: what is yet to come is no time at which something happened.
    if later(begun, made):
        at_times(draft, {"detected": made})
    else:
        at_times(draft, {"detected": made, "occurred": begun, "ended": spot.get("EndTime")})
    for reference in spot.get("Ref").each():
        refer(draft, reference)
    relate(draft, spot.get("CorrelID").each(), "derived-from")
    relate(draft, spot.get("PredID").each(), "same-incident", exact=False)
    relate(draft, spot.get("RelID").each(), "other")


def _judgement(draft: Draft, spot: Spot) -> None:
    for status in spot.get("Status").each():
        name, *value = _STATUSES.get((status.word() or "").lower(), ("",))
        if name and draft.put(name, value[0] if value else "false-positive"):
            status.take()
    cause = spot.get("Cause")
    if category := CAUSES.get((cause.word() or "").lower()):
        draft.put("root_cause", {"category": category})
        cause.take()
    # A priority is impact and urgency in one: the severity is only part of what it says, so it stays listed.
    if word := PRIORITIES.get((spot.get("Priority").word() or "").lower()):
        draft.severity(SCORES[word])
    confidence = spot.get("Confidence").number()
    if confidence is not None and 0 <= confidence <= 1:
        draft.put("confidence", confidence_of(confidence))


def _victim(draft: Draft, spot: Spot) -> None:
    """The organisation that is watched over is the one that the incident happened to."""
    sectors = []
    for sector in spot.get("EntitySector").each():
        word = (sector.word() or "").lower()
        code = SECTORS.get(word) or SECTORS.get(word.partition(".")[0], "other")
        said = {"code": code, "scheme": "idmefv2", "national_code": sector.word()}
        if word and word != "undefined" and draft.add("sectors", said, SectorRef):
            sector.take()
            sectors.append(code)
    for place in (spot.get("OrganisationName"), spot.get("EntityName")):
        name = place.word()
        if name and name.strip() and "victim" not in draft.body and len(name) <= 300:
            draft.put("victim", {"name": name, **({"sector": sectors[0]} if len(set(sectors)) == 1 else {})})
            place.take()


def _source(draft: Draft, spot: Spot) -> None:
    hostile(draft, spot.get("IP"))
    hostile(draft, spot.get("Hostname"), ("hostname",))
    hostile(draft, spot.get("Email"), ("email-addr",))
    hostile(draft, spot.get("User"), ("user-account",))


def _target(draft: Draft, spot: Spot) -> None:
    service = spot.get("Service")
    if draft.add("services", service.value, Line):
        service.take()
    code = re.fullmatch(r"([A-Z]{2}) ?[A-Z2-9]{3}", spot.get("UnLocation").word() or "")
    if code is None or "geo" in draft.body:
        return
    said = {"country": code[1].lower()}
    place = spot.get("GeoLocation")
    position = re.fullmatch(r"([-+]?\d+(?:\.\d*)?), ?([-+]?\d+(?:\.\d*)?)", place.word() or "")
    # Only the country of the UN/LOCODE is filed, so it stays listed.
    if position and draft.put("geo", {**said, "latitude": float(position[1]), "longitude": float(position[2])}):
        place.take()
    else:
        draft.put("geo", said)
