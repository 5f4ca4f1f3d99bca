"""Tiles: the specification's own examples, and the same tree however it was cut and grown."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.merkle import EMPTY_ROOT, Frontier, leaf_hash, prove_consistency, prove_inclusion, tree_root
from protocol.reasons import Reason
from protocol.tiles import (
    Edge,
    TilePath,
    TileReader,
    bundle,
    leaf_hashes,
    parse_path,
    split_bundle,
    tiles_of,
    width_of,
)
from tests.protocol.make import quick, refused
from tests.protocol.test_merkle import nodes_of

MOST = 1200
ENTRIES = [hashlib.sha256(b"entry %d" % number).digest() for number in range(MOST)]
NODES = nodes_of(ENTRIES)


class Shelf:
    """A log's tiles, stored as they are made."""

    def __init__(self) -> None:
        self.edge = Edge()
        self.tiles: dict[tuple[int, int], bytes] = {}

    def grow(self, count: int) -> None:
        start = self.edge.size
        self.edge, stored = self.edge.grow(ENTRIES[start : start + count])
        names = [(tile.level, tile.number) for tile in stored]
        assert len(names) == len(set(names)), "each is written once a step"
        for tile in stored:
            old = self.tiles.get((tile.level, tile.number))
            assert tile.fresh == (old is None)
            assert tile.data.startswith(old or b"")
            self.tiles[tile.level, tile.number] = tile.data

    def fetch(self, path: TilePath) -> bytes:
        data = self.tiles[path.level or 0, path.number][: path.width * 32]
        return leaf_hashes(data) if path.level == 0 else data


# --- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("tile/0/000", TilePath(0, 0)),
        ("tile/0/x001/x234/067", TilePath(0, 1234067)),
        ("tile/3/999.p/255", TilePath(3, 999, 255)),
        ("tile/1/x001/000.p/1", TilePath(1, 1000, 1)),
        ("tile/entries/x001/x234/067.p/17", TilePath(None, 1234067, 17)),
    ],
)
def test_paths(text: str, path: TilePath) -> None:
    """1,234,067 is the specification's example."""
    assert path.encode() == text
    assert parse_path(text) == path


@quick(200)
@given(st.none() | st.integers(0, 7), st.integers(0, 1 << 62), st.integers(1, 256))
def test_paths_are_read_as_they_are_written(level: int | None, number: int, width: int) -> None:
    """Whatever the number."""
    path = TilePath(level, number, width)
    assert parse_path(path.encode()) == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "checkpoint",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001",
        "tile/0/001.p/0",
        "tile/0/001.p/01",
        "tile/0/001.p/256",
        "tile/0/001.p/",
        "tile/0/001.p/-1",
        "tile/00/001",
        "tile/8/001",
        "tile/-1/001",
        "tile/Entries/001",
        "/tile/0/001",
        "tile/0/001/",
        "tile/0/001\n",
        "tile/0/../001",
        "tile/0/\u0661\u0661\u0661",
        "tile/0/" + "x001/" * 7 + "001",
    ],
)
def test_other_paths_are_refused(text: str) -> None:
    """One name a tile."""
    with refused(Reason.UNKNOWN_PATH):
        parse_path(text)


def test_the_tiles_of_70000_leaves() -> None:
    """The specification's example, and that of 256."""
    widths = Counter((path.level, path.width) for path in tiles_of(70_000))
    assert widths == {(0, 256): 273, (0, 112): 1, (1, 256): 1, (1, 17): 1, (2, 1): 1}
    assert list(tiles_of(256)) == [TilePath(0, 0), TilePath(1, 0, 1)]
    assert list(tiles_of(0)) == []
    assert width_of(70_000, 0, 274) == width_of(70_000, 3, 0) == width_of(0, 0, 0) == 0
    assert width_of(70_000, 0, 273) == 112


def test_bundles() -> None:
    """Each entry after its length in two bytes, most significant first."""
    data = bundle(b"".join(ENTRIES[:3]))
    assert data == b"".join(b"\x00\x20" + entry for entry in ENTRIES[:3])
    assert split_bundle(data, 3) == ENTRIES[:3]
    assert split_bundle(b"\x00\x01a\x00\x00\x01\x00" + bytes(256), 3) == [b"a", b"", bytes(256)]
    for wrong, width in ((data, 2), (data, 4), (data[:-1], 3), (data + b"\0", 3), (data[1:], 3), (b"\xff", 0)):
        with refused(Reason.MALFORMED_PROOF):
            split_bundle(wrong, width)


# --- trees ------------------------------------------------------------------------------------------------------


