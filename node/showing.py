"""Reports of the store as other formats are given them: what this node may show, and nothing beyond.

Guarantees: of others' reports, what was disclosed here and let in by the own import policy (`view`), never the signed
bytes; of a withdrawal its header alone, and of what is erased (withdrawn, expired) nothing. Pure but for the reads.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from node.formats.foreign import Shown
from node.store import Reads, instant
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
    return [
        Shown(
            header=msgspec.to_builtins(header_in(row.disclosures.partition("~")[0])),
            body=_any.decode(row.filing).get("body", {}),
            withheld=(),
            undisclosed=0,
            at=instant(row.filed_at),
            own=True,
        )
        for row in rows[-1:]
    ]


def inbox_shown(row: Any) -> Shown | None:
    """One of others' reports; None if it is erased."""
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
    )
