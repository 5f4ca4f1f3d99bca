"""`policy test`, `diff`, `matrix`, `explain` and `facts`: what they find, and what they say to bad inputs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

import broker.setup
from broker.config import load_config
from broker.proposals import decide
from deploy import cli
from deploy.policy import diff, examples, explain, facts, matrix, reports
from deploy.policy.check import check_policy
from deploy.policy.examples import Run
from deploy.policy.page import page
from deploy.policy.scene import Scene, load_scene, newest, of_policies, only_policies, read_policies, read_policy
from protocol.errors import ConfigError
from protocol.facts import Circles, Pact, Recipient
from protocol.governance import Admit, Agree
from protocol.policy import Policy, Rule
from protocol.registry import Agreement, Member
from protocol.wording import load
from tests.policy import make
from tests.protocol.make import NOW, allow, deny, imports, policy

AT = NOW.isoformat()
EN = load("en")
SMALL = {"marking": {"tlp": "AMBER"}, "rsit": [{"class": "malicious-code"}], "body": {"title": "T", "status": "open"}}
VICTIM = {**SMALL, "body": {"title": "Outage", "victim": {"name": "Bank Contoh"}, "contacts": [{"role": "desk"}]}}


def kentongan(*arguments: str | Path) -> int:
    """Run a command as an operator would; its exit code."""
    return cli.main(["policy", *map(str, arguments)], log=False)


def shipped() -> list[Path]:
    """Every policy that comes with the program."""
    return only_policies(sorted([*make.DEMO.glob("*.toml"), *make.STARTERS.glob("*.toml")]))


# --- examples ---------------------------------------------------------------------------------------------------


def run(path: Path, scene: Scene | None = None) -> Run:
    """Run the examples beside a policy, among the policies beside it."""
    return examples.run(path, scene or of_policies(newest(read_policies(path.parent))), NOW, EN)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_examples_that_come_with_the_program_pass(path: Path) -> None:
    """Every policy has examples, and does what they say."""
    found = run(path)
    assert found.failures == []
    assert found.examples >= 2


@pytest.mark.parametrize("path", shipped(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_examples_notice_every_rule(path: Path, tmp_path: Path) -> None:
    """Without any one of its rules, a policy fails its examples, unless the rule is a fence that nothing reaches."""
    for other in shipped():
        if other.parent == path.parent:
            (tmp_path / other.name).write_text(other.read_text("utf-8"), "utf-8")
    target = tmp_path / path.name
    examples.beside(target).write_text(examples.beside(path).read_text("utf-8"), "utf-8")
    scene = of_policies(newest(read_policies(tmp_path)))
    parts = re.split(r"(?=^\[\[)", path.read_text("utf-8"), flags=re.MULTILINE)
    unnoticed = []
    for number, part in enumerate(parts):
        if part.startswith("[["):
            target.write_text("".join(parts[:number] + parts[number + 1 :]), "utf-8")
            if not run(target, scene).failures:
                unnoticed.append(re.findall(r'id = "(.*)"', part)[0])
    fences = [f.rule for f in check_policy(read_policy(path), path.name) if f.code == "deny-without-effect"]
    assert unnoticed == fences


EXAMPLE = """
[[example]]
name = "victims stay"
[example.report]
marking = { tlp = "AMBER" }
rsit = [{ class = "fraud" }]
[example.report.body]
title = "T"
victim = { name = "V" }
contacts = [{ role = "desk" }]
[[example.expect]]
to = "sg"
granted = true
withheld = ["@victim"]
coarse = []
rule = "no-victims"
"""
RULES = [allow("all"), deny("no-victims", disclose=["@victim"])]


def written(directory: Path, text: str = EXAMPLE, rules: list[Rule] | None = None) -> Path:
    """Indonesia's policy with examples, and open ones of the others."""
    for made in (policy("id", RULES if rules is None else rules), policy("sg", [allow()]), policy("my", [allow()])):
        (directory / f"{made.jurisdiction}.toml").write_text(toml(made), "utf-8")
    (directory / "id.examples.toml").write_text(text, "utf-8")
    return directory / "id.toml"


