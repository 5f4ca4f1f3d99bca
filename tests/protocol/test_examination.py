"""One file at a time: every kind is recognised, proven with what is trusted, and false when changed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocol import auditing
from protocol.errors import ProtocolError
from protocol.evidence import write_bundle
from protocol.examination import examine, kind_of, read_trust
from protocol.findings import Trust
from protocol.jws import split_jws
from protocol.published import publish
from protocol.statements import Delivery, sign_statement, statement_digest
from tests.federation import filing
from tests.governing import sign_region
from tests.proof import case, flip, make_world, outcomes, proven, reasons, subjects

# --- one thing at a time ----------------------------------------------------------------------------------------


def pieces() -> dict[str, bytes]:
    """Every kind of file, genuine."""
    world, own, got = case().world, case().own.revisions[0], case().got.revisions[0]
    delivery = next(item.data for item in world.sent if item.member == "my" and item.kind == "delivery")
    noted = next(
        jws
        for item in world.sent
        if item.kind == "receipts"
        for jws in msgspec.json.decode(item.data)
        if kind_of(jws.encode()) == "noted"
    )
    return {
        "report": str(got.presentation).encode(),
        "receipt": str(own.receipt).encode(),
        "delivery": str(got.delivery).encode(),
        "delivery message": delivery,
        "confirmation": own.confirmations[0].encode(),
        "noted": noted.encode(),
        "stopped": own.stopped[0].encode(),
        "delivered": own.delivered[0].encode(),
        "links": case().own.links[0].encode(),
        "policy": publish(world.policies["id"], "id", world.keys["id"], case().now).encode(),
        "region document": case().own.region.encode(),
        "tlog-proof": str(own.proof).encode(),
        "evidence bundle": write_bundle(case().own),
        "answers to an auditor": kept(),
    }


def kept() -> bytes:
    """What a broker told an auditor of its origin's jurisdiction, as the auditor keeps it."""
    world, receipt = case().world, str(case().own.revisions[0].receipt)
    one = auditing.Case(leaf=4, origin="id", received_at=case().now, receipt=receipt)
    cases = auditing.CasesAnswer(members=["id"], first=0, end=9, size=9, more=False, cases=[one])
    words = auditing.WordsAnswer(words=case().own.revisions[0].confirmations)
    asked: list[tuple[Any, Any]] = [
        (auditing.CasesRequest(), cases),
        (auditing.WordsRequest(kind="confirmations", leaves=[4]), words),
    ]
    lines = []
    for question, answer in asked:
        sent = auditing.encode(question)
        signed = auditing.sign_answer(sent, auditing.encode(answer), "id", world.broker_key, case().now)
        lines.append(auditing.encode(auditing.Exchange(question=sent.decode(), answer=signed.decode())) + b"\n")
    return b"".join(lines)


def test_what_a_broker_told_an_auditor_names_what_it_showed() -> None:
    """Whoever holds another receipt of that range holds the broker to its word."""
    verdict = examine(kept(), region_trust(), case().now)
    assert verdict is not None
    cases, words = verdict.findings
    assert "of the leaves 0 to 8 of the log, those that concern id are 4" in cases.sentence
    assert cases.facts["receipts"] == [statement_digest(str(case().own.revisions[0].receipt))]
    assert words.facts["words"] == [statement_digest(jws) for jws in case().own.revisions[0].confirmations]
    exchanges = [msgspec.json.decode(line, type=auditing.Exchange) for line in kept().splitlines()]
    exchanged = [
        auditing.Exchange(question=one.question, answer=other.answer)
        for one, other in zip(exchanges, reversed(exchanges), strict=True)
    ]
    found = examine(b"\n".join(map(auditing.encode, exchanged)), region_trust(), case().now)
    assert found is not None
    assert [item.reason for item in found.findings] == ["content-changed", "content-changed"]


def region_trust() -> Trust:
    return Trust(region=case().own.region)


def test_every_kind_is_recognised_and_proven() -> None:
    """With a region document that is trusted, and for what needs it the receipt beside it."""
    for name, data in pieces().items():
        assert kind_of(data) == name
        receipt = pieces()["receipt"] if name in ("report", "tlog-proof") else None
        verdict = examine(data, region_trust(), case().now, receipt=receipt)
        assert verdict is not None
        assert verdict.findings
        assert outcomes(verdict) == [], (name, outcomes(verdict))


def test_without_trust_a_single_statement_proves_nothing() -> None:
    """Its signer's key is not known; nothing is false either."""
    for name, data in pieces().items():
        verdict = examine(data, None, case().now)
        assert verdict is not None
        assert not verdict.false, (name, outcomes(verdict))
        if name not in ("evidence bundle", "region document"):
            assert not proven(verdict), name


