"""`kentongan node check`: whatever is changed in one place of a good store is found, and nothing else is."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from node.check import check_node
from node.reading import open_reader
from protocol.errors import ConfigError
from protocol.faults import Finding
from tests.broker.test_check import flip, letter
from tests.eventful import Eventful, eventful


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Eventful:
    """Stores in which everything has happened."""
    return eventful(tmp_path_factory.mktemp("good"))


def check(directory: Path, name: str, good: Eventful) -> list[Finding]:
    """All that is found in a store of that region."""
    store = open_reader(directory)
    try:
        return list(check_node(store, name, good.trusts[name], good.now))
    finally:
        store.close()


def falsified(good: Eventful, name: str, directory: Path, falsify: Any) -> list[Finding]:
    """The faults found in a copy that was changed."""
    shutil.copy(good.directory / name / "node.db", directory / "node.db")
    connection = sqlite3.connect(directory / "node.db")
    connection.create_function("flip", 2, flip, deterministic=True)
    connection.create_function("letter", 2, lambda text, at: letter(text.encode(), at).decode(), deterministic=True)
    connection.create_function("byte", 2, letter, deterministic=True)
    with connection:
        if isinstance(falsify, str):
            assert connection.execute(falsify).rowcount > 0, "it changes something"
        else:
            falsify(connection)
    connection.close()
    return [finding for finding in check(directory, name, good) if not finding.note]


@pytest.mark.parametrize("name", ["id", "jp", "sg"])
def test_good_stores_have_no_faults(good: Eventful, name: str) -> None:
    """Nor anything that could not be checked."""
    assert check(good.directory / name, name, good) == []


def test_a_node_that_the_region_does_not_know(good: Eventful) -> None:
    """Nothing can be verified: the operator reads what to do."""
    with pytest.raises(ConfigError, match="does not list my"):
        list(check_node(open_reader(good.directory / "id"), "my", good.trusts["id"], good.now))


def test_there_is_no_store(tmp_path: Path) -> None:
    """One line, not a database made by looking."""
    with pytest.raises(ConfigError, match="there is no database"):
        open_reader(tmp_path)
    assert not list(tmp_path.iterdir())


FAULTS = r"""
# id: a message is changed
UPDATE submissions SET message = byte(message, 200) WHERE id = 1
-> own_reports *, submissions *

# id: a submission's digest
UPDATE submissions SET digest = 'x' || substr(digest, 2) WHERE id = 1
-> submissions differs, leaves orphan

# id: how many leave
UPDATE submissions SET reports = 5 WHERE id = 1
-> submissions differs

# id: it waits against its receipt
UPDATE submissions SET waiting = 1 WHERE id = 1
-> submissions wrong-state

# id: a receipt is gone
UPDATE submissions SET receipt = NULL WHERE id = 1
-> submissions wrong-state, own_reports differs, leaves orphan

# id: a receipt is changed
UPDATE submissions SET receipt = letter(receipt, 200) WHERE id = 1
-> submissions signature-invalid, leaves orphan

# id: a submission is gone
DELETE FROM submissions WHERE id = 1
-> own_reports orphan, leaves orphan

# id: disclosures are changed
UPDATE own_reports SET disclosures = letter(disclosures, 40) WHERE seq = 1
-> own_reports *

# id: a disclosure is gone
UPDATE own_reports SET disclosures = substr(disclosures, 1, length(disclosures) - 300) WHERE seq = 1
-> own_reports *

# id: an own report's id
UPDATE own_reports SET report_id = 'x' WHERE seq = 1
-> own_reports differs

# id: an own report's revision
UPDATE own_reports SET revision = 9 WHERE seq = 1
-> own_reports differs, own_reports missing

# id: an own report's incident
UPDATE own_reports SET incident_id = 'x' WHERE seq = 1
-> own_reports differs

# id: an own report's marking, which tokens are held to
UPDATE own_reports SET tlp = 'CLEAR' WHERE seq = 1
-> own_reports differs

# id: an own report's time
UPDATE own_reports SET filed_at = 1 WHERE seq = 1
-> own_reports differs

# id: an own report's filing
UPDATE own_reports SET filing = CAST(replace(filing, 'Incident', 'Accident') AS BLOB) WHERE seq = 1
-> own_reports differs

# id: an own report's content hash
UPDATE own_reports SET content_hash = 'x' WHERE seq = 1
-> own_reports differs

