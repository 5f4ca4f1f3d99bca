"""Alarms stay until a person clears them: over restarts, through floods, over HTTP and from the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.alarms import EVERYTHING, MOST, clear_alarm, raise_alarm
from node.api.alarms import alarm_page
from node.cli import main
from node.core import NodeCore
from node.loops import State
from node.timers import remind
from protocol.errors import ProtocolError
from protocol.subjects import Kind
from tests import databases
from tests.node.conftest import running
from tests.node.looking import alarms, events
from tests.node.world import CANARY, TOKEN, Broker, Clock, MemoryBus, Msg, foreign, make_config, released

NONSENSE = Msg(Kind.RECEIPTS, b"nonsense")
AT = 1_000_000

TOML = """
member = "id-cert"
jurisdiction = "id"
name = "ID-CERT"
"""


def lasting(core: NodeCore, *, cleared: bool = False) -> list[dict[str, Any]]:
    with core.store.read() as reads:
        page = alarm_page(reads, 0, 5_000, cleared=cleared)
    return [{**line, "facts": json.loads(bytes(line["facts"]))} for line in page["alarms"]]


@pytest.mark.usefixtures("each_database")
def test_equal_alarms_are_one_that_counts(core: NodeCore, clock: Clock) -> None:
    """Each is an event; the open one says since when and how often."""
    core.receive([NONSENSE])
    clock.pass_(minutes=5)
    core.receive([NONSENSE, NONSENSE])
    (alarm,) = lasting(core)
    assert (alarm["about"], alarm["reason"], alarm["count"]) == ("receipts", "not-json", 3)
    assert (alarm["first_at"], alarm["last_at"]) == ("2026-05-04T08:00:00Z", "2026-05-04T08:05:00Z")
    assert alarm["facts"] == {"size": len(NONSENSE.data)}
    assert alarms(core) == ["not-json"] * 3


def test_alarms_about_different_members_are_told_apart(core: NodeCore) -> None:
    """By origin and by member; other facts do not matter."""
    with core.store.write() as tx:
        opened = [
            raise_alarm(tx, "delivery", "wrong-member", AT, origin="my-cert", size=1),
            raise_alarm(tx, "delivery", "wrong-member", AT, origin="sg-cert", size=1),
            raise_alarm(tx, "delivery", "wrong-member", AT, origin="my-cert", size=2),
            raise_alarm(tx, "receipt", "granted-too-much", AT, member="my-cert"),
            raise_alarm(tx, "receipt", "granted-too-much", AT, member="sg-cert"),
        ]
    assert opened == [True, True, False, True, True]
    assert [(alarm["facts"], alarm["count"]) for alarm in lasting(core)] == [
        ({"origin": "my-cert", "size": 1}, 2),
        ({"origin": "sg-cert", "size": 1}, 1),
        ({"member": "my-cert"}, 1),
        ({"member": "sg-cert"}, 1),
    ]


def test_a_flood_of_ever_new_alarms_is_bounded(core: NodeCore) -> None:
    """Beyond the bound they count, one row a known reason and one for all others; none is lost from the count."""
    extra = 200
    with core.store.write() as tx:
        for number in range(MOST):
            raise_alarm(tx, "delivery", "not-json", AT, origin=f"m{number}")
        for number in range(extra):
            assert not raise_alarm(tx, f"kind-{number}", "not-json", AT) or number == 0
            raise_alarm(tx, f"kind-{number}", f"reason-{number}", AT)
    found = lasting(core)
    assert len(found) == MOST + 2
    assert sum(alarm["count"] for alarm in found) == MOST + 2 * extra
    assert [(a["about"], a["reason"], a["count"]) for a in found[MOST:]] == [
        (EVERYTHING, "not-json", extra),
        (EVERYTHING, "other", extra),
    ]


@pytest.mark.usefixtures("each_database")
def test_no_words_of_a_peer_are_kept(core: NodeCore) -> None:
    """A field's name can be anything that a forger likes; and texts are cut."""
    core.receive([Msg(Kind.CONFIRMED, json.dumps({CANARY: 1}).encode())])
    with core.store.write() as tx:
        raise_alarm(tx, "log", "content-changed", AT, name="x" * 5_000, detail=CANARY, path=CANARY)
    found = lasting(core)
    assert CANARY not in str(found)
    assert len(found[-1]["facts"]["name"]) == 200
    core.receive([Msg("\x1b[2J", b"x")])
    assert lasting(core)[-1]["about"] == "?[2J"


@pytest.mark.usefixtures("each_database")
def test_clearing_is_a_persons_and_once(core: NodeCore, clock: Clock) -> None:
    """Who and when; a second time changes nothing; the same fault later is a new alarm."""
    core.receive([NONSENSE])
    (number,) = [alarm["id"] for alarm in lasting(core)]
    assert core.clear_alarm(number, "Sari")
    clock.pass_(hours=1)
    assert not core.clear_alarm(number, "Budi")
    assert (lasting(core), core.open_alarms()) == ([], {})
    core.receive([NONSENSE])
    first, second = lasting(core, cleared=True)
    assert (first["cleared_by"], first["cleared_at"]) == ("Sari", "2026-05-04T08:00:00Z")
    assert (second["id"], second["count"]) == (number + 1, 1)
    assert [event["by"] for event in events(core, "alarm.cleared")] == ["Sari"]
    with pytest.raises(ProtocolError), core.store.write() as tx:
        clear_alarm(tx, 99, "Sari", AT)


