"""Tokens of a running node: what each scope opens, what a token may file, quotas, expiry, rotation, revocation."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import sqlite3
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import pytest

from node.access import Access
from node.answers import Answer
from node.api import scopes
from node.api.scopes import undeclared
from node.api.server import make_app
from node.cli import main
from node.intake import Posting, read_body
from node.tokens import Wanted, create
from protocol.access import SCOPES, Client, Quota
from protocol.errors import ConfigError, Transient
from protocol.process import Token
from tests import databases
from tests.node.asking import ask, make
from tests.node.conftest import Running, Start, running
from tests.node.test_alarms import TOML
from tests.node.world import CANARY, START, TOKEN, Clock, MemoryBus, filing, make_config, make_core, new_id

OPENED = {
    "POST /v1/reports": {"submit"},
    "GET /v1/reports": {"read", "submit"},
    "GET /v1/reports/{report_id}": {"read", "submit"},
    "GET /v1/reports/{report_id}/proof": {"read", "submit"},
    "GET /v1/submissions/{id}": {"submit"},
    "GET /v1/inbox": {"read"},
    "GET /v1/inbox/{report_id}": {"read"},
    "GET /v1/inbox/{report_id}/proof": {"read"},
    "POST /v1/inbox/{report_id}/confirm": {"confirm"},
    "GET /v1/feed": {"read"},
    "POST /v1/policy/explain": {"read", "submit"},
    "GET /v1/directory": {"read", "submit"},
    "GET /v1/alarms": {"read", "admin"},
    "POST /v1/alarms/{id}/clear": {"admin"},
    "GET /v1/backlog": {"read", "admin"},
    "GET /v1/log": {"read", "admin"},
    "GET /v1/review": {"release", "submit"},
    "GET /v1/review/{id}": {"release", "submit"},
    "POST /v1/review/{id}/release": {"release"},
    "POST /v1/review/{id}/refuse": {"release"},
    "GET /v1/webhooks": {"read", "admin"},
    "POST /v1/webhooks/{name}/enable": {"admin"},
    "POST /v1/webhooks/{name}/replay": {"admin"},
    "POST /v1/webhooks/{name}/test": {"admin"},
    "GET /v1/audit": {"audit"},
    "GET /v1/tokens": {"admin"},
    "POST /v1/tokens": {"admin"},
    "POST /v1/tokens/{name}/rotate": {"admin"},
    "POST /v1/tokens/{name}/revoke": {"admin"},
}
FREE = {"GET /healthz", "GET /readyz", "GET /metrics", "GET /openapi.json", "GET /docs"}


class Handlers:
    """Stands where the handlers stand: an application whose routes can be read."""

    def __getattr__(self, name: str) -> Any:
        async def handle(_: aiohttp.web.Request) -> aiohttp.web.Response:
            raise AssertionError(name)

        return handle


def routes() -> set[str]:
    """Every address that the node serves."""
    named_so = [name for name in signature(make_app).parameters if name not in ("on_bug", "taxii")]
    app = make_app(**dict.fromkeys(named_so, Handlers()), on_bug=print)  # type: ignore[arg-type]
    named = ((route.method, route.resource.canonical) for route in app.router.routes())
    return {f"{method} {path}" for method, path in named if method != "HEAD"}


async def test_every_scope_on_every_address(node: Running) -> None:
    """Each opens what the table says and nothing else; an address that is not in the table fails here."""
    assert routes() == OPENED.keys() | FREE
    tokens = {scope: await make(node, f"only-{scope}", scope) for scope in sorted(SCOPES)}
    for address, (scope, token) in itertools.product(OPENED, tokens.items()):
        method, _, path = address.partition(" ")
        place = path.replace("{report_id}", new_id()).replace("{id}", "7").replace("{name}", "nobody")
        status, body, _ = await ask(node, token, method, place, {} if method == "POST" else None)
        refused = status == 403 and body["reason"] == "scope-missing"
        assert refused == (scope not in OPENED[address]), (address, scope, status)
        assert status != 401
        if refused:
            assert all(needed in body["detail"] for needed in OPENED[address])


def test_an_address_without_a_scope_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who adds one must say who may use it, or the node does not start."""
    routes()
    with monkeypatch.context() as patched:
        patched.setattr(scopes, "NEEDED", {key: value for key, value in scopes.NEEDED.items() if key[1] != "/v1/log"})
        with pytest.raises(AssertionError, match="/v1/log"):
            routes()

    async def nothing(_: aiohttp.web.Request) -> aiohttp.web.Response:
        raise AssertionError

    app = aiohttp.web.Application()
    app.router.add_get("/v1/reports", nothing)
    app.router.add_get("/metrics", nothing)
    assert undeclared(app) == set()
    app.router.add_post("/v1/inbox", nothing)
    assert undeclared(app) == {("POST", "/v1/inbox")}


