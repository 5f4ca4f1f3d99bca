"""`policy check`: each fault is found under its code, and sound policies have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.policy.check import Finding, check, check_policy, failed
from deploy.policy.scene import Scene, of_policies, read_policies
from protocol.facts import Circles, Pact, Recipient, facts_of
from protocol.policy import HEADER, Policy, PolicyBook, Rule, evaluate
from protocol.report import ALL_UNITS
from tests.policy import make
from tests.protocol.make import NOW, allow, deny, imports, policy, quick

OTHERS = ("sg", "my", "jp")
SCENE = of_policies([policy(name) for name in ("id", *OTHERS)])
PACTS = Circles(agreements={"aid": Pact(frozenset({"id", "sg"}), NOW), "far": Pact(frozenset({"my", "jp"}), NOW)})
REGION = Scene(SCENE.policies, SCENE.recipients, PACTS, members=True)


def found(*export: Rule, scene: Scene | None = REGION, taken: Sequence[Rule] | None = None) -> list[Finding]:
    """The findings about Indonesia's policy, notes left out."""
    return [f for f in check_policy(policy("id", export, taken), "id.toml", scene) if f.level != "note"]


def codes(*export: Rule, scene: Scene | None = REGION) -> set[tuple[str, str, str]]:
    """(level, rule, code) of the findings."""
    return {(f.level, f.rule, f.code) for f in found(*export, scene=scene)}


