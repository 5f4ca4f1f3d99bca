"""One signed thing at a time, as findings: a report, a receipt, a delivery, a confirmation and what else is signed.

Guarantees: pure; what is found false or lacking becomes a finding, never an exception; sentences name members as the
region document does and units and rules as `wording` does. Verifying is done by the modules that nodes and brokers use
(`envelope`, `statements`, `grants`, `sealing`): there is no second opinion here on what holds, only words for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from protocol.dryrun import Answer, Basis
from protocol.envelope import (
    TYP,
    Envelope,
    Payload,
    RefusedReport,
    SignedReport,
    jws_digest,
    open_envelope,
    parse_envelope,
)
from protocol.errors import ProtocolError
from protocol.findings import Examiner, iso, validity
from protocol.grants import commit
from protocol.jws import JwsParts, split_jws, verify_parts
from protocol.keys import VerifyKey
from protocol.parse import decode
from protocol.policy import HEADER, names_of
from protocol.reasons import Reason
from protocol.report import Header
from protocol.sealing import parse_box
from protocol.statements import (
    BROKER,
    Confirmation,
    Decision,
    Delivered,
    Link,
    Links,
    Receipt,
    Refusal,
    ReportReceipt,
    Stopped,
)
from protocol.wording import load, say

_payload: Final = msgspec.json.Decoder(Payload)
_KEY: Final = (Reason.KEY_NOT_VALID, Reason.KEY_REVOKED)


@dataclass(frozen=True, slots=True)
class Times:
    """By what an origin's key is judged, the best of it first."""

    received: datetime | None = None
    """When the broker received the report, by its signed receipt or delivery."""
    delivered: datetime | None = None
    """When the broker delivered it, signed: it had received it before."""
    said: datetime | None = None
    """When the broker received it, as somebody wrote down without signing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A report whose origin's signature holds. `report` is None where the content is not here."""

    origin: str
    submission: str
    report: SignedReport | None


def disclosed(exact: int, coarse: int) -> str:
    """Units in words."""
    words = load("en")
    found = [words.units[name] for name in names_of(exact & ~HEADER)]
    found += [f"{words.units[name]} as {words.coarse[name]}" for name in names_of(coarse) if name in words.coarse]
    return ", ".join(["the header", *found])


def _why(refusal: Refusal) -> str:
    return f"{refusal.reason}, {refusal.detail}" if refusal.detail else refusal.reason


