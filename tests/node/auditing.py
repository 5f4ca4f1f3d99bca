"""A region with an auditor, in one process: real cores and a real broker, which can be made to lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from broker.auditing import Auditing
from broker.members import RegionState
from node.auditing import Line, Page
from node.auditor import Asked, Auditor
from node.loops import State
from protocol import auditing, logrpc, subjects
from protocol.auditing import Case, CasesAnswer, CasesRequest, WordsAnswer, sign_answer
from protocol.logrpc import ProveRequest
from tests.federation import Federation, filing
from tests.proof import World

RED = {"marking": {"tlp": "RED", "recipients": ["sg"]}}
Lie = Callable[[Any], Any]


async def _never(*_: Any) -> Any:
    raise AssertionError("asked on its own thread")


class Broker:
    """The broker's services as a node sees them; `lies` change an answer, and the broker signs what it then says."""

    connected = True

    def __init__(self, world: World, member: str, state: RegionState | None = None) -> None:
        self.world = world
        self.member = member
        self.service = Auditing(world.ledger, world.broker_key, lambda: state or world.state, _never, world.clock)
        self.lies: dict[str, Lie] = {}
        self.seen: list[bytes] = []
        """All that the member was ever answered."""
        self.asked: list[str] = []

    async def request(self, subject: str, data: bytes, _timeout: float) -> bytes:
        method = subject.removeprefix(subjects.rpc("x").removesuffix("x"))
        self.asked.append(method)
        if method == logrpc.PROVE:
            paths = self.world.log.prove(msgspec.json.decode(data, type=ProveRequest))
            return msgspec.json.encode(self.lies.get(method, lambda found: found)(paths))
        answer = self.service.find(self.member, method, data)
        if lie := self.lies.get(method):
            body = answer.partition(b"\n")[2]
            kind = CasesAnswer if method == auditing.CASES else WordsAnswer
            found = lie(msgspec.json.decode(body, type=kind))
            answer = sign_answer(data, msgspec.json.encode(found), self.member, self.world.broker_key, self.now())
        if lie := self.lies.get("bytes"):
            answer = lie(answer)
        self.seen.append(answer)
        return answer

    def now(self) -> datetime:
        return self.world.clock.now

    def lie_about_cases(self, change: Callable[[Case], Case | None]) -> None:
        """Say something else of each case, or leave it out."""

        def changed(answer: CasesAnswer) -> CasesAnswer:
            cases = [found for case in answer.cases if (found := change(case)) is not None]
            return msgspec.structs.replace(answer, cases=cases)

        self.lies[auditing.CASES] = changed


class Desk:
    """An auditor at a node."""

    def __init__(self, world: World, member: str, state: RegionState | None = None) -> None:
        self.broker = Broker(world, member, state)
        self.state = State()
        self.state.link = self.broker  # type: ignore[assignment]
        self.auditor = Auditor(world.nodes[member], self.state)
        self.world = world

    async def page(self, recipient: str = "", *, evidence: bool = False, **asked: Any) -> Page:
        return await self.auditor.page(Asked(CasesRequest(**asked), recipient, evidence), self.world.clock.now)

    async def lines(self, recipient: str = "", **asked: Any) -> list[Line]:
        """Of all pages; the pages themselves hold."""
        lines: list[Line] = []
        first = asked.pop("first", 0)
        while True:
            page = await self.page(recipient, first=first, **asked)
            assert page.faults == []
            lines += page.lines
            if not page.more:
                return lines
            assert page.next > first
            first = page.next


@contextmanager
def audited(directory: Path) -> Iterator[tuple[World, dict[str, str]]]:
    """Indonesia and Japan have shared something with each other and with Singapore; Indonesia has an auditor."""
    world = World(directory, ["id", "jp", "sg", "id-audit"], auditors={"id-audit": "id"})
    ids: dict[str, str] = {}

    def post(name: str, **documents: dict[str, Any]) -> None:
        """In one submission."""
        for about, answer in zip(documents, world.post(name, *documents.values()), strict=True):
            ids[about] = answer["report_id"]

    # Of one submission Indonesia is granted one report, and does not know of the other.
    post("jp", received=filing(2), foreign=filing(3, **RED))
    world.settle()
    post("jp", hidden=filing(5, **RED))
    world.settle()
    post("id", sent=filing(1))
    post("id", again=filing(4, marking={"tlp": "RED", "recipients": ["jp"]}))
    world.settle()
    world.nodes["jp"].confirm(ids["sent"], "acting")
    world.nodes["id"].confirm(ids["received"], "read")
    world.settle()
    Federation.examine(world)
    try:
        yield world, ids
    finally:
        world.ledger.close()
        for node in world.nodes.values():
            node.store.close()


def of(lines: list[Line], report_id: str) -> list[Line]:
    """The lines about a report."""
    return [line for line in lines if line.report_id == report_id]


def reasons(line: Line) -> set[str]:
    """Why a line does not hold."""
    return {fault.reason for fault in line.faults}
