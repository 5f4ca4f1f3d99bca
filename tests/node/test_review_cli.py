"""`kentongan node review …` beside a running node and without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.cli import main
from node.config import Review
from node.reading import open_reader
from node.reviewcli import _plain
from tests import databases
from tests.node.asking import ask
from tests.node.conftest import running
from tests.node.test_alarms import TOML, metric, scrape
from tests.node.test_review import bot, hold, reviewer
from tests.node.world import Clock, MemoryBus, filing, make_config

Said = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """Runs the command; exit code and what it printed."""
    url = databases.node_url(tmp_path / "data")
    (tmp_path / "node.toml").write_text(TOML + (f"store = {json.dumps(url)}\n" if url else ""))

    async def run(action: str, *words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["node", "review", action, str(tmp_path), *words])
        found = capsys.readouterr()
        return code, found.out, found.err

    with capture_logs():
        yield run


@pytest.mark.usefixtures("each_database")
async def test_a_person_reads_and_decides(tmp_path: Path, clock: Clock, said: Said) -> None:
    """What waits is listed and shown; released it is filed, refused it says why; another token's rights do not do."""
    async with running(make_config(tmp_path), clock, MemoryBus()) as node:
        assert await said("list") == (0, "nothing waits for review\n", "")
        token, ana = await bot(node), await reviewer(node)
        await hold(node, token, filing("One \u009b31m\u202e"))
        await hold(node, token, filing("Two"))
        code, text, _ = await said("list")
        assert (code, len(text.splitlines())) == (0, 2)
        assert text.startswith("1: held; TLP:GREEN; filed 2026-05-04T08:00:00Z by bot\n")
        assert "Two" not in text, "a list shows no content"
        code, text, _ = await said("show", "1")
        assert code == 0
        assert "One \\u009b31m\\u202e" in text
        assert text.isascii()
        shown = json.loads((await said("show", "1", "--json"))[1])
        assert shown == (await ask(node, ana, "GET", "/v1/review/1"))[1]

        code, _, err = await said("release", "1")
        assert (code, "with --token or in KENTONGAN_TOKEN" in err) == (2, True)
        code, _, err = await said("release", "1", "--token", token)
        assert (code, "403" in err) == (2, True)
        code, text, _ = await said("release", "1", "--token", ana)
        (report,) = (await node.get("/v1/reports"))["reports"]
        assert code == 0
        assert text.startswith("1: released; TLP:GREEN; ")
        assert f"by ana; report {report['report_id']} revision 1" in text
        assert (await said("accept", "1", "--token", ana))[0] == 0, "twice is once"
        assert (await said("refuse", "1", "--why", "no", "--token", ana))[0] == 2
        assert (await said("refuse", "2", "--why", "", "--token", ana))[0] == 2
        code, text, _ = await said("refuse", "2", "--why", "no\nreason\x1b[0m", "--token", ana)
        assert code == 0
        assert text.endswith("; why: no\\nreason\\u001b[0m\n")
        assert (await said("refuse", "9", "--why", "x", "--token", ana))[0] == 2
        assert await said("list", "--json") == (0, "", "")
        (line,) = (await said("list", "--state", "refused", "--json"))[1].splitlines()
        assert (json.loads(line)["review"], json.loads(line)["why"]) == (2, "no\nreason\x1b[0m")
    assert (await said("show", "2"))[0] == 0, "reading needs no running node"
    assert (await said("show", "3"))[::2] == (2, "there is no filing with this number in the review queue\n")
    code, _, err = await said("accept", "2", "--token", "x")
    assert (code, "does not run" in err) == (2, True)


def test_nothing_that_others_wrote_steers_a_terminal() -> None:
    """Escapes are those of JSON, beyond the first plane too; what can be seen stays as it is."""
    text = "a\x1b\x9b\u202e\U000e0041\ud800 \u5831\u544a\n"
    assert json.loads(f'"{_plain(text[:-1])}"') == text[:-1]
    assert _plain(text).endswith("\u5831\u544a\n")
    assert all(letter.isprintable() for letter in _plain(text[:-1]))


@pytest.mark.usefixtures("each_database")
async def test_refused_content_is_erased_in_time(tmp_path: Path, clock: Clock, said: Said) -> None:
    """After the days of the settings, with an event and a count; the fact and the reason stay; nothing else goes."""
    config = replace(make_config(tmp_path), review=Review(refused_days=30))
    async with running(config, clock, MemoryBus()) as node:
        token, ana = await bot(node), await reviewer(node)
        for title in ("Old", "Young", "Held", "Released"):
            await hold(node, token, filing(title))
        await ask(node, ana, "POST", "/v1/review/1/refuse", {"why": "a test"})
        await ask(node, ana, "POST", "/v1/review/4/release")
        clock.pass_(days=15)
        await ask(node, ana, "POST", "/v1/review/2/refuse", {"why": "too"})
        assert metric(await scrape(node), "kentongan_node_review_refused") == ["kentongan_node_review_refused 2.0"]
        clock.pass_(days=15, seconds=1)
    async with running(config, clock, MemoryBus()) as node:
        async with asyncio.timeout(10):
            while "kentongan_node_review_erased_total 1.0" not in await scrape(node):
                await asyncio.sleep(0.01)
        assert metric(await scrape(node), "kentongan_node_review_refused") == ["kentongan_node_review_refused 1.0"]
        _, entry, _ = await ask(node, token, "GET", "/v1/review/1")
        assert (entry["state"], entry["why"], entry["decided_by"]) == ("refused", "a test", "ana")
        assert "report" not in entry
        for number in (2, 3, 4):
            assert "report" in (await ask(node, ana, "GET", f"/v1/review/{number}"))[1]
        assert (await hold(node, token, filing("Old")))["review"] == 1
        assert (await said("show", "1"))[1].endswith("why: a test\nreport: erased\n")
        with closing(open_reader(config.data, config.store)) as store, store.read() as reads:
            assert [json.loads(event.data)["review"] for event in reads.events_of(["review.erased"], 0, 9)] == [1]
            assert bytes(reads.review_row(1).filing) == b""
