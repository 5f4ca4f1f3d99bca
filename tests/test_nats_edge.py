"""The bus against a real server: who may do what, and what survives which fault. Conditions are awaited, not timed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import nats.errors
import pytest

from broker import topology
from broker.accounts import Accounts
from broker.natsd import EmbeddedNats
from protocol import limits, natsauth, subjects
from protocol.bus import NatsBus
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.reasons import Reason
from protocol.transport import Message
from tests.natshelp import Region, eventually, region

PL_INBOX = (subjects.inbox_stream("pl"), subjects.NODE_CONSUMER)
SUBMISSION = subjects.Kind.SUBMISSION


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Region]:
    async with region(tmp_path, ["pl", "de"]) as running:
        yield running


async def take(bus: NatsBus, count: int) -> list[Message]:
    """Pull, over whatever trouble, until `count` different messages are there; acknowledge them.

    Messages that come again are left out: acknowledgements are hints, and a killed server forgets some.
    """
    taken: dict[bytes, Message] = {}

    async def enough() -> bool:
        try:
            batch = await bus.pull(64, 1.0)
        except Transient:
            return False
        await bus.ack(batch)
        taken.update((message.data, message) for message in batch)
        return len(taken) >= count

    await eventually(enough)
    return list(taken.values())


async def publish(bus: NatsBus, subject: str, data: bytes) -> None:
    """Publish, again after each `Transient`, as the outbox does."""

    async def stored() -> bool:
        try:
            await bus.publish(subject, SUBMISSION, data)
        except Transient:
            return False
        return True

    await eventually(stored)


# Names


@pytest.mark.parametrize("member", ["", "PL", "p.l", "*", ">", "a_b", "-a", "a b", "a" * 32, "pl\r\nPUB", "ä"])
def test_a_member_id_cannot_smuggle_tokens_or_wildcards(member: str) -> None:
    """Every name built from an id refuses what is not one."""
    for build in (subjects.intake, subjects.inbox, subjects.inbox_stream, subjects.rpc_all_from, subjects.account):
        with pytest.raises(ProtocolError) as caught:
            build(member)
        assert caught.value.reason is Reason.INVALID_VALUE
    with pytest.raises(ProtocolError):
        subjects.member_of_intake(f"kg.intake.{member}")


def test_names_are_read_back_as_they_were_built() -> None:
    """The broker learns the member from the subject alone."""
    assert subjects.member_of_intake(subjects.intake("asean-rcert")) == "asean-rcert"
    assert subjects.parse_rpc(subjects.rpc_from("pl", "policy.get")) == ("pl", "policy.get")
    assert subjects.inbox_stream("asean-rcert") == "INBOX_ASEAN_RCERT"
    for wrong in ("kg.rpc.pl", "kg.rpc..hello", "kg.rpc.pl.*", "kg.other.pl.hello", "kg.rpc.pl."):
        with pytest.raises(ProtocolError):
            subjects.parse_rpc(wrong)


# Keys and claims


def test_keys_are_created_once_readable_only_by_their_owner(tmp_path: Path) -> None:
    """Key files have mode 0400, survive a second load, and are never overwritten."""
    accounts = Accounts.create(tmp_path / "keys")
    accounts.member_account_jwt("pl", 1)
    files = sorted((tmp_path / "keys").iterdir())
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o400] * 6
    assert Accounts.load(tmp_path / "keys").member_account("pl") == accounts.member_account("pl")
    with pytest.raises(ConfigError, match="not overwritten"):
        Accounts.create(tmp_path / "keys")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """One readable bit for the group is enough."""
    accounts = Accounts.create(tmp_path)
    accounts.member_account("pl")
    for name in ("broker.nk", "member-pl.nk"):
        (tmp_path / name).chmod(0o440)
        with pytest.raises(ConfigError, match="chmod 0400"):
            Accounts.load(tmp_path).member_account("pl")
        (tmp_path / name).chmod(0o400)


def test_an_interrupted_creation_is_completed(tmp_path: Path) -> None:
    """Keys that an interrupted run wrote are kept, the missing ones are added."""
    Accounts.create(tmp_path)
    kept = (tmp_path / "broker.nk").read_bytes()
    for name in ("operator.nk", "broker-user.nk"):
        (tmp_path / name).unlink()
    (tmp_path / "operator.tmp").write_bytes(b"half")
    Accounts.create(tmp_path)
    assert (tmp_path / "broker.nk").read_bytes() == kept


def test_claims_depend_on_keys_and_arguments_alone(tmp_path: Path) -> None:
    """The same keys and times give the same bytes."""
    accounts = Accounts.create(tmp_path, rand=lambda count: b"\x07" * count)
    again = Accounts.load(tmp_path)
    assert accounts.broker_account_jwt(["pl", "de"], 5) == again.broker_account_jwt(["de", "pl"], 5)
    assert accounts.member_account_jwt("pl", 5) != accounts.member_account_jwt("pl", 5, revoked=True)


def test_only_a_public_user_key_is_admitted(tmp_path: Path) -> None:
    """A seed, an account key or a mistyped key is refused."""
    accounts = Accounts.create(tmp_path)
    seed = natsauth.create_seed(natsauth.Role.USER, bytes(32))
    good = natsauth.public_of(seed, natsauth.Role.USER)
    accounts.issue_user("pl", good, 1)
    for wrong in (seed, accounts.broker_account, good[:-1] + ("A" if good[-1] != "A" else "B"), "", "U" * 56):
        with pytest.raises(ConfigError):
            accounts.issue_user("pl", wrong, 1)


def test_credentials_are_read_back_and_must_belong_together() -> None:
    """A claim with another key's seed would only fail at the server, without a word why."""
    seeds = [natsauth.create_seed(natsauth.Role.USER, bytes([n]) * 32) for n in (1, 2)]
    issuer = natsauth.create_seed(natsauth.Role.ACCOUNT, bytes(32))
    jwt = natsauth.sign_claims(issuer, natsauth.public_of(seeds[0], natsauth.Role.USER), "n", {"type": "user"}, 1)
    assert natsauth.parse_creds(natsauth.format_creds(jwt, seeds[0])) == (jwt, seeds[0])
    for wrong in (natsauth.format_creds(jwt, seeds[1]), natsauth.format_creds("x", seeds[0]), "", "nothing"):
        with pytest.raises(ConfigError):
            natsauth.parse_creds(wrong)


