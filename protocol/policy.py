"""Sharing policy: who may get which part of a report, and which rule says so.

Guarantees: deny by default; most restrictive wins; the answer never depends on the order of rules; a missing attribute
never satisfies a condition; a rule that fails to evaluate withholds; every answer carries the rules that gave it.
Refuses: policies with unknown vocabulary, units or fields (as a whole, in `rules`: what cannot be read grants nothing).

Three gates, in the order in which they are asked and explained:

    marking   the report's own circle: named recipients, sharing group, residency, expiry
    export    the origin jurisdiction's policy
    region    membership: is this member active, may it receive at all
    import    the recipient jurisdiction's policy

(`marking` and `export` together are the origin's gate.) Within a document: all that allow rules allow, minus all that
deny rules deny. Across gates: what all of them let through. Everything is a bit mask over `report.UNIT_NAMES`, one for
exact values and one for coarse ones, so that a decision is a handful of integer operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from protocol import taxonomy as tx
from protocol.errors import ConfigError
from protocol.reasons import Reason
from protocol.report import ALL_UNITS, COARSE_UNITS, HEADER_UNIT, UNIT_BIT, UNIT_NAMES, Header
from protocol.rules import Policy, Range, Rule, When, load_policy, names_of, select

__all__ = [
    "HEADER",
    "NO_GROUPS",
    "CompiledPolicy",
    "Facts",
    "Gate",
    "GateResult",
    "Groups",
    "Outcome",
    "Policy",
    "PolicyBook",
    "Range",
    "Recipient",
    "Rule",
    "When",
    "Withheld",
    "ask_side",
    "compile_policy",
    "evaluate",
    "explain",
    "facts_of",
    "import_gate",
    "load_policy",
    "may_leave",
    "names_of",
    "select",
]

Gate = Literal["marking", "export", "region", "import"]
HEADER: Final = 1 << UNIT_BIT[HEADER_UNIT]


# --- compiled form ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Compiled:
    id: str
    parties: frozenset[str] | None
    when: When
    exact: int
    coarse: int


def _masks(rule: Rule) -> tuple[int, int]:
    """What an allow rule releases, or what a deny rule takes away: exact, coarse."""
    chosen = ALL_UNITS if rule.disclose is UNSET else 0
    for selector in rule.disclose or ():
        chosen |= select(selector)
    only_coarse = 0
    # The narrower selector wins, and a name over the @class that holds nothing else: never the order of writing.
    for selector, level in sorted(
        rule.level.items(), key=lambda item: (-select(item[0]).bit_count(), not item[0].startswith("@"))
    ):
        mask = select(selector)
        only_coarse = only_coarse | mask if level == "coarse" else only_coarse & ~mask
    only_coarse &= chosen
    if rule.effect == "allow":
        return chosen & ~only_coarse | HEADER, chosen & COARSE_UNITS
    return chosen, chosen & ~only_coarse & COARSE_UNITS


def _compile(rules: Iterable[Rule], effect: str) -> tuple[_Compiled, ...]:
    compiled = []
    for rule in rules:
        if rule.effect == effect:
            listed = rule.from_ if rule.to is UNSET else rule.to
            parties = None if listed is UNSET or "*" in listed else frozenset(listed)
            compiled.append(_Compiled(rule.id, parties, rule.when, *_masks(rule)))
    return tuple(compiled)


@dataclass(frozen=True, slots=True)
class _Side:
    gate: Gate
    document: str
    allow: tuple[_Compiled, ...]
    deny: tuple[_Compiled, ...]


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy ready to be asked."""

    source: Policy
    name: str
    export: _Side
    imports: _Side


def compile_policy(policy: Policy) -> CompiledPolicy:
    """Resolve selectors to masks, once."""
    name = f"{policy.jurisdiction}/{policy.version}"
    return CompiledPolicy(
        policy,
        name,
        _Side("export", name, _compile(policy.export, "allow"), _compile(policy.export, "deny")),
        _Side("import", name, _compile(policy.import_, "allow"), _compile(policy.import_, "deny")),
    )


