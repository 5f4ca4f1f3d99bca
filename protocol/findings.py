"""Findings: what a verifier can say of one signed thing, offline, in sentences that a court can read.

    proven         the bytes show it, given the keys that the verifier trusts
    not-proven     the bytes contradict it; the reason code says how
    not-checkable  nothing contradicts it, but something that would show it is missing; the finding names what

Guarantees: pure; nothing that is examined makes it raise; a key is judged at the time at which it was used, and where
it was revoked later, its use counts only if something that others signed shows it was used before that. What somebody
wrote down without signing it is never a finding: it stands among a verdict's notes. Refuses: to take a region document
that no trusted key signed, a second region, times from the future.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from protocol import limits
from protocol.errors import ConfigError, ProtocolError
from protocol.jws import split_jws
from protocol.keys import KeyRecord, KeyRing, VerifyKey
from protocol.logproof import Proof, parse_proof
from protocol.notes import LOG, WITNESS, Checkpoint, Cosigned, Line, NoteKey, parse_checkpoint, verify_cosignature
from protocol.parse import decode
from protocol.reasons import Reason
from protocol.registry import TYP as REGION_TYP
from protocol.registry import Registry, open_region
from protocol.report import Instant
from protocol.statements import (
    BROKER,
    Audited,
    Confirmation,
    Delivered,
    Delivery,
    Links,
    Noted,
    Receipt,
    Stopped,
    open_statement,
)

Outcome = Literal["proven", "not-proven", "not-checkable"]
S = TypeVar("S", Receipt, Delivery, Confirmation, Noted, Links, Stopped, Delivered, Audited)


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One statement about what was examined. `missing` names what would decide what is not checkable."""

    about: str
    outcome: Outcome
    sentence: str
    reason: str = ""
    missing: str = ""
    facts: dict[str, Any] = {}


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All findings. `warning` is what the reader must know first; `notes` is what somebody says and nobody signed."""

    kind: str
    warning: str = ""
    findings: list[Finding] = []
    notes: list[str] = []

    @property
    def false(self) -> bool:
        """Whether anything is contradicted."""
        return any(item.outcome == "not-proven" for item in self.findings)

    @property
    def complete(self) -> bool:
        """Whether everything is proven."""
        return all(item.outcome == "proven" for item in self.findings)


@dataclass(frozen=True, slots=True)
class Trust:
    """What the verifier believes on its own account: the broker's keys, the region document, or both."""

    broker_keys: tuple[KeyRecord, ...] = ()
    region: str | None = None
    """A region document. Without `broker_keys` it is believed as it is, and so are the broker's keys in it."""


class _Issued(Struct):
    issued_at: Instant


class _Dated(Struct):
    at: Instant | None = None
    received_at: Instant | None = None
    sent_at: Instant | None = None


class _Broker(Struct):
    broker_keys: list[KeyRecord]


class _Region(Struct):
    region: _Broker


_issued: Final = msgspec.json.Decoder(_Issued)
_dated: Final = msgspec.json.Decoder(_Dated)
_region: Final = msgspec.json.Decoder(_Region)


def later(one: datetime, other: datetime) -> bool:
    """Whether a time is after another one by more than clocks may differ."""
    return one - other > limits.CLOCK_SKEW


def iso(time: datetime) -> str:
    """A time for facts and sentences, to the second."""
    text = time.replace(microsecond=0).isoformat()
    return text.replace("+00:00", "Z")


def validity(key: VerifyKey) -> dict[str, Any]:
    """A key's id and window, as facts."""
    record = key.record
    facts = {"kid": record.kid, "valid_from": iso(record.not_before), "valid_until": iso(record.not_after)}
    return facts | ({"revoked_at": iso(record.revoked_at)} if record.revoked_at else {})


def broker_keys_in(region_jws: str) -> list[KeyRecord]:
    """The broker's keys that a region document lists; nothing is verified. ProtocolError if it is none."""
    return decode(_region, split_jws(region_jws, REGION_TYP).payload).region.broker_keys


