"""Step 4 of a report's life: is this submission what it claims to be? Pure; believes nobody.

Guarantees: what `verify_submission` returns was signed by the member on whose subject it arrived, with a key of that
member that was valid when the broker first received it. Refuses everything else with a `Refusal` that its origin can
read. Never raises for what a peer sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from protocol.envelope import Envelope, SignedReport, jws_digest, open_envelope
from protocol.errors import ProtocolError
from protocol.keys import b64
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.sealing import SealedBox
from protocol.statements import Refusal
from protocol.submission import read_boxes, split_submission


@dataclass(frozen=True, slots=True)
class Verified:
    """A submission whose envelope holds; its reports are judged one by one later."""

    member: str
    message: bytes
    envelope: Envelope
    boxes: Mapping[str, SealedBox] = field(default_factory=dict)
    """By the digest that the header of a sealed report names."""

    @property
    def digest(self) -> str:
        """The submission's name."""
        return self.envelope.digest


@dataclass(frozen=True, slots=True)
class Refused:
    """A submission that is refused as a whole."""

    member: str
    message: bytes
    digest: str
    refusal: Refusal


def name_of(message: bytes) -> str:
    """The digest by which a submission is known before it is verified: of its JWS, or of all of it if it has none."""
    head = message.partition(b"~")[0]
    try:
        return jws_digest(head.decode("ascii"))
    except UnicodeDecodeError:
        return b64(hashlib.sha256(message).digest())


def as_refusal(error: ProtocolError) -> Refusal:
    """An error as its origin reads it."""
    return Refusal(reason=error.reason.value, path=error.path, detail=error.detail)


def verify_submission(member: str, message: bytes, registry: Registry, received_at: datetime) -> Verified | Refused:
    """Verify one submission.

    Args:
        member: whose subject it arrived on; the transport vouches for that much, the signature for the rest.
        received_at: when the broker first received it.
    """
    try:
        registry.submitter(member)
        sd_jwt, parts = split_submission(message)
        envelope = open_envelope(sd_jwt, registry.keys.find, received_at)
        if envelope.issuer != member:
            raise ProtocolError(Reason.WRONG_MEMBER, "$.iss", "signed by another member than the one who sent it")
        boxes = read_boxes(parts)
        named = {report.header.sealed for report in envelope.reports if isinstance(report, SignedReport)}
        if not named.issuperset(boxes):
            raise ProtocolError(Reason.SEAL_BROKEN, "$", "a box that no signed header names")
    except ProtocolError as exc:
        return Refused(member, message, name_of(message), as_refusal(exc))
    return Verified(member, message, envelope, boxes)
