"""Who may change who is in the region: every rule of authority, every refusal, and that nothing less ever suffices."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits, natsauth
from protocol.chain import apply, fold, found
from protocol.enact import State
from protocol.errors import ProtocolError
from protocol.governance import (
    Act,
    Admit,
    Agree,
    Coordinate,
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
    SetTrustees,
    Suspend,
    Terminate,
    Trustee,
    draft,
    entry_of,
    open_record,
    sign_record,
)
from protocol.keys import SigningKey, b64, unb64
from protocol.lookalike import skeleton
from protocol.reasons import Reason
from protocol.registry import Agreement, Group, Member
from protocol.sealing import SealingKey
from tests.governing import NAMES, NOW, TRUSTEES, by, following, founding, signed, trustee, trustee_key
from tests.protocol.make import DAY, Rand, key_of, member, refused, region

TWO = ("ministry-a", "office-b")
LATER = NOW + timedelta(days=400)
WINDOW = (NOW - DAY, NOW + 900 * DAY)
GROUP = UUID("00000000-0000-4000-8000-000000000001")


def joining(jurisdiction: str, **changes: Any) -> Member:
    """A member with its key, valid when these regions are founded."""
    return member(jurisdiction, keys=[key_of(f"{jurisdiction}-cert").record(*WINDOW)], **changes)


def began(*members: Member) -> State:
    """A region with these members."""
    first = founding(region(broker_keys=[key_of("broker").record(*WINDOW)]))
    state = found(open_record(first), LATER)
    for one in members:
        state = after(state, Admit(member=one), *by(*TWO))
    return state


def after(state: State, act: Act, *signers: SigningKey, at: datetime | None = None) -> State:
    """The state after an act that these have signed."""
    return apply(state, open_record(following(state, act, *signers, at=at)), LATER)


@pytest.fixture
def state() -> State:
    return began(joining("id"), joining("sg"))


# --- the founding and the order ---------------------------------------------------------------------------------


def test_a_chain_leads_to_a_region() -> None:
    """From the founding record that is pinned; each record at its place."""
    first = founding(region())
    state = found(open_record(first), LATER)
    second = following(state, Admit(member=joining("id")), *by(*TWO))
    told = fold([first, second], open_record(first).digest, LATER)
    assert [one.id for one in told.region.members] == ["id-cert"]
    assert (told.head.number, told.head.digest) == (1, open_record(second).digest)
    with refused(Reason.REGION_NOT_GOVERNED, "$[0]"):
        fold([first, second], open_record(second).digest, LATER)
    with refused(Reason.EMPTY, "$"):
        fold([], open_record(first).digest, LATER)
    with refused(Reason.RECORD_OUT_OF_ORDER, "$[0].number"):
        fold([second], open_record(second).digest, LATER)


@pytest.mark.parametrize("missing", NAMES)
def test_all_trustees_sign_the_founding(missing: str) -> None:
    """Nobody becomes a trustee without having said so."""
    act = open_record(founding(region())).record
    data = signed(act, *by(*(name for name in NAMES if name != missing)))
    with refused(Reason.TOO_FEW_SIGNATURES, "$.signatures"):
        found(open_record(data), LATER)


def test_one_more_signature_makes_no_other_record(state: State) -> None:
    """A record is named by what it says."""
    record = following(state, Admit(member=joining("my")), *by(*TWO))
    more = sign_record(record, trustee_key("agency-c"))
    assert open_record(more).digest == open_record(record).digest
    assert len(open_record(more).signatures) == 3
    assert sign_record(more, trustee_key("agency-c")) == more, "twice is once"
    assert apply(state, open_record(more), LATER) == apply(state, open_record(record), LATER)


def test_what_stands_in_the_log(state: State) -> None:
    """By hashlib alone, over the payload's bytes."""
    data = following(state, Suspend(member="id-cert"), *by("office-b"))
    payload = msgspec.json.decode(data)["payload"]
    name = hashlib.sha256(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))).digest()
    assert unb64(open_record(data).digest) == name
    assert entry_of(open_record(data).digest) == hashlib.sha256(b"kentongan-governance/v1\n" + name).digest()


