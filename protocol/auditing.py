"""What the node of an auditor and the broker say to each other, and whose traffic an auditor may see.

    audit.cases  "what is in the log from this leaf on that my jurisdiction is party to": of each submission of its own
                 members the signed receipt, of each that its members received the opening of their own grant
    audit.words  what was said of some of these cases since: recipients' confirmations, and the broker's word that
                 something is not delivered any more, each as it was signed

Guarantees: `Spans` says for a leaf of the log which members were of a jurisdiction, from the trustees' records and
their leaves alone, so that broker and auditor come to the same; an id that was given to another organisation later
shows that one nothing of the one before it. Each answer is a statement of the broker over question and answer
(`Audited`), so that what it left out contradicts its own signature. All limits are in the types. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol import limits
from protocol.errors import ProtocolError
from protocol.governance import Act, Admit, Expel
from protocol.keys import KeyLookup, Signer, b64
from protocol.reasons import Reason
from protocol.report import Digest, Instant, Jurisdiction
from protocol.statements import BROKER, Audited, Opening, open_statement, sign_statement

CASES: Final = "audit.cases"
WORDS: Final = "audit.words"
ROLE: Final = "auditor"

Leaf = Annotated[int, Meta(ge=0, lt=2**62)]


class _Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class CasesRequest(_Message, frozen=True, kw_only=True):
    """From which leaf on, and of what.

    Args:
        since, until: only what was decided from then on, and before then; where in the log that is, the broker seeks.
        report: only accepted revisions of this report.
    """

    first: Leaf = 0
    since: Instant | UnsetType = UNSET
    until: Instant | UnsetType = UNSET
    report: UUID | UnsetType = UNSET
    most: Annotated[int, Meta(ge=1, le=limits.PROOFS_PER_REQUEST)] = limits.PROOFS_PER_REQUEST


class Named(_Message, frozen=True, kw_only=True):
    """Which report a digest is; the broker's word where no receipt says so too."""

    digest: Digest
    report_id: str
    revision: int
    phase: str


class Granted(_Message, frozen=True, kw_only=True):
    """What shows that a member was granted something."""

    member: Jurisdiction
    opening: Opening


class Handed(_Message, frozen=True, kw_only=True):
    """A delivery as the broker keeps it: its word."""

    delivery: int
    member: Jurisdiction
    queued_at: Instant
    sent_at: Instant | UnsetType = UNSET
    reports: list[Digest]
    """Those of this case."""


class Case(_Message, frozen=True, kw_only=True):
    """One submission, as far as the auditor's jurisdiction is party to it. Never holds content."""

    leaf: Leaf
    origin: Jurisdiction
    received_at: Instant
    receipt: str | UnsetType = UNSET
    """Where the origin is of this jurisdiction: all that it was told."""
    granted: list[Granted] = []
    """Else: the own members' parts of it."""
    named: list[Named] = []
    handed: list[Handed] = []


class CasesAnswer(_Message, frozen=True, kw_only=True):
    """All that fits the question in the leaves from `first` to before `end`."""

    members: list[Jurisdiction]
    """Whose traffic it is."""
    first: Leaf
    end: Leaf
    size: Leaf
    """Leaves that there are, or will be when the next checkpoint is made."""
    more: bool
    """Whether the question goes on at `end`."""
    unseen: list[Leaf] = []
    """Leaves that concern them, and name a hidden member that this auditor does not see: they are not shown."""
    cases: Annotated[list[Case], Meta(max_length=limits.PROOFS_PER_REQUEST)]


class WordsRequest(_Message, frozen=True, kw_only=True):
    """What was said of the cases at these leaves, after a number that an answer named."""

    kind: Literal["confirmations", "stopped"]
    leaves: Annotated[list[Leaf], Meta(min_length=1, max_length=limits.PROOFS_PER_REQUEST)]
    after: Leaf = 0


class WordsAnswer(_Message, frozen=True, kw_only=True):
    """Signed statements; `next` is where to go on, 0 if that is all."""

    words: list[str]
    next: Leaf = 0


class Exchange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question and the broker's signed answer as they travelled: proof of what the broker said."""

    question: str
    answer: str


cases_request: Final = msgspec.json.Decoder(CasesRequest)
words_request: Final = msgspec.json.Decoder(WordsRequest)
cases_answer: Final = msgspec.json.Decoder(CasesAnswer)
words_answer: Final = msgspec.json.Decoder(WordsAnswer)
encode: Final = msgspec.json.Encoder().encode


# --- the broker's signature over an answer ----------------------------------------------------------------------


def digest_of(data: bytes) -> str:
    """How the statement names a question or an answer."""
    return b64(hashlib.sha256(data).digest())


def sign_answer(question: bytes, answer: bytes, member: str, signer: Signer, now: datetime) -> bytes:
    """The answer as it travels: the statement, newline, the answer."""
    said = Audited(iss=BROKER, aud=member, at=now, question=digest_of(question), answer=digest_of(answer))
    return sign_statement(said, signer).encode("ascii") + b"\n" + answer


def open_answer(data: bytes, question: bytes, own: str, find: KeyLookup, now: datetime) -> tuple[str, bytes]:
    """The broker's statement, and the answer that it has signed.

    Raises:
        ProtocolError: signature, audience, question or hash do not hold.
    """
    head, _, answer = data.partition(b"\n")
    jws = head.decode("ascii", "replace")
    said = open_statement(jws, Audited, find, now)
    if said.aud != own:
        raise ProtocolError(Reason.WRONG_AUDIENCE, "$.aud", "this answer is for another member")
    if said.question != digest_of(question):
        raise ProtocolError(Reason.CONTENT_CHANGED, "$.question", "this is the answer to another question")
    if said.answer != digest_of(answer):
        raise ProtocolError(Reason.CONTENT_CHANGED, "$.answer", "this is not the answer that the broker has signed")
    return jws, answer


# --- whose traffic ----------------------------------------------------------------------------------------------


class Spans:
    """Which members were of a jurisdiction at a leaf of the log, those that have left among them.

    Args:
        acts: what the trustees' records do, in order and as far as it is shown, each with its record's leaf.
    """

    def __init__(self, acts: Iterable[tuple[Act, int]], jurisdiction: str) -> None:
        self.jurisdiction = jurisdiction
        self._spans: dict[str, list[tuple[int, int | None]]] = {}
        open_: dict[str, tuple[str, int]] = {}
        left: dict[str, int] = {}
        for act, leaf in acts:
            if isinstance(act, Admit):
                # An id that nobody had before may have been used before the broker wrote the record into its log.
                open_[act.member.id] = (act.member.jurisdiction, left.get(act.member.id, 0))
            elif isinstance(act, Expel) and act.member in open_:
                of, since = open_.pop(act.member)
                left[act.member] = leaf
                self._add(act.member, of, since, leaf)
        for member, (of, since) in open_.items():
            self._add(member, of, since, None)

    def _add(self, member: str, of: str, since: int, until: int | None) -> None:
        if of == self.jurisdiction:
            self._spans.setdefault(member, []).append((since, until))

    @property
    def members(self) -> list[str]:
        """All that ever were."""
        return sorted(self._spans)

    def holds(self, member: str, leaf: int) -> bool:
        """Whether the member was of this jurisdiction then."""
        return any(since <= leaf and (until is None or leaf < until) for since, until in self._spans.get(member, ()))

    def among(self, members: Iterable[str], leaf: int) -> Sequence[str]:
        """Those of them that were."""
        return [member for member in members if self.holds(member, leaf)]
