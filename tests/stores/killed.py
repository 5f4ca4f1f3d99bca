"""`python -m tests.stores.killed KIND URL DATA WHERE`: an upgrade that waits to be killed, and says when it is there.

WHERE: `before` the first change; `between` the tables' change and the new number; `after` all of it, not committed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from protocol import migrating
from protocol.migrating import Place, Schema, upgrade
from tests.stores.schema import STEPS, longer

if TYPE_CHECKING:
    from alembic.operations import Operations


def _wait() -> None:
    sys.stdout.write("here\n")
    sys.stdout.flush()
    sys.stdin.read()


def main(kind: str, url: str, data: str, where: str) -> None:
    """Upgrade, up to there."""

    def step(op: Operations) -> None:
        if where == "before":
            _wait()
        STEPS[kind](op)
        if where == "between":
            _wait()

    whole = migrating._migrate

    def migrate(connection: Connection, schema: Schema, found: int) -> None:
        whole(connection, schema, found)
        if where == "after":
            _wait()

    migrating._migrate = migrate
    upgrade(Place(url, Path(data), "DIR"), longer(kind, step=step))


if __name__ == "__main__":
    main(*sys.argv[1:])
