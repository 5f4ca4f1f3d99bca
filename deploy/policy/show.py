"""The tools' findings as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.policy.check import Finding
from deploy.policy.diff import Comparison
from deploy.policy.examples import Run
from deploy.policy.facts import Fact
from deploy.policy.matrix import Matrix
from deploy.policy.page import MARKS, WORDS
from deploy.policy.probes import TLP
from protocol.wording import Catalogue, Sentences, plain

_COLOURS: Final = {"error": "red", "warning": "yellow", "note": "dim"}


def console() -> Console:
    """Wraps long lines and takes nothing that a policy says as markup."""
    return Console(markup=False, highlight=False, soft_wrap=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _counts(items: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in items.items()) or "nobody"


def findings(out: Console, found: Sequence[Finding]) -> None:
    """Errors first."""
    if found:
        table = _table("Findings", "level", "file", "rule", "code", "what")
        for level in _COLOURS:
            for item in found:
                if item.level == level:
                    style = _COLOURS[level]
                    table.add_row(Text(level, style=style), item.file, item.rule or "-", item.code, plain(item.text))
        out.print(table)
    counts = {level: sum(item.level == level for item in found) for level in _COLOURS}
    out.print(f"{counts['error']} errors, {counts['warning']} warnings, {counts['note']} notes")


def runs(out: Console, found: Sequence[Run]) -> None:
    """What failed, with what happens instead."""
    failures = [failure for run in found for failure in run.failures]
    if failures:
        table = _table("Examples that did not come out as expected", "file", "example", "to", "what", "what happens")
        for item in failures:
            table.add_row(item.file, plain(item.example), item.to, Text(item.text, style="red"), item.said)
        out.print(table)
    for run in found:
        out.print(f"{run.file}: {run.examples} examples, {run.expectations} outcomes, {len(run.failures)} failed")


def comparison(out: Console, found: Comparison) -> None:
    """What would have been different."""
    if found.changes:
        table = _table("Would have flowed differently", "report", "to", "more", "less", "decided by")
        for change in found.changes:
            table.add_row(
                f"{change.report} ({change.origin})",
                change.to,
                Text("\n".join(change.more) if change.before else "the report" if change.after else "", style="yellow"),
                Text("\n".join(change.less) if change.after else "the report" if change.before else "", style="cyan"),
                "\n".join(change.by),
            )
        out.print(table)
    out.print(f"{found.reports} reports, {found.decisions} decisions, {len(found.changes)} different")
    out.print(f"Reports of which more would have been received: {_counts(found.more)}")
    out.print(f"Reports of which less would have been received: {_counts(found.less)}")


def sentences(out: Console, found: Sequence[Sentences]) -> None:
    """A paragraph a recipient."""
    for item in found:
        out.print(Text(("✓ " if item.granted else "✗ ") + item.headline, style="green" if item.granted else "red"))
        for line in item.lines:
            out.print(f"  {line}")


def matrix(out: Console, found: Matrix, words: Catalogue) -> None:
    """One sign a TLP level, and where policies disagree."""
    table = _table("From the row's jurisdiction to the column's", "from \\ to", *found.jurisdictions)
    for origin in found.jurisdictions:
        cells = []
        for name in found.jurisdictions:
            pair = found.pair(origin, name)
            cells.append("".join(MARKS[flow.flow] for flow in pair.flows) if pair else "·" if name == origin else "-")
        table.add_row(origin, *cells)
    out.print(table)
    out.print(f"One sign for each of {', '.join(TLP)}: " + ", ".join(f"{MARKS[flow]} {WORDS[flow]}" for flow in MARKS))
    table = _table("Where the two sides disagree", "from → to", "disagreement", "decided by", "about")
    for pair in found.pairs:
        for item in pair.divergences:
            kind = "sent, not taken" if item.kind == "sent-but-not-taken" else "taken, not sent"
            units = [words.units[unit] for unit in item.units]
            about = ", ".join(units) if len(units) <= 6 else f"{len(units)} kinds of data"
            rule = f"{item.document}: {item.rule or item.reason}"
            table.add_row(f"{pair.origin} → {pair.recipient}", kind, rule, about)
    out.print(table)


def facts(out: Console, found: Sequence[Fact]) -> None:
    """With source, date and confidence."""
    table = _table("National facts (data, not advice)", "of", "fact", "value", "confidence", "as of", "source")
    for item in found:
        table.add_row(
            item.jurisdiction, item.fact, plain(item.value), item.confidence, item.as_of.isoformat(), plain(item.source)
        )
    out.print(table)
