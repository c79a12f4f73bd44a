#!/bin/sh
# Make .venv and install troth into it, editable, with the pinned versions of scripts/constraints.txt.
# Usage: scripts/setup.sh EXTRAS (for example: dev, or dev,bench). A Makefile stamp keeps later calls away.
# With the extra "databases" it also installs the Debian packages of scripts/debian-databases.txt.
set -eu
cd "$(dirname "$0")/.."
extras=${1:-dev}
PYTHON=${PYTHON:-$(command -v python3.11 || echo python3)}

say() { printf '%s\n' "setup: $*" >&2; }

lists=scripts/debian-packages.txt
case ",$extras," in *,databases,*) lists="$lists scripts/debian-databases.txt" ;; esac
PYTHON="$PYTHON" scripts/packages.sh $lists
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "Python 3.11 or newer is needed; $PYTHON is $("$PYTHON" -V 2>&1). Name another one: make PYTHON=/path/to/python3.11 ..."
    exit 1
fi

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
say "installing troth[$extras] into .venv"
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install -q -c scripts/constraints.txt"
# Without build isolation, so that the build backend is pinned too.
$pip setuptools
if command -v mariadb_config >/dev/null; then
    MYSQLCLIENT_CFLAGS=$(mariadb_config --cflags) MYSQLCLIENT_LDFLAGS=$(mariadb_config --libs)
    export MYSQLCLIENT_CFLAGS MYSQLCLIENT_LDFLAGS
fi
$pip --no-build-isolation -e ".[$extras]"
