"""Runs the benchmarks: `python -m tests.bench [a] [b] [c] [d] [g] [l] [p] [s] [t] [--reports N]`. Never judges."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp

from protocol import subjects
from protocol.bus import NatsBus
from protocol.invitation import load_invitation
from protocol.keys import SigningKey
from tests import postgresql
from tests.bench import limits, log, policy, sealing, taxii
from tests.bench.load import filing, submissions
from tests.bench.region import Place, cpu_seconds, memory_mb

RECIPIENTS = [f"m{number}" for number in range(1, 11)]


def show(name: str, figure: str) -> None:
    """One line of the result."""
    print(f"  {name:<74} {figure}", flush=True)


@asynccontextmanager
async def region(*members: str) -> AsyncIterator[Place]:
    """A region in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="kentongan-bench-") as name:
        place = Place(Path(name), members)
        place.make()
        try:
            yield place
        finally:
            await place.stop()


async def get(session: aiohttp.ClientSession, place: Place, name: str, path: str) -> Any:
    """JSON from a door."""
    headers = {"Authorization": f"Bearer {place.tokens[name]}"}
    async with session.get(place.url(name) + path, headers=headers) as answer:
        return await answer.json()


async def sent_reports(session: aiohttp.ClientSession, place: Place) -> int:
    """How many delivery messages the brokers have stored in inboxes."""
    wanted, found = 'kentongan_broker_messages_sent_total{kind="delivery"}', 0
    for name in place.brokers:
        async with session.get(place.url(name) + "/metrics") as answer:
            text = await answer.text()
        found += next((int(float(line.split()[-1])) for line in text.splitlines() if line.startswith(wanted)), 0)
    return found


async def bench_a(reports: int, per_message: int, ledger: str = "", brokers: int = 1) -> None:
    """Reports/s from signed submissions on the bus to committed receipts and deliveries stored in ten inboxes.

    Args:
        ledger: the URL of a database; SQLite if none.
        brokers: how many processes share it.
    """
    async with region("m0", *RECIPIENTS) as place, aiohttp.ClientSession() as session:
        key = SigningKey.load(place.directory / "m0" / "keys" / "signing.pem")
        messages = submissions("m0", key, reports, per_message)
        if ledger:
            place.share(ledger, brokers)
        for name in place.brokers:
            await place.start(name, core=0 if brokers == 1 else None)
        pids = [place.processes[name].pid for name in place.brokers]
        bus = await NatsBus.connect(
            load_invitation(place.directory / "m0" / "invitation.json").url,
            creds=place.directory / "m0" / "keys" / "nats.creds",
            name="bench",
            stream=subjects.inbox_stream("m0"),
            consumer=subjects.NODE_CONSUMER,
            publish_timeout=60.0,
        )
        cpu, began = sum(map(cpu_seconds, pids)), time.perf_counter()
        gate = asyncio.Semaphore(64)

        async def publish(message: bytes) -> None:
            async with gate:
                await bus.publish(subjects.INTAKE, subjects.Kind.SUBMISSION, message)

        await asyncio.gather(*(publish(message) for message in messages))
        published = time.perf_counter() - began
        while (await get(session, place, "broker", "/v1/status"))["reports"] < reports:
            await asyncio.sleep(0.02)
        committed = time.perf_counter() - began
        last, steady = -1, time.perf_counter()
        while time.perf_counter() - steady < 1.0:
            now = await sent_reports(session, place)
            if now != last:
                last, steady = now, time.perf_counter()
            await asyncio.sleep(0.05)
        delivered = steady - began
        used = sum(map(cpu_seconds, pids)) - cpu
        await bus.close()
        size = sum(map(len, messages)) / reports
        where = f"(g) {brokers} on PostgreSQL" if ledger else "(a)"
        show(f"{where} {per_message} a submission: committed, 10 recipients", f"{reports / committed:,.0f} reports/s")
        show("    ... and stored in all ten inboxes", f"{reports / delivered:,.0f} reports/s")
        pinned = " (pinned to one core)" if brokers == 1 else ""
        show(f"    brokers' processor time a report{pinned}", f"{used / reports * 1e6:,.0f} us")
        show("    signed bytes a report; published at", f"{size:,.0f}; {reports / published:,.0f} reports/s")


async def bench_b(singles: int, batches: int) -> None:
    """HTTP posts/s at a node: 202 means signed and on disk."""
    async with region("m0", "m1") as place:
        await place.start("broker")
        await place.start("m0")
        headers = {"Authorization": f"Bearer {place.tokens['m0']}"}
        connector = aiohttp.TCPConnector(limit=32)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            gate = asyncio.Semaphore(32)

            async def post(body: bytes, kind: str = "application/json") -> None:
                given = {"Content-Type": kind}
                async with gate, session.post(place.url("m0") + "/v1/reports", data=body, headers=given) as answer:
                    assert answer.status == 202, await answer.text()
                    await answer.read()

            async def timed(name: str, bodies: list[bytes], reports: int, kind: str = "application/json") -> None:
                pid = place.processes["m0"].pid
                cpu, began = cpu_seconds(pid), time.perf_counter()
                await asyncio.gather(*(post(body, kind) for body in bodies))
                number, seconds = len(bodies) * reports, time.perf_counter() - began
                used = (cpu_seconds(pid) - cpu) / number * 1e6
                show(name, f"{number / seconds:,.0f} reports/s; {used:,.0f} us of the node's processor time each")

            numbers = count()
            lone = [json.dumps(filing(next(numbers))).encode() for _ in range(singles)]
            await timed("(b) single posts, 32 at once", lone, 1)
            arrays = [json.dumps([filing(next(numbers)) for _ in range(100)]).encode() for _ in range(batches)]
            await timed("    arrays of 100", arrays, 100)
            lines = [b"\n".join(json.dumps(filing(next(numbers))).encode() for _ in range(100)) for _ in range(batches)]
            await timed("    NDJSON, 100 lines", lines, 100, "application/x-ndjson")


