"""What becomes of a submission, decision by decision: verified, refused, duplicate, routed, receipted, linked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.ingest import PULL, Incoming, how_many, in_batches
from broker.outgoing import Outgoing
from protocol import limits
from protocol.registry import Member
from protocol.report import Exercise, Marking, Origin, Report
from protocol.statements import Delivered, open_statement
from protocol.subjects import Kind
from tests.broker.make import COORDINATOR, Hub
from tests.federation import open_policy
from tests.protocol import make

pytestmark = pytest.mark.usefixtures("each_database")

ALL_BUT_ORIGIN = {"sg-cert", "my-cert", "ph-cert"}
EVERYTHING: dict[str, Any] = {"id": "all", "effect": "allow", "because": "x", "to": ["*"], "disclose": ["*"]}


def origin(name: str) -> Origin:
    return Origin(jurisdiction=name, member=f"{name}-cert")


def report(number: int = 1, text: str = "text", **header: Any) -> Report:
    """A report with content of its own."""
    header.setdefault("fingerprint", f"fingerprint-{number:04d}")
    return make.report(number, body=make.body_from({"title": f"{text} {number}"}), **header)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def refusal(hub: Hub, *reports: Report, member: str = "id-cert", seed: str = "s") -> tuple[str, str]:
    receipt, work = hub.submit(*reports, member=member, seed=seed)
    assert not hub.delivered(work)
    found = receipt.refusal or receipt.reports[0].refusal
    assert found
    return found.reason, found.path


def test_an_accepted_report_reaches_everyone_who_is_granted_it(hub: Hub) -> None:
    """The receipt names each recipient, and each recipient's copy verifies."""
    receipt, work = hub.submit(report())
    assert [item.outcome for item in receipt.reports] == ["accepted"]
    assert set(receipt.reports[0].to) == ALL_BUT_ORIGIN | {COORDINATOR}
    assert set(hub.delivered(work)) == ALL_BUT_ORIGIN
    assert len(hub.rows("deliveries")) == 3


def test_a_forged_signature_is_refused_and_kept_in_quarantine(hub: Hub) -> None:
    """Nothing is accepted, the sender's account is told, and the bytes are there for the operator."""
    jws, rest = make.whole(make.signed(report())).split("~", 1)
    head, payload, signature = jws.split(".")
    forged = f"{head}.{payload}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}~{rest}"
    receipt, work = hub.submit_text(forged)
    assert receipt.refusal
    assert receipt.refusal.reason == "signature-invalid"
    assert not hub.delivered(work)
    assert not hub.rows("reports")
    assert [row.reason for row in hub.rows("quarantine")] == ["signature-invalid"]


def test_another_members_subject_does_not_carry_my_signature(hub: Hub) -> None:
    """The member that the transport vouches for must be the one who signed."""
    receipt, work = hub.submit_text(make.whole(make.signed(report())), member="sg-cert")
    assert receipt.refusal
    assert receipt.refusal.reason == "wrong-member"
    assert receipt.aud == "sg-cert"
    assert not hub.delivered(work)


def test_a_suspended_member_cannot_submit(hub: Hub) -> None:
    """Suspension bites on submissions, before anything is looked at."""
    hub.members = [
        msgspec.structs.replace(item, status="suspended") if item.id == "id-cert" else item for item in hub.members
    ]
    hub.load()
    assert refusal(hub, report()) == ("member-suspended", "$")


def test_an_unreadable_message_does_not_hold_up_the_others(hub: Hub) -> None:
    """Garbage goes to quarantine; what came with it is accepted."""
    good = make.whole(make.signed(report())).encode()
    work = hub.core.process(
        [
            Incoming("id-cert", Kind.SUBMISSION, b"\xff\xfe garbage"),
            Incoming("id-cert", "nonsense", b"x"),
            Incoming("sg-cert", Kind.CONFIRMATIONS, b"not json"),
            Incoming("id-cert", Kind.SUBMISSION, good),
        ],
        hub.now,
    )
    assert set(hub.delivered(work)) == ALL_BUT_ORIGIN
    assert len(hub.rows("quarantine")) == 3


