"""The bus between a node and its broker: at-least-once messages, and request/reply.

Guarantees:
  * `publish` returns only when the stream has stored the message; whoever gets an exception sends again. A message can
    be stored although `publish` raised: receivers must treat twice as once.
  * every attempt to send carries a new transport id, so the stream's own deduplication swallows nothing.
  * `pull` hands over what has arrived at once, and holds no more than the caller asked for (`protocol/pulling.py`).
  * a lost, restarted or replaced server, a cut by the server (suspension, expired credentials) included, ends in
    reconnecting for as long as the object is open; credentials are read again each time.

Refuses to buffer while disconnected (`Transient` at once), and to promise anything about acknowledgements: they are
hints that save a redelivery. Reports its state through `on_state` and logs nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from protocol import limits, subjects
from protocol.dialing import (
    SEND_ERRORS,
    Credentials,
    Tls,
    check_stored,
    close_client,
    dial,
    jittered,
    status_of,
)
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.pulling import EXPIRES, GRACE, Puller
from protocol.reasons import Reason
from protocol.transport import Message

Handler = Callable[[str, bytes], Awaitable[bytes]]
"""Takes the subject and the body of a request, returns the body of the answer."""

HEADER_ROOM: Final = 512
"""The server's payload limit counts headers, and it closes the connection of whoever exceeds it."""
RECONNECT_WAIT: Final = 0.5
REFUSED_WAIT: Final = 2.0
SERVED_AT_ONCE: Final = 64
_REASON_HEADER: Final = "Kentongan-Reason"


def _never(_: str) -> bool:
    return False


