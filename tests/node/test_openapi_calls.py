"""The described interface against a running node: whatever is sent to it, it answers as it is described."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from node.api.addresses import IN_PATH, OPERATIONS
from node.api.openapi import EVENTS, Operation, document
from tests.node.conftest import Running
from tests.node.test_openapi import busy
from tests.node.world import TOKEN, Broker

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 6
"""For each operation, of what it takes and of what it does not."""
ENDING = [known for known in OPERATIONS if all(one.media != EVENTS for one in known.answers.get(200, ()))]
TOKENS = {"Authorization": f"Bearer {TOKEN}"}
DESCRIBED = schemathesis.openapi.from_dict(document(OPERATIONS, IN_PATH, extensible=False))


def calls(url: str, operation: Operation, known: Mapping[str, Sequence[str]]) -> set[int]:
    """Call one address in many ways; returns the statuses that came."""
    seen: set[int] = set()
    target = DESCRIBED[operation.path][operation.method]
    session = requests.Session()

    def run(**strategy: Any) -> None:
        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(target.as_strategy(**strategy))
        def check(case: Any) -> None:
            response = case.call(base_url=url, session=session, headers=TOKENS, timeout=20)
            seen.add(response.status_code)
            case.validate_response(response, checks=CHECKS)

        check()

    for mode in GenerationMode:
        try:
            run(generation_mode=mode)
        except Unsatisfiable:
            # Nothing can be wrong about a request without parameters or body.
            assert mode is GenerationMode.NEGATIVE
            assert not operation.parameters
            assert not operation.body
    for name, values in known.items():
        for value in values if f"{{{name}}}" in operation.path else ():
            run(path_parameters={name: value})
    return seen


async def test_answers_are_as_described(node: Running, broker: Broker) -> None:
    """No 5xx, no status, media type, header, field or reason code that the document does not have."""
    known = await busy(node, broker)
    faults: list[Exception] = []
    for operation in ENDING:
        try:
            seen = await asyncio.to_thread(calls, node.node.url, operation, known)
            assert seen & {*operation.answers, 404}, f"nothing got through: {seen}"
        except (Exception, ExceptionGroup) as exc:  # noqa: BLE001 - all faults at once
            exc.add_note(operation.name)
            faults.append(exc)
    assert not node.task.done(), "a request ended the node"
    if faults:
        raise ExceptionGroup("not as described", faults)


async def test_other_methods_are_refused(node: Running) -> None:
    """405 with the methods that there are, for every address."""
    for path in sorted({operation.path for operation in OPERATIONS}):
        there = {operation.method for operation in OPERATIONS if operation.path == path}
        place = re.sub(r"\{[a-z_]+\}", "1", path)
        async with node.http.request("PATCH", place) as response:
            assert (response.status, (await response.json(content_type=None))["reason"]) == (405, "wrong-method")
            assert set(response.headers["Allow"].split(", ")) - {"HEAD"} == there
