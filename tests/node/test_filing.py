"""Steps 1 and 2: what is accepted, as what, and what the broker may ever see of it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from node.answers import Accepted, Answer
from node.core import NodeCore
from node.filing import Reply
from node.ids import uuid7
from node.intake import Draft, Posting, read_body, read_item
from node.views import own_report
from protocol import limits
from protocol.access import Client
from protocol.envelope import SignedReport
from protocol.errors import ConfigError, ProtocolError
from protocol.reasons import Reason
from tests.node.world import CANARY, START, Broker, Clock, filing, foreign, make_core, new_id, released, seeded

pytestmark = pytest.mark.usefixtures("each_database")

KNOWN = frozenset({"id", "my", "sg"})


def posting(*documents: Any, many: bool | None = None, key: str = "", ndjson: bool = False) -> Posting:
    """A POST as the HTTP layer hands it over."""
    body = json.dumps(list(documents) if many or len(documents) > 1 else documents[0]).encode()
    items, is_many = read_body(body, ndjson=ndjson, jurisdictions=KNOWN, now=START)
    return Posting(items, is_many, Client("soc"), key, body_hash=str(hash(body)) if key else "")


def file(core: NodeCore, *documents: Any, **options: Any) -> Any:
    """File, and read the answer."""
    reply = core.file([posting(*documents, **options)])[0]
    return json.loads(accepted(reply).body)


def accepted(reply: Reply) -> Answer:
    assert isinstance(reply, Answer), reply
    return reply


def refused(core: NodeCore, document: Any) -> ProtocolError:
    reply = core.file([posting(document)])[0]
    assert isinstance(reply, ProtocolError), reply
    return reply


def judge(document: Any) -> ProtocolError:
    item = read_item(json.dumps(document).encode(), at="$", jurisdictions=KNOWN, now=START)
    assert isinstance(item, ProtocolError), item
    return item


def body(**changes: Any) -> dict[str, Any]:
    return filing(body=filing()["body"] | changes)


BAD = [
    (filing(nonsense=1), Reason.UNKNOWN_FIELD, "$.nonsense"),
    (filing(severity={"score": "high"}), Reason.WRONG_TYPE, "$.severity.score"),
    (filing(severity={"score": 101}), Reason.OUT_OF_RANGE, "$.severity.score"),
    (filing(rsit=[{"class": "fraud", "type": "nonsense"}]), Reason.UNKNOWN_RSIT_TYPE, "$.rsit[0]"),
    (filing(marking={"tlp": "PURPLE"}), Reason.UNKNOWN_VALUE, "$.marking.tlp"),
    (filing(marking={"tlp": "RED"}), Reason.RECIPIENTS_REQUIRED, "$.marking"),
    (
        filing(marking={"tlp": "RED", "recipients": ["my", "atlantis"]}),
        Reason.UNKNOWN_RECIPIENT,
        "$.marking.recipients[1]",
    ),
    (filing(handling={"residency": ["atlantis"]}), Reason.UNKNOWN_RECIPIENT, "$.handling.residency[0]"),
    (filing(handling={"expires_at": "2026-05-04T07:59:59Z"}), Reason.EXPIRED, "$.handling.expires_at"),
    (filing(exercise={"exercise_id": "drill"}), Reason.EXERCISE_MIXED, "$.exercise"),
    (body(times={"detected": {"value": "2026-05-04T08:05:01Z"}}), Reason.TIME_IN_FUTURE, "$.body.times.detected.value"),
    (
        body(indicators=[{"type": "domain-name", "value": "a.example", "last_seen": "2027-01-01T00:00:00Z"}]),
        Reason.TIME_IN_FUTURE,
        "$.body.indicators[0].last_seen",
    ),
    (body(actions=[{"what": "x", "at": "2027-01-01T00:00:00Z"}]), Reason.TIME_IN_FUTURE, "$.body.actions[0].at"),
    (body(times={"detected": {"value": "2026-05-04T08:00:00"}}), Reason.INVALID_VALUE, "$.body.times.detected.value"),
]


@pytest.mark.parametrize(("document", "reason", "path"), BAD)
def test_bad_items_are_refused_with_reason_and_path(document: Any, reason: Reason, path: str) -> None:
    """Each fault has its code and the field it is in."""
    error = judge(document)
    assert (error.reason, error.path) == (reason, path)


def test_a_report_over_its_limit_is_refused() -> None:
    """The limit is on the report, not on the request."""
    big = [{"type": "url", "value": f"http://{i}.example/{'x' * 1_900}"} for i in range(110)]
    assert judge(body(indicators=big)).reason is Reason.TOO_LARGE


def test_a_clock_a_little_ahead_is_no_fault() -> None:
    """Within the skew that the region allows."""
    late = (START + limits.CLOCK_SKEW - timedelta(seconds=1)).isoformat()
    item = read_item(
        json.dumps(body(times={"detected": {"value": late}})).encode(), at="$", jurisdictions=KNOWN, now=START
    )
    assert isinstance(item, Draft)


@pytest.mark.parametrize(
    ("data", "ndjson", "reason"),
    [
        (b"", False, Reason.EMPTY),
        (b"  ", False, Reason.EMPTY),
        (b"[]", False, Reason.EMPTY),
        (b"\n\n", True, Reason.EMPTY),
        (b"[{", False, Reason.NOT_JSON),
        (b"[" * 100_000, False, Reason.TOO_LARGE),
        (b"[" + b",".join([b"{}"] * 2_001) + b"]", False, Reason.TOO_MANY),
    ],
)
def test_bad_bodies_are_refused_whole(data: bytes, ndjson: bool, reason: Reason) -> None:
    """What has no items has no item results."""
    with pytest.raises(ProtocolError) as caught:
        read_body(data, ndjson=ndjson, jurisdictions=KNOWN, now=START)
    assert caught.value.reason is reason


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"nonsense", b'{"marking":' * 5_000])
def test_what_is_not_json_is_said_to_be_not_json(data: bytes) -> None:
    """A single body that cannot be read is one refused item."""
    items, many = read_body(data, ndjson=False, jurisdictions=KNOWN, now=START)
    assert not many
    assert isinstance(items[0], ProtocolError)
    assert items[0].reason in (Reason.NOT_JSON, Reason.TOO_LARGE, Reason.UNKNOWN_FIELD)


def test_ids_are_uuids_of_version_7_and_sort_by_time() -> None:
    """RFC 9562 section 5.7."""
    rand = seeded("ids")
    first, second = uuid7(START, rand), uuid7(START + timedelta(milliseconds=1), rand)
    assert (first.version, first.variant) == (7, UUID(int=second.int).variant)
    assert first < second
    assert first.int >> 80 == int(START.timestamp() * 1000)


# --- identity ----------------------------------------------------------------------------------------------------


def test_the_same_content_again_is_a_replay(core: NodeCore) -> None:
    """Twice is once, byte for byte, also for another idempotency key."""
    first = accepted(core.file([posting(filing())])[0])
    again = accepted(core.file([posting(filing(), key="k1")])[0])
    assert again.body == first.body
    assert (first.replayed, again.replayed) == (False, True)
    assert len(core.outbox) == 1


def test_equal_items_of_one_batch_collapse(core: NodeCore) -> None:
    """The second of two equal items replays the first, whatever request brought it."""
    array, single = core.file([posting(filing(), filing("Other"), filing()), posting(filing())])
    results = json.loads(accepted(array).body)["results"]
    assert results[0]["report_id"] == results[2]["report_id"] != results[1]["report_id"]
    assert json.loads(accepted(single).body)["digest"] == results[0]["digest"]
    assert accepted(single).replayed
    assert core.outbox.weight == 2


def test_an_old_content_again_stays_the_old_revision(core: NodeCore) -> None:
    """A tool that repeats its post after an analyst's update makes no second report."""
    first = file(core, filing())
    second = file(core, filing("Updated", report_id=first["report_id"], revision=2))
    assert file(core, filing())["digest"] == first["digest"] != second["digest"]