# Messages


async def test_what_a_member_publishes_is_stored_under_its_name(bus: Region) -> None:
    """The account inserts the name; kind and bytes arrive unchanged."""
    broker, member = await bus.broker(), await bus.member("pl")
    await member.publish(subjects.INTAKE, SUBMISSION, b"\x00signed bytes\r\n")
    (message,) = await take(broker, 1)
    assert subjects.member_of_intake(message.subject) == "pl"
    assert (message.kind, message.data) == ("submission", b"\x00signed bytes\r\n")


async def test_the_broker_reaches_one_members_inbox(bus: Region) -> None:
    """A delivery arrives at the member named, through its import, and is acknowledged for good."""
    broker, member = await bus.broker(), await bus.member("pl")
    await broker.publish(subjects.inbox("pl"), subjects.Kind.DELIVERY, b"for you")
    (message,) = await take(member, 1)
    assert (message.kind, message.data) == ("delivery", b"for you")

    async def acknowledged() -> bool:
        info = await broker.nc.jetstream().consumer_info(*PL_INBOX)
        return bool(info.num_ack_pending == 0 and info.num_pending == 0)

    await eventually(acknowledged)


async def test_the_same_bytes_twice_are_stored_twice(bus: Region) -> None:
    """Every attempt has its own transport id: the stream must not swallow what the ledger answers."""
    broker, member = await bus.broker(), await bus.member("pl")
    await member.publish(subjects.INTAKE, SUBMISSION, b"same")
    await member.publish(subjects.INTAKE, SUBMISSION, b"same")
    assert (await broker.nc.jetstream().stream_info(subjects.INTAKE_STREAM)).state.messages == 2
    got: list[Message] = []
    while len(got) < 2:
        got += await broker.pull(2, 10.0)
    assert [message.data for message in got] == [b"same", b"same"]


