"""The region's regulatory divergence in one table: for every pair of jurisdictions, what flows and which rules decide.

Guarantees: every cell comes from `evaluate` over made-up reports that tell the pair's rules apart (`probes`), at each
TLP level; a TLP:RED report names the recipient. Shares are shares of those reports, not of real traffic: they say how
much of what the rules speak of is let through.

A *divergence* is where the two sides of a pair disagree: the origin would send what the recipient may not hold, or the
recipient would hold what the origin does not send.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal, get_args

from msgspec import UNSET, Struct

from deploy.policy.probes import TLP, probe
from deploy.policy.scene import Scene
from protocol.facts import Recipient
from protocol.matching import HEADER, GateResult
from protocol.policy import Outcome, Rule, Withheld, evaluate, explain, names_of, select
from protocol.reasons import Reason
from protocol.report import ALL_UNITS, COARSE_UNITS, UNIT_BIT, DataClass
from protocol.wording import reasons_given

Flow = Literal["all", "some", "coarse", "heading", "none"]
BODY: Final = ALL_UNITS & ~HEADER
CLASSES: Final[Mapping[str, int]] = {name: select(f"@{name}") for name in get_args(DataClass)}
_PROBES: Final = 500


class ClassFlow(Struct, frozen=True, kw_only=True):
    """What flows of one data class at one TLP level."""

    name: str
    flow: Flow
    exact: float
    """Share of its units, over all probes, that come as they are."""
    coarse: float


class TlpFlow(Struct, frozen=True, kw_only=True):
    """What flows at one TLP level."""

    tlp: str
    probes: int
    granted: float
    """Share of the probes of which the recipient gets at least the heading."""
    exact: float
    coarse: float
    flow: Flow
    classes: list[ClassFlow]


class Decider(Struct, frozen=True, kw_only=True):
    """A rule, or the lack of one, that withholds something between the two."""

    gate: str
    document: str
    rule: str
    """Empty where no rule decides; then `reason` says why."""
    reason: str
    because: str
    units: list[str]
    share: float
    """Share of the probes in which it decides."""


class Divergence(Struct, frozen=True, kw_only=True):
    """Where the sides disagree."""

    kind: Literal["sent-but-not-taken", "taken-but-not-sent"]
    document: str
    """The document that withholds."""
    rule: str
    reason: str
    because: str
    units: list[str]
    share: float


class Pair(Struct, frozen=True, kw_only=True):
    """One direction between two jurisdictions."""

    origin: str
    recipient: str
    flows: list[TlpFlow]
    deciders: list[Decider]
    divergences: list[Divergence]

    def flow(self, tlp: str) -> TlpFlow:
        """The flow at a TLP level."""
        return next(flow for flow in self.flows if flow.tlp == tlp)


class Matrix(Struct, frozen=True, kw_only=True):
    """All pairs."""

    at: datetime
    jurisdictions: list[str]
    pairs: list[Pair]

    def pair(self, origin: str, recipient: str) -> Pair | None:
        """The pair, if both exist."""
        return next((p for p in self.pairs if (p.origin, p.recipient) == (origin, recipient)), None)


def matrix(scene: Scene, now: datetime) -> Matrix:
    """Every ordered pair of the region."""
    names = sorted({*scene.jurisdictions, *(policy.jurisdiction for policy in scene.policies)})
    recipients = {recipient.jurisdiction: recipient for recipient in scene.recipients}
    because = reasons_given(scene.policies)
    pairs = [
        _Pair(scene, origin, recipients[name], now, because).result()
        for origin in names
        for name in names
        if origin != name and name in recipients
    ]
    return Matrix(at=now, jurisdictions=names, pairs=pairs)


def _speaks_of(rule: Rule, party: str) -> bool:
    listed = rule.from_ if rule.to is UNSET else rule.to
    return listed is UNSET or "*" in listed or party in listed


_Key = tuple[str, str, str, str]
"""(gate or kind, document, rule, reason)"""


class _Tally:
    """Units and number of probes by who decided."""

    def __init__(self) -> None:
        self.units: dict[_Key, int] = defaultdict(int)
        self.probes: dict[_Key, int] = defaultdict(int)

    def add(self, found: Mapping[_Key, int]) -> None:
        for key, mask in found.items():
            self.units[key] |= mask
            self.probes[key] += 1

    def ranked(self) -> list[_Key]:
        return sorted(self.units, key=lambda key: (-self.probes[key], key))


def _by_key(gate: str, items: list[Withheld]) -> dict[_Key, int]:
    found: dict[_Key, int] = defaultdict(int)
    for item in items:
        found[gate or item.gate, item.document, item.rule or "", item.reason] |= 1 << UNIT_BIT[item.unit]
    return found


def _at_gate(gate: GateResult, mask: int) -> dict[_Key, int]:
    """Who at one gate alone withholds these units."""
    if not mask:
        return {}
    if gate.exact & HEADER:
        alone = Outcome(gate.exact, gate.coarse, (gate,))
        return _by_key(gate.gate, explain(alone, mask, mask & COARSE_UNITS))
    # One who withholds the heading withholds everything.
    return dict.fromkeys(_by_key(gate.gate, explain(Outcome(0, 0, (gate,)), 0, 0)), mask)


class _Pair:
    """Tries the probes of one pair."""

    def __init__(
        self, scene: Scene, origin: str, recipient: Recipient, now: datetime, because: Mapping[tuple[str, str], str]
    ) -> None:
        self._scene = scene
        self._origin = origin
        self._recipient = recipient
        self._now = now
        self._because = because
        self._exact: dict[str, list[int]] = {tlp: [0] * len(UNIT_BIT) for tlp in TLP}
        self._coarse: dict[str, list[int]] = {tlp: [0] * len(UNIT_BIT) for tlp in TLP}
        self._count = dict.fromkeys(TLP, 0)
        self._deciders = _Tally()
        self._divergences = _Tally()
        self._told: dict[Outcome, tuple[dict[_Key, int], dict[_Key, int]]] = {}

    def result(self) -> Pair:
        name = self._recipient.jurisdiction
        for facts in probe(self._rules(), self._origin, _PROBES).facts:
            # TLP:RED goes to named recipients only; the question is what this one would get then.
            given = replace(facts, recipients=(name,)) if facts.tlp == "RED" else facts
            outcome = evaluate(given, self._recipient, self._scene.book, self._now, self._scene.circles)
            self._add(facts.tlp, outcome)
        total = sum(self._count.values()) or 1
        deciders = [
            Decider(
                gate=key[0],
                document=key[1],
                rule=key[2],
                reason=key[3],
                because=self._because.get(key[1:3], ""),
                units=names_of(self._deciders.units[key]),
                share=round(self._deciders.probes[key] / total, 4),
            )
            for key in self._deciders.ranked()
        ]
        divergences = [
            Divergence(
                kind="sent-but-not-taken" if key[0] == "import" else "taken-but-not-sent",
                document=key[1],
                rule=key[2],
                reason=key[3],
                because=self._because.get(key[1:3], ""),
                units=names_of(self._divergences.units[key]),
                share=round(self._divergences.probes[key] / total, 4),
            )
            for key in self._divergences.ranked()
        ]
        flows = [self._flow(tlp) for tlp in TLP]
        return Pair(origin=self._origin, recipient=name, flows=flows, deciders=deciders, divergences=divergences)

    def _rules(self) -> Iterator[Rule]:
        book, now = self._scene.book, self._now
        export, taken = book.at(self._origin, now), book.at(self._recipient.jurisdiction, now)
        if not isinstance(export, Reason):
            yield from (rule for rule in export.source.export if _speaks_of(rule, self._recipient.jurisdiction))
        if not isinstance(taken, Reason):
            yield from (rule for rule in taken.source.import_ if _speaks_of(rule, self._origin))

    def _add(self, tlp: str, outcome: Outcome) -> None:
        self._count[tlp] += 1
        exact = outcome.exact
        coarse = outcome.coarse & ~exact
        for counts, mask in ((self._exact[tlp], exact), (self._coarse[tlp], coarse)):
            for bit in range(mask.bit_length()):
                counts[bit] += mask >> bit & 1
        told = self._told.get(outcome)
        if told is None:
            told = self._told[outcome] = (_by_key("", explain(outcome, BODY, COARSE_UNITS)), _disagreement(outcome))
        self._deciders.add(told[0])
        self._divergences.add(told[1])

    def _flow(self, tlp: str) -> TlpFlow:
        count = self._count[tlp] or 1
        granted = self._exact[tlp][0] / count
        classes = [self._class(tlp, name, mask, granted, count) for name, mask in CLASSES.items()]
        units = [(CLASSES[item.name].bit_count(), item) for item in classes]
        exact = sum(size * item.exact for size, item in units) / BODY.bit_count()
        coarse = sum(size * item.coarse for size, item in units) / BODY.bit_count()
        return TlpFlow(
            tlp=tlp,
            probes=self._count[tlp],
            granted=round(granted, 4),
            exact=round(exact, 4),
            coarse=round(coarse, 4),
            flow=_word(granted, exact, coarse),
            classes=classes,
        )

    def _class(self, tlp: str, name: str, mask: int, granted: float, count: int) -> ClassFlow:
        bits = [bit for bit in range(len(UNIT_BIT)) if mask >> bit & 1]
        exact = sum(self._exact[tlp][bit] for bit in bits) / count / len(bits)
        coarse = sum(self._coarse[tlp][bit] for bit in bits) / count / len(bits)
        flow = _word(granted, exact, coarse)
        return ClassFlow(
            name=name, flow="none" if flow == "heading" else flow, exact=round(exact, 4), coarse=round(coarse, 4)
        )


def _word(granted: float, exact: float, coarse: float) -> Flow:
    if not granted:
        return "none"
    if exact == 1:
        return "all"
    if exact:
        return "some"
    return "coarse" if coarse else "heading"


def _disagreement(outcome: Outcome) -> dict[_Key, int]:
    """Units that one of the two policies lets through (exact, or at all) and the other does not."""
    gates = {gate.gate: gate for gate in outcome.gates}
    export, taken = gates["export"], gates["import"]
    sent = export.exact if export.exact & HEADER else 0
    held = taken.exact if taken.exact & HEADER else 0
    return _at_gate(taken, sent & ~held & BODY) | _at_gate(export, held & ~sent & BODY)