async def test_a_stranger_is_told_nothing(node: Running, clock: Clock) -> None:
    """Revoked, expired, rotated away, never there: one answer. One that is mistyped is told so, without a look-up."""
    gone, old = await make(node, "gone", "read"), await make(node, "old", "read")
    short = await make(node, "short", "read", expires_at=(START + timedelta(hours=1)).isoformat())
    for token in (gone, old, short):
        assert (await ask(node, token, "GET", "/v1/inbox"))[0] == 200
    assert (await ask(node, TOKEN, "POST", "/v1/tokens/gone/revoke"))[0] == 200
    assert (await ask(node, TOKEN, "POST", "/v1/tokens/old/rotate", {"overlap_minutes": 0}))[0] == 200
    clock.pass_(hours=1)
    answers = [await ask(node, token, "GET", "/v1/inbox") for token in (gone, old, short, "nonsense")]
    assert {(status, json.dumps(body)) for status, body, _ in answers} == {(401, json.dumps(answers[0][1]))}
    assert answers[0][1]["reason"] == "token-invalid"
    mistyped = gone[:10] + ("A" if gone[10] != "A" else "B") + gone[11:]
    status, body, _ = await ask(node, mistyped, "GET", "/v1/inbox")
    assert (status, body["reason"], "mistyped" in body["detail"]) == (401, "token-invalid", True)


async def test_only_hashes_are_stored(node: Running, tmp_path: Path) -> None:
    """The text is in the answer that makes it, which no cache keeps, and nowhere on disk nor in a list."""
    status, made, headers = await ask(node, TOKEN, "POST", "/v1/tokens", {"name": "tool", "scopes": ["read"]})
    assert (status, headers["Cache-Control"], made["token"][:3], len(made["token"])) == (201, "no-store", "kg_", 52)
    await node.post(filing())
    listed = await node.get("/v1/tokens")
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert hashlib.sha256(made["token"].encode()).digest() in stored
    assert made["token"].encode() not in stored
    assert made["token"] not in json.dumps(listed)
    assert [(line["name"], line["state"]) for line in listed["tokens"]] == [("soc", "valid"), ("tool", "valid")]


@pytest.mark.parametrize(
    ("document", "status", "reason"),
    [
        ({"name": "soc", "scopes": ["read"]}, 409, "token-exists"),
        ({"name": "twice", "scopes": ["read"]}, 409, "token-exists"),
        ({"name": "gone", "scopes": ["read"]}, 409, "token-exists"),
        ({"name": "x", "scopes": []}, 422, "out-of-range"),
        ({"name": "x", "scopes": ["root"]}, 422, "unknown-value"),
        ({"name": "X y", "scopes": ["read"]}, 422, "invalid-value"),
        ({"name": "x", "scopes": ["admin"], "tlp": "GREEN"}, 422, "invalid-value"),
        ({"name": "x", "scopes": ["admin"], "made_by": {"kind": "machine"}}, 422, "invalid-value"),
        ({"name": "x", "scopes": ["admin"], "require_release": True}, 422, "invalid-value"),
        ({"name": "x", "scopes": ["release"], "made_by": {"kind": "machine"}}, 422, "invalid-value"),
        ({"name": "x", "scopes": ["release", "submit"], "require_release": True}, 422, "invalid-value"),
        ({"name": "x", "scopes": ["submit"], "made_by": {"kind": "person"}}, 422, "invalid-value"),
        ({"name": "x", "scopes": ["read"], "expires_at": START.isoformat()}, 422, "expired"),
        ({"name": "x", "scopes": ["read"], "per_minute": 0}, 422, "out-of-range"),
    ],
)
async def test_what_is_no_token(node: Running, document: Any, status: int, reason: str) -> None:
    """A name is given once for good, and terms that cancel each other are refused."""
    await make(node, "twice", "read")
    await make(node, "gone", "read")
    await ask(node, TOKEN, "POST", "/v1/tokens/gone/revoke")
    found, body, _ = await ask(node, TOKEN, "POST", "/v1/tokens", document)
    assert (found, body["reason"]) == (status, reason)


