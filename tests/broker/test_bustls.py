"""The embedded bus in TLS, with the real server: who is let in, who is believed, certificates renewed while it runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from broker import busside, bustls, setup
from broker.config import Config, load_config
from broker.governing import load_chain
from broker.natsd import EmbeddedNats
from deploy import cli
from deploy.demo.processes import free_port
from node.config import Config as NodeConfig
from node.config import load_config as load_node
from node.dialling import tls_of
from protocol import certs, natsauth, subjects
from protocol.bus import NatsBus
from protocol.errors import ConfigError
from protocol.invitation import load_invitation
from protocol.keys import unb64


def kentongan(*arguments: str | Path) -> int:
    return cli.main([str(one) for one in arguments], log=False)


def now() -> datetime:
    return datetime.now(UTC)


class Place:
    """A region with a bus in TLS, and one node."""

    def __init__(self, directory: Path) -> None:
        self.home, self.node = directory / "broker", directory / "id"
        port = str(free_port())
        assert kentongan("broker", "init", self.home, "--region", "x", "--tls", "--nats-port", port) == 0
        assert kentongan("node", "init", self.node, "--member", "id-cert") == 0
        invitation = directory / "i.json"
        assert kentongan("broker", "admit", self.home, self.node / "member.json", "--invitation", invitation) == 0
        assert kentongan("node", "join", self.node, invitation) == 0
        self.config: Config = load_config(self.home)
        self.node_config: NodeConfig = load_node(self.node / "node.toml")
        self.server: EmbeddedNats
        self.stack: AsyncExitStack

    async def follow(self) -> None:
        """What a running broker does about new records."""
        state = load_chain(self.config.region, now()).state
        await self.server.set_members(["id-cert"], retired=busside.retired_keys(state, now()))

    async def connect(self, **changes: Any) -> NatsBus:
        """As the node does, but for the changes."""
        invitation = load_invitation(self.node_config.invitation)
        tls = tls_of(self.node_config, invitation)
        assert tls is not None
        bus = await NatsBus.connect(
            changes.pop("url", invitation.url),
            creds=changes.pop("creds", self.node_config.keys / "nats.creds"),
            name="id-cert",
            stream=subjects.inbox_stream("id-cert"),
            consumer=subjects.NODE_CONSUMER,
            tls=replace(tls, **changes) if changes else tls,
        )
        self.stack.push_async_callback(bus.close)
        return bus


async def said(place: Place) -> str:
    """Why a connection is refused; empty if it is not."""
    try:
        await (await place.connect()).close()
    except ConfigError as exc:
        return str(exc)
    return ""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = await asyncio.to_thread(Place, tmp_path)
    async with AsyncExitStack() as stack:
        server = await busside.start_server(made.config, ["id-cert"], [], {}, stack)
        assert isinstance(server, EmbeddedNats)
        made.server, made.stack = server, stack
        yield made


async def test_both_sides_know_each_other(place: Place) -> None:
    """By what the invitation brought, and nothing else."""
    invitation = load_invitation(place.node_config.invitation)
    assert invitation.url.startswith("tls://")
    assert invitation.ca == (place.home / "keys" / "tls" / "ca.pem").read_text()
    assert "PRIVATE" not in msgspec.json.encode(invitation).decode()
    broker = await busside.connect(place.config, place.server)
    place.stack.push_async_callback(broker.close)
    assert (await place.connect()).connected
    assert broker.connected


async def test_without_its_certificate_a_member_is_not_let_in(place: Place) -> None:
    """Nor with one of another authority; its credentials alone are not enough. In plain words."""
    with pytest.raises(ConfigError, match="wants a certificate of this member"):
        await place.connect(certificate=None)
    other = certs.make_authority("another", 1, now())
    private, public = certs.client_key(b"k" * 32)
    forged = place.home / "forged.pem"
    forged.write_bytes(certs.issue_client(other, "id-cert", public, 2, now()) + private)
    with pytest.raises(ConfigError, match="wants a certificate of this member"):
        await place.connect(certificate=forged)
    # What a server shows is no certificate of a client.
    tls = place.home / "keys" / "tls"
    with pytest.raises(ConfigError, match="wants a certificate of this member"):
        await place.connect(certificate=tls / "server.pem", key=tls / "server.key")


async def test_another_server_is_not_believed(place: Place) -> None:
    """One of another authority, or under another name, or without TLS: refused in plain words."""
    other = certs.make_authority("another", 1, now())
    with pytest.raises(ConfigError, match="did not sign"):
        await place.connect(ca_file=None, ca=other.certificate.decode())
    with pytest.raises(ConfigError, match="another name"):
        await place.connect(name="elsewhere.example")
    member = (place.node / "keys" / "nats-certificate.pem").read_bytes()
    certificate, mark, key = member.partition(b"-----BEGIN PRIVATE KEY-----")
    tls = place.home / "keys" / "tls"
    for name, data in (("server.pem", certificate), ("server.key", mark + key)):
        (tls / name).unlink()
        (tls / name).write_bytes(data)
    assert place.server.follow_certificates()
    async with asyncio.timeout(20):
        while "did not sign" not in await said(place):
            await asyncio.sleep(0.05)


async def test_a_bus_in_the_clear_is_not_taken_for_one_in_tls(place: Place) -> None:
    """Whoever sits in between cannot talk the node out of encrypting: it says nothing before that."""
    heard = b""

    async def clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,"nonce":"abcdefghijk"}\r\n')
        heard += await reader.read(100)
        writer.close()

    server = await asyncio.start_server(clear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConfigError, match="does not encrypt"):
        await place.connect(url=f"nats://127.0.0.1:{port}")
    server.close()
    assert heard == b""


async def test_a_certificate_is_renewed_without_a_break(place: Place) -> None:
    """Connections stay, new ones see the new certificate, and who is suspended stays outside."""
    bus = await place.connect()
    states: list[str] = []
    bus._on_state = states.append
    await place.server.set_members(["id-cert", "sg-cert"], suspended=["sg-cert"])
    assert kentongan("broker", "rotate", place.home, "--tls") == 0
    assert place.server.follow_certificates()
    assert not place.server.follow_certificates()
    fresh = certs.read_certificate((place.home / "keys" / "tls" / "server.pem").read_bytes(), "x")
    port = place.server.port

    async def shown() -> int:
        """The serial number that a new connection sees."""
        tls = tls_of(place.node_config, load_invitation(place.node_config.invitation))
        assert tls is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readline()
        await writer.start_tls(tls.context(), server_hostname="127.0.0.1")
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = found.getpeercert()
        writer.close()
        assert certificate is not None
        return int(str(certificate["serialNumber"]), 16)

    async with asyncio.timeout(20):
        while not f"{await shown():x}".startswith(fresh.serial):
            await asyncio.sleep(0.05)
    assert bus.connected
    assert states == []
    assert (await place.connect()).connected
    await bus.renew()
    assert states == []
    assert bus.connected
    assert place.server.behind == 0


async def test_a_certificate_that_has_run_out_is_named(place: Place) -> None:
    """The node says what is wrong and who has to act."""
    tls = place.home / "keys" / "tls"
    pair = certs.issue_server(bustls.authority(place.config.keys), ["127.0.0.1"], 7, now() - timedelta(days=366))
    for name, data in (("server.pem", pair.certificate), ("server.key", pair.key)):
        (tls / name).unlink()
        (tls / name).write_bytes(data)
    place.server.follow_certificates()
    async with asyncio.timeout(20):
        # A server that takes new files refuses those who come at that moment, with other words.
        while "run out" not in await said(place):
            await asyncio.sleep(0.05)


def test_the_bus_is_encrypted_unless_only_this_machine_reaches_it(tmp_path: Path) -> None:
    """By default; a server on an open address without TLS says so when it starts."""
    for host, tls in (
        ("127.0.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("::", True),
        ("10.0.0.1", True),
    ):
        place = tmp_path / host.replace(":", "-")
        setup.init(place, "x", host=host)
        config = load_config(place)
        assert (config.nats.tls_cert is not None) == tls, host
    names = certs.names_of((tmp_path / "10.0.0.1" / "keys" / "tls" / "server.pem").read_bytes(), "x")
    assert names[:2] == ["10.0.0.1", "localhost"]


async def test_an_open_bus_says_so(tmp_path: Path) -> None:
    """Once, at the start."""
    setup.init(tmp_path / "b", "x", host="0.0.0.0", nats_port=free_port(), tls=False)  # noqa: S104 - that is the test
    async with AsyncExitStack() as stack:
        with capture_logs() as logs:
            await busside.start_server(load_config(tmp_path / "b"), [], [], {}, stack)
    assert [line["event"] for line in logs] == ["nats.not_encrypted"]


def test_what_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Certificates stand in the lists of keys, on both sides."""
    place = Place(tmp_path)
    capsys.readouterr()
    assert kentongan("broker", "keys", place.home) == 0
    said = capsys.readouterr().out
    assert "authority" in said
    assert "certificate" in said
    assert kentongan("node", "keys", place.node) == 0
    assert "shown to the bus" in capsys.readouterr().out
    assert kentongan("broker", "keys", place.home, "--within", "366d") == 1


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    """Refused with the setting to be written."""
    setup.init(tmp_path / "b", "x", tls=True)
    file = tmp_path / "b" / "broker.toml"
    text = file.read_text()
    file.write_text("\n".join(line for line in text.splitlines() if not line.startswith("tls_key")))
    with pytest.raises(ConfigError, match="both tls_cert and tls_key"):
        load_config(tmp_path / "b")
    file.write_text(text)
    (tmp_path / "b" / "keys" / "tls" / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"ca\.key"):
        bustls.server_tls(load_config(tmp_path / "b"))


