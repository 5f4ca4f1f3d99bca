"""Backups of a node or a broker, taken while it runs, and their way back.

Guarantees: what is in a backup is one consistent state of the database, whatever the running process writes meanwhile;
each file is named with its SHA-256, and nothing is restored unless all of them are right. Restores into a new directory
only. Refuses: to overwrite anything, stores on PostgreSQL (its own tools copy those), and whatever in a backup is not a
plain file within it. A backup holds private keys unless it was asked for without: its file is its owner's alone.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import msgspec

import broker.config
import broker.upgradecli
import node.config
import node.upgradecli
from protocol.database import copy_sqlite, is_postgresql
from protocol.errors import ConfigError

MANIFEST: Final = "manifest.json"
_FORMAT: Final = "kentongan-backup/1"
_CHUNK: Final = 1 << 20
_MANIFEST_BYTES: Final = 16 << 20


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds: the SHA-256 of each file, by its path from the directory."""

    format: str
    kind: Literal["node", "broker"]
    made_at: datetime
    keys: bool
    files: dict[str, str]


_manifest: Final = msgspec.json.Decoder(Manifest)


@dataclass(frozen=True, slots=True)
class _Place:
    """A node's or broker's directory."""

    kind: Literal["node", "broker"]
    directory: Path
    database: Path
    keys: Path
    data: Path


def _place(directory: Path) -> _Place:
    """ConfigError unless everything that it needs is within the directory."""
    directory = directory.resolve()
    if (directory / node.config.FILE).exists():
        at = node.config.load_config(directory / node.config.FILE)
        url, found = at.store, _Place("node", directory, at.data / "node.db", at.keys, at.data)
    else:
        its = broker.config.load_config(directory)
        url, found = its.ledger, _Place("broker", directory, its.data / "ledger.db", its.keys, its.data)
    if url is not None and is_postgresql(url):
        raise ConfigError(
            "the database is on a PostgreSQL server: back it up with that server's tools, and copy the files"
        )
    if url is not None:
        raise ConfigError("the database is not where it is by default: copy it with `sqlite3 FILE '.backup COPY'`")
    for path in (found.keys, found.data):
        if not path.resolve().is_relative_to(directory):
            raise ConfigError(f"{path} is outside of {directory}: copy it yourself, with the rest")
    if not found.database.exists():
        raise ConfigError(f"{found.database} is missing: there is nothing to back up before the first start")
    return found


def _files(place: _Place, *, keys: bool) -> Iterator[Path]:
    """What is copied as it is: settings, keys, records and policies. Of the data the database alone, in another way."""
    for path in sorted(place.directory.rglob("*")):
        inside_data = path.is_relative_to(place.data.resolve()) and path.name != "region.jwt"
        secret = path.is_relative_to(place.keys.resolve()) or path.suffix in (".pem", ".secret", ".nk", ".creds")
        if path.is_file() and not path.is_symlink() and not inside_data and (keys or not secret):
            yield path


def backup(directory: Path, out: Path, now: datetime, *, keys: bool = True) -> Manifest:
    """Write a backup, beside a running process too.

    Args:
        out: a file that is not there yet; a tar archive, mode 0600.
        keys: whether private keys are in it.

    Raises:
        ConfigError: why not.
    """
    place = _place(directory)
    hashes: dict[str, str] = {}
    try:
        with (
            tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=".backup-") as scratch,
            os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            copy = Path(scratch) / place.database.name
            copy_sqlite(place.database, copy)
            copy.chmod(0o600)
            sources = {place.database.relative_to(place.directory).as_posix(): copy}
            sources |= {path.relative_to(place.directory).as_posix(): path for path in _files(place, keys=keys)}
            for name, path in sources.items():
                hashes[name] = _hash(path)
                tar.add(path, name, recursive=False, filter=_anonymous)
            manifest = Manifest(_FORMAT, place.kind, now, keys, hashes)
            data = msgspec.json.format(msgspec.json.encode(manifest))
            entry = tarfile.TarInfo(MANIFEST)
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, BytesIO(data))
            tar.close()
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as exc:
        raise ConfigError(f"{out} exists and is never overwritten") from exc
    except OSError as exc:
        out.unlink(missing_ok=True)
        raise ConfigError(f"{out} cannot be written: {exc.strerror or exc}") from exc
    return manifest


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def restore(archive: Path, directory: Path) -> Manifest:
    """Put a backup into a new directory, all of it or nothing.

    Raises:
        ConfigError: it is not whole, not a backup, or there is something in the way.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty: restore into a new directory")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.resolve().parent, prefix=".restore-") as scratch:
            fresh = Path(scratch) / "all"
            fresh.mkdir(mode=0o700)
            manifest = _extract(archive, fresh)
            (fresh / "data").chmod(0o700)
            if directory.exists():
                directory.rmdir()
            fresh.rename(directory)
    except (tarfile.TarError, EOFError) as exc:
        raise ConfigError(f"{archive} is not a whole backup") from exc
    except OSError as exc:
        raise ConfigError(f"it cannot be restored: {exc.filename or archive}: {exc.strerror or exc}") from exc
    return manifest


def hold(manifest: Manifest, directory: Path) -> None:
    """See that this program can start on what was restored. ConfigError with what to do before."""
    if manifest.kind == "node":
        node.upgradecli.before_run(node.config.load_config(directory / node.config.FILE), directory, allowed=False)
    else:
        broker.upgradecli.before_run(broker.config.load_config(directory), directory, allowed=False)


def _extract(archive: Path, fresh: Path) -> Manifest:
    found: dict[str, str] = {}
    manifest: Manifest | None = None
    with tarfile.open(archive, mode="r:") as tar:
        for entry in tar:
            name = PurePosixPath(entry.name)
            content = tar.extractfile(entry) if entry.isreg() else None
            if content is None or name.is_absolute() or ".." in name.parts or manifest is not None:
                raise ConfigError(
                    f"{archive} is not a backup: it holds something else than files, or more than it says"
                )
            if entry.name == MANIFEST:
                manifest = _read_manifest(archive, content.read(_MANIFEST_BYTES))
                continue
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, entry.mode & 0o700), "wb") as file:
                while chunk := content.read(_CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            # The newest of a region's files is its serial.
            os.utime(path, (entry.mtime, entry.mtime))
            found[entry.name] = digest.hexdigest()
    if manifest is None or manifest.files != found:
        raise ConfigError(f"{archive} is not whole: a file is missing, or is not what was backed up")
    return manifest


def _read_manifest(archive: Path, data: bytes) -> Manifest:
    try:
        manifest = _manifest.decode(data)
    except msgspec.DecodeError as exc:
        raise ConfigError(f"{archive}: its list of files cannot be read") from exc
    if manifest.format != _FORMAT:
        raise ConfigError(f"{archive} is of the format {manifest.format[:40]!r}, this program reads {_FORMAT}")
    return manifest
