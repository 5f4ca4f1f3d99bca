"""Rules in the form in which they are asked: one table a condition, and a bit a rule.

Guarantees: which rules match is a handful of look-ups and `&`, however many rules there are, and never depends on the
order in which they were written. A value that is in none of the closed vocabularies satisfies nothing: the look-up
raises, and `ask_side` withholds everything and says so. Refuses nothing: a document whose rules cannot be compiled is
marked as failed, and is answered in the same way.

A table gives for each value of an attribute the rules that are content with it, rules without that condition included.
Of an attribute that holds several values an allow rule needs all of them in its list (`&`), a deny rule any (`|`);
where the report states none, only the rules without the condition are left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from msgspec import UNSET, Struct

from protocol import taxonomy as tx
from protocol.facts import Facts
from protocol.reasons import Reason
from protocol.report import COARSE_UNITS, HEADER_UNIT, NAMED_ONLY, UNIT_BIT
from protocol.rules import Policy, Rule, When, select

Gate = Literal["marking", "export", "region", "import"]
HEADER: Final = 1 << UNIT_BIT[HEADER_UNIT]
NONE: Final[frozenset[str]] = frozenset()
Matched = tuple[str, int, int]
"""A rule that matched: its id, and the exact and coarse units that it releases or takes away."""

_RSIT: Final = [(class_, type_) for class_, types in tx.RSIT.items() for type_ in (None, *types)]
_SEVERITY: Final = (None, *range(101))


class GateResult(Struct, frozen=True):
    """What one gate lets through, and the rules that said so."""

    gate: Gate
    document: str
    exact: int
    coarse: int
    allowed_by: tuple[Matched, ...]
    """Allow rules that matched, with the masks that each releases."""
    denied_by: tuple[Matched, ...]
    """Deny rules that matched, with the masks that each takes away."""
    reason: Reason
    """Why what is missing is missing, where no rule names it."""


def shut(gate: Gate, document: str, reason: Reason) -> GateResult:
    """A gate that lets nothing through."""
    return GateResult(gate, document, 0, 0, (), (), reason)


def masks_of(rule: Rule) -> tuple[int, int]:
    """What an allow rule releases, or what a deny rule takes away: exact, coarse."""
    chosen = select("*") if rule.disclose is UNSET else 0
    for selector in rule.disclose or ():
        blind = NAMED_ONLY if selector == "*" and rule.effect == "allow" else 0
        chosen |= select(selector) & ~blind
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


Test = Callable[[Any, Any], bool]
"""(what a rule lists, a value) -> whether the rule is content with the value."""


def _listed(listed: Collection[Any], value: Any) -> bool:
    return value in listed


def _tagged(tags: Collection[str], value: tuple[str, str | None]) -> bool:
    return value[0] in tags or f"{value[0]}/{value[1]}" in tags


def _within(parents: Iterable[str], code: str) -> bool:
    return any(tx.sector_within(code, parent) for parent in parents)


def _in_range(bounds: Any, score: int | None) -> bool:
    return score is not None and bounds.min <= score <= bounds.max


CONDITIONS: Final[Mapping[str, tuple[Sequence[Any], Test]]] = {
    "tlp": (get_args(tx.Tlp), _listed),
    "pap": ((None, *get_args(tx.Pap)), _listed),
    "rsit": (_RSIT, _tagged),
    "sector": (get_args(tx.Sector), _within),
    "severity": (_SEVERITY, _in_range),
    "phase": (get_args(tx.Phase), _listed),
    "purpose": (get_args(tx.Purpose), _listed),
    "made_by": (get_args(tx.ToolKind), _listed),
}
"""Every condition on the report itself, with all values that its attribute can have."""

if set(CONDITIONS) | {"agreement"} != set(When.__struct_fields__):  # a condition that nobody asks would open rules
    raise TypeError("a condition without a table")

Table = Mapping[Any, int]


def _table(rules: Sequence[Rule], name: str) -> tuple[Table, int]:
    """(rules that are content with each value, rules without the condition)"""
    values, test = CONDITIONS[name]
    free = sum(1 << bit for bit, rule in enumerate(rules) if getattr(rule.when, name) is UNSET)
    table = dict.fromkeys(values, free)
    for bit, rule in enumerate(rules):
        listed = getattr(rule.when, name)
        if listed is not UNSET:
            for value in values:
                if test(listed, value):
                    table[value] |= 1 << bit
    return table, free


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one effect of one side, in the order of their ids."""

    entries: tuple[Matched, ...]
    parties: Table
    anybody: int
    """Rules for all jurisdictions."""
    tlp: Table
    pap: Table
    severity: Table
    phase: Table
    purpose: Table
    made_by: Table
    rsit: Table
    sector: Table
    no_rsit: int
    no_sector: int
    agreement: Table
    no_agreement: int

    def matching(self, party: str, facts: Facts, agreements: frozenset[str], *, every: bool) -> int:
        """The rules that match, as bits.

        Args:
            every: of an attribute with several values, all must satisfy the condition, or else any.

        Raises:
            KeyError: a value of the facts is in no vocabulary.
        """
        found = (
            self.parties.get(party, self.anybody)
            & self.tlp[facts.tlp]
            & self.pap[facts.pap]
            & self.severity[facts.severity]
            & self.phase[facts.phase]
            & self.purpose[facts.purpose]
            & self.made_by[facts.made_by]
        )
        for table, free, given in ((self.rsit, self.no_rsit, facts.rsit), (self.sector, self.no_sector, facts.sectors)):
            some = free
            if given:
                some = table[given[0]]
                for value in given[1:]:
                    some = some & table[value] if every else some | table[value]
            found &= some
        bound = self.no_agreement
        for name in agreements:
            bound |= self.agreement.get(name, 0)
        return found & bound

    def chosen(self, found: int) -> list[Matched]:
        """The rules of these bits, in the order of their ids."""
        entries = self.entries
        matched = []
        while found:
            low = found & -found
            matched.append(entries[low.bit_length() - 1])
            found ^= low
        return matched


