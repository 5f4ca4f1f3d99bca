"""Sharing policy: deny by default, most restrictive wins, and every answer names who gave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from protocol import taxonomy as tx
from protocol.envelope import SignedReport, release
from protocol.errors import ConfigError
from protocol.policy import (
    HEADER,
    Circles,
    Facts,
    Outcome,
    Pact,
    Policy,
    PolicyBook,
    Recipient,
    Rule,
    When,
    Withheld,
    ask_side,
    compile_policy,
    evaluate,
    explain,
    facts_of,
    import_gate,
    load_policy,
    may_leave,
    names_of,
    select,
)
from protocol.reasons import Reason
from protocol.report import (
    ALL_UNITS,
    COARSE_UNITS,
    NAMED_ONLY,
    UNIT_BIT,
    UNIT_NAMES,
    UNITS,
    CrossBorder,
    DataClass,
    Exercise,
    Handling,
    Header,
    MadeBy,
    Marking,
    Rsit,
    SectorRef,
    Severity,
)
from tests.protocol.make import (
    DAY,
    GROUP,
    NOW,
    allow,
    book,
    deny,
    header,
    headers,
    imports,
    in_group,
    policy,
    quick,
    signed,
)

SG = Recipient("sg")
SEEN = ALL_UNITS & ~NAMED_ONLY
"""What `*` releases: all but what nobody can read."""
GROUPS = Circles({str(GROUP): frozenset({"id", "sg"})})
TICK = timedelta(microseconds=1)


def bit(*names: str) -> int:
    """The mask of these units."""
    return sum(1 << UNIT_BIT[name] for name in names)


def ask(*rules: Rule, to: Recipient = SG, import_: Sequence[Rule] | None = None, **given_: Any) -> Outcome:
    """What a recipient gets of a report with this header when Indonesia exports by these rules."""
    return evaluate(facts_of(header(**given_)), to, book(*rules, import_=import_), NOW, GROUPS)


def why(outcome: Outcome) -> Reason:
    """The reason of the gate that shut the report out."""
    assert not outcome.granted
    assert (outcome.exact, outcome.coarse) == (0, 0)
    return next(gate.reason for gate in outcome.gates if not gate.exact & HEADER)


# --- default deny and the gates ---------------------------------------------------------------------------------


def test_nothing_is_released_by_default() -> None:
    """A policy without rules releases nothing, and says so."""
    assert why(ask()) is Reason.DEFAULT_DENY


def test_an_open_policy_releases_everything() -> None:
    """With both sides open everything travels, exact and coarse: nothing else stands in the way."""
    outcome = ask(allow())
    assert (outcome.exact, outcome.coarse) == (SEEN, COARSE_UNITS)


@pytest.mark.parametrize(
    ("disclose", "released"),
    [
        (["*"], ()),
        (["@technical", "@personal", "@narrative", "attachments.content"], ("attachments.content",)),
        (["*", "source"], ("source",)),
        (["@source"], ("source", "attachments.content")),
        (["attachments"], ("attachments.content",)),
        ([f"@{name}" for name in get_args(DataClass) if name != "source"], ()),
    ],
)
def test_what_nobody_can_read_is_released_by_name_alone(disclose: list[str], released: tuple[str, ...]) -> None:
    """Files and foreign data: neither `*` nor a class that was there before lets them out, or in; their names do."""
    everything = imports(allow(disclose=["*", "@source"]))
    assert ask(allow(disclose=disclose), import_=[everything]).exact & NAMED_ONLY == bit(*released)
    taken = ask(allow(disclose=["*", "@source"]), import_=[imports(allow(disclose=disclose))])
    assert taken.exact & NAMED_ONLY == bit(*released)
    # A deny rule for everything takes these as well.
    denied = ask(allow(disclose=["@source", "title"]), deny(disclose=["*"]), import_=[everything])
    assert denied.exact & ~HEADER == 0


def test_all_gates_are_asked_in_order() -> None:
    """The trace always holds the four gates, each with its document."""
    found = [(gate.gate, gate.document) for gate in ask(allow()).gates]
    assert found == [("marking", "report"), ("export", "id/1"), ("region", "registry"), ("import", "sg/1")]


@pytest.mark.parametrize(
    ("given_", "to", "reason"),
    [
        ({"exercise": Exercise(exercise_id="drill")}, SG, Reason.EXERCISE_MIXED),
        ({"handling": Handling(expires_at=NOW)}, SG, Reason.EXPIRED),
        ({"handling": Handling(expires_at=NOW + TICK)}, SG, None),
        ({"marking": Marking(tlp="RED", recipients=["my"])}, SG, Reason.NOT_NAMED),
        ({"marking": Marking(tlp="RED", recipients=["sg", "my"])}, SG, None),
        ({"marking": Marking(tlp="CLEAR", recipients=["my"])}, SG, Reason.NOT_NAMED),
        ({"marking": Marking(tlp="CLEAR", recipients=[])}, SG, Reason.NOT_NAMED),
        ({"handling": Handling(residency=["id", "my"])}, SG, Reason.RESIDENCY),
        ({"handling": Handling(residency=[])}, SG, Reason.RESIDENCY),
        ({"handling": Handling(residency=["sg"])}, SG, None),
        ({"marking": in_group()}, SG, None),
        ({"marking": in_group()}, Recipient("my"), Reason.NOT_IN_GROUP),
        ({"marking": in_group(recipients=["my"])}, SG, Reason.NOT_NAMED),
        ({"marking": in_group(recipients=["my"])}, Recipient("my"), Reason.NOT_IN_GROUP),
        ({}, Recipient("sg", active=False), Reason.MEMBER_SUSPENDED),
        ({}, Recipient("sg", receives=False), Reason.NOT_A_RECIPIENT),
        ({}, Recipient("th"), Reason.NO_POLICY),
        ({"cross_border": CrossBorder(suspected=True, jurisdictions=["my"])}, SG, None),
    ],
)
def test_marking_and_region(given_: dict[str, Any], to: Recipient, reason: Reason | None) -> None:
    """Each gate can shut a report out alone, with its own reason, however open the policies are."""
    outcome = ask(allow(), to=to, **given_)
    if reason is None:
        assert outcome.exact == SEEN
    else:
        assert why(outcome) is reason


def test_an_unknown_sharing_group_is_nobody() -> None:
    """A group that the region does not know has no members."""
    facts = facts_of(header(marking=in_group()))
    assert why(evaluate(facts, SG, book(allow()), NOW)) is Reason.UNKNOWN_GROUP


def test_red_without_recipients_is_for_nobody() -> None:
    """Even if such a report came into being, nobody gets it."""
    facts = replace(facts_of(header()), tlp="RED")
    assert why(evaluate(facts, SG, book(allow()), NOW)) is Reason.RECIPIENTS_REQUIRED


def test_the_import_policy_withholds_too() -> None:
    """What the recipient's law keeps out stays out although the origin would share it."""
    outcome = ask(allow(), import_=[imports(allow()), imports(deny("no-persons", disclose=["@personal"]))])
    assert outcome.exact == SEEN & ~bit("contacts")
    assert outcome.coarse == COARSE_UNITS & ~bit("contacts")
    assert why(ask(allow(), import_=[])) is Reason.DEFAULT_DENY
    assert why(ask(allow(), import_=[imports(allow(to=["my"]))])) is Reason.DEFAULT_DENY


