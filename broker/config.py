"""The broker's one TOML file. Every setting has a type and a sentence; unknown ones are refused.

`load_config` returns a frozen object or raises ConfigError with what to write where. Relative paths are relative to the
file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from protocol import hsm, reportlog, tracing
from protocol.errors import ConfigError
from protocol.process import Port, Section, Settings, load_settings


class Http(Section, frozen=True, kw_only=True):
    """Where coordinators and monitoring connect; port 0 chooses a free one."""

    host: str = "127.0.0.1"
    port: Port = 8480
    tls_cert: Path | None = None
    """PEM: with it, HTTPS."""
    tls_key: Path | None = None
    client_ca: Path | None = None
    """PEM: whose clients' certificates count in place of tokens."""


class Nats(Section, frozen=True, kw_only=True):
    """`embedded` starts and supervises a server of its own; `external` uses one by URL and credentials file."""

    mode: Literal["embedded", "external"] = "embedded"
    host: str = "127.0.0.1"
    port: Port = 0
    public_url: str | None = None
    """What invitations tell members, if they reach the server under another address."""
    url: str | None = None
    creds: Path | None = None
    ca_file: Path | None = None
    """PEM; who vouches for the server: the broker believes it, and invitations tell members to."""
    tls_cert: Path | None = None
    """PEM; the embedded server's certificate. Without it, the bus is not encrypted."""
    tls_key: Path | None = None
    client_ca: Path | None = None
    """PEM; the embedded server lets in only whom it vouches for: see `kentongan broker init --tls`."""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    """Servers of an external cluster that hold each stream: three survive the loss of one."""


class Delivery(Section, frozen=True, kw_only=True):
    """How soon a delivery that is not confirmed is sent again; the wait doubles up to 15 minutes."""

    first_retry_seconds: Annotated[float, Meta(gt=0, le=900)] = 10.0


class LogDoor(Section, frozen=True, kw_only=True):
    """Who may read the log over HTTP; what it holds are hashes, and how many there are tells how much is reported."""

    public: bool = False
    """Without a token."""


class Config(Settings, frozen=True, kw_only=True):
    """Everything that the broker's process is told."""

    data: Path
    """Ledger and bus store; the ledger must survive, the bus store may be lost."""
    keys: Path
    """Private keys: signing.pem, and the bus's operator and account keys in nats/."""
    signing: str | None = None
    """URI of a signing key in a token; by default it is a file among the keys."""
    region: Path
    """Directory with governance/ and policies/."""
    ledger: str | None = None
    """SQLAlchemy URL; by default SQLite in the data directory."""
    http: Http = Http()
    nats: Nats = Nats()
    delivery: Delivery = Delivery()
    log: LogDoor = LogDoor()
    tracing: tracing.Settings = tracing.Settings()
    logging: reportlog.Settings = reportlog.Settings()

    @property
    def ledger_url(self) -> str:
        """Where the ledger is."""
        return self.ledger or f"sqlite:///{self.data / 'ledger.db'}"


def load_config(path: Path) -> Config:
    """Read the file, or the `broker.toml` in a directory. ConfigError says what to write where."""
    if path.is_dir():
        path = path / "broker.toml"
    config = load_settings(path, Config, "kentongan broker init")
    hsm.check_setting(config.signing, path)
    if config.nats.mode == "external" and not config.nats.url:
        raise ConfigError(f'{path}: [nats] mode = "external" needs a url')
    if (config.nats.tls_cert is None) != (config.nats.tls_key is None):
        raise ConfigError(f"{path}: [nats] needs both tls_cert and tls_key, or neither")
    if config.nats.client_ca is not None and config.nats.tls_cert is None:
        raise ConfigError(f"{path}: [nats] client_ca needs tls_cert and tls_key")
    return config
