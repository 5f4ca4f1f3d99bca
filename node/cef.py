"""Events as CEF in RFC 5424 messages, for SIEMs that know nothing else. Pure.

Guarantees: whatever an event or a report holds, a message is one line, and no field ends before its end or begins
another one: `|` and `\\` are escaped in the header, `=`, `\\` and line ends in the extension, other control characters
become spaces. Of reports it says ids, reason, severity, TLP, RSIT and origin; title and description only if that was
chosen, and of reports up to a chosen marking.
"""

from __future__ import annotations

import re
from typing import Any, Final

from node.about import About, strictness
from node.outputs import Syslog
from node.store import instant
from node.views import iso

VERSION: Final = "1"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_NAME: Final = re.compile(r"[^\x21-\x7e]")
_LONGEST: Final = 1_023
"""Characters of a value."""
_UNKNOWN: Final = 5
"""CEF severity of what has none."""
_LOUD: Final = {"alarm": 8, "webhook.disabled": 7, "report.unread": 7, "report.unconfirmed": 7}
"""The least CEF severity of some kinds."""
_NAMES: Final = {
    "alarm": "Alarm",
    "alarm.cleared": "Alarm cleared",
    "report.filed": "Report filed",
    "report.receipt": "Receipt from the broker",
    "report.confirmed": "Report confirmed by a recipient",
    "report.received": "Report received",
    "report.refused": "Report refused",
    "report.delivered": "Report delivered",
    "report.linked": "Reports linked",
    "report.proven": "Report proven in the log",
    "report.state": "Report handled here",
    "report.stopped": "Delivery stopped",
    "report.withdrawn": "Report withdrawn",
    "report.expired": "Report expired",
    "report.unread": "Report not read in time",
    "report.unconfirmed": "Report not read in time by a recipient",
    "webhook.disabled": "Webhook disabled",
    "webhook.enabled": "Webhook enabled",
}


def in_header(text: str) -> str:
    """A value of the header of a CEF message."""
    return _CONTROL.sub(" ", text[:_LONGEST]).replace("\\", "\\\\").replace("|", "\\|")


def in_extension(text: str) -> str:
    """A value of its extension."""
    text = text[:_LONGEST].replace("\\", "\\\\").replace("=", "\\=")
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\\n")
    return _CONTROL.sub(" ", text)


def severity(known: About) -> int:
    """From 0 to 10, from the report's score and the kind of event."""
    found = _UNKNOWN if known.severity is None else round(known.severity / 10)
    return max(found, _LOUD.get(known.event.kind, 0)) if known.report or known.event.kind in _LOUD else 3


def cef(known: About, settings: Syslog) -> str:
    """The CEF message of an event."""
    event, facts = known.event, known.facts
    name = _NAMES.get(event.kind, event.kind)
    head = "|".join(in_header(part) for part in ("Kentongan", "node", VERSION, event.kind, name, str(severity(known))))
    fields: list[tuple[str, Any]] = [
        ("rt", event.at // 1_000),
        ("cnt", 1),
        ("externalId", facts.get("report_id")),
        ("reason", facts.get("reason")),
        ("outcome", facts.get("outcome") or facts.get("state")),
        ("suser", known.origin),
        ("duser", facts.get("member") or facts.get("by")),
    ]
    fields += _labelled("cn1", "event", event.seq) + _labelled("cn2", "revision", facts.get("revision"))
    fields += _labelled("cs1", "tlp", known.tlp if known.report else None) + _labelled("cs2", "rsit", known.rsit)
    fields += _labelled("cs3", "origin", known.origin) + _labelled("cs4", "incident", facts.get("incident_id"))
    fields += _labelled("cs5", "about", facts.get("about") or facts.get("webhook"))
    if settings.content and known.report and strictness(known.tlp) <= strictness(settings.content_tlp):
        fields += [("msg", known.title), *_labelled("cs6", "description", known.description)]
    shown = (f"{key}={in_extension(str(value))}" for key, value in fields if value not in (None, ""))
    return f"CEF:0|{head}|{' '.join(shown)}"


def _labelled(key: str, label: str, value: Any) -> list[tuple[str, Any]]:
    return [] if value in (None, "") else [(f"{key}Label", label), (key, value)]


def syslog(known: About, settings: Syslog, member: str) -> bytes:
    """The RFC 5424 message of an event; the host is the member."""
    # 0 is the most urgent of syslog's severities and the least of CEF's.
    level = 6 if severity(known) < 4 else 5 if severity(known) < 7 else 4 if severity(known) < 9 else 2
    priority = settings.facility * 8 + level
    time = iso(instant(known.event.at))
    host, kind = (_NOT_NAME.sub("-", text)[:32] for text in (member, known.event.kind))
    return f"<{priority}>1 {time} {host} kentongan - {kind} - {cef(known, settings)}".encode()