def toml(made: Policy) -> str:
    """A policy as TOML: JSON values are TOML values here."""
    lines = [
        f'jurisdiction = "{made.jurisdiction}"',
        f"version = {made.version}",
        f"effective_from = {made.effective_from.isoformat()}",
    ]
    for side in ("export", "import"):
        for rule in msgspec.to_builtins(made).get(side, []):
            lines.append(f"[[{side}]]")
            for name, value in rule.items():
                if isinstance(value, dict):
                    inner = ", ".join(f'"{key}" = {json.dumps(item)}' for key, item in value.items())
                    lines.append(f"{name} = {{ {inner} }}")
                else:
                    lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def test_an_example_passes(tmp_path: Path) -> None:
    """What is expected and happens is no failure."""
    found = run(written(tmp_path))
    assert (found.file, found.examples, found.expectations, found.failures) == ("id.toml", 1, 1, [])


@pytest.mark.parametrize(
    "dates",
    [
        "effective_from = 2099-01-01T00:00:00Z",
        "effective_from = 2020-01-01T00:00:00Z\neffective_until = 2021-01-01T00:00:00Z",
    ],
)
def test_a_policy_is_tried_before_and_after_its_time(tmp_path: Path, dates: str) -> None:
    """Examples and comparisons are about what a version does once it holds, whenever that is."""
    path = written(tmp_path)
    text = re.sub(r"effective_from = .*", dates, path.read_text("utf-8"))
    path.write_text(text, "utf-8")
    assert run(path).failures == []
    base = of_policies([policy("id"), policy("sg"), policy("my")])
    (report,) = reports.parse(json.dumps(SMALL), "r", "id")
    changes = diff.compare([report], base, base.with_version(read_policy(path)), NOW).changes
    assert {change.to for change in changes if change.after} == {"sg", "my"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("granted = true\n", "granted = false\n"), "gets the report"),
        (('["@victim"]', "[]"), "withheld, and not expected: victim"),
        (('["@victim"]', '["@victim", "title"]'), "not withheld, though expected: title"),
        (('["@victim"]', '["@victim", "geo"]'), "withheld: the report has no geo"),
        (("coarse = []", 'coarse = ["contacts"]'), "not coarse, though expected: contacts"),
        (('rule = "no-victims"', 'rule = "no-victim"'), "no part is withheld by the rule no-victim"),
    ],
)
def test_an_example_fails(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    """Each way in which an outcome can differ is named, with a sentence about what happens instead."""
    text = EXAMPLE.replace(*change)
    if "false" in change[1]:
        text = text.replace('withheld = ["@victim"]\ncoarse = []\nrule = "no-victims"\n', "")
    failures = run(written(tmp_path, text)).failures
    assert [failure.text for failure in failures] == [says]
    assert (failures[0].example, failures[0].to) == ("victims stay", "sg")
    assert failures[0].said.startswith("Singapore (sg) receives this report.")


def test_a_report_that_is_refused_fails_with_the_reason(tmp_path: Path) -> None:
    """Somebody who was to get the report and does not is told why."""
    failures = run(written(tmp_path, rules=[])).failures
    assert [failure.text for failure in failures] == ["does not get the report"]
    assert "no rule of Indonesia's export policy (version 1) allows it" in failures[0].said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"missing-field at \$\.example"),
        ("example = []", r"out-of-range at \$\.example"),
        ("=", "not valid TOML"),
        (EXAMPLE.replace("granted = true", "granted = 1"), r"wrong-type at \$\.example\[0\]\.expect\[0\]\.granted"),
        (EXAMPLE.replace("[[example.expect]]", "[[example.expects]]"), r"\$\.example\[0\]"),
        (EXAMPLE.replace('"@victim"', '"@victims"'), "@victims is no unit"),
        (EXAMPLE.replace("granted = true", "granted = false"), "who gets nothing has no list"),
        (EXAMPLE.replace('to = "sg"', 'to = "th"'), "th is no recipient in this region"),
        (EXAMPLE.replace('to = "sg"', 'to = "id"'), "id is no recipient in this region"),
        (EXAMPLE.replace('"AMBER"', '"PINK"'), r"victims stay: .*unknown-value at \$\.marking\.tlp"),
        (EXAMPLE.replace('title = "T"', 'titel = "T"'), r"unknown-field at \$\.body\.titel"),
    ],
)
def test_bad_examples_are_refused(tmp_path: Path, text: str, says: str) -> None:
    """A file of examples that makes no sense is the author's fault, with the place."""
    with pytest.raises(ConfigError, match=says):
        run(written(tmp_path, text))


