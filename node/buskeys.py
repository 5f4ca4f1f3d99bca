"""What the broker gives a node for its connection, followed: a claim for its key, a certificate, the bus's authority.

    keys/nats.creds             the claim, with the key that it is for
    keys/nats-certificate.pem   for the same key, where the bus asks for one
    keys/nats-ca.pem            who vouches for the bus; the invitation's, until the broker names another one

Guarantees: only what the broker signed for this member counts, whoever answers on the bus; a new connection stands
before the old one ends, and if there is none, the files of before are put back. The key itself never changes here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import structlog

from node import config as files
from node.core import NodeCore
from node.dialling import keep_ca, keep_certificate
from node.loops import REQUEST_TIMEOUT, State
from node.trust import open_for
from protocol import natsauth, subjects
from protocol.certs import read_certificate
from protocol.errors import ConfigError, ProtocolError, Transient
from protocol.invitation import Held, digest_of_ca
from protocol.keys import read_secret, replace_secret
from protocol.reasons import Reason
from protocol.statements import Claim

log = structlog.get_logger()
CLAIM: Final = "transport.claim"
LOOK: Final = 5.0
"""Seconds between questions whether there is something new; the answer is mostly no."""
EARLY: Final = timedelta(days=60)
"""Before its end, another certificate is asked for."""


class BusKeys:
    """The node's side of what the broker hands out for connections. From one task.

    Args:
        keys: the directory with the keys.
        now: the clock.
    """

    def __init__(self, keys: Path, core: NodeCore, state: State, now: Callable[[], datetime]) -> None:
        self._keys = keys
        self._core = core
        self._state = state
        self._now = now

    async def follow(self) -> bool:
        """Take what is new, if anything is; tells whether something was.

        Raises:
            ProtocolError, ConfigError: what came is not for this node, or opens no connection.
            Transient: no answer.
        """
        present, seed = natsauth.parse_creds(read_secret(self._keys / files.NATS_CREDS).decode("ascii", "replace"))
        held = Held(account=natsauth.issuer_of(present), ca=self._ca(), renew=self._ends())
        claim = await self._ask(msgspec.json.encode(held))
        if claim is None or natsauth.subject_of(claim.user_jwt) != natsauth.subject_of(present):
            return False
        await self.take(claim, seed)
        log.info("node.bus_followed", account=natsauth.issuer_of(claim.user_jwt), authority=digest_of_ca(claim.ca))
        return True

    async def claim_for(self, public: str) -> Claim:
        """The claim for another key, which the region lists by now.

        Raises:
            ProtocolError: it is for another one.
            Transient: no answer.
        """
        claim = await self._ask(b"")
        if claim is None:
            raise Transient("the broker gave no claim")
        if natsauth.subject_of(claim.user_jwt) != public:
            raise ProtocolError(Reason.WRONG_AUDIENCE, "$.user_jwt", "the claim is for another key")
        return claim

    async def take(self, claim: Claim, seed: str) -> None:
        """Connect with a claim while the present connection still stands; what was there is put back if that fails.

        Args:
            seed: of the key that it is for.

        Raises:
            ConfigError: the bus, or a file, refuses it.
            Transient: not now.
        """
        link, creds = self._state.link, self._keys / files.NATS_CREDS
        if link is None:
            raise Transient("not connected to the bus")
        before = [
            (path, path.read_bytes() if path.exists() else None)
            for path in (creds, self._keys / files.NATS_CERTIFICATE, self._keys / files.NATS_CA)
        ]
        try:
            keep_ca(self._keys, claim.ca)
            keep_certificate(self._keys, claim.certificate, seed)
            replace_secret(creds, natsauth.format_creds(claim.user_jwt, seed).encode("ascii"))
            await link.renew()
        except (Transient, ConfigError):
            for path, data in before:
                if data is None:
                    path.unlink(missing_ok=True)
                else:
                    replace_secret(path, data)
            raise

    async def _ask(self, held: bytes) -> Claim | None:
        link = self._state.link
        if link is None:
            raise Transient("not connected to the bus")
        answer = await link.request(subjects.rpc(CLAIM), held, REQUEST_TIMEOUT)
        if not answer:
            return None
        jws, find = answer.decode("ascii", "replace"), self._core.trust.broker_keys.find
        return open_for(self._core.member, jws, Claim, find, self._now())

    def _ca(self) -> str:
        path = self._keys / files.NATS_CA
        return digest_of_ca(path.read_text("ascii") if path.exists() else None)

    def _ends(self) -> bool:
        path = self._keys / files.NATS_CERTIFICATE
        return path.exists() and read_certificate(read_secret(path), str(path)).not_after < self._now() + EARLY
