"""Exit code 0 if the broker or the node of this container serves, 1 if neither does; for images without curl.

healthcheck.py [PLACE ...]    a state directory, a settings file or a URL; by default the image's state directories,
                              and where there is none the addresses under which broker and node tell their health

Where to ask, and whether by HTTPS, stands in the `[http]` of the settings. HTTPS is believed with the configured
certificate alone, whatever name it is for, and also when it has run out: clients refuse it then, but to restart the
process mends nothing. No client certificate is needed: none is asked for at this address.
"""

from __future__ import annotations

import ssl
import sys
import tomllib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

STATES = ("/var/lib/kentongan/broker", "/var/lib/kentongan/node")
DEFAULTS = ("http://127.0.0.1:8440/healthz", "http://127.0.0.1:8480/healthz")
FILES = {"broker.toml": 8480, "node.toml": 8440}
ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - is asked on the loopback
SECONDS = 3.0
NO_TIMES = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which Python has no name for."""


def places() -> tuple[str, ...]:
    """What to ask if nothing is said: what was set up in this image."""
    found = tuple(state for state in STATES if any(Path(state, name).is_file() for name in FILES))
    return found or DEFAULTS


def doors(place: str) -> Iterator[tuple[str, Path | None]]:
    """Addresses that a place stands for, with the certificate if it is HTTPS."""
    if "://" in place:
        yield place, None
        return
    path = Path(place)
    for file in (path / name for name in FILES) if path.is_dir() else (path,):
        if not file.is_file():
            continue
        http = tomllib.loads(file.read_text("utf-8")).get("http", {})
        host = ANYWHERE.get(http.get("host", ""), http.get("host", ""))
        host = f"[{host}]" if ":" in host else host
        cert = file.parent / http["tls_cert"] if "tls_cert" in http else None
        scheme = "http" if cert is None else "https"
        yield f"{scheme}://{host}:{http.get('port', FILES.get(file.name, 8440))}/healthz", cert


def trusting(cert: Path) -> ssl.SSLContext:
    """That certificate, and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_TIMES
    context.load_verify_locations(cert)
    return context


def serves(url: str, cert: Path | None) -> bool:
    """Whether this address answers with 200, whatever proxy the environment names."""
    try:
        https = [HTTPSHandler(context=trusting(cert))] if cert is not None else []
        with build_opener(ProxyHandler({}), *https).open(url, timeout=SECONDS) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def main(asked: list[str]) -> int:
    """The exit code."""
    try:
        return 0 if any(serves(*door) for place in asked or places() for door in doors(place)) else 1
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        sys.stderr.write(f"the settings cannot be read: {type(exc).__name__}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
