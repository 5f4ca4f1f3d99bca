"""`kentongan node …`: make a node, join a region with it, run it, see to its alarms.

Private keys are made here and never leave: `member.json` holds public parts only. Nothing is ever overwritten.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from node import app, keycli, offline
from node.alarms import LONGEST_NAME, clear_alarm
from node.asking import ENVIRONMENT, do, post
from node.auditcli import add_audit
from node.check import check_node
from node.config import (
    DEFAULT_PORT,
    FILE,
    FINGERPRINT_KEY,
    NATS_CREDS,
    NATS_NEXT,
    NATS_SEED,
    SEALING_KEY,
    SIGNING_KEY,
    Config,
    find_config,
    load_config,
)
from node.dialling import keep_ca, keep_certificate
from node.directory import directory, in_lines
from node.keycli import held_trust
from node.pushcli import add_webhooks
from node.reading import open_reader
from node.reviewcli import add_review
from node.store import Store, microseconds
from node.tokencli import add_commands
from node.trust import Trust
from node.upgradecli import add_command as add_upgrade
from node.upgradecli import before_run
from node.views import iso
from protocol import natsauth, process
from protocol.chain import fold
from protocol.enact import Sight
from protocol.errors import ConfigError, ProtocolError
from protocol.faults import tell
from protocol.governance import open_record
from protocol.govwords import say
from protocol.hsm import HsmKey
from protocol.invitation import load_invitation, save_invitation
from protocol.keys import ALGORITHMS, ED25519, SigningKey, replace_secret, write_secret
from protocol.parse import convert
from protocol.process import encode_toml_string
from protocol.registry import Member, Role
from protocol.sealing import SealingKey

KEY_LIFE: Final = timedelta(days=365)
MEMBER_FILE: Final = "member.json"
_PAGE: Final = 500

_NODE_TOML: Final = """\
# The configuration of one Kentongan node. Paths are relative to this file.

member = {member}              # the id under which the region knows this organisation
jurisdiction = {jurisdiction}        # ISO 3166-1 alpha-2 in lower case, or a registered name
name = {name}
data = "data"                  # database, region document, lock; back it up
keys = "keys"                  # private keys; files of mode 0400
{signing}policy = "policy.toml"         # who may get what; a change is taken within a second
invitation = "invitation.json" # from the broker's operator, with `kentongan node join`

[http]
host = "127.0.0.1"             # who can reach this can try tokens: have TLS before opening it
port = {port}
# tls_cert = "tls/node.pem"    # HTTPS; tls_key too if the key is in a file of its own
# client_ca = "tls/clients.pem" # certificates of this CA stand for the tokens that name them

[[token]]                      # may do everything: with it, make one for each tool, `kentongan node token create`
name = "first"
sha256 = "{sha256}"

[escalation]                   # minutes after which a report that nobody read is told of, here and at its origin
enabled = true
critical = 30                  # a severity score from 90
high = 120                     # from 70
medium = 1440                  # from 40, or not stated
low = 4320

# [[webhook]]                  # events as signed HTTP requests, and as syslog: docs/observe.md
# name = "soc"
# url = "https://soc.example/kentongan"
# secret_file = "keys/webhook.secret"
# kinds = ["alarm", "report.unread", "report.unconfirmed", "webhook.disabled"]

# [review]                     # filings that wait for a person
# refused_days = 90            # so long the content of a refused one is kept; that and why it was refused stays

# [taxii]                      # others' reports for OpenCTI, Splunk, Sentinel, under /taxii2/: docs/connect/taxii.md
# enabled = true
# intake = false               # whether they may also post incidents to be filed

[limits]
backlog = 200000               # reports that may wait for the broker before new ones are refused

[log]                          # minutes on the link after which the broker's silence is an alarm
stalled_minutes = 10           # something that it promised is under no checkpoint, or not proven
unwitnessed_minutes = 15       # a checkpoint does not get its quorum of witnesses
receipt_minutes = 10           # a submission has no receipt
"""

_POLICY_TOML: Final = """\
# The sharing policy of {jurisdiction}. Nothing is shared or taken in unless a rule allows it; a deny rule outranks
# every allow rule. Raise `version` with every change, and hand the file to the broker's operator: both sides apply it.

jurisdiction = {jurisdiction}
version = 1
effective_from = {now}
description = "Cautious default, made by `kentongan node init`"

[[export]]
id = "warn-the-neighbours"
effect = "allow"
because = "Technical facts let others protect themselves and say nothing about who was hit"
to = ["*"]
disclose = ["title", "@technical", "@assessment"]
level = {{ "times" = "coarse", "entity_counts" = "coarse" }}