TITLE = allow("title", to=["sg"], disclose=["title"])


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([TITLE], set()),
        ([], {("warning", "", "shares-nothing")}),
        ([TITLE, deny("x", to=["sg"], disclose=["geo"])], set()),
        # rules that can never match
        ([TITLE, allow("x", to=[])], {("error", "x", "never-matches")}),
        ([TITLE, allow("x", to=["id"])], {("error", "x", "never-matches")}),
        ([TITLE, allow("x", to=["th", "ph"])], {("error", "x", "never-matches")}),
        ([TITLE, allow("x", to=["th", "my"])], {("warning", "x", "unknown-party")}),
        ([TITLE, allow("x", to=["my"], when={"tlp": []})], {("error", "x", "never-matches")}),
        ([TITLE, deny("x", when={"sector": []})], {("error", "x", "never-matches")}),
        ([TITLE, allow("x", to=["my"], when={"agreement": []})], {("error", "x", "never-matches")}),
        ([TITLE, allow("x", to=["my"], when={"agreement": ["far", "nowhere"]})], {("error", "x", "never-matches")}),
        ([TITLE, allow("x", to=["my"], when={"agreement": ["aid"]})], set()),
        (
            [TITLE, allow("x", to=["my"], when={"agreement": ["aid", "nowhere"]})],
            {("warning", "x", "unknown-agreement")},
        ),
        # contradictions, and rules that change nothing
        ([TITLE, deny("x", to=["sg"], disclose=["title"])], {("error", "title", "shadowed")}),
        ([TITLE, deny("x", to=["sg"])], {("error", "title", "shadowed")}),
        (
            [
                allow("x", to=["sg"], disclose=["title", "status"]),
                deny("t", disclose=["title"]),
                deny("s", to=["sg"], disclose=["status"]),
            ],
            {("warning", "x", "heading-only")},
        ),
        ([TITLE, deny("x", to=["sg"], disclose=["title"], when={"sector": ["energy"]})], set()),
        ([allow("x", to=["sg"], disclose=[]), deny("y", when={"sector": ["energy"]})], set()),
        (
            [TITLE, msgspec.structs.replace(TITLE, id="x")],
            {("warning", "title", "duplicate"), ("warning", "x", "duplicate")},
        ),
        ([TITLE, allow("x", to=["sg", "my"], disclose=["title", "status"])], {("warning", "title", "subsumed")}),
        (
            [
                allow("low", to=["sg"], disclose=["title"], when={"severity": {"max": 49}}),
                allow("high", to=["sg"], disclose=["title"], when={"severity": {"min": 50}}),
                allow("any", to=["sg"], disclose=["title"], when={"severity": {}}),
            ],
            {("warning", "low", "subsumed"), ("warning", "high", "subsumed"), ("warning", "any", "without-effect")},
        ),
        (
            [
                allow("gas", to=["sg"], disclose=["title"], when={"sector": ["energy.gas"]}),
                allow("energy", to=["sg"], disclose=["title"], when={"sector": ["energy"]}),
            ],
            {("warning", "gas", "subsumed")},
        ),
        (
            [
                allow("energy", to=["sg"], disclose=["title"], when={"sector": ["energy"]}),
                allow("health", to=["sg"], disclose=["title"], when={"sector": ["health"]}),
                allow("both", to=["sg"], disclose=["title"], when={"sector": ["energy", "health"]}),
            ],
            {("warning", "energy", "subsumed"), ("warning", "health", "subsumed")},
        ),
        (
            [
                allow("one", to=["sg"], disclose=["title"]),
                allow("two", to=["sg"], disclose=["status"]),
                allow("sum", to=["sg"], disclose=["title", "status"]),
            ],
            {("warning", "one", "subsumed"), ("warning", "two", "subsumed"), ("warning", "sum", "without-effect")},
        ),
        # levels
        ([allow("x", to=["sg"], disclose=["status"], level={"status": "coarse"})], {("error", "x", "no-coarse-value")}),
        (
            [allow("x", to=["sg"], disclose=["indicators"], level={"indicators": "coarse"})],
            {("warning", "x", "lost-by-coarse")},
        ),
        (
            [
                allow(
                    "x", to=["sg"], disclose=["indicators"],
                    level={"indicators": "coarse", "indicators.domain": "exact", "indicators.file": "exact",
                           "indicators.account": "exact", "indicators.other": "exact"},
                )
            ],
            set(),
        ),
        (
            [allow("x", to=["sg"], disclose=["title"], level={"geo": "coarse"})],
            {("warning", "x", "level-without-effect")},
        ),
        ([TITLE, deny("x", to=["sg"], disclose=["status"], level={"status": "coarse"})], set()),
        # values
        ([allow("x", to=["sg"], when={"sector": ["energy", "energy.gas"]})], {("warning", "x", "redundant-value")}),
        ([allow("x", to=["sg"], when={"rsit": ["fraud/phishing", "fraud"]})], {("warning", "x", "redundant-value")}),
        # red
        ([allow("x")], {("warning", "x", "red-to-all")}),
        ([allow("x", when={"tlp": ["RED"]})], {("warning", "x", "red-to-all")}),
        ([allow("x", disclose=[])], set()),
        ([allow("x", when={"tlp": ["CLEAR"]})], set()),
        ([allow("x", to=["sg", "my"])], set()),
    ],
)  # fmt: skip
def test_faults(rules: list[Rule], expected: set[tuple[str, str, str]]) -> None:
    """Every fault under its level, rule and code; nothing else."""
    assert codes(*rules) == expected


def test_notes() -> None:
    """What is worth knowing and no fault."""
    rules = [
        allow("x", to=["sg"], disclose=["title"], when={"sector": ["energy"], "tlp": ["AMBER"]}),
        deny("fence", disclose=["contacts"]),
    ]
    notes = {(f.rule, f.code): f.text for f in check_policy(policy("id", rules), "id.toml", REGION)}
    assert "does not state its sector" in notes["x", "needs-attribute"]
    assert "allows at AMBER what it does not allow at CLEAR, GREEN" in notes["x", "more-when-stricter"]
    assert "a fence" in notes["fence", "deny-without-effect"]
    assert "nobody gets: description" in notes["", "never-released-export"]


def test_without_a_region_strangers_are_nobodys_fault() -> None:
    """A policy alone is checked for what it says itself."""
    assert codes(TITLE, allow("x", to=["th"], when={"agreement": ["nowhere"]}), scene=None) == set()
    assert codes(TITLE, allow("x", to=["id"]), scene=None) == set()
    assert codes(TITLE, allow("x", to=["id"]), scene=replace(REGION, several=frozenset({"id"}))) == set()
    assert codes(deny("x", to=["th"], disclose=["title"]), allow("y", to=["th"], disclose=["title"]), scene=None) == {
        ("error", "y", "shadowed")
    }


