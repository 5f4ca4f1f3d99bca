"""`/v1/webhooks`: where events go to, what holds them up, and how to let them go on.

Guarantees: shows no secret, and of an address only the host; takes none either: addresses come from `node.toml` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from node.api.reports import read_limited
from node.course import Standing
from node.views import iso
from node.webhook import Webhook
from protocol.door import answer
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.reasons import Reason


class Replay(Struct, frozen=True, forbid_unknown_fields=True):
    """From which event, or from when, events are to be sent again."""

    from_: Annotated[int, Meta(ge=1, lt=2**62)] | Annotated[datetime, Meta(tz=True)] = msgspec.field(name="from")


_replay: Final = msgspec.json.Decoder(Replay)


class Webhooks:
    """Handlers.

    Args:
        hooks: those of the configuration, by name.
    """

    def __init__(self, hooks: Mapping[str, Webhook]) -> None:
        self._hooks = hooks

    def _of(self, request: web.Request) -> Webhook:
        found = self._hooks.get(request.match_info["name"])
        if found is None:
            raise ProtocolError(Reason.UNKNOWN_PATH, "$", "there is no webhook of this name in node.toml")
        return found

    async def list(self, _request: web.Request) -> web.Response:
        """All of them, in the order of the configuration."""
        return answer({"webhooks": [hook_line(hook) for hook in self._hooks.values()]})

    async def enable(self, request: web.Request) -> web.Response:
        """Let a disabled one go on where it was."""
        hook = self._of(request)
        fresh = await hook.course.enable()
        return answer(hook_line(hook), headers=None if fresh else {"Idempotent-Replayed": "true"})

    async def replay(self, request: web.Request) -> web.Response:
        """Send events again, from a number or a time on."""
        hook = self._of(request)
        wanted = decode(_replay, await read_limited(request))
        events = await hook.course.replay(wanted.from_)
        return answer({**hook_line(hook), "replaying": events})

    async def test(self, request: web.Request) -> web.Response:
        """Send one request that is about nothing."""
        return answer(await self._of(request).test())


def hook_line(hook: Webhook) -> dict[str, Any]:
    """One webhook as clients read it."""
    settings, course = hook.target.hook, hook.course
    shown = {
        "to": hook.target.where,
        "kinds": settings.kinds,
        "severity": settings.severity,
        "tlp": settings.tlp,
        "behind": course.behind(),
        "oldest_seconds": round(course.age(), 1),
    }
    return {**standing_line(course.standing), **shown}


def standing_line(standing: Standing) -> dict[str, Any]:
    """Where an output stands."""

    def time(value: int | None) -> str | None:
        return None if value is None else iso(value)

    return {
        "name": standing.name,
        "state": standing.state,
        "next": standing.next,
        "delivered_at": time(standing.delivered_at),
        "failing_since": time(standing.failing_since),
        "fault": standing.fault,
        "disabled_at": time(standing.disabled_at),
    }
