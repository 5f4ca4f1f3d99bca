"""The spans of a batch: one a message in its sender's trace, and one for the batch in a trace of the broker's own.

Guarantees: what is sent on account of the batch is linked to the batch alone, see `protocol/tracing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.ingest import Work
from protocol import subjects
from protocol.tracing import Trace, Tracing, read
from protocol.transport import Message


def trace_batch(tracing: Tracing, batch: Sequence[Message], work: Work) -> Trace | None:
    """Make them, from the times that the batch noted; returns what its messages are linked to."""
    if not tracing.on or not work.marks:
        return None
    began, ended = work.marks[0][1], work.marks[-1][1]
    links = []
    for message in batch:
        parent = read(message.trace)
        if parent is not None:
            known = {"member": subjects.member_of_intake(message.subject), "kind": message.kind[:24]}
            links.append(tracing.record("broker.ingest", began, ended, parent=parent, bytes=len(message.data), **known))
    whole = tracing.start("broker.batch", links=links, at=began, messages=len(batch), reports=work.counts.total())
    for (_, since), (step, until) in zip(work.marks, work.marks[1:], strict=False):
        tracing.record(f"broker.{step}", since, until, parent=whole.trace)
    whole.end(ended)
    return whole.trace
