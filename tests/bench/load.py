"""Reports for the benchmarks: 26 disclosures, about 1.4 KB of JSON, each different."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec

from protocol.envelope import SignedReport, leave, present
from protocol.issuing import issue
from protocol.keys import SigningKey
from protocol.report import ALL_UNITS, Body, Header, Marking, Origin, Report, Rsit, SectorRef, Severity


def window() -> tuple[datetime, datetime]:
    """A validity window around now."""
    now = datetime.now(UTC)
    return now - timedelta(days=1), now + timedelta(days=30)


def body(number: int) -> dict[str, Any]:
    """26 disclosures: fields, coarse stand-ins and list elements, different for each number."""
    hashes = [hashlib.sha256(f"{number}-{index}".encode()).hexdigest() for index in range(5)]
    return {
        "title": f"Ransomware at an operator, case {number}",
        "description": f"Case {number}. " + "Files on several servers were encrypted during the night. " * 4,
        "status": "open",
        "victim": {"name": f"Operator {number}", "sector": "health"},
        "geo": {"country": "id", "city": "Jakarta"},
        "times": {"occurred": {"value": "2026-03-01T01:02:03Z"}},
        "malware": ["LockBit"],
        "contacts": [{"role": "duty officer", "name": "A. Person", "email": "duty@cert.example"}],
        "entity_counts": {"systems": 40},
        "indicators": [
            *({"type": "ipv4-addr", "value": f"203.0.113.{(number + index) % 250}"} for index in range(4)),
            *({"type": "sha256", "value": value} for value in hashes),
        ],
    }


def filing(number: int) -> dict[str, Any]:
    """The same as a tool posts it."""
    return {
        "marking": {"tlp": "AMBER"},
        "rsit": [{"class": "malicious-code", "type": "infected-system"}],
        "severity": {"score": number % 101},
        "sectors": [{"code": "health"}],
        "body": body(number),
    }


def submissions(member: str, key: SigningKey, reports: int, per_message: int) -> list[bytes]:
    """Signed submissions, made before anything is timed."""
    now = datetime.now(UTC)
    found = []
    for first in range(0, reports, per_message):
        batch = [_report(member, number, now) for number in range(first, min(first + per_message, reports))]
        envelope = issue(batch, member, key, now, os.urandom)
        parts = [leave(item, ALL_UNITS, ALL_UNITS) for item in envelope.reports if isinstance(item, SignedReport)]
        found.append(present(envelope.jws, parts).encode("ascii"))
    return found


def _report(member: str, number: int, now: datetime) -> Report:
    header = Header(
        schema="kentongan-report/1",
        report_id=uuid4(),
        incident_id=uuid4(),
        revision=1,
        origin=Origin(jurisdiction=member, member=member),
        issued_at=now,
        fingerprint=os.urandom(11).hex(),
        marking=Marking(tlp="AMBER"),
        rsit=[Rsit(class_="malicious-code", type="infected-system")],
        severity=Severity(score=number % 101),
        sectors=[SectorRef(code="health")],
    )
    return Report(header=header, body=msgspec.convert(body(number), Body))
