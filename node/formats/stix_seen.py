"""What can be looked for, in STIX: indicators by their patterns, and observables by their values.

An indicator is read if its pattern is a list of values, any of which matches (`stix_pattern`); of a pattern that names
more than that, nothing is read. What its author revoked is listed, not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node.formats import stix_words as words
from node.formats.leftover import Piece, moment
from node.formats.stix_context import Context, extension_of, some_of
from node.formats.stix_pattern import Value, address, pattern_of, values_of

_OBSERVABLES: Final[Mapping[str, tuple[str, str]]] = {
    "domain-name": ("value", "domain-name"),
    "url": ("value", "url"),
    "email-addr": ("value", "email-addr"),
    "mutex": ("name", "mutex"),
    "windows-registry-key": ("key", "registry-key"),
    "user-account": ("account_login", "user-account"),
    "cryptocurrency-wallet": ("value", "wallet"),
    "file": ("name", "file-name"),
}
_ADDRESSES: Final = ("ipv4-addr", "ipv6-addr")
_HASHES: Final[Mapping[str, Mapping[str, str]]] = {
    "file": {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-512": "sha512", "SSDEEP": "ssdeep"},
    "x509-certificate": {"SHA-256": "x509-sha256"},
}


def read_seen(ctx: Context) -> None:
    """Read indicators, and then what observables say beyond them."""
    for piece in ctx.kind("indicator"):
        _indicator(ctx, piece)
    for piece in ctx.kind("observed-data"):
        _observed(ctx, piece)
    for piece in ctx.kind(*_ADDRESSES, "autonomous-system", "x509-certificate", *_OBSERVABLES):
        _observable(ctx, piece)


def _indicator(ctx: Context, piece: Piece) -> None:
    pattern, ours = piece.peek("pattern", str), extension_of(piece)
    gone = piece.peek("revoked", bool) or "level" in ours
    if pattern is None or piece.value.get("pattern_type", "stix") != "stix" or gone:
        return
    values = _as_filed(ours.get("as_filed"), pattern) or values_of(pattern) or []
    times = some_of(ours, "first_seen", "last_seen")
    name, description = piece.peek("name", str), piece.peek("description", str)
    context = description or (name if name not in [value.value for value in values] else None)
    more = times | ({"context": context} if context else {})
    read = [ctx.draft.add("indicators", {"type": kind, "value": value, **more}) for kind, value in values]
    if not any(read):
        return
    ctx.read(piece, "pattern_type", "pattern_version", "revoked", *(["pattern"] if all(read) else []))
    ctx.settle(piece, "first_seen", "last_seen", "as_filed")
    if description:
        piece.drop("description")
    if name in (context, *(value.value for value in values)):
        piece.drop("name")
    # Required, so that it is there even if there is nothing to say: then it is when the indicator was made.
    if piece.peek("valid_from", str) in (
        piece.value.get("created"),
        piece.value.get("modified"),
        words.utc(times.get("first_seen")),
    ):
        piece.drop("valid_from")


def _as_filed(filed: Any, pattern: str) -> list[Value] | None:
    """The spelling and type under which this project had it, as long as they are those of this very pattern."""
    try:
        value = Value(str(filed["type"]), str(filed["value"]))
        return [value] if pattern_of(*value) == pattern else None
    except (KeyError, TypeError):
        return None


def _observed(ctx: Context, piece: Piece) -> None:
    """When its observables were seen; it says nothing else that a filing can hold."""
    first, last = (moment(piece.peek(name, str) or "") for name in ("first_observed", "last_observed"))
    refs = piece.peek("object_refs", list) or []
    known = [ref for ref in refs if isinstance(ref, str) and ref in ctx.pieces]
    if not known or not first or not last:
        return
    for ref in known:
        ctx.seen.setdefault(ref, {"first_seen": first, "last_seen": last})
    ctx.read(piece, "first_observed", "last_observed", *(["object_refs"] if known == refs else []))


def _observable(ctx: Context, piece: Piece) -> None:
    kind = piece.value["type"]
    hashes = piece.peek("hashes", dict) or {}
    known = _HASHES.get(kind, {})
    held = [word for word in hashes if word in known and _see(ctx, piece, known[word], hashes[word])]
    if held:
        ctx.read(piece, "hashes")
        if left := {word: value for word, value in hashes.items() if word not in held}:
            piece.back("hashes", left)
    field, type_ = _OBSERVABLES.get(kind, ("value", ""))
    value: Any = piece.value.get(field)
    if kind in _ADDRESSES and isinstance(value, str):
        type_, value = address(value)
    elif kind == "autonomous-system" and (number := piece.peek("number", int)) is not None:
        field, type_, value = "number", "asn", f"AS{number}"
    if isinstance(value, str) and type_ and _see(ctx, piece, type_, value):
        ctx.read(piece, field)


def _see(ctx: Context, piece: Piece, kind: str, value: Any) -> bool:
    """Add an observable, unless an indicator has it already."""
    if any(held["type"] == kind and held["value"] == value for held in ctx.draft.body.get("indicators", ())):
        return piece.value["id"] not in ctx.seen or ctx.draft.add(
            "indicators", {"type": kind, "value": value, **ctx.seen[piece.value["id"]]}
        )
    return ctx.draft.add("indicators", {"type": kind, "value": value, **ctx.seen.get(piece.value["id"], {})})
