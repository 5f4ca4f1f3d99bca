"""Examples beside a policy: reports with the outcome that the author expects, run before the policy is published.

`jp-1.toml` has its examples in `jp-1.examples.toml`:

    [[example]]
    name = "a victim is never named abroad"
    origin = "jp"                        # default: the policy's own jurisdiction
    at = 2026-03-01T00:00:00Z            # default: now; which versions of the others' policies and agreements hold
    others = "open"                      # the others share and take everything; default: their policies as they are
    agreements = ["mutual-aid"]          # in force between all, in this example
    report = "victim.json"               # a filing beside this file, or as a table [example.report]

    [[example.expect]]
    to = "sg"
    granted = true
    withheld = ["description", "@victim"]   # exactly these do not come; left out: anything
    coarse = ["geo"]                        # exactly these come coarse; left out: anything
    rule = "victims-stay-home"              # this rule is among those that withheld something

The policy is tried as the version in force of its jurisdiction, whatever its dates. Guarantees: a selector that names
no part of the report fails the example, so that one which no longer tests anything is noticed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.members import EXAMPLES
from deploy.policy import explain
from deploy.policy.reports import Filed, filing_of
from deploy.policy.scene import ALWAYS, Scene, in_force, read_policy
from protocol.dryrun import Answer, units_of
from protocol.errors import ConfigError, ProtocolError
from protocol.facts import Pact
from protocol.parse import convert
from protocol.policy import Policy, Rule
from protocol.report import UNIT_NAMES, Instant, Jurisdiction
from protocol.rules import AgreementId, names_of, select
from protocol.wording import Catalogue, reasons_given, say


class _Doc(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Expect(_Doc, frozen=True, kw_only=True):
    """What one recipient is to get."""

    to: Jurisdiction
    granted: bool
    withheld: list[str] | UnsetType = UNSET
    coarse: list[str] | UnsetType = UNSET
    rule: str | UnsetType = UNSET

    def __post_init__(self) -> None:
        for selector in (*(self.withheld or ()), *(self.coarse or ())):
            if not select(selector):
                raise ValueError(f"unknown-unit: {selector} is no unit, unit group or @class")
        if not self.granted and (self.withheld or self.coarse):
            raise ValueError("invalid-value: who gets nothing has no list of what is withheld")


class Example(_Doc, frozen=True, kw_only=True):
    """One report and what is to become of it."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    report: dict[str, Any] | str
    expect: Annotated[list[Expect], Meta(min_length=1)]
    origin: Jurisdiction | UnsetType = UNSET
    at: Instant | UnsetType = UNSET
    others: Literal["as-they-are", "open"] = "as-they-are"
    agreements: list[AgreementId] = []


class Examples(_Doc, frozen=True, kw_only=True):
    """The file."""

    example: Annotated[list[Example], Meta(min_length=1)]


class Failure(Struct, frozen=True, kw_only=True):
    """An example that did not come out as expected."""

    file: str
    example: str
    to: str
    text: str
    said: str
    """The explanation of what happens instead."""


class Run(Struct, frozen=True, kw_only=True):
    """What the examples of one policy came to."""

    file: str
    examples: int
    expectations: int
    failures: list[Failure]


def beside(path: Path) -> Path:
    """Where the examples of a policy file are."""
    return path.with_name(path.name.removesuffix(".toml") + EXAMPLES)


