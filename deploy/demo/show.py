"""The demonstration on a terminal: who got what, what was withheld by whose rule, and how long it took."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from statistics import median, quantiles
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.demo.scenario import COORDINATOR, MEMBERS, NAMES

Json = dict[str, Any]
COLUMNS: Final = (*MEMBERS, COORDINATOR)

_REASONS: Final = {
    "default-deny": "no rule allows it",
    "not-a-named-recipient": "not among the named recipients",
    "denied-by-rule": "denied",
}


def reasons_of_rules() -> dict[tuple[str, str], str]:
    """(document, rule) to the sentence that its policy gives for it."""
    found: dict[tuple[str, str], str] = {}
    for file in resources.files("deploy.demo.policies").iterdir():
        if file.name.endswith(".toml"):
            policy = tomllib.loads(file.read_text("utf-8"))
            for rule in (*policy.get("export", ()), *policy.get("import", ())):
                found[f"{policy['jurisdiction']}/{policy['version']}", rule["id"]] = rule["because"]
    return found


def _cell(origin: str, member: str, recipients: Mapping[str, Json]) -> Text:
    """One recipient of one report: all of it, some of it, or not at all and why."""
    if member == origin:
        return Text("·", style="dim", justify="center")
    found = recipients.get(member)
    if found is None or "granted" not in found:
        return Text("?", style="red", justify="center")
    if not found["granted"]:
        why = found["withheld"][0]
        return Text("✗ " + why.get("rule", _SHORT.get(why["reason"], why["reason"])), style="red")
    states = {item["state"] for item in found.get("confirmations", ())}
    mark = next((sign for state, sign in _STATES if state in states), "…" if member != COORDINATOR else "")
    missing = [item for item in found["withheld"] if not item.get("coarse")]
    coarse = len(found["withheld"]) - len(missing)
    parts = ([f"−{len(missing)}"] if missing else []) + ([f"≈{coarse}"] if coarse else [])
    return Text(f"{mark} {' '.join(parts) or 'all'}".strip(), style="yellow" if parts else "green")


_SHORT: Final = {"default-deny": "no rule", "not-a-named-recipient": "not named"}
_STATES: Final = (("acting", "▶"), ("read", "✓✓"), ("received", "✓"), ("refused", "!"))


def routed_table(rows: Iterable[tuple[str, Json, Json]]) -> Table:
    """A line a report: (label, the filed report's header, recipients)."""
    table = Table(title="Filed and routed", title_justify="left", header_style="bold", pad_edge=False)
    table.add_column("from")
    table.add_column("TLP")
    table.add_column("what", overflow="ellipsis", no_wrap=True, max_width=46)
    for member in COLUMNS:
        table.add_column("coord." if member == COORDINATOR else member, no_wrap=True, max_width=13)
    for label, header, recipients in rows:
        origin = header["origin"]
        cells = [_cell(origin, member, recipients) for member in COLUMNS]
        table.add_row(origin, header["tlp"], label, *cells)
    return table


def withheld_table(decisions: Iterable[tuple[str, Json]]) -> Table:
    """Which rules withheld what from whom, most often first."""
    counted: Counter[tuple[str, str, str, str]] = Counter()
    units: dict[tuple[str, str, str, str], Counter[str]] = {}
    to: dict[tuple[str, str, str, str], set[str]] = {}
    for member, item in decisions:
        key = (item["gate"], item["document"], item.get("rule", ""), item["reason"])
        counted[key] += 1
        units.setdefault(key, Counter())[item["unit"]] += 1
        to.setdefault(key, set()).add(member)
    sentences = reasons_of_rules()
    table = Table(title="Withheld: by which rule", title_justify="left", header_style="bold", pad_edge=False)
    for name in ("times", "gate", "policy", "rule", "what (most often)", "from whom", "because"):
        table.add_column(name, justify="right" if name == "times" else "left", overflow="fold")
    for key, number in counted.most_common(14):
        gate, document, rule, reason = key
        most = ", ".join(unit for unit, _ in units[key].most_common(3))
        because = sentences.get((document, rule), _REASONS.get(reason, reason))
        who = " ".join("coord." if member == COORDINATOR else member for member in sorted(to[key]))
        table.add_row(str(number), gate, document, rule or "-", most, who, because)
    return table


def special_table(rows: Sequence[tuple[str, str, str]]) -> Table:
    """What else happened: (what was tried, what came of it, reason or detail)."""
    table = Table(title="Refused, duplicate, named", title_justify="left", header_style="bold", pad_edge=False)
    for name in ("what was tried", "outcome", "reason"):
        table.add_column(name, overflow="fold")
    for what, outcome, reason in rows:
        table.add_row(what, outcome, reason)
    return table


def links_table(rows: Sequence[tuple[str, str, str, str, str]]) -> Table:
    """Links that the broker found: two incidents, strength, on what, and whether they are of one campaign."""
    table = Table(title="Linked across borders", title_justify="left", header_style="bold", pad_edge=False)
    for name in ("report", "report", "strength", "identifiers in common", "same campaign in truth"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def percentiles(seconds: Sequence[float]) -> str:
    """Median and 99th percentile in milliseconds."""
    if not seconds:
        return "-"
    high = quantiles(seconds, n=100)[98] if len(seconds) > 1 else seconds[0]
    return f"p50 {median(seconds) * 1000:.0f} ms   p99 {high * 1000:.0f} ms   ({len(seconds)} measured)"


def legend(console: Console) -> None:
    """How to read the first table."""
    console.print(
        "✓ received and confirmed with the recipient's signature, ✓✓ read, ▶ acting. all: every field.  −n: n fields"
        " withheld.  ≈n: n fields in coarser form, as the origin signed it.  ✗: not sent, with the rule. Every copy"
        " still carries its origin's signature.",
        style="dim",
    )


def members_line() -> str:
    """Who is who."""
    return ",  ".join(f"{member} = {name}" for member, name in NAMES.items())
