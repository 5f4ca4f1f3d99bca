"""The same answer as an independent engine gives for the same policies."""

from __future__ import annotations

import os
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from protocol.facts import facts_of
from protocol.policy import Outcome, PolicyBook, Recipient, evaluate
from protocol.report import COARSE_UNITS, UNIT_NAMES
from tests.policy import make, oracle
from tests.protocol.make import NOW, quick

CASES = int(os.environ.get("KENTONGAN_CEDAR_CASES", "120"))


def released(outcome: Outcome) -> set[str]:
    """The masks in the oracle's words."""
    exact = {f"exact:{name}" for bit, name in enumerate(UNIT_NAMES) if outcome.exact >> bit & 1}
    return exact | {f"coarse:{name}" for bit, name in enumerate(UNIT_NAMES) if outcome.coarse >> bit & 1}


def test_the_oracle_knows_the_same_coarse_units() -> None:
    """Both sides mean the same units."""
    assert {name for bit, name in enumerate(UNIT_NAMES) if COARSE_UNITS >> bit & 1} == set(oracle.COARSE)


@quick(CASES)
@given(st.randoms(use_true_random=False))
def test_cedar_gives_the_same_answer(rand: Random) -> None:
    """Random policies of both sides, report, agreements, group and membership: Cedar and we release the same."""
    check_case(rand)


def test_cedar_gives_the_same_answer_on_plain_random_cases() -> None:
    """The same from seeds: hypothesis prefers small cases, these are as large as they come."""
    flowing = sum(check_case(Random(seed)) for seed in range(CASES))
    assert CASES * 0.25 < flowing < CASES * 0.95


def check_case(rand: Random) -> bool:
    """One case; whether something flowed."""
    policies = {name: make.policy(rand, name) for name in ("id", "sg")}
    facts, circles = facts_of(make.head(rand)), make.circles(rand)
    recipient = Recipient("sg", active=rand.random() < 0.95, receives=rand.random() < 0.95)
    outcome = evaluate(facts, recipient, PolicyBook(policies.values()), NOW, circles)
    assert released(outcome) == oracle.decide(facts, recipient, policies, NOW, circles)
    return outcome.granted
