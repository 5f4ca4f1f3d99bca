"""A log made by hand: small, in memory, and honest until a test makes it lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from node.config import Log as Settings
from node.core import NodeCore
from node.lookout import Lookout
from node.witness import Answer, Question, Step, Witness
from node.witnessing import METHODS
from protocol import logrpc
from protocol.errors import ProtocolError
from protocol.keys import SigningKey, b64
from protocol.logrpc import (
    ConsistencyAnswer,
    ConsistencyRequest,
    CosignRequest,
    NextAnswer,
    NextRequest,
    ProveAnswer,
    ProveRequest,
)
from protocol.merkle import leaf_hash, node_hash, prove_consistency, prove_inclusion, tree_root
from protocol.notes import Checkpoint, Note, cosign, origin_of, parse_note, sign_checkpoint
from protocol.reasons import Reason
from tests.node.looking import inbox
from tests.node.test_filing import file
from tests.node.world import Broker, Clock, filing, foreign, key_of, receipts, released

ORIGIN = origin_of("testland")
FILLER = [f"filler {number}".encode().ljust(32, b".") for number in range(64)]


class HandLog:
    """A log, and the notes over it.

    Args:
        clock: the time of cosignatures.
        entries: what is in it.
    """

    def __init__(self, clock: Clock, entries: Sequence[bytes] = (), key: SigningKey | None = None) -> None:
        self.clock = clock
        self.entries = list(entries)
        self.key = key or key_of("broker")
        self.shown: str = ""
        """The newest checkpoint; `show` makes it."""
        self.published = ""
        self.lines: list[tuple[int, str]] = []
        """What the witness sent."""
        self.asked: list[str] = []

    def node(self, level: int, number: int) -> bytes:
        if level == 0:
            return leaf_hash(self.entries[number])
        return node_hash(self.node(level - 1, 2 * number), self.node(level - 1, 2 * number + 1))

    def note(self, size: int | None = None, origin: str = ORIGIN) -> str:
        """The log's note over its first entries."""
        wanted = len(self.entries) if size is None else size
        checkpoint = Checkpoint(origin, wanted, tree_root(wanted, self.node))
        return sign_checkpoint(checkpoint, self.key, self.key.public)

    def cosigned(self, *names: str, size: int | None = None, keys: Sequence[tuple[str, SigningKey]] = ()) -> str:
        """A note with the lines of these members, or of these keys of members."""
        note = parse_note(self.note(size))
        signers = [(name, key_of(name)) for name in names] + list(keys)
        lines = [cosign(note.text, name, key, key.public, self.clock()) for name, key in signers]
        return Note(note.text, (*note.lines, *lines)).encode()

    def show(self, size: int | None = None) -> None:
        """Sign a checkpoint, to be witnessed."""
        self.shown = self.note(size)

    def publish(self, *names: str, size: int | None = None) -> None:
        """Publish a checkpoint with a quorum."""
        self.published = self.cosigned(*(names or ("my-cert", "sg-cert")), size=size)

    def answer(self, question: Question) -> Answer:
        """What an honest broker answers. ProtocolError as one refuses."""
        self.asked.append(METHODS[type(question)])
        match question:
            case NextRequest():
                return self.next(question)
            case CosignRequest():
                self.lines.append((question.size, question.line))
                return None
            case ConsistencyRequest():
                return ConsistencyAnswer(path=self.path(question.old, question.new))
            case ProveRequest():
                return self.prove(question)

    def path(self, old: int, new: int) -> list[str]:
        if new > len(self.entries):
            raise ProtocolError(Reason.OUT_OF_RANGE)
        return [b64(item) for item in prove_consistency(old, new, self.node)]

    def next(self, question: NextRequest) -> NextAnswer:
        size = size_of(self.shown)
        if max(question.size, question.published) > max(size, size_of(self.published)):
            raise ProtocolError(Reason.OUT_OF_RANGE)
        published = self.published if size_of(self.published) > question.published else ""
        if size <= question.size:
            return NextAnswer(published=published)
        return NextAnswer(checkpoint=self.shown, consistency=self.path(question.size, size), published=published)

    def prove(self, question: ProveRequest) -> ProveAnswer:
        paths = [[b64(item) for item in prove_inclusion(leaf, question.size, self.node)] for leaf in question.leaves]
        return ProveAnswer(paths=paths)

    def serve(self, subject: str, data: bytes) -> bytes:
        """As a bus does."""
        method = subject.partition("rpc.")[2]
        kinds = {name: kind for kind, name in METHODS.items()}
        question = msgspec.json.decode(data, type=kinds[method])
        answer = self.answer(question)
        return b"{}" if answer is None else logrpc.encode(answer)


def size_of(note: str) -> int:
    return int(note.split("\n")[1]) if note else 0


def make_witness(core: NodeCore, clock: Clock, *, signer: Any = None, **settings: float) -> Witness:
    """The witness of a node, as after a start."""
    key = key_of("id-cert")
    return Witness(
        member="id-cert",
        store=core.store,
        trust=core.trust,
        signer=signer or key,
        public=key.public,
        lookout=Lookout(core.store, core.outbox, Settings(**settings), clock),
        now=clock,
    )


def ask(witness: Witness, log: Any, question: Question) -> Step:
    """One question and its answer."""
    try:
        answer = log.answer(question)
    except ProtocolError as exc:
        return witness.refused(question, exc.reason)
    return witness.take(question, answer)


def turns(witness: Witness, log: Any, count: int = 6) -> list[Step]:
    """Some turns of both loops."""
    steps = []
    for _ in range(count):
        steps.append(ask(witness, log, witness.question()))
        while (wanted := witness.wanted()) is not None:
            steps.append(ask(witness, log, wanted))
    return steps


def reasons(steps: Sequence[Step]) -> set[str]:
    """Of all refusals."""
    return {reason for step in steps for reason in step.refused}


def receipted(core: NodeCore, broker: Broker, title: str = "Phishing") -> str:
    """File a report and take in its receipt; returns the report's id."""
    report_id: str = file(core, filing(title))["report_id"]
    (message,) = core.outgoing(1)
    core.receive([receipts(broker.receipt(message.data))])
    return report_id


def delivered(core: NodeCore, broker: Broker) -> str:
    """Take in somebody else's report; returns its id."""
    core.receive([broker.delivery(released(foreign()))])
    found: str = inbox(core)[-1].report_id
    return found


def entries_of(core: NodeCore) -> list[bytes]:
    """What must be in the log, by leaf, without gaps."""
    with core.store.read() as reads:
        rows = reads.leaves_by("leaf", list(range(1_000)))
    assert [row.leaf for row in rows] == list(range(len(rows)))
    return [row.entry for row in rows]


def states(core: NodeCore) -> dict[int, str]:
    """Leaves and their states."""
    with core.store.read() as reads:
        return {row.leaf: row.state for row in reads.leaves_by("leaf", list(range(1_000)))}
