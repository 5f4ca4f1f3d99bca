"""The rehearsal of a restore, by the documented commands: taken beside running processes, and put in their place."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from deploy import cli
from deploy.demo.scenario import MEMBERS
from tests.e2e.conftest import Running, eventually
from tests.e2e.test_chaos import _arrived, _post_all

NAMES = ("broker", "sg")


def kentongan(*words: str | Path) -> int:
    return cli.main([str(word) for word in words], log=False)


@pytest.mark.timeout(200)
async def test_a_restored_broker_and_node_go_on(region: Running, tmp_path: Path) -> None:
    """What was copied under load holds together; what was copied in a quiet moment takes the place of what was lost."""
    place = region.place.directory
    nodes = {name: region.doors[name] for name in MEMBERS}
    accepted: dict[str, str] = {}

    async def copy(moment: str) -> None:
        for name in NAMES:
            assert await asyncio.to_thread(kentongan, "backup", place / name, tmp_path / f"{name}-{moment}.tar") == 0

    async with asyncio.TaskGroup() as group:
        group.create_task(_post_all(region, "id", range(40), accepted))
        group.create_task(copy("busy"))
    for name, kind in (("broker", "broker"), ("sg", "node")):
        copied = tmp_path / "busy" / name
        assert await asyncio.to_thread(kentongan, "restore", tmp_path / f"{name}-busy.tar", copied) == 0
        assert await asyncio.to_thread(kentongan, kind, "check", copied) == 0
    await eventually(lambda: _arrived(region, accepted), "all is there")

    async def quiet() -> bool:
        logs = [await door.get("/v1/log") for door in nodes.values()]
        return not any(log["leaves"]["waiting"] or log["lag"] for log in logs)

    await eventually(quiet, "all is proven")
    await copy("quiet")
    for name in NAMES:
        await region.tree.kill(name)
        shutil.move(place / name, tmp_path / f"lost-{name}")
        assert await asyncio.to_thread(kentongan, "restore", tmp_path / f"{name}-quiet.tar", place / name) == 0
    for name in NAMES:
        region.tree.revive(name)
    await _post_all(region, "id", range(40, 45), accepted)
    await eventually(lambda: _arrived(region, accepted), "what is posted afterwards arrives, at the restored node too")
    for name, door in nodes.items():
        if name != "sg":
            assert (await door.get("/v1/log"))["alarms"] == {}, name
