"""What a member's inbox may have lost and nobody else would send again: confirmations, links, stopped deliveries.

Receipts come again because the origin repeats its submission, deliveries because the broker repeats them. Notices are
only pushed once; a node asks for those after the last one it knows whenever it connects, and every minute.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from broker import store, tables
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.reasons import Reason

MOST: Final = 200


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """`{"after": 17}`"""

    after: int = 0


class Notice(Struct, frozen=True):
    """One signed statement: a recipient's confirmation, links, or how a delivery stands."""

    kind: Literal["confirmed", "links", "stopped", "delivered"]
    jws: str


class Answer(Struct, frozen=True):
    """The next notices, and the number to ask with next time."""

    next: int
    notices: list[Notice]


_question: Final = msgspec.json.Decoder(Question)


def missed(ledger_store: store.Store, member: str, data: bytes) -> bytes:
    """Answer a member's question; it only ever gets its own notices.

    Raises:
        ProtocolError: the question is malformed.
        Transient: the ledger cannot be read now.
    """
    question = decode(_question, data)
    if not 0 <= question.after < 1 << 62:
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.after", "not the number of a notice")
    with ledger_store.reading() as connection:
        rows: list[Any] = store.after(connection, tables.notices, question.after, MOST, member=member)
    notices = [Notice(row.kind, row.jws.decode("ascii")) for row in rows]
    return msgspec.json.encode(Answer(int(rows[-1].id) if rows else question.after, notices))