def test_a_rule_applies_to_whom_it_names() -> None:
    """A rule for one jurisdiction says nothing about another."""
    assert ask(allow(to=["sg"])).granted
    assert why(ask(allow(to=["my"]))) is Reason.DEFAULT_DENY
    assert ask(allow(), deny(to=["my"])).granted
    assert ask(allow(), deny("d", to=["sg"])).gates[1].denied_by[0][0] == "d"
    assert why(ask(allow(to=[]))) is Reason.DEFAULT_DENY


# --- conditions -------------------------------------------------------------------------------------------------

SECTORS = [SectorRef(code="energy.gas"), SectorRef(code="health")]

CONDITIONS: list[tuple[dict[str, Any], dict[str, Any], bool, bool]] = [
    # when, header, an allow rule matches, a deny rule matches
    ({"tlp": ["GREEN", "AMBER"]}, {"marking": Marking(tlp="AMBER")}, True, True),
    ({"tlp": ["GREEN"]}, {"marking": Marking(tlp="AMBER")}, False, False),
    ({"tlp": ["AMBER"]}, {"marking": Marking(tlp="AMBER+STRICT")}, False, False),
    ({"tlp": []}, {}, False, False),
    ({"pap": ["GREEN"]}, {"marking": Marking(tlp="AMBER", pap="GREEN")}, True, True),
    ({"pap": ["CLEAR", "GREEN", "AMBER", "RED"]}, {}, False, False),
    ({"rsit": ["intrusions"]}, {}, True, True),
    ({"rsit": ["intrusions/system-compromise"]}, {}, True, True),
    ({"rsit": ["intrusions/burglary"]}, {}, False, False),
    ({"rsit": ["intrusions/system-compromise"]}, {"rsit": [Rsit(class_="intrusions")]}, False, False),
    ({"rsit": ["intrusions"]}, {"rsit": [Rsit(class_="intrusions"), Rsit(class_="fraud")]}, False, True),
    ({"rsit": ["intrusions", "fraud"]}, {"rsit": [Rsit(class_="intrusions"), Rsit(class_="fraud")]}, True, True),
    ({"sector": ["energy"]}, {"sectors": [SectorRef(code="energy.gas")]}, True, True),
    ({"sector": ["energy.gas"]}, {"sectors": [SectorRef(code="energy")]}, False, False),
    ({"sector": ["transport.air"]}, {"sectors": [SectorRef(code="transport.airport")]}, False, False),
    ({"sector": ["energy"]}, {"sectors": SECTORS}, False, True),
    ({"sector": ["energy", "health"]}, {"sectors": SECTORS}, True, True),
    ({"sector": ["energy"]}, {}, False, False),
    ({"sector": ["energy"]}, {"sectors": []}, False, False),
    ({"severity": {"min": 40}}, {"severity": Severity(score=40)}, True, True),
    ({"severity": {"min": 41}}, {"severity": Severity(score=40)}, False, False),
    ({"severity": {"max": 40}}, {"severity": Severity(score=40)}, True, True),
    ({"severity": {"max": 39}}, {"severity": Severity(score=40)}, False, False),
    ({"severity": {}}, {"severity": Severity(score=0)}, True, True),
    ({"severity": {}}, {}, False, False),
    ({"phase": ["final"]}, {"phase": "final"}, True, True),
    ({"phase": ["final"]}, {}, False, False),
    ({"phase": ["initial"]}, {}, True, True),
    ({"purpose": ["watch"]}, {"purpose": "watch"}, True, True),
    ({"purpose": ["watch"]}, {}, False, False),
    ({"made_by": ["machine"]}, {"made_by": MadeBy(kind="machine")}, True, True),
    ({"made_by": ["machine"]}, {}, False, False),
    ({"made_by": ["person"]}, {}, True, True),
    ({"tlp": ["AMBER"], "phase": ["initial"]}, {}, True, True),
    ({"tlp": ["AMBER"], "phase": ["final"]}, {}, False, False),
]


