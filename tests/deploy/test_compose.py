"""docker-compose.yml: its services' own commands, run in their order as real processes, and how they are shut in."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.deploy.helping import (
    REPORT,
    ROOT,
    Processes,
    call,
    clean_env,
    eventually,
    free_port,
    processes,
    ready,
)

pytestmark = pytest.mark.timeout(600)
FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
NODES = ("id", "jp", "sg")
ONCE = [name for name, service in SERVICES.items() if service.get("restart") == "no"]


def order() -> list[str]:
    """Services so that each comes after those that it depends on."""
    found: list[str] = []
    while len(found) < len(SERVICES):
        ready = [n for n in SERVICES if n not in found and set(SERVICES[n].get("depends_on", {})) <= set(found)]
        assert ready, "services wait for each other in a circle"
        found += ready
    return found


@dataclass
class Engine:
    """Runs services as an engine would: volumes are directories here, ports are free ones."""

    image: Path
    place: Path
    running: Processes
    ports: dict[str, int] = field(default_factory=dict)

    def volume(self, name: str) -> Path:
        path = self.place / name
        path.mkdir(exist_ok=True, mode=0o700)
        return path

    def words(self, name: str) -> list[str]:
        """The service's entry point and command, with this machine's places in them."""
        service = SERVICES[name]
        words = [*service.get("entrypoint", ["kentongan"]), *service["command"]]
        for mount in service["volumes"]:
            volume, target = mount.split(":")[:2]
            words = [word.replace(target, str(self.volume(volume))) for word in words]
        return [
            word.replace("/opt/kentongan", str(self.image)).replace("broker:4222", f"127.0.0.1:{self.ports['bus']}")
            for word in words
        ]

    def env(self, name: str) -> dict[str, str]:
        http = self.ports[{"setup": "broker"}.get(name, name.removeprefix("setup-"))]
        return clean_env(self.image, HTTP_PORT=str(http), BUS_PORT=str(self.ports["bus"]))

    def up(self) -> None:
        """Start everything in order, as its conditions say."""
        for name in order():
            if name in ONCE:
                done = subprocess.run(self.words(name), env=self.env(name), capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
                tokens = [path.read_text("ascii").strip() for path in self.place.glob("*/*.token")]
                assert tokens
                assert [token for token in tokens if token in done.stdout + done.stderr] == []
            else:
                self.running.start(name, self.words(name), self.env(name))
                self.wait(name, "healthz")
        for name in ("broker", *NODES):
            self.wait(name, "readyz")

    def wait(self, name: str, path: str) -> None:
        eventually(ready(self.ports[name], path), self.running.said)

    def down(self) -> None:
        for name in reversed(list(self.running.running)):
            assert self.running.end(name) == 0, name

    def files(self) -> dict[str, bytes]:
        """What is in the volumes but for databases, locks and what the bus keeps."""
        return {
            path.relative_to(self.place).as_posix(): path.read_bytes()
            for path in self.place.rglob("*")
            if path.is_file() and "data" not in path.relative_to(self.place).parts
        }


@pytest.fixture
def engine(image: Path, tmp_path: Path) -> Iterator[Engine]:
    """Empty volumes."""
    place = tmp_path / "volumes"
    place.mkdir()
    with processes(tmp_path / "logs") as running:
        yield Engine(image, place, running, {name: free_port() for name in ("bus", "broker", *NODES)})


def test_up_twice_makes_one_region(engine: Engine) -> None:
    """A report posted at id is read at jp; a second `up` changes no file, and everything is still there."""
    engine.up()
    # Its invitation was made before the others were admitted; from here on it knows for whom a report may be.
    eventually(lambda: '"members": 3' in engine.running.log("id"), engine.running.said)
    token = {name: (engine.volume(name) / "first.token").read_text().strip() for name in NODES}
    coordinator = (engine.volume("broker") / "coordinator.token").read_text().strip()
    status, answer = call(f"http://127.0.0.1:{engine.ports['id']}/v1/reports", token["id"], REPORT)
    assert status == 202

    def read_at_jp() -> bool:
        status, inbox = call(f"http://127.0.0.1:{engine.ports['jp']}/v1/inbox", token["jp"])
        return status == 200 and [report["report_id"] for report in inbox["reports"]] == [answer["report_id"]]

    eventually(read_at_jp, engine.running.said)
    assert call(f"http://127.0.0.1:{engine.ports['broker']}/v1/status", coordinator)[1]["reports"] == 1
    before = engine.files()
    engine.down()
    engine.up()
    assert engine.files() == before
    eventually(read_at_jp, engine.running.said)


def test_keys_stay_in_their_own_volume(engine: Engine) -> None:
    """Only its own services mount a node's volume; through the exchange goes nothing that is secret."""
    mounts = {
        (mount.split(":")[0], name, mount.endswith(":ro"))
        for name, service in SERVICES.items()
        for mount in service["volumes"]
    }
    for node in NODES:
        assert {name for volume, name, _ in mounts if volume == node} == {node, f"setup-{node}"}
    assert {name for volume, name, _ in mounts if volume == "broker"} == {"broker", "setup"}
    assert {name for volume, name, read_only in mounts if volume == "exchange" and not read_only} == set(ONCE)
    for name in order():
        if name in ONCE:
            subprocess.run(engine.words(name), env=engine.env(name), capture_output=True, check=True)
    crossed = {path.name: path.read_text("utf-8") for path in engine.volume("exchange").iterdir()}
    assert set(crossed) == {
        f"{node}-cert.{kind}" for node in NODES for kind in ("member.json", "policy.toml", "invitation.json")
    }
    secrets = {
        line
        for name in (*NODES, "broker")
        for path in (*(engine.volume(name) / "keys").rglob("*"), *engine.volume(name).glob("*.token"))
        if path.is_file() and path.name not in ("broker.json", "fingerprint.key")
        if "PRIVATE KEY" in path.read_text("ascii") or "BEGIN CERTIFICATE" not in path.read_text("ascii")
        for line in path.read_text("ascii").splitlines()
        if len(line) > 20 and "-----" not in line
    }
    assert len(secrets) > 10
    assert [line for line in secrets for text in crossed.values() if line in text] == []


