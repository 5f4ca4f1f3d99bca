"""Explanations in words: complete in every language, true to the answer, and free of what somebody could smuggle in."""

from __future__ import annotations

import re
import tomllib
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.dryrun import Answer, Basis
from protocol.errors import ConfigError
from protocol.policy import Withheld
from protocol.reasons import Reason
from protocol.report import COARSE_UNITS, UNIT_NAMES, DataClass
from protocol.rules import names_of
from protocol.wording import GATE_REASONS, languages, load, plain, read, reasons_given, say
from tests.policy.make import ROOT
from tests.protocol.make import deny, policy, quick

LANGUAGES = languages()
WORDING = ROOT / "protocol" / "wording"
each = pytest.mark.parametrize("language", LANGUAGES)


def tables(language: str) -> dict[str, Any]:
    """The catalogue as it stands in its file."""
    return tomllib.loads((WORDING / f"{language}.toml").read_text("utf-8"))


def test_there_are_english_and_japanese() -> None:
    """Both can be had, each under its own name."""
    assert LANGUAGES == ["en", "ja"]
    assert [load(name).language for name in LANGUAGES] == LANGUAGES


@each
def test_catalogues_have_the_same_keys(language: str) -> None:
    """What one language can say, every other can."""

    def keys(value: Any) -> Any:
        return {name: keys(inner) for name, inner in value.items()} if isinstance(value, dict) else None

    assert keys(tables(language)) == keys(tables("en"))


@each
def test_catalogues_keep_the_placeholders(language: str) -> None:
    """A translation says about the same things: the same placeholders in every sentence and document."""
    ours, english = tables(language), tables("en")
    for section in ("frames", "documents"):
        for key, text in english[section].items():
            assert set(re.findall(r"\{\w+\}", ours[section][key])) == set(re.findall(r"\{\w+\}", text)), key
    for key, text in ours["reasons"].items():
        wanted = set(re.findall(r"\{\w+\}", english["reasons"][key]))
        # Who is told so is in the sentence around it, where a language does not repeat it.
        assert set(re.findall(r"\{\w+\}", text)) - wanted <= set(), key
        assert {"{rule}"} & wanted <= set(re.findall(r"\{\w+\}", text)), key


@each
def test_everything_has_words(language: str) -> None:
    """Every unit, every class and every reason that a gate can give, each in words of its own."""
    words = load(language)
    for names, table in (
        (UNIT_NAMES, words.units),
        (names_of(COARSE_UNITS), words.coarse),
        (get_args(DataClass), words.classes),
        ([reason.value for reason in GATE_REASONS] + ["other"], words.reasons),
    ):
        assert set(table) == set(names)
        assert len(set(table.values())) == len(table)
        assert all(text.strip() == text and text for text in table.values())


def test_every_reason_of_a_gate_is_among_them() -> None:
    """Each reason that `policy` and the broker give to a gate is in the list that catalogues must cover."""
    given_ = set()
    for file in (
        "protocol/policy.py",
        "protocol/matching.py",
        "broker/decide.py",
        "node/signing.py",
        "node/opening.py",
    ):
        text = (ROOT / file).read_text("utf-8")
        if file.startswith("protocol/"):
            given_ |= set(re.findall(r"Reason\.([A-Z_]+)", text))
        else:
            found = re.findall(r"GateResult\([^)]*\(\), \(\), Reason\.([A-Z_]+)", text)
            given_ |= set(found)
    assert {Reason[name] for name in given_} <= set(GATE_REASONS)
    assert len(given_) >= 14


def test_a_gap_in_a_catalogue_is_refused() -> None:
    """A catalogue with a unit missing, a placeholder lost or an unknown one says which."""
    text = (WORDING / "en.toml").read_text("utf-8")
    for old, new, says in (
        ('title = "the title"\n', "", r"xx\.toml: \[units\] has no words for title"),
        ('personal = "personal data"\n', "", r"\[classes\] has no words for personal"),
        ('residency = "', 'residenz = "', r"\[reasons\] has no words for residency"),
        (
            'granted = "{recipient} receives',
            'granted = "She receives',
            r"\[frames\] granted must have the placeholders",
        ),
        ('join = " "', 'join = "{x}"', r"\[frames\] join must have the placeholders \(none\)"),
        ("{document} allows it", "{documents} allows it", r"\[reasons\] default-deny has an unknown placeholder"),
        ("[frames]", "[frame]", "xx.toml: "),
        ('language = "en"', "language = ", "xx.toml: not valid TOML"),
    ):
        assert old in text
        with pytest.raises(ConfigError, match=says):
            read(text.replace(old, new, 1), "xx.toml")


@pytest.mark.parametrize("name", ["xx", "", "../en", "en.toml"])
def test_a_language_without_a_catalogue_is_refused(name: str) -> None:
    """And it is said which there are."""
    with pytest.raises(ConfigError, match="there is en, ja"):
        load(name)


# --- sentences --------------------------------------------------------------------------------------------------

