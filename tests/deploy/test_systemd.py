"""The units: their commands exist, systemd takes them, and broker and node run under what they forbid."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli import _parser
from protocol.process import EXIT_CONFIG
from tests.deploy.helping import ROOT, clean_env, confined, eventually, free_port, kentongan, processes, ready
from tests.deploy.sandbox import settings

pytestmark = pytest.mark.timeout(300)
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
BROKER, NODE = UNITS
ANALYZE = shutil.which("systemd-analyze")
STATE = "/var/lib/kentongan/"
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def both(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, UNITS, ids=lambda path: str(path.name))


@both("unit")
def test_the_command_exists(unit: Path) -> None:
    """The program is the image's, and its parser takes the arguments; what it runs is its own state directory."""
    (line,) = settings(unit)["ExecStart"]
    program, *arguments = shlex.split(line.replace("%i", "id"))
    assert program == "/opt/kentongan/bin/kentongan"
    args = vars(_parser().parse_args(arguments))
    place = next(value for value in args.values() if isinstance(value, Path))
    (state,) = settings(unit)["StateDirectory"]
    assert str(place) == "/var/lib/" + state.replace("%i", "id")
    assert str(place).startswith(STATE)


@both("unit")
def test_a_configuration_error_is_not_tried_again(unit: Path) -> None:
    """Everything else is, for ever; the process gets the time that its own ending may take."""
    service = settings(unit)
    assert service["Restart"] == ["always"]
    assert service["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]
    assert "StartLimitIntervalSec=0" in unit.read_text("utf-8")
    # natsd waits ten seconds for the server to end, and the bus takes a few.
    assert int(service["TimeoutStopSec"][0]) >= 20
    assert int(service["LimitNOFILE"][0]) >= 65536


@both("unit")
def test_it_is_shut_in(unit: Path) -> None:
    """What the guide promises, in both units alike."""
    service = settings(unit)
    for name in (
        "NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictNamespaces", "LockPersonality",
        "MemoryDenyWriteExecute", "ProtectKernelTunables", "ProtectControlGroups", "RestrictSUIDSGID",
    ):  # fmt: skip
        assert service[name] == ["yes"], name
    assert service["ProtectSystem"] == ["strict"]
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == [""]
    assert service["UMask"] == ["0077"]
    assert service["StateDirectoryMode"] == ["0700"]
    assert not {"ReadWritePaths", "RootDirectory", "EnvironmentFile"} & set(service)
    apart = {"ExecStart", "User", "Group", "StateDirectory"}
    first, second = ({k: v for k, v in settings(one).items() if k not in apart} for one in UNITS)
    assert first == second


@both("unit")
def test_its_user_exists(unit: Path) -> None:
    """Two users, neither of them the other's, made by the snippets beside the units."""
    (user,) = settings(unit)["User"]
    users = re.findall(r"^u (\S+)\s+-", (unit.parent / "kentongan.sysusers.conf").read_text("utf-8"), re.MULTILINE)
    assert sorted(users) == ["kentongan-broker", "kentongan-node"]
    assert user in users
    assert settings(unit)["Group"] == [user]
    assert settings(BROKER)["User"] != settings(NODE)["User"]
    made = (unit.parent / "kentongan.tmpfiles.conf").read_text("utf-8")
    assert re.search(r"^d /var/lib/kentongan/broker 0700 kentongan-broker kentongan-broker$", made, re.MULTILINE)


@needs_systemd
@both("unit")
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    """No unknown setting, no malformed value: it has nothing to say about the unit."""
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text("utf-8").replace("/opt/kentongan/bin/kentongan", sys.executable), "utf-8")
    done = subprocess.run([str(ANALYZE), "verify", str(copy)], capture_output=True, text=True, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if "kentongan" in line] == []
    assert done.returncode == 0


@needs_systemd
@both("unit")
def test_systemd_finds_it_little_exposed(unit: Path) -> None:
    """Its own measure, from 0 to 10: below 2 is what it calls OK."""
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 2.0


@needs_systemd
def test_they_run_under_what_the_units_forbid(tmp_path: Path) -> None:
    """System calls, sockets, memory, capabilities, a read-only root: a broker with its bus, and a node, come up."""
    words = confined([tmp_path])
    if words is None:
        pytest.skip("a read-only root needs root and mount namespaces")
    home, node = tmp_path / "broker", tmp_path / "id"
    ports = {"broker": free_port(), "id": free_port()}
    init = ["--region", "r", "--port", str(ports["broker"]), "--nats-port", str(free_port()), "--host", "0.0.0.0"]  # noqa: S104
    assert kentongan("broker", "init", str(home), *init).returncode == 0
    assert kentongan("node", "init", str(node), "--member", "id-cert", "--port", str(ports["id"])).returncode == 0
    text = (home / "broker.toml").read_text("utf-8")
    port = re.findall(r"^port = (\d+)", text, re.MULTILINE)[-1]
    (home / "broker.toml").write_text(text + f'public_url = "nats://localhost:{port}"\n', "utf-8")
    invitation = str(tmp_path / "invitation.json")
    assert (
        kentongan("broker", "admit", str(home), str(node / "member.json"), "--invitation", invitation).returncode == 0
    )
    assert kentongan("node", "join", str(node), invitation).returncode == 0
    program = [sys.executable, "-m", "deploy.cli"]
    env = clean_env(Path(sys.prefix), PYTHONPATH=str(ROOT))
    with processes(tmp_path / "logs") as running:
        for name, unit, place in (("broker", BROKER, home), ("id", NODE, node)):
            sandbox = [sys.executable, str(ROOT / "tests" / "deploy" / "sandbox.py"), str(unit)]
            running.start(name, [*words, *sandbox, *program, {"id": "node"}.get(name, name), "run", str(place)], env)
            eventually(ready(ports[name]), running.said)
        for name in ("id", "broker"):
            assert running.end(name) == 0
        said = running.log("broker") + running.log("id") + (home / "data" / "nats" / "nats.log").read_text("utf-8")
        assert "bug" not in said
        assert "not permitted" not in said
        assert "not supported" not in said
