"""STIX 2.1, bundles in and out; see `stix_in` and `stix_out`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid5

from node.formats import stix_words as words
from node.formats.foreign import Shown
from node.formats.stix_in import read
from node.formats.stix_out import objects_of
from protocol.report import json_encode

__all__ = ["objects_of", "read", "write"]


def write(shown: Sequence[Shown]) -> bytes:
    """One bundle of all reports; an object that several of them have stands in it once."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for item in shown:
        for made in objects_of(item):
            found.setdefault((made["id"], made.get("modified", "")), made)
    objects = json_encode(list(found.values()))
    name = uuid5(words.NAMESPACE, f"bundle/{objects.decode()}")
    return b'{"id":"bundle--%s","objects":%s,"type":"bundle"}' % (str(name).encode(), objects)
