"""The image's health check beside a node that serves, by HTTP and by HTTPS; and how setup.sh asks for HTTPS."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from node.config import Http
from tests.certificates import Authority
from tests.deploy.helping import ROOT, clean_env
from tests.node.conftest import Running, running
from tests.node.world import Clock, MemoryBus, make_config

SCRIPT = ROOT / "deploy" / "image" / "healthcheck.py"


async def check(*places: object) -> int:
    """Its exit code, as a container engine sees it."""
    words = [sys.executable, "-I", str(SCRIPT), *map(str, places)]
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, check=False, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode


@asynccontextmanager
async def serving(place: Path, http: Http) -> AsyncIterator[Running]:
    """A node with such a door, which has not seen its region."""
    bus = MemoryBus()
    bus.up = False
    async with running(replace(make_config(place), http=http), Clock(), bus) as node:
        yield node


def settle(place: Path, node: Running, **more: Path) -> None:
    """The settings of that node, as the check reads them."""
    url = urlsplit(node.node.url)
    lines = [f'{name} = "{value}"\n' for name, value in more.items()]
    (place / "node.toml").write_text(f'[http]\nhost = "0.0.0.0"\nport = {url.port}\n{"".join(lines)}', "utf-8")


async def test_it_asks_where_the_settings_say(tmp_path: Path) -> None:
    """Directory, file and URL; not a node that is gone, and no settings that are broken."""
    async with serving(tmp_path, Http(port=0)) as node:
        settle(tmp_path, node)
        assert await check(tmp_path) == 0
        assert await check(f"{node.node.url}/healthz") == 0
    assert await check(tmp_path / "node.toml") == 1
    (tmp_path / "node.toml").write_text('http = "x"', "utf-8")
    assert await check(tmp_path) == 1
    assert await check(tmp_path / "nothing") == 1


async def test_https_is_believed_by_its_certificate(tmp_path: Path) -> None:
    """Relative to the file, without a client certificate where those count; not with another certificate there."""
    site, clients = (Authority(tmp_path, name) for name in ("site", "clients"))
    cert, key, _ = site.issue("node", server=True)
    other, _, _ = site.issue("other", server=True)
    async with serving(tmp_path, Http(port=0, tls_cert=cert, tls_key=key, client_ca=clients.file)) as node:
        settle(tmp_path, node, tls_cert=Path(cert.name), tls_key=key, client_ca=clients.file)
        assert await check(tmp_path) == 0
        settle(tmp_path, node, tls_cert=other)
        assert await check(tmp_path) == 1
        settle(tmp_path, node)
        assert await check(tmp_path) == 1, "plain HTTP is not what it serves"


async def test_a_certificate_that_has_run_out_is_no_reason_to_restart(tmp_path: Path) -> None:
    """The node goes on sending and receiving, which a restart would only interrupt."""
    cert, key, _ = Authority(tmp_path, "site").issue("node", server=True, ended=True)
    async with serving(tmp_path, Http(port=0, tls_cert=cert, tls_key=key)) as node:
        settle(tmp_path, node, tls_cert=cert)
        assert await check(tmp_path) == 0


@pytest.mark.parametrize("role", ["node", "broker"])
def test_setup_serves_https_as_it_is_told(tmp_path: Path, role: str) -> None:
    """Also later, and not any more; where nothing is said, nothing is changed."""
    place, exchange = tmp_path / role, tmp_path / "exchange"
    exchange.mkdir()
    more = {"node": ["id-cert", "BSSN"], "broker": ["Region", "nats://127.0.0.1:4222"]}[role]
    step = {"node": "node", "broker": "region"}[role]

    def http(**env: str) -> dict[str, object]:
        words = ["/bin/sh", str(ROOT / "deploy/image/setup.sh"), step, str(place), str(exchange), *more]
        program = Path(sys.executable).parent.parent
        subprocess.run(words, env=clean_env(program, **env), capture_output=True, check=True)
        found: dict[str, object] = tomllib.loads((place / f"{role}.toml").read_text("utf-8"))["http"]
        assert found.pop("host") == "0.0.0.0"  # noqa: S104 - inside a container
        found.pop("port")
        return found

    tls = {"tls_cert": "/tls/tls.crt", "tls_key": "/tls/tls.key"}
    assert http(HTTP_TLS="/tls") == tls
    assert http(HTTP_TLS="/tls", HTTP_CLIENT_CA="/ca.pem") == tls | {"client_ca": "/ca.pem"}
    assert http() == tls | {"client_ca": "/ca.pem"}
    assert http(HTTP_TLS="") == {}
