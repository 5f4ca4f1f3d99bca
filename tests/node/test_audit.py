"""An auditor sees the traffic of its own jurisdiction, verifies each line itself, and catches a broker that lies."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET

from broker import auditing as service
from broker.members import RegionState
from node.auditformat import COLUMNS, as_csv, as_table
from node.auditheld import Shown
from node.auditing import Bench, Fault, Line, judge
from protocol import auditing, logrpc
from protocol.auditing import Case, CasesAnswer, CasesRequest, Spans, WordsAnswer, WordsRequest
from protocol.errors import ProtocolError, Transient
from protocol.evidence import Bundle
from protocol.governance import Act, Admit, Expel, open_record
from protocol.jws import split_jws
from protocol.policy import PolicyBook
from protocol.registry import Member, Registry
from protocol.report import ALL_UNITS
from protocol.sheets import as_json
from protocol.statements import Confirmation, Receipt, sign_statement
from tests.federation import START, filing
from tests.node.auditing import Desk, audited, of, reasons
from tests.proof import World

_receipt = msgspec.json.Decoder(Receipt)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, dict[str, str]]]:
    with audited(tmp_path_factory.mktemp("audited")) as found:
        yield found


@pytest.fixture
def world(made: tuple[World, dict[str, str]]) -> World:
    return made[0]


@pytest.fixture
def ids(made: tuple[World, dict[str, str]]) -> dict[str, str]:
    return made[1]


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world, "id-audit")


def changed_receipt(world: World, jws: str, **changes: Any) -> str:
    """Another receipt, with the broker's own signature."""
    receipt = _receipt.decode(split_jws(jws, Receipt.typ).payload)
    return sign_statement(msgspec.structs.replace(receipt, **changes), world.broker_key)


# --- what it sees ---------------------------------------------------------------------------------------------------


async def test_what_the_own_jurisdiction_sent(desk: Desk, ids: dict[str, str]) -> None:
    """To whom, which units, by which rules, and each recipient's own signed word; all of it in the witnessed log."""
    jp, sg = of(await desk.lines(), ids["sent"])
    assert (jp.direction, jp.origin, jp.member, jp.outcome, jp.granted) == ("sent", "id", "jp", "accepted", True)
    assert {"title", "description"} <= set(jp.exact)
    assert [(by.document, by.rule) for by in jp.released_by] == [("id/1", "all"), ("jp/1", "take")]
    assert [event.state for event in jp.events] == ["queued", "sent", "received", "acting"]
    assert [bool(event.statement) for event in jp.events] == [False, False, True, True]
    assert (jp.state, sg.state, sg.member) == ("acting", "received", "sg")
    assert (jp.log, jp.faults, jp.told) == ("proven", [], ["phase", "delivery"])


async def test_what_the_own_jurisdiction_received(desk: Desk, ids: dict[str, str]) -> None:
    """From whom and which units; who confirmed it shows whose it was. What the broker merely says is named."""
    (line,) = of(await desk.lines(), ids["received"])
    assert (line.direction, line.origin, line.member, line.state) == ("received", "jp", "id", "read")
    assert (line.log, line.faults, line.released_by, line.withheld) == ("proven", [], [], [])
    assert line.told == ["decided_at", "report_id", "revision", "phase", "delivery"]


async def test_nothing_that_it_is_not_party_to(desk: Desk, world: World, ids: dict[str, str]) -> None:
    """Neither a report between two others, nor who else received what it received, nor any content."""
    page = await desk.page()
    seen = b"\n".join(desk.broker.seen)
    digests = {row.report_id: row.digest for row in world.rows("reports")}
    submissions = {row.report_id: row.submission for row in world.rows("reports")}
    assert submissions[UUID(ids["foreign"]).bytes] == submissions[UUID(ids["received"]).bytes]
    assert ids["foreign"] not in {line.report_id for line in page.lines}
    for name in ("foreign", "hidden"):
        assert ids[name].encode() not in seen
        assert digests[UUID(ids[name]).bytes].encode() not in seen
    assert b"CANARY" not in seen
    (body,) = [answer.partition(b"\n")[2] for answer in desk.broker.seen if b'"cases"' in answer]
    (case,) = [one for one in msgspec.json.decode(body, type=CasesAnswer).cases if one.receipt is UNSET]
    assert [one.member for one in (*case.granted, *case.handed)] == ["id", "id"]
    assert b'"sg"' not in msgspec.json.encode(case)
    words = desk.broker.service.find(
        "id-audit", auditing.WORDS, auditing.encode(WordsRequest(kind="confirmations", leaves=[case.leaf]))
    )
    said = msgspec.json.decode(words.partition(b"\n")[2], type=WordsAnswer).words
    by = {msgspec.json.decode(split_jws(jws, Confirmation.typ).payload, type=Confirmation).iss for jws in said}
    assert by == {"id"}


