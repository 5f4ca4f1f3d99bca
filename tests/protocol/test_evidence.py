"""Evidence bundles: what a genuine one proves, and that no changed one proves anything else."""

from __future__ import annotations

import functools
from base64 import b64encode
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.evidence import Bundle, read_bundle, verify_bundle, write_bundle
from protocol.examination import examine, read_trust
from protocol.keys import SigningKey
from protocol.logproof import parse_proof
from protocol.notes import Line, Note, cosign
from tests.governing import sign_region
from tests.proof import (
    case,
    edit,
    flip,
    outcomes,
    proven,
    reasons,
    replaced,
    reproof,
    strings,
    subjects,
)
from tests.protocol.independent import check_bundle
from tests.protocol.make import quick

# --- what is genuine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["own", "got"])
def test_a_genuine_bundle_is_proven_in_full(side: str) -> None:
    """Everything about it, read back from its bytes, with the broker's key known beforehand."""
    bundle = read_bundle(write_bundle(getattr(case(), side)))
    verdict = case().verify(bundle)
    assert outcomes(verdict) == []
    assert verdict.complete
    assert not verdict.warning
    about = {item.about.rpartition(": ")[2].partition(" ")[0] for item in verdict.findings}
    both = {"region", "report", "key", "disclosed", "log", "witness", "quorum", "confirmation", "revisions"}
    assert about == both | (
        {"receipt", "decision", "recipient", "match", "delivered", "stopped", "links"}
        if side == "own"
        else {"delivery", "grant"}
    )


def test_what_is_said_names_who_when_and_where() -> None:
    """The facts are those of the region, not only some sentences."""
    verdict = case().verify(case().own)
    facts = {item.about: item.facts for item in verdict.findings}
    signed = facts["revision 1: report"]
    assert signed["origin"] == "id"
    assert signed["kid"] == case().world.keys["id"].kid
    assert signed["header"]["report_id"] == case().report_id
    assert facts["revision 1: disclosed"]["body"]["title"] == "Incident 1"
    assert facts["revision 1: recipient my"]["granted"] is True
    assert facts["revision 1: log"]["leaf"] == len(case().world.records)
    assert facts["revision 1: log"]["origin"] == "kentongan/sim"
    states = {(item.facts["by"], item.facts["state"]) for item in verdict.findings if "confirmation" in item.about}
    assert states == {("my", "received"), ("my", "read"), ("sg", "received")}
    cosigned = {item.facts["member"] for item in verdict.findings if item.about == "revision 1: witness"}
    assert cosigned == {"id", "my", "sg"}


def test_without_trust_the_first_line_says_so() -> None:
    """The bundle agrees with itself: no more than that."""
    verdict = verify_bundle(case().own, None, case().now)
    assert verdict.complete
    assert case().world.broker_key.kid in verdict.warning
    assert "taken from the bundle itself" in verdict.warning


@pytest.mark.parametrize("form", ["key record", "region document", "invitation"])
def test_trust_can_be_given_in_three_forms(form: str) -> None:
    """All prove the same, and another region's proves nothing."""
    for world, good in ((case().world, True), (case(1).world, False)):
        document = sign_region(world.region, world.broker_key, world.clock.now)
        data = {
            "key record": msgspec.json.encode(world.region.broker_keys[0]),
            "region document": document.encode(),
            "invitation": (world.directory / "files-id" / "invitation.json").read_bytes(),
        }[form]
        verdict = verify_bundle(case().own, read_trust(data), case().now)
        assert verdict.complete is good, outcomes(verdict)
        if not good:
            assert verdict.false
            assert not {item.about for item in verdict.findings if item.outcome == "proven"} - {"region"}


def test_a_proof_that_is_awaited_is_not_checkable() -> None:
    """Nothing is false, and nothing is claimed."""
    (first, second) = case().own.revisions
    first = msgspec.structs.replace(first, proof=msgspec.UNSET)
    verdict = case().verify(msgspec.structs.replace(case().own, revisions=[first, second]))
    assert not verdict.false
    assert subjects(verdict, "not-checkable") == {"revision 1: log"}