def test_every_kind_changed_is_false_or_unreadable() -> None:
    """A character in the middle of the payload, and in the signature."""
    for name, data in pieces().items():
        if name == "evidence bundle":
            continue
        text = data.decode()
        receipt = pieces()["receipt"] if name in ("report", "tlog-proof") else None
        genuine = examine(data, region_trust(), case().now, receipt=receipt)
        assert genuine is not None
        for at in (0.3, 0.6, 0.9):
            verdict = examine(flip(text, at).encode(), region_trust(), case().now, receipt=receipt)
            if verdict is not None:
                assert not verdict.complete, (name, at)
                assert proven(verdict) <= proven(genuine), (name, at)


def test_a_tlog_proof_needs_something_to_prove() -> None:
    """The entry, or the receipt; without either it is not checkable, with another it is false."""
    proof = pieces()["tlog-proof"]
    entry = case().world.entries()[len(case().world.records)]
    told = examine(proof, region_trust(), case().now, entry=entry)
    assert told is not None
    assert told.complete
    alone = examine(proof, region_trust(), case().now)
    assert alone is not None
    assert {item.missing for item in alone.findings if item.outcome == "not-checkable"} == {"entry"}
    wrong = examine(proof, region_trust(), case().now, entry=b"\0" * 32)
    assert wrong is not None
    assert "proof-invalid" in reasons(wrong)
    other = str(case().other.revisions[0].receipt).encode()
    swapped = examine(proof, region_trust(), case().now, receipt=other)
    assert swapped is not None
    assert "proof-invalid" in reasons(swapped)


def test_a_report_alone_says_what_is_missing() -> None:
    """Its key is judged when the broker received it, which only the receipt tells; another's receipt does not."""
    data = pieces()["report"]
    alone = examine(data, region_trust(), case().now)
    assert alone is not None
    assert subjects(alone, "not-checkable") == {"key"}
    other = examine(data, region_trust(), case().now, receipt=str(case().other.revisions[0].receipt).encode())
    assert other is not None
    assert "content-changed" in reasons(other)
    assert "key" not in subjects(other, "proven")


def test_a_delivery_with_other_items_is_false() -> None:
    """The statement is over the bytes."""
    head, _, items = pieces()["delivery message"].partition(b"\n")
    verdict = examine(head + b"\n" + items.replace(b"2026", b"2025"), region_trust(), case().now)
    assert verdict is not None
    assert "content-changed" in reasons(verdict)
    assert not [item for item in verdict.findings if item.about.startswith("item ")]


def test_trust_that_is_none_is_refused() -> None:
    """What cannot be read as one of the three forms."""
    record = case().world.region.broker_keys[0]
    renamed = msgspec.json.encode(msgspec.structs.replace(record, kid="A" * 22))
    for data in (renamed, b"", b"{}", b"\xff", b"[]", b"eyJ.e30.", pieces()["receipt"], write_bundle(case().own)):
        with pytest.raises(ProtocolError):
            read_trust(data)


def test_a_delivery_message_holds_no_more_than_its_statement_grants() -> None:
    """The broker signs for a wider delivery than it granted."""
    head, _, items = pieces()["delivery message"].partition(b"\n")
    said = msgspec.json.decode(split_jws(head.decode(), Delivery.typ).payload, type=Delivery)
    grants = [
        msgspec.structs.replace(one, reports=[(digest, 1, 0) for digest, _, _ in one.reports]) for one in said.grants
    ]
    narrow = sign_statement(msgspec.structs.replace(said, grants=grants), case().world.broker_key)
    verdict = examine(narrow.encode() + b"\n" + items, region_trust(), case().now)
    assert verdict is not None
    assert reasons(verdict) == {"not-granted"}
    fewer = sign_statement(msgspec.structs.replace(said, grants=[]), case().world.broker_key)
    verdict = examine(fewer.encode() + b"\n" + items, region_trust(), case().now)
    assert verdict is not None
    assert "not-granted" in reasons(verdict)


def test_a_sealed_report_is_examined_with_its_box() -> None:
    """As an origin sends it: the box behind it, which no other report's header names."""
    world = make_world(2)
    red = {"marking": {"tlp": "RED", "recipients": ["my"]}}
    (answer,) = world.post("id", filing(1, **red))
    (plain,) = world.post("id", filing(2))
    world.settle()
    trust = Trust(tuple(world.region.broker_keys), sign_region(world.region, world.broker_key, world.clock.now))
    with world.nodes["id"].store.read() as reads:
        rows = {row.report_id: row.submission for row in reads.own_by("submission", [1, 2])}
        sent = {row.id: row for row in reads.submissions_by("id", rows.values())}
    row, other = sent[rows[answer["report_id"]]], sent[rows[plain["report_id"]]]
    receipt = row.receipt.encode()
    verdict = examine(row.message, trust, world.clock.now, receipt=receipt)
    assert verdict is not None
    assert outcomes(verdict) == []
    assert next(item.facts["to"] for item in verdict.findings if item.about == "box") == ["my"]
    box = row.message.partition(b"\n")[2]
    for message in (other.message + b"\n" + box, row.message[:-9], row.message + b"\n" + box):
        verdict = examine(message, trust, world.clock.now)
        assert verdict is not None
        assert "box" in subjects(verdict, "not-proven")
        assert "box" not in subjects(verdict, "proven")
