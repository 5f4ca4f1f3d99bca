"""A governance record in plain words, for the person who is asked to sign it. Pure.

Guarantees: everything that the record changes is said, with the ids of all keys; nothing is said that it does not hold.
Text that others wrote is shown with its unprintable characters escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from protocol.governance import (
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
    Resume,
    Roles,
    SetBrokerKeys,
    SetQuorum,
    SetTrustees,
    Show,
    Signed,
    Suspend,
    Terminate,
    Trustee,
)
from protocol.keys import KeyRecord
from protocol.sealing import SealingKeyRecord


def _day(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _text(text: str) -> str:
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def _keys(what: str, records: Sequence[KeyRecord | SealingKeyRecord]) -> Iterator[str]:
    for record in records:
        revoked = f", revoked from {_day(record.revoked_at)}" if record.revoked_at else ""
        yield f"{what} {record.kid}, valid from {_day(record.not_before)} until {_day(record.not_after)}{revoked}"


def _trustees(trustees: Sequence[Trustee], threshold: int) -> Iterator[str]:
    yield f"{threshold} of these {len(trustees)} trustees decide from then on:"
    for one in trustees:
        yield from _keys(f"  {one.id} ({_text(one.name)}) with the key", [one.key])


def headline(signed: Signed) -> str:
    """One line that says what the record does."""
    act = signed.deed
    match act:
        case Closed():
            return "Something that is not shown to this member."
        case Found():
            return f"Found the region {_text(signed.record.region)}."
        case SetTrustees():
            return "The trustees change."
        case SetBrokerKeys():
            return "The keys of the broker are these."
        case SetQuorum():
            return f"Witnesses that must cosign a checkpoint: {act.quorum or 'more than half'}."
        case FormGroup():
            return f"The sharing group {act.group.id} is {_text(act.group.name)}: {', '.join(act.group.jurisdictions)}."
        case Dissolve():
            return f"The sharing group {_text(act.group)} ends."
        case Agree():
            return f"The agreement {act.agreement.id} ({_text(act.agreement.title)}) is made."
        case Terminate():
            return f"The agreement {act.agreement} ends at {_day(act.until)}."
        case _:
            return _of_member(act)


def _of_member(act: Admit | Suspend | Resume | Expel | Keys | Roles | Coordinate | Show | Describe) -> str:
    match act:
        case Show():
            others = "everybody" if act.seen_by is None else ", ".join(act.seen_by)
            return f"{act.member}, which is hidden, is seen by: {others}."
        case Admit():
            return f"Admit {act.member.id} ({_text(act.member.name)}) of {act.member.jurisdiction}."
        case Suspend():
            return f"Suspend {act.member}."
        case Resume():
            return f"Let {act.member} back in."
        case Expel():
            return f"Expel {act.member} for good."
        case Keys():
            return f"The keys of {act.member} are these."
        case Coordinate():
            return f"{act.member} coordinates the region from now on, and nobody else."
        case Roles():
            return f"The roles of {act.member} are: {', '.join(act.roles) or 'none'}."
        case Describe():
            return f"{act.member} is called {_text(act.name)}."


def details(signed: Signed) -> list[str]:
    """What the headline leaves out."""
    act = signed.deed
    found: list[str] = []
    if signed.inner is not None:
        found.append("shown only to those whom it concerns")
    match act:
        case Found():
            found += _trustees(act.trustees, act.threshold)
            found += _keys("the broker signs with the key", act.broker_keys)
            found.append(f"witnesses that must cosign a checkpoint: {act.quorum or 'more than half'}")
        case Admit():
            found += _admission(act)
        case Keys():
            found += _keys("it signs with the key", act.keys)
            found += _keys("reports are sealed to it with the key", act.sealing_keys)
            found += _keys_of_bus(act.transport)
            found += _end_of_bus_key(act)
        case Describe():
            found += _told(act.contacts, act.languages, act.capabilities)
            if act.resembles:
                found.append(f"it may look like {', '.join(act.resembles)}, which is meant so")
        case Agree():
            agreement = act.agreement
            until = f" until {_day(agreement.effective_until)}" if agreement.effective_until else ""
            found.append(f"between {', '.join(agreement.parties)}, from {_day(agreement.effective_from)}{until}")
        case SetTrustees():
            found += _trustees(act.trustees, act.threshold)
        case SetBrokerKeys():
            found += _keys("key", act.broker_keys)
        case _:
            pass
    return found


def _admission(act: Admit) -> Iterator[str]:
    member = act.member
    yield f"its roles: {', '.join(member.roles) or 'none'}"
    if act.seen_by is not None:
        yield f"it is hidden, and seen by: {', '.join(act.seen_by) or 'nobody else'}"
    yield from _keys("it signs with the key", member.keys)
    yield from _keys("reports are sealed to it with the key", member.sealing_keys)
    yield from _keys_of_bus(member.transport)
    yield from _told(member.contacts, member.languages, member.capabilities)
    if act.resembles:
        yield f"it may look like {', '.join(act.resembles)}, which is meant so"


def _keys_of_bus(transport: str | None) -> Iterator[str]:
    if transport is not None:
        yield f"it connects with the key {transport}"


def _end_of_bus_key(act: Keys) -> Iterator[str]:
    if act.transport is not None:
        until = f" from {_day(act.transport_until)} on" if act.transport_until else ""
        yield f"with the key before that it cannot connect any more{until}"


def _told(contacts: Sequence[str], languages: Sequence[str], capabilities: Sequence[str]) -> Iterator[str]:
    for what, told in (("reached by", contacts), ("speaks", languages), ("can help with", capabilities)):
        if told:
            yield f"{what}: {', '.join(map(_text, told))}"


def say(signed: Signed) -> list[str]:
    """A record as a whole, a line each: its place, what it does, who has signed."""
    record = signed.record
    place = f"Record {record.number} of the region {_text(record.region)}, dated {_day(record.at)}"
    after = f", after {record.previous}" if record.previous else ""
    kids = [parts.kid for parts in (signed.inner or signed).signatures]
    return [
        f"{place}{after}.",
        headline(signed),
        *(f"  {line}" for line in details(signed)),
        f"Its digest: {signed.digest}",
        f"Signed by the keys: {', '.join(kids) or 'none yet'}",
    ]