def test_a_third_party_can_do_it_without_this_program() -> None:
    """Signatures, log and disclosures with PyNaCl, hashlib and the sd-jwt library alone."""
    for side in (case().own, case().got):
        said = check_bundle(write_bundle(side), case().world.region.broker_keys[0].public)
        assert said[0]["title"] == "Incident 1"
        broken = write_bundle(side).replace(b"index 4", b"index 5", 1)
        with pytest.raises(AssertionError):
            check_bundle(broken, case().world.region.broker_keys[0].public)


# --- what is changed --------------------------------------------------------------------------------------------


SIGNED = {"region", "presentation", "receipt", "delivery", "proof", "confirmations", "delivered", "stopped", "links"}


@pytest.mark.parametrize("side", ["own", "got"])
def test_every_signed_part_changed_anywhere_is_found(side: str) -> None:
    """A character changed at many places of each part: something is not proven, and nothing new is."""
    bundle: Bundle = getattr(case(), side)
    genuine = proven(case().verify(bundle))
    parts = [
        path
        for path, _ in strings(msgspec.to_builtins(bundle))
        if SIGNED & {step for step in path if isinstance(step, str)}
    ]
    assert {step for path in parts for step in path} >= (
        SIGNED - ({"delivery"} if side == "own" else {"receipt", "delivered", "stopped", "links"})
    )
    for path in parts:
        for at in (0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.999):
            changed = edit(bundle, path, lambda text, at=at: flip(text, at))
            verdict = case().verify(changed)
            assert not verdict.complete, (path, at)
            assert verdict.false or path[-1] == "proof", (path, at)
            assert proven(verdict) <= genuine, (path, at, proven(verdict) - genuine)


@pytest.mark.parametrize("side", ["own", "got"])
def test_what_is_not_signed_proves_nothing(side: str) -> None:
    """Names, numbers and times that the node wrote: changed, no more is proven, nor anything else."""
    bundle: Bundle = getattr(case(), side)
    genuine = proven(case().verify(bundle))
    for path, value in strings(msgspec.to_builtins(bundle)):
        if SIGNED & {step for step in path if isinstance(step, str)}:
            continue
        try:
            changed = edit(bundle, path, lambda text: flip(text, 0.5))
        except ProtocolError:
            continue
        assert proven(case().verify(changed)) <= genuine, (path, value)
    for number in range(2):
        changed = edit(bundle, ("revisions", number, "revision"), lambda old: old + 5)
        verdict = case().verify(changed)
        assert verdict.false


def test_pieces_of_another_report_do_not_fit() -> None:
    """Each is genuine, and none is about this report."""
    own, other = case().own.revisions[0], case().other.revisions[0]
    for name, reason in (
        ("receipt", "unknown-report"),
        ("proof", "proof-invalid"),
        ("presentation", "content-changed"),
        ("confirmations", "unknown-report"),
        ("digest", "content-changed"),
    ):
        verdict = case().verify(replaced(case().own, **{name: getattr(other, name)}))
        assert reason in reasons(verdict), (name, outcomes(verdict))
    both = replaced(case().own, receipt=other.receipt, proof=other.proof)
    assert "unknown-report" in reasons(case().verify(both))
    whole = msgspec.structs.replace(case().own, revisions=[other])
    assert "content-changed" in reasons(case().verify(whole))
    assert case().verify(replaced(case().own, receipt=own.receipt)).complete


def test_a_delivery_of_another_report_does_not_fit() -> None:
    """The recipient's side of the same."""
    second = case().world.bundle("my", case().other.report_id).revisions[0]
    verdict = case().verify(replaced(case().got, delivery=second.delivery))
    assert "not-granted" in reasons(verdict)
    verdict = case().verify(replaced(case().got, presentation=second.presentation))
    assert "content-changed" in reasons(verdict)
    stranger = case().world.bundle("sg", case().report_id).revisions[0]
    verdict = case().verify(replaced(case().got, delivery=stranger.delivery))
    assert "wrong-audience" in reasons(verdict)
    verdict = case().verify(replaced(case().got, confirmations=stranger.confirmations))
    assert "wrong-member" in reasons(verdict)


