"""Which reader and writer there is for which content type and `?format=` name.

Guarantees: what is asked for by name or content type is either that format or refused; the project's own profile is the
answer to JSON without a name. A format is loaded when it is first asked for. Refuses formats that this program does not
have (UNSUPPORTED_MEDIA, with those that it has).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Final

from node.formats.foreign import Read, Write
from protocol.errors import ProtocolError
from protocol.reasons import Reason

PROFILE: Final = "profile"
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        media_types: content types that mean it without a name; the first is that of what is written.
        reads: the module with its `read`.
        writes: the module with its `write`; empty if it is only read.
        lines: a list or NDJSON of such documents is read one by one, each an item of its own.
    """

    name: str
    media_types: tuple[str, ...]
    reads: str
    writes: str = ""
    lines: bool = False


_ALL: Final = (
    Format("stix", ("application/stix+json", "application/vnd.oasis.stix+json"), "stix", "stix"),
    Format("misp", ("application/vnd.misp+json",), "misp", "misp"),
    Format("intelmq", ("application/vnd.intelmq+json",), "intelmq", lines=True),
    Format("ocsf", ("application/vnd.ocsf+json",), "ocsf", "ocsfout", lines=True),
    Format("idmef", ("application/vnd.idmef+json",), "idmef", lines=True),
    Format("idea", ("application/vnd.idea+json",), "idea", lines=True),
    Format("iodef", ("application/vnd.iodef+json",), "iodef", "iodefout"),
    Format("csv", ("text/csv",), "csvtable", "csvtable"),
)
FORMATS: Final[Mapping[str, Format]] = {item.name: item for item in _ALL}
"""By name."""

_BY_TYPE: Final = {media: item for item in FORMATS.values() for media in item.media_types}


@cache
def reader(name: str) -> Read:
    """The reader of a format."""
    found: Read = import_module(f"node.formats.{FORMATS[name].reads}").read
    return found


@cache
def writer(name: str) -> Write | None:
    """The writer of a format; None if it is only read."""
    module = FORMATS[name].writes
    return import_module(f"node.formats.{module}").write if module else None


def format_in(name: str, media_type: str) -> Format | None:
    """The format of a posted document; None for the project's own.

    Args:
        name: what `?format=` says, or empty.
        media_type: the content type, without parameters.

    Raises:
        ProtocolError: there is no such format.
    """
    if name and name != PROFILE:
        if name not in FORMATS:
            raise _unknown()
        return FORMATS[name]
    if media_type in (JSON, NDJSON):
        return None
    if name == PROFILE or media_type not in _BY_TYPE:
        raise _unknown()
    return _BY_TYPE[media_type]


def format_out(name: str) -> Format | None:
    """The format that is asked for; None for the project's own. ProtocolError if it cannot be written."""
    if name in ("", PROFILE):
        return None
    if name not in FORMATS or writer(name) is None:
        raise ProtocolError(
            Reason.UNSUPPORTED_MEDIA,
            "$",
            f"reports are shown as {PROFILE}, {', '.join(sorted(n for n in FORMATS if writer(n)))}",
        )
    return FORMATS[name]


def _unknown() -> ProtocolError:
    types = ", ".join((JSON, NDJSON, *_BY_TYPE))
    return ProtocolError(
        Reason.UNSUPPORTED_MEDIA, "$", f"send {types}, or name one of {PROFILE}, {', '.join(FORMATS)} in ?format="
    )
