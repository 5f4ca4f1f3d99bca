"""Tests run on all cores: those of a file stay together, and so do those that share the built image."""

from __future__ import annotations

import pytest

IMAGE = {"tests/deploy/test_image.py", "tests/deploy/test_compose.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the group that a worker takes as a whole."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("image" if file in IMAGE else file))
