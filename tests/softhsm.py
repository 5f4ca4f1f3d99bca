"""A token for the tests: SoftHSM, a real PKCS#11 module whose token is a directory. Without it they are skipped."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from deploy import cli
from protocol.keys import write_secret

PLACES = ("/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/lib")
MODULE = next((one for place in PLACES if (one := Path(place, "softhsm", "libsofthsm2.so")).is_file()), None)
UTIL = shutil.which("softhsm2-util")
PIN = "271828"


@dataclass
class Token:
    """A token, which is a directory."""

    home: Path

    @property
    def pin(self) -> Path:
        return self.home / "pin"

    def uri(self, label: str, pin: Path | None = None) -> str:
        return f"pkcs11:token=CERT;object={label}?module-path={MODULE}&pin-source=file:{pin or self.pin}"

    def pull_out(self) -> None:
        (self.home / "tokens").rename(self.home / "pulled")

    def put_in(self) -> None:
        (self.home / "pulled").rename(self.home / "tokens")


@contextmanager
def open_token(home: Path) -> Iterator[Token]:
    """The module reads its settings when it starts: one token for all tests of a file, each with labels of its own."""
    if find_spec("pkcs11") is None:
        pytest.skip("python-pkcs11 is not installed")
    if MODULE is None or UTIL is None:
        pytest.skip("SoftHSM is missing: softhsm2-util, its module")
    import pkcs11  # noqa: PLC0415 - not there everywhere

    (home / "tokens").mkdir()
    settings = home / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {home}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    write_secret(home / "pin", f"{PIN}\n".encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(settings))
        made = [UTIL, "--init-token", "--free", "--label", "CERT", "--so-pin", "314159", "--pin", PIN]
        subprocess.run(made, check=True, capture_output=True)
        yield Token(home)
        pkcs11.unload(str(MODULE))


def kentongan(*arguments: str | Path) -> tuple[int, str]:
    """A command as an operator gives it: its exit code, and all that it says."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = cli.main([str(one) for one in arguments], log=False)
    return code, said.getvalue()