@pytest.mark.parametrize(("when", "given_", "allows", "denies"), CONDITIONS)
def test_conditions(when: dict[str, Any], given_: dict[str, Any], allows: bool, denies: bool) -> None:
    """Each condition, on its edges: of a list an allow rule needs all values, a deny rule any; of none, neither."""
    assert ask(allow(when=when), **given_).granted == allows
    assert (not ask(allow(), deny(when=when), **given_).granted) == denies


@quick(100)
@given(headers(), st.sampled_from(When.__struct_fields__))
def test_a_missing_attribute_satisfies_no_condition(head: Header, name: str) -> None:
    """An allow rule whose condition is about something that the report does not say never matches."""
    everything: dict[str, Any] = {
        "tlp": list(get_args(tx.Tlp)),
        "pap": list(get_args(tx.Pap)),
        "rsit": list(tx.RSIT),
        "sector": list(get_args(tx.Sector)),
        "severity": {},
        "phase": list(get_args(tx.Phase)),
        "purpose": list(get_args(tx.Purpose)),
        "made_by": list(get_args(tx.ToolKind)),
        "agreement": ["aid"],
    }
    absent = {
        "pap": head.marking.pap is UNSET,
        "sector": not head.sectors,
        "severity": head.severity is UNSET,
        "agreement": True,
    }
    side = compile_policy(policy("id", [allow(when={name: everything[name]})])).export
    assert bool(ask_side(side, "sg", facts_of(head)).exact & HEADER) == (not absent.get(name, False))


def test_a_second_sector_never_smuggles_the_first_one_out() -> None:
    """Adding an allowed sector to a report of a withheld one opens nothing, under allow and under deny rules."""
    energy, trade = SectorRef(code="energy"), SectorRef(code="trade")
    only_trade = allow(when={"sector": ["trade"]})
    assert ask(only_trade, sectors=[trade]).granted
    assert not ask(only_trade, sectors=[energy, trade]).granted
    no_energy = deny(when={"sector": ["energy"]})
    assert ask(allow(), no_energy, sectors=[trade]).granted
    assert not ask(allow(), no_energy, sectors=[trade, energy]).granted


# --- units and levels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("*", list(UNIT_NAMES)),
        ("report", ["report"]),
        ("title", ["title"]),
        ("indicators", [name for name in UNIT_NAMES if name.startswith("indicators.")]),
        ("indicators.file", ["indicators.file"]),
        ("@victim", ["services", "victim", "third_party"]),
        ("@personal", ["contacts"]),
        ("@location", ["geo"]),
        ("@operational", ["ot", "actions", "assistance_requested", "related"]),
        ("@nothing", []),
        ("", []),
        ("indicators.", []),
        ("indicator", []),
        ("tit", []),
        ("@", []),
        ("victim_coarse", []),
    ],
)
def test_selectors(selector: str, names: list[str]) -> None:
    """A selector names units by name, group or class, and nothing by half a name."""
    assert names_of(select(selector)) == names


def test_every_class_selects_its_fields() -> None:
    """The classes divide the body: each field is selected by exactly one."""
    classes = {unit.data for unit in UNITS.values()}
    masks = [select(f"@{name}") for name in classes]
    assert sum(masks) == ALL_UNITS & ~HEADER
    assert all(masks)


@pytest.mark.parametrize(
    ("rules", "exact", "coarse"),
    [
        ([allow(disclose=[])], (), ()),
        ([allow(disclose=["status", "victim"])], ("status", "victim"), ("victim",)),
        ([allow(disclose=["status", "victim"], level={"victim": "coarse"})], ("status",), ("victim",)),
        ([allow(disclose=["title"], level={"title": "coarse"})], (), ("title",)),
        ([allow(disclose=["victim"], level={"title": "coarse"})], ("victim",), ("victim",)),
        ([allow(disclose=["status"], level={"status": "coarse"})], (), ()),
        ([allow(disclose=["victim"], level={"*": "coarse", "victim": "exact"})], ("victim",), ("victim",)),
        ([allow(disclose=["geo"], level={"@location": "coarse", "geo": "exact"})], ("geo",), ("geo",)),
        ([allow(disclose=["geo"], level={"geo": "exact", "@location": "coarse"})], ("geo",), ("geo",)),
        ([allow(disclose=["geo"], level={"geo": "coarse", "@location": "exact"})], (), ("geo",)),
        ([allow(disclose=["geo"], level={"@location": "exact", "geo": "coarse"})], (), ("geo",)),
        (
            [allow(disclose=["indicators"], level={"indicators": "coarse", "indicators.file": "exact"})],
            ("indicators.file",),
            ("indicators.address",),
        ),
        ([allow("a", disclose=["geo"], level={"geo": "coarse"}), allow("b", disclose=["geo"])], ("geo",), ("geo",)),
        ([allow(disclose=["geo", "status"]), deny(disclose=["geo"])], ("status",), ()),
        ([allow(disclose=["geo", "status"]), deny(disclose=["geo"], level={"geo": "coarse"})], ("status",), ("geo",)),
        (
            [
                allow(disclose=["geo", "status"]),
                deny("a", disclose=["geo"], level={"geo": "coarse"}),
                deny("b", disclose=["geo"]),
            ],
            ("status",),
            (),
        ),
        (
            [allow(disclose=["geo"], level={"geo": "coarse"}), deny(disclose=["geo"], level={"*": "coarse"})],
            (),
            ("geo",),
        ),
        ([allow(disclose=["title"]), deny(disclose=["title"], level={"title": "coarse"})], (), ("title",)),
        ([allow(disclose=["status"]), deny(disclose=["status"], level={"status": "coarse"})], (), ()),
        ([allow("a", disclose=["malware"]), allow("b", disclose=["status"])], ("status", "malware"), ()),
    ],
)
def test_units_and_levels(rules: list[Rule], exact: tuple[str, ...], coarse: tuple[str, ...]) -> None:
    """Which units rules release, at which level; the header always comes along."""
    outcome = ask(*rules)
    assert names_of(outcome.exact) == ["report", *exact]
    assert names_of(outcome.coarse) == list(coarse)


