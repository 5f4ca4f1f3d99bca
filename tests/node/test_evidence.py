"""What a node exports about a report, and what the commands say of it."""

from __future__ import annotations

import json
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.cli import main
from node import tables
from node.evidence import export
from protocol.envelope import header_in
from protocol.errors import ConfigError
from protocol.evidence import Bundle, read_bundle, verify_bundle, write_bundle
from protocol.findings import Trust, Verdict
from protocol.invitation import load_invitation
from protocol.policy import PolicyBook
from tests.federation import filing, open_policy
from tests.governing import sign_region
from tests.proof import World

RED: dict[str, Any] = {"marking": {"tlp": "RED", "recipients": ["my"]}}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, ("id", "my", "sg"))


def verify(world: World, bundle: Bundle) -> Verdict:
    """As somebody who knows the broker's key."""
    return verify_bundle(read_bundle(write_bundle(bundle)), Trust(tuple(world.region.broker_keys)), world.clock.now)


def not_proven(verdict: Verdict) -> list[tuple[str, str]]:
    return [(item.about, item.outcome) for item in verdict.findings if item.outcome != "proven"]


def why(bundle: Bundle, number: int = 0) -> dict[str, str]:
    return {item.what: item.why for item in bundle.revisions[number].absent}


def filed(world: World, **given: Any) -> str:
    """A report that everybody has, confirmed and in the log."""
    (answer,) = world.post("id", filing(1, **given))
    world.settle()
    world.witness()
    return str(answer["report_id"])


def test_a_sealed_report_is_shown_with_its_box_and_as_it_was_opened(world: World) -> None:
    """The origin holds the box; the recipient what was in it, under the origin's signature."""
    report_id = filed(world, **RED)
    own, got = world.bundle("id", report_id), world.bundle("my", report_id)
    assert not_proven(verify(world, own)) == []
    assert not_proven(verify(world, got)) == []
    box = next(item for item in verify(world, own).findings if item.about == "revision 1: box")
    assert box.facts["to"] == ["my"]
    shown = next(item for item in verify(world, got).findings if item.about == "revision 1: disclosed")
    assert shown.facts["body"]["title"] == "Incident 1"
    assert "the box" in why(got)
    (answer,) = world.post("id", filing(2, **RED))
    world.settle()
    world.witness()
    another = world.bundle("id", answer["report_id"]).revisions[0].box
    for wrong in (str(own.revisions[0].box).replace("my", "sg"), another, "{}"):
        changed = msgspec.structs.replace(own.revisions[0], box=wrong)
        found = verify(world, msgspec.structs.replace(own, revisions=[changed]))
        assert not_proven(found) == [("revision 1: box", "not-proven")]


def test_withheld_units_are_named_with_the_rule_and_in_words(tmp_path: Path) -> None:
    """To the origin by its receipt; to the recipient as a number."""
    deny = {"id": "no-victims", "effect": "deny", "because": "x", "to": ["my"], "disclose": ["victim"]}
    everything = {"id": "all", "effect": "allow", "because": "open", "to": ["*"], "disclose": ["*"]}
    world = World(tmp_path, ("id", "my", "sg"), policies={"id": open_policy("id", export=[everything, deny])})
    report_id = filed(world)
    verdict = verify(world, world.bundle("id", report_id))
    assert not_proven(verdict) == []
    said = next(item for item in verdict.findings if item.about == "revision 1: recipient my")
    assert [(item["unit"], item["rule"]) for item in said.facts["withheld"]] == [("victim", "no-victims")]
    assert "Withheld: the victim's name" in said.sentence
    assert "rule “no-victims” of Indonesia's export policy (version 1) forbids it" in said.sentence
    mine = next(i for i in verify(world, world.bundle("my", report_id)).findings if i.about == "revision 1: disclosed")
    whole = next(i for i in verify(world, world.bundle("sg", report_id)).findings if i.about == "revision 1: disclosed")
    assert mine.facts["undisclosed"] > whole.facts["undisclosed"]
    assert "CANARY-VICTIM" not in write_bundle(world.bundle("my", report_id)).decode()