async def test_refused(desk: Desk, world: World) -> None:
    """Who is no auditor, who is suspended, who is nobody; and about leaves that are not the auditor's."""
    words = WordsRequest(kind="confirmations", leaves=[0])
    for member, method, question, reason in (
        ("jp", auditing.CASES, CasesRequest(), "not-allowed"),
        ("id", auditing.CASES, CasesRequest(), "not-allowed"),
        ("id", auditing.WORDS, words, "not-allowed"),
        ("nobody", auditing.CASES, CasesRequest(), "unknown-member"),
        ("id-audit", auditing.WORDS, words, "not-allowed"),
        ("id-audit", auditing.CASES, CasesRequest(first=10_000), "out-of-range"),
    ):
        with pytest.raises(ProtocolError) as caught:
            desk.broker.service.find(member, method, auditing.encode(question))
        assert caught.value.reason.value == reason, member
    suspended = [
        msgspec.structs.replace(one, status="suspended" if one.id == "id-audit" else one.status)
        for one in world.region.members
    ]
    state = RegionState(Registry(msgspec.structs.replace(world.region, members=suspended)), world.state.book)
    with pytest.raises(ProtocolError) as caught:
        await Desk(world, "id-audit", state).page()
    assert caught.value.reason.value == "member-suspended"
    desk.state.link = None
    with pytest.raises(Transient):
        await desk.page()


async def test_an_auditor_in_a_hurry_keeps_nobody_waiting(desk: Desk, world: World) -> None:
    """So many questions of a member wait, and further ones get no answer; nobody else is served later for it."""

    async def read(function: Callable[..., bytes], *args: Any) -> bytes:
        return await asyncio.to_thread(function, *args)

    busy = service.Auditing(world.ledger, world.broker_key, lambda: world.state, read, world.clock)
    asked = [busy.answer("id-audit", auditing.CASES, b"{}") for _ in range(service.WAITING + 2)]
    *answers, one, other = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, bytes) for answer in answers)
    assert isinstance(one, Transient)
    assert isinstance(other, Transient)
    assert isinstance(await busy.answer("id-audit", auditing.CASES, b"{}"), bytes)
    held = [name for name in ("audit.cases", "audit.words", "region", "missed") if service.holds(f"kg.rpc.id.{name}")]
    assert held == ["audit.cases", "audit.words"]


def test_an_id_that_others_had_before_shows_nothing_of_them(world: World) -> None:
    """Whose traffic an entry is follows from the trustees' records: who left stays, who came later begins there."""

    def admit(jurisdiction: str) -> Admit:
        return Admit(member=Member(id="cert", jurisdiction=jurisdiction, name="x"))

    acts: list[tuple[Act, int]] = [
        (admit("id"), 3),
        (Expel(member="cert"), 10),
        (admit("jp"), 12),
        (Expel(member="cert"), 20),
    ]
    first, second = Spans(acts, "id"), Spans(acts, "jp")
    assert [leaf for leaf in range(30) if first.holds("cert", leaf)] == list(range(10))
    assert [leaf for leaf in range(30) if second.holds("cert", leaf)] == list(range(10, 20))
    assert Spans(acts, "sg").members == []
    known = [(open_record(row.record).deed, row.leaf) for row in world.rows("governance")]
    assert Spans(known, "id").members == ["id", "id-audit"]