def test_a_replayed_join_is_refused(state: State) -> None:
    """The same record again, and one that was signed for another place."""
    record = following(state, Admit(member=joining("my")), *by(*TWO))
    grown = apply(state, open_record(record), LATER)
    with refused(Reason.RECORD_OUT_OF_ORDER, "$.number"):
        apply(grown, open_record(record), LATER)
    gone = after(grown, Expel(member="my-cert"), *by(*TWO))
    with refused(Reason.RECORD_OUT_OF_ORDER, "$.number"):
        apply(gone, open_record(record), LATER)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"region": "elsewhere"}, "$.region"),
        ({"number": 4}, "$.number"),
        ({"number": 2}, "$.number"),
        ({"previous": "A" * 43}, "$.previous"),
        ({"previous": ""}, "$.previous"),
        ({"at": NOW - timedelta(seconds=1)}, "$.at"),
    ],
)
def test_a_record_that_does_not_follow(state: State, change: dict[str, Any], path: str) -> None:
    """Another region, number or predecessor, or a time that goes back."""
    record = open_record(following(state, Suspend(member="id-cert"))).record
    data = signed(msgspec.structs.replace(record, **change), *by(*TWO))
    with refused(Reason.RECORD_OUT_OF_ORDER, path):
        apply(state, open_record(data), LATER)


def test_a_record_from_the_future_is_refused(state: State) -> None:
    """Or a single trustee could date one so that nothing can ever follow it."""
    act = Suspend(member="id-cert")
    ahead = LATER + limits.CLOCK_SKEW
    assert after(state, act, *by("office-b"), at=ahead)
    with refused(Reason.TIME_IN_FUTURE, "$.at"):
        after(state, act, *by("office-b"), at=ahead + timedelta(microseconds=1))


# --- who may sign what ------------------------------------------------------------------------------------------


def keys_of(state: State, name: str, **changes: Any) -> Keys:
    """A member's keys as they are, but for the changes."""
    one = state.member(name)
    return Keys(member=name, **{"keys": one.keys, "sealing_keys": one.sealing_keys, **changes})


def revoked(state: State, name: str, at: datetime = NOW) -> Keys:
    """All signing keys of a member count no more."""
    keys = [msgspec.structs.replace(key, revoked_at=at) for key in state.member(name).keys]
    return keys_of(state, name, keys=keys)


def more(state: State, name: str) -> Keys:
    """A member has one more key."""
    return keys_of(state, name, keys=[*state.member(name).keys, key_of("a new key").record(*WINDOW)])


PACT = Agreement(id="aid", title="Aid", parties=["id", "sg"], effective_from=NOW)
GIVING: list[Callable[[State], Act]] = [
    lambda _: Admit(member=joining("my")),
    lambda _: Expel(member="id-cert"),
    lambda _: Roles(member="id-cert", roles=["recipient"]),
    lambda _: Coordinate(member="id-cert"),
    lambda _: Describe(member="id-cert", name="Another name"),
    lambda s: more(s, "id-cert"),
    lambda s: keys_of(s, "id-cert", keys=[]),
    lambda s: keys_of(s, "id-cert", keys=[key_of("id-cert").record(NOW - DAY, NOW + 901 * DAY)]),
    lambda _: FormGroup(group=Group(id=GROUP, name="Straits", jurisdictions=["id", "sg"])),
    lambda _: Agree(agreement=PACT),
    lambda _: SetTrustees(trustees=TRUSTEES, threshold=1),
    lambda _: SetBrokerKeys(broker_keys=[key_of("another broker").record(*WINDOW)]),
    lambda _: SetQuorum(quorum=1),
]
TAKING: list[Callable[[State], Act]] = [
    lambda _: Suspend(member="id-cert"),
    lambda s: revoked(s, "id-cert"),
    lambda s: keys_of(s, "id-cert", keys=[key_of("id-cert").record(NOW - DAY, NOW + DAY)]),
]


