"""Who, where and what else, in STIX: victim, contacts and place; campaigns, other incidents, and notes.

The victim is who is targeted, by the incident or by what was used in it. An identity that is neither that nor a contact
is listed, as is a course of action: it recommends, and does not say what was done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from node.formats import stix_words as words
from node.formats.leftover import Piece
from node.formats.stix_context import Context, extension_of, some_of, stands_in
from protocol.parts import TEXT_LENGTH

_BETWEEN: Final[Mapping[tuple[str, bool], str]] = {
    ("duplicate-of", True): "same-incident",
    ("duplicate-of", False): "same-incident",
    ("derived-from", True): "derived-from",
    ("led-to", True): "led-to",
    ("led-to", False): "caused-by",
    ("related-to", True): "other",
    ("related-to", False): "other",
}
"""Relationships between incidents, by whether they lead from this one: the profile's word for the other one."""
_MAIL: Final = re.compile(r"[^@\s,]+@[^@\s,]+")


def read_people(ctx: Context) -> None:
    """Read identities, places, campaigns, other incidents and notes."""
    for piece in sorted(ctx.kind("identity"), key=lambda one: not ctx.targets.get(one.value["id"], False)):
        name = piece.value["id"]
        if name in ctx.targets:
            _victim(ctx, piece)
        elif any(kind == "contact-for" and not forward for _, kind, forward in ctx.links.get(name, ())):
            _contact(ctx, piece)
    for piece in ctx.kind("location"):
        if not stands_in(piece):
            _location(ctx, piece)
    _others(ctx)
    for piece in ctx.kind("note"):
        _note(ctx, piece)


def _others(ctx: Context) -> None:
    for piece in ctx.kind("campaign"):
        campaign = piece.peek("name", str)
        if campaign and ctx.draft.add("related", {"kind": "same-campaign", "ref": campaign}):
            ctx.read(piece, "name")
    for other, links in ctx.links.items():
        for link, kind, forward in links:
            word = _BETWEEN.get((kind, forward)) if other.startswith("incident--") else None
            if word and ctx.draft.add("related", {"kind": word, "ref": other}):
                ctx.read_link(link)


def _victim(ctx: Context, piece: Piece) -> None:
    listed = [word for word in piece.peek("sectors", list) or [] if isinstance(word, str)]
    exact = min((word for word in listed if word in words.CODES), key=lambda word: "." not in word, default=None)
    sector = exact or next((words.SECTORS_IN[word] for word in listed if word in words.SECTORS_IN), None)
    victim = {
        "name": piece.peek("name", str),
        **({"sector": sector} if sector else {}),
        **some_of(extension_of(piece), "website"),
    }
    if not ctx.draft.put("victim", victim):
        return
    ctx.read(piece, "name")
    ctx.settle(piece, "website")
    if piece.peek("identity_class", str) == "organization":
        piece.drop("identity_class")
    if exact and set(listed) <= {exact, words.near_sector(exact)}:
        piece.drop("sectors")


def _contact(ctx: Context, piece: Piece) -> None:
    said = extension_of(piece).get("contact")
    information = piece.peek("contact_information", str)
    roles = piece.peek("roles", list) or []
    contact: dict[str, Any] = {"role": roles[0] if roles else "contact"}
    drop = ["name", *(["roles"] if len(roles) == 1 else [])]
    if isinstance(said, dict) and "level" not in said:
        contact |= said
        drop.append("contact_information")
    elif said is None:
        contact["name"] = piece.peek("name", str)
        if information and _MAIL.fullmatch(information):
            contact["email"] = information
            drop.append("contact_information")
    else:
        return
    if ctx.draft.add("contacts", contact):
        ctx.read(piece, *drop)
        ctx.settle(piece, "contact")
        if piece.peek("identity_class", str) == "unspecified":
            piece.drop("identity_class")


def _location(ctx: Context, piece: Piece) -> None:
    country = piece.peek("country", str)
    if country is None or not re.fullmatch("[A-Za-z]{2}", country):
        return
    geo = some_of(piece.value, "city", "latitude", "longitude")
    geo |= some_of(extension_of(piece), "latitude", "longitude")
    geo["country"] = country.lower()
    geo |= {"region": piece.value["administrative_area"]} if "administrative_area" in piece.value else {}
    if not ctx.draft.put("geo", geo):
        return
    ctx.read(piece, "city", "latitude", "longitude", "country", "administrative_area")
    ctx.settle(piece, "latitude", "longitude")
    parts = [geo[name] for name in ("city", "region") if name in geo]
    if piece.peek("name", str) == ", ".join([*parts, geo["country"].upper()]):
        piece.drop("name")


def _note(ctx: Context, piece: Piece) -> None:
    """A note on the incident follows its description; where that would be too long, it is listed."""
    content = piece.peek("content", str)
    if piece.peek("object_refs", list) != [ctx.name] or not content or piece.value["id"] == ctx.own_note:
        return
    abstract = piece.peek("abstract", str)
    text = "\n\n".join(part for part in (ctx.draft.body.get("description"), abstract, content) if part)
    if len(text) <= TEXT_LENGTH:
        ctx.draft.body["description"] = text
        ctx.read(piece, "object_refs", "content", "abstract")
