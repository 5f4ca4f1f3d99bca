"""Sharing policy: who may get which part of a report, and which rule says so.

Guarantees: deny by default; most restrictive wins; the answer never depends on the order of rules; a missing attribute
never satisfies a condition; a rule that fails to evaluate withholds; every answer carries the rules that gave it.
Refuses: policies with unknown vocabulary, units or fields (as a whole, in `rules`: what cannot be read grants nothing).

The gates, in the order in which they are asked and explained:

    marking   the report's own circle: named recipients, sharing group, residency, expiry
    export    the origin jurisdiction's policy
    region    membership: is this member active, may it receive at all
    import    the recipient jurisdiction's policy

(`marking` and `export` together are the origin's gate.) Within a document: all that allow rules allow, minus all that
deny rules deny. Across gates: what all of them let through. Everything is a bit mask over `report.UNIT_NAMES`, one for
exact values and one for coarse ones, so that a decision is a handful of integer operations (`matching`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from protocol.errors import ConfigError
from protocol.facts import NO_CIRCLES, Circles, Facts, Pact, Recipient, facts_of
from protocol.matching import (
    HEADER,
    NONE,
    CompiledPolicy,
    Gate,
    GateResult,
    Matched,
    ask_side,
    compile_policy,
    shut,
)
from protocol.reasons import Reason
from protocol.report import ALL_UNITS, COARSE_UNITS, UNIT_NAMES
from protocol.rules import Policy, Range, Rule, When, load_policy, names_of, select

__all__ = [
    "HEADER",
    "NO_CIRCLES",
    "Circles",
    "CompiledPolicy",
    "Facts",
    "Gate",
    "GateResult",
    "Matched",
    "Outcome",
    "Pact",
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
    "leaving_gate",
    "load_policy",
    "may_leave",
    "names_of",
    "select",
    "sending_gates",
]


# --- versions ---------------------------------------------------------------------------------------------------


class PolicyBook:
    """All known versions of all jurisdictions' policies; `policies` are the documents themselves."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self.policies = tuple(policies)
        versions: dict[str, list[CompiledPolicy]] = {}
        for policy in self.policies:
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


# --- evaluation -------------------------------------------------------------------------------------------------


class Outcome(Struct, frozen=True):
    """The answer for one recipient: masks of what is granted, and the trace that explains it."""

    exact: int
    coarse: int
    gates: tuple[GateResult, ...]

    @property
    def granted(self) -> bool:
        """Whether the recipient gets the report at all."""
        return bool(self.exact & HEADER)


_OPEN_MARKING: Final = GateResult("marking", "report", ALL_UNITS, COARSE_UNITS, (), (), Reason.DEFAULT_DENY)
_OPEN_REGION: Final = GateResult("region", "registry", ALL_UNITS, COARSE_UNITS, (), (), Reason.DEFAULT_DENY)


def _marking_gate(facts: Facts, recipient: Recipient, circles: Circles, now: datetime) -> GateResult:
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
        circle = circles.groups.get(facts.sharing_group)
        if circle is None:
            reason = Reason.UNKNOWN_GROUP
        elif recipient.jurisdiction not in circle:
            reason = Reason.NOT_IN_GROUP
    return _OPEN_MARKING if reason is None else shut("marking", "report", reason)


def _region_gate(recipient: Recipient) -> GateResult:
    if not recipient.shown:
        return shut("region", "registry", Reason.NOT_SHOWN_TO)
    if not recipient.active:
        return shut("region", "registry", Reason.MEMBER_SUSPENDED)
    if not recipient.receives:
        return shut("region", "registry", Reason.NOT_A_RECIPIENT)
    return _OPEN_REGION


def _document_gate(
    gate: Gate, owner: str, party: str, facts: Facts, book: PolicyBook, now: datetime, circles: Circles
) -> GateResult:
    policy = book.at(owner, now)
    if isinstance(policy, Reason):
        return shut(gate, owner, policy)
    side = policy.export if gate == "export" else policy.imports
    agreements = circles.between(owner, party, now) if side.asks_agreements else NONE
    return ask_side(side, party, facts, agreements)


def _combine(gates: tuple[GateResult, ...]) -> Outcome:
    exact, coarse = ALL_UNITS, COARSE_UNITS
    for gate in gates:
        exact &= gate.exact
        coarse &= gate.coarse
    return Outcome(exact, coarse, gates) if exact & HEADER else Outcome(0, 0, gates)


def evaluate(
    facts: Facts, recipient: Recipient, book: PolicyBook, now: datetime, circles: Circles = NO_CIRCLES
) -> Outcome:
    """What one recipient may get of a report with these facts, and why. Pure and total: it never raises.

    Args:
        facts: of the report.
        recipient: who would get it.
        book: all policies; a jurisdiction without one shares and receives nothing.
        now: policies apply by their dates, reports expire.
        circles: the region's sharing groups and agreements.
    """
    return _combine(
        (
            _marking_gate(facts, recipient, circles, now),
            _document_gate("export", facts.origin, recipient.jurisdiction, facts, book, now, circles),
            _region_gate(recipient),
            _document_gate("import", recipient.jurisdiction, facts.origin, facts, book, now, circles),
        )
    )


