"""The promises, over a bus that loses, repeats and reorders, with processes killed between any two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker.check import check_ledger
from broker.confirm import record_confirmations
from broker.ingest import Incoming
from broker.verify import Verified, verify_submission
from protocol.enact import closed_groups
from protocol.errors import ProtocolError
from protocol.keys import unb64
from protocol.policy import PolicyBook
from protocol.registry import Group, Registry
from protocol.statements import Confirmation, sign_statement
from tests.federation import Faults, Federation, filing, open_policy
from tests.governing import grow, sign_region

ALL = {"id": {"jp", "sg"}, "jp": {"id", "sg"}, "sg": {"id", "jp"}}


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path, seed: int) -> None:
    """Whatever the bus and kill -9 do, every accepted report ends in every granted inbox exactly once."""
    keep_the_promises(tmp_path, seed)


@pytest.mark.usefixtures("on_postgresql")
@pytest.mark.parametrize("seed", range(1))
def test_nothing_is_lost_and_nothing_comes_twice_on_postgresql(tmp_path: Path, seed: int) -> None:
    """Nor on another database."""
    keep_the_promises(tmp_path, seed)


def keep_the_promises(tmp_path: Path, seed: int) -> None:
    """A bad bus, kills, and what must be true after all of it."""
    world = Federation(
        tmp_path, ["id", "jp", "sg"], seed=seed, faults=Faults(lose=0.2, repeat=0.2, reorder=0.3, kill=0.05, wipe=0.03)
    )
    number = 0
    for _ in range(25):
        for name in world.jurisdictions:
            world.post(name, *(filing(number + offset) for offset in range(world.rng.randint(0, 3))))
            number += 3
        world.turn()
    world.settle()
    world.check(ALL)
    assert world.kills > 0
    for name, node in world.nodes.items():
        with node.store.read() as reads:
            mine = [digest for digest, (origin, _) in world.accepted.items() if origin == name]
            states = {(row.report, row.member) for row in reads.confirmed_by(mine) if row.state == "received"}
        assert states == {(digest, other) for digest in mine for other in ALL[name]}, "the origin knows who has it"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("each_database")
def test_every_step_leaves_stores_that_hold_together(tmp_path: Path, seed: int) -> None:
    """After each turn of a bad bus with kills, not only once all is quiet, both checks find nothing."""
    faults = Faults(lose=0.2, repeat=0.2, reorder=0.3, kill=0.1, wipe=0.05)
    world = Federation(tmp_path, ["id", "jp"], seed=seed, faults=faults, coordinator="asean-rcert")
    for number in range(12):
        (answer,) = world.post("id", filing(number, **(RED if number % 3 == 1 else {})))
        world.post("jp", filing(100 + number))
        if number % 4 == 3:
            gone = {"marking": {"tlp": "AMBER"}, "rsit": [{"class": "other"}], "phase": "withdrawn"}
            world.post("id", {**gone, "report_id": answer["report_id"], "revision": 2})
        world.turn()
        world.examine()
    world.settle()


@pytest.mark.usefixtures("each_database")
def test_a_wiped_bus_loses_nothing(tmp_path: Path) -> None:
    """Deleting everything that the bus holds, at a moment when it holds submissions and deliveries, loses nothing."""
    world = Federation(tmp_path, ["id", "jp", "sg"])
    world.post("id", *(filing(number) for number in range(10)))
    world.step_node("id")
    world.wipe()
    world.post("id", *(filing(number) for number in range(10, 20)))
    world.clock.pass_(120)
    world.step_node("id")
    world.step_broker()
    assert any(world.inboxes.values())
    world.wipe()
    world.settle()
    world.check(ALL)


def test_a_replayed_submission_gets_the_same_receipt_byte_for_byte(tmp_path: Path) -> None:
    """Twice is once: the ledger holds one row, and the second answer is the first."""
    world = Federation(tmp_path, ["id", "jp"])
    world.post("id", filing(1))
    world.step_node("id")
    copy = list(world.intake)
    world.step_broker()
    first = [item.data for item in world.sent if item.kind == "receipts"]
    for _ in range(3):
        world.intake.extend(copy)
        world.step_broker()
    receipts = [item.data for item in world.sent if item.kind == "receipts"]
    assert receipts == first * 4
    assert len(world.rows("reports")) == 1


def test_a_suspended_member_gets_nothing_of_what_is_queued(tmp_path: Path) -> None:
    """Revocation bites on queued deliveries, and resuming delivers what policy still grants."""
    world = Federation(tmp_path, ["id", "jp", "sg"])
    world.post("id", filing(1))
    world.step_node("id")
    world.step_broker()
    world.inboxes["jp"].clear()
    world.status["jp"] = "suspended"
    world.reload()
    world.clock.pass_(3600)
    world.step_broker()
    assert not world.inboxes["jp"], "queued before, suspended now: not sent"
    assert not any(item.member == "jp" for item in world.redelivery.due(world.clock.now, ()).outgoing)
    world.status["jp"] = "active"
    world.reload()
    world.settle()
    world.check({"id": {"jp", "sg"}, "jp": set(), "sg": set()})


@pytest.mark.usefixtures("each_database")
def test_a_tightened_policy_stops_what_is_queued(tmp_path: Path) -> None:
    """What was granted when it was decided and is denied now is not delivered any more, and the ledger says why."""
    world = Federation(tmp_path, ["id", "jp"])
    world.post("id", filing(1), filing(2))
    world.step_node("id")
    world.step_broker()
    world.inboxes["jp"].clear()
    world.policies["id"] = open_policy("id", export=[])
    world.reload()
    world.clock.pass_(3600)
    due = world.redelivery.due(world.clock.now, ())
    assert not [item for item in due.outgoing if item.member == "jp"]
    assert {(item.refusal.reason, item.refusal.detail) for item in due.stopped} == {
        ("default-deny", "export policy id/1")
    }
    assert [row.state for row in world.rows("deliveries")] == ["cancelled"]
    world.catch_up("id")
    with world.nodes["id"].store.read() as reads:
        told = {(row.report, row.member, row.state) for row in reads.confirmed_by(list(world.accepted))}
    assert told == {(digest, "jp", "stopped") for digest in world.accepted}, "the origin can read that it was stopped"


def test_a_narrower_policy_narrows_what_is_queued(tmp_path: Path) -> None:
    """A redelivery holds the intersection of what was granted then and what is granted now."""
    world = Federation(tmp_path, ["id", "jp"])
    world.post("id", filing(7))
    world.step_node("id")
    world.step_broker()
    world.inboxes["jp"].clear()
    no_names = {"id": "no-names", "effect": "deny", "because": "x", "to": ["*"], "disclose": ["@victim"]}
    everything = {"id": "all", "effect": "allow", "because": "x", "to": ["*"], "disclose": ["*"]}
    world.policies["id"] = open_policy("id", export=[everything, no_names])
    world.reload()
    world.settle()
    (row,) = world.inbox("jp")
    assert "victim" not in msgspec.json.decode(row.view)["body"]


def test_withheld_units_reach_nobody_who_may_not_have_them(tmp_path: Path) -> None:
    """A canary in every withheld field: in no delivery, no inbox, no receipt and no feed of those who may not."""
    hide = {"id": "hide", "effect": "deny", "because": "x", "to": ["sg"], "disclose": ["@victim", "@narrative"]}
    everything = {"id": "all", "effect": "allow", "because": "x", "to": ["*"], "disclose": ["*"]}
    world = Federation(tmp_path, ["id", "jp", "sg"], policies={"id": open_policy("id", export=[everything, hide])})
    world.post("id", *(filing(number) for number in range(5)))
    world.settle()
    world.check(ALL)
    for row in world.inbox("sg"):
        assert "CANARY" not in str(row)
        assert "CANARY" not in _decoded(row.presentation)
    for row in world.inbox("jp"):
        assert "CANARY-VICTIM" in _decoded(row.presentation)
    for item in world.sent:
        if item.member == "sg":
            assert b"CANARY" not in item.data


def test_what_may_never_leave_never_leaves(tmp_path: Path) -> None:
    """A unit that the origin's policy grants to nobody is in no byte that leaves; the broker has not seen it."""
    hide = {"id": "hide", "effect": "deny", "because": "x", "to": ["*"], "disclose": ["@victim", "@narrative"]}
    everything = {"id": "all", "effect": "allow", "because": "x", "to": ["*"], "disclose": ["*"]}
    world = Federation(tmp_path, ["id", "jp"], policies={"id": open_policy("id", export=[everything, hide])})
    world.post("id", filing(1))
    for outgoing in world.nodes["id"].outgoing(8):
        assert "CANARY" not in _decoded(outgoing.data.decode())
        world.nodes["id"].tried((), outgoing.numbers)
    world.settle()
    assert "CANARY" not in _decoded(world.submitted()[0].message.decode())


