"""Published policies: taken from their jurisdictions over the bus, kept in the ledger, handed to every member.

Guarantees: a policy counts only if a member of its jurisdiction signed it; versions only go up and never apply to the
past; the same bytes again are the same answer. From the first published version on, files in the broker's directory
say nothing about that jurisdiction any more: the rule is its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from broker import store, tables
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.policy import Policy
from protocol.published import Published, check_next, open_published
from protocol.reasons import Reason
from protocol.registry import Member, Registry

MOST: Final = 50


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """`{"after": 17}`"""

    after: int = 0


class Answer(Struct, frozen=True):
    """The next published policies, and the number to ask with next time."""

    next: int
    policies: list[str]


_question: Final = msgspec.json.Decoder(Question)


def take(ledger_store: store.Store, member: str, data: bytes, registry: Registry, now: datetime) -> Published | None:
    """Take a policy from a member; None if it is here already.

    Raises:
        ProtocolError: what the publishing operator must change.
        Transient: the ledger cannot be used now.
    """
    try:
        jws = data.decode("ascii")
    except UnicodeDecodeError as exc:
        raise ProtocolError(Reason.MALFORMED_ENVELOPE, "$", "a JWS is ASCII") from exc
    published = open_published(jws, registry, now)
    if published.iss != member or registry.member(member).status != "active":
        raise ProtocolError(Reason.WRONG_MEMBER, "$.iss", "a member publishes for itself only")
    if not registry.shares(member):
        raise ProtocolError(Reason.NOT_ALLOWED, "$.iss", "a member that only observes or audits sets no policy")
    policy = published.policy
    if _is_hidden_among(registry.member(member), registry):
        detail = f"the policy of {policy.jurisdiction} is published by a member that everybody sees"
        raise ProtocolError(Reason.NOT_ALLOWED, "$.iss", detail)
    with ledger_store.writing() as connection:
        rows = store.after(connection, tables.policies, 0, 10_000, jurisdiction=policy.jurisdiction)
        if any(bytes(row.jws) == data for row in rows):
            return None
        check_next(policy, [int(row.version) for row in rows], now)
        row = {
            "at": store.milliseconds(now),
            "jurisdiction": policy.jurisdiction,
            "version": policy.version,
            "member": member,
            "jws": data,
        }
        store.add_numbered(connection, tables.policies, [row], "id")
    return published


def _is_hidden_among(member: Member, registry: Registry) -> bool:
    """Whether others would miss their jurisdiction's policy: it is shown to those only that see who published it."""
    others = [one for one in registry.region.members if one.jurisdiction == member.jurisdiction and not one.hidden]
    return member.hidden and bool(others)


@dataclass(frozen=True, slots=True)
class PublishedPolicies:
    """What the region's jurisdictions have published."""

    policies: Sequence[Policy] = ()
    """Those whose signature still holds; one by a revoked key grants nothing any more."""
    jurisdictions: frozenset[str] = frozenset()
    """Who has ever published, whatever became of the keys since."""
    last: int = 0
    """The number of the last one."""


def published_policies(ledger_store: store.Store, registry: Registry, now: datetime) -> PublishedPolicies:
    """Read the ledger's policies. Transient if it cannot be read now."""
    with ledger_store.reading() as connection:
        rows = store.after(connection, tables.policies, 0, 100_000)
    found: list[Policy] = []
    for row in rows:
        try:
            found.append(open_published(row.jws.decode("ascii"), registry, now).policy)
        except ProtocolError:
            continue
    last = int(rows[-1].id) if rows else 0
    return PublishedPolicies(found, frozenset(row.jurisdiction for row in rows), last)


def merge(files: Sequence[Policy], published: PublishedPolicies) -> list[Policy]:
    """A file only speaks for a jurisdiction that has never published: afterwards its own signature does."""
    return [
        *published.policies,
        *(policy for policy in files if policy.jurisdiction not in published.jurisdictions),
    ]


def listed(ledger_store: store.Store, data: bytes, view: Registry) -> bytes:
    """Answer a member that asks for published policies after a number.

    Args:
        view: the region as it sees it.

    Raises:
        ProtocolError: the question is malformed.
    """
    question = decode(_question, data)
    if not 0 <= question.after < 1 << 62:
        raise ProtocolError(Reason.OUT_OF_RANGE, "$.after", "not the number of a policy")
    with ledger_store.reading() as connection:
        rows = store.after(connection, tables.policies, question.after, MOST)
    policies = [row.jws.decode("ascii") for row in rows if row.member in view.members]
    return msgspec.json.encode(Answer(int(rows[-1].id) if rows else question.after, policies))
