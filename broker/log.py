"""Step 12 of a report's life: decisions become leaves of the log, checkpoints are signed, cosigned and published.

The entry of submission n is leaf n - 1, as its receipt says. Guarantees:
  * tiles and the checkpoint over them are one transaction, and nothing is shown before it is committed: so that what a
    crash undoes was never seen by anybody, and what was seen is never contradicted;
  * a checkpoint is published once a quorum of the region's witnesses has cosigned it, and its published note holds only
    lines that count in the region of today;
  * proofs are made from stored tiles, at a cost that grows with the logarithm of the size;
  * of several processes on one ledger one sequences, which takes the log up from the ledger whenever it has become the
    one (`Store.lead`). All answer: what one of them shows may be older than another's, never different, and before it
    says that there is no such size it looks into the ledger.

Refuses cosignatures that are not the member's own, proofs beyond the newest checkpoint, and a region whose name, which
is the log's, has changed (ConfigError). If the log's tables are lost they are made again, the same, from `submissions`.

Threads: `load`, `sequence`, `cosign`, `refresh` and `prune` on the process's one writer thread; everything else on any
thread, with a connection of its own. What both need is replaced as a whole, never changed, never by something older.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from threading import Lock
from typing import Any, Final

from broker import logstore
from broker.logstore import TileCache
from broker.members import RegionState
from broker.quorum import Witnesses
from broker.store import Connection, Store, milliseconds
from protocol import limits
from protocol.errors import ConfigError, ProtocolError
from protocol.keys import KnownSigner, b64
from protocol.logrpc import (
    ConsistencyAnswer,
    ConsistencyRequest,
    NextAnswer,
    NextRequest,
    ProveAnswer,
    ProveRequest,
)
from protocol.merkle import NodeReader, prove_consistency, prove_inclusion
from protocol.notes import (
    LOG,
    Checkpoint,
    Note,
    key_id,
    parse_checkpoint,
    parse_line,
    parse_note,
    sign_checkpoint,
    verify_cosignature,
)
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.tiles import HEIGHT, LEVELS, Edge, bundle, leaf_hashes, parse_path, width_of

STEP: Final = 8192
"""Entries in one transaction: a bounded wait for everybody else on the ledger's thread."""
ROUND: Final = 0.25
"""Seconds between two checkpoints at least."""
PATIENCE: Final = 5.0
"""Seconds after which a checkpoint without its quorum is followed by a larger one."""
KEEP: Final = timedelta(days=1)
"""For how long old checkpoints are kept."""
_CONSIDERED: Final = 64
"""Unpublished checkpoints that a change of the region can publish."""
_REPAIR: Final = (
    "restore the ledger from a backup; or empty the tables log_tiles, checkpoints and cosignatures, "
    "which are then made again from the submissions"
)

Entries = Callable[[Connection, int, int], list[bytes]]


@dataclass(frozen=True, slots=True)
class Head:
    """The newest checkpoint as the log signed it."""

    size: int
    note: str
    at: int
    published: bool


@dataclass(frozen=True, slots=True)
class Published:
    """The newest checkpoint that a quorum has cosigned, with all lines that count."""

    size: int
    note: str
    witnesses: int
    seconds: float
    """From signing to the quorum."""


@dataclass(frozen=True, slots=True)
class _Shown:
    newest: Head | None = None
    published: Published | None = None


