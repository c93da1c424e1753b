#!/usr/bin/env bash
# Runs tests and closes with one line that counts them all; the Makefile calls it once the extension is installed.
#
#   run.sh all        every test
#   run.sh postgres   those that need PostgreSQL
#   run.sh smoke      a few of them
#
# PG_CONFIG, PG_FEATURE and PGRX_HOME say which PostgreSQL, as in the Makefile.
#
# Fails if a test failed, if a test program crashed or did not build, or if one of the runs ran no test.
set -uo pipefail
cd "$(dirname "$0")/../.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0

# Runs a command and adds up the `test result:` lines of all test programs it starts.
run() {
    printf '\033[1m==> %s\033[0m\n' "$*"
    "$@" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]} run_passed run_failed
    read -r run_passed run_failed < <(awk '/^test result: /{ p += $4; f += $6 } END { print p + 0, f + 0 }' "$log")
    if [ "$run_failed" -eq 0 ] && { [ "$status" -ne 0 ] || [ "$run_passed" -eq 0 ]; }; then
        echo "no test failed, yet the run did (status $status, $run_passed tests): counted as one failure"
        run_failed=1
    fi
    passed=$((passed + run_passed))
    failed=$((failed + run_failed))
}

case $1 in
    all)
        run cargo test --no-default-features --no-fail-fast
        run cargo test --release --no-default-features --test exhaustive
        run cargo test --package report
        ;;&
    all | postgres)
        run cargo test --package pg_shared_lru --no-default-features --features "$PG_FEATURE,extension" --lib pg::
        run cargo test --no-default-features --features cluster_tests --test postgres
        run cargo test --package graph_build --no-default-features --features "$PG_FEATURE"
        run bash src/tests/regress.sh
        ;;
    smoke)
        run bash src/tests/regress.sh
        run cargo test --no-default-features --features cluster_tests --test postgres -- lifecycle:: operations:: pages:: registry::
        ;;
esac

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