def test_a_report_can_stand_in_a_file_beside(tmp_path: Path) -> None:
    """`report` is a filing in place or the name of one; a missing or broken one is named."""
    text = re.sub(r"\[example\.report\].*?(?=\[\[example\.expect)", 'report = "r.json"\n', EXAMPLE, flags=re.DOTALL)
    path = written(tmp_path, text)
    for content in (None, "{", "[]"):
        if content is not None:
            (tmp_path / "r.json").write_text(content)
        with pytest.raises(ConfigError, match="victims stay"):
            run(path)
    (tmp_path / "r.json").write_text(json.dumps(VICTIM))
    assert run(path).failures == []


def test_a_policy_without_examples_is_refused(tmp_path: Path) -> None:
    """A policy has examples before it is published."""
    path = written(tmp_path)
    examples.beside(path).unlink()
    with pytest.raises(ConfigError, match=r"id\.examples\.toml is missing"):
        run(path)


# --- reports ----------------------------------------------------------------------------------------------------


def header_of(origin: str = "id", **more: Any) -> dict[str, Any]:
    """A report with its header, as a node shows it."""
    return {**SMALL, "schema": "kentongan-report/1", "origin": {"jurisdiction": origin, "member": origin},
            "issued_at": AT, "report_id": "x", **more}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        (json.dumps(SMALL), ["id"]),
        (json.dumps([SMALL, SMALL]), ["id", "id"]),
        (json.dumps(SMALL) + "\n\n" + json.dumps(header_of("sg") | {"report_id": str(NOW)}), None),
        (json.dumps({"report": SMALL, "filed_at": AT}), ["id"]),
        (json.dumps({"report_id": "r", "revisions": [{"report": SMALL}, {"report": SMALL}]}), ["id", "id"]),
        ("", []),
    ],
)
def test_reports_come_in_many_shapes(text: str, origins: list[str] | None) -> None:
    """Filings, arrays, lines, and what a node's API shows of its own reports."""
    if origins is None:
        with pytest.raises(ConfigError, match=r"x\.json:3: .*report_id"):
            reports.parse(text, "x.json", "id")
    else:
        assert [report.origin for report in reports.parse(text, "x.json", "id")] == origins


def test_a_report_with_its_header_says_whose_it_is() -> None:
    """Its origin counts, whatever --origin says; coarse stand-ins and identity are left out."""
    value = header_of("sg", report_id="00000000-0000-4000-8000-000000000001")
    value["body"] = {"title": "T", "victim_coarse": {"sector": "energy"}}
    (found,) = reports.parse(json.dumps(value), "x", "id")
    assert (found.origin, found.at) == ("sg", NOW)
    assert found.filing.body.title == "T"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "x:1: neither JSON"),
        ("[1]", r"x\[0\]: a report is a JSON object"),
        ('{"report": 1}', "`report` is a JSON object"),
        ("{}", "missing-field at"),
        (json.dumps({**SMALL, "colour": 1}), "unknown-field at"),
        (json.dumps({"report": SMALL, "filed_at": "yesterday"}), "is no time"),
        (json.dumps({"report": SMALL, "filed_at": "2026-01-01T00:00:00"}), "has no time zone"),
    ],
)
def test_bad_reports_are_refused(text: str, says: str) -> None:
    """With the file, the line or index, and the path of the fault."""
    with pytest.raises(ConfigError, match=says):
        reports.parse(text, "x", "id")


