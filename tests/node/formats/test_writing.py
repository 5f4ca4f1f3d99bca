"""OCSF and IODEF out: what is shown comes back field by field, what is withheld is absent and said to be."""

from __future__ import annotations

import json
from collections.abc import Sequence

import jsonschema
import msgspec
import pytest
from hypothesis import given

from node.formats import iodef, iodefout, ocsf, ocsfout
from node.formats.block import as_filing, canonical
from node.formats.foreign import Defaults, Foreign, Read, Shown, Write
from protocol.coarse import coarse_body
from protocol.parse import convert
from protocol.report import Exercise, Filing, Indicator, Marking, Report, Severity
from tests.node.formats import schemas
from tests.protocol.make import FULL, NOW, body_from, quick, report, reports

PAIRS: dict[str, tuple[Read, Write]] = {"OCSF": (ocsf.read, ocsfout.write), "IODEF": (iodef.read, iodefout.write)}


def shown(one: Report, withheld: Sequence[str] = (), undisclosed: int = 0) -> Shown:
    """A report with all that is in its body."""
    plain = msgspec.to_builtins(one)
    return Shown(plain["header"], plain["body"], withheld, undisclosed, NOW, own=False)


def check(name: str, data: bytes) -> None:
    """The document is valid by the schema of its format."""
    document = json.loads(data)
    if name == "OCSF":
        for event in document:
            jsonschema.validate(event, schemas.OCSF)
            assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    else:
        jsonschema.validate(document, schemas.IODEF)


def again(name: str, item: Shown) -> Foreign:
    """What is read of a report that was written; checks the document on the way, and that the bytes are the same."""
    read, write = PAIRS[name]
    data = write([item])
    assert write([item]) == data
    check(name, data)
    (found,) = read(data, Defaults())
    assert isinstance(found, Foreign), found
    return found


@pytest.mark.parametrize("name", PAIRS)
@quick(15)
@given(one=reports())
def test_round_trip(name: str, one: Report) -> None:
    """Whatever a report may say comes back as it was shown, and its filing is valid."""
    if one.header.phase == "withdrawn":
        return
    item = shown(one)
    found = again(name, item)
    convert(found.filing, Filing)
    assert canonical(found.filing) == canonical(as_filing(item))


@pytest.mark.parametrize("name", PAIRS)
def test_every_field_comes_back(name: str) -> None:
    """A report with every field of the body, one by one."""
    item = shown(report(body=body_from(FULL), severity=Severity(score=77)))
    found = canonical(again(name, item).filing)
    wanted = canonical(as_filing(item))
    for field in wanted["body"]:
        assert found["body"][field] == wanted["body"][field], field
    assert found == wanted


@pytest.mark.parametrize("name", PAIRS)
def test_withheld_is_absent_and_said(name: str) -> None:
    """A unit that is not shown is nowhere in the document; the document names it, and reading tells of it."""
    parts = {field: value for field, value in FULL.items() if field not in ("victim", "contacts", "title")}
    item = shown(report(body=body_from(parts)), ["victim", "contacts", "title"], 3)
    data = PAIRS[name][1]([item]).decode()
    assert "canary-victim" not in data
    assert "withheld: contacts, title, victim" in data
    assert "not disclosed to this node: 3 parts" in data
    found = again(name, item)
    said = {path.rpartition(".")[2]: value for path, value in found.unmapped.items()}
    assert said["withheld"] == ["contacts", "title", "victim"]
    assert said["undisclosed"] == 3


@pytest.mark.parametrize("name", PAIRS)
def test_coarse_stands_in_its_place(name: str) -> None:
    """Coarse values are shown where the exact ones would stand, and named as coarse."""
    exact = body_from({**FULL, "victim": {"name": "canary-victim", "sector": "health"}})
    coarse = {key: value for key, value in msgspec.to_builtins(coarse_body(exact)).items() if value is not None}
    wide = msgspec.to_builtins(Indicator(type="ipv4-net", value="203.0.113.0/24", level="coarse"))
    plain = msgspec.to_builtins(report().header)
    item = Shown(plain, {**coarse, "indicators": [wide]}, ["victim", "times"], 0, NOW, own=False)
    found = again(name, item)
    body = found.filing["body"]
    assert body["title"] == coarse["title_coarse"]
    assert body["geo"] == {"country": "id"}
    assert body["indicators"] == [{"type": "ipv4-net", "value": "203.0.113.0/24"}]
    said = {path.rpartition(".value.")[2].rpartition("kentongan.")[2]: value for path, value in found.unmapped.items()}
    assert said["coarse"] == ["description", "entity_counts", "geo", "indicators", "times", "title", "victim"]
    assert said["stand_ins"]["victim_coarse"] == {"sector": "health"}
    convert(found.filing, Filing)


