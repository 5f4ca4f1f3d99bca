"""What a governance record does to the region, if it counts: who is in it, in which groups, under which agreements.

Guarantees: `enact` gives the state after an act, or raises; the state then holds together, also as each member sees it:
groups and agreements name jurisdictions where everybody sees a member, a hidden member coordinates nothing, and who has
seen a hidden member goes on seeing it. Whether a record counts is for `protocol/chain.py`. Pure.

A state is seen whole (by the broker and the trustees) or by one member (`Sight`): a member's state is what the whole
one would be without the hidden members and the closed sharing groups that are not shown to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import msgspec

from protocol.errors import ConfigError, ProtocolError
from protocol.governance import (
    Act,
    Admit,
    Agree,
    Closed,
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
    Show,
    Suspend,
    Terminate,
    Trustee,
)
from protocol.keys import VerifyKey
from protocol.lookalike import skeleton
from protocol.reasons import Reason
from protocol.registry import Agreement, Group, Head, Member, Region, Registry

_change: Final = msgspec.structs.replace


@dataclass(frozen=True, slots=True)
class Sight:
    """Whose eyes see a state."""

    member: str
    jurisdiction: str


@dataclass(frozen=True, slots=True)
class State:
    """What a chain has led to."""

    region: Region
    trustees: tuple[Trustee, ...]
    threshold: int
    head: Head
    at: datetime
    """Of the newest record."""
    retired: Mapping[str, Mapping[str, datetime]] = field(default_factory=dict)
    """By member, the keys that opened its connection before the present one, and when each ceases to."""
    former: Mapping[str, str] = field(default_factory=dict)
    """Names of those that were expelled, by id: nobody may pass for them either."""
    former_hidden: frozenset[str] = frozenset()
    """Those of them that were hidden: no open record may name them."""
    seen_by: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By hidden member, the members that see it beside itself."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """By subject of closed records (`subject_of`), the key of their tags."""
    sight: Sight | None = None
    """Whose eyes see it; None: all of it is here."""

    def member(self, member_id: str) -> Member:
        """The member, or ProtocolError(UNKNOWN_MEMBER)."""
        for member in self.region.members:
            if member.id == member_id:
                return member
        raise ProtocolError(Reason.UNKNOWN_MEMBER, "$.act.member", f"{member_id} is no member of this region")


# --- acts -------------------------------------------------------------------------------------------------------


def _wrong(path: str, detail: str) -> ProtocolError:
    return ProtocolError(Reason.INVALID_VALUE, f"$.act{path}", detail)


def subject_of(state: State, act: Act) -> str | None:
    """What a closed record with this act would be about; None if everybody must see such an act."""
    match act:
        case Admit():
            return _of_member(act.member.id) if act.member.hidden else None
        case FormGroup():
            subject = _of_group(str(act.group.id))
            fresh = all(group.id != act.group.id for group in state.region.groups)
            return subject if fresh or subject in state.secrets else None
        case Dissolve():
            subject = _of_group(act.group)
            return subject if subject in state.secrets else None
        case Suspend() | Resume() | Expel() | Keys() | Roles() | Show() | Describe():
            return _of_member(act.member) if act.member in state.seen_by else None
        case _:
            return None


def must_be_closed(state: State, act: Act) -> bool:
    """Whether an open record may not do this: it would name what only some see. Groups may be formed for all to see."""
    subject = subject_of(state, act)
    return subject is not None and (subject in state.secrets or not isinstance(act, FormGroup))


def _of_member(member_id: str) -> str:
    return f"member/{member_id}"


def _of_group(group_id: str) -> str:
    return f"group/{group_id}"


def closed_groups(state: State) -> frozenset[str]:
    """Ids of the sharing groups that only those in them see."""
    return frozenset(str(one.id) for one in state.region.groups if _of_group(str(one.id)) in state.secrets)


def enact(state: State, record: Record) -> State:
    """The state after an act that is authorised.

    Raises:
        ProtocolError: nothing can be changed so, or what it leads to does not hold together.
    """
    after = narrowed(_enact(state, record))
    check_consistent(after)
    return after


def narrowed(state: State) -> State:
    """Without the closed groups that whoever looks is not in, or no longer."""
    if state.sight is None or not state.secrets:
        return state
    own = state.sight.jurisdiction
    gone = {
        str(group.id)
        for group in state.region.groups
        if _of_group(str(group.id)) in state.secrets and own not in group.jurisdictions
    }
    if not gone:
        return state
    kept = [group for group in state.region.groups if str(group.id) not in gone]
    secrets = {name: key for name, key in state.secrets.items() if name not in map(_of_group, gone)}
    return replace(state, region=_change(state.region, groups=kept), secrets=secrets)


def _enact(state: State, record: Record) -> State:
    act = record.act
    match act:
        case Found() | Closed():
            raise ProtocolError(Reason.RECORD_OUT_OF_ORDER, "$.act", "not here")
        case Admit():
            return _admit(state, act)
        case SetTrustees():
            return replace(state, trustees=tuple(act.trustees), threshold=act.threshold)
        case SetBrokerKeys():
            return replace(state, region=_change(state.region, broker_keys=act.broker_keys))
        case SetQuorum():
            return replace(state, region=_change(state.region, quorum=act.quorum))
        case FormGroup() | Dissolve() | Agree() | Terminate():
            return _of_jurisdictions(state, act, record.at)
        case Coordinate():
            return replace(state, region=_change(state.region, members=_hand_over(state, act)))
        case Expel():
            return _expel(state, state.member(act.member))
        case Show():
            return _show(state, state.member(act.member), act)
        case _:
            before = state.member(act.member)
            after = _changed(state, before, act)
            members = [after if member is before else member for member in state.region.members]
            retired = _retired(state, before, record) if isinstance(act, Keys) else state.retired
            return replace(state, region=_change(state.region, members=members), retired=retired)


def _of_jurisdictions(state: State, act: FormGroup | Dissolve | Agree | Terminate, at: datetime) -> State:
    if isinstance(act, Agree | Terminate):
        agreements = _agreements(state.region.agreements, act, at)
        return replace(state, region=_change(state.region, agreements=agreements))
    gone = [_of_group(act.group)] if isinstance(act, Dissolve) else []
    groups = _groups(state.region.groups, act)
    return replace(_forget(state, *gone), region=_change(state.region, groups=groups))


def _forget(state: State, *subjects: str) -> State:
    return replace(state, secrets={name: key for name, key in state.secrets.items() if name not in subjects})


def _expel(state: State, gone: Member) -> State:
    members = [member for member in state.region.members if member is not gone]
    seen_by = {name: others for name, others in state.seen_by.items() if name != gone.id}
    return replace(
        _forget(state, _of_member(gone.id)),
        region=_change(state.region, members=members),
        former={**state.former, gone.id: gone.name},
        former_hidden=state.former_hidden | {gone.id} if gone.hidden else state.former_hidden,
        seen_by=seen_by,
    )


def _show(state: State, member: Member, act: Show) -> State:
    before = state.seen_by.get(member.id)
    if before is None:
        raise _wrong(".member", f"everybody sees {member.id}: what everybody knows cannot be hidden again")
    if act.seen_by is None:
        members = [_change(one, hidden=False) if one is member else one for one in state.region.members]
        seen_by = {name: others for name, others in state.seen_by.items() if name != member.id}
        shown = replace(_forget(state, _of_member(member.id)), seen_by=seen_by)
        return replace(shown, region=_change(state.region, members=members))
    following = frozenset(act.seen_by)
    if not before < following:
        raise _wrong(".seen_by", f"who sees {member.id} goes on seeing it; list others beside them")
    _check_seers(state, member.id, following)
    return replace(state, seen_by={**state.seen_by, member.id: following})


def _check_seers(state: State, member_id: str, seers: Iterable[str]) -> None:
    """ProtocolError unless everybody knows those that see a hidden member: or one list would tell of another."""
    public = {one.id for one in state.region.members if not one.hidden} - {member_id}
    if strangers := sorted(set(seers) - public - set(state.former)):
        raise _wrong(".seen_by", f"no members that everybody sees: {', '.join(strangers)}")


def _retired(state: State, member: Member, record: Record) -> Mapping[str, Mapping[str, datetime]]:
    """Which keys of connections have had their time after a change of keys."""
    act = record.act
    if not isinstance(act, Keys) or act.transport is None or member.transport is None:
        return state.retired
    before = state.retired.get(member.id, {})
    if act.transport in before or act.transport == member.transport:
        raise _wrong(".transport", "the key of a connection is replaced by one that was never used")
    own = {**before, member.transport: act.transport_until or record.at}
    return {**state.retired, member.id: own}


def _hand_over(state: State, act: Coordinate) -> list[Member]:
    """Who coordinated and nothing else observes from then on: it keeps its place, and has nothing to read."""
    following = state.member(act.member)
    if "coordinator" in following.roles:
        raise _wrong(".member", f"{following.id} coordinates already")
    members: list[Member] = []
    for member in state.region.members:
        roles = [role for role in member.roles if role != "coordinator"]
        if member is following:
            members.append(_change(member, roles=[*roles, "coordinator"]))
        elif len(roles) < len(member.roles):
            members.append(_change(member, roles=roles or ["observer"]))
        else:
            members.append(member)
    return members


def _admit(state: State, act: Admit) -> State:
    member = act.member
    if any(one.id == member.id for one in state.region.members):
        raise ProtocolError(Reason.MEMBER_EXISTS, "$.act.member.id", f"{member.id} is a member already")
    if member.status != "active":
        raise _wrong(".member.status", "a member begins as an active one")
    if member.hidden is (act.seen_by is None):
        raise _wrong(".seen_by", "a hidden member, and no other, has a list of those that see it")
    _check_looks(state, member.id, (member.id, member.name), act.resembles)
    former = {name: called for name, called in state.former.items() if name != member.id}
    members = sorted([*state.region.members, member], key=lambda one: one.id)
    after = replace(
        state,
        region=_change(state.region, members=members),
        former=former,
        former_hidden=state.former_hidden - {member.id},
    )
    if act.seen_by is None:
        return after
    _check_seers(state, member.id, act.seen_by)
    return replace(after, seen_by={**state.seen_by, member.id: frozenset(act.seen_by)})


def _check_looks(state: State, own: str, names: Iterable[str], resembles: Sequence[str]) -> None:
    """ProtocolError if one of the names could be taken for another member's, and the record does not say so."""
    looks = {skeleton(name) for name in names}
    hidden = {*state.seen_by, *state.former_hidden} - {own}
    if named := sorted(hidden.intersection(resembles)):
        raise _wrong(".resembles", f"{', '.join(named)}: a record does not tell of a hidden member; take another name")
    others = {member.id: member.name for member in state.region.members if member.id != own} | dict(state.former)
    for other, called in sorted(others.items()):
        if looks & {skeleton(other), skeleton(called)} and other not in resembles:
            advice = "take another name" if other in hidden else f"if that is meant, list {other} in `resembles`"
            detail = f"it can be taken for {other} ({called}); {advice}"
            raise ProtocolError(Reason.LOOKS_LIKE_ANOTHER, "$.act", detail)


