"""Explanations in sentences, in the languages for which there is a catalogue beside this file.

Guarantees: a sentence names the recipient, the units, the document and the rule, and quotes the reason that the rule's
author gave; it never holds anything of the report, since it is made from an `Answer`, which does not either. A
catalogue that was loaded has words for every unit, data class and reason. What a policy's author wrote is shown without
control and direction characters. Refuses: a language without a catalogue, a catalogue with gaps (ConfigError).
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Final, get_args

from msgspec import UNSET, Struct

from protocol.dryrun import Answer
from protocol.errors import ConfigError, ProtocolError
from protocol.parse import convert
from protocol.policy import Policy, Withheld
from protocol.reasons import Reason
from protocol.report import COARSE_UNITS, UNIT_BIT, UNIT_NAMES, DataClass
from protocol.rules import names_of

GATE_REASONS: Final = (
    Reason.DEFAULT_DENY,
    Reason.DENIED_BY_RULE,
    Reason.COARSE_BY_RULE,
    Reason.NO_COARSE_VALUE,
    Reason.NOT_NAMED,
    Reason.NOT_IN_GROUP,
    Reason.UNKNOWN_GROUP,
    Reason.RESIDENCY,
    Reason.EXPIRED,
    Reason.RECIPIENTS_REQUIRED,
    Reason.EXERCISE_MIXED,
    Reason.NO_POLICY,
    Reason.POLICY_NOT_EFFECTIVE,
    Reason.RULE_FAILED,
    Reason.MEMBER_SUSPENDED,
    Reason.NOT_SHOWN_TO,
    Reason.NOT_A_RECIPIENT,
    Reason.WITHDRAWN,
    Reason.NEVER_RECEIVED,
    Reason.NOT_SEALED_TO_ME,
)
"""Every reason that a gate can give; a code from a newer peer is shown as it is."""

Because = Mapping[tuple[str, str], str]
"""(document, rule) to the reason that its author gave."""


class Frames(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sentences are built."""

    party: str
    granted: str
    granted_whole: str
    granted_header: str
    refused: str
    withheld: str
    coarser: str
    coarse_item: str
    allowed: str
    stated: str
    rule: str
    join: str
    list: str
    last: str


