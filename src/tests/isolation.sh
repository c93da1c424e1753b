#!/usr/bin/env bash
# Runs the tests of src/tests/isolation by PostgreSQL's own pg_isolation_regress, in a server that it makes and removes;
# `make installcheck` calls it once the extension is installed. PG_CONFIG says which PostgreSQL. One that comes without
# isolationtester runs none, and it is said.
#
#   isolation.sh          all of them
#   isolation.sh NAME…    these
#
# Each test is a race: src/tests/isolation/specs says which, expected what has to come out. setup is the first, for what
# the others use.
set -uo pipefail
cd "$(dirname "$0")"

tester=$(dirname "$("$PG_CONFIG" --pgxs)")/../test/isolation
for program in pg_isolation_regress isolationtester; do
    [ -x "$tester/$program" ] || { echo "this PostgreSQL comes without $program: the tests of races do not run"; exit 0; }
done

# Not where TMPDIR says: a socket's path has 107 bytes at most.
folder=$(mktemp -d /tmp/pg_shared_lru.XXXXXX)
trap 'rm -rf "$folder"' EXIT
cp -r isolation/. "$folder"
# The standby does not exist: a commit that wants one waits. Nothing but the tests changes definitions.
cat >"$folder/server.conf" <<'SETTINGS'
shared_preload_libraries = 'pg_shared_lru'
pg_shared_lru.query_cache = on
max_prepared_transactions = 16
synchronous_standby_names = 'nobody'
synchronous_commit = local
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
[ -z "${RESULTS:-}" ] || cp output_iso/results/*.out results/*.out "$RESULTS" 2>/dev/null
echo "test result: pg_isolation_regress. $((${#tests[@]} - failed)) passed; $failed failed"
[ "$failed" -eq 0 ]