def test_a_deny_rule_without_units_denies_the_report() -> None:
    """It takes the header too, and without the header nothing travels."""
    assert why(ask(allow(), deny())) is Reason.DEFAULT_DENY
    assert why(ask(allow(), deny(disclose=["report"]))) is Reason.DEFAULT_DENY
    assert not ask(allow(), deny(level={"*": "coarse"})).granted


def test_gates_intersect() -> None:
    """Exact at one gate and coarse at the other is coarse; different units are none."""
    outcome = ask(
        allow(disclose=["victim", "geo", "title"], level={"geo": "coarse"}),
        import_=[imports(allow(disclose=["victim", "geo", "status"], level={"victim": "coarse"}))],
    )
    assert names_of(outcome.exact) == ["report"]
    assert names_of(outcome.coarse) == ["victim", "geo"]


# --- versions and failures --------------------------------------------------------------------------------------


def test_versions_apply_by_date() -> None:
    """The newest version that has begun is in force; a later one does not reach back."""
    old = policy("id", [allow(disclose=["title"])], version=1, effective_from=NOW - 2 * DAY)
    new = policy("id", [allow(disclose=["status"])], version=2, effective_from=NOW)
    for order in ([old, new], [new, old]):
        versions = PolicyBook(order)
        for at, version in ((NOW - TICK, 1), (NOW, 2), (NOW + 99 * DAY, 2)):
            found = versions.at("id", at)
            assert not isinstance(found, Reason)
            assert found.source.version == version


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOW - TICK, Reason.POLICY_NOT_EFFECTIVE),
        (NOW, "id/1"),
        (NOW + DAY - TICK, "id/1"),
        (NOW + DAY, Reason.POLICY_NOT_EFFECTIVE),
    ],
)
def test_a_policy_begins_and_ends(at: datetime, expected: Reason | str) -> None:
    """Before its first instant and from its last on, a policy releases nothing."""
    book_ = PolicyBook([policy("id", [allow()], effective_from=NOW, effective_until=NOW + DAY), policy("sg")])
    found = book_.at("id", at)
    assert (found if isinstance(found, Reason) else found.name) == expected
    outcome = evaluate(facts_of(header()), SG, book_, at)
    assert outcome.granted == (expected == "id/1")
    if not outcome.granted:
        assert why(outcome) is Reason.POLICY_NOT_EFFECTIVE


def test_an_ended_policy_never_revives_an_older_one() -> None:
    """When the newest version has ended, the older and perhaps wider one does not come back."""
    versions = PolicyBook(
        [
            policy("id", [allow()], version=1, effective_from=NOW - 3 * DAY),
            policy("id", [], version=2, effective_from=NOW - 2 * DAY, effective_until=NOW - DAY),
        ]
    )
    assert versions.at("id", NOW) is Reason.POLICY_NOT_EFFECTIVE


def test_the_next_change_is_known() -> None:
    """A book says when its answers change by the passing of time alone."""
    versions = PolicyBook(
        [
            policy("id", effective_from=NOW - DAY, effective_until=NOW + 3 * DAY),
            policy("sg", effective_from=NOW + 2 * DAY),
        ]
    )
    assert versions.next_change(NOW) == NOW + 2 * DAY
    assert versions.next_change(NOW + 2 * DAY) == NOW + 3 * DAY
    assert versions.next_change(NOW + 3 * DAY) is None


def test_a_version_is_there_once() -> None:
    """Two policies of one jurisdiction under one version are refused: nobody could tell which one decided."""
    with pytest.raises(ConfigError, match="there twice"):
        PolicyBook([policy("id"), policy("id", effective_from=NOW)])


def test_no_policy_shares_and_receives_nothing() -> None:
    """A jurisdiction without a policy neither sends nor gets anything."""
    facts = facts_of(header())
    assert why(evaluate(facts, SG, PolicyBook([policy("id", [allow()])]), NOW)) is Reason.NO_POLICY
    assert why(evaluate(facts, SG, PolicyBook([policy("sg")]), NOW)) is Reason.NO_POLICY


BROKEN: list[Any] = [{"tlp": 5}, {"sector": [None]}, {"severity": "high"}, {"purpose": 7}]


@pytest.mark.parametrize("effect", ["allow", "deny"])
@pytest.mark.parametrize("broken", BROKEN)
def test_a_rule_that_fails_to_evaluate_withholds(effect: str, broken: Any) -> None:
    """Whatever goes wrong with one rule, nothing is released by the whole document, and the reason says so."""
    rules = [allow(), deny(to=["my"])]
    sound = policy("id", rules)
    when = When(**broken)
    bad = [msgspec.structs.replace(rule, when=when) if rule.effect == effect else rule for rule in rules]
    book_ = PolicyBook([msgspec.structs.replace(sound, export=bad), policy("sg")])
    outcome = evaluate(facts_of(header()), SG, book_, NOW)
    assert why(outcome) is Reason.RULE_FAILED
    assert outcome.gates[1].gate == "export"
    assert outcome.gates[1].document == "id/1"
    assert may_leave(facts_of(header()), ["sg"], book_, NOW) == (0, 0)


