"""What a receipt promises in the log: one entry a receipt, which its origin and each recipient can compute alone.

The receipt says in full who was granted what. Its entry commits to the receipt and, in a small tree, to each
recipient's part of it:

    entry = SHA-256("kentongan-receipt/v1" LF, SHA-256 of the receipt's JWS, root of the slots)
    slot  = SHA-256 of the JSON ["kentongan-grant/v1", salt, member, [[report, exact, coarse], ...]]

Slots are sorted, and filled up with decoys to a power of two, eight at least. Salts and decoys come from the receipt's
seed. So the origin computes the entry from the receipt; a recipient computes the same entry from its own slot and the
path to the root, which the broker must show it with the delivery (`Opening`); and nobody learns from an entry, a slot
or a path who else got the report, or that there was one. A broker that tells origin and recipient different grants
needs two entries at one index of the log.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from protocol.errors import ProtocolError
from protocol.keys import b64, unb64
from protocol.merkle import leaf_hash, node_hash, prove_inclusion
from protocol.reasons import Reason
from protocol.statements import Opening, Receipt, ReportGrant, statement_digest

SEED: Final = 16
"""Bytes of a receipt's seed."""
_FEWEST: Final = 8
_encode: Final = msgspec.json.Encoder().encode


def granted_in(receipt: Receipt) -> dict[str, list[ReportGrant]]:
    """Per recipient, the reports that it was granted and their masks, in the receipt's order.

    Raises:
        ProtocolError: the receipt points to a decision that it does not hold.
    """
    found: dict[str, list[ReportGrant]] = {}
    for report in receipt.reports:
        for member, index in report.to.items():
            if not 0 <= index < len(receipt.decisions):
                raise ProtocolError(Reason.OUT_OF_RANGE, "$.reports", "the receipt names a decision that it lacks")
            decision = receipt.decisions[index]
            if decision.granted:
                found.setdefault(member, []).append((report.digest, decision.exact, decision.coarse))
    return found


def _salt(seed: bytes, member: str) -> str:
    return b64(hmac.digest(seed, b"grant/" + member.encode("ascii"), "sha256"))


def _slot(salt: str, member: str, reports: Sequence[ReportGrant]) -> bytes:
    return hashlib.sha256(_encode(("kentongan-grant/v1", salt, member, reports))).digest()


def _entry(receipt: bytes, root: bytes) -> bytes:
    return hashlib.sha256(b"kentongan-receipt/v1\n" + receipt + root).digest()


@dataclass(frozen=True, slots=True)
class Commitment:
    """A receipt's entry, and the openings of it for its recipients."""

    entry: bytes
    leaf: int
    receipt: str
    _seed: bytes
    _granted: Mapping[str, Sequence[ReportGrant]]
    _numbers: Mapping[str, int]
    _levels: Sequence[Sequence[bytes]]

    def opening(self, member: str) -> Opening:
        """What shows a recipient that the entry holds its grants. KeyError if it has none."""
        number = self._numbers[member]
        levels = self._levels
        path = prove_inclusion(number, len(levels[0]), lambda level, place: levels[level][place])
        return Opening(
            leaf=self.leaf,
            receipt=self.receipt,
            salt=_salt(self._seed, member),
            slot=number,
            path=[b64(item) for item in path],
            reports=list(self._granted[member]),
        )


def commit(receipt: Receipt, jws: str) -> Commitment:
    """The log's entry for a receipt.

    Args:
        receipt: as signed in `jws`.

    Raises:
        ProtocolError: the receipt does not hold together.
    """
    try:
        seed = unb64(receipt.seed)
    except ValueError as exc:
        raise ProtocolError(Reason.INVALID_VALUE, "$.seed", "not base64url") from exc
    granted = granted_in(receipt)
    owners = {_slot(_salt(seed, member), member, reports): member for member, reports in granted.items()}
    size = max(_FEWEST, 1 << (len(owners) - 1).bit_length() if owners else 0)
    decoys = (hmac.digest(seed, b"decoy/%d" % number, "sha256") for number in range(size - len(owners)))
    slots = sorted([*owners, *decoys])
    levels = [[leaf_hash(slot) for slot in slots]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[place], below[place + 1]) for place in range(0, len(below), 2)])
    digest = statement_digest(jws)
    numbers = {owners[slot]: number for number, slot in enumerate(slots) if slot in owners}
    return Commitment(_entry(unb64(digest), levels[-1][0]), receipt.leaf, digest, seed, granted, numbers, levels)


def open_grant(opening: Opening, member: str) -> bytes:
    """The log's entry, as a recipient computes it from its own part.

    Nothing is proven by this alone: the entry must be shown to be in the log at `opening.leaf`.

    Raises:
        ProtocolError: the opening does not hold together.
    """
    try:
        path = [unb64(item) for item in opening.path]
        receipt = unb64(opening.receipt)
    except ValueError as exc:
        raise ProtocolError(Reason.MALFORMED_PROOF, "$.grants", "not base64url") from exc
    number = opening.slot
    found = leaf_hash(_slot(opening.salt, member, opening.reports))
    if not 0 <= number < 1 << len(path):
        raise ProtocolError(Reason.MALFORMED_PROOF, "$.grants.slot", "no slot of this tree")
    for item in path:
        found = node_hash(item, found) if number & 1 else node_hash(found, item)
        number >>= 1
    return _entry(receipt, found)
