"""What a node takes for its region: what the trustees have signed, up to the record that the broker names; no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.core import NodeCore
from node.trust import Trust
from protocol import registry
from protocol.errors import ConfigError, ProtocolError
from protocol.governance import Admit, Suspend, entry_of, open_record
from protocol.reasons import Reason
from protocol.registry import Head, Member, Region
from protocol.sealing import SealingKey
from tests.governing import by, following, genesis, govern, grow, head, invitation, trustee_key
from tests.node.looking import alarms
from tests.node.world import MEMBERS, RECORDS, START, Clock, key_of, make_core, member, record_of, region

NEWER = START + timedelta(seconds=1)
JOINED = region(2, (*MEMBERS, member("th-cert", "th")))


def document(shown: Region, records: list[str], at: Any = NEWER, named: Head | None = None) -> bytes:
    """What a broker signs: whatever it likes."""
    return registry.sign_region(shown, named or head(records), key_of("broker"), at).encode()


def refuses(trust: Trust, data: bytes, records: list[str]) -> ProtocolError:
    """The refusal; nothing has changed."""
    before = (trust.registry, trust.state, trust.issued_at, trust.digests)
    with pytest.raises(ProtocolError) as caught:
        trust.update(data, records)
    assert (trust.registry, trust.state, trust.issued_at, trust.digests) == before
    return caught.value


@pytest.fixture
def trust(clock: Clock) -> Trust:
    clock.pass_(minutes=1)
    return Trust.invited(invitation("id-cert", region(), key_of("broker"), START), clock)


def ghost(shown: Region) -> Region:
    return msgspec.structs.replace(shown, members=[*shown.members, member("gh-cert", "gh")])


def swapped(shown: Region) -> Region:
    keys = [SealingKey.generate().record(START, START + timedelta(days=30))]
    first = msgspec.structs.replace(shown.members[0], sealing_keys=keys)
    return msgspec.structs.replace(shown, members=[first, *shown.members[1:]])


def rekeyed(shown: Region) -> Region:
    first = msgspec.structs.replace(shown.members[0], keys=[record_of("stolen")])
    return msgspec.structs.replace(shown, members=[first, *shown.members[1:]])


LIES: list[Callable[[Region], Region]] = [
    ghost,
    swapped,
    rekeyed,
    lambda shown: msgspec.structs.replace(shown, members=shown.members[1:]),
    lambda shown: msgspec.structs.replace(
        shown, members=[msgspec.structs.replace(shown.members[0], status="suspended"), *shown.members[1:]]
    ),
    lambda shown: msgspec.structs.replace(
        shown, members=[msgspec.structs.replace(shown.members[0], roles=["coordinator"]), *shown.members[1:]]
    ),
    lambda shown: msgspec.structs.replace(shown, quorum=1),
    lambda shown: msgspec.structs.replace(shown, broker_keys=[*shown.broker_keys, record_of("another")]),
    lambda shown: msgspec.structs.replace(shown, region="elsewhere"),
]


@pytest.mark.parametrize("lie", LIES)
def test_a_region_that_nobody_has_signed_is_refused(trust: Trust, lie: Callable[[Region], Region]) -> None:
    """Whatever in it is not what the records lead to; also together with a change that they do lead to."""
    records = govern(region())
    assert refuses(trust, document(lie(region()), records), records).reason is Reason.REGION_NOT_GOVERNED
    more = grow(records, JOINED)
    assert refuses(trust, document(lie(JOINED), more), more).reason is Reason.REGION_NOT_GOVERNED
    assert trust.update(document(JOINED, more), more)
    assert "th-cert" in trust.registry.members


@pytest.mark.parametrize("lie", LIES[:3])
def test_an_invitation_is_held_to_the_same(lie: Callable[[Region], Region], clock: Clock) -> None:
    """Its region document, and its records."""
    good = invitation("id-cert", region(), key_of("broker"), START)
    for bad in (
        {"region": document(lie(region()), govern(region()), START).decode()},
        {"genesis": "A" * 43},
        {"governance": good.governance[:-1]},
        {"governance": good.governance[1:]},
    ):
        with pytest.raises(ConfigError, match="region-not-governed"):
            Trust.invited(msgspec.structs.replace(good, **bad), clock)


def test_the_head_is_where_the_region_follows_from(trust: Trust) -> None:
    """A record that is not here, another one under its number, and one that does not hold."""
    records = govern(region())
    more = grow(records, JOINED)
    assert refuses(trust, document(JOINED, more), records).reason is Reason.REGION_NOT_GOVERNED
    named = Head(number=len(more) - 1, digest="A" * 43)
    assert refuses(trust, document(JOINED, more, named=named), more).reason is Reason.REGION_NOT_GOVERNED
    act = Admit(member=member("th-cert", "th"), resembles=["id-cert", "my-cert", "sg-cert"])
    for signers in ([trustee_key("office-b")], [key_of("broker")], [trustee_key("office-b"), key_of("broker")]):
        forged = following(trust.state, act, *signers).decode()
        refusal = refuses(trust, document(JOINED, [*records, forged]), [*records, forged])
        assert refusal.reason is Reason.REGION_NOT_GOVERNED
        assert refusal.path.rpartition(".")[2] in {"too-few-signatures", "not-a-trustee"}
    assert refuses(trust, document(JOINED, more), [*records, "{}"]).reason is Reason.REGION_NOT_GOVERNED


def test_what_was_followed_is_never_exchanged(trust: Trust) -> None:
    """Neither for another record, which enough trustees have signed too, nor by going back behind it."""
    records = govern(region())
    one = following(trust.state, Suspend(member="my-cert"), *by("ministry-a", "office-b")).decode()
    cut = [msgspec.structs.replace(item, status="suspended") if item.id == "my-cert" else item for item in MEMBERS]
    assert trust.update(document(region(2, cut), [*records, one]), [*records, one])
    assert refuses(trust, document(region(3), records, NEWER + timedelta(seconds=1)), records).path == "$.head"
    other = grow(records, JOINED)
    late = NEWER + timedelta(seconds=2)
    assert refuses(trust, document(JOINED, other, late), other).reason is Reason.REGION_NOT_GOVERNED
    assert not trust.update(document(region(1), records, START), records), "an old one is no news, and no fault"


def test_records_beyond_the_head_wait_for_it(trust: Trust) -> None:
    """The broker may have taken one more since it signed the document."""
    records = govern(region())
    more = grow(records, JOINED)
    assert not trust.update(document(region(), records), more)
    assert "th-cert" not in trust.registry.members


# --- in the node ------------------------------------------------------------------------------------------------


@pytest.fixture
def core(tmp_path: Path, clock: Clock) -> Iterator[NodeCore]:
    made = make_core(tmp_path, clock)
    clock.pass_(minutes=1)
    yield made
    made.store.close()


def listed(records: list[str], after: int = -1) -> list[tuple[str, int]]:
    return [(text, RECORDS + number) for number, text in enumerate(records) if number > after]


def test_records_are_kept_and_looked_for_in_the_log(core: NodeCore) -> None:
    """Each with its leaf, once; what comes later is added."""
    records = govern(region())
    assert not core.take_region(document(region(), records), listed(records))
    assert core.governed_to() == len(records) - 1
    more = grow(records, JOINED)
    later = NEWER + timedelta(seconds=1)
    assert core.take_region(document(JOINED, more, later), listed(more, core.governed_to()))
    with core.store.read() as reads:
        rows = reads.governance()
        leaves = {row.name: row for row in reads.leaves_by("leaf", [row.leaf for row in rows])}
    assert [row.record for row in rows] == more
    assert all(leaves[row.digest].entry == entry_of(row.digest) for row in rows)
    assert {row.about for row in leaves.values()} == {"governance"}


def test_a_region_that_is_not_governed_rings(core: NodeCore) -> None:
    """One alarm, however often it is shown; nothing of it is kept, and the next true one is taken."""
    records = govern(region())
    for _ in range(3):
        with pytest.raises(ProtocolError):
            core.take_region(document(ghost(region()), records), listed(records))
    assert alarms(core) == ["region-not-governed"] * 3
    assert core.open_alarms() == {"region-not-governed": 1}
    assert core.governed_to() == -1
    more = grow(records, JOINED)
    with pytest.raises(ProtocolError):
        core.take_region(document(JOINED, more), listed(more)[::-1])
    assert core.take_region(document(JOINED, more, NEWER + timedelta(seconds=1)), listed(more))


def test_two_records_at_one_leaf_are_a_fork(core: NodeCore) -> None:
    """The log cannot hold both."""
    records = govern(region())
    same = [(text, RECORDS) for text in records]
    core.take_region(document(region(), records), same)
    assert set(alarms(core)) == {"log-forked"}


def test_the_founding_record_is_the_one_that_is_pinned(clock: Clock) -> None:
    """A broker that founds a region of the same name with itself as the trustee is believed by nobody."""
    good = invitation("id-cert", region(), key_of("broker"), START)
    trust = Trust.invited(good, clock)
    own = genesis(good.governance)
    assert trust.genesis == own == open_record(good.governance[0].encode()).digest
    assert isinstance(trust.registry.members["id-cert"], Member)