def test_a_report_for_nobody_stays_in_the_node(tmp_path: Path) -> None:
    """If the own policy lets nobody have it, the report is kept, and nothing is sent."""
    world = Federation(tmp_path, ["id", "jp"], policies={"id": open_policy("id", export=[])})
    (answer,) = world.post("id", filing(1))
    assert answer["state"] == "kept"
    assert not world.nodes["id"].outgoing(8)


def _decoded(sd_jwt: str) -> str:
    """All that can be read in an SD-JWT, as one text."""
    jws, *disclosures = sd_jwt.split("~")
    readable = [unb64(jws.split(".")[1])] + [unb64(text) for text in disclosures if text]
    return "\n".join(part.decode() for part in readable)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("each_database")
def test_a_withdrawal_reaches_everyone_who_has_it_and_erases_it(tmp_path: Path, seed: int) -> None:
    """Over a bad bus, with a recipient whom today's policy would not give it: header only, content gone, confirmed."""
    world = Federation(
        tmp_path, ["id", "jp", "sg"], seed=seed, faults=Faults(lose=0.2, repeat=0.2, reorder=0.3, kill=0.05, wipe=0.03)
    )
    answers = [world.post("id", filing(number))[0] for number in range(4)]
    world.turn()
    world.settle()
    shut = {"id": "none", "effect": "allow", "because": "x", "from": ["id"], "disclose": ["*"]}
    world.policies["id"] = open_policy("id", export=[])
    world.policies["sg"] = open_policy("sg", **{"import": [shut]})
    world.reload()
    world.nodes["id"].book = PolicyBook([world.policies["id"]])
    world.nodes["sg"].book = PolicyBook([open_policy("sg", **{"import": []})])
    gone = {"marking": {"tlp": "AMBER"}, "rsit": [{"class": "other"}], "phase": "withdrawn"}
    world.faults = Faults(lose=0.2, repeat=0.2, reorder=0.3, kill=0.05)
    for answer in answers:
        (ended,) = world.post("id", {**gone, "report_id": answer["report_id"], "revision": 2})
        assert ended["state"] == "queued"
        world.turn()
    world.settle()
    for name in ("jp", "sg"):
        rows = world.inbox(name)
        assert {(row.report_id, row.revision) for row in rows} == {
            (answer["report_id"], revision) for answer in answers for revision in (1, 2)
        }
        assert "CANARY" not in str(rows)
        assert all(not row.presentation for row in rows if row.revision == 1)
    with world.nodes["id"].store.read() as reads:
        digests = [digest for digest, (_, posted) in world.accepted.items() if posted.get("phase") == "withdrawn"]
        told = {(row.report, row.member) for row in reads.confirmed_by(digests)}
    assert told == {(digest, name) for digest in digests for name in ("jp", "sg")}, "the origin sees who has obeyed"


