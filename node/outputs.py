"""What `node.toml` says about where events go to: `[[webhook]]` and `[[syslog]]`.

Guarantees: addresses come from the operator's file and from nowhere else; every output has a name of its own, under
which its position stands on disk. Refuses content beside no limit on its marking.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from protocol.errors import ConfigError
from protocol.process import Section
from protocol.taxonomy import Tlp

DEFAULT_NAME: Final = "webhook"
"""Of a webhook that has no name of its own, as the single one of older files."""
ALARMING: Final = ("alarm", "report.unread", "report.unconfirmed", "webhook.disabled")

EventKind = Annotated[str, Meta(pattern=r"^[a-z]+(\.[a-z]+)?$(?!\n)")]
OutputName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$(?!\n)")]
Score = Annotated[int, Meta(ge=0, le=100)]
Days = Annotated[float, Meta(gt=0, le=365)]


class Chosen(Section, frozen=True, kw_only=True):
    """Which events go out."""

    kinds: Annotated[tuple[EventKind, ...], Meta(min_length=1)] = ALARMING
    severity: Score = 0
    """The least severity score of the report that an event is about; one that is not stated counts as the highest."""
    tlp: Tlp = "RED"
    """The strictest marking of the report that an event is about; one that is not known any more counts as RED."""


class Hook(Chosen, frozen=True, kw_only=True):
    """Where events are sent to as signed HTTP requests; nowhere without a `url`."""

    name: OutputName = DEFAULT_NAME
    url: Annotated[str, Meta(pattern=r"^(https?://[^\s/]+(/\S*)?)?$(?!\n)")] = ""
    secret_file: Path = Path("keys/webhook.secret")
    disable_after_days: Days = 5.0
    """After so many days of failures in a row it is disabled, until somebody enables it."""


class Syslog(Chosen, frozen=True, kw_only=True):
    """Where events are sent to as CEF in RFC 5424 messages."""

    name: OutputName
    address: Annotated[str, Meta(pattern=r"^(udp|tcp|tls)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$(?!\n)")]
    ca_file: Path | None = None
    """PEM; the only authorities whose certificates are accepted. Without it, those of the system."""
    cert_file: Path | None = None
    """PEM with this node's certificate and key, if the receiver wants one."""
    facility: Annotated[int, Meta(ge=0, le=23)] = 16
    content: bool = False
    """Title and description too, of reports whose marking is at most `content_tlp`."""
    content_tlp: Tlp = "CLEAR"


def check_names(hooks: Sequence[Hook], syslogs: Sequence[Syslog], file: Path) -> None:
    """ConfigError if two outputs have one name: their positions would be one too."""
    names = [*(hook.name for hook in hooks), *(syslog.name for syslog in syslogs)]
    if len(names) != len(set(names)):
        raise ConfigError(f"{file}: two [[webhook]] or [[syslog]] entries have the same name: give each one of its own")
