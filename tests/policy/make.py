"""Random policies, reports and agreements, from a `random.Random`: hypothesis steers one, plain tests seed one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, get_args

import msgspec
from msgspec import UNSET

from protocol import taxonomy as tx
from protocol.policy import Circles, Pact, Policy
from protocol.report import Handling, Header, MadeBy, Marking, Rsit, SectorRef, Severity, SharingGroup
from tests.protocol.make import DAY, GROUP, NOW, header

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "deploy" / "demo" / "policies"
STARTERS = ROOT / "deploy" / "policies"

NAMES = ("id", "sg", "my", "jp", "vn")
PACTS = ("aid", "sinkhole", "old")
SECTORS = ("energy", "energy.gas", "health", "finance", "finance.banking", "trade")
TAGS = ("intrusions", "intrusions/burglary", "fraud", "fraud/phishing", "malicious-code", "availability/ddos")
SELECTORS = (
    "*", "report", "title", "victim", "geo", "times", "contacts", "indicators", "indicators.address", "indicators.file",
    "@victim", "@personal", "@technical", "@assessment", "@location", "@narrative",
)  # fmt: skip


def some(rand: Random, values: Sequence[Any], least: int = 0, most: int = 3) -> list[Any]:
    """A few of them, in any order."""
    return rand.sample(list(values), rand.randint(least, min(most, len(values))))


def when(rand: Random) -> dict[str, Any]:
    """Conditions, few enough that rules match often."""
    options: dict[str, Any] = {
        "tlp": lambda: some(rand, get_args(tx.Tlp), 1, 4),
        "pap": lambda: some(rand, get_args(tx.Pap), 1, 3),
        "rsit": lambda: some(rand, TAGS, 1, 4),
        "sector": lambda: some(rand, SECTORS, 0, 4),
        "severity": lambda: {"min": rand.choice([0, 30, 50]), "max": rand.choice([50, 80, 100])},
        "phase": lambda: some(rand, get_args(tx.Phase), 1, 3),
        "purpose": lambda: some(rand, get_args(tx.Purpose), 1, 3),
        "made_by": lambda: some(rand, get_args(tx.ToolKind), 1, 2),
        "agreement": lambda: some(rand, PACTS, 1, 2),
    }
    often = ("rsit", "sector")  # where allow and deny rules read a list in different ways
    return {name: make() for name, make in options.items() if rand.random() < (0.3 if name in often else 0.12)}


def rule(rand: Random, number: int, side: str, effect: str | None = None) -> dict[str, Any]:
    """A rule, as it stands in a document."""
    effect = effect or ("deny" if rand.random() < 0.35 else "allow")
    made: dict[str, Any] = {"id": f"rule-{number}-{side}", "effect": effect, "because": f"reason {number}"}
    made["to" if side == "export" else "from"] = ["*"] if rand.random() < 0.4 else some(rand, NAMES, 1, 4)
    made["when"] = when(rand)
    if effect == "deny":
        made["when"].pop("agreement", None)
    if effect == "allow" or rand.random() < 0.9:
        made["disclose"] = some(rand, SELECTORS if effect == "allow" else SELECTORS[2:], 0, 4)
    made["level"] = {name: rand.choice(["coarse", "coarse", "exact"]) for name in some(rand, SELECTORS, 0, 2)}
    return made


def policy(rand: Random, jurisdiction: str) -> Policy:
    """A policy with rules in both directions; imports are mostly open, so that something flows."""
    made = [[rule(rand, number, side) for number in range(rand.randint(0, 5))] for side in ("export", "import")]
    for side, rules in zip(("export", "import"), made, strict=True):
        if rand.random() < 0.7:
            key = "to" if side == "export" else "from"
            rules.append(
                {"id": f"open-{side}", "effect": "allow", "because": "open", key: ["*"], "disclose": ["*"], "level": {}}
            )
    document = {
        "jurisdiction": jurisdiction,
        "version": 1,
        "effective_from": NOW - DAY,
        "export": made[0],
        "import": made[1],
    }
    return msgspec.convert(document, Policy)


def circles(rand: Random) -> Circles:
    """Agreements, some of them over, and a sharing group."""
    pacts = {}
    for name in PACTS:
        if rand.random() < 0.8:
            begins = NOW + timedelta(hours=rand.choice([-48, -1, 0, 1]))
            ends = rand.choice([None, NOW, NOW + DAY])
            pacts[name] = Pact(frozenset(some(rand, NAMES, 2, 5)), begins, ends)
    groups = {str(GROUP): frozenset(some(rand, NAMES, 1, 4))} if rand.random() < 0.8 else {}
    return Circles(groups, pacts)


def head(rand: Random, number: int = 1) -> Header:
    """A report's header, with whatever a policy can ask about."""
    tlp = rand.choice(get_args(tx.Tlp))
    named = some(rand, NAMES, 1, 4) if tlp == "RED" or rand.random() < 0.15 else UNSET
    group = SharingGroup(id=GROUP, name="a group") if rand.random() < 0.1 else UNSET
    handling: Any = UNSET
    if rand.random() < 0.15:
        handling = Handling(
            residency=some(rand, NAMES, 1, 4) if rand.random() < 0.7 else UNSET,
            expires_at=rand.choice([NOW, NOW + DAY]) if rand.random() < 0.3 else UNSET,
        )
    tags = [tag.partition("/") for tag in some(rand, TAGS, 1, 2)]
    return header(
        number,
        marking=Marking(
            tlp=tlp,
            pap=rand.choice([UNSET, UNSET, *get_args(tx.Pap)]),
            recipients=named,
            sharing_group=group,
        ),
        handling=handling,
        rsit=[Rsit(class_=class_, type=type_ or UNSET) for class_, _, type_ in tags],  # type: ignore[arg-type]
        sectors=[SectorRef(code=code) for code in some(rand, SECTORS, 0, 3)] or UNSET,
        severity=UNSET if rand.random() < 0.2 else Severity(score=rand.choice([0, 29, 30, 50, 51, 80, 100])),
        phase=rand.choice(get_args(tx.Phase)),
        purpose=rand.choice(get_args(tx.Purpose)),
        made_by=rand.choice([UNSET, MadeBy(kind="machine", tool="t"), MadeBy(kind="person")]),
    )
