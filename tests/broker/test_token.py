"""The broker's signing key in a token: a real PKCS#11 module (SoftHSM) under a real broker and its bus."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from broker import setup
from broker import token as keeping
from broker.app import Broker
from broker.config import Config, load_config
from broker.governing import load_chain
from broker.ownkey import present_kid
from broker.renewal import current_key
from broker.token import patiently
from protocol import logrpc, natsauth, subjects
from protocol.bus import NatsBus
from protocol.errors import ConfigError, Transient
from protocol.hsm import HsmKey
from protocol.invitation import load_invitation
from protocol.jws import split_jws
from protocol.keys import SigningKey, write_secret
from protocol.notes import open_checkpoint
from protocol.registry import Member, open_region
from protocol.statements import Receipt, open_statement
from protocol.subjects import Kind
from protocol.transport import Message
from tests.natshelp import eventually
from tests.softhsm import MODULE, PIN, Token, kentongan

DAY = timedelta(days=1)


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Place:
    """A region with one member, its files."""

    home: Path
    creds: Path
    secret: str

    @property
    def config(self) -> Config:
        return load_config(self.home)

    @property
    def region(self) -> Any:
        return load_chain(self.home, now()).state.region


def settle(directory: Path, signing: str | None) -> Place:
    """As an operator does it: init, admit."""
    home, creds = directory / "broker", directory / "nats.creds"
    secret, _ = setup.init(home, "test", http_port=0, nats_port=0, signing=signing)
    settings = (home / "broker.toml").read_text()
    (home / "broker.toml").write_text(settings.replace('\nmode = "e', '\npublic_url = "nats://unused"\nmode = "e'))
    seed = natsauth.create_seed(natsauth.Role.USER, os.urandom(natsauth.SEED_ENTROPY))
    member = Member(
        id="id-cert",
        jurisdiction="id",
        name="CERT of id",
        keys=[SigningKey.from_seed(bytes(32)).record(now() - DAY, now() + DAY)],
        transport=natsauth.public_of(seed, natsauth.Role.USER),
    )
    (directory / "member.json").write_bytes(msgspec.json.encode(member))
    setup.admit(home, directory / "member.json", [], directory / "invitation.json")
    write_secret(
        creds, natsauth.format_creds(load_invitation(directory / "invitation.json").user_jwt, seed).encode("ascii")
    )
    return Place(home, creds, secret)


@dataclass
class Running:
    """A broker that runs here, and the connection of its one member."""

    place: Place
    broker: Broker
    bus: NatsBus
    http: aiohttp.ClientSession
    receipts: list[str] = field(default_factory=list)

    async def send(self, text: str) -> None:
        """Something that is refused with a receipt: what the broker says of it is signed all the same."""
        await self.bus.publish(subjects.INTAKE, Kind.SUBMISSION, text.encode())

    async def answered(self, number: int) -> None:
        """So many receipts in all are here."""
        while len(self.receipts) < number:
            messages = await self.bus.pull(10, 5.0)
            for message in messages:
                self.receipts += msgspec.json.decode(message.data) if message.kind == Kind.RECEIPTS else []
            await self.bus.ack(messages)

    def signers(self) -> list[str]:
        """Who signed each receipt: all of them verify."""
        find = self.broker.state.registry.keys.find
        for one in self.receipts:
            open_statement(one, Receipt, find, now())
        return [split_jws(one, Receipt.typ).kid for one in self.receipts]

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(path) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def running(place: Place) -> AsyncIterator[Running]:
    broker, ready = Broker(place.config, *setup.load_keys(place.config)), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        process = tasks.create_task(broker.run(ready.set))
        await ready.wait()
        assert broker.nats
        stream = subjects.inbox_stream("id-cert")
        bus = await NatsBus.connect(
            broker.nats.url, creds=place.creds, name="node", stream=stream, consumer=subjects.NODE_CONSUMER
        )
        headers = {"Authorization": f"Bearer {place.secret}"}
        try:
            async with aiohttp.ClientSession(broker.api.url, headers=headers) as http:
                yield Running(place, broker, bus, http)
        finally:
            await bus.close()
            process.cancel()


async def test_the_broker_signs_with_it_loses_nothing_without_it_and_moves_on(
    token: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts, checkpoints, the region; pulled out, put in; the next key, live; a restart before it is set."""
    monkeypatch.setattr(keeping, "LOOK", 0.1)
    monkeypatch.setattr(keeping, "IDLE", 2)
    first, second = token.uri("broker"), token.uri("broker-next")
    place = await asyncio.to_thread(settle, tmp_path, first)
    assert not list((place.home / "keys").glob("signing*"))
    old = present_kid(place.config)
    with capture_logs() as logged:
        async with running(place) as up:
            await up.send("first")
            await up.answered(1)
            assert up.signers() == [old]
            log_keys = up.broker.state.registry.log_keys()
            answer = await up.bus.request(subjects.rpc(logrpc.NEXT), b'{"size":0}', 5.0)
            note = msgspec.json.decode(answer, type=logrpc.NextAnswer).checkpoint
            assert open_checkpoint(note, log_keys, {}, now()).checkpoint.size >= 2
            document = await up.bus.request(subjects.rpc("region"), b"", 5.0)
            open_region(document.decode(), up.broker.state.registry.keys, now())
            assert await up.get("/readyz") == (200, {"ready": True, "bus": True, "signing": True})

            token.pull_out()
            try:
                await up.send("second")
                await eventually(lambda: up.broker.key.away != "")
                assert await up.get("/readyz") == (503, {"ready": False, "bus": True, "signing": False})
                assert "cannot sign: the token 'CERT'" in (await up.get("/v1/status"))[1]["cannot_sign"]
                with pytest.raises(Transient):
                    await up.bus.request(subjects.rpc("region"), b"", 0.5)
                assert (await up.get("/healthz"))[0] == 200
                assert len(await up.broker.read(rows, up.broker)) == len(up.receipts)
            finally:
                token.put_in()
            await up.answered(2)
            assert (await up.get("/readyz"))[0] == 200
            # It is noticed, too, when nothing is signed.
            token.pull_out()
            try:
                await eventually(lambda: up.broker.key.away != "")
            finally:
                token.put_in()
            await eventually(lambda: up.broker.key.away == "")

            code, said = await asyncio.to_thread(kentongan, "broker", "rotate", place.home, "--signing", second)
            assert (code, "made the signing key" in said, f'signing = "{second}"' in said) == (0, True, True)
            sent = 2
            while up.broker._signer.kid == old:
                sent += 1
                await up.send(f"number {sent}")
                await up.answered(sent)
            await up.send("last")
            await up.answered(sent + 1)
            new = present_kid(place.config)
            assert list(dict.fromkeys(up.signers())) == [old, new]
        async with running(place) as up:
            await up.send("after the restart")
            await up.answered(1)
            assert up.signers() == [new]
    told = [line["event"] for line in logged if line["event"].startswith("broker.") and "sign" in line["event"]]
    assert told == ["broker.cannot_sign", "broker.signs_again"] * 2
    settings = (place.home / "broker.toml").read_text()
    (place.home / "broker.toml").write_text(settings.replace(f'"{first}"', f'"{second}"'))
    with closing(setup.load_keys(place.config)[0]) as key:
        assert (key.kid, key.uri) == (new, second)
    code, said = kentongan("broker", "keys", place.home)
    assert (code, f"{new} is in a token: {second}" in said) == (1, True), "the old key ends within 30 days"


