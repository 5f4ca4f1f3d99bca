"""Who may cosign the log's checkpoints, and which of their lines count, in the region of today.

Guarantees: a line counts for as long as its member is a witness under that key, and its key was valid when it cosigned.
Refuses lines of suspended members, in another's name, or under a key that the region does not list. Any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protocol.errors import ProtocolError
from protocol.notes import Line, NoteKey, cosigned_at, parse_line
from protocol.reasons import Reason
from protocol.registry import Registry


@dataclass(frozen=True, slots=True)
class _Known:
    registry: Registry
    keys: Mapping[tuple[str, bytes], NoteKey]


class Witnesses:
    """The region's witnesses.

    Args:
        registry: gives the region as it is now.
    """

    def __init__(self, registry: Callable[[], Registry]) -> None:
        self._registry = registry
        self._known: _Known | None = None

    def _now(self) -> _Known:
        registry, known = self._registry(), self._known
        if known is None or known.registry is not registry:
            keys = {(key.name, key.id): key for key in registry.witness_keys()}
            known = self._known = _Known(registry, keys)
        return known

    @property
    def quorum(self) -> int:
        """How many must cosign."""
        return self._now().registry.quorum

    @property
    def members(self) -> int:
        """How many may."""
        return len({name for name, _ in self._now().keys})

    def key_of(self, member: str, line: Line) -> NoteKey:
        """The key of a line that came from this member.

        Raises:
            ProtocolError: it may not cosign, or not so.
        """
        known = self._now()
        if known.registry.member(member).status != "active":
            raise ProtocolError(Reason.MEMBER_SUSPENDED, "$", "this member is suspended")
        if line.name != member:
            raise ProtocolError(Reason.WRONG_MEMBER, "$.line", "a witness cosigns in its own name")
        key = known.keys.get((member, line.key_id))
        if key is None:
            raise ProtocolError(Reason.UNKNOWN_KEY, "$.line", "the member has no key with this id")
        return key

    def standing(self, lines: Mapping[str, str]) -> dict[str, Line]:
        """The lines, by member, that count in the region of today; all were verified when they came."""
        keys = self._now().keys
        found: dict[str, Line] = {}
        for member in sorted(lines):
            line = parse_line(lines[member].removesuffix("\n"))
            key = keys.get((member, line.key_id))
            if key is None:
                continue
            try:
                key.key.check_window(cosigned_at(line))
            except ProtocolError:
                continue
            found[member] = line
        return found

    def enough(self, lines: Mapping[str, str]) -> bool:
        """Whether as many of them count as the quorum asks for."""
        return len(self.standing(lines)) >= self.quorum
