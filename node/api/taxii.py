"""`/taxii2/`: others' reports for TAXII 2.1 clients.

Guarantees: answers have TAXII's media type, and refusals its form with our reason code; what a token may not read
looks like what is not there; a page is followed by the next without a gap or a repetition, whatever arrives meanwhile.
Refuses media types other than TAXII 2.1's (406), and all but reading outside of the intake collection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from node.api.reports import read_limited
from node.api.taxii_intake import Intake
from node.config import Taxii as Settings
from node.core import NodeCore
from node.taxii import (
    COLLECTIONS,
    INTAKE,
    STIX,
    TLPS,
    Collection,
    Listed,
    cursor_to,
    limit_of,
    listed,
    stamp_of,
    version_of,
)
from protocol import limits
from protocol.door import CLIENT
from protocol.errors import ProtocolError
from protocol.reasons import Reason

MEDIA: Final = "application/taxii+json;version=2.1"
PREFIX: Final = "/taxii2"
ROOT: Final = f"{PREFIX}/reports"
PAGE_BYTES: Final = 8 << 20
"""Above this a page ends before its limit."""
_AT_ONCE: Final = 200
_TYPE: Final = "application/taxii+json"


# --- media types ------------------------------------------------------------------------------------------------


def _parameters(text: str) -> tuple[str, dict[str, str]]:
    kind, *rest = text.split(";")
    pairs = (part.partition("=") for part in rest)
    return kind.strip().lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def accepts(header: str) -> bool:
    """Whether a client takes TAXII 2.1; one that says nothing takes anything."""
    return not header.strip() or any(_takes(*_parameters(text)) for text in header.split(","))


def _takes(kind: str, said: Mapping[str, str]) -> bool:
    try:
        refused = float(said.get("q", "1")) <= 0
    except ValueError:
        refused = True
    fits = kind in ("*/*", "application/*") or (kind == _TYPE and said.get("version", "2.1") == "2.1")
    return fits and not refused


def _negotiate(request: web.Request) -> None:
    if not accepts(",".join(request.headers.getall("Accept", []))):
        raise ProtocolError(Reason.NOT_ACCEPTABLE, "$", f"answers here are {MEDIA}: say so in Accept")


def is_taxii(header: str | None) -> bool:
    """Whether a body is TAXII 2.1."""
    kind, said = _parameters(header or "")
    return kind == _TYPE and said.get("version", "2.1") == "2.1"


def reply(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A document as TAXII."""
    kind = {"Content-Type": MEDIA}
    return web.Response(status=status, body=msgspec.json.encode(document), headers={**(headers or {}), **kind})


