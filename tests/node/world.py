"""A region for the node's tests: real keys, real signatures, a broker played by hand over a bus in memory."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from node.config import Config, Http
from node.core import NodeCore
from node.store import Store
from node.trust import Trust, book_of
from protocol import statements as st
from protocol.auditing import sign_answer
from protocol.envelope import Envelope, SignedReport, open_envelope, present, release
from protocol.errors import ProtocolError, Transient
from protocol.invitation import save_invitation
from protocol.issuing import issue
from protocol.keys import SigningKey, unb64, write_secret
from protocol.policy import HEADER, load_policy
from protocol.process import Token
from protocol.reasons import Reason
from protocol.registry import Member, Region, Registry
from protocol.report import ALL_UNITS, COARSE_UNITS, SCHEMA, Filing, Header, Origin, Report
from protocol.subjects import Kind
from tests import databases
from tests.governing import govern, invitation, sign_region

START = datetime(2026, 5, 4, 8, 0, tzinfo=UTC)
TOKEN = "correct horse battery staple"
CANARY = "canary-7f3d91"
"""Stands where content stands; must never be in a log, nor where policy does not let it."""

RECORDS = 1_000_000
"""The leaf of the first governance record: far from those that a test gives to receipts and deliveries."""

OPEN_POLICY = """
jurisdiction = "{j}"
version = 1
effective_from = 2026-01-01T00:00:00Z
[[export]]
id = "all"
effect = "allow"
because = "test"
to = ["*"]
disclose = ["*"]
[[import]]
id = "take-all"
effect = "allow"
because = "test"
from = ["*"]
disclose = ["*"]
"""


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **amount: float) -> None:
        self.now += timedelta(**amount)


def seeded(seed: str) -> Any:
    """Bytes that are the same in each run."""
    counter = itertools.count()

    def rand(size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += hashlib.sha256(f"{seed}/{next(counter)}".encode()).digest()
        return data[:size]

    return rand


def key_of(name: str) -> SigningKey:
    return SigningKey.from_seed(hashlib.sha256(name.encode()).digest())


def record_of(name: str, **changes: Any) -> Any:
    record = key_of(name).record(START - timedelta(days=30), START + timedelta(days=365))
    return msgspec.structs.replace(record, **changes)


def member(member_id: str, jurisdiction: str, **changes: Any) -> Member:
    return Member(id=member_id, jurisdiction=jurisdiction, name=member_id, keys=[record_of(member_id)], **changes)


MEMBERS = (member("id-cert", "id"), member("my-cert", "my"), member("sg-cert", "sg"))


def region(serial: int = 1, members: Sequence[Member] = MEMBERS, **changes: Any) -> Region:
    return Region(
        region="testland", serial=serial, members=list(members), **{"broker_keys": [record_of("broker")], **changes}
    )


@dataclass
class Msg:
    kind: str
    data: bytes
    subject: str = ""
    reply: str = ""


class MemoryBus:
    """`Bus` in memory: nothing is delivered twice unless `redeliver` says so."""

    def __init__(self) -> None:
        self.sent: list[Msg] = []
        self.inbox: deque[Msg] = deque()
        self.unacked: list[Msg] = []
        self.records = govern(region())
        """Governance records, in order."""
        self.region_document = sign_region(region(), key_of("broker"), START, self.records).encode()
        self.up = True
        self.lose = 0
        """Publishes that are stored though the sender hears of a fault."""
        self.requests = 0
        self.closed = False
        self._news = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self.up

    async def publish(self, subject: str, kind: str, data: bytes) -> None:
        if not self.up:
            raise Transient("down")
        await asyncio.sleep(0)
        self.sent.append(Msg(str(kind), data, subject))
        self.ring()
        if self.lose:
            self.lose -= 1
            raise Transient("no answer")

    async def pull(self, most: int, wait: float) -> list[Any]:
        if not self.inbox:
            await asyncio.sleep(min(wait, 0.005))
        found = [self.inbox.popleft() for _ in range(min(most, len(self.inbox)))]
        self.unacked += found
        return found

    async def ack(self, messages: Sequence[Any]) -> None:
        for message in messages:
            self.unacked.remove(message)
        self.ring()

    def show(self, region: Region, now: datetime, records: Sequence[str] | None = None) -> None:
        """Serve this region from now on."""
        self.records = list(records or govern(region))
        self.region_document = sign_region(region, key_of("broker"), now, self.records).encode()

    async def request(self, subject: str, data: bytes, _timeout: float) -> bytes:
        self.requests += 1
        if subject.endswith(".governance.list"):
            after = json.loads(data)["after"] + 1
            listed = [{"record": text, "leaf": RECORDS + after + n} for n, text in enumerate(self.records[after:])]
            return json.dumps({"records": listed}).encode()
        if subject.endswith(".audit.cases"):
            first = json.loads(data).get("first", 0)
            answer = {"members": ["id-cert"], "first": first, "end": first, "size": first, "more": False, "cases": []}
            return sign_answer(data, json.dumps(answer).encode(), "id-cert", key_of("broker"), START)
        if not self.region_document or not subject.endswith("region"):
            raise Transient("nobody serves")
        return self.region_document

    async def close(self) -> None:
        self.closed = True

    def redeliver(self) -> None:
        self.inbox.extend(self.unacked)
        self.unacked.clear()

    def ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def of(self, kind: Kind) -> list[bytes]:
        return [message.data for message in self.sent if message.kind == kind]

    async def until(self, true: Any, seconds: float = 5.0) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.005)


@dataclass
class Broker:
    """The broker's hand: signs what a real one signs, and also what none should."""

    clock: Clock
    key: SigningKey = field(default_factory=lambda: key_of("broker"))
    delivery_ids: Any = field(default_factory=lambda: itertools.count(1))
    leaves: Any = field(default_factory=itertools.count)

    def open(self, message: bytes) -> Envelope:
        return open_envelope(message, Registry(region()).keys.find, self.clock())

    def receipt(self, message: bytes, aud: str = "id-cert", **changes: Any) -> str:
        envelope = self.open(message)
        withheld = [
            {"unit": "victim", "gate": "export", "document": "id/1", "reason": "denied-by-rule", "rule": "no-victims"}
        ]
        receipt = st.Receipt(
            iss=st.BROKER,
            aud=aud,
            received_at=self.clock(),
            submission=envelope.digest,
            leaf=next(self.leaves),
            seed="A" * 22,
            decisions=[
                st.Decision(granted=True, exact=HEADER),
                msgspec.convert({"granted": True, "exact": HEADER, "withheld": withheld}, st.Decision),
            ],
            reports=[
                st.ReportReceipt(digest=report.digest, outcome="accepted", to={"my-cert": 0, "sg-cert": 1})
                for report in envelope.reports
            ],
        )
        return self.sign(msgspec.structs.replace(receipt, **changes))

    def sign(self, statement: Any, key: SigningKey | None = None) -> str:
        return st.sign_statement(statement, key or self.key)

    def noted(self, confirmations: Sequence[str], aud: str = "id-cert", **changes: Any) -> str:
        return self.sign(
            st.Noted(
                iss=st.BROKER,
                aud=aud,
                at=self.clock(),
                confirmations=[st.statement_digest(jws) for jws in confirmations],
                **changes,
            )
        )

    def opening(self, sd_jwt: str, exact: int = ALL_UNITS, coarse: int = COARSE_UNITS) -> st.Opening:
        """Grants of everything in an envelope, in a tree with a single slot."""
        try:
            payload = json.loads(unb64(sd_jwt.split(".")[1]))
            digests = [reference["..."] for reference in payload["reports"]]
        except (ValueError, KeyError, IndexError, TypeError):
            digests = ["A" * 43]
        return st.Opening(
            leaf=next(self.leaves),
            receipt="R" * 42 + "A",
            salt="S" * 43,
            slot=0,
            path=[],
            reports=[(digest, exact, coarse) for digest in digests],
        )

    def delivery(
        self,
        *sd_jwts: str,
        aud: str = "id-cert",
        key: SigningKey | None = None,
        number: int | None = None,
        grants: list[st.Opening] | None = None,
    ) -> Msg:
        items = st.encode_items([st.DeliveryItem(sd_jwt=text, received_at=self.clock()) for text in sd_jwts])
        statement = st.Delivery(
            iss=st.BROKER,
            aud=aud,
            id=next(self.delivery_ids) if number is None else number,
            sent_at=self.clock(),
            items=st.items_digest(items),
            reports=len(sd_jwts),
            grants=[self.opening(text) for text in sd_jwts] if grants is None else grants,
        )
        return Msg(Kind.DELIVERY, st.encode_delivery(self.sign(statement, key), items))


