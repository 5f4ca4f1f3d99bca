"""Notes, checkpoints, cosignatures: the specifications' examples, another library's eyes, and what is refused."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import nacl.exceptions
import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.errors import ProtocolError
from protocol.keys import KeyRecord, SigningKey, VerifyKey, b64, thumbprint
from protocol.merkle import EMPTY_ROOT, root_of
from protocol.notes import (
    LOG,
    WITNESS,
    Checkpoint,
    Line,
    Note,
    NoteKey,
    cosign,
    cosigned_at,
    key_id,
    log_keys,
    open_checkpoint,
    origin_of,
    parse_checkpoint,
    parse_line,
    parse_note,
    sign_checkpoint,
    verify_cosignature,
    vkey,
    witness_keys,
)
from protocol.reasons import Reason
from protocol.statements import BROKER
from tests.protocol.make import DAY, NOW, key_of, quick, refused, registry

ORIGIN = "kentongan/asean"
ROOT = hashlib.sha256(b"root").digest()
CHECKPOINT = Checkpoint(ORIGIN, 12, ROOT)
LOG_KEY = key_of(BROKER)
NOTE = sign_checkpoint(CHECKPOINT, LOG_KEY, LOG_KEY.public)
MEMBERS = ("id-cert", "sg-cert", "my-cert")

SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = """\
This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
SPEC_POEM = """\
Ognuno sta solo sul cuor della terra
trafitto da un raggio di sole:

ed è subito sera.

— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/\
5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=
"""
SPEC_COSIGNED = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/\
5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/\
zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""


def record(owner: str, **changes: object) -> KeyRecord:
    return msgspec.structs.replace(key_of(owner).record(NOW - DAY, NOW + DAY), **changes)


LOG_KEYS = log_keys(ORIGIN, BROKER, [record(BROKER)])
WITNESSES = [key for member in MEMBERS for key in witness_keys(member, [record(member)])]


def cosigned(*members: str, text: str = CHECKPOINT.text(), at: datetime = NOW) -> list[Line]:
    return [cosign(text, member, key_of(member), key_of(member).public, at) for member in members]


def with_lines(*lines: Line, note: str = NOTE) -> str:
    return note + "".join(line.encode() for line in lines)


# --- the specifications' examples -------------------------------------------------------------------------------


def test_the_example_of_signed_note_verifies() -> None:
    """With the key of its vkey, which we write the same."""
    name, _, packed = SPEC_VKEY.split("+", 2)
    kind, public = b64decode(packed)[0], b64decode(packed)[1:]
    assert kind == LOG
    assert vkey(name, kind, public) == SPEC_VKEY
    note = parse_note(SPEC_NOTE)
    assert note.encode() == SPEC_NOTE
    (line,) = note.lines
    assert (line.name, line.key_id) == (name, key_id(name, kind, public))
    known = KeyRecord(
        kid=thumbprint(public), alg="Ed25519", public=b64(public), not_before=NOW - DAY, not_after=NOW + DAY
    )
    VerifyKey.from_record(name, known).verify(line.signature, note.text.encode())
    with refused(Reason.SIGNATURE_INVALID):
        VerifyKey.from_record(name, known).verify(line.signature, note.text.replace("an", "no").encode())


def test_a_text_may_have_empty_lines() -> None:
    """The last one ends it."""
    note = parse_note(SPEC_POEM)
    assert note.text.endswith("\n\ned è subito sera.\n")
    assert note.encode() == SPEC_POEM


def test_the_example_of_a_cosigned_checkpoint_is_read() -> None:
    """Origin, size, root, and the witness's time."""
    note = parse_note(SPEC_COSIGNED)
    assert note.encode() == SPEC_COSIGNED
    checkpoint = parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert b64encode(checkpoint.root) == b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
    assert checkpoint.text() == note.text
    assert [line.name for line in note.lines] == ["example.com/behind-the-sofa", "witness.example.com/w1"]
    assert cosigned_at(note.lines[1]) == datetime.fromtimestamp(1679315147, UTC), "the time of the example's message"
    with refused(Reason.MALFORMED_NOTE):
        cosigned_at(note.lines[0])