def test_one_bad_report_does_not_take_its_neighbours_with_it(hub: Hub) -> None:
    """In an envelope of three, one of a wrong jurisdiction is rejected and two are accepted."""
    wrong = report(2, origin=Origin(jurisdiction="sg", member="id-cert"))
    receipt, work = hub.submit(report(1), wrong, report(3))
    outcomes = sorted((item.outcome, item.refusal.reason if item.refusal else "") for item in receipt.reports)
    assert outcomes == [("accepted", ""), ("accepted", ""), ("rejected", "wrong-member")]
    assert all(len(found) == 2 for found in hub.delivered(work).values())


def test_the_same_submission_is_answered_with_the_same_bytes(hub: Hub) -> None:
    """Twice is once, also within one batch, and later, and with a later clock."""
    text = make.whole(make.signed(report())).encode()
    first = hub.core.process([Incoming("id-cert", Kind.SUBMISSION, text)] * 2, hub.now)
    hub.now += timedelta(hours=1)
    again = hub.core.process([Incoming("id-cert", Kind.SUBMISSION, text)], hub.now)
    receipts = [[item.data for item in work.outgoing if item.kind == Kind.RECEIPTS] for work in (first, again)]
    assert receipts[0] == receipts[1]
    assert not hub.delivered(again)
    assert len(hub.rows("reports")) == 1
    assert len(hub.rows("deliveries")) == 3


def test_a_mutilated_copy_does_not_answer_for_the_real_submission(hub: Hub) -> None:
    """A refused message is known by all of its bytes, so that spoiling a copy cannot block the original."""
    text = make.whole(make.signed(report()))
    receipt, _ = hub.submit_text(text + "WyJ4Il0~")
    assert receipt.refusal
    assert receipt.refusal.reason.startswith("disclosure-")
    receipt, work = hub.submit_text(text)
    assert receipt.reports[0].outcome == "accepted"
    assert set(hub.delivered(work)) == ALL_BUT_ORIGIN


def test_a_revision_with_other_content_is_a_conflict(hub: Hub) -> None:
    """Same id, same revision, other content: rejected; the next revision is welcome."""
    hub.submit(report(1))
    assert refusal(hub, report(1, text="other", fingerprint="another-fingerprint"), seed="t") == (
        "revision-conflict",
        "$.revision",
    )
    receipt, _ = hub.submit(report(1, text="next", revision=2, fingerprint="yet-another-print"), seed="u")
    assert receipt.reports[0].outcome == "accepted"


def test_nobody_takes_over_anothers_report_or_incident(hub: Hub) -> None:
    """An id belongs to the member that used it first."""
    hub.submit(report(1))
    foreign = report(1, origin=origin("sg"), revision=2, fingerprint="foreign-fingerprint")
    assert refusal(hub, foreign, member="sg-cert") == ("report-id-taken", "$.report_id")
    mine = make.header(1).incident_id
    foreign = report(2, origin=origin("sg"), incident_id=mine, fingerprint="foreign-fingerprint")
    assert refusal(hub, foreign, member="sg-cert", seed="t") == ("incident-id-taken", "$.incident_id")


def test_the_same_content_under_a_new_id_is_a_duplicate(hub: Hub) -> None:
    """It is not routed, and the receipt names the first; another member's equal fingerprint means nothing."""
    first, _ = hub.submit(report(1, fingerprint="same-fingerprint-1"))
    second, work = hub.submit(report(2, fingerprint="same-fingerprint-1"), seed="t")
    assert second.reports[0].outcome == "duplicate"
    assert second.reports[0].duplicate_of == first.reports[0].digest
    assert not hub.delivered(work)
    other, _ = hub.submit(report(3, origin=origin("sg"), fingerprint="same-fingerprint-1"), member="sg-cert")
    assert other.reports[0].outcome == "accepted"


