"""An evidence bundle: all that shows what became of one report, in one file that needs no network and no node.

What a node exports (`node/evidence.py`), a court or an auditor examines (`verify_bundle`). The fields are those of
`Bundle`; docs/evidence.md has an example. Guarantees of `verify_bundle`: pure; it raises nothing; what it calls proven
follows from signatures by keys that the verifier trusts, and holds together: submission, receipt, grants, the log's
entry, confirmations and withdrawal are about the same report, in a possible order of time. What the bundle says without
a signature is used to find things, never to prove them. Refuses, as a finding: whatever contradicts that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.errors import ProtocolError
from protocol.exhibits import Exhibits, Seen, Times, disclosed
from protocol.findings import Examiner, Finding, Trust, Verdict, iso, later
from protocol.grants import open_grant
from protocol.keys import KeyRecord, VerifyKey
from protocol.parse import decode
from protocol.policy import HEADER, Withheld, names_of
from protocol.reasons import Reason
from protocol.report import Digest, Instant, Jurisdiction
from protocol.statements import Confirmation, Delivered, Delivery, Links, Opening, Receipt, Stopped

LARGEST: Final = 64 << 20
"""Bytes of a bundle that are read."""
EXTENSION: Final = ".evidence.json"
_DELIVERED: Final = "a delivered statement"
_STOPPED: Final = "a stopped statement"


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Absent(_Part, frozen=True, kw_only=True):
    """Something that one could expect and that is not in the bundle, and why. Said by the node, not signed."""

    what: str
    why: str


class Alarm(_Part, frozen=True, kw_only=True):
    """An alarm of the node that made the bundle: its own record, not signed."""

    at: Instant
    says: dict[str, Any]


class Revision(_Part, frozen=True, kw_only=True):
    """One revision of the report."""

    revision: Annotated[int, Meta(ge=1)]
    digest: Digest
    presentation: str | UnsetType = UNSET
    """The SD-JWT, with what of the report may be shown."""
    envelope: str | UnsetType = UNSET
    """The JWS of the SD-JWT alone, where the content is not here any more."""
    box: str | UnsetType = UNSET
    """Of a sealed report, the box as it was sent."""
    received_at: Instant | UnsetType = UNSET
    """When the broker received it, as a recipient's node wrote down; a receipt says it signed."""
    receipt: str | UnsetType = UNSET
    delivery: str | UnsetType = UNSET
    """The statement of the delivery message, which holds the opening of the grants."""
    proof: str | UnsetType = UNSET
    """A tlog-proof of the receipt's entry, which a recipient computes from the opening."""
    confirmations: list[str] = []
    delivered: list[str] = []
    """The broker's word that it lies in a recipient's inbox."""
    stopped: list[str] = []
    """The broker's word that a recipient does not get it any more."""
    withheld: list[Withheld] = []
    """What the recipient's own import policy did not let in, as its node wrote down."""
    absent: list[Absent] = []


class Bundle(_Part, frozen=True, kw_only=True):
    """The file. Everything that counts in it is signed by somebody, or computed from what is."""

    kentongan_evidence: Literal[1]
    report_id: Annotated[str, Meta(max_length=36)]
    role: Literal["origin", "recipient"]
    """What the member that made the bundle is to the report."""
    member: Jurisdiction
    made_at: Instant
    broker_keys: list[KeyRecord]
    """The broker's keys that the member's node pinned."""
    region: str
    """The region document."""
    revisions: Annotated[list[Revision], Meta(min_length=1)]
    links: list[str] = []
    alarms: list[Alarm] = []
    absent: list[Absent] = []


_decoder: Final = msgspec.json.Decoder(Bundle)


def read_bundle(data: bytes) -> Bundle:
    """Read a bundle; nothing in it is verified. ProtocolError if it is none."""
    if len(data) > LARGEST:
        raise ProtocolError(Reason.TOO_LARGE, "$", f"a bundle has at most {LARGEST} bytes")
    return decode(_decoder, data)


