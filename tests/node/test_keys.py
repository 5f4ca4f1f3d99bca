"""A node's keys: warned of weeks ahead, once each, through restarts; shown to operators; listed by the command."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from node.cli import main
from node.core import NodeCore
from node.keywatch import KeyWatch
from node.loops import State, Writer
from protocol.natsauth import Role, create_seed, format_creds, public_of, sign_claims
from tests.node.looking import alarms
from tests.node.test_alarms import lasting
from tests.node.world import START, Clock, key_of

SEED = create_seed(Role.USER, b"u" * 32)


def kentongan(*arguments: str | Path) -> str:
    """A command as an operator gives it; its output."""
    said = io.StringIO()
    with redirect_stdout(said):
        assert cli.main([str(one) for one in arguments], log=False) == 0, arguments
    return said.getvalue()


def watch(core: NodeCore, keys: Path, clock: Clock) -> KeyWatch:
    return KeyWatch(keys, core, Writer(), State(), clock)


def test_a_key_is_warned_of_three_times(core: NodeCore, clock: Clock, tmp_path: Path) -> None:
    """At 42, 14 and 3 days, whoever looks how often, and after a restart too. It ends 365 days after the start."""
    told = []
    for day in range(366):
        clock.now = START + timedelta(days=day, hours=1)
        # Another one each day: nothing is kept in memory.
        if watch(core, tmp_path, clock).warn():
            told.append(day)
        assert watch(core, tmp_path, clock).warn() == []
    assert told == [365 - 42, 365 - 14, 365 - 3]
    assert alarms(core) == ["key-expires"] * 3
    (alarm,) = lasting(core)
    assert (alarm["about"], alarm["count"]) == ("signing", 3)
    assert alarm["facts"]["kid"] == key_of("id-cert").kid


def test_credentials_that_end_are_warned_of(core: NodeCore, clock: Clock, tmp_path: Path) -> None:
    """If their claim says so; the broker's own claims do not end."""
    issuer = create_seed(Role.ACCOUNT, bytes(32))
    jwt = sign_claims(issuer, public_of(SEED, Role.USER), "n", {"type": "user"}, int(START.timestamp()))
    (tmp_path / "nats.creds").write_text(format_creds(jwt, SEED))
    (tmp_path / "nats.creds").chmod(0o400)
    (one,) = [life for life in watch(core, tmp_path, clock).lives() if life.kind == "transport"]
    assert (one.kid, one.state, one.not_after) == (public_of(SEED, Role.USER), "current", None)


async def test_operators_see_when_keys_end(node: Any) -> None:
    """In the readiness document; the metrics are measured elsewhere."""
    ready = await node.get("/readyz")
    assert ready["keys_end"] == {"signing": "2027-05-04T08:00:00Z"}


def test_the_command_lists_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And ends with 1 if one in use ends soon."""
    kentongan("broker", "init", tmp_path / "broker", "--region", "x")
    kentongan("node", "init", tmp_path / "id", "--member", "id-cert")
    invitation = tmp_path / "i.json"
    kentongan("broker", "admit", tmp_path / "broker", tmp_path / "id" / "member.json", "--invitation", invitation)
    kentongan("node", "join", tmp_path / "id", invitation)
    rows = [json.loads(line) for line in kentongan("node", "keys", tmp_path / "id", "--json").splitlines()]
    assert [row["kind"] for row in rows] == ["signing", "sealing", "transport", "fingerprint"]
    assert {row["state"] for row in rows} == {"current"}
    assert main(["node", "keys", str(tmp_path / "id"), "--within", "366d"]) == 1
    assert main(["node", "keys", str(tmp_path / "id"), "--within", "soon"]) == 2
    rows = [json.loads(line) for line in kentongan("broker", "keys", tmp_path / "broker", "--json").splitlines()]
    assert [(row["owner"], row["kind"]) for row in rows] == [
        ("broker", "signing"),
        ("id-cert", "signing"),
        ("id-cert", "sealing"),
        ("operator", "trustee"),
        *[("broker", kind) for kind in ("account", "user")],
        ("id-cert", "account"),
        *[("broker", kind) for kind in ("operator", "account", "user")],
    ]
    assert cli.main(["broker", "keys", str(tmp_path / "broker"), "--within", "366d"], log=False) == 1
    assert "whose" in capsys.readouterr().out