class PolicyBook:
    """All known versions of all jurisdictions' policies."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        versions: dict[str, list[CompiledPolicy]] = {}
        for policy in policies:
            versions.setdefault(policy.jurisdiction, []).append(compile_policy(policy))
        for jurisdiction, found in versions.items():
            found.sort(key=lambda item: (item.source.effective_from, item.source.version))
            if len({item.source.version for item in found}) != len(found):
                raise ConfigError(f"policies of {jurisdiction}: a version is there twice")
        self._versions: Mapping[str, Sequence[CompiledPolicy]] = versions

    def at(self, jurisdiction: str, now: datetime) -> CompiledPolicy | Reason:
        """The version in force at that time, or why there is none."""
        found = self._versions.get(jurisdiction)
        if not found:
            return Reason.NO_POLICY
        for item in reversed(found):
            if item.source.effective_from <= now:
                until = item.source.effective_until
                return item if until is UNSET or now < until else Reason.POLICY_NOT_EFFECTIVE
        return Reason.POLICY_NOT_EFFECTIVE

    def next_change(self, now: datetime) -> datetime | None:
        """When an answer of `at` changes next by the passing of time alone."""
        times = [
            time
            for found in self._versions.values()
            for item in found
            for time in (item.source.effective_from, item.source.effective_until)
            if time is not UNSET and time > now
        ]
        return min(times, default=None)


# --- facts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What a policy can ask about a report: its header, nothing of its body."""

    origin: str
    tlp: str
    pap: str | None
    recipients: tuple[str, ...] | None
    sharing_group: str | None
    residency: tuple[str, ...] | None
    expires_at: datetime | None
    rsit: tuple[tuple[str, str | None], ...]
    sectors: tuple[str, ...]
    severity: int | None
    phase: str
    purpose: str
    made_by: str
    exercise: bool


def facts_of(header: Header) -> Facts:
    """The facts of a report."""
    marking = header.marking
    handling = header.handling or None
    return Facts(
        origin=header.origin.jurisdiction,
        tlp=marking.tlp,
        pap=marking.pap or None,
        recipients=tuple(marking.recipients) if marking.recipients is not UNSET else None,
        sharing_group=str(marking.sharing_group.id) if marking.sharing_group else None,
        residency=tuple(handling.residency) if handling and handling.residency is not UNSET else None,
        expires_at=(handling.expires_at or None) if handling else None,
        rsit=tuple((item.class_, item.type or None) for item in header.rsit),
        sectors=tuple(item.code for item in header.sectors or ()),
        severity=header.severity.score if header.severity else None,
        phase=header.phase,
        purpose=header.purpose,
        made_by=header.made_by.kind if header.made_by else "person",
        exercise=header.exercise is not UNSET,
    )


def _every(given: Sequence[Any], holds: Any, *, deny: bool) -> bool:
    """All values for an allow rule, any for a deny rule; no value satisfies neither."""
    if not given:
        return False
    return any(map(holds, given)) if deny else all(map(holds, given))


def _matches(rule: _Compiled, party: str, facts: Facts, *, deny: bool) -> bool:
    if rule.parties is not None and party not in rule.parties:
        return False
    when = rule.when
    if when.severity is not UNSET and (
        facts.severity is None or not when.severity.min <= facts.severity <= when.severity.max
    ):
        return False
    for listed, given in (
        (when.tlp, facts.tlp),
        (when.pap, facts.pap),
        (when.phase, facts.phase),
        (when.purpose, facts.purpose),
        (when.made_by, facts.made_by),
    ):
        if listed is not UNSET and (given is None or given not in listed):
            return False
    tags = when.rsit
    if tags is not UNSET and not _every(
        facts.rsit, lambda item: item[0] in tags or f"{item[0]}/{item[1]}" in tags, deny=deny
    ):
        return False
    sectors = when.sector
    return sectors is UNSET or _every(
        facts.sectors, lambda code: any(tx.sector_within(code, parent) for parent in sectors), deny=deny
    )


