"""What the rest of the project knows of the transport: a message, and three things that can be done.

`protocol/bus.py` fulfils it over NATS; tests and the simulator fulfil it in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message off a stream. `kind` is the sender's word for what `data` is; empty if it gave none."""

    subject: str
    kind: str
    data: bytes
    reply: str
    """Where `ack` answers."""
    trace: str = ""
    """The sender's trace context, as it came: untrusted."""


class Bus(Protocol):
    """What the rest of the project knows of the transport; this is its whole contract."""

    async def publish(self, subject: str, kind: str, data: bytes, *, trace: str = "") -> None:
        """Return when the stream has stored `data`.

        Args:
            trace: the trace context of the message, which its receiver reads; empty for none.

        Raises:
            Transient: not stored, or not known to be: send it again later. The caller bounds how many are in flight.
            ProtocolError: TOO_LARGE, more than the bus carries.
        """

    async def pull(self, most: int, wait: float) -> list[Message]:
        """Return 1 to `most` messages as soon as there is one, or none after `wait` seconds. One caller at a time.

        Raises:
            Transient: the stream cannot be read at present; call again.
        """

    async def ack(self, messages: Sequence[Message]) -> None:
        """Tell the stream not to deliver these again. A hint: may be lost without notice."""