def test_a_revision_that_arrives_after_its_withdrawal_is_not_kept(tmp_path: Path) -> None:
    """Reordering must not bring withdrawn content back."""
    world = Federation(tmp_path, ["id", "jp"])
    (first,) = world.post("id", filing(1))
    world.step_node("id")
    world.step_broker()
    late = list(world.inboxes["jp"])
    world.inboxes["jp"].clear()
    gone = {"marking": {"tlp": "AMBER"}, "rsit": [{"class": "other"}], "phase": "withdrawn"}
    world.post("id", {**gone, "report_id": first["report_id"], "revision": 2})
    world.step_node("id")
    world.step_broker()
    world.step_node("jp")
    world.inboxes["jp"] += late
    world.settle()
    assert len(world.inbox("jp")) == 2
    assert "CANARY" not in str(world.inbox("jp"))


def test_a_report_that_never_left_is_withdrawn_at_home(tmp_path: Path) -> None:
    """Nobody has it, so nobody hears of it: not even its header leaves."""
    world = Federation(tmp_path, ["id", "jp"], policies={"id": open_policy("id", export=[])})
    (first,) = world.post("id", filing(1))
    gone = {"marking": {"tlp": "AMBER"}, "rsit": [{"class": "other"}], "phase": "withdrawn"}
    (ended,) = world.post("id", {**gone, "report_id": first["report_id"], "revision": 2})
    assert ended["state"] == "kept"
    assert not world.nodes["id"].outgoing(8)


