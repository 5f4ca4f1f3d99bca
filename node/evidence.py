"""What a node holds about one report, gathered into an evidence bundle (`protocol/evidence.py`).

Guarantees: reads only, and one state of the store, so that it may run beside the node; what it says in the bundle's own
words is marked as the node's own record; whatever one could expect and is not there is named with the reason. What was
erased stays erased. Nothing is verified here: an examiner does not take the node's word for anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from node.config import Config
from node.reading import open_reader
from node.store import Reads, instant
from node.trust import Trust
from protocol.envelope import header_in
from protocol.errors import ConfigError, ProtocolError
from protocol.evidence import Absent, Alarm, Bundle, Revision
from protocol.invitation import Invitation, load_invitation
from protocol.jws import split_jws
from protocol.policy import Withheld
from protocol.sealing import parse_box
from protocol.statements import Confirmation, Delivery, Receipt
from protocol.submission import split_submission

_REGION_FILE: Final = "region.jwt"
_PAGE: Final = 5_000
_STOPPED: Final = "stopped"
_DELIVERED: Final = "delivered"
_BROKERS: Final = (_STOPPED, _DELIVERED)
"""What the broker says about a recipient stands among the recipients' own words."""
_HEARD: Final = frozenset({"alarm", "report.state", "report.expired"})
_delivery: Final = msgspec.json.Decoder(Delivery)
_receipt: Final = msgspec.json.Decoder(Receipt)
_confirmation: Final = msgspec.json.Decoder(Confirmation)
_withheld: Final = msgspec.json.Decoder(list[Withheld])


def export(
    config: Config, report_id: str, now: datetime, *, revision: int | None = None, public: bool = False
) -> Bundle:
    """Gather what is here about a report, own or received.

    Args:
        revision: only this one.
        public: of the content, the header only.

    Raises:
        ConfigError: no such report is here, or this is no node's directory.
    """
    invitation = load_invitation(config.invitation)
    store = open_reader(config.data, config.store)
    try:
        with store.read() as reads:
            gather = _Gather(reads, public=public)
            own = gather.own(report_id, revision)
            found = own or gather.received(report_id, revision)
            if not found:
                which = f"revision {revision} of report {report_id}" if revision else f"report {report_id}"
                raise ConfigError(
                    f"there is no {which} at this node: ask for one that `GET /v1/reports` or `/v1/inbox` lists"
                )
            return Bundle(
                kentongan_evidence=1,
                report_id=report_id,
                role="origin" if own else "recipient",
                member=config.member,
                made_at=now,
                broker_keys=invitation.broker_keys,
                region=_region(config.data, [row.record for row in reads.governance()], invitation, now),
                revisions=found,
                links=gather.links(report_id),
                alarms=gather.alarms,
                absent=_never_there(own=bool(own)),
            )
    finally:
        store.close()


def _region(data: Path, records: Sequence[str], invitation: Invitation, now: datetime) -> str:
    """The newest region document that is here: the one that came over the bus, or the invitation's."""
    trust = Trust.invited(invitation, lambda: now)
    invited = trust.issued_at
    try:
        cached = (data / _REGION_FILE).read_bytes()
        trust.update(cached, records)
    except (FileNotFoundError, ProtocolError):
        return invitation.region
    return cached.decode("ascii") if trust.issued_at > invited else invitation.region


def _never_there(*, own: bool) -> list[Absent]:
    said = [Absent(what="the broker's noted statements", why="nodes do not keep them")]
    if not own:
        said.append(Absent(what="the receipt", why="the broker gives it to the origin alone"))
        said.append(Absent(what="others' grants and confirmations", why="the broker tells them to the origin alone"))
    return said