@pytest.mark.parametrize("make", GIVING + TAKING)
def test_two_of_three_decide_everything(state: State, make: Callable[[State], Act]) -> None:
    """Whichever two."""
    for pair in combinations(NAMES, 2):
        assert after(state, make(state), *by(*pair)).head.number == state.head.number + 1


@pytest.mark.parametrize("make", GIVING)
@pytest.mark.parametrize("signers", [(), *((name,) for name in NAMES)])
def test_one_less_than_the_threshold_is_not_enough(
    state: State, make: Callable[[State], Act], signers: Sequence[str]
) -> None:
    """For whatever gives trust, or takes away what others rely on."""
    with refused(Reason.TOO_FEW_SIGNATURES, "$.signatures"):
        after(state, make(state), *by(*signers))


def test_letting_a_member_back_in_takes_the_threshold(state: State) -> None:
    """One trustee can cut off, and cannot undo it."""
    cut = after(state, Suspend(member="id-cert"), *by("office-b"))
    assert cut.member("id-cert").status == "suspended"
    with refused(Reason.TOO_FEW_SIGNATURES, "$.signatures"):
        after(cut, Resume(member="id-cert"), *by("office-b"))
    assert after(cut, Resume(member="id-cert"), *by(*TWO)).member("id-cert").status == "active"


@pytest.mark.parametrize("make", TAKING)
def test_one_trustee_takes_trust_away(state: State, make: Callable[[State], Act]) -> None:
    """Suspending, revoking and ending keys wait for nobody; but not for no trustee at all."""
    for name in NAMES:
        assert after(state, make(state), *by(name))
    with refused(Reason.NOT_A_TRUSTEE, "$.signatures"):
        after(state, make(state), key_of("stranger"))


def transport_key(number: int) -> str:
    """The public part of a key for a connection."""
    return natsauth.public_of(natsauth.create_seed(natsauth.Role.USER, bytes([number]) * 32), natsauth.Role.USER)


def test_a_member_changes_the_key_of_its_connection(state: State) -> None:
    """By itself, for a key that was never used; one trustee is not enough for that."""
    first, second = transport_key(1), transport_key(2)
    own, until = key_of("id-cert"), NOW + DAY
    had = after(state, keys_of(state, "id-cert", transport=first), own)
    assert had.member("id-cert").transport == first
    assert had.retired == {}, "there was none before it"
    act = keys_of(had, "id-cert", transport=second, transport_until=until)
    with refused(Reason.TOO_FEW_SIGNATURES, "$.signatures"):
        after(had, act, *by("office-b"))
    with refused(Reason.NOT_A_TRUSTEE, "$.signatures"):
        after(had, act, key_of("my-cert"))
    changed = after(had, act, own)
    assert changed.member("id-cert").transport == second
    assert changed.retired == {"id-cert": {first: until}}
    with refused(Reason.INVALID_VALUE, "$.act.transport"):
        after(changed, keys_of(changed, "id-cert", transport=first), *by(*TWO))
    at_once = after(changed, keys_of(changed, "id-cert", transport=transport_key(3)), *by(*TWO))
    assert at_once.retired["id-cert"][second] == at_once.at


def test_a_revocation_is_never_taken_back_by_one(state: State) -> None:
    """Nor moved to a later time, nor hidden by leaving the key out."""
    cut = after(state, revoked(state, "id-cert"), *by("office-b"))
    for act in (
        revoked(state, "id-cert", NOW + DAY),
        keys_of(state, "id-cert"),
        keys_of(cut, "id-cert", keys=[]),
    ):
        with refused(Reason.TOO_FEW_SIGNATURES, "$.signatures"):
            after(cut, act, *by("office-b"))
    assert after(cut, revoked(state, "id-cert", NOW - DAY), *by("office-b")), "an earlier one takes more away"


def test_the_same_trustee_counts_once(state: State) -> None:
    """Two signatures by one key are one; another key of the same trustee is a stranger's."""
    record = following(state, Admit(member=joining("my")), *by("office-b"))
    twice = msgspec.json.decode(record)
    twice["signatures"] *= 2
    with refused(Reason.TOO_FEW_SIGNATURES, "$.signatures"):
        apply(state, open_record(msgspec.json.encode(twice)), LATER)
    with refused(Reason.NOT_A_TRUSTEE, "$.signatures"):
        after(state, Admit(member=joining("my")), *by("office-b"), key_of("the other key of office-b"))


