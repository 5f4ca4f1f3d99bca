"""The documents against the program: links, commands, tables and names are those of the code."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import broker.app
import broker.auditing
import broker.metrics
import broker.sequencer
import broker.tables
import node.metrics
import node.tables
from deploy.cli import _parser
from node.outbox import Outbox
from protocol import limits, published, registry, statements
from protocol.door import status_of
from protocol.keys import b64
from protocol.reasons import Reason
from protocol.report import COARSE_UNITS, HEADER_UNIT, UNIT_NAMES, UNITS, unit_of
from protocol.subjects import Kind

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
PROTOCOL = TEXTS["docs/protocol.md"]
OPERATE = TEXTS["docs/operate.md"]
ARCHITECTURE = TEXTS["docs/architecture.md"]

Row = list[str]


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, title
    level = len(found[1])
    rest = text[found.start(2) :]
    end = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str, head: str) -> list[Row]:
    """The cells of the table whose first line is `head`, without their backquotes."""
    lines = text[text.index(head) :].splitlines()
    table = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


def plain(cell: str) -> str:
    return cell.strip().strip("`")


def blocks(text: str, *languages: str) -> Iterator[str]:
    """Fenced blocks of these languages."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if found[1] in languages:
            yield found[2]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchor(title: str) -> str:
    """As the usual renderers name a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


# --- links and files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link names a file that is there, and a heading of it."""
    text = without_blocks(TEXTS[name])
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        place = (ROOT / name).parent / path if path else ROOT / name
        assert place.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {anchor(title) for title in titles}, target


@pytest.mark.parametrize("name", TEXTS)
def test_files_and_functions_exist(name: str) -> None:
    """A source file named in backquotes exists, and so do the functions named after it."""
    found = re.findall(r"`((?:protocol|node|broker|deploy|tests)/[\w/.-]+)`((?:,? `[\w.]+\(\)`)*)", TEXTS[name])
    for path, functions in found:
        assert (ROOT / path).exists(), path
        for function in re.findall(r"`([\w.]+)\(\)`", functions):
            source = (ROOT / path).read_text(encoding="utf-8")
            for part in function.split("."):
                assert re.search(rf"^\s*(?:async )?(?:def|class) {part}\b", source, re.MULTILINE), (path, function)


