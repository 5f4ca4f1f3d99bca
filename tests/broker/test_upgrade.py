"""A region goes on after an upgrade of its ledger and of a node's store, from the middle of what it was doing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from protocol.migrating import Place, upgrade
from tests import databases
from tests.federation import Federation, filing
from tests.postgresql import Server
from tests.stores import FILES, put
from tests.stores.region import resumed
from tests.stores.schema import longer, take_back


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Federation]:
    """The old region on this program."""
    server: Server | None = request.getfixturevalue("server") if request.param == "postgresql" else None
    databases.use(server)
    for kind, place in (("broker", tmp_path), ("node", tmp_path / "id")):
        place.mkdir(exist_ok=True)
        file = place / FILES[kind]
        url = server.create() if server else f"sqlite:///{file}"
        if server:
            databases.put(file, url)
        put(kind, url if server else file)
        engine = create_engine(url)
        with engine.begin() as connection:
            take_back(kind, connection)
        engine.dispose()
        assert upgrade(Place(url, place, str(place)), longer(kind)) is not None
    yield resumed(tmp_path)
    databases.use(None)


def test_a_region_goes_on(world: Federation) -> None:
    """What waited is sent and delivered, new reports too; nothing comes twice, and every store holds together."""
    world.examine()
    assert len(world.nodes["id"].outbox) > 0
    with world.nodes["id"].store.read() as reads:
        before = {row.digest for row in reads.inbox_page(0, 100)}
        told = reads.numbers()["events"]
    (new,) = world.post("id", filing(100))
    (other,) = world.post("jp", filing(101))
    world.settle()
    assert {row.digest for row in world.inbox("id")} == before | {other["digest"]}
    here = {row.digest for row in world.inbox("jp")}
    assert new["digest"] in here
    assert len(here) == 3, "what was on its way, what waited, and what is new"
    assert world.nodes["id"].store.last_event > told
    with world.nodes["id"].store.read() as reads:
        assert sum(reads.open_alarms().values()) == 1, "the one that was open before"
