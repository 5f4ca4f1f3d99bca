"""The broker's side of the bus: its own server or those of somebody else, and its connection.

Guarantees: the server ends with the stack; the broker's credentials are derived from its keys at each start.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
import structlog

from broker.accounts import Accounts
from broker.bustls import ca_text, certificate_for, is_local, server_tls
from broker.claims import Retired
from broker.config import Config
from broker.external import ExternalNats
from broker.natsd import EmbeddedNats
from protocol import subjects
from protocol.bus import NatsBus
from protocol.dialing import Tls
from protocol.enact import State
from protocol.errors import ProtocolError
from protocol.invitation import Held, digest_of_ca
from protocol.keylife import Life, state_of
from protocol.keys import Signer, replace_secret
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.statements import BROKER, Claim, sign_statement

log = structlog.get_logger()
USES: Final = {
    "operator": "signs the accounts of the bus",
    "account": "signs who connects to the bus",
    "user": "opens the broker's connections",
}
_held: Final = msgspec.json.Decoder(Held)


class Servers(Protocol):
    """The bus's servers, as the broker's loops know them: its own, or somebody else's."""

    @property
    def url(self) -> str:
        """Where to connect."""

    @property
    def accounts(self) -> Accounts:
        """The keys that sign accounts and users."""

    @property
    def tls(self) -> Tls | None:
        """How they are spoken to."""

    @property
    def retired(self) -> Retired:
        """The keys that open no connection any more."""

    @property
    def behind(self) -> int:
        """How many accounts the servers do not know as they are now."""

    async def supervise(self) -> None:
        """Keep them as they shall be, until cancelled."""

    async def set_members(
        self, members: Iterable[str], suspended: Iterable[str] = (), retired: Retired | None = None
    ) -> None:
        """Make these the members. `Transient`: call again."""

    def follow_certificates(self) -> bool:
        """Show a certificate that was replaced; whether one was."""


async def start_server(
    config: Config, members: Iterable[str], suspended: Iterable[str], retired: Retired, stack: AsyncExitStack
) -> Servers:
    """Start the embedded server, or tell the servers of somebody else who is a member.

    Raises:
        ConfigError: it cannot run, or they do not take it; the text says why.
    """
    settings = config.nats
    accounts, place = Accounts.load(config.keys / "nats"), config.data / "nats"
    if settings.mode == "external":
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        tls = Tls(ca_file=settings.ca_file) if settings.ca_file else None
        others = ExternalNats(
            str(settings.url), accounts, members, suspended=suspended, retired=retired, tls=tls, place=place
        )
        stack.push_async_callback(others.stop)
        await others.start()
        return others
    own = server_tls(config)
    if own is None and not is_local(settings.host):
        log.warning("nats.not_encrypted", host=settings.host)
    server = EmbeddedNats(
        place,
        settings.port,
        accounts,
        members,
        suspended=suspended,
        retired=retired,
        host=settings.host,
        tls=own,
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


def claim(
    config: Config, accounts: Accounts | None, signer: Signer, registry: Registry, member: str, data: bytes
) -> bytes:
    """With what a member's node connects, signed, for the key that the region lists; nothing if it has that already.

    Args:
        accounts: of the bus; None if this broker does not run it.
        data: what it has, or nothing.

    Raises:
        ProtocolError: the member has no such key, or the question is malformed.
    """
    if accounts is None:
        raise ProtocolError(Reason.UNKNOWN_PATH, "$", "no such method")
    ca = ca_text(config)
    if data:
        held = decode(_held, data)
        if held.account == accounts.member_account(member) and held.ca == digest_of_ca(ca) and not held.renew:
            return b""
    listed = registry.member(member).transport
    if listed is None:
        raise ProtocolError(Reason.NOT_ALLOWED, "$", "the region lists no key for this member's connection")
    now = datetime.now(UTC)
    jwt = accounts.issue_user(member, listed, int(now.timestamp()))
    certificate = certificate_for(config, member, listed, now)
    made = Claim(iss=BROKER, aud=member, at=now, user_jwt=jwt, certificate=certificate, ca=ca)
    return sign_statement(made, signer).encode("ascii")


def bus_lives(config: Config, now: datetime) -> list[Life]:
    """The keys of the bus's operator and accounts. None of them ends by itself but one that was replaced."""
    accounts = Accounts.load(config.keys / "nats")
    found = []
    for kind, name, public, made in accounts.publics():
        member = name.removeprefix("member-")
        owner, begins = BROKER if member == name else member, datetime.fromtimestamp(made, UTC)
        found.append(Life(kind, public[:22], USES[kind], "nkey", "current", True, begins, None, owner))
    for member, public, until in accounts.former():
        ends = datetime.fromtimestamp(until, UTC)
        state = state_of(None, ends, None, in_use=False, now=now)
        found.append(Life("account", public[:22], USES["account"], "nkey", state, False, None, ends, member))
    return found


async def connect(config: Config, server: Servers) -> NatsBus:
    """The broker's connection.

    Raises:
        Transient: no server answered in time.
        ConfigError: refused, or a file is missing or wrong.
    """
    creds = config.nats.creds
    if creds is None or config.nats.mode == "embedded":
        creds = config.data / "nats" / "broker.creds"
        text = Accounts.load(config.keys / "nats").broker_creds(int(time.time()))
        replace_secret(creds, text.encode("ascii"))
    return await NatsBus.connect(
        server.url,
        creds=creds,
        name="kentongan-broker",
        stream=subjects.INTAKE_STREAM,
        consumer=subjects.BROKER_CONSUMER,
        tls=server.tls,
        connect_timeout=15.0,
        on_state=lambda what: log.info("bus.state", what=what),
    )