def rows(broker: Broker) -> list[Any]:
    with broker._store.reading() as connection:
        query = "SELECT receipt FROM submissions WHERE member = 'id-cert'"
        return list(connection.exec_driver_sql(query))


class Line:
    """A bus that remembers what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[Message] = []

    async def ack(self, messages: Sequence[Message]) -> None:
        self.acknowledged += messages


async def test_what_could_not_be_signed_is_not_decided(token: Token, tmp_path: Path) -> None:
    """Nothing is committed, nothing acknowledged; and only who looks for the token asks it again."""
    setup.init(tmp_path, "test", http_port=0, nats_port=0, signing=token.uri("decides"))
    broker = Broker(load_config(tmp_path), *setup.load_keys(load_config(tmp_path)))
    line: Any = Line()
    message = Message(subjects.intake("id-cert"), Kind.SUBMISSION, b"anything", "ack.here")
    token.pull_out()
    try:
        with pytest.raises(Transient):
            await broker._take(line, [message])
    finally:
        token.put_in()
    with pytest.raises(Transient, match="cannot sign"):
        await broker._take(line, [message])
    assert (line.acknowledged, rows(broker)) == ([], [])
    broker._signer.now.look()
    await broker._take(line, [message])
    assert (len(line.acknowledged), len(rows(broker))) == (1, 1)
    broker._signer.close()


async def test_what_starts_without_it_waits_for_it(
    token: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine may be up before its token; a wrong PIN ends the start at once."""
    monkeypatch.setattr(keeping, "LOOK", 0.05)
    setup.init(tmp_path / "broker", "test", signing=token.uri("late"))
    config = load_config(tmp_path / "broker")
    token.pull_out()
    with capture_logs() as logged:
        try:
            waiting = asyncio.create_task(patiently(lambda: setup.load_keys(config)))
            await eventually(lambda: any(line["event"] == "broker.cannot_sign" for line in logged))
        finally:
            token.put_in()
        key, _ = await waiting
    key.close()
    write_secret(token.home / "pin-of-another", b"000000")
    settings = (tmp_path / "broker" / "broker.toml").read_text()
    (tmp_path / "broker" / "broker.toml").write_text(settings.replace("/pin", "/pin-of-another"))
    with pytest.raises(ConfigError, match="refuses the PIN"):
        await patiently(lambda: setup.load_keys(load_config(tmp_path / "broker")))


