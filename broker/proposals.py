"""Changes of the region, from the proposal to the record: for the operator's commands. Files only.

Guarantees: nothing is recorded without the signatures that it needs; where the operator's own trustee key is enough,
one step does it all; where it is not, a proposal is left that says what is asked. Never overwrites a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from broker.config import Config
from broker.governing import append, chain_files, load_chain
from protocol.chain import weigh
from protocol.enact import State
from protocol.errors import ConfigError, ProtocolError
from protocol.governance import Act, Found, Record, Signed, Trustee, draft, merge_records, open_record, sign_record
from protocol.keys import ED25519, KeyRecord, SigningKey
from protocol.parse import convert
from protocol.process import read_toml
from protocol.reasons import Reason

TRUSTEE_KEY: Final = "trustee.pem"
TRUSTEE_FILE: Final = "trustee.json"
SIGNING_KEY: Final = "signing.pem"
PROPOSALS: Final = "proposals"
TRUSTEE_LIFE: Final = timedelta(days=3650)
LOCAL: Final = "operator"
"""The id of the trustee that a region has whose founding named none."""
_LACKING: Final = frozenset({Reason.TOO_FEW_SIGNATURES, Reason.NOT_A_TRUSTEE, Reason.KEY_NOT_VALID, Reason.KEY_REVOKED})
T = TypeVar("T")


def _now() -> datetime:
    return datetime.now(UTC)


def read_document(path: Path, kind: type[T]) -> T:
    """A JSON or TOML file as a struct. ConfigError with the path of the fault."""
    try:
        toml = path.suffix == ".toml"
        return convert(read_toml(path, "an editor") if toml else msgspec.json.decode(path.read_bytes()), kind)
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} is missing") from exc
    except ProtocolError as exc:
        raise ConfigError(f"{path}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc
    except (msgspec.DecodeError, UnicodeError, OSError) as exc:
        raise ConfigError(f"{path} cannot be read as JSON") from exc


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet. ConfigError if it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError as exc:
        raise ConfigError(f"{path} exists and is never overwritten: move it away first") from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc


# --- trustees ---------------------------------------------------------------------------------------------------


def make_trustee(key_file: Path, trustee_id: str, name: str, algorithm: str = ED25519) -> Trustee:
    """A new key of a trustee, saved, and the trustee's public entry."""
    now = _now().replace(microsecond=0)
    key = SigningKey.generate(algorithm)
    record = key.record(now - timedelta(hours=1), now + TRUSTEE_LIFE)
    try:
        trustee = convert({"id": trustee_id, "name": name, "key": msgspec.to_builtins(record)}, Trustee)
    except ProtocolError as exc:
        raise ConfigError(f"--{exc.path.removeprefix('$.')}: {exc.detail}") from exc
    key.save(key_file)
    return trustee


def approve(data: bytes, key: SigningKey) -> bytes:
    """Add a trustee's signature to a proposal.

    Raises:
        ConfigError: it is no proposal, or a founding that does not name this trustee.
    """
    try:
        act = open_record(data).record.act
        if isinstance(act, Found) and key.kid not in {one.key.kid for one in act.trustees}:
            raise ConfigError(f"this founding does not list the key {key.kid} as a trustee's")
        return sign_record(data, key)
    except ProtocolError as exc:
        raise refused(exc) from exc


def refused(exc: ProtocolError) -> ConfigError:
    """A refusal, for an operator."""
    return ConfigError(f"refused: {exc.detail} ({exc.reason.value} at {exc.path})")


# --- from the proposal to the record ----------------------------------------------------------------------------


def found_region(region: str, trustees: Sequence[Trustee], threshold: int, broker_keys: list[KeyRecord]) -> bytes:
    """The founding record of a region, without signatures."""
    act = Found(trustees=list(trustees), threshold=threshold, broker_keys=broker_keys)
    record = Record(region=region, number=0, previous="", at=_now().replace(microsecond=0), act=act)
    return draft(record)


def propose(state: State, act: Act) -> bytes:
    """The next record of a region, without signatures."""
    at = max(_now().replace(microsecond=0), state.at)
    number = state.head.number + 1
    return draft(Record(region=state.region.region, number=number, previous=state.head.digest, at=at, act=act))


def record(config: Config, copies: Sequence[bytes]) -> Signed:
    """Take a proposal into the chain; a running broker follows within a second.

    Args:
        copies: the proposal, or copies of it that different trustees signed.

    Raises:
        ConfigError: why it is not taken.
    """
    try:
        return append(config.region, merge_records(copies), _now(), lambda: SigningKey.load(config.keys / SIGNING_KEY))
    except ProtocolError as exc:
        raise refused(exc) from exc


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an operator's wish."""

    signed: Signed
    proposal: Path | None = None
    """Where it waits for more signatures; None if it is recorded."""
    missing: int = 0
    """How many trustees still have to sign."""
    trustees: tuple[Trustee, ...] = ()


def decide(config: Config, act: Act) -> Outcome:
    """Propose, sign with the operator's own trustee key if there is one, and record; or leave a proposal.

    Raises:
        ConfigError: it could not be recorded whoever signs.
    """
    state = load_chain(config.region, _now()).state
    data = propose(state, act)
    key_file = config.keys / TRUSTEE_KEY
    if key_file.exists():
        data = sign_record(data, SigningKey.load(key_file))
    try:
        weigh(state, open_record(data), _now())
    except ProtocolError as exc:
        if exc.reason not in _LACKING or exc.path != "$.signatures":
            raise refused(exc) from exc
        signed = open_record(data)
        path = config.region / PROPOSALS / f"{signed.record.number:06}-{act_name(act)}-{signed.digest[:8]}.json"
        write_new(path, data)
        kids = {parts.kid for parts in signed.signatures}
        have = sum(one.key.kid in kids for one in state.trustees)
        return Outcome(signed, path, state.threshold - have, state.trustees)
    return Outcome(record(config, [data]))


def act_name(act: Act) -> str:
    """The word that stands for an act in a record."""
    return str(act.__struct_config__.tag)


def is_founded(config: Config) -> bool:
    """Whether the region has begun."""
    return bool(chain_files(config.region))
