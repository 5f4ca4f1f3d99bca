"""NATS servers that are not the broker's own: what it tells them about who may connect, and that they took it.

Guarantees: every server of the cluster that can be reached holds the claims of the region as it is now. A change goes
out at once, and cuts live connections; a server that comes back, or was rebuilt from nothing, is told within about a
second; while none answers, it is tried again for as long as the broker runs. A server that holds a claim already is
not disturbed. `behind` tells what is not taken yet. Refuses servers that do not know the region's operator
(ConfigError).

Nothing that a broker decides waits for this: who is suspended is sent nothing and believed nothing from the record on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
import nats.errors
import structlog
from msgspec import Meta, Struct
from nats.aio.msg import Msg

from broker import claims
from broker.accounts import Accounts
from broker.claims import Retired
from protocol import subjects
from protocol.bus import NatsBus
from protocol.dialing import SEND_ERRORS, Tls
from protocol.errors import ConfigError, Transient
from protocol.keys import replace_secret

log = structlog.get_logger()

LOOK: Final = 1.0
"""Seconds between questions for servers that are new here."""
ANSWER: Final = 2.0
"""Seconds until somebody must have answered."""
QUIET: Final = 0.3
"""Seconds without another answer after which those that are missing are asked again later."""
AGAIN: Final = 0.5
"""Seconds until the next attempt after one that failed."""
PATIENCE: Final = 5.0
"""Seconds for one connection."""


class _Server(Struct, frozen=True):
    id: str
    name: str = ""


class _Taken(Struct, frozen=True):
    code: int = 0
    message: str = ""


class _Failed(Struct, frozen=True):
    code: int = 0
    description: str = ""


class _Update(Struct, frozen=True):
    """What a server says to a claim."""

    server: _Server
    data: _Taken = _Taken()
    error: _Failed = _Failed()


class _Stats(Struct, frozen=True):
    active_servers: Annotated[int, Meta(ge=0)] = 1


class _Ping(Struct, frozen=True):
    """What a server says of itself."""

    server: _Server
    statsz: _Stats = _Stats()


_update: Final = msgspec.json.Decoder(_Update)
_ping: Final = msgspec.json.Decoder(_Ping)


class ExternalNats:
    """The broker's word to the servers of a cluster.

    Args:
        url: of one server, or several, separated by commas.
        accounts: the keys that sign the accounts.
        members: who has an account; `suspended` of them may not connect, and `retired` keys of theirs neither.
        tls: whom to believe there.
        place: a directory for the credentials with which claims are pushed.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        url: str,
        accounts: Accounts,
        members: Iterable[str],
        *,
        suspended: Iterable[str] = (),
        retired: Retired | None = None,
        tls: Tls | None = None,
        place: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url = url
        self.tls = tls
        self.accounts = self._accounts = accounts
        self._creds = place / "system.creds"
        self._clock = clock
        self._bus: NatsBus | None = None
        self._wake = asyncio.Event()
        self._held: dict[str, dict[str, str]] = {}
        """By server, by account, the claim that it took."""
        self._adopted = False
        self._urgent = False
        self._complaint = ""
        self._claims: dict[str, str] = {}
        self._newest = 0
        """When the newest claim was signed."""
        self._wish(members, suspended, retired or {})

    @property
    def retired(self) -> Retired:
        """The keys that open no connection any more."""
        return self._retired

    @property
    def behind(self) -> int:
        """How many accounts some server does not know as they are now, as far as is known here."""
        if not self._held:
            return len(self._claims)
        return sum(any(held.get(one) != jwt for held in self._held.values()) for one, jwt in self._claims.items())

    def follow_certificates(self) -> bool:
        """Nothing to do: whoever runs the servers renews theirs."""
        return False

    async def start(self) -> None:
        """Return when a server holds all claims; waits for one for as long as none answers.

        Raises:
            ConfigError: the servers do not know this operator, or take nothing that it signs.
        """
        while True:
            try:
                await self._round()
            except Transient as exc:
                self._wait_for(str(exc))
            else:
                if any(held == self._claims for held in self._held.values()):
                    return
                if self._held:
                    raise ConfigError(
                        f"the NATS servers at {self.url} do not take the region's accounts: {self._complaint}"
                    )
            await asyncio.sleep(AGAIN)

    async def supervise(self) -> None:
        """Tell the servers what they lack, until cancelled."""
        while True:
            pause = LOOK
            try:
                await self._round()
            except (Transient, ConfigError) as exc:
                self._wait_for(str(exc))
                pause = AGAIN
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            if self._wake.is_set():
                self._wake.clear()
                self._urgent = True

    async def set_members(
        self, members: Iterable[str], suspended: Iterable[str] = (), retired: Retired | None = None
    ) -> None:
        """Make these the members: `supervise` tells the servers at once, or as soon as they answer."""
        self._wish(members, suspended, retired or {})
        self._wake.set()

    async def stop(self) -> None:
        """End the connection. The servers keep what they were told."""
        if self._bus is not None:
            await self._bus.close()

    # What the servers shall hold

    def _wish(self, members: Iterable[str], suspended: Iterable[str], retired: Retired) -> None:
        self._wanted = frozenset(members), frozenset(suspended)
        self._retired = dict(retired)
        self._sign()

    def _sign(self) -> None:
        """Sign what is new; a claim that stands is left as it is, to the byte: servers take it for the same."""
        members, suspended = self._wanted
        self._newest = max(int(self._clock()), self._newest + 1)
        wanted = claims.sign_all(self._accounts, members, suspended, self._retired, self._newest)
        for member in sorted(self._accounts.members_ever() - members):
            account = self._accounts.member_account(member)
            wanted[account] = self._accounts.closed_account_jwt(account, self._newest)
        before = self._claims
        self._claims = {
            account: before[account] if claims.says_the_same(before.get(account), jwt) else jwt
            for account, jwt in wanted.items()
        }

    async def _adopt(self, bus: NatsBus) -> None:
        """Take claims that the servers hold for our own, if they say the same: pushed anew, they would disturb."""
        found: dict[str, str] = {}
        # A server that holds something else than this hash tells all that it holds, and then nothing more.
        for answer in await self._gather(bus, subjects.CLAIMS_PACK, bytes(32), lambda answers: not answers[-1]):
            for line in answer.decode("ascii", "replace").splitlines():
                account, _, jwt = line.partition("|")
                found[account] = jwt
        self._claims = {account: jwt for account, jwt in found.items() if account in self._claims}
        self._newest = max(self._newest, claims.newest(found.values()))
        self._sign()
        self._adopted = True

    # Telling them

    async def _round(self) -> None:
        """Tell every server that answers what it lacks.

        Raises:
            Transient: none answers, or one did not take everything.
            ConfigError: the credentials are refused.
        """
        bus = await self._connected()
        if not self._adopted:
            await self._adopt(bus)
        refused = ""
        if self._urgent and self._held:
            # Whoever is to be cut off does not wait for a server that hangs.
            self._urgent = False
            refused = await self._push(bus)
        await self._find(bus)
        refused = await self._push(bus) or refused
        if refused:
            raise Transient(refused)
        if self.behind:
            raise Transient(f"{self.behind} accounts are not taken by every server")
        self._complaint = ""

    async def _push(self, bus: NatsBus) -> str:
        """Push what servers lack; what one of them said against it."""
        pushed, refused = 0, ""
        for account, jwt in list(self._claims.items()):
            if all(held.get(account) == jwt for held in self._held.values()):
                continue
            answers = await self._gather(
                bus, subjects.CLAIMS_UPDATE, jwt.encode("ascii"), lambda found: len(found) >= len(self._held)
            )
            pushed += bool(answers)
            for answer in answers:
                try:
                    said = _update.decode(answer)
                except msgspec.MsgspecError:
                    continue
                if said.data.code == 200:
                    self._held.setdefault(said.server.id, {})[account] = jwt
                else:
                    refused = f"{said.server.name} does not take {account}: {said.error.description}"
        if pushed:
            log.info("nats.claims_pushed", accounts=pushed, servers=len(self._held), behind=self.behind)
        return refused

    async def _find(self, bus: NatsBus) -> None:
        """Which servers there are. One that was restarted has another id, and counts as one that holds nothing."""

        def complete(answers: list[bytes]) -> bool:
            return len(answers) >= max(_ping.decode(one).statsz.active_servers for one in answers)

        try:
            answers = await self._gather(bus, subjects.SERVER_PING, b"", complete)
            ids = [_ping.decode(answer).server.id for answer in answers]
        except msgspec.MsgspecError as exc:
            raise Transient("a NATS server gives no answer that is known here") from exc
        if not ids:
            raise Transient("no NATS server answers in the system account")
        self._held = {one: self._held.get(one, {}) for one in ids}

    async def _gather(
        self, bus: NatsBus, subject: str, data: bytes, complete: Callable[[list[bytes]], bool]
    ) -> list[bytes]:
        """Ask all servers; their answers until `complete`, or until no more come.

        Raises:
            Transient: the connection is lost.
        """
        nc, answers = bus.nc, list[bytes]()
        if not bus.connected:
            raise Transient("not connected to the bus")
        # The library's own waiting takes a cancellation for a closed connection.
        arrived: asyncio.Queue[bytes] = asyncio.Queue()

        async def take(msg: Msg) -> None:
            arrived.put_nowait(msg.data)

        reply = nc.new_inbox()
        try:
            subscription = await nc.subscribe(reply, cb=take)
            await nc.publish(subject, data, reply=reply)
            with suppress(TimeoutError):
                while not answers or not complete(answers):
                    async with asyncio.timeout(QUIET if answers else ANSWER):
                        answers.append(await arrived.get())
            await subscription.unsubscribe()
        except (*SEND_ERRORS, nats.errors.Error) as exc:
            raise Transient(f"the NATS servers do not answer: {exc or type(exc).__name__}") from exc
        return answers

    async def _connected(self) -> NatsBus:
        if self._bus is None:
            creds = self._accounts.system_creds(int(self._clock()))
            replace_secret(self._creds, creds.encode("ascii"))
            self._bus = await NatsBus.connect(
                self.url,
                creds=self._creds,
                name="kentongan-accounts",
                stream=subjects.INTAKE_STREAM,
                consumer=subjects.BROKER_CONSUMER,
                tls=self.tls,
                connect_timeout=PATIENCE,
            )
        if not self._bus.connected:
            raise Transient("not connected to the NATS servers")
        return self._bus

    def _wait_for(self, why: str) -> None:
        if why != self._complaint:
            self._complaint = why
            log.warning("nats.claims_waiting", why=why, behind=self.behind)