async def test_rotation_has_an_overlap(node: Running, clock: Clock) -> None:
    """Both secrets hold for that long, then the new one alone; what was revoked cannot be rotated back."""
    first = await make(node, "tool", "read")
    _, second, _ = await ask(node, TOKEN, "POST", "/v1/tokens/tool/rotate", {"overlap_minutes": 10})
    for token in (first, second["token"]):
        assert (await ask(node, token, "GET", "/v1/inbox"))[0] == 200
    clock.pass_(minutes=10)
    assert (await ask(node, first, "GET", "/v1/inbox"))[0] == 401
    assert (await ask(node, second["token"], "GET", "/v1/inbox"))[0] == 200
    _, again, _ = await ask(node, TOKEN, "POST", "/v1/tokens/tool/revoke")
    assert again == {"name": "tool", "state": "revoked"}
    assert "Idempotent-Replayed" in (await ask(node, TOKEN, "POST", "/v1/tokens/tool/revoke"))[2]
    assert (await ask(node, TOKEN, "POST", "/v1/tokens/tool/rotate"))[1]["reason"] == "unknown-token"
    assert (await ask(node, TOKEN, "POST", "/v1/tokens/soc/revoke"))[1]["reason"] == "unknown-token"
    assert (await ask(node, second["token"], "GET", "/v1/inbox"))[0] == 401


async def test_revocation_ends_open_streams(node: Running) -> None:
    """At once, and what happens after it is not shown any more; others go on listening."""
    token, other = await make(node, "eye", "read"), await make(node, "other", "read")

    async def listening(text: str) -> tuple[aiohttp.ClientResponse, bytes]:
        response = await node.http.get("/v1/feed", headers={"Authorization": f"Bearer {text}"})
        await response.content.readuntil(b"\n\n")
        return response, await response.content.readuntil(b"\n\n")

    ended, _ = await listening(token)
    going, _ = await listening(other)
    await node.post(filing())
    assert b"report.filed" in await ended.content.readuntil(b"\n\n")
    assert (await ask(node, TOKEN, "POST", "/v1/tokens/eye/revoke"))[0] == 200
    await node.post(filing("B"))
    rest = await asyncio.wait_for(ended.content.read(), 5)
    assert b"report.filed" not in rest
    seen = b"".join([await asyncio.wait_for(going.content.readuntil(b"\n\n"), 5) for _ in range(3)])
    assert seen.count(b"report.filed") == 2
    going.close()


async def test_a_token_that_is_revoked_while_it_posts(node: Running) -> None:
    """What it was sending is not taken."""
    token, begun = await make(node, "slow", "submit"), asyncio.Event()
    document = json.dumps(filing()).encode()
    half = asyncio.Event()

    async def body() -> Any:
        yield document[:50]
        begun.set()
        await half.wait()
        yield document[50:]

    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    posting = asyncio.create_task(node.http.post("/v1/reports", data=body(), headers=headers).__aenter__())
    await begun.wait()
    assert (await ask(node, token, "GET", "/v1/reports"))[0] == 200
    await ask(node, TOKEN, "POST", "/v1/tokens/slow/revoke")
    half.set()
    assert (await posting).status == 401
    assert (await node.get("/v1/reports"))["reports"] == []


# --- what a token may file --------------------------------------------------------------------------------------


