"""The directory: what the trustees signed, and of sharing groups one's own alone."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from node.cli import main
from node.directory import directory, in_lines
from protocol.registry import Group, Member, Registry
from tests.node.world import START, region


def changed(**members: dict[str, object]) -> Registry:
    """The tests' region with two sharing groups, and other entries of some members."""
    found = region()
    listed = [msgspec.structs.replace(one, **members.get(one.jurisdiction, {})) for one in found.members]
    groups = [
        Group(id=UUID(int=1), name="Straits", jurisdictions=["id", "sg"]),
        Group(id=UUID(int=2), name="CANARY", jurisdictions=["my", "sg"]),
    ]
    return Registry(msgspec.structs.replace(found, members=listed, groups=groups))


def test_a_member_finds_how_to_reach_the_others() -> None:
    """Contacts, languages, what they help with, and the ids of the keys that count."""
    registry = changed(sg={"contacts": ["+65 0000 0000"], "languages": ["en"], "capabilities": ["forensics"]})
    found = directory(registry, "id", START)
    (entry,) = [one for one in found["members"] if one["jurisdiction"] == "sg"]
    assert entry["contacts"] == ["+65 0000 0000"]
    assert {key["kid"] for key in entry["keys"]} <= {key.kid for key in registry.members[entry["id"]].keys}
    text = "\n".join(in_lines(found))
    for word in ("+65 0000 0000", "forensics", entry["keys"][0]["kid"]):
        assert word in text


def test_a_sharing_group_is_named_to_its_own_alone() -> None:
    """In no form to anybody else."""
    found = directory(changed(), "id", START)
    assert [group["name"] for group in found["groups"]] == ["Straits"]
    assert b"CANARY" not in msgspec.json.encode(found)
    assert "CANARY" not in "\n".join(in_lines(found))
    assert len(directory(changed(), "sg", START)["groups"]) == 2


def test_keys_that_do_not_count_are_not_listed() -> None:
    """Neither revoked ones nor those whose time is over."""
    (member,) = [one for one in region().members if one.jurisdiction == "sg"]
    revoked = [msgspec.structs.replace(key, revoked_at=START) for key in member.keys]

    def keys(registry: Registry, days: float = 0) -> list[object]:
        found = directory(registry, "id", START + timedelta(days=days))
        return next(one["keys"] for one in found["members"] if one["jurisdiction"] == "sg")

    assert keys(changed())
    assert keys(changed(sg={"keys": revoked})) == []
    assert keys(changed(), days=36_500) == []


def test_what_init_is_told_stands_in_the_request_to_join(tmp_path: Path) -> None:
    """So that trustees sign it with the rest."""
    words = [
        "--contact",
        "soc@cert.example",
        "--language",
        "id",
        "--language",
        "en",
        "--capability",
        "malware-analysis",
    ]
    assert main(["node", "init", str(tmp_path / "n"), "--member", "id-cert", *words]) == 0
    member = msgspec.convert(json.loads((tmp_path / "n" / "member.json").read_text()), Member)
    assert (member.contacts, member.languages) == (["soc@cert.example"], ["id", "en"])
    assert member.capabilities == ["malware-analysis"]


def test_a_wrong_word_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is made."""
    assert main(["node", "init", str(tmp_path / "n"), "--member", "id-cert", "--language", "English!"]) == 2
    assert "languages" in capsys.readouterr().err
    assert not (tmp_path / "n").exists()