def test_two_regions_do_not_mix() -> None:
    """Under each trusted key, with the other's documents."""
    mine, theirs = case(), case(1)
    for bundle in (
        msgspec.structs.replace(mine.own, region=theirs.own.region, broker_keys=theirs.own.broker_keys),
        msgspec.structs.replace(mine.own, region=theirs.own.region),
        msgspec.structs.replace(mine.own, revisions=theirs.own.revisions, report_id=theirs.own.report_id),
    ):
        for trust in (mine.trust, theirs.trust, None):
            verdict = verify_bundle(bundle, trust, mine.now)
            assert not verdict.complete
            assert not [item for item in proven(verdict) if item[0] != "region"]


def test_a_region_document_signed_by_another_key_is_refused() -> None:
    """Even if it says the same, or lists the forger's own key as the broker's."""
    world = case().world
    forger = SigningKey.from_seed(b"f" * 32)
    window = (world.clock.now - timedelta(days=1), world.clock.now + timedelta(days=1))
    for region in (world.region, msgspec.structs.replace(world.region, broker_keys=[forger.record(*window)])):
        forged = msgspec.structs.replace(case().own, region=sign_region(region, forger, world.clock.now))
        verdict = case().verify(forged)
        assert "unknown-key" in reasons(verdict)
        assert proven(verdict) == set()
    # Who takes the key from the bundle is told which one it is.
    taken = msgspec.structs.replace(forged, broker_keys=[forger.record(*window)])
    assert forger.kid in verify_bundle(taken, None, case().now).warning


# --- the log ----------------------------------------------------------------------------------------------------


def test_leaf_path_root_and_size_are_those_that_were_signed() -> None:
    """Each changed alone."""
    text = str(case().own.revisions[0].proof)
    proof = parse_proof(text)
    lines = proof.note.text.split("\n")
    bent = {
        "another leaf": reproof(text, index=proof.index + 1),
        "a shorter path": reproof(text, path=proof.path[:-1]),
        "a longer path": reproof(text, path=(*proof.path, b"\0" * 32)),
        "another path": reproof(text, path=(b"\0" * 32, *proof.path[1:])),
    }
    for name, place, value in (
        ("another log", 0, "kentongan/elsewhere"),
        ("another size", 1, str(int(lines[1]) + 1)),
        ("another root", 2, b64encode(b"\1" * 32).decode()),
    ):
        note = Note("\n".join([*lines[:place], value, *lines[place + 1 :]]), proof.note.lines)
        bent[name] = reproof(text, note=note)
    for name, changed in bent.items():
        verdict = case().verify(replaced(case().own, proof=changed))
        assert verdict.false, name
        assert not {"revision 1: log", "revision 1: quorum", "revision 1: witness"} & subjects(verdict, "proven"), name


def test_a_checkpoint_of_another_log_does_not_count() -> None:
    """Signed by the broker's own key and by all witnesses, over a log of another name."""
    world = case().world
    proof = parse_proof(str(case().own.revisions[0].proof))
    text = proof.note.text.replace(world.state.registry.origin, "kentongan/elsewhere")
    key = world.broker_key
    line = Line(world.state.registry.origin, proof.note.lines[0].key_id, key.sign(text.encode()))
    seen = [cosign(text, name, world.keys[name], world.keys[name].public, case().now) for name in ("id", "my", "sg")]
    verdict = case().verify(replaced(case().own, proof=reproof(proof.encode(), note=Note(text, (line, *seen)))))
    assert "proof-invalid" in reasons(verdict)
    assert not {"revision 1: log", "revision 1: quorum"} & subjects(verdict, "proven")


