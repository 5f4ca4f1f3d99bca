"""`kentongan node upgrade`: take an earlier program's store over, and what `kentongan node run` does about one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import structlog

from node.config import Config, find_config, load_config
from node.migrations import SCHEMA
from protocol import migrating
from protocol.migrating import Place

log = structlog.get_logger()


def add_command(commands: Any) -> None:
    """Mount it beside the others."""
    upgrade = commands.add_parser("upgrade", help="make the store of an earlier program one of this program")
    upgrade.add_argument("place", type=Path, metavar="DIR|node.toml")
    migrating.add_options(upgrade)
    upgrade.set_defaults(run=_upgrade)


def place_of(config: Config, directory: Path) -> Place:
    """Where a node's store is."""
    return Place(config.store or f"sqlite:///{config.data / 'node.db'}", config.data, str(directory))


def before_run(config: Config, directory: Path, *, allowed: bool) -> None:
    """See that the node may start on its store. ConfigError if not."""
    done = migrating.before_start(place_of(config, directory), SCHEMA, allowed=allowed)
    if done is not None:
        log.info("node.upgraded", before=done.before, after=done.after, copy=str(done.copy or ""))


def _upgrade(args: argparse.Namespace) -> int:
    config = load_config(find_config(args.place))
    return migrating.run(place_of(config, args.place), SCHEMA, print, check=args.check, copy=not args.without_copy)