def test_a_removed_trustee_counts_nothing(state: State) -> None:
    """From the record on that removes it, not before."""
    fewer = SetTrustees(trustees=[trustee(name) for name in TWO], threshold=2)
    changed = after(state, fewer, *by("ministry-a", "agency-c"))
    with refused(Reason.NOT_A_TRUSTEE, "$.signatures"):
        after(changed, Admit(member=joining("my")), *by("ministry-a", "agency-c"))
    assert after(changed, Admit(member=joining("my")), *by(*NAMES)), "a signature too much does no harm"


def test_who_becomes_a_trustee_signs_too(state: State) -> None:
    """And does not count among those that decide; nor does a trustee's new key before it is in force."""
    wider = SetTrustees(trustees=[*TRUSTEES, trustee("council-d")], threshold=3)
    with refused(Reason.TOO_FEW_SIGNATURES, "$.signatures"):
        after(state, wider, *by(*TWO))
    with refused(Reason.NOT_A_TRUSTEE, "$.signatures"):
        after(state, wider, *by("office-b", "council-d"))
    changed = after(state, wider, *by(*TWO, "council-d"))
    with refused(Reason.TOO_FEW_SIGNATURES, "$.signatures"):
        after(changed, Admit(member=joining("my")), *by(*TWO))
    renewed = [trustee("ministry-a", key=trustee_key("fresh").record(*WINDOW)), *TRUSTEES[1:]]
    with refused(Reason.TOO_FEW_SIGNATURES, "$.signatures"):
        after(state, SetTrustees(trustees=renewed, threshold=2), *by(*NAMES))
    assert after(state, SetTrustees(trustees=renewed, threshold=2), *by(*NAMES), trustee_key("fresh"))


@pytest.mark.parametrize(
    ("window", "why"),
    [
        ({"not_after": NOW + DAY}, Reason.KEY_NOT_VALID),
        ({"not_before": NOW + 3 * DAY}, Reason.KEY_NOT_VALID),
        ({"revoked_at": NOW + 2 * DAY}, Reason.KEY_REVOKED),
    ],
)
def test_a_trustees_key_counts_in_its_time(state: State, window: dict[str, Any], why: Reason) -> None:
    """Judged by the record's own time."""
    keys = [msgspec.structs.replace(one, key=msgspec.structs.replace(one.key, **window)) for one in TRUSTEES[:1]]
    held = replace(state, trustees=(*keys, *TRUSTEES[1:]))
    with refused(why, "$.signatures"):
        after(held, Admit(member=joining("my")), *by(*TWO), at=NOW + 2 * DAY)


def test_a_false_signature_refuses_the_record(state: State) -> None:
    """However many good ones stand beside it."""

    class Impostor:
        alg = "Ed25519"
        kid = trustee_key("agency-c").kid

        def sign(self, data: bytes) -> bytes:
            return key_of("stranger").sign(data)

    with refused(Reason.SIGNATURE_INVALID, "$"):
        after(state, Admit(member=joining("my")), *by(*TWO), Impostor())  # type: ignore[arg-type]


# --- a member and its own keys ----------------------------------------------------------------------------------