def test_a_filing_needs_an_origin() -> None:
    """Nobody guesses whose report it is."""
    with pytest.raises(ConfigError, match="give --origin"):
        reports.parse(json.dumps(SMALL), "x", None)


def test_reports_of_the_last_days() -> None:
    """By the time of filing, or else of the incident; a report that does not say is kept."""
    old = {**SMALL, "body": {"times": {"occurred": {"value": (NOW - timedelta(days=9)).isoformat()}}}}
    new = {**SMALL, "body": {"times": {"detected": {"value": (NOW - timedelta(days=1)).isoformat()}}}}
    found = reports.parse(json.dumps([old, new, SMALL]), "x", "id")
    assert [report.name for report in reports.since(found, 2, NOW)] == ["x[1]", "x[2]"]
    assert len(reports.since(found, 10, NOW)) == len(reports.since(found, None, NOW)) == 3


# --- diff -------------------------------------------------------------------------------------------------------


def compared(old: list[Rule], new: list[Rule], *given: dict[str, Any]) -> diff.Comparison:
    """Indonesia's old and new export rules on these reports."""
    base = of_policies([policy("id", old), policy("sg"), policy("my")])
    filed = reports.parse(json.dumps(list(given)), "r", "id")
    return diff.compare(filed, base, base.with_version(policy("id", new, version=2)), NOW)


def test_no_change_is_no_difference() -> None:
    """The same rules under a new version change nothing."""
    found = compared(RULES, RULES, VICTIM, SMALL)
    assert (found.reports, found.decisions, found.changes, found.more, found.less) == (2, 4, [], {}, {})


def test_more_and_less() -> None:
    """What comes in addition, what does not come any more, and by which rules."""
    found = compared(
        [allow("all", to=["sg"]), deny("no-victims", disclose=["@victim"])],
        [allow("all", to=["sg"], level={"contacts": "coarse"}), allow("some", to=["my"], disclose=["title"])],
        VICTIM,
    )
    by = {change.to: change for change in found.changes}
    assert by["sg"].more == ["victim: exact, was withheld"]
    assert by["sg"].less == ["contacts: coarse, was exact"]
    assert by["sg"].by == ["id/1: no-victims"]
    assert (by["my"].before, by["my"].after) == (False, True)
    assert by["my"].more == ["report: exact, was withheld", "title: exact, was withheld"]
    assert by["my"].by == ["id/2: some"]
    assert (found.more, found.less) == ({"my": 1, "sg": 1}, {"sg": 1})


def test_a_rule_that_says_something_else_is_named() -> None:
    """If the same rules decide and one of them was rewritten, it is named under its new version."""
    found = compared([allow("all", disclose=["title", "victim"])], [allow("all", disclose=["title"])], VICTIM)
    assert {change.to: change.less for change in found.changes} == {
        "my": ["victim: withheld, was exact"],
        "sg": ["victim: withheld, was exact"],
    }
    assert all("id/2: all" in change.by or "id/2: default-deny" in change.by for change in found.changes)


# --- matrix -----------------------------------------------------------------------------------------------------

PAIRS = of_policies(
    [
        policy(
            "id",
            [
                allow("all", when={"tlp": ["CLEAR", "GREEN"]}),
                allow("amber", when={"tlp": ["AMBER"], "sector": ["energy"]}, disclose=["title", "victim"],
                      level={"victim": "coarse"}),
                allow("heading", when={"tlp": ["AMBER+STRICT"]}, disclose=[]),
                allow("red", when={"tlp": ["RED"]}, disclose=["geo"], level={"geo": "coarse"}),
            ],
            [],
        ),
        policy("sg", [], [imports(allow("take")), imports(deny("no-persons", disclose=["@personal"]))]),
    ]
)  # fmt: skip


