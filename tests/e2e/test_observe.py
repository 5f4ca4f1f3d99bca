"""A region in this process, watched: traces from a post to the other node, log lines, metrics, dashboard, rules."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from typing import Any

import aiohttp
import promql_parser
import pytest
import yaml  # type: ignore[import-untyped]
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import broker.config
import node.config
from broker import setup
from broker.app import Broker
from deploy.demo.region import Place, make
from node.app import Node
from protocol.reportlog import ReportLog
from protocol.tracing import Tracing, tracing_with
from tests.test_docs import anchor

ROOT = Path(__file__).resolve().parents[2]
OBSERVABILITY = ROOT / "deploy" / "observability"
MEMBERS = ("id", "jp", "sg")
CANARY = "CANARY-5e10"
CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CLIENT_TRACE = int(CLIENT.split("-")[1], 16)


@dataclass
class Watched:
    """What was seen of a region in which reports were filed, received and read."""

    spans: dict[str, list[ReadableSpan]] = field(default_factory=dict)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    reports: list[str] = field(default_factory=list)

    def named(self, side: str, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans[side] if span.name == name]


def filing(title: str) -> dict[str, Any]:
    return {
        "marking": {"tlp": "GREEN"},
        "rsit": [{"class": "malicious-code", "type": "infected-system"}],
        "severity": {"score": 50},
        "sectors": [{"code": "finance"}],
        "body": {"title": f"{title} {CANARY}", "malware": [f"{title}-{CANARY}"]},
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return asyncio.run(watch(tmp_path_factory.mktemp("observe")))


async def watch(directory: Path) -> Watched:
    found = Watched()
    exporters = {name: InMemorySpanExporter() for name in ("broker", *MEMBERS)}

    def traces(name: str) -> Tracing:
        return tracing_with(SimpleSpanProcessor(exporters[name]), "test", name)

    def log(name: str) -> ReportLog:
        lines = found.lines.setdefault(name, [])
        return ReportLog(lambda text: lines.extend(map(json.loads, text.splitlines())))

    place = await asyncio.to_thread(make, directory, 0, MEMBERS)
    config = broker.config.load_config(directory / "broker")
    hub = Broker(config, *setup.load_keys(config), tracing=traces("broker"), reports=log("broker"))
    ready = asyncio.Event()
    running = asyncio.create_task(hub.run(ready.set))
    await asyncio.wait([running, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    nodes = {name: _node(directory / name, traces(name), log(name)) for name in MEMBERS}
    tasks = [asyncio.create_task(made.run()) for made in nodes.values()]
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            await _live(place, http, found)
    finally:
        for made in nodes.values():
            made.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    found.spans = {name: list(exporter.get_finished_spans()) for name, exporter in exporters.items()}
    return found


def _node(directory: Path, tracing: Tracing, reports: ReportLog) -> Node:
    config = node.config.load_config(directory / "node.toml")
    return Node(config, now=lambda: datetime.now(UTC), rand=token_bytes, tracing=tracing, reports=reports)


async def _live(place: Place, http: aiohttp.ClientSession, found: Watched) -> None:
    """Three reports of one member in two posts, read by another; and all that is to be scraped."""

    async def call(name: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        headers["Authorization"] = f"Bearer {place.tokens[name]}"
        async with http.request(method, place.url(name) + path, json=body, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def until(name: str, path: str, true: Any) -> Any:
        while True:
            with suppress(aiohttp.ClientError):
                status, answer = await call(name, "GET", path)
                if true(status, answer):
                    return answer
            await asyncio.sleep(0.05)

    for name in MEMBERS:
        await until(name, "/readyz", lambda status, _: status == 200)
    for posted in ([filing("one"), filing("two")], [filing("three")]):
        status, answer = await call("id", "POST", "/v1/reports", posted, traceparent=CLIENT)
        assert status == 202, answer
        found.reports += [item["report_id"] for item in answer["results"]]
    for name in ("jp", "sg"):
        await until(name, "/v1/inbox", lambda _, answer: len(answer["reports"]) == 3)
    status, answer = await call("jp", "POST", f"/v1/inbox/{found.reports[0]}/confirm", {"state": "read"})
    assert status == 200, answer

    def read(_: int, answer: Any) -> bool:
        recipients = answer["revisions"][0]["recipients"]
        return bool(recipients["jp"]["state"] == "read" and recipients["sg"]["state"] == "received")

    for report in found.reports[:1]:
        await until("id", f"/v1/reports/{report}", read)
    await until("id", "/v1/log", lambda _, answer: answer["leaves"]["waiting"] == 0 and answer["published"]["size"] > 2)
    for name in ("broker", *MEMBERS):
        found.metrics[name] = (await call(name, "GET", "/metrics"))[1]


# --- traces -----------------------------------------------------------------------------------------------------


def trace_of(span: Any) -> int:
    return int(span.context.trace_id)


def ids(spans: list[ReadableSpan]) -> set[int]:
    return {trace_of(span) for span in spans}


def linked(span: ReadableSpan, among: list[ReadableSpan]) -> list[ReadableSpan]:
    """What a span is linked to."""
    wanted = {(link.context.trace_id, link.context.span_id) for link in span.links}
    return [one for one in among if (one.context.trace_id, one.context.span_id) in wanted]


def test_a_report_can_be_followed_from_its_post_to_the_other_node(watched: Watched) -> None:
    """Backwards by what each side exported: parents within a trace, links between them."""
    received = [s for s in watched.named("jp", "node.receive") if s.attributes["kentongan.kind"] == "delivery"]
    assert received
    for span in received:
        (sent,) = [s for s in watched.named("broker", "broker.deliver") if trace_of(s) == trace_of(span)]
        assert span.parent is not None
        assert span.parent.span_id == sent.context.span_id
        (batch,) = linked(sent, watched.spans["broker"])
        assert batch.name == "broker.batch"
        steps = [s for s in watched.spans["broker"] if s.parent and s.parent.span_id == batch.context.span_id]
        assert [s.name for s in steps] == ["broker.verify", "broker.decide", "broker.commit"]
        taken = [s for s in linked(batch, watched.spans["broker"]) if s.attributes["kentongan.kind"] == "submission"]
        assert taken
        for ingest in taken:
            (published,) = [s for s in watched.named("id", "node.publish") if trace_of(s) == trace_of(ingest)]
            (commit,) = linked(published, watched.spans["id"])
            assert commit.name == "node.commit"
            posts = watched.named("id", "node.post")
            led = linked(commit, posts) or [p for p in posts if commit.parent.span_id == p.context.span_id]
            assert led
            assert {trace_of(post) for post in led} == {CLIENT_TRACE}
    confirmed = watched.named("jp", "node.confirm")
    assert any(one.name == "node.receive" for span in confirmed for one in linked(span, watched.spans["jp"]))
    receipts = [s for s in watched.named("id", "node.receive") if s.attributes["kentongan.kind"] == "receipts"]
    assert any(one.name == "node.publish" for span in receipts for one in linked(span, watched.spans["id"]))


def test_what_others_see_of_a_trace_tells_them_nothing(watched: Watched) -> None:
    """No trace id crosses two borders: not the client's, not the origin's, not the batch's, and none comes twice."""
    inside = {"broker.batch", "broker.verify", "broker.decide", "broker.commit", "broker.ingest"}
    of_broker = ids([span for span in watched.spans["broker"] if span.name in inside])
    sent = watched.named("broker", "broker.deliver")
    assert len(ids(sent)) == len(sent), "a trace id of its own for each message to anybody"
    assert not ids(sent) & of_broker
    assert not ids(sent) & ids(watched.spans["id"]) - ids(watched.named("id", "node.receive"))
    assert not ids(watched.spans["jp"]) & ids(watched.spans["sg"])
    for other in ("jp", "sg"):
        assert not ids(watched.spans[other]) & (ids(watched.named("id", "node.publish")) | {CLIENT_TRACE})
    assert CLIENT_TRACE not in ids(watched.spans["broker"])
    published = watched.named("id", "node.publish")
    assert len(ids(published)) == len(published)
    assert all(span.parent is None for span in [*sent, *published])


