"""The governance records that a node holds: what of a listing is new, and what is told again with more to see.

Guarantees: a record that is on disk is never exchanged for another one; it only gains the opening that this member was
not shown before. Refuses a listing that says otherwise (REGION_NOT_GOVERNED). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protocol.errors import ProtocolError
from protocol.governance import Show, Signed, open_record
from protocol.reasons import Reason


@dataclass(frozen=True, slots=True)
class Listing:
    """What the broker listed, beside what is held."""

    fresh: Sequence[tuple[Signed, str, int]]
    """Records that follow the held ones, as text, each with its leaf."""
    texts: Sequence[str]
    """All records, the held ones with what is shown of them now."""
    shown: Sequence[tuple[int, str]]
    """Numbers and texts of held records that are shown only now."""


def sort_out(listed: Sequence[tuple[str, int]], held: Sequence[str]) -> Listing:
    """Hold a listing to what is on disk.

    Args:
        listed: records and their leaves, from the first one on or from the one after the held ones on.
        held: the records on disk, in order.

    Raises:
        ProtocolError: REGION_NOT_GOVERNED, one is no record, in another place, or not the one that is held.
    """
    signed = _read(listed)
    start = signed[0][0].record.number if signed else len(held)
    if start not in (0, len(held)) or any(one.record.number != start + at for at, (one, _, _) in enumerate(signed)):
        raise ProtocolError(Reason.REGION_NOT_GOVERNED, "$.records", "records are not listed in their order")
    texts = list(held)
    shown: list[tuple[int, str]] = []
    for one, text, _ in signed[: len(held) - start]:
        number = one.record.number
        before = open_record(held[number].encode("ascii"))
        if one.digest != before.digest:
            raise ProtocolError(Reason.REGION_NOT_GOVERNED, "$.records", f"record {number} is another than it was")
        if one.inner is not None and before.inner is None:
            texts[number] = text
            shown.append((number, text))
    fresh = signed[len(held) - start :]
    return Listing(fresh, [*texts, *(text for _, text, _ in fresh)], shown)


def _read(listed: Iterable[tuple[str, int]]) -> list[tuple[Signed, str, int]]:
    found: list[tuple[Signed, str, int]] = []
    for text, leaf in listed:
        try:
            found.append((open_record(text.encode("ascii", "replace")), text, leaf))
        except ProtocolError as exc:
            raise ProtocolError(Reason.REGION_NOT_GOVERNED, f"$.records.{exc.reason.value}", exc.detail) from exc
    return found


def shows_more(texts: Iterable[str]) -> bool:
    """Whether one of these records shows a hidden member to more than before: then earlier ones have openings now."""
    for text in texts:
        try:
            if isinstance(open_record(text.encode("ascii", "replace")).deed, Show):
                return True
        except ProtocolError:
            continue
    return False