def test_a_pair_is_tried_at_every_level() -> None:
    """What flows at each TLP level, in shares of the probes and in words."""
    found = matrix.matrix(PAIRS, NOW)
    assert found.jurisdictions == ["id", "sg"]
    pair = found.pair("id", "sg")
    assert pair is not None
    assert {flow.tlp: flow.flow for flow in pair.flows} == {
        "CLEAR": "some", "GREEN": "some", "AMBER": "some", "AMBER+STRICT": "heading", "RED": "coarse",
    }  # fmt: skip
    clear, amber = pair.flow("CLEAR"), pair.flow("AMBER")
    assert (clear.granted, clear.exact) == (1.0, round(33 / 36, 4))
    assert {item.name: item.flow for item in clear.classes if item.flow != "all"} == {
        "personal": "none",
        "source": "none",
    }
    # Sectors tried: none, energy, another, both; an allow rule needs all of them in its list.
    assert (amber.probes, amber.granted) == (4, 0.25)
    assert {item.name: item.flow for item in amber.classes if item.flow != "none"} == {
        "narrative": "some",
        "victim": "coarse",
    }
    back = found.pair("sg", "id")
    assert back is not None
    assert {flow.flow for flow in back.flows} == {"none"}


def test_divergences_name_who_withholds() -> None:
    """What one side would send and the other may not take, and the other way round, with rule and reason."""
    pair = matrix.matrix(PAIRS, NOW).pair("id", "sg")
    assert pair is not None
    refused = [item for item in pair.divergences if item.kind == "sent-but-not-taken"]
    assert [(item.document, item.rule, item.units) for item in refused] == [("sg/1", "no-persons", ["contacts"])]
    kept = {(item.document, item.rule or item.reason) for item in pair.divergences if item.kind == "taken-but-not-sent"}
    assert kept == {("id/1", "default-deny"), ("id/1", "amber"), ("id/1", "red")}
    assert {(item.document, item.rule) for item in pair.deciders} >= {("sg/1", "no-persons"), ("id/1", "")}
    assert all(0 < item.share <= 1 for item in pair.deciders)


def test_a_heading_that_is_denied_is_a_divergence_about_everything() -> None:
    """An import rule that refuses whole reports is found."""
    scene = of_policies([policy("id", [allow()]), policy("sg", [], [imports(allow()), imports(deny("none"))])])
    pair = matrix.matrix(scene, NOW).pair("id", "sg")
    assert pair is not None
    (item,) = pair.divergences
    assert (item.kind, item.rule, len(item.units), item.share) == ("sent-but-not-taken", "none", 34, 1.0)


def test_agreements_and_members_count() -> None:
    """The matrix asks for the region as it is: agreements in force, suspended members, members without a policy."""
    by_pact = policy("id", [allow("pact", when={"agreement": ["aid"]})])
    aid = Circles(agreements={"aid": Pact(frozenset({"id", "sg"}), NOW)})
    members = (Recipient("id"), Recipient("sg"), Recipient("my", active=False), Recipient("th"))
    found = matrix.matrix(Scene((by_pact, policy("sg"), policy("my")), members, aid, members=True), NOW)
    reasons = {
        name: {item.rule or item.reason for item in pair.deciders}
        for name in ("sg", "my", "th")
        if (pair := found.pair("id", name))
    }
    assert reasons == {"sg": {"default-deny"}, "my": {"default-deny"}, "th": {"default-deny"}}
    pair = matrix.matrix(Scene((policy("id", [allow()]), policy("my")), members, aid, members=True), NOW).pair(
        "id", "my"
    )
    assert pair is not None
    assert {item.reason for item in pair.deciders} == {"member-suspended"}