def test_revisions_follow_one_another(core: NodeCore, broker: Broker) -> None:
    """A revision names the digest of the one before and keeps its incident."""
    first = file(core, filing())
    second = file(core, filing("B", report_id=first["report_id"], revision=2))
    assert second["incident_id"] == first["incident_id"]
    reports = [broker.open(message.data).reports[0] for message in core.outgoing(9)]
    assert isinstance(reports[1], SignedReport)
    assert reports[1].header.supersedes == first["digest"]


def test_two_revisions_in_one_batch(core: NodeCore, broker: Broker) -> None:
    """The later one names the digest of the earlier one, though both are signed now."""
    report_id = new_id()
    answer = file(core, filing(report_id=report_id), filing("B", report_id=report_id, revision=2))
    assert [row["revision"] for row in answer["results"]] == [1, 2]
    last = broker.open(core.outgoing(9)[1].data).reports[0]
    assert isinstance(last, SignedReport)
    assert last.header.supersedes == answer["results"][0]["digest"]


def test_contradictions_are_refused(core: NodeCore) -> None:
    """Each with its own code, and the detail says what to send."""
    first = file(core, filing())
    report_id = first["report_id"]
    changed = refused(core, filing("B", report_id=report_id))
    assert (changed.reason, changed.path) == (Reason.REVISION_CONFLICT, "$.revision")
    assert "revision 2" in changed.detail
    assert refused(core, filing("B", report_id=report_id, revision=1)).reason is Reason.REVISION_CONFLICT
    assert refused(core, filing("B", report_id=report_id, revision=3)).reason is Reason.REVISION_GAP
    assert refused(core, filing(report_id=new_id(), revision=2)).reason is Reason.REVISION_GAP
    other = refused(core, filing("B", report_id=report_id, revision=2, incident_id=new_id()))
    assert (other.reason, other.path) == (Reason.REVISION_CONFLICT, "$.incident_id")
    withdrawn = refused(core, filing("C", phase="withdrawn"))
    assert (withdrawn.reason, withdrawn.path) == (Reason.UNKNOWN_REPORT, "$.report_id")
    assert len(core.outbox) == 1


