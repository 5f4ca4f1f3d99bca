"""The broker's own NATS server, as a child process with one directory.

Guarantees that the server runs with exactly the accounts given here from its first moment (a suspended member finds no
gap at a restart), that it never outlives the broker (Linux), that one left behind by a killed broker is ended before
the next start, and, through `supervise`, that a server that died, hangs, lost its store or can no longer write to it is
replaced on the same port. Whoever uses the streams re-declares them when its connection comes back; what a lost store
held is sent again from the ledgers.

Refuses to signal any process that is not provably our server: its command line must name our configuration file.

    nats.conf   written at every start       jwt/     account claims; written from the keys at every start
    jetstream/  the streams; may be lost     port     the chosen port, so that members find it again
    nats.log    rotated by the server        nats.pid of the running server
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import nats.errors
from nats.aio.client import Client

from broker import claims, natsconf
from broker.accounts import Accounts
from broker.bustls import ServerTls
from broker.claims import Retired
from protocol import limits, natsauth, subjects
from protocol.dialing import Tls
from protocol.errors import ConfigError, Transient

START_TIMEOUT: Final = 30.0
"""Seconds until a started server must answer; recovering large streams takes a while."""
STOP_TIMEOUT: Final = 10.0
"""Seconds that a server gets to end by itself."""
POLL: Final = 0.5
"""Seconds between looks at process and store."""
HEALTH_POLL: Final = 3.0
"""Seconds between questions after the server's health."""
BAD_ANSWERS: Final = 2
"""Bad or missing answers in a row that condemn a server: one may be a busy machine."""
BACKOFF_MOST: Final = 5.0
DISK_ROOM: Final = 2 * limits.BUS_MESSAGE
"""Bytes free on the disk below which restarting a server whose writes fail is no use."""
STEADY: Final = 30.0
"""Seconds of running after which the next failure counts as the first again."""


