"""Checkpoints of the log as C2SP signed notes: written by the broker, cosigned by the nodes as witnesses.

    kentongan/asean            the origin: which log
    12                         how many leaves
    CsUYapGG…=                 the root of the tree, RFC 6962, base64

    — kentongan/asean Az3g…    the log's signature (type 0x01)
    — id-cert jWbP…            a witness: "at this time it was the largest tree that I had seen" (type 0x04)

Follows signed-note v1.0.0, tlog-checkpoint v1.0.0 and tlog-cosignature v1 (Ed25519). The log signs with the broker's
key, a witness with its member's signing key: a note begins with its origin or with `cosignature/v1`, a JWS with `eyJ`,
so that no signature of one kind can pass for one of the other. Guarantees: `open_checkpoint` returns what the log
signed or raises `ProtocolError`; signatures of unknown keys are ignored, a false one of a known key refuses the note.
Refuses: control characters, extension lines, numbers with leading zeroes, over-long notes.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from protocol import limits
from protocol.errors import ProtocolError
from protocol.keys import ED25519, KeyRecord, Signer, VerifyKey, unb64
from protocol.merkle import HASH, MOST_LEAVES
from protocol.reasons import Reason

LOG: Final = 0x01
"""Signature type of a log: plain Ed25519 over the text."""
WITNESS: Final = 0x04
"""Signature type of a witness: Ed25519 over the time and the text."""
_DASH: Final = "\u2014 "
_STAMP: Final = 8
_SIGNATURE: Final = 64
_NOT_VALID_THEN: Final = (Reason.KEY_REVOKED, Reason.KEY_NOT_VALID)


def _bad(detail: str) -> ProtocolError:
    return ProtocolError(Reason.MALFORMED_NOTE, "$", detail)


def origin_of(region: str) -> str:
    """The name of a region's log: `kentongan/` and the region's name, spaces and plus signs as hyphens."""
    return "kentongan/" + "".join("-" if char.isspace() or char == "+" else char for char in region)


def key_id(name: str, kind: int, public: bytes) -> bytes:
    """The four bytes that name a key in a signature line."""
    return hashlib.sha256(name.encode("utf-8") + b"\n" + bytes([kind]) + public).digest()[:4]


def vkey(name: str, kind: int, public: bytes) -> str:
    """The verifier key as other programs that read signed notes want it."""
    return f"{name}+{key_id(name, kind, public).hex()}+{b64encode(bytes([kind]) + public).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class NoteKey:
    """Whose signature of which kind is known here under which name."""

    name: str
    kind: int
    key: VerifyKey

    @property
    def id(self) -> bytes:
        """The four bytes of its signature lines."""
        return key_id(self.name, self.kind, unb64(self.key.record.public))


def cosigns(key: KeyRecord | Signer) -> bool:
    """Whether notes can be signed with a key: C2SP has no form for ML-DSA-65."""
    return key.alg == ED25519


def log_keys(origin: str, broker: str, records: Iterable[KeyRecord]) -> list[NoteKey]:
    """The keys that may sign the log's checkpoints."""
    return [NoteKey(origin, LOG, VerifyKey.from_record(broker, record)) for record in records if cosigns(record)]


def witness_keys(member: str, records: Iterable[KeyRecord]) -> list[NoteKey]:
    """The keys with which a member may cosign."""
    return [NoteKey(member, WITNESS, VerifyKey.from_record(member, record)) for record in records if cosigns(record)]


# --- notes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One signature line, not verified."""

    name: str
    key_id: bytes
    signature: bytes

    def encode(self) -> str:
        """The line with its newline."""
        return f"{_DASH}{self.name} {b64encode(self.key_id + self.signature).decode('ascii')}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note as parsed; nothing in it is verified."""

    text: str
    lines: tuple[Line, ...]

    def encode(self) -> str:
        """The note as it travels."""
        return self.text + "\n" + "".join(line.encode() for line in self.lines)


def parse_line(text: str) -> Line:
    """Read one signature line without its newline. ProtocolError if it is none."""
    if not text.startswith(_DASH):
        raise _bad("a signature line begins with an em dash and a space")
    name, space, packed = text.removeprefix(_DASH).partition(" ")
    if not space or not name or "+" in name or any(char.isspace() for char in name):
        raise _bad("a signature line is: dash, name, signature")
    try:
        data = b64decode(packed, validate=True)
    except ValueError as exc:
        raise _bad("a signature is base64") from exc
    if len(data) <= 4 or b64encode(data).decode("ascii") != packed:
        raise _bad("a signature is base64 of an id and the signature")
    return Line(name, data[:4], data[4:])


def parse_note(note: str) -> Note:
    """Cut a note into text and signatures.

    Raises:
        ProtocolError: it is no signed note, or larger than the limits.
    """
    if len(note) > limits.NOTE:
        raise _bad("the note is too long")
    if any(ord(char) < 0x20 and char != "\n" for char in note):
        raise _bad("a note has no control characters")
    text, gap, signatures = note.rpartition("\n\n")
    if not gap or not signatures.endswith("\n"):
        raise _bad("a note is text, an empty line, and signature lines")
    lines = signatures[:-1].split("\n")
    if len(lines) > limits.NOTE_SIGNATURES:
        raise _bad("too many signatures")
    return Note(text + "\n", tuple(parse_line(line) for line in lines))


