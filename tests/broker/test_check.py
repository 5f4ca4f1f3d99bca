"""`kentongan broker check`: whatever is changed in one place of a good ledger is found, and nothing else is."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import LargeBinary

from broker.check import check_ledger
from broker.reading import open_reader
from broker.store import Store
from broker.tables import metadata
from protocol.faults import Finding
from protocol.report import UNIT_BIT
from tests.eventful import Eventful, eventful

Falsify = str | Callable[[sqlite3.Connection], Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Eventful:
    """A ledger in which everything has happened."""
    return eventful(tmp_path_factory.mktemp("good"))


def check(directory: Path, good: Eventful) -> list[Finding]:
    """All that is found in a ledger of that region."""
    store = Store(open_reader(f"sqlite:///{directory / 'ledger.db'}"))
    try:
        return list(check_ledger(store, good.registry, None, good.now))
    finally:
        store.close()


def falsified(good: Eventful, directory: Path, falsify: Falsify) -> list[Finding]:
    """The faults found in a copy that was changed."""
    shutil.copy(good.directory / "ledger.db", directory / "ledger.db")
    connection = sqlite3.connect(directory / "ledger.db")
    connection.create_function("flip", 2, flip, deterministic=True)
    connection.create_function("letter", 2, letter, deterministic=True)
    with connection:
        if isinstance(falsify, str):
            assert connection.execute(falsify).rowcount > 0, "it changes something"
        else:
            falsify(connection)
    connection.close()
    return [finding for finding in check(directory, good) if not finding.note]


def flip(data: bytes, place: int) -> bytes:
    """A blob with one bit changed."""
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


def letter(data: bytes, place: int) -> bytes:
    """Text in base64 with one letter changed: it still decodes."""
    return data[:place] + (b"B" if data[place : place + 1] == b"A" else b"A") + data[place + 1 :]


def test_a_good_ledger_has_no_faults(good: Eventful) -> None:
    """And what could not be checked is said: the coordinator has a policy that only ever was a file."""
    (note,) = check(good.directory, good)
    assert note.note
    assert (note.reason, note.detail) == ("not-checkable", "5 grants under policies that are not in the ledger")


def grants(connection: sqlite3.Connection, seq: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the grants of one report."""
    (data,) = connection.execute("SELECT grants FROM reports WHERE seq = ?", (seq,)).fetchone()
    found = msgspec.msgpack.decode(data)
    change(found)
    connection.execute("UPDATE reports SET grants = ? WHERE seq = ?", (msgspec.msgpack.encode(found), seq))


def items(connection: sqlite3.Connection, number: int, change: Callable[[list[Any]], Any]) -> None:
    """Change the items of one delivery."""
    (data,) = connection.execute("SELECT items FROM deliveries WHERE id = ?", (number,)).fetchone()
    found = msgspec.msgpack.decode(data)
    change(found)
    connection.execute("UPDATE deliveries SET items = ? WHERE id = ?", (msgspec.msgpack.encode(found), number))


def left(connection: sqlite3.Connection, number: int, found: list[Any]) -> None:
    """Change what is open of one delivery."""
    connection.execute("UPDATE deliveries SET open = ? WHERE id = ?", (msgspec.msgpack.encode(found), number))


def narrower(found: list[Any]) -> None:
    found[0] = (found[0][0], found[0][1] & ~2, found[0][2])


def wider(found: list[Any]) -> None:
    found[0] = (found[0][0], found[0][1] | 1 << 40, found[0][2])


def elsewhere(found: list[Any]) -> None:
    found[0] = (999, *found[0][1:])


