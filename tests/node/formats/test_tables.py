"""The tables of docs/formats.md on OCSF, IODEF, IDMEFv2 and IDEA, against the readers and writers."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.formats import idea, iodefout, ocsfout
from node.formats.block import NAME, SAID
from protocol.report import Body, Header
from tests.node.formats.test_reading import FORMATS, leaves, read_one
from tests.node.formats.test_writing import shown
from tests.protocol.make import FULL, Report, header
from tests.test_docs import rows, section

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")


def table(title: str, head: str) -> dict[str, str]:
    """The second cell of a table, by each name in its first."""
    found = rows(section(TEXT, title), head)
    return {name.strip("` "): row[1].strip() for row in found for name in row[0].split(", ")}


def plainly(title: str) -> Any:
    """The sample without what the text beside the table makes exceptions of."""
    document = copy.deepcopy(FORMATS[title][1])
    if title == "IDEA":
        del document["Source"][1], document["Source"][0]["IP4"][2], document["Attach"][1]
    if title == "IDMEFv2":
        document["Status"] = ["Open"]
    if title == "IODEF":
        told = document["Incident"][0]
        del (
            told["Contact"][2],
            told["Contact"][1]["type"],
            told["EventData"][0]["System"][1],
            told["Indicator"][1]["IndicatorID"],
        )
    if title == "OCSF":
        del document["observables"][0]
    return document


@pytest.mark.parametrize("title", FORMATS)
def test_what_is_read(title: str) -> None:
    """Each value of a sample is covered by a row, and is taken, or listed as unmapped, as that row says."""
    told = table(title, f"| in {title} |")
    assert set(told.values()) <= {"exact", "less", "no"}
    document = plainly(title)
    found = read_one(FORMATS[title][0], document)
    used = set()
    for path, _ in leaves(document):
        plain = re.sub(r"\[\d+\]", "", path).removeprefix("$.")
        covering = [name for name in told if plain == name or plain.startswith(name + ".")]
        # A number and its caption are one thing.
        covering = covering or [name for name in told if name in (f"{plain}_id", plain.replace("_name", "_id"))]
        if plain in ("class_uid", "category_uid", "type_uid", "finding_info.uid"):
            continue
        assert covering, path
        name = max(covering, key=len)
        used.add(name)
        listed = any(path == kept or path.startswith((kept + ".", kept + "[")) for kept in found.unmapped)
        assert listed == (told[name] != "exact"), (path, name)
    assert set(told) - used <= {"impact_score"}


def test_categories_of_idea() -> None:
    """The table of categories is that of the reader."""
    told = {name.lower(): value for name, value in table("IDEA", "| category |").items()}
    assert told == {
        name: kind + (f"/{of}" if of else "") + ("" if exact else ", less")
        for name, (kind, of, exact) in idea.CATEGORIES.items()
    }


RICH: dict[str, Any] = {
    "marking": {"tlp": "AMBER", "pap": "GREEN"},
    "exercise": {"exercise_id": "one", "inject_id": "2"},
    "sectors": [{"code": "health"}],
    "phase": "final",
    "purpose": "watch",
    "cross_border": {"suspected": True},
    "handling": {"residency": ["id"]},
    "obligation": {"regime_id": "nis2"},
    "made_by": {"kind": "machine", "tool": "x"},
    "severity": {"score": 77},
    "times": {"detected": {"value": "2026-02-03T04:05:06.000001Z", "fidelity": "day"}},
    "attack": [{"technique": "T1486", "matrix": "mobile", "tactic": "TA0040"}],
    "indicators": [{"type": "url", "value": "http://a.example", "first_seen": "2026-02-03T04:05:06Z"}],
    "impacts": [{"category": "availability", "percent": 50}],
    "actions": [{"what": "x", "at": "2026-02-03T04:05:06Z", "outcome": "y"}],
    "assistance_requested": [{"kind": "sinkholing", "jurisdictions": ["sg"]}],
    "contacts": [{"role": "desk", "hours": "9-17"}],
}
"""Values that say as much as a field can; those of other fields are in `FULL`."""


@pytest.mark.parametrize(("title", "write"), [("OCSF", ocsfout.write), ("IODEF", iodefout.write)])
def test_what_is_written(title: str, write: Any) -> None:
    """Of a field that has a place nothing is in the block; of one with less of a place, all; of one without, all."""
    told = table(title, "| field |")
    assert set(told) == {*SAID, *Body.__struct_fields__}
    for name, how in told.items():
        value = RICH.get(name, FULL.get(name))
        given = {name: value} if name in SAID and value is not None else {}
        one = Report(
            header=msgspec.convert({**msgspec.to_builtins(header()), **given}, Header),
            body=msgspec.convert({"title": "x"} | ({name: value} if name in Body.__struct_fields__ else {}), Body),
        )
        document = json.loads(write([shown(one)]))
        block = (
            document[0]["unmapped"][NAME]
            if title == "OCSF"
            else json.loads(document["Incident"][0]["AdditionalData"][0]["value"])
        )
        boxed = block.get("header", {}).get(name) is not None or block.get("body", {}).get(name) is not None
        assert boxed == (how not in ("own", "no")), name
