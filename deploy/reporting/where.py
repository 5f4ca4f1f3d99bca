"""Which node, with which token: from options, the environment, or a node's directory.

A token is read from the environment or from a file, never from the command line, where all users of the machine see it.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kentongan.client import Client
from node.app import URL_FILE
from node.config import FILE, load_config
from protocol.errors import ConfigError

URL: Final = "KENTONGAN_URL"
TOKEN: Final = "KENTONGAN_TOKEN"  # noqa: S105 - the name of the variable
TOKEN_FILE: Final = "KENTONGAN_TOKEN_FILE"  # noqa: S105 - the same


@dataclass(frozen=True, slots=True)
class Place:
    """A node as a client sees it."""

    url: str
    token: str
    authority: Path | None
    patience: float

    def client(self) -> Client:
        """A client for it. ConfigError if the URL, the token or the authority is none."""
        tls = None
        if self.authority is not None:
            try:
                tls = ssl.create_default_context(cafile=self.authority)
            except (OSError, ssl.SSLError) as exc:
                raise ConfigError(f"--ca {self.authority}: {exc}") from exc
        try:
            return Client(self.url, self.token, tls=tls, patience=self.patience)
        except ValueError as exc:
            raise ConfigError(f"{exc}: see --url and {TOKEN}") from exc


def find(
    environment: Mapping[str, str],
    *,
    url: str | None = None,
    token_file: Path | None = None,
    directory: Path | None = None,
    authority: Path | None = None,
    patience: float = 60.0,
) -> Place:
    """Where to report to. An option outranks the environment, and that a node's directory.

    Raises:
        ConfigError: there is no URL or no token; the text says where one could stand.
    """
    found = url or environment.get(URL) or (_url_of(directory) if directory is not None else None)
    if not found:
        raise ConfigError(f"which node? Give --url, --node with its directory, or {URL} in the environment")
    named = environment.get(TOKEN_FILE)
    if token_file is not None:
        token = _read(token_file)
    elif environment.get(TOKEN):
        token = environment[TOKEN].strip()
    elif named:
        token = _read(Path(named))
    else:
        raise ConfigError(f"no token: put it into {TOKEN}, or into a file for --token-file or {TOKEN_FILE}")
    return Place(found, token, authority, patience)


def _url_of(place: Path) -> str:
    """Where the node of a directory listens: as it wrote when it started, or as its settings say."""
    config = load_config(place / FILE if place.is_dir() else place)
    try:
        return (config.data / URL_FILE).read_text(encoding="ascii").strip()
    except OSError:
        return f"http://{config.http.host}:{config.http.port}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the token file {path} cannot be read: {exc}") from exc
