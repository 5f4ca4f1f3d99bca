"""`kentongan report …`: file and post reports, follow what happens, see what became of one.

Exit codes: 0 all accepted, or what was waited for is so; 1 some refused, or it will not or did not happen; 2 the
operator must change something; 3 nobody answers. Results go to standard output, one a line, all else to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from deploy.reporting import template, where
from kentongan.client import JSON, Client, Event, Never, Outcome, Problem, Status, Unreachable, Until
from protocol.errors import ConfigError

EXIT_REFUSED: Final = 1
EXIT_UNREACHABLE: Final = 3
_STDIN: Final = "-"
_BREADTH: Final = 12


def add_parser(commands: Any) -> None:
    """Mount `report` with its actions under the program's parser."""
    parser: argparse.ArgumentParser = commands.add_parser("report", help="file reports, and follow them, at a node")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    action = actions.add_parser("file", help="file one report from options, or from a template")
    action.add_argument("--template", action="store_true", help="print a template in TOML, and do nothing else")
    action.add_argument("--from", dest="base", type=Path, metavar="FILE", help="TOML or JSON; options outrank it")
    template.add_options(action)
    action.add_argument("--explain", action="store_true", help="say who would get what, and file nothing")
    action.add_argument("--lang", default="en", help="language of the explanation")
    _wait(action)
    _node(action)
    action.set_defaults(run=_file)

    action = actions.add_parser("post", help="post files: a report, an array, NDJSON, or another format")
    action.add_argument("files", nargs="+", metavar="FILE", help="- is standard input")
    action.add_argument("--format", help="of another format, as the node names it; by default Kentongan's own")
    action.add_argument("--media", help="Content-Type of another format (default: by --format)")
    action.add_argument("--tlp", help="for reports that have no marking of their own")
    action.add_argument("--json", action="store_true", help="a JSON object a result")
    _node(action)
    action.set_defaults(run=_post)

    action = actions.add_parser("watch", help="print what happens, as it happens; comes back when the link breaks")
    action.add_argument("--after", type=int, metavar="ID", help="begin after this event (default: from now on)")
    action.add_argument("--state", type=Path, metavar="FILE", help="keep the last event's id there, and go on from it")
    action.add_argument("--kind", action="append", default=[], help="only events of this kind, such as report.received")
    action.add_argument("--count", type=int, metavar="N", help="end after that many")
    action.add_argument("--json", action="store_true", help="a JSON object an event")
    _node(action)
    action.set_defaults(run=_watch)

    action = actions.add_parser("status", help="what became of a report: who has it, who does not and why")
    action.add_argument("report_id", metavar="ID")
    action.add_argument("--json", action="store_true", help="all that the node knows")
    _wait(action)
    _node(action)
    action.set_defaults(run=_status)


def _node(action: argparse.ArgumentParser) -> None:
    action.add_argument("--url", help=f"the node's address (default: {where.URL} of the environment)")
    action.add_argument("--node", type=Path, metavar="DIR", help="the node's directory, if it is on this machine")
    action.add_argument("--token-file", type=Path, metavar="FILE", help=f"default: {where.TOKEN} or {where.TOKEN_FILE}")
    action.add_argument("--ca", type=Path, metavar="FILE", help="the authority of the node's certificate")
    action.add_argument("--patience", type=float, default=60.0, metavar="SECONDS", help="how long to try (default: 60)")


def _wait(action: argparse.ArgumentParser) -> None:
    action.add_argument("--wait", choices=get_args(Until), help="until it is so, for every member that may have it")
    action.add_argument("--timeout", type=float, metavar="SECONDS", help="with --wait: how long (default: for ever)")


def _talk(args: argparse.Namespace, talk: Callable[[Client], Awaitable[int]]) -> int:
    """Open a client, and turn how it ends into an exit code."""
    place = where.find(
        os.environ,
        url=args.url,
        token_file=args.token_file,
        directory=args.node,
        authority=args.ca,
        patience=args.patience,
    )

    async def run() -> int:
        async with place.client() as client:
            return await talk(client)

    try:
        return asyncio.run(run())
    except Problem as exc:
        if exc.status in (401, 403):
            raise ConfigError(f"{place.url} refuses the token: {exc.reason or exc.status}") from exc
        if not exc.reason:
            raise ConfigError(f"{place.url}: {exc.status}, {exc.detail}") from exc
        _tell(f"{exc.reason} at {exc.path}: {exc.detail}")
        return EXIT_UNREACHABLE if exc.status == 503 else EXIT_REFUSED
    except Never as exc:
        _tell(str(exc))
        return EXIT_REFUSED
    except TimeoutError:
        _tell("it has not come that far yet")
        return EXIT_REFUSED
    except Unreachable as exc:
        _tell(str(exc))
        return EXIT_UNREACHABLE
    except KeyboardInterrupt:
        return 0


def _tell(text: str) -> None:
    print(f"kentongan: {text}", file=sys.stderr)


# --- filing -----------------------------------------------------------------------------------------------------


