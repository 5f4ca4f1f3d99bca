#!/bin/sh
# Installs Kentongan into an empty directory: a Python environment with the program and what it needs at run time, and
# nothing else. No pip, no build tools, nothing that anybody may write to. The Dockerfile runs it; so may you.
#
#   build.sh SOURCE PREFIX        PYTHON names another interpreter than python3
#
# Every downloaded file must have a hash that constraints.txt lists. Sources are built by a setuptools from there as
# well. What is installed in the end comes from the files that passed that check, without asking the index again.
set -eu

source=$(cd "$1" && pwd)
prefix=$2
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_QUIET=1

if [ -e "$prefix/bin" ]; then
    echo "$prefix is not empty: install into a new directory" >&2
    exit 2
fi

# What only developers need is not even fetched: tools.txt builds, run.txt may be installed.
"$python" - "$source" "$scratch" <<'END'
import re, sys, tomllib
from pathlib import Path

source, work = map(Path, sys.argv[1:])
project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["project"]

def names(requirements):
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements}

only_developers = names(project["optional-dependencies"]["dev"]) - names(project["dependencies"])
blocks = re.split(r"^(?=[A-Za-z0-9])", (source / "constraints.txt").read_text("utf-8"), flags=re.M)
pins = {re.match(r"[\w.-]+", block)[0].lower(): block for block in blocks if block.strip()}
(work / "tools.txt").write_text(pins["setuptools"], "utf-8")
(work / "run.txt").write_text("".join(text for name, text in pins.items() if name not in only_developers), "utf-8")
END

"$python" -m venv "$scratch/tools"
tools=$scratch/tools/bin/python
"$tools" -m pip install --require-hashes -r "$scratch/tools.txt"
"$tools" -m pip wheel --require-hashes --no-deps --no-build-isolation -w "$scratch/wheels" -r "$scratch/run.txt"

# Built from a copy: the source may be mounted without write access, and stays as it is.
mkdir "$scratch/source"
(cd "$source" && tar -cf - pyproject.toml README.md LICENSE kentongan protocol node broker deploy) | tar -xf - -C "$scratch/source"
"$tools" -m pip wheel --no-deps --no-build-isolation --no-index -w "$scratch/wheels" "$scratch/source"

"$python" -m venv --without-pip "$prefix"
"$tools" -m pip --python "$prefix/bin/python" install --no-index -f "$scratch/wheels" kentongan
"$tools" -m pip --python "$prefix/bin/python" check

mkdir "$prefix/libexec"
cp "$source/deploy/image/setup.sh" "$source/deploy/image/healthcheck.py" "$prefix/libexec/"
rm -f "$prefix/bin/activate" "$prefix/bin/activate.csh" "$prefix/bin/activate.fish" "$prefix/bin/Activate.ps1"
chmod -R a-w,a+rX "$prefix"
chmod a+x "$prefix/libexec/setup.sh"
