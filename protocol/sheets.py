"""Lines for other programs: CSV (RFC 4180) without a cell that a spreadsheet would execute, and JSON. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def harmless(cell: str) -> str:
    """A cell that no spreadsheet executes."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """The header first, then a row at a time; with line ends."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")

    def written(row: Iterable[str]) -> str:
        out.seek(0)
        out.truncate()
        writer.writerow(row)
        return out.getvalue()

    yield written(columns)
    for found in rows:
        yield written(harmless(found[name]) for name in columns)


def as_json(lines: Iterable[Struct]) -> Iterator[str]:
    """A JSON object a line."""
    for line in lines:
        yield msgspec.json.encode(line).decode("utf-8") + "\n"
