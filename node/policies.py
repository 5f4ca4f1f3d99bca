"""Sharing policies as they are published: this jurisdiction's own, and everybody else's, to explain what will happen.

Guarantees: the own policy is signed once a version and offered to the broker until it is there; a version that was
signed never changes; versions apply by their dates, so the one before stays in force until then. Others' policies are
taken only with their own jurisdiction's signature. Refuses a changed file whose version was not raised.
"""

from __future__ import annotations

from typing import Final

import msgspec
import structlog
from msgspec import Struct

from node.core import NodeCore
from node.loops import PAUSE, REQUEST_TIMEOUT, State, Writer
from protocol import subjects
from protocol.errors import ProtocolError, Transient
from protocol.parse import decode

log = structlog.get_logger()
PUBLISH: Final = "policy.publish"
LIST: Final = "policy.list"
EVERY: Final = 10.0
"""Seconds between looks for what others have published: an explanation should not be a minute old."""


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """Published policies in order, and the number to ask with next time."""

    next: int
    policies: list[str]


_answer: Final = msgspec.json.Decoder(Answer)


class Exchange:
    """Offers the own policy to the broker and fetches the others'."""

    def __init__(self, core: NodeCore, writer: Writer, state: State) -> None:
        self._core = core
        self._writer = writer
        self._state = state
        self._offered = False

    def _unpublished(self) -> list[tuple[int, str]]:
        if not self._core.trust.registry.shares(self._core.member):
            # Who only observes or audits leaves the policy to its jurisdiction's CERT.
            return []
        return self._core.unpublished(newest_again=not self._offered)

    async def once(self) -> None:
        """Offer what is not there yet, then fetch what is new.

        Raises:
            Transient: no answer.
        """
        link = self._state.link
        if link is None or not link.connected:
            raise Transient("not connected to the bus")
        for version, jws in await self._writer.run(self._unpublished):
            try:
                await link.request(subjects.rpc(PUBLISH), jws.encode("ascii"), REQUEST_TIMEOUT)
            except ProtocolError as exc:
                self._state.policy_fault = f"the broker refuses version {version}: {exc.reason.value}"
                log.error("node.policy_refused", version=version, reason=exc.reason.value)
                break
            await self._writer.run(self._core.policy_is_published, version)
            log.info("node.policy_published", version=version)
        self._offered = True
        while True:
            after = await self._writer.run(self._core.policies_taken)
            question = msgspec.json.encode({"after": after})
            answer = decode(_answer, await link.request(subjects.rpc(LIST), question, REQUEST_TIMEOUT))
            if answer.next <= after:
                return
            refused = await self._writer.run(self._core.take_policies, answer.policies, answer.next)
            for reason in refused:
                log.warning("node.foreign_policy_refused", reason=reason)
            if refused:
                return

    async def run(self) -> None:
        """Exchange until the stop."""
        bell = self._state.bell()
        self._state.on_link(bell)
        self._state.on_policy(bell)
        while not self._state.stopping:
            wait = EVERY
            try:
                await self.once()
            except Transient:
                wait = PAUSE * 2
            except ProtocolError as exc:
                log.error("node.policies_refused", reason=exc.reason.value)
            await bell.wait(wait)