def write_bundle(bundle: Bundle) -> bytes:
    """A bundle as a file."""
    return msgspec.json.format(msgspec.json.encode(bundle)) + b"\n"


def verify_bundle(bundle: Bundle, trust: Trust | None, at: datetime) -> Verdict:
    """Examine a bundle.

    Args:
        trust: what the verifier believes on its own account. None takes the broker's keys from the bundle itself, which
            proves only that the bundle agrees with itself; the verdict's warning says so.
        at: the time of the examination. What is dated after it is refused, later revocations do not count.
    """
    examiner = Examiner(at)
    examiner.establish(trust, bundle.region, bundle.broker_keys)
    if examiner.registry is None:
        sentence = "Without a region document that a trusted key signed, nothing else in the bundle can be checked."
        examiner.lacking("bundle", "region document", sentence)
    else:
        _Bench(examiner, bundle).examine()
    return Verdict(
        kind="evidence bundle",
        warning="" if trust else warning(examiner, "bundle"),
        findings=examiner.findings,
        notes=_notes(bundle),
    )


def warning(examiner: Examiner, what: str) -> str:
    """What a reader must be told first when the broker's key came from what is examined."""
    return (
        f"ATTENTION: the broker's key {examiner.signed_by or '(none)'} is taken from the {what} itself. Whoever made "
        f"the {what} could have made that key. Compare it with the broker's operator by another way, or give --trust."
    )


def _notes(bundle: Bundle) -> list[str]:
    said = [f"Made by {bundle.member}, the {bundle.role} of the report, on {iso(bundle.made_at)}."]
    said += [f"Not in the bundle: {item.what}: {item.why}." for item in bundle.absent]
    for revision in bundle.revisions:
        name = f"revision {revision.revision}"
        said += [f"Not in the bundle, {name}: {item.what}: {item.why}." for item in revision.absent]
        kept_out = ", ".join(item.unit for item in revision.withheld)
        if kept_out:
            said.append(f"The import policy of {bundle.member} kept out of {name}: {kept_out}.")
    for alarm in bundle.alarms:
        said.append(f"Alarm of {bundle.member} on {iso(alarm.at)}: {msgspec.json.encode(alarm.says).decode()}")
    return said


@dataclass(frozen=True, slots=True)
class _Told:
    """What is proven of a revision, for comparing it with the others."""

    origin: str
    report_id: str
    revision: int
    supersedes: str | None
    withdraws: bool
    issued_at: datetime


