"""The log's loop and requests, over a real bus: news come at once, and who waits for them keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import app, sequencer, setup
from broker.app import Broker
from broker.config import load_config
from broker.metrics import Metrics
from broker.ownkey import load_records
from broker.sequencer import METHODS, WAITING_PER_MEMBER, Sequencer, holds
from protocol import bus as bus_module
from protocol import logrpc, natsauth, subjects
from protocol.bus import NatsBus
from protocol.errors import ConfigError, ProtocolError
from protocol.invitation import load_invitation
from protocol.keys import SigningKey, unb64
from protocol.logrpc import ConsistencyAnswer, NextAnswer, ProveAnswer
from protocol.merkle import EMPTY_ROOT, tree_root, verify_consistency, verify_inclusion
from protocol.notes import cosign, open_checkpoint, parse_checkpoint, parse_note
from protocol.reasons import Reason
from protocol.registry import Member, Registry
from protocol.subjects import Kind
from protocol.tiles import TileReader, split_bundle, tiles_of
from tests.broker.test_log import Place
from tests.natshelp import Region, eventually, region
from tests.protocol.make import DAY, NOW, key_of, refused

LONG = logrpc.LONGEST_WAIT


class Service:
    """A sequencer on a real bus, whose clock the test moves."""

    def __init__(self, place: Place, bus: Region) -> None:
        self.place = place
        self.bus = bus
        self.metrics = Metrics()
        self.sequencer = Sequencer(
            place.log, read=self.inline, write=self.inline, clock=lambda: place.now, metrics=self.metrics
        )

    async def inline(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    async def handle(self, subject: str, data: bytes) -> bytes:
        member, method = subjects.parse_rpc(subject)
        if method in METHODS:
            return await self.sequencer.answer(member, method, data)
        return f"{method} for {member}".encode()

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[tuple[Service, NatsBus]]:
    """A service and one member's connection to it."""
    async with region(tmp_path, ["id-cert"]) as bus:
        service = Service(Place(tmp_path), bus)
        broker = await bus.broker()
        await broker.serve(subjects.RPC_FROM_ANY_MEMBER, service.handle, holds)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(service.sequencer.run())
            yield service, await bus.member("id-cert")
            running.cancel()


async def ask(member: NatsBus, method: str, **request: Any) -> bytes:
    return await member.request(subjects.rpc(method), json.dumps(request).encode(), 30.0)


async def ask_next(member: NatsBus, **request: Any) -> NextAnswer:
    return msgspec.json.decode(await ask(member, logrpc.NEXT, **request), type=NextAnswer)


def cosignature(note: str, member: str, key: SigningKey, now: Any) -> dict[str, Any]:
    body = parse_note(note).text
    return {
        "size": parse_checkpoint(body).size,
        "line": cosign(body, member, key, key.public, now).encode(),
    }


async def test_who_waits_hears_of_it_at_once(tmp_path: Path) -> None:
    """Of the next checkpoint, and of its quorum, on one request each."""
    async with serving(tmp_path) as (service, member):
        place = service.place
        waiting = asyncio.create_task(ask_next(member, size=0, wait=LONG))
        await eventually(lambda: service.sequencer._waiting["id-cert"] == 1)
        place.fill(3)
        service.sequencer.wake()
        answer = await waiting
        assert place.opened(answer.checkpoint).checkpoint.size == 3
        waiting = asyncio.create_task(ask_next(member, size=3, wait=LONG))
        await eventually(lambda: service.sequencer._waiting["id-cert"] == 1)
        key = {name: key_of(name) for name in ("id-cert", "sg-cert", "my-cert")}
        for name in ("sg-cert", "my-cert"):
            place.log.cosign(name, cosignature(answer.checkpoint, name, key[name], place.now)["line"], 3, place.now)
        assert (
            await ask(member, logrpc.COSIGN, **cosignature(answer.checkpoint, "id-cert", key["id-cert"], NOW)) == b"{}"
        )
        assert place.opened((await waiting).published).witnesses.keys() == set(key)
        assert service.value("kentongan_broker_log_cosignatures_total", member="id-cert") == 1
        assert service.value("kentongan_broker_log_quorum_seconds_count") == 1
        await service.sequencer._show()
        assert service.value("kentongan_broker_log_published_size") == service.value("kentongan_broker_log_size") == 3