async def test_limits_are_held_to_item_by_item(node: Running) -> None:
    """The path of the field, 403, and the others are taken."""
    token = await make(node, "bank", "submit", tlp="GREEN", sectors=["finance"], purposes=["reporting"])
    victim = filing("v")
    victim["body"]["victim"]["sector"] = "energy"
    documents = [
        filing("a"),
        filing("b", marking={"tlp": "AMBER"}),
        filing("c", sectors=[{"code": "finance.banking"}]),
        filing("d", sectors=[{"code": "finance"}, {"code": "health"}]),
        filing("e", purpose="watch"),
        victim,
        filing("g", marking={"tlp": "CLEAR"}, sectors=[]),
    ]
    status, answer, _ = await ask(node, token, "POST", "/v1/reports", documents)
    assert (status, answer["accepted"]) == (202, 3)
    refused = [row for row in answer["results"] if row["status"] != 202]
    assert [(row["index"], row["status"], row["reason"], row["path"]) for row in refused] == [
        (1, 403, "tlp-not-allowed", "$[1].marking.tlp"),
        (3, 403, "sector-not-allowed", "$[3].sectors[1].code"),
        (4, 403, "purpose-not-allowed", "$[4].purpose"),
        (5, 403, "sector-not-allowed", "$[5].body.victim.sector"),
    ]
    status, problem, _ = await ask(node, token, "POST", "/v1/reports", documents[1])
    assert (status, problem["reason"], problem["path"]) == (403, "tlp-not-allowed", "$.marking.tlp")


async def test_a_report_above_the_limit_cannot_be_touched(node: Running) -> None:
    """Neither revised nor withdrawn under a lower marking; that it exists looks like another member's id."""
    _, amber, _ = await node.post(filing(marking={"tlp": "AMBER"}))
    token = await make(node, "low", "submit", "read", tlp="GREEN")
    for change in ({"revision": 2}, {"revision": 2, "phase": "withdrawn"}, {}, {"revision": 1}):
        document = filing("x", report_id=amber["report_id"], **change)
        status, problem, _ = await ask(node, token, "POST", "/v1/reports", document)
        assert (status, problem["reason"]) == (409, "report-id-taken")
    assert len((await node.get(amber["status"]))["revisions"]) == 1


async def test_a_machine_is_marked_as_one(node: Running) -> None:
    """Whatever its filings say, one by one and in bulk; a person's equal report stays another one."""
    machine = {"kind": "machine", "tool": "triage", "version": "2", "model": "m-1"}
    token = await make(node, "bot", "submit", made_by=machine)
    _, persons, _ = await node.post(filing())
    said = [filing(), filing(made_by={"kind": "person"}), filing(made_by={"kind": "machine", "tool": "other"})]
    answers = [await ask(node, token, "POST", "/v1/reports", document) for document in said]
    assert len({body["report_id"] for _, body, _ in answers} - {persons["report_id"]}) == 1
    _, many, _ = await ask(node, token, "POST", "/v1/reports", [filing("B", made_by={"kind": "person", "tool": "x"})])
    revision = filing("C", report_id=persons["report_id"], revision=2, made_by={"kind": "person"})
    _, revised, _ = await ask(node, token, "POST", "/v1/reports", revision)
    for status in (answers[0][1]["status"], many["results"][0]["location"], revised["status"]):
        newest = (await node.get(status))["revisions"][-1]
        assert newest["report"]["made_by"] == machine
    assert "made_by" not in (await node.get(persons["status"]))["revisions"][0]["report"]


async def test_who_only_submits_sees_its_own(node: Running) -> None:
    """The status of what it filed, and nothing of what others did."""
    token = await make(node, "tool", "submit")
    _, others, _ = await node.post(filing())
    _, own, _ = await ask(node, token, "POST", "/v1/reports", filing("B"))
    _, listed, _ = await ask(node, token, "GET", "/v1/reports")
    assert [row["report_id"] for row in listed["reports"]] == [own["report_id"]]
    assert (await ask(node, token, "GET", own["status"]))[0] == 200
    assert (await ask(node, token, "GET", own["status"] + "/proof"))[1]["reason"] == "not-witnessed"
    for path in (others["status"], others["status"] + "/proof"):
        assert (await ask(node, token, "GET", path))[1]["reason"] == "unknown-report"


