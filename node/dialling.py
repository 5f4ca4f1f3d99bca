"""What the node shows the bus, and whom it believes there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from node import config as files
from node.config import Config
from protocol import certs, natsauth
from protocol.dialing import Tls
from protocol.errors import ConfigError
from protocol.invitation import Invitation
from protocol.keys import replace_secret


def tls_of(config: Config, invitation: Invitation) -> Tls | None:
    """How to speak to the invitation's server; None if it is spoken to in the clear.

    A `ca_file` in the settings takes the place of the invitation's authority.
    """
    secure = any(urlsplit(url).scheme == "tls" for url in invitation.url.split(","))
    if config.ca_file is None and invitation.ca is None and not secure:
        return None
    own = config.keys / files.NATS_CERTIFICATE
    certificate, key = (config.tls_cert, config.tls_key) if config.tls_cert else (own if own.exists() else None, None)
    kept = config.keys / files.NATS_CA
    ca_file = config.ca_file or (kept if kept.exists() else None)
    return Tls(ca_file=ca_file, ca=invitation.ca if ca_file is None else None, certificate=certificate, key=key)


def keep_ca(keys: Path, ca: str | None) -> None:
    """Put the authority of the bus where connections look for it, in place of the one that was there."""
    if ca is not None:
        replace_secret(keys / files.NATS_CA, ca.encode("ascii", "replace"))


def keep_certificate(keys: Path, certificate: str | None, seed: str) -> None:
    """Put a certificate beside the key that it is for, in place of the one that was there.

    Args:
        seed: of the key of the connection.

    Raises:
        ConfigError: the certificate is for another key, or none.
    """
    if certificate is None:
        return
    private, public = certs.client_key(natsauth.raw_seed(seed))
    if certs.public_in(certificate.encode("ascii", "replace"), "the certificate for the connection") != public:
        raise ConfigError("the certificate for the connection was made for another key: ask for another invitation")
    replace_secret(keys / files.NATS_CERTIFICATE, certificate.encode("ascii") + private)
