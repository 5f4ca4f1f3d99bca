"""Regions with trustees, for tests: whatever a test says that a region is, as records that lead there.

`grow` compares a region with what a chain leads to, and adds the records that are missing, signed by two of three.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec

from broker.governing import close
from protocol import registry
from protocol.chain import apply, fold
from protocol.enact import State
from protocol.errors import ConfigError, ProtocolError
from protocol.governance import (
    Act,
    Admit,
    Agree,
    Describe,
    Dissolve,
    Expel,
    FormGroup,
    Found,
    Keys,
    Record,
    Resume,
    Roles,
    SetBrokerKeys,
    SetQuorum,
    Suspend,
    Trustee,
    draft,
    open_record,
    sign_record,
)
from protocol.invitation import Invitation
from protocol.keys import Signer, SigningKey
from protocol.registry import Head, Member, Region

NOW = datetime(2020, 1, 1, tzinfo=UTC)
"""When these regions are founded: before anything that a test does."""
LATER = datetime(9000, 1, 1, tzinfo=UTC)
NAMES = ("ministry-a", "office-b", "agency-c")


def trustee_key(name: str) -> SigningKey:
    """The fixed key of a trustee."""
    return SigningKey.from_seed(hashlib.sha256(f"kentongan test trustee {name}".encode()).digest())


def trustee(name: str, **changes: Any) -> Trustee:
    """A trustee of a name, whose key is valid for a long time."""
    record = trustee_key(name).record(NOW - timedelta(days=1), NOW + timedelta(days=36_500))
    return Trustee(**{"id": name, "name": f"The trustee {name}", "key": record, **changes})


TRUSTEES = [trustee(name) for name in NAMES]


def signed(record: Record, *signers: Signer) -> bytes:
    """A record with the signatures of these."""
    data = draft(record)
    for signer in signers:
        data = sign_record(data, signer)
    return data


def by(*names: str) -> list[SigningKey]:
    """The keys of these trustees."""
    return [trustee_key(name) for name in names]


def founding(region: Region) -> bytes:
    """The founding record of a region, two of three to decide."""
    act = Found(trustees=TRUSTEES, threshold=2, broker_keys=list(region.broker_keys))
    return signed(Record(region=region.region, number=0, previous="", at=NOW, act=act), *by(*NAMES))


def following(state: State, act: Act, *signers: Signer, at: datetime | None = None) -> bytes:
    """The next record after a state."""
    number, previous = state.head.number + 1, state.head.digest
    record = Record(region=state.region.region, number=number, previous=previous, at=at or state.at, act=act)
    return signed(record, *signers)


def _about(member: Member, told: Member | None, others: list[str]) -> Iterator[Act]:
    name = member.id
    if told is None:
        yield Admit(member=msgspec.structs.replace(member, status="active"), resembles=others)
        told = msgspec.structs.replace(member, status="active")
    if (told.keys, told.sealing_keys) != (member.keys, member.sealing_keys):
        yield Keys(member=name, keys=member.keys, sealing_keys=member.sealing_keys)
    if told.roles != member.roles:
        yield Roles(member=name, roles=member.roles)
    if told.name != member.name:
        yield Describe(member=name, name=member.name, resembles=others)
    if told.status != member.status:
        yield Suspend(member=name) if member.status == "suspended" else Resume(member=name)


def _missing(state: State, region: Region) -> Iterator[Act]:
    there = {member.id: member for member in state.region.members}
    wanted = {member.id for member in region.members}
    if state.region.broker_keys != region.broker_keys:
        yield SetBrokerKeys(broker_keys=list(region.broker_keys))
    if state.region.quorum != region.quorum:
        yield SetQuorum(quorum=region.quorum)
    for group in state.region.groups:
        if group not in region.groups:
            yield Dissolve(group=str(group.id))
    # A member that comes back is another one for these purposes: its jurisdiction cannot change.
    seen = {*there, *state.former}
    for member in region.members:
        known = there.get(member.id)
        if known is not None and (known.jurisdiction, known.transport) != (member.jurisdiction, member.transport):
            yield Expel(member=member.id)
            known = None
        yield from _about(member, known, sorted(seen - {member.id}))
        seen.add(member.id)
    for name in there:
        if name not in wanted:
            yield Expel(member=name)
    for group in region.groups:
        if group not in state.region.groups:
            yield FormGroup(group=group)
    for agreement in region.agreements:
        if agreement not in state.region.agreements:
            yield Agree(agreement=agreement)


def grow(
    records: Sequence[str], region: Region, hidden: Mapping[str, list[str]] | None = None, carrier: Signer | None = None
) -> list[str]:
    """The records, and those that lead from there to this region. The founding record, if there are none.

    Args:
        hidden: by hidden member, those that see it.
        carrier: closes what only some may see; without it, groups are formed for all to see.
    """
    chain = list(records) or [founding(region).decode("ascii")]
    state = fold((text.encode("ascii") for text in chain), open_record(chain[0].encode("ascii")).digest, LATER)
    for wanted in _missing(state, region):
        act = wanted
        if isinstance(act, Admit) and hidden:
            others = [one for one in act.resembles if one not in hidden]
            act = Admit(member=act.member, resembles=others, seen_by=hidden.get(act.member.id))
        data = following(state, act, *by("ministry-a", "office-b"))
        if carrier is not None:
            data = close(
                state, data, region.broker_keys[0].not_before, lambda: carrier, Random(state.head.number).randbytes
            )
        state = apply(state, open_record(data), LATER)
        chain.append(data.decode("ascii"))
    return chain


def govern(region: Region) -> list[str]:
    """Records that lead to this region from nothing."""
    return grow([], region)


def genesis(records: Sequence[str]) -> str:
    """The digest of the founding record."""
    return open_record(records[0].encode("ascii")).digest


def head(records: Sequence[str]) -> Head:
    """Of the newest record."""
    return open_record(records[-1].encode("ascii")).head


def sign_region(region: Region, signer: Signer, now: datetime, records: Sequence[str] | None = None) -> str:
    """A region document as a broker signs it, over these records or over those that lead to the region.

    One that no records lead to, since it does not hold together, names a record that there is not.
    """
    try:
        named = head(records or govern(region))
    except (ConfigError, ProtocolError):
        named = Head(number=0, digest="A" * 43)
    return registry.sign_region(region, named, signer, now)


def invitation(member: str, region: Region, signer: Signer, now: datetime, **changes: Any) -> Invitation:
    """What a broker hands to a member."""
    records = govern(region)
    given = {
        "url": "nats://127.0.0.1:1",
        "user_jwt": "x",
        "broker_keys": list(region.broker_keys),
        "region": sign_region(region, signer, now, records),
        "genesis": genesis(records),
        "governance": records,
    }
    return Invitation(member=member, **{**given, **changes})


def closing(state: State, act: Act, *signers: Signer, carrier: Signer, rand: Callable[[int], bytes]) -> bytes:
    """The next record after a state as a broker takes it: closed, if only some may see it."""
    return close(state, following(state, act, *signers), state.at, lambda: carrier, rand)
