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
    nc = Client()
    refusal: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_error(exc: Exception) -> None:
        text = str(exc) or type(exc).__name__
        if isinstance(exc, ssl.SSLCertVerificationError) or any(word in text.lower() for word in _REFUSALS):
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


def tls_context(ca_file: Path) -> ssl.SSLContext:
    """Accept only servers that these authorities vouch for. ConfigError if the file is not PEM."""
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read certificate authorities from {ca_file}: it must be PEM") from exc


def _refusal_text(text: str) -> str:
    if "certificate" in text.lower():
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
