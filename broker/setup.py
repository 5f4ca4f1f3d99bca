"""Makes a region, admits members, suspends them: files only; a running broker follows within a second.

Guarantees: never overwrites a key or a record; nothing secret goes into an invitation; what the trustees have not
signed changes nothing (`broker/proposals.py`). Refuses a member whose id, jurisdiction or keys do not hold together
with the region's.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from broker import bustls
from broker.accounts import Accounts
from broker.config import Config, load_config
from broker.governing import append, load_chain, shown_to
from broker.members import load_region, load_registry
from broker.proposals import (
    LOCAL,
    PROPOSALS,
    TRUSTEE_KEY,
    Outcome,
    decide,
    found_region,
    make_trustee,
    read_document,
    write_new,
)
from broker.renewal import current_key
from protocol.errors import ConfigError, ProtocolError
from protocol.governance import Admit, Resume, Suspend, Trustee, sign_record
from protocol.invitation import Invitation, save_invitation
from protocol.keys import KeyRecord, SigningKey
from protocol.parse import decode
from protocol.policy import load_policy
from protocol.registry import Member, sign_region

KEY_LIFE: Final = timedelta(days=730)
FOUNDING: Final = f"{PROPOSALS}/000000-found.json"
"""Where a founding waits for its trustees."""
_records: Final = msgspec.json.Decoder(list[KeyRecord])

_BROKER_TOML: Final = """\
# The broker of the region {region}. Paths are relative to this file.

data = "data"        # ledger (must survive, back it up) and bus store (may be lost)
keys = "keys"        # private keys, mode 0400
region = "."         # governance/ (who is in the region, signed by its trustees) and policies/

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


