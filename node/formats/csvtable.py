"""Tables for spreadsheets and e-mail: a header row, then one incident a row (RFC 4180, UTF-8 with or without a BOM).

Guarantees: what is written is read back as the same values; no cell that is written begins as a formula does; columns
that the table does not know, and cells that fit nowhere, are unmapped. Lists stand in one cell, divided by `;` (`\\;`
is one that divides nothing); an indicator is `type=value`. Refuses text that is not UTF-8 and a table without a header.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from node.formats.foreign import Defaults, Foreign, Shown
from protocol import limits, taxonomy
from protocol.errors import ProtocolError
from protocol.reasons import Reason

_TIMES: Final = ("occurred", "detected", "classified", "contained", "recovered", "ended")
_TYPES: Final = frozenset(get_args(taxonomy.IndicatorType))
_TEXTS: Final = ("title", "description", "status", "determination", "confidence")
COLUMNS: Final[Mapping[str, str]] = {
    "source_id": "the row's own name, by which it is known again",
    "tlp": "marking.tlp",
    "pap": "marking.pap",
    "recipients": "marking.recipients",
    "phase": "phase",
    "rsit": "rsit, each as class or class/type",
    "severity": "severity.score",
    "sectors": "sectors",
    **{name: f"body.{name}" for name in _TEXTS},
    **{name: f"body.times.{name}" for name in _TIMES},
    "victim": "body.victim.name",
    "victim_sector": "body.victim.sector",
    "country": "body.geo.country",
    "services": "body.services",
    "actor": "body.actor.name",
    "malware": "body.malware",
    "attack": "body.attack, techniques of Enterprise",
    "vulnerabilities": "body.vulnerabilities, ids",
    "indicators": "body.indicators, type=value",
}
"""The columns that are read, and where they go."""

ABOUT: Final = ("report_id", "revision", "origin", "issued_at", "withheld", "undisclosed")
"""What is written beside them; read back, it is unmapped: a table does not say which report it is."""

_STARTS: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'")
"""What spreadsheets take for the start of a formula, and the sign that takes that back."""


def _guard(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_STARTS) else cell


def _bare(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_STARTS) else cell


def _joined(values: Sequence[str]) -> str:
    return ";".join(value.replace("\\", "\\\\").replace(";", "\\;") for value in values)


def _split(cell: str) -> list[str]:
    parts, current, escaped = [], "", False
    for char in cell:
        if escaped or char not in "\\;":
            current, escaped = current + char, False
        elif char == "\\":
            escaped = True
        else:
            parts.append(current)
            current = ""
    # Blanks around a value are how people write lists; within one they stay.
    return [part.strip() for part in [*parts, current] if part.strip()]


# --- reading ----------------------------------------------------------------------------------------------------


def read(data: bytes, defaults: Defaults) -> Sequence[Foreign | ProtocolError]:
    """Each row an incident."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ProtocolError(Reason.INVALID_VALUE, "$", "a table is UTF-8: save it as CSV UTF-8") from exc
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: list[Foreign | ProtocolError] = []
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        if not names or len(set(names)) != len(names) or not set(names) & set(COLUMNS):
            known = ", ".join(COLUMNS)
            raise ProtocolError(
                Reason.MISSING_FIELD, "$", f"the first row names the columns, each once: some of {known}"
            )
        for cells in rows:
            if any(cell.strip() for cell in cells):
                found.append(_row(names, cells, f"$[{len(found)}]", defaults))
    except csv.Error as exc:
        raise ProtocolError(Reason.INVALID_VALUE, f"$[{len(found)}]", "not a row of RFC 4180: check quotes") from exc
    return found


def _row(names: Sequence[str], cells: Sequence[str], at: str, defaults: Defaults) -> Foreign | ProtocolError:
    if len(cells) > len(names):
        return ProtocolError(Reason.INVALID_VALUE, at, f"the row has {len(cells)} cells, the header {len(names)}")
    given = {name: _bare(cell) for name, cell in zip(names, cells, strict=False) if cell}
    raw = msgspec.json.encode(given)
    left = dict(given)
    source_id = left.pop("source_id", "")
    filing: dict[str, Any] = {"rsit": _rsit(left.pop("rsit", ""))}
    if "tlp" in left:
        filing["marking"] = _marking(left, defaults)
    if "phase" in left:
        filing["phase"] = left.pop("phase")
    if left.get("severity", "").isdecimal():
        filing["severity"] = {"score": int(left.pop("severity"))}
    if "sectors" in left:
        filing["sectors"] = [{"code": code} for code in _split(left.pop("sectors"))]
    body = filing["body"] = {**_single(left), **_lists(left)}
    odd: dict[str, str] = {}
    if "indicators" in left:
        body["indicators"], odd = _indicators(left.pop("indicators"))
    if not body.get("indicators", True):
        del body["indicators"]
    if any(isinstance(value, list) and len(value) > limits.LIST_ELEMENTS for value in body.values()):
        return ProtocolError(Reason.TOO_MANY, at, f"a list has at most {limits.LIST_ELEMENTS} elements")
    unmapped = {f"{at}.{name}": cell for name, cell in (left | odd).items()}
    return Foreign(at, source_id, filing, unmapped, raw, given.get("modified"))