class _Gather:
    """Reads one state of the store."""

    def __init__(self, reads: Reads, *, public: bool) -> None:
        self._reads = reads
        self._public = public
        self._said_at: list[int] = []
        self.alarms: list[Alarm] = []
        """What this node raised about the report."""

    def _cut(self, presentation: str, absent: list[Absent]) -> str:
        """An SD-JWT, down to its header if only that may be shown."""
        if not self._public:
            return presentation
        absent.append(Absent(what="the report's content", why="only the header was asked for"))
        return "~".join([*presentation.split("~")[:2], ""])

    def _proof(self, leaf: int, absent: list[Absent]) -> str | UnsetType:
        for row in self._reads.leaves_by("leaf", [leaf]):
            if row.proof:
                return str(row.proof)
            absent.append(Absent(what="the proof of inclusion", why=f"the leaf's state here is {row.state}"))
            return UNSET
        absent.append(Absent(what="the proof of inclusion", why="this node does not watch the leaf"))
        return UNSET

    def _statements(self, names: Sequence[str]) -> list[str]:
        wanted = list(dict.fromkeys(names))
        held = {row.digest: str(row.jws) for row in self._reads.statements_by(wanted)}
        return [held[name] for name in wanted if name in held]

    # --- own reports --------------------------------------------------------------------------------------------

    def own(self, report_id: str, revision: int | None) -> list[Revision]:
        """The revisions that this member filed."""
        rows = [row for row in self._reads.own_by("report_id", [report_id]) if revision in (None, row.revision)]
        if not rows:
            return []
        envelopes = {row.id: row for row in self._reads.submissions_by("id", {row.submission for row in rows})}
        words: dict[str, list[Any]] = {}
        for word in sorted(self._reads.confirmed_by([row.digest for row in rows]), key=lambda word: word.at):
            words.setdefault(word.report, []).append(word)
        self._listen({report_id, *(row.digest for row in rows)})
        ordered = sorted(rows, key=lambda row: row.revision)
        return [self._own(row, envelopes[row.submission], words.get(row.digest, [])) for row in ordered]

    def _own(self, row: Any, envelope: Any, words: Sequence[Any]) -> Revision:
        absent: list[Absent] = []
        sd_jwt, boxes = split_submission(envelope.message)
        jws = sd_jwt.decode("ascii").partition("~")[0]
        presentation: str | UnsetType = UNSET
        box: str | UnsetType = UNSET
        if row.disclosures:
            presentation = self._cut(f"{jws}~{row.disclosures}~", absent)
            box = self._box(row.disclosures.partition("~")[0], boxes, absent)
        else:
            absent.append(Absent(what="the report's content", why="it was erased"))
        receipt: str | UnsetType = envelope.receipt or UNSET
        proof: str | UnsetType = UNSET
        if receipt:
            proof = self._proof(_receipt.decode(split_jws(receipt, Receipt.typ).payload).leaf, absent)
        else:
            why = (
                "the own policy lets nobody have it: it was never sent"
                if row.kept
                else "the broker's answer is awaited"
            )
            absent.append(Absent(what="the receipt", why=why))
        return Revision(
            revision=row.revision,
            digest=row.digest,
            presentation=presentation,
            envelope=jws if jws and not presentation else UNSET,
            box=box,
            receipt=receipt,
            proof=proof,
            confirmations=self._statements([word.statement for word in words if word.state not in _BROKERS]),
            delivered=self._statements([word.statement for word in words if word.state == _DELIVERED]),
            stopped=self._statements([word.statement for word in words if word.state == _STOPPED]),
            absent=absent,
        )

    def _box(self, header_text: str, boxes: Sequence[bytes], absent: list[Absent]) -> str | UnsetType:
        sealed = header_in(header_text).sealed
        if not sealed:
            return UNSET
        if self._public:
            absent.append(Absent(what="the box", why="only the header was asked for"))
            return UNSET
        for data in boxes:
            if parse_box(data).digest() == sealed:
                return data.decode("utf-8")
        absent.append(Absent(what="the box", why="it is not kept here"))
        return UNSET

    # --- others' reports ----------------------------------------------------------------------------------------

    def received(self, report_id: str, revision: int | None) -> list[Revision]:
        """The revisions that others filed and this member holds, held, or did not take."""
        rows = [row for row in self._reads.inbox_by("report_id", [report_id]) if revision in (None, row.revision)]
        here = {row.revision for row in rows}
        turned = [row for row in self._reads.refused_by("report_id", [report_id]) if row.revision not in here]
        turned = [row for row in turned if row.revision is not None and revision in (None, row.revision)]
        self._listen({report_id, *(row.digest for row in (*rows, *turned))})
        # A revision can have been refused in several forms: the last one speaks.
        found = {row.revision: self._turned(row) for row in sorted(turned, key=lambda row: row.at)}
        found |= {row.revision: self._received(row) for row in rows}
        return [found[number] for number in sorted(found)]

    def _received(self, row: Any) -> Revision:
        absent: list[Absent] = []
        presentation: str | UnsetType = UNSET
        if row.presentation:
            presentation = self._cut(row.presentation, absent)
            if header_in(row.presentation.split("~")[1]).sealed:
                absent.append(Absent(what="the box", why="it was opened on arrival and is not kept"))
        else:
            ended = "it expired" if row.expired_at is not None else "its origin took it back"
            absent.append(Absent(what="the report's content", why=f"it was erased when {ended}"))
        delivery, proof = self._delivered(row, absent)
        return Revision(
            revision=row.revision,
            digest=row.digest,
            presentation=presentation,
            received_at=instant(row.broker_received_at),
            delivery=delivery,
            proof=proof,
            confirmations=self._own_words(row),
            withheld=_withheld.decode(row.withheld),
            absent=absent,
        )

    def _turned(self, row: Any) -> Revision:
        """What was delivered and not taken: that it was, and that its origin was told."""
        absent = [Absent(what="the report's content", why="this node did not take it")]
        delivery, proof = self._delivered(row, absent)
        return Revision(
            revision=row.revision,
            digest=row.digest,
            delivery=delivery,
            proof=proof,
            confirmations=self._own_words(row),
            absent=absent,
        )

    def _delivered(self, row: Any, absent: list[Absent]) -> tuple[str | UnsetType, str | UnsetType]:
        """The statement of the delivery that brought it, and the proof that its grant is in the log."""
        delivery = next(iter(self._statements([row.statement])), None)
        if delivery is None:
            absent.append(Absent(what="the delivery statement", why="it is not kept here"))
            return UNSET, UNSET
        said = _delivery.decode(split_jws(delivery, Delivery.typ).payload)
        named = [one.leaf for one in said.grants if any(report[0] == row.digest for report in one.reports)]
        return delivery, self._proof(named[0], absent) if named else UNSET

    def _own_words(self, row: Any) -> list[str]:
        """What this member confirmed of a report: its node on arrival, and its users since."""
        words = self._reads.confirmations_by("digest", [row.confirmation])
        words += self._reads.confirmations_by("created_at", self._said_at)
        found = {str(word.jws): _confirmation.decode(split_jws(word.jws, Confirmation.typ).payload) for word in words}
        return [jws for jws, said in found.items() if row.digest in said.reports]

    # --- what else ----------------------------------------------------------------------------------------------

    def links(self, report_id: str) -> list[str]:
        """The broker's statements that name the report among what is linked."""
        return self._statements([row.statement for row in self._reads.links_of(report_id)])

    def _listen(self, names: set[str]) -> None:
        """Go through the feed for what it says of these reports: alarms, and when this member said a word later on."""
        after = 0
        while page := self._reads.events_after(after, _PAGE):
            after = page[-1].seq
            for event in page:
                if event.kind not in _HEARD:
                    continue
                said = msgspec.json.decode(event.data)
                if not names & {value for value in said.values() if isinstance(value, str)}:
                    continue
                if event.kind == "alarm":
                    self.alarms.append(Alarm(at=instant(event.at), says=said))
                else:
                    self._said_at.append(event.at)
