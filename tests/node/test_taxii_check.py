"""The check of a store looks into the TAXII collections too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from node.checktaxii import check_taxii
from node.core import NodeCore
from node.formats.stix import objects_of
from node.projection import catch_up
from node.reading import snapshot
from node.tables import inbox, taxii_listed, taxii_objects
from protocol.report import Body
from tests.node.test_expiry import SOON, ends, expire
from tests.node.world import Broker, Clock, foreign, released


def found(core: NodeCore) -> list[tuple[str, str]]:
    with snapshot(core.store) as reads:
        return [(finding.what, finding.reason) for finding in check_taxii(reads)]


@pytest.fixture
def shown(core: NodeCore, broker: Broker, clock: Clock) -> NodeCore:
    """Reports of which one was revised, one withdrawn, one has expired, and one has just arrived."""
    revised, withdrawn = uuid4(), uuid4()
    for envelope in (
        foreign(report_id=revised),
        foreign(report_id=revised, revision=2),
        foreign(report_id=withdrawn),
        foreign(**ends()),
    ):
        core.receive([broker.delivery(released(envelope))])
    catch_up(core.store, objects_of, clock)
    core.receive([broker.delivery(released(foreign(report_id=withdrawn, revision=2, phase="withdrawn", body=Body())))])
    clock.now = SOON
    assert expire(core) == 1
    catch_up(core.store, objects_of, clock)
    core.receive([broker.delivery(released(foreign()))])
    return core


def test_a_sound_store_has_no_finding(shown: NodeCore) -> None:
    assert found(shown) == []


def _add_back(db: Connection) -> None:
    """Something of a report that has ended."""
    source = db.execute(select(inbox.c.seq).where(inbox.c.presentation == "")).scalars().first()
    row = dict(db.execute(select(taxii_objects).where(taxii_objects.c.source > 0)).first()._mapping)  # type: ignore[union-attr]
    db.execute(insert(taxii_objects), [{**row, "source": source, "added_at": 7, "ended": False}])


def _say_again(db: Connection) -> None:
    """What an indicator of a report that has ended said."""
    ended = update(taxii_objects).where(taxii_objects.c.ended, taxii_objects.c.type == "indicator")
    said = b'{"type":"indicator","id":"indicator--1","created":"2026-05-04T08:00:00.000Z","pattern":"[x:y = 1]"}'
    db.execute(ended.values(object=said))


DAMAGES: list[tuple[Callable[[Connection], Any], str]] = [
    (lambda db: db.execute(update(taxii_objects).where(taxii_objects.c.source == 1).values(object=b"{}")), "differs"),
    (lambda db: db.execute(delete(taxii_objects).where(taxii_objects.c.source == 1)), "missing"),
    (lambda db: db.execute(update(taxii_listed).where(taxii_listed.c.source == 1).values(tlp=0)), "differs"),
    (lambda db: db.execute(delete(taxii_listed).where(taxii_listed.c.source == 1)), "differs"),
    (lambda db: db.execute(delete(inbox).where(inbox.c.seq == 1)), "orphan"),
    (_add_back, "wrong-state"),
    (_say_again, "wrong-state"),
]


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_each_damage_is_found(shown: NodeCore, number: int) -> None:
    damage, reason = DAMAGES[number]
    with shown.store.engine.begin() as connection:
        damage(connection)
    assert {said for _, said in found(shown)} == {reason}
