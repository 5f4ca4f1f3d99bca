"""What runs beside the HTTP server: committing, sending, receiving, refreshing.

Guarantees: each loop ends only when told to stop, or with a bug, which ends the process. A message is acknowledged only
after its commit. Nothing taken is dropped at a stop: the committer empties its queue. A passing fault (`Transient`) is
waited out. Logs hold numbers and reasons.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Annotated, Final, Protocol, TypeVar

import msgspec
import structlog
from msgspec import Meta, Struct

from node.answers import Answer, state_of
from node.core import NodeCore
from node.filing import Reply
from node.governed import shows_more
from node.intake import Posting
from node.metrics import Metrics
from node.opening import Opened
from node.outbox import Outgoing
from node.traces import Paths
from node.trust import head_in
from protocol import subjects
from protocol.errors import ProtocolError, Transient
from protocol.parse import decode
from protocol.tracing import tick
from protocol.transport import Bus, Message

T = TypeVar("T")
log = structlog.get_logger()

BATCH: Final = 256
"""Filings in one transaction."""
AT_ONCE: Final = 8
"""Publishes in flight."""
PULL: Final = 32
"""Messages of one round: verifying them must not keep confirmations waiting."""
PULL_WAIT: Final = 1.0
PAUSE: Final = 0.5
"""Seconds after a passing fault."""
GOVERNANCE: Final = "governance.list"
REGION_EVERY: Final = 60.0
REQUEST_TIMEOUT: Final = 5.0
TIDY_EVERY: Final = 3_600.0


class Listed(Struct, frozen=True, forbid_unknown_fields=True):
    """A governance record, and its leaf in the log."""

    record: str
    leaf: Annotated[int, Meta(ge=0, lt=2**62)]


class Records(Struct, frozen=True, forbid_unknown_fields=True):
    """The governance records after a number."""

    records: list[Listed]


_records: Final = msgspec.json.Decoder(Records)


class Link(Bus, Protocol):
    """The bus, with the broker's services."""

    @property
    def connected(self) -> bool: ...
    async def request(self, subject: str, data: bytes, timeout: float) -> bytes: ...  # noqa: ASYNC109 - one timer a call
    async def renew(self) -> None: ...
    async def close(self) -> None: ...


class Wake:
    """A bell: whoever waits goes on when it rings, or after a while."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Let the waiter go on; remembered if nobody waits."""
        self._event.set()

    async def wait(self, seconds: float | None) -> None:
        """Wait for the bell."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


class Writer:
    """The one thread that writes to the store and moves the core."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="node-writer")

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Do it on that thread, after all that was asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: work(*args))

    def close(self) -> None:
        """End the thread after what it was asked to do."""
        self._executor.shutdown(wait=True)


