"""How a node's store of an earlier program becomes one of this program; `docs/architecture.md` says how to add a step.

Each step stands in a file of its own that names tables as they were then: never import `node.tables` there.
"""

from __future__ import annotations

from typing import Final

from node.migrations import schema_4
from node.tables import metadata
from protocol.migrating import Migration, Schema

SCHEMA: Final = Schema(
    kind="node",
    metadata=metadata,
    baseline=3,
    migrations=(Migration("what a client said last of a report from another tool", schema_4.step),),
    before="no release wrote such a store; make a new node directory",
)