@web.middleware
async def in_its_form(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refusals under `/taxii2/` as TAXII's error messages; all that the door says stands in them."""
    response = await handler(request)
    if not is_below(request.path) or response.status < 400 or not isinstance(response, web.Response):
        return response
    said = msgspec.json.decode(response.body if isinstance(response.body, bytes) else b"{}")
    status = _status_here(request, response.status)
    document = {
        "title": said.get("title", "refused"),
        "description": said.get("detail", "refused"),
        "error_code": said.get("reason", Reason.INTERNAL.value),
        "http_status": str(status),
        "details": {name: said[name] for name in ("reason", "path") if name in said},
    }
    kept = {name: response.headers[name] for name in ("Retry-After",) if name in response.headers}
    if status == 401:
        kept["WWW-Authenticate"] = 'Basic realm="kentongan", charset="UTF-8", Bearer realm="kentongan"'
    return reply(document, status, kept)


def _status_here(request: web.Request, status: int) -> int:
    """TAXII answers 400 to filters that it does not understand."""
    return 400 if status in (413, 422) and request.method == "GET" else status


def is_below(path: str) -> bool:
    """Whether an address is one of TAXII's: there Basic authentication is taken too."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


# --- who may read what ------------------------------------------------------------------------------------------


def highest(request: web.Request) -> str:
    """The highest marking that the token of a request may read."""
    return request[CLIENT].tlp if "read" in request[CLIENT].scopes else ""


def may_file(request: web.Request) -> bool:
    """Whether the token of a request may file."""
    return "submit" in request[CLIENT].scopes


def _reach(request: web.Request) -> int:
    """As a number; what is no marking may read nothing."""
    tlp = highest(request)
    return TLPS.index(tlp) if tlp in TLPS else -1


def _nothing_here() -> ProtocolError:
    return ProtocolError(Reason.UNKNOWN_PATH, "$", "there is nothing at this address that you may read")


# --- handlers ---------------------------------------------------------------------------------------------------


class Taxii:
    """Handlers.

    Args:
        settings: what `node.toml` says.
        core: holds the collections.
        intake: files what is posted, if anything may be.
    """

    def __init__(self, settings: Settings, core: NodeCore, intake: Intake | None = None) -> None:
        self._settings = settings
        self._core = core
        self._intake = intake

    def routes(self) -> list[web.RouteDef]:
        """The addresses; each also without the slash at its end, which clients forget."""
        found = [
            web.get("/taxii2/", self.discovery),
            web.get("/taxii2/reports/", self.root),
            web.get("/taxii2/reports/collections/", self.collections),
            web.get("/taxii2/reports/collections/{collection}/", self.collection),
            web.get("/taxii2/reports/collections/{collection}/manifest/", self.manifest),
            web.get("/taxii2/reports/collections/{collection}/objects/", self.objects),
            web.get("/taxii2/reports/collections/{collection}/objects/{object}/", self.object),
            web.get("/taxii2/reports/collections/{collection}/objects/{object}/versions/", self.versions),
        ]
        if self._intake is not None:
            found += [
                web.post("/taxii2/reports/collections/{collection}/objects/", self.add),
                web.get("/taxii2/reports/status/{status}/", self.status),
            ]
        return [*found, *(web.RouteDef(one.method, one.path.rstrip("/"), one.handler, one.kwargs) for one in found)]

    async def discovery(self, request: web.Request) -> web.Response:
        """What this server is, and where its API root."""
        _negotiate(request)
        contact = {"contact": self._settings.contact} if self._settings.contact else {}
        roots = {"default": f"{ROOT}/", "api_roots": [f"{ROOT}/"]}
        return reply({"title": self._settings.title, "description": self._about(), **contact, **roots})

    async def root(self, request: web.Request) -> web.Response:
        """The one API root."""
        _negotiate(request)
        known = {"versions": [MEDIA], "max_content_length": limits.HTTP_BODY}
        return reply({"title": self._settings.title, "description": self._about(), **known})

    def _about(self) -> str:
        return f"Reports of other members, as disclosed to {self._core.member}"

    async def collections(self, request: web.Request) -> web.Response:
        """The collections that the token may use."""
        _negotiate(request)
        reach = _reach(request)
        shown = [one.document(can_read=True, can_write=False) for one in COLLECTIONS if TLPS.index(one.tlp) <= reach]
        if self._intake is not None and may_file(request):
            shown.append(INTAKE.document(can_read=False, can_write=True))
        return reply({"collections": shown} if shown else {})

    async def collection(self, request: web.Request) -> web.Response:
        """One of them."""
        _negotiate(request)
        one = self._find(request)
        return reply(one.document(can_read=not one.intake, can_write=one.intake))

    def _find(self, request: web.Request) -> Collection:
        """The collection that an address names by id or alias."""
        name, reach = request.match_info["collection"], _reach(request)
        for one in COLLECTIONS:
            if name.lower() in (one.id, one.alias) and TLPS.index(one.tlp) <= reach:
                return one
        if self._intake is not None and may_file(request) and name.lower() in (INTAKE.id, INTAKE.alias):
            return INTAKE
        raise _nothing_here()

    def _readable(self, request: web.Request) -> Collection:
        one = self._find(request)
        if one.intake:
            raise ProtocolError(Reason.NOT_ALLOWED, "$", "this collection takes incidents and shows none")
        return one

    async def objects(self, request: web.Request) -> web.Response:
        """A page of objects."""
        _negotiate(request)
        asked = listed(request.query, self._readable(request).alias, _reach(request))
        rows, more = await asyncio.to_thread(self._page, asked, limit_of(request.query))
        return _paged("objects", [msgspec.Raw(row.object) for row in rows], rows, more=more)

    async def manifest(self, request: web.Request) -> web.Response:
        """A page of what objects there are."""
        _negotiate(request)
        asked = listed(request.query, self._readable(request).alias, _reach(request))
        rows, more = await asyncio.to_thread(self._page, asked, limit_of(request.query))
        return _paged("objects", [_entry(row) for row in rows], rows, more=more)

    async def object(self, request: web.Request) -> web.Response:
        """The versions of one object."""
        _negotiate(request)
        topic, name, reach = self._readable(request).alias, request.match_info["object"], _reach(request)
        asked = replace(listed(request.query, topic, reach, matches=frozenset({"version", "spec_version"})), ids=[name])
        rows, more = await asyncio.to_thread(self._one, asked, limit_of(request.query))
        return _paged("objects", [msgspec.Raw(row.object) for row in rows], rows, more=more)

    async def versions(self, request: web.Request) -> web.Response:
        """Which versions there are of one object."""
        _negotiate(request)
        topic, name, reach = self._readable(request).alias, request.match_info["object"], _reach(request)
        asked = listed(request.query, topic, reach, matches=frozenset({"spec_version"}))
        asked = replace(asked, ids=[name], last=False)
        rows, more = await asyncio.to_thread(self._one, asked, limit_of(request.query))
        return _paged("versions", [version_of(row.version) for row in rows], rows, more=more)

    async def add(self, request: web.Request) -> web.Response:
        """File what is posted. 202 means: on disk."""
        _negotiate(request)
        one = self._find(request)
        if self._intake is None or not one.intake:
            raise ProtocolError(Reason.NOT_ALLOWED, "$", "this collection is for reading only")
        if not is_taxii(request.headers.get("Content-Type")):
            raise ProtocolError(Reason.UNSUPPORTED_MEDIA, "$", f"send {MEDIA}")
        return reply(await self._intake.take(await read_limited(request), request[CLIENT]), 202)

    async def status(self, request: web.Request) -> web.Response:
        """What became of what was posted."""
        _negotiate(request)
        number, client = request.match_info["status"], request[CLIENT]
        found = await asyncio.to_thread(self._intake.status, number, client.name) if self._intake else None
        if found is None:
            raise _nothing_here()
        return reply(found)

    def _one(self, asked: Listed, limit: int) -> tuple[list[Any], bool]:
        """As `_page`, of an object that is there in some version."""
        with self._core.store.read() as reads:
            if not reads.taxii_has(asked.topic, asked.tlp, asked.ids[0]):
                raise _nothing_here()
        return self._page(asked, limit)

    def _page(self, asked: Listed, limit: int) -> tuple[list[Any], bool]:
        """Up to so many rows, and whether there are more."""
        rows: list[Any] = []
        size = 0
        with self._core.store.read() as reads:
            while True:
                part = reads.taxii_page(asked, min(_AT_ONCE, limit - len(rows)) + 1)
                wanted = min(_AT_ONCE, limit - len(rows))
                for row in part[:wanted]:
                    if rows and size + len(row.object) > PAGE_BYTES:
                        return rows, True
                    rows.append(row)
                    size += len(row.object)
                more = len(part) > wanted
                if not more or len(rows) >= limit:
                    return rows, more
                asked = replace(asked, after=rows[-1].added_at)


def _entry(row: Any) -> dict[str, Any]:
    return {
        "id": row.object_id,
        "date_added": stamp_of(row.added_at),
        "version": version_of(row.version),
        "media_type": STIX,
    }


def _paged(name: str, found: Sequence[Any], rows: Sequence[Any], *, more: bool) -> web.Response:
    """A page; `next` stands also where TAXII leaves it out, since clients look for it there. Lists are never empty."""
    if not rows:
        return reply({"more": False})
    first, last = rows[0].added_at, rows[-1].added_at
    headers = {"X-TAXII-Date-Added-First": stamp_of(first), "X-TAXII-Date-Added-Last": stamp_of(last)}
    following = {"next": cursor_to(last)} if more else {}
    return reply({"more": more, **following, name: found}, headers=headers)
