"""A signing key in a token: a real PKCS#11 module (SoftHSM) under a real node."""

from __future__ import annotations

import sys
import tomllib
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from node.config import Config, load_config
from node.renewal import ask, read_wish
from protocol.envelope import open_envelope
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.hsm import HsmKey, parse_uri
from protocol.invitation import save_invitation
from protocol.keys import KeyRecord, VerifyKey, write_secret
from protocol.registry import Member, Region, Registry
from protocol.subjects import Kind
from tests.governing import govern, invitation, sign_region
from tests.node.conftest import running
from tests.node.world import (
    MEMBERS,
    START,
    Broker,
    Clock,
    MemoryBus,
    filing,
    foreign,
    key_of,
    make_config,
    record_of,
    region,
    released,
)
from tests.softhsm import MODULE, PIN, Token, kentongan

pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
WINDOW = (START - timedelta(days=30), START + timedelta(days=365))


def test_a_key_is_made_in_the_token_and_signs_like_any_other(token: Token) -> None:
    """Once; it cannot be taken out; one changed byte and the signature is none."""
    uri = token.uri("signs")
    key, made = HsmKey.make(uri)
    with closing(key):
        assert made
        verify = VerifyKey.from_record("id-cert", key.record(*WINDOW)).verify
        signature = key.sign(b"abc")
        verify(signature, b"abc")
        with pytest.raises(ProtocolError):
            verify(signature, b"abd")
        attributes = pkcs11.Attribute
        assert key._private[attributes.SENSITIVE]
        assert not key._private[attributes.EXTRACTABLE]
    again, made = HsmKey.make(uri)
    with closing(again):
        assert (again.kid, made) == (key.kid, False)
        assert not again.kid.startswith("-")


def test_keys_of_one_token_share_its_login(token: Token) -> None:
    """One is let go and the other signs on; the token comes back to one, and so to both."""
    one, two = (HsmKey.make(token.uri(label))[0] for label in ("one", "two"))
    with closing(two):
        again = HsmKey.open(token.uri("one"))
        one.close()
        two._signed(b"abc")
        token.pull_out()
        for key in (again, two):
            with pytest.raises(Transient):
                key.sign(b"abc")
        token.put_in()
        for key in (again, two, again):
            key.sign(b"abc")
        assert again._login is two._login
        again.close()
        two._signed(b"abc")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("=absent", "=rsa", "not an Ed25519 key"),
        ("", "", "has not the key 'absent'"),
        ("=CERT", "=OTHER", "'OTHER' is not there"),
        (str(MODULE), "/nowhere/module.so", "is missing: install"),
        (str(MODULE), sys.executable, "is no PKCS#11 module"),
        ("/pin", "/wrong", "refuses the PIN"),
        ("/pin", "/open", "is open to others"),
        ("/pin", "/none", "is missing"),
    ],
)
def test_what_is_wrong_is_said_plainly(token: Token, old: str, new: str, says: str) -> None:
    """Without a PIN in it."""
    if not (token.home / "wrong").exists():
        write_secret(token.home / "wrong", b"000000")
        (token.home / "open").write_text(PIN)
        (token.home / "open").chmod(0o440)
        with pkcs11.lib(str(MODULE)).get_token(token_label="CERT").open(rw=True, user_pin=PIN) as session:
            session.generate_keypair(pkcs11.KeyType.RSA, 1024, store=True, label="rsa")
    with pytest.raises(ConfigError) as refused:
        HsmKey.open(token.uri("absent").replace(old, new))
    assert says in str(refused.value)
    assert PIN not in str(refused.value)


def test_a_key_that_is_not_one_pair_is_refused(token: Token) -> None:
    """Two of a name; and a public key that is another's, under which nobody could verify what is signed."""
    uri, attributes = token.uri("twin"), pkcs11.Attribute
    HsmKey.make(uri)[0].close()
    other, _ = HsmKey.make(token.uri("other"))
    other.close()
    with pkcs11.lib(str(MODULE)).get_token(token_label="CERT").open(rw=True, user_pin=PIN) as session:
        twin = {attributes.LABEL: "twin", attributes.CLASS: pkcs11.ObjectClass.PUBLIC_KEY}
        (present,) = session.get_objects(twin)
        curve = present[attributes.EC_PARAMS]
        kind = {attributes.KEY_TYPE: pkcs11.KeyType.EC_EDWARDS, attributes.EC_PARAMS: curve, attributes.TOKEN: True}
        session.create_object({**twin, **kind, attributes.EC_POINT: b"\x04\x20" + other.public})
        with pytest.raises(ConfigError, match="UserAlreadyLoggedIn"):
            HsmKey.open(uri)
    with pytest.raises(ConfigError, match=r"no pair \(1 private and 2 public\)"):
        HsmKey.open(uri)
    with pkcs11.lib(str(MODULE)).get_token(token_label="CERT").open(rw=True, user_pin=PIN) as session:
        (own,) = [one for one in session.get_objects(twin) if bytes(one[attributes.EC_POINT])[2:] != other.public]
        own.destroy()
    with pytest.raises(ConfigError, match="do not match"):
        HsmKey.open(uri)