def test_repeating_any_revision_by_id_is_a_replay(core: NodeCore) -> None:
    """With and without the revision number."""
    first = file(core, filing())
    file(core, filing("B", report_id=first["report_id"], revision=2))
    for again in (filing(report_id=first["report_id"]), filing(report_id=first["report_id"], revision=1)):
        assert file(core, again) == first


def test_a_known_report_can_be_withdrawn(core: NodeCore) -> None:
    """A withdrawal is a revision like any other."""
    first = file(core, filing())
    withdrawn = file(core, filing(report_id=first["report_id"], revision=2, phase="withdrawn"))
    assert withdrawn["revision"] == 2


def test_ids_of_others_are_taken(core: NodeCore, broker: Broker) -> None:
    """A report or incident that another member reported cannot be filed over."""
    envelope = foreign()
    core.receive([broker.delivery(released(envelope))])
    report = envelope.reports[0]
    assert isinstance(report, SignedReport)
    header = report.header
    assert refused(core, filing(report_id=str(header.report_id))).reason is Reason.REPORT_ID_TAKEN
    assert refused(core, filing(incident_id=str(header.incident_id))).reason is Reason.INCIDENT_ID_TAKEN


def test_an_idempotency_key_belongs_to_one_body(core: NodeCore) -> None:
    """The stored answer for the same body; a refusal for another, in one batch or later."""
    same, again, other = core.file(
        [posting(filing(), key="k"), posting(filing(), key="k"), posting(filing("B"), key="k")]
    )
    assert accepted(same).body == accepted(again).body
    assert accepted(again).replayed
    assert isinstance(other, ProtocolError)
    assert other.reason is Reason.IDEMPOTENCY_KEY_REUSED
    assert accepted(core.file([posting(filing(), key="k")])[0]) == accepted(again)
    later = core.file([posting(filing("B"), key="k")])[0]
    assert isinstance(later, ProtocolError)


