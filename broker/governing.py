"""The governance chain at the broker: files that the trustees signed, rows of the ledger, leaves of the log.

    DIR/governance/000000.json …   one file a record, written once, never changed

Guarantees: a record is taken only if it follows from those before it and has the signatures that it needs; its file
appears as a whole or not at all, and never in place of another one; each record has a row of the ledger and a leaf of
the log before a node is shown a region that follows from it. What only some may see is closed before it is written, and
its opening listed to those only. From members on the bus nothing is taken but a change of
their own keys. Refuses files that contradict the ledger (ConfigError): what was handed out once is never taken back.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from broker import store, tables
from broker.seers import Roll, Seers
from protocol.chain import apply, found, weigh
from protocol.enact import State, subject_of
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.governance import Found, Keys, Signed, close_record, entry_of, open_record, without_opening
from protocol.keys import Signer, b64
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.registry import Member
from protocol.statements import BROKER

Carrier = Callable[[], Signer]
DIRECTORY: Final = "governance"
LIST_METHOD: Final = "governance.list"
OFFER_METHOD: Final = "governance.offer"
OFFERS_A_DAY: Final = 24
_DAY: Final = 86_400
MOST: Final = 64
ANSWER: Final = 1_000_000
"""Bytes of records in one answer."""


@dataclass(frozen=True, slots=True)
class Chain:
    """All records, as they are in their files, and what they lead to."""

    records: tuple[bytes, ...]
    digests: tuple[str, ...]
    state: State
    seers: tuple[Seers | None, ...] = ()
    """By record, those that see what it closes; None for an open one."""

    def holds(self, digest: str) -> bool:
        """Whether a record is here, also one that was closed."""
        inner = (open_record(data).inner for data in self.records)
        return digest in self.digests or any(one.digest == digest for one in inner if one is not None)


# --- files ------------------------------------------------------------------------------------------------------


def chain_files(directory: Path) -> list[Path]:
    """The records' files, in order."""
    return sorted((directory / DIRECTORY).glob("*.json"))


def _name(number: int) -> str:
    return f"{number:06}.json"


def load_chain(directory: Path, now: datetime) -> Chain:
    """Read the records and follow them. ConfigError with the file of the fault."""
    records: list[bytes] = []
    for number, path in enumerate(chain_files(directory)):
        if path.name != _name(number):
            raise ConfigError(f"{path.parent / _name(number)} is missing: copy it from a backup or from a node")
        try:
            records.append(path.read_bytes())
        except OSError as exc:
            raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    if not records:
        raise ConfigError(
            f"{directory / DIRECTORY} holds no record: make a region with `kentongan broker init`, or record its "
            "founding with `kentongan broker record`"
        )

    def fault(number: int, exc: ProtocolError) -> ConfigError:
        path = directory / DIRECTORY / _name(number)
        return ConfigError(f"{path}: {exc.detail} ({exc.reason.value} at {exc.path})")

    return follow(records, now, fault)


def follow(records: Sequence[bytes], now: datetime, fault: Callable[[int, ProtocolError], Exception]) -> Chain:
    """Follow all records, of which there is one at least.

    Args:
        fault: what to raise for the record at a number that does not hold.
    """
    state: State | None = None
    roll = Roll()
    digests: list[str] = []
    for number, data in enumerate(records):
        try:
            signed = open_record(data)
            before = state
            state = apply(before, signed, now) if before else found(signed, now)
        except ProtocolError as exc:
            raise fault(number, exc) from exc
        roll.follow(before, signed, state)
        digests.append(signed.digest)
    if state is None:
        raise AssertionError("a chain without records")
    return Chain(tuple(records), tuple(digests), state, roll.seers())


def append(
    directory: Path, data: bytes, now: datetime, carrier: Carrier, rand: Callable[[int], bytes] = secrets.token_bytes
) -> Signed:
    """Take one more record into the chain; what only some may see is closed first.

    Args:
        carrier: gives the broker's key, which signs closed records.
        rand: random bytes, as many as asked for.

    Raises:
        ProtocolError: it does not follow, or is not signed by who may decide it.
        ConfigError: the records that are there do not hold.
        Transient: the directory cannot be written now.
    """
    signed = open_record(data)
    if isinstance(signed.record.act, Found) and not chain_files(directory):
        found(signed, now)
    else:
        state = load_chain(directory, now).state
        data = close(state, data, now, carrier, rand)
        signed = open_record(data)
        apply(state, signed, now)
    place = directory / DIRECTORY / _name(signed.record.number)
    draft = place.with_suffix(f".{os.getpid()}.new")
    try:
        place.parent.mkdir(exist_ok=True)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # Linking gives the whole file its name, and fails if the name is taken.
        os.link(draft, place)
        draft.unlink()
        _sync(place.parent)
    except FileExistsError as exc:
        draft.unlink()
        raise ProtocolError(Reason.RECORD_OUT_OF_ORDER, "$.number", "another record came first") from exc
    except OSError as exc:
        raise Transient(f"{place} cannot be written: {exc.strerror}") from exc
    return signed


def close(state: State, data: bytes, now: datetime, carrier: Carrier, rand: Callable[[int], bytes]) -> bytes:
    """A signed record as it stands in the chain: closed, if only some may see it.

    Raises:
        ProtocolError: it is one that nobody could close, since it does not hold.
    """
    signed = open_record(data)
    subject = subject_of(state, signed.record.act)
    if subject is None:
        return data
    # Before it is hidden in another one, so that a refusal says what is wrong with this one.
    weigh(state, signed, now)
    key = state.secrets.get(subject) or b64(rand(32))
    return close_record(data, key, b64(rand(32)), max(now.replace(microsecond=0), signed.record.at), carrier())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- ledger and log ---------------------------------------------------------------------------------------------


