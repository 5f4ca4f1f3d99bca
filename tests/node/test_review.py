"""The review queue of a running node: what waits, who releases it, and that nothing leaves before."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from node import review
from node.answers import Answer
from node.core import NodeCore
from node.intake import Posting, Release, read_body
from protocol.access import SCOPES, Client
from protocol.errors import ProtocolError
from protocol.reasons import Reason
from protocol.subjects import Kind
from tests.node.asking import ask, make
from tests.node.conftest import Running, Start
from tests.node.world import CANARY, START, TOKEN, Clock, MemoryBus, filing, new_id

MACHINE = {"kind": "machine", "tool": "triage"}


async def bot(node: Running, name: str = "bot", **terms: Any) -> str:
    return await make(node, name, "submit", made_by=MACHINE, require_release=True, **terms)


async def reviewer(node: Running, name: str = "ana", **terms: Any) -> str:
    return await make(node, name, "release", **terms)


async def hold(node: Running, token: str, document: Any = None, **headers: str) -> Any:
    status, held, _ = await ask(node, token, "POST", "/v1/reports", document or filing(), **headers)
    assert (status, held["state"], held["status"]) == (202, "held", f"/v1/review/{held['review']}")
    return held


async def test_a_held_report_waits_on_disk_over_a_restart(start: Start, tmp_path: Path) -> None:
    """202 and on disk; nothing signed, sent, listed or told of but its number; released after the restart, it goes."""
    bus = MemoryBus()
    node: Running = await start(bus)
    token, ana = await bot(node), await reviewer(node)
    held = await hold(node, token, filing("Secret title"), Idempotency_Key="k")
    with sqlite3.connect(tmp_path / "data" / "node.db") as other:
        assert other.execute("select count(*) from review where state = 'held'").fetchone() == (1,)
        assert other.execute("select count(*) from own_reports").fetchone() == (0,)
        assert other.execute("select count(*) from submissions").fetchone() == (0,)
        told = other.execute("select data from events where kind = 'review.held'").fetchall()
    assert len(told) == 1
    assert b"Secret title" not in told[0][0]
    assert (await node.get("/v1/reports"))["reports"] == []
    assert (await node.get("/v1/backlog"))["held"] == 1
    async with node.http.get("/metrics") as response:
        assert "kentongan_node_review_held 1.0" in await response.text()
    assert bus.of(Kind.SUBMISSION) == []
    await node.stop()

    bus = MemoryBus()
    node = await start(bus)
    assert bus.of(Kind.SUBMISSION) == []
    _, mine, _ = await ask(node, token, "GET", held["status"])
    assert (mine["state"], mine["report"]["made_by"]) == ("held", MACHINE)
    _, listed, _ = await ask(node, ana, "GET", "/v1/review")
    assert [(line["review"], line["filed_by"], line["tlp"]) for line in listed["review"]] == [(1, "bot", "GREEN")]
    status, released, _ = await ask(node, ana, "POST", held["status"] + "/release")
    assert (status, released["state"], released["decided_by"]) == (200, "released", "ana")
    await bus.until(lambda: len(bus.of(Kind.SUBMISSION)) == 1)
    report = await node.get(released["status"])
    assert report["revisions"][0]["report"]["made_by"] == MACHINE
    assert report["revisions"][0]["report"]["body"]["title"] == "Secret title"
    assert (await ask(node, token, "GET", released["status"]))[0] == 200
    assert (await ask(node, token, "GET", held["status"]))[1]["report_id"] == released["report_id"]
    again = await ask(node, token, "POST", "/v1/reports", filing("Secret title"), Idempotency_Key="k")
    assert (again[1], again[2]["Idempotent-Replayed"]) == (held, "true")
    status, twice, headers = await ask(node, ana, "POST", held["status"] + "/release")
    assert (status, twice, headers["Idempotent-Replayed"]) == (200, released, "true")
    assert (await ask(node, ana, "POST", held["status"] + "/refuse", {"why": "no"}))[1]["reason"] == "already-decided"


async def test_twice_is_once_while_it_waits_and_after(node: Running) -> None:
    """Equal filings of one client are one entry, also within one array, and whatever became of it."""
    token, ana = await bot(node), await reviewer(node)
    held = await hold(node, token)
    _, many, _ = await ask(node, token, "POST", "/v1/reports", [filing(), filing("B"), filing("B"), filing(x=1)])
    assert [row.get("review", row["status"]) for row in many["results"]] == [1, 2, 2, 422]
    assert [row.get("state") for row in many["results"]] == ["held", "held", "held", None]
    await ask(node, ana, "POST", "/v1/review/1/release")
    await ask(node, ana, "POST", "/v1/review/2/refuse", {"why": "a false alarm"})
    assert await hold(node, token) == held
    assert (await hold(node, token, filing("B")))["review"] == 2
    assert len((await node.get("/v1/reports"))["reports"]) == 1
    assert (await ask(node, ana, "GET", "/v1/review"))[1]["review"] == []


async def test_a_refused_one_stays_readable(node: Running) -> None:
    """With the reason, for who filed it and who refused it; nothing of it was ever signed."""
    token, ana = await bot(node), await reviewer(node)
    held = await hold(node, token)
    assert (await ask(node, ana, "POST", held["status"] + "/refuse", {}))[1]["reason"] == "missing-field"
    assert (await ask(node, ana, "POST", held["status"] + "/refuse", {"why": "a test"}))[0] == 200
    for reader in (token, ana):
        _, entry, _ = await ask(node, reader, "GET", held["status"])
        assert (entry["state"], entry["why"], entry["decided_by"]) == ("refused", "a test", "ana")
        assert entry["report"]["body"]["title"] == "Phishing"
    assert "Idempotent-Replayed" in (await ask(node, ana, "POST", held["status"] + "/refuse", {"why": "again"}))[2]
    assert (await ask(node, ana, "POST", held["status"] + "/release"))[1]["reason"] == "already-decided"
    assert (await ask(node, ana, "GET", "/v1/review?state=refused"))[1]["review"][0]["why"] == "a test"
    assert (await ask(node, ana, "GET", "/v1/review?state=eaten"))[1]["reason"] == "unknown-value"
    assert node.bus.of(Kind.SUBMISSION) == []


async def test_who_may_decide(node: Running) -> None:
    """Not who filed it, not a machine, not another filer, and nobody above whose marking it is."""
    both = await make(node, "both", "submit", "release", "read")
    token, other = await bot(node), await bot(node, "bot2")
    green = await reviewer(node, "green", tlp="GREEN")
    held = await hold(node, token, filing(marking={"tlp": "AMBER"}))
    for reader in (other, green):
        assert (await ask(node, reader, "GET", held["status"]))[1]["reason"] == "unknown-review"
        assert (await ask(node, reader, "GET", "/v1/review"))[1]["review"] == []
    for action in ("release", "refuse"):
        path, body = f"{held['status']}/{action}", {"why": "x"}
        assert (await ask(node, token, "POST", path, body))[1]["reason"] == "scope-missing"
        assert (await ask(node, green, "POST", path, body))[1]["reason"] == "unknown-review"
    # A token with both scopes whose reports are held cannot be made; the node's first one stands for such a one.
    with_all = await ask(node, TOKEN, "GET", held["status"])
    assert with_all[1]["filed_by"] == "bot"
    assert (await ask(node, both, "POST", held["status"] + "/release"))[0] == 200
    assert len((await node.get("/v1/reports"))["reports"]) == 1


async def test_the_rules_of_the_day_hold_at_the_release(node: Running, clock: Clock) -> None:
    """Revisions, repetitions and expiry are judged then; what cannot be filed stays in the queue."""
    token, ana = await bot(node), await reviewer(node)
    _, first, _ = await node.post(filing("A"))
    second = await hold(node, token, filing("B", report_id=first["report_id"], revision=2))
    rival = await hold(node, token, filing("C", report_id=first["report_id"], revision=2))
    soon = await hold(node, token, filing("D", handling={"expires_at": "2026-05-04T09:00:00Z"}))
    status, released, _ = await ask(node, ana, "POST", second["status"] + "/release")
    assert (status, released["report_id"], released["revision"]) == (200, first["report_id"], 2)
    status, problem, _ = await ask(node, ana, "POST", rival["status"] + "/release")
    assert (status, problem["reason"]) == (409, "revision-conflict")
    clock.pass_(hours=2)
    status, problem, _ = await ask(node, ana, "POST", soon["status"] + "/release")
    assert (status, problem["reason"]) == (422, "expired")
    _, listed, _ = await ask(node, ana, "GET", "/v1/review")
    assert [line["review"] for line in listed["review"]] == [rival["review"], soon["review"]]


async def test_a_repetition_of_what_was_filed_meanwhile(node: Running) -> None:
    """Released, it is the report that is there."""
    token, ana = await bot(node), await reviewer(node)
    held = await hold(node, token)
    _, same, _ = await node.post(filing(made_by=MACHINE))
    _, released, _ = await ask(node, ana, "POST", held["status"] + "/release")
    assert (released["report_id"], released["state"]) == (same["report_id"], "released")
    assert len((await node.get("/v1/reports"))["reports"]) == 1


async def test_a_machine_cannot_reach_above_its_limit_through_the_queue(node: Running) -> None:
    """Held or not, and also when its token was revoked meanwhile."""
    _, amber, _ = await node.post(filing(marking={"tlp": "AMBER"}))
    token, ana = await bot(node, tlp="GREEN"), await reviewer(node)
    refused = await ask(node, token, "POST", "/v1/reports", filing("B", marking={"tlp": "AMBER"}))
    assert refused[1]["reason"] == "tlp-not-allowed"
    held = await hold(node, token, filing("C", report_id=amber["report_id"], revision=2, phase="withdrawn"))
    await ask(node, TOKEN, "POST", "/v1/tokens/bot/revoke")
    status, problem, _ = await ask(node, ana, "POST", held["status"] + "/release")
    assert (status, problem["reason"]) == (409, "report-id-taken")


async def test_held_reports_count_against_the_quota(node: Running) -> None:
    """And not again when they are released."""
    token, ana = await bot(node, per_day=2), await reviewer(node)
    held = await hold(node, token)
    await ask(node, ana, "POST", held["status"] + "/release")
    await hold(node, token)
    await hold(node, token, filing("B"))
    status, problem, headers = await ask(node, token, "POST", "/v1/reports", filing("C"))
    assert (status, problem["reason"], headers["RateLimit"]) == (429, "quota-exceeded", '"day";r=0;t=57600')


async def test_no_log_line_holds_content(node: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor a reason that a person gave."""
    token, ana = await bot(node), await reviewer(node)
    held = await hold(node, token, filing("Title-7"))
    await ask(node, ana, "POST", held["status"] + "/refuse", {"why": "Reason-7"})
    await hold(node, token, filing("Title-8", report_id=new_id()))
    out, err = capsys.readouterr()
    for word in (CANARY, "Title-", "Reason-7", token, ana):
        assert word not in out + err


