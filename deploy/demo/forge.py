"""The attack in the demonstration: somebody has stolen a CERT's NATS credentials, but not its signing key.

The transport lets the message in, for the credentials are right. The signature does not, for the key is not the CERT's.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import msgspec

from protocol import subjects
from protocol.bus import NatsBus
from protocol.envelope import SignedReport, leave, present
from protocol.invitation import load_invitation
from protocol.issuing import issue
from protocol.keys import Signer, SigningKey
from protocol.registry import Member
from protocol.report import ALL_UNITS, Body, Header, Marking, Origin, Report, Rsit


class _Thief:
    """Signs with a key of its own under the key id of the victim."""

    alg = "Ed25519"

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._key = SigningKey.from_seed(os.urandom(32))

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


def forged(member: str, kid: str, now: datetime, stolen: Signer | None = None) -> bytes:
    """A well-formed report in a member's name with a signature that is not the member's.

    Args:
        stolen: a key of the member, with which it is signed after all.
    """
    header = Header(
        schema="kentongan-report/1",
        report_id=uuid4(),
        incident_id=uuid4(),
        revision=1,
        origin=Origin(jurisdiction=member, member=member),
        issued_at=now,
        fingerprint="forged-fingerprint-000",
        marking=Marking(tlp="CLEAR"),
        rsit=[Rsit(class_="other", type="other")],
    )
    envelope = issue(
        [Report(header=header, body=Body(title="All is well"))], member, stolen or _Thief(kid), now, os.urandom
    )
    parts = [leave(item, ALL_UNITS, ALL_UNITS) for item in envelope.reports if isinstance(item, SignedReport)]
    return present(envelope.jws, parts).encode("ascii")


async def inject(node: Path) -> None:
    """Publish a forged report with the transport credentials found in a node's directory."""
    invitation = load_invitation(node / "invitation.json")
    member = msgspec.json.decode((node / "member.json").read_bytes(), type=Member)
    bus = await NatsBus.connect(
        invitation.url,
        creds=node / "keys" / "nats.creds",
        name="thief",
        stream=subjects.inbox_stream(member.id),
        consumer=subjects.NODE_CONSUMER,
    )
    try:
        message = forged(member.id, member.keys[0].kid, datetime.now(UTC))
        await bus.publish(subjects.INTAKE, subjects.Kind.SUBMISSION, message)
    finally:
        await bus.close()
