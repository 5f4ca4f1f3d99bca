"""Looking into a node: what a test asks of its store."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from node.core import NodeCore
from node.views import own_report
from protocol import statements as st


def events(core: NodeCore, kind: str) -> list[dict[str, Any]]:
    with core.store.read() as reads:
        return [json.loads(event.data) for event in reads.events_after(0, 10_000) if event.kind == kind]


def alarms(core: NodeCore) -> list[str]:
    return [event["reason"] for event in events(core, "alarm")]


def inbox(core: NodeCore) -> list[Any]:
    with core.store.read() as reads:
        return reads.inbox_page(0, 1_000)


def said(core: NodeCore) -> list[st.Confirmation]:
    """What this node confirms now."""
    jwss = [jws for message in core.outgoing_words(9) for jws in json.loads(message.data)]
    return [st.open_statement(jws, st.Confirmation, core.trust.registry.keys.find, core._now()) for jws in jwss]


def shown(core: NodeCore, report_id: str) -> dict[str, Any]:
    with core.store.read() as reads:
        return json.loads(msgspec.json.encode(own_report(reads, report_id, core._now())))  # type: ignore[no-any-return]