def test_an_interrupted_setup_is_told(engine: Engine) -> None:
    """A step whose predecessor did not run ends with 2 and says what is missing, instead of making half a region."""
    done = subprocess.run(engine.words("setup"), env=engine.env("setup"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "member.json" in done.stderr


def test_a_node_waits_for_its_invitation(engine: Engine) -> None:
    """As the chart runs it: it says what it waits for, takes it when it is there, and the second time at once."""
    for name in order():
        if name in ONCE:
            env = engine.env(name) | {"BUS_CA": "/ca.pem"}
            subprocess.run(engine.words(name), env=env, capture_output=True, check=True)
    node, exchange = engine.volume("id"), engine.volume("exchange")
    settings = tomllib.loads((node / "node.toml").read_text("utf-8"))
    assert settings["nats"] == {"ca_file": "/ca.pem"}
    assert settings["http"]["host"] == "0.0.0.0"  # noqa: S104 - inside a container
    invitation = exchange / "id-cert.invitation.json"
    invitation.rename(exchange / "away")
    words = [str(engine.image / "libexec" / "setup.sh"), "join", str(node), str(exchange), "id-cert"]
    process = engine.running.start("join", words, engine.env("id"))
    eventually(lambda: "waiting for" in engine.running.log("join"), engine.running.said)
    assert process.poll() is None
    (exchange / "away").rename(invitation)
    assert process.wait(60) == 0
    assert (node / "keys" / "nats.creds").exists()
    invitation.unlink()
    subprocess.run(words, env=engine.env("id"), capture_output=True, check=True, timeout=60)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_shut_in(name: str) -> None:
    """Read-only root, no capabilities, no new privileges, the image's user, limits, and a known end."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["user"] == "10001:10001"
    assert all(service.get(limit) for limit in ("pids_limit", "mem_limit", "cpus"))
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service)
    if name in ONCE:
        assert service["network_mode"] == "none"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][:2] == ["CMD", "python"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        waits = {other: how["condition"] for other, how in service["depends_on"].items()}
        assert waits["setup"] == "service_completed_successfully"
        assert name == "broker" or waits["broker"] == "service_healthy"


def test_the_bus_is_not_published() -> None:
    """It has no TLS: it stays in the network of the services."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [port.rpartition(":")[2] for port in published] == ["8480", "8440", "8440", "8440"]
    assert len({port.split(":")[1] for port in published}) == len(published)
