"""A token that is limited to a marking: nothing above it is in any answer, whatever is asked and whatever happened."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import msgspec
import pytest

from protocol import statements as st
from protocol.access import TLPS, Client, allows, readable
from protocol.envelope import SignedReport
from protocol.report import Filing
from protocol.subjects import Kind
from tests.node.asking import ask, make
from tests.node.conftest import Running
from tests.node.test_tokens import OPENED
from tests.node.test_words import word_of
from tests.node.world import Broker, Clock, Msg, confirmed, filing, foreign, receipts, released

HIGH = "high-9a41"
"""Stands in everything that is above the limit."""


@pytest.mark.parametrize("limit", TLPS)
def test_what_a_limit_allows(limit: str) -> None:
    """Itself and what is below; an unknown marking, or limit, is above everything."""
    client = Client("x", tlp=limit)
    assert [tlp for tlp in TLPS if allows(client, tlp)] == list(TLPS[: TLPS.index(limit) + 1]) == list(readable(client))
    assert not allows(client, "PURPLE")
    assert not allows(Client("x", tlp="PURPLE"), "CLEAR")


def marking(tlp: str) -> dict[str, Any]:
    return {"tlp": tlp, "recipients": ["my"]} if tlp == "RED" else {"tlp": tlp}


class World:
    """A node in which much has happened; `above` has what a GREEN token must never see."""

    def __init__(self, node: Running, broker: Broker, seed: int) -> None:
        self.node, self.broker, self.random = node, broker, random.Random(seed)
        self.above: set[str] = {HIGH}
        self.below: set[str] = set()
        self.ids: list[str] = []

    def _note(self, tlps: list[str], report_id: str, digests: list[str]) -> None:
        self.ids.append(report_id)
        if all(tlp in ("CLEAR", "GREEN") for tlp in tlps):
            self.below.add(report_id)
        elif not any(tlp in ("CLEAR", "GREEN") for tlp in tlps):
            self.above.add(report_id)
        self.above |= {digest for tlp, digest in zip(tlps, digests, strict=True) if tlp not in ("CLEAR", "GREEN")}

    def title(self, tlp: str, text: str) -> str:
        return text if tlp in ("CLEAR", "GREEN") else f"{HIGH} {text}"

    async def file(self, index: int) -> None:
        """An own report of one to three revisions, each marked anew."""
        tlps = [self.random.choice(TLPS) for _ in range(self.random.randint(1, 3))]
        report_id, digests = "", []
        for revision, tlp in enumerate(tlps, 1):
            ids = {"report_id": report_id, "revision": revision} if report_id else {}
            document = filing(self.title(tlp, f"own {index}/{revision}"), marking=marking(tlp), **ids)
            status, answer, _ = await self.node.post(document)
            if status != 202:
                # TLP:RED to a member without a sealing key.
                tlps = tlps[: revision - 1]
                break
            report_id = answer["report_id"]
            digests.append(answer["digest"])
        if report_id:
            self._note(tlps, report_id, digests)

    async def receive(self, index: int) -> None:
        """Another member's report, which may be withdrawn, or confirmed."""
        tlp = self.random.choice(TLPS[:4])
        said = filing(self.title(tlp, f"their {index}"), marking=marking(tlp))
        envelope = foreign(marking=_part(said, "marking"), body=_part(said, "body"))
        (report,) = envelope.reports
        assert isinstance(report, SignedReport)
        self.node.bus.inbox.append(self.broker.delivery(released(envelope)))
        self._note([tlp], str(report.header.report_id), [report.digest])
        await self.node.bus.until(lambda: not self.node.bus.inbox and not self.node.bus.unacked)
        if self.random.random() < 0.5:
            path = f"/v1/inbox/{report.header.report_id}/confirm"
            async with self.node.http.post(path, json={"state": "read"}) as response:
                assert response.status == 200

    async def settle(self) -> None:
        """Receipts, words of recipients, and links between all reports."""
        sent = [message.data for message in self.node.bus.sent if message.kind == Kind.SUBMISSION]
        for message in sent:
            self.node.bus.inbox.append(receipts(self.broker.receipt(message)))
            for report in self.broker.open(message).reports:
                self.node.bus.inbox.append(confirmed(word_of(self.broker, report.digest, "read")))
        async with self.node.http.get("/v1/reports?limit=500") as response:
            own = (await response.json())["reports"]
        async with self.node.http.get("/v1/inbox?limit=500") as response:
            theirs = (await response.json())["reports"]
        links = [
            st.Link(
                a=st.LinkedReport(report_id=a["report_id"], digest=a["digest"], origin="id"),
                b=st.LinkedReport(report_id=b["report_id"], digest=b["digest"], origin="my"),
                strength="strong",
                on={"ip": 1},
            )
            for a in own
            for b in theirs
        ]
        if links:
            letter = st.Links(iss=st.BROKER, aud="id-cert", at=self.broker.clock(), links=links[:50])
            self.node.bus.inbox.append(Msg(Kind.LINKS, self.broker.sign(letter).encode()))
        self.node.bus.inbox.append(Msg(Kind.DELIVERY, b"nonsense"))
        await self.node.bus.until(lambda: not self.node.bus.inbox and not self.node.bus.unacked)