def record_chain(ledger: store.Store, chain: Chain, now: datetime) -> list[int]:
    """Bring the ledger, and so the log, up to the chain; the numbers of the records that are new there.

    Raises:
        ConfigError: the ledger holds other records, or more.
        Transient: nothing was committed; try again. Another process may have read more files already.
    """
    with ledger.writing() as connection:
        rows = store.governance_after(connection, -1, len(chain.records) + 1)
        if ledger.shared and [row.digest for row in rows[:-1]] == list(chain.digests):
            raise Transient(f"the ledger has a record more than {DIRECTORY}/ had when it was read")
        if [row.digest for row in rows] != list(chain.digests[: len(rows)]):
            raise ConfigError(
                f"the files in {DIRECTORY}/ are not the records that the ledger holds: put those back that it took"
            )
        fresh = list(range(len(rows), len(chain.records)))
        numbers = store.add_numbered(
            connection, tables.submissions, [submission_row(chain, number, now) for number in fresh], "id"
        )
        store.add(
            connection,
            tables.governance,
            [
                {"number": number, "digest": chain.digests[number], "record": chain.records[number], "leaf": row - 1}
                for number, row in zip(fresh, numbers, strict=True)
            ],
        )
    return fresh


def submission_row(chain: Chain, number: int, now: datetime) -> store.Row:
    """The row that makes a record a leaf of the log."""
    return {
        "digest": submission_name(number),
        "member": BROKER,
        "received_at": store.milliseconds(now),
        "entry": entry_of(chain.digests[number]),
        "message": chain.records[number],
        "receipt": b"",
        "refusal": None,
    }


def submission_name(number: int) -> str:
    """Under which name a record stands among the submissions: none that a member's message can have."""
    return f"{DIRECTORY}-{number:06}"


# --- requests of members ----------------------------------------------------------------------------------------


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """`{"after": 3}`"""

    after: int = -1


class Listed(Struct, frozen=True):
    """A record, and its leaf in the log."""

    record: str
    leaf: int


class Answer(Struct, frozen=True):
    """The records after a number."""

    records: list[Listed]


_question: Final = msgspec.json.Decoder(Question)


def listed(ledger: store.Store, data: bytes, chain: Chain, member: str) -> bytes:
    """Answer a member that asks for records: as it may see them.

    Args:
        chain: what the region follows from; later records are not listed yet.

    Raises:
        ProtocolError: the question is malformed, or whoever asks is no member any more.
    """
    question = decode(_question, data)
    if not -1 <= question.after < 1 << 31:
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.after", "not the number of a record")
    asking = chain.state.member(member)
    found: list[Listed] = []
    size = 0
    with ledger.reading() as connection:
        for row in store.governance_after(connection, question.after, MOST):
            if row.number >= len(chain.records):
                break
            text = shown_to(chain, row.number, bytes(row.record), asking)
            size += len(text)
            if found and size > ANSWER:
                break
            found.append(Listed(text.decode("ascii"), row.leaf))
    return msgspec.json.encode(Answer(found))


def shown_to(chain: Chain, number: int, record: bytes, member: Member) -> bytes:
    """A record as a member may see it."""
    seers = chain.seers[number]
    return record if seers is None or seers.include(member) else without_opening(record)


def offered(directory: Path, member: str, data: bytes, now: datetime, carrier: Carrier, *, mints: bool) -> bytes:
    """Take a change of its own keys from a member. The same record again gets the same answer.

    Args:
        carrier: gives the broker's key.
        mints: whether the broker has the keys of the bus, and so can admit another key for a connection.

    Raises:
        ProtocolError: it is another kind of record, does not follow, or is not signed by who may decide it; or
            TOO_MANY: every node follows every record for ever, so that a member has a number of them a day.
        Transient: it cannot be written now.
    """
    signed = open_record(data)
    act = signed.record.act
    if isinstance(act, Keys) and act.transport is not None and not mints:
        raise ProtocolError(Reason.NOT_ALLOWED, "$.act.transport", "whoever runs the bus makes keys for connections")
    if not isinstance(act, Keys) or act.member != member:
        raise ProtocolError(Reason.NOT_ALLOWED, "$.act", "a member offers its own keys; the rest is for the trustees")
    try:
        if load_chain(directory, now).holds(signed.digest):
            return b"{}"
        if _offers_today(directory, member, now) >= OFFERS_A_DAY:
            detail = f"a member changes its keys at most {OFFERS_A_DAY} times a day: ask the trustees"
            raise ProtocolError(Reason.TOO_MANY, "$.act", detail)
        append(directory, data, now, carrier)
    except (ConfigError, OSError) as exc:
        raise Transient(str(exc)) from exc
    return b"{}"


def _offers_today(directory: Path, member: str, now: datetime) -> int:
    """Changes of its own keys that a member offered within a day, by the time at which they were written here."""
    recent = [path for path in chain_files(directory) if path.stat().st_mtime > now.timestamp() - _DAY]
    acts = [open_record(path.read_bytes()).deed for path in recent]
    return sum(isinstance(act, Keys) and act.member == member for act in acts)