def test_a_token_that_is_there_and_does_not_sign_is_waited_for(token: Token) -> None:
    """Its administrator forbids the key to sign: nobody's loss, and no bug."""
    attributes = pkcs11.Attribute
    key, _ = HsmKey.make(token.uri("forbidden"))
    with closing(key):
        session = pkcs11.lib(str(MODULE)).get_token(token_label="CERT").open(rw=True)
        wanted = {attributes.LABEL: "forbidden", attributes.CLASS: pkcs11.ObjectClass.PRIVATE_KEY}
        (private,) = session.get_objects(wanted)
        private[attributes.SIGN] = False
        with pytest.raises(Transient, match="may not sign"):
            key.sign(b"abc")


def test_the_library_is_optional(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its absence is the operator's to mend."""
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(ConfigError, match=r"pip install 'kentongan\[hsm\]'"):
        HsmKey.open(token.uri("signs"))


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("keys/signing.pem", "named by a URI"),
        ("pkcs11:token=a;object=b", "names a token, an object, a module-path"),
        ("pkcs11:object=b?module-path=/m&pin-source=file:/p", "names a token"),
        ("pkcs11:token=a;object=b?module-path=/m&pin-value=1234", "mode 0400"),
        ("pkcs11:token=a;object=b?module-path=m&pin-source=file:/p", "whole path"),
        ("pkcs11:token=a;object=b?module-path=/m&pin-source=|cat", "whole path"),
        ("pkcs11:token=a;token=c;object=b?module-path=/m&pin-source=/p", "stands twice"),
        ("pkcs11:token=a;object=%zz?module-path=/m&pin-source=/p", "hexadecimal"),
        ("pkcs11:token=a;object=b;type=public?module-path=/m&pin-source=/p", "type=private"),
        ("pkcs11:token=a;object=b;module-path=/m?pin-source=/p", "not known at this place"),
    ],
)
def test_a_uri_that_is_none_is_refused_in_the_settings(tmp_path: Path, uri: str, says: str) -> None:
    """Before anything is opened, with the file and the setting. No PIN is repeated."""
    settings = tmp_path / "node.toml"
    settings.write_text(f'member = "id-cert"\njurisdiction = "id"\nname = "x"\nsigning = "{uri}"\n')
    with pytest.raises(ConfigError, match=f"node.toml: signing: .*{says}") as refused:
        load_config(settings)
    assert "1234" not in str(refused.value)


def test_a_uri_is_read_as_rfc_7512_writes_it() -> None:
    """Escapes, an id of bytes, both spellings of a file."""
    place = parse_uri("pkcs11:token=My%20token;id=%01%ff;type=private?pin-source=file:///etc/pin&module-path=/m.so")
    assert (place.token, place.id, place.label) == ("My token", b"\x01\xff", None)
    assert (place.pin, place.module) == (Path("/etc/pin"), Path("/m.so"))


# --- a node -----------------------------------------------------------------------------------------------------


def listing(*records: KeyRecord) -> Region:
    """The region as it lists these keys of id-cert."""
    own = Member(id="id-cert", jurisdiction="id", name="id-cert", keys=list(records))
    return region(members=(own, *MEMBERS[1:]))


def settle(directory: Path, where: Region, signing: str | None) -> tuple[Config, MemoryBus]:
    """A node's files and its bus, in that region."""
    config = make_config(directory)
    config.invitation.unlink()
    save_invitation(config.invitation, invitation("id-cert", where, key_of("broker"), START))
    if signing is not None:
        (config.keys / "signing.pem").unlink()
    bus = MemoryBus()
    bus.records = govern(where)
    bus.region_document = sign_region(where, key_of("broker"), START, bus.records).encode()
    return replace(config, signing=signing), bus


def kids(bus: MemoryBus, where: Region, clock: Clock) -> list[str]:
    """Who signed what was sent: each envelope verifies against the region."""
    return [open_envelope(one, Registry(where).keys.find, clock()).kid for one in bus.of(Kind.SUBMISSION)]


async def test_a_node_signs_with_it_and_loses_nothing_without_it(token: Token, tmp_path: Path, clock: Clock) -> None:
    """Pulled out: 503, nothing is taken, what is there stays and is read, what comes waits. Put in: it goes on."""
    uri = token.uri("node")
    key, _ = HsmKey.make(uri)
    key.close()
    where = listing(key.record(*WINDOW))
    config, bus = settle(tmp_path, where, uri)
    assert not (config.keys / "signing.pem").exists()
    async with running(config, clock, bus) as node:
        status, filed, _ = await node.post(filing("first"))
        assert status == 202
        await bus.until(lambda: bus.of(Kind.SUBMISSION))
        assert kids(bus, where, clock) == [key.kid]
        token.pull_out()
        try:
            for _ in range(2):
                status, problem, _ = await node.post(filing("second"))
                assert (status, problem["reason"]) == (503, "not-ready")
            with capture_logs() as logged:
                bus.inbox.append(Broker(clock).delivery(released(foreign())))
                await bus.until(lambda: any(line["event"] == "node.not_received" for line in logged))
            assert len(bus.unacked) == 1
            assert (await node.get(f"/v1/reports/{filed['report_id']}"))["report_id"] == filed["report_id"]
            assert len((await node.get("/v1/reports"))["reports"]) == 1
            assert not bus.of(Kind.CONFIRMATIONS)
        finally:
            token.put_in()
        assert not node.task.done()
        bus.redeliver()
        await bus.until(lambda: bus.of(Kind.CONFIRMATIONS))
        assert (await node.post(filing("second")))[0] == 202
        await bus.until(lambda: len(set(bus.of(Kind.SUBMISSION))) == 2)
        assert set(kids(bus, where, clock)) == {key.kid}
        assert not bus.unacked


