"""A broker that lies: the real one, with one thing about it changed while a file says so.

    python -m tests.e2e.liar broker run DIR

The file `DIR/lie` names the lie that is being told; it may appear and go while the broker runs. Everything else is the
real program, with its real keys: what a broker's own operator could do, or somebody who has taken it over.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

import broker.auditing
import broker.governor
import broker.ingest
import broker.members
import broker.outgoing
import broker.route
import broker.sequencer
from broker import logstore, store
from broker.deliver import Redelivery
from broker.ingest import Incoming, Work
from broker.log import Log
from broker.members import RegionState
from broker.outgoing import Outgoing
from broker.route import Planned
from deploy import cli
from protocol.envelope import SignedReport, open_envelope, present, release
from protocol.governance import Admit, Record, draft, open_record, sign_record
from protocol.issuing import issue
from protocol.jws import split_jws
from protocol.keys import SigningKey
from protocol.logrpc import ConsistencyRequest, NextAnswer, NextRequest, ProveRequest
from protocol.registry import Head, Member, Region
from protocol.report import ALL_UNITS, COARSE_UNITS, Body, Report
from protocol.sealing import SealingKey
from protocol.statements import Decision, Delivery, DeliveryItem, Receipt, encode_items, items_digest, sign_statement
from protocol.subjects import Kind

VICTIM = "jp"
"""Whom the lies are about, or told to."""
HOME = Path(sys.argv[-1])


def lying(lie: str) -> bool:
    """Whether this lie is being told now."""
    with suppress(OSError):
        return (HOME / "lie").read_text() == lie
    return False


def patch(place: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Replace a function by one that gets the real one first."""
    real = getattr(place, name)

    def put(false: Callable[..., Any]) -> None:
        setattr(place, name, lambda *args, **given: false(real, *args, **given))

    return put


# --- lies about reports -----------------------------------------------------------------------------------------


@patch(broker.ingest.Ingest, "process")
def _drop(real: Any, self: Any, messages: Sequence[Incoming], now: datetime) -> Work:
    """`drop`: submissions of id are acknowledged on the bus, and nothing more ever happens to them."""
    if lying("drop"):
        messages = [item for item in messages if item.member != "id" or item.kind != Kind.SUBMISSION]
    work: Work = real(self, messages, now)
    if lying("withhold"):
        # `withhold`: decided, receipted, logged, and never sent to the one recipient.
        work.outgoing = [item for item in work.outgoing if item.member != VICTIM or item.kind != Kind.DELIVERY]
    if lying("receipt"):
        work.outgoing = [_other_receipts(self, item) for item in work.outgoing]
    if lying("withdrawal"):
        work.outgoing += _forged_withdrawals(self, work, now)
    return work


@patch(Redelivery, "due")
def _no_redelivery(real: Any, self: Any, *args: Any) -> Any:
    found = real(self, *args)
    if lying("withhold"):
        found.outgoing = [item for item in found.outgoing if item.member != VICTIM]
    return found


def _other_receipts(ingest: Any, outgoing: Outgoing) -> Outgoing:
    """`receipt`: the origin is told that its report went to nobody; the log says what was done."""
    if outgoing.kind != Kind.RECEIPTS:
        return outgoing
    changed = []
    for jws in msgspec.json.decode(outgoing.data, type=list[str]):
        try:
            receipt = msgspec.json.decode(split_jws(jws, Receipt.typ).payload, type=Receipt)
        except Exception:  # noqa: BLE001 - another kind of statement
            changed.append(jws)
            continue
        decisions = [Decision(granted=False) for _ in receipt.decisions]
        changed.append(sign_statement(msgspec.structs.replace(receipt, decisions=decisions), ingest._signer))
    return replace(outgoing, data=msgspec.json.encode(changed))


class _Impostor:
    """Signs with the broker's key under the key id of a member."""

    alg = "Ed25519"

    def __init__(self, kid: str, key: SigningKey) -> None:
        self.kid = kid
        self._key = key

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


