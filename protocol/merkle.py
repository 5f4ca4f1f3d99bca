"""The Merkle tree of the log: RFC 6962 hashes, inclusion and consistency proofs (RFC 9162, sections 2.1.3 and 2.1.4).

Guarantees: pure functions over SHA-256 hashes; verifying uses the algorithms of RFC 9162 and shares no code with
proving, so that a fault in one does not hide in the other; a proof that is too short, too long or for another tree is
refused with `ProtocolError`. Proving reads stored nodes through one function and touches O(log n) of them.

A node of the tree is named (level, number): level 0 are the leaves' hashes, node n of level l covers the leaves
n * 2**l up to (n + 1) * 2**l. Only nodes that cover leaves of the tree alone ("complete" ones) are ever asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from protocol.errors import ProtocolError
from protocol.reasons import Reason

HASH: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of the tree without leaves."""
MOST_LEAVES: Final = 1 << 62
PROOF_HASHES: Final = 63
"""No inclusion proof is longer; consistency proofs may have one more."""

NodeReader = Callable[[int, int], bytes]
"""Gives the hash of a complete node (level, number)."""

_sha256: Final = hashlib.sha256


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf over its entry."""
    return _sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return _sha256(b"\x01" + left + right).digest()


def _largest_power_below(size: int) -> int:
    """The largest power of two that is smaller than `size`, which is 2 or more."""
    return 1 << ((size - 1).bit_length() - 1)


def complete_nodes(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The fewest complete nodes that cover the leaves `start` to `end`, from left to right.

    `start` is where a subtree of a tree with `end` leaves or more begins: 0, or a multiple of a power of two that the
    range does not exceed.
    """
    while start < end:
        room = end - start
        level = room.bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level, start >> level
        start += 1 << level


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over complete nodes from left to right, each covering less than the one before or as much."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def range_root(start: int, end: int, read: NodeReader) -> bytes:
    """The hash of the subtree over the leaves `start` to `end`."""
    return fold([read(level, number) for level, number in complete_nodes(start, end)])


def tree_root(size: int, read: NodeReader) -> bytes:
    """The root of the tree with that many leaves."""
    return range_root(0, size, read)


def root_of(entries: Iterable[bytes]) -> bytes:
    """The root over entries in memory, for small trees."""
    frontier = Frontier()
    for entry in entries:
        frontier.append(leaf_hash(entry))
    return frontier.root()


class Frontier:
    """The right edge of a growing tree: appending a leaf costs two hashes on average, whatever the size.

    Args:
        size: leaves that there are already.
        nodes: the hashes of `complete_nodes(0, size)`.
    """

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        self.size = size
        self._nodes = list(nodes)
        if len(self._nodes) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} nodes at its edge")

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add a leaf's hash; returns the inner nodes that became complete, as (level, number, hash), lowest first."""
        made: list[tuple[int, int, bytes]] = []
        number = self.size
        level = 0
        found = leaf
        while number & 1:
            found = node_hash(self._nodes.pop(), found)
            number >>= 1
            level += 1
            made.append((level, number, found))
        self._nodes.append(found)
        self.size += 1
        return made

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        return fold(self._nodes)

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The hashes at the edge, for starting again."""
        return tuple(self._nodes)


# --- proving ----------------------------------------------------------------------------------------------------


def prove_inclusion(index: int, size: int, read: NodeReader) -> list[bytes]:
    """The inclusion proof of a leaf in the tree of that size (RFC 9162, section 2.1.3.1).

    Raises:
        ProtocolError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.index", f"the log has {size} leaves")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _largest_power_below(end - start)
        if index < middle:
            proof.append(range_root(middle, end, read))
            end = middle
        else:
            proof.append(range_root(start, middle, read))
            start = middle
    proof.reverse()
    return proof


def prove_consistency(old: int, new: int, read: NodeReader) -> list[bytes]:
    """The proof that the tree of size `new` begins with the tree of size `old` (RFC 9162, section 2.1.4.1).

    Raises:
        ProtocolError: `old` is greater than `new`.
    """
    if not 0 <= old <= new:
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.size", f"the log has {new} leaves")
    if old in (0, new):
        return []
    proof: list[bytes] = []
    start, end = 0, new
    whole = True
    """Whether the old tree is, so far, a subtree of the path: then its hash is known to the verifier."""
    while old != end:
        middle = start + _largest_power_below(end - start)
        if old <= middle:
            proof.append(range_root(middle, end, read))
            end = middle
        else:
            proof.append(range_root(start, middle, read))
            start = middle
            whole = False
    if not whole:
        proof.append(range_root(start, end, read))
    proof.reverse()
    return proof


# --- verifying --------------------------------------------------------------------------------------------------


def _refuse(detail: str) -> ProtocolError:
    return ProtocolError(Reason.PROOF_INVALID, "$.proof", detail)


def verify_inclusion(entry: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the entry is the leaf at `index` of the tree (RFC 9162, section 2.1.3.2).

    Raises:
        ProtocolError: it is not, or this does not prove it.
    """
    if not 0 <= index < size <= MOST_LEAVES:
        raise _refuse("no leaf of this tree")
    fn, sn = index, size - 1
    found = leaf_hash(entry)
    for item in proof:
        if len(item) != HASH or sn == 0:
            raise _refuse("the proof is too long")
        if fn & 1 or fn == sn:
            found = node_hash(item, found)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            found = node_hash(found, item)
        fn >>= 1
        sn >>= 1
    if sn != 0 or found != root:
        raise _refuse("the entry is not in the tree at this index")


def verify_consistency(  # noqa: C901 - the algorithm of the RFC in one piece, to be compared with it
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the new tree is the old one with leaves added (RFC 9162, section 2.1.4.2).

    Raises:
        ProtocolError: it is not, or this does not prove it.
    """
    if not 0 <= old <= new <= MOST_LEAVES:
        raise _refuse("a log does not shrink")
    if old in (0, new):
        expected = EMPTY_ROOT if old == 0 else new_root
        if proof or old_root != expected or (new == 0 and new_root != EMPTY_ROOT):
            raise _refuse("two roots for one size")
        return
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path or len(path[0]) != HASH:
        raise _refuse("the proof is empty, or is none")
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    first = second = path[0]
    for item in path[1:]:
        if len(item) != HASH or sn == 0:
            raise _refuse("the proof is too long")
        if fn & 1 or fn == sn:
            first = node_hash(item, first)
            second = node_hash(item, second)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            second = node_hash(second, item)
        fn >>= 1
        sn >>= 1
    if sn != 0 or first != old_root or second != new_root:
        raise _refuse("the new tree does not begin with the old one")