@pytest.mark.parametrize(
    "strange",
    [
        {"tlp": "PURPLE"},
        {"pap": "PURPLE"},
        {"phase": "rumour"},
        {"purpose": "sale"},
        {"made_by": "oracle"},
        {"severity": 101},
        {"severity": -1},
        {"rsit": (("weather", None),)},
        {"rsit": (("intrusions", None), ("fraud", "ddos"))},
        {"sectors": ("energy", "energies")},
    ],
)
def test_unknown_vocabulary_withholds(strange: dict[str, Any]) -> None:
    """A value that this version does not know satisfies not even a rule without conditions, and the reason says so."""
    facts = replace(facts_of(header()), **strange)
    assert why(evaluate(facts, SG, book(allow()), NOW)) is Reason.RULE_FAILED


# --- agreements -------------------------------------------------------------------------------------------------

PACT = Circles(agreements={"aid": Pact(frozenset({"id", "sg"}), NOW, NOW + DAY)})
BY_PACT = allow("by-pact", when={"agreement": ["aid", "other"]})


@pytest.mark.parametrize(
    ("at", "to", "circles", "granted"),
    [
        (NOW, "sg", PACT, True),
        (NOW + DAY - TICK, "sg", PACT, True),
        (NOW + DAY, "sg", PACT, False),
        (NOW - TICK, "sg", PACT, False),
        (NOW, "my", PACT, False),
        (NOW, "sg", Circles(), False),
        (NOW, "sg", Circles(agreements={"another": PACT.agreements["aid"]}), False),
        (NOW, "sg", Circles(agreements={"other": Pact(frozenset({"id", "sg"}), NOW)}), True),
        (NOW, "sg", Circles(agreements={"aid": Pact(frozenset({"my", "sg"}), NOW)}), False),
    ],
)
def test_agreements(at: datetime, to: str, circles: Circles, granted: bool) -> None:
    """The condition holds while one of the listed agreements is in force between the two, for export and import."""
    facts = facts_of(header())
    assert evaluate(facts, Recipient(to), book(BY_PACT), at, circles).granted == granted
    assert bool(may_leave(facts, [to], book(BY_PACT), at, circles)[0]) == granted
    taken = book(allow(), import_=[imports(BY_PACT)])
    assert evaluate(facts, Recipient(to), taken, at, circles).granted == granted
    assert import_gate(facts, to, taken, at, circles).granted == granted


def test_no_agreement_listed_is_none_satisfied() -> None:
    """An empty list is a condition that nothing satisfies."""
    rule = allow(when={"agreement": []})
    assert not evaluate(facts_of(header()), SG, book(rule), NOW, PACT).granted


def test_the_next_change_of_agreements_is_known() -> None:
    """Circles say when their answers change by the passing of time alone."""
    assert PACT.next_change(NOW - TICK) == NOW
    assert PACT.next_change(NOW) == NOW + DAY
    assert PACT.next_change(NOW + DAY) is None
    assert Circles(agreements={"a": Pact(frozenset({"id", "sg"}), NOW)}).next_change(NOW) is None


# --- properties -------------------------------------------------------------------------------------------------

PARTIES = st.lists(st.sampled_from(["*", "sg", "my"]), min_size=1, max_size=2)
SELECTORS = st.lists(
    st.sampled_from(
        ["*", "report", "title", "victim", "geo", "contacts", "indicators", "indicators.address", "@victim"]
    ),
    max_size=3,
)
LEVELS = st.dictionaries(
    st.sampled_from(["*", "victim", "@victim", "geo", "@location", "indicators"]),
    st.sampled_from(["exact", "coarse"]),
    max_size=3,
)
WHENS = st.fixed_dictionaries(
    {},
    optional={
        "tlp": st.lists(st.sampled_from(["AMBER", "GREEN", "CLEAR"]), max_size=2),
        "sector": st.lists(st.sampled_from(["energy", "health", "energy.gas"]), min_size=1, max_size=2),
        "severity": st.sampled_from([{}, {"min": 50}, {"max": 49}]),
        "rsit": st.just(["intrusions"]),
    },
)


@st.composite
def rule_lists(draw: st.DrawFn) -> list[Rule]:
    """Rules of both effects, mostly ones that match."""
    rules = []
    for number in range(draw(st.integers(0, 4))):
        make = allow if draw(st.booleans()) else deny
        given_: dict[str, Any] = {"to": draw(PARTIES), "level": draw(LEVELS), "when": draw(WHENS)}
        if make is allow or draw(st.booleans()):
            given_["disclose"] = draw(SELECTORS)
        rules.append(make(f"rule-{number}", **given_))
    return rules


HEADERS = st.builds(
    lambda tlp, score, sectors: header(
        marking=Marking(tlp=tlp),
        severity=UNSET if score is None else Severity(score=score),
        sectors=[SectorRef(code=code) for code in sectors],
    ),
    st.sampled_from(["CLEAR", "AMBER", "GREEN"]),
    st.sampled_from([None, 10, 90]),
    st.lists(st.sampled_from(["energy", "energy.gas", "health"]), max_size=2),
)


def decide(rules: Sequence[Rule], taken: Sequence[Rule], facts: Facts, to: Recipient = SG) -> Outcome:
    """The outcome for these rules on both sides."""
    return evaluate(facts, to, book(*rules, import_=[imports(rule) for rule in taken]), NOW, GROUPS)


def no_more(less: Outcome, more: Outcome) -> bool:
    """Whether the first outcome releases nothing that the second does not."""
    return not (less.exact & ~more.exact or less.coarse & ~more.coarse)


