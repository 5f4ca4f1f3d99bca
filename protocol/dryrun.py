"""Dry run: who would get what of a report, and by which rules, before it is filed.

Guarantees: the answer is that of `policy.evaluate` and `policy.explain`, the functions by which the broker decides:
what this says for given policies and a given time is what would happen. It reads which units a body has, never what
they say, so an answer holds nothing of the report. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from protocol.coarse import coarse_body, coarse_elements
from protocol.facts import NO_CIRCLES, Circles, Facts, Recipient, facts_of
from protocol.matching import Gate
from protocol.policy import Outcome, PolicyBook, Withheld, evaluate, explain
from protocol.report import COARSE_SUFFIX, SCHEMA, UNIT_BIT, UNITS, Body, Filing, Header, Origin, part_of
from protocol.rules import names_of

_SAID: Final = tuple(name for name in Filing.__struct_fields__ if name in Header.__struct_fields__)
_NOBODY: Final = UUID(int=0)


class Basis(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule by which something was released."""

    gate: Gate
    document: str
    rule: str


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one recipient would get of one report."""

    jurisdiction: str
    granted: bool
    exact: list[str] = []
    """Units of this report that it would get as they are."""
    coarse: list[str] = []
    """Units of which it would get the coarser value."""
    allowed_by: list[Basis] = []
    withheld: list[Withheld] = []


def units_of(body: Body) -> tuple[int, int]:
    """The units that a body has, as masks: exact, coarse. The same as those of the signed report."""
    exact = coarse = 0
    for name, value in msgspec.to_builtins(body).items():
        for element in value if UNITS[name].each else [{}]:
            mask = 1 << UNIT_BIT[part_of(name, element)]
            if element.get("level") == "coarse":
                coarse |= mask
            else:
                exact |= mask
    for name, values in coarse_elements(body).items():
        for value in msgspec.to_builtins(values):
            coarse |= 1 << UNIT_BIT[part_of(name, value)]
    for name in msgspec.to_builtins(coarse_body(body)):
        coarse |= 1 << UNIT_BIT[name.removesuffix(COARSE_SUFFIX)]
    return exact, coarse


def facts_of_filing(filing: Filing, origin: str, now: datetime) -> Facts:
    """The facts of a report that this jurisdiction would file."""
    said = {name: getattr(filing, name) for name in _SAID}
    said |= {"report_id": _NOBODY, "incident_id": _NOBODY, "revision": filing.revision or 1}
    header = Header(
        schema=SCHEMA,
        origin=Origin(jurisdiction=origin, member=origin),
        issued_at=now,
        fingerprint="of-no-report-at-all",
        **said,
    )
    return facts_of(header)


def answer_for(jurisdiction: str, outcome: Outcome, units: tuple[int, int]) -> Answer:
    """An outcome in words of this report: the units that it has, released or withheld."""
    exact, coarse = units
    sent = exact & outcome.exact
    wide = coarse & outcome.coarse & ~sent
    bases = []
    for gate in outcome.gates if outcome.granted else ():
        giving = [rule for rule, fine, broad in gate.allowed_by if fine & sent or broad & wide]
        # A report may travel as its header alone.
        rules = giving or [rule for rule, *_ in gate.allowed_by]
        bases += [Basis(gate=gate.gate, document=gate.document, rule=rule) for rule in rules]
    return Answer(
        jurisdiction=jurisdiction,
        granted=outcome.granted,
        exact=names_of(sent),
        coarse=names_of(wide),
        allowed_by=bases,
        withheld=explain(outcome, exact, coarse),
    )


def dry_run(
    facts: Facts,
    units: tuple[int, int],
    recipients: Iterable[Recipient],
    book: PolicyBook,
    now: datetime,
    circles: Circles = NO_CIRCLES,
) -> list[Answer]:
    """What each recipient would get.

    Args:
        units: those of the report's body, see `units_of`.
        recipients: those of the region without the member that would file it. Another member of the same
            jurisdiction is a recipient like any other.
    """
    return [
        answer_for(recipient.jurisdiction, evaluate(facts, recipient, book, now, circles), units)
        for recipient in recipients
    ]
