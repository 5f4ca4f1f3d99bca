"""What the metrics and the lines a report say: times of steps, keys, and no label or word of a peer's making."""

from __future__ import annotations

import base64
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.keyage import key_seconds as broker_keys
from node.core import NodeCore
from node.keyage import key_seconds
from node.metrics import Metrics
from node.outbox import Outbox
from node.store import Event
from node.views import iso
from protocol import natsauth
from protocol.keys import write_secret
from protocol.registry import Registry
from protocol.reportlog import SILENT, ReportLog, Settings, to_stderr
from protocol.subjects import stored_at
from tests.node.world import MEMBERS, START, Clock, key_of, member, record_of, region


def sums(metrics: Metrics, name: str) -> dict[str, tuple[float, float]]:
    """Count and sum of a histogram, by its one label."""
    found: dict[str, list[float]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name in (f"{name}_count", f"{name}_sum"):
                found.setdefault(sample.labels.get("what", ""), []).append(sample.value)
    return {what: (values[0], values[1]) for what, values in found.items()}


def test_the_outboxes_times(clock: Clock) -> None:
    """Once each: to the first attempt that the bus stored, and from there to the broker's word."""
    outbox, words = (Outbox(lambda count: b"\x80" * count) for _ in range(2))
    metrics = Metrics(outbox=outbox, words=words, link=lambda: True, now=clock)
    outbox.add(1, clock.now, clock.now)
    for stored, seconds in ((False, 3), (True, 20), (True, 5)):
        assert outbox.take(clock.now, 1) == [1]
        clock.pass_(seconds=seconds)
        outbox.tried([1], clock.now, stored=stored)
        clock.pass_(seconds=60)
    outbox.settle([1])
    outbox.settle([1])
    assert sums(metrics, "kentongan_node_commit_to_published_seconds") == {
        "submission": (1, 83),
        "confirmation": (0, 0),
    }
    assert sums(metrics, "kentongan_node_published_to_answer_seconds")["submission"] == (1, 125)
    words.add(1, clock.now, clock.now)
    words.add(1, clock.now, clock.now)
    words.settle([1])
    assert sums(metrics, "kentongan_node_published_to_answer_seconds")["confirmation"] == (0, 0)


def test_a_peer_makes_no_labels(clock: Clock) -> None:
    """A reason that is none of ours counts as `other`, however many there are."""
    box = Outbox(lambda count: b"\0" * count)
    metrics = Metrics(outbox=box, words=box, link=lambda: True, now=clock)
    metrics.count(Counter({("refused", f"made-up-{n}"): 1 for n in range(500)} | {("refused", "expired"): 2}))
    text = metrics.render().decode()
    lines = [line for line in text.splitlines() if line.startswith("kentongan_node_handled_total")]
    assert sorted(lines) == [
        'kentongan_node_handled_total{reason="expired",what="refused"} 2.0',
        'kentongan_node_handled_total{reason="other",what="refused"} 500.0',
    ]


def creds(place: Path, **claims: Any) -> Path:
    seed = natsauth.create_seed(natsauth.Role.USER, b"s" * natsauth.SEED_ENTROPY)
    body = {"sub": natsauth.public_of(seed, natsauth.Role.USER), **claims}
    text = base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=").decode()
    write_secret(place, natsauth.format_creds(f"e30.{text}.c2ln", seed).encode())
    return place


def test_the_nodes_keys(core: NodeCore, clock: Clock, tmp_path: Path) -> None:
    """By use; credentials only if they end, and a scrape survives a file that is broken."""
    year = timedelta(days=365).total_seconds()
    assert key_seconds(core, tmp_path / "none", clock) == {("signing",): year}
    end = START.timestamp() + 3_600
    assert key_seconds(core, creds(tmp_path / "ends", exp=end), clock)["transport",] == 3_600
    assert ("transport",) not in key_seconds(core, creds(tmp_path / "lasts"), clock)
    write_secret(tmp_path / "broken", b"\xff\xfe")
    clock.pass_(days=366)
    assert key_seconds(core, tmp_path / "broken", clock) == {("signing",): -86_400.0}


def test_the_members_keys_at_the_broker() -> None:
    """The newest of each; a revoked one ends with its revocation; who is suspended is not shown."""
    soon, later = START + timedelta(days=3), START + timedelta(days=9)
    renewed = member("my-cert", "my")
    renewed = type(renewed)(
        id="my-cert",
        jurisdiction="my",
        name="x",
        keys=[record_of("my-cert", not_after=soon), record_of("other", not_after=later)],
    )
    revoked = member("sg-cert", "sg")
    revoked = type(revoked)(id="sg-cert", jurisdiction="sg", name="x", keys=[record_of("sg-cert", revoked_at=START)])
    gone = type(revoked)(id="id-cert", jurisdiction="id", name="x", keys=MEMBERS[0].keys, status="suspended")
    registry = Registry(region(members=[renewed, revoked, gone]))
    found = broker_keys(registry, [record_of("broker"), record_of("old")], key_of("broker").kid, START)
    assert found == {
        ("broker", "signing"): timedelta(days=365).total_seconds(),
        ("my-cert", "signing"): timedelta(days=9).total_seconds(),
        ("sg-cert", "signing"): 0.0,
    }


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("$JS.ACK.INTAKE.broker.1.17.4.1777881600000000000.6", (1_777_881_600_000_000_000, 6)),
        ("$JS.ACK.hub.AbC.INTAKE.broker.1.17.4.1777881600000000000.6", (1_777_881_600_000_000_000, 6)),
        ("$JS.ACK.hub.AbC.INTAKE.broker.1.17.4.1777881600000000000.6.token", (1_777_881_600_000_000_000, 6)),
        ("$JS.ACK.INTAKE.broker.1.17.4.soon.6", None),
        ("_INBOX.a.b.c.d.e.f.1.2", None),
        ("ack.here", None),
        ("", None),
    ],
)
def test_when_the_bus_stored_a_message(reply: str, found: tuple[int, int] | None) -> None:
    """As the server writes it into where to acknowledge, in all its forms."""
    assert stored_at(reply) == found


