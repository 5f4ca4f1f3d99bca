"""Traces: strict in what they read, nothing while they are off, and sent to where the operator says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from protocol import tracing
from protocol.errors import ConfigError
from protocol.tracing import OFF, Settings, Trace, open_tracing, read, tracing_with

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*tracing._ENDPOINTS, "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def test_a_header_is_taken_byte_for_byte_or_not_at_all() -> None:
    """Version 00, lower case, no zeros, nothing behind it."""
    assert read(GOOD) == Trace(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
    assert read(GOOD[:-1] + "0") is not None
    wrong = (
        None,
        "",
        GOOD.upper(),
        GOOD + "\n",
        GOOD + " ",
        " " + GOOD,
        GOOD + "-extra",
        "01" + GOOD[2:],
        "ff" + GOOD[2:],
        GOOD[:-2] + "ff",
        GOOD.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        GOOD.replace("b7ad6b7169203331", "0" * 16),
        GOOD.replace("0af7", "0ag7"),
        GOOD.replace("0af7", "٠af7"),
        "x" * 100_000,
    )
    assert [read(text) for text in wrong] == [None] * len(wrong)


def test_off_by_default() -> None:
    """The same object for all, which makes nothing."""
    assert open_tracing(Settings(), "kentongan-node", "id") is OFF
    span = OFF.start("node.post", parent=read(GOOD), links=[read(GOOD)], reports=1)
    assert (span.header, span.trace) == ("", None)
    span.end(status=202)
    assert OFF.record("node.commit", 1, 2) is None
    assert OFF.start("a") is OFF.start("b")


def test_the_library_is_not_even_imported() -> None:
    """By the whole program, as long as traces are off."""
    code = "import sys, deploy.cli, node.app, broker.app; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of an operator."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'kentongan\[tracing\]'"):
        open_tracing(Settings(endpoint="http://127.0.0.1:1"), "kentongan-node", "id")


def test_the_environment_turns_it_on_and_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variables that other programs use too."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    made = open_tracing(Settings(), "kentongan-node", "id")
    assert made.on
    made.close()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert open_tracing(Settings(endpoint="http://127.0.0.1:1"), "kentongan-node", "id") is OFF


def test_nobody_else_decides_whether_a_trace_is_kept() -> None:
    """A peer that says "sampled" does not make this side keep what it does not want to."""
    exporter = InMemorySpanExporter()
    made = tracing_with(SimpleSpanProcessor(exporter), "test", "id", sample=0.0)
    span = made.start("node.receive", parent=read(GOOD))
    assert (span.header, span.trace) == ("", None)
    span.end()
    assert not exporter.get_finished_spans()
    made = tracing_with(SimpleSpanProcessor(exporter), "test", "id")
    made.start("node.receive", parent=read(GOOD[:-1] + "0"), links=[read(GOOD)] * 500, text="x" * 500).end()
    (kept,) = exporter.get_finished_spans()
    assert len(kept.links) == tracing.MOST_LINKS
    assert len(str(kept.attributes["kentongan.text"])) == 128


async def test_it_goes_to_where_the_operator_says() -> None:
    """OTLP over HTTP, at the usual path."""
    got: list[tuple[str, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        got.append((request.path, await request.read()))
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/{any:.*}", take)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    made: Any = await asyncio.to_thread(open_tracing, Settings(endpoint=url), "kentongan-node", "id-cert")
    made.start("node.post").end()
    await asyncio.to_thread(made.close)
    await runner.cleanup()
    ((path, body),) = got
    assert path == "/v1/traces"
    assert b"node.post" in body
    assert b"id-cert" in body
