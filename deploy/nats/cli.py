"""`python -m deploy.nats …`: the accounts of a region whose bus is a NATS cluster of its own.

With `[nats] mode = "embedded"` the broker does all this itself. With `"external"` its operator runs it beside the
broker's directory, which holds the keys: `operator` once, `push` after every admission, suspension and resumption,
`invite` for each member. Nothing is ever overwritten but the servers' view of who may do what.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from broker.accounts import Accounts
from broker.config import Config, load_config
from broker.members import load_region
from broker.ownkey import load_records
from broker.setup import invitation
from protocol import process, subjects
from protocol.bus import NatsBus
from protocol.dialing import Tls
from protocol.errors import ConfigError, Transient
from protocol.invitation import save_invitation
from protocol.keys import write_secret
from protocol.registry import Member, Region

CREDS: Final = "broker.creds"
_PATIENCE: Final = 10.0
_MEMBER_KEY: Final = "member-"

_OPERATOR_CONF: Final = """\
# Who signs the accounts of the region {region}, and the account in which they are pushed. Nothing secret.
operator: {operator}
system_account: {system}
resolver_preload: {{
  {system}: {claim}
}}
"""


class _Answer(msgspec.Struct):
    """What a server says to a pushed claim."""

    data: dict[str, object] = {}


def parser() -> argparse.ArgumentParser:
    """The commands."""
    found = argparse.ArgumentParser(prog="python -m deploy.nats", description=(__doc__ or "").splitlines()[0])
    commands = found.add_subparsers(required=True, metavar="COMMAND")
    operator = commands.add_parser("operator", help="make the servers' operator.conf and the broker's credentials")
    operator.add_argument("directory", type=Path, help="the broker's directory")
    operator.add_argument("out", type=Path, help="the file to make, for each of the servers")
    operator.set_defaults(run=lambda args: _operator(args.directory, args.out))
    push = commands.add_parser("push", help="tell the servers who is a member, and who is suspended")
    push.add_argument("directory", type=Path, help="the broker's directory")
    push.set_defaults(run=lambda args: _push(args.directory))
    invite = commands.add_parser("invite", help="make the invitation of a member that was admitted")
    invite.add_argument("directory", type=Path, help="the broker's directory")
    invite.add_argument("id", help="the member")
    invite.add_argument("out", type=Path, help="the invitation to make")
    invite.set_defaults(run=lambda args: _invite(args.directory, args.id, args.out))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run a command; exit codes as those of `kentongan`."""
    args = parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run
    return process.exit_code(lambda: run(args), lambda text: print(f"deploy.nats: {text}", file=sys.stderr))


def _operator(directory: Path, out: Path) -> int:
    config = load_config(directory)
    accounts = Accounts.load(config.keys / "nats")
    region = _region(config)
    now = int(time.time())
    text = _OPERATOR_CONF.format(
        region=region.region,
        operator=accounts.operator_jwt(now),
        system=accounts.system_account,
        claim=accounts.system_account_jwt(now),
    )
    creds = config.keys / "nats" / CREDS
    if not creds.exists():
        write_secret(creds, accounts.broker_creds(now).encode("ascii"))
    _write_new(out, text)
    print(f"made {out}: the same for every server, nothing secret in it")
    print(f"the broker's credentials are {creds}: name them in [nats] of {directory / 'broker.toml'}")
    return 0


def _push(directory: Path) -> int:
    config = _external(directory)
    accounts = Accounts.load(config.keys / "nats")
    region = _region(config)
    nodes = [member for member in region.members if member.keys]
    claims = _claims(config, accounts, nodes, int(time.time()))
    process.run(_send(config, accounts, claims))
    cut = sorted(member.id for member in nodes if member.status != "active")
    print(f"pushed {len(claims)} accounts for {len(nodes)} members; suspended: {', '.join(cut) or 'none'}")
    return 0


def _claims(config: Config, accounts: Accounts, nodes: list[Member], now: int) -> list[str]:
    """The broker's account first: a member's imports from it must find what it exports."""
    ids = {member.id for member in nodes}
    gone = {path.stem.removeprefix(_MEMBER_KEY) for path in (config.keys / "nats").glob(f"{_MEMBER_KEY}*.nk")} - ids
    return [
        accounts.broker_account_jwt(ids, now),
        *(accounts.member_account_jwt(one.id, now, revoked=one.status != "active") for one in nodes),
        *(accounts.closed_account_jwt(accounts.member_account(name), now) for name in sorted(gone)),
    ]


async def _send(config: Config, accounts: Accounts, claims: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        creds = Path(place) / "system.creds"
        write_secret(creds, accounts.system_creds(int(time.time())).encode("ascii"))
        bus = await NatsBus.connect(
            str(config.nats.url),
            creds=creds,
            name="kentongan-accounts",
            stream=subjects.INTAKE_STREAM,
            consumer=subjects.BROKER_CONSUMER,
            tls=Tls(ca_file=config.nats.ca_file) if config.nats.ca_file else None,
            connect_timeout=_PATIENCE,
        )
        try:
            for claim in claims:
                answer = await bus.request(subjects.CLAIMS_UPDATE, claim.encode("ascii"), _PATIENCE)
                if msgspec.json.decode(answer, type=_Answer).data.get("code") != 200:
                    raise Transient(f"a server did not take an account: {answer.decode('utf-8', 'replace')}")
        finally:
            await asyncio.shield(bus.close())


def _invite(directory: Path, member_id: str, out: Path) -> int:
    config = _external(directory)
    region = _region(config)
    member = next((one for one in region.members if one.id == member_id), None)
    if member is None:
        raise ConfigError(f"{member_id} is no member: `kentongan broker admit {directory} MEMBER.json` first")
    if member.transport is None:
        raise ConfigError(f"{member_id} has no transport key: its file must come from `kentongan node init`")
    if out.exists():
        raise ConfigError(f"{out} exists and is never overwritten: move it away first")
    user = Accounts.load(config.keys / "nats").issue_user(member.id, member.transport, int(time.time()))
    save_invitation(out, invitation(config, member.id, config.nats.public_url or str(config.nats.url), user))
    print(
        f"Hand {out} to the operator of {member.id}; nothing in it is secret. The node needs the servers' ca_file too."
    )
    return 0


def _region(config: Config) -> Region:
    return load_region(config.region, load_records(config))


def _external(directory: Path) -> Config:
    config = load_config(directory)
    if config.nats.mode != "external":
        raise ConfigError(f'{directory}: [nats] mode is not "external": the broker does this itself')
    return config


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as exc:
        raise ConfigError(f"{path} exists and is never overwritten: move it away first") from exc
