"""What a source says again, otherwise, takes back and says late: which revision that is, and whose word counts."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from node.answers import Answer
from node.core import NodeCore
from node.foreign import Reading, _stated_at, read_foreign
from node.formats.foreign import Defaults
from node.formats.registry import FORMATS
from node.intake import Posting
from protocol.access import Client
from tests.node.asking import ask, make
from tests.node.conftest import Running
from tests.node.test_foreign import send
from tests.node.test_review import MACHINE
from tests.node.world import START, filing

Rows = list[tuple[str, int]]
_INCIDENT = "incident--0f4a4e2c-3a53-4d06-8f6d-0d1f0b9e8a11"


def table(*rows: tuple[str, str], modified: str = "") -> bytes:
    """Rows of name and title."""
    text = io.StringIO()
    out = csv.writer(text)
    out.writerow(["source_id", "tlp", "title", *(["modified"] if modified else [])])
    out.writerows([name, "GREEN", title, *([modified] if modified else [])] for name, title in rows)
    return text.getvalue().encode()


def bundle(name: str, modified: str) -> bytes:
    incident = {"type": "incident", "spec_version": "2.1", "id": _INCIDENT, "name": name}
    times = {"created": "2026-05-01T00:00:00Z", "modified": modified}
    return json.dumps({"type": "bundle", "id": f"bundle--{_INCIDENT[10:]}", "objects": [incident | times]}).encode()


async def post(node: Running, body: bytes, token: str = "", media: str = "text/csv", **headers: str) -> list[Any]:
    """What became of each item: its revision, or the reason."""
    head = {**({"Authorization": f"Bearer {token}"} if token else {}), **headers}
    status, answer, _ = await send(node, body, "?tlp=GREEN", media, **head)
    assert status in (202, 422), answer
    return [row.get("revision", row.get("reason")) for row in answer["results"]]


async def titles(node: Running) -> list[str]:
    """Of all revisions of the only report."""
    (report,) = {row["report_id"] for row in (await node.get("/v1/reports"))["reports"]}
    shown = (await node.get(f"/v1/reports/{report}"))["revisions"]
    return [one["report"].get("body", {}).get("title", "") for one in shown]


async def test_a_source_may_come_back_to_what_it_said(node: Running) -> None:
    """Each change is a revision, each repetition of the last word none; by its key also a late repetition is one."""
    first = await post(node, table(("x", "A")), Idempotency_Key="first")
    key = {"Idempotency-Key": "one"}
    assert await post(node, table(("y", "A")), **key) == first == [1]
    assert await post(node, table(("x", "B"))) == [2]
    for _ in range(2):
        assert await post(node, table(("x", "A"))) == [3]
    for _ in range(2):
        assert await post(node, table(("x", "B"))) == [4]
    assert await post(node, table(("y", "B"))) == [2]
    assert await post(node, table(("y", "A")), **key) == [1], "the key says that it is late"
    assert await post(node, table(("y", "B"))) == [2], "and nothing was changed by it"


async def test_what_people_file_is_not_undone_by_a_repetition(node: Running) -> None:
    """A tool that says the same each hour reverts no edit, and brings nothing back that was withdrawn."""
    await post(node, table(("x", "A")))
    (row,) = (await node.get("/v1/reports"))["reports"]
    edit = filing("Edited", report_id=row["report_id"], revision=2, phase="intermediate")
    assert (await node.post(edit))[0] == 202
    assert await post(node, table(("x", "A"))) == [1]
    assert (await node.post(filing("", report_id=row["report_id"], revision=3, phase="withdrawn", body={})))[0] == 202
    assert await post(node, table(("x", "A"))) == [1]
    assert await titles(node) == ["A", "Edited", ""]
    assert await post(node, table(("x", "B"))) == [4]


async def test_two_tools_that_say_different_things_do_not_take_turns(node: Running) -> None:
    """Each is held to its own last word."""
    one, two = await make(node, "one", "submit"), await make(node, "two", "submit")
    assert await post(node, table(("x", "A")), one) == [1]
    assert await post(node, table(("x", "B")), two) == [2]
    for _ in range(2):
        assert await post(node, table(("x", "A")), one) == [1]
        assert await post(node, table(("x", "B")), two) == [2]
    assert await post(node, table(("x", "C")), one) == [3]
    assert await post(node, table(("x", "A")), one) == [4]
    assert await post(node, table(("x", "A")), two) == [4]
    assert await post(node, table(("x", "B")), two) == [5]


async def test_a_history_in_one_document_is_one(node: Running) -> None:
    """Posted again it changes nothing: what it says last is what the source says."""
    history = table(("x", "A"), ("x", "B"))
    assert await post(node, history) == [1, 2]
    assert await post(node, history) == [1, 2]
    back = table(("x", "B"), ("x", "A"))
    assert await post(node, back) == [2, 3]
    assert await post(node, back) == [2, 3]
    assert await titles(node) == ["A", "B", "A"]


async def test_a_source_with_times_is_not_set_back(node: Running) -> None:
    """Late and never seen: refused, with a reason. Late and known: the revision that it was. Newer: the next."""
    stix = "application/stix+json"
    assert await post(node, bundle("A", "2026-05-02T00:00:00Z"), media=stix) == [1]
    assert await post(node, bundle("B", "2026-05-03T00:00:00Z"), media=stix) == [2]
    assert await post(node, bundle("C", "2026-05-02T12:00:00Z"), media=stix) == ["outdated"]
    assert await post(node, bundle("A", "2026-05-02T00:00:00Z"), media=stix) == [1]
    assert await post(node, bundle("C", "2026-05-02T12:00:00Z"), media=stix) == ["outdated"]
    assert await post(node, bundle("B", "2026-05-03T00:00:00Z"), media=stix) == [2]
    assert await post(node, bundle("A", "2026-05-04T00:00:00Z"), media=stix) == [3]
    assert await titles(node) == ["A", "B", "A"]


async def test_a_table_may_say_when(node: Running) -> None:
    """In a column `modified`; what is no time there puts nothing in order, and takes nothing back of what was said."""
    assert await post(node, table(("x", "A"), modified="2026-05-01T00:00:00Z")) == [1]
    assert await post(node, table(("x", "A"), modified="2026-05-03T00:00:00Z")) == [2]
    assert await post(node, table(("x", "B"), modified="2026-05-02T00:00:00Z")) == ["outdated"]
    assert await post(node, table(("x", "B"), modified="no time at all")) == [3]
    assert await post(node, table(("x", "C"), modified="2026-05-02T00:00:00Z")) == ["outdated"]


async def test_a_change_back_waits_for_a_person_like_any_other(node: Running) -> None:
    """The queue does not take it for the entry that was released; said twice it is one; refused stays refused."""
    token = await make(node, "bot", "submit", made_by=MACHINE, require_release=True)
    ana = await make(node, "ana", "release")

    async def held(title: str) -> int:
        _, answer, _ = await send(
            node, table(("x", title)), "", "text/csv", Authorization=f"Bearer {token}"
        )  # fmt: skip
        return int(answer["results"][0]["review"])

    async def release(number: int) -> Any:
        status, found, _ = await ask(node, ana, "POST", f"/v1/review/{number}/release")
        return found["revision"] if status == 200 else found["reason"]

    assert [await held("A"), await release(1), await held("B"), await release(2)] == [1, 1, 2, 2]
    assert [await held("B"), await held("A"), await held("A")] == [2, 3, 3]
    assert await release(3) == 3
    assert await held("B") == 4
    await ask(node, ana, "POST", "/v1/review/4/refuse", {"why": "no"})
    assert await held("B") == 4
    assert [await held("C"), await held("C")] == [5, 5]
    await ask(node, ana, "POST", "/v1/review/5/refuse", {"why": "no"})
    assert await held("C") == 5
    assert await titles(node) == ["A", "B", "A"]


async def test_a_filing_that_was_held_keeps_its_time(node: Running) -> None:
    """Released after something newer, it is outdated."""
    token = await make(node, "bot", "submit", made_by=MACHINE, require_release=True)
    ana = await make(node, "ana", "release")
    head = {"Authorization": f"Bearer {token}"}
    await send(node, bundle("A", "2026-05-02T00:00:00Z"), "?tlp=GREEN", "application/stix+json", **head)
    assert await post(node, bundle("B", "2026-05-03T00:00:00Z"), media="application/stix+json") == [1]
    status, problem, _ = await ask(node, ana, "POST", "/v1/review/1/release")
    assert (status, problem["reason"]) == (409, "outdated")


@pytest.mark.usefixtures("each_database")
def test_within_one_batch(core: NodeCore) -> None:
    """Posts that are committed together are told apart as those that are not."""

    def posting(title: str, at: str) -> Posting:
        reading = Reading(FORMATS["csv"], "text/csv", "id-cert", Defaults(), frozenset({"id"}), START)
        items, places = read_foreign(table(("x", title), modified=at), reading, ndjson=False)
        return Posting(items, True, Client("tool"), places=places)

    def revisions(*postings: Posting) -> list[Any]:
        replies = [json.loads(reply.body) for reply in core.file(list(postings)) if isinstance(reply, Answer)]
        return [row.get("revision", row.get("reason")) for reply in replies for row in reply["results"]]

    first, second, third = posting("A", "none"), posting("B", "none"), posting("A", "2026-05-02T00:00:00Z")
    late = posting("B", "2026-05-01T00:00:00Z")
    assert revisions(first, second, first, first, second) == [1, 2, 3, 3, 4]
    assert revisions(third, late, second) == [5, "outdated", 6]
    assert revisions(late, third, second) == ["outdated", 7, 8]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("2026-05-01T00:00:00Z", 1777593600),
        ("2026-05-01T02:00:00.000+02:00", 1777593600),
        ("1777593600", 1777593600),
        (1777593600000, 1777593600),
        ("2026-05-01T00:00:00", None),
        ("9999-12-31T00:00:00Z", None),
        ("99999999999999999999999", None),
        ([], None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_times_of_sources(text: Any, read: int | None) -> None:
    """As the formats have them; what is ahead of the clock would shut out all that follows."""
    assert _stated_at(text, START) == (None if read is None else read * 1_000_000)