def test_drills_future_reports_and_unknown_recipients_are_refused(hub: Hub) -> None:
    """Each with its reason and the path of the field."""
    assert refusal(hub, report(1, exercise=Exercise(exercise_id="x")), seed="a") == ("exercise-mixed", "$.exercise")
    late = hub.now + limits.CLOCK_SKEW + timedelta(seconds=1)
    assert refusal(hub, report(2, issued_at=late), seed="b") == ("time-in-future", "$.issued_at")
    marking = Marking(tlp="AMBER", recipients=["sg", "atlantis"])
    assert refusal(hub, report(3, marking=marking), seed="c") == ("unknown-recipient", "$.marking.recipients[1]")


def test_named_recipients_get_it_and_nobody_else(hub: Hub) -> None:
    """Everybody else is told nothing; the origin is told why."""
    receipt, work = hub.submit(report(marking=Marking(tlp="AMBER", recipients=["sg"])))
    assert set(hub.delivered(work)) == {"sg-cert"}
    decisions = {name: receipt.decisions[index] for name, index in receipt.reports[0].to.items()}
    assert decisions["sg-cert"].granted
    assert decisions["my-cert"].withheld[0].reason == "not-a-named-recipient"


def test_red_in_clear_is_refused(hub: Hub) -> None:
    """The broker is nobody's named recipient: what is RED comes sealed, or not at all."""
    assert refusal(hub, report(marking=Marking(tlp="RED", recipients=["sg"]))) == ("not-sealed", "$.sealed")


def test_a_revision_may_say_the_same_as_another_report(hub: Hub) -> None:
    """Two withdrawals say the same; neither is a duplicate, both reach who had the reports."""
    hub.submit(report(1))
    hub.submit(report(2), seed="t")
    for number, seed in ((1, "u"), (2, "v")):
        ended = report(number, text="gone", revision=2, phase="withdrawn", fingerprint="the-same-fingerprint")
        receipt, work = hub.submit(ended, seed=seed)
        assert receipt.reports[0].outcome == "accepted"
        assert set(hub.delivered(work)) == ALL_BUT_ORIGIN


def test_a_withdrawal_reaches_everyone_who_had_any_revision(hub: Hub) -> None:
    """Also those whom today's policy would not give it, header only; and nobody who never had it."""
    hub.policies["id"] = open_policy("id", export=[{**EVERYTHING, "to": ["sg", "my"]}])
    hub.load()
    hub.submit(report(1))
    hub.policies["id"] = open_policy("id", export=[{**EVERYTHING, "to": ["my", "ph"]}])
    hub.load()
    receipt, work = hub.submit(report(1, revision=2, phase="withdrawn", fingerprint="withdrawn-fingerprint"), seed="t")
    delivered = hub.delivered(work)
    assert set(delivered) == {"sg-cert", "my-cert"}
    assert all(not item.body for found in delivered.values() for item in found)
    decisions = {name: receipt.decisions[index] for name, index in receipt.reports[0].to.items()}
    assert decisions["ph-cert"].withheld[0].reason == "never-received"


def test_the_receipt_names_the_rule_for_every_withheld_unit(hub: Hub) -> None:
    """Gate, document and rule, for what this recipient does not get."""
    deny = {"id": "no-title", "effect": "deny", "because": "x", "from": ["*"], "disclose": ["title"]}
    take = {"id": "take", "effect": "allow", "because": "x", "from": ["*"], "disclose": ["*"]}
    hub.policies["sg"] = open_policy("sg", **{"import": [take, deny]})
    hub.load()
    receipt, work = hub.submit(report())
    (withheld,) = receipt.decisions[receipt.reports[0].to["sg-cert"]].withheld
    assert (withheld.unit, withheld.gate, withheld.document, withheld.rule) == ("title", "import", "sg/1", "no-title")
    assert "title" not in hub.delivered(work)["sg-cert"][0].body
    assert "title" in hub.delivered(work)["my-cert"][0].body


