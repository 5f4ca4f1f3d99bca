"""The OpenAPI 3.1 document of the node's HTTP interface, made from the types that validate what comes in.

Guarantees: a request is described by the type that judges it; every operation names each status that it can answer, and
for a refusal the reason codes that can stand in it. Holds nothing of this node but what its program is. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

from node.api import shapes
from protocol import taxonomy
from protocol.door import JSON, PROBLEM, RETRY_AFTER, status_of
from protocol.reasons import Reason

VERSION: Final = "1"
"""Of the interface: the number in `/v1`."""
TEXT: Final = "text/plain"
EVENTS: Final = "text/event-stream"
_REF: Final = "#/components/schemas/"
_HERE: Final = (Reason.TOKEN_MISSING, Reason.TOKEN_INVALID, Reason.SCOPE_MISSING)
_ALWAYS: Final = (Reason.NOT_READY,)
"""A full disk, for one: nothing was taken."""

DOCUMENT: Final = (
    Reason.NOT_JSON,
    Reason.TOO_LARGE,
    Reason.WRONG_TYPE,
    Reason.MISSING_FIELD,
    Reason.UNKNOWN_FIELD,
    Reason.UNKNOWN_VALUE,
    Reason.OUT_OF_RANGE,
    Reason.INVALID_VALUE,
)
"""Why any document can be refused."""

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """Something in the address or a header of a request."""

    name: str
    says: str
    schema: Schema
    place: str = "query"
    required: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True)
class Content:
    """A body: its media type, and what describes it: a type, several types of which it is one, or a schema."""

    media: str
    shape: Any
    example: Any = None

    def types(self) -> tuple[Any, ...]:
        """The types in it."""
        if isinstance(self.shape, dict):
            return ()
        return self.shape if isinstance(self.shape, tuple) else (self.shape,)

    def schema(self) -> Schema:
        """How it is described."""
        if isinstance(self.shape, dict):
            return self.shape
        schemas, _ = msgspec.json.schema_components(self.types(), ref_template=_REF + "{name}")
        return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


@dataclass(frozen=True, slots=True)
class Operation:
    """One address with one method. All that a route needs in order to be documented.

    Attributes:
        path: as the router has it.
        name: the operationId.
        group: the heading under which it stands.
        says: one line. more: what else a programmer must know.
        answers: what is no refusal, by status; several contents of one status stand one after the other.
        reasons: of refusals; those for tokens and passing faults are added to all.
        body: what can be sent.
        parameters: beside those in the path; one in the path, if its name means something else here.
        bodiless: the body can be left out.
        headers: of answers that are no refusals.
        open: needs no token.
        replays: the answer can be that of an earlier request.
    """

    method: str
    path: str
    name: str
    group: str
    says: str
    answers: Mapping[int, Sequence[Content]]
    reasons: Sequence[Reason] = ()
    body: Sequence[Content] = ()
    parameters: Sequence[Parameter] = ()
    more: str = ""
    bodiless: bool = False
    headers: Sequence[str] = ()
    open: bool = False
    replays: bool = False


def document(
    operations: Iterable[Operation], in_path: Mapping[str, Parameter], *, extensible: bool = True
) -> dict[str, Any]:
    """The document.

    Args:
        in_path: what can stand in an address, by name.
        extensible: say that answers may get further fields, as a later version may; off, to hold answers to it.
    """
    listed = list(operations)
    shown = _components(listed, extensible=extensible)
    paths: dict[str, dict[str, Any]] = {}
    for operation in listed:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, in_path)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "info": {
            "title": "Kentongan node",
            "version": VERSION,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "this node"}],
        "security": [{"token": []}],
        "tags": [{"name": name} for name in dict.fromkeys(operation.group for operation in listed)],
        "paths": paths,
        "components": {
            "schemas": shown,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of this node, one a tool."}
            },
            "headers": {
                "Retry-After": {
                    "description": "Seconds after which to try again with the same Idempotency-Key.",
                    "schema": {"type": "integer", "minimum": 0, "examples": [int(RETRY_AFTER)]},
                },
                "Idempotent-Replayed": {
                    "description": "`true` if this was taken before and the answer is that of the first time.",
                    "schema": {"type": "string", "enum": ["true"]},
                },
                "WWW-Authenticate": {"description": "How to show a token.", "schema": {"type": "string"}},
                "Location": {
                    "description": "Of several reports: where stands how far each of them is.",
                    "schema": {"type": "string"},
                },
                "RateLimit-Policy": {
                    "description": "How many reports a token with a quota may file a minute and a day.",
                    "schema": {"type": "string"},
                },
                "RateLimit": {"description": "How many of them are left.", "schema": {"type": "string"}},
            },
        },
    }


_INTRODUCTION: Final = (
    "Post incident reports, see who got what of them and why, read what other CERTs reported. "
    "Every refusal is a problem document (RFC 9457) with a reason code and the JSON path of the fault; a code never "
    "changes its meaning. Answers may get further fields: ignore what you do not know. "
    "A 405 for a method that an address does not have, and a 500 for a fault of the program, can come from anywhere."
)


# --- one operation ----------------------------------------------------------------------------------------------


def _operation(operation: Operation, in_path: Mapping[str, Parameter]) -> dict[str, Any]:
    reasons: dict[int, list[str]] = {}
    for reason in (*operation.reasons, *(() if operation.open else _HERE), *_ALWAYS):
        reasons.setdefault(status_of(reason), []).append(reason.value)
    responses: dict[str, Any] = {}
    for status in sorted({*operation.answers, *reasons}):
        content: dict[str, Any] = {}
        for known in operation.answers.get(status, ()):
            content[known.media] = _media(known)
        refusals = sorted(set(reasons.get(status, ())))
        if refusals:
            content[PROBLEM] = {"schema": _problem(refusals)}
        says = HTTPStatus(status).phrase
        response: dict[str, Any] = {"description": f"{says}: {', '.join(refusals)}" if refusals else says}
        headers = _headers(operation, status)
        if headers:
            response["headers"] = headers
        if content:
            response["content"] = content
        responses[str(status)] = response
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    own = {one.name for one in operation.parameters}
    parameters = [*(in_path[name] for name in names if name not in own), *operation.parameters]
    shown: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.group],
        "summary": operation.says,
        **({"description": operation.more} if operation.more else {}),
        **({"parameters": [_parameter(one) for one in parameters]} if parameters else {}),
        **({"security": []} if operation.open else {}),
        "responses": responses,
    }
    if operation.body:
        shown["requestBody"] = {
            "required": not operation.bodiless,
            "content": {one.media: _media(one) for one in operation.body},
        }
    return shown


def _headers(operation: Operation, status: int) -> dict[str, Any]:
    names: list[str] = []
    if status in operation.answers:
        names += operation.headers
        if operation.replays:
            names.append("Idempotent-Replayed")
    if status == HTTPStatus.UNAUTHORIZED:
        names.append("WWW-Authenticate")
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        names.append("Retry-After")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _parameter(one: Parameter) -> dict[str, Any]:
    shown = {"name": one.name, "in": one.place, "required": one.required, "description": one.says, "schema": one.schema}
    return shown if one.example is None else {**shown, "example": one.example}


def _media(content: Content) -> dict[str, Any]:
    shown = {"schema": content.schema()}
    return shown if content.example is None else {**shown, "example": content.example}


def _problem(reasons: Sequence[str]) -> Schema:
    return {"allOf": [{"$ref": _REF + shapes.Problem.__name__}, {"properties": {"reason": {"enum": list(reasons)}}}]}


# --- the types --------------------------------------------------------------------------------------------------


def _components(operations: Sequence[Operation], *, extensible: bool) -> dict[str, Schema]:
    asked = [kind for operation in operations for one in operation.body for kind in one.types()]
    answered = [shapes.Problem, shapes.FiledItem, shapes.HeldItem, shapes.RefusedItem]
    answers = [one for operation in operations for contents in operation.answers.values() for one in contents]
    answered += [kind for one in answers for kind in one.types()]
    # What can be sent is closed: a field that is not known is refused, and whoever sends one should see it here.
    _, closed = msgspec.json.schema_components(asked, ref_template=_REF + "{name}")
    _, shown = msgspec.json.schema_components(answered, ref_template=_REF + "{name}")
    for name, schema in shown.items():
        if closed.get(name, schema) != schema:
            raise AssertionError(f"two types are called {name}")
        if extensible and name not in closed and schema.get("additionalProperties") is False:
            del schema["additionalProperties"]
    found = {**shown, **closed}
    if "Rsit" in found:
        found["Rsit"]["oneOf"] = [
            {"properties": {"class": {"const": name}, "type": {"enum": sorted(types)}}}
            for name, types in taxonomy.RSIT.items()
        ]
    return dict(sorted(found.items()))


def paged() -> tuple[Parameter, ...]:
    """The parameters of a list: after which number, and how many."""
    return (
        Parameter("after", "The cursor `next` of the page before; 0 for the first page.", _whole(0, 2**62, 0)),
        Parameter("limit", "How many at most.", _whole(1, 500, 100)),
    )


def _whole(least: int, most: int, default: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}


def json(shape: type, example: Any = None) -> tuple[Content, ...]:
    """A JSON body of one type."""
    return (Content(JSON, shape, example),)
