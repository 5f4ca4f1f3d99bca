"""Step 8: what the broker sends is believed only as far as it is signed, stored once, and answered."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from node.core import NodeCore
from node.views import inbox_report
from protocol import statements as st
from protocol.envelope import SignedReport
from protocol.keys import unb64
from protocol.report import UNIT_BIT, Body, Exercise
from protocol.subjects import Kind
from tests.governing import govern, sign_region
from tests.node.looking import alarms, events, inbox, said, shown
from tests.node.test_filing import file
from tests.node.world import (
    MEMBERS,
    START,
    Broker,
    Clock,
    Msg,
    filing,
    foreign,
    key_of,
    make_core,
    receipts,
    record_of,
    region,
    released,
    trust,
)

pytestmark = pytest.mark.usefixtures("each_database")

# --- receipts ----------------------------------------------------------------------------------------------------


def test_a_receipt_is_stored_once(core: NodeCore, broker: Broker) -> None:
    """It settles the submission, sets the state, explains each recipient; again it changes nothing."""
    report_id = file(core, filing())["report_id"]
    receipt = broker.receipt(core.outgoing(1)[0].data)
    taken = core.receive([receipts(receipt, receipt)])
    assert len(taken.settled) == 1
    before = shown(core, report_id)
    core.receive([receipts(receipt)])
    assert shown(core, report_id) == before
    assert len(events(core, "report.receipt")) == 1
    assert before["state"] == "accepted"
    recipients = before["revisions"][0]["recipients"]
    assert recipients["my-cert"] == {"state": "queued", "granted": True, "by": [], "withheld": []}
    assert recipients["sg-cert"]["withheld"][0] | {"rule": "no-victims"} == recipients["sg-cert"]["withheld"][0]
    assert alarms(core) == []


def test_a_refusal_of_the_whole_submission_reaches_every_report(core: NodeCore, broker: Broker) -> None:
    """With the broker's reason."""
    report_id = file(core, filing())["report_id"]
    refusal = st.Refusal(reason="member-suspended", detail="x")
    core.receive([receipts(broker.receipt(core.outgoing(1)[0].data, reports=[], decisions=[], refusal=refusal))])
    assert shown(core, report_id)["revisions"][0]["refusal"]["reason"] == "member-suspended"


def test_a_receipt_for_a_foreign_submission_is_an_alarm(
    core: NodeCore, broker: Broker, tmp_path: Path, clock: Clock
) -> None:
    """Somebody used this member's transport credentials."""
    other = make_core(tmp_path / "other", clock)
    file(other, filing())
    core.receive([receipts(broker.receipt(other.outgoing(1)[0].data))])
    assert alarms(core) == ["unknown-submission"]


def test_a_second_different_receipt_is_an_alarm(core: NodeCore, broker: Broker) -> None:
    """A broker that changes its word is caught; the first one stays."""
    report_id = file(core, filing())["report_id"]
    message = core.outgoing(1)[0].data
    core.receive([receipts(broker.receipt(message))])
    refusal = st.Refusal(reason="member-suspended")
    core.receive([receipts(broker.receipt(message, refusal=refusal))])
    assert alarms(core) == ["content-changed"]
    assert shown(core, report_id)["state"] == "accepted"


def test_a_receipt_that_leaves_a_report_out_is_not_silence(core: NodeCore, broker: Broker) -> None:
    """The report is rejected with a reason, and what the receipt names instead is an alarm."""
    report_id = file(core, filing())["report_id"]
    stranger = st.ReportReceipt(digest="A" * 43, outcome="accepted")
    core.receive([receipts(broker.receipt(core.outgoing(1)[0].data, reports=[stranger]))])
    assert shown(core, report_id)["revisions"][0]["refusal"]["reason"] == "unknown-report"
    assert alarms(core) == ["unknown-report"]


