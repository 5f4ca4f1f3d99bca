"""TAXII pages and server-sent events at a node, beside the same pages of `medallion` where that is installed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp

from deploy.demo.processes import free_port
from tests.bench.load import filing
from tests.bench.region import Place

MEDIA = "application/taxii+json;version=2.1"
PAGE = 100
CLIENTS = 4
Result = tuple[str, str]


async def post(session: aiohttp.ClientSession, url: str, token: str, first: int, count: int) -> None:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps([filing(first + number) for number in range(count)]).encode()
    async with session.post(f"{url}/v1/reports", data=body, headers=headers) as answer:
        assert answer.status == 202, await answer.text()


class Reader:
    """A TAXII client that reads a collection page by page."""

    def __init__(self, session: aiohttp.ClientSession, url: str, auth: aiohttp.BasicAuth) -> None:
        self.session, self.url, self.auth = session, url, auth
        self.took: list[float] = []
        self.objects: list[Any] = []

    async def read(self, most: int) -> None:
        """Up to so many pages, from the first on."""
        query: dict[str, str] = {"limit": str(PAGE)}
        for _ in range(most):
            began = time.perf_counter()
            async with self.session.get(
                self.url, params=query, auth=self.auth, headers={"Accept": MEDIA}, timeout=aiohttp.ClientTimeout(120)
            ) as answer:
                page = json.loads(await answer.read())
            self.took.append(time.perf_counter() - began)
            self.objects += page.get("objects", [])
            if not page.get("more"):
                return
            query["next"] = page["next"]


def _figures(name: str, readers: list[Reader], seconds: float) -> list[Result]:
    took = [one for reader in readers for one in reader.took]
    spread = f"{median(took) * 1e3:.1f} / {quantiles(took, n=100)[98] * 1e3:.1f} / {readers[0].took[0] * 1e3:.0f} ms"
    return [
        (f"{name}: pages of {PAGE}, {len(readers)} at once", f"{len(took) / seconds:,.0f} pages/s"),
        ("    a page, p50 / p99 / the first one", spread),
    ]


async def _pages(name: str, url: str, auth: aiohttp.BasicAuth, clients: int, most: int) -> tuple[list[Result], Any]:
    async with aiohttp.ClientSession() as session:
        readers = [Reader(session, url, auth) for _ in range(clients)]
        began = time.perf_counter()
        await asyncio.gather(*(reader.read(most) for reader in readers))
        return _figures(name, readers, time.perf_counter() - began), readers[0].objects


async def _until_shown(session: aiohttp.ClientSession, url: str, auth: aiohttp.BasicAuth, incidents: int) -> None:
    seen, cursor = 0, ""
    while seen < incidents:
        query = {"match[type]": "incident", "limit": "1000", **({"added_after": cursor} if cursor else {})}
        async with session.get(f"{url}manifest/", params=query, auth=auth) as answer:
            page = await answer.json(content_type=None)
            cursor = answer.headers.get("X-TAXII-Date-Added-Last", cursor)
        seen += len(page.get("objects", []))
        await asyncio.sleep(0.02)


async def _listen(session: aiohttp.ClientSession, url: str, token: str, wanted: int, ready: asyncio.Event) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with session.get(f"{url}/v1/feed", headers=headers, timeout=aiohttp.ClientTimeout(None)) as answer:
        ready.set()
        seen, rest = 0, b""
        async for chunk in answer.content.iter_any():
            seen += (rest + chunk).count(b"event: report.filed")
            rest = (rest + chunk)[-18:]
            if seen >= wanted:
                return


async def _events(place: Place, name: str, listeners: int, reports: int) -> list[Result]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, aiohttp.ClientSession() as poster:
        ready = [asyncio.Event() for _ in range(listeners)]
        url, token = place.url(name), place.tokens[name]
        tasks = [asyncio.create_task(_listen(session, url, token, reports, bell)) for bell in ready]
        await asyncio.gather(*(bell.wait() for bell in ready))
        began = time.perf_counter()
        for first in range(0, reports, 50):
            await post(poster, url, token, 1_000_000 + first, 50)
        await asyncio.gather(*tasks)
        seconds = time.perf_counter() - began
    return [
        (f"{reports} posts to {listeners} listeners of the feed", f"{listeners * reports / seconds:,.0f} deliveries/s"),
    ]


@asynccontextmanager
async def _medallion(objects: list[Any]) -> AsyncIterator[str]:
    """Its own server with its memory backend, holding these objects."""
    collection = "91a7b528-80eb-42ed-a74d-c6fbd5a26116"
    about = {"title": "bench", "versions": [MEDIA], "max_content_length": 9_765_625}
    manifest = [
        {
            "id": item["id"],
            "date_added": f"2026-03-01T00:00:{number // 1000:02d}.{number % 1000:03d}000Z",
            "version": item.get("modified", item["created"]),
            "media_type": "application/stix+json;version=2.1",
        }
        for number, item in enumerate(objects)
    ]
    shown = {"id": collection, "title": "all", "can_read": True, "can_write": False, "media_types": []}
    data = {
        "discovery": {"title": "bench", "api_roots": []},
        "bench": {
            "information": about,
            "status": [],
            "collections": [{**shown, "objects": objects, "manifest": manifest}],
        },
    }
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="kentongan-bench-") as name:
        (Path(name) / "data.json").write_text(json.dumps(data))
        backend = {"module": "medallion.backends.memory_backend", "module_class": "MemoryBackend"}
        config = {
            "backend": {**backend, "filename": f"{name}/data.json"},
            "users": {"user": "pass"},
            "taxii": {"max_page_size": PAGE},
        }
        (Path(name) / "config.json").write_text(json.dumps(config))
        arguments = ("-m", "medallion.scripts.run", "--port", str(port), f"{name}/config.json")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            for _ in range(200):
                with contextlib.suppress(OSError):
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                await asyncio.sleep(0.05)
            yield f"http://127.0.0.1:{port}/bench/collections/{collection}/objects/"
        finally:
            process.terminate()
            await process.wait()


async def measure(place: Place, reports: int = 1_000, listeners: int = 200) -> list[Result]:
    """All of it, on a region of a broker and two nodes that is not started yet.

    Args:
        reports: go from one node to the other, which shows them by TAXII.
        listeners: of the feed.
    """
    sender, reader = place.members
    file = place.directory / reader / "node.toml"
    file.write_text(file.read_text() + "\n[taxii]\nenabled = true\n")
    for name in ("broker", sender, reader):
        await place.start(name)
    auth = aiohttp.BasicAuth("first", place.tokens[reader])
    collection = f"{place.url(reader)}/taxii2/reports/collections/all/"
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        for first in range(0, reports, 100):
            await post(session, place.url(sender), place.tokens[sender], first, 100)
        await _until_shown(session, collection, auth, reports)
        arrived = time.perf_counter() - began
    found = [(f"{reports} reports from post to the other node's collections", f"{reports / arrived:,.0f} reports/s")]
    objects: list[Any] = []
    for clients in (1, CLIENTS):
        figures, objects = await _pages("TAXII", f"{collection}objects/", auth, clients, 400)
        found += figures
    found.append(("    objects in the collection, one report", f"{len(objects):,}, {len(objects) / reports:.0f}"))
    found += await _events(place, reader, listeners, reports // 2)
    if importlib.util.find_spec("medallion") is None:
        return [*found, ("medallion", "not installed: pip install medallion")]
    some = objects[:2_000]
    async with _medallion(some) as url:
        figures, seen = await _pages(
            f"medallion, memory, {len(some):,} objects", url, aiohttp.BasicAuth("user", "pass"), 1, 200
        )
        return [*found, *figures, ("    objects that it gave out", f"{len(seen):,}")]
