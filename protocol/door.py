"""The HTTP door that nodes and brokers have in common: who may enter, what a refusal looks like, and event streams.

Guarantees:
  * every refusal is an RFC 9457 problem document with a reason code, unknown paths and wrong methods included; whoever
    has no token learns of no path but the open ones.
  * tokens are known by their hashes only; who has one that does not hold any more learns no more than a stranger.
  * a request whose client lacks the scope that its address needs is refused, and told which one that is.
  * a passing fault is a 503 with `Retry-After`; a bug is a 500 without a word of it, told to who ends the process.
  * a listener says after which event it goes on, so that it skips and repeats none; one that does not read is cut off,
    and may come back.

Refuses to listen where somebody else does, with a `ConfigError`.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from ssl import SSLContext
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from protocol.access import SCOPES, Client, demand, hash_of, is_mistyped
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.process import Token
from protocol.reasons import Reason
from protocol.tls import Certificate, certificate_of

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
CLIENT: Final = web.RequestKey("client", Client)
"""Under which a request holds who asks."""
OPEN: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that need no token: those of the operators' tools."""
RETRY_AFTER: Final = "5"
HEARTBEAT: Final = 15.0
"""Seconds of silence after which a listener is told that the stream still lives."""
SLOWEST: Final = 10.0
"""Seconds that a listener may take for what is in its way; after that it is cut off, and may come back."""
STILL_HERE: Final = b": still here\n\n"
_FIRST: Final = b"retry: 1000\n\n"
_LONGEST_TOKEN: Final = 512
_LAST_NUMBER: Final = 2**62

_STATUS: Final = {
    400: (Reason.NOT_JSON, Reason.EMPTY),
    401: (Reason.TOKEN_MISSING, Reason.TOKEN_INVALID),
    403: (
        Reason.SCOPE_MISSING,
        Reason.TLP_NOT_ALLOWED,
        Reason.SECTOR_NOT_ALLOWED,
        Reason.PURPOSE_NOT_ALLOWED,
        Reason.OWN_FILING,
        Reason.NOT_ALLOWED,
        Reason.MEMBER_SUSPENDED,
    ),
    404: (
        Reason.UNKNOWN_PATH,
        Reason.UNKNOWN_REPORT,
        Reason.UNKNOWN_TOKEN,
        Reason.UNKNOWN_REVIEW,
        Reason.NOT_WITNESSED,
        Reason.LEAF_MISSING,
    ),
    405: (Reason.WRONG_METHOD,),
    406: (Reason.NOT_ACCEPTABLE,),
    409: (
        Reason.REVISION_CONFLICT,
        Reason.REVISION_GAP,
        Reason.OUTDATED,
        Reason.REPORT_ID_TAKEN,
        Reason.INCIDENT_ID_TAKEN,
        Reason.TOKEN_EXISTS,
        Reason.ALREADY_DECIDED,
    ),
    413: (Reason.TOO_LARGE, Reason.TOO_MANY),
    415: (Reason.UNSUPPORTED_MEDIA,),
    429: (Reason.QUOTA_EXCEEDED,),
    503: (Reason.BACKLOG_FULL, Reason.NOT_READY),
}
_STATUS_OF: Final = {reason: status for status, reasons in _STATUS.items() for reason in reasons}


# --- answers ----------------------------------------------------------------------------------------------------


def status_of(reason: Reason) -> int:
    """The HTTP status of a refusal; 422 for all that is wrong in a report."""
    return _STATUS_OF.get(reason, 422)


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A document as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=JSON, headers=headers)


def problem(
    reason: Reason, detail: str, path: str = "$", *, instance: str = "", more: Mapping[str, str] | None = None
) -> web.Response:
    """A refusal as an RFC 9457 problem document.

    Args:
        detail: says what to do.
        path: JSON path of the fault in what was sent.
        instance: the address that was asked for.
        more: headers.
    """
    status = status_of(reason)
    document: dict[str, Any] = {
        "type": f"urn:kentongan:reason:{reason.value}",
        "title": reason.value.replace("-", " "),
        "status": status,
        "detail": detail,
        "reason": reason.value,
        "path": path,
    }
    if instance:
        document["instance"] = instance
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="kentongan"'
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = RETRY_AFTER
    return _problem(status, document, {**headers, **(more or {})})


