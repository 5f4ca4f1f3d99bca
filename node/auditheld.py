"""Whether an audit shows everything that a member of the jurisdiction holds evidence of.

The log shows how many entries it has, never whose they are: that the broker's answers leave none out can be shown only
by comparing them with what the members hold. Guarantees of `Shown.missing`: pure; whatever a member's evidence bundle
holds (receipt, grant, confirmation) and the audit, which covers its leaf, does not show is found. What the bundle is
worth is for `protocol/evidence.py` `verify_bundle` to say: only a bundle that holds accuses anybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec
from msgspec import UNSET

from node.auditing import Fault, Page
from protocol.evidence import Bundle, Revision
from protocol.jws import split_jws
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.statements import Delivery, Receipt, statement_digest

_receipt: Final = msgspec.json.Decoder(Receipt)
_delivery: Final = msgspec.json.Decoder(Delivery)


@dataclass(slots=True)
class Shown:
    """What an audit has shown.

    Args:
        since, until: what was asked for.
    """

    since: datetime | None = None
    until: datetime | None = None
    end: int = 0
    """Up to where it goes: all entries before that which are of this time, the broker says, it has shown."""
    entries: set[tuple[str, str]] = field(default_factory=set)
    """Receipts with whom they were shown for; of a receipt that went to nobody, with an empty name."""
    receipts: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    unseen: set[int] = field(default_factory=set)

    def add(self, page: Page) -> None:
        """Another page."""
        self.end = page.end if page.more else page.size
        self.unseen.update(page.unseen)
        for line in page.lines:
            self.receipts.add(line.receipt)
            self.entries.add((line.receipt, line.member or ""))
            self.words.update(event.statement for event in line.events)

    def missing(self, bundle: Bundle) -> Iterator[Fault]:
        """What is in the bundle and should have been shown.

        Raises:
            ProtocolError: the bundle cannot be read.
        """
        for item in bundle.revisions:
            entry = _entry(bundle, item)
            if entry is None or not self._covers(entry):
                continue
            about = f"revision {item.revision} of {bundle.report_id}, which {bundle.member} holds"
            if entry.member is None and entry.receipt not in self.receipts:
                yield _left_out("$.lines", f"{about}: its receipt, leaf {entry.leaf}")
            elif entry.member is not None and (entry.receipt, entry.member) not in self.entries:
                yield _left_out("$.lines", f"{about}: what {entry.member} was granted, leaf {entry.leaf}")
            for jws in item.confirmations:
                if statement_digest(jws) not in self.words:
                    yield _left_out("$.lines.events", f"{about}: the confirmation {statement_digest(jws)}")

    def _covers(self, entry: _Entry) -> bool:
        if entry.leaf >= self.end or entry.leaf in self.unseen:
            return False
        return (self.since is None or self.since <= entry.at) and (self.until is None or entry.at < self.until)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a bundle shows of the log: of which receipt, to whom it was shown, when the broker received the report."""

    leaf: int
    receipt: str
    member: str | None
    at: datetime


def _entry(bundle: Bundle, item: Revision) -> _Entry | None:
    if bundle.role == "origin":
        if item.receipt is UNSET:
            return None
        said = decode(_receipt, split_jws(item.receipt, Receipt.typ).payload)
        return _Entry(said.leaf, statement_digest(item.receipt), None, said.received_at)
    if item.delivery is UNSET:
        return None
    delivery = decode(_delivery, split_jws(item.delivery, Delivery.typ).payload)
    for opening in delivery.grants:
        if any(report[0] == item.digest for report in opening.reports):
            at = item.received_at if item.received_at is not UNSET else delivery.sent_at
            return _Entry(opening.leaf, opening.receipt, delivery.aud, at)
    return None


def _left_out(path: str, detail: str) -> Fault:
    return Fault(reason=Reason.LEFT_OUT.value, path=path, detail=detail)
