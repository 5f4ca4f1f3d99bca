"""`kentongan node audit`: who got what of the own jurisdiction's traffic, as the auditor's own node has verified it.

The node asks the broker; this command asks the node, page by page, and writes each as it comes. It ends with 1 if
anything does not hold or was left out, and with 0 if all that was shown holds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from node.asking import ENVIRONMENT, get
from node.auditformat import FORMATS
from node.auditheld import Shown
from node.auditing import Fault, Line, Page
from node.config import Config, find_config, load_config
from protocol.errors import ConfigError, ProtocolError
from protocol.evidence import Bundle, read_bundle, verify_bundle
from protocol.findings import Trust
from protocol.invitation import load_invitation
from protocol.limits import PROOFS_PER_REQUEST
from protocol.parse import convert
from protocol.reasons import Reason
from protocol.report import Instant

_page: Final = msgspec.json.Decoder(Page)


def add_audit(commands: Any) -> None:
    """Mount `audit` under `node`."""
    audit = commands.add_parser("audit", help="who got what of the own jurisdiction's traffic; for an auditor's node")
    audit.add_argument("place", type=Path, metavar="DIR|node.toml")
    audit.add_argument("--from", dest="since", metavar="TIME", help="decided from then on: 2026-03-01T00:00:00Z")
    audit.add_argument("--until", metavar="TIME", help="decided before then")
    audit.add_argument("--report", metavar="ID", help="accepted revisions of this report")
    audit.add_argument("--recipient", metavar="WHO", help="what concerns this member, or this jurisdiction")
    audit.add_argument("--format", choices=sorted(FORMATS), default="table")
    audit.add_argument(
        "--held", type=Path, nargs="+", default=[], metavar="FILE", help="evidence of members: is all of it shown?"
    )
    audit.add_argument("--keep", type=Path, metavar="FILE", help="keep questions and answers as the broker signed them")
    audit.add_argument("--token", help=f"one of the node's tokens; default: {ENVIRONMENT} of the environment")
    audit.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command."""
    config = load_config(find_config(args.place))
    if args.held and (args.report or args.recipient):
        raise ConfigError("--held compares with everything that is shown: leave out --report and --recipient")
    bundles = [_bundle(config, path) for path in args.held]
    talk = _Talk(config, args)
    for text in FORMATS[args.format](talk.lines()):
        sys.stdout.write(text)
    for path, bundle in zip(args.held, bundles, strict=True):
        for fault in _missing(talk.shown, path, bundle):
            talk.tell(fault, str(path))
    sys.stderr.write(talk.summary())
    return 1 if talk.faults else 0


class _Talk:
    """Asks for page after page, and counts."""

    def __init__(self, config: Config, args: argparse.Namespace) -> None:
        self._config = config
        self._token = args.token or os.environ.get(ENVIRONMENT, "")
        self._query = {
            "from": args.since,
            "until": args.until,
            "report": args.report,
            "recipient": args.recipient,
            "limit": PROOFS_PER_REQUEST,
            "evidence": 1 if args.keep else None,
        }
        self._keep: Path | None = args.keep
        self._held = bool(args.held)
        self.shown = Shown(_time(args.since, "--from"), _time(args.until, "--until"))
        self.faults = self._lines = self._waiting = self._cases = self._unseen = 0
        self._first: int | None = None
        self._end = 0
        self._members: Sequence[str] = ()

    def lines(self) -> Iterator[Line]:
        """All lines, as they come."""
        after, more = 0, True
        while more:
            asked = {name: value for name, value in self._query.items() if value is not None}
            path = f"/v1/audit?{urlencode({**asked, 'after': after})}"
            page = _page.decode(get(self._config, path, self._token))
            if after and page.first != after:
                passed = Fault(reason=Reason.LEFT_OUT.value, path="$.first", detail="the broker passed over entries")
                self.tell(passed, f"leaves {after} to {page.first}")
            self._take(page)
            yield from page.lines
            after, more = page.next, page.more

    def _take(self, page: Page) -> None:
        if self._keep is not None and page.evidence:
            with self._keep.open("ab") as file:
                file.writelines(msgspec.json.encode(exchange) + b"\n" for exchange in page.evidence)
        for fault in page.faults:
            self.tell(fault, f"leaves {page.first} to {page.end}")
        self.faults += sum(bool(line.faults) for line in page.lines)
        self._waiting += sum(line.log == "waiting" for line in page.lines)
        self._lines += len(page.lines)
        self._cases += page.cases
        self._unseen += len(page.unseen)
        self._first = page.first if self._first is None else self._first
        self._end, self._members = page.end, page.members
        if self._held:
            self.shown.add(page)

    def tell(self, fault: Fault, where: str) -> None:
        """A fault that is on no line."""
        self.faults += 1
        print(f"{fault.reason} at {fault.path}: {fault.detail} ({where})", file=sys.stderr)

    def summary(self) -> str:
        """What was looked at, what holds, and what that does not show."""
        first, whose = self._first or 0, ", ".join(self._members) or "nobody"
        entries = f"{self._cases} of the {self._end - first} entries from leaf {first} to before {self._end} of the log"
        said = [
            f"{self._lines} lines of {whose}: {entries}.",
            f"{self.faults} do not hold or were left out." if self.faults else "All that is shown holds.",
        ]
        if self._waiting:
            said.append(f"{self._waiting} are not yet in a part of the log that a quorum has witnessed.")
        if self._unseen:
            said.append(f"{self._unseen} entries name a member that is hidden from this auditor, and are not shown.")
        if not self._held:
            said.append("Whether entries were left out, compare with the members' own evidence: --held.")
        return "\n".join(said) + "\n"


def _time(text: str | None, option: str) -> datetime | None:
    try:
        return convert(text, Instant) if text else None
    except ProtocolError as exc:
        raise ConfigError(f"{option}: a time with its zone, such as 2026-03-01T00:00:00Z") from exc


def _bundle(config: Config, path: Path) -> Bundle:
    """A member's evidence, which holds: else it accuses nobody."""
    trust = Trust(tuple(load_invitation(config.invitation).broker_keys))
    try:
        bundle = read_bundle(path.read_bytes())
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except ProtocolError as exc:
        raise ConfigError(f"{path} is no evidence bundle: {exc.detail}") from exc
    verdict = verify_bundle(bundle, trust, datetime.now(UTC))
    if verdict.false:
        raise ConfigError(f"{path} does not hold: see `kentongan verify {path}`")
    return bundle


def _missing(shown: Shown, path: Path, bundle: Bundle) -> Sequence[Fault]:
    try:
        return list(shown.missing(bundle))
    except ProtocolError as exc:
        raise ConfigError(f"{path} cannot be compared: {exc.detail}") from exc
