"""Who may say and hear what on the region's bus: one NATS account for the broker, one for each member.

Guarantees, by construction of the claims, that a member can only publish to its own intake, read its own inbox and call
the region's services; the name under which the broker sees it is inserted by the account and cannot be forged. Refuses
to load keys that others on this machine can read. A member's own connection key is made by its node; only the public
half ever comes here.

Only the operator key signs account claims, so a member cannot add imports to its account: exports need no tokens.
Claims depend on the keys and the arguments alone. `now` is in seconds since 1970; the server takes the newer claim.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from protocol import limits, subjects
from protocol.errors import ConfigError
from protocol.natsauth import SEED_ENTROPY, Role, create_seed, format_creds, is_public, public_of, sign_claims

MEMBER_CONNECTIONS: Final = 16
"""A node, its commands, and connections that the server has not yet seen end."""
MEMBER_SUBSCRIPTIONS: Final = 256

_MEMBER: Final = "member-"
_UNLIMITED: Final = -1
# Every user claim issued up to the last second of the year 9999.
_ALL_REVOKED: Final[Mapping[str, int]] = {"*": 253_402_300_799}
# The operator comes last: its presence says that the others were all written.
_KEYS: Final = (
    ("system", Role.ACCOUNT),
    ("system-user", Role.USER),
    ("broker", Role.ACCOUNT),
    ("broker-user", Role.USER),
    ("operator", Role.OPERATOR),
)


class Accounts:
    """The keys of the region's bus and the claims made with them."""

    def __init__(self, directory: Path, rand: Callable[[int], bytes], seeds: Mapping[str, str]) -> None:
        self._directory = directory
        self._rand = rand
        self._seeds = dict(seeds)

    @classmethod
    def create(cls, directory: Path, rand: Callable[[int], bytes] = os.urandom) -> Accounts:
        """Make the keys under `directory`, each in a file of mode 0400, and return them loaded.

        Keys are never overwritten: a directory that already holds a full set is a `ConfigError`, one that an
        interrupted run left half filled is completed.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _path(directory, "operator").exists():
            raise ConfigError(f"{directory} already holds the keys of a bus; they are not overwritten")
        for name, role in _KEYS:
            if not _path(directory, name).exists():
                _write_new(_path(directory, name), create_seed(role, rand(SEED_ENTROPY)))
        return cls.load(directory, rand)

    @classmethod
    def load(cls, directory: Path, rand: Callable[[int], bytes] = os.urandom) -> Accounts:
        """Load the keys that `create` made; `rand` makes the account keys of members to come."""
        return cls(directory, rand, {name: _read(_path(directory, name), role) for name, role in _KEYS})

    def renew(self, until: int) -> int:
        """Make new keys in place of all; the members' old accounts count beside the new ones until then.

        What runs with the old keys goes on with them: the new ones count from the next start on, all at once.

        Args:
            until: seconds since 1970.

        Returns:
            how many members have an account.
        """
        members = self.members_ever()
        fresh = [(name, role) for name, role in _KEYS] + [(f"{_MEMBER}{one}", Role.ACCOUNT) for one in sorted(members)]
        for name, role in fresh:
            path = _path(self._directory, name)
            kept = _path(self._directory, f"{name}.until-{until}")
            if name.startswith(_MEMBER) and not kept.exists():
                os.link(path, kept)
            draft = path.with_suffix(".next")
            draft.unlink(missing_ok=True)
            _write_new(draft, create_seed(role, self._rand(SEED_ENTROPY)))
            draft.replace(path)
        return len(members)

    def publics(self) -> list[tuple[str, str, str, float]]:
        """All keys: operator, account or user, whose, the public key, and when it was made (seconds since 1970)."""
        roles = {**dict(_KEYS), **{f"{_MEMBER}{one}": Role.ACCOUNT for one in self.members_ever()}}
        return [
            (role.name.lower(), name, public_of(_read(path, role), role), path.stat().st_mtime)
            for name, role in sorted(roles.items())
            if (path := _path(self._directory, name))
        ]

    def former(self) -> list[tuple[str, str, int]]:
        """Accounts that members had before: the member, the account's public key, and until when it counts."""
        found = []
        for path in sorted(self._directory.glob(f"{_MEMBER}*.until-*.nk")):
            member, _, until = path.stem.removeprefix(_MEMBER).partition(".until-")
            if until.isdigit():
                found.append((member, public_of(_read(path, Role.ACCOUNT), Role.ACCOUNT), int(until)))
        return found

    @property
    def operator_public(self) -> str:
        return public_of(self._seeds["operator"], Role.OPERATOR)

    @property
    def system_account(self) -> str:
        """Public key of the account in which the server itself answers."""
        return public_of(self._seeds["system"], Role.ACCOUNT)

    @property
    def broker_account(self) -> str:
        """Public key of the account that holds the streams."""
        return public_of(self._seeds["broker"], Role.ACCOUNT)

    def member_account(self, member: str) -> str:
        """Public key of a member's account; makes the account key when it is asked for the first time."""
        return public_of(self._member_seed(member), Role.ACCOUNT)

    def members_ever(self) -> set[str]:
        """Whoever has an account key here, members that left included."""
        names = (path.stem.removeprefix(_MEMBER) for path in self._directory.glob(f"{_MEMBER}*.nk"))
        return {name for name in names if subjects.is_member_id(name)}

    def operator_jwt(self, now: int) -> str:
        """Claim of the operator about itself, for the server's configuration."""
        nats = {"type": "operator", "version": 2, "system_account": self.system_account}
        return sign_claims(self._seeds["operator"], self.operator_public, "kentongan", nats, now)

    def system_account_jwt(self, now: int) -> str:
        """Claim about the system account: no streams, nobody's but the server's and ours."""
        return self._account_jwt("SYS", self.system_account, _limits(exports=_UNLIMITED), now)

    def broker_account_jwt(self, members: Iterable[str], now: int) -> str:
        """Claim about the broker's account, with what it exports to each of `members`."""
        storage = {"mem_storage": _UNLIMITED, "disk_storage": _UNLIMITED, "streams": _UNLIMITED, "consumer": _UNLIMITED}
        exports = [export for member in sorted(set(members)) for export in _exports(member)]
        return self._account_jwt(
            "BROKER", self.broker_account, _limits(exports=_UNLIMITED, storage=storage), now, exports=exports
        )

    def member_account_jwt(
        self,
        member: str,
        now: int,
        *,
        revoked: bool = False,
        retired: Mapping[str, int] | None = None,
        account: str | None = None,
    ) -> str:
        """Claim about a member's account.

        Args:
            account: its public key, if it is one that the member had before.
            retired: user keys that open no connection any more, and since when.

        With `revoked` the account may hold no connection, imports nothing, and refuses every user claim, those still
        to be issued included: three independent reasons to be cut off at once. A later claim without it restores the
        same users.
        """
        limits_ = _limits(
            subs=MEMBER_SUBSCRIPTIONS,
            payload=limits.BUS_MESSAGE,
            imports=16,
            conn=0 if revoked else MEMBER_CONNECTIONS,
            leaf=0,
        )
        return self._account_jwt(
            subjects.account(member),
            account or self.member_account(member),
            limits_,
            now,
            imports=[] if revoked else _imports(member, self.broker_account),
            revocations=_ALL_REVOKED if revoked else retired or {},
        )

    def closed_account_jwt(self, account: str, now: int) -> str:
        """Claim that shuts the account of a member that left, named by its public key."""
        return self._account_jwt("closed", account, _limits(conn=0), now, revocations=_ALL_REVOKED)

    def issue_user(self, member: str, user_public: str, now: int) -> str:
        """Admit a node's connection key ("U...") to its member's account, with only the rights a node needs."""
        if not is_public(user_public, Role.USER):
            raise ConfigError("the connection key must be the public part of a NATS user key, U...")
        stream = subjects.inbox_stream(member)
        nats = _user(
            pub=[
                subjects.INTAKE,
                subjects.RPC_ALL,
                subjects.next_message(stream, subjects.NODE_CONSUMER),
                subjects.consumer_info(stream, subjects.NODE_CONSUMER),
                subjects.acks(stream, subjects.NODE_CONSUMER),
            ],
            sub=[f"{subjects.INBOXES}.>"],
        )
        return sign_claims(self._member_seed(member), user_public, f"{member}-node", nats, now)

    def broker_creds(self, now: int) -> str:
        """Text of the broker's own credentials file; a secret."""
        return self._creds("broker", now)

    def system_creds(self, now: int) -> str:
        """Text of the credentials that may push account claims; a secret."""
        return self._creds("system", now)

    def _creds(self, name: str, now: int) -> str:
        seed = self._seeds[f"{name}-user"]
        jwt = sign_claims(self._seeds[name], public_of(seed, Role.USER), name, _user(), now)
        return format_creds(jwt, seed)

    def _account_jwt(
        self,
        name: str,
        public: str,
        limits_: Mapping[str, Any],
        now: int,
        *,
        exports: list[dict[str, Any]] | None = None,
        imports: list[dict[str, Any]] | None = None,
        revocations: Mapping[str, int] | None = None,
    ) -> str:
        grants = {"exports": exports, "imports": imports, "revocations": revocations}
        nats = {"type": "account", "version": 2, "limits": limits_} | {key: v for key, v in grants.items() if v}
        return sign_claims(self._seeds["operator"], public, name, nats, now)

    def _member_seed(self, member: str) -> str:
        name = f"{_MEMBER}{subjects.check_member(member)}"
        if name not in self._seeds:
            path = _path(self._directory, name)
            if not path.exists():
                _write_new(path, create_seed(Role.ACCOUNT, self._rand(SEED_ENTROPY)))
            self._seeds[name] = _read(path, Role.ACCOUNT)
        return self._seeds[name]


