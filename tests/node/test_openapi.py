"""The OpenAPI document: it has every address and nothing else, and what a node answers is what it says."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import aiohttp
import msgspec
import pytest
import schemathesis

from node.api import managed, shapes
from node.api.addresses import IN_PATH, OPERATIONS
from node.api.openapi import EVENTS, document
from node.outputs import Hook
from protocol.envelope import SignedReport
from protocol.reasons import Reason
from protocol.report import Body, CoarseBody
from protocol.subjects import Kind
from tests.node.asking import ask, make
from tests.node.conftest import Running, Start, running
from tests.node.test_webhooks import configured
from tests.node.test_words import word_of
from tests.node.world import Broker, Clock, MemoryBus, Msg, confirmed, filing, foreign, receipts, released

ELSEWHERE = ("/taxii2/",)
"""Addresses that another standard describes."""
BY_NAME = {operation.name: operation for operation in OPERATIONS}


async def busy(node: Running, broker: Broker) -> dict[str, list[str]]:
    """Let something of everything happen at a node; returns what can stand in an address."""
    _, own, _ = await node.post(filing())
    bot = await make(node, "bot", "submit", require_release=True, per_day=3)
    assert (await ask(node, bot, "POST", "/v1/reports", filing("Held")))[0] == 202
    _, _, headers = await node.post([filing("B", handling={"expires_at": "2030-01-01T00:00:00Z"}), filing(nonsense=1)])
    await node.bus.until(lambda: node.bus.sent)
    node.bus.inbox.append(receipts(broker.receipt(node.bus.sent[0].data)))
    node.bus.inbox.append(confirmed(word_of(broker, own["digest"], "read")))
    envelope = foreign(count=2)
    node.bus.inbox.append(broker.delivery(released(envelope)))
    node.bus.inbox.append(broker.delivery(released(foreign("sg-cert"), exact=1)))
    node.bus.inbox.append(Msg(Kind.DELIVERY, b"nonsense"))
    await node.bus.until(lambda: not node.bus.inbox and not node.bus.unacked)
    received = [str(one.header.report_id) for one in envelope.reports if isinstance(one, SignedReport)]
    await node.post(filing("C", report_id=own["report_id"], revision=2, phase="withdrawn", body={}))
    posted = str(headers["Location"]).rpartition("/")[2]
    return {"report_id": [own["report_id"], received[0]], "id": ["1", posted], "name": ["bot"]}


async def test_every_address_is_described_and_no_other(node: Running) -> None:
    """The document against the router."""
    assert node.node.app is not None
    routes = {
        (route.method, route.resource.canonical)
        for route in node.node.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {(operation.method, operation.path) for operation in OPERATIONS}
    assert described == {route for route in routes if not route[1].startswith(ELSEWHERE)}
    assert len(BY_NAME) == len(OPERATIONS)


async def test_it_is_served_without_a_token_and_is_valid(node: Running) -> None:
    """Whoever writes a client need not ask anybody; OpenAPI 3.1 by its own schema."""
    async with aiohttp.ClientSession(node.node.url) as http, http.get("/openapi.json") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        served = await response.json()
    assert served == document(OPERATIONS, IN_PATH)
    assert served["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(served).validate()
    assert served["paths"]["/healthz"]["get"]["security"] == []
    assert "security" not in served["paths"]["/v1/reports"]["post"]


def test_what_can_be_sent_is_closed_and_what_is_answered_is_not() -> None:
    """A client that was made from the document tells its user of a misspelt field, and survives a new one."""
    types = document(OPERATIONS, IN_PATH)["components"]["schemas"]
    assert types["Filing"]["additionalProperties"] is False
    assert types["Indicator"]["additionalProperties"] is False
    assert "additionalProperties" not in types["OwnReport"]
    assert "additionalProperties" not in types["Problem"]


def test_what_a_recipient_sees_is_the_body_with_its_coarse_values() -> None:
    """`ReceivedBody` repeats the fields of `CoarseBody`, since one struct cannot have both as its base."""
    both = {field.name: field.type for kind in (Body, CoarseBody) for field in msgspec.structs.fields(kind)}
    assert {field.name: field.type for field in msgspec.structs.fields(shapes.ReceivedBody)} == both


def test_every_refusal_is_a_problem_with_its_reasons() -> None:
    """Each 4xx and 503 has a schema that lists codes; each code is one that there is."""
    known = {reason.value for reason in Reason}
    for path, methods in document(OPERATIONS, IN_PATH)["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                if int(status) < 400:
                    continue
                if "application/problem+json" not in response["content"]:
                    pytest.fail(f"{method} {path} {status}")
                schema = response["content"]["application/problem+json"]["schema"]
                codes = schema["allOf"][1]["properties"]["reason"]["enum"]
                assert codes
                assert set(codes) <= known
                assert (status != "503") or "Retry-After" in response["headers"]
                assert (status != "401") or "WWW-Authenticate" in response["headers"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("listReports", shapes.OwnPage),
        ("listInbox", shapes.InboxPage),
        ("listAlarms", shapes.AlarmPage),
        ("getBacklog", shapes.BacklogView),
        ("getLog", shapes.LogView),
        ("getReady", shapes.Ready),
        ("listReview", managed.ReviewPage),
        ("listTokens", managed.TokenList),
    ],
)
async def test_answers_are_of_their_types(node: Running, broker: Broker, name: str, kind: Any) -> None:
    """Decoded by the type itself, which refuses what it does not know."""
    await busy(node, broker)
    async with node.http.get(BY_NAME[name].path) as response:
        found = msgspec.json.decode(await response.read(), type=kind)
    for field in ("reports", "alarms", "review", "tokens") if name.startswith("list") else ():
        assert getattr(found, field, True), "an empty list shows nothing"


async def test_reports_are_of_their_types(node: Running, broker: Broker) -> None:
    """Own ones and received ones, and what was answered when they were filed and confirmed."""
    own, received = (await busy(node, broker))["report_id"]
    for path, kind in ((f"/v1/reports/{own}", shapes.OwnReport), (f"/v1/inbox/{received}", shapes.InboxReport)):
        async with node.http.get(path) as response:
            assert msgspec.json.decode(await response.read(), type=kind).revisions
    async with node.http.post(f"/v1/inbox/{received}/confirm", json={"state": "read"}) as response:
        msgspec.json.decode(await response.read(), type=shapes.Said)
    async with node.http.post("/v1/policy/explain", json=filing()) as response:
        assert msgspec.json.decode(await response.read(), type=shapes.Explanation).recipients
    async with node.http.post("/v1/reports", json=[filing("D"), {}]) as response:
        good, bad = msgspec.json.decode(await response.read(), type=shapes.FiledMany).results
    msgspec.convert(good, shapes.FiledItem)
    msgspec.convert(bad, shapes.RefusedItem)


async def test_what_waits_for_a_person_is_of_its_types(node: Running) -> None:
    """Held alone, in a list, from another format, over the quota; looked at, released, refused."""
    bot, ana = await make(node, "bot", "submit", require_release=True, per_minute=3), await make(node, "ana", "release")
    _, held, _ = await ask(node, bot, "POST", "/v1/reports", filing())
    msgspec.convert(held, shapes.HeldFiling)
    _, both, headers = await ask(node, bot, "POST", "/v1/reports", [filing("B"), {}])
    msgspec.convert(msgspec.convert(both, shapes.FiledMany).results[0], shapes.HeldItem)
    event = {"classification.type": "c2-server", "time.source": "2026-02-01T00:00:00Z", "source.ip": "203.0.113.4"}
    _, read, _ = await ask(node, bot, "POST", "/v1/reports?format=intelmq&tlp=GREEN", [event, {}])
    good, bad = msgspec.convert(read, shapes.FiledMany).results
    assert msgspec.convert(good, shapes.HeldItem).source
    assert msgspec.convert(bad, shapes.RefusedItem).source
    for more in (filing("E"), [filing("F")]):
        status, over, limits = await ask(node, bot, "POST", "/v1/reports", more)
        assert (status, int(limits["Retry-After"]) > 0) == (429, True)
        msgspec.convert(over, shapes.FiledMany if isinstance(more, list) else shapes.Problem)
    for number, word, told in ((1, "release", None), (2, "refuse", {"why": "a test"})):
        status, shown, _ = await ask(node, ana, "POST", f"/v1/review/{number}/{word}", told)
        assert (status, shown["review"]) == (200, number)
        msgspec.convert(shown, managed.ReviewEntry, strict=False)
    _, course, _ = await ask(node, bot, "GET", headers["Location"])
    assert {one.state for one in msgspec.convert(course, shapes.SubmissionView, strict=False).items} == {"refused"}


async def test_tokens_and_webhooks_are_of_their_types(tmp_path: Path, clock: Clock) -> None:
    """Made, rotated, revoked; looked at, tested, enabled, replayed."""
    async with running(configured(tmp_path, Hook(url="http://127.0.0.1:9/")), clock, MemoryBus()) as node:
        for path, body, kind in (
            ("/v1/tokens", {"name": "eye", "scopes": ["read"], "tlp": "GREEN"}, managed.TokenMade),
            ("/v1/tokens/eye/rotate", {"overlap_minutes": 5}, managed.TokenRotated),
            ("/v1/tokens/eye/revoke", None, managed.TokenRevoked),
            ("/v1/webhooks/webhook/enable", None, managed.WebhookView),
            ("/v1/webhooks/webhook/replay", {"from": 1}, managed.WebhookReplayed),
            ("/v1/webhooks/webhook/test", None, managed.WebhookTested),
        ):
            async with node.http.post(path, json=body) as response:
                assert response.status in (200, 201), path
                msgspec.json.decode(await response.read(), type=kind)
        async with node.http.get("/v1/webhooks") as response:
            assert msgspec.json.decode(await response.read(), type=managed.WebhookList).webhooks


async def test_not_ready_is_as_described(start: Start) -> None:
    """503 with the same document as 200."""
    bus = MemoryBus()
    bus.up = False
    node = await start(bus)
    async with node.http.get("/readyz") as response:
        assert response.status == 503
        assert not msgspec.json.decode(await response.read(), type=shapes.Ready).ready


async def test_the_feed_is_as_described(node: Running, broker: Broker) -> None:
    """Its media type, and first of all the id from which to go on."""
    await busy(node, broker)
    assert BY_NAME["listen"].answers[200][0].media == EVENTS
    async with node.http.get("/v1/feed") as response:
        assert response.content_type == EVENTS
        lines = [(await response.content.readline()).decode().strip() for _ in range(4)]
    assert "retry: 1000" in lines
    here = next(int(line.removeprefix("id: ")) for line in lines if line.startswith("id: "))
    async with node.http.get(f"/v1/feed?after={here}") as response:
        assert response.status == 200


def test_the_reasons_of_filing_are_declared() -> None:
    """Every code that the code of filing raises is listed at the address where one files."""
    root = Path(shapes.__file__).parent.parent
    own = ["intake.py", "foreign.py", "admission.py", "identity.py", "signing.py", "filing.py", "api/reports.py"]
    raised = {
        Reason[name]
        for file in (*map(root.joinpath, own), *root.glob("formats/*.py"))
        for name in re.findall(r"ProtocolError\(\s*Reason\.([A-Z_]+)", file.read_text(encoding="utf-8"))
    }
    read_only = {Reason.NOT_WITNESSED, Reason.LEAF_MISSING, Reason.UNKNOWN_PATH}
    assert raised - set(BY_NAME["fileReports"].reasons) - read_only == set()
    assert set(get_args(shapes.OwnState)) >= set(get_args(shapes.Filed.__annotations__["state"]) or ())


class _Outside(HTMLParser):
    """Finds what a browser would fetch or run, the targets of links, and the styles."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.styles: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        if tag in ("script", "link", "img", "iframe", "object", "base", "form"):
            self.fetched.append(tag)
        for name, value in attrs:
            if name in ("src", "style") or name[:2] == "on":
                self.fetched.append(f"{tag} {name}={value}")
            if name == "href":
                self.targets.append(value or "")
            if name == "id":
                self.ids.add(value or "")

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.styles.append(data)
            self._in_style = False


async def test_the_page_needs_nothing_but_itself(node: Running) -> None:
    """No script, nothing from elsewhere; its policy allows its own style alone; its links lead somewhere."""
    async with aiohttp.ClientSession(node.node.url) as http, http.get("/docs") as response:
        assert (response.status, response.content_type) == (200, "text/html")
        policy = response.headers["Content-Security-Policy"]
        page = await response.text()
    found = _Outside()
    found.feed(page)
    assert found.fetched == []
    [style] = found.styles
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    assert {target[1:] for target in found.targets if target.startswith("#")} <= found.ids
    assert {target for target in found.targets if not target.startswith("#")} == {"/openapi.json"}
    for operation in OPERATIONS:
        assert operation.path in page
    assert json.dumps("ransomware")[1:-1] in page