def test_only_the_brokers_signature_makes_a_receipt(core: NodeCore, broker: Broker) -> None:
    """A member's key, an unknown key, another audience: alarms, and the submission still waits."""
    file(core, filing())
    message = core.outgoing(1)[0].data
    good = broker.receipt(message)
    statement = st.open_statement(good, st.Receipt, core.trust.broker_keys.find, START)
    core.receive(
        [
            receipts(broker.sign(statement, key_of("my-cert"))),
            receipts(broker.sign(statement, key_of("nobody"))),
            receipts(broker.receipt(message, aud="my-cert")),
            receipts(good[:-4] + "AAAA"),
        ]
    )
    assert sorted(alarms(core)) == ["signature-invalid", "unknown-key", "unknown-key", "wrong-audience"]
    assert core.outbox.weight == 1


def test_a_receipt_with_a_revoked_key_does_not_count(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """Also if it says that it was signed before."""
    keys = [record_of("broker", revoked_at=START + timedelta(days=1)), record_of("broker-2")]
    core = make_core(tmp_path, clock, trust=trust(clock, broker_keys=keys))
    file(core, filing())
    receipt = broker.receipt(core.outgoing(1)[0].data)
    for days in (2, 400):
        clock.pass_(days=days)
        core.receive([receipts(receipt)])
    assert alarms(core) == ["key-revoked", "key-revoked"]
    assert core.outbox.weight == 1


def test_a_receipt_outlives_its_key(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """One that comes after a year offline still counts."""
    file(core, filing(), filing("B"))
    receipt = broker.receipt(core.outgoing(1)[0].data)
    clock.pass_(days=400)
    core.receive([receipts(receipt)])
    assert alarms(core) == []
    assert core.outbox.weight == 0


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Msg(Kind.RECEIPTS, b"nonsense"), "not-json"),
        (Msg(Kind.RECEIPTS, b'["a.b.c"]'), "malformed-envelope"),
        (Msg(Kind.RECEIPTS, '["ü.ü.ü"]'.encode()), "malformed-envelope"),
        (Msg(Kind.RECEIPTS, b"[1]"), "wrong-type"),
        (Msg(Kind.DELIVERY, b"\xff\n"), "malformed-envelope"),
        (Msg(Kind.DELIVERY, b""), "malformed-envelope"),
        (Msg(Kind.LINKS, b"\xff"), "malformed-envelope"),
        (Msg(Kind.CONFIRMED, b"{}"), "wrong-type"),
        (Msg("surprise", b"x"), "unknown-value"),
    ],
)
def test_nonsense_is_an_alarm_and_holds_nothing_up(core: NodeCore, broker: Broker, message: Msg, reason: str) -> None:
    """The message after it is taken."""
    core.receive([message, broker.delivery(released(foreign()))])
    assert alarms(core) == [reason]
    assert len(inbox(core)) == 1


# --- deliveries --------------------------------------------------------------------------------------------------


def test_a_delivery_is_stored_and_confirmed_to_its_origins(core: NodeCore, broker: Broker) -> None:
    """One confirmation an origin, naming the delivery."""
    mine, theirs = foreign(count=3), foreign("sg-cert")
    core.receive([broker.delivery(released(mine), released(theirs), number=7)])
    assert len(inbox(core)) == 4
    words = said(core)
    assert {(word.aud, word.state, len(word.reports), word.delivery) for word in words} == {
        ("my-cert", "received", 3, 7),
        ("sg-cert", "received", 1, 7),
    }
    assert len(events(core, "report.received")) == 4


