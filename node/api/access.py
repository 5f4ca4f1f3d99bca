"""Who may use the node: bearer tokens, known only by their hashes. Refuses with 401 and a reason."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from node.config import Token
from protocol.errors import ProtocolError
from protocol.reasons import Reason

CLIENT: Final = web.RequestKey("client", str)
_LONGEST: Final = 512


class Tokens:
    """All tokens of a node."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = [(token.name, bytes.fromhex(token.sha256)) for token in tokens]

    def check(self, authorization: str | None) -> str:
        """The name of the token in an Authorization header.

        Raises:
            ProtocolError: TOKEN_MISSING or TOKEN_INVALID.
        """
        if not authorization:
            raise ProtocolError(Reason.TOKEN_MISSING, "$", "send the header Authorization: Bearer <token>")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip() or len(token) > _LONGEST:
            raise ProtocolError(Reason.TOKEN_INVALID, "$", "the header is not Authorization: Bearer <token>")
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = ""
        for name, expected in self._tokens:
            # All of them are compared, so that the time taken tells nothing.
            if hmac.compare_digest(given, expected):
                found = name
        if not found:
            raise ProtocolError(Reason.TOKEN_INVALID, "$", "this token is not known here")
        return found
