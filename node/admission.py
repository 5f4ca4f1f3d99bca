"""What a client may file: how it marks a report, which sector and purpose it claims, and who it says made it.

Guarantees: what a token does not allow is refused with the path of the field; a report that a machine's token files
says so, whatever the filing says. Pure.
"""

from __future__ import annotations

import msgspec

from protocol.access import Client, allows, claims
from protocol.errors import ProtocolError
from protocol.reasons import Reason
from protocol.report import Filing


def check(filing: Filing, client: Client, at: str) -> None:
    """Hold a filing to its client's limits.

    Args:
        at: JSON path of the filing in what was sent.

    Raises:
        ProtocolError: TLP_NOT_ALLOWED, SECTOR_NOT_ALLOWED or PURPOSE_NOT_ALLOWED.
    """
    if not allows(client, filing.marking.tlp):
        raise ProtocolError(
            Reason.TLP_NOT_ALLOWED, f"{at}.marking.tlp", f"this token files up to TLP:{client.tlp}, and reads no more"
        )
    if client.sectors is not None:
        for path, sector in _claimed(filing):
            if not claims(client, sector):
                known = ", ".join(sorted(client.sectors))
                raise ProtocolError(Reason.SECTOR_NOT_ALLOWED, at + path, f"this token speaks for {known}")
    if client.purposes is not None and filing.purpose not in client.purposes:
        known = ", ".join(sorted(client.purposes))
        raise ProtocolError(Reason.PURPOSE_NOT_ALLOWED, f"{at}.purpose", f"this token files for {known}")


def _claimed(filing: Filing) -> list[tuple[str, str]]:
    """Every sector that a filing claims, with its path."""
    found: list[tuple[str, str]] = [
        (f".sectors[{index}].code", named.code) for index, named in enumerate(filing.sectors or ())
    ]
    for name in ("victim", "third_party"):
        part = getattr(filing.body, name)
        if part and part.sector:
            found.append((f".body.{name}.sector", part.sector))
    return found


def mark(filing: Filing, client: Client) -> Filing:
    """The filing as this client makes it: a machine's own claim of who made it does not count."""
    if client.made_by is None or filing.made_by == client.made_by:
        return filing
    return msgspec.structs.replace(filing, made_by=client.made_by)
