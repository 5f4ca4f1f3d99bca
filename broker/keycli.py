"""`kentongan broker keys` and `rotate`: how long the region's keys last, and new ones for the broker.

Private keys are made here and never leave. Nothing is ever overwritten.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from broker import bustls, governcli, renewal
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
    rotate.set_defaults(run=_rotate)


def _keys(args: argparse.Namespace) -> int:
    within = parse_within(args.within)
    config = load_config(args.directory)
    now = datetime.now(UTC)
    signing = present_kid(config)
    lives = [*region_lives(load_chain(config.region, now).state, signing, now), *bustls.lives(config, now)]
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


def _rotate(args: argparse.Namespace) -> int:
    config = load_config(args.directory)
    if not 1 <= args.overlap <= renewal.KEY_LIFE.days:
        raise ConfigError(f"--overlap is 1 to {renewal.KEY_LIFE.days} days")
    if args.tls and args.signing is not None:
        raise ConfigError("--tls makes another certificate, --signing another signing key: one after the other")
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
