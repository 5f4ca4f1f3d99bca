"""The intake collection: incidents that TAXII clients post are filed as reports of this member.

Guarantees: 202 means that what was accepted is on disk, and its status names every posted object once: pending until
the broker's receipt is here, then a success, or a failure with the reason. Posting the same again files nothing anew. A
status is shown to the token that posted, and to no other. Refuses an envelope that is none, or holds no object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import msgspec
from msgspec import Meta, Struct

from node import tables
from node.answers import Accepted, Answer, Held, Result
from node.core import NodeCore
from node.foreign import Reading, read_foreign
from node.formats.foreign import Defaults
from node.formats.registry import FORMATS
from node.intake import Item, Place, Posting
from node.loops import Committer, Writer
from node.review import HELD, REFUSED
from node.store import Reads, microseconds
from node.taxii import micros_of, stamp_of, version_of
from node.views import own_line
from protocol.access import Client
from protocol.door import unknown_token
from protocol.errors import ProtocolError
from protocol.parse import decode
from protocol.reasons import Reason

_LONGEST: Final = 200
_COMMON: Final = frozenset({"identity", "marking-definition", "extension-definition"})
"""These connect everything with everything, and so say nothing of what belongs together."""

_REVIEW: Final = "review:"
_PENDING, _SUCCESS, _FAILURE = range(3)
"""What is said of an object that went into several reports: the least of them."""
_LISTS: Final = ("pendings", "successes", "failures")


class _Envelope(Struct, frozen=True):
    objects: Annotated[list[dict[str, Any]], Meta(min_length=1)]


class _Line(Struct, frozen=True, kw_only=True):
    """What is kept about one posted object: the reports that it went into, or entries of the review queue, or why
    there is neither."""

    id: str
    version: str
    reports: list[str] = []
    message: str = ""


_envelope: Final = msgspec.json.Decoder(_Envelope)
_lines: Final = msgspec.json.Decoder(list[_Line])


class Intake:
    """Files what is posted.

    Args:
        core, committer, writer: take it in.
        now: the clock.
    """

    def __init__(self, core: NodeCore, committer: Committer, writer: Writer, now: Callable[[], datetime]) -> None:
        self._core = core
        self._committer = committer
        self._writer = writer
        self._now = now

    async def take(self, body: bytes, client: Client) -> dict[str, Any]:
        """File an envelope; its status.

        Raises:
            ProtocolError: it is no envelope of STIX objects, or too much waits for the broker.
            Transient: the disk is full.
        """
        self._core.check_backlog()
        at = self._now()
        objects, items, places = await asyncio.to_thread(self._judge, body, at)
        if not client.alive():
            # Revoked while it sent its body.
            raise unknown_token()
        results: Sequence[Result] = ()
        if items:
            reply = await self._committer.submit(Posting(items, many=True, client=client, places=places))
            if not isinstance(reply, Answer):
                raise reply
            results = reply.results
        lines = list(_lines_of(objects, [place.at for place in places], results, at))
        number = str(uuid4())
        row = {"id": number, "client": client.name, "at": microseconds(at), "objects": msgspec.json.encode(lines)}
        await self._writer.run(self._keep, row)
        return await asyncio.to_thread(self.status, number, client.name) or {}

    def _keep(self, row: Mapping[str, Any]) -> None:
        with self._core.store.write() as tx:
            tx.add(tables.taxii_status, [row])

    def _judge(self, body: bytes, now: datetime) -> tuple[list[dict[str, Any]], tuple[Item, ...], tuple[Place, ...]]:
        """The posted objects, and the incidents among them with the place of each."""
        objects = decode(_envelope, body).objects
        packed = msgspec.json.encode(objects)
        # The same bytes whenever the same is posted.
        name = f"bundle--{uuid5(NAMESPACE_OID, packed.decode())}"
        bundle = msgspec.json.encode({"type": "bundle", "id": name, "objects": msgspec.Raw(packed)})
        items, places = read_bundle(bundle, self._core.member, self._core.trust.registry.jurisdictions, now)
        return objects, items, places

    def status(self, number: str, client: str) -> dict[str, Any] | None:
        """What became of an envelope by now; None if this client has posted none under that number."""
        try:
            number = str(UUID(number))
        except ValueError:
            return None
        with self._core.store.read() as reads:
            row = reads.taxii_status(number, client)
            return None if row is None else _shown(row, reads)


def read_bundle(
    bundle: bytes, member: str, jurisdictions: Set[str], now: datetime
) -> tuple[tuple[Item, ...], tuple[Place, ...]]:
    """The incidents of a bundle, judged one by one as those of a posted document are, and the place of each.

    Raises:
        ProtocolError: it is refused as a whole.
    """
    reading = Reading(FORMATS["stix"], FORMATS["stix"].media_types[0], member, Defaults(), jurisdictions, now)
    try:
        return read_foreign(bundle, reading, ndjson=False)
    except ProtocolError as exc:
        if exc.reason is Reason.EMPTY:
            return (), ()
        raise


def _shown(row: Any, reads: Reads) -> dict[str, Any]:
    """The status resource."""
    lines = _lines.decode(row.objects)
    standings = _standings(reads, {name for line in lines for name in line.reports})
    lists: dict[str, list[dict[str, str]]] = {"successes": [], "failures": [], "pendings": []}
    for line in lines:
        found = {standings[name] for name in line.reports if name in standings} or {(_FAILURE, line.message)}
        kind, message = min(found)
        lists[_LISTS[kind]].append({"id": line.id, "version": line.version, "message": message})
    counts = {"success_count": len(lists["successes"]), "failure_count": len(lists["failures"])}
    pending = len(lists["pendings"])
    return {
        "id": row.id,
        "status": "pending" if pending else "complete",
        "request_timestamp": stamp_of(row.at),
        "total_count": len(lines),
        **counts,
        "pending_count": pending,
        **{name: listed for name, listed in lists.items() if listed},
    }


def _standings(reads: Reads, names: Collection[str]) -> dict[str, tuple[int, str]]:
    """Where reports and entries of the review queue stand by now, and in words."""
    found = {row.digest: _standing(own_line(row)) for row in reads.own_lines(names)}
    for name in names:
        if name.startswith(_REVIEW) and (row := reads.review_row(int(name.removeprefix(_REVIEW)))) is not None:
            found[name] = _reviewed(reads, row)
    return found


def _reviewed(reads: Reads, row: Any) -> tuple[int, str]:
    if row.state == HELD:
        return _PENDING, f"review {row.id} waits for a person"
    if row.state == REFUSED:
        return _FAILURE, f"{Reason.NOT_ALLOWED.value}: review {row.id} was refused"
    released = [line for line in reads.own_by("report_id", [row.report_id]) if line.revision == row.revision]
    return _standing(own_line(released[0])) if released else (_PENDING, f"review {row.id} was released")


def _standing(line: Mapping[str, Any]) -> tuple[int, str]:
    report = f"report {line['report_id']}"
    if line["state"] == "queued":
        return _PENDING, f"{report} waits for the broker's receipt"
    if line["state"] == "rejected":
        reason = line.get("refusal", {}).get("reason", Reason.INTERNAL.value)
        return _FAILURE, f"{reason}: the broker rejected {report}"
    return _SUCCESS, f"{report} is {line['state']}"


def _lines_of(
    objects: Sequence[Mapping[str, Any]],
    paths: Sequence[str],
    results: Sequence[Result],
    at: datetime,
) -> Iterator[_Line]:
    """What to keep of each object: an incident's own outcome, and for what belongs to incidents, theirs."""
    outcomes: dict[int, Result] = {}
    for path, result in zip(paths, results, strict=True):
        index = _index_in(path)
        if index is not None:
            outcomes.setdefault(index, result)
    circles = _circles(objects)
    everything = [digest for result in outcomes.values() for digest in _digests(result)]
    inside: dict[int, list[str]] = {}
    for index, result in outcomes.items():
        if index < len(objects):
            inside.setdefault(circles[index], []).extend(_digests(result))
    for index, item in enumerate(objects):
        own = outcomes.get(index)
        if own is not None:
            reports, message = _digests(own), _why(own)
        elif item.get("type") in _COMMON:
            reports, message = everything, _NOT_TAKEN
        else:
            reports, message = inside.get(circles[index], []), _NOT_TAKEN
        yield _Line(id=str(item.get("id", ""))[:_LONGEST], version=_version(item, at), reports=reports, message=message)


