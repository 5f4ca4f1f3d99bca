"""A region whose log is made by hand, for tests about evidence: real cores, real signatures, a real tree."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from node import tables
from node.config import Config, Http
from node.evidence import export
from protocol.evidence import Bundle, read_bundle, verify_bundle, write_bundle
from protocol.findings import Trust, Verdict
from protocol.grants import commit
from protocol.invitation import save_invitation
from protocol.jws import split_jws
from protocol.keys import SigningKey
from protocol.logproof import Proof, parse_proof
from protocol.merkle import Frontier, leaf_hash, prove_inclusion
from protocol.notes import Checkpoint, Note, cosign, parse_note, sign_checkpoint
from protocol.statements import (
    Delivered,
    Link,
    LinkedReport,
    Links,
    Receipt,
    Refusal,
    Stopped,
    sign_statement,
)
from tests.federation import Federation, filing
from tests.governing import sign_region

_receipt = msgspec.json.Decoder(Receipt)
NAMES = ("id", "my", "sg")


class World(Federation):
    """The federation simulator, with what a sequencer and witnesses do done by hand."""

    def examine(self) -> None:
        """Nothing: these tests change stores by hand, so that they do not hold together on purpose."""

    def entries(self) -> list[bytes]:
        """The entries of all receipts and governance records, in the order of their leaves."""
        found: dict[int, bytes] = {}
        for row in self.rows("submissions"):
            if not row.receipt:
                found[row.id - 1] = bytes(row.entry)
                continue
            jws = row.receipt.decode("ascii")
            receipt = _receipt.decode(split_jws(jws, Receipt.typ).payload)
            found[receipt.leaf] = commit(receipt, jws).entry
        assert sorted(found) == list(range(len(found)))
        return [found[leaf] for leaf in sorted(found)]

    def proof(self, leaf: int, witnesses: Sequence[str] | None = None, key: SigningKey | None = None) -> str:
        """The tlog-proof of a leaf at the present size."""
        entries = self.entries()
        frontier = Frontier()
        nodes: dict[tuple[int, int], bytes] = {}
        for number, entry in enumerate(entries):
            nodes[0, number] = leaf_hash(entry)
            for level, place, value in frontier.append(leaf_hash(entry)):
                nodes[level, place] = value
        signer = key or self.broker_key
        origin = self.state.registry.origin
        checkpoint = Checkpoint(origin, len(entries), frontier.root())
        note = parse_note(sign_checkpoint(checkpoint, signer, signer.public))
        lines = [
            cosign(note.text, name, self.keys[name], self.keys[name].public, self.clock.now)
            for name in (self.jurisdictions if witnesses is None else witnesses)
        ]
        path = prove_inclusion(leaf, len(entries), lambda level, number: nodes[level, number])
        return Proof(leaf, tuple(path), Note(note.text, (*note.lines, *lines))).encode()

    def witness(self, witnesses: Sequence[str] | None = None) -> None:
        """Give every node the proofs that it waits for."""
        for name in self.jurisdictions:
            store = self.nodes[name].store
            with store.read() as reads:
                leaves = [row.leaf for leaf in range(len(self.entries())) for row in reads.leaves_by("leaf", [leaf])]
            with store.write() as tx:
                rows = [{"leaf": leaf, "state": "proven", "proof": self.proof(leaf, witnesses)} for leaf in leaves]
                tx.set(tables.leaves, "leaf", rows)

    def config(self, name: str) -> Config:
        """The files of a node, as `init`, `join` and `run` leave them."""
        place = self.directory / f"files-{name}"
        place.mkdir(exist_ok=True)
        save_invitation(place / "invitation.json", self.invitation(name))
        return Config(
            **{
                **dict.fromkeys(Config.__dataclass_fields__),
                "member": name,
                "jurisdiction": name,
                "name": name,
                "data": self.directory / name,
                "invitation": place / "invitation.json",
                "http": Http(),
            }
        )

    def bundle(self, name: str, report_id: str, **options: Any) -> Bundle:
        """What the node exports."""
        return export(self.config(name), report_id, self.clock.now, **options)


# --- cases --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A region with one report, and what both sides export of it."""

    world: World
    report_id: str
    own: Bundle
    got: Bundle
    other: Bundle
    """Of another report of the same origin."""

    @property
    def trust(self) -> Trust:
        return Trust(tuple(self.world.region.broker_keys))

    @property
    def now(self) -> datetime:
        return self.world.clock.now

    def verify(self, bundle: Bundle) -> Verdict:
        return verify_bundle(bundle, self.trust, self.now)


