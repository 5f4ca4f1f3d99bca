"""HTTPS at the door, and the certificates with which clients may come in place of a token.

Guarantees: TLS 1.2 or later. A certificate counts only if a CA in `client_ca` signed it, and lets in only whom a token
names by it: by the SHA-256 of the whole certificate, or by its subject in one spelling, in which no name can pose as
two. Without `client_ca` no certificate is asked for. What is read from the files is read at the start.

Refuses files that are no certificate or key, and a key without its certificate, with a `ConfigError`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigError

_SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "domainComponent": "DC",
    "userId": "UID",
}
"""The names of RFC 4514; others stand as OpenSSL calls them."""
_ESCAPED: Final = re.compile(r'[,+"\\<>;=]|^[ #]| $|[\0-\x1f]')


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate that a CA of ours signed.

    Attributes:
        sha256: of its DER form, in hex.
        subject: such as `CN=soc,O=Bank Contoh`, in the order in which it stands in the certificate.
    """

    sha256: str
    subject: str

    def is_named(self, name: str) -> bool:
        """Whether a token's setting means this one."""
        return bool(name) and name in (self.sha256, self.subject)


def subject_of(names: Iterable[Iterable[tuple[str, str]]]) -> str:
    """A subject as one line: what separates is escaped where it does not separate (RFC 4514)."""
    return ",".join("+".join(f"{_SHORT.get(kind, kind)}={_escape(value)}" for kind, value in part) for part in names)


def _escape(text: str) -> str:
    return _ESCAPED.sub(lambda found: f"\\{ord(found[0]):02x}" if found[0] < " " else f"\\{found[0]}", text)


def certificate_of(transport: asyncio.Transport | None) -> Certificate | None:
    """The certificate with which a client came, if it came with one."""
    tls: Any = transport.get_extra_info("ssl_object") if transport is not None else None
    if tls is None or tls.context.verify_mode is ssl.CERT_NONE:
        return None
    der = tls.getpeercert(binary_form=True)
    if not der:
        return None
    return Certificate(hashlib.sha256(der).hexdigest(), subject_of(tls.getpeercert().get("subject", ())))


def server_context(cert: Path | None, key: Path | None, client_ca: Path | None) -> ssl.SSLContext | None:
    """What HTTPS is served with; None for plain HTTP.

    Args:
        cert: PEM, the server's certificate and those between it and its CA.
        key: PEM; may stand in `cert` too.
        client_ca: PEM, whose clients' certificates count; a client may still come without one, with its token.

    Raises:
        ConfigError: a file is missing or wrong.
    """
    if cert is None:
        if key or client_ca:
            raise ConfigError("[http] tls_key and client_ca need a tls_cert: without it HTTP is not encrypted")
        return None
    # A context of its own: the default one may trust the system's CAs too, which know nothing of our clients.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"[http] tls_cert {cert} and its tls_key cannot be used: {_said(exc)}") from exc
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"[http] client_ca {client_ca} cannot be used: {_said(exc)}") from exc
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def pinned_context(cert: Path) -> ssl.SSLContext:
    """For asking a server on this machine: it must have that certificate, whatever name it is for.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cert)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"[http] tls_cert {cert} cannot be read: {_said(exc)}") from exc
    return context


def _said(exc: OSError) -> str:
    return exc.strerror or getattr(exc, "reason", "") or type(exc).__name__