FAULTS = r"""
# a receipt is changed
UPDATE submissions SET receipt = letter(receipt, 200) WHERE id = 6
-> submissions signature-invalid

# a receipt is no text
UPDATE submissions SET receipt = x'ff' WHERE id = 6
-> submissions unreadable

# a receipt of another submission
UPDATE submissions SET receipt = (SELECT receipt FROM submissions WHERE id = 7) WHERE id = 6
-> reports orphan, submissions differs

# the digest is another
UPDATE submissions SET digest = 'x' || substr(digest, 2) WHERE id = 6
-> submissions differs

# the member is another
UPDATE submissions SET member = 'jp' WHERE id = 6
-> reports differs, submissions differs

# the time is another
UPDATE submissions SET received_at = received_at + 1 WHERE id = 6
-> reports differs, submissions differs

# the entry is another
UPDATE submissions SET entry = flip(entry, 3) WHERE id = 6
-> checkpoints proof-invalid, log_tiles differs, submissions differs

# a message is changed
UPDATE submissions SET message = letter(message, 200) WHERE id = 6
-> submissions signature-invalid

# a message is gone
UPDATE submissions SET message = x'' WHERE id = 6
-> submissions malformed-envelope

# a refused one has a message
UPDATE submissions SET message = x'41' WHERE refusal IS NOT NULL
-> submissions wrong-state

# refused for another reason
UPDATE submissions SET refusal = 'empty' WHERE refusal IS NOT NULL
-> quarantine differs, submissions differs

# the last submission is gone
DELETE FROM submissions WHERE id = (SELECT max(id) FROM submissions)
-> log_tiles differs, reports orphan, submissions missing

# a submission is gone
DELETE FROM submissions WHERE id = 7
-> checkpoints proof-invalid, log_tiles differs, reports orphan, submissions gap

# a report is gone
DELETE FROM reports WHERE seq = 2
-> confirmations orphan, deliveries orphan, reports gap, reports missing

# a report's submission
UPDATE reports SET submission = 7 WHERE seq = 1
-> reports differs, reports orphan

# a report of no submission
UPDATE reports SET submission = 99 WHERE seq = 1
-> reports differs, reports orphan

# a report's digest
UPDATE reports SET digest = 'x' || substr(digest, 2) WHERE seq = 1
-> confirmations orphan, deliveries missing, exceptions missing
-> feed orphan, notices orphan, reports missing, reports orphan

# a report's origin
UPDATE reports SET origin = 'sg' WHERE seq = 2
-> confirmations orphan, reports differs

# a report's id
UPDATE reports SET report_id = flip(report_id, 15) WHERE seq = 2
-> reports differs

# a report's revision
UPDATE reports SET revision = 7 WHERE seq = 2
-> reports differs

# a report's incident
UPDATE reports SET incident_id = flip(incident_id, 15) WHERE seq = 2
-> reports differs

# a report's fingerprint
UPDATE reports SET fingerprint = 'x' WHERE seq = 2
-> reports differs

# a report's phase
UPDATE reports SET phase = 'final' WHERE seq = 2
-> reports differs

# a report's class
UPDATE reports SET rsit = 'other' WHERE seq = 2
-> reports differs

# when it happened
UPDATE reports SET happened_at = 1 WHERE seq = 2
-> reports differs

# when it was received
UPDATE reports SET received_at = received_at + 1 WHERE seq = 2
-> deliveries differs, reports differs

# when it expires
UPDATE reports SET expires_at = 1 WHERE seq = 2
-> reports differs

# erased without cause
UPDATE reports SET erased_at = 1 WHERE seq = 2
-> reports wrong-state

# withdrawn and not erased
UPDATE reports SET erased_at = NULL WHERE erased_at IS NOT NULL
-> reports differs, reports wrong-state

# grants that do not decode
UPDATE reports SET grants = x'c1' WHERE seq = 2
-> reports unreadable

# an exception is gone
DELETE FROM exceptions WHERE id = 1
-> exceptions missing

# an exception is there twice
INSERT INTO exceptions SELECT id + 10, at, member, submission, digest, report_id, revision, outcome, reason,
path FROM exceptions WHERE id = 1
-> exceptions twice

# an exception of nothing
INSERT INTO exceptions SELECT id + 10, at, member, 'x', digest, report_id, revision, outcome, reason, path
FROM exceptions WHERE id = 1
-> exceptions orphan

# an exception of an accepted report
INSERT INTO exceptions SELECT 10, received_at, member, digest, 'x', NULL, NULL, 'rejected', 'empty', '$' FROM
submissions WHERE id = 6
-> exceptions orphan

# an exception's at
UPDATE exceptions SET at = 1 WHERE id = 1
-> exceptions differs

# an exception's member
UPDATE exceptions SET member = 'jp' WHERE id = 1
-> exceptions differs

# an exception's report_id
UPDATE exceptions SET report_id = NULL WHERE id = 1
-> exceptions differs

# an exception's revision
UPDATE exceptions SET revision = 9 WHERE id = 1
-> exceptions differs

# an exception's outcome
UPDATE exceptions SET outcome = 'x' WHERE id = 1
-> exceptions differs

# an exception's reason
UPDATE exceptions SET reason = 'empty' WHERE id = 1
-> exceptions differs

# an exception's path
UPDATE exceptions SET path = '$.x' WHERE id = 1
-> exceptions differs

# an identifier is gone
DELETE FROM identifiers WHERE seq = 1
-> identifiers differs

# an identifier of nothing
INSERT INTO identifiers VALUES (1, 99)
-> identifiers orphan

# another identifier
UPDATE identifiers SET key = key + 1 WHERE seq = 1
-> identifiers differs

# a link to nothing
UPDATE links SET b = 99
-> links orphan

# a link of one origin
UPDATE links SET b = a
-> links differs

# a link of another incident
UPDATE links SET incident_a = flip(incident_a, 1)
-> links differs, links missing

# a link of another time
UPDATE links SET at = 1
-> links differs

# a link of no strength
UPDATE links SET strength = 'x'
-> links differs

# a link is gone
DELETE FROM links
-> links missing

# a delivery is gone
DELETE FROM deliveries WHERE id = 2
-> confirmations orphan, deliveries gap, deliveries missing

# the last delivery is gone
DELETE FROM deliveries WHERE id = 9
-> deliveries missing

# a delivery to another
UPDATE deliveries SET member = 'id' WHERE id = 2
-> confirmations orphan, deliveries missing, deliveries not-granted

# a delivery of another time
UPDATE deliveries SET created_at = created_at + 1 WHERE id = 2
-> deliveries differs, deliveries missing

# items that do not decode
UPDATE deliveries SET items = x'c1' WHERE id = 2
-> deliveries missing, deliveries unreadable

# no items
UPDATE deliveries SET items = x'90' WHERE id = 2
-> deliveries missing, deliveries wrong-state

# something is open again
UPDATE deliveries SET open = items WHERE id = 2
-> deliveries wrong-state

# open does not decode
UPDATE deliveries SET open = x'c1' WHERE id = 2
-> deliveries unreadable

# more is open than there is
UPDATE deliveries SET state = 'sent', closed_at = NULL, open = x'93cd03e70100'
-> deliveries unreadable

# a delivery's state: state = 'x'
UPDATE deliveries SET state = 'x' WHERE id = 2
-> deliveries wrong-state

# a delivery's state: state = 'pending', closed_at = NULL
UPDATE deliveries SET state = 'pending', closed_at = NULL WHERE id = 2
-> deliveries wrong-state

# a delivery's state: state = 'sent'
UPDATE deliveries SET state = 'sent' WHERE id = 2
-> deliveries wrong-state

# a delivery's state: closed_at = NULL
UPDATE deliveries SET closed_at = NULL WHERE id = 2
-> deliveries wrong-state

# a delivery's state: sent_at = 1
UPDATE deliveries SET sent_at = 1 WHERE id = 2
-> deliveries wrong-state

# a delivery's state: closed_at = 1
UPDATE deliveries SET closed_at = 1 WHERE id = 2
-> deliveries wrong-state

# a delivery's state: told = 1, sent_at = NULL
UPDATE deliveries SET told = 1, sent_at = NULL WHERE id = 2
-> deliveries wrong-state

# a delivery's state: state = 'sent', closed_at = NULL
UPDATE deliveries SET state = 'sent', closed_at = NULL WHERE id = 2
-> deliveries wrong-state

# a confirmation is gone
DELETE FROM confirmations WHERE id = 2
-> confirmations gap, deliveries missing, notices orphan

# the last confirmation is gone
DELETE FROM confirmations WHERE id = (SELECT max(id) FROM confirmations)
-> notices orphan

# a confirmation is changed
UPDATE confirmations SET jws = letter(jws, 150) WHERE id = 2
-> confirmations signature-invalid, deliveries missing

# a confirmation of another
UPDATE confirmations SET jws = (SELECT jws FROM confirmations WHERE id = 3) WHERE id = 2
-> confirmations differs

# a confirmation's digest
UPDATE confirmations SET digest = 'x' WHERE id = 1
-> confirmations differs, notices missing, notices orphan

# a confirmation's member
UPDATE confirmations SET member = 'asean-rcert' WHERE id = 1
-> confirmations differs, confirmations orphan

# a confirmation's origin
UPDATE confirmations SET origin = 'sg' WHERE id = 1
-> confirmations differs, notices missing, notices orphan

# a confirmation's state
UPDATE confirmations SET state = 'read' WHERE id = 1
-> confirmations differs, deliveries missing

# a confirmation's delivery
UPDATE confirmations SET delivery = 99 WHERE id = 1
-> confirmations differs, confirmations orphan, deliveries missing

# a confirmation's reason
UPDATE confirmations SET reason = 'empty' WHERE id = 1
-> confirmations differs

# a confirmation's count
UPDATE confirmations SET count = 9 WHERE id = 1
-> confirmations differs

# a confirmation's at
UPDATE confirmations SET at = 1 WHERE id = 1
-> confirmations key-not-valid

# a notice is gone
DELETE FROM notices WHERE kind = 'confirmed' AND id = (SELECT max(id) FROM notices WHERE kind = 'confirmed' AND id <
(SELECT max(id) FROM notices))
-> notices gap, notices missing

# a notice is there twice
INSERT INTO notices SELECT (SELECT max(id) FROM notices) + 1, member, kind, jws FROM notices WHERE kind =
'confirmed' LIMIT 1
-> notices twice

# a notice to another
UPDATE notices SET member = 'sg' WHERE kind = 'stopped'
-> notices differs

# a notice of no kind
UPDATE notices SET kind = 'x' WHERE kind = 'links' AND member = 'id'
-> notices unreadable

# a notice is changed
UPDATE notices SET jws = letter(jws, length(jws) - 9) WHERE kind = 'links' AND member = 'id'
-> notices signature-invalid

# nobody was told that it was stopped
DELETE FROM notices WHERE kind = 'stopped'
-> deliveries missing, notices gap

# a policy is changed
UPDATE policies SET jws = letter(jws, 150) WHERE id = 1
-> policies signature-invalid

# a policy's jurisdiction
UPDATE policies SET jurisdiction = 'my' WHERE id = 1
-> policies differs

# a policy's version
UPDATE policies SET version = 9 WHERE id = 1
-> policies differs, policies twice

# a policy's member
UPDATE policies SET member = 'jp' WHERE id = 1
-> policies differs

# a policy's version goes down
UPDATE policies SET version = 0 WHERE id = 4
-> policies differs, policies twice

# a policy is gone
DELETE FROM policies WHERE id = 2
-> policies gap

# a governance record is changed
UPDATE governance SET record = letter(record, 30) WHERE number = 1
-> governance wrong-type, submissions differs

# a governance record is gone
DELETE FROM governance WHERE number = (SELECT max(number) FROM governance)
-> submissions orphan

# a governance record in the middle is gone
DELETE FROM governance WHERE number = 2
-> governance gap, governance record-out-of-order, submissions orphan

# a governance record has another leaf
UPDATE governance SET leaf = 6 WHERE number = 1
-> governance missing, submissions orphan

# a governance record has another name
UPDATE governance SET digest = 'x' || substr(digest, 2) WHERE number = 1
-> governance differs, submissions differs

# a governance record is not what stands in the log
UPDATE submissions SET message = letter(message, 30) WHERE id = 2
-> submissions differs

# a governance record is a member's
UPDATE submissions SET member = 'jp' WHERE id = 2
-> governance missing, submissions malformed-envelope

# a feed entry is gone
DELETE FROM feed WHERE id = (SELECT max(id) FROM feed WHERE kind = 'report')
-> feed gap, feed missing

# a feed entry of nothing
UPDATE feed SET report = 99 WHERE id = 1
-> feed missing, feed orphan

# a feed entry shows more
UPDATE feed SET data = x'92cf00ffffffffffffff00' WHERE id = 1
-> feed missing, feed not-granted

# a feed entry does not decode
UPDATE feed SET data = x'c1' WHERE id = 1
-> feed missing, feed unreadable

# a feed entry's time
UPDATE feed SET at = 1 WHERE id = 1
-> feed differs, feed missing

# a feed entry of no kind
UPDATE feed SET kind = 'x' WHERE kind = 'link'
-> feed unreadable

# a quarantined start
UPDATE quarantine SET start = flip(start, 1)
-> quarantine differs

# a quarantined size
UPDATE quarantine SET size = 3
-> quarantine differs

# a quarantined message without answer
UPDATE quarantine SET sha256 = 'x', size = 20000, start = zeroblob(16384)
-> quarantine orphan

# a quarantined member
UPDATE quarantine SET member = 'jp'
-> quarantine differs

# text where bytes belong
UPDATE reports SET grants = 'x' WHERE seq = 1
-> ledger unreadable

# text where a number belongs
UPDATE reports SET received_at = 'x' WHERE seq = 1
-> ledger unreadable

# a tile is changed
UPDATE log_tiles SET data = flip(data, 40)
-> log_tiles differs

# a tile is short
UPDATE log_tiles SET data = substr(data, 33)
-> log_tiles differs

# a tile is gone
DELETE FROM log_tiles
-> log_tiles missing

# a tile too many
INSERT INTO log_tiles VALUES (3, 9, x'00')
-> log_tiles orphan

# a checkpoint's root
UPDATE checkpoints SET root = flip(root, 1) WHERE size = 11
-> checkpoints differs, checkpoints proof-invalid

# a checkpoint's note
UPDATE checkpoints SET note = letter(note, length(note) - 20) WHERE size = (SELECT max(size) FROM checkpoints)
-> checkpoints signature-invalid

# a note of another size
UPDATE checkpoints SET note = (SELECT note FROM checkpoints ORDER BY size LIMIT 1) WHERE size = (SELECT
max(size) FROM checkpoints)
-> checkpoints differs, checkpoints not-witnessed, cosignatures signature-invalid

# a checkpoint before its time
UPDATE checkpoints SET published_at = at - 1 WHERE published_at IS NOT NULL
-> checkpoints wrong-state

# a cosignature is changed
UPDATE cosignatures SET line = (SELECT line FROM cosignatures o WHERE o.member = cosignatures.member AND
o.size <> cosignatures.size LIMIT 1) WHERE member = 'jp' AND size = (SELECT max(size) FROM cosignatures)
-> cosignatures signature-invalid

# a cosignature of another
UPDATE cosignatures SET line = (SELECT line FROM cosignatures o WHERE o.member = 'id' AND o.size =
cosignatures.size) WHERE member = 'jp' AND size = (SELECT max(size) FROM cosignatures)
-> cosignatures differs

# no quorum
DELETE FROM cosignatures WHERE member <> 'id'
-> checkpoints not-witnessed

# a cosignature of no checkpoint
INSERT INTO cosignatures SELECT 99, member, line FROM cosignatures LIMIT 1
-> cosignatures orphan

# a told confirmation that does not decode
UPDATE feed SET data = x'7b' WHERE kind = 'confirmation'
-> feed unreadable

# a told confirmation of nothing
UPDATE feed SET data = CAST('{"member":"jp","state":"received","reports":["x"]}' AS BLOB) WHERE kind = 'confirmation'
-> feed orphan
"""
"""A name, what is done to the ledger, and the tables with the reasons that are then found."""


