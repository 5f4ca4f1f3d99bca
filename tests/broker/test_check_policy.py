"""`kentongan broker check` against a broker that lies in its receipts, and beside one that goes on writing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker import decide, erase, members, policies, tables
from broker.check import check_ledger
from broker.reading import open_reader
from protocol.errors import ConfigError
from protocol.faults import Finding
from protocol.policy import HEADER, GateResult, Outcome, PolicyBook, evaluate
from protocol.published import publish
from protocol.reasons import Reason
from protocol.report import Body, Handling, Marking
from tests.broker.make import Hub
from tests.federation import open_policy
from tests.protocol import make
from tests.protocol.make import NOW

TOO_MUCH = Reason.GRANTED_TOO_MUCH.value
falsifies = pytest.mark.falsifies


def found(hub: Hub, book: PolicyBook | None = None) -> list[Finding]:
    """The faults."""
    return [item for item in check_ledger(hub.store, hub.state.registry, book, hub.now) if not item.note]


def reasons(hub: Hub, book: PolicyBook | None = None) -> set[tuple[str, str]]:
    return {(item.what, item.reason) for item in found(hub, book)}


def report(number: int = 1, **given: Any) -> Any:
    return make.report(number, Body(title=f"Something {number}", status="open"), **given)


def test_more_than_the_policies_allow(tmp_path: Path) -> None:
    """A grant is held to the policies of its time, where they are known; where not, that is said."""
    hub = Hub(tmp_path)
    hub.submit(report())
    assert found(hub, hub.state.book) == []
    strict = PolicyBook([*(hub.policies[name] for name in ("sg", "my", "ph")), open_policy("id", export=[])])
    assert reasons(hub, strict) == {("reports", TOO_MUCH)}
    notes = [item for item in check_ledger(hub.store, hub.state.registry, None, hub.now) if item.note]
    assert ("not-checkable", "4 grants under policies that are not in the ledger") in {
        (item.reason, item.detail) for item in notes
    }


@falsifies
def test_more_than_a_published_policy_allows(tmp_path: Path) -> None:
    """A broker that goes on by an old version is found, but not for the moment in which it has not read the new one."""
    hub = Hub(tmp_path)
    for name in ("id", "sg", "my", "ph"):
        policy = open_policy(name, **({"export": []} if name == "id" else {}))
        jws = publish(policy, f"{name}-cert", make.key_of(f"{name}-cert"), NOW)
        policies.take(hub.store, f"{name}-cert", jws.encode(), hub.state.registry, NOW)
    hub.now = NOW + timedelta(seconds=2)
    hub.submit(report(1), seed="a")
    assert found(hub, hub.state.book) == []
    hub.now = NOW + timedelta(minutes=2)
    hub.submit(report(2), seed="b")
    assert {item.detail.split(":")[0] for item in found(hub)} == {"to sg-cert", "to my-cert", "to ph-cert"}


@falsifies
@pytest.mark.parametrize(
    ("given", "forget"),
    [
        ({"marking": Marking(tlp="AMBER", recipients=["sg"])}, "recipients"),
        ({"handling": Handling(residency=["sg"])}, "residency"),
        ({"handling": Handling(expires_at=NOW - timedelta(hours=1))}, "expires_at"),
    ],
)
def test_more_than_the_marking_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], forget: str
) -> None:
    """A broker that passes over the report's own marking is found by the header that the origin signed."""
    hub = Hub(tmp_path)

    def blind(facts: Any, *rest: Any) -> Outcome:
        return evaluate(replace(facts, **{forget: None}), *rest)

    monkeypatch.setattr(members, "evaluate", blind)
    hub.submit(report(**given))
    assert TOO_MUCH in {reason for _, reason in reasons(hub)}


