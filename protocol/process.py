"""What every process does at its edges: settings, one process a directory, log lines, stopping, and how it ends.

Guarantees:
  * a settings file is taken as a whole, with its paths relative to the file, or refused with a `ConfigError` that says
    what to write where;
  * the exit code says whose turn it is: 0 done, 2 the operator's (one line says what to do), 70 a bug;
  * log lines are JSON on standard error. A bug, and what a library logs, is told by type and place, never in its own
    words, since those can be report content.

Refuses unknown settings, and a second process on the same data.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import signal
import sys
import tomllib
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import msgspec
import structlog
from msgspec import Meta, Struct

from protocol.errors import ConfigError, Transient
from protocol.parse import refusal

log = structlog.get_logger()

EXIT_CONFIG: Final = 2
EXIT_BUG: Final = 70
_PACKAGES: Final = frozenset({"protocol", "node", "api", "broker", "deploy", "policy", "demo"})


# --- settings ---------------------------------------------------------------------------------------------------

Port = Annotated[int, Meta(ge=0, le=65535)]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of a settings file."""


class Token(Section, frozen=True, kw_only=True):
    """A client's access, as the SHA-256 of its token: the file holds nothing that lets anybody in."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
    certificate: Annotated[str, Meta(max_length=512)] = ""
    """Of a client that comes with one: its SHA-256 in hex, or its subject. See `protocol/tls.py`."""


class Settings(Section, frozen=True, kw_only=True):
    """A settings file as a whole."""

    token: list[Token] = []

    def __post_init__(self) -> None:
        names = [token.name for token in self.token]
        if len(names) != len(set(names)):
            raise ValueError("two [[token]] entries have the same name")


S = TypeVar("S", bound=Section)


def load_settings(path: Path, kind: type[S], made_by: str) -> S:
    """Read a settings file; every `Path` in it, defaults included, is relative to the file.

    Args:
        made_by: the command that makes such a file.

    Raises:
        ConfigError: with the file, the setting, and the settings there are.
    """
    document = read_toml(path, made_by)
    try:
        settings = msgspec.convert(document, kind, dec_hook=_as_path)
    except msgspec.ValidationError as exc:
        fault = refusal(exc)
        raise ConfigError(f"{path}: {fault.detail} ({fault.path.removeprefix('$.')}); {_known_keys(kind)}") from exc
    return _resolved(settings, path.resolve().parent)


def read_toml(path: Path, made_by: str) -> dict[str, Any]:
    """A TOML file as it is. ConfigError if it is missing (`made_by` makes it), or is not one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} is missing: make it with `{made_by}`") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from exc


def encode_toml_string(text: str) -> str:
    """A TOML basic string: JSON's escapes are a subset of TOML's."""
    return msgspec.json.encode(text).decode()


def _as_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError("Expected `str`")


def _resolved(section: S, base: Path) -> S:
    changes: dict[str, Any] = {}
    for name in section.__struct_fields__:
        value = getattr(section, name)
        if isinstance(value, Path):
            changes[name] = base / value
        elif isinstance(value, Section):
            changes[name] = _resolved(value, base)
        elif isinstance(value, list):
            changes[name] = [_resolved(item, base) if isinstance(item, Section) else item for item in value]
    return msgspec.structs.replace(section, **changes)


def _known_keys(kind: type[Section]) -> str:
    plain, tables = [], []
    for field in msgspec.structs.fields(kind):
        # A table that may also be given several times is shown as the latter.
        kinds = [kind for kind in get_args(field.type) if get_origin(kind) is list] or [field.type]
        many = get_origin(kinds[0]) is list
        of = get_args(kinds[0])[0] if many else kinds[0]
        if isinstance(of, type) and issubclass(of, Section):
            title = f"[[{field.name}]]" if many else f"[{field.name}]"
            tables.append(f"{title} {', '.join(of.__struct_fields__)}")
        else:
            plain.append(field.name)
    return f"known keys: {'; '.join([', '.join(plain), *tables])}"


# --- running ----------------------------------------------------------------------------------------------------


@contextmanager
def alone(data: Path) -> Iterator[None]:
    """Be the only process on a data directory: two would number rows alike. ConfigError if there is another one."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigError(f"another process uses {data}: stop it first") from exc
        yield


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run the process's one coroutine to its end, on the fastest event loop there is."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def on_stop(stop: Callable[[], object]) -> None:
    """Call `stop` in the running loop whenever the process is asked to end: SIGTERM, SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform, and not needed
    except ImportError:
        return None
    return uvloop.new_event_loop


class Bugs:
    """Takes a bug from where nobody waits for it, such as an HTTP handler, to the task group that it must end."""

    def __init__(self) -> None:
        self._first: BaseException | None = None
        self._heard = asyncio.Event()

    def hear(self, exc: BaseException) -> None:
        """Note a bug; the first one counts."""
        self._first = self._first or exc
        self._heard.set()

    async def watch(self) -> None:
        """Wait for a bug and raise it."""
        await self._heard.wait()
        if self._first is not None:
            raise self._first


# --- log lines and the end --------------------------------------------------------------------------------------


def configure_logging() -> None:
    """JSON lines with a time, on standard error."""
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class _Libraries(logging.Handler):
    """What libraries log, without their words: these can hold anything that a peer sent."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        log.warning("process.library", library=record.name, level=record.levelname, error=error)


def exit_code(command: Callable[[], int], say: Callable[[str], None]) -> int:
    """Run a command, and end it as the errors' families demand (`protocol/errors.py`); returns the exit code.

    Args:
        say: tells the operator what to change.
    """
    try:
        return command()
    except Exception as exc:  # noqa: BLE001 - the last edge: what is nobody's fault but ours ends the process here
        leaves = _leaves(exc)
    if all(isinstance(leaf, ConfigError | Transient) for leaf in leaves):
        say(str(leaves[0]))
        return EXIT_CONFIG
    for leaf in leaves:
        report_bug(leaf)
    return EXIT_BUG


def report_bug(exc: BaseException) -> None:
    """One line: what, where, and from where in our own code."""
    frames = traceback.extract_tb(exc.__traceback__)
    places = [(Path(frame.filename), f"{Path(frame.filename).name}:{frame.lineno}", frame.name) for frame in frames]
    ours = [f"{place} {function}" for path, place, function in places if path.parent.name in _PACKAGES]
    log.critical(
        "process.bug",
        error=type(exc).__name__,
        at=places[-1][1] if places else "",
        called_from=ours[-1] if ours else "",
    )


def _leaves(exc: BaseException) -> list[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for inner in exc.exceptions for leaf in _leaves(inner)]
    return [exc]
