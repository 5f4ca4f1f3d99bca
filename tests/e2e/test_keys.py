"""Every kind of key is renewed while reports are posted all the time, with real processes: none is lost or refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from broker.accounts import Accounts
from broker.members import load_region
from deploy.demo.processes import Tree
from deploy.demo.region import make, start
from protocol.keys import unb64
from protocol.natsauth import issuer_of, parse_creds, subject_of
from tests.e2e.conftest import Running, eventually
from tests.e2e.test_governance import FINANCE, filing, kentongan

NAMES = ("jp", "sg")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Running]:
    """A region of two nodes, its bus in TLS."""
    tree = Tree(tmp_path / "logs")
    async with aiohttp.ClientSession() as session:
        try:
            place = await asyncio.to_thread(make, tmp_path, 0, NAMES, tls=True)
            yield Running(place, tree, await start(place, tree, session), session)
        finally:
            await tree.stop()
    for name in ("broker", *NAMES):
        kentongan("broker" if name == "broker" else "node", "check", tmp_path / name)


class Load:
    """Posts reports until told to stop; every one of them is taken."""

    def __init__(self, region: Running, name: str) -> None:
        self.posted: list[str] = []
        self._door = region.doors[name]
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            title = f"Report {len(self.posted)}"
            answer = await self._door.call("POST", "/v1/reports", filing(title, **FINANCE))
            assert answer.status == 202, answer.body
            self.posted.append(answer.body["report_id"])
            await asyncio.sleep(0.02)

    async def more(self, number: int) -> None:
        """Return when so many more were posted."""
        at = len(self.posted)
        while len(self.posted) < at + number:
            assert not self._task.done(), self._task.exception()
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def followed(region: Running) -> bool:
    """Whether each node believes the bus's authorities of now, and connects with the account of now."""
    home = region.place.directory / "broker" / "keys"
    authorities, accounts = (home / "tls" / "ca.pem").read_text(), Accounts.load(home / "nats")
    for name in NAMES:
        keys = region.place.directory / name / "keys"
        issuer = issuer_of(parse_creds((keys / "nats.creds").read_text())[0])
        if (keys / "nats-ca.pem").read_text() != authorities or issuer != accounts.member_account(name):
            return False
    return True


async def trustee_changed(region: Running) -> None:
    """The trustees' record with another key: the present ones decide, and who is new signs."""
    home, office = region.place.directory / "broker", region.place.directory / "office"
    kentongan("trustee", "init", office, "--id", "office", "--name", "The office")
    kentongan("broker", "propose", home, "trustees", office / "trustee.json", "--threshold", "1")
    (proposal,) = (home / "proposals").glob("*-trustees-*.json")
    kentongan("members", "approve", proposal, "--key", office / "trustee.pem", "--yes")
    kentongan("broker", "record", home, proposal)


async def known(region: Running) -> bool:
    """Whether each node has all records, and the trustee of now."""
    records = len(list((region.place.directory / "broker" / "governance").glob("*.json")))
    said = [kentongan("node", "verify-membership", region.place.directory / name) for name in NAMES]
    return all(f"{records} records of" in one and "1 of 1 trustees" in one for one in said)


def kid_of(jws: str) -> str:
    return str(json.loads(unb64(jws.partition(".")[0]))["kid"])