def test_a_member_renews_its_own_keys(state: State) -> None:
    """It adds one, ends the old one, and revokes: alone, with a key that is valid."""
    own, fresh = key_of("id-cert"), key_of("fresh")
    sealing = SealingKey.generate(rand=Rand("s").__call__).record(*WINDOW)
    ended = own.record(WINDOW[0], NOW + 7 * DAY)
    act = keys_of(state, "id-cert", keys=[ended, fresh.record(*WINDOW)], sealing_keys=[sealing])
    renewed = after(state, act, own)
    assert {key.kid for key in renewed.member("id-cert").keys} == {own.kid, fresh.kid}
    cut = [msgspec.structs.replace(ended, revoked_at=NOW - DAY), fresh.record(*WINDOW)]
    emergency = after(renewed, keys_of(renewed, "id-cert", keys=cut), fresh)
    assert emergency.member("id-cert").keys[0].revoked_at == NOW - DAY
    with refused(Reason.KEY_REVOKED, "$.signatures"):
        after(emergency, more(emergency, "id-cert"), own)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: keys_of(s, "id-cert", keys=[]),
        lambda s: keys_of(s, "id-cert", keys=[key_of("fresh").record(*WINDOW)]),
        lambda s: keys_of(s, "id-cert", keys=[key_of("id-cert").record(NOW - DAY, NOW + 901 * DAY)]),
        lambda s: more(s, "sg-cert"),
        lambda s: revoked(s, "sg-cert"),
        lambda _: Suspend(member="sg-cert"),
        lambda _: Roles(member="id-cert", roles=["coordinator"]),
        lambda _: Admit(member=joining("my")),
    ],
)
def test_a_member_decides_nothing_else(state: State, make: Callable[[State], Act]) -> None:
    """No key is taken off the list or made valid for longer, no other member is touched."""
    with pytest.raises(ProtocolError) as caught:
        after(state, make(state), key_of("id-cert"))
    assert caught.value.reason in {Reason.TOO_FEW_SIGNATURES, Reason.NOT_A_TRUSTEE}


def test_a_suspended_member_adds_no_keys(state: State) -> None:
    """It may be suspended because its key was stolen."""
    cut = after(state, Suspend(member="id-cert"), *by("office-b"))
    with refused(Reason.MEMBER_SUSPENDED, "$.signatures"):
        after(cut, more(cut, "id-cert"), key_of("id-cert"))


# --- consistency ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _: Admit(member=joining("id")), Reason.MEMBER_EXISTS),
        (lambda _: Suspend(member="no-such"), Reason.UNKNOWN_MEMBER),
        (lambda _: Expel(member="no-such"), Reason.UNKNOWN_MEMBER),
        (lambda _: Keys(member="no-such", keys=[]), Reason.UNKNOWN_MEMBER),
        (lambda _: Resume(member="id-cert"), Reason.INVALID_VALUE),
        (lambda _: Admit(member=joining("my", status="suspended")), Reason.INVALID_VALUE),
        (lambda _: Admit(member=member("my", keys=[key_of("id-cert").record(*WINDOW)])), Reason.INVALID_VALUE),
        (lambda _: Admit(member=member("my", id="broker")), Reason.INVALID_VALUE),
        (lambda _: Coordinate(member="no-such"), Reason.UNKNOWN_MEMBER),
        (lambda _: Dissolve(group=str(GROUP)), Reason.INVALID_VALUE),
        (lambda _: Terminate(agreement="aid", until=LATER), Reason.INVALID_VALUE),
        (lambda _: FormGroup(group=Group(id=GROUP, name="x", jurisdictions=["vn"])), Reason.INVALID_VALUE),
        (lambda _: SetTrustees(trustees=TRUSTEES, threshold=4), Reason.INVALID_VALUE),
        (lambda _: SetTrustees(trustees=[*TRUSTEES, TRUSTEES[0]], threshold=2), Reason.INVALID_VALUE),
        (
            lambda _: SetTrustees(trustees=[*TRUSTEES, trustee("council-d", key=TRUSTEES[0].key)], threshold=2),
            Reason.INVALID_VALUE,
        ),
        (
            lambda _: SetTrustees(trustees=[*TRUSTEES, trustee("council-d", key=joining("id").keys[0])], threshold=2),
            Reason.INVALID_VALUE,
        ),
        (
            lambda _: Found(trustees=TRUSTEES, threshold=1, broker_keys=[key_of("broker").record(*WINDOW)]),
            Reason.RECORD_OUT_OF_ORDER,
        ),
    ],
)
def test_what_does_not_hold_together(state: State, make: Callable[[State], Act], why: Reason) -> None:
    """Whoever signs it."""
    with pytest.raises(ProtocolError) as caught:
        after(state, make(state), *by(*NAMES))
    assert caught.value.reason is why


