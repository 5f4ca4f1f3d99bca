"""Who is in the region, with real processes: a join by the documented commands, a suspension, a renewed key."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sqlite3
import time
from contextlib import closing, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
import pytest

from broker.members import load_region
from broker.setup import set_status
from deploy import cli
from deploy.demo.forge import forged
from deploy.demo.processes import Tree, free_port
from deploy.demo.region import Place, start
from protocol import subjects
from protocol.bus import NatsBus
from protocol.invitation import load_invitation
from protocol.keys import SigningKey, b64, unb64
from protocol.registry import Member
from tests.e2e.conftest import Running, eventually

FINANCE = {"sectors": [{"code": "finance"}]}
TRUSTEES = ("ministry-id", "office-sg", "agency-jp")


def filing(title: str, **changes: Any) -> dict[str, Any]:
    return {
        "marking": {"tlp": "GREEN"},
        "rsit": [{"class": "malicious-code", "type": "infected-system"}],
        "severity": {"score": 50},
        "body": {"title": title, "malware": ["x"]},
        **changes,
    }


def kentongan(*arguments: str | Path) -> str:
    """A command as an operator gives it; its output."""
    said = io.StringIO()
    with redirect_stdout(said):
        assert cli.main([str(one) for one in arguments], log=False) == 0, arguments
    return said.getvalue()


def approve(directory: Path, proposal: Path, *trustees: str) -> None:
    for name in trustees:
        assert "Nothing is signed yet" in kentongan(
            "members", "approve", proposal, "--key", directory / name / "trustee.pem"
        )
        kentongan("members", "approve", proposal, "--key", directory / name / "trustee.pem", "--yes")


@pytest.mark.timeout(200)
async def test_a_join_from_two_empty_directories(tmp_path: Path) -> None:
    """Three trustees, two to decide: founded, proposed, approved, recorded, invited, joined, connected."""
    began = time.monotonic()
    home, node = tmp_path / "broker", tmp_path / "id"
    ports = {"broker": free_port(), "id": free_port(), "nats": free_port()}
    given: list[str | Path] = []
    for name in TRUSTEES:
        kentongan("trustee", "init", tmp_path / name, "--id", name, "--name", f"The office {name}")
        given += ["--trustee", tmp_path / name / "trustee.json"]
    said = kentongan(
        "broker", "init", home, "--region", "Straits", "--port", str(ports["broker"]), "--nats-port",
        str(ports["nats"]), *given, "--threshold", "2",
    )  # fmt: skip
    token = next(line.rsplit(" ", 1)[1] for line in said.splitlines() if "token" in line)
    founding = home / "proposals" / "000000-found.json"
    approve(tmp_path, founding, *TRUSTEES)
    kentongan("broker", "record", home, founding)
    said = kentongan(
        "node", "init", node, "--member", "id-cert", "--jurisdiction", "id", "--name", "BSSN", "--port",
        str(ports["id"]),
    )  # fmt: skip
    tokens = {"broker": token, "id": next(line.rsplit(" ", 1)[1] for line in said.splitlines() if "token" in line)}
    said = kentongan("broker", "admit", home, node / "member.json", "--policy", node / "policy.toml")
    assert "2 more of the trustees have to sign" in said
    (proposal,) = (home / "proposals").glob("000001-admit-*.json")
    approve(tmp_path, proposal, "ministry-id")
    assert cli.main(["broker", "record", str(home), str(proposal)], log=False) == 2, "one of two is not enough"
    approve(tmp_path, proposal, "agency-jp")
    kentongan("broker", "record", home, proposal)
    kentongan("broker", "invite", home, "id-cert", tmp_path / "invitation.json", "--policy", node / "policy.toml")
    kentongan("node", "join", node, tmp_path / "invitation.json")
    assert "2 of 3 trustees decide" in kentongan("broker", "governance", home)
    commands = time.monotonic() - began
    tree = Tree(tmp_path / "logs")
    async with aiohttp.ClientSession() as session:
        try:
            doors = await start(Place(tmp_path, ports, tokens), tree, session)
            ready = time.monotonic() - began
            answer = await doors["id"].call("POST", "/v1/reports", filing("The first"))
            assert answer.status == 202, answer.body

            async def proven() -> bool:
                log = await doors["id"].get("/v1/log")
                return bool(log["published"]["size"] >= 2 and log["leaves"] == {"waiting": 0, "missing": 0})

            await eventually(proven, "both records are proven to be in the log")
            assert (await doors["id"].get("/v1/alarms"))["open"] == 0
            print(f"join: commands {commands:.1f} s, up after {ready:.1f} s, proven {time.monotonic() - began:.1f} s")
        finally:
            await tree.stop()
    kentongan("broker", "check", home)
    kentongan("node", "check", node)
    assert "2 records" in kentongan("node", "verify-membership", node)


@pytest.mark.timeout(200)
async def test_how_soon_a_suspension_bites(region: Running) -> None:
    """The connection is cut, nothing that is queued is delivered; measured, and printed."""
    home = region.place.directory / "broker"

    async def connected() -> bool:
        async with region.session.get(f"{region.place.url('jp')}/readyz") as response:
            return response.status == 200

    assert await connected()
    began = time.monotonic()
    await asyncio.to_thread(set_status, home, "jp", "suspended")
    recorded = time.monotonic()
    while await connected():
        await asyncio.sleep(0.01)
    cut = time.monotonic()
    print(
        f"suspension: signed and recorded in {recorded - began:.3f} s, connection cut {cut - recorded:.3f} s after that"
    )
    answer = await region.doors["id"].call(
        "POST", "/v1/reports", filing("While it is suspended", sectors=[{"code": "finance"}])
    )
    report = answer.body["report_id"]

    async def denied() -> bool:
        shown = await region.doors["id"].get(f"/v1/reports/{report}")
        recipient = shown["revisions"][0]["recipients"].get("jp", {})
        return recipient.get("granted") is False

    await eventually(denied, "the origin reads that it is denied")
    assert all(item["report_id"] != report for item in await region.inbox("jp"))
    await asyncio.to_thread(set_status, home, "jp", "active")
    await eventually(connected, "it is let back in")


@pytest.mark.timeout(250)
async def test_a_key_is_renewed_under_load(region: Running) -> None:
    """Reports are posted all the time: each is accepted, and reaches everybody who may have it."""
    node = region.place.directory / "jp"
    before = json.loads((node / "member.json").read_text())["keys"][0]["kid"]
    posted: list[str] = []
    done = asyncio.Event()

    async def post() -> None:
        while not done.is_set():
            answer = await region.doors["jp"].call("POST", "/v1/reports", filing(f"Report {len(posted)}", **FINANCE))
            assert answer.status == 202, answer.body
            posted.append(answer.body["report_id"])
            await asyncio.sleep(0.01)

    async def renewed() -> bool:
        return not (node / "keys" / "renewal.json").exists()

    posting = asyncio.create_task(post())
    while len(posted) < 30:
        await asyncio.sleep(0.01)
    began, at = time.monotonic(), len(posted)
    said = await asyncio.to_thread(kentongan, "node", "rotate", node, "--sealing")
    await eventually(renewed, "the node signs with the new key")
    print(f"renewal: in use after {time.monotonic() - began:.2f} s and {len(posted) - at} reports")
    while len(posted) < at + 100:
        await asyncio.sleep(0.01)
    done.set()
    await posting
    assert (node / "keys" / f"signing-{before}.pem").exists()
    fresh = next(line.split()[4].rstrip(",") for line in said.splitlines() if "the signing key" in line)

    async def settled() -> bool:
        held = {item["report_id"] for item in await region.inbox("sg")}
        return held.issuperset(posted)

    await eventually(settled, "the recipient has every report")

    async def accepted() -> bool:
        shown = [await region.doors["jp"].get(f"/v1/reports/{report}") for report in posted]
        assert {one["revisions"][0]["state"] for one in shown} <= {"queued", "accepted"}
        return all(one["revisions"][0]["state"] == "accepted" for one in shown)

    await eventually(accepted, "each is accepted")
    kids = set()
    for item in await region.inbox("sg"):
        shown = await region.doors["sg"].get(f"/v1/inbox/{item['report_id']}")
        kids.add(json.loads(unb64(shown["revisions"][0]["sd_jwt"].partition(".")[0]))["kid"])
    assert kids == {before, fresh}
    for name in region.place.members:
        assert (await region.doors[name].get("/v1/alarms"))["open"] == 0, name
    secret = {"marking": {"tlp": "RED", "recipients": ["jp"]}}
    answer = await region.doors["sg"].call("POST", "/v1/reports", filing("Sealed to the new key", **secret))
    assert answer.status == 202, answer.body

    async def opened() -> bool:
        return any(item["report_id"] == answer.body["report_id"] for item in await region.inbox("jp"))

    await eventually(opened, "what is sealed to the new key is opened")


class Thief:
    """Has a copy of a node's keys, and reports in its name until told to stop."""

    def __init__(self, node: Path) -> None:
        self._node = node
        self._signer = SigningKey.load(node / "keys" / "signing.pem")
        self._member = msgspec.json.decode((node / "member.json").read_bytes(), type=Member)
        self.digests: list[str] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        member = self._member.id
        bus = await NatsBus.connect(
            load_invitation(self._node / "invitation.json").url,
            creds=self._node / "keys" / "nats.creds",
            name="thief",
            stream=subjects.inbox_stream(member),
            consumer=subjects.NODE_CONSUMER,
        )
        try:
            while True:
                message = forged(member, self._signer.kid, datetime.now(UTC), self._signer)
                self.digests += [b64(hashlib.sha256(part).digest()) for part in (message.partition(b"~")[0], message)]
                await bus.publish(subjects.INTAKE, subjects.Kind.SUBMISSION, message)
                await asyncio.sleep(0.01)
        finally:
            await bus.close()

    async def more(self, number: int) -> None:
        """Return when so many more were sent."""
        at = len(self.digests)
        while len(self.digests) <= at + 2 * number:
            assert not self._task.done(), self._task.exception()
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


