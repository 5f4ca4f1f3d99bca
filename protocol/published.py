"""A sharing policy as its jurisdiction publishes it: signed by a member of that jurisdiction, for everybody to verify.

Guarantees: what `open_published` returns was signed by a member of the policy's own jurisdiction with a key that was
valid when it signed; the policy inside is valid. `check_next` keeps a change from reaching into the past. Refuses
everything else with a reason that the publishing node shows to its operator.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from protocol import limits
from protocol.errors import ProtocolError
from protocol.jws import sign_jws, split_jws, verify_parts
from protocol.keys import Signer
from protocol.parse import decode
from protocol.policy import Policy
from protocol.reasons import Reason
from protocol.registry import Registry
from protocol.report import Instant, Jurisdiction

TYP: Final = "kentongan-policy+jwt"


class Published(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy with who published it and when."""

    iss: Jurisdiction
    at: Instant
    policy: Policy


_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decoder: Final = msgspec.json.Decoder(Published)


def publish(policy: Policy, member: str, signer: Signer, now: datetime) -> str:
    """Sign a policy as a member of its jurisdiction."""
    return sign_jws(TYP, _encode(Published(iss=member, at=now, policy=policy)), signer)


def open_published(jws: str, registry: Registry, now: datetime) -> Published:
    """Verify a published policy.

    Args:
        registry: members and their keys; a key is judged by the time of signing, and revocation counts always.

    Raises:
        ProtocolError: not signed by a member of the policy's jurisdiction, from the future, or not a policy.
    """
    if len(jws) > limits.POLICY or not jws.isascii():
        raise ProtocolError(Reason.TOO_LARGE, "$", f"a published policy is ASCII of at most {limits.POLICY} bytes")
    parts = split_jws(jws, TYP)
    key = verify_parts(parts, registry.keys.find)
    published = decode(_decoder, parts.payload)
    if published.iss != key.owner:
        raise ProtocolError(Reason.WRONG_MEMBER, "$.iss", "the key does not belong to the issuer")
    if registry.member(published.iss).jurisdiction != published.policy.jurisdiction:
        raise ProtocolError(Reason.WRONG_MEMBER, "$.policy.jurisdiction", "not the jurisdiction of the one who signed")
    if published.at > now + limits.CLOCK_SKEW:
        raise ProtocolError(Reason.TIME_IN_FUTURE, "$.at", "signed in the future: check the clock")
    key.check_window(published.at)
    return published


def policy_in(jws: str) -> Policy:
    """The policy in a document that was verified, or signed, before it was stored."""
    return _decoder.decode(split_jws(jws, TYP).payload).policy


def check_next(policy: Policy, versions: Collection[int], now: datetime) -> None:
    """Whether a policy may follow those that its jurisdiction has published: a later version, never for the past.

    Args:
        versions: the published ones.

    Raises:
        ProtocolError: with what the operator must change.
    """
    if versions and policy.version <= max(versions):
        raise ProtocolError(
            Reason.REVISION_CONFLICT, "$.version", f"version {max(versions)} is published: raise the version"
        )
    if versions and policy.effective_from < now - limits.CLOCK_SKEW:
        raise ProtocolError(
            Reason.EFFECTIVE_IN_THE_PAST, "$.effective_from", "a change applies from now on, never to the past"
        )