@quick(150)
@given(rule_lists(), rule_lists(), HEADERS, st.randoms(use_true_random=False))
def test_the_order_of_rules_never_matters(rules: list[Rule], taken: list[Rule], head: Header, random: Any) -> None:
    """Any order of the same rules, and of the levels in a rule, gives the same answer with the same trace."""
    facts = facts_of(head)
    shuffled = [
        msgspec.structs.replace(rule, level=dict(reversed(rule.level.items())))
        for rule in random.sample(rules, len(rules))
    ]
    assert decide(shuffled, random.sample(taken, len(taken)), facts) == decide(rules, taken, facts)


@quick(150)
@given(rule_lists(), rule_lists(), HEADERS, st.data())
def test_tightening_never_releases_more(
    rules: list[Rule], taken: list[Rule], head: Header, data: st.DataObject
) -> None:
    """A deny rule more, an allow rule less, a closer circle or a suspension can only take away."""
    before = decide(rules, taken, facts_of(head))
    more = deny("added", disclose=data.draw(SELECTORS), level=data.draw(LEVELS), when=data.draw(WHENS))
    assert no_more(decide([*rules, more], taken, facts_of(head)), before)
    assert no_more(decide(rules, [*taken, more], facts_of(head)), before)
    for number, rule in enumerate(rules):
        if rule.effect == "allow":
            assert no_more(decide(rules[:number] + rules[number + 1 :], taken, facts_of(head)), before)
    marking = head.marking
    for closer in (
        msgspec.structs.replace(marking, recipients=data.draw(st.lists(st.sampled_from(["sg", "my"]), max_size=2))),
        in_group(tlp=marking.tlp),
    ):
        assert no_more(decide(rules, taken, facts_of(msgspec.structs.replace(head, marking=closer))), before)
    handling = Handling(residency=data.draw(st.lists(st.sampled_from(["sg", "id"]), max_size=2)), expires_at=NOW + DAY)
    assert no_more(decide(rules, taken, facts_of(msgspec.structs.replace(head, handling=handling))), before)
    assert not decide(rules, taken, facts_of(head), Recipient("sg", active=False)).granted
    assert not decide(rules, taken, facts_of(head), Recipient("sg", receives=False)).granted


@quick(100)
@given(rule_lists(), rule_lists(), HEADERS)
def test_what_may_leave_covers_every_grant(rules: list[Rule], taken: list[Rule], head: Header) -> None:
    """The node's own filter before signing never removes what some recipient would have got."""
    facts = facts_of(head)
    book_ = book(*rules, import_=[imports(rule) for rule in taken])
    exact, coarse = may_leave(facts, ["sg", "my"], book_, NOW)
    for name in ("sg", "my"):
        outcome = evaluate(facts, Recipient(name), book_, NOW, GROUPS)
        assert not outcome.exact & ~exact
        assert not outcome.coarse & ~coarse


@quick(100)
@given(rule_lists(), rule_lists(), HEADERS)
def test_the_recipients_own_check_agrees(rules: list[Rule], taken: list[Rule], head: Header) -> None:
    """The import gate alone, as the recipient's node asks it, lets through at least what all gates together do."""
    facts = facts_of(head)
    book_ = book(*rules, import_=[imports(rule) for rule in taken])
    assert no_more(evaluate(facts, SG, book_, NOW, GROUPS), import_gate(facts, "sg", book_, NOW))


def test_what_may_leave() -> None:
    """What no recipient may ever get does not leave; named recipients and their rules are all that counts."""
    book_ = book(
        allow("a", to=["sg"], disclose=["status"]), allow("b", to=["my"], disclose=["geo"], level={"geo": "coarse"})
    )
    assert may_leave(facts_of(header()), ["sg", "my"], book_, NOW) == (bit("report", "status"), bit("geo"))
    named = facts_of(header(marking=Marking(tlp="RED", recipients=["my"])))
    assert may_leave(named, ["sg", "my"], book_, NOW) == (bit("report"), bit("geo"))
    assert may_leave(facts_of(header()), [], book_, NOW) == (0, 0)
    assert may_leave(facts_of(header()), ["sg"], PolicyBook([]), NOW) == (0, 0)


def test_the_recipients_own_check() -> None:
    """A node without an import policy of its own takes nothing in."""
    facts = facts_of(header())
    assert import_gate(facts, "sg", book(), NOW).exact == SEEN
    assert not import_gate(facts, "sg", PolicyBook([]), NOW).granted


# --- explaining -------------------------------------------------------------------------------------------------

SIGNED = signed().reports[0]
assert isinstance(SIGNED, SignedReport)
PRESENT = SIGNED.units()


@quick(200)
@given(rule_lists(), rule_lists(), HEADERS, st.integers(0, ALL_UNITS), st.integers(0, ALL_UNITS))
def test_everything_withheld_is_explained(
    rules: list[Rule], taken: list[Rule], head: Header, held_exact: int, held_coarse: int
) -> None:
    """For each unit that is there and does not travel, a rule that exists or a reason; for what travels, nothing."""
    outcome = decide(rules, taken, facts_of(head))
    exact, coarse = PRESENT[0] & held_exact, PRESENT[1] & held_coarse
    found = explain(outcome, exact, coarse)
    effects = {"export": {r.id: r.effect for r in rules}, "import": {r.id: r.effect for r in taken}}
    by_rule = {Reason.DENIED_BY_RULE: "deny", Reason.COARSE_BY_RULE: "allow", Reason.NO_COARSE_VALUE: "allow"}
    for item in found:
        effect = by_rule.get(Reason(item.reason))
        assert (item.rule is not UNSET) == (effect is not None)
        assert item.rule is UNSET or effects[item.gate][item.rule] == effect
        assert (item.reason == Reason.COARSE_BY_RULE.value) <= item.coarse
        assert item.document in ("id/1", "sg/1")
        assert Reason(item.reason)
    if not outcome.granted:
        assert [item.unit for item in found] == ["report"]
        return
    sent_exact, sent_coarse = exact & outcome.exact, coarse & outcome.coarse & ~(exact & outcome.exact)
    full = {item.unit for item in found if not item.coarse}
    coarser = {item.unit for item in found if item.coarse}
    assert full == set(names_of((exact | coarse) & ~sent_exact & ~sent_coarse))
    assert coarser == set(names_of(exact & sent_coarse & ~sent_exact))
    assert len(found) == len(full | coarser)


