"""The composition root: everything is made and wired here, opened in order and closed in reverse.

Guarantees: what expired while the node was down is hidden before HTTP serves; HTTP serves before the bus is there, and
reports are accepted offline; the bus is dialled for as long as the process lives; a bug anywhere ends the process with
one log line; SIGTERM and SIGINT finish what was taken. One process a data directory: a second one is refused.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import web

from node import config as files
from node import timers
from node.access import Access, write_uses
from node.api.alarms import Alarms
from node.api.audit import Auditing
from node.api.inbox import Inbox, Listening
from node.api.policy import Explaining
from node.api.reports import Reports
from node.api.review import Review
from node.api.server import Operations, make_app
from node.api.taxii import Taxii
from node.api.taxii_intake import Intake
from node.api.tokens import TokensApi
from node.api.webhooks import Webhooks
from node.auditor import Auditor
from node.buskeys import BusKeys
from node.catchup import Catchup
from node.config import Config
from node.core import NodeCore
from node.dialling import keep_ca, tls_of
from node.feed import Feed
from node.formats import stix
from node.keyage import key_seconds
from node.keywatch import KeyWatch
from node.lookout import Lookout
from node.loops import Committer, Link, Receiver, Refresher, Sender, State, Writer, tidy
from node.metrics import Metrics
from node.outbox import Outbox
from node.policies import Exchange
from node.policyfile import watch_policy
from node.projection import follow
from node.push import Place, make_outputs, targets
from node.renewal import Renewal, load_signer
from node.retention import forget_refused
from node.review import held, refused
from node.store import Event, Store
from node.traces import Paths
from node.trust import Trust
from node.views import iso
from node.witness import Witness
from node.witnessing import Witnessing
from protocol import process, subjects
from protocol.bus import NatsBus
from protocol.door import listen, url_of
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.hsm import HsmKey
from protocol.invitation import load_invitation
from protocol.keys import read_secret
from protocol.policy import Policy, PolicyBook, load_policy
from protocol.reportlog import SILENT, ReportLog, to_stderr
from protocol.sealing import SealingKey
from protocol.tls import server_context
from protocol.tracing import Tracing, open_tracing

log = structlog.get_logger()
Dial = Callable[[Callable[[str], None]], Awaitable[Link]]
"""Connects to the bus and reports its state; raises Transient or ConfigError."""
REGION_FILE: Final = "region.jwt"
URL_FILE: Final = "node.url"
_LONGEST_WAIT: Final = 15.0


Approve = Callable[[Path], None]


def _anything(_: Path) -> None:
    """Every policy that can be read may be published."""


class Node:
    """One running node.

    Args:
        config: what `node.toml` says.
        now: the clock.
        rand: returns that many random bytes.
        dial: connects to the bus; by default to the invitation's server.
        approve: judges a policy file before a new version is signed; raises ConfigError.
        tracing: where spans go; by default as the configuration says.
        reports: takes a line a report and step.
    """

    def __init__(
        self,
        config: Config,
        *,
        now: Callable[[], datetime],
        rand: Callable[[int], bytes],
        dial: Dial | None = None,
        approve: Approve = _anything,
        tracing: Tracing | None = None,
        reports: ReportLog = SILENT,
    ) -> None:
        self._tracing = tracing
        self._reports = reports
        self._approve = approve
        self._config = config
        self._now = now
        self._rand = rand
        self._dial = dial
        self._stop = asyncio.Event()
        self._bugs = process.Bugs()
        self.url = ""
        self.app: web.Application | None = None
        """What is served, once it is made."""
        self.started = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to finish what was taken and return. May be called again."""
        self._stop.set()

    async def run(self) -> None:
        """Run until `stop`.

        Raises:
            ConfigError: a file is missing or wrong.
            ExceptionGroup: a loop or a handler had a bug.
        """
        # Batches make many short-lived objects and no cycles: looking for garbage less often saves a tenth of the time.
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        async with AsyncExitStack() as stack:
            hooks = targets(self._config)
            core, witness = stack.enter_context(_open_core(self._config, self._now, self._rand, self._approve))
            writer = Writer()
            stack.callback(writer.close)
            stack.push_async_callback(_close_link, state := State())
            feed, access = self._door(core)
            keys = KeyWatch(self._config.keys, core, writer, state, self._now)
            tracing, paths = self._trace(stack)
            metrics = Metrics(
                outbox=core.outbox,
                words=core.words,
                link=lambda: state.connected,
                now=self._now,
                alarms=core.open_alarms,
                overdue=core.overdue,
                held=partial(held, core.store),
                refused=partial(refused, core.store),
                keys=lambda: key_seconds(core, self._config.keys / files.NATS_CREDS, self._now),
                oldest_leaf=core.oldest_unproven,
            )
            known = Place(core.store, writer, feed, metrics, self._now, self._rand)
            outputs = make_outputs(self._config, hooks, known)
            committer = Committer(core, writer, state, metrics, paths)
            refresher = Refresher(core, writer, state, self._config.data / REGION_FILE)
            app = make_app(
                access=access,
                reports=Reports(core, committer, metrics, self._now, tracing),
                inbox=Inbox(core, writer, state),
                listening=Listening(feed),
                explaining=Explaining(core, self._now),
                alarms=Alarms(core, writer),
                audit=Auditing(Auditor(core, state), self._now),
                review=Review(core, writer, committer, access, self._now),
                tokens=TokensApi(access, writer),
                webhooks=Webhooks(outputs.hooks),
                operations=Operations(core, writer, state, metrics, self._now, keys.ends),
                metrics=metrics,
                on_bug=self._bugs.hear,
                taxii=self._taxii(core, committer, writer),
            )
            await timers.hide(core, writer, state)
            async with asyncio.TaskGroup() as group:
                group.create_task(committer.run())
                runner = await self._serve(app)
                watching = group.create_task(self._bugs.watch())
                group.create_task(self._stay_linked(core, writer, state))
                for sender in self._senders(core, writer, state, paths):
                    group.create_task(sender.run())
                group.create_task(Receiver(core, writer, state, metrics, refresher, paths).run())
                group.create_task(refresher.run())
                group.create_task(Catchup(core, writer, state, metrics, refresher).run())
                group.create_task(watch_policy(core, writer, state, self._config.policy, self._approve))
                group.create_task(Exchange(core, writer, state).run())
                group.create_task(tidy(core, writer, state))
                witnessing = Witnessing(witness, writer, state, metrics, refresher)
                bus_keys = BusKeys(self._config.keys, core, state, self._now)
                renewal = Renewal(self._config.keys, core, witness, writer, state, refresher, self._now, bus_keys)
                loops = (witnessing.watch(), witnessing.prove(), keys.run(), renewal.run())
                for loop in (*loops, *self._timers(core, writer, state, metrics, access)):
                    group.create_task(loop)
                sending = [group.create_task(loop) for loop in outputs.loops()]
                log.info("node.started", url=self.url, member=core.member, backlog=core.outbox.weight)
                self.started.set()
                try:
                    await self._stop.wait()
                finally:
                    for task in sending:
                        task.cancel()
                    # Listeners go, then requests end, for which the committer must still be there; then the loops.
                    feed.close()
                    await runner.cleanup()
                    state.stop()
                    committer.finish()
                    watching.cancel()
        log.info("node.stopped")

    def _taxii(self, core: NodeCore, committer: Committer, writer: Writer) -> Taxii | None:
        settings = self._config.taxii
        intake = Intake(core, committer, writer, self._now) if settings.intake else None
        return Taxii(settings, core, intake) if settings.enabled else None

    def _door(self, core: NodeCore) -> tuple[Feed, Access]:
        """What is told, and to whom."""
        feed = Feed(core.store, asyncio.get_running_loop())
        core.store.on_events = self._announce(feed)
        access = Access(self._config.tokens, core.store, self._now, self._rand)
        access.on_change = feed.wake
        return feed, access

    def _trace(self, stack: AsyncExitStack) -> tuple[Tracing, Paths]:
        tracing = self._tracing or open_tracing(self._config.tracing, "kentongan-node", self._config.member)
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        return tracing, Paths(tracing)

    def _announce(self, feed: Feed) -> Callable[[Sequence[Event]], None]:
        """Who hears of events that were committed."""
        if not self._reports.on:
            return feed.announce

        def announce(events: Sequence[Event]) -> None:
            feed.announce(events)
            self._reports.events(events, iso)

        return announce

    async def _serve(self, app: web.Application) -> web.AppRunner:
        http = self._config.http
        self.app = app
        tls = server_context(http.tls_cert, http.tls_key, http.client_ca)
        runner = await listen(app, http.host, http.port, tls=tls)
        self.url = url_of(runner, http.host)
        (self._config.data / URL_FILE).write_text(self.url + "\n", encoding="ascii")
        return runner

    async def _stay_linked(self, core: NodeCore, writer: Writer, state: State) -> None:
        """Dial until there is a connection; from then on it heals itself."""
        bell = state.bell()

        def on_state(now: str) -> None:
            state.link_state = now
            log.info("node.link", state=now[:200])
            if now == "connected":
                bell.ring()

        dial = self._dial or self._dial_nats
        wait = 0.5
        while not state.stopping:
            if state.link is not None:
                # The core is moved on the writer's thread only; `on_state` may be called anywhere.
                await writer.run(core.link_is_up)
                state.ring_linked()
                await bell.wait(None)
                continue
            try:
                state.link = await dial(on_state)
            except (Transient, ConfigError) as exc:
                # Refused credentials also pass: the operator may lift a suspension, or put new credentials in place.
                state.link_state = "refused" if isinstance(exc, ConfigError) else "unreachable"
                log.warning("node.no_link", state=state.link_state, detail=str(exc)[:300])
                await bell.wait(wait * (0.75 + self._rand(1)[0] / 512))
                wait = min(wait * 2, _LONGEST_WAIT)

    async def _dial_nats(self, on_state: Callable[[str], None]) -> Link:
        config = self._config
        invitation = load_invitation(config.invitation)
        if not (config.keys / files.NATS_CA).exists():
            keep_ca(config.keys, invitation.ca)
        return await NatsBus.connect(
            invitation.url,
            creds=config.keys / files.NATS_CREDS,
            name=config.member,
            stream=subjects.inbox_stream(config.member),
            consumer=subjects.NODE_CONSUMER,
            tls=tls_of(config, invitation),
            on_state=on_state,
        )

    def _timers(
        self, core: NodeCore, writer: Writer, state: State, metrics: Metrics, access: Access
    ) -> list[Coroutine[Any, Any, None]]:
        projecting = [follow(core, writer, state, stix.objects_of, self._now)] if self._config.taxii.enabled else []
        return [
            *projecting,
            timers.expire(core, writer, state, self._now),
            timers.escalate(core, writer, state, metrics, self._config.escalation, self._now),
            timers.remind(core, state),
            forget_refused(core.store, writer, state, metrics, self._config.review.refused_days, self._now),
            write_uses(access, writer, state),
        ]

    def _senders(self, core: NodeCore, writer: Writer, state: State, paths: Paths) -> list[Sender]:
        def seconds_to(box: Outbox) -> Callable[[], float | None]:
            def seconds() -> float | None:
                due = box.next_due()
                return max(0.0, (due - self._now()).total_seconds()) if due else None

            return seconds

        return [
            Sender(
                subjects.Kind.SUBMISSION,
                state,
                writer,
                state.filed,
                take=core.outgoing,
                tried=core.tried,
                next_due=seconds_to(core.outbox),
                paths=paths,
            ),
            Sender(
                subjects.Kind.CONFIRMATIONS,
                state,
                writer,
                state.said,
                take=core.outgoing_words,
                tried=core.tried_words,
                next_due=seconds_to(core.words),
                paths=paths,
            ),
        ]


