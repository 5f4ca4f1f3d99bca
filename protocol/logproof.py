"""A tlog-proof: one text that proves, offline, that an entry is in the log and that witnesses have seen it there.

Follows c2sp.org/tlog-proof@v1: index, inclusion proof, and the checkpoint with its cosignatures; the file's extension
is `.tlog-proof`. Guarantees: `parse_proof` reads exactly what `Proof.encode` writes, and refuses everything else;
`Proof.verify` checks entry, index and path against the checkpoint, whose signatures are the caller's to verify.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Final

from protocol import limits
from protocol.errors import ProtocolError
from protocol.merkle import HASH, PROOF_HASHES, verify_inclusion
from protocol.notes import Note, parse_checkpoint, parse_note
from protocol.reasons import Reason

HEAD: Final = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """Where an entry is in the log, and the way from it to the checkpoint's root."""

    index: int
    path: tuple[bytes, ...]
    note: Note

    def encode(self) -> str:
        """The proof as a file."""
        hashes = "".join(b64encode(item).decode("ascii") + "\n" for item in self.path)
        return f"{HEAD}\nindex {self.index}\n{hashes}\n{self.note.encode()}"

    def verify(self, entry: bytes) -> None:
        """Check that the entry is in the checkpoint's tree; says nothing of the note's signatures.

        Raises:
            ProtocolError: it is not.
        """
        checkpoint = parse_checkpoint(self.note.text)
        verify_inclusion(entry, self.index, checkpoint.size, self.path, checkpoint.root)


def _bad(detail: str) -> ProtocolError:
    return ProtocolError(Reason.MALFORMED_PROOF, "$", detail)


def parse_proof(text: str) -> Proof:
    """Read a proof. An `extra` line is allowed by the specification, and refused here: nothing would read it.

    Raises:
        ProtocolError: it is none.
    """
    if len(text) > limits.NOTE + 64 * PROOF_HASHES:
        raise _bad("the proof is too long")
    head, gap, note = text.partition("\n\n")
    lines = head.split("\n")
    if not gap or len(lines) < 2 or lines[0] != HEAD or not lines[1].startswith("index "):
        raise _bad(f"a proof begins with {HEAD} and its index")
    number = lines[1].removeprefix("index ")
    if not number.isascii() or not number.isdigit() or len(number) > 19 or (number[0] == "0" and number != "0"):
        raise _bad("the index is a decimal number without leading zeroes")
    if len(lines) - 2 > PROOF_HASHES:
        raise _bad("the path is too long")
    path: list[bytes] = []
    for line in lines[2:]:
        try:
            item = b64decode(line, validate=True)
        except ValueError as exc:
            raise _bad("the path is base64, a hash a line") from exc
        if len(item) != HASH or b64encode(item).decode("ascii") != line:
            raise _bad("the path is base64, a hash a line")
        path.append(item)
    parsed = parse_note(note)
    parse_checkpoint(parsed.text)
    return Proof(int(number), tuple(path), parsed)
