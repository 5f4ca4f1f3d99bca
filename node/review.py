"""The review queue: filings that wait until a person releases them, and what became of those before.

Guarantees: a held filing is on disk with its answer, and nothing of it is signed or sent; the same filing of the same
client is one entry, whatever became of it; releasing files it in the same transaction that says so, by the rules for
revisions and repetitions that hold then; an entry is decided once, and not by whom it is from. Refused ones stay, with
the reason; their content goes after a while. A client's quota counts what is new and nothing else.

No I/O but the transaction; time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from node import tables
from node.answers import Accepted, Answer, Held
from node.ids import content_hash
from node.intake import Draft, Posting
from node.store import Reads, Store, Tx, instant
from protocol.access import Client, allows
from protocol.errors import ProtocolError
from protocol.reasons import Reason
from protocol.report import json_encode

HELD: Final = "held"
RELEASED: Final = "released"
REFUSED: Final = "refused"
STATES: Final = frozenset({HELD, RELEASED, REFUSED})
LONGEST_REASON: Final = 1_000


def over_quota() -> ProtocolError:
    """A report that is not taken now."""
    return ProtocolError(Reason.QUOTA_EXCEEDED, "$", "this token has filed as much as it may: see Retry-After")


class Holding:
    """What one batch holds back, releases and spends. Use once."""

    def __init__(self, tx: Tx, at: int) -> None:
        self._tx = tx
        self._at = at
        self._known: dict[tuple[str, str], int] = {}
        self._rows: list[dict[str, Any]] = []
        self._released: set[int] = set()
        self._spent: list[Client] = []

    def stock(self, postings: Sequence[Posting]) -> None:
        """Look up what of a batch is in the queue already."""
        hashes: dict[str, list[str]] = {}
        for posting in postings:
            if posting.client.held:
                found = hashes.setdefault(posting.client.name, [])
                found += [item_hash(item) for item in posting.items if isinstance(item, Draft)]
        for client, named in hashes.items():
            self._known |= {(client, name): number for name, number in self._tx.held_as(client, named).items()}

    def hold(self, item: Draft, client: Client, after: str = "") -> Held | ProtocolError:
        """Put a filing into the queue.

        Args:
            after: the digest of the revision that it would follow, if it were filed now and its source is told apart.
        """
        name = item_hash(item)
        number = self._known.get((client.name, name))
        if number is not None and after and self._is_released(number):
            # Its source has come back to what was released once: another entry, and the same one if it says so twice.
            name = content_hash(f"{name} after {after}".encode())
            number = self._known.get((client.name, name)) or self._tx.held_as(client.name, [name]).get(name)
        if number is not None:
            return Held(number, replayed=True)
        if not self.spend(client):
            return over_quota()
        number = self._known[client.name, name] = self._tx.number(tables.review)
        tlp = item.filing.marking.tlp
        row = {"id": number, "client": client.name, "item_hash": name, "filing": json_encode(item.filing), "tlp": tlp}
        self._rows.append(
            {**row, "state": HELD, "held_at": self._at, "updates": item.update is not None, "stated_at": item.stated_at}
        )
        self._tx.event("review.held", {"review": number, "tlp": tlp, "by": client.name}, self._at)
        return Held(number, replayed=False)

    def _is_released(self, number: int) -> bool:
        row = self._tx.review_row(number)
        return row is not None and bool(row.state == RELEASED)

    def decided(self, number: int) -> ProtocolError | None:
        """Why an entry cannot be released any more."""
        row = self._tx.review_row(number)
        if row is None or row.state != HELD or number in self._released:
            return ProtocolError(Reason.ALREADY_DECIDED, "$", "somebody has decided about this filing already")
        self._released.add(number)
        return None

    def write(self, postings: Sequence[Posting], replies: Sequence[Answer | ProtocolError]) -> None:
        """Write what was held, and which entries were released as what."""
        self._tx.add(tables.review, self._rows)
        for posting, reply in zip(postings, replies, strict=True):
            if posting.release is None or not isinstance(reply, Answer):
                continue
            (known,) = (result.known for result in reply.results if isinstance(result, Accepted))
            release = posting.release
            became = {"report_id": known.report_id, "revision": known.revision}
            _decide(self._tx, release.number, RELEASED, release.by, self._at, became, digest=known.digest)

    # --- quotas

    def spend(self, client: Client) -> bool:
        """Count one more report of a client; False if it may not file more now."""
        if client.quota is None:
            return True
        if not client.quota.take():
            return False
        self._spent.append(client)
        return True

    def unspend(self, client: Client) -> None:
        """The report was refused after all."""
        if client.quota is not None:
            self._spent.remove(client)
            client.quota.give_back(1)

    def give_back(self) -> None:
        """Nothing of the batch was committed."""
        for client in self._spent:
            if client.quota is not None:
                client.quota.give_back(1)


def item_hash(item: Draft) -> str:
    """The name of a filing within one client's: its content together with the ids that it states."""
    return content_hash(json_encode(item.filing))