def change_places(connection: sqlite3.Connection) -> None:
    """The first two submissions, each with the other's number."""
    for old, new in ((6, 1000), (7, 6), (1000, 7)):
        connection.execute("UPDATE submissions SET id = ? WHERE id = ?", (new, old))
        connection.execute("UPDATE reports SET submission = ? WHERE submission = ?", (new, old))


CHANGES: list[tuple[str, Callable[[sqlite3.Connection], Any], set[str]]] = [
    (
        "two submissions change places",
        change_places,
        {"submissions differs", "log_tiles differs", "checkpoints proof-invalid"},
    ),
    (
        "a grant is taken away",
        lambda db: grants(db, 4, lambda found: found.pop("sg")),
        {
            "reports differs",
            "deliveries not-granted",
            "confirmations not-granted",
            "notices not-granted",
            "feed orphan",
        },
    ),
    (
        "a grant to somebody more",
        lambda db: grants(db, 2, lambda found: found.update(sg=(1, 0))),
        {"reports differs"},
    ),
    (
        "a grant of something less",
        lambda db: grants(db, 4, lambda found: found.update(sg=(1, 0))),
        {"reports differs", "deliveries not-granted"},
    ),
    (
        "items of nothing",
        lambda db: items(db, 2, elsewhere),
        {"deliveries orphan", "deliveries missing"},
    ),
    ("less was sent than granted", lambda db: items(db, 2, narrower), {"deliveries differs"}),
    (
        "more was sent than granted",
        lambda db: items(db, 1, wider),
        {"deliveries differs", "deliveries not-granted"},
    ),
    (
        "it is sent twice",
        lambda db: items(db, 2, lambda found: found.append(found[0])),
        {"deliveries twice"},
    ),
    (
        "more is open than there is",
        lambda db: left(db, 8, [(1, 1, 0)]),
        {"deliveries wrong-state"},
    ),
]


