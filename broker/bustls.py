"""The certificates of the embedded bus: made once, renewed while it runs, and issued to members.

    keys/tls/ca.pem, ca.key         the region's own authority for the bus, ten years
    keys/tls/server.pem, server.key the server's certificate, a year
    data/nats/broker-tls.pem        the broker's own, made anew at each start

Guarantees: no key of a node is ever here: a node's certificate is for the public key that opens its connection. Never
overwrites the authority.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from broker.config import Config
from protocol import certs, natsauth
from protocol.dialing import Tls
from protocol.errors import ConfigError
from protocol.keylife import Life, state_of
from protocol.keys import read_secret, replace_secret, write_secret
from protocol.statements import BROKER

DIRECTORY: Final = "tls"
AUTHORITY: Final = ("ca.pem", "ca.key")
SERVER: Final = ("server.pem", "server.key")
AUTHORITY_USE: Final = "vouches for the bus and its clients"
SERVER_USE: Final = "shown by the bus, in TLS"


def _serial() -> int:
    return secrets.randbits(158) + 1


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def names_for(host: str, more: Sequence[str] = ()) -> list[str]:
    """The names for a server's certificate: those given first, and this machine's."""
    listed = [*more, host, "localhost", "127.0.0.1", "::1"]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        listed = [*more, socket.gethostname(), *listed[len(more) + 1 :]]
    return list(dict.fromkeys(name for name in listed if name))


def make(keys: Path, region: str, names: Sequence[str], now: datetime) -> None:
    """An authority and a server's certificate. ConfigError if there is an authority."""
    place = keys / DIRECTORY
    pair = certs.make_authority(region, _serial(), now)
    write_secret(place / AUTHORITY[1], pair.key)
    (place / AUTHORITY[0]).write_bytes(pair.certificate)
    renew_server(keys, names, now)


def renew_server(keys: Path, names: Sequence[str], now: datetime) -> certs.Certificate:
    """Another certificate for the server; a running broker shows it within a second.

    Args:
        names: under which members reach it; by default those of the present one.

    Raises:
        ConfigError: the authority is not here.
    """
    place = keys / DIRECTORY
    present = place / SERVER[0]
    if not names:
        if not present.exists():
            raise ConfigError(f"{present} is missing: say with --tls-name under which names members reach the bus")
        names = certs.names_of(present.read_bytes(), str(present))
    pair = certs.issue_server(authority(keys), names, _serial(), now)
    # One file must never meet the other one's predecessor: the server reads both when it is told to, not before.
    replace_secret(place / SERVER[1], pair.key)
    replace_secret(present, pair.certificate)
    return certs.read_certificate(pair.certificate, str(present))


def authority(keys: Path) -> certs.Pair:
    """The region's own authority. ConfigError if it is not here."""
    place = keys / DIRECTORY
    try:
        return certs.Pair((place / AUTHORITY[0]).read_bytes(), read_secret(place / AUTHORITY[1]))
    except FileNotFoundError as exc:
        raise ConfigError(f"{place / AUTHORITY[0]} is missing: restore it from the backup") from exc


def certificate_for(config: Config, member: str, user: str, now: datetime) -> str | None:
    """The certificate of a member's connection, for its public key `user`; None if the bus asks for none."""
    if config.nats.client_ca is None:
        return None
    pair = authority(config.keys)
    return certs.issue_client(pair, member, natsauth.raw_public(user), _serial(), now).decode("ascii")


def ca_text(config: Config) -> str | None:
    """Who vouches for the bus, for invitations."""
    path = config.nats.ca_file
    if path is None or (config.nats.mode == "embedded" and config.nats.tls_cert is None):
        return None
    try:
        return path.read_text("ascii")
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path} cannot be read as certificates in PEM") from exc


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What the embedded server shows, and whom it lets in."""

    certificate: Path
    key: Path
    client_ca: Path | None
    own: Tls
    """How the broker speaks to it."""

    def stamp(self) -> tuple[int, ...]:
        """Differs when a file was replaced."""
        files = (self.certificate, self.key, self.client_ca)
        return tuple(path.stat().st_mtime_ns for path in files if path is not None and path.exists())


def server_tls(config: Config, now: datetime) -> ServerTls | None:
    """What the settings say; makes the broker's own certificate if the server will ask for one.

    Raises:
        ConfigError: a file is missing or wrong.
    """
    settings = config.nats
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    for path in (settings.tls_cert, settings.tls_key, settings.client_ca, settings.ca_file):
        if path is not None and not path.is_file():
            raise ConfigError(f"{path} is missing: `kentongan broker init --tls` makes such files")
    names = certs.names_of(settings.tls_cert.read_bytes(), str(settings.tls_cert))
    own = None
    if settings.client_ca is not None:
        own = config.data / "nats" / "broker-tls.pem"
        private, public = certs.client_key(secrets.token_bytes(32))
        replace_secret(own, certs.issue_client(authority(config.keys), BROKER, public, _serial(), now) + private)
    tls = Tls(ca_file=settings.ca_file, certificate=own, name=names[0] if names else None)
    return ServerTls(settings.tls_cert, settings.tls_key, settings.client_ca, tls)


def lives(config: Config, now: datetime) -> list[Life]:
    """The certificates of the embedded bus, and how long they last."""
    found = []
    for kind, use, path in (
        ("certificate", SERVER_USE, config.nats.tls_cert),
        ("authority", AUTHORITY_USE, config.nats.ca_file if config.nats.tls_cert else None),
    ):
        if path is not None and path.exists():
            one = certs.read_certificate(path.read_bytes(), str(path))
            state = state_of(one.not_before, one.not_after, None, in_use=True, now=now)
            found.append(Life(kind, one.serial, use, one.alg, state, True, one.not_before, one.not_after, BROKER))
    return found
