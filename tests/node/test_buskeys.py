"""What a node takes for its connection: only what the broker signed for it, and only if it opens a connection."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from node.buskeys import BusKeys
from node.core import NodeCore
from node.loops import State
from protocol.errors import ProtocolError, Transient
from protocol.natsauth import Role, create_seed, format_creds, public_of, sign_claims
from protocol.reasons import Reason
from protocol.statements import Claim, sign_statement
from tests.node.world import START, Clock, MemoryBus, key_of

SEED = create_seed(Role.USER, b"u" * 32)
OLD, NEW = (create_seed(Role.ACCOUNT, letter * 32) for letter in (b"a", b"b"))


def jwt(account: str, seed: str = SEED) -> str:
    return sign_claims(account, public_of(seed, Role.USER), "n", {"type": "user"}, int(START.timestamp()))


class Bus(MemoryBus):
    """Answers the one question, whoever signed the answer; takes a new connection or not."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[bytes] = []
        self.opens = True

    async def request(self, subject: str, data: bytes, _timeout: float) -> bytes:
        assert subject.endswith("transport.claim")
        self.asked.append(data)
        return self.answer

    async def renew(self) -> None:
        if not self.opens:
            raise Transient("no bus there")


def signed(signer: str = "broker", **changes: str) -> bytes:
    said = {"iss": "broker", "aud": "id-cert", "user_jwt": jwt(NEW), "ca": "another authority", **changes}
    return sign_statement(Claim(at=START, **said), key_of(signer)).encode()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "nats.creds"
    path.write_text(format_creds(jwt(OLD), SEED))
    path.chmod(0o400)
    (tmp_path / "nats-ca.pem").write_text("an authority")
    return tmp_path


def following(keys: Path, core: NodeCore, clock: Clock, bus: Bus) -> BusKeys:
    state = State()
    state.link = bus
    return BusKeys(keys, core, state, clock)


def held(keys: Path) -> tuple[str, str]:
    return (keys / "nats.creds").read_text(), (keys / "nats-ca.pem").read_text()


async def test_what_is_new_is_taken_as_a_whole(core: NodeCore, clock: Clock, keys: Path) -> None:
    """Account and authority, for the key that is there; the next question says what it has by then."""
    bus = Bus(signed())
    assert await following(keys, core, clock, bus).follow()
    assert held(keys) == (format_creds(jwt(NEW), SEED), "another authority")
    bus.answer = b""
    assert not await following(keys, core, clock, bus).follow()
    first, second = (msgspec.json.decode(asked) for asked in bus.asked)
    assert (first["account"], second["account"]) == (public_of(OLD, Role.ACCOUNT), public_of(NEW, Role.ACCOUNT))
    assert first["ca"] != second["ca"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (signed("my-cert"), Reason.UNKNOWN_KEY),
        (signed("my-cert", iss="my-cert"), Reason.UNKNOWN_KEY),
        (signed(aud="my-cert"), Reason.WRONG_AUDIENCE),
        (b'{"user_jwt": "x"}', Reason.MALFORMED_ENVELOPE),
    ],
)
async def test_whoever_answers_cannot_name_an_authority(
    core: NodeCore, clock: Clock, keys: Path, answer: bytes, reason: Reason
) -> None:
    """Neither the servers of the bus nor another member: the broker's signature, for this member, or nothing."""
    before = held(keys)
    with pytest.raises(ProtocolError) as refused:
        await following(keys, core, clock, Bus(answer)).follow()
    assert refused.value.reason is reason
    assert held(keys) == before


async def test_what_opens_no_connection_is_put_back(core: NodeCore, clock: Clock, keys: Path) -> None:
    """The node goes on with what it had; a claim for another key is not taken at all."""
    before, bus = held(keys), Bus(signed())
    bus.opens = False
    with pytest.raises(Transient):
        await following(keys, core, clock, bus).follow()
    assert held(keys) == before
    bus.opens, bus.answer = True, signed(user_jwt=jwt(NEW, create_seed(Role.USER, b"v" * 32)))
    assert not await following(keys, core, clock, bus).follow()
    assert held(keys) == before
