"""Agreements where they are kept and asked: the region's records, the broker's remembered answers, the node."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import pytest

import broker.setup
from broker.config import load_config
from broker.members import RegionState, load_region, load_state, policy_files, stamp
from broker.proposals import decide
from deploy import cli
from node.identity import Fresh
from node.intake import Draft, read_item
from node.signing import Desk
from protocol.governance import Admit
from protocol.policy import HEADER, PolicyBook, facts_of
from protocol.registry import Agreement, Member, Registry
from tests.policy import make
from tests.protocol.make import DAY, NOW, Rand, allow, header, key_of, member, policy, region

AID = Agreement(id="aid", title="Aid", parties=["id", "sg"], effective_from=NOW, effective_until=NOW + DAY)
REGISTRY = Registry(region(member("id"), member("sg"), member("my"), agreements=[AID]))
BOOK = PolicyBook([policy("id", [allow("pact", when={"agreement": ["aid"]})]), policy("sg"), policy("my")])
TIMES = [(NOW - DAY, False), (NOW, True), (NOW + DAY / 2, True), (NOW + DAY, False)]


def test_the_broker_forgets_answers_when_an_agreement_begins_or_ends() -> None:
    """Answers are remembered until the next change, and agreements are among the changes."""
    state = RegionState(REGISTRY, BOOK)
    facts = facts_of(header())
    for at, granted in TIMES:
        answers = state.ask_all(facts, "id-cert", at)
        assert set(answers.grants) == ({"sg-cert"} if granted else set())


def test_the_origins_node_forgets_them_too() -> None:
    """What may leave the node changes at the same moment."""
    desk = Desk(
        member="id-cert", jurisdiction="id", signer=key_of("id-cert"), fingerprint_key=b"k" * 32, rand=Rand()
    )  # fmt: skip

    def leaves(at: datetime) -> bool:
        body = msgspec.json.encode({"marking": {"tlp": "AMBER"}, "rsit": [{"class": "fraud"}], "body": {"title": "T"}})
        draft = read_item(body, at="$", jurisdictions=REGISTRY.jurisdictions, now=at)
        assert isinstance(draft, Draft)
        sheet = desk.write(draft, Fresh(None, 1, None, None), BOOK, REGISTRY, at)
        return bool(sheet.allowance.gate.exact & HEADER) and not sheet.known.kept

    assert [leaves(at) for at, _ in TIMES] == [granted for _, granted in TIMES]


# --- files ------------------------------------------------------------------------------------------------------


def made(directory: Path) -> Path:
    """A region of two members as a broker keeps it."""
    broker.setup.init(directory, "test")
    for name in ("jp", "sg"):
        decide(load_config(directory), Admit(member=Member(id=name, jurisdiction=name, name=name)))
    return directory


AID = 'id = "aid"\ntitle = "Aid"\nparties = ["jp", "sg"]\neffective_from = 2026-01-01T00:00:00Z\n'


def kentongan(*arguments: str | Path) -> int:
    """Run a command as an operator would."""
    return cli.main([str(one) for one in arguments], log=False)


def test_an_agreement_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is proposed, signed by the operator who decides alone, and recorded; its end too."""
    home = made(tmp_path / "b")
    (tmp_path / "aid.toml").write_text(AID, "utf-8")
    assert kentongan("broker", "propose", home, "agree", tmp_path / "aid.toml") == 0
    (found,) = load_region(home).agreements
    assert (found.id, found.parties, found.effective_until) == ("aid", ["jp", "sg"], None)
    assert kentongan("broker", "propose", home, "terminate", "aid", "--until", "2099-01-01T00:00:00Z") == 0
    (found,) = load_region(home).agreements
    assert found.effective_until is not None
    assert kentongan("broker", "propose", home, "terminate", "aid", "--until", "2020-01-01T00:00:00Z") == 2
    assert "cannot end before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('["jp", "sg"]', '["jp", "vn"]'), "no member in vn"),
        (('["jp", "sg"]', '["jp"]'), "out-of-range at $.parties"),
        (("00:00:00Z", "00:00:00"), "$.effective_from"),
        (('id = "aid"', 'id = "A"'), "$.id"),
        (('title = "Aid"', ""), "missing-field at $.title"),
    ],
)
def test_bad_agreements_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], says: str
) -> None:
    """With the path of the fault; nothing is recorded."""
    home = made(tmp_path / "b")
    (tmp_path / "aid.toml").write_text(AID.replace(*change), "utf-8")
    assert kentongan("broker", "propose", home, "agree", tmp_path / "aid.toml") == 2
    assert says in capsys.readouterr().err
    assert load_state(home).registry.circles.agreements == {}


def test_examples_beside_policies_are_no_policies(tmp_path: Path) -> None:
    """A broker neither reads them nor notices when they change."""
    home = made(tmp_path / "b")
    for name in ("jp-1.toml", "jp-1.examples.toml"):
        (home / "policies" / name).write_text((make.DEMO / name).read_text("utf-8"), "utf-8")
    assert [path.name for path in policy_files(home / "policies")] == ["jp-1.toml"]
    assert [document.jurisdiction for document in load_state(home).book.policies] == ["jp"]
    assert "jp-1.examples.toml" not in {name for name, *_ in stamp(home)}