def test_the_example_with_two_signatures_of_one_name() -> None:
    """As in tlog-witness: name and id together name the key."""
    second = (
        "— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5"
        "Rovnzv++qbSzm9Q=\n"
    )
    assert [line.key_id.hex() for line in parse_note(SPEC_COSIGNED + second).lines] == [
        "033de0ae",
        "8d66cf3f",
        "a292ea05",
    ]


# --- another library, over bytes that independent code cuts out -------------------------------------------------


def parts(note: str) -> tuple[bytes, dict[str, bytes]]:
    """Text and signatures by name, without our parser."""
    head, _, tail = note.encode().rpartition(b"\n\n")
    found = {}
    for line in tail.decode().splitlines():
        _, name, packed = line.split(" ")
        found[name] = b64decode(packed)
    return head + b"\n", found


@quick(30)
@given(st.integers(0, 1 << 62), st.binary(min_size=32, max_size=32), st.integers(1, 1 << 36))
def test_pynacl_verifies_what_we_sign(size: int, root: bytes, stamp: int) -> None:
    """The log's signature over the text; the witness's over time and text; and the ids of both, from the definition."""
    checkpoint = Checkpoint(ORIGIN, size, root)
    at = datetime.fromtimestamp(stamp, UTC)
    note = with_lines(
        *cosigned("id-cert", text=checkpoint.text(), at=at), note=sign_checkpoint(checkpoint, LOG_KEY, LOG_KEY.public)
    )
    body, found = parts(note)
    assert body == f"{ORIGIN}\n{size}\n{b64encode(root).decode()}\n".encode()
    nacl.signing.VerifyKey(LOG_KEY.public).verify(body, found[ORIGIN][4:])
    public = key_of("id-cert").public
    message = b"cosignature/v1\ntime %d\n" % stamp + body
    assert int.from_bytes(found["id-cert"][4:12], "big") == stamp
    nacl.signing.VerifyKey(public).verify(message, found["id-cert"][12:])
    assert found[ORIGIN][:4] == hashlib.sha256(ORIGIN.encode() + b"\n\x01" + LOG_KEY.public).digest()[:4]
    assert found["id-cert"][:4] == hashlib.sha256(b"id-cert\n\x04" + public).digest()[:4]
    with pytest.raises(nacl.exceptions.BadSignatureError):
        nacl.signing.VerifyKey(public).verify(message + b"x", found["id-cert"][12:])


def test_we_verify_what_pynacl_signs() -> None:
    """A log and a witness of another make."""
    log, witness = nacl.signing.SigningKey(b"l" * 32), nacl.signing.SigningKey(b"w" * 32)
    body = f"{ORIGIN}\n12\n{b64encode(ROOT).decode()}\n"
    stamp = int(NOW.timestamp())

    def line(name: str, kind: bytes, key: nacl.signing.SigningKey, signed: bytes) -> str:
        ident = hashlib.sha256(name.encode() + b"\n" + kind + bytes(key.verify_key)).digest()[:4]
        return f"— {name} {b64encode(ident + signed).decode()}\n"

    message = f"cosignature/v1\ntime {stamp}\n{body}".encode()
    note = (
        body
        + "\n"
        + line(ORIGIN, b"\x01", log, log.sign(body.encode()).signature)
        + line("id-cert", b"\x04", witness, stamp.to_bytes(8, "big") + witness.sign(message).signature)
    )
    records = [SigningKey.from_seed(seed * 32).record(NOW - DAY, NOW + DAY) for seed in (b"l", b"w")]
    opened = open_checkpoint(note, log_keys(ORIGIN, BROKER, records[:1]), witness_keys("id-cert", records[1:]), NOW)
    assert opened.checkpoint == CHECKPOINT
    assert opened.witnesses["id-cert"].at == NOW


# --- checkpoints that are opened --------------------------------------------------------------------------------


