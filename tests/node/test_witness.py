"""Steps 10 and 11 at the node: the log is believed as far as it proves, cosigned as far as it continues, no further."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node import tables
from node import witness as watching
from node.core import NodeCore
from node.store import Tx
from node.views import inbox_report, log_view, proof_text
from node.witness import Witness, check_growth, witnesses_of
from protocol import statements as st
from protocol.envelope import SignedReport, present, release
from protocol.errors import ProtocolError, Transient
from protocol.keys import b64, unb64
from protocol.logproof import parse_proof
from protocol.logrpc import (
    ConsistencyAnswer,
    ConsistencyRequest,
    CosignRequest,
    NextAnswer,
    NextRequest,
    ProveAnswer,
    ProveRequest,
)
from protocol.notes import open_checkpoint, parse_checkpoint, parse_line, parse_note, verify_cosignature
from protocol.notes import witness_keys as keys_of
from protocol.reasons import Reason
from protocol.report import ALL_UNITS
from tests.node.conftest import Running, running
from tests.node.handmade import (
    FILLER,
    HandLog,
    ask,
    delivered,
    entries_of,
    make_witness,
    reasons,
    receipted,
    states,
    turns,
)
from tests.node.looking import alarms, events, shown
from tests.node.test_filing import file
from tests.node.world import (
    MEMBERS,
    START,
    Broker,
    Clock,
    MemoryBus,
    filing,
    foreign,
    key_of,
    make_config,
    make_core,
    member,
    receipts,
    record_of,
    region,
    released,
    trust,
)

QUORUM = ("my-cert", "sg-cert")


@pytest.fixture
def log(clock: Clock) -> HandLog:
    return HandLog(clock)


@pytest.fixture
def witness(core: NodeCore, clock: Clock) -> Witness:
    return make_witness(core, clock)


def verified(core: NodeCore) -> int:
    with core.store.read() as reads:
        row = reads.newest_checkpoint()
    return row.size if row else 0


def published(core: NodeCore) -> int:
    with core.store.read() as reads:
        row = reads.newest_checkpoint(published=True)
    return row.size if row else 0


def evidence(core: NodeCore) -> set[str]:
    """The notes that were kept."""
    with core.store.read() as reads:
        names = [name for event in events(core, "alarm") for name in event.get("evidence", ())]
        return {row.jws for row in reads.statements_by(names)}


def holds(core: NodeCore, log: HandLog, size: int | None = None) -> None:
    """The log holds what this node expects, shows it and has it witnessed."""
    log.entries = entries_of(core) + log.entries[len(entries_of(core)) :]
    log.show(size)
    log.publish(size=size)


def grown(core: NodeCore, witness: Witness, log: HandLog, size: int) -> None:
    """The witness has verified and cosigned a log of that size."""
    log.entries = FILLER[:size]
    log.show()
    turns(witness, log)
    assert verified(core) == size
    log.lines.clear()


# --- honest logs --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_database")
def test_a_receipt_and_a_delivery_are_proven(core: NodeCore, broker: Broker, clock: Clock, log: HandLog) -> None:
    """With a proof that holds without this node: entry, index, path, the log's signature and a quorum."""
    witness = make_witness(core, clock)
    report_id = receipted(core, broker)
    other_id = delivered(core, broker)
    clock.pass_(seconds=3)
    holds(core, log)
    log.entries += FILLER
    log.show()
    log.publish()
    steps = turns(witness, log)
    assert states(core) == {0: "proven", 1: "proven"}
    assert [step.cosigned for step in steps if step.cosigned] == [len(log.entries)]
    assert [seconds for step in steps for seconds in step.seconds] == [3.0, 3.0]
    assert reasons(steps) == set()
    assert alarms(core) == []
    registry = core.trust.registry
    with core.store.read() as reads:
        texts = [proof_text(reads, report_id, 1, own=True), proof_text(reads, other_id, None, own=False)]
        there = json.loads(msgspec.json.encode(inbox_report(reads, other_id)))["revisions"][0]["proof"]
    here = shown(core, report_id)["revisions"][0]["proof"]
    for text, entry, proof in zip(texts, log.entries, (here, there), strict=False):
        parsed = parse_proof(text)
        parsed.verify(entry)
        opened = open_checkpoint(parsed.note.encode(), registry.log_keys(), registry.witness_keys(), clock())
        assert set(opened.witnesses) == set(QUORUM)
        assert proof == {
            "state": "proven",
            "leaf": parsed.index,
            "entry": b64(entry),
            "size": len(log.entries),
            "witnesses": sorted(QUORUM),
            "at": "2026-05-04T08:00:03Z",
        }
    (event,) = events(core, "report.proven")
    assert event == {
        "submission": shown(core, report_id)["revisions"][0]["submission"],
        "reports": [report_id],
        "leaf": 0,
        "size": len(log.entries),
        "witnesses": sorted(QUORUM),
    }


def test_the_cosignature_is_of_what_was_shown(core: NodeCore, witness: Witness, log: HandLog) -> None:
    """The broker can verify it with the member's key, for the text of the checkpoint."""
    log.entries = FILLER[:5]
    log.show()
    turns(witness, log)
    ((size, line),) = log.lines
    assert size == 5
    (key,) = keys_of("id-cert", [record_of("id-cert")])
    assert verify_cosignature(parse_note(log.shown).text, parse_line(line), key).at == START