async def test_a_lost_key_of_the_connection_is_replaced_by_files(place: Place, tmp_path: Path) -> None:
    """By the member's own signature, or the trustees': one administrator gets back in; the lost key opens nothing."""
    await (await place.connect()).close()
    keys, old = place.node / "keys", tmp_path / "old.creds"
    old.write_bytes((keys / "nats.creds").read_bytes())
    old.chmod(0o400)
    for name in ("nats.seed", "nats.creds", "nats-certificate.pem"):
        (keys / name).unlink()
    first, second, invitation = tmp_path / "1.json", tmp_path / "2.json", tmp_path / "again.json"
    # A record that the node does not know comes first: its own is refused at its place, and signed again.
    assert kentongan("broker", "propose", place.home, "quorum", "1") == 0
    assert kentongan("node", "rotate", place.node, "--transport", "--offline", first) == 0
    assert kentongan("broker", "record", place.home, first) == 2
    assert kentongan("broker", "invite", place.home, "id-cert", tmp_path / "newer.json") == 0
    newer = ("--invitation", tmp_path / "newer.json")
    assert kentongan("node", "rotate", place.node, "--transport", "--offline", second, *newer) == 0
    seed = (keys / "nats-next.seed").read_text()
    assert seed not in unb64(msgspec.json.decode(second.read_bytes())["payload"]).decode()
    assert kentongan("broker", "record", place.home, second) == 0
    assert kentongan("broker", "invite", place.home, "id-cert", invitation) == 0
    assert kentongan("node", "join", place.node, tmp_path / "newer.json") == 2
    assert kentongan("node", "join", place.node, invitation) == 0
    assert not (keys / "nats-next.seed").exists()
    await place.follow()
    await (await place.connect()).close()
    with pytest.raises(ConfigError, match="refused"):
        await place.connect(creds=old)
    # The other way: the trustees list the key that its new member.json names.
    member = msgspec.json.decode((place.node / "member.json").read_bytes())
    seed = natsauth.create_seed(natsauth.Role.USER, b"n" * 32)
    member["transport"] = natsauth.public_of(seed, natsauth.Role.USER)
    (tmp_path / "member.json").write_bytes(msgspec.json.encode(member))
    assert kentongan("broker", "propose", place.home, "keys", tmp_path / "member.json") == 0
    assert setup.load_region(place.home).members[0].transport == member["transport"]
    await place.follow()
    with pytest.raises(ConfigError, match="refused"):
        await place.connect()