# --- checkpoints ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of the log: which log, how many leaves, which root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The signed text."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode('ascii')}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a note's text as a checkpoint. ProtocolError if it is none; extension lines are refused."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise _bad("a checkpoint is three lines: origin, size, root")
    size, root = lines[1], lines[2]
    if not size.isascii() or not size.isdigit() or len(size) > 19 or (size[0] == "0" and size != "0"):
        raise _bad("the size is a decimal number without leading zeroes")
    try:
        data = b64decode(root, validate=True)
    except ValueError as exc:
        raise _bad("the root is base64") from exc
    if len(data) != HASH or b64encode(data).decode("ascii") != root or int(size) > MOST_LEAVES:
        raise _bad("the root is base64 of 32 bytes")
    return Checkpoint(lines[0], int(size), data)


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer, public: bytes) -> str:
    """The log's note over a checkpoint.

    Args:
        public: the signer's raw public key.
    """
    text = checkpoint.text()
    signature = signer.sign(text.encode("utf-8"))
    return Note(text, (Line(checkpoint.origin, key_id(checkpoint.origin, LOG, public), signature),)).encode()


def _cosigned(text: str, stamp: int) -> bytes:
    return f"cosignature/v1\ntime {stamp}\n{text}".encode()


def cosign(text: str, member: str, signer: Signer, public: bytes, now: datetime) -> Line:
    """A witness's line for a checkpoint: the caller has verified that it continues all that the witness has seen."""
    stamp = int(now.timestamp())
    signature = signer.sign(_cosigned(text, stamp))
    return Line(member, key_id(member, WITNESS, public), stamp.to_bytes(_STAMP, "big") + signature)


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A verified cosignature."""

    member: str
    at: datetime
    kid: str


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint that its log signed, with the witnesses whose signatures hold."""

    checkpoint: Checkpoint
    note: Note
    witnesses: Mapping[str, Cosigned]


def cosigned_at(line: Line) -> datetime:
    """When a witness says that it cosigned; nothing is verified. ProtocolError if the line is no cosignature."""
    if len(line.signature) != _STAMP + _SIGNATURE:
        raise _bad("a cosignature is eight bytes of time and a signature")
    stamp = int.from_bytes(line.signature[:_STAMP], "big")
    if not 0 < stamp < 1 << 37:
        raise _bad("not a time")
    return datetime.fromtimestamp(stamp, UTC)


def verify_cosignature(text: str, line: Line, key: NoteKey) -> Cosigned:
    """Verify a witness's line.

    Raises:
        ProtocolError: it is malformed, false, or the key was not valid when it was made.
    """
    at = cosigned_at(line)
    key.key.verify(line.signature[_STAMP:], _cosigned(text, int(at.timestamp())))
    key.key.check_window(at)
    return Cosigned(key.name, at, key.key.record.kid)


def open_checkpoint(note: str, log: Iterable[NoteKey], witnesses: Iterable[NoteKey], now: datetime) -> OpenedCheckpoint:
    """Verify a checkpoint.

    Args:
        log: the keys of the log, under the name that is its origin.
        witnesses: the keys of the members.
        now: the time at which the log's key must be valid; cosignatures from its future are refused.

    Returns:
        the checkpoint, and each witness that cosigned it once. Whose key was not valid then, as one that was revoked
        since, has not cosigned: what others said of the checkpoint stands.

    Raises:
        ProtocolError: the log did not sign it, or a known key's signature is false.
    """
    parsed = parse_note(note)
    checkpoint = parse_checkpoint(parsed.text)
    known = {(key.name, key.id): key for key in (*log, *witnesses)}
    signed = False
    found: dict[str, Cosigned] = {}
    for line in parsed.lines:
        key = known.get((line.name, line.key_id))
        if key is None:
            continue
        if key.kind == WITNESS:
            try:
                seen = verify_cosignature(parsed.text, line, key)
            except ProtocolError as exc:
                if exc.reason in _NOT_VALID_THEN:
                    continue
                raise
            if seen.at > now + limits.CLOCK_SKEW:
                raise ProtocolError(Reason.TIME_IN_FUTURE, "$", "cosigned in the future: check the clocks")
            found[seen.member] = seen
        else:
            if key.name != checkpoint.origin:
                raise _bad("the checkpoint is of another log")
            if len(line.signature) != _SIGNATURE:
                raise _bad("not a signature")
            key.key.verify(line.signature, parsed.text.encode("utf-8"))
            key.key.check_window(now)
            signed = True
    if not signed:
        raise ProtocolError(Reason.SIGNATURE_INVALID, "$", "the log has not signed this checkpoint")
    return OpenedCheckpoint(checkpoint, parsed, found)