@quick(60)
@given(rule_lists(), HEADERS)
def test_explaining_agrees_with_releasing(rules: list[Rule], head: Header) -> None:
    """What `explain` does not list is exactly what `release` lets out."""
    outcome = decide(rules, [allow()], facts_of(head))
    assert isinstance(SIGNED, SignedReport)
    if outcome.granted:
        texts = set(release(SIGNED, outcome.exact, outcome.coarse))
        sent = {UNIT_NAMES[d.bit] for d in SIGNED.disclosures if d.text in texts}
        listed = {item.unit for item in explain(outcome, *PRESENT) if not item.coarse}
        assert sent.isdisjoint(listed)
        assert sent | listed == set(names_of(PRESENT[0] | PRESENT[1]))


def test_explanations_name_the_first_gate_that_withholds() -> None:
    """The origin reads which document withheld a unit, and by which rule."""
    outcome = ask(
        allow(disclose=["title", "victim", "contacts"], level={"victim": "coarse"}),
        deny("no-persons", disclose=["@personal"]),
        import_=[imports(allow()), imports(deny("no-titles", disclose=["title"]))],
    )
    assert explain(outcome, bit("title", "victim", "contacts", "status"), bit("victim")) == [
        Withheld(unit="title", gate="import", document="sg/1", reason="denied-by-rule", rule="no-titles"),
        Withheld(unit="status", gate="export", document="id/1", reason="default-deny"),
        Withheld(unit="victim", gate="export", document="id/1", reason="coarse-by-rule", rule="allow", coarse=True),
        Withheld(unit="contacts", gate="export", document="id/1", reason="denied-by-rule", rule="no-persons"),
    ]


def test_a_withheld_coarse_value_is_explained() -> None:
    """A unit of which only the coarse value came along is explained by who withheld that."""
    outcome = ask(
        allow(),
        deny("only-coarse", disclose=["victim"], level={"victim": "coarse"}),
        import_=[
            imports(allow()),
            imports(deny("also-only-coarse", disclose=["victim"], level={"victim": "coarse"})),
            imports(deny("no-victims", disclose=["@victim"])),
        ],
    )
    assert explain(outcome, 0, bit("victim")) == [
        Withheld(unit="victim", gate="import", document="sg/1", reason="denied-by-rule", rule="no-victims")
    ]


def test_what_is_coarse_by_a_rule_names_it() -> None:
    """Whoever reads that a unit came coarse reads which rule made it so, and what has no coarse value says that."""
    units = bit("victim", "indicators.address", "geo")
    outcome = ask(
        allow("wide", disclose=["victim", "indicators", "geo"], level={"victim": "coarse", "indicators": "coarse"}),
        deny("no-places", disclose=["geo"], level={"geo": "coarse"}),
    )
    found = {item.unit: item for item in explain(outcome, units, bit("victim", "geo"))}
    assert found["victim"] == Withheld(
        unit="victim", gate="export", document="id/1", reason="coarse-by-rule", rule="wide", coarse=True
    )
    assert found["indicators.address"] == Withheld(
        unit="indicators.address", gate="export", document="id/1", reason="no-coarse-value", rule="wide"
    )
    assert found["geo"] == Withheld(
        unit="geo", gate="export", document="id/1", reason="denied-by-rule", rule="no-places", coarse=True
    )


def test_what_does_not_come_at_all_names_who_took_the_last_of_it() -> None:
    """Where one side leaves the coarse value and the other takes that too, the other is why there is nothing."""
    outcome = ask(
        allow("wide", disclose=["victim"], level={"victim": "coarse"}),
        import_=[imports(allow()), imports(deny("no-victims", disclose=["@victim"]))],
    )
    assert explain(outcome, bit("victim"), bit("victim")) == [
        Withheld(unit="victim", gate="import", document="sg/1", reason="denied-by-rule", rule="no-victims")
    ]


# --- documents --------------------------------------------------------------------------------------------------

EXAMPLE = """
jurisdiction = "id"
version = 3
effective_from = 2026-01-01T00:00:00+07:00
description = "Indonesia shares with its neighbours."

[[export]]
id = "neighbours"
effect = "allow"
because = "Agreement of 2025"
to = ["sg", "my"]
disclose = ["@technical", "title", "victim"]
level = { victim = "coarse" }
when = { tlp = ["CLEAR", "GREEN", "AMBER"], severity = { min = 20 }, rsit = ["intrusions", "fraud/phishing"] }

[[export]]
id = "never-defence"
effect = "deny"
because = "Act 3 of 2002"
to = ["*"]
when = { sector = ["defence"] }

[[import]]
id = "anything"
effect = "allow"
because = "Nothing stands against it"
from = ["*"]
disclose = ["*"]
"""