@pytest.mark.usefixtures("each_database")
def test_who_filed_it_never_decides(core: NodeCore) -> None:
    """Also if a token came to both scopes in a way that is not foreseen."""
    core.file([_posting("A", Client("bot", held=True))])
    with core.store.read() as reads:
        for scopes in (SCOPES, {"release"}):
            with pytest.raises(ProtocolError) as caught:
                review.to_decide(reads, 1, Client("bot", scopes=frozenset(scopes)))
            assert caught.value.reason is Reason.OWN_FILING
        assert review.to_decide(reads, 1, Client("ana")).client == "bot"


@pytest.mark.usefixtures("each_database")
def test_two_who_release_at_once(core: NodeCore) -> None:
    """In one batch, and after another: one of them did it, and what was refused is not filed."""
    core.file([_posting("A", Client("bot", held=True)), _posting("B", Client("bot", held=True))])
    both = [_posting("A", Client("bot"), release=Release(1, name)) for name in ("ana", "bob")]
    first, second = core.file(both)
    (third,) = core.file([_posting("A", Client("bot"), release=Release(1, "eve"))])
    assert isinstance(first, Answer)
    assert [reply.reason for reply in (second, third) if isinstance(reply, ProtocolError)] == [
        Reason.ALREADY_DECIDED
    ] * 2
    with core.store.write() as tx:
        review.refuse(tx, 2, Client("ana"), "no", 1)
    (never,) = core.file([_posting("B", Client("bot"), release=Release(2, "bob"))])
    assert isinstance(never, ProtocolError)
    with core.store.read() as reads:
        assert reads.review_row(1).decided_by == "ana"
        assert len(reads.own_page(0, 10)) == 1


def _posting(title: str, client: Client, **options: Any) -> Posting:
    items, _ = read_body(json.dumps(filing(title)).encode(), ndjson=False, jurisdictions={"id"}, now=START)
    return Posting(items, False, client, **options)
