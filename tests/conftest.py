"""On which databases tests run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from tests import databases, postgresql
from tests.postgresql import Server
from tests.softhsm import Token, open_token


@pytest.fixture(scope="session")
def any_server() -> Iterator[Server | None]:
    """The PostgreSQL server of this run."""
    with postgresql.server() as found:
        yield found


@pytest.fixture
def server(any_server: Server | None) -> Server:
    """A PostgreSQL server; a test without one is skipped."""
    if any_server is None:
        warnings.warn(postgresql.MISSING, stacklevel=1)
        pytest.skip(postgresql.MISSING)
    return any_server


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    """A token for signing keys; a test without SoftHSM is skipped."""
    with open_token(tmp_path_factory.mktemp("hsm")) as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def each_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs twice: with its stores in SQLite files, and on PostgreSQL."""
    databases.use(request.getfixturevalue("server") if request.param == "postgresql" else None)
    yield request.param
    databases.use(None)


@pytest.fixture
def on_postgresql(server: Server) -> Iterator[None]:
    """The test has its stores on PostgreSQL."""
    databases.use(server)
    yield
    databases.use(None)
