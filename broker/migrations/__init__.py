"""How a ledger of an earlier program becomes one of this program; `docs/architecture.md` says how to add a step.

Each step stands in a file of its own that names tables as they were then: never import `broker.tables` there.
"""

from __future__ import annotations

from typing import Final

from broker.tables import metadata
from protocol.migrating import Schema

SCHEMA: Final = Schema(
    kind="broker",
    metadata=metadata,
    baseline=3,
    migrations=(),
    before="no release wrote such a ledger; start a new region (`kentongan broker init` in an empty directory)",
)
