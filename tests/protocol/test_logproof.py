"""A tlog-proof is read as it is written, proves what it says offline, and nothing else."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.logproof import HEAD, Proof, parse_proof
from protocol.merkle import PROOF_HASHES, prove_inclusion, tree_root
from protocol.notes import Checkpoint, cosign, open_checkpoint, parse_note, sign_checkpoint
from protocol.reasons import Reason
from tests.protocol.make import NOW, key_of, quick, refused
from tests.protocol.test_merkle import ENTRIES, MOST, NODES
from tests.protocol.test_notes import LOG_KEY, LOG_KEYS, ORIGIN, WITNESSES


def proof(index: int, size: int, *members: str) -> Proof:
    """A proof with these witnesses."""
    checkpoint = Checkpoint(ORIGIN, size, tree_root(size, NODES))
    note = sign_checkpoint(checkpoint, LOG_KEY, LOG_KEY.public)
    for member in members:
        note += cosign(checkpoint.text(), member, key_of(member), key_of(member).public, NOW).encode()
    return Proof(index, tuple(prove_inclusion(index, size, NODES)), parse_note(note))


@quick(60)
@given(st.integers(1, MOST), st.data())
def test_read_as_written(size: int, data: st.DataObject) -> None:
    """With and without a path, with and without witnesses; and it proves its entry, and no other."""
    index = data.draw(st.integers(0, size - 1))
    members = data.draw(st.lists(st.sampled_from(("id-cert", "sg-cert", "my-cert")), unique=True))
    made = proof(index, size, *members)
    text = made.encode()
    assert parse_proof(text) == made
    assert parse_proof(text).encode() == text
    made.verify(ENTRIES[index])
    with refused(Reason.PROOF_INVALID):
        made.verify(ENTRIES[index] + b"x")
    with refused(Reason.PROOF_INVALID):
        Proof((index + 1) % (size + 1), made.path, made.note).verify(ENTRIES[index])
    opened = open_checkpoint(made.note.encode(), LOG_KEYS, WITNESSES, NOW)
    assert opened.witnesses.keys() == set(members)


def test_the_form_of_the_specification() -> None:
    """Head, index, hashes from the leaf's sibling upwards, an empty line, the checkpoint as it is."""
    made = proof(2, 5, "id-cert")
    lines = made.encode().split("\n")
    assert lines[:2] == [HEAD, "index 2"] == ["c2sp.org/tlog-proof@v1", "index 2"]
    assert lines[2:5] == [b64encode(item).decode() for item in made.path]
    assert lines[2] == b64encode(NODES(0, 3)).decode(), "the sibling of the leaf comes first"
    assert "\n".join(lines[5:]) == "\n" + made.note.encode()


GOOD = proof(2, 5, "id-cert").encode()
FIRST = b64encode(NODES(0, 3)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.replace("@v1", "@v2"),
        GOOD.replace(HEAD, HEAD + " "),
        "\n" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("index 2", "index 02"),
        GOOD.replace("index 2", "index -2"),
        GOOD.replace("index 2", "index "),
        GOOD.replace("index 2", "index \u0662"),
        GOOD.replace("index 2", "index " + "9" * 20),
        GOOD.replace("index 2", "index 2\nextra AAAA"),
        GOOD.replace("index 2", "extra AAAA\nindex 2"),
        GOOD.replace("index 2\n", ""),
        GOOD.replace(FIRST, FIRST.rstrip("=")),
        GOOD.replace(FIRST, FIRST + "!"),
        GOOD.replace(FIRST, FIRST[:-2] + ("B=" if FIRST[-2] != "B" else "C=")),
        GOOD.replace(FIRST, b64encode(bytes(31)).decode()),
        GOOD.replace(FIRST, "\n".join([FIRST] * (PROOF_HASHES + 1))),
        GOOD + "x" * (limits.NOTE + 64 * PROOF_HASHES),
    ],
)
def test_what_is_no_proof(text: str) -> None:
    """One spelling; extra data, which the specification allows and nobody signs, is refused."""
    with refused(Reason.MALFORMED_PROOF):
        parse_proof(text)


@pytest.mark.parametrize("change", [lambda text: text + "x", lambda text: text.replace("\n5\n", "\n5\n\n")])
def test_the_note_inside_is_one(change: object) -> None:
    """Read by the same reader as any other."""
    assert callable(change)
    with refused(Reason.MALFORMED_NOTE):
        parse_proof(change(GOOD))
