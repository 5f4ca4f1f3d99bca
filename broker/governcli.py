"""`kentongan trustee …`, `kentongan members …`, and what `kentongan broker` does about who is in the region.

Trustees sign on a machine of their own, which needs no network and no broker: `members approve` shows in plain words
what a proposal says, and signs only if told so. Nothing is ever overwritten but a proposal by itself with one more
signature.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from broker import setup
from broker.config import load_config
from broker.governing import load_chain
from broker.proposals import (
    TRUSTEE_FILE,
    TRUSTEE_KEY,
    Outcome,
    approve,
    decide,
    make_trustee,
    propose,
    read_document,
    record,
    refused,
    write_new,
)
from protocol.chain import weigh
from protocol.enact import State
from protocol.errors import ConfigError, ProtocolError
from protocol.governance import (
    Act,
    Admit,
    Agree,
    Coordinate,
    Describe,
    Dissolve,
    Expel,
    FormGroup,
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
    open_record,
)
from protocol.govwords import headline, say
from protocol.keys import ALGORITHMS, ED25519, KeyRecord, SigningKey
from protocol.parse import convert
from protocol.registry import Agreement, Group, Member

Make = Callable[[argparse.Namespace, State], Act]


def _now() -> datetime:
    return datetime.now(UTC)


# --- trustees and their signatures ------------------------------------------------------------------------------


def add_parsers(commands: Any) -> None:
    """Mount `trustee` and `members`."""
    trustee = commands.add_parser("trustee", help="one of those who decide who is in the region")
    init = trustee.add_subparsers(required=True, metavar="COMMAND").add_parser("init", help="make a trustee's key")
    init.add_argument("directory", type=Path)
    init.add_argument("--id", required=True, help="such as ministry-id")
    init.add_argument("--name", required=True)
    init.add_argument("--algorithm", choices=sorted(ALGORITHMS), default=ED25519)
    init.set_defaults(run=_trustee)
    members = commands.add_parser("members", help="decide about members")
    approving = members.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "approve", help="show what a proposal says, and sign it"
    )
    approving.add_argument("proposal", type=Path)
    approving.add_argument("--key", type=Path, required=True, help="trustee.pem")
    approving.add_argument("--yes", action="store_true", help="sign what is shown")
    approving.set_defaults(run=_approve)


def _trustee(args: argparse.Namespace) -> int:
    file = args.directory / TRUSTEE_FILE
    if file.exists():
        raise ConfigError(f"{file} exists and is never overwritten: move it away first")
    made = make_trustee(args.directory / TRUSTEE_KEY, args.id, args.name, args.algorithm)
    write_new(file, msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    print(f"Made the trustee {made.id} ({made.name}). Its key: {made.key.kid}, until {made.key.not_after:%Y-%m-%d}.")
    print(f"Hand {file} to the broker's operator and read the key's id to all others; keep {TRUSTEE_KEY} to yourself.")
    return 0


def _approve(args: argparse.Namespace) -> int:
    data = _read(args.proposal)
    key = SigningKey.load(args.key)
    signed = approve(data, key)
    for line in say(_open(data)):
        print(line)
    if not args.yes:
        print(f"Nothing is signed yet. To sign this with the key {key.kid}, give the command again with --yes.")
        return 0
    fresh = args.proposal.with_name(args.proposal.name + ".new")
    fresh.write_bytes(signed)
    fresh.replace(args.proposal)
    print(f"Signed with the key {key.kid}: hand {args.proposal} back.")
    return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc


def _open(data: bytes) -> Signed:
    try:
        return open_record(data)
    except ProtocolError as exc:
        raise refused(exc) from exc


# --- the broker's operator --------------------------------------------------------------------------------------


def add_founding(init: argparse.ArgumentParser) -> None:
    """What `broker init` takes about trustees."""
    init.add_argument(
        "--trustee", type=Path, action="append", default=[], help="trustee.json; without any, you decide alone"
    )
    init.add_argument("--threshold", type=int, help="how many of the trustees it takes (default 1)")


def read_trustees(files: Sequence[Path]) -> list[Trustee]:
    """The trustees that these files name."""
    return [read_document(file, Trustee) for file in files]


def add_actions(actions: Any) -> None:
    """Mount what `kentongan broker` does about membership."""
    admit = actions.add_parser("admit", help="admit a member from the file that its `kentongan node init` wrote")
    admit.add_argument("directory", type=Path)
    admit.add_argument("member", type=Path, help="member.json")
    admit.add_argument("--policy", type=Path, action="append", default=[], help="its sharing policy (TOML)")
    admit.add_argument("--invitation", type=Path, help="where to write what its node needs to connect")
    _add_hiding(admit)
    admit.set_defaults(run=_admit)
    for name, status, text in (
        (
            "suspend",
            "suspended",
            "cut a member off; what is queued for it waits, what is decided meanwhile is not for it",
        ),
        ("resume", "active", "let a suspended member back in"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("directory", type=Path)
        action.add_argument("id")
        action.set_defaults(run=_status, status=status)
    _add_proposing(actions)
    recording = actions.add_parser("record", help="take a proposal that enough trustees have signed")
    recording.add_argument("directory", type=Path)
    recording.add_argument("proposal", type=Path, nargs="+", help="the proposal, or copies that were signed apart")
    recording.set_defaults(run=_record)
    shown = actions.add_parser("governance", help="show all records, from the founding on")
    shown.add_argument("directory", type=Path)
    shown.set_defaults(run=_show)
    invite = actions.add_parser("invite", help="write the invitation of a member that was admitted")
    invite.add_argument("directory", type=Path)
    invite.add_argument("id")
    invite.add_argument("invitation", type=Path, help="where to write it")
    invite.add_argument("--policy", type=Path, action="append", default=[], help="its sharing policy (TOML)")
    invite.set_defaults(run=_invite)


def _add_hiding(admit: argparse.ArgumentParser) -> None:
    admit.add_argument("--hidden", action="store_true", help="only some shall see it")
    admit.add_argument("--seen-by", action="append", default=[], metavar="ID", help="with --hidden: who sees it")


def _seen_by(args: argparse.Namespace) -> list[str] | None:
    if args.seen_by and not args.hidden:
        raise ConfigError("--seen-by is for a member that is --hidden")
    return list(args.seen_by) if args.hidden else None


def _admit(args: argparse.Namespace) -> int:
    outcome = setup.admit(args.directory, args.member, args.policy, args.invitation, _seen_by(args))
    act = outcome.signed.record.act
    if outcome.proposal is None and isinstance(act, Admit):
        member = act.member
        print(f"Admitted {member.id} ({member.name}, {member.jurisdiction}).")
        for key in member.keys:
            print(f"Compare with what its operator reads to you: signing key {key.kid}")
        for sealing in member.sealing_keys:
            print(f"Compare with what its operator reads to you: sealing key {sealing.kid}")
        if args.invitation:
            print(f"Hand {args.invitation} to its operator; nothing in it is secret.")
        return 0
    return tell(args.directory, outcome)


def _status(args: argparse.Namespace) -> int:
    outcome = setup.set_status(args.directory, args.id, args.status)
    if outcome.proposal is None:
        print(f"{args.id} is {args.status}.")
        return 0
    return tell(args.directory, outcome)


def tell(directory: Path, outcome: Outcome) -> int:
    """Who has to sign, and what to do then."""
    if outcome.proposal is None:
        print(f"Record {outcome.signed.record.number}: {headline(outcome.signed)}")
        return 0
    print(f"Not done yet: {headline(outcome.signed)}")
    who = ", ".join(f"{one.id} ({one.key.kid})" for one in outcome.trustees)
    print(f"{outcome.missing} more of the trustees have to sign: {who}")
    print(f"Each of them: `kentongan members approve {outcome.proposal} --key trustee.pem`")
    print(f"Then: `kentongan broker record {directory} {outcome.proposal}`")
    return 0


def _record(args: argparse.Namespace) -> int:
    signed = record(load_config(args.directory), [_read(path) for path in args.proposal])
    print(f"Record {signed.record.number}: {headline(signed)}")
    print(f"Its digest: {signed.digest}")
    return 0


def _show(args: argparse.Namespace) -> int:
    chain = load_chain(load_config(args.directory).region, _now())
    for data in chain.records:
        for line in say(open_record(data)):
            print(line)
        print()
    state = chain.state
    print(f"{len(state.region.members)} members; {state.threshold} of {len(state.trustees)} trustees decide.")
    return 0


def _invite(args: argparse.Namespace) -> int:
    setup.invite(args.directory, args.id, args.policy, args.invitation)
    print(f"Hand {args.invitation} to its operator; nothing in it is secret.")
    return 0


# --- proposing --------------------------------------------------------------------------------------------------


def _add_proposing(actions: Any) -> None:
    proposing = actions.add_parser("propose", help="write a proposal for the trustees to sign")
    proposing.add_argument("directory", type=Path)
    acts = proposing.add_subparsers(required=True, metavar="ACT")

    def add(name: str, text: str, make: Make, *arguments: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = acts.add_parser(name, help=text)
        for argument in arguments:
            parser.add_argument(argument, type=Path if argument == "file" else str)
        parser.add_argument("-o", "--out", type=Path, help="where to write it (default: under proposals/)")
        parser.set_defaults(run=_propose, make=make)
        return parser

    admit = add("admit", "a new member, from its member.json", _make_admit, "file")
    admit.add_argument("--resembles", action="append", default=[], metavar="ID", help="a member that it may look like")
    _add_hiding(admit)
    show = add("show", "who sees a hidden member, beside those that do", _make_show, "id")
    whom = show.add_mutually_exclusive_group(required=True)
    whom.add_argument("--to", action="append", metavar="ID")
    whom.add_argument("--to-all", action="store_true", help="everybody, for good")
    add("suspend", "cut a member off", lambda args, _: Suspend(member=args.id), "id")
    add("resume", "let a suspended member back in", lambda args, _: Resume(member=args.id), "id")
    add("expel", "end a membership", lambda args, _: Expel(member=args.id), "id")
    roles = add("roles", "what a member may do", _make_roles, "id")
    roles.add_argument("role", nargs="+", help="submitter, recipient, observer, auditor, coordinator")
    add("coordinate", "who coordinates from now on", lambda args, _: Coordinate(member=args.id), "id")
    add("keys", "a member's keys as they shall be, from its member.json", _make_keys, "file")
    revoke = add("revoke", "a key of a member counts no more, from a time on", _make_revoke, "id")
    revoke.add_argument("kid")
    revoke.add_argument("--since", required=True, help="a time with a zone, such as 2026-03-31T08:00:00Z")
    describe = add(
        "describe", "name, contacts, languages and capabilities, from its member.json", _make_describe, "file"
    )
    describe.add_argument(
        "--resembles", action="append", default=[], metavar="ID", help="a member that it may look like"
    )
    add("group", "a sharing group, from a JSON or TOML file", _make_group, "file")
    add("dissolve", "end a sharing group", lambda args, _: Dissolve(group=args.id), "id")
    add("agree", "an agreement, from a JSON or TOML file", _make_agreement, "file")
    terminate = add("terminate", "end an agreement", _make_termination, "id")
    terminate.add_argument("--until", required=True, help="a time with a zone, such as 2026-03-31T00:00:00Z")
    trustees = add("trustees", "the trustees as they shall be", _make_trustees)
    trustees.add_argument("trustee", type=Path, nargs="+", help="trustee.json of each")
    trustees.add_argument("--threshold", type=int, required=True, help="how many of them it takes")
    add("broker-keys", "the broker's keys as they shall be, from a JSON list of key records", _make_broker_keys, "file")
    quorum = add("quorum", "how many nodes must cosign a checkpoint; 0 for more than half", _make_quorum)
    quorum.add_argument("number", type=int)


def _propose(args: argparse.Namespace) -> int:
    config = load_config(args.directory)
    state = load_chain(config.region, _now()).state
    act: Act = args.make(args, state)
    if args.out is None:
        return tell(args.directory, decide(config, act))
    data = propose(state, act)
    _check_possible(state, _open(data))
    write_new(args.out, data)
    for line in say(_open(data)):
        print(line)
    print(f"Each trustee: `kentongan members approve {args.out} --key trustee.pem`; {state.threshold} have to sign.")
    return 0


def _check_possible(state: State, signed: Signed) -> None:
    """ConfigError if no signatures could make this a record."""
    try:
        weigh(state, signed, _now())
    except ProtocolError as exc:
        if exc.path != "$.signatures":
            raise refused(exc) from exc


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError(f"{text[:40]!r} is not a time such as 2026-03-31T08:00:00Z") from exc
    if at.tzinfo is None:
        raise ConfigError(f"{text[:40]!r} needs a zone: write 2026-03-31T08:00:00Z")
    return at


def _member(state: State, member_id: str) -> Member:
    try:
        return state.member(member_id)
    except ProtocolError as exc:
        raise ConfigError(exc.detail) from exc


def _valid(act: Act) -> Act:
    """What an operator typed, held to the types of a record."""
    try:
        return convert(msgspec.to_builtins(act), Act)  # type: ignore[arg-type]
    except ProtocolError as exc:
        raise ConfigError(f"{exc.detail} ({exc.reason.value} at {exc.path})") from exc


def _make_admit(args: argparse.Namespace, _: State) -> Act:
    member, seen_by = read_document(args.file, Member), _seen_by(args)
    member = msgspec.structs.replace(member, hidden=seen_by is not None)
    return _valid(Admit(member=member, resembles=args.resembles, seen_by=seen_by))


def _make_show(args: argparse.Namespace, state: State) -> Act:
    seen_by = None if args.to_all else sorted({*state.seen_by.get(args.id, ()), *args.to})
    return _valid(Show(member=args.id, seen_by=seen_by))


def _make_roles(args: argparse.Namespace, _: State) -> Act:
    return _valid(Roles(member=args.id, roles=args.role))


def _make_keys(args: argparse.Namespace, _: State) -> Act:
    member = read_document(args.file, Member)
    return Keys(member=member.id, keys=member.keys, sealing_keys=member.sealing_keys)


def _make_revoke(args: argparse.Namespace, state: State) -> Act:
    member, since = _member(state, args.id), _moment(args.since)
    lists: list[list[Any]] = [list(member.keys), list(member.sealing_keys)]
    if all(record.kid != args.kid for records in lists for record in records):
        raise ConfigError(f"{member.id} has no key {args.kid}")
    keys, sealing = (
        [msgspec.structs.replace(one, revoked_at=since) if one.kid == args.kid else one for one in records]
        for records in lists
    )
    return Keys(member=member.id, keys=keys, sealing_keys=sealing)


def _make_describe(args: argparse.Namespace, _: State) -> Act:
    member = read_document(args.file, Member)
    told = {"contacts": member.contacts, "languages": member.languages, "capabilities": member.capabilities}
    return _valid(Describe(member=member.id, name=member.name, resembles=args.resembles, **told))


def _make_group(args: argparse.Namespace, _: State) -> Act:
    return FormGroup(group=read_document(args.file, Group))


def _make_agreement(args: argparse.Namespace, _: State) -> Act:
    return Agree(agreement=read_document(args.file, Agreement))


def _make_termination(args: argparse.Namespace, _: State) -> Act:
    return _valid(Terminate(agreement=args.id, until=_moment(args.until)))


def _make_trustees(args: argparse.Namespace, _: State) -> Act:
    return _valid(SetTrustees(trustees=read_trustees(args.trustee), threshold=args.threshold))


def _make_broker_keys(args: argparse.Namespace, _: State) -> Act:
    return SetBrokerKeys(broker_keys=read_document(args.file, list[KeyRecord]))


def _make_quorum(args: argparse.Namespace, _: State) -> Act:
    return _valid(SetQuorum(quorum=args.number or None))
