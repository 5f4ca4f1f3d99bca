"""A submission on the bus: the SD-JWT, and after it, a line each, the boxes of those of its reports that are sealed.

    <SD-JWT> \\n <box> \\n <box> …

The SD-JWT is ASCII without line ends and a box is JSON on one line, so the cut is never in doubt. A box belongs to the
report whose signed header names its digest; nothing else says where it belongs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from protocol import limits
from protocol.envelope import SignedReport
from protocol.errors import ProtocolError
from protocol.reasons import Reason
from protocol.sealing import SealedBox, parse_box


def join_submission(sd_jwt: str, boxes: Iterable[bytes]) -> bytes:
    """One submission."""
    return b"\n".join([sd_jwt.encode("ascii"), *boxes])


def split_submission(data: bytes) -> tuple[bytes, list[bytes]]:
    """The SD-JWT and the boxes behind it. ProtocolError if there are more boxes than a submission has reports."""
    sd_jwt, *boxes = data.split(b"\n")
    if len(boxes) > limits.REPORTS_PER_SUBMISSION:
        raise ProtocolError(Reason.TOO_MANY, "$", "more boxes than reports")
    return sd_jwt, boxes


def read_boxes(boxes: Sequence[bytes]) -> dict[str, SealedBox]:
    """Boxes by the digest that a header names them by. ProtocolError if one is malformed or there twice."""
    found: dict[str, SealedBox] = {}
    for data in boxes:
        box = parse_box(data)
        if found.setdefault(box.digest(), box) is not box:
            raise ProtocolError(Reason.SEAL_BROKEN, "$", "a box is there twice")
    return found


def box_of(report: SignedReport, boxes: Mapping[str, SealedBox]) -> SealedBox | None:
    """The box of a sealed report; None for a report that is not sealed. ProtocolError if it is not there."""
    if not report.header.sealed:
        return None
    box = boxes.get(report.header.sealed)
    if box is None:
        raise ProtocolError(Reason.SEAL_BROKEN, "$.sealed", "the box that the signed header names is not here")
    return box
