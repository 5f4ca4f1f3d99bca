"""`kentongan broker audit`: who got what, when, under which rule; and an answer that the log contradicts says so."""

from __future__ import annotations

import csv
import io
import shutil
import sqlite3
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker import cli
from broker.audit import Event, Line, Question, audit
from broker.auditformat import COLUMNS, as_csv, as_table
from broker.reading import open_reader
from broker.store import Store
from deploy.cli import main
from protocol.sheets import as_json, harmless
from tests.eventful import Eventful, eventful
from tests.federation import START


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Eventful:
    """A ledger in which everything has happened."""
    return eventful(tmp_path_factory.mktemp("good"))


def ask(good: Eventful, directory: Path | None = None, **question: Any) -> list[Line]:
    """All answers."""
    store = Store(open_reader(f"sqlite:///{(directory or good.directory) / 'ledger.db'}"))
    try:
        return list(audit(store, good.registry, Question(**question)))
    finally:
        store.close()


def about(good: Eventful, name: str, member: str) -> Line:
    """The one answer about a report and a member."""
    (line,) = ask(good, report=UUID(good.ids[name]), revision=1, member=member)
    return line


def test_who_received_a_report(good: Eventful) -> None:
    """Per member: units by name, rules, what was withheld by which rule, delivery, states with times; all proven.

    Singapore refused it: a report of its own had taken this id.
    """
    lines = ask(good, report=UUID(good.ids["plain"]))
    assert [(line.member, line.granted, line.state, line.log) for line in lines] == [
        ("asean-rcert", True, "shown", "proven"),
        ("jp", True, "read", "proven"),
        ("sg", True, "refused", "proven"),
    ]
    sg = lines[2]
    assert (sg.exact, sg.coarse) == (["report", "title", "description", "indicators.address"], [])
    assert [(item.gate, item.document, item.rule) for item in sg.released_by] == [
        ("export", "id/1", "all"),
        ("import", "sg/1", "take"),
    ]
    assert [(item.unit, item.document, item.rule, item.reason) for item in sg.withheld] == [
        ("victim", "id/1", "no-victims", "denied-by-rule")
    ]
    assert [event.state for event in lines[1].events] == ["queued", "sent", "received", "read"]
    assert all(len(event.statement) == 43 for event in lines[1].events[2:])
    assert [event.at for event in lines[1].events] == sorted(event.at for event in lines[1].events)
    assert lines[1].delivery is not None


def test_what_became_of_a_report_that_nobody_has(good: Eventful) -> None:
    """Stopped by a changed policy: when, and under which reason; denied: by which gate."""
    assert about(good, "stopped", "jp").state == "stopped"
    assert [event.state for event in about(good, "stopped", "jp").events] == ["queued", "sent", "stopped"]
    denied = about(good, "red", "sg")
    assert (denied.granted, denied.state, denied.exact, denied.delivery) == (False, "denied", [], None)
    assert [(item.gate, item.reason) for item in denied.withheld] == [("marking", "not-a-named-recipient")]


def test_revisions(good: Eventful) -> None:
    """All of them, or the one that is asked for."""
    report = UUID(good.ids["withdrawn"])
    assert {line.revision for line in ask(good, report=report)} == {1, 2}
    assert {line.phase for line in ask(good, report=report, revision=2)} == {"withdrawn"}


def test_everything_that_a_member_received(good: Eventful) -> None:
    """In the order of decision; without what it was denied, unless that is asked for."""
    lines = ask(good, member="sg")
    assert all(line.granted and line.member == "sg" for line in lines)
    assert [line.decided_at for line in lines] == sorted(line.decided_at for line in lines)
    assert good.ids["red"] not in {line.report_id for line in lines}
    assert {line.report_id for line in ask(good, member="sg", denied=True)} == {
        good.ids[name] for name in ("plain", "red", "withdrawn", "stopped")
    }