@quick(60)
@given(st.lists(st.integers(1, 600), min_size=1, max_size=8))
def test_a_tree_is_the_same_however_it_grew(steps: list[int]) -> None:
    """The root at the edge, the root out of tiles, and that of the tree as a whole."""
    shelf, frontier = Shelf(), Frontier()
    assert shelf.edge.root() == EMPTY_ROOT
    for count in steps:
        before = shelf.edge.size
        shelf.grow(count)
        for entry in ENTRIES[before : shelf.edge.size]:
            frontier.append(leaf_hash(entry))
        size = shelf.edge.size
        assert size == min(MOST, before + count)
        assert shelf.edge.root() == frontier.root()
        reader = TileReader(size, shelf.fetch)
        assert tree_root(size, reader) == frontier.root()
        if size > 1:
            assert prove_inclusion(size // 2, size, reader) == prove_inclusion(size // 2, size, NODES)
            assert prove_consistency(size // 2, size, reader) == prove_consistency(size // 2, size, NODES)
    names = {(path.level, path.number): path.width for path in tiles_of(shelf.edge.size)}
    assert {name: len(data) // 32 for name, data in shelf.tiles.items()} == names


def test_a_tree_of_three_levels_of_tiles() -> None:
    """70,000 leaves: what the second level holds are the roots of full tiles of the first."""
    entries = [hashlib.sha256(b"%d" % number).digest() for number in range(70_000)]
    edge, stored = Edge().grow(entries)
    tiles = {(tile.level, tile.number): tile.data for tile in stored}
    assert {(level, len(data) // 32) for (level, _), data in tiles.items()} == {
        (0, 256),
        (0, 112),
        (1, 256),
        (1, 17),
        (2, 1),
    }
    frontier = Frontier()
    for entry in entries:
        frontier.append(leaf_hash(entry))
    assert edge.root() == frontier.root()
    assert tiles[1, 0][32:64] == nodes_of(entries[256:512])(8, 0)


def test_an_edge_is_never_changed() -> None:
    """What was not committed is dropped: growing again from the same edge gives the same."""
    edge, _ = Edge().grow(ENTRIES[:300])
    root = edge.root()
    first, stored = edge.grow(ENTRIES[300:900])
    again, stored_again = edge.grow(ENTRIES[300:900])
    assert (edge.size, edge.root()) == (300, root)
    assert (first.root(), stored) == (again.root(), stored_again)
    assert edge.grow([])[0].root() == root


def test_an_edge_out_of_its_tiles() -> None:
    """As a process takes it up; and not out of those of another size."""
    edge, stored = Edge().grow(ENTRIES[:700])
    tiles = {(tile.level, tile.number): tile.data for tile in stored}
    partial = [tiles[0, 2], tiles[1, 0]]
    assert Edge(700, partial).root() == edge.root()
    for size, given_ in (
        (699, partial),
        (701, partial),
        (700, partial[:1]),
        (700, [*partial, bytes(32)]),
        (0, partial),
    ):
        with pytest.raises(ValueError, match=f"{size} leaves"):
            Edge(size, given_)


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33)])
def test_entries_of_another_length(wrong: bytes) -> None:
    """Tiles of entries are cut by length: one that is shorter would shift all others."""
    with pytest.raises(ValueError, match="32 bytes"):
        Edge().grow([ENTRIES[0], wrong, bytes(64 - len(wrong))])


def test_tiles_that_do_not_fit_are_refused() -> None:
    """Too short, too long, or for nodes that are not there."""
    shelf = Shelf()
    shelf.grow(300)
    for change in (lambda data: data[:-32], lambda data: data + bytes(32), lambda _: b"", lambda data: data[:-1]):
        with refused(Reason.MALFORMED_PROOF):
            TileReader(300, lambda path, change=change: change(shelf.fetch(path)))(0, 299)  # type: ignore[misc]
    reader = TileReader(300, shelf.fetch)
    for node in ((0, 300), (0, 511), (1, 150), (7, 2), (8, 1)):
        with refused(Reason.OUT_OF_RANGE):
            reader(*node)
    for node in ((0, 512), (9, 300), (16, 0)):
        with refused(Reason.MALFORMED_PROOF):
            reader(*node)


def test_tiles_are_fetched_once() -> None:
    """However many nodes are asked for."""
    shelf = Shelf()
    shelf.grow(700)
    asked: list[TilePath] = []

    def fetch(path: TilePath) -> bytes:
        asked.append(path)
        return shelf.fetch(path)

    reader = TileReader(700, fetch)
    for index in range(700):
        prove_inclusion(index, 700, reader)
    assert sorted(asked, key=TilePath.encode) == sorted(tiles_of(700), key=TilePath.encode)
