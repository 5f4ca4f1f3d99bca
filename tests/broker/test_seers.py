"""What is hidden: each member's records lead to exactly the region that the broker shows it, and to nothing more."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker.governing import Chain, shown_to
from broker.seers import Roll
from node.governed import shows_more, sort_out
from node.trust import Trust
from protocol.chain import apply, fold, found
from protocol.enact import Sight, State, closed_groups
from protocol.errors import ProtocolError
from protocol.governance import (
    Act,
    Admit,
    Closed,
    Dissolve,
    Expel,
    FormGroup,
    Keys,
    Opening,
    Resume,
    Roles,
    Show,
    Suspend,
    body_of,
    close_record,
    open_record,
    tag_of,
    without_opening,
)
from protocol.keys import SigningKey, b64
from protocol.reasons import Reason
from protocol.registry import Group, Member, Region, Registry, shown, sign_region
from tests.governing import NOW, by, closing, following, founding, genesis, signed
from tests.protocol.make import DAY, Rand, key_of, member, refused, region

TWO = ("ministry-a", "office-b")
LATER = NOW + timedelta(days=400)
WINDOW = (NOW - DAY, NOW + 900 * DAY)
BROKER = key_of("broker")
NAMES = ["id-cert", "sg-cert", "my-cert", "jp-cert", "id-mil", "jp-mil"]
GROUPS = [UUID(int=number) for number in (1, 2)]


def joining(name: str, called: str = "", **changes: Any) -> Member:
    return member(name[:2], id=name, name=called or f"Body {name}", keys=[key_of(name).record(*WINDOW)], **changes)


class Place:
    """A region at its broker, record by record."""

    def __init__(self, seed: int = 1) -> None:
        self.rand = Rand(seed)
        self.records = [founding(region(broker_keys=[BROKER.record(*WINDOW)]))]
        self.state = found(open_record(self.records[0]), LATER)
        self.roll = Roll()
        self.roll.follow(None, open_record(self.records[0]), self.state)

    def does(self, act: Act, *signers: SigningKey) -> None:
        """One more record, closed if it must be."""
        data = closing(self.state, act, *(signers or by(*TWO)), carrier=BROKER, rand=self.rand)
        following_ = apply(self.state, open_record(data), LATER)
        self.roll.follow(self.state, open_record(data), following_)
        self.state = following_
        self.records.append(data)

    def chain(self) -> Chain:
        """As the broker has it."""
        return Chain(tuple(self.records), (), self.state, self.roll.seers())

    def registry(self) -> Registry:
        return Registry(self.state.region, self.state.seen_by, closed_groups(self.state))

    def seen(self, name: str) -> list[str]:
        """The records as a member gets them now."""
        one = self.state.member(name)
        chain = self.chain()
        texts = (shown_to(chain, number, data, one) for number, data in enumerate(self.records))
        return [text.decode("ascii") for text in texts]

    def document(self, name: str, at: datetime = LATER) -> str:
        return sign_region(self.registry().view(name).region, self.state.head, BROKER, at)


def place(*names: str) -> Place:
    here = Place()
    for name in names:
        here.does(Admit(member=joining(name)))
    return here


def hide(here: Place, name: str, *seers: str) -> None:
    here.does(Admit(member=joining(name, hidden=True), seen_by=list(seers)))


def trust_of(here: Place, name: str, at: datetime = NOW + DAY) -> Trust:
    texts = here.seen(name)
    records = [BROKER.record(*WINDOW)]
    return Trust(records, here.document(name, at), lambda: LATER, genesis=genesis(texts), records=texts, member=name)


def everything(texts: list[str]) -> str:
    """All that can be read in records, openings included."""

    def layers(data: bytes) -> Iterator[str]:
        one = open_record(data)
        yield one.payload.decode()
        yield " ".join(parts.kid for parts in one.signatures)
        if one.opening is not None:
            yield from layers(one.opening.record.encode())

    return " ".join(text for data in texts for text in layers(data.encode()))


# --- one thing at a time ----------------------------------------------------------------------------------------


def test_a_hidden_member_is_there_for_those_that_see_it_only() -> None:
    """Neither its name nor its keys nor what it does is in what others get; the chain is as long for them."""
    here = place("id-cert", "sg-cert", "my-cert")
    hide(here, "id-mil", "sg-cert")
    fresh = key_of("fresh").record(*WINDOW)
    here.does(Keys(member="id-mil", keys=[*here.state.member("id-mil").keys, fresh]), key_of("id-mil"))
    for name in ("id-cert", "my-cert"):
        told = everything(here.seen(name)) + str(here.registry().view(name).region)
        for secret in ("id-mil", key_of("id-mil").kid, fresh.kid):
            assert secret not in told
    for name in ("sg-cert", "id-mil"):
        assert [one.kid for one in trust_of(here, name).registry.member("id-mil").keys][1:] == [fresh.kid]
    assert "id-mil" not in trust_of(here, "my-cert").registry.members
    assert trust_of(here, "my-cert").state.head == trust_of(here, "sg-cert").state.head == here.state.head


def test_a_group_is_seen_by_those_in_it_only() -> None:
    """Its id, its name, and who is in it; who leaves sees that it does, and nothing of what comes then."""
    here = place("id-cert", "sg-cert", "my-cert")
    one = Group(id=GROUPS[0], name="Straits watch", jurisdictions=["id", "my"])
    here.does(FormGroup(group=one))
    assert trust_of(here, "id-cert").registry.region.groups == [one]
    told = everything(here.seen("sg-cert")) + str(here.registry().view("sg-cert").region)
    assert "Straits" not in told
    assert str(GROUPS[0]) not in told
    here.does(FormGroup(group=msgspec.structs.replace(one, jurisdictions=["id"])))
    here.does(FormGroup(group=msgspec.structs.replace(one, name="Second name", jurisdictions=["id", "sg"])))
    assert trust_of(here, "my-cert").registry.region.groups == []
    assert "Second name" not in everything(here.seen("my-cert"))
    assert "Straits" not in everything(here.seen("sg-cert"))
    assert [group.name for group in trust_of(here, "sg-cert").registry.region.groups] == ["Second name"]


def test_who_joins_later_sees_the_groups_of_its_jurisdiction() -> None:
    """Those from before it was there, too."""
    here = place("id-cert", "sg-cert")
    here.does(FormGroup(group=Group(id=GROUPS[0], name="Straits", jurisdictions=["id", "sg"])))
    here.does(Admit(member=joining("id-mil")))
    here.does(Admit(member=joining("my-cert")))
    assert [group.name for group in trust_of(here, "id-mil").registry.region.groups] == ["Straits"]
    assert trust_of(here, "my-cert").registry.region.groups == []


def test_a_node_that_is_shown_a_member_follows_all_of_it() -> None:
    """The openings of earlier records come with the listing; nothing that is held is exchanged for another."""
    here = place("id-cert", "sg-cert")
    hide(here, "id-mil")
    here.does(Suspend(member="id-mil"))
    trust = trust_of(here, "sg-cert")
    held = here.seen("sg-cert")
    here.does(Show(member="id-mil", seen_by=["sg-cert"]))
    texts = here.seen("sg-cert")
    assert shows_more(texts[len(held) :])
    assert not shows_more(held)
    listing = sort_out([(text, leaf) for leaf, text in enumerate(texts)], held)
    assert [number for number, _ in listing.shown] == [3, 4]
    assert trust.update(here.document("sg-cert").encode(), listing.texts)
    assert trust.registry.member("id-mil").status == "suspended"
    told = msgspec.structs.replace(open_record(here.records[1]).record, at=NOW + DAY)
    other = signed(told, *by(*TWO)).decode()
    with refused(Reason.REGION_NOT_GOVERNED, "$.records"):
        sort_out([(text, leaf) for leaf, text in enumerate([held[0], other])], held)


def test_shown_to_everybody_it_is_hidden_no_more() -> None:
    """Its records from before are open to all from then on, and its later ones are not closed."""
    here = place("id-cert", "sg-cert")
    hide(here, "id-mil", "sg-cert")
    here.does(Show(member="id-mil"))
    here.does(Suspend(member="id-mil"))
    assert not isinstance(open_record(here.records[-1]).record.act, Closed)
    assert not trust_of(here, "id-cert").registry.member("id-mil").hidden
    with refused(Reason.INVALID_VALUE, "$.act.member"):
        here.does(Show(member="id-mil", seen_by=["id-cert"]))


@pytest.mark.parametrize(
    ("act", "path"),
    [
        (Admit(member=joining("jp-mil", hidden=True)), "$.act.seen_by"),
        (Admit(member=joining("jp-mil"), seen_by=["id-cert"]), "$.act.seen_by"),
        (Admit(member=joining("jp-mil", hidden=True), seen_by=["id-mil"]), "$.act.seen_by"),
        (Admit(member=joining("jp-mil", hidden=True), seen_by=["nobody"]), "$.act.seen_by"),
        (Admit(member=joining("jp-mil", hidden=True, roles=["coordinator"]), seen_by=[]), "$.act"),
        (Admit(member=joining("jp-mil"), resembles=["id-mil"]), "$.act.resembles"),
        (Show(member="id-mil", seen_by=[]), "$.act.seen_by"),
        (Show(member="id-mil", seen_by=["sg-cert"]), "$.act.seen_by"),
        (Show(member="sg-cert", seen_by=["id-cert"]), "$.act.member"),
        (Roles(member="id-mil", roles=["coordinator"]), "$.act"),
        (FormGroup(group=Group(id=GROUPS[0], name="x", jurisdictions=["id", "my"])), "$.act"),
    ],
)
def test_what_would_tell_of_a_hidden_member_is_refused(act: Act, path: str) -> None:
    """Lists that name it where others read, an office that everybody knows, a jurisdiction that is only its own."""
    here = place("id-cert", "sg-cert")
    hide(here, "id-mil", "sg-cert")
    hide(here, "my-mil", "sg-cert")
    with refused(Reason.INVALID_VALUE, path):
        here.does(act)


def test_no_name_like_that_of_a_hidden_member() -> None:
    """Also after it has left: and no record may say that it is meant."""
    here = place("id-cert")
    hide(here, "id-mil")
    twin = joining("jp-cert", "Body id-mil")
    for _ in range(2):
        with refused(Reason.LOOKS_LIKE_ANOTHER):
            here.does(Admit(member=twin))
        with refused(Reason.INVALID_VALUE, "$.act.resembles"):
            here.does(Admit(member=twin, resembles=["id-mil"]))
        if "id-mil" in here.state.seen_by:
            here.does(Expel(member="id-mil"))


def test_a_hidden_member_is_no_witness() -> None:
    """Its name would stand under every checkpoint, and in everybody's quorum."""
    here = place("id-cert", "sg-cert")
    hide(here, "id-mil", "sg-cert")
    for name in ("id-cert", "sg-cert", "id-mil"):
        view = here.registry().view(name)
        assert (
            {one.id for one in view.witnesses()} == {key.name for key in view.witness_keys()} == {"id-cert", "sg-cert"}
        )
        assert view.quorum == 2


