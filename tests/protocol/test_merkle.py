"""The tree against published vectors, the RFC's own words, another implementation, and whatever somebody changes."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle.proof import InclusionProof, InvalidProof

from protocol.errors import ProtocolError
from protocol.merkle import (
    EMPTY_ROOT,
    PROOF_HASHES,
    Frontier,
    NodeReader,
    complete_nodes,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    root_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from protocol.reasons import Reason
from tests.protocol.make import quick, refused

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "rfc6962.json").read_text("utf-8"))
EIGHT = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
"""The entries of the tree that the implementations of Certificate Transparency are tested with."""
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
"""Its roots, from no entry to all eight."""
MOST = 300
ENTRIES = [b"entry %d" % number for number in range(MOST)]
SIZES = st.integers(1, MOST)


def nodes_of(entries: Sequence[bytes]) -> NodeReader:
    """Reads the nodes of a tree in memory, and only complete ones."""
    levels = [[leaf_hash(entry) for entry in entries]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[place], below[place + 1]) for place in range(0, len(below) - 1, 2)])
    return lambda level, number: levels[level][number]


NODES = nodes_of(ENTRIES)


# --- as RFC 6962, section 2.1, writes it ------------------------------------------------------------------------


def split(size: int) -> int:
    """The largest power of two smaller than size."""
    k = 1
    while k * 2 < size:
        k *= 2
    return k


def mth(d: Sequence[bytes]) -> bytes:
    if not d:
        return EMPTY_ROOT
    if len(d) == 1:
        return leaf_hash(d[0])
    k = split(len(d))
    return node_hash(mth(d[:k]), mth(d[k:]))


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(d):
        return [] if whole else [mth(d)]
    k = split(len(d))
    return [*subproof(m, d[:k], whole), mth(d[k:])] if m <= k else [*subproof(m - k, d[k:], False), mth(d[:k])]


# --- published vectors ------------------------------------------------------------------------------------------


OTHERWISE = {
    "single-entry/matching-root-and-leaf",
    "additional/size1-is-zero-and-size2-is-not-zero",
}
"""The first is a leaf hash for which there is no entry. The second refuses what tlog-witness asks for: the empty tree
is the beginning of any other, by an empty proof."""


def probes(kind: str) -> list[Any]:
    return [pytest.param(item, id=item["name"]) for item in VECTORS[kind] if item["name"] not in OTHERWISE]


def hashes(texts: list[str] | None) -> list[bytes]:
    return [b64decode(text) for text in texts or []]


def test_the_well_known_roots() -> None:
    """Of every size of the tree of eight."""
    assert [root_of(EIGHT[:size]).hex() for size in range(9)] == list(ROOTS)
    assert EMPTY_ROOT.hex() == ROOTS[0]


@pytest.mark.parametrize("probe", probes("inclusion"))
def test_inclusion_probes(probe: dict[str, Any]) -> None:
    """Proofs that hold, and many more that somebody changed."""
    known = {leaf_hash(entry): entry for entry in EIGHT}
    # Where the hash of the leaf was changed there is no entry for it: any other one is as wrong.
    entry = known.get(b64decode(probe["leafHash"] or ""), b"no entry of this tree")
    given_ = (entry, probe["leafIdx"], probe["treeSize"], hashes(probe["proof"]), b64decode(probe["root"] or ""))
    if probe["wantErr"]:
        with pytest.raises(ProtocolError):
            verify_inclusion(*given_)
    else:
        verify_inclusion(*given_)
        assert prove_inclusion(given_[1], given_[2], nodes_of(EIGHT[: given_[2]])) == given_[3]


@pytest.mark.parametrize("probe", probes("consistency"))
def test_consistency_probes(probe: dict[str, Any]) -> None:
    """The same for growing trees."""
    roots = (b64decode(probe["root1"] or ""), b64decode(probe["root2"] or ""))
    given_ = (probe["size1"], roots[0], probe["size2"], roots[1], hashes(probe["proof"]))
    if probe["wantErr"]:
        with pytest.raises(ProtocolError):
            verify_consistency(*given_)
    elif given_[2] <= len(EIGHT):
        verify_consistency(*given_)
        assert prove_consistency(given_[0], given_[2], nodes_of(EIGHT[: given_[2]])) == given_[4]


# --- the RFC, and another implementation ------------------------------------------------------------------------


@quick(100)
@given(SIZES, st.data())
def test_as_the_rfc_defines_it(size: int, data: st.DataObject) -> None:
    """Roots and both kinds of proofs, hash by hash."""
    entries = ENTRIES[:size]
    assert tree_root(size, NODES) == root_of(entries) == mth(entries)
    index = data.draw(st.integers(0, size - 1))
    assert prove_inclusion(index, size, NODES) == path(index, entries)
    old = data.draw(st.integers(1, size))
    assert prove_consistency(old, size, NODES) == subproof(old, entries, True)


@quick(100)
@given(SIZES, st.data())
def test_as_pymerkle_has_it(size: int, data: st.DataObject) -> None:
    """Its proofs verify here, ours verify there; its consistency proofs have another shape, so of those only roots."""
    tree = _pymerkle_tree()
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    root = tree.get_root(size)
    assert root == tree_root(size, NODES)
    theirs = tree.prove_inclusion(index + 1, size)
    assert theirs.path[0] == leaf_hash(ENTRIES[index])
    verify_inclusion(ENTRIES[index], index, size, theirs.path[1:], root)
    ours = prove_inclusion(index, size, NODES)
    proof = InclusionProof("sha256", True, size, index + 1, theirs.rule, [theirs.path[0], *ours])
    proof.verify(leaf_hash(ENTRIES[index]), root, index=index + 1, size=size)
    if ours:
        wrong = InclusionProof("sha256", True, size, index + 1, theirs.rule, [theirs.path[0], *ours[1:], ours[0]])
        if ours[1:]:
            with pytest.raises(InvalidProof):
                wrong.verify(leaf_hash(ENTRIES[index]), root, index=index + 1, size=size)
    verify_consistency(old, tree.get_root(old), size, root, prove_consistency(old, size, NODES))


_trees: list[Any] = []


def _pymerkle_tree() -> Any:
    if not _trees:
        tree = pymerkle.InmemoryTree(algorithm="sha256")
        tree.append_entries(ENTRIES)
        _trees.append(tree)
    return _trees[0]


# --- whatever somebody changes ----------------------------------------------------------------------------------


def flipped(value: bytes, bit: int) -> bytes:
    """One bit turned over."""
    place = bit % (8 * len(value))
    return value[: place // 8] + bytes([value[place // 8] ^ 1 << place % 8]) + value[place // 8 + 1 :]


@quick(150)
@given(SIZES, st.data())
def test_a_changed_inclusion_proof_is_refused(size: int, data: st.DataObject) -> None:
    """Every part of it: entry, index, size, path, root."""
    index = data.draw(st.integers(0, size - 1))
    proof, root = prove_inclusion(index, size, NODES), tree_root(size, NODES)
    entry, bit = ENTRIES[index], data.draw(st.integers(0, 1 << 16))
    verify_inclusion(entry, index, size, proof, root)
    wrong: list[tuple[bytes, int, int, list[bytes], bytes]] = [
        (flipped(entry, bit), index, size, proof, root),
        (entry, index, size, proof, flipped(root, bit)),
        (entry, index, size, [*proof, root], root),
        (entry, index, size, [root, *proof], root),
        (entry, -1, size, proof, root),
        (entry, size, size, proof, root),
        *((entry, index ^ 1 << place, size, proof, root) for place in range(10)),
    ]
    for place, item in enumerate(proof):
        changed = [*proof[:place], flipped(item, bit), *proof[place + 1 :]]
        wrong.append((entry, index, size, changed, root))
        wrong.append((entry, index, size, [*proof[:place], *proof[place + 1 :]], root))
        wrong.append((entry, index, size, [*proof[:place], item[:31], *proof[place + 1 :]], root))
        wrong.append((entry, index, size, [*proof[:place], item + b"\0", *proof[place + 1 :]], root))
    for arguments in wrong:
        with refused(Reason.PROOF_INVALID):
            verify_inclusion(*arguments)


@quick(150)
@given(SIZES, st.data())
def test_a_changed_consistency_proof_is_refused(size: int, data: st.DataObject) -> None:
    """Every part of it: both roots, both sizes, the path."""
    old = data.draw(st.integers(1, size))
    roots = (tree_root(old, NODES), tree_root(size, NODES))
    proof, bit = prove_consistency(old, size, NODES), data.draw(st.integers(0, 1 << 16))
    verify_consistency(old, roots[0], size, roots[1], proof)
    wrong: list[tuple[int, bytes, int, bytes, list[bytes]]] = [
        (old, flipped(roots[0], bit), size, roots[1], proof),
        (old, roots[0], size, flipped(roots[1], bit), proof),
        (old, roots[0], size, roots[1], [*proof, roots[1]]),
        (size + 1, roots[0], size, roots[1], proof),
        (-1, roots[0], size, roots[1], proof),
    ]
    if old < size:
        wrong.append((size, roots[0], old, roots[1], proof))
        wrong.append((old, roots[0], size, roots[1], []))
        wrong.append((old, roots[1], size, roots[1], []))
        # An honest tree has one size a root: the same proof for another old size must not do.
        wrong += [(other, roots[0], size, roots[1], proof) for other in range(1, size) if other != old]
    for place, item in enumerate(proof):
        wrong.append((old, roots[0], size, roots[1], [*proof[:place], flipped(item, bit), *proof[place + 1 :]]))
        wrong.append((old, roots[0], size, roots[1], [*proof[:place], *proof[place + 1 :]]))
        wrong.append((old, roots[0], size, roots[1], [*proof[:place], item[:31], *proof[place + 1 :]]))
    for arguments in wrong:
        with refused(Reason.PROOF_INVALID):
            verify_consistency(*arguments)


@quick(60)
@given(SIZES, st.data())
def test_a_rewritten_log_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    """One old entry is another: no proof of the new tree, and none of the old one, leads from the old root to it."""
    old = data.draw(st.integers(1, size))
    changed = list(ENTRIES[:size])
    changed[data.draw(st.integers(0, old - 1))] = b"rewritten"
    fork = nodes_of(changed)
    for proof in (prove_consistency(old, size, fork), prove_consistency(old, size, NODES)):
        with refused(Reason.PROOF_INVALID):
            verify_consistency(old, tree_root(old, NODES), size, tree_root(size, fork), proof)


def test_the_empty_tree() -> None:
    """It is the beginning of every tree, and has one root."""
    root = tree_root(5, NODES)
    assert prove_consistency(0, 5, NODES) == []
    verify_consistency(0, EMPTY_ROOT, 5, root, [])
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    for arguments in (
        (0, root, 5, root, []),
        (0, EMPTY_ROOT, 5, root, [root]),
        (0, EMPTY_ROOT, 0, root, []),
        (5, root, 5, EMPTY_ROOT, []),
    ):
        with refused(Reason.PROOF_INVALID):
            verify_consistency(*arguments)


def test_proofs_that_nobody_can_make() -> None:
    """Of leaves that are not there, or of a log that shrinks."""
    for index, size in ((-1, 5), (5, 5), (0, 0)):
        with refused(Reason.OUT_OF_RANGE):
            prove_inclusion(index, size, NODES)
    for old, new in ((-1, 5), (6, 5)):
        with refused(Reason.OUT_OF_RANGE):
            prove_consistency(old, new, NODES)


@pytest.mark.parametrize("size", [1 << 62, (1 << 62) - 1, (1 << 61) + 1])
def test_the_largest_trees(size: int) -> None:
    """Few nodes are read, and the proofs are within the limits."""
    asked: list[tuple[int, int]] = []

    def read(level: int, number: int) -> bytes:
        assert (number + 1) << level <= size, "not a complete node"
        asked.append((level, number))
        return node_hash(level.to_bytes(4, "big"), number.to_bytes(8, "big"))

    for index in (0, size // 3, size - 1):
        asked.clear()
        assert len(prove_inclusion(index, size, read)) <= PROOF_HASHES
        assert len(asked) <= 2 * PROOF_HASHES
    for old in (1, size // 3, size - 1):
        assert len(prove_consistency(old, size, read)) <= PROOF_HASHES + 1


# --- growing ----------------------------------------------------------------------------------------------------


@quick(60)
@given(SIZES, st.data())
def test_the_frontier_goes_on_from_anywhere(size: int, data: st.DataObject) -> None:
    """It tells every inner node when it is complete, once, and the root of each size."""
    start = data.draw(st.integers(0, size))
    frontier = Frontier(start, [NODES(level, number) for level, number in complete_nodes(0, start)])
    made: dict[tuple[int, int], bytes] = {}
    for number in range(start, size):
        for level, place, found in frontier.append(leaf_hash(ENTRIES[number])):
            assert (level, place) not in made
            made[level, place] = found
    assert frontier.size == size
    assert frontier.root() == tree_root(size, NODES)
    assert list(frontier.nodes) == [NODES(level, number) for level, number in complete_nodes(0, size)]
    complete = {
        (level, number) for level in range(1, 10) for number in range(size >> level) if start < (number + 1) << level
    }
    assert made.keys() == complete
    assert all(found == NODES(*where) for where, found in made.items())


def test_a_frontier_of_another_tree() -> None:
    """Counts its nodes."""
    with pytest.raises(ValueError, match="nodes at its edge"):
        Frontier(3, [EMPTY_ROOT])
