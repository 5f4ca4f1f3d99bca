"""What the broker says, as messages to members' inboxes. Pure, but for the signing key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from broker.decide import Decision, NotAccepted
from broker.members import RegionState
from broker.route import Planned
from broker.verify import Verified
from protocol.keys import Signer
from protocol.statements import BROKER, Delivery, Receipt, ReportReceipt, encode_delivery, sign_statement
from protocol.statements import Decision as ReceiptDecision
from protocol.subjects import Kind

_encode: Final = msgspec.json.Encoder().encode
_RECEIPTS_BYTES: Final = 900_000


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to a member's inbox; `delivery` numbers the delivery that it carries."""

    member: str
    kind: Kind
    data: bytes
    delivery: int | None = None
    reports: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a receipt stands in the log, and what makes its entry unguessable."""

    leaf: int
    seed: str


def build_receipt(
    verified: Verified, decisions: Sequence[Decision], state: RegionState, place: Place, now: datetime
) -> Receipt:
    """The answer to a submission: equal decisions are written once and referred to by number."""
    table: list[ReceiptDecision] = []
    numbers: dict[int, int] = {}
    reports: list[ReportReceipt] = []
    for item in decisions:
        if isinstance(item, NotAccepted):
            header = item.header
            reports.append(
                ReportReceipt(
                    digest=item.digest,
                    outcome="duplicate" if item.outcome == "duplicate" else "rejected",
                    report_id=str(header.report_id) if header else msgspec.UNSET,
                    revision=header.revision if header else msgspec.UNSET,
                    refusal=item.refusal,
                    duplicate_of=item.duplicate_of or msgspec.UNSET,
                )
            )
            continue
        exact, coarse = item.report.units()
        to: dict[str, int] = {}
        for member, outcome in item.outcomes.items():
            told = state.decision(outcome, exact, coarse)
            number = numbers.get(id(told))
            if number is None:
                number = numbers[id(told)] = len(table)
                table.append(told)
            to[member] = number
        header = item.report.header
        reports.append(
            ReportReceipt(
                digest=item.report.digest,
                outcome="accepted",
                report_id=str(header.report_id),
                revision=header.revision,
                to=to,
            )
        )
    return Receipt(
        iss=BROKER,
        aud=verified.member,
        received_at=now,
        submission=verified.digest,
        leaf=place.leaf,
        seed=place.seed,
        decisions=table,
        reports=reports,
    )


def delivery_message(number: int, planned: Planned, signer: Signer, now: datetime) -> Outgoing:
    """A delivery, with the broker's statement over exactly these bytes."""
    statement = Delivery(
        iss=BROKER,
        aud=planned.member,
        id=number,
        sent_at=now,
        items=planned.digest,
        reports=len(planned.entries),
        grants=list(planned.grants),
    )
    data = encode_delivery(sign_statement(statement, signer), planned.items)
    return Outgoing(planned.member, Kind.DELIVERY, data, number, len(planned.entries))


def pack_statements(member: str, kind: Kind, statements: Iterable[str]) -> list[Outgoing]:
    """Signed statements for one member as few messages."""
    messages: list[Outgoing] = []
    group: list[str] = []
    size = 0
    for jws in statements:
        if group and size + len(jws) > _RECEIPTS_BYTES:
            messages.append(Outgoing(member, kind, _encode(group)))
            group, size = [], 0
        group.append(jws)
        size += len(jws)
    if group:
        messages.append(Outgoing(member, kind, _encode(group)))
    return messages