_TLS_TOML: Final = """\
tls_cert = "keys/tls/server.pem"   # `kentongan broker rotate DIR --tls` makes another one
tls_key = "keys/tls/server.key"
ca_file = "keys/tls/ca.pem"        # members believe this one, from their invitation
client_ca = "keys/tls/ca.pem"      # and are let in only with a certificate of it
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
    signer = current_key(config, load_chain(config.region, datetime.now(UTC)).state.region)
    records = load_records(config)
    if all(record.kid != signer.kid for record in records):
        raise ConfigError(f"{config.keys / 'broker.json'} does not list the key {signer.kid} of signing.pem")
    return signer, records


def init(
    directory: Path,
    region: str,
    *,
    host: str = "127.0.0.1",
    http_port: int = 8480,
    nats_port: int = 4222,
    trustees: Sequence[Trustee] = (),
    threshold: int = 1,
    tls: bool | None = None,
    tls_names: Sequence[str] = (),
) -> tuple[str, str]:
    """Make a region in an empty directory.

    Args:
        trustees: who decides from now on; without any, this operator alone, with a key in `keys/`.
        threshold: how many of them it takes. They have yet to sign `FOUNDING`.
        tls: whether the bus is encrypted; by default it is, unless it is reached from this machine alone.
        tls_names: further names and addresses under which members reach it.

    Returns:
        the coordinator's token, which is stored nowhere, and the id of the broker's signing key.

    Raises:
        ConfigError: what is there already, or does not hold.
    """
    if (directory / "broker.toml").exists():
        raise ConfigError(f"{directory} holds a broker already")
    if not 1 <= threshold <= max(1, len(trustees)):
        raise ConfigError(f"--threshold: there are {len(trustees)} trustees")
    now = datetime.now(UTC).replace(microsecond=0)
    key = SigningKey.generate()
    key.save(directory / "keys" / "signing.pem")
    record = key.record(now - timedelta(hours=1), now + KEY_LIFE)
    (directory / "keys" / "broker.json").write_bytes(msgspec.json.format(msgspec.json.encode([record])))
    Accounts.create(directory / "keys" / "nats")
    tls = not bustls.is_local(host) if tls is None else tls
    if tls:
        bustls.make(directory / "keys", region, bustls.names_for(host, tls_names), now)
    for name, mode in (("policies", 0o755), ("data", 0o700)):
        (directory / name).mkdir(mode=mode)
    local = not trustees
    if local:
        key_file = directory / "keys" / TRUSTEE_KEY
        trustees = [make_trustee(key_file, LOCAL, f"Operator of {region}"[:100])]
    founding = found_region(region, trustees, threshold, [record])
    if local:
        append(directory, sign_record(founding, SigningKey.load(key_file)), datetime.now(UTC), lambda: key)
    else:
        write_new(directory / FOUNDING, founding)
    token = secrets.token_urlsafe(32)
    (directory / "broker.toml").write_text(
        _BROKER_TOML.format(
            region=region,
            http_port=http_port,
            nats_port=nats_port,
            host=host,
            token=hashlib.sha256(token.encode()).hexdigest(),
        )
        + (_TLS_TOML if tls else ""),
        "utf-8",
    )
    return token, key.kid


def admit(
    directory: Path, member_file: Path, policies: list[Path], out: Path | None, seen_by: list[str] | None = None
) -> Outcome:
    """Admit a member from the file that its `kentongan node init` wrote, or propose it to the trustees.

    Args:
        policies: the member's sharing policies.
        out: where to write the invitation; None for a member without a node (a coordinator).
        seen_by: of a hidden member, those that see it.

    Raises:
        ConfigError: what does not hold.
    """
    config = load_config(directory)
    load_keys(config)
    member = msgspec.structs.replace(read_document(member_file, Member), hidden=seen_by is not None)
    texts = _policy_files(config, member, policies)
    if out is not None:
        _check_invitable(config, member)
    outcome = decide(config, Admit(member=member, seen_by=seen_by))
    if outcome.proposal is None:
        _write_policies(texts)
        if out is not None:
            _invite(config, member, out)
    return outcome


def invite(directory: Path, member_id: str, policies: list[Path], out: Path) -> None:
    """Write the invitation of a member that was admitted.

    Args:
        policies: its sharing policies, if they are not here yet.

    Raises:
        ConfigError: what does not hold.
    """
    config = load_config(directory)
    members = {member.id: member for member in load_region(config.region).members}
    member = members.get(member_id)
    if member is None:
        raise ConfigError(f"{member_id} is no member: `kentongan broker admit` first, and let the trustees sign")
    if out.exists():
        raise ConfigError(f"{out} exists and is never overwritten: move it away first")
    texts = _policy_files(config, member, policies)
    _check_invitable(config, member)
    _write_policies(texts)
    _invite(config, member, out)


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


def _write_policies(texts: dict[Path, str]) -> None:
    for target, text in texts.items():
        target.write_text(text, "utf-8")


def _check_invitable(config: Config, member: Member) -> None:
    if member.transport is None:
        raise ConfigError(f"{member.id} has no transport key: its file must come from `kentongan node init`")
    if config.nats.mode != "embedded":
        raise ConfigError("with an external NATS server, its operator makes the member's credentials")
    if not config.nats.public_url and not config.nats.port:
        raise ConfigError("broker.toml: [nats] needs a port (or a public_url) that members can be told")


def _invite(config: Config, member: Member, out: Path) -> None:
    scheme = "tls" if config.nats.tls_cert else "nats"
    url = config.nats.public_url or f"{scheme}://{config.nats.host}:{config.nats.port}"
    user = Accounts.load(config.keys / "nats").issue_user(member.id, member.transport or "", int(time.time()))
    made = invitation(config, member.id, url, user)
    certificate = bustls.certificate_for(config, member.id, member.transport or "", datetime.now(UTC))
    save_invitation(out, msgspec.structs.replace(made, ca=bustls.ca_text(config), certificate=certificate))


def invitation(config: Config, member_id: str, url: str, user_jwt: str) -> Invitation:
    """What a member's node needs: where to connect, and the region from its founding record on."""
    signer, records = load_keys(config)
    now = datetime.now(UTC)
    chain = load_chain(config.region, now)
    region = load_registry(config.region, chain, records).view(member_id).region
    member = chain.state.member(member_id)
    return Invitation(
        member=member_id,
        url=url,
        user_jwt=user_jwt,
        broker_keys=region.broker_keys,
        region=sign_region(region, chain.state.head, signer, now),
        genesis=chain.digests[0],
        governance=[shown_to(chain, number, data, member).decode("ascii") for number, data in enumerate(chain.records)],
    )


def set_status(directory: Path, member_id: str, status: str) -> Outcome:
    """Suspend or resume a member, or propose it; a running broker cuts it off, or lets it back in, within a second."""
    config = load_config(directory)
    act = Suspend(member=member_id) if status == "suspended" else Resume(member=member_id)
    return decide(config, act)