class EmbeddedNats:
    """One nats-server: configured, started, watched and stopped.

    Args:
        directory: where everything of the server lives; created if missing.
        port: TCP; 0 chooses a free one and keeps it in the directory for later starts.
        accounts: the keys that sign the accounts.
        members: who has an account; `suspended` of them may not connect, and `retired` keys of theirs neither.
        binary: the server program; by default beside the interpreter, then on PATH.
        host: the address to listen on.
        tls: what it shows, and whom it lets in; without it, connections are not encrypted.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        accounts: Accounts,
        members: Iterable[str],
        binary: Path | None = None,
        *,
        suspended: Iterable[str] = (),
        retired: Retired | None = None,
        host: str = "127.0.0.1",
        tls: ServerTls | None = None,
        clock: Callable[[], float] = time.time,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        self._directory = directory.absolute()
        self._wanted_port = port
        self._accounts = accounts
        self._members = set(members)
        self._suspended = set(suspended)
        self._retired: Retired = dict(retired or {})
        self._binary = binary
        self._host = host
        self._tls = tls
        self._tls_stamp = tls.stamp() if tls else ()
        self._clock = clock
        self._on_event = on_event
        self._process: asyncio.subprocess.Process | None = None
        self._port = 0
        self._claims: dict[str, str] = {}
        self._pushed: dict[str, str] = {}
        self._seen: dict[Path, tuple[int, int]] = {}
        self._stopping = True
        self._lock = asyncio.Lock()

    @property
    def port(self) -> int:
        """The port in use; 0 before the first `start`."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients on this machine connect."""
        return f"{'tls' if self._tls else 'nats'}://{self._local_host}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it does not run."""
        return self._process.pid if self._running() and self._process else None

    @property
    def tls(self) -> Tls | None:
        """How clients on this machine speak to it."""
        return self._tls.own if self._tls else None

    @property
    def retired(self) -> Retired:
        """The keys that open no connection any more."""
        return self._retired

    @property
    def accounts(self) -> Accounts:
        """The keys that sign accounts and users."""
        return self._accounts

    @property
    def behind(self) -> int:
        """How many accounts the server does not know as they are now."""
        return sum(not claims.says_the_same(self._pushed.get(one), jwt) for one, jwt in self._claims.items())

    @property
    def store(self) -> Path:
        """The directory whose loss `supervise` repairs."""
        return self._directory / "jetstream"

    async def start(self) -> None:
        """End a leftover server, start ours, and return when it answers and holds the current accounts.

        Raises:
            ConfigError: no server program, the port is taken, or the server refuses to run; the text says why.
        """
        async with self._lock:
            await self._start()
            # Only now: until here, the supervisor would take a server that is just starting for one that died.
            self._stopping = False

    async def supervise(self) -> None:
        """Keep the server running until cancelled: restart it when it has to be, waiting longer after each failure.

        Calls `on_event` with why ("died", "store-vanished", "store-failed", "unresponsive"), and then with "restarted"
        or "failed: ...". A store that failed because its disk is full is left alone until there is room again.
        """
        loop = asyncio.get_running_loop()
        failures, started = 0, loop.time()
        while True:
            event = await self._trouble()
            self._tell(event)
            failures = 0 if loop.time() - started > STEADY else failures
            await asyncio.sleep(min(BACKOFF_MOST, 0.1 * 2**failures) if failures else 0)
            failures += 1
            async with self._lock:
                if self._stopping or (event == "died" and self._running()):
                    continue
                # A store that vanished or failed has nothing that an orderly end could save.
                await self._end(signal.SIGKILL)
                try:
                    await self._start()
                except (ConfigError, OSError) as exc:
                    self._tell(f"failed: {exc}")
                    continue
            started = loop.time()
            self._tell("restarted")

    async def set_members(
        self, members: Iterable[str], suspended: Iterable[str] = (), retired: Retired | None = None
    ) -> None:
        """Make these the members, now and at every later start. A member newly suspended is cut off within a second.

        Args:
            retired: by member, the keys that open no connection any more; those that did are cut.

        Raises:
            Transient: the server does not answer; the change applies at its next start, or call again.
        """
        before = dict(self._claims)
        self._members, self._suspended = set(members), set(suspended)
        self._retired = dict(retired or {})
        self._sign_all()
        # A member that left keeps an account only in the server's directory; shut it there too.
        gone = {account: jwt for account, jwt in before.items() if account not in self._claims}
        # The server drops what is under way in an account whose claim is renewed: leave the others alone.
        fresh = [
            jwt for account, jwt in self._claims.items() if not claims.says_the_same(self._pushed.get(account), jwt)
        ]
        await self._push([*fresh, *(self._closed(account) for account in gone)])

    async def update_account(self, jwt: str) -> None:
        """Push one account claim, now and at every later start; one that revokes cuts the account's live connections.

        Raises:
            Transient: the server does not answer; the claim applies at its next start, or call again.
        """
        self._claims[natsauth.subject_of(jwt)] = jwt
        await self._push([jwt])

    def follow_certificates(self) -> bool:
        """Have the running server show a certificate that was replaced; tells whether one was. Connections stay."""
        stamp = self._tls.stamp() if self._tls else ()
        if stamp == self._tls_stamp or self._process is None:
            return False
        self._tls_stamp = stamp
        if self._tls is not None:
            self._tls.renew()
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGHUP)
        return True

    async def stop(self) -> None:
        """End the server in order, by force after `STOP_TIMEOUT` seconds. May be called again."""
        self._stopping = True
        async with self._lock:
            await self._end(signal.SIGTERM)

    # Starting and ending

    async def _start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._end_leftover()
        self._port = self._port or self._choose_port()
        self._sign_all()
        self._pushed = {}
        self.store.mkdir(exist_ok=True, mode=0o700)
        self._write_config()
        program = str(self._binary or natsconf.find_server())
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", natsconf.LAUNCHER, str(os.getpid()), program, "-c", str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            # A Ctrl-C in the broker's terminal is the broker's to handle: the server ends last.
            start_new_session=True,
        )
        try:
            await self._wait_ready()
        except BaseException:
            await self._end(signal.SIGKILL)
            raise
        self._seen = {}
        self._store_vanished()

    async def _wait_ready(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT
        while True:
            if not self._running():
                raise ConfigError(f"nats-server ended at its start: {self._last_words()}")
            try:
                await self._push(list(self._claims.values()))
            except Transient as exc:
                if loop.time() > deadline:
                    raise ConfigError(
                        f"nats-server does not answer: {exc}; see {self._directory / 'nats.log'}"
                    ) from exc
                await self._wait(0.02)
            else:
                return

    async def _end(self, first: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(first)
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        self._process = None
        self._pid_file.unlink(missing_ok=True)

    async def _end_leftover(self) -> None:
        """End the server of a broker that was killed, if it still runs and is provably ours."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return
        loop = asyncio.get_running_loop()
        for number, seconds in ((signal.SIGTERM, STOP_TIMEOUT), (signal.SIGKILL, STOP_TIMEOUT)):
            if not self._is_ours(pid):
                break
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = loop.time() + seconds
            while self._is_ours(pid) and loop.time() < deadline:  # noqa: ASYNC110 - not our child: nobody tells us
                await asyncio.sleep(0.02)
        self._pid_file.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        # A zombie has no command line: it holds no port and no files, so it counts as gone.
        return words[1:3] == [b"-c", os.fsencode(self._config)]

    def _running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _trouble(self) -> str:
        """Return as soon as the server has to be restarted, with the reason."""
        loop = asyncio.get_running_loop()
        ask_at, bad = loop.time() + HEALTH_POLL, 0
        while True:
            await self._wait(POLL)
            if self._stopping:
                ask_at, bad = loop.time() + HEALTH_POLL, 0
            elif not self._running():
                return "died"
            elif self._store_vanished():
                return "store-vanished"
            elif loop.time() >= ask_at:
                verdict = await self._health()
                bad = bad + 1 if verdict else 0
                if bad >= BAD_ANSWERS and self._running():
                    return verdict
                ask_at = loop.time() + HEALTH_POLL

    async def _health(self) -> str:
        # After one failed write a stream takes no more messages until the server restarts, and says so only here.
        try:
            async with self._system() as nc:
                answer = await nc.request(subjects.SERVER_HEALTH, b"", timeout=5.0)
                healthy = json.loads(answer.data)["data"]["status"] == "ok"
        except Transient:
            return "unresponsive"
        except (KeyError, TypeError, ValueError):
            return ""
        if healthy or shutil.disk_usage(self._directory).free < DISK_ROOM:
            return ""
        return "store-failed"

    async def _wait(self, seconds: float) -> None:
        """Wait `seconds`, or less if the server ends in the meantime."""
        if self._process is None:
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        if not self._running():
            await asyncio.sleep(0.01)

    def _store_vanished(self) -> bool:
        """Tell whether a directory seen since the start is gone or another one now; remembers those that are new."""
        for path in (self.store, self.store / "jetstream", self.store / "jetstream" / self._accounts.broker_account):
            try:
                status = path.stat()
                now = (status.st_dev, status.st_ino)
            except OSError:
                now = (0, 0)
            if path in self._seen:
                if self._seen[path] != now:
                    return True
            elif now != (0, 0):
                self._seen[path] = now
        return False

    def _last_words(self) -> str:
        try:
            lines = (self._directory / "nats.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        fatal = [line for line in lines[-20:] if "[FTL]" in line or "[ERR]" in line] or lines[-1:]
        return fatal[-1] if fatal else f"it says nothing; try it by hand: nats-server -c {self._config}"

    def _tell(self, event: str) -> None:
        if self._on_event is not None:
            self._on_event(event)

    # Configuration and claims

    @property
    def _config(self) -> Path:
        return self._directory / "nats.conf"

    @property
    def _pid_file(self) -> Path:
        return self._directory / "nats.pid"

    @property
    def _local_host(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)  # noqa: S104 - compared, not bound

    def _now(self) -> int:
        return int(self._clock())

    def _closed(self, account: str) -> str:
        """Sign an empty claim for an account that is nobody's any more."""
        return self._accounts.closed_account_jwt(account, self._now())

    def _sign_all(self) -> None:
        self._claims = claims.sign_all(self._accounts, self._members, self._suspended, self._retired, self._now())

    def _write_config(self) -> None:
        # Claims stand in the configuration too, and the directory starts empty: what the server knows from its first
        # connection on is what the members are now, not what they were when it last ran.
        resolver = self._directory / "jwt"
        shutil.rmtree(resolver, ignore_errors=True)
        resolver.mkdir(mode=0o700)
        text = natsconf.text(
            directory=self._directory,
            host=self._host,
            port=self._port,
            accounts=self._accounts,
            claims=self._claims,
            now=self._now(),
            tls=self._tls,
        )
        self._config.write_text(text, encoding="utf-8")
        self._config.chmod(0o600)

    def _choose_port(self) -> int:
        kept = self._directory / "port"
        if self._wanted_port:
            return self._wanted_port
        with suppress(OSError, ValueError):
            return int(kept.read_text(encoding="ascii"))
        with socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET) as probe:
            probe.bind((self._host, 0))
            port = int(probe.getsockname()[1])
        kept.write_text(f"{port}\n", encoding="ascii")
        return port

    async def _push(self, signed: Iterable[str]) -> None:
        """Hand claims to the running server; it applies each at once, also to live connections."""
        async with self._system() as nc:
            for claim in signed:
                answer = await nc.request(subjects.CLAIMS_UPDATE, claim.encode("ascii"), timeout=5.0)
                if json.loads(answer.data).get("data", {}).get("code") != 200:
                    raise Transient(f"the server did not take an account: {answer.data.decode('utf-8', 'replace')}")
                self._pushed[natsauth.subject_of(claim)] = claim

    @asynccontextmanager
    async def _system(self) -> AsyncIterator[Client]:
        """Connect to the system account; whatever goes wrong with the connection is `Transient`."""
        jwt, seed = natsauth.parse_creds(self._accounts.system_creds(self._now()))
        nc = Client()

        async def quiet(_: Exception) -> None:
            return

        try:
            await asyncio.wait_for(
                nc.connect(
                    self.url,
                    error_cb=quiet,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    connect_timeout=2,
                    reconnect_time_wait=0,
                    name="accounts",
                    user_jwt_cb=lambda: jwt.encode("ascii"),
                    signature_cb=lambda nonce: natsauth.sign_nonce(seed, nonce),
                    tls=self._tls.own.context() if self._tls else None,
                    tls_hostname=self._tls.own.name if self._tls else None,
                ),
                5.0,
            )
            yield nc
        except (nats.errors.Error, OSError, TimeoutError) as exc:
            raise Transient(f"the bus server does not answer: {exc or type(exc).__name__}") from exc
        finally:
            with suppress(nats.errors.Error, OSError, TimeoutError, AssertionError):
                await asyncio.wait_for(nc.close(), 2.0)
