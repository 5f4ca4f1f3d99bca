"""The log's tree cut into tiles, as C2SP tlog-tiles (v0.1.0) lays it out.

    tile/0/x001/234        256 hashes of leaves: those of entry 1,234 * 256 and after
    tile/1/000.p/17        17 hashes, each of 256 leaves
    tile/entries/000.p/12  the entries themselves, each after its length

Guarantees: `parse_path` reads exactly what `TilePath.encode` writes; a tile holds complete nodes only, so that one that
is full never changes and one that is not only grows. `Edge.grow` makes a tree that is never changed in place: what was
not committed is simply dropped. Refuses tiles and bundles of another width than asked for. Nothing read from a tile is
verified here: whoever did not make the tiles checks a proof against a signed root.

An entry of this log is 32 bytes. The stored tile of level 0 therefore holds entries, of which its hashes follow.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.errors import ProtocolError
from protocol.merkle import HASH, complete_nodes, fold
from protocol.reasons import Reason

HEIGHT: Final = 8
"""Levels of the tree in a tile."""
WIDTH: Final = 1 << HEIGHT
"""Hashes in a full tile."""
ENTRY: Final = 32
"""Bytes of an entry of this log."""
LEVELS: Final = 8
"""Levels of tiles that a log of up to 2**62 entries can have."""
_FULL: Final = WIDTH * HASH
_LENGTH: Final = ENTRY.to_bytes(2, "big")
_PATH: Final = re.compile(
    r"tile/(?P<level>[0-7]|entries)/(?P<number>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)
_sha256: Final = hashlib.sha256


# --- paths ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TilePath:
    """Names a tile; `level` is None for a bundle of entries, `width` below 256 for a partial one."""

    level: int | None
    number: int
    width: int = WIDTH

    def encode(self) -> str:
        """The path below the log's prefix."""
        digits = f"{self.number:d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        level = "entries" if self.level is None else self.level
        return f"tile/{level}/{number}" + ("" if self.width == WIDTH else f".p/{self.width}")


def parse_path(text: str) -> TilePath:
    """Read a path.

    Raises:
        ProtocolError: it names no tile, or names one in another way than `encode`.
    """
    found = _PATH.fullmatch(text)
    if found:
        level = None if found["level"] == "entries" else int(found["level"])
        number = int(found["number"].replace("x", "").replace("/", ""))
        path = TilePath(level, number, int(found["width"] or WIDTH))
        if path.encode() == text:
            return path
    raise ProtocolError(Reason.UNKNOWN_PATH, "$.path", "no path of a tile")


def width_of(size: int, level: int, number: int) -> int:
    """How many hashes a tile holds in a tree of that size; 0 if there is none."""
    return max(0, min(WIDTH, (size >> HEIGHT * level) - number * WIDTH))


def tiles_of(size: int) -> Iterator[TilePath]:
    """The hash tiles of a tree of that size, partial ones included."""
    for level in range(LEVELS):
        number = 0
        while width := width_of(size, level, number):
            yield TilePath(level, number, width)
            number += 1


# --- what is in them --------------------------------------------------------------------------------------------


def leaf_hashes(entries: bytes) -> bytes:
    """The hashes of the leaves over entries that stand one after the other."""
    return b"".join(
        [_sha256(b"\x00" + entries[start : start + ENTRY]).digest() for start in range(0, len(entries), ENTRY)]
    )


def _above(hashes: bytes) -> bytes:
    """The nodes one level above; a last hash without a neighbour is left out."""
    whole = len(hashes) - len(hashes) % (2 * HASH)
    return b"".join(
        [_sha256(b"\x01" + hashes[start : start + 2 * HASH]).digest() for start in range(0, whole, 2 * HASH)]
    )


def nodes_in(hashes: bytes) -> list[bytes]:
    """The complete nodes inside a tile, by height: its hashes first, at most 8 lists, each as one string of bytes."""
    found = [hashes]
    while len(found) < HEIGHT and len(found[-1]) >= 2 * HASH:
        found.append(_above(found[-1]))
    return found


def _root_of_full(hashes: bytes) -> bytes:
    for _ in range(HEIGHT):
        hashes = _above(hashes)
    return hashes


def bundle(entries: bytes) -> bytes:
    """Entries as an entry bundle: each after its length, two bytes."""
    return b"".join([_LENGTH + entries[start : start + ENTRY] for start in range(0, len(entries), ENTRY)])


def split_bundle(data: bytes, width: int) -> list[bytes]:
    """The entries of a bundle, which may be of any length.

    Raises:
        ProtocolError: it does not hold exactly that many.
    """
    found: list[bytes] = []
    place = 0
    while place + 2 <= len(data):
        end = place + 2 + int.from_bytes(data[place : place + 2], "big")
        if end > len(data):
            break
        found.append(data[place + 2 : end])
        place = end
    if place != len(data) or len(found) != width:
        raise ProtocolError(Reason.MALFORMED_PROOF, "$", "not an entry bundle of this width")
    return found


