"""Reports that nobody reads are told of once, on both sides, in time, and no longer than they are unread."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from node import tables
from node.config import Escalation, load_config
from node.core import NodeCore
from node.escalation import AT_ONCE, SEVERITIES, late_members, severity_of
from node.store import microseconds
from protocol import statements as st
from protocol.errors import ConfigError
from protocol.parts import Handling, Severity
from protocol.report import Body
from tests.node.conftest import running
from tests.node.looking import events, inbox
from tests.node.test_alarms import metric, scrape
from tests.node.test_filing import file
from tests.node.test_words import word_of
from tests.node.world import (
    START,
    Broker,
    Clock,
    MemoryBus,
    confirmed,
    filing,
    foreign,
    make_config,
    make_core,
    receipts,
    released,
)

LIMITS = Escalation()
CRITICAL = {"severity": Severity(score=95)}


def look(core: NodeCore, limits: Escalation = LIMITS) -> dict[tuple[str, str], int]:
    """All that the loop does when something is due."""
    counts: dict[tuple[str, str], int] = {}
    while (told := core.escalate(limits)).looked_at:
        for key, number in told.counts.items():
            counts[key] = counts.get(key, 0) + number
    return counts


def unread(core: NodeCore) -> list[dict[str, Any]]:
    return events(core, "report.unread")


def unconfirmed(core: NodeCore) -> list[tuple[str, str]]:
    return [(event["member"], event["state"]) for event in events(core, "report.unconfirmed")]


def test_every_score_has_a_severity() -> None:
    """The bands of CVSS; a report that states none is medium."""
    bands = [severity_of(score) for score in range(101)]
    assert [bands.count(severity) for severity in SEVERITIES] == [11, 20, 30, 40]
    assert [severity_of(score) for score in (0, 39, 40, 69, 70, 89, 90, 100, None)] == [
        "low",
        "low",
        "medium",
        "medium",
        "high",
        "high",
        "critical",
        "critical",
        "medium",
    ]


@pytest.mark.parametrize(
    ("words", "late"),
    [
        ([], {"a": "queued", "b": "queued"}),
        ([("a", "delivered"), ("a", "received"), ("b", "delivered")], {"a": "received", "b": "delivered"}),
        ([("a", "received"), ("a", "read")], {"b": "queued"}),
        ([("a", "acting"), ("b", "closed")], {}),
        ([("a", "refused"), ("b", "stopped")], {}),
        ([("a", "received"), ("a", "expired"), ("c", "read")], {"b": "queued"}),
    ],
)
def test_who_is_late(words: list[tuple[str, str]], late: dict[str, str]) -> None:
    """Whoever was to read it and has not; what ends it; how far it is known to have come."""
    assert late_members(["a", "b"], words) == late


# --- here --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "severity", "minutes"),
    [(95, "critical", 30), (75, "high", 120), (40, "medium", 1_440), (3, "low", 4_320)],
)
@pytest.mark.usefixtures("each_database")
def test_an_unread_report_is_told_of_once(
    core: NodeCore, broker: Broker, clock: Clock, score: int, severity: str, minutes: int
) -> None:
    """When its time is over, not before, and not again."""
    core.receive([broker.delivery(released(foreign(severity=Severity(score=score))))])
    assert core.next_escalation(LIMITS) == START + timedelta(minutes=minutes)
    clock.now = START + timedelta(minutes=minutes, microseconds=-1)
    assert look(core) == {}
    clock.now = START + timedelta(minutes=minutes)
    assert look(core) == {("recipient", severity): 1}
    clock.pass_(days=9)
    assert look(core) == {}
    (row,) = inbox(core)
    ids = {"report_id": row.report_id, "revision": 1, "digest": row.digest, "origin": "my-cert"}
    assert unread(core) == [{**ids, "severity": severity, "minutes": minutes}]
    assert core.overdue() == {("recipient", severity): 1}
    assert core.next_escalation(LIMITS) is None


@pytest.mark.parametrize("state", ["read", "acting", "closed"])
@pytest.mark.parametrize("late", [False, True])
def test_a_word_ends_it(core: NodeCore, broker: Broker, clock: Clock, state: Any, late: bool) -> None:
    """Before its time there is no escalation; afterwards it is no longer overdue."""
    core.receive([broker.delivery(released(foreign(**CRITICAL)))])
    (row,) = inbox(core)
    clock.pass_(minutes=30 if late else 29)
    assert bool(look(core)) == late
    core.confirm(row.report_id, state)
    clock.pass_(days=9)
    assert (look(core), core.overdue()) == ({}, {})
    assert len(unread(core)) == late


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("how", ["superseded", "withdrawn", "expired"])
def test_only_what_can_and_need_be_read_is_overdue(
    core: NodeCore, broker: Broker, clock: Clock, how: str, late: bool
) -> None:
    """A newer revision takes an older one's place; what is withdrawn or has expired has none."""
    report_id = uuid4()
    handling = {"handling": Handling(expires_at=START + timedelta(minutes=50))} if how == "expired" else {}
    core.receive([broker.delivery(released(foreign(report_id=report_id, **CRITICAL, **handling)))])
    clock.pass_(minutes=40 if late else 20)
    assert bool(look(core)) == late
    if how == "superseded":
        core.receive([broker.delivery(released(foreign(report_id=report_id, revision=2, **CRITICAL)))])
    elif how == "withdrawn":
        withdrawal = foreign(report_id=report_id, revision=2, phase="withdrawn", body=Body(), **CRITICAL)
        core.receive([broker.delivery(released(withdrawal))])
    else:
        clock.now = START + timedelta(minutes=50)
        assert core.expire() == 1
    assert core.overdue() == {}
    clock.pass_(days=9)
    look(core)
    assert [event["revision"] for event in unread(core)] == [1] * late + [2] * (how == "superseded")


