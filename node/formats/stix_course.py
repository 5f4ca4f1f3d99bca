"""How an incident went, in the objects of the Incident Core Extension: events, tasks and impacts.

An event is read for when it began and ended, a task of a known type for when that point was reached, any other task for
what was done. An impact that another one superseded is not read: its author has put it right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from node.formats import stix_words as words
from node.formats.leftover import Piece, moment
from node.formats.stix_context import Context, extension_of, some_of, stands_in


def read_course(ctx: Context) -> None:
    """Read events, tasks and impacts, in the order in which the incident lists them."""
    _events(ctx)
    points = {kind: point for point, kind in words.TASKS.items()}
    for piece in _listed(ctx, "task", "tasks", "task_ref"):
        kinds = piece.peek("task_types", list) or []
        point = points.get(kinds[0]) if len(kinds) == 1 and isinstance(kinds[0], str) else None
        if not stands_in(piece) and not (point and _reached(ctx, piece, point)):
            _action(ctx, piece)
    _impacts(ctx)


def _listed(ctx: Context, kind: str, field: str, ref: str) -> list[Piece]:
    """Objects of a kind, those first that the extension lists, in its order."""
    order: dict[Any, int] = {}
    for entry in ctx.core.pieces(field) if ctx.core else []:
        name = entry.peek(ref, str)
        if name in ctx.pieces:
            order.setdefault(name, len(order))
            entry.touched = True
            entry.drop(ref)
    return sorted(ctx.kind(kind), key=lambda piece: order.get(piece.value["id"], len(order)))


def _events(ctx: Context) -> None:
    """The beginning of the first event, and the end if there is only one."""
    dated = [
        (start, piece)
        for piece in _listed(ctx, "event", "events", "event_ref")
        if not stands_in(piece) and (start := piece.peek("start_time", str) or piece.peek("end_time", str))
    ]
    if not dated:
        return
    first = min(dated, key=lambda pair: pair[0])[1]
    began = _point(ctx, first, "start_time", "occurred")
    if (len(dated) == 1 and _point(ctx, first, "end_time", "ended")) or began:
        ctx.read(first)
        ctx.settle(first)
        if first.peek("status", str) == ("occurred" if "end_time" in first.value else "undetermined"):
            first.drop("status")


def _point(ctx: Context, piece: Piece, side: str, point: str) -> bool:
    value, fidelity = piece.peek(side, str), piece.peek(f"{side}_fidelity", str)
    time: dict[str, Any] = {"value": value} | ({"fidelity": fidelity} if fidelity else {})
    if value is None or moment(value) is None or not ctx.draft.merge("times", {point: time}):
        return False
    piece.drop(side, f"{side}_fidelity")
    return True


def _reached(ctx: Context, piece: Piece, point: str) -> bool:
    """A task that says when a point of the incident's life was reached."""
    if not _point(ctx, piece, words.SIDE[point], point):
        return False
    ctx.read(piece, "task_types")
    ctx.settle(piece)
    if piece.peek("outcome", str) == "successful":
        piece.drop("outcome")
    return True


def _action(ctx: Context, piece: Piece) -> None:
    what = "description" if piece.peek("description", str) else "name"
    at, outcome = piece.peek("start_time", str), extension_of(piece).get("outcome") or piece.peek("outcome", str)
    action = {
        "what": piece.peek(what, str),
        **({"at": at} if at and moment(at) else {}),
        **({"outcome": outcome} if outcome and outcome != "unknown" else {}),
    }
    if ctx.draft.add("actions", action):
        ctx.read(piece, what, *(["start_time"] if "at" in action else []))
        ctx.settle(piece, "outcome")
        if piece.peek("outcome", str) in ("unknown", outcome):
            piece.drop("outcome")


def _impacts(ctx: Context) -> None:
    order: dict[str, int] = {}
    for index, name in ctx.core.words("impact_refs") if ctx.core else []:
        order.setdefault(name, index)
        if name not in ctx.pieces and ctx.core:
            ctx.core.back(f"impact_refs[{index}]", name)
    for piece in sorted(ctx.kind("impact"), key=lambda one: order.get(one.value["id"], len(order))):
        if not piece.peek("superseded_by_ref", str):
            _impact(ctx, piece)


def _impact(ctx: Context, piece: Piece) -> None:
    """An impact as one; a ransom that was demanded or paid also says so of the ransomware."""
    available, money = extension_of(piece, "availability-ext"), extension_of(piece, "monetary-ext")
    more = some_of(extension_of(piece), "percent", "amount", "currency") | _money(money)
    used = ["percent", "amount", "currency"]
    if set(available) == {"availability_impact"}:
        more["percent"] = available["availability_impact"]
        used.append("availability-ext")
    if money == _plain_money(more):
        used.append("monetary-ext")
    detail = piece.peek("description", str)
    impact = {"category": (piece.peek("impact_category", str) or "").removesuffix("-ext"), **more}
    impact |= {"detail": detail} if detail else {}
    if piece.peek("labels", list) == ["financial-loss"] and ctx.draft.put("financial_loss", impact):
        piece.drop("labels")
    elif not ctx.draft.add("impacts", impact):
        return
    if money.get("variety") == "ransom-demand" and "amount" in more:
        ctx.draft.merge("ransomware", {"demand_amount": more["amount"], "demand_currency": more["currency"]})
    if money.get("variety") == "ransom-payment":
        ctx.draft.merge("ransomware", {"paid": True})
    ctx.read(piece, "impact_category", *(["description"] if detail else []))
    ctx.settle(piece, *used)


def _plain_money(more: Mapping[str, Any]) -> dict[str, Any]:
    amount = more.get("amount")
    return {"variety": "uncategorized", "currency": more.get("currency"), "min_amount": amount, "max_amount": amount}


def _money(money: Mapping[str, Any]) -> dict[str, Any]:
    """The amount of a monetary impact, if it is one amount in a currency with a code."""
    least, most, currency = _number(money.get("min_amount")), _number(money.get("max_amount")), money.get("currency")
    if least is None or most is None or not isinstance(currency, str):
        return {}
    if most != int(most) or least not in (0, most) or not re.fullmatch("[A-Za-z]{3}", currency):
        return {}
    return {"amount": int(most), "currency": currency.upper()}


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) else None
