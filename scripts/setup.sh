#!/bin/sh
# Make .venv and install troth into it, editable, with the pinned versions of scripts/constraints.txt.
# Usage: scripts/setup.sh EXTRAS (for example: dev, or dev,bench). A Makefile stamp keeps later calls away.
set -eu
cd "$(dirname "$0")/.."
extras=${1:-dev}
PYTHON=${PYTHON:-$(command -v python3.11 || echo python3)}

say() { printf '%s\n' "setup: $*" >&2; }

missing=""
while IFS='|' read -r package needless; do
    case $package in '' | '#'*) continue ;; esac
    (eval "$needless") >/dev/null 2>&1 || missing="$missing $(echo "$package" | tr -d ' ')"
done <scripts/debian-packages.txt
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then as_root=""
    elif sudo -n true 2>/dev/null; then as_root="sudo"
    else
        say "Debian packages are missing and neither root nor sudo is here. As root, run:"
        say "    apt-get install$missing"
        exit 1
    fi
    say "installing Debian packages:$missing"
    $as_root env DEBIAN_FRONTEND=noninteractive sh -c \
        "apt-get update -q && apt-get install -q -y --no-install-recommends $missing" >&2
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "Python 3.11 or newer is needed; $PYTHON is $("$PYTHON" -V 2>&1). Name another one: make PYTHON=/path/to/python3.11 ..."
    exit 1
fi

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
say "installing troth[$extras] into .venv"
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install -q -c scripts/constraints.txt"
# Without build isolation, so that the build backend is pinned too.
$pip setuptools
$pip --no-build-isolation -e ".[$extras]"