def _problem(status: int, document: dict[str, Any], headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=PROBLEM, headers=headers)


# --- who and what is let in -------------------------------------------------------------------------------------


class Bearers(Protocol):
    """Knows who may enter."""

    def check(self, authorization: str | None, certificate: Certificate | None = None) -> Client:
        """Who asks, by the Authorization header or else by the certificate of the connection.

        Raises:
            ProtocolError: TOKEN_MISSING or TOKEN_INVALID; a stranger is not told more.
        """


def bearer_of(authorization: str | None) -> str:
    """The token in an Authorization header; ProtocolError(TOKEN_MISSING or TOKEN_INVALID) if there is none."""
    if not authorization:
        raise ProtocolError(Reason.TOKEN_MISSING, "$", "send the header Authorization: Bearer <token>")
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN:
        raise ProtocolError(Reason.TOKEN_INVALID, "$", "the header is not Authorization: Bearer <token>")
    if is_mistyped(token):
        raise ProtocolError(Reason.TOKEN_INVALID, "$", "this token is mistyped or cut off: its checksum is wrong")
    return token


def unknown_token() -> ProtocolError:
    """What a stranger is told, also one with a token that was good once."""
    return ProtocolError(Reason.TOKEN_INVALID, "$", "this token is not known here")


class Tokens:
    """The bearer tokens of a settings file, each with all scopes."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._tokens = [(Client(token.name), bytes.fromhex(token.sha256), token.certificate) for token in tokens]

    def check(self, authorization: str | None, certificate: Certificate | None = None) -> Client:
        """See `Bearers`."""
        if not authorization and certificate is not None:
            for client, _, named in self._tokens:
                if named and certificate.is_named(named):
                    return client
        given = hash_of(bearer_of(authorization))
        found: Client | None = None
        for client, expected, _ in self._tokens:
            # All of them are compared, so that the time taken tells nothing.
            if hmac.compare_digest(given, expected):
                found = client
        if found is None:
            raise unknown_token()
        return found


def basic_of(authorization: str | None) -> tuple[str | None, str | None]:
    """Of HTTP Basic, where the user is the token's name and the password the token: the user, and the same as Bearer.

    Another header is left as it is, without a user. ProtocolError if it cannot be read.
    """
    scheme, _, packed = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None, authorization
    try:
        user, there, token = base64.b64decode(packed.strip(), validate=True).decode("utf-8").partition(":")
    except ValueError as exc:
        raise ProtocolError(Reason.TOKEN_INVALID, "$", "the header is not Authorization: Basic <base64>") from exc
    return (user, f"Bearer {token}") if there else (user, "Bearer")


def _never(_path: str) -> bool:
    return False


Needs = Callable[[web.Request], Iterable[str]]
"""Tells the scopes of which one is needed for a request whose address is right."""


def _anything(_: web.Request) -> Iterable[str]:
    return SCOPES


def _known(request: web.Request, tokens: Bearers, takes_basic: bool) -> Client:
    """Who asks. ProtocolError if that is nobody who is known here."""
    user, given = None, request.headers.get("Authorization")
    if takes_basic:
        user, given = basic_of(given)
    client = tokens.check(given, certificate_of(request.transport))
    if user not in (None, client.name):
        raise unknown_token()
    return client


def guard(
    tokens: Bearers,
    *,
    on_bug: Callable[[BaseException], None],
    on_wait: Callable[[Transient], None] = lambda _: None,
    is_open: Callable[[str], bool] = OPEN.__contains__,
    needs: Needs = _anything,
    takes_basic: Callable[[str], bool] = _never,
) -> Middleware:
    """What surrounds every request: access, and problem documents.

    Args:
        is_open: tells which paths need no token.
        needs: tells which scopes the others need.
        takes_basic: tells at which paths a token may also come by HTTP Basic: where clients are programs, not browsers,
            which send it again by themselves.
        on_bug: hears of what no handler expected; ends the process.
        on_wait: hears of passing faults.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            entered = not is_open(request.path)
            if entered:
                request[CLIENT] = _known(request, tokens, takes_basic(request.path))
            _check_address(request)
            if entered:
                demand(request[CLIENT], needs(request))
            return await handler(request)
        except ProtocolError as exc:
            refusal = problem(exc.reason, exc.detail, exc.path, instance=request.path)
            error = request.match_info.http_exception
            if isinstance(error, web.HTTPMethodNotAllowed) and exc.reason is Reason.WRONG_METHOD:
                refusal.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            return refusal
        except Transient as exc:
            on_wait(exc)
            return problem(Reason.NOT_READY, "nothing was taken: try again in a few seconds", instance=request.path)
        except ConnectionError:
            raise
        except Exception as exc:  # noqa: BLE001 - answered without a word of it, and raised where the process ends
            on_bug(exc)
            return _problem(500, {"type": "about:blank", "title": "internal error", "status": 500}, {})

    return guarded


