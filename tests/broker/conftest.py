"""What every broker test ends with: its ledgers still hold together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker import make


@pytest.fixture(autouse=True)
def ledgers_hold_together(request: pytest.FixtureRequest) -> Iterator[None]:
    """Examine each `Hub` that the test made, unless it falsifies on purpose (`@pytest.mark.falsifies`)."""
    make.MADE.clear()
    yield
    if request.node.get_closest_marker("falsifies") is None:
        for hub in make.MADE:
            hub.examine()
    make.MADE.clear()