def load(path: Path) -> Examples:
    """Read an examples file. ConfigError with the file and the path of the fault."""
    try:
        return convert(tomllib.loads(path.read_text("utf-8")), Examples)
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} is missing: a policy has examples before it is published") from exc
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    except ProtocolError as exc:
        raise ConfigError(f"{path.name}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc


def _report(example: Example, policy: Policy, file: Path) -> Filed:
    origin = example.origin or policy.jurisdiction
    place = f"{file.name}: {example.name}"
    value = example.report
    if isinstance(value, str):
        try:
            value = json.loads((file.parent / value).read_text("utf-8"))
        except (OSError, ValueError) as exc:
            raise ConfigError(f"{place}: {example.report} is no JSON file beside it") from exc
    return Filed(place, origin, filing_of(value, place))


def _picked(selectors: Sequence[str], present: int) -> tuple[int, list[str]]:
    """(units of the report that these name, selectors that name none of it)"""
    picked = 0
    for selector in selectors:
        picked |= select(selector) & present
    return picked, [selector for selector in selectors if not select(selector) & present]


def _mask(names: Sequence[str]) -> int:
    return sum(1 << UNIT_NAMES.index(name) for name in names)


def _faults(expect: Expect, answer: Answer, present: int) -> Iterator[str]:
    if answer.granted != expect.granted:
        yield "gets the report" if answer.granted else "does not get the report"
        return
    found = {
        "withheld": [item.unit for item in answer.withheld if not item.coarse and item.unit != "report"],
        "coarse": answer.coarse,
    }
    for kind, wanted in (("withheld", expect.withheld), ("coarse", expect.coarse)):
        if wanted is UNSET:
            continue
        picked, empty = _picked(wanted, present)
        if empty:
            yield f"{kind}: the report has no {', '.join(empty)}"
        got = _mask(found[kind])
        if more := names_of(got & ~picked):
            yield f"{kind}, and not expected: {', '.join(more)}"
        if less := names_of(picked & ~got):
            yield f"not {kind}, though expected: {', '.join(less)}"
    if expect.rule and expect.rule not in {item.rule for item in answer.withheld}:
        yield f"no part is withheld by the rule {expect.rule}"


def _around(example: Example, policy: Policy, scene: Scene) -> Scene:
    """The region that the example supposes."""
    names = frozenset(scene.jurisdictions)
    pacts = {name: Pact(names | {policy.jurisdiction}, ALWAYS) for name in example.agreements}
    scene = replace(scene, circles=replace(scene.circles, agreements={**scene.circles.agreements, **pacts}))
    if example.others == "as-they-are":
        return scene
    others = [open_to_all(name) for name in sorted(names - {policy.jurisdiction})]
    return scene.with_policies([in_force(policy), *others])


def open_to_all(jurisdiction: str) -> Policy:
    """A policy that shares and takes everything."""
    everything = Rule(id="all-out", effect="allow", because="supposed by the example", to=["*"], disclose=["*"])
    taken = msgspec.structs.replace(everything, id="all-in", to=UNSET, from_=["*"])
    return Policy(jurisdiction=jurisdiction, version=1, effective_from=ALWAYS, export=[everything], import_=[taken])


def _try(example: Example, policy: Policy, file: Path, scene: Scene, now: datetime, words: Catalogue) -> list[Failure]:
    report = _report(example, policy, file)
    scene = _around(example, policy, scene)
    exact, coarse = units_of(report.filing.body)
    found = {a.jurisdiction: a for a in explain.answers(report, scene, example.at or now)}
    failures = []
    for expect in example.expect:
        answer = found.get(expect.to)
        if answer is None:
            raise ConfigError(f"{report.name}: {expect.to} is no recipient in this region")
        said = say(answer, words, reasons_given(scene.policies))
        failures += [
            Failure(
                file=file.name,
                example=example.name,
                to=expect.to,
                text=text,
                said=" ".join([said.headline, *said.lines]),
            )
            for text in _faults(expect, answer, exact | coarse)
        ]
    return failures


def run(path: Path, scene: Scene, now: datetime, words: Catalogue) -> Run:
    """Run the examples beside a policy file, in a region in which that policy is in force.

    Raises:
        ConfigError: policy or examples cannot be read, or an example makes no sense.
    """
    policy = read_policy(path)
    file = beside(path)
    examples = load(file).example
    tried = scene.with_version(policy)
    failures = [failure for example in examples for failure in _try(example, policy, file, tried, now, words)]
    return Run(
        file=path.name,
        examples=len(examples),
        expectations=sum(len(example.expect) for example in examples),
        failures=failures,
    )
