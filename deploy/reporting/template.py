"""A filing from a template and options: what is said on the command line outranks what the template says.

Pure but for `read`. Refuses what is not a filing with the path of the fault, before anything is sent.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

from protocol.errors import ConfigError, ProtocolError
from protocol.parse import convert
from protocol.report import Filing

TEMPLATE: Final = """\
# A report as `kentongan report file --from FILE` takes it. Lines that begin with # are choices: take the # away.
# The words that can stand in each place are in the node's page /docs.

phase = "initial"                  # intermediate, final; withdrawn takes it back
# report_id = "…"                  # of the report that this is a new revision of, with the next revision
# revision = 2

[marking]
tlp = "AMBER"                      # CLEAR, GREEN, AMBER, AMBER+STRICT, RED
# recipients = ["jp", "my"]        # jurisdictions; RED needs them

[[rsit]]
class = "malicious-code"
type = "c2-server"

[severity]
score = 60                         # 0 to 100

[[sectors]]
code = "finance.banking"

[body]
title = "Command and control server of a banking trojan"
# description = "What happened, as far as it is known."

[body.times.detected]
value = 2026-03-01T08:30:00Z

# [body.victim]                    # the default policy of a node lets nobody see it
# name = "Bank Contoh"
# sector = "finance.banking"

[[body.indicators]]
type = "ipv4-addr"
value = "203.0.113.44"

# [[body.assistance_requested]]
# kind = "takedown"
"""


def add_options(action: argparse.ArgumentParser) -> None:
    """What can be said of a report without a template."""
    action.add_argument("--tlp", help="CLEAR, GREEN, AMBER, AMBER+STRICT or RED")
    action.add_argument("--to", action="append", default=[], metavar="JURISDICTION", help="a named recipient")
    action.add_argument("--class", dest="rsit", metavar="CLASS[:TYPE]", help="of RSIT, such as fraud:phishing")
    action.add_argument("--title")
    action.add_argument("--description")
    action.add_argument("--severity", type=int, metavar="0…100")
    action.add_argument("--sector", action="append", default=[], metavar="CODE", help="such as finance.banking")
    action.add_argument("--detected", metavar="TIME", help="with a zone, such as 2026-03-01T08:30:00Z")
    action.add_argument(
        "--indicator", action="append", default=[], metavar="TYPE=VALUE", help="such as domain-name=evil[.]example"
    )
    action.add_argument("--phase", help="initial, intermediate, final or withdrawn")
    action.add_argument("--report", metavar="ID", help="the report that this is a new revision of")
    action.add_argument("--revision", type=int, help="its number, with --report")


def read(path: Path) -> dict[str, Any]:
    """A template in TOML or JSON. ConfigError if it is neither."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if text.lstrip()[:1] == "{" else tomllib.loads(text)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: neither TOML nor JSON that can be read: {exc}") from exc
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not one report")
    return found


def build(args: argparse.Namespace, base: dict[str, Any]) -> Filing:
    """The filing. ConfigError with the path of what is wrong or missing."""
    body = dict(base.get("body") or {})
    kind, _, exact = (args.rsit or "").partition(":")
    said = {
        "marking": {**(base.get("marking") or {}), **_given(tlp=(args.tlp or "").upper(), recipients=args.to)},
        "rsit": [{"class": kind, **_given(type=exact)}] if kind else None,
        "severity": {"score": args.severity} if args.severity is not None else None,
        "sectors": [{"code": code} for code in args.sector],
        "phase": args.phase,
        "report_id": args.report,
        "revision": args.revision,
        "body": {
            **body,
            **_given(
                title=args.title,
                description=args.description,
                times={**body.get("times", {}), "detected": {"value": args.detected}} if args.detected else None,
                indicators=[*body.get("indicators", []), *map(_indicator, args.indicator)],
            ),
        },
    }
    try:
        return convert(msgspec.to_builtins({**base, **_given(**said)}), Filing)
    except ProtocolError as exc:
        raise ConfigError(f"{exc.path}: {exc.detail or exc.reason.value}") from exc


def _given(**values: Any) -> dict[str, Any]:
    """Those that were said."""
    return {name: value for name, value in values.items() if value}


def _indicator(text: str) -> dict[str, str]:
    kind, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--indicator {text}: write TYPE=VALUE, such as ipv4-addr=203.0.113.7")
    return {"type": kind, "value": value}