def _forged_withdrawals(ingest: Any, work: Work, now: datetime) -> list[Outgoing]:
    """`withdrawal`: what was just delivered is taken back in its origin's name, with a signed delivery of its own."""
    state: RegionState = ingest._state()
    found: list[Outgoing] = []
    for item in [item for item in work.outgoing if item.kind == Kind.DELIVERY and item.member == VICTIM]:
        head, _, items = item.data.partition(b"\n")
        statement = msgspec.json.decode(split_jws(head.decode(), "kentongan-delivery+jwt").payload, type=Delivery)
        for parcel, opening in zip(msgspec.json.decode(items, type=list[DeliveryItem]), statement.grants, strict=True):
            envelope = open_envelope(parcel.sd_jwt, state.registry.keys.find, now)
            (report, *_) = [one for one in envelope.reports if isinstance(one, SignedReport)]
            header = msgspec.structs.replace(report.header, revision=report.header.revision + 1, phase="withdrawn")
            kid = state.registry.member(envelope.issuer).keys[0].kid
            forged = issue(
                [Report(header=header, body=Body(title="withdrawn"))],
                envelope.issuer,
                _Impostor(kid, ingest._signer),
                now,
                secrets.token_bytes,
            )
            (made,) = [one for one in forged.reports if isinstance(one, SignedReport)]
            grant = msgspec.structs.replace(opening, reports=[(made.digest, 1, 0)])
            data = encode_items([DeliveryItem(sd_jwt=present(forged.jws, [release(made, 1, 0)]), received_at=now)])
            planned = Planned(VICTIM, data, items_digest(data), ((0, 1, 0),), (grant,))
            found.append(broker.outgoing.delivery_message(0, planned, ingest._signer, now))
    return found


@patch(broker.route, "release")
def _everything(real: Any, report: SignedReport, exact: int, coarse: int) -> Any:
    """`field`: recipients get all that there is, whatever was granted."""
    return real(report, ALL_UNITS, COARSE_UNITS) if lying("field") else real(report, exact, coarse)


@patch(RegionState, "ask_all")
def _grant_everything(real: Any, self: Any, facts: Any, origin: str, now: datetime) -> Any:
    """`grant`: and the log says so too."""
    answers = real(self, facts, origin, now)
    if not lying("grant"):
        return answers
    outcomes = {
        name: msgspec.structs.replace(outcome, exact=ALL_UNITS, coarse=COARSE_UNITS)
        for name, outcome in answers.outcomes.items()
    }
    return broker.members.answers_of(outcomes)


# --- lies about the log -----------------------------------------------------------------------------------------


def _false_entries(real: Any, connection: Any, size: int, most: int) -> list[bytes]:
    entries: list[bytes] = real(connection, size, most)
    if lying("reorder"):
        # `reorder`: two neighbours change places, as soon as there are two.
        entries = [*entries[:-2], entries[-1], entries[-2]] if len(entries) > 1 else []
    if lying("leaf"):
        # `leaf`: what stands in the log is not what was promised.
        entries = [bytes(32) for _ in entries]
    if lying("stall"):
        entries = []
    return entries


_real_entries = logstore.entries_after


def _entries(connection: Any, size: int, most: int) -> list[bytes]:
    return _false_entries(_real_entries, connection, size, most)


_log_init = Log.__init__


def _init(self: Log, *args: Any, **given: Any) -> None:
    _log_init(self, *args, **{"entries": _entries, **given})


Log.__init__ = _init  # type: ignore[method-assign]


class _Fork:
    """`fork`: from now on the victim is shown a log of its own, which continues all that it has seen."""

    def __init__(self, real: Log, now: datetime) -> None:
        path = HOME / "fork.db"
        self._size = real.size
        source = real._store

        def entries(_: Any, size: int, most: int) -> list[bytes]:
            with source.reading() as connection:
                found = _real_entries(connection, size, most)
            return [entry if size + place < self._size else bytes(32) for place, entry in enumerate(found)]

        ledger = store.Store(store.open_engine(f"sqlite:///{path}"))
        self._log = Log(ledger, real._signer, real._state, entries=entries)
        self._log.load(now)

    def sequence(self, now: datetime) -> None:
        while self._log._step(now):
            pass

    def next(self, request: NextRequest) -> NextAnswer:
        return self._log.next(request)

    def prove(self, request: ProveRequest) -> Any:
        return self._log.prove(request)

    def consistency(self, request: ConsistencyRequest) -> Any:
        return self._log.consistency(request)


_forks: list[_Fork] = []