def test_a_redelivery_is_one_row_and_the_same_confirmation(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Byte for byte, also after the broker had noted it."""
    message = broker.delivery(released(foreign()))
    core.receive([message])
    first = core.outgoing_words(9)
    core.receive([receipts(broker.noted(json.loads(first[0].data)))])
    clock.pass_(hours=1)
    assert core.outgoing_words(9) == []
    core.receive([message, message])
    assert [again.data for again in core.outgoing_words(9)] == [first[0].data]
    assert len(inbox(core)) == 1
    assert len(events(core, "report.received")) == 1


def test_the_same_report_in_another_delivery_is_confirmed_for_that_one(core: NodeCore, broker: Broker) -> None:
    """The broker closes deliveries by their numbers."""
    text = released(foreign())
    core.receive([broker.delivery(text, number=1)])
    core.receive([broker.delivery(text, number=2)])
    assert [word.delivery for word in said(core)] == [1, 2]
    with core.store.read() as reads:
        (row,) = reads.inbox_page(0, 9)
        (statement,) = reads.statements_by([row.statement])
    assert (row.delivery, b'"id":2' in unb64(statement.jws.split(".")[1])) == (2, True), "and rests on its statement"
    assert len(inbox(core)) == 1


def test_confirmations_are_sent_again_until_noted(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """The same bytes each time, and none after the broker's word."""
    core.receive([broker.delivery(released(foreign()))])
    first = core.outgoing_words(9)
    core.tried_words(first[0].numbers, [])
    clock.pass_(seconds=15)
    again = core.outgoing_words(9)
    assert again == first
    core.receive([receipts(broker.noted(json.loads(first[0].data)))])
    core.tried_words(again[0].numbers, [])
    clock.pass_(hours=1)
    assert core.outgoing_words(9) == []
    assert len(core.words) == 0


def test_a_refused_confirmation_is_an_alarm_and_not_sent_again(core: NodeCore, broker: Broker) -> None:
    """The broker's reason is in the feed."""
    core.receive([broker.delivery(released(foreign()))])
    jws = json.loads(core.outgoing_words(9)[0].data)[0]
    refused = {st.statement_digest(jws): st.Refusal(reason="unknown-delivery")}
    core.receive([receipts(broker.noted([], refused=refused))])
    assert alarms(core) == ["unknown-delivery"]
    assert len(core.words) == 0


def test_only_the_broker_delivers(core: NodeCore, broker: Broker) -> None:
    """Another's signature, another's audience, changed items: nothing is stored, nothing confirmed."""
    text = released(foreign())
    changed = broker.delivery(text)
    core.receive(
        [
            broker.delivery(text, key=key_of("my-cert")),
            broker.delivery(text, aud="sg-cert"),
            Msg(Kind.DELIVERY, changed.data + b" "),
        ]
    )
    assert sorted(alarms(core)) == ["content-changed", "unknown-key", "wrong-audience"]
    assert (inbox(core), said(core)) == ([], [])


def test_only_the_origins_signature_makes_a_report(core: NodeCore, broker: Broker) -> None:
    """A forged envelope inside a sound delivery is refused to the member that it names, with an alarm."""
    forged = foreign(key=key_of("broker"))
    core.receive([broker.delivery(released(forged), released(foreign("sg-cert")))])
    assert alarms(core) == ["wrong-member"]
    words = {word.aud: word for word in said(core)}
    assert words["my-cert"].state == "refused"
    assert words["my-cert"].reports == [report.digest for report in forged.reports]
    assert words["sg-cert"].state == "received"
    assert len(inbox(core)) == 1


def test_a_changed_disclosure_is_refused(core: NodeCore, broker: Broker) -> None:
    """What the origin did not sign is not read."""
    text = released(foreign())
    core.receive([broker.delivery(text[:-2] + ("A" if text[-2] != "A" else "B") + "~")])
    assert alarms(core) == ["disclosure-unreferenced"]
    assert inbox(core) == []


def test_a_member_cannot_pass_for_another_jurisdiction(core: NodeCore, broker: Broker) -> None:
    """Import policies go by jurisdiction: it must be the signer's own."""
    core.receive([broker.delivery(released(foreign("my-cert", jurisdiction="sg")))])
    assert alarms(core) == ["wrong-member"]
    assert [word.state for word in said(core)] == ["refused"]


def test_drill_reports_are_refused(core: NodeCore, broker: Broker) -> None:
    """Drills never touch live traffic."""
    core.receive([broker.delivery(released(foreign(exercise=Exercise(exercise_id="drill"))))])
    assert alarms(core) == ["exercise-mixed"]
    assert inbox(core) == []


def test_ones_own_reports_do_not_come_back(core: NodeCore, broker: Broker) -> None:
    """They would look like another's."""
    core.receive([broker.delivery(released(foreign("id-cert")))])
    assert alarms(core) == ["own-report"]
    assert inbox(core) == []


def test_ids_that_are_here_are_not_taken_over(core: NodeCore, broker: Broker) -> None:
    """Another origin with the same report id, the same revision with other content, an own report's id."""
    report_id, own_id = uuid4(), UUID(file(core, filing())["report_id"])
    core.receive([broker.delivery(released(foreign("my-cert", report_id=report_id)))])
    core.receive([broker.delivery(released(foreign("sg-cert", report_id=report_id, revision=2)))])
    core.receive([broker.delivery(released(foreign("my-cert", report_id=report_id)))])
    core.receive([broker.delivery(released(foreign("my-cert", report_id=own_id)))])
    assert alarms(core) == ["report-id-taken", "revision-conflict", "report-id-taken"]
    assert len(inbox(core)) == 1
    assert [word.state for word in said(core)] == ["received", "refused", "refused", "refused"]


def test_a_bad_report_does_not_take_others_with_it(core: NodeCore, broker: Broker) -> None:
    """Same envelope, same delivery."""
    good, bad = foreign(count=2), foreign("sg-cert", body=Body())
    core.receive([broker.delivery(released(good), "nonsense", released(bad))])
    assert alarms(core) == ["malformed-envelope"]
    assert len(inbox(core)) == 3


IMPORT = """
jurisdiction = "{j}"
version = 1
effective_from = 2026-01-01T00:00:00Z
[[import]]
id = "from-my"
effect = "allow"
because = "test"
from = ["my"]
disclose = ["*"]
[[import]]
id = "no-persons"
effect = "deny"
because = "test"
from = ["*"]
disclose = ["@personal", "victim"]
level = { "victim" = "coarse" }
"""


def test_the_import_policy_drops_what_may_not_be_held(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """Neither in the view nor in the signed bytes; what is left still verifies, and the rule is named."""
    core = make_core(tmp_path, clock, policy=IMPORT)
    seen_from_afar = ~(1 << UNIT_BIT["victim"])
    core.receive([broker.delivery(released(foreign(), exact=seen_from_afar), released(foreign()))])
    row, without_coarse = inbox(core)
    assert "victim_coarse" not in json.loads(without_coarse.view)["body"]
    view = json.loads(row.view)
    assert "contacts" not in view["body"]
    assert "victim" not in view["body"]
    assert view["body"]["victim_coarse"] == {"sector": "finance"}
    kept = broker.open(row.presentation.encode()).reports[0]
    assert isinstance(kept, SignedReport)
    assert kept.body == view["body"]
    assert row.undisclosed >= kept.undisclosed > 0
    assert [(item["unit"], item["rule"]) for item in json.loads(row.withheld)] == [("contacts", "no-persons")]


def test_the_import_policy_refuses_whole_reports(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """The origin reads why; it is nobody's fault, so there is no alarm."""
    core = make_core(tmp_path, clock, policy=IMPORT)
    message = broker.delivery(released(foreign("sg-cert")))
    core.receive([message])
    core.receive([message])
    word = said(core)
    assert [(item.state, item.refusal.reason) for item in word if item.refusal] == [("refused", "default-deny")]
    assert len(word) == 1
    assert (inbox(core), alarms(core)) == ([], [])
    assert len(events(core, "report.refused")) == 1
    refused_id = events(core, "report.refused")[0]["report_id"]
    with core.store.read() as reads:
        found = inbox_report(reads, refused_id)
    assert found is not None
    assert found["refused"][0]["refusal"]["reason"] == "default-deny"


def test_an_unknown_key_is_asked_for_once(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """First left alone, for the caller to fetch the region; then refused, or read with the new document."""
    newcomer = foreign("th-cert", jurisdiction="th")
    message = broker.delivery(released(newcomer))
    assert core.open([message]).again == [0]
    members = (
        *MEMBERS,
        msgspec.structs.replace(MEMBERS[0], id="th-cert", jurisdiction="th", keys=[record_of("th-cert")]),
    )
    clock.pass_(seconds=1)
    place = region(2, members)
    core.trust.update(sign_region(place, key_of("broker"), clock()).encode(), govern(place))
    opened = core.open([message], region_is_fresh=True)
    assert opened.again == []
    core.take_in(opened)
    assert [row.origin for row in inbox(core)] == ["th-cert"]


def test_a_key_that_stays_unknown_is_an_alarm(core: NodeCore, broker: Broker) -> None:
    """With the region fresh, waiting longer does not help."""
    core.receive([broker.delivery(released(foreign("th-cert", jurisdiction="th")))])
    assert alarms(core) == ["unknown-key"]
    assert inbox(core) == []
