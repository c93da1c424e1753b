#!/usr/bin/env bash
# Runs the tests of src/tests/isolation by PostgreSQL's own pg_isolation_regress, in a server that it makes and removes;
# regress.sh calls it. PG_CONFIG says which PostgreSQL. Where there is no isolationtester, none runs, and it is said.
#
#   isolation.sh          all of them
#   isolation.sh NAME…    these
#
# Each test is a race: src/tests/isolation/specs says which, expected what has to come out. setup is the first, for what
# the others use.
set -uo pipefail
cd "$(dirname "$0")"
. ./in_server.sh

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

# Seconds after which a step that hangs is cancelled, and fails.
export PGISOLATIONTIMEOUT=${PGISOLATIONTIMEOUT:-60}
names=("$@")
[ ${#names[@]} -gt 0 ] || names=($(basename --suffix .spec isolation/specs/*.spec | grep -vx setup))
# The standby does not exist: a commit that wants one waits. ANALYZE changes a definition: nobody but the tests shall.
in_server "$tester/pg_isolation_regress" isolation "\
shared_preload_libraries = 'pg_shared_lru'
pg_shared_lru.query_cache = on
max_prepared_transactions = 16
synchronous_standby_names = 'nobody'
synchronous_commit = local
pg_shared_lru.naptime = 1s
autovacuum = off" setup "${names[@]}"
