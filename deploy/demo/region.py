"""Makes the demonstration's region on disk, with the same commands that an operator uses, and starts its processes."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

import broker.setup
from deploy import cli
from deploy.demo.client import Door
from deploy.demo.processes import Tree, free_port
from deploy.demo.scenario import COORDINATOR, MEMBERS, NAMES
from protocol.errors import ConfigError
from protocol.registry import Member

READY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything listens, and the tokens to get in."""

    directory: Path
    ports: dict[str, int]
    tokens: dict[str, str]

    def url(self, name: str) -> str:
        """The HTTP door of a node, or of the broker."""
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def members(self) -> list[str]:
        """Those with a node."""
        return [name for name in self.tokens if name != "broker"]

    def card(self) -> dict[str, Any]:
        """What `demo.json` says, for tools."""
        return {
            "broker": {"url": self.url("broker"), "token": self.tokens["broker"]},
            "nodes": {name: {"url": self.url(name), "token": self.tokens[name]} for name in self.members},
        }


def _kentongan(*arguments: str) -> str:
    """Run a command as an operator would; its output."""
    out = io.StringIO()
    with redirect_stdout(out):
        code = cli.main(list(arguments), log=False)
    if code:
        raise ConfigError(f"kentongan {' '.join(arguments)} ended with {code}")
    return out.getvalue()


def _policy(name: str) -> str:
    return resources.files("deploy.demo.policies").joinpath(f"{name}-1.toml").read_text("utf-8")


def make(directory: Path, base_port: int, members: Sequence[str] = MEMBERS, *, tls: bool = False) -> Place:
    """Broker and nodes in empty directories: init, admit, join.

    Args:
        tls: whether the bus is encrypted.

    Raises:
        ConfigError: the directory holds something already.
    """
    names = ("broker", "nats", *members)
    ports = {name: base_port + offset if base_port else free_port() for offset, name in enumerate(names)}
    place = Place(directory, ports, {})
    home = directory / "broker"
    name = "ASEAN-Japan demonstration"
    token, _ = broker.setup.init(home, name, http_port=ports["broker"], nats_port=ports["nats"], tls=tls)
    place.tokens["broker"] = token
    for name in members:
        node = directory / name
        said = _kentongan(
            "node", "init", str(node), "--member", name, "--jurisdiction", name, "--name", NAMES[name],
            "--port", str(ports[name]),
        )  # fmt: skip
        place.tokens[name] = next(line.rsplit(" ", 1)[1] for line in said.splitlines() if "token" in line)
        (node / "policy.toml").write_text(_policy(name), "utf-8")
    coordinator = directory / "coordinator.json"
    member = Member(id=COORDINATOR, jurisdiction=COORDINATOR, name="ASEAN Regional CERT", roles=["coordinator"])
    coordinator.write_bytes(msgspec.json.encode(member))
    policy = directory / "coordinator-policy.toml"
    policy.write_text(_policy(COORDINATOR), "utf-8")
    broker.setup.admit(home, coordinator, [policy], None)
    for name in members:
        node = directory / name
        invitation = directory / f"{name}-invitation.json"
        broker.setup.admit(home, node / "member.json", [node / "policy.toml"], invitation)
        _kentongan("node", "join", str(node), str(invitation))
    (directory / "demo.json").write_text(json.dumps(place.card(), indent=1) + "\n", "utf-8")
    return place


async def start(place: Place, tree: Tree, session: aiohttp.ClientSession) -> dict[str, Door]:
    """Start the broker and the nodes, and wait until each says that it is ready.

    Raises:
        ConfigError: one of them cannot stay up; the text names its log.
    """
    doors = {name: Door(session, place.url(name), place.tokens[name]) for name in ("broker", *place.members)}
    await tree.start("broker", "broker", "run", str(place.directory / "broker"))
    for name in place.members:
        await tree.start(name, "node", "run", str(place.directory / name))
    end = time.monotonic() + READY_SECONDS
    waiting = dict(doors)
    while waiting:
        waiting = {name: door for name, door in waiting.items() if not await door.ready()}
        failed = tree.failed()
        if failed or time.monotonic() > end:
            name = failed or next(iter(waiting))
            raise ConfigError(f"{name} does not come up: see {tree.kept[name].log}")
        await asyncio.sleep(0.05)
    return doors