async def bench_c(posts: int) -> None:
    """From the start of the post to the event on the recipient's feed, at ten posts a second."""
    async with region("m0", "m1") as place, aiohttp.ClientSession() as session:
        for name in ("broker", "m0", "m1"):
            await place.start(name)
        seen: dict[str, float] = {}
        listening = asyncio.Event()

        async def listen() -> None:
            headers = {"Authorization": f"Bearer {place.tokens['m1']}"}
            async with session.get(place.url("m1") + "/v1/feed?after=0", headers=headers, timeout=None) as answer:
                listening.set()
                async for line in answer.content:
                    if line.startswith(b"data: "):
                        event = json.loads(line[6:])
                        if "report_id" in event:
                            seen.setdefault(event["report_id"], time.perf_counter())

        listener = asyncio.create_task(listen())
        await listening.wait()
        sent: dict[str, float] = {}
        answered: list[float] = []
        headers = {"Authorization": f"Bearer {place.tokens['m0']}"}
        for number in range(posts + 10):
            began = time.perf_counter()
            async with session.post(place.url("m0") + "/v1/reports", json=filing(number), headers=headers) as answer:
                report = await answer.json()
            if number >= 10:
                answered.append(time.perf_counter() - began)
                sent[report["report_id"]] = began
            await asyncio.sleep(max(0.0, began + 0.1 - time.perf_counter()))
        end = time.monotonic() + 30
        while not set(sent) <= set(seen) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        listener.cancel()
        took = [seen[report] - began for report, began in sent.items() if report in seen]
        show("(c) post to recipient's feed at 10/s, p50 / p99", _percentiles(took))
        show("    post to 202, p50 / p99", _percentiles(answered))
        if len(took) < len(sent):
            show("    NOT ARRIVED within 30 s", str(len(sent) - len(took)))


def bench_g(reports: int) -> None:
    """Part a with the ledger on PostgreSQL: one broker, and two; beside SQLite in the same run."""
    with postgresql.server() as server:
        if server is None:
            show("(g) ledger on PostgreSQL", postgresql.MISSING)
            return
        asyncio.run(bench_a(reports, 64))
        for brokers in (1, 2):
            asyncio.run(bench_a(reports, 64, server.create(), brokers))


async def bench_t() -> None:
    """TAXII pages, and events to many listeners."""
    async with region("m0", "m1") as place:
        for name, figure in await taxii.measure(place):
            show(f"(t) {name}", figure)


def _percentiles(seconds: list[float]) -> str:
    return f"{median(seconds) * 1000:.1f} / {quantiles(seconds, n=100)[98] * 1000:.1f} ms"


async def bench_d(reports: int) -> None:
    """Resident memory of each process after many reports went all the way."""
    async with region("m0", "m1") as place, aiohttp.ClientSession() as session:
        for name in ("broker", "m0", "m1"):
            await place.start(name)
        headers = {"Authorization": f"Bearer {place.tokens['m0']}", "Content-Type": "application/json"}
        began = time.perf_counter()
        gate = asyncio.Semaphore(4)

        async def post(first: int) -> None:
            body = json.dumps([filing(first + number) for number in range(100)]).encode()
            async with gate, session.post(place.url("m0") + "/v1/reports", data=body, headers=headers) as answer:
                assert answer.status == 202
                await answer.read()

        for start in range(0, reports, 2000):
            await asyncio.gather(*(post(first) for first in range(start, min(start + 2000, reports), 100)))
        while True:
            status = await get(session, place, "broker", "/v1/status")
            if status["reports"] >= reports and not status["backlog"]:
                break
            await asyncio.sleep(0.2)
        seconds = time.perf_counter() - began
        show(f"(d) {reports:,} reports from post to confirmation, one recipient", f"{reports / seconds:,.0f} reports/s")
        for name, process in place.processes.items():
            shown = {"m0": "node that files", "m1": "node that receives"}.get(name, name)
            show(f"    memory of the {shown}", f"{memory_mb(process.pid):.0f} MB")


def main() -> None:
    """Run what was asked for, or everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["a", "b", "c", "d", "l", "p", "s", "t"])
    parser.add_argument("--reports", type=int, default=100_000, help="for (d)")
    args = parser.parse_args()
    print(f"Machine: {limits.machine()}")
    print("Limits of this machine:")
    for name, figure in limits.measure():
        show(name, figure)
    print("Kentongan (real processes, SQLite FULL, NATS sync_interval always, load generator on the same machine):")
    if "a" in args.parts:
        asyncio.run(bench_a(12_800, 64))
        asyncio.run(bench_a(3_000, 1))
    if "b" in args.parts:
        asyncio.run(bench_b(4_000, 150))
    if "c" in args.parts:
        asyncio.run(bench_c(200))
    if "d" in args.parts:
        asyncio.run(bench_d(args.reports))
    if "g" in args.parts:
        bench_g(12_800)
    measured = {"l": log.measure, "log": log.measure, "p": policy.measure, "s": sealing.measure}
    for part in (part for part in measured if part in args.parts):
        for name, figure in measured[part]():
            show(f"({part[0]}) {name}", figure)
    if "t" in args.parts:
        asyncio.run(bench_t())


if __name__ == "__main__":
    main()
