"""The SQL of the TAXII collections: putting objects there, taking them away, paging through them. Part of `store.py`.

Guarantees: every object gets an `added_at` of its own, later than any given out before, also if that one was taken away
since or the clock went back; a page is found by an index, counts nothing, and shows of each version of an object one
copy; what is taken away leaves nothing but the word that it ended. A source is the number of a report in the inbox;
negative ones stand for what belongs to no report.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, delete, exists, insert, or_, select

from node.doorrows import any_of
from node.retracting import revoked
from node.tables import inbox, meta, own_reports, taxii_listed, taxii_objects, taxii_status
from node.taxii import STEP, Brought, Listed, Placed

CLOCK: Final = "taxii_added"
POSITION: Final = "taxii_inbox"
SHAPE: Final = "taxii_shape"


class TaxiiReads:
    """Queries; on a connection that shows one state of the database."""

    _db: Connection

    def taxii_unread(self, limit: int) -> list[Row[Any]]:
        """Others' reports that are not in the collections yet, in the order of arrival, whether held or not."""
        after = self._number(POSITION)
        query = select(inbox).where(inbox.c.seq > after).order_by(inbox.c.seq).limit(limit)
        return list(self._db.execute(query))

    def taxii_others(self, reports: Collection[str], but: Collection[int], upto: int) -> list[Row[Any]]:
        """What else of these reports is in the collections already."""
        query = select(inbox).where(inbox.c.presentation != "", ~inbox.c.withdrawn, inbox.c.seq <= upto)
        rows = [row for c in any_of(inbox.c.report_id, reports) for row in self._db.execute(query.where(c))]
        return [row for row in rows if row.seq not in but]

    def _number(self, name: str) -> int:
        found = self._db.execute(select(meta.c.value).where(meta.c.name == name)).scalar()
        return int(found) if found is not None else 0

    def taxii_shape(self) -> int:
        """By which program the collections were made."""
        return self._number(SHAPE)

    def taxii_page(self, asked: Listed, limit: int) -> list[Row[Any]]:
        """Objects in the order in which they were added."""
        listed, objects = taxii_listed, taxii_objects
        query = (
            select(objects.c.added_at, objects.c.object_id, objects.c.version, objects.c.spec_version, objects.c.object)
            .join_from(listed, objects, objects.c.source == listed.c.source)
            .where(listed.c.topic == asked.topic, listed.c.tlp <= asked.tlp, listed.c.last > asked.after)
            .where(objects.c.added_at > asked.after, ~_another(asked, _copy_of))
            .order_by(listed.c.last, objects.c.added_at)
            .limit(limit)
        )
        for column, values in ((objects.c.object_id, asked.ids), (objects.c.type, asked.types)):
            if values:
                query = query.where(column.in_(values))
        if asked.spec_versions:
            query = query.where(objects.c.spec_version.in_(asked.spec_versions))
        wanted = []
        if asked.last:
            wanted.append(~_another(asked, lambda other: other.c.version > objects.c.version))
        if asked.first:
            wanted.append(~_another(asked, lambda other: other.c.version < objects.c.version))
        if asked.versions:
            wanted.append(objects.c.version.in_(asked.versions))
        return list(self._db.execute(query.where(or_(*wanted)) if wanted else query))

    def taxii_has(self, topic: str, tlp: int, object_id: str) -> bool:
        """Whether an object is in a collection, in any version."""
        query = select(taxii_objects.c.added_at).join_from(
            taxii_objects, taxii_listed, taxii_listed.c.source == taxii_objects.c.source
        )
        query = query.where(taxii_objects.c.object_id == object_id, taxii_listed.c.topic == topic)
        return self._db.execute(query.where(taxii_listed.c.tlp <= tlp).limit(1)).first() is not None

    def own_lines(self, digests: Collection[str]) -> list[Row[Any]]:
        """Own revisions by digest, without their content."""
        query = select(
            *(column for column in own_reports.c if column.name not in ("filing", "disclosures", "held_back"))
        )
        return [row for c in any_of(own_reports.c.digest, digests) for row in self._db.execute(query.where(c))]

    def taxii_status(self, number: str, client: str) -> Row[Any] | None:
        """What became of a post of this client."""
        query = select(taxii_status).where(taxii_status.c.id == number, taxii_status.c.client == client)
        return self._db.execute(query).one_or_none()