@pytest.mark.usefixtures("each_database")
def test_a_log_that_grows_is_followed(core: NodeCore, witness: Witness, log: HandLog) -> None:
    """Over many sizes, published or not; nothing is asked twice and nothing is refused."""
    for size in (1, 2, 3, 7, 8, 20, 64):
        log.entries = FILLER[:size]
        log.show()
        assert reasons(turns(witness, log, 3)) == set()
        assert verified(core) == size
        if size % 2 == 0:
            log.publish()
            assert reasons(turns(witness, log, 3)) == set()
            assert published(core) == size
    assert [size for size, _ in log.lines] == [1, 2, 3, 7, 8, 20, 64]


def test_a_published_checkpoint_that_was_never_shown_is_proven_to_belong(
    core: NodeCore, witness: Witness, log: HandLog
) -> None:
    """A smaller one by its proof to the own size, a larger one becomes a checkpoint to witness."""
    grown(core, witness, log, 20)
    log.publish(size=13)
    turns(witness, log)
    assert (verified(core), published(core)) == (20, 13)
    log.entries = FILLER[:33]
    log.publish()
    turns(witness, log)
    assert (verified(core), published(core)) == (33, 33)
    assert [size for size, _ in log.lines] == [33]
    assert alarms(core) == []


def test_a_proof_that_comes_twice_is_told_once(core: NodeCore, broker: Broker, clock: Clock, log: HandLog) -> None:
    """The same answer again, and one that overtook another."""
    witness = make_witness(core, clock)
    receipted(core, broker)
    holds(core, log)
    for _ in range(4):
        ask(witness, log, witness.question())
    question = witness.wanted()
    assert question is not None
    assert [len(ask(witness, log, question).seconds) for _ in range(2)] == [1, 0]
    assert len(events(core, "report.proven")) == 1


def test_a_leaf_above_the_published_size_waits(core: NodeCore, broker: Broker, clock: Clock, log: HandLog) -> None:
    """It is not asked for, and nothing is proven without a quorum."""
    witness = make_witness(core, clock)
    report_id = receipted(core, broker)
    receipted(core, broker, "Another")
    holds(core, log, size=1)
    log.show()
    turns(witness, log)
    assert states(core) == {0: "proven", 1: "waiting"}
    with core.store.read() as reads, pytest.raises(ProtocolError, match="not-witnessed"):
        proof_text(reads, reads.own_by("digest", [_last(core)])[0].report_id, None, own=True)
    with core.store.read() as reads:
        assert proof_text(reads, report_id, None, own=True)


def _last(core: NodeCore) -> str:
    with core.store.read() as reads:
        return str(reads.own_page(0, 10)[-1].digest)


