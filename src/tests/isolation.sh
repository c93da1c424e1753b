#!/usr/bin/env bash
# Runs the tests of src/tests/isolation by PostgreSQL's own pg_isolation_regress, in a server that it makes and removes;
# regress.sh calls it. PG_CONFIG says which PostgreSQL. Where there is no
# isolationtester, none runs, and it is said.
#
#   isolation.sh          all of them
#   isolation.sh NAME…    these
#
# Each test is a race: src/tests/isolation/specs says which, expected what has to come out. setup is the first, for what
# the others use.
set -uo pipefail
cd "$(dirname "$0")"

# Whether a folder has the two programs, and they run.
has_tester() {
    local program
    for program in pg_isolation_regress isolationtester; do
        "$1/$program" -V >/dev/null 2>&1 || return 1
    done
}

# Another server's will do: they only talk to this one, and start its programs.
tester=
for folder in "$(dirname "$("$PG_CONFIG" --pgxs)")/../test/isolation" /usr/lib/postgresql/*/lib/pgxs/src/test/isolation; do
    [ -n "$tester" ] || ! has_tester "$folder" || tester=$folder
done
if [ -z "$tester" ]; then
    echo "this PostgreSQL comes without isolationtester, and no package has another: the tests of races do not run"
    exit 0
fi

# Not where TMPDIR says: a socket's path has 107 bytes at most.
folder=$(mktemp -d /tmp/pg_shared_lru.XXXXXX)
trap 'rm -rf "$folder"' EXIT
cp -r isolation/. "$folder"
# The standby does not exist: a commit that wants one waits. ANALYZE changes a definition: nobody but the tests shall.
cat >"$folder/server.conf" <<'SETTINGS'
shared_preload_libraries = 'pg_shared_lru'
pg_shared_lru.query_cache = on
max_prepared_transactions = 16
synchronous_standby_names = 'nobody'
synchronous_commit = local
pg_shared_lru.naptime = 1s
autovacuum = off
SETTINGS
as=()
if [ "$(id -u)" -eq 0 ]; then
    # PostgreSQL refuses to run as root.
    chown -R postgres "$folder"
    as=(runuser -u postgres --)
fi

# With it an error that passed through Rust has a backtrace.
unset RUST_BACKTRACE
# Seconds after which a step that hangs is cancelled, and fails.
export PGISOLATIONTIMEOUT=${PGISOLATIONTIMEOUT:-60}
names=("$@")
[ ${#names[@]} -gt 0 ] || names=($(basename --suffix .spec isolation/specs/*.spec | grep -vx setup))
tests=(setup "${names[@]}")
cd "$folder"
"${as[@]}" "$tester/pg_isolation_regress" --bindir="$("$PG_CONFIG" --bindir)" --inputdir="$folder" --outputdir="$folder" \
    --temp-instance="$folder/server" --temp-config="$folder/server.conf" --encoding=UTF8 --no-locale "${tests[@]}" \
    | tee "$folder/report"
status=${PIPESTATUS[0]}
failed=$(grep -cE '^not ok|FAILED$|FAILED ' "$folder/report")
[ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
[ ! -s regression.diffs ] || cat regression.diffs
echo "test result: pg_isolation_regress. $((${#tests[@]} - failed)) passed; $failed failed"
[ "$failed" -eq 0 ]
