"""`kentongan node keys …`, `rotate` and `revoke`: how long keys last, and new ones in their place.

Private keys are made here and never leave. Nothing is ever overwritten.
"""

from __future__ import annotations

import argparse
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from node import app, offline
from node.config import NATS_CREDS, Config, find_config, load_config
from node.keywatch import own_lives
from node.reading import open_reader
from node.renewal import KEY_LIFE, Wish, ask, load_signer
from node.store import Store
from node.trust import Trust
from protocol.errors import ConfigError, ProtocolError
from protocol.hsm import HsmKey
from protocol.invitation import load_invitation
from protocol.keylife import as_document, ending, parse_within, table
from protocol.keys import ALGORITHMS, KnownSigner, read_secret
from protocol.natsauth import Role, is_public, parse_creds, subject_of
from protocol.process import encode_toml_string
from protocol.registry import Member

TAKE_UP: Final = timedelta(seconds=60)
"""How long a stolen key of a connection still works: its member needs it to fetch the claim for the next one."""


def add_parsers(commands: Any) -> None:
    """Mount the commands about keys under `kentongan node`."""
    keys = commands.add_parser("keys", help="list the node's keys and how long they last")
    keys.add_argument("place", type=Path, metavar="DIR|node.toml")
    keys.add_argument("--within", default="30d", metavar="DAYS", help="end with 1 if one in use ends within (30d)")
    keys.add_argument("--json", action="store_true", help="a JSON object a line")
    keys.set_defaults(run=_keys)
    rotate = commands.add_parser("rotate", help="make new keys; the node uses each once the region lists it")
    rotate.add_argument("place", type=Path, metavar="DIR|node.toml")
    rotate.add_argument("--sealing", action="store_true", help="a new sealing key too")
    rotate.add_argument("--transport", action="store_true", help="a new key for the connection to the bus, only that")
    rotate.add_argument("--algorithm", choices=sorted(ALGORITHMS), help="of the signing key (default: as it is)")
    rotate.add_argument("--signing", metavar="URI", help="the new signing key in a token (pkcs11:…), made if need be")
    rotate.add_argument("--overlap", type=int, default=7, metavar="DAYS", help="how long the old key stays valid")
    rotate.add_argument(
        "--offline",
        type=Path,
        metavar="FILE",
        help="with --transport: the key is lost; write the member's signed record there, for the broker's operator",
    )
    rotate.add_argument("--invitation", type=Path, metavar="FILE", help="with --offline: a newer one, for its records")
    rotate.set_defaults(run=_rotate)
    revoke = commands.add_parser("revoke", help="a key was stolen or lost: it counts no more, from a time on")
    revoke.add_argument("place", type=Path, metavar="DIR|node.toml")
    revoke.add_argument("kid", help="its id; U… for the key of the connection")
    revoke.add_argument("--since", required=True, help="a time with a zone, such as 2026-03-31T08:00:00Z")
    revoke.set_defaults(run=_revoke)


def held_trust(config: Config, store: Store) -> Trust:
    """The region as the node last took it from its broker, or else from its invitation."""
    trust = Trust.invited(load_invitation(config.invitation), lambda: datetime.now(UTC))
    with store.read() as reads:
        records = [row.record for row in reads.governance()]
    with suppress(FileNotFoundError, ProtocolError):
        trust.update((config.data / app.REGION_FILE).read_bytes(), records)
    return trust


def _keys(args: argparse.Namespace) -> int:
    within = parse_within(args.within)
    config = load_config(find_config(args.place))
    now = datetime.now(UTC)
    signing = _present(config).kid
    lives = own_lives(_own(config), signing, config.keys, now)
    if args.json:
        for life in lives:
            print(msgspec.json.encode(as_document(life, now)).decode())
    else:
        for line in table(lives, now):
            print(line)
        if config.signing is not None:
            print(f"the signing key {signing} is in a token: {config.signing}")
    return 1 if ending(lives, now, within) else 0


def _own(config: Config) -> Member | None:
    """This member as the region lists it, as far as is known here."""
    return _held(config).registry.members.get(config.member)


def _held(config: Config) -> Trust:
    """The region, as far as is known here."""
    if not (config.data / "node.db").is_file() and config.store is None:
        return Trust.invited(load_invitation(config.invitation), lambda: datetime.now(UTC))
    with closing(open_reader(config.data, config.store)) as store:
        return held_trust(config, store)


def _rotate(args: argparse.Namespace) -> int:
    config = load_config(find_config(args.place))
    if not 1 <= args.overlap <= KEY_LIFE.days:
        raise ConfigError(f"--overlap is 1 to {KEY_LIFE.days} days")
    if args.offline is not None:
        return _rotate_offline(config, args)
    if args.signing is not None:
        return _rotate_into_token(config, args)
    if config.signing is not None and (args.algorithm is not None or not (args.sealing or args.transport)):
        raise ConfigError(
            "the signing key is in a token: name the new one, another object label, with "
            "`kentongan node rotate DIR --signing 'pkcs11:…'`"
        )
    signing = args.sealing or args.algorithm is not None or not args.transport
    wish = ask(
        config.keys,
        datetime.now(UTC),
        signing=signing and config.signing is None,
        present=_present(config),
        sealing=args.sealing,
        transport=args.transport,
        overlap_days=args.overlap,
        algorithm=args.algorithm,
    )
    return _wished(wish)