RED = {"marking": {"tlp": "RED", "recipients": ["jp"]}}


@pytest.mark.parametrize("seed", range(3))
def test_a_red_report_is_read_by_its_recipient_and_by_nobody_on_the_way(tmp_path: Path, seed: int) -> None:
    """Sealed: routed, receipted, redelivered over a bad bus by a broker that never holds a readable word of it."""
    world = Federation(
        tmp_path, ["id", "jp", "sg"], seed=seed, faults=Faults(lose=0.2, repeat=0.2, reorder=0.3, kill=0.05, wipe=0.03)
    )
    for number in range(5):
        (answer,) = world.post("id", filing(number, **RED))
        assert answer["state"] == "queued"
        world.turn()
    world.settle()
    world.check({"id": {"jp"}, "jp": set(), "sg": set()})
    assert all("CANARY-VICTIM" in _decoded(row.presentation) for row in world.inbox("jp"))
    for row in world.submitted():
        head, *boxes = row.message.decode().split("\n")
        assert "CANARY" not in _decoded(head)
        assert boxes
        assert "CANARY" not in "".join(boxes)
    assert not any(b"CANARY" in item.data for item in world.sent)


def test_a_sealed_report_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    """A box exchanged by the broker does not open, and the origin reads why its report was refused."""
    world = Federation(tmp_path, ["id", "jp"])
    world.post("id", filing(1, **RED), filing(2, **RED))
    world.step_node("id")
    work = world.broker.process(
        [Incoming(member, parcel.kind, _swap_boxes(parcel.data)) for member, parcel in world.intake], world.clock.now
    )
    assert not any(item.kind == "delivery" for item in work.outgoing)
    assert {row.reason for row in world.rows("exceptions")} | {row.reason for row in world.rows("quarantine")} == {
        "seal-broken"
    }


def _swap_boxes(data: bytes) -> bytes:
    """Every box with another one's ciphertext."""
    head, first, second = data.split(b"\n")
    one, two = msgspec.json.decode(first), msgspec.json.decode(second)
    one["bodies"], two["bodies"] = two["bodies"], one["bodies"]
    return b"\n".join([head, msgspec.json.encode(one), msgspec.json.encode(two)])


def test_a_red_report_needs_a_key_to_seal_it_to(tmp_path: Path) -> None:
    """A recipient without a sealing key, or with one that ends soon, is named at the door."""
    world = Federation(tmp_path, ["id", "jp"])
    world.sealing.clear()
    (refused,) = _without_sealing_keys(world).post("id", filing(1, **RED))
    assert isinstance(refused, ProtocolError)
    assert (refused.reason.value, refused.path) == ("no-sealing-key", "$.marking.recipients[0]")


def _without_sealing_keys(world: Federation) -> Federation:
    members = [msgspec.structs.replace(member, sealing_keys=[]) for member in world.region.members]
    region = msgspec.structs.replace(world.region, members=members)
    world.clock.pass_(60)
    records = grow(world.records, region)
    document = sign_region(region, world.broker_key, world.clock.now, records)
    world.nodes["id"].trust.update(document.encode("ascii"), records)
    return world


def test_a_red_report_that_nobody_can_open_now_stays_at_home(tmp_path: Path) -> None:
    """Its only named recipient is suspended, or has no node: nothing of it leaves, not even in clear to the broker."""
    world = Federation(tmp_path, ["id", "jp"], coordinator="asean-rcert")
    world.status["jp"] = "suspended"
    world.reload()
    world.clock.pass_(60)
    world.refresh("id")
    for recipients in (["jp"], ["asean-rcert"]):
        red = {"marking": {"tlp": "RED", "recipients": recipients}}
        (answer,) = world.post("id", filing(len(recipients[0]), **red))
        assert answer["state"] == "kept"
    assert not world.nodes["id"].outgoing(8)