@pytest.mark.parametrize("name", PAIRS)
def test_withdrawn_says_so_and_nothing_else(name: str) -> None:
    """Of a withdrawn report nothing is written but which one it is, whatever is still here."""
    item = shown(report(body=body_from(FULL), phase="withdrawn", severity=Severity(score=77)))
    data = PAIRS[name][1]([item]).decode()
    assert "canary" not in data
    assert "system-compromise" not in data
    assert "impact_score" not in data
    assert "withdrawn" in data
    found = again(name, item)
    found.filing.pop("purpose", None)
    assert found.filing == {
        "marking": {"tlp": "AMBER"},
        "rsit": [{"class": "other", "type": "undetermined"}],
        "phase": "withdrawn",
    }


@pytest.mark.parametrize("name", PAIRS)
def test_red_keeps_its_recipients(name: str) -> None:
    """Named recipients come back, and a default that names others does not change them."""
    item = shown(report(marking=Marking(tlp="RED", recipients=["sg", "my"])))
    (found,) = PAIRS[name][0](PAIRS[name][1]([item]), Defaults({"tlp": "CLEAR", "recipients": ["ph"]}))
    assert isinstance(found, Foreign)
    assert found.filing["marking"] == {"tlp": "RED", "recipients": ["sg", "my"]}


@pytest.mark.parametrize("name", PAIRS)
def test_drills_stay_drills(name: str) -> None:
    """An exercise comes back as the same exercise, and is visible to who does not know the block."""
    item = shown(report(exercise=Exercise(exercise_id="kentongan-1", inject_id="7")))
    assert again(name, item).filing["exercise"] == {"exercise_id": "kentongan-1", "inject_id": "7"}
    document = json.loads(PAIRS[name][1]([item]))
    if name == "OCSF":
        assert document[0]["verdict_id"] == 6
    else:
        assert document["Incident"][0]["ext-purpose"] == "exercise"


@pytest.mark.parametrize("name", PAIRS)
def test_a_block_cannot_loosen_or_forge(name: str) -> None:
    """A label that is stricter than the block wins; what is no field of a filing, or not valid, is not taken."""
    read, write = PAIRS[name]
    forged = {
        "header": {"marking": {"tlp": "CLEAR"}, "report_id": "x", "incident_id": "x", "revision": 9, "phase": "huh"},
        "body": {"status": "huh", "nothing": 1},
    }
    document = json.loads(write([shown(report())]))
    if name == "OCSF":
        document[0]["unmapped"]["kentongan"] |= forged
    else:
        data = document["Incident"][0]["AdditionalData"][0]
        data["value"] = json.dumps(json.loads(data["value"]) | forged)
    (found,) = read(json.dumps(document).encode(), Defaults())
    assert isinstance(found, Foreign)
    assert found.filing["marking"] == {"tlp": "AMBER"}
    assert set(found.filing) == {"marking", "rsit", "body", "phase" if name == "OCSF" else "purpose"}
    assert found.filing["body"]["status"] == "open"
    convert(found.filing, Filing)
    rest = json.dumps(found.unmapped)
    assert all(word in rest for word in ("report_id", "revision", "huh", "nothing"))


@pytest.mark.parametrize("name", PAIRS)
def test_several(name: str) -> None:
    """Reports stand in their order; none at all is an empty list."""
    read, write = PAIRS[name]
    data = write([shown(report(number)) for number in (3, 1, 2)])
    titles = [found.filing["body"]["title"] for found in read(data, Defaults()) if isinstance(found, Foreign)]
    assert titles == ["Report 3", "Report 1", "Report 2"]