async def test_idempotency_keys_are_each_tokens_own(node: Running) -> None:
    """Two tools that draw the same key do not get each other's answers; rotation changes nothing."""
    a, b = await make(node, "a", "submit"), await make(node, "b", "submit")
    _, first, _ = await ask(node, a, "POST", "/v1/reports", filing("A"), Idempotency_Key="k")
    status, second, headers = await ask(node, b, "POST", "/v1/reports", filing("B"), Idempotency_Key="k")
    assert (status, "Idempotent-Replayed" in headers) == (202, False)
    assert second["report_id"] != first["report_id"]
    _, new, _ = await ask(node, TOKEN, "POST", "/v1/tokens/a/rotate")
    _, again, headers = await ask(node, new["token"], "POST", "/v1/reports", filing("A"), Idempotency_Key="k")
    assert (again, headers["Idempotent-Replayed"]) == (first, "true")


# --- quotas -----------------------------------------------------------------------------------------------------


async def test_quotas(start: Start, clock: Clock) -> None:
    """So many a minute and a day, item by item; repetitions and refused items are free; a restart forgets nothing."""
    node: Running = await start()
    token = await make(node, "tool", "submit", per_minute=3, per_day=4)
    status, answer, headers = await ask(
        node, token, "POST", "/v1/reports", [filing("1"), {"marking": {}}, filing("2"), filing("3"), filing("4")]
    )
    assert (status, [row["status"] for row in answer["results"]]) == (202, [202, 422, 202, 202, 429])
    assert answer["results"][4]["reason"] == "quota-exceeded"
    assert headers["RateLimit-Policy"] == '"minute";q=3;w=60, "day";q=4;w=86400'
    assert headers["RateLimit"] == '"minute";r=0;t=60, "day";r=1;t=57600'
    assert headers["Retry-After"] == "60"
    status, again, _ = await ask(node, token, "POST", "/v1/reports", [filing("1"), filing("2")])
    assert (status, again["accepted"]) == (202, 2)
    status, problem, headers = await ask(node, token, "POST", "/v1/reports", filing("4"))
    assert (status, problem["reason"], headers["Retry-After"]) == (429, "quota-exceeded", "60")
    assert (await ask(node, token, "POST", "/v1/reports", [filing("4")]))[0] == 429
    clock.pass_(seconds=59)
    assert (await ask(node, token, "POST", "/v1/reports", filing("4")))[2]["Retry-After"] == "1"
    clock.pass_(seconds=1)
    status, _, headers = await ask(node, token, "POST", "/v1/reports", filing("4"))
    assert (status, headers["RateLimit"]) == (202, '"minute";r=2;t=60, "day";r=0;t=57540')
    await node.stop()
    again = await start()
    status, _, headers = await ask(again, token, "POST", "/v1/reports", filing("5"))
    assert (status, headers["Retry-After"]) == (429, "57540")
    clock.pass_(hours=16)
    assert (await ask(again, token, "POST", "/v1/reports", filing("5")))[0] == 202
    assert "RateLimit" not in (await again.post(filing("6")))[2]


@pytest.mark.usefixtures("on_postgresql")
def test_what_was_not_committed_is_not_counted(tmp_path: Path, clock: Clock) -> None:
    """A database that goes away costs no quota."""
    core = make_core(tmp_path, clock)
    client = Client("tool", quota=Quota(1, None, clock))
    (item,), _ = read_body(json.dumps(filing()).encode(), ndjson=False, jurisdictions={"id"}, now=START)
    with databases.broken_commit(core.store.engine, committed=False), pytest.raises(Transient):
        core.file([Posting((item,), False, client)])
    (reply,) = core.file([Posting((item,), False, client)])
    assert isinstance(reply, Answer)
    core.store.close()


# --- last use, restarts, the command line ------------------------------------------------------------------------


