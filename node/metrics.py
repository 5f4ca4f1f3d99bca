"""The node's figures for Prometheus, in a registry of their own. Labels are reason codes and statuses, never ids."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from node.outbox import Outbox

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)


class Metrics:
    """All figures of one node.

    Args:
        outbox, words: read at each scrape.
        link: tells whether the bus is there.
        now: the clock.
    """

    def __init__(self, *, outbox: Outbox, words: Outbox, link: Callable[[], bool], now: Callable[[], datetime]) -> None:
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

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
