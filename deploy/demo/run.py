"""`kentongan demo`: real incidents travel from five national nodes through a broker to each other.

Everything is real: processes, sockets, signatures, SQLite, the NATS server. What is shown at the end is read back from
the nodes over their HTTP doors; nothing is taken from the scenario but the labels.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Final
from uuid import uuid4

import aiohttp
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from deploy.demo import show
from deploy.demo.client import Answer, Door
from deploy.demo.forge import inject
from deploy.demo.processes import Tree
from deploy.demo.proof import Proven, evidence, proven, wait_for_proof
from deploy.demo.region import Place, make, start
from deploy.demo.scenario import COORDINATOR, MEMBERS, Json, Post, Scenario, build, campaigns, malformed, not_filed

SETTLE_SECONDS: Final = 120.0
AT_ONCE: Final = 4


@dataclass(slots=True)
class Filed:
    """A report that a node has accepted."""

    post: Post
    report_id: str
    revision: int
    seconds: float


@dataclass(slots=True)
class Story:
    """What happened so far."""

    filed: list[Filed] = field(default_factory=list)
    special: list[tuple[str, str, str]] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    """Incident to report id."""


class Demo:
    """One run."""

    def __init__(self, place: Place, doors: dict[str, Door], console: Console) -> None:
        self.place = place
        self._doors = doors
        self._console = console
        self.story = Story()

    def say(self, text: str) -> None:
        """A line of progress."""
        self._console.print(text, highlight=False)

    async def file(self, post: Post) -> Answer:
        """File one report at its member's node."""
        body = post.filing
        if post.revises:
            report_id = self.story.ids[post.incident]
            known = await self._doors[post.member].get(f"/v1/reports/{report_id}")
            body = {**body, "report_id": report_id, "revision": len(known["revisions"]) + 1}
        answer = await self._doors[post.member].call("POST", "/v1/reports", body)
        if answer.status == 202:
            self.story.ids.setdefault(post.incident, answer.body["report_id"])
            filed = Filed(post, answer.body["report_id"], answer.body["revision"], answer.seconds)
            self.story.filed.append(filed)
        else:
            self.story.special.append((post.incident, f"refused {answer.status}", answer.body.get("reason", "?")))
        return answer

    async def file_all(self, scenario: Scenario, progress: Callable[[int], None]) -> None:
        """File first reports at all nodes side by side, then their revisions in order."""
        gate = asyncio.Semaphore(AT_ONCE)
        done = 0

        async def one(post: Post) -> None:
            nonlocal done
            async with gate:
                await self.file(post)
            done += 1
            progress(done)

        async with asyncio.TaskGroup() as group:
            for post in scenario.first:
                group.create_task(one(post))
        for post in scenario.revisions:
            await one(post)

    async def trouble(self, scenario: Scenario) -> None:
        """A tool that posts twice, the same content under a new id, a malformed report, a conflict, a forgery."""
        posts = {post.incident: post for post in scenario.first}
        again = posts["sg-ocbc-phishing-2021"]
        answer = await self._doors["sg"].call("POST", "/v1/reports", again.filing)
        same = answer.body.get("report_id") == self.story.ids[again.incident]
        self._note("sg: a tool posts the same report twice", "same answer, one report" if same else "TWO REPORTS", "")

        copy = {**again.filing, "report_id": str(uuid4())}
        answer = await self._doors["sg"].call("POST", "/v1/reports", copy)
        state, why = await self._outcome("sg", answer.body["report_id"])
        self._note("sg: the same content under a new id", state, why)

        answer = await self._doors["my"].call("POST", "/v1/reports", malformed(posts["my-mahb-2025"].filing))
        self._note("my: an RSIT type that does not exist", f"refused {answer.status}", _problem(answer))

        first = posts["id-pdns-brain-cipher-2024"]
        changed = {**first.filing, "report_id": self.story.ids[first.incident], "revision": 1, "purpose": "watch"}
        answer = await self._doors["id"].call("POST", "/v1/reports", changed)
        self._note("id: revision 1 again with other content", f"refused {answer.status}", _problem(answer))

        red = {**again.filing, "marking": {"tlp": "RED"}}
        answer = await self._doors["sg"].call("POST", "/v1/reports", red)
        self._note("sg: TLP:RED without recipients", f"refused {answer.status}", _problem(answer))

        await inject(self.place.directory / "vn")
        why = await self._alarm("vn")
        self._note("a stolen NATS credential of vn injects a report signed with another key", "refused", why)

    def _note(self, what: str, outcome: str, reason: str) -> None:
        self.story.special.append((what, outcome, reason))

    async def _outcome(self, member: str, report_id: str) -> tuple[str, str]:
        """What the broker's receipt said of a report."""
        while True:
            found = await self._doors[member].get(f"/v1/reports/{report_id}")
            revision = found["revisions"][-1]
            if revision["state"] not in ("queued", "sent"):
                refusal = revision.get("refusal", {})
                return revision["state"], f"{refusal.get('reason', '')}: {refusal.get('detail', '')}".strip(": ")
            await asyncio.sleep(0.05)

    async def _alarm(self, member: str) -> str:
        """The alarm that a node raises when somebody else used its transport credentials."""
        door = self._doors[member]
        headers = {"Authorization": f"Bearer {door.token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(door.url + "/v1/feed?after=0", headers=headers) as response,
        ):
            alarm = False
            async for line in response.content:
                if line.startswith(b"event: "):
                    alarm = line.strip() == b"event: alarm"
                elif alarm and line.startswith(b"data: "):
                    return _alarm_text(line[6:])
        return "?"

    async def confirm(self) -> None:
        """Analysts read what is severe, and act on what is linked to a report of their own."""
        for member in MEMBERS:
            for item in await self._doors[member].inbox():
                report = item["report"]
                severity = (report.get("header", report).get("severity") or {}).get("score", 0)
                if severity >= 60:
                    await self._say(member, item["report_id"], "read")
            own = await self._doors[member].get("/v1/reports?limit=200")
            for report_id in {line["report_id"] for line in own["reports"]}:
                status = await self._doors[member].get(f"/v1/reports/{report_id}")
                for link in status["links"][:1]:
                    await self._say(member, link["report_id"], "acting")

    async def _say(self, member: str, report_id: str, state: str) -> None:
        await self._doors[member].call("POST", f"/v1/inbox/{report_id}/confirm", {"state": state})

    async def statuses(self) -> dict[str, Json]:
        """Every filed report as its own node tells it."""
        ids = {filed.report_id: filed.post.member for filed in self.story.filed}
        return {
            report_id: await self._doors[member].get(f"/v1/reports/{report_id}") for report_id, member in ids.items()
        }

    async def settle(self) -> dict[str, Json]:
        """Wait until every granted recipient has confirmed; the statuses."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            statuses = await self.statuses()
            if not any(_open(status) for status in statuses.values()):
                return statuses
            if time.monotonic() > end:
                self.say("[red]not everything was confirmed in time[/red]")
                return statuses
            await asyncio.sleep(0.2)


def _problem(answer: Answer) -> str:
    body = answer.body
    return f"{body.get('reason')} at {body.get('path')}"


def _alarm_text(data: bytes) -> str:
    alarm = json.loads(data)
    return f"{alarm.get('refused')}; the node of vn raises an alarm ({alarm.get('reason')})"


def _open(status: Json) -> bool:
    """Whether a report still waits for its receipt or for a recipient's confirmation."""
    for revision in status["revisions"]:
        if revision["state"] in ("queued", "sent"):
            return True
        for member, found in revision["recipients"].items():
            if found.get("granted") and member != COORDINATOR and not found.get("confirmations"):
                return True
    return False


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _label(post: Post) -> str:
    title = str(post.filing["body"]["title"])
    return f"{title} ({post.label.partition(':')[0]})" if post.label else title