def _rotate_offline(config: Config, args: argparse.Namespace) -> int:
    """Without a connection: what the running node would offer goes out as a file."""
    if not args.transport or args.sealing or args.signing is not None or args.algorithm is not None:
        raise ConfigError("--offline goes with --transport alone")
    if args.offline.exists():
        raise ConfigError(f"{args.offline} exists and is never overwritten: move it away first")
    now = datetime.now(UTC)
    given = Trust.invited(load_invitation(args.invitation), lambda: now) if args.invitation else None
    trust = offline.newest(_held(config), given)
    public = offline.next_public(config.keys)
    signer = load_signer(config)
    data = offline.sign_transport(trust, config.member, public, signer, now)
    if isinstance(signer, HsmKey):
        signer.close()
    with args.offline.open("xb") as file:
        file.write(data)
    print(f"made the key for the connection {public}")
    number = trust.state.head.number + 1
    print(f"{args.offline} is record {number} of the region, signed: hand it to the broker's operator,")
    print("who gives `kentongan broker record DIR FILE` and `kentongan broker invite`. If other records came meanwhile")
    print("(record-out-of-order), take an invitation from there, and make another file with --invitation.")
    print("Then stop the node, `kentongan node join DIR INVITATION`, and start it. The old key opens nothing any more.")
    return 0


def _rotate_into_token(config: Config, args: argparse.Namespace) -> int:
    """The new signing key is made in a token; the present one has the region list it."""
    if args.algorithm is not None or args.transport:
        raise ConfigError("--signing goes with --sealing and --overlap only")
    present = _present(config)
    key, made = HsmKey.make(args.signing)
    with closing(key):
        if key.kid == present.kid:
            raise ConfigError(f"{key.kid} is the key in use: name another object label")
        wish = ask(
            config.keys,
            datetime.now(UTC),
            present=present,
            token_key=key,
            sealing=args.sealing,
            overlap_days=args.overlap,
        )
    print(f"{'made' if made else 'took'} the signing key {key.kid} in the token, valid until {_until(wish)}")
    print("the node hands this to the broker, now or at its next start, and goes on signing with the present key.")
    print(f"Once `kentongan node keys` lists {key.kid}, within {args.overlap} days, write above the first [section] of")
    print(f"node.toml and restart: signing = {encode_toml_string(args.signing)}")
    return 0


def _until(wish: Wish) -> str:
    return f"{wish.new.not_after:%Y-%m-%d}" if wish.new is not None else ""


def _present(config: Config) -> KnownSigner:
    """The key in use, for its names: one in a token is let go again."""
    signer = load_signer(config)
    if isinstance(signer, HsmKey):
        signer.close()
    return signer


def _revoke(args: argparse.Namespace) -> int:
    config = load_config(find_config(args.place))
    try:
        since = datetime.fromisoformat(args.since)
    except ValueError as exc:
        raise ConfigError("--since takes a time such as 2026-03-31T08:00:00Z") from exc
    if since.tzinfo is None:
        raise ConfigError("--since needs a zone: write 2026-03-31T08:00:00Z")
    if args.kid.startswith("U") and is_public(args.kid, Role.USER):
        return _cut(config, args.kid)
    member = _own(config)
    own = [one.kid for one in member.keys] + [one.kid for one in member.sealing_keys] if member else []
    if args.kid not in own:
        raise ConfigError(f"{args.kid} is no key of {config.member} in the region: {', '.join(own)}")
    # Who revokes the key that it signs with needs another one at the same moment.
    present = _present(config)
    signing = present.kid == args.kid
    if signing and config.signing is not None:
        raise ConfigError(
            f"{args.kid} is the key in use, in a token: rotate to another (`kentongan node rotate DIR --signing URI`) "
            "and revoke it then; if it is in wrong hands, have a trustee suspend you first"
        )
    wish = ask(config.keys, datetime.now(UTC), signing=signing, present=present, revoke=args.kid, since=since)
    print(f"{args.kid} counts no more from {since.isoformat()} on; policies that it signed after that neither.")
    return _wished(wish)


def _cut(config: Config, public: str) -> int:
    """The key of the connection is in wrong hands: another one, and a minute to take it up."""
    present, _ = parse_creds(read_secret(config.keys / NATS_CREDS).decode("ascii", "replace"))
    if subject_of(present) != public:
        raise ConfigError(f"{public} is not the key of the present connection, {subject_of(present)}: it opens nothing")
    own, now = _present(config), datetime.now(UTC)
    wish = ask(config.keys, now, signing=False, present=own, transport=True, transport_overlap=TAKE_UP)
    print(f"{public} opens no connection any more {TAKE_UP.seconds} seconds after the region lists another one")
    return _wished(wish)


def _wished(wish: Wish) -> int:
    for what, record in (("signing", wish.new), ("sealing", wish.sealing)):
        if record is not None:
            print(f"made the {what} key {record.kid}, valid until {record.not_after:%Y-%m-%d}")
    if wish.transport is not None:
        print(f"made the key for the connection {wish.transport}")
    print("the node hands this to the broker, and uses what is new once the region lists it: now, or at its next start")
    return 0