def make_world(seed: int = 0, **options: Any) -> World:
    return World(Path(tempfile.mkdtemp()), ("id", "my", "sg"), seed=seed, **options)


def with_notices(world: World, bundle: Bundle) -> Bundle:
    """What the broker says of reports that wait, are stopped, or are linked, which needs longer to come about."""
    digest = bundle.revisions[0].digest
    word = {"iss": "broker", "aud": "id", "at": world.clock.now}
    lying = Delivered(**word, member="my", reports=[digest])
    stopped = Stopped(**word, member="sg", reports=[digest], refusal=Refusal(reason="denied-by-rule", detail="rule x"))
    here = LinkedReport(digest=digest, report_id=bundle.report_id, origin="id")
    there = LinkedReport(digest="A" * 43, report_id="019ca869-5000-75e5-8a00-9d49a59c5b7f", origin="my")
    links = Links(**word, links=[Link(a=here, b=there, strength="strong", on={"ipv4-addr": 1})])
    return msgspec.structs.replace(
        replaced(
            bundle,
            delivered=[sign_statement(lying, world.broker_key)],
            stopped=[sign_statement(stopped, world.broker_key)],
        ),
        links=[sign_statement(links, world.broker_key)],
    )


def replaced(bundle: Bundle, number: int = 0, **changes: Any) -> Bundle:
    """A copy with something else in one revision."""
    revisions = list(bundle.revisions)
    revisions[number] = msgspec.structs.replace(revisions[number], **changes)
    return msgspec.structs.replace(bundle, revisions=revisions)


@functools.cache
def case(seed: int = 0) -> Case:
    """Made once: nobody changes it."""
    world = make_world(seed)
    first, third = world.post("id", filing(1), filing(3))
    # What is signed, received and delivered at one moment could not tell one time from another.
    world.clock.pass_(20)
    world.settle()
    (second,) = world.post("id", filing(2))
    world.settle()
    world.nodes["my"].confirm(first["report_id"], "read")
    world.settle()
    world.post("id", filing(4, report_id=first["report_id"], revision=2))
    world.settle()
    world.witness()
    assert len({first["report_id"], second["report_id"], third["report_id"]}) == 3
    return Case(
        world,
        first["report_id"],
        with_notices(world, world.bundle("id", first["report_id"])),
        world.bundle("my", first["report_id"]),
        world.bundle("id", second["report_id"]),
    )


def proven(verdict: Verdict) -> set[tuple[str, str, bytes]]:
    """What a verdict calls proven, word for word."""
    encode = msgspec.json.Encoder(order="deterministic").encode
    return {(item.about, item.sentence, encode(item.facts)) for item in verdict.findings if item.outcome == "proven"}


def reasons(verdict: Verdict) -> set[str]:
    return {item.reason for item in verdict.findings if item.outcome == "not-proven"}


def subjects(verdict: Verdict, outcome: str) -> set[str]:
    return {item.about for item in verdict.findings if item.outcome == outcome}


def outcomes(verdict: Verdict) -> list[tuple[str, str, str]]:
    return [(item.about, item.outcome, item.sentence) for item in verdict.findings if item.outcome != "proven"]


def edit(bundle: Bundle, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Bundle:
    """A copy with one value changed, as somebody with an editor would."""
    document = msgspec.json.decode(write_bundle(bundle))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = change(place[path[-1]])
    return read_bundle(msgspec.json.encode(document))


def flip(text: str, at: float) -> str:
    """Another character somewhere, of the same alphabet."""
    index = min(int(len(text) * at), len(text) - 1)
    return text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]


def strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from strings(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from strings(item, (*path, number))


def reproof(text: str, **changes: Any) -> str:
    proof = parse_proof(text)
    fields = {"index": proof.index, "path": proof.path, "note": proof.note, **changes}
    return Proof(**fields).encode()


def receipt_of(bundle: Bundle, number: int = 0) -> Receipt:
    payload = split_jws(str(bundle.revisions[number].receipt), Receipt.typ).payload
    return msgspec.json.decode(payload, type=Receipt)


def with_key(bundle: Bundle, name: str, **changes: Any) -> Bundle:
    """The bundle under a newer region document that says something else of a member's key."""
    world = case().world
    members = [
        msgspec.structs.replace(member, keys=[msgspec.structs.replace(member.keys[0], **changes)])
        if member.id == name
        else member
        for member in world.region.members
    ]
    region = msgspec.structs.replace(world.region, members=members)
    return msgspec.structs.replace(bundle, region=sign_region(region, world.broker_key, case().now))