# --- lies -------------------------------------------------------------------------------------------------------


def test_a_broker_that_keeps_a_record_back_is_noticed() -> None:
    """Whoever sees the member can tell that the record is about it; whoever does not passes it over."""
    here = place("id-cert", "sg-cert")
    hide(here, "id-mil", "sg-cert")
    here.does(Suspend(member="id-mil"))
    kept = [*here.seen("sg-cert")[:-1], without_opening(here.records[-1]).decode()]
    with refused(Reason.RECORD_KEPT_BACK, f"$[{len(kept) - 1}].opening"):
        fold([text.encode() for text in kept], genesis(kept), LATER, Sight("sg-cert", "sg"))
    with refused(Reason.RECORD_KEPT_BACK, "$[3].opening"):
        fold([text.encode() for text in here.seen("id-cert")], genesis(kept), LATER)
    fold([text.encode() for text in here.seen("id-cert")], genesis(kept), LATER, Sight("id-cert", "id"))


def test_a_false_tag_is_noticed_by_those_that_are_shown_the_record() -> None:
    """Else the broker could show it to some and keep it from others, who could not tell that it is theirs."""
    here = place("id-cert", "sg-cert")
    hide(here, "id-mil", "sg-cert")
    key, other = here.state.secrets["member/id-mil"], b64(bytes(32))

    def closed(told: str, tagged: str) -> bytes:
        data = following(here.state, Suspend(member="id-mil"), *by(*TWO))
        opening = msgspec.json.encode(Opening(b64(bytes(32)), told, data.decode()))
        tag = tag_of(tagged, here.state.head.number + 1)
        record = msgspec.structs.replace(open_record(data).record, act=Closed(tag=tag, body=body_of(opening)))
        document = msgspec.json.decode(signed(record, BROKER))
        return msgspec.json.encode({**document, "opening": b64(opening)})

    assert apply(here.state, open_record(closed(key, key)), LATER).member("id-mil").status == "suspended"
    for told, tagged in ((other, other), (key, other), (other, key)):
        with refused(Reason.INVALID_VALUE, "$.act.tag"):
            apply(here.state, open_record(closed(told, tagged)), LATER)


