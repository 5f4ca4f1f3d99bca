"""What members and the broker could say wrongly with a good signature, and when a key counts."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec

from protocol.envelope import TYP, Envelope, SignedReport, open_envelope, present, release
from protocol.evidence import Bundle, verify_bundle
from protocol.findings import Trust
from protocol.issuing import issue
from protocol.jws import sign_jws, split_jws
from protocol.keys import SigningKey, unb64
from protocol.registry import Region
from protocol.report import Body, Origin, Report
from protocol.statements import (
    Confirmation,
    Delivered,
    Delivery,
    Link,
    LinkedReport,
    Links,
    Refusal,
    Stopped,
    sign_statement,
)
from tests.governing import sign_region
from tests.proof import case, outcomes, proven, reasons, receipt_of, replaced, subjects, with_key


def test_a_second_receipt_is_not_the_one_in_the_log() -> None:
    """The broker signs a receipt that grants less, or is for somebody else: the log holds another."""
    world = case().world
    said = receipt_of(case().own)
    (report,) = (one for one in said.reports if one.digest == case().own.revisions[0].digest)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"reports": [msgspec.structs.replace(report, to={"my": report.to["my"]})]}, "proof-invalid"),
        ({"leaf": said.leaf + 1}, "proof-invalid"),
        ({"aud": "sg"}, "wrong-audience"),
        ({"submission": said.reports[0].digest}, "content-changed"),
        ({"reports": [msgspec.structs.replace(report, revision=9)]}, "content-changed"),
        ({"received_at": case().now + timedelta(days=2)}, "time-in-future"),
        ({"received_at": said.received_at - timedelta(days=2)}, "key-not-valid"),
        ({"received_at": said.received_at - timedelta(hours=1)}, "time-in-future"),
        ({"decisions": []}, "out-of-range"),
    ]
    for change, reason in changes:
        jws = sign_statement(msgspec.structs.replace(said, **change), world.broker_key)
        verdict = case().verify(replaced(case().own, receipt=jws))
        assert reason in reasons(verdict), (change, outcomes(verdict))
    mine = sign_statement(said, world.keys["id"])
    assert "wrong-member" in reasons(case().verify(replaced(case().own, receipt=mine)))


def test_the_leaf_is_the_one_that_was_promised() -> None:
    """The entry does not say where it is: a delivery that promises another leaf is another promise."""
    said = delivery_of(case().got)
    grants = [msgspec.structs.replace(one, leaf=one.leaf + 1) for one in said.grants]
    verdict = case().verify(replaced(case().got, delivery=signed(msgspec.structs.replace(said, grants=grants))))
    assert "proof-invalid" in reasons(verdict)
    assert not {"revision 1: log", "revision 1: quorum"} & subjects(verdict, "proven")


def test_confirmations_are_the_recipients_own() -> None:
    """Another's signature, another report, another origin, a time before the report, a member without a grant."""
    world, at = case().world, case().now
    digest = case().own.revisions[0].digest
    said = Confirmation(iss="my", aud="id", at=at, state="closed", reports=[digest])
    changes: list[tuple[Any, SigningKey, str]] = [
        (said, world.keys["sg"], "wrong-member"),
        (msgspec.structs.replace(said, reports=["A" * 43]), world.keys["my"], "unknown-report"),
        (msgspec.structs.replace(said, aud="sg"), world.keys["my"], "wrong-audience"),
        (msgspec.structs.replace(said, at=at - timedelta(hours=5)), world.keys["my"], "time-in-future"),
        (msgspec.structs.replace(said, at=at + timedelta(hours=5)), world.keys["my"], "time-in-future"),
        (msgspec.structs.replace(said, iss="id"), world.keys["id"], "not-granted"),
        (said, SigningKey.from_seed(b"n" * 32), "unknown-key"),
    ]
    for statement, key, reason in changes:
        verdict = case().verify(replaced(case().own, confirmations=[sign_statement(statement, key)]))
        assert reason in reasons(verdict), (statement, outcomes(verdict))
        assert "revision 1: confirmation" not in subjects(verdict, "proven")
    good = replaced(case().own, confirmations=[sign_statement(said, world.keys["my"])])
    assert case().verify(good).complete


def test_more_than_was_granted_is_found() -> None:
    """A recipient's bundle that shows a field beyond its grant: the broker or the recipient is at fault."""
    full = case().own.revisions[0].presentation
    jws = str(case().got.revisions[0].delivery)
    said = msgspec.json.decode(split_jws(jws, Delivery.typ).payload, type=Delivery)
    opening = said.grants[0]
    narrow = msgspec.structs.replace(opening, reports=[(digest, 1, 0) for digest, _, _ in opening.reports])
    signed = sign_statement(msgspec.structs.replace(said, grants=[narrow]), case().world.broker_key)
    verdict = case().verify(replaced(case().got, delivery=signed))
    assert {"not-granted", "proof-invalid"} <= reasons(verdict)
    # What the entry grants may all be shown.
    assert not case().verify(replaced(case().got, presentation=full)).false


# --- keys -------------------------------------------------------------------------------------------------------


