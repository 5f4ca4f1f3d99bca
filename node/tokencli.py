"""`kentongan node token …`: who may ask at the node's HTTP door. A running node takes a change at once.

A token's text is printed once, alone on its line on standard output, so that it can be piped to where it is kept.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from node.access import FILE, Access
from node.asking import ENVIRONMENT, do, post
from node.config import Config, find_config, load_config
from node.reading import open_reader
from node.store import Store
from node.tokens import LONGEST_OVERLAP, Wanted
from protocol.access import SCOPES, TLPS
from protocol.errors import ConfigError, ProtocolError
from protocol.parse import convert

BY: Final = "command line"
_OVERLAP: Final = 60
_MOST: Final = int(LONGEST_OVERLAP.total_seconds()) // 60


def add_commands(commands: Any) -> None:
    """Mount `token` with its commands under `node`."""
    token = commands.add_parser("token", help="make, list, rotate and revoke the tokens of the HTTP door")
    actions = token.add_subparsers(required=True, metavar="ACTION")
    create = _action(actions, "create", "make a token and show it, this once", _create)
    create.add_argument("name")
    create.add_argument("--scope", action="append", required=True, choices=sorted(SCOPES), help="may be given again")
    create.add_argument("--tlp", choices=TLPS, help="the highest marking that it may file and read; default: RED")
    create.add_argument("--sector", action="append", help="which it may claim; may be given again; default: all")
    create.add_argument("--purpose", action="append", help="for which it may file; may be given again; default: all")
    create.add_argument("--per-minute", type=int, metavar="N", help="reports that it may file in a minute")
    create.add_argument("--per-day", type=int, metavar="N", help="reports that it may file in a day")
    create.add_argument("--expires", metavar="TIME", help="a time with a zone, such as 2027-03-31T00:00:00Z")
    create.add_argument("--machine", metavar="TOOL", help="what it files says that this tool made it, not a person")
    create.add_argument("--tool-version", metavar="TEXT")
    create.add_argument("--model", metavar="TEXT")
    create.add_argument("--require-release", action="store_true", help="a person releases what it files")
    create.add_argument("--certificate", metavar="SHA256|SUBJECT", help="the client certificate that stands for it")
    rotate = _action(actions, "rotate", "give a token a new secret", _rotate)
    rotate.add_argument("name")
    rotate.add_argument(
        "--overlap", type=int, default=_OVERLAP, metavar="MINUTES", help="how long the old secret holds; default: 60"
    )
    revoke = _action(actions, "revoke", "let a token count no more, for good", _revoke)
    revoke.add_argument("name")
    _action(actions, "list", "show every token, never a secret", _list)


def _action(actions: Any, name: str, text: str, run: Any) -> Any:
    parser = actions.add_parser(name, help=text)
    parser.add_argument("place", type=Path, metavar="DIR|node.toml")
    parser.add_argument("--token", default="", help=f"while the node runs; default: {ENVIRONMENT} of the environment")
    parser.set_defaults(run=lambda args: run(load_config(find_config(args.place)), args))
    return parser


def _access(config: Config, store: Store) -> Access:
    return Access(config.tokens, store, lambda: datetime.now(UTC), secrets.token_bytes)


def _token(args: argparse.Namespace) -> str:
    return args.token or os.environ.get(ENVIRONMENT, "")


def _create(config: Config, args: argparse.Namespace) -> int:
    made_by = {"kind": "machine", "tool": args.machine, "version": args.tool_version, "model": args.model}
    if not args.machine and (args.tool_version or args.model):
        raise ConfigError("--tool-version and --model go with --machine TOOL")
    terms = {
        "name": args.name,
        "scopes": args.scope,
        "tlp": args.tlp,
        "sectors": args.sector,
        "purposes": args.purpose,
        "per_minute": args.per_minute,
        "per_day": args.per_day,
        "expires_at": args.expires,
        "made_by": {name: value for name, value in made_by.items() if value} if args.machine else None,
        "require_release": args.require_release or None,
        "certificate": args.certificate,
    }
    document = {name: value for name, value in terms.items() if value is not None}
    try:
        wanted = convert(document, Wanted)
    except ProtocolError as exc:
        raise ConfigError(f"{exc.path.removeprefix('$.')}: {exc.detail}") from exc
    text = do(
        config,
        lambda store: _access(config, store).create(wanted, BY),
        lambda: str(post(config, "/v1/tokens", document, _token(args))["token"]),
    )
    return _show(text, f"token {args.name} is made; it is shown this once:")


def _rotate(config: Config, args: argparse.Namespace) -> int:
    if not 0 <= args.overlap <= _MOST:
        raise ConfigError(f"--overlap is 0 to {_MOST} minutes")
    path, document = f"/v1/tokens/{quote(args.name, safe='')}/rotate", {"overlap_minutes": args.overlap}
    text = do(
        config,
        lambda store: _access(config, store).rotate(args.name, timedelta(minutes=args.overlap), BY),
        lambda: str(post(config, path, document, _token(args))["token"]),
    )
    return _show(
        text, f"token {args.name} has a new secret, shown this once; the old one holds {args.overlap} minutes:"
    )


def _revoke(config: Config, args: argparse.Namespace) -> int:
    path = f"/v1/tokens/{quote(args.name, safe='')}/revoke"
    do(
        config,
        lambda store: _access(config, store).revoke(args.name, BY),
        lambda: bool(post(config, path, {}, _token(args))),
    )
    print(f"token {args.name} counts no more")
    return 0


def _list(config: Config, _args: argparse.Namespace) -> int:
    with closing(open_reader(config.data, config.store)) as store:
        for line in _access(config, store).lines():
            print(_said(line))
    return 0


def _said(line: dict[str, Any]) -> str:
    scopes = ",".join(line["scopes"])
    parts = [f"{line['name']}: {line['state']}", f"scopes {scopes}"]
    if line.get("from"):
        return "; ".join([*parts, f"in {FILE}"])
    plain = ("tlp", "per_minute", "per_day", "expires_at", "old_until", "revoked_at", "certificate")
    parts += [f"{name} {line[name]}" for name in plain if line.get(name)]
    parts += [f"{name} {','.join(line[name])}" for name in ("sectors", "purposes") if line.get(name)]
    if line.get("made_by"):
        parts.append(f"machine {line['made_by'].get('tool', '')}")
    if line.get("require_release"):
        parts.append("its reports wait for release")
    parts.append(f"last used {line['used_at']}" if line.get("used_at") else "never used")
    return "; ".join([*parts, f"made {line['created_at']} by {line['created_by']}"])


def _show(text: str, what: str) -> int:
    print(what, file=sys.stderr)
    print(text)
    return 0