async def test_pull_returns_what_is_there_and_never_more_than_asked(bus: Region) -> None:
    """One message does not wait for a full batch; the rest comes in order, in the size asked for."""
    broker, member = await bus.broker(), await bus.member("pl")
    waiting = asyncio.create_task(broker.pull(500, 60.0))
    await member.publish(subjects.INTAKE, SUBMISSION, b"0")
    assert [message.data for message in await waiting] == [b"0"]
    for number in range(1, 30):
        await member.publish(subjects.INTAKE, SUBMISSION, b"%d" % number)
    got: list[bytes] = []
    while len(got) < 29:
        batch = await broker.pull(4, 10.0)
        assert len(batch) <= 4
        got += [message.data for message in batch]
    assert got == [b"%d" % number for number in range(1, 30)]


async def test_an_idle_pull_returns_nothing_and_goes_on(bus: Region) -> None:
    """Requests that expire unanswered are followed by new ones."""
    broker, member = await bus.broker(), await bus.member("pl")
    assert await broker.pull(10, 3.0) == []
    await member.publish(subjects.INTAKE, SUBMISSION, b"late")
    assert [message.data for message in await take(broker, 1)] == [b"late"]


async def test_what_is_held_stays_within_what_was_asked_for(bus: Region) -> None:
    """A reader that stops reading does not fill its memory."""
    broker, member = await bus.broker(), await bus.member("pl")
    await asyncio.gather(*[member.publish(subjects.INTAKE, SUBMISSION, b"%d" % n) for n in range(100)])
    assert len(await broker.pull(8, 10.0)) <= 8
    # The server answers this after everything that it had already been asked for on this connection.
    await broker.nc.flush()
    assert broker.buffered <= 8
    assert len(await take(broker, 92)) == 92


async def test_an_oversize_message_is_refused_here_and_the_connection_lives(bus: Region) -> None:
    """The server would close the connection; the sender learns that sending again is no use."""
    await bus.broker()
    member = await bus.member("pl")
    with pytest.raises(ProtocolError) as caught:
        await member.publish(subjects.INTAKE, SUBMISSION, bytes(limits.BUS_MESSAGE))
    assert caught.value.reason is Reason.TOO_LARGE
    await member.publish(subjects.INTAKE, SUBMISSION, bytes(limits.BUS_MESSAGE - 600))


async def test_a_full_stream_is_transient_and_trimming_makes_room(bus: Region) -> None:
    """Nothing stored is dropped for something new; what was acknowledged goes when it is trimmed."""
    broker, member = await bus.broker(), await bus.member("pl")
    await topology.reconcile(broker.nc, ["pl", "de"], intake_bytes=4096)
    await asyncio.gather(
        *[member.publish(subjects.INTAKE, SUBMISSION, bytes([n]) * 1000) for n in range(10)], return_exceptions=True
    )
    with pytest.raises(Transient, match="maximum bytes"):
        await member.publish(subjects.INTAKE, SUBMISSION, bytes(1000))
    await take(broker, 3)

    async def trimmed() -> bool:
        return await topology.trim(broker.nc, ["pl", "de"]) >= 3

    await eventually(trimmed)
    await member.publish(subjects.INTAKE, SUBMISSION, bytes(1000))


