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
missing=""
while IFS='|' read -r package needless; do
    case $package in '' | '#'*) continue ;; esac
    (eval "$needless") >/dev/null 2>&1 || missing="$missing $(echo "$package" | tr -d ' ')"
done <<LIST
$(cat $lists)
LIST
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then as_root=""
    elif sudo -n true 2>/dev/null; then as_root="sudo"
    else
        say "Debian packages are missing and neither root nor sudo is here. As root, run:"
        say "    apt-get install$missing"
        exit 1
    fi
    say "installing Debian packages:$missing"
    # Database servers come with a service that starts by itself, on data of its own. Nobody asked for that here.
    $as_root env DEBIAN_FRONTEND=noninteractive sh -c '
        policy=/usr/sbin/policy-rc.d cluster=/etc/postgresql-common/createcluster.d/troth.conf
        made=""
        trap "rm -f \$made" EXIT
        if [ ! -e $policy ]; then
            printf "#!/bin/sh\nexit 101\n" >$policy && chmod 755 $policy && made=$policy
        fi
        mkdir -p ${cluster%/*} && echo "create_main_cluster = false" >$cluster && made="$made $cluster"
        apt-get update -q && apt-get install -q -y --no-install-recommends "$@"' sh $missing >&2
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
if command -v mariadb_config >/dev/null; then
    MYSQLCLIENT_CFLAGS=$(mariadb_config --cflags) MYSQLCLIENT_LDFLAGS=$(mariadb_config --libs)
    export MYSQLCLIENT_CFLAGS MYSQLCLIENT_LDFLAGS
fi
$pip --no-build-isolation -e ".[$extras]"