BECAUSE = {("jp/1", "victims-stay-home"): "The victim has not agreed.", ("jp/1", "partners"): "Mutual notification."}
ANSWER = Answer(
    jurisdiction="vn",
    granted=True,
    exact=["title"],
    coarse=["times"],
    allowed_by=[Basis(gate="export", document="jp/1", rule="partners")],
    withheld=[
        Withheld(unit="victim", gate="export", document="jp/1", reason="denied-by-rule", rule="victims-stay-home"),
        Withheld(unit="times", gate="export", document="jp/1", reason="coarse-by-rule", rule="partners", coarse=True),
        Withheld(unit="contacts", gate="import", document="vn/2", reason="default-deny"),
        Withheld(unit="description", gate="export", document="jp/1", reason="denied-by-rule", rule="victims-stay-home"),
    ],
)


ENGLISH = """
Viet Nam (vn) receives this report.
Allowed by rule “partners” of Japan's export policy (version 1). The policy gives this reason: “Mutual notification.”
Withheld: the description and the victim's name, because rule “victims-stay-home” of Japan's export policy (version 1) \
forbids it. The policy gives this reason: “The victim has not agreed.”
Withheld: the contact persons, because no rule of Viet Nam's import policy (version 2) allows it.
Only in coarser form: the times as days without the time of day. The exact value is withheld, because rule “partners” \
of Japan's export policy (version 1) allows no more than the coarser value. The policy gives this reason: \
“Mutual notification.”
"""

JAPANESE = """
ベトナム(vn)はこの報告を受け取ります。
提供の根拠:日本の提供ポリシー(第1版)の規則「partners」。規則に記された理由:「Mutual notification.」
提供されない項目:概要説明、被害組織名。日本の提供ポリシー(第1版)の規則「victims-stay-home」がこれを禁じているためです。\
規則に記された理由:「The victim has not agreed.」
提供されない項目:連絡担当者。ベトナムの受入ポリシー(第2版)に、これを認める規則がないためです。
粗い値でのみ提供される項目:日時(日付のみ)。正確な値は、日本の提供ポリシー(第1版)の規則「partners」が粗い値までしか\
認めていないため提供されません。規則に記された理由:「Mutual notification.」
"""


@pytest.mark.parametrize(("language", "expected"), [("en", ENGLISH), ("ja", JAPANESE)])
def test_an_answer_in_words(language: str, expected: str) -> None:
    """One sentence for each decision: what, which document, which rule, and the reason that its author gave."""
    said = say(ANSWER, load(language), BECAUSE)
    assert [said.headline, *said.lines] == expected.strip().splitlines()


@each
@pytest.mark.parametrize("reason", [*(reason.value for reason in GATE_REASONS), "of-another-century"])
def test_every_reason_makes_a_sentence(language: str, reason: str) -> None:
    """Whatever shuts a report out, the sentence names the recipient and leaves no placeholder."""
    for gate, document in (("export", "jp/1"), ("export", "jp"), ("marking", "report"), ("region", "registry")):
        item = Withheld(unit="report", gate=gate, document=document, reason=reason, rule="some-rule")  # type: ignore[arg-type]
        said = say(Answer(jurisdiction="th", granted=False, withheld=[item]), load(language), {})
        assert load(language).jurisdiction("th") in said.headline
        assert not re.search(r"[{}]", said.headline)
        assert said.lines == []
        assert reason != "of-another-century" or reason in said.headline


@each
def test_whole_reports_and_headings(language: str) -> None:
    """Somebody who gets all is told so, and somebody who gets the heading only."""
    words = load(language)
    whole = say(Answer(jurisdiction="jp", granted=True, exact=["title"]), words, {})
    assert whole.headline == words.frames.granted_whole.format(recipient=words.jurisdiction("jp"))
    heading = say(Answer(jurisdiction="jp", granted=True, withheld=ANSWER.withheld[:1]), words, {})
    assert heading.headline == words.frames.granted_header.format(recipient=words.jurisdiction("jp"))


def test_an_unknown_jurisdiction_is_its_code() -> None:
    """A jurisdiction that no catalogue knows is shown as it is written."""
    assert load("en").jurisdiction("atlantis") == "atlantis"
    assert load("ja").document("export", "atlantis/3") == "atlantisの提供ポリシー(第3版)"


@quick(100)
@given(st.text(max_size=40))
def test_a_policys_words_steer_nothing(text: str) -> None:
    """What an author wrote comes out on one line, without control and direction characters, and is not a template."""
    assert plain(text).isprintable()
    told = reasons_given([policy("jp", [deny("victims-stay-home", because=text or "x")])])
    said = say(ANSWER, load("en"), told)
    assert all(line.isprintable() for line in [said.headline, *said.lines])
    assert plain(text or "x") in " ".join(said.lines)


def test_templates_in_a_reason_are_text() -> None:
    """Braces in a reason are shown, not filled in."""
    said = say(ANSWER, load("en"), {("jp/1", "victims-stay-home"): "{rule.__class__} {}"})
    assert "{rule.__class__} {}" in said.lines[1]
