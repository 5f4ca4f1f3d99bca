"""What the deployment tests share: processes that end with the test, waiting for doors, a read-only root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.demo.processes import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE = 90.0
__all__ = [
    "DEADLINE", "REPORT", "ROOT", "Processes", "call", "clean_env", "confined", "eventually", "free_port", "kentongan",
    "processes", "ready",
]  # fmt: skip

REPORT = {
    "marking": {"tlp": "AMBER"},
    "rsit": [{"class": "malicious-code", "type": "c2-server"}],
    "severity": {"score": 60},
    "sectors": [{"code": "finance.banking"}],
    "body": {
        "title": "Command and control server of a banking trojan",
        "times": {"detected": {"value": "2026-03-01T08:30:00Z"}},
        "indicators": [{"type": "ipv4-addr", "value": "203.0.113.44"}],
    },
}


def eventually(
    condition: Callable[[], bool], what: Callable[[], str], deadline: float = DEADLINE, pause: float = 0.1
) -> None:
    """Return when the condition holds; fail, saying what is known, when it does not in time."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(pause)


def call(url: str, token: str = "", body: Any = None) -> tuple[int, Any]:
    """One HTTP request with JSON; the status, 0 if nobody answers, and the answer."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310 - the tests' own addresses
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()
    except OSError:
        return 0, None


def ready(port: int, path: str = "readyz") -> Callable[[], bool]:
    """Whether the process behind this port says so."""
    return lambda: call(f"http://127.0.0.1:{port}/{path}")[0] == 200


def clean_env(program: Path, **more: str) -> dict[str, str]:
    """An environment as an image has it: nothing of the developer's own, the program first on PATH."""
    path = f"{program / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **more}


def confined(state: Iterable[Path]) -> list[str] | None:
    """Words before a command that make all but `state` read-only, and take every capability; None if not possible.

    Root without capabilities is held to permission bits like anybody else.
    """
    script = (
        'n=$1; shift; while [ "$n" -gt 0 ]; do mount --bind "$1" "$1"; shift; n=$((n - 1)); done; '
        "mount -o remount,ro,bind / && mount -t tmpfs tmpfs /dev/shm && "
        'exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs -- "$@"'
    )
    places = [str(path) for path in state]
    words = ["unshare", "-m", "sh", "-c", script, "sh", str(len(places)), *places]
    if os.geteuid() or not all(shutil.which(name) for name in ("unshare", "setpriv")):
        return None
    tried = subprocess.run([*words, "test", "!", "-w", str(ROOT)], capture_output=True, check=False)
    return words if tried.returncode == 0 else None


class Processes:
    """Commands that run beside the test, each with a log of its own."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: Sequence[str], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        self.running[name] = process
        return process

    def log(self, name: str) -> str:
        """What it has said."""
        return (self.logs / f"{name}.log").read_text("utf-8", "replace")

    def said(self) -> str:
        """The last words of everybody."""
        return "\n".join(f"--- {name}\n{self.log(name)[-1500:]}" for name in self.running)

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """End one, and return its exit code."""
        process = self.running.pop(name)
        process.send_signal(number)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def processes(logs: Path) -> Iterator[Processes]:
    """Processes that do not outlive the test."""
    logs.mkdir(parents=True, exist_ok=True)
    found = Processes(logs)
    try:
        yield found
    finally:
        for name in reversed(list(found.running)):
            found.running[name].kill()
            found.running[name].wait()


def kentongan(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the source tree to its end."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
