"""Upgrading, as an operator does: the commands and the processes, on stores that an earlier program has left behind."""

from __future__ import annotations

import re
import shutil
import sqlite3
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy import archive, cli
from protocol.migrating import copy_of
from protocol.process import EXIT_CONFIG
from tests.deploy.helping import REPORT, ROOT, call, clean_env, eventually, free_port, processes, ready
from tests.federation import Federation
from tests.stores import COORDINATOR, MEMBERS, OLDEST, RESUMED, SEED, put
from tests.stores.region import TOKEN, broker_directory, node_directory
from tests.stores.schema import longer, take_back_file

NOW = datetime(2026, 11, 1, tzinfo=UTC)
KINDS = ("broker", "node")
PROGRAM = "tests.stores.region"
"""The command, of a program that knows one step more."""


class Left:
    """The directories of a broker and a node, with the stores of a program from before that step."""

    def __init__(self, directory: Path) -> None:
        (directory / "keys").mkdir()
        world = Federation(directory / "keys", MEMBERS, seed=SEED, coordinator=COORDINATOR, begins=RESUMED)
        self.ports = {kind: free_port() for kind in KINDS}
        self.places = {kind: directory / kind for kind in KINDS}
        make = {"broker": broker_directory, "node": node_directory}
        self.files = {kind: make[kind](world, self.places[kind], self.ports[kind]) for kind in KINDS}
        for kind in KINDS:
            put(kind, self.files[kind])
            take_back_file(kind, self.files[kind])


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    return Left(tmp_path)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's commands are those of the program with the step."""
    for kind in KINDS:
        monkeypatch.setattr(f"{kind}.upgradecli.SCHEMA", longer(kind))


def kentongan(*words: str | Path) -> int:
    return cli.main([str(word) for word in words], log=False)


def number(file: Path) -> int:
    with closing(sqlite3.connect(file)) as database:
        return int(database.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()[0])


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("kind", KINDS)
def test_the_command(kind: str, left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it would do, does it, says where the copy is, and then has nothing to do."""
    place, file, schema = left.places[kind], left.files[kind], longer(kind)
    capsys.readouterr()
    assert kentongan(kind, "run", place) == EXIT_CONFIG
    assert f"type `kentongan {kind} upgrade {place}`" in capsys.readouterr().err
    assert kentongan(kind, "upgrade", "--check", place) == 1
    said = capsys.readouterr().out
    assert f"schema {OLDEST - 1}; this program needs {schema.number}" in said
    assert f"  {OLDEST}: names that are easier to read" in said
    assert number(file) == OLDEST - 1
    assert kentongan(kind, "upgrade", place) == 0
    copy = copy_of(file, OLDEST - 1)
    assert str(copy) in capsys.readouterr().out
    assert (number(file), number(copy)) == (schema.number, OLDEST - 1)
    assert kentongan(kind, "upgrade", place) == kentongan(kind, "upgrade", "--check", place) == 0
    assert kentongan(kind, "check", place) == 0
    assert kentongan(kind, "upgrade", "--check", place) == 0
    assert "as this program needs it" in capsys.readouterr().out
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    assert kentongan(kind, "upgrade", place) == 0
    assert "there is no store yet" in capsys.readouterr().out


def test_processes_that_upgrade_go_on(left: Left, tmp_path: Path) -> None:
    """`run --upgrade`, as in our units: the doors open, what was there is there, new things come, and all holds."""
    env = clean_env(Path(sys.prefix), PYTHONPATH=str(ROOT))
    with closing(sqlite3.connect(left.files["node"])) as database:
        (filed,) = database.execute("SELECT count(*) FROM own_reports").fetchone()
    with processes(tmp_path / "logs") as running:
        for kind in KINDS:
            command = [sys.executable, "-m", PROGRAM, kind, "run", "--upgrade", str(left.places[kind])]
            running.start(kind, command, env)
        for kind in KINDS:
            eventually(ready(left.ports[kind], "healthz"), running.said)
        door = f"http://127.0.0.1:{left.ports['node']}/v1/reports"
        assert call(door, TOKEN, REPORT)[0] == 202
        assert len(call(door, TOKEN)[1]["reports"]) == filed + 1
        assert [running.end(kind) for kind in KINDS] == [0, 0]
        for kind in KINDS:
            (upgraded,) = re.findall(rf'.*"{kind}\.upgraded".*', running.log(kind))
            assert f'"before": {OLDEST - 1}, "after": {longer(kind).number}' in upgraded
            assert kentongan(kind, "check", left.places[kind]) == 0


@pytest.mark.usefixtures("program")
def test_an_archive_of_an_earlier_program(left: Left, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is made, and comes back, as it was; what it needs is said, and after that it is a store like any other."""
    place, file = left.places["node"], left.files["node"]
    assert kentongan("backup", place, tmp_path / "b.tar") == 0
    shutil.copy(file, copy_of(file, 1))
    assert not [name for name in archive.backup(place, tmp_path / "c.tar", NOW).files if "schema-" in name]
    capsys.readouterr()
    assert kentongan("restore", tmp_path / "b.tar", tmp_path / "new") == 0
    assert f"kentongan node upgrade {tmp_path / 'new'}" in capsys.readouterr().out
    restored = tmp_path / "new" / "data" / file.name
    assert number(restored) == OLDEST - 1
    assert kentongan("node", "check", tmp_path / "new") == EXIT_CONFIG
    assert kentongan("node", "upgrade", tmp_path / "new") == 0
    assert kentongan("node", "check", tmp_path / "new") == 0


def test_every_package_is_installed() -> None:
    """What is a package in the source is one of the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    there = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in ("kentongan", "protocol", "node", "broker", "deploy")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == there
