"""How many recipient decisions a second one core makes, with nothing remembered from one to the next."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

import msgspec

from protocol import taxonomy as tx
from protocol.policy import Circles, Facts, Pact, Policy, PolicyBook, Recipient, evaluate, explain
from protocol.report import ALL_UNITS, COARSE_UNITS

NOW: Final = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
NAMES: Final = [f"j{number:02}" for number in range(20)]
UNITS: Final = ["title", "victim", "geo", "contacts", "indicators", "@technical", "@assessment", "@operational", "*"]
SECONDS: Final = 1.5


def _when(rand: random.Random) -> dict[str, Any]:
    when: dict[str, Any] = {}
    if rand.random() < 0.8:
        when["tlp"] = rand.sample(get_args(tx.Tlp), 3)
    if rand.random() < 0.4:
        when["sector"] = rand.sample(get_args(tx.Sector), 4)
    if rand.random() < 0.4:
        when["rsit"] = rand.sample(sorted(tx.RSIT), 4)
    if rand.random() < 0.3:
        when["severity"] = {"min": rand.randrange(60)}
    if rand.random() < 0.1:
        when["agreement"] = [f"pact-{rand.randrange(5)}"]
    return when


def _rule(rand: random.Random, number: int, direction: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"id": f"rule-{direction}-{number}", "because": "a measurement", "when": _when(rand)}
    rule["effect"] = "deny" if rand.random() < 0.3 else "allow"
    rule[direction] = ["*"] if rand.random() < 0.3 else rand.sample(NAMES, 4)
    rule["disclose"] = rand.sample(UNITS[:-1] if rule["effect"] == "deny" else UNITS, 3)
    rule["level"] = {name: "coarse" for name in rule["disclose"] if rand.random() < 0.3}
    if rule["effect"] == "deny":
        rule["when"].pop("agreement", None)
    return rule


def policies(rules_each: int) -> list[Policy]:
    """Policies of 20 jurisdictions with that many rules each, half of them for export."""
    rand = random.Random(7)
    return [
        msgspec.convert(
            {
                "jurisdiction": name,
                "version": 1,
                "effective_from": NOW - timedelta(days=1),
                "export": [_rule(rand, number, "to") for number in range(rules_each // 2)],
                "import": [_rule(rand, number, "from") for number in range(rules_each - rules_each // 2)],
            },
            Policy,
        )
        for name in NAMES
    ]


def facts(count: int) -> list[Facts]:
    """That many different reports."""
    rand = random.Random(11)
    pairs = [(class_, type_) for class_, types in tx.RSIT.items() for type_ in sorted(types)]
    return [
        Facts(
            origin=rand.choice(NAMES),
            tlp=rand.choice(["CLEAR", "GREEN", "AMBER"]),
            pap=rand.choice([None, *get_args(tx.Pap)]),
            recipients=None,
            sharing_group=None,
            residency=None,
            expires_at=None,
            rsit=tuple(rand.sample(pairs, rand.choice([1, 1, 2]))),
            sectors=tuple(rand.sample(get_args(tx.Sector), rand.choice([0, 1, 1, 2]))),
            severity=rand.randrange(101),
            phase="initial",
            purpose="reporting",
            made_by=rand.choice(["person", "machine"]),
            exercise=False,
        )
        for _ in range(count)
    ]


def _rate(each: Callable[[Facts, Recipient], object], reports: Sequence[Facts]) -> float:
    """Calls a second, over all recipients of each report."""
    recipients = [Recipient(name) for name in NAMES]
    done = 0
    began = time.perf_counter()
    while True:
        for report in reports:
            for recipient in recipients:
                each(report, recipient)
            done += len(recipients)
            spent = time.perf_counter() - began
            if spent > SECONDS:
                return done / spent


def measure() -> list[tuple[str, str]]:
    """Figures as (what, how much)."""
    rand = random.Random(5)
    pacts = {f"pact-{n}": Pact(frozenset(rand.sample(NAMES, 10)), NOW - timedelta(days=9)) for n in range(5)}
    circles = Circles(agreements=pacts)
    reports = facts(500)
    found = []
    for rules_each, name in ((10, "200 rules in all"), (200, "200 rules each")):
        began = time.perf_counter()
        book = PolicyBook(policies(rules_each))
        compiling = time.perf_counter() - began

        def decide(report: Facts, to: Recipient, book: PolicyBook = book) -> object:
            return evaluate(report, to, book, NOW, circles)

        def decide_and_explain(report: Facts, to: Recipient, book: PolicyBook = book) -> object:
            return explain(evaluate(report, to, book, NOW, circles), ALL_UNITS & ~1, COARSE_UNITS)

        found.append((f"decisions, 20 jurisdictions, {name}, nothing remembered", f"{_rate(decide, reports):,.0f}/s"))
        found.append(
            (f"  the same with every withheld unit explained, {name}", f"{_rate(decide_and_explain, reports):,.0f}/s")
        )
        found.append((f"  making policies and compiling them, {name}", f"{compiling:.2f} s"))
    return found


if __name__ == "__main__":
    for what, figure in measure():
        print(f"  {what:<74} {figure}")