class _Page(HTMLParser):
    """Checks nesting, collects tags, ids, links and text."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> _Page:
    """The page, whose tags nest."""
    found = _Page()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


def test_the_page_is_sound_and_stands_alone() -> None:
    """Tags nest, nothing is loaded, every link leads somewhere, tables have captions and headings with a scope."""
    scene = load_scene(None, make.DEMO)
    assert scene is not None
    found = matrix.matrix(scene, NOW)
    html = page(found, EN)
    seen = parsed(html)
    names = [tag for tag, _ in seen.tags]
    assert not {"script", "link", "img", "iframe", "object", "form"} & set(names)
    assert not re.search(r"https?:|url\(|@import|\son\w+=", html)
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) == len(found.pairs) == 30
    links = [attrs["href"] or "" for tag, attrs in seen.tags if tag == "a"]
    assert {link.removeprefix("#") for link in links} == set(ids)
    assert names.count("table") == names.count("caption")
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in seen.tags if tag == "th")
    assert seen.tags[0] == ("html", {"lang": "en"})
    text = " ".join(seen.text)
    assert "no-foreign-persons" in text
    assert "Personal data of foreigners may not be stored" in text


def test_the_page_escapes_what_authors_write() -> None:
    """A reason with markup in it is text."""
    evil = '<script>alert("x")</script>\u202e\x1b[2J&'
    rules = [allow("all"), deny("evil", disclose=["geo"], because=evil)]
    html = page(matrix.matrix(of_policies([policy("id", rules), policy("sg")]), NOW), EN)
    seen = parsed(html)
    assert "script" not in {tag for tag, _ in seen.tags}
    assert '<script>alert("x")</script> [2J&' in " ".join(seen.text)
    assert html.isprintable() or not re.search(r"[\u202e\x1b]", html)


# --- explain ----------------------------------------------------------------------------------------------------


def test_why_japan_got_the_report_and_viet_nam_did_not() -> None:
    """Somebody who never saw the system reads it from the sentences: documents, rules, reasons."""
    scene = load_scene(None, make.DEMO)
    assert scene is not None
    (report,) = reports.parse(json.dumps({**VICTIM, "rsit": [{"class": "malicious-code"}]}), "r", "my")
    for language, says in (
        (
            "en",
            {
                "jp": (
                    "Japan (jp) receives this report.",
                    "rule “amber-japan-technical” of Malaysia's export policy (version 1)",
                    "“Japan analyses malware for the region.”",
                    "Withheld: the victim's name and the contact persons, because no rule of Malaysia's export policy",
                ),
                "vn": ("Viet Nam (vn) does not receive this report, because no rule of Malaysia's export policy",),
            },
        ),
        (
            "ja",
            {
                "jp": (
                    "日本(jp)はこの報告を受け取ります。",
                    "マレーシアの提供ポリシー(第1版)の規則「amber-japan-technical」",
                ),
                "vn": (
                    "ベトナム(vn)はこの報告を受け取りません。マレーシアの提供ポリシー(第1版)に、これを認める規則がない",
                ),
            },
        ),
    ):
        found = explain.sentences(explain.answers(report, scene, NOW), scene, load(language))
        told = {item.jurisdiction: "\n".join([item.headline, *item.lines]) for item in found}
        assert set(told) == {"asean-rcert", "id", "jp", "sg", "vn"}
        for name, parts in says.items():
            assert all(part in told[name] for part in parts), told[name]
        assert "Contoh" not in "".join(told.values())


def test_a_rule_of_the_recipient_is_explained() -> None:
    """What the recipient's own law keeps out is put down to its own policy."""
    scene = load_scene(None, make.DEMO)
    assert scene is not None
    (report,) = reports.parse(json.dumps({**VICTIM, "marking": {"tlp": "GREEN"}}), "r", "my")
    found = explain.sentences(explain.answers(report, scene, NOW), scene, EN)
    (vn,) = [item for item in found if item.jurisdiction == "vn"]
    assert (
        "Withheld: the contact persons, because rule “no-foreign-persons” of Viet Nam's import policy (version 1) "
        "forbids it. The policy gives this reason: “Personal data of foreigners may not be "
        "stored without registration.”"
    ) in vn.lines


# --- facts ------------------------------------------------------------------------------------------------------


def test_facts_are_data_with_a_source() -> None:
    """Each of the five jurisdictions has its authority, law and deadlines, with source and confidence."""
    found = facts.load()
    assert {(f.jurisdiction, f.fact) for f in found} == {
        (name, kind) for name in ("id", "jp", "my", "sg", "vn") for kind in ("authority", "law", "deadline")
    }
    assert all(f.as_of <= datetime.now(UTC).date() for f in found)
    assert {f.confidence for f in found} == {"high", "medium", "low", "unknown"}
    assert {f.jurisdiction for f in facts.load(["jp"])} == {"jp"}
    assert facts.load(["th"]) == []