def test_the_coordinators_office_is_handed_over(state: State) -> None:
    """In one record, there is one at any time; who had it keeps its other roles, or observes."""
    state = after(state, Admit(member=joining("asean", roles=["coordinator"])), *by(*TWO))
    state = after(state, Coordinate(member="sg-cert"), *by(*TWO))
    assert {one.id: one.roles for one in state.region.members} == {
        "asean-cert": ["observer"],
        "id-cert": ["submitter", "recipient"],
        "sg-cert": ["submitter", "recipient", "coordinator"],
    }
    state = after(state, Coordinate(member="id-cert"), *by(*TWO))
    assert state.member("sg-cert").roles == ["submitter", "recipient"]
    for act in (
        Coordinate(member="id-cert"),
        Roles(member="sg-cert", roles=["coordinator"]),
        Admit(member=joining("my", roles=["coordinator"])),
    ):
        with refused(Reason.INVALID_VALUE):
            after(state, act, *by(*TWO))


def test_groups_and_agreements(state: State) -> None:
    """They begin, change, and end; an agreement never in the past."""
    group = Group(id=GROUP, name="Straits", jurisdictions=["id", "sg"])
    one = after(state, FormGroup(group=group), *by(*TWO))
    two = after(one, FormGroup(group=msgspec.structs.replace(group, name="Sunda")), *by(*TWO))
    assert [item.name for item in two.region.groups] == ["Sunda"]
    assert after(two, Dissolve(group=str(GROUP)), *by(*TWO)).region.groups == []
    pact = after(two, Agree(agreement=PACT), *by(*TWO))
    with refused(Reason.INVALID_VALUE, "$.act"):
        after(pact, Agree(agreement=PACT), *by(*TWO))
    with refused(Reason.INVALID_VALUE, "$.act.until"):
        after(pact, Terminate(agreement="aid", until=NOW - DAY), *by(*TWO))
    ended = after(pact, Terminate(agreement="aid", until=NOW + DAY), *by(*TWO))
    assert ended.region.agreements[0].effective_until == NOW + DAY


# --- looking like another ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("jp-cert", "jpcert"),
        ("id-cert", "1d-cert"),
        ("id-cert", "ld-cert"),
        ("ocert", "0cert"),
        ("JPCERT/CC", "jpcert cc"),
        ("JPCERT/CC", "ЈРСЕRТ/СС"),  # Cyrillic
        ("BSSN", "ΒSSΝ"),  # Greek
        ("Cert", "Cërt"),
        ("modern", "rnodern"),
    ],
)
def test_what_looks_alike(one: str, other: str) -> None:
    """Case, spacing, digits for letters, letters of other scripts."""
    assert skeleton(one) == skeleton(other)


@pytest.mark.parametrize(("one", "other"), [("id-cert", "sg-cert"), ("JPCERT/CC", "KrCERT/CC"), ("国家", "国防")])
def test_what_does_not(one: str, other: str) -> None:
    """Names that differ are told apart."""
    assert skeleton(one) != skeleton(other)


@pytest.mark.parametrize("changes", [{"id": "1d-cert"}, {"name": "СERT of id"}, {"id": "idcert"}, {"name": "id cert"}])
def test_a_look_alike_is_refused_unless_it_is_meant(state: State, changes: dict[str, str]) -> None:
    """The record has to name whom it looks like; naming another one does not help."""
    twin = joining("my", **changes)
    for resembles in ([], ["sg-cert"]):
        with refused(Reason.LOOKS_LIKE_ANOTHER, "$.act"):
            after(state, Admit(member=twin, resembles=resembles), *by(*NAMES))
    assert after(state, Admit(member=twin, resembles=["id-cert"]), *by(*TWO))


