"""MISP's core format, events in and out; see `misp_in` and `misp_out`."""

from __future__ import annotations

from node.formats.misp_in import read
from node.formats.misp_out import event_of, write

__all__ = ["event_of", "read", "write"]
