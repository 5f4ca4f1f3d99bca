"""`kentongan broker …`: make a region, admit and suspend members, run it, check its ledger and ask who got what.

What the trustees decide is in `broker/governcli.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

from broker import governcli, keycli, setup
from broker.app import Broker
from broker.audit import Line, Question, audit
from broker.auditformat import FORMATS
from broker.check import check_ledger
from broker.config import Config, load_config
from broker.governing import load_chain
from broker.members import load_registry
from broker.reading import open_reader
from broker.store import Store
from protocol import process
from protocol.errors import ConfigError
from protocol.faults import tell
from protocol.registry import Registry
from protocol.reportlog import to_stderr


def add_parser(commands: Any) -> None:
    """Mount the sub-commands."""
    parser: argparse.ArgumentParser = commands.add_parser("broker", help="the region's broker")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    init = actions.add_parser("init", help="make a region in an empty directory")
    init.add_argument("directory", type=Path)
    init.add_argument("--region", required=True, help="the region's name")
    init.add_argument("--host", default="127.0.0.1", help="address on which members reach the bus")
    init.add_argument("--port", type=int, default=8480, help="HTTP port for coordinators")
    init.add_argument("--nats-port", type=int, default=4222, help="port on which members reach the bus")
    init.add_argument(
        "--tls",
        action=argparse.BooleanOptionalAction,
        help="encrypt the bus, with an authority of the region's own (default: if --host is not this machine alone)",
    )
    init.add_argument(
        "--tls-name", action="append", default=[], metavar="NAME", help="another name or address of the bus"
    )
    governcli.add_founding(init)
    init.set_defaults(run=_init)

    governcli.add_actions(actions)
    keycli.add_actions(actions)

    check = actions.add_parser("check", help="hold everything that the ledger and its log hold to what was signed")
    check.add_argument("config", type=Path, help="broker.toml, or the directory that holds it")
    check.add_argument("--json", action="store_true", help="a JSON object a line")
    check.set_defaults(run=_check)

    _add_audit(actions)

    run = actions.add_parser("run", help="run the broker until it is told to stop")
    run.add_argument("config", type=Path, help="broker.toml, or the directory that holds it")
    run.set_defaults(run=_run)


def _add_audit(actions: Any) -> None:
    audit: argparse.ArgumentParser = actions.add_parser(
        "audit", help="who got what, when, under which rule, each answer checked against the log"
    )
    audit.add_argument("config", type=Path, help="broker.toml, or the directory that holds it")
    audit.add_argument("--report", type=UUID, metavar="ID", help="who received this report")
    audit.add_argument("--revision", type=int, metavar="N", help="this revision only")
    audit.add_argument("--member", metavar="ID", help="what this member received, or was granted")
    audit.add_argument("--origin", metavar="ID", help="of what this member reported")
    audit.add_argument("--rule", metavar="DOCUMENT/RULE", help="what this rule released or withheld, such as id/1/warn")
    audit.add_argument("--denied", action="store_true", help="only where something was withheld")
    audit.add_argument("--from", dest="since", metavar="DATE", help="decided from this day on (UTC), or this time")
    audit.add_argument(
        "--to", dest="until", metavar="DATE", help="decided until the end of this day, or before this time"
    )
    audit.add_argument("--month", metavar="YYYY-MM", help="decided in this month")
    audit.add_argument("--format", choices=sorted(FORMATS), default="table")
    audit.add_argument("--out", type=Path, metavar="FILE", help="write to a new file")
    audit.set_defaults(run=_audit)


def _init(args: argparse.Namespace) -> int:
    trustees = governcli.read_trustees(args.trustee)
    threshold = args.threshold or 1
    token, kid = setup.init(
        args.directory,
        args.region,
        host=args.host,
        http_port=args.port,
        nats_port=args.nats_port,
        trustees=trustees,
        threshold=threshold,
        tls=args.tls,
        tls_names=args.tls_name,
    )
    print(f"Region {args.region} in {args.directory}. Broker key {kid}.")
    print(f"Coordinator's token, shown once: {token}")
    founding = args.directory / setup.FOUNDING
    if trustees:
        print(f"Next: every trustee signs: `kentongan members approve {founding} --key trustee.pem`,")
        print(f"then `kentongan broker record {args.directory} {founding}`.")
    else:
        print(
            f"Next: `kentongan broker admit {args.directory} MEMBER.json` for each CERT, then `kentongan broker run`."
        )
    return 0


@contextmanager
def _reading(config: Config) -> Iterator[Store]:
    """The ledger, opened so that nothing can be written."""
    store = Store(open_reader(config.ledger_url))
    try:
        yield store
    finally:
        store.close()


def _registry(config: Config) -> Registry:
    chain = load_chain(config.region, datetime.now(UTC))
    return load_registry(config.region, chain, setup.load_records(config))


def _check(args: argparse.Namespace) -> int:
    config = load_config(args.config)

    def progress(what: str, rows: int) -> None:
        if rows >= 10_000 and rows % 10_000 < 200:
            print(f"{what}: {rows}", file=sys.stderr)

    with _reading(config) as store:
        now = datetime.now(UTC)
        chain = load_chain(config.region, now)
        findings = check_ledger(store, _registry(config), None, now, progress, chain.digests)
        return tell(findings, print, as_json=args.json)


def _audit(args: argparse.Namespace) -> int:
    question = _question(args)
    config = load_config(args.config)
    total = wrong = 0

    def counted(lines: Iterator[Line]) -> Iterator[Line]:
        nonlocal total, wrong
        for line in lines:
            total += 1
            wrong += line.log == "MISMATCH"
            yield line

    with _reading(config) as store, _out(args.out) as out:
        for text in FORMATS[args.format](counted(audit(store, _registry(config), question))):
            out.write(text)
    if not total:
        print("nothing in the ledger is asked for by this", file=sys.stderr)
    if wrong:
        print(f"{wrong} answers contradict the log: see `fault`, and run `kentongan broker check`", file=sys.stderr)
    return 1 if wrong else 0


@contextmanager
def _out(path: Path | None) -> Iterator[TextIO]:
    """Where answers go; a file is never overwritten."""
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            yield file
    except FileExistsError as exc:
        raise ConfigError(f"{path} exists and is never overwritten: name another file") from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc


def _question(args: argparse.Namespace) -> Question:
    if args.month and (args.since or args.until):
        raise ConfigError("--month says from when to when: leave --from and --to out")
    if args.revision is not None and args.report is None:
        raise ConfigError("--revision needs the --report that it is of")
    since = _moment(args.since, "--from") if args.since else None
    until = _moment(args.until, "--to", end=True) if args.until else None
    if args.month:
        since = _moment(f"{args.month}-01", "--month")
        until = (since + timedelta(days=31)).replace(day=1)
    rule = None
    if args.rule is not None:
        document, slash, name = args.rule.rpartition("/")
        if not slash or not document or not name:
            raise ConfigError("--rule is a document and a rule, such as id/1/warn-the-neighbours")
        rule = (document, name)
    return Question(args.report, args.revision, args.member, args.origin, rule, args.denied, since, until)


def _moment(text: str, option: str, *, end: bool = False) -> datetime:
    """A day (its end, if so asked) or a time; without a zone, UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError(f"{option} takes a date such as 2026-03-31, not {text[:40]!r}") from exc
    if end and len(text) == len("2026-03-31"):
        at += timedelta(days=1)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _run(args: argparse.Namespace) -> int:
    config = load_config(args.config)
    signer, records = setup.load_keys(config)

    async def main() -> None:
        broker = Broker(config, signer, records, reports=to_stderr(config.logging))
        running = asyncio.current_task()
        if running is None:
            raise AssertionError("no running task")
        process.on_stop(running.cancel)
        await broker.run()

    with suppress(asyncio.CancelledError):
        process.run(main())
    return 0
