"""What a node and the broker's log say to each other by request and reply.

    log.next         "I have verified this size": the next checkpoint to witness, when there is one, and the newest that
                     a quorum has cosigned. The answer may wait for up to `wait` seconds.
    log.cosign       a witness's line for a checkpoint
    log.prove        inclusion proofs in the tree of a given size
    log.consistency  the proof that one tree is the beginning of another
    log.tile         a tile or an entry bundle by its path in tlog-tiles, as the HTTP door serves it (raw bytes)

Hashes are base64url, notes are text. All limits are in the types; whoever asks for more is refused.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from protocol import limits
from protocol.merkle import PROOF_HASHES
from protocol.report import Digest

NEXT: Final = "log.next"
COSIGN: Final = "log.cosign"
PROVE: Final = "log.prove"
CONSISTENCY: Final = "log.consistency"
TILE: Final = "log.tile"
LONGEST_WAIT: Final = 8.0
"""Seconds that an answer to `log.next` may be held back."""

Size = Annotated[int, Meta(ge=0, lt=2**62)]
Path = Annotated[list[Digest], Meta(max_length=PROOF_HASHES + 1)]
NoteText = Annotated[str, Meta(max_length=limits.NOTE)]


class _Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class NextRequest(_Message, frozen=True, kw_only=True):
    """Where the witness stands."""

    size: Size
    published: Size = 0
    """Size of the newest checkpoint with a quorum that it knows."""
    wait: Annotated[float, Meta(ge=0, le=LONGEST_WAIT)] = 0.0


class NextAnswer(_Message, frozen=True, kw_only=True):
    """What is new; both empty if nothing is."""

    checkpoint: NoteText = ""
    """The checkpoint to witness: the log's note, larger than the size asked from."""
    consistency: Path = []
    """From the size asked from to that checkpoint."""
    published: NoteText = ""
    """The newest note with a quorum of cosignatures, if it is newer than the one asked from."""


class CosignRequest(_Message, frozen=True, kw_only=True):
    """A witness's word on the checkpoint of that size."""

    size: Size
    line: Annotated[str, Meta(max_length=512)]


class ProveRequest(_Message, frozen=True, kw_only=True):
    """Which leaves, in the tree of which size."""

    size: Size
    leaves: Annotated[list[Size], Meta(min_length=1, max_length=limits.PROOFS_PER_REQUEST)]


class ProveAnswer(_Message, frozen=True, kw_only=True):
    """One path a leaf, in the order asked."""

    paths: Annotated[list[Path], Meta(max_length=limits.PROOFS_PER_REQUEST)]


class ConsistencyRequest(_Message, frozen=True, kw_only=True):
    """From which size to which."""

    old: Size
    new: Size


class ConsistencyAnswer(_Message, frozen=True, kw_only=True):
    """The proof."""

    path: Path


class TileRequest(_Message, frozen=True, kw_only=True):
    """A path as in tlog-tiles: `tile/0/x001/234`, `tile/entries/000.p/12`, `checkpoint`."""

    path: Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9./]+$(?!\n)")]


encode: Final = msgspec.json.Encoder().encode
