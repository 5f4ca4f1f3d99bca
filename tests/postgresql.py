"""A real PostgreSQL server for the tests, and a fresh database in it for each store.

It is the one that the environment names in `KENTONGAN_POSTGRESQL` (a URL of a role that may create databases), or one
that is started here from the programs on this machine, in a directory of its own, with everything on disk. Without
either the tests that need it are skipped, and say so.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

ENVIRONMENT = "KENTONGAN_POSTGRESQL"
MISSING = (
    f"there is no PostgreSQL: install its server programs, or name a server in {ENVIRONMENT} "
    "(postgresql+psycopg://…, a role that may create databases)"
)
LOCKED = "kentongan_locked"
"""The one role that needs a password."""
_PLACES = "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin"
_numbers = itertools.count(1)


def programs() -> Path | None:
    """The directory of the newest server programs on this machine."""
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent
    places = [place for pattern in _PLACES for place in Path("/").glob(pattern[1:]) if (place / "postgres").exists()]
    return max(places, key=lambda place: place.parent.name.rjust(8), default=None)


class Server:
    """A server. Its `url` is that of a role that may create databases."""

    def __init__(self, url: str, directory: Path | None = None, binaries: Path | None = None) -> None:
        self.url = make_url(url)
        self._directory = directory
        self._binaries = binaries
        self._run = f"{os.getpid()}_{os.urandom(3).hex()}"
        self._made: list[str] = []

    @property
    def own(self) -> bool:
        """Whether it is the tests' own, to be restarted at will."""
        return self._directory is not None

    def create(self, template: str = "template0", **options: str) -> str:
        """A fresh database; its URL."""
        name = f"kentongan_{self._run}_{next(_numbers)}"
        more = "".join(f" {key} = '{value}'" for key, value in options.items())
        self.tell(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{more}')
        self._made.append(name)
        return self.url_of(name)

    def url_of(self, name: str) -> str:
        """A database's URL."""
        return self.url.set(database=name).render_as_string(hide_password=False)

    def tell(self, *statements: str, database: str | None = None) -> list[tuple[object, ...]]:
        """Run statements as the role of the tests; the rows of the last one."""
        engine = create_engine(self.url if database is None else database, isolation_level="AUTOCOMMIT")
        rows: list[tuple[object, ...]] = []
        try:
            with engine.connect() as connection:
                for statement in statements:
                    result = connection.execute(text(statement))
                    rows = [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()
        return rows

    def restart(self) -> None:
        """As after a crash: without a word to anybody, and back from the write-ahead log."""
        self.control("restart", "-m", "immediate")

    def control(self, *arguments: str) -> None:
        """Run `pg_ctl`."""
        assert self._directory is not None
        assert self._binaries is not None
        command = [str(self._binaries / "pg_ctl"), "-D", str(self._directory / "data"), "-w", "-s", *arguments]
        log = self._directory / "log"
        subprocess.run([*command, "-l", str(log)], check=True, cwd="/", stdout=subprocess.DEVNULL, **_as_whom())  # type: ignore[call-overload]

    def drop(self) -> None:
        """Remove what was made on somebody else's server."""
        for name in self._made:
            self.tell(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _as_whom() -> dict[str, object]:
    """The server's programs refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


@contextmanager
def server() -> Iterator[Server | None]:
    """The server for a run of the tests; None if there is none."""
    given = os.environ.get(ENVIRONMENT)
    if given:
        found = Server(given)
        try:
            yield found
        finally:
            found.drop()
        return
    binaries = programs()
    if binaries is None:
        yield None
        return
    directory = Path(tempfile.mkdtemp(prefix="kentongan-pg-"))
    try:
        whom = _as_whom()
        if whom:
            os.chown(directory, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
        kind = ["-U", "kentongan", "-A", "trust", "-E", "UTF8", "--locale", "C"]
        initdb = [str(binaries / "initdb"), "-D", str(directory / "data"), *kind]
        subprocess.run(initdb, check=True, cwd="/", stdout=subprocess.DEVNULL, **whom)  # type: ignore[call-overload]
        settings = {
            "recovery_init_sync_method": "syncfs",
            "listen_addresses": "''",
            "unix_socket_directories": f"'{directory}'",
            "max_connections": "200",
        }
        with (directory / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())
        access = directory / "data" / "pg_hba.conf"
        access.write_text(f"local all {LOCKED} scram-sha-256\nlocal all all trust\n")
        made = Server(f"postgresql+psycopg://kentongan@/postgres?host={directory}", directory, binaries)
        made.control("start")
        try:
            yield made
        finally:
            made.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


__all__ = ["ENVIRONMENT", "LOCKED", "MISSING", "Server", "server"]
