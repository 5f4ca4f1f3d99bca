"""Back in after the key of the connection is lost: another key, and a record about it that travels as a file.

    keys/nats-next.seed   the new key, until an invitation for it takes it into use

Guarantees: the member itself signs, with its signing key, on this machine alone; nothing secret is in the file. The
record follows the newest one that is known here, so that it is taken only at its place: if others came meanwhile, a
newer invitation brings them. Refuses an invitation of another region than the one that is pinned (ConfigError).
"""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path

from node import config as files
from node.renewal import WISH, read_wish
from node.trust import Trust
from protocol import natsauth
from protocol.errors import ConfigError, ProtocolError
from protocol.governance import Keys, Record, draft, sign_record
from protocol.invitation import Invitation
from protocol.keys import KnownSigner, read_secret, replace_secret, write_secret


def next_public(keys: Path) -> str:
    """The public part of the key to come; made now, unless it is there from an earlier attempt.

    Raises:
        ConfigError: a renewal is open that the running node brings about.
    """
    if read_wish(keys) is not None:
        raise ConfigError(f"{keys / WISH}: a renewal is open; remove the file first if the node cannot finish it")
    path = keys / files.NATS_NEXT
    if not path.exists():
        seed = natsauth.create_seed(natsauth.Role.USER, secrets.token_bytes(natsauth.SEED_ENTROPY))
        write_secret(path, seed.encode("ascii"))
    return natsauth.public_of(_seed(path), natsauth.Role.USER)


def newest(held: Trust, invited: Trust | None) -> Trust:
    """Of what the node holds and what an invitation brings, the one with more records.

    Raises:
        ConfigError: they are of different regions.
    """
    if invited is None:
        return held
    if invited.genesis != held.genesis:
        raise ConfigError("the invitation is of a region with another founding record than the one that is pinned here")
    return max(held, invited, key=lambda trust: trust.state.head.number)


def sign_transport(trust: Trust, member_id: str, public: str, signer: KnownSigner, now: datetime) -> bytes:
    """The member's record about its new key; from then on the one before it opens nothing.

    Raises:
        ConfigError: the region does not list this member.
    """
    state = trust.state
    try:
        member = state.member(member_id)
    except ProtocolError as exc:
        raise ConfigError(exc.detail) from exc
    act = Keys(member=member.id, keys=member.keys, sealing_keys=member.sealing_keys, transport=public)
    number, previous = state.head.number + 1, state.head.digest
    at = max(now.replace(microsecond=0), state.at)
    return sign_record(
        draft(Record(region=state.region.region, number=number, previous=previous, at=at, act=act)), signer
    )


def seed_for(keys: Path, invitation: Invitation) -> str:
    """The seed of the key that an invitation is for, taken into use if it was the one to come.

    Raises:
        ConfigError: it is not here.
    """
    wanted = natsauth.subject_of(invitation.user_jwt)
    for name in (files.NATS_SEED, files.NATS_NEXT):
        path = keys / name
        if path.exists() and natsauth.public_of(_seed(path), natsauth.Role.USER) == wanted:
            seed = _seed(path)
            if name == files.NATS_NEXT:
                replace_secret(keys / files.NATS_SEED, seed.encode("ascii"))
            return seed
    raise ConfigError(
        f"the invitation is for the key {wanted}, which is not in {keys}: hand the present member.json over again, or "
        "have a new key listed (`kentongan node rotate DIR --transport --offline FILE`)"
    )


def _seed(path: Path) -> str:
    return read_secret(path).decode("ascii", "replace").strip()