def _routed_rows(demo: Demo, statuses: dict[str, Json]) -> list[tuple[str, Json, Json]]:
    rows = []
    for filed in sorted(demo.story.filed, key=lambda item: (item.post.member, item.post.incident, item.revision)):
        revision = next(item for item in statuses[filed.report_id]["revisions"] if item["revision"] == filed.revision)
        header = {"origin": filed.post.member, "tlp": filed.post.filing["marking"]["tlp"]}
        if header["tlp"] == "RED":
            header["tlp"] = "RED sealed"
        if revision["state"] == "kept":
            continue
        recipients = {member: _with_held_back(revision, found) for member, found in revision["recipients"].items()}
        rows.append((_label(filed.post), header, recipients))
    return rows


def _kept_rows(demo: Demo, statuses: dict[str, Json]) -> list[tuple[str, str, str]]:
    kept = []
    for filed in demo.story.filed:
        for revision in statuses[filed.report_id]["revisions"]:
            if revision["revision"] == filed.revision and revision["state"] == "kept":
                what = f"{filed.post.member}: {_label(filed.post)} (TLP:{filed.post.filing['marking']['tlp']})"
                kept.append((what, "kept at home", "its own export policy lets nobody have it: nothing left the node"))
    return kept


def _with_held_back(revision: Json, found: Json) -> Json:
    """What a recipient does not get: what the broker withheld, and what never left its origin's node."""
    if not found.get("granted"):
        return found
    told = {item["unit"] for item in found["withheld"]}
    never_left = [item for item in revision.get("held_back") or () if item["unit"] not in told]
    return {**found, "withheld": [*found["withheld"], *never_left]}