def test_from_a_file_into_a_token_and_to_the_next(token: Token, tmp_path: Path) -> None:
    """The trustees' record moves it; a kill in between leaves it to be done again; what does not hold is refused."""
    home, uri = tmp_path / "broker", token.uri("second-life")
    setup.init(home, "test")
    old = present_kid(load_config(home))
    for arguments, says in [
        (["--signing", "pkcs11:object=x"], "the URI names a token"),
        (["--signing", uri, "--tls"], "one after the other"),
    ]:
        code, said = kentongan("broker", "rotate", home, *arguments)
        assert (code, says in said) == (2, True), said
    (home / "keys" / "trustee.pem").rename(tmp_path / "trustee.pem")
    code, said = kentongan("broker", "rotate", home, "--signing", uri)
    assert (code, "1 more of the trustees" in said) == (0, True)
    code, said = kentongan("broker", "rotate", home)
    assert (code, "signing-next.json: a renewal is open" in said) == (2, True)
    with closing(setup.load_keys(load_config(home))[0]) as key:
        assert key.kid == old
    (proposal,) = (home / "proposals").iterdir()
    assert kentongan("members", "approve", proposal, "--key", tmp_path / "trustee.pem", "--yes")[0] == 0
    assert kentongan("broker", "record", home, proposal)[0] == 0
    waits = (home / "keys" / "signing-next.json").read_bytes()
    region = load_chain(home, now()).state.region
    for _ in range(2):
        with closing(current_key(load_config(home), region)) as key:
            assert (key.kid, key.uri) == (json.loads(waits)["kid"], uri)
        assert not (home / "keys" / "signing-next.json").exists()
        (home / "keys" / "signing-next.json").write_bytes(waits)
    with closing(setup.load_keys(load_config(home))[0]) as key:
        assert key.kid != old
    for arguments, says in [([], "another object label"), (["--signing", uri], "is the key in use")]:
        code, said = kentongan("broker", "rotate", home, *arguments)
        assert (code, says in said) == (2, True), said
    # Lost: another takes its place all the same.
    module = pytest.importorskip("pkcs11")
    with module.lib(str(MODULE)).get_token(token_label="CERT").open(rw=True, user_pin=PIN) as session:
        for half in session.get_objects({module.Attribute.LABEL: "second-life"}):
            half.destroy()
    with pytest.raises(ConfigError, match="has not the key 'second-life'"):
        setup.load_keys(load_config(home))
    code, said = kentongan("broker", "rotate", home, "--signing", token.uri("third-life"))
    assert code == 0, said
    (proposal,) = [path for path in (home / "proposals").iterdir() if path != proposal]
    assert kentongan("members", "approve", proposal, "--key", tmp_path / "trustee.pem", "--yes")[0] == 0
    assert kentongan("broker", "record", home, proposal)[0] == 0
    with closing(setup.load_keys(load_config(home))[0]) as key:
        assert key.uri == token.uri("third-life")
    settings = (home / "broker.toml").read_text()
    (home / "broker.toml").write_text(f'signing = "{token.uri("unlisted")}"\n{settings}')
    HsmKey.make(token.uri("unlisted"))[0].close()
    with pytest.raises(ConfigError, match="does not list the key"):
        setup.load_keys(load_config(home))
    (home / "broker.toml").write_text(f'signing = "signing.pem"\n{settings}')
    with pytest.raises(ConfigError, match=r"broker.toml: signing: .*named by a URI"):
        load_config(home)