def test_by_origin_and_rule_and_all_at_once(good: Eventful) -> None:
    """What is given must all hold."""
    assert {line.origin for line in ask(good, origin="jp")} == {"jp"}
    by_rule = ask(good, rule=("id/1", "no-victims"))
    assert {(line.origin, line.member) for line in by_rule} == {("id", "sg")}
    released = ask(good, rule=("sg/1", "take"))
    assert {line.member for line in released} == {"sg"}
    both = ask(good, rule=("sg/1", "take"), origin="jp", member="sg")
    assert [line.report_id for line in both] == [good.ids["linked"]]
    assert ask(good, origin="jp", denied=True) == []


def test_by_time(good: Eventful) -> None:
    """From then on, and before then."""
    lines = ask(good)
    middle = lines[-1].decided_at
    before, after = ask(good, until=middle), ask(good, since=middle)
    assert before + after == lines
    assert before
    assert after
    assert ask(good, since=good.now) == []


MISMATCHES = {
    "an entry is another": "UPDATE submissions SET entry = randomblob(32) WHERE id = 6",
    "a receipt is gone": "UPDATE submissions SET receipt = x'' WHERE id = 6",
    "a receipt of another": (
        "UPDATE submissions SET receipt = (SELECT receipt FROM submissions WHERE id = 7) WHERE id = 6"
    ),
    "the log holds another": (
        "UPDATE log_tiles SET data = CAST(substr(data, 1, 32) || randomblob(32) || substr(data, 65) AS BLOB)"
    ),
    "the log holds less": "UPDATE log_tiles SET data = substr(data, 1, 32)",
    "the checkpoint is another": "UPDATE checkpoints SET note = substr(note, 2)",
    "the row grants less": "UPDATE reports SET grants = x'80' WHERE seq = 1",
    "the row cannot be read": "UPDATE reports SET grants = x'c1' WHERE seq = 1",
    "more was sent": "UPDATE deliveries SET items = x'9193 01 cf00ffffffffffffff 00' WHERE member = 'sg' AND id < 3",
}


@pytest.mark.parametrize("sql", MISMATCHES.values(), ids=MISMATCHES)
def test_an_answer_that_the_log_contradicts_says_so(good: Eventful, tmp_path: Path, sql: str) -> None:
    """Whatever was changed: the answer about Singapore's copy is not one to rely on, and says why."""
    shutil.copy(good.directory / "ledger.db", tmp_path / "ledger.db")
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute(sql.replace(" 01 cf", "01cf").replace("ff 00'", "ff00'")).rowcount
    connection.close()
    lines = ask(good, tmp_path, report=UUID(good.ids["plain"]))
    wrong = [line for line in lines if line.log == "MISMATCH"]
    assert wrong
    assert all(line.fault for line in wrong)


