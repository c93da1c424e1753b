#!/usr/bin/env bash
# Runs the tests of src/tests/regress by PostgreSQL's own pg_regress, in a server that it makes and removes, and then those
# of races (isolation.sh); `make installcheck` calls it once the extension is installed. PG_CONFIG says which PostgreSQL.
set -uo pipefail
cd "$(dirname "$0")"
. ./in_server.sh

pg_regress=$(dirname "$("$PG_CONFIG" --pgxs)")/../test/regress/pg_regress
[ -x "$pg_regress" ] || { echo "this PostgreSQL comes without pg_regress: $pg_regress" >&2; exit 1; }

in_server "$pg_regress" regress "shared_preload_libraries = 'pg_shared_lru'" caches refusals rights
status=$?

bash isolation.sh && [ "$status" -eq 0 ]