def test_a_key_is_judged_at_the_time_of_the_receipt() -> None:
    """Expired since: still proven. Not valid or revoked then: false."""
    received = receipt_of(case().own).received_at
    since = with_key(case().own, "id", not_after=received + timedelta(hours=1))
    later = verify_bundle(since, case().trust, case().now + timedelta(days=900))
    assert "revision 1: key" in subjects(later, "proven")
    assert case().verify(since).complete
    before = with_key(case().own, "id", not_after=received - timedelta(seconds=1))
    revoked = with_key(case().own, "id", revoked_at=received - timedelta(seconds=1))
    for changed, reason in ((before, "key-not-valid"), (revoked, "key-revoked")):
        # The same key cosigned, which is another finding.
        found = [item.reason for item in case().verify(changed).findings if item.about == "revision 1: report"]
        assert found == [reason]


def test_a_key_that_was_revoked_later_needs_a_witnessed_time() -> None:
    """The log shows that the report was there before; without it, nothing but the thief's own date would."""
    revoked = with_key(case().own, "id", revoked_at=case().now + timedelta(days=1))
    after = case().now + timedelta(days=2)
    verdict = verify_bundle(revoked, case().trust, after)
    assert outcomes(verdict) == []
    assert "was revoked on" in next(item.sentence for item in verdict.findings if item.about == "revision 1: key")
    blind = replaced(replaced(revoked, proof=msgspec.UNSET), 1, proof=msgspec.UNSET)
    verdict = verify_bundle(blind, case().trust, after)
    assert not verdict.false
    assert "revision 1: key" in subjects(verdict, "not-checkable")
    confirmed = with_key(case().own, "my", revoked_at=case().now + timedelta(days=1))
    verdict = verify_bundle(confirmed, case().trust, after)
    assert "revision 1: confirmation" in subjects(verdict, "not-checkable")
    assert not verdict.false


def test_what_is_dated_after_the_examination_is_refused() -> None:
    """As of a day before, there was no such region document."""
    verdict = verify_bundle(case().own, case().trust, case().now - timedelta(days=1))
    assert proven(verdict) == set()
    assert "time-in-future" in reasons(verdict)


def test_regions_of_one_name_and_key_are_told_apart_by_time() -> None:
    """The newest trusted document speaks: it may know of a revocation that the bundle's does not."""
    world = case().world
    received = receipt_of(case().own).received_at
    members = [
        msgspec.structs.replace(member, keys=[msgspec.structs.replace(member.keys[0], revoked_at=received)])
        if member.id == "id"
        else member
        for member in world.region.members
    ]
    newer: Region = msgspec.structs.replace(world.region, members=members)
    trust = Trust(region=sign_region(newer, world.broker_key, case().now + timedelta(seconds=1)))
    verdict = verify_bundle(case().own, trust, case().now)
    assert "key-revoked" in reasons(verdict)


def test_one_key_may_not_speak_for_two_regions() -> None:
    """A document of another name, signed by the same key, later: the trusted one stays, and it is said."""
    world = case().world
    other: Region = msgspec.structs.replace(world.region, region="elsewhere")
    document = sign_region(other, world.broker_key, case().now + timedelta(seconds=1))
    trust = Trust(region=case().own.region)
    verdict = verify_bundle(msgspec.structs.replace(case().own, region=document), trust, case().now)
    assert "content-changed" in reasons(verdict)
    assert next(item.facts["region"] for item in verdict.findings if item.outcome == "proven") == "sim"


def test_a_key_of_an_origin_is_judged_up_to_the_delivery_where_no_receipt_is() -> None:
    """What the recipient's node wrote down about the time in between is not signed: it decides nothing."""
    delivered = delivery_of(case().got).sent_at
    received = case().got.revisions[0].received_at
    assert isinstance(received, datetime)
    for changes in (
        {"not_after": delivered},
        {"revoked_at": delivered},
        {"not_before": delivered},
    ):
        verdict = case().verify(with_key(case().got, "id", **changes))
        assert "revision 1: key" not in subjects(verdict, "proven"), changes
    since = case().verify(with_key(case().got, "id", revoked_at=delivered))
    assert "revision 1: report" in subjects(since, "proven")
    assert "revision 1: key" in subjects(since, "not-checkable")
    before = case().verify(with_key(case().got, "id", not_after=received - timedelta(days=1)))
    assert "key-not-valid" in reasons(before)


def delivery_of(bundle: Bundle) -> Delivery:
    payload = split_jws(str(bundle.revisions[0].delivery), Delivery.typ).payload
    return msgspec.json.decode(payload, type=Delivery)


def signed(said: Any) -> str:
    return sign_statement(said, case().world.broker_key)


