"""The own policy's file, watched while the node runs.

Guarantees: a changed file is taken within a second, or refused loudly, and then what was in force stays so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from node.core import NodeCore
from node.loops import State, Writer
from protocol.errors import ConfigError, Transient
from protocol.policy import load_policy

log = structlog.get_logger()


async def watch_policy(
    core: NodeCore, writer: Writer, state: State, path: Path, approve: Callable[[Path], None], every: float = 1.0
) -> None:
    """Take a changed policy file; a broken one is refused loudly, and the policy before it stays in force."""
    bell = state.bell()
    seen = _stamp(path)
    while not state.stopping:
        await bell.wait(every)
        stamp = _stamp(path)
        if stamp == seen:
            continue
        seen = stamp
        try:
            policy = load_policy(await asyncio.to_thread(path.read_text, encoding="utf-8"), path.name)
            await writer.run(core.adopt, policy, path.name, lambda: approve(path))
        except (ConfigError, OSError, UnicodeDecodeError) as exc:
            state.policy_fault = str(exc)
            log.error("node.policy_refused", detail=str(exc))
            continue
        except Transient as exc:
            log.warning("node.policy_waits", detail=str(exc)[:200])
            seen = (0, 0)
            continue
        state.policy_fault = ""
        state.ring_policy()
        log.info("node.policy", version=policy.version)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