def test_a_refused_pin_is_not_tried_again(token: Token) -> None:
    """While running: a few tries would lock the token."""
    pin = token.home / "pin-that-changes"
    write_secret(pin, PIN.encode())
    key, _ = HsmKey.make(token.uri("locks", pin=pin))
    with closing(key):
        key.sign(b"abc")
        pin.unlink()
        write_secret(pin, b"000000")
        token.pull_out()
        with pytest.raises(Transient):
            key.sign(b"abc")
        token.put_in()
        with pytest.raises(Transient, match="refuses the PIN"):
            key.sign(b"abc")
        pin.unlink()
        write_secret(pin, PIN.encode())
        with pytest.raises(Transient, match="set it right and restart"):
            key.sign(b"abc")


async def test_a_node_moves_into_a_token(token: Token, tmp_path: Path, clock: Clock) -> None:
    """The key in the file signs until the settings name the token's; then that does, and the file is not read."""
    uri = token.uri("moved")
    key, _ = HsmKey.make(uri)
    where = listing(record_of("id-cert"), key.record(*WINDOW))
    config, bus = settle(tmp_path, where, None)
    with closing(key):
        ask(config.keys, clock(), token_key=key)
    async with running(config, clock, bus) as node:
        await bus.until(lambda: read_wish(config.keys) is None)
        assert (await node.post(filing("from the file")))[0] == 202
        await bus.until(lambda: bus.of(Kind.SUBMISSION))
    (config.keys / "signing.pem").unlink()
    async with running(replace(config, signing=uri), clock, bus) as node:
        assert (await node.post(filing("from the token")))[0] == 202
        await bus.until(lambda: len(set(bus.of(Kind.SUBMISSION))) == 2)
    assert list(dict.fromkeys(kids(bus, where, clock))) == [key_of("id-cert").kid, key.kid]


def test_the_commands(token: Token, tmp_path: Path) -> None:
    """`init` makes the key or takes the one that is there, `keys` shows it, `rotate` names the next."""
    home, uri = tmp_path / "id", token.uri("first")
    assert kentongan("broker", "init", tmp_path / "broker", "--region", "x")[0] == 0
    make = ["--member", "id-cert", "--signing", uri]
    code, said = kentongan("node", "init", home, *make, "--algorithm", "ML-DSA-65")
    assert (code, "leave out --algorithm" in said) == (2, True)
    code, said = kentongan("node", "init", home, *make)
    assert code == 0
    assert "the signing key was made in the token" in said
    assert tomllib.loads((home / "node.toml").read_text())["signing"] == uri
    assert not (home / "keys" / "signing.pem").exists()
    kid = msgspec.json.decode((home / "member.json").read_bytes(), type=Member).keys[0].kid
    code, said = kentongan("node", "init", tmp_path / "again", *make)
    assert "was in the token already" in said
    assert kid in said
    invited = tmp_path / "i.json"
    assert kentongan("broker", "admit", tmp_path / "broker", home / "member.json", "--invitation", invited)[0] == 0
    assert kentongan("node", "join", home, invited)[0] == 0
    code, said = kentongan("node", "keys", home)
    assert code == 0
    assert f"the signing key {kid} is in a token: {uri}" in said
    for arguments, says in [
        (["rotate", home], "another object label"),
        (["rotate", home, "--algorithm", "Ed25519"], "another object label"),
        (["rotate", home, "--signing", uri], "is the key in use"),
        (["rotate", home, "--signing", uri, "--transport"], "goes with --sealing and --overlap only"),
        (["revoke", home, kid, "--since", "2026-03-31T08:00:00Z"], "rotate to another"),
    ]:
        code, said = kentongan("node", *arguments)
        assert (code, says in said) == (2, True), said
        assert read_wish(home / "keys") is None
    code, said = kentongan("node", "rotate", home, "--signing", token.uri("second"))
    assert code == 0
    wish = read_wish(home / "keys")
    assert wish is not None
    assert wish.new is not None
    assert wish.old == kid
    assert f"made the signing key {wish.new.kid} in the token" in said
    assert f'signing = "{token.uri("second")}"' in said
    (home / "keys" / "renewal.json").unlink()
    assert kentongan("node", "rotate", home, "--sealing")[0] == 0
    assert [path.name for path in (home / "keys").glob("signing*")] == []
    token.pull_out()
    try:
        assert kentongan("node", "keys", home)[0] == 2
    finally:
        token.put_in()
