"""Makes a region, admits members, suspends them: files only; a running broker follows within a second or two.

Guarantees: never overwrites a key or a member; nothing secret goes into an invitation. Refuses a member whose id,
jurisdiction or keys do not hold together with the region's.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from broker.accounts import Accounts
from broker.config import Config, load_config
from broker.members import load_region, load_state
from protocol.errors import ConfigError, ProtocolError
from protocol.invitation import Invitation, save_invitation
from protocol.keys import KeyRecord, SigningKey
from protocol.parse import decode
from protocol.policy import load_policy
from protocol.registry import Member, Region, Registry, sign_region

KEY_LIFE: Final = timedelta(days=730)
_records: Final = msgspec.json.Decoder(list[KeyRecord])
_member: Final = msgspec.json.Decoder(Member)

_BROKER_TOML: Final = """\
# The broker of the region {region}. Paths are relative to this file.

data = "data"        # ledger (must survive, back it up) and bus store (may be lost)
keys = "keys"        # private keys, mode 0400
region = "."         # region.toml, members/ and policies/

[http]               # coordinators and monitoring
host = "127.0.0.1"
port = {http_port}

[[token]]            # the SHA-256 of a bearer token; `kentongan broker init` showed the token itself once
name = "coordinator"
sha256 = "{token}"

[nats]               # mode = "external" uses a NATS server of your own: url, creds, ca_file
mode = "embedded"
host = "{host}"
port = {nats_port}
"""

_REGION_TOML: Final = """\
# Members stand in members/*.json (`kentongan broker admit`), their sharing policies in policies/*.toml.

region = "{region}"

# [[group]]
# id = "00000000-0000-4000-8000-000000000000"
# name = "aviation"
# jurisdictions = ["jp", "sg"]

# Rules can ask for an agreement: when.agreement = ["mutual-aid-2026"]
# [[agreement]]
# id = "mutual-aid-2026"
# title = "Mutual aid in cyber incidents"
# parties = ["jp", "sg"]
# effective_from = 2026-01-01T00:00:00Z
# effective_until = 2031-01-01T00:00:00Z
"""


def load_records(config: Config) -> list[KeyRecord]:
    """The public records of the broker's keys, without touching a private one. ConfigError if they are not there."""
    path = config.keys / "broker.json"
    try:
        return decode(_records, path.read_bytes())
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} is missing: it lists the broker's public keys") from exc
    except ProtocolError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def load_keys(config: Config) -> tuple[SigningKey, list[KeyRecord]]:
    """The broker's signing key and its public records. ConfigError if they do not belong together."""
    signer = SigningKey.load(config.keys / "signing.pem")
    records = load_records(config)
    if all(record.kid != signer.kid for record in records):
        raise ConfigError(f"{config.keys / 'broker.json'} does not list the key {signer.kid} of signing.pem")
    return signer, records


def init(
    directory: Path, region: str, *, host: str = "127.0.0.1", http_port: int = 8480, nats_port: int = 4222
) -> tuple[str, str]:
    """Make a region in an empty directory.

    Returns:
        the coordinator's token, which is stored nowhere, and the id of the broker's signing key.
    """
    if (directory / "broker.toml").exists():
        raise ConfigError(f"{directory} holds a broker already")
    now = datetime.now(UTC).replace(microsecond=0)
    key = SigningKey.from_seed(secrets.token_bytes(32))
    key.save(directory / "keys" / "signing.pem")
    record = key.record(now - timedelta(hours=1), now + KEY_LIFE)
    (directory / "keys" / "broker.json").write_bytes(msgspec.json.format(msgspec.json.encode([record])))
    Accounts.create(directory / "keys" / "nats")
    for name, mode in (("members", 0o755), ("policies", 0o755), ("data", 0o700)):
        (directory / name).mkdir(mode=mode)
    token = secrets.token_urlsafe(32)
    (directory / "region.toml").write_text(_REGION_TOML.format(region=region), "utf-8")
    (directory / "broker.toml").write_text(
        _BROKER_TOML.format(
            region=region,
            http_port=http_port,
            nats_port=nats_port,
            host=host,
            token=hashlib.sha256(token.encode()).hexdigest(),
        ),
        "utf-8",
    )
    return token, key.kid


