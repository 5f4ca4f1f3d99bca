"""What each recipient is sent: the granted reports of a batch, restricted to what was granted. Pure.

Guarantees: a delivery holds exactly the disclosures whose unit bits are in the grant, and the origin's signature still
verifies. Recipients with equal grants share the work and the bytes; each gets a statement of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from protocol.envelope import SignedReport, present, release
from protocol.grants import Commitment
from protocol.policy import HEADER
from protocol.sealing import SealedBox, trim
from protocol.statements import DeliveryItem, Opening, encode_items, items_digest

DELIVERY_BYTES: Final = 900_000
"""Items of one delivery message; with its statement it stays far below the bus's limit."""
DELIVERY_REPORTS: Final = 512


@dataclass(frozen=True, slots=True)
class Granted:
    """One report of a submission with the grants of its recipients."""

    seq: int
    report: SignedReport
    grants: Mapping[str, Sequence[int]]
    held: tuple[int, int]
    """The units that the report has: exact with the header, coarse."""
    box: SealedBox | None


def granted_report(
    seq: int, report: SignedReport, grants: Mapping[str, Sequence[int]], box: SealedBox | None
) -> Granted:
    """A report ready to be routed."""
    exact, coarse = report.units()
    return Granted(seq, report, grants, (exact | HEADER, coarse), box)


@dataclass(frozen=True, slots=True)
class Routed:
    """A submission with its granted reports."""

    jws: str
    received_at: datetime
    reports: Sequence[Granted]
    commitment: Commitment
    """What its receipt promises in the log."""


Entry = tuple[int, int, int]
"""(sequence number of the report, exact mask, coarse mask)"""


@dataclass(frozen=True, slots=True)
class Planned:
    """One delivery to one recipient."""

    member: str
    items: bytes
    digest: str
    """Of the items, as the statement names them."""
    entries: tuple[Entry, ...]
    grants: tuple[Opening, ...]
    """One an item: what of its submission was granted to this recipient, as the log has it."""


Cut = tuple[int, tuple[Entry, ...], str]
"""(index of the submission in the batch, what is granted of it, whose part of its boxes): equal cuts, equal bytes."""


class _Cutter:
    """Cuts submissions for recipients, once for each set of equal grants."""

    def __init__(self, batch: Sequence[Routed]) -> None:
        self._batch = batch
        self._items: dict[Cut, DeliveryItem] = {}
        self._encoded: dict[tuple[Cut, ...], tuple[bytes, str]] = {}

    def item(self, cut: Cut) -> DeliveryItem:
        found = self._items.get(cut)
        if found is None:
            routed = self._batch[cut[0]]
            reports = {granted.seq: granted for granted in routed.reports}
            parts = [release(reports[seq].report, exact, coarse) for seq, exact, coarse in cut[1]]
            boxes = [box for seq, _, _ in cut[1] if (box := reports[seq].box) is not None]
            found = DeliveryItem(
                sd_jwt=present(routed.jws, parts),
                received_at=routed.received_at,
                boxes=[trim(box, [cut[2]]).encode().decode("ascii") for box in boxes],
            )
            self._items[cut] = found
        return found

    def encode(self, cuts: tuple[Cut, ...]) -> tuple[bytes, str]:
        found = self._encoded.get(cuts)
        if found is None:
            data = encode_items([self.item(cut) for cut in cuts])
            found = self._encoded[cuts] = (data, items_digest(data))
        return found


def _cuts(batch: Sequence[Routed], member: str) -> Iterator[Cut]:
    """Grants are narrowed to the units that a report has, so that different policies with one effect share the work."""
    for number, routed in enumerate(batch):
        entries = tuple(
            (granted.seq, granted.grants[member][0] & granted.held[0], granted.grants[member][1] & granted.held[1])
            for granted in routed.reports
            if member in granted.grants
        )
        if entries:
            sealed = any(granted.box is not None and member in granted.grants for granted in routed.reports)
            yield number, entries, member if sealed else ""


def _messages(cuts: Iterable[Cut], cutter: _Cutter) -> Iterator[tuple[Cut, ...]]:
    """Cuts in groups that fit one message each."""
    group: list[Cut] = []
    size = count = 0
    for cut in cuts:
        item = cutter.item(cut)
        length = len(item.sd_jwt) + sum(map(len, item.boxes))
        if group and (size + length > DELIVERY_BYTES or count + len(cut[1]) > DELIVERY_REPORTS):
            yield tuple(group)
            group, size, count = [], 0, 0
        group.append(cut)
        size += length
        count += len(cut[1])
    if group:
        yield tuple(group)


def plan(batch: Sequence[Routed], members: Iterable[str]) -> list[Planned]:
    """The deliveries of a batch.

    Args:
        batch: submissions with their granted reports, in the order in which recipients shall get them.
        members: who receives over the bus; a coordinator without a node does not.
    """
    cutter = _Cutter(batch)
    return [
        Planned(
            member,
            *cutter.encode(cuts),
            tuple(entry for _, entries, _ in cuts for entry in entries),
            tuple(batch[number].commitment.opening(member) for number, _, _ in cuts),
        )
        for member in members
        for cuts in _messages(_cuts(batch, member), cutter)
    ]


_pack: Final = msgspec.msgpack.Encoder().encode
_entries: Final = msgspec.msgpack.Decoder(list[tuple[int, int, int]])


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """Entries as the ledger keeps them."""
    return _pack(entries)


def unpack_entries(data: bytes) -> list[Entry]:
    """Entries from the ledger."""
    return _entries.decode(data)
