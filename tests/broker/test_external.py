"""Servers that are not the broker's own: they are told who may connect, whenever they lack it, and nothing twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.accounts import Accounts
from broker.external import ExternalNats
from protocol.errors import ConfigError
from protocol.natsauth import Role, format_creds, issuer_of, parse_creds, public_of
from tests.natshelp import Region, eventually, region


def servers(bus: Region, place: Path, *members: str, ahead: float = 0) -> ExternalNats:
    """The broker's side, with the keys that the server knows; `ahead` seconds later."""
    place.mkdir(exist_ok=True)
    return ExternalNats(bus.server.url, bus.accounts, members, place=place, clock=lambda: time.time() + ahead)


@asynccontextmanager
async def supervised(found: ExternalNats) -> AsyncIterator[None]:
    """Started, and followed until the end."""
    await found.start()
    task = asyncio.create_task(found.supervise())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await found.stop()


def held(bus: Region) -> dict[str, bytes]:
    """The claims in the server's directory, to the byte."""
    return {path.name: path.read_bytes() for path in (bus.directory / "nats" / "jwt").rglob("*.jwt")}


async def test_only_what_a_server_lacks_is_changed(tmp_path: Path) -> None:
    """A second broker, or a restarted one, disturbs no account whose claim says what it should."""
    async with region(tmp_path, []) as bus:
        async with supervised(servers(bus, tmp_path / "a", "pl", "de")):
            before = held(bus)
            assert len(before) == 4
        again = servers(bus, tmp_path / "b", "pl", "de", ahead=1000)
        async with supervised(again):
            assert again.behind == 0
            assert held(bus) == before
            await again.set_members(["pl", "de"], suspended=["pl"])
            await eventually(lambda: again.behind == 0)
        account = f"{bus.accounts.member_account('pl')}.jwt"
        assert [name for name, claim in held(bus).items() if claim != before[name]] == [account]


async def test_a_change_reaches_servers_that_were_away(tmp_path: Path) -> None:
    """While none answers it is shown, and kept; a server that comes back with old claims is told at once."""
    async with region(tmp_path, ["pl", "de"], supervised=False) as bus:
        found = servers(bus, tmp_path / "a", "pl", "de")
        async with supervised(found):
            states: list[str] = []
            member = await bus.member("pl", states.append)
            with capture_logs() as said:
                await bus.server.stop()
                await found.set_members(["pl", "de"], suspended=["pl"])
                assert found.behind == 1
                await eventually(lambda: any(line["event"] == "nats.claims_waiting" for line in said))
                # It begins with the claims of before.
                await bus.server.start()
                await eventually(lambda: found.behind == 0)
            await eventually(lambda: "refused" in states)
            await found.set_members(["pl", "de"])
            await eventually(lambda: member.connected)
            await found.set_members(["de"])
            await eventually(lambda: not member.connected)


async def test_servers_of_another_operator_are_refused(tmp_path: Path) -> None:
    """They would never take a claim: the operator is told, and nothing is tried for ever."""
    async with region(tmp_path, []) as bus:
        found = ExternalNats(bus.server.url, Accounts.create(tmp_path / "others"), ["pl"], place=tmp_path)
        with pytest.raises(ConfigError, match="refused"):
            await found.start()
        assert found.behind
        await found.stop()


async def test_a_members_former_account_counts_until_its_time(tmp_path: Path) -> None:
    """All keys of the bus are replaced; nodes that have not followed yet are let in meanwhile, and not after."""
    async with region(tmp_path, ["pl"], supervised=False) as bus:
        before = bus.member_creds("pl")
        await bus.server.stop()
    end = int(time.time()) + 1000
    assert bus.accounts.renew(end) == 1
    async with region(tmp_path, ["pl"], supervised=False) as bus:
        await (await bus.member("pl")).close()
        after = bus.accounts.issue_user(
            "pl", public_of(parse_creds(before.read_text())[1], Role.USER), int(time.time())
        )
        assert issuer_of(after) != issuer_of(parse_creds(before.read_text())[0])
        later = servers(bus, tmp_path / "a", "pl", ahead=1001)
        async with supervised(later):
            with pytest.raises(ConfigError, match="refused"):
                await bus.member("pl")
            bus.write("pl.creds", format_creds(after, parse_creds(before.read_text())[1]))
            await (await bus.member("pl")).close()
