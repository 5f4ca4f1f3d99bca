"""A broker that grants, or hands out, what it must not is found by the node on either side."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from node.core import NodeCore
from node.granting import check_granted
from protocol import statements as st
from protocol.envelope import SignedReport
from protocol.errors import ProtocolError
from protocol.grants import commit
from protocol.policy import HEADER, load_policy
from protocol.report import UNIT_BIT
from protocol.statements import Decision, ReportReceipt
from tests.node.looking import alarms, events, inbox, said
from tests.node.test_filing import file
from tests.node.world import OPEN_POLICY, START, Broker, Clock, filing, foreign, receipts, released
from tests.protocol.make import FULL, body_from, report, signed, whole

DESCRIPTION = 1 << UNIT_BIT["description"]
TITLE = 1 << UNIT_BIT["title"]

# --- the recipient ----------------------------------------------------------------------------------------------


def test_a_field_beyond_the_log_is_not_taken(core: NodeCore, broker: Broker) -> None:
    """The origin signed it, the broker released it, but its entry in the log does not grant it: refused and alarmed."""
    envelope = foreign()
    text = released(envelope)
    core.receive([broker.delivery(text, grants=[broker.opening(text, exact=HEADER | TITLE, coarse=0)])])
    assert inbox(core) == []
    assert alarms(core) == ["not-granted"]
    (word,) = said(core)
    assert word.state == "refused"
    assert word.refusal
    assert word.refusal.reason == "not-granted"


def test_what_the_log_grants_is_taken(core: NodeCore, broker: Broker) -> None:
    """Exactly that, or less."""
    envelope = foreign()
    text = released(envelope, HEADER | TITLE, 0)
    for exact in (HEADER | TITLE, HEADER | TITLE | DESCRIPTION):
        core.receive([broker.delivery(text, grants=[broker.opening(text, exact=exact, coarse=0)])])
    assert len(inbox(core)) == 1
    assert alarms(core) == []


def test_a_report_that_the_log_does_not_name_is_not_taken(core: NodeCore, broker: Broker) -> None:
    """Two reports are delivered, and the entry grants one: that one is taken."""
    envelope = foreign(count=2)
    text = released(envelope)
    opening = broker.opening(text)
    first = envelope.reports[0].digest
    one = msgspec.structs.replace(opening, reports=[row for row in opening.reports if row[0] == first])
    core.receive([broker.delivery(text, grants=[one])])
    assert [row.digest for row in inbox(core)] == [first]
    assert alarms(core) == ["not-granted"]


def test_the_header_needs_a_grant_too(core: NodeCore, broker: Broker) -> None:
    """An entry with units but without the header's bit grants nothing."""
    text = released(foreign(), HEADER, 0)
    core.receive([broker.delivery(text, grants=[broker.opening(text, exact=0, coarse=0)])])
    assert alarms(core) == ["not-granted"]


def test_a_coarse_value_needs_its_own_grant(broker: Broker) -> None:
    """A grant of the exact value is none of the coarse one: each is a disclosure of its own."""
    envelope = signed(report(1, body_from(FULL)))
    (found,) = envelope.reports
    assert isinstance(found, SignedReport)
    exact, coarse = found.units()
    assert coarse
    opening = broker.opening(whole(envelope), exact=exact | HEADER, coarse=coarse)
    check_granted(found, opening)
    for bit in range(coarse.bit_length()):
        if coarse >> bit & 1:
            less = [(digest, fine, broad & ~(1 << bit)) for digest, fine, broad in opening.reports]
            with pytest.raises(ProtocolError, match="not-granted"):
                check_granted(found, msgspec.structs.replace(opening, reports=less))


def test_a_delivery_without_its_grants_is_no_delivery(core: NodeCore, broker: Broker) -> None:
    """An item that rests on no opening."""
    core.receive([broker.delivery(released(foreign()), grants=[])])
    assert inbox(core) == []
    assert alarms(core) == ["not-granted"]


def test_two_promises_for_one_leaf_are_a_fork(core: NodeCore, broker: Broker) -> None:
    """Whatever the log will hold there, one of the two is not in it."""
    first, second = released(foreign()), released(foreign())
    opening, other = broker.opening(first), broker.opening(second)
    core.receive([broker.delivery(first, grants=[opening])])
    core.receive([broker.delivery(first, grants=[opening])])
    assert alarms(core) == []
    core.receive([broker.delivery(second, grants=[msgspec.structs.replace(other, leaf=opening.leaf)])])
    assert alarms(core) == ["log-forked"]


# --- the origin -------------------------------------------------------------------------------------------------


def receipt_granting(broker: Broker, message: bytes, member: str, decision: Decision) -> str:
    reports = [
        ReportReceipt(digest=report.digest, outcome="accepted", to={member: 0})
        for report in broker.open(message).reports
    ]
    return broker.receipt(message, decisions=[decision], reports=reports)


