"""The edges of a process, as node and broker have them: settings, one a directory, log lines, exit codes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import structlog

import broker.app
import broker.config
import broker.setup
import node.app
import node.config
from deploy.cli import main
from protocol import process
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.process import Section, Settings, load_settings
from protocol.reasons import Reason

TOKEN = '[[token]]\nname = "soc"\nsha256 = "' + "a" * 64 + '"\n'


class Inner(Section, frozen=True, kw_only=True):
    file: Path | None = None
    number: int = 1


class Outer(Settings, frozen=True, kw_only=True):
    name: str
    data: Path = Path("data")
    inner: Inner = Inner()


def load(directory: Path, text: str) -> Outer:
    path = directory / "some.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, Outer, "kentongan something init")


@pytest.fixture
def _logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no trace of what the test does to logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # A logger that was used once keeps its file.
    monkeypatch.setattr(process, "log", structlog.get_logger())
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


# --- settings ---------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever one stands; defaults and tables included; absolute ones stay."""
    monkeypatch.chdir("/")
    found = load(tmp_path, 'name = "x"\n[inner]\nfile = "sub/ca.pem"\n')
    assert (found.data, found.inner.file) == (tmp_path / "data", tmp_path / "sub" / "ca.pem")
    found = load(tmp_path, 'name = "x"\ndata = "/elsewhere"\n')
    assert (found.data, found.inner.file) == (Path("/elsewhere"), None)
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path("some.toml"), Outer, "").data == Path("/elsewhere")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name"),
        ('name = "x"\nsurprise = 1', "surprise"),
        ('name = "x"\ndata = 3', "data"),
        ('name = "x"\n[inner]\nfile = 3', "inner.file"),
        ('name = "x"\n[inner]\nnumber = "3"', "inner.number"),
        (f'name = "x"\n{TOKEN}{TOKEN}', "the same name"),
        (f'name = "x"\n{TOKEN.replace("soc", "S O C")}', "token[0].name"),
        (f'name = "x"\n{TOKEN.replace("aa", "a")}', "token[0].sha256"),
        ("name = ", "not valid TOML"),
    ],
)
def test_a_wrong_setting_says_what_to_write(tmp_path: Path, text: str, says: str) -> None:
    """The file and the setting; and those that there are."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert "some.toml" in str(caught.value)
    assert says in str(caught.value)
    if "TOML" not in says:
        assert "known keys: name, data; [[token]] name, sha256, certificate; [inner] file, number" in str(caught.value)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    """Missing, a directory, not text."""
    for path, says in ((tmp_path / "none.toml", "`kentongan x init`"), (tmp_path, "cannot be read")):
        with pytest.raises(ConfigError, match=says):
            load_settings(path, Outer, "kentongan x init")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(tmp_path / "bytes.toml", Outer, "")


def test_node_and_broker_refuse_alike(tmp_path: Path) -> None:
    """What stands in one's file is read by the same rules as in the other's."""
    for load_config, file in ((node.config.load_config, "node.toml"), (broker.config.load_config, "broker.toml")):
        with pytest.raises(ConfigError, match=f"{file} is missing: make it with `kentongan"):
            load_config(tmp_path / file)
        (tmp_path / file).write_text("surprise = 1\n")
        known = r"known keys: .*; \[\[token\]\] name, sha256, certificate; \[http\] host, port"
        with pytest.raises(ConfigError, match=known):
            load_config(tmp_path / file)


# --- one a directory --------------------------------------------------------------------------------------------


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """For as long as the first one is there."""
    data = tmp_path / "new" / "data"
    with process.alone(data), pytest.raises(ConfigError, match="another process"), process.alone(data):
        pass
    with process.alone(data):
        pass


# --- the end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exc", "code", "says"),
    [
        (ConfigError("write it"), 2, ["write it"]),
        (Transient("not now"), 2, ["not now"]),
        (ExceptionGroup("", [ExceptionGroup("", [ConfigError("write it")]), Transient("x")]), 2, ["write it"]),
        (KeyError("CANARY"), 70, []),
        (ProtocolError(Reason.INTERNAL, "$", "CANARY"), 70, []),
        (ExceptionGroup("CANARY", [ConfigError("CANARY"), ValueError("CANARY")]), 70, []),
    ],
)
@pytest.mark.usefixtures("_logging")
def test_the_exit_code_says_whose_turn_it_is(
    exc: Exception, code: int, says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator gets a line, a bug is logged by type and place, and never in its own words."""
    process.configure_logging()
    said: list[str] = []

    def command() -> NoReturn:
        raise exc

    assert process.exit_code(command, said.append) == code
    assert said == says
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert "CANARY" not in str(lines)
    assert [line["event"] for line in lines] == ["process.bug"] * (
        0 if code == 2 else len(getattr(exc, "exceptions", [exc]))
    )