def leaving_gate(
    facts: Facts, others: Iterable[str], book: PolicyBook, now: datetime, circles: Circles = NO_CIRCLES
) -> GateResult:
    """What the origin's own policy lets anybody have at all, and the rules that keep the rest at home.

    Args:
        others: the jurisdictions that exist in the region.
        circles: the region's agreements; without them, rules that ask for one let nothing out.
    """
    exact = coarse = 0
    allowed: dict[str, Matched] = {}
    denied: dict[str, Matched] = {}
    policy = book.at(facts.origin, now)
    if isinstance(policy, Reason):
        return shut("export", facts.origin, policy)
    gate = shut("export", policy.name, Reason.DEFAULT_DENY)
    for jurisdiction in others:
        if facts.recipients is not None and jurisdiction not in facts.recipients:
            continue
        gate = _document_gate("export", facts.origin, jurisdiction, facts, book, now, circles)
        denied |= {rule[0]: rule for rule in gate.denied_by}
        if gate.exact & HEADER:
            exact |= gate.exact
            coarse |= gate.coarse
            allowed |= {rule[0]: rule for rule in gate.allowed_by}
    allowing, denying = (tuple(found[name] for name in sorted(found)) for found in (allowed, denied))
    return GateResult("export", gate.document, exact, coarse, allowing, denying, gate.reason)


def may_leave(
    facts: Facts, others: Iterable[str], book: PolicyBook, now: datetime, circles: Circles = NO_CIRCLES
) -> tuple[int, int]:
    """The masks of `leaving_gate`: what is in neither never leaves the node."""
    gate = leaving_gate(facts, others, book, now, circles)
    return gate.exact, gate.coarse


def import_gate(facts: Facts, own: str, book: PolicyBook, now: datetime, circles: Circles = NO_CIRCLES) -> Outcome:
    """The recipient node's own check: its import policy alone."""
    return _combine((_document_gate("import", own, facts.origin, facts, book, now, circles),))


def sending_gates(
    facts: Facts, recipient: Recipient, book: PolicyBook, now: datetime, circles: Circles = NO_CIRCLES
) -> Outcome:
    """What the origin itself lets one recipient have: the report's marking and the origin's own export policy."""
    return _combine(
        (
            _marking_gate(facts, recipient, circles, now),
            _document_gate("export", facts.origin, recipient.jurisdiction, facts, book, now, circles),
        )
    )


class Withheld(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One unit that a recipient does not get (or gets coarser), and who decided that by which rule."""

    unit: str
    gate: Gate
    document: str
    reason: str
    rule: str | UnsetType = UNSET
    coarse: bool = False
    """True: the coarse value was released in its place."""


def _named(matched: tuple[Matched, ...], mask: int, *, coarse: bool) -> str | UnsetType:
    """The first of the rules that speaks of a unit."""
    for rule, fine, broad in matched:
        if (broad if coarse else fine) & mask:
            return rule
    return UNSET


def _decider(outcome: Outcome, mask: int, *, coarse: bool = False, came_coarse: bool = False) -> Withheld:
    """The first gate that withholds a unit's exact (or else its coarse) value, and its rule.

    Args:
        came_coarse: its coarse value was released.
    """
    for gate in outcome.gates:
        if not (gate.coarse if coarse else gate.exact) & mask:
            break
    else:
        raise AssertionError("a withheld unit without a gate that withholds it")
    reason = Reason.DENIED_BY_RULE
    rule = _named(gate.denied_by, mask, coarse=coarse)
    if rule is UNSET and not coarse:
        reason = Reason.COARSE_BY_RULE if came_coarse else Reason.NO_COARSE_VALUE
        rule = _named(gate.allowed_by, mask, coarse=True)
    if rule is UNSET:
        reason = gate.reason
    return Withheld(
        unit=UNIT_NAMES[mask.bit_length() - 1],
        gate=gate.gate,
        document=gate.document,
        reason=reason.value,
        rule=rule,
        coarse=came_coarse,
    )


def explain(outcome: Outcome, present_exact: int, present_coarse: int) -> list[Withheld]:
    """Why each unit that a report has does not reach this recipient, or only coarse.

    Of a unit that comes coarse, the answer names who withheld its exact value; of one that does not come at all, who
    withheld the last that could have come.

    Args:
        present_exact, present_coarse: the units of the report, as `SignedReport.units` gives them.
    """
    if not outcome.granted:
        return [_decider(outcome, HEADER)]
    withheld = []
    missing = (present_exact | present_coarse & ~outcome.coarse) & ~(present_exact & outcome.exact)
    while missing:
        mask = missing & -missing
        missing ^= mask
        if present_coarse & outcome.coarse & mask:
            withheld.append(_decider(outcome, mask, came_coarse=True))
        else:
            withheld.append(_decider(outcome, mask, coarse=bool(present_coarse & mask)))
    return withheld