def test_what_two_deliveries_say_of_one_submission_has_one_leaf(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """A report that came with the second delivery shows the proof of the leaf that the first one named."""
    witness, log = make_witness(core, clock), HandLog(clock)
    envelope = foreign(count=2)
    opening = broker.opening(released(envelope))
    parts = [
        present(envelope.jws, [release(report, -1, -1)])
        for report in envelope.reports
        if isinstance(report, SignedReport)
    ]
    for part in parts:
        core.receive([broker.delivery(part, grants=[opening])])
    holds(core, log)
    turns(witness, log)
    with core.store.read() as reads:
        for row in reads.inbox_page(0, 10):
            assert parse_proof(proof_text(reads, row.report_id, None, own=False)).index == opening.leaf


# --- forks --------------------------------------------------------------------------------------------------------


class Fork:
    """What a log can show that contradicts what it has shown; the witness stands at 8."""

    @staticmethod
    def same_size(log: HandLog) -> Any:
        other = HandLog(log.clock, [*FILLER[:7], b"other".ljust(32)])
        other.show()
        return lambda: NextAnswer(checkpoint=other.shown), other.shown

    @staticmethod
    def growth(log: HandLog) -> Any:
        other = HandLog(log.clock, [b"other".ljust(32), *FILLER[1:12]])
        other.show()
        return lambda: NextAnswer(checkpoint=other.shown, consistency=other.path(8, 12)), other.shown

    @staticmethod
    def unproven(log: HandLog) -> Any:
        more = HandLog(log.clock, FILLER[:12])
        more.show()
        return lambda: NextAnswer(checkpoint=more.shown, consistency=[]), more.shown

    @staticmethod
    def shrunk(log: HandLog) -> Any:
        log.show(5)
        return lambda: NextAnswer(checkpoint=log.shown, consistency=log.path(5, 8)), log.shown

    @staticmethod
    def published_same_size(log: HandLog) -> Any:
        other = HandLog(log.clock, [*FILLER[:7], b"other".ljust(32)])
        other.publish()
        return lambda: NextAnswer(published=other.published), other.published

    @staticmethod
    def published_smaller(log: HandLog) -> Any:
        other = HandLog(log.clock, [b"other".ljust(32), *FILLER[1:5]])
        other.publish()
        return lambda: NextAnswer(published=other.published), other.published

    @staticmethod
    def published_larger(log: HandLog) -> Any:
        other = HandLog(log.clock, [b"other".ljust(32), *FILLER[1:12]])
        other.publish()
        return lambda: NextAnswer(published=other.published), other.published


KINDS = [name for name in vars(Fork) if not name.startswith("_")]


class Lying:
    """A log that answers `log.next` with a fork, and everything else as if it were right."""

    def __init__(self, log: HandLog, lie: Any) -> None:
        self.log, self.lie = log, lie

    def answer(self, question: Any) -> Any:
        match question:
            case NextRequest():
                return self.lie()
            case ConsistencyRequest():
                path = self.log.path(question.old, min(question.new, len(self.log.entries)))
                return ConsistencyAnswer(path=path)
            case _:
                return self.log.answer(question)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_is_called_out_and_never_cosigned(
    tmp_path: Path, core: NodeCore, clock: Clock, log: HandLog, kind: str
) -> None:
    """Once; both notes are kept; the node stays, through a restart too, and goes on when the log comes back."""
    witness = make_witness(core, clock)
    grown(core, witness, log, 8)
    good = log.shown
    lie, note = getattr(Fork, kind)(log)
    for _ in range(2):
        assert "log-forked" in reasons(turns(witness, Lying(log, lie)))
        core.store.close()
        core = make_core(tmp_path, clock)
        witness = make_witness(core, clock)
    assert verified(core) == 8
    assert published(core) == 0
    assert log.lines == []
    assert alarms(core) == ["log-forked"]
    assert evidence(core) == {note, good}
    log.entries = FILLER[:10]
    log.show()
    log.publish()
    assert reasons(turns(witness, log)) == set()
    assert (verified(core), published(core)) == (10, 10)
    assert [size for size, _ in log.lines] == [10]
    assert alarms(core) == ["log-forked"]
    core.store.close()


def test_a_fork_rings_again_after_somebody_ended_the_alarm(core: NodeCore, witness: Witness, log: HandLog) -> None:
    """As long as it is shown."""
    grown(core, witness, log, 8)
    lie, _ = Fork.same_size(log)
    turns(witness, Lying(log, lie))
    with core.store.read() as reads:
        (row,) = reads.alarms_page(0, 10, cleared=False)
    assert (row.about, row.kind, row.times) == ("log", "log-forked", 1)
    assert core.clear_alarm(row.id, "somebody")
    turns(witness, Lying(log, lie))
    assert alarms(core) == ["log-forked"] * 2


@pytest.mark.parametrize(
    ("size", "path"), [(5, []), (8, ["A" * 43]), (12, []), (12, ["A" * 42 + "B"]), (12, ["A"] * 9)]
)
def test_what_does_not_continue_is_a_fork_and_nothing_else(log: HandLog, size: int, path: list[str]) -> None:
    """Whatever is wrong with the proof."""
    log.entries = FILLER[:12]
    old, new = parse(log.note(8)), parse(log.note(size))
    with pytest.raises(ProtocolError, match="log-forked"):
        check_growth(old.size, old.root, new, path)


def test_a_log_that_has_lost_what_it_signed_is_a_fork(core: NodeCore, witness: Witness, log: HandLog) -> None:
    """It says that it is smaller than what this node has its signature for."""
    grown(core, witness, log, 8)
    good = log.shown
    log.show(3)
    assert "log-forked" in reasons(turns(witness, log))
    assert alarms(core) == ["log-forked"]
    assert evidence(core) == {good}
    assert verified(core) == 8


def test_a_new_node_is_not_told_that_the_log_has_shrunk(core: NodeCore, witness: Witness, log: HandLog) -> None:
    """From nothing, everything is consistent; a refusal then says nothing of the log."""
    step = witness.refused(witness.question(), Reason.OUT_OF_RANGE)
    assert step.refused == ["out-of-range"]
    assert alarms(core) == []


def test_a_log_that_refuses_to_prove_consistency_is_a_fork(core: NodeCore, witness: Witness, log: HandLog) -> None:
    """It has signed both sizes."""
    grown(core, witness, log, 8)
    log.publish(size=5)
    turns(witness, log, 1)
    question = witness.question()
    assert question == ConsistencyRequest(old=5, new=8)
    assert witness.refused(question, Reason.OUT_OF_RANGE).refused == ["log-forked"]
    assert alarms(core) == ["log-forked"]


@pytest.mark.parametrize("reason", [Reason.MALFORMED_PROOF, Reason.MEMBER_SUSPENDED])
def test_other_refusals_prove_nothing(core: NodeCore, witness: Witness, log: HandLog, reason: Reason) -> None:
    """They are counted, and it is asked again."""
    grown(core, witness, log, 8)
    log.publish(size=5)
    turns(witness, log, 1)
    assert witness.refused(witness.question(), reason).refused == [reason.value]
    assert witness.refused(witness.question(), reason).refused == [reason.value]
    assert alarms(core) == []
    turns(witness, log)
    assert published(core) == 5


def test_evidence_has_a_bound(core: NodeCore, witness: Witness, log: HandLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that makes a new fork each time does not fill the disk."""
    monkeypatch.setattr(watching, "EVIDENCE", 4)
    grown(core, witness, log, 8)
    for number in range(9):
        other = HandLog(log.clock, [*FILLER[:7], bytes([number]) * 32])
        other.show()
        ask(witness, Lying(log, lambda note=other.shown: NextAnswer(checkpoint=note)), witness.question())
    with core.store.read() as reads:
        assert reads.count_statements("checkpoint") == 4


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        (lambda log: log.note(origin="kentongan/elsewhere"), "signature-invalid"),
        (lambda log: HandLog(log.clock, FILLER[:9], key=key_of("mallory")).note(), "signature-invalid"),
        (lambda log: log.note().replace("\n9\n", "\n8\n"), "signature-invalid"),
        (lambda log: log.note() + "x", "malformed-note"),
    ],
)
def test_what_the_log_has_not_signed_proves_nothing(
    core: NodeCore, witness: Witness, log: HandLog, note: Any, reason: str
) -> None:
    """It is refused, not cosigned, and no alarm: anybody could have made it."""
    grown(core, witness, log, 8)
    log.entries = FILLER[:9]
    text = note(log)
    for answer in (NextAnswer(checkpoint=text, consistency=log.path(8, 9)), NextAnswer(published=text)):
        step = witness.take(witness.question(), answer)
        assert step.refused == [reason]
        assert step.rest
    assert verified(core) == 8
    assert alarms(core) == []
    assert isinstance(witness.question(), NextRequest)


def test_a_late_answer_is_not_a_fork(core: NodeCore, witness: Witness, log: HandLog) -> None:
    """What was asked from another size than the node has now is not judged."""
    grown(core, witness, log, 8)
    log.entries = FILLER[:12]
    log.show()
    late = log.next(NextRequest(size=3))
    step = witness.take(NextRequest(size=3), late)
    assert step.refused == []
    assert alarms(core) == []
    assert verified(core) == 8


# --- quorums ------------------------------------------------------------------------------------------------------


def test_a_published_note_without_its_quorum_is_not_taken(
    core: NodeCore, broker: Broker, clock: Clock, log: HandLog
) -> None:
    """Whoever says that it is published; with the quorum it is."""
    witness = make_witness(core, clock)
    receipted(core, broker)
    holds(core, log)
    log.publish("my-cert")
    steps = turns(witness, log)
    assert reasons(steps) == {"not-witnessed"}
    assert (verified(core), published(core)) == (1, 0)
    assert states(core) == {0: "waiting"}
    assert alarms(core) == [], "a quorum may still come"
    log.publish(*QUORUM)
    turns(witness, log)
    assert states(core) == {0: "proven"}


def test_a_suspended_member_does_not_count(tmp_path: Path, clock: Clock, log: HandLog) -> None:
    """Its signature holds, and it is no witness of the region any more; the proof does not name it."""
    members = (
        *MEMBERS[:2],
        msgspec.structs.replace(MEMBERS[2], status="suspended"),
        member("vn-cert", "vn"),
    )
    core = make_core(tmp_path, clock, trust=trust(clock, members=members))
    witness = make_witness(core, clock)
    log.entries = FILLER[:3]
    log.show()
    log.publish("my-cert", "sg-cert")
    assert reasons(turns(witness, log)) == {"not-witnessed"}
    log.publish("my-cert", "sg-cert", "vn-cert")
    turns(witness, log)
    with core.store.read() as reads:
        row = reads.newest_checkpoint(published=True)
    assert row is not None
    assert witnesses_of(parse_note(row.published)) == ["my-cert", "vn-cert"]
    core.store.close()


def test_one_witness_with_two_keys_is_one_witness(tmp_path: Path, clock: Clock, log: HandLog) -> None:
    """A quorum is counted in members."""
    twice = msgspec.structs.replace(MEMBERS[1], keys=[record_of("my-cert"), record_of("my-cert-2")])
    core = make_core(tmp_path, clock, trust=trust(clock, members=(MEMBERS[0], twice, MEMBERS[2])))
    witness = make_witness(core, clock)
    log.entries = FILLER[:3]
    log.show()
    log.published = log.cosigned("my-cert", keys=[("my-cert", key_of("my-cert-2"))])
    assert reasons(turns(witness, log)) == {"not-witnessed"}
    assert published(core) == 0
    core.store.close()


def test_a_false_cosignature_refuses_the_note(core: NodeCore, witness: Witness, log: HandLog) -> None:
    """The broker shows lines that it has not verified, or made itself."""
    log.entries = FILLER[:3]
    log.show()
    other = HandLog(log.clock, FILLER[:4])
    note, wrong = parse_note(log.cosigned("my-cert")), parse_note(other.cosigned("sg-cert"))
    log.published = note.encode() + wrong.lines[1].encode()
    assert reasons(turns(witness, log)) == {"signature-invalid"}
    assert published(core) == 0


def test_a_quorum_of_one_s_own_making_is_asked_for(tmp_path: Path, clock: Clock, log: HandLog) -> None:
    """The region's own number counts, if it names one."""
    core = make_core(tmp_path, clock, trust=trust(clock, quorum=3))
    witness = make_witness(core, clock)
    log.entries = FILLER[:3]
    log.show()
    log.publish(*QUORUM)
    assert reasons(turns(witness, log)) == {"not-witnessed"}
    log.publish("id-cert", *QUORUM)
    turns(witness, log)
    assert published(core) == 3
    core.store.close()


# --- leaves -------------------------------------------------------------------------------------------------------


def _changed(entries: list[bytes]) -> list[bytes]:
    return [entries[0], b"changed".ljust(32), *entries[2:]]


def _dropped(entries: list[bytes]) -> list[bytes]:
    return [entries[0], *entries[2:], FILLER[0]]


def _reordered(entries: list[bytes]) -> list[bytes]:
    return [entries[0], entries[2], entries[1]]


@pytest.mark.parametrize(
    ("lie", "missing"), [(_changed, {1}), (_dropped, {1, 2}), (_reordered, {1, 2})], ids=["changed", "dropped", "moved"]
)
def test_a_log_that_does_not_hold_what_the_receipt_says(
    core: NodeCore, broker: Broker, clock: Clock, log: HandLog, lie: Any, missing: set[int]
) -> None:
    """Each such leaf is an alarm, once; the others are proven. A proof that comes later does not end the alarm."""
    witness = make_witness(core, clock)
    ids = [receipted(core, broker, f"Report {number}") for number in range(3)]
    honest = entries_of(core)
    log.entries = lie(honest)
    log.show()
    log.publish()
    turns(witness, log)
    assert states(core) == {leaf: "missing" if leaf in missing else "proven" for leaf in range(3)}
    assert sorted(event["leaf"] for event in events(core, "alarm")) == sorted(missing)
    assert alarms(core) == ["leaf-missing"] * len(missing)
    proof = shown(core, ids[1])["revisions"][0]["proof"]
    assert (proof["state"], proof["leaf"]) == ("missing", 1)
    with core.store.read() as reads, pytest.raises(ProtocolError, match="leaf-missing"):
        proof_text(reads, ids[1], None, own=True)
    clock.pass_(minutes=11)
    turns(witness, log)
    assert alarms(core) == ["leaf-missing"] * len(missing), "once a leaf"
    mended = HandLog(clock, [*honest, *FILLER[:3]])
    mended.publish()
    with core.store.write() as tx:
        row = {"size": 6, "root": parse(mended.note()).root, "note": mended.note(), "at": 0, "cosigned_at": 0}
        tx.add(tables.checkpoints, [{**row, "published": mended.published, "published_at": 0}])
    clock.pass_(minutes=11)
    mended.show()
    turns(witness, mended)
    assert set(states(core).values()) == {"proven"}
    assert alarms(core) == ["leaf-missing"] * len(missing)


def parse(note: str) -> Any:
    return parse_checkpoint(parse_note(note).text)


def test_a_leaf_that_the_log_refuses_to_prove_is_missing(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Though it is below the size that was signed. It alone, however it was asked for; the others are proven."""

    class Refusing(HandLog):
        def prove(self, question: ProveRequest) -> ProveAnswer:
            if 5 in question.leaves:
                raise ProtocolError(Reason.OUT_OF_RANGE)
            return super().prove(question)

    witness = make_witness(core, clock)
    for number in range(9):
        receipted(core, broker, f"Report {number}")
    log = Refusing(clock, entries_of(core))
    log.show()
    log.publish()
    steps = turns(witness, log)
    assert states(core) == {leaf: "missing" if leaf == 5 else "proven" for leaf in range(9)}
    assert alarms(core) == ["leaf-missing"]
    assert sum(len(step.seconds) for step in steps) == 8


def test_an_answer_with_too_few_proofs_hides_nothing(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """What was asked for and is not in it is missing."""

    class Short(HandLog):
        def prove(self, question: ProveRequest) -> ProveAnswer:
            return ProveAnswer(paths=super().prove(question).paths[:-1])

    witness = make_witness(core, clock)
    receipted(core, broker)
    receipted(core, broker, "Another")
    log = Short(clock, entries_of(core))
    log.show()
    log.publish()
    turns(witness, log)
    assert states(core) == {0: "missing", 1: "missing"}


def test_a_proof_of_another_leaf_is_no_proof(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Two equal paths do not make two leaves."""

    class Swapping(HandLog):
        def prove(self, question: ProveRequest) -> ProveAnswer:
            return ProveAnswer(paths=list(reversed(super().prove(question).paths)))

    witness = make_witness(core, clock)
    receipted(core, broker)
    receipted(core, broker, "Another")
    log = Swapping(clock, entries_of(core))
    log.show()
    log.publish()
    turns(witness, log)
    assert alarms(core) == ["leaf-missing"] * 2


# --- what does not come -------------------------------------------------------------------------------------------


def passing(clock: Clock, witness: Witness, log: Any, minutes: float, *, up: bool = True) -> list[str]:
    """Minutes in which the broker answers, or does not; the reasons of new alarms."""
    found: list[str] = []
    for _ in range(int(minutes * 6)):
        clock.pass_(seconds=10)
        if up:
            turns(witness, log, 1)
        else:
            witness.lookout.silent()
        found += witness.lookout.look()
    return found


def test_a_stalled_log_is_called_out(core: NodeCore, broker: Broker, clock: Clock, log: HandLog) -> None:
    """Once, when a leaf waits for a checkpoint for ten minutes of answers; again only after the log went on."""
    witness = make_witness(core, clock)
    receipted(core, broker)
    assert passing(clock, witness, log, 60, up=False) == [], "the link was down"
    assert passing(clock, witness, log, 9.5) == []
    assert passing(clock, witness, log, 1) == ["log-stalled"]
    assert passing(clock, witness, log, 30) == []
    (event,) = events(core, "alarm")
    assert (event["about"], event["leaf"]) == ("log", 0)
    holds(core, log)
    assert passing(clock, witness, log, 30) == []
    receipted(core, broker, "Another")
    assert passing(clock, witness, log, 11) == ["log-stalled"]


def test_time_without_answers_accuses_nobody(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """Neither a link that is down every other moment, nor a machine that slept."""
    witness = make_witness(core, clock)
    receipted(core, broker)
    found: list[str] = []
    for _ in range(100):
        witness.lookout.answered()
        clock.pass_(seconds=20)
        witness.lookout.silent()
        witness.lookout.answered()
        clock.pass_(hours=1)
        witness.lookout.answered()
        found += witness.lookout.look()
    assert found == []


@pytest.mark.usefixtures("each_database")
def test_a_leaf_far_ahead_of_the_log_is_called_out(core: NodeCore, broker: Broker, clock: Clock, log: HandLog) -> None:
    """A receipt that names an index that the log will never reach, while the log serves everybody else."""
    witness = make_witness(core, clock)
    file(core, filing("First"))
    core.receive([receipts(broker.receipt(core.outgoing(1)[0].data, leaf=2**40))])
    found: list[str] = []
    for number in range(15):
        receipted(core, broker, f"Report {number}")
        with core.store.read() as reads:
            rows = reads.leaves_by("leaf", list(range(1_000)))
        log.entries = [row.entry for row in rows]
        found += passing(clock, witness, log, 0.5)
        log.show()
        log.publish()
        found += passing(clock, witness, log, 0.5)
    assert found == ["log-stalled"]


def test_a_log_without_witnesses_is_called_out(core: NodeCore, broker: Broker, clock: Clock, log: HandLog) -> None:
    """After fifteen minutes, once; the checkpoint is there, its quorum is not."""
    witness = make_witness(core, clock)
    receipted(core, broker)
    log.entries = entries_of(core)
    log.show()
    assert passing(clock, witness, log, 14.5) == []
    assert passing(clock, witness, log, 60) == ["not-witnessed"]
    log.publish()
    assert passing(clock, witness, log, 60) == []
    assert states(core) == {0: "proven"}


def test_a_log_that_answers_and_proves_nothing_is_called_out(
    core: NodeCore, broker: Broker, clock: Clock, log: HandLog
) -> None:
    """Proofs that never come, for a leaf that is under a published checkpoint."""
    witness = make_witness(core, clock)
    receipted(core, broker)
    holds(core, log)
    found: list[str] = []
    for _ in range(66):
        clock.pass_(seconds=10)
        ask(witness, log, witness.question())
        found += witness.lookout.look()
    assert found == ["leaf-missing"]
    assert states(core) == {0: "missing"}


def test_a_report_that_the_broker_drops_is_called_out(
    core: NodeCore, broker: Broker, clock: Clock, log: HandLog
) -> None:
    """Once a submission; never one that was not sent, or whose receipt came, or while the broker was not there."""
    witness = make_witness(core, clock)
    for title in ("Dropped", "Answered", "Waiting"):
        file(core, filing(title))
    dropped, answered = core.outgoing(2)
    core.tried((*dropped.numbers, *answered.numbers), ())
    assert passing(clock, witness, log, 60, up=False) == []
    assert passing(clock, witness, log, 5) == []
    core.receive([receipts(broker.receipt(answered.data))])
    holds(core, log)
    assert passing(clock, witness, log, 60) == ["receipt-overdue"]
    (event,) = events(core, "alarm")
    assert event["about"] == "receipt"
    assert event["submission"] == broker.open(dropped.data).digest


def test_an_alarm_that_the_disk_did_not_take_is_raised_again(
    core: NodeCore, broker: Broker, clock: Clock, log: HandLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is forgotten before it is on disk."""
    witness = make_witness(core, clock)
    receipted(core, broker)
    file(core, filing("Dropped"))
    core.tried(core.outgoing(1)[0].numbers, ())
    passing(clock, witness, log, 9)
    with monkeypatch.context() as patch:
        patch.setattr(Tx, "flush", _full)
        with pytest.raises(Transient):
            passing(clock, witness, log, 5)
    assert sorted(passing(clock, witness, log, 5)) == ["log-stalled", "receipt-overdue"]


def _full(_: Any) -> None:
    raise Transient("the disk is full")


# --- crashes ------------------------------------------------------------------------------------------------------


class Pen:
    """A signer that remembers."""

    def __init__(self) -> None:
        self.key = key_of("id-cert")
        self.kid, self.alg = self.key.kid, self.key.alg
        self.signed: list[bytes] = []

    def sign(self, data: bytes) -> bytes:
        self.signed.append(data)
        return self.key.sign(data)


def test_nothing_is_signed_that_was_not_committed(
    core: NodeCore, clock: Clock, log: HandLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verify, commit, sign, send: if the commit fails, the checkpoint was never seen."""
    pen = Pen()
    witness = make_witness(core, clock, signer=pen)
    log.entries = FILLER[:5]
    log.show()
    with monkeypatch.context() as patch:
        patch.setattr(Tx, "flush", _full)
        with pytest.raises(Transient):
            turns(witness, log)
    assert pen.signed == []
    assert isinstance(witness.question(), NextRequest)
    other = HandLog(clock, [*FILLER[:4], b"other".ljust(32)])
    other.show()
    turns(witness, other)
    assert [data.split(b"\n")[3] for data in pen.signed] == [b"5"]
    assert verified(core) == 5


@pytest.mark.usefixtures("each_database")
def test_a_restart_after_each_step(tmp_path: Path, clock: Clock, log: HandLog, broker: Broker) -> None:
    """At the worst the same checkpoint is cosigned twice; in the end everything is proven."""
    core = make_core(tmp_path, clock)
    receipted(core, broker)
    log.entries = [*entries_of(core), *FILLER[:6]]
    log.show()
    log.publish()
    core.store.close()
    asked: list[str] = []
    for step in range(12):
        core = make_core(tmp_path, clock)
        witness = make_witness(core, clock)
        question = witness.wanted() or witness.question()
        answer = log.answer(question)
        asked.append(type(question).__name__)
        if step % 2:
            # Killed after the answer was taken; on even steps between asking and hearing.
            witness.take(question, answer)
        core.store.close()
    core = make_core(tmp_path, clock)
    assert states(core) == {0: "proven"}
    assert alarms(core) == []
    assert len({line.split(" ")[1] for _, line in log.lines}) == 1
    assert {size for size, _ in log.lines} == {7}
    assert len(log.lines) == 2
    assert len(events(core, "report.proven")) == 1
    core.store.close()


def test_a_cosignature_that_was_refused_is_tried_again_later(core: NodeCore, clock: Clock, log: HandLog) -> None:
    """The log is watched meanwhile."""
    witness = make_witness(core, clock)
    log.entries = FILLER[:3]
    log.show()
    turns(witness, log, 1)
    question = witness.question()
    assert isinstance(question, CosignRequest)
    assert witness.refused(question, Reason.UNKNOWN_KEY).refused == ["unknown-key"]
    assert isinstance(witness.question(), NextRequest)
    clock.pass_(seconds=61)
    assert isinstance(witness.question(), CosignRequest)


@pytest.mark.usefixtures("each_database")
def test_old_checkpoints_are_forgotten(
    core: NodeCore, clock: Clock, log: HandLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the newest ones and the published one."""
    monkeypatch.setattr(watching, "KEPT", 3)
    witness = make_witness(core, clock)
    for size in range(1, 9):
        log.entries = FILLER[:size]
        log.show()
        if size == 2:
            log.publish()
        turns(witness, log, 3)
    with core.store.read() as reads:
        assert [size for size in range(20) if reads.checkpoint(size)] == [2, 6, 7, 8]


# --- views --------------------------------------------------------------------------------------------------------


def test_a_recipient_has_one_state(core: NodeCore, broker: Broker, clock: Clock) -> None:
    """The furthest that is known of it, and who released what."""
    report_id = file(core, filing())["report_id"]
    message = core.outgoing(1)[0].data
    digest = broker.open(message).reports[0].digest
    by = [st.ReleasedBy(gate="export", document="id/1", rule="all")]
    decisions = [st.Decision(granted=True, exact=ALL_UNITS, by=by), st.Decision(granted=False)]
    to = {"my-cert": 0, "sg-cert": 1}
    reports = [st.ReportReceipt(digest=digest, outcome="accepted", to=to)]
    core.receive([receipts(broker.receipt(message, decisions=decisions, reports=reports))])

    def state(of: str = "my-cert") -> Any:
        return shown(core, report_id)["revisions"][0]["recipients"][of]["state"]

    shown_by = shown(core, report_id)["revisions"][0]["recipients"]
    assert shown_by["my-cert"]["by"] == [{"gate": "export", "document": "id/1", "rule": "all"}]
    assert "by" not in shown_by["sg-cert"]
    assert (state(), state("sg-cert")) == ("queued", "denied")

    def word(name: str, refusal: st.Refusal | None = None) -> None:
        packed = msgspec.json.encode(refusal) if refusal else None
        row = {"report": digest, "member": "my-cert", "state": name, "at": 0, "refusal": packed, "statement": "x" * 43}
        with core.store.write() as tx:
            tx.put(tables.confirmed, row)

    for name, refusal, seen in (
        ("delivered", None, "delivered"),
        ("stopped", st.Refusal(reason="default-deny"), "stopped"),
        ("stopped", st.Refusal(reason="expired"), "expired"),
        ("refused", st.Refusal(reason="default-deny"), "refused"),
        ("received", None, "received"),
        ("acting", None, "acting"),
        ("read", None, "acting"),
        ("closed", None, "closed"),
    ):
        word(name, refusal)
        assert state() == seen


@pytest.mark.usefixtures("each_database")
def test_the_view_of_the_log(core: NodeCore, broker: Broker, clock: Clock, log: HandLog) -> None:
    """Empty at first; then what is verified, published, waiting and wrong."""
    witness = make_witness(core, clock)
    with core.store.read() as reads:
        assert log_view(reads, core.trust.registry)["verified"] == {"size": 0}
    receipted(core, broker)
    receipted(core, broker, "Another")
    holds(core, log, size=1)
    log.show()
    turns(witness, log)
    with core.store.read() as reads:
        view = log_view(reads, core.trust.registry)
    assert view["origin"] == "kentongan/testland"
    assert (view["verified"]["size"], view["published"]["size"], view["lag"]) == (2, 1, 1)
    assert view["published"]["witnesses"] == sorted(QUORUM)
    assert view["published"]["quorum"] == 2
    assert view["leaves"] == {"waiting": 1, "missing": 0}
    assert view["alarms"] == {}


# --- the loops ----------------------------------------------------------------------------------------------------


class LogBus(MemoryBus):
    """A bus with a log behind it."""

    def __init__(self, log: HandLog) -> None:
        super().__init__()
        self.log = log
        self.silent = False

    async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
        if "log." not in subject:
            return await super().request(subject, data, timeout)
        if self.silent:
            raise Transient("no answer")
        for _ in range(400):
            answer = self.log.serve(subject, data)
            if answer != b"{}" or not subject.endswith("next"):
                break
            await asyncio.sleep(0.005)
        return answer


@pytest.mark.usefixtures("each_database")
async def test_a_node_follows_the_log(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """From a posted report to its proof over HTTP, with what an operator sees of it."""
    log = HandLog(clock)
    bus = LogBus(log)
    async with running(make_config(tmp_path), clock, bus) as node:
        _, answer, _ = await node.post(filing())
        status = answer["status"]
        async with node.http.get(f"{status}/proof") as response:
            assert response.status == 404
            assert (await response.json())["reason"] == "not-witnessed"
        await bus.until(lambda: bus.sent)
        bus.inbox.append(receipts(broker.receipt(bus.sent[0].data)))
        await bus.until(lambda: not bus.inbox and not bus.unacked)
        assert (await node.get(status))["revisions"][0]["proof"]["state"] == "waiting"
        entry = unb64((await node.get(status))["revisions"][0]["proof"]["entry"])
        log.entries = [entry, *FILLER[:4]]
        log.show()
        await bus.until(lambda: log.lines)
        log.publish()
        async with asyncio.timeout(5):
            while (await node.get(status))["revisions"][0]["proof"]["state"] != "proven":
                await asyncio.sleep(0.01)
        async with node.http.get(f"{status}/proof?revision=1") as response:
            assert response.status == 200
            assert response.content_type == "text/plain"
            parse_proof(await response.text()).verify(entry)
        async with node.http.get(f"{status}/proof?revision=2") as response:
            assert response.status == 404
        view = await node.get("/v1/log")
        assert (view["verified"]["size"], view["published"]["size"]) == (5, 5)
        text = await _metrics(node)
        assert "kentongan_node_log_verified_size 5.0" in text
        assert "kentongan_node_log_published_size 5.0" in text
        assert "kentongan_node_cosigned_total 1.0" in text
        assert "kentongan_node_proof_seconds_count 1.0" in text
        assert f"kentongan_node_leaves_waiting {len(bus.records)}.0" in text, "this log holds no governance records"
        await node.get("/readyz")


async def _metrics(node: Running) -> str:
    async with node.http.get("/metrics") as response:
        return await response.text()


async def test_a_stop_does_not_wait_for_an_answer_that_is_held_back(tmp_path: Path, clock: Clock) -> None:
    """The long poll ends with the node."""

    class Holding(LogBus):
        async def request(self, subject: str, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
            if subject.endswith("log.next"):
                self.ring()
                await asyncio.sleep(60)
            return await super().request(subject, data, timeout)

    bus = Holding(HandLog(clock))
    async with running(make_config(tmp_path), clock, bus) as node:
        await asyncio.sleep(0.05)
        async with asyncio.timeout(3):
            await node.stop()


async def test_a_fork_is_not_asked_for_in_a_hurry(tmp_path: Path, clock: Clock) -> None:
    """The same answer would come at once, again and again."""
    log = HandLog(clock, FILLER[:8])
    log.show()
    bus = LogBus(log)
    async with running(make_config(tmp_path), clock, bus) as node:
        await bus.until(lambda: log.lines)
        log.entries[0] = b"other".ljust(32)
        log.entries += FILLER[:2]
        log.show()
        async with asyncio.timeout(5):
            while 'log_refused_total{reason="log-forked"}' not in await _metrics(node):
                await asyncio.sleep(0.01)
        before = len(log.asked)
        await asyncio.sleep(0.3)
        assert len(log.asked) <= before + 1
        text = await _metrics(node)
        assert 'kentongan_node_handled_total{reason="log-forked",what="alarm"} 1.0' in text
        assert (await node.get("/v1/log"))["alarms"] == {"log-forked": 1}


async def test_a_broker_that_keeps_the_region_to_itself_is_watched_nevertheless(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once, since the region of the invitation may be an old one."""
    log = HandLog(clock, FILLER[:8])
    log.show()
    bus = LogBus(log)
    bus.region_document = b""
    async with running(make_config(tmp_path), clock, bus):
        await bus.until(lambda: bus.requests > 1)
        assert not log.asked
        monkeypatch.setattr("node.witnessing.UNANSWERED", 0.01)
        await bus.until(lambda: log.lines)


async def test_an_answer_that_is_none_is_not_a_fork(tmp_path: Path, clock: Clock) -> None:
    """Also when it is the decoder that finds something out of its range."""
    log = HandLog(clock, FILLER[:8])
    log.show()
    bus = LogBus(log)
    async with running(make_config(tmp_path), clock, bus) as node:
        await bus.until(lambda: log.lines)
        junk = json.dumps({"consistency": ["A" * 43] * 99}).encode()
        log.serve = lambda *_: junk  # type: ignore[method-assign]
        async with asyncio.timeout(5):
            while 'log_refused_total{reason="malformed-proof"}' not in await _metrics(node):
                await asyncio.sleep(0.01)
        assert (await node.get("/v1/log"))["alarms"] == {}


async def test_a_broker_that_is_silent_about_its_log_alone_is_there(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers for the region: the time counts, and what waits becomes an alarm."""
    monkeypatch.setattr("node.witnessing.REST", 0.01)
    bus = LogBus(HandLog(clock))
    bus.silent = True
    bus.show(region(), START)
    async with running(make_config(tmp_path), clock, bus) as node:
        await node.post(filing())
        await bus.until(lambda: bus.sent)
        for _ in range(80):
            clock.pass_(seconds=10)
            seen = bus.requests
            await bus.until(lambda seen=seen: bus.requests > seen + 1)
        assert 'kentongan_node_handled_total{reason="receipt-overdue",what="alarm"} 1.0' in await _metrics(node)
