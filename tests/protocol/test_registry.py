"""The region: who is in it, and that nobody but the broker says so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocol.errors import ConfigError
from protocol.jws import sign_jws
from protocol.policy import Pact, Recipient
from protocol.reasons import Reason
from protocol.registry import (
    TYP,
    Agreement,
    Group,
    Head,
    Member,
    Region,
    RegionDocument,
    Registry,
    as_recipient,
    open_region,
)
from protocol.statements import BROKER
from tests.governing import sign_region
from tests.protocol.make import DAY, GROUP, NOW, key_of, member, refused, region, registry, ring, uuid

PINNED = ring(BROKER)
STRAITS = Group(id=GROUP, name="Straits", jurisdictions=["id", "sg"])


def test_a_registry_looks_up_what_deciding_needs() -> None:
    """Members by id, keys with their owners, groups by id, jurisdictions."""
    found = registry(groups=[STRAITS])
    assert found.member("sg-cert").jurisdiction == "sg"
    assert found.keys.find(key_of("sg-cert").kid).owner == "sg-cert"
    assert found.keys.find(key_of(BROKER).kid).owner == BROKER
    assert found.circles.groups == {str(GROUP): frozenset({"id", "sg"})}
    assert found.jurisdictions == {"id", "sg", "my", "ph"}


def test_ids_are_unique() -> None:
    """Two members under one id are refused, whatever their jurisdictions."""
    with pytest.raises(ConfigError, match="id-cert is listed twice"):
        registry(member("id"), member("sg", id="id-cert"))


def test_the_brokers_id_is_reserved() -> None:
    """No member can be called as the broker signs."""
    with pytest.raises(ConfigError, match="broker is listed twice or is reserved"):
        registry(member("id", id=BROKER))


def test_no_key_has_two_owners() -> None:
    """A member cannot have the key of another, or the broker's."""
    for owner in ("id-cert", BROKER):
        stolen = key_of(owner).record(NOW, NOW + DAY)
        with pytest.raises(ConfigError, match="listed twice"):
            registry(member("id"), member("sg", keys=[stolen]))


def test_key_ids_are_thumbprints() -> None:
    """A member cannot claim the key id of another for a key of its own."""
    own = key_of("sg-cert").record(NOW, NOW + DAY)
    with pytest.raises(ConfigError, match="thumbprint"):
        registry(member("sg", keys=[msgspec.structs.replace(own, kid=key_of("id-cert").kid)]))


def test_groups_name_jurisdictions_that_exist() -> None:
    """A group with a stranger in it is refused: a typing error would share with nobody, or one day with somebody."""
    with pytest.raises(ConfigError, match="Straits: no member in th, vn"):
        registry(groups=[msgspec.structs.replace(STRAITS, jurisdictions=["id", "vn", "th"])])


def test_groups_are_unique() -> None:
    """Two groups under one id are refused: the later one would silently take over the reports of the first."""
    with pytest.raises(ConfigError, match=f"{GROUP} is listed twice"):
        registry(groups=[STRAITS, Group(id=GROUP, name="Wider", jurisdictions=["id", "sg", "my"])])
    assert len(registry(groups=[STRAITS, Group(id=uuid(1), name="Wider", jurisdictions=["my"])]).circles.groups) == 2


AID = Agreement(id="aid", title="Mutual aid", parties=["id", "sg"], effective_from=NOW, effective_until=NOW + DAY)


def test_agreements_are_looked_up() -> None:
    """An agreement is known by its id with its parties and its time."""
    found = registry(agreements=[AID]).circles.agreements
    assert found == {"aid": Pact(frozenset({"id", "sg"}), NOW, NOW + DAY)}


@pytest.mark.parametrize(
    ("agreements", "says"),
    [
        ([AID, AID], "agreement aid is listed twice"),
        ([msgspec.structs.replace(AID, parties=["id", "vn"])], "agreement aid: no member in vn"),
        ([msgspec.structs.replace(AID, parties=["id", "id"])], "agreement aid: an agreement has two parties"),
    ],
)
def test_inconsistent_agreements_are_refused(agreements: list[Agreement], says: str) -> None:
    """An agreement is there once and binds two or more jurisdictions that exist."""
    with pytest.raises(ConfigError, match=says):
        registry(agreements=agreements)


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ({}, None),
        ({"status": "suspended"}, Reason.MEMBER_SUSPENDED),
        ({"roles": ["recipient"]}, Reason.NOT_ALLOWED),
        ({"roles": ["coordinator"]}, Reason.NOT_ALLOWED),
        ({"roles": []}, Reason.NOT_ALLOWED),
    ],
)
def test_who_may_submit(given_: dict[str, Any], reason: Reason | None) -> None:
    """Only active members with the role submit."""
    found = registry(member("id", **given_))
    if reason is None:
        assert found.submitter("id-cert").id == "id-cert"
    else:
        with refused(reason):
            found.submitter("id-cert")


