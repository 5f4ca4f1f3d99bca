"""Three real servers from deploy/nats/server.conf, with certificates made here: what survives the loss of one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from nats.aio.client import Client
from nats.js.api import StorageType
from nats.js.client import JetStreamContext

from broker.accounts import Accounts
from broker.busside import start_server
from broker.config import load_config
from broker.natsconf import find_server
from protocol import limits, natsauth
from protocol.dialing import Tls
from protocol.keys import write_secret
from tests.deploy.helping import REPORT, ROOT, Processes, call, eventually, free_port, processes, ready
from tests.e2e.test_governance import kentongan
from tests.natshelp import eventually as soon

pytestmark = pytest.mark.timeout(300)
CONF = ROOT / "deploy" / "nats" / "server.conf"
SERVERS = ("n1", "n2", "n3")
NAME = "localhost"
T = TypeVar("T")


# --- certificates -----------------------------------------------------------------------------------------------


@dataclass
class Authority:
    """A certificate authority for one test."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def certificate(self, subject: str, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        """Signed by this authority, valid for an hour."""
        now = datetime.now(UTC)
        called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder(issuer, called, public, x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if not ca:
            names = [x509.DNSName(NAME), x509.IPAddress(IPv4Address("127.0.0.1"))]
            uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def own(self, path: Path) -> None:
        """Write what others trust."""
        own = self.certificate(self.name, self.key.public_key(), ca=True)
        path.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(self, certificate: Path, private: Path) -> None:
        """Write a certificate for a server, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self.certificate("server", key.public_key(), ca=False)
        certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


# --- the cluster ------------------------------------------------------------------------------------------------