class Exhibits:
    """Makes findings with one examiner. `about` is the prefix of their subjects."""

    def __init__(self, examiner: Examiner) -> None:
        self._x = examiner

    # --- the origin's signature ---------------------------------------------------------------------------------

    def open(self, about: str, text: str, times: Times) -> Envelope | None:
        """Verify an envelope at the best time that holds; a finding if none does."""
        x = self._x
        try:
            parts = parse_envelope(text).parts
            dated = self._dated(parts)
            tried = [time for time in (times.received, times.delivered, times.said) if time is not None]
            error: ProtocolError | None = None
            for time in (*tried, dated) if times.received is None else tried:
                try:
                    return open_envelope(text, x.find, time)
                except ProtocolError as exc:
                    error = error or exc
                    if exc.reason not in _KEY:
                        raise
        except ProtocolError as exc:
            error = exc
        if error is not None:
            x.failed(f"{about}report", error, "the report")
        return None

    def _dated(self, parts: JwsParts) -> datetime:
        """The time that an envelope bears; nothing is verified."""
        seconds = decode(_payload, parts.payload).iat
        try:
            dated = datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError) as exc:
            raise ProtocolError(Reason.OUT_OF_RANGE, "$.iat", "not a time") from exc
        self._x.past(dated)
        return dated

    def report(self, about: str, text: str, digest: str, times: Times, witnessed: datetime | None) -> Seen | None:
        """One report of an envelope: who signed it, whether the key was valid, what is disclosed."""
        envelope = self.open(about, text, times)
        if envelope is None:
            return None
        report = next((report for report in envelope.reports if report.digest == digest), None)
        if report is None:
            self._x.false(f"{about}report", Reason.CONTENT_CHANGED, "The presentation does not show this report.")
            return None
        return self.shown(about, envelope, report, times, witnessed)

    def shown(
        self,
        about: str,
        envelope: Envelope,
        report: SignedReport | RefusedReport,
        times: Times,
        witnessed: datetime | None,
    ) -> Seen | None:
        """Findings about a report of a verified envelope."""
        x = self._x
        if isinstance(report, RefusedReport):
            x.failed(f"{about}report", report.error, "the report")
            return None
        header = report.header
        member = x.registry.members.get(envelope.issuer) if x.registry else None
        if member is not None and member.jurisdiction != header.origin.jurisdiction:
            x.false(f"{about}report", Reason.WRONG_MEMBER, "It names another jurisdiction than its signer's.")
            return None
        said = msgspec.to_builtins(header)
        x.proven(
            f"{about}report",
            f"Report {header.report_id}, revision {header.revision} ({header.phase}, TLP:{header.marking.tlp}), was "
            f"signed by {x.name(envelope.issuer)} with key {envelope.kid} and is dated {iso(envelope.issued_at)}.",
            origin=envelope.issuer,
            kid=envelope.kid,
            dated=iso(envelope.issued_at),
            digest=report.digest,
            submission=envelope.digest,
            header=said,
        )
        self._key(about, x.find(envelope.kid), envelope.issued_at, times, witnessed)
        exact, coarse = report.units()
        rest = {0: "No signed part is", 1: "One signed part is"}.get(
            report.undisclosed, f"{report.undisclosed} signed parts are"
        )
        x.proven(
            f"{about}disclosed",
            f"Disclosed here: {disclosed(exact, coarse)}. {rest} withheld from this copy.",
            exact=names_of(exact),
            coarse=names_of(coarse),
            undisclosed=report.undisclosed,
            body=report.body,
        )
        return Seen(envelope.issuer, envelope.digest, report)

    def alone(self, about: str, jws: str, digest: str, times: Times, witnessed: datetime | None) -> Seen | None:
        """The signature over a report whose content is not here."""
        x = self._x
        try:
            parts = split_jws(jws, TYP)
            dated = self._dated(parts)
            payload = decode(_payload, parts.payload)
            key = verify_parts(parts, x.find)
            if payload.iss != key.owner:
                raise ProtocolError(Reason.WRONG_MEMBER, "$.iss", "the key does not belong to the issuer")
            if digest not in {item.get("...") for item in payload.reports}:
                raise ProtocolError(Reason.CONTENT_CHANGED, "$.reports", "the signature is over other reports")
            key.check_window(times.received or dated)
        except ProtocolError as exc:
            x.failed(f"{about}report", exc, "the signature")
            return None
        sentence = (
            f"A report with the digest {digest} was signed by {x.name(key.owner)} with key {key.record.kid} and is "
            f"dated {iso(dated)}. Its content is not here."
        )
        facts = {"origin": key.owner, "kid": key.record.kid, "dated": iso(dated), "digest": digest}
        x.proven(f"{about}report", sentence, **facts)
        self._key(about, key, dated, times, witnessed)
        return Seen(key.owner, jws_digest(jws), None)

    def _key(self, about: str, key: VerifyKey, dated: datetime, times: Times, witnessed: datetime | None) -> None:
        x = self._x
        about = f"{about}key"
        kid = key.record.kid
        since = f"; it was revoked on {iso(key.record.revoked_at)}" if key.record.revoked_at else ""
        when = times.received or times.delivered
        if when is None:
            sentence = (
                f"Key {kid} was valid on {iso(dated)}, which the report bears. When the broker had it is not shown."
            )
            x.lacking(about, "receipt", sentence)
            return
        if times.received is None and (not _valid(key, when) or not _valid(key, dated)):
            sentence = (
                f"Key {kid} was not valid all the time from {iso(dated)}, which the report bears, to its delivery on "
                f"{iso(when)}, and when the broker received it is not signed here."
            )
            x.lacking(about, "receipt", sentence, Reason.KEY_NOT_VALID)
            return
        if not x.stands(about, key, when, witnessed, "the report"):
            return
        until = (
            f"when the broker received it on {iso(when)}" if times.received else f"until its delivery on {iso(when)}"
        )
        x.proven(about, f"Key {kid} was valid {until}{since}.", at=iso(when), **validity(key))

    def box(self, about: str, text: str, header: Header) -> None:
        """The box of a sealed report: is it the one that the signed header names, and for whom?"""
        x = self._x
        try:
            box = parse_box(text.encode("utf-8"))
            if not header.sealed or box.digest() != header.sealed:
                raise ProtocolError(Reason.SEAL_BROKEN, "$.sealed", "the signed header names another box, or none")
        except ProtocolError as exc:
            x.failed(f"{about}box", exc, "the box")
            return
        named = ", ".join(x.name(member) for member in box.members())
        x.proven(
            f"{about}box", f"The box is the one that the origin signed. It is sealed to {named}.", to=box.members()
        )

    # --- the broker's word --------------------------------------------------------------------------------------

    def entry(self, about: str, receipt: Receipt, jws: str) -> bytes | None:
        """What must be in the log for a receipt; a finding if it cannot be computed."""
        try:
            return commit(receipt, jws).entry
        except (ProtocolError, ValueError) as exc:
            error = exc if isinstance(exc, ProtocolError) else ProtocolError(Reason.INVALID_VALUE, "$.to", "no member")
            self._x.failed(f"{about}receipt", error, "the receipt")
            return None

    def receipt(self, about: str, receipt: Receipt, key: VerifyKey, digest: str | None = None) -> None:
        """What the broker decided, of one report or of all, and for whom.

        Args:
            receipt: one whose entry could be computed.
        """
        x = self._x
        facts: dict[str, Any] = {"at": iso(receipt.received_at), "submission": receipt.submission, "leaf": receipt.leaf}
        facts |= validity(key)
        said = f"{x.name(BROKER)} received the submission of {x.name(receipt.aud)} on {iso(receipt.received_at)}"
        said = said[:1].upper() + said[1:]
        if receipt.refusal:
            sentence = f"{said} and refused it: {_why(receipt.refusal)}."
            x.proven(f"{about}receipt", sentence, **facts, refusal=receipt.refusal.reason)
            return
        x.proven(f"{about}receipt", f"{said}; signed with key {key.record.kid}.", **facts)
        for report in receipt.reports:
            if digest in (None, report.digest):
                self._decided(about, receipt, report)

    def _decided(self, about: str, receipt: Receipt, report: ReportReceipt) -> None:
        x = self._x
        facts = {"report": report.digest, "outcome": report.outcome}
        rest = ""
        if report.duplicate_of:
            rest = f" It is the same as the report with the digest {report.duplicate_of}."
        elif report.refusal:
            rest = f" The reason is {_why(report.refusal)}."
        x.proven(
            f"{about}decision", f"The broker's decision on report {report.digest}: {report.outcome}.{rest}", **facts
        )
        for member, index in report.to.items():
            self._recipient(about, report.digest, member, receipt.decisions[index])

    def _recipient(self, about: str, digest: str, member: str, decision: Decision) -> None:
        x = self._x
        found = x.registry.members.get(member) if x.registry else None
        jurisdiction = found.jurisdiction if found else member
        if not decision.granted and not decision.withheld:
            sentence = "It was not granted; the receipt does not say why."
        else:
            answer = Answer(
                jurisdiction=jurisdiction,
                granted=decision.granted,
                exact=names_of(decision.exact & ~HEADER),
                coarse=names_of(decision.coarse),
                allowed_by=[Basis(gate=by.gate, document=by.document, rule=by.rule) for by in decision.by],
                withheld=decision.withheld,
            )
            said = say(answer, load("en"), {})
            sentence = " ".join([said.headline, *said.lines])
        facts = {"report": digest, "member": member, **msgspec.to_builtins(decision)}
        x.proven(f"{about}recipient {member}", sentence, **facts)

    # --- others' words ------------------------------------------------------------------------------------------

    def confirmation(self, about: str, said: Confirmation, key: VerifyKey) -> None:
        """A recipient's word."""
        why = f" The reason is {_why(said.refusal)}." if said.refusal else ""
        sentence = f"{self._x.name(said.iss)} confirmed “{said.state}” on {iso(said.at)}, signed.{why}"
        facts = {"by": said.iss, "to": said.aud, "state": said.state, "at": iso(said.at), **validity(key)}
        self._x.proven(about, sentence, **facts)

    def notice(self, about: str, said: Delivered | Stopped, key: VerifyKey) -> None:
        """The broker's word about a recipient: it waits there, or is not delivered any more."""
        facts = {"member": said.member, "at": iso(said.at), "kid": key.record.kid}
        member = self._x.name(said.member)
        if isinstance(said, Delivered):
            sentence = f"On {iso(said.at)} it lay in the inbox of {member}, which had not fetched it yet."
            self._x.proven(about, sentence, **facts)
            return
        sentence = f"Since {iso(said.at)} the broker does not deliver it to {member} any more: {_why(said.refusal)}."
        self._x.proven(about, sentence, **facts, reason=said.refusal.reason)

    def links(self, about: str, said: Links, key: VerifyKey, links: Sequence[Link]) -> None:
        """The broker's word that reports speak of the same thing."""
        for link in links:
            on = ", ".join(f"{kind} {count}" for kind, count in sorted(link.on.items()))
            sentence = (
                f"On {iso(said.at)} the broker linked report {link.a.report_id} of {link.a.origin} to report "
                f"{link.b.report_id} of {link.b.origin} ({link.strength}: {on})."
            )
            facts = {"a": link.a.digest, "b": link.b.digest, "strength": link.strength, "kid": key.record.kid}
            self._x.proven(about, sentence, **facts)


def _valid(key: VerifyKey, at: datetime) -> bool:
    try:
        key.check_window(at)
    except ProtocolError:
        return False
    return True