@pytest.mark.timeout(200)
async def test_every_key_is_renewed_under_load(pair: Running) -> None:
    """Signing, sealing, connection, the broker's own: one after the other, measured."""
    home, node = pair.place.directory / "broker", pair.place.directory / "jp"
    creds = node / "keys" / "nats.creds"
    before = subject_of(parse_creds(creds.read_text())[0])
    old_broker = json.loads((home / "keys" / "broker.json").read_text())[0]["kid"]
    certificates = [home / "keys" / "tls" / "server.pem", node / "keys" / "nats-certificate.pem"]
    shown = [path.read_bytes() for path in certificates]
    started = time.monotonic()
    load = Load(pair, "jp")
    await load.more(10)

    async def renewed() -> bool:
        return not (node / "keys" / "renewal.json").exists()

    began = time.monotonic()
    kentongan("node", "rotate", node, "--sealing", "--algorithm", "ML-DSA-65")
    await eventually(renewed, "signing and sealing")
    print(f"signing and sealing key: {time.monotonic() - began:.2f} s")
    await load.more(10)
    began = time.monotonic()
    kentongan("node", "rotate", node, "--transport")
    await eventually(renewed, "the connection")
    print(f"key of the connection: {time.monotonic() - began:.2f} s")
    after = subject_of(parse_creds(creds.read_text())[0])
    assert after != before
    await load.more(10)
    began = time.monotonic()
    kentongan("broker", "rotate", home)

    async def of_broker() -> bool:
        return not (home / "keys" / "signing-next.pem").exists()

    await eventually(of_broker, "the broker's")
    print(f"the broker's key: {time.monotonic() - began:.2f} s")
    await load.more(10)
    await trustee_changed(pair)
    await load.more(10)

    async def reloaded() -> bool:
        return pair.tree.kept["broker"].log.read_text().count("nats.certificate_renewed") >= 2

    began = time.monotonic()
    kentongan("broker", "rotate", home, "--authority")
    await eventually(lambda: followed(pair), "the nodes know the new authority")
    kentongan("broker", "rotate", home, "--authority", "--finish")
    await eventually(reloaded, "the certificate of the bus, by the new authority")
    print(f"the authority of the bus: {time.monotonic() - began:.2f} s")
    await load.more(10)
    began = time.monotonic()
    kentongan("broker", "rotate", home, "--bus", "--overlap", "1")
    os.kill(pair.pid("broker"), signal.SIGTERM)
    await eventually(
        lambda: followed(pair), "the nodes connect with the new accounts, and believe the new authority alone"
    )
    await eventually(lambda: known(pair), "the nodes follow the record about the trustees")
    print(f"the accounts of the bus: {time.monotonic() - began:.2f} s")
    await load.more(20)
    await load.stop()
    for path, data in zip(certificates, shown, strict=True):
        assert path.read_bytes() != data, path
    assert (home / "keys" / "tls" / "ca.pem").read_text().count("BEGIN") == 1
    assert len(list((home / "keys" / "nats").glob("member-*.until-*.nk"))) == len(NAMES)
    print(f"{len(load.posted)} reports, {time.monotonic() - started:.2f} s")
    new_broker = json.loads((home / "keys" / "broker.json").read_text())[-1]["kid"]
    assert new_broker != old_broker

    async def settled() -> bool:
        held = {item["report_id"] for item in await pair.inbox("sg")}
        reports = [await pair.doors["jp"].get(f"/v1/reports/{report}") for report in load.posted]
        states = {one["revisions"][0]["state"] for one in reports}
        assert states <= {"queued", "accepted"}, states
        return held.issuperset(load.posted) and states == {"accepted"}

    await eventually(settled, "each report is accepted, and at its recipient")
    print(f"settled {time.monotonic() - started:.2f} s")
    with closing(sqlite3.connect(f"file:{node / 'data' / 'node.db'}?mode=ro", uri=True)) as database:
        receipts = [row[0] for row in database.execute("SELECT receipt FROM submissions ORDER BY id")]
    assert {kid_of(receipt) for receipt in receipts} == {old_broker, new_broker}
    for name in NAMES:
        assert (await pair.doors[name].get("/v1/alarms"))["open"] == 0, name
    log = await pair.doors["jp"].get("/v1/log")
    assert log["published"]["witnesses"] == ["sg"], "a member with a key of ML-DSA-65 cosigns nothing"
    (member,) = [one for one in load_region(home).members if one.id == "jp"]
    assert member.transport == after

    async def proven() -> bool:
        log = await pair.doors["jp"].get("/v1/log")
        return bool(log["leaves"] == {"waiting": 0, "missing": 0})

    await eventually(proven, "everything is in the log, under both keys of the broker")
    print(f"{time.monotonic() - started:.2f} s")
    logs = pair.tree.kept["broker"].log.read_text() + pair.tree.kept["jp"].log.read_text()
    assert "process.bug" not in logs
