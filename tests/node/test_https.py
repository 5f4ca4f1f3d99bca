"""HTTPS at a node's door: with and without client certificates, and the commands beside it."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from node.cli import main
from node.config import Http
from protocol.errors import ConfigError
from protocol.tls import Certificate, server_context, subject_of
from tests.certificates import Authority
from tests.node.conftest import running
from tests.node.test_alarms import TOML
from tests.node.world import TOKEN, Clock, MemoryBus, make_config

HOOK = '[[webhook]]\nname = "soc"\nurl = "https://soc.example/x"\n'


def offline() -> MemoryBus:
    """The node does not wait to be ready, for which it would be asked without its certificate."""
    bus = MemoryBus()
    bus.up = False
    return bus


def trusting(ca: Path, *chain: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if chain:
        context.load_cert_chain(*chain)
    return context


async def ask(url: str, context: ssl.SSLContext, token: str = "", path: str = "/v1/inbox", **options: Any) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    method = "POST" if options else "GET"
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http,
        http.request(method, url + path, headers=headers, **options) as response,
    ):
        body = await response.json(content_type=None)
        return response.status, body.get("reason", body.get("token"))


async def test_certificates_stand_for_tokens(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """By fingerprint and by subject; a token still does; another CA's name does not, nor one that looks alike."""
    site, clients, strangers = (Authority(tmp_path, name) for name in ("site", "clients", "strangers"))
    cert, key, _ = site.issue("node", server=True)
    tool, tool_key, fingerprint = clients.issue("tool", "Bank")
    other = clients.issue("other", "Bank,CN=tool")[:2]
    forged = strangers.issue("tool", "Bank")[:2]
    config = replace(make_config(tmp_path), http=Http(port=0, tls_cert=cert, tls_key=key, client_ca=clients.file))
    async with running(config, clock, offline()) as node:
        url = node.node.url
        assert url.startswith("https://")
        plain = trusting(site.file)
        assert (await ask(url, plain)) == (401, "token-missing")
        assert (await ask(url, plain, TOKEN))[0] == 200
        assert (await ask(url, trusting(site.file, tool, tool_key)))[1] == "token-missing"
        made = {"name": "by-print", "scopes": ["read"], "certificate": fingerprint}
        assert (await ask(url, plain, TOKEN, "/v1/tokens", json=made))[0] == 201
        again = {"name": "twice", "scopes": ["admin"], "certificate": fingerprint}
        assert (await ask(url, plain, TOKEN, "/v1/tokens", json=again)) == (409, "token-exists")
        named = {"name": "by-name", "scopes": ["confirm"], "certificate": r"O=Bank\,CN\=tool,CN=other"}
        assert (await ask(url, plain, TOKEN, "/v1/tokens", json=named))[0] == 201
        assert (await ask(url, trusting(site.file, tool, tool_key)))[0] == 200
        assert (await ask(url, trusting(site.file, *other))) == (403, "scope-missing")
        assert (await ask(url, trusting(site.file, tool, tool_key), "nonsense")) == (401, "token-invalid")
        with pytest.raises(aiohttp.ClientError):
            await ask(url, trusting(site.file, *forged))
        assert (await ask(url, plain, TOKEN, "/v1/tokens/by-print/revoke", json={}))[0] == 200
        assert (await ask(url, trusting(site.file, tool, tool_key))) == (401, "token-missing")
        with pytest.raises(aiohttp.ClientError):
            await ask(url, trusting(clients.file))

        # The command believes the node by its certificate alone.
        tls = f'[http]\nport = 0\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
        (tmp_path / "node.toml").write_text(TOML + tls)
        create = ["node", "token", "create", str(tmp_path), "x", "--scope", "read", "--token", TOKEN]
        assert await asyncio.to_thread(main, create) == 0
        (tmp_path / "node.toml").write_text(TOML + tls + HOOK)
        test = ["node", "webhooks", str(tmp_path), "--test", "soc", "--token", TOKEN]
        assert await asyncio.to_thread(main, test) == 2
        assert "refuses: 404" in capsys.readouterr().err, "it was asked, and this node has no such webhook"
        (tmp_path / "node.toml").write_text(TOML + tls.replace(str(cert), str(tool)).replace(str(key), str(tool_key)))
        assert await asyncio.to_thread(main, [*create[:4], "y", *create[5:]]) == 2
    assert "does not answer" in capsys.readouterr().err


async def test_https_without_client_certificates(tmp_path: Path, clock: Clock) -> None:
    """None is asked for, and none counts."""
    site = Authority(tmp_path, "site")
    cert, key, _ = site.issue("node", server=True)
    config = replace(make_config(tmp_path), http=Http(port=0, tls_cert=cert, tls_key=key))
    async with running(config, clock, offline()) as node:
        assert (await ask(node.node.url, trusting(site.file), TOKEN))[0] == 200
        assert (await ask(node.node.url, trusting(site.file, *site.issue("x")[:2])))[1] == "token-missing"


def test_a_subject_has_one_spelling() -> None:
    """What separates is escaped, so that no name poses as two."""
    assert subject_of(((("organizationName", "Bank"),), (("commonName", "soc"),))) == "O=Bank,CN=soc"
    assert subject_of(((("organizationName", "Bank,CN=soc"),),)) == r"O=Bank\,CN\=soc"
    assert subject_of(((("commonName", "a+b"), ("userId", "#1")),)) == r"CN=a\+b+UID=\#1"
    assert not Certificate("ab", "").is_named("")
    assert Certificate("ab", "CN=x").is_named("CN=x")


def test_wrong_files_are_the_operators(tmp_path: Path) -> None:
    """Each with what it is about."""
    site = Authority(tmp_path, "site")
    cert, key, _ = site.issue("node", server=True)
    assert server_context(None, None, None) is None
    for files in ((None, key, None), (None, None, cert), (cert, None, None), (tmp_path / "no", key, None)):
        with pytest.raises(ConfigError, match=r"\[http\]"):
            server_context(*files)
    with pytest.raises(ConfigError, match="client_ca"):
        server_context(cert, key, key)
