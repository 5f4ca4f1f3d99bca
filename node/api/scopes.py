"""Which scope each address needs: one table, so that one look tells who may do what.

Guarantees: an address that is not in the table cannot be served (`make_app` fails at the start), so that nobody adds by
oversight one that every token may use. Of several scopes one is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from node.api import docs
from protocol.access import Scope
from protocol.door import OPEN

Scopes = frozenset[Scope]
_READ: Final[Scopes] = frozenset({"read"})
_OWN: Final[Scopes] = frozenset({"read", "submit"})
"""Who only submits sees what it filed itself."""
_REVIEW: Final[Scopes] = frozenset({"release", "submit"})
_WATCH: Final[Scopes] = frozenset({"read", "admin"})
_ADMIN: Final[Scopes] = frozenset({"admin"})
_COLLECTIONS: Final = "/taxii2/reports/collections/"
_TAXII: Final[Mapping[tuple[str, str], Scopes]] = {
    ("GET", "/taxii2/"): _OWN,
    ("GET", "/taxii2/reports/"): _OWN,
    ("GET", _COLLECTIONS): _OWN,
    ("GET", _COLLECTIONS + "{collection}/"): _OWN,
    ("GET", _COLLECTIONS + "{collection}/manifest/"): _OWN,
    ("GET", _COLLECTIONS + "{collection}/objects/"): _OWN,
    ("GET", _COLLECTIONS + "{collection}/objects/{object}/"): _OWN,
    ("GET", _COLLECTIONS + "{collection}/objects/{object}/versions/"): _OWN,
    ("POST", _COLLECTIONS + "{collection}/objects/"): frozenset({"submit"}),
    ("GET", "/taxii2/reports/status/{status}/"): frozenset({"submit"}),
}
"""Who only submits finds the intake collection there, and nothing to read. Each address also without its last slash."""

NEEDED: Final[Mapping[tuple[str, str], Scopes]] = {
    ("POST", "/v1/reports"): frozenset({"submit"}),
    ("GET", "/v1/reports"): _OWN,
    ("GET", "/v1/reports/{report_id}"): _OWN,
    ("GET", "/v1/reports/{report_id}/proof"): _OWN,
    ("GET", "/v1/submissions/{id}"): frozenset({"submit"}),
    ("GET", "/v1/inbox"): _READ,
    ("GET", "/v1/inbox/{report_id}"): _READ,
    ("GET", "/v1/inbox/{report_id}/proof"): _READ,
    ("POST", "/v1/inbox/{report_id}/confirm"): frozenset({"confirm"}),
    ("GET", "/v1/feed"): _READ,
    ("POST", "/v1/policy/explain"): _OWN,
    ("GET", "/v1/alarms"): _WATCH,
    ("POST", "/v1/alarms/{id}/clear"): _ADMIN,
    ("GET", "/v1/backlog"): _WATCH,
    ("GET", "/v1/log"): _WATCH,
    ("GET", "/v1/directory"): _OWN,
    ("GET", "/v1/review"): _REVIEW,
    ("GET", "/v1/review/{id}"): _REVIEW,
    ("POST", "/v1/review/{id}/release"): frozenset({"release"}),
    ("POST", "/v1/review/{id}/refuse"): frozenset({"release"}),
    ("GET", "/v1/webhooks"): _WATCH,
    ("POST", "/v1/webhooks/{name}/enable"): _ADMIN,
    ("POST", "/v1/webhooks/{name}/replay"): _ADMIN,
    ("POST", "/v1/webhooks/{name}/test"): _ADMIN,
    ("GET", "/v1/audit"): frozenset({"audit"}),
    ("GET", "/v1/tokens"): _ADMIN,
    ("POST", "/v1/tokens"): _ADMIN,
    ("POST", "/v1/tokens/{name}/rotate"): _ADMIN,
    ("POST", "/v1/tokens/{name}/revoke"): _ADMIN,
    **_TAXII,
    **{(method, path.rstrip("/")): scopes for (method, path), scopes in _TAXII.items()},
}


def address_of(route: web.AbstractRoute) -> tuple[str, str]:
    """Method and path of a route as the table has them; looking at the head of a page is looking at the page."""
    path = route.resource.canonical if route.resource is not None else ""
    return ("GET" if route.method == "HEAD" else route.method), path


def needed(request: web.Request) -> Scopes:
    """The scopes of which one is needed for a request."""
    return NEEDED[address_of(request.match_info.route)]


def undeclared(app: web.Application) -> set[tuple[str, str]]:
    """Addresses that are served and stand neither in the table nor among the open ones."""
    served = {address_of(route) for route in app.router.routes()}
    return {(method, path) for method, path in served if path not in OPEN | docs.OPEN and (method, path) not in NEEDED}