def test_spans_hold_no_content(watched: Watched) -> None:
    """Counts, sizes, kinds, reasons and member ids only."""
    for spans in watched.spans.values():
        assert CANARY not in "".join(span.to_json() for span in spans)
        keys = {key for span in spans for key in span.attributes}
        assert keys <= {f"kentongan.{name}" for name in ("kind", "bytes", "reports", "messages", "member", "status")}


# --- log lines --------------------------------------------------------------------------------------------------


def test_a_line_a_report_and_step(watched: Watched) -> None:
    """Each report by its id at each step and side, and no content."""
    assert CANARY not in json.dumps(watched.lines)
    for report in watched.reports:
        own = [line["event"] for line in watched.lines["id"] if line.get("report_id") == report]
        assert own[:2] == ["report.filed", "report.receipt"]
        assert own.count("report.confirmed") >= 2
        (decided,) = [line for line in watched.lines["broker"] if line.get("report_id") == report]
        assert (decided["event"], decided["outcome"], decided["member"]) == ("broker.report", "accepted", "id")
        for name in ("jp", "sg"):
            (line,) = [
                line
                for line in watched.lines[name]
                if line.get("report_id") == report and line["event"] == "report.received"
            ]
            assert set(line) >= {"level", "timestamp", "seq", "digest", "origin", "tlp"}


