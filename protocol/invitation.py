"""What the broker hands to an admitted member: everything its node needs to connect, and nothing secret.

The member made its own signing key and NATS user key; the broker only ever saw their public parts. The file is trusted
because of how it travels: it pins the region's founding record, and so the trustees. Hand it over by a way that both
sides trust, or compare the digest of the founding record with a trustee.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from protocol.errors import ConfigError, ProtocolError
from protocol.keys import KeyRecord, b64
from protocol.parse import decode
from protocol.report import Digest


class Invitation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where to connect, with which NATS user token, and which broker keys to believe."""

    member: str
    url: str
    user_jwt: str
    broker_keys: Annotated[list[KeyRecord], Meta(min_length=1)]
    region: str
    """The region document as signed by the broker."""
    genesis: Digest
    """Digest of the region's founding record."""
    governance: Annotated[list[str], Meta(min_length=1)]
    """The governance records, from the founding record on to the one that the region document names."""
    ca: str | None = None
    """The authority of the bus, PEM: the node accepts no server that it did not vouch for."""
    certificate: str | None = None
    """For the key of the node's connection, PEM, where the bus asks for one."""


class Held(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node's question whether there is something new for its connection: what it has."""

    account: str
    """The NATS account that signed its claim."""
    ca: str
    """See `digest_of_ca`."""
    renew: bool = False
    """Whether its certificate ends soon."""


def digest_of_ca(ca: str | None) -> str:
    """The name of an authority, or of several in one text; empty without any."""
    return b64(hashlib.sha256(ca.encode("ascii", "replace")).digest()) if ca else ""


_decoder: Final = msgspec.json.Decoder(Invitation)


def load_invitation(path: Path) -> Invitation:
    """Read an invitation file. ConfigError if it is missing or malformed."""
    try:
        return decode(_decoder, path.read_bytes())
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} is missing: the broker's operator makes it with `kentongan broker admit`") from exc
    except ProtocolError as exc:
        raise ConfigError(f"{path} is not an invitation: {exc}") from exc


def save_invitation(path: Path, invitation: Invitation) -> None:
    """Write an invitation file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(invitation)))