# --- confirmations ----------------------------------------------------------------------------------------------


def test_a_confirmation_closes_the_delivery_and_reaches_the_origin(hub: Hub) -> None:
    """Recorded once, noted to the recipient, forwarded to the origin as the recipient signed it."""
    receipt, work = hub.submit(report())
    (number,) = [item.delivery for item in work.outgoing if item.member == "sg-cert" and item.delivery]
    digest = receipt.reports[0].digest
    noted = hub.confirm("sg-cert", "id-cert", [digest], delivery=number)
    assert len(noted.confirmations) == 1
    assert [item.member for item in hub.last.outgoing if item.kind == Kind.CONFIRMED] == ["id-cert"]
    again = hub.confirm("sg-cert", "id-cert", [digest], delivery=number)
    assert again.confirmations == noted.confirmations
    assert len(hub.rows("confirmations")) == 1
    states = {row.member: row.state for row in hub.rows("deliveries")}
    assert states == {"sg-cert": "confirmed", "my-cert": "pending", "ph-cert": "pending"}


def test_only_who_was_granted_a_report_can_confirm_it(hub: Hub) -> None:
    """A confirmation of a report that was not sent to the member is refused, and tells it why."""
    receipt, _ = hub.submit(report(marking=Marking(tlp="AMBER", recipients=["sg"])))
    digest = receipt.reports[0].digest
    noted = hub.confirm("my-cert", "id-cert", [digest])
    assert [item.reason for item in noted.refused.values()] == ["unknown-report"]
    assert not noted.confirmations
    assert not hub.rows("confirmations")
    assert not [item for item in hub.last.outgoing if item.kind == Kind.CONFIRMED]


def test_a_member_cannot_confirm_in_anothers_name(hub: Hub) -> None:
    """A confirmation signed by one member on another's subject is refused."""
    receipt, _ = hub.submit(report())
    jws = hub.confirmation("sg-cert", "id-cert", [receipt.reports[0].digest], "received")
    hub.take("my-cert", Kind.CONFIRMATIONS, msgspec.json.encode([jws]))
    assert not hub.rows("confirmations")


def test_a_delivery_stays_open_until_each_report_is_confirmed(hub: Hub) -> None:
    """Two reports in one delivery: confirming one leaves the other to be sent again."""
    receipt, work = hub.submit(report(1), report(2))
    (number,) = [item.delivery for item in work.outgoing if item.member == "sg-cert" and item.delivery]
    first, second = (item.digest for item in receipt.reports)
    hub.confirm("sg-cert", "id-cert", [first], delivery=number)
    hub.now += timedelta(hours=1)
    due = hub.redelivery.due(hub.now, ())
    again = [item for item in due.outgoing if item.member == "sg-cert"]
    assert [item.reports for item in again] == [1]
    hub.confirm("sg-cert", "id-cert", [second], delivery=number)
    states = {row.member: row.state for row in hub.rows("deliveries")}
    assert states["sg-cert"] == "confirmed"


def told(hub: Hub, outgoing: list[Outgoing], origin: str = "id-cert") -> list[Delivered]:
    """What an origin hears of inboxes."""
    return [
        open_statement(jws, Delivered, hub.keys.find, hub.now)
        for item in outgoing
        if item.member == origin and item.kind == Kind.RECEIPTS
        for jws in msgspec.json.decode(item.data)
    ]


