"""Server-sent events as bytes come in (WHATWG HTML, 9.2.6). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from kentongan.results import Event


@dataclass(slots=True)
class Reader:
    """Takes a stream apart, whichever way it was cut. One a connection.

    Attributes:
        position: the last id that is whole with what belongs to it, an event or nothing; None before the first. An id
            whose event was cut off does not count: that event was not seen.
        wait: seconds to wait before coming back, if the node said so.
    """

    position: int | None = None
    wait: float | None = None
    _rest: bytearray = field(default_factory=bytearray)
    _id: int | None = None
    _kind: str = ""
    _data: list[bytes] = field(default_factory=list)

    def take(self, chunk: bytes) -> Iterator[Event]:
        """The events that are whole with these bytes. msgspec.DecodeError if one is not JSON."""
        self._rest += chunk
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                yield event

    def _line(self, line: bytes) -> Event | None:
        if not line:
            kind, data = self._kind or "message", b"\n".join(self._data)
            self._kind, self._data = "", []
            self.position = self.position if self._id is None else self._id
            if not data or self.position is None:
                return None
            return Event(id=self.position, kind=kind, data=msgspec.json.decode(data, type=dict))
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode("utf-8", "replace")
        elif name == b"id" and value.isdigit():
            self._id = int(value)
        elif name == b"retry" and value.isdigit():
            self.wait = int(value) / 1000
        return None