def _check_address(request: web.Request) -> None:
    error = request.match_info.http_exception
    if isinstance(error, web.HTTPMethodNotAllowed):
        raise ProtocolError(Reason.WRONG_METHOD, "$", f"use {', '.join(sorted(error.allowed_methods))}")
    if error is not None:
        raise ProtocolError(Reason.UNKNOWN_PATH, "$", "there is nothing at this address")


def number_of(text: str, name: str, most: int) -> int:
    """A number in a query or header. ProtocolError if it is none, or too large."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most):
        raise ProtocolError(Reason.OUT_OF_RANGE, f"$.{name}", f"{name} is a number from 0 to {most}")
    return int(text)


# --- listening --------------------------------------------------------------------------------------------------


async def listen(
    app: web.Application, host: str, port: int, *, shutdown: float = 5.0, tls: SSLContext | None = None
) -> web.AppRunner:
    """Serve until the runner is cleaned up. ConfigError if the address cannot be had.

    Args:
        port: 0 for any that is free.
        shutdown: seconds that requests get to end.
        tls: serve HTTPS with it.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError as exc:
        await runner.cleanup()
        raise ConfigError(f"cannot listen on {host}:{port} (see [http]): {exc.strerror or exc}") from exc
    return runner


def url_of(runner: web.AppRunner, host: str) -> str:
    """Where a runner listens."""
    shown = f"[{host}]" if ":" in host else host
    (scheme,) = {site.name.partition(":")[0] for site in runner.sites}
    return f"{scheme}://{shown}:{runner.addresses[0][1]}"


# --- server-sent events -----------------------------------------------------------------------------------------


def position(request: web.Request, last: int) -> int:
    """The number of the event after which a listener wants to go on; `last`, the newest, if it names none.

    Raises:
        ProtocolError: not a number, or beyond the newest: a listener of another database must not wait for ever.
    """
    given = request.headers.get("Last-Event-ID") or request.query.get("after")
    if given is None:
        return last
    number = number_of(given, "after", _LAST_NUMBER)
    if number > last:
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.after", "there is no such event yet")
    return number


def frame(number: int, kind: str, data: bytes) -> bytes:
    """One event as text/event-stream; `data` has no line breaks."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, kind.encode(), data)


async def stream(request: web.Request, frames: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Send frames until there are no more, or until the listener goes or no longer reads."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    try:
        await response.write(_FIRST)
        async with aclosing(frames):
            async for chunk in frames:
                async with asyncio.timeout(SLOWEST):
                    await response.write(chunk)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except (ConnectionError, Transient):
        # An answer has begun, so that no other one can be given: the listener comes back and goes on where it was.
        pass
    return response