def _changed(state: State, member: Member, act: Suspend | Resume | Keys | Roles | Describe) -> Member:
    match act:
        case Suspend():
            after = _change(member, status="suspended")
        case Resume():
            after = _change(member, status="active")
        case Keys():
            transport = act.transport or member.transport
            after = _change(member, keys=act.keys, sealing_keys=act.sealing_keys, transport=transport)
        case Roles():
            after = _change(member, roles=act.roles)
        case Describe():
            _check_looks(state, member.id, (act.name,), act.resembles)
            told = {"contacts": act.contacts, "languages": act.languages, "capabilities": act.capabilities}
            after = _change(member, name=act.name, **told)
    if after == member:
        raise _wrong("", f"{member.id} is so already")
    return after


def _groups(groups: Sequence[Group], act: FormGroup | Dissolve) -> list[Group]:
    if isinstance(act, FormGroup):
        others = [group for group in groups if group.id != act.group.id]
        return [*others, act.group]
    kept = [group for group in groups if str(group.id) != act.group]
    if len(kept) == len(groups):
        raise _wrong(".group", "there is no such sharing group")
    return kept


def _agreements(agreements: Sequence[Agreement], act: Agree | Terminate, at: datetime) -> list[Agreement]:
    if isinstance(act, Agree):
        return [*agreements, act.agreement]
    if act.until < at:
        raise _wrong(".until", "an agreement cannot end before this is said")
    if all(one.id != act.agreement for one in agreements):
        raise _wrong(".agreement", "there is no such agreement")
    return [_change(one, effective_until=act.until) if one.id == act.agreement else one for one in agreements]


