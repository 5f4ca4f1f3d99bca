"""What a coordinator sees: the feed, restricted by policy like any other recipient's deliveries.

Guarantees: an entry holds only what the coordinator was granted when the report was decided and is still granted now;
of everything else the feed says nothing, not even that it exists. Nothing moves with the office: a coordinator is shown
what it was granted itself, and nothing of what its predecessors were. Entries come by number: a reader that says where
it stopped misses nothing and sees nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from broker import store, tables
from broker.decide import narrow
from broker.members import RegionState
from broker.store import Connection
from protocol.envelope import SignedReport, open_envelope, present, release
from protocol.errors import ProtocolError
from protocol.policy import HEADER, facts_of
from protocol.registry import Member
from protocol.submission import split_submission

_grant: Final = msgspec.msgpack.Decoder(tuple[int, int])


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the feed, ready to send."""

    id: int
    kind: str
    data: bytes


class Feed:
    """Reads the feed. Any thread; opens a connection of its own.

    Args:
        state: gives the region as it is now.
        clock: the time at which policy is asked.
    """

    def __init__(
        self, ledger_store: store.Store, state: Callable[[], RegionState], clock: Callable[[], datetime]
    ) -> None:
        self._store = ledger_store
        self._state = state
        self._clock = clock

    def after(self, last: int, most: int = 100) -> tuple[list[Entry], int]:
        """Entries after a number, and the number to continue from (entries that are no longer granted are skipped)."""
        with self._store.reading() as connection:
            rows = store.after(connection, tables.feed, last, most)
            shown = [entry for row in rows if (entry := self._render(connection, row)) is not None]
        return shown, int(rows[-1].id) if rows else last

    def last(self) -> int:
        """The number of the newest entry."""
        with self._store.reading() as connection:
            return store.last_number(connection, tables.feed)

    def _render(self, connection: Connection, row: Any) -> Entry | None:
        coordinator = self._state().registry.coordinator()
        if coordinator is None or coordinator.id != row.member:
            return None
        if row.kind != "report":
            data = {"at": _iso(row.at), **msgspec.json.decode(row.data)}
            return Entry(row.id, row.kind, msgspec.json.encode(data))
        found = self._report(connection, row, coordinator)
        return None if found is None else Entry(row.id, "report", msgspec.json.encode(found))

    def _report(self, connection: Connection, row: Any, coordinator: Member) -> dict[str, Any] | None:
        state = self._state()
        stored = store.messages_of(connection, [row.report])
        if not stored:
            return None
        message = stored[0]
        received_at = datetime.fromtimestamp(message.received_at / 1000, UTC)
        try:
            envelope = open_envelope(split_submission(message.message)[0], state.registry.keys.find, received_at)
            report = next(
                item for item in envelope.reports if isinstance(item, SignedReport) and item.digest == message.digest
            )
            outcome = state.ask(facts_of(report.header), coordinator, self._clock())
            exact, coarse = narrow(_grant.decode(row.data), outcome)
            if not exact & HEADER:
                return None
            released = present(envelope.jws, [release(report, exact, coarse)])
            seen = open_envelope(released, state.registry.keys.find, received_at).reports[0]
        except (ProtocolError, StopIteration):
            return None
        if not isinstance(seen, SignedReport):
            return None
        return {
            "at": _iso(row.at),
            "digest": seen.digest,
            "header": msgspec.to_builtins(seen.header),
            "body": seen.body,
            "undisclosed": seen.undisclosed,
            "sd_jwt": released,
        }


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat().replace("+00:00", "Z")
