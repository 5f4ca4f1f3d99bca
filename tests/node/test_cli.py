"""`kentongan node`: what it makes, and its one-line refusals."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import msgspec
import pytest

from node.cli import main
from node.config import Http, load_config
from protocol.errors import ConfigError
from protocol.invitation import load_invitation
from protocol.keys import SigningKey
from protocol.policy import load_policy
from protocol.registry import Member
from tests.node.test_app import _invitation


def init(place: Path, *more: str) -> int:
    return main(["node", "init", str(place), "--member", "id-cert", *more])


def test_init_makes_a_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys closed to others, a configuration and a policy that load, a public member entry, the token once."""
    assert init(tmp_path / "n", "--name", 'ID "CERT"') == 0
    config = load_config(tmp_path / "n" / "node.toml")
    assert (config.member, config.jurisdiction, config.name, config.http) == ("id-cert", "id", 'ID "CERT"', Http())
    token = capsys.readouterr().out.split("shown this once: ")[1].split()[0]
    assert config.tokens[0].sha256 == hashlib.sha256(token.encode()).hexdigest()
    keys = list(config.keys.iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o400}
    policy = load_policy(config.policy.read_text(), "policy.toml")
    assert all(rule.because for rule in (*policy.export, *policy.import_))
    member = msgspec.json.decode((tmp_path / "n" / "member.json").read_bytes(), type=Member)
    assert member.keys[0].kid == SigningKey.load(config.keys / "signing.pem").kid
    secrets = [path.read_bytes() for path in keys]
    public = (tmp_path / "n" / "member.json").read_bytes()
    assert not any(secret in public for secret in secrets)


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second init says what to do, in one line, with exit code 2."""
    init(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert init(tmp_path) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_join_checks_the_invitation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It must be for this member and for its NATS key, and its region document must hold."""
    place, other, file = tmp_path / "a", tmp_path / "b", tmp_path / "invitation.json"
    init(place)
    init(other)
    file.write_bytes(_invitation(other))
    assert main(["node", "join", str(place), str(file)]) == 2
    good = _invitation(place)
    for change in ({"member": "my-cert"}, {"region": "a.b.c"}, {"broker_keys": []}):
        file.write_text(json.dumps(json.loads(good) | change))
        assert main(["node", "join", str(place), str(file)]) == 2
    assert not (place / "keys" / "nats.creds").exists()
    file.write_bytes(good)
    assert main(["node", "join", str(place), str(file)]) == 0
    assert main(["node", "join", str(place), str(file)]) == 0
    assert load_invitation(place / "invitation.json") == load_invitation(file)
    assert stat.S_IMODE((place / "keys" / "nats.creds").stat().st_mode) == 0o400


def test_run_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next command to give."""
    assert main(["node", "run", str(tmp_path)]) == 2
    assert "kentongan node init" in capsys.readouterr().err
    init(tmp_path)
    assert main(["node", "run", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("surprise = 1", "surprise"),
        ("[http]\nport = 70000", "http.port"),
        ("[http]\nprot = 1", "http.prot"),
        ('[[token]]\nname = "x"\nsha256 = "abc"', "token[1].sha256"),
        ("[limits]\nbacklog = 0", "limits.backlog"),
        ('member = "x', "not valid TOML"),
    ],
)
def test_a_wrong_configuration_says_what_to_write(tmp_path: Path, line: str, says: str) -> None:
    """The key, and the keys there are."""
    init(tmp_path)
    text = (tmp_path / "node.toml").read_text()
    table = line.partition("\n")[0]
    text = (
        text.replace(table, line, 1)
        if table in ("[http]", "[limits]")
        else f"{line}\n{text}"
        if table != "[[token]]"
        else text + line
    )
    if table in ("[http]", "[limits]"):
        key = line.partition("\n")[2].partition(" ")[0]
        text = "\n".join(part for part in text.splitlines() if not part.startswith(f"{key} ") or part in line)
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "node.toml")
    assert says in str(caught.value)
