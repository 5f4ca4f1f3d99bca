"""Certificates of the bus: a private authority of the region, its server's certificate, and one for each node.

Guarantees: the authority signs nothing but certificates of servers and of clients, each only for its own use; a node's
certificate is made for the public key that opens its connection, so that no key travels. Refuses files that are no
certificates (ConfigError). All keys are Ed25519. Time and randomness are arguments, but for the keys themselves.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.errors import ConfigError

AUTHORITY_LIFE: Final = timedelta(days=3650)
SERVER_LIFE: Final = timedelta(days=365)
CLIENT_LIFE: Final = timedelta(days=365)
EARLIER: Final = timedelta(hours=1)
"""A clock that runs a little behind there must not make the certificate invalid."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says."""

    serial: str
    subject: str
    alg: str
    not_before: datetime
    not_after: datetime


def make_authority(region: str, serial: int, now: datetime) -> Pair:
    """A new authority for the bus of a region.

    Args:
        serial: a positive number of at most 159 random bits.
    """
    private = Ed25519PrivateKey.generate()
    name = _name(f"Kentongan bus of {region}"[:64])
    builder = _begin(name, name, private.public_key(), serial, now, AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    return Pair(_pem(builder.sign(private, None)), _private_pem(private))


def issue_server(authority: Pair, names: Sequence[str], serial: int, now: datetime) -> Pair:
    """A certificate for a server that clients reach under these names and addresses. ConfigError if one is neither."""
    private = Ed25519PrivateKey.generate()
    return Pair(
        _issue(authority, names[0], private.public_key(), serial, now, SERVER_LIFE, names, server=True),
        _private_pem(private),
    )


def issue_client(authority: Pair, name: str, public: bytes, serial: int, now: datetime) -> bytes:
    """A certificate for the connection of a member, for its raw Ed25519 public key."""
    key = Ed25519PublicKey.from_public_bytes(public)
    return _issue(authority, name, key, serial, now, CLIENT_LIFE, (), server=False)


def client_key(seed: bytes) -> tuple[bytes, bytes]:
    """The private key of a connection as PEM, and its raw public key, from its 32-byte seed."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return _private_pem(private), private.public_key().public_bytes_raw()


def read_certificate(pem: bytes, where: str) -> Certificate:
    """The first certificate of a PEM text. ConfigError if it is none."""
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError as exc:
        raise ConfigError(f"{where} is not a certificate in PEM") from exc
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    alg = type(found.public_key()).__name__.removesuffix("PublicKey").lstrip("_")
    return Certificate(
        f"{found.serial_number:x}"[:22],
        str(names[0].value) if names else "-",
        alg,
        found.not_valid_before_utc,
        found.not_valid_after_utc,
    )


def each_in(pem: bytes, where: str) -> list[bytes]:
    """The certificates of a PEM text, each alone. ConfigError if there is none."""
    try:
        return [_pem(one) for one in x509.load_pem_x509_certificates(pem)]
    except ValueError as exc:
        raise ConfigError(f"{where} is not certificates in PEM") from exc


def belongs(certificate: bytes, key: bytes) -> bool:
    """Whether a private key, PEM, is that of a certificate."""
    try:
        private = load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError):
        return False
    return private == x509.load_pem_x509_certificate(certificate).public_key()


def public_in(pem: bytes, where: str) -> bytes:
    """The raw public key in a certificate for an Ed25519 key. ConfigError if it is none."""
    read_certificate(pem, where)
    public = x509.load_pem_x509_certificate(pem).public_key()
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{where} is not for an Ed25519 key")
    return public.public_bytes_raw()


def names_of(pem: bytes, where: str) -> list[str]:
    """For which names and addresses a server's certificate is. ConfigError if it is none."""
    read_certificate(pem, where)
    try:
        found = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [str(one.value) for one in found.value]


def _issue(
    authority: Pair,
    name: str,
    public: Ed25519PublicKey,
    serial: int,
    now: datetime,
    life: timedelta,
    names: Sequence[str],
    *,
    server: bool,
) -> bytes:
    try:
        issuer = x509.load_pem_x509_certificate(authority.certificate)
        private = load_pem_private_key(authority.key, password=None)
    except (ValueError, TypeError) as exc:
        raise ConfigError("the authority's certificate or key is not PEM") from exc
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError("the authority's key is not an Ed25519 key")
    life = min(life, issuer.not_valid_after_utc - now)
    if life <= timedelta(0):
        raise ConfigError("the authority has run out: make a new one")
    builder = _begin(_name(name[:64]), issuer.subject, public, serial, now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    # A client's certificate must not pass for a server's: members would be able to play the bus for each other.
    use = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(one) for one in names]), critical=False
        )
    key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key)
    return _pem(builder.add_extension(identifier, critical=False).sign(private, None))


def _begin(
    subject: x509.Name, issuer: x509.Name, public: Ed25519PublicKey, serial: int, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as exc:
        raise ConfigError(f"{text[:60]!r} is neither a name nor an address of a server") from exc


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _private_pem(private: Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
