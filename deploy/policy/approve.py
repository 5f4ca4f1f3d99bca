"""What a policy must pass before a node signs and publishes it: the examples that its author put beside it.

Guarantees: a new version whose examples do not come out as expected is not signed, and the text names the first that
failed. A policy without examples passes: a small CERT may begin without. The others are supposed to take everything:
what is tried is the own policy.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from deploy.policy.examples import beside, open_to_all, run
from deploy.policy.examples import load as examples_in
from deploy.policy.scene import of_policies, read_policy
from protocol.errors import ConfigError
from protocol.wording import load

LANGUAGE = "en"


def approve(path: Path) -> None:
    """Run the examples beside a policy file. ConfigError if one fails, or makes no sense."""
    if not beside(path).exists():
        return
    policy = read_policy(path)
    named = {expect.to for example in examples_in(beside(path)).example for expect in example.expect}
    others = [open_to_all(name) for name in sorted(named - {policy.jurisdiction})]
    outcome = run(path, of_policies([policy, *others]), datetime.now(UTC), load(LANGUAGE))
    if outcome.failures:
        first = outcome.failures[0]
        raise ConfigError(
            f"{path.name}: {len(outcome.failures)} of {outcome.expectations} expectations fail: it is not published; "
            f'"{first.example}" for {first.to}: {first.text} (see `kentongan policy test {path.name}`)'
        )
