"""Records at the broker: files that appear whole, rows and leaves that follow them, offers of members, commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import governing, setup, store, tables
from broker.config import load_config
from broker.governing import append, load_chain, offered, record_chain
from broker.governor import Governor
from broker.members import load_region, load_state
from broker.proposals import decide, propose
from deploy import cli
from protocol.errors import ConfigError, ProtocolError
from protocol.governance import Admit, Keys, Suspend, entry_of, open_record, sign_record
from protocol.keys import SigningKey
from protocol.reasons import Reason
from protocol.registry import Member, head_of
from tests.protocol.make import key_of, refused


def now() -> datetime:
    return datetime.now(UTC)


def carrier() -> SigningKey:
    raise AssertionError("nothing here is closed")


def joining(name: str) -> Member:
    start = now() - timedelta(days=1)
    return Member(
        id=name,
        jurisdiction=name[:2],
        name=f"The {name}",
        keys=[key_of(name).record(start, start + timedelta(days=99))],
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A region of an operator who decides alone, with one member."""
    setup.init(tmp_path / "b", "test")
    decide(load_config(tmp_path / "b"), Admit(member=joining("id-cert")))
    return tmp_path / "b"


@pytest.fixture
def ledger(tmp_path: Path) -> store.Store:
    return store.Store(store.open_engine(f"sqlite:///{tmp_path / 'ledger.db'}"))


def rows(ledger: store.Store, table: str) -> list[Any]:
    with ledger.reading() as connection:
        return list(connection.execute(getattr(tables, table).select()))


def more_keys(home: Path, name: str = "id-cert", signer: str = "id-cert") -> bytes:
    state = load_chain(home, now()).state
    start = now() - timedelta(hours=1)
    keys = [*state.member(name).keys, key_of("fresh").record(start, start + timedelta(days=9))]
    return sign_record(propose(state, Keys(member=name, keys=keys)), key_of(signer))


# --- files ------------------------------------------------------------------------------------------------------


def test_a_record_is_a_file_that_is_never_written_again(home: Path) -> None:
    """One a number; nothing else is left in the directory."""
    data = more_keys(home)
    append(home, data, now(), carrier)
    with refused(Reason.RECORD_OUT_OF_ORDER):
        append(home, data, now(), carrier)
    assert [path.name for path in (home / "governance").iterdir() if path.suffix != ".json"] == []
    assert sorted(path.name for path in (home / "governance").iterdir()) == [f"{n:06}.json" for n in range(3)]


