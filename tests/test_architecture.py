"""The rules about what lives where, read from the source: who imports whom, and where names are spelt out."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from protocol.reasons import Reason

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kentongan", "protocol", "node", "broker", "deploy")
LINES = 500


def files(*packages: str) -> list[str]:
    """The Python files of these packages, tracked or not, as paths from the root."""
    return sorted(path.relative_to(ROOT).as_posix() for package in packages for path in (ROOT / package).rglob("*.py"))


@cache
def tree(file: str) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def imports(file: str) -> set[str]:
    """The top-level packages that a file imports, wherever in the file it does."""
    found: set[str] = set()
    for item in ast.walk(tree(file)):
        if isinstance(item, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            found.add(file.partition("/")[0] if item.level else (item.module or "").partition(".")[0])
    return found


def strings(file: str) -> Iterator[str]:
    """The string constants of a file, parts of f-strings included, docstrings and other bare strings not."""
    bare = {id(item.value) for item in ast.walk(tree(file)) if isinstance(item, ast.Expr)}
    for item in ast.walk(tree(file)):
        if isinstance(item, ast.Constant) and isinstance(item.value, str) and id(item) not in bare:
            yield item.value


def prints(file: str) -> bool:
    """Whether a file calls `print`."""
    return any(
        isinstance(item, ast.Call) and isinstance(item.func, ast.Name) and item.func.id == "print"
        for item in ast.walk(tree(file))
    )


def where(test: Callable[[str], bool], *packages: str, but: tuple[str, ...] = ()) -> list[str]:
    """The files that a rule forbids and that are not among its exceptions."""
    return [file for file in files(*packages) if file not in but and test(file)]


MIGRATIONS = tuple(files("node/migrations", "broker/migrations"))


def test_the_files_are_found() -> None:
    """The rules below look at something."""
    assert {"protocol/keys.py", "node/__init__.py", "broker/__init__.py", "deploy/__init__.py"} <= set(files(*PACKAGES))
    assert "msgspec" in imports("protocol/keys.py")
    assert "kg.intake" in set(strings("protocol/subjects.py"))


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("kentongan", {"protocol", "node", "broker", "deploy"}),
        ("protocol", {"kentongan", "node", "broker", "deploy"}),
        ("node", {"kentongan", "broker", "deploy"}),
        ("broker", {"kentongan", "node", "deploy"}),
    ],
)
def test_packages_import_downwards(package: str, never: set[str]) -> None:
    """`protocol` imports neither side, the sides never import each other, and nothing imports how it is deployed. The
    client stands alone: who imports it gets no node.
    """
    assert where(lambda file: bool(imports(file) & {*never, "tests"}), package) == []


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("cryptography", ("protocol/certs.py", "protocol/keys.py", "protocol/sealing.py")),
        (
            "nats",
            (
                "protocol/bus.py",
                "protocol/dialing.py",
                "protocol/pulling.py",
                "broker/external.py",
                "broker/natsd.py",
                "broker/topology.py",
            ),
        ),
        ("nkeys", ("protocol/natsauth.py",)),
        ("phonenumbers", ("protocol/numbers.py",)),
        ("pkcs11", ("protocol/hsm.py",)),
        (
            "aiohttp",
            (
                "kentongan/client.py",
                "protocol/door.py",
                "node/app.py",
                "node/api/alarms.py",
                "node/api/audit.py",
                "node/api/docs.py",
                "node/api/inbox.py",
                "node/api/policy.py",
                "node/api/reports.py",
                "node/api/review.py",
                "node/api/scopes.py",
                "node/api/tokens.py",
                "node/api/server.py",
                "node/api/taxii.py",
                "node/api/webhooks.py",
                "node/webhook.py",
                "broker/api.py",
                "deploy/demo/client.py",
                "deploy/demo/region.py",
                "deploy/demo/run.py",
            ),
        ),
        (
            "sqlalchemy",
            (
                "node/store.py",
                "node/reading.py",
                "node/doorrows.py",
                "node/due.py",
                "node/lookup.py",
                "node/pushed.py",
                "node/tables.py",
                "node/taxiistore.py",
                "broker/store.py",
                "broker/tables.py",
                "broker/ledger.py",
                "broker/auditstore.py",
                "broker/erase.py",
                "broker/logstore.py",
                "broker/reading.py",
                "protocol/database.py",
                "protocol/migrating.py",
                *MIGRATIONS,
            ),
        ),
        ("alembic", ("protocol/migrating.py", *MIGRATIONS)),
        ("opentelemetry", ("protocol/tracing.py",)),
        ("sqlite3", ()),
        ("psycopg", ("protocol/database.py",)),
    ],
)
def test_libraries_have_one_home(library: str, home: tuple[str, ...]) -> None:
    """What a reviewer must read as a whole is imported in the named files only."""
    assert where(lambda file: library in imports(file), *PACKAGES, but=home) == []


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"(^|[^a-z])kg\.", ("protocol/subjects.py",)),
        (r"\$JS\.", ("protocol/subjects.py", "protocol/bus.py", "broker/accounts.py")),
    ],
)
def test_subjects_are_spelt_out_in_one_place(pattern: str, home: tuple[str, ...]) -> None:
    """A subject on the bus is written in one file, so that nobody can address what it must not by a typing error."""
    assert where(lambda file: any(re.search(pattern, text) for text in strings(file)), *PACKAGES, but=home) == []


def test_files_stay_readable() -> None:
    """No file needs more than 500 lines."""
    long = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files(*PACKAGES)}
    assert {file: lines for file, lines in long.items() if lines > LINES} == {}


def test_nothing_prints_but_commands() -> None:
    """Inside the packages, output is a log event; only commands print."""
    assert (
        where(lambda file: not file.endswith("cli.py") and prints(file), "kentongan", "protocol", "node", "broker")
        == []
    )


def test_every_module_says_what_it_guarantees() -> None:
    """Every module has a docstring."""
    assert where(lambda file: not (ast.get_docstring(tree(file)) or "").strip(), *PACKAGES) == []


def test_reason_codes() -> None:
    """Reason codes are kebab-case, short, and none stands for two reasons."""
    assert len(Reason.__members__) == len(set(Reason)) == len({reason.value for reason in Reason})
    assert [r for r in Reason if not re.fullmatch(r"[a-z]+(-[a-z]+)*", r.value) or len(r.value) > 32] == []


def test_nothing_tracked_is_a_link() -> None:
    """A link leads to where somebody worked, and a fresh clone would take that for its own."""
    command = ["git", "ls-files", "-s"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []
