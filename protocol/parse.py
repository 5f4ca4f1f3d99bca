"""Bytes in, valid structs out; everything else is a `ProtocolError` with a reason code and the path of the field.

msgspec validates while it decodes and stops at the first fault; this module turns its words into the project's codes.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from protocol.errors import ProtocolError
from protocol.reasons import Reason

T = TypeVar("T")

_AT: Final = re.compile(r" - at (?:`key` in )?`(?P<path>\$[^`]*)`$")
_CODED: Final = re.compile(r"^(?P<code>[a-z]+(?:-[a-z]+)+): (?P<text>.*)$", re.DOTALL)
_NAME: Final = 64
_DETAIL: Final = 300
"""Characters of a peer's own words, such as the name of an unknown field, that a refusal repeats."""
_CODES: Final = {reason.value: reason for reason in Reason}


def _classify(text: str) -> Reason:
    if "unknown field" in text:
        return Reason.UNKNOWN_FIELD
    if "missing required field" in text:
        return Reason.MISSING_FIELD
    if text.startswith(("Invalid enum value", "Invalid value")):
        return Reason.UNKNOWN_VALUE
    if " of length " in text or re.search(r"Expected `(?:int|float)` [<>]", text) or "out of range" in text:
        return Reason.OUT_OF_RANGE
    if " matching regex " in text or "timezone" in text or text.startswith("Invalid"):
        return Reason.INVALID_VALUE
    return Reason.WRONG_TYPE


def _named(text: str) -> str:
    """The field in backquotes, for paths: msgspec reports the object that misses or does not know it."""
    match = re.search(r"field `([^`]+)`", text)
    # A NUL is a character that not every database can hold, and paths are kept.
    return f".{match.group(1)[:_NAME]}".replace("\0", "\ufffd") if match else ""


def refusal(exc: Exception, at: str = "$") -> ProtocolError:
    """Turn a decoding error into a refusal; `at` is the path of the document within a larger one."""
    if isinstance(exc, RecursionError):
        return ProtocolError(Reason.TOO_LARGE, at, "nested too deeply")
    if not isinstance(exc, msgspec.ValidationError):
        return ProtocolError(Reason.NOT_JSON, at, "the document is not valid JSON in UTF-8")
    text = str(exc)
    path = at
    if found := _AT.search(text):
        path = at + found["path"][1:]
        text = text[: found.start()]
    if coded := _CODED.match(text):
        reason = _CODES.get(coded["code"])
        if reason is not None:
            return ProtocolError(reason, path, coded["text"][:_DETAIL])
    reason = _classify(text)
    if reason in (Reason.UNKNOWN_FIELD, Reason.MISSING_FIELD):
        path += _named(text)
    if reason is Reason.UNKNOWN_VALUE:
        text = "not one of the listed values"
    return ProtocolError(reason, path, text[:_DETAIL])


def decode(decoder: msgspec.json.Decoder[T], data: bytes | str, at: str = "$") -> T:
    """Decode and validate, or raise `ProtocolError`."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise refusal(exc, at) from exc


def convert(value: Any, kind: type[T], at: str = "$") -> T:
    """Validate already decoded JSON against a type, or raise `ProtocolError`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise refusal(exc, at) from exc
