"""Asking the node of this directory to do something, for commands: while it runs it alone writes to its store.

Guarantees: HTTPS is believed only with the node's own certificate. What the node refuses is a `ConfigError` with its
words; a node that does not answer is `Transient`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from node import app
from node.config import Config
from node.store import Store
from protocol import process
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.tls import pinned_context

T = TypeVar("T")
ENVIRONMENT: Final = "KENTONGAN_TOKEN"
_PATIENCE: Final = 30.0
_LONG_PATIENCE: Final = 120.0
"""For what the node asks the broker in turn."""
_FINE: Final = range(200, 300)


def do(config: Config, offline: Callable[[Store], T], online: Callable[[], T]) -> T:
    """Change the store if the node does not run, else ask the node.

    Raises:
        ConfigError: it is refused.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(process.alone(config.data))
        except ConfigError:
            return online()
        store = stack.enter_context(closing(Store.open(config.data, config.store)))
        try:
            return offline(store)
        except ProtocolError as exc:
            raise ConfigError(f"{exc.detail} ({exc.reason.value} at {exc.path})") from exc


def must_run(config: Config) -> None:
    """For what no command can do in the node's place. ConfigError if the node does not run."""
    try:
        with process.alone(config.data):
            pass
    except ConfigError:
        return
    raise ConfigError("the node does not run: start it first")


def post(config: Config, path: str, document: Any, token: str) -> Any:
    """Post a document to the running node, or nothing if it is None; returns its answer.

    Raises:
        ConfigError: there is no token, or the node refuses.
        Transient: the node does not answer.
    """
    sent = b"" if document is None else msgspec.json.encode(document)
    body = _ask(config, "POST", path, sent, token, _PATIENCE)
    return msgspec.json.decode(body) if body else None


def get(config: Config, path: str, token: str) -> bytes:
    """What the running node answers at an address. Raises as `post` does."""
    return _ask(config, "GET", path, None, token, _LONG_PATIENCE)


def _ask(config: Config, method: str, path: str, sent: bytes | None, token: str, patience: float) -> bytes:
    if not token:
        raise ConfigError(f"the running node is asked: give one of its tokens with --token or in {ENVIRONMENT}")
    try:
        url = (config.data / app.URL_FILE).read_text(encoding="ascii").strip()
    except OSError as exc:
        raise ConfigError(f"the node of {config.member} has never run here: `kentongan node run`") from exc
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = _connection(config, url, patience)
    try:
        connection.request(method, path, sent, headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException) as exc:
        raise Transient(f"the node does not answer at {url}: run it, or try again") from exc
    finally:
        connection.close()
    if response.status not in _FINE:
        detail = msgspec.json.decode(body).get("detail", "") if body else ""
        raise ConfigError(f"the node at {url} refuses: {response.status} {detail}")
    return body


def _connection(config: Config, url: str, patience: float) -> HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and config.http.tls_cert is not None:
        return HTTPSConnection(host, parts.port, timeout=patience, context=pinned_context(config.http.tls_cert))
    return HTTPConnection(host, parts.port, timeout=patience)
