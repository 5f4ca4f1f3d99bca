"""The certificates of the embedded bus: made once, renewed while it runs, and issued to members.

    keys/tls/ca.pem, ca.key         the region's own authority for the bus, ten years
    keys/tls/server.pem, server.key the server's certificate, a year
    data/nats/broker-tls.pem        the broker's own, made anew at each start

Guarantees: no key of a node is ever here: a node's certificate is for the public key that opens its connection. While
another authority takes the place of the present one, `ca.pem` holds both, the one that signs first.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
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
    """The region's own authority, the one whose key signs. ConfigError if it is not here."""
    place = keys / DIRECTORY
    try:
        trusted, key = (place / AUTHORITY[0]).read_bytes(), read_secret(place / AUTHORITY[1])
    except FileNotFoundError as exc:
        raise ConfigError(f"{place / AUTHORITY[0]} is missing: restore it from the backup") from exc
    for one in certs.each_in(trusted, str(place / AUTHORITY[0])):
        if certs.belongs(one, key):
            return certs.Pair(one, key)
    raise ConfigError(f"{place / AUTHORITY[1]} is the key of no authority in {AUTHORITY[0]}: restore both")


def begin_authority(keys: Path, region: str, now: datetime) -> certs.Certificate:
    """Another authority beside the present one: it signs from now on, and both are believed.

    The server goes on showing the certificate that nodes believe already. The key of the present one is not needed.

    Raises:
        ConfigError: such a change is under way, or there is no authority.
    """
    place = keys / DIRECTORY
    try:
        present = certs.each_in((place / AUTHORITY[0]).read_bytes(), str(place / AUTHORITY[0]))
    except FileNotFoundError as exc:
        raise ConfigError(f"{place / AUTHORITY[0]} is missing: restore it from the backup") from exc
    if len(present) > 1:
        raise ConfigError("another authority is there already: end its beginning with --authority --finish")
    pair = certs.make_authority(region, _serial(), now)
    # A kill in between leaves the old key, which finds its certificate: this is begun again by hand, from a backup.
    _replace(place / AUTHORITY[0], pair.certificate + present[0])
    replace_secret(place / AUTHORITY[1], pair.key)
    return certs.read_certificate(pair.certificate, AUTHORITY[0])


def finish_authority(keys: Path, names: Sequence[str], now: datetime) -> certs.Certificate:
    """Only the newest authority is believed, and vouches for the server too.

    Raises:
        ConfigError: there is but one.
    """
    place = keys / DIRECTORY
    own = authority(keys)
    if len(certs.each_in((place / AUTHORITY[0]).read_bytes(), str(place / AUTHORITY[0]))) < 2:
        raise ConfigError("there is but one authority: begin with --authority alone")
    made = renew_server(keys, names, now)
    _replace(place / AUTHORITY[0], own.certificate)
    return made


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(data)
    draft.replace(path)


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
    renew: Callable[[], None] = lambda: None
    """Make what `own` shows anew."""

    def stamp(self) -> tuple[int, ...]:
        """Differs when a file was replaced."""
        files = (self.certificate, self.key, self.client_ca)
        return tuple(path.stat().st_mtime_ns for path in files if path is not None and path.exists())


def server_tls(config: Config) -> ServerTls | None:
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
    own = config.data / "nats" / "broker-tls.pem" if settings.client_ca is not None else None

    def renew() -> None:
        if own is not None:
            private, public = certs.client_key(secrets.token_bytes(32))
            signed = certs.issue_client(authority(config.keys), BROKER, public, _serial(), datetime.now(UTC))
            replace_secret(own, signed + private)

    renew()
    tls = Tls(ca_file=settings.ca_file, certificate=own, name=names[0] if names else None)
    return ServerTls(settings.tls_cert, settings.tls_key, settings.client_ca, tls, renew)


def lives(config: Config, now: datetime) -> list[Life]:
    """The certificates of the embedded bus, and how long they last."""
    found = []
    for kind, use, path in (
        ("certificate", SERVER_USE, config.nats.tls_cert),
        ("authority", AUTHORITY_USE, config.nats.ca_file if config.nats.tls_cert else None),
    ):
        for number, pem in enumerate(certs.each_in(path.read_bytes(), str(path)) if path and path.exists() else []):
            one = certs.read_certificate(pem, str(path))
            # An authority before the one that signs is believed until it is taken out.
            state = state_of(one.not_before, one.not_after, None, in_use=not number, now=now)
            span = (one.not_before, one.not_after)
            found.append(Life(kind, one.serial, use, one.alg, state, not number, *span, BROKER))
    return found
