"""OpenTelemetry traces, off unless an operator turns them on; the only file that knows the library.

Guarantees: nothing is imported, made or sent while they are off. A trace id never crosses two borders: every message
on the bus opens a trace of its own, with fresh random ids, which says to its receiver nothing that the message does not
say itself; what led to it stands in a *link*, which is exported to the own collector and never sent. So a recipient
cannot tell by trace ids which deliveries come from one batch or one origin, and the broker not which submissions come
from one client. What others send as trace context is taken as two random numbers or not at all, and nobody else decides
whether a trace is kept. Attributes are kinds, counts, sizes, reasons and member ids, never content.

`docs/observe.md` says what links to what.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

from msgspec import Meta

from protocol.errors import ConfigError
from protocol.process import Section

if TYPE_CHECKING:
    from opentelemetry import trace as otel
    from opentelemetry.sdk.trace import TracerProvider

HEADER: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]")
"""W3C trace context, version 00; `tracestate` and baggage are neither read nor sent."""
MOST_LINKS: Final = 64
_LONGEST: Final = 128
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Settings(Section, frozen=True, kw_only=True):
    """Where traces are sent to, by OTLP over HTTP; nowhere by default. OTEL_ variables of the environment count too."""

    endpoint: Annotated[str, Meta(pattern=r"^(https?://[^\s/]+(/\S*)?)?$(?!\n)")] = ""
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """The share of traces that is kept."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A span as others refer to it."""

    trace_id: int
    span_id: int


def read(header: str | None) -> Trace | None:
    """The trace that a peer or a client names; None if it is not one, byte for byte."""
    found = HEADER.fullmatch(header) if header else None
    if found is None:
        return None
    trace = Trace(int(found[1], 16), int(found[2], 16))
    return trace if trace.trace_id and trace.span_id else None


class Span:
    """Something that takes a while; this one is nothing."""

    trace: Trace | None = None
    header: str = ""
    """What a message carries; empty if the trace is not kept."""

    def end(self, at: int | None = None, **attributes: Any) -> None:
        """It is over, at that time in nanoseconds, or now."""


_NOTHING: Final = Span()


class Tracing:
    """Makes spans; this one makes none."""

    on: bool = False

    def start(
        self,
        name: str,  # noqa: ARG002
        *,
        parent: Trace | None = None,  # noqa: ARG002
        links: Iterable[Trace | None] = (),  # noqa: ARG002
        at: int | None = None,  # noqa: ARG002
        **attributes: Any,  # noqa: ARG002
    ) -> Span:
        """Begin a span, of its own trace without a parent.

        Args:
            links: what led to it.
            at: when it began, in nanoseconds since 1970; now by default.
            attributes: counts, sizes, reasons, ids; never content.
        """
        return _NOTHING

    def record(self, name: str, began: int, ended: int, **options: Any) -> Trace | None:
        """A span that is over already."""
        span = self.start(name, at=began, **options)
        span.end(ended)
        return span.trace

    def close(self) -> None:
        """Send what waits; may take some seconds."""


OFF: Final = Tracing()


class _RealSpan(Span):
    def __init__(self, span: otel.Span) -> None:
        context = span.get_span_context()
        self._span = span
        if context.trace_flags.sampled:
            self.trace = Trace(context.trace_id, context.span_id)
            self.header = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def end(self, at: int | None = None, **attributes: Any) -> None:
        self._span.set_attributes({f"kentongan.{name}": value for name, value in attributes.items()})
        self._span.end(at)


class _On(Tracing):
    on = True

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - only if traces are on
        from opentelemetry.context import Context  # noqa: PLC0415

        self._provider = provider
        self._tracer = provider.get_tracer("kentongan")
        self._nowhere = Context()
        self._api = trace

    def start(
        self,
        name: str,
        *,
        parent: Trace | None = None,
        links: Iterable[Trace | None] = (),
        at: int | None = None,
        **attributes: Any,
    ) -> Span:
        api, context = self._api, self._nowhere
        if parent is not None:
            context = api.set_span_in_context(api.NonRecordingSpan(self._context(parent)), context)
        known = [api.Link(self._context(link)) for link in links if link is not None]
        said = {f"kentongan.{key}": value for key, value in attributes.items()}
        return _RealSpan(
            self._tracer.start_span(name, context, attributes=said, links=known[:MOST_LINKS], start_time=at)
        )

    def _context(self, trace: Trace) -> otel.SpanContext:
        kept = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        return self._api.SpanContext(trace.trace_id, trace.span_id, is_remote=True, trace_flags=kept)

    def close(self) -> None:
        self._provider.shutdown()


def tracing_with(processor: Any, service: str, instance: str, sample: float = 1.0) -> Tracing:
    """Traces that go to a span processor of the OpenTelemetry SDK."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased  # noqa: PLC0415 - nobody else's word counts

    limits = SpanLimits(max_span_attributes=16, max_links=MOST_LINKS, max_span_attribute_length=_LONGEST)
    resource = Resource.create({"service.name": service, "service.instance.id": instance})
    provider = TracerProvider(TraceIdRatioBased(sample), resource, shutdown_on_exit=False, span_limits=limits)
    provider.add_span_processor(processor)
    return _On(provider)


def open_tracing(settings: Settings, service: str, instance: str) -> Tracing:
    """Traces as the settings or the environment want them. ConfigError if the library for them is not installed."""
    by_environment = any(os.environ.get(name) for name in _ENDPOINTS)
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not (settings.endpoint or by_environment):
        return OFF
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError("[tracing] needs a library: pip install 'kentongan[tracing]'") from exc
    exporter = OTLPSpanExporter(_address(settings.endpoint)) if settings.endpoint else OTLPSpanExporter()
    return tracing_with(BatchSpanProcessor(exporter), service, instance, settings.sample)


def _address(endpoint: str) -> str:
    return endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + "/v1/traces"


Tick = Callable[[], int]
"""Nanoseconds since 1970."""
tick: Final[Tick] = time.time_ns
