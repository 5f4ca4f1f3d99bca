"""The entry of a receipt: origin and recipients compute the same one, and nobody can be told something else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from protocol.errors import ProtocolError
from protocol.grants import commit, granted_in, open_grant
from protocol.statements import BROKER, Decision, Opening, Receipt, ReportReceipt, sign_statement
from tests.protocol.make import NOW, key_of

DIGESTS = ["A" * 42 + end for end in "AEIM"]


def receipt_for(members: int, reports: int = 2, seed: str = "A" * 22) -> Receipt:
    """A receipt that grants every report to that many members, and one report to nobody."""
    decisions = [Decision(granted=True, exact=1 + 2 * number, coarse=4) for number in range(members)]
    to = {f"m{number}-cert": number for number in range(members)} | {"denied-cert": members}
    return Receipt(
        iss=BROKER,
        aud="id-cert",
        received_at=NOW,
        submission=DIGESTS[0],
        leaf=5,
        seed=seed,
        decisions=[*decisions, Decision(granted=False)],
        reports=[ReportReceipt(digest=digest, outcome="accepted", to=to) for digest in DIGESTS[:reports]],
    )


def signed(receipt: Receipt) -> str:
    return sign_statement(receipt, key_of(BROKER))


@pytest.mark.parametrize("members", [0, 1, 2, 7, 8, 9, 40])
def test_everybody_computes_the_same_entry(members: int) -> None:
    """The origin from the receipt, each recipient from its own part alone."""
    receipt = receipt_for(members)
    commitment = commit(receipt, signed(receipt))
    assert len(commitment.entry) == 32
    for member in granted_in(receipt):
        opening = commitment.opening(member)
        assert open_grant(opening, member) == commitment.entry
        assert opening.reports == granted_in(receipt)[member]
        assert opening.leaf == receipt.leaf
    assert sorted(granted_in(receipt)) == sorted(f"m{number}-cert" for number in range(members))


def test_a_recipient_does_not_learn_how_many_others_there_are() -> None:
    """Up to eight recipients, every path is as long; and where a slot stands says nothing about who else is there."""
    lengths = set()
    for members in range(1, 9):
        receipt = receipt_for(members)
        lengths.add(len(commit(receipt, signed(receipt)).opening("m0-cert").path))
    assert lengths == {3}
    places = {
        commit(receipt, signed(receipt)).opening("m0-cert").slot
        for receipt in (receipt_for(1, seed=letter + "A" * 21) for letter in "abcdefghijklmnopqrstuvwxyz")
    }
    assert len(places) > 4


@pytest.mark.parametrize(
    "change",
    [
        {"leaf": 6},
        {"seed": "B" + "A" * 21},
        {"submission": DIGESTS[1]},
        {"decisions": [Decision(granted=True, exact=3), Decision(granted=True, exact=1), Decision(granted=False)]},
        {"reports": [ReportReceipt(digest=DIGESTS[0], outcome="accepted", to={"m0-cert": 0})]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_receipt_has_another_entry(change: dict[str, Any]) -> None:
    """A receipt that was changed after it was logged does not lead to the same leaf."""
    first = receipt_for(2)
    second = msgspec.structs.replace(first, **change)
    assert commit(first, signed(first)).entry != commit(second, signed(second)).entry


def test_a_recipient_cannot_be_told_other_grants() -> None:
    """Whatever of an opening is changed, or shown to another member, it leads to another entry or to none."""
    receipt = receipt_for(3)
    commitment = commit(receipt, signed(receipt))
    opening = commitment.opening("m1-cert")
    changed = [
        msgspec.structs.replace(
            opening, reports=[(digest, exact | 2**20, coarse) for digest, exact, coarse in opening.reports]
        ),
        msgspec.structs.replace(opening, reports=opening.reports[:1]),
        msgspec.structs.replace(opening, reports=opening.reports[::-1]),
        msgspec.structs.replace(opening, salt=DIGESTS[0]),
        msgspec.structs.replace(opening, receipt=DIGESTS[0]),
        msgspec.structs.replace(opening, slot=opening.slot ^ 1),
        msgspec.structs.replace(opening, path=opening.path[::-1]),
        msgspec.structs.replace(opening, path=[DIGESTS[0], *opening.path[1:]]),
    ]
    for number, other in enumerate(changed):
        assert open_grant(other, "m1-cert") != commitment.entry, number
    assert open_grant(opening, "m2-cert") != commitment.entry


@pytest.mark.parametrize("slot", [8, 100])
def test_a_slot_outside_the_tree_is_refused(slot: int) -> None:
    """Else the bits beyond the path would be ignored, and one entry had many openings."""
    receipt = receipt_for(1)
    opening = commit(receipt, signed(receipt)).opening("m0-cert")
    with pytest.raises(ProtocolError, match="malformed-proof"):
        open_grant(msgspec.structs.replace(opening, slot=slot), "m0-cert")


@given(some.text(max_size=50), some.lists(some.text(max_size=50), max_size=5))
def test_nonsense_is_refused_with_a_reason(receipt: str, path: list[str]) -> None:
    """An opening from a hostile broker raises ProtocolError and nothing else."""
    opening = Opening(leaf=0, receipt=receipt, salt="x", slot=0, path=path, reports=[(DIGESTS[0], 1, 0)])
    with suppress(ProtocolError):
        assert len(open_grant(opening, "m0-cert")) == 32


def test_a_receipt_that_points_nowhere_is_refused() -> None:
    """An index beyond the table of decisions."""
    receipt = receipt_for(1, reports=1)
    broken = msgspec.structs.replace(receipt, decisions=[])
    with pytest.raises(ProtocolError, match="out-of-range"):
        commit(broken, signed(broken))


def test_a_seed_that_is_none_is_refused() -> None:
    """The type limits its length; its alphabet is checked here."""
    broken = receipt_for(1, seed="*" * 22)
    with pytest.raises(ProtocolError, match="invalid-value"):
        commit(broken, signed(broken))