def test_nobody_learns_of_what_is_hidden_from_it(tmp_path: Path) -> None:
    """A member that some see, a group that some are in: not in what others get, keep, or are told by the feed."""
    quiet = Group(id=UUID(int=7), name="Narrow strait", jurisdictions=["id", "jp"])
    names = ["id", "jp", "sg", "quiet-body"]
    world = Federation(tmp_path, names, hidden={"quiet-body": ["id"]}, groups=[quiet], coordinator="asean-rcert")
    for number, name in enumerate(names):
        world.post(name, filing(number))
    world.settle()
    world.check({"id": {"jp", "sg", "quiet-body"}, "jp": {"id", "sg"}, "sg": {"id", "jp"}, "quiet-body": {"id"}})
    for name, region in ((one, world.nodes[one].trust.registry) for one in names):
        assert ("quiet-body" in region.members) is (name in ("id", "quiet-body"))
        assert [group.name for group in region.region.groups] == (["Narrow strait"] if name in ("id", "jp") else [])
    (told,) = world.receipts("quiet-body")
    reasons = {name: {held.reason for held in told.decisions[at].withheld} for name, at in told.reports[0].to.items()}
    assert reasons["sg"] == {"not-shown-to-it"}, "whoever is hidden is told who does not see it"
    assert "quiet-body" in world.receipts("id")[0].reports[0].to
    world.post("sg", filing(9, marking={"tlp": "AMBER", "recipients": ["quiet-body", "id"]}), known=["quiet-body"])
    world.settle()
    assert world.receipts("sg")[-1].reports[0].refusal.reason == "unknown-recipient", "as one that there is not"
    seen_less = Registry(world.region, {"quiet-body": frozenset()}, closed_groups(world.chain.state))
    found = check_ledger(world.ledger, seen_less, None, world.clock.now)
    faults = {one.detail for one in found if not one.note}
    assert faults == {"to id, which does not meet quiet-body", "to quiet-body, which does not meet id"}
    assert _addressee_refused(world, "quiet-body") == _addressee_refused(world, "nobody") == "unknown-member"
    for name, secrets in (("jp", [b"quiet-body"]), ("sg", [b"Narrow strait", str(quiet.id).encode()])):
        world.nodes[name].store.close()
        held = b"".join(path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file())
        assert held
        for secret in [*secrets, world.keys["quiet-body"].kid.encode()]:
            assert secret not in held
    assert b"quiet-body" not in b"".join(bytes(row.data or b"") for row in world.rows("feed"))


def _addressee_refused(world: Federation, origin: str) -> str:
    """Why a member's word about a report that there is not is refused, by whose report it says that it is."""
    said = Confirmation(iss="jp", aud=origin, at=world.clock.now, state="received", reports=["A" * 43])
    jws = sign_statement(said, world.keys["jp"])
    with world.ledger.writing() as connection:
        noted = record_confirmations(connection, [("jp", jws)], world.registry, world.clock.now).noted["jp"]
    (refusal,) = noted.refused.values()
    return refusal.reason


def test_a_red_report_is_sealed_to_nobody_who_does_not_see_its_origin(tmp_path: Path) -> None:
    """A seal names its readers: who may not know of the origin is not among them."""
    world = Federation(tmp_path, ["id", "sg", "quiet-body"], hidden={"quiet-body": ["id"]})
    world.post("quiet-body", filing(1, marking={"tlp": "RED", "recipients": ["id", "sg"]}))
    world.settle()
    (row,) = [row for row in world.rows("submissions") if row.member == "quiet-body"]
    verified = verify_submission("quiet-body", row.message, world.registry, world.clock.now)
    assert isinstance(verified, Verified)
    assert [list(box.members()) for box in verified.boxes.values()] == [["id"]]
    assert len(world.inbox("id")) == 1
    assert world.inbox("sg") == []


def test_a_group_is_no_word_for_those_outside_it(tmp_path: Path) -> None:
    """A report that is marked with a group that its origin is not in goes to nobody, as with one that there is not."""
    quiet = Group(id=UUID(int=7), name="Narrow strait", jurisdictions=["id", "jp"])
    world = Federation(tmp_path, ["id", "jp", "sg"], groups=[quiet])

    def marked(group: UUID) -> dict[str, Any]:
        return {"tlp": "AMBER", "sharing_group": {"id": str(group), "name": "x"}}

    world.post("id", filing(1, marking=marked(quiet.id)))
    world.post("sg", filing(2, marking=marked(quiet.id)))
    world.post("sg", filing(3, marking=marked(UUID(int=8))))
    world.settle()
    assert len(world.inbox("jp")) == 1
    assert world.inbox("sg") == world.inbox("id") == []
    why = [held.reason for receipt in world.receipts("sg") for one in receipt.decisions for held in one.withheld]
    assert set(why) == {"unknown-sharing-group"}, "both in the same words"