class _Bench:
    """Examines one bundle whose region is established."""

    def __init__(self, examiner: Examiner, bundle: Bundle) -> None:
        self._x = examiner
        self._bundle = bundle
        self._exhibits = Exhibits(examiner)
        self._told: dict[str, _Told] = {}

    def examine(self) -> None:
        numbers = [item.revision for item in self._bundle.revisions]
        if len(set(numbers)) < len(numbers):
            self._x.false("bundle", Reason.REVISION_CONFLICT, "The bundle holds a revision twice.")
        for item in sorted(self._bundle.revisions, key=lambda item: item.revision):
            about = f"revision {item.revision}: "
            if self._bundle.role == "origin":
                self._own(item, about)
            else:
                self._received(item, about)
        self._chain()
        for jws in self._bundle.links:
            self._link(jws)

    # --- the origin's side --------------------------------------------------------------------------------------

    def _own(self, item: Revision, about: str) -> None:
        x = self._x
        receipt: Receipt | None = None
        opened = x.statement(f"{about}receipt", item.receipt, Receipt, "the receipt") if item.receipt else None
        witnessed: datetime | None = None
        later_on: list[Finding] = []
        if opened is not None and item.receipt:
            entry = self._exhibits.entry(about, opened[0], item.receipt)
            mark = len(x.findings)
            witnessed = self._proof(item, about, entry, opened[0])
            later_on, x.findings[mark:] = x.findings[mark:], []
            stands = x.stands(f"{about}receipt", opened[1], opened[0].received_at, witnessed, "the receipt")
            if entry is not None and stands:
                receipt = opened[0]
        elif not item.receipt:
            x.lacking(f"{about}receipt", "receipt", "The broker's receipt is not in the bundle.")
        times = Times(received=receipt.received_at if receipt else None)
        seen = self._report(item, about, times, witnessed if receipt else None)
        if receipt is not None and opened is not None:
            self._exhibits.receipt(about, receipt, opened[1], item.digest)
            self._agree(about, item, receipt, seen)
        x.findings += later_on
        for jws in item.confirmations:
            self._confirmed(about, item, jws, receipt, seen)
        for jws in item.delivered:
            self._notice(f"{about}delivered", item, x.statement(f"{about}delivered", jws, Delivered, _DELIVERED), seen)
        for jws in item.stopped:
            self._notice(f"{about}stopped", item, x.statement(f"{about}stopped", jws, Stopped, _STOPPED), seen)

    def _agree(self, about: str, item: Revision, receipt: Receipt, seen: Seen | None) -> None:
        """The receipt is about this report of this submission, and was given to its origin."""
        x = self._x
        said = next((report for report in receipt.reports if report.digest == item.digest), None)
        if said is None:
            if not receipt.refusal:
                x.false(f"{about}receipt", Reason.UNKNOWN_REPORT, "The receipt does not name this report.")
                return
        elif said.revision is not UNSET and (said.revision, said.report_id) != (item.revision, self._bundle.report_id):
            x.false(
                f"{about}receipt", Reason.CONTENT_CHANGED, "The receipt has another id or revision for this report."
            )
        if seen is None:
            return
        if receipt.submission != seen.submission:
            x.false(f"{about}receipt", Reason.CONTENT_CHANGED, "The receipt is for another submission.")
        elif receipt.aud != seen.origin:
            x.false(f"{about}receipt", Reason.WRONG_AUDIENCE, "The receipt is for another member than the signer.")
        else:
            sentence = "The receipt is for this submission, by its digest, and was given to its signer."
            x.proven(f"{about}match", sentence, submission=receipt.submission, origin=seen.origin)

    # --- a recipient's side -------------------------------------------------------------------------------------

    def _received(self, item: Revision, about: str) -> None:
        x = self._x
        opened = x.statement(f"{about}delivery", item.delivery, Delivery, "the delivery") if item.delivery else None
        delivery: Delivery | None = None
        opening: Opening | None = None
        later_on: list[Finding] = []
        witnessed: datetime | None = None
        if opened is not None:
            mark = len(x.findings)
            opening = next((one for one in opened[0].grants if _names(one, item.digest)), None)
            if opening is None:
                x.false(f"{about}grant", Reason.NOT_GRANTED, "The delivery grants nothing of this report.")
            else:
                witnessed = self._proof(item, about, self._entry(about, opening, opened[0].aud), opening)
            later_on, x.findings[mark:] = x.findings[mark:], []
            if x.stands(f"{about}delivery", opened[1], opened[0].sent_at, witnessed, "the delivery"):
                delivery = opened[0]
        elif not item.delivery:
            x.lacking(f"{about}delivery", "delivery", "The delivery statement is not in the bundle.")
        said = item.received_at or None
        if delivery is None or (said is not None and later(said, delivery.sent_at)):
            said = None
        times = Times(delivered=delivery.sent_at if delivery else None, said=said)
        seen = self._report(item, about, times, witnessed if delivery else None)
        if delivery is not None and opened is not None:
            self._delivered(about, delivery, opened[1].record.kid)
            if opening is not None:
                self._granted(about, item, opening, delivery.aud, seen)
        x.findings += later_on
        for jws in item.confirmations:
            self._confirmed(about, item, jws, None, seen, delivery)

    def _entry(self, about: str, opening: Opening, member: str) -> bytes | None:
        try:
            return open_grant(opening, member)
        except ProtocolError as exc:
            self._x.failed(f"{about}grant", exc, "the opening of the grants")
            return None

    def _delivered(self, about: str, delivery: Delivery, kid: str) -> None:
        x = self._x
        if delivery.aud != self._bundle.member:
            sentence = f"The delivery is for {delivery.aud}, the bundle is by {self._bundle.member}."
            x.false(f"{about}delivery", Reason.WRONG_AUDIENCE, sentence)
            return
        sentence = f"{_upper(x.name('broker'))} delivered it to {x.name(delivery.aud)} on {iso(delivery.sent_at)}."
        x.proven(f"{about}delivery", sentence, to=delivery.aud, at=iso(delivery.sent_at), delivery=delivery.id, kid=kid)

    def _granted(self, about: str, item: Revision, opening: Opening, member: str, seen: Seen | None) -> None:
        """What is disclosed here was granted. Of a sealed report the broker grants the header alone."""
        x = self._x
        exact, coarse = next((exact, coarse) for digest, exact, coarse in opening.reports if digest == item.digest)
        shown = seen.report.units() if seen and seen.report and not seen.report.header.sealed else (0, 0)
        if not exact & HEADER or shown[0] & ~exact or shown[1] & ~coarse:
            x.false(
                f"{about}grant", Reason.NOT_GRANTED, "More of the report is here than was granted to the recipient."
            )
            return
        facts = {"member": member, "exact": names_of(exact), "coarse": names_of(coarse), "report": item.digest}
        x.proven(f"{about}grant", f"{x.name(member)} was granted {disclosed(exact, coarse)}.", **facts)

    # --- both ---------------------------------------------------------------------------------------------------

    def _report(self, item: Revision, about: str, times: Times, witnessed: datetime | None) -> Seen | None:
        """The origin's signature, and what it says of the report's identity."""
        x = self._x
        if not item.presentation:
            if item.envelope:
                return self._exhibits.alone(about, item.envelope, item.digest, times, witnessed)
            sentence = "Its content is not in the bundle: who signed it cannot be checked."
            x.lacking(f"{about}report", "presentation", sentence)
            return None
        seen = self._exhibits.report(about, item.presentation, item.digest, times, witnessed)
        if seen is None or seen.report is None:
            return None
        header = seen.report.header
        if (str(header.report_id), header.revision) != (self._bundle.report_id, item.revision):
            x.false(f"{about}report", Reason.CONTENT_CHANGED, "The bundle says another id or revision than the report.")
            return None
        if item.box:
            self._exhibits.box(about, item.box, header)
        had = times.received or times.delivered
        if had is not None and later(header.issued_at, had):
            x.false(f"{about}report", Reason.TIME_IN_FUTURE, "It is dated after the broker had it.")
        supersedes = header.supersedes or None
        self._told[item.digest] = _Told(
            seen.origin,
            str(header.report_id),
            header.revision,
            supersedes,
            header.phase == "withdrawn",
            header.issued_at,
        )
        return seen

    def _proof(self, item: Revision, about: str, entry: bytes | None, said: Receipt | Opening) -> datetime | None:
        if entry is None:
            return None
        if not item.proof:
            self._x.lacking(
                f"{about}log", "proof", "That it stands in the log is not proven: the bundle has no tlog-proof."
            )
            return None
        since = said.received_at if isinstance(said, Receipt) else None
        return self._x.log(about, item.proof, entry, said.leaf, since)

    def _confirmed(
        self,
        about: str,
        item: Revision,
        jws: str,
        receipt: Receipt | None,
        seen: Seen | None,
        delivery: Delivery | None = None,
    ) -> None:
        x = self._x
        about = f"{about}confirmation"
        opened = x.statement(about, jws, Confirmation, "a confirmation")
        if opened is None:
            return
        said, key = opened
        if item.digest not in said.reports:
            x.false(about, Reason.UNKNOWN_REPORT, f"The confirmation of {said.iss} is about other reports.")
        elif seen is not None and said.aud != seen.origin:
            x.false(about, Reason.WRONG_AUDIENCE, f"The confirmation of {said.iss} is for another origin.")
        elif delivery is not None and said.iss != delivery.aud:
            x.false(
                about, Reason.WRONG_MEMBER, f"The confirmation is by {said.iss}, the delivery was to {delivery.aud}."
            )
        elif receipt is not None and not _granted_to(receipt, item.digest, said.iss):
            x.false(about, Reason.NOT_GRANTED, f"{said.iss} confirmed a report that it was not granted.")
        elif receipt is not None and later(receipt.received_at, said.at):
            x.false(about, Reason.TIME_IN_FUTURE, f"{said.iss} confirmed it before the broker had received it.")
        elif x.stands(about, key, said.at, None, "the confirmation"):
            self._exhibits.confirmation(about, said, key)

    def _notice(
        self, about: str, item: Revision, opened: tuple[Delivered | Stopped, VerifyKey] | None, seen: Seen | None
    ) -> None:
        """The broker's word to the origin about one recipient."""
        x = self._x
        if opened is None:
            return
        said, key = opened
        if item.digest not in said.reports:
            x.false(about, Reason.UNKNOWN_REPORT, "The broker's statement is about other reports.")
        elif seen is not None and said.aud != seen.origin:
            x.false(about, Reason.WRONG_AUDIENCE, "The broker's statement is for another origin.")
        elif x.stands(about, key, said.at, None, "the broker's statement"):
            self._exhibits.notice(about, said, key)

    def _link(self, jws: str) -> None:
        x = self._x
        opened = x.statement("links", jws, Links, "a links statement")
        if opened is None:
            return
        said, key = opened
        ours = [link for link in said.links if self._bundle.report_id in (link.a.report_id, link.b.report_id)]
        if not ours:
            x.false("links", Reason.UNKNOWN_REPORT, "A links statement is about other reports.")
        elif said.aud != self._bundle.member:
            x.false("links", Reason.WRONG_AUDIENCE, "A links statement is for another member.")
        elif x.stands("links", key, said.at, None, "the links statement"):
            self._exhibits.links("links", said, key, ours)

    def _chain(self) -> None:
        """All revisions are of one origin, each follows the one before it, and one may take the others back."""
        x = self._x
        told = sorted(self._told.items(), key=lambda pair: pair[1].revision)
        if len({item.origin for _, item in told}) > 1:
            x.false("revisions", Reason.WRONG_MEMBER, "The revisions are signed by different members.")
            return
        digests = {item.revision: item.digest for item in self._bundle.revisions}
        for _, item in told:
            before = digests.get(item.revision - 1)
            if item.supersedes and before and item.supersedes != before:
                sentence = f"Revision {item.revision} follows another report than revision {item.revision - 1} here."
                x.false("revisions", Reason.CONTENT_CHANGED, sentence)
            elif item.supersedes and before:
                sentence = f"Revision {item.revision} says that it follows revision {item.revision - 1}, by its digest."
                x.proven("revisions", sentence, revision=item.revision, supersedes=before)
            if item.withdraws:
                sentence = (
                    f"{x.name(item.origin)} withdrew the report with revision {item.revision}, dated "
                    f"{iso(item.issued_at)}."
                )
                facts: Mapping[str, Any] = {"revision": item.revision, "report_id": item.report_id, "by": item.origin}
                x.proven("withdrawal", sentence, **facts)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _names(opening: Opening, digest: str) -> bool:
    return any(report[0] == digest for report in opening.reports)


def _granted_to(receipt: Receipt, digest: str, member: str) -> bool:
    for report in receipt.reports:
        if report.digest == digest and member in report.to:
            index = report.to[member]
            return 0 <= index < len(receipt.decisions) and receipt.decisions[index].granted
    return False
