"""Faults of policies that a reader would miss: rules that never apply, contradict each other or do nothing.

Guarantees: what is said to have no effect has none on any report, as far as the probes are complete; where they are
not, nothing is said. Levels: an *error* is a rule or version that does not do what it says; a *warning* is one that
probably does not say what its author meant; a *note* is worth knowing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

from msgspec import UNSET, Struct

from deploy.policy.probes import TLP, probe
from deploy.policy.scene import Scene, read_policy
from protocol import taxonomy as tx
from protocol.errors import ConfigError
from protocol.matching import CONDITIONS, HEADER, NONE, GateResult, Matched, Side, ask_side, compile_policy, masks_of
from protocol.policy import Policy, Rule, names_of, select
from protocol.report import ALL_UNITS, COARSE_UNITS

Level = Literal["error", "warning", "note"]
_PROBES: Final = 4_000
_STRANGER: Final = "any-other"
BODY: Final = ALL_UNITS & ~HEADER


class Finding(Struct, frozen=True, kw_only=True):
    """One fault."""

    level: Level
    file: str
    rule: str
    """Id of the rule; empty for the document as such."""
    code: str
    text: str


class _Source(Struct, frozen=True):
    file: str
    policy: Policy


def check(paths: Sequence[Path], scene: Scene | None = None) -> list[Finding]:
    """All faults of these policy files.

    Args:
        scene: the region, so that jurisdictions and agreements that it does not have are found too.
    """
    findings: list[Finding] = []
    sources = []
    for path in paths:
        try:
            sources.append(_Source(path.name, read_policy(path)))
        except ConfigError as exc:
            text = str(exc).removeprefix(f"{path.name}: ")
            findings.append(Finding(level="error", file=path.name, rule="", code="unreadable", text=text))
    for source in sources:
        findings += check_policy(source.policy, source.file, scene)
    findings += _versions(sources)
    if scene is not None:
        findings += _without_policy(sources, scene)
    return findings


def check_policy(policy: Policy, file: str, scene: Scene | None = None) -> list[Finding]:
    """All faults of one policy."""
    return [
        *_document(policy, file),
        *_Direction(policy, file, scene, "export"),
        *_Direction(policy, file, scene, "import"),
    ]


def _document(policy: Policy, file: str) -> Iterator[Finding]:
    if policy.effective_until is not UNSET and policy.effective_until <= policy.effective_from:
        yield _of(file, "", "error", "never-in-force", "it ends before it begins")
    for rules, code, text in (
        (policy.export, "shares-nothing", "no export rule allows anything: this jurisdiction shares nothing"),
        (policy.import_, "takes-nothing", "no import rule allows anything: this jurisdiction receives nothing"),
    ):
        if not any(rule.effect == "allow" for rule in rules):
            yield _of(file, "", "warning", code, text)


def _of(file: str, rule: str, level: Level, code: str, text: str) -> Finding:
    return Finding(level=level, file=file, rule=rule, code=code, text=text)


# --- one direction of one policy --------------------------------------------------------------------------------


class _Direction:
    """Checks the export or the import rules of a policy; iterating gives the findings."""

    def __init__(self, policy: Policy, file: str, scene: Scene | None, gate: Literal["export", "import"]) -> None:
        self._own = policy.jurisdiction
        self._file = file
        self._scene = scene
        self._gate = gate
        self._rules = policy.export if gate == "export" else policy.import_
        compiled = compile_policy(policy)
        self._side = compiled.export if gate == "export" else compiled.imports

    def __iter__(self) -> Iterator[Finding]:
        idle = set()
        for rule in self._rules:
            dead = list(self._never(rule))
            yield from (self._of(rule, "error", "never-matches", text) for text in dead)
            if dead:
                idle.add(rule.id)
            else:
                yield from self._parties(rule)
            yield from self._levels(rule)
            yield from self._values(rule)
            yield from self._red(rule)
            yield from self._stricter(rule)
        yield from self._effects(idle)

    def _of(self, rule: Rule, level: Level, code: str, text: str) -> Finding:
        return _of(self._file, rule.id, level, code, text)

    def _never(self, rule: Rule) -> Iterator[str]:
        """Why no report can ever match it."""
        word = "to" if self._gate == "export" else "from"
        parties = _parties(rule)
        if parties is not None and not parties:
            yield f"`{word}` is empty: it is about nobody"
        elif parties == {self._own} and self._scene is not None and self._own not in self._scene.several:
            yield f"`{word}` names its own jurisdiction only, which has no second member"
        elif parties is not None and self._scene is not None and not parties & {*self._scene.jurisdictions}:
            yield f"`{word}`: no member of the region has the jurisdiction {', '.join(sorted(parties))}"
        for name in (*CONDITIONS, "agreement"):
            listed = getattr(rule.when, name)
            if listed == []:
                yield f"the condition on {name} lists nothing, and nothing satisfies it"
        if rule.when.agreement and self._scene is not None and self._scene.members:
            pacts = self._scene.circles.agreements
            if not any(name in pacts and self._own in pacts[name].parties for name in rule.when.agreement):
                yield f"{self._own} is party to none of its agreements: {', '.join(rule.when.agreement)}"

    def _parties(self, rule: Rule) -> Iterator[Finding]:
        parties = _parties(rule)
        if self._scene is not None and parties is not None:
            strangers = parties - {*self._scene.jurisdictions}
            if strangers:
                text = f"no member of the region has the jurisdiction {', '.join(sorted(strangers))}"
                yield self._of(rule, "warning", "unknown-party", text)
        if self._scene is not None and self._scene.members:
            unknown = set(rule.when.agreement or ()) - set(self._scene.circles.agreements)
            if unknown:
                text = f"the region has no agreement {', '.join(sorted(unknown))}"
                yield self._of(rule, "warning", "unknown-agreement", text)

    def _levels(self, rule: Rule) -> Iterator[Finding]:
        chosen = masks_of(Rule(id=rule.id, effect="deny", because=rule.because, disclose=rule.disclose))[0]
        for selector, level in rule.level.items():
            mask = select(selector)
            if not mask & chosen:
                text = f"`level` speaks of {selector}, which the rule does not disclose"
                yield self._of(rule, "warning", "level-without-effect", text)
            elif level == "coarse" and rule.effect == "allow":
                lost = mask & chosen & ~COARSE_UNITS & ~HEADER
                if lost and not mask & COARSE_UNITS:
                    text = f"{selector} has no coarse value: at the level coarse nothing of it is released"
                    yield self._of(rule, "error", "no-coarse-value", text)
                elif lost & ~masks_of(rule)[0]:
                    names = ", ".join(names_of(lost & ~masks_of(rule)[0]))
                    yield self._of(rule, "warning", "lost-by-coarse", f"no coarse value, so not released: {names}")

    def _values(self, rule: Rule) -> Iterator[Finding]:
        sectors, tags = rule.when.sector or [], rule.when.rsit or []
        covered = [
            *(a for a in sectors if any(a != b and tx.sector_within(a, b) for b in sectors)),
            *(tag for tag in tags if "/" in tag and tag.partition("/")[0] in tags),
        ]
        if covered:
            text = f"covered by a wider value in the same list: {', '.join(covered)}"
            yield self._of(rule, "warning", "redundant-value", text)
        needs = [name for name in ("sector", "severity", "pap") if getattr(rule.when, name) not in (UNSET, [])]
        if needs:
            what = "allows" if rule.effect == "allow" else "denies"
            text = f"{what} nothing of a report that does not state its {' and '.join(needs)}"
            yield self._of(rule, "note", "needs-attribute", text)

    def _red(self, rule: Rule) -> Iterator[Finding]:
        if self._gate == "export" and rule.effect == "allow" and _parties(rule) is None and rule.disclose:
            tlp = rule.when.tlp
            if tlp is UNSET or "RED" in tlp:
                text = "covers TLP:RED to everybody: whoever files such a report alone decides who reads it"
                yield self._of(rule, "warning", "red-to-all", text)

    def _stricter(self, rule: Rule) -> Iterator[Finding]:
        """Nothing in a policy keeps a stricter marking from opening what a laxer one keeps shut."""
        if rule.effect == "allow" and rule.when.tlp is not UNSET:
            listed = [TLP.index(tlp) for tlp in rule.when.tlp]
            missing = [tlp for place, tlp in enumerate(TLP[: max(listed, default=0)]) if place not in listed]
            if missing:
                text = f"allows at {TLP[max(listed)]} what it does not allow at {', '.join(missing)}"
                yield self._of(rule, "note", "more-when-stricter", text)

    # --- effects ---

    def _effects(self, idle: set[str]) -> Iterator[Finding]:
        rules = [rule for rule in self._rules if rule.id not in idle]
        seen = _Seen(self._side, rules, self._asked(rules), self._own)
        if not seen.complete and rules:
            text = f"too many combinations of conditions in the {self._gate} rules: effects were not checked"
            yield _of(self._file, "", "note", "not-exhaustive", text)
            return
        for rule in rules:
            if rule.id not in seen.effective:
                yield self._why_idle(rule, rules, heading=rule.id in seen.heading)
        never = BODY & ~seen.released
        if never and never != BODY:
            who = "nobody gets" if self._gate == "export" else "never taken in"
            text = f"{who}: {', '.join(names_of(never))}"
            yield _of(self._file, "", "note", f"never-released-{self._gate}", text)

    def _asked(self, rules: Sequence[Rule]) -> list[str]:
        if self._scene is not None:
            return [one.jurisdiction for one in self._scene.others(self._own)] or [_STRANGER]
        named = {name for rule in rules for name in _parties(rule) or ()}
        return [*sorted(named), _STRANGER]

    def _why_idle(self, rule: Rule, rules: Sequence[Rule], *, heading: bool) -> Finding:
        others = [other for other in rules if other.id != rule.id]
        equal = [o for o in others if o.effect == rule.effect and _covers(o, rule) and _covers(rule, o)]
        if equal:
            return self._of(rule, "warning", "duplicate", f"says the same as {equal[0].id}")
        wider = [other for other in others if other.effect == rule.effect and _covers(other, rule)]
        if wider:
            return self._of(rule, "warning", "subsumed", f"changes nothing: {wider[0].id} covers all of it")
        if rule.effect == "deny":
            text = "denies nothing that this document allows today: a fence for rules to come"
            return self._of(rule, "note", "deny-without-effect", text)
        above = [other for other in others if other.effect == "deny" and _covers(other, rule)]
        nothing = "releases nothing but the heading of reports" if heading else "releases nothing"
        if above:
            return self._of(rule, "error", "shadowed", f"{nothing}: {above[0].id} denies all that it names")
        if heading:
            return self._of(rule, "warning", "heading-only", f"{nothing}: other rules allow or deny all that it names")
        return self._of(rule, "warning", "without-effect", "changes nothing: the other rules together cover all of it")


def _parties(rule: Rule) -> set[str] | None:
    """Whom a rule is about; None is everybody."""
    listed = rule.from_ if rule.to is UNSET else rule.to
    return None if listed is UNSET or "*" in listed else set(listed)


def _covers(wide: Rule, narrow: Rule) -> bool:
    """Whether the first rule applies wherever the second does, and says at least as much."""
    wide_parties, narrow_parties = _parties(wide), _parties(narrow)
    if wide_parties is not None and (narrow_parties is None or narrow_parties - wide_parties):
        return False
    for name, (values, test) in CONDITIONS.items():
        outer, inner = getattr(wide.when, name), getattr(narrow.when, name)
        if outer is UNSET:
            continue
        if inner is UNSET or any(test(inner, value) and not test(outer, value) for value in values):
            return False
    if wide.when.agreement is not UNSET and (
        narrow.when.agreement is UNSET or set(narrow.when.agreement) - set(wide.when.agreement)
    ):
        return False
    fine, broad = masks_of(narrow)
    over, around = masks_of(wide)
    if wide.effect != narrow.effect:
        fine &= ~HEADER  # the heading that an allow rule releases beside its units is not what it was written for
        if not fine and not broad:
            return bool(over & HEADER)
    return not fine & ~over and not broad & ~around


class _Seen:
    """What the probes showed of one side.

    Attributes:
        effective: ids of rules without which some answer would be another, in what the rule names.
        heading: ids of rules without which somebody would not even get the heading of a report.
        released: units that anybody gets, exact or coarse.
        complete: whether the probes are all there are.
    """

    def __init__(self, side: Side, rules: Sequence[Rule], parties: Sequence[str], own: str) -> None:
        pacts = sorted({name for rule in rules for name in rule.when.agreement or ()})
        bound = [NONE, *(frozenset({name}) for name in pacts), frozenset(pacts)] if pacts else [NONE]
        most = max(_PROBES * 10 // (len(parties) or 1) // len(bound), 50)
        probes = probe(rules, own, most)
        self.complete = probes.complete
        self.effective: set[str] = set()
        self.heading: set[str] = set()
        self.released = 0
        everything = len(rules)
        for facts in probes.facts if probes.complete else ():
            for party in parties:
                for agreements in bound:
                    answer = ask_side(side, party, facts, agreements)
                    exact, coarse = _result(answer.allowed_by, answer.denied_by)
                    self.released |= exact | coarse
                    if len(self.effective) < everything:
                        self._note(answer, (exact, coarse))

    def _note(self, answer: GateResult, result: tuple[int, int]) -> None:
        for rule in (*answer.allowed_by, *answer.denied_by):
            if rule[0] not in self.effective:
                allowed = [other for other in answer.allowed_by if other is not rule]
                denied = [other for other in answer.denied_by if other is not rule]
                exact, coarse = _result(allowed, denied)
                changed = exact ^ result[0] | coarse ^ result[1]
                # An allow rule that names units is not there for the heading that comes with them.
                if changed & BODY or (changed and (rule[1] | rule[2] == HEADER or rule in answer.denied_by)):
                    self.effective.add(rule[0])
                elif changed:
                    self.heading.add(rule[0])


def _result(allowed: Iterable[Matched], denied: Iterable[Matched]) -> tuple[int, int]:
    exact = coarse = 0
    for _, fine, broad in allowed:
        exact |= fine
        coarse |= broad
    for _, fine, broad in denied:
        exact &= ~fine
        coarse &= ~broad
    return (exact, coarse) if exact & HEADER else (0, 0)


# --- versions and region ----------------------------------------------------------------------------------------


def _versions(sources: Sequence[_Source]) -> Iterator[Finding]:
    for name in sorted({source.policy.jurisdiction for source in sources}):
        found = [source for source in sources if source.policy.jurisdiction == name]
        found.sort(key=lambda source: (source.policy.effective_from, source.policy.version))
        for one, two in pairwise(found):
            yield from _pair(one, two)
        numbers = [source.policy.version for source in found]
        for source in found:
            if numbers.count(source.policy.version) > 1:
                text = f"version {source.policy.version} of {name} is in two files: a region refuses both"
                yield _of(source.file, "", "error", "version-twice", text)


def _pair(one: _Source, two: _Source) -> Iterator[Finding]:
    """Two versions, the second of which begins later."""
    before, after = one.policy, two.policy
    if before.version == after.version:
        return
    until = before.effective_until
    if before.effective_from == after.effective_from:
        text = f"version {after.version} begins at the same time and outranks it"
        yield _of(one.file, "", "error", "never-in-force", text)
        return
    if before.version > after.version:
        text = f"version {before.version} begins before version {after.version}: the lower number will hold"
        yield _of(two.file, "", "warning", "version-order", text)
    if until is not UNSET and until > after.effective_from:
        text = f"overlaps: from {after.effective_from.isoformat()} on, version {after.version} holds, not this one"
        yield _of(one.file, "", "warning", "dates-overlap", text)
    elif until is not UNSET and until < after.effective_from:
        text = f"from {until.isoformat()} to {after.effective_from.isoformat()} no version holds and nothing flows"
        yield _of(one.file, "", "warning", "dates-gap", text)


def _without_policy(sources: Sequence[_Source], scene: Scene) -> Iterator[Finding]:
    known = {source.policy.jurisdiction for source in sources} | {policy.jurisdiction for policy in scene.policies}
    for name in scene.jurisdictions:
        if name not in known:
            yield _of("(region)", "", "warning", "no-policy", f"{name} has no policy: it shares and receives nothing")
    for source in sources:
        if scene.members and source.policy.jurisdiction not in scene.jurisdictions:
            text = f"no member of the region has the jurisdiction {source.policy.jurisdiction}"
            yield _of(source.file, "", "error", "no-member", text)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether there is an error among them."""
    return any(finding.level == "error" for finding in findings)