def test_the_quorum_counts() -> None:
    """A cosignature too few, twice the same, by nobody, or by a suspended member."""
    text = str(case().own.revisions[0].proof)
    note = parse_proof(text).note
    log, first, second, third = note.lines
    stranger = SigningKey.from_seed(b"s" * 32)
    strange = cosign(note.text, "nobody", stranger, stranger.public, case().now)
    forged = cosign(note.text, "my", stranger, stranger.public, case().now)
    for lines, met in (
        ((log, first, second, third), True),
        ((log, first, second), True),
        ((log, first, second, strange), True),
        ((log, first), False),
        ((log, first, first), False),
        ((log, first, strange), False),
        ((log, first, forged), False),
        ((log,), False),
    ):
        verdict = case().verify(replaced(case().own, proof=reproof(text, note=Note(note.text, lines))))
        assert ("revision 1: quorum" in subjects(verdict, "proven")) is met
        assert ("not-witnessed" in reasons(verdict)) is not met
        assert "revision 1: log" in subjects(verdict, "proven")
    without = reproof(text, note=Note(note.text, (first, second, third)))
    assert "signature-invalid" in reasons(case().verify(replaced(case().own, proof=without)))


def test_a_suspended_member_does_not_count_as_a_witness() -> None:
    """Its signature holds; the quorum needs others."""
    world = case().world
    members = [
        msgspec.structs.replace(member, status="suspended" if member.id in ("my", "sg") else "active")
        for member in world.region.members
    ]
    region = msgspec.structs.replace(world.region, members=members, quorum=2)
    document = sign_region(region, world.broker_key, world.clock.now + timedelta(seconds=1))
    verdict = case().verify(msgspec.structs.replace(case().own, region=document))
    assert "not-witnessed" in reasons(verdict)
    seen = [item.facts["counts"] for item in verdict.findings if item.about == "revision 1: witness"]
    assert sorted(seen) == [False, False, True]


def test_a_cosignature_from_before_the_receipt_or_the_future_is_false() -> None:
    """Nobody can have seen what was not there."""
    text = str(case().own.revisions[0].proof)
    note = parse_proof(text).note
    key = case().world.keys["my"]
    for when in (case().now - timedelta(hours=3), case().now + timedelta(hours=3)):
        line = cosign(note.text, "my", key, key.public, when)
        changed = reproof(text, note=Note(note.text, (*note.lines[:2], line)))
        verdict = case().verify(replaced(case().own, proof=changed))
        assert {"time-in-future", "not-witnessed"} <= reasons(verdict)


# --- noise ------------------------------------------------------------------------------------------------------


@functools.cache
def noise_base(side: str) -> tuple[bytes, frozenset[tuple[str, str, bytes]]]:
    bundle: Bundle = getattr(case(), side)
    return write_bundle(bundle), frozenset(proven(case().verify(bundle)))


@given(
    side=st.sampled_from(["own", "got"]),
    hits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3),
    trusting=st.booleans(),
)
@quick(400)
def test_random_damage_never_proves_anything_else(side: str, hits: list[tuple[float, int]], trusting: bool) -> None:
    """Bytes replaced anywhere: findings, no exception, and nothing proven that the genuine one does not prove."""
    data, genuine = noise_base(side)
    damaged = bytearray(data)
    for at, value in hits:
        damaged[int(at * len(damaged))] = value
    trust = case().trust if trusting else None
    verdict = examine(bytes(damaged), trust, case().now)
    if verdict is not None:
        assert proven(verdict) <= genuine
        assert verdict.complete or outcomes(verdict)


@given(st.binary(max_size=300))
@quick(200)
def test_whatever_it_is_it_does_not_raise(data: bytes) -> None:
    """Bytes that are nothing, alone and behind the beginnings of what is known."""
    token = b"eyJ0eXAiOiJrZW50b25nYW4tcmVjZWlwdCtqd3QifQ."
    for head in (b"", b"{", b'{"kentongan_evidence":1,', b"c2sp.org/tlog-proof@v1\n", token, token + b"~"):
        verdict = examine(head + data, case().trust, case().now)
        assert verdict is None or not proven(verdict)