def test_the_brokers_word_alone_changes_nothing() -> None:
    """A closed record needs the trustees as an open one does; and nothing is closed that everybody must see."""
    here = place("id-cert", "sg-cert")
    hide(here, "id-mil", "sg-cert")
    key = here.state.secrets["member/id-mil"]

    def closed(act: Act, *names: str, carrier: SigningKey = BROKER, at: datetime = NOW) -> bytes:
        return close_record(following(here.state, act, *by(*names)), key, b64(bytes(32)), at, carrier)

    with refused(Reason.TOO_FEW_SIGNATURES):
        apply(here.state, open_record(closed(Expel(member="id-mil"))), LATER)
    with refused(Reason.TOO_FEW_SIGNATURES):
        apply(here.state, open_record(closed(Expel(member="id-mil"), *TWO, carrier=key_of("id-cert"))), LATER)
    with refused(Reason.INVALID_VALUE, "$.act"):
        apply(here.state, open_record(closed(Suspend(member="id-cert"), *TWO)), LATER)
    with refused(Reason.RECORD_OUT_OF_ORDER, "$.at"):
        apply(here.state, open_record(closed(Suspend(member="id-mil"), *TWO, at=NOW - DAY)), LATER)
    with refused(Reason.INVALID_VALUE, "$.act"):
        apply(here.state, open_record(following(here.state, Suspend(member="id-mil"), *by(*TWO))), LATER)
    good = open_record(closed(Suspend(member="id-mil"), *TWO))
    other = open_record(closed(Expel(member="id-mil"), *TWO))
    assert good.digest != other.digest
    nested = close_record(here.records[-1], key, b64(bytes(32)), NOW, BROKER)
    with refused(Reason.INVALID_VALUE, "$.opening"):
        open_record(nested)