def _copy_of(other: Any) -> ColumnElement[bool]:
    """The same version of the same object: what reports have in common counts from the first on, else the last one.

    Two revisions of a report may have been signed at the same moment.
    """
    earlier = and_(other.c.source < 0, other.c.added_at < taxii_objects.c.added_at)
    later = and_(other.c.source >= 0, other.c.added_at > taxii_objects.c.added_at)
    return and_(other.c.version == taxii_objects.c.version, or_(earlier, later))


def _another(asked: Listed, where: Any) -> Any:
    """Whether the client can see another row of the same object in the same collection, of which something is so."""
    other, place = taxii_objects.alias("other"), taxii_listed.alias("place")
    return exists(
        select(1)
        .select_from(other)
        .join(place, and_(place.c.source == other.c.source, place.c.topic == asked.topic, place.c.tlp <= asked.tlp))
        .where(other.c.object_id == taxii_objects.c.object_id, where(other))
    )


class TaxiiWrites(TaxiiReads):
    """Changes; within a transaction."""

    erased: bool

    def taxii_add(self, reports: Sequence[Brought], upto: int, at: int, over: Sequence[Placed] = ()) -> int:
        """Put reports into their collections, and remember that the inbox was read up to there; how many objects.

        What was withdrawn or has expired since it was read is left out.

        Args:
            over: what is taken back of earlier revisions; it stands where they stand.
        """
        by_digest = {report.digest: report for report in reports}
        query = select(inbox.c.digest).where(inbox.c.presentation != "")
        held = {row[0] for c in any_of(inbox.c.digest, by_digest) for row in self._db.execute(query.where(c))}
        live = [report for report in reports if report.digest in held]
        clock = self._clock(at)
        objects: list[dict[str, Any]] = []
        places: list[dict[str, Any]] = []
        self._forget_ends({placed.object_id for report in live for placed in report.own})
        known = self._common_places({placed.object_id for report in live for placed in report.common})
        for report in live:
            for placed in report.common:
                for topic in report.topics:
                    name = (placed.object_id, placed.version, topic)
                    if known.get(name, report.tlp + 1) > report.tlp:
                        known[name] = report.tlp
                        clock += STEP
                        objects.append(_object_row(placed, -clock, clock))
                        places.append({"source": -clock, "topic": topic, "tlp": report.tlp, "last": clock})
            for placed in report.own:
                clock += STEP
                objects.append(_object_row(placed, report.source, clock))
            if report.own:
                places += [
                    {"source": report.source, "topic": topic, "tlp": report.tlp, "last": clock}
                    for topic in report.topics
                ]
        self._insert(taxii_objects, objects)
        self._insert(taxii_listed, places)
        self._remember(CLOCK, clock)
        self._remember(POSITION, upto)
        return len(objects) + self._take_back(over, at)

    def _take_back(self, over: Sequence[Placed], at: int) -> int:
        """Revoke objects that are in the collections; how many."""
        names = {placed.object_id for placed in over}
        here: dict[str, set[int]] = {}
        ended: set[str] = set()
        query = select(taxii_objects.c.object_id, taxii_objects.c.source, taxii_objects.c.ended)
        for condition in any_of(taxii_objects.c.object_id, names):
            for row in self._db.execute(query.where(condition)):
                if row.ended:
                    ended.add(row.object_id)
                else:
                    here.setdefault(row.object_id, set()).add(row.source)
        ends = [placed for placed in over if placed.object_id in here and placed.object_id not in ended]
        sources = {source for placed in ends for source in here[placed.object_id]}
        self._end(ends, here, self._places(sources), at)
        return len(ends)

    def _places(self, sources: Collection[int]) -> list[Row[Any]]:
        query = select(taxii_listed)
        return [row for c in any_of(taxii_listed.c.source, sources) for row in self._db.execute(query.where(c))]

    def _end(
        self, ends: Sequence[Placed], seen: Mapping[str, Collection[int]], places: Sequence[Row[Any]], at: int
    ) -> None:
        """Put the ends of objects where the objects stood, each by itself: not all of a report stood everywhere."""
        clock = self._clock(at)
        for end in ends:
            clock += STEP
            self._insert(taxii_objects, [_object_row(end, -clock, clock)])
            stood = _lowest(places, seen[end.object_id])
            place = {"source": -clock, "last": clock}
            self._insert(taxii_listed, [{**place, "topic": topic, "tlp": tlp} for topic, tlp in stood.items()])
        if ends:
            self._remember(CLOCK, clock)

    def taxii_begin(self, shape: int) -> None:
        """Empty the collections, to be made again by this program. That something has ended stays known."""
        ended = select(taxii_objects.c.source).where(taxii_objects.c.ended)
        self._db.execute(delete(taxii_listed).where(taxii_listed.c.source.not_in(ended)))
        self._db.execute(delete(taxii_objects).where(~taxii_objects.c.ended))
        self._remember(POSITION, 0)
        self._remember(SHAPE, shape)
        self.erased = True

    def take_down(self, digests: Collection[str], at: int) -> None:
        """Erase the objects of reports that have ended; who read one there finds instead that it is revoked.

        An object that another revision, which is still here, has too is not.
        """
        if not self._number(POSITION):
            return
        rows: list[int] = []
        for condition in any_of(inbox.c.digest, digests):
            rows += self._db.execute(select(inbox.c.seq).where(condition)).scalars()
        found: list[Row[Any]] = []
        for condition in any_of(taxii_objects.c.source, rows):
            found += self._db.execute(select(taxii_objects).where(condition).order_by(taxii_objects.c.version))
        places = self._places(rows)
        for table in (taxii_objects, taxii_listed):
            for condition in any_of(table.c.source, rows):
                self.erased |= bool(self._db.execute(delete(table).where(condition)).rowcount)
        newest = {row.object_id: row for row in found}
        query = select(taxii_objects.c.object_id).where(~taxii_objects.c.ended)
        alive = {row[0] for c in any_of(taxii_objects.c.object_id, newest) for row in self._db.execute(query.where(c))}
        gone = [row for object_id, row in newest.items() if object_id not in alive]
        before = self._forget_ends({row.object_id for row in gone})
        seen: dict[str, set[int]] = {}
        for row in found:
            seen.setdefault(row.object_id, set()).add(row.source)
        ends = []
        for row in gone:
            version = max(row.version + STEP, before.get(row.object_id, 0) + STEP, at - at % STEP)
            over = revoked(row.object, version)
            ends.append(Placed(row.object_id, row.type, version, row.spec_version, over, ended=True))
        self._end(ends, seen, places, at)

    def forget_status(self, before: int) -> None:
        """Drop what was posted before that time."""
        self._db.execute(delete(taxii_status).where(taxii_status.c.at < before))

    def _clock(self, at: int) -> int:
        """The last `added_at` that was given out; not before the clock that hangs on the wall."""
        return max(self._number(CLOCK), at - at % STEP)

    def _common_places(self, ids: Collection[str]) -> dict[tuple[str, int, str], int]:
        """Where objects that belong to no report stand already, and under which marking."""
        known: dict[tuple[str, int, str], int] = {}
        query = select(taxii_objects.c.object_id, taxii_objects.c.version, taxii_listed.c.topic, taxii_listed.c.tlp)
        query = query.join_from(taxii_objects, taxii_listed, taxii_listed.c.source == taxii_objects.c.source)
        for condition in any_of(taxii_objects.c.object_id, ids):
            for row in self._db.execute(query.where(condition, taxii_objects.c.source < 0)):
                name = (row[0], row[1], row[2])
                known[name] = min(row[3], known.get(name, row[3]))
        return known

    def _forget_ends(self, ids: Collection[str]) -> dict[str, int]:
        """What is here again has not ended. As which version each of these had."""
        query = select(taxii_objects.c.source, taxii_objects.c.object_id, taxii_objects.c.version)
        query = query.where(taxii_objects.c.ended)
        over = [row for c in any_of(taxii_objects.c.object_id, ids) for row in self._db.execute(query.where(c))]
        for table in (taxii_objects, taxii_listed):
            for condition in any_of(table.c.source, [row.source for row in over]):
                self._db.execute(delete(table).where(condition))
        return {row.object_id: row.version for row in over}

    def _insert(self, table: Table, rows: Iterable[dict[str, Any]]) -> None:
        if listed := list(rows):
            self._db.execute(insert(table), listed)

    def _remember(self, name: str, number: int) -> None:
        self._db.execute(delete(meta).where(meta.c.name == name))
        self._db.execute(insert(meta), [{"name": name, "value": str(number)}])


def _object_row(placed: Placed, source: int, at: int) -> dict[str, Any]:
    return {
        "added_at": at,
        "source": source,
        "object_id": placed.object_id,
        "type": placed.type,
        "version": placed.version,
        "spec_version": placed.spec_version,
        "ended": placed.ended,
        "object": placed.object,
    }


def _lowest(places: Iterable[Row[Any]], sources: Collection[int]) -> dict[str, int]:
    """By topic, the lowest marking under which any of these sources stood there."""
    lowest: dict[str, int] = {}
    for place in places:
        if place.source in sources:
            lowest[place.topic] = min(place.tlp, lowest.get(place.topic, place.tlp))
    return lowest