def test_a_withdrawn_report_stays_erased_and_the_facts_are_proven(world: World) -> None:
    """Who delivered what to whom, that it was granted, logged and confirmed: without a word of what it said."""
    report_id = filed(world)
    world.post("id", filing(1, report_id=report_id, revision=2, phase="withdrawn"))
    world.settle()
    world.witness()
    got = world.bundle("my", report_id)
    data = write_bundle(got).decode()
    assert "CANARY" not in data
    assert got.revisions[0].presentation is msgspec.UNSET
    assert "took it back" in why(got)["the report's content"]
    verdict = verify(world, got)
    assert not_proven(verdict) == [("revision 1: report", "not-checkable")]
    proven = {item.about for item in verdict.findings if item.outcome == "proven"}
    assert {"withdrawal", "revisions", "revision 1: delivery", "revision 1: grant", "revision 1: log"} <= proven
    assert {"revision 1: confirmation", "revision 2: confirmation", "revision 2: report"} <= proven
    own = verify(world, world.bundle("id", report_id))
    assert not_proven(own) == []
    assert {"withdrawal"} <= {item.about for item in own.findings}
    confirmed = [item.facts["by"] for item in own.findings if item.about == "revision 2: confirmation"]
    assert sorted(confirmed) == ["my", "sg"]


def test_an_expired_report_stays_erased_and_its_end_is_confirmed(world: World) -> None:
    """The recipient says so to the origin; both can show it."""
    ends = world.clock.now + timedelta(hours=1)
    report_id = filed(world, handling={"expires_at": ends.isoformat()})
    world.clock.pass_(7200)
    for name in ("my", "sg"):
        world.nodes[name].expire()
    world.settle()
    got = world.bundle("my", report_id)
    assert "CANARY" not in write_bundle(got).decode()
    assert why(got)["the report's content"] == "it was erased when it expired"
    for name, incomplete in (("my", [("revision 1: report", "not-checkable")]), ("id", [])):
        verdict = verify(world, world.bundle(name, report_id))
        assert not_proven(verdict) == incomplete
        said = {(i.facts["by"], i.facts["state"]) for i in verdict.findings if i.about == "revision 1: confirmation"}
        assert {("my", "received"), ("my", "expired")} <= said


def test_an_own_report_that_was_erased_keeps_its_signature(world: World) -> None:
    """The JWS names the report by its digest and says nothing of it."""
    report_id = filed(world)
    other = world.post("id", filing(2))[0]["report_id"]
    world.settle()
    world.witness()
    with world.nodes["id"].store.write() as tx:
        (row,) = tx.own_by("report_id", [report_id])
        tx.set(tables.own_reports, "digest", [{"digest": row.digest, "disclosures": ""}])
    own = world.bundle("id", report_id)
    assert "~" not in str(own.revisions[0].envelope)
    verdict = verify(world, own)
    assert not_proven(verdict) == []
    assert "revision 1: disclosed" not in {item.about for item in verdict.findings}
    elsewhere = str(world.bundle("id", other).revisions[0].presentation).partition("~")[0]
    swapped = msgspec.structs.replace(own.revisions[0], envelope=elsewhere)
    assert verify(world, msgspec.structs.replace(own, revisions=[swapped])).false


def test_public_shows_the_header_alone(world: World) -> None:
    """Of both sides' bundles; everything else is proven as before."""
    report_id = filed(world)
    for name in ("id", "my"):
        bundle = world.bundle(name, report_id, public=True)
        verdict = verify(world, bundle)
        assert not_proven(verdict) == []
        shown = next(item for item in verdict.findings if item.about == "revision 1: disclosed")
        assert shown.facts["body"] == {}
        assert shown.facts["undisclosed"] > 3
        assert why(bundle)["the report's content"] == "only the header was asked for"
        text = str(bundle.revisions[0].presentation)
        assert text.count("~") == 2
        assert str(header_in(text.split("~")[1]).report_id) == report_id
    sealed = world.bundle("id", filed(world, **RED), public=True)
    assert sealed.revisions[0].box is msgspec.UNSET
    assert "the box" in why(sealed)


def test_what_is_awaited_is_named(world: World) -> None:
    """Before the receipt, before the proof, and what never left."""
    (answer,) = world.post("id", filing(1))
    waiting = world.bundle("id", answer["report_id"])
    assert why(waiting)["the receipt"] == "the broker's answer is awaited"
    assert ("revision 1: receipt", "not-checkable") in not_proven(verify(world, waiting))
    world.settle()
    with world.nodes["id"].store.write() as tx:
        tx.set(tables.leaves, "leaf", [{"leaf": len(world.records), "state": "waiting", "proof": None}])
    unproven = world.bundle("id", answer["report_id"])
    assert why(unproven) == {"the proof of inclusion": "the leaf's state here is waiting"}
    assert not_proven(verify(world, unproven)) == [("revision 1: log", "not-checkable")]