class NatsBus:
    """`Bus` over a NATS connection, reading one durable pull consumer. Make it with `NatsBus.connect`."""

    def __init__(
        self,
        url: str,
        *,
        creds: Path | None,
        name: str,
        stream: str,
        consumer: str,
        tls: Tls | None,
        connect_timeout: float,
        publish_timeout: float,
        on_state: Callable[[str], None] | None,
    ) -> None:
        self._url = url
        self._credentials = Credentials(creds) if creds else None
        self._tls = tls
        self._name = name
        self._connect_timeout = connect_timeout
        self._publish_timeout = publish_timeout
        self._on_state = on_state
        self._last_state = ""
        # Unique across processes and restarts, and nothing that a member could guess to claim another's ids.
        self._id = secrets.token_hex(8)
        self._count = itertools.count(1)
        self._replies = f"{subjects.INBOXES}.{self._id}.r"
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._puller = Puller(
            stream,
            consumer,
            f"{subjects.INBOXES}.{self._id}.p",
            client=lambda: self._nc if self.connected else None,
            check=self._raise_fault,
        )
        self._services: list[tuple[str, Handler, Callable[[str], bool]]] = []
        self._serving: set[asyncio.Task[None]] = set()
        self._served = asyncio.Semaphore(SERVED_AT_ONCE)
        self._fault: BaseException | None = None
        self._closing = False
        self._revival: asyncio.Task[None] | None = None
        self._nc = Client()

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        creds: Path | None,
        name: str,
        stream: str,
        consumer: str,
        tls: Tls | None = None,
        connect_timeout: float = 5.0,
        publish_timeout: float = 5.0,
        on_state: Callable[[str], None] | None = None,
    ) -> NatsBus:
        """Connect, and stay connected until `close`.

        Args:
            url: `nats://host:port`, or `tls://host:port`; of a cluster several, separated by commas.
            creds: the credentials file; None only for servers without authentication.
            name: shown in the server's monitoring.
            stream: the stream that `pull` reads, through the durable consumer `consumer`.
            tls: for a server that is spoken to in TLS.
            connect_timeout: seconds for the first connection.
            publish_timeout: seconds after which an unanswered `publish` is `Transient`.
            on_state: called with "connected", "disconnected", "refused", "closed", or "error: ..." with a sentence;
                repetitions are left out. Must not raise.

        Raises:
            Transient: no server answered in time.
            ConfigError: the server refused the credentials, or a file is missing or wrong.
        """
        bus = cls(
            url,
            creds=creds,
            name=name,
            stream=stream,
            consumer=consumer,
            tls=tls,
            connect_timeout=connect_timeout,
            publish_timeout=publish_timeout,
            on_state=on_state,
        )
        try:
            await bus._open()
        except BaseException:
            bus._closing = True
            if bus._revival is not None:
                bus._revival.cancel()
            await close_client(bus._nc)
            raise
        return bus

    @property
    def connected(self) -> bool:
        """Tell whether the server is reachable, as far as this side knows."""
        return not self._closing and self._nc.is_connected

    @property
    def nc(self) -> Client:
        """The connection of the moment, for administration; a cut by the server replaces the object."""
        return self._nc

    @property
    def buffered(self) -> int:
        """Messages that arrived and wait for the next `pull`."""
        return self._puller.buffered

    async def publish(self, subject: str, kind: str, data: bytes, *, trace: str = "") -> None:
        """See `Bus.publish`."""
        headers = {
            subjects.KIND_HEADER: kind,
            subjects.TRANSPORT_ID_HEADER: f"{self._id}-{next(self._count)}",
        }
        if trace:
            headers[subjects.TRACE_HEADER] = trace
        answer = await self._ask(subject, data, headers, self._publish_timeout)
        check_stored(answer.data)

    async def pull(self, most: int, wait: float) -> list[Message]:
        """See `Bus.pull`."""
        return await self._puller.take(most, wait)

    async def ack(self, messages: Sequence[Message]) -> None:
        """See `Bus.ack`."""
        nc = self._nc
        with suppress(*SEND_ERRORS):
            for message in messages:
                if not nc.is_connected:
                    return
                await nc.publish(message.reply)

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - one timer a call
        """Ask whoever serves `subject` and return the answer.

        Raises:
            Transient: no answer within `timeout` seconds, or nobody serves the subject at present.
            ProtocolError: the other side refused the request, or it is larger than the bus carries.
        """
        answer = await self._ask(subject, data, None, timeout)
        refused = (answer.headers or {}).get(_REASON_HEADER)
        if refused is not None:
            try:
                reason = Reason(refused)
            except ValueError:
                raise Transient("the other side refused the request for a reason unknown here") from None
            raise ProtocolError(reason, "$", f"refused by {subject}")
        return answer.data

    async def renew(self) -> None:
        """Put a new connection, with the credentials and certificates of now, in place of the present one.

        What is sent or asked meanwhile goes on: the old connection ends when nothing waits on it any more.

        Raises:
            Transient, ConfigError: there is no new one; the old one stays.
        """
        old = self._nc
        await self._open()
        # Open requests for messages are answered where they were asked.
        await asyncio.sleep(EXPIRES + GRACE)
        with suppress(nats.errors.Error, asyncio.TimeoutError, OSError):
            await asyncio.wait_for(old.drain(), 3.0)
        await close_client(old)

    async def serve(self, subject: str, handler: Handler, holds: Callable[[str], bool] = _never) -> None:
        """Answer requests on `subject` (wildcards allowed), `SERVED_AT_ONCE` at a time, until `close`.

        Args:
            holds: tells by its subject which request may be held back for long. Such ones are not counted, so that
                they keep nobody else waiting; the handler bounds how many it holds.

        A `ProtocolError` of the handler goes to the requester as its reason, a `Transient` as silence. Anything else
        is a bug: it is raised by the next call of `pull` or `publish`. Several processes share the requests.
        """
        self._services.append((subject, handler, holds))
        nc = self._nc
        await self._subscribe_service(nc, subject, handler, holds)
        if self.connected:
            # Until the server has it, other connections' requests find nobody. Two round trips, because the library's
            # first question overtakes what it has yet to write. A break now is mended by reconnecting.
            with suppress(*SEND_ERRORS, nats.errors.FlushTimeoutError):
                await nc.flush()
                await nc.flush()

    async def close(self) -> None:
        """End serving, send what is queued, and close; takes a few seconds at most. May be called again.

        Messages that `pull` did not hand out are redelivered to the next reader.
        """
        if self._closing:
            return
        self._closing = True
        if self._revival is not None:
            self._revival.cancel()
        self._drop_connection_state("the bus is closed")
        nc = self._nc
        if nc.is_connected:
            with suppress(nats.errors.Error, asyncio.TimeoutError, OSError):
                await asyncio.wait_for(nc.drain(), 3.0)
        await close_client(nc)
        for task in tuple(self._serving):
            task.cancel()
        self._tell("closed")

    # Sending and its answers

    async def _ask(self, subject: str, data: bytes, headers: dict[str, str] | None, seconds: float) -> Msg:
        self._raise_fault()
        nc = self._nc
        if not self.connected:
            raise Transient("not connected to the bus")
        room = nc.max_payload - HEADER_ROOM
        if len(data) > room:
            raise ProtocolError(Reason.TOO_LARGE, "$", f"{len(data)} bytes, the bus carries {room}")
        loop = asyncio.get_running_loop()
        token = str(next(self._count))
        future: asyncio.Future[Msg] = loop.create_future()
        self._waiting[token] = future
        timer = loop.call_later(seconds, _fail, future, f"no answer on {subject} within {seconds:g} s")
        try:
            await nc.publish(subject, data, reply=f"{self._replies}.{token}", headers=headers)
            answer = await future
        except SEND_ERRORS as exc:
            raise Transient(f"cannot send on {subject}: {exc}") from exc
        finally:
            timer.cancel()
            self._waiting.pop(token, None)
        if not answer.data and status_of(answer) == "503":
            raise Transient(f"nobody serves {subject} at present")
        return answer

    async def _on_reply(self, msg: Msg) -> None:
        future = self._waiting.get(msg.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(msg)

    # Serving

    async def _subscribe_service(
        self, nc: Client, subject: str, handler: Handler, holds: Callable[[str], bool]
    ) -> None:
        async def on_request(msg: Msg) -> None:
            counted = not holds(msg.subject)
            if counted:
                # Waiting here bounds the tasks; what piles up behind is bounded by the subscription, then dropped.
                await self._served.acquire()
            task = asyncio.create_task(self._answer(nc, msg, handler))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            if counted:
                task.add_done_callback(lambda _: self._served.release())

        with suppress(*SEND_ERRORS):
            await nc.subscribe(subject, queue="kentongan", cb=on_request, pending_msgs_limit=1024)

    async def _answer(self, nc: Client, msg: Msg, handler: Handler) -> None:
        headers = None
        try:
            answer = await handler(msg.subject, msg.data)
        except Transient:
            return
        except ProtocolError as exc:
            answer, headers = b"", {_REASON_HEADER: exc.reason.value}
        except Exception as exc:  # noqa: BLE001 - not swallowed: raised where the process is listening
            self._fault = exc
            self._puller.wake()
            return
        if msg.reply:
            with suppress(*SEND_ERRORS, nats.errors.MaxPayloadError):
                await nc.publish(msg.reply, answer, headers=headers)

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    # Connecting

    async def _open(self) -> None:
        """Make one connection or raise; on success it is the connection of the moment."""
        nc = self._nc = await dial(self._url, self._options, self._connect_timeout, self._on_fault)
        with suppress(*SEND_ERRORS):
            await nc.subscribe(f"{self._replies}.*", cb=self._on_reply)
            for subject, handler, holds in self._services:
                await self._subscribe_service(nc, subject, handler, holds)
        if nc.is_closed:
            # Cut before `on_closed` knew this connection for the current one: nobody else would notice.
            raise Transient(f"the bus at {self._url} closed the new connection")
        self._tell("connected")
        self._puller.wake()

    def _on_fault(self, state: str) -> None:
        if state == "refused" or not self._closing:
            self._tell(state)

    def _options(self, nc: Client, on_error: Callable[[Exception], Awaitable[None]]) -> dict[str, Any]:
        async def on_disconnected() -> None:
            if nc is self._nc and not self._closing:
                self._drop_connection_state("the connection to the bus broke")
                self._tell("disconnected")

        async def on_reconnected() -> None:
            if nc is self._nc and not self._closing:
                self._tell("connected")
                self._puller.wake()

        async def on_closed() -> None:
            # The server's "-ERR" (suspended, expired) ends a client of this library for good; ours goes on.
            if nc is self._nc and not self._closing and (self._revival is None or self._revival.done()):
                self._revival = asyncio.create_task(self._revive())

        options: dict[str, Any] = {
            "servers": self._url.split(","),
            "name": self._name,
            "error_cb": on_error,
            "disconnected_cb": on_disconnected,
            "reconnected_cb": on_reconnected,
            "closed_cb": on_closed,
            "connect_timeout": self._connect_timeout,
            "reconnect_time_wait": jittered(RECONNECT_WAIT),
            "max_reconnect_attempts": -1,
            "ping_interval": 20,
            "max_outstanding_pings": 2,
            "drain_timeout": 2,
            "flush_timeout": self._publish_timeout,
            "pending_size": 8 * limits.BUS_MESSAGE,
        }
        if self._tls is not None:
            options["tls"] = self._tls.context()
            options["tls_hostname"] = self._tls.name
        if self._credentials is not None:
            options["user_jwt_cb"] = self._credentials.user_jwt
            options["signature_cb"] = self._credentials.sign
        return options

    async def _revive(self) -> None:
        wait = RECONNECT_WAIT
        while not self._closing:
            await asyncio.sleep(jittered(wait))
            try:
                await self._open()
            except ConfigError:
                wait = REFUSED_WAIT
            except Transient:
                wait = RECONNECT_WAIT
            else:
                return

    def _drop_connection_state(self, why: str) -> None:
        # Whatever was asked on the old connection gets no answer any more: say so at once instead of after a timeout.
        for future in self._waiting.values():
            _fail(future, why)
        self._puller.drop_requests()

    def _tell(self, state: str) -> None:
        if state != self._last_state:
            self._last_state = state
            if self._on_state is not None:
                self._on_state(state)


def _fail(future: asyncio.Future[Msg], why: str) -> None:
    if not future.done():
        future.set_exception(Transient(why))
