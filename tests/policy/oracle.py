"""The sharing policy written a second time, for Cedar: another language, another engine, no code in common.

Each pair of unit and level is an action. An allow rule is a `permit`, a deny rule a `forbid`; Cedar denies by default
and lets any `forbid` win. What the marking of a report says is a third set of policies, made of `forbid`s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, get_args

import cedarpy
from msgspec import UNSET

from protocol import taxonomy as tx
from protocol.policy import Circles, Facts, Policy, Recipient, Rule
from protocol.report import UNIT_NAMES, UNITS

COARSE = ("title", "description", "times", "entity_counts", "victim", "geo", "indicators.address", "contacts")
EXACT = UNIT_NAMES


SOURCE = ("source", "attachments.content")
"""What can hold anything: an allow rule with `*` leaves it out."""


def covers(selector: str, unit: str) -> bool:
    """Whether a selector names a unit."""
    if selector == "*":
        return True
    if selector.startswith("@"):
        if unit in SOURCE or unit == "report":
            return unit != "report" and selector == "@source"
        return UNITS[unit.partition(".")[0]].data == selector[1:]
    return unit == selector or unit.startswith(f"{selector}.")


def level_of(rule: Rule, unit: str) -> str:
    """The level that the narrowest selector gives to a unit; a name is narrower than a class of the same size."""
    found = [selector for selector in rule.level if covers(selector, unit)]
    if not found:
        return "exact"
    sizes = [(sum(covers(selector, other) for other in UNIT_NAMES), selector[0] == "@", selector) for selector in found]
    return rule.level[min(sizes)[2]]


def actions_of(rule: Rule) -> set[str]:
    """What an allow rule releases, or a deny rule takes away."""
    found = set()
    for unit in UNIT_NAMES:
        blind = "*" if rule.effect == "allow" and unit in SOURCE else ""
        chosen = [selector for selector in rule.disclose or () if selector != blind and covers(selector, unit)]
        if rule.disclose is not UNSET and not chosen:
            continue
        coarse = level_of(rule, unit) == "coarse"
        if rule.effect == "allow":
            found |= set() if coarse else {f"exact:{unit}"}
            found |= {f"coarse:{unit}"} if unit in COARSE else set()
        else:
            found.add(f"exact:{unit}")
            found |= {f"coarse:{unit}"} if unit in COARSE and not coarse else set()
    return found | ({"exact:report"} if rule.effect == "allow" else set())


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(json.dumps(value) for value in values) + "]"


def _conditions(rule: Rule) -> Iterator[str]:
    when = rule.when
    every = "containsAll" if rule.effect == "allow" else "containsAny"
    for name in ("tlp", "pap", "phase", "purpose", "made_by"):
        listed = getattr(when, name)
        if listed is not UNSET:
            yield f"context has {name} && {_list(listed)}.contains(context.{name})"
    if when.severity is not UNSET:
        bounds = f"context.severity >= {when.severity.min} && context.severity <= {when.severity.max}"
        yield f"context has severity && {bounds}"
    if when.rsit is not UNSET:
        full = [
            f"{class_}/{type_}"
            for class_, types in tx.RSIT.items()
            for type_ in ("-", *types)
            if class_ in when.rsit or f"{class_}/{type_}" in when.rsit
        ]
        yield f"context.rsit != [] && {_list(full)}.{every}(context.rsit)"
    if when.sector is not UNSET:
        full = [code for code in get_args(tx.Sector) if {code, code.partition(".")[0]} & set(when.sector)]
        yield f"context.sectors != [] && {_list(full)}.{every}(context.sectors)"
    if when.agreement is not UNSET:
        yield f"{_list(when.agreement)}.containsAny(context.agreements)"


def cedar(rules: Sequence[Rule]) -> str:
    """The rules of one side as Cedar policies."""
    texts = []
    for rule in rules:
        actions = ", ".join(f'Action::"{name}"' for name in sorted(actions_of(rule)))
        listed = rule.from_ if rule.to is UNSET else rule.to
        who = "true" if "*" in listed else f"{_list(listed)}.contains(context.party)"
        conditions = " && ".join([who, *(f"({text})" for text in _conditions(rule))])
        effect = "permit" if rule.effect == "allow" else "forbid"
        texts.append(f"{effect}(principal, action in [{actions}], resource) when {{ {conditions} }};")
    return "\n".join(texts)


MARKING = """
permit(principal, action, resource);
forbid(principal, action, resource) when { context.exercise };
forbid(principal, action, resource) when { context.expired };
forbid(principal, action, resource) when { context.tlp == "RED" && !(context has recipients) };
forbid(principal, action, resource) when { context has recipients && !context.recipients.contains(context.party) };
forbid(principal, action, resource) when { context has residency && !context.residency.contains(context.party) };
forbid(principal, action, resource) when { context has circle && !context.circle.contains(context.party) };
forbid(principal, action, resource) when { !context.active };
"""


def context(facts: Facts, party: str, bound: Sequence[str]) -> dict[str, Any]:
    """What the policies of one side see."""
    seen = {
        "party": party,
        "tlp": facts.tlp,
        "pap": facts.pap,
        "severity": facts.severity,
        "phase": facts.phase,
        "purpose": facts.purpose,
        "made_by": facts.made_by,
        "rsit": [f"{class_}/{type_ or '-'}" for class_, type_ in facts.rsit],
        "sectors": list(facts.sectors),
        "agreements": list(bound),
    }
    return {name: value for name, value in seen.items() if value is not None}


def _ask(policies: str, seen: dict[str, Any]) -> set[str]:
    names = [f"exact:{unit}" for unit in EXACT] + [f"coarse:{unit}" for unit in COARSE]
    if not policies.strip():
        return set()
    requests = [
        {"principal": 'J::"x"', "action": f'Action::"{name}"', "resource": 'R::"r"', "context": seen} for name in names
    ]
    answers = cedarpy.is_authorized_batch(requests, policies, [])
    for answer in answers:
        assert not answer.diagnostics.errors, answer.diagnostics.errors
    return {name for name, answer in zip(names, answers, strict=True) if answer.allowed}


def decide(
    facts: Facts, recipient: Recipient, policies: dict[str, Policy], now: datetime, circles: Circles
) -> set[str]:
    """What the recipient gets, as `exact:<unit>` and `coarse:<unit>`."""
    party = recipient.jurisdiction
    bound = []
    for name, pact in circles.agreements.items():
        begun = pact.begins <= now
        over = pact.ends is not None and pact.ends <= now
        if begun and not over and {facts.origin, party} <= pact.parties:
            bound.append(name)
    marking: dict[str, Any] = {
        "party": party,
        "tlp": facts.tlp,
        "exercise": facts.exercise,
        "expired": facts.expires_at is not None and facts.expires_at <= now,
        "active": recipient.active and recipient.receives,
    }
    if facts.recipients is not None:
        marking["recipients"] = list(facts.recipients)
    if facts.residency is not None:
        marking["residency"] = list(facts.residency)
    if facts.sharing_group is not None:
        marking["circle"] = sorted(circles.groups.get(facts.sharing_group, ()))
    found = _ask(MARKING, marking)
    found &= _ask(cedar(policies[facts.origin].export), context(facts, party, bound))
    found &= _ask(cedar(policies[party].import_), context(facts, facts.origin, bound))
    return found if "exact:report" in found else set()