def admit(directory: Path, member_file: Path, policies: list[Path], out: Path | None) -> Member:
    """Admit a member from the file that its `kentongan node init` wrote.

    Args:
        policies: the member's sharing policies.
        out: where to write the invitation; None for a member without a node (a coordinator).

    Raises:
        ConfigError: what does not hold.
    """
    config = load_config(directory)
    signer, records = load_keys(config)
    try:
        member = decode(_member, member_file.read_bytes())
    except FileNotFoundError as exc:
        raise ConfigError(f"{member_file} is missing") from exc
    except ProtocolError as exc:
        raise ConfigError(f"{member_file}: {exc.detail} ({exc.reason.value} at {exc.path})") from exc
    place = config.region / "members" / f"{member.id}.json"
    if place.exists():
        raise ConfigError(f"{member.id} is a member already: {place}")
    region = load_region(config.region, records)
    Registry(msgspec.structs.replace(region, members=[*region.members, member]))
    texts = _policy_files(config, member, policies)
    if out is not None:
        _check_invitable(config, member)
    for target, text in texts.items():
        target.write_text(text, "utf-8")
    place.write_bytes(msgspec.json.format(msgspec.json.encode(member)))
    if out is not None:
        _invite(config, signer, records, member, out)
    return member


def _policy_files(config: Config, member: Member, policies: list[Path]) -> dict[Path, str]:
    """Where the member's policies go; a version that is there already must say the same."""
    found: dict[Path, str] = {}
    for path in policies:
        text = path.read_text("utf-8")
        policy = load_policy(text, path.name)
        if policy.jurisdiction != member.jurisdiction:
            raise ConfigError(f"{path.name} is the policy of {policy.jurisdiction}, not of {member.jurisdiction}")
        target = config.region / "policies" / f"{policy.jurisdiction}-{policy.version}.toml"
        if target.exists() and target.read_text("utf-8") != text:
            raise ConfigError(f"{target} exists and says something else: raise the version in {path.name}")
        found[target] = text
    return found


def _check_invitable(config: Config, member: Member) -> None:
    if member.transport is None:
        raise ConfigError(f"{member.id} has no transport key: its file must come from `kentongan node init`")
    if config.nats.mode != "embedded":
        raise ConfigError("with an external NATS server, its operator makes the member's credentials")
    if not config.nats.public_url and not config.nats.port:
        raise ConfigError("broker.toml: [nats] needs a port (or a public_url) that members can be told")


def _invite(config: Config, signer: SigningKey, records: list[KeyRecord], member: Member, out: Path) -> None:
    now = datetime.now(UTC)
    region: Region = load_region(config.region, records)
    save_invitation(
        out,
        Invitation(
            member=member.id,
            url=config.nats.public_url or f"nats://{config.nats.host}:{config.nats.port}",
            user_jwt=Accounts.load(config.keys / "nats").issue_user(
                member.id, member.transport or "", int(time.time())
            ),
            broker_keys=records,
            region=sign_region(region, signer, now),
        ),
    )


def set_status(directory: Path, member_id: str, status: str) -> None:
    """Suspend or resume a member; a running broker cuts it off, or lets it back in, within a second or two."""
    config = load_config(directory)
    path = config.region / "members" / f"{member_id}.json"
    try:
        member = decode(_member, path.read_bytes())
    except FileNotFoundError as exc:
        raise ConfigError(f"no member {member_id}: {path} is missing") from exc
    changed = msgspec.structs.replace(member, status="active" if status == "active" else "suspended")
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(changed)))
    temporary.replace(path)
    load_state(config.region, load_keys(config)[1])
