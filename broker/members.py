"""The region as the broker knows it now: registry and policies from checked files, and the answers of the policy.

Guarantees: what is loaded is consistent or is not used; a change of a file takes effect as a whole or not at all, and a
broken one leaves the last good state in force and is reported. Every answer is computed from one state.

    DIR/governance/*.json  one file a record, signed by the region's trustees: who is in the region (secret: no;
                           trusted: by its signatures alone)
    DIR/policies/*.toml    sharing policies, one file a version (secret: no; trusted: yes)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from broker.governing import Chain, chain_files, load_chain
from broker.policies import PublishedPolicies, merge
from protocol.enact import closed_groups
from protocol.errors import ConfigError
from protocol.keys import KeyRecord
from protocol.policy import HEADER, Facts, Outcome, Policy, PolicyBook, evaluate, explain, load_policy
from protocol.registry import Member, Region, Registry, as_recipient
from protocol.statements import Decision, ReleasedBy

_ANSWERS: Final = 20_000
"""Remembered answers: a bound on memory; beyond it, remembering starts afresh."""
EXAMPLES: Final = ".examples.toml"


@dataclass(frozen=True, slots=True)
class Answers:
    """The policy's answers for everybody but the origin, to reports with the same facts."""

    outcomes: Mapping[str, Outcome]
    grants: Mapping[str, tuple[int, int]]
    """Masks (exact, coarse) per member that gets the report."""


def answers_of(outcomes: Mapping[str, Outcome]) -> Answers:
    """Outcomes with the grants that they hold."""
    grants = {name: (outcome.exact, outcome.coarse) for name, outcome in outcomes.items() if outcome.granted}
    return Answers(outcomes, grants)


@dataclass(slots=True)
class RegionState:
    """One consistent state of registry and policies, with remembered answers. Replaced as a whole, never changed."""

    registry: Registry
    book: PolicyBook
    chain: Chain | None = None
    """The records that the registry follows from; None only where nothing is handed to nodes."""
    files: Sequence[Policy] = ()
    """Policies out of files, those included that no longer speak."""
    published: int = 0
    """The number of the last published policy that it has."""
    _answers: dict[tuple[Facts, str], Answers] = field(default_factory=dict)
    _until: datetime | None = None
    _reasons: dict[tuple[int, int, int], tuple[Outcome, Decision]] = field(default_factory=dict)

    def ask(self, facts: Facts, member: Member, now: datetime) -> Outcome:
        """The policy's answer for one recipient at this time."""
        return evaluate(facts, as_recipient(member), self.book, now, self.registry.circles)

    def _ask_from(self, facts: Facts, origin: str, now: datetime) -> dict[str, Outcome]:
        """The answers that the origin may know of: who it does not see does not exist, who does not see it is told."""
        view = self.registry.view(origin)
        asked = view.asked_by(origin)
        return {name: evaluate(facts, one, self.book, now, view.circles) for name, one in asked.items()}

    def ask_all(self, facts: Facts, origin: str, now: datetime) -> Answers:
        """The policy's answers at this time for every recipient but the member that filed the report."""
        if self._until is not None and now >= self._until:
            self._answers.clear()
        if not self._answers:
            changes = (self.book.next_change(now), self.registry.circles.next_change(now))
            self._until = min((time for time in changes if time is not None), default=None)
        key = (facts, origin)
        found = self._answers.get(key) if facts.expires_at is None else None
        if found is None:
            found = answers_of(self._ask_from(facts, origin, now))
            if facts.expires_at is None:
                if len(self._answers) >= _ANSWERS:
                    self._answers.clear()
                self._answers[key] = found
        return found

    def decision(self, outcome: Outcome, exact: int, coarse: int) -> Decision:
        """An outcome as a receipt tells it, for a report that has these units: most reports of a kind share it."""
        key = (id(outcome), exact, coarse)
        found = self._reasons.get(key)
        if found is None:
            if len(self._reasons) >= _ANSWERS:
                self._reasons.clear()
            # The outcome is kept beside its answer so that its id cannot come to mean another one.
            decision = _told(outcome, exact, coarse)
            found = self._reasons[key] = (outcome, decision)
        return found[1]