# --- metrics ----------------------------------------------------------------------------------------------------


def test_every_step_was_measured(watched: Watched) -> None:
    """Each histogram of a report's life saw something, where it happens."""

    def count(side: str, name: str, labels: str = "") -> float:
        found = re.findall(rf"^{name}_count{re.escape(labels)} (\S+)$", watched.metrics[side], re.MULTILINE)
        return float(found[0]) if found else 0.0

    assert count("id", "kentongan_node_post_to_commit_seconds") == 2
    for name in ("commit_to_published", "published_to_answer"):
        assert count("id", f"kentongan_node_{name}_seconds", '{what="submission"}') >= 1, name
        assert count("jp", f"kentongan_node_{name}_seconds", '{what="confirmation"}') >= 1, name
    assert count("id", "kentongan_node_broker_to_here_seconds", '{what="receipt"}') >= 1
    assert count("jp", "kentongan_node_broker_to_here_seconds", '{what="report"}') == 3
    for step in ("verify", "decide", "commit"):
        assert count("broker", "kentongan_broker_step_seconds", f'{{step="{step}"}}') >= 2, step
    for name in ("intake", "send", "delivery"):
        assert count("broker", f"kentongan_broker_{name}_seconds") >= 2, name


def test_how_long_keys_last(watched: Watched) -> None:
    """Own ones at the node, everybody's at the broker; a year, as `init` makes them."""
    own = dict(re.findall(r'^kentongan_node_key_expiry_seconds\{use="(\w+)"\} (\S+)$', watched.metrics["id"], re.M))
    assert {"signing", "sealing"} <= set(own)
    assert 364 < float(own["signing"]) / 86_400 <= 365
    pattern = r'^kentongan_broker_key_expiry_seconds\{member="(\w+)",use="(\w+)"\} (\S+)$'
    listed = {(member, use) for member, use, _ in re.findall(pattern, watched.metrics["broker"], re.M)}
    assert listed == {("broker", "signing"), *((m, use) for m in MEMBERS for use in ("signing", "sealing"))}


def shown(watched: Watched) -> set[str]:
    """All names that a scrape of this region can have."""
    names: set[str] = set()
    for text in watched.metrics.values():
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def metrics_in(expression: Any) -> set[str]:
    """The names of the metrics of a parsed expression."""
    return set(re.findall(r"\b((?:kentongan|process)_\w+|up)\b", str(expression)))


def expressions() -> list[tuple[str, str]]:
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())
    found = [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    dashboard = json.loads((OBSERVABILITY / "grafana-dashboard.json").read_text())
    found += [(p["title"], target["expr"]) for p in dashboard["panels"] for target in p.get("targets", [])]
    return found


def test_dashboard_and_rules_ask_for_what_there_is(watched: Watched) -> None:
    """Every expression parses, and every metric in it is one of a running node or broker."""
    known = shown(watched) | {"up"}
    asked = expressions()
    assert len(asked) > 60
    for name, text in asked:
        parsed = promql_parser.parse(re.sub(r"\$(job|instance)", ".*", text))
        names = metrics_in(parsed.prettify())
        assert names, name
        assert names <= known, (name, names - known)


def test_rules_lead_to_the_guide() -> None:
    """A name, a severity, a sentence, and a heading that is there."""
    titles = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "operate.md").read_text(), re.MULTILINE)
    anchors = {anchor(title) for title in titles}
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert rule["annotations"]["summary"]
            page, _, heading = rule["annotations"]["runbook_url"].partition("#")
            assert page == "docs/operate.md"
            assert heading in anchors, heading


def test_labels_are_few(watched: Watched) -> None:
    """Members, reasons, kinds and statuses, never an id of a report or statement."""
    for text in watched.metrics.values():
        for labels in re.findall(r"^\w+\{(.*)\} \S+$", text, re.MULTILINE):
            names = set(re.findall(r'(\w+)="', labels))
            assert names <= {
                *("le", "outcome", "reason", "what", "status", "side", "severity", "use", "member", "kind", "state"),
                *("step", "webhook", "syslog", "version", "python", "schema"),
            }