def held(store: Store) -> int:
    """How many filings wait for a person."""
    with store.read() as reads:
        return reads.held()


# --- decisions --------------------------------------------------------------------------------------------------


def entry(reads: Reads, number: int, client: Client) -> Any:
    """An entry as far as a client may see it: a reviewer what it may read, a filer its own.

    Raises:
        ProtocolError: UNKNOWN_REVIEW.
    """
    row = reads.review_row(number)
    if row is None or not allows(client, row.tlp) or not ("release" in client.scopes or row.client == client.name):
        raise ProtocolError(Reason.UNKNOWN_REVIEW, "$", "there is no filing with this number in the review queue")
    return row


def to_decide(reads: Reads, number: int, client: Client) -> Any:
    """An entry about which a client may decide, decided or not.

    Raises:
        ProtocolError: UNKNOWN_REVIEW; OWN_FILING: nobody decides about what they filed.
    """
    row = entry(reads, number, client)
    if row.client == client.name:
        raise ProtocolError(Reason.OWN_FILING, "$", "this token filed it: another person's token decides about it")
    return row


def refuse(tx: Tx, number: int, client: Client, why: str, at: int) -> bool:
    """Turn a filing away for good; False if it was refused before.

    Raises:
        ProtocolError: as `to_decide` says; ALREADY_DECIDED if it was released.
    """
    row = to_decide(tx, number, client)
    if row.state == REFUSED:
        return False
    if row.state != HELD:
        raise ProtocolError(Reason.ALREADY_DECIDED, "$", "it was released: file a withdrawal instead")
    _decide(tx, number, REFUSED, client.name, at, {"why": why})
    return True


def erase_refused(tx: Tx, before: int, at: int, most: int) -> int:
    """Erase the content of filings that were refused before a time, at most so many; how many it was."""
    rows = tx.refused_filings(before, most)
    tx.set(tables.review, "id", [{"id": row.id, "filing": b""} for row in rows])
    for row in rows:
        tx.event("review.erased", {"review": row.id, "tlp": row.tlp, "by": row.client, "state": REFUSED}, at)
    tx.erased |= bool(rows)
    return len(rows)


def refused(store: Store) -> int:
    """How many filings were refused and still have their content here."""
    with store.read() as reads:
        return reads.refused_with_content()


def _decide(tx: Tx, number: int, state: str, by: str, at: int, became: dict[str, Any], **facts: Any) -> None:
    row = tx.review_row(number)
    tx.set(tables.review, "id", [{"id": number, "state": state, "decided_at": at, "decided_by": by, **became}])
    told = {name: value for name, value in became.items() if name != "why"}
    event = {"review": number, "tlp": row.tlp if row else "", "by": by, "state": state, **told, **facts}
    tx.event("review.decided", event, at)


def entry_line(row: Any) -> dict[str, Any]:
    """An entry as clients read it; with its content if the row has it."""
    decided = {
        "decided_at": _iso(row.decided_at) if row.decided_at is not None else None,
        "decided_by": row.decided_by,
        "why": row.why,
        "report_id": row.report_id,
        "revision": row.revision,
        "status": f"/v1/reports/{row.report_id}" if row.report_id else None,
    }
    return {
        "review": row.id,
        "state": row.state,
        "filed_by": row.client,
        "tlp": row.tlp,
        "held_at": _iso(row.held_at),
        **{name: value for name, value in decided.items() if value is not None},
        **({"report": msgspec.Raw(row.filing)} if getattr(row, "filing", b"") else {}),
    }


def _iso(at: int) -> str:
    return instant(at).isoformat().replace("+00:00", "Z")