class State:
    """What the loops share: the link, whether to stop, and what an operator wants to know."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self.link_state = "connecting"
        self.stopping = False
        self.region_at: float | None = None
        """When a region document was last fetched (monotonic)."""
        self.region_asked = False
        """Whether the broker has answered what the region is, since the start; also if that was refused."""
        self.policy_fault = ""
        self.filed = Wake()
        self.said = Wake()
        self.linked = Wake()
        self.idle = Wake()
        self._bells = [self.filed, self.said, self.linked, self.idle]
        self._on_link: list[Wake] = []
        self._on_policy: list[Wake] = []
        self._on_arrival: list[Wake] = []

    @property
    def connected(self) -> bool:
        """Whether the bus is there."""
        return self.link is not None and self.link.connected

    def bell(self) -> Wake:
        """A bell that also rings at the stop."""
        made = Wake()
        self._bells.append(made)
        return made

    def on_link(self, bell: Wake) -> None:
        """Ring this bell whenever the link comes up."""
        self._on_link.append(bell)

    def on_policy(self, bell: Wake) -> None:
        """Ring this bell whenever the own policy changes."""
        self._on_policy.append(bell)

    def on_arrival(self, bell: Wake) -> None:
        """Ring this bell whenever messages were taken in."""
        self._on_arrival.append(bell)

    def ring_arrival(self) -> None:
        """Messages were taken in."""
        for bell in self._on_arrival:
            bell.ring()

    def ring_policy(self) -> None:
        """The own policy has changed."""
        for bell in self._on_policy:
            bell.ring()

    def ring_linked(self) -> None:
        """The link is up (again)."""
        self.linked.ring()
        self.ring_senders()
        for bell in self._on_link:
            bell.ring()

    def stop(self) -> None:
        """Tell all loops."""
        self.stopping = True
        for bell in self._bells:
            bell.ring()

    def ring_senders(self) -> None:
        """Something is to be sent, or can be sent again."""
        self.filed.ring()
        self.said.ring()


class Committer:
    """Group commit: whatever waits when a transaction ends goes into the next one. Nothing lingers for company."""

    def __init__(self, core: NodeCore, writer: Writer, state: State, metrics: Metrics, paths: Paths) -> None:
        self._core = core
        self._paths = paths
        self._writer = writer
        self._state = state
        self._metrics = metrics
        self._queue: asyncio.Queue[tuple[Posting, asyncio.Future[Reply]] | None] = asyncio.Queue()

    async def submit(self, posting: Posting) -> Reply:
        """Commit a posting; returns when it is on disk.

        Raises:
            Transient: the disk is full; nothing was taken.
        """
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((posting, future))
        return await future

    def finish(self) -> None:
        """End `run` once the queue is empty; call after the last `submit`."""
        self._queue.put_nowait(None)

    async def run(self) -> None:
        """Commit until `finish`."""
        ended = False
        while not ended:
            first = await self._queue.get()
            if first is None:
                return
            batch = [first]
            items = len(first[0].items)
            while items < BATCH and not self._queue.empty():
                found = self._queue.get_nowait()
                if found is None:
                    ended = True
                    break
                batch.append(found)
                items += len(found[0].items)
            await self._commit(batch)

    async def _commit(self, batch: Sequence[tuple[Posting, asyncio.Future[Reply]]]) -> None:
        began = monotonic()
        try:
            postings = [posting for posting, _ in batch]
            if self._paths.tracing.on:
                replies = await self._writer.run(self._paths.file, self._core, postings)
            else:
                replies = await self._writer.run(self._core.file, postings)
        except BaseException as exc:
            for _, future in batch:
                if not future.done():
                    future.set_exception(exc if isinstance(exc, Transient) else Transient("the node is going down"))
            if isinstance(exc, Transient):
                log.error("node.commit_failed", postings=len(batch), detail=str(exc))
                return
            raise
        for (_, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)
        self._state.filed.ring()
        self._tell(replies, monotonic() - began)

    def _tell(self, replies: Sequence[Reply], seconds: float) -> None:
        counts: Counter[tuple[str, str]] = Counter()
        for reply in replies:
            for result in reply.results if isinstance(reply, Answer) else (reply,):
                if isinstance(result, ProtocolError):
                    counts["refused", result.reason.value] += 1
                elif result.replayed:
                    counts["replayed", ""] += 1
                else:
                    counts[state_of(result), ""] += 1
        for (outcome, reason), number in counts.items():
            self._metrics.filed.labels(outcome, reason).inc(number)
        said = {f"{outcome}:{reason}" if reason else outcome: number for (outcome, reason), number in counts.items()}
        log.info("node.committed", postings=len(replies), ms=round(seconds * 1000, 1), **said)


class Sender:
    """Publishes what is due, and keeps doing so until it is settled.

    Args:
        take: gives up to so many messages that are due; runs on the writer's thread.
        tried: hears what became of them.
        next_due: seconds until something is due, None if nothing waits.
        bell: rings when there is something new.
        paths: what led to what, for traces.
    """

    def __init__(
        self,
        kind: subjects.Kind,
        state: State,
        writer: Writer,
        bell: Wake,
        *,
        take: Callable[[int], list[Outgoing]],
        tried: Callable[[Sequence[int], Sequence[int]], None],
        next_due: Callable[[], float | None],
        paths: Paths,
    ) -> None:
        self._paths = paths
        self._kind = kind
        self._state = state
        self._writer = writer
        self._bell = bell
        self._take = take
        self._tried = tried
        self._next_due = next_due

    async def run(self) -> None:
        """Send until the stop."""
        while not self._state.stopping:
            link = self._state.link
            if link is None or not link.connected:
                await self._bell.wait(PAUSE)
                continue
            try:
                work = await self._writer.run(self._take, AT_ONCE)
            except Transient as exc:
                log.warning("node.not_sent", kind=self._kind.value, detail=str(exc)[:200])
                await self._bell.wait(PAUSE)
                continue
            if not work:
                await self._bell.wait(await self._writer.run(self._next_due))
                continue
            stored = await asyncio.gather(*(self._publish(link, message) for message in work))
            good = [number for message, ok in zip(work, stored, strict=True) if ok for number in message.numbers]
            bad = [number for message, ok in zip(work, stored, strict=True) if not ok for number in message.numbers]
            await self._writer.run(self._tried, good, bad)
            if bad:
                await self._bell.wait(PAUSE)

    async def _publish(self, link: Link, message: Outgoing) -> bool:
        try:
            if self._paths.tracing.on:
                span = self._paths.publishing(self._kind, message)
                try:
                    await link.publish(subjects.INTAKE, self._kind, message.data, trace=span.header)
                finally:
                    span.end()
            else:
                await link.publish(subjects.INTAKE, self._kind, message.data)
        except Transient as exc:
            log.warning("node.not_sent", kind=self._kind.value, size=len(message.data), detail=str(exc)[:200])
            return False
        except ProtocolError as exc:
            # The server's payload limit is below the protocol's: nothing else is held up by it.
            log.error("node.not_sendable", kind=self._kind.value, size=len(message.data), reason=exc.reason.value)
            return False
        log.info("node.sent", kind=self._kind.value, bytes=len(message.data), submission=message.digest or None)
        return True


class Receiver:
    """Reads the inbox stream: verify, commit, acknowledge."""

    def __init__(
        self, core: NodeCore, writer: Writer, state: State, metrics: Metrics, refresh: Refresher, paths: Paths
    ) -> None:
        self._paths = paths
        self._core = core
        self._writer = writer
        self._state = state
        self._metrics = metrics
        self._refresh = refresh

    async def run(self) -> None:
        """Receive until the stop."""
        bell = self._state.bell()
        while not self._state.stopping:
            link = self._state.link
            if link is None or not link.connected:
                await bell.wait(PAUSE)
                continue
            try:
                messages = await link.pull(PULL, PULL_WAIT)
                if messages:
                    await self._round(link, messages)
            except Transient as exc:
                log.warning("node.not_received", detail=str(exc)[:200])
                await bell.wait(PAUSE)

    async def _round(self, link: Link, messages: Sequence[Message]) -> None:
        began, began_ns = monotonic(), tick()
        opened = await asyncio.to_thread(self._core.open, messages)
        left = await self._open_again(messages, opened) if opened.again else set()
        taken = await self._writer.run(self._core.take_in, opened)
        if taken.to_send:
            self._state.said.ring()
        self._state.ring_arrival()
        await link.ack([message for index, message in enumerate(messages) if index not in left])
        self._metrics.count(taken.counts, taken.steps)
        if self._paths.tracing.on:
            self._paths.received(messages, taken, began_ns)
        for seconds in taken.seconds:
            self._metrics.receipt_seconds.observe(seconds)
        said = {f"{what}:{reason}" if reason else what: number for (what, reason), number in taken.counts.items()}
        known = {"messages": len(messages), "ms": round((monotonic() - began) * 1000, 1), "again": len(left)}
        tell = log.warning if any(what == "alarm" for what, _ in taken.counts) else log.info
        tell("node.received", **known, **said)

    async def _open_again(self, messages: Sequence[Message], opened: Opened) -> set[int]:
        """A key is unknown: look at the region as it is now. Returns what must be left for redelivery."""
        try:
            await self._refresh.once()
        except Transient:
            return set(opened.again)
        again = [messages[index] for index in opened.again]
        opened.pieces += (await asyncio.to_thread(self._core.open, again, region_is_fresh=True)).pieces
        return set()


class Refresher:
    """Keeps the region document current, in memory and in a file for starts without a link.

    Args:
        cache: that file.
    """

    def __init__(self, core: NodeCore, writer: Writer, state: State, cache: Path) -> None:
        self._core = core
        self._writer = writer
        self._state = state
        self._cache = cache

    async def once(self) -> None:
        """Ask the broker now.

        Raises:
            Transient: no answer.
        """
        link = self._state.link
        if link is None or not link.connected:
            raise Transient("not connected to the bus")
        try:
            document = await link.request(subjects.rpc("region"), b"", REQUEST_TIMEOUT)
            listed = await self._records(link, head_in(document.decode("ascii", "replace")).number)
            changed = await self._writer.run(self._core.take_region, document, listed)
        except ProtocolError as exc:
            self._state.region_asked = True
            log.error("node.region_refused", reason=exc.reason.value)
            return
        self._state.region_asked = True
        self._state.region_at = monotonic()
        if changed:
            await asyncio.to_thread(_replace, self._cache, document)
            region = self._core.trust.registry.region
            log.info("node.region", serial=region.serial, members=len(region.members))

    async def _records(self, link: Link, number: int) -> list[tuple[str, int]]:
        """The governance records up to a number that are not here yet, as far as the broker shows them."""
        found = await self._listed(link, await self._writer.run(self._core.governed_to), number)
        if shows_more(text for text, _ in found):
            return await self._listed(link, -1, number)
        return found

    async def _listed(self, link: Link, after: int, number: int) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while after + len(found) < number:
            question = msgspec.json.encode({"after": after + len(found)})
            data = await link.request(subjects.rpc(GOVERNANCE), question, REQUEST_TIMEOUT)
            page = decode(_records, data).records
            if not page:
                break
            found += [(one.record, one.leaf) for one in page]
        return found

    async def run(self) -> None:
        """Refresh until the stop."""
        while not self._state.stopping:
            try:
                await self.once()
            except Transient:
                await self._state.linked.wait(PAUSE * 4)
            else:
                await self._state.linked.wait(REGION_EVERY)


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(path)


async def tidy(core: NodeCore, writer: Writer, state: State) -> None:
    """Drop now and then what is only kept for a while."""
    bell = state.bell()
    while not state.stopping:
        try:
            await writer.run(core.tidy)
        except Transient as exc:
            log.warning("node.not_tidied", detail=str(exc))
        await bell.wait(TIDY_EVERY)
