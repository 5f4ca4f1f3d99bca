"""The broker's composition root: opens what it needs, runs its loops, closes in reverse.

Guarantees: a message is acknowledged only after its decisions are committed; no loop can die unnoticed (all of them
live in one task group, and the first that fails ends the process); a message that trips a bug is put in quarantine
before the process ends, so that a restart does not meet it again.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from broker import auditing, busside, governing, members, policies, sequencer, store, tables, topology
from broker.api import Api
from broker.auditing import Auditing
from broker.bustls import lives
from broker.config import Config
from broker.deliver import Redelivery
from broker.erase import Erased
from broker.feed import Feed
from broker.governor import Governor
from broker.ingest import PULL, Incoming, Ingest, Work, how_many, in_batches
from broker.keyage import key_seconds
from broker.keywatch import KeyWatch
from broker.log import Log
from broker.metrics import Metrics
from broker.notices import missed
from broker.ownkey import Held
from broker.renewal import CurrentKey, sign_with
from broker.sending import HANDS, Sending
from broker.sequencer import Sequencer
from broker.token import KeyKeeper
from broker.traces import trace_batch
from protocol import subjects
from protocol.bus import NatsBus
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.keys import KeyRecord
from protocol.process import Bugs, alone
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.reportlog import SILENT, ReportLog
from protocol.tracing import Tracing, open_tracing
from protocol.transport import Message

log = structlog.get_logger()
T = TypeVar("T")

TICK: Final = 1.0
FOLLOW: Final = 0.25
"""Seconds between looks at the region's files: who is suspended is cut off within one second."""
RECONCILE_EVERY: Final = 5.0
TRIM_EVERY: Final = 60.0
KEYS_EVERY: Final = 3600.0
REGION_METHOD: Final = "region"
MISSED_METHOD: Final = "missed"
PUBLISH_METHOD: Final = "policy.publish"
POLICIES_METHOD: Final = "policy.list"
GOVERNANCE_METHOD: Final = governing.LIST_METHOD
OFFER_METHOD: Final = governing.OFFER_METHOD
CLAIM_METHOD: Final = "transport.claim"


def _utc() -> datetime:
    return datetime.now(UTC)