def test_import_rules_are_checked_alike() -> None:
    """The same faults on the other side, in terms of `from`."""
    taken = [imports(allow("all")), imports(allow("x", to=["th"]))]
    assert [(f.rule, f.code, f.text) for f in found(TITLE, taken=taken)] == [
        ("x", "never-matches", "`from`: no member of the region has the jurisdiction th")
    ]
    assert [f.code for f in found(TITLE, taken=[])] == ["takes-nothing"]


def test_too_many_conditions_are_not_guessed_about() -> None:
    """Where the probes are a sample, nothing is said to be without effect."""
    busy = {
        "sector": list(make.SECTORS), "rsit": ["fraud", "intrusions", "availability", "vulnerable", "other"],
        "severity": {"min": 10, "max": 90}, "pap": ["RED"], "phase": ["initial"], "purpose": ["watch"],
        "made_by": ["person"],
    }  # fmt: skip
    findings = check_policy(policy("id", [allow("x", to=["sg"], when=busy), TITLE, TITLE_TWICE]), "id.toml", REGION)
    assert "not-exhaustive" in {f.code for f in findings}
    assert not {"duplicate", "subsumed", "without-effect"} & {f.code for f in findings}


TITLE_TWICE = msgspec.structs.replace(TITLE, id="title-twice")
HEADING = {"shadowed", "heading-only"}
IDLE = {"duplicate", "subsumed", "without-effect", "deny-without-effect", "never-matches"} | HEADING


@quick(60)
@given(st.randoms(use_true_random=False))
def test_what_is_said_to_do_nothing_does_nothing(rand: Random) -> None:
    """Removing any one rule that is reported as idle changes no answer on random reports."""
    ours = make.policy(rand, "id")
    scene = replace(REGION, recipients=tuple(Recipient(name) for name in make.NAMES), circles=make.circles(rand))
    idle = {f.rule: f.code for f in check_policy(ours, "id.toml", scene) if f.code in IDLE}
    others = [policy(name) for name in make.NAMES if name != "id"]
    heads = [facts_of(make.head(rand)) for _ in range(5)]
    for name in sorted({*idle} & {rule.id for rule in ours.export}):
        less = msgspec.structs.replace(ours, export=[rule for rule in ours.export if rule.id != name])
        for facts in heads:
            for recipient in scene.others("id"):
                was, now = (
                    evaluate(facts, recipient, PolicyBook([document, *others]), NOW, scene.circles)
                    for document in (ours, less)
                )
                # What is said to release the heading and no more may do that.
                counts = ALL_UNITS & ~HEADER if idle[name] in HEADING else ALL_UNITS
                assert not (was.exact ^ now.exact | was.coarse ^ now.coarse) & counts, name


# --- files, versions, region ------------------------------------------------------------------------------------

HEAD = 'jurisdiction = "{name}"\nversion = {version}\neffective_from = {start}\n{more}\n'
RULES = """
[[export]]
id = "all"
effect = "allow"
because = "x"
to = ["sg", "my"]
disclose = ["*"]

[[import]]
id = "in"
effect = "allow"
because = "x"
from = ["*"]
disclose = ["*"]
"""


def write(directory: Path, name: str, version: int, start: str, more: str = "", rules: str = RULES) -> Path:
    """A policy file."""
    path = directory / f"{name}-{version}-{start[:10]}.toml"
    path.write_text(HEAD.format(name=name, version=version, start=start, more=more) + rules, "utf-8")
    return path