def accounts(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m deploy.nats`."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.nats", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def set_nats(home: Path, lines: str) -> None:
    """Replace the section [nats] of broker.toml; it is the last one."""
    path = home / "broker.toml"
    path.write_text(path.read_text("utf-8").partition("[nats]")[0] + "[nats]\n" + lines, "utf-8")


@dataclass
class Cluster:
    """Three servers, and the directory of the broker whose keys they know."""

    place: Path
    running: Processes
    clients: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in SERVERS})
    routes: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in SERVERS})
    http: int = field(default_factory=free_port)

    @property
    def home(self) -> Path:
        return self.place / "broker"

    @property
    def ca(self) -> Path:
        return self.place / "ca.pem"

    def make(self) -> None:
        """As docs/deploy.md says: keys, operator.conf, certificates, a directory for each server."""
        kentongan("broker", "init", self.home, "--region", "r", "--port", str(self.http))
        made = accounts("operator", str(self.home), str(self.place / "operator.conf"))
        assert made.returncode == 0, made.stderr
        url = ",".join(f"tls://{NAME}:{port}" for port in self.clients.values())
        set_nats(self.home, f'mode = "external"\nurl = "{url}"\nca_file = "{self.ca}"\nreplicas = 3\n')
        clients, servers = Authority("for clients"), Authority("for routes")
        clients.own(self.ca)
        for name in SERVERS:
            tls = self.place / name / "tls"
            tls.mkdir(parents=True)
            servers.own(tls / "route-ca.pem")
            clients.issue(tls / "server.pem", tls / "server-key.pem")
            servers.issue(tls / "route.pem", tls / "route-key.pem")
            shutil.copy(CONF, self.place / name / "server.conf")
            shutil.copy(self.place / "operator.conf", self.place / name / "operator.conf")

    def start(self, name: str) -> None:
        """One server, from its own directory."""
        place = self.place / name
        env = {
            **os.environ,
            "KENTONGAN_NATS_NAME": name,
            "KENTONGAN_NATS_LISTEN": f"127.0.0.1:{self.clients[name]}",
            "KENTONGAN_NATS_ADVERTISE": f"{NAME}:{self.clients[name]}",
            "KENTONGAN_NATS_ROUTE_LISTEN": f"127.0.0.1:{self.routes[name]}",
            "KENTONGAN_NATS_ROUTES": "["
            + ", ".join(f"tls://127.0.0.1:{self.routes[other]}" for other in SERVERS if other != name)
            + "]",
            "KENTONGAN_NATS_DATA": str(place / "data"),
            "KENTONGAN_NATS_ACCOUNTS": str(place / "accounts"),
        }
        command = ["sh", "-c", 'cd "$1" && exec "$2" -c server.conf', "sh", str(place), str(find_server())]
        self.running.start(name, command, env)

    def creds(self) -> Path:
        """Credentials of the broker."""
        path = self.place / "broker.creds"
        if not path.exists():
            write_secret(path, Accounts.load(self.home / "keys" / "nats").broker_creds(int(time.time())).encode())
        return path

    async def connect(self, name: str, creds: Path, ca: Path | None = None) -> Client:
        """A plain client of the library at one server, which it never leaves."""
        jwt, seed = natsauth.parse_creds(await asyncio.to_thread(creds.read_text, "ascii"))
        nc = Client()

        async def quiet(_: Exception) -> None:
            return

        await nc.connect(
            f"tls://{NAME}:{self.clients[name]}",
            tls=Tls(ca or self.ca).context(),
            user_jwt_cb=lambda: jwt.encode("ascii"),
            signature_cb=lambda nonce: natsauth.sign_nonce(seed, nonce),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=5,
            error_cb=quiet,
        )
        return nc


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three running servers, which know nothing but the operator; each test leaves three."""
    place = tmp_path_factory.mktemp("cluster")
    with processes(place / "logs") as running:
        found = Cluster(place, running)
        found.make()
        for name in SERVERS:
            found.start(name)
        yield found


@pytest.fixture
async def told(cluster: Cluster) -> None:
    """The servers know the broker's account."""
    config = load_config(cluster.home)
    async with AsyncExitStack() as stack:
        await start_server(config, [], [], {}, stack)


@pytest.fixture
async def opened(cluster: Cluster) -> AsyncIterator[list[Client]]:
    """Connections that end with the test."""
    found: list[Client] = []
    yield found
    for nc in found:
        with suppress(nats.errors.Error, OSError, asyncio.TimeoutError):
            await asyncio.wait_for(nc.close(), 2.0)


async def api(nc: Client, method: str, body: Any = None) -> dict[str, Any]:
    """One call of the streams' administration."""
    answer = await nc.request(f"$JS.API.{method}", json.dumps(body or {}).encode(), timeout=5)
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def test_the_loss_of_one_server_loses_nothing(cluster: Cluster, told: None, opened: list[Client]) -> None:
    """A stream of three replicas takes messages and gives all of them while its leader is gone."""
    creds = cluster.creds()
    clients = {name: await cluster.connect(name, creds) for name in SERVERS}
    opened += clients.values()
    first = clients["n1"].jetstream(timeout=5)
    # Refused until the servers have elected who leads them.
    await insist(lambda: first.add_stream(name="T", subjects=["t"], storage=StorageType.FILE, num_replicas=3))
    for number in range(20):
        await put(first, b"%d" % number)
    info = await insist(lambda: first.stream_info("T"))
    assert info.cluster is not None
    leader = info.cluster.leader
    assert leader in SERVERS
    assert len(info.cluster.replicas or []) == 2
    cluster.running.end(leader, signal.SIGKILL)
    js = clients[next(name for name in SERVERS if name != leader)].jetstream(timeout=5)
    await put(js, b"after")
    reader = await insist(lambda: js.pull_subscribe("t", durable="reader"))
    got: set[bytes] = set()

    async def read() -> bool:
        with suppress(nats.errors.Error, asyncio.TimeoutError):
            for message in await reader.fetch(64, timeout=2):
                got.add(message.data)
                await message.ack_sync()
        return len(got) >= 21

    await soon(read)
    assert got == {b"after", *(b"%d" % number for number in range(20))}
    cluster.start(leader)
    await insist(lambda: js.delete_stream("T"))


async def insist(action: Callable[[], Awaitable[T]]) -> T:
    """Do it again until the servers have done it: while they elect a leader they refuse, or say nothing."""
    done: list[T] = []

    async def attempt() -> bool:
        with suppress(nats.errors.Error, nats.js.errors.Error, asyncio.TimeoutError):
            done.append(await action())
        return bool(done)

    await soon(attempt)
    return done[0]


async def put(js: JetStreamContext, data: bytes) -> None:
    """Publish once, however often it is sent."""
    await insist(lambda: js.publish("t", data, headers={"Nats-Msg-Id": data.decode()}))


async def test_only_those_with_a_claim_and_only_over_tls(cluster: Cluster, told: None, opened: list[Client]) -> None:
    """No name and no other authority's word lets anybody in; a server without the routes' certificate stays outside."""
    creds = cluster.creds()
    other = cluster.place / "other.pem"
    Authority("another").own(other)
    with pytest.raises((ssl.SSLError, nats.errors.Error, OSError)):
        opened.append(await cluster.connect("n1", creds, other))
    nobody = Client()

    async def quiet(_: Exception) -> None:
        return

    with pytest.raises((nats.errors.Error, OSError, ConnectionError)):
        await nobody.connect(
            f"tls://{NAME}:{cluster.clients['n1']}", tls=Tls(cluster.ca).context(), allow_reconnect=False,
            max_reconnect_attempts=1, error_cb=quiet,
        )  # fmt: skip
    assert (await knock(cluster, ("route.pem", "route-key.pem"))).startswith(b"INFO")
    assert await knock(cluster, ("server.pem", "server-key.pem")) == b""
    assert await knock(cluster) == b""


async def knock(cluster: Cluster, shown: tuple[str, str] | None = None) -> bytes:
    """What the first server says to one who comes as another server, with this certificate and key."""
    tls = cluster.place / "n2" / "tls"
    context = ssl.create_default_context(cafile=str(tls / "route-ca.pem"))
    if shown:
        context.load_cert_chain(tls / shown[0], tls / shown[1])
    with suppress(ssl.SSLError, ConnectionError):
        reader, writer = await asyncio.open_connection(NAME, cluster.routes["n1"], ssl=context)
        try:
            return await asyncio.wait_for(reader.readline(), 10)
        finally:
            writer.close()
    return b""


async def test_the_configuration_is_the_embedded_servers(cluster: Cluster, told: None, opened: list[Client]) -> None:
    """Limits, the pinned feature, when a message counts as stored: as the broker's own server has it."""
    creds = cluster.creds()
    nc = await cluster.connect("n1", creds)
    opened.append(nc)
    assert nc.max_payload == limits.BUS_MESSAGE
    text = CONF.read_text("utf-8")
    assert "feature_flags { js_ack_fc_v2: false }" in text
    assert "sync_interval: always" in text
    written = (ROOT / "broker" / "natsconf.py").read_text("utf-8")
    assert "js_ack_fc_v2: false" in written
    assert "sync_interval: always" in written


def test_the_broker_and_two_nodes_over_the_cluster(cluster: Cluster) -> None:
    """The broker alone tells the servers who may connect: whoever is suspended is cut off, one server down or not.

    Invitations bring the authority of the servers; a key of a connection is replaced; the first server may go.
    """
    home, place, running = cluster.home, cluster.place, cluster.running
    ports, tokens = {}, {}
    for name in ("id", "jp"):
        ports[name] = free_port()
        node, invitation = place / name, place / f"{name}.json"
        said = kentongan("node", "init", node, "--member", f"{name}-cert", "--port", str(ports[name]))
        tokens[name] = next(line.rpartition(" ")[2] for line in said.splitlines() if "token" in line)
        policy = ("--policy", node / "policy.toml")
        kentongan("broker", "admit", home, node / "member.json", *policy, "--invitation", invitation)
        kentongan("node", "join", node, invitation)
    running.start("broker", [sys.executable, "-m", "deploy.cli", "broker", "run", str(home)])
    for name in ("id", "jp"):
        running.start(name, [sys.executable, "-m", "deploy.cli", "node", "run", str(place / name)])
    doors = {"broker": cluster.http, **ports}
    for port in doors.values():
        eventually(ready(port), running.said)

    def arrives(title: str) -> None:
        body = REPORT | {"body": {"title": title}}
        status, answer = call(f"http://127.0.0.1:{ports['id']}/v1/reports", tokens["id"], body)
        assert status == 202

        def there() -> bool:
            status, inbox = call(f"http://127.0.0.1:{ports['jp']}/v1/inbox", tokens["jp"])
            return status == 200 and answer["report_id"] in [report["report_id"] for report in inbox["reports"]]

        eventually(there, running.said)

    def suspend() -> None:
        refused = running.log("jp").count('"refused"')
        began = time.monotonic()
        kentongan("broker", "suspend", home, "jp-cert")
        eventually(lambda: not ready(ports["jp"])(), running.said, pause=0.01)
        print(f"cut off {time.monotonic() - began:.2f} s after the command began")
        eventually(lambda: running.log("jp").count('"refused"') > refused, running.said)

    arrives("while all servers are there")
    suspend()
    creds = place / "jp" / "keys" / "nats.creds"
    for name in SERVERS:
        assert not asyncio.run(lets_in(cluster, name, creds)), name
    kentongan("broker", "resume", home, "jp-cert")
    eventually(ready(ports["jp"]), running.said)
    arrives("after it was let in again")
    kentongan("node", "rotate", place / "jp", "--transport")
    eventually(lambda: not (place / "jp" / "keys" / "renewal.json").exists(), running.said)
    # What is connected to it moves to the others, of which it was told.
    running.end("n1", signal.SIGKILL)
    arrives("after one is gone")
    suspend()
    cluster.start("n1")

    def alike() -> bool:
        text = urllib.request.urlopen(f"http://127.0.0.1:{cluster.http}/metrics").read().decode()
        return "kentongan_broker_claims_behind 0.0" in text and running.log("broker").count('"servers": 3') > 1

    eventually(alike, lambda: running.log("broker")[-3000:])
    assert not asyncio.run(lets_in(cluster, "n1", creds)), "a server that was away lets in who was suspended meanwhile"
    for name in ("broker", "id", "jp"):
        assert running.end(name) == 0


async def lets_in(cluster: Cluster, name: str, creds: Path) -> bool:
    """Whether a server takes these credentials."""
    try:
        nc = await cluster.connect(name, creds)
    except (nats.errors.Error, OSError):
        return False
    await nc.close()
    return True


def test_nothing_is_overwritten_and_nothing_secret_is_shown(cluster: Cluster) -> None:
    """A second run refuses; operator.conf holds no seed."""
    text = (cluster.place / "operator.conf").read_text("utf-8")
    seeds = [path.read_text("ascii").strip() for path in (cluster.home / "keys" / "nats").glob("*.nk")]
    assert len(seeds) >= 5
    assert not any(seed in text for seed in seeds)
    again = accounts("operator", str(cluster.home), str(cluster.place / "operator.conf"))
    assert again.returncode == 2
    assert "never overwritten" in again.stderr
