"""IDEA0, the alerts of Warden and Mentat (CESNET), read into filings.

Pure. Guarantees: what an alert calls a source is filed as an indicator, unless it is spoofed or anonymised, lies in a
private network, or is the victim itself: the source of a `Vulnerable` alert, of backscatter, an open resolver. What it
calls a target stays here, unless its type says that it serves the attacker. Names of sensors stay here. An alert of
the category `Test` becomes a drill. Refuses: other formats, a `TLP` that is no label, an alert without a marking if
there is no default one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from node.formats.foreign import Defaults, Foreign
from node.formats.meaning import (
    Meaning,
    at_times,
    classify,
    confidence_of,
    drill,
    hostile,
    made_by,
    marked,
    refer,
    relate,
    tlp_at,
)
from node.formats.taking import Draft, Spot, read_each
from protocol.errors import ProtocolError
from protocol.parts import Attack
from protocol.reasons import Reason

CATEGORIES: Final[dict[str, Meaning]] = {
    "abusive": ("abusive-content", None, True),
    "abusive.spam": ("abusive-content", "spam", True),
    "abusive.harassment": ("abusive-content", "harmful-speech", True),
    "abusive.child": ("abusive-content", "violence", False),
    "abusive.sexual": ("abusive-content", "violence", False),
    "abusive.violence": ("abusive-content", "violence", True),
    "malware": ("malicious-code", None, True),
    "malware.ransomware": ("malicious-code", "infected-system", True),
    "recon": ("information-gathering", None, True),
    "recon.scanning": ("information-gathering", "scanner", True),
    "recon.sniffing": ("information-gathering", "sniffing", True),
    "recon.socialengineering": ("information-gathering", "social-engineering", True),
    "recon.searching": ("information-gathering", "scanner", False),
    "attempt": ("intrusion-attempts", None, True),
    "attempt.exploit": ("intrusion-attempts", "ids-alert", True),
    "attempt.login": ("intrusion-attempts", "brute-force", True),
    "attempt.newsignature": ("intrusion-attempts", "exploit", True),
    "intrusion": ("intrusions", None, True),
    "intrusion.admincompromise": ("intrusions", "privileged-account-compromise", True),
    "intrusion.usercompromise": ("intrusions", "unprivileged-account-compromise", True),
    "intrusion.appcompromise": ("intrusions", "application-compromise", True),
    "intrusion.botnet": ("malicious-code", "infected-system", False),
    "availability": ("availability", None, True),
    "availability.dos": ("availability", "dos", True),
    "availability.ddos": ("availability", "ddos", True),
    "availability.sabotage": ("availability", "sabotage", True),
    "availability.outage": ("availability", "outage", True),
    "information": ("information-content-security", None, True),
    "information.unauthorizedaccess": ("information-content-security", "unauthorised-information-access", True),
    "information.unauthorizedmodification": (
        "information-content-security",
        "unauthorised-information-modification",
        True,
    ),
    "fraud": ("fraud", None, True),
    "fraud.unauthorizedusage": ("fraud", "unauthorised-use-of-resources", True),
    "fraud.copyright": ("fraud", "copyright", True),
    "fraud.masquerade": ("fraud", "masquerade", True),
    "fraud.phishing": ("fraud", "phishing", True),
    "fraud.scam": ("fraud", None, False),
    "vulnerable": ("vulnerable", None, True),
    "vulnerable.open": ("vulnerable", "potentially-unwanted-accessible", True),
    "vulnerable.config": ("vulnerable", "vulnerable-system", False),
    "anomaly": ("other", "other", False),
    "other": ("other", "other", True),
    "test": ("test", "test", True),
}
"""IDEA categories in lower case; what is not listed counts as what stands before its dot, with loss."""

VICTIMS: Final = frozenset({"backscatter", "open", "poisoned", "casualip"})
"""Types of a source that is used by the attacker, and is nobody's to block."""

ATTACKERS: Final = frozenset({"cc", "phishing", "originmalware", "fastflux", "booter"})
"""Types of a target that serves the attacker."""

_ADDRESSES: Final = ("IP4", "IP6")
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "Hostname": ("hostname",),
    "URL": ("url",),
    "Email": ("email-addr",),
    "ASN": ("asn",),
}


