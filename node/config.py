"""The node's configuration: one TOML file, read once, into a frozen object.

Refuses unknown keys and wrong values with a `ConfigError` that says what to write where. Paths are relative to the
file. Has no defaults that depend on the machine.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from protocol.errors import ConfigError, ProtocolError
from protocol.parse import convert
from protocol.registry import MemberId
from protocol.report import Jurisdiction, Line

DEFAULT_PORT: Final = 8440
FILE: Final = "node.toml"
SIGNING_KEY: Final = "signing.pem"
SEALING_KEY: Final = "sealing.json"
SEALING_KEYS: Final = "sealing*.json"
"""All of them open what was sealed to them; old ones stay for what is still on its way."""
FINGERPRINT_KEY: Final = "fingerprint.key"
NATS_SEED: Final = "nats.seed"
NATS_CREDS: Final = "nats.creds"


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Http(_Section, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = DEFAULT_PORT


class Token(_Section, frozen=True, kw_only=True):
    """A client's access, as the SHA-256 of its token: the file holds nothing that lets anybody in."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class Limits(_Section, frozen=True, kw_only=True):
    backlog: Annotated[int, Meta(ge=1)] = 200_000


class Bus(_Section, frozen=True, kw_only=True):
    ca_file: str | None = None


class _File(_Section, frozen=True, kw_only=True):
    member: MemberId
    jurisdiction: Jurisdiction
    name: Line
    data: str = "data"
    keys: str = "keys"
    policy: str = "policy.toml"
    invitation: str = "invitation.json"
    http: Http = Http()
    token: list[Token] = []
    limits: Limits = Limits()
    nats: Bus = Bus()


@dataclass(frozen=True, slots=True)
class Config:
    """What `node.toml` says, its paths resolved."""

    member: str
    jurisdiction: str
    name: str
    data: Path
    keys: Path
    policy: Path
    invitation: Path
    ca_file: Path | None
    http: Http
    tokens: tuple[Token, ...]
    backlog: int


def load_config(path: Path) -> Config:
    """Read a configuration. ConfigError with the path of the fault and the file's name."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} is missing: make it with `kentongan node init`") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    try:
        file = convert(document, _File)
    except ProtocolError as exc:
        raise ConfigError(f"{path}: {exc.detail} ({exc.path.removeprefix('$.')}); {_known_keys()}") from exc
    names = [token.name for token in file.token]
    if len(names) != len(set(names)):
        raise ConfigError(f"{path}: two [[token]] entries have the same name")
    base = path.resolve().parent
    return Config(
        member=file.member,
        jurisdiction=file.jurisdiction,
        name=file.name,
        data=base / file.data,
        keys=base / file.keys,
        policy=base / file.policy,
        invitation=base / file.invitation,
        ca_file=base / file.nats.ca_file if file.nats.ca_file else None,
        http=file.http,
        tokens=tuple(file.token),
        backlog=file.limits.backlog,
    )


def _known_keys() -> str:
    plain = [name for name in _File.__struct_fields__ if name not in ("http", "token", "limits", "nats")]
    tables = {"[http]": Http, "[[token]]": Token, "[limits]": Limits, "[nats]": Bus}
    parts = [f"{title} {', '.join(kind.__struct_fields__)}" for title, kind in tables.items()]
    return f"known keys: {', '.join(plain)}; {'; '.join(parts)}"


def find_config(place: Path) -> Path:
    """The configuration file that a command's argument means: the file itself, or the one in a directory."""
    return place / FILE if place.is_dir() else place


def encode_toml_string(text: str) -> str:
    """A TOML basic string: JSON's escapes are a subset of TOML's."""
    return msgspec.json.encode(text).decode()
