"""Tokens as they are stored: made, rotated, revoked, each in the caller's transaction. For node and command line.

Guarantees: only hashes are stored, and a token's text is shown once. A name is never given twice, so that what stands
under it (idempotency keys, reports, decisions) is one client's for good. Rotating leaves the earlier secret valid for
as long as it says and no longer; revoking is for good. No I/O but the transaction; time and randomness are arguments.

Refuses terms that do not hold together: a token with the scope `admin` can make any other, so a limit on it would limit
nothing; what a machine files is released by a person, so a machine's token releases nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from node import tables
from node.store import Tx, instant, microseconds
from protocol.access import Client, Quota, Scope, hash_of, new_token
from protocol.envelope import Rand
from protocol.errors import ProtocolError
from protocol.parts import Instant, MadeBy
from protocol.reasons import Reason
from protocol.taxonomy import Purpose, Sector, Tlp

LONGEST_OVERLAP: Final = timedelta(days=30)
_Number = Annotated[int, Meta(ge=1, le=1_000_000_000)]
_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)"
_encode: Final = msgspec.json.encode


class Terms(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a token may do; fixed when it is made."""

    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=8)]
    tlp: Tlp = "RED"
    sectors: Annotated[list[Sector], Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    purposes: Annotated[list[Purpose], Meta(min_length=1, max_length=8)] | UnsetType = UNSET
    per_minute: _Number | UnsetType = UNSET
    per_day: _Number | UnsetType = UNSET
    expires_at: Instant | UnsetType = UNSET
    made_by: MadeBy | UnsetType = UNSET
    require_release: bool = False
    certificate: Annotated[str, Meta(max_length=512)] = ""

    def __post_init__(self) -> None:
        bound = self.tlp != "RED" or self.sectors or self.purposes or self.made_by or self.require_release
        if "admin" in self.scopes and bound:
            raise ValueError(
                "invalid-value: who may make tokens can make one without limits: leave tlp, sectors, purposes, made_by"
                " and require_release out, or the scope admin"
            )
        if self.made_by and self.made_by.kind == "person":
            raise ValueError("invalid-value: made_by is for machines: leave it out for a person's token")
        if "release" in self.scopes and (self.made_by or self.require_release):
            raise ValueError("invalid-value: a machine's token, or one whose reports wait, has no scope release")


class Wanted(Terms, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A token to be made."""

    name: Annotated[str, Meta(pattern=_PATTERN)]


_terms: Final = msgspec.json.Decoder(Terms)
_FIELDS: Final = Terms.__struct_fields__


def terms_of(row: Any) -> Terms:
    """What a stored token may do."""
    return _terms.decode(row.terms)


def create(tx: Tx, wanted: Wanted, *, by: str, taken: Collection[str], now: datetime, rand: Rand) -> str:
    """Make a token; returns its text, which is not kept.

    Args:
        by: who makes it.
        taken: names of tokens that are not in the database.

    Raises:
        ProtocolError: TOKEN_EXISTS; EXPIRED.
    """
    if wanted.name in taken or tx.token(wanted.name) is not None:
        raise ProtocolError(Reason.TOKEN_EXISTS, "$.name", "there is, or was, a token with this name: choose another")
    if wanted.expires_at and wanted.expires_at <= now:
        raise ProtocolError(Reason.EXPIRED, "$.expires_at", "this time is over already")
    living = (terms_of(row) for row in tx.tokens() if row.revoked_at is None)
    if wanted.certificate and any(terms.certificate == wanted.certificate for terms in living):
        raise ProtocolError(Reason.TOKEN_EXISTS, "$.certificate", "a token names this certificate already")
    text = new_token(rand)
    terms = Terms(**{name: getattr(wanted, name) for name in _FIELDS})
    made = {"created_at": microseconds(now), "created_by": by}
    tx.add(tables.tokens, [{"name": wanted.name, "sha256": hash_of(text), "terms": _encode(terms), **made}])
    tx.event("token.changed", {"name": wanted.name, "change": "created", "by": by}, microseconds(now))
    return text


def rotate(tx: Tx, name: str, overlap: timedelta, *, by: str, now: datetime, rand: Rand) -> str:
    """Give a token a new secret; returns it. The one before it holds for `overlap` more, and older ones no longer.

    Raises:
        ProtocolError: UNKNOWN_TOKEN, also of one that was revoked or has expired.
    """
    row = _living(tx, name)
    if row.revoked_at is not None or _is_over(terms_of(row), now):
        raise ProtocolError(Reason.UNKNOWN_TOKEN, "$", "this token does not hold any more: make another")
    text = new_token(rand)
    old = {"old_sha256": row.sha256, "old_until": microseconds(now + overlap)}
    tx.set(tables.tokens, "name", [{"name": name, "sha256": hash_of(text), "rotated_at": microseconds(now), **old}])
    tx.event("token.changed", {"name": name, "change": "rotated", "by": by}, microseconds(now))
    return text


def revoke(tx: Tx, name: str, *, by: str, now: datetime) -> bool:
    """Let a token count no more; False if it was revoked before. ProtocolError(UNKNOWN_TOKEN) if there is none."""
    row = _living(tx, name)
    if row.revoked_at is not None:
        return False
    tx.set(tables.tokens, "name", [{"name": name, "revoked_at": microseconds(now)}])
    tx.event("token.changed", {"name": name, "change": "revoked", "by": by}, microseconds(now))
    return True


def _living(tx: Tx, name: str) -> Any:
    row = tx.token(name)
    if row is None:
        raise ProtocolError(Reason.UNKNOWN_TOKEN, "$", "no token of this name was made here; node.toml's stand there")
    return row


def _is_over(terms: Terms, now: datetime) -> bool:
    return bool(terms.expires_at) and terms.expires_at <= now  # type: ignore[operator]


def client_of(name: str, terms: Terms, quota: Quota | None) -> Client:
    """Who asks with a token."""
    return Client(
        name=name,
        scopes=frozenset(terms.scopes),
        tlp=terms.tlp,
        sectors=frozenset(terms.sectors) if terms.sectors else None,
        purposes=frozenset(terms.purposes) if terms.purposes else None,
        made_by=terms.made_by or None,
        held=terms.require_release,
        quota=quota,
    )


def token_line(row: Any, now: datetime, used_at: int | None) -> dict[str, Any]:
    """A token as an operator reads it."""
    terms = terms_of(row)
    state = "revoked" if row.revoked_at is not None else "expired" if _is_over(terms, now) else "valid"
    times = {
        "created_at": row.created_at,
        "rotated_at": row.rotated_at,
        "old_until": row.old_until if row.old_until and row.old_until > microseconds(now) else None,
        "revoked_at": row.revoked_at,
        "used_at": used_at,
    }
    shown = {name: instant(at).isoformat().replace("+00:00", "Z") for name, at in times.items() if at is not None}
    return {"name": row.name, "state": state, **msgspec.to_builtins(terms), **shown, "created_by": row.created_by}
