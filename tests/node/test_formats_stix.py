"""STIX 2.1, there and back: what is written is read by its own tools, and what is read is all accounted for."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given

from node.formats import stix
from node.formats.foreign import Defaults, Foreign, Shown
from protocol.report import Body, Filing, Header, Report
from tests.protocol.make import NOW, quick, reports

NOTHING = Defaults()


def shown(report: Report, **given: Any) -> Shown:
    """A report of which everything is disclosed."""
    head, body = (msgspec.json.decode(msgspec.json.encode(part)) for part in (report.header, report.body))
    return Shown(**{"header": head, "body": body, "withheld": [], "undisclosed": 0, "at": NOW, "own": True, **given})


def back(data: bytes, defaults: Defaults = NOTHING) -> Foreign:
    """The one incident of a document."""
    (found,) = stix.read(data, defaults)
    assert isinstance(found, Foreign), found
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


@quick(300)
@given(reports())
def test_a_report_comes_back_as_it_was_filed(report: Report) -> None:
    """Every field of header and body."""
    found = back(stix.write([shown(report)]))
    again = msgspec.convert(found.filing, Filing)
    for field in Body.__struct_fields__:
        assert plain(getattr(again.body, field)) == plain(getattr(report.body, field)), (field, found.unmapped)
    for field in Filing.__struct_fields__:
        if field in Header.__struct_fields__ and field not in ("report_id", "incident_id", "revision"):
            assert plain(getattr(again, field)) == plain(getattr(report.header, field)), (field, found.unmapped)