@contextmanager
def _open_core(
    config: Config, now: Callable[[], datetime], rand: Callable[[int], bytes], approve: Approve
) -> Iterator[tuple[NodeCore, Witness]]:
    """Everything that is on this machine: keys, policy, region, store."""
    invitation = load_invitation(config.invitation)
    if invitation.member != config.member:
        raise ConfigError(f"{config.invitation} is for {invitation.member}, this node is {config.member}")
    policy = _read_policy(config.policy)
    fingerprint_key = read_secret(config.keys / files.FINGERPRINT_KEY)
    trust = Trust.invited(invitation, now)
    with ExitStack() as stack:
        signer = load_signer(config)
        if isinstance(signer, HsmKey):
            stack.callback(signer.close)
        store = Store.open(config.data, config.store)
        stack.callback(store.close)
        stack.enter_context(process.alone(config.data))
        _take_cached_region(trust, store, config.data / REGION_FILE)
        own = trust.registry.members.get(config.member)
        if own is not None and own.jurisdiction != config.jurisdiction:
            raise ConfigError(f"node.toml says jurisdiction {config.jurisdiction}, the region says {own.jurisdiction}")
        if own is None or signer.kid not in {record.kid for record in own.keys}:
            log.warning("node.key_unknown", kid=signer.kid, hint="hand member.json to the broker's operator")
        core = NodeCore(
            member=config.member,
            jurisdiction=config.jurisdiction,
            store=store,
            signer=signer,
            fingerprint_key=fingerprint_key,
            trust=trust,
            book=PolicyBook([]),
            now=now,
            rand=rand,
            backlog=config.backlog,
            sealing_keys=[SealingKey.load(path) for path in sorted(config.keys.glob(files.SEALING_KEYS))],
        )
        core.adopt(policy, config.policy.name, lambda: approve(config.policy))
        witness = Witness(
            member=config.member,
            store=store,
            trust=trust,
            signer=signer,
            public=signer.public,
            lookout=Lookout(store, core.outbox, config.log, now),
            now=now,
        )
        yield core, witness


async def _close_link(state: State) -> None:
    if state.link is not None:
        await state.link.close()


def _read_policy(path: Path) -> Policy:
    try:
        return load_policy(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the sharing policy {path} cannot be read: {exc}") from exc


def _take_cached_region(trust: Trust, store: Store, path: Path) -> None:
    """The last region document that came over the bus, if it is newer than the invitation's."""
    with store.read() as reads:
        records = [row.record for row in reads.governance()]
    try:
        trust.update(path.read_bytes(), records)
    except FileNotFoundError:
        return
    except ProtocolError as exc:
        log.warning("node.cached_region_refused", reason=exc.reason.value)


# --- the process ------------------------------------------------------------------------------------------------


def run(config: Config, approve: Approve = _anything) -> int:
    """Run a node in this process until SIGTERM or SIGINT; returns the exit code, or raises as `Node.run` does."""
    process.configure_logging()
    process.run(_run_until_signal(config, approve))
    return 0


async def _run_until_signal(config: Config, approve: Approve) -> None:
    reports = to_stderr(config.logging)
    node = Node(config, now=lambda: datetime.now(UTC), rand=secrets.token_bytes, approve=approve, reports=reports)
    process.on_stop(node.stop)
    await node.run()
