"""The node's figures for Prometheus, in a registry of their own. Labels are reason codes and statuses, never ids."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from node.outbox import Outbox
from node.witness import Standing

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)


class _Kept(Collector):
    """A gauge whose values stand in the store, so that a restart does not lose them; read at each scrape."""

    def __init__(self, name: str, text: str, labels: Sequence[str], read: Callable[[], Mapping[Any, int]]) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for values, number in self._read().items():
            family.add_metric(values, number)
        yield family


class Metrics:
    """All figures of one node.

    Args:
        outbox, words: read at each scrape.
        link: tells whether the bus is there.
        now: the clock.
        alarms, overdue: read at each scrape, see `NodeCore`.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        words: Outbox,
        link: Callable[[], bool],
        now: Callable[[], datetime],
        alarms: Callable[[], Mapping[str, int]] = dict,
        overdue: Callable[[], Mapping[Any, int]] = dict,
    ) -> None:
        self.registry = CollectorRegistry()
        self.filed = Counter(
            "kentongan_node_filed", "Reports posted, by outcome", ["outcome", "reason"], registry=self.registry
        )
        self.handled = Counter(
            "kentongan_node_handled",
            "What the broker sent, by kind and reason: receipts, others' reports, confirmations, alarms",
            ["what", "reason"],
            registry=self.registry,
        )
        self.requests = Counter("kentongan_node_http_requests", "HTTP requests", ["status"], registry=self.registry)
        self.commit_seconds = Histogram(
            "kentongan_node_post_to_commit_seconds", "From POST to 202", buckets=_SECONDS, registry=self.registry
        )
        self.receipt_seconds = Histogram(
            "kentongan_node_commit_to_receipt_seconds", "From 202 to receipt", buckets=_SECONDS, registry=self.registry
        )
        self.cosigned = Counter(
            "kentongan_node_cosigned", "Checkpoints of the log that this node has cosigned", registry=self.registry
        )
        self.log_refused = Counter(
            "kentongan_node_log_refused",
            "What the log said and this node did not take",
            ["reason"],
            registry=self.registry,
        )
        self.proof_seconds = Histogram(
            "kentongan_node_proof_seconds",
            "From receipt or delivery to its proof in the log",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._log = {
            name: Gauge(f"kentongan_node_{name}", text, registry=self.registry)
            for name, text in (
                ("log_verified_size", "Leaves under the newest checkpoint that this node verified"),
                ("log_published_size", "Leaves under the newest checkpoint with its quorum of witnesses"),
                ("leaves_waiting", "Receipts and deliveries that are not proven yet"),
                ("leaves_missing", "Receipts and deliveries that the log does not prove"),
            )
        }
        self.escalations = Counter(
            "kentongan_node_escalations", "Readings that became overdue", ["side", "severity"], registry=self.registry
        )
        self.webhooks = Counter(
            "kentongan_node_webhooks", "Attempts to send an event", ["webhook", "outcome"], registry=self.registry
        )
        self.webhook_oldest, self.webhook_disabled, self.syslog_oldest = (
            Gauge(f"kentongan_node_{name}", text, [label], registry=self.registry)
            for name, text, label in (
                ("webhook_oldest_seconds", "Age of the event that cannot be sent", "webhook"),
                ("webhook_disabled", "1 while a webhook waits for somebody to enable it", "webhook"),
                ("syslog_oldest_seconds", "Age of the event that cannot be sent", "syslog"),
            )
        )
        self.syslogs = Counter(
            "kentongan_node_syslog", "Events sent to syslog, and faults", ["syslog", "outcome"], registry=self.registry
        )
        self.registry.register(
            _Kept(
                "kentongan_node_alarms_open",
                "Alarms that nobody has cleared",
                ["reason"],
                lambda: {(reason,): number for reason, number in alarms().items()},
            )
        )
        self.registry.register(
            _Kept("kentongan_node_unread", "Readings that are overdue", ["side", "severity"], overdue)
        )

        def age(box: Outbox) -> float:
            oldest = box.oldest()
            return (now() - oldest).total_seconds() if oldest else 0.0

        for name, text, read in (
            ("outbox_reports", "Reports without a receipt", lambda: float(outbox.weight)),
            ("outbox_oldest_seconds", "Age of the oldest submission without a receipt", lambda: age(outbox)),
            ("confirmations_unsent", "Confirmations that the broker has not noted", lambda: float(len(words))),
            ("link_up", "1 while the bus is connected", lambda: float(link())),
        ):
            Gauge(f"kentongan_node_{name}", text, registry=self.registry).set_function(read)

    def count(self, counts: Counts[tuple[str, str]]) -> None:
        """Add what a batch of messages came to."""
        for (what, reason), number in counts.items():
            self.handled.labels(what, reason).inc(number)

    def stands(self, log: Standing) -> None:
        """Show where the witness stands."""
        self._log["log_verified_size"].set(log.verified)
        self._log["log_published_size"].set(log.published)
        self._log["leaves_waiting"].set(log.waiting)
        self._log["leaves_missing"].set(log.missing)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