def said(paths: list[Path], scene: Scene | None = None) -> list[tuple[str, str]]:
    """(file, code) of errors and warnings."""
    return [(f.file, f.code) for f in check(paths, scene) if f.level != "note"]


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ((1, "2026-01-01T00:00:00Z", ""), (2, "2026-06-01T00:00:00Z", ""), []),
        ((1, "2026-01-01T00:00:00Z", ""), (2, "2026-01-01T00:00:00Z", ""), [(0, "never-in-force")]),
        ((2, "2026-01-01T00:00:00Z", ""), (1, "2026-06-01T00:00:00Z", ""), [(1, "version-order")]),
        (
            (1, "2026-01-01T00:00:00Z", "effective_until = 2026-07-01T00:00:00Z"),
            (2, "2026-06-01T00:00:00Z", ""),
            [(0, "dates-overlap")],
        ),
        (
            (1, "2026-01-01T00:00:00Z", "effective_until = 2026-06-01T00:00:00Z"),
            (2, "2026-06-01T00:00:00Z", ""),
            [],
        ),
        (
            (1, "2026-01-01T00:00:00Z", "effective_until = 2026-05-01T00:00:00Z"),
            (2, "2026-06-01T00:00:00Z", ""),
            [(0, "dates-gap")],
        ),
        (
            (1, "2026-01-01T00:00:00Z", "effective_until = 2025-05-01T00:00:00Z"),
            (2, "2026-06-01T00:00:00Z", ""),
            [(0, "never-in-force"), (0, "dates-gap")],
        ),
        (
            (1, "2026-01-01T00:00:00Z", ""),
            (1, "2026-06-01T00:00:00Z", ""),
            [(0, "version-twice"), (1, "version-twice")],
        ),
    ],
)
def test_versions(tmp_path: Path, one: Any, two: Any, expected: list[tuple[int, str]]) -> None:
    """Two versions of one policy: which holds when, and where none does."""
    paths = [write(tmp_path, "id", *one), write(tmp_path, "id", *two)]
    assert said(paths) == [(paths[number].name, code) for number, code in expected]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff\xfe", "cannot be read as text"),
        (b"= nonsense", "not valid TOML"),
        (b'jurisdiction = "id"', "missing-field at $.version"),
        ((HEAD.format(name="id", version=1, start="2026-01-01T00:00:00Z", more="") + RULES).replace('"*"]', '"@x"]')
         .encode(), "@x is no unit"),
    ],
)  # fmt: skip
def test_unreadable_files(tmp_path: Path, text: bytes, says: str) -> None:
    """A file that is no policy is an error with its name, and the others are checked all the same."""
    bad, good = tmp_path / "bad.toml", write(tmp_path, "id", 1, "2026-01-01T00:00:00Z")
    bad.write_bytes(text)
    findings = check([bad, good, tmp_path / "missing.toml"])
    assert [(f.level, f.file, f.code) for f in findings if f.level != "note"] == [
        ("error", "bad.toml", "unreadable"),
        ("error", "missing.toml", "unreadable"),
    ]
    assert says in findings[0].text
    assert failed(findings)


def test_a_region_is_checked_as_a_whole(tmp_path: Path) -> None:
    """Members without a policy and policies without a member are found."""
    path = write(tmp_path, "th", 1, "2026-01-01T00:00:00Z")
    scene = Scene((), (Recipient("id"), Recipient("sg"), Recipient("my")), members=True)
    assert said([path], scene) == [
        ("(region)", "no-policy"), ("(region)", "no-policy"), ("(region)", "no-policy"), (path.name, "no-member"),
    ]  # fmt: skip


@pytest.mark.parametrize("directory", [make.DEMO, make.STARTERS], ids=["demo", "starters"])
def test_the_policies_that_come_with_the_program_are_sound(directory: Path) -> None:
    """No errors, and no warnings but what is meant: RED to a named circle, a coordinator that files nothing."""
    policies = read_policies(directory)
    paths = sorted(
        path for path in directory.glob("*.toml") if "examples" not in path.name and "facts" not in path.name
    )
    assert len(paths) == len(policies) == 6
    warnings = {f.code for f in check(paths, of_policies(policies)) if f.level != "note"}
    assert warnings <= {"red-to-all", "shares-nothing", "unknown-party"}
    assert all(rule.because.strip() for p in policies for rule in (*p.export, *p.import_))


def test_findings_do_not_depend_on_the_order_of_rules() -> None:
    """The same findings for the same rules in any order."""
    rand = Random(1)
    for _ in range(10):
        ours = make.policy(rand, "id")
        mixed: Policy = msgspec.structs.replace(ours, export=rand.sample(ours.export, len(ours.export)))
        one, two = ({(f.rule, f.code) for f in check_policy(p, "x", REGION)} for p in (ours, mixed))
        assert one == two
