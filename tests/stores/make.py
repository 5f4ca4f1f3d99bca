"""`python -m tests.stores.make`: run a small region, and write its stores beside this file, as SQL, by their schema.

The region is left in the middle of its work: something waits to be sent, something to be delivered.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from node.alarms import raise_alarm
from node.course import begin
from node.formats.stix_out import objects_of
from node.intake import Posting, read_item
from node.projection import catch_up
from node.store import microseconds
from node.tokens import Wanted, create
from protocol.access import Client
from protocol.reasons import Reason
from tests.federation import Federation, filing
from tests.stores import COORDINATOR, FILES, HERE, MEMBERS, SCHEMAS, SEED


def work(world: Federation) -> None:
    """Something of everything that a node and a broker keep."""
    red = {"marking": {"tlp": "RED", "recipients": ["jp"]}}
    gone = {"marking": {"tlp": "AMBER"}, "rsit": [{"class": "other"}], "phase": "withdrawn"}
    (first,) = world.post("id", filing(1))
    world.post("id", filing(2, **red))
    world.post("jp", filing(3), _linked(31))
    for _turn in range(3):
        world.turn()
    world.post("id", _linked(32))
    world.post("id", filing(1, severity={"score": 90}, report_id=first["report_id"], revision=2))
    world.settle()
    world.post("id", {**gone, "report_id": first["report_id"], "revision": 3})
    node, now = world.nodes["id"], world.clock()

    def item(number: int) -> Any:
        return read_item(msgspec.json.encode(filing(number)), at="$", jurisdictions=set(MEMBERS), now=now)

    soc, bot = Client(name="soc"), Client(name="bot", held=True)
    node.file([Posting(items=(item(5), item(6)), many=True, client=soc, key="a-key", body_hash="h" * 43)])
    node.file([Posting(items=(item(7),), many=False, client=bot)])
    with node.store.write() as tx:
        create(tx, Wanted(name="soc", scopes=["submit"]), by="first", taken=(), now=now, rand=world.rng.randbytes)
        begin(tx, "soc-hook")
        raise_alarm(tx, "webhook", Reason.ENDPOINT_FAILING.value, microseconds(now), webhook="soc-hook")
    world.settle()
    catch_up(node.store, objects_of, world.clock)
    with node.store.read() as reads:
        seen = [(row.report_id, row.revision) for row in reads.inbox_page(0, 2)]
    for report_id, revision in seen:
        node.confirm(report_id, "read", revision)


def _linked(number: int) -> dict[str, Any]:
    """A filing that has an identifier in common with others of this kind."""
    return filing(
        number, body={"title": f"Incident {number}", "indicators": [{"type": "domain-name", "value": "c2.kg"}]}
    )


def leave(world: Federation) -> None:
    """In the middle of something."""
    world.post("id", filing(8))
    world.step_node("id")
    world.step_broker()
    world.inboxes["jp"].clear()
    world.post("id", filing(9))
    world.examine()


def _write(name: str, text: str) -> None:
    """Never over what an earlier program has left."""
    with (HERE / name).open("x", encoding="utf-8") as file:
        file.write(text)


def main() -> None:
    """Write the files."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        world = Federation(directory, MEMBERS, seed=SEED, coordinator=COORDINATOR)
        work(world)
        leave(world)
        world.ledger.close()
        for node in world.nodes.values():
            node.store.close()
        for kind, file in (("broker", directory / FILES["broker"]), ("node", directory / "id" / FILES["node"])):
            schema = SCHEMAS[kind]
            with closing(sqlite3.connect(file)) as database:
                _write(f"{kind}-{schema.number}.sql", "\n".join(database.iterdump()) + "\n")
            dialect = postgresql.dialect()
            made: list[Any] = [CreateTable(table) for table in schema.metadata.sorted_tables]
            made += [
                CreateIndex(one)
                for table in schema.metadata.sorted_tables
                for one in sorted(table.indexes, key=lambda index: str(index.name))
            ]
            text = "".join(f"{str(one.compile(dialect=dialect)).strip()};\n" for one in made)
            _write(f"{kind}-{schema.number}.postgresql.sql", text)


if __name__ == "__main__":
    main()
