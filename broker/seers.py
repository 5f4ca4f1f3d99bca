"""Who is owed the opening of which closed record.

Guarantees: a member of a jurisdiction gets all closed records about the sharing groups that its jurisdiction was in
just before or after them; a member that sees a hidden one gets all records of that membership, from its admission on,
and so does everybody once it is shown to all. Nobody else gets any. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from protocol.enact import State
from protocol.governance import Admit, Dissolve, FormGroup, Show, Signed
from protocol.registry import Member


@dataclass(frozen=True, slots=True)
class Seers:
    """Those that see one closed record."""

    everyone: bool = False
    members: frozenset[str] = frozenset()
    jurisdictions: frozenset[str] = frozenset()

    def include(self, member: Member) -> bool:
        """Whether this member is among them."""
        return self.everyone or member.id in self.members or member.jurisdiction in self.jurisdictions


@dataclass(slots=True)
class Roll:
    """Follows a chain from the founding record on."""

    _found: list[Seers | str | None] = field(default_factory=list)
    """By record: those that see it, or the key of the membership that it is about; None if it is open."""
    _lives: dict[str, Seers] = field(default_factory=dict)

    def follow(self, before: State | None, signed: Signed, after: State) -> None:
        """The next record, and the states around it."""
        inner, opening = signed.inner, signed.opening
        if inner is None or opening is None:
            self._found.append(None)
            return
        act = inner.record.act
        if isinstance(act, FormGroup | Dissolve):
            name = act.group if isinstance(act, Dissolve) else str(act.group.id)
            self._found.append(Seers(jurisdictions=_in_group(before, name) | _in_group(after, name)))
            return
        self._found.append(opening.key)
        if isinstance(act, Admit):
            self._lives[opening.key] = Seers(members=frozenset({act.member.id, *(act.seen_by or ())}))
        elif isinstance(act, Show):
            life = self._lives[opening.key]
            named = frozenset(act.seen_by or ())
            self._lives[opening.key] = Seers(everyone=act.seen_by is None, members=life.members | named)

    def seers(self) -> tuple[Seers | None, ...]:
        """By record, those that see what it closes, as the whole chain has it; None for an open one."""
        return tuple(self._lives[one] if isinstance(one, str) else one for one in self._found)


def _in_group(state: State | None, group: str) -> frozenset[str]:
    groups: Iterable[frozenset[str]] = (
        frozenset(one.jurisdictions) for one in (state.region.groups if state else ()) if str(one.id) == group
    )
    return frozenset().union(*groups)
