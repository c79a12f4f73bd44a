#!/bin/sh
# Install those Debian packages of LIST... that are missing (the format is told in debian-packages.txt).
# Usage: PYTHON=/path/to/python3 scripts/packages.sh LIST...
set -eu

say() { printf '%s\n' "setup: $*" >&2; }

missing=""
while IFS='|' read -r package needless; do
    case $package in '' | '#'*) continue ;; esac
    (eval "$needless") >/dev/null 2>&1 || missing="$missing $(echo "$package" | tr -d ' ')"
done <<LIST
$(cat "$@")
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
