"""The log's part of the ledger: tiles, checkpoints and cosignatures, in SQL that SQLite and PostgreSQL both speak.

Guarantees nothing by itself: the caller opens the transaction, and `broker/log.py` says what belongs into one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from broker.tables import checkpoints, cosignatures, log_tiles, submissions
from protocol.merkle import HASH
from protocol.tiles import StoredTile, leaf_hashes, locate, nodes_in

_ENTRIES: Final = (
    select(submissions.c.id, submissions.c.entry)
    .where(submissions.c.id > bindparam("size"))
    .order_by(submissions.c.id)
    .limit(bindparam("most"))
)
_RECEIVED: Final = select(submissions.c.received_at).where(submissions.c.id == bindparam("number"))
_TILE: Final = select(log_tiles.c.data).where(
    log_tiles.c.level == bindparam("tile_level"), log_tiles.c.number == bindparam("tile_number")
)
_INSERT_TILE: Final = insert(log_tiles)
_UPDATE_TILE: Final = (
    update(log_tiles)
    .where(log_tiles.c.level == bindparam("tile_level"), log_tiles.c.number == bindparam("tile_number"))
    .values(data=bindparam("tile_data"))
)


def entries_after(connection: Connection, size: int, most: int) -> list[bytes]:
    """Entries of the submissions that a log of that size lacks, in order."""
    rows = connection.execute(_ENTRIES, {"size": size, "most": most}).all()
    if rows and (rows[0].id, rows[-1].id) != (size + 1, size + len(rows)):
        raise AssertionError("submissions are not numbered without gaps")
    return [row.entry for row in rows]


def received_at(connection: Connection, leaf: int) -> int | None:
    """When the submission of a leaf was received, in milliseconds; None if there is none yet."""
    found = connection.scalar(_RECEIVED, {"number": leaf + 1})
    return None if found is None else int(found)


# --- tiles ------------------------------------------------------------------------------------------------------


def tile(connection: Connection, level: int, number: int) -> bytes:
    """A tile as stored; empty if there is none."""
    found = connection.scalar(_TILE, {"tile_level": level, "tile_number": number})
    return b"" if found is None else bytes(found)


def put_tiles(connection: Connection, tiles: Iterable[StoredTile]) -> None:
    """Store tiles: new ones, and those that grew."""
    fresh = []
    for item in tiles:
        if item.fresh:
            fresh.append({"level": item.level, "number": item.number, "data": item.data})
        else:
            connection.execute(
                _UPDATE_TILE, {"tile_level": item.level, "tile_number": item.number, "tile_data": item.data}
            )
    if fresh:
        connection.execute(_INSERT_TILE, fresh)


def has_tiles(connection: Connection) -> bool:
    """Whether there is any tile."""
    return connection.scalar(select(func.count()).select_from(log_tiles.select().limit(1).subquery())) != 0


# --- checkpoints ------------------------------------------------------------------------------------------------


def add_checkpoint(connection: Connection, size: int, root: bytes, note: str, at: int) -> None:
    """A signed checkpoint that no witness has seen yet."""
    connection.execute(insert(checkpoints), {"size": size, "root": root, "note": note.encode("utf-8"), "at": at})


def set_checkpoint(connection: Connection, size: int, **values: Any) -> None:
    """Change a checkpoint's row."""
    connection.execute(update(checkpoints).where(checkpoints.c.size == size).values(**values))


def checkpoint(connection: Connection, size: int) -> Any | None:
    """The checkpoint of that size."""
    return connection.execute(select(checkpoints).where(checkpoints.c.size == size)).one_or_none()


def newest(connection: Connection, *, published: bool = False) -> Any | None:
    """The largest checkpoint, or the largest that is published."""
    query = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
    if published:
        query = query.where(checkpoints.c.published_at.is_not(None))
    return connection.execute(query).one_or_none()


def larger_than(connection: Connection, size: int, most: int) -> Sequence[Any]:
    """Checkpoints above a size, the largest first."""
    query = select(checkpoints).where(checkpoints.c.size > size).order_by(checkpoints.c.size.desc()).limit(most)
    return connection.execute(query).all()


def prune(connection: Connection, before: int, keep: Iterable[int]) -> int:
    """Forget checkpoints made before a time, but those of the sizes to keep, with their cosignatures.

    Returns:
        how many checkpoints.
    """
    old = (checkpoints.c.at < before) & checkpoints.c.size.not_in(list(keep))
    found = connection.execute(delete(checkpoints).where(old)).rowcount
    if found:
        connection.execute(delete(cosignatures).where(cosignatures.c.size.not_in(select(checkpoints.c.size))))
    return int(found)


# --- cosignatures -----------------------------------------------------------------------------------------------


def lines(connection: Connection, size: int) -> dict[str, str]:
    """The lines of the witnesses that cosigned a checkpoint, by member."""
    query = select(cosignatures.c.member, cosignatures.c.line).where(cosignatures.c.size == size)
    return {row.member: bytes(row.line).decode("utf-8") for row in connection.execute(query.order_by("member"))}


def add_line(connection: Connection, size: int, member: str, line: str) -> None:
    """A witness's line, verified."""
    connection.execute(insert(cosignatures), {"size": size, "member": member, "line": line.encode("utf-8")})


def set_line(connection: Connection, size: int, member: str, line: str) -> None:
    """The line that takes the place of one that does not count any more."""
    which = (cosignatures.c.size == size) & (cosignatures.c.member == member)
    connection.execute(update(cosignatures).where(which).values(line=line.encode("utf-8")))


# --- nodes of the tree ------------------------------------------------------------------------------------------


class TileCache:
    """Nodes of the tree out of stored tiles, of which the last used are kept decoded. Any thread.

    Args:
        most: tiles to keep, 16 KiB each.
    """

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._tiles: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._lock = Lock()

    def node(self, connection: Connection, level: int, number: int) -> bytes:
        """The hash of a complete node of a tree that is stored as a whole."""
        tile_level, place, height, offset = locate(level, number)
        end = (offset + 1) * HASH
        name = (tile_level, place)
        with self._lock:
            nodes = self._tiles.get(name)
            if nodes is not None:
                self._tiles.move_to_end(name)
        # A partial tile may have grown since it was decoded; what is in it never changes.
        if nodes is None or len(nodes) <= height or len(nodes[height]) < end:
            data = tile(connection, tile_level, place)
            nodes = nodes_in(leaf_hashes(data) if tile_level == 0 else data)
            if len(nodes) <= height or len(nodes[height]) < end:
                raise AssertionError(f"no node {level}/{number} in the log's tiles")
            with self._lock:
                self._tiles[name] = nodes
                while len(self._tiles) > self._most:
                    self._tiles.popitem(last=False)
        return nodes[height][end - HASH : end]
