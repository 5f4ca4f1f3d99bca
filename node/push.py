"""The outputs of a node as its configuration names them: made, run, and stopped together.

Guarantees: each has a loop of its own, so that a dead receiver holds up no other one. Refuses secrets and certificates
that cannot be used, before anything starts (ConfigError).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from node.config import Config
from node.course import Course
from node.feed import Feed
from node.loops import Writer
from node.metrics import Metrics
from node.outputs import Chosen
from node.store import Store
from node.syslog import SyslogOutput, context_of
from node.webhook import Target, Webhook, read_webhook_secrets


@dataclass(frozen=True, slots=True)
class Place:
    """What all outputs of a node share."""

    store: Store
    writer: Writer
    feed: Feed
    metrics: Metrics
    now: Callable[[], datetime]
    rand: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Outputs:
    """All webhooks by name, and all syslog receivers."""

    hooks: dict[str, Webhook]
    syslogs: list[SyslogOutput]

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What to run; may be cancelled at any time."""
        return [*(hook.run() for hook in self.hooks.values()), *(output.run() for output in self.syslogs)]


def targets(config: Config) -> list[Target]:
    """The webhooks with their keys. ConfigError if a secret, or what a syslog receiver needs, is not there."""
    for settings in config.syslogs:
        context_of(settings)
    return [Target(hook, read_webhook_secrets(hook.secret_file)) for hook in config.webhooks]


def make_outputs(
    config: Config,
    found: list[Target],
    place: Place,
) -> Outputs:
    """Put them together."""
    metrics, rand = place.metrics, place.rand

    def course(name: str, choice: Chosen) -> Course:
        return Course(
            name, choice, config.member, store=place.store, writer=place.writer, feed=place.feed, now=place.now
        )

    return Outputs(
        {t.hook.name: Webhook(t, course(t.hook.name, t.hook), metrics, rand) for t in found},
        [SyslogOutput(s, course(s.name, s), metrics, config.member, rand) for s in config.syslogs],
    )