def test_strangers() -> None:
    """An id that no member has is refused."""
    for look_up in (registry().member, registry().submitter):
        with refused(Reason.UNKNOWN_MEMBER):
            look_up("th-cert")


def test_who_receives() -> None:
    """Recipients and coordinators receive; a suspended one is still listed, and marked for the region gate."""
    found = registry(
        member("id", roles=["submitter"]), member("sg", status="suspended"), member("my", roles=["coordinator"])
    )
    assert [item.id for item in found.recipients()] == ["sg-cert", "my-cert"]
    assert found.coordinator() == found.member("my-cert")
    assert registry().coordinator() is None
    assert as_recipient(found.member("id-cert")) == Recipient("id", active=True, receives=False)
    assert as_recipient(found.member("sg-cert")) == Recipient("sg", active=False, receives=True)
    assert as_recipient(found.member("my-cert")) == Recipient("my", active=True, receives=True)


# --- the signed document ----------------------------------------------------------------------------------------


def test_a_region_travels_signed() -> None:
    """What the broker signs a node opens, with the time of issue; transport keys stay at the broker."""
    given_ = region(member("id", transport="U" + "A" * 55), member("sg"), groups=[STRAITS])
    opened = open_region(sign_region(given_, key_of(BROKER), NOW), PINNED, NOW)
    found, issued_at = opened.registry, opened.issued_at
    assert issued_at == NOW
    assert found.member("id-cert").transport is None
    assert found.region.groups == given_.groups
    assert found.member("sg-cert") == given_.members[1]


def test_only_the_pinned_key_counts() -> None:
    """A region signed by any other key is refused, even if the document lists that key as the broker's."""
    other = region(broker_keys=[key_of("stranger").record(NOW - DAY, NOW + DAY)])
    with refused(Reason.UNKNOWN_KEY):
        open_region(sign_region(other, key_of("stranger"), NOW), PINNED, NOW)


def test_a_member_never_speaks_for_the_region() -> None:
    """Even where members' keys are known too, only the broker says who is in the region."""
    with refused(Reason.WRONG_MEMBER, "$.iss"):
        open_region(sign_region(region(), key_of("id-cert"), NOW), ring(BROKER, "id-cert"), NOW)
    nowhere = Head(number=0, digest="A" * 43)
    forged = RegionDocument(iss="id-cert", issued_at=NOW, head=nowhere, region=region())
    with refused(Reason.WRONG_MEMBER, "$.iss"):
        open_region(sign_jws(TYP, msgspec.json.encode(forged), key_of(BROKER)), PINNED, NOW)


def test_the_pinned_key_has_a_window() -> None:
    """A region document is refused outside the window of the pinned key."""
    jws = sign_region(region(), key_of(BROKER), NOW)
    with refused(Reason.KEY_NOT_VALID):
        open_region(jws, PINNED, NOW + DAY)
    with refused(Reason.KEY_REVOKED):
        open_region(jws, ring(BROKER, revoked_at=NOW), NOW)


def test_an_inconsistent_region_is_refused() -> None:
    """What an operator may not write a broker may not send: it is the peer's fault then."""
    with refused(Reason.INVALID_VALUE, "$.region"):
        open_region(sign_region(region(member("id"), member("id")), key_of(BROKER), NOW), PINNED, NOW)


@pytest.mark.parametrize("jws", ["", "a.b.c", "\u00e9.\u00e9.\u00e9"])
def test_malformed_region_documents(jws: str) -> None:
    """Anything else is refused as a ProtocolError."""
    with refused(Reason.MALFORMED_ENVELOPE):
        open_region(jws, PINNED, NOW)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": "x"}, "$.id"),
        ({"id": "id-cert\n"}, "$.id"),
        ({"id": "id.cert"}, "$.id"),
        ({"id": "*"}, "$.id"),
        ({"transport": "A" * 56}, "$.transport"),
    ],
)
def test_member_ids_fit_in_subjects(change: dict[str, Any], path: str) -> None:
    """A member id that could address more than itself, or that no report could name, is refused where it is read."""
    plain = {**msgspec.to_builtins(member("id")), **change}
    with pytest.raises(msgspec.ValidationError, match=path.replace("$", r"\$")):
        msgspec.convert(plain, Member)


def test_members_can_submit_and_receive_by_default() -> None:
    """A member without roles in its entry has both, and none of them shares the list with another."""
    one, two = (msgspec.convert({"id": f"m{n}", "jurisdiction": "id", "name": "x"}, Member) for n in (1, 2))
    assert one.roles == two.roles == ["submitter", "recipient"]
    assert one.roles is not two.roles


def test_a_region_survives_the_wire() -> None:
    """A region is the same after encoding and decoding, and consistent still."""
    given_ = region(groups=[STRAITS], agreements=[AID])
    again = msgspec.json.decode(msgspec.json.encode(given_), type=Region)
    assert again == given_
    assert Registry(again).jurisdictions == Registry(given_).jurisdictions