async def test_requests_carry_the_caller_and_refusals_come_back(bus: Region) -> None:
    """The broker knows who asks; a refusal keeps its reason; a request that nobody serves is transient."""
    broker, member = await bus.broker(), await bus.member("pl")

    async def answer(subject: str, data: bytes) -> bytes:
        caller, method = subjects.parse_rpc(subject)
        if method == "forbidden":
            raise ProtocolError(Reason.NOT_ALLOWED)
        return f"{caller} {method} ".encode() + data

    with pytest.raises(Transient):
        await member.request(subjects.rpc("hello"), b"", 5.0)
    await broker.serve(subjects.RPC_FROM_ANY_MEMBER, answer)
    assert await member.request(subjects.rpc("hello"), b"there", 5.0) == b"pl hello there"
    with pytest.raises(ProtocolError) as caught:
        await member.request(subjects.rpc("forbidden"), b"", 5.0)
    assert caught.value.reason is Reason.NOT_ALLOWED


async def test_a_bug_in_a_handler_reaches_the_process(bus: Region) -> None:
    """It is raised where the process reads, instead of vanishing in a callback."""
    broker, member = await bus.broker(), await bus.member("pl")

    async def broken(subject: str, data: bytes) -> bytes:
        raise KeyError("bug")

    await broker.serve(subjects.RPC_FROM_ANY_MEMBER, broken)
    reading = asyncio.create_task(broker.pull(1, 60.0))
    with pytest.raises(Transient):
        await member.request(subjects.rpc("hello"), b"", 0.2)
    with pytest.raises(KeyError):
        await reading


# Isolation


async def test_a_member_cannot_publish_as_another_or_into_an_inbox(bus: Region) -> None:
    """Neither the broker's view of a subject nor another's name leads anywhere."""
    broker = await bus.broker()
    member = await bus.connect(bus.member_creds("pl"), "pl", *PL_INBOX, publish_timeout=0.3)
    for subject in ("kg.intake.de", "kg.intake.pl", "kg.inbox.de", "kg.inbox.pl", "kg.rpc.de.hello"):
        with pytest.raises(Transient):
            await member.publish(subject, SUBMISSION, b"forged")
    await member.publish(subjects.INTAKE, SUBMISSION, b"own")
    assert [message.data for message in await take(broker, 1)] == [b"own"]
    state = (await broker.nc.jetstream().stream_info(subjects.inbox_stream("de"))).state
    assert state.messages == 0


async def test_a_member_cannot_read_anothers_inbox(bus: Region) -> None:
    """Its requests for the other's messages go unanswered, its subscriptions hear nothing, and nothing is consumed."""
    broker, de = await bus.broker(), await bus.member("de")
    creds = bus.member_creds("pl")
    thief = await bus.connect(creds, "thief", subjects.inbox_stream("de"), subjects.NODE_CONSUMER)
    heard: list[object] = []

    async def listen(message: object) -> None:
        heard.append(message)

    for subject in (">", "kg.>", "$JS.>"):
        await thief.nc.subscribe(subject, cb=listen)
    await broker.publish(subjects.inbox("de"), subjects.Kind.DELIVERY, b"for de")
    with suppress(Transient):
        assert await thief.pull(10, 0.5) == []
    await thief.nc.flush()
    assert heard == []
    assert [message.data for message in await take(de, 1)] == [b"for de"]


async def test_a_member_cannot_administer_streams(bus: Region) -> None:
    """Neither its own account nor the region's has streams for it to create, read, change or delete."""
    await bus.broker()
    member = await bus.member("pl")
    for method, body in (
        ("STREAM.CREATE.X", b'{"name":"X","subjects":["x"],"storage":"memory"}'),
        ("STREAM.DELETE.INTAKE", b""),
        ("STREAM.PURGE.INTAKE", b""),
        ("STREAM.MSG.GET.INTAKE", b'{"seq":1}'),
        ("CONSUMER.CREATE.INBOX_DE.spy", b"{}"),
        ("CONSUMER.MSG.NEXT.INTAKE.broker", b"1"),
        ("INFO", b""),
    ):
        with pytest.raises(nats.errors.Error):
            await member.nc.request(f"$JS.API.{method}", body, timeout=0.2)