def _faults() -> list[Any]:
    """The table and the list as parameters."""
    found: list[Any] = []
    for block in FAULTS.strip().split("\n\n"):
        name, *lines = block.splitlines()
        sql = " ".join(line for line in lines if not line.startswith("-> "))
        results = [line.removeprefix("-> ") for line in lines if line.startswith("-> ")]
        found.append(pytest.param(sql, set(", ".join(results).split(", ")), id=name.removeprefix("# ")))
    return found + [pytest.param(falsify, expected, id=name) for name, falsify, expected in CHANGES]


@pytest.mark.parametrize(("falsify", "expected"), _faults())
def test_each_fault_is_found(good: Eventful, tmp_path: Path, falsify: Falsify, expected: set[str]) -> None:
    """Exactly the tables and reasons that follow from it."""
    found = falsified(good, tmp_path, falsify)
    assert {f"{finding.what} {finding.reason}" for finding in found} == expected, [item.line() for item in found]


BLOBS = {
    "submissions": ("id", ("entry", "message", "receipt")),
    "reports": ("seq", ("report_id", "incident_id", "grants")),
    "links": ("id", ("incident_a", "incident_b")),
    "deliveries": ("id", ("items", "open")),
    "confirmations": ("id", ("jws",)),
    "notices": ("id", ("jws",)),
    "policies": ("id", ("jws",)),
    "governance": ("number", ("record",)),
    "feed": ("id", ("data",)),
    "quarantine": ("id", ("start",)),
    "log_tiles": ("level", ("data",)),
    "checkpoints": ("size", ("root", "note")),
    "cosignatures": ("rowid", ("line",)),
}


