"""The region of the old stores, to go on: its keys and records are made from the same seed again."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import msgspec

from broker import setup
from node.cli import main as node_command
from protocol.invitation import save_invitation
from protocol.keys import write_secret
from tests.federation import Federation
from tests.stores import COORDINATOR, FILES, MEMBERS, RESUMED, SEED
from tests.stores.schema import longer

TOKEN = "a-token-of-the-tests-own"


def resumed(directory: Path) -> Federation:
    """The region, a day later, with what lies in the directory: `ledger.db`, `id/node.db`. What `jp` had is lost."""
    world = Federation(directory, MEMBERS, seed=SEED, coordinator=COORDINATOR, begins=RESUMED)
    # Not the same ids and salts once more.
    world.rng.seed("later")
    return world


def node_directory(world: Federation, place: Path, port: int) -> Path:
    """The files of the node `id`, with no store; returns where its store belongs."""
    node_command(["node", "init", str(place), "--member", "id", "--port", str(port)])
    keys = place / "keys"
    for name in ("signing.pem", "sealing.json", "fingerprint.key"):
        (keys / name).unlink()
    world.keys["id"].save(keys / "signing.pem")
    world.sealing["id"].save(keys / "sealing.json")
    write_secret(keys / "fingerprint.key", world.fingerprints["id"])
    write_secret(keys / "nats.creds", b"none")
    save_invitation(place / "invitation.json", world.invitation("id"))
    _let_in(place / "node.toml")
    return place / "data" / FILES["node"]


def broker_directory(world: Federation, place: Path, port: int) -> Path:
    """The files of the broker, with no ledger; returns where its ledger belongs."""
    setup.init(place, "sim", http_port=port, nats_port=0)
    keys = place / "keys"
    (keys / "signing.pem").unlink()
    world.broker_key.save(keys / "signing.pem")
    (keys / "broker.json").write_bytes(msgspec.json.encode(world.region.broker_keys))
    for path in (place / "governance").glob("*.json"):
        path.unlink()
    for number, record in enumerate(world.records):
        (place / "governance" / f"{number:06}.json").write_text(record)
    _let_in(place / "broker.toml")
    return place / "data" / FILES["broker"]


def _let_in(settings: Path) -> None:
    hashed = hashlib.sha256(TOKEN.encode()).hexdigest()
    settings.write_text(re.sub(r'sha256 = "\w+"', f'sha256 = "{hashed}"', settings.read_text("utf-8")), "utf-8")


def main() -> int:
    """`python -m tests.stores.region node run …`: the program, with a step before its first one."""
    import broker.upgradecli  # noqa: PLC0415
    import node.upgradecli  # noqa: PLC0415
    from deploy import cli  # noqa: PLC0415

    for kind, module in (("broker", broker.upgradecli), ("node", node.upgradecli)):
        module.SCHEMA = longer(kind)  # type: ignore[attr-defined]
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