def test_what_is_not_sequenced_yet_is_no_mismatch(good: Eventful, tmp_path: Path) -> None:
    """The log may be behind."""
    shutil.copy(good.directory / "ledger.db", tmp_path / "ledger.db")
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        for table in ("log_tiles", "checkpoints", "cosignatures"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608
    connection.close()
    assert {line.log for line in ask(good, tmp_path)} == {"not-sequenced"}


# --- formats ----------------------------------------------------------------------------------------------------


def test_csv(good: Eventful) -> None:
    """RFC 4180: a header, the same columns in each line, line ends of two characters."""
    lines = ask(good)
    text = "".join(as_csv(lines))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(lines)
    assert text.count("\r\n") == len(lines) + 1
    assert {row["log"] for row in rows} == {"proven"}
    assert rows[0]["decided_at"].endswith("Z")


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_spreadsheet_executes_a_cell(cell: str) -> None:
    """Member ids and rules are chosen by others: what begins like a formula gets an apostrophe."""
    assert harmless(cell) == f"'{cell}"
    line = Line(
        report_id="x", revision=1, phase="x", digest="x", origin=cell, decided_at=START, member=cell, granted=True
    )
    (row,) = csv.DictReader(io.StringIO("".join(as_csv([line])), newline=""))
    assert row["origin"] == row["member"] == f"'{cell}"
    assert harmless("id/1") == "id/1"


def test_json_and_table(good: Eventful) -> None:
    """A JSON object a line, which reads back; a table names units, rules and states."""
    lines = ask(good)
    assert [msgspec.json.decode(text, type=Line) for text in as_json(lines)] == lines
    table = "".join(as_table(lines))
    assert "id -> jp  granted  read  leaf 5 proven" in table
    assert "withheld: victim: export id/1/no-victims denied-by-rule" in table


def test_nothing_holds_content(good: Eventful) -> None:
    """Not a word of any report, in any format."""
    lines = ask(good)
    for form in (as_csv, as_json, as_table):
        text = "".join(form(lines))
        assert "CANARY" not in text
        assert "8.8.4.4" not in text


def test_it_streams() -> None:
    """No format collects its answers: memory stays flat over any number of them."""

    def many() -> Iterator[Line]:
        for number in range(20_000):
            yield Line(
                report_id=str(number), revision=1, phase="x", digest="x" * 43, origin="id", decided_at=START,
                member="jp", granted=True, events=[Event("queued", START)],
            )  # fmt: skip

    for form in (as_csv, as_json, as_table):
        tracemalloc.start()
        for _ in form(many()):
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1_000_000


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A broker's directory that has a ledger."""
    assert main(["broker", "init", str(tmp_path / "b"), "--region", "test"], log=False) == 0
    from broker.store import open_engine  # noqa: PLC0415

    open_engine(f"sqlite:///{tmp_path / 'b' / 'data' / 'ledger.db'}").dispose()
    return tmp_path / "b"


def test_the_command(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers go to a new file; that there are none is said, and is no fault."""
    out = tmp_path / "out.csv"
    capsys.readouterr()
    arguments = ["broker", "audit", str(place), "--month", "2026-03", "--format", "csv", "--out", str(out)]
    assert main(arguments, log=False) == 0
    assert out.read_bytes() == ",".join(COLUMNS).encode() + b"\r\n"
    assert "nothing in the ledger" in capsys.readouterr().err
    assert main(arguments, log=False) == 2, "a file is never overwritten"
    assert main(["broker", "check", str(place)], log=False) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--month", "march"],
        ["--month", "2026-03", "--from", "2026-03-01"],
        ["--from", "yesterday"],
        ["--revision", "2"],
        ["--rule", "no-victims"],
        ["--out", "/no/such/directory/x.csv"],
    ],
)
def test_bad_questions_get_one_line(place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Exit code 2 and what to change, never a traceback."""
    capsys.readouterr()
    assert main(["broker", "audit", str(place), *arguments], log=False) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_mismatch_ends_with_1(
    good: Eventful, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line on standard error says how many answers contradict the log."""
    shutil.copy(good.directory / "ledger.db", tmp_path / "ledger.db")
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE submissions SET entry = randomblob(32) WHERE id = 6")
    connection.close()
    (tmp_path / "broker.toml").write_text('data = "."\nkeys = "."\nregion = "."\n')
    monkeypatch.setattr(cli, "_registry", lambda _: good.registry)
    assert main(["broker", "audit", str(tmp_path), "--report", good.ids["plain"]], log=False) == 1
    assert "3 answers contradict the log" in capsys.readouterr().err.splitlines()[-1]


def test_days_and_months() -> None:
    """A day ends where the next one begins, a month too; without a zone it is UTC."""
    parse = cli._moment
    assert parse("2026-03-31", "--to", end=True) == datetime(2026, 4, 1, tzinfo=UTC)
    assert parse("2026-03-31", "--from") == datetime(2026, 3, 31, tzinfo=UTC)
    assert parse("2026-03-31T10:00:00+09:00", "--to", end=True) - START < timedelta(days=31)
