"""`kentongan policy …`: check, test, compare and explain sharing policies.

Exit codes: 0 done; 1 there are errors, or examples failed; 2 the operator must change something.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from deploy.policy import check, diff, examples, explain, facts, reports, show
from deploy.policy.matrix import matrix
from deploy.policy.page import page
from deploy.policy.scene import Scene, load_scene, newest, of_policies, only_policies, read_policies, read_policy
from protocol.errors import ConfigError
from protocol.wording import languages, load

EXIT_FOUND: Final = 1


def add_parser(commands: Any) -> None:
    """Mount the sub-commands."""
    parser: argparse.ArgumentParser = commands.add_parser("policy", help="check, test and explain sharing policies")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    action = actions.add_parser("check", help="find faults: schema, contradictions, rules that never apply")
    action.add_argument("files", type=Path, nargs="+", metavar="FILE")
    _region(action)
    action.set_defaults(run=_check)

    action = actions.add_parser("test", help="run the examples beside a policy (NAME.examples.toml)")
    action.add_argument("files", type=Path, nargs="+", metavar="FILE")
    _region(action, "(default: the policies beside each file)")
    _language(action)
    _time(action)
    action.set_defaults(run=_test)

    action = actions.add_parser("diff", help="which reports would have flowed differently")
    action.add_argument("old", type=Path, metavar="OLD", help="a policy, or a directory of policies")
    action.add_argument("new", type=Path, metavar="NEW")
    action.add_argument("--reports", type=Path, nargs="+", default=[], metavar="FILE", help="JSON or NDJSON")
    action.add_argument("--demo", action="store_true", help="the demonstration's incidents")
    action.add_argument("--origin", help="jurisdiction of filings that do not say it")
    action.add_argument("--since", type=float, metavar="DAYS", help="reports of the last days only")
    _region(action)
    _time(action)
    action.set_defaults(run=_diff)

    action = actions.add_parser("matrix", help="what flows between every pair of jurisdictions")
    _region(action)
    _language(action)
    _time(action)
    action.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page")
    action.set_defaults(run=_matrix)

    action = actions.add_parser("explain", help="who would get what of a report, and why")
    action.add_argument("report", type=Path, metavar="REPORT", help="a filing as JSON")
    action.add_argument("--origin", help="jurisdiction that would file it")
    _region(action)
    _language(action)
    _time(action)
    action.set_defaults(run=_explain)

    action = actions.add_parser("facts", help="national facts with source, date and confidence")
    action.add_argument("jurisdictions", nargs="*", metavar="JURISDICTION")
    action.add_argument("--json", action="store_true", help="for programs")
    action.set_defaults(run=_facts)


def _region(action: argparse.ArgumentParser, otherwise: str = "") -> None:
    action.add_argument("--region", type=Path, metavar="DIR", help=f"a broker's directory {otherwise}".strip())
    action.add_argument(
        "--policies", type=Path, metavar="DIR", help="policy files; every jurisdiction in them is a member"
    )
    action.add_argument("--json", action="store_true", help="for programs")


def _language(action: argparse.ArgumentParser) -> None:
    action.add_argument("--lang", default="en", choices=languages(), help="language of the sentences")


def _time(action: argparse.ArgumentParser) -> None:
    action.add_argument("--at", metavar="TIME", help="as of this time, ISO 8601 with a zone (default: now)")


def _now(args: argparse.Namespace) -> datetime:
    if not args.at:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(args.at)
    except ValueError as exc:
        raise ConfigError(f"--at {args.at}: not a time in ISO 8601") from exc
    if found.tzinfo is None:
        raise ConfigError(f"--at {args.at}: a time needs a zone, such as Z")
    return found


def _scene(args: argparse.Namespace) -> Scene | None:
    return load_scene(args.region, args.policies)


def _needed(args: argparse.Namespace) -> Scene:
    scene = _scene(args)
    if scene is None:
        raise ConfigError("which region? Give --region with a broker's directory, or --policies with policy files")
    return scene


def _json(found: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")


def _check(args: argparse.Namespace) -> int:
    found = check.check(only_policies(args.files), _scene(args))
    if args.json:
        _json(found)
    else:
        show.findings(show.console(), found)
    return EXIT_FOUND if check.failed(found) else 0


def _test(args: argparse.Namespace) -> int:
    scene, now, words = _scene(args), _now(args), load(args.lang)
    found = [
        examples.run(path, scene or of_policies(newest(read_policies(path.parent))), now, words)
        for path in only_policies(args.files)
    ]
    if args.json:
        _json(found)
    else:
        show.runs(show.console(), found)
    return EXIT_FOUND if any(run.failures for run in found) else 0


def _side(path: Path, base: Scene | None) -> Scene:
    """One side of a comparison: a directory is all policies, a file is the version in force in the given region."""
    if path.is_dir():
        found = read_policies(path)
        return base.with_policies(found) if base else of_policies(found)
    if base is None:
        raise ConfigError(f"{path} is one policy: which are the others'? Give --region or --policies")
    return base.with_version(read_policy(path))


def _diff(args: argparse.Namespace) -> int:
    base, now = _scene(args), _now(args)
    old, new = _side(args.old, base), _side(args.new, base)
    if not args.reports and not args.demo:
        raise ConfigError("which reports? Give --reports with JSON or NDJSON files, or --demo")
    given = reports.read(args.reports, args.origin) + (reports.demo() if args.demo else [])
    found = diff.compare(reports.since(given, args.since, now), old, new, now)
    if args.json:
        _json(found)
    else:
        show.comparison(show.console(), found)
    return 0


def _matrix(args: argparse.Namespace) -> int:
    found, words = matrix(_needed(args), _now(args)), load(args.lang)
    if args.html:
        args.html.write_text(page(found, words), "utf-8")
    if args.json:
        _json(found)
    elif args.html:
        show.console().print(f"{len(found.pairs)} pairs: {args.html}")
    else:
        show.matrix(show.console(), found, words)
    return 0


def _explain(args: argparse.Namespace) -> int:
    scene, now, words = _needed(args), _now(args), load(args.lang)
    for report in reports.read([args.report], args.origin):
        answers = explain.answers(report, scene, now)
        said = explain.sentences(answers, scene, words)
        if args.json:
            pairs = zip(answers, said, strict=True)
            _json([{**msgspec.to_builtins(a), "headline": s.headline, "lines": s.lines} for a, s in pairs])
        else:
            show.sentences(show.console(), said)
    return 0


def _facts(args: argparse.Namespace) -> int:
    found = facts.load(args.jurisdictions)
    if args.json:
        _json(found)
    else:
        show.facts(show.console(), found)
    return 0