class Examiner:
    """Collects findings under one set of trusted keys.

    Args:
        at: the time of the examination; what is dated after it is refused.
    """

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.findings: list[Finding] = []
        self.registry: Registry | None = None
        self.signed_by = ""
        """Key id of the broker's key that signed the region document in use."""
        self._broker: dict[str, VerifyKey] = {}

    # --- saying -------------------------------------------------------------------------------------------------

    def proven(self, about: str, sentence: str, **facts: Any) -> None:
        """The bytes show it."""
        self.findings.append(Finding(about=about, outcome="proven", sentence=sentence, facts=facts))

    def false(self, about: str, reason: Reason, sentence: str, **facts: Any) -> None:
        """The bytes contradict it."""
        item = Finding(about=about, outcome="not-proven", reason=reason.value, sentence=sentence, facts=facts)
        self.findings.append(item)

    def lacking(self, about: str, missing: str, sentence: str, reason: Reason = Reason.MISSING_FIELD) -> None:
        """Something is missing."""
        item = Finding(about=about, outcome="not-checkable", reason=reason.value, missing=missing, sentence=sentence)
        self.findings.append(item)

    def failed(self, about: str, error: ProtocolError, what: str) -> None:
        """It was refused: for want of a region document, or because it does not hold."""
        if error.reason is Reason.UNKNOWN_KEY and self.registry is None:
            sentence = f"Who signed {what} cannot be told: no region document that lists the key is here."
            self.lacking(about, "region document", sentence, Reason.UNKNOWN_KEY)
            return
        detail = f": {error.detail}" if error.detail else ""
        self.false(about, error.reason, f"{what[0].upper()}{what[1:]} does not hold{detail}.", path=error.path)

    # --- who is who ---------------------------------------------------------------------------------------------

    def find(self, kid: str) -> VerifyKey:
        """A trusted key by its id."""
        key = self._broker.get(kid)
        if key is not None:
            return key
        if self.registry is None:
            raise ProtocolError(Reason.UNKNOWN_KEY, "$.kid", "no region document is here")
        return self.registry.keys.find(kid)

    def name(self, owner: str) -> str:
        """A signer as a reader knows it."""
        if owner == BROKER:
            return f"the broker of {self.registry.region.region}" if self.registry else "the broker"
        member = self.registry.members.get(owner) if self.registry else None
        return f"{member.name} ({owner})" if member else owner

    def pin(self, about: str, records: Iterable[KeyRecord]) -> None:
        """Believe these keys to be the broker's."""
        for record in records:
            try:
                self._broker[record.kid] = VerifyKey.from_record(BROKER, record)
            except ConfigError as exc:
                self.false(about, Reason.INVALID_VALUE, f"A pinned key of the broker is none: {exc}.")

    def establish(self, trust: Trust | None, enclosed: str | None, keys: Sequence[KeyRecord]) -> None:
        """Find out whose keys count, from what is trusted and what the material brings along.

        Args:
            trust: None to take the broker's keys from the material itself.
            enclosed: the region document that the material brings along.
            keys: the broker's keys that it brings along; only used without `trust`.
        """
        self.pin("region", trust.broker_keys if trust else keys)
        found: list[tuple[datetime, Registry, str]] = []
        given = trust.region if trust else None
        for what, jws in (("The trusted region document", given), ("The region document", enclosed)):
            if jws is None or (jws == given and found):
                continue
            try:
                if not self._broker and (trust is None or jws == given):
                    self.pin("region", broker_keys_in(jws))
                document = self._open_region(jws)
            except ProtocolError as exc:
                unknown = exc.reason is Reason.UNKNOWN_KEY
                detail = "it is signed by a key that is not trusted as the broker's" if unknown else exc.detail
                self.false("region", exc.reason, f"{what} does not hold: {detail}.")
                continue
            found.append(document)
            self.pin("region", document[1].region.broker_keys)
        names = {registry.origin for _, registry, _ in found}
        if len(names) > 1:
            sentence = "The region document is of another region than the trusted one."
            self.false("region", Reason.CONTENT_CHANGED, sentence)
            found = found[:1]
        if not found:
            return
        issued_at, self.registry, self.signed_by = max(found, key=lambda item: item[0])
        # The newest document's word on a key counts: it may say that the key was revoked since.
        self.pin("region", self.registry.region.broker_keys)
        key = self._broker[self.signed_by]
        sentence = (
            f"The region document of {self.registry.region.region} was signed by the broker's key {self.signed_by} "
            f"on {iso(issued_at)}. It lists {len(self.registry.members)} members."
        )
        if self.stands("region", key, issued_at, None, "the region document"):
            self.proven("region", sentence, region=self.registry.region.region, kid=self.signed_by, at=iso(issued_at))

    def _open_region(self, jws: str) -> tuple[datetime, Registry, str]:
        if not jws.isascii():
            raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII")
        parts = split_jws(jws, REGION_TYP)
        issued_at = decode(_issued, parts.payload).issued_at
        self.past(issued_at)
        opened = open_region(jws, KeyRing(self._broker.values()), issued_at)
        return issued_at, opened.registry, parts.kid

    # --- times and keys -----------------------------------------------------------------------------------------

    def past(self, time: datetime) -> None:
        """ProtocolError if a time is after that of the examination."""
        if later(time, self.at):
            raise ProtocolError(Reason.TIME_IN_FUTURE, "$", "dated after the time of this examination")

    def stands(self, about: str, key: VerifyKey, used: datetime, shown: datetime | None, what: str) -> bool:
        """Whether a key that was valid when it was used still speaks for what it signed; a finding if not.

        Args:
            used: when it was used, by the signer's own word or the broker's.
            shown: by when others' signatures show that it had been used; None if nothing does.
        """
        revoked = key.record.revoked_at
        if revoked is None or self.at < revoked or (shown is not None and shown < revoked):
            return True
        self.lacking(
            about,
            "a witnessed time",
            f"{what[0].upper()}{what[1:]} is dated {iso(used)}, and its key {key.record.kid} was revoked on "
            f"{iso(revoked)}: that it was signed before is shown by nothing but its own date.",
            Reason.KEY_REVOKED,
        )
        return False

    def statement(self, about: str, jws: str, kind: type[S], what: str) -> tuple[S, VerifyKey] | None:
        """Verify a statement at its own time; a finding if it does not hold."""
        try:
            if not jws.isascii():
                raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII")
            parts = split_jws(jws, kind.typ)
            dated = decode(_dated, parts.payload)
            time = dated.at or dated.received_at or dated.sent_at
            if time is None:
                raise ProtocolError(Reason.MISSING_FIELD, "$", "a statement says when it was signed")
            self.past(time)
            return open_statement(jws, kind, self.find, time), self.find(parts.kid)
        except ProtocolError as exc:
            self.failed(about, exc, what)
            return None

    # --- the log ------------------------------------------------------------------------------------------------

    def log(
        self, about: str, text: str, entry: bytes | None, leaf: int | None, since: datetime | None
    ) -> datetime | None:
        """Verify a tlog-proof: the entry's place, the log's signature, the witnesses.

        Args:
            about: the prefix of the findings' subjects.
            entry: None if nothing says what should be in the log.
            leaf: where the broker said that it is.
            since: when the broker received what is in the log: nobody can have witnessed it before.

        Returns:
            by when a quorum had cosigned it; None if it has not, or if it is not in the log.
        """
        registry = self.registry
        try:
            proof = parse_proof(text)
        except ProtocolError as exc:
            self.failed(f"{about}log", exc, "the tlog-proof")
            return None
        checkpoint = parse_checkpoint(proof.note.text)
        if registry is None:
            sentence = "Who signed the checkpoint cannot be told: no region document is here."
            self.lacking(f"{about}log", "region document", sentence, Reason.UNKNOWN_KEY)
            return None
        mark = len(self.findings)
        witnesses = self._witnesses(about, registry, proof, since)
        lines, self.findings[mark:] = self.findings[mark:], []
        times = sorted(item.at for item in witnesses.values())
        met = len(times) >= registry.quorum
        # The quorum had seen it by then, and each of them had checked the log's key for itself.
        seen = times[registry.quorum - 1] if met else (times[-1] if times else since or self.at)
        if not self._in_log(about, registry, proof, checkpoint, entry, leaf, (seen, seen if met else None)):
            # Who cosigned a checkpoint that this is not in has nothing to say about it.
            self.findings += [item for item in lines if item.outcome != "proven"]
            return None
        self.findings += lines
        of = f"{len(registry.witnesses())} witnesses"
        if met:
            sentence = f"At least {registry.quorum} of the region's {of} cosigned it, as the region document asks."
            self.proven(f"{about}quorum", sentence, quorum=registry.quorum)
        else:
            sentence = f"{len(times)} of the region's {of} cosigned it; the region document asks for {registry.quorum}."
            self.false(f"{about}quorum", Reason.NOT_WITNESSED, sentence, quorum=registry.quorum, witnesses=len(times))
        return seen if met else None

    def _in_log(
        self,
        about: str,
        registry: Registry,
        proof: Proof,
        checkpoint: Checkpoint,
        entry: bytes | None,
        leaf: int | None,
        seen: tuple[datetime, datetime | None],
    ) -> bool:
        about = f"{about}log"
        try:
            if checkpoint.origin != registry.origin:
                raise ProtocolError(Reason.PROOF_INVALID, "$.origin", "the checkpoint is of another log")
            key = self._signed_checkpoint(registry, proof)
            key.check_window(seen[0])
            if leaf is not None and proof.index != leaf:
                raise ProtocolError(Reason.PROOF_INVALID, "$.index", "the proof is for another leaf than was promised")
            if entry is not None:
                proof.verify(entry)
        except ProtocolError as exc:
            self.failed(about, exc, "the proof of inclusion")
            return False
        facts = {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}
        where = f"the log {checkpoint.origin} when it had {checkpoint.size} leaves (root {checkpoint.root.hex()})"
        if not self.stands(about, key, seen[0], seen[1], "the checkpoint"):
            return False
        if entry is None:
            self.lacking(about, "entry", f"It proves a leaf {proof.index} of {where}. Of what is not said here.")
            return False
        facts |= {"leaf": proof.index, "kid": key.record.kid}
        self.proven(
            about, f"Its entry is leaf {proof.index} of {where}, signed by the log's key {key.record.kid}.", **facts
        )
        return True

    def _signed_checkpoint(self, registry: Registry, proof: Proof) -> VerifyKey:
        keys = [NoteKey(registry.origin, LOG, key) for key in self._broker.values()]
        for line in proof.note.lines:
            for known in keys:
                if (line.name, line.key_id) == (known.name, known.id):
                    known.key.verify(line.signature, proof.note.text.encode("utf-8"))
                    return known.key
        raise ProtocolError(Reason.SIGNATURE_INVALID, "$", "the log has not signed this checkpoint")

    def _witnesses(
        self, about: str, registry: Registry, proof: Proof, since: datetime | None
    ) -> Mapping[str, Cosigned]:
        """The witnesses that count, by member; a finding for each line of a member."""
        found: dict[str, Cosigned] = {}
        counting = {member.id for member in registry.witnesses()}
        about = f"{about}witness"
        for line in proof.note.lines:
            member = registry.members.get(line.name)
            if member is None:
                continue
            try:
                seen = _cosigned(proof.note.text, line, [VerifyKey.from_record(member.id, key) for key in member.keys])
                self.past(seen.at)
                if since is not None and later(since, seen.at):
                    raise ProtocolError(Reason.TIME_IN_FUTURE, "$", "cosigned before the broker received it")
            except ProtocolError as exc:
                if exc.reason is Reason.UNKNOWN_KEY:
                    sentence = f"A cosignature of {line.name} is by a key that the region document does not list."
                    self.lacking(about, "the witness's key", sentence, Reason.UNKNOWN_KEY)
                else:
                    self.failed(about, exc, f"the cosignature of {line.name}")
                continue
            counts = member.id in counting
            besides = "" if counts else "; it does not count, the member is suspended"
            facts = {"member": member.id, "at": iso(seen.at), "kid": seen.kid, "counts": counts}
            self.proven(about, f"{self.name(member.id)} cosigned that on {iso(seen.at)}{besides}.", **facts)
            if counts:
                found[member.id] = seen
        return found


def _cosigned(text: str, line: Line, keys: Iterable[VerifyKey]) -> Cosigned:
    for key in keys:
        known = NoteKey(line.name, WITNESS, key)
        if known.id == line.key_id:
            return verify_cosignature(text, line, known)
    raise ProtocolError(Reason.UNKNOWN_KEY, "$", "an unknown key of a member")