@pytest.mark.falsifies  # a check names what was taken between the time of the theft and the revocation
@pytest.mark.timeout(200)
async def test_a_stolen_key_is_revoked_by_its_own_member(region: Running) -> None:
    """In one step with a new one; what is filed after that counts.

    Whoever has the old key reports all the time with it, over the stolen connection: refused from the record on, what
    is on its way too; measured, and printed.
    """
    node = region.place.directory / "id"
    before = json.loads((node / "member.json").read_text())["keys"][0]["kid"]
    answer = await region.doors["id"].call("POST", "/v1/reports", filing("Before", **FINANCE))

    async def accepted(report: str) -> bool:
        shown = await region.doors["id"].get(f"/v1/reports/{report}")
        return bool(shown["revisions"][0]["state"] == "accepted")

    await eventually(lambda: accepted(answer.body["report_id"]), "it is accepted")
    thief = Thief(node)
    await thief.more(5)
    began = time.time()
    since = datetime.now(UTC).isoformat()
    await asyncio.to_thread(kentongan, "node", "revoke", node, before, "--since", since)

    async def renewed() -> bool:
        return not (node / "keys" / "renewal.json").exists()

    await eventually(renewed, "the key is revoked, and the new one in use")
    await thief.more(20)
    await thief.stop()

    def outcomes() -> list[tuple[float, str | None]]:
        ledger = region.place.directory / "broker" / "data" / "ledger.db"
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT digest, received_at, refusal FROM submissions ORDER BY id").fetchall()
        return [(at / 1000, refusal) for digest, at, refusal in rows if digest in thief.digests]

    async def decided() -> bool:
        return 2 * len(await asyncio.to_thread(outcomes)) == len(thief.digests)

    await eventually(decided, "everything that the thief sent is decided")
    refusals = [refusal for _, refusal in outcomes()]
    taken = refusals.index("key-revoked")
    assert taken >= 5
    assert refusals == [None] * taken + ["key-revoked"] * (len(refusals) - taken), "never again, once it was refused"
    bites = next(at for at, refusal in outcomes() if refusal)
    print(f"revocation: {bites - began:.3f} s from the command to the first refusal, {taken} taken before that")
    region_now = load_region(region.place.directory / "broker")
    keys = {key.kid: key for one in region_now.members if one.id == "id" for key in one.keys}
    assert keys[before].revoked_at is not None
    assert len(keys) == 2
    answer = await region.doors["id"].call("POST", "/v1/reports", filing("After", **FINANCE))
    await eventually(lambda: accepted(answer.body["report_id"]), "it is accepted under the new key")