[export.when]
tlp = ["CLEAR", "GREEN", "AMBER"]

[[export]]
id = "named-circle"
effect = "allow"
because = "Who files a report for named recipients has chosen them; victims and persons still stay here"
to = ["*"]
disclose = ["@narrative", "@technical", "@assessment", "@operational"]

[export.when]
tlp = ["AMBER+STRICT", "RED"]

[[export]]
id = "no-persons"
effect = "deny"
because = "Personal data leaves the country only after a decision of the data protection officer"
to = ["*"]
disclose = ["@personal"]

[[export]]
id = "no-victims"
effect = "deny"
because = "Victims report to us in confidence; others get the sector at most"
to = ["*"]
disclose = ["@victim", "@location", "@financial"]
level = {{ "victim" = "coarse", "geo" = "coarse" }}

[[import]]
id = "take-what-is-shared"
effect = "allow"
because = "We hold what others decided to share with us"
from = ["*"]
disclose = ["*"]

[[import]]
id = "no-foreign-persons"
effect = "deny"
because = "We have no legal ground to hold personal data of other countries' citizens"
from = ["*"]
disclose = ["@personal"]
level = {{ "contacts" = "coarse" }}
"""


def add_parser(subparsers: Any, approve: Callable[[Path], None] = lambda _: None) -> None:
    """Mount `node` with its commands under the program's parser. Each sets `run`, called with the arguments."""
    node = subparsers.add_parser("node", help="a national CERT's side")
    commands = node.add_subparsers(required=True, metavar="COMMAND")
    init = commands.add_parser("init", help="make keys, configuration and a cautious policy in a new directory")
    init.add_argument("dir", type=Path)
    init.add_argument("--member", required=True, help="id in the region, such as id-cert")
    init.add_argument("--jurisdiction", help="default: the member id up to its first -")
    init.add_argument("--name", help="default: the member id")
    init.add_argument("--port", type=int, default=DEFAULT_PORT)
    init.add_argument("--contact", action="append", default=[], help="how others reach you, around the clock")
    init.add_argument("--language", action="append", default=[], help="such as en, id: in which you can be spoken to")
    init.add_argument("--capability", action="append", default=[], help="with what you can help: malware-analysis, …")
    init.add_argument("--role", action="append", choices=get_args(Role), help="default: submitter and recipient")
    init.add_argument("--algorithm", choices=sorted(ALGORITHMS), default=ED25519, help="of the signing key")
    init.add_argument("--signing", metavar="URI", help="the signing key in a token (pkcs11:…), made if need be")
    init.set_defaults(run=_init)
    join = commands.add_parser("join", help="take the invitation from the broker's operator")
    join.add_argument("dir", type=Path)
    join.add_argument("invitation", type=Path)
    join.set_defaults(run=lambda args: _join(args.dir, args.invitation))
    alarms = commands.add_parser("alarms", help="list alarms, or note that one was dealt with")
    alarms.add_argument("place", type=Path, metavar="DIR|node.toml")
    alarms.add_argument("--all", action="store_true", help="also those that were cleared")
    alarms.add_argument("--clear", type=int, metavar="ID", help="note that this one was dealt with")
    alarms.add_argument("--by", help="who dealt with it")
    alarms.add_argument("--token", help=f"to clear while the node runs; default: {ENVIRONMENT} of the environment")
    alarms.set_defaults(run=_alarms)
    check = commands.add_parser("check", help="hold everything that the node has stored to what was signed")
    check.add_argument("place", type=Path, metavar="DIR|node.toml")
    check.add_argument("--json", action="store_true", help="a JSON object a line")
    check.set_defaults(run=lambda args: _check(args.place, as_json=args.json))
    keycli.add_parsers(commands)
    add_commands(commands)
    add_review(commands)
    verify = commands.add_parser(
        "verify-membership", help="follow the region's records again, from the founding one that the invitation pins"
    )
    verify.add_argument("place", type=Path, metavar="DIR|node.toml")
    verify.add_argument("--out", type=Path, metavar="DIR", help="write the records there, as a broker keeps them")
    verify.set_defaults(run=lambda args: _verify_membership(args.place, args.out))
    listed = commands.add_parser("directory", help="who is in the region, how to reach them, and which keys count")
    listed.add_argument("place", type=Path, metavar="DIR|node.toml")
    listed.add_argument("--json", action="store_true", help="as one JSON object")
    listed.set_defaults(run=lambda args: _directory(args.place, as_json=args.json))
    add_webhooks(commands)
    add_audit(commands)
    add_upgrade(commands)
    run = commands.add_parser("run", help="run the node until SIGTERM")
    run.add_argument("place", type=Path, metavar="DIR|node.toml")
    run.add_argument("--upgrade", action="store_true", help="first do what `upgrade` does, if need be")
    run.set_defaults(run=lambda args: _run(args, approve))


