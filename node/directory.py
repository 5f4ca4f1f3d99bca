"""The directory: who is in the region, how to reach them, what they can help with, and which keys count.

Guarantees: what the trustees signed and nothing else; of sharing groups only those to which the asker's jurisdiction
belongs. A key's id is its thumbprint: read it out by telephone to compare. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from protocol.registry import Member, Registry


def directory(registry: Registry, jurisdiction: str, now: datetime) -> dict[str, Any]:
    """The region as a member of this jurisdiction may know it."""
    region = registry.region
    return {
        "region": region.region,
        "serial": region.serial,
        "members": [_entry(member, now) for member in region.members],
        "groups": [
            {"id": str(group.id), "name": group.name, "jurisdictions": group.jurisdictions}
            for group in region.groups
            if jurisdiction in group.jurisdictions
        ],
    }


def _entry(member: Member, now: datetime) -> dict[str, Any]:
    return {
        "id": member.id,
        "jurisdiction": member.jurisdiction,
        "name": member.name,
        "status": member.status,
        "hidden": member.hidden,
        "roles": member.roles,
        "contacts": member.contacts,
        "languages": member.languages,
        "capabilities": member.capabilities,
        "keys": list(_keys(member, now)),
    }


def _keys(member: Member, now: datetime) -> Iterator[dict[str, Any]]:
    """Those that count now."""
    for use, records in (("signing", member.keys), ("sealing", member.sealing_keys)):
        for record in records:
            revoked = record.revoked_at is not None and record.revoked_at <= now
            if record.not_before <= now < record.not_after and not revoked:
                yield {"use": use, "kid": record.kid, "algorithm": record.alg, "not_after": record.not_after}


def in_lines(found: dict[str, Any]) -> Iterator[str]:
    """The directory for people, a line each."""
    yield f"{found['region']}, record {found['serial'] - 1}"
    for one in found["members"]:
        suspended = "" if one["status"] == "active" else f", {one['status']}"
        suspended += ", hidden" if one["hidden"] else ""
        yield f"{one['id']} ({one['jurisdiction']}): {one['name']}; {', '.join(one['roles']) or 'no roles'}{suspended}"
        told_of = {"reached by": one["contacts"], "speaks": one["languages"], "helps with": one["capabilities"]}
        for what, told in told_of.items():
            if told:
                yield f"  {what}: {', '.join(told)}"
        for key in one["keys"]:
            yield f"  {key['use']} key {key['kid']} ({key['algorithm']}) until {key['not_after']:%Y-%m-%d}"
    for group in found["groups"]:
        yield f"sharing group {group['name']} ({group['id']}): {', '.join(group['jurisdictions'])}"
