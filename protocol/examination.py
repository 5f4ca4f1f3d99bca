"""Whatever is handed over, examined: finds out what a file is, and what it proves.

Guarantees: `examine` tells the kinds of files apart by what they say of themselves, and gives findings for each;
nothing in a file makes it raise. Pure: keys to believe and the time are arguments. Refuses, with `None`, what is no
file of this protocol.

    SD-JWT, with its boxes a line each behind it      JWS ~ … ~
    statement                                         JWS of the types in `statements`, `published` and `registry`
    delivery message                                  JWS, newline, JSON
    tlog-proof                                        c2sp.org/tlog-proof@v1 …
    evidence bundle                                   JSON with `kentongan_evidence`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from protocol.auditproof import KIND as KEPT
from protocol.auditproof import examine_kept, is_kept
from protocol.envelope import RefusedReport
from protocol.errors import ConfigError, ProtocolError
from protocol.evidence import read_bundle, verify_bundle, warning
from protocol.exhibits import Exhibits, Times, disclosed
from protocol.findings import Examiner, Trust, Verdict, iso
from protocol.grants import open_grant
from protocol.invitation import Invitation
from protocol.jws import split_jws
from protocol.keys import KeyRecord, VerifyKey, unb64
from protocol.logproof import HEAD
from protocol.parse import decode
from protocol.policy import HEADER
from protocol.published import TYP as POLICY_TYP
from protocol.published import open_published
from protocol.reasons import Reason
from protocol.registry import TYP as REGION_TYP
from protocol.report import Instant
from protocol.statements import (
    BROKER,
    Confirmation,
    Delivered,
    Delivery,
    DeliveryItem,
    Links,
    Noted,
    Receipt,
    Stopped,
    items_digest,
)
from protocol.submission import read_boxes

D = TypeVar("D", Confirmation, Stopped, Delivered, Links, Noted)


class _Typed(Struct):
    typ: str


class _Version(Struct):
    kentongan_evidence: int


class _At(Struct):
    at: Instant


_typed: Final = msgspec.json.Decoder(_Typed)
_version: Final = msgspec.json.Decoder(_Version)
_at: Final = msgspec.json.Decoder(_At)
_items: Final = msgspec.json.Decoder(list[DeliveryItem])
_record: Final = msgspec.json.Decoder(KeyRecord)
_invitation: Final = msgspec.json.Decoder(Invitation)

_STATEMENTS: Final[Mapping[str, str]] = {
    Receipt.typ: "receipt",
    Delivery.typ: "delivery",
    Confirmation.typ: "confirmation",
    Noted.typ: "noted",
    Links.typ: "links",
    Stopped.typ: "stopped",
    Delivered.typ: "delivered",
    POLICY_TYP: "policy",
    REGION_TYP: "region document",
}


def read_trust(data: bytes) -> Trust:
    """What a verifier trusts, from a file: an invitation, a region document, or a key record of the broker (JSON).

    Raises:
        ProtocolError: it is none of them, or does not hold together.
    """
    text = _text(data).strip()
    if _kind_of_jws(text) == "region document":
        return Trust(region=text)
    try:
        invitation = decode(_invitation, text)
        trust = Trust(tuple(invitation.broker_keys), invitation.region)
    except ProtocolError as exc:
        if exc.reason is Reason.NOT_JSON:
            raise
        trust = Trust((decode(_record, text),))
    try:
        for record in trust.broker_keys:
            VerifyKey.from_record(BROKER, record)
    except ConfigError as exc:
        raise ProtocolError(Reason.INVALID_VALUE, "$.broker_keys", str(exc)) from exc
    return trust


def kind_of(data: bytes) -> str | None:
    """What a file is; None if it is nothing that can be examined. Nothing is verified."""
    try:
        text = _text(data)
    except ProtocolError:
        return None
    if text.startswith(HEAD):
        return "tlog-proof"
    if text.lstrip().startswith("{"):
        if is_kept(text):
            return KEPT
        try:
            decode(_version, text)
        except ProtocolError:
            return "evidence bundle" if '"kentongan_evidence"' in text else None
        return "evidence bundle"
    first, newline, rest = text.partition("\n")
    if "~" in first:
        return "report"
    kind = _kind_of_jws(first.strip())
    if kind == "delivery" and newline and rest.strip():
        return "delivery message"
    return kind


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ProtocolError(Reason.NOT_JSON, "$", "not text in UTF-8") from exc


def _kind_of_jws(text: str) -> str | None:
    try:
        return _STATEMENTS.get(decode(_typed, unb64(text.partition(".")[0])).typ)
    except (ProtocolError, ValueError):
        return None


def examine(
    data: bytes,
    trust: Trust | None,
    at: datetime,
    *,
    receipt: bytes | None = None,
    entry: bytes | None = None,
) -> Verdict | None:
    """Examine a file.

    Args:
        trust, at: see `verify_bundle`. Of what is no bundle and no region document, nothing can be checked without it.
        receipt: a receipt (JWS) beside it: tells when the broker received a report, and what a tlog-proof proves.
        entry: what a tlog-proof should prove, instead of a receipt.

    Returns:
        the findings, or None if it is no file of this protocol.
    """
    kind = kind_of(data)
    if kind is None:
        return None
    examiner = Examiner(at)
    if kind == "evidence bundle":
        try:
            return verify_bundle(read_bundle(data), trust, at)
        except ProtocolError as exc:
            examiner.failed("bundle", exc, "the bundle")
            return Verdict(kind=kind, findings=examiner.findings)
    text = data.decode("utf-8")
    if kind == "region document":
        examiner.establish(trust, text.strip(), ())
        return Verdict(kind=kind, warning="" if trust else warning(examiner, "document"), findings=examiner.findings)
    if trust is not None:
        examiner.establish(trust, None, ())
        # What is trusted is not what is examined: it is only told if it does not hold.
        examiner.findings[:] = [item for item in examiner.findings if item.outcome != "proven"]
    _Desk(examiner, receipt).examine(kind, text, entry)
    return Verdict(kind=kind, findings=examiner.findings)


class _Desk:
    """Examines one file that is no bundle."""

    def __init__(self, examiner: Examiner, receipt: bytes | None) -> None:
        self._x = examiner
        self._exhibits = Exhibits(examiner)
        self._receipt = receipt

    def examine(self, kind: str, text: str, entry: bytes | None) -> None:
        plain = text.strip()
        ways: Mapping[str, Callable[[], None]] = {
            "report": lambda: self._report(text),
            "tlog-proof": lambda: self._proof(text, entry),
            "receipt": lambda: self._open_receipt(plain),
            "delivery": lambda: self._delivery(plain, whole=False),
            "delivery message": lambda: self._delivery(text, whole=True),
            "policy": lambda: self._policy(plain),
            "confirmation": lambda: self._confirmation(plain),
            "stopped": lambda: self._notice(kind, self._opened(kind, plain, Stopped)),
            "delivered": lambda: self._notice(kind, self._opened(kind, plain, Delivered)),
            "links": lambda: self._links(plain),
            "noted": lambda: self._noted(plain),
            KEPT: lambda: examine_kept(self._x, text),
        }
        ways[kind]()

    def _opened(self, kind: str, jws: str, struct: type[D]) -> tuple[D, VerifyKey] | None:
        """A statement that stands alone, so that nothing but its own date says when its key was used."""
        opened = self._x.statement(kind, jws, struct, f"the {kind} statement")
        if opened is None or not self._x.stands(kind, opened[1], opened[0].at, None, f"the {kind} statement"):
            return None
        return opened

    def _confirmation(self, jws: str) -> None:
        if (opened := self._opened("confirmation", jws, Confirmation)) is not None:
            self._exhibits.confirmation("confirmation", *opened)
            self._about("confirmation", opened[0].reports)

    def _notice(self, kind: str, opened: tuple[Stopped | Delivered, VerifyKey] | None) -> None:
        if opened is not None:
            self._exhibits.notice(kind, *opened)
            self._about(kind, opened[0].reports)

    def _links(self, jws: str) -> None:
        if (opened := self._opened("links", jws, Links)) is not None:
            self._exhibits.links("links", *opened, opened[0].links)

    def _about(self, about: str, reports: list[str]) -> None:
        self._x.proven(about, f"It is about the reports with the digests {', '.join(reports)}.", reports=reports)

    # --- reports ------------------------------------------------------------------------------------------------

    def _beside(self) -> tuple[Receipt, bytes | None] | None:
        """The receipt that was handed over beside it, verified, with its entry."""
        if self._receipt is None:
            return None
        try:
            jws = _text(self._receipt).strip()
        except ProtocolError as exc:
            self._x.failed("receipt", exc, "the receipt")
            return None
        opened = self._x.statement("receipt", jws, Receipt, "the receipt")
        if opened is None:
            return None
        entry = self._exhibits.entry("", opened[0], jws)
        if entry is not None:
            self._exhibits.receipt("", *opened, digest="")
        return opened[0], entry

    def _report(self, text: str) -> None:
        x = self._x
        sd_jwt, *lines = text.split("\n")
        beside = self._beside()
        times = Times(received=beside[0].received_at if beside else None)
        envelope = self._exhibits.open("", sd_jwt.strip(), times)
        if envelope is None:
            return
        if beside is not None and beside[0].submission != envelope.digest:
            x.false("receipt", Reason.CONTENT_CHANGED, "The receipt is for another submission.")
            times = Times()
        for number, report in enumerate(envelope.reports, 1):
            about = f"report {number}: " if len(envelope.reports) > 1 else ""
            self._exhibits.shown(about, envelope, report, times, None)
        boxes = [line.strip() for line in lines if line.strip()]
        try:
            named = read_boxes([line.encode("utf-8") for line in boxes])
        except ProtocolError as exc:
            x.failed("box", exc, "the box")
            return
        headers = {
            report.header.sealed: report.header
            for report in envelope.reports
            if not isinstance(report, RefusedReport) and report.header.sealed
        }
        for digest, box in named.items():
            header = headers.get(digest)
            if header is None:
                x.false("box", Reason.SEAL_BROKEN, "No signed header names this box.")
            else:
                self._exhibits.box("", box.encode().decode("utf-8"), header)

    # --- the broker's statements --------------------------------------------------------------------------------

    def _open_receipt(self, jws: str) -> None:
        opened = self._x.statement("receipt", jws, Receipt, "the receipt")
        if opened is None or self._exhibits.entry("", opened[0], jws) is None:
            return
        if self._x.stands("receipt", opened[1], opened[0].received_at, None, "the receipt"):
            self._exhibits.receipt("", *opened)

    def _delivery(self, text: str, *, whole: bool) -> None:
        x = self._x
        head, _, items = text.partition("\n")
        opened = x.statement("delivery", head.strip(), Delivery, "the delivery")
        if opened is None or not x.stands("delivery", opened[1], opened[0].sent_at, None, "the delivery"):
            return
        delivery, key = opened
        sentence = f"{x.name(BROKER)} delivered {delivery.reports} reports to {x.name(delivery.aud)}"
        sentence = f"{sentence[:1].upper()}{sentence[1:]} on {iso(delivery.sent_at)}; signed with key {key.record.kid}."
        facts = {"to": delivery.aud, "at": iso(delivery.sent_at), "items": delivery.items, "kid": key.record.kid}
        x.proven("delivery", sentence, **facts)
        for opening in delivery.grants:
            try:
                entry = open_grant(opening, delivery.aud)
            except ProtocolError as exc:
                x.failed("grant", exc, "the opening of the grants")
                continue
            for digest, exact, coarse in opening.reports:
                sentence = f"Of the report with the digest {digest} it was granted {disclosed(exact, coarse)}."
                x.proven("grant", sentence, report=digest, leaf=opening.leaf, entry=entry.hex())
        if whole:
            self._delivered(delivery, items.encode("utf-8"))

    def _delivered(self, delivery: Delivery, data: bytes) -> None:
        x = self._x
        try:
            if items_digest(data) != delivery.items:
                raise ProtocolError(Reason.CONTENT_CHANGED, "$.items", "the items are not what the broker released")
            items = decode(_items, data)
            if len(items) != len(delivery.grants):
                raise ProtocolError(Reason.NOT_GRANTED, "$.grants", "an item without the grant that it rests on")
            for item in items:
                x.past(item.received_at)
        except ProtocolError as exc:
            x.failed("items", exc, "the content of the delivery")
            return
        x.proven("items", "The content is what the broker released, by its digest.", items=delivery.items)
        for number, (item, opening) in enumerate(zip(items, delivery.grants, strict=True), 1):
            about = f"item {number}: "
            times = Times(received=item.received_at)
            envelope = self._exhibits.open(about, item.sd_jwt, times)
            masks = {digest: (exact, coarse) for digest, exact, coarse in opening.reports}
            for report in envelope.reports if envelope else ():
                exact, coarse = masks.get(report.digest, (0, 0))
                shown = (0, 0) if isinstance(report, RefusedReport) else report.units()
                if not exact & HEADER or shown[0] & ~exact or shown[1] & ~coarse:
                    x.false(f"{about}grant", Reason.NOT_GRANTED, "More of the report is here than was granted.")
                elif envelope:
                    self._exhibits.shown(about, envelope, report, times, None)

    def _noted(self, jws: str) -> None:
        x = self._x
        opened = self._opened("noted", jws, Noted)
        if opened is None:
            return
        said, key = opened
        taken, turned = ", ".join(said.confirmations) or "none", ", ".join(sorted(said.refused)) or "none"
        sentence = (
            f"On {iso(said.at)} the broker told {x.name(said.aud)} that it holds these confirmations: {taken}; "
            f"refused: {turned}."
        )
        x.proven("noted", sentence, to=said.aud, at=iso(said.at), kid=key.record.kid, held=said.confirmations)

    # --- the log and policies -----------------------------------------------------------------------------------

    def _proof(self, text: str, entry: bytes | None) -> None:
        beside = self._beside()
        leaf = since = None
        if beside is not None:
            leaf, since = beside[0].leaf, beside[0].received_at
            entry = beside[1]
        elif self._receipt is not None:
            entry = None
        self._x.log("", text, entry, leaf, since)

    def _policy(self, jws: str) -> None:
        x = self._x
        if x.registry is None:
            x.lacking("policy", "region document", "Who signed it cannot be told without a region document.")
            return
        try:
            parts = split_jws(jws, POLICY_TYP)
            time = decode(_at, parts.payload).at
            x.past(time)
            published = open_published(jws, x.registry, time)
            key: VerifyKey = x.find(parts.kid)
        except ProtocolError as exc:
            x.failed("policy", exc, "the policy")
            return
        if not x.stands("policy", key, time, None, "the policy"):
            return
        policy = published.policy
        sentence = (
            f"Version {policy.version} of the sharing policy of {policy.jurisdiction}, in force from "
            f"{iso(policy.effective_from)}, was published by {x.name(published.iss)} on {iso(time)} with key "
            f"{key.record.kid}. It has {len(policy.export)} export and {len(policy.import_)} import rules."
        )
        facts: dict[str, Any] = {"jurisdiction": policy.jurisdiction, "version": policy.version}
        x.proven("policy", sentence, **facts, by=published.iss, at=iso(time), kid=key.record.kid)