def test_what_never_left_and_what_was_not_taken(tmp_path: Path) -> None:
    """A report that the own policy keeps at home has no receipt; one that the recipient refuses has a refusal."""
    world = World(tmp_path, ("id", "my", "sg"), policies={"sg": open_policy("sg", export=[])})
    (kept,) = world.post("sg", filing(1))
    assert kept["state"] == "kept"
    bundle = world.bundle("sg", kept["report_id"])
    assert "never sent" in why(bundle)["the receipt"]
    verdict = verify(world, bundle)
    assert not verdict.false
    assert {"revision 1: report", "revision 1: disclosed"} <= {
        item.about for item in verdict.findings if item.outcome == "proven"
    }
    closed = open_policy("my", **{"import": []})
    world.nodes["my"].book = PolicyBook([closed])
    report_id = filed(world)
    got = world.bundle("my", report_id)
    assert why(got)["the report's content"] == "this node did not take it"
    assert "CANARY" not in write_bundle(got).decode()
    verdict = verify(world, got)
    assert not_proven(verdict) == [("revision 1: report", "not-checkable")]
    (said,) = [item for item in verdict.findings if item.about == "revision 1: confirmation"]
    assert said.facts["state"] == "refused"
    assert "no-policy" in said.sentence or "default-deny" in said.sentence


def test_one_revision_can_be_asked_for_and_alarms_are_notes(world: World) -> None:
    """An alarm about the report is what this node says: never a finding."""
    report_id = filed(world)
    world.post("id", filing(2, report_id=report_id, revision=2))
    world.settle()
    world.witness()
    with world.nodes["id"].store.write() as tx:
        tx.event("alarm", {"about": "receipt", "reason": "granted-too-much", "report_id": report_id}, 1)
        tx.event("alarm", {"about": "receipt", "reason": "granted-too-much", "report_id": "another"}, 2)
    both, second = world.bundle("id", report_id), world.bundle("id", report_id, revision=2)
    assert [item.revision for item in both.revisions] == [1, 2]
    assert [item.revision for item in second.revisions] == [2]
    assert not_proven(verify(world, both)) == not_proven(verify(world, second)) == []
    assert [item.says["reason"] for item in both.alarms] == ["granted-too-much"]
    assert any("granted-too-much" in note for note in verify(world, both).notes)
    with pytest.raises(ConfigError, match="revision 7"):
        world.bundle("id", report_id, revision=7)
    with pytest.raises(ConfigError, match="no report"):
        world.bundle("id", "00000000-0000-4000-8000-000000000000")


def test_the_newest_region_document_that_is_here_goes_along(world: World) -> None:
    """The one that came over the bus; the invitation's if that is older, or is none."""
    report_id = filed(world)
    config = world.config("id")
    cached = config.data / "region.jwt"
    invited = load_invitation(config.invitation).region
    for seconds, newer in ((1, True), (-1, False)):
        when = world.clock.now + timedelta(seconds=seconds)
        document = sign_region(world.region, world.broker_key, when)
        cached.write_text(document)
        found = export(config, report_id, when + timedelta(seconds=1)).region
        assert found == (document if newer else invited)
    for nonsense in (b"", b"\xff", sign_region(world.region, world.keys["my"], world.clock.now).encode()):
        cached.write_bytes(nonsense)
        assert export(config, report_id, world.clock.now).region == invited


def test_exporting_changes_nothing_and_needs_no_node_to_stand_still(world: World) -> None:
    """Beside an open transaction of the node; not a byte of the database is written."""
    report_id = filed(world)
    config = world.config("id")
    before = (config.data / "node.db").read_bytes()
    with world.nodes["id"].store.write() as tx:
        tx.event("alarm", {"report_id": report_id}, 1)
        bundle = export(config, report_id, world.clock.now)
    assert bundle.alarms == []
    assert (config.data / "node.db").read_bytes() == before


# --- the commands -----------------------------------------------------------------------------------------------