_NOT_TAKEN: Final = f"{Reason.EMPTY.value}: it belongs to no incident of this envelope that was taken"


def _index_in(path: str) -> int | None:
    """The number of the object that a path in a bundle leads to; the reader's paths may have a list's place before."""
    _, there, rest = path.partition(".objects[")
    digits = rest.partition("]")[0]
    return int(digits) if there and digits.isdigit() else None


def _digests(result: Result) -> list[str]:
    """The names of what was taken."""
    if isinstance(result, Held):
        return [f"{_REVIEW}{result.number}"]
    return [result.known.digest] if isinstance(result, Accepted) else []


def _why(result: Result) -> str:
    if not isinstance(result, ProtocolError):
        return ""
    return f"{result.reason.value} at {result.path}: {result.detail}"


def _version(item: Mapping[str, Any], at: datetime) -> str:
    said = item.get("modified") or item.get("created")
    try:
        return version_of(micros_of(str(said), "$"))
    except ProtocolError:
        return stamp_of(microseconds(at))


def _circles(objects: Sequence[Mapping[str, Any]]) -> list[int]:
    """Which objects belong together, by their references: for each the number of its circle."""
    place = {str(item.get("id", index)): index for index, item in enumerate(objects) if item.get("type") not in _COMMON}
    leader = list(range(len(objects)))

    def head(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for index, item in enumerate(objects):
        for name in _named(item) if item.get("type") not in _COMMON else ():
            if name in place:
                leader[head(index)] = head(place[name])
    return [head(index) for index in range(len(objects))]


def _named(item: Mapping[str, Any]) -> Iterator[str]:
    """The ids that an object refers to."""
    for name, value in item.items():
        if name.endswith("_ref") and isinstance(value, str):
            yield value
        elif name.endswith("_refs") and isinstance(value, list):
            yield from (entry for entry in value if isinstance(entry, str))