# --- evaluation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GateResult:
    """What one gate lets through, and the rules that said so."""

    gate: Gate
    document: str
    exact: int
    coarse: int
    allowed_by: tuple[str, ...]
    denied_by: tuple[tuple[str, int, int], ...]
    """Deny rules that matched, with the masks that each takes away."""
    reason: Reason
    """Why what is missing is missing, where no deny rule names it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer for one recipient: masks of what is granted, and the trace that explains it."""

    exact: int
    coarse: int
    gates: tuple[GateResult, ...]

    @property
    def granted(self) -> bool:
        """Whether the recipient gets the report at all."""
        return bool(self.exact & HEADER)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A member as a policy sees it."""

    jurisdiction: str
    active: bool = True
    receives: bool = True


@dataclass(frozen=True, slots=True)
class Groups:
    """Sharing groups: group id to the jurisdictions in it."""

    members: Mapping[str, frozenset[str]]


NO_GROUPS: Final = Groups({})
_NOTHING: Final[tuple[int, int]] = (0, 0)


def _shut(gate: Gate, document: str, reason: Reason) -> GateResult:
    return GateResult(gate, document, 0, 0, (), (), reason)


def _open(gate: Gate, document: str) -> GateResult:
    return GateResult(gate, document, ALL_UNITS, COARSE_UNITS, (), (), Reason.DEFAULT_DENY)


def _marking_gate(facts: Facts, recipient: Recipient, groups: Groups, now: datetime) -> GateResult:
    reason: Reason | None = None
    if facts.exercise:
        reason = Reason.EXERCISE_MIXED
    elif facts.expires_at is not None and now >= facts.expires_at:
        reason = Reason.EXPIRED
    elif facts.tlp == "RED" and facts.recipients is None:
        reason = Reason.RECIPIENTS_REQUIRED
    elif facts.recipients is not None and recipient.jurisdiction not in facts.recipients:
        reason = Reason.NOT_NAMED
    elif facts.residency is not None and recipient.jurisdiction not in facts.residency:
        reason = Reason.RESIDENCY
    elif facts.sharing_group is not None:
        circle = groups.members.get(facts.sharing_group)
        if circle is None:
            reason = Reason.UNKNOWN_GROUP
        elif recipient.jurisdiction not in circle:
            reason = Reason.NOT_IN_GROUP
    return _open("marking", "report") if reason is None else _shut("marking", "report", reason)


def _region_gate(recipient: Recipient) -> GateResult:
    if not recipient.active:
        return _shut("region", "registry", Reason.MEMBER_SUSPENDED)
    if not recipient.receives:
        return _shut("region", "registry", Reason.NOT_A_RECIPIENT)
    return _open("region", "registry")


def ask_side(side: _Side, party: str, facts: Facts) -> GateResult:
    """One document's answer: all that its allow rules allow, minus all that its deny rules deny."""
    try:
        exact = coarse = 0
        allowed: list[str] = []
        for rule in side.allow:
            if _matches(rule, party, facts, deny=False):
                exact |= rule.exact
                coarse |= rule.coarse
                allowed.append(rule.id)
        denied: list[tuple[str, int, int]] = []
        for rule in side.deny:
            if _matches(rule, party, facts, deny=True):
                exact &= ~rule.exact
                coarse &= ~rule.coarse
                denied.append((rule.id, rule.exact, rule.coarse))
    except Exception:  # noqa: BLE001 - promise 2: a rule that fails to evaluate withholds, whatever the failure
        return _shut(side.gate, side.document, Reason.RULE_FAILED)
    return GateResult(
        side.gate, side.document, exact, coarse, tuple(sorted(allowed)), tuple(sorted(denied)), Reason.DEFAULT_DENY
    )


def _document_gate(gate: Gate, owner: str, party: str, facts: Facts, book: PolicyBook, now: datetime) -> GateResult:
    policy = book.at(owner, now)
    if isinstance(policy, Reason):
        return _shut(gate, owner, policy)
    return ask_side(policy.export if gate == "export" else policy.imports, party, facts)