async def test_a_member_cannot_pass_a_message_off_as_the_servers_word(bus: Region) -> None:
    """Headers that a member chooses neither end the broker's reading nor remove what others stored."""
    broker, pl, de = await bus.broker(), await bus.member("pl"), await bus.member("de")
    await de.publish(subjects.INTAKE, SUBMISSION, b"first")
    for headers in (
        {"Status": "409", "Description": "Consumer Deleted"},
        {"Status": "503"},
        {"Status": "100", "Description": "Idle Heartbeat"},
        {"Nats-Rollup": "all"},
        {"Nats-TTL": "1s"},
    ):
        await pl.nc.publish(subjects.INTAKE, b"", headers=headers)
    await pl.publish(subjects.INTAKE, SUBMISSION, b"last")
    # The attempts all have the same, empty body; those that the stream refuses are not there at all.
    assert {b"first", b"last"} <= {message.data for message in await take(broker, 3)}


async def test_suspension_cuts_a_live_connection_and_keeps_it_out(bus: Region) -> None:
    """Its live connection ends, a new one is refused, the others notice nothing; afterwards it is let in again."""
    broker, states = await bus.broker(), list[str]()
    pl, de = await bus.member("pl", states.append), await bus.member("de")
    await pl.publish(subjects.INTAKE, SUBMISSION, b"before")
    await bus.server.update_account(bus.accounts.member_account_jwt("pl", int(time.time()), revoked=True))
    await eventually(lambda: not pl.connected)
    await eventually(lambda: "refused" in states)
    with pytest.raises(Transient):
        await pl.publish(subjects.INTAKE, SUBMISSION, b"while suspended")
    with pytest.raises(ConfigError, match="suspended"):
        await bus.member("pl")
    await de.publish(subjects.INTAKE, SUBMISSION, b"other")
    await bus.server.set_members(["pl", "de"])
    await publish(pl, subjects.INTAKE, b"after")
    assert [message.data for message in await take(broker, 3)] == [b"before", b"other", b"after"]


async def test_a_suspension_outlives_a_restart_and_a_new_member_needs_none(bus: Region) -> None:
    """There is no moment after a restart in which the suspended get in; members are admitted while it runs."""
    broker = await bus.broker()
    await bus.server.set_members(["pl", "de", "fr"], suspended=["pl"])
    await topology.reconcile(broker.nc, ["pl", "de", "fr"])
    fr = await bus.member("fr")
    await fr.publish(subjects.INTAKE, SUBMISSION, b"new")
    await bus.server.stop()
    await bus.server.start()
    with pytest.raises(ConfigError, match="suspended"):
        await bus.member("pl")
    await publish(fr, subjects.INTAKE, b"again")
    assert [message.data for message in await take(broker, 2)] == [b"new", b"again"]


async def test_a_member_that_left_is_shut_out(bus: Region) -> None:
    """Leaving cuts the live connection as suspension does."""
    await bus.broker()
    pl = await bus.member("pl")
    await bus.server.set_members(["de"])
    await eventually(lambda: not pl.connected)
    with pytest.raises(ConfigError):
        await bus.member("pl")


