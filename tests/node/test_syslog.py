"""CEF over RFC 5424: what is escaped, what is not said, and that nothing is lost over TCP and TLS."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as some

from node.about import About
from node.cef import cef, in_extension, in_header, syslog
from node.config import load_config
from node.core import NodeCore
from node.course import Course
from node.feed import Feed
from node.loops import Writer
from node.metrics import Metrics
from node.outputs import Syslog
from node.store import Event, microseconds
from node.syslog import SyslogOutput, context_of
from protocol.errors import ConfigError
from tests.node.conftest import running
from tests.node.test_webhooks import until
from tests.node.world import CANARY, START, Clock, MemoryBus, filing, make_config

AT = microseconds(START)


def known(kind: str = "report.received", **changes: Any) -> About:
    facts = {"report_id": "0196-x", "revision": 1, "reason": None}
    event = Event(7, kind, msgspec.json.encode(facts), AT)
    said = {
        "tlp": "GREEN",
        "severity": 40,
        "rsit": "fraud/phishing",
        "origin": "my-cert",
        "title": "T",
        "description": "D",
    }
    return About(event, changes.pop("facts", facts), kind.startswith("report."), **{**said, **changes})


def read_cef(text: str) -> tuple[list[str], dict[str, str]]:
    """As a receiver reads it: an independent reading of the format."""
    parts = re.split(r"(?<!\\)(?:\\\\)*\|", text)
    pieces, piece, index = [], "", 0
    while len(pieces) < 7:
        if text[index] == "\\":
            piece += text[index + 1]
            index += 2
        elif text[index] == "|":
            pieces.append(piece)
            piece = ""
            index += 1
        else:
            piece += text[index]
            index += 1
    assert parts[0] == "CEF:0"
    fields: dict[str, str] = {}
    rest = text[index:]
    names = list(re.finditer(r"(?:^|(?<= ))([A-Za-z0-9]+)(?<!\\)=", rest))
    for number, name in enumerate(names):
        end = names[number + 1].start() - 1 if number + 1 < len(names) else len(rest)
        value = rest[name.end() : end]
        fields[name[1]] = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], value)
    return pieces, fields


@settings(max_examples=150, deadline=None)
@given(some.text(max_size=80), some.text(max_size=80))
def test_no_value_gets_out_of_its_field(title: str, reason: str) -> None:
    """Whatever a report or a reason holds, a receiver reads it back in its field, and reads no field more."""
    chosen = Syslog(name="x", address="tcp://h:1", content=True, content_tlp="GREEN")
    plain, _ = read_cef(cef(known(title="T"), chosen))
    line = syslog(known(title=title, facts={"report_id": "r", "reason": reason}), chosen, "id-cert").decode()
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
    header, fields = read_cef(line[line.index("CEF:0") :])
    assert header == plain
    assert set(fields) <= {
        *("rt", "cnt", "externalId", "reason", "suser", "cn1", "cn1Label", "cs1", "cs1Label", "cs2", "cs2Label"),
        *("cs3", "cs3Label", "msg", "cs6", "cs6Label"),
    }

    def clean(text: str) -> str:
        return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", " ", re.sub(r"\r\n?", "\n", text))

    if title.strip() == title:
        assert fields.get("msg", "") == clean(title)


def test_escaping() -> None:
    """The two sets of the format, and only these."""
    assert in_header("a|b\\c=d\ne") == "a\\|b\\\\c=d e"
    assert in_extension("a|b\\c=d\r\ne\rf\x00") == "a|b\\\\c\\=d\\ne\\nf "


def test_a_message() -> None:
    """All of one, with priority, time, host, kind and severity."""
    made = syslog(known(), Syslog(name="x", address="tcp://h:1"), "id-cert").decode()
    assert made == (
        "<133>1 2026-05-04T08:00:00Z id-cert kentongan - report.received - "
        "CEF:0|Kentongan|node|1|report.received|Report received|4|"
        f"rt={AT // 1_000} cnt=1 externalId=0196-x suser=my-cert cn1Label=event cn1=7 cn2Label=revision cn2=1 "
        "cs1Label=tlp cs1=GREEN cs2Label=rsit cs2=fraud/phishing cs3Label=origin cs3=my-cert"
    )
    alarm = syslog(known("alarm", severity=None), Syslog(name="x", address="tcp://h:1", facility=1), "id-cert")
    assert alarm.startswith(b"<12>1 ")
    assert b"|Alarm|8|" in alarm


@pytest.mark.parametrize(
    ("content", "up_to", "tlp", "said"),
    [
        (False, "RED", "CLEAR", False),
        (True, "CLEAR", "CLEAR", True),
        (True, "CLEAR", "GREEN", False),
        (True, "AMBER", "GREEN", True),
        (True, "AMBER", "AMBER+STRICT", False),
        (True, "AMBER", "PURPLE", False),
    ],
)
def test_content_only_where_the_operator_says_so(content: bool, up_to: Any, tlp: str, said: bool) -> None:
    """And then only up to a marking; one that is not known is the strictest."""
    chosen = Syslog(name="x", address="tcp://h:1", content=content, content_tlp=up_to)
    line = cef(known(tlp=tlp, title="TITLE", description="DESCRIPTION"), chosen)
    assert ("TITLE" in line, "DESCRIPTION" in line) == (said, said)


@pytest.mark.parametrize("address", ["tcp://h", "http://h:1", "tcp://h:1/x", "tcp://a b:1", "udp://[::1]"])
def test_an_address_must_be_one(tmp_path: Path, address: str) -> None:
    """With a way, a host and a port."""
    file = tmp_path / "node.toml"
    head = 'member = "id-cert"\njurisdiction = "id"\nname = "x"\n[[syslog]]\nname = "siem"\n'
    file.write_text(head + 'address = "tls://[::1]:6514"\nca_file = "ca.pem"\n')
    (found,) = load_config(file).syslogs
    assert found.ca_file == tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match="siem"):
        context_of(found)
    file.write_text(head + f'address = "{address}"\n')
    with pytest.raises(ConfigError):
        load_config(file)


# --- over real sockets ------------------------------------------------------------------------------------------


class Siem:
    """A receiver of octet-counted messages, which ends connections when it is told."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.connections = 0
        self.reads = True
        self.end_after: int | None = None
        self.server: asyncio.Server | None = None
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                size = int(await reader.readuntil(b" "))
                message = await reader.readexactly(size)
                if self.end_after is not None:
                    if self.end_after == 0:
                        # What it was sent beyond that is lost with it, acknowledged as it is.
                        self.end_after = None
                        writer.transport.abort()
                        return
                    self.end_after -= 1
                self.got.append(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        await self.server.wait_closed()

    def events(self) -> list[int]:
        return [int(found[1]) for item in self.got if (found := re.search(rb"cn1=(\d+)", item))]


@pytest.fixture
async def siem() -> AsyncIterator[Siem]:
    made = Siem()
    await made.start()
    yield made
    if made.server is not None:
        await made.stop()


@asynccontextmanager
async def sending(core: NodeCore, chosen: Syslog) -> AsyncIterator[Callable[..., Any]]:
    """The loop by itself; yields what makes events."""
    writer = Writer()
    feed = Feed(core.store, asyncio.get_running_loop())
    core.store.on_events = feed.announce
    metrics = Metrics(outbox=core.outbox, words=core.words, link=lambda: True, now=core._now)
    course = Course(chosen.name, chosen, core.member, store=core.store, writer=writer, feed=feed, now=core._now)
    output = SyslogOutput(chosen, course, metrics, core.member, lambda count: b"\0" * count, first_pause=0.01)
    task = asyncio.create_task(output.run())

    async def happen(*kinds: str) -> None:
        def write() -> None:
            with core.store.write() as tx:
                for number, kind in enumerate(kinds):
                    tx.event(kind, {"number": number}, microseconds(core._now()))

        await writer.run(write)

    async def begun() -> bool:
        return course.standing.next > 0

    try:
        await until(begun)
        happen.course = course  # type: ignore[attr-defined]
        yield happen
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()
        writer.close()


def tcp(siem: Siem, way: str = "tcp", **changes: Any) -> Syslog:
    kinds = ("alarm", "report.filed")
    return Syslog(**{"name": "siem", "address": f"{way}://127.0.0.1:{siem.port}", "kinds": kinds, **changes})


async def test_over_tcp_nothing_is_lost_when_a_receiver_dies(core: NodeCore, siem: Siem) -> None:
    """Not what it had acknowledged and not read either; in order; what is repeated is what it may not have."""
    async with sending(core, tcp(siem)) as happen:
        await happen("alarm", "report.state", "alarm")

        async def two() -> bool:
            return siem.events() == [1, 3]

        await until(two)
        siem.end_after = 2
        await happen(*["alarm"] * 6)

        async def all_of_them() -> bool:
            return siem.events()[-1:] == [9]

        await until(all_of_them)
    assert siem.connections == 2
    assert set(siem.events()) == {1, 3, 4, 5, 6, 7, 8, 9}
    last = len(siem.events()) - siem.events()[::-1].index(4) - 1
    assert siem.events()[last:] == [4, 5, 6, 7, 8, 9]


async def test_over_tcp_events_wait_for_a_receiver(core: NodeCore, siem: Siem, clock: Clock) -> None:
    """Through restarts of both sides; the position stands on disk."""
    await siem.stop()
    siem.server = None
    async with sending(core, tcp(siem)) as happen:
        await happen("alarm")

        async def failing() -> bool:
            return bool(happen.course.standing.state == "failing")

        await until(failing)
    await siem.start()
    async with sending(core, tcp(siem)) as happen:

        async def one() -> bool:
            return set(siem.events()) == {1} and bool(happen.course.standing.next == 2)

        await until(one)
    async with sending(core, tcp(siem)) as happen:
        await happen("alarm")

        async def two() -> bool:
            return list(dict.fromkeys(siem.events())) == [1, 2]

        await until(two)


async def test_over_udp(core: NodeCore) -> None:
    """One message a datagram, without a count."""
    got: list[bytes] = []

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002
            got.append(data)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    async with sending(core, Syslog(name="siem", address=f"udp://127.0.0.1:{port}", kinds=("alarm",))) as happen:
        await happen("alarm", "alarm")

        async def two() -> bool:
            return len(got) == 2

        await until(two)
    transport.close()
    assert all(item.startswith(b"<132>1 ") for item in got)


def certificate(place: Path, host: str) -> None:
    """A self-signed one, as `ca.pem` and, with its key, as `server.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (place / "ca.pem").write_bytes(pem)
    (place / "server.pem").write_bytes(pem + private)


async def test_over_tls_to_whom_it_trusts_and_to_nobody_else(core: NodeCore, tmp_path: Path) -> None:
    """The certificate must be for that name, and of that authority."""
    certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    siem = Siem()
    await siem.start(context)
    right = Syslog(name="siem", address=f"tls://localhost:{siem.port}", kinds=("alarm",), ca_file=tmp_path / "ca.pem")
    for wrong in (tcp(siem, "tls", ca_file=tmp_path / "ca.pem"), msgspec.structs.replace(right, ca_file=None)):
        async with sending(core, wrong) as happen:
            await happen("alarm")

            async def failing(happen: Any = happen) -> bool:
                return bool(happen.course.standing.fault == "SSLCertVerificationError")

            await until(failing)
    assert siem.got == []
    async with sending(core, right):

        async def all_of_them() -> bool:
            return siem.events() == [1, 2]

        await until(all_of_them)
    await siem.stop()


async def test_a_running_node_says_ids_and_no_content(tmp_path: Path, clock: Clock, siem: Siem) -> None:
    """Of what was filed and how it ended; the title only where it was chosen."""
    quiet, open_ = tcp(siem, name="quiet"), tcp(siem, name="open", content=True, content_tlp="GREEN")
    config = replace(make_config(tmp_path), syslogs=(quiet, open_))
    async with running(config, clock, MemoryBus()) as node:
        _, answer, _ = await node.post(filing("Phishing of a bank"))

        async def both() -> bool:
            return len(siem.got) == 2

        await until(both)
    quiet_line, open_line = sorted((item.decode() for item in siem.got), key=len)
    assert answer["report_id"] in quiet_line
    assert "cs1=GREEN cs2Label=rsit cs2=fraud/phishing cs3Label=origin cs3=id-cert" in quiet_line
    assert CANARY not in quiet_line
    assert "Phishing of" not in quiet_line
    assert "msg=Phishing of a bank" in open_line
    assert CANARY in open_line