async def test_why_somebody_did_not_get_it(desk: Desk, ids: dict[str, str]) -> None:
    """The denial with its gate and reason, as the origin has it; and a delivery all the same is caught."""
    jp, sg = of(await desk.lines(), ids["again"])
    assert (jp.granted, jp.state, sg.granted, sg.state, sg.faults) == (True, "received", False, "denied", [])
    assert [(item.gate, item.reason) for item in sg.withheld] == [("marking", "not-a-named-recipient")]

    def handed(case: Case) -> Case:
        return msgspec.structs.replace(
            case, handed=[*case.handed, *(msgspec.structs.replace(one, member="sg") for one in case.handed)]
        )

    desk.broker.lie_about_cases(handed)
    _, sg = of((await desk.page()).lines, ids["again"])
    assert reasons(sg) == {"not-granted"}


# --- pages and questions --------------------------------------------------------------------------------------------


async def test_pages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the pieces are, together they are all of it, each once."""
    at_once = await desk.lines()
    assert len(at_once) == 5
    assert await desk.lines(most=1) == at_once
    monkeypatch.setattr(service, "CHUNK", 2)
    monkeypatch.setattr(service, "LOOKED_AT", 2)
    assert await desk.lines() == at_once
    assert (await desk.page()).lines == []
    assert (await desk.page()).more
    monkeypatch.setattr(service, "ROWS", 1)
    monkeypatch.setattr(service, "LOOKED_AT", 1024)
    assert await desk.lines() == at_once
    monkeypatch.setattr(service, "ANSWER", 1)
    desk.broker.asked.clear()
    assert await desk.lines() == at_once
    assert desk.broker.asked.count(auditing.CASES) == 3


async def test_questions(desk: Desk, ids: dict[str, str]) -> None:
    """By time, by report, by recipient; all that is given must hold."""
    lines = await desk.lines()
    middle = max(line.decided_at for line in lines)
    before, after = await desk.lines(until=middle), await desk.lines(since=middle)
    assert before
    assert after
    assert sorted((line.leaf, line.member or "") for line in (*before, *after)) == [
        (line.leaf, line.member or "") for line in lines
    ]
    assert await desk.lines(since=middle + timedelta(days=1)) == []
    assert await desk.lines(until=START - timedelta(days=1)) == []
    assert await desk.lines(report=UUID(ids["sent"])) == of(lines, ids["sent"])
    assert await desk.lines(report=UUID(ids["foreign"])) == []
    assert await desk.lines("sg") == [line for line in lines if line.member == "sg"]
    assert [line.report_id for line in await desk.lines("sg", report=UUID(ids["again"]))] == [ids["again"]]


async def test_old_entries_are_not_looked_at_for_new_ones(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker seeks by time in the log, and says where it began and ended."""
    page = await desk.page(since=world.clock.now + timedelta(days=1))
    assert (page.lines, page.first, page.end, page.more) == ([], page.size, page.size, False)
    monkeypatch.setattr(service, "SKEW_MS", 0)
    times = [row.received_at for row in sorted(world.rows("submissions"), key=lambda row: row.id)]
    for time in {*times, times[0] - 1, times[-1] + 1}:
        place = sum(one < time for one in times)
        at = datetime.fromtimestamp(time / 1000, UTC)
        assert (await desk.page(since=at)).first == place
        assert (await desk.page(until=at)).end == place