def metric(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(name)]


async def scrape(node: Any) -> str:
    async with node.http.get("/metrics") as response:
        text: str = await response.text()
        return text


@pytest.mark.usefixtures("each_database")
async def test_an_alarm_lasts_over_restarts(tmp_path: Path, clock: Clock, broker: Broker) -> None:
    """In readiness, metrics and the log of every start, until somebody clears it over HTTP; no longer then."""
    bus = MemoryBus()
    bus.inbox.extend([NONSENSE, NONSENSE])
    async with running(make_config(tmp_path), clock, bus):
        await bus.until(lambda: not bus.inbox and not bus.unacked)
    for _ in range(2):
        with capture_logs() as logs:
            async with running(make_config(tmp_path), clock, MemoryBus()) as node:
                await bus.until(lambda: [entry for entry in logs if entry["event"] == "node.alarm_open"])
                (said,) = [entry for entry in logs if entry["event"] == "node.alarm_open"]
                assert (said["log_level"], said["number"], said["reasons"]) == ("warning", 1, {"not-json": 1})
                assert (await node.get("/readyz"))["alarms_open"] == 1
                opened = metric(await scrape(node), "kentongan_node_alarms_open")
                assert opened == ['kentongan_node_alarms_open{reason="not-json"} 1.0']
    with capture_logs() as logs:
        async with running(make_config(tmp_path), clock, MemoryBus()) as node:
            (alarm,) = (await node.get("/v1/alarms"))["alarms"]
            assert (alarm["count"], alarm["reason"], alarm["facts"]) == (2, "not-json", {"size": 8})
            for body, status in (({"by": ""}, 422), ({"by": "Sari"}, 200), ({"by": "Sari"}, 200)):
                async with node.http.post(f"/v1/alarms/{alarm['id']}/clear", json=body) as response:
                    assert response.status == status
            assert response.headers["Idempotent-Replayed"] == "true"
            async with node.http.post("/v1/alarms/99/clear", json={"by": "Sari"}) as response:
                assert (response.status, (await response.json())["reason"]) == (404, "unknown-path")
            assert (await node.get("/readyz"))["alarms_open"] == 0
            assert metric(await scrape(node), "kentongan_node_alarms_open") == []
            assert (await node.get("/v1/alarms"))["alarms"] == []
            (alarm,) = (await node.get("/v1/alarms?cleared=1"))["alarms"]
            assert alarm["cleared_by"] == "Sari"


async def test_the_reminder_comes_again(core: NodeCore) -> None:
    """As long as an alarm is open."""
    core.receive([NONSENSE])
    state = State()
    with capture_logs() as logs:
        reminding = asyncio.create_task(remind(core, state, every=0.001))
        async with asyncio.timeout(5):
            while len(logs) < 3:
                await asyncio.sleep(0.001)
        state.stop()
        await reminding


def cli(*words: str) -> int:
    return main(["node", "alarms", *words])


@pytest.mark.usefixtures("each_database")
async def test_the_command_works_beside_a_running_node_and_without(
    tmp_path: Path, clock: Clock, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lists from the store; it clears through the node, with a token, or in the store if no node runs."""
    url = databases.node_url(tmp_path / "data")
    (tmp_path / "node.toml").write_text(TOML + (f"store = {json.dumps(url)}\n" if url else ""))
    place = str(tmp_path)
    assert cli(place) == (0 if url else 2), "without a file there is nothing to look into"
    capsys.readouterr()
    forged = broker.delivery(released(foreign("my-cert", jurisdiction="sg")))
    bus = MemoryBus()
    bus.inbox.extend([NONSENSE, forged])
    async with running(make_config(tmp_path), clock, bus):
        await bus.until(lambda: not bus.inbox and not bus.unacked)

        async def said(*words: str) -> tuple[int, str]:
            code = await asyncio.to_thread(cli, place, *words)
            out, err = capsys.readouterr()
            return code, out + err

        code, text = await said()
        assert code == 0
        assert "1: receipts, not-json: 1 times" in text
        assert "origin=my-cert" in text
        assert (await said("--clear", "1", "--by", "Sari"))[0] == 2
        assert (await said("--clear", "1", "--by", "Sari", "--token", "wrong"))[0] == 2
        assert (await said("--clear", "99", "--by", "Sari", "--token", TOKEN))[0] == 2
        assert (await said("--clear", "1", "--by", "Sari", "--token", TOKEN))[0] == 0
        assert "1: " not in (await said())[1]
    assert cli(place, "--clear", "2") == 2
    assert cli(place, "--clear", "99", "--by", "Budi") == 2
    assert cli(place, "--clear", "2", "--by", "Budi") == 0
    capsys.readouterr()
    assert cli(place) == 0
    assert capsys.readouterr().out == "no open alarms\n"
    assert cli(place, "--all") == 0
    assert [line.rpartition(" by ")[2] for line in capsys.readouterr().out.splitlines()] == ["Sari", "Budi"]


def test_the_token_may_stand_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a node that does not answer is said to."""
    from protocol import process  # noqa: PLC0415

    (tmp_path / "node.toml").write_text(TOML)
    monkeypatch.setenv("KENTONGAN_TOKEN", TOKEN)
    with process.alone(tmp_path / "data"):
        (tmp_path / "data" / "node.url").write_text("http://127.0.0.1:1\n")
        assert cli(str(tmp_path), "--clear", "1", "--by", "Sari") == 2
    assert "does not answer" in capsys.readouterr().err