def test_a_record_that_not_all_may_see_is_closed_with_it(token: Token, tmp_path: Path) -> None:
    """The broker's key carries it, wherever that is; and the region goes on from there."""
    home = settle(tmp_path, token.uri("carrier")).home
    member = Member(
        id="sg-cert", jurisdiction="sg", name="CERT of sg", keys=[SigningKey.generate().record(now(), now() + DAY)]
    )
    (tmp_path / "hidden.json").write_bytes(msgspec.json.encode(member))
    setup.admit(home, tmp_path / "hidden.json", [], None, [])
    chain = load_chain(home, now())
    assert chain.seers[-1] is not None
    assert chain.state.member("sg-cert").hidden


def test_a_trustee_signs_with_a_token(token: Token, tmp_path: Path) -> None:
    """Its key never was in a file: a founding, and a member."""
    uri = token.uri("ministry")
    made = ["trustee", "init", tmp_path / "t", "--id", "ministry-id", "--name", "Ministry", "--signing", uri]
    code, said = kentongan(*made, "--algorithm", "ML-DSA-65")
    assert (code, "leave out --algorithm" in said) == (2, True)
    code, said = kentongan(*made)
    assert (code, "in the token: keep that" in said) == (0, True), said
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["trustee.json"]
    home = tmp_path / "broker"
    assert kentongan("broker", "init", home, "--region", "test", "--trustee", tmp_path / "t" / "trustee.json")[0] == 0
    founding = home / setup.FOUNDING
    code, said = kentongan("members", "approve", founding, "--signing", token.uri("stranger"), "--yes")
    assert (code, "has not the key" in said) == (2, True), said
    code, said = kentongan("members", "approve", founding, "--signing", uri)
    assert (code, "Nothing is signed yet" in said) == (0, True), said
    assert kentongan("broker", "record", home, founding)[0] == 2
    assert kentongan("members", "approve", founding, "--signing", uri, "--yes")[0] == 0
    assert kentongan("broker", "record", home, founding)[0] == 0
    (trustee,) = load_chain(home, now()).state.trustees
    assert trustee.id == "ministry-id"