@pytest.fixture
def place(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A node's directory as `init` and `join` leave it, and a report in it; the working directory is another one."""
    report_id = filed(world)
    config = world.config("id")
    directory = config.invitation.parent
    (directory / "node.toml").write_text(
        f'member = "id"\njurisdiction = "id"\nname = "ID"\ndata = {json.dumps(str(config.data))}\n'
        f'[[token]]\nname = "first"\nsha256 = "{"0" * 64}"\n'
    )
    elsewhere = world.directory / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return directory, report_id


def at(world: World) -> list[str]:
    return ["--at", world.clock.now.isoformat()]


def test_the_commands_export_and_verify(
    world: World, place: tuple[Path, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file, for its owner's eyes; proven, incomplete, false and unusable have an exit code each."""
    directory, report_id = place
    assert main(["evidence", str(directory), report_id], log=False) == 0
    file = Path(f"{report_id}.evidence.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    assert json.loads(file.read_text())["kentongan_evidence"] == 1
    assert main(["evidence", str(directory), report_id], log=False) == 2
    assert "never overwritten" in capsys.readouterr().err
    trusting = ["--trust", str(directory / "invitation.json")]
    # The bundle bears the time of this machine, the region that of the simulator.
    bundle = msgspec.structs.replace(read_bundle(file.read_bytes()), made_at=world.clock.now)
    good = Path("good.evidence.json")
    good.write_bytes(write_bundle(bundle))
    assert main(["verify", str(good), *trusting, *at(world)], log=False) == 0
    said = capsys.readouterr().out
    assert "✓ Report" in said
    assert "NOT" not in said
    assert "ATTENTION" not in said
    assert main(["verify", str(good), *at(world)], log=False) == 0
    assert capsys.readouterr().out.startswith("!! ATTENTION: the broker's key")
    assert main(["verify", str(good), *trusting, *at(world), "--json"], log=False) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "proven"
    unproven = msgspec.structs.replace(bundle.revisions[0], proof=msgspec.UNSET)
    part = Path("part.evidence.json")
    part.write_bytes(write_bundle(msgspec.structs.replace(bundle, revisions=[unproven])))
    assert main(["verify", str(part), *trusting, *at(world)], log=False) == 3
    assert "? NOT CHECKABLE:" in capsys.readouterr().out
    bad = Path("bad.evidence.json")
    bad.write_bytes(write_bundle(bundle).replace(b"index 4", b"index 5"))
    assert main(["verify", str(bad), *trusting, *at(world)], log=False) == 1
    assert "✗ NOT PROVEN:" in capsys.readouterr().out


def test_the_commands_refuse_what_they_cannot_use(
    world: World, place: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what to give, exit code 2, and no traceback."""
    directory, report_id = place
    assert main(["evidence", str(directory), report_id, "--out", "-"], log=False) == 0
    text = capsys.readouterr().out
    good = Path("good.evidence.json")
    good.write_text(text)
    invitation = str(directory / "invitation.json")
    calls: list[tuple[list[str], str]] = [
        (["evidence", str(directory), "x"], "UUID"),
        (["evidence", str(directory), "00000000-0000-4000-8000-000000000000"], "no report"),
        (["evidence", str(directory / "nothing"), report_id], "nothing"),
        (["evidence", str(directory), report_id, "--out", "/proc/x/y"], "cannot be written"),
        (["verify", "missing"], "cannot be read"),
        (["verify", invitation], "is no report"),
        (["verify", str(good), "--trust", str(good)], "is no invitation"),
        (["verify", str(good), "--trust", "missing"], "cannot be read"),
        (["verify", str(good), "--at", "noon"], "ISO 8601"),
        (["verify", str(good), "--at", "2026-01-01T00:00:00"], "zone"),
        (["verify", str(good), "--at", "9999-12-31T23:59:59Z"], "year"),
        (["verify", str(good), "--entry", "00"], "--entry"),
        (["verify", str(good), "--receipt", str(good)], "--receipt"),
    ]
    for arguments, words in calls:
        assert main(arguments, log=False) == 2, arguments
        said = capsys.readouterr()
        assert words in said.err, (arguments, said.err)
        assert said.err.count("\n") == 1
    proof = Path("x.tlog-proof")
    proof.write_text(str(world.bundle("id", report_id).revisions[0].proof))
    for entry in ("zz", "00" * 31, "!" * 44):
        assert main(["verify", str(proof), "--entry", entry], log=False) == 2
        assert "--entry" in capsys.readouterr().err
    entry = world.entries()[len(world.records)].hex()
    assert main(["verify", str(proof), "--entry", entry, "--trust", invitation, *at(world)], log=False) == 0
    assert f"leaf {len(world.records)}" in capsys.readouterr().out