def test_an_example_document() -> None:
    """A policy as a jurisdiction writes it loads, and decides as it reads."""
    loaded = load_policy(EXAMPLE, "id.toml")
    assert loaded.effective_from == datetime(2025, 12, 31, 17, tzinfo=UTC)
    book_ = PolicyBook([loaded, policy("sg"), policy("ph")])

    def decide_(to: str, **given_: Any) -> Outcome:
        return evaluate(facts_of(header(**{"severity": Severity(score=20), **given_})), Recipient(to), book_, NOW)

    outcome = decide_("sg")
    assert outcome.exact == select("@technical") | bit("report", "title")
    assert outcome.coarse == bit("title", "victim", "indicators.address")
    assert [rule for rule, *_ in outcome.gates[1].allowed_by] == ["neighbours"]
    assert not decide_("ph").granted
    assert not decide_("sg", severity=Severity(score=19)).granted
    assert not decide_("sg", sectors=[SectorRef(code="defence")]).granted
    assert not decide_("sg", rsit=[Rsit(class_="fraud")]).granted


RULE = '[[export]]\nid = "a"\neffect = "allow"\nbecause = "x"\nto = ["*"]\ndisclose = ["*"]\n'
HEAD = 'jurisdiction = "id"\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("=", "not valid TOML"),
        ("", r"missing-field at \$\.jurisdiction"),
        (HEAD.replace("Z", ""), r"invalid-value at \$\.effective_from"),
        (HEAD.replace("= 1", "= 0"), r"out-of-range at \$\.version"),
        (HEAD.replace('"id"', '"ID"'), r"invalid-value at \$\.jurisdiction"),
        (HEAD + "colour = 1\n", r"unknown-field at \$\.colour"),
        (HEAD + RULE.replace("allow", "permit"), r"unknown-value at \$\.export\[0\]\.effect"),
        (HEAD + RULE.replace('["*"]\nd', '["SG"]\nd'), r"invalid-value at \$\.export\[0\]\.to\[0\]"),
        (HEAD + RULE.replace('["*"]\nd', '["**"]\nd'), r"invalid-value at \$\.export\[0\]\.to\[0\]"),
        (HEAD + RULE.replace('because = "x"\n', ""), r"missing-field at \$\.export\[0\]\.because"),
        (HEAD + RULE.replace('disclose = ["*"]\n', ""), r"missing-field at \$\.export\[0\]"),
        (HEAD + RULE.replace('to = ["*"]\n', ""), r"missing-field at \$"),
        (HEAD + RULE.replace("to =", "from ="), r"missing-field at \$"),
        (HEAD + RULE + 'from = ["*"]\n', r"missing-field at \$"),
        (HEAD + RULE.replace("export", "import"), r"missing-field at \$"),
        (HEAD + RULE + RULE, "same id"),
        (HEAD + RULE + RULE.replace("export", "import").replace("to =", "from ="), "same id"),
        (HEAD + RULE.replace('id = "a"', 'id = "A b"'), r"invalid-value at \$\.export\[0\]\.id"),
        (HEAD + RULE.replace('e = ["*"]', 'e = ["titel"]'), "titel is no unit"),
        (HEAD + RULE.replace('e = ["*"]', 'e = ["@victims"]'), "@victims is no unit"),
        (HEAD + RULE + 'level = { titel = "coarse" }\n', "titel is no unit"),
        (HEAD + RULE + 'level = { geo = "rough" }\n', r"unknown-value at \$\.export\[0\]\.level"),
        (HEAD + RULE + 'when = { tlp = ["WHITE"] }\n', r"unknown-value at \$\.export\[0\]\.when\.tlp\[0\]"),
        (HEAD + RULE + 'when = { sector = ["energies"] }\n', r"unknown-value at \$\.export\[0\]\.when\.sector\[0\]"),
        (HEAD + RULE + 'when = { rsit = ["phishing"] }\n', r"unknown-rsit-type at \$\.export\[0\]\.when"),
        (HEAD + RULE + 'when = { rsit = ["fraud/spam"] }\n', r"unknown-rsit-type at \$\.export\[0\]\.when"),
        (HEAD + RULE + 'when = { rsit = ["fraud/"] }\n', r"unknown-rsit-type at \$\.export\[0\]\.when"),
        (
            HEAD + RULE + "when = { severity = { min = 101 } }\n",
            r"out-of-range at \$\.export\[0\]\.when\.severity\.min",
        ),
        (
            HEAD + RULE + "when = { severity = { min = 9, max = 8 } }\n",
            r"out-of-range at \$\.export\[0\]\.when\.severity",
        ),
        (HEAD + RULE + 'when = { agreement = ["A"] }\n', r"invalid-value at \$\.export\[0\]\.when\.agreement\[0\]"),
        (
            HEAD + RULE.replace("allow", "deny") + 'when = { agreement = ["a"] }\n',
            r"would release more \(invalid-value at \$\.export\[0\]",
        ),
        (HEAD + RULE + "when = { weather = 1 }\n", r"unknown-field at \$\.export\[0\]\.when\.weather"),
    ],
)
def test_documents_with_faults_are_refused(text: str, says: str) -> None:
    """What cannot be read is refused as a whole, with the file's name and the path of the fault: it grants nothing."""
    with pytest.raises(ConfigError, match=says) as caught:
        load_policy(text, "id.toml")
    assert str(caught.value).startswith("id.toml: ")


def test_the_faulty_documents_start_from_a_sound_one() -> None:
    """The document that the faults are put into is itself accepted."""
    assert [rule.id for rule in load_policy(HEAD + RULE, "id.toml").export] == ["a"]


def test_policies_survive_the_wire() -> None:
    """A policy is the same after it was encoded for signing and decoded."""
    loaded = load_policy(EXAMPLE, "id.toml")
    assert msgspec.json.decode(msgspec.json.encode(loaded), type=Policy) == loaded