def _marking(left: dict[str, str], defaults: Defaults) -> dict[str, Any]:
    marking: dict[str, Any] = {"tlp": left.pop("tlp").upper().removeprefix("TLP:")}
    if "pap" in left:
        marking["pap"] = left.pop("pap").upper().removeprefix("PAP:")
    if "recipients" in left:
        marking["recipients"] = _split(left.pop("recipients"))
    elif defaults.marking and "recipients" in defaults.marking:
        marking["recipients"] = defaults.marking["recipients"]
    return marking


def _single(left: dict[str, str]) -> dict[str, Any]:
    body: dict[str, Any] = {name: left.pop(name) for name in _TEXTS if name in left}
    times = {name: {"value": left.pop(name)} for name in _TIMES if name in left}
    if times:
        body["times"] = times
    if "victim" in left:
        body["victim"] = {"name": left.pop("victim")}
        if "victim_sector" in left:
            body["victim"]["sector"] = left.pop("victim_sector")
    if "country" in left:
        body["geo"] = {"country": left.pop("country").lower()}
    if "actor" in left:
        body["actor"] = {"name": left.pop("actor")}
    return body


def _lists(left: dict[str, str]) -> dict[str, Any]:
    body: dict[str, Any] = {name: _split(left.pop(name)) for name in ("services", "malware") if name in left}
    for name, key in (("attack", "technique"), ("vulnerabilities", "id")):
        if name in left:
            body[name] = [{key: value} for value in _split(left.pop(name))]
    return body


def _indicators(cell: str) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Those that say their type, and the others by their place."""
    found, odd = [], {}
    for index, text in enumerate(_split(cell)):
        kind, divided, value = text.partition("=")
        if divided and kind in _TYPES and value:
            found.append({"type": kind, "value": value})
        else:
            odd[f"indicators[{index}]"] = text
    return found, odd


def _rsit(cell: str) -> list[dict[str, str]]:
    found = []
    for text in _split(cell):
        class_, divided, type_ = text.partition("/")
        found.append({"class": class_, "type": type_} if divided else {"class": class_})
    return found or [{"class": "other", "type": "undetermined"}]


# --- writing ----------------------------------------------------------------------------------------------------


def write(shown: Sequence[Shown]) -> bytes:
    """The table; with a BOM, by which spreadsheets know that it is UTF-8."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\r\n")
    rows.writerow([*COLUMNS, *ABOUT])
    for item in shown:
        cells = _cells(item)
        rows.writerow([_guard(cells.get(name, "")) for name in (*COLUMNS, *ABOUT)])
    return text.getvalue().encode("utf-8-sig")


def _cells(item: Shown) -> dict[str, str]:
    header, body = item.header, item.body
    marking, victim = header.get("marking", {}), body.get("victim") or body.get("victim_coarse") or {}
    times = body.get("times") or body.get("times_coarse") or {}
    geo = body.get("geo") or body.get("geo_coarse") or {}
    return {
        "tlp": marking.get("tlp", ""),
        "pap": marking.get("pap", ""),
        "recipients": _joined(marking.get("recipients", [])),
        "phase": header.get("phase", "initial"),
        "rsit": _joined(["/".join(filter(None, (r["class"], r.get("type")))) for r in header.get("rsit", [])]),
        "severity": str(header["severity"]["score"]) if "severity" in header else "",
        "sectors": _joined([sector["code"] for sector in header.get("sectors", [])]),
        **{name: body.get(name) or body.get(f"{name}_coarse") or "" for name in _TEXTS},
        **{name: times[name]["value"] for name in _TIMES if name in times},
        "victim": victim.get("name", ""),
        "victim_sector": victim.get("sector", ""),
        "country": geo.get("country", ""),
        "services": _joined(body.get("services", [])),
        "actor": body.get("actor", {}).get("name", ""),
        "malware": _joined(body.get("malware", [])),
        "attack": _joined([one["technique"] for one in body.get("attack", [])]),
        "vulnerabilities": _joined([one["id"] for one in body.get("vulnerabilities", [])]),
        "indicators": _joined([f"{one['type']}={one['value']}" for one in body.get("indicators", [])]),
        "source_id": str(header.get("report_id", "")),
        "report_id": str(header.get("report_id", "")),
        "revision": str(header.get("revision", "")),
        "origin": header.get("origin", {}).get("member", ""),
        "issued_at": str(header.get("issued_at", "")),
        "withheld": _joined(item.withheld),
        "undisclosed": str(item.undisclosed),
    }
