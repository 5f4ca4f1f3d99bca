"""The node's configuration: one TOML file, read once, into a frozen object.

Refuses unknown keys and wrong values with a `ConfigError` that says what to write where. Paths are relative to the
file. Has no defaults that depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from node.outputs import Hook, Syslog, check_names
from protocol import hsm, reportlog, tracing
from protocol.process import Port, Section, Settings, Token, load_settings
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
NATS_NEXT: Final = "nats-next.seed"
NATS_CA: Final = "nats-ca.pem"
NATS_CERTIFICATE: Final = "nats-certificate.pem"
"""Certificate and key of the connection, where the bus asks for one."""
NATS_CREDS: Final = "nats.creds"


class Http(Section, frozen=True, kw_only=True):
    """Where tools and people connect: with a `tls_cert` by HTTPS, and with a `client_ca` also by certificate."""

    host: str = "127.0.0.1"
    port: Port = DEFAULT_PORT
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None


class Limits(Section, frozen=True, kw_only=True):
    backlog: Annotated[int, Meta(ge=1)] = 200_000


Minutes = Annotated[float, Meta(gt=0, le=10_080)]


class Log(Section, frozen=True, kw_only=True):
    """After how much time on the link something about the broker's log is an alarm."""

    unwitnessed_minutes: Minutes = 15.0
    stalled_minutes: Minutes = 10.0
    receipt_minutes: Minutes = 10.0


class Bus(Section, frozen=True, kw_only=True):
    """What the invitation does not say: authorities other than its own, and a certificate of your own."""

    ca_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


WholeMinutes = Annotated[int, Meta(ge=1, le=525_600)]


class Escalation(Section, frozen=True, kw_only=True):
    """Minutes after which a report that nobody read is told of, by its severity."""

    enabled: bool = True
    critical: WholeMinutes = 30
    high: WholeMinutes = 120
    medium: WholeMinutes = 1_440
    low: WholeMinutes = 4_320


class Review(Section, frozen=True, kw_only=True):
    """The queue of filings that wait for a person."""

    refused_days: Annotated[int, Meta(ge=1, le=36_500)] = 90
    """So long the content of a refused one is kept; that it was refused, and why, stays."""


class Taxii(Section, frozen=True, kw_only=True):
    """Others' reports for TAXII 2.1 clients, and a collection into which they may post; nothing unless enabled."""

    enabled: bool = False
    intake: bool = False
    title: Line = "Kentongan"
    contact: Line | None = None


class _File(Settings, frozen=True, kw_only=True):
    member: MemberId
    jurisdiction: Jurisdiction
    name: Line
    data: Path = Path("data")
    store: str | None = None
    """SQLAlchemy URL; by default SQLite in the data directory."""
    keys: Path = Path("keys")
    signing: str | None = None
    """URI of a signing key in a token; by default it is a file among the keys."""
    policy: Path = Path("policy.toml")
    invitation: Path = Path("invitation.json")
    http: Http = Http()
    limits: Limits = Limits()
    nats: Bus = Bus()
    log: Log = Log()
    escalation: Escalation = Escalation()
    review: Review = Review()
    taxii: Taxii = Taxii()
    webhook: Hook | list[Hook] = msgspec.field(default_factory=list)
    """Several, or the single one of older files."""
    tracing: tracing.Settings = tracing.Settings()
    logging: reportlog.Settings = reportlog.Settings()
    syslog: list[Syslog] = msgspec.field(default_factory=list)


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
    log: Log = field(default_factory=Log)
    escalation: Escalation = field(default_factory=Escalation)
    review: Review = field(default_factory=Review)
    taxii: Taxii = field(default_factory=Taxii)
    webhooks: tuple[Hook, ...] = ()
    syslogs: tuple[Syslog, ...] = ()
    tracing: tracing.Settings = field(default_factory=tracing.Settings)
    logging: reportlog.Settings = field(default_factory=reportlog.Settings)
    store: str | None = None
    signing: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


def load_config(path: Path) -> Config:
    """Read a configuration. ConfigError with the path of the fault and the file's name."""
    file = load_settings(path, _File, "kentongan node init")
    hooks = [file.webhook] if isinstance(file.webhook, Hook) else file.webhook
    check_names(hooks, file.syslog, path)
    hsm.check_setting(file.signing, path)
    return Config(
        member=file.member,
        jurisdiction=file.jurisdiction,
        name=file.name,
        data=file.data,
        keys=file.keys,
        policy=file.policy,
        invitation=file.invitation,
        ca_file=file.nats.ca_file,
        http=file.http,
        tokens=tuple(file.token),
        backlog=file.limits.backlog,
        log=file.log,
        escalation=file.escalation,
        review=file.review,
        taxii=file.taxii,
        webhooks=tuple(hook for hook in hooks if hook.url),
        syslogs=tuple(file.syslog),
        tracing=file.tracing,
        logging=file.logging,
        store=file.store,
        signing=file.signing,
        tls_cert=file.nats.tls_cert,
        tls_key=file.nats.tls_key,
    )


def find_config(place: Path) -> Path:
    """The configuration file that a command's argument means: the file itself, or the one in a directory."""
    return place / FILE if place.is_dir() else place