def test_a_revision_that_arrives_late_is_not_told_of(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """The newer one is there already, and stays the one to be read."""
    report_id = uuid4()
    for revision in (2, 1):
        core.receive([broker.delivery(released(foreign(report_id=report_id, revision=revision, **CRITICAL)))])
    clock.pass_(days=9)
    look(core)
    assert [event["revision"] for event in unread(core)] == [2]


@pytest.mark.usefixtures("each_database")
def test_what_is_known_survives_a_restart(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """Neither is a report told of again, nor forgotten; limits may change in between."""
    core = make_core(tmp_path, clock)
    core.receive([broker.delivery(released(foreign(**CRITICAL)))])
    clock.pass_(minutes=30)
    core.receive([broker.delivery(released(foreign(**CRITICAL)))])
    look(core)
    core.store.close()
    core = make_core(tmp_path, clock)
    clock.pass_(minutes=9)
    assert core.overdue() == {("recipient", "critical"): 1}
    assert look(core, Escalation(critical=10)) == {}
    clock.pass_(minutes=1)
    assert look(core, Escalation(critical=10)) == {("recipient", "critical"): 1}
    core.store.close()


def test_switched_off_means_silence(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Also later: what fell due meanwhile does not come back in a flood."""
    core.receive([broker.delivery(released(foreign(**CRITICAL)))])
    clock.pass_(days=9)
    assert look(core, Escalation(enabled=False)) == {}
    assert (look(core), unread(core), core.overdue()) == ({}, [], {})


# --- at the origin -----------------------------------------------------------------------------------------------


def send(core: NodeCore, broker: Broker, *filings: dict[str, Any]) -> list[Any]:
    """File, and get the receipts: granted to my-cert and sg-cert."""
    answers = [file(core, one) for one in filings]
    for outgoing in core.outgoing(9):
        core.receive([receipts(broker.receipt(outgoing.data))])
    return answers


@pytest.mark.usefixtures("each_database")
def test_a_recipient_that_does_not_confirm_is_told_of_once(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Each recipient, with what is known; whoever reads it later is overdue no more."""
    (answer,) = send(core, broker, filing(severity={"score": 95}))
    core.receive([confirmed(word_of(broker, answer["digest"]))])
    clock.pass_(minutes=29)
    assert look(core) == {}
    clock.pass_(minutes=1)
    assert look(core) == {("origin", "critical"): 2}
    assert unconfirmed(core) == [("my-cert", "received"), ("sg-cert", "queued")]
    (first, _) = events(core, "report.unconfirmed")
    ids = {"report_id": answer["report_id"], "revision": 1, "digest": answer["digest"]}
    assert first == {**ids, "member": "my-cert", "state": "received", "severity": "critical", "minutes": 30}
    clock.pass_(days=9)
    assert look(core) == {}
    assert core.overdue() == {("origin", "critical"): 2}
    core.receive([confirmed(word_of(broker, answer["digest"], "read"))])
    assert core.overdue() == {("origin", "critical"): 1}
    core.receive([confirmed(word_of(broker, answer["digest"], "closed", "sg-cert"))])
    assert core.overdue() == {}


@pytest.mark.parametrize("state", ["read", "acting", "closed", "refused", "expired", "stopped"])
@pytest.mark.parametrize("when", ["before", "after", "late"])
@pytest.mark.usefixtures("each_database")
def test_what_ends_waiting_for_a_recipient(core: NodeCore, broker: Broker, clock: Clock, state: str, when: str) -> None:
    """Its own word, or the broker's that it will not get it; also if that comes before the receipt, or late."""
    answer = file(core, filing(severity={"score": 95}))
    receipt = receipts(broker.receipt(core.outgoing(1)[0].data))
    refusal = st.Refusal(reason="denied-by-rule")
    if state == "stopped":
        digests = [answer["digest"]]
        stopped = st.Stopped(iss="broker", aud="id-cert", at=START, member="my-cert", reports=digests, refusal=refusal)
        word = receipts(broker.sign(stopped))
    else:
        word = confirmed(word_of(broker, answer["digest"], state))
    core.receive([word] if when == "before" else [receipt])
    if when == "late":
        clock.pass_(days=9)
        look(core)
    core.receive([receipt] if when == "before" else [word])
    clock.pass_(days=9)
    look(core)
    assert unconfirmed(core) == [("my-cert", "queued")] * (when == "late") + [("sg-cert", "queued")]
    assert core.overdue() == {("origin", "critical"): 1}


@pytest.mark.usefixtures("each_database")
def test_only_the_newest_accepted_revision_is_waited_for(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """In whichever order the receipts come; a withdrawal ends it."""
    first = file(core, filing())
    second = file(core, filing("B", report_id=first["report_id"], revision=2))
    one, two = (outgoing.data for outgoing in core.outgoing(9))
    core.receive([receipts(broker.receipt(two))])
    core.receive([receipts(broker.receipt(one))])
    clock.pass_(days=2)
    assert look(core) == {("origin", "medium"): 2}
    assert {event["digest"] for event in events(core, "report.unconfirmed")} == {second["digest"]}
    send(core, broker, filing(report_id=first["report_id"], revision=3, phase="withdrawn", body={}))
    assert core.overdue() == {}
    clock.pass_(days=9)
    assert look(core) == {}


def test_what_expired_is_not_waited_for(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Neither before it was told nor afterwards."""
    soon, later = ({"handling": {"expires_at": (START + timedelta(days=days)).isoformat()}} for days in (0.5, 2))
    send(core, broker, filing("A", **soon), filing("B", **later))
    clock.pass_(days=1)
    assert look(core) == {("origin", "medium"): 2}
    assert core.overdue() == {("origin", "medium"): 2}
    clock.pass_(days=1)
    assert core.overdue() == {}


def test_rejected_reports_have_no_readers(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Nor have those that are granted to nobody."""
    file(core, filing())
    refusal = st.Refusal(reason="member-suspended")
    core.receive([receipts(broker.receipt(core.outgoing(1)[0].data, reports=[], decisions=[], refusal=refusal))])
    clock.pass_(days=9)
    assert core.escalate(LIMITS).looked_at == 0


# --- cost and wiring ---------------------------------------------------------------------------------------------


def test_a_look_costs_what_is_due(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """100,000 unread reports: nothing is read of them until they are due, and then in slices."""
    at = microseconds(START)
    row = {"revision": 1, "side": "recipient", "severity": "low", "since": at, "until": None, "members": 1}
    rows = [
        {**row, "digest": f"{n:043}", "report_id": f"{n:036}", "waiting": b'["my-cert"]', "told_at": None}
        for n in range(100_000)
    ]
    with core.store.write() as tx:
        tx.add(tables.escalations, rows)
    assert core.escalate(LIMITS).looked_at == 0
    clock.pass_(days=3)
    assert core.escalate(LIMITS).looked_at == AT_ONCE
    with core.store.read() as reads:
        for query in (
            "select * from escalations where told_at is null and severity = 'low' and since <= 1 order by since",
            "select min(since) from escalations where told_at is null and severity = 'low'",
        ):
            plan = str(reads._db.exec_driver_sql(f"explain query plan {query}").fetchall())
            assert "SEARCH escalations USING" in plan
            assert "escalations_due (told_at=? AND severity=?" in plan
            assert "TEMP B-TREE" not in plan


async def test_a_running_node_tells(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """Both sides: events, metrics, and nothing again after a restart."""
    bus = MemoryBus()
    async with running(make_config(tmp_path), clock, bus) as node:
        await node.post(filing(severity={"score": 95}))
        await bus.until(lambda: bus.sent)
        bus.inbox.append(receipts(broker.receipt(bus.sent[0].data)))
        bus.inbox.append(broker.delivery(released(foreign(**CRITICAL))))
        await bus.until(lambda: not bus.inbox and not bus.unacked)
        clock.pass_(minutes=31)
        bus.inbox.append(broker.delivery(released(foreign())))
        async with asyncio.timeout(10):
            while len(told := metric(await scrape(node), "kentongan_node_escalations_total")) < 2:
                await asyncio.sleep(0.01)
        assert sorted(told) == [
            'kentongan_node_escalations_total{severity="critical",side="origin"} 2.0',
            'kentongan_node_escalations_total{severity="critical",side="recipient"} 1.0',
        ]
    async with running(make_config(tmp_path), clock, MemoryBus()) as node:
        assert sorted(metric(await scrape(node), "kentongan_node_unread")) == [
            'kentongan_node_unread{severity="critical",side="origin"} 2.0',
            'kentongan_node_unread{severity="critical",side="recipient"} 1.0',
        ]
        (report,) = [one for one in (await node.get("/v1/inbox"))["reports"] if one["report"]["severity"]["score"] > 90]
        url = f"/v1/inbox/{report['report_id']}/confirm"
        async with node.http.post(url, json={"state": "read"}) as response:
            assert response.status == 200
        assert metric(await scrape(node), "kentongan_node_unread") == [
            'kentongan_node_unread{severity="critical",side="origin"} 2.0'
        ]


def test_limits_come_from_the_configuration(tmp_path: Path) -> None:
    """With defaults for each; a wrong one is refused."""
    head = 'member = "id-cert"\njurisdiction = "id"\nname = "x"\n'
    file_ = tmp_path / "node.toml"
    file_.write_text(head)
    assert load_config(file_).escalation == Escalation(critical=30, high=120, medium=1_440, low=4_320, enabled=True)
    file_.write_text(head + "[escalation]\nenabled = false\ncritical = 5\n")
    assert load_config(file_).escalation == Escalation(critical=5, enabled=False)
    for wrong in ("critical = 0", "urgent = 5", 'low = "1h"'):
        file_.write_text(head + f"[escalation]\n{wrong}\n")
        with pytest.raises(ConfigError):
            load_config(file_)