def test_what_lies_in_an_inbox_is_told_once(hub: Hub) -> None:
    """An origin reads that a recipient's node is away, not the region; not of those who have confirmed in time."""
    receipt, work = hub.submit(report())
    numbers = {item.member: item.delivery for item in work.outgoing if item.delivery}
    hub.redelivery.sent([number for number in numbers.values() if number], hub.now)
    hub.confirm("sg-cert", "id-cert", [receipt.reports[0].digest], delivery=numbers["sg-cert"])
    assert told(hub, hub.redelivery.due(hub.now, ()).outgoing) == [], "not before some seconds have passed"
    hub.now += timedelta(seconds=6)
    found = told(hub, hub.redelivery.due(hub.now, ()).outgoing)
    assert sorted(item.member for item in found) == sorted(set(numbers) - {"sg-cert"})
    assert all(item.reports == [receipt.reports[0].digest] for item in found)
    hub.now += timedelta(seconds=60)
    assert told(hub, hub.redelivery.due(hub.now, ()).outgoing) == [], "once"
    kinds = [row.kind for row in hub.rows("notices") if row.member == "id-cert"]
    assert kinds.count("delivered") == len(found), "and it can be asked for, should the bus lose it"


# --- the coordinator --------------------------------------------------------------------------------------------


def test_the_feed_shows_only_what_the_coordinator_is_granted(hub: Hub) -> None:
    """Restricted like any recipient's copy; of a report that it is not granted, not even the existence."""
    to_coordinator = {**EVERYTHING, "id": "coord", "to": [COORDINATOR], "disclose": []}
    hub.policies["id"] = open_policy("id", export=[{**EVERYTHING, "to": ["sg"]}, to_coordinator])
    hub.policies["my"] = open_policy("my", export=[{**EVERYTHING, "to": ["sg"]}])
    hub.load()
    hub.submit(report(1, text="CANARY"))
    hub.submit(report(2, text="CANARY", origin=origin("my")), member="my-cert", seed="t")
    entries, _ = hub.feed.after(0)
    assert [entry.kind for entry in entries] == ["report"]
    shown = msgspec.json.decode(entries[0].data)
    assert shown["body"] == {}
    assert shown["undisclosed"] == 2, "the title, and its coarse stand-in"
    assert b"CANARY" not in b"".join(entry.data for entry in entries)


def test_the_feed_follows_a_tightened_policy(hub: Hub) -> None:
    """What is no longer granted is no longer shown."""
    hub.submit(report(1))
    assert len(hub.feed.after(0)[0]) == 1
    hub.policies["id"] = open_policy("id", export=[{**EVERYTHING, "to": ["sg"]}])
    hub.load()
    assert hub.feed.after(0)[0] == []


def test_nothing_moves_with_the_coordinators_office(hub: Hub) -> None:
    """A successor is shown what is decided from then on; a predecessor that returns, what it was granted itself."""

    def hand_over(to: str) -> None:
        kept = [msgspec.structs.replace(one, roles=[r for r in one.roles if r != "coordinator"]) for one in hub.members]
        hub.members = [
            msgspec.structs.replace(one, roles=[*one.roles, "coordinator"]) if one.id == to else one for one in kept
        ]
        hub.load()

    def reports() -> list[str]:
        shown = [msgspec.json.decode(entry.data) for entry in hub.feed.after(0)[0]]
        return [one["header"]["report_id"] for one in shown]

    first, second = report(1), report(2)
    hub.submit(first)
    hand_over("sg-cert")
    assert reports() == []
    hub.submit(second, seed="t")
    assert reports() == [str(second.header.report_id)]
    hand_over(COORDINATOR)
    assert reports() == [str(first.header.report_id)]
    hub.members = [one for one in hub.members if one.id != COORDINATOR]
    hub.load()
    assert reports() == []


# --- links ------------------------------------------------------------------------------------------------------


def linked(number: int, name: str, indicators: list[dict[str, str]], **header: Any) -> Report:
    body = {"title": f"{name} {number}", "indicators": indicators, **header.pop("body", {})}
    header.setdefault("fingerprint", f"fingerprint-{number:04d}")
    return make.report(number, body=make.body_from(body), origin=origin(name), **header)


HASH = {"type": "sha256", "value": "ab" * 32}
FILE = {"type": "file-name", "value": "dropper.exe"}


