"""A withdrawal and an expiry take the content out of the ledger, and leave what proves that there was something."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.erase import without_content
from broker.ingest import Work
from protocol.envelope import SignedReport, open_envelope
from protocol.keys import unb64
from protocol.report import Body, Handling, Report
from protocol.subjects import Kind
from protocol.submission import join_submission, split_submission
from tests.broker.make import Hub
from tests.protocol import make
from tests.protocol.make import FULL, NOW, body_from, ring, signed, whole
from tests.protocol.test_sealing import SG, Case, everything

SOON = NOW + timedelta(hours=1)


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    found = Hub(tmp_path)
    yield found
    found.store.close()


def report(number: int = 1, body: Body | None = None, text: str = "Something", **given: Any) -> Report:
    """A report that says something."""
    return make.report(number, body or Body(title=text, status="open"), **given)


def withdrawal(number: int = 1, revision: int = 2) -> Report:
    return report(number, text="withdrawn", revision=revision, phase="withdrawn")


def bytes_of(hub: Hub) -> bytes:
    """The ledger's files."""
    return b"".join(file.read_bytes() for file in hub.directory.glob("ledger.db*"))


def opened(message: bytes) -> dict[str, SignedReport]:
    """What a submission holds."""
    reports = open_envelope(split_submission(message)[0], ring("id-cert").find, NOW).reports
    return {item.digest: item for item in reports if isinstance(item, SignedReport)}


def test_other_reports_of_the_submission_stay_byte_for_byte() -> None:
    """Of the erased one the signed header stays; the signature still verifies over what is left."""
    envelope = signed(report(1, body_from(FULL)), report(2, body_from(FULL)), report(3))
    message = whole(envelope).encode()
    first, second, third = opened(message).values()
    left = without_content(message, [first.digest])
    found = opened(left)
    assert found[first.digest].header == first.header
    assert found[first.digest].body == {}
    assert found[first.digest].undisclosed > 0
    for other in (second, third):
        assert found[other.digest] == other
    assert without_content(left, [first.digest]) == left, "erasing again changes nothing"
    assert without_content(message, []) == message


def test_a_withdrawal_takes_the_content_out_of_the_ledger(hub: Hub) -> None:
    """Out of the database's files too; receipt, entry and grants stay."""
    hub.submit(report(1, text="CANARY-one"), report(2, text="CANARY-two"))
    hub.store.wipe()
    before = hub.rows("submissions")[0]
    canaries = _texts(before.message, b"CANARY-one")
    assert all(canary in bytes_of(hub) for canary in canaries), "the canaries sing"
    _, work = hub.submit(withdrawal(), seed="end")
    assert work.erased.reports == 1
    assert work.erased.take_back == {"sg-cert", "my-cert", "ph-cert"}, "nobody has confirmed: it may lie in inboxes"
    hub.store.wipe()
    assert "CANARY-one" not in _decoded(hub).decode("utf-8", "replace")
    assert "CANARY-two" in _decoded(hub).decode("utf-8", "replace")
    assert not any(canary in bytes_of(hub) for canary in canaries)
    after = hub.rows("submissions")[0]
    assert (after.receipt, after.entry, after.digest) == (before.receipt, before.entry, before.digest)
    first = report(1).header.report_id.bytes
    erased = {(row.report_id == first, row.revision): bool(row.erased_at) for row in hub.rows("reports")}
    assert erased == {(True, 1): True, (True, 2): False, (False, 1): False}


def _texts(message: bytes, canary: bytes) -> list[bytes]:
    return [text for text in split_submission(message)[0].split(b"~")[1:-1] if canary in unb64(text.decode())]


def _decoded(hub: Hub) -> bytes:
    return b"".join(
        unb64(text.decode()) for row in hub.rows("submissions") for text in row.message.split(b"~")[1:-1] if text
    )


@pytest.mark.usefixtures("each_database")
def test_what_was_withdrawn_is_not_delivered_any_more(hub: Hub) -> None:
    """A recipient that was away the whole time gets the withdrawal alone; the origin reads why."""
    hub.submit(report(text="CANARY"))
    hub.submit(withdrawal(), seed="end")
    hub.now += timedelta(minutes=30)
    due = hub.redelivery.due(hub.now, ())
    sent = hub.delivered(Work(outgoing=due.outgoing))
    phases = {member: [item.header.phase for item in items] for member, items in sent.items()}
    assert phases == {name: ["withdrawn"] for name in ("sg-cert", "my-cert", "ph-cert")}
    assert {(item.member, item.refusal.reason) for item in due.stopped} == {
        (member, "withdrawn") for member in ("sg-cert", "my-cert", "ph-cert")
    }


