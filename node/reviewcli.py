"""`kentongan node review …`: the filings that wait for a person, and the person's word about them.

Guarantees: listing and showing only read, beside a running node too. Releasing and refusing go through the running node
with the token of who decides, so that the rules of the door hold: never about one's own filing, never above one's
marking, each filing once. What other people wrote is shown so that it cannot steer a terminal.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from node.asking import ENVIRONMENT, must_run, post
from node.config import Config, find_config, load_config
from node.reading import open_reader
from node.review import HELD, LONGEST_REASON, STATES, entry_line
from protocol.access import TLPS
from protocol.errors import ConfigError

_PAGE: Final = 500
_NO_SUCH: Final = "there is no filing with this number in the review queue"


def add_review(commands: Any) -> None:
    """Mount `review` with its commands under `node`."""
    review = commands.add_parser("review", help="list, show, release and refuse filings that wait for a person")
    actions = review.add_subparsers(required=True, metavar="ACTION")
    listed = _action(actions, "list", "one line a filing, without its content", _list)
    listed.add_argument("--state", choices=sorted(STATES), default=HELD, help="default: held, those that wait")
    _action(actions, "show", "a filing with its content, and what became of it", _show, number=True)
    release = _action(actions, "release", "file it: it is signed and sent", _release, number=True, alias="accept")
    refuse = _action(actions, "refuse", "turn it away for good", _refuse, number=True)
    refuse.add_argument("--why", required=True, metavar="TEXT", help="who filed it can read this")
    for parser in (release, refuse):
        parser.add_argument("--token", default="", help=f"of who decides; default: {ENVIRONMENT} of the environment")


def _action(actions: Any, name: str, text: str, run: Any, *, number: bool = False, alias: str = "") -> Any:
    parser = actions.add_parser(name, help=text, aliases=[alias] if alias else [])
    parser.add_argument("place", type=Path, metavar="DIR|node.toml")
    if number:
        parser.add_argument("number", type=int, metavar="NUMBER", help="as `list` shows it")
    parser.add_argument("--json", action="store_true", help="as the HTTP interface answers, an object a line")
    parser.set_defaults(run=lambda args: run(load_config(find_config(args.place)), args))
    return parser


def _list(config: Config, args: argparse.Namespace) -> int:
    shown = 0
    for line in _lines(config, args.state):
        shown += 1
        print(_json(line) if args.json else _said(line))
    if not shown and not args.json:
        print("nothing waits for review" if args.state == HELD else f"nothing is {args.state}")
    return 0


def _lines(config: Config, state: str) -> Iterator[dict[str, Any]]:
    after = 0
    with closing(open_reader(config.data, config.store)) as store:
        while True:
            with store.read() as reads:
                rows = reads.review_page(after, _PAGE, state=state, tlps=TLPS)
            yield from map(entry_line, rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1].id


def _show(config: Config, args: argparse.Namespace) -> int:
    with closing(open_reader(config.data, config.store)) as store, store.read() as reads:
        row = reads.review_row(args.number)
    if row is None:
        raise ConfigError(_NO_SUCH)
    line = entry_line(row)
    if args.json:
        print(_json(line))
        return 0
    content = bytes(line.pop("report", b""))
    for name, value in line.items():
        print(f"{name}: {_plain(str(value))}")
    print("report:\n" + _plain(msgspec.json.format(content, indent=2).decode()) if content else "report: erased")
    return 0


def _release(config: Config, args: argparse.Namespace) -> int:
    return _decide(config, args, "release", {})


def _refuse(config: Config, args: argparse.Namespace) -> int:
    if not 0 < len(args.why) <= LONGEST_REASON:
        raise ConfigError(f"--why says why, in at most {LONGEST_REASON} characters")
    return _decide(config, args, "refuse", {"why": args.why})


def _decide(config: Config, args: argparse.Namespace, action: str, document: dict[str, str]) -> int:
    must_run(config)
    token = args.token or os.environ.get(ENVIRONMENT, "")
    line = post(config, f"/v1/review/{args.number}/{action}", document, token)
    line.pop("report", None)
    print(_json(line) if args.json else _said(line))
    return 0


def _said(line: dict[str, Any]) -> str:
    parts = [
        f"{line['review']}: {line['state']}",
        f"TLP:{line['tlp']}",
        f"filed {line['held_at']} by {line['filed_by']}",
    ]
    if "decided_at" in line:
        parts.append(f"decided {line['decided_at']} by {line['decided_by']}")
    if "report_id" in line:
        parts.append(f"report {line['report_id']} revision {line['revision']}")
    if "why" in line:
        parts.append(f"why: {line['why']}")
    return _plain("; ".join(parts)).replace("\n", r"\n")


def _json(line: dict[str, Any]) -> str:
    return _plain(msgspec.json.encode(line).decode())


def _plain(text: str) -> str:
    """With escapes, as JSON has them, for what is no visible character: it would be the terminal's to act on."""
    return "".join(letter if letter.isprintable() or letter == "\n" else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