def _part(said: dict[str, Any], name: str) -> Any:
    return getattr(msgspec.convert(said, Filing), name)


async def everything(node: Running, token: str, ids: list[str]) -> dict[str, str]:
    """What a token is answered at every address that can be read, for every report, and the whole feed."""
    found: dict[str, str] = {}
    for address in OPENED:
        method, _, path = address.partition(" ")
        if path == "/v1/feed" or method != "GET":
            continue
        for name in ids if "{report_id}" in path else [""]:
            place = path.replace("{report_id}", name).replace("{id}", "1")
            status, body, _ = await ask(node, token, "GET", place + ("?limit=500" if not name else ""))
            # A refusal repeats the address that was asked for.
            found[place] = "" if status in (403, 404) else json.dumps(body)
    headers = {"Authorization": f"Bearer {token}", "Last-Event-ID": "0"}
    async with node.http.get("/v1/feed", headers=headers) as response:
        text = b""
        try:
            async with asyncio.timeout(0.5):
                async for chunk in response.content.iter_any():
                    text += chunk
        except TimeoutError:
            pass
    found["/v1/feed"] = text.decode()
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_above_the_limit_is_in_any_answer(node: Running, broker: Broker, clock: Clock, seed: int) -> None:
    """By content, digest and id; and what is at or below it is there, so that the silence means something."""
    world = World(node, broker, seed)
    for index in range(12):
        await (world.file(index) if world.random.random() < 0.5 else world.receive(index))
    held = await make(node, "bot", "submit", require_release=True)
    assert (await ask(node, held, "POST", "/v1/reports", filing(f"{HIGH} held", marking=marking("AMBER"))))[0] == 202
    await world.settle()
    scopes = ("submit", "read", "confirm", "release")
    low, high = await make(node, "low", *scopes, tlp="GREEN"), await make(node, "high", *scopes)
    shown, all_of_it = await everything(node, low, world.ids), await everything(node, high, world.ids)
    for place, text in shown.items():
        hidden = [word for word in world.above if word in text]
        assert hidden == [], place
        assert all(tlp not in text for tlp in ('"AMBER', '"RED"')), place
    assert len(world.above) > 3
    assert any('"strength"' in text for text in all_of_it.values())
    assert all(any(word in text for text in all_of_it.values()) for word in world.above)
    for word in world.below:
        assert any(word in text for place, text in shown.items() if place != "/v1/feed")
        assert word in shown["/v1/feed"]
    status, problem, _ = await ask(node, low, "GET", "/v1/alarms")
    assert (status, problem["reason"]) == (403, "tlp-not-allowed")
    for report_id in world.ids:
        path = f"/v1/inbox/{report_id}/confirm"
        if report_id in world.above:
            assert (await ask(node, low, "POST", path, {"state": "closed"}))[1]["reason"] == "unknown-report"


async def test_what_was_erased_keeps_its_marking(node: Running, broker: Broker) -> None:
    """A withdrawn AMBER report is no more to be seen than before."""
    envelope = foreign(marking=_part(filing(marking=marking("AMBER")), "marking"))
    (report,) = envelope.reports
    assert isinstance(report, SignedReport)
    name, incident = report.header.report_id, report.header.incident_id
    end = foreign(report_id=name, incident_id=incident, revision=2, phase="withdrawn", supersedes=report.digest)
    for each in (envelope, end):
        node.bus.inbox.append(broker.delivery(released(each)))
        await node.bus.until(lambda: not node.bus.inbox and not node.bus.unacked)
    low = await make(node, "low", "read", tlp="GREEN")
    _, found, _ = await ask(node, low, "GET", f"/v1/inbox/{name}")
    assert [line["revision"] for line in found["revisions"]] == [2]
    assert [line["revision"] for line in (await node.get(f"/v1/inbox/{name}"))["revisions"]] == [1, 2]
