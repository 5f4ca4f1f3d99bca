"""Made-up facts that tell rules apart: for each condition that occurs, a report that meets it and one that does not.

Guarantees: deterministic. Of attributes with several values, none, each alone, pairs, and each rule's whole list are
tried. Where all combinations are too many, an even sample of them is taken and `complete` is False: then "no probe
reached it" proves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from typing import Any, Final, get_args

from msgspec import UNSET

from protocol import taxonomy as tx
from protocol.facts import Facts
from protocol.policy import Rule

TLP: Final[tuple[str, ...]] = get_args(tx.Tlp)
_PAIRED: Final = 6
"""Values of which pairs are tried; more would make too many."""

Tags = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Probes:
    """The facts to try, and whether they are all that the conditions can tell apart."""

    facts: tuple[Facts, ...]
    complete: bool


def _listed(rules: Sequence[Rule], name: str) -> list[Any]:
    """The conditions that occur."""
    return [found for rule in rules if (found := getattr(rule.when, name)) is not UNSET]


def _single(rules: Sequence[Rule], name: str, known: Sequence[Any], default: Any) -> list[Any]:
    said = {value for listed in _listed(rules, name) for value in listed}
    other = next((value for value in known if value not in said), None)
    if not said:
        return [default]
    return sorted(said) + ([other] if other is not None else [])


def _scores(rules: Sequence[Rule]) -> list[int | None]:
    edges = {edge for r in _listed(rules, "severity") for edge in (r.min - 1, r.min, r.max, r.max + 1)}
    return [None, *sorted(edge for edge in edges if 0 <= edge <= 100)]


def _sets(values: Sequence[Any], whole: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    for value in values:
        yield (value,)
    yield from combinations(values[:_PAIRED], 2)
    for listed in whole:
        yield tuple(dict.fromkeys(listed))[:16]


def _rsit(rules: Sequence[Rule]) -> list[Tags]:
    def atom(tag: str) -> tuple[str, str | None]:
        class_, slash, type_ = tag.partition("/")
        return class_, type_ if slash else None

    lists = [[atom(tag) for tag in listed] for listed in _listed(rules, "rsit")]
    said = {item for listed in lists for item in listed} | {(item[0], None) for listed in lists for item in listed}
    other = next((name for name in ("other", *tx.RSIT) if (name, None) not in said), None)
    values = sorted(said, key=str) + ([(other, None)] if other else [])
    return list(dict.fromkeys(_sets(values, (listed for listed in lists if listed))))


def _sectors(rules: Sequence[Rule]) -> list[tuple[str, ...]]:
    lists = _listed(rules, "sector")
    said = sorted({code for listed in lists for code in listed})
    if not said:
        return [()]
    other = [code for code in get_args(tx.Sector) if not any(tx.sector_within(code, parent) for parent in said)]
    return list(dict.fromkeys([(), *_sets(said + other[:1], (listed for listed in lists if listed))]))


def probe(rules: Iterable[Rule], origin: str, most: int) -> Probes:
    """Facts that tell these rules apart, at most that many; of a report of this origin, for anybody."""
    given = list(rules)
    axes: list[Sequence[Any]] = [
        TLP,
        _rsit(given),
        _sectors(given),
        _scores(given),
        list(dict.fromkeys([None, *_single(given, "pap", get_args(tx.Pap), None)])),
        _single(given, "phase", get_args(tx.Phase), "initial"),
        _single(given, "purpose", get_args(tx.Purpose), "reporting"),
        _single(given, "made_by", get_args(tx.ToolKind), "person"),
    ]
    complete = prod(len(axis) for axis in axes) <= most
    if complete:
        chosen: Iterable[tuple[Any, ...]] = product(*axes)
    else:
        rand = random.Random(0)  # noqa: S311 - an even sample, the same on every run
        chosen = ((TLP[number % len(TLP)], *(rand.choice(axis) for axis in axes[1:])) for number in range(max(most, 1)))
    facts = tuple(
        Facts(
            origin=origin,
            tlp=tlp,
            pap=pap,
            recipients=None,
            sharing_group=None,
            residency=None,
            expires_at=None,
            rsit=rsit,
            sectors=sectors,
            severity=severity,
            phase=phase,
            purpose=purpose,
            made_by=made_by,
            exercise=False,
        )
        for tlp, rsit, sectors, severity, pap, phase, purpose, made_by in chosen
    )
    return Probes(facts, complete)
