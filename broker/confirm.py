"""Step 9 of a report's life: a recipient's signed word about what it got, recorded and passed on to the origin.

Guarantees: only the recipient of a report can confirm it; a confirmation is recorded once however often it comes; a
delivery is closed when each of its reports is received or refused, and only then is it no longer sent; the origin gets
the recipient's own signature. Refuses, and says so to the recipient: confirmations of reports that it was not sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from broker import store, tables
from broker.ledger import grants_by_digest, unpack_grants
from broker.route import pack_entries, unpack_entries
from broker.store import Connection
from broker.verify import as_refusal
from protocol.errors import ProtocolError
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.statements import Confirmation, Noted, open_statement, statement_digest

CLOSING = ("received", "refused")


@dataclass(slots=True)
class Confirmed:
    """What a batch of confirmations leads to."""

    noted: dict[str, Noted] = field(default_factory=dict)
    """Per recipient, what it may forget about sending."""
    forwarded: dict[str, list[str]] = field(default_factory=dict)
    """Per origin, its recipients' confirmations as they signed them."""
    states: list[tuple[str, str, int]] = field(default_factory=list)
    """(member, state, reports) for the metrics."""
    shown: list[tuple[Confirmation, list[Any]]] = field(default_factory=list)
    """Confirmations with the rows of their reports, for the coordinator's feed."""
    seconds: list[float] = field(default_factory=list)
    """From commit to confirmation, one a delivery closed."""


def _check(member: str, jws: str, registry: Registry, now: datetime) -> Confirmation:
    confirmation = open_statement(jws, Confirmation, registry.keys.find, now)
    if confirmation.iss != member:
        raise ProtocolError(Reason.WRONG_MEMBER, "$.iss", "a member confirms for itself only")
    if registry.member(member).status != "active":
        raise ProtocolError(Reason.MEMBER_SUSPENDED, "$", "this member is suspended")
    registry.view(member).member(confirmation.aud)
    return confirmation


def _check_reports(connection: Connection, confirmation: Confirmation) -> list[Any]:
    """The rows of the confirmed reports, all of them granted to the one who confirms, all of them of one origin."""
    rows = grants_by_digest(connection, confirmation.reports)
    for index, digest in enumerate(confirmation.reports):
        row = rows.get(digest)
        if row is None or row.origin != confirmation.aud or confirmation.iss not in unpack_grants(row.grants):
            raise ProtocolError(Reason.UNKNOWN_REPORT, f"$.reports[{index}]", "no such report was sent to this member")
    return list(rows.values())


def _close(connection: Connection, confirmation: Confirmation, rows: Sequence[Any], at: int) -> float | None:
    """Take the reports off their delivery; the seconds it took if that closed it."""
    if not confirmation.delivery:
        return None
    delivery = store.deliveries_by_id(connection, [confirmation.delivery]).get(confirmation.delivery)
    if delivery is None or delivery.member != confirmation.iss:
        raise ProtocolError(Reason.UNKNOWN_DELIVERY, "$.delivery", "no such delivery to this member")
    done = {row.seq for row in rows}
    remaining = [entry for entry in unpack_entries(delivery.open) if entry[0] not in done]
    if remaining or delivery.state not in ("pending", "sent"):
        store.set_delivery(connection, delivery.id, open=pack_entries(remaining))
        return None
    store.set_delivery(connection, delivery.id, open=pack_entries([]), state="confirmed", closed_at=at)
    return (at - int(delivery.created_at)) / 1000


def record_confirmations(
    connection: Connection, received: Sequence[tuple[str, str]], registry: Registry, now: datetime
) -> Confirmed:
    """Record confirmations.

    Args:
        received: (member on whose subject it came, the confirmation as a compact JWS).
    """
    answers = Confirmed()
    at = store.milliseconds(now)
    known = store.known_confirmations(connection, [statement_digest(jws) for _, jws in received if jws.isascii()])
    done: dict[str, list[str]] = {}
    refused: dict[str, dict[str, ProtocolError]] = {}
    rows: list[store.Row] = []
    for member, jws in received:
        if not jws.isascii():
            continue
        digest = statement_digest(jws)
        if digest not in known:
            try:
                confirmation = _check(member, jws, registry, now)
                reports = _check_reports(connection, confirmation)
                if confirmation.state in CLOSING:
                    seconds = _close(connection, confirmation, reports, at)
                    if seconds is not None:
                        answers.seconds.append(seconds)
            except ProtocolError as exc:
                refused.setdefault(member, {})[digest] = exc
                continue
            known.add(digest)
            rows.append(_row(confirmation, jws, digest, at))
            answers.forwarded.setdefault(confirmation.aud, []).append(jws)
            answers.states.append((member, confirmation.state, len(confirmation.reports)))
            answers.shown.append((confirmation, reports))
        done.setdefault(member, []).append(digest)
    store.add_numbered(connection, tables.confirmations, rows, "id")
    for member in {*done, *refused}:
        answers.noted[member] = Noted(
            iss="broker",
            aud=member,
            at=now,
            confirmations=done.get(member, []),
            refused={digest: as_refusal(exc) for digest, exc in refused.get(member, {}).items()},
        )
    return answers


def _row(confirmation: Confirmation, jws: str, digest: str, at: int) -> store.Row:
    return {
        "digest": digest,
        "member": confirmation.iss,
        "origin": confirmation.aud,
        "state": confirmation.state,
        "at": at,
        "delivery": confirmation.delivery or None,
        "reason": confirmation.refusal.reason if confirmation.refusal else None,
        "count": len(confirmation.reports),
        "jws": jws.encode("ascii"),
    }