def test_who_was_expelled_is_not_passed_for(state: State) -> None:
    """Neither its id nor its name comes back unnoticed; nor does a new name."""
    gone = after(state, Expel(member="id-cert"), *by(*TWO))
    for twin in (joining("id"), joining("my", id="1d-cert"), joining("my", name="CERT of id")):
        with refused(Reason.LOOKS_LIKE_ANOTHER, "$.act"):
            after(gone, Admit(member=twin), *by(*NAMES))
    assert after(gone, Admit(member=joining("id"), resembles=["id-cert"]), *by(*TWO)).former == {}
    with refused(Reason.LOOKS_LIKE_ANOTHER, "$.act"):
        after(gone, Describe(member="sg-cert", name="CERT 0f 1d"), *by(*TWO))


# --- whatever is tried ------------------------------------------------------------------------------------------

_ACTS: list[Callable[[random.Random], Act]] = [
    lambda r: Admit(member=joining(r.choice(["my", "vn", "ph"]))),
    lambda r: Expel(member=r.choice(["id-cert", "sg-cert"])),
    lambda r: Suspend(member=r.choice(["id-cert", "sg-cert"])),
    lambda r: Resume(member=r.choice(["id-cert", "sg-cert"])),
    lambda r: SetTrustees(trustees=[trustee(r.choice(NAMES))], threshold=1),
    lambda _: SetTrustees(trustees=TRUSTEES, threshold=1),
    lambda r: Keys(member="id-cert", keys=[key_of(r.choice(["id-cert", "x"])).record(*WINDOW)]),
    lambda _: Roles(member="id-cert", roles=["coordinator"]),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(min_value=0), st.integers(min_value=1, max_value=12))
def test_fewer_than_the_threshold_never_admit_anybody(seed: int, length: int) -> None:
    """No sequence of records by one trustee and any number of members and strangers changes who is in the region."""
    rng = random.Random(seed)
    state = first = began(joining("id"), joining("sg"))
    traitor = rng.choice(NAMES)
    others = [key_of("id-cert"), key_of("sg-cert"), key_of("stranger"), trustee_key("council-d")]
    for _ in range(length):
        signers = [trustee_key(traitor), *rng.sample(others, rng.randint(0, len(others)))]
        rng.shuffle(signers)
        try:
            state = after(state, rng.choice(_ACTS)(rng), *signers)
        except ProtocolError:
            continue
    assert [one.id for one in state.region.members] == [one.id for one in first.region.members]
    assert (state.trustees, state.threshold) == (first.trustees, first.threshold)
    assert state.region.broker_keys == first.region.broker_keys
    assert all(
        one.roles == first.member(one.id).roles and one.name == first.member(one.id).name
        for one in state.region.members
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("payload"),
        lambda d: d.update(header={}),
        lambda d: d["signatures"][0].update(header={}),
        lambda d: d.update(payload=d["payload"] + "="),
        lambda d: d["signatures"][0].update(protected="e30"),
        lambda d: d.update(signatures=d["signatures"] * 65),
    ],
)
def test_what_is_no_record(state: State, change: Callable[[dict[str, Any]], Any]) -> None:
    """Refused before anything is verified."""
    document = msgspec.json.decode(following(state, Suspend(member="id-cert"), *by("office-b")))
    change(document)
    with pytest.raises(ProtocolError):
        open_record(msgspec.json.encode(document))


def test_a_record_is_bounded(state: State) -> None:
    """In size, and in what it may be signed with."""
    data = following(state, Suspend(member="id-cert"), *by("office-b"))
    with refused(Reason.TOO_LARGE, "$"):
        open_record(data + b" " * limits.GOVERNANCE_RECORD)
    unsigned = draft(Record(region="test", number=1, previous="A" * 43, at=NOW, act=Suspend(member="id-cert")))
    assert open_record(unsigned).signatures == ()
    with refused(Reason.UNKNOWN_VALUE):
        open_record(unsigned.replace(*_acts(unsigned)))


def _acts(data: bytes) -> tuple[bytes, bytes]:
    """The payload, and one with an act that does not exist."""
    payload = msgspec.json.decode(data)["payload"]
    return payload.encode(), b64(unb64(payload).replace(b'"suspend"', b'"promote"')).encode()


def test_trustee_records_are_like_members() -> None:
    """Same rules for ids and keys."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"id": "A", "name": "x", "key": msgspec.to_builtins(TRUSTEES[0].key)}, Trustee)
