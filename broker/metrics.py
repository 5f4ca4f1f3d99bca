"""What the broker shows to Prometheus. Labels are reason codes, outcomes and member ids: never content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as _generate

from broker.ingest import Work
from broker.migrations import SCHEMA
from protocol.measures import Read, show_process
from protocol.subjects import stored_at
from protocol.transport import Message

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)


class Metrics:
    """The broker's counters, in a registry of their own."""

    def __init__(self, keys: Callable[[], Mapping[tuple[str, str], float]] = dict) -> None:
        self.registry = CollectorRegistry()
        show_process(self.registry, "broker", SCHEMA.number)
        text = "Seconds until the last key ends, of members, and of the broker as `broker`"
        self.registry.register(Read("kentongan_broker_key_expiry_seconds", text, ["member", "use"], keys))
        self._steps = Histogram(
            "kentongan_broker_step_seconds",
            "Steps of a batch: verify, decide, commit",
            ["step"],
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._intake = Histogram(
            "kentongan_broker_intake_seconds",
            "From the bus's store to the commit",
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._pending = Gauge(
            "kentongan_broker_intake_pending", "Messages that wait in the intake", registry=self.registry
        )
        self.send_seconds = Histogram(
            "kentongan_broker_send_seconds",
            "From the commit to the recipient's inbox on the bus",
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self.log_cosigned = Gauge(
            "kentongan_broker_log_cosigned_size",
            "Leaves under the newest checkpoint that a member has cosigned since the start",
            ["member"],
            registry=self.registry,
        )
        self._reports = Counter(
            "kentongan_broker_reports_total", "Reports decided", ["outcome", "reason"], registry=self.registry
        )
        self._replays = Counter(
            "kentongan_broker_replays_total", "Submissions answered from the ledger", registry=self.registry
        )
        self._links = Counter("kentongan_broker_links_total", "Links found", registry=self.registry)
        self._confirmations = Counter(
            "kentongan_broker_confirmations_total", "Reports confirmed", ["state"], registry=self.registry
        )
        self._stopped = Counter(
            "kentongan_broker_stopped_total", "Queued reports that policy stopped", ["reason"], registry=self.registry
        )
        self.sends = Counter(
            "kentongan_broker_messages_sent_total", "Messages stored in inboxes", ["kind"], registry=self.registry
        )
        self.send_failures = Counter(
            "kentongan_broker_send_failures_total", "Messages that the bus did not take", registry=self.registry
        )
        self.batch_seconds = Histogram(
            "kentongan_broker_batch_seconds", "Verify, decide, commit", registry=self.registry, buckets=_BUCKETS
        )
        self.confirm_seconds = Histogram(
            "kentongan_broker_delivery_seconds",
            "From commit to the recipient's confirmation",
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._backlog = Gauge(
            "kentongan_broker_backlog_deliveries", "Deliveries not confirmed", ["member"], registry=self.registry
        )
        self._oldest = Gauge(
            "kentongan_broker_backlog_oldest_seconds",
            "Age of the oldest delivery not confirmed",
            ["member"],
            registry=self.registry,
        )
        self.link_up = Gauge("kentongan_broker_bus_up", "1 while the bus is reachable", registry=self.registry)
        self.signing_up = Gauge("kentongan_broker_signing_up", "1 while the broker can sign", registry=self.registry)
        self.claims_behind = Gauge(
            "kentongan_broker_claims_behind",
            "Accounts that a server of the bus does not know as they are now",
            registry=self.registry,
        )
        self.quarantined = Gauge(
            "kentongan_broker_quarantine_messages", "Messages in quarantine", registry=self.registry
        )
        self.log_size = Gauge("kentongan_broker_log_size", "Leaves under the newest checkpoint", registry=self.registry)
        self.log_published_size = Gauge(
            "kentongan_broker_log_published_size",
            "Leaves under the newest published checkpoint",
            registry=self.registry,
        )
        self.log_lag = Gauge(
            "kentongan_broker_log_lag_seconds",
            "Age of the oldest decision that no published checkpoint covers",
            registry=self.registry,
        )
        self.log_cosignatures = Counter(
            "kentongan_broker_log_cosignatures_total", "Cosignatures taken", ["member"], registry=self.registry
        )
        self.log_refused = Counter(
            "kentongan_broker_log_cosignatures_refused_total",
            "Cosignatures refused",
            ["reason"],
            registry=self.registry,
        )
        self.log_quorum_seconds = Histogram(
            "kentongan_broker_log_quorum_seconds",
            "From signing a checkpoint to its quorum",
            registry=self.registry,
            buckets=_BUCKETS,
        )

    def count(self, work: Work, seconds: float) -> None:
        """Count a batch."""
        self.batch_seconds.observe(seconds)
        for (outcome, reason), number in work.counts.items():
            self._reports.labels(outcome, reason).inc(number)
        for (_, since), (step, until) in zip(work.marks, work.marks[1:], strict=False):
            self._steps.labels(step).observe(max(0, until - since) / 1e9)
        self._replays.inc(work.replays)
        self._links.inc(work.links)
        for _, state, number in work.answers.states:
            self._confirmations.labels(state).inc(number)
        for waited in work.answers.seconds:
            self.confirm_seconds.observe(waited)

    def count_intake(self, batch: Sequence[Message], now_ns: int) -> None:
        """Count how long messages were on their way to the commit, and what waits behind them."""
        for message in batch:
            stored = stored_at(message.reply)
            if stored is not None:
                self._intake.observe(max(0, now_ns - stored[0]) / 1e9)
                self._pending.set(stored[1])

    def count_stopped(self, reason: str) -> None:
        """Count a report that is no longer delivered."""
        self._stopped.labels(reason).inc()

    def show_backlog(self, backlog: Mapping[str, tuple[int, int]], now_ms: int) -> None:
        """Set the backlog gauges."""
        self._backlog.clear()
        self._oldest.clear()
        for member, (number, oldest) in backlog.items():
            self._backlog.labels(member).set(number)
            self._oldest.labels(member).set(max(0, now_ms - oldest) / 1000)

    def render(self) -> bytes:
        """The exposition text."""
        return _generate(self.registry)