def test_an_opening_is_the_one_that_the_record_names() -> None:
    """Another one, one beside an open record, one in another one: refused."""
    here = place("id-cert")
    hide(here, "id-mil")
    document = msgspec.json.decode(here.records[-1])
    here.does(Suspend(member="id-mil"))
    other = msgspec.json.decode(here.records[-1])
    for name in ("payload", "signatures"):
        swapped = {**document, name: other[name]} if name == "payload" else {**document, "opening": other["opening"]}
        with pytest.raises(ProtocolError):
            open_record(msgspec.json.encode(swapped))
    plain = msgspec.json.decode(here.records[1])
    with refused(Reason.INVALID_VALUE, "$.opening"):
        open_record(msgspec.json.encode({**plain, "opening": document["opening"]}))
    with refused(Reason.MALFORMED_ENVELOPE, "$.opening"):
        open_record(msgspec.json.encode({**document, "opening": "*"}))


# --- anything at all --------------------------------------------------------------------------------------------


def _any_act(rng: random.Random, state: State) -> Act:
    name = rng.choice(NAMES)
    there = {one.id: one for one in state.region.members}
    public = [one.id for one in state.region.members if not one.hidden and one.id != name]
    seers = rng.sample(public, rng.randint(0, len(public)))
    if name not in there:
        hidden = rng.random() < 0.4
        again = [name] if name in state.former else []
        return Admit(member=joining(name, hidden=hidden), seen_by=seers if hidden else None, resembles=again)
    kinds: list[Act] = [
        Suspend(member=name) if there[name].status == "active" else Resume(member=name),
        Roles(member=name, roles=rng.choice([["recipient"], ["submitter"], ["submitter", "recipient"]])),
        Show(member=name, seen_by=rng.choice([None, sorted({*seers, *state.seen_by.get(name, ())})])),
    ]
    if rng.random() < 0.2:
        kinds.append(Expel(member=name))
    group = rng.choice(GROUPS)
    known = sorted({one.jurisdiction for one in state.region.members if not one.hidden} | {"jp"})
    jurisdictions = rng.sample(known, rng.randint(1, len(known)))
    kinds += [FormGroup(group=Group(id=group, name=f"G{rng.randint(0, 99)}", jurisdictions=jurisdictions))] * 3
    kinds.append(Dissolve(group=str(group)))
    return rng.choice(kinds)


