"""The statements that are asked again and again: rows by the values of one column, rows added and changed.

Guarantees: any number of values, in statements below what a database takes; and each statement is put together once a
process, for that costs several times as much as asking it. Part of `store.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Column, Connection, Insert, Row, Select, Table, Update, bindparam, insert, select, update

_MOST: Final = 500
"""Values in one IN list."""


@lru_cache(maxsize=256)
def _query(columns: tuple[Column[Any], ...], column: Column[Any], order: tuple[Column[Any], ...]) -> Select[Any]:
    return select(*columns).where(column.in_(bindparam("values", expanding=True))).order_by(*order)


def rows_where(
    db: Connection,
    columns: Iterable[Column[Any]],
    column: Column[Any],
    values: Collection[Any],
    order: Iterable[Column[Any]] = (),
) -> list[Row[Any]]:
    """These columns of the rows whose `column` has one of the values.

    Args:
        order: by which the rows of up to 500 values are sorted.
    """
    if not values:
        return []
    query, listed = _query(tuple(columns), column, tuple(order)), list(values)
    parts = (listed[start : start + _MOST] for start in range(0, len(listed), _MOST))
    return [row for part in parts for row in db.execute(query, {"values": part})]


@lru_cache(maxsize=64)
def inserting(table: Table) -> Insert:
    """Adds rows to a table."""
    return insert(table)


@lru_cache(maxsize=128)
def updating(table: Table, key: str, names: tuple[str, ...]) -> Update:
    """Changes these columns of the rows found by `key`; parameters are the names with a line before them."""
    query = update(table).where(table.c[key] == bindparam(f"_{key}"))
    return query.values({name: bindparam(f"_{name}") for name in names})
