"""What others say about this member's reports, what it says about theirs, and whom it believes."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from node.core import NodeCore
from node.store import Event
from node.views import inbox_report
from protocol import statements as st
from protocol.envelope import SignedReport
from protocol.errors import ProtocolError
from protocol.reasons import Reason
from protocol.subjects import Kind
from tests.governing import govern, grow, sign_region
from tests.node.looking import alarms, events, said, shown
from tests.node.test_filing import file
from tests.node.world import (
    OPEN_POLICY,
    START,
    Broker,
    Clock,
    Msg,
    confirmed,
    filing,
    foreign,
    key_of,
    receipts,
    record_of,
    region,
    released,
    trust,
)

pytestmark = pytest.mark.usefixtures("each_database")


def word_of(broker: Broker, digest: str, state: Any = "received", by: str = "my-cert", **changes: Any) -> str:
    key = changes.pop("key", None) or key_of(by)
    said_ = st.Confirmation(iss=by, aud="id-cert", at=broker.clock(), state=state, reports=[digest], **changes)
    return broker.sign(said_, key)


def test_confirmations_reach_the_origin(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Per recipient and state, with times, once."""
    answer = file(core, filing())
    core.receive([receipts(broker.receipt(core.outgoing(1)[0].data))])
    first = word_of(broker, answer["digest"])
    core.receive([confirmed(first, first)])
    clock.pass_(minutes=5)
    core.receive([confirmed(first, word_of(broker, answer["digest"], "read"))])
    recipients = shown(core, answer["report_id"])["revisions"][0]["recipients"]
    assert [(word["state"], word["at"]) for word in recipients["my-cert"]["confirmations"]] == [
        ("received", "2026-05-04T08:00:00Z"),
        ("read", "2026-05-04T08:05:00Z"),
    ]
    assert len(events(core, "report.confirmed")) == 2


def test_nobody_confirms_for_another(core: NodeCore, broker: Broker) -> None:
    """Not another member, not the broker."""
    digest = file(core, filing())["digest"]
    core.receive([confirmed(word_of(broker, digest, key=key_of("sg-cert")))])
    core.receive([confirmed(word_of(broker, digest, by="broker"))])
    assert alarms(core) == ["wrong-member", "wrong-member"]
    assert events(core, "report.confirmed") == []


def test_confirmations_of_unknown_reports_are_ignored(core: NodeCore, broker: Broker) -> None:
    """They say nothing about this member's reports."""
    core.receive([confirmed(word_of(broker, "A" * 43))])
    assert (alarms(core), events(core, "report.confirmed")) == ([], [])


def test_links_are_shown_from_both_sides(core: NodeCore, broker: Broker) -> None:
    """Stored once; only the broker's count."""
    own = file(core, filing())
    envelope = foreign()
    core.receive([broker.delivery(released(envelope))])
    report = envelope.reports[0]
    assert isinstance(report, SignedReport)
    other_id = str(report.header.report_id)
    links = st.Links(
        iss="broker",
        aud="id-cert",
        at=START,
        links=[
            st.Link(
                a=st.LinkedReport(digest=own["digest"], report_id=own["report_id"], origin="id-cert"),
                b=st.LinkedReport(digest=report.digest, report_id=other_id, origin="my-cert"),
                strength="strong",
                on={"domain": 1},
            )
        ],
    )
    message = Msg(Kind.LINKS, broker.sign(links).encode())
    core.receive([message, message, Msg(Kind.LINKS, broker.sign(links, key_of("my-cert")).encode())])
    assert shown(core, own["report_id"])["links"][0]["report_id"] == other_id
    with core.store.read() as reads:
        found = inbox_report(reads, other_id)
    assert found is not None
    assert found["links"][0]["report_id"] == own["report_id"]
    assert len(events(core, "report.linked")) == 1
    assert alarms(core) == ["unknown-key"]


def test_ones_own_word_is_signed_once_a_state(core: NodeCore, broker: Broker) -> None:
    """And goes the way of all confirmations."""
    envelope = foreign()
    core.receive([broker.delivery(released(envelope))])
    report = envelope.reports[0]
    assert isinstance(report, SignedReport)
    report_id = str(report.header.report_id)
    first, again = core.confirm(report_id, "read"), core.confirm(report_id, "read")
    assert (first.replayed, again.replayed, first.at) == (False, True, again.at)
    core.confirm(report_id, "acting", 1)
    assert [word.state for word in said(core)] == ["received", "read", "acting"]
    for wrong in (lambda: core.confirm(str(uuid4()), "read"), lambda: core.confirm(report_id, "read", 2)):
        with pytest.raises(ProtocolError) as caught:
            wrong()
        assert caught.value.reason is Reason.UNKNOWN_REPORT


def test_many_confirmations_are_sent_in_bounded_messages(core: NodeCore, broker: Broker) -> None:
    """At most 256 in one."""
    core.receive([broker.delivery(released(foreign())) for _ in range(300)])
    sizes = [len(json.loads(message.data)) for message in core.outgoing_words(9)]
    assert sum(sizes) == 300
    assert max(sizes) <= 256


def test_events_are_announced_after_the_commit_in_order(core: NodeCore, broker: Broker) -> None:
    """The feed never shows what could still be rolled back."""
    heard: list[Event] = []
    core.store.on_events = heard.extend
    file(core, filing())
    core.receive([broker.delivery(released(foreign(count=3)))])
    with core.store.read() as reads:
        assert heard == reads.events_after(0, 99)
    assert [event.seq for event in heard] == [1, 2, 3, 4]


def test_trust_takes_newer_documents_of_the_broker_only(clock: Clock) -> None:
    """Older ones, others' ones and those of revoked keys change nothing."""
    held = trust(clock)
    assert not held.update(sign_region(region(9), key_of("broker"), START).encode())
    with pytest.raises(ProtocolError):
        held.update(sign_region(region(2), key_of("my-cert"), START).encode())
    clock.pass_(minutes=1)
    rotated = [record_of("broker", revoked_at=clock()), record_of("broker-2")]
    changed = region(3, broker_keys=rotated)
    records = grow(govern(region()), changed)
    with pytest.raises(ProtocolError) as caught:
        held.update(sign_region(changed, key_of("broker"), clock(), records).encode(), records)
    assert caught.value.reason is Reason.KEY_REVOKED
    assert held.update(sign_region(changed, key_of("broker-2"), clock(), records).encode(), records)
    assert held.registry.region.serial == 3
    with pytest.raises(ProtocolError) as caught:
        held.update(sign_region(changed, key_of("broker"), clock(), records).encode(), records)
    assert caught.value.reason is Reason.KEY_REVOKED


def test_the_open_policy_is_what_it_says() -> None:
    """These tests share and take everything unless they say otherwise."""
    assert OPEN_POLICY.count('"*"') == 4


def test_words_to_and_fro_in_one_moment(core: NodeCore, broker: Broker) -> None:
    """Read, acting, read again while the clock stands still: three words, in order, none of them the same statement."""
    envelope = foreign()
    core.receive([broker.delivery(released(envelope))])
    report = envelope.reports[0]
    assert isinstance(report, SignedReport)
    words: list[Any] = ["read", "acting", "read"]
    told = [core.confirm(str(report.header.report_id), word) for word in words]
    assert [one.replayed for one in told] == [False] * 3
    assert sorted({one.at for one in told}) == [one.at for one in told]