def _named(rules: Sequence[Rule], lists: Sequence[Collection[str] | None]) -> Table:
    """The rules that list a name, without those that list nothing."""
    table: dict[str, int] = {}
    for bit in range(len(rules)):
        for name in set(lists[bit] or ()):
            table[name] = table.get(name, 0) | 1 << bit
    return table


def _compile(given: Iterable[Rule], effect: str) -> Rules:
    rules = sorted((rule for rule in given if rule.effect == effect), key=lambda rule: rule.id)
    tables = {name: _table(rules, name) for name in CONDITIONS}
    listed = [rule.from_ if rule.to is UNSET else rule.to for rule in rules]
    parties = [None if names is UNSET or "*" in names else names for names in listed]
    anybody = sum(1 << bit for bit, names in enumerate(parties) if names is None)
    agreements = [None if rule.when.agreement is UNSET else rule.when.agreement for rule in rules]
    return Rules(
        entries=tuple((rule.id, *masks_of(rule)) for rule in rules),
        parties={name: bits | anybody for name, bits in _named(rules, parties).items()},
        anybody=anybody,
        **{name: tables[name][0] for name in CONDITIONS},
        no_rsit=tables["rsit"][1],
        no_sector=tables["sector"][1],
        agreement=_named(rules, agreements),
        no_agreement=sum(1 << bit for bit, names in enumerate(agreements) if names is None),
    )


@dataclass(frozen=True, slots=True)
class Side:
    """One direction of one policy."""

    gate: Gate
    document: str
    allow: Rules | None
    deny: Rules | None
    """None: these rules cannot be asked."""

    @property
    def asks_agreements(self) -> bool:
        """Whether a rule has a condition on agreements."""
        return self.allow is not None and self.allow.no_agreement != (1 << len(self.allow.entries)) - 1


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy ready to be asked."""

    source: Policy
    name: str
    export: Side
    imports: Side


def _side(gate: Gate, document: str, rules: Sequence[Rule]) -> Side:
    try:
        return Side(gate, document, _compile(rules, "allow"), _compile(rules, "deny"))
    except Exception:  # noqa: BLE001 - promise 2: a rule that fails to evaluate withholds, whatever the failure
        return Side(gate, document, None, None)


def compile_policy(policy: Policy) -> CompiledPolicy:
    """Resolve selectors to masks and conditions to tables, once."""
    name = f"{policy.jurisdiction}/{policy.version}"
    return CompiledPolicy(policy, name, _side("export", name, policy.export), _side("import", name, policy.import_))


def ask_side(side: Side, party: str, facts: Facts, agreements: frozenset[str] = NONE) -> GateResult:
    """One document's answer: all that its allow rules allow, minus all that its deny rules deny.

    Args:
        agreements: those in force between origin and recipient.
    """
    allow, deny = side.allow, side.deny
    if allow is None or deny is None:
        return shut(side.gate, side.document, Reason.RULE_FAILED)
    try:
        allowed = allow.chosen(allow.matching(party, facts, agreements, every=True))
        denied = deny.chosen(deny.matching(party, facts, agreements, every=False))
    except Exception:  # noqa: BLE001 - promise 2: a rule that fails to evaluate withholds, whatever the failure
        return shut(side.gate, side.document, Reason.RULE_FAILED)
    exact = coarse = 0
    for _, fine, wide in allowed:
        exact |= fine
        coarse |= wide
    for _, fine, wide in denied:
        exact &= ~fine
        coarse &= ~wide
    return GateResult(side.gate, side.document, exact, coarse, tuple(allowed), tuple(denied), Reason.DEFAULT_DENY)
