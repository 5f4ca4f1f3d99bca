"""Markings in STIX: written as the official TLP 2.0 and PAP objects, read in every form that is in use.

Guarantees: what is read is never looser than the strictest marking that anything read carries. A marking that is not
understood is no marking: it is listed, and does not loosen the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid5

from node.formats import stix_words as words
from protocol.report import json_encode

_PAP_WHITE: Final = "WHITE"


def written(marking: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The marking objects of a report: TLP, PAP if there is one, and in words who the named recipients are."""
    tlp = marking["tlp"]
    marks = [_extended(words.TLP_IDS[tlp], f"TLP:{tlp}", words.TLP_2, "tlp_2_0", tlp.lower())]
    if pap := marking.get("pap"):
        marks.append(_extended(words.PAP_IDS[pap], f"PAP:{pap}", words.PAP, "pap", pap.lower()))
    said = []
    if recipients := marking.get("recipients"):
        said.append(f"For these recipients only: {', '.join(recipients)}.")
    if group := marking.get("sharing_group"):
        said.append(f"For this sharing group only: {group['name']} ({group['id']}).")
    if attribution := marking.get("attribution"):
        said.append(f"The source {attribution.replace('-', ' ')} be named.")
    if said:
        statement = " ".join(said)
        name = uuid5(words.NAMESPACE, f"statement/{json_encode(statement).decode()}")
        marks.append(
            {
                "type": "marking-definition",
                "spec_version": "2.1",
                "id": f"marking-definition--{name}",
                "created": words.MARKINGS_CREATED,
                "definition_type": "statement",
                "definition": {"statement": statement},
            }
        )
    return marks


def _extended(name: str, title: str, extension: str, field: str, value: str) -> dict[str, Any]:
    return {
        "type": "marking-definition",
        "spec_version": "2.1",
        "id": name,
        "created": words.MARKINGS_CREATED,
        "name": title,
        "extensions": {extension: {"extension_type": "property-extension", field: value}},
    }