async def test_a_retired_key_is_cut_off_and_another_one_is_not(bus: Region) -> None:
    """A member's own key for its connection has had its time; the new one connects before that, and stays."""
    await bus.broker()
    old = await bus.member("pl")
    jwt, _ = natsauth.parse_creds(bus.member_creds("pl").read_text())
    fresh = natsauth.create_seed(natsauth.Role.USER, b"f" * 32)
    claim = bus.accounts.issue_user("pl", natsauth.public_of(fresh, natsauth.Role.USER), int(time.time()))
    renewed = bus.write("renewed.creds", natsauth.format_creds(claim, fresh))
    new = await bus.connect(renewed, "new", subjects.inbox_stream("pl"), subjects.NODE_CONSUMER)
    retired = {"pl": {natsauth.subject_of(jwt): int(time.time())}}
    await bus.server.set_members(["pl", "de"], retired=retired)
    await eventually(lambda: not old.connected)
    with pytest.raises(ConfigError, match="credentials"):
        await bus.member("pl")
    await publish(new, subjects.INTAKE, b"after")
    await bus.server.stop()
    await bus.server.start()
    with pytest.raises(ConfigError, match="credentials"):
        await bus.member("pl")


async def test_purging_an_inbox_removes_what_was_queued(bus: Region) -> None:
    """What waited for a suspended member is gone for good; a second purge changes nothing."""
    broker = await bus.broker()
    await broker.publish(subjects.inbox("pl"), subjects.Kind.DELIVERY, b"queued")
    await topology.purge_inbox(broker.nc, "pl")
    await topology.purge_inbox(broker.nc, "pl")
    assert await topology.reconcile(broker.nc, ["pl", "de"]) == [subjects.inbox_stream("pl")]
    assert await (await bus.member("pl")).pull(10, 0.3) == []


async def test_reading_leaves_nothing_behind_in_the_server(bus: Region) -> None:
    """A reply mapping between accounts that outlives its request would fill the server's memory within days."""
    broker, member = await bus.broker(), await bus.member("pl")
    creds = bus.write("system.creds", bus.accounts.system_creds(int(time.time())))
    system = await bus.connect(creds, "system", "S", "c")
    for _ in range(50):
        await member.publish(subjects.INTAKE, SUBMISSION, b"x")
        await broker.publish(subjects.inbox("pl"), subjects.Kind.RECEIPTS, b"x")
        await take(member, 1)
    await asyncio.gather(*[member.publish(subjects.INTAKE, SUBMISSION, b"x") for _ in range(50)])
    query = json.dumps({"account": bus.accounts.broker_account}).encode()

    async def few() -> bool:
        answer = await system.nc.request("$SYS.REQ.SERVER.PING.ACCOUNTZ", query, timeout=5.0)
        return len(json.loads(answer.data)["data"]["account_detail"].get("responses", {})) < 5

    await eventually(few)


# Faults


async def test_reading_goes_on_after_the_server_is_killed(bus: Region) -> None:
    """A reader that was waiting gets what was stored before the kill and what is published after it."""
    broker, member = await bus.broker(), await bus.member("pl")
    pid = bus.server.pid
    assert pid is not None
    reading = asyncio.create_task(take(member, 2))
    await broker.publish(subjects.inbox("pl"), subjects.Kind.DELIVERY, b"before")
    os.kill(pid, signal.SIGKILL)
    await publish(broker, subjects.inbox("pl"), b"after")
    assert {message.data for message in await reading} == {b"before", b"after"}
    assert bus.events == ["died", "restarted"]
    assert await topology.reconcile(broker.nc, ["pl", "de"]) == []


async def test_publishing_while_the_server_is_down_is_transient(tmp_path: Path) -> None:
    """Nothing is buffered in the connection: the outbox is the only buffer."""
    async with region(tmp_path, ["pl"], supervised=False) as bus:
        broker, member = await bus.broker(), await bus.member("pl")
        inflight = asyncio.gather(
            *[member.publish(subjects.INTAKE, SUBMISSION, b"x") for _ in range(20)], return_exceptions=True
        )
        await bus.server.stop()
        assert all(outcome is None or isinstance(outcome, Transient) for outcome in await inflight)
        await eventually(lambda: not member.connected)
        with pytest.raises(Transient):
            await member.publish(subjects.INTAKE, SUBMISSION, b"down")
        with pytest.raises(Transient):
            await member.pull(1, 0.1)
        with pytest.raises(Transient):
            await topology.reconcile(broker.nc, ["pl"])
        await bus.server.start()
        await publish(member, subjects.INTAKE, b"up")
        # The burst may have been stored or not; what was published with the connection down may not turn up later.
        await publish(member, subjects.INTAKE, b"x")
        assert {message.data for message in await take(broker, 2)} == {b"x", b"up"}
        assert b"down" not in [message.data for message in await broker.pull(64, 0.2)]