# --- reading nodes ----------------------------------------------------------------------------------------------


def locate(level: int, number: int) -> tuple[int, int, int, int]:
    """Where a node is: level and number of its tile, height inside it, and place at that height."""
    height = level % HEIGHT
    room = HEIGHT - height
    return level // HEIGHT, number >> room, height, number & ((1 << room) - 1)


class TileReader:
    """Reads nodes of a tree from its hash tiles, for `merkle.prove_inclusion` and the like. Keeps every tile it read.

    Args:
        size: leaves of the tree.
        fetch: gives the bytes of a hash tile.
    """

    def __init__(self, size: int, fetch: Callable[[TilePath], bytes]) -> None:
        self._size = size
        self._fetch = fetch
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def __call__(self, level: int, number: int) -> bytes:
        """The hash of a complete node.

        Raises:
            ProtocolError: a tile is not as wide as the tree makes it, or the node is not in the tree.
        """
        tile, place, height, offset = locate(level, number)
        nodes = self._tiles.get((tile, place))
        if nodes is None:
            path = TilePath(tile, place, width_of(self._size, tile, place))
            data = self._fetch(path) if path.width else b""
            if len(data) != path.width * HASH or not data:
                raise ProtocolError(Reason.MALFORMED_PROOF, "$", "not a tile of this width")
            nodes = self._tiles[tile, place] = nodes_in(data)
        found = nodes[height][offset * HASH : (offset + 1) * HASH] if height < len(nodes) else b""
        if not found:
            raise ProtocolError(Reason.OUT_OF_RANGE, "$", "no complete node of this tree")
        return found


# --- growing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredTile:
    """A tile as it is stored: entries at level 0, hashes above."""

    level: int
    number: int
    data: bytes
    fresh: bool
    """Whether there was nothing of it before."""


def _edge_nodes(level: int, data: bytes) -> list[bytes]:
    """The fewest complete nodes over a partial tile, from left to right."""
    nodes = nodes_in(leaf_hashes(data) if level == 0 else data)
    return [nodes[height][place * HASH : (place + 1) * HASH] for height, place in complete_nodes(0, len(data) // HASH)]


class Edge:
    """The right edge of a tiled tree: its partial tiles, and the root that follows. Never changed: it grows a new one.

    Args:
        size: leaves of the tree.
        tiles: the partial tile of each level as stored, from level 0 on; empty where the tile is full or not begun.

    Raises:
        ValueError: the tiles are not those of a tree of that size.
    """

    def __init__(self, size: int = 0, tiles: Sequence[bytes] = (), *, nodes: Sequence[Sequence[bytes]] = ()) -> None:
        widths = [(size >> HEIGHT * level) % WIDTH for level in range(LEVELS)]
        given = [*tiles, *[b""] * (LEVELS - len(tiles))]
        if [len(data) for data in given] != [width * HASH for width in widths]:
            raise ValueError(f"these are not the partial tiles of a tree of {size} leaves")
        self.size = size
        self._tiles = given
        # What did not change since the edge that this one grew from is taken from there.
        self._nodes = [*nodes, *(_edge_nodes(level, given[level]) for level in range(len(nodes), LEVELS))]

    def root(self) -> bytes:
        """The root of the tree."""
        return fold([node for level in reversed(self._nodes) for node in level])

    def grow(self, entries: Sequence[bytes]) -> tuple[Edge, list[StoredTile]]:
        """Append entries; returns the new edge and the tiles to store, each once.

        Raises:
            ValueError: an entry is not 32 bytes long.
        """
        if any(len(entry) != ENTRY for entry in entries):
            raise ValueError(f"an entry has {ENTRY} bytes")
        tiles = list(self._tiles)
        nodes = list(self._nodes)
        stored: list[StoredTile] = []
        fresh = b"".join(entries)
        level = 0
        while fresh:
            old = tiles[level]
            data = old + fresh
            number = self.size >> HEIGHT * (level + 1)
            roots: list[bytes] = []
            for start in range(0, len(data), _FULL):
                part = data[start : start + _FULL]
                stored.append(StoredTile(level, number, part, bool(start) or not old))
                if len(part) == _FULL:
                    roots.append(_root_of_full(leaf_hashes(part) if level == 0 else part))
                number += 1
            tiles[level] = data[len(roots) * _FULL :]
            nodes[level] = _edge_nodes(level, tiles[level])
            fresh = b"".join(roots)
            level += 1
        return Edge(self.size + len(entries), tiles, nodes=nodes), stored