def receipts(*jwss: str) -> Msg:
    return Msg(Kind.RECEIPTS, json.dumps(jwss).encode())


def confirmed(*jwss: str) -> Msg:
    return Msg(Kind.CONFIRMED, json.dumps(jwss).encode())


def filing(title: str = "Phishing", **changes: Any) -> dict[str, Any]:
    """A filing as a client posts it."""
    document: dict[str, Any] = {
        "marking": {"tlp": "GREEN"},
        "rsit": [{"class": "fraud", "type": "phishing"}],
        "severity": {"score": 40},
        "sectors": [{"code": "finance"}],
        "body": {
            "title": title,
            "description": f"What happened: {CANARY}",
            "times": {"detected": {"value": "2026-05-04T07:00:00Z"}},
            "victim": {"name": "PT Contoh", "sector": "finance"},
            "indicators": [
                {"type": "ipv4-addr", "value": "203.0.113.7"},
                {"type": "domain-name", "value": "a.example"},
            ],
            "contacts": [{"role": "duty officer", "email": "duty@example.org"}],
        },
    }
    return document | changes


def foreign(origin: str = "my-cert", count: int = 1, key: SigningKey | None = None, **changes: Any) -> Envelope:
    """Reports that another member signed."""
    jurisdiction = changes.pop("jurisdiction", origin.partition("-")[0])
    reports = []
    for index in range(count):
        said = msgspec.convert(filing(f"Report {index}"), Filing)
        header: dict[str, Any] = {
            "schema": SCHEMA,
            "report_id": uuid4(),
            "incident_id": uuid4(),
            "revision": 1,
            "origin": Origin(jurisdiction=jurisdiction, member=origin),
            "issued_at": START,
            "fingerprint": "f" * 22,
            "marking": said.marking,
            "rsit": said.rsit,
            "severity": said.severity,
            "sectors": said.sectors,
        }
        body = changes.get("body", said.body)
        given = {name: value for name, value in changes.items() if name != "body"}
        reports.append(Report(header=Header(**{**header, **given}), body=body))
    return issue(reports, origin, key or key_of(origin), START, seeded(str(uuid4())))


