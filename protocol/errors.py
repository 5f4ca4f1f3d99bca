"""The four families of errors, by whose fault it is; there is no fifth.

    ProtocolError   the peer's fault: what it sent is wrong. Carries a reason code and the path of the field.
    ConfigError     the operator's fault: the text says what to write where.
    Transient       a passing fault of the transport or a full disk: wait and try again, nothing is lost.
    anything else   a bug: it ends the process, and a restart recovers from what is on disk.

Exceptions carry facts; the edges decide on status codes and wording. None of them ever carries report content.
"""

from __future__ import annotations

from protocol.reasons import Reason


class ProtocolError(Exception):
    """The peer sent something that this side refuses, for good: sending it again gets the same answer.

    Args:
        reason: the machine-readable code, which is also the metric label.
        path: JSON path of the offending field, `$` for the whole document.
        detail: one sentence for a person; holds names, limits and sizes, never report content.
    """

    def __init__(self, reason: Reason, path: str = "$", detail: str = "") -> None:
        super().__init__(f"{reason.value} at {path}: {detail}" if detail else f"{reason.value} at {path}")
        self.reason = reason
        self.path = path
        self.detail = detail


class ConfigError(Exception):
    """The operator must change something; the text says what to write where."""


class Transient(Exception):  # noqa: N818 - a condition to wait out, not an error of anybody's
    """The transport or the disk cannot serve now; the caller keeps what it holds and tries again later."""
