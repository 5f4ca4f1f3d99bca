"""The image's steps, run once without a container engine: what the Dockerfile copies into its final stage."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.helping import ROOT


@pytest.fixture(scope="session")
def image() -> Iterator[Path]:
    """The directory that `deploy/image/build.sh` makes. Removed at the end, though nobody may write to it."""
    with tempfile.TemporaryDirectory(prefix="kentongan-image-") as made:
        place = Path(made)
        place.chmod(0o755)
        script = ROOT / "deploy" / "image" / "build.sh"
        env = {**os.environ, "PYTHON": sys.executable}
        built = subprocess.run(
            ["/bin/sh", str(script), str(ROOT), str(place / "opt")],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert built.returncode == 0, built.stderr
        yield place / "opt"
        # Owners may always make their own directories writable again.
        for directory, _, _ in os.walk(place):
            Path(directory).chmod(0o755)
        shutil.rmtree(place / "opt")
