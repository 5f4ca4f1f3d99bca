"""`python -m deploy.nats operator`: what the servers of a region's own NATS cluster must know before the broker comes.

Everything else the broker tells them itself. Nothing is ever overwritten.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from broker.accounts import Accounts
from broker.config import load_config
from broker.proposals import write_new
from protocol import process

_OPERATOR_CONF: Final = """\
# Who signs the accounts of the bus, and the account in which they are pushed. Nothing secret.
operator: {operator}
system_account: {system}
resolver_preload: {{
  {system}: {claim}
}}
"""


def parser() -> argparse.ArgumentParser:
    """The commands."""
    found = argparse.ArgumentParser(prog="python -m deploy.nats", description=(__doc__ or "").splitlines()[0])
    commands = found.add_subparsers(required=True, metavar="COMMAND")
    operator = commands.add_parser("operator", help="make the servers' operator.conf")
    operator.add_argument("directory", type=Path, help="the broker's directory")
    operator.add_argument("out", type=Path, help="the file to make, for each of the servers")
    operator.set_defaults(run=lambda args: _operator(args.directory, args.out))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run a command; exit codes as those of `kentongan`."""
    args = parser().parse_args(arguments)
    return process.exit_code(lambda: int(args.run(args)), lambda text: print(f"deploy.nats: {text}", file=sys.stderr))


def _operator(directory: Path, out: Path) -> int:
    accounts, now = Accounts.load(load_config(directory).keys / "nats"), int(time.time())
    text = _OPERATOR_CONF.format(
        operator=accounts.operator_jwt(now), system=accounts.system_account, claim=accounts.system_account_jwt(now)
    )
    write_new(out, text.encode("ascii"))
    print(f"made {out}: the same for every server, nothing secret in it")
    return 0
