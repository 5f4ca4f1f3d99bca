"""`kentongan broker …`: make a region, admit and suspend members, run."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from broker import setup
from broker.app import Broker
from broker.config import load_config
from protocol import process


def add_parser(commands: Any) -> None:
    """Mount the sub-commands."""
    parser: argparse.ArgumentParser = commands.add_parser("broker", help="the region's broker")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    init = actions.add_parser("init", help="make a region in an empty directory")
    init.add_argument("directory", type=Path)
    init.add_argument("--region", required=True, help="the region's name")
    init.add_argument("--host", default="127.0.0.1", help="address on which members reach the bus")
    init.add_argument("--port", type=int, default=8480, help="HTTP port for coordinators")
    init.add_argument("--nats-port", type=int, default=4222, help="port on which members reach the bus")
    init.set_defaults(run=_init)

    admit = actions.add_parser("admit", help="admit a member from the file that its `kentongan node init` wrote")
    admit.add_argument("directory", type=Path)
    admit.add_argument("member", type=Path, help="member.json")
    admit.add_argument("--policy", type=Path, action="append", default=[], help="its sharing policy (TOML)")
    admit.add_argument("--invitation", type=Path, help="where to write what its node needs to connect")
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

    run = actions.add_parser("run", help="run the broker until it is told to stop")
    run.add_argument("config", type=Path, help="broker.toml, or the directory that holds it")
    run.set_defaults(run=_run)


def _init(args: argparse.Namespace) -> int:
    token, kid = setup.init(args.directory, args.region, host=args.host, http_port=args.port, nats_port=args.nats_port)
    print(f"Region {args.region} in {args.directory}. Broker key {kid}.")
    print(f"Coordinator's token, shown once: {token}")
    print(f"Next: `kentongan broker admit {args.directory} MEMBER.json` for each CERT, then `kentongan broker run`.")
    return 0


def _admit(args: argparse.Namespace) -> int:
    member = setup.admit(args.directory, args.member, args.policy, args.invitation)
    print(f"Admitted {member.id} ({member.name}, {member.jurisdiction}).")
    for key in member.keys:
        print(f"Compare with what its operator reads to you: signing key {key.kid}")
    if args.invitation:
        print(f"Hand {args.invitation} to its operator; nothing in it is secret.")
    return 0


def _status(args: argparse.Namespace) -> int:
    setup.set_status(args.directory, args.id, args.status)
    print(f"{args.id} is {args.status}.")
    return 0


def _run(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    signer, records = setup.load_keys(config)

    async def main() -> None:
        broker = Broker(config, signer, records)
        running = asyncio.current_task()
        if running is None:
            raise AssertionError("no running task")
        process.on_stop(running.cancel)
        await broker.run()

    with suppress(asyncio.CancelledError):
        process.run(main())
    return 0