def check_consistent(state: State) -> None:
    """ProtocolError unless members, keys, groups and agreements, trustees and threshold fit each other."""
    ids = [one.id for one in state.trustees]
    try:
        registry = Registry(state.region)
        keys = [VerifyKey.from_record(one.id, one.key).record.kid for one in state.trustees]
    except ConfigError as exc:
        raise _wrong("", str(exc)) from exc
    if len(set(ids)) != len(ids):
        raise _wrong(".trustees", "a trustee is listed twice")
    if len(set(keys)) != len(keys) or any(registry.keys.has(kid) for kid in keys):
        raise _wrong(".trustees", "a trustee has a key of its own, which nobody else has")
    if sum("coordinator" in member.roles for member in state.region.members) > 1:
        raise _wrong("", "a region has one coordinator: hand that over with a record of the kind `coordinate`")
    if state.threshold > len(ids):
        raise _wrong(".threshold", f"there are {len(ids)} trustees")
    if any(member.hidden and "coordinator" in member.roles for member in state.region.members):
        raise _wrong("", "a hidden member does not coordinate: everybody knows who does")
    _check_seen(state)


def _check_seen(state: State) -> None:
    """ProtocolError if a group or an agreement names a jurisdiction where only some see a member."""
    region = state.region
    public = {member.jurisdiction for member in region.members if not member.hidden}
    named = [(f"the agreement {one.id}", one.parties) for one in region.agreements]
    named += [(f"the sharing group {one.id}", one.jurisdictions) for one in region.groups]
    for what, jurisdictions in named:
        if unseen := sorted(set(jurisdictions) - public):
            raise _wrong("", f"{what} names {', '.join(unseen)}, where not everybody sees a member")