def test_who_comes_second_does_not_overwrite(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that both found the place free."""
    data = more_keys(home)
    chain = load_chain(home, now())
    append(home, data, now(), carrier)
    before = (home / "governance" / "000002.json").read_bytes()
    monkeypatch.setattr(governing, "load_chain", lambda *_: chain)
    trustee = SigningKey.load(home / "keys" / "trustee.pem")
    other = sign_record(propose(chain.state, Suspend(member="id-cert")), trustee)
    with refused(Reason.RECORD_OUT_OF_ORDER, "$.number"):
        append(home, other, now(), carrier)
    assert (home / "governance" / "000002.json").read_bytes() == before
    assert len(list((home / "governance").iterdir())) == 3


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: (d / "000000.json").unlink(), "000000.json is missing"),
        (lambda d: (d / "000001.json").write_bytes(b"{}"), "000001.json"),
        (lambda d: (d / "000001.json").write_bytes((d / "000000.json").read_bytes()), "record-out-of-order"),
        (lambda d: [path.unlink() for path in d.iterdir()], "holds no record"),
    ],
)
def test_a_damaged_chain_is_refused_with_its_file(home: Path, damage: Callable[[Path], Any], says: str) -> None:
    """As a whole."""
    damage(home / "governance")
    with pytest.raises(ConfigError, match=says):
        load_region(home)


def test_a_broker_key_that_the_trustees_did_not_name_signs_nothing(home: Path) -> None:
    """Whatever stands in keys/."""
    stranger = key_of("stranger").record(now() - timedelta(days=1), now() + timedelta(days=1))
    with pytest.raises(ConfigError, match="trustees have not made"):
        load_state(home, [stranger])


# --- ledger and log ---------------------------------------------------------------------------------------------


def test_each_record_has_its_row_and_leaf_once(home: Path, ledger: store.Store) -> None:
    """Recorded again, nothing is added; one more record is one more leaf."""
    chain = load_chain(home, now())
    assert record_chain(ledger, chain, now()) == [0, 1]
    assert record_chain(ledger, chain, now()) == []
    append(home, more_keys(home), now(), carrier)
    assert record_chain(ledger, load_chain(home, now()), now()) == [2]
    records, leaves = rows(ledger, "governance"), {row.id - 1: row for row in rows(ledger, "submissions")}
    assert [row.number for row in records] == [0, 1, 2]
    for row in records:
        leaf = leaves[row.leaf]
        assert (leaf.member, leaf.receipt, leaf.message) == ("broker", b"", row.record)
        assert leaf.entry == entry_of(row.digest)


def test_a_message_never_answers_for_a_record(home: Path, ledger: store.Store) -> None:
    """A member that sends what a record is named by finds no receipt there."""
    chain = load_chain(home, now())
    record_chain(ledger, chain, now())
    with ledger.reading() as connection:
        assert store.receipts_of(connection, [*chain.digests]) == {}
    assert all(len(row.digest) != 43 for row in rows(ledger, "submissions"))


def test_files_that_contradict_the_ledger_are_refused(home: Path, ledger: store.Store, tmp_path: Path) -> None:
    """Fewer of them, or others."""
    append(home, more_keys(home), now(), carrier)
    record_chain(ledger, load_chain(home, now()), now())
    (home / "governance" / "000002.json").rename(tmp_path / "kept.json")
    with pytest.raises(ConfigError, match="put those back"):
        record_chain(ledger, load_chain(home, now()), now())
    decide(load_config(home), Suspend(member="id-cert"))
    with pytest.raises(ConfigError, match="put those back"):
        record_chain(ledger, load_chain(home, now()), now())


def test_nodes_are_shown_what_is_recorded(home: Path, ledger: store.Store) -> None:
    """The document names a record that has its leaf; and records that were followed are not exchanged."""
    signer, _ = setup.load_keys(load_config(home))
    governor = Governor(ledger, home, signer, now)
    state = load_state(home)
    governor.record(state)
    decide(load_config(home), Suspend(member="id-cert"))
    later = load_state(home)
    governor.check(later)
    assert head_of(governor.document("id-cert").decode()).number == 1
    governor.record(later)
    assert head_of(governor.document("id-cert").decode()).number == 2
    with pytest.raises(ConfigError, match="put those back"):
        governor.check(state)


def test_records_are_listed_after_a_number(home: Path, ledger: store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, with their leaves, in answers of a bounded size."""
    chain = load_chain(home, now())
    record_chain(ledger, chain, now())

    def ask(after: int) -> list[Any]:
        return msgspec.json.decode(governing.listed(ledger, msgspec.json.encode({"after": after}), chain, "id-cert"))[
            "records"
        ]

    assert [one["record"].encode() for one in ask(-1)] == list(chain.records)
    assert [one["leaf"] for one in ask(-1)] == [0, 1]
    assert len(ask(0)) == 1
    assert ask(1) == []
    monkeypatch.setattr(governing, "ANSWER", 10)
    assert len(ask(-1)) == 1
    for bad in (-2, 1 << 31):
        with refused(Reason.OUT_OF_RANGE, "$.after"):
            ask(bad)


# --- offers of members ------------------------------------------------------------------------------------------


def test_a_member_offers_its_own_keys(home: Path) -> None:
    """The same again gets the same answer."""
    data = more_keys(home)
    assert offered(home, "id-cert", data, now(), carrier, mints=True) == b"{}"
    assert offered(home, "id-cert", data, now(), carrier, mints=True) == b"{}"
    assert len(load_region(home).members[0].keys) == 2


def test_a_member_offers_nothing_else(home: Path) -> None:
    """Not another's keys, not what a trustee has signed, not without its own signature."""
    state = load_chain(home, now()).state
    trustee = SigningKey.load(home / "keys" / "trustee.pem")
    suspended = sign_record(propose(state, Suspend(member="id-cert")), trustee)
    for member, data, why in (
        ("sg-cert", more_keys(home), Reason.NOT_ALLOWED),
        ("id-cert", suspended, Reason.NOT_ALLOWED),
        ("id-cert", more_keys(home, signer="stranger"), Reason.NOT_A_TRUSTEE),
    ):
        with pytest.raises(ProtocolError) as caught:
            offered(home, member, data, now(), carrier, mints=True)
        assert caught.value.reason is why
    assert len(load_region(home).members[0].keys) == 1


def test_a_member_offers_so_many_a_day(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node follows every record for ever. The same one again does not count, nor do those of other days."""
    monkeypatch.setattr(governing, "OFFERS_A_DAY", 1)
    first = more_keys(home)
    offered(home, "id-cert", first, now(), carrier, mints=True)
    offered(home, "id-cert", first, now(), carrier, mints=True)
    state = load_chain(home, now()).state
    keys = [msgspec.structs.replace(one, revoked_at=now()) for one in state.member("id-cert").keys[1:]]
    act = Keys(member="id-cert", keys=[*state.member("id-cert").keys[:1], *keys])
    second = sign_record(propose(state, act), key_of("id-cert"))
    with refused(Reason.TOO_MANY, "$.act"):
        offered(home, "id-cert", second, now(), carrier, mints=True)
    for path in (home / "governance").iterdir():
        os.utime(path, (0, now().timestamp() - 86_401))
    offered(home, "id-cert", second, now(), carrier, mints=True)


# --- commands ---------------------------------------------------------------------------------------------------


def kentongan(*arguments: str | Path) -> int:
    return cli.main([str(one) for one in arguments], log=False)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A region of three trustees, two to decide."""
    given: list[str | Path] = []
    for name in ("a1", "b2", "c3"):
        assert kentongan("trustee", "init", tmp_path / name, "--id", f"trustee-{name}", "--name", name) == 0
        given += ["--trustee", tmp_path / name / "trustee.json"]
    home = tmp_path / "broker"
    assert kentongan("broker", "init", home, "--region", "shared", *given, "--threshold", "2") == 0
    founding = home / "proposals" / "000000-found.json"
    for name in ("a1", "b2", "c3"):
        assert kentongan("members", "approve", founding, "--key", tmp_path / name / "trustee.pem", "--yes") == 0
    assert kentongan("broker", "record", home, founding) == 0
    return home


def test_nothing_is_signed_without_yes(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is asked is shown in words, with the ids of all keys; the file stays as it is."""
    member = joining("id-cert")
    (tmp_path / "member.json").write_bytes(msgspec.json.encode(member))
    proposal = tmp_path / "p.json"
    assert kentongan("broker", "propose", shared, "admit", tmp_path / "member.json", "-o", proposal) == 0
    before = proposal.read_bytes()
    capsys.readouterr()
    assert kentongan("members", "approve", proposal, "--key", tmp_path / "a1" / "trustee.pem") == 0
    said = capsys.readouterr().out
    assert "Admit id-cert (The id-cert) of id." in said
    assert member.keys[0].kid in said
    assert open_record(before).digest in said
    assert proposal.read_bytes() == before


def test_copies_that_were_signed_apart_are_put_together(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each alone is not enough; another proposal is no copy."""
    (tmp_path / "member.json").write_bytes(msgspec.json.encode(joining("id-cert")))
    assert kentongan("broker", "propose", shared, "admit", tmp_path / "member.json", "-o", tmp_path / "p.json") == 0
    for name in ("a1", "b2"):
        copy = tmp_path / f"p-{name}.json"
        copy.write_bytes((tmp_path / "p.json").read_bytes())
        assert kentongan("members", "approve", copy, "--key", tmp_path / name / "trustee.pem", "--yes") == 0
        assert kentongan("broker", "record", shared, copy) == 2
    assert "too-few-signatures" in capsys.readouterr().err
    assert kentongan("broker", "record", shared, shared / "proposals" / "000000-found.json", tmp_path / "p.json") == 2
    assert kentongan("broker", "record", shared, tmp_path / "p-a1.json", tmp_path / "p-b2.json") == 0
    assert [one.id for one in load_region(shared).members] == ["id-cert"]


def test_an_operator_without_a_key_leaves_a_proposal(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says who has to sign; what nobody could record is refused at once."""
    (tmp_path / "member.json").write_bytes(msgspec.json.encode(joining("id-cert")))
    assert kentongan("broker", "admit", shared, tmp_path / "member.json") == 0
    said = capsys.readouterr().out
    assert "2 more of the trustees have to sign" in said
    assert all(f"trustee-{name}" in said for name in ("a1", "b2", "c3"))
    assert load_region(shared).members == []
    assert kentongan("broker", "suspend", shared, "no-such") == 2
    assert "unknown-member" in capsys.readouterr().err


def test_a_stranger_signs_no_founding(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trustee that is not among those of the founding is told so."""
    assert kentongan("trustee", "init", tmp_path / "x", "--id", "stranger", "--name", "x") == 0
    assert kentongan("trustee", "init", tmp_path / "x", "--id", "stranger", "--name", "x") == 2
    founding = shared / "proposals" / "000000-found.json"
    assert kentongan("members", "approve", founding, "--key", tmp_path / "x" / "trustee.pem", "--yes") == 2
    assert "does not list the key" in capsys.readouterr().err


def test_every_act_has_its_words(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Proposed, signed and recorded by an operator who decides alone; told again by `broker governance`."""
    sg = joining("sg-cert")
    (tmp_path / "sg.json").write_bytes(msgspec.json.encode(sg))
    told = msgspec.structs.replace(sg, name="Another name", languages=["en", "zh-Hans"], capabilities=["forensics"])
    (tmp_path / "told.json").write_bytes(msgspec.json.encode(told))
    group = '{"id": "00000000-0000-4000-8000-000000000001", "name": "Straits", "jurisdictions": ["id", "sg"]}'
    (tmp_path / "group.json").write_text(group)
    pact = 'id = "aid"\ntitle = "Aid"\nparties = ["id", "sg"]\neffective_from = 2026-01-01T00:00:00Z\n'
    (tmp_path / "aid.toml").write_text(pact)
    broker_keys = (home / "keys" / "broker.json").read_bytes()
    fresh = key_of("fresh broker").record(now() - timedelta(days=1), now() + timedelta(days=9))
    (tmp_path / "keys.json").write_bytes(msgspec.json.encode([*msgspec.json.decode(broker_keys), fresh]))
    until = (now() + timedelta(days=1)).isoformat()
    for act in (
        ["admit", tmp_path / "sg.json"],
        ["suspend", "sg-cert"],
        ["resume", "sg-cert"],
        ["roles", "sg-cert", "recipient"],
        ["describe", tmp_path / "told.json"],
        ["revoke", "sg-cert", sg.keys[0].kid, "--since", now().isoformat()],
        ["keys", tmp_path / "sg.json"],
        ["group", tmp_path / "group.json"],
        ["dissolve", "00000000-0000-4000-8000-000000000001"],
        ["agree", tmp_path / "aid.toml"],
        ["terminate", "aid", "--until", until],
        ["broker-keys", tmp_path / "keys.json"],
        ["quorum", "1"],
        ["quorum", "0"],
    ):
        assert kentongan("broker", "propose", home, *act) == 0, act
    assert kentongan("broker", "propose", home, "expel", "sg-cert") == 2, "its jurisdiction is a party to an agreement"
    capsys.readouterr()
    assert kentongan("broker", "governance", home) == 0
    said = capsys.readouterr().out
    for words in (
        "Found the region test.",
        "Admit sg-cert",
        "Suspend sg-cert.",
        "Let sg-cert back in.",
        "The roles of sg-cert are: recipient.",
        "sg-cert is called Another name.",
        "speaks: en, zh-Hans",
        "revoked from",
        "Straits: id, sg.",
        "ends.",
        "The agreement aid (Aid) is made.",
        "The keys of the broker are these.",
        fresh.kid,
        "Witnesses that must cosign a checkpoint: 1.",
        "1 of 1 trustees decide.",
    ):
        assert words in said, words


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (["roles", "id-cert", "king"], "unknown-value"),
        (["revoke", "id-cert", "no-such", "--since", "2026-01-01T00:00:00Z"], "has no key"),
        (["revoke", "id-cert", "x", "--since", "2026-01-01T00:00:00"], "needs a zone"),
        (["revoke", "id-cert", "x", "--since", "soon"], "is not a time"),
        (["quorum", "-1"], "out-of-range"),
        (["dissolve", "x"], "no such sharing group"),
        (["admit", "/no/such/file.json"], "is missing"),
    ],
)
def test_what_an_operator_mistypes(home: Path, capsys: pytest.CaptureFixture[str], act: list[str], says: str) -> None:
    """One line that says what is wrong; nothing is proposed."""
    assert kentongan("broker", "propose", home, *act) == 2
    assert says in capsys.readouterr().err
    assert not list((home / "proposals").glob("*")) if (home / "proposals").exists() else True