class Broker:
    """A running broker. Make it with `run`."""

    def __init__(
        self,
        config: Config,
        own: Held,
        records: list[KeyRecord],
        clock: Callable[[], datetime] = _utc,
        tracing: Tracing | None = None,
        reports: ReportLog = SILENT,
    ) -> None:
        self._reports = reports
        self.config = config
        self._signer = signer = CurrentKey(own)
        self._records = records
        self._clock = clock
        self._store = store.Store(store.open_engine(config.ledger_url))
        self.log = Log(self._store, signer, lambda: self._state)
        self._governor = Governor(self._store, config.region, signer, clock)
        self._state = self._load_state()
        self._stamp = members.stamp(config.region)
        self._writer = ThreadPoolExecutor(1, "ledger")
        self._readers = ThreadPoolExecutor(2, "reader")
        first_ms = int(config.delivery.first_retry_seconds * 1000)
        self._ingest = Ingest(self._store, signer, lambda: self._state, secrets.token_bytes, first_ms, self._current)
        self._redelivery = Redelivery(self._store, signer, lambda: self._state, first_ms, self._current)
        self._asleep: set[str] = set()
        self._erased = Erased()
        self._fed = 0
        self.changed = asyncio.Event()
        """Set, and replaced, at the next commit: take it before reading, wait for it after."""
        self.metrics = Metrics(lambda: key_seconds(self._state.registry, records, signer.kid, clock()))
        self._tracing = tracing or open_tracing(config.tracing, "kentongan-broker", "broker")
        self._sending = Sending(self._bus, self.metrics, self._tracing)
        self.feed = Feed(self._store, lambda: self._state, clock)
        self.key = KeyKeeper(config, signer, self.read, self._write, self.metrics.signing_up)
        self._sequencer = Sequencer(self.log, read=self.read, write=self._write, clock=clock, metrics=self.metrics)
        self._auditing = Auditing(self._store, signer, lambda: self._state, self.read, clock)
        self.keys = KeyWatch(lambda: self._state, lambda: self._signer.kid, clock, partial(lives, config))
        self.bus: NatsBus | None = None
        self.nats: busside.Servers | None = None
        self._left: set[str] = set()
        self.bugs = Bugs()
        self.api = Api(self)

    # --- what the API asks --------------------------------------------------------------------------------------

    @property
    def state(self) -> members.RegionState:
        """The region as it is now."""
        return self._state

    def _load_state(self) -> members.RegionState:
        """Files and published policies as they stand. ConfigError if they do not hold together."""

        def published(registry: Registry) -> policies.PublishedPolicies:
            return policies.published_policies(self._store, registry, self._clock())

        state = members.load_state(self.config.region, self._records, published)
        self.log.check(state.registry)
        self._governor.check(state)
        return state

    def _outdated(self) -> bool:
        """Whether a policy was published that the state does not have: another process may have taken it."""
        with self._store.reading() as connection:
            return store.last_number(connection, tables.policies) != self._state.published

    def _current(self, connection: store.Connection) -> members.RegionState:
        """The region by which to decide, with all policies that were published before this transaction."""
        if store.last_number(connection, tables.policies) != self._state.published:
            self._take_published()
        return self._state

    def _take_published(self) -> None:
        state = self._state
        published = policies.published_policies(self._store, state.registry, self._clock())
        self._state = members.with_published(state.registry, state.files, published, state.chain)

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """Run a reading function off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, partial(function, *args))

    async def _write(self, function: Callable[..., T], *args: Any) -> T:
        """Run a writing function on the ledger's one thread."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, partial(function, *args))

    def numbers(self) -> dict[str, Any]:
        """Counts for the status page: no content, no digests."""
        with self._store.reading() as connection:
            return {
                "reports": store.count(connection, tables.reports),
                "exceptions": store.count(connection, tables.exceptions),
                "links": store.count(connection, tables.links),
                "quarantine": store.count(connection, tables.quarantine),
                "backlog": {
                    member: {"deliveries": number, "oldest": oldest}
                    for member, (number, oldest) in store.backlog(connection).items()
                },
                "log": self.log.numbers(),
                "claims_behind": self.claims_behind(),
            }

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Run until cancelled. Raises what ended a loop; nothing else ends one."""
        # Batches make many short-lived objects and no cycles: looking for garbage less often saves a tenth of the time.
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        async with AsyncExitStack() as stack:
            stack.enter_context(alone(self.config.data))
            stack.callback(self._store.close)
            stack.callback(self._tracing.close)
            stack.callback(self._signer.close)
            stack.callback(self._writer.shutdown)
            stack.callback(self._readers.shutdown)
            await self._write(self._governor.record, self._state)
            await self._write(self.log.load, self._clock())
            self.nats = await busside.start_server(self.config, *self._ids(), self._retired(), stack)
            self.metrics.claims_behind.set_function(self.claims_behind)
            self.bus = await busside.connect(self.config, self.nats)
            stack.push_async_callback(self.bus.close)
            await self._reconcile()
            # Policies may have changed while nobody was here to apply them to what was queued.
            await self._requeue()
            await self.bus.serve(
                subjects.RPC_FROM_ANY_MEMBER, self._answer, lambda one: sequencer.holds(one) or auditing.holds(one)
            )
            await self.api.start(stack)
            log.info("broker.started", url=self.api.url, nats=self.nats.url)
            ready()
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self.nats.supervise(), name="nats")
                loops.create_task(self._ingest_loop(), name="ingest")
                loops.create_task(self._sequencer.run(), name="log")
                loops.create_task(self.key.run(), name="key")
                for number in range(HANDS):
                    loops.create_task(self._sending.run(), name=f"send-{number}")
                loops.create_task(self._redelivery_loop(), name="redelivery")
                loops.create_task(self._topology_loop(), name="topology")
                loops.create_task(self._members_loop(self.nats), name="members")
                loops.create_task(self.bugs.watch(), name="bugs")
                loops.create_task(self._keys_loop(), name="keys")

    def _ids(self) -> tuple[list[str], list[str]]:
        """Members with a node, and those of them that are suspended."""
        nodes = [member for member in self._state.registry.region.members if member.keys]
        return [member.id for member in nodes], [member.id for member in nodes if member.status != "active"]

    def _retired(self) -> dict[str, dict[str, int]]:
        chain = self._state.chain
        return busside.retired_keys(chain.state, self._clock()) if chain is not None else {}

    # --- loops --------------------------------------------------------------------------------------------------

    def claims_behind(self) -> int:
        """How many accounts some server of the bus does not know as they are now."""
        return self.nats.behind if self.nats is not None else 0

    def _bus(self) -> NatsBus:
        if self.bus is None:
            raise AssertionError("the bus is used before it is connected")
        return self.bus

    async def _ingest_loop(self) -> None:
        bus = self._bus()
        most = PULL
        while True:
            try:
                await self.key.ready()
                messages = await bus.pull(most, 2.0)
                most = how_many(messages)
                for batch in in_batches(messages):
                    await self.key.signing(partial(self._take, bus, batch))
            except Transient as exc:
                log.warning("broker.waiting", why=str(exc))
                await asyncio.sleep(0.5)

    async def _take(self, bus: NatsBus, batch: list[Message]) -> None:
        """Decide one batch, acknowledge it once it is committed, and hand what follows to the senders."""
        incoming = [
            Incoming(subjects.member_of_intake(message.subject), message.kind, message.data) for message in batch
        ]
        started = time.perf_counter()
        try:
            work = await self._write(self._process, incoming)
        except Transient:
            raise
        except Exception as exc:
            # Acknowledged all the same, or a restart would meet the same message and end the same way, for ever.
            if await self._write(self._isolate, incoming, exc):
                await bus.ack(batch)
            raise
        await bus.ack(batch)
        seconds = time.perf_counter() - started
        self.metrics.count(work, seconds)
        self.metrics.count_intake(batch, time.time_ns())
        cause = trace_batch(self._tracing, batch, work)
        self._note_erased(work.erased)
        for entry in work.log:
            log.info("broker.decided", ms=round(seconds * 1000, 1), **entry)
        self._reports.rows("broker.report", work.reports, self._clock())
        self._tell_change()
        for outgoing in work.outgoing:
            await self._sending.put(outgoing, cause)

    def _process(self, incoming: list[Incoming]) -> Work:
        return self._ingest.process(incoming, self._clock())

    def _isolate(self, incoming: list[Incoming], bug: Exception) -> bool:
        """Decide each message of a batch alone, and put those that trip the bug in quarantine.

        What follows from the others is not sent now: nodes ask again for receipts, deliveries fall due after a restart.

        Returns:
            False if the ledger could not be used: nothing may be acknowledged.
        """
        log.error("broker.bug", error=type(bug).__name__, messages=len(incoming))
        for item in incoming:
            try:
                try:
                    self._ingest.process([item], self._clock())
                except Transient:
                    raise
                except Exception as exc:  # noqa: BLE001 - whatever it is, this message must not be met again
                    error = ProtocolError(Reason.INTERNAL, "$", type(exc).__name__)
                    self._ingest.set_aside(item, error, self._clock())
            except Transient:
                return False
        return True

    async def _redelivery_loop(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            sent = self._sending.take_sent()
            try:
                if sent:
                    await self._write(self._redelivery.sent, sent, self._clock())
                    sent = []
                due = await self._write(self._redelivery.due, self._clock(), frozenset(self._asleep))
                fed, backlog = self._fed, await self.read(self._read_backlog)
                if fed != self._fed and self._store.shared:
                    self._tell_change()
            except Transient as exc:
                self._sending.give_back(sent)
                log.warning("broker.waiting", why=str(exc))
                continue
            for stopped in due.stopped:
                reason = stopped.refusal.reason
                self.metrics.count_stopped(reason)
                log.info("broker.stopped", member=stopped.member, report=stopped.digest, reason=reason)
            self.metrics.show_backlog(backlog, int(self._clock().timestamp() * 1000))
            self._note_erased(due.erased)
            for outgoing in due.outgoing:
                log.info("broker.redelivering", member=outgoing.member, delivery=outgoing.delivery)
                await self._sending.put(outgoing)

    def _read_backlog(self) -> dict[str, tuple[int, int]]:
        with self._store.reading() as connection:
            self._fed = store.last_number(connection, tables.feed)
            self.metrics.quarantined.set(store.count(connection, tables.quarantine))
            return store.backlog(connection)

    def _note_erased(self, erased: Erased) -> None:
        """Content is gone from the ledger; the topology loop sees to what else may hold it."""
        if erased.reports:
            log.info("broker.erased", reports=erased.reports, take_back=sorted(erased.take_back))
            self._erased.add(erased)

    async def _forget(self) -> None:
        """After something was erased: empty the database's log, and take back what lies in inboxes.

        Raises:
            Transient: not now; nothing is forgotten.
        """
        erased, self._erased = self._erased, Erased()
        try:
            await self._write(self._store.wipe)
            if erased.take_back:
                await self._requeue(erased.take_back)
        except Transient:
            self._erased.add(erased)
            raise

    async def _requeue(self, only: Collection[str] | None = None) -> None:
        """Take back what waits in inboxes, and send it again as far as today's policy still grants it.

        Receipts and notices that go with it come again too: the nodes ask for what they miss.

        Args:
            only: these members' inboxes; by default all.
        """
        ids, suspended = self._ids()
        active = [member for member in ids if member not in suspended and (only is None or member in only)]
        waiting = await topology.waiting(self._bus().nc, active)
        for member in [member for member, number in waiting.items() if number]:
            taken = await topology.empty_inbox(self._bus().nc, member)
            log.info("broker.requeued", member=member, messages=taken)
            await self._write(self._redelivery.hurry, [member], self._clock())
        self._asleep.clear()

    async def _topology_loop(self) -> None:
        trim_at = time.monotonic() + TRIM_EVERY
        while True:
            await asyncio.sleep(RECONCILE_EVERY if self._bus().connected else 0.2)
            try:
                await self._reconcile()
                if self._erased.reports:
                    await self._forget()
                if time.monotonic() > trim_at:
                    trim_at = time.monotonic() + TRIM_EVERY
                    await topology.trim(self._bus().nc, self._ids()[0])
            except Transient as exc:
                log.warning("broker.waiting", why=str(exc))

    async def _reconcile(self) -> None:
        """Bring about the streams; what was lost with one is sent again from the ledger."""
        bus = self._bus()
        self.metrics.link_up.set(bus.connected)
        ids, suspended = self._ids()
        active = [member for member in ids if member not in suspended]
        created = await topology.reconcile(bus.nc, active, replicas=self.config.nats.replicas)
        lost = [member for member in active if any(subjects.inbox_stream(member) in name for name in created)]
        if created:
            log.info("broker.streams_created", streams=len(created))
        if lost:
            await self._write(self._redelivery.hurry, lost, self._clock())
        waiting = await topology.waiting(bus.nc, active)
        back = [member for member in self._asleep if not waiting.get(member)]
        self._asleep = {member for member, number in waiting.items() if number}
        if back:
            await self._write(self._redelivery.hurry, back, self._clock())

    async def _members_loop(self, nats: busside.Servers) -> None:
        """Follow the region's files. A change takes effect as a whole; a broken one is reported and not used."""
        while True:
            await asyncio.sleep(FOLLOW)
            if nats.follow_certificates():
                log.info("nats.certificate_renewed")
            found = members.stamp(self.config.region)
            try:
                if found == self._stamp and not await self.read(self._outdated):
                    if nats.retired != (retired := self._retired()):
                        await nats.set_members(*self._ids(), retired)
                    continue
                self._stamp = found
                state = await self.read(self._load_state)
            except ConfigError as exc:
                log.error("broker.region_refused", why=str(exc))
                continue
            except Transient as exc:
                log.warning("broker.waiting", why=str(exc))
                continue
            before = set(self._ids()[0]) - set(self._ids()[1])
            self._state = state
            ids, suspended = self._ids()
            active = set(ids) - set(suspended)
            # Kept until their inboxes are gone: what fails below is done again from its beginning.
            self._left = (self._left | before) - active
            log.info("broker.region_changed", serial=state.registry.region.serial, stopped=sorted(self._left))
            try:
                await nats.set_members(ids, suspended, self._retired())
                await self._write(self._governor.record, self._state)
                self._records = await self.key.take_up(state.registry.region) or self._records
                await self._sequencer.region_changed()
                for member in sorted(self._left):
                    await topology.purge_inbox(self._bus().nc, member)
                self._left.clear()
                await self._reconcile()
                await self._requeue()
                await self._write(self._redelivery.hurry, sorted(active - before), self._clock())
            except Transient as exc:
                self._stamp = ()
                log.warning("broker.waiting", why=str(exc))

    async def _keys_loop(self) -> None:
        while True:
            self.keys.warn()
            await asyncio.sleep(KEYS_EVERY)

    # --- services -----------------------------------------------------------------------------------------------

    async def _answer(self, subject: str, data: bytes) -> bytes:
        """Request and reply with members: the signed registry, and what a member's inbox may have lost."""
        member, method = subjects.parse_rpc(subject)
        if method == REGION_METHOD:
            return self._governor.document(member)
        if method == MISSED_METHOD:
            return await self.read(missed, self._store, member, data)
        if method == PUBLISH_METHOD:
            return await self._publish(member, data)
        if method == POLICIES_METHOD:
            return await self.read(policies.listed, self._store, data, self._state.registry.view(member))
        if method == GOVERNANCE_METHOD:
            return await self.read(self._governor.listed, member, data)
        if method == OFFER_METHOD:
            return await self.read(self._governor.offered, member, data)
        if method == CLAIM_METHOD:
            accounts = self.nats.accounts if self.nats is not None else None
            signer, registry = sign_with(self._signer), self._state.registry
            return await self.read(busside.claim, self.config, accounts, signer, registry, member, data)
        if method in auditing.METHODS:
            return await self._auditing.answer(member, method, data)
        if method in sequencer.METHODS:
            return await self._sequencer.answer(member, method, data)
        raise ProtocolError(Reason.UNKNOWN_PATH, "$", "no such method")

    async def _publish(self, member: str, data: bytes) -> bytes:
        """A jurisdiction's policy: in the ledger, and in force from its date, when this returns."""
        published = await self._write(policies.take, self._store, member, data, self._state.registry, self._clock())
        if published is not None:
            await self.read(self._take_published)
            policy = published.policy
            log.info("broker.policy", member=member, jurisdiction=policy.jurisdiction, version=policy.version)
            await self._requeue()
        return b"{}"

    def _tell_change(self) -> None:
        self._sequencer.wake()
        self.changed, waiting = asyncio.Event(), self.changed
        waiting.set()
