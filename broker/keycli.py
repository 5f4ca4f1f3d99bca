"""`kentongan broker keys` and `rotate`: how long the region's keys last, and new ones for the broker.

Private keys are made here and never leave. Nothing is ever overwritten.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from broker import bustls, governcli, renewal
from broker.accounts import Accounts
from broker.busside import bus_lives
from broker.config import Config, load_config
from broker.governing import load_chain
from broker.keywatch import region_lives
from broker.ownkey import place as key_place
from broker.ownkey import present_kid
from broker.proposals import Outcome
from protocol.errors import ConfigError
from protocol.hsm import HsmKey
from protocol.keylife import as_document, ending, parse_within, table
from protocol.process import encode_toml_string


def add_actions(actions: Any) -> None:
    """Mount the commands about keys under `kentongan broker`."""
    keys = actions.add_parser("keys", help="list the keys of broker, members and trustees, and how long they last")
    keys.add_argument("directory", type=Path)
    keys.add_argument("--within", default="30d", metavar="DAYS", help="end with 1 if one in use ends within (30d)")
    keys.add_argument("--json", action="store_true", help="a JSON object a line")
    keys.set_defaults(run=_keys)
    rotate = actions.add_parser("rotate", help="make a new signing key; used once the trustees have named it")
    rotate.add_argument("directory", type=Path)
    rotate.add_argument("--signing", metavar="URI", help="the new signing key in a token (pkcs11:…), made if need be")
    rotate.add_argument("--overlap", type=int, default=30, metavar="DAYS", help="how long the old key stays valid")
    rotate.add_argument("--tls", action="store_true", help="only the bus server's certificate: another one, at once")
    rotate.add_argument(
        "--tls-name", action="append", default=[], metavar="NAME", help="what it names (default: as the present one)"
    )
    rotate.add_argument(
        "--authority", action="store_true", help="only the bus's own authority: another one beside it, see --finish"
    )
    rotate.add_argument(
        "--finish", action="store_true", help="with --authority: only the new one counts, once the nodes know it"
    )
    rotate.add_argument(
        "--bus",
        action="store_true",
        help="only the keys of the bus's operator and accounts; used from the next start on",
    )
    rotate.set_defaults(run=_rotate)


def _keys(args: argparse.Namespace) -> int:
    within = parse_within(args.within)
    config = load_config(args.directory)
    now = datetime.now(UTC)
    signing = present_kid(config)
    lives = [
        *region_lives(load_chain(config.region, now).state, signing, now),
        *bustls.lives(config, now),
        *bus_lives(config, now),
    ]
    if args.json:
        for life in lives:
            print(msgspec.json.encode(as_document(life, now)).decode())
    else:
        for line in table(lives, now):
            print(line)
        if (where := key_place(config)) is not None:
            print(f"the signing key {signing} is in a token: {where}")
    return 1 if ending(lives, now, within) else 0


def _renew_certificate(config: Config, names: list[str]) -> int:
    if config.nats.tls_cert != config.keys / bustls.DIRECTORY / bustls.SERVER[0]:
        raise ConfigError("the certificate in [nats] is not of the region's own authority: renew it where it is from")
    made = bustls.renew_server(config.keys, names, datetime.now(UTC))
    print(f"made the certificate {made.serial}, valid until {made.not_after:%Y-%m-%d}")
    print("a running broker shows it to new connections within a second; those that are there stay")
    return 0


def _change_authority(config: Config, args: argparse.Namespace) -> int:
    if config.nats.ca_file != config.keys / bustls.DIRECTORY / bustls.AUTHORITY[0]:
        raise ConfigError("the authority in [nats] is not the region's own: change it where it is from")
    now = datetime.now(UTC)
    if args.finish:
        made = bustls.finish_authority(config.keys, args.tls_name, now)
        print(f"made the certificate {made.serial}, valid until {made.not_after:%Y-%m-%d}; the old authority is out")
        print("a node that was away since the new one was made needs another invitation: `kentongan broker invite`")
        return 0
    made = bustls.begin_authority(config.keys, load_chain(config.region, now).state.region.region, now)
    print(
        f"made the authority {made.serial}, valid until {made.not_after:%Y-%m-%d}; the one before it counts beside it"
    )
    print("every connected node takes it, and a certificate of it, within seconds (`node.bus_followed` in its log);")
    print("once all have, `kentongan broker rotate DIR --authority --finish`")
    return 0


def _change_bus(config: Config, overlap: int) -> int:
    until = datetime.now(UTC) + timedelta(days=overlap)
    place = config.keys / "nats"
    # Lost ones are made anew; then there is nothing that nodes could follow from.
    accounts = Accounts.load(place) if (place / "operator.nk").exists() else Accounts.create(place)
    members = accounts.renew(int(until.timestamp()))
    print(f"made new keys for the bus's operator, its own accounts and those of {members} members: restart the broker")
    print(f"nodes take what is new within seconds of that; until {until:%Y-%m-%d} the members' old accounts count too")
    if config.nats.mode == "external":
        print("first `python -m deploy.nats operator` again: stop all servers, give each the new file, start them")
    return 0


def _rotate(args: argparse.Namespace) -> int:
    config = load_config(args.directory)
    if not (0 if args.bus else 1) <= args.overlap <= renewal.KEY_LIFE.days:
        raise ConfigError(f"--overlap is 1 to {renewal.KEY_LIFE.days} days")
    if args.tls and args.signing is not None:
        raise ConfigError("--tls makes another certificate, --signing another signing key: one after the other")
    if args.authority:
        return _change_authority(config, args)
    if args.bus:
        return _change_bus(config, args.overlap)
    if args.tls:
        return _renew_certificate(config, args.tls_name)
    if args.signing is not None:
        return _rotate_into_token(config, args)
    fresh, outcome = renewal.ask(config, datetime.now(UTC), args.overlap)
    print(f"made the signing key {fresh.kid}, valid until {fresh.not_after:%Y-%m-%d}")
    return _tell(args, outcome)


def _rotate_into_token(config: Config, args: argparse.Namespace) -> int:
    key, made = HsmKey.make(args.signing)
    with closing(key):
        fresh, outcome = renewal.ask(config, datetime.now(UTC), args.overlap, key)
    what = "made" if made else "took"
    print(f"{what} the signing key {fresh.kid} in the token, valid until {fresh.not_after:%Y-%m-%d}")
    _tell(args, outcome)
    print("Then write above the first [section] of broker.toml, when you like (keys/signing-moved.json says it until")
    print(f"then): signing = {encode_toml_string(args.signing)}")
    return 0


def _tell(args: argparse.Namespace, outcome: Outcome) -> int:
    governcli.tell(args.directory, outcome)
    print("the broker signs with it once the trustees' record is taken: within a second, or at its next start")
    return 0
