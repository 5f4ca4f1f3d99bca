"""The node's figures for Prometheus, in a registry of their own. Labels are reason codes and statuses, never ids."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from node.migrations import SCHEMA
from node.outbox import Outbox, Waiting
from node.witness import Standing
from protocol.measures import Read, show_process
from protocol.reasons import Reason

_STATES = ("received", "refused", "read", "acting", "closed", "expired", "strong", "weak", "")
_REASONS = frozenset((*_STATES, *(reason.value for reason in Reason)))
"""The labels that there are for what others say: reason codes, states, and how strong a link is."""
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)


class Metrics:
    """All figures of one node.

    Args:
        outbox, words: read at each scrape.
        link: tells whether the bus is there.
        now: the clock.
        alarms, overdue: read at each scrape, see `NodeCore`.
        keys: seconds until each own key ends, by its use.
        oldest_leaf: since when the oldest thing waits that the log does not prove yet, in microseconds since 1970.
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
        held: Callable[[], int] = int,
        refused: Callable[[], int] = int,
        keys: Callable[[], Mapping[tuple[str], float]] = dict,
        oldest_leaf: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.registry = CollectorRegistry()
        show_process(self.registry, "node", SCHEMA.number)
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
        self.review_erased = Counter(
            "kentongan_node_review_erased", "Refused filings whose content was erased", registry=self.registry
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
            Read(
                "kentongan_node_alarms_open",
                "Alarms that nobody has cleared",
                ["reason"],
                lambda: {(reason,): number for reason, number in alarms().items()},
            )
        )
        self.registry.register(
            Read("kentongan_node_unread", "Readings that are overdue", ["side", "severity"], overdue)
        )
        self._show_steps(outbox, words, now)
        self.registry.register(
            Read("kentongan_node_key_expiry_seconds", "Seconds until an own key ends", ["use"], keys)
        )

        def unproven() -> float:
            since = oldest_leaf()
            return 0.0 if since is None else max(0.0, now().timestamp() - since / 1_000_000)

        def age(box: Outbox) -> float:
            oldest = box.oldest()
            return (now() - oldest).total_seconds() if oldest else 0.0

        for name, text, read in (
            ("outbox_reports", "Reports without a receipt", lambda: float(outbox.weight)),
            ("outbox_oldest_seconds", "Age of the oldest submission without a receipt", lambda: age(outbox)),
            ("confirmations_unsent", "Confirmations that the broker has not noted", lambda: float(len(words))),
            ("review_held", "Filings that wait for a person to release them", lambda: float(held())),
            ("review_refused", "Refused filings whose content is still here", lambda: float(refused())),
            ("log_oldest_seconds", "Age of the oldest receipt or delivery that the log does not prove yet", unproven),
            ("link_up", "1 while the bus is connected", lambda: float(link())),
        ):
            Gauge(f"kentongan_node_{name}", text, registry=self.registry).set_function(read)

    def _show_steps(self, outbox: Outbox, words: Outbox, now: Callable[[], datetime]) -> None:
        """Times that the outboxes know."""
        published = Histogram(
            "kentongan_node_commit_to_published_seconds",
            "From the commit to the bus's store, of submissions and confirmations",
            ["what"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        answered = Histogram(
            "kentongan_node_published_to_answer_seconds",
            "From the bus's store to the broker's word, of submissions and confirmations",
            ["what"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        for box, what in ((outbox, "submission"), (words, "confirmation")):
            seen = answered.labels(what)

            def settled(found: Waiting, seen: Histogram = seen) -> None:
                if found.published is not None:
                    seen.observe(max(0.0, (now() - found.published).total_seconds()))

            box.on_published = published.labels(what).observe
            box.on_settled = settled
        self._bus = Histogram(
            "kentongan_node_broker_to_here_seconds",
            "From the broker's decision to its receipt or the report here, by both clocks",
            ["what"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def count(self, counts: Counts[tuple[str, str]], steps: Sequence[tuple[str, float]] = ()) -> None:
        """Add what a batch of messages came to."""
        for (what, reason), number in counts.items():
            # Reasons come from others, who could think up ever new ones.
            self.handled.labels(what, reason if reason in _REASONS else "other").inc(number)
        for what, seconds in steps:
            self._bus.labels(what).observe(max(0.0, seconds))

    def stands(self, log: Standing) -> None:
        """Show where the witness stands."""
        self._log["log_verified_size"].set(log.verified)
        self._log["log_published_size"].set(log.published)
        self._log["leaves_waiting"].set(log.waiting)
        self._log["leaves_missing"].set(log.missing)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
