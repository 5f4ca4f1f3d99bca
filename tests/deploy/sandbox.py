"""Runs a command as a unit of systemd would be confined, as far as that can be done without systemd.

    sandbox.py UNIT COMMAND ...

Takes from the unit: the filter of system calls and what it answers, address families, memory that is never both written
and executed, no new privileges, umask, and the empty set of capabilities. Sets of system calls are those that
`systemd-analyze` lists. Refuses to run the command if anything of it cannot be done.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ALLOW = 0x7FFF0000
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
LAST_FAMILY = 45
EQUAL = 4
SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
SET_NO_NEW_PRIVS = 38
CAPBSET_DROP = 24


class Comparison(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def settings(unit: Path) -> dict[str, list[str]]:
    """The section [Service]: every setting with its values in order."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in unit.read_text("utf-8").splitlines():
        if line.startswith("["):
            inside = line == "[Service]"
        elif inside and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def calls(group: str) -> set[str]:
    """The system calls of a group, with those of the groups in it."""
    if not group.startswith("@"):
        return {group}
    listed = subprocess.run(
        ["/usr/bin/systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True
    ).stdout
    names = [line.strip() for line in listed.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return set().union(*(calls(name) for name in names))


def allowed(filters: Iterable[str]) -> set[str]:
    """What a list of SystemCallFilter= lines leaves."""
    found: set[str] = set()
    for line in filters:
        named = set().union(*(calls(name) for name in line.removeprefix("~").split()))
        found = found - named if line.startswith("~") else found | named
    # As systemd does: what it takes to start and end a process is never refused.
    return found | {"execve", "exit", "exit_group", "rt_sigreturn", "getrlimit", "brk", "mmap", "mprotect", "close"}


def check(answer: int, what: str) -> int:
    """Negative answers are failures."""
    if answer < 0:
        raise SystemExit(f"{what}: {os.strerror(-answer)}")
    return answer


def shut(unit: dict[str, list[str]]) -> None:
    """Apply to this process what the unit says."""
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    refusal = 0x00050000 | getattr(errno, unit["SystemCallErrorNumber"][0])
    filters = ctypes.c_void_p(seccomp.seccomp_init(refusal))
    for name in sorted(allowed(unit["SystemCallFilter"])):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            check(seccomp.seccomp_rule_add_array(filters, ALLOW, number, 0, None), name)
    sockets = ctypes.c_void_p(seccomp.seccomp_init(ALLOW))
    socket = seccomp.seccomp_syscall_resolve_name(b"socket")
    taken = {FAMILIES[name] for name in unit["RestrictAddressFamilies"][0].split()}
    for family in set(range(LAST_FAMILY + 1)) - taken:
        same = Comparison(0, EQUAL, family, 0)
        answer = 0x00050000 | errno.EAFNOSUPPORT
        check(seccomp.seccomp_rule_add_array(sockets, answer, socket, 1, ctypes.byref(same)), "socket")
    assert unit["CapabilityBoundingSet"] == [""]
    if os.geteuid() == 0:
        for capability in range(41):
            libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    assert unit["MemoryDenyWriteExecute"] == ["yes"]
    check(libc.prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0), "memory")
    assert unit["NoNewPrivileges"] == ["yes"]
    check(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "privileges")
    os.umask(int(unit["UMask"][0], 8))
    check(seccomp.seccomp_load(sockets), "address families")
    check(seccomp.seccomp_load(filters), "system calls")


if __name__ == "__main__":
    shut(settings(Path(sys.argv[1])))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command of a test, as it was given