@falsifies
def test_a_withdrawal_that_does_not_reach_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was granted a revision must be granted its end."""
    hub = Hub(tmp_path)
    hub.submit(report(), seed="a")
    shut = GateResult("marking", "report", 0, 0, (), (), Reason.NEVER_RECEIVED)
    monkeypatch.setattr(decide, "_withdrawal", lambda *_: Outcome(0, 0, (shut,)))
    hub.submit(report(revision=2, phase="withdrawn"), seed="b")
    assert {item.detail for item in found(hub) if item.reason == "missing"} >= {
        f"the withdrawal does not reach {name}-cert, which has it" for name in ("sg", "my", "ph")
    }


@falsifies
def test_a_withdrawal_to_somebody_who_never_had_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else learns of it, and nobody gets more than the header."""
    hub = Hub(tmp_path, policies={"id": open_policy("id", export=[])})
    hub.submit(report(), seed="a")
    open_ = GateResult("marking", "report", HEADER, 0, (), (), Reason.WITHDRAWN)
    monkeypatch.setattr(decide, "_withdrawal", lambda *_: Outcome(HEADER, 0, (open_,)))
    hub.submit(report(revision=2, phase="withdrawn"), seed="b")
    assert ("reports", TOO_MUCH) in reasons(hub)


@falsifies
def test_the_same_reports_in_another_envelope(tmp_path: Path) -> None:
    """The message is the one that the receipt answers, not one that says the same."""
    hub = Hub(tmp_path)
    hub.submit(report())
    other = make.whole(make.signed(report(), issuer="id-cert", seed="s", at=NOW - timedelta(minutes=1)))
    with hub.store.writing() as connection:
        connection.execute(tables.submissions.update().values(message=other.encode()))
    assert [(item.what, item.detail) for item in found(hub)] == [("submissions", "digest is not what was signed")]


@falsifies
def test_erased_without_cause(tmp_path: Path) -> None:
    """Content may go when a report is withdrawn or has expired, and not else."""
    hub = Hub(tmp_path)
    hub.submit(report())
    with hub.store.writing() as connection:
        erase.erase(connection, hub.rows("reports"), hub.now)
    assert [(item.what, item.detail) for item in found(hub)] == [
        ("reports", "erased, though neither withdrawn nor expired")
    ]


def test_it_sees_one_state_while_the_broker_writes(tmp_path: Path) -> None:
    """What is committed while it reads is not half seen: a confirmation is counted after notices were read."""
    hub = Hub(tmp_path)
    digests = []
    for number in range(3):
        receipt, _ = hub.submit(report(number + 1), seed=str(number))
        digests.append(receipt.reports[0].digest)
    hub.confirm("sg-cert", "id-cert", [digests[0]])
    written: list[str] = []

    def progress(what: str, _rows: int) -> None:
        written.append(what)
        hub.submit(report(100 + len(written)), seed=f"later {len(written)}")
        hub.confirm("my-cert", "id-cert", [digests[len(written) % 3]], "read")
        hub.now += timedelta(seconds=1)

    checked = check_ledger(hub.store, hub.state.registry, None, hub.now, progress)
    assert [item.line() for item in checked if not item.note] == []
    assert {"submissions", "deliveries", "notices"} <= set(written)
    assert found(hub) == []


def test_what_it_opens_cannot_be_written(tmp_path: Path) -> None:
    """Read-only is the database's own word; and looking makes no ledger."""
    hub = Hub(tmp_path)
    hub.submit(report())
    engine = open_reader(f"sqlite:///{tmp_path / 'ledger.db'}")
    with engine.connect() as connection, pytest.raises(Exception, match="readonly"):
        connection.exec_driver_sql("DELETE FROM reports")
    engine.dispose()
    with pytest.raises(ConfigError, match="there is no ledger"):
        open_reader(f"sqlite:///{tmp_path / 'other.db'}")
    assert not (tmp_path / "other.db").exists()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """One line that says so, not a traceback."""
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="cannot be read"):
        open_reader(f"sqlite:///{tmp_path / 'ledger.db'}")