def test_who_cosigned() -> None:
    """Every known witness once, with its time and key; strangers are ignored."""
    stranger = cosign(CHECKPOINT.text(), "xx-cert", key_of("xx"), key_of("xx").public, NOW)
    opened = open_checkpoint(with_lines(*cosigned(*MEMBERS), stranger), LOG_KEYS, WITNESSES, NOW)
    assert opened.checkpoint == CHECKPOINT
    assert opened.witnesses.keys() == set(MEMBERS)
    assert opened.witnesses["id-cert"].kid == key_of("id-cert").kid
    assert not open_checkpoint(NOTE, LOG_KEYS, WITNESSES, NOW).witnesses


def test_a_witness_is_counted_once() -> None:
    """However many lines and keys it has."""
    second = key_of("the second key of id-cert")
    keys = witness_keys("id-cert", [record("id-cert"), second.record(NOW - DAY, NOW + DAY)])
    lines = [*cosigned("id-cert", "id-cert"), cosign(CHECKPOINT.text(), "id-cert", second, second.public, NOW)]
    assert len(open_checkpoint(with_lines(*lines), LOG_KEYS, keys, NOW).witnesses) == 1


@quick(100)
@given(st.integers(0, 1 << 16), st.sampled_from(["text", "log", "witness"]))
def test_a_flipped_bit_is_refused(bit: int, where: str) -> None:
    """In the text, the log's signature, or a witness's time or signature: the whole note goes."""
    note = parse_note(with_lines(*cosigned("id-cert")))
    text, lines = note.text, list(note.lines)

    def flip(data: bytes) -> bytes:
        place = bit % (8 * len(data))
        return data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :]

    if where == "text":
        checkpoint = parse_checkpoint(text)
        text = Checkpoint(ORIGIN, checkpoint.size, flip(checkpoint.root)).text()
    else:
        index = 0 if where == "log" else 1
        lines[index] = Line(lines[index].name, lines[index].key_id, flip(lines[index].signature))
    with pytest.raises(ProtocolError):
        open_checkpoint(Note(text, tuple(lines)).encode(), LOG_KEYS, WITNESSES, NOW)


def test_signatures_are_not_moved_between_kinds_and_names() -> None:
    """A log's line is no witness's, one member's is not another's, and one origin's is not another's."""
    log_line = parse_note(NOTE).lines[0]
    (line,) = cosigned("id-cert")
    other = key_id("sg-cert", WITNESS, key_of("sg-cert").public)
    for wrong in (Line("sg-cert", other, line.signature), Line("sg-cert", other, log_line.signature)):
        with pytest.raises(ProtocolError):
            open_checkpoint(with_lines(wrong), LOG_KEYS, WITNESSES, NOW)
    elsewhere = Checkpoint("kentongan/elsewhere", 12, ROOT)
    text = sign_checkpoint(elsewhere, LOG_KEY, LOG_KEY.public)
    with refused(Reason.SIGNATURE_INVALID):
        open_checkpoint(text, LOG_KEYS, WITNESSES, NOW)
    signature = LOG_KEY.sign(elsewhere.text().encode())
    disguised = Note(elsewhere.text(), (Line(ORIGIN, key_id(ORIGIN, LOG, LOG_KEY.public), signature),)).encode()
    with refused(Reason.MALFORMED_NOTE):
        open_checkpoint(disguised, LOG_KEYS, WITNESSES, NOW)
    # A member that names itself like the log has another id: its word does not pass for the log's.
    own = [NoteKey(ORIGIN, WITNESS, VerifyKey.from_record("id-cert", record("id-cert")))]
    (named,) = [cosign(CHECKPOINT.text(), ORIGIN, key_of("id-cert"), key_of("id-cert").public, NOW)]
    with refused(Reason.SIGNATURE_INVALID):
        open_checkpoint(Note(CHECKPOINT.text(), (named,)).encode(), LOG_KEYS, own, NOW)


