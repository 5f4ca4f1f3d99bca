"""The OpenAPI document as one page to read: HTML and a style, no script, nothing from any other machine. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--get:#1f6f43;--post:#8a4b08;--delete:#9b1c1c}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem}
nav ul{columns:2;list-style:none;padding:0}h2{border-bottom:2px solid var(--line);margin-top:2.5rem}
code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:var(--soft);overflow:auto;padding:.75rem}
article{border:1px solid var(--line);border-radius:6px;margin:1rem 0;padding:.25rem 1rem 1rem}
h3{font-size:1rem;overflow-wrap:anywhere}h3 b{border-radius:4px;color:#fff;margin-right:.5rem;padding:.1rem .5rem}
b.get{background:var(--get)}b.post{background:var(--post)}b.delete{background:var(--delete)}
table{border-collapse:collapse;width:100%}th,td{border-bottom:1px solid var(--line);padding:.25rem .5rem .25rem 0;
text-align:left;vertical-align:top}th{font-weight:600}small{opacity:.75}
@media(max-width:40rem){nav ul{columns:1}}
"""
POLICY: Final = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy under which the page is whole."""
_METHODS: Final = ("get", "post", "put", "patch", "delete")

Node = Mapping[str, Any]


def render(document: Node) -> str:
    """The page."""
    info = document["info"]
    title = escape(f"{info['title']}, HTTP interface {info['version']}")
    parts = [
        f"<h1>{title}</h1><p>{escape(info['description'])}</p>",
        '<p>For programs: <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1).</p>',
        "<nav><ul>",
        *(
            f'<li><a href="#{escape(known["operationId"])}">{method.upper()} {escape(path)}</a></li>'
            for path, method, known in _operations(document)
        ),
        "</ul></nav>",
    ]
    for tag in document["tags"]:
        parts.append(f"<h2>{escape(tag['name'])}</h2>")
        parts += [_operation(*one) for one in _operations(document) if one[2]["tags"] == [tag["name"]]]
    parts.append("<h2>Types</h2>")
    parts += [_type(name, schema) for name, schema in document["components"]["schemas"].items()]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>"
    )


def _operations(document: Node) -> Iterator[tuple[str, str, Node]]:
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield path, method, methods[method]


def _operation(path: str, method: str, known: Node) -> str:
    parts = [
        f'<article id="{escape(known["operationId"])}"><h3><b class="{method}">{method.upper()}</b>',
        f"<code>{escape(path)}</code></h3><p>{escape(known['summary'])}</p>",
    ]
    if "description" in known:
        parts.append(f"<p>{escape(known['description'])}</p>")
    if known.get("security") == []:
        parts.append("<p><small>Needs no token.</small></p>")
    rows = [
        (f"<code>{escape(one['name'])}</code>", f"{one['in']}{', required' if one['required'] else ''}",
         _shape(one["schema"]), escape(one["description"]))
        for one in known.get("parameters", ())
    ]  # fmt: skip
    if rows:
        parts.append(_table(("parameter", "in", "what", ""), rows))
    for media, content in known.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Send <code>{escape(media)}</code>: {_shape(content['schema'])}</p>")
        if "example" in content:
            parts.append(f"<pre>{escape(json.dumps(content['example'], indent=1, ensure_ascii=False))}</pre>")
    answers = [
        (escape(status), escape(response["description"]), "<br>".join(
            f"<code>{escape(media)}</code> {_shape(content['schema'])}"
            for media, content in response.get("content", {}).items()
        ), escape(", ".join(response.get("headers", ()))))
        for status, response in known["responses"].items()
    ]  # fmt: skip
    return "".join([*parts, _table(("status", "when", "body", "headers"), answers), "</article>"])


def _type(name: str, schema: Node) -> str:
    says = f"<p>{escape(schema['description'])}</p>" if "description" in schema else ""
    needed = set(schema.get("required", ()))
    rows = [
        (f"<code>{escape(field)}</code>", "required" if field in needed else "", _shape(one))
        for field, one in schema.get("properties", {}).items()
    ]
    table = _table(("field", "", "what"), rows) if rows else f"<p>{_shape(schema)}</p>"
    return f'<article id="type-{escape(name)}"><h3><code>{escape(name)}</code></h3>{says}{table}</article>'


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    titles = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{lines}</table>"


def _shape(schema: Node) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#type-{name}">{name}</a>'
    for word, join in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " with ")):
        if word in schema and "properties" not in schema:
            return join.join(filter(None, map(_shape, schema[word])))
    if "enum" in schema:
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_shape(schema.get('items', {}))}{_bounds(schema)}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_shape(schema['additionalProperties'])}"
    kind = schema.get("format") or schema.get("type") or ("" if "properties" in schema else "anything")
    return escape(str(kind)) + _bounds(schema)


def _bounds(schema: Node) -> str:
    words = [
        f"{said} {schema[key]}"
        for key, said in (
            ("minimum", "from"), ("maximum", "to"), ("minLength", "at least"), ("maxLength", "at most"),
            ("minItems", "at least"), ("maxItems", "at most"), ("default", "default"),
        )
        if key in schema
    ]  # fmt: skip
    if "pattern" in schema:
        words.append(f"<code>{escape(schema['pattern'])}</code>")
    return f" <small>({', '.join(words)})</small>" if words else ""