@pytest.mark.parametrize("lost", ["jetstream", "jetstream/jetstream"])
async def test_a_vanished_store_is_replaced_and_the_loss_is_told(bus: Region, lost: str) -> None:
    """The supervisor restarts, reconcile names what was lost, and publishing and reading work again."""
    broker, member = await bus.broker(), await bus.member("pl")
    await member.publish(subjects.INTAKE, SUBMISSION, b"lost")
    shutil.rmtree(bus.server.store.parent / lost)
    await eventually(lambda: "restarted" in bus.events)
    created: list[str] = []

    async def reconciled() -> bool:
        try:
            created.extend(await topology.reconcile(broker.nc, ["pl", "de"]))
        except Transient:
            return False
        return True

    await eventually(reconciled)
    assert created == ["INTAKE", "INBOX_DE", "INBOX_PL"]
    await publish(member, subjects.INTAKE, b"sent again")
    await publish(broker, subjects.inbox("pl"), b"delivered again")
    assert (await take(broker, 1))[-1].data == b"sent again"
    assert (await take(member, 1))[-1].data == b"delivered again"


async def test_a_server_that_can_no_longer_write_is_replaced(bus: Region) -> None:
    """After one failed write a stream would refuse everything for ever, full disk long gone or not."""
    await bus.broker()
    member = await bus.connect(bus.member_creds("pl"), "pl", *PL_INBOX, publish_timeout=1.0)
    await member.publish(subjects.INTAKE, SUBMISSION, b"x")
    (blocks,) = bus.server.store.glob("jetstream/*/streams/INTAKE/msgs")
    shutil.rmtree(blocks)
    blocks.write_bytes(b"in the way of the next block")

    async def noticed() -> bool:
        with suppress(Transient):
            await member.publish(subjects.INTAKE, SUBMISSION, bytes(1_900_000))
        return "store-failed" in bus.events

    await eventually(noticed)
    blocks.unlink(missing_ok=True)
    await eventually(lambda: bus.events[-1] == "restarted")


async def test_a_server_that_hangs_is_replaced(bus: Region) -> None:
    """A stopped process answers nobody and never ends by itself."""
    broker, member = await bus.broker(), await bus.member("pl")
    pid = bus.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: bus.events == ["unresponsive", "restarted"], 60.0)
    await publish(member, subjects.INTAKE, b"x")
    assert (await take(broker, 1))[-1].data == b"x"


async def test_a_lost_stream_is_transient_until_it_is_declared_again(bus: Region) -> None:
    """Readers and writers go on by themselves once it is back."""
    broker, member = await bus.broker(), await bus.member("pl")
    await broker.nc.jetstream().delete_stream(subjects.INTAKE_STREAM)
    with pytest.raises(Transient):
        await member.publish(subjects.INTAKE, SUBMISSION, b"x")

    async def told() -> bool:
        try:
            await broker.pull(1, 0.1)
        except Transient:
            return True
        return False

    await eventually(told)
    assert await topology.reconcile(broker.nc, ["pl", "de"]) == [subjects.INTAKE_STREAM]
    await member.publish(subjects.INTAKE, SUBMISSION, b"y")
    assert [message.data for message in await take(broker, 1)] == [b"y"]


