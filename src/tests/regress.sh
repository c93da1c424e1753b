#!/usr/bin/env bash
# Runs the tests of src/tests/regress by PostgreSQL's own pg_regress, in a server that it makes and removes, and then those
# of races (isolation.sh); `make installcheck` calls it once the extension is installed. PG_CONFIG says which PostgreSQL.
set -uo pipefail
cd "$(dirname "$0")"
here=$PWD

pg_regress=$(dirname "$("$PG_CONFIG" --pgxs)")/../test/regress/pg_regress
[ -x "$pg_regress" ] || { echo "this PostgreSQL comes without pg_regress: $pg_regress" >&2; exit 1; }

# Not where TMPDIR says: a socket's path has 107 bytes at most.
folder=$(mktemp -d /tmp/pg_shared_lru.XXXXXX)
trap 'rm -rf "$folder"' EXIT
cp -r regress/. "$folder"
echo "shared_preload_libraries = 'pg_shared_lru'" >"$folder/server.conf"
as=()
if [ "$(id -u)" -eq 0 ]; then
    # PostgreSQL refuses to run as root.
    chown -R postgres "$folder"
    as=(runuser -u postgres --)
fi

# With it an error that passed through Rust has a backtrace.
unset RUST_BACKTRACE
tests=(caches refusals rights)
cd "$folder"
"${as[@]}" "$pg_regress" --bindir="$("$PG_CONFIG" --bindir)" --inputdir="$folder" --outputdir="$folder" \
    --temp-instance="$folder/server" --temp-config="$folder/server.conf" --encoding=UTF8 --no-locale "${tests[@]}" \
    | tee "$folder/report"
status=${PIPESTATUS[0]}
failed=$(grep -cE '^not ok|FAILED$|FAILED ' "$folder/report")
[ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
[ ! -s regression.diffs ] || cat regression.diffs
echo "test result: pg_regress. $((${#tests[@]} - failed)) passed; $failed failed"

bash "$here/isolation.sh" && [ "$failed" -eq 0 ]