def test_the_brokers_notices_are_about_this_report_and_for_its_origin() -> None:
    """Genuine ones about another report, or for another member, do not belong here."""
    word = {"iss": "broker", "at": case().now, "member": "my"}
    refusal = Refusal(reason="denied-by-rule")
    digest = case().own.revisions[0].digest
    for reports, aud, reason in ((["A" * 43], "id", "unknown-report"), ([digest], "sg", "wrong-audience")):
        lying = Delivered(**word, aud=aud, reports=reports)
        stopped = Stopped(**word, aud=aud, reports=reports, refusal=refusal)
        for name, said in (("delivered", lying), ("stopped", stopped)):
            verdict = case().verify(replaced(case().own, **{name: [signed(said)]}))
            assert reasons(verdict) == {reason}, (name, aud)
            assert f"revision 1: {name}" not in subjects(verdict, "proven")


def test_links_are_about_this_report_and_for_who_made_the_bundle() -> None:
    """As the notices."""
    ends = [LinkedReport(digest="A" * 43, report_id=name, origin="id") for name in (case().report_id, "x", "y")]
    for pair, aud, reason in (((1, 2), "id", "unknown-report"), ((0, 1), "sg", "wrong-audience")):
        link = Link(a=ends[pair[0]], b=ends[pair[1]], strength="weak", on={})
        links = Links(iss="broker", aud=aud, at=case().now, links=[link])
        verdict = case().verify(msgspec.structs.replace(case().own, links=[signed(links)]))
        assert reasons(verdict) == {reason}
        assert "links" not in subjects(verdict, "proven")


def test_revisions_are_a_chain_of_one_origin() -> None:
    """Another report in the place of an earlier revision, or a revision that is there twice."""
    first, second = case().own.revisions
    other = msgspec.structs.replace(case().other.revisions[0], revision=1)
    verdict = case().verify(msgspec.structs.replace(case().own, revisions=[other, second]))
    assert "Revision 2 follows another report" in " ".join(item.sentence for item in verdict.findings)
    assert "revisions" not in subjects(verdict, "proven")
    verdict = case().verify(msgspec.structs.replace(case().own, revisions=[first, second, second]))
    assert "revision-conflict" in reasons(verdict)


def forged(name: str, **header: Any) -> tuple[Envelope, SignedReport]:
    """A report that a member signs with what header it likes."""
    world = case().world
    base = open_envelope(str(case().own.revisions[0].presentation), world.state.registry.keys.find, case().now)
    (genuine,) = (item for item in base.reports if item.digest == case().own.revisions[0].digest)
    assert isinstance(genuine, SignedReport)
    body = msgspec.convert({"title": "x"}, Body)
    report = Report(header=msgspec.structs.replace(genuine.header, **header), body=body)
    envelope = issue([report], name, world.keys[name], case().now, world.rng.randbytes)
    (signed_report,) = envelope.reports
    assert isinstance(signed_report, SignedReport)
    return envelope, signed_report


def shown(envelope: Envelope, report: SignedReport, number: int = 0) -> Bundle:
    """The bundle with this report in the place of one of its own."""
    text = present(envelope.jws, [release(report, -1, -1)])
    return replaced(case().own, number, presentation=text, digest=report.digest)


def test_a_member_signs_for_itself_its_jurisdiction_and_its_time() -> None:
    """Another jurisdiction than its own, another member's revision, a date after the broker had it."""
    verdict = case().verify(shown(*forged("id", origin=Origin(jurisdiction="my", member="id"))))
    assert "wrong-member" in reasons(verdict)
    assert "revision 1: report" not in subjects(verdict, "proven")
    second = forged("my", origin=Origin(jurisdiction="my", member="my"), revision=2)
    verdict = case().verify(shown(*second, 1))
    sentences = [item.sentence for item in verdict.findings if item.about == "revisions"]
    assert sentences == ["The revisions are signed by different members."]
    world, now = case().world, case().now
    envelope, report = forged("id", issued_at=now + timedelta(hours=1))
    receipt = msgspec.structs.replace(receipt_of(case().own), submission=envelope.digest, received_at=now, reports=[])
    late = msgspec.structs.replace(shown(envelope, report), revisions=shown(envelope, report).revisions[:1])
    verdict = case().verify(replaced(late, receipt=sign_statement(receipt, world.broker_key)))
    assert "It is dated after the broker had it." in [item.sentence for item in verdict.findings]


def test_a_signature_without_content_is_judged_like_one_with_it() -> None:
    """Signer, key, window and digest."""
    world = case().world
    revision = case().own.revisions[0]
    jws = str(revision.presentation).partition("~")[0]
    bare = replaced(case().own, presentation=msgspec.UNSET, envelope=jws)
    assert case().verify(bare).complete
    _, payload, _ = jws.split(".")
    claims = msgspec.json.decode(unb64(payload))
    mine = sign_jws(TYP, msgspec.json.encode({**claims, "iss": "my"}), world.keys["id"])
    assert "revision 1: report" in subjects(case().verify(replaced(bare, envelope=mine)), "not-proven")
    elsewhere = sign_jws(TYP, msgspec.json.encode({**claims, "reports": [{"...": "A" * 43}]}), world.keys["id"])
    assert "revision 1: report" in subjects(case().verify(replaced(bare, envelope=elsewhere)), "not-proven")
    received = receipt_of(case().own).received_at
    over = with_key(bare, "id", not_after=received - timedelta(seconds=1))
    assert "revision 1: report" in subjects(case().verify(over), "not-proven")
