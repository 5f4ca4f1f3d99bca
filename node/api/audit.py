"""`/v1/audit`: who got what of this jurisdiction's traffic, asked of the broker and verified here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, UnsetType

from node.auditor import Asked, Auditor
from protocol import limits
from protocol.auditing import CasesRequest
from protocol.door import CLIENT, answer, number_of
from protocol.errors import ProtocolError
from protocol.parse import convert
from protocol.reasons import Reason
from protocol.report import Instant
from protocol.subjects import check_member

LIMIT: Final = 100


class Auditing:
    """The handler."""

    def __init__(self, auditor: Auditor, now: Callable[[], datetime]) -> None:
        self._auditor = auditor
        self._now = now

    async def list(self, request: web.Request) -> web.Response:
        """A page of it."""
        if request[CLIENT].limited:
            raise ProtocolError(Reason.TLP_NOT_ALLOWED, "$", "it names reports of every marking: ask with TLP:RED")
        query = request.query
        asked = Asked(
            CasesRequest(
                first=number_of(query.get("after", "0"), "after", 2**62 - 1),
                since=_time(query.get("from", ""), "from"),
                until=_time(query.get("until", ""), "until"),
                report=_report(query.get("report", "")),
                most=max(1, number_of(query.get("limit", str(LIMIT)), "limit", limits.PROOFS_PER_REQUEST)),
            ),
            recipient=check_member(query["recipient"]) if "recipient" in query else "",
            evidence=bool(number_of(query.get("evidence", "0"), "evidence", 1)),
        )
        return answer(await self._auditor.page(asked, self._now()))


def _time(text: str, name: str) -> datetime | UnsetType:
    return convert(text, Instant, f"$.{name}") if text else UNSET


def _report(text: str) -> UUID | UnsetType:
    try:
        return UUID(text) if text else UNSET
    except ValueError as exc:
        raise ProtocolError(Reason.UNKNOWN_REPORT, "$.report", "a report id is a UUID") from exc
