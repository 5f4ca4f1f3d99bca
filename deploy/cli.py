"""The `kentongan` command: nodes, brokers, sharing policies and the demonstration.

Exit codes: 0 done; 1 a policy has errors or fails its examples; 2 the operator must change something (one line says
what); 70 a bug, after which a restart recovers from what is on disk. Logs are JSON lines on standard error; a bug is
logged by type and place, never with its values, since those could be report content.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from typing import Any

import structlog

import broker.cli
import deploy.policy.cli
import node.cli
from protocol.errors import ConfigError, Transient

EXIT_CONFIG = 2
EXIT_BUG = 70


def configure_logging() -> None:
    """JSON lines with a time, on standard error."""
    logging.basicConfig(handlers=[logging.NullHandler()])
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _leaves(exc: BaseException) -> list[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for inner in exc.exceptions for leaf in _leaves(inner)]
    return [exc]


def _place(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "?"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kentongan", description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    node.cli.add_parser(commands)
    broker.cli.add_parser(commands)
    deploy.policy.cli.add_parser(commands)
    demo = commands.add_parser("demo", help="a whole region on this machine, with real incidents")
    demo.add_argument("--keep", action="store_true", help="leave it running and print where it listens")
    demo.add_argument("--data", help="directory for everything it writes (default: a temporary one)")
    demo.add_argument("--base-port", type=int, default=0, help="first of the TCP ports (default: free ones)")
    demo.set_defaults(run=_demo)
    return parser


def _demo(args: argparse.Namespace) -> int:
    from deploy.demo import run  # noqa: PLC0415 - the demonstration's libraries are not a node's concern

    return run.main(args)


def main(arguments: list[str] | None = None, *, log: bool = True) -> int:
    """Run a command; the console script's entry point. `log` off leaves the caller's logging alone."""
    args: Any = _parser().parse_args(arguments)
    if log:
        configure_logging()
    try:
        return int(args.run(args))
    except (ConfigError, Transient) as exc:
        print(f"kentongan: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    except Exception as exc:  # noqa: BLE001 - the last edge: everything else is a bug and ends the process here
        return _end(exc)


def _end(exc: BaseException) -> int:
    leaves = _leaves(exc)
    if all(isinstance(leaf, ConfigError | Transient) for leaf in leaves):
        print(f"kentongan: {leaves[0]}", file=sys.stderr)
        return EXIT_CONFIG
    for leaf in leaves:
        structlog.get_logger().critical("process.bug", error=type(leaf).__name__, at=_place(leaf))
    return EXIT_BUG


if __name__ == "__main__":
    sys.exit(main())
