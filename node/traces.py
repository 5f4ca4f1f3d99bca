"""Which trace led to what: from posts to the submissions that carry them, from deliveries to their confirmations.

Guarantees: holds nothing but numbers, in memory, and no more than `MOST` of each; what is forgotten has no link. Does
nothing while traces are off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from node.core import NodeCore
from node.filing import Reply
from node.intake import Posting
from node.outbox import Outgoing
from node.turn import TakenIn
from protocol.subjects import Kind
from protocol.tracing import OFF, Span, Trace, Tracing, read, tick
from protocol.transport import Message

MOST: Final = 4_096
_SOME: Final = 8
"""Of the messages of a round that a confirmation is linked to."""


class _Bounded:
    """The newest of what led to a number."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Trace, ...]] = {}

    def put(self, numbers: Iterable[int], traces: Sequence[Trace]) -> None:
        if not traces:
            return
        for number in numbers:
            self._known.pop(number, None)
            self._known[number] = tuple(traces)
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]

    def of(self, numbers: Iterable[int]) -> list[Trace]:
        return [trace for number in numbers for trace in self._known.get(number, ())]


class Paths:
    """What led to what, of one node."""

    def __init__(self, tracing: Tracing = OFF) -> None:
        self.tracing = tracing
        self._led_to = {Kind.SUBMISSION: _Bounded(), Kind.CONFIRMATIONS: _Bounded()}
        self._sent = _Bounded()

    def file(self, core: NodeCore, postings: Sequence[Posting]) -> list[Reply]:
        """Commit, as `NodeCore.file`; on the writer's thread."""
        before, began = core.outbox.newest, tick()
        replies = core.file(postings)
        posts = [posting.trace for posting in postings if posting.trace is not None]
        alone = posts[0] if len(postings) == len(posts) == 1 else None
        links = [] if alone else posts
        reports = sum(len(posting.items) for posting in postings)
        made = self.tracing.record("node.commit", began, tick(), parent=alone, links=links, reports=reports)
        self._led_to[Kind.SUBMISSION].put(range(before + 1, core.outbox.newest + 1), [made] if made else [])
        return replies

    def publishing(self, kind: Kind, message: Outgoing) -> Span:
        """A message for the broker goes out: in a trace of its own."""
        name = "node.publish" if kind is Kind.SUBMISSION else "node.confirm"
        links = self._led_to[kind].of(message.numbers)
        span = self.tracing.start(name, links=links, bytes=len(message.data))
        if kind is Kind.SUBMISSION and span.trace is not None:
            self._sent.put(message.numbers, [span.trace])
        return span

    def received(self, messages: Sequence[Message], taken: TakenIn, began: int) -> None:
        """Messages of the broker were committed: what they settle, and what is to be confirmed."""
        ended = tick()
        traces: list[Trace] = []
        for message in messages:
            parent = read(message.trace)
            links = self._sent.of(taken.settled) if message.kind == Kind.RECEIPTS else []
            if parent is None and not links:
                continue
            said = {"kind": message.kind[:24], "bytes": len(message.data)}
            made = self.tracing.record("node.receive", began, ended, parent=parent, links=links, **said)
            traces += [made] if made else []
        self._led_to[Kind.CONFIRMATIONS].put(taken.to_send, traces[:_SOME])
