"""The broker's one TOML file. Every setting has a type and a sentence; unknown ones are refused.

`load_config` returns a frozen object or raises ConfigError with what to write where. Relative paths are relative to the
file.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from protocol.errors import ConfigError, ProtocolError
from protocol.parse import convert

Port = Annotated[int, Meta(ge=0, le=65535)]


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Http(_Section, frozen=True, kw_only=True):
    """Where coordinators and monitoring connect; port 0 chooses a free one."""

    host: str = "127.0.0.1"
    port: Port = 8480


class Token(_Section, frozen=True, kw_only=True):
    """A bearer token by its hash; the token itself stands nowhere."""

    name: str
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class Nats(_Section, frozen=True, kw_only=True):
    """`embedded` starts and supervises a server of its own; `external` uses one by URL and credentials file."""

    mode: Literal["embedded", "external"] = "embedded"
    host: str = "127.0.0.1"
    port: Port = 0
    public_url: str | None = None
    """What invitations tell members, if they reach the server under another address."""
    url: str | None = None
    creds: Path | None = None
    ca_file: Path | None = None


class Delivery(_Section, frozen=True, kw_only=True):
    """How soon a delivery that is not confirmed is sent again; the wait doubles up to 15 minutes."""

    first_retry_seconds: Annotated[float, Meta(gt=0, le=900)] = 10.0


class Config(_Section, frozen=True, kw_only=True):
    """Everything that the broker's process is told."""

    data: Path
    """Ledger and bus store; the ledger must survive, the bus store may be lost."""
    keys: Path
    """Private keys: signing.pem, and the bus's operator and account keys in nats/."""
    region: Path
    """Directory with region.toml and policies/."""
    ledger: str | None = None
    """SQLAlchemy URL; by default SQLite in the data directory."""
    http: Http = Http()
    token: list[Token] = []
    nats: Nats = Nats()
    delivery: Delivery = Delivery()

    @property
    def ledger_url(self) -> str:
        """Where the ledger is."""
        return self.ledger or f"sqlite:///{self.data / 'ledger.db'}"


def load_config(path: Path) -> Config:
    """Read the file, or the `broker.toml` in a directory. ConfigError says what to write where."""
    if path.is_dir():
        path = path / "broker.toml"
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} is missing: make it with `kentongan broker init`") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    try:
        config = convert(_paths(document), Config)
    except ProtocolError as exc:
        raise ConfigError(f"{path}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc
    if config.nats.mode == "external" and not config.nats.url:
        raise ConfigError(f'{path}: [nats] mode = "external" needs a url')
    base = path.parent.absolute()
    nats = msgspec.structs.replace(
        config.nats,
        creds=base / config.nats.creds if config.nats.creds else None,
        ca_file=base / config.nats.ca_file if config.nats.ca_file else None,
    )
    return msgspec.structs.replace(
        config, data=base / config.data, keys=base / config.keys, region=base / config.region, nats=nats
    )


def _paths(document: dict[str, Any]) -> dict[str, Any]:
    """msgspec has no conversion for paths; only strings may become one."""

    def as_path(value: Any) -> Any:
        return Path(value) if isinstance(value, str) else value

    found = dict(document)
    for name in ("data", "keys", "region"):
        if name in found:
            found[name] = as_path(found[name])
    if isinstance(found.get("nats"), dict):
        found["nats"] = {
            key: as_path(value) if key in ("creds", "ca_file") else value for key, value in found["nats"].items()
        }
    return found
