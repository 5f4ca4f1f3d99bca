"""Backups: one state, all of it or nothing, and nobody else's to read."""

from __future__ import annotations

import io
import json
import stat
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.archive import MANIFEST, backup, restore
from node.cli import main
from node.config import load_config
from node.store import Store
from protocol.errors import ConfigError

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's directory with a database that holds an event."""
    place = tmp_path / "node"
    assert main(["node", "init", str(place), "--member", "id-cert"]) == 0
    add_event(place)
    return place


def add_event(place: Path) -> None:
    store = Store.open(load_config(place / "node.toml").data)
    with store.write() as tx:
        tx.event("report.filed", {"n": 1}, 1)
    store.close()


def events(place: Path) -> int:
    store = Store.open(load_config(place / "node.toml").data)
    try:
        return store.last_event
    finally:
        store.close()


def test_a_backup_comes_back(node: Path, tmp_path: Path) -> None:
    """As it was when it was made, with the modes of its files."""
    manifest = backup(node, tmp_path / "b.tar", NOW)
    assert stat.S_IMODE((tmp_path / "b.tar").stat().st_mode) == 0o600
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    add_event(node)
    assert restore(tmp_path / "b.tar", tmp_path / "new") == manifest
    assert (events(node), events(tmp_path / "new")) == (2, 1)
    names = {path.relative_to(node).as_posix() for path in node.rglob("*") if path.is_file()}
    expected = {name for name in names if not name.startswith("data/")} | {"data/node.db"}
    assert set(manifest.files) == expected
    for path in (node / "keys").iterdir():
        copy = tmp_path / "new" / "keys" / path.name
        assert copy.read_bytes() == path.read_bytes()
        assert stat.S_IMODE(copy.stat().st_mode) == 0o400
        assert int(copy.stat().st_mtime) == int(path.stat().st_mtime)
    assert stat.S_IMODE((tmp_path / "new" / "data").stat().st_mode) == 0o700


def test_it_is_taken_beside_a_writer(node: Path, tmp_path: Path) -> None:
    """What is committed is in it, though it is in the write-ahead log alone; what is not committed is not."""
    store = Store.open(load_config(node / "node.toml").data)
    with store.write() as tx:
        tx.event("report.filed", {"n": 2}, 2)
    with store.write() as tx:
        tx.event("report.filed", {"n": 3}, 3)
        backup(node, tmp_path / "b.tar", NOW)
    store.close()
    restore(tmp_path / "b.tar", tmp_path / "new")
    assert events(tmp_path / "new") == 2


def test_without_keys(node: Path, tmp_path: Path) -> None:
    """Not one secret is in the file."""
    manifest = backup(node, tmp_path / "b.tar", NOW, keys=False)
    assert not manifest.keys
    assert not [name for name in manifest.files if name.startswith("keys/")]
    data = (tmp_path / "b.tar").read_bytes()
    assert not [path for path in (node / "keys").iterdir() if path.read_bytes() in data]


def test_nothing_is_overwritten(node: Path, tmp_path: Path) -> None:
    """Neither a backup nor a directory with anything in it."""
    backup(node, tmp_path / "b.tar", NOW)
    before = (tmp_path / "b.tar").read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        backup(node, tmp_path / "b.tar", NOW)
    assert (tmp_path / "b.tar").read_bytes() == before
    with pytest.raises(ConfigError, match="not empty"):
        restore(tmp_path / "b.tar", node)
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "b.tar", tmp_path / "empty")


def rewritten(path: Path, change: Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]) -> Path:
    """A copy of an archive, entry by entry."""
    out = path.with_name("changed.tar")
    with tarfile.open(path) as tar, tarfile.open(out, "w") as other:
        for entry in tar:
            found = tar.extractfile(entry)
            assert found is not None
            for new, data in change(entry, found.read()):
                new.size = len(data)
                other.addfile(new, io.BytesIO(data))
    return out


def other_format(entry: tarfile.TarInfo, data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    if entry.name == MANIFEST:
        data = json.dumps({**json.loads(data), "format": "other/1"}).encode()
    return [(entry, data)]


@pytest.mark.parametrize(
    "change",
    [
        lambda entry, data: [(entry, data[:-1] + b"x" if entry.name == "policy.toml" else data)],
        lambda entry, data: [] if entry.name == "node.toml" else [(entry, data)],
        lambda entry, data: [] if entry.name == MANIFEST else [(entry, data)],
        lambda entry, data: (
            [(entry, data), (tarfile.TarInfo("late"), b"")] if entry.name == MANIFEST else [(entry, data)]
        ),
        lambda entry, data: [(entry.replace(name="../" + entry.name), data)],
        lambda entry, data: [(entry.replace(name="/x/" + entry.name), data)],
        lambda entry, data: [(entry, b"{" if entry.name == MANIFEST else data)],
        other_format,
    ],
)
def test_what_is_not_whole_is_not_restored(
    node: Path, tmp_path: Path, change: Callable[[tarfile.TarInfo, bytes], list[tuple[tarfile.TarInfo, bytes]]]
) -> None:
    """Nothing of it, and nothing outside of the directory."""
    backup(node, tmp_path / "b.tar", NOW)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError):
        restore(rewritten(tmp_path / "b.tar", change), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {tmp_path / "changed.tar"}


def test_links_and_cut_off_files_are_refused(node: Path, tmp_path: Path) -> None:
    """A link could lead anywhere."""
    backup(node, tmp_path / "b.tar", NOW)
    data = (tmp_path / "b.tar").read_bytes()
    for length in (0, 100, len(data) // 2):
        (tmp_path / "cut.tar").write_bytes(data[:length])
        with pytest.raises(ConfigError):
            restore(tmp_path / "cut.tar", tmp_path / "new")
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        entry = tarfile.TarInfo("keys")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(entry)
    with pytest.raises(ConfigError):
        restore(tmp_path / "link.tar", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_it_cannot_copy_it_says(node: Path, tmp_path: Path) -> None:
    """A database elsewhere, keys elsewhere, nothing there yet."""
    text = (node / "node.toml").read_text()
    for line, why in (
        ('store = "postgresql+psycopg://h/d"', "PostgreSQL"),
        (f'store = "sqlite:///{tmp_path}/x.db"', "by default"),
        (f'data = "{tmp_path}/elsewhere"', "outside"),
    ):
        kept = [one for one in text.splitlines() if not one.startswith(line.partition(" ")[0])]
        (node / "node.toml").write_text("\n".join([line, *kept]))
        with pytest.raises(ConfigError, match=why):
            backup(node, tmp_path / "b.tar", NOW)
    (node / "node.toml").write_text(text)
    (node / "data" / "node.db").unlink()
    with pytest.raises(ConfigError, match="nothing to back up"):
        backup(node, tmp_path / "b.tar", NOW)
    assert not (tmp_path / "b.tar").exists()
