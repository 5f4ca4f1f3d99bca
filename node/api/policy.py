"""`POST /v1/policy/explain`: who would get what of a report, by which rule, before it is filed. Nothing is stored.

The answer is that of the functions by which this node and the broker decide, asked about the policies that the region's
jurisdictions have published. It names units and rules and holds nothing of the report. A jurisdiction that has not
published a policy is said to have none: the broker may know one from a file, and decides by it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

import msgspec
from aiohttp import web

from node.api.reports import read_limited
from node.core import NodeCore
from node.intake import Draft, read_item
from protocol import limits, wording
from protocol.door import answer
from protocol.dryrun import dry_run, facts_of_filing, units_of
from protocol.errors import ConfigError, ProtocolError
from protocol.reasons import Reason

DEFAULT_LANGUAGE: Final = "en"


class Explaining:
    """The handler.

    Args:
        now: the time as of which policies are asked.
    """

    def __init__(self, core: NodeCore, now: Callable[[], datetime]) -> None:
        self._core = core
        self._now = now

    async def explain(self, request: web.Request) -> web.Response:
        """Explain one report, which is validated as if it were filed.

        Raises:
            ProtocolError: the report would be refused; or there are no words for that language.
        """
        language = request.query.get("lang", DEFAULT_LANGUAGE)
        try:
            words = wording.load(language)
        except ConfigError as exc:
            raise ProtocolError(Reason.UNKNOWN_VALUE, "$.lang", str(exc)) from exc
        body = await read_limited(request)
        if len(body) > limits.REPORT:
            raise ProtocolError(Reason.TOO_LARGE, "$", f"a report has at most {limits.REPORT} bytes")
        core, now = self._core, self._now()
        registry = core.trust.registry
        item = read_item(body, at="$", jurisdictions=registry.jurisdictions, now=now)
        if not isinstance(item, Draft):
            raise item
        filing = item.filing
        answers = dry_run(
            facts_of_filing(filing, core.jurisdiction, now),
            units_of(filing.body),
            list(registry.asked_by(core.member).values()),
            core.region_book,
            now,
            registry.circles,
        )
        because = wording.reasons_given(core.region_book.policies)
        shown = [
            {**msgspec.to_builtins(answer), "says": msgspec.to_builtins(wording.say(answer, words, because))}
            for answer in answers
        ]
        document = {"origin": core.jurisdiction, "language": language, "at": now, "recipients": shown}
        return answer(document)
