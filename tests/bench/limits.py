"""What this machine can do at most, one thing at a time, in the same run as the benchmarks that are held against it."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from protocol.keys import SigningKey, VerifyKey
from protocol.report import Filing
from tests.bench.load import filing, window


def machine() -> str:
    """One line about the machine."""
    cpu = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu
        )
    return (
        f"{os.cpu_count()} cores, {cpu}, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    )


def per_second(work: Callable[[], object], seconds: float = 1.0) -> float:
    """How often something can be done in a second."""
    done = 0
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        work()
        done += 1
    return done / passed


def measure() -> list[tuple[str, str]]:
    """The limits as (name, figure)."""
    key = SigningKey.from_seed(os.urandom(32))
    public = VerifyKey.from_record("m", key.record(*window()))
    data = os.urandom(1500)
    signature = key.sign(data)
    decoder = msgspec.json.Decoder(Filing)
    document = msgspec.json.encode(filing(1))
    with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:

        def fsync() -> None:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

        fsyncs = per_second(fsync)
    return [
        ("Ed25519 verifications/s, one core", f"{per_second(lambda: public.verify(signature, data)):,.0f}"),
        ("Ed25519 signatures/s, one core", f"{per_second(lambda: key.sign(data)):,.0f}"),
        ("fsyncs/s, 1.5 KB appended", f"{fsyncs:,.0f}"),
        (
            f"msgspec decodes/s of a report ({len(document)} bytes)",
            f"{per_second(lambda: decoder.decode(document)):,.0f}",
        ),
    ]
