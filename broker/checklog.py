"""Holds the log's tables to the submissions, from the first leaf to the newest checkpoint.

Guarantees: the tree is computed anew from the entries of the submissions, with the code that small trees use and not
with that which grew it; every tile, every checkpoint's root, note and signature, and every cosignature is compared with
it. Memory grows with the height of the tree, not with its size. A log that has not sequenced all yet is no fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from broker import logstore, reading, tables
from broker.checkreports import Scene
from broker.store import Connection, last_number
from protocol.errors import ProtocolError
from protocol.faults import BEHIND, DIFFERS, MISSING, ORPHAN, WRONG_STATE, Finding, from_milliseconds, refused
from protocol.merkle import HASH, Frontier, leaf_hash
from protocol.notes import (
    NoteKey,
    open_checkpoint,
    parse_line,
    verify_cosignature,
    witness_keys,
)
from protocol.reasons import Reason
from protocol.tiles import HEIGHT, LEVELS, WIDTH

_PAGE: Final = 2000


class _Tiles:
    """Tiles as they must be, one open tile a level."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: list[bytearray] = [bytearray() for _ in range(LEVELS)]
        self._numbers = [0] * LEVELS
        self.count = 0

    def add(self, level: int, data: bytes) -> Iterator[Finding]:
        """One more entry, or hash, of a level."""
        tile = self._open[level]
        tile += data
        if len(tile) == WIDTH * HASH:
            yield from self._close(level)

    def end(self) -> Iterator[Finding]:
        """The tiles that are not full."""
        for level in range(LEVELS):
            if self._open[level]:
                yield from self._close(level)

    def _close(self, level: int) -> Iterator[Finding]:
        name = f"{level}/{self._numbers[level]}"
        there = logstore.tile(self._connection, level, self._numbers[level])
        if not there:
            yield Finding("log_tiles", name, MISSING, f"{len(self._open[level]) // HASH} wide")
        elif there != self._open[level]:
            same = len(there) == len(self._open[level])
            yield Finding("log_tiles", name, DIFFERS, "hashes" if same else f"it is {len(there) // HASH} wide")
        self.count += bool(there)
        self._numbers[level] += 1
        self._open[level] = bytearray()


def check_log(connection: Connection, scene: Scene) -> Iterator[Finding]:
    """Everything about the log."""
    newest = logstore.newest(connection)
    submissions = last_number(connection, tables.submissions)
    size = newest.size if newest is not None else 0
    if size > submissions:
        yield Finding("submissions", str(submissions + 1), MISSING, f"the newest checkpoint covers {size} of them")
    elif size < submissions:
        yield Finding("log", str(size), BEHIND, f"log behind by {submissions - size}", note=True)
    roots = _sizes(connection)
    yield from _check_tree(connection, min(size, submissions), roots)
    witnesses = {
        (key.name, key.id): key
        for member in scene.registry.region.members
        for key in witness_keys(member.id, member.keys)
    }
    for page in reading.pages(connection, tables.checkpoints, "size"):
        for row in page:
            yield from _check_checkpoint(connection, row, scene, witnesses)
    for stray in reading.strays(connection, tables.cosignatures, "size", tables.checkpoints, "size"):
        yield Finding("cosignatures", str(stray), ORPHAN, "no checkpoint of this size")


def _sizes(connection: Connection) -> Iterator[Any]:
    for page in reading.pages(connection, tables.checkpoints, "size", columns=("size", "root")):
        yield from page


def _check_tree(connection: Connection, size: int, checkpoints: Iterable[Any]) -> Iterator[Finding]:
    """Tiles and roots, leaf by leaf."""
    frontier = Frontier()
    tiles = _Tiles(connection)
    waiting = iter(checkpoints)
    following = next(waiting, None)
    for row in _entries(connection, size):
        entry = bytes(row.entry)
        yield from tiles.add(0, entry)
        for level, _, node in frontier.append(leaf_hash(entry)):
            if level % HEIGHT == 0 and level // HEIGHT < LEVELS:
                yield from tiles.add(level // HEIGHT, node)
        while following is not None and following.size <= frontier.size:
            if following.size == frontier.size and bytes(following.root) != frontier.root():
                yield Finding(
                    "checkpoints", str(following.size), Reason.PROOF_INVALID.value, "not the root of the tree"
                )
            following = next(waiting, None)
    yield from tiles.end()
    there = reading.count(connection, tables.log_tiles)
    if there > tiles.count:
        yield Finding("log_tiles", "", ORPHAN, f"{there - tiles.count} more tiles than the tree has")


def _entries(connection: Connection, size: int) -> Iterator[Any]:
    for page in reading.pages(connection, tables.submissions, "id", _PAGE, ("id", "entry")):
        for row in page:
            if row.id > size:
                return
            yield row


def _check_checkpoint(
    connection: Connection, row: Any, scene: Scene, witnesses: dict[tuple[str, bytes], NoteKey]
) -> Iterator[Finding]:
    registry = scene.registry
    try:
        text = bytes(row.note).decode("utf-8")
        said = open_checkpoint(text, registry.log_keys(), [], from_milliseconds(row.at))
    except UnicodeDecodeError:
        yield Finding("checkpoints", str(row.size), Reason.MALFORMED_NOTE.value, "the note is not UTF-8")
        return
    except ProtocolError as exc:
        yield refused("checkpoints", row.size, exc, "note")
        return
    tree = (said.checkpoint.origin, said.checkpoint.size, said.checkpoint.root)
    if tree != (registry.origin, row.size, bytes(row.root)):
        yield Finding("checkpoints", str(row.size), DIFFERS, "the note is of another tree")
    lines = reading.rows_where(connection, tables.cosignatures, "size", [row.size])
    wrong = [finding for line in lines for finding in _check_line(line, said.note.text, witnesses)]
    yield from wrong
    standing = len(lines) - len(wrong)
    if row.published_at is None:
        return
    if standing < registry.quorum:
        if scene.changed_since(row.published_at):
            scene.skipped["quorums, since the region's files changed later"] += 1
        else:
            detail = f"published with {standing} cosignatures of {registry.quorum}"
            yield Finding("checkpoints", str(row.size), Reason.NOT_WITNESSED.value, detail)
    if row.published_at < row.at:
        yield Finding("checkpoints", str(row.size), WRONG_STATE, "published before it was signed")


def _check_line(row: Any, text: str, witnesses: dict[tuple[str, bytes], NoteKey]) -> list[Finding]:
    """At most one finding about a cosignature."""
    name = f"{row.size} {row.member}"
    try:
        line = parse_line(bytes(row.line).decode("utf-8").removesuffix("\n"))
        if line.name != row.member:
            return [Finding("cosignatures", name, DIFFERS, "it is another member's line")]
        key = witnesses.get((line.name, line.key_id))
        if key is None:
            return [Finding("cosignatures", name, Reason.UNKNOWN_KEY.value, "the region lists no such key")]
        verify_cosignature(text, line, key)
    except UnicodeDecodeError:
        return [Finding("cosignatures", name, Reason.MALFORMED_NOTE.value, "the line is not UTF-8")]
    except ProtocolError as exc:
        if exc.reason is Reason.KEY_REVOKED:
            return [Finding("cosignatures", name, exc.reason.value, "it counts no more", note=True)]
        return [refused("cosignatures", name, exc)]
    return []