class Log:
    """The region's log, without an event loop.

    Args:
        ledger_store: the ledger.
        signer: the broker's signing key.
        state: gives the region as it is now.
        entries: gives the entries after a size, at most so many; those of the submissions, if not another source.
    """

    def __init__(
        self,
        ledger_store: Store,
        signer: KnownSigner,
        state: Callable[[], RegionState],
        entries: Entries = logstore.entries_after,
    ) -> None:
        self._store = ledger_store
        self._signer = signer
        self._state = state
        self._entries = entries
        self._edge = Edge()
        self._term = 0
        self._more = False
        self._shown = _Shown()
        self._showing = Lock()
        self._lines: tuple[int, dict[str, str]] | None = None
        self._witnesses = Witnesses(lambda: state().registry)
        self._cache = TileCache()
        self._consistency = lru_cache(64)(self._prove_consistency)

    # --- what there is ------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Leaves under the newest checkpoint."""
        newest = self._shown.newest
        return newest.size if newest else 0

    @property
    def published(self) -> Published | None:
        """The newest checkpoint with a quorum."""
        return self._shown.published

    def check(self, registry: Registry) -> None:
        """ConfigError if this registry's log is another one than that of the ledger."""
        newest = self._shown.newest
        origin = parse_checkpoint(parse_note(newest.note).text).origin if newest else registry.origin
        if origin != registry.origin:
            raise ConfigError(
                f"governance: the region's name makes {registry.origin}, but the log is {origin}: put the name back"
            )

    def lag(self, now: datetime) -> float:
        """Age in seconds of the oldest entry that no published checkpoint covers; 0 if all are covered."""
        published = self._shown.published
        with self._store.reading() as connection:
            oldest = logstore.received_at(connection, published.size if published else 0)
        return 0.0 if oldest is None else max(0, milliseconds(now) - oldest) / 1000

    def numbers(self) -> dict[str, int]:
        """Counts for the status page."""
        shown, witnesses = self._shown, self._witnesses
        return {
            "size": shown.newest.size if shown.newest else 0,
            "published": shown.published.size if shown.published else 0,
            "cosigned_by": shown.published.witnesses if shown.published else 0,
            "witnesses": witnesses.members,
            "quorum": witnesses.quorum,
        }

    # --- the writer thread --------------------------------------------------------------------------------------

    def load(self, now: datetime) -> None:
        """Take up the log where it was committed, and sequence all that waits. Before anything else, and once.

        Raises:
            ConfigError: the tables do not hold together, or are those of another log.
            Transient: the ledger cannot be used now.
        """
        with self._store.reading() as connection:
            row = logstore.newest(connection)
        if row is not None:
            self._show(self._head(row), None)
            self.check(self._state().registry)
        while self._leads() and self._step(now) == STEP:
            pass
        self.refresh(now)

    def _leads(self) -> bool:
        """Whether this is the process that sequences; if it has become so, where the log stands is read anew."""
        term = self._store.lead()
        if term and term != self._term:
            with self._store.reading() as connection:
                row = logstore.newest(connection)
                self._edge = self._read_edge(connection, row)
            if row is not None:
                self._show(self._head(row), None)
            self._term = term
        return term != 0

    @property
    def leading(self) -> bool:
        """Whether this process sequenced when it last could."""
        return self._store.leads

    def sequence(self, now: datetime) -> bool:
        """Append what waits and sign a checkpoint over it, if that is for this process to do, and it is time for one.

        It is when the newest has its quorum or has waited `PATIENCE` seconds for it, so that witnesses meet on one
        size; and not sooner than `ROUND` seconds after it.

        Returns:
            whether there is a new checkpoint.

        Raises:
            Transient: nothing was committed; try again.
        """
        if not self._leads():
            return False
        newest = self._shown.newest
        if newest is not None:
            # A clock that was put back must not silence the log: then the difference is negative, and says nothing.
            passed = (milliseconds(now) - newest.at) / 1000
            if 0 <= passed < ROUND:
                return False
            if 0 <= passed < PATIENCE and not newest.published and not self._more:
                return False
        return self._step(now) > 0

    def cosign(self, member: str, line: str, size: int, now: datetime) -> bool:
        """Take a witness's line for a checkpoint. Twice is once.

        Args:
            member: on whose connection it came.

        Returns:
            whether the checkpoint is published by this.

        Raises:
            ProtocolError: it is not this member's, does not verify, is from the future, or there is no such checkpoint.
            Transient: nothing was committed; the witness sends it again.
        """
        parsed = parse_line(line.removesuffix("\n"))
        key = self._witnesses.key_of(member, parsed)
        with self._store.reading() as connection:
            row = logstore.checkpoint(connection, size)
            lines = logstore.lines(connection, size)
        if row is None:
            raise ProtocolError(Reason.OUT_OF_RANGE, "$.size", "the log has no checkpoint of this size")
        seen = verify_cosignature(parse_note(row.note.decode("utf-8")).text, parsed, key)
        if seen.at > now + limits.CLOCK_SKEW:
            raise ProtocolError(Reason.TIME_IN_FUTURE, "$.line", "cosigned in the future: check the clocks")
        published = self._shown.published
        if member in self._witnesses.standing(lines) or (published is not None and size < published.size):
            return False
        with self._store.writing() as connection:
            # Again, now that nobody else writes: two lines that come at once are one more each.
            row, lines = logstore.checkpoint(connection, size), logstore.lines(connection, size)
            if row is None:
                raise ProtocolError(Reason.OUT_OF_RANGE, "$.size", "the log has no checkpoint of this size any more")
            if member in self._witnesses.standing(lines):
                return False
            put = logstore.set_line if member in lines else logstore.add_line
            put(connection, size, member, parsed.encode())
            lines[member] = parsed.encode()
            reached = row.published_at is None and self._witnesses.enough(lines)
            if reached:
                logstore.set_checkpoint(connection, size, published_at=milliseconds(now))
        if reached or row.published_at is not None:
            self._publish(row, lines, row.published_at or milliseconds(now))
        return reached

    def refresh(self, now: datetime) -> bool:
        """Ask again which cosignatures count, after a change of the region.

        Returns:
            whether a checkpoint is published by it.
        """
        published = self._shown.published
        fresh = False
        with self._store.writing() as connection:
            row = logstore.newest(connection, published=True)
            for candidate in logstore.larger_than(connection, row.size if row else 0, _CONSIDERED):
                if self._witnesses.enough(logstore.lines(connection, candidate.size)):
                    logstore.set_checkpoint(connection, candidate.size, published_at=milliseconds(now))
                    row = logstore.checkpoint(connection, candidate.size)
                    fresh = published is None or candidate.size > published.size
                    break
            lines = logstore.lines(connection, row.size) if row else {}
        if row is not None:
            self._publish(row, lines, row.published_at)
        return fresh

    def prune(self, now: datetime) -> int:
        """Forget checkpoints that are older than `KEEP`, but the newest and the newest published; returns how many."""
        if not self.leading:
            return 0
        with self._store.writing() as connection:
            rows = (logstore.newest(connection), logstore.newest(connection, published=True))
            keep = [row.size for row in rows if row is not None]
            return logstore.prune(connection, milliseconds(now - KEEP), keep)

    # --- any thread ---------------------------------------------------------------------------------------------

    def look(self) -> bool:
        """See what the ledger's other processes have done, if it may have any; whether there is more to show.

        Raises:
            Transient: the ledger cannot be read now.
        """
        if not self._store.shared:
            return False
        with self._store.reading() as connection:
            # In this order: what is published is never beyond the newest.
            row = logstore.newest(connection, published=True)
            lines = logstore.lines(connection, row.size) if row else {}
            newest = logstore.newest(connection)
        published = None
        if row is not None and self._lines != (row.size, lines):
            published = self._published(row, lines, row.published_at)
            self._lines = (row.size, lines)
        return self._show(self._head(newest) if newest else None, published)

    def _reaching(self, size: int) -> _Shown:
        """What there is to show, after another look if somebody has seen more."""
        shown = self._shown
        if shown.newest is None or shown.newest.size < size:
            self.look()
        return self._shown

    def next(self, request: NextRequest) -> NextAnswer:
        """What a witness that stands there has to look at; does not wait.

        Raises:
            ProtocolError: OUT_OF_RANGE, the witness has seen more than this log has: it is not the log that it was.
            Transient: the ledger cannot be read now.
        """
        shown = self._reaching(max(request.size, request.published))
        size = shown.newest.size if shown.newest else 0
        if max(request.size, request.published) > size:
            raise ProtocolError(Reason.OUT_OF_RANGE, "$.size", f"the log has {size} leaves")
        published = shown.published.note if shown.published and shown.published.size > request.published else ""
        if shown.newest is None or size == request.size:
            return NextAnswer(published=published)
        path = self._consistency(request.size, size)
        return NextAnswer(checkpoint=shown.newest.note, consistency=list(path), published=published)

    def prove(self, request: ProveRequest) -> ProveAnswer:
        """Inclusion proofs in the tree of any size up to the newest checkpoint's.

        Raises:
            ProtocolError: OUT_OF_RANGE, there is no such tree or leaf.
            Transient: the ledger cannot be read now.
        """
        self._check_size(request.size)
        with self._reader() as read:
            return ProveAnswer(
                paths=[[b64(item) for item in prove_inclusion(leaf, request.size, read)] for leaf in request.leaves]
            )

    def consistency(self, request: ConsistencyRequest) -> ConsistencyAnswer:
        """The proof that the tree of one size begins with that of another.

        Raises:
            ProtocolError: OUT_OF_RANGE, there is no such tree.
            Transient: the ledger cannot be read now.
        """
        self._check_size(request.new)
        return ConsistencyAnswer(path=list(self._consistency(request.old, request.new)))

    def tile(self, path: str) -> bytes:
        """A tile, an entry bundle, or the published `checkpoint`, by its path in tlog-tiles.

        Raises:
            ProtocolError: UNKNOWN_PATH, there is none.
            Transient: the ledger cannot be read now.
        """
        shown = self._shown
        if path == "checkpoint":
            if shown.published is None:
                raise ProtocolError(Reason.UNKNOWN_PATH, "$.path", "no checkpoint has its quorum yet")
            return shown.published.note.encode("utf-8")
        wanted = parse_path(path)
        level = wanted.level or 0
        shown = self._reaching((wanted.number << HEIGHT * (level + 1)) + (wanted.width << HEIGHT * level))
        if width_of(shown.newest.size if shown.newest else 0, level, wanted.number) < wanted.width:
            raise ProtocolError(Reason.UNKNOWN_PATH, "$.path", "the log has no such tile")
        with self._store.reading() as connection:
            data = logstore.tile(connection, level, wanted.number)[: wanted.width * 32]
        if wanted.level is None:
            return bundle(data)
        return leaf_hashes(data) if level == 0 else data

    # --- inside -------------------------------------------------------------------------------------------------

    def _read_edge(self, connection: Connection, row: Any | None) -> Edge:
        if row is None:
            if logstore.has_tiles(connection):
                raise ConfigError(f"the log has tiles and no checkpoint: {_REPAIR}")
            return Edge()
        partial = [
            logstore.tile(connection, level, row.size >> HEIGHT * (level + 1))
            if (row.size >> HEIGHT * level) % (1 << HEIGHT)
            else b""
            for level in range(LEVELS)
        ]
        try:
            edge = Edge(row.size, partial)
        except ValueError as exc:
            raise ConfigError(f"the log's tiles end elsewhere than its checkpoint: {_REPAIR}") from exc
        if edge.root() != row.root:
            raise ConfigError(f"the log's tiles are not those of its checkpoint: {_REPAIR}")
        return edge

    def _step(self, now: datetime) -> int:
        with self._store.leading() as connection:
            entries = self._entries(connection, self._edge.size, STEP)
            if not entries:
                self._more = False
                return 0
            edge, tiles = self._edge.grow(entries)
            logstore.put_tiles(connection, tiles)
            root = edge.root()
            note = self._sign(Checkpoint(self._state().registry.origin, edge.size, root))
            at = milliseconds(now)
            logstore.add_checkpoint(connection, edge.size, root, note, at)
        self._edge = edge
        self._more = len(entries) == STEP
        self._show(Head(edge.size, note, at, published=False), None)
        return len(entries)

    def _show(self, newest: Head | None, published: Published | None) -> bool:
        """Show what is newer than what is shown; whether anything is."""
        with self._showing:
            shown = self._shown
            if newest is None or (shown.newest is not None and newest.size < shown.newest.size):
                newest = shown.newest
            if published is None or (shown.published is not None and published.size < shown.published.size):
                published = shown.published
            if newest is not None and published is not None and published.size == newest.size:
                newest = replace(newest, published=True)
            self._shown = _Shown(newest, published)
            return self._shown != shown

    def _head(self, row: Any) -> Head:
        return Head(row.size, self._signed_note(row), row.at, row.published_at is not None)

    def _sign(self, checkpoint: Checkpoint) -> str:
        return sign_checkpoint(checkpoint, self._signer, self._signer.public)

    def _signed_note(self, row: Any) -> str:
        """The checkpoint's note; under the broker's key of today, if an earlier one signed it: that one may end."""
        text = row.note.decode("utf-8")
        note = parse_note(text)
        checkpoint = parse_checkpoint(note.text)
        today = key_id(checkpoint.origin, LOG, self._signer.public)
        return text if note.lines[0].key_id == today else self._sign(checkpoint)

    def _publish(self, row: Any, lines: Mapping[str, str], at: int) -> None:
        self._show(self._head(row), self._published(row, lines, at))

    def _published(self, row: Any, lines: Mapping[str, str], at: int) -> Published:
        log_note = parse_note(self._signed_note(row))
        standing = list(self._witnesses.standing(lines).values())[: limits.NOTE_SIGNATURES - 1]
        note = Note(log_note.text, (*log_note.lines, *standing)).encode()
        return Published(row.size, note, len(standing), max(0, at - row.at) / 1000)

    def _check_size(self, size: int) -> None:
        self._reaching(size)
        if size > self.size:
            raise ProtocolError(Reason.OUT_OF_RANGE, "$.size", f"the log has {self.size} leaves")

    @contextmanager
    def _reader(self) -> Iterator[NodeReader]:
        with self._store.reading() as connection:
            yield lambda level, number: self._cache.node(connection, level, number)

    def _prove_consistency(self, old: int, new: int) -> tuple[str, ...]:
        with self._reader() as read:
            return tuple(b64(item) for item in prove_consistency(old, new, read))