def _told(outcome: Outcome, exact: int, coarse: int) -> Decision:
    """An outcome for a report with these units, as its origin reads it."""
    withheld = explain(outcome, exact, coarse)
    if not outcome.granted:
        return Decision(granted=False, withheld=withheld)
    fine, broad = outcome.exact & (exact | HEADER), outcome.coarse & coarse
    by = [
        ReleasedBy(gate=gate.gate, document=gate.document, rule=rule)
        for gate in outcome.gates
        for rule, exactly, coarsely in gate.allowed_by
        if exactly & fine or coarsely & broad
    ]
    return Decision(granted=True, exact=fine, coarse=broad, by=by, withheld=withheld)


def load_region(directory: Path, broker_keys: Sequence[KeyRecord] = ()) -> Region:
    """The region that the governance records lead to. ConfigError with the file of the fault.

    Args:
        broker_keys: keys with which the broker is about to sign: the records must list them.
    """
    return _region(directory, load_chain(directory, datetime.now(UTC)), broker_keys)


def load_registry(directory: Path, chain: Chain, broker_keys: Sequence[KeyRecord] = ()) -> Registry:
    """The region that a chain leads to, whole, and who sees what of it. ConfigError if it does not hold together."""
    return Registry(_region(directory, chain, broker_keys), chain.state.seen_by, closed_groups(chain.state))


def _region(directory: Path, chain: Chain, broker_keys: Sequence[KeyRecord]) -> Region:
    region = chain.state.region
    unlisted = {record.kid for record in broker_keys} - {record.kid for record in region.broker_keys}
    if unlisted:
        raise ConfigError(
            f"{directory}: the trustees have not made {', '.join(sorted(unlisted))} a key of the broker: "
            f"`kentongan broker propose {directory} broker-keys`"
        )
    # Nodes and checks tell by the serial whether the region may have been another one at some time.
    return msgspec.structs.replace(region, serial=max((when for _, when, _ in stamp(directory)), default=1))


def policy_files(directory: Path) -> list[Path]:
    """The policies in a directory; examples beside them (`*.examples.toml`) are none."""
    return sorted(path for path in directory.glob("*.toml") if not path.name.endswith(EXAMPLES))


def _never(_: Registry) -> PublishedPolicies:
    """Nobody has published anything: for tools that read a directory only."""
    return PublishedPolicies()


def load_state(
    directory: Path,
    broker_keys: Sequence[KeyRecord] = (),
    published: Callable[[Registry], PublishedPolicies] = _never,
) -> RegionState:
    """Read registry and policies. ConfigError if anything of it does not hold.

    Args:
        published: gives the policies that the region's jurisdictions have published; they replace files.
    """
    chain = load_chain(directory, datetime.now(UTC))
    registry = load_registry(directory, chain, broker_keys)
    policies = []
    for path in policy_files(directory / "policies"):
        policy = load_policy(path.read_text("utf-8"), path.name)
        if policy.jurisdiction not in registry.jurisdictions:
            raise ConfigError(f"{path.name}: no member has the jurisdiction {policy.jurisdiction}")
        policies.append(policy)
    return with_published(registry, policies, published(registry), chain)


def with_published(
    registry: Registry, files: Sequence[Policy], published: PublishedPolicies, chain: Chain | None = None
) -> RegionState:
    """The state of a region whose jurisdictions have published this."""
    return RegionState(registry, PolicyBook(merge(files, published)), chain, files, published.last)


def stamp(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """What the files look like from outside; differs when one of them was changed, added or removed."""

    def files() -> Iterator[Path]:
        yield from chain_files(directory)
        yield from policy_files(directory / "policies")

    found = []
    for path in files():
        try:
            info = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.name, info.st_mtime_ns, info.st_size))
    return tuple(found)
