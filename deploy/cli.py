"""The `kentongan` command: reports, nodes, brokers, sharing policies, evidence and the demonstration.

Exit codes: 0 done; 1 a policy has errors or fails its examples, evidence is false, or a report was refused; 2 the
operator must change something (one line says what); 3 evidence is incomplete, or no node answers; 70 a bug, after which
a restart recovers from what is on disk. Logs are JSON lines on standard error; a bug is logged by type and place, never
with its values, since those could be report content.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import broker.cli
import broker.governcli
import deploy.policy.cli
import deploy.proof.cli
import deploy.reporting.cli
import node.cli
from deploy import archive
from protocol import process
from protocol.errors import ConfigError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kentongan", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    node.cli.add_parser(commands, _approve)
    broker.cli.add_parser(commands)
    broker.governcli.add_parsers(commands)
    deploy.policy.cli.add_parser(commands)
    deploy.proof.cli.add_parsers(commands)
    deploy.reporting.cli.add_parser(commands)
    backup = commands.add_parser("backup", help="copy a node or broker into one file, beside the running process too")
    backup.add_argument("directory", type=Path)
    backup.add_argument("file", type=Path)
    backup.add_argument("--without-keys", action="store_true", help="leave private keys out")
    backup.set_defaults(run=_backup)
    restore = commands.add_parser("restore", help="put a backup into a new directory")
    restore.add_argument("file", type=Path)
    restore.add_argument("directory", type=Path)
    restore.set_defaults(run=_restore)
    demo = commands.add_parser("demo", help="a whole region on this machine, with real incidents")
    demo.add_argument("--keep", action="store_true", help="leave it running and print where it listens")
    demo.add_argument("--data", help="directory for everything it writes (default: a temporary one)")
    demo.add_argument("--base-port", type=int, default=0, help="first of the TCP ports (default: free ones)")
    demo.set_defaults(run=_demo)
    return parser


def _approve(path: Path) -> None:
    from deploy.policy.approve import approve  # noqa: PLC0415 - the policy tools are only needed when a policy changes

    approve(path)


def _backup(args: argparse.Namespace) -> int:
    manifest = archive.backup(args.directory, args.file, datetime.now(UTC), keys=not args.without_keys)
    secret = "It holds private keys: keep it as you keep those." if manifest.keys else "Private keys are not in it."
    print(f"{args.file}: {len(manifest.files)} files of a {manifest.kind}. {secret}")
    return 0


def _restore(args: argparse.Namespace) -> int:
    manifest = archive.restore(args.file, args.directory)
    as_of = f"{manifest.made_at:%Y-%m-%d %H:%M:%S} UTC"
    print(f"{args.directory}: a {manifest.kind} as of {as_of}, {len(manifest.files)} files.")
    if not manifest.keys:
        print(f"Put the private keys into {args.directory / 'keys'} before you start it.")
    try:
        archive.hold(manifest, args.directory)
    except ConfigError as exc:
        print(f"Before all else: {exc}.")
    check = f"kentongan {manifest.kind} check {args.directory}"
    print(f"Before the first start: `{check}`, and read “Backup” in docs/operate.md.")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from deploy.demo import run  # noqa: PLC0415 - the demonstration's libraries are not a node's concern

    return run.main(args)


def main(arguments: list[str] | None = None, *, log: bool = True) -> int:
    """Run a command; the console script's entry point. `log` off leaves the caller's logging alone."""
    args: Any = _parser().parse_args(arguments)
    if log:
        process.configure_logging()
    return process.exit_code(lambda: int(args.run(args)), lambda text: print(f"kentongan: {text}", file=sys.stderr))


if __name__ == "__main__":
    sys.exit(main())
