#!/usr/bin/env bash
# Takes a cluster with the extension from one PostgreSQL to a newer one by pg_upgrade; `make test-upgrade` calls it once
# the extension is installed in both. OLD_PG_CONFIG and PG_CONFIG say which they are.
set -uo pipefail

# Not where TMPDIR says: a socket's path has 107 bytes at most.
folder=$(mktemp -d /tmp/pg_shared_lru.XXXXXX)
old=$("$OLD_PG_CONFIG" --bindir) new=$("$PG_CONFIG" --bindir)
as=()
if [ "$(id -u)" -eq 0 ]; then
    # PostgreSQL refuses to run as root.
    chown postgres "$folder"
    as=(runuser -u postgres --)
fi
running=
clean_up() {
    [ -z "$running" ] || "${as[@]}" "$running/pg_ctl" stop --silent --mode immediate --pgdata "$data"
    rm -rf "$folder"
}
trap clean_up EXIT
cd "$folder"

fail() {
    echo "$*" >&2
    find "$folder" -name '*.log' -o -name '*.txt' | xargs -r tail -n 30 >&2
    echo "test result: pg_upgrade. 0 passed; 1 failed"
    exit 1
}

# initialise <programs> <data> [option…]
initialise() {
    "${as[@]}" "$1/initdb" --no-sync --auth=trust --encoding=UTF8 --locale=C --username=postgres --pgdata="$2" \
        "${@:3}" >"$folder/initdb.log" 2>&1 || fail "initdb fails"
    printf "%s\n" "shared_preload_libraries = 'pg_shared_lru'" "listen_addresses = ''" "fsync = off" \
        "unix_socket_directories = '$folder'" >>"$2/postgresql.conf"
}

start() {
    running=$1 data=$2
    "${as[@]}" "$1/pg_ctl" start --wait --silent --log "$folder/server.log" --pgdata "$2" || fail "no start of $1"
}

stop() {
    "${as[@]}" "$running/pg_ctl" stop --wait --silent --pgdata "$data" || fail "no stop of $running"
    running=
}

sql() {
    "$running/psql" --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --host "$folder" \
        --username postgres "$@" || fail "psql fails: $*"
}

# Programs of version 18 make checksums unless they are told not to, those before do not know the option.
case $("$new/initdb" --version) in *" 18"*) no_checksums=(--no-data-checksums) ;; *) no_checksums=() ;; esac
initialise "$old" "$folder/old"
initialise "$new" "$folder/new" "${no_checksums[@]}"

start "$old" "$folder/old"
sql --dbname postgres --command "CREATE EXTENSION pg_shared_lru" --command "CREATE DATABASE first_release"
sql --dbname first_release --command "CREATE EXTENSION pg_shared_lru VERSION '0.1.0'"
sql --dbname postgres --command "SELECT shared_lru.create_cache('c', 1048576)" >/dev/null
for database in postgres first_release; do
    sql --dbname $database --command "CREATE VIEW v AS SELECT count(*) AS caches FROM shared_lru.slab_classes WHERE class = 0"
done
stop

"${as[@]}" "$new/pg_upgrade" --old-bindir "$old" --new-bindir "$new" --old-datadir "$folder/old" \
    --new-datadir "$folder/new" --username postgres --socketdir "$folder" >"$folder/pg_upgrade.log" 2>&1 \
    || fail "pg_upgrade fails"

start "$new" "$folder/new"
sql --dbname first_release --command "ALTER EXTENSION pg_shared_lru UPDATE"
# In the other database the definition has come along.
sql --dbname first_release --command "SELECT shared_lru.create_cache('c', 1048576)" >/dev/null
for database in postgres first_release; do
    seen=$(sql --dbname $database --command "SELECT shared_lru.put_text('c', 'k', 'v')" \
        --command "SELECT shared_lru.get_text('c', 'k'), caches, extversion FROM v, pg_extension
                    WHERE extname = 'pg_shared_lru'" | tail -n 1)
    version=$(sql --dbname $database --command "SELECT shared_lru.library_version()")
    [ "$seen" = "v|1|$version" ] || fail "in $database there is $seen"
done
echo "$("$old/postgres" --version) to $("$new/postgres" --version), release $version"
stop
echo "test result: pg_upgrade. 1 passed; 0 failed"