class Catalogue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The words of one language."""

    language: str
    name: str
    frames: Frames
    documents: dict[str, str]
    reasons: dict[str, str]
    units: dict[str, str]
    coarse: dict[str, str]
    classes: dict[str, str]
    jurisdictions: dict[str, str]

    def jurisdiction(self, code: str) -> str:
        """A jurisdiction with its code: `Japan (jp)`."""
        name = self.jurisdictions.get(code)
        return self.frames.party.format(name=name, code=code) if name else code

    def document(self, gate: str, document: str) -> str:
        """A document as a reader knows it: `Japan's export policy, version 1`."""
        owner, slash, version = document.partition("/")
        key = gate if slash or gate not in ("export", "import") else f"{gate}_none"
        name = self.jurisdictions.get(owner, owner)
        return self.documents.get(key, "{jurisdiction}").format(jurisdiction=name, version=version)


class Sentences(Struct, frozen=True, kw_only=True):
    """What one recipient gets, for a reader who never saw the system."""

    jurisdiction: str
    granted: bool
    headline: str
    lines: list[str]


def languages() -> list[str]:
    """The languages for which there is a catalogue."""
    files = resources.files("protocol.wording").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


@cache
def load(language: str) -> Catalogue:
    """The catalogue of a language. ConfigError if there is none or it has gaps."""
    if language not in languages():
        raise ConfigError(f"no catalogue for the language {language}: there is {', '.join(languages())}")
    text = resources.files("protocol.wording").joinpath(f"{language}.toml").read_text("utf-8")
    return read(text, f"{language}.toml")


def read(text: str, name: str) -> Catalogue:
    """A catalogue from its text. ConfigError with the file's name and what is wrong."""
    try:
        found = convert(tomllib.loads(text), Catalogue)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{name}: not valid TOML: {exc}") from exc
    except ProtocolError as exc:
        raise ConfigError(f"{name}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc
    if faults := list(_faults(found)):
        raise ConfigError(f"{name}: {faults[0]}")
    return found


_PLACES: Final[Mapping[str, frozenset[str]]] = {
    "party": frozenset({"name", "code"}),
    "granted": frozenset({"recipient"}),
    "granted_whole": frozenset({"recipient"}),
    "granted_header": frozenset({"recipient"}),
    "refused": frozenset({"recipient", "why"}),
    "withheld": frozenset({"units", "why"}),
    "coarser": frozenset({"units", "why"}),
    "coarse_item": frozenset({"unit", "value"}),
    "allowed": frozenset({"rule", "document"}),
    "stated": frozenset({"because"}),
    "rule": frozenset({"rule", "document"}),
    "join": frozenset(),
    "list": frozenset(),
    "last": frozenset(),
}
_WHY: Final = frozenset({"rule", "document", "recipient", "reason"})
_DOCUMENT: Final = frozenset({"jurisdiction", "version"})


def _places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def _faults(found: Catalogue) -> Iterator[str]:
    wanted: dict[str, tuple[Mapping[str, str], Iterable[str]]] = {
        "reasons": (found.reasons, [*(reason.value for reason in GATE_REASONS), "other"]),
        "units": (found.units, UNIT_NAMES),
        "coarse": (found.coarse, names_of(COARSE_UNITS)),
        "classes": (found.classes, get_args(DataClass)),
        "documents": (found.documents, ("marking", "export", "export_none", "region", "import", "import_none")),
    }
    for section, (words, keys) in wanted.items():
        if missing := sorted(set(keys) - set(words)):
            yield f"[{section}] has no words for {', '.join(missing)}"
    for frame, places in _PLACES.items():
        if _places(getattr(found.frames, frame)) != places:
            yield f"[frames] {frame} must have the placeholders {', '.join(sorted(places)) or '(none)'}"
    for section, words, places in (("reasons", found.reasons, _WHY), ("documents", found.documents, _DOCUMENT)):
        for key, text in words.items():
            if strange := _places(text) - places:
                yield f"[{section}] {key} has an unknown placeholder {', '.join(sorted(strange))}"


def reasons_given(policies: Iterable[Policy]) -> dict[tuple[str, str], str]:
    """The reason that each rule's author gave for it, by document and rule."""
    return {
        (f"{policy.jurisdiction}/{policy.version}", rule.id): rule.because
        for policy in policies
        for rule in (*policy.export, *policy.import_)
    }


def plain(text: str) -> str:
    """What somebody else wrote, on one line and without characters that steer a terminal or turn text around."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _listing(frames: Frames, items: list[str]) -> str:
    return frames.last.join([frames.list.join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _why(words: Catalogue, item: Withheld, recipient: str) -> str:
    document = words.document(item.gate, item.document)
    rule = words.frames.rule.format(rule=item.rule, document=document) if item.rule is not UNSET else document
    text = words.reasons.get(item.reason) or words.reasons["other"]
    return text.format(rule=rule, document=document, recipient=recipient, reason=item.reason)


def _unit(words: Catalogue, item: Withheld) -> str:
    name = words.units.get(item.unit, item.unit)
    if not item.coarse:
        return name
    return words.frames.coarse_item.format(unit=name, value=words.coarse.get(item.unit, item.unit))


def _stated(words: Catalogue, because: Because, document: str, rule: object) -> list[str]:
    given = because.get((document, rule)) if isinstance(rule, str) else None
    return [words.frames.stated.format(because=plain(given))] if given else []


def _headline(words: Catalogue, answer: Answer, recipient: str) -> str:
    if not answer.exact and not answer.coarse and answer.withheld:
        return words.frames.granted_header.format(recipient=recipient)
    frame = words.frames.granted if answer.withheld else words.frames.granted_whole
    return frame.format(recipient=recipient)


def _order(item: Withheld) -> tuple[bool, str, str, str, str]:
    return (item.coarse, item.gate, item.document, item.reason, item.rule or "")


def say(answer: Answer, words: Catalogue, because: Because) -> Sentences:
    """What one recipient gets, what not, and why, in sentences.

    Args:
        because: see `reasons_given`; a rule that is not in it is named without its reason.
    """
    recipient = words.jurisdiction(answer.jurisdiction)
    join = words.frames.join
    if not answer.granted:
        why = answer.withheld[0]
        headline = words.frames.refused.format(recipient=recipient, why=_why(words, why, recipient))
        lines = _stated(words, because, why.document, why.rule)
        return Sentences(jurisdiction=answer.jurisdiction, granted=False, headline=headline, lines=lines)
    lines = []
    for basis in answer.allowed_by:
        text = words.frames.allowed.format(rule=basis.rule, document=words.document(basis.gate, basis.document))
        lines.append(join.join([text, *_stated(words, because, basis.document, basis.rule)]))
    for _, group in groupby(sorted(answer.withheld, key=_order), key=_order):
        items = sorted(group, key=lambda item: UNIT_BIT.get(item.unit, len(UNIT_BIT)))
        first = items[0]
        frame = words.frames.coarser if first.coarse else words.frames.withheld
        text = frame.format(
            units=_listing(words.frames, [_unit(words, item) for item in items]), why=_why(words, first, recipient)
        )
        lines.append(join.join([text, *_stated(words, because, first.document, first.rule)]))
    headline = _headline(words, answer, recipient)
    return Sentences(jurisdiction=answer.jurisdiction, granted=True, headline=headline, lines=lines)


__all__ = [
    "GATE_REASONS",
    "Because",
    "Catalogue",
    "Frames",
    "Sentences",
    "languages",
    "load",
    "plain",
    "read",
    "reasons_given",
    "say",
]