def _exports(member: str) -> list[dict[str, Any]]:
    stream, consumer = subjects.inbox_stream(member), subjects.NODE_CONSUMER
    return [
        _service("intake", member, subjects.intake(member)),
        _service("next", member, subjects.next_message(stream, consumer)) | {"response_type": "Stream"},
        _service("ack", member, subjects.acks(stream, consumer)),
        _service("info", member, subjects.consumer_info(stream, consumer)),
        _service("rpc", member, subjects.rpc_all_from(member)),
    ]


def _imports(member: str, broker_account: str) -> list[dict[str, Any]]:
    # The member's view of a subject, where it differs: here the account inserts the member's name.
    local = {"intake": subjects.INTAKE, "rpc": subjects.RPC_ALL}
    imports = []
    for export in _exports(member):
        use = export["name"].partition(" ")[0]
        imported = {"name": use, "subject": export["subject"], "account": broker_account, "type": "service"}
        imports.append(imported | ({"local_subject": local[use]} if use in local else {}))
    return imports


def _service(use: str, member: str, subject: str) -> dict[str, Any]:
    return {"name": f"{use} {member}", "subject": subject, "type": "service"}


def _limits(
    *,
    subs: int = _UNLIMITED,
    payload: int = _UNLIMITED,
    imports: int = 0,
    exports: int = 0,
    conn: int = _UNLIMITED,
    leaf: int = 0,
    storage: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    return {
        "subs": subs,
        "data": _UNLIMITED,
        "payload": payload,
        "imports": imports,
        "exports": exports,
        "wildcards": True,
        "disallow_bearer": True,
        "conn": conn,
        "leaf": leaf,
        **(storage or {}),
    }


def _user(pub: list[str] | None = None, sub: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "user",
        "version": 2,
        "pub": {"allow": pub} if pub else {},
        "sub": {"allow": sub} if sub else {},
        "subs": _UNLIMITED,
        "data": _UNLIMITED,
        "payload": _UNLIMITED,
        "allowed_connection_types": ["STANDARD"],
    }


def _path(directory: Path, name: str) -> Path:
    return directory / f"{name}.nk"


def _read(path: Path, role: Role) -> str:
    try:
        mode = path.stat().st_mode
        seed = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read the bus key {path}: restore it from the backup, or create new keys") from exc
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"the bus key {path} is open to other users of this machine: chmod 0400 it, or replace it")
    public_of(seed, role)
    return seed


def _write_new(path: Path, seed: str) -> None:
    # Written whole under another name and then linked: a crash leaves a full key or none, and linking never overwrites.
    draft = path.with_suffix(".tmp")
    with suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(seed + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.link(draft, path)
    draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