@pytest.mark.parametrize("missing", ["source", "as_of", "confidence", "value", "jurisdiction"])
def test_a_fact_without_a_source_is_refused(missing: str) -> None:
    """A fact lacks nothing."""
    text = (make.STARTERS / "facts.toml").read_text("utf-8")
    with pytest.raises(ConfigError, match=rf"missing-field at \$\.fact\[0\]\.{missing}"):
        facts.parse(re.sub(rf"^{missing} = .*$", "", text, count=1, flags=re.MULTILINE), "facts.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        facts.parse("=", "facts.toml")


def test_no_rule_rests_on_a_fact() -> None:
    """Starter policies name no law, no authority and no deadline: those are in the facts, with their confidence."""
    names = r"\b(Act|Law|Regulation|Circular|APPI|BSSN|NACSA|CSA|JPCERT|VNCERT|hours|days)\b"
    for path in only_policies(make.STARTERS.glob("*.toml")):
        for rule in (*read_policy(path).export, *read_policy(path).import_):
            assert not re.search(names, rule.because), rule.id


# --- commands ---------------------------------------------------------------------------------------------------


def spoken(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, on one line."""
    return " ".join(capsys.readouterr().out.split())


def test_check_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 for sound policies and 1 for errors; JSON on request."""
    assert kentongan("check", *make.DEMO.glob("*.toml"), "--policies", make.DEMO) == 0
    assert "0 errors" in spoken(capsys)
    bad = written(tmp_path, rules=[allow("x", to=[])])
    assert kentongan("check", bad) == 1
    assert "never-matches" in spoken(capsys)
    assert kentongan("check", bad, "--json") == 1
    assert {item["code"] for item in json.loads(capsys.readouterr().out)} >= {"never-matches"}


def test_test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 if all examples pass, 1 if one fails, 2 if there are none."""
    assert kentongan("test", *make.STARTERS.glob("*.toml")) == 0
    assert "default.toml: 4 examples" in spoken(capsys)
    bad = written(tmp_path, EXAMPLE.replace('["@victim"]', "[]"))
    assert kentongan("test", bad, "--lang", "ja") == 1
    assert "被害組織名" in spoken(capsys).replace(" ", "")
    assert kentongan("test", bad, "--json") == 1
    assert json.loads(capsys.readouterr().out)[0]["failures"]
    assert kentongan("test", tmp_path / "sg.toml") == 2
    assert "sg.examples.toml is missing" in capsys.readouterr().err


def test_diff_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy against a policy in a region, or a directory against a directory, on files and on the demonstration."""
    old = make.DEMO / "vn-1.toml"
    new = tmp_path / "vn-2.toml"
    new.write_text(
        old.read_text("utf-8").replace("min = 30", "min = 90").replace("version = 1", "version = 2"), "utf-8"
    )
    assert kentongan("diff", old, new, "--policies", make.DEMO, "--demo") == 0
    assert "Reports of which more would have been received: nobody" in spoken(capsys)
    assert kentongan("diff", old, new, "--policies", make.DEMO, "--demo", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["less"]
    assert not found["more"]
    assert {change["origin"] for change in found["changes"]} == {"vn"}
    filed = tmp_path / "r.ndjson"
    filed.write_text("\n".join(json.dumps(SMALL) for _ in range(3)))
    assert kentongan("diff", make.DEMO, make.DEMO, "--reports", filed, "--origin", "id", "--since", "3") == 0
    assert "3 reports, 15 decisions, 0 different" in spoken(capsys)


def test_matrix_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table, JSON, and a page."""
    assert kentongan("matrix", "--policies", make.DEMO) == 0
    assert "no-foreign-persons" in spoken(capsys)
    assert kentongan("matrix", "--policies", make.DEMO, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["pairs"]) == 30
    assert kentongan("matrix", "--policies", make.DEMO, "--html", tmp_path / "m.html", "--lang", "ja") == 0
    assert "被害組織名" in (tmp_path / "m.html").read_text("utf-8")


def test_explain_and_facts_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sentences in two languages, JSON, and the facts."""
    path = tmp_path / "r.json"
    path.write_text(json.dumps(VICTIM))
    assert kentongan("explain", path, "--origin", "my", "--policies", make.DEMO) == 0
    assert "✗ Viet Nam (vn) does not receive this report" in spoken(capsys)
    assert kentongan("explain", path, "--origin", "my", "--policies", make.DEMO, "--lang", "ja", "--json") == 0
    found = {item["jurisdiction"]: item for item in json.loads(capsys.readouterr().out)}
    assert found["vn"]["headline"].startswith("ベトナム(vn)はこの報告を受け取りません")
    assert found["jp"]["exact"] == ["title"]
    assert kentongan("facts", "jp") == 0
    assert "Cyber Response" in spoken(capsys)
    assert kentongan("facts", "--json") == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (lambda _: ["matrix"], "which region?"),
        (lambda d: ["matrix", "--policies", d, "--region", d], "give one of them"),
        (lambda d: ["matrix", "--policies", d], "no policy"),
        (lambda d: ["matrix", "--region", d], "kentongan: "),
        (lambda _: ["matrix", "--policies", make.DEMO, "--at", "today"], "not a time"),
        (lambda _: ["matrix", "--policies", make.DEMO, "--at", "2026-01-01"], "needs a zone"),
        (lambda d: ["explain", d / "none.json", "--policies", make.DEMO], "cannot be read"),
        (lambda _: ["diff", make.DEMO, make.DEMO], "which reports?"),
        (lambda _: ["diff", make.DEMO / "id-1.toml", make.DEMO, "--demo"], "which are the others'?"),
        (lambda d: ["diff", d / "none.toml", make.DEMO, "--demo", "--policies", make.DEMO], "cannot be read"),
    ],
)
def test_bad_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: Callable[[Path], list[str | Path]], says: str
) -> None:
    """The operator's mistakes end with 2 and one line that says what to do."""
    assert kentongan(*arguments(tmp_path)) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_brokers_directory_is_a_region(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Members, agreements and policies as the broker knows them; examples beside the policies are no policies."""
    home = tmp_path / "broker"
    broker.setup.init(home, "test")
    for name in ("id", "sg", "my", "my-soc"):
        decide(load_config(home), Admit(member=Member(id=name, jurisdiction=name[:2], name=name)))
    broker.setup.set_status(home, "my", "suspended")
    for path in make.DEMO.glob("id-1*.toml"):
        (home / "policies" / path.name).write_text(path.read_text("utf-8"), "utf-8")
    (home / "policies" / "sg-1.toml").write_text(
        toml(policy("sg", [allow("pact", when={"agreement": ["aid"]}, to=["id"])])), "utf-8"
    )
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    pact = Agreement(id="aid", title="Aid", parties=["id", "sg"], effective_from=begins)
    decide(load_config(home), Agree(agreement=pact))
    scene = load_scene(home, None)
    assert scene is not None
    assert scene.jurisdictions == ("id", "my", "sg")
    assert set(scene.circles.agreements) == {"aid"}
    assert [one.jurisdiction for one in scene.others("id")] == ["my", "sg"]
    assert [one.jurisdiction for one in scene.others("my")] == ["id", "my", "sg"]
    assert all(one.active for one in scene.recipients)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(SMALL))
    assert kentongan("explain", path, "--origin", "sg", "--region", home, "--at", AT) == 0
    said = spoken(capsys)
    assert "✓ Indonesia (id) receives this report in full." in said
    assert "✗ Malaysia (my) does not receive this report" in said
    assert kentongan("explain", path, "--origin", "sg", "--region", home, "--at", "2025-12-31T00:00:00Z") == 0
    assert "✗ Indonesia (id) does not receive this report" in spoken(capsys)
    assert kentongan("check", home / "policies" / "sg-1.toml", "--region", home, "--json") == 0
    assert {item["code"] for item in json.loads(capsys.readouterr().out)} >= {"no-policy"}
