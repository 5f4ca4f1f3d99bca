"""For the tests of the formats: reports that are shown, what comes back, documents that are anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from node.formats.fidelity import Fate
from node.formats.foreign import Defaults, Foreign, Read, Shown
from protocol.errors import ProtocolError
from protocol.report import Body, Filing, Header, Report
from tests.protocol.make import FULL, NOW, body_from, report

NOTHING = Defaults()
AMBER = Defaults({"tlp": "AMBER"})


def shown(filed: Report, **given: Any) -> Shown:
    """A report of which everything is disclosed, unless more is given."""
    head, body = (msgspec.json.decode(msgspec.json.encode(part)) for part in (filed.header, filed.body))
    return Shown(**{"header": head, "body": body, "withheld": [], "undisclosed": 0, "at": NOW, "own": True, **given})


def full(**given: Any) -> Shown:
    """The report that has every field."""
    return shown(report(body=body_from(FULL)), **given)


def one(read: Read, data: bytes | Mapping[str, Any], defaults: Defaults = NOTHING) -> Foreign:
    """The one incident of a document."""
    (found,) = read(data if isinstance(data, bytes) else msgspec.json.encode(data), defaults)
    assert isinstance(found, Foreign), found
    return found


def refusal(read: Read, data: Mapping[str, Any], defaults: Defaults = NOTHING) -> ProtocolError:
    """Why the one incident of a document is refused."""
    (found,) = read(msgspec.json.encode(data), defaults)
    assert isinstance(found, ProtocolError), found
    return found


def plain(value: Any) -> Any:
    """A value of the profile without what says nothing: empty parts, elements twice, elements that only stand in."""
    if isinstance(value, msgspec.Struct):
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {name: found for name, found in fields.items() if found is not None} or None
    if isinstance(value, list):
        kept = [plain(item) for item in value if getattr(item, "level", msgspec.UNSET) is msgspec.UNSET]
        return [item for index, item in enumerate(kept) if item not in kept[:index]] or None
    return None if value in (msgspec.UNSET, {}) else value


def held_to(fates: Mapping[str, Fate], filed: Report, found: Foreign, looser: Mapping[str, Any]) -> None:
    """Assert that each field came back as its table says.

    Args:
        looser: for fields that come back less precise, what makes of a plain value what is left of it.
    """
    again = msgspec.convert(found.filing, Filing)
    for field, fate in fates.items():
        holder, source = (again.body, filed.body) if field in Body.__struct_fields__ else (again, filed.header)
        if fate.grade == "no":
            assert getattr(holder, field, msgspec.UNSET) is msgspec.UNSET, field
            continue
        expected = plain(getattr(source, field))
        if fate.grade == "less":
            expected = looser[field](expected)
        if filed.header.phase == "withdrawn" and field not in ("marking", "phase"):
            continue
        assert plain(getattr(holder, field)) == expected, (field, found.unmapped)


def every_field() -> set[str]:
    """The names of all fields of header and body."""
    return {*Header.__struct_fields__, *Body.__struct_fields__}


def strings(value: Any) -> list[str]:
    """All texts in a JSON value, keys left out."""
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []


def anything(words: Sequence[str], keys: Sequence[str]) -> st.SearchStrategy[Any]:
    """Any JSON, made of what the format would have in it, in all the wrong places."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(allow_nan=False),
        st.sampled_from(words),
        st.text(max_size=8),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.one_of(st.sampled_from(keys), st.text(max_size=5)), inner, max_size=6),
        ),
        max_leaves=30,
    )
