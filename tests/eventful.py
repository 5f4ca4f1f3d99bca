"""A small region in which everything has happened once, closed: for tests that damage a store and look who notices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from broker import policies
from broker.ingest import Incoming
from node.trust import Trust
from protocol.policy import Policy
from protocol.published import publish
from protocol.registry import Registry
from tests.federation import Federation, filing, open_policy

GONE = {"marking": {"tlp": "AMBER"}, "rsit": [{"class": "other"}], "phase": "withdrawn"}
RED = {"marking": {"tlp": "RED", "recipients": ["jp"]}}


@dataclass(frozen=True)
class Eventful:
    """What is left when all processes are gone."""

    directory: Path
    registry: Registry
    trusts: dict[str, Trust]
    now: datetime
    ids: dict[str, str]
    """Reports by what happened to them."""


def _shared(number: int) -> dict[str, Any]:
    """A filing with an address that others report too."""
    made = filing(number)
    return {**made, "body": {**made["body"], "indicators": [{"type": "ipv4-addr", "value": "8.8.4.4"}]}}


def _publish(world: Federation, name: str, policy: Policy) -> None:
    jws = publish(policy, name, world.keys[name], world.clock.now)
    policies.take(world.ledger, name, jws.encode("ascii"), world.state.registry, world.clock.now)


def eventful(directory: Path) -> Eventful:
    """Make it."""
    hide = {"id": "no-victims", "effect": "deny", "because": "x", "to": ["sg"], "disclose": ["@victim"]}
    everything = {"id": "all", "effect": "allow", "because": "x", "to": ["*"], "disclose": ["*"]}
    policy = open_policy("id", export=[everything, hide])
    world = Federation(directory, ["id", "jp", "sg"], policies={"id": policy}, coordinator="asean-rcert")
    for name in world.jurisdictions:
        _publish(world, name, world.policies[name])
        world.nodes[name].adopt(world.policies[name], name)
    world.clock.pass_(120)
    ids: dict[str, str] = {}

    def post(name: str, about: str, document: dict[str, Any]) -> Any:
        (answer,) = world.post(name, document)
        ids[about] = answer["report_id"]
        return answer

    post("id", "plain", _shared(1))
    post("id", "red", filing(2, **RED))
    post("id", "withdrawn", filing(3))
    post("jp", "linked", _shared(4))
    _take_id(world, ids)
    world.turn()
    world.broker.process([Incoming("sg", "submission", b"no envelope")], world.clock.now)
    world.settle()
    post("id", "withdrawal", {**GONE, "report_id": ids["withdrawn"], "revision": 2})
    world.post("id", {**_shared(1), "report_id": "01a20d38-b9ee-7aa1-b9f1-360b5230d2d8"})
    post("sg", "kept", {**filing(5), "marking": {"tlp": "AMBER"}})
    world.settle()
    world.nodes["jp"].confirm(ids["plain"], "read")
    _stop(world, post)
    ends = Eventful(
        directory,
        world.state.registry,
        {name: node.trust for name, node in world.nodes.items()},
        world.clock.now,
        ids,
    )
    world.ledger.close()
    for node in world.nodes.values():
        node.store.close()
    return ends


def _take_id(world: Federation, ids: dict[str, str]) -> None:
    """A member uses an id that is another's, before it can know."""
    world.post("sg", {**filing(9), "report_id": ids["plain"]})
    world.step_node("id")
    world.step_broker()
    world.step_node("sg")


def _stop(world: Federation, post: Callable[..., Any]) -> None:
    """A report lies in an inbox, its origin is told so, and tightens its policy before it is fetched."""
    post("id", "stopped", filing(6))
    world.step_node("id")
    world.step_broker()
    world.clock.pass_(8)
    world.step_broker()
    for inbox in world.inboxes.values():
        inbox.clear()
    now = world.clock.now
    tightened = open_policy("id", version=2, effective_from=now.isoformat(), export=[])
    world.policies["id/2"] = tightened
    _publish(world, "id", tightened)
    world.reload()
    world.clock.pass_(3600)
    world.settle()
