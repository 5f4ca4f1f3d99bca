"""The streams and consumers of the region, declared in one place and brought about from whatever is there.

Guarantees that after `reconcile` every stream and consumer exists as declared here, and tells which had to be created:
what they held before is lost, and the caller sends it again. Refuses nothing for good: every failure is `Transient`.

Streams keep what was acknowledged until `trim` removes it (limits retention: after a crash a work queue would let
messages in twice that it had handed out). A full stream refuses new messages, it never drops old ones: senders keep
what they have until there is room.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from protocol import subjects
from protocol.errors import Transient

MAX_AGE: Final = 7 * 24 * 3600
"""Seconds; what nobody fetched for a week is sent again from the ledger when its reader comes back."""
DUPLICATE_WINDOW: Final = 2
"""Seconds; transport ids are never used twice, so a longer memory of them would be wasted."""
ACK_WAIT: Final = 30
"""Seconds until an unacknowledged message is delivered again."""
MAX_ACK_PENDING: Final = 5_000
_TIMEOUT: Final = 5.0
_SECOND: Final = 1_000_000_000
_NOT_FOUND: Final = (10014, 10059)  # JetStream error codes: consumer, stream
_MIB: Final = 1 << 20


async def reconcile(
    nc: Client,
    members: Iterable[str],
    *,
    intake_bytes: int = 4096 * _MIB,
    inbox_bytes: int = 1024 * _MIB,
    replicas: int = 1,
) -> list[str]:
    """Bring about the intake stream, and an inbox stream for each of `members`, with their consumers.

    Args:
        nc: the broker's connection.
        intake_bytes: size at which the intake refuses new messages.
        inbox_bytes: the same for each inbox.
        replicas: servers that hold each stream.

    Returns:
        The names of the streams that were created, and "STREAM/consumer" for consumers created on existing streams.
        A consumer is created to start with the oldest message: what was acknowledged before may come again.

    Raises:
        Transient: the server does not answer or refuses; call again.
    """
    created = await _declare(
        nc, subjects.INTAKE_STREAM, subjects.INTAKE_SUBJECTS, subjects.BROKER_CONSUMER, intake_bytes, replicas
    )
    for member in sorted(set(members)):
        created += await _declare(
            nc, subjects.inbox_stream(member), subjects.inbox(member), subjects.NODE_CONSUMER, inbox_bytes, replicas
        )
    return created


async def purge_inbox(nc: Client, member: str) -> None:
    """Delete a suspended member's inbox with all that is queued in it; `reconcile` makes an empty one later.

    Raises:
        Transient: the server does not answer or refuses; call again.
    """
    answer = await _api(nc, f"STREAM.DELETE.{subjects.inbox_stream(member)}", {})
    _raise_error(answer, allowed=_NOT_FOUND)


async def empty_inbox(nc: Client, member: str) -> int:
    """Take everything out of a member's inbox that it has not fetched; returns how many messages that were.

    Raises:
        Transient: the server does not answer or refuses; call again.
    """
    answer = await _api(nc, f"STREAM.PURGE.{subjects.inbox_stream(member)}", {})
    return 0 if _raise_error(answer, allowed=_NOT_FOUND) else int(answer["purged"])


async def trim(nc: Client, members: Iterable[str]) -> int:
    """Remove what every reader has acknowledged, and return how many messages that were.

    Call it every minute or so: without it a stream that is read all the time still becomes full, as it keeps what was
    acknowledged for `MAX_AGE`.

    Raises:
        Transient: the server does not answer or refuses; call again.
    """
    removed = 0
    readers = [(subjects.INTAKE_STREAM, subjects.BROKER_CONSUMER)]
    readers += [(subjects.inbox_stream(member), subjects.NODE_CONSUMER) for member in sorted(set(members))]
    for stream, consumer in readers:
        info = await _api(nc, f"CONSUMER.INFO.{stream}.{consumer}", {})
        if _raise_error(info, allowed=_NOT_FOUND):
            continue
        floor = int(info["ack_floor"]["stream_seq"])
        if floor:
            answer = await _api(nc, f"STREAM.PURGE.{stream}", {"seq": floor + 1})
            _raise_error(answer)
            removed += int(answer["purged"])
    return removed


async def _declare(nc: Client, stream: str, subject: str, consumer: str, max_bytes: int, replicas: int) -> list[str]:
    wanted = _stream(stream, subject, max_bytes, replicas)
    fresh = await _bring_about(
        nc, f"STREAM.INFO.{stream}", f"STREAM.CREATE.{stream}", f"STREAM.UPDATE.{stream}", wanted
    )
    config = _consumer(consumer)
    create = f"CONSUMER.CREATE.{stream}.{consumer}"
    fresh_consumer = await _bring_about(
        nc, f"CONSUMER.INFO.{stream}.{consumer}", create, create, {"stream_name": stream, "config": config}
    )
    return [stream] if fresh else [f"{stream}/{consumer}"] if fresh_consumer else []


async def _bring_about(nc: Client, info: str, create: str, update: str, wanted: dict[str, Any]) -> bool:
    """Create or update one thing so that it is as `wanted`; return whether it had to be created."""
    found = await _api(nc, info, {})
    if _raise_error(found, allowed=_NOT_FOUND):
        _raise_error(await _api(nc, create, wanted))
        return True
    config = wanted.get("config", wanted)
    if any(found["config"].get(key, _absent(value)) != value for key, value in config.items()):
        _raise_error(await _api(nc, update, wanted))
    return False


def _stream(name: str, subject: str, max_bytes: int, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_age": MAX_AGE * _SECOND,
        "max_bytes": max_bytes,
        "num_replicas": replicas,
        "duplicate_window": DUPLICATE_WINDOW * _SECOND,
        # A member chooses the headers of what it publishes: none of them may remove or shorten what others stored.
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
    }


def _consumer(name: str) -> dict[str, Any]:
    return {
        "durable_name": name,
        "name": name,
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT * _SECOND,
        "deliver_policy": "all",
        "max_deliver": -1,
        "max_ack_pending": MAX_ACK_PENDING,
    }


def _absent(value: object) -> object:
    # The server leaves out what is off.
    return False if value is False else None


async def _api(nc: Client, method: str, body: dict[str, Any]) -> dict[str, Any]:
    if not nc.is_connected:
        # The library would keep the call and make it later, when nobody expects it any more.
        raise Transient("not connected to the bus")
    try:
        answer = await nc.request(subjects.stream_api(method), json.dumps(body).encode("ascii"), timeout=_TIMEOUT)
        value = json.loads(answer.data)
    except (nats.errors.Error, OSError, ValueError) as exc:
        raise Transient(f"the bus server does not answer {method}: {exc}") from exc
    if not isinstance(value, dict):
        raise Transient(f"the bus server gave no answer to {method}")
    return value


def _raise_error(answer: dict[str, Any], allowed: tuple[int, ...] = ()) -> bool:
    """Return False for a good answer and True for an allowed error; raise `Transient` for any other."""
    error = answer.get("error")
    if error is None:
        return False
    if error.get("err_code") in allowed:
        return True
    raise Transient(f"the bus server refused: {error.get('description', '')} ({error.get('err_code')})")


async def waiting(nc: Client, members: Iterable[str]) -> dict[str, int]:
    """How many messages wait in each member's inbox without having been fetched.

    Raises:
        Transient: the server does not answer or refuses; call again.
    """
    found: dict[str, int] = {}
    for member in members:
        info = await _api(nc, f"CONSUMER.INFO.{subjects.inbox_stream(member)}.{subjects.NODE_CONSUMER}", {})
        if not _raise_error(info, allowed=_NOT_FOUND):
            found[member] = int(info["num_pending"])
    return found