def _decisions(statuses: dict[str, Json]) -> list[tuple[str, Json]]:
    return [
        (member, item)
        for status in statuses.values()
        for revision in status["revisions"]
        for member, found in revision["recipients"].items()
        for item in _with_held_back(revision, found).get("withheld", ())
    ]


def _link_rows(demo: Demo, statuses: dict[str, Json]) -> list[tuple[str, str, str, str, str]]:
    incident_of = {report_id: incident for incident, report_id in demo.story.ids.items()}
    truth = campaigns()
    seen: dict[tuple[str, str], Json] = {}
    for report_id, status in statuses.items():
        for link in status["links"]:
            pair = sorted((incident_of.get(report_id, "?"), incident_of.get(link["report_id"], "?")))
            seen[pair[0], pair[1]] = link
    rows = []
    for (a, b), link in sorted(seen.items()):
        same = truth.get(a) is not None and truth.get(a) == truth.get(b)
        on = ", ".join(f"{number} {kind}" for kind, number in sorted(link["on"].items()))
        rows.append((a, b, link["strength"], on, f"yes: {truth[a]}" if same else "[red]no[/red]"))
    return rows


def _missed_links(demo: Demo, rows: Sequence[tuple[str, str, str, str, str]]) -> int:
    """Pairs of different members in one campaign for which no link was found."""
    truth = campaigns()
    filed = {filed.post.incident: filed.post.member for filed in demo.story.filed}
    found = {(row[0], row[1]) for row in rows}
    return sum(
        1
        for a, b in combinations(sorted(filed), 2)
        if filed[a] != filed[b] and truth.get(a) and truth.get(a) == truth.get(b) and (a, b) not in found
    )


def _timings(demo: Demo, statuses: dict[str, Json]) -> list[tuple[str, list[float]]]:
    received: list[float] = []
    for status in statuses.values():
        for revision in status["revisions"]:
            filed_at = _time(revision["filed_at"])
            for found in revision["recipients"].values():
                received += [
                    (_time(item["at"]) - filed_at).total_seconds()
                    for item in found.get("confirmations", ())
                    if item["state"] == "received"
                ]
    return [
        ("post answered 202 (signed and on disk)", [item.seconds for item in demo.story.filed]),
        ("from disk to the recipient's signed confirmation", received),
    ]


def _print(demo: Demo, statuses: dict[str, Json], console: Console) -> bool:
    """The tables; False if something that must not be is seen."""
    rows = _routed_rows(demo, statuses)
    console.print()
    console.print(show.members_line(), style="dim")
    console.print(show.routed_table(rows))
    show.legend(console)
    console.print()
    console.print(show.withheld_table(_decisions(statuses)))
    console.print()
    console.print(show.special_table([*demo.story.special, *_kept_rows(demo, statuses)]))
    console.print()
    links = _link_rows(demo, statuses)
    console.print(show.links_table(links))
    missed = _missed_links(demo, links)
    console.print(
        f"{len(links)} pairs linked by identifiers; {missed} pairs of one campaign share no identifier that may be"
        " compared, and stay unlinked. Linking never sees the campaign.",
        style="dim",
    )
    console.print()
    for what, seconds in _timings(demo, statuses):
        console.print(f"{what}: {show.percentiles(seconds)}", highlight=False)
    confirmed = sum(
        1
        for status in statuses.values()
        for revision in status["revisions"]
        for found in revision["recipients"].values()
        if found.get("confirmations")
    )
    console.print(
        f"{len(rows)} report revisions routed, {confirmed} deliveries confirmed by their recipients' signatures.",
        highlight=False,
    )
    return not any(_open(status) for status in statuses.values())


