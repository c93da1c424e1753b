#!/usr/bin/env bash
# Checks the checker: builds the extension with one fault at a time, and runs the tests of the query cache against it.
# They have to fail. `make mutants` calls it; it takes about a minute for each fault.
#
#   mutants.sh            all faults in src/tests/mutants
#   mutants.sh NAME…      these
#
# A fault is a patch. Its first line says what is wrong; the second, which test of src/tests/postgres/queries.rs has to find
# it, each time, or of another file, with its name and "::" before the test's. The random checker of that file,
# or else of queries.rs, is tried as well, and has to find those that name no test. A patch that does not apply
# any more ends the run: what it changes has to be looked at anew. The first build has no fault, and has to pass.
#
# What else finds it is printed, too: specifications of races (src/tests/isolation).
#
# Seconds are printed: of the checker those of its comparing, of a test all, with the start of a server.
#
# PG_CONFIG, PG_FEATURE, PGRX_HOME and CARGO_TARGET_DIR are those of the Makefile. READS says how many reads the random
# checker makes (100,000), CARGO how cargo is called.
#
# Sources and builds with faults lie in a folder of their own below the target folder; the server that runs them is a copy,
# in /tmp, where the server's user can read it. Neither the sources nor the installed extension change.
set -euo pipefail
cd "$(dirname "$0")/../.."

sources=$PWD
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$target/mutants
reads=${READS:-100000}
read -ra cargo <<<"${CARGO:-cargo}"
queries=queries::whatever_writers_do_a_cached_result_is_the_querys
marked=marked::whatever_writers_do_a_marked_statement_returns_what_it_would

server=$(mktemp -d /tmp/pg_shared_lru-mutants.XXXXXX)
trap 'rm -rf "$server"' EXIT
chmod 755 "$server"
# Its programs find each other by the way from one folder to the other.
for folder in bindir pkglibdir sharedir; do
    from=$(readlink -f "$("$PG_CONFIG" --$folder)")
    mkdir -p "$server$from"
    cp -a "$from/." "$server$from"
    declare "$folder=$server$from"
done
mkdir -p "$work/logs" "$work/built"
install -m 644 pg_shared_lru.control sql/pg_shared_lru--*.sql "$sharedir/extension/"

# The sources as they are now. All of them are new, so that cargo takes nothing for built that had a fault then.
rm -rf "$work/sources"
mkdir "$work/sources"
tar --create --exclude ./target --exclude ./.git . | tar --extract --touch --directory "$work/sources"

# Makes a fault, or takes it back.
change() {
    patch --quiet --strip 1 --fuzz 0 --no-backup-if-mismatch --directory "$work/sources" "${@:2}" <"src/tests/mutants/$1.patch"
}

# Builds what lies there. With settings that build fast.
build() {
    (cd "$work/sources" && env CARGO_TARGET_DIR="$work/target" CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_INCREMENTAL=true \
        "${cargo[@]}" build --release --locked --package pg_shared_lru --lib --no-default-features \
        --features "$PG_FEATURE,extension") >"$work/logs/$1.build" 2>&1 \
        || { tail -n 40 "$work/logs/$1.build" >&2; echo "$1 does not build" >&2; exit 1; }
    install -m 755 "$work/target/release/libpg_shared_lru.so" "$work/built/$1.so"
}

# Runs tests against a build; their output goes into this file. A fault may make one wait for ever.
run() {
    local log=$2
    install -m 755 "$work/built/$1.so" "$pkglibdir/pg_shared_lru.so"
    shift 2
    env PG_CONFIG="$bindir/pg_config" QUERY_CHECK_READS="$reads" timeout 400 \
        "$tests" --nocapture "$@" >"$work/logs/$log" 2>&1
}

# The specifications of races that fail with what is installed.
failed_races() {
    env PG_CONFIG="$bindir/pg_config" PGISOLATIONTIMEOUT=20 timeout 400 bash src/tests/isolation.sh 2>&1 \
        | tee "$work/logs/$1.races" | sed -nE 's/^not ok [0-9]+ +- ([a-z-]+) .*/\1/p; s/^test ([a-z-]+) .*FAILED.*/\1/p' \
        | paste -sd ' '
}

row() { printf '| %-32s | %-34s | %s | %s |\n' "$@"; }

"${cargo[@]}" test --locked --no-default-features --features cluster_tests --test postgres --no-run
tests=$("${cargo[@]}" test --locked --no-default-features --features cluster_tests --test postgres --no-run \
    --message-format json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*postgres-[^"]*\)".*/\1/p' | tail -n 1)

names=("$@")
[ ${#names[@]} -gt 0 ] || names=($(basename --suffix .patch src/tests/mutants/*.patch))
build none
for name in "${names[@]}"; do
    change "$name" || { echo "$name: what it changes is not there any more" >&2; exit 1; }
    build "$name"
    change "$name" --reverse
done
run none none queries:: marked:: query_options:: query_settings:: unchecked:: trusted:: || { tail -n 40 "$work/logs/none" >&2; echo "without a fault the tests fail" >&2; exit 1; }

row fault "random checker, of $reads reads" 'directed test' 'specifications of races'
row --- --- --- ---
missed=0
for name in "${names[@]}"; do
    by_random=no by_test=-
    test=$(sed -n 's/^Test: //p' "src/tests/mutants/$name.patch")
    checker=$queries
    case $test in
    marked::*) checker=$marked ;;
    query_*::* | unchecked::* | trusted::*) ;;
    ?*) test=queries::$test ;;
    esac
    if ! run "$name" "$name.random" --exact "$checker"; then
        # What it has found, not that it found the cache unused.
        grep -q '\(cached\|marked\) .*, direct ' "$work/logs/$name.random" && \
            by_random=$(grep -o '[0-9]* results compared in [0-9.]* s' "$work/logs/$name.random" | awk '{ print $5 " s, " $1 " reads" }')
    fi
    [ -z "$test" ] || run "$name" "$name.test" --exact "$test" \
        || by_test="$(sed -n 's/^test result: .* finished in \([0-9.]*\)s$/\1 s, /p' "$work/logs/$name.test")$test"
    row "$name" "$by_random" "$by_test" "$(failed_races "$name")"
    [ -z "$test" ] || [ "$by_test" != - ] || { echo "$name: $test has not found it" >&2; missed=$((missed + 1)); }
    [ -n "$test" ] || [ "$by_random" != no ] || missed=$((missed + 1))
done
echo "${#names[@]} faults, $missed of them not found"
[ "$missed" -eq 0 ]
