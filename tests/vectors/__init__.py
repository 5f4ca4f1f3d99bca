"""Conformance vectors: fixed keys, fixed dates, bytes that never change within a schema version."""
