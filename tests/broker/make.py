"""A broker core on a real database, for tests that look at one decision at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from broker import store, tables
from broker.check import check_ledger
from broker.deliver import Redelivery
from broker.feed import Feed
from broker.ingest import Incoming, Ingest, Work
from broker.members import RegionState
from protocol.envelope import Envelope, SignedReport, open_envelope
from protocol.keys import KeyRing
from protocol.policy import Policy, PolicyBook
from protocol.registry import Member
from protocol.report import Report
from protocol.statements import (
    BROKER,
    Confirmation,
    DeliveryItem,
    Links,
    Noted,
    Receipt,
    open_delivery,
    open_statement,
    sign_statement,
)
from protocol.subjects import Kind
from tests import databases
from tests.federation import open_policy
from tests.protocol import make

COORDINATOR = "asean-rcert"
MADE: list[Hub] = []
"""Those that the running test made; see `conftest.py`."""


@dataclass
class Hub:
    """The core, its ledger, and what it sent."""

    directory: Path
    policies: dict[str, Policy] = field(default_factory=dict)
    members: Sequence[Member] = ()
    now: datetime = make.NOW

    def __post_init__(self) -> None:
        names = ("id", "sg", "my", "ph")
        coordinator = Member(
            id=COORDINATOR, jurisdiction=COORDINATOR, name="coordinator", roles=["coordinator"], keys=[]
        )
        self.members = list(self.members) or [*(make.member(name) for name in names), coordinator]
        for name in (*names, COORDINATOR):
            self.policies.setdefault(name, open_policy(name))
        self.store = store.Store(store.open_engine(databases.url_of(self.directory / "ledger.db")))
        self.load()
        self.core = Ingest(self.store, make.key_of(BROKER), lambda: self.state, random.Random(1).randbytes)
        self.redelivery = Redelivery(self.store, make.key_of(BROKER), lambda: self.state, 10_000)
        self.feed = Feed(self.store, lambda: self.state, lambda: self.now)
        self.first = dict(self.policies)
        MADE.append(self)

    def examine(self) -> None:
        """The ledger holds together, whatever the test did through the broker's own doors."""
        book = self.state.book if self.policies == self.first else None
        found = check_ledger(self.store, self.state.registry, book, self.now)
        lines = [finding.line() for finding in found if not finding.note]
        assert not lines, lines

    def load(self) -> None:
        """Take members and policies as they stand."""
        key = make.key_of(BROKER).record(make.NOW - make.DAY, make.NOW + 3650 * make.DAY)
        self.state = RegionState(make.registry(*self.members, broker_keys=[key]), PolicyBook(self.policies.values()))

    @property
    def keys(self) -> KeyRing:
        return self.state.registry.keys

    def take(self, member: str, kind: str, data: bytes | str) -> Work:
        """One message from a member's subject."""
        raw = data.encode() if isinstance(data, str) else data
        return self.core.process([Incoming(member, kind, raw)], self.now)

    def submit(self, *reports: Report, member: str = "id-cert", seed: str = "s") -> tuple[Receipt, Work]:
        """Reports signed and sent by a member: the broker's receipt and everything it sends."""
        return self.submit_text(make.whole(make.signed(*reports, issuer=member, seed=seed, at=self.now)), member)

    def submit_text(self, text: str, member: str = "id-cert") -> tuple[Receipt, Work]:
        work = self.take(member, Kind.SUBMISSION, text)
        return self.receipts(work, member)[0], work

    def receipts(self, work: Work, member: str) -> list[Receipt]:
        """The verified receipts for a member."""
        return [
            open_statement(jws, Receipt, self.keys.find, self.now)
            for item in work.outgoing
            if item.kind == Kind.RECEIPTS and item.member == member
            for jws in msgspec.json.decode(item.data)
        ]

    def delivered(self, work: Work) -> dict[str, list[SignedReport]]:
        """What each member's node would read, verified as it would."""
        found: dict[str, list[SignedReport]] = {}
        for item in work.outgoing:
            if item.kind == Kind.DELIVERY:
                for parcel in self.items(item.data, item.member):
                    for report in open_envelope(parcel.sd_jwt, self.keys.find, parcel.received_at).reports:
                        assert isinstance(report, SignedReport)
                        found.setdefault(item.member, []).append(report)
        return found

    def items(self, data: bytes, member: str) -> list[DeliveryItem]:
        return open_delivery(data, member, self.keys.find, self.now)[1]

    def links(self, work: Work) -> dict[str, list[Any]]:
        """The links that each member is told of."""
        return {
            item.member: open_statement(item.data.decode(), Links, self.keys.find, self.now).links
            for item in work.outgoing
            if item.kind == Kind.LINKS
        }

    def confirm(self, member: str, origin: str, digests: list[str], state: str = "received", **given: Any) -> Noted:
        """A member's confirmation, and the broker's answer to it."""
        jws = self.confirmation(member, origin, digests, state, **given)
        self.last = self.take(member, Kind.CONFIRMATIONS, msgspec.json.encode([jws]))
        (answer,) = [item for item in self.last.outgoing if item.kind == Kind.RECEIPTS and item.member == member]
        (noted,) = msgspec.json.decode(answer.data)
        return open_statement(noted, Noted, self.keys.find, self.now)

    def confirmation(self, member: str, origin: str, digests: list[str], state: str, **given: Any) -> str:
        statement = Confirmation(iss=member, aud=origin, at=self.now, state=state, reports=digests, **given)  # type: ignore[arg-type]
        return sign_statement(statement, make.key_of(member))

    def rows(self, table: str) -> list[Any]:
        """A table of the ledger."""
        with self.store.reading() as connection:
            return list(connection.execute(getattr(tables, table).select()))


def envelope_of(*reports: Report, member: str = "id-cert", seed: str = "s") -> Envelope:
    """Signed reports."""
    return make.signed(*reports, issuer=member, seed=seed)