def _same(one: Region, other: Region) -> bool:
    def sort(found: Region) -> tuple[Any, ...]:
        groups = sorted(found.groups, key=lambda group: group.id)
        return found.members, groups, found.agreements, found.quorum

    return sort(one) == sort(other)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_decided_each_member_is_led_to_what_it_may_see(seed: int) -> None:
    """By all its records at once, and step by step as a node that was there follows them."""
    rng = random.Random(seed)
    here = place("id-cert", "sg-cert")
    nodes: dict[str, tuple[Trust, list[str]]] = {}
    closed = 0
    refusals: set[Reason] = set()
    for step in range(60):
        act = _any_act(rng, here.state)
        try:
            here.does(act)
        except ProtocolError as exc:
            refusals.add(exc.reason)
            continue
        closed += isinstance(open_record(here.records[-1]).record.act, Closed)
        registry = here.registry()
        at = NOW + DAY + timedelta(seconds=step)
        for member_ in here.state.region.members:
            name = member_.id
            texts = here.seen(name)
            sight = Sight(name, member_.jurisdiction)
            view = shown(registry.view(name).region)
            if step % 10 == 0:
                assert _same(fold([text.encode() for text in texts], genesis(texts), LATER, sight).region, view)
            if name not in nodes:
                nodes[name] = trust_of(here, name, at), texts
                continue
            trust, held = nodes[name]
            fresh = texts[len(held) :]
            listed = texts if shows_more(fresh) else fresh
            start = len(texts) - len(listed)
            listing = sort_out([(text, start + place_) for place_, text in enumerate(listed)], held)
            trust.update(here.document(name, at).encode(), listing.texts)
            assert _same(trust.registry.region, view)
            nodes[name] = trust, list(listing.texts)
        for name in nodes.keys() - {one.id for one in here.state.region.members}:
            del nodes[name]
    assert closed > 5, "else this shows nothing"
    assert refusals <= {Reason.INVALID_VALUE, Reason.UNKNOWN_MEMBER}
