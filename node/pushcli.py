"""`kentongan node webhooks`: where events go to, and what an operator can do about it.

Guarantees: a running node is asked, since it alone writes then; without one the store is read, or written, directly.
"""

from __future__ import annotations

import argparse
import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from node import course
from node.api.webhooks import standing_line
from node.asking import ENVIRONMENT, do, post
from node.config import Config, find_config, load_config
from node.reading import open_reader
from node.store import Store, microseconds
from protocol.errors import ConfigError


def add_webhooks(commands: Any) -> None:
    """Mount the command."""
    parser = commands.add_parser(
        "webhooks", help="list webhooks and syslog receivers; enable, replay or test a webhook"
    )
    parser.add_argument("place", type=Path, metavar="DIR|node.toml")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--enable", metavar="NAME", help="let a disabled one go on where it was")
    what.add_argument("--replay", metavar="NAME", help="send events again, with --from")
    what.add_argument("--test", metavar="NAME", help="send one request that is about nothing; the node must run")
    parser.add_argument("--from", dest="start", metavar="EVENT|TIME", help="number of an event, or a time with a zone")
    parser.add_argument("--token", help=f"to change something while the node runs; default: {ENVIRONMENT}")
    parser.set_defaults(run=_webhooks)


def _webhooks(args: argparse.Namespace) -> int:
    config = load_config(find_config(args.place))
    if bool(args.replay) != bool(args.start):
        raise ConfigError("--replay NAME and --from EVENT|TIME belong together")
    token = args.token or os.environ.get(ENVIRONMENT, "")
    if args.enable:
        _change(config, args.enable, "enable", None, token)
        print(f"{args.enable} goes on")
    elif args.replay:
        start = _start(args.start)
        _change(config, args.replay, "replay", start, token)
        print(f"{args.replay} goes on from {args.start}")
    elif args.test:
        found = post(config, f"/v1/webhooks/{args.test}/test", None, token)
        print(f"{args.test}: {'delivered' if found['delivered'] else found['fault']} after {found['ms']} ms")
        return 0 if found["delivered"] else 1
    else:
        _list(config)
    return 0


def _start(text: str) -> int | datetime:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = datetime.min  # noqa: DTZ901 - has no zone, which is refused below
    if found.tzinfo is None:
        raise ConfigError("--from is the number of an event, or a time with a zone, such as 2026-03-31T08:00:00Z")
    return found


def _list(config: Config) -> None:
    named = {output.name: "webhook" for output in config.webhooks} | {s.name: "syslog" for s in config.syslogs}
    with closing(open_reader(config.data, config.store)) as store, store.read() as reads:
        rows = {row.name: course.standing_of(row) for row in reads.outputs()}
        last = reads.numbers()["events"]
    for name, kind in named.items():
        if name not in rows:
            print(f"{name}: {kind}, not started yet")
            continue
        line = standing_line(rows[name])
        facts = [f"{key} {line[key]}" for key in ("delivered_at", "failing_since", "fault", "disabled_at") if line[key]]
        behind = max(0, last + 1 - rows[name].next)
        print(
            f"{name}: {kind}, {line['state']}; next event {line['next']}, {behind} behind"
            + "".join(f"; {fact}" for fact in facts)
        )
    if not named:
        print("no webhooks and no syslog receivers in node.toml")


def _change(config: Config, name: str, what: str, start: int | datetime | None, token: str) -> None:
    if not any(hook.name == name for hook in config.webhooks):
        raise ConfigError(f"there is no [[webhook]] {name} in node.toml")

    def offline(store: Store) -> None:
        with store.write() as tx:
            if start is None:
                course.enable(tx, name, microseconds(datetime.now(UTC)))
            else:
                course.replay(tx, name, course.start_of(tx, start, store.last_event))

    document = None if start is None else {"from": start}
    do(config, offline, lambda: post(config, f"/v1/webhooks/{name}/{what}", document, token))