def _file(args: argparse.Namespace) -> int:
    if args.template:
        print(template.TEMPLATE, end="")
        return 0
    filing = template.build(args, template.read(args.base) if args.base else {})

    async def talk(client: Client) -> int:
        if args.explain:
            for one in (await client.explain(filing, lang=args.lang)).recipients:
                print(f"{'✓' if one.granted else '✗'} {one.says.headline}")
                for line in one.says.lines:
                    print(f"  {line}")
            return 0
        outcome = await client.post(filing)
        print(_shown(outcome))
        if args.wait and not outcome.report_id:
            _tell(f"a person has to release it first: review {outcome.review}")
        elif args.wait:
            print(_summary(await client.wait_for(outcome.report_id, args.wait, timeout=args.timeout)))
        return 0

    return _talk(args, talk)


def _post(args: argparse.Namespace) -> int:
    bodies = [(name, _read(name)) for name in args.files]

    async def talk(client: Client) -> int:
        refused = 0
        for name, body in bodies:
            prefix = f"{name}\t" if len(bodies) > 1 and not args.json else ""
            async for outcome in _outcomes(client, args, body):
                refused += not outcome.accepted
                line = _json({"file": name, **msgspec.to_builtins(outcome)}) if args.json else _shown(outcome)
                print(prefix + line, flush=True)
        return EXIT_REFUSED if refused else 0

    return _talk(args, talk)


async def _outcomes(client: Client, args: argparse.Namespace, body: bytes) -> Any:
    if args.format:
        query = {"format": args.format, **({"tlp": args.tlp.upper()} if args.tlp else {})}
        media = args.media or ("text/csv" if args.format == "csv" else JSON)
        for outcome in await client.post_document(body, media=media, **query):
            yield outcome
        return
    async for outcome in client.post_stream(_marked(item, args.tlp) for item in split(body)):
        yield outcome


def split(body: bytes) -> Iterator[bytes]:
    """The reports of a file: one object, an array, or one a line. What is not JSON goes to the node as it is."""
    text = body.strip()
    if not text:
        raise ConfigError("there is nothing in it: a report, an array, or a report a line")
    with suppress(msgspec.DecodeError):
        if text[:1] == b"[":
            yield from map(bytes, msgspec.json.decode(text, type=list[msgspec.Raw]))
            return
        yield bytes(msgspec.json.decode(text, type=msgspec.Raw))
        return
    yield from (line for line in text.split(b"\n") if line.strip())


def _marked(item: bytes, tlp: str | None) -> bytes:
    """With a marking, if it has none and one was given."""
    if not tlp:
        return item
    try:
        document = msgspec.json.decode(item, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return item
    if "marking" in document:
        return item
    return msgspec.json.encode({"marking": {"tlp": tlp.upper()}, **document})


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == _STDIN else Path(name).read_bytes()
    except OSError as exc:
        raise ConfigError(f"{name} cannot be read: {exc.strerror or exc}") from exc


def _shown(outcome: Outcome) -> str:
    if outcome.state == "held":
        return f"{outcome.index}\theld\treview {outcome.review}"
    if outcome.accepted:
        return f"{outcome.index}\taccepted\t{outcome.report_id}\trevision {outcome.revision}\t{outcome.state}"
    return f"{outcome.index}\trefused\t{outcome.reason}\t{outcome.path}\t{outcome.detail}"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# --- following --------------------------------------------------------------------------------------------------


def _watch(args: argparse.Namespace) -> int:
    after = args.after
    if after is None and args.state is not None and args.state.exists():
        text = args.state.read_text(encoding="ascii", errors="replace").strip()
        if not text.isdigit():
            raise ConfigError(f"{args.state} does not hold an event's id: remove it to begin from now on")
        after = int(text)

    async def talk(client: Client) -> int:
        seen = 0
        async for event in client.feed(after=after):
            if not args.kind or event.kind in args.kind:
                print(_json(msgspec.to_builtins(event)) if args.json else _line(event), flush=True)
                seen += 1
            if args.state is not None:
                _keep(args.state, event.id)
            if args.count is not None and seen >= args.count:
                break
        return 0

    return _talk(args, talk)


def _line(event: Event) -> str:
    facts = " ".join(f"{name}={value}" for name, value in event.data.items() if not isinstance(value, list | dict))
    return f"{event.id}\t{event.kind}\t{facts}"


def _keep(path: Path, number: int) -> None:
    """After the event was printed: who is interrupted in between sees it twice, and misses none."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(f"{number}\n", encoding="ascii")
    beside.replace(path)


def _status(args: argparse.Namespace) -> int:
    async def talk(client: Client) -> int:
        if args.wait:
            status = await client.wait_for(args.report_id, args.wait, timeout=args.timeout)
        else:
            status = await client.status(args.report_id)
        print(_json(msgspec.to_builtins(status)) if args.json else _summary(status))
        return 0

    return _talk(args, talk)


def _summary(status: Status) -> str:
    newest = status.newest
    proof = newest.proof.state if newest.proof else "none"
    lines = [f"{status.report_id}\trevision {newest.revision}\t{newest.state}\tproof {proof}"]
    if newest.refusal:
        lines.append(f"  refused: {newest.refusal.reason} {newest.refusal.detail}")
    for name, one in sorted(newest.recipients.items()):
        reasons = sorted({item["reason"] for item in one.withheld})
        why = f"\twithheld {', '.join(item['unit'] for item in one.withheld)}: {', '.join(reasons)}" if reasons else ""
        lines.append(f"  {name:<{_BREADTH}} {one.state}{why}")
    if newest.held_back:
        lines.append(f"  kept here: {', '.join(item['unit'] for item in newest.held_back)}")
    return "\n".join(lines)