@patch(broker.sequencer.Sequencer, "answer")
async def _forked(real: Any, self: Any, member: str, method: str, data: bytes) -> bytes:
    """The victim's questions are answered from the fork; what others have cosigned is shown to it as it is."""
    if member != VICTIM or not (lying("fork") or lying("split")):
        found: bytes = await real(self, member, method, data)
        return found
    now = datetime.now(UTC)
    if not _forks:
        _forks.append(_Fork(self._log, now))
    (fork,) = _forks
    fork.sequence(now)
    if method == "log.cosign":
        return b"{}"
    if method == "log.prove":
        return msgspec.json.encode(fork.prove(msgspec.json.decode(data, type=ProveRequest)))
    if method == "log.consistency":
        return msgspec.json.encode(fork.consistency(msgspec.json.decode(data, type=ConsistencyRequest)))
    if method == "log.next":
        request = msgspec.json.decode(data, type=NextRequest)
        answer = fork.next(request)
        if lying("fork"):
            shown = self._log.published
            if shown is not None and shown.size > request.published:
                answer = msgspec.structs.replace(answer, published=shown.note)
        return msgspec.json.encode(answer)
    raise AssertionError(method)


# --- lies to an auditor -----------------------------------------------------------------------------------------


@patch(broker.auditing._View, "cases")
def _false_cases(real: Any, self: Any, request: Any) -> Any:
    answer = real(self, request)
    cases = list(answer.cases)
    if lying("hide"):
        # `hide`: what its jurisdiction sent is left out.
        cases = [case for case in cases if not case.receipt]
    if lying("line"):
        # `line`: it received more than it was granted.
        cases = [_more_granted(case) for case in cases]
    return msgspec.structs.replace(answer, cases=cases)


def _more_granted(case: Any) -> Any:
    granted = []
    for one in case.granted:
        reports = [(digest, exact ^ 2, coarse) for digest, exact, coarse in one.opening.reports]
        opening = msgspec.structs.replace(one.opening, reports=reports)
        granted.append(msgspec.structs.replace(one, opening=opening))
    return msgspec.structs.replace(case, granted=granted)


@patch(broker.auditing._View, "words")
def _no_words(real: Any, self: Any, request: Any) -> Any:
    answer = real(self, request)
    # `mute`: nobody has confirmed anything.
    return msgspec.structs.replace(answer, words=[]) if lying("mute") else answer


# --- lies about who is in the region ----------------------------------------------------------------------------


@patch(broker.governor, "sign_region")
def _false_region(real: Any, region: Region, head: Head, signer: SigningKey, now: datetime) -> str:
    members = list(region.members)
    window = (now - timedelta(hours=1), now + timedelta(days=30))
    if lying("ghost"):
        # `ghost`: a member that nobody has admitted, with a key that the broker has.
        keys = [SigningKey.from_seed(bytes(32)).record(*window)]
        members.append(Member(id="ghost", jurisdiction="gh", name="Ghost", keys=keys))
    if lying("swap"):
        # `swap`: what is sealed to the victim is sealed to the broker.
        keys = [SealingKey.generate().record(*window)]
        members = [msgspec.structs.replace(one, sealing_keys=keys) if one.id == VICTIM else one for one in members]
    if lying("forged"):
        # `forged`: a record that admits the ghost, signed by the broker in place of the trustees.
        ghost = Member(id="ghost", jurisdiction="gh", name="Ghost")
        members, head = [*members, ghost], open_record(_forged(region, head, ghost, signer, now)).head
    return str(real(msgspec.structs.replace(region, members=members), head, signer, now))


def _forged(region: Region, head: Head, ghost: Member, signer: SigningKey, now: datetime) -> bytes:
    at = now.replace(minute=0, second=0, microsecond=0)
    act = Admit(member=ghost)
    record = Record(region=region.region, number=head.number + 1, previous=head.digest, at=at, act=act)
    return sign_record(draft(record), signer)


@patch(broker.governor.Governor, "listed")
def _false_list(real: Any, self: Any, member: str, data: bytes) -> bytes:
    answer: bytes = real(self, member, data)
    if lying("forged"):
        registry, chain = self._recorded
        ghost = Member(id="ghost", jurisdiction="gh", name="Ghost")
        forged = _forged(registry.region, chain.state.head, ghost, self._signer, datetime.now(UTC))
        listed = msgspec.json.decode(answer)
        listed["records"].append({"record": forged.decode(), "leaf": 0})
        answer = msgspec.json.encode(listed)
    return answer


if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
