"""Reports of the store as other formats are given them: what this node may show, and nothing beyond.

Guarantees: of others' reports, what was disclosed here and let in by the own import policy (`view`), never the signed
bytes; of a withdrawal its header alone, and of what is erased (withdrawn, expired) nothing. Pure but for the reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from node.formats.foreign import Shown
from node.retracting import dropped_indicators
from node.store import Reads, instant
from node.taxii import Seen, shows_of
from node.views import may_see
from protocol.access import ANYBODY, Client
from protocol.envelope import header_in
from protocol.policy import Withheld

_any: Final = msgspec.json.Decoder(dict[str, Any])
_withheld: Final = msgspec.json.Decoder(list[Withheld])


def own_shown(reads: Reads, report_id: str, client: Client = ANYBODY) -> list[Shown]:
    """The newest revision of an own report that a client may read; empty if there is none."""
    rows = [row for row in reads.own_by("report_id", [report_id]) if may_see(client, row, own=True)]
    rows.sort(key=lambda row: row.revision)
    told = [(Seen(), _any.decode(row.filing).get("body", {}).get("indicators", ())) for row in rows]
    found = []
    for row in rows[-1:]:
        header = msgspec.to_builtins(header_in(row.disclosures.partition("~")[0]))
        body = _any.decode(row.filing).get("body", {})
        dropped = dropped_indicators(told[:-1], told[-1])
        found.append(Shown(header, body, (), 0, instant(row.filed_at), own=True, dropped=dropped))
    return found


def inbox_shown(row: Any, earlier: Sequence[Any] = ()) -> Shown | None:
    """One of others' reports; None if it is erased.

    Args:
        earlier: rows of earlier revisions of it, in order, that the same reader may see.
    """
    if row.expired_at is not None or not row.presentation:
        return None
    header = _any.decode(row.view)
    body = header.pop("body", {})
    return Shown(
        header=header,
        body={} if row.withdrawn else body,
        withheld=sorted({item.unit for item in _withheld.decode(row.withheld)}),
        undisclosed=row.undisclosed,
        at=instant(row.received_at),
        own=False,
        dropped=() if row.withdrawn else dropped_indicators(_known(earlier), *_known([row])),
    )


def _known(rows: Sequence[Any]) -> list[tuple[Seen, Sequence[Any]]]:
    """How much of these is known here, and their indicators; nothing of what is erased."""
    found = []
    for row in rows:
        if row.presentation and not row.withdrawn:
            body = _any.decode(row.view).get("body") or {}
            withheld = frozenset(item.unit for item in _withheld.decode(row.withheld))
            found.append((Seen(shows_of(body), withheld, row.presentation), body.get("indicators", ())))
    return found


def earlier_of(row: Any, others: Sequence[Any]) -> list[Any]:
    """Of these, the earlier revisions of the same report, in order."""
    found = [other for other in others if other.report_id == row.report_id and other.revision < row.revision]
    return sorted(found, key=lambda other: int(other.revision))