def read(data: bytes, defaults: Defaults) -> Sequence[Foreign | ProtocolError]:
    """Read an alert or an array of them. ProtocolError if the document is neither, or a lone alert is refused."""
    return read_each(data, lambda spot: _alert(spot, defaults))


def _alert(spot: Spot, defaults: Defaults) -> Foreign:
    mark = spot.get("Format")
    if mark.value != "IDEA0":
        reason = Reason.MISSING_FIELD if mark.value is None else Reason.UNKNOWN_VALUE
        raise ProtocolError(reason, mark.at, "an IDEA alert says `IDEA0` here")
    mark.take()
    draft = Draft()
    draft.header["marking"] = marked([tlp_at(spot.get("TLP"))], defaults, spot)
    classes = _categories(draft, spot)
    _story(draft, spot)
    for source in spot.get("Source").each():
        if "vulnerable" not in classes and not _types(source) & VICTIMS:
            _endpoint(draft, source)
    for target in spot.get("Target").each():
        if _types(target) & ATTACKERS:
            _endpoint(draft, target)
    for sample in spot.get("Attach").each():
        _sample(draft, sample)
    _detectors(draft, spot)
    source_id = spot.get("ID").text(1_000) or ""
    return Foreign(spot.at, source_id, draft.filing(), spot.left())


def _types(spot: Spot) -> set[str]:
    return {(kind.word() or "").lower() for kind in spot.get("Type").each()}


def _categories(draft: Draft, spot: Spot) -> set[str]:
    controls = any("cc" in _types(source) for source in spot.get("Source").each())
    meanings = {**CATEGORIES, "intrusion.botnet": ("malicious-code", "c2-server", True)} if controls else CATEGORIES
    classes = set()
    for category in spot.get("Category").each():
        classes.add(classify(draft, category, meanings))
        word = (category.word() or "").lower()
        if word == "malware.ransomware":
            draft.add("attack", {"technique": "T1486"}, Attack)
        if word == "test":
            drill(draft)
    return classes


def _story(draft: Draft, spot: Spot) -> None:
    draft.put("title", spot.get("Description").text())
    draft.put("description", spot.get("Note").text(32_768))
    at_times(
        draft,
        {"detected": spot.get("DetectTime"), "occurred": spot.get("EventTime"), "ended": spot.get("CeaseTime")},
    )
    confidence = spot.get("Confidence").number()
    if confidence is not None and 0 <= confidence <= 1:
        draft.put("confidence", confidence_of(confidence))
    for reference in spot.get("Ref").each():
        refer(draft, reference)
    relate(draft, spot.get("CorrelID").each(), "derived-from")
    relate(draft, spot.get("AggrID").each(), "derived-from", exact=False)
    relate(draft, spot.get("PredID").each(), "same-incident", exact=False)
    relate(draft, spot.get("RelID").each(), "other")


def _endpoint(draft: Draft, spot: Spot) -> None:
    if spot.get("Spoofed").value is True or spot.get("Anonymised").value is True:
        return
    context = "imprecise" if spot.get("Imprecise").value is True else None
    for name in _ADDRESSES:
        for address in spot.get(name).each():
            hostile(draft, address, (), context)
    for name, kinds in _NAMES.items():
        for value in spot.get(name).each():
            hostile(draft, value, kinds, context)


def _sample(draft: Draft, spot: Spot) -> None:
    """Hashes and names of what is attached, if it is said to be malware and not, say, a log of the victim."""
    if "malware" not in _types(spot):
        return
    for digest in spot.get("Hash").each():
        kind, _, value = (digest.word() or "").partition(":")
        if kind.lower() in ("md5", "sha1", "sha256", "sha512", "ssdeep") and draft.indicator(value, kind.lower()):
            digest.take()
    for name in spot.get("FileName").each():
        hostile(draft, name, ("file-name",))


def _detectors(draft: Draft, spot: Spot) -> None:
    """The software that detected it; never the names of sensors, which say whose they are and where."""
    nodes = spot.get("Node").each()
    if nodes:
        draft.put("detection_methods", ["automated-tool"])
    for node in nodes[:1]:
        words = node.get("SW").each()
        tool = ", ".join(word.value for word in words if isinstance(word.value, str))
        if words and made_by(draft, tool) and all(isinstance(word.value, str) for word in words):
            node.get("SW").take()
