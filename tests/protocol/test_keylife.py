"""How long keys last: which is in use, what is warned of, and what an operator reads."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from protocol.errors import ConfigError
from protocol.keylife import as_document, ending, lives_of, parse_within, stage, table
from protocol.keys import KeyRecord
from tests.protocol.make import DAY, NOW, key_of


def record(name: str, start: int, end: int, revoked: int | None = None) -> KeyRecord:
    """A key that is valid from one day to another, counted from now."""
    made = key_of(name).record(NOW + start * DAY, NOW + end * DAY)
    if revoked is None:
        return made
    return msgspec.structs.replace(made, revoked_at=NOW + revoked * DAY)


KEYS = [
    record("old", -400, -35),
    record("stolen", -100, 200, revoked=-3),
    record("before", -300, 5),
    record("now", -10, 100),
    record("later", 20, 300),
]


def test_where_each_key_stands() -> None:
    """The one in use is told apart from those that only count for what is on its way."""
    lives = lives_of("signing", "signs", KEYS, NOW, current=KEYS[3].kid)
    assert [one.state for one in lives] == ["expired", "revoked", "overlap", "current", "next"]
    assert [one.in_use for one in lives] == [False, False, False, True, False]


def test_the_key_in_use_of_others_is_the_newest_that_is_valid() -> None:
    """Or the last one of all, if none is: then it has run out, and that is told."""
    assert [one.kid for one in lives_of("signing", "", KEYS, NOW) if one.in_use] == [KEYS[3].kid]
    (one,) = lives_of("signing", "", KEYS[:1], NOW)
    assert (one.state, one.in_use) == ("expired", True)
    assert ending([one], NOW, DAY) == [one]
    assert lives_of("signing", "", [], NOW) == []


def test_only_keys_in_use_are_warned_of() -> None:
    """The old one after a renewal ends by design."""
    lives = lives_of("signing", "signs", KEYS, NOW, current=KEYS[3].kid)
    assert ending(lives, NOW, timedelta(days=30)) == []
    assert [one.kid for one in ending(lives, NOW, timedelta(days=100))] == [KEYS[3].kid]


def test_a_revocation_for_later_is_an_end() -> None:
    """The key is in use until then."""
    (one,) = lives_of("signing", "", [record("x", -1, 300, revoked=2)], NOW)
    assert (one.state, one.left(NOW)) == ("current", 2 * DAY)


@pytest.mark.parametrize(("days", "due"), [(43, None), (42, 42), (15, 42), (14, 14), (3, 3), (1, 3), (0, 3), (-5, 3)])
def test_the_stages_of_warning(days: int, due: int | None) -> None:
    """At 42, 14 and 3 days."""
    assert stage(days * DAY) == due


def test_what_an_operator_reads() -> None:
    """Days are whole ones, counted down."""
    lives = lives_of("signing", "signs reports", KEYS[3:4], NOW, owner="id")
    assert as_document(lives[0], NOW)["days_left"] == 100
    head, line = table(lives, NOW)
    assert head.split()[:3] == ["whose", "kind", "key"]
    assert line.split()[:4] == ["id", "signing", KEYS[3].kid, "Ed25519"]
    assert parse_within("30d") == timedelta(days=30)
    for wrong in ("30", "d", "1w", "-1d", "99999d"):
        with pytest.raises(ConfigError, match="--within"):
            parse_within(wrong)
