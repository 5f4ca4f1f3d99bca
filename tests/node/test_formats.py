"""Tables and IntelMQ events, field by field; the published table against the code."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.formats import csvtable, intelmq
from node.formats.foreign import Defaults, Foreign, Shown
from node.formats.registry import FORMATS, reader, writer
from node.showing import inbox_shown
from protocol.errors import ProtocolError
from protocol.parse import convert
from protocol.reasons import Reason
from protocol.report import Body, Filing, Header
from tests.protocol.make import headers, quick, structs

AT = datetime(2026, 3, 1, tzinfo=UTC)
AMBER = Defaults({"tlp": "AMBER"})
DOC = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")


def shown(header: Header, body: Body, withheld: tuple[str, ...] = ()) -> Shown:
    return Shown(msgspec.to_builtins(header), msgspec.to_builtins(body), withheld, 0, AT, own=True)


def table(*rows: dict[str, str], bom: bool = False) -> bytes:
    text = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writing = csv.DictWriter(text, names)
    writing.writeheader()
    writing.writerows(rows)
    return text.getvalue().encode("utf-8-sig" if bom else "utf-8")


def only(found: Any) -> Foreign:
    (item,) = found
    assert isinstance(item, Foreign), item
    return item


# --- tables -----------------------------------------------------------------------------------------------------


def _stripped(values: list[str]) -> list[str]:
    return [value.strip() for value in values if value.strip()]


@quick(40)
@given(headers(), structs(Body))
def test_a_table_gives_back_what_went_into_it(header: Header, body: Body) -> None:
    """Every field that the table has a column for, exactly; nothing else; the facts beside them are unmapped."""
    item = shown(header, body)
    written = csvtable.write([item])
    found = only(csvtable.read(written, Defaults()))
    head, inner = item.header, item.body
    got, given_ = found.filing, found.filing["body"]
    marking = {name: head["marking"][name] for name in ("tlp", "pap", "recipients") if head["marking"].get(name)}
    assert got["marking"] == marking
    assert (got["phase"], got["rsit"]) == (head.get("phase", "initial"), head["rsit"])
    assert got.get("severity") == ({"score": head["severity"]["score"]} if "severity" in head else None)
    assert [one["code"] for one in got.get("sectors", [])] == [one["code"] for one in head.get("sectors", [])]
    for name in ("title", "description", "status", "determination", "confidence"):
        assert given_.get(name) == inner.get(name)
    times = inner.get("times", {})
    assert {name: one["value"] for name, one in given_.get("times", {}).items()} == {
        name: one["value"] for name, one in times.items()
    }
    assert given_.get("victim") == (
        {name: inner["victim"][name] for name in ("name", "sector") if name in inner["victim"]}
        if "victim" in inner
        else None
    )
    assert given_.get("geo", {}).get("country") == inner.get("geo", {}).get("country")
    assert given_.get("actor", {}).get("name") == inner.get("actor", {}).get("name")
    for name in ("services", "malware"):
        assert given_.get(name, []) == _stripped(inner.get(name, []))
    for name, key in (("attack", "technique"), ("vulnerabilities", "id")):
        assert [one[key] for one in given_.get(name, [])] == [one[key] for one in inner.get(name, [])]
    assert [f"{one['type']}={one['value']}".strip() for one in given_.get("indicators", [])] == [
        f"{one['type']}={one['value']}".strip() for one in inner.get("indicators", []) if one["value"].strip()
    ] or any(not one["value"].strip() for one in inner.get("indicators", []))
    assert {path.partition(".")[2].partition("[")[0] for path in found.unmapped} <= {*csvtable.ABOUT, "indicators"}


@given(st.text(st.sampled_from("=+-@\t\r\n'\"; ,\uff1da1"), min_size=1, max_size=6))
def test_no_cell_begins_as_a_formula(text: str) -> None:
    """Whatever a report says, a spreadsheet shows it; and it comes back as it was."""
    item = Shown({"marking": {"tlp": "CLEAR"}}, {"title": text}, (), 0, AT, own=False)
    written = csvtable.write([item])
    row = next(csv.DictReader(io.StringIO(written.decode("utf-8-sig"), newline="")))
    assert not re.match("[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-]", row["title"])
    assert only(csvtable.read(written, Defaults())).filing["body"]["title"] == text


@pytest.mark.parametrize("bom", [False, True])
def test_a_table_from_a_mail(bom: bool) -> None:
    """With or without a BOM, columns in any order and case, lists in cells; the rest is unmapped, by row and column."""
    row = {
        "TLP": "tlp:green",
        "indicators": "ipv4-addr=203.0.113.7; url=https://a.example/?a=1 ; strange",
        "Source_ID": "7",
        "queue": "abuse",
        "severity": "high",
    }
    found = only(csvtable.read(table(row, bom=bom), Defaults()))
    assert found.source_id == "7"
    assert found.filing["marking"] == {"tlp": "GREEN"}
    assert found.filing["body"]["indicators"] == [
        {"type": "ipv4-addr", "value": "203.0.113.7"},
        {"type": "url", "value": "https://a.example/?a=1"},
    ]
    assert found.unmapped == {"$[0].queue": "abuse", "$[0].severity": "high", "$[0].indicators[2]": "strange"}
    convert(found.filing, Filing)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"{}", b"name,owner\r\n1,2", b"title,title\r\na,b", b'title\r\n"a'])
def test_what_is_no_table(data: bytes) -> None:
    """Is refused as a whole."""
    with pytest.raises(ProtocolError) as caught:
        csvtable.read(data, Defaults())
    assert caught.value.reason in (Reason.INVALID_VALUE, Reason.MISSING_FIELD)


def test_a_row_with_more_cells_than_columns() -> None:
    """Is refused alone."""
    found = csvtable.read(b"title,tlp\r\na,GREEN,x\r\nb,GREEN\r\n", Defaults())
    assert isinstance(found[0], ProtocolError)
    assert found[0].path == "$[0]"
    assert isinstance(found[1], Foreign)


def test_what_is_withheld_is_said_to_be(tmp_path: Path) -> None:
    """The names of units, and coarse values in their place."""
    del tmp_path
    item = Shown(
        {"marking": {"tlp": "GREEN"}},
        {"victim_coarse": {"sector": "energy"}, "title_coarse": "A word from [e-mail]"},
        ("victim", "title"),
        3,
        AT,
        own=False,
    )
    row = next(csv.DictReader(io.StringIO(csvtable.write([item]).decode("utf-8-sig"))))
    assert (row["victim"], row["victim_sector"], row["title"]) == ("", "energy", "A word from [e-mail]")
    assert (row["withheld"], row["undisclosed"]) == ("victim;title", "3")


# --- IntelMQ ----------------------------------------------------------------------------------------------------

keys = st.sampled_from([*intelmq.MAPPED, "feed.name", "extra.asset", "classification.identifier", "raw", "source.port"])


@quick(150)
@given(st.dictionaries(keys, st.text("ab.:1", min_size=1, max_size=8), max_size=8))
def test_every_key_of_an_event_is_somewhere(fields: dict[str, str]) -> None:
    """In the filing, exactly, or unmapped."""
    event = {"classification.type": "phishing", **fields}
    found = only(intelmq.read(json.dumps(event).encode(), AMBER))
    said = msgspec.json.encode([found.filing, found.source_id]).decode()
    for key, value in event.items():
        if f"$.{key}" in found.unmapped:
            assert found.unmapped[f"$.{key}"] == value
        else:
            assert key in intelmq.MAPPED
            assert value in said or value.upper() in said


def test_an_event() -> None:
    """A C2 server as a feed has it."""
    event = {
        "classification.taxonomy": "malicious-code",
        "classification.type": "c2-server",
        "source.ip": "2001:db8::1",
        "source.asn": 64496,
        "destination.fqdn": "c2.example",
        "malware.name": "mirai",
        "malware.hash.md5": "d41d8cd98f00b204e9800998ecf8427e",
        "time.source": "2026-02-03 04:05:06+00:00",
        "tlp": "WHITE",
        "extra.x": {"a": 1},
    }
    found = only(intelmq.read(json.dumps([event]).encode(), Defaults()))
    assert found.filing == {
        "rsit": [{"class": "malicious-code", "type": "c2-server"}],
        "marking": {"tlp": "CLEAR"},
        "body": {
            "times": {"occurred": {"value": "2026-02-03T04:05:06+00:00"}},
            "malware": ["mirai"],
            "indicators": [
                {"type": "md5", "value": "d41d8cd98f00b204e9800998ecf8427e"},
                {"type": "ipv6-addr", "value": "2001:db8::1", "context": "source"},
                {"type": "asn", "value": "64496", "context": "source"},
                {"type": "domain-name", "value": "c2.example", "context": "destination"},
            ],
        },
    }
    assert found.unmapped == {"$[0].extra.x": {"a": 1}}
    convert(found.filing, Filing)


@pytest.mark.parametrize(
    ("given_", "rsit", "left"),
    [
        ({"taxonomy": "fraud"}, {"class": "fraud"}, set()),
        ({"taxonomy": "fraud", "type": "ddos"}, {"class": "other", "type": "undetermined"}, {"taxonomy", "type"}),
        ({"type": "blacklist"}, {"class": "other", "type": "undetermined"}, {"type"}),
    ],
)
def test_classes_that_rsit_does_not_have(given_: dict[str, str], rsit: dict[str, str], left: set[str]) -> None:
    """Count as undetermined, and what the event said is unmapped."""
    event = {f"classification.{name}": value for name, value in given_.items()}
    found = only(intelmq.read(json.dumps(event).encode(), AMBER))
    assert found.filing["rsit"] == [rsit]
    assert set(found.unmapped) == {f"$.classification.{name}" for name in left}


@pytest.mark.parametrize("event", [1, {}, {"source.ip": "x"}, {"classification.type": "scanner", "source.ip": 5}])
def test_what_is_no_event(event: Any) -> None:
    """Is refused with its path, and the others are read."""
    found = intelmq.read(json.dumps([event, {"classification.type": "scanner"}]).encode(), AMBER)
    assert isinstance(found[0], ProtocolError)
    assert found[0].path.startswith("$[0]")
    assert isinstance(found[1], Foreign)


# --- all of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@quick(40)
@given(
    data=st.binary(max_size=60) | st.sampled_from([b"null", b"[]", b"{}", b"[[]]", b'"x"', b"<a/>", b"\xef\xbb\xbf"])
)
def test_no_reader_falls_over(name: str, data: bytes) -> None:
    """Whatever comes, the answer is incidents or refusals."""
    try:
        found = reader(name)(data, Defaults())
    except ProtocolError:
        return
    assert all(isinstance(item, Foreign | ProtocolError) for item in found)


def rows(title: str) -> dict[str, str]:
    """The first table of a section, first column to second."""
    text = DOC.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    cells = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return {row[0]: row[1] for row in cells[2:]}


def test_the_published_tables() -> None:
    """What the document says maps is what the code maps."""
    assert rows("Tables (`csv`)") == dict(csvtable.COLUMNS)
    assert rows("IntelMQ events (`intelmq`)") == dict(intelmq.MAPPED)


def test_the_list_of_formats() -> None:
    """Each with its content type, and whether it is also written."""
    text = DOC.partition("| `?format=` |")[2].partition("\n\n")[0]
    listed = {
        (cells[0].strip().strip("`"), cells[1].strip().strip("`"), cells[3].strip())
        for line in text.splitlines()[2:]
        if len(cells := line.strip("|").split("|")) >= 4
    }
    for name, item in FORMATS.items():
        assert (name, item.media_types[0], "yes" if writer(name) else "no") in listed


def test_what_is_erased_is_not_shown() -> None:
    """Nothing of a revision that was withdrawn or has expired; of a withdrawal, its header."""
    view = b'{"marking":{"tlp":"GREEN"},"body":{"title":"secret"}}'
    row = {"withdrawn": False, "expired_at": None, "presentation": "jws~", "view": view, "withheld": b"[]"}
    row |= {"undisclosed": 0, "received_at": 0}
    assert (found := inbox_shown(SimpleNamespace(**row)))
    assert found.body == {"title": "secret"}
    assert (over := inbox_shown(SimpleNamespace(**{**row, "withdrawn": True})))
    assert (over.header, over.body) == ({"marking": {"tlp": "GREEN"}}, {})
    assert inbox_shown(SimpleNamespace(**{**row, "presentation": "", "view": b"null"})) is None
    assert inbox_shown(SimpleNamespace(**{**row, "expired_at": 1})) is None
