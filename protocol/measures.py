"""What node and broker show to Prometheus alike: the process, the build, and how long keys last.

Guarantees: label values are versions, member ids and the three uses of a key.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class Read(Collector):
    """A gauge whose values are looked up at each scrape, so that a restart does not lose them."""

    def __init__(self, name: str, text: str, labels: Sequence[str], read: Callable[[], Mapping[Any, float]]) -> None:
        self._name, self._text, self._labels, self._read = name, text, labels, read

    def collect(self) -> Iterator[Metric]:
        """One family."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for values, number in self._read().items():
            family.add_metric(values, number)
        yield family


def version() -> str:
    """Of the installed program."""
    try:
        return metadata.version("kentongan")
    except metadata.PackageNotFoundError:
        return "unknown"


def show_process(registry: CollectorRegistry, side: str, schema: int) -> None:
    """The process's own figures (`process_…`), and what it runs.

    Args:
        side: node or broker.
        schema: of its store.
    """
    ProcessCollector(registry=registry)
    labels = {"version": version(), "python": platform.python_version(), "schema": str(schema)}
    text = "1; what runs stands in the labels"
    Gauge(f"kentongan_{side}_build_info", text, list(labels), registry=registry).labels(**labels).set(1)
