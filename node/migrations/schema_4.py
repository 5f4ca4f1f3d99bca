"""Schema 4: what a client said last of a report that it has from another tool, and the times that the tool states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations


def step(op: Operations) -> None:
    """From schema 3. What was said before is not known: the first change back of a report is taken for a repetition."""
    op.create_table(
        "sources",
        sa.Column("report_id", sa.String(36), nullable=False),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("content_hash", sa.String(43), nullable=False),
        sa.Column("stated_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("report_id", "client"),
    )
    op.add_column("review", sa.Column("stated_at", sa.BigInteger))