def test_an_earlier_revision_after_its_withdrawal_goes_to_nobody(hub: Hub) -> None:
    """The bus may bring the two in the wrong order."""
    hub.submit(withdrawal(), seed="end")
    receipt, work = hub.submit(report(text="CANARY-late"))
    assert hub.delivered(work) == {}
    reasons = {item.reason for decision in receipt.decisions for item in decision.withheld}
    assert (receipt.reports[0].outcome, reasons) == ("accepted", {"withdrawn"})
    assert "CANARY-late" not in _decoded(hub).decode("utf-8", "replace")


@pytest.mark.usefixtures("each_database")
def test_expiry_needs_no_message(hub: Hub) -> None:
    """At its time the content is gone, what waits is stopped, and who had it is left to its own clock."""
    hub.submit(report(text="CANARY-short", handling=Handling(expires_at=SOON)), report(2, text="CANARY-long"))
    assert hub.redelivery.due(hub.now, ()).erased.reports == 0
    hub.now = SOON
    due = hub.redelivery.due(hub.now, ())
    assert due.erased.reports == 1
    assert due.erased.take_back == {"sg-cert", "my-cert", "ph-cert"}
    assert {item.refusal.reason for item in due.stopped} == {"expired"}
    text = _decoded(hub).decode("utf-8", "replace")
    assert "CANARY-short" not in text
    assert "CANARY-long" in text
    assert hub.redelivery.due(hub.now, ()).erased.reports == 0, "once"


def test_a_withdrawal_never_expires(hub: Hub) -> None:
    """It carries the handling of what it withdraws, and must reach everybody all the same."""
    handling = Handling(expires_at=SOON)
    hub.submit(report(handling=handling))
    end = report(1, revision=2, phase="withdrawn", handling=handling)
    hub.submit(end, seed="end")
    hub.now = SOON + timedelta(hours=2)
    due = hub.redelivery.due(hub.now, ())
    assert {item.refusal.reason for item in due.stopped} == {"expired"}, "the report, not its withdrawal"
    assert sorted({item.member for item in due.outgoing if item.kind == Kind.DELIVERY}) == [
        "my-cert",
        "ph-cert",
        "sg-cert",
    ]


@pytest.mark.usefixtures("each_database")
def test_what_is_erased_links_nothing_any_more(hub: Hub) -> None:
    """Its identifiers leave the index."""
    hub.submit(report(body=body_from(FULL)))
    assert hub.rows("identifiers")
    hub.submit(withdrawal(), seed="end")
    assert hub.rows("identifiers") == []


def test_a_repeated_submission_of_erased_content_changes_nothing(hub: Hub) -> None:
    """Twice is once, and does not bring the content back."""
    text = whole(signed(report(text="CANARY")))
    first, _ = hub.submit_text(text)
    hub.submit(withdrawal(), seed="end")
    again, work = hub.submit_text(text)
    assert again == first
    assert work.replays == 1
    assert "CANARY" not in _decoded(hub).decode("utf-8", "replace")


def test_a_box_goes_with_its_report() -> None:
    """The broker could not read it, and does not keep it either; boxes of other reports stay."""
    first = Case({"sg-cert": everything(SG)}, make.report(1), seed="one")
    second = Case({"sg-cert": everything(SG)}, make.report(2), seed="two")
    message = join_submission(whole(first.origin), [first.data, second.data])
    assert split_submission(without_content(message, [first.whole.digest]))[1] == [second.data]
    assert split_submission(without_content(message, [second.whole.digest]))[1] == [first.data, second.data]


def test_a_later_revision_and_the_withdrawal_itself_stay(hub: Hub) -> None:
    """A withdrawal that comes late ends what was before it; and both of two withdrawals reach their recipients."""
    hub.submit(report(text="first"))
    hub.submit(report(text="third", revision=3), seed="third")
    hub.submit(withdrawal(revision=2), seed="end")
    erased = {row.revision: bool(row.erased_at) for row in hub.rows("reports")}
    assert erased == {1: True, 2: False, 3: False}
    hub.submit(withdrawal(revision=4), seed="end again")
    erased = {row.revision: bool(row.erased_at) for row in hub.rows("reports")}
    assert erased == {1: True, 2: False, 3: True, 4: False}
