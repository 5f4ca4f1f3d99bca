"""Lasting alarms: what should never happen and did, open until a person clears it.

Guarantees: an alarm is an event in the feed each time, and one open row that counts; a flood, also one with ever new
kinds, opens at most `MOST` rows and one more a reason. A row holds ids, reasons and sizes, never a peer's own words.
Clearing twice is clearing once. No I/O but the transaction; time is an argument.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from node import tables
from node.store import Tx
from protocol.errors import ProtocolError
from protocol.reasons import Reason

MOST: Final = 1_000
"""Open alarms; beyond that, new ones count on one row a reason."""
EVERYTHING: Final = "*"
"""What such a row is about."""
LONGEST_NAME: Final = 64
"""Characters of the name of who clears an alarm."""
_OTHER: Final = "other"
_SHORT: Final = 32
_TELLING: Final = ("origin", "member")
"""Facts that tell alarms apart; the others are kept from the first of equal alarms."""
_TEXT: Final = 200
_WORDS: Final = frozenset({"detail", "path"})
"""Facts that can hold a peer's own words, such as the name of an unknown field."""
_REASONS: Final = frozenset(reason.value for reason in Reason)
_encode: Final = msgspec.json.encode


def raise_alarm(tx: Tx, about: str, reason: str, at: int, **facts: Any) -> bool:
    """Raise an alarm, and let it stay; tells whether it is a new one rather than one more of an open one.

    Args:
        about: a short word: receipt, delivery, confirmation, log.
        reason: the reason code.
        at: microseconds since 1970.
        facts: ids, reasons and sizes; `origin` and `member` tell alarms apart.
    """
    tx.event("alarm", {"about": about, "reason": reason, **facts}, at)
    about, reason = _plain(about, _SHORT), _plain(reason, _SHORT)
    key = _key(about, reason, *(str(facts.get(name) or "") for name in _TELLING), *map(str, _output(facts)))
    row = tx.open_alarm(key)
    if row is None and sum(tx.open_alarms().values()) >= MOST:
        about, reason = EVERYTHING, reason if reason in _REASONS else _OTHER
        key = _key(about, reason)
        row = tx.open_alarm(key)
    if row is not None:
        tx.set(tables.alarms, "id", [{"id": row.id, "last_at": at, "times": row.times + 1}])
        return False
    kept = {name: _cut(value) for name, value in facts.items() if name not in _WORDS}
    known = {"id": tx.number(tables.alarms), "key": key, "about": about, "kind": reason, "facts": _encode(kept)}
    tx.add(tables.alarms, [{**known, "first_at": at, "last_at": at, "times": 1}])
    return True


def _output(facts: dict[str, Any]) -> list[Any]:
    """The webhook that an alarm is about; apart from the others, so that the keys of those stay what they are."""
    return [facts["webhook"]] if "webhook" in facts else []


def _key(about: str, reason: str, *telling: str) -> str:
    return _encode([about, reason, *(text[:_SHORT] for text in telling)]).decode()


def _cut(value: Any) -> Any:
    return _plain(value, _TEXT) if isinstance(value, str) else value


def _plain(text: str, most: int) -> str:
    """A text that can be shown on any screen: it may have come from a forger."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text[:most])


def clear_alarm(tx: Tx, number: int, by: str, at: int) -> bool:
    """Note that a person has dealt with an alarm; False if it was cleared before.

    Args:
        by: who.

    Raises:
        ProtocolError: UNKNOWN_PATH, there is no such alarm.
    """
    row = tx.alarm(number)
    if row is None:
        raise ProtocolError(Reason.UNKNOWN_PATH, "$", "there is no alarm with this number")
    if row.cleared_at is not None:
        return False
    tx.set(tables.alarms, "id", [{"id": number, "cleared_at": at, "cleared_by": by}])
    tx.event("alarm.cleared", {"alarm": number, "about": row.about, "reason": row.kind, "by": by}, at)
    return True
