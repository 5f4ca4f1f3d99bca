"""Who would get what of a report, and why, in sentences."""

from __future__ import annotations

from datetime import datetime

from deploy.policy.reports import Filed
from deploy.policy.scene import Scene
from protocol.dryrun import Answer, dry_run, facts_of_filing, units_of
from protocol.wording import Catalogue, Sentences, reasons_given, say


def answers(report: Filed, scene: Scene, now: datetime) -> list[Answer]:
    """What each recipient of the region would get."""
    facts = facts_of_filing(report.filing, report.origin, now)
    return dry_run(facts, units_of(report.filing.body), scene.others(report.origin), scene.book, now, scene.circles)


def sentences(found: list[Answer], scene: Scene, words: Catalogue) -> list[Sentences]:
    """The same in words."""
    because = reasons_given(scene.policies)
    return [say(answer, words, because) for answer in found]