async def test_an_invitation_of_another_region_does_not_replace_the_pinned_one(place: Place, tmp_path: Path) -> None:
    """Whoever hands in a file must not move a node to a region of his own."""
    other = tmp_path / "other"
    assert kentongan("broker", "init", other, "--region", "x", "--tls") == 0
    assert kentongan("broker", "admit", other, place.node / "member.json", "--invitation", tmp_path / "o.json") == 0
    before = place.node_config.invitation.read_bytes()
    assert kentongan("node", "join", place.node, tmp_path / "o.json") == 2
    assert place.node_config.invitation.read_bytes() == before


async def test_another_authority_comes_beside_the_present_one(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Both count until it is finished, and the lost key of the old one does not matter; then the new one alone."""
    tls = place.home / "keys" / "tls"
    (tls / "ca.key").unlink()
    assert kentongan("broker", "rotate", place.home, "--authority", "--finish") == 2
    assert kentongan("broker", "rotate", place.home, "--authority") == 0
    assert kentongan("broker", "rotate", place.home, "--authority") == 2
    capsys.readouterr()
    assert kentongan("broker", "keys", place.home) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if " authority " in line]
    assert [("current" in line, "overlap" in line) for line in shown] == [(True, False), (False, True)]
    assert place.server.follow_certificates()
    # The node has a certificate of the old one, and believes the old one alone.
    await (await place.connect()).close()
    broker = await busside.connect(place.config, place.server)
    place.stack.push_async_callback(broker.close)
    assert kentongan("broker", "rotate", place.home, "--authority", "--finish") == 0
    assert place.server.follow_certificates()
    async with asyncio.timeout(20):
        while "did not sign" not in await said(place):
            await asyncio.sleep(0.05)
    assert bustls.ca_text(place.config) == (tls / "ca.pem").read_text()
    assert (tls / "ca.pem").read_text().count("BEGIN") == 1
    # With the new one believed, the old certificate of the node is still nothing.
    with pytest.raises(ConfigError, match="wants a certificate of this member"):
        await place.connect(ca_file=tls / "ca.pem")
    await broker.renew()
