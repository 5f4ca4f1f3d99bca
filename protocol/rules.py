"""The sharing policy as a jurisdiction writes it: a versioned document of rules, read from TOML.

Guarantees: a `Policy` that was decoded names only units, jurisdictions and values that exist, and its rule ids are
unique. Refuses everything else as a whole, with the path of the fault: what cannot be read grants nothing.

What is no condition, and why:

    origin, recipient   `from` and `to` say it: an export rule's origin is the document's own jurisdiction, an import
                        rule's recipient is
    determination       and all else of the body: whoever evaluates may not have been given the body, and an answer that
                        depends on it would tell others what it says
    exercise            drill traffic is shut out before any policy is asked
    data class          is what `disclose` and `level` select, as `@class`

There are no classes `credentials` and `health`: the profile has no field for either. Accounts and mail addresses among
the indicators are the unit `indicators.account`; that an incident is one of a hospital is its sector.
"""

from __future__ import annotations

import tomllib
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from protocol import taxonomy as tx
from protocol.errors import ConfigError, ProtocolError
from protocol.parse import convert
from protocol.report import ALL_UNITS, HEADER_UNIT, UNIT_BIT, UNIT_NAMES, Jurisdiction, unit_of

Party = Annotated[str, Meta(pattern=r"^(?:\*|[a-z0-9][a-z0-9-]{1,30})$(?!\n)")]
"""A jurisdiction, or `*` for all of them."""
AgreementId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)")]


class _Doc(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Range(_Doc, frozen=True, kw_only=True):
    """Bounds of the severity score, both included."""

    min: Annotated[int, Meta(ge=0, le=100)] = 0
    max: Annotated[int, Meta(ge=0, le=100)] = 100

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError("out-of-range: min is above max, so that the rule would never apply")


class When(_Doc, frozen=True, kw_only=True):
    """Conditions, all of which must hold. Of a list attribute, an allow rule needs all values in its list, a deny rule
    any: so that a second sector never smuggles the first one out. What the report does not state satisfies none.

    `agreement` holds while one of these agreements is in force between origin and recipient. It is for allow rules: a
    deny rule with it would open something by the end of an agreement.
    """

    tlp: list[tx.Tlp] | UnsetType = UNSET
    pap: list[tx.Pap] | UnsetType = UNSET
    rsit: list[str] | UnsetType = UNSET
    sector: list[tx.Sector] | UnsetType = UNSET
    severity: Range | UnsetType = UNSET
    phase: list[tx.Phase] | UnsetType = UNSET
    purpose: list[tx.Purpose] | UnsetType = UNSET
    made_by: list[tx.ToolKind] | UnsetType = UNSET
    agreement: list[AgreementId] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.rsit is not UNSET:
            for tag in self.rsit:
                class_, slash, type_ = tag.partition("/")
                if class_ not in tx.RSIT or (slash and type_ not in tx.RSIT[class_]):
                    raise ValueError(f"unknown-rsit-type: {tag} is neither an RSIT class nor class/type")


class Rule(_Doc, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One rule of a policy.

    `to` (export) or `from` (import) names jurisdictions, `["*"]` all. `disclose` names units, `@class`es or `*`; a deny
    rule without it denies the whole report. `*` is all units, of an allow rule all but those of the class `source`:
    nobody knows what is in them, so that they are released by name or not at all. `level` makes units coarse: an allow
    rule then releases only the coarse value, a deny rule only denies the exact one.
    """

    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)")]
    effect: Literal["allow", "deny"]
    because: Annotated[str, Meta(min_length=1, max_length=500)]
    to: list[Party] | UnsetType = UNSET
    from_: list[Party] | UnsetType = UNSET
    when: When = When()
    disclose: list[str] | UnsetType = UNSET
    level: dict[str, Literal["exact", "coarse"]] = {}

    def __post_init__(self) -> None:
        for selector in [*(self.disclose or ()), *self.level]:
            if not select(selector):
                raise ValueError(f"unknown-unit: {selector} is no unit, unit group or @class")
        if self.effect == "allow" and self.disclose is UNSET:
            raise ValueError("missing-field: an allow rule says what it discloses; [] is the header alone")
        if self.effect == "deny" and self.when.agreement is not UNSET:
            raise ValueError("invalid-value: a deny rule has no `agreement`: its end would release more")


class Policy(_Doc, frozen=True, kw_only=True, rename={"import_": "import"}):
    """A jurisdiction's sharing policy as written: versioned, with the time from which it holds."""

    jurisdiction: Jurisdiction
    version: Annotated[int, Meta(ge=1, lt=2**31)]
    effective_from: Annotated[datetime, Meta(tz=True)]
    effective_until: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET
    description: Annotated[str, Meta(max_length=2_000)] = ""
    export: list[Rule] = []
    import_: list[Rule] = []

    def __post_init__(self) -> None:
        ids = [rule.id for rule in (*self.export, *self.import_)]
        if len(ids) != len(set(ids)):
            raise ValueError("invalid-value: two rules have the same id")
        if any(rule.to is UNSET or rule.from_ is not UNSET for rule in self.export):
            raise ValueError("missing-field: an export rule says `to` whom, and has no `from`")
        if any(rule.from_ is UNSET or rule.to is not UNSET for rule in self.import_):
            raise ValueError("missing-field: an import rule says `from` whom, and has no `to`")


def load_policy(text: str, name: str) -> Policy:
    """Read a policy from TOML. ConfigError with the path of the fault and the file's name."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{name}: not valid TOML: {exc}") from exc
    try:
        return convert(document, Policy)
    except ProtocolError as exc:
        raise ConfigError(f"{name}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc


@lru_cache(maxsize=256)
def select(selector: str) -> int:
    """The units that a selector names, as a mask; 0 for one that names nothing."""
    if selector == "*":
        return ALL_UNITS
    mask = 0
    for name, bit in UNIT_BIT.items():
        by_class = selector.startswith("@") and name != HEADER_UNIT and unit_of(name).data == selector[1:]
        if by_class or name == selector or name.startswith(selector + "."):
            mask |= 1 << bit
    return mask


def names_of(mask: int) -> list[str]:
    """Unit names in a mask, in the order of the table."""
    return [name for bit, name in enumerate(UNIT_NAMES) if mask >> bit & 1]
