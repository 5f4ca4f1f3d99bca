"""`kentongan evidence` and `kentongan verify`: export what a node holds about a report; examine it anywhere, offline.

Exit codes of `verify`: 0 all is proven; 1 something is false; 2 usage; 3 nothing is false, but something could not be
checked.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from binascii import a2b_base64
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from node.config import find_config, load_config
from node.evidence import export
from protocol.errors import ConfigError, ProtocolError
from protocol.evidence import EXTENSION, write_bundle
from protocol.examination import examine, kind_of, read_trust
from protocol.findings import Finding, Trust, Verdict
from protocol.keys import write_secret
from protocol.merkle import HASH
from protocol.wording import plain

EXIT_FALSE: Final = 1
EXIT_INCOMPLETE: Final = 3
_MARKS: Final = {"proven": "✓", "not-proven": "✗ NOT PROVEN:", "not-checkable": "? NOT CHECKABLE:"}
_WIDTH: Final = 110
_LAST_YEAR: Final = 9000


def add_parsers(commands: Any) -> None:
    """Mount both commands."""
    gather = commands.add_parser("evidence", help="export all that shows what became of a report, as one file")
    gather.add_argument("dir", type=Path, metavar="DIR", help="a node's directory; the node may be running")
    gather.add_argument("report_id", metavar="REPORT_ID")
    gather.add_argument("--revision", type=int, metavar="N", help="only this revision (default: all)")
    gather.add_argument("--public", action="store_true", help="of the content, the header only")
    gather.add_argument("--out", type=Path, metavar="FILE", help=f"default: REPORT_ID{EXTENSION} here; - is the output")
    gather.add_argument("--format", choices=["json"], default="json", help="the one there is")
    gather.set_defaults(run=_evidence)
    check = commands.add_parser("verify", help="say what a report, statement, proof or evidence bundle proves, offline")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument(
        "--trust", type=Path, metavar="FILE", help="an invitation, a region document, or a key record of the broker"
    )
    check.add_argument("--at", metavar="TIME", help="examine as of this time, ISO 8601 with a zone (default: now)")
    check.add_argument("--receipt", type=Path, metavar="FILE", help="the receipt of the report or of the tlog-proof")
    check.add_argument("--entry", metavar="HASH", help="what a tlog-proof should prove: 32 bytes in hex or base64")
    check.add_argument("--json", action="store_true", help="for programs")
    check.set_defaults(run=_verify)


# --- evidence ---------------------------------------------------------------------------------------------------


def _evidence(args: argparse.Namespace) -> int:
    try:
        report_id = str(UUID(args.report_id))
    except ValueError as exc:
        raise ConfigError(f"{args.report_id}: a report's id is a UUID") from exc
    config = load_config(find_config(args.dir))
    bundle = export(config, report_id, datetime.now(UTC), revision=args.revision, public=args.public)
    data = write_bundle(bundle)
    if args.out == Path("-"):
        sys.stdout.write(data.decode("utf-8"))
        return 0
    out = args.out or Path(f"{report_id}{EXTENSION}")
    try:
        write_secret(out, data)
    except OSError as exc:
        raise ConfigError(f"{out} cannot be written: {exc.strerror}") from exc
    print(f"wrote {out}: report {report_id}, {len(bundle.revisions)} revisions, as its {bundle.role} {bundle.member}")
    for revision in bundle.revisions:
        for item in revision.absent:
            print(f"not in it, revision {revision.revision}: {item.what}: {item.why}")
    print(f"examine it with `kentongan verify {out} --trust INVITATION`")
    return 0


# --- verify -----------------------------------------------------------------------------------------------------


def _verify(args: argparse.Namespace) -> int:
    data, trust, at = _read(args.file), _trust(args.trust), _time(args.at)
    receipt = _read(args.receipt) if args.receipt else None
    kind = kind_of(data)
    if kind is None:
        raise ConfigError(
            f"{args.file} is no report, receipt, delivery, confirmation, other statement, policy, region document, "
            "tlog-proof, evidence bundle or kept answer to an auditor"
        )
    _check_options(kind, args)
    verdict = examine(data, trust, at, receipt=receipt, entry=_entry(args.entry))
    if verdict is None:
        raise AssertionError("a kind that is known and not examined")
    if args.json:
        _json(verdict)
    else:
        _text(verdict)
    if verdict.false:
        return EXIT_FALSE
    return 0 if verdict.complete else EXIT_INCOMPLETE


def _check_options(kind: str, args: argparse.Namespace) -> None:
    if args.receipt and kind not in ("report", "tlog-proof"):
        raise ConfigError(f"--receipt goes with a report or a tlog-proof; this is a {kind}")
    if args.entry and (kind != "tlog-proof" or args.receipt):
        raise ConfigError("--entry goes with a tlog-proof alone, without --receipt")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc


def _trust(path: Path | None) -> Trust | None:
    if path is None:
        return None
    try:
        return read_trust(_read(path))
    except ProtocolError as exc:
        raise ConfigError(f"{path} is no invitation, region document or key record of the broker: {exc}") from exc


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ConfigError(f"--at {text}: not a time in ISO 8601") from exc
    if found.tzinfo is None or found.year > _LAST_YEAR:
        raise ConfigError(f"--at {text}: a time needs a zone, such as Z, and a year up to {_LAST_YEAR}")
    return found


def _entry(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        found = bytes.fromhex(text) if len(text) == 2 * HASH else a2b_base64(text, strict_mode=True)
    except ValueError as exc:
        raise ConfigError("--entry: neither hex nor base64") from exc
    if len(found) != HASH:
        raise ConfigError(f"--entry: an entry has {HASH} bytes")
    return found


def _json(verdict: Verdict) -> None:
    outcome = "false" if verdict.false else "proven" if verdict.complete else "incomplete"
    shown = {"outcome": outcome, **msgspec.to_builtins(verdict)}
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(shown)).decode() + "\n")


def _wrapped(text: str, first: str, rest: str) -> str:
    return textwrap.fill(plain(text), _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def _text(verdict: Verdict) -> None:
    """A heading a revision, a line a finding; what is proven of several of a kind stands together."""
    if verdict.warning:
        print(_wrapped(verdict.warning, "!! ", "!! "))
    print(_wrapped(f"This is {'an' if verdict.kind[0] in 'aeiou' else 'a'} {verdict.kind}.", "", ""))
    for heading, group in groupby(verdict.findings, key=lambda item: item.about.rpartition(": ")[0]):
        if heading:
            print(f"{heading[0].upper()}{heading[1:]}")
        for line in _lines(group):
            print(line)
    for note in verdict.notes:
        print(_wrapped(note, "- Said, not signed: ", "  "))
    counts = [sum(item.outcome == outcome for item in verdict.findings) for outcome in _MARKS]
    print(f"{counts[0]} statements are proven, {counts[1]} are not proven, {counts[2]} cannot be checked.")


def _lines(findings: Iterator[Finding]) -> Iterator[str]:
    for (subject, outcome), group in groupby(
        findings, key=lambda item: (item.about.rpartition(": ")[2].partition(" ")[0], item.outcome)
    ):
        items = list(group)
        if outcome == "proven" and subject == "witness":
            yield _wrapped(" ".join(item.sentence for item in items), "  ✓ ", "    ")
            continue
        for item in items:
            code = f" [{item.reason}]" if item.reason else ""
            missing = f" Missing: {item.missing}." if item.missing else ""
            yield _wrapped(f"{item.sentence}{missing}{code}", f"  {_MARKS[item.outcome]} ", "    ")