@pytest.mark.timeout(200)
async def test_who_may_not_see_a_member_or_a_group_does_not(region: Running, tmp_path: Path) -> None:
    """Both are made by commands; nodes that see them do, the others' files and commands have not one word of them."""
    home, nodes = region.place.directory / "broker", region.place.directory
    group = tmp_path / "group.json"
    group.write_text(json.dumps({"id": str(UUID(int=7)), "name": "Narrow strait", "jurisdictions": ["id", "jp"]}))
    kentongan(
        "node", "init", tmp_path / "quiet", "--member", "quiet-body", "--jurisdiction", "id", "--name", "Quiet Body",
    )  # fmt: skip
    made = tmp_path / "quiet" / "member.json"
    kentongan("broker", "admit", home, made, "--hidden", "--seen-by", "jp")
    kentongan("broker", "propose", home, "group", group)
    kid = msgspec.json.decode(made.read_bytes())["keys"][0]["kid"]
    told = [one.encode() for one in ("quiet-body", "Quiet Body", "Narrow strait", kid)]

    async def follows(name: str, sees: set[str]) -> None:
        """The node has followed all records, and shows these."""
        await region.tree.kill(name)
        region.tree.revive(name)
        records = len(list((home / "governance").iterdir()))

        async def followed() -> bool:
            held = await asyncio.to_thread(kentongan, "node", "verify-membership", nodes / name)
            return f"\n{records} records of" in held

        await eventually(followed, f"{name} has followed {records} records")
        text = json.dumps(await region.doors[name].get("/v1/directory"))
        assert {one for one in ("quiet-body", "Narrow strait") if one in text} == sees, name

    await follows("jp", {"quiet-body", "Narrow strait"})
    await follows("id", {"Narrow strait"})
    await follows("sg", set())
    said = await asyncio.to_thread(kentongan, "node", "verify-membership", nodes / "sg")
    assert said.count("Something that is not shown to this member.") == 2
    held = b"".join(path.read_bytes() for path in (nodes / "sg").rglob("*") if path.is_file()) + said.encode()
    assert not [secret for secret in told if secret in held]
    kentongan("broker", "propose", home, "show", "quiet-body", "--to", "sg")
    await follows("sg", {"quiet-body"})
    said = await asyncio.to_thread(kentongan, "node", "verify-membership", nodes / "sg")
    assert said.count("Something that is not shown to this member.") == 1
    assert "Admit quiet-body" in said
