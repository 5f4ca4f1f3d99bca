"""The `kentongan` command: reports, nodes, brokers, sharing policies, evidence and the demonstration.

Exit codes: 0 done; 1 a policy has errors or fails its examples, evidence is false, or a report was refused; 2 the
operator must change something (one line says what); 3 evidence is incomplete, or no node answers; 70 a bug, after which
a restart recovers from what is on disk. Logs are JSON lines on standard error; a bug is logged by type and place, never
with its values, since those could be report content.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import broker.cli
import broker.governcli
import deploy.policy.cli
import deploy.proof.cli
import deploy.reporting.cli
import node.cli
from protocol import process


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kentongan", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    node.cli.add_parser(commands, _approve)
    broker.cli.add_parser(commands)
    broker.governcli.add_parsers(commands)
    deploy.policy.cli.add_parser(commands)
    deploy.proof.cli.add_parsers(commands)
    deploy.reporting.cli.add_parser(commands)
    demo = commands.add_parser("demo", help="a whole region on this machine, with real incidents")
    demo.add_argument("--keep", action="store_true", help="leave it running and print where it listens")
    demo.add_argument("--data", help="directory for everything it writes (default: a temporary one)")
    demo.add_argument("--base-port", type=int, default=0, help="first of the TCP ports (default: free ones)")
    demo.set_defaults(run=_demo)
    return parser


def _approve(path: Path) -> None:
    from deploy.policy.approve import approve  # noqa: PLC0415 - the policy tools are only needed when a policy changes

    approve(path)


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
