"""Agreements where they are kept and asked: region.toml, the broker's remembered answers, the origin's node."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

import broker.setup
from broker.members import RegionState, load_region, load_state, policy_files, stamp
from node.identity import Fresh
from node.intake import Draft, read_item
from node.signing import Desk
from protocol.errors import ConfigError
from protocol.keys import KeyRecord
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


def made(directory: Path) -> tuple[Path, list[KeyRecord]]:
    """A region of two members as a broker keeps it."""
    broker.setup.init(directory, "test")
    for name in ("jp", "sg"):
        document = Member(id=name, jurisdiction=name, name=name)
        (directory / "members" / f"{name}.json").write_bytes(msgspec.json.encode(document))
    return directory, [key_of("broker").record(NOW - DAY, NOW + DAY)]


def test_the_template_of_a_region_shows_a_sound_agreement(tmp_path: Path) -> None:
    """What `broker init` shows as a comment is accepted as it stands."""
    home, keys = made(tmp_path / "b")
    path = home / "region.toml"
    assert load_region(home, keys).agreements == []
    path.write_text(re.sub(r"^# (?=\[\[|\w+ = )", "", path.read_text("utf-8"), flags=re.MULTILINE), "utf-8")
    (found,) = load_region(home, keys).agreements
    assert (found.id, found.parties) == ("mutual-aid-2026", ["jp", "sg"])
    assert found.effective_until is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('["jp", "sg"]', '["jp", "vn"]'), "no member in vn"),
        (('["jp", "sg"]', '["jp"]'), r"out-of-range at \$\.agreements\[0\]\.parties"),
        (("00:00:00Z", "00:00:00"), r"\$\.agreements\[0\]\.effective_from"),
        (('id = "aid"', 'id = "A"'), r"\$\.agreements\[0\]\.id"),
        (('title = "Aid"', ""), r"missing-field at \$\.agreements\[0\]\.title"),
    ],
)
def test_bad_agreements_are_refused(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    """With the file and the path of the fault."""
    home, keys = made(tmp_path / "b")
    pact = '\n[[agreement]]\nid = "aid"\ntitle = "Aid"\nparties = ["jp", "sg"]\neffective_from = 2026-01-01T00:00:00Z\n'
    path = home / "region.toml"
    text = path.read_text("utf-8")
    path.write_text(text + pact, "utf-8")
    assert set(load_state(home, keys).registry.circles.agreements) == {"aid"}
    path.write_text(text + pact.replace(*change), "utf-8")
    with pytest.raises(ConfigError, match=says):
        load_state(home, keys)


def test_examples_beside_policies_are_no_policies(tmp_path: Path) -> None:
    """A broker neither reads them nor notices when they change."""
    home, keys = made(tmp_path / "b")
    for name in ("jp-1.toml", "jp-1.examples.toml"):
        (home / "policies" / name).write_text((make.DEMO / name).read_text("utf-8"), "utf-8")
    assert [path.name for path in policy_files(home / "policies")] == ["jp-1.toml"]
    assert [document.jurisdiction for document in load_state(home, keys).book.policies] == ["jp"]
    assert "jp-1.examples.toml" not in {name for name, *_ in stamp(home)}
