"""One log line a report and step, at a price that can be paid at full load.

Guarantees: lines are the JSON lines of `protocol/process.py`, a batch of them written at once and outside of the
logging library, whose work for one line costs as much as a dozen lines here. They hold ids, states and reasons, never
content, and nobody's own words. Silent unless a process turns it on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from protocol.process import Section

ABOUT: Final = "report."
"""Events of these kinds are told."""
_encode: Final = msgspec.json.encode
_WORDS: Final = ("detail", "path")
"""What others may have put into words."""
_QUOTED: Final = tuple(f'"{name}":'.encode() for name in _WORDS)


class Settings(Section, frozen=True, kw_only=True):
    """What is logged beside what must be."""

    reports: bool = True
    """A line for each report and step."""


class Told(Protocol):
    """An event of a feed."""

    @property
    def seq(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def at(self) -> int: ...


class ReportLog:
    """Writes them.

    Args:
        write: takes whole lines; None to stay silent.
    """

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write

    @property
    def on(self) -> bool:
        """Whether anybody reads it."""
        return self._write is not None

    def events(self, found: Sequence[Told], iso: Callable[[int], str]) -> None:
        """What was committed about reports: the kind of event is the line's name.

        Args:
            iso: a time of an event as text.
        """
        if self._write is None:
            return
        lines: list[bytes] = []
        at, time = -1, ""
        for event in found:
            if not event.kind.startswith(ABOUT):
                continue
            if event.at != at:
                at, time = event.at, iso(event.at)
            head = f'{{"event":"{event.kind}","level":"info","timestamp":"{time}","seq":{event.seq},'
            lines += (head.encode(), _plain(event.data)[1:], b"\n")
        if lines:
            self._write(b"".join(lines).decode())

    def rows(self, event: str, rows: Iterable[Mapping[str, Any]], now: datetime) -> None:
        """Lines of one name for what was committed at one time."""
        if self._write is None:
            return
        time = now.isoformat().replace("+00:00", "Z")
        head = f'{{"event":"{event}","level":"info","timestamp":"{time}",'.encode()
        lines = [head + _encode(row)[1:] for row in rows]
        if lines:
            self._write(b"\n".join(lines).decode() + "\n")


SILENT: Final = ReportLog()


def to_stderr(settings: Settings) -> ReportLog:
    """Where the other lines go."""

    def write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    return ReportLog(write if settings.reports else None)


def _plain(data: bytes) -> bytes:
    if not any(name in data for name in _QUOTED):
        return data
    facts = msgspec.json.decode(data)
    return _encode({key: value for key, value in facts.items() if key not in _WORDS})