async def test_written_as(desk: Desk) -> None:
    """A table, CSV with its header, JSON: a line each, and what does not hold in all of them."""
    lines = await desk.lines()
    broken = msgspec.structs.replace(lines[0], faults=[Fault(reason="left-out", path="$", detail="gone")])
    rows = list(csv.DictReader(io.StringIO("".join(as_csv([broken, *lines[1:]])))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(lines)
    assert rows[0]["faults"] == "left-out at $: gone"
    assert [msgspec.json.decode(text, type=Line) for text in as_json(lines)] == lines
    text = "".join(as_table([broken, *lines[1:]]))
    assert text.count("DOES NOT HOLD") == 1
    assert "left-out at $: gone" in text


# --- a broker that lies ---------------------------------------------------------------------------------------------


def _more(world: World, case: Case) -> Case:
    """The origin granted less than is shown."""
    if case.receipt is UNSET:
        (granted,) = case.granted
        reports = [(digest, ALL_UNITS, 0) for digest, _, _ in granted.opening.reports]
        opening = msgspec.structs.replace(granted.opening, reports=reports)
        return msgspec.structs.replace(case, granted=[msgspec.structs.replace(granted, opening=opening)])
    receipt = _receipt.decode(split_jws(case.receipt, Receipt.typ).payload)
    decisions = [msgspec.structs.replace(one, exact=ALL_UNITS) for one in receipt.decisions]
    return msgspec.structs.replace(case, receipt=changed_receipt(world, case.receipt, decisions=decisions))


def _by_other_rules(world: World, case: Case) -> Case:
    if case.receipt is UNSET:
        return case
    receipt = _receipt.decode(split_jws(case.receipt, Receipt.typ).payload)
    decisions = [msgspec.structs.replace(one, by=[]) for one in receipt.decisions]
    return msgspec.structs.replace(case, receipt=changed_receipt(world, case.receipt, decisions=decisions))


def _to_fewer(world: World, case: Case) -> Case:
    """Singapore never had it."""
    if case.receipt is UNSET:
        return case
    receipt = _receipt.decode(split_jws(case.receipt, Receipt.typ).payload)
    reports = [
        msgspec.structs.replace(one, to={name: index for name, index in one.to.items() if name != "sg"})
        for one in receipt.reports
    ]
    handed = [one for one in case.handed if one.member != "sg"]
    jws = changed_receipt(world, case.receipt, reports=reports)
    return msgspec.structs.replace(case, receipt=jws, handed=handed)


def _another_leaf(_: World, case: Case) -> Case:
    """The entry is said to be elsewhere, in an order that an answer can have."""
    return msgspec.structs.replace(case, leaf=case.leaf - 1)


def _other_times(_: World, case: Case) -> Case:
    return msgspec.structs.replace(case, received_at=case.received_at + timedelta(hours=1))


def _other_ids(_: World, case: Case) -> Case:
    named = [msgspec.structs.replace(one, revision=one.revision + 1) for one in case.named]
    return msgspec.structs.replace(case, named=named)


def _no_names(_: World, case: Case) -> Case:
    return msgspec.structs.replace(case, named=[])


def _another_origin(_: World, case: Case) -> Case:
    return msgspec.structs.replace(case, origin="sg")


def _forged(_: World, case: Case) -> Case:
    """Somebody else's signature."""
    if case.receipt is UNSET:
        return case
    return msgspec.structs.replace(case, receipt=case.receipt[:-8] + "AAAAAAAA")


def _to_strangers(_: World, case: Case) -> Case:
    """It was handed to whom the receipt does not name."""
    handed = [msgspec.structs.replace(one, member="xx") for one in case.handed]
    return msgspec.structs.replace(case, handed=handed)


def _nothing_shown(_: World, case: Case) -> Case:
    return msgspec.structs.replace(case, granted=[]) if case.receipt is UNSET else case


@pytest.mark.parametrize(
    ("lie", "sent", "received"),
    [
        (_more, "proof-invalid", "proof-invalid"),
        (_by_other_rules, "proof-invalid", None),
        (_to_fewer, "proof-invalid", None),
        (_another_leaf, "proof-invalid", "proof-invalid"),
        (_other_times, "content-changed", None),
        (_other_ids, "content-changed", None),
        (_no_names, None, "unknown-report"),
        (_another_origin, "wrong-audience", "wrong-audience"),
        (_forged, "signature-invalid", None),
        (_to_strangers, "not-granted", None),
        (_nothing_shown, None, "missing-field"),
    ],
)
async def test_a_changed_line_is_caught(
    desk: Desk, world: World, lie: Callable[[World, Case], Case], sent: str | None, received: str | None
) -> None:
    """Though the broker signs its answer, and the receipt in it, anew."""
    leaves = {line.leaf: line.direction for line in (await desk.page()).lines}
    for direction, reason in (("sent", sent), ("received", received)):
        own = [leaf for leaf, to in leaves.items() if to == direction]
        # A leaf whose neighbour is another's: the answer's order stays possible.
        target = next(leaf for leaf in own if leaf - 1 not in leaves)
        desk.broker.lie_about_cases(lambda case, target=target: lie(world, case) if case.leaf == target else case)
        page = await desk.page()
        told = [reasons(line) for line in page.lines if line.faults]
        assert bool(told) == (reason is not None)
        assert all(reason in found for found in told), told
        if reason == "proof-invalid":
            assert {line.log for line in page.lines if line.faults} == {"false"}
        # Nobody is told what was said of others' entries.
        assert {fault.reason for fault in page.faults} <= {"not-allowed"}
        assert (not page.faults) or lie is _another_leaf


async def test_another_entry_in_the_log_is_caught(desk: Desk) -> None:
    """The log proves another leaf, or none: each line says so."""

    def turned(answer: logrpc.ProveAnswer) -> logrpc.ProveAnswer:
        return logrpc.ProveAnswer(paths=[*answer.paths[1:], answer.paths[0]])

    desk.broker.lies[logrpc.PROVE] = turned
    assert all(reasons(line) == {"proof-invalid"} for line in (await desk.page()).lines)
    desk.broker.lies[logrpc.PROVE] = lambda answer: logrpc.ProveAnswer(paths=answer.paths[1:])
    assert all(reasons(line) == {"leaf-missing"} for line in (await desk.page()).lines)


async def test_anothers_delivery_is_no_line_of_this_jurisdiction(desk: Desk, world: World) -> None:
    """What a broker shows too much of is refused as well: the opening is Singapore's."""
    rows = {row.id: row.receipt.decode() for row in world.rows("submissions") if row.member == "jp"}

    def to_singapore(case: Case) -> Case:
        if case.receipt is not UNSET:
            return case
        granted = service._granted(rows[case.leaf + 1], ["sg"])
        return msgspec.structs.replace(case, granted=granted, handed=[])

    desk.broker.lie_about_cases(to_singapore)
    lines = [line for line in (await desk.page()).lines if line.direction == "received"]
    assert lines
    assert all("wrong-audience" in reasons(line) for line in lines)


async def test_a_word_that_nobody_said_is_caught(desk: Desk, world: World, ids: dict[str, str]) -> None:
    """The broker cannot confirm for a recipient."""
    (jp, sg) = of(await desk.lines(), ids["sent"])
    for signer, reason in ((world.broker_key, "wrong-member"), (world.keys["jp"], "wrong-member")):
        false = Confirmation(
            iss="sg", aud="id", at=world.clock.now, state="closed", reports=[str(sg.digest)], delivery=UNSET
        )
        jws = sign_statement(false, signer)
        desk.broker.lies[auditing.WORDS] = lambda answer, jws=jws: WordsAnswer(words=[*answer.words, jws])
        _, found = of((await desk.page()).lines, ids["sent"])
        assert reasons(found) == {reason}
        assert found.state == "received"
    assert jp.faults == []


async def test_a_word_to_somebody_else_is_caught(desk: Desk, world: World, ids: dict[str, str]) -> None:
    """A recipient confirmed that it has another member's report: this line's origin is not whose it says."""
    (_, sg) = of(await desk.lines(), ids["sent"])
    false = Confirmation(iss="sg", aud="jp", at=world.clock.now, state="read", reports=[str(sg.digest)], delivery=UNSET)
    jws = sign_statement(false, world.keys["sg"])
    desk.broker.lies[auditing.WORDS] = lambda answer: WordsAnswer(words=[*answer.words, jws])
    _, found = of((await desk.page()).lines, ids["sent"])
    assert reasons(found) == {"wrong-audience"}


def _to_another(desk: Desk, answer: bytes) -> bytes:
    """The same answer, signed for another auditor."""
    question, body = auditing.encode(CasesRequest()), answer.partition(b"\n")[2]
    return auditing.sign_answer(question, body, "sg-audit", desk.world.broker_key, desk.world.clock.now)


async def test_an_answer_that_is_none_shows_nothing(desk: Desk) -> None:
    """Not signed, to another question, of another range: nothing in it is believed."""

    async def faults() -> set[str]:
        page = await desk.page()
        assert page.lines == []
        assert not page.more
        return {fault.reason for fault in page.faults}

    honest = await desk.page()
    broker = desk.broker
    broker.lies = {"bytes": lambda answer: answer.replace(b'"named"', b'"nAmed"')}
    assert await faults() == {"content-changed"}
    broker.lies = {"bytes": lambda answer: _to_another(desk, answer)}
    assert await faults() == {"wrong-audience"}
    other = broker.service.find("id-audit", auditing.CASES, auditing.encode(CasesRequest(most=7)))
    broker.lies = {"bytes": lambda _: other}
    assert await faults() == {"content-changed"}
    replace = msgspec.structs.replace
    lies: list[Callable[[CasesAnswer], CasesAnswer]] = [
        lambda answer: replace(answer, first=1),
        lambda answer: replace(answer, end=answer.end - 1),
        lambda answer: replace(answer, cases=[*answer.cases, answer.cases[-1]]),
        lambda answer: replace(answer, end=0, more=True),
        lambda answer: replace(answer, end=2, cases=[]),
    ]
    for lie in lies:
        broker.lies = {auditing.CASES: lie}
        assert await faults() == {"out-of-range"}
    broker.lies = {}
    assert await desk.page() == honest


async def test_words_without_end(desk: Desk) -> None:
    """Lines stay, the page says that their words are not all there."""
    desk.broker.lies[auditing.WORDS] = lambda answer: WordsAnswer(words=answer.words, next=1)
    page = await desk.page()
    assert {fault.reason for fault in page.faults} == {"out-of-range"}
    assert [line.state for line in page.lines if line.direction == "received"] == ["sent"]


# --- what is left out -----------------------------------------------------------------------------------------------


def evidence(world: World, ids: dict[str, str]) -> list[Bundle]:
    """What Indonesia's CERT holds."""
    return [world.bundle("id", ids[name]) for name in ("sent", "received", "again")]


async def missed(desk: Desk, bundles: list[Bundle], **asked: Any) -> list[str]:
    """What of these an audit does not show."""
    page = await desk.page(**asked)
    shown = Shown(asked.get("since"), asked.get("until"))
    shown.add(page)
    return [fault.path for bundle in bundles for fault in shown.missing(bundle) if fault.reason == "left-out"]


async def test_members_evidence_shows_what_was_left_out(desk: Desk, world: World, ids: dict[str, str]) -> None:
    """A submission, a delivery, a confirmation: the broker has signed that there is no such thing."""
    bundles = evidence(world, ids)
    assert await missed(desk, bundles) == []
    desk.broker.lie_about_cases(lambda case: None if case.receipt is UNSET else case)
    assert set(await missed(desk, bundles)) == {"$.lines", "$.lines.events"}
    desk.broker.lie_about_cases(lambda case: case if case.receipt is UNSET else None)
    assert (await missed(desk, bundles)).count("$.lines") == 2
    desk.broker.lies = {auditing.WORDS: lambda answer: WordsAnswer(words=answer.words[:-1], next=answer.next)}
    assert set(await missed(desk, bundles)) == {"$.lines.events"}
    # And where it says that all is before, or after, the time that was asked for.
    desk.broker.lies = {auditing.CASES: lambda answer: msgspec.structs.replace(answer, first=answer.size, cases=[])}
    assert (await missed(desk, bundles, since=START - timedelta(days=1))).count("$.lines") == 3
    later = START + timedelta(days=1)
    desk.broker.lies = {auditing.CASES: lambda answer: msgspec.structs.replace(answer, end=1, cases=[])}
    assert (await missed(desk, bundles, until=later)).count("$.lines") == 3
    desk.broker.lies = {}
    assert await missed(desk, bundles, since=later) == []


async def test_what_the_auditors_own_node_holds_cannot_be_left_out(world: World) -> None:
    """A CERT that is its own auditor: its node misses its receipts, and what was granted to it."""
    members = [
        msgspec.structs.replace(one, roles=[*one.roles, "auditor"] if one.id == "id" else one.roles)
        for one in world.region.members
    ]
    state = RegionState(Registry(msgspec.structs.replace(world.region, members=members)), PolicyBook([]))
    desk = Desk(world, "id", state)
    assert len(await desk.lines()) == 5
    desk.broker.lie_about_cases(lambda _: None)
    page = await desk.page()
    assert [fault.reason for fault in page.faults] == ["left-out"] * 3
    assert {fault.detail.partition(": ")[2] for fault in page.faults} == {
        "this node holds the receipt",
        "this node holds the delivery",
    }


async def test_members_and_leaves_cannot_be_left_out(desk: Desk) -> None:
    """Whose traffic was looked for, and how long the log is, this node knows."""
    replace = msgspec.structs.replace
    desk.broker.lies[auditing.CASES] = lambda answer: replace(answer, members=["id-audit"])
    assert [fault.path for fault in (await desk.page()).faults] == ["$.members"]
    desk.broker.lies[auditing.CASES] = lambda answer: replace(answer, size=2, end=2, cases=[])
    assert [fault.path for fault in (await desk.page()).faults] == ["$.size"]


async def test_what_was_said_is_kept_as_it_was_signed(desk: Desk, world: World) -> None:
    """The question and the broker's signed answer: with a member's evidence, proof of what it left out."""
    page = await desk.page(evidence=True)
    assert page.evidence
    for exchange in page.evidence:
        jws, answer = auditing.open_answer(
            exchange.answer.encode(),
            exchange.question.encode(),
            "id-audit",
            world.state.registry.keys.find,
            world.clock.now,
        )
        assert jws.count(".") == 2
        assert answer
    assert (await desk.page()).evidence is UNSET


async def test_what_no_quorum_has_seen_is_waiting(desk: Desk, world: World) -> None:
    """It is neither proven nor false."""
    answer = msgspec.json.decode(
        desk.broker.service.find("id-audit", auditing.CASES, b"{}").partition(b"\n")[2], type=CasesAnswer
    )
    spans = Spans([(open_record(row.record).deed, row.leaf) for row in world.rows("governance")], "id")
    bench = Bench(world.nodes["id-audit"].trust, spans, world.clock.now, None, 0, {})
    assert {(line.log, len(line.faults)) for line in judge(answer.cases, [], bench).lines} == {("waiting", 0)}
    # Nor is it believed what it contradicts itself: the leaf that was promised, and to whom.
    for changes, reason in (({"leaf": 99}, "proof-invalid"), ({"origin": "sg"}, "wrong-audience")):
        cases = [msgspec.structs.replace(case, **changes) for case in answer.cases]
        found = judge(cases, [], bench).lines
        assert all(reasons(line) == {reason} for line in found if line.direction == "sent" or reason == "proof-invalid")


async def test_a_member_that_is_hidden_from_the_auditor_is_not_named(tmp_path: Path) -> None:
    """What names it is left out, and said to be; whoever sees the member sees that too."""
    world = World(tmp_path, ["id", "quiet", "id-audit"], auditors={"id-audit": "id"}, hidden={"quiet": ["id"]})
    world.post("id", filing(1))
    world.settle()
    (leaf,) = [row.submission - 1 for row in world.rows("reports")]
    members = [
        msgspec.structs.replace(one, roles=[*one.roles, "auditor"] if one.id == "id" else one.roles)
        for one in world.region.members
    ]
    registry = Registry(msgspec.structs.replace(world.region, members=members), world.registry.seen_by)
    state = RegionState(registry, PolicyBook([]), world.chain)
    desk = Desk(world, "id-audit", state)
    page = await desk.page()
    assert (page.lines, page.faults, page.unseen, page.members) == ([], [], [leaf], ["id", "id-audit"])
    assert b"quiet" not in b"".join(desk.broker.seen)
    words = auditing.encode(WordsRequest(kind="confirmations", leaves=[leaf]))
    with pytest.raises(ProtocolError):
        desk.broker.service.find("id-audit", auditing.WORDS, words)
    shown = Shown()
    shown.add(page)
    (report,) = world.rows("reports")
    assert list(shown.missing(world.bundle("id", str(UUID(bytes=report.report_id))))) == []
    page = await Desk(world, "id", state).page()
    assert [(line.member, line.faults) for line in page.lines] == [("quiet", [])]
    world.ledger.close()
    for node in world.nodes.values():
        node.store.close()
