"""The demonstration ends with proof: everything is in the witnessed log, and a report is proven offline."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from deploy import cli
from deploy.demo.client import Door
from deploy.demo.region import Place

SECONDS: Final = 20.0
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Proven:
    """What the log shows."""

    size: int
    witnesses: list[str]
    quorum: int
    missing: int
    alarms: int
    """About the log, at any node."""
    seconds: list[float]
    """From the receipt on disk at the origin to its proof, one a report revision."""

    @property
    def whole(self) -> bool:
        """Nothing waits, nothing is missing, nothing is contradicted."""
        return not self.missing and not self.alarms


async def wait_for_proof(doors: Mapping[str, Door], members: Iterable[str]) -> dict[str, Json]:
    """Each node's view of the log, once all that it waits for is proven, or after `SECONDS`."""
    end = asyncio.get_running_loop().time() + SECONDS
    while True:
        views = {name: await doors[name].get("/v1/log") for name in members}
        waiting = sum(view["leaves"].get("waiting", 0) for view in views.values())
        if not waiting or asyncio.get_running_loop().time() > end:
            return views
        await asyncio.sleep(0.1)


def proven(views: Mapping[str, Json], statuses: Mapping[str, Json]) -> Proven:
    """The nodes' views together."""
    newest = max(views.values(), key=lambda view: int(view["published"]["size"]))
    leaves = [view["leaves"] for view in views.values()]
    seconds = [
        (_time(revision["proof"]["at"]) - _time(revision["filed_at"])).total_seconds()
        for status in statuses.values()
        for revision in status["revisions"]
        if (revision["proof"] or {}).get("state") == "proven"
    ]
    return Proven(
        size=newest["published"]["size"],
        witnesses=newest["published"]["witnesses"],
        quorum=newest["published"]["quorum"],
        missing=sum(found.get("waiting", 0) + found.get("missing", 0) for found in leaves),
        alarms=sum(sum(view["alarms"].values()) for view in views.values()),
        seconds=seconds,
    )


@dataclass(frozen=True, slots=True)
class Examined:
    """How many statements of a bundle are what."""

    proven: int
    false: int
    open: int


def evidence(place: Place, member: str, report_id: str) -> tuple[int, Examined]:
    """Export a report's evidence at a member's node, and verify it with nothing but what the invitation says.

    Returns:
        the exit code of `kentongan verify`, and what it found.
    """
    home = place.directory / member
    bundle = place.directory / f"{report_id}.evidence.json"
    said = io.StringIO()
    with redirect_stdout(said):
        cli.main(["evidence", str(home), report_id, "--out", str(bundle)], log=False)
    said = io.StringIO()
    with redirect_stdout(said):
        code = cli.main(["verify", str(bundle), "--trust", str(home / "invitation.json"), "--json"], log=False)
    counts = Counter(item["outcome"] for item in json.loads(said.getvalue())["findings"])
    return code, Examined(counts["proven"], counts["not-proven"], counts["not-checkable"])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