async def test_an_answer_without_news_comes_when_the_wait_is_over(tmp_path: Path) -> None:
    """Empty; and nobody is counted as waiting any more."""
    async with serving(tmp_path) as (service, member):
        assert await ask_next(member, size=0, wait=0.01) == NextAnswer()
        assert await ask_next(member, size=0) == NextAnswer()
        assert service.sequencer._waiting["id-cert"] == 0


async def test_waiting_requests_keep_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more of them than are served at once, another one is answered; a third of one member is not held back."""
    monkeypatch.setattr(bus_module, "SERVED_AT_ONCE", 1)
    async with serving(tmp_path) as (service, member):
        held = [asyncio.create_task(ask_next(member, size=0, wait=LONG)) for _ in range(WAITING_PER_MEMBER)]
        await eventually(lambda: service.sequencer._waiting["id-cert"] == WAITING_PER_MEMBER)
        for _ in range(3):
            assert await ask(member, "region") == b"region for id-cert"
        assert await ask_next(member, size=0, wait=LONG) == NextAnswer()
        assert not any(task.done() for task in held), "the third was answered before the first"
        service.place.fill(1)
        service.sequencer.wake()
        assert all(answer.checkpoint for answer in await asyncio.gather(*held))


async def test_requests_about_the_log(tmp_path: Path) -> None:
    """Each method, as a node uses it, and what is refused."""
    async with serving(tmp_path) as (service, member):
        place = service.place
        place.grow(300)
        root = place.newest().checkpoint.root
        proof = msgspec.json.decode(await ask(member, logrpc.PROVE, size=300, leaves=[0, 299]), type=ProveAnswer)
        entries = split_bundle(await ask(member, logrpc.TILE, path="tile/entries/000"), 256)
        entries += split_bundle(await ask(member, logrpc.TILE, path="tile/entries/001.p/44"), 44)
        for leaf, path in zip((0, 299), proof.paths, strict=True):
            verify_inclusion(entries[leaf], leaf, 300, [unb64(item) for item in path], root)
        tiles = {path: await ask(member, logrpc.TILE, path=path.encode()) for path in tiles_of(300)}
        assert tree_root(300, TileReader(300, tiles.__getitem__)) == root
        consistency = msgspec.json.decode(await ask(member, logrpc.CONSISTENCY, old=0, new=300), type=ConsistencyAnswer)
        verify_consistency(0, EMPTY_ROOT, 300, root, [unb64(item) for item in consistency.path])
        for method, request, reason in (
            (logrpc.NEXT, {"size": 301}, Reason.OUT_OF_RANGE),
            (logrpc.NEXT, {"size": 0, "wait": LONG + 1}, Reason.OUT_OF_RANGE),
            (logrpc.NEXT, {"size": 0, "more": 1}, Reason.UNKNOWN_FIELD),
            (logrpc.PROVE, {"size": 300, "leaves": []}, Reason.OUT_OF_RANGE),
            (logrpc.PROVE, {"size": 300, "leaves": [0] * 257}, Reason.OUT_OF_RANGE),
            (logrpc.CONSISTENCY, {"old": 2, "new": 301}, Reason.OUT_OF_RANGE),
            (logrpc.TILE, {"path": "tile/0/002"}, Reason.UNKNOWN_PATH),
            (logrpc.COSIGN, {"size": 300, "line": "x"}, Reason.MALFORMED_NOTE),
        ):
            with refused(reason):
                await ask(member, method, **request)
        assert service.value("kentongan_broker_log_cosignatures_refused_total", reason="malformed-note") == 1


async def test_a_full_answer_fits_a_message(tmp_path: Path) -> None:
    """The most proofs that one may ask for."""
    async with serving(tmp_path) as (service, member):
        service.place.grow(5000)
        answer = msgspec.json.decode(
            await ask(member, logrpc.PROVE, size=5000, leaves=list(range(256))), type=ProveAnswer
        )
        assert len(answer.paths) == 256


# --- the whole broker -------------------------------------------------------------------------------------------


async def test_a_running_broker_logs_what_it_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submission, checkpoint, cosignature, publication: through its own loops; and the same log after a restart."""
    # No tick: what is not told is not done.
    monkeypatch.setattr(sequencer, "ROUND", 3600.0)
    monkeypatch.setattr("broker.log.ROUND", 0.0)
    directory = tmp_path / "broker"
    setup.init(directory, "test", http_port=0, nats_port=0)
    settings = (directory / "broker.toml").read_text()
    settings = settings.replace('\nmode = "embedded"', '\nmode = "embedded"\npublic_url = "nats://unused"')
    (directory / "broker.toml").write_text(settings)
    key = SigningKey.from_seed(os.urandom(32))
    seed = natsauth.create_seed(natsauth.Role.USER, os.urandom(natsauth.SEED_ENTROPY))
    config = load_config(directory)
    now = app._utc()
    member = Member(
        id="id-cert",
        jurisdiction="id",
        name="CERT of id",
        keys=[key.record(now - DAY, now + DAY)],
        transport=natsauth.public_of(seed, natsauth.Role.USER),
    )
    (tmp_path / "member.json").write_bytes(msgspec.json.encode(member))
    setup.admit(directory, tmp_path / "member.json", [], tmp_path / "invitation.json")
    creds = tmp_path / "nats.creds"
    creds.write_text(natsauth.format_creds(load_invitation(tmp_path / "invitation.json").user_jwt, seed))
    creds.chmod(0o600)

    @asynccontextmanager
    async def running() -> AsyncIterator[tuple[Broker, NatsBus]]:
        broker, ready = Broker(config, *setup.load_keys(config)), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            process = tasks.create_task(broker.run(ready.set))
            await ready.wait()
            assert broker.nats
            stream = subjects.inbox_stream("id-cert")
            bus = await NatsBus.connect(
                broker.nats.url, creds=creds, name="node", stream=stream, consumer=subjects.NODE_CONSUMER
            )
            try:
                yield broker, bus
            finally:
                await bus.close()
                process.cancel()

    def read(broker: Broker, note: str) -> Any:
        registry: Registry = broker.state.registry
        return open_checkpoint(note, registry.log_keys(), registry.witness_keys(), app._utc())

    async with running() as (broker, bus):
        # The founding of the region and the admission are the first leaves.
        answer = await ask_next(bus, size=0)
        assert read(broker, answer.checkpoint).checkpoint.size == 2
        await ask(bus, logrpc.COSIGN, **cosignature(answer.checkpoint, "id-cert", key, app._utc()))
        waiting = asyncio.create_task(ask_next(bus, size=2, published=2, wait=LONG))
        await bus.publish(subjects.INTAKE, Kind.SUBMISSION, b"nonsense, which is refused with a receipt")
        answer = await waiting
        assert read(broker, answer.checkpoint).checkpoint.size == 3
        await ask(bus, logrpc.COSIGN, **cosignature(answer.checkpoint, "id-cert", key, app._utc()))
        published = (await ask_next(bus, size=3, published=2, wait=LONG)).published
        assert read(broker, published).witnesses.keys() == {"id-cert"}
        numbers = await broker.read(broker.numbers)
        assert numbers["log"] == {"size": 3, "published": 3, "cosigned_by": 1, "witnesses": 1, "quorum": 1}
        with pytest.raises(ProtocolError):
            await ask(bus, "log.nothing")
    async with running() as (broker, bus):
        assert (await ask_next(bus, size=0)).published == published
        other = tmp_path / "other"
        setup.init(other, "renamed", http_port=0, nats_port=0)
        for name in ("000000.json", "000001.json"):
            (directory / "governance" / name).unlink()
        shutil.copy(other / "governance" / "000000.json", directory / "governance")
        shutil.copytree(other / "keys", directory / "keys", dirs_exist_ok=True, ignore=lambda *_: ["nats"])
        broker._records = load_records(config)
        with pytest.raises(ConfigError, match="put the name back"):
            broker._load_state()