def test_a_refused_request_does_not_use_up_its_key(core: NodeCore) -> None:
    """What was wrong can be put right under the same key."""
    assert isinstance(core.file([posting(filing(report_id=new_id(), revision=2), key="k")])[0], ProtocolError)
    assert accepted(core.file([posting(filing(), key="k")])[0]).status == 202


def test_one_array_with_bad_items_takes_the_good_ones(core: NodeCore) -> None:
    """97 of 100, each of the 3 with its path."""
    documents = [filing(f"Report {index}") for index in range(100)]
    documents[7]["severity"] = {"score": 1_000}
    documents[50]["marking"] = {"tlp": "RED"}
    documents[99]["surprise"] = True
    answer = file(core, *documents)
    assert (answer["accepted"], answer["refused"]) == (97, 3)
    bad = [
        (row["index"], row["status"], row["reason"], row["path"]) for row in answer["results"] if row["status"] != 202
    ]
    assert bad == [
        (7, 422, "out-of-range", "$[7].severity.score"),
        (50, 422, "recipients-required", "$[50].marking"),
        (99, 422, "unknown-field", "$[99].surprise"),
    ]
    assert core.outbox.weight == 97


# --- signing -----------------------------------------------------------------------------------------------------


def test_many_reports_share_signatures(core: NodeCore, broker: Broker) -> None:
    """At most 64 under one, each message below its limit, all of them verify."""
    file(core, *[filing(f"Report {index}") for index in range(130)])
    messages = core.outgoing(99)
    counts = [len(broker.open(message.data).reports) for message in messages]
    assert sum(counts) == 130
    assert max(counts) == 64
    assert all(len(message.data) <= limits.SUBMISSION for message in messages)


def test_large_reports_are_split_over_messages(core: NodeCore, broker: Broker) -> None:
    """By what they are when signed, not by their number."""
    big = [{"type": "url", "value": f"http://{i}.example/{'x' * 200}"} for i in range(500)]
    file(core, *[filing(f"R{n}", body={"title": f"R{n}", "indicators": big}) for n in range(6)])
    messages = core.outgoing(99)
    assert all(len(message.data) <= limits.SUBMISSION for message in messages)
    assert sum(len(broker.open(message.data).reports) for message in messages) == 6


NARROW = """
jurisdiction = "{j}"
version = 1
effective_from = 2026-01-01T00:00:00Z
[[export]]
id = "title-only"
effect = "allow"
because = "test"
to = ["my"]
disclose = ["title", "indicators.address"]
[export.when]
tlp = ["GREEN", "RED"]
[[export]]
id = "coarse-for-sg"
effect = "allow"
because = "test"
to = ["sg"]
disclose = ["victim"]
level = { "victim" = "coarse" }
"""