# id: an own report's state
UPDATE own_reports SET state = 'rejected' WHERE seq = 1
-> own_reports differs

# id: an own report's outcome
UPDATE own_reports SET outcome = CAST(replace(outcome, 'accepted', 'rejected') AS BLOB) WHERE seq = 1
-> own_reports differs

# id: kept, and was sent
UPDATE own_reports SET kept = 1 WHERE seq = 1
-> own_reports wrong-state, own_reports differs, submissions differs

# id: a word about a report: its state
UPDATE confirmed SET state = 'closed' WHERE state = 'read'
-> confirmed differs

# id: a word about a report: its member
UPDATE confirmed SET member = 'sg' WHERE state = 'read'
-> confirmed differs

# id: a word about a report: its time
UPDATE confirmed SET at = 1 WHERE state = 'read'
-> confirmed differs

# id: a word about a report: its refusal
UPDATE confirmed SET refusal = x'7b7d' WHERE state = 'read'
-> confirmed differs

# id: a word about a report: its statement
UPDATE confirmed SET statement = 'x' WHERE state = 'read'
-> confirmed missing, statements orphan

# id: a word about no report
INSERT INTO confirmed SELECT 'x', member, state, at, refusal, statement FROM confirmed WHERE state = 'read'
-> confirmed orphan

# id: a word is gone
DELETE FROM confirmed WHERE state = 'read'
-> statements orphan

# jp: a statement is changed
UPDATE statements SET jws = letter(jws, 200)
WHERE kind = 'delivery' AND digest = (SELECT statement FROM inbox WHERE revision = 2)
-> statements *, inbox *, leaves *

# jp: a statement's digest
UPDATE statements SET digest = 'x' WHERE kind = 'links'
-> statements differs, links missing

# jp: a statement's kind
UPDATE statements SET kind = 'x' WHERE kind = 'links'
-> statements unreadable

# jp: the delivery's statement is gone
DELETE FROM statements WHERE kind = 'delivery' AND digest = (SELECT statement FROM inbox WHERE revision = 2)
-> inbox missing, leaves orphan

# jp: a presentation is changed
UPDATE inbox SET presentation = letter(presentation, 200) WHERE seq = 1
-> inbox signature-invalid

# jp: a presentation of another
UPDATE inbox SET presentation = (SELECT presentation FROM inbox WHERE revision = 2), expires_at = NULL WHERE seq = 1
-> inbox *

# jp: a marking, which tokens are held to
UPDATE inbox SET tlp = 'CLEAR' WHERE seq = 1
-> inbox differs

# jp: what is held is gone
UPDATE inbox SET presentation = '', view = CAST('null' AS BLOB), withheld = CAST('[]' AS BLOB) WHERE seq = 1
-> inbox wrong-state

# jp: withdrawn, and content is still here
UPDATE inbox SET view = CAST('{}' AS BLOB) WHERE presentation = ''
-> inbox wrong-state

# jp: withdrawn, and is still here
UPDATE inbox SET presentation = (SELECT presentation FROM inbox WHERE seq = 1) WHERE presentation = ''
-> inbox *

# jp: a view says something else
UPDATE inbox SET view = CAST(replace(view, 'CANARY', 'SPARROW') AS BLOB) WHERE seq = 1
-> inbox differs

# jp: expired, and is still here
UPDATE inbox SET expired_at = 1 WHERE seq = 1
-> inbox wrong-state, inbox missing

# jp: a time at which it expires
UPDATE inbox SET expires_at = 1 WHERE seq = 1
-> inbox differs

# jp: not as much is undisclosed
UPDATE inbox SET undisclosed = 0 WHERE seq = 1
-> inbox differs

# jp: the time at which the broker received it
UPDATE inbox SET broker_received_at = 1 WHERE seq = 1
-> inbox key-not-valid

# jp: why less is held
UPDATE inbox SET withheld = x'7b' WHERE seq = 1
-> inbox unreadable

# jp: the own confirmation is gone
DELETE FROM confirmations_out WHERE digest = (SELECT confirmation FROM inbox WHERE revision = 2)
-> inbox missing

# jp: the own confirmation is changed
UPDATE confirmations_out SET jws = letter(jws, 150) WHERE id = 1
-> confirmations_out signature-invalid, inbox missing

# jp: the own confirmation's digest
UPDATE confirmations_out SET digest = 'x' WHERE digest = (SELECT confirmation FROM inbox WHERE revision = 2)
-> confirmations_out differs, inbox missing