def test_lines_a_report(clock: Clock) -> None:
    """One an event about a report, in JSON, without what others put into words; alarms have their own lines."""
    said: list[str] = []
    log = ReportLog(said.append)
    events = [
        Event(1, "report.filed", b'{"report_id":"r","revision":1}', 1_777_881_600_000_000),
        Event(2, "alarm", b'{"about":"delivery","detail":"their words"}', 1_777_881_600_000_000),
        Event(3, "report.stopped", b'{"report_id":"r","reason":"expired","detail":"their \\"words\\""}', 1),
        Event(4, "report.linked", b'{"a_report":"r"}', 1),
    ]
    log.events(events, iso)
    log.events(events[1:2], iso)
    (text,) = said
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0] == {
        "event": "report.filed",
        "level": "info",
        "timestamp": "2026-05-04T08:00:00Z",
        "seq": 1,
        "report_id": "r",
        "revision": 1,
    }
    assert [line["seq"] for line in lines] == [1, 3, 4]
    assert "words" not in text
    log.rows("broker.report", [{"report_id": "r"}, {"report_id": "s"}], clock.now)
    assert [json.loads(line)["report_id"] for line in said[1].splitlines()] == ["r", "s"]
    log.rows("broker.report", [], clock.now)
    assert len(said) == 2


def test_they_can_be_left_out(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    """By `[logging] reports = false`."""
    to_stderr(Settings(reports=False)).rows("broker.report", [{"report_id": "r"}], clock.now)
    SILENT.rows("broker.report", [{"report_id": "r"}], clock.now)
    assert capsys.readouterr().err == ""
    to_stderr(Settings()).rows("broker.report", [{"report_id": "r"}], clock.now)
    assert json.loads(capsys.readouterr().err)["event"] == "broker.report"
