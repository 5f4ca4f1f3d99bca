"""The broker's side of the bus: its own server, if it has one, and its connection.

Guarantees: the server ends with the stack; the broker's credentials are derived from its keys at each start.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import msgspec
import structlog

from broker.accounts import Accounts
from broker.bustls import certificate_for, is_local, server_tls
from broker.config import Config
from broker.natsd import EmbeddedNats, Retired
from protocol import subjects
from protocol.bus import NatsBus
from protocol.dialing import Tls
from protocol.enact import State
from protocol.errors import ProtocolError
from protocol.invitation import Claim
from protocol.keys import replace_secret
from protocol.reasons import Reason
from protocol.registry import Registry

log = structlog.get_logger()


async def start_server(
    config: Config, members: Iterable[str], suspended: Iterable[str], retired: Retired, stack: AsyncExitStack
) -> EmbeddedNats | None:
    """Start the embedded server; None if the bus is somebody else's.

    Raises:
        ConfigError: it cannot run; the text says why.
    """
    settings = config.nats
    if settings.mode == "external":
        return None
    tls = server_tls(config, datetime.now(UTC))
    if tls is None and not is_local(settings.host):
        log.warning("nats.not_encrypted", host=settings.host)
    server = EmbeddedNats(
        config.data / "nats",
        settings.port,
        Accounts.load(config.keys / "nats"),
        members,
        suspended=suspended,
        retired=retired,
        host=settings.host,
        tls=tls,
        on_event=lambda event: log.warning("nats.event", what=event),
    )
    await server.start()
    stack.push_async_callback(server.stop)
    return server


def retired_keys(state: State, now: datetime) -> dict[str, dict[str, int]]:
    """By member, the keys of its connections that have had their time."""
    found = {
        member: {key: int(until.timestamp()) for key, until in keys.items() if until <= now}
        for member, keys in state.retired.items()
    }
    return {member: keys for member, keys in found.items() if keys}


def claim(config: Config, registry: Registry, member: str) -> bytes:
    """The claim with which a member's node connects, for the key that the region lists.

    Raises:
        ProtocolError: the member has no such key, or the bus is somebody else's.
    """
    listed = registry.member(member).transport
    if config.nats.mode == "external" or listed is None:
        raise ProtocolError(Reason.NOT_ALLOWED, "$", "whoever runs the bus makes keys for connections")
    jwt = Accounts.load(config.keys / "nats").issue_user(member, listed, int(time.time()))
    certificate = certificate_for(config, member, listed, datetime.now(UTC))
    return msgspec.json.encode(Claim(user_jwt=jwt, certificate=certificate))


async def connect(config: Config, server: EmbeddedNats | None) -> NatsBus:
    """The broker's connection.

    Raises:
        Transient: no server answered in time.
        ConfigError: refused, or a file is missing or wrong.
    """
    settings = config.nats
    creds = settings.creds
    if server is not None:
        creds = config.data / "nats" / "broker.creds"
        text = Accounts.load(config.keys / "nats").broker_creds(int(time.time()))
        replace_secret(creds, text.encode("ascii"))
    return await NatsBus.connect(
        server.url if server else str(settings.url),
        creds=creds,
        name="kentongan-broker",
        stream=subjects.INTAKE_STREAM,
        consumer=subjects.BROKER_CONSUMER,
        tls=server.tls if server else Tls(ca_file=settings.ca_file) if settings.ca_file else None,
        connect_timeout=15.0,
        on_state=lambda what: log.info("bus.state", what=what),
    )
