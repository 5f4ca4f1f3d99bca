"""The log alone, in this process: appending through the real store, proving, and what it takes of memory and disk."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles

from broker import store
from broker.log import STEP, Log
from broker.logstore import TileCache
from broker.members import RegionState
from broker.store import Store
from protocol.keys import SigningKey, unb64
from protocol.logrpc import ConsistencyRequest, NextRequest, ProveRequest
from protocol.merkle import verify_inclusion
from protocol.notes import parse_checkpoint, parse_note
from protocol.policy import PolicyBook
from protocol.registry import Region, Registry

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
PROOFS = 400
SMALL = 64
LATER = timedelta(seconds=10)


def entry(number: int) -> bytes:
    """The entry of a leaf."""
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


class Bench:
    """A log on a SQLite file that grows from size to size."""

    def __init__(self, directory: Path) -> None:
        self.now = datetime.now(UTC)
        self.key = SigningKey.from_seed(os.urandom(32))
        record = self.key.record(self.now - timedelta(days=1), self.now + timedelta(days=3650))
        registry = Registry(Region(region="bench", serial=1, broker_keys=[record]))
        self.state = RegionState(registry, PolicyBook([]))
        self.file = directory / "ledger.db"
        self.store = Store(store.open_engine(f"sqlite:///{self.file}"))
        self.waiting: list[bytes] = []
        self.log = Log(self.store, self.key, lambda: self.state, lambda *_: self.waiting)
        self.rand = random.Random(1)

    def step(self, count: int) -> float:
        """Seconds of one step of that many entries, making them not counted."""
        self.waiting = [entry(number) for number in range(self.log.size, self.log.size + count)]
        self.now += LATER
        began = time.perf_counter()
        self.log.sequence(self.now)
        return time.perf_counter() - began

    def grow(self, size: int) -> float:
        """Up to that size in full steps; entries a second."""
        start, seconds = self.log.size, 0.0
        while self.log.size < size:
            seconds += self.step(min(STEP, size - self.log.size))
        return (size - start) / seconds

    def proofs(self, size: int, *, cold: bool) -> tuple[float, float]:
        """Microseconds of an inclusion proof at random leaves, p50 and p99; with nothing decoded before, or all."""
        root = parse_checkpoint(parse_note(self.log.next(NextRequest(size=0)).checkpoint).text).root
        leaves = [self.rand.randrange(size) for _ in range(PROOFS)]
        took = []
        for leaf in leaves:
            request = ProveRequest(size=size, leaves=[leaf])
            if cold:
                self.log._cache = TileCache()
            else:
                self.log.prove(request)
            began = time.perf_counter()
            answer = self.log.prove(request)
            took.append((time.perf_counter() - began) * 1e6)
            verify_inclusion(entry(leaf), leaf, size, [unb64(item) for item in answer.paths[0]], root)
        return median(took), quantiles(took, n=100)[98]

    def consistency(self, size: int) -> tuple[float, float]:
        """The same for a consistency proof from a random size."""
        took = []
        for _ in range(PROOFS):
            request = ConsistencyRequest(old=self.rand.randrange(1, size), new=size)
            began = time.perf_counter()
            self.log.consistency(request)
            took.append((time.perf_counter() - began) * 1e6)
        return median(took), quantiles(took, n=100)[98]

    def bytes_on_disk(self) -> int:
        """The database with what its write-ahead log holds."""
        return sum(path.stat().st_size for path in self.file.parent.glob(f"{self.file.name}*"))


def memory_mb() -> float:
    """Resident memory of this process at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure() -> Iterator[tuple[str, str]]:
    """The figures as (name, figure)."""
    with tempfile.TemporaryDirectory(prefix="kentongan-bench-", dir=Path.cwd()) as name:
        bench = Bench(Path(name))
        bench.log.load(bench.now)
        for size in SIZES:
            speed = bench.grow(size)
            yield f"{size:,} leaves: appended in steps of {STEP:,}", f"{speed:,.0f} entries/s"
            began = time.perf_counter()
            Log(bench.store, bench.key, lambda: bench.state, lambda *_: []).load(bench.now)
            yield "    taken up at a start", f"{(time.perf_counter() - began) * 1e3:,.1f} ms"
            cold, warm = bench.proofs(size, cold=True), bench.proofs(size, cold=False)
            yield "    inclusion proof, nothing decoded, p50 / p99", f"{cold[0]:,.0f} / {cold[1]:,.0f} us"
            yield "    inclusion proof, tiles decoded, p50 / p99", f"{warm[0]:,.0f} / {warm[1]:,.0f} us"
            found = bench.consistency(size)
            yield "    consistency proof from a random size, p50 / p99", f"{found[0]:,.0f} / {found[1]:,.0f} us"
            small = sorted(bench.step(SMALL) for _ in range(50))
            yield f"    a step of {SMALL}, p50", f"{median(small) * 1e3:,.2f} ms"
            yield "    memory of the process at most", f"{memory_mb():,.0f} MB"
            taken = bench.bytes_on_disk()
            yield "    on disk; a leaf", f"{taken / 1e6:,.1f} MB; {taken / bench.log.size:,.1f} bytes"
        bench.store.close()


if __name__ == "__main__":
    for name, figure in measure():
        print(f"  {name:<74} {figure}", flush=True)