def released(envelope: Envelope, exact: int = -1, coarse: int = -1) -> str:
    """What the broker releases of an envelope."""
    return present(
        envelope.jws,
        [release(report, exact, coarse) for report in envelope.reports if isinstance(report, SignedReport)],
    )


def trust(clock: Clock, **changes: Any) -> Trust:
    return Trust.invited(invitation("id-cert", region(**changes), key_of("broker"), START), clock)


def make_core(directory: Path, clock: Clock, *, policy: str = OPEN_POLICY, **changes: Any) -> NodeCore:
    """A node without edges."""
    return NodeCore(
        member="id-cert",
        jurisdiction="id",
        store=Store.open(directory, databases.node_url(directory)),
        signer=key_of("id-cert"),
        fingerprint_key=b"f" * 32,
        trust=changes.pop("trust", None) or trust(clock),
        book=book_of(load_policy(policy.replace("{j}", "id"), "policy.toml"), "id", "policy.toml"),
        now=clock,
        rand=seeded("node"),
        **changes,
    )


def make_config(directory: Path, policy: str = OPEN_POLICY, backlog: int = 200_000) -> Config:
    """The files of a node, as `init` and `join` leave them."""
    keys = directory / "keys"
    if not keys.exists():
        key_of("id-cert").save(keys / "signing.pem")
        write_secret(keys / "fingerprint.key", b"f" * 32)
        (directory / "policy.toml").write_text(policy.replace("{j}", "id"))
        save_invitation(directory / "invitation.json", invitation("id-cert", region(), key_of("broker"), START))
    return Config(
        member="id-cert",
        jurisdiction="id",
        name="ID-CERT",
        data=directory / "data",
        keys=keys,
        policy=directory / "policy.toml",
        invitation=directory / "invitation.json",
        ca_file=None,
        http=Http(host="127.0.0.1", port=0),
        tokens=(Token(name="soc", sha256=hashlib.sha256(TOKEN.encode()).hexdigest()),),
        backlog=backlog,
        store=databases.node_url(directory / "data"),
    )


def reason_of(error: object) -> Reason:
    assert isinstance(error, ProtocolError), error
    return error.reason


def new_id() -> str:
    return str(uuid4())
