#!/usr/bin/env bash
# Installs the Debian package in a new Debian that has nothing but PostgreSQL, uses it, and takes it away again; `make
# test-deb` calls it. Needs root, for it changes into that system's root folder.
#
#   package.sh <package.deb>
set -uo pipefail

deb=$(realpath "$1")
name=$(dpkg-deb --field "$deb" Package)
major=$(echo "$name" | sed 's/[^0-9]//g')
root=$(mktemp -d /tmp/pg_shared_lru.XXXXXX)
chmod 755 "$root"
in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
clean_up() {
    in_root pg_ctlcluster "$major" main stop -m immediate >/dev/null 2>&1
    umount "$root/proc" 2>/dev/null
    rm -rf --one-file-system "$root"
}
trap clean_up EXIT
fail() {
    echo "$*" >&2
    cat "$root"/var/log/postgresql/*.log 2>/dev/null | tail -n 20 >&2
    echo "test result: deb. 0 passed; 1 failed"
    exit 1
}
sql() { in_root runuser -u postgres -- psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$@"; }

. /etc/os-release
mirror=$(sed -n 's/^[^#]*\(https\?:[^ ]*debian\)\/\? .*/\1/p; s/^URIs: *\(https\?:[^ ]*debian\)\/\?$/\1/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n 1)
printf '\033[1m==> A new Debian %s\033[0m\n' "$VERSION_CODENAME"
debootstrap --variant=minbase --include="postgresql-$major" "$VERSION_CODENAME" "$root" "${mirror:-http://deb.debian.org/debian}" \
    >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; rm -f "$root.log"; fail "no new Debian"; }
rm -f "$root.log"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc" || fail "no /proc there"

cp "$deb" "$root/package.deb"
in_root dpkg --install /package.deb || fail "the package does not install"
in_root test -f "/etc/postgresql/$major/main/postgresql.conf" || in_root pg_createcluster "$major" main || fail "no cluster"
echo "shared_preload_libraries = 'pg_shared_lru'" >>"$root/etc/postgresql/$major/main/postgresql.conf"
in_root pg_ctlcluster "$major" main start || fail "the server does not start"
sql --command "CREATE EXTENSION pg_shared_lru" || fail "the extension is not there"
sql --command "SELECT shared_lru.create_cache('c', 1048576)" --command "SELECT shared_lru.put_text('c', 'k', 'v')" || fail "no put"
[ "$(sql --command "SELECT shared_lru.get_text('c', 'k')")" = v ] || fail "another session does not see the value"
[ "$(sql --command "SELECT shared_lru.library_version()")" = "$(dpkg-deb --field "$deb" Version | sed 's/-.*//')" ] \
    || fail "the package has another version than its library"
in_root pg_ctlcluster "$major" main stop || fail "the server does not stop"
in_root dpkg --purge "$name" || fail "the package does not go away"
left=$(find "$root/usr" -name '*shared[_-]lru*')
[ -z "$left" ] || fail "the package leaves $left"
echo "$(dpkg-deb --field "$deb" Package Version Depends | tr '\n' ' ')"
echo "test result: deb. 1 passed; 0 failed"