async def _print_proof(demo: Demo, log: Proven, console: Console) -> bool:
    """False if anything is missing from the log, or contradicted."""
    console.print(
        f"Log of {log.size} receipts, cosigned by {', '.join(log.witnesses)} (quorum {log.quorum}). Every node looked"
        f" for each of its receipts and deliveries in it: {log.missing} missing, {log.alarms} alarms.",
        highlight=False,
    )
    timing = show.percentiles(log.seconds)
    console.print(f"from disk to the proof that it is logged and witnessed: {timing}", highlight=False)
    filed = demo.story.filed[0]
    code, found = await asyncio.to_thread(evidence, demo.place, filed.post.member, filed.report_id)
    console.print(
        f"Evidence of {filed.post.incident}, exported at {filed.post.member} and verified offline:"
        f" {found.proven} statements proven, {found.false} false, {found.open} not checkable.",
        highlight=False,
    )
    return log.whole and code == 0


async def _play(args: argparse.Namespace, directory: Path, console: Console) -> int:
    tree = Tree(directory / "logs")
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        stack.push_async_callback(tree.stop)
        began = time.monotonic()
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
        ) as progress:
            task = progress.add_task("making keys, accounts and policies for five CERTs and a coordinator")
            place = await asyncio.to_thread(make, directory, args.base_port)
            progress.update(task, description="starting the broker with its NATS server, and five nodes")
            doors = await start(place, tree, session)
            scenario = build()
            demo = Demo(place, doors, console)
            total = len(scenario.first) + len(scenario.revisions)

            def filed(number: int) -> None:
                progress.update(task, description=f"filing real incidents over HTTP: {number} of {total}")

            await demo.file_all(scenario, filed)
            progress.update(task, description="duplicates, mistakes and a forgery")
            await demo.trouble(scenario)
            progress.update(task, description="waiting for the recipients' confirmations")
            await demo.settle()
            progress.update(task, description="analysts read, and act on what is linked")
            await demo.confirm()
            await demo.settle()
            progress.update(task, description="the nodes look for everything in the broker's log")
            views = await wait_for_proof(doors, MEMBERS)
            statuses = await demo.settle()
        complete = _print(demo, statuses, console)
        complete &= await _print_proof(demo, proven(views, statuses), console)
        elsewhere = not_filed()
        console.print(
            f"{len(elsewhere)} more incidents in the data are of countries without a node here and were not filed.",
            style="dim",
        )
        console.print(f"Done in {time.monotonic() - began:.0f} s. Logs and data: {directory}", highlight=False)
        if args.keep:
            _print_doors(place, console)
            await _until_stopped()
            console.print("Stopping ...")
        return 0 if complete else 1


def _print_doors(place: Place, console: Console) -> None:
    console.print(f"\nRunning until Ctrl-C. Doors and tokens are in {place.directory / 'demo.json'}:", highlight=False)
    for name in ("broker", *MEMBERS):
        console.print(f"  {name:7} {place.url(name)}", highlight=False)
    console.print(
        f"\n  curl -H 'Authorization: Bearer {place.tokens['jp']}' '{place.url('jp')}/v1/inbox?limit=1'",
        highlight=False,
        soft_wrap=True,
    )


async def _until_stopped() -> None:
    await asyncio.Event().wait()


def main(args: argparse.Namespace) -> int:
    """Run the demonstration; 0 if everything that was accepted was confirmed."""
    directory = Path(args.data).absolute() if args.data else Path(tempfile.mkdtemp(prefix="kentongan-demo-"))
    directory.mkdir(parents=True, exist_ok=True)
    console = Console(width=int(os.environ.get("COLUMNS", "0")) or None)
    if not console.is_terminal:
        console = Console(width=150)

    async def play() -> int:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("no running task")
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await _play(args, directory, console)

    try:
        return asyncio.run(play())
    except asyncio.CancelledError:
        console.print("Stopped.")
        return 0 if args.keep else 130