# jp: noted, and when is not known
UPDATE confirmations_out SET noted_at = NULL WHERE id = 1
-> confirmations_out wrong-state

# jp: when it was signed
UPDATE confirmations_out SET created_at = created_at + 1 WHERE id = 1
-> confirmations_out differs

# jp: a state that nobody said
UPDATE inbox SET state = 'closed' WHERE state = 'read'
-> inbox missing

# jp: a report is gone
DELETE FROM inbox WHERE revision = 2
-> confirmations_out orphan, inbox wrong-state

# jp: a leaf is gone
DELETE FROM leaves WHERE leaf = (SELECT max(leaf) FROM leaves WHERE about = 'delivery')
-> leaves missing

# jp: another entry
UPDATE leaves SET entry = flip(entry, 1) WHERE leaf = (SELECT max(leaf) FROM leaves WHERE about = 'delivery')
-> leaves differs, leaves proof-invalid

# jp: a leaf of nothing
UPDATE leaves SET name = 'x' WHERE leaf = (SELECT max(leaf) FROM leaves WHERE about = 'delivery')
-> leaves orphan

# jp: a proof is gone
UPDATE leaves SET proof = NULL WHERE leaf = (SELECT max(leaf) FROM leaves)
-> leaves wrong-state

# jp: a proof of another leaf
UPDATE leaves SET proof = (SELECT proof FROM leaves ORDER BY leaf LIMIT 1) WHERE leaf = (SELECT max(leaf) FROM leaves)
-> leaves proof-invalid

# jp: a proof without a quorum
UPDATE leaves SET proof = substr(proof, 1, instr(proof, char(10) || char(8212) || ' id '))
WHERE leaf = (SELECT max(leaf) FROM leaves)
-> leaves *

# jp: a checkpoint's root
UPDATE checkpoints SET root = flip(root, 1) WHERE size = (SELECT max(size) FROM checkpoints)
-> checkpoints differs

# jp: a checkpoint's note
UPDATE checkpoints SET note = letter(note, length(note) - 20) WHERE size = (SELECT max(size) FROM checkpoints)
-> checkpoints signature-invalid

# jp: a link says something else
UPDATE links SET link = CAST(replace(link, 'strong', 'weak') AS BLOB)
-> links differs

# jp: a link's report
UPDATE links SET a_report = 'x'
-> links differs

# jp: a policy is changed
UPDATE policies SET jws = letter(jws, 150)
-> policies signature-invalid

# jp: a policy's version
UPDATE policies SET version = 9
-> policies differs

# jp: text where bytes belong
UPDATE inbox SET view = 'null' WHERE seq = 1
-> store unreadable

# jp: an event does not decode
UPDATE events SET data = x'5b' WHERE seq = 1
-> events unreadable
"""
"""Whose store, a name, what is done to it, and the tables with the reasons that are then found; `*` is any reason."""


def _faults() -> list[Any]:
    found: list[Any] = []
    for block in FAULTS.strip().split("\n\n"):
        title, *lines = block.splitlines()
        name, _, about = title.removeprefix("# ").partition(": ")
        sql = " ".join(line for line in lines if not line.startswith("-> "))
        result = next(line.removeprefix("-> ") for line in lines if line.startswith("-> "))
        found.append(pytest.param(name, sql, set(result.split(", ")), id=f"{name}: {about}"))
    return found


@pytest.mark.parametrize(("name", "falsify", "expected"), _faults())
def test_each_fault_is_found(good: Eventful, tmp_path: Path, name: str, falsify: str, expected: set[str]) -> None:
    """Exactly the tables and reasons that follow from it."""
    faults = falsified(good, name, tmp_path, falsify)
    loose = {item.split()[0] for item in expected if item.endswith("*")}
    found = {f"{finding.what} {'*' if finding.what in loose else finding.reason}" for finding in faults}
    assert found == expected, [item.line() for item in faults]


def test_what_was_withdrawn_must_be_gone(good: Eventful, tmp_path: Path) -> None:
    """Content beside a later revision that withdraws it is found as that."""
    sql = "UPDATE inbox SET presentation = (SELECT presentation FROM inbox WHERE seq = 1) WHERE presentation = ''"
    details = {finding.detail for finding in falsified(good, "jp", tmp_path, sql)}
    assert "withdrawn, and its content is still here" in details
