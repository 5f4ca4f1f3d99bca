"""A whole region in one process: real node cores, a real broker core, real databases, and a bus that misbehaves.

The simulator drives what `node/loops` and `broker/app` drive, but decides itself when a message is lost, delayed,
repeated or reordered, when a process is killed between any two steps, and when the bus loses everything that it holds.
All from one seed: a failing run is repeated by its seed. `settle` lets time pass until nothing waits any more; `check`
holds the result against the promises.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from broker import store as broker_store
from broker import tables
from broker.check import check_ledger
from broker.deliver import Redelivery
from broker.governing import follow, listed, record_chain, shown_to
from broker.ingest import Incoming, Ingest
from broker.log import Log
from broker.members import RegionState
from broker.notices import missed
from broker.outgoing import Outgoing
from node.catchup import read_answer
from node.check import check_node
from node.config import Log as LogSettings
from node.core import NodeCore
from node.intake import Posting, read_item
from node.lookout import Lookout
from node.store import Store as NodeStore
from node.trust import Trust
from node.views import proof_text
from node.witness import Answer, Question, Witness
from protocol.enact import closed_groups
from protocol.errors import ProtocolError
from protocol.invitation import Invitation
from protocol.keys import SigningKey
from protocol.logproof import parse_proof
from protocol.logrpc import ConsistencyRequest, CosignRequest, NextRequest, ProveRequest
from protocol.notes import open_checkpoint
from protocol.policy import Policy, PolicyBook
from protocol.registry import Group, Member, Region, Registry
from protocol.sealing import SealingKey
from protocol.statements import Receipt, open_statement
from protocol.subjects import Kind
from tests import databases
from tests.governing import genesis, grow, sign_region

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
DAY = timedelta(days=1)


class Killed(BaseException):
    """The process is gone: nothing after this point ran."""


@dataclass(frozen=True)
class Parcel:
    """A message on the simulated bus."""

    kind: str
    data: bytes


@dataclass
class Faults:
    """Probabilities of what can go wrong, each per step."""

    lose: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    kill: float = 0.0
    wipe: float = 0.0


@dataclass
class Clock:
    """Time passes only when the simulator says so."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def open_policy(jurisdiction: str, **given: Any) -> Policy:
    """A policy that shares and takes everything, except what the arguments say."""
    everything = {"effect": "allow", "because": "open", "disclose": ["*"]}
    return msgspec.convert(
        {
            "jurisdiction": jurisdiction,
            "version": 1,
            "effective_from": "2020-01-01T00:00:00Z",
            "export": [{"id": "all", "to": ["*"], **everything}],
            "import": [{"id": "take", "from": ["*"], **everything}],
            **given,
        },
        Policy,
    )