def test_without_the_logs_own_signature_nothing_is_believed() -> None:
    """However many witnesses there are."""
    with refused(Reason.SIGNATURE_INVALID):
        open_checkpoint(Note(CHECKPOINT.text(), tuple(cosigned(*MEMBERS))).encode(), LOG_KEYS, WITNESSES, NOW)
    stranger = key_of("a stranger")
    with refused(Reason.SIGNATURE_INVALID):
        open_checkpoint(sign_checkpoint(CHECKPOINT, stranger, stranger.public), LOG_KEYS, WITNESSES, NOW)


def test_keys_count_while_they_are_valid() -> None:
    """The log's now, a witness's when it cosigned: a witness whose key was not valid then has not cosigned."""
    with refused(Reason.KEY_NOT_VALID):
        open_checkpoint(NOTE, LOG_KEYS, [], NOW + 2 * DAY)
    revoked = log_keys(ORIGIN, BROKER, [record(BROKER, revoked_at=NOW)])
    with refused(Reason.KEY_REVOKED):
        open_checkpoint(NOTE, revoked, [], NOW)
    gone = witness_keys("id-cert", [record("id-cert", revoked_at=NOW)])
    assert not open_checkpoint(with_lines(*cosigned("id-cert")), LOG_KEYS, gone, NOW).witnesses
    with refused(Reason.KEY_REVOKED):
        verify_cosignature(CHECKPOINT.text(), cosigned("id-cert")[0], gone[0])
    earlier = with_lines(*cosigned("id-cert", at=NOW - timedelta(seconds=1)))
    assert open_checkpoint(earlier, LOG_KEYS, gone, NOW).witnesses.keys() == {"id-cert"}
    early = with_lines(*cosigned("id-cert", at=NOW - 2 * DAY))
    assert not open_checkpoint(early, LOG_KEYS, WITNESSES, NOW).witnesses


def test_cosignatures_from_the_future_are_refused() -> None:
    """Beyond what clocks may differ."""
    note = with_lines(*cosigned("id-cert", at=NOW + limits.CLOCK_SKEW))
    assert open_checkpoint(note, LOG_KEYS, WITNESSES, NOW).witnesses
    with refused(Reason.TIME_IN_FUTURE):
        open_checkpoint(note, LOG_KEYS, WITNESSES, NOW - timedelta(seconds=1))


@pytest.mark.parametrize("stamp", [0, 1 << 37, 1 << 63, (1 << 64) - 1])
def test_times_that_are_none(stamp: int) -> None:
    """Refused before a calendar is asked."""
    line = Line("id-cert", WITNESSES[0].id, stamp.to_bytes(8, "big") + bytes(64))
    with refused(Reason.MALFORMED_NOTE):
        verify_cosignature(CHECKPOINT.text(), line, WITNESSES[0])


# --- what is no note --------------------------------------------------------------------------------------------

GOOD_LINE = cosigned("id-cert")[0].encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n" + GOOD_LINE,
        "text\n\n" + GOOD_LINE.rstrip("\n"),
        "text\n\n" + GOOD_LINE + "more\n",
        "text\r\n\r\n" + GOOD_LINE,
        "te\tt\n\n" + GOOD_LINE,
        "te\0t\n\n" + GOOD_LINE,
        "text\n\n" + GOOD_LINE.replace("\u2014", "-"),
        "text\n\n" + GOOD_LINE.replace("\u2014 ", "\u2014"),
        "text\n\n" + GOOD_LINE.replace("id-cert", "id+cert"),
        "text\n\n" + GOOD_LINE.replace("id-cert", "id\u00a0cert"),
        "text\n\n" + GOOD_LINE.replace("id-cert ", ""),
        "text\n\n" + GOOD_LINE.replace("id-cert", ""),
        "text\n\n" + GOOD_LINE.replace("\n", " \n"),
        "text\n\n" + GOOD_LINE.replace("\n", "=\n"),
        "text\n\n" + GOOD_LINE.replace("\n", "!\n"),
        "text\n\n\u2014 id-cert AAAA\n",
        "text\n\n\u2014 id-cert AAAAAAB=\n",
        "text\n\n\u2014 id-cert \n",
        "text\n\n" + GOOD_LINE * (limits.NOTE_SIGNATURES + 1),
        "t" * limits.NOTE + "\n\n" + GOOD_LINE,
    ],
)
def test_what_is_no_note(text: str) -> None:
    """One spelling, bounded."""
    with refused(Reason.MALFORMED_NOTE):
        parse_note(text)


