"""`kentongan report …` against a running node: what it prints, and what its exit codes say."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from deploy.cli import main
from deploy.reporting.cli import split
from deploy.reporting.template import TEMPLATE
from protocol.errors import ConfigError
from tests.node.conftest import Running
from tests.node.test_words import word_of
from tests.node.world import TOKEN, Broker, confirmed, filing, receipts


class Said:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


async def report(url: str, *arguments: str, stdin: bytes = b"", **environment: str) -> Said:
    """Run a command, with the token in the environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KENTONGAN_")}
    named = {**kept, "KENTONGAN_URL": url, "KENTONGAN_TOKEN": TOKEN, **environment}
    out, err = StringIO(), StringIO()
    with (
        patch.dict(os.environ, named, clear=True),
        patch.object(sys, "stdin", TextIOWrapper(BytesIO(stdin))),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        async with asyncio.timeout(30):
            code = await asyncio.to_thread(main, ["report", *arguments], log=False)
    return Said(code, out.getvalue(), err.getvalue())


async def test_file_and_status(node: Running, broker: Broker, tmp_path: Path) -> None:
    """From the template that it prints, with an option that outranks it; then until its recipients have it."""
    template = tmp_path / "report.toml"
    template.write_text((await report("", "file", "--template")).out)
    assert template.read_text() == TEMPLATE
    options = ["--title", "Mine", "--indicator", "domain-name=evil[.]example", "--tlp", "green"]
    filed = await report(node.node.url, "file", "--from", str(template), *options)
    assert filed.code == 0, filed.err
    assert "\taccepted\t" in filed.out
    own = (await node.get("/v1/reports"))["reports"][0]
    kept = (await node.get(f"/v1/reports/{own['report_id']}"))["revisions"][0]["report"]
    assert (kept["marking"]["tlp"], kept["body"]["title"], kept["severity"]["score"]) == ("GREEN", "Mine", 60)
    assert [one["type"] for one in kept["body"]["indicators"]] == ["ipv4-addr", "domain-name"]
    node.bus.inbox.append(receipts(broker.receipt(node.bus.sent[0].data)))
    for by in ("my-cert", "sg-cert"):
        node.bus.inbox.append(confirmed(word_of(broker, own["digest"], "received", by)))
    waited = await report(node.node.url, "status", own["report_id"], "--wait", "received", "--timeout", "20")
    assert waited.code == 0, waited.err
    assert "accepted" in waited.out
    assert "my-cert" in waited.out
    assert "received" in waited.out


async def test_post_tells_of_each_and_ends_by_the_outcome(node: Running, tmp_path: Path) -> None:
    """0, 1, 2 and 3; one report, an array, NDJSON, and from standard input."""
    good, mixed, lines = tmp_path / "one.json", tmp_path / "many.json", tmp_path / "lines.ndjson"
    good.write_text(json.dumps(filing("One"), indent=1))
    mixed.write_text(json.dumps([filing("Two"), {**filing("Three"), "nonsense": 1}]))
    lines.write_text("\n".join(json.dumps(filing(str(index))) for index in range(3)))
    unmarked = {name: value for name, value in filing("Five").items() if name != "marking"}
    fine = await report(node.node.url, "post", str(good), str(lines))
    some = await report(node.node.url, "post", str(mixed), "--json")
    piped = await report(node.node.url, "post", "-", "--tlp", "green", stdin=json.dumps(unmarked).encode())
    nobody = await report("http://127.0.0.1:1", "post", str(good), "--patience", "0")
    assert (fine.code, fine.out.count("accepted")) == (0, 4)
    assert some.code == 1
    results = [json.loads(line) for line in some.out.splitlines() if line[0] == "{"]
    assert [(one["status"], one["reason"], one["path"]) for one in results] == [
        (202, "", ""),
        (422, "unknown-field", "$.nonsense"),
    ]
    assert (piped.code, piped.out.split("\t")[1]) == (0, "accepted")
    assert nobody.code == 3
    assert "does not answer" in nobody.err


async def test_what_the_operator_must_change(node: Running, tmp_path: Path) -> None:
    """2, and one line that says what."""
    missing = await report(node.node.url, "status", "x", KENTONGAN_TOKEN="")
    wrong = await report(node.node.url, "status", "x", KENTONGAN_TOKEN="wrong")
    invalid = await report(node.node.url, "file", "--tlp", "PINK", "--class", "fraud")
    assert [one.code for one in (missing, wrong, invalid)] == [2, 2, 2]
    assert "KENTONGAN_TOKEN" in missing.err
    assert "token-invalid" in wrong.err
    assert "$.marking.tlp" in invalid.err


async def test_watch_goes_on_where_it_was(node: Running, tmp_path: Path) -> None:
    """With a file for the last event's id: the next one begins behind it."""
    for index in range(4):
        await node.post(filing(str(index)))
    state, token = tmp_path / "last", tmp_path / "token"
    token.write_text(TOKEN + "\n")
    state.write_text("0\n")
    where = ["--state", str(state), "--token-file", str(token), "--json"]
    first = await report(node.node.url, "watch", "--count", "2", *where, KENTONGAN_TOKEN="")
    assert (first.code, state.read_text()) == (0, "2\n"), first.err
    second = await report(node.node.url, "watch", "--count", "2", *where, KENTONGAN_TOKEN="")
    seen = [json.loads(line)["id"] for line in (first.out + second.out).splitlines() if line[0] == "{"]
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("body", "count"), [(b'{"a":1}', 1), (b'[{"a":1},{"b":2}]', 2), (b'{"a":1}\n\n{"b":2}\n', 2), (b"{a\n{b", 2)]
)
def test_files_are_taken_apart(body: bytes, count: int) -> None:
    """By what is in them, not by their names."""
    found: list[Any] = list(split(body))
    assert len(found) == count
    assert b"".join(found).replace(b",", b"") in body.replace(b"\n", b"").replace(b",", b"")


def test_an_empty_file_is_told() -> None:
    """Rather than posting nothing."""
    with pytest.raises(ConfigError):
        list(split(b" \n"))