async def test_a_changed_declaration_is_brought_about(bus: Region) -> None:
    """Reconciling updates what differs, recreates a lost consumer, and then finds nothing to do."""
    broker = await bus.broker()
    await broker.nc.jetstream().delete_consumer(*PL_INBOX)
    assert await topology.reconcile(broker.nc, ["pl", "de"], inbox_bytes=123_456) == ["INBOX_PL/node"]
    info = await broker.nc.jetstream().stream_info("INBOX_PL")
    assert info.config.max_bytes == 123_456
    assert await topology.reconcile(broker.nc, ["pl", "de"], inbox_bytes=123_456) == []


async def test_a_leftover_server_is_ended_at_the_next_start(tmp_path: Path) -> None:
    """A server that outlived its broker holds the port and the store: it goes, another process of that number stays."""
    async with region(tmp_path, ["pl"], supervised=False) as bus:
        port = bus.server.port
        await bus.server.stop()
        directory = tmp_path / "nats"
        program = Path(sys.executable).parent / "nats-server"
        leftover = await asyncio.create_subprocess_exec(str(program), "-c", str(directory / "nats.conf"))
        await eventually((directory / "nats.pid").exists)
        await eventually(lambda: (directory / "nats.pid").read_text() == str(leftover.pid))
        again = EmbeddedNats(directory, 0, bus.accounts, ["pl"])
        await again.start()
        try:
            await asyncio.wait_for(leftover.wait(), 30)
            assert again.port == port
        finally:
            await again.stop()
        (directory / "nats.pid").write_text(str(os.getpid()))
        await bus.server.start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child's life to its parent's")
async def test_a_killed_broker_takes_its_server_along(tmp_path: Path) -> None:
    """SIGKILL leaves the broker no time to end it."""
    script = """
        import asyncio, sys
        from pathlib import Path
        from broker.accounts import Accounts
        from broker.natsd import EmbeddedNats
        async def main():
            server = EmbeddedNats(Path(sys.argv[1]) / "nats", 0, Accounts.create(Path(sys.argv[1]) / "keys"), [])
            await server.start()
            print(server.pid, flush=True)
            await asyncio.sleep(3600)
        asyncio.run(main())
    """
    broker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(script), str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert broker.stdout is not None
    pid = int(await broker.stdout.readline())
    broker.kill()
    await broker.wait()

    def ended() -> bool:
        try:
            return b"nats.conf" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return True

    await eventually(ended)


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A taken port, and a program that is not there."""
    accounts = Accounts.create(tmp_path / "keys")
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    try:
        with pytest.raises(ConfigError, match="in use"):
            await EmbeddedNats(tmp_path / "nats", port, accounts, []).start()
    finally:
        taken.close()
    with pytest.raises(ConfigError):
        await EmbeddedNats(tmp_path / "nats", 0, accounts, [], binary=tmp_path / "missing").start()


async def test_connecting_fails_in_time_and_in_plain_words(bus: Region, tmp_path: Path) -> None:
    """Nobody there is transient; wrong or missing credentials are for the operator."""
    with pytest.raises(Transient):
        await NatsBus.connect("nats://127.0.0.1:1", creds=None, name="x", stream="S", consumer="c", connect_timeout=0.3)
    with pytest.raises(ConfigError, match="credentials"):
        await bus.connect(tmp_path / "missing.creds", "x", "S", "c")
    stranger = Accounts.create(tmp_path / "strange")
    creds = bus.write("strange.creds", stranger.broker_creds(int(time.time())))
    with pytest.raises(ConfigError, match="refused"):
        await bus.connect(creds, "x", "S", "c")


async def test_closing_twice_is_closing_once(bus: Region) -> None:
    """After it, everything is transient and nothing is left running."""
    states: list[str] = []
    broker = await bus.broker(states.append)
    await broker.close()
    await broker.close()
    assert states[-1] == "closed"
    with pytest.raises(Transient):
        await broker.publish(subjects.inbox("pl"), SUBMISSION, b"x")
    with pytest.raises(Transient):
        await broker.pull(1, 0.0)
