"""`kentongan broker upgrade`: take an earlier program's ledger over, and what `kentongan broker run` does about one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import structlog

from broker.config import Config, load_config
from broker.migrations import SCHEMA
from protocol import migrating
from protocol.migrating import Place

log = structlog.get_logger()


def add_action(actions: Any) -> None:
    """Mount it beside the others."""
    upgrade = actions.add_parser("upgrade", help="make the ledger of an earlier program one of this program")
    upgrade.add_argument("config", type=Path, help="broker.toml, or the directory that holds it")
    migrating.add_options(upgrade)
    upgrade.set_defaults(run=_upgrade)


def place_of(config: Config, directory: Path) -> Place:
    """Where a broker's ledger is."""
    return Place(config.ledger_url, config.data, str(directory))


def before_run(config: Config, directory: Path, *, allowed: bool) -> None:
    """See that the broker may start on its ledger. ConfigError if not."""
    done = migrating.before_start(place_of(config, directory), SCHEMA, allowed=allowed)
    if done is not None:
        log.info("broker.upgraded", before=done.before, after=done.after, copy=str(done.copy or ""))


def _upgrade(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    return migrating.run(place_of(config, args.config), SCHEMA, print, check=args.check, copy=not args.without_copy)
