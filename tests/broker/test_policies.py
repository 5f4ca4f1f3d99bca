"""Published policies: a jurisdiction's own word, which no file at the broker and no lost key can replace."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker import policies
from protocol.errors import ProtocolError
from protocol.policy import Policy, PolicyBook
from protocol.published import publish
from protocol.reasons import Reason
from protocol.registry import Member, Registry
from tests.broker.make import Hub
from tests.federation import open_policy
from tests.protocol import make

pytestmark = pytest.mark.usefixtures("each_database")


def version(number: int, days: int = 1, **given: Any) -> Policy:
    starts = (make.NOW + timedelta(days=days)).isoformat()
    return open_policy("id", version=number, effective_from=starts, **given)


def registry(**changes: Any) -> Registry:
    record = msgspec.structs.replace(make.key_of("id-cert").record(make.NOW - make.DAY, make.NOW + make.DAY), **changes)
    newer = make.key_of("id-cert-2").record(make.NOW - make.DAY, make.NOW + make.DAY)
    return make.registry(Member(id="id-cert", jurisdiction="id", name="id", keys=[record, newer]), make.member("sg"))


def signed(policy: Policy, key: str = "id-cert") -> bytes:
    return publish(policy, "id-cert", make.key_of(key), make.NOW).encode("ascii")


def test_who_only_audits_or_observes_sets_no_policy(tmp_path: Path) -> None:
    """An auditor is of the same jurisdiction as its CERT, whose policy it must not replace."""
    store = Hub(tmp_path).store
    record = make.key_of("id-cert").record(make.NOW - make.DAY, make.NOW + make.DAY)
    for role, reason in (("auditor", "not-allowed"), ("observer", "not-allowed"), ("recipient", None)):
        found = make.registry(Member(id="id-cert", jurisdiction="id", name="id", keys=[record], roles=[role]))
        if reason is None:
            assert policies.take(store, "id-cert", signed(version(1)), found, make.NOW)
            continue
        with pytest.raises(ProtocolError) as caught:
            policies.take(store, "id-cert", signed(version(1)), found, make.NOW)
        assert caught.value.reason.value == reason


def test_the_policy_of_a_hidden_member_is_for_those_that_see_it(tmp_path: Path) -> None:
    """And where others have a member that everybody sees, a hidden one does not speak for all."""
    hub = Hub(tmp_path)
    first = registry().region
    hidden = [msgspec.structs.replace(one, hidden=one.id == "id-cert") for one in first.members]
    region = msgspec.structs.replace(first, members=[*hidden, make.member("my")])
    quiet = Registry(region, {"id-cert": frozenset({"my-cert"})})
    assert policies.take(hub.store, "id-cert", signed(version(1)), quiet, make.NOW)

    def told(name: str) -> list[str]:
        answer = policies.listed(hub.store, b'{"after":0}', quiet.view(name))
        return list(msgspec.json.decode(answer)["policies"])

    assert [len(told(name)) for name in ("id-cert", "my-cert", "sg-cert")] == [1, 1, 0]
    other = msgspec.structs.replace(region, members=[*region.members, make.member("id", id="id-other", keys=[])])
    with make.refused(Reason.NOT_ALLOWED, "$.iss"):
        policies.take(hub.store, "id-cert", signed(version(2)), Registry(other, quiet.seen_by), make.NOW)


@pytest.mark.falsifies
def test_what_was_published_stays_published_when_its_key_is_revoked(tmp_path: Path) -> None:
    """It grants nothing any more, and no file speaks in its place; a new key publishes the next version."""
    store = Hub(tmp_path).store
    assert policies.take(store, "id-cert", signed(version(1)), registry(), make.NOW)
    file = open_policy("id", version=9)
    revoked = registry(revoked_at=make.NOW - timedelta(hours=1))
    found = policies.published_policies(store, revoked, make.NOW)
    assert policies.merge([file], found) == []
    assert policies.take(store, "id-cert", signed(version(2), "id-cert-2"), revoked, make.NOW)
    found = policies.published_policies(store, revoked, make.NOW)
    assert [policy.version for policy in policies.merge([file], found)] == [2]


def test_the_same_bytes_again_are_the_same_answer(tmp_path: Path) -> None:
    """Nodes offer their newest version at every start."""
    store = Hub(tmp_path).store
    document = signed(version(1))
    assert policies.take(store, "id-cert", document, registry(), make.NOW) is not None
    assert policies.take(store, "id-cert", document, registry(), make.NOW) is None


@pytest.mark.parametrize(
    ("policy", "key", "member", "reason"),
    [
        (version(1), "id-cert", "id-cert", "revision-conflict"),
        (version(2, days=-1), "id-cert", "id-cert", "effective-in-the-past"),
        (version(2), "sg-cert", "id-cert", "wrong-member"),
        (version(2), "id-cert", "sg-cert", "wrong-member"),
        (open_policy("sg", version=1), "id-cert", "id-cert", "wrong-member"),
        (version(2), "stranger", "id-cert", "unknown-key"),
    ],
)
def test_what_may_not_be_published(tmp_path: Path, policy: Policy, key: str, member: str, reason: str) -> None:
    """A version that is there, a change of the past, another's name, another's jurisdiction, an unknown key."""
    store = Hub(tmp_path).store
    policies.take(store, "id-cert", signed(version(1, description="first")), registry(), make.NOW)
    with pytest.raises(ProtocolError) as caught:
        policies.take(store, member, signed(policy, key), registry(), make.NOW)
    assert caught.value.reason.value == reason


def test_only_versions_whose_date_has_come_have_begun() -> None:
    """Else the one before the last would be forgotten for one that is published for later."""
    versions = [version(number, days) for number, days in ((1, -2), (2, -1), (3, 1))]
    book = PolicyBook(versions)
    later = [book.begun("id", make.NOW + timedelta(days=days)) for days in (-3, -1, 0, 1)]
    held = [[one.at("id", make.NOW + make.DAY * 9) for one in books] for books in later]
    assert [[item.source.version for item in found if not isinstance(item, Reason)] for found in held] == [
        [], [1, 2], [1, 2], [1, 2, 3],
    ]  # fmt: skip
    assert book.begun("sg", make.NOW) == []