def _combine(gates: tuple[GateResult, ...]) -> Outcome:
    exact, coarse = ALL_UNITS, COARSE_UNITS
    for gate in gates:
        exact &= gate.exact
        coarse &= gate.coarse
    return Outcome(exact, coarse, gates) if exact & HEADER else Outcome(*_NOTHING, gates)


def evaluate(
    facts: Facts, recipient: Recipient, book: PolicyBook, now: datetime, groups: Groups = NO_GROUPS
) -> Outcome:
    """What one recipient may get of a report with these facts, and why. Pure and total: it never raises.

    Args:
        facts: of the report.
        recipient: who would get it.
        book: all policies; a jurisdiction without one shares and receives nothing.
        now: policies apply by their dates, reports expire.
        groups: the region's sharing groups.
    """
    return _combine(
        (
            _marking_gate(facts, recipient, groups, now),
            _document_gate("export", facts.origin, recipient.jurisdiction, facts, book, now),
            _region_gate(recipient),
            _document_gate("import", recipient.jurisdiction, facts.origin, facts, book, now),
        )
    )


def may_leave(facts: Facts, others: Iterable[str], book: PolicyBook, now: datetime) -> tuple[int, int]:
    """What the origin's own policy lets anybody have at all. What is in neither mask never leaves the node.

    Args:
        others: the jurisdictions that exist in the region.
    """
    exact = coarse = 0
    for jurisdiction in others:
        if facts.recipients is not None and jurisdiction not in facts.recipients:
            continue
        answer = _document_gate("export", facts.origin, jurisdiction, facts, book, now)
        if answer.exact & HEADER:
            exact |= answer.exact
            coarse |= answer.coarse
    return exact, coarse


def import_gate(facts: Facts, own: str, book: PolicyBook, now: datetime) -> Outcome:
    """The recipient node's own check: its import policy alone."""
    return _combine((_document_gate("import", own, facts.origin, facts, book, now),))


class Withheld(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One unit that a recipient does not get (or gets coarser), and who decided that by which rule."""

    unit: str
    gate: Gate
    document: str
    reason: str
    rule: str | UnsetType = UNSET
    coarse: bool = False
    """True: the coarse value was released in its place."""


def _decider(outcome: Outcome, bit: int, *, coarse: bool = False) -> Withheld:
    """The first gate that withholds a unit's exact (or else its coarse) value, and its rule."""
    mask = 1 << bit
    for gate in outcome.gates:
        if (gate.coarse if coarse else gate.exact) & mask:
            continue
        for rule, *taken in gate.denied_by:
            if taken[coarse] & mask:
                return Withheld(
                    unit=UNIT_NAMES[bit],
                    gate=gate.gate,
                    document=gate.document,
                    reason=Reason.DENIED_BY_RULE.value,
                    rule=rule,
                )
        return Withheld(unit=UNIT_NAMES[bit], gate=gate.gate, document=gate.document, reason=gate.reason.value)
    raise AssertionError("a withheld unit without a gate that withholds it")


def explain(outcome: Outcome, present_exact: int, present_coarse: int) -> list[Withheld]:
    """Why each unit that a report has does not reach this recipient, or only coarse.

    Args:
        present_exact, present_coarse: the units of the report, as `SignedReport.units` gives them.
    """
    if not outcome.granted:
        return [_decider(outcome, UNIT_BIT[HEADER_UNIT])]
    withheld = []
    missing = present_exact & ~outcome.exact
    only_coarse = present_coarse & ~present_exact & ~outcome.coarse  # its origin let no exact value out
    for bit in range(len(UNIT_NAMES)):
        if missing >> bit & 1:
            found = _decider(outcome, bit)
            if present_coarse & outcome.coarse & 1 << bit:
                found = msgspec.structs.replace(found, coarse=True)
            withheld.append(found)
        elif only_coarse >> bit & 1:
            withheld.append(_decider(outcome, bit, coarse=True))
    return withheld