def test_a_command_that_ends_well_has_its_own_code() -> None:
    """Such as 1, for what it found."""
    assert [process.exit_code(lambda code=code: code, print) for code in (0, 1)] == [0, 1]  # type: ignore[misc]


@pytest.mark.usefixtures("_logging")
def test_a_bug_is_told_by_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it was raised, and where our own code called that."""
    process.configure_logging()
    try:
        process.encode_toml_string(object())  # type: ignore[arg-type]
    except TypeError as exc:
        process.report_bug(exc)
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (line["event"], line["level"], line["error"]) == ("process.bug", "critical", "TypeError")
    assert line["at"].startswith("process.py:")
    assert line["called_from"].endswith(" encode_toml_string")


@pytest.mark.usefixtures("_logging")
def test_libraries_are_logged_without_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    """They can hold anything that a peer sent."""
    process.configure_logging()
    try:
        raise ValueError("CANARY")
    except ValueError:
        logging.getLogger("some.library").exception("CANARY %s", "CANARY")
    logging.getLogger("some.library").info("CANARY")
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (line["event"], line["library"], line["error"]) == ("process.library", "some.library", "ValueError")
    assert "CANARY" not in str(line)


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize(
    ("faults", "code"), [([KeyError("CANARY")], 70), ([ConfigError("write it")], 2), ([Transient("no bus")], 2)]
)
def test_node_and_broker_end_alike(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    faults: list[Exception],
    code: int,
) -> None:
    """70 for a bug in a loop, 2 for what the operator must change."""

    async def run(*_: Any) -> None:
        raise ExceptionGroup("loops", faults)

    monkeypatch.setattr(node.app.Node, "run", run)
    monkeypatch.setattr(broker.app.Broker, "run", run)
    assert main(["node", "init", str(tmp_path / "node"), "--member", "id-cert"], log=False) == 0
    broker.setup.init(tmp_path / "broker", "test")
    process.configure_logging()
    capsys.readouterr()
    for side in ("node", "broker"):
        assert main([side, "run", str(tmp_path / side)], log=False) == code
        said = capsys.readouterr().err
        assert ("process.bug" in said) == (code == 70)
        assert len(said.splitlines()) == 1
        assert "CANARY" not in said


# --- running ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    """And nothing more: what was taken is finished first."""
    finished: list[bool] = []

    async def work() -> None:
        stop = asyncio.Event()
        process.on_stop(stop.set)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 10)
        finished.append(True)

    process.run(work())
    assert finished == [True]


async def test_the_first_bug_counts() -> None:
    """However many are heard of before somebody looks; later lookers get the same."""
    bugs = process.Bugs()
    watching = asyncio.create_task(bugs.watch())
    await asyncio.sleep(0)
    assert not watching.done()
    bugs.hear(KeyError("first"))
    bugs.hear(ValueError("second"))
    for watcher in (watching, bugs.watch()):
        with pytest.raises(KeyError, match="first"):
            await watcher