def test_as_many_signatures_as_the_limit_says() -> None:
    """The specification asks for 16 at least."""
    assert len(parse_note("text\n\n" + GOOD_LINE * limits.NOTE_SIGNATURES).lines) == limits.NOTE_SIGNATURES >= 16


@pytest.mark.parametrize("text", ["", GOOD_LINE, GOOD_LINE + GOOD_LINE, "\u2014 id-cert", "id-cert AAAAAAA="])
def test_what_is_no_line(text: str) -> None:
    """Without its newline; one only."""
    with refused(Reason.MALFORMED_NOTE):
        parse_line(text)


GOOD = CHECKPOINT.text()
B64ROOT = b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.rstrip("\n"),
        GOOD + "extension\n",
        GOOD + "\n",
        "\n" + GOOD,
        GOOD.replace(ORIGIN, ""),
        GOOD.replace("12", "012"),
        GOOD.replace("12", "-12"),
        GOOD.replace("12", "+12"),
        GOOD.replace("12", "1_2"),
        GOOD.replace("12", " 12"),
        GOOD.replace("12", ""),
        GOOD.replace("12", "\u0661"),
        GOOD.replace("12", "9" * 19),
        GOOD.replace("12", str((1 << 62) + 1)),
        GOOD.replace("12", "9" * 5000),
        GOOD.replace(B64ROOT, B64ROOT.rstrip("=")),
        GOOD.replace(B64ROOT, b64encode(ROOT[:31]).decode()),
        GOOD.replace(B64ROOT, b64encode(ROOT + b"\0").decode()),
        GOOD.replace(B64ROOT, B64ROOT[:-2] + ("B=" if B64ROOT[-2] != "B" else "C=")),
        GOOD.replace(B64ROOT, B64ROOT + "!"),
        GOOD.replace(B64ROOT, ""),
    ],
)
def test_what_is_no_checkpoint(text: str) -> None:
    """Three lines, one spelling; extension lines are allowed by the specification, and refused here."""
    with refused(Reason.MALFORMED_NOTE):
        parse_checkpoint(text)


@quick(100)
@given(st.integers(0, 1 << 62), st.binary(min_size=32, max_size=32))
def test_checkpoints_are_read_as_they_are_written(size: int, root: bytes) -> None:
    """Of any size, the empty tree's among them."""
    for checkpoint in (Checkpoint(ORIGIN, size, root), Checkpoint(ORIGIN, 0, EMPTY_ROOT)):
        assert parse_checkpoint(checkpoint.text()) == checkpoint


@quick(300)
@given(st.text("\u2014 \nabc+=\t/09", max_size=120))
def test_any_text_is_read_or_refused(text: str) -> None:
    """And what is read is written the same."""
    with suppress(ProtocolError):
        assert parse_note(text).encode() == text


@pytest.mark.parametrize(
    ("region", "origin"),
    [("asean", "kentongan/asean"), ("Test region", "kentongan/Test-region"), ("a+b\u3000c\td", "kentongan/a-b-c-d")],
)
def test_origins(region: str, origin: str) -> None:
    """Neither spaces nor plus signs, whatever the region is called."""
    assert origin_of(region) == origin


def test_the_example_of_the_protocol_document() -> None:
    """A published checkpoint of the test region, over three entries."""
    document = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
    note = document.partition("```note\n")[2].partition("```")[0]
    known = registry()
    opened = open_checkpoint(note, known.log_keys(), known.witness_keys(), NOW)
    entries = [hashlib.sha256(b"entry %d" % number).digest() for number in (1, 2, 3)]
    assert opened.checkpoint == Checkpoint(known.origin, 3, root_of(entries))
    assert opened.witnesses.keys() == set(MEMBERS)
    assert len(opened.witnesses) == known.quorum
