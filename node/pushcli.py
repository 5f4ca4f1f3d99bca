"""`kentongan node webhooks`: where events go to, and what an operator can do about it.

Guarantees: a running node is asked, since it alone writes then; without one the store is read, or written, directly.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from node import course
from node.api.webhooks import standing_line
from node.config import Config, find_config, load_config
from node.reading import open_reader
from node.store import Store, microseconds
from protocol import process
from protocol.errors import ConfigError, ProtocolError, Transient

URL_FILE: Final = "node.url"
ENVIRONMENT: Final = "KENTONGAN_TOKEN"
_PATIENCE: Final = 30.0


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
        found = _ask(config, f"/v1/webhooks/{args.test}/test", b"", token)
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
    with _stopped(config) as store:
        if store is None:
            body = b"" if start is None else msgspec.json.encode({"from": start})
            _ask(config, f"/v1/webhooks/{name}/{what}", body, token)
            return
        try:
            with store.write() as tx:
                if start is None:
                    course.enable(tx, name, microseconds(datetime.now(UTC)))
                else:
                    course.replay(tx, name, course.start_of(tx, start, store.last_event))
        except ProtocolError as exc:
            raise ConfigError(f"{name}: {exc.detail}") from exc


@contextmanager
def _stopped(config: Config) -> Iterator[Store | None]:
    """The store of a node that does not run; None if it does."""
    try:
        alone = process.alone(config.data)
        alone.__enter__()
    except ConfigError:
        yield None
        return
    try:
        with closing(Store.open(config.data, config.store)) as store:
            yield store
    finally:
        alone.__exit__(None, None, None)


def _ask(config: Config, path: str, body: bytes, token: str) -> Any:
    if not token:
        raise ConfigError(f"the node runs: give one of its tokens with --token or in {ENVIRONMENT}")
    try:
        url = (config.data / URL_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError as exc:
        raise ConfigError("the node does not run: start it first") from exc
    parts = urlsplit(url)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_PATIENCE)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        text = response.read()
    except (OSError, HTTPException) as exc:
        raise Transient(f"the node does not answer at {url}: try again") from exc
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        detail = msgspec.json.decode(text).get("detail", "") if text else ""
        raise ConfigError(f"the node at {url} refuses: {response.status} {detail}")
    return msgspec.json.decode(text)
