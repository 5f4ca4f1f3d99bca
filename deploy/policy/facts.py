"""National facts as data: who the national CERT is, which law applies, by when it wants to be told.

Guarantees: each fact has its source, the date of what the source says and how sure we are. Nothing in the program
depends on any of them; they are for people who write policies. Refuses a file with a fact that lacks one of these.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import date
from importlib import resources
from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.errors import ConfigError, ProtocolError
from protocol.parse import convert
from protocol.report import Jurisdiction

Text = Annotated[str, Meta(min_length=1, max_length=600)]


class Fact(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fact."""

    jurisdiction: Jurisdiction
    fact: Literal["authority", "law", "deadline"]
    value: Text
    source: Text
    as_of: date
    """Date of what the source says: its publication, or the day from which it holds."""
    confidence: Literal["high", "medium", "low", "unknown"]
    """high: text of law, regulator or its press release read. medium: secondary source. low: from memory. unknown: no
    source found."""


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fact: list[Fact]


def parse(text: str, name: str) -> list[Fact]:
    """Facts from TOML. ConfigError with the file's name and the path of the fault."""
    try:
        return convert(tomllib.loads(text), _File).fact
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{name}: not valid TOML: {exc}") from exc
    except ProtocolError as exc:
        raise ConfigError(f"{name}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc


def load(jurisdictions: Sequence[str] = ()) -> list[Fact]:
    """The facts that come with the program; of these jurisdictions if any are named."""
    text = resources.files("deploy.policies").joinpath("facts.toml").read_text("utf-8")
    return [fact for fact in parse(text, "facts.toml") if not jurisdictions or fact.jurisdiction in jurisdictions]