async def test_the_last_use_is_written_now_and_then(start: Start, clock: Clock, tmp_path: Path) -> None:
    """Shown at once; on disk at the latest when the node stops, not with each request."""
    node: Running = await start()
    token = await make(node, "tool", "read")

    def stored() -> Any:
        with sqlite3.connect(tmp_path / "data" / "node.db") as database:
            return database.execute("select used_at from tokens").fetchone()[0]

    clock.pass_(minutes=5)
    for _ in range(20):
        await ask(node, token, "GET", "/v1/inbox")
    assert stored() is None
    assert (await node.get("/v1/tokens"))["tokens"][1]["used_at"] == "2026-05-04T08:05:00Z"
    await node.stop()
    assert stored() == int((START + timedelta(minutes=5)).timestamp()) * 1_000_000
    again = await start()
    assert (await again.get("/v1/tokens"))["tokens"][1]["used_at"] == "2026-05-04T08:05:00Z"
    assert (await ask(again, token, "GET", "/v1/inbox"))[0] == 200


async def test_no_request_reads_the_tokens(node: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in memory; a change reads them once."""
    reads: list[str] = []
    token = await make(node, "tool", "read")
    monkeypatch.setattr("node.doorrows.DoorRows.tokens", lambda _: reads.append("read"))
    monkeypatch.setattr("node.doorrows.DoorRows.token", lambda *_: reads.append("read"))
    for _ in range(3):
        assert (await ask(node, token, "GET", "/v1/inbox"))[0] == 200
        assert (await ask(node, "nonsense", "GET", "/v1/inbox"))[0] == 401
    assert reads == []


@pytest.mark.usefixtures("each_database")
async def test_one_name_in_both_places_is_refused(tmp_path: Path, clock: Clock) -> None:
    """`node.toml` must not bring a token back under a name that is somebody's."""
    core = make_core(tmp_path, clock)
    with core.store.write() as tx:
        create(tx, Wanted(name="soc", scopes=["read"]), by="me", taken=(), now=START, rand=bytes)
    access = Access([], core.store, clock)
    assert access.revoke("soc", "me")
    assert not access.revoke("soc", "me")
    with pytest.raises(ConfigError, match="soc"):
        Access([Token(name="soc", sha256="0" * 64)], core.store, clock)
    core.store.close()


async def test_the_command_beside_a_running_node_and_without(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made without a node, used, listed, rotated and revoked with one: each counts at once."""
    (tmp_path / "node.toml").write_text(TOML)
    place = str(tmp_path)

    async def said(action: str, *words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["node", "token", action, place, *words])
        out, err = capsys.readouterr()
        # The node of this process logs there too.
        return code, "\n".join(line for line in out.splitlines() if "[info" not in line), err

    code, first, told = await said("create", "tool", "--scope", "read", "--scope", "submit", "--tlp", "GREEN")
    assert (code, "shown this once" in told) == (0, True)
    assert (await said("create", "tool", "--scope", "read"))[0] == 2
    async with running(make_config(tmp_path), clock, MemoryBus()) as node:
        assert (await ask(node, first.strip(), "GET", "/v1/inbox"))[0] == 200
        assert (await said("revoke", "tool"))[0] == 2
        code, second, _ = await said("rotate", "tool", "--overlap", "0", "--token", TOKEN)
        assert code == 0
        assert (await ask(node, first.strip(), "GET", "/v1/inbox"))[0] == 401
        assert (await ask(node, second.strip(), "GET", "/v1/inbox"))[0] == 200
        code, third, _ = await said("create", "bot", "--scope", "submit", "--machine", "triage", "--token", TOKEN)
        assert (code, (await ask(node, third.strip(), "POST", "/v1/reports", filing()))[0]) == (0, 202)
        assert (await said("revoke", "tool", "--token", TOKEN))[0] == 0
        assert (await ask(node, second.strip(), "GET", "/v1/inbox"))[0] == 401
        code, text, _ = await said("list")
        assert (code, "tool: revoked" in text, "bot: valid" in text) == (0, True, True)
        code, _, told = await said("create", "bot", "--scope", "submit", "--token", third.strip())
        assert (code, "admin" in told) == (2, True)
    assert CANARY not in text
    assert all(secret.strip() not in text for secret in (first, second, third))
    assert (await said("revoke", "bot"))[0] == 0
