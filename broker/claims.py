"""Which claims the servers of the bus shall hold: one for each account, signed from the keys and the region. Pure.

Guarantees: claims that take something away come first, so that whoever tells a server of them one by one cuts before
it lets in; a claim is signed anew only if it says something new, and then with a later time than the one before it,
since servers keep the later of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from broker.accounts import Accounts
from protocol import natsauth

Retired = Mapping[str, Mapping[str, int]]
"""By member, the keys that open no connection any more, and since when (seconds since 1970)."""


def sign_all(
    accounts: Accounts, members: Iterable[str], suspended: Iterable[str], retired: Retired, now: int
) -> dict[str, str]:
    """The claims by the public keys of their accounts.

    Args:
        members: who has an account; `suspended` of them may not connect, and `retired` keys of theirs neither.
        now: seconds since 1970.
    """
    cut, everybody = set(suspended), set(members)

    def of(member: str) -> tuple[str, str]:
        claim = accounts.member_account_jwt(member, now, revoked=member in cut, retired=retired.get(member))
        return accounts.member_account(member), claim

    before = {
        account: accounts.member_account_jwt(
            member, now, revoked=member in cut, retired=retired.get(member), account=account
        )
        if member in everybody and now < until
        else accounts.closed_account_jwt(account, now)
        for member, account, until in accounts.former()
    }
    return dict(
        [
            *map(of, sorted(cut & everybody)),
            *before.items(),
            (accounts.system_account, accounts.system_account_jwt(now)),
            # A member's imports from it must find what it exports.
            (accounts.broker_account, accounts.broker_account_jwt(everybody, now)),
            *map(of, sorted(everybody - cut)),
        ]
    )


def says_the_same(one: str | None, other: str) -> bool:
    """Whether two claims grant the same, whenever they were signed, and are signed by the same key."""
    if one is None:
        return False
    same = natsauth.grants_of(one) == natsauth.grants_of(other)
    return same and natsauth.issuer_of(one) == natsauth.issuer_of(other)


def newest(found: Iterable[str]) -> int:
    """When the last of some claims was signed, in seconds since 1970; 0 without any."""
    return max((natsauth.times_of(jwt)[0] or 0 for jwt in found), default=0)
