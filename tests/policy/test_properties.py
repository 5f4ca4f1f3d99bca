"""What holds for every policy, report and recipient: tightening never releases more, and nothing withheld leaks."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from protocol import taxonomy as tx
from protocol.dryrun import answer_for, dry_run, facts_of_filing, units_of
from protocol.envelope import SignedReport, present, release
from protocol.policy import Circles, Facts, Outcome, Policy, PolicyBook, Recipient, Rule, evaluate, facts_of
from protocol.report import UNIT_BIT, UNIT_NAMES, Body, Filing, Handling, Report
from protocol.statements import BROKER, Decision, Receipt, ReportReceipt, sign_statement
from protocol.wording import load, reasons_given, say
from tests.policy import make, oracle
from tests.protocol.make import DAY, FULL, NOW, allow, body_from, header, key_of, policy, quick, signed, structs

CANARIES = int(os.environ.get("KENTONGAN_CANARY_CASES", "2000"))
RANDOMS = st.randoms(use_true_random=False)
SG = Recipient("sg")


def ask(policies: Sequence[Policy], facts: Facts, circles: Circles, to: Recipient = SG) -> Outcome:
    """The outcome under these policies."""
    return evaluate(facts, to, PolicyBook(policies), NOW, circles)


def no_more(less: Outcome, more: Outcome) -> bool:
    """Whether the first outcome releases nothing that the second does not."""
    return not (less.exact & ~more.exact or less.coarse & ~more.coarse)


def case(rand: Random) -> tuple[Policy, Policy, Any, Circles]:
    """Policies of origin and recipient, a header, agreements."""
    return make.policy(rand, "id"), make.policy(rand, "sg"), make.head(rand), make.circles(rand)


@quick(80)
@given(RANDOMS)
def test_a_deny_rule_more_never_releases_more(rand: Random) -> None:
    """Whatever it says, in the origin's or the recipient's policy."""
    origin, recipient, head, circles = case(rand)
    before = ask([origin, recipient], facts_of(head), circles)
    export = msgspec.convert(make.rule(rand, 99, "export", "deny"), Rule)
    taken = msgspec.convert(make.rule(rand, 99, "import", "deny"), Rule)
    more = msgspec.structs.replace(origin, export=[*origin.export, export])
    assert no_more(ask([more, recipient], facts_of(head), circles), before)
    more = msgspec.structs.replace(recipient, import_=[*recipient.import_, taken])
    assert no_more(ask([origin, more], facts_of(head), circles), before)


@quick(80)
@given(RANDOMS)
def test_an_allow_rule_less_never_releases_more(rand: Random) -> None:
    """Every allow rule can only add."""
    origin, recipient, head, circles = case(rand)
    before = ask([origin, recipient], facts_of(head), circles)
    for rule in origin.export:
        if rule.effect == "allow":
            less = msgspec.structs.replace(origin, export=[other for other in origin.export if other != rule])
            assert no_more(ask([less, recipient], facts_of(head), circles), before)


@quick(80)
@given(RANDOMS)
def test_a_tighter_marking_never_releases_more(rand: Random) -> None:
    """Fewer named recipients, a residency, a sharing group, an earlier end: each can only take away."""
    origin, recipient, head, circles = case(rand)
    facts = facts_of(head)
    before = ask([origin, recipient], facts, circles)
    named = tuple(make.some(rand, facts.recipients or make.NAMES))
    residency = tuple(make.some(rand, facts.residency or make.NAMES))
    for tighter in (
        replace(facts, recipients=named),
        replace(facts, residency=residency),
        replace(facts, expires_at=min(facts.expires_at or NOW + DAY, NOW + timedelta(hours=rand.choice([-1, 1])))),
        replace(facts, exercise=True),
    ):
        assert no_more(ask([origin, recipient], tighter, circles), before)
    if facts.sharing_group is None:
        group = next(iter(circles.groups), "unknown")
        assert no_more(ask([origin, recipient], replace(facts, sharing_group=group), circles), before)


TLP = ("CLEAR", "GREEN", "AMBER", "AMBER+STRICT", "RED")


def graded(policy: Policy) -> Policy:
    """The policy with every condition on TLP as a bound: allow rules up to a level, deny rules from one."""

    def bounded(rule: Rule) -> Rule:
        if rule.when.tlp is UNSET:
            return rule
        places = [TLP.index(tlp) for tlp in rule.when.tlp]
        tlp = TLP[: max(places) + 1] if rule.effect == "allow" else TLP[min(places) :]
        return msgspec.structs.replace(rule, when=msgspec.structs.replace(rule.when, tlp=list(tlp)))

    return msgspec.structs.replace(
        policy, export=[bounded(rule) for rule in policy.export], import_=[bounded(rule) for rule in policy.import_]
    )


@quick(80)
@given(RANDOMS)
def test_a_stricter_tlp_never_releases_more_where_policies_grade_it(rand: Random) -> None:
    """A policy may open more to the named circle of a stricter level; `policy check` notes it. Where none does, TLP
    only takes away."""
    origin, recipient, head, circles = case(rand)
    facts = replace(facts_of(head), recipients=make.NAMES)
    outcomes = [ask([graded(origin), graded(recipient)], replace(facts, tlp=tlp), circles) for tlp in TLP]
    for laxer, stricter in pairwise(outcomes):
        assert no_more(stricter, laxer)


@quick(80)
@given(RANDOMS)
def test_an_agreement_less_never_releases_more(rand: Random) -> None:
    """Without an agreement, with a party less or with an end, nothing more is released."""
    origin, recipient, head, circles = case(rand)
    facts = facts_of(head)
    before = ask([origin, recipient], facts, circles)
    for name, pact in circles.agreements.items():
        others = {other: value for other, value in circles.agreements.items() if other != name}
        weaker = [
            others,
            others | {name: replace(pact, parties=pact.parties - {rand.choice(make.NAMES)})},
            others | {name: replace(pact, ends=min(pact.ends or NOW, NOW))},
            others | {name: replace(pact, begins=NOW + DAY)},
        ]
        for agreements in weaker:
            assert no_more(ask([origin, recipient], facts, replace(circles, agreements=agreements)), before)


@quick(80)
@given(RANDOMS)
def test_the_order_of_writing_never_matters(rand: Random) -> None:
    """Rules, policies, agreements and the values in a report, in any order: the same answer with the same trace."""
    origin, recipient, head, circles = case(rand)
    facts = facts_of(head)
    before = ask([origin, recipient], facts, circles)

    def mixed(policy: Policy) -> Policy:
        def turned(rule: Rule) -> Rule:
            level = dict(reversed(rule.level.items()))
            return msgspec.structs.replace(rule, level=level, disclose=rule.disclose and rule.disclose[::-1])

        export = [turned(rule) for rule in rand.sample(policy.export, len(policy.export))]
        import_ = [turned(rule) for rule in rand.sample(policy.import_, len(policy.import_))]
        return msgspec.structs.replace(policy, export=export, import_=import_)

    turned_facts = replace(facts, rsit=facts.rsit[::-1], sectors=facts.sectors[::-1])
    turned_circles = replace(circles, agreements=dict(reversed(circles.agreements.items())))
    assert ask([mixed(recipient), mixed(origin)], turned_facts, turned_circles) == before


@quick(100)
@given(RANDOMS)
def test_every_release_is_explained_by_rules_that_exist(rand: Random) -> None:
    """Whatever is released, each of the two policies has an allow rule that speaks of it, and the answer names it."""
    origin, recipient, head, circles = case(rand)
    outcome = ask([origin, recipient], facts_of(head), circles)
    units = units_of(body_from(FULL))
    answer = answer_for("sg", outcome, units)
    rules = {"export": {r.id: r for r in origin.export}, "import": {r.id: r for r in recipient.import_}}
    assert bool(answer.allowed_by) == answer.granted
    named = {gate: [rules[gate][b.rule] for b in answer.allowed_by if b.gate == gate] for gate in rules}
    assert all(rule.effect == "allow" for found in named.values() for rule in found)
    for kind, names in (("exact", answer.exact), ("coarse", answer.coarse)):
        for name in names:
            for found in named.values():
                assert any(f"{kind}:{name}" in oracle.actions_of(rule) for rule in found)
    for item in answer.withheld:
        if item.rule is not UNSET:
            assert item.rule in rules[item.gate]
    told = {item.unit for item in answer.withheld if not item.coarse} | {*answer.exact, *answer.coarse}
    assert not answer.granted or told == {name for name in UNIT_NAMES if (units[0] | units[1]) >> UNIT_BIT[name] & 1}


@quick(150)
@given(structs(Body))
def test_a_dry_run_sees_the_units_that_a_signed_report_has(body: Body) -> None:
    """What is counted before signing is what is there after signing."""
    report = signed(Report(header=header(), body=body)).reports[0]
    assert isinstance(report, SignedReport)
    assert units_of(body) == report.units()


@quick(100)
@given(RANDOMS)
def test_a_dry_run_asks_about_the_report_that_would_be_filed(rand: Random) -> None:
    """The facts of a filing are those of the header that a node makes of it."""
    head = make.head(rand)
    said = {name: getattr(head, name) for name in Filing.__struct_fields__ if name not in ("body", "report_id")}
    said |= {"incident_id": UNSET, "revision": UNSET}
    assert facts_of_filing(Filing(**said), "id", NOW) == facts_of(head)
    answers = dry_run(facts_of(head), (0, 0), [SG, Recipient("my")], PolicyBook([]), NOW)
    assert [(answer.jurisdiction, answer.granted) for answer in answers] == [("sg", False), ("my", False)]


# --- canaries ---------------------------------------------------------------------------------------------------


COUNT = "471147114711"


def read(text: str) -> str:
    """Everything that a recipient can read in an SD-JWT."""
    parts = text.replace(".", "~").split("~")
    return "\n".join(base64.urlsafe_b64decode(part + "==").decode("utf-8", "replace") for part in parts if part)


def canary_case(seed: int) -> bool:
    """One report under random policies. Nothing of what is withheld is in the released report, the receipt or the
    sentences; whether something was released."""
    rand = Random(seed)
    origin, recipient, head, circles = case(rand)
    fields = {name: value for name, value in FULL.items() if rand.random() < 0.6}
    # Long enough that no salt or digest holds it by chance.
    fields |= {"times": FULL["times"], "entity_counts": {"people": int(COUNT)}}
    envelope = signed(Report(header=head, body=body_from(fields)), seed=str(seed))
    report = envelope.reports[0]
    assert isinstance(report, SignedReport)
    outcome = ask([origin, recipient], facts_of(head), circles)
    texts = release(report, outcome.exact, outcome.coarse) if outcome.granted else []
    shown = read(present(envelope.jws, [texts])) if texts else ""
    for item in report.disclosures:
        granted = outcome.coarse if item.coarse else outcome.exact
        assert item.text not in texts or granted >> item.bit & 1
    for bit, name in enumerate(UNIT_NAMES):
        if not outcome.exact >> bit & 1:
            # One name begins with the other.
            assert not re.search(rf"canary-{re.escape(name)}(?!\.content)", shown), (seed, name)
    for name, text in (("times", "04:05:06"), ("entity_counts", COUNT), ("indicators.address", "203.0.113.77")):
        assert outcome.exact >> UNIT_BIT[name] & 1 or text not in shown, (seed, name)
    answer = answer_for("sg", outcome, report.units())
    decision = Decision(granted=outcome.granted, withheld=answer.withheld)
    row = ReportReceipt(digest=report.digest, outcome="accepted", report_id="r", revision=1, to={"sg-cert": 0})
    receipt = Receipt(
        iss=BROKER,
        aud="id-cert",
        received_at=NOW,
        submission=report.digest,
        leaf=0,
        seed="A" * 22,
        decisions=[decision],
        reports=[row],
    )
    said = [say(answer, load(name), reasons_given([origin, recipient])) for name in ("en", "ja")]
    told = read(sign_statement(receipt, key_of(BROKER))) + "".join(s.headline + "".join(s.lines) for s in said)
    for text in ("canary", "04:05:06", COUNT, "203.0.113"):
        assert text not in told, (seed, text)
    return bool(texts)


@pytest.mark.timeout(3600 if CANARIES > 10_000 else 120)
def test_nothing_that_is_withheld_can_be_read() -> None:
    """Over thousands of random policies and reports, no canary of a withheld unit gets out anywhere."""
    released = sum(canary_case(seed) for seed in range(CANARIES))
    assert CANARIES * 0.25 < released < CANARIES * 0.95


def test_the_canaries_sing() -> None:
    """With everything open, every canary can be read: the test above would hear them."""
    envelope = signed(Report(header=header(), body=body_from(FULL)))
    report = envelope.reports[0]
    assert isinstance(report, SignedReport)
    shown = read(present(envelope.jws, [release(report, (1 << len(UNIT_NAMES)) - 1, 0)]))
    silent = {
        "report",
        "status",
        "determination",
        "confidence",
        "times",
        "detection_methods",
        "entity_counts",
        "attack",
    }
    assert {name for name in UNIT_NAMES if f"canary-{name}" not in shown} == silent
    assert {"04:05:06", "4711", "203.0.113.77"} == {t for t in ("04:05:06", "4711", "203.0.113.77") if t in shown}


def test_a_handling_without_an_end_is_none() -> None:
    """Residency alone does not make a report expire."""
    facts = facts_of(header(handling=Handling(residency=["sg"])))
    assert (facts.residency, facts.expires_at) == (("sg",), None)
    assert set(TLP) == set(tx.Tlp.__args__)


def test_an_answer_names_the_rules_that_released_something() -> None:
    """A rule that speaks of nothing in this report is no ground for it; for a bare heading every rule is."""
    documents = [policy("id", [allow("t", disclose=["title"]), allow("g", disclose=["geo"])]), policy("sg")]
    outcome = ask(documents, facts_of(header()), Circles())
    title = units_of(Body(title="T"))
    assert [basis.rule for basis in answer_for("sg", outcome, title).allowed_by] == ["t", "import-all"]
    assert [basis.rule for basis in answer_for("sg", outcome, (0, 0)).allowed_by] == ["g", "t", "import-all"]
