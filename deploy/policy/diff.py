"""What a change of policy would have done to real reports: who gets more, who gets less, and by which rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from deploy.policy import explain
from deploy.policy.reports import Filed
from deploy.policy.scene import Scene
from protocol.dryrun import Answer
from protocol.report import UNIT_NAMES


class Change(Struct, frozen=True, kw_only=True):
    """What one recipient would get differently of one report."""

    report: str
    origin: str
    to: str
    before: bool
    """Whether it got the report at all."""
    after: bool
    more: list[str]
    """Units that come now and did not, or come exact and came coarse (`victim: exact, was coarse`)."""
    less: list[str]
    by: list[str]
    """Rules that decide otherwise than before, as `document: rule`."""


class Comparison(Struct, frozen=True, kw_only=True):
    """All changes, and what they come to."""

    reports: int
    decisions: int
    changes: list[Change]
    more: dict[str, int]
    """Recipient to the number of reports of which it would have got more."""
    less: dict[str, int]


_NONE, _COARSE, _EXACT = range(3)
_LEVELS = ("withheld", "coarse", "exact")


def _levels(answer: Answer) -> dict[str, int]:
    return {
        **({"report": _EXACT} if answer.granted else {}),
        **dict.fromkeys(answer.coarse, _COARSE),
        **dict.fromkeys(answer.exact, _EXACT),
    }


def _rules(answer: Answer, owners: set[str]) -> set[str]:
    """The rules of these jurisdictions that decided."""
    allowing = {(basis.document, basis.rule) for basis in answer.allowed_by}
    withholding = {(item.document, item.rule or item.reason) for item in answer.withheld}
    return {f"{document}: {rule}" for document, rule in allowing | withholding if _owner(document) in owners}


def _owner(document: str) -> str:
    return document.partition("/")[0]


def _unversioned(rule: str) -> str:
    document, _, rest = rule.partition(": ")
    return f"{_owner(document)}: {rest}"


def _change(report: Filed, before: Answer, after: Answer) -> Change | None:
    old, new = _levels(before), _levels(after)
    more: list[str] = []
    less: list[str] = []
    for unit in UNIT_NAMES:
        was, now = old.get(unit, _NONE), new.get(unit, _NONE)
        if was != now:
            (more if now > was else less).append(f"{unit}: {_LEVELS[now]}, was {_LEVELS[was]}")
    if not more and not less:
        return None
    owners = {_owner(item.document) for item in after.withheld} if less else set()
    owners |= {_owner(item.document) for item in before.withheld} if more else set()
    were, are = _rules(before, owners), _rules(after, owners)
    known, known_now = {_unversioned(rule) for rule in were}, {_unversioned(rule) for rule in are}
    by = {rule for rule in are if _unversioned(rule) not in known}
    by |= {rule for rule in were if _unversioned(rule) not in known_now}
    return Change(
        report=report.name,
        origin=report.origin,
        to=after.jurisdiction,
        before=before.granted,
        after=after.granted,
        more=more,
        less=less,
        # The same rules, one of which says something else now.
        by=sorted(by or are - were),
    )


def compare(reports: Sequence[Filed], old: Scene, new: Scene, now: datetime) -> Comparison:
    """Try every report in both regions. A recipient that exists in one of them only gets nothing in the other."""
    changes: list[Change] = []
    decisions = 0
    for report in reports:
        before = {answer.jurisdiction: answer for answer in explain.answers(report, old, now)}
        after = {answer.jurisdiction: answer for answer in explain.answers(report, new, now)}
        for name in sorted({*before, *after}):
            nothing = Answer(jurisdiction=name, granted=False)
            found = _change(report, before.get(name, nothing), after.get(name, nothing))
            decisions += 1
            if found is not None:
                changes.append(found)
    return Comparison(
        reports=len(reports),
        decisions=decisions,
        changes=changes,
        more=dict(sorted(Counter(change.to for change in changes if change.more).items())),
        less=dict(sorted(Counter(change.to for change in changes if change.less).items())),
    )
