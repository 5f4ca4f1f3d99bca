"""The broker's loops: what is acknowledged was committed, and what trips a bug is not met again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from broker import setup, tables
from broker.app import Broker
from broker.config import load_config
from broker.store import Connection, Store
from protocol.errors import Transient
from protocol.subjects import Kind, intake
from protocol.transport import Message


class Line:
    """A bus that remembers what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[Message] = []

    async def ack(self, messages: Sequence[Message]) -> None:
        self.acknowledged += messages


class FullDisk(Store):
    """A ledger whose disk takes nothing."""

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        raise Transient("ledger: full")
        yield


@pytest.fixture
def broker(tmp_path: Path) -> Broker:
    setup.init(tmp_path, "test", http_port=0, nats_port=0)
    config = load_config(tmp_path)
    return Broker(config, *setup.load_keys(config))


def message(data: bytes) -> Message:
    return Message(intake("id"), Kind.SUBMISSION, data, "ack.here")


async def test_what_was_not_committed_is_not_acknowledged(broker: Broker) -> None:
    """The bus gives it again when the disk has room."""
    line: Any = Line()
    broker._ingest._store = FullDisk(broker._store.engine)
    with pytest.raises(Transient):
        await broker._take(line, [message(b"anything")])
    assert not line.acknowledged
    broker._ingest._store = broker._store
    await broker._take(line, [message(b"anything")])
    assert len(line.acknowledged) == 1


async def test_a_message_that_trips_a_bug_is_set_aside_and_the_process_ends(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong in our code: the message is in quarantine, its neighbour is decided, a restart goes on."""
    poison = os.urandom(16).hex().encode()
    process = broker._ingest.process

    def buggy(messages: Any, now: Any) -> Any:
        if any(item.data == poison for item in messages):
            raise KeyError("a bug")
        return process(messages, now)

    monkeypatch.setattr(broker._ingest, "process", buggy)
    line: Any = Line()
    with pytest.raises(KeyError):
        await broker._take(line, [message(poison), message(b"its neighbour")])
    assert len(line.acknowledged) == 2, "or the restarted process would meet it again"
    with broker._store.reading() as connection:
        rows = connection.execute(tables.quarantine.select()).all()
    assert {(row.reason, bytes(row.start)) for row in rows} == {
        ("internal", poison),
        ("unknown-member", b"its neighbour"),
    }
    monkeypatch.undo()
    await broker._take(line, [message(poison)])
    with broker._store.reading() as connection:
        assert connection.execute(tables.submissions.select()).all()[0].refusal == "internal"
        assert len(connection.execute(tables.quarantine.select()).all()) == 2, (
            "sent again, it is answered from the ledger"
        )
