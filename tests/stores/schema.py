"""What the tables of a database are, in words that can be compared; and a step that tests can take to schema 3."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, inspect

from protocol.migrating import Migration, Schema
from tests.stores import OLDEST, SCHEMAS

if TYPE_CHECKING:
    from alembic.operations import Operations


def described(engine: Engine) -> dict[str, Any]:
    """Tables, columns, keys, indexes, triggers, views; all but the order of columns, which no query depends on."""
    with engine.connect() as connection:
        found = inspect(connection)
        on_sqlite = engine.dialect.name == "sqlite"
        everything: dict[str, Any] = {
            name: {
                "columns": {
                    column["name"]: (
                        column["type"].compile(engine.dialect),
                        column["nullable"],
                        column["default"],
                    )
                    for column in found.get_columns(name)
                },
                "primary": found.get_pk_constraint(name)["constrained_columns"],
                "foreign": sorted(
                    (key["constrained_columns"], key["referred_table"], key["referred_columns"], str(key["options"]))
                    for key in found.get_foreign_keys(name)
                ),
                "unique": sorted(
                    (key["column_names"], "" if on_sqlite else str(key["name"]))
                    for key in found.get_unique_constraints(name)
                ),
                "checks": sorted(str(check["sqltext"]) for check in found.get_check_constraints(name)),
            }
            for name in found.get_table_names()
        }
        for what, query in (_SQLITE if on_sqlite else _POSTGRESQL).items():
            everything[f"({what})"] = sorted(
                tuple(re.sub(r"\s+", " ", str(cell)) for cell in row) for row in connection.exec_driver_sql(query)
            )
        return everything


_SQLITE = {
    "made": "SELECT type, name, replace(sql, '\"', '') FROM sqlite_master WHERE type <> 'table' AND sql IS NOT NULL",
    "kinds": "SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%'",
}
_POSTGRESQL = {
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()",
    "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = current_schema()",
    "sequences": "SELECT sequencename, start_value, increment_by FROM pg_sequences WHERE schemaname = current_schema()",
}


def contents(connection: Connection) -> dict[str, list[Any]]:
    """All rows of all tables, in an order that both databases agree on; without the schema's number."""
    made = sa.MetaData()
    made.reflect(connection)
    rows = {
        table.name: sorted(repr([_plain(row[name]) for name in sorted(row)]) for row in _rows(connection, table))
        for table in made.sorted_tables
    }
    rows["meta"] = [row for row in rows["meta"] if "'schema'" not in row]
    return rows


def _rows(connection: Connection, table: sa.Table) -> list[Any]:
    return list(connection.execute(sa.select(table)).mappings())


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


# --- a schema from before the oldest ----------------------------------------------------------------------------
#
# There are no such programs. The tests take a store back to before a step that they know, so that the step, and the
# real ones after it, can be taken on real rows, and a real program goes on with the result.


def take_back(kind: str, connection: Connection) -> None:
    """Make a store of the oldest schema one of the made-up schema before it."""
    for statement in _BACK[kind]:
        connection.exec_driver_sql(statement)
    connection.execute(sa.text("UPDATE meta SET value = :was WHERE name = 'schema'"), {"was": str(OLDEST - 1)})


def take_back_file(kind: str, file: Path) -> None:
    """The same, in a file."""
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        take_back(kind, connection)
    engine.dispose()


_BACK = {
    "node": (
        "ALTER TABLE submissions RENAME COLUMN reports TO many",
        "DROP INDEX inbox_by_id",
        "DROP TABLE refused",
    ),
    "broker": (
        "ALTER TABLE reports RENAME COLUMN rsit TO kind",
        "DROP TABLE exceptions",
    ),
}


def _node_step(op: Operations) -> None:
    # A table to which others refer is replaced by a copy on SQLite; the column keeps its rows.
    with op.batch_alter_table("submissions") as batch:
        batch.alter_column("many", new_column_name="reports", existing_type=sa.Integer(), existing_nullable=False)
    op.create_index("inbox_by_id", "inbox", ["report_id", "revision"], unique=True)
    op.create_table(
        "refused",
        sa.Column("digest", sa.String(43), primary_key=True),
        sa.Column("origin", sa.String(31), nullable=False),
        sa.Column("report_id", sa.String(36)),
        sa.Column("revision", sa.Integer),
        sa.Column("refusal", sa.LargeBinary, nullable=False),
        sa.Column("delivery", sa.BigInteger, nullable=False),
        sa.Column("statement", sa.String(43), nullable=False),
        sa.Column("confirmation", sa.String(43), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def _broker_step(op: Operations) -> None:
    # It has an index on some of its rows.
    with op.batch_alter_table("reports") as batch:
        batch.alter_column("kind", new_column_name="rsit", existing_type=sa.String(64), existing_nullable=False)
    op.create_table(
        "exceptions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("member", sa.String(32), nullable=False),
        sa.Column("submission", sa.String(43), nullable=False),
        sa.Column("digest", sa.String(43)),
        sa.Column("report_id", sa.String(36)),
        sa.Column("revision", sa.Integer),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("path", sa.String, nullable=False),
    )
    op.create_index("exceptions_by_submission", "exceptions", ["submission"])


STEPS = {"node": _node_step, "broker": _broker_step}


def longer(kind: str, **changes: Any) -> Schema:
    """The schema of that kind, with a step before its first one."""
    schema = SCHEMAS[kind]
    step = Migration("names that are easier to read", changes.pop("step", STEPS[kind]))
    return dataclasses.replace(schema, baseline=OLDEST - 1, migrations=(step, *schema.migrations), **changes)
