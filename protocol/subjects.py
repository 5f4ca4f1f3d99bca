"""Every subject, stream, consumer and header name on the bus; no other file spells one out.

Guarantees that a name built from a member id addresses that member only: ids are checked here, so that no dot or
wildcard in one can reach another member's subjects. Refuses anything else with a `ProtocolError`.

A node and the broker see the same message under different subjects, because the region's accounts insert the member's
name when a message crosses from the member's account into the broker's; a node cannot forge that name.

    the node says          the broker sees                    carries
    kg.intake              kg.intake.<member>                 Kind.SUBMISSION, Kind.CONFIRMATIONS
    kg.rpc.<method>        kg.rpc.<member>.<method>           request and reply
    (its inbox stream)     kg.inbox.<member>                  Kind.RECEIPTS, DELIVERY, CONFIRMED, LINKS
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from protocol.errors import ProtocolError
from protocol.reasons import Reason


class Kind(StrEnum):
    """What a message holds; travels in `KIND_HEADER`, outside the signed bytes, and is only a hint on how to parse."""

    SUBMISSION = "submission"
    """Node to broker: signed reports."""
    CONFIRMATIONS = "confirmations"
    """Node to broker: what a recipient did with what it got."""
    RECEIPTS = "receipts"
    """Broker to origin: the signed answers to submissions."""
    DELIVERY = "delivery"
    """Broker to recipient: reports as released to it."""
    CONFIRMED = "confirmed"
    """Broker to origin: the recipients' confirmations, forwarded."""
    LINKS = "links"
    """Broker to both sides: reports that are about the same incident."""


KIND_HEADER: Final = "Kentongan-Kind"
TRACE_HEADER: Final = "traceparent"
"""W3C trace context, if the sender traces; a hint for operators, outside the signed bytes."""
TRANSPORT_ID_HEADER: Final = "Nats-Msg-Id"
"""New for every attempt to send: the stream's own deduplication must never swallow a repetition."""

INTAKE: Final = "kg.intake"
INTAKE_STREAM: Final = "INTAKE"
INTAKE_SUBJECTS: Final = "kg.intake.*"
BROKER_CONSUMER: Final = "broker"
NODE_CONSUMER: Final = "node"
RPC_ALL: Final = "kg.rpc.>"
RPC_FROM_ANY_MEMBER: Final = "kg.rpc.*.>"
"""What the broker listens on."""
INBOXES: Final = "_INBOX"
"""Prefix of the short-lived reply subjects inside one account."""
CLAIMS_UPDATE: Final = "$SYS.REQ.CLAIMS.UPDATE"
CLAIMS_PACK: Final = "$SYS.REQ.CLAIMS.PACK"
"""One of the servers tells all claims that it holds."""
SERVER_PING: Final = "$SYS.REQ.SERVER.PING"
"""Every server answers."""
SERVER_HEALTH: Final = "$SYS.REQ.SERVER.PING.HEALTHZ"

_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_METHOD: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}(\.[a-z0-9][a-z0-9-]{0,30}){0,3}")
_INTAKE_PREFIX: Final = INTAKE + "."
_RPC_PREFIX: Final = "kg.rpc."


def is_member_id(text: str) -> bool:
    """Tell whether `text` is a member id: 1 to 31 of a-z, 0-9 and '-', not starting with '-'."""
    return _MEMBER.fullmatch(text) is not None


def check_member(member: str) -> str:
    """Return `member` unchanged; raise `ProtocolError(INVALID_VALUE)` unless `is_member_id`."""
    if not is_member_id(member):
        raise ProtocolError(Reason.INVALID_VALUE, "$", "a member id is 1 to 31 of a-z, 0-9 and '-', not '-' first")
    return member


def intake(member: str) -> str:
    """Name the broker's view of what `member` publishes to `INTAKE`."""
    return _INTAKE_PREFIX + check_member(member)


def member_of_intake(subject: str) -> str:
    """Return who published a message that the broker took from the intake stream under `subject`."""
    if not subject.startswith(_INTAKE_PREFIX):
        raise ProtocolError(Reason.INVALID_VALUE, "$", "not an intake subject")
    return check_member(subject.removeprefix(_INTAKE_PREFIX))


def inbox(member: str) -> str:
    """Name the subject under which the broker publishes to `member`."""
    return "kg.inbox." + check_member(member)


def inbox_stream(member: str) -> str:
    """Name the stream that stores `inbox(member)`; different members never share one, as ids hold no underscore."""
    return "INBOX_" + check_member(member).upper().replace("-", "_")


def rpc(method: str) -> str:
    """Name the subject of a request as a node sends it; `method` is 1 to 4 dotted tokens."""
    return _RPC_PREFIX + _check_method(method)


def rpc_from(member: str, method: str) -> str:
    """Name the subject under which the broker sees `member` calling `method`."""
    return f"{_RPC_PREFIX}{check_member(member)}.{_check_method(method)}"


def rpc_all_from(member: str) -> str:
    """Name the wildcard for all calls of `member`, in the broker's view."""
    return f"{_RPC_PREFIX}{check_member(member)}.>"


def parse_rpc(subject: str) -> tuple[str, str]:
    """Split the broker's view of a request into member and method."""
    member, dot, method = subject.removeprefix(_RPC_PREFIX).partition(".")
    if not subject.startswith(_RPC_PREFIX) or not dot:
        raise ProtocolError(Reason.INVALID_VALUE, "$", "not a request subject")
    return check_member(member), _check_method(method)


def account(member: str) -> str:
    """Name the account of `member`, as operators see it in the server's monitoring."""
    return "CERT_" + check_member(member).upper().replace("-", "_")


def next_message(stream: str, consumer: str) -> str:
    """Name the subject that asks a pull consumer for messages."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"


def consumer_info(stream: str, consumer: str) -> str:
    """Name the subject that asks for the state of a consumer."""
    return f"$JS.API.CONSUMER.INFO.{stream}.{consumer}"


def stored_at(reply: str) -> tuple[int, int] | None:
    """When the stream stored a message (nanoseconds since 1970), and how many wait behind it.

    Args:
        reply: where its acknowledgement goes; the server writes both into that. None if it does not look like it.
    """
    tokens = reply.split(".")
    if len(tokens) not in (9, 11, 12) or tokens[:2] != ["$JS", "ACK"]:
        return None
    # Without, or with, domain and account before the stream; and a random token behind all.
    time, pending = tokens[7:9] if len(tokens) == 9 else tokens[9:11]
    return (int(time), int(pending)) if time.isdigit() and pending.isdigit() else None


def stream_api(method: str) -> str:
    """Name the subject of a call that administers streams, such as `STREAM.INFO.<stream>`; the broker's alone."""
    return f"$JS.API.{method}"


def acks(stream: str, consumer: str) -> str:
    """Name the wildcard of a consumer's acknowledgements (the first form, without domain and account hash)."""
    return f"$JS.ACK.{stream}.{consumer}.>"


def _check_method(method: str) -> str:
    if not _METHOD.fullmatch(method):
        raise ProtocolError(Reason.INVALID_VALUE, "$", "a method is 1 to 4 dotted tokens of a-z, 0-9 and '-'")
    return method