@dataclass
class Federation:
    """Nodes and a broker over a simulated bus."""

    directory: Path
    jurisdictions: Sequence[str]
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    policies: dict[str, Policy] = field(default_factory=dict)
    coordinator: str | None = None
    begins: datetime = START
    auditors: dict[str, str] = field(default_factory=dict)
    """Of which jurisdiction those of `jurisdictions` are that are auditors of another one."""
    hidden: dict[str, list[str]] = field(default_factory=dict)
    """By hidden member, those that see it."""
    groups: list[Group] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.clock = Clock(self.begins)
        self.keys = {name: self._key() for name in self.jurisdictions}
        self.broker_key = self._key()
        self.sealing = {name: SealingKey.generate(rand=self.rng.randbytes) for name in self.jurisdictions}
        self.fingerprints = {name: self.rng.randbytes(32) for name in self.jurisdictions}
        self.status = dict.fromkeys(self.jurisdictions, "active")
        sharing = [name for name in self.jurisdictions if name not in self.auditors]
        for name in [*sharing, *([self.coordinator] if self.coordinator else [])]:
            self.policies.setdefault(name, open_policy(name))
        self._first = dict(self.policies)
        self.intake: list[tuple[str, Parcel]] = []
        self.inboxes: dict[str, list[Parcel]] = {name: [] for name in self.jurisdictions}
        self.accepted: dict[str, tuple[str, dict[str, Any]]] = {}
        self.kills = 0
        self.sent: list[Outgoing] = []
        self.records: list[str] = []
        self.reload()
        self.broker: Ingest
        self.start_broker()
        self.nodes: dict[str, NodeCore] = {}
        self.witnesses: dict[str, Witness] = {}
        for name in self.jurisdictions:
            self.start_node(name)

    def _key(self) -> SigningKey:
        return SigningKey.from_seed(self.rng.randbytes(32))

    # --- the region ---------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Make what stands in `status` and `policies` the region's state, as a changed file does."""
        window = (START - DAY, START + 3650 * DAY)
        members = [
            Member(
                id=name,
                jurisdiction=self.auditors.get(name, name),
                name=name,
                roles=["auditor"] if name in self.auditors else ["submitter", "recipient"],
                status="active" if self.status[name] == "active" else "suspended",
                keys=[self.keys[name].record(*window)],
                sealing_keys=[self.sealing[name].record(*window)],
                hidden=name in self.hidden,
            )
            for name in self.jurisdictions
        ]
        if self.coordinator:
            members.append(
                Member(id=self.coordinator, jurisdiction=self.coordinator, name="coordinator", roles=["coordinator"])
            )
        keys = [self.broker_key.record(*window)]
        self.region = Region(region="sim", serial=1, broker_keys=keys, members=members, groups=self.groups)
        self.records = grow(self.records, self.region, self.hidden, self.broker_key)
        self.chain = follow([text.encode("ascii") for text in self.records], self.clock.now, lambda _, exc: exc)
        self.registry = Registry(self.region, self.chain.state.seen_by, closed_groups(self.chain.state))
        self.state = RegionState(self.registry, PolicyBook(self.policies.values()))
        if hasattr(self, "ledger"):
            self.record_chain()

    def record_chain(self) -> None:
        """The broker takes the trustees' records into its ledger and log."""
        record_chain(self.ledger, self.chain, self.clock.now)

    def invitation(self, name: str) -> Invitation:
        """What a member is handed now."""
        return Invitation(
            member=name,
            url="nats://127.0.0.1:1",
            user_jwt="x",
            broker_keys=self.region.broker_keys,
            region=self.document(name),
            genesis=genesis(self.records),
            governance=[
                shown_to(self.chain, number, data, self.registry.member(name)).decode("ascii")
                for number, data in enumerate(self.chain.records)
            ],
        )

    def document(self, name: str) -> str:
        """The region document of this moment, for a member."""
        return sign_region(self.registry.view(name).region, self.broker_key, self.clock.now, self.records)

    def refresh(self, name: str) -> None:
        """What a node asks the broker for every minute."""
        node = self.nodes[name]
        question = msgspec.json.encode({"after": node.governed_to()})
        answer = msgspec.json.decode(listed(self.ledger, question, self.chain, name))
        pages = [(one["record"], one["leaf"]) for one in answer["records"]]
        node.take_region(self.document(name).encode("ascii"), pages)

    def start_broker(self) -> None:
        """Open the ledger as a started process does."""
        self.ledger = broker_store.Store(broker_store.open_engine(databases.url_of(self.directory / "ledger.db")))
        self.broker = Ingest(self.ledger, self.broker_key, lambda: self.state, self.rng.randbytes)
        self.redelivery = Redelivery(self.ledger, self.broker_key, lambda: self.state, 10_000)
        self.record_chain()
        self.log = Log(self.ledger, self.broker_key, lambda: self.state)
        self.log.load(self.clock.now)

    def start_node(self, name: str) -> None:
        """Open a node's store as a started process does."""
        self.nodes[name] = NodeCore(
            member=name,
            jurisdiction=self.auditors.get(name, name),
            store=NodeStore.open(self.directory / name, databases.node_url(self.directory / name)),
            signer=self.keys[name],
            fingerprint_key=self.fingerprints[name],
            trust=Trust.invited(self.invitation(name), self.clock),
            book=PolicyBook([self.policies[self.auditors.get(name, name)]]),
            now=self.clock,
            rand=self.rng.randbytes,
            sealing_keys=[self.sealing[name]],
        )
        self.witnesses[name] = self._witness(name)
        self.refresh(name)

    def _witness(self, name: str) -> Witness:
        node, key = self.nodes[name], self.keys[name]
        return Witness(
            member=name,
            store=node.store,
            trust=node.trust,
            signer=key,
            public=key.public,
            lookout=Lookout(node.store, node.outbox, LogSettings(), self.clock),
            now=self.clock,
        )

    def kill_broker(self) -> None:
        """kill -9 and start again."""
        self.kills += 1
        self.ledger.close()
        self.start_broker()

    def kill_node(self, name: str) -> None:
        """kill -9 and start again."""
        self.kills += 1
        self.nodes[name].store.close()
        self.start_node(name)

    # --- the bus ------------------------------------------------------------------------------------------------

    def _happens(self, probability: float) -> bool:
        return self.rng.random() < probability

    def _put(self, queue: list[Any], item: Any) -> bool:
        """False: the sender learns nothing of it, though it may have been stored."""
        if self._happens(self.faults.lose):
            if self._happens(0.5):
                queue.append(item)
            return False
        queue.append(item)
        if self._happens(self.faults.repeat):
            queue.append(item)
        if self._happens(self.faults.reorder):
            self.rng.shuffle(queue)
        return True

    def wipe(self) -> None:
        """The bus loses everything that it holds; the broker notices and sends what is open again."""
        self.intake.clear()
        for inbox in self.inboxes.values():
            inbox.clear()
        self.redelivery.hurry(self.jurisdictions, self.clock.now)

    # --- steps --------------------------------------------------------------------------------------------------

    def post(self, name: str, *filings: dict[str, Any], known: Collection[str] = ()) -> list[Any]:
        """What an HTTP client does: the answers, or a killed node before it answered (then nothing was promised).

        Args:
            known: jurisdictions that a node which is not ours believes in, beside those of its region.
        """
        node = self.nodes[name]
        known = {*node.trust.registry.jurisdictions, *known}
        items = [
            read_item(msgspec.json.encode(filing), at="$", jurisdictions=known, now=self.clock.now)
            for filing in filings
        ]
        replies = node.file([Posting(items=(item,), many=False) for item in items])
        answers: list[Any] = []
        for reply, filing in zip(replies, filings, strict=True):
            if isinstance(reply, ProtocolError):
                answers.append(reply)
                continue
            answer = msgspec.json.decode(reply.body)
            answers.append(answer)
            if reply.status == 202 and answer["state"] != "kept":
                self.accepted[answer["digest"]] = (name, filing)
        return answers

    def step_node(self, name: str) -> None:
        """One turn of a node's loops, with a possible kill between any two of its effects."""
        node = self.nodes[name]
        for outgoing in node.outgoing(8):
            stored = self._put(self.intake, (name, Parcel(Kind.SUBMISSION, outgoing.data)))
            self._maybe_die()
            node.tried(outgoing.numbers if stored else (), () if stored else outgoing.numbers)
        for outgoing in node.outgoing_words(8):
            stored = self._put(self.intake, (name, Parcel(Kind.CONFIRMATIONS, outgoing.data)))
            self._maybe_die()
            node.tried_words(outgoing.numbers if stored else (), () if stored else outgoing.numbers)
        batch = self.inboxes[name][:8]
        if batch:
            node.receive(batch)
            self._maybe_die()
            for parcel in batch:
                if parcel in self.inboxes[name]:
                    self.inboxes[name].remove(parcel)

        self.step_witness(name)

    def step_witness(self, name: str) -> None:
        """One turn of a node's two loops that ask the log; requests and answers may be lost or come twice."""
        witness = self.witnesses[name]
        for question in (witness.question(), witness.question(), witness.wanted()):
            if question is None:
                continue
            self._maybe_die()
            lost = self._happens(self.faults.lose)
            if lost and self._happens(0.5):
                continue
            try:
                if self._happens(self.faults.repeat):
                    self.answer(name, question)
                answer = self.answer(name, question)
            except ProtocolError as exc:
                raise AssertionError(f"an honest log refuses {question}: {exc} (seed {self.seed})") from exc
            self._maybe_die()
            if not lost:
                step = witness.take(question, answer)
                assert not step.alarms, f"{step.alarms} (seed {self.seed})"
            self._maybe_die()
        overdue = witness.lookout.look()
        assert not overdue, f"{overdue} (seed {self.seed})"

    def answer(self, name: str, question: Question) -> Answer:
        """What the broker's log says to a member."""
        match question:
            case NextRequest():
                return self.log.next(question)
            case ConsistencyRequest():
                return self.log.consistency(question)
            case ProveRequest():
                return self.log.prove(question)
            case CosignRequest():
                self.log.cosign(name, question.line, question.size, self.clock.now)
                return None

    def step_broker(self) -> None:
        """One turn of the broker's loops."""
        batch = self.intake[:8]
        if batch:
            incoming = [Incoming(member, parcel.kind, parcel.data) for member, parcel in batch]
            work = self.broker.process(incoming, self.clock.now)
            self._maybe_die()
            for item in batch:
                if item in self.intake:
                    self.intake.remove(item)
            self._maybe_die()
            self._send(work.outgoing)
        self.log.sequence(self.clock.now)
        self._maybe_die()
        due = self.redelivery.due(self.clock.now, ())
        self._maybe_die()
        self._send(due.outgoing)

    def _send(self, outgoing: Iterable[Outgoing]) -> None:
        sent = []
        for item in outgoing:
            self.sent.append(item)
            if self.status.get(item.member) != "active":
                continue
            if self._put(self.inboxes[item.member], Parcel(item.kind, item.data)) and item.delivery is not None:
                sent.append(item.delivery)
            self._maybe_die()
        self.redelivery.sent(sent, self.clock.now)

    def _maybe_die(self) -> None:
        if self._happens(self.faults.kill):
            raise Killed

    def turn(self) -> None:
        """Everybody's loops once, in random order, with what may go wrong."""
        order = [*self.jurisdictions, "broker"]
        self.rng.shuffle(order)
        for name in order:
            try:
                if name == "broker":
                    self.step_broker()
                elif self.status[name] == "active":
                    self.step_node(name)
            except Killed:
                if name == "broker":
                    self.kill_broker()
                else:
                    self.kill_node(name)
        if self._happens(self.faults.wipe):
            self.wipe()
        self.clock.pass_(self.rng.uniform(0.1, 3))

    def examine(self) -> None:
        """The ledger with its log, and every node's store, hold together: at any moment, not only at the end."""
        book = self.state.book if self.policies == self._first else None
        found = [f.line() for f in check_ledger(self.ledger, self.state.registry, book, self.clock.now) if not f.note]
        for name, node in self.nodes.items():
            checked = check_node(node.store, name, node.trust, self.clock.now)
            found += [f"{name}: {finding.line()}" for finding in checked if not finding.note]
        assert not found, f"{found} (seed {self.seed})"

    def settle(self, turns: int = 400) -> None:
        """End the faults and let time pass until nothing waits."""
        self.faults = Faults()
        for _ in range(turns):
            self.turn()
            if self.quiet():
                for name in self.jurisdictions:
                    self.catch_up(name)
                self.examine()
                return
            self.clock.pass_(5)
        raise AssertionError(f"still waiting after {turns} turns (seed {self.seed})")

    def quiet(self) -> bool:
        """Nothing waits anywhere: no submission, no confirmation, no delivery, no message."""
        if self.intake or any(self.inboxes.values()):
            return False
        if any(len(node.outbox) or len(node.words) for node in self.nodes.values()):
            return False
        if any(self._unproven(name) for name in self.jurisdictions if self.status[name] == "active"):
            return False
        with self.ledger.reading() as connection:
            return not {
                member: found
                for member, found in broker_store.backlog(connection).items()
                if self.status.get(member) == "active"
            }

    def _unproven(self, name: str) -> bool:
        with self.nodes[name].store.read() as reads:
            return bool(sum(reads.unproven().values()))

    def catch_up(self, name: str) -> None:
        """What a node asks the broker for when the link comes up."""
        node = self.nodes[name]
        while True:
            after = node.notices_taken()
            answer = missed(self.ledger, name, msgspec.json.encode({"after": after}))
            messages, following = read_answer(answer, after)
            if following == after:
                return
            node.take_notices(node.open(messages, region_is_fresh=True), following)

    # --- the promises -------------------------------------------------------------------------------------------

    def inbox(self, name: str) -> list[Any]:
        """A node's inbox, in order."""
        with self.nodes[name].store.read() as reads:
            return list(reads.inbox_page(0, 100_000))

    def rows(self, table: str) -> list[Any]:
        """A table of the ledger."""
        with self.ledger.reading() as connection:
            return list(connection.execute(getattr(tables, table).select()))

    def receipts(self, name: str) -> list[Receipt]:
        """What the broker answered a member, in order."""
        find = self.registry.keys.find
        mine = [row for row in self.rows("submissions") if row.member == name]
        return [open_statement(row.receipt.decode("ascii"), Receipt, find, self.clock.now) for row in mine]

    def submitted(self) -> list[Any]:
        """What members sent, as the ledger has it."""
        return [row for row in self.rows("submissions") if row.member in self.jurisdictions]

    def check(self, recipients: dict[str, set[str]]) -> None:
        """Every accepted report is in every inbox that it was granted to, exactly once, and in no other.

        Args:
            recipients: per origin, who is granted its reports.
        """
        in_ledger = {row.digest for row in self.rows("reports")}
        missing = set(self.accepted) - in_ledger
        assert not missing, f"accepted but not in the ledger: {missing} (seed {self.seed})"
        for name in self.jurisdictions:
            digests = [row.digest for row in self.inbox(name)]
            assert len(digests) == len(set(digests)), f"{name} holds a report twice (seed {self.seed})"
            expected = {digest for digest, (origin, _) in self.accepted.items() if name in recipients[origin]}
            assert set(digests) == expected, f"{name} (seed {self.seed})"
            self.check_proofs(name)

    def check_proofs(self, name: str) -> None:
        """What became of every own report, and what was delivered of every other, is in the log and was witnessed.

        In the ledger's log, with the entry of the submission that it came in, under a checkpoint of a quorum.
        """
        registry, entries = self.state.registry, {row.id - 1: row.entry for row in self.rows("submissions")}
        leaves = {row.digest: row.submission - 1 for row in self.rows("reports")}
        mine = [digest for digest, (origin, _) in self.accepted.items() if origin == name]
        with self.nodes[name].store.read() as reads:
            own = [row for row in reads.own_by("digest", mine) if not row.kept]
            for row, here in [*((row, True) for row in own), *((row, False) for row in reads.inbox_page(0, 100_000))]:
                proof = parse_proof(proof_text(reads, row.report_id, row.revision, own=here))
                assert proof.index == leaves.get(row.digest, proof.index), f"{name} (seed {self.seed})"
                proof.verify(entries[proof.index])
                witnessed = open_checkpoint(
                    proof.note.encode(), registry.log_keys(), registry.witness_keys(), self.clock.now
                )
                assert len(witnessed.witnesses) >= registry.quorum, f"{name} (seed {self.seed})"


def filing(number: int, **given: Any) -> dict[str, Any]:
    """A small valid filing, different for each number."""
    return {
        "marking": {"tlp": "AMBER"},
        "rsit": [{"class": "malicious-code", "type": "infected-system"}],
        "severity": {"score": 50},
        "body": {
            "title": f"Incident {number}",
            "description": f"CANARY-NARRATIVE-{number}",
            "victim": {"name": f"CANARY-VICTIM-{number}", "sector": "health"},
            "indicators": [{"type": "ipv4-addr", "value": f"203.0.113.{number % 250}"}],
        },
        **given,
    }


__all__ = ["START", "Faults", "Federation", "ProtocolError", "filing", "open_policy"]
