"""A region to ask: its members, agreements and policies, from a broker's directory or from policy files alone.

Refuses, as ConfigError with the file: what cannot be read, two policies of one jurisdiction under one version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET

from broker.config import load_config
from broker.members import EXAMPLES, load_state, policy_files
from broker.ownkey import load_records
from protocol.errors import ConfigError
from protocol.facts import NO_CIRCLES, Circles, Recipient
from protocol.policy import Policy, PolicyBook, load_policy
from protocol.registry import as_recipient

ALWAYS: Final = datetime(1970, 1, 1, tzinfo=UTC)
FACTS: Final = "facts.toml"


@dataclass(frozen=True)
class Scene:
    """What a report would meet.

    Args:
        recipients: one a jurisdiction.
        members: whether `recipients` and `circles` are a real region's, or only what the policies speak of.
        several: jurisdictions with more than one receiving member, which receive each other's reports.
    """

    policies: tuple[Policy, ...]
    recipients: tuple[Recipient, ...]
    circles: Circles = NO_CIRCLES
    members: bool = False
    several: frozenset[str] = frozenset()

    @cached_property
    def book(self) -> PolicyBook:
        """The policies, ready to be asked."""
        return PolicyBook(self.policies)

    @property
    def jurisdictions(self) -> tuple[str, ...]:
        """Everybody who can receive."""
        return tuple(dict.fromkeys(recipient.jurisdiction for recipient in self.recipients))

    def others(self, origin: str) -> list[Recipient]:
        """Who receives reports of this jurisdiction."""
        return [one for one in self.recipients if one.jurisdiction != origin or origin in self.several]

    def with_policies(self, policies: Iterable[Policy]) -> Scene:
        """The same region under other policies; without real members, everybody in them is one."""
        found = tuple(policies)
        if self.members:
            return replace(self, policies=found)
        return replace(of_policies(found), circles=self.circles)

    def with_version(self, policy: Policy) -> Scene:
        """The same region with this version in force in place of all others of its jurisdiction, whatever its dates."""
        others = [other for other in self.policies if other.jurisdiction != policy.jurisdiction]
        return self.with_policies([*others, in_force(policy)])


def in_force(policy: Policy) -> Policy:
    """The same policy without beginning or end: to ask what it would do."""
    return msgspec.structs.replace(policy, effective_from=ALWAYS, effective_until=UNSET)


def newest(policies: Iterable[Policy]) -> list[Policy]:
    """The highest version of each jurisdiction, in force at any time."""
    found: dict[str, Policy] = {}
    for policy in policies:
        known = found.get(policy.jurisdiction)
        if known is None or policy.version > known.version:
            found[policy.jurisdiction] = policy
    return [in_force(policy) for policy in found.values()]


def of_policies(policies: Sequence[Policy]) -> Scene:
    """A region in which every jurisdiction that has a policy is an active member."""
    names = sorted({policy.jurisdiction for policy in policies})
    return Scene(tuple(policies), tuple(Recipient(name) for name in names))


def read_policy(path: Path) -> Policy:
    """A policy file. ConfigError with its name."""
    try:
        return load_policy(path.read_text("utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read as text") from exc


def only_policies(paths: Iterable[Path]) -> list[Path]:
    """The files without those that stand beside policies and are none: a shell's `*.toml` names them too."""
    return [path for path in paths if not path.name.endswith(EXAMPLES) and path.name != FACTS]


def read_policies(directory: Path) -> list[Policy]:
    """All policies of a directory; examples beside them are none."""
    found = [read_policy(path) for path in only_policies(policy_files(directory))]
    if not found:
        raise ConfigError(f"{directory}: no policy (*.toml) in it")
    return found


def of_region(directory: Path) -> Scene:
    """The region in a broker's directory, as the broker knows it."""
    config = load_config(directory)
    state = load_state(config.region, load_records(config))
    recipients: dict[str, Recipient] = {}
    several = set()
    for member in state.registry.recipients():
        one = as_recipient(member)
        known = recipients.get(one.jurisdiction)
        if known is not None:
            several.add(one.jurisdiction)
        # Of several members of a jurisdiction, one that is not suspended speaks for it.
        if known is None or not known.active:
            recipients[one.jurisdiction] = one
    return Scene(
        state.book.policies,
        tuple(recipients.values()),
        state.registry.circles,
        members=True,
        several=frozenset(several),
    )


def load_scene(region: Path | None, policies: Path | None) -> Scene | None:
    """The region that the options name; None if neither is given."""
    if region is not None and policies is not None:
        raise ConfigError("--region and --policies: give one of them")
    if region is not None:
        return of_region(region)
    if policies is None:
        return None
    scene = of_policies(read_policies(policies))
    _ = scene.book
    return scene