def test_reports_with_a_common_hash_are_linked(hub: Hub) -> None:
    """Both origins and everyone who may read the hash in both are told, each what it may know."""
    hub.submit(linked(1, "id", [HASH]))
    upper = {**HASH, "value": HASH["value"].upper()}
    _, work = hub.submit(linked(2, "sg", [upper]), member="sg-cert", seed="t")
    told = hub.links(work)
    assert set(told) == {"id-cert", "sg-cert", "my-cert", "ph-cert"}
    assert [entry.kind for entry in hub.feed.after(0)[0]] == ["report", "report", "link"], (
        "the coordinator reads a feed"
    )
    assert told["my-cert"][0].on == {"sha256": 1}
    assert told["my-cert"][0].strength == "strong"
    assert len(hub.rows("links")) == 1


def test_a_link_is_hidden_from_those_who_may_not_read_the_identifier(hub: Hub) -> None:
    """Who is not granted the hash in both reports must not learn from a link that it is there."""
    deny = {"id": "d", "effect": "deny", "because": "x", "to": ["my", "id"], "disclose": ["indicators"]}
    hub.policies["sg"] = open_policy("sg", export=[EVERYTHING, deny])
    hub.load()
    hub.submit(linked(1, "id", [HASH]))
    _, work = hub.submit(linked(2, "sg", [HASH]), member="sg-cert", seed="t")
    assert set(hub.links(work)) == {"sg-cert", "ph-cert"}


def test_file_names_only_link_what_is_close_in_kind_and_time(hub: Hub) -> None:
    """A weak identifier needs the same RSIT class and a month; an own report links nothing."""
    day = {"times": {"occurred": {"value": "2026-02-01T00:00:00Z"}}}
    year = {"times": {"occurred": {"value": "2025-02-01T00:00:00Z"}}}
    hub.submit(linked(1, "id", [FILE], body=day))
    _, far = hub.submit(linked(2, "sg", [FILE], body=year), member="sg-cert", seed="t")
    _, own = hub.submit(linked(3, "id", [FILE], body=day), seed="u")
    assert not hub.links(far)
    assert not hub.links(own)
    _, near = hub.submit(linked(4, "my", [FILE], body=day), member="my-cert", seed="v")
    assert {item.strength for item in hub.links(near)["my-cert"]} == {"weak"}


def test_private_addresses_link_nothing(hub: Hub) -> None:
    """10.0.0.1 is in every network."""
    private = {"type": "ipv4-addr", "value": "10.0.0.1"}
    hub.submit(linked(1, "id", [private]))
    _, work = hub.submit(linked(2, "sg", [private]), member="sg-cert", seed="t")
    assert not hub.links(work)


def test_two_revisions_of_one_incident_are_linked_once(hub: Hub) -> None:
    """A link is between incidents; a new revision repeats nothing."""
    hub.submit(linked(1, "id", [HASH]))
    hub.submit(linked(2, "sg", [HASH]), member="sg-cert", seed="t")
    _, work = hub.submit(linked(2, "sg", [HASH, FILE], revision=2), member="sg-cert", seed="u")
    assert not hub.links(work)
    assert len(hub.rows("links")) == 1


def test_no_member_has_the_brokers_name() -> None:
    """A member called `broker` could sign as one."""
    with pytest.raises(Exception, match="reserved"):
        make.registry(Member(id="broker", jurisdiction="xx", name="x"))


@dataclass
class Sized:
    data: bytes


def test_a_process_takes_no_more_than_it_can_decide_soon() -> None:
    """Small messages by the hundred, large ones a few at a time: the others are for other processes."""
    assert how_many([]) == PULL
    assert how_many([Sized(b"x" * 6_000)] * 128) == PULL
    assert how_many([Sized(b"x" * 400_000)] * 128) == 7
    assert how_many([Sized(b"x" * 9_000_000)]) == 1
    assert [len(batch) for batch in in_batches([Sized(b"x" * 400_000)] * 7)] == [3, 3, 1]