def test_what_may_never_leave_is_not_in_the_message(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """Not even encoded: only the granted disclosures are in the bytes; the node itself keeps them all."""
    core = make_core(tmp_path, clock, policy=NARROW)
    answer = file(core, filing())
    message = core.outgoing(1)[0].data
    report = broker.open(message).reports[0]
    assert isinstance(report, SignedReport)
    assert set(report.body) == {"title", "title_coarse", "indicators", "victim_coarse"}
    assert {element["type"] for element in report.body["indicators"]} == {"ipv4-addr", "ipv4-net"}
    assert CANARY not in str(report.body)
    assert report.undisclosed > 0
    with core.store.read() as reads:
        row = reads.own_by("report_id", [answer["report_id"]])[0]
    reasons = {item["unit"]: item for item in json.loads(row.held_back)}
    assert reasons["victim"]["coarse"]
    assert reasons["contacts"]["reason"] == "default-deny"
    assert "title" not in reasons
    kept = row.disclosures.split("~")
    sent = message.decode().split("~")[1:-1]
    assert set(sent) < set(kept)
    assert b"PT Contoh" not in b"".join(_decoded(text) for text in sent)
    assert b"PT Contoh" in b"".join(_decoded(text) for text in kept)


def _decoded(text: str) -> bytes:
    from protocol.keys import unb64  # noqa: PLC0415 - of this check only

    return unb64(text)


def test_what_nobody_may_have_is_kept_and_said_so(tmp_path: Path, clock: Clock) -> None:
    """Stored, answered with the state `kept`, never sent."""
    core = make_core(
        tmp_path, clock, policy=NARROW.replace('"coarse-for-sg"', '"x"').replace('to = ["sg"]', 'to = ["th"]')
    )
    answer = file(core, filing(marking={"tlp": "AMBER"}))
    assert answer["state"] == "kept"
    assert core.outgoing(9) == []
    assert core.outbox.weight == 0
    assert file(core, filing(marking={"tlp": "AMBER"})) == answer
    with core.store.read() as reads:
        found = own_report(reads, answer["report_id"], core._now())
    assert found is not None
    why = json.loads(msgspec.json.encode(found))["revisions"][0]["held_back"]
    assert [(item["unit"], item["reason"]) for item in why] == [("report", "default-deny")]


def test_kept_and_sent_reports_of_one_batch(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """The kept one is not disclosed in the message of the others."""
    core = make_core(tmp_path, clock, policy=NARROW)
    file(core, filing("A"), filing("B", marking={"tlp": "RED", "recipients": ["id"]}))
    opened = broker.open(core.outgoing(1)[0].data)
    assert [report.header.marking.tlp for report in opened.reports if isinstance(report, SignedReport)] == ["GREEN"]


def test_a_changed_policy_counts_from_the_next_report(core: NodeCore, tmp_path: Path, clock: Clock) -> None:
    """The remembered answers are the old policy's."""
    assert file(core, filing("A"))["state"] == "queued"
    core.book = make_core(
        tmp_path / "other", clock, policy=NARROW.replace('to = ["my"]', 'to = ["th"]').replace("sg", "th")
    ).book
    assert file(core, filing("B"))["state"] == "kept"


def test_the_fingerprint_does_not_depend_on_ids_or_phase(core: NodeCore, broker: Broker) -> None:
    """Equal content under a new id is seen as such by the broker."""
    file(core, filing(report_id=new_id()), filing(report_id=new_id()), filing("Other"))
    marks = [r.header.fingerprint for r in broker.open(core.outgoing(1)[0].data).reports if isinstance(r, SignedReport)]
    assert len(set(marks)) == 2


def test_a_full_backlog_refuses(tmp_path: Path, clock: Clock) -> None:
    """And says so with a reason."""
    core = make_core(tmp_path, clock, backlog=1)
    core.check_backlog()
    file(core, filing())
    with pytest.raises(ProtocolError) as caught:
        core.check_backlog()
    assert caught.value.reason is Reason.BACKLOG_FULL


def test_results_name_what_was_new(core: NodeCore) -> None:
    """For the metrics."""
    reply = accepted(core.file([posting(filing(), filing())])[0])
    assert [result.replayed for result in reply.results if isinstance(result, Accepted)] == [False, True]


def test_a_policy_of_another_jurisdiction_is_refused(tmp_path: Path, clock: Clock) -> None:
    """A mix-up of files must not decide who gets what."""
    with pytest.raises(ConfigError, match="policy is of my"):
        make_core(tmp_path, clock, policy='jurisdiction = "my"\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\n')