def irrelevant(table: str, column: str, before: bytes, after: bytes) -> bool:
    """What nobody signed, as `docs/operate.md` lists it: units that a report lacks, and how many identifiers match."""
    try:
        if (table, column) == ("reports", "grants"):
            old, new = msgspec.msgpack.decode(before), msgspec.msgpack.decode(after)
            # None of the reports here has a unit beyond these, so that a grant of it grants nothing.
            return old.keys() == new.keys() and all(
                not (old[name][part] ^ new[name][part]) & HELD for name in old for part in (0, 1)
            )
        if (table, column) == ("feed", "data") and before[:1] == b"{":
            old, new = msgspec.json.decode(before), msgspec.json.decode(after)
            return bool({**old, "on": 0} == {**new, "on": 0})
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, TypeError, KeyError, IndexError):
        return False
    return False


HELD = sum(1 << UNIT_BIT[name] for name in ("report", "title", "description", "victim", "indicators.address"))


def test_the_columns_are_all_of_them() -> None:
    """Every blob of the ledger is damaged below."""
    blobs = {
        (table.name, column.name)
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    assert blobs == {(table, column) for table, (_, columns) in BLOBS.items() for column in columns}


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_byte_is_found_wherever_it_is(good: Eventful, tmp_path: Path, seed: int) -> None:
    """One byte of one blob, anywhere in the ledger: found, unless it is one that says nothing."""
    rng = random.Random(seed)
    for number in range(20):
        table = rng.choice(list(BLOBS))
        key, columns = BLOBS[table]
        column = rng.choice(columns)
        key = "size || member" if table == "cosignatures" else key
        place = tmp_path / str(number)
        place.mkdir()
        changed: list[tuple[bytes, bytes]] = []

        def falsify(db: sqlite3.Connection, table: str = table, key: str = key, column: str = column) -> None:
            rows = db.execute(f"SELECT {key}, {column} FROM {table} WHERE length({column}) > 0").fetchall()  # noqa: S608
            name, data = rng.choice(rows)
            at = rng.randrange(len(data))
            other = data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (other, name))  # noqa: S608
            changed.append((data, other))  # noqa: B023

        found = falsified(good, place, falsify)
        assert found or irrelevant(table, column, *changed[0]), (table, column, seed, number)
