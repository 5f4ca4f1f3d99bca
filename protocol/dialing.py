"""How a connection to the bus comes about: credentials, certificates, one attempt, and refusals in plain words.

Guarantees: one attempt ends in a connection, in `Transient` (nobody there, try again) or in `ConfigError` (refused: an
operator must act), always within its time. Credentials are read anew at each connection, so replaced ones are used.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from protocol import natsauth
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.reasons import Reason

_MESSAGE_TOO_LARGE: Final = 10054  # JetStream error code
_REFUSALS: Final = ("authorization violation", "authentication expired", "authentication revoked", "not authorized")
_NO_CERTIFICATE: Final = ("certificate required", "alert bad certificate", "alert certificate", "alert unknown ca")
"""The server's words about a certificate that it was shown, or was not."""
_CLEAR: Final = "the server does not encrypt"
SEND_ERRORS: Final = (
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
    nats.errors.OutboundBufferLimitError,
    OSError,
)
"""What the library raises when a connection can no longer send."""
OnError = Callable[[Exception], Awaitable[None]]


class Credentials:
    """A NATS credentials file: the user's claim, and signatures with its key.

    Raises:
        ConfigError: the file is missing or malformed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jwt, self._seed = _load_creds(path)

    def user_jwt(self) -> bytes:
        """The claim, from the same reading of the file as the last signature."""
        return self._jwt.encode("ascii")

    def sign(self, nonce: str) -> bytes:
        """Sign the server's challenge."""
        # The library asks for the signature first, then for the claim: both must come from one reading of the file.
        # One that is being replaced must not break the reconnecting: the last good content serves until then.
        with suppress(ConfigError):
            self._jwt, self._seed = _load_creds(self._path)
        return natsauth.sign_nonce(self._seed, nonce)


class _Client(Client):
    """The library's, which speaks in the clear to a server that does not ask for TLS: not if we do."""

    def _connect_command(self) -> bytes:
        if self.options.get("tls") is not None and not self._server_info.get("tls_required"):
            raise ssl.SSLCertVerificationError(_CLEAR)
        command: bytes = super()._connect_command()
        return command


async def dial(
    url: str,
    options: Callable[[Client, OnError], dict[str, Any]],
    seconds: float,
    tell: Callable[[str], None],
) -> Client:
    """Make one connection.

    Args:
        options: the library's options for this client, with the given error callback.
        tell: hears "refused", and "error: ..." for what the library reports.

    Raises:
        Transient: no server answered in time.
        ConfigError: the server refused.
    """
    nc = _Client()
    refusal: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_error(exc: Exception) -> None:
        text = str(exc) or type(exc).__name__
        words = (*_REFUSALS, *_NO_CERTIFICATE)
        if isinstance(exc, ssl.SSLCertVerificationError) or any(word in text.lower() for word in words):
            if not refusal.done():
                refusal.set_result(text)
            tell("refused")
        else:
            tell(f"error: {text}")

    # The library tries for ever, refused or not: the first of success, refusal and timeout ends it.
    connecting = asyncio.ensure_future(nc.connect(**options(nc, on_error)))
    first: list[asyncio.Future[Any]] = [connecting, refusal]
    try:
        await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _abandon(nc, connecting)
        raise
    if connecting.done():
        try:
            connecting.result()
        except (nats.errors.Error, OSError) as exc:
            await close_client(nc)
            raise Transient(f"no bus at {url}: {exc}") from exc
        return nc
    await _abandon(nc, connecting)
    if refusal.done():
        raise ConfigError(_refusal_text(refusal.result()))
    raise Transient(f"no bus at {url}")


def check_stored(answer: bytes) -> None:
    """Raise unless `answer` is a stream's word that it stored the message."""
    try:
        ack = json.loads(answer)
        error = ack.get("error")
        if error is None and isinstance(ack["seq"], int) and not ack.get("duplicate", False):
            return
    except (ValueError, AttributeError, KeyError, TypeError):
        raise Transient("the answer to a publish is not a stream's") from None
    if isinstance(error, dict):
        code = error.get("err_code", error.get("code"))
        if code == _MESSAGE_TOO_LARGE:
            raise ProtocolError(Reason.TOO_LARGE, "$", "more than the stream takes")
        raise Transient(f"the stream did not store the message: {error.get('description', '')} ({code})")
    raise Transient("the stream took a new message for one that it has")


def status_of(msg: Msg) -> str:
    """The server's status among the headers of its answer; empty if there is none."""
    return (msg.headers or {}).get("Status", "")


def jittered(seconds: float) -> float:
    """About that long: a region's nodes must not all come back in the same instant after a restart of the server."""
    return seconds * (0.75 + secrets.randbelow(500) / 1000)


def _load_creds(path: Path) -> tuple[str, str]:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"cannot read the bus credentials {path}: put the file from the broker's operator there"
        ) from exc
    return natsauth.parse_creds(text)


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to believe at the other end, and what to show it. Read anew at each connection."""

    ca_file: Path | None = None
    """PEM; the only authorities whose server certificates are accepted, with those in `ca`. Neither: the system's."""
    ca: str | None = None
    certificate: Path | None = None
    """PEM; this side's certificate and its key, for servers that ask for one."""
    key: Path | None = None
    """Its key, if that is in a file of its own."""
    name: str | None = None
    """What the server's certificate must name, if that is not the host that is dialled."""

    def context(self) -> ssl.SSLContext:
        """ConfigError if a file is missing or not PEM."""
        try:
            context = ssl.create_default_context(
                cafile=str(self.ca_file) if self.ca_file else None, cadata=self.ca or None
            )
        except (OSError, ValueError) as exc:
            where = self.ca_file or "the invitation"
            raise ConfigError(f"cannot read certificate authorities from {where}: it must be PEM") from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except (OSError, ValueError) as exc:
                raise ConfigError(f"cannot read a certificate and its key from {self.certificate}") from exc
        return context


def _refusal_text(text: str) -> str:
    low = text.lower()
    if _CLEAR in low:
        return "the bus does not encrypt, and this side must: somebody may be in between; call the broker's operator"
    if any(word in low for word in _NO_CERTIFICATE):
        return f"the bus wants a certificate of this member: ask the broker's operator for another invitation ({text})"
    if "hostname mismatch" in low or "ip address mismatch" in low:
        return f"the bus showed a certificate for another name than the one that is dialled: check url ({text})"
    if "certificate has expired" in low:
        return f"the certificate of the bus has run out: its operator renews it with `kentongan broker rotate` ({text})"
    if "certificate" in low:
        return (
            f"the bus showed a certificate that the configured authorities did not sign: check url and ca_file ({text})"
        )
    return (
        "the bus refused these credentials: the membership may be suspended, or the credentials replaced or expired; "
        "ask the broker's operator for new ones"
    )


async def _abandon(nc: Client, connecting: asyncio.Future[None]) -> None:
    connecting.cancel()
    # Not awaited without a limit: the library swallows a cancellation in places.
    await asyncio.wait([connecting], timeout=1.0)
    if connecting.done() and not connecting.cancelled():
        connecting.exception()
    await close_client(nc)


async def close_client(nc: Client) -> None:
    """Close a connection, in whatever state it is."""
    with suppress(nats.errors.Error, asyncio.TimeoutError, OSError, AssertionError):
        await asyncio.wait_for(nc.close(), 2.0)