def main(arguments: list[str] | None = None) -> int:
    """`python -m node.cli node …`: the same commands without the rest of the program."""
    parser = argparse.ArgumentParser(prog="kentongan")
    add_parser(parser.add_subparsers(required=True, metavar="COMMAND"))
    args = parser.parse_args(arguments)
    return process.exit_code(lambda: int(args.run(args)), lambda text: print(text, file=sys.stderr))


def _run(args: argparse.Namespace, approve: Callable[[Path], None]) -> int:
    config = load_config(find_config(args.place))
    before_run(config, args.place, allowed=args.upgrade)
    return app.run(config, approve)


def _directory(place: Path, *, as_json: bool) -> int:
    config = load_config(find_config(place))
    with closing(open_reader(config.data, config.store)) as store:
        registry = held_trust(config, store).registry
    found = directory(registry, config.jurisdiction, datetime.now(UTC))
    for line in [msgspec.json.encode(found).decode()] if as_json else in_lines(found):
        print(line)
    return 0


def _init(args: argparse.Namespace) -> int:
    place, member_id, port = args.dir, args.member, args.port
    jurisdiction = args.jurisdiction or member_id.partition("-")[0]
    name = args.name or member_id
    now = datetime.now(UTC).replace(microsecond=0)
    key, where = _new_key(args)
    seed = natsauth.create_seed(natsauth.Role.USER, secrets.token_bytes(natsauth.SEED_ENTROPY))
    # A clock that runs a little ahead here must not make the key invalid there.
    record = key.record(now - timedelta(hours=1), now + KEY_LIFE)
    sealing = SealingKey.generate()
    document = {
        "id": member_id,
        "jurisdiction": jurisdiction,
        "name": name,
        "contacts": args.contact,
        "languages": args.language,
        "capabilities": args.capability,
        "keys": [msgspec.to_builtins(record)],
        "sealing_keys": [msgspec.to_builtins(sealing.record(record.not_before, record.not_after))],
        "transport": natsauth.public_of(seed, natsauth.Role.USER),
    }
    if args.role:
        document["roles"] = args.role
    try:
        member = convert(document, Member)
    except ProtocolError as exc:
        raise ConfigError(f"--{exc.path.removeprefix('$.').replace('id', 'member', 1)}: {exc.detail}") from exc
    place.mkdir(parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    if isinstance(key, SigningKey):
        key.save(place / "keys" / SIGNING_KEY)
    else:
        key.close()
    sealing.save(place / "keys" / SEALING_KEY)
    write_secret(place / "keys" / NATS_SEED, seed.encode("ascii"))
    write_secret(place / "keys" / FINGERPRINT_KEY, secrets.token_bytes(32))
    texts = {
        FILE: _NODE_TOML.format(
            member=encode_toml_string(member_id),
            jurisdiction=encode_toml_string(jurisdiction),
            name=encode_toml_string(name),
            port=port,
            signing=f"signing = {encode_toml_string(args.signing)}\n" if args.signing else "",
            sha256=hashlib.sha256(token.encode()).hexdigest(),
        ),
        "policy.toml": _POLICY_TOML.format(
            jurisdiction=encode_toml_string(jurisdiction), now=now.isoformat().replace("+00:00", "Z")
        ),
        MEMBER_FILE: msgspec.json.format(msgspec.json.encode(member)).decode() + "\n",
    }
    for file, text in texts.items():
        _write_new(place / file, text)
    print(f"made {place} for {member_id}; the signing key {key.kid} is valid until {record.not_after:%Y-%m-%d}")
    if where:
        print(where)
    print(f"token of the client 'first', shown this once: {token}")
    print(f"next: hand {place / MEMBER_FILE} to the broker's operator, then `kentongan node join {place} INVITATION`")
    return 0


def _new_key(args: argparse.Namespace) -> tuple[SigningKey | HsmKey, str]:
    """The signing key of a new node, and a sentence on where it is if it is in a token."""
    if args.signing is None:
        return SigningKey.generate(args.algorithm), ""
    if args.algorithm != ED25519:
        raise ConfigError(f"a key in a token is of {ED25519}: leave out --algorithm")
    if find_config(args.dir).exists():
        raise ConfigError(f"{find_config(args.dir)} exists and is never overwritten: move it away first")
    key, made = HsmKey.make(args.signing)
    return key, "the signing key was made in the token" if made else "the signing key was in the token already"


def _join(place: Path, invitation_file: Path) -> int:
    config = load_config(find_config(place))
    invitation = load_invitation(invitation_file)
    if invitation.member != config.member:
        raise ConfigError(f"{invitation_file} is for {invitation.member}, {place} is {config.member}")
    trust = Trust.invited(invitation, lambda: datetime.now(UTC))
    present = load_invitation(config.invitation) if config.invitation.exists() else invitation
    offline.newest(Trust.invited(present, lambda: datetime.now(UTC)), trust)
    seed = offline.seed_for(config.keys, invitation)
    creds = config.keys / NATS_CREDS
    if creds.exists() and config.invitation.exists() and present == invitation:
        print(f"{config.member} has this invitation already")
        return 0
    keep_ca(config.keys, invitation.ca)
    keep_certificate(config.keys, invitation.certificate, seed)
    replace_secret(creds, natsauth.format_creds(invitation.user_jwt, seed).encode("ascii"))
    (config.keys / NATS_NEXT).unlink(missing_ok=True)
    save_invitation(config.invitation, invitation)
    members = len(trust.registry.members)
    print(f"Compare with a trustee: the region's founding record is {trust.genesis}")
    print(f"{config.member} joined {trust.registry.region.region} ({members} members): `kentongan node run {place}`")
    return 0


def _alarms(args: argparse.Namespace) -> int:
    config = load_config(find_config(args.place))
    if args.clear is not None:
        if not args.by or len(args.by) > LONGEST_NAME:
            raise ConfigError(f"say who dealt with it: --by NAME, of at most {LONGEST_NAME} characters")
        _clear(config, args.clear, args.by, args.token or os.environ.get(ENVIRONMENT, ""))
        print(f"alarm {args.clear} is cleared")
        return 0
    with closing(open_reader(config.data, config.store)) as store, store.read() as reads:
        after, shown = 0, 0
        while rows := reads.alarms_page(after, _PAGE, cleared=args.all):
            for row in rows:
                print(_alarm_text(row))
            after, shown = rows[-1].id, shown + len(rows)
    if not shown:
        print("no alarms" if args.all else "no open alarms")
    return 0


def _alarm_text(row: Any) -> str:
    facts = " ".join(f"{name}={value}" for name, value in msgspec.json.decode(row.facts).items() if value is not None)
    text = f"{row.id}: {row.about}, {row.kind}: {row.times} times from {iso(row.first_at)} to {iso(row.last_at)}"
    cleared = f"; cleared {iso(row.cleared_at)} by {row.cleared_by}" if row.cleared_at is not None else ""
    return f"{text}; {facts}{cleared}" if facts else text + cleared


def _clear(config: Config, number: int, by: str, token: str) -> None:
    def offline(store: Store) -> None:
        with store.write() as tx:
            clear_alarm(tx, number, by, microseconds(datetime.now(UTC)))

    def online() -> None:
        post(config, f"/v1/alarms/{number}/clear", {"by": by}, token)

    do(config, offline, online)


def _check(place: Path, *, as_json: bool) -> int:
    config = load_config(find_config(place))

    def progress(what: str, rows: int) -> None:
        if rows >= 10_000 and rows % 10_000 < 100:
            print(f"{what}: {rows}", file=sys.stderr)

    with closing(open_reader(config.data, config.store)) as store:
        findings = check_node(store, config.member, held_trust(config, store), datetime.now(UTC), progress)
        return tell(findings, print, as_json=as_json)


def _verify_membership(place: Path, out: Path | None) -> int:
    """From what is on disk alone: nobody is asked."""
    config = load_config(find_config(place))
    invitation = load_invitation(config.invitation)
    records = list(invitation.governance)
    if (config.data / "node.db").is_file():
        with closing(open_reader(config.data, config.store)) as store, store.read() as reads:
            held = [row.record for row in reads.governance()]
        records = held + records[len(held) :]
    data = [text.encode("ascii", "replace") for text in records]
    try:
        sight = Sight(config.member, config.jurisdiction)
        state = fold(data, invitation.genesis, datetime.now(UTC), sight)
    except ProtocolError as exc:
        raise ConfigError(f"the records here do not hold: {exc.detail} ({exc.reason.value} at {exc.path})") from exc
    for text in data:
        for line in say(open_record(text)):
            print(line)
        print()
    region = state.region
    print(f"{len(data)} records of {region.region} hold, from the founding record {invitation.genesis} on.")
    print(f"{len(region.members)} members; {state.threshold} of {len(state.trustees)} trustees decide.")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for number, record in enumerate(records):
            _write_new(out / f"{number:06}.json", record)
    return 0


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as exc:
        raise ConfigError(f"{path} exists and is never overwritten: move it away first") from exc


if __name__ == "__main__":
    sys.exit(main())