NO_DESCRIPTION = OPEN_POLICY.replace('disclose = ["*"]\n[[import]]', 'disclose = ["title"]\n[[import]]')


@pytest.mark.parametrize(
    ("decision", "found"),
    [
        (Decision(granted=True, exact=HEADER | TITLE), []),
        (Decision(granted=True, exact=HEADER | TITLE | DESCRIPTION), ["granted-too-much"]),
        (Decision(granted=True, exact=HEADER, coarse=DESCRIPTION), ["granted-too-much"]),
        (Decision(granted=False, exact=HEADER | DESCRIPTION), []),
    ],
)
def test_a_grant_beyond_the_own_policy_is_an_alarm(
    core: NodeCore, broker: Broker, clock: Clock, decision: Decision, found: list[str]
) -> None:
    """The receipt says what the log says; the origin holds it to its own policy."""
    core.adopt(load_policy(OPEN_POLICY.replace("{j}", "id"), "p"), "p")
    policy = load_policy(NO_DESCRIPTION.replace("{j}", "id").replace("version = 1", "version = 2"), "p")
    core.adopt(msgspec.structs.replace(policy, effective_from=START), "p")
    file(core, filing())
    core.receive([receipts(receipt_granting(broker, core.outgoing(1)[0].data, "my-cert", decision))])
    # The version before shared everything: a broker that has not heard of the new one is no liar.
    assert alarms(core) == []
    core.adopt(msgspec.structs.replace(policy, version=3, effective_from=START + timedelta(seconds=1)), "p")
    clock.pass_(seconds=2)
    file(core, filing("Another"))
    core.receive([receipts(receipt_granting(broker, core.outgoing(1)[0].data, "my-cert", decision))])
    assert alarms(core) == found


def test_a_report_that_is_named_twice_is_held_to_both(core: NodeCore, broker: Broker) -> None:
    """A receipt that first grants too much of a report and then speaks of it again."""
    file(core, filing(marking={"tlp": "AMBER", "recipients": ["sg"]}))
    message = core.outgoing(1)[0].data
    (report,) = broker.open(message).reports
    said = [
        ReportReceipt(digest=report.digest, outcome="accepted", to={"my-cert": 0}),
        ReportReceipt(digest=report.digest, outcome="accepted", to={}),
    ]
    jws = broker.receipt(message, decisions=[Decision(granted=True, exact=HEADER)], reports=said)
    core.receive([receipts(jws)])
    assert alarms(core) == ["granted-too-much"]


def test_two_receipts_for_one_leaf_are_a_fork(core: NodeCore, broker: Broker) -> None:
    """Also when they come in one message."""
    for title in ("One", "Another"):
        file(core, filing(title))
    first, second = (broker.receipt(item.data, leaf=5) for item in core.outgoing(2))
    core.receive([receipts(first, second)])
    assert alarms(core) == ["log-forked"]
    with core.store.read() as reads:
        assert len(reads.leaves_by("leaf", [5])) == 1


def test_a_grant_to_somebody_who_is_not_named_is_an_alarm(core: NodeCore, broker: Broker) -> None:
    """The report's own marking counts like the policy."""
    file(core, filing(marking={"tlp": "AMBER", "recipients": ["sg"]}))
    decision = Decision(granted=True, exact=HEADER)
    message = core.outgoing(1)[0].data
    core.receive([receipts(receipt_granting(broker, message, "my-cert", decision))])
    assert alarms(core) == ["granted-too-much"]
    (event,) = events(core, "alarm")
    assert event["member"] == "my-cert"


def test_a_withdrawal_may_go_to_anybody_but_only_as_a_header(core: NodeCore, broker: Broker) -> None:
    """It follows those who had an earlier revision, whatever today's policy says."""
    report_id = file(core, filing(marking={"tlp": "AMBER", "recipients": ["sg"]}))["report_id"]
    core.outgoing(1)
    for revision, exact, found in ((2, HEADER, []), (3, HEADER | TITLE, ["granted-too-much"])):
        file(core, {**filing(f"End {revision}"), "report_id": report_id, "revision": revision, "phase": "withdrawn"})
        (message,) = [item.data for item in core.outgoing(9)]
        core.receive([receipts(receipt_granting(broker, message, "my-cert", Decision(granted=True, exact=exact)))])
        assert alarms(core) == found


def test_an_own_receipt_is_expected_in_the_log(core: NodeCore, broker: Broker) -> None:
    """With the entry that it computes itself."""
    file(core, filing())
    jws = broker.receipt(core.outgoing(1)[0].data)
    core.receive([receipts(jws)])
    with core.store.read() as reads:
        (row,) = reads.leaves_by("leaf", [0])
    receipt = st.open_statement(jws, st.Receipt, core.trust.broker_keys.find, START)
    assert row.entry == commit(receipt, jws).entry
    assert (row.about, row.state) == ("receipt", "waiting")
