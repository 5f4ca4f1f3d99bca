"""How it was done and by whom, in STIX: techniques of ATT&CK, actors, malware, vulnerabilities.

A technique is read by its ATT&CK number, in the matrix that its source names. The tactic is read where the object names
one: a technique out of ATT&CK itself lists all that it can serve, which does not say which one it served here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from node.formats import stix_words as words
from node.formats.leftover import Piece
from node.formats.stix_context import Context, confident, extension_of, some_of

_TECHNIQUE: Final = re.compile(r"T[0-9]{4}(\.[0-9]{3})?")
_MATRIX_OF: Final[Mapping[str, str]] = {
    **{chain: matrix for matrix, chain in words.KILL_CHAIN.items()},
    "mobile-attack": "mobile",
    "ics-attack": "ics",
    "enterprise-attack": "enterprise",
}
_REFERENCE: Final = frozenset({"source_name", "external_id", "url"})


def read_means(ctx: Context) -> None:
    """Read techniques, actors, malware and vulnerabilities."""
    for piece in ctx.kind("attack-pattern"):
        _attack(ctx, piece)
    for piece in ctx.kind("threat-actor", "intrusion-set"):
        _actor(ctx, piece)
    for piece in ctx.kind("malware"):
        if (name := piece.peek("name", str)) and ctx.draft.add("malware", name):
            ctx.read(piece, "name", "is_family")
    for piece in ctx.kind("vulnerability"):
        _vulnerability(ctx, piece)


def _references(piece: Piece) -> list[dict[str, Any]]:
    return [ref for ref in piece.peek("external_references", list) or [] if isinstance(ref, dict)]


def _attack(ctx: Context, piece: Piece) -> None:
    refs = _references(piece)
    ref = next((ref for ref in refs if _matrix(ref) and _TECHNIQUE.fullmatch(str(ref.get("external_id")))), None)
    if ref is None:
        return
    domains = piece.peek("x_mitre_domains", list) or []
    named = _MATRIX_OF.get(domains[0]) if len(domains) == 1 and isinstance(domains[0], str) else None
    matrix = named or str(_matrix(ref))
    phases = piece.peek("kill_chain_phases", list) or []
    tactic = _tactic(phases[0], matrix) if len(phases) == 1 else None
    more = some_of(extension_of(piece), "tactic", "attack_version") | ({"tactic": tactic} if tactic else {})
    if not ctx.draft.add("attack", {"technique": ref["external_id"], "matrix": matrix, **more}):
        return
    ctx.read(piece, *(["kill_chain_phases"] if tactic else []), *(["x_mitre_domains"] if named else []))
    ctx.settle(piece, "tactic", "attack_version")
    if piece.peek("name", str) == ref["external_id"]:
        piece.drop("name")
    if len(refs) == 1 and set(ref) <= _REFERENCE:
        piece.drop("external_references")


def _matrix(ref: Mapping[str, Any]) -> str | None:
    return _MATRIX_OF.get(str(ref.get("source_name")))


def _tactic(phase: Any, matrix: str) -> str | None:
    if not isinstance(phase, dict) or set(phase) != {"kill_chain_name", "phase_name"}:
        return None
    if phase["kill_chain_name"] not in (words.KILL_CHAIN[matrix], "mitre-attack"):
        return None
    return next((name for name, word in words.TACTICS[matrix].items() if word == phase["phase_name"]), None)


def _actor(ctx: Context, piece: Piece) -> None:
    """The first actor; a report names one."""
    name, aliases = piece.peek("name", str), piece.peek("aliases", list)
    if name is None:
        return
    if aliases and ctx.draft.put("actor", {"name": name, "aliases": aliases}):
        ctx.read(piece, "name", "aliases")
    elif ctx.draft.put("actor", {"name": name}):
        ctx.read(piece, "name")
    else:
        return
    confident(piece, lambda band: ctx.draft.merge("actor", {"confidence": band}))


def _vulnerability(ctx: Context, piece: Piece) -> None:
    refs = _references(piece)
    cve = next((ref for ref in refs if str(ref.get("source_name")).lower() == "cve" and ref.get("external_id")), None)
    name = cve["external_id"] if cve else piece.peek("name", str)
    more = some_of(extension_of(piece), "product", "exploited")
    if not ctx.draft.add("vulnerabilities", {"id": name, **more}):
        return
    ctx.read(piece)
    ctx.settle(piece, "product", "exploited")
    if piece.peek("name", str) == name:
        piece.drop("name")
    if cve and len(refs) == 1 and set(cve) <= _REFERENCE:
        piece.drop("external_references")