@pytest.mark.parametrize("name", TEXTS)
def test_tests_that_are_called_on_exist(name: str) -> None:
    """A document that names a test as its witness names one that there is."""
    for path, function in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXTS[name]):
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:async )?def {function}\(", source, re.MULTILINE), (path, function)


# --- commands ---------------------------------------------------------------------------------------------------


def parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The sub-commands of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def check_mention(words: list[str]) -> None:
    """A command as it is mentioned in a sentence: its sub-commands and options exist."""
    parser = _parser()
    for word in words:
        known = parsers(parser)
        if known and word in known:
            parser = known[word]
        elif word.startswith("--"):
            assert word.partition("=")[0] in parser._option_string_actions, words
        else:
            assert not known or word in ("…", "...") or (word.isupper() and takes_more_than_commands(parser)), words


def takes_more_than_commands(parser: argparse.ArgumentParser) -> bool:
    """Whether an argument goes before the sub-commands."""
    plain = [action for action in parser._actions if not action.option_strings]
    return any(not isinstance(action, argparse._SubParsersAction) for action in plain)


@pytest.mark.parametrize("name", TEXTS)
def test_mentioned_commands_exist(name: str) -> None:
    """Every `kentongan …` in a sentence, and every option named in backquotes beside it."""
    text = without_blocks(TEXTS[name])
    for mention in re.findall(r"`kentongan ([^`]*)`", text):
        check_mention(mention.split())
    options = {option for parser in all_parsers(_parser()) for option in parser._option_string_actions}
    assert set(re.findall(r"`(--[a-z-]+)`", text)) <= options


def all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for child in parsers(parser).values():
        yield from all_parsers(child)


def commands(name: str) -> list[str]:
    return [
        line.strip()
        for block in blocks(TEXTS[name], "sh", "console")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip().startswith("kentongan ")
    ]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_to_copy_parse(name: str) -> None:
    """Every command line in a block is one that the program takes."""
    for line in commands(name):
        with redirect_stderr(StringIO()) as said:
            try:
                plain_line = re.sub(r" >>? \S+$", "", line.removesuffix("&"))
                _parser().parse_args(shlex.split(plain_line, comments=True)[1:])
            except SystemExit:
                pytest.fail(f"{line}: {said.getvalue()}")


def test_the_readme_shows_every_command() -> None:
    """From an empty directory to a running region."""
    shown = {" ".join(shlex.split(line)[1:3]) for line in commands("README.md")}
    region = {"broker init", "node init", "broker admit", "node join", "broker run", "node run"}
    assert region | {"policy explain"} <= shown


def test_the_guide_shows_every_policy_tool() -> None:
    """Each of them is mentioned."""
    named = set(re.findall(r"kentongan policy ([a-z]+)", OPERATE))
    assert named == set(parsers(parsers(_parser())["policy"]))


@pytest.mark.parametrize("name", TEXTS)
def test_make_targets_exist(name: str) -> None:
    """Every `make …` in the documents."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = TEXTS[name]
    named = set(re.findall(r"`make ([a-z]+)", text)) | set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE))
    assert named <= targets


# --- the protocol -----------------------------------------------------------------------------------------------


def test_the_table_of_reasons_is_complete() -> None:
    """Each code once, in the order of the code, with a meaning and a reader."""
    table = rows(PROTOCOL, "| code | meaning | who sees it |")
    assert [plain(row[0]) for row in table] == [reason.value for reason in Reason]
    assert all(len(row) == 3 and row[1] and row[2] for row in table)
    readers = {"client", "origin", "recipient", "operator"}
    assert all(set(row[2].split(", ")) <= readers for row in table)


def test_the_table_of_limits_is_complete() -> None:
    """Each limit with its value in bytes, seconds or pieces."""
    table = {plain(row[0]): int(row[1]) for row in rows(PROTOCOL, "| limit | value | caps |")}
    values = {name: getattr(limits, name) for name in vars(limits) if name.isupper()}
    assert table == {
        name: int(value.total_seconds()) if isinstance(value, timedelta) else value for name, value in values.items()
    }


def test_the_table_of_units_is_complete() -> None:
    """Bit, name, class, whether elements stand alone, whether there is a coarse value."""
    table = [
        (int(bit), plain(name), data, each == "yes", coarse.startswith("yes"))
        for bit, name, data, each, coarse in rows(PROTOCOL, "| bit | unit | class | each | coarse |")
    ]
    assert table == [
        (
            bit,
            name,
            "-" if name == HEADER_UNIT else unit_of(name).data,
            name != HEADER_UNIT and UNITS[name.partition(".")[0]].each,
            bool(COARSE_UNITS >> bit & 1),
        )
        for bit, name in enumerate(UNIT_NAMES)
    ]


def test_the_table_of_statuses() -> None:
    """What the node answers for each reason."""
    table = {
        reason: int(row[0])
        for row in rows(PROTOCOL, "| status | reasons |")
        for reason in re.findall(r"`([a-z-]+)`", row[1])
    }
    assert {reason.value: status_of(reason) for reason in Reason} == {
        reason.value: table.get(reason.value, 422) for reason in Reason
    }


def test_the_kinds_of_messages() -> None:
    """All of them."""
    assert {plain(row[0]) for row in rows(PROTOCOL, "| kind | body |")} == {kind.value for kind in Kind}


def test_the_statements() -> None:
    """All that is signed beside envelopes, under the types that are checked."""
    found = {getattr(kind, "typ", None) for kind in vars(statements).values() if isinstance(kind, type)} - {None, ""}
    table = {plain(row[1]) for row in rows(PROTOCOL, "| statement | `typ` | from | to | sent as |")}
    assert table == found | {registry.TYP, published.TYP}


def test_the_requests_on_the_bus() -> None:
    """Every method that the broker answers."""
    methods = {value for name, value in vars(broker.app).items() if name.endswith("_METHOD")}
    head = "| method | request | answer |"
    assert {plain(row[0]) for row in rows(section(PROTOCOL, "9. Bus"), head)} == methods | broker.auditing.METHODS
    assert {plain(row[0]) for row in rows(section(PROTOCOL, "The log"), head)} == broker.sequencer.METHODS


def test_the_addresses_are_those_of_the_doors() -> None:
    """Every route of the node is in the table, and every route of the broker is named."""

    def routes(path: str) -> set[str]:
        source = (ROOT / path).read_text(encoding="utf-8")
        return {f"{method.upper()} {address}" for method, address in re.findall(r'web\.(get|post)\("([^"]+)"', source)}

    named = {plain(row[0]) for row in rows(PROTOCOL, "| method and path | answer |")}
    assert named == routes("node/api/server.py") | routes("node/api/taxii.py")
    http = section(PROTOCOL, "10. HTTP")
    assert routes("broker/api.py") <= set(re.findall(r"`(GET [^`]+)`", http))


def test_the_events_are_those_of_the_feed() -> None:
    """Each kind of event that the node writes, and no other."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "node").glob("*.py"))
    written = set(re.findall(r'\.event\(\s*"([a-z.]+)"', source))
    sentence = PROTOCOL[PROTOCOL.index("**Feed events**") :].partition(" They hold")[0]
    assert set(re.findall(r"`([a-z.]+)`", sentence)) == written


def test_the_example_is_in_the_vectors() -> None:
    """Every line of it, byte for byte."""
    vectors = (ROOT / "tests" / "vectors" / "protocol-1.json").read_text(encoding="utf-8")
    lines = [line for block in blocks(PROTOCOL, "vector") for line in block.splitlines()]
    assert len(lines) >= 8
    for line in lines:
        assert b64(line.encode()) in vectors, line


# --- running ----------------------------------------------------------------------------------------------------


def families(registry: CollectorRegistry) -> set[str]:
    """Names as a scrape shows them."""
    return {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in registry.collect()}


def test_the_metrics_are_those_of_the_program() -> None:
    """All of them, under the names of a scrape."""
    box = Outbox(lambda count: b"\0" * count)
    shown = node.metrics.Metrics(outbox=box, words=box, link=lambda: True, now=lambda: datetime.now(UTC))
    known = families(shown.registry) | families(broker.metrics.Metrics().registry)
    table = {plain(row[0]) for row in rows(OPERATE, "| metric | watch for |")}
    assert table == known
    for text in TEXTS.values():
        assert set(re.findall(r"`(kentongan_\w+)`", text)) <= known


def test_the_log_events_exist() -> None:
    """Every event named in the guide is logged somewhere."""
    source = "".join(
        path.read_text(encoding="utf-8")
        for name in ("protocol", "node", "broker", "deploy")
        for path in (ROOT / name).rglob("*.py")
    )
    logged = set(re.findall(r'(?:\.(?:info|warning|error|critical)|\btell)\(\s*"([a-z_.]+)"', source))
    table = rows(OPERATE, "| event | meaning |")
    assert {event for row in table for event in re.findall(r"`([a-z_.]+)`", row[0])} <= logged


@pytest.mark.parametrize(
    ("title", "meta"),
    [
        ("Node: `data/node.db`", node.tables.metadata),
        ("Broker: `data/ledger.db`", broker.tables.metadata),
    ],
)
def test_every_table_is_explained(title: str, meta: Any) -> None:
    """Secret, trusted, and what it means if it is lost."""
    table = rows(section(ARCHITECTURE, title), "| table | holds | secret? | trusted? | if lost |")
    assert {plain(row[0]) for row in table} == set(meta.tables)
    assert all(len(row) == 5 and all(row) for row in table)


def test_the_readme_is_short() -> None:
    """One can read it in a few minutes."""
    assert len(TEXTS["README.md"].splitlines()) <= 160
